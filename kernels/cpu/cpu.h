/* cpu.h - what the files of the CPU backend share: its state, repacked weights, and the table of inner functions ("kernels").
 *
 * The work is cut in two layers. matmul.c, attention.c and rows.c split an operation of kernels.h over the threads and know no
 * instruction set; `struct cpu_kernels` holds what runs inside a thread, once per instruction set:
 *   reference.c        plain C, the definition
 *   kernels_avx2.c     simd.h, row_template.h (with quantize_template.h and exp_template.h in place of its plainest loops),
 *                      matmul_template.h, attention_template.h and probe_template.h compiled for AVX2
 *   kernels_avxvnni.c  the same for AVX2 with AVX-VNNI
 *   kernels_avx512.c   the same for AVX-512; with amx_tiles.h, matrix products of many rows on tiles, also for AMX
 *
 * weight_layout.h draws how repacked weights lie; weight_blocks.h turns a block of them into vectors.
 */
#ifndef FORESAY_KERNELS_CPU_H
#define FORESAY_KERNELS_CPU_H

#include <limits.h>

#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

enum {
    LINE = 64,             /* bytes of a cache line and of a 512-bit vector */
    PREFETCH_BYTES = 8192, /* a thread that reads 30 to 60 GB/s asks for a line 0.27 to 0.14 us before it needs it */
    TOKEN_TILE = 16, /* most activation rows of one inner matmul call: 16 accumulators and 8 code vectors fill 32 registers */
    MAX_SLICE_ROWS = 64,
    ATTENTION_TILE = 6,   /* most query vectors of one inner attention call: 6 x 4 accumulators */
    ATTENTION_CHUNK = 64, /* positions between two rescalings of the running softmax; part of the definition */
    ATTENTION_SPAN = 512, /* positions whose sums are made apart and then joined; part of the definition */
    MAX_HEAD_DIM = 512,
    GEMM_ROWS = 6, /* rows and columns of the inner tile of gemm */
    GEMM_COLS = 16,
};

/* Weights lie one after the other in such chunks, see memory.c. */
struct weight_chunk {
    struct weight_chunk *next;
    uint8_t *data;
    size_t bytes, used; /* used: a multiple of LINE */
    int n_weights;
};

/* After a product with a weight, what was read next the last time: a model's weights follow each other step after step. */
struct weight_ahead {
    const uint8_t *follower; /* the data of that product's first weight; never read through */
    const uint8_t *at[];     /* where each thread began */
};

struct weight {
    enum dtype type;
    int n_rows, n_cols, n_groups;
    size_t group_bytes, group_stride; /* from one group to the next: group_bytes, or with a pair's other group between them */
    uint8_t *data;
    bool comes_unasked; /* for one row nothing is asked for ahead, see tune.c */
    struct weight_chunk *chunk;
    struct weight_ahead *ahead;
};

/* 16 * n_groups output rows for n_rows activation rows (at most cpu_kernels.slice_rows). */
struct matmul_slice {
    const struct weight *weight;
    const struct activation *in;
    int first_group, n_groups;
    int first_row, n_rows;
    float *out; /* of first_group and first_row: [n_rows, out_stride] */
    int out_stride;
    bool add;
};

/* One row of a struct activation; f or q may be NULL. */
struct activation_row {
    float *f;
    int8_t *q;
    float *d, *ds;
    int32_t *sum, *sum16;
};

static inline struct activation_row activation_row_at(const struct activation *a, int row) {
    const size_t cell = (size_t)row * (size_t)a->n_cols, block = cell / QUANT_BLOCK;
    struct activation_row at = {0};
    if (a->f) at.f = a->f + cell;
    if (!a->q) return at;
    at.q = a->q + cell;
    at.d = a->d + block;
    at.ds = a->ds + block;
    at.sum = a->sum + block;
    at.sum16 = a->sum16 + 2 * block;
    return at;
}

/* Another thread mostly read what this one is about to write, or wrote what it is about to read, and a line takes a hundred
 * nanoseconds and more from one core to another: those that come next are asked for while there is work in hand. */
static inline void fetch_for_write(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE) {
#if defined(__x86_64__)
        __asm__ volatile("prefetchw %0" : : "m"(((const char *)at)[i]));
#else
        __builtin_prefetch((const char *)at + i, 1);
#endif
    }
}

static inline void fetch(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE) __builtin_prefetch((const char *)at + i);
}

/* No nearer than the L2 cache. */
static inline void fetch_far(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += LINE) __builtin_prefetch((const char *)at + i, 0, 2);
}

/* Blocks first_block .. first_block + n_blocks - 1 of n_rows rows. */
static inline void fetch_activation_for_write(const struct activation *to, int first_row, int n_rows, int first_block,
                                              int n_blocks) {
    const size_t n = (size_t)n_blocks * sizeof(float);
    for (int row = first_row; row < first_row + n_rows; row++) {
        const struct activation_row at = activation_row_at(to, row);
        fetch_for_write(at.q + first_block * QUANT_BLOCK, (size_t)n_blocks * QUANT_BLOCK);
        fetch_for_write(at.d + first_block, n);
        fetch_for_write(at.ds + first_block, n);
        fetch_for_write(at.sum + first_block, n);
        fetch_for_write(at.sum16 + 2 * first_block, 2 * n);
    }
}

enum { KV_GROUP = 32 }; /* dimensions that share a scale where values have 4 bits */

/* Where dimension d of token `slot` lies in a V page of KV_INT8. */
static inline int int8_value_at(int head_dim, int slot, int d) { return (slot / 4 * head_dim + d) * 4 + slot % 4; }

/* Where one head of a block lies. */
struct kv_pages {
    uint8_t *k, *v, *k_scales, *v_scales;
};

/* What a query vector has seen of one span or of several: the highest score, the sum of weights relative to it, and from
 * PART_HEAD on the weighted sum of values, head_dim floats. */
enum { PART_MAX, PART_TOTAL, PART_HEAD = LINE / 4 };

/* Query vectors that share a sequence and a KV head, and one span of positions. Positions ascend. */
struct attention_tile {
    int n; /* 1..ATTENTION_TILE */
    const float *q[ATTENTION_TILE];
    float *part[ATTENTION_TILE];
    int pos[ATTENTION_TILE]; /* the last position that vector i sees */
    int span;                /* its first position; a multiple of ATTENTION_SPAN. At least one vector sees some of it */
    struct kv_pages pages;   /* of this layer and head in block 0 of the pool */
    enum kv_type type;
    size_t block_bytes;
    const int32_t *blocks;
    int n_pooled;         /* from this block of the sequence on they lie in tail, one after the other; INT_MAX: none does */
    struct kv_pages tail; /* of block n_pooled */
    size_t tail_bytes;    /* from one block of the tail to the next */
    struct kv_pages next[ATTENTION_CHUNK / KV_BLOCK]; /* first pages of the next tile, worth fetching at the end; or NULL */
    int head_dim;
    const struct attention_spec *spec;
};

/* Where the i-th block of the tile's sequence lies. */
static inline struct kv_pages attention_pages(const struct attention_tile *tile, int i) {
    const bool is_pooled = i < tile->n_pooled;
    const struct kv_pages *base = is_pooled ? &tile->pages : &tile->tail;
    const size_t at = is_pooled ? (size_t)tile->blocks[i] * tile->block_bytes : (size_t)(i - tile->n_pooled) * tile->tail_bytes;
    return (struct kv_pages){base->k + at, base->v + at, base->k_scales + at, base->v_scales + at};
}

/* The first position that a row at pos sees. */
static inline int attention_first_seen(const struct attention_spec *spec, int pos) {
    return spec->window > 0 && pos >= spec->window ? pos - spec->window + 1 : 0;
}

/* Whether a row at pos sees any of the span. */
static inline bool attention_sees(const struct attention_spec *spec, int pos, int span) {
    return pos >= span && attention_first_seen(spec, pos) < span + ATTENTION_SPAN;
}

struct rope_row {
    const float *cos_sin; /* [rope_dim / 2, 2], of this row's position; NULL = nothing turns */
    enum rope_kind kind;
    int rope_dim, head_dim;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float norm_eps;
};

/* Where the key and the value of one head of one token go. */
struct kv_slot {
    enum kv_type type;
    struct kv_pages pages;
    int slot; /* 0..15 */
};

struct cpu_kernels {
    const char *name;
    int slice_rows; /* most activation rows of a slice, a multiple of TOKEN_TILE, at most MAX_SLICE_ROWS */
    void (*matmul[DTYPE_COUNT])(const struct matmul_slice *slice);
    void (*attention)(const struct attention_tile *tile); /* parts of vectors that see none of the span are not worth reading */
    void (*attention_join)(float *to, const float *from, int head_dim); /* from: the part of the next span */
    void (*attention_end)(const float *part, enum kv_type type, int head_dim, float *out);
    void (*rmsnorm_row)(const float *x, const float *gamma, float eps, int n_cols, const struct activation_row *out);
    void (*quantize_row)(const float *x, int n_cols, const struct activation_row *out);
    void (*rest_row)(const struct activation_row *of, int n_cols, const struct activation_row *rest); /* struct activation's */
    /* x: n_rows rows of n_blocks blocks, one after the other; to int8 in rows first_row .. of out, from block first_block on. */
    void (*quantize_tile)(const float *x, int n_rows, int n_blocks, const struct activation *out, int first_row, int first_block);
    void (*rmsnorm_add_row)(const float *y, const float *gamma, float eps, int n_cols, float *x);
    void (*soft_cap_row)(float *x, int n_cols, float cap);
    void (*maxima_row)(const float *x, int n, float *maxima); /* matmul_job's of n values */
    /* n is a multiple of ROW_GROUP; step: from one ROW_GROUP of gate, and of up, to the next. out may be gate. */
    void (*glu)(enum glu_kind kind, const float *gate, const float *up, int step, float *out, int n);
    void (*route_row)(const float *logits, const struct route_spec *spec, int32_t *chosen, float *share);
    void (*combine_row)(const float *y, int y_stride, const int32_t *place, const float *share, int n_used, int n_cols, float *x);
    /* c [GEMM_ROWS][GEMM_COLS] += a [k][GEMM_ROWS] * b [k][GEMM_COLS] */
    void (*gemm_tile)(const float *a, const float *b, int k, float *c, size_t c_row);
    void (*rope_query)(float *q, const struct rope_row *rope);
    /* Rotates k, writes it and v. */
    void (*rope_key_value)(const float *k, const float *v, const struct rope_row *rope, const struct kv_slot *to);
    /* Measured against the above by probe.c; NULL in plain C, which has no limit worth the name. */
    void (*probe_read)(const uint8_t *data, size_t n); /* n is a multiple of LINE */
    double (*probe_dots)(int n_loops);                 /* returns the operations done */
};

/* Of its initialiser: what every instruction set calls by the name of the member. */
#define KERNELS_BY_NAME                                                                                                          \
    .attention = attention, .attention_join = attention_join, .attention_end = attention_end, .rmsnorm_row = rmsnorm_row,        \
    .quantize_row = quantize_row, .rest_row = rest_row, .quantize_tile = quantize_tile, .rmsnorm_add_row = rmsnorm_add_row,      \
    .soft_cap_row = soft_cap_row, .maxima_row = maxima_row, .glu = glu, .route_row = route_row, .combine_row = combine_row,      \
    .gemm_tile = gemm_tile, .rope_query = rope_query, .rope_key_value = rope_key_value

extern const struct cpu_kernels cpu_kernels_scalar;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avxvnni;
extern const struct cpu_kernels cpu_kernels_avx512;
extern const struct cpu_kernels cpu_kernels_amx;
#endif

struct cpu {
    const struct cpu_kernels *kernels;
    struct pool *pool;
    struct weight_chunk *chunks; /* where weights lie; newest first */
    float *parts;                /* [ATTENTION_PARTS], attention.c's */
    struct weight_ahead *last;   /* of the latest product of few rows; NULL: there is none */
};
enum { ATTENTION_PARTS = 1 << 19 };

/* --- memory.c --- */
void *memory_map(size_t bytes); /* zeroed, 64-byte aligned; NULL if refused */
void memory_unmap(void *memory, size_t bytes);
/* Room for a weight; false if refused. Not zeroed. */
bool weight_chunk_take(struct cpu *cpu, size_t bytes, struct weight *weight);
/* Beside another, offset bytes behind its data, in what was taken for both. */
void weight_chunk_share(const struct weight *first, size_t offset, struct weight *weight);
void weight_chunk_release(struct cpu *cpu, struct weight *weight);

/* --- repack.c --- */
/* Bytes of a group, or 0 when the type cannot hold rows of n_cols. */
size_t group_bytes(enum dtype type, int n_cols);
void weight_repack(struct weight *weight, const void *src);
/* One row back to floats. */
void weight_row_to_float(const struct weight *weight, int row, float *out);

/* --- load.c --- */
/* weight_repack by all threads. */
void weight_repack_parallel(struct cpu *cpu, struct weight *weight, const void *src);

/* --- matmul.c, attention.c, rows.c: operations of kernels.h --- */
void cpu_matmul(void *self, const struct matmul_job *jobs, int n_jobs, const struct activation *in, int n);
void cpu_matmul_glu(void *self, enum glu_kind kind, const struct weight *gate, const struct weight *up,
                    const struct activation *in, int n, float *out, int out_stride, struct activation *to);
void cpu_attention(void *self, const struct qkv_view *qkv, const struct attention_spec *spec, const struct kernels_seq *seqs,
                   int n_seqs, const struct kv_pool *kv, int layer, float *out, int out_stride, struct activation *to);
void cpu_embed(void *self, const struct weight *weight, const int32_t *tokens, int n, float scale, float *x, int x_stride);
void cpu_rmsnorm(void *self, const float *x, int x_stride, const int32_t *rows, const float *gamma, float eps, int n,
                 struct activation *out);
void cpu_rmsnorm_add(void *self, const float *y, int y_stride, const float *gamma, float eps, int n_cols, int n, float *x,
                     int x_stride);
void cpu_soft_cap(void *self, float *x, int x_stride, int n_cols, float cap, int n);
void cpu_route(void *self, const float *logits, int stride, const struct route_spec *spec, int n, int32_t *chosen, float *share);
void cpu_gather(void *self, const struct activation *in, const int32_t *rows, int n, struct activation *out);
void cpu_combine(void *self, const float *y, int y_stride, const int32_t *place, const float *share, int n_used, int n_cols,
                 int n, float *x, int x_stride);
void cpu_quantize(void *self, const float *x, int x_stride, int n, struct activation *out);
void cpu_rope_kv(void *self, const struct qkv_view *qkv, const struct rope_spec *rope, const struct kernels_seq *seqs, int n_seqs,
                 struct kv_pool *kv, int layer);
void cpu_gemm(void *self, const struct gemm_job *job);
void cpu_kv_move(void *self, struct kv_pool *kv, const int32_t *blocks, int first_pos, const int8_t *from, int n);
void cpu_copy_blocks(void *self, struct kv_pool *kv, const int32_t *src, const int32_t *dst, int n);
void cpu_kv_touch(void *self, struct kv_pool *kv, int32_t block);

/* --- probe.c --- */
double cpu_now_s(void);
double cpu_median(double *values, size_t n); /* sorts them; n > 0 */

/* --- kv.c --- */
struct kv_pages kv_pages(const struct kv_pool *kv, int block, int layer, int head);
/* Bytes of one head of 16 tokens. */
struct page_sizes {
    size_t k, v, k_scales, v_scales;
};
struct page_sizes kv_page_sizes(const struct kv_shape *shape);
/* The key and value of one token of one head. */
void kv_copy_token(const struct kv_shape *shape, const struct kv_pages *from, int from_slot, const struct kv_pages *to,
                   int to_slot);

#endif
