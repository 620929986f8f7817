/* tool_inspect.c - `foresay inspect`: what a model file holds, and whether and with how much memory this program can run it.
 *
 * Any well-formed GGUF file can be inspected, also of families and types that the engine cannot run: the report then says why. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/chat_template.h"
#include "engine/internal.h"
#include "engine/memory.h"
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

/* What the engine takes with its default settings and a single conversation that fills the context. */
struct memory_need {
    uint64_t weights, buffers, all;
    uint64_t kv_per_1000[KV_TYPE_COUNT]; /* 0 where this model's heads do not suit the type */
    int ctx;
};

static struct memory_need memory_need(const struct gguf *gguf, const struct model_shape *shape) {
    const struct engine_config config = engine_config_default();
    struct memory_need need = {.weights = model_weight_memory(gguf), .ctx = engine_default_ctx(shape->ctx_train)};
    struct model_limits limits = {.max_rows = config.step_tokens, .max_logits = config.max_seqs, .ctx_len = need.ctx};
    struct engine_error unused;
    struct kv_shape kv;
    model_activations(shape, NULL, &limits.rests, &unused);
    need.buffers = model_buffer_bytes(shape, &limits);
    need.all = need.weights + need.buffers;
    for (int type = 0; type < KV_TYPE_COUNT; type++) {
        if (model_kv_shape(shape, kv_type_name((enum kv_type)type), &kv, &unused) != ENGINE_OK) continue;
        need.kv_per_1000[type] = kv_block_bytes(&kv) * 1000 / KV_BLOCK;
    }
    if (model_kv_shape(shape, NULL, &kv, &unused) == ENGINE_OK)
        need.all += kv_block_bytes(&kv) * (uint64_t)kv_blocks_for(need.ctx);
    return need;
}

static void print_memory(const struct gguf *gguf, const struct model_shape *shape, const struct memory_need *need) {
    const struct model_cost cost = model_cost(gguf, shape);
    const uint64_t available = memory_available();
    char t[2][32], text[160], left[64] = "";
    if (available != UINT64_MAX)
        snprintf(left, sizeof left, "; this machine has %s left", memory_format(available, t[0], sizeof t[0]));
    snprintf(text, sizeof text, "%s for one conversation of %d tokens%s", memory_format(need->all, t[1], sizeof t[1]), need->ctx,
             left);
    line("memory", text);
    snprintf(text, sizeof text, "%s, of which every token reads %s", memory_format(need->weights, t[0], sizeof t[0]),
             memory_format(cost.bytes, t[1], sizeof t[1]));
    line("  weights", text);
    snprintf(text, sizeof text, "%s with default settings", memory_format(need->buffers, t[0], sizeof t[0]));
    line("  buffers", text);
    size_t n = 0;
    for (int type = 0; type < KV_TYPE_COUNT; type++)
        if (need->kv_per_1000[type] > 0)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s (%s)", n ? ", " : "",
                                  memory_format(need->kv_per_1000[type], t[0], sizeof t[0]), kv_type_name((enum kv_type)type));
    snprintf(text + n, sizeof text - n, " for 1,000 tokens");
    line("  keys, values", text);
}

/* Shape and memory. False, and why says it in a sentence, if the network cannot be run. */
static bool print_network(const struct gguf *gguf, struct engine_error *why) {
    struct model_shape shape;
    char text[160], t[2][32];
    if (gguf_n_tensors(gguf) == 0) {
        snprintf(why->text, sizeof why->text, "the file holds a vocabulary only");
        return false;
    }
    if (model_read_shape(&shape, gguf, why) != ENGINE_OK) return false;
    snprintf(text, sizeof text, "%d layers of width %d (feed-forward %d), %d heads of %d, %d for keys and values", shape.n_layers,
             shape.n_embd, shape.n_ffn, shape.n_heads, shape.head_dim, shape.n_kv_heads);
    line("network", text);
    snprintf(text, sizeof text, "%d experts, %d of them for a token", shape.n_experts, shape.n_experts_used);
    if (shape.n_experts > 0) line("experts", text);
    snprintf(text, sizeof text, "%d tokens", shape.ctx_train);
    line("context", text);
    const struct memory_need need = memory_need(gguf, &shape);
    print_memory(gguf, &shape, &need);
    if (model_check(gguf, &shape, why) != ENGINE_OK) return false;
    if (need.all <= memory_available()) return true;
    snprintf(why->text, sizeof why->text, "%s are needed, but this machine has %s left; a smaller --ctx needs less",
             memory_format(need.all, t[0], sizeof t[0]), memory_format(memory_available(), t[1], sizeof t[1]));
    return false;
}

/* --- the tokenizer --- */

/* False, and why says it in a sentence, if text cannot be tokenized. */
static bool print_tokenizer(const struct gguf *gguf, struct engine_error *why) {
    struct tokenizer *tokenizer;
    struct engine_error error;
    struct chat_template *template = NULL;
    char text[160];
    if (tokenizer_open(&tokenizer, gguf, why) != ENGINE_OK) return false;
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

/* The sentences of the loader begin with the file's name, which is known here. */
static void print_no(const struct engine_error *why, const char *path) {
    const char *rest = why->text;
    const size_t n = strlen(path);
    char text[sizeof why->text + 16];
    if (strncmp(rest, path, n) == 0) rest += n;
    if (strncmp(rest, ": ", 2) == 0 && rest > why->text) rest += 2;
    snprintf(text, sizeof text, "no: %s%.*s", *rest == ' ' ? "the file" : "", (int)sizeof why->text, rest);
    line("runs here", text);
}

static void print_verdict(const struct gguf *gguf, const char *path) {
    struct engine_error why[2];
    const bool ok[2] = {print_network(gguf, &why[0]), print_tokenizer(gguf, &why[1])};
    if (ok[0] && ok[1]) line("runs here", "yes");
    for (int i = 0; i < 2; i++)
        if (!ok[i]) print_no(&why[i], path);
}

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
    print_verdict(gguf, model);
    if (tensors) print_tensors(gguf);
    gguf_close(gguf);
    return 0;
}
