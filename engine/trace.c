/* trace.c - how a text came: which of its tokens were guessed right, and for those who ask, every round's guesses.
 *
 *  (1) The engine thread writes a mark for each token and, if the request asked, the round into a ring of TRACE_KEPT; the
 *      consumer reads both up to what was published under the lock, as it reads the tokens.
 *  (2) A round for which the ring has no room is dropped and counted. The text never waits for it.
 *  (3) Traces look at what was drawn; nothing that draws looks at them. */
#include <assert.h>
#include <stdlib.h>

#include "engine/draft_model.h"
#include "engine/internal.h"

enum { TRACE_KEPT = 64 };

static_assert((int)ENGINE_TRACE_NODES == (int)TREE_MAX_NODES, "a trace holds any draft");

bool trace_open(struct request *r, int n) {
    r->is_guess = calloc((size_t)n, sizeof *r->is_guess);
    if (r->wants_trace) r->traces = malloc(TRACE_KEPT * sizeof *r->traces);
    return r->is_guess && (!r->wants_trace || r->traces);
}

/* Whose guesses are of this kind. */
static enum engine_drafter source_of(const struct drafting *d, int kind) {
    bool is_text = kind < DRAFT_STORE_CLASS || (kind >= PAST_CLASS && kind < PAST_STORE_CLASS) ||
                   (kind >= HINT_TEXT_CLASS && kind < HINT_STORE_CLASS);
    bool is_computed = (kind >= DRAFT_MODEL_CLASS && kind < SEEN_STORE_CLASS) || (kind >= HINT_CLASS && kind < HINT_TEXT_CLASS);
    if (is_text) return ENGINE_DRAFTER_SUFFIX;
    if (!is_computed) return ENGINE_DRAFTER_NGRAM;
    if (d->model) return ENGINE_DRAFTER_MODEL;
    static const enum engine_drafter of_head[HEAD_KINDS] = {
        [HEAD_EAGLE] = ENGINE_DRAFTER_EAGLE, [HEAD_MEDUSA] = ENGINE_DRAFTER_MEDUSA, [HEAD_RECURRENT] = ENGINE_DRAFTER_RECURRENT};
    return of_head[d->head_shape.kind];
}

static void write_trace(const struct engine *e, const struct drawing *d, int n_accepted, struct engine_trace *out) {
    const struct request *r = d->request;
    const struct token_tree *tree = &r->draft->tree;
    out->round = r->n_draft_rounds;
    out->first = d->first;
    out->n_accepted = n_accepted;
    out->bonus = d->drawn[d->n_drawn - 1];
    out->n_nodes = 1 + r->seq.n_draft;
    for (int i = 0; i < out->n_nodes; i++) {
        enum engine_drafter source = i == 0               ? ENGINE_DRAFTER_AUTO
                                     : r->draft->is_drawn ? ENGINE_DRAFTER_MODEL
                                                          : source_of(&e->drafting, odds_kind(tree->odds_class[i]));
        out->nodes[i] = (struct engine_trace_node){.token = tree->tokens[i],
                                                   .chance = tree->chance[i],
                                                   .parent = tree->parent[i],
                                                   .source = (uint8_t)source,
                                                   .accepted = tree->ancestors[d->walk.node] >> i & 1,
                                                   .is_own = !r->draft->is_drawn && odds_is_past(odds_kind(tree->odds_class[i]))};
    }
}

void trace_round(const struct engine *e, const struct drawing *d, int n_accepted) {
    struct request *r = d->request;
    for (int i = 0; i < n_accepted; i++) r->is_guess[d->first + i] = true;
    if (!r->traces || r->seq.n_draft == 0 || d->n_drawn == 0) return;
    if (r->n_traces - r->n_traces_freed == TRACE_KEPT)
        r->n_traces_lost++;
    else
        write_trace(e, d, n_accepted, &r->traces[r->n_traces++ % TRACE_KEPT]);
}

void trace_publish(struct request *r) {
    r->n_traces_ready = r->n_traces;
    r->n_traces_freed = r->n_traces_done;
}

const struct engine_trace *trace_next(const struct request *r, int n) {
    if (r->n_traces_read == n || r->detokenizer.stopped) return NULL;
    const struct engine_trace *next = &r->traces[r->n_traces_read % TRACE_KEPT];
    return next->first == r->n_read ? next : NULL;
}
