/* wire_in.c - see wire_in.h. One function a message type; the helpers above them take one field each and fill the error.
 *
 * Missing, null and absent mean the same for optional fields. Unknown fields of a message are ignored, so that a newer page can
 * talk to an older server; unknown members of gen are refused, because a sampling wish that is not met silently is worse than an
 * error. */
#include "gateway/wire_in.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gen_params gen_params_default(void) {
    return (struct gen_params){.sampling = engine_sampling_default()};
}

void gen_params_free(struct gen_params *params) {
    for (int i = 0; i < params->n_stop; i++) free(params->stop[i]);
    free(params->system);
    free(params->bias);
    *params = (struct gen_params){0};
}

static bool copy_string(char **out, const char *text) {
    *out = text ? strdup(text) : NULL;
    return *out || !text;
}

bool gen_params_copy(struct gen_params *out, const struct gen_params *params) {
    size_t bytes = (size_t)params->sampling.n_bias * sizeof *params->bias;
    *out = *params;
    bool is_whole = copy_string(&out->system, params->system);
    for (int i = 0; i < params->n_stop; i++) is_whole = copy_string(&out->stop[i], params->stop[i]) && is_whole;
    out->bias = bytes > 0 ? malloc(bytes) : NULL;
    out->sampling.bias = out->bias;
    if (out->bias) memcpy(out->bias, params->bias, bytes);
    if (is_whole && (out->bias || bytes == 0)) return true;
    gen_params_free(out);
    return false;
}

void wire_request_free(struct request *request) {
    gen_params_free(&request->gen);
    json_decref(request->tree);
    request->tree = NULL;
}

/* --- one field each; false = the error is filled --- */

static bool fail(struct wire_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static bool fail(struct wire_error *error, int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    error->code = code;
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return false;
}

static json_t *member(const json_t *object, const char *name) {
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

/* Copies a string of 1..PROTOCOL_MAX_ID bytes. */
static bool take_name(const json_t *object, const char *name, char out[PROTOCOL_MAX_ID + 1], struct wire_error *error) {
    const json_t *value = member(object, name);
    size_t len = json_string_length(value);
    if (!json_is_string(value) || len < 1 || len > PROTOCOL_MAX_ID) {
        return fail(error, CODE_BAD_FIELD, "%s must be a string of 1 to %d bytes.", name, PROTOCOL_MAX_ID);
    }
    memcpy(out, json_string_value(value), len + 1);
    return true;
}

static bool take_id(const json_t *object, const char *name, bool required, struct store_id *out, struct wire_error *error) {
    const json_t *value = member(object, name);
    out->text[0] = 0;
    if (!value && !required) return true;
    if (json_is_string(value) && store_id_parse(out, json_string_value(value))) return true;
    return fail(error, CODE_BAD_FIELD, "%s must be an id of 32 hex digits.", name);
}

static bool take_integer(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
                         struct wire_error *error) {
    const json_t *value = member(object, name);
    if (!value) return true; /* keeps the default */
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max) {
        return fail(error, CODE_BAD_FIELD, "%s must be a whole number from %lld to %lld.", name, (long long)min, (long long)max);
    }
    *out = json_integer_value(value);
    return true;
}

static bool take_number(const json_t *object, const char *name, double min, double max, float *out, struct wire_error *error) {
    const json_t *value = member(object, name);
    if (!value) return true;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        return fail(error, CODE_BAD_FIELD, "%s must be a number from %g to %g.", name, min, max);
    }
    *out = (float)number;
    return true;
}

static bool take_flag(const json_t *object, const char *name, bool *out, struct wire_error *error) {
    const json_t *value = member(object, name);
    if (!value) return true;
    if (!json_is_boolean(value)) return fail(error, CODE_BAD_FIELD, "%s must be true or false.", name);
    *out = json_is_true(value);
    return true;
}

/* --- gen --- */

static bool is_gen_member(const char *name) {
    static const char *const known[] = {
        "temp", "top_p",  "top_k",   "min_p", "max", "seed", "repeat_penalty", "frequency_penalty", "presence_penalty",
        "stop", "system", "drafter", "verify"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i]) == 0) return true;
    }
    return false;
}

static bool take_stop(const json_t *gen, struct gen_params *params, struct wire_error *error) {
    const json_t *list = member(gen, "stop");
    if (!list) return true;
    if (!json_is_array(list) || json_array_size(list) > ENGINE_MAX_STOP) {
        return fail(error, CODE_BAD_FIELD, "gen.stop must be a list of at most %d strings.", ENGINE_MAX_STOP);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        size_t len = json_string_length(item);
        if (!json_is_string(item) || len < 1 || len > ENGINE_MAX_STOP_LEN) {
            return fail(error, CODE_BAD_FIELD, "A stop string must have 1 to %d bytes.", ENGINE_MAX_STOP_LEN);
        }
        params->stop[params->n_stop] = strdup(json_string_value(item));
        if (!params->stop[params->n_stop]) return fail(error, CODE_INTERNAL, "Out of memory.");
        params->n_stop++;
    }
    return true;
}

static bool take_system(const json_t *gen, struct gen_params *params, struct wire_error *error) {
    const json_t *system = member(gen, "system");
    if (!system) return true;
    if (!json_is_string(system)) return fail(error, CODE_BAD_FIELD, "gen.system must be a string.");
    if (json_string_length(system) == 0) return true;
    params->system = strdup(json_string_value(system));
    return params->system || fail(error, CODE_INTERNAL, "Out of memory.");
}

/* Who guesses ahead, and how guesses are checked. */
static bool take_speculation(const json_t *gen, struct gen_params *params, struct wire_error *error) {
    const json_t *drafter = member(gen, "drafter"), *verify = member(gen, "verify");
    if (drafter && !(json_is_string(drafter) && engine_drafter_parse(json_string_value(drafter), &params->drafter, NULL)))
        return fail(error, CODE_BAD_FIELD, "gen.drafter must be " ENGINE_DRAFTER_NAMES ".");
    if (verify && !(json_is_string(verify) && engine_verify_parse(json_string_value(verify), &params->verify)))
        return fail(error, CODE_BAD_FIELD, "gen.verify must be " ENGINE_VERIFY_FORMS ".");
    return true;
}

static bool take_gen(const json_t *root, struct gen_params *params, struct wire_error *error) {
    *params = gen_params_default();
    const json_t *gen = member(root, "gen");
    if (!take_flag(root, "drop_oldest", &params->drop_oldest, error)) return false;
    if (!take_flag(root, "trace", &params->trace, error)) return false;
    if (!gen) return true;
    if (!json_is_object(gen)) return fail(error, CODE_BAD_FIELD, "gen must be an object.");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)gen, name, value) {
        if (!is_gen_member(name)) return fail(error, CODE_BAD_FIELD, "gen.%.60s is not a known setting.", name);
    }
    struct engine_sampling *s = &params->sampling;
    int64_t top_k = s->top_k, max_tokens = 0, seed = 0;
    bool good = take_number(gen, "temp", 0, 5, &s->temperature, error) && take_number(gen, "top_p", 0, 1, &s->top_p, error) &&
                take_integer(gen, "top_k", 0, INT32_MAX, &top_k, error) && take_number(gen, "min_p", 0, 1, &s->min_p, error) &&
                take_integer(gen, "max", 1, INT32_MAX, &max_tokens, error) &&
                take_integer(gen, "seed", 0, INT64_MAX, &seed, error) &&
                take_number(gen, "repeat_penalty", 0, 10, &s->repeat_penalty, error) &&
                take_number(gen, "frequency_penalty", -2, 2, &s->frequency_penalty, error) &&
                take_number(gen, "presence_penalty", -2, 2, &s->presence_penalty, error) && take_stop(gen, params, error) &&
                take_system(gen, params, error) && take_speculation(gen, params, error);
    if (!good) return false;
    if (!(s->top_p > 0)) return fail(error, CODE_BAD_FIELD, "top_p must be greater than 0.");
    if (!(s->min_p < 1)) return fail(error, CODE_BAD_FIELD, "min_p must be less than 1.");
    if (!(s->repeat_penalty > 0)) return fail(error, CODE_BAD_FIELD, "repeat_penalty must be greater than 0.");
    s->top_k = (int)top_k;
    if (s->repeat_penalty != 1.0f && s->penalty_last_n == 0)
        s->penalty_last_n = 64; /* what others look back at; 0 would be off */
    params->max_tokens = (int)max_tokens;
    params->has_seed = member(gen, "seed") != NULL;
    s->seed = (uint64_t)seed;
    return true;
}

/* --- messages --- */

static bool parse_hello(const json_t *root, struct request *out, struct wire_error *error) {
    int64_t version = 0;
    if (!take_integer(root, "v", 1, INT32_MAX, &version, error)) return false;
    if (version != 1) return fail(error, CODE_BAD_FIELD, "This server speaks version 1 of the protocol (v: 1).");
    if (!take_name(root, "cid", out->cid, error)) return false;
    const json_t *resume = member(root, "resume");
    if (!resume) return true;
    if (!json_is_array(resume) || json_array_size(resume) > LIMIT_SUBSCRIPTIONS) {
        return fail(error, CODE_BAD_FIELD, "resume must be a list of at most %d streams.", LIMIT_SUBSCRIPTIONS);
    }
    for (size_t i = 0; i < json_array_size(resume); i++) {
        const json_t *item = json_array_get(resume, i);
        struct request_resume *r = &out->resume[out->n_resume];
        int64_t from = 1;
        if (!json_is_object(item)) return fail(error, CODE_BAD_FIELD, "resume must hold objects {g, from}.");
        if (!take_id(item, "g", true, &r->generation, error) || !take_integer(item, "from", 1, INT64_MAX, &from, error))
            return false;
        r->from = (uint64_t)from;
        out->n_resume++;
    }
    return true;
}

static bool is_blank(const char *text) { return text[strspn(text, " \t\r\n")] == 0; }

static bool parse_send(const json_t *root, struct request *out, struct wire_error *error) {
    if (!take_name(root, "cid", out->cid, error) || !take_id(root, "conv", false, &out->conv, error) ||
        !take_id(root, "parent", false, &out->parent, error) || !take_flag(root, "root", &out->as_root, error) ||
        !take_gen(root, &out->gen, error)) {
        return false;
    }
    if (!out->conv.text[0] && out->parent.text[0])
        return fail(error, CODE_BAD_FIELD, "parent needs the conversation: conv is missing.");
    if (out->as_root && out->parent.text[0]) return fail(error, CODE_BAD_FIELD, "root and parent exclude each other.");
    const json_t *text = member(root, "text");
    if (!json_is_string(text) || is_blank(json_string_value(text))) return fail(error, CODE_BAD_FIELD, "text must not be empty.");
    out->text = json_string_value(text);
    out->text_len = json_string_length(text);
    return true;
}

static bool parse_again(const json_t *root, struct request *out, struct wire_error *error) { /* regen, cont */
    return take_name(root, "cid", out->cid, error) && take_id(root, "msg", true, &out->message, error) &&
           take_gen(root, &out->gen, error);
}

static bool parse_stream(const json_t *root, struct request *out, struct wire_error *error) { /* cancel, sub, unsub */
    int64_t from = 1;
    if (!take_id(root, "g", true, &out->generation, error)) return false;
    if (out->type == REQUEST_SUB) {
        if (!member(root, "from")) return fail(error, CODE_BAD_FIELD, "from is missing: the number of the first event wanted.");
        if (!take_integer(root, "from", 1, INT64_MAX, &from, error)) return false;
    }
    out->from = (uint64_t)from;
    return true;
}

static bool parse_page(const json_t *root, struct request *out, struct wire_error *error) { /* hist, convs */
    int64_t limit = 50;
    if (out->type == REQUEST_HIST && !take_id(root, "conv", true, &out->conv, error)) return false;
    if (!take_id(root, "before", false, &out->before, error) || !take_integer(root, "limit", 1, STORE_MAX_PAGE, &limit, error))
        return false;
    out->limit = (int)limit;
    return true;
}

static bool parse_search(const json_t *root, struct request *out, struct wire_error *error) {
    const json_t *words = member(root, "q");
    int64_t limit = 20;
    if (!json_is_string(words) || json_string_length(words) < 1 || json_string_length(words) > STORE_MAX_QUERY)
        return fail(error, CODE_BAD_FIELD, "q must be a string of 1 to %d bytes.", STORE_MAX_QUERY);
    out->text = json_string_value(words);
    out->text_len = json_string_length(words);
    if (!take_id(root, "before", false, &out->before, error) || !take_integer(root, "limit", 1, 50, &limit, error)) return false;
    out->limit = (int)limit;
    return true;
}

size_t wire_count_characters(const char *utf8) {
    size_t n = 0;
    for (; *utf8; utf8++) n += ((unsigned char)*utf8 & 0xC0) != 0x80;
    return n;
}

static bool parse_conv(const json_t *root, struct request *out, struct wire_error *error) { /* rename, delete */
    if (!take_id(root, "conv", true, &out->conv, error)) return false;
    if (out->type == REQUEST_DELETE) return true;
    const json_t *title = member(root, "title");
    if (!json_is_string(title) || json_string_length(title) == 0 ||
        wire_count_characters(json_string_value(title)) > WIRE_MAX_TITLE) {
        return fail(error, CODE_BAD_FIELD, "title must have 1 to %d characters.", WIRE_MAX_TITLE);
    }
    out->title = json_string_value(title);
    return true;
}

static bool parse_learn(const json_t *root, struct request *out, struct wire_error *error) {
    if (!member(root, "on")) return fail(error, CODE_BAD_FIELD, "on is missing: true or false.");
    return take_flag(root, "on", &out->learns, error);
}

static bool parse_beat(const json_t *root, struct request *out, struct wire_error *error) { /* ping, pong */
    return take_integer(root, "n", INT64_MIN, INT64_MAX, &out->n, error);
}

static const struct {
    const char *name;
    enum request_type type;
    bool has_id;
    bool (*parse)(const json_t *root, struct request *out, struct wire_error *error);
} kinds[] = {
    {"hello", REQUEST_HELLO, false, parse_hello},   {"send", REQUEST_SEND, true, parse_send},
    {"regen", REQUEST_REGEN, true, parse_again},    {"cont", REQUEST_CONT, true, parse_again},
    {"cancel", REQUEST_CANCEL, true, parse_stream}, {"sub", REQUEST_SUB, true, parse_stream},
    {"unsub", REQUEST_UNSUB, true, parse_stream},   {"hist", REQUEST_HIST, true, parse_page},
    {"convs", REQUEST_CONVS, true, parse_page},     {"rename", REQUEST_RENAME, true, parse_conv},
    {"delete", REQUEST_DELETE, true, parse_conv},   {"learn", REQUEST_LEARN, true, parse_learn},
    {"search", REQUEST_SEARCH, true, parse_search}, {"ping", REQUEST_PING, false, parse_beat},
    {"pong", REQUEST_PONG, false, parse_beat},
};

static bool parse_root(const json_t *root, struct request *out, struct wire_error *error) {
    if (!json_is_object(root)) return fail(error, CODE_BAD_JSON, "A message must be a JSON object.");
    const json_t *type = member(root, "t"), *id = member(root, "id");
    if (json_is_string(id) && json_string_length(id) >= 1 && json_string_length(id) <= PROTOCOL_MAX_ID) {
        memcpy(error->id, json_string_value(id), json_string_length(id) + 1);
    }
    if (!json_is_string(type)) return fail(error, CODE_BAD_FIELD, "t, the type of the message, is missing.");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, json_string_value(type)) != 0) continue;
        out->type = kinds[i].type;
        if (kinds[i].has_id && !take_name(root, "id", out->id, error)) return false;
        return kinds[i].parse(root, out, error);
    }
    return fail(error, CODE_UNKNOWN_TYPE, "There is no message type \"%.40s\".", json_string_value(type));
}

bool wire_parse(const char *bytes, size_t len, struct request *out, struct wire_error *error) {
    json_error_t trouble;
    *out = (struct request){0};
    *error = (struct wire_error){0};
    json_t *root = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &trouble);
    if (!root) return fail(error, CODE_BAD_JSON, "Not JSON: %.120s (at byte %d).", trouble.text, trouble.position);
    out->tree = root;
    if (parse_root(root, out, error)) return true;
    wire_request_free(out);
    return false;
}

bool wire_parse_key(const char *body, size_t len, char *key, size_t key_size) {
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *value = json_object_get(root, "key");
    bool good = json_is_string(value) && json_string_length(value) < key_size;
    if (good) memcpy(key, json_string_value(value), json_string_length(value) + 1);
    json_decref(root);
    return good;
}
