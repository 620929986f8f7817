/* drafter_names.c - what drafters and ways to verify are called in settings and requests, and why there was no draft.
 * Any thread. */
#include <string.h>

#include "engine/engine.h"

static const char *const names[] = {
    [ENGINE_DRAFTER_AUTO] = "auto",          [ENGINE_DRAFTER_NONE] = "none",           [ENGINE_DRAFTER_SUFFIX] = "suffix",
    [ENGINE_DRAFTER_NGRAM] = "ngram",        [ENGINE_DRAFTER_MODEL] = "model",         [ENGINE_DRAFTER_EAGLE] = "eagle",
    [ENGINE_DRAFTER_MEDUSA] = "medusa",      [ENGINE_DRAFTER_BLOCKWISE] = "blockwise", [ENGINE_DRAFTER_MERGE] = "merge",
    [ENGINE_DRAFTER_RECURRENT] = "recurrent"};

bool engine_drafter_parse(const char *text, enum engine_drafter *out, const char **files) {
    size_t n = strcspn(text, ":");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) != n || memcmp(names[i], text, n) != 0) continue;
        *out = (enum engine_drafter)i;
        if (files) *files = text[n] ? text + n + 1 : NULL;
        bool takes_files = files && i != ENGINE_DRAFTER_NONE && i != ENGINE_DRAFTER_SUFFIX;
        return !text[n] || (takes_files && text[n + 1]);
    }
    return false;
}

const char *engine_drafter_name(enum engine_drafter drafter) { return names[drafter]; }

static const char *const verify_names[] = {
    [ENGINE_VERIFY_DEFAULT] = "match",  [ENGINE_VERIFY_MATCH] = "match",           [ENGINE_VERIFY_TOKEN] = "token",
    [ENGINE_VERIFY_BLOCK] = "block",    [ENGINE_VERIFY_MULTI_STEP] = "multi-step", [ENGINE_VERIFY_TRAVERSAL] = "traversal",
    [ENGINE_VERIFY_TYPICAL] = "typical"};

bool engine_verify_parse(const char *text, enum engine_verify *out) {
    for (size_t i = ENGINE_VERIFY_MATCH; i < sizeof verify_names / sizeof *verify_names; i++) {
        if (strcmp(verify_names[i], text) != 0) continue;
        *out = (enum engine_verify)i;
        return true;
    }
    return false;
}

const char *engine_verify_name(enum engine_verify verify) { return verify_names[verify]; }

const char *engine_draft_off_name(enum engine_draft_off off) {
    static const char *const off_names[ENGINE_DRAFT_OFF_COUNT] = {
        [ENGINE_DRAFT_ON] = "",
        [ENGINE_DRAFT_OFF_NONE] = "none",
        [ENGINE_DRAFT_OFF_PROMPTS] = "prompts",
        [ENGINE_DRAFT_OFF_GUESS] = "no guess",
        [ENGINE_DRAFT_OFF_COST] = "cost",
        [ENGINE_DRAFT_OFF_LOSS] = "loss",
        [ENGINE_DRAFT_OFF_ROOM] = "room",
    };
    return off_names[off];
}
