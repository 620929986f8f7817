/* draft_stores.c - n-gram stores and drafting heads that travel inside the binary, so that the default model drafts well
 * without being asked. Each is a file of speculative/stores, taken in by the assembler; which model it is for stands in it.
 * Any thread. */
#include "engine/draft.h"

#define EMBED(name, path)                                                                                                        \
    __asm__(".section .rodata\n.balign 64\n.global " #name "\n" #name ":\n.incbin \"" path "\"\n.global " #name "_end\n" #name   \
            "_end:\n.previous\n");                                                                                               \
    extern const uint8_t name[], name##_end[];

EMBED(store_smollm2_135m, "speculative/stores/SmolLM2-135M-Instruct.ngram")
EMBED(head_smollm2_135m, "speculative/stores/SmolLM2-135M-Instruct.head.gguf")

bool draft_find_store(struct ngram_store *out, uint32_t n_vocab, uint64_t vocab_digest, uint64_t target_digest) {
    const struct { const uint8_t *image, *end; } stores[] = {{store_smollm2_135m, store_smollm2_135m_end}};
    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
        const uint64_t size = (uint64_t)(stores[i].end - stores[i].image);
        if (!ngram_open(out, stores[i].image, size, n_vocab, vocab_digest, target_digest)) return true;
    }
    return false;
}

bool draft_find_head(struct gguf **out, struct head_shape *shape, const struct model_shape *target) {
    const struct { const uint8_t *image, *end; } heads[] = {{head_smollm2_135m, head_smollm2_135m_end}};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct engine_error unimportant; /* it is another model's */
        const size_t size = (size_t)(heads[i].end - heads[i].image);
        if (gguf_open_image(out, "the built-in head", heads[i].image, size, &unimportant) != ENGINE_OK) continue;
        if (head_read_shape(shape, *out, target, &unimportant) == ENGINE_OK) return true;
        gguf_close(*out);
    }
    *out = NULL;
    return false;
}
