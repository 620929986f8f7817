/* suffix.h - the index behind suffix matches, for lookup.c and past.c. One index a sequence, or an author's earlier texts. */
#ifndef FORESAY_SUFFIX_H
#define FORESAY_SUFFIX_H

#include <stdbool.h>
#include <stdint.h>

struct suffix_index {
    int32_t *newest;   /* [mask + 1], by hash of a pair: position + 1, 0 = none */
    int32_t *previous; /* [max_tokens], the next older position + 1 of the same hash */
    uint32_t *seen;    /* [(mask + 1) / 4]: a bit a token */
    uint32_t mask;
    int n, max_tokens; /* positions 1 .. n - 1 are filed */
};

/* A place that ends like the text. */
struct suffix_place {
    int end;    /* position of its last token */
    int length; /* of the match */
};

/* How many int32_t an index for so many tokens needs. */
uint64_t suffix_index_words(int max_tokens);
void suffix_index_init(struct suffix_index *index, int32_t *memory, int max_tokens);
void suffix_index_reset(struct suffix_index *index);
/* Files what is new and finds the best places, at most `most`, each with another next token: the longest match first, of
 * equals the newest. tokens[0 .. n) of earlier calls are unchanged. */
int suffix_find(struct suffix_index *index, const int32_t *tokens, int n_tokens, struct suffix_place *places, int most);

/* Whether the filed text has the token. Tokens share bits where there are more than 8 (mask + 1) of them. */
bool suffix_has(const struct suffix_index *index, int32_t token);

/* suffix_find in a text of others: places of text that end as asked does. Negative ids stand between texts; nothing matches them,
 * and no place is found that nothing follows. suffix_file has filed the whole text. */
void suffix_file(struct suffix_index *index, const int32_t *text, int n_text);
int suffix_find_in(const struct suffix_index *index, const int32_t *text, int n_text, const int32_t *asked, int n_asked,
                   struct suffix_place *places, int most);

#endif
