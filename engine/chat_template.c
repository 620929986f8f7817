/* chat_template.c - see chat_template.h. For a family no Jinja is run: the template in the file is read for what tells one family
 * from another and for what differs between models of a family (a default system message, BOS, trimming), and the family's row
 * does the rest. Whether it does so rightly is tried at open.
 *
 * A message becomes  open, role [, header_end], header_text + content, close, after  where open, header_end and close are single
 * special tokens. Texts between two special tokens are tokenized as a whole ("user\n" and the content together), because the
 * pre-tokenizer joins white space across that seam. */
#define _GNU_SOURCE /* memmem */
#include "engine/chat_template.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chat_jinja.h"
#include "engine/gguf_internal.h"
#include "engine/utf8.h"

struct family {
    const char *name;
    const char *open, *header_end, *close; /* special tokens; header_end may be NULL */
    const char *header_text, *after;       /* text before the content and after the close */
    const char *foreign;                   /* a template with this in it only looks like the family; NULL = none */
};

static const struct family families[] = {
    {"ChatML", "<|im_start|>", NULL, "<|im_end|>", "\n", "\n", "<|im_sep|>"},
    {"Llama 3", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n", "", NULL},
};

struct chat_template {
    const struct family *family; /* NULL: none of them */
    struct chat_jinja *jinja;    /* NULL: the family does, or the model cannot chat */
    const struct tokenizer *tokenizer;
    int32_t open, header_end, close; /* ids; header_end is -1 where the family has none */
    bool adds_bos, trims;
    char *default_system; /* stands before a conversation that brings no system message; NULL = nothing */
    const char *preamble; /* begins every system message */
    char trouble[400];    /* empty if the model can chat */
};

/* Llama 3.1 and later put dates before the system message. "Today" is the day that the template itself falls back on: the text of
 * an answer must not depend on the day. */
static const char llama_dates_sign[] = "Cutting Knowledge Date: December 2023";
static const char llama_dates[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

/* --- reading the file's template --- */

static bool has(struct gguf_string text, const char *needle) {
    return memmem(text.data, text.len, needle, strlen(needle)) != NULL;
}

/* Copies the string literal that begins behind the quote at `at` to out (room for the rest of the template), escapes resolved.
 * Returns the position behind the closing quote; *len is the literal's length. */
static size_t read_literal(struct gguf_string text, size_t at, char *out, size_t *len) {
    char quote = text.data[at++];
    *len = 0;
    while (at < text.len && text.data[at] != quote) {
        char c = text.data[at++];
        if (c == '\\' && at < text.len) {
            c = text.data[at++];
            if (c == 'n') c = '\n';
            if (c == 't') c = '\t';
        }
        out[(*len)++] = c;
    }
    return at + 1;
}

/* The literal that is a whole system turn with text in it, as in SmolLM2 and Qwen2: what a conversation without a system message
 * gets. Returns that text, malloc'ed, or NULL. */
static char *find_default_system(struct gguf_string text, const struct family *family, bool *no_memory) {
    char *literal = malloc(text.len + 1), before[64];
    *no_memory = !literal;
    if (!literal) return NULL;
    size_t before_len = (size_t)snprintf(before, sizeof before, "%ssystem%s%s", family->open,
                                         family->header_end ? family->header_end : "", family->header_text);
    size_t close_len = strlen(family->close), at = 0, len;
    while (at < text.len) {
        if (text.data[at] != '\'' && text.data[at] != '"') {
            at++;
            continue;
        }
        at = read_literal(text, at, literal, &len);
        if (len <= before_len || memcmp(literal, before, before_len) != 0) continue;
        char *content = literal + before_len;
        char *end = memmem(content, len - before_len, family->close, close_len);
        if (!end || end == content) continue;
        size_t n = (size_t)(end - content);
        memmove(literal, content, n);
        literal[n] = '\0';
        return literal;
    }
    free(literal);
    return NULL;
}

static const struct family *find_family(struct gguf_string text) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        if (has(text, f->open) && has(text, f->close) && !(f->foreign && has(text, f->foreign))) return f;
    }
    return NULL;
}

/* Looks up the family's special tokens; false if the vocabulary lacks one. */
static bool find_tokens(struct chat_template *t, const struct family *f) {
    t->open = tokenizer_find(t->tokenizer, f->open);
    t->close = tokenizer_find(t->tokenizer, f->close);
    t->header_end = f->header_end ? tokenizer_find(t->tokenizer, f->header_end) : -1;
    return t->open >= 0 && t->close >= 0 && (!f->header_end || t->header_end >= 0);
}

static bool family_is_exact(const struct chat_template *t);

/* Sets the family up, if the template is of one. */
static int choose_family(struct chat_template *t, struct gguf_string text, struct engine_error *error) {
    const struct family *f = find_family(text);
    if (!f || !find_tokens(t, f)) return ENGINE_OK;
    bool no_memory;
    t->default_system = find_default_system(text, f, &no_memory);
    if (no_memory) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the chat template");
    t->adds_bos = has(text, "bos_token") && tokenizer_bos(t->tokenizer) >= 0;
    t->trims = has(text, "| trim") || has(text, "|trim") || has(text, ".strip()");
    t->preamble = has(text, llama_dates_sign) ? llama_dates : "";
    t->family = f;
    return ENGINE_OK;
}

static int choose(struct chat_template *t, const struct gguf *gguf, struct engine_error *error) {
    struct gguf_string text;
    if (gguf_get_string(gguf, "tokenizer.chat_template", &text) != GGUF_FOUND || text.len == 0) {
        snprintf(t->trouble, sizeof t->trouble,
                 "the model file holds no chat template: it is a base model, which completes text but cannot chat");
        return ENGINE_OK;
    }
    int rc = choose_family(t, text, error);
    if (rc == ENGINE_OK) t->jinja = chat_jinja_open(gguf, t->tokenizer, text, t->trouble, sizeof t->trouble);
    if (!t->jinja) return rc; /* the family does, as far as it goes */
    if (t->family && family_is_exact(t)) {
        chat_jinja_close(t->jinja);
        t->jinja = NULL;
    } else {
        t->family = NULL;
    }
    return rc;
}

int chat_template_open(struct chat_template **out, const struct gguf *gguf, const struct tokenizer *tokenizer,
                       struct engine_error *error) {
    *out = NULL;
    struct chat_template *t = calloc(1, sizeof *t);
    if (!t) return gguf_fail(error, ENGINE_ERR_MEMORY, "not enough memory for the chat template");
    t->tokenizer = tokenizer;
    int rc = choose(t, gguf, error);
    if (rc != ENGINE_OK) {
        chat_template_close(t);
        return rc;
    }
    *out = t;
    return ENGINE_OK;
}

void chat_template_close(struct chat_template *template) {
    if (!template) return;
    free(template->default_system);
    chat_jinja_close(template->jinja);
    free(template);
}

const char *chat_template_trouble(const struct chat_template *template) {
    return template->family || template->jinja ? NULL : template->trouble;
}
const char *chat_template_name(const struct chat_template *template) {
    return template->family ? template->family->name : template->jinja ? "the model's own template" : "unknown";
}

/* --- one message --- */

struct renderer {
    const struct chat_template *template;
    char *text; /* [capacity], what stands between two special tokens */
    size_t len, capacity;
};

static bool add_text(struct renderer *r, const char *text, size_t len) {
    if (len > r->capacity - r->len) {
        size_t capacity = (r->len + len) * 2;
        char *larger = realloc(r->text, capacity);
        if (!larger) return false;
        r->text = larger;
        r->capacity = capacity;
    }
    if (len) memcpy(r->text + r->len, text, len);
    r->len += len;
    return true;
}

/* Tokenizes what add_text has gathered. */
static int flush_text(struct renderer *r, struct token_list *list) {
    int rc = r->len ? tokenizer_encode(r->template->tokenizer, r->text, r->len, list) : ENGINE_OK;
    r->len = 0;
    return rc;
}

/* White space as Python's str.strip() sees it. */
static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static size_t space_at(const char *text, size_t len) {
    int n = len ? utf8_scan(text, len) : 0;
    return n > 0 && is_space(utf8_code_point(text, n)) ? (size_t)n : 0;
}

static struct gguf_string trim(struct gguf_string s, bool also_end) {
    size_t n;
    while ((n = space_at(s.data, s.len)) > 0) {
        s.data += n;
        s.len -= n;
    }
    while (also_end && s.len > 0) {
        size_t last = s.len - 1;
        while (last > 0 && ((uint8_t)s.data[last] & 0xC0) == 0x80) last--;
        if (space_at(s.data + last, s.len - last) != s.len - last) break;
        s.len = last;
    }
    return s;
}

/* Everything of a turn before its content. */
static int begin_turn(struct renderer *r, enum engine_role role, struct token_list *list) {
    static const char *const names[] = {
        [ENGINE_ROLE_SYSTEM] = "system", [ENGINE_ROLE_USER] = "user", [ENGINE_ROLE_ASSISTANT] = "assistant"};
    const struct chat_template *t = r->template;
    int rc = token_list_push(list, t->open);
    if (rc == ENGINE_OK && !add_text(r, names[role], strlen(names[role]))) rc = ENGINE_ERR_MEMORY;
    if (rc == ENGINE_OK && t->header_end >= 0) {
        rc = flush_text(r, list);
        if (rc == ENGINE_OK) rc = token_list_push(list, t->header_end);
    }
    if (rc == ENGINE_OK && !add_text(r, t->family->header_text, strlen(t->family->header_text))) rc = ENGINE_ERR_MEMORY;
    if (rc == ENGINE_OK && role == ENGINE_ROLE_SYSTEM && !add_text(r, t->preamble, strlen(t->preamble))) rc = ENGINE_ERR_MEMORY;
    return rc;
}

static int end_turn(struct renderer *r, struct token_list *list) {
    const struct chat_template *t = r->template;
    int rc = flush_text(r, list);
    if (rc == ENGINE_OK) rc = token_list_push(list, t->close);
    if (rc == ENGINE_OK && !add_text(r, t->family->after, strlen(t->family->after))) rc = ENGINE_ERR_MEMORY;
    return rc == ENGINE_OK ? flush_text(r, list) : rc;
}

/* An open turn keeps the end of its content as it is, so that the answer goes on exactly there. */
static int render_message(struct renderer *r, enum engine_role role, const char *text, size_t len, bool stays_open,
                          struct token_list *list) {
    struct gguf_string content = {text, len};
    if (r->template->trims) content = trim(content, !stays_open);
    int rc = begin_turn(r, role, list);
    if (rc == ENGINE_OK && !add_text(r, content.data, content.len)) rc = ENGINE_ERR_MEMORY;
    if (rc != ENGINE_OK) return rc;
    return stays_open ? flush_text(r, list) : end_turn(r, list);
}

/* --- a conversation --- */

/* What comes before the first turn: BOS and the system messages, the model's own if the conversation brings none. */
static int render_head(struct renderer *r, const struct chat_prompt *prompt, int n_system, struct token_list *list) {
    const struct chat_template *t = r->template;
    int rc = t->adds_bos ? token_list_push(list, tokenizer_bos(t->tokenizer)) : ENGINE_OK;
    const char *standard = t->default_system ? t->default_system : *t->preamble ? "" : NULL;
    if (rc == ENGINE_OK && n_system == 0 && standard) {
        rc = render_message(r, ENGINE_ROLE_SYSTEM, standard, strlen(standard), false, list);
    }
    for (int i = 0; rc == ENGINE_OK && i < n_system; i++) {
        rc = render_message(r, ENGINE_ROLE_SYSTEM, prompt->messages[i].text, prompt->messages[i].len, false, list);
    }
    return rc;
}

/* The turns from the last one back to the first, as far as tail's limit reaches. tail holds them in that order, the end of
 * message i at ends[i]. *first is the oldest one that fits. */
static int render_tail(struct renderer *r, const struct chat_prompt *prompt, int n_system, struct token_list *tail, size_t *ends,
                       int *first) {
    int rc = ENGINE_OK, last = prompt->n_messages - 1;
    if (!prompt->continue_last) {
        rc = begin_turn(r, ENGINE_ROLE_ASSISTANT, tail);
        if (rc == ENGINE_OK) rc = flush_text(r, tail);
    }
    ends[prompt->n_messages] = tail->n;
    for (*first = prompt->n_messages; rc == ENGINE_OK && *first > n_system; --*first) {
        int i = *first - 1;
        const struct engine_message *m = &prompt->messages[i];
        rc = render_message(r, m->role, m->text, m->len, prompt->continue_last && i == last, tail);
        if (rc != ENGINE_OK) break;
        ends[i] = tail->n;
    }
    r->len = 0;
    return rc;
}

/* Decides where the kept turns begin: the oldest that fits, moved on to a user's message; never behind the last user's message,
 * or the last message if the user said nothing. Returns -1 if that does not fit. */
static int first_kept(const struct chat_prompt *prompt, int n_system, int first) {
    int last_turn = prompt->n_messages - 1;
    while (last_turn > n_system && prompt->messages[last_turn].role != ENGINE_ROLE_USER) last_turn--;
    if (prompt->messages[last_turn].role != ENGINE_ROLE_USER) last_turn = prompt->n_messages - 1;
    while (first < last_turn && prompt->messages[first].role != ENGINE_ROLE_USER) first++;
    return first <= last_turn ? first : -1;
}

/* Everything after the head, into list. */
static int render_turns(struct renderer *r, const struct chat_prompt *prompt, int n_system, struct token_list *list,
                        int *n_dropped) {
    struct token_list tail = {0};
    if (list->limit && list->limit == list->n) return ENGINE_ERR_TOO_LONG; /* a limit of 0 would be none */
    if (list->limit) tail.limit = list->limit - list->n;
    size_t *ends = malloc(((size_t)prompt->n_messages + 1) * sizeof *ends);
    if (!ends) return ENGINE_ERR_MEMORY;
    int first = prompt->n_messages;
    int rc = render_tail(r, prompt, n_system, &tail, ends, &first);
    if (rc == ENGINE_ERR_TOO_LONG && prompt->drop_oldest && first < prompt->n_messages) {
        first = first_kept(prompt, n_system, first);
        if (first >= 0) rc = ENGINE_OK;
    }
    if (rc == ENGINE_OK) {
        *n_dropped = first - n_system;
        for (int i = first; rc == ENGINE_OK && i < prompt->n_messages; i++) {
            rc = token_list_append(list, tail.ids + ends[i + 1], ends[i] - ends[i + 1]);
        }
        if (rc == ENGINE_OK) rc = token_list_append(list, tail.ids, ends[prompt->n_messages]);
    }
    free(ends);
    token_list_free(&tail);
    return rc;
}

static int check_prompt(const struct chat_template *template, const struct chat_prompt *prompt, struct engine_error *error) {
    const char *trouble = chat_template_trouble(template);
    if (trouble) return gguf_fail(error, ENGINE_ERR_ARGUMENT, "%s", trouble);
    if (prompt->n_messages < 1) return gguf_fail(error, ENGINE_ERR_ARGUMENT, "a conversation needs at least one message");
    if (prompt->continue_last && prompt->messages[prompt->n_messages - 1].role != ENGINE_ROLE_ASSISTANT) {
        return gguf_fail(error, ENGINE_ERR_ARGUMENT, "only a message of the assistant can be continued");
    }
    return ENGINE_OK;
}

static int render_family(const struct chat_template *template, const struct chat_prompt *prompt, int n_system,
                         struct token_list *list, int *n_dropped) {
    struct renderer r = {.template = template};
    int rc = render_head(&r, prompt, n_system, list);
    if (rc == ENGINE_OK) rc = render_turns(&r, prompt, n_system, list, n_dropped);
    free(r.text);
    return rc;
}

int chat_template_render(const struct chat_template *template, const struct chat_prompt *prompt, struct token_list *list,
                         int *n_dropped, struct engine_error *error) {
    int rc = check_prompt(template, prompt, error);
    if (rc != ENGINE_OK) return rc;
    size_t n_before = list->n;
    int n_system = 0, dropped = 0;
    while (n_system < prompt->n_messages && prompt->messages[n_system].role == ENGINE_ROLE_SYSTEM) n_system++;
    rc = template->family ? render_family(template, prompt, n_system, list, &dropped)
                          : chat_jinja_render(template->jinja, prompt, n_system, list, &dropped, error);
    if (rc == ENGINE_OK) {
        if (n_dropped) *n_dropped = dropped;
        return rc;
    }
    list->n = n_before;
    if (rc == ENGINE_ERR_ARGUMENT) return rc; /* the template's own words */
    if (rc == ENGINE_ERR_MEMORY) return gguf_fail(error, rc, "not enough memory for the prompt");
    assert(rc == ENGINE_ERR_TOO_LONG);
    return gguf_fail(error, rc, "%s does not fit the %zu tokens of the context; shorten it or start with a larger --ctx",
                     prompt->drop_oldest ? "the last message" : "the conversation", list->limit);
}

/* --- is the family's row right? --- */

/* Whether the row gives the tokens of the template itself. Both may refuse. */
static bool same_tokens(const struct chat_template *t, const struct chat_prompt *prompt, int n_system) {
    struct token_list ours = {0}, theirs = {0};
    struct engine_error error;
    int n_dropped;
    bool same = render_family(t, prompt, n_system, &ours, &n_dropped) == ENGINE_OK &&
                chat_jinja_render(t->jinja, prompt, n_system, &theirs, &n_dropped, &error) == ENGINE_OK && ours.n == theirs.n &&
                memcmp(ours.ids, theirs.ids, ours.n * sizeof *ours.ids) == 0;
    token_list_free(&ours);
    token_list_free(&theirs);
    return same;
}

static bool family_is_exact(const struct chat_template *t) {
    static const char question[] = " \n What?\n ", answer[] = "<think>\nHm.\n</think>\n\n That. \n", rule[] = " Be.\n";
    static const struct engine_message messages[] = {
        {ENGINE_ROLE_SYSTEM, rule, sizeof rule - 1},
        {ENGINE_ROLE_USER, question, sizeof question - 1},
        {ENGINE_ROLE_ASSISTANT, answer, sizeof answer - 1},
        {ENGINE_ROLE_USER, question, sizeof question - 1},
        {ENGINE_ROLE_ASSISTANT, answer + 7, sizeof answer - 8},
    };
    for (int first = 0; first < 2; first++) {
        for (int n = 2 - first; n <= 5 - first; n++) {
            struct chat_prompt prompt = {.messages = messages + first, .n_messages = n};
            prompt.continue_last = messages[first + n - 1].role == ENGINE_ROLE_ASSISTANT;
            if (!same_tokens(t, &prompt, 1 - first)) return false;
        }
    }
    return true;
}
