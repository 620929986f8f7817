/* store_words.c - what the search index takes for a word, and the excerpt around a hit. FTS5 calls it, on a connection's thread.
 *
 *  (1) Words are unicode61's: letters and digits, case and accents folded. In scripts written without spaces between words, and
 * among pictures, each character is a word; words side by side in a question are a phrase: "京都" finds what holds just that.
 *  (2) The index on disk was made by this: a change here is a migration that makes it anew.
 *  (3) An excerpt costs a walk to the hit and no more, however often the word stands in a text (FTS5's own snippet() takes the
 * square of that). Its hits stand between SEARCH_HIT and SEARCH_PLAIN; no other control character is in it. */
#include <stdlib.h>
#include <string.h>

#include "gateway/store_sql.h"

enum {
    TEXT_COLUMN = 1,   /* of the table search; column 0 is the owner */
    WORDS_BEFORE = 32, /* the words around the place of an excerpt that are marked when they are hits */
    WORDS_BEHIND = 96,
    WORDS_AROUND = WORDS_BEFORE + 1 + WORDS_BEHIND,
    BYTES_BEFORE = 60, /* of text that an excerpt has */
    BYTES_BEHIND = 180,
    EXCERPT_BYTES = 2 * (BYTES_BEFORE + BYTES_BEHIND) + 8, /* at most a mark for each byte, and two ellipses */
};

/* --- words --- */

typedef int (*each_word)(void *arg, int flags, const char *word, int len, int start, int end);

struct words {
    fts5_tokenizer calls; /* unicode61 */
    Fts5Tokenizer *inner;
};

/* Between unicode61, which sees a part of the text, and FTS5, which wants places in the whole. */
struct relay {
    each_word each;
    void *arg;
    int shift, rc;
};

static int on_word(void *arg, int flags, const char *word, int len, int start, int end) {
    struct relay *relay = arg;
    relay->rc = relay->each(relay->arg, flags, word, len, start + relay->shift, end + relay->shift);
    return relay->rc;
}

/* Ranges of characters that are words by themselves. */
static bool is_word_alone(uint32_t code) {
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0x0E00, 0x0EFF},   /* Thai, Lao */
        {0x1000, 0x109F},   /* Myanmar */
        {0x1100, 0x11FF},   /* Hangul letters */
        {0x1780, 0x17FF},   /* Khmer */
        {0x2600, 0x27BF},   /* pictures */
        {0x2E80, 0x2FDF},   /* radicals */
        {0x3005, 0x3007},   /* repetition, zero */
        {0x3021, 0x303A},   /* numbers and repetition */
        {0x3041, 0x30FA},   /* kana */
        {0x30FC, 0x31FF},   /* kana, bopomofo, Hangul letters, strokes */
        {0x3400, 0x9FFF},   /* Chinese characters */
        {0xA960, 0xA97F},   /* Hangul */
        {0xAC00, 0xD7FF},   /* Hangul */
        {0xF900, 0xFAFF},   /* Chinese characters */
        {0xFF66, 0xFFDC},   /* narrow kana and Hangul */
        {0x1B000, 0x1B16F}, /* kana */
        {0x1F000, 0x1FAFF}, /* pictures */
        {0x20000, 0x3FFFF}, /* Chinese characters */
    };
    if (code < ranges[0].first) return false;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        if (code <= ranges[i].last) return code >= ranges[i].first;
    }
    return false;
}

/* The character at text and its bytes; what is no character is one byte of nothing. */
static int decode(const char *text, int len, uint32_t *code) {
    const unsigned char *p = (const unsigned char *)text;
    int n = p[0] < 0xC0 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    *code = n == 1 ? 0 : p[0] & (0x7Fu >> n);
    if (n > len) return 1;
    for (int i = 1; i < n; i++) *code = *code << 6 | (p[i] & 0x3F);
    return n;
}

static int words_between(struct words *words, struct relay *relay, int flags, const char *text, int from, int to) {
    relay->shift = from;
    int rc = to > from ? words->calls.xTokenize(words->inner, relay, flags, text + from, to - from, on_word) : SQLITE_OK;
    return relay->rc != SQLITE_OK ? relay->rc : rc;
}

static int words_each(Fts5Tokenizer *tokenizer, void *arg, int flags, const char *text, int len, each_word each) {
    struct words *words = (struct words *)tokenizer;
    struct relay relay = {.each = each, .arg = arg};
    int done = 0, rc = SQLITE_OK;
    uint32_t code;
    for (int i = 0, n = 1; i < len && rc == SQLITE_OK; i += n) {
        n = decode(text + i, len - i, &code);
        if (!is_word_alone(code)) continue;
        rc = words_between(words, &relay, flags, text, done, i);
        if (rc == SQLITE_OK) rc = each(arg, 0, text + i, n, i, i + n);
        done = i + n;
    }
    if (rc == SQLITE_OK) rc = words_between(words, &relay, flags, text, done, len);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void words_delete(Fts5Tokenizer *tokenizer) {
    struct words *words = (struct words *)tokenizer;
    if (words->inner) words->calls.xDelete(words->inner);
    free(words);
}

static int words_create(void *arg, const char **options, int n_options, Fts5Tokenizer **out) {
    static const char *plain[] = {"remove_diacritics", "2"};
    fts5_api *api = arg;
    void *inner_arg = NULL;
    struct words *words = calloc(1, sizeof *words);
    (void)options;
    (void)n_options;
    *out = NULL;
    if (!words) return SQLITE_NOMEM;
    int rc = api->xFindTokenizer(api, "unicode61", &inner_arg, &words->calls);
    if (rc == SQLITE_OK) rc = words->calls.xCreate(inner_arg, plain, 2, &words->inner);
    if (rc == SQLITE_OK)
        *out = (Fts5Tokenizer *)words;
    else
        words_delete((Fts5Tokenizer *)words);
    return rc;
}

/* --- excerpts --- */

struct excerpt {
    int place; /* number of the word at which the excerpt is looked for */
    int word;  /* number of the next word */
    int at;    /* byte where the word at the place begins */
    struct {
        bool is_hit;
        int start, end; /* in bytes; end 0: not met */
    } around[WORDS_AROUND];
};

/* Where each word that was asked for stands first: the latest of these, so that a rare word is in sight and not the frequent one
 * beside it. */
static int find_place(const Fts5ExtensionApi *api, Fts5Context *row) {
    int latest = 0;
    for (int phrase = 0; phrase < api->xPhraseCount(row); phrase++) {
        Fts5PhraseIter walk;
        int column = -1, word = 0;
        api->xPhraseFirst(row, phrase, &walk, &column, &word);
        while (column >= 0 && column != TEXT_COLUMN) api->xPhraseNext(row, &walk, &column, &word);
        if (column == TEXT_COLUMN && word > latest) latest = word;
    }
    return latest;
}

static void find_hits(const Fts5ExtensionApi *api, Fts5Context *row, struct excerpt *x) {
    int first = x->place - WORDS_BEFORE;
    for (int phrase = 0; phrase < api->xPhraseCount(row); phrase++) {
        Fts5PhraseIter walk;
        int column = -1, word = 0, n_words = api->xPhraseSize(row, phrase);
        for (api->xPhraseFirst(row, phrase, &walk, &column, &word); column >= 0 && word - first < WORDS_AROUND;
             api->xPhraseNext(row, &walk, &column, &word)) {
            for (int i = word - first; column == TEXT_COLUMN && i < word - first + n_words; i++) {
                if (i >= 0 && i < WORDS_AROUND) x->around[i].is_hit = true;
            }
        }
    }
}

static int on_excerpt_word(void *arg, int flags, const char *word, int len, int start, int end) {
    struct excerpt *x = arg;
    (void)word;
    (void)len;
    if (flags & FTS5_TOKEN_COLOCATED) return SQLITE_OK;
    int i = x->word++ - (x->place - WORDS_BEFORE);
    if (i == WORDS_BEFORE) x->at = start;
    if (i >= 0 && i < WORDS_AROUND) x->around[i].start = start, x->around[i].end = end;
    return i < WORDS_AROUND ? SQLITE_OK : SQLITE_DONE;
}

static bool is_hit(const struct excerpt *x, int at) {
    for (int i = 0; i < WORDS_AROUND; i++) {
        if (x->around[i].is_hit && at >= x->around[i].start && at < x->around[i].end) return true;
    }
    return false;
}

static bool goes_on(char c) { return ((unsigned char)c & 0xC0) == 0x80; } /* inside a character */
static bool is_space(char c) { return (unsigned char)c <= ' '; }

/* What is shown of the text: some before the hit and more behind it, cut at spaces where there are some. */
static void choose_range(const struct excerpt *x, const char *text, int len, int *from, int *to) {
    int at = x->at, begin = at > BYTES_BEFORE ? at - BYTES_BEFORE : 0, end = len - at > BYTES_BEHIND ? at + BYTES_BEHIND : len;
    while (begin < at && goes_on(text[begin])) begin++;
    while (end > at && end < len && goes_on(text[end])) end--;
    *from = begin;
    *to = end;
    for (int i = begin; begin > 0 && i < at; i++) {
        if (!is_space(text[i])) continue;
        *from = i + 1;
        break;
    }
    for (int i = end - 1; end < len && i > at + BYTES_BEHIND / 2; i--) {
        if (!is_space(text[i])) continue;
        *to = i;
        break;
    }
}

static int put_ellipsis(char *out, int n) {
    memcpy(out + n, "\xE2\x80\xA6", 3);
    return n + 3;
}

static int write_excerpt(const struct excerpt *x, const char *text, int len, char out[EXCERPT_BYTES]) {
    int from, to, n = 0;
    bool marked = false, blank = true;
    choose_range(x, text, len, &from, &to);
    if (from > 0) n = put_ellipsis(out, n);
    for (int i = from; i < to; i++) {
        bool hit = is_hit(x, i);
        if (hit != marked) out[n++] = hit ? SEARCH_HIT : SEARCH_PLAIN;
        marked = hit;
        if (is_space(text[i]) && blank) continue;
        blank = is_space(text[i]);
        out[n++] = blank || text[i] == 0x7F ? ' ' : text[i];
    }
    if (marked) out[n++] = SEARCH_PLAIN;
    return to < len ? put_ellipsis(out, n) : n;
}

static void excerpt(const Fts5ExtensionApi *api, Fts5Context *row, sqlite3_context *answer, int n_args, sqlite3_value **args) {
    struct excerpt x = {.place = find_place(api, row)};
    char out[EXCERPT_BYTES];
    const char *text = NULL;
    int len = 0;
    (void)n_args;
    (void)args;
    find_hits(api, row, &x);
    int rc = api->xColumnText(row, TEXT_COLUMN, &text, &len);
    if (rc == SQLITE_OK) rc = api->xTokenize(row, text, len, &x, on_excerpt_word);
    if (rc == SQLITE_OK)
        sqlite3_result_text(answer, out, write_excerpt(&x, text ? text : "", len, out), SQLITE_TRANSIENT);
    else
        sqlite3_result_error_code(answer, rc);
}

/* --- for a connection --- */

static fts5_api *fts5_of(sqlite3 *sql) {
    fts5_api *api = NULL;
    sqlite3_stmt *row = NULL;
    if (sqlite3_prepare_v2(sql, "SELECT fts5(?1)", -1, &row, NULL) == SQLITE_OK) {
        sqlite3_bind_pointer(row, 1, &api, "fts5_api_ptr", NULL);
        sqlite3_step(row);
    }
    sqlite3_finalize(row);
    return api;
}

int search_register(sqlite3 *sql) {
    static fts5_tokenizer words = {words_create, words_delete, words_each};
    fts5_api *api = fts5_of(sql);
    if (!api) return SQLITE_ERROR;
    int rc = api->xCreateTokenizer(api, "words", api, &words, NULL);
    return rc == SQLITE_OK ? api->xCreateFunction(api, "excerpt", NULL, excerpt, NULL) : rc;
}
