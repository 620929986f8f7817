/* head_trees.c - grows trees with a recurrent head, the likeliest nodes first; or only tells what it expects next.
 *
 * A node's state depends on its parent's alone, so in each pass the head computes the likeliest nodes that nobody has looked
 * behind, of all trees together. What comes of it sprouts, in no order; when no pass pays any more, the likeliest sprouts are
 * planted into the trees that were asked for. */
#include "engine/head_trees.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"
#include "engine/sampler_rows.h"

enum {
    MOST_SPROUTS = 32, /* of one tree; a bit each in a word */
    ROWS_EACH = 4,     /* nodes of a tree in a pass, on average */
};

struct sprout {
    struct head_candidate guess;
    int depth;
    bool is_open; /* nobody has looked behind it */
};

/* A tree in the making. */
struct sprouts {
    const struct draft_ask *ask;
    const float *root_state;
    float *states; /* [MOST_SPROUTS][state_stride], behind those that are not open */
    int width, n;
    struct sprout all[MOST_SPROUTS]; /* the root first */
};

struct head_trees {
    struct head *head;
    struct cost_table *passes;
    bool is_chain;
    struct sprouts *sprouts; /* [n_slots] */
    float *states, *sums;
};

/* A row of a pass: a node of one of the trees. */
struct place {
    struct sprouts *of;
    int at;
};

static float chance_at(const struct place *place) { return place->of->all[place->at].guess.chance; }

/* The row's guesses sprout behind its node. */
static void sprout(struct head_trees *t, const struct place *place, int row) {
    struct sprouts *s = place->of;
    struct sprout *from = &s->all[place->at];
    struct head_guess guesses[HEAD_MOST_WIDTH] = {0};
    head_guess_behind(t->head, &s->ask->context, from->depth, row, s->width, t->sums, guesses);
    from->is_open = false;
    for (int k = 0; k < s->width && s->n < MOST_SPROUTS; k++) {
        struct sprout *child = &s->all[s->n];
        *child = (struct sprout){.depth = from->depth + 1, .is_open = from->depth + 1 < HEAD_MOST_DEPTH};
        s->n += head_guess_weigh(&s->ask->context, place->at, from->guess.chance, &guesses[k], &child->guess);
    }
}

/* What the head says behind all of these, in one pass. */
static void look_behind_all(struct head_trees *t, const struct place *places, int n) {
    struct head *h = t->head;
    const size_t stride = (size_t)h->state_stride, bytes = stride * sizeof *h->state;
    int32_t tokens[HEAD_BATCH];
    double start = now_ms();
    for (int i = 0; i < n; i++) {
        const struct sprouts *s = places[i].of;
        const struct head_candidate *c = &s->all[places[i].at].guess;
        memcpy(h->state + (size_t)i * stride, places[i].at == 0 ? s->root_state : s->states + (size_t)c->parent * stride, bytes);
        tokens[i] = c->token;
    }
    head_recur(h, tokens, n);
    for (int i = 0; i < n; i++) {
        memcpy(places[i].of->states + (size_t)places[i].at * stride, h->state + (size_t)i * stride, bytes);
        sprout(t, &places[i], i);
    }
    cost_learn(t->passes, n, now_ms() - start);
}

/* The likeliest nodes that nobody has looked behind; none when together they are too unlikely to pay for a pass. */
static int choose_open(const struct head_trees *t, int n_trees, struct place *out) {
    int n = 0, most = n_trees * ROWS_EACH < HEAD_BATCH ? n_trees * ROWS_EACH : HEAD_BATCH;
    float sum = 0;
    for (int tree = 0; tree < n_trees; tree++) {
        struct sprouts *s = &t->sprouts[tree];
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
        const struct head_candidate *c = &s->all[best].guess;
        planted |= (uint32_t)1 << best;
        node_of[best] = (int8_t)tree_push(tree, node_of[c->parent], c->token, c->odds_class, c->odds);
        assert(node_of[best] > 0);
    }
}

void head_trees_grow(struct head_trees *t, const struct draft_ask *asks, const float *const *states, int n) {
    struct place places[HEAD_BATCH];
    int n_trees = 0, n_rows;
    for (int i = 0; i < n; i++) {
        struct sprouts *s = &t->sprouts[n_trees];
        if (!states[i]) continue;
        s->ask = &asks[i];
        s->root_state = states[i];
        s->width = t->is_chain ? 1 : head_guess_width(&asks[i].context);
        s->n = 1;
        s->all[0] = (struct sprout){.guess = {.parent = -1, .token = asks[i].tree->tokens[0], .chance = 1}, .is_open = true};
        n_trees++;
    }
    while ((n_rows = choose_open(t, n_trees, places)) > 0) look_behind_all(t, places, n_rows);
    for (int i = 0; i < n_trees; i++) plant(&t->sprouts[i]);
}

/* --- hints --- */

static void hint_some(struct head_trees *t, const struct draft_ask *const *asks, const float *const *states, int n) {
    struct head *h = t->head;
    const size_t stride = (size_t)h->state_stride;
    struct head_guess guesses[DRAFT_HINTS];
    int32_t tokens[HEAD_BATCH];
    for (int i = 0; i < n; i++) {
        memcpy(h->state + (size_t)i * stride, states[i], stride * sizeof *h->state);
        tokens[i] = asks[i]->tree->tokens[0];
    }
    head_recur(h, tokens, n);
    for (int i = 0; i < n; i++) {
        struct draft_hints *hints = asks[i]->hints;
        memset(guesses, 0, sizeof guesses);
        head_guess_behind(h, &asks[i]->context, 0, i, DRAFT_HINTS, t->sums, guesses);
        for (hints->n = 0; hints->n < DRAFT_HINTS && guesses[hints->n].p > 0; hints->n++) {
            hints->tokens[hints->n] = guesses[hints->n].token;
            hints->p[hints->n] = guesses[hints->n].p;
        }
    }
}

void head_trees_hint(struct head_trees *t, const struct draft_ask *asks, const float *const *states, int n) {
    const struct draft_ask *some[HEAD_BATCH];
    const float *roots[HEAD_BATCH];
    int n_some = 0;
    for (int i = 0; i < n; i++) {
        asks[i].hints->n = 0;
        if (states[i]) some[n_some] = &asks[i], roots[n_some++] = states[i];
        if (n_some == 0 || (n_some < HEAD_BATCH && i + 1 < n)) continue;
        hint_some(t, some, roots, n_some);
        n_some = 0;
    }
}

/* --- open, close --- */

struct head_trees *head_trees_open(struct head *head, int n_slots, bool is_chain, struct cost_table *passes) {
    struct head_trees *t = calloc(1, sizeof *t);
    size_t n = (size_t)n_slots, of_tree = MOST_SPROUTS * (size_t)head->state_stride;
    if (!t) return NULL;
    *t = (struct head_trees){.head = head, .passes = passes, .is_chain = is_chain};
    t->sprouts = calloc(n, sizeof *t->sprouts);
    t->states = calloc(n, of_tree * sizeof *t->states);
    t->sums = calloc((size_t)sampler_weights_room(head->shape.n_vocab), sizeof *t->sums);
    if (!t->sprouts || !t->states || !t->sums) {
        head_trees_close(t);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) t->sprouts[i].states = t->states + i * of_tree;
    return t;
}

void head_trees_close(struct head_trees *t) {
    if (!t) return;
    free(t->sprouts);
    free(t->states);
    free(t->sums);
    free(t);
}

uint64_t head_trees_bytes(const struct head_shape *shape, int n_slots) {
    return (uint64_t)n_slots * (sizeof(struct sprouts) + MOST_SPROUTS * (uint64_t)row_group_pad(shape->n_embd) * sizeof(float));
}
