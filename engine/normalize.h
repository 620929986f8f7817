/* normalize.h - Unicode's composed form (NFC), which some models' tokenizers begin with (Qwen). The only place that uses
 * utf8proc. */
#ifndef FORESAY_NORMALIZE_H
#define FORESAY_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>

/* Puts the composed form of text into *out, malloc'ed, and its length into *out_len, or NULL into *out where the text is composed
 * already. Bytes that are not UTF-8 stay as they are, and so does a stretch without ASCII that has more than a thousand combining
 * marks on one character, which no writing has and which would take quadratic time. False without memory. */
bool normalize_nfc(const char *text, size_t len, char **out, size_t *out_len);

#endif
