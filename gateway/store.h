/* store.h - what is on disk: users, keys, sessions, conversations, messages. SQLite, in threads of its own.
 *
 * The service thread describes an operation in a struct store_op, posts it, and gets it back through store_poll when it is done:
 * a write only after its commit (WAL, synchronous=FULL, group commit: operations that wait together share one), so an
 * acknowledged operation survives kill -9 and power loss. One writer thread is the only one that writes; a reader thread with its
 * own read-only connection serves what only reads. An operation posted after another one's completion sees its effect.
 *
 * Every operation that names a conversation or message names the user too; another user's data is STORE_NOT_FOUND.
 * Strings in an op belong to the op: in-strings are copied by the setters below, out-strings live until store_op_free. */
#ifndef FORESAY_STORE_H
#define FORESAY_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STORE_ID_LEN = 32,
    STORE_MAX_PAGE = 100,               /* rows of a page, whatever limit says */
    STORE_MAX_PAGE_BYTES = 1024 * 1024, /* text of a history page; one message always fits */
    STORE_MAX_PATH = 4096,              /* messages of a path: far beyond any context */
    STORE_MAX_PATH_BYTES = 8 * 1024 * 1024,
    STORE_MAX_QUERY = 256, /* bytes of what is searched for; the rest does not count */
};

/* 32 lower-case hex digits and a terminator. Empty string = none (SQL NULL). */
struct store_id {
    char text[STORE_ID_LEN + 1];
};
void store_id_new(struct store_id *out);                     /* 128 random bits */
bool store_id_parse(struct store_id *out, const char *text); /* false unless exactly 32 hex digits */

/* Stand in the text of a hit before and behind each of its words that was looked for. */
#define SEARCH_HIT   '\x02'
#define SEARCH_PLAIN '\x03'

enum store_status {
    STORE_OK = 0,
    STORE_NOT_FOUND,
    STORE_CONFLICT,  /* the name exists already; or the message is not in the state the operation needs */
    STORE_FULL,      /* the disk is full: nothing was changed */
    STORE_ERROR,     /* I/O trouble; error says what: nothing was changed */
    STORE_DUPLICATE, /* this cid was used before: ids of the first use are in the results, nothing was changed */
};

enum message_state { MESSAGE_DONE, MESSAGE_RUNNING, MESSAGE_STOPPED, MESSAGE_INTERRUPTED, MESSAGE_ERROR, MESSAGE_LENGTH };
const char *message_state_name(enum message_state state); /* the wire's words: "done", "running", ... */

enum message_role { MESSAGE_USER, MESSAGE_ASSISTANT };

struct store_message {
    struct store_id id, parent, conv, generation; /* generation: of the latest run, assistant messages only */
    enum message_role role;
    enum message_state state;
    int64_t created_ms;
    char *text; /* UTF-8, never NULL */
    size_t text_len;
    size_t base_len; /* bytes of text that stood before the running generation began */
    char *meta;      /* JSON object: usage, why, err, ...; opaque to the store; never NULL ("{}") */
};

struct store_conversation {
    struct store_id id, live; /* live: the running generation, or none */
    char *title;
    int64_t changed_ms;
};

struct store_user {
    int64_t id; /* 0 = none */
    char name[65];
    bool admin;
    bool learns; /* allows that guesses come from his own earlier answers */
};

/* A chat that comes in from a file. Its messages stand with parents before children; what it points at is the giver's. */
struct store_chat_message {
    enum message_role role;
    enum message_state state; /* not running */
    int parent;               /* place of an earlier message of the chat; -1: a root */
    int64_t created_ms;
    const char *text, *meta;
    size_t text_len;
};
struct store_chat {
    const char *title;
    int64_t changed_ms;
    struct store_chat_message *messages;
    int n_messages; /* at least one */
};
enum store_next { STORE_NEXT_CHAT, STORE_NEXT_END, STORE_NEXT_BAD };
struct store_import { /* called on the store's writer thread; rewind begins anew, first of all too */
    void *arg;
    void (*rewind)(void *arg);
    enum store_next (*next)(void *arg, struct store_chat *out); /* out lives until the next call */
};

enum store_kind {
    /* writes */
    /* BEGIN_TURN, BEGIN_REGEN, BEGIN_CONT, FINISH and RENAME also give out: time_ms and convs[0], the conversation as it is now,
     * to tell the user's other sockets. A cid used before gives STORE_DUPLICATE with conv, message, answer and generation of its
     * first use. An empty cid is never a duplicate. */
    STORE_BEGIN_TURN,  /* in: user, cid, conv (none = new, then title, or the text's first line), parent/as_root, text (user's);
                        * generation, answer  id are made by the caller. Adds the user's message and an empty running answer.
                        * CONFLICT: the parent is still running,  or not an answer. out: conv, parent, message (user's) */
    STORE_BEGIN_REGEN, /* in: user, cid, message (an assistant one), generation, answer. Adds a running sibling. CONFLICT: it is
                        * still running. out: conv, parent */
    STORE_BEGIN_CONT, /* in: user, cid, message (assistant, interrupted|stopped|length), generation. It is running again, base_len
                       * = its text. out: conv, parent, text/text_len (the base) */
    STORE_CHECKPOINT, /* in: message, generation, text (whole text so far, base included). NOT_FOUND: deleted, or no longer that
                         generation's */
    STORE_FINISH,     /* in: message, generation, text (whole), state, meta. NOT_FOUND as above */
    STORE_RENAME,     /* in: user, conv, title */
    STORE_DELETE,     /* in: user, conv. The conversation and its messages are gone */
    STORE_LEARN,      /* in: user, learns. That is the user's setting from now on; false for new users */
    STORE_IMPORT,     /* in: user, import. Adds all of its chats. CONFLICT: next said BAD, and nothing was added */
    STORE_SESSION_ADD,  /* in: user, token_hash, expires_ms */
    STORE_SESSION_DROP, /* in: token_hash */
    STORE_USER_ADD,     /* store_user_add */
    STORE_USER_KEY,     /* store_user_key */
    STORE_USER_REMOVE,  /* store_user_remove */
    STORE_ADMIN_ENSURE, /* store_admin_ensure */
    /* reads */
    STORE_CONVS, /* in: user, conv (page before this one, or none), limit. out: convs, more */
    STORE_HIST, /* in: user, conv, message (page before this one, or none), limit. out: title, messages oldest first, more. A page
                 * also ends at STORE_MAX_PAGE_BYTES of text */
    STORE_PATH, /* in: user, message. out: conv, learns, messages from the root to message, for a prompt. more:
                 * STORE_MAX_PATH_BYTES of text or STORE_MAX_PATH messages were reached, the oldest are left out */
    STORE_EXPORT, /* in: user, conv (this one alone, or none: all), after_chat, after_message (0, then what the last one gave
                   * out), limit. out: convs[0], the chat of which this is a part, if there was a further one; messages, oldest
                   * first, as many as a page of HIST has; more: it goes on; after_chat, after_message */
    STORE_SEARCH, /* in: user, text (words, all of which must be there; the last one may be a beginning), message (hits before
                   * this one, or none), limit. out: messages (their text an excerpt, meta empty), newest first; convs, the
                   * conversation of each; more; indexing */
    STORE_SESSION_GET, /* in: token_hash. out: found_user (id 0 = unknown or expired; the status is OK) */
    STORE_KEY_GET,     /* in: token_hash of an API key. out: found_user */
    STORE_MESSAGE_GET, /* in: user, message or generation. out: conv, messages[0] */
    STORE_ANSWERS, /* in: user, limit (bytes of text). out: learns; if so, the user's latest answers that are not being written:
                    * conversations by their last change, oldest first, up to limit bytes but at least the last */
    STORE_USER_COUNT, /* store_user_count */
    STORE_USER_LIST,  /* store_user_list */
};

struct store_op {
    enum store_kind kind;
    void *context;                     /* the caller's */
    void (*done)(struct store_op *op); /* called by store_poll on the polling thread; frees op with store_op_free */

    /* in, some also out; see the kinds */
    int64_t user;
    char cid[65];
    struct store_id conv, parent, message, answer, generation;
    bool as_root; /* BEGIN_TURN: parent none means a new root, not the newest branch's end */
    char *text;   /* store_op_set_text */
    size_t text_len;
    char *title; /* store_op_set_title */
    char *meta;  /* store_op_set_meta */
    enum message_state state;
    bool learns;                  /* in: LEARN; out: PATH, ANSWERS */
    unsigned char token_hash[32]; /* SHA-256 or BLAKE2b-256 of a session token or API key */
    int64_t expires_ms;
    int limit;
    const struct store_import *import;
    int64_t after_chat, after_message; /* keys inside the database; EXPORT gives them out, too */

    /* out */
    enum store_status status;
    char error[200]; /* a sentence, with STORE_FULL and STORE_ERROR */
    struct store_user found_user;
    int64_t time_ms; /* recorded as the time of creation or change */
    struct store_message *messages;
    int n_messages;
    struct store_conversation *convs;
    int n_convs;
    bool more;
    bool indexing; /* some older messages cannot be found yet */

    struct store_op *next; /* the store's queues */
};

struct store_op *store_op_new(enum store_kind kind); /* NULL: out of memory */
bool store_op_set_text(struct store_op *op, const char *text, size_t len);
bool store_op_set_title(struct store_op *op, const char *title);
bool store_op_set_meta(struct store_op *op, const char *json);
void store_op_free(struct store_op *op); /* with all results; accepts NULL */

struct store;
struct store_config {
    const char *data_dir;    /* made (0700) if missing; holds foresay.db and a lock, so that two servers cannot share it */
    void (*wake)(void *arg); /* called on a store thread when completions go from none to some */
    void *wake_arg;
    size_t max_queue; /* operations waiting; store_post refuses more. 0 = 4096 */
    bool guest;       /* a command that may run beside a server: waits for no lock, leaves running messages and checkpoints to the
                         server */
};
struct store_error {
    char text[400];
};

/* Opens and migrates. A database from a newer version, a folder that cannot be written, a folder in use: a sentence in error,
 * NULL back. Messages found running are marked interrupted, with the text of their last checkpoint; *n_interrupted counts them.
 */
struct store *store_open(const struct store_config *config, int *n_interrupted, struct store_error *error);
/* Finishes what is queued, closes. Operations not yet polled are completed (done is called) first. Accepts NULL. */
void store_close(struct store *store);

/* Takes ownership of op until its done is called; false when the queue is full (op stays the caller's). */
bool store_post(struct store *store, struct store_op *op);
/* Calls done for every finished operation; returns their number. */
int store_poll(struct store *store);

/* Blocking forms for commands and for start-up, before the service loop runs. */
enum store_status store_run(struct store *store,
                            struct store_op *op); /* posts, waits, does not call done; op stays the caller's */
/* CONFLICT: the name is taken. ERROR also for a name that is no name (1 to 64 bytes of UTF-8 without control characters or outer
 * spaces). */
enum store_status store_user_add(struct store *store, const char *name, bool admin, const unsigned char key_hash[32],
                                 struct store_user *out, struct store_error *error);
/* This key instead of those that the user had; all his sessions end. NOT_FOUND: nobody has the name. */
enum store_status store_user_key(struct store *store, const char *name, const unsigned char key_hash[32], struct store_user *out,
                                 struct store_error *error);
/* The user with all conversations, keys and sessions. NOT_FOUND: nobody has the name. CONFLICT: the last administrator. Takes
 * many transactions; cut off between them, the user is there without a key and with some of the conversations. */
enum store_status store_user_remove(struct store *store, const char *name, struct store_user *out, struct store_error *error);
char *store_user_list(struct store *store, struct store_error *error); /* for people, a line each; to free; NULL: see error */
int store_user_count(struct store *store);                             /* -1: the store cannot say */
/* The first administrator, made ("admin") when there is none. */
enum store_status store_admin_ensure(struct store *store, struct store_user *out, struct store_error *error);

#endif
