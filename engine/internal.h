/* internal.h - what the files of the running engine share: struct engine, struct request and the way of a request between
 * threads.
 *
 *     requests.c  engine_submit -> prompts queue -> tokenizer thread renders and tokenizes -> inbox
 *     step.c      engine thread: inbox and cancels -> scheduler -> model -> sampler -> news (tokens ready, finished)
 *     events.c    engine_poll, on the consumer's thread: news -> detokenizer -> events; frees the request after DONE
 *
 *  (1) engine->lock guards what is marked "lock" below; nothing slow happens under it.
 *  (2) A request belongs to one thread at a time, as its stage says. Sampled tokens are the exception: the engine thread
 *    appends them,
 *      the consumer reads those below n_ready, which changes under the lock only.
 *  (3) A request is on the news list when its consumer has something to look at. Tokens wait in the request's own buffer, sized
 *    when
 *      its prompt was known, so a slow consumer costs no memory and loses nothing.
 *  (4) Only the engine thread finishes a request, and it has let go of it by then. engine_poll frees it once DONE is given out.
 *  (5) engine->live has every request that is not freed; there are at most max_seqs + max_waiting. */
#ifndef FORESAY_INTERNAL_H
#define FORESAY_INTERNAL_H

#include <pthread.h>

#include "engine/chat_template.h"
#include "engine/detokenizer.h"
#include "engine/draft.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/kv_cache.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/tokenizer.h"
#include "engine/user_text.h"

enum request_stage {
    REQUEST_QUEUED,     /* in the prompts queue */
    REQUEST_TOKENIZING, /* the tokenizer thread has it */
    REQUEST_INBOX,      /* for the engine thread to take */
    REQUEST_SCHEDULED,  /* the engine thread has it */
    REQUEST_FINISHED,   /* only the consumer still has it */
};

/* What was submitted; freed once it is tokenized. */
struct request_input {
    struct engine_message *messages;
    int n_messages;
    bool continue_last, drop_oldest;
    const char *prompt;
    size_t prompt_len;
    const int32_t *ids;
    int n_ids;
};

struct request {
    uint64_t id;
    struct request *live_prev, *live_next; /* lock */
    struct request *queue_next;            /* lock: prompts queue or inbox */
    struct request *news_next;             /* lock */
    bool has_news;                         /* lock: is on the news list */
    enum request_stage stage;              /* lock */
    bool cancelled;                        /* lock */

    struct request_input *input; /* submitter, then tokenizer thread */
    struct sequence seq;         /* tokenizer thread, then engine thread */
    struct engine_sampling sampling;
    struct engine_bias *bias; /* owned copy behind sampling.bias */
    bool wants_logprobs;
    int n_top;                       /* likeliest tokens beside the one drawn */
    struct engine_logprob *logprobs; /* [tokens of the answer][1 + n_top]; written and read like seq.tokens */
    bool *is_guess;                  /* [tokens of the answer] it was guessed right; likewise */
    bool wants_trace;
    struct engine_trace *traces; /* [TRACE_KEPT], a ring, see trace.c; NULL = not asked for */
    int n_traces, n_traces_lost; /* written so far, and those there was no room for; engine thread */
    int n_traces_freed;          /* of these the consumer has read; engine thread */
    bool ignore_eos;
    int max_output; /* tokens; 0 = until the context is full */
    enum engine_drafter drafter;
    enum engine_verify verify; /* not DEFAULT */
    uint64_t user_key;         /* whose earlier texts guesses may come from; 0 = nobody's */
    struct draft_slot *draft;  /* NULL = has none; engine thread, as the counts are */
    int last_logits;           /* of this step: the row of logits that its last token was drawn from; -1 = it drew none */
    uint64_t last_path;        /* of this step: the nodes of its draft that are text by now, as a set; 0 = it had no draft */
    int n_draft_rounds, n_model_rounds, n_drafted, n_accepted, n_own;
    int n_accepted_at[ENGINE_DRAFT_DEPTHS], n_draft_off[ENGINE_DRAFT_OFF_COUNT];
    int status; /* trouble with the prompt, with its sentence; tokenizer thread, then engine thread */
    char message[256];
    int dropped_messages;
    double submitted_ms, scheduled_ms, first_token_ms, last_token_ms; /* engine thread, after submit */
    enum engine_finish ending;                                        /* engine thread: why it is about to finish */
    bool is_ending;

    /* The engine thread's news, lock. */
    bool is_started, is_finished;
    int n_ready;                       /* sampled tokens that the consumer may read */
    int n_traces_ready, n_traces_done; /* rounds that it may read, and that it has read */
    int n_prefilled;                   /* prompt tokens computed, when the prompt takes several steps */
    enum engine_finish finish;
    struct engine_usage usage;

    /* The consumer's own. */
    struct detokenizer detokenizer;
    bool gave_started, is_flushed;
    int gave_prefilled, n_read, n_read_at_stop, n_traces_read;
    int n_unreported, n_unreported_right; /* tokens read whose text has not come out yet; of these, guessed right */
    int n_reported;                       /* tokens whose log-probabilities are given out, and the bytes of their text */
    size_t reported_bytes;
    int32_t last_token;
};

/* The draws of one request in one step. */
struct drawing {
    struct request *request;
    int first_row; /* the first of its rows among the logits; node i of its draft has row first_row + i */
    int first;     /* tokens of the answer before them */
    struct tree_walk walk;
    int32_t drawn[TREE_MAX_NODES];
    int n_drawn;
    bool is_over; /* the text ends: */
    enum engine_finish finish;
};

struct request_queue {
    struct request *head, *tail;
};

struct engine {
    struct engine_config config; /* with the defaults filled in */
    struct engine *sibling;      /* whose backend and model these are, or NULL: engine_open_beside */
    struct backend backend;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct kv_pool pool;
    struct kv_cache cache;
    struct scheduler scheduler;
    struct sampler sampler;
    struct drafting drafting;
    struct user_texts user_texts; /* has its own lock */
    int limit;                    /* tokens one sequence may have: the context, or the whole KV pool when that is smaller */
    char *model_name;
    bool each_token; /* every token gets an event of its own, also without text: for tools and tests */

    /* One step, sized at open. Engine thread. */
    int32_t *row_tokens;          /* [step_tokens] */
    struct kernels_seq *row_seqs; /* [max_seqs] */
    struct request **row_owners;  /* [max_seqs] of row_seqs */
    int32_t *logit_rows;          /* [max_seqs + DRAFT_ROWS] */
    struct drawing *sampled;      /* [max_seqs] whose logits the step computed, n_sampled of them */
    struct drawing **going;       /* [max_seqs] of these: who draws (again) */
    struct sampler_draw *draws;   /* [max_seqs] */
    struct request **ending;      /* [max_seqs + max_waiting] */
    int n_sampled;
    int n_ending;

    pthread_t engine_thread, tokenizer_thread;
    bool has_engine_thread, has_tokenizer_thread;
    pthread_mutex_t lock;
    pthread_cond_t work, prompts, news;        /* for the engine thread, the tokenizer thread, engine_wait */
    bool closing;                              /* lock */
    bool has_cancels;                          /* lock */
    int n_to_gather;                           /* lock */
    bool is_held, rests;                       /* lock: engine_hold, and that the engine thread has seen it */
    bool has_user_texts;                       /* lock: some wait for the tokenizer thread */
    bool must_wake, is_urgent;                 /* lock: the news list went from empty to not empty; with news that cannot wait */
    double woke_ms;                            /* when the consumer was told last; the engine's thread */
    double news_ms;                            /* not sooner again, of what can wait */
    uint64_t n_ids;                            /* lock */
    int n_live;                                /* lock */
    struct request *live;                      /* lock */
    struct request_queue prompts_queue, inbox; /* lock */
    struct request *news_head, *news_tail;     /* lock; linked by news_next */
    struct engine_stats stats;                 /* lock */
    struct engine_stats counts;                /* engine thread: running totals, copied to stats after each step */
    struct engine_even even;                   /* engine thread: that of the latest step, n_seqs = 0: it computed a prompt */
};

double now_ms(void);

void queue_push(struct request_queue *queue, struct request *r);
struct request *queue_pop(struct request_queue *queue);

/* engine.c: the context of a model that was trained for ctx_train tokens, when the configuration names none. */
int engine_default_ctx(int ctx_train);

/* requests.c */
void *tokenizer_thread_run(void *engine);
void request_free(struct request *r);
/* The consumer has seen a stop string: the engine thread need not go on. */
void request_stop(struct engine *e, struct request *r);

/* trace.c. Memory for n tokens of an answer; false: there is none. */
bool trace_open(struct request *r, int n);
/* Engine thread: the draws of a step are made, and the first n_accepted of them were guessed. */
void trace_round(const struct engine *e, const struct drawing *d, int n_accepted);
/* Lock held, engine thread: what is written is the consumer's now, what it has read is free. */
void trace_publish(struct request *r);
/* Consumer, n rounds being ready: the next one begins with the next token to read, or NULL. */
const struct engine_trace *trace_next(const struct request *r, int n);

/* step.c */
void *engine_thread_run(void *engine);

/* From now on every token has its own TEXT event. Before the first submit. */
void engine_events_per_token(struct engine *e);
/* For tests: of news that can wait the consumer is told so much later than of others. Before the first submit. */
void engine_delay_news(struct engine *e, double ms);
/* For tests: the engine does nothing until n requests wait for it, which then begin together. While it has none. */
void engine_gather(struct engine *e, int n);
/* For the bench: an engine with the weights of another, which is opened alike and closed after it. Of the two one at least must
 * be held or without work: a model computes one step at a time. */
int engine_open_beside(struct engine **out, const struct engine_config *config, struct engine *sibling,
                       struct engine_error *error);
/* For the bench: the engine stands still until it is let go, whatever it has to do. Returns when the step that is under way has
 * ended, and what it gave can be polled. */
void engine_hold(struct engine *e);
void engine_let_go(struct engine *e);

#endif
