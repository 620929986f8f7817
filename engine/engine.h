/* engine.h - the inference engine: one model, many requests, tokens out as events.
 *
 * Use:
 *     struct engine_config config = engine_config_default();
 *     config.model_path = "model.gguf";
 *     engine_open(&engine, &config, &error);
 *     engine_submit(engine, &request, &id, &error);          any thread
 *     while (...) n = engine_poll(engine, events, 64);       one consumer thread, woken by config.wake
 *     engine_close(engine);
 *
 * Promise: the text of a request is a pure function of (model file, KV type, messages, sampling parameters, seed). Other
 * requests, the order of arrival, thread count, chunking, cache hits and preemption do not change one byte of it. (Unless a
 * request asks for another way to verify guesses than ENGINE_VERIFY_MATCH: see there.)
 *
 * Threads: the engine runs its own (one steps the model, one renders templates and tokenizes; the backend has compute workers).
 * All but engine_open, engine_close and engine_poll may be called from any thread; engine_poll from one thread at a time, and
 * detokenizing happens there. */
#ifndef FORESAY_ENGINE_H
#define FORESAY_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct engine;

enum engine_status {
    ENGINE_OK = 0,
    ENGINE_ERR_ARGUMENT, /* a parameter is out of range */
    ENGINE_ERR_BUSY,     /* the queue of waiting requests is full: try again later */
    ENGINE_ERR_TOO_LONG, /* the prompt does not fit the context, or can never fit the KV memory */
    ENGINE_ERR_MODEL,    /* the model file is broken, foreign or of an unsupported kind */
    ENGINE_ERR_MEMORY,   /* not enough memory */
    ENGINE_ERR_IO,       /* a file could not be read */
    ENGINE_ERR_NUMERIC,  /* the model produced a NaN or an infinity */
    ENGINE_ERR_CLOSED,   /* the engine is shutting down */
};

/* A sentence for people: what is wrong, with names and numbers, and what to do about it. */
struct engine_error {
    char text[512];
};

/* Who guesses tokens ahead. A guess is checked by the model's own draws: it changes how fast a text comes, never the text; but
 * see enum engine_verify. */
enum engine_drafter {
    ENGINE_DRAFTER_AUTO,      /* whatever measurements say is fastest, which may be nothing */
    ENGINE_DRAFTER_NONE,      /* one token a step */
    ENGINE_DRAFTER_SUFFIX,    /* what followed the same words earlier in the text; drafts wherever it can, whatever it costs */
    ENGINE_DRAFTER_NGRAM,     /* what this model often says after these words, from a store; likewise */
    ENGINE_DRAFTER_MODEL,     /* what a smaller model of the same vocabulary would say; likewise */
    ENGINE_DRAFTER_EAGLE,     /* what a head on the model's own states expects, trained for it; likewise */
    ENGINE_DRAFTER_MEDUSA,    /* the same with Medusa's blocks */
    ENGINE_DRAFTER_RECURRENT, /* the same with a head that goes on from its own state */
    ENGINE_DRAFTER_BLOCKWISE, /* Medusa's blocks, of each the likeliest token alone; likewise */
    ENGINE_DRAFTER_MERGE,     /* all of them that there are, the model or head where the others know little; likewise */
};
/* "auto", "none", "suffix" and so on. With a colon files may follow all but "none" and "suffix", if files is given: it points
 * into text then, or is NULL. False for anything else. */
#define ENGINE_DRAFTER_FORMS                                                                                                     \
    "auto, auto:FILES, none, suffix, ngram, ngram:FILE, model:FILE, eagle:FILE, medusa:FILE, blockwise:FILE, "                   \
    "recurrent:FILE, merge or merge:FILES"
#define ENGINE_DRAFTER_NAMES "auto, none, suffix, ngram, model, eagle, medusa, blockwise, recurrent or merge"
bool engine_drafter_parse(const char *text, enum engine_drafter *out, const char **files);
const char *engine_drafter_name(enum engine_drafter drafter);

/* How guesses are checked. MATCH is the engine's promise: the same text as without guesses, byte by byte. In the other exact ways
 * a draft model draws its guesses with noise of its own, and its distribution is weighed against the model's after temperature,
 * penalties, bias and cuts. The text is then another one for the same seed, and depends on what was guessed, but its distribution
 * is the same, and at temperature 0 it is the same text. What they gain over MATCH, whose draft model draws with the model's own
 * noise, is little on chains and more with siblings. Guesses that are not drawn (all but the draft model's) they accept as often
 * as MATCH. With a drafter that is named (not AUTO), on a fresh engine that does nothing else, a seed gives the same text
 * again. */
enum engine_verify {
    ENGINE_VERIFY_DEFAULT,    /* of a request: as the engine is configured; of an engine: MATCH */
    ENGINE_VERIFY_MATCH,      /* the model's own draws walk the guesses */
    ENGINE_VERIFY_TOKEN,      /* exact; chains, token by token (Leviathan et al. 2211.17192, Chen et al. 2302.01318) */
    ENGINE_VERIFY_BLOCK,      /* exact; chains as a whole (Sun et al. 2403.10444) */
    ENGINE_VERIFY_MULTI_STEP, /* exact; trees, one sibling after the other (SpecInfer, Miao et al. 2305.09781) */
    ENGINE_VERIFY_TRAVERSAL,  /* exact; trees, from the leaves to the root (Weng et al. 2505.12398) */
    ENGINE_VERIFY_TYPICAL, /* LOSSY: takes what the model finds typical, not what it would draw (Medusa, Cai et al. 2401.10774);
                                 changes the distribution, the more the hotter */
};
#define ENGINE_VERIFY_FORMS "match, token, block, multi-step, traversal or typical"
/* False for anything but these. */
bool engine_verify_parse(const char *text, enum engine_verify *out);
const char *engine_verify_name(enum engine_verify verify);

/* Why a step had no draft for an answer. */
enum engine_draft_off {
    ENGINE_DRAFT_ON,          /* it had one */
    ENGINE_DRAFT_OFF_NONE,    /* the drafter is none */
    ENGINE_DRAFT_OFF_PROMPTS, /* prompts were computed beside it: there rows are dear */
    ENGINE_DRAFT_OFF_GUESS,   /* nobody had a guess */
    ENGINE_DRAFT_OFF_COST,    /* by all measurements it would not have paid */
    ENGINE_DRAFT_OFF_LOSS,    /* of late drafts cost more than they gained */
    ENGINE_DRAFT_OFF_ROOM,    /* no row or no KV block was left */
    ENGINE_DRAFT_OFF_COUNT
};
/* "", "none", "prompts", "no guess", "cost", "loss", "room" */
const char *engine_draft_off_name(enum engine_draft_off off);

enum { ENGINE_DRAFT_DEPTHS = 8 };

struct engine_config {
    const char *model_path; /* read during engine_open only */
    const char *isa;        /* NULL or "auto", "scalar", "avx2", "avxvnni", "avx512", "amx" */
    /* Keys and values: "f16", "int8" (half the memory, faster), "int4" (a third); NULL or "auto": int8, where the model's heads
     * suit it. */
    const char *kv_type;
    const char *activations; /* inputs of products: "int8", "mixed", "int16"; NULL or "auto": see model_activations */
    int n_threads;           /* compute threads; 0 = as many as this process may use */
    int ctx_len;             /* tokens a sequence may hold; 0 = the model's own limit, at most 8192 */
    int max_seqs;            /* sequences that run at once */
    int max_waiting;         /* requests that wait behind them; one more is ENGINE_ERR_BUSY */
    int step_tokens;         /* token budget of one step: decode rows plus prefill chunks */
    size_t kv_bytes;         /* memory for keys and values; 0 = enough for max_seqs sequences of moderate length, see engine.c */
    enum engine_drafter drafter; /* of requests that ask for AUTO; NONE: no memory for drafts, so none can be asked for */
    /* An n-gram store that belongs to this model, a draft model (GGUF) of its vocabulary or a drafting head (GGUF) that was
     * trained for it, or a store and one of these with a comma between; NULL = none. Without a store the binary's own serves, if
     * it has one for this model, and so does its own head where AUTO, MERGE or RECURRENT has no other; the word "none" among the
     * files forbids both. Read during engine_open only. */
    const char *draft_files;
    enum engine_verify verify; /* of requests that do not say */
    int draft_max;             /* tokens a sequence may guess in one step, 1 .. 63 */
    int draft_width;           /* guesses for the same place: 1 = none but the likeliest (chains), more = token trees */
    int user_texts;            /* users whose own earlier texts are kept to guess from (engine_user_text); 0 = nobody's */
    int user_text_tokens;      /* of each so many of the latest tokens, at least half of it; 12 bytes a token */
    int user_tune_idle_ms;     /* when nothing has run for so long, stores of n-grams are made of users' texts; -1 = never */
    bool prefix_cache;         /* keep finished blocks and reuse them for equal prefixes */
    void (*wake)(void *arg);   /* engine's thread: events went from none to some; must not block, must not call the engine */
    void *wake_arg;
};
struct engine_config engine_config_default(void);

enum engine_role { ENGINE_ROLE_SYSTEM, ENGINE_ROLE_USER, ENGINE_ROLE_ASSISTANT };
struct engine_message {
    enum engine_role role;
    const char *text; /* UTF-8; special tokens in it are plain text */
    size_t len;
};

struct engine_bias {
    int32_t token;
    float bias; /* added to the logit, -100 .. 100 */
};

struct engine_sampling {
    float temperature;       /* 0 = greedy; 0 .. 5 */
    float top_p;             /* (0, 1], 1 = off */
    float min_p;             /* [0, 1), 0 = off: drop tokens below min_p * the best one's probability */
    int top_k;               /* 0 = off */
    float repeat_penalty;    /* > 0, 1 = off: divides positive and multiplies negative logits of seen tokens */
    float frequency_penalty; /* -2 .. 2, 0 = off: subtracted per occurrence in the answer so far */
    float presence_penalty;  /* -2 .. 2, 0 = off: subtracted once a token has occurred in the answer */
    int penalty_last_n;      /* how many of the latest tokens (prompt included) repeat_penalty looks at; 0 = none */
    uint64_t seed;           /* the noise of position p is Philox(seed, p, token) */
    const struct engine_bias *bias;
    int n_bias; /* at most ENGINE_MAX_BIAS */
};
struct engine_sampling engine_sampling_default(void); /* temperature 0.7, top_p 0.95, seed 0, everything else off */

/* log softmax of the model's own logits: before temperature, penalties, bias and cuts, the same for every sampling parameter. */
struct engine_logprob {
    int32_t token;
    float logprob;
};

enum {
    ENGINE_MAX_BIAS = 300,
    ENGINE_MAX_TOP_LOGPROBS = 20,
    ENGINE_MAX_STOP = 8,       /* stop strings a request */
    ENGINE_MAX_STOP_LEN = 128, /* bytes of one */
    ENGINE_TEXT_MAX = 256,     /* bytes of text in one event */
    ENGINE_TRACE_NODES = 64,   /* of one round, node 0 included */
};

/* Everything is copied by engine_submit. */
struct engine_request {
    /* Either a chat ... */
    const struct engine_message *messages;
    int n_messages;
    bool continue_last; /* the last message is the assistant's and unfinished: go on exactly after it */
    bool drop_oldest;   /* when the chat does not fit, leave out the oldest turns (never the system message) instead of failing */
    /* ... or, with n_messages == 0, plain text ... */
    const char *prompt;
    size_t prompt_len;
    /* ... or, with n_ids > 0 and no messages, tokens as they are; special ones mean what they say. */
    const int32_t *ids;
    int n_ids;

    int max_tokens; /* 0 = until the context is full */
    struct engine_sampling sampling;
    const char *const *stop; /* n_stop strings that end the answer and are not part of it */
    int n_stop;
    enum engine_drafter drafter; /* AUTO = as the engine is configured */
    enum engine_verify verify;   /* DEFAULT = as the engine is configured */
    bool trace;                  /* TRACE events tell of every round that checked a guess; memory: 50 KiB */
    bool logprobs;       /* TEXT events carry log-probabilities; memory: 8 * (1 + n_top_logprobs) bytes a token of the answer */
    int n_top_logprobs;  /* how many of the likeliest tokens beside the one drawn, 0 .. ENGINE_MAX_TOP_LOGPROBS */
    bool ignore_eos;     /* for measurements: an end token is sampled but does not end the answer */
    uint64_t cache_salt; /* requests share cached prefixes only with requests of the same salt (one per user) */
    uint64_t user_key;   /* guesses may come from what engine_user_text was given for this key; 0 = nobody's */
};

/* Returns at once. What the prompt itself causes (too long, out of memory) arrives as the request's DONE event. */
int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t *id, struct engine_error *error);
/* Takes effect at the next step: all blocks return, a DONE event with ENGINE_FINISH_CANCELLED follows. Unknown ids are ignored
 * (the request may just have finished). */
void engine_cancel(struct engine *engine, uint64_t id);

/* --- a user's own earlier texts ---
 *
 * What somebody was answered before is a good guess at what he is answered now. Each text is filed under its user's key and
 * reaches guesses for requests with that key alone; guesses never change a text. Texts are kept in memory, the latest of each
 * user, of the users those seen last. */

/* A text more, copied; it can be found some milliseconds later. ENGINE_ERR_BUSY: too many wait, this one is left out.
 * ENGINE_ERR_ARGUMENT: key is 0, or this engine keeps none (user_texts 0, drafter none). */
int engine_user_text(struct engine *engine, uint64_t user_key, const char *text, size_t len);
/* Is there something of this user, or on its way? It goes when he is forgotten, or when user_texts others were seen later. */
bool engine_knows_user(struct engine *engine, uint64_t user_key);
/* On return nothing of this user is left, nor comes back: from the next step on no guess is made of it. */
void engine_forget_user(struct engine *engine, uint64_t user_key);

enum engine_event_kind {
    ENGINE_EVENT_STARTED, /* the prompt is rendered and tokenized: prompt_tokens, dropped_messages are known */
    ENGINE_EVENT_PREFILL, /* progress of a long prompt: n_tokens of usage.prompt_tokens are computed */
    ENGINE_EVENT_TEXT,    /* text: whole UTF-8 characters, never part of a stop string */
    ENGINE_EVENT_TRACE,   /* trace, when the request asked for it; before the round's tokens, though text held back may follow */
    ENGINE_EVENT_DONE,    /* the last event of a request */
};

enum engine_finish {
    ENGINE_FINISH_STOP,      /* end token or stop string */
    ENGINE_FINISH_LENGTH,    /* max_tokens reached */
    ENGINE_FINISH_CONTEXT,   /* the context is full */
    ENGINE_FINISH_CANCELLED, /* engine_cancel */
    ENGINE_FINISH_ERROR,     /* see status and message */
};

struct engine_usage {
    int prompt_tokens, cached_tokens, output_tokens;
    int dropped_messages;
    int draft_rounds, drafted_tokens, accepted_tokens; /* steps that checked a guess; tokens guessed; of these right */
    int own_tokens;                                    /* of the latter: guessed from the user's own earlier texts */
    int accepted_at[ENGINE_DRAFT_DEPTHS]; /* of the latter: the first guesses of a round, the second ...; the last: and deeper */
    int model_rounds;                     /* of the rounds: the draft model guessed */
    enum engine_drafter drafter;          /* who was to guess */
    enum engine_verify verify;            /* how guesses were checked */
    enum engine_draft_off draft_off;      /* why most of the steps without a guess had none */
    int dropped_traces;                   /* rounds whose TRACE nobody fetched in time */
    float queue_ms, prefill_ms, ttft_ms, decode_ms; /* ttft: submit to first token; decode: first to last token */
};

/* One round: what was guessed ahead, and how far the model drew the same. A slow consumer loses rounds (of 64 that wait, the next
 * ones), never text. */
struct engine_trace_node {
    int32_t token;
    float chance;   /* that the draws reach it, as it was estimated before */
    int8_t parent;  /* stands before it; -1 for node 0 */
    uint8_t source; /* enum engine_drafter: who guessed it; AUTO for node 0 */
    bool accepted;  /* the draws reached it */
    bool is_own;    /* the guess came from the user's earlier texts, or from a store of them */
};
struct engine_trace {
    int round;      /* the answer's rounds are counted from 1, as in usage.draft_rounds; a number that is missing was dropped */
    int first;      /* tokens of the answer before it */
    int n_accepted; /* the answer's next tokens were guessed right ... */
    int32_t bonus;  /* ... and this one was drawn behind them; an end token is not part of the text */
    int n_nodes;    /* node 0 is the last token before the round, the others are guesses: rows computed for this request */
    struct engine_trace_node nodes[ENGINE_TRACE_NODES];
};

struct engine_event {
    uint64_t id;
    enum engine_event_kind kind;
    int n_tokens;   /* TEXT: tokens this text completes, may be 0 (rest of a long piece); PREFILL: see above */
    int n_accepted; /* TEXT: of these, guessed ahead and right. Where one event has a round's text it is what the round accepted;
                     * where it has several rounds, their sum; where it has a part of one, that part's. All events together say
                     * usage.accepted_tokens, but for tokens whose text a stop string or the end swallowed */
    int text_len;
    char text[ENGINE_TEXT_MAX]; /* not terminated */
    struct engine_trace trace;  /* TRACE */
    int32_t token;              /* TEXT: the last token of it */
    /* TEXT, when the request asked for it: the token and the likeliest ones, best first. Then each token has an event of its own,
     * which comes when the first of its text does: n_tokens is 1 and n_logprobs the length, or both are 0 (rest of a long text).
     * Tokens whose text a stop string swallows have none. */
    int n_logprobs;
    struct engine_logprob logprobs[1 + ENGINE_MAX_TOP_LOGPROBS];
    /* DONE only: */
    enum engine_finish finish;
    int status; /* enum engine_status, with FINISH_ERROR */
    char message[256];
    struct engine_usage usage; /* STARTED: prompt_tokens and dropped_messages only */
};

/* Takes up to max events, in order for each request; returns their number, 0 when there are none. Never blocks. After a full
 * array ask again: wake is called once nothing was left. */
int engine_poll(struct engine *engine, struct engine_event *events, int max);
/* Blocks until there is an event or timeout_ms passed: for tools and tests without an event loop. */
void engine_wait(struct engine *engine, int timeout_ms);

/* On failure *out is NULL and error says why; loading reports to the log. */
int engine_open(struct engine **out, const struct engine_config *config, struct engine_error *error);
/* Cancels what runs, ends the threads. Accepts NULL. */
void engine_close(struct engine *engine);

/* The bytes that a token adds to a text; they live as long as the engine. */
struct engine_token_text {
    const char *bytes;
    size_t len;
    bool is_utf8;    /* whole characters */
    bool is_control; /* it adds nothing to a text: the bytes are its name; len 0 for ids outside the vocabulary */
};
/* Any thread. */
struct engine_token_text engine_token_text(const struct engine *engine, int32_t token);

/* Facts about the loaded model; constant, strings live as long as the engine. */
struct engine_info {
    const char *model_name;   /* the file's name without ending and quantization */
    const char *architecture; /* "llama" */
    const char *quantization; /* the most frequent weight type: "Q4_1" */
    const char *isa;
    int n_threads, ctx_len, vocab_size, max_seqs;
    uint64_t n_parameters, weight_bytes, kv_bytes;
    bool can_chat;  /* a chat template is known for this model */
    bool can_learn; /* engine_user_text has a use */
};
void engine_info(const struct engine *engine, struct engine_info *out);

/* Steps one after the other in which the same number of sequences decoded and no prompt was computed: tokens and time between the
 * ends of the first and of the last. */
struct engine_even {
    int n_seqs;
    uint64_t n_tokens;
    double ms;
};

/* A snapshot of counters; cheap. */
struct engine_stats {
    int n_running, n_waiting;
    int blocks_total, blocks_free, blocks_cached, blocks_used; /* free + cached + used == total */
    int kv_tokens;     /* computed by running sequences; they lie in blocks_used blocks of 16 (shared ones count once there) */
    double stepped_ms; /* when the latest step ended, on the monotonic clock */
    uint64_t steps, prompt_tokens, cached_tokens, output_tokens, preemptions, finished, cancelled, failed;
    uint64_t draft_rounds, drafted_tokens, accepted_tokens; /* as in usage; one round a sequence */
    uint64_t accepted_at[ENGINE_DRAFT_DEPTHS], model_rounds;
    uint64_t draft_off[ENGINE_DRAFT_OFF_COUNT]; /* steps without a guess, one a sequence, by the reason */
    double asked_ms;                            /* what asking the draft model took */
    struct engine_even even;                    /* the longest since the engine last began to work: for measurements */
};
void engine_stats(struct engine *engine, struct engine_stats *out);

/* --- command line tools: `foresay generate`, `bench`, `perplexity`, `tokenize`, `inspect` ---
 * argv[0] is the command's name. Returns the exit status. engine_tools ends with a NULL name. */
struct engine_tool {
    const char *name, *summary; /* one line for --help */
    int (*run)(int argc, char **argv);
};
extern const struct engine_tool engine_tools[];

#endif
