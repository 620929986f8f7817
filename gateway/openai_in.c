/* openai_in.c - see openai_in.h. */
#include "gateway/openai_in.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_COMPLETION_TOKENS = 16 }; /* OpenAI's */

static bool refuse(struct openai_refusal *refusal, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static bool refuse(struct openai_refusal *refusal, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    snprintf(refusal->param, sizeof refusal->param, "%s", param ? param : "");
    vsnprintf(refusal->message, sizeof refusal->message, format, args);
    va_end(args);
    return false;
}

void openai_request_free(struct openai_request *request) {
    for (int i = 0; i < request->n_joined; i++) free(request->joined[i]);
    free(request->joined);
    free(request->messages);
    gen_params_free(&request->gen);
    json_decref(request->tree);
    *request = (struct openai_request){0};
}

static json_t *member(const json_t *object, const char *name) {
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

/* --- messages --- */

/* [{"type":"text","text":"..."}, ...] as one string. */
static bool join_parts(const json_t *parts, size_t index, struct openai_request *out, struct engine_message *message,
                       struct openai_refusal *refusal) {
    size_t len = 0, used = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *type = member(part, "type"), *text = member(part, "text");
        if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0 || !json_is_string(text)) {
            return refuse(refusal, "messages", "messages[%zu].content may hold parts of type text only.", index);
        }
        len += json_string_length(text);
    }
    char *joined = malloc(len + 1);
    if (!joined) return refuse(refusal, NULL, "Out of memory.");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *text = member(json_array_get(parts, i), "text");
        memcpy(joined + used, json_string_value(text), json_string_length(text));
        used += json_string_length(text);
    }
    joined[len] = 0;
    out->joined[out->n_joined++] = joined;
    message->text = joined;
    message->len = len;
    return true;
}

static bool take_role(const json_t *item, size_t index, enum engine_role *out, struct openai_refusal *refusal) {
    static const struct {
        const char *name;
        enum engine_role role;
    } roles[] = {{"system", ENGINE_ROLE_SYSTEM},
                 {"developer", ENGINE_ROLE_SYSTEM},
                 {"user", ENGINE_ROLE_USER},
                 {"assistant", ENGINE_ROLE_ASSISTANT}};
    const json_t *role = member(item, "role");
    for (size_t i = 0; json_is_string(role) && i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(json_string_value(role), roles[i].name) != 0) continue;
        *out = roles[i].role;
        return true;
    }
    return refuse(refusal, "messages", "messages[%zu].role must be system, developer, user or assistant.", index);
}

static bool take_messages(const json_t *root, struct openai_request *out, struct openai_refusal *refusal) {
    const json_t *list = member(root, "messages");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0) return refuse(refusal, "messages", "messages must be a list with at least one message.");
    if (n > OPENAI_MAX_MESSAGES)
        return refuse(refusal, "messages", "messages may hold at most %d messages.", OPENAI_MAX_MESSAGES);
    out->messages = calloc(n, sizeof *out->messages);
    out->joined = calloc(n, sizeof *out->joined);
    if (!out->messages || !out->joined) return refuse(refusal, NULL, "Out of memory.");
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i), *content = member(item, "content");
        struct engine_message *message = &out->messages[out->n_messages++];
        if (!json_is_object(item)) return refuse(refusal, "messages", "messages[%zu] must be an object.", i);
        if (!take_role(item, i, &message->role, refusal)) return false;
        if (json_is_string(content)) {
            message->text = json_string_value(content);
            message->len = json_string_length(content);
        } else if (!json_is_array(content)) {
            return refuse(refusal, "messages", "messages[%zu].content must be a string or a list of text parts.", i);
        } else if (!join_parts(content, i, out, message, refusal)) {
            return false;
        }
    }
    return true;
}

/* A string, or a list of one. */
static bool take_prompt(const json_t *root, struct openai_request *out, struct openai_refusal *refusal) {
    const json_t *prompt = member(root, "prompt");
    if (json_is_array(prompt) && json_array_size(prompt) == 1) prompt = json_array_get(prompt, 0);
    if (!json_is_string(prompt) || json_string_length(prompt) == 0)
        return refuse(refusal, "prompt",
                      "prompt must be a string that is not empty (or a list of one); token ids are not supported.");
    out->prompt = json_string_value(prompt);
    out->prompt_len = json_string_length(prompt);
    return true;
}

/* --- settings --- */

static bool take_number(const json_t *root, const char *name, double min, double max, float *out,
                        struct openai_refusal *refusal) {
    const json_t *value = member(root, name);
    double number = json_number_value(value);
    if (!value) return true;
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        return refuse(refusal, name, "%s must be a number from %g to %g.", name, min, max);
    }
    *out = (float)number;
    return true;
}

static bool take_count(const json_t *root, const char *name, int *out, struct openai_refusal *refusal) {
    const json_t *value = member(root, name);
    if (!value) return true;
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > INT32_MAX) {
        return refuse(refusal, name, "%s must be a whole number of at least 1.", name);
    }
    *out = (int)json_integer_value(value);
    return true;
}

static bool take_flag(const json_t *object, const char *name, bool *out, struct openai_refusal *refusal) {
    const json_t *value = member(object, name);
    if (!value) return true;
    if (!json_is_boolean(value)) return refuse(refusal, name, "%s must be true or false.", name);
    *out = json_is_true(value);
    return true;
}

static bool add_stop(const json_t *text, struct gen_params *gen, struct openai_refusal *refusal) {
    size_t len = json_string_length(text);
    if (!json_is_string(text) || len < 1 || len > ENGINE_MAX_STOP_LEN) {
        return refuse(refusal, "stop", "A stop string must have 1 to %d bytes.", ENGINE_MAX_STOP_LEN);
    }
    if (gen->n_stop == ENGINE_MAX_STOP) return refuse(refusal, "stop", "There may be at most %d stop strings.", ENGINE_MAX_STOP);
    gen->stop[gen->n_stop] = strdup(json_string_value(text));
    if (!gen->stop[gen->n_stop]) return refuse(refusal, NULL, "Out of memory.");
    gen->n_stop++;
    return true;
}

static bool take_stop(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *stop = member(root, "stop");
    if (!stop) return true;
    if (!json_is_array(stop)) return add_stop(stop, gen, refusal);
    for (size_t i = 0; i < json_array_size(stop); i++) {
        if (!add_stop(json_array_get(stop, i), gen, refusal)) return false;
    }
    return true;
}

/* {"50256": -100, ...}: token ids are strings of digits. */
static bool take_bias(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *map = member(root, "logit_bias");
    size_t n = json_object_size(map);
    if (!map) return true;
    if (!json_is_object(map) || n > ENGINE_MAX_BIAS) {
        return refuse(refusal, "logit_bias", "logit_bias must be an object of at most %d tokens.", ENGINE_MAX_BIAS);
    }
    if (n == 0) return true;
    gen->bias = calloc(n, sizeof *gen->bias);
    if (!gen->bias) return refuse(refusal, NULL, "Out of memory.");
    gen->sampling.bias = gen->bias;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value) {
        size_t digits = strspn(key, "0123456789");
        double bias = json_number_value(value);
        if (digits == 0 || digits > 9 || key[digits] || !json_is_number(value) || !(bias >= -100 && bias <= 100)) {
            return refuse(refusal, "logit_bias", "logit_bias maps token ids to numbers from -100 to 100; \"%.20s\" does not fit.",
                          key);
        }
        gen->bias[gen->sampling.n_bias++] = (struct engine_bias){(int32_t)strtol(key, NULL, 10), (float)bias};
    }
    return true;
}

static bool take_seed(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *seed = member(root, "seed");
    if (!seed) return true;
    if (!json_is_integer(seed)) return refuse(refusal, "seed", "seed must be a whole number.");
    gen->has_seed = true;
    gen->sampling.seed = (uint64_t)json_integer_value(seed);
    return true;
}

/* Not OpenAI's: who guesses ahead. The text does not depend on it. */
static bool take_drafter(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *drafter = member(root, "drafter");
    if (!drafter || (json_is_string(drafter) && engine_drafter_parse(json_string_value(drafter), &gen->drafter, NULL)))
        return true;
    return refuse(refusal, "drafter", "drafter must be " ENGINE_DRAFTER_NAMES ".");
}

/* Not OpenAI's: how its guesses are checked. */
static bool take_verify(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *verify = member(root, "verify");
    if (!verify || (json_is_string(verify) && engine_verify_parse(json_string_value(verify), &gen->verify))) return true;
    return refuse(refusal, "verify", "verify must be " ENGINE_VERIFY_FORMS ".");
}

static bool take_sampling(const json_t *root, struct gen_params *gen, struct openai_refusal *refusal) {
    struct engine_sampling *s = &gen->sampling;
    s->temperature = 1; /* OpenAI's defaults, not the page's */
    s->top_p = 1;
    if (!take_count(root, "max_tokens", &gen->max_tokens, refusal) ||
        !take_count(root, "max_completion_tokens", &gen->max_tokens, refusal) ||
        !take_number(root, "temperature", 0, 2, &s->temperature, refusal) ||
        !take_number(root, "top_p", 0, 1, &s->top_p, refusal) ||
        !take_number(root, "presence_penalty", -2, 2, &s->presence_penalty, refusal) ||
        !take_number(root, "frequency_penalty", -2, 2, &s->frequency_penalty, refusal)) {
        return false;
    }
    if (!(s->top_p > 0)) return refuse(refusal, "top_p", "top_p must be greater than 0.");
    return take_seed(root, gen, refusal) && take_stop(root, gen, refusal) && take_bias(root, gen, refusal) &&
           take_drafter(root, gen, refusal) && take_verify(root, gen, refusal);
}

static bool take_top(const json_t *value, const char *name, struct gen_params *gen, struct openai_refusal *refusal) {
    if (!value) return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > ENGINE_MAX_TOP_LOGPROBS) {
        return refuse(refusal, name, "%s must be a whole number from 0 to %d.", name, ENGINE_MAX_TOP_LOGPROBS);
    }
    gen->logprobs = true;
    gen->n_top_logprobs = (int)json_integer_value(value);
    return true;
}

/* Chats say logprobs: true and top_logprobs: n; completions logprobs: n. */
static bool take_logprobs(const json_t *root, enum openai_kind kind, struct gen_params *gen, struct openai_refusal *refusal) {
    const json_t *top = member(root, "top_logprobs");
    if (kind == OPENAI_COMPLETION) {
        if (top)
            return refuse(refusal, "top_logprobs", "top_logprobs belongs to chat completions; logprobs takes the number here.");
        return take_top(member(root, "logprobs"), "logprobs", gen, refusal);
    }
    if (!take_flag(root, "logprobs", &gen->logprobs, refusal)) return false;
    if (top && !gen->logprobs) return refuse(refusal, "top_logprobs", "top_logprobs goes with logprobs: true.");
    return take_top(top, "top_logprobs", gen, refusal);
}

/* best_of would choose among more answers than it returns. */
static bool take_choices(const json_t *root, struct openai_request *out, struct openai_refusal *refusal) {
    const json_t *n = member(root, "n"), *best_of = member(root, "best_of");
    out->n_choices = 1;
    if (n && !(json_is_integer(n) && json_integer_value(n) >= 1 && json_integer_value(n) <= OPENAI_MAX_CHOICES))
        return refuse(refusal, "n", "n must be a whole number from 1 to %d.", OPENAI_MAX_CHOICES);
    if (n) out->n_choices = (int)json_integer_value(n);
    if (best_of && !(json_is_integer(best_of) && json_integer_value(best_of) == out->n_choices))
        return refuse(refusal, "best_of", "best_of is supported only as the same number as n.");
    return true;
}

/* What would change the answer and is not offered: saying no is better than answering something else. */
static bool refuse_unsupported(const json_t *root, enum openai_kind kind, struct openai_refusal *refusal) {
    static const char *const lists[] = {"tools", "functions"}, *const objects[] = {"audio", "prediction", "web_search_options"};
    const json_t *suffix = member(root, "suffix");
    const json_t *format = member(root, "response_format"), *type = member(format, "type");
    if (kind == OPENAI_COMPLETION) {
        bool echo = false;
        if (!take_flag(root, "echo", &echo, refusal)) return false;
        if (echo) return refuse(refusal, "echo", "echo is not supported.");
        if (json_string_length(suffix) > 0) return refuse(refusal, "suffix", "suffix is not supported.");
    }
    if (format && !(json_is_string(type) && strcmp(json_string_value(type), "text") == 0)) {
        return refuse(refusal, "response_format", "response_format: only {\"type\": \"text\"} is supported.");
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (json_array_size(member(root, lists[i])) > 0) return refuse(refusal, lists[i], "%s is not supported.", lists[i]);
    }
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
        if (member(root, objects[i])) return refuse(refusal, objects[i], "%s is not supported.", objects[i]);
    }
    return true;
}

static bool take_stream(const json_t *root, struct openai_request *out, struct openai_refusal *refusal) {
    const json_t *options = member(root, "stream_options");
    if (!take_flag(root, "stream", &out->stream, refusal)) return false;
    if (!options) return true;
    if (!json_is_object(options)) return refuse(refusal, "stream_options", "stream_options must be an object.");
    if (!out->stream) return refuse(refusal, "stream_options", "stream_options goes with stream: true.");
    return take_flag(options, "include_usage", &out->include_usage, refusal);
}

static bool parse_root(const json_t *root, enum openai_kind kind, struct openai_request *out, struct openai_refusal *refusal) {
    if (!json_is_object(root)) return refuse(refusal, NULL, "The body must be a JSON object.");
    const json_t *model = member(root, "model");
    if (model && !json_is_string(model)) return refuse(refusal, "model", "model must be a string.");
    out->model = json_string_value(model);
    if (kind == OPENAI_COMPLETION) out->gen.max_tokens = DEFAULT_COMPLETION_TOKENS;
    return (kind == OPENAI_CHAT ? take_messages(root, out, refusal) : take_prompt(root, out, refusal)) &&
           take_sampling(root, &out->gen, refusal) && take_logprobs(root, kind, &out->gen, refusal) &&
           take_choices(root, out, refusal) && refuse_unsupported(root, kind, refusal) && take_stream(root, out, refusal);
}

bool openai_parse(enum openai_kind kind, const char *body, size_t len, struct openai_request *out,
                  struct openai_refusal *refusal) {
    json_error_t trouble;
    *out = (struct openai_request){.gen = gen_params_default()};
    *refusal = (struct openai_refusal){0};
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &trouble);
    if (!root && json_error_code(&trouble) == json_error_null_character)
        return refuse(refusal, NULL, "The character \\u0000 may not stand in a text (at byte %d).", trouble.position);
    if (!root) return refuse(refusal, NULL, "The body is not JSON: %.120s (at byte %d).", trouble.text, trouble.position);
    out->tree = root;
    if (parse_root(root, kind, out, refusal)) return true;
    openai_request_free(out);
    return false;
}
