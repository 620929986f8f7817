/* chat_jinja.c - see chat_jinja.h. Renders text, then cuts it at control tokens; each text between two of them is tokenized as a
 * whole. Turns that do not fit are found by halving: a render with fewer messages has fewer tokens. */
#define _GNU_SOURCE /* memmem */
#include "engine/chat_jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"
#include "engine/jinja.h"
#include "engine/utf8.h"

/* U+FDD0 breaks names of control tokens, U+FDD1 ends the message that is to be continued. */
#define BREAK "\xEF\xB7\x90"
#define END   "\xEF\xB7\x91"
enum {
    MARK_BYTES = 3,
    BYTES_PER_INPUT_BYTE = 24, /* memory of a render, besides the least */
    LEAST_BYTES = 64 << 20,
};
static const int64_t today_s = 1721952000; /* 26 Jul 2024, which Llama 3's own template falls back on */

struct chat_jinja {
    struct jinja_template *template;
    const struct tokenizer *tokenizer;
    int32_t unknown, padding; /* -1: none */
    bool strips;              /* white space behind a control token is no text (Phi-3) */
};

/* --- text --- */

struct text {
    char *data;
    size_t len, capacity;
};

static bool text_add(struct text *t, const char *data, size_t len) {
    if (len > t->capacity - t->len) {
        size_t capacity = (t->len + len) * 2;
        char *larger = realloc(t->data, capacity);
        if (!larger) return false;
        t->data = larger;
        t->capacity = capacity;
    }
    if (len) memcpy(t->data + t->len, data, len);
    t->len += len;
    return true;
}

static bool is_mark(const char *at) { return memcmp(at, BREAK, MARK_BYTES) == 0 || memcmp(at, END, MARK_BYTES) == 0; }

/* Appends data without the private characters, also without those that come about by taking one out. */
static bool text_add_clean(struct text *t, const char *data, size_t len) {
    size_t start = t->len;
    for (size_t i = 0; i < len; i++) {
        if (!text_add(t, data + i, 1)) return false;
        if (t->len - start >= MARK_BYTES && is_mark(t->data + t->len - MARK_BYTES)) t->len -= MARK_BYTES;
    }
    return true;
}

/* A message's text, in which no control token stands. */
static bool guard(const struct chat_jinja *j, const struct engine_message *message, struct text *out) {
    struct text clean = {0};
    bool fits = text_add_clean(&clean, message->text, message->len);
    for (size_t at = 0; fits && at < clean.len;) {
        size_t name_len;
        int32_t id = tokenizer_match_control(j->tokenizer, clean.data + at, clean.len - at, &name_len);
        int n = id >= 0 ? utf8_scan(clean.data + at, clean.len - at) : 1;
        if (n < 1) n = 1;
        fits = text_add(out, clean.data + at, (size_t)n) && (id < 0 || text_add(out, BREAK, MARK_BYTES));
        at += (size_t)n;
    }
    free(clean.data);
    return fits;
}

/* --- variables --- */

/* One call of chat_jinja_render. */
struct job {
    const struct chat_jinja *jinja;
    const struct chat_prompt *prompt;
    struct text *contents; /* [n_messages], guarded */
    size_t n_bytes;        /* all contents */
    int n_system, first;   /* messages between these two are left out */
};

static void set(struct jinja_context *c, struct jinja_value dict, const char *name, struct jinja_value value) {
    jinja_dict_set(c, dict, jinja_cstring(c, name), value);
}

static void set_token(struct jinja_context *c, struct jinja_value variables, const struct tokenizer *t, const char *name,
                      int32_t id) {
    size_t len;
    const char *text = tokenizer_name(t, id, &len);
    if (id >= 0) set(c, variables, name, jinja_string(c, text, len));
}

static void build_variables(struct jinja_context *c, struct jinja_value variables, void *arg) {
    static const char *const roles[] = {
        [ENGINE_ROLE_SYSTEM] = "system", [ENGINE_ROLE_USER] = "user", [ENGINE_ROLE_ASSISTANT] = "assistant"};
    const struct job *job = arg;
    const struct tokenizer *t = job->jinja->tokenizer;
    struct jinja_value messages = jinja_list_new(c, JINJA_LIST);
    for (int i = 0; i < job->prompt->n_messages; i++) {
        if (i == job->n_system) i = job->first;
        struct jinja_value message = jinja_dict_new(c, JINJA_DICT);
        const struct text *content = &job->contents[i];
        set(c, message, "role", jinja_cstring(c, roles[job->prompt->messages[i].role]));
        set(c, message, "content", jinja_string(c, content->data ? content->data : "", content->len));
        jinja_list_add(c, messages, message);
    }
    set(c, variables, "messages", messages);
    set(c, variables, "tools", jinja_none()); /* transformers passes these two even when there are none */
    set(c, variables, "documents", jinja_none());
    set(c, variables, "add_generation_prompt", jinja_bool(!job->prompt->continue_last));
    set_token(c, variables, t, "bos_token", tokenizer_bos(t));
    set_token(c, variables, t, "eos_token", tokenizer_eos(t));
    set_token(c, variables, t, "unk_token", job->jinja->unknown);
    set_token(c, variables, t, "pad_token", job->jinja->padding);
}

/* --- rendered text to tokens --- */

/* Text between two control tokens. */
static int add_plain(const struct chat_jinja *j, const char *text, size_t len, struct text *scratch, struct token_list *list) {
    if (len == 0) return ENGINE_OK;
    scratch->len = 0;
    if (!text_add_clean(scratch, text, len)) return ENGINE_ERR_MEMORY;
    return scratch->len ? tokenizer_encode(j->tokenizer, scratch->data, scratch->len, list) : ENGINE_OK;
}

/* Puts BOS first where the model wants it; the template may write it too. */
static int add_tokens(const struct chat_jinja *j, const char *text, size_t len, struct text *scratch, struct token_list *list) {
    bool has_bos = tokenizer_adds_bos(j->tokenizer);
    int rc = has_bos ? token_list_push(list, tokenizer_bos(j->tokenizer)) : ENGINE_OK;
    size_t start = 0, n_before = list->n, name_len;
    for (size_t at = 0; rc == ENGINE_OK && at < len;) {
        int32_t id = tokenizer_match_control(j->tokenizer, text + at, len - at, &name_len);
        if (id < 0) {
            at++;
            continue;
        }
        rc = add_plain(j, text + start, at - start, scratch, list);
        bool doubled = has_bos && id == tokenizer_bos(j->tokenizer) && list->n == n_before;
        if (rc == ENGINE_OK && !doubled) rc = token_list_push(list, id);
        at += name_len;
        while (j->strips && at < len && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r'))) at++;
        start = at;
    }
    return rc == ENGINE_OK ? add_plain(j, text + start, len - start, scratch, list) : rc;
}

static int tokenize(const struct job *job, const struct jinja_buffer *out, struct token_list *list, struct engine_error *error) {
    const struct chat_jinja *j = job->jinja;
    struct text scratch = {0};
    size_t len = out->len;
    if (job->prompt->continue_last) { /* the answer goes on where the last message ends */
        while (len >= MARK_BYTES && memcmp(out->data + len - MARK_BYTES, END, MARK_BYTES) != 0) len--;
        if (len < MARK_BYTES) {
            return gguf_fail(error, ENGINE_ERR_ARGUMENT, "the model's chat template leaves out the message to be continued");
        }
        len -= MARK_BYTES;
    }
    int rc = add_tokens(j, out->data, len, &scratch, list);
    free(scratch.data);
    return rc;
}

/* --- render --- */

/* One render with the messages before `first` left out; list is as before unless all is well. */
static int render_from(struct job *job, int first, struct token_list *list, struct engine_error *error) {
    struct jinja_limits limits = {.max_bytes = LEAST_BYTES + BYTES_PER_INPUT_BYTE * job->n_bytes, .now_s = today_s};
    struct jinja_context *context = jinja_context_new(&limits);
    struct jinja_buffer out;
    char why[160];
    size_t n_before = list->n;
    if (!context) return ENGINE_ERR_MEMORY;
    job->first = first;
    int rc;
    if (jinja_render(job->jinja->template, context, build_variables, job, &out, why, sizeof why) != 0) {
        rc = gguf_fail(error, ENGINE_ERR_ARGUMENT, "the model's chat template refuses this conversation: %s", why);
    } else {
        rc = tokenize(job, &out, list, error);
    }
    jinja_context_free(context);
    if (rc != ENGINE_OK) list->n = n_before;
    return rc;
}

/* Where kept turns may begin: at a user's message, the last one at the latest. `places` gets at most n_messages of them. */
static int find_places(const struct chat_prompt *prompt, int n_system, int *places) {
    int n = 0;
    for (int i = n_system + 1; i < prompt->n_messages; i++) {
        if (prompt->messages[i].role == ENGINE_ROLE_USER) places[n++] = i;
    }
    return n;
}

/* Leaves out as few turns as will do. */
static int render_dropping(struct job *job, struct token_list *list, int *n_dropped, struct engine_error *error) {
    int *places = malloc((size_t)job->prompt->n_messages * sizeof *places);
    if (!places) return ENGINE_ERR_MEMORY;
    int low = 0, high = find_places(job->prompt, job->n_system, places), rc = ENGINE_ERR_TOO_LONG, kept = -1;
    while (low < high) { /* places[high] and later are known to fit, those before low not to */
        int middle = low + (high - low) / 2;
        size_t n_before = list->n;
        rc = render_from(job, places[middle], list, error);
        if (rc != ENGINE_OK && rc != ENGINE_ERR_TOO_LONG) break;
        if (rc == ENGINE_OK) {
            list->n = n_before;
            kept = high = middle;
        } else {
            low = middle + 1;
        }
        rc = ENGINE_ERR_TOO_LONG;
    }
    if (rc == ENGINE_ERR_TOO_LONG && kept >= 0) {
        *n_dropped = places[kept] - job->n_system;
        rc = render_from(job, places[kept], list, error);
    }
    free(places);
    return rc;
}

static int prepare(struct job *job) {
    const struct chat_prompt *prompt = job->prompt;
    job->contents = calloc((size_t)prompt->n_messages, sizeof *job->contents);
    if (!job->contents) return ENGINE_ERR_MEMORY;
    for (int i = 0; i < prompt->n_messages; i++) {
        if (!guard(job->jinja, &prompt->messages[i], &job->contents[i])) return ENGINE_ERR_MEMORY;
        job->n_bytes += job->contents[i].len;
    }
    struct text *last = &job->contents[prompt->n_messages - 1];
    return !prompt->continue_last || text_add(last, END, MARK_BYTES) ? ENGINE_OK : ENGINE_ERR_MEMORY;
}

int chat_jinja_render(const struct chat_jinja *jinja, const struct chat_prompt *prompt, int n_system, struct token_list *list,
                      int *n_dropped, struct engine_error *error) {
    struct job job = {.jinja = jinja, .prompt = prompt, .n_system = n_system};
    int rc = prepare(&job);
    *n_dropped = 0;
    if (rc == ENGINE_OK) rc = render_from(&job, n_system, list, error);
    if (rc == ENGINE_ERR_TOO_LONG && prompt->drop_oldest) rc = render_dropping(&job, list, n_dropped, error);
    for (int i = 0; job.contents && i < prompt->n_messages; i++) free(job.contents[i].data);
    free(job.contents);
    return rc;
}

/* --- open --- */

/* A template that leaves out what the user says is broken, or is meant for something else. */
static bool try_it(const struct chat_jinja *j, char *trouble, size_t trouble_size) {
    static const char word[] = "foresay";
    struct engine_message message = {ENGINE_ROLE_USER, word, sizeof word - 1};
    struct chat_prompt prompt = {.messages = &message, .n_messages = 1};
    struct token_list list = {0};
    struct engine_error error = {.text = "not enough memory for the chat template"};
    struct text text = {0};
    int n_dropped;
    bool fits = chat_jinja_render(j, &prompt, 0, &list, &n_dropped, &error) == ENGINE_OK;
    if (!fits) snprintf(trouble, trouble_size, "%s", error.text);
    for (size_t i = 0; fits && i < list.n; i++) {
        size_t len;
        const char *piece = tokenizer_piece(j->tokenizer, list.ids[i], &len);
        fits = text_add(&text, piece, len);
    }
    if (fits && (!text.len || !memmem(text.data, text.len, word, sizeof word - 1))) {
        snprintf(trouble, trouble_size, "the model's chat template leaves out what the user says");
        fits = false;
    }
    free(text.data);
    token_list_free(&list);
    return fits;
}

static int32_t read_token(const struct gguf *gguf, const struct tokenizer *tokenizer, const char *key) {
    uint32_t id;
    bool found = gguf_get_u32(gguf, key, &id) == GGUF_FOUND && id < (uint32_t)tokenizer_vocab_size(tokenizer);
    return found ? (int32_t)id : -1;
}

struct chat_jinja *chat_jinja_open(const struct gguf *gguf, const struct tokenizer *tokenizer, struct gguf_string text,
                                   char *trouble, size_t trouble_size) {
    char why[160] = "not enough memory";
    struct gguf_string architecture = {"", 0};
    struct chat_jinja *j = calloc(1, sizeof *j);
    if (j) j->template = jinja_compile(text.data, text.len, why, sizeof why);
    if (!j || !j->template) {
        snprintf(trouble, trouble_size, "the model's chat template cannot be used: %s", why);
        chat_jinja_close(j);
        return NULL;
    }
    gguf_get_string(gguf, "general.architecture", &architecture);
    j->tokenizer = tokenizer;
    j->unknown = read_token(gguf, tokenizer, "tokenizer.ggml.unknown_token_id");
    j->padding = read_token(gguf, tokenizer, "tokenizer.ggml.padding_token_id");
    j->strips = architecture.len == 4 && memcmp(architecture.data, "phi3", 4) == 0 && tokenizer_prefixes_space(tokenizer);
    if (try_it(j, trouble, trouble_size)) return j;
    chat_jinja_close(j);
    return NULL;
}

void chat_jinja_close(struct chat_jinja *jinja) {
    if (!jinja) return;
    jinja_template_free(jinja->template);
    free(jinja);
}
