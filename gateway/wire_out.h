/* wire_out.h - what the server sends, written straight into a buffer. protocol.h describes the messages.
 *
 * Each function appends one JSON value. Text that goes in is valid UTF-8: from the store, the engine or checked client fields.
 * Service thread only. */
#ifndef FORESAY_WIRE_OUT_H
#define FORESAY_WIRE_OUT_H

#include "gateway/outbox.h"
#include "gateway/protocol.h"
#include "gateway/store.h"
#include "gateway/stream.h"

/* --- pieces, also for the HTTP answers --- */
void put_text(struct buffer *out, const char *text);                /* as it is */
void put_string(struct buffer *out, const char *text, size_t len);  /* quoted, escaped */
void put_cstring(struct buffer *out, const char *text);             /* NULL = null */
void put_escaped(struct buffer *out, const char *text, size_t len); /* the inside of a string */
void put_integer(struct buffer *out, int64_t number);
void put_accepted_at(struct buffer *out, const struct engine_usage *usage); /* [first guesses right, second, ...] */
void put_real(struct buffer *out, double number);                           /* two decimals; what is not finite becomes 0 */

/* --- messages --- */
struct wire_welcome {
    bool has_traces;
    const char *sid, *user_name, *model_name, *quant, *version, *node;
    bool admin, learns;
    int ctx_len;
};
void wire_welcome(struct buffer *out, const struct wire_welcome *welcome);
void wire_ok(struct buffer *out, const char *id);
/* conv, msg (absent when empty), ans, g. */
void wire_ok_turn(struct buffer *out, const char *id, const struct store_id *conv, const struct store_id *message,
                  const struct store_id *answer, const struct store_id *generation);
void wire_ok_hist(struct buffer *out, const char *id, const struct store_op *op);
void wire_ok_convs(struct buffer *out, const char *id, const struct store_op *op);
void wire_ok_search(struct buffer *out, const char *id, const struct store_op *op);
/* id and g may be NULL or empty; retry_ms 0 = absent. */
void wire_err(struct buffer *out, const char *id, const struct store_id *generation, int code, const char *message, int retry_ms);
void wire_msg(struct buffer *out, const struct store_message *message);
/* For files (archive.h): the beginning of a chat, up to its messages; one of these. */
void wire_archive_chat(struct buffer *out, const struct store_conversation *conv);
void wire_archive_message(struct buffer *out, const struct store_message *message);
void wire_conv(struct buffer *out, const struct store_conversation *conv);
void wire_conv_deleted(struct buffer *out, const struct store_id *conv);
void wire_learn(struct buffer *out, bool on);
void wire_imported(struct buffer *out);
void wire_ping(struct buffer *out, const char *type, int64_t n); /* type "ping" or "pong" */
void wire_drain(struct buffer *out, int after_ms);

/* What the events of a generation say about where they belong. */
struct wire_stream {
    struct store_id generation, conv, message, parent;
    int64_t begun_ms;
};
void wire_slice(struct buffer *out, const struct wire_stream *ids, const struct stream *stream, const struct stream_slice *slice);
void wire_snap(struct buffer *out, const struct store_id *generation, uint64_t upto, const char *text, size_t len,
               const char *state, const char *why);

/* What the store keeps beside an answer: {"usage":{...},"why":"stop","err":{...}}; the same members appear in m and in done. */
void wire_meta(struct buffer *out, const struct stream_result *result);

#endif
