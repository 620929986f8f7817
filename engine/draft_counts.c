/* draft_counts.c - what is told of speculation, per answer and in all. Engine thread. */
#include "engine/internal.h"

static enum engine_draft_off reason_of(const struct engine *e, const struct request *r) {
    const struct drafting *d = &e->drafting;
    if (r->seq.n_draft > 0) return ENGINE_DRAFT_ON;
    if (r->drafter == ENGINE_DRAFTER_NONE || !d->slots) return ENGINE_DRAFT_OFF_NONE;
    if (!d->is_decode) return ENGINE_DRAFT_OFF_PROMPTS;
    if (!r->draft || r->draft->tree.n_nodes == 1) return ENGINE_DRAFT_OFF_GUESS;
    if (r->draft->n_wanted > 0) return ENGINE_DRAFT_OFF_ROOM;
    return d->controller.free.is_resting ? ENGINE_DRAFT_OFF_LOSS : ENGINE_DRAFT_OFF_COST;
}

static void count_round(struct engine *e, struct request *r) {
    r->n_draft_rounds++;
    r->n_drafted += r->seq.n_draft;
    r->n_model_rounds += r->draft->is_model || r->draft->is_hinted;
    e->counts.draft_rounds++;
    e->counts.drafted_tokens += (uint64_t)r->seq.n_draft;
    e->counts.model_rounds += r->draft->is_model || r->draft->is_hinted;
}

/* Nodes of the accepted path that earlier texts of the user had. */
static int count_own(const struct request *r) {
    int n = 0;
    for (uint64_t left = r->last_path & ~(uint64_t)1; left; left &= left - 1)
        n += odds_is_past(odds_kind(r->draft->tree.odds_class[__builtin_ctzll(left)]));
    return n;
}

void draft_count(struct engine *e, struct request *r, int n_accepted) {
    enum engine_draft_off off = reason_of(e, r);
    if (off == ENGINE_DRAFT_ON) count_round(e, r);
    r->n_draft_off[off]++;
    e->counts.draft_off[off]++;
    r->n_accepted += n_accepted;
    r->n_own += count_own(r);
    e->counts.accepted_tokens += (uint64_t)n_accepted;
    for (int i = 0; i < n_accepted; i++) {
        int at = i < ENGINE_DRAFT_DEPTHS ? i : ENGINE_DRAFT_DEPTHS - 1;
        r->n_accepted_at[at]++;
        e->counts.accepted_at[at]++;
    }
}

enum engine_draft_off draft_off_of(const struct request *r) {
    enum engine_draft_off most = ENGINE_DRAFT_OFF_NONE;
    for (int i = most; i < ENGINE_DRAFT_OFF_COUNT; i++) {
        if (r->n_draft_off[i] > r->n_draft_off[most]) most = (enum engine_draft_off)i;
    }
    return r->n_draft_off[most] > 0 ? most : ENGINE_DRAFT_ON;
}
