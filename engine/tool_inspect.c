/* tool_inspect.c - `foresay inspect`: what a model file holds, and whether and with how much memory this program can run it.
 *
 * Any well-formed GGUF file can be inspected, also of families and types that the engine cannot run: the report then says why. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/chat_template.h"
#include "engine/gguf.h"
#include "engine/memory.h"
#include "engine/model.h"
#include "engine/options.h"
#include "engine/tokenizer.h"
#include "engine/tools.h"

enum { MAX_TYPES = 64, MAX_SHOWN = 160 };

static void line(const char *label, const char *value) { printf("%-15s %s\n", label, value); }

/* A string of the file, fit for a terminal: UTF-8 as it is, control characters as question marks. */
static void string_line(const char *label, const struct gguf *gguf, const char *key) {
    struct gguf_string s;
    char shown[MAX_SHOWN + 1];
    if (gguf_get_string(gguf, key, &s) != GGUF_FOUND) return;
    size_t n = s.len < MAX_SHOWN ? s.len : MAX_SHOWN;
    for (size_t i = 0; i < n; i++) shown[i] = (unsigned char)s.data[i] < 0x20 || s.data[i] == 0x7F ? '?' : s.data[i];
    shown[n] = '\0';
    line(label, shown);
}

/* --- tensors --- */

struct type_sum {
    uint32_t type;
    int n_tensors;
    uint64_t n_elements, bytes;
};

static uint64_t n_elements(const struct gguf_tensor *t) {
    return (uint64_t)t->dims[0] * (uint64_t)t->dims[1] * (uint64_t)t->dims[2] * (uint64_t)t->dims[3];
}

/* The sums of each type in the order in which they first appear; returns their number. */
static int sum_types(const struct gguf *gguf, struct type_sum sums[MAX_TYPES], struct type_sum *total) {
    int n = 0;
    *total = (struct type_sum){0};
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        int at = 0;
        while (at < n && sums[at].type != t->type) at++;
        if (at == n) sums[n++] = (struct type_sum){.type = t->type};
        struct type_sum *both[] = {&sums[at], total};
        for (int k = 0; k < 2; k++) {
            both[k]->n_tensors++;
            both[k]->n_elements += n_elements(t);
            both[k]->bytes += t->bytes;
        }
    }
    return n;
}

static void print_types(const struct gguf *gguf) {
    struct type_sum sums[MAX_TYPES], total;
    char size[32], text[128];
    int n = sum_types(gguf, sums, &total);
    snprintf(text, sizeof text, "%" PRIu64 " (%.1f million) in %d tensors, %s", total.n_elements, (double)total.n_elements / 1e6,
             total.n_tensors, memory_format(total.bytes, size, sizeof size));
    line("parameters", text);
    for (int i = 0; i < n; i++) {
        enum dtype unused;
        printf("  %-13s %4d tensors %14" PRIu64 " parameters %12s%s\n", gguf_type_name(sums[i].type), sums[i].n_tensors,
               sums[i].n_elements, memory_format(sums[i].bytes, size, sizeof size),
               gguf_type_to_dtype(sums[i].type, &unused) ? "" : "  (this program cannot compute with it)");
    }
}

static void print_tensors(const struct gguf *gguf) {
    printf("\n");
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(gguf, i);
        printf("%-64s %-8s", t->name, gguf_type_name(t->type));
        for (int d = 0; d < t->n_dims; d++) printf(" %" PRId64, t->dims[d]);
        printf("\n");
    }
}

/* --- the network --- */

static void print_memory(const struct model_shape *shape) {
    struct engine_config config = engine_config_default();
    struct model_limits limits = {.max_rows = config.step_tokens, .max_logits = config.max_seqs, .ctx_len = shape->ctx_train};
    struct kv_shape kv_shape;
    struct engine_error unused;
    model_kv_shape(shape, NULL, &kv_shape, &unused);
    uint64_t token = kv_block_bytes(&kv_shape) / KV_BLOCK;
    uint64_t kv = token * (uint64_t)shape->ctx_train, buffers = model_buffer_bytes(shape, &limits);
    char t[4][32], text[256];
    snprintf(text, sizeof text, "%s: weights %s, buffers %s, keys and values %s for one full context (%.1f KiB a token)",
             memory_format(shape->weight_bytes + buffers + kv, t[0], sizeof t[0]),
             memory_format(shape->weight_bytes, t[1], sizeof t[1]), memory_format(buffers, t[2], sizeof t[2]),
             memory_format(kv, t[3], sizeof t[3]), (double)token / 1024);
    line("memory", text);
}

/* The shape, or why the network cannot be run. True if it can. */
static bool print_network(const struct gguf *gguf) {
    struct engine_error error;
    struct model_shape shape;
    char text[160];
    if (gguf_n_tensors(gguf) == 0) {
        line("network", "none: the file holds a vocabulary only");
        return false;
    }
    if (model_read_shape(&shape, gguf, &error) != ENGINE_OK) {
        line("network", error.text);
        return false;
    }
    snprintf(text, sizeof text, "%d layers of width %d (feed-forward %d), %d heads of %d, %d for keys and values", shape.n_layers,
             shape.n_embd, shape.n_ffn, shape.n_heads, shape.head_dim, shape.n_kv_heads);
    line("network", text);
    snprintf(text, sizeof text, "%d tokens", shape.ctx_train);
    line("context", text);
    print_memory(&shape);
    return true;
}

/* --- the tokenizer --- */

/* True if text can be tokenized. */
static bool print_tokenizer(const struct gguf *gguf) {
    struct engine_error error;
    struct tokenizer *tokenizer;
    struct chat_template *template = NULL;
    char text[160];
    if (tokenizer_open(&tokenizer, gguf, &error) != ENGINE_OK) {
        line("tokenizer", error.text);
        return false;
    }
    const char *pre = tokenizer_pre_name(tokenizer);
    snprintf(text, sizeof text, "%s%s%s, %d tokens, BOS %d%s, EOS %d", tokenizer_kind(tokenizer), pre ? ", pre-tokenizer " : "",
             pre ? pre : "", tokenizer_vocab_size(tokenizer), tokenizer_bos(tokenizer),
             tokenizer_adds_bos(tokenizer) ? " (before every text)" : "", tokenizer_eos(tokenizer));
    line("tokenizer", text);
    if (chat_template_open(&template, gguf, tokenizer, &error) == ENGINE_OK) {
        const char *trouble = chat_template_trouble(template);
        line("chat", trouble ? trouble : chat_template_name(template));
        chat_template_close(template);
    }
    tokenizer_close(tokenizer);
    return true;
}

/* --- command --- */

int tool_inspect(int argc, char **argv) {
    const char *model = NULL;
    bool tensors = false;
    struct option_row rows[] = {
        {"model", OPTION_STRING, &model, "FILE", "the file, if it is not named without a flag", 0, 0, false},
        {"tensors", OPTION_FLAG, &tensors, NULL, "list all tensors too", 0, 0, false},
    };
    struct option_set set = {.command = "inspect",
                             .usage = "FILE [--tensors]",
                             .about = "Shows what a GGUF file holds and whether this program can run it.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    struct engine_error error;
    struct gguf *gguf;
    int n_positional = 0;
    int rc = options_parse(&set, argc, argv, &n_positional);
    if (rc) return rc == 1 ? 0 : rc;
    if (n_positional == 1) model = argv[1];
    if (n_positional > 1 || !model) {
        fprintf(stderr, "foresay inspect: name one file (foresay inspect --help)\n");
        return 2;
    }
    if (gguf_open(&gguf, model, &error) != ENGINE_OK) {
        fprintf(stderr, "foresay inspect: %s\n", error.text);
        return 1;
    }
    char size[32], text[96];
    snprintf(text, sizeof text, "GGUF version %u, %s, %zu metadata keys", gguf_version(gguf),
             memory_format(gguf_file_bytes(gguf), size, sizeof size), gguf_n_keys(gguf));
    line("file", text);
    string_line("name", gguf, "general.name");
    string_line("family", gguf, "general.architecture");
    string_line("license", gguf, "general.license");
    print_types(gguf);
    bool runs = print_network(gguf);
    bool tokenizes = print_tokenizer(gguf);
    line("runs here", runs && tokenizes ? "yes" : "no");
    if (tensors) print_tensors(gguf);
    gguf_close(gguf);
    return 0;
}
