/* ngram.h - what ngram.c and ngram_build.c share. */
#ifndef FORESAY_NGRAM_H
#define FORESAY_NGRAM_H

#include <stdint.h>

#include "speculative/speculative.h"

#define NGRAM_TOKEN(record) ((record).next & 0xFFFFFFu)

uint32_t ngram_key(const int32_t *context, int n);
uint32_t ngram_checksum(const struct ngram_record *records, uint64_t n);

#endif
