/* pretokenizer.c - the cutting rules of each tokenizer family as one regular expression. See pretokenizer.h.
 *
 * A family's own tokenizer may apply several rules one after the other (SmolLM2: single digits first, then GPT-2's rule to what
 * lies between). Here each is one expression whose alternatives cover every character, so that matching again and again at the
 * end of the last match cuts the whole text; DeepSeek's rules alone are kept as the steps that they are.
 *
 * PCRE2 of Debian 12 knows the characters of Unicode 14, the tokenizers that the models were trained with know later ones; the
 * classes below name the ranges that came in between (15 to 16, for single digits 17). White space is spelled out because PCRE2's
 * \s holds U+180E, which is no white space in Unicode. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/pretokenizer.h"

#include <assert.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_internal.h"
#include "engine/utf8.h"

/* Insides of character classes. */
#define SPACE "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define LETTER                                                                                                                   \
    "\\p{L}\\x{1c89}\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"                                        \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}"                                        \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}"                               \
    "\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"                                        \
    "\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}"                             \
    "\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}"                                        \
    "\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBER                                                                                                                   \
    "\\p{N}\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}"            \
    "\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"
#define DIGIT NUMBER "\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"

/* Marks, and letters by case: those without one count as both. */
#define MARK                                                                                                                     \
    "\\p{M}\\x{897}\\x{cf3}\\x{ece}\\x{10d69}-\\x{10d6d}\\x{10efc}-\\x{10eff}\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{"      \
    "113c5}"                                                                                                                     \
    "\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113d0}\\x{113d2}\\x{113e1}\\x{113e2}\\x{11f00}\\x{11f01}\\x{11f03}\\x{11f34}-\\x{"      \
    "11f3a}"                                                                                                                     \
    "\\x{11f3e}-\\x{11f42}\\x{11f5a}\\x{13440}\\x{13447}-\\x{13455}\\x{1611e}-\\x{1612f}\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}"         \
    "\\x{1e5ee}\\x{1e5ef}"
#define WITHOUT_CASE                                                                                                             \
    "\\p{Lm}\\p{Lo}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d4f}\\x{10d6f}\\x{10ec2}-\\x{10ec4}\\x{1123f}\\x{11240}\\x{11380}-\\x{" \
    "11389}"                                                                                                                     \
    "\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{"      \
    "11f10}"                                                                                                                     \
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{"    \
    "18cff}"                                                                                                                     \
    "\\x{1b132}\\x{1b155}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{"     \
    "2ee5d}"                                                                                                                     \
    "\\x{31350}-\\x{323af}" MARK
#define UPPER "\\p{Lu}\\p{Lt}\\x{1c89}\\x{a7cb}\\x{a7cc}\\x{a7da}\\x{a7dc}\\x{10d50}-\\x{10d65}" WITHOUT_CASE
#define LOWER "\\p{Ll}\\x{1c8a}\\x{a7cd}\\x{a7db}\\x{10d70}-\\x{10d85}\\x{1df25}-\\x{1df2a}" WITHOUT_CASE

#define CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"

#define PATTERN_GPT2                                                                                                             \
    CONTRACTION "| ?[" LETTER "]++| ?[" NUMBER "]++| ?[^" SPACE LETTER NUMBER "]++|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]++"

/* Digits stand alone, and white space before one is cut as if the text ended there. */
#define PATTERN_SMOLLM                                                                                                           \
    "[" DIGIT "]|" CONTRACTION "| ?[" LETTER "]++| ?[^" SPACE LETTER DIGIT "]++|[" SPACE "]+(?![^" SPACE DIGIT "])"              \
    "|[" SPACE "]++"

/* How the families after GPT-2 end: line ends together, white space but its last character, white space. */
#define SPACES "[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]++"

/* Llama 3 takes numbers in threes, Qwen2 one by one; Qwen 3.5 counts marks as letters. */
#define PATTERN_TIKTOKEN(numbers, mark)                                                                                          \
    "(?i:" CONTRACTION ")|[^\\r\\n" LETTER NUMBER "]?[" LETTER mark "]++|[" NUMBER "]" numbers "| ?[^" SPACE LETTER mark NUMBER  \
    "]++[\\r\\n]*+|" SPACES

/* GPT-4o and what follows it: words are cut where a capital follows a small letter. */
#define PATTERN_CASES(numbers, end)                                                                                              \
    "[^\\r\\n" LETTER NUMBER "]?[" UPPER "]*[" LOWER "]+" end "|[^\\r\\n" LETTER NUMBER "]?[" UPPER "]+[" LOWER "]*" end         \
    "|[" NUMBER "]" numbers "| ?[^" SPACE LETTER NUMBER "]++[\\r\\n/]*+|" SPACES

/* How DeepSeek's three generations cut, one rule after the other: what a rule finds and what lies between are cut on. White space
 * that does not reach the end of a piece is skipped at once, or a long run of it would be tried from each place. */
#define CASED_OF_UNICODE_11                                                                                                      \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}"             \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}"               \
    "\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"                 \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-"                  \
    "\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"                   \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"           \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-"                  \
    "\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-"            \
    "\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-"           \
    "\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}"           \
    "-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                  \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-"           \
    "\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define PUNCTUATION                                                                                                              \
    "\\p{P}\\x{1b4e}\\x{1b4f}\\x{1b7f}\\x{10d6e}\\x{113d4}\\x{113d5}\\x{113d7}\\x{113d8}\\x{11b00}-\\x{11b09}\\x{11be1}"         \
    "\\x{11f43}-\\x{11f4f}\\x{16d6d}-\\x{16d6f}\\x{1e5ff}"
#define SYMBOL                                                                                                                   \
    "\\p{S}\\x{2427}-\\x{2429}\\x{2ffc}-\\x{2fff}\\x{31e4}\\x{31e5}\\x{31ef}\\x{10d8e}\\x{10d8f}\\x{1cc00}-\\x{1ccef}"           \
    "\\x{1cd00}-\\x{1ceb3}\\x{1f6dc}\\x{1f774}-\\x{1f776}\\x{1f77b}-\\x{1f77f}\\x{1f7d9}\\x{1f8b2}-\\x{1f8bb}\\x{1f8c0}"         \
    "\\x{1f8c1}\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{"     \
    "1face}"                                                                                                                     \
    "\\x{1facf}\\x{1fada}-\\x{1fadc}\\x{1fadf}\\x{1fae8}\\x{1fae9}\\x{1faf7}\\x{1faf8}\\x{1fbcb}-\\x{1fbef}"
#define ASIAN        "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]++"
#define CHINESE_KANA "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]++"
#define PATTERN_DEEPSEEK_V3                                                                                                      \
    "[!-/:-\\x{40}\\x{5b}-`{-~][A-Za-z]++|[^\\r\\n" LETTER PUNCTUATION SYMBOL "]?[" LETTER MARK "]++"                            \
    "| ?[" PUNCTUATION SYMBOL "]++[\\r\\n]*+|" SPACES

enum { MAX_STEPS = PRETOKENIZER_MAX_STEPS };

/* Which words of ASCII letters are found without PCRE2, which takes longer to start than to match: see plain_word. */
enum words {
    WORDS_BY_PATTERN,
    WORDS_OF_LETTERS, /* a space or none, then letters */
    WORDS_BY_CASE,    /* a space or none, then capitals or none, then small letters */
};

enum { IGNORES_MERGES = 1, ADDS_BOS = 2, COMPOSES = 4 }; /* see pretokenizer.h */

struct family {
    const char *name;
    const char *aliases;          /* values of tokenizer.ggml.pre that mean the same rule, each between spaces */
    const char *steps[MAX_STEPS]; /* one: it matches everywhere; several: each cuts what the one before leaves, see scanning */
    enum words words;
    int flags;
};

static const struct family families[] = {
    {"smollm", " smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {PATTERN_SMOLLM}, WORDS_OF_LETTERS, 0},
    {"gpt-2",
     " gpt-2 gpt2 default phi-2 mpt olmo jais trillion jina-en jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code "
     "mellum modern-bert roberta-bpe gigachat a.x-4.0 exaone4 granite-docling ",
     {PATTERN_GPT2},
     WORDS_OF_LETTERS,
     0},
    {"llama-bpe",
     " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 jina-v5-nano ",
     {PATTERN_TIKTOKEN("{1,3}+", "")},
     WORDS_OF_LETTERS,
     IGNORES_MERGES | ADDS_BOS},
    {"dbrx", " dbrx smaug-bpe chatglm-bpe glm4 ", {PATTERN_TIKTOKEN("{1,3}+", "")}, WORDS_OF_LETTERS, 0},
    {"qwen2", " qwen2 ", {PATTERN_TIKTOKEN("", "")}, WORDS_OF_LETTERS, COMPOSES},
    {"qwen35", " qwen35 ", {PATTERN_TIKTOKEN("", MARK)}, WORDS_OF_LETTERS, COMPOSES},
    {"stablelm2",
     " stablelm2 hunyuan deepseek-r1-qwen megrez hunyuan-qwen kormo f2llmv2 grok-2 solar-open ",
     {PATTERN_TIKTOKEN("", "")},
     WORDS_OF_LETTERS,
     0},
    {"gpt-4o", " gpt-4o llama4 kanana2 talkie minimax-m2 ", {PATTERN_CASES("{1,3}+", "(?i:" CONTRACTION ")?")}, WORDS_BY_CASE, 0},
    {"tekken", " tekken ", {PATTERN_CASES("", "")}, WORDS_BY_CASE, IGNORES_MERGES | ADDS_BOS},
    {"deepseek-llm",
     " deepseek-llm ",
     {"[\\r\\n]", "[" SPACE "]?[" CASED_OF_UNICODE_11 "]++",
      "[" SPACE "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]++",
      "[" SPACE "]++(?:$|(*SKIP)(*FAIL))", ASIAN, "[" DIGIT "]"},
     WORDS_BY_PATTERN,
     0},
    {"deepseek-coder",
     " deepseek-coder ",
     {"[\\r\\n]", "[" SPACE "]?[" LETTER "]++", "[" SPACE "]?[" PUNCTUATION "]++", ASIAN, "[" DIGIT "]"},
     WORDS_BY_PATTERN,
     0},
    {"deepseek-v3",
     " deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     {"[" NUMBER "]{1,3}+", CHINESE_KANA, PATTERN_DEEPSEEK_V3},
     WORDS_BY_PATTERN,
     0},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

struct pretokenizer {
    const struct family *family;
    pcre2_code *codes[MAX_STEPS];
    int n_steps;
    pcre2_match_context *limits;
};

static const struct family *find_family(const char *name, size_t len) {
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *at = families[i].aliases;
        while (*at++) { /* at a name, or at the terminator */
            const char *end = strchr(at, ' ');
            if (!end) break;
            if ((size_t)(end - at) == len && memcmp(at, name, len) == 0) return &families[i];
            at = end;
        }
    }
    return NULL;
}

static int unknown_name(const char *name, size_t len, struct engine_error *error) {
    char known[384] = "", shown[48];
    size_t used = 0;
    for (int i = 0; i < N_FAMILIES; i++) {
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", families[i].name);
    }
    gguf_printable(shown, sizeof shown, name, len);
    snprintf(error->text, sizeof error->text, "the model's pre-tokenizer \"%s\" is not supported; supported are %s", shown,
             known);
    return ENGINE_ERR_MODEL;
}

/* False without memory: the patterns themselves are sound. */
static bool compile(struct pretokenizer *p) {
    while (p->n_steps < MAX_STEPS && p->family->steps[p->n_steps]) p->n_steps++;
    for (int step = 0; step < p->n_steps; step++) {
        int code;
        PCRE2_SIZE offset;
        uint32_t options = PCRE2_UTF | PCRE2_UCP | (p->n_steps == 1 ? PCRE2_ANCHORED : 0);
        p->codes[step] = pcre2_compile((PCRE2_SPTR)p->family->steps[step], PCRE2_ZERO_TERMINATED, options, &code, &offset, NULL);
        if (!p->codes[step]) return false;
        pcre2_jit_compile(p->codes[step], PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
    }
    p->limits = pcre2_match_context_create(NULL);
    if (!p->limits) return false;
    /* The patterns are linear, but the default limit is fewer steps than a long run of spaces takes. */
    pcre2_set_match_limit(p->limits, UINT32_MAX);
    return true;
}

int pretokenizer_open(struct pretokenizer **out, const char *name, size_t len, struct engine_error *error) {
    *out = NULL;
    const struct family *family = find_family(name, len);
    if (!family) return unknown_name(name, len, error);
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (p) p->family = family;
    if (!p || !compile(p)) {
        pretokenizer_close(p);
        snprintf(error->text, sizeof error->text, "not enough memory for the tokenizer");
        return ENGINE_ERR_MEMORY;
    }
    *out = p;
    return ENGINE_OK;
}

void pretokenizer_close(struct pretokenizer *pretokenizer) {
    if (!pretokenizer) return;
    for (int step = 0; step < pretokenizer->n_steps; step++) pcre2_code_free(pretokenizer->codes[step]);
    pcre2_match_context_free(pretokenizer->limits);
    free(pretokenizer);
}

const char *pretokenizer_name(const struct pretokenizer *pretokenizer) { return pretokenizer->family->name; }
bool pretokenizer_ignores_merges(const struct pretokenizer *pretokenizer) { return pretokenizer->family->flags & IGNORES_MERGES; }
bool pretokenizer_adds_bos(const struct pretokenizer *pretokenizer) { return pretokenizer->family->flags & ADDS_BOS; }
bool pretokenizer_composes(const struct pretokenizer *pretokenizer) { return pretokenizer->family->flags & COMPOSES; }

/* --- scanning --- */

bool pretokenizer_scan_init(struct pretokenizer_scan *scan, const struct pretokenizer *pretokenizer) {
    *scan = (struct pretokenizer_scan){.pretokenizer = pretokenizer};
    scan->match = pcre2_match_data_create(1, NULL);
    return scan->match != NULL;
}

void pretokenizer_scan_free(struct pretokenizer_scan *scan) { pcre2_match_data_free(scan->match); }

void pretokenizer_scan_set(struct pretokenizer_scan *scan, const char *text, size_t len) {
    scan->text = text;
    scan->len = len;
    scan->at = scan->run_end = 0;
    memset(scan->levels, 0, sizeof scan->levels);
}

/* The end of the run of bytes from `at` on that are characters, or that are not, as `valid` says. */
static size_t find_run_end(const char *text, size_t len, size_t at, bool valid) {
    while (at < len) {
        int n = utf8_scan(text + at, len - at);
        if ((n > 0) != valid) break;
        at += n > 0 ? (size_t)n : n < 0 ? (size_t)-n : len - at;
    }
    return at;
}

/* Where the step's next match in the piece begins and ends, counted from the piece's start: 1, 0 for none, -1 without memory. */
static int match(struct pretokenizer_scan *scan, int step, const char *piece, size_t len, size_t from, size_t *start,
                 size_t *end) {
    const struct pretokenizer *p = scan->pretokenizer;
    int rc = pcre2_match(p->codes[step], (PCRE2_SPTR)piece, len, from, PCRE2_NO_UTF_CHECK, scan->match, p->limits);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) return -1;
    *start = pcre2_get_ovector_pointer(scan->match)[0];
    *end = pcre2_get_ovector_pointer(scan->match)[1];
    assert(*end > *start); /* no pattern matches nothing */
    return 1;
}

static bool is_small(char c) { return c >= 'a' && c <= 'z'; }
static bool is_capital(char c) { return c >= 'A' && c <= 'Z'; }

/* The length of the word at the start of text if it is one that is found without PCRE2, else 0. What follows must be ASCII, so
 * that no letter, mark or number beyond it belongs to the word. */
static size_t plain_word(enum words words, const char *text, size_t len) {
    size_t at = len > 0 && *text == ' ', start = at;
    if (words == WORDS_BY_PATTERN) return 0;
    if (words == WORDS_OF_LETTERS) {
        while (at < len && (is_small(text[at]) || is_capital(text[at]))) at++;
    } else {
        while (at < len && is_capital(text[at])) at++;
        start = at;
        while (at < len && is_small(text[at])) at++;
    }
    if (at == start) return 0;
    return at == len || ((uint8_t)text[at] < 0x80 && !(words == WORDS_BY_CASE && text[at] == '\'')) ? at : 0;
}

/* What stands before the next match of the step in its piece, or that match. */
static int cut(struct pretokenizer_scan *scan, int step, size_t *start, size_t *end) {
    struct pretokenizer_level *l = &scan->levels[step];
    *start = l->at;
    if (l->match_end <= l->at) {
        size_t from, to;
        int found = match(scan, step, scan->text + l->start, l->end - l->start, l->at - l->start, &from, &to);
        if (found < 0) return -1;
        l->match_start = found ? l->start + from : l->end;
        l->match_end = found ? l->start + to : l->end;
    }
    *end = l->at < l->match_start ? l->match_start : l->match_end;
    l->at = *end;
    return 1;
}

/* The next piece after steps 0 .. step; each step looks at one piece of the step before as if that were the whole text. */
static int next_piece(struct pretokenizer_scan *scan, int step, size_t *start, size_t *end) {
    if (step < 0) { /* the run itself */
        if (scan->at == scan->run_end) return 0;
        *start = scan->at;
        *end = scan->at = scan->run_end;
        return 1;
    }
    struct pretokenizer_level *l = &scan->levels[step];
    if (l->at == l->end) {
        int more = next_piece(scan, step - 1, &l->start, &l->end);
        if (more <= 0) return more;
        l->at = l->match_end = l->start;
    }
    return cut(scan, step, start, end);
}

/* Begins the next run, if the last one is used up: of characters (0), or of bytes that are none (1), which is a piece. */
static int begin_run(struct pretokenizer_scan *scan, size_t *start, size_t *end) {
    if (scan->at < scan->run_end) return 0;
    scan->run_end = find_run_end(scan->text, scan->len, scan->at, true);
    if (scan->run_end > scan->at) return 0;
    *start = scan->at;
    *end = scan->at = scan->run_end = find_run_end(scan->text, scan->len, scan->at, false);
    return 1;
}

int pretokenizer_scan_next(struct pretokenizer_scan *scan, const char **piece, size_t *len) {
    int n_steps = scan->pretokenizer->n_steps, rc = 0;
    size_t start = 0, end = 0;
    if (n_steps > 1) rc = next_piece(scan, n_steps - 1, &start, &end); /* of the run that has begun */
    if (rc == 0 && scan->at == scan->len) return 0;
    if (rc == 0) rc = begin_run(scan, &start, &end);
    if (rc == 0 && n_steps > 1) {
        rc = next_piece(scan, n_steps - 1, &start, &end);
    } else if (rc == 0) { /* the subject is the rest of the run: nothing in the patterns looks back */
        const char *rest = scan->text + scan->at;
        size_t rest_len = scan->run_end - scan->at;
        end = plain_word(scan->pretokenizer->family->words, rest, rest_len);
        rc = end > 0 ? 1 : match(scan, 0, rest, rest_len, 0, &start, &end);
        assert(rc != 0); /* the alternatives cover every character */
        start = scan->at;
        end = scan->at += end;
    }
    if (rc < 0) return -1;
    *piece = scan->text + start;
    *len = end - start;
    return 1;
}
