/* kernels.h - the arithmetic of the engine behind one table of operations.
 *
 * A backend is a table of about a dozen fused operations plus its own state. The engine wires the network once, in
 * engine/model.c, in terms of this table; `cpu/` fills it with plain C, AVX2 or AVX-512 functions.
 *
 * What every backend promises:
 *  (1) Row independence. The result of a row depends on that row's inputs alone: not on how many other rows are in the
 *      call, where the row stands among them, how many threads work, or which instruction set was chosen. On the CPU
 *      this holds to the bit, also between instruction sets; cpu/reference.c is the definition.
 *  (2) Nothing is allocated inside an operation. Scratch is sized by backend_open and weight_load.
 *  (3) Operations print nothing and cannot fail. Whatever can fail (open, load, alloc) returns a status.
 *  (4) One thread (the engine's) calls the operations of a backend; workers are the backend's own affair.
 *
 * Numeric order (DESIGN section 1, promise 1): blocks of 32 inputs ascending; inside a block the exact integer isum = sum of
 * w * q; then acc = fmaf((float)isum, d_weight * d_activation, acc). What differs by type (w, d, scale, m, min as in
 * plain_block.h; 0 and 1: columns 0..15 and 16..31; s0, s1: their sums of q; ds = d_activation * (s0 + s1), rounded):
 *   Q4_1, Q5_1   before it acc = fmaf(m, ds, acc)
 *   Q4_K, Q5_K   before it acc = fmaf(-(m * min), ds, acc); d_weight is d * scale
 *   Q6_K, Q3_K   isum = scale0 * (sum of w * q)0 + scale1 * (sum of w * q)1
 *   Q2_K         the same isum; before it acc = fmaf((float)(min0 * s0 + min1 * s1), -(m * d_activation), acc)
 * d * scale and m * min are exact in a float, and all isum and sums of minima are below 2^24, hence exact as floats too.
 * Float weights (F32, F16, BF16): one fmaf chain over ascending inputs. Attention runs over 64 absolute positions at a time,
 * sums each span of 512 apart and joins spans in ascending order, so that threads may share a long context; over quantised
 * keys, a score is a sum of exact integer dot products in the same way.
 */
#ifndef FORESAY_KERNELS_H
#define FORESAY_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KV_BLOCK = 16,    /* tokens in a KV block: 16 positions fill one 512-bit vector of scores */
    QUANT_BLOCK = 32, /* inputs that share a scale, in weights and in activations */
    MAX_EXPERTS = 512,
    TREE_MAX_ROWS = 64, /* nodes of a token tree: a set of them fits a word */
    ROW_GROUP = 16,     /* output rows interleaved by weight_load; outputs are padded to a multiple of it */
    ROW_BLOCK = 64,     /* values of a row that share a maximum: see matmul_job */
};

enum kernels_status {
    KERNELS_OK = 0,
    KERNELS_ERR_MEMORY, /* an allocation failed */
    KERNELS_ERR_ISA,    /* the named instruction set is unknown or this processor lacks it */
    KERNELS_ERR_DTYPE,  /* no kernel for this element type or for these dimensions */
};

/* Element types of weights. The names are GGUF's. */
enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q8_0,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_Q3_K,
    DTYPE_Q2_K,
    DTYPE_IQ4_NL,
    DTYPE_COUNT
};

/* Blocks as they lie in a GGUF file: 32 weights each, little endian, d and m are IEEE half floats.
 * Q4_0: w = d * (q - 8); Q4_1: w = d * q + m; Q8_0: w = d * q. Byte j of qs holds weight j (low) and j + 16 (high nibble). */
struct block_q4_0 {
    uint16_t d;
    uint8_t qs[QUANT_BLOCK / 2];
};
struct block_q4_1 {
    uint16_t d, m;
    uint8_t qs[QUANT_BLOCK / 2];
};
struct block_q8_0 {
    uint16_t d;
    int8_t qs[QUANT_BLOCK];
};
_Static_assert(sizeof(struct block_q4_0) == 18, "GGUF layout");
_Static_assert(sizeof(struct block_q4_1) == 20, "GGUF layout");
_Static_assert(sizeof(struct block_q8_0) == 34, "GGUF layout");

/* "Q4_1" and so on; static storage. */
const char *dtype_name(enum dtype type);
/* Weights that share a block in the file's layout: 1, 32 or 256; rows are multiples of it. */
int dtype_block_cols(enum dtype type);
/* Bytes of a row of n_cols weights in the file's layout; 0 if n_cols does not suit the type. */
size_t dtype_row_bytes(enum dtype type, int64_t n_cols);
/* True for the types whose matmul reads quantised activations. */
bool dtype_is_quantized(enum dtype type);
/* One row in the file's layout to floats. */
void dtype_row_to_float(enum dtype type, const void *src, float *dst, int64_t n_cols);

float half_to_float(uint16_t half);
uint16_t float_to_half(float value); /* round to nearest even */

/* n rounded up to a multiple of ROW_GROUP: so many floats has every matmul output row. */
static inline int row_group_pad(int n) { return (n + ROW_GROUP - 1) / ROW_GROUP * ROW_GROUP; }

/* Blocks of a row of n values. */
static inline int row_blocks(int n) { return (n + ROW_BLOCK - 1) / ROW_BLOCK; }

/* A matrix [n_rows, n_cols] repacked for the backend; opaque, owned by the backend that made it. */
struct weight;

/* Activations of n rows, kept in the forms the next matmul reads. Made by activation_alloc, written by rmsnorm and quantize.
 * Quantised form: per row and block of 32, x ~= d * q; d = amax / 127, q = nearest even of x * (127 / amax), so that q is in
 * [-127, 127]; sum is the exact sum of the 32 q. amax < 1e-30 gives d = 0 and q = 0; a NaN or infinity in a block gives d = NaN
 * and q = 0, so that it surfaces in the logits, where the engine looks for it. ds = d * sum serves minima for 32 columns; sum16,
 * the exact sums of 16 q, types with scales for 16.
 *
 * With `rest` a second activation keeps what the codes leave of x, in codes of its own, and products with quantised weights add
 * what it gives to what the codes gave, in a second addition: some 15 bits of each x count, at twice the arithmetic. */
struct activation {
    int max_rows, n_cols;
    float *f;                /* [max_rows, n_cols], or NULL when no reader wants floats */
    int8_t *q;               /* [max_rows, n_cols], or NULL when no reader wants int8 */
    float *d;                /* [max_rows, n_cols / 32] */
    float *ds;               /* [max_rows, n_cols / 32] */
    int32_t *sum;            /* [max_rows, n_cols / 32] */
    int32_t *sum16;          /* [max_rows, n_cols / 16] */
    struct activation *rest; /* NULL, or x - d * q, quantised (its own f is scratch); then f is there, too */
};

/* How keys and values are kept. The quantised types turn keys, and KV_INT4 values too, by a Hadamard matrix first, which spreads
 * what stands out in single dimensions; attention turns the query likewise and its result back, and computes with the codes as
 * they lie. KV_INT4 keeps keys in 8 bits: their errors pass through an exponential, and in 4 bits they cost ten times as much as
 * those of the values. */
enum kv_type {
    KV_F16,  /* half floats */
    KV_INT8, /* x ~= d * q, q in [-127, 127]; one d for a head of a token; head_dim a multiple of 16 */
    KV_INT4, /* keys so too; values x ~= d * q + m, q in [0, 15]; one d and m for 32 dimensions; head_dim a multiple of 32 */
    KV_TYPE_COUNT
};

/* What a cache of keys and values is made for. */
struct kv_shape {
    enum kv_type type;
    int n_layers, n_kv_heads, head_dim;
};

/* Where the keys and values lie. One block of 16 tokens of one sequence is block_bytes consecutive bytes, all layers together, so
 * that copying or saving a block is one memcpy. A layer is the K pages of all heads, their V pages, the scales of the former,
 * those of the latter:
 *   half floats  a K page is [head_dim][16 tokens], a V page [16 tokens][head_dim]; no scales
 *   8 bits       K [head_dim / 4][16 tokens][4 dimensions], V [4][head_dim][4 tokens]; scales: half floats d [16 tokens]
 *   4 bits       V [16 tokens][head_dim / 32][16 bytes], byte j has dimension j (low) and j + 16 (high nibble);
 *                scales: half floats [head_dim / 32][d, m][16 tokens] */
struct kv_pool {
    uint8_t *data; /* n_blocks * block_bytes, 64-byte aligned; from kv_pool_alloc */
    int n_blocks;
    struct kv_shape shape;
    size_t block_bytes;
};

/* A run of consecutive rows of one batch that belong to one sequence. They stand at consecutive positions, or they are the nodes
 * of a token tree, of which row 0 is the root and parents come first. Node i stands at position first_pos + depth[i] and sees
 * 0 .. first_pos - 1, its ancestors and itself, as if they were the sequence's text; its key and value are kept in the slot of
 * position first_pos + i, until kv_move brings those of the accepted nodes where they belong. */
struct kernels_seq {
    int first_row;             /* index of the run's first row in the batch */
    int n_rows;                /* at least 1; of a tree at most TREE_MAX_ROWS */
    int first_pos;             /* absolute position of the first row; row i stands at first_pos + i and sees 0 .. first_pos + i */
    const int32_t *blocks;     /* block table: position p lies in blocks[p / KV_BLOCK], slot p % KV_BLOCK */
    const int8_t *depth;       /* [n_rows] of a tree, depth[0] = 0; NULL = consecutive positions */
    const uint64_t *ancestors; /* [n_rows] of a tree; bit j: row j is row i itself or stands above it */
};

enum rope_kind {
    ROPE_INTERLEAVED, /* pairs (2i, 2i + 1): GGUF files of the llama architecture */
    ROPE_HALVES,      /* pairs (i, i + head_dim / 2): NeoX order */
};

/* One matrix of a matmul call; several may share the activations and so one dispatch. */
struct matmul_job {
    const struct weight *weight;
    float *out;        /* [n_rows, out_stride] */
    int out_stride;    /* floats, at least row_group_pad(rows of weight); the padding is written too */
    bool add;          /* out += result (one float addition) instead of out = result */
    const float *bias; /* [out_stride or more], added at the end by one more float addition; NULL = none */
    /* [n_rows, row_blocks(rows of weight)]: the largest of each ROW_BLOCK results without the padding, +0 for a zero of either
     * sign, NaN when one of them is not finite. Of the first job of a call alone; NULL = not wanted */
    float *maxima;
};

/* What a gated feed-forward does to its gate. */
enum glu_kind {
    GLU_SILU, /* g / (1 + e^-g) */
    GLU_GELU, /* the tanh form of GELU: g / (1 + e^(-2 u)), u = sqrt(2 / pi) (g + 0.044715 g^3) */
};

/* How rows choose their experts. */
struct route_spec {
    int n_experts, n_used; /* n_used <= n_experts <= MAX_EXPERTS */
    bool normalize;        /* the shares of the chosen sum to 1 */
};

/* Projections of one layer for rope_kv and attention. All strides in floats. */
struct qkv_view {
    float *q; /* [n_rows, q_stride]: n_heads * head_dim, rotated in place */
    float *k; /* [n_rows, k_stride]: n_kv_heads * head_dim, before rotation; not changed */
    float *v; /* [n_rows, v_stride] */
    int q_stride, k_stride, v_stride;
    int n_heads;
};

/* How queries and keys turn with their position. */
struct rope_spec {
    const float *cos_sin; /* [positions, rope_dim / 2, 2]; NULL = nothing turns */
    enum rope_kind kind;
    int rope_dim;                 /* the first rope_dim dimensions of a head are rotated */
    const float *q_norm, *k_norm; /* [head_dim]: every head is first normalised as in rmsnorm; NULL = not */
    float norm_eps;
};

/* What attention does besides the softmax of q . K. */
struct attention_spec {
    float scale;    /* of the scores */
    float soft_cap; /* scores become soft_cap * tanh(score / soft_cap) (Gemma 2); 0 = they stay */
    int window;     /* a row at position p sees p - window + 1 .. p (sliding windows); 0 = all of 0 .. p */
};

/* c (+)= a * b in floats, for training. Element (i, l) of a is a[i * a_row + l * a_col], so either factor may stand
 * transposed. */
struct gemm_job {
    int m, n, k; /* c: [m, n]; a: [m, k]; b: [k, n] */
    const float *a, *b;
    size_t a_row, a_col, b_row, b_col;
    float *c;
    size_t c_row;
    bool add;       /* c += instead of c = */
    float *scratch; /* [gemm_scratch_floats(m, n, k)] */
};
size_t gemm_scratch_floats(int m, int n, int k);

struct backend_ops {
    const char *name; /* "cpu" */

    void (*close)(void *self); /* after its weights and its memory were freed */

    /* Memory that the operations read and write: zeroed, 64-byte aligned, huge pages where the system grants them. NULL if
     * refused. */
    void *(*alloc)(void *self, size_t bytes);
    void (*free)(void *self, void *memory, size_t bytes);

    /* Repacks src (file layout, row after row, any alignment) into *out. src is not needed afterwards. */
    int (*weight_load)(void *self, const void *src, enum dtype type, int n_rows, int n_cols, struct weight **out);
    /* The same for two matrices of one shape that matmul_glu will read together: they become one run of memory, the group of one
     * beside that of the other. Each is a weight like others. out: both, or on failure neither. */
    int (*weight_load_pair)(void *self, const void *const src[2], const enum dtype types[2], int n_rows, int n_cols,
                            struct weight *out[2]);
    void (*weight_free)(void *self, struct weight *weight); /* accepts NULL */

    /* x[i] = row tokens[i] of weight, as floats, times scale. x: [n, x_stride] */
    void (*embed)(void *self, const struct weight *weight, const int32_t *tokens, int n, float scale, float *x, int x_stride);

    /* out row i = rmsnorm(x row rows[i]) * gamma, in each form that out holds. rows == NULL means row i.
     * Sum of squares: 16 partial sums (i mod 16) by fmaf, then a fixed tree (8+8, 4+4, 2+2, 1+1); scale = 1 / sqrtf(ss / n_cols +
     * eps). */
    void (*rmsnorm)(void *self, const float *x, int x_stride, const int32_t *rows, const float *gamma, float eps, int n,
                    struct activation *out);

    /* x row i += rmsnorm(y row i) * gamma, one float addition. */
    void (*rmsnorm_add)(void *self, const float *y, int y_stride, const float *gamma, float eps, int n_cols, int n, float *x,
                        int x_stride);

    /* x = cap * tanh(x / cap), n_cols floats of each row. */
    void (*soft_cap)(void *self, float *x, int x_stride, int n_cols, float cap, int n);

    /* out row i = x row i, in each form that out holds. */
    void (*quantize)(void *self, const float *x, int x_stride, int n, struct activation *out);

    /* Every job: out row i = weight * activation row i. All weights have in->n_cols columns. */
    void (*matmul)(void *self, const struct matmul_job *jobs, int n_jobs, const struct activation *in, int n);

    /* out row i = kind(gate * in row i) * (up * in row i). out: [n, out_stride], padded like matmul's. to: NULL, or where the
     * same goes in the forms that it holds, as if by quantize; then what is in out does not matter. */
    void (*matmul_glu)(void *self, enum glu_kind kind, const struct weight *gate, const struct weight *up,
                       const struct activation *in, int n, float *out, int out_stride, struct activation *to);

    /* The n_used experts of each row, by descending softmax of its logits (of equals the lower index), and their shares.
     * chosen, share: [n, n_used] */
    void (*route)(void *self, const float *logits, int stride, const struct route_spec *spec, int n, int32_t *chosen,
                  float *share);

    /* out row i = in row rows[i], in each form that out holds (in holds it too). */
    void (*gather)(void *self, const struct activation *in, const int32_t *rows, int n, struct activation *out);

    /* x row i += sum over ascending r of share[i, r] * y row place[i, r]; a product, then fmaf, then one addition.
     * share, place: [n, n_used] */
    void (*combine)(void *self, const float *y, int y_stride, const int32_t *place, const float *share, int n_used, int n_cols,
                    int n, float *x, int x_stride);

    /* Rotates q and k by their positions, writes k and v into the pool. */
    void (*rope_kv)(void *self, const struct qkv_view *qkv, const struct rope_spec *rope, const struct kernels_seq *seqs,
                    int n_seqs, struct kv_pool *kv, int layer);

    /* out row = softmax(q . K * scale) V over the positions that the row sees, grouped-query. Rows of the batch have been
     * through rope_kv. out: [n_rows, out_stride], n_heads * head_dim floats. to: as with matmul_glu. */
    void (*attention)(void *self, const struct qkv_view *qkv, const struct attention_spec *spec, const struct kernels_seq *seqs,
                      int n_seqs, const struct kv_pool *kv, int layer, float *out, int out_stride, struct activation *to);

    /* One fmaf chain an element of c, over ascending k. */
    void (*gemm)(void *self, const struct gemm_job *job);

    /* Runs task(arg, 0) .. task(arg, n - 1) on the compute threads, in any order, and returns when all are done: the caller's own
     * work on rows that lie in main memory, such as sampling. n: at most 65534 */
    void (*parallel)(void *self, int n, void (*task)(const void *arg, int i), const void *arg);

    /* Keys and values of a sequence, all layers: those at position first_pos + from[i] go to first_pos + i, for i = 0 .. n - 1 in
     * order; from ascends, from[i] >= i. */
    void (*kv_move)(void *self, struct kv_pool *kv, const int32_t *blocks, int first_pos, const int8_t *from, int n);

    /* Block src[i] over block dst[i], in order. */
    void (*copy_blocks)(void *self, struct kv_pool *kv, const int32_t *src, const int32_t *dst, int n);

    /* The system gives a block's memory where nothing was ever written into it: its first use need not wait for that. The block's
     * content is lost. */
    void (*kv_touch)(void *self, struct kv_pool *kv, int32_t block);
};

struct backend {
    const struct backend_ops *ops;
    void *self;
};

struct backend_config {
    const char *isa; /* "auto" or NULL, "scalar", "avx2", "avxvnni", "avx512", "amx" */
    int n_threads;   /* compute threads, the caller's included; 0 = as many as the cgroup and affinity grant */
};

/* Opens the CPU backend. On failure *out is untouched and, if reason is given, it names the trouble in a sentence. */
int backend_open_cpu(struct backend *out, const struct backend_config *config, char *reason, size_t reason_size);
/* The instruction set in use ("avx512") and the number of compute threads. */
const char *backend_cpu_isa(const struct backend *backend);
int backend_cpu_threads(const struct backend *backend);

/* What this machine gives at most, for comparison: measured on the spot in about a quarter of a second, with the backend's
 * threads and instruction set. 0 if there is nothing to measure (no weights loaded; plain C). Engine thread. */
double backend_cpu_read_speed(const struct backend *backend); /* bytes per second, over all weights that are loaded */
double backend_cpu_int8_speed(const struct backend *backend); /* operations per second, two a product with its addition */

/* Chooses by measuring, in a tenth of a second, how the weight is fetched for products with one row; does nothing for small ones.
 * No result depends on it. Engine thread. */
void backend_cpu_tune(const struct backend *backend, struct weight *weight);

/* Bytes that a matrix takes once weight_load has repacked it; 0 if there is no kernel for it. */
size_t backend_weight_bytes(enum dtype type, int64_t n_rows, int n_cols);

/* Forms are chosen by the caller: want_float for F32, F16 and BF16 readers, want_int8 for the quantised ones. */
int activation_alloc(const struct backend *backend, int max_rows, int n_cols, bool want_float, bool want_int8,
                     struct activation *out);
/* Gives it a rest; it has both forms. On failure it has none. */
int activation_refine(const struct backend *backend, struct activation *activation);
void activation_free(const struct backend *backend, struct activation *activation);

/* "f16", "int8" or "int4"; static storage. */
const char *kv_type_name(enum kv_type type);
/* False: no type has this name. */
bool kv_type_parse(const char *name, enum kv_type *out);
/* Heads have multiples of so many dimensions. */
int kv_type_unit(enum kv_type type);

/* Bytes of one block of this shape; 64-byte multiple. */
size_t kv_block_bytes(const struct kv_shape *shape);
/* KERNELS_ERR_DTYPE: head_dim does not suit the type, or is beyond what attention can do. */
int kv_pool_alloc(const struct backend *backend, int n_blocks, const struct kv_shape *shape, struct kv_pool *out);
void kv_pool_free(const struct backend *backend, struct kv_pool *pool);

#endif
