/* jinja_methods.c - what Python's str, dict, list and a loop answer to: message.content.strip(), tool.items(), loop.cycle('a',
 * 'b').
 *
 * Methods that change their object do not exist here, as in jinja2's immutable sandbox. Letters beyond ASCII keep their case. */
#define _GNU_SOURCE /* memmem, memrchr */
#include <ctype.h>
#include <string.h>

#include "engine/jinja_eval.h"

static bool is_space(char ch) { return ch == ' ' || (ch >= '\t' && ch <= '\r') || (ch >= 0x1c && ch <= 0x1f); }
static bool is_letter(unsigned char ch) { return (ch | 32) >= 'a' && (ch | 32) <= 'z'; }

static const struct jinja_string *text_argument(struct jinja_context *c, const struct jinja_call *call, size_t position,
                                                const char *name) {
    struct jinja_value v;
    if (!jinja_argument(call, position, name, &v)) return NULL;
    if (v.type == JINJA_NONE) return NULL;
    if (v.type != JINJA_STRING) jinja_fail(c, "%s() needs a string, not %s", call->name, jinja_type_name(v.type));
    return v.string;
}

static int64_t count_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, const char *name,
                              int64_t otherwise) {
    struct jinja_value v;
    if (!jinja_argument(call, position, name, &v)) return otherwise;
    if (v.type != JINJA_INT && v.type != JINJA_BOOL)
        jinja_fail(c, "%s() needs an integer, not %s", call->name, jinja_type_name(v.type));
    return jinja_as_int(v);
}

/* --- str: white space and ends --- */

/* Whether the code point of n bytes at s is in the set, or is white space when there is no set. */
static bool in_set(const struct jinja_string *set, const char *s, size_t n) {
    if (set) return memmem(set->text, set->len, s, n) != NULL;
    if (n == 1) return is_space(*s);
    uint32_t code;
    jinja_utf8_next(s, n, &code);
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static struct jinja_value strip(struct jinja_context *c, struct jinja_call *call, bool left, bool right) {
    const struct jinja_string *s = call->self.string, *set = text_argument(c, call, 0, "chars");
    size_t from = 0, to = s->len;
    while (left && from < to) {
        size_t n = jinja_utf8_next(s->text + from, to - from, NULL);
        if (!in_set(set, s->text + from, n)) break;
        from += n;
    }
    while (right && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)s->text[at] & 0xc0) == 0x80) at--;
        if (!in_set(set, s->text + at, to - at)) break;
        to = at;
    }
    return jinja_string(c, s->text + from, to - from);
}
static struct jinja_value str_strip(struct jinja_context *c, struct jinja_call *call) { return strip(c, call, true, true); }
static struct jinja_value str_lstrip(struct jinja_context *c, struct jinja_call *call) { return strip(c, call, true, false); }
static struct jinja_value str_rstrip(struct jinja_context *c, struct jinja_call *call) { return strip(c, call, false, true); }

static bool has_end(const struct jinja_string *s, const struct jinja_string *part, bool at_start) {
    return part->len <= s->len && memcmp(at_start ? s->text : s->text + s->len - part->len, part->text, part->len) == 0;
}

static struct jinja_value ends(struct jinja_context *c, struct jinja_call *call, bool at_start) {
    jinja_check_arguments(c, call, 1, 1);
    struct jinja_value parts = call->n_args ? call->args[0] : jinja_none();
    if (parts.type != JINJA_TUPLE) {
        parts = jinja_list_new(c, JINJA_TUPLE);
        const struct jinja_string *part = text_argument(c, call, 0, "prefix");
        if (!part) jinja_fail(c, "%s() needs a string", call->name);
        jinja_list_add(c, parts, call->args[0]);
    }
    for (size_t i = 0; i < parts.list->n; i++) {
        if (parts.list->items[i].type == JINJA_STRING && has_end(call->self.string, parts.list->items[i].string, at_start))
            return jinja_bool(true);
    }
    return jinja_bool(false);
}
static struct jinja_value str_startswith(struct jinja_context *c, struct jinja_call *call) { return ends(c, call, true); }
static struct jinja_value str_endswith(struct jinja_context *c, struct jinja_call *call) { return ends(c, call, false); }

static struct jinja_value remove_end(struct jinja_context *c, struct jinja_call *call, bool at_start) {
    const struct jinja_string *s = call->self.string, *part = text_argument(c, call, 0, "part");
    if (!part || !has_end(s, part, at_start)) return call->self;
    return jinja_string(c, at_start ? s->text + part->len : s->text, s->len - part->len);
}
static struct jinja_value str_removeprefix(struct jinja_context *c, struct jinja_call *call) { return remove_end(c, call, true); }
static struct jinja_value str_removesuffix(struct jinja_context *c, struct jinja_call *call) {
    return remove_end(c, call, false);
}

/* --- str: case --- */

enum letter_case { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE, CASE_SWAP };

static struct jinja_value change_case(struct jinja_context *c, const struct jinja_call *call, enum letter_case wanted) {
    struct jinja_buffer buffer = {0};
    const struct jinja_string *s = call->self.string;
    jinja_buffer_add(c, &buffer, s->text, s->len);
    bool after_letter = false;
    for (size_t i = 0; i < s->len; i++) {
        unsigned char ch = (unsigned char)s->text[i];
        bool up = wanted == CASE_UPPER || (wanted == CASE_CAPITALIZE && i == 0) || (wanted == CASE_TITLE && !after_letter);
        if (wanted == CASE_SWAP) up = islower(ch) != 0;
        after_letter = is_letter(ch) || ch >= 0x80;
        if (is_letter(ch)) buffer.data[i] = (char)(up ? toupper(ch) : tolower(ch));
    }
    return jinja_buffer_value(c, &buffer);
}
static struct jinja_value str_upper(struct jinja_context *c, struct jinja_call *call) { return change_case(c, call, CASE_UPPER); }
static struct jinja_value str_lower(struct jinja_context *c, struct jinja_call *call) { return change_case(c, call, CASE_LOWER); }
static struct jinja_value str_capitalize(struct jinja_context *c, struct jinja_call *call) {
    return change_case(c, call, CASE_CAPITALIZE);
}
static struct jinja_value str_title(struct jinja_context *c, struct jinja_call *call) { return change_case(c, call, CASE_TITLE); }
static struct jinja_value str_swapcase(struct jinja_context *c, struct jinja_call *call) {
    return change_case(c, call, CASE_SWAP);
}

static struct jinja_value all_bytes(const struct jinja_call *call, bool (*holds)(unsigned char)) {
    const struct jinja_string *s = call->self.string;
    for (size_t i = 0; i < s->len; i++) {
        if (!holds((unsigned char)s->text[i])) return jinja_bool(false);
    }
    return jinja_bool(s->len > 0);
}
static bool is_digit(unsigned char ch) { return ch >= '0' && ch <= '9'; }
static bool is_alpha(unsigned char ch) { return is_letter(ch) || ch >= 0x80; }
static bool is_alnum(unsigned char ch) { return is_digit(ch) || is_alpha(ch); }
static bool is_blank(unsigned char ch) { return is_space((char)ch); }
static struct jinja_value str_isdigit(struct jinja_context *c, struct jinja_call *call) {
    return (void)c, all_bytes(call, is_digit);
}
static struct jinja_value str_isalpha(struct jinja_context *c, struct jinja_call *call) {
    return (void)c, all_bytes(call, is_alpha);
}
static struct jinja_value str_isalnum(struct jinja_context *c, struct jinja_call *call) {
    return (void)c, all_bytes(call, is_alnum);
}
static struct jinja_value str_isspace(struct jinja_context *c, struct jinja_call *call) {
    return (void)c, all_bytes(call, is_blank);
}

static struct jinja_value is_case(const struct jinja_call *call, bool upper) {
    bool any = false;
    for (size_t i = 0; i < call->self.string->len; i++) {
        unsigned char ch = (unsigned char)call->self.string->text[i];
        if (!is_letter(ch)) continue;
        any = true;
        if ((isupper(ch) != 0) != upper) return jinja_bool(false);
    }
    return jinja_bool(any);
}
static struct jinja_value str_isupper(struct jinja_context *c, struct jinja_call *call) { return (void)c, is_case(call, true); }
static struct jinja_value str_islower(struct jinja_context *c, struct jinja_call *call) { return (void)c, is_case(call, false); }

/* --- str: parts --- */

static struct jinja_value split_spaces(struct jinja_context *c, const struct jinja_string *s, int64_t most) {
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    size_t at = 0;
    for (;;) {
        while (at < s->len && is_space(s->text[at])) at++;
        if (at >= s->len) return list;
        size_t from = at;
        if (most >= 0 && (int64_t)list.list->n == most) {
            at = s->len;
            while (at > from && is_space(s->text[at - 1])) at--;
            jinja_list_add(c, list, jinja_string(c, s->text + from, s->len - from));
            return list;
        }
        while (at < s->len && !is_space(s->text[at])) at++;
        jinja_list_add(c, list, jinja_string(c, s->text + from, at - from));
    }
}

static struct jinja_value str_split(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *by = text_argument(c, call, 0, "sep");
    int64_t most = count_argument(c, call, 1, "maxsplit", -1);
    if (!by) return split_spaces(c, s, most);
    if (!by->len) jinja_fail(c, "empty separator");
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    const char *from = s->text, *end = s->text + s->len, *hit;
    while ((most < 0 || (int64_t)list.list->n < most) && (hit = memmem(from, (size_t)(end - from), by->text, by->len))) {
        jinja_list_add(c, list, jinja_string(c, from, (size_t)(hit - from)));
        from = hit + by->len;
    }
    jinja_list_add(c, list, jinja_string(c, from, (size_t)(end - from)));
    return list;
}

static struct jinja_value str_rsplit(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *by = text_argument(c, call, 0, "sep");
    int64_t most = count_argument(c, call, 1, "maxsplit", -1);
    if (!by && most >= 0) jinja_fail(c, "rsplit() with maxsplit needs a separator");
    if (!by || most < 0) return str_split(c, call);
    if (!by->len) jinja_fail(c, "empty separator");
    struct jinja_value reversed = jinja_list_new(c, JINJA_LIST), list = jinja_list_new(c, JINJA_LIST);
    size_t end = s->len;
    for (size_t at = s->len; at-- > 0 && (int64_t)reversed.list->n < most;) {
        if (at + by->len > end || memcmp(s->text + at, by->text, by->len) != 0) continue;
        jinja_list_add(c, reversed, jinja_string(c, s->text + at + by->len, end - at - by->len));
        end = at;
    }
    jinja_list_add(c, list, jinja_string(c, s->text, end));
    for (size_t i = reversed.list->n; i-- > 0;) jinja_list_add(c, list, reversed.list->items[i]);
    return list;
}

static struct jinja_value str_splitlines(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string;
    struct jinja_value list = jinja_list_new(c, JINJA_LIST), keep;
    bool keep_ends = jinja_argument(call, 0, "keepends", &keep) && jinja_truth(keep);
    for (size_t from = 0, at = 0; from < s->len; from = at) {
        while (at < s->len && s->text[at] != '\n' && s->text[at] != '\r') at++;
        size_t stop = at;
        if (at < s->len) at += s->text[at] == '\r' && at + 1 < s->len && s->text[at + 1] == '\n' ? 2 : 1;
        jinja_list_add(c, list, jinja_string(c, s->text + from, (keep_ends ? at : stop) - from));
    }
    return list;
}

static struct jinja_value str_partition(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *by = text_argument(c, call, 0, "sep");
    if (!by || !by->len) jinja_fail(c, "empty separator");
    const char *hit = memmem(s->text, s->len, by->text, by->len);
    struct jinja_value tuple = jinja_list_new(c, JINJA_TUPLE);
    size_t before = hit ? (size_t)(hit - s->text) : s->len, after = hit ? before + by->len : s->len;
    jinja_list_add(c, tuple, jinja_string(c, s->text, before));
    jinja_list_add(c, tuple, jinja_string(c, s->text + before, after - before));
    jinja_list_add(c, tuple, jinja_string(c, s->text + after, s->len - after));
    return tuple;
}

static struct jinja_value str_replace(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *old = text_argument(c, call, 0, "old"),
                              *new = text_argument(c, call, 1, "new");
    int64_t most = count_argument(c, call, 2, "count", -1);
    if (!old || !new) jinja_fail(c, "replace() needs two strings");
    struct jinja_buffer buffer = {0};
    size_t at = 0;
    for (int64_t n = 0; at <= s->len && (most < 0 || n < most); n++) {
        const char *hit = memmem(s->text + at, s->len - at, old->text, old->len);
        if (!hit) break;
        size_t stop = (size_t)(hit - s->text);
        jinja_buffer_add(c, &buffer, s->text + at, stop - at);
        jinja_buffer_add(c, &buffer, new->text, new->len);
        at = stop + old->len;
        if (old->len == 0) { /* between all characters */
            if (stop >= s->len) return jinja_buffer_value(c, &buffer);
            size_t width = jinja_utf8_next(s->text + stop, s->len - stop, NULL);
            jinja_buffer_add(c, &buffer, s->text + stop, width);
            at = stop + width;
        }
    }
    if (at < s->len) jinja_buffer_add(c, &buffer, s->text + at, s->len - at);
    return jinja_buffer_value(c, &buffer);
}

static struct jinja_value str_join(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 1);
    struct jinja_value items = jinja_iterate(c, call->args[0]);
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        if (v.type != JINJA_STRING)
            jinja_fail(c, "sequence item %zu: expected str instance, %s found", i, jinja_type_name(v.type));
        if (i) jinja_buffer_add(c, &buffer, call->self.string->text, call->self.string->len);
        jinja_buffer_add(c, &buffer, v.string->text, v.string->len);
    }
    return jinja_buffer_value(c, &buffer);
}

static struct jinja_value str_find(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *part = text_argument(c, call, 0, "sub");
    if (!part) jinja_fail(c, "find() needs a string");
    const char *hit = memmem(s->text, s->len, part->text, part->len);
    return jinja_int(hit ? (int64_t)jinja_utf8_count(s->text, (size_t)(hit - s->text)) : -1);
}

static struct jinja_value str_rfind(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *part = text_argument(c, call, 0, "sub");
    if (!part) jinja_fail(c, "rfind() needs a string");
    for (size_t at = s->len + 1; at-- > 0;) {
        if (s->len - at >= part->len && memcmp(s->text + at, part->text, part->len) == 0)
            return jinja_int((int64_t)jinja_utf8_count(s->text, at));
    }
    return jinja_int(-1);
}

static struct jinja_value str_count(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string, *part = text_argument(c, call, 0, "sub");
    if (!part) jinja_fail(c, "count() needs a string");
    if (!part->len) return jinja_int((int64_t)jinja_length(c, call->self) + 1);
    int64_t n = 0;
    const char *at = s->text, *end = s->text + s->len;
    while ((at = memmem(at, (size_t)(end - at), part->text, part->len))) {
        n++;
        at += part->len;
    }
    return jinja_int(n);
}

static struct jinja_value pad(struct jinja_context *c, struct jinja_call *call, bool left) {
    const struct jinja_string *fill = text_argument(c, call, 1, "fillchar");
    int64_t width = count_argument(c, call, 0, "width", 0), n = width - (int64_t)jinja_length(c, call->self);
    struct jinja_value space = fill ? jinja_string(c, fill->text, fill->len) : jinja_cstring(c, " ");
    struct jinja_value filling = jinja_binary(c, OP_MUL, space, jinja_int(n > 0 ? n : 0));
    return left ? jinja_binary(c, OP_ADD, filling, call->self) : jinja_binary(c, OP_ADD, call->self, filling);
}
static struct jinja_value str_rjust(struct jinja_context *c, struct jinja_call *call) { return pad(c, call, true); }
static struct jinja_value str_ljust(struct jinja_context *c, struct jinja_call *call) { return pad(c, call, false); }

static struct jinja_value str_zfill(struct jinja_context *c, struct jinja_call *call) {
    int64_t n = count_argument(c, call, 0, "width", 0) - (int64_t)jinja_length(c, call->self);
    const struct jinja_string *s = call->self.string;
    size_t sign = s->len && (s->text[0] == '-' || s->text[0] == '+') ? 1 : 0;
    struct jinja_buffer buffer = {0};
    jinja_buffer_add(c, &buffer, s->text, sign);
    for (int64_t i = 0; i < n; i++) jinja_buffer_add(c, &buffer, "0", 1);
    jinja_buffer_add(c, &buffer, s->text + sign, s->len - sign);
    return jinja_buffer_value(c, &buffer);
}

/* "{} and {name}".format(...): fields by order, number or name, without format specifications. */
static struct jinja_value str_format(struct jinja_context *c, struct jinja_call *call) {
    const struct jinja_string *s = call->self.string;
    struct jinja_buffer buffer = {0};
    size_t next = 0;
    for (size_t i = 0; i < s->len; i++) {
        char ch = s->text[i];
        if ((ch == '{' || ch == '}') && i + 1 < s->len && s->text[i + 1] == ch) {
            jinja_buffer_add(c, &buffer, &ch, 1);
            i++;
        } else if (ch == '{') {
            const char *end = memchr(s->text + i, '}', s->len - i);
            if (!end) jinja_fail(c, "expected '}' before end of string");
            struct jinja_value name = jinja_string(c, s->text + i + 1, (size_t)(end - s->text) - i - 1), v;
            size_t position = next;
            if (!name.string->len)
                next++;
            else if (is_digit((unsigned char)name.string->text[0]))
                position = (size_t)(name.string->text[0] - '0');
            else
                position = call->n_args;
            if (strchr(name.string->text, ':') || strchr(name.string->text, '!'))
                jinja_fail(c, "format(): specifications in '{%s}' are not supported", name.string->text);
            if (!jinja_argument(call, position, name.string->text, &v))
                jinja_fail(c, "format() has no value for '{%s}'", name.string->text);
            jinja_buffer_str(c, &buffer, v);
            i = (size_t)(end - s->text);
        } else {
            jinja_buffer_add(c, &buffer, &ch, 1);
        }
    }
    return jinja_buffer_value(c, &buffer);
}

/* --- dict, list, loop --- */

static struct jinja_value dict_items(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = 0; i < call->self.dict->n; i++) {
        struct jinja_value pair = jinja_list_new(c, JINJA_TUPLE);
        jinja_list_add(c, pair, call->self.dict->keys[i]);
        jinja_list_add(c, pair, call->self.dict->values[i]);
        jinja_list_add(c, list, pair);
    }
    return list;
}

static struct jinja_value dict_keys(struct jinja_context *c, struct jinja_call *call) { return jinja_iterate(c, call->self); }

static struct jinja_value dict_values(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = 0; i < call->self.dict->n; i++) jinja_list_add(c, list, call->self.dict->values[i]);
    return list;
}

static struct jinja_value dict_get(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value v, otherwise;
    jinja_check_arguments(c, call, 1, 2);
    if (call->n_args && jinja_dict_get(c, call->self, call->args[0], &v)) return v;
    return jinja_argument(call, 1, "default", &otherwise) ? otherwise : jinja_none();
}

static struct jinja_value dict_copy(struct jinja_context *c, struct jinja_call *call) {
    (void)c;
    return call->self; /* it never changes, so it may stand for its copy */
}

static struct jinja_value list_index(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 1);
    for (size_t i = 0; i < call->self.list->n; i++) {
        if (jinja_equal(c, call->self.list->items[i], call->args[0])) return jinja_int((int64_t)i);
    }
    jinja_fail(c, "the value is not in the list");
}

static struct jinja_value list_count(struct jinja_context *c, struct jinja_call *call) {
    jinja_check_arguments(c, call, 1, 1);
    int64_t n = 0;
    for (size_t i = 0; i < call->self.list->n; i++) n += jinja_equal(c, call->self.list->items[i], call->args[0]);
    return jinja_int(n);
}

static struct jinja_value loop_cycle(struct jinja_context *c, struct jinja_call *call) {
    if (!call->n_args) jinja_fail(c, "no items for cycling given");
    return call->args[call->self.loop->index0 % call->n_args];
}

static struct jinja_value loop_changed(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_loop *loop = call->self.loop;
    struct jinja_value now = jinja_list_new(c, JINJA_TUPLE);
    for (size_t i = 0; i < call->n_args; i++) jinja_list_add(c, now, call->args[i]);
    bool changed = !loop->has_last_changed || !jinja_equal(c, now, loop->last_changed);
    loop->has_last_changed = true;
    loop->last_changed = now;
    return jinja_bool(changed);
}

static const struct jinja_function str_methods[] = {
    {"strip", str_strip},
    {"lstrip", str_lstrip},
    {"rstrip", str_rstrip},
    {"startswith", str_startswith},
    {"endswith", str_endswith},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"upper", str_upper},
    {"lower", str_lower},
    {"capitalize", str_capitalize},
    {"title", str_title},
    {"swapcase", str_swapcase},
    {"isdigit", str_isdigit},
    {"isnumeric", str_isdigit},
    {"isdecimal", str_isdigit},
    {"isalpha", str_isalpha},
    {"isalnum", str_isalnum},
    {"isspace", str_isspace},
    {"isupper", str_isupper},
    {"islower", str_islower},
    {"split", str_split},
    {"rsplit", str_rsplit},
    {"splitlines", str_splitlines},
    {"partition", str_partition},
    {"replace", str_replace},
    {"join", str_join},
    {"find", str_find},
    {"index", str_find},
    {"rfind", str_rfind},
    {"count", str_count},
    {"rjust", str_rjust},
    {"ljust", str_ljust},
    {"zfill", str_zfill},
    {"format", str_format},
    {0},
};
static const struct jinja_function dict_methods[] = {
    {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values}, {"get", dict_get}, {"copy", dict_copy}, {0},
};
static const struct jinja_function list_methods[] = {{"index", list_index}, {"count", list_count}, {0}};
static const struct jinja_function loop_methods[] = {{"cycle", loop_cycle}, {"changed", loop_changed}, {0}};

bool jinja_method(struct jinja_context *c, struct jinja_value value, const char *name, size_t len, struct jinja_value *out) {
    const struct jinja_function *methods = NULL;
    if (value.type == JINJA_STRING) methods = str_methods;
    if (value.type == JINJA_DICT) methods = dict_methods;
    if (jinja_is_list(value)) methods = list_methods;
    if (value.type == JINJA_LOOP) methods = loop_methods;
    for (; methods && methods->name; methods++) {
        if (strlen(methods->name) != len || memcmp(methods->name, name, len) != 0) continue;
        *out = jinja_function_value(c, methods, value);
        return true;
    }
    return false;
}
