/* store.c - the store's threads and queues; see store.h. What an operation does is in store_write.c and store_read.c.
 *
 *  (1) One mutex guards the queues; no SQLite call is made under it.
 *  (2) An operation is in one place: a queue, a thread's hands, or the list of finished ones. max_queue bounds the sum of the two
 * queues; what is in hands is at most one group and one read; finished ones were posted before, and are taken by store_poll. (3)
 * wake is called when the list of finished operations goes from empty to not, outside the mutex. Writer and reader threads end
 * when the store is closing and their queue is empty. */
#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/log.h"
#include "gateway/store_sql.h"

enum { DEFAULT_QUEUE = 4096 };

struct queue {
    struct store_op *first, *last;
};

struct store {
    void (*wake)(void *arg);
    void *wake_arg;
    size_t max_queue;
    int lock; /* of the folder; STORE_FOLDER_BUSY for a guest beside a server */

    pthread_mutex_t mutex;
    pthread_cond_t work;   /* a queue got something, or closing */
    pthread_cond_t result; /* an operation of store_run is finished */
    struct queue writes, reads, finished;
    size_t n_waiting;
    bool closing;
    bool indexes; /* the writer also brings older messages to search while nothing waits */

    struct db writer_db, reader_db; /* each its thread's alone, once that runs */
    pthread_t writer, reader;
    bool writer_runs, reader_runs;
};

static void queue_add(struct queue *queue, struct store_op *op) {
    op->next = NULL;
    if (queue->last)
        queue->last->next = op;
    else
        queue->first = op;
    queue->last = op;
}

static struct store_op *queue_take(struct queue *queue) {
    struct store_op *op = queue->first;
    if (!op) return NULL;
    queue->first = op->next;
    if (!queue->first) queue->last = NULL;
    op->next = NULL;
    return op;
}

/* --- the threads --- */

/* What stands in op->done while store_run waits for it; never called. */
static void run_marker(struct store_op *op) { (void)op; }

struct run_wait {
    bool finished;
};

static void deliver(struct store *store, struct store_op **ops, int n) {
    bool wake = false, ran = false;
    pthread_mutex_lock(&store->mutex);
    for (int i = 0; i < n; i++) {
        if (ops[i]->done == run_marker) {
            ((struct run_wait *)ops[i]->context)->finished = true;
            ran = true;
            continue;
        }
        wake = wake || !store->finished.first;
        queue_add(&store->finished, ops[i]);
    }
    if (ran) pthread_cond_broadcast(&store->result);
    pthread_mutex_unlock(&store->mutex);
    if (wake && store->wake) store->wake(store->wake_arg);
}

/* Waits for work, unless the thread has some of its own (idle: NOTHING_NOW); up to max operations, 0 when the store is closing
 * and there is none. */
enum { NOTHING_NOW = -1 };
static int take(struct store *store, struct queue *queue, struct store_op **ops, int max, bool idle) {
    int n = 0;
    pthread_mutex_lock(&store->mutex);
    while (!idle && !queue->first && !store->closing) pthread_cond_wait(&store->work, &store->mutex);
    if (idle && !queue->first && !store->closing) n = NOTHING_NOW;
    while (n >= 0 && n < max && queue->first) ops[n++] = queue_take(queue);
    if (n > 0) store->n_waiting -= (size_t)n;
    pthread_mutex_unlock(&store->mutex);
    return n;
}

/* The answers go out before the checkpoint: that is housekeeping, nobody waits for it. */
static void *write_loop(void *arg) {
    struct store *store = arg;
    struct store_op *ops[STORE_GROUP_MAX];
    bool idle = store->indexes;
    for (int n; (n = take(store, &store->writes, ops, STORE_GROUP_MAX, idle)) != 0;) {
        if (n == NOTHING_NOW) {
            idle = store_index_some(&store->writer_db);
        } else {
            store_write_group(&store->writer_db, ops, n);
            deliver(store, ops, n);
            idle = store->indexes;
        }
        store_checkpoint(&store->writer_db);
    }
    return NULL;
}

static void *read_loop(void *arg) {
    struct store *store = arg;
    struct store_op *op;
    while (take(store, &store->reads, &op, 1, false) > 0) {
        store_read_one(&store->reader_db, op);
        deliver(store, &op, 1);
    }
    return NULL;
}

/* Signals are the service thread's: none is delivered here. */
static bool start_threads(struct store *store) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    store->writer_runs = pthread_create(&store->writer, NULL, write_loop, store) == 0;
    store->reader_runs = pthread_create(&store->reader, NULL, read_loop, store) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return store->writer_runs && store->reader_runs;
}

/* --- opening and closing --- */

static bool open_databases(struct store *store, const char *dir, int *n_interrupted, struct store_error *error) {
    bool alone = store->lock >= 0;
    size_t size = strlen(dir) + sizeof "/foresay.db";
    char *path = malloc(size);
    if (!path) {
        snprintf(error->text, sizeof error->text, "Out of memory.");
        return false;
    }
    snprintf(path, size, "%s/foresay.db", dir);
    bool opened = db_open(&store->writer_db, path, alone ? DB_WRITER : DB_GUEST, error) &&
                  db_migrate(&store->writer_db, path, alone, error) && db_open(&store->reader_db, path, DB_READER, error);
    free(path);
    return opened && (!n_interrupted || db_recover(&store->writer_db, n_interrupted, error));
}

struct store *store_open(const struct store_config *config, int *n_interrupted, struct store_error *error) {
    int interrupted = 0;
    struct store *store = calloc(1, sizeof *store);
    if (!store) {
        snprintf(error->text, sizeof error->text, "Out of memory.");
        return NULL;
    }
    store->wake = config->wake;
    store->wake_arg = config->wake_arg;
    store->max_queue = config->max_queue ? config->max_queue : DEFAULT_QUEUE;
    store->indexes = !config->guest;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_cond_init(&store->work, NULL);
    pthread_cond_init(&store->result, NULL);
    store->lock = store_folder_open(config->data_dir, config->guest, error);
    if (store->lock == -1 || !open_databases(store, config->data_dir, config->guest ? NULL : &interrupted, error)) goto fail;
    if (!start_threads(store)) {
        snprintf(error->text, sizeof error->text, "The store's threads cannot be started: the limit on processes is reached.");
        goto fail;
    }
    if (n_interrupted) *n_interrupted = interrupted;
    return store;
fail:
    store_close(store);
    return NULL;
}

void store_close(struct store *store) {
    if (!store) return;
    pthread_mutex_lock(&store->mutex);
    store->closing = true;
    pthread_cond_broadcast(&store->work);
    pthread_mutex_unlock(&store->mutex);
    if (store->writer_runs) pthread_join(store->writer, NULL);
    if (store->reader_runs) pthread_join(store->reader, NULL);
    while (store_poll(store) > 0) {
    }
    db_close(&store->reader_db); /* first: the last one to close is the writer, which leaves the WAL copied and empty */
    db_close(&store->writer_db);
    if (store->lock >= 0) close(store->lock);
    pthread_cond_destroy(&store->result);
    pthread_cond_destroy(&store->work);
    pthread_mutex_destroy(&store->mutex);
    free(store);
}

/* --- operations --- */

static bool post_locked(struct store *store, struct store_op *op) {
    if (store->closing || store->n_waiting >= store->max_queue) return false;
    queue_add(store_kind_reads(op->kind) ? &store->reads : &store->writes, op);
    store->n_waiting++;
    pthread_cond_broadcast(&store->work);
    return true;
}

bool store_post(struct store *store, struct store_op *op) {
    assert(op->done);
    pthread_mutex_lock(&store->mutex);
    bool posted = post_locked(store, op);
    pthread_mutex_unlock(&store->mutex);
    return posted;
}

int store_poll(struct store *store) {
    pthread_mutex_lock(&store->mutex);
    struct queue ready = store->finished;
    store->finished = (struct queue){0};
    pthread_mutex_unlock(&store->mutex);
    int n = 0;
    for (struct store_op *op; (op = queue_take(&ready)); n++) op->done(op);
    return n;
}

enum store_status store_run(struct store *store, struct store_op *op) {
    struct run_wait wait = {0};
    void *context = op->context;
    void (*done)(struct store_op *) = op->done;
    op->context = &wait;
    op->done = run_marker;
    pthread_mutex_lock(&store->mutex);
    bool posted = post_locked(store, op);
    while (posted && !wait.finished) pthread_cond_wait(&store->result, &store->mutex);
    pthread_mutex_unlock(&store->mutex);
    op->context = context;
    op->done = done;
    if (!posted) {
        op->status = STORE_ERROR;
        snprintf(op->error, sizeof op->error, "The store's queue is full.");
    }
    return op->status;
}

/* store_run for an operation whose user is all that it gives out, and whether it is to be run again (more). */
static enum store_status run_user_step(struct store *store, struct store_op *op, struct store_user *out, bool *more,
                                       struct store_error *error) {
    if (!op) {
        snprintf(error->text, sizeof error->text, "Out of memory.");
        return STORE_ERROR;
    }
    enum store_status status = store_run(store, op);
    if (status == STORE_OK)
        *out = op->found_user;
    else
        snprintf(error->text, sizeof error->text, "%s", op->error);
    *more = status == STORE_OK && op->more;
    store_op_free(op);
    return status;
}

static enum store_status run_user(struct store *store, struct store_op *op, struct store_user *out, struct store_error *error) {
    bool more;
    return run_user_step(store, op, out, &more, error);
}

static struct store_op *user_op(enum store_kind kind, const char *name, const unsigned char *key_hash) {
    struct store_op *op = store_op_new(kind);
    if (!op) return NULL;
    snprintf(op->found_user.name, sizeof op->found_user.name, "%s", name);
    if (key_hash) memcpy(op->token_hash, key_hash, sizeof op->token_hash);
    return op;
}

enum store_status store_user_add(struct store *store, const char *name, bool admin, const unsigned char key_hash[32],
                                 struct store_user *out, struct store_error *error) {
    if (!store_name_valid(name)) {
        snprintf(error->text, sizeof error->text,
                 "A name has 1 to 64 bytes of UTF-8, without control characters and without spaces at its ends.");
        return STORE_ERROR;
    }
    struct store_op *op = user_op(STORE_USER_ADD, name, key_hash);
    if (op) op->found_user.admin = admin;
    return run_user(store, op, out, error);
}

enum store_status store_user_key(struct store *store, const char *name, const unsigned char key_hash[32], struct store_user *out,
                                 struct store_error *error) {
    return run_user(store, user_op(STORE_USER_KEY, name, key_hash), out, error);
}

enum store_status store_user_remove(struct store *store, const char *name, struct store_user *out, struct store_error *error) {
    const struct timespec pause = {.tv_nsec = 30 * 1000 * 1000}; /* for the writes of a server beside us */
    bool more = false;
    enum store_status status = run_user_step(store, user_op(STORE_USER_REMOVE, name, NULL), out, &more, error);
    while (more) {
        nanosleep(&pause, NULL);
        status = run_user_step(store, user_op(STORE_USER_REMOVE, name, NULL), out, &more, error);
    }
    return status;
}

char *store_user_list(struct store *store, struct store_error *error) {
    struct store_op *op = store_op_new(STORE_USER_LIST);
    char *text = op && store_run(store, op) == STORE_OK ? op->text : NULL;
    if (text) op->text = NULL;
    if (!text) snprintf(error->text, sizeof error->text, "%s", op ? op->error : "Out of memory.");
    store_op_free(op);
    return text;
}

enum store_status store_admin_ensure(struct store *store, struct store_user *out, struct store_error *error) {
    return run_user(store, store_op_new(STORE_ADMIN_ENSURE), out, error);
}

int store_user_count(struct store *store) {
    struct store_op *op = store_op_new(STORE_USER_COUNT);
    int n = op && store_run(store, op) == STORE_OK ? op->limit : -1;
    store_op_free(op);
    return n;
}
