/* trace.c - see trace.h. */
#include "gateway/trace.h"

#include "gateway/logprobs.h"
#include "gateway/wire_out.h"

static void put_token(struct buffer *out, const struct engine *engine, int32_t token) {
    const struct engine_token_text text = engine_token_text(engine, token);
    if (text.is_control) put_text(out, "{\"name\":");
    if (text.is_control || text.is_utf8)
        put_string(out, text.bytes, text.len);
    else
        put_token_bytes(out, &text);
    if (text.is_control) put_text(out, "}");
}

static void put_node(struct buffer *out, const struct engine *engine, const struct engine_trace_node *node) {
    put_text(out, "[");
    put_integer(out, node->parent);
    put_text(out, ",");
    put_token(out, engine, node->token);
    put_text(out, ",");
    put_real(out, (double)node->chance);
    put_text(out, node->accepted ? ",1," : ",0,");
    const char *source = node->is_own ? "own" : engine_drafter_name((enum engine_drafter)node->source);
    put_cstring(out, node->parent < 0 ? NULL : source);
    put_text(out, "]");
}

void put_trace(struct buffer *out, const struct engine *engine, const struct engine_trace *trace) {
    put_text(out, "\"r\":");
    put_integer(out, trace->round);
    put_text(out, ",\"acc\":");
    put_integer(out, trace->n_accepted);
    put_text(out, ",\"bonus\":");
    put_token(out, engine, trace->bonus);
    put_text(out, ",\"nodes\":");
    for (int i = 0; i < trace->n_nodes; i++) {
        put_text(out, i > 0 ? "," : "[");
        put_node(out, engine, &trace->nodes[i]);
    }
    put_text(out, "]");
}
