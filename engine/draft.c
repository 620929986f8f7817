/* draft.c - speculation inside the engine: which sequences carry drafts in this step, and what their draws teach.
 *
 * Once the scheduler has planned a step, each sequence that decodes is asked for a guess, the controller keeps the nodes that
 * pay, and the scheduler gives them rows if it can do so without taking anything from others. A step with a piece of a prompt
 * in it does not draft: there each row costs its full arithmetic, and the prompt's own rows use it better.
 *
 *  (1) The nodes of a draft lie behind the known tokens, tokens[n_tokens .. n_tokens + n_draft), depth first, and their keys and
 *      values in the slots behind; both are worth nothing until the target has drawn the same tokens.
 *  (2) A draft never reaches the last token a sequence may have: that one is always drawn.
 *  (3) A slot belongs to a request from its first guess to its end; one that was preempted may lose it and start anew. Engine
 *      thread. */
#include "engine/draft.h"

#include <assert.h>

#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/log.h"

/* --- slots --- */

/* The drafters forget a slot's text. */
static void end_slot(struct drafting *d, const struct draft_slot *slot) {
    if (d->model) draft_model_ops.end(d->model, (int)(slot - d->slots));
}

static struct draft_slot *find_free(struct drafting *d) {
    struct draft_slot *lost = NULL;
    for (int i = 0; i < d->n_slots; i++) {
        if (!d->slots[i].owner) return &d->slots[i];
        if (d->slots[i].owner->seq.state != SEQUENCE_RUNNING) lost = &d->slots[i];
    }
    assert(lost); /* at most n_slots run */
    lost->owner->draft = NULL;
    end_slot(d, lost);
    return lost;
}

static struct draft_slot *slot_of(struct drafting *d, struct request *r) {
    if (r->draft) return r->draft;
    struct draft_slot *slot = find_free(d);
    slot->owner = r;
    slot->own = (struct draft_odds){0};
    slot->n_in_vain = 0;
    d->drafter.ops->begin(d->drafter.self, (int)(slot - d->slots));
    if (d->head.ops) d->head.ops->begin(d->head.self, (int)(slot - d->slots));
    return r->draft = slot;
}

/* How the guesses of the user's own store did. */
static void score_user_store(struct engine *e, const struct request *r) {
    float tried, right;
    odds_sum(&r->draft->own, PAST_STORE_CLASS, &tried, &right);
    if (tried > 0) user_texts_score(&e->user_texts, r->user_key, tried, right);
}

void draft_forget(struct engine *e, struct request *r) {
    if (!r->draft) return;
    score_user_store(e, r);
    end_slot(&e->drafting, r->draft);
    r->draft->owner = NULL;
    r->draft = NULL;
}

/* --- a guess --- */

static const float LEAST_CHANCE = 0.03f; /* of a node that is verified whatever it costs */

static bool is_usable(const struct engine *e, const struct token_tree *tree, int i) {
    return tree->parent[i] >= 0 && tree->parent[i] < i && tree->tokens[i] >= 0 &&
           tree->tokens[i] < tokenizer_vocab_size(e->tokenizer);
}

/* Nodes that can be computed: tokens that exist behind nodes that do. A drafter may be broken; its guesses must not be. */
static int usable_nodes(struct engine *e, struct token_tree *tree) {
    int i = 1;
    for (; i < tree->n_nodes && is_usable(e, tree, i); i++) {
        tree->depth[i] = (int8_t)(tree->depth[tree->parent[i]] + 1);
        tree->ancestors[i] = tree->ancestors[tree->parent[i]] | (uint64_t)1 << i;
    }
    if (i < tree->n_nodes && !e->drafting.warned) {
        log_warn("engine", "the drafter %s proposed token %d, which this model does not have: dropped",
                 e->drafting.drafter.ops->name, tree->tokens[i]);
        e->drafting.warned = true;
    }
    return i;
}

/* The longest draft that invariant (2) allows. */
static int most_nodes(const struct engine *e, const struct sequence *seq) {
    int most = seq->max_tokens - seq->n_tokens - 1;
    return most < e->config.draft_max ? most : e->config.draft_max;
}

static int sources_of(enum engine_drafter drafter) {
    switch (drafter) {
    case ENGINE_DRAFTER_SUFFIX:
        return DRAFT_FROM_SUFFIX | DRAFT_FROM_PAST;
    case ENGINE_DRAFTER_NGRAM:
        return DRAFT_FROM_STORE;
    case ENGINE_DRAFTER_MODEL:
    case ENGINE_DRAFTER_EAGLE:
    case ENGINE_DRAFTER_MEDUSA:
    case ENGINE_DRAFTER_BLOCKWISE:
    case ENGINE_DRAFTER_RECURRENT:
        return 0;
    default:
        return DRAFT_FROM_ALL;
    }
}

static double arrival_of(const void *self, int position, int32_t token) {
    return sampler_arrival(((const struct request *)self)->sampling.seed, (uint64_t)position, token);
}

/* Only texts that match may be guessed with the noise that draws them. */
static struct draft_noise noise_of(const struct request *r) {
    bool is_known = r->sampling.temperature > 0 && r->verify == ENGINE_VERIFY_MATCH;
    return (struct draft_noise){is_known ? arrival_of : NULL, r};
}

struct draft_context draft_context_of(const struct engine *e, const struct request *r) {
    bool is_chain = r->verify == ENGINE_VERIFY_TOKEN || r->verify == ENGINE_VERIFY_BLOCK;
    bool is_alone = draft_is_weighed(r->verify) && r->drafter != ENGINE_DRAFTER_AUTO; /* its text may not depend on others */
    return (struct draft_context){.tokens = r->seq.tokens,
                                  .n_tokens = r->seq.n_tokens,
                                  .own = &r->draft->own,
                                  .all = is_alone ? &e->drafting.prior : &e->drafting.odds,
                                  .max_nodes = most_nodes(e, &r->seq),
                                  .least_chance = LEAST_CHANCE,
                                  .max_width = is_chain ? 1 : e->config.draft_width,
                                  .sources = sources_of(r->drafter),
                                  .noise = noise_of(r),
                                  .request = r};
}

void draft_look_up(struct engine *e, struct request *r, const struct draft_hints *hints) {
    struct drafting *d = &e->drafting;
    struct draft_slot *slot = r->draft;
    struct draft_context context = draft_context_of(e, r);
    context.hints = hints;
    if (r->drafter == ENGINE_DRAFTER_AUTO && d->least_chance > context.least_chance) context.least_chance = d->least_chance;
    tree_init(&slot->tree, r->seq.tokens[r->seq.n_tokens - 1]);
    if (context.max_nodes < 1) return;
    /* Verified in other ways, a text may depend on its guesses: then on nobody's earlier ones. */
    if (r->verify == ENGINE_VERIFY_MATCH) context.past = user_texts_hold(&e->user_texts, r->user_key);
    d->drafter.ops->propose(d->drafter.self, (int)(slot - d->slots), &context, &slot->tree);
    if (context.past) user_texts_release(&e->user_texts);
    slot->tree.n_nodes = usable_nodes(e, &slot->tree);
}

/* None so far. */
static void begin_guess(struct engine *e, struct request *r) {
    struct draft_slot *slot = slot_of(&e->drafting, r);
    const int32_t last = r->seq.tokens[r->seq.n_tokens - 1];
    tree_init(&slot->asked, last);
    tree_init(&slot->tree, last);
    slot->is_model = slot->is_drawn = slot->is_hinted = false;
    slot->n_wanted = 0;
}

/* Without the controller: the nodes that are not sure to be wasted. */
static int likely_nodes(const struct token_tree *tree) {
    int n = 0;
    while (n + 1 < tree->n_nodes && tree->chance[n + 1] >= LEAST_CHANCE) n++;
    return n;
}

static bool all_decode(const struct scheduler *s) {
    for (int i = 0; i < s->n_running; i++) {
        const struct sequence *seq = s->running[i];
        if (seq->n_rows > 1 || (seq->n_rows == 1 && !sequence_wants_logits(seq))) return false;
    }
    return true;
}

/* Rows for the first n nodes, as far as the scheduler has them. Returns how many. */
static int give(struct engine *e, struct request *r, int n) {
    struct sequence *seq = &r->seq;
    struct token_tree *tree = &r->draft->tree;
    r->draft->n_wanted = n;
    n = scheduler_extend(&e->scheduler, seq, n);
    tree_sort_depth_first(tree, n + 1);
    if (r->draft->is_drawn) tree->n_nodes = n + 1; /* draws that nobody weighs say nothing */
    for (int i = 0; i < n; i++) seq->tokens[seq->n_tokens + i] = tree->tokens[i + 1];
    return n;
}

static bool may_draft(const struct sequence *seq) {
    const struct request *r = seq->owner;
    return seq->n_rows > 0 && r->drafter != ENGINE_DRAFTER_NONE;
}

/* To look up guesses takes 4 us a sequence, a hundredth of a step of many, and among many next to nothing pays: whoever had none
 * that did for a while is looked up now and then. */
static bool rests(const struct engine *e, const struct request *r, int n_rows) {
    enum { MANY = 8, A_WHILE = 8, NOW_AND_THEN = 8 };
    return r->drafter == ENGINE_DRAFTER_AUTO && n_rows >= MANY && r->draft->n_in_vain >= A_WHILE &&
           (e->counts.steps + r->id) % NOW_AND_THEN != 0;
}

int draft_plan(struct engine *e, int n_rows) {
    struct drafting *d = &e->drafting;
    struct scheduler *s = &e->scheduler;
    int n_guesses = 0, n_forced = 0, n_drafted = 0, budget = DRAFT_ROWS;
    d->is_decode = all_decode(s);
    d->asked_ms = 0;
    d->least_chance = controller_least_chance(&d->controller, n_rows);
    if (!d->slots || !d->is_decode) return 0;
    for (int i = 0; i < s->n_running; i++) {
        struct request *r = s->running[i]->owner;
        if (!may_draft(s->running[i])) continue;
        begin_guess(e, r);
        r->draft->is_resting = rests(e, r, n_rows);
        if (!r->draft->is_resting) draft_look_up(e, r, NULL);
    }
    if (d->model || d->head.ops) draft_ask(e, n_rows, budget);
    for (int i = 0; i < s->n_running; i++) {
        struct request *r = s->running[i]->owner;
        if (!may_draft(s->running[i])) continue;
        if (r->drafter == ENGINE_DRAFTER_AUTO) {
            d->guessing[n_guesses] = r;
            d->trees[n_guesses++] = &r->draft->tree;
        } else {
            int n = likely_nodes(&r->draft->tree);
            n = give(e, r, n < budget ? n : budget);
            n_forced += n;
            budget -= n;
        }
    }
    controller_plan(&d->controller, d->trees, n_guesses, n_rows + n_forced, budget, d->kept);
    for (int i = 0; i < n_guesses; i++) {
        struct draft_slot *slot = d->guessing[i]->draft;
        slot->n_in_vain = d->kept[i] > 0 ? 0 : slot->n_in_vain + 1;
        if (d->kept[i] > 0) n_drafted += give(e, d->guessing[i], d->kept[i]);
    }
    return n_forced + n_drafted;
}

/* --- what came of it --- */

int draft_accept(struct engine *e, struct request *r, int node) {
    struct sequence *seq = &r->seq;
    int8_t path[TREE_MAX_NODES];
    int n = 0;
    if (seq->n_draft == 0) return 0;
    const struct token_tree *tree = &r->draft->tree;
    for (uint64_t left = tree->ancestors[node]; left; left &= left - 1) path[n++] = (int8_t)__builtin_ctzll(left);
    int n_accepted = n - 1;
    if (node != n_accepted) /* not straight behind the root */
        e->backend.ops->kv_move(e->backend.self, &e->pool, seq->table.blocks, seq->n_computed - 1, path, n);
    return n_accepted;
}

void draft_learn(struct engine *e, struct request *r, const int32_t *drawn, int n) {
    struct draft_slot *slot = r->draft;
    if (!slot) return;
    if (slot->is_drawn && r->last_path == 0) slot->tree.n_nodes = 1; /* nothing of it was computed */
    odds_learn(&slot->own, &e->drafting.odds, slot->is_model ? &slot->looked_up : &slot->tree, drawn, n);
    /* Hinted guesses for the first token have kinds of their own; the kinds without hints go on learning, too. */
    if (slot->is_hinted && n > 0) odds_learn(&slot->own, &e->drafting.odds, &slot->looked_up, drawn, 1);
    if (slot->is_model) odds_learn(&slot->own, &e->drafting.odds, slot->is_drawn ? &slot->tree : &slot->asked, drawn, n);
    slot->tree.n_nodes = 1; /* the next guess may come many steps later */
    slot->is_model = slot->is_hinted = false;
}

/* Rows of the batch whose tokens are part of the text by now: all of a prompt's piece; of a draft the accepted path. */
static void observe_run(struct engine *e, struct request *r, const struct kernels_seq *run) {
    struct drafting *d = &e->drafting;
    int slot = (int)(slot_of(d, r) - d->slots), row = run->first_row, last = r->seq.n_computed - 1;
    struct draft_rows rows = {.tokens = r->seq.tokens, .first_pos = run->first_pos, .n = last + 1 - run->first_pos};
    uint64_t left = r->last_path;
    if (left) rows.n = 1;
    do {
        if (left) row = run->first_row + __builtin_ctzll(left);
        bool is_last = rows.first_pos + rows.n > last;
        rows.features = model_features(e->model, row);
        rows.last_state = is_last && r->last_logits >= 0 ? model_state(e->model, r->last_logits) : NULL;
        d->head.ops->observe(d->head.self, slot, &rows);
        rows.first_pos += rows.n;
        if (left) left &= left - 1;
    } while (left);
}

void draft_observe(struct engine *e, const struct model_batch *batch) {
    if (!e->drafting.head.ops) return;
    for (int i = 0; i < batch->n_seqs; i++) {
        struct request *r = e->row_owners[i];
        if (!r->is_ending && r->drafter != ENGINE_DRAFTER_NONE) observe_run(e, r, &batch->seqs[i]);
    }
}

void draft_time(struct engine *e, int n_rows, int n_drafted, int n_tokens, double ms) {
    e->counts.asked_ms += e->drafting.asked_ms;
    if (!e->drafting.is_decode) return;
    const struct step_outcome step = {
        .n_rows = n_rows, .n_drafted = n_drafted, .n_tokens = n_tokens, .ms = ms, .asked_ms = e->drafting.asked_ms};
    controller_learn(&e->drafting.controller, &step);
}
