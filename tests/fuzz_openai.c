/* fuzz_openai.c - any bytes as the body of a chat completion or a completion: no crash, no leak; what is accepted keeps the
 * engine's ranges. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/openai_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(enum openai_kind kind, const struct openai_request *r) {
    const struct engine_sampling *s = &r->gen.sampling;
    size_t total = 0;
    assert(kind == OPENAI_COMPLETION ? r->prompt_len > 0 : r->n_messages >= 1 && r->n_messages <= OPENAI_MAX_MESSAGES);
    assert(r->gen.n_top_logprobs >= 0 && r->gen.n_top_logprobs <= ENGINE_MAX_TOP_LOGPROBS);
    for (int i = 0; i < r->n_messages; i++) total += strnlen(r->messages[i].text, r->messages[i].len); /* reads all of it */
    assert(total < SIZE_MAX);
    assert(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1 && r->gen.max_tokens >= 0);
    assert(s->n_bias >= 0 && s->n_bias <= ENGINE_MAX_BIAS && r->gen.n_stop <= ENGINE_MAX_STOP);
    for (int i = 0; i < s->n_bias; i++) assert(s->bias[i].token >= 0 && s->bias[i].bias >= -100 && s->bias[i].bias <= 100);
    assert(!r->include_usage || r->stream);
}

static void run(enum openai_kind kind, const char *body, size_t size) {
    struct openai_request request;
    struct openai_refusal refusal;
    if (openai_parse(kind, body, size, &request, &refusal)) {
        check(kind, &request);
        openai_request_free(&request);
    } else {
        assert(refusal.message[0]);
    }
}

/* The bytes by themselves, and as parts of bodies that are right but for them: random bytes seldom make JSON. */
static const char *const bodies[][2] = {
    {"", ""},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],", "}"},
    {"{\"prompt\":\"hi\",", "}"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":[", "]}]}"},
    {"{\"messages\":[", "]}"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"logit_bias\":{", "}}"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        size_t before = strlen(bodies[i][0]), after = strlen(bodies[i][1]);
        char *body = malloc(before + size + after + !size); /* exactly as long as said: reading past it is seen */
        memcpy(body, bodies[i][0], before);
        memcpy(body + before, data, size);
        memcpy(body + before + size, bodies[i][1], after);
        run(OPENAI_CHAT, body, before + size + after);
        run(OPENAI_COMPLETION, body, before + size + after);
        free(body);
    }
    return 0;
}
