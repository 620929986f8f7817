/* memory.c - large memory of the CPU backend.
 *
 *  (1) Mappings of 2 MiB and more start on a huge page boundary and ask for huge pages: streaming 66 MB of weights touches
 *      16,000 small pages per token otherwise, and the times of a step scatter.
 *  (2) The matrices of a small model are smaller than a huge page, so weights lie one after the other in chunks of
 *      WEIGHT_CHUNK_BYTES. A chunk goes back to the system with its last weight. Untouched rest of a chunk costs address space
 *      only.
 *  (3) Pages are touched when they are first written: a KV pool costs what conversations have used of it, and a little that is
 *      touched ahead.
 * Engine thread only. */
#define _GNU_SOURCE
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const size_t HUGE_PAGE = (size_t)2 << 20;
static const size_t WEIGHT_CHUNK_BYTES = (size_t)64 << 20;

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/* Maps one huge page more than asked for and gives back what lies outside the aligned part. */
static void *map_huge(size_t bytes) {
    const size_t size = round_up(bytes, HUGE_PAGE), wide = size + HUGE_PAGE;
    uint8_t *start = mmap(NULL, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    uint8_t *aligned = start + (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    if (aligned > start) munmap(start, (size_t)(aligned - start));
    const size_t tail = (size_t)(start + wide - (aligned + size));
    if (tail > 0) munmap(aligned + size, tail);
    madvise(aligned, size, MADV_HUGEPAGE); /* a wish; small pages do as well */
    return aligned;
}

void *memory_map(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    if (bytes >= HUGE_PAGE) return map_huge(bytes);
    const size_t size = round_up(bytes > 0 ? bytes : 1, LINE);
    void *memory = aligned_alloc(LINE, size);
    if (memory) memset(memory, 0, size);
    return memory;
}

void memory_unmap(void *memory, size_t bytes) {
    if (!memory) return;
    if (bytes >= HUGE_PAGE)
        munmap(memory, round_up(bytes, HUGE_PAGE));
    else
        free(memory);
}

static struct weight_chunk *chunk_new(struct cpu *cpu, size_t bytes) {
    struct weight_chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk) return NULL;
    chunk->bytes = bytes > WEIGHT_CHUNK_BYTES ? bytes : WEIGHT_CHUNK_BYTES;
    chunk->data = memory_map(chunk->bytes);
    if (!chunk->data) {
        free(chunk);
        return NULL;
    }
    chunk->next = cpu->chunks;
    cpu->chunks = chunk;
    return chunk;
}

bool weight_chunk_take(struct cpu *cpu, size_t bytes, struct weight *weight) {
    struct weight_chunk *chunk = cpu->chunks;
    while (chunk && chunk->bytes - chunk->used < bytes) chunk = chunk->next;
    if (!chunk) chunk = chunk_new(cpu, bytes);
    if (!chunk) return false;
    weight->chunk = chunk;
    weight->data = chunk->data + chunk->used;
    chunk->used += round_up(bytes, LINE);
    chunk->n_weights++;
    return true;
}

void weight_chunk_share(const struct weight *first, size_t offset, struct weight *weight) {
    weight->chunk = first->chunk;
    weight->data = first->data + offset;
    weight->chunk->n_weights++;
}

void weight_chunk_release(struct cpu *cpu, struct weight *weight) {
    struct weight_chunk *chunk = weight->chunk;
    if (--chunk->n_weights > 0) return;
    struct weight_chunk **link = &cpu->chunks;
    while (*link != chunk) link = &(*link)->next;
    *link = chunk->next;
    memory_unmap(chunk->data, chunk->bytes);
    free(chunk);
}
