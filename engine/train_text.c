/* train_text.c - reads the text that a model wrote, and runs the model over it once more for what a head learns from: states of
 * its layers and its probabilities. See train_text.h. Main thread. */
#include "engine/train_text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(struct engine_error *error, const char *path, const char *why) {
    snprintf(error->text, sizeof error->text, "%s%s%s", path, path[0] ? ": " : "", why);
    return ENGINE_ERR_ARGUMENT;
}

/* --- the text --- */

static int read_ids(struct train_text *t, FILE *file, size_t most) {
    long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (end < (long)sizeof(struct text_head) || fseek(file, (long)sizeof(struct text_head), SEEK_SET) != 0) return -1;
    size_t n = ((size_t)end - sizeof(struct text_head)) / sizeof *t->ids;
    if (most > 0 && n > most) n = most;
    t->ids = malloc((n + 1) * sizeof *t->ids);
    if (!t->ids || fread(t->ids, sizeof *t->ids, n, file) != n) return -1;
    while (n > 0 && t->ids[n - 1] != TEXT_END) n--; /* the last answer may be cut off */
    t->n = n;
    return 0;
}

static int find_answers(struct train_text *t) {
    for (size_t i = 0; i < t->n; i++) t->n_answers += t->ids[i] == TEXT_END;
    t->begins = malloc(((size_t)t->n_answers + 1) * sizeof *t->begins);
    if (!t->begins) return -1;
    int at = 0;
    t->begins[at++] = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (t->ids[i] == TEXT_END) t->begins[at++] = i + 1;
        t->n_tokens += t->ids[i] >= 0;
    }
    return 0;
}

int train_text_open(struct train_text *t, const char *path, const struct text_head *expected, size_t most,
                    struct engine_error *error) {
    struct text_head head;
    *t = (struct train_text){0};
    FILE *file = fopen(path, "rb");
    if (!file) return fail(error, path, "there is no text to learn from; let the model write some: train-draft --kind ngram");
    bool is_ours = fread(&head, sizeof head, 1, file) == 1 && memcmp(&head, expected, sizeof head) == 0;
    int rc = is_ours ? read_ids(t, file, most) : 0;
    fclose(file);
    if (!is_ours) return fail(error, path, "does not hold the text of this model");
    if (rc != 0 || find_answers(t) != 0) return fail(error, path, "cannot be read, or there is no memory for it");
    if (t->n_answers >= 2 * TEXT_HELD_OUT) return ENGINE_OK;
    return fail(error, path, "holds too few answers to learn from; 40 are the least");
}

void train_text_close(struct train_text *t) {
    free(t->ids);
    free(t->begins);
    *t = (struct train_text){0};
}

struct frequency {
    int32_t token;
    uint64_t n;
};

static int by_frequency(const void *x, const void *y) {
    const struct frequency *a = x, *b = y;
    if (a->n != b->n) return a->n > b->n ? -1 : 1;
    return a->token < b->token ? -1 : a->token > b->token;
}
static int by_token(const void *x, const void *y) {
    int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
    return a < b ? -1 : a > b;
}

int train_text_vocab(const struct train_text *t, const struct tokenizer *tokenizer, int n_vocab, int32_t *out,
                     struct engine_error *error) {
    int n_all = tokenizer_vocab_size(tokenizer);
    struct frequency *all = calloc((size_t)n_all, sizeof *all);
    if (!all) return fail(error, "", "no memory for the vocabulary");
    for (int32_t id = 0; id < n_all; id++) all[id] = (struct frequency){id, tokenizer_is_eog(tokenizer, id) ? UINT64_MAX : 0};
    for (int answer = 0; answer < t->n_answers; answer++) {
        for (size_t i = t->begins[answer]; !text_is_held_out((uint64_t)answer) && i < t->begins[answer + 1]; i++) {
            int32_t id = t->ids[i];
            if (id >= 0 && id < n_all && all[id].n < UINT64_MAX) all[id].n++;
        }
    }
    qsort(all, (size_t)n_all, sizeof *all, by_frequency);
    for (int i = 0; i < n_vocab; i++) out[i] = all[i].token;
    qsort(out, (size_t)n_vocab, sizeof *out, by_token);
    free(all);
    return ENGINE_OK;
}

/* --- examples --- */

int example_maker_open(struct example_maker *m, struct model *model, enum head_kind kind, const int32_t *vocab, int n_vocab,
                       int max_rows, int chunk, const struct chat_template *template, struct engine_error *error) {
    const struct model_shape *s = &model->shape;
    size_t rows = (size_t)max_rows, h = (size_t)s->n_embd, width = kind == HEAD_EAGLE ? MODEL_FEATURES * h : h;
    struct kv_shape kv;
    int rc = model_kv_shape(s, NULL, &kv, error), n_blocks = (max_rows + KV_BLOCK - 1) / KV_BLOCK;
    if (rc != ENGINE_OK) return rc;
    *m = (struct example_maker){.model = model, .max_rows = max_rows, .chunk = chunk, .kind = kind, .n_vocab = n_vocab};
    m->vocab = vocab;
    m->blocks = calloc((size_t)n_blocks, sizeof *m->blocks);
    m->number = malloc((size_t)s->vocab_size * sizeof *m->number);
    m->tokens = calloc(rows, sizeof *m->tokens);
    m->logit_rows = calloc((size_t)chunk, sizeof *m->logit_rows);
    m->next = calloc(rows, sizeof *m->next);
    m->input = calloc(rows * width, sizeof *m->input);
    m->embeddings = calloc(rows * h, sizeof *m->embeddings);
    m->target = calloc(rows * (size_t)n_vocab, sizeof *m->target);
    m->weight = calloc(rows, sizeof *m->weight);
    if (!m->blocks || !m->number || !m->tokens || !m->logit_rows || !m->next || !m->input || !m->embeddings || !m->target ||
        !m->weight || kv_pool_alloc(&model->backend, n_blocks, &kv, &m->pool) != KERNELS_OK)
        return fail(error, "", "no memory for examples");
    for (int i = 0; i < n_blocks; i++) m->blocks[i] = i;
    for (int i = 0; i < chunk; i++) m->logit_rows[i] = i;
    for (int i = 0; i < s->vocab_size; i++) m->number[i] = -1;
    for (int i = 0; i < n_vocab; i++) m->number[vocab[i]] = i;
    struct engine_message message = {ENGINE_ROLE_USER, "", 0};
    const struct chat_prompt chat = {.messages = &message, .n_messages = 1};
    struct engine_error unimportant; /* without a chat format the answer stands alone */
    if (chat_template_render(template, &chat, &m->opening, NULL, &unimportant) != ENGINE_OK) m->opening.n = 0;
    return ENGINE_OK;
}

void example_maker_close(struct example_maker *m) {
    if (m->pool.data) kv_pool_free(&m->model->backend, &m->pool);
    token_list_free(&m->opening);
    free(m->blocks);
    free(m->number);
    free(m->tokens);
    free(m->logit_rows);
    free(m->next);
    free(m->input);
    free(m->embeddings);
    free(m->target);
    free(m->weight);
    *m = (struct example_maker){0};
}

struct label_call {
    struct example_maker *maker;
    int first, n_prompt; /* of the chunk; tokens that the model did not say */
};

/* The target's distribution over the head's tokens. A row whose likeliest token the head does not have teaches nothing. */
static void label_row(const void *arg, int i) {
    const struct label_call *call = arg;
    struct example_maker *m = call->maker;
    const float *logits = model_logits(m->model, i);
    int row = call->first + i, n_all = m->model->shape.vocab_size, best = 0;
    float *target = m->target + (size_t)row * (size_t)m->n_vocab, sum = 0;
    for (int id = 1; id < n_all; id++) best = logits[id] > logits[best] ? id : best;
    m->weight[row] = m->number[best] >= 0 && row >= call->n_prompt - 1 ? 1 : 0;
    for (int id = 0; id < m->n_vocab; id++) sum += target[id] = expf(logits[m->vocab[id]] - logits[best]);
    for (int id = 0; id < m->n_vocab; id++) target[id] /= sum;
}

/* Tokens of the answer with what stands before it; returns how many of them were not the model's own. */
static int lay_out(struct example_maker *m, const struct train_text *text, int answer, int *n_tokens) {
    size_t begin = text->begins[answer], end = text->begins[answer + 1] - 1; /* without TEXT_END */
    int n = 0, n_prompt = 0, n_all = m->model->shape.vocab_size;
    if (begin < end && text->ids[begin] >= 0) {
        for (size_t i = 0; i < m->opening.n && n < m->max_rows; i++) m->tokens[n++] = m->opening.ids[i];
        n_prompt = n;
    }
    for (size_t i = begin; i < end && n < m->max_rows; i++) {
        bool is_prompt = text->ids[i] < 0;
        int32_t id = is_prompt ? text_of_prompt(text->ids[i]) : text->ids[i];
        m->tokens[n++] = id >= 0 && id < n_all ? id : 0;
        n_prompt += is_prompt;
    }
    *n_tokens = n;
    return n_prompt;
}

static void run_chunk(struct example_maker *m, int first, int n, int n_prompt) {
    struct model *model = m->model;
    size_t h = (size_t)model->shape.n_embd, width = m->kind == HEAD_EAGLE ? MODEL_FEATURES * h : h;
    const struct kernels_seq seq = {.n_rows = n, .first_pos = first, .blocks = m->blocks};
    const struct model_batch batch = {
        .tokens = m->tokens + first, .n_rows = n, .seqs = &seq, .n_seqs = 1, .logit_rows = m->logit_rows, .n_logits = n};
    const struct label_call call = {m, first, n_prompt};
    model_forward(model, &m->pool, &batch);
    for (int i = 0; i < n; i++)
        memcpy(m->input + (size_t)(first + i) * width, m->kind == HEAD_EAGLE ? model_features(model, i) : model_state(model, i),
               width * sizeof *m->input);
    model->backend.ops->parallel(model->backend.self, n, label_row, &call);
}

static void scale_input(struct example_maker *m, int n, int n_cols) {
    for (int row = 0; m->scale && row < n; row++) {
        float *input = m->input + (size_t)row * (size_t)n_cols;
        for (int i = 0; i < n_cols; i++) input[i] *= m->scale[i];
    }
}

int example_input_scale(struct example_maker *m, const struct train_text *text, int first, int n, int n_cols, float *out) {
    double *sums = calloc((size_t)n_cols, sizeof *sums);
    int n_rows = 0;
    m->scale = NULL;
    for (int answer = first; sums && answer < first + n && answer < text->n_answers; answer++) {
        const struct example example = example_make(m, text, answer);
        for (int row = 1; row < example.n; row++, n_rows++) { /* the first token's states stand out in every model */
            const float *input = example.input + (size_t)row * (size_t)n_cols;
            for (int i = 0; i < n_cols; i++) sums[i] += (double)(input[i] * input[i]);
        }
    }
    for (int i = 0; sums && i < n_cols; i++) out[i] = (float)(1 / sqrt(sums[i] / fmax(n_rows, 1) + 1e-12));
    free(sums);
    return sums ? 0 : -1;
}

struct example example_make(struct example_maker *m, const struct train_text *text, int answer) {
    struct model *model = m->model;
    int n, n_prompt = lay_out(m, text, answer, &n), h = model->shape.n_embd;
    for (int first = 0; first < n; first += m->chunk) run_chunk(m, first, n - first < m->chunk ? n - first : m->chunk, n_prompt);
    scale_input(m, n, m->kind == HEAD_EAGLE ? MODEL_FEATURES * h : h);
    model->backend.ops->embed(model->backend.self, model->embedding, m->tokens, n, model->embedding_scale, m->embeddings, h);
    for (int i = 0; i < n; i++) m->next[i] = i + 1 < n ? m->number[m->tokens[i + 1]] : -1;
    return (struct example){
        .n = n, .input = m->input, .embeddings = m->embeddings, .target = m->target, .weight = m->weight, .next = m->next};
}
