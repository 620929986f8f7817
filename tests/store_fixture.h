/* store_fixture.h - a store in a temporary folder, and operations in one line, for test_store.c and test_store_crash.c. */
#ifndef FORESAY_STORE_FIXTURE_H
#define FORESAY_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/store.h"

struct fixture {
    char dir[200];
    struct store *store;
    struct store_user ann, bob;
};

static inline void folder_make(char *dir, size_t size) {
    const char *base = getenv("TMPDIR");
    snprintf(dir, size, "%s/foresay-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
}

static inline void folder_remove(const char *dir) {
    DIR *folder = opendir(dir);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) unlinkat(dirfd(folder), entry->d_name, 0);
    }
    closedir(folder);
    rmdir(dir);
}

static inline struct store *open_store(const char *dir, int *n_interrupted) {
    struct store_error error = {""};
    struct store_config config = {.data_dir = dir};
    struct store *store = store_open(&config, n_interrupted, &error);
    if (!store) print_error("%s\n", error.text);
    assert_non_null(store);
    return store;
}

/* Runs and frees an operation of which only the status matters. */
static inline enum store_status run_free(struct store *store, struct store_op *op) {
    enum store_status status = store_run(store, op);
    store_op_free(op);
    return status;
}

static inline struct store_op *op_for(enum store_kind kind, int64_t user) {
    struct store_op *op = store_op_new(kind);
    assert_non_null(op);
    op->user = user;
    return op;
}

/* BEGIN_TURN, not run yet: conv and parent may be NULL. */
static inline struct store_op *turn_op(int64_t user, const char *cid, const struct store_id *conv, const struct store_id *parent,
                                       const char *text) {
    struct store_op *op = op_for(STORE_BEGIN_TURN, user);
    snprintf(op->cid, sizeof op->cid, "%s", cid);
    if (conv) op->conv = *conv;
    if (parent) op->parent = *parent;
    store_id_new(&op->answer);
    store_id_new(&op->generation);
    assert_true(store_op_set_text(op, text, strlen(text)));
    return op;
}

static inline struct store_op *answer_op(enum store_kind kind, const struct store_id *message, const struct store_id *generation,
                                         const char *text) {
    struct store_op *op = store_op_new(kind);
    assert_non_null(op);
    op->message = *message;
    op->generation = *generation;
    op->state = MESSAGE_DONE;
    assert_true(store_op_set_text(op, text, strlen(text)));
    return op;
}

/* The same for CHECKPOINT and FINISH of the answer that `turn` began. */
static inline enum store_status write_answer(struct store *store, enum store_kind kind, const struct store_op *turn,
                                             const char *text, enum message_state state) {
    struct store_op *op = answer_op(kind, &turn->answer, &turn->generation, text);
    op->state = state;
    return run_free(store, op);
}

/* A turn with a finished answer; the caller frees. */
static inline struct store_op *whole_turn(struct store *store, int64_t user, const struct store_id *conv, const char *text,
                                          const char *answer) {
    struct store_op *op = turn_op(user, "", conv, NULL, text);
    assert_int_equal(store_run(store, op), STORE_OK);
    assert_int_equal(write_answer(store, STORE_FINISH, op, answer, MESSAGE_DONE), STORE_OK);
    return op;
}

static inline int64_t add_user(struct store *store, const char *name) {
    struct store_user user;
    struct store_error error = {""};
    unsigned char hash[32] = {0};
    snprintf((char *)hash, sizeof hash, "%s", name);
    assert_int_equal(store_user_add(store, name, false, hash, &user, &error), STORE_OK);
    return user.id;
}

static inline int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    folder_make(f->dir, sizeof f->dir);
    f->store = open_store(f->dir, NULL);
    f->ann.id = add_user(f->store, "ann");
    f->bob.id = add_user(f->store, "bob");
    return 0;
}

static inline int tear_down(void **state) {
    struct fixture *f = *state;
    store_close(f->store);
    folder_remove(f->dir);
    free(f);
    return 0;
}

static inline void reopen(struct fixture *f, int *n_interrupted) {
    store_close(f->store);
    f->store = open_store(f->dir, n_interrupted);
}

/* A connection of the test's own. */
static inline sqlite3 *open_sql(const char *dir) {
    char path[300];
    sqlite3 *sql = NULL;
    snprintf(path, sizeof path, "%s/foresay.db", dir);
    assert_int_equal(sqlite3_open(path, &sql), SQLITE_OK);
    sqlite3_busy_timeout(sql, 5000);
    sqlite3_exec(sql, "PRAGMA wal_autocheckpoint = 0", NULL, NULL, NULL);
    sqlite3_db_config(sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    return sql;
}

/* Takes what the third version brought out of a database, by a connection that knows the words of its index. */
#define BEFORE_SEARCH                                                                                                            \
    "DROP TRIGGER search_add; DROP TRIGGER search_drop; DROP TRIGGER search_out; DROP TRIGGER search_in; "                       \
    "DROP TRIGGER search_conv; DROP TABLE search; DROP VIEW search_rows; DROP TABLE search_backlog; "                            \
    "DROP TRIGGER user_given; DROP TABLE users_given; "

static inline void sql_do(sqlite3 *sql, const char *text) {
    assert_int_equal(sqlite3_exec(sql, text, NULL, NULL, NULL), SQLITE_OK);
}

/* The first value of a statement's first row, as text. */
static inline void sql_value(sqlite3 *sql, const char *text, char *out, size_t size) {
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_prepare_v2(sql, text, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    snprintf(out, size, "%s", (const char *)sqlite3_column_text(row, 0));
    sqlite3_finalize(row);
}

#endif
