/* tool_train_head.c - `foresay train-draft --kind eagle` and `medusa`: trains a drafting head on the text that the model wrote.
 *
 * Answers are learned in an order that seed and epoch decide: by EAGLE BATCH of them to a step of AdamW; by the others, which
 * look at one position alone, some hundred at a time, their rows mixed (train_mix.h). OUT.state holds weights, moments
 * and the place in that order; it is written whole, beside the old one, every few minutes and at the end, so a kill loses
 * minutes, and a run that was resumed ends with the very weights of one that was not interrupted. It also keeps how much of the
 * text it learns from: the text may grow meanwhile. Main thread. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"
#include "engine/log.h"
#include "engine/philox.h"
#include "engine/tools.h"
#include "engine/train_head.h"
#include "engine/train_mix.h"
#include "engine/train_text.h"

enum {
    BATCH = 2,      /* answers to a step of EAGLE's */
    MAX_ROWS = 512, /* tokens of a prompt and its answer */
    CHUNK = 64,     /* tokens of one pass of the target */
    SCORED = 24,    /* answers kept out that progress is measured on */
    SCALED = 8,     /* answers that the size of inputs is taken from */
    WARMUP = 40,    /* steps */
    REPORT_EVERY_MS = 10000,
};

/* OUT.state begins with this; vocabulary, weights and moments follow. */
struct state_head {
    char magic[8]; /* "fstrain1" */
    struct text_head text;
    uint64_t n_numbers; /* of the text */
    struct head_shape shape;
    uint64_t n_weights, n_updates, n_tokens; /* steps made; tokens learned, those of later epochs again */
    uint64_t n_learned;                      /* answers: the place in the order */
};

struct head_training {
    const struct train_head_settings *settings;
    struct gguf *gguf;
    struct backend backend;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct train_text text;
    struct example_maker maker;
    struct trainer trainer;
    struct train_mix mix; /* but for EAGLE */
    struct state_head head;
    float *scale;           /* of the inputs: [3 n_embd], EAGLE alone; goes into fc when the head is written */
    int32_t *vocab, *order; /* [n_vocab]; [n_order] answers of this epoch */
    int n_order, epoch;     /* epoch of order; -1 = none yet */
    uint64_t n_before;      /* tokens learned before this run */
    double begun_ms, reported_ms, saved_ms, loss, loss_weight;
};

static int fail(const char *what, const char *why) {
    fprintf(stderr, "foresay train-draft: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 1;
}

/* --- the checkpoint --- */

struct piece {
    void *data;
    size_t bytes;
};
enum { PIECES = 5 };

static void list_pieces(struct head_training *t, struct piece *list) {
    size_t bytes = t->trainer.n_weights * sizeof(float);
    const struct piece all[PIECES] = {{&t->head, sizeof t->head},
                                      {t->vocab, (size_t)t->head.shape.n_vocab * sizeof *t->vocab},
                                      {t->trainer.weights, bytes},
                                      {t->trainer.moment1, bytes},
                                      {t->trainer.moment2, bytes}};
    memcpy(list, all, sizeof all);
}

static int save_state(struct head_training *t) {
    char path[4096], part[4200];
    struct piece list[PIECES];
    snprintf(path, sizeof path, "%s.state", t->settings->out);
    snprintf(part, sizeof part, "%s.part", path);
    t->head.n_updates = (uint64_t)t->trainer.n_updates;
    list_pieces(t, list);
    FILE *file = fopen(part, "wb");
    bool is_whole = file;
    for (int i = 0; i < PIECES && is_whole; i++) is_whole = fwrite(list[i].data, 1, list[i].bytes, file) == list[i].bytes;
    is_whole = is_whole && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (file && fclose(file) != 0) is_whole = false;
    if (!is_whole || rename(part, path) != 0) return fail(path, strerror(errno));
    t->saved_ms = now_ms();
    return 0;
}

/* The file's head alone: how much of the text an earlier run learned from. 0: nothing to go on with. */
static int find_state(struct head_training *t, struct state_head *found, bool *is_there) {
    char path[4096];
    snprintf(path, sizeof path, "%s.state", t->settings->out);
    FILE *file = fopen(path, "rb");
    *is_there = file != NULL;
    if (!file) return 0;
    bool is_ours = fread(found, sizeof *found, 1, file) == 1 && memcmp(found->magic, "fstrain1", 8) == 0 &&
                   memcmp(&found->text, &t->head.text, sizeof found->text) == 0 && found->shape.kind == t->settings->kind;
    fclose(file);
    if (!t->settings->resume) return fail(path, "is there from an earlier run; go on with --resume, or remove it");
    return is_ours ? 0 : fail(path, "is not the state of such a head for this model");
}

static int load_state(struct head_training *t) {
    char path[4096];
    struct piece list[PIECES];
    snprintf(path, sizeof path, "%s.state", t->settings->out);
    FILE *file = fopen(path, "rb");
    list_pieces(t, list);
    bool is_whole = file;
    for (int i = 0; i < PIECES && is_whole; i++) is_whole = fread(list[i].data, 1, list[i].bytes, file) == list[i].bytes;
    if (file) fclose(file);
    if (!is_whole || t->head.n_weights != t->trainer.n_weights) return fail(path, "is cut off");
    t->trainer.n_updates = (int64_t)t->head.n_updates;
    return 0;
}

/* --- opening --- */

static int open_model(struct head_training *t, struct engine_error *error) {
    struct model_shape shape;
    const struct backend_config config = {.isa = t->settings->isa, .n_threads = t->settings->threads};
    struct model_limits limits = {.max_rows = CHUNK, .max_logits = CHUNK, .ctx_len = MAX_ROWS};
    char reason[256];
    int rc;
    if ((rc = gguf_open(&t->gguf, t->settings->model, error)) || (rc = model_read_shape(&shape, t->gguf, error)) ||
        (rc = head_default_shape(&t->head.shape, t->settings->kind, &shape, t->settings->n_vocab, error)) ||
        (rc = model_activations(&shape, NULL, &limits.rests, error)))
        return rc;
    memcpy(limits.feature_layers, t->head.shape.layers, sizeof limits.feature_layers);
    if (backend_open_cpu(&t->backend, &config, reason, sizeof reason) != KERNELS_OK) {
        snprintf(error->text, sizeof error->text, "%s", reason);
        return ENGINE_ERR_ARGUMENT;
    }
    if ((rc = tokenizer_open(&t->tokenizer, t->gguf, error)) ||
        (rc = chat_template_open(&t->chat_template, t->gguf, t->tokenizer, error)))
        return rc;
    return model_open(&t->model, t->gguf, &shape, &t->backend, &limits, error);
}

/* What is better known than drawn: the output as the target's, its norm included, but without its force where states say nothing
 * yet: everywhere but in Medusa. */
static void set_first_weights(struct head_training *t) {
    enum { SPREAD = 2 }; /* of the first logits */
    struct trainer *trainer = &t->trainer;
    const struct head_shape *s = &t->head.shape;
    const struct model *m = t->model;
    float *output = trainer_weight(trainer, head_output_at(s));
    size_t h = (size_t)s->n_embd, n = (size_t)s->n_vocab * h;
    double sum = 0;
    trainer_init_weights(trainer, 1);
    m->backend.ops->embed(m->backend.self, m->head, t->vocab, s->n_vocab, 1, output, s->n_embd);
    for (size_t i = 0; i < n; i++) output[i] *= m->output_norm[i % h];
    for (size_t i = 0; i < n; i++) sum += (double)(output[i] * output[i]);
    float scale = (float)(SPREAD / sqrt(sum / s->n_vocab));
    for (size_t i = 0; s->kind != HEAD_MEDUSA && i < n; i++) output[i] *= scale;
}

static bool is_mixed(const struct head_training *t) { return t->head.shape.kind != HEAD_EAGLE; }

static int open_trainer(struct head_training *t, const struct state_head *found, struct engine_error *error) {
    struct head_shape *s = &t->head.shape;
    int rc, n_all = tokenizer_vocab_size(t->tokenizer);
    if (found) *s = found->shape;
    if (s->n_vocab > n_all) s->n_vocab = n_all;
    t->vocab = calloc((size_t)s->n_vocab, sizeof *t->vocab);
    if (!t->vocab) {
        snprintf(error->text, sizeof error->text, "no memory");
        return ENGINE_ERR_MEMORY;
    }
    if ((rc = trainer_open(&t->trainer, s, &t->backend, is_mixed(t) ? MIX_BATCH : MAX_ROWS, error))) return rc;
    t->trainer.n_steps = t->settings->steps;
    t->head.n_weights = t->trainer.n_weights;
    if (found) {
        if (load_state(t) != 0) return ENGINE_ERR_ARGUMENT;
    } else {
        if ((rc = train_text_vocab(&t->text, t->tokenizer, s->n_vocab, t->vocab, error))) return rc;
        set_first_weights(t);
    }
    for (int i = 0; i < s->n_vocab; i++) {
        if (t->vocab[i] < 0 || t->vocab[i] >= n_all) return fail("the state", "names tokens that the model does not have");
    }
    rc = example_maker_open(&t->maker, t->model, s->kind, t->vocab, s->n_vocab, MAX_ROWS, CHUNK, t->chat_template, error);
    if (rc == ENGINE_OK && is_mixed(t))
        rc = train_mix_open(&t->mix, t->model, s->kind == HEAD_MEDUSA ? s->n_ahead : t->trainer.n_steps, s->n_vocab, MAX_ROWS,
                            error);
    if (rc != ENGINE_OK || is_mixed(t)) return rc;
    int width = MODEL_FEATURES * s->n_embd;
    t->scale = calloc((size_t)width, sizeof *t->scale);
    if (!t->scale || example_input_scale(&t->maker, &t->text, 0, SCALED, width, t->scale) != 0) return ENGINE_ERR_MEMORY;
    t->maker.scale = t->scale;
    return ENGINE_OK;
}

static int open_all(struct head_training *t, struct engine_error *error) {
    struct state_head found;
    char path[4096];
    bool has_state = false;
    int rc = open_model(t, error);
    if (rc != ENGINE_OK) return rc;
    memcpy(t->head.magic, "fstrain1", sizeof t->head.magic);
    memcpy(t->head.text.magic, "fstext 1", sizeof t->head.text.magic);
    draft_digests(t->tokenizer, t->model, &t->head.text.vocab_digest, &t->head.text.target_digest);
    if (find_state(t, &found, &has_state) != 0) return ENGINE_ERR_ARGUMENT;
    snprintf(path, sizeof path, "%s%s", t->settings->text ? t->settings->text : t->settings->out,
             t->settings->text ? "" : ".text");
    if ((rc = train_text_open(&t->text, path, &t->head.text, has_state ? found.n_numbers : 0, error))) return rc;
    if (has_state && t->text.n != found.n_numbers) {
        snprintf(error->text, sizeof error->text, "%.300s: is shorter than when training began", path);
        return ENGINE_ERR_ARGUMENT;
    }
    t->head.n_numbers = t->text.n;
    t->order = calloc((size_t)t->text.n_answers, sizeof *t->order);
    t->epoch = -1;
    return t->order ? open_trainer(t, has_state ? &found : NULL, error) : ENGINE_ERR_MEMORY;
}

static void close_all(struct head_training *t) {
    train_mix_close(&t->mix);
    example_maker_close(&t->maker);
    trainer_close(&t->trainer);
    train_text_close(&t->text);
    model_close(t->model);
    chat_template_close(t->chat_template);
    tokenizer_close(t->tokenizer);
    if (t->backend.ops) t->backend.ops->close(t->backend.self);
    gguf_close(t->gguf);
    free(t->scale);
    free(t->vocab);
    free(t->order);
}

/* --- learning --- */

/* The answers that are learned, shuffled for this epoch. */
static void shuffle(struct head_training *t, int epoch) {
    t->n_order = 0;
    for (int i = 0; i < t->text.n_answers; i++) {
        if (!text_is_held_out((uint64_t)i)) t->order[t->n_order++] = i;
    }
    for (int i = t->n_order - 1; i > 0; i--) {
        const struct philox_block block = philox((uint64_t)epoch, (struct philox_block){{(uint32_t)i, 0, 0, 11}});
        int other = (int)(block.word[0] % (uint32_t)(i + 1)), kept = t->order[i];
        t->order[i] = t->order[other];
        t->order[other] = kept;
    }
    t->epoch = epoch;
}

static uint64_t n_of_epoch(const struct head_training *t) {
    return (uint64_t)(t->text.n_answers - t->text.n_answers / TEXT_HELD_OUT);
}

static uint64_t n_wanted(const struct head_training *t) { return n_of_epoch(t) * (uint64_t)t->settings->epochs; }

/* The share of the last epoch's end, or of the tokens or the time that are allowed, that is reached. Time counts once it runs
 * ahead of the others, for then it ends the run; else weights would depend on it. */
static double share_done(const struct head_training *t) {
    double done = (double)t->head.n_learned / (double)n_wanted(t), time;
    if (t->settings->max_tokens > 0) done = fmax(done, (double)t->head.n_tokens / t->settings->max_tokens);
    time = (now_ms() - t->begun_ms) / ((double)t->settings->hours * 3.6e6);
    return done > 0 ? fmax(done, time) : 0;
}

/* Warmup, then a cosine down to a twentieth at the end. */
static float rate_now(const struct head_training *t) {
    double done = share_done(t), n = (double)t->trainer.n_updates + 1;
    double warm = n < WARMUP ? n / WARMUP : 1, cosine = 0.05 + 0.95 * (0.5 + 0.5 * cos(3.141592653589793 * fmin(done, 1)));
    return (float)((double)t->settings->rate * warm * cosine);
}

static bool is_over(const struct head_training *t) {
    const struct train_head_settings *s = t->settings;
    return t->head.n_learned >= n_wanted(t) || now_ms() - t->begun_ms >= (double)s->hours * 3.6e6 ||
           (s->max_tokens > 0 && t->head.n_tokens >= (uint64_t)s->max_tokens);
}

static void report(struct head_training *t) {
    double now = now_ms(), spent_ms = now - t->begun_ms, left = (double)t->settings->hours * 3.6e6 - spent_ms;
    if (now - t->reported_ms < REPORT_EVERY_MS) return;
    t->reported_ms = now;
    double per_token = spent_ms / (double)(t->head.n_tokens - t->n_before);
    double share = share_done(t);
    double to_end = per_token * (double)t->head.n_tokens * (1 - share) / (share > 0 ? share : 1);
    fprintf(stderr, "%llu tokens, %.0f a second, loss %.3f, %.1f minutes left\n", (unsigned long long)t->head.n_tokens,
            1e3 / per_token, t->loss / fmax(t->loss_weight, 1), fmin(left, to_end) / 6e4);
    t->loss = t->loss_weight = 0;
}

static struct example next_example(struct head_training *t) {
    const uint64_t n_order = n_of_epoch(t);
    int epoch = (int)(t->head.n_learned / n_order);
    if (epoch != t->epoch) shuffle(t, epoch);
    const struct example example = example_make(&t->maker, &t->text, t->order[t->head.n_learned % n_order]);
    t->head.n_learned++;
    t->head.n_tokens += (uint64_t)example.n;
    return example;
}

static void step(struct head_training *t) {
    const struct adam_rate rate = {.rate = rate_now(t), .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .most_norm = 0.5f};
    t->loss += t->trainer.loss;
    t->loss_weight += t->trainer.loss_weight;
    trainer_step(&t->trainer, &rate);
    report(t);
}

static void learn_texts(struct head_training *t) {
    for (int i = 0; i < BATCH; i++) {
        const struct example example = next_example(t);
        trainer_learn(&t->trainer, &example);
    }
    step(t);
}

/* So many answers of an epoch as the mix takes. A run stops only between them, so there is nothing of it to be kept. */
static void learn_mixed(struct head_training *t) {
    const uint64_t key = t->head.n_learned;
    train_mix_clear(&t->mix);
    do {
        const struct example example = next_example(t);
        train_mix_add(&t->mix, &example, t->maker.tokens);
    } while (!is_over(t) && train_mix_has_room(&t->mix) && t->head.n_learned % n_of_epoch(t) != 0);
    train_mix_shuffle(&t->mix, key);
    for (int i = 0; i < train_mix_batches(&t->mix); i++) {
        const struct example example = train_mix_batch(&t->mix, i);
        trainer_learn(&t->trainer, &example);
        step(t);
    }
}

/* Share of right guesses at each depth, on the first answers that are kept out. */
static void score(struct head_training *t, int n_answers, float accuracy[HEAD_DEPTHS]) {
    struct trainer_score sums = {0};
    double chain = 0, survive = 1;
    for (int i = TEXT_HELD_OUT - 1, n = 0; i < t->text.n_answers && n < n_answers; i += TEXT_HELD_OUT, n++) {
        const struct example example = example_make(&t->maker, &t->text, i);
        trainer_score(&t->trainer, &example, &sums);
    }
    for (int d = 0; d < HEAD_DEPTHS; d++) {
        accuracy[d] = sums.tried[d] > 0 ? (float)(sums.right[d] / sums.tried[d]) : 0;
        chain += survive *= (double)accuracy[d];
    }
    fprintf(stderr, "kept out: right at depth 1 to %d: %.3f %.3f %.3f %.3f; a chain of them gives %.2f tokens a step\n",
            HEAD_DEPTHS, (double)accuracy[0], (double)accuracy[1], (double)accuracy[2], (double)accuracy[3], 1 + chain);
}

static int write_head(struct head_training *t) {
    struct head_facts facts = {.vocab_digest = t->head.text.vocab_digest,
                               .target_digest = t->head.text.target_digest,
                               .target_vocab = t->model->shape.vocab_size,
                               .target_ctx = t->model->shape.ctx_train,
                               .tokens_trained = t->head.n_tokens};
    struct engine_error error;
    char lineage[160];
    score(t, SCORED, facts.accuracy);
    snprintf(lineage, sizeof lineage, "trained from nothing by foresay train-draft, %llu answers of the model, %llu steps",
             (unsigned long long)t->text.n_answers, (unsigned long long)t->trainer.n_updates);
    facts.lineage = lineage;
    int width = MODEL_FEATURES * t->head.shape.n_embd;
    size_t n_fc = t->scale ? (size_t)width * (size_t)t->head.shape.n_embd : 0;
    float *weights = malloc(t->trainer.n_weights * sizeof *weights);
    if (!weights) return fail("no memory for the file", NULL);
    memcpy(weights, t->trainer.weights, t->trainer.n_weights * sizeof *weights);
    for (size_t i = 0; i < n_fc; i++) weights[t->trainer.offset[EAGLE_FC] + i] *= t->scale[i % (size_t)width];
    int rc = head_write(t->settings->out, &t->head.shape, weights, t->vocab, &facts, &error);
    free(weights);
    if (rc != ENGINE_OK) return fail(error.text, NULL);
    printf("%s: a head of %.1f M weights, %llu tokens learned\n", t->settings->out, (double)t->trainer.n_weights / 1e6,
           (unsigned long long)t->head.n_tokens);
    return 0;
}

static int learn(struct head_training *t) {
    float accuracy[HEAD_DEPTHS];
    t->begun_ms = t->reported_ms = t->saved_ms = now_ms();
    t->n_before = t->head.n_tokens;
    while (!is_over(t)) {
        (is_mixed(t) ? learn_mixed : learn_texts)(t);
        if (now_ms() - t->saved_ms < (double)t->settings->save_minutes * 6e4) continue;
        score(t, SCORED / 4, accuracy);
        if (save_state(t) != 0) return 1;
    }
    return save_state(t) != 0 ? 1 : write_head(t);
}

int train_head(const struct train_head_settings *settings) {
    static struct head_training t;
    struct engine_error error = {""};
    assert(settings->steps >= 1 && settings->steps <= TRAIN_MOST_STEPS);
    t = (struct head_training){.settings = settings};
    int rc = open_all(&t, &error);
    if (rc == ENGINE_OK)
        rc = learn(&t);
    else if (error.text[0])
        rc = fail(error.text, NULL);
    close_all(&t);
    return rc != 0;
}
