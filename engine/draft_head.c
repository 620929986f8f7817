/* draft_head.c - guesses of a drafting head grow into a tree, the likeliest first. See draft_head.h.
 *
 * Rows that the target computed are kept as they come (observe) and go through the head when it is asked, or when HEAD_MOST_ROWS
 * have gathered; so while nobody asks, a token costs a copy. To look behind a drafted node EAGLE needs its ancestors in
 * memory: the nodes of its branch that are not there are computed in one call with it. A recurrent head needs its parent's state
 * alone, so the likeliest nodes of all sequences that ask are computed together. */
#include "engine/draft_head.h"

#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/sampler_rows.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_DEPTH = 8,
    MOST_WIDTH = 4,   /* guesses behind one node */
    MOST_LIKELY = 16, /* tokens of which the luckiest are guessed where the noise of the draw is known */
    MOST_CANDIDATES = TREE_MAX_NODES * MOST_WIDTH,
    MOST_SPROUTS = 32, /* of one tree; a bit each in a word */
    ROWS_EACH = 4,     /* nodes of a tree that a recurrent head computes in a pass, on average */
};

static const float LEAST_CHANCE = 0.05f; /* of a node; below it never pays */

struct head_slot {
    int start;      /* position of the text that stands first in memory */
    int n_memory;   /* positions there */
    int n_pending;  /* rows behind them that have not been through the head */
    int state_end;  /* the state is of the position before this one; 0 = there is none */
    float *pending; /* [HEAD_MOST_ROWS][features] */
    float *state;   /* EAGLE: the layer's output for the last position in memory; the others: the target's */
};

struct guess {
    int32_t token;
    float p;
};

struct candidate {
    int parent, odds_class;
    int32_t token;
    float odds, chance;
};

/* A node of a recurrent head's tree before its place in it is known. */
struct sprout {
    struct candidate guess;
    int depth;
    bool is_open; /* nobody has looked behind it */
};

/* Such a tree in the making. */
struct sprouts {
    const struct draft_ask *ask;
    float *states; /* [MOST_SPROUTS][state_stride], behind those that are not open */
    int width, n;
    struct sprout all[MOST_SPROUTS]; /* the root first */
};

struct head_drafter {
    struct head *head;
    struct cost_table *passes;
    bool is_chain;
    struct head_slot *slots;
    float *rows;             /* of all slots */
    float *states;           /* [n_states][state_stride]: the head's own behind the nodes that were looked behind */
    struct sprouts *sprouts; /* [n_slots]; used by a recurrent head */
    float *sums;             /* scratch of find_best */
    /* The tree in the making. */
    struct head_slot *slot;
    const struct draft_context *context;
    struct token_tree *tree;
    double begun_ms;
    int n_absorbed;                              /* rows of the text that went through the head first */
    int width, n_branch, branch[MOST_DEPTH + 1]; /* nodes whose keys are in memory, from depth 1 on */
    struct guess ahead[HEAD_MOST_AHEAD][MOST_WIDTH];
    int n_candidates;
    struct candidate candidates[MOST_CANDIDATES];
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

/* The n likeliest tokens of a row of logits with their probability. */
static void find_best(const struct head_drafter *d, int row, int n, struct guess *out) {
    const struct head *h = d->head;
    const struct sampler_rows *rows = sampler_rows_best();
    const int n_vocab = h->shape.n_vocab;
    const float *logits = h->logits + (size_t)row * (size_t)h->logits_stride;
    const float *maxima = h->maxima + (size_t)row * (size_t)row_blocks(n_vocab);
    float best[MOST_LIKELY] = {0}, sum = 0;
    int at[MOST_LIKELY], n_found = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (i % ROW_BLOCK == 0 && n_found == n && !(maxima[i / ROW_BLOCK] > best[n - 1])) {
            i += ROW_BLOCK - 1;
            continue;
        }
        if (n_found == n && !(logits[i] > best[n - 1])) continue;
        int place = n_found < n ? n_found++ : n - 1;
        for (; place > 0 && logits[i] > best[place - 1]; place--) best[place] = best[place - 1], at[place] = at[place - 1];
        best[place] = logits[i];
        at[place] = i;
    }
    int n_sums = rows->weights(logits, n_vocab, best[0], 1, d->sums);
    for (int i = 0; i < n_sums; i++) sum += d->sums[i];
    for (int i = 0; i < n_found; i++) out[i] = (struct guess){h->vocab[at[i]], sampler_exp(best[i] - best[0]) / sum};
}

/* The target draws token i where q_i^(1/T) / arrival_i is largest, q being its own probabilities, of which the head's are a
 * blurred picture: the guesses that are likeliest to win that race come first, with the share of it that is theirs. */
static void race(const struct draft_context *context, int depth, struct guess *guesses, int n) {
    static const double BLUR = 1.0; /* of a logarithm */
    const struct request *r = context->request;
    double power[MOST_LIKELY], sum = 0;
    for (int i = 0; i < n; i++) {
        double arrival = context->noise.of(context->noise.self, context->n_tokens + depth, guesses[i].token);
        sum += power[i] = pow(pow((double)guesses[i].p, 1 / (double)r->sampling.temperature) / arrival, 1 / BLUR);
    }
    for (int i = 0; i < n; i++) {
        struct guess guess = {guesses[i].token, (float)(power[i] / sum)};
        int place = i;
        for (; place > 0 && guess.p > guesses[place - 1].p; place--) guesses[place] = guesses[place - 1];
        guesses[place] = guess;
    }
}

/* Guesses for what follows a node, from a row of logits. */
static void guess_behind(const struct head_drafter *d, const struct draft_context *context, int depth, int row, int width,
                         struct guess *out) {
    struct guess likely[MOST_LIKELY] = {0};
    int n = context->noise.of ? MOST_LIKELY : width;
    find_best(d, row, n, likely);
    if (context->noise.of) race(context, depth, likely, n);
    memcpy(out, likely, (size_t)width * sizeof *out);
}

/* The guess as a candidate behind a node. False: it is too weak. */
static bool weigh(const struct draft_context *context, int parent, float chance, const struct guess *guess,
                  struct candidate *out) {
    if (!(guess->p > 0)) return false;
    int class = odds_class_of(DRAFT_MODEL_CLASS, guess->p) + (context->noise.of ? ODDS_KINDS : 0);
    float odds = odds_estimate(context->own, context->all, class);
    *out = (struct candidate){parent, class, guess->token, odds, chance * odds};
    return out->chance >= LEAST_CHANCE;
}

static void offer(struct head_drafter *d, int parent, const struct guess *guesses) {
    struct candidate c;
    for (int i = 0; i < d->width && d->n_candidates < MOST_CANDIDATES; i++) {
        if (weigh(d->context, parent, d->tree->chance[parent], &guesses[i], &c)) d->candidates[d->n_candidates++] = c;
    }
}

/* EAGLE: the keys of the node and its ancestors come into memory, its state is computed. */
static void compute_branch(struct head_drafter *d, int node) {
    struct head *h = d->head;
    const struct token_tree *tree = d->tree;
    int path[MOST_DEPTH + 1], depth = tree->depth[node], n_kept = 0;
    int32_t tokens[MOST_DEPTH];
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
    struct guess guesses[MOST_WIDTH] = {0};
    if (d->head->shape.kind == HEAD_MEDUSA) {
        if (depth < d->head->shape.n_ahead) offer(d, node, d->ahead[depth]);
        return;
    }
    if (depth == MOST_DEPTH || (node > 0 && d->tree->chance[node] < d->context->least_chance)) return;
    double start = node > 0 ? now_ms() : d->begun_ms;
    if (node > 0) compute_branch(d, node);
    head_logits(d->head, state_of(d, node));
    guess_behind(d, d->context, depth, 0, d->width, guesses);
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
        const struct candidate c = d->candidates[i];
        memmove(d->candidates + i, d->candidates + i + 1, (size_t)(--d->n_candidates - i) * sizeof c);
        int node = tree_push(tree, c.parent, c.token, c.odds_class, c.odds);
        if (node < 0) return;
        if (tree->n_nodes - 1 < d->context->max_nodes) look_behind(d, node);
    }
}

static int width_of(const struct head_drafter *d, const struct draft_context *context) {
    if (d->is_chain || context->max_width < 1) return 1;
    return context->max_width < MOST_WIDTH ? context->max_width : MOST_WIDTH;
}

/* --- a recurrent head's trees --- */

/* A row of a pass: a node of one of the trees. */
struct place {
    struct sprouts *of;
    int at;
};

static float chance_at(const struct place *place) { return place->of->all[place->at].guess.chance; }

/* The row's guesses sprout behind its node. */
static void sprout(struct head_drafter *d, const struct place *place, int row) {
    struct sprouts *s = place->of;
    struct sprout *from = &s->all[place->at];
    struct guess guesses[MOST_WIDTH] = {0};
    guess_behind(d, &s->ask->context, from->depth, row, s->width, guesses);
    from->is_open = false;
    for (int k = 0; k < s->width && s->n < MOST_SPROUTS; k++) {
        struct sprout *child = &s->all[s->n];
        *child = (struct sprout){.depth = from->depth + 1, .is_open = from->depth + 1 < MOST_DEPTH};
        s->n += weigh(&s->ask->context, place->at, from->guess.chance, &guesses[k], &child->guess);
    }
}

/* What the head says behind all of these, in one pass. */
static void look_behind_all(struct head_drafter *d, const struct place *places, int n) {
    struct head *h = d->head;
    const size_t stride = (size_t)h->state_stride, bytes = stride * sizeof *h->state;
    int32_t tokens[HEAD_BATCH];
    double start = now_ms();
    for (int i = 0; i < n; i++) {
        const struct sprouts *s = places[i].of;
        const struct candidate *c = &s->all[places[i].at].guess;
        memcpy(h->state + (size_t)i * stride,
               places[i].at == 0 ? d->slots[s->ask->slot].state : s->states + (size_t)c->parent * stride, bytes);
        tokens[i] = c->token;
    }
    head_recur(h, tokens, n);
    for (int i = 0; i < n; i++) {
        memcpy(places[i].of->states + (size_t)places[i].at * stride, h->state + (size_t)i * stride, bytes);
        sprout(d, &places[i], i);
    }
    cost_learn(d->passes, n, now_ms() - start);
}

/* The likeliest nodes that nobody has looked behind; none when together they are too unlikely to pay for a pass. */
static int choose_open(const struct head_drafter *d, int n_trees, struct place *out) {
    int n = 0, most = n_trees * ROWS_EACH < HEAD_BATCH ? n_trees * ROWS_EACH : HEAD_BATCH;
    float sum = 0;
    for (int t = 0; t < n_trees; t++) {
        struct sprouts *s = &d->sprouts[t];
        for (int i = 0; i < s->n; i++) {
            const struct place place = {s, i};
            if (!s->all[i].is_open || (n == most && chance_at(&place) <= chance_at(&out[n - 1]))) continue;
            int at = n < most ? n++ : n - 1;
            for (; at > 0 && chance_at(&place) > chance_at(&out[at - 1]); at--) out[at] = out[at - 1];
            out[at] = place;
        }
    }
    for (int i = 0; i < n; i++) sum += chance_at(&out[i]);
    return n > 0 && sum >= out[0].of->ask->context.least_chance ? n : 0;
}

/* The likeliest come first into the tree: no node is likelier than its parent, and of equals the earlier goes first. */
static void plant(const struct sprouts *s) {
    struct token_tree *tree = s->ask->tree;
    int8_t node_of[MOST_SPROUTS] = {0};
    uint32_t planted = 1;
    while (tree->n_nodes - 1 < s->ask->context.max_nodes) {
        int best = -1;
        for (int i = 1; i < s->n; i++) {
            if (!(planted >> i & 1) && (best < 0 || s->all[i].guess.chance > s->all[best].guess.chance)) best = i;
        }
        if (best < 0) return;
        const struct candidate *c = &s->all[best].guess;
        planted |= (uint32_t)1 << best;
        node_of[best] = (int8_t)tree_push(tree, node_of[c->parent], c->token, c->odds_class, c->odds);
        assert(node_of[best] > 0);
    }
}

static void grow_all(struct head_drafter *d, const struct draft_ask *asks, int n) {
    struct place places[HEAD_BATCH];
    int n_trees = 0, n_rows;
    for (int i = 0; i < n; i++) {
        struct sprouts *s = &d->sprouts[n_trees];
        if (d->slots[asks[i].slot].state_end != asks[i].context.n_tokens - 1) continue;
        s->ask = &asks[i];
        s->width = width_of(d, &asks[i].context);
        s->n = 1;
        s->all[0] = (struct sprout){.guess = {.parent = -1, .token = asks[i].tree->tokens[0], .chance = 1}, .is_open = true};
        n_trees++;
    }
    while ((n_rows = choose_open(d, n_trees, places)) > 0) look_behind_all(d, places, n_rows);
    for (int i = 0; i < n_trees; i++) plant(&d->sprouts[i]);
}

static void propose(void *self, int slot, const struct draft_context *context, struct token_tree *tree) {
    struct head_drafter *d = self;
    struct head *h = d->head;
    d->slot = &d->slots[slot];
    d->context = context;
    d->tree = tree;
    d->width = width_of(d, context);
    d->begun_ms = now_ms();
    d->n_absorbed = d->slot->n_pending;
    if (h->shape.kind == HEAD_EAGLE) absorb(d, d->slot, context->tokens);
    if (d->slot->state_end != context->n_tokens - 1) return;
    if (h->shape.kind == HEAD_MEDUSA) {
        head_ahead(h, d->slot->state);
        memset(d->ahead, 0, sizeof d->ahead);
        for (int k = 0; k < h->shape.n_ahead; k++) guess_behind(d, context, k, k, d->width, d->ahead[k]);
        cost_learn(d->passes, 1, (now_ms() - d->begun_ms) / h->shape.n_ahead); /* all depths at once */
    }
    grow(d);
}

/* But for recurrent heads one after the other: what a head reads stays in the cache. */
static void propose_all(void *self, const struct draft_ask *asks, int n) {
    struct head_drafter *d = self;
    if (d->head->shape.kind == HEAD_RECURRENT) {
        grow_all(d, asks, n);
        return;
    }
    for (int i = 0; i < n; i++) propose(self, asks[i].slot, &asks[i].context, asks[i].tree);
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
    free(d->sprouts);
    free(d);
}

static size_t floats_of_slot(const struct head_shape *s) {
    size_t features = s->kind == HEAD_EAGLE ? MODEL_FEATURES * (size_t)s->n_embd : 0;
    return HEAD_MOST_ROWS * features + (size_t)row_group_pad(s->n_embd);
}

static size_t n_states(const struct head_shape *s, int n_slots) {
    return s->kind == HEAD_RECURRENT ? (size_t)n_slots * MOST_SPROUTS : TREE_MAX_NODES;
}

uint64_t head_drafter_bytes(const struct head_shape *s, int n_slots) {
    uint64_t slot = floats_of_slot(s) * sizeof(float) + sizeof(struct head_slot) + sizeof(struct sprouts);
    return (uint64_t)n_slots * slot + n_states(s, n_slots) * (uint64_t)row_group_pad(s->n_embd) * sizeof(float) +
           sizeof(struct head_drafter);
}

static const struct drafter_ops head_ops = {
    .name = "head", .begin = begin, .close = close_drafter, .propose_all = propose_all, .end = begin, .observe = observe};

int head_drafter_open(struct drafter *out, struct head *head, bool is_chain, struct cost_table *passes,
                      struct engine_error *error) {
    size_t per_slot = floats_of_slot(&head->shape), n_slots = (size_t)head->n_slots;
    struct head_drafter *d = calloc(1, sizeof *d);
    if (d) {
        *d = (struct head_drafter){.head = head, .is_chain = is_chain, .passes = passes};
        d->slots = calloc(n_slots, sizeof *d->slots);
        d->rows = calloc(n_slots, per_slot * sizeof *d->rows);
        d->states = calloc(n_states(&head->shape, head->n_slots), (size_t)head->state_stride * sizeof *d->states);
        d->sprouts = calloc(n_slots, sizeof *d->sprouts);
        d->sums = calloc((size_t)sampler_weights_room(head->shape.n_vocab), sizeof *d->sums);
    }
    if (!d || !d->slots || !d->rows || !d->states || !d->sums || !d->sprouts) {
        snprintf(error->text, sizeof error->text, "no memory for the drafting head");
        d ? close_drafter(d) : head_close(head);
        return ENGINE_ERR_MEMORY;
    }
    for (size_t i = 0; i < n_slots; i++) {
        d->slots[i].state = d->rows + i * per_slot;
        d->slots[i].pending = d->slots[i].state + head->state_stride;
        if (head->shape.kind == HEAD_RECURRENT) d->sprouts[i].states = d->states + i * MOST_SPROUTS * (size_t)head->state_stride;
    }
    *out = (struct drafter){&head_ops, d};
    return ENGINE_OK;
}
