/* fuzz_gguf.c - model files from hell: the input is a whole file, or changes to a good one. Whatever opens is read from end to
 * end, and a tokenizer, a chat template and a network are made of it. */
#define _GNU_SOURCE /* memfd_create */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/chat_template.h"
#include "engine/model.h"
#include "tests/small_vocabulary.h"
#include "tests/tiny_model.h"

enum { N_GOOD = 5 };
static struct gguf_writer good[N_GOOD];
static struct backend backend;

/* A tiny model of 32 columns: its keys are a good part of the file. */
static void make_network(struct gguf_writer *w, struct tiny_model t) {
    char path[64];
    uint8_t bytes[4096];
    int fd = memfd_create("tiny", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    t.n_layers = 1;
    t.n_embd = t.n_ffn = 32;
    t.n_heads = t.n_kv_heads = 2;
    t.every_type = true;
    if (fd < 0 || !tiny_model_write(path, &t)) abort();
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) writer_put(w, bytes, (size_t)n);
    close(fd);
}

static void make_good(void) {
    static const char *const merges[] = {"a a", "t h", "th e", "aa aa", NULL};
    static const char *const added[] = {"<tool>", "  ", NULL};
    small_write(&good[0], &(struct small_vocabulary){.pre = "qwen2",
                                                     .merges = merges,
                                                     .added = added,
                                                     .bos = SMALL_BEGIN_OF_TEXT,
                                                     .eos = SMALL_IM_END,
                                                     .chat_template = "'<|im_start|>system\\nx<|im_end|>\\n' bos_token | trim"});
    writer_begin(&good[1], 3, 2, 2);
    writer_key_u32(&good[1], "general.alignment", 32);
    writer_key_string(&good[1], "general.architecture", "llama");
    writer_tensor(&good[1], "a", 3, 2, (uint64_t[]){64, 2}, 0);
    writer_tensor(&good[1], "b", 0, 1, (uint64_t[]){7}, 96);
    writer_align(&good[1], 32);
    writer_zeros(&good[1], 128);
    struct tiny_model phi = tiny_model_default();
    phi.architecture = "phi3";
    phi.long_rope = true;
    phi.rope_dim = 8;
    make_network(&good[2], phi);
    make_network(&good[3], tiny_model_gemma());
    make_network(&good[4], tiny_model_experts());
    if (backend_open_cpu(&backend, &(struct backend_config){.isa = "scalar", .n_threads = 1}, NULL, 0) != KERNELS_OK) abort();
}

/* Bytes of a good file, changed at the places that the input names: offset (2 bytes), value (1 byte), and so on. */
static void write_changed(int fd, const struct gguf_writer *base, const uint8_t *data, size_t size) {
    struct gguf_writer w = {0};
    writer_put(&w, base->bytes, base->n);
    for (size_t i = 0; i + 3 <= size; i += 3) w.bytes[((size_t)data[i] << 8 | data[i + 1]) % w.n] = data[i + 2];
    if (write(fd, w.bytes, w.n) != (ssize_t)w.n) abort();
    writer_free(&w);
}

static volatile uint64_t sink;

static void read_everything(const struct gguf *g) {
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        enum gguf_kind kind;
        struct gguf_string key = gguf_key(g, i, &kind);
        char name[256];
        struct gguf_array array;
        struct gguf_string string;
        if (key.len >= sizeof name) continue;
        memcpy(name, key.data, key.len);
        name[key.len] = '\0';
        if (gguf_get_string(g, name, &string) == GGUF_FOUND && string.len) sum += (uint8_t)string.data[string.len - 1];
        if (gguf_get_array(g, name, &array) != GGUF_FOUND) continue;
        size_t cursor = 0;
        for (size_t k = 0; k < array.n; k++) {
            if (array.kind == GGUF_STRING) {
                struct gguf_string s = gguf_array_next(&array, &cursor);
                if (s.len) sum += (uint8_t)s.data[s.len - 1];
            } else {
                sum += (uint64_t)gguf_array_i64(&array, k) + (gguf_array_f64(&array, k) > 1);
            }
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (gguf_find_tensor(g, t->name) != t) abort();
        for (size_t k = 0; k < t->bytes; k++) sum += ((const uint8_t *)t->data)[k];
    }
    sink = sum;
}

static void use_tokenizer(const struct gguf *g) {
    static const char text[] = "the <|im_end|>  aaaa 12 \xE4\xBD\xA0\xFF";
    struct engine_error error;
    struct tokenizer *tokenizer;
    struct chat_template *template;
    struct token_list list = {.limit = 500};
    struct engine_message message = {ENGINE_ROLE_USER, text, sizeof text - 1};
    struct chat_prompt prompt = {.messages = &message, .n_messages = 1};
    if (tokenizer_open(&tokenizer, g, &error) != ENGINE_OK) return;
    if (tokenizer_encode(tokenizer, text, sizeof text - 1, &list) == ENGINE_OK) {
        for (size_t i = 0; i < list.n; i++) {
            size_t len;
            const char *piece = tokenizer_piece(tokenizer, list.ids[i], &len);
            if (len) sink += (uint8_t)piece[len - 1];
            if (tokenizer_is_control(tokenizer, list.ids[i])) abort(); /* text never becomes a control token */
        }
    }
    if (chat_template_open(&template, g, tokenizer, &error) == ENGINE_OK) {
        chat_template_render(template, &prompt, &list, NULL, &error);
        chat_template_close(template);
    }
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

/* A network that opens must also compute: one row. */
static void use_network(const struct gguf *g) {
    const int64_t most_widths = 1 << 20; /* the tables of a model as large as the format allows would not fit a fuzzer's memory */
    const struct model_limits limits = {.max_rows = 1, .max_logits = 1, .ctx_len = KV_BLOCK};
    struct engine_error error;
    struct model_shape shape;
    struct model *model;
    struct kv_pool pool;
    struct kv_shape kv;
    const int32_t zero = 0;
    const struct kernels_seq run = {.n_rows = 1, .blocks = &zero};
    const struct model_batch batch = {
        .tokens = &zero, .n_rows = 1, .seqs = &run, .n_seqs = 1, .logit_rows = &zero, .n_logits = 1};
    if (model_read_shape(&shape, g, &error) != ENGINE_OK || (int64_t)shape.n_layers * shape.n_embd > most_widths) return;
    if (model_open(&model, g, &shape, &backend, &limits, &error) != ENGINE_OK) return;
    if (model_kv_shape(&shape, NULL, &kv, &error) == ENGINE_OK && kv_pool_alloc(&backend, 1, &kv, &pool) == KERNELS_OK) {
        model_forward(model, &pool, &batch);
        sink += model_logits(model, 0)[0] > 0;
        kv_pool_free(&backend, &pool);
    }
    model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!good[0].n) make_good();
    if (size < 1) return 0;
    char path[64];
    struct gguf *g;
    struct engine_error error;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0) abort();
    if (data[0] % (N_GOOD + 1) < N_GOOD) {
        write_changed(fd, &good[data[0] % (N_GOOD + 1)], data + 1, size - 1);
    } else if (write(fd, data + 1, size - 1) != (ssize_t)size - 1) {
        abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (gguf_open(&g, path, &error) == ENGINE_OK) {
        read_everything(g);
        use_tokenizer(g);
        use_network(g);
        gguf_close(g);
    }
    close(fd);
    return 0;
}
