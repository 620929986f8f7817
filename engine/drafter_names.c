/* drafter_names.c - what drafters are called in settings and requests. */
#include <string.h>

#include "engine/engine.h"

static const char *const names[] = {
    [ENGINE_DRAFTER_AUTO] = "auto", [ENGINE_DRAFTER_NONE] = "none", [ENGINE_DRAFTER_SUFFIX] = "suffix"};

bool engine_drafter_parse(const char *name, enum engine_drafter *out) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (enum engine_drafter)i;
        return true;
    }
    return false;
}

const char *engine_drafter_name(enum engine_drafter drafter) { return names[drafter]; }
