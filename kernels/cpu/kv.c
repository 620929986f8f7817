/* kv.c - the KV pool: names and layouts of its types (drawn in kernels.h), its allocation, copies of blocks and
 * of single tokens. */
#include "kernels/cpu/cpu.h"

#include <string.h>

static const char *const names[] = {[KV_F16] = "f16", [KV_INT8] = "int8", [KV_INT4] = "int4"};

const char *kv_type_name(enum kv_type type) { return names[type]; }

bool kv_type_parse(const char *name, enum kv_type *out) {
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        if (strcmp(name, names[type]) != 0) continue;
        *out = (enum kv_type)type;
        return true;
    }
    return false;
}

int kv_type_unit(enum kv_type type) { return type == KV_F16 ? 1 : type == KV_INT8 ? 16 : KV_GROUP; }

struct page_sizes kv_page_sizes(const struct kv_shape *shape) {
    const size_t cells = (size_t)KV_BLOCK * (size_t)shape->head_dim, scales = KV_BLOCK * sizeof(uint16_t);
    struct page_sizes sizes = {.k = cells, .v = cells, .k_scales = scales, .v_scales = scales};
    if (shape->type == KV_F16) sizes = (struct page_sizes){.k = cells * sizeof(uint16_t), .v = cells * sizeof(uint16_t)};
    if (shape->type == KV_INT4) {
        sizes.v = cells / 2;
        sizes.v_scales = 2 * scales * (size_t)(shape->head_dim / KV_GROUP);
    }
    return sizes;
}

static size_t layer_bytes(const struct kv_shape *shape) {
    const struct page_sizes sizes = kv_page_sizes(shape);
    const size_t bytes = (sizes.k + sizes.v + sizes.k_scales + sizes.v_scales) * (size_t)shape->n_kv_heads;
    return (bytes + LINE - 1) / LINE * LINE;
}

struct kv_pages kv_pages(const struct kv_pool *kv, int block, int layer, int head) {
    const struct kv_shape *shape = &kv->shape;
    const struct page_sizes sizes = kv_page_sizes(shape);
    const size_t heads = (size_t)shape->n_kv_heads, h = (size_t)head;
    uint8_t *k = kv->data + (size_t)block * kv->block_bytes + (size_t)layer * layer_bytes(shape), *v = k + heads * sizes.k;
    uint8_t *k_scales = v + heads * sizes.v, *v_scales = k_scales + heads * sizes.k_scales;
    return (struct kv_pages){k + h * sizes.k, v + h * sizes.v, k_scales + h * sizes.k_scales, v_scales + h * sizes.v_scales};
}

size_t kv_block_bytes(const struct kv_shape *shape) { return (size_t)shape->n_layers * layer_bytes(shape); }

int kv_pool_alloc(const struct backend *backend, int n_blocks, const struct kv_shape *shape, struct kv_pool *out) {
    if (shape->head_dim < 1 || shape->head_dim > MAX_HEAD_DIM || shape->head_dim % kv_type_unit(shape->type) != 0)
        return KERNELS_ERR_DTYPE;
    struct kv_pool pool = {.n_blocks = n_blocks, .shape = *shape, .block_bytes = kv_block_bytes(shape)};
    pool.data = backend->ops->alloc(backend->self, (size_t)n_blocks * pool.block_bytes);
    if (!pool.data) return KERNELS_ERR_MEMORY;
    *out = pool;
    return KERNELS_OK;
}

void kv_pool_free(const struct backend *backend, struct kv_pool *pool) {
    backend->ops->free(backend->self, pool->data, (size_t)pool->n_blocks * pool->block_bytes);
    *pool = (struct kv_pool){0};
}

void cpu_copy_blocks(void *self, struct kv_pool *kv, const int32_t *src, const int32_t *dst, int n) {
    (void)self;
    for (int i = 0; i < n; i++) {
        if (src[i] == dst[i]) continue;
        memcpy(kv->data + (size_t)dst[i] * kv->block_bytes, kv->data + (size_t)src[i] * kv->block_bytes, kv->block_bytes);
    }
}

void cpu_kv_touch(void *self, struct kv_pool *kv, int32_t block) {
    enum { SMALL_PAGE = 4096 };
    volatile uint8_t *data = kv->data + (size_t)block * kv->block_bytes;
    (void)self;
    for (size_t at = 0; at < kv->block_bytes; at += SMALL_PAGE) data[at] = 0;
    data[kv->block_bytes - 1] = 0;
}

/* --- single tokens --- */

static void copy_half(uint8_t *to, const uint8_t *from, int to_index, int from_index) {
    memcpy(to + 2 * to_index, from + 2 * from_index, sizeof(uint16_t));
}

void kv_copy_token(const struct kv_shape *shape, const struct kv_pages *from, int from_slot, const struct kv_pages *to,
                   int to_slot) {
    const int n = shape->head_dim;
    const size_t row = kv_page_sizes(shape).v / KV_BLOCK; /* bytes of a value */
    if (shape->type != KV_INT8)
        memcpy(to->v + (size_t)to_slot * row, from->v + (size_t)from_slot * row, row);
    else
        for (int d = 0; d < n; d++) to->v[int8_value_at(n, to_slot, d)] = from->v[int8_value_at(n, from_slot, d)];
    if (shape->type == KV_F16) {
        for (int d = 0; d < n; d++) copy_half(to->k, from->k, d * KV_BLOCK + to_slot, d * KV_BLOCK + from_slot);
        return;
    }
    for (int d = 0; d < n; d += 4)
        memcpy(to->k + (d / 4 * KV_BLOCK + to_slot) * 4, from->k + (d / 4 * KV_BLOCK + from_slot) * 4, 4);
    copy_half(to->k_scales, from->k_scales, to_slot, from_slot);
    const int n_scales = shape->type == KV_INT4 ? 2 * (n / KV_GROUP) : 1;
    for (int i = 0; i < n_scales; i++) copy_half(to->v_scales, from->v_scales, i * KV_BLOCK + to_slot, i * KV_BLOCK + from_slot);
}

void cpu_kv_move(void *self, struct kv_pool *kv, const int32_t *blocks, int first_pos, const int8_t *from, int n) {
    (void)self;
    const struct kv_shape *shape = &kv->shape;
    for (int i = 0; i < n; i++) {
        const int to_pos = first_pos + i, from_pos = first_pos + from[i];
        if (to_pos == from_pos) continue;
        for (int layer = 0; layer < shape->n_layers; layer++)
            for (int head = 0; head < shape->n_kv_heads; head++) {
                const struct kv_pages source = kv_pages(kv, blocks[from_pos / KV_BLOCK], layer, head);
                const struct kv_pages target = kv_pages(kv, blocks[to_pos / KV_BLOCK], layer, head);
                kv_copy_token(shape, &source, from_pos % KV_BLOCK, &target, to_pos % KV_BLOCK);
            }
    }
}
