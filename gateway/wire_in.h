/* wire_in.h - what clients send, checked and turned into structs. Every field is checked here and trusted afterwards.
 *
 * Service thread only. No I/O. */
#ifndef FORESAY_WIRE_IN_H
#define FORESAY_WIRE_IN_H

#include "engine/engine.h"
#include "gateway/limits.h"
#include "gateway/protocol.h"
#include "gateway/store.h"

/* The wish for one generation. Owns its strings. */
struct gen_params {
    struct engine_sampling sampling;
    struct engine_bias *bias; /* what sampling.bias points at */
    bool has_seed;
    int max_tokens; /* 0 = no wish */
    char *stop[ENGINE_MAX_STOP];
    int n_stop;
    enum engine_drafter drafter;
    enum engine_verify verify;
    bool logprobs; /* the answer's tokens with their log-probabilities and those of the n_top_logprobs likeliest */
    int n_top_logprobs;
    char *system; /* first message for the model, or NULL */
    bool drop_oldest, trace;
};
struct gen_params gen_params_default(void);
void gen_params_free(struct gen_params *params);
bool gen_params_copy(struct gen_params *out, const struct gen_params *params); /* false: memory, and *out is empty */

enum request_type {
    REQUEST_HELLO,
    REQUEST_SEND,
    REQUEST_REGEN,
    REQUEST_CONT,
    REQUEST_CANCEL,
    REQUEST_SUB,
    REQUEST_UNSUB,
    REQUEST_HIST,
    REQUEST_CONVS,
    REQUEST_SEARCH,
    REQUEST_RENAME,
    REQUEST_DELETE,
    REQUEST_LEARN,
    REQUEST_PING,
    REQUEST_PONG,
};

struct request_resume {
    struct store_id generation;
    uint64_t from;
};

struct request {
    enum request_type type;
    char id[PROTOCOL_MAX_ID + 1];
    char cid[PROTOCOL_MAX_ID + 1];
    struct store_id conv, parent, message, generation, before;
    bool as_root, learns;
    const char *text, *title; /* live until wire_request_free */
    size_t text_len;
    uint64_t from;
    int limit;
    int64_t n; /* ping, pong */
    struct gen_params gen;
    struct request_resume resume[LIMIT_SUBSCRIPTIONS];
    int n_resume;
    void *tree; /* the parsed JSON */
};

struct wire_error {
    int code;                     /* enum protocol_code */
    char id[PROTOCOL_MAX_ID + 1]; /* of the request, if it had a usable one */
    char message[200];
};

/* One whole frame. False: error says what is wrong, there is nothing to free. */
bool wire_parse(const char *bytes, size_t len, struct request *out, struct wire_error *error);
void wire_request_free(struct request *request);

enum { WIRE_MAX_TITLE = 200 }; /* characters */
size_t wire_count_characters(const char *utf8);

/* {"key": "..."}: copies the key; false when the body is anything else. */
bool wire_parse_key(const char *body, size_t len, char *key, size_t key_size);

#endif
