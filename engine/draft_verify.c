/* draft_verify.c - drafts verified by distribution: the modes of speculative/verify.c on the engine's rows.
 *
 *  (1) p behind a node is what the request's next token would be drawn from with the node's path as text: after temperature,
 *      penalties, bias and cuts. At temperature 0 it is one token, so what comes out is plain decoding's text.
 *  (2) The draft model draws its guesses from at most DRAWN_MOST tokens, the likeliest of its own such distribution; that is q.
 *      Other drafters choose their guesses.
 *  (3) Guesses and dice have noise of their own, keyed by the text's length when the round began, which no two rounds share.
 *
 * One row of p is in memory, of the others a few values, and nothing is allocated. Engine thread. */
#include <assert.h>
#include <string.h>

#include "engine/draft_model.h"
#include "engine/internal.h"
#include "engine/philox.h"

static const double TYPICAL_EPSILON = 0.09, TYPICAL_DELTA = 0.3; /* of Medusa's published runs */

/* One round. */
struct verifying {
    struct engine *engine;
    struct request *request;
    const struct token_tree *tree;
    int first_row;
    bool is_finite;
    uint32_t n_thrown;
    uint64_t looked; /* nodes of which this is known: */
    struct sampler_softmax softmax[TREE_MAX_NODES];
};

/* The first place at which the weights so far exceed unit times all of them: its own weight is not 0. */
static int pick_at(const double *weights, int n, double unit) {
    double left = 0;
    int last = 0;
    for (int i = 0; i < n; i++) left += weights[i];
    left *= unit;
    for (int i = 0; i < n; i++) {
        if (weights[i] <= 0) continue;
        last = i;
        if (left < weights[i]) break;
        left -= weights[i];
    }
    return last;
}

/* --- guesses --- */

void draft_draw(struct engine *e, struct sampler_draw *draw, int n_tokens, int index, struct drawn_row *row) {
    struct engine_sampling params = *draw->params;
    struct sampler_draw own = *draw;
    struct sampler_softmax softmax;
    int most = e->sampler.vocab_size > DRAWN_MOST ? DRAWN_MOST : e->sampler.vocab_size - 1; /* so there is a list */
    const struct sampler_candidate *c = e->sampler.candidates;
    if (params.top_k == 0 || params.top_k > most) params.top_k = most;
    own.params = &params;
    draw->status = sampler_look(&e->sampler, &own, &softmax);
    if (draw->status != ENGINE_OK) return;
    assert(softmax.n > 0 && softmax.n <= DRAWN_MOST);
    row->n = softmax.n;
    for (int i = 0; i < row->n; i++) row->tokens[i] = c[i].token, row->p[i] = (double)c[i].weight / softmax.sum;
    double unit = philox_unit(params.seed, (uint64_t)n_tokens, (uint32_t)index, PHILOX_GUESSES);
    draw->token = row->tokens[pick_at(row->p, row->n, unit)];
}

/* Further draws for a place whose first is `token`: up to n others, none twice. Returns how many there are. */
static int draw_more(const struct draft_ask *ask, int depth, int32_t token, int32_t *out, int n) {
    const struct drawn_row *row = &ask->rows[depth - 1];
    const struct request *r = ask->context.request;
    double left[DRAWN_MOST];
    int at = 0, n_left = 0;
    memcpy(left, row->p, sizeof left);
    for (int i = 0; i < row->n; i++) {
        n_left += left[i] > 0;
        if (row->tokens[i] == token) at = i;
    }
    n = n < n_left - 1 ? n : n_left - 1;
    for (int i = 0; i < n; i++) {
        uint32_t index = (uint32_t)(DRAWN_DEPTH * (i + 1) + depth);
        left[at] = 0;
        at = pick_at(left, row->n, philox_unit(r->sampling.seed, (uint64_t)ask->context.n_tokens, index, PHILOX_GUESSES));
        out[i] = row->tokens[at];
    }
    return n;
}

/* Where the controller decides how many nodes pay, their number must not depend on how many tokens a row has: no siblings. */
void draft_widen(const struct draft_ask *ask) {
    const struct draft_context *c = &ask->context;
    const struct request *r = c->request;
    const struct token_tree chain = *ask->tree;
    struct token_tree *tree = ask->tree;
    float odds = odds_estimate(c->own, c->all, DRAFT_SIBLING_CLASS), most = odds_estimate(c->own, c->all, DRAFT_DRAWN_CLASS);
    int32_t more[TREE_MAX_NODES];
    int8_t place[TREE_MAX_NODES] = {0};
    if (c->max_width < 2 || r->drafter == ENGINE_DRAFTER_AUTO) return;
    if (odds > most) odds = most; /* or the second draw would stand before the first */
    tree_init(tree, chain.tokens[0]);
    for (int next = 1, depth = 1; tree->n_nodes <= c->max_nodes && depth < chain.n_nodes;) {
        if (next < chain.n_nodes && chain.chance[next] >= chain.chance[depth - 1] * odds) {
            place[next] = (int8_t)tree_push(tree, place[next - 1], chain.tokens[next], DRAFT_DRAWN_CLASS, most);
            next++;
            continue;
        }
        int n = draw_more(ask, depth, chain.tokens[depth], more, c->max_width - 1);
        for (int i = 0; i < n && tree->n_nodes <= c->max_nodes; i++)
            tree_push(tree, place[depth - 1], more[i], DRAFT_SIBLING_CLASS, odds);
        depth++;
    }
}

/* --- the target --- */

/* The draw that plain decoding would make behind the node. Its path is put behind the text: there is room, for a draft never
 * reaches the last token. False when the row is not finite. */
static bool look(struct verifying *v, int node, struct sampler_draw *draw) {
    struct sequence *seq = &v->request->seq;
    const struct token_tree *tree = v->tree;
    int depth = tree->depth[node];
    for (int at = node; at > 0; at = tree->parent[at]) seq->tokens[seq->n_tokens + tree->depth[at] - 1] = tree->tokens[at];
    *draw = (struct sampler_draw){
        .params = &v->request->sampling,
        .history = {.tokens = seq->tokens, .n_prompt = seq->n_prompt, .n_tokens = seq->n_tokens + depth},
        .logits = model_logits(v->engine->model, v->first_row + node),
        .maxima = model_maxima(v->engine->model, v->first_row + node),
    };
    if (!(v->looked >> node & 1) && sampler_look(&v->engine->sampler, draw, &v->softmax[node]) != ENGINE_OK) v->is_finite = false;
    v->looked |= (uint64_t)1 << node;
    return v->is_finite;
}

/* Where a row is not finite the verifiers are told something to come to an end with. */
static void target_chances(void *self, int node, const int32_t *tokens, int n, double *p) {
    struct verifying *v = self;
    struct sampler_draw draw;
    if (look(v, node, &draw))
        sampler_chances(&v->engine->sampler, &draw, &v->softmax[node], tokens, n, p);
    else
        for (int i = 0; i < n; i++) p[i] = 0;
}

static void target_row(void *self, int node, double *p) {
    struct verifying *v = self;
    struct sampler_draw draw;
    if (look(v, node, &draw))
        sampler_row(&v->engine->sampler, &draw, &v->softmax[node], p);
    else
        for (int i = 0; i < v->engine->sampler.vocab_size; i++) p[i] = 1;
}

static double throw_dice(struct verifying *v) {
    const struct request *r = v->request;
    return philox_unit(r->sampling.seed, (uint64_t)r->seq.n_tokens, v->n_thrown++, PHILOX_DICE);
}

static bool accept(void *self, double chance) { return throw_dice(self) < chance; }
static int pick(void *self, const double *weights, int n) { return pick_at(weights, n, throw_dice(self)); }

static int run(enum engine_verify verify, const struct verify_problem *problem, const struct verify_dice *dice, int32_t *out) {
    switch (verify) {
    case ENGINE_VERIFY_TOKEN:
    case ENGINE_VERIFY_MULTI_STEP:
        return verify_multi_step(problem, true, dice, out);
    case ENGINE_VERIFY_BLOCK:
    case ENGINE_VERIFY_TRAVERSAL:
        return verify_traversal(problem, dice, out);
    case ENGINE_VERIFY_TYPICAL:
        return verify_typical(problem, TYPICAL_EPSILON, TYPICAL_DELTA, out);
    case ENGINE_VERIFY_DEFAULT:
    case ENGINE_VERIFY_MATCH:
        break;
    }
    assert(false);
    return 0;
}

int draft_verify(struct engine *e, struct request *r, int first_row, int32_t *out) {
    const struct draft_slot *slot = r->draft;
    const struct drawn_row *drawn[TREE_MAX_NODES] = {0};
    struct token_tree tree = slot->tree;
    struct verifying v = {.engine = e, .request = r, .tree = &tree, .first_row = first_row, .is_finite = true};
    const struct verify_dice dice = {accept, pick, &v};
    const struct verify_problem problem = {.tree = &tree,
                                           .n_vocab = e->sampler.vocab_size,
                                           .chances = target_chances,
                                           .row = target_row,
                                           .self = &v,
                                           .drawn = drawn,
                                           .scratch = e->drafting.target_row};
    tree.n_nodes = 1 + r->seq.n_draft;
    for (int i = 0; i < tree.n_nodes && slot->is_drawn; i++) {
        if (tree.depth[i] < DRAWN_DEPTH) drawn[i] = &slot->rows[tree.depth[i]];
    }
    int n = run(r->verify, &problem, &dice, out);
    return v.is_finite ? n : 0;
}
