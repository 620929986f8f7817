/* jinja_list_filters.c - the filters of lists and dicts. See jinja_builtins.c. */
#include <stdlib.h>
#include <string.h>

#include "engine/jinja_eval.h"

static struct jinja_value filter_list(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = 0; i < items.list->n; i++) jinja_list_add(c, list, items.list->items[i]);
    return list;
}

static struct jinja_value filter_first(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]);
    return items.list->n ? items.list->items[0] : jinja_undefined(c, "the first item of an empty sequence", 35);
}

static struct jinja_value filter_last(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]);
    return items.list->n ? items.list->items[items.list->n - 1] : jinja_undefined(c, "the last item of an empty sequence", 34);
}

static struct jinja_value filter_reverse(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), list = jinja_list_new(c, JINJA_LIST);
    for (size_t i = items.list->n; i-- > 0;) jinja_list_add(c, list, items.list->items[i]);
    if (call->args[0].type != JINJA_STRING) return list;
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < list.list->n; i++) jinja_buffer_str(c, &buffer, list.list->items[i]);
    return jinja_buffer_value(c, &buffer);
}

/* What `attribute=` of sort, map, join and others names: "a.b.0". */
static struct jinja_value by_path(struct jinja_context *c, struct jinja_value v, struct jinja_value path) {
    if (path.type == JINJA_INT) return jinja_item(c, v, path);
    const char *s = path.string->text;
    while (*s) {
        const char *dot = strchr(s, '.');
        size_t len = dot ? (size_t)(dot - s) : strlen(s);
        char *end;
        long index = strtol(s, &end, 10);
        v = jinja_item(c, v, end == s + len && len ? jinja_int(index) : jinja_string(c, s, len));
        s += len + (dot ? 1 : 0);
    }
    return v;
}

static bool path_argument(struct jinja_context *c, const struct jinja_call *call, size_t position, struct jinja_value *path) {
    if (!jinja_argument(call, position, "attribute", path) || path->type == JINJA_NONE) return false;
    if (path->type != JINJA_INT) jinja_need_string(c, call, *path);
    return true;
}

static struct jinja_value filter_join(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), between, path;
    bool has_path = path_argument(c, call, 2, &path);
    if (!jinja_argument(call, 1, "d", &between)) between = jinja_cstring(c, "");
    struct jinja_buffer buffer = {0};
    for (size_t i = 0; i < items.list->n; i++) {
        if (i) jinja_buffer_str(c, &buffer, between);
        jinja_buffer_str(c, &buffer, has_path ? by_path(c, items.list->items[i], path) : items.list->items[i]);
    }
    return jinja_buffer_value(c, &buffer);
}

/* Strings compare without case unless asked: what sort, unique, min, max and dictsort look at. */
static struct jinja_value sort_key(struct jinja_context *c, struct jinja_value v, const struct jinja_value *path,
                                   bool case_sensitive) {
    if (path) v = by_path(c, v, *path);
    if (case_sensitive || v.type != JINJA_STRING) return v;
    struct jinja_call call = {.name = "lower", .args = &v, .n_args = 1};
    return jinja_apply_filter(c, &call);
}

struct sortable {
    struct jinja_value key, item;
};

static bool comes_before(struct jinja_context *c, const struct sortable *a, const struct sortable *b, bool reverse) {
    jinja_spend(c, 1);
    int order = jinja_compare(c, a->key, b->key);
    return reverse ? order > 0 : order < 0;
}

/* Merges from[low .. middle) and from[middle .. high), both sorted, into to; of equal ones the left comes first. */
static void merge(struct jinja_context *c, const struct sortable *from, size_t low, size_t middle, size_t high, bool reverse,
                  struct sortable *to) {
    for (size_t left = low, right = middle, at = low; at < high; at++) {
        bool take_right = left == middle || (right < high && comes_before(c, &from[right], &from[left], reverse));
        to[at] = from[take_right ? right++ : left++];
    }
}

/* Stable, also in reverse, as Python's. */
static struct jinja_value sorted(struct jinja_context *c, struct jinja_value items, const struct jinja_value *path,
                                 bool case_sensitive, bool reverse) {
    size_t n = items.list->n;
    struct jinja_value list = jinja_list_new(c, JINJA_LIST);
    struct sortable *from = jinja_alloc(c, (n + 1) * sizeof *from), *to = jinja_alloc(c, (n + 1) * sizeof *to);
    for (size_t i = 0; i < n; i++) {
        from[i] = (struct sortable){sort_key(c, items.list->items[i], path, case_sensitive), items.list->items[i]};
    }
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t middle = low + width < n ? low + width : n, high = middle + width < n ? middle + width : n;
            merge(c, from, low, middle, high, reverse, to);
        }
        struct sortable *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++) jinja_list_add(c, list, from[i].item);
    return list;
}

static struct jinja_value filter_sort(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value path;
    bool has_path = path_argument(c, call, 3, &path);
    return sorted(c, jinja_iterate(c, call->args[0]), has_path ? &path : NULL,
                  jinja_flag_argument(call, 2, "case_sensitive", false), jinja_flag_argument(call, 1, "reverse", false));
}

static struct jinja_value filter_dictsort(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value d = call->args[0], pairs = jinja_list_new(c, JINJA_LIST), by;
    if (d.type != JINJA_DICT) jinja_fail(c, "dictsort needs a dict, not %s", jinja_type_name(d.type));
    for (size_t i = 0; i < d.dict->n; i++) {
        struct jinja_value pair = jinja_list_new(c, JINJA_TUPLE);
        jinja_list_add(c, pair, d.dict->keys[i]);
        jinja_list_add(c, pair, d.dict->values[i]);
        jinja_list_add(c, pairs, pair);
    }
    bool by_value = jinja_argument(call, 2, "by", &by) && by.type == JINJA_STRING && strcmp(by.string->text, "value") == 0;
    struct jinja_value path = jinja_int(by_value);
    return sorted(c, pairs, &path, jinja_flag_argument(call, 1, "case_sensitive", false),
                  jinja_flag_argument(call, 3, "reverse", false));
}

static struct jinja_value filter_unique(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), seen = jinja_list_new(c, JINJA_LIST),
                       list = jinja_list_new(c, JINJA_LIST), path;
    bool has_path = path_argument(c, call, 2, &path), case_sensitive = jinja_flag_argument(call, 1, "case_sensitive", false);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value key = sort_key(c, items.list->items[i], has_path ? &path : NULL, case_sensitive);
        if (jinja_contains(c, seen, key)) continue;
        jinja_list_add(c, seen, key);
        jinja_list_add(c, list, items.list->items[i]);
    }
    return list;
}

/* Pairs of a value of the attribute and the items that have it, in the order of those values. */
static struct jinja_value filter_groupby(struct jinja_context *c, struct jinja_call *call) {
    static const char *const fields[] = {"grouper", "list"};
    struct jinja_value path, key, last_key = jinja_none(), groups = jinja_list_new(c, JINJA_LIST), group = groups;
    if (!path_argument(c, call, 1, &path)) jinja_fail(c, "groupby needs the name of an attribute");
    bool case_sensitive = jinja_flag_argument(call, 3, "case_sensitive", false);
    struct jinja_value items = sorted(c, jinja_iterate(c, call->args[0]), &path, case_sensitive, false);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value item = items.list->items[i];
        key = sort_key(c, item, &path, case_sensitive);
        if (i == 0 || !jinja_equal(c, key, last_key)) {
            struct jinja_value pair = jinja_list_new(c, JINJA_TUPLE);
            group = jinja_list_new(c, JINJA_LIST);
            jinja_list_add(c, pair, by_path(c, item, path));
            jinja_list_add(c, pair, group);
            pair.list->fields = fields;
            jinja_list_add(c, groups, pair);
            last_key = key;
        }
        jinja_list_add(c, group, item);
    }
    return groups;
}

static struct jinja_value extreme(struct jinja_context *c, struct jinja_call *call, int wanted) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), path, best, best_key;
    bool has_path = path_argument(c, call, 2, &path), case_sensitive = jinja_flag_argument(call, 1, "case_sensitive", false);
    if (items.list->n == 0) return jinja_undefined(c, "the extreme of an empty sequence", 32);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value key = sort_key(c, items.list->items[i], has_path ? &path : NULL, case_sensitive);
        if (i > 0 && jinja_compare(c, key, best_key) != wanted) continue;
        best_key = key;
        best = items.list->items[i];
    }
    return best;
}
static struct jinja_value filter_min(struct jinja_context *c, struct jinja_call *call) { return extreme(c, call, -1); }
static struct jinja_value filter_max(struct jinja_context *c, struct jinja_call *call) { return extreme(c, call, 1); }

static struct jinja_value filter_sum(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), path, total;
    bool has_path = path_argument(c, call, 1, &path);
    if (!jinja_argument(call, 2, "start", &total)) total = jinja_int(0);
    for (size_t i = 0; i < items.list->n; i++) {
        total = jinja_binary(c, OP_ADD, total, has_path ? by_path(c, items.list->items[i], path) : items.list->items[i]);
    }
    return total;
}

static struct jinja_value filter_items(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value method;
    if (call->args[0].type == JINJA_UNDEFINED) return jinja_list_new(c, JINJA_LIST);
    if (call->args[0].type != JINJA_DICT) jinja_fail(c, "Can only get item pairs from a mapping.");
    jinja_method(c, call->args[0], "items", 5, &method);
    struct jinja_call inner = {.name = "items"};
    return jinja_call_value(c, method, &inner);
}

static struct jinja_value filter_batch(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = jinja_iterate(c, call->args[0]), out = jinja_list_new(c, JINJA_LIST), row = {0}, fill;
    int64_t n = jinja_int_argument(c, call, 1, "linecount", 0);
    if (n <= 0) jinja_fail(c, "batch needs a count of 1 or more");
    for (size_t i = 0; i < items.list->n; i++) {
        if (i % (size_t)n == 0) jinja_list_add(c, out, row = jinja_list_new(c, JINJA_LIST));
        jinja_list_add(c, row, items.list->items[i]);
    }
    while (out.list->n && jinja_argument(call, 2, "fill_with", &fill) && row.list->n < (size_t)n) jinja_list_add(c, row, fill);
    return out;
}

/* map and select take anything false, none included, for an empty sequence. */
static struct jinja_value items_if_any(struct jinja_context *c, const struct jinja_call *call) {
    return jinja_truth(call->args[0]) ? jinja_iterate(c, call->args[0]) : jinja_list_new(c, JINJA_LIST);
}

/* map('upper'), map(attribute='x', default=y) */
static struct jinja_value filter_map(struct jinja_context *c, struct jinja_call *call) {
    struct jinja_value items = items_if_any(c, call), out = jinja_list_new(c, JINJA_LIST), path, otherwise;
    bool has_path = call->n_args < 2 && path_argument(c, call, 1, &path),
         has_default = jinja_argument(call, 9, "default", &otherwise);
    if (!has_path && call->n_args < 2) jinja_fail(c, "map requires a filter argument");
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        if (has_path) {
            v = by_path(c, v, path);
            if (v.type == JINJA_UNDEFINED && has_default) v = otherwise;
        } else {
            struct jinja_call inner = *call;
            inner.name = jinja_need_string(c, call, call->args[1]).string->text;
            inner.args = jinja_alloc(c, call->n_args * sizeof *inner.args);
            memcpy(inner.args, call->args + 1, (call->n_args - 1) * sizeof *inner.args);
            inner.args[0] = v;
            inner.n_args--;
            v = jinja_apply_filter(c, &inner);
        }
        jinja_list_add(c, out, v);
    }
    return out;
}

/* select, reject, selectattr, rejectattr: keep what a test (or plain truth) says. */
static struct jinja_value choose(struct jinja_context *c, struct jinja_call *call, bool wanted, bool by_attribute) {
    struct jinja_value items = items_if_any(c, call), out = jinja_list_new(c, JINJA_LIST);
    size_t test_at = by_attribute ? 2 : 1;
    if (by_attribute && call->n_args < 2) jinja_fail(c, "%s needs the name of an attribute", call->name);
    for (size_t i = 0; i < items.list->n; i++) {
        struct jinja_value v = items.list->items[i];
        if (by_attribute) v = by_path(c, v, call->args[1]);
        bool chosen = jinja_truth(v);
        if (call->n_args > test_at) {
            struct jinja_call inner = *call;
            inner.name = jinja_need_string(c, call, call->args[test_at]).string->text;
            inner.args = jinja_alloc(c, call->n_args * sizeof *inner.args);
            inner.n_args = call->n_args - test_at;
            memcpy(inner.args, call->args + test_at, inner.n_args * sizeof *inner.args);
            inner.args[0] = v;
            chosen = jinja_apply_test(c, &inner);
        }
        if (chosen == wanted) jinja_list_add(c, out, items.list->items[i]);
    }
    return out;
}
static struct jinja_value filter_select(struct jinja_context *c, struct jinja_call *call) { return choose(c, call, true, false); }
static struct jinja_value filter_reject(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, false, false);
}
static struct jinja_value filter_selectattr(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, true, true);
}
static struct jinja_value filter_rejectattr(struct jinja_context *c, struct jinja_call *call) {
    return choose(c, call, false, true);
}

const struct jinja_function jinja_list_filters[] = {
    {"batch", filter_batch},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"groupby", filter_groupby},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"reverse", filter_reverse},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
    {NULL, NULL},
};
