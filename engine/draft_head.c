/* draft_head.c - guesses of a drafting head grow into a tree, the likeliest first. See draft_head.h.
 *
 * Rows that the target computed are kept as they come (observe) and go through the head when it is asked, or when HEAD_MOST_ROWS
 * have gathered; so while nobody asks, a token costs a copy. To look behind a drafted node EAGLE needs its ancestors in
 * memory: the nodes of its branch that are not there are computed in one call with it. A recurrent head's trees grow in
 * head_trees.c. */
#include "engine/draft_head.h"

#include "engine/head_trees.h"
#include "engine/internal.h"
#include "engine/sampler_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CANDIDATES = TREE_MAX_NODES * HEAD_MOST_WIDTH };

struct head_slot {
    int start;      /* position of the text that stands first in memory */
    int n_memory;   /* positions there */
    int n_pending;  /* rows behind them that have not been through the head */
    int state_end;  /* the state is of the position before this one; 0 = there is none */
    float *pending; /* [HEAD_MOST_ROWS][features] */
    float *state;   /* EAGLE: the layer's output for the last position in memory; the others: the target's */
};

struct head_drafter {
    struct head *head;
    struct cost_table *passes;
    bool is_chain;
    struct head_slot *slots;
    float *rows;              /* of all slots */
    float *states;            /* [TREE_MAX_NODES][state_stride]: EAGLE's output behind the nodes that were looked behind */
    float *sums;              /* scratch of head_guess_behind */
    struct head_trees *trees; /* NULL but for a recurrent head */
    const float **roots;      /* [n_slots]: scratch of propose_all */
    /* The tree in the making. */
    struct head_slot *slot;
    const struct draft_context *context;
    struct token_tree *tree;
    double begun_ms;
    int n_absorbed;                                   /* rows of the text that went through the head first */
    int width, n_branch, branch[HEAD_MOST_DEPTH + 1]; /* nodes whose keys are in memory, from depth 1 on */
    struct head_guess ahead[HEAD_MOST_AHEAD][HEAD_MOST_WIDTH];
    int n_candidates;
    struct head_candidate candidates[MOST_CANDIDATES];
};

static int n_features(const struct head_drafter *d) { return MODEL_FEATURES * d->head->shape.n_embd; }
static float *state_of(struct head_drafter *d, int node) {
    return node == 0 ? d->slot->state : d->states + (size_t)node * (size_t)d->head->state_stride;
}

/* --- what the target computed --- */

static void begin(void *self, int slot) {
    struct head_slot *s = &((struct head_drafter *)self)->slots[slot];
    s->start = s->n_memory = s->n_pending = s->state_end = 0;
}

/* The pending rows go through the head. tokens: the text. */
static void absorb(struct head_drafter *d, struct head_slot *s, const int32_t *tokens) {
    struct head *h = d->head;
    int n = s->n_pending;
    size_t stride = (size_t)h->state_stride;
    if (n == 0) return;
    head_begin(h, s->pending, n);
    head_layer(h, (int)(s - d->slots), s->n_memory, tokens + s->start + s->n_memory + 1, n);
    memcpy(s->state, h->state + (size_t)(n - 1) * stride, stride * sizeof *s->state);
    s->n_memory += n;
    s->n_pending = 0;
    s->state_end = s->start + s->n_memory;
}

static void observe(void *self, int slot, const struct draft_rows *rows) {
    struct head_drafter *d = self;
    struct head_slot *s = &d->slots[slot];
    size_t width = (size_t)n_features(d);
    if (d->head->shape.kind != HEAD_EAGLE) {
        if (rows->last_state) memcpy(s->state, rows->last_state, (size_t)d->head->shape.n_embd * sizeof *s->state);
        s->state_end = rows->last_state ? rows->first_pos + rows->n : 0;
        return;
    }
    if (rows->first_pos != s->start + s->n_memory + s->n_pending) {
        begin(d, slot);
        s->start = rows->first_pos;
    }
    for (int i = 0; i < rows->n; i++) {
        if (s->n_pending == HEAD_MOST_ROWS) absorb(d, s, rows->tokens);
        memcpy(s->pending + (size_t)s->n_pending++ * width, rows->features + (size_t)i * width, width * sizeof(float));
    }
}

/* --- guesses --- */

static void offer(struct head_drafter *d, int parent, const struct head_guess *guesses) {
    struct head_candidate c;
    for (int i = 0; i < d->width && d->n_candidates < MOST_CANDIDATES; i++) {
        if (head_guess_weigh(d->context, parent, d->tree->chance[parent], &guesses[i], &c)) d->candidates[d->n_candidates++] = c;
    }
}

/* EAGLE: the keys of the node and its ancestors come into memory, its state is computed. */
static void compute_branch(struct head_drafter *d, int node) {
    struct head *h = d->head;
    const struct token_tree *tree = d->tree;
    int path[HEAD_MOST_DEPTH + 1], depth = tree->depth[node], n_kept = 0;
    int32_t tokens[HEAD_MOST_DEPTH];
    size_t stride = (size_t)h->state_stride;
    for (int i = depth, at = node; i > 0; i--, at = tree->parent[at]) path[i] = at;
    while (n_kept < d->n_branch && n_kept < depth - 1 && d->branch[n_kept + 1] == path[n_kept + 1]) n_kept++;
    for (int i = n_kept + 1; i <= depth; i++) {
        size_t row = (size_t)(i - n_kept - 1);
        tokens[row] = tree->tokens[path[i]];
        memcpy(h->state + row * stride, state_of(d, tree->parent[path[i]]), stride * sizeof *h->state);
        d->branch[i] = path[i];
    }
    d->n_branch = depth;
    head_layer(h, (int)(d->slot - d->slots), d->slot->n_memory + n_kept, tokens, depth - n_kept);
    memcpy(state_of(d, node), h->state + (size_t)(depth - n_kept - 1) * stride, stride * sizeof *h->state);
}

static void look_behind(struct head_drafter *d, int node) {
    int depth = d->tree->depth[node];
    struct head_guess guesses[HEAD_MOST_WIDTH] = {0};
    if (d->head->shape.kind == HEAD_MEDUSA) {
        if (depth < d->head->shape.n_ahead) offer(d, node, d->ahead[depth]);
        return;
    }
    if (depth == HEAD_MOST_DEPTH || (node > 0 && d->tree->chance[node] < d->context->least_chance)) return;
    double start = node > 0 ? now_ms() : d->begun_ms;
    if (node > 0) compute_branch(d, node);
    head_logits(d->head, state_of(d, node));
    head_guess_behind(d->head, d->context, depth, 0, d->width, d->sums, guesses);
    cost_learn(d->passes, node > 0 || d->n_absorbed == 0 ? 1 : d->n_absorbed, now_ms() - start);
    offer(d, node, guesses);
}

/* The likeliest candidate, of equals the first; -1 if there is none. */
static int find_likeliest(const struct head_drafter *d) {
    int best = -1;
    for (int i = 0; i < d->n_candidates; i++) {
        if (best < 0 || d->candidates[i].chance > d->candidates[best].chance) best = i;
    }
    return best;
}

/* Nodes come in the order of their chances: a child's is never above its parent's. */
static void grow(struct head_drafter *d) {
    struct token_tree *tree = d->tree;
    d->n_candidates = d->n_branch = 0;
    look_behind(d, 0);
    for (int i; tree->n_nodes - 1 < d->context->max_nodes && (i = find_likeliest(d)) >= 0;) {
        const struct head_candidate c = d->candidates[i];
        memmove(d->candidates + i, d->candidates + i + 1, (size_t)(--d->n_candidates - i) * sizeof c);
        int node = tree_push(tree, c.parent, c.token, c.odds_class, c.odds);
        if (node < 0) return;
        if (tree->n_nodes - 1 < d->context->max_nodes) look_behind(d, node);
    }
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct head_drafter *d = self;
    struct head *h = d->head;
    d->slot = &d->slots[slot];
    d->context = context;
    d->tree = tree;
    d->width = d->is_chain ? 1 : head_guess_width(context);
    d->begun_ms = now_ms();
    d->n_absorbed = d->slot->n_pending;
    if (h->shape.kind == HEAD_EAGLE) absorb(d, d->slot, context->tokens);
    if (d->slot->state_end != context->n_tokens - 1) return;
    if (h->shape.kind == HEAD_MEDUSA) {
        head_ahead(h, d->slot->state);
        memset(d->ahead, 0, sizeof d->ahead);
        for (int k = 0; k < h->shape.n_ahead; k++) head_guess_behind(h, context, k, k, d->width, d->sums, d->ahead[k]);
        cost_learn(d->passes, 1, (now_ms() - d->begun_ms) / h->shape.n_ahead); /* all depths at once */
    }
    grow(d);
}

static void find_roots(struct head_drafter *d, const struct draft_ask *asks, int n) {
    for (int i = 0; i < n; i++) {
        const struct head_slot *s = &d->slots[asks[i].slot];
        d->roots[i] = s->state_end == asks[i].context.n_tokens - 1 ? s->state : NULL;
    }
}

/* Recurrent heads alone. */
static void hint_all(void *self, const struct draft_ask *asks, int n) {
    struct head_drafter *d = self;
    find_roots(d, asks, n);
    head_trees_hint(d->trees, asks, d->roots, n);
}

/* But for recurrent heads one after the other: what a head reads stays in the cache. */
static void propose_all(void *self, const struct draft_ask *asks, int n) {
    struct head_drafter *d = self;
    find_roots(d, asks, n);
    if (d->trees) head_trees_grow(d->trees, asks, d->roots, n);
    for (int i = 0; !d->trees && i < n; i++) propose(self, asks[i].slot, &asks[i].context, asks[i].tree);
}

int head_drafter_missing(void *self, int slot, const struct draft_context *context) {
    const struct head_drafter *d = self;
    const struct head_slot *s = &d->slots[slot];
    if (d->head->shape.kind != HEAD_EAGLE) return s->state_end == context->n_tokens - 1;
    bool is_current = s->start + s->n_memory + s->n_pending == context->n_tokens - 1 && s->n_memory + s->n_pending > 0;
    return is_current ? s->n_pending > 0 ? s->n_pending : 1 : 0;
}

/* --- open, close --- */

static void close_drafter(void *self) {
    struct head_drafter *d = self;
    head_close(d->head);
    free(d->slots);
    free(d->rows);
    free(d->states);
    free(d->sums);
    free(d->roots);
    head_trees_close(d->trees);
    free(d);
}

static size_t floats_of_slot(const struct head_shape *s) {
    size_t features = s->kind == HEAD_EAGLE ? MODEL_FEATURES * (size_t)s->n_embd : 0;
    return HEAD_MOST_ROWS * features + (size_t)row_group_pad(s->n_embd);
}

uint64_t head_drafter_bytes(const struct head_shape *s, int n_slots) {
    uint64_t slot = floats_of_slot(s) * sizeof(float) + sizeof(struct head_slot) + sizeof(const float *);
    return (uint64_t)n_slots * slot + (uint64_t)(TREE_MAX_NODES * row_group_pad(s->n_embd)) * sizeof(float) +
           sizeof(struct head_drafter) + (s->kind == HEAD_RECURRENT ? head_trees_bytes(s, n_slots) : 0);
}

static const struct drafter_ops head_ops = {.name = "head",
                                            .begin = begin,
                                            .close = close_drafter,
                                            .propose_all = propose_all,
                                            .hint_all = hint_all,
                                            .end = begin,
                                            .observe = observe};

int head_drafter_open(struct drafter *out, struct head *head, bool is_chain, struct cost_table *passes,
                      struct engine_error *error) {
    size_t per_slot = floats_of_slot(&head->shape), n_slots = (size_t)head->n_slots;
    bool is_recurrent = head->shape.kind == HEAD_RECURRENT;
    struct head_drafter *d = calloc(1, sizeof *d);
    if (d) {
        *d = (struct head_drafter){.head = head, .is_chain = is_chain, .passes = passes};
        d->slots = calloc(n_slots, sizeof *d->slots);
        d->rows = calloc(n_slots, per_slot * sizeof *d->rows);
        d->states = calloc(TREE_MAX_NODES, (size_t)head->state_stride * sizeof *d->states);
        d->roots = calloc(n_slots, sizeof *d->roots);
        d->trees = is_recurrent ? head_trees_open(head, head->n_slots, is_chain, passes) : NULL;
        d->sums = calloc((size_t)sampler_weights_room(head->shape.n_vocab), sizeof *d->sums);
    }
    if (!d || !d->slots || !d->rows || !d->states || !d->sums || !d->roots || (is_recurrent && !d->trees)) {
        snprintf(error->text, sizeof error->text, "no memory for the drafting head");
        d ? close_drafter(d) : head_close(head);
        return ENGINE_ERR_MEMORY;
    }
    for (size_t i = 0; i < n_slots; i++) {
        d->slots[i].state = d->rows + i * per_slot;
        d->slots[i].pending = d->slots[i].state + head->state_stride;
    }
    *out = (struct drafter){&head_ops, d};
    return ENGINE_OK;
}
