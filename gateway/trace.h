/* trace.h - a round of guesses as the members of a `trace` event, see protocol.h. Service thread only. */
#ifndef FORESAY_GATEWAY_TRACE_H
#define FORESAY_GATEWAY_TRACE_H

#include "engine/engine.h"
#include "gateway/outbox.h"

/* "r":..., "acc":..., "bonus":..., "nodes":[...] */
void put_trace(struct buffer *out, const struct engine *engine, const struct engine_trace *trace);

#endif
