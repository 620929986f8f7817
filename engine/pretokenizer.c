/* pretokenizer.c - the cutting rules of each tokenizer family as one regular expression. See pretokenizer.h.
 *
 * A family's own tokenizer may apply several rules one after the other (SmolLM2: single digits first, then GPT-2's rule to what
 * lies between). Here each is one expression whose alternatives cover every character, so that matching again and again at the
 * end of the last match cuts the whole text.
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

struct family {
    const char *name;
    const char *aliases; /* values of tokenizer.ggml.pre that mean the same rule, each between spaces */
    const char *pattern;
    bool ignores_merges, adds_bos, composes;
};

static const struct family families[] = {
    {"smollm", " smollm starcoder refact command-r codeshell exaone minerva-7b ", PATTERN_SMOLLM, false, false, false},
    {"gpt-2", " gpt-2 gpt2 default phi-2 mpt olmo jais trillion jina-en jina-es jina-de mellum modern-bert roberta-bpe ",
     PATTERN_GPT2, false, false, false},
    {"llama-bpe", " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 ", PATTERN_TIKTOKEN("{1,3}+", ""), true,
     true, false},
    {"dbrx", " dbrx smaug-bpe chatglm-bpe glm4 ", PATTERN_TIKTOKEN("{1,3}+", ""), false, false, false},
    {"qwen2", " qwen2 ", PATTERN_TIKTOKEN("", ""), false, false, true},
    {"qwen35", " qwen35 ", PATTERN_TIKTOKEN("", MARK), false, false, true},
    {"stablelm2", " stablelm2 hunyuan deepseek-r1-qwen megrez hunyuan-qwen ", PATTERN_TIKTOKEN("", ""), false, false, false},
    {"gpt-4o", " gpt-4o llama4 ", PATTERN_CASES("{1,3}+", "(?i:" CONTRACTION ")?"), false, false, false},
    {"tekken", " tekken ", PATTERN_CASES("", ""), true, false, false},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

struct pretokenizer {
    const struct family *family;
    pcre2_code *code;
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
    char known[256] = "", shown[48];
    size_t used = 0;
    for (int i = 0; i < N_FAMILIES; i++) {
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", families[i].name);
    }
    gguf_printable(shown, sizeof shown, name, len);
    snprintf(error->text, sizeof error->text, "the model's pre-tokenizer \"%s\" is not supported; supported are %s", shown,
             known);
    return ENGINE_ERR_MODEL;
}

int pretokenizer_open(struct pretokenizer **out, const char *name, size_t len, struct engine_error *error) {
    *out = NULL;
    const struct family *family = find_family(name, len);
    if (!family) return unknown_name(name, len, error);
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (p) {
        int code;
        PCRE2_SIZE offset;
        p->family = family;
        p->code = pcre2_compile((PCRE2_SPTR)family->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code,
                                &offset, NULL);
        p->limits = pcre2_match_context_create(NULL);
    }
    if (!p || !p->code || !p->limits) {
        pretokenizer_close(p);
        snprintf(error->text, sizeof error->text, "not enough memory for the tokenizer");
        return ENGINE_ERR_MEMORY;
    }
    pcre2_set_match_limit(p->limits,
                          UINT32_MAX); /* the patterns are linear, but the default is fewer than a long run of spaces */
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
    *out = p;
    return ENGINE_OK;
}

void pretokenizer_close(struct pretokenizer *pretokenizer) {
    if (!pretokenizer) return;
    pcre2_code_free(pretokenizer->code);
    pcre2_match_context_free(pretokenizer->limits);
    free(pretokenizer);
}

const char *pretokenizer_name(const struct pretokenizer *pretokenizer) { return pretokenizer->family->name; }
bool pretokenizer_ignores_merges(const struct pretokenizer *pretokenizer) { return pretokenizer->family->ignores_merges; }
bool pretokenizer_adds_bos(const struct pretokenizer *pretokenizer) { return pretokenizer->family->adds_bos; }
bool pretokenizer_composes(const struct pretokenizer *pretokenizer) { return pretokenizer->family->composes; }

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

int pretokenizer_scan_next(struct pretokenizer_scan *scan, const char **piece, size_t *len) {
    if (scan->at == scan->len) return 0;
    *piece = scan->text + scan->at;
    if (scan->at == scan->run_end) {
        scan->run_end = find_run_end(scan->text, scan->len, scan->at, true);
        if (scan->run_end == scan->at) { /* not UTF-8 */
            *len = find_run_end(scan->text, scan->len, scan->at, false) - scan->at;
            scan->at = scan->run_end = scan->at + *len;
            return 1;
        }
    }
    /* The subject is the rest of the run: nothing in the patterns looks back. */
    int rc = pcre2_match(scan->pretokenizer->code, (PCRE2_SPTR)*piece, scan->run_end - scan->at, 0, PCRE2_NO_UTF_CHECK,
                         scan->match, scan->pretokenizer->limits);
    if (rc < 0) return -1;
    *len = pcre2_get_ovector_pointer(scan->match)[1];
    assert(*len > 0); /* the alternatives cover every character and none matches nothing */
    scan->at += *len;
    return 1;
}
