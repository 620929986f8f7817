/* openai_in.h - the body of a chat completion or completion request, checked and turned into a struct. No I/O, any thread. */
#ifndef FORESAY_OPENAI_IN_H
#define FORESAY_OPENAI_IN_H

#include "gateway/wire_in.h"

enum { OPENAI_MAX_MESSAGES = 2048, OPENAI_MAX_CHOICES = 16 };

struct openai_request {
    struct engine_message *messages; /* texts live until openai_request_free */
    int n_messages;
    const char *prompt; /* of a completion; lives as long */
    size_t prompt_len;
    const char *model; /* as asked for; NULL = none */
    struct gen_params gen;
    int n_choices; /* answers to the same prompt */
    bool stream, include_usage;
    void *tree;
    char **joined; /* texts that were sent in parts */
    int n_joined;
};

struct openai_refusal {
    char param[64]; /* empty = none */
    char message[200];
};

/* What is asked for: an answer to messages, or a text that goes on after a prompt. */
enum openai_kind { OPENAI_CHAT, OPENAI_COMPLETION };

/* False: refusal says why, there is nothing to free. */
bool openai_parse(enum openai_kind kind, const char *body, size_t len, struct openai_request *out,
                  struct openai_refusal *refusal);
void openai_request_free(struct openai_request *request);

#endif
