/* draft_ask.c - who asks the draft model, or the head, in this step. It costs time, the lookup drafter's guesses do not.
 *
 *     model    always; so eagle, medusa, blockwise and recurrent
 *     merge    where the lookup drafter's guess is the worse one; a recurrent head always
 *     auto     where the controller finds that it pays
 *
 * All who ask are answered together. A recurrent head is asked for the next token alone, and with these hints the lookup drafter
 * guesses anew. The others' guesses and the lookup drafter's grow into one tree; where only chains are wanted, or the model's is
 * drawn (the verifiers could weigh both kinds in one tree, but a chosen node must not decide which drawn ones find room), the
 * model's takes the place of the other. Either is scored by the draws, whatever was verified. Engine thread. */
#include "engine/draft_head.h"
#include "engine/draft_model.h"
#include "engine/internal.h"

static const float LEAST_CHANCE = 0.25f; /* as far as those guess who draft whatever it costs */

static double gain_of(const struct token_tree *tree) {
    double gain = 0;
    for (int i = 1; i < tree->n_nodes; i++) gain += (double)tree->chance[i];
    return gain;
}

/* What a chain gains whose tokens come true with these odds, until its chance is LEAST_CHANCE. */
static double gain_of_chain(float odds, int most) {
    double gain = 0;
    float chance = odds;
    for (int i = 0; i < most && chance >= LEAST_CHANCE; i++, chance *= odds) gain += (double)chance;
    return gain;
}

/* How many tokens of the text it has not computed, at least 1; 0 when it cannot guess now. */
static int missing_of(struct drafting *d, int slot, const struct draft_context *context) {
    return d->model ? draft_model_recall(d->model, slot, context) : head_drafter_missing(d->head.self, slot, context);
}

/* Where the draft model tells what it draws its guesses from; NULL: they are not drawn. */
static struct drawn_row *rows_for(const struct drafting *d, const struct request *r) {
    return d->model && draft_wants_draws(r->verify) ? r->draft->rows : NULL;
}

/* Asking it is judged by what that has come to of late. */
static bool gives_hints(const struct drafting *d) { return d->head.ops && d->head_shape.kind == HEAD_RECURRENT; }

static struct draft_offer offer_of(struct engine *e, struct request *r) {
    struct drafting *d = &e->drafting;
    const struct draft_context context = draft_context_of(e, r);
    struct draft_slot *slot = r->draft;
    int n_missing = context.max_nodes > 0 ? missing_of(d, (int)(slot - d->slots), &context) : 0;
    return (struct draft_offer){.free = &slot->tree,
                                .asked = &slot->asked,
                                .is_hint = gives_hints(d),
                                .odds = rows_for(d, r) ? odds_estimate(context.own, context.all, DRAFT_DRAWN_CLASS)
                                                       : odds_estimate_from(context.own, context.all, DRAFT_MODEL_CLASS),
                                .most = n_missing > 0 ? context.max_nodes : 0,
                                .n_missing = n_missing,
                                .n_left = r->seq.max_tokens - r->seq.n_tokens};
}

static void add_ask(struct engine *e, struct request *r, float least_chance, int *n_asks) {
    struct drafting *d = &e->drafting;
    struct draft_ask *ask = &d->asks[(*n_asks)++];
    *ask = (struct draft_ask){.slot = (int)(r->draft - d->slots), .context = draft_context_of(e, r), .tree = &r->draft->asked};
    ask->context.least_chance = least_chance;
    ask->rows = rows_for(d, r);
    ask->hints = &r->draft->hints;
}

/* Offers of those whom the controller decides for; the others decide themselves. */
static int collect(struct engine *e, int *n_asks) {
    struct drafting *d = &e->drafting;
    int n_offers = 0;
    for (int i = 0; i < e->scheduler.n_running; i++) {
        struct request *r = e->scheduler.running[i]->owner;
        bool is_forced = r->drafter >= ENGINE_DRAFTER_MODEL;
        if (r->seq.n_rows == 0 || (r->drafter != ENGINE_DRAFTER_AUTO && !is_forced) || r->draft->is_resting) continue;
        struct draft_offer offer = offer_of(e, r);
        bool is_better = (gives_hints(d) && r->drafter == ENGINE_DRAFTER_MERGE) ||
                         gain_of_chain(offer.odds, offer.most) >= gain_of(offer.free);
        if (is_forced && offer.most > 0 && is_better) add_ask(e, r, LEAST_CHANCE, n_asks);
        if (is_forced) continue;
        d->guessing[n_offers] = r;
        d->offers[n_offers++] = offer;
    }
    return n_offers;
}

/* Those who have another guess that hints can help come first; returns how many. */
static int order_asks(const struct drafting *d, int n) {
    int n_hints = 0;
    for (int i = 0; gives_hints(d) && i < n; i++) {
        const struct draft_ask ask = d->asks[i];
        if (ask.context.sources == 0) continue;
        d->asks[i] = d->asks[n_hints];
        d->asks[n_hints++] = ask;
    }
    return n_hints;
}

static void look_up_again(struct engine *e, const struct draft_ask *ask) {
    struct draft_slot *slot = &e->drafting.slots[ask->slot];
    if (slot->hints.n == 0) return;
    slot->looked_up = slot->tree;
    slot->is_hinted = true;
    draft_look_up(e, slot->owner, &slot->hints);
}

static void join(const struct drafting *d, const struct draft_ask *ask) {
    struct draft_slot *slot = &d->slots[ask->slot];
    if (slot->asked.n_nodes == 1) return; /* still catching up */
    slot->looked_up = slot->tree;
    slot->is_drawn = ask->rows != NULL;
    if (ask->context.max_width > 1 && !slot->is_drawn)
        tree_merge(&slot->tree, &slot->asked, &slot->looked_up, ask->context.max_nodes);
    else
        slot->tree = slot->asked;
    slot->is_model = true;
}

void draft_ask(struct engine *e, int n_rows, int budget) {
    struct drafting *d = &e->drafting;
    float least_chance = 0;
    int n_asks = 0, n_offers = collect(e, &n_asks);
    controller_ask(&d->controller, d->offers, n_offers, n_rows, budget, &least_chance);
    for (int i = 0; i < n_offers; i++) {
        tree_init(&d->guessing[i]->draft->asked, d->guessing[i]->draft->tree.tokens[0]); /* the controller imagined there */
        if (d->offers[i].asks) add_ask(e, d->guessing[i], least_chance, &n_asks);
    }
    if (n_asks == 0) return;
    double start = now_ms();
    const int n_hints = order_asks(d, n_asks), n_trees = n_asks - n_hints;
    if (n_hints > 0) d->head.ops->hint_all(d->head.self, d->asks, n_hints);
    if (n_trees > 0 && d->model) draft_model_ops.propose_all(d->model, d->asks, n_trees);
    if (n_trees > 0 && !d->model) d->head.ops->propose_all(d->head.self, d->asks + n_hints, n_trees);
    for (int i = 0; i < n_asks; i++) {
        if (i < n_hints)
            look_up_again(e, &d->asks[i]);
        else
            join(d, &d->asks[i]);
    }
    d->asked_ms = now_ms() - start;
    if (n_trees == 0) cost_learn(&d->controller.passes, n_hints, d->asked_ms);
    for (int i = 0; i < n_hints; i++) {
        const struct draft_slot *slot = &d->slots[d->asks[i].slot];
        if (slot->is_hinted) controller_hinted(&d->controller, &slot->looked_up, &slot->tree);
    }
}
