/* test_speculative_verify.c - the verifiers that compare distributions, by enumeration: every draft that can be drawn and
 * every fall of the dice, with their probabilities. What comes out, continued by the target, must have the target's
 * distribution to the last digits; verifiers with a typical mistake must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "speculative/speculative.h"

enum { VOCAB = 3, MAX_DEPTH = 3, MAX_SEQUENCES = 81, MAX_CHOICES = 64 };

/* --- two models: a distribution for each prefix --- */

struct models {
    double target[MAX_DEPTH + 1][MAX_SEQUENCES][VOCAB],
        draft[MAX_DEPTH + 1][MAX_SEQUENCES][VOCAB]; /* [length, number of prefix] */
};

static uint64_t rng = 7;

static double draw_unit(void) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng >> 11) / (double)(1ull << 53);
}

static void random_row(double *row, bool may_be_zero) {
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) {
        row[i] = may_be_zero && draw_unit() < .2 ? 0 : draw_unit() * draw_unit() + 1e-3;
        sum += row[i];
    }
    if (sum == 0) sum = row[0] = 1;
    for (int i = 0; i < VOCAB; i++) row[i] /= sum;
}

/* agree: 0 = unrelated models, 1 = the same one. */
static void random_models(struct models *m, double agree, bool may_be_zero) {
    for (int n = 0; n <= MAX_DEPTH; n++) {
        for (int i = 0; i < MAX_SEQUENCES; i++) {
            random_row(m->target[n][i], may_be_zero);
            random_row(m->draft[n][i], may_be_zero);
            for (int t = 0; t < VOCAB; t++) m->draft[n][i][t] += agree * (m->target[n][i][t] - m->draft[n][i][t]);
        }
    }
}

static int prefix_number(const struct token_tree *tree, int node) {
    int number = 0, factor = 1;
    for (; node > 0; node = tree->parent[node], factor *= VOCAB) number += factor * tree->tokens[node];
    return number;
}

/* --- the dice: one path of decisions after the other --- */

struct path {
    int choice[MAX_CHOICES], n_options[MAX_CHOICES], n, at;
    double chance; /* of the path so far */
};

static int choose(struct path *path, const double *weights, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += weights[i];
    if (path->at == path->n) {
        assert_true(path->n < MAX_CHOICES);
        path->choice[path->n] = 0;
        path->n_options[path->n++] = n;
    }
    int choice = path->choice[path->at++];
    path->chance *= weights[choice] / sum;
    return choice;
}

static bool next_path(struct path *path) {
    while (path->n > 0 && path->choice[path->n - 1] + 1 == path->n_options[path->n - 1]) path->n--;
    if (path->n == 0) return false;
    path->choice[path->n - 1]++;
    return true;
}

static bool accept_both_ways(void *self, double chance) {
    const double weights[] = {chance, 1 - chance};
    assert_true(chance >= 0 && chance <= 1);
    return choose(self, weights, 2) == 0;
}

static int pick_each(void *self, const double *weights, int n) { return choose(self, weights, n); }

/* --- one experiment --- */

enum mode { MULTI_STEP, MULTI_STEP_NO_REPEATS, TRAVERSAL, N_MODES };

enum mistake {
    NO_MISTAKE,
    BONUS_FROM_DRAFT, /* the last token from q */
    NO_RESIDUAL,      /* the last token from p where the residual belongs */
    WRONG_RATIO,      /* q as told is not the q that was drawn from, or that of a draw where the token was chosen */
    ONE_TOO_MANY,     /* an accepted token although the dice said no */
    ONE_TOO_FEW,      /* the last accepted token is dropped, but not what was drawn behind it */
};

/* Where children come from: all are drawn; all are chosen, the draft's likeliest first; drawn at even depths, chosen at odd ones;
 * chosen, and the first comes twice. */
enum origin { DRAWN, CHOSEN, BY_TURNS, TWINS, N_ORIGINS };

struct experiment {
    enum mode mode;
    enum origin origin;
    enum mistake mistake;
    int depth, width; /* each inner node has `width` children */
    const struct models *models;
    double out[MAX_DEPTH + 2][MAX_SEQUENCES]; /* [tokens, number of the sequence] */
    double tokens;                            /* expected */
    struct path *path;
    int last_node;
};

static bool is_drawn(const struct experiment *x, int depth) {
    return x->origin == DRAWN || (x->origin == BY_TURNS && depth % 2 == 0);
}

static const double *draft_row(const struct experiment *x, const struct token_tree *tree, int node) {
    return x->models->draft[tree->depth[node]][prefix_number(tree, node)];
}

static void draw_children(struct experiment *x, struct token_tree *tree, int node);

static void add_child(struct experiment *x, struct token_tree *tree, int node, int32_t token) {
    int child = tree_push(tree, node, token, 0, 1);
    if (tree->depth[child] < x->depth) draw_children(x, tree, child);
}

/* Children of a node that nothing is random about. */
static void choose_children(struct experiment *x, struct token_tree *tree, int node) {
    double q[VOCAB];
    memcpy(q, draft_row(x, tree, node), sizeof q);
    for (int i = 0; i < x->width; i++) {
        int best = 0;
        for (int t = 1; t < VOCAB; t++) best = q[t] > q[best] ? t : best;
        if (x->origin == TWINS && i == 0) add_child(x, tree, node, best);
        add_child(x, tree, node, best);
        q[best] = -1;
    }
}

/* Children of a node, drawn from q one after the other; their chance goes into the path like the dice's. */
static void draw_children(struct experiment *x, struct token_tree *tree, int node) {
    double q[VOCAB], left = 1;
    memcpy(q, draft_row(x, tree, node), sizeof q);
    if (!is_drawn(x, tree->depth[node])) choose_children(x, tree, node);
    for (int i = 0; is_drawn(x, tree->depth[node]) && i < x->width && left > 1e-12; i++) {
        int token = choose(x->path, q, VOCAB);
        if (q[token] == 0) return; /* a path of chance 0 */
        if (x->mode != MULTI_STEP) left -= q[token], q[token] = 0;
        add_child(x, tree, node, token);
    }
}

static bool accept_more(void *self, double chance) { return accept_both_ways(self, chance > 0 ? fmin(1, chance + .05) : 0); }

/* What the verifiers are told. */
struct table {
    const struct experiment *x;
    const struct token_tree *tree;
    struct drawn_row rows[TREE_MAX_NODES];
    const struct drawn_row *drawn[TREE_MAX_NODES];
};

static void target_row(void *self, int node, double *p) {
    const struct table *t = self;
    memcpy(p, t->x->models->target[t->tree->depth[node]][prefix_number(t->tree, node)], VOCAB * sizeof *p);
}

static void target_chances(void *self, int node, const int32_t *tokens, int n, double *p) {
    double row[VOCAB];
    target_row(self, node, row);
    for (int i = 0; i < n; i++) p[i] = row[tokens[i]];
}

static void fill_table(struct table *t, const struct experiment *x, const struct token_tree *tree) {
    t->x = x;
    t->tree = tree;
    for (int i = 0; i < tree->n_nodes; i++) {
        const double *q = draft_row(x, tree, i);
        struct drawn_row *row = &t->rows[i];
        row->n = 0;
        for (int token = VOCAB - 1; token >= 0; token--) { /* in another order, and not those that cannot be drawn */
            double p = x->mistake == WRONG_RATIO ? .5 * q[token] + .5 / VOCAB : q[token];
            if (p == 0) continue;
            row->tokens[row->n] = token;
            row->p[row->n++] = p;
        }
        t->drawn[i] = is_drawn(x, tree->depth[i]) || x->mistake == WRONG_RATIO ? row : NULL;
    }
}

/* Drops or replaces what the mistake says. Returns the number of tokens. */
static int spoil(struct experiment *x, int32_t *out, int n) {
    int number = 0;
    for (int i = 0; i < n - 1; i++) number = number * VOCAB + out[i];
    if (x->mistake == BONUS_FROM_DRAFT) out[n - 1] = choose(x->path, x->models->draft[n - 1][number], VOCAB);
    if (x->mistake == NO_RESIDUAL) out[n - 1] = choose(x->path, x->models->target[n - 1][number], VOCAB);
    if (x->mistake == ONE_TOO_FEW && n > 1) out[n - 2] = out[n - 1], n--;
    return n;
}

static void run_path(struct experiment *x) {
    struct token_tree tree;
    static struct table table;
    double scratch[VOCAB];
    int32_t out[MAX_DEPTH + 2];
    struct verify_dice dice = {x->mistake == ONE_TOO_MANY ? accept_more : accept_both_ways, pick_each, x->path};
    tree_init(&tree, 0);
    draw_children(x, &tree, 0);
    if (x->path->chance == 0) return;
    fill_table(&table, x, &tree);
    struct verify_problem problem = {.tree = &tree,
                                     .n_vocab = VOCAB,
                                     .chances = target_chances,
                                     .row = target_row,
                                     .self = &table,
                                     .drawn = table.drawn,
                                     .scratch = scratch};
    int n = x->mode == TRAVERSAL ? verify_traversal(&problem, &dice, out)
                                 : verify_multi_step(&problem, x->mode == MULTI_STEP_NO_REPEATS, &dice, out);
    assert_true(n >= 1 && n <= x->depth + 1);
    n = spoil(x, out, n);
    int number = 0;
    for (int i = 0; i < n; i++) number = number * VOCAB + out[i];
    x->out[n][number] += x->path->chance;
    x->tokens += n * x->path->chance;
}

/* The largest difference of any sequence of depth + 1 tokens from its chance under the target. */
static double run(struct experiment *x) {
    struct path path = {.n = 0};
    double want[MAX_SEQUENCES] = {1}, got[MAX_SEQUENCES] = {0}, next[MAX_SEQUENCES], worst = 0;
    int n_sequences = 1;
    x->path = &path;
    x->tokens = 0;
    memset(x->out, 0, sizeof x->out);
    do {
        path.at = 0;
        path.chance = 1;
        run_path(x);
    } while (next_path(&path));
    for (int n = 0; n <= x->depth; n++, n_sequences *= VOCAB) {
        double next_want[MAX_SEQUENCES];
        for (int i = 0; i < n_sequences * VOCAB; i++) {
            next[i] = got[i / VOCAB] * x->models->target[n][i / VOCAB][i % VOCAB] + x->out[n + 1][i];
            next_want[i] = want[i / VOCAB] * x->models->target[n][i / VOCAB][i % VOCAB];
        }
        memcpy(got, next, sizeof got);
        memcpy(want, next_want, sizeof want);
    }
    for (int i = 0; i < n_sequences; i++) worst = fmax(worst, fabs(got[i] - want[i]));
    return worst;
}

/* --- tests --- */

static const struct { int depth, width; } shapes[] = {{1, 1}, {2, 1}, {3, 1}, {1, 2}, {1, 3}, {2, 2}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Protects: chains and trees, similar and unlike models, zero probabilities, children drawn or chosen, several for one place, one
 * of them twice: the error is rounding. */
static void the_target_s_distribution_comes_out(void **state) {
    (void)state;
    static struct models models;
    for (int i = 0; i < 12 * N_SHAPES * N_MODES * N_ORIGINS; i++) {
        int round = i / (N_SHAPES * N_MODES * N_ORIGINS), shape = i / (N_MODES * N_ORIGINS) % N_SHAPES;
        if (i % (N_SHAPES * N_MODES * N_ORIGINS) == 0) random_models(&models, round % 4 / 3.0, round % 2);
        struct experiment x = {.mode = i / N_ORIGINS % N_MODES,
                               .origin = i % N_ORIGINS,
                               .depth = shapes[shape].depth,
                               .width = shapes[shape].width,
                               .models = &models};
        if (x.depth == 2 && x.width == 2 && round % 4) continue; /* the largest */
        double error = run(&x);
        if (!(error < 1e-12))
            print_error("mode %d, origin %d, depth %d, width %d: error %g\n", x.mode, x.origin, x.depth, x.width, error);
        assert_true(error < 1e-12);
    }
}

/* Protects: the test above sees each of these, also where siblings are chosen. */
static void mistakes_are_seen(void **state) {
    (void)state;
    static struct models models;
    random_models(&models, .3, false);
    for (enum mode mode = 0; mode < N_MODES; mode++) {
        for (enum mistake mistake = BONUS_FROM_DRAFT; mistake <= ONE_TOO_FEW; mistake++) {
            for (enum origin origin = DRAWN; origin <= CHOSEN; origin++) {
                struct experiment x = {
                    .mode = mode, .mistake = mistake, .origin = origin, .depth = 2, .width = 1 + (int)origin, .models = &models};
                double error = run(&x);
                if (!(error > 1e-3)) print_error("mode %d, mistake %d, origin %d: error %g\n", mode, mistake, origin, error);
                assert_true(error > 1e-3);
            }
        }
    }
}

/* Protects: whole paths at once accept at least as much as token by token, on chains and on trees. */
static void traversal_accepts_more(void **state) {
    (void)state;
    static struct models models;
    double gain = 0;
    for (int round = 0; round < 10; round++) {
        random_models(&models, .5, false);
        for (int shape = 0; shape < 3; shape++) {
            struct experiment x = {.mode = MULTI_STEP, .depth = shapes[shape].depth, .width = 1, .models = &models};
            run(&x);
            double by_token = x.tokens;
            x.mode = TRAVERSAL;
            run(&x);
            assert_true(x.tokens >= by_token - 1e-12);
            gain = fmax(gain, x.tokens - by_token);
        }
    }
    assert_true(gain > .01);
}

static void given_row(void *self, int node, double *p) { memcpy(p, (const double *)self + node * VOCAB, VOCAB * sizeof *p); }

/* Protects: typical acceptance as defined, the longest path. It is lossy, so it has no distribution to keep. */
static void typical_paths_are_accepted(void **state) {
    (void)state;
    struct token_tree tree;
    int32_t out[8];
    double scratch[VOCAB];
    double target[] = {.1,         .7, .2, /* root */ .4, .35, .25, /* 1 */ .98, .01, .01,
                       /* 2 */ .3, .3, .4, /* 3 */ 0,     1,   0 /* 4 */};
    tree_init(&tree, 0);
    int likely = tree_push(&tree, 0, 1, 0, 1);
    tree_push(&tree, 0, 2, 0, 1); /* not the likeliest first token */
    int flat = tree_push(&tree, likely, 1, 0, 1);
    tree_push(&tree, flat, 2, 0, 1);
    struct verify_problem problem = {.tree = &tree, .n_vocab = VOCAB, .row = given_row, .self = target, .scratch = scratch};
    assert_int_equal(verify_typical(&problem, .09, .3, out), 4);
    assert_true(out[0] == 1 && out[1] == 1 && out[2] == 2 && out[3] == 1);
    assert_int_equal(verify_typical(&problem, .38, 2, out), 2); /* .35 is not above .38 */
    assert_true(out[0] == 1 && out[1] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_target_s_distribution_comes_out),
        cmocka_unit_test(mistakes_are_seen),
        cmocka_unit_test(traversal_accepts_more),
        cmocka_unit_test(typical_paths_are_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
