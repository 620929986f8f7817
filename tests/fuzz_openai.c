/* fuzz_openai.c - any bytes as the body of a chat completion: no crash, no leak; what is accepted is within the engine's ranges. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/openai_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct openai_request request;
    struct openai_refusal refusal;
    char *body = malloc(size ? size : 1);
    memcpy(body, data, size);
    if (openai_parse(body, size, &request, &refusal)) {
        const struct engine_sampling *s = &request.gen.sampling;
        size_t total = 0;
        assert(request.n_messages >= 1 && request.n_messages <= OPENAI_MAX_MESSAGES);
        for (int i = 0; i < request.n_messages; i++) {
            for (size_t k = 0; k < request.messages[i].len; k++) total += (unsigned char)request.messages[i].text[k];
        }
        assert(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1 && request.gen.max_tokens >= 0);
        assert(s->n_bias >= 0 && s->n_bias <= ENGINE_MAX_BIAS && request.gen.n_stop <= ENGINE_MAX_STOP);
        for (int i = 0; i < s->n_bias; i++) assert(s->bias[i].token >= 0 && s->bias[i].bias >= -100 && s->bias[i].bias <= 100);
        assert(!request.include_usage || request.stream);
        assert(total < SIZE_MAX);
        openai_request_free(&request);
    } else {
        assert(refusal.message[0]);
    }
    free(body);
    return 0;
}
