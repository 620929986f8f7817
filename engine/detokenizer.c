/* detokenizer.c - see detokenizer.h. Bytes become characters (utf8_scan), characters run through one matching automaton for each
 * stop string (Knuth, Morris and Pratt), and what no automaton can still need is ready to go out.
 *
 *  (a) held[0 .. n_ready) may go out; held[n_ready .. n_held) is the longest end of the text that begins a stop string.
 *  (b) Between characters n_held - n_ready == the greatest `matched`, so a stop string needs no second look at old text.
 *  (c) A character is read only when n_ready is 0, so held never needs room for more than a stop string and a character. */
#include "engine/detokenizer.h"

#include <assert.h>
#include <string.h>

#include "engine/utf8.h"

static const char replacement[3] = "\xEF\xBF\xBD"; /* U+FFFD */

static void stop_init(struct detokenizer_stop *stop, const char *text, size_t len) {
    stop->len = (uint8_t)len;
    stop->matched = 0;
    memcpy(stop->text, text, len);
    stop->fallback[0] = 0;
    for (size_t i = 1, k = 0; i < len; i++) {
        while (k > 0 && text[i] != text[k]) k = stop->fallback[k - 1];
        if (text[i] == text[k]) k++;
        stop->fallback[i] = (uint8_t)k;
    }
}

int detokenizer_init(struct detokenizer *d, const struct tokenizer *tokenizer, const char *const *stops, int n_stops) {
    if (n_stops < 0 || n_stops > ENGINE_MAX_STOP) return ENGINE_ERR_ARGUMENT;
    *d = (struct detokenizer){.tokenizer = tokenizer, .n_stops = n_stops};
    for (int i = 0; i < n_stops; i++) {
        size_t len = strnlen(stops[i], ENGINE_MAX_STOP_LEN + 1);
        if (len == 0 || len > ENGINE_MAX_STOP_LEN || !utf8_valid(stops[i], len)) return ENGINE_ERR_ARGUMENT;
        stop_init(&d->stops[i], stops[i], len);
    }
    return ENGINE_OK;
}

/* --- characters --- */

/* Drops n bytes from the front of the unfinished character, then from the piece. */
static void consume(struct detokenizer *d, int n) {
    int from_part = n < d->n_part ? n : d->n_part;
    memmove(d->part, d->part + from_part, (size_t)(d->n_part - from_part));
    d->n_part -= from_part;
    d->piece += n - from_part;
    d->piece_len -= (size_t)(n - from_part);
}

/* The next character, from the bytes left over and the piece, into out; its length, or 0 when more bytes are needed. n_read: how
 * many bytes it was. */
static int next_character(struct detokenizer *d, char out[4], int *n_read) {
    char bytes[4];
    size_t n = (size_t)d->n_part;
    memcpy(bytes, d->part, n);
    for (size_t i = 0; n < sizeof bytes && i < d->piece_len; i++) bytes[n++] = d->piece[i];
    if (n == 0) return 0;
    int len = utf8_scan(bytes, n);
    *n_read = len < 0 ? -len : len;
    if (len > 0) {
        memcpy(out, bytes, (size_t)len);
        consume(d, len);
        return len;
    }
    if (len < 0) {
        memcpy(out, replacement, sizeof replacement);
        consume(d, -len);
        return sizeof replacement;
    }
    memcpy(d->part, bytes, n); /* all of it is the beginning of a character */
    d->n_part = (int)n;
    d->piece_len = 0;
    return 0;
}

/* --- stop strings --- */

/* Moves all automata over one byte; returns the length of the longest stop string that is complete, 0 if none is. */
static int match_byte(struct detokenizer *d, char byte) {
    int complete = 0;
    for (int i = 0; i < d->n_stops; i++) {
        struct detokenizer_stop *stop = &d->stops[i];
        while (stop->matched > 0 && stop->text[stop->matched] != byte) stop->matched = stop->fallback[stop->matched - 1];
        if (stop->text[stop->matched] == byte) stop->matched++;
        if (stop->matched == stop->len && stop->len > complete) complete = stop->len;
    }
    return complete;
}

static void add_character(struct detokenizer *d, const char *character, int len, int n_read) {
    int complete = 0, longest = 0;
    memcpy(d->held + d->n_held, character, (size_t)len);
    for (int i = 0; i < len; i++) d->stands_for_byte[d->n_held + i] = i < n_read;
    d->n_held += len;
    /* Stop strings are UTF-8: they can only be complete at the end of a character. */
    for (int i = 0; i < len; i++) complete = match_byte(d, character[i]);
    if (complete > 0) {
        d->ended = true;
        d->piece_len = 0;
        d->n_part = 0;
        d->n_held -= complete;
        d->n_ready = d->n_held;
        return;
    }
    for (int i = 0; i < d->n_stops; i++) {
        if (d->stops[i].matched > longest) longest = d->stops[i].matched;
    }
    d->n_ready = d->n_held - longest;
}

static void drop_ready(struct detokenizer *d, int n) {
    for (int i = 0; i < n; i++) d->n_out += d->stands_for_byte[i];
    memmove(d->held, d->held + n, (size_t)(d->n_held - n));
    memmove(d->stands_for_byte, d->stands_for_byte + n, (size_t)(d->n_held - n) * sizeof *d->stands_for_byte);
    d->n_held -= n;
    d->n_ready -= n;
}

/* --- tokens --- */

/* Whether the pushed token completes a stop string: a rehearsal on a copy, so that the caller knows at once and can end the
 * generation while the text before the stop string is still to be taken. */
static bool will_end(const struct detokenizer *d) {
    struct detokenizer copy = *d;
    char character[4];
    int len, n_read;
    while (!copy.ended && (len = next_character(&copy, character, &n_read)) > 0) {
        add_character(&copy, character, len, n_read);
        drop_ready(&copy, copy.n_ready);
    }
    return copy.ended;
}

void detokenizer_begin_text(struct detokenizer *d) { d->skips_space = tokenizer_prefixes_space(d->tokenizer); }

void detokenizer_push(struct detokenizer *d, int32_t token) {
    assert(d->piece_len == 0);
    if (d->stopped) return;
    d->piece = tokenizer_piece(d->tokenizer, token, &d->piece_len);
    if (d->skips_space && d->piece_len > 0) {
        d->skips_space = false;
        if (*d->piece == ' ') d->piece++, d->piece_len--, d->n_out++;
    }
    if (d->n_stops > 0) d->stopped = will_end(d);
}

/* --- out --- */

/* Moves whole characters of the ready text to out. */
static size_t take_ready(struct detokenizer *d, char *out, size_t size) {
    size_t n = (size_t)d->n_ready;
    if (n > size) {
        n = size;
        while (n > 0 && ((uint8_t)d->held[n] & 0xC0) == 0x80) n--;
    }
    memcpy(out, d->held, n);
    drop_ready(d, (int)n);
    return n;
}

size_t detokenizer_take(struct detokenizer *d, char *out, size_t size) {
    assert(size >= 4);
    size_t used = take_ready(d, out, size);
    char character[4];
    int len, n_read;
    while (d->n_ready == 0 && !d->ended && (len = next_character(d, character, &n_read)) > 0) {
        add_character(d, character, len, n_read);
        used += take_ready(d, out + used, size - used);
    }
    return used;
}

void detokenizer_finish(struct detokenizer *d) {
    d->piece_len = 0;
    d->n_part = 0; /* a character that was cut off gives nothing */
    d->n_ready = d->n_held;
}
