/* philox.h - Philox4x32-10: a random number as a function of a key and a counter (Salmon, Moraes, Dror, Shaw: "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011).
 *
 * There is no state to carry along, copy or roll back: the noise of (seed, position, token) is the same in whatever order and on
 * whatever machine it is asked for. That is what makes a text independent of batching, preemption and speculation. Pure
 * functions. */
#ifndef FORESAY_PHILOX_H
#define FORESAY_PHILOX_H

#include <stdint.h>

#define PHILOX_FACTOR_0 0xD2511F53u
#define PHILOX_FACTOR_1 0xCD9E8D57u
#define PHILOX_KEY_0    0x9E3779B9u /* golden ratio */
#define PHILOX_KEY_1    0xBB67AE85u /* sqrt(3) - 1 */

struct philox_block {
    uint32_t word[4];
};

static inline struct philox_block philox(uint64_t key, struct philox_block counter) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)PHILOX_FACTOR_0 * c0, p1 = (uint64_t)PHILOX_FACTOR_1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_KEY_0;
        k1 += PHILOX_KEY_1;
    }
    return (struct philox_block){{c0, c1, c2, c3}};
}

/* --- the noise of tokens ---
 *
 * A token's uniform number has 40 bits: 8 coarse ones, of which one block serves 16 tokens, and 32 fine ones. Most tokens
 * cannot win
 * with any number that begins with their coarse bits, so their fine bits are never computed: a quarter of the work. */

static inline struct philox_block philox_coarse16(uint64_t seed, uint64_t position, uint32_t token) {
    return philox(seed, (struct philox_block){{token / 16, (uint32_t)position, (uint32_t)(position >> 32), 0}});
}

static inline uint32_t philox_coarse(uint64_t seed, uint64_t position, uint32_t token) {
    return philox_coarse16(seed, position, token).word[token % 16 / 4] >> token % 4 * 8 & 255;
}

static inline uint32_t philox_fine(uint64_t seed, uint64_t position, uint32_t token) {
    struct philox_block counter = {{token / 4, (uint32_t)position, (uint32_t)(position >> 32), 1}};
    return philox(seed, counter).word[token % 4];
}

/* --- the noise of guesses and of dice ---
 *
 * For modes of verification that need it to be independent of the tokens' noise, and of other rounds': it depends on how long
 * the text was when the round began. */

enum philox_stream { PHILOX_GUESSES = 2, PHILOX_DICE = 3 }; /* 0 and 1 are the bits above */

/* The index-th number of such a round, in [0, 1). */
static inline double philox_unit(uint64_t seed, uint64_t position, uint32_t index, enum philox_stream stream) {
    struct philox_block counter = {{index, (uint32_t)position, (uint32_t)(position >> 32), stream}}, bits = philox(seed, counter);
    return (double)((uint64_t)bits.word[0] << 21 | bits.word[1] >> 11) * 0x1p-53;
}

#endif
