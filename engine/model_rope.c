/* model_rope.c - the table of cosines and sines by position, and the ways to stretch it over more positions than the model was
 * first trained for. In double precision, once at load. */
#include <math.h>
#include <string.h>

#include "engine/model.h"

/* The pair of dimensions (as a fraction) that turns n_turns times within the original context. */
static double pair_that_turns(const struct model_rope *rope, int rope_dim, double n_turns) {
    return rope_dim * log(rope->ctx_original / (n_turns * 2 * M_PI)) / (2 * log(rope->base));
}

/* YaRN: fast pairs keep their frequency, slow ones are divided by the factor, those between are mixed along a ramp. */
static double yarn_share_of_slow(const struct model_rope *rope, int rope_dim, int pair) {
    double low = fmax(floor(pair_that_turns(rope, rope_dim, rope->yarn_fast)), 0);
    double high = fmin(ceil(pair_that_turns(rope, rope_dim, rope->yarn_slow)), rope_dim - 1);
    double at = (pair - low) / fmax(high - low, 0.001);
    return at < 0 ? 0 : at > 1 ? 1 : at;
}

void model_fill_rope(const struct model_rope *rope, int rope_dim, int ctx_len, float *cos_sin) {
    int half = rope_dim / 2;
    const struct gguf_tensor *factors = rope->factors;
    if (rope->long_factors && ctx_len > rope->ctx_original) factors = rope->long_factors;
    for (int i = 0; i < half; i++) {
        double frequency = rope->scale * pow(rope->base, -2.0 * i / rope_dim);
        float factor = 1;
        if (factors) memcpy(&factor, (const char *)factors->data + 4 * (size_t)i, sizeof factor);
        frequency /= (double)factor;
        if (rope->yarn_factor > 0) {
            double slow = yarn_share_of_slow(rope, rope_dim, i);
            frequency = frequency * (1 - slow) + frequency / rope->yarn_factor * slow;
        }
        for (int pos = 0; pos < ctx_len; pos++) {
            float *pair = cos_sin + 2 * ((size_t)pos * (size_t)half + (size_t)i);
            pair[0] = (float)(rope->magnitude * cos(pos * frequency));
            pair[1] = (float)(rope->magnitude * sin(pos * frequency));
        }
    }
}
