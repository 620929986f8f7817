/* fuzz_protocol.c - any bytes as a frame and as a sign-in body: no crash, no leak; what is accepted keeps its promises. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/wire_in.h"
#include "gateway/wire_out.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct request *r) {
    const struct engine_sampling *s = &r->gen.sampling;
    assert(r->n_resume <= LIMIT_SUBSCRIPTIONS);
    if (r->type == REQUEST_SEND) assert(r->text && strlen(r->text) == r->text_len && r->text_len > 0);
    if (r->type == REQUEST_SEND || r->type == REQUEST_REGEN || r->type == REQUEST_CONT) {
        assert(r->cid[0] && s->temperature >= 0 && s->temperature <= 5 && s->top_p > 0 && s->top_p <= 1);
        assert(s->min_p >= 0 && s->min_p < 1 && s->repeat_penalty > 0 && r->gen.n_stop <= ENGINE_MAX_STOP);
    }
    if (r->type == REQUEST_SEARCH) assert(r->text && r->text_len > 0 && r->text_len <= STORE_MAX_QUERY && r->limit >= 1);
    if (r->type == REQUEST_SUB) assert(r->from >= 1 && r->generation.text[0]);
    for (int i = 0; i < r->n_resume; i++) assert(r->resume[i].from >= 1 && strlen(r->resume[i].generation.text) == STORE_ID_LEN);
}

static void run(const char *frame, size_t size) {
    struct request request;
    struct wire_error error;
    char key[64];
    struct buffer out = {0};
    if (wire_parse(frame, size, &request, &error)) {
        check(&request);
        if (request.text) put_string(&out, request.text, request.text_len);
        wire_request_free(&request);
    } else {
        assert(error.code && error.message[0]);
        wire_err(&out, error.id, NULL, error.code, error.message, 0);
    }
    wire_parse_key(frame, size, key, sizeof key);
    buffer_free(&out);
}

/* The bytes by themselves, and as the members of messages that are right but for them: random bytes seldom make JSON. */
static const char *const frames[][2] = {
    {"", ""},
    {"{\"t\":\"", "}"},
    {"{\"t\":\"hello\",\"v\":1,\"cid\":\"c\",\"resume\":[", "]}"},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"x\",", "}"},
    {"{\"t\":\"send\",\"id\":\"1\",\"cid\":\"c\",\"text\":\"", "\"}"},
    {"{\"t\":\"regen\",\"id\":\"1\",\"cid\":\"c\",\"msg\":\"0123456789abcdef0123456789abcdef\",\"gen\":{", "}}"},
    {"{\"t\":\"search\",\"id\":\"1\",\"q\":", "}"},
    {"{\"t\":\"sub\",\"id\":\"1\",\"g\":\"0123456789abcdef0123456789abcdef\",", "}"},
    {"{\"t\":\"rename\",\"id\":\"1\",\"conv\":\"0123456789abcdef0123456789abcdef\",\"title\":", "}"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        size_t before = strlen(frames[i][0]), after = strlen(frames[i][1]);
        char *frame = malloc(before + size + after + !size); /* exactly as long as said: reading past it is seen */
        memcpy(frame, frames[i][0], before);
        memcpy(frame + before, data, size);
        memcpy(frame + before + size, frames[i][1], after);
        run(frame, before + size + after);
        free(frame);
    }
    return 0;
}
