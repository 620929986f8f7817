/* test_sampler.c - the token drawn is the right function of its inputs, and has the right distribution. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/philox.h"
#include "engine/sampler.h"

enum { VOCAB = 1003, LARGE = 40009 }; /* not multiples of 16: tails count */

static uint64_t rng_state = 12345;

static double uniform(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(rng_state >> 11) + 0.5) * 0x1p-53;
}

static float normal(double sigma) { return (float)(sigma * sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }

static struct engine_sampling plain(float temperature) {
    struct engine_sampling params = engine_sampling_default();
    params.temperature = temperature;
    params.top_p = 1;
    return params;
}

static int32_t sample(struct sampler *s, const struct engine_sampling *params, const float *logits, int n_history) {
    float row[VOCAB];
    int32_t token = -1, zeros[64] = {0};
    struct sampler_history history = {.tokens = zeros, .n_prompt = n_history, .n_tokens = n_history};
    memcpy(row, logits, (size_t)s->vocab_size * sizeof *row);
    assert_int_equal(sampler_sample(s, params, &history, row, &token), ENGINE_OK);
    return token;
}

/* As they come with a row. */
static void make_maxima(const float *logits, int n, float *maxima) { sampler_rows_at(0)->maxima(logits, n, maxima); }

static void assert_maxima(const float *logits, int n, const float *maxima) {
    static float want[LARGE / ROW_BLOCK + 1];
    make_maxima(logits, n, want);
    assert_memory_equal(maxima, want, (size_t)row_blocks(n) * sizeof *want);
}

/* --- the plain definition: sort everything, draw noise for everything --- */

static const float *order_logits;

static int by_logit(const void *x, const void *y) {
    int a = *(const int *)x, b = *(const int *)y;
    if (order_logits[a] != order_logits[b]) return order_logits[a] > order_logits[b] ? -1 : 1;
    return a - b;
}

/* The whole row's weight as it is defined: chunk by chunk, lane by lane. */
static double plain_total(const float *logits, int n, float max, float inverse_t) {
    double total = 0;
    for (int first = 0; first < n; first += WEIGHTS_CHUNK) {
        int end = first + WEIGHTS_CHUNK < n ? first + WEIGHTS_CHUNK : n, whole = (end - first) / WEIGHTS_LANES * WEIGHTS_LANES;
        float lane[WEIGHTS_LANES] = {0};
        for (int i = 0; i < whole; i++) lane[i % WEIGHTS_LANES] += sampler_exp((logits[first + i] - max) * inverse_t);
        for (int i = 0; i < WEIGHTS_LANES; i++) total += (double)lane[i];
        for (int i = first + whole; i < end; i++) total += (double)sampler_exp((logits[i] - max) * inverse_t);
    }
    return total;
}

/* keep[i] = candidate i survives top-k, top-p, min-p. */
static void plain_cut(const float *logits, int n, const struct engine_sampling *p, bool *keep) {
    static int order[LARGE];
    for (int i = 0; i < n; i++) order[i] = i, keep[i] = false;
    order_logits = logits;
    qsort(order, (size_t)n, sizeof *order, by_logit);
    bool has_k = p->top_k > 0 && p->top_k < n;
    int k = has_k ? p->top_k : n;
    float max = logits[order[0]], inverse_t = 1 / p->temperature;
    uint64_t sum = 0, before = 0;
    for (int i = 0; i < k; i++) sum += sampler_fixed(sampler_exp((logits[order[i]] - max) * inverse_t));
    uint64_t mass = has_k ? (uint64_t)((double)p->top_p * (double)sum)
                          : (uint64_t)((double)p->top_p * plain_total(logits, n, max, inverse_t) * 0x1p44);
    for (int i = 0; i < k; i++) {
        float weight = sampler_exp((logits[order[i]] - max) * inverse_t);
        if (i > 0 && p->top_p < 1 && before >= mass) break;
        before += sampler_fixed(weight);
        keep[order[i]] = weight >= p->min_p;
    }
}

static int32_t plain_draw(const float *logits, int n, const struct engine_sampling *p, uint64_t position) {
    static bool keep[LARGE];
    double best = -INFINITY;
    float max = -INFINITY;
    int32_t token = 0;
    for (int i = 0; i < n; i++) {
        if (logits[i] > max) max = logits[token = i];
    }
    if (p->temperature == 0) return token;
    plain_cut(logits, n, p, keep);
    for (int i = 0; i < n; i++) {
        double score = (double)(logits[i] - max) * (1 / (double)p->temperature) + sampler_noise(p->seed, position, i);
        if (!keep[i] || score <= best) continue;
        best = score;
        token = i;
    }
    return token;
}

/* --- tests --- */

/* Protects: the generator is Philox4x32-10 (known answers of the paper's library). */
static void philox_gives_the_known_answers(void **state) {
    (void)state;
    struct philox_block zero = philox(0, (struct philox_block){{0, 0, 0, 0}});
    const uint32_t want_zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    struct philox_block ones = philox(UINT64_MAX, (struct philox_block){{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}});
    const uint32_t want_ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(zero.word[i], want_zero[i]);
        assert_int_equal(ones.word[i], want_ones[i]);
    }
}

/* Protects: the wide passes over a row give the bits of the narrow one, on every length of tail. */
static void wide_rows_equal_the_narrow(void **state) {
    (void)state;
    static float x[5000], want[5000], got[5000];
    const struct sampler_rows *plain = sampler_rows_at(0), *wide;
    for (int i = 0; i < 5000; i++) x[i] = normal(4);
    for (int v = 0; (wide = sampler_rows_at(v)); v++) {
        printf("%s\n", wide->name);
        for (int n = 1; n < 5000; n = n * 5 / 3 + 1) {
            float want_max, got_max;
            assert_true(plain->max(x, n, &want_max) && wide->max(x, n, &got_max));
            assert_true(want_max == got_max);
            int n_sums = plain->weights(x, n, want_max, 1.7f, want);
            assert_true(n_sums <= sampler_weights_room(n));
            assert_int_equal(wide->weights(x, n, want_max, 1.7f, got), n_sums);
            assert_memory_equal(want, got, (size_t)n_sums * sizeof *x);
            for (float threshold = want_max; threshold > -20; threshold -= 2.5f) {
                for (int first = 0; first < n; first += ROW_BLOCK)
                    assert_int_equal(wide->next_block(x, first, n, threshold), plain->next_block(x, first, n, threshold));
            }
        }
    }
}

/* Protects: block maxima on every length of tail, zeros of both signs, and values that are not finite wherever they stand. */
static void maxima_are_those_of_the_blocks(void **state) {
    (void)state;
    static float x[300], got[300 / ROW_BLOCK + 1];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct sampler_rows *rows;
    for (int v = 0; (rows = sampler_rows_at(v)); v++) {
        for (int n = 1; n <= 300; n++) {
            for (int i = 0; i < n; i++) x[i] = n % 5 == 0 ? (i % 2 ? 0.0f : -0.0f) : normal(3);
            int at = (int)(uniform() * n), with = (int)(uniform() * 6);
            if (with < 3) x[at] = bad[with];
            rows->maxima(x, n, got);
            for (int b = 0; b * ROW_BLOCK < n; b++) {
                float want = -INFINITY;
                for (int i = b * ROW_BLOCK; i < n && i < (b + 1) * ROW_BLOCK; i++) want = fmaxf(want, x[i]);
                if (with < 3 && at / ROW_BLOCK == b)
                    assert_true(isnan(got[b]));
                else
                    assert_true(got[b] == want && (want != 0 || !signbit(got[b])));
            }
        }
    }
}

/* Protects: coarse bits are those of philox.h for each token, from wherever the block begins, and the largest are right. */
static void coarse_blocks_hold_the_tokens_bits(void **state) {
    (void)state;
    const struct sampler_rows *rows;
    struct coarse_block block;
    for (int v = 0; (rows = sampler_rows_at(v)); v++) {
        for (int n = 0; n < 50; n++) {
            uint64_t seed = (uint64_t)n * 0x9e3779b97f4a7c15u, position = (uint64_t)n << 31;
            uint32_t first = (uint32_t)(uniform() * 2000) * COARSE_BLOCK, largest[COARSE_BLOCK / ROW_BLOCK] = {0};
            rows->coarse(seed, position, first, &block);
            for (uint32_t t = 0; t < COARSE_BLOCK; t++) {
                uint32_t want = philox_coarse(seed, position, first + t);
                assert_int_equal(block.word[t / 4 % 4][t / 16] >> t % 4 * 8 & 255, want);
                if (want > largest[t / ROW_BLOCK]) largest[t / ROW_BLOCK] = want;
            }
            for (int b = 0; b < COARSE_BLOCK / ROW_BLOCK; b++) assert_int_equal(block.largest[b], largest[b]);
        }
    }
}

/* Protects: own logarithm and exponential; the tolerances are those of sampler.h. */
static void elementary_functions_are_accurate(void **state) {
    (void)state;
    for (int i = 0; i < 20000; i++) {
        double x = exp(uniform() * 60 - 30);
        assert_true(fabs(sampler_log(x) - log(x)) <= 1e-15 * fmax(fabs(log(x)), 1e-3) + 1e-16);
        double u = 1 - ldexp(uniform(), -(int)(uniform() * 33));
        if (u < 1) assert_true(fabs(sampler_log(u) / log(u) - 1) < 1e-14);
        float e = (float)(-80 * uniform());
        assert_true(fabs((double)sampler_exp(e) / exp((double)e) - 1) < 2e-7);
    }
    for (int n = 0; n < 2000; n++) { /* the lanes' exponential is the same one */
        float x[WEIGHTS_LANES], lane[2 * WEIGHTS_LANES];
        for (int i = 0; i < WEIGHTS_LANES; i++) x[i] = (float)(-95 * uniform());
        sampler_rows_at(0)->weights(x, WEIGHTS_LANES, 0, 1, lane);
        for (int i = 0; i < WEIGHTS_LANES; i++) assert_true(lane[i] == sampler_exp(x[i]));
    }
    assert_true(sampler_exp(0) == 1);
    assert_true(sampler_exp(-INFINITY) < 1e-37f);
    assert_true(sampler_log(1) == 0);
}

/* Protects: greedy takes the largest, ties the lowest id, wherever it stands in the row. */
static void greedy_breaks_ties_by_id(void **state) {
    (void)state;
    struct sampler s;
    float logits[VOCAB];
    struct engine_sampling params = plain(0);
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int at = 0; at < VOCAB; at += 17) {
        for (int i = 0; i < VOCAB; i++) logits[i] = i >= at ? 3.5f : (float)i * 1e-3f;
        assert_int_equal(sample(&s, &params, logits, 1), at);
    }
    sampler_free(&s);
}

/* Logits of many kinds: flat, like a model's, sharp, with ties. */
static void random_logits(float *logits, int n, int kind) {
    const float sigmas[] = {0, 0.5f, 3, 12};
    double sigma = (double)sigmas[kind % 4];
    for (int i = 0; i < n; i++) logits[i] = normal(sigma);
    if (kind % 3 == 0) { /* ties, as quantised weights make them */
        for (int i = 0; i < n; i++) logits[i] = floorf(logits[i]);
    }
}

/* Every mix of cuts, weak and strong ones. */
static struct engine_sampling random_sampling(int n, int vocab) {
    struct engine_sampling p = plain(n % 17 == 0 ? 0 : (float)(0.05 + 2 * uniform()));
    p.seed = (uint64_t)n * 77;
    if (n & 4) p.top_k = 1 + (int)(uniform() * (n & 32 ? vocab + 5 : 120));
    if (n & 8) p.top_p = (float)(n & 64 ? 0.999 + 0.001 * uniform() : 0.01 + 0.98 * uniform());
    if (n & 16) p.min_p = (float)(0.3 * uniform() * (n & 64 ? 0.01 : 1));
    return p;
}

/* Protects: pruning and quickselect change nothing: always the token of the plain definition. */
static void agrees_with_the_plain_definition(void **state) {
    (void)state;
    struct sampler s;
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int n = 0; n < 6000; n++) {
        float logits[VOCAB];
        random_logits(logits, VOCAB, n);
        struct engine_sampling p = random_sampling(n, VOCAB);
        int position = (int)(uniform() * 60);
        int32_t want = plain_draw(logits, VOCAB, &p, (uint64_t)position);
        int32_t got = sample(&s, &p, logits, position);
        if (got != want) print_message("case %d: k %d p %g min %g\n", n, p.top_k, (double)p.top_p, (double)p.min_p);
        assert_int_equal(got, want);
    }
    sampler_free(&s);
}

/* Protects: bounds of a row's weight decide about no token that they do not settle. A few tokens lead, the rest weighs a
 * thousandth; top_p is so near the border between two leaders that whether the second one is in depends on the rest. */
static void top_p_is_exact_at_its_border(void **state) {
    (void)state;
    enum { N = 8003, LEADERS = 5 };
    static float logits[N], row[N], maxima[N / ROW_BLOCK + 1];
    struct sampler s;
    assert_int_equal(sampler_init(&s, N), 0);
    for (int n = 0; n < 600; n++) {
        struct engine_sampling p = plain((float)(0.3 + uniform()));
        float inverse_t = 1 / p.temperature;
        double before = 0;
        int32_t token, zero = 0;
        for (int i = 0; i < N; i++) logits[i] = 3 - (float)(12.5 + 8 * uniform()) * p.temperature;
        for (int i = 0; i < LEADERS; i++) logits[(int)(uniform() * 1000) + 1500 * i] = 3 - (float)i * 0.5f * p.temperature;
        for (int i = 0; i <= n % (LEADERS - 1); i++) before += (double)sampler_exp(-(float)i * 0.5f * p.temperature * inverse_t);
        p.top_p = (float)(before / plain_total(logits, N, 3, inverse_t) * (n & 8 ? 1.001 : 0.997));
        if (n % 3 == 0) p.min_p = 0.25f;
        p.seed = (uint64_t)n;
        memcpy(row, logits, sizeof row);
        make_maxima(row, N, maxima);
        struct sampler_draw draw = {
            .params = &p, .history = {&zero, 1, 1}, .logits = row, .maxima = n % 2 ? maxima : NULL, .token = -1};
        sampler_draw(&s, &draw, 1);
        token = plain_draw(logits, N, &p, 1);
        assert_int_equal(draw.status, ENGINE_OK);
        assert_int_equal(draw.token, token);
    }
    sampler_free(&s);
}

/* Protects: draws that are made together and by several threads are those that each is alone, over more tokens than one part. */
static void together_is_as_alone(void **state) {
    (void)state;
    enum { DRAWS = 19, ROUNDS = 12 };
    struct sampler s;
    struct backend backend;
    struct sampler_draw draws[DRAWS];
    struct engine_sampling params[DRAWS];
    struct engine_logprob logprobs[DRAWS][1 + ENGINE_MAX_TOP_LOGPROBS];
    int32_t want[DRAWS], tokens[DRAWS] = {0};
    float *logits = malloc((size_t)DRAWS * LARGE * sizeof *logits);
    static float maxima[DRAWS][LARGE / ROW_BLOCK + 1];
    assert_non_null(logits);
    assert_int_equal(backend_open_cpu(&backend, &(struct backend_config){.n_threads = 3}, NULL, 0), KERNELS_OK);
    assert_int_equal(sampler_init(&s, LARGE), 0);
    s.backend = &backend;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < DRAWS; i++) {
            float *row = logits + (size_t)i * LARGE;
            random_logits(row, LARGE, 19 * round + i + 1);
            params[i] = random_sampling(1000 * round + 7 * i, LARGE);
            draws[i] = (struct sampler_draw){.params = &params[i], .history = {tokens, 1 + i, 1 + i}, .logits = row};
            if (i % 7 == 3) draws[i].logprobs = logprobs[i], draws[i].n_top = i;
            if (i % 3 > 0) draws[i].maxima = maxima[i], make_maxima(row, LARGE, maxima[i]);
            want[i] = plain_draw(row, LARGE, &params[i], (uint64_t)(1 + i));
        }
        sampler_draw(&s, draws, DRAWS);
        for (int i = 0; i < DRAWS; i++) {
            assert_int_equal(draws[i].status, ENGINE_OK);
            assert_int_equal(draws[i].token, want[i]);
        }
    }
    sampler_free(&s);
    backend.ops->close(backend.self);
    free(logits);
}

/* Protects: log-probabilities are the log softmax of the row before penalties and bias, whatever the parameters; the likeliest
 * come first, ties by id; the token drawn leads. */
static void logprobs_are_the_models(void **state) {
    (void)state;
    struct sampler s;
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int n = 0; n < 300; n++) {
        float logits[VOCAB], row[VOCAB];
        int32_t tokens[40];
        struct engine_logprob got[1 + ENGINE_MAX_TOP_LOGPROBS];
        struct engine_bias bias[2] = {{(int32_t)(uniform() * VOCAB), 9}, {3, -1}};
        struct engine_sampling p = random_sampling(n, VOCAB);
        p.bias = bias;
        p.n_bias = n % 3;
        p.repeat_penalty = n % 2 ? 1.3f : 1;
        p.frequency_penalty = n % 5 ? 0.4f : 0;
        for (int i = 0; i < 40; i++) tokens[i] = (int32_t)(uniform() * VOCAB);
        random_logits(logits, VOCAB, n);
        memcpy(row, logits, sizeof row);
        int order[VOCAB], n_top = n % (ENGINE_MAX_TOP_LOGPROBS + 1);
        float maxima[VOCAB / ROW_BLOCK + 1];
        struct sampler_draw draw = {.params = &p, .history = {tokens, 10, 40}, .logits = row, .logprobs = got, .n_top = n_top};
        if (n % 3 > 0) draw.maxima = maxima, make_maxima(row, VOCAB, maxima);
        sampler_draw(&s, &draw, 1);
        assert_int_equal(draw.status, ENGINE_OK);
        for (int i = 0; i < VOCAB; i++) order[i] = i;
        order_logits = logits;
        qsort(order, VOCAB, sizeof *order, by_logit);
        double total = 0, max = (double)logits[order[0]];
        for (int i = 0; i < VOCAB; i++) total += exp((double)logits[i] - max);
        assert_int_equal(got[0].token, draw.token);
        for (int i = 0; i <= n_top; i++) {
            if (i > 0) assert_int_equal(got[i].token, order[i - 1]);
            double want = (double)logits[got[i].token] - max - log(total);
            assert_true(fabs((double)got[i].logprob - want) < 1e-5 + 1e-6 * fabs(want));
        }
        int32_t token = draw.token;
        struct engine_logprob again[1 + ENGINE_MAX_TOP_LOGPROBS];
        memcpy(row, logits, sizeof row);
        if (draw.maxima) make_maxima(row, VOCAB, maxima);
        draw.logprobs = again;
        sampler_logprobs(&s, &draw);
        assert_memory_equal(again, got, (size_t)(1 + n_top) * sizeof *got);
        draw.logprobs = NULL;
        sampler_draw(&s, &draw, 1);
        assert_int_equal(draw.token, token);
    }
    sampler_free(&s);
}

/* Protects: the distribution of a draw is the softmax over what the cuts leave of the penalized row, and the row stays as it
 * was; maxima that come with it are always its own. */
static void rows_are_the_plain_softmax(void **state) {
    (void)state;
    struct sampler s;
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int n = 0; n < 600; n++) {
        static bool keep[LARGE];
        float logits[VOCAB], row[VOCAB];
        int32_t tokens[40], best;
        struct engine_bias bias[2] = {{(int32_t)(uniform() * VOCAB), 2}, {3, -1}};
        struct engine_sampling p = random_sampling(n, VOCAB);
        p.bias = bias;
        p.n_bias = n % 3;
        p.repeat_penalty = n % 2 ? 1.3f : 1;
        p.frequency_penalty = n % 5 ? 0.4f : 0;
        for (int i = 0; i < 40; i++) tokens[i] = i % 4 ? (int32_t)(uniform() * VOCAB) : 3;
        random_logits(logits, VOCAB, n);
        memcpy(row, logits, sizeof row);
        float maxima[VOCAB / ROW_BLOCK + 1];
        struct sampler_draw draw = {.params = &p, .history = {tokens, 10, 40}, .logits = row};
        if (n % 4 > 0) draw.maxima = maxima, make_maxima(row, VOCAB, maxima);
        struct sampler_softmax softmax;
        double all[VOCAB], some[2], total = 0;
        const int32_t asked[2] = {bias[0].token, 3};
        assert_int_equal(sampler_look(&s, &draw, &softmax), ENGINE_OK);
        sampler_row(&s, &draw, &softmax, all);
        sampler_chances(&s, &draw, &softmax, asked, 2, some);
        assert_true(some[0] == all[asked[0]] && some[1] == all[3]);
        assert_memory_equal(row, logits, sizeof row);
        if (draw.maxima) assert_maxima(row, VOCAB, maxima);
        sampler_draw(&s, &draw, 1); /* changes it */
        if (draw.maxima) assert_maxima(row, VOCAB, maxima);
        best = 0;
        for (int i = 0; i < VOCAB; i++) best = row[i] > row[best] ? i : best;
        for (int i = 0; i < VOCAB; i++) keep[i] = i == best;
        if (p.temperature > 0) plain_cut(row, VOCAB, &p, keep);
        double inverse_t = p.temperature > 0 ? 1 / (double)p.temperature : 0;
        for (int i = 0; i < VOCAB; i++) total += keep[i] ? exp((double)(row[i] - row[best]) * inverse_t) : 0;
        for (int i = 0; i < VOCAB; i++) {
            double want = exp((double)(row[i] - row[best]) * inverse_t) / total;
            assert_true(keep[i] ? fabs(all[i] - want) < 1e-5 : all[i] == 0);
        }
    }
    sampler_free(&s);
}

/* Chi-square of draws over a small vocabulary against the exact probabilities; returns the number of degrees of freedom through
 * dof. */
static double chi_square(const float *logits, int n, struct engine_sampling p, int n_draws, int *dof) {
    struct sampler s;
    int count[VOCAB] = {0};
    bool keep[VOCAB];
    double total = 0, chi = 0;
    assert_int_equal(sampler_init(&s, n), 0);
    for (int i = 0; i < n_draws; i++) {
        p.seed = (uint64_t)i * 2654435761u + 99; /* neighbouring seeds and one position: the hardest case for a weak generator */
        count[sample(&s, &p, logits, i % 3)]++;
    }
    plain_cut(logits, n, &p, keep);
    for (int i = 0; i < n; i++) total += keep[i] ? exp((double)logits[i] / (double)p.temperature) : 0;
    *dof = -1;
    for (int i = 0; i < n; i++) {
        if (!keep[i]) {
            assert_int_equal(count[i], 0);
            continue;
        }
        double expected = exp((double)logits[i] / (double)p.temperature) / total * n_draws;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        (*dof)++;
    }
    sampler_free(&s);
    return chi;
}

/* Protects: the draw has the softmax's distribution, with and without cuts. The border is the chi-square mean plus five standard
 * deviations; seeds are fixed, so a pass is a pass for ever. */
static void draws_follow_the_softmax(void **state) {
    (void)state;
    enum { N = 37 };
    float logits[N];
    for (int i = 0; i < N; i++) logits[i] = normal(1.2);
    struct engine_sampling cases[5];
    for (int i = 0; i < 5; i++) cases[i] = plain(i == 1 ? 0.6f : 1.0f);
    cases[2].top_p = 0.8f;
    cases[3].top_k = 9;
    cases[4].min_p = 0.2f;
    for (int i = 0; i < 5; i++) {
        int dof;
        double chi = chi_square(logits, N, cases[i], 200000, &dof);
        printf("case %d: chi-square %.1f of %d degrees of freedom\n", i, chi, dof);
        assert_true(dof > 2 && chi < dof + 5 * sqrt(2.0 * dof) + 5);
    }
}

/* Protects: same inputs same token; another seed or position gives another stream. */
static void noise_depends_on_seed_and_position(void **state) {
    (void)state;
    struct sampler s;
    float logits[VOCAB];
    for (int i = 0; i < VOCAB; i++) logits[i] = normal(0.1);
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    int same_seed = 0, same_position = 0;
    for (int i = 0; i < 50; i++) {
        struct engine_sampling p = plain(1), q = plain(1);
        p.seed = (uint64_t)i;
        q.seed = (uint64_t)i + 1;
        int32_t token = sample(&s, &p, logits, i);
        assert_int_equal(token, sample(&s, &p, logits, i));
        same_seed += token == sample(&s, &q, logits, i);
        same_position += token == sample(&s, &p, logits, i + 1);
    }
    assert_true(same_seed <= 2 && same_position <= 2);
    sampler_free(&s);
}

/* Protects: the formulas of engine.h: repeat_penalty over the window (prompt included), the other two over the answer. */
static void penalties_match_their_definition(void **state) {
    (void)state;
    struct sampler s;
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int n = 0; n < 300; n++) {
        float logits[VOCAB];
        double want[VOCAB];
        int32_t tokens[60], token, want_token = 0;
        struct engine_sampling p = plain(0);
        struct engine_bias bias[2] = {{(int32_t)(uniform() * 20), 3}, {(int32_t)(uniform() * 20), -2.5f}};
        p.repeat_penalty = (float)(0.5 + 1.5 * uniform());
        p.frequency_penalty = (float)(2 * uniform() - 1);
        p.presence_penalty = (float)(2 * uniform() - 1);
        p.penalty_last_n = (int)(uniform() * 80);
        p.bias = bias;
        p.n_bias = 2;
        struct sampler_history history = {tokens, 20, 20 + (int)(uniform() * 41)};
        for (int i = 0; i < 60; i++) tokens[i] = (int32_t)(uniform() * 20);
        for (int i = 0; i < VOCAB; i++) logits[i] = normal(2);
        for (int v = 0; v < VOCAB; v++) {
            int uses = 0, in_window = 0;
            for (int i = 20; i < history.n_tokens; i++) uses += tokens[i] == v;
            for (int i = 0; i < history.n_tokens; i++) in_window |= tokens[i] == v && i >= history.n_tokens - p.penalty_last_n;
            want[v] = (double)logits[v];
            if (in_window) want[v] = want[v] > 0 ? want[v] / (double)p.repeat_penalty : want[v] * (double)p.repeat_penalty;
            want[v] -= uses * (double)p.frequency_penalty + (uses > 0 ? (double)p.presence_penalty : 0);
            for (int b = 0; b < 2; b++) want[v] += bias[b].token == v ? (double)bias[b].bias : 0;
            if (want[v] > want[want_token]) want_token = v;
        }
        assert_int_equal(sampler_sample(&s, &p, &history, logits, &token), ENGINE_OK);
        for (int v = 0; v < VOCAB; v++) assert_true(fabs((double)logits[v] - want[v]) < 1e-5);
        assert_int_equal(token, want_token);
        for (int v = 0; v < VOCAB; v++) assert_int_equal(s.uses[v], 0);
    }
    sampler_free(&s);
}

/* Protects: a broken model is an error of its request, never a token. */
static void non_finite_logits_are_an_error(void **state) {
    (void)state;
    struct sampler s;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int at = 0; at < VOCAB; at += 59) {
        for (int b = 0; b < 3; b++) {
            float logits[VOCAB] = {0};
            int32_t token = -7, tokens[1] = {0};
            struct sampler_history history = {tokens, 1, 1};
            struct engine_sampling p = plain((float)(b % 2));
            logits[at] = bad[b];
            assert_int_equal(sampler_sample(&s, &p, &history, logits, &token), ENGINE_ERR_NUMERIC);
            assert_int_equal(token, -7);
        }
    }
    sampler_free(&s);
}

/* Protects: extreme but legal parameters draw a legal token. */
static void extremes_are_harmless(void **state) {
    (void)state;
    struct sampler s;
    float logits[VOCAB];
    assert_int_equal(sampler_init(&s, VOCAB), 0);
    for (int i = 0; i < VOCAB; i++) logits[i] = i % 2 ? 3e38f : -3e38f;
    struct engine_sampling p = plain(1e-30f);
    assert_int_equal(sample(&s, &p, logits, 3) % 2, 1);
    p.temperature = 5;
    p.top_p = 1e-30f;
    assert_int_equal(sample(&s, &p, logits, 3), 1);
    p.top_p = 0.9999999f;
    p.min_p = 0.9999999f;
    assert_int_equal(sample(&s, &p, logits, 3) % 2, 1);
    for (int i = 0; i < VOCAB; i++) logits[i] = 0;
    p.top_k = 1;
    assert_int_equal(sample(&s, &p, logits, 3), 0);
    sampler_free(&s);
}

/* Protects: parameters out of range are named in the refusal. */
static void bad_parameters_are_refused(void **state) {
    (void)state;
    struct engine_error error;
    struct engine_bias bias = {VOCAB, 1};
    struct engine_sampling p = engine_sampling_default();
    assert_int_equal(sampling_check(&p, VOCAB, &error), ENGINE_OK);
    struct engine_sampling bad[10];
    for (int i = 0; i < 10; i++) bad[i] = p;
    bad[0].temperature = NAN;
    bad[1].temperature = 5.5f;
    bad[2].top_p = 0;
    bad[3].min_p = 1;
    bad[4].top_k = -1;
    bad[5].repeat_penalty = 0;
    bad[6].frequency_penalty = -3;
    bad[7].presence_penalty = INFINITY;
    bad[8].n_bias = 1;
    bad[8].bias = &bias;
    bad[9].penalty_last_n = -1;
    for (int i = 0; i < 10; i++) {
        error.text[0] = 0;
        assert_int_equal(sampling_check(&bad[i], VOCAB, &error), ENGINE_ERR_ARGUMENT);
        assert_true(strlen(error.text) > 10);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(wide_rows_equal_the_narrow),
        cmocka_unit_test(maxima_are_those_of_the_blocks),
        cmocka_unit_test(coarse_blocks_hold_the_tokens_bits),
        cmocka_unit_test(elementary_functions_are_accurate),
        cmocka_unit_test(greedy_breaks_ties_by_id),
        cmocka_unit_test(agrees_with_the_plain_definition),
        cmocka_unit_test(top_p_is_exact_at_its_border),
        cmocka_unit_test(together_is_as_alone),
        cmocka_unit_test(logprobs_are_the_models),
        cmocka_unit_test(rows_are_the_plain_softmax),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(noise_depends_on_seed_and_position),
        cmocka_unit_test(penalties_match_their_definition),
        cmocka_unit_test(non_finite_logits_are_an_error),
        cmocka_unit_test(extremes_are_harmless),
        cmocka_unit_test(bad_parameters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
