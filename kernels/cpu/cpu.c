/* cpu.c - the CPU backend as an object: choice of the instruction set, opening and closing, memory, weights and activations.
 *
 * Dispatch is a ladder: the reference first, then each better instruction set that processor and system support overwrites it.
 * All give the same bits, so the choice is one of speed alone. Engine thread only. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { MAX_THREADS = 256 };

/* --- instruction sets --- */

struct isa {
    const struct cpu_kernels *kernels;
    bool (*supported)(void);
    const char *needs; /* for the sentence when it is not */
};

static bool always(void) { return true; }

#if defined(__x86_64__)
/* tests/emulated_isa.h sets it: plain C stands in for the instructions. */
#ifndef EMULATED_ISAS
#define EMULATED_ISAS 0
#endif

/* State components that the operating system saves on a context switch; without them the registers must not be used. */
static bool system_saves(uint32_t components) {
    uint32_t eax, ebx, ecx, edx, low, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & components) == components;
}

static bool has_avx2(void) {
    const uint32_t wanted = bit_AVX | bit_FMA | bit_F16C, xmm_ymm = 0x6;
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & wanted) != wanted) return false;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_AVX2) && system_saves(xmm_ymm);
}

static bool has_avxvnni(void) {
    const uint32_t avx_vnni = 1u << 4;
    uint32_t eax, ebx, ecx, edx;
    if (EMULATED_ISAS) return has_avx2();
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & avx_vnni);
}

static bool has_avx512(void) {
    const uint32_t wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL, xmm_ymm_zmm_masks = 0xe6;
    uint32_t eax, ebx, ecx, edx;
    if (EMULATED_ISAS) return has_avx2();
    if (!has_avx2() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    return (ebx & wanted) == wanted && (ecx & bit_AVX512VNNI) && system_saves(xmm_ymm_zmm_masks);
}

/* Linux hands out the tile registers of a process on request, once for all its threads. */
static bool has_amx(void) {
    enum { REQUEST_STATE = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    const uint32_t tiles = 1u << 24, int8 = 1u << 25, wanted = tiles | int8, tile_config_and_data = 3u << 17;
    uint32_t eax, ebx, ecx, edx;
    if (EMULATED_ISAS) return has_avx2();
    if (!has_avx512() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if ((edx & wanted) != wanted || !system_saves(tile_config_and_data)) return false;
    return syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0;
}
#endif

static const struct isa ladder[] = {
    {&cpu_kernels_scalar, always, ""},
#if defined(__x86_64__)
    {&cpu_kernels_avx2, has_avx2, "AVX2, FMA and F16C"},
    {&cpu_kernels_avxvnni, has_avxvnni, "AVX2, FMA, F16C and AVX-VNNI"},
    {&cpu_kernels_avx512, has_avx512, "AVX-512 F, BW, DQ, VL and VNNI"},
    {&cpu_kernels_amx, has_amx, "AVX-512 F, BW, DQ, VL and VNNI, AMX with int8, and a kernel that grants it"},
#endif
};
enum { N_ISAS = sizeof ladder / sizeof *ladder };

/* Kernels for config->isa, or NULL and the reason. */
static const struct cpu_kernels *choose_kernels(const char *name, char *reason, size_t reason_size) {
    const bool best = !name || strcmp(name, "auto") == 0;
    const struct cpu_kernels *chosen = NULL;
    for (int i = 0; i < N_ISAS; i++) {
        const struct isa *isa = &ladder[i];
        if (!best && strcmp(name, isa->kernels->name) != 0) continue;
        if (isa->supported()) {
            chosen = isa->kernels;
        } else if (!best) {
            snprintf(reason, reason_size, "This processor (or system) lacks what --isa %s needs: %s.", name, isa->needs);
            return NULL;
        }
    }
    if (!chosen)
        snprintf(reason, reason_size, "There is no instruction set \"%.40s\" for this processor; auto, scalar%s.", name,
                 N_ISAS > 1 ? ", avx2, avxvnni, avx512 and amx exist" : " exist");
    return chosen;
}

/* --- operations that are not arithmetic --- */

static void cpu_close(void *self) {
    struct cpu *cpu = self;
    pool_destroy(cpu->pool);
    memory_unmap(cpu->parts, ATTENTION_PARTS * sizeof *cpu->parts);
    free(cpu);
}

static void *cpu_alloc(void *self, size_t bytes) {
    (void)self;
    return memory_map(bytes);
}

static void cpu_free(void *self, void *memory, size_t bytes) {
    (void)self;
    memory_unmap(memory, bytes);
}

/* Without its data. NULL if refused. */
static struct weight *new_weight(const struct cpu *cpu, enum dtype type, int n_rows, int n_cols) {
    struct weight *weight = calloc(1, sizeof *weight);
    if (!weight) return NULL;
    *weight = (struct weight){.type = type, .n_rows = n_rows, .n_cols = n_cols, .n_groups = row_group_pad(n_rows) / ROW_GROUP};
    weight->group_bytes = group_bytes(type, n_cols);
    weight->ahead = calloc(1, sizeof *weight->ahead + (size_t)pool_threads(cpu->pool) * sizeof *weight->ahead->at);
    if (weight->ahead) return weight;
    free(weight);
    return NULL;
}

static void forget_weight(struct weight *weight) {
    if (!weight) return;
    free(weight->ahead);
    free(weight);
}

/* One matrix or two, group beside group. */
static int load_weights(struct cpu *cpu, int n, const void *const *src, const enum dtype *types, int n_rows, int n_cols,
                        struct weight **out) {
    struct weight *weights[2] = {NULL, NULL};
    size_t stride = 0, offset = 0;
    bool is_ready = true;
    for (int i = 0; i < n; i++) {
        if ((unsigned)types[i] >= DTYPE_COUNT || n_rows < 1 || group_bytes(types[i], n_cols) == 0) return KERNELS_ERR_DTYPE;
        stride += group_bytes(types[i], n_cols);
    }
    for (int i = 0; i < n; i++) is_ready &= (weights[i] = new_weight(cpu, types[i], n_rows, n_cols)) != NULL;
    if (!is_ready || !weight_chunk_take(cpu, stride * (size_t)weights[0]->n_groups, weights[0])) {
        for (int i = 0; i < n; i++) forget_weight(weights[i]);
        return KERNELS_ERR_MEMORY;
    }
    for (int i = 0; i < n; offset += weights[i++]->group_bytes) {
        if (i > 0) weight_chunk_share(weights[0], offset, weights[i]);
        weights[i]->group_stride = stride;
        weight_repack_parallel(cpu, weights[i], src[i]);
        out[i] = weights[i];
    }
    return KERNELS_OK;
}

static int cpu_weight_load(void *self, const void *src, enum dtype type, int n_rows, int n_cols, struct weight **out) {
    return load_weights(self, 1, &src, &type, n_rows, n_cols, out);
}

static int cpu_weight_load_pair(void *self, const void *const src[2], const enum dtype types[2], int n_rows, int n_cols,
                                struct weight *out[2]) {
    return load_weights(self, 2, src, types, n_rows, n_cols, out);
}

static void cpu_weight_free(void *self, struct weight *weight) {
    struct cpu *cpu = self;
    if (!weight) return;
    if (cpu->last == weight->ahead) cpu->last = NULL;
    weight_chunk_release(cpu, weight);
    forget_weight(weight);
}

static void cpu_parallel(void *self, int n, void (*task)(const void *arg, int i), const void *arg) {
    const struct cpu *cpu = self;
    pool_run(cpu->pool, n, task, arg);
}

static const struct backend_ops ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .weight_load = cpu_weight_load,
    .weight_load_pair = cpu_weight_load_pair,
    .weight_free = cpu_weight_free,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .rmsnorm_add = cpu_rmsnorm_add,
    .soft_cap = cpu_soft_cap,
    .quantize = cpu_quantize,
    .matmul = cpu_matmul,
    .matmul_glu = cpu_matmul_glu,
    .route = cpu_route,
    .gather = cpu_gather,
    .combine = cpu_combine,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .gemm = cpu_gemm,
    .parallel = cpu_parallel,
    .kv_move = cpu_kv_move,
    .copy_blocks = cpu_copy_blocks,
    .kv_touch = cpu_kv_touch,
};

/* --- opening --- */

int backend_open_cpu(struct backend *out, const struct backend_config *config, char *reason, size_t reason_size) {
    if (!reason) reason_size = 0;
    const struct cpu_kernels *kernels = choose_kernels(config->isa, reason, reason_size);
    if (!kernels) return KERNELS_ERR_ISA;
    int n_threads = config->n_threads > 0 ? config->n_threads : pool_granted_cpus();
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu) cpu->pool = pool_create(n_threads);
    if (cpu && cpu->pool) cpu->parts = memory_map(ATTENTION_PARTS * sizeof *cpu->parts);
    if (!cpu || !cpu->parts) {
        snprintf(reason, reason_size, "The system refused %d compute threads or their memory.", n_threads);
        if (cpu) pool_destroy(cpu->pool);
        free(cpu);
        return KERNELS_ERR_MEMORY;
    }
    cpu->kernels = kernels;
    *out = (struct backend){.ops = &ops, .self = cpu};
    return KERNELS_OK;
}

const char *backend_cpu_isa(const struct backend *backend) {
    const struct cpu *cpu = backend->self;
    return cpu->kernels->name;
}

int backend_cpu_threads(const struct backend *backend) {
    const struct cpu *cpu = backend->self;
    return pool_threads(cpu->pool);
}

/* --- activations: plain structs over the backend's memory --- */

/* One form of an activation: max_rows * per_row elements. False if memory was refused. */
static bool alloc_form(const struct backend *backend, int max_rows, int per_row, size_t size, void **out) {
    *out = backend->ops->alloc(backend->self, (size_t)max_rows * (size_t)per_row * size);
    return *out != NULL;
}

int activation_alloc(const struct backend *backend, int max_rows, int n_cols, bool want_float, bool want_int8,
                     struct activation *out) {
    if (want_int8 && n_cols % QUANT_BLOCK != 0) return KERNELS_ERR_DTYPE;
    const int n_blocks = n_cols / QUANT_BLOCK;
    struct activation a = {.max_rows = max_rows, .n_cols = n_cols};
    void *f = NULL, *q = NULL, *d = NULL, *ds = NULL, *sum = NULL, *sum16 = NULL;
    bool ok = true;
    if (want_float) ok = alloc_form(backend, max_rows, n_cols, sizeof(float), &f);
    if (want_int8)
        ok = ok && alloc_form(backend, max_rows, n_cols, 1, &q) && alloc_form(backend, max_rows, n_blocks, sizeof(float), &d) &&
             alloc_form(backend, max_rows, n_blocks, sizeof(float), &ds) &&
             alloc_form(backend, max_rows, n_blocks, sizeof(int32_t), &sum) &&
             alloc_form(backend, max_rows, 2 * n_blocks, sizeof(int32_t), &sum16);
    a.f = f;
    a.q = q;
    a.d = d;
    a.ds = ds;
    a.sum = sum;
    a.sum16 = sum16;
    if (ok)
        *out = a;
    else
        activation_free(backend, &a);
    return ok ? KERNELS_OK : KERNELS_ERR_MEMORY;
}

int activation_refine(const struct backend *backend, struct activation *a) {
    assert(a->f && a->q && !a->rest);
    struct activation *rest = calloc(1, sizeof *rest);
    if (!rest || activation_alloc(backend, a->max_rows, a->n_cols, true, true, rest) != KERNELS_OK) {
        free(rest);
        return KERNELS_ERR_MEMORY;
    }
    a->rest = rest;
    return KERNELS_OK;
}

void activation_free(const struct backend *backend, struct activation *a) {
    if (a->rest) activation_free(backend, a->rest);
    free(a->rest);
    const size_t cells = (size_t)a->max_rows * (size_t)a->n_cols,
                 blocks = (size_t)a->max_rows * (size_t)(a->n_cols / QUANT_BLOCK);
    backend->ops->free(backend->self, a->f, cells * sizeof(float));
    backend->ops->free(backend->self, a->q, cells);
    backend->ops->free(backend->self, a->d, blocks * sizeof(float));
    backend->ops->free(backend->self, a->ds, blocks * sizeof(float));
    backend->ops->free(backend->self, a->sum, blocks * sizeof(int32_t));
    backend->ops->free(backend->self, a->sum16, 2 * blocks * sizeof(int32_t));
    *a = (struct activation){0};
}
