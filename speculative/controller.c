/* controller.c - how much of the drafts a step verifies, and who guesses: nothing and nobody, unless measurements say that it
 * pays.
 *
 * A step of n rows gives each sequence a token for certain and, with k nodes more, the sum of their chances on top. The nodes
 * of all trees are taken in order of chance, and the k with the most expected tokens per millisecond is kept, if it beats k =
 * 0 by a margin. Cost is scanned over all k: kernels work on tiles of rows, so it rises in steps. Chances count for as much as
 * those of the nodes that were kept of late have come true.
 *
 * The ways to be wrong for long are closed: when every step drafts, a plain one is measured after PLAIN_EVERY; when none does
 * although a guess is likely, one is tried after probe_after steps, which doubles as long as the answer stays the same; and what
 * drafts lose beyond ALLOWANCE stops them, whatever the plan hoped. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "speculative/speculative.h"

static const double MARGIN = 1.03;          /* below that the measurements cannot tell */
static const double MARGIN_OF_MANY = 1.2;   /* with MANY rows: guesses bring little, and of dozens of sizes one looks cheap */
static const double SURPRISE = 0.7;         /* a probe that takes less than so much of what was expected */
static const double HICCUP = 1.5;           /* times what was expected: the system was busy with something else */
static const double ALLOWANCE = 0.005;      /* of a plain step, for each step */
static const double MOST_CREDIT = 16;       /* plain steps; a half is there at first */
static const double MOST_ASKED_CREDIT = 32; /* what asking adds is little beside what chance adds in dozens of steps */
static const double MOST_DEBT = 64;
static const double RESUME_CREDIT = 1;   /* after a rest */
static const float LEAST_CHANCE = 0.02f; /* a node below cannot pay anywhere */
static const float PROBE_CHANCE = 0.5f;  /* a first node worth a probe */
static const float HINT_HOPE = 0.15f;    /* tokens that a hint is taken to bring */
static const double HINT_MARGIN = 1.25;  /* what looks best of several guesses is somewhat less */
static const float HINT_PACE = 0.05f, HINT_RECOVERY = 0x1p-10f;
static const double TRUST_MEMORY = 0.98;     /* of a step with drafts */
static const double TRUST_RECOVERY = 0x1p-8; /* in a step without */
static const double TRUST_FIRST = 8;         /* tokens that are taken to have been promised and kept */
static const double LEAST_TRUST = 0.75;      /* drafters that are worse are for the books to stop */

enum {
    PLAIN_FIRST = 3,   /* steps: one may meet a busy moment */
    PLAIN_EVERY = 128, /* of one row; of more the sooner, since drafts gain little then and a plain step costs as little */
    PLAIN_LEAST = 8,
    MANY = 16,
    PROBE_FIRST = 32,
    PROBE_MOST = 1024,
    PROBE_NODES = 3,
    PROBE_MAX_ROWS = 8,
    PROBE_BURST = 8, /* rounds: then the odds of the drafter that computes are known */
    WARM = 16,       /* tokens missing; more must be worth catching up */
    HORIZON = 128,   /* tokens that a text is expected to grow by at most */
    CHUNK = 64,      /* rows by which catching up is estimated */
    PRICED_ROWS = 4, /* more than a plain step has: what they cost prices a row */
};

void controller_init(struct controller *c, double pass_share) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < HINT_STEPS; i++) c->hints.tokens[i] = HINT_HOPE;
    c->pass_share = pass_share;
    c->promised = c->kept = TRUST_FIRST;
    c->free = (struct draft_ledger){.most = MOST_CREDIT, .credit = MOST_CREDIT / 2, .probe_after = PROBE_FIRST};
    c->asked = (struct draft_ledger){.most = MOST_ASKED_CREDIT, .credit = MOST_ASKED_CREDIT / 2, .probe_after = PROBE_FIRST};
}

/* --- what drafts gained --- */

static void enter(struct draft_ledger *ledger, double gain) {
    ledger->credit += gain;
    if (ledger->credit > ledger->most) ledger->credit = ledger->most;
    if (ledger->credit < -MOST_DEBT) ledger->credit = -MOST_DEBT;
    if (ledger->credit <= 0) ledger->is_resting = true;
    if (ledger->credit >= RESUME_CREDIT) ledger->is_resting = false;
}

/* The step is among the costs already. */
static void keep_books(struct controller *c, const struct step_outcome *step, int n_plain) {
    double plain_ms = cost_ms(&c->steps, n_plain), most = HICCUP * cost_median_ms(&c->steps, step->n_rows), gain = 0;
    if (step->n_drafted > 0 || step->asked_ms > 0)
        gain = (double)step->n_tokens / n_plain - ((step->ms < most ? step->ms : most) + step->asked_ms) / plain_ms;
    bool has_asked = step->asked_ms > 0;
    enter(&c->free, ALLOWANCE + (has_asked ? 0 : gain));
    enter(&c->asked, ALLOWANCE + (has_asked ? gain - c->forgone : 0));
}

/* Of the nodes that look best more are wrong than of all with such chances, the more so where only the very best pay. */
static void learn_trust(struct controller *c, const struct step_outcome *step, int n_plain) {
    if (step->n_drafted == 0) {
        c->kept += (c->promised - c->kept) * TRUST_RECOVERY;
    } else if (c->promise > 0) {
        c->promised = TRUST_MEMORY * c->promised + c->promise;
        c->kept = TRUST_MEMORY * c->kept + (step->n_tokens - n_plain);
    }
}

static double trust(const struct controller *c) { return fmax(fmin(c->kept / c->promised, 1), LEAST_TRUST); }

void controller_learn(struct controller *c, const struct step_outcome *step) {
    int n_plain = step->n_rows - step->n_drafted;
    bool is_probe = c->is_probe;
    c->is_probe = c->has_asked = false;
    if (n_plain < 1 || step->n_rows > COST_MAX_ROWS || !(step->ms > 0)) return;
    if (is_probe && step->ms < SURPRISE * cost_ms(&c->steps, step->n_rows)) cost_forget_above(&c->steps, n_plain);
    cost_learn(&c->steps, step->n_rows, step->ms);
    keep_books(c, step, n_plain);
    learn_trust(c, step, n_plain);
}

/* --- the plan --- */

float controller_least_chance(const struct controller *c, int n_rows) {
    const double plain_ms = n_rows + PRICED_ROWS <= COST_MAX_ROWS ? cost_ms(&c->steps, n_rows) : 0;
    if (!(plain_ms > 0)) return 0;
    return (float)(0.5 * n_rows * (cost_ms(&c->steps, n_rows + PRICED_ROWS) / plain_ms - 1) / PRICED_ROWS);
}

/* The tree whose next node is the likeliest, or -1. */
static int next_tree(const struct token_tree *const *trees, int n_trees, const int *taken) {
    int best = -1;
    float best_chance = LEAST_CHANCE;
    for (int i = 0; i < n_trees; i++) {
        int node = taken[i] + 1;
        if (node >= trees[i]->n_nodes || trees[i]->chance[node] <= best_chance) continue;
        best = i;
        best_chance = trees[i]->chance[node];
    }
    return best;
}

struct plan {
    int n;           /* nodes that are best, 0 for none */
    double rate;     /* tokens per ms with them */
    double expected; /* tokens */
};

static double margin(int n_rows) {
    const double share = n_rows < MANY ? (n_rows - 1.0) / (MANY - 1) : 1;
    return MARGIN + share * (MARGIN_OF_MANY - MARGIN);
}

/* Takes nodes until none is left or the budget is spent; the order is in picks. extra_ms: time that is spent whatever is kept. */
static struct plan best_plan(const struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows,
                             int budget, double extra_ms, int *taken, int *picks) {
    const double share = trust(c);
    double expected = n_rows;
    struct plan best = {.expected = expected, .rate = margin(n_rows) * expected / (cost_ms(&c->steps, n_rows) + extra_ms)};
    for (int k = 0; k < budget; k++) {
        int i = next_tree(trees, n_trees, taken);
        if (i < 0) break;
        picks[k] = i;
        expected += share * (double)trees[i]->chance[++taken[i]];
        double rate = expected / (cost_ms(&c->steps, n_rows + k + 1) + extra_ms);
        if (rate > best.rate) best = (struct plan){k + 1, rate, expected};
    }
    return best;
}

static bool is_due(const struct controller *c, const struct draft_ledger *ledger) {
    return !ledger->is_resting && c->steps.n_passes - ledger->last_draft >= (uint64_t)ledger->probe_after;
}

static void probed(struct controller *c, struct draft_ledger *ledger) {
    if (ledger->probe_after < PROBE_MOST) ledger->probe_after *= 2;
    ledger->last_draft = c->steps.n_passes;
}

/* One guess is tried although it does not seem to pay. */
static int probe(struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget, int *kept) {
    if (n_rows > PROBE_MAX_ROWS || budget < 1 || !is_due(c, &c->free)) return 0;
    int i = next_tree(trees, n_trees, kept);
    if (i < 0 || trees[i]->chance[1] < PROBE_CHANCE) return 0;
    int n = trees[i]->n_nodes - 1;
    if (n > PROBE_NODES) n = PROBE_NODES;
    if (n > budget) n = budget;
    probed(c, &c->free);
    c->is_probe = true;
    return kept[i] = n;
}

/* The measure of all others comes first. */
static bool wants_plain(const struct controller *c, int n_rows) {
    const struct row_cost *plain = &c->steps.rows[n_rows];
    const int every = PLAIN_EVERY / n_rows > PLAIN_LEAST ? PLAIN_EVERY / n_rows : PLAIN_LEAST;
    return plain->n < PLAIN_FIRST || c->steps.n_passes - plain->pass >= (uint64_t)(plain->n * every / COST_SAMPLES);
}

int controller_plan(struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget, int *kept) {
    int picks[TREE_MAX_NODES], n = 0;
    memset(kept, 0, (size_t)n_trees * sizeof *kept);
    c->promise = 0;
    if (budget > TREE_MAX_NODES) budget = TREE_MAX_NODES;
    if (n_rows < 1 || n_rows > COST_MAX_ROWS || cost_ms(&c->steps, n_rows) <= 0) return 0;
    if (wants_plain(c, n_rows)) return 0;
    if (c->has_asked || !c->free.is_resting) n = best_plan(c, trees, n_trees, n_rows, budget, 0, kept, picks).n;
    memset(kept, 0, (size_t)n_trees * sizeof *kept);
    if (n == 0) return c->has_asked ? 0 : probe(c, trees, n_trees, n_rows, budget, kept);
    for (int k = 0; k < n; k++) c->promise += (double)trees[picks[k]]->chance[++kept[picks[k]]];
    c->free.last_draft = c->steps.n_passes;
    c->free.probe_after = PROBE_FIRST;
    return n;
}

/* --- asking the drafter that computes --- */

enum { MAX_OFFERS = TREE_MAX_NODES };

/* Before the first pass: as much as it has of the target's weights. */
static double pass_cost(const struct controller *c, int n_rows) {
    double ms = cost_ms(&c->passes, n_rows);
    return ms > 0 ? ms : c->pass_share * cost_ms(&c->steps, n_rows);
}

/* As if it had guessed n tokens. */
static void imagine(struct token_tree *tree, float odds, int n) {
    tree->chance[0] = 1;
    for (tree->n_nodes = 1; tree->n_nodes <= n; tree->n_nodes++)
        tree->chance[tree->n_nodes] = tree->chance[tree->n_nodes - 1] * odds;
}

static double gain_of(const struct token_tree *tree, int n) {
    double sum = 0;
    for (int i = 1; i <= n && i < tree->n_nodes; i++) sum += (double)tree->chance[i];
    return sum;
}

/* In plain steps, as in the books. */
static double gain_of_plan(const struct controller *c, const struct plan *plan, int n_rows) {
    return plan->expected / n_rows - cost_ms(&c->steps, n_rows + plan->n) / cost_ms(&c->steps, n_rows);
}

struct question {
    int n_asks;
    double pass_ms;
    struct plan plan;
};

/* What comes of it when all ask that much ahead whose other guess is worse. */
static struct question question_of(const struct controller *c, struct draft_offer *offers, int n, int n_rows, int budget,
                                   int depth) {
    const struct token_tree *trees[MAX_OFFERS];
    int taken[MAX_OFFERS] = {0}, picks[TREE_MAX_NODES], n_first = 0;
    struct question q = {0};
    for (int i = 0; i < n; i++) {
        struct draft_offer *o = &offers[i];
        imagine(o->asked, o->odds, depth < o->most ? depth : o->most);
        o->asks = gain_of(o->asked, depth) > gain_of(o->free, depth);
        trees[i] = o->asks ? o->asked : o->free;
        if (!o->asks) continue;
        q.n_asks++;
        n_first += o->n_missing < WARM ? o->n_missing : WARM;
    }
    double first_ms = q.n_asks > 0 ? pass_cost(c, n_first) : 0;
    q.pass_ms = q.n_asks > 0 ? pass_cost(c, q.n_asks) : 0;
    q.plan = best_plan(c, trees, n, n_rows, budget, first_ms + (depth - 1) * q.pass_ms, taken, picks);
    return q;
}

/* The depth with the most tokens per ms. */
static struct question best_question(const struct controller *c, struct draft_offer *offers, int n, int n_rows, int budget) {
    struct question best = {0};
    int best_depth = 0, most = 0;
    for (int i = 0; i < n; i++) most = offers[i].most > most ? offers[i].most : most;
    for (int depth = 1; depth <= most; depth += (depth + 2) / 3) {
        struct question q = question_of(c, offers, n, n_rows, budget, depth);
        if (q.plan.rate > best.plan.rate) best = q, best_depth = depth;
        if (q.n_asks == 0 || q.plan.rate < 0.8 * best.plan.rate) break;
    }
    return best_depth > 0 ? question_of(c, offers, n, n_rows, budget, best_depth) : best;
}

static double catch_up_ms(const struct controller *c, const struct draft_offer *o) {
    return o->n_missing > WARM ? pass_cost(c, CHUNK) / CHUNK * o->n_missing : 0;
}

/* Takes out who would have to catch up for more than comes of it. True: the question is another one now. */
static bool drop_cold(const struct controller *c, struct draft_offer *offers, int n, int n_rows, double rate) {
    double plain_ms = cost_ms(&c->steps, n_rows), saved_ms = plain_ms / n_rows - 1 / rate;
    bool has_dropped = false;
    for (int i = 0; i < n; i++) {
        struct draft_offer *o = &offers[i];
        double ms = catch_up_ms(c, o);
        int n_left = o->n_left < HORIZON ? o->n_left : HORIZON;
        if (!o->asks || ms == 0 || (ms <= n_left * saved_ms && ms <= c->asked.credit * plain_ms)) continue;
        o->most = 0;
        has_dropped = true;
    }
    return has_dropped;
}

/* Returns how many ask; 0 when the free guesses do better. */
static int ask_for_drafts(const struct controller *c, struct draft_offer *offers, int n, int n_rows, int budget,
                          const struct plan *free_plan, float *least_chance) {
    struct question q;
    do q = best_question(c, offers, n, n_rows, budget);
    while (q.plan.rate > free_plan->rate && drop_cold(c, offers, n, n_rows, q.plan.rate));
    if (!(q.plan.rate > free_plan->rate)) return 0;
    double plain_ms = cost_ms(&c->steps, n_rows), more_ms = cost_ms(&c->steps, n_rows + q.plan.n) - plain_ms;
    *least_chance = (float)((q.pass_ms / q.n_asks + more_ms / (q.plan.n > 0 ? q.plan.n : 1)) * q.plan.rate);
    return q.n_asks;
}

/* Some rounds of one sequence, the one that has least to catch up: have the odds changed? */
static int probe_asked(struct controller *c, struct draft_offer *offers, int n, int n_rows, float *least_chance) {
    int first = -1;
    for (int i = 0; i < n; i++) {
        offers[i].asks = false;
        if (offers[i].most > 0 && (first < 0 || offers[i].n_missing < offers[first].n_missing)) first = i;
    }
    if (first < 0 || n_rows > PROBE_MAX_ROWS || (c->n_burst == 0 && !is_due(c, &c->asked))) return 0;
    double ms = catch_up_ms(c, &offers[first]) + PROBE_BURST * pass_cost(c, 1);
    if (c->n_burst == 0 && ms > c->asked.credit * cost_ms(&c->steps, n_rows)) return 0;
    if (c->n_burst == 0) c->n_burst = PROBE_BURST;
    if (--c->n_burst == 0) probed(c, &c->asked);
    offers[first].asks = true;
    *least_chance = PROBE_CHANCE;
    return 1;
}

/* --- asking for hints --- */

/* What a tree brings where a row costs so many tokens. */
static double worth_of(const struct token_tree *tree, double price) {
    double sum = 0;
    for (int i = 1; i < tree->n_nodes; i++) sum += fmax((double)tree->chance[i] - price, 0);
    return sum;
}

/* By what the best free guess is worth: a sure one needs no help. */
static float *hint_tokens(struct controller *c, const struct token_tree *free) {
    return &c->hints.tokens[free->n_nodes > 1 ? odds_class_of(0, free->chance[1]) : 0];
}

/* Those ask whom hints have brought more tokens of late than their time takes. The others hope again, little by little. */
static int ask_for_hints(struct controller *c, struct draft_offer *offers, int n, int n_rows, const struct plan *free_plan,
                         float *least_chance) {
    const int n_more = free_plan->n > 0 ? free_plan->n : PRICED_ROWS;
    const double ms = pass_cost(c, n) / n;
    int n_asks = 0;
    c->hints.price = free_plan->rate * (cost_ms(&c->steps, n_rows + n_more) - cost_ms(&c->steps, n_rows)) / n_more;
    *least_chance = (float)c->hints.price;
    for (int i = 0; i < n; i++) {
        float *tokens = hint_tokens(c, offers[i].free);
        offers[i].asks = offers[i].most > 0 && (double)*tokens > HINT_MARGIN * free_plan->rate * ms;
        if (!offers[i].asks) *tokens += (HINT_HOPE - *tokens) * HINT_RECOVERY;
        n_asks += offers[i].asks;
    }
    return n_asks;
}

void controller_hinted(struct controller *c, const struct token_tree *free, const struct token_tree *tree) {
    float *tokens = hint_tokens(c, free);
    *tokens += HINT_PACE * ((float)(worth_of(tree, c->hints.price) - worth_of(free, c->hints.price)) - *tokens);
}

/* --- who asks --- */

int controller_ask(struct controller *c, struct draft_offer *offers, int n, int n_rows, int budget, float *least_chance) {
    const struct token_tree *trees[MAX_OFFERS];
    int taken[MAX_OFFERS] = {0}, picks[TREE_MAX_NODES];
    c->has_asked = false;
    c->forgone = 0;
    for (int i = 0; i < n; i++) offers[i].asks = false;
    if (budget > TREE_MAX_NODES) budget = TREE_MAX_NODES;
    if (n < 1 || n > MAX_OFFERS || n_rows > COST_MAX_ROWS || wants_plain(c, n_rows) || c->asked.is_resting) return 0;
    for (int i = 0; i < n; i++) trees[i] = offers[i].free;
    const struct plan free_plan = best_plan(c, trees, n, n_rows, budget, 0, taken, picks);
    int n_asks = offers[0].is_hint ? ask_for_hints(c, offers, n, n_rows, &free_plan, least_chance)
                                   : ask_for_drafts(c, offers, n, n_rows, budget, &free_plan, least_chance);
    if (n_asks > 0) {
        c->forgone = gain_of_plan(c, &free_plan, n_rows);
        c->asked.last_draft = c->steps.n_passes;
        c->asked.probe_after = PROBE_FIRST;
    } else {
        n_asks = probe_asked(c, offers, n, n_rows, least_chance);
    }
    c->has_asked = n_asks > 0;
    return n_asks;
}
