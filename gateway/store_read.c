/* store_read.c - what only looks: pages, paths, sign-ins. Each operation sees one snapshot of the database. Reader thread;
 * store_add_conv also on the writer's. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/log.h"
#include "gateway/store_sql.h"

enum { DEFAULT_PAGE = 50 };

/* The enum lists the reads last. */
bool store_kind_reads(enum store_kind kind) { return kind >= STORE_CONVS; }

static int page_limit(const struct store_op *op) {
    if (op->limit <= 0) return DEFAULT_PAGE;
    return op->limit < STORE_MAX_PAGE ? op->limit : STORE_MAX_PAGE;
}

/* --- rows into results --- */

/* Room for one more at the end of a list, which grows by doubling; NULL: out of memory. */
static void *grow(void *list, int n, size_t size) {
    bool full = n == 0 || (n >= 8 && (n & (n - 1)) == 0);
    if (!full) return list;
    return realloc(list, size * (size_t)(n < 8 ? 8 : 2 * n));
}

bool store_add_conv(struct store_op *op, sqlite3_stmt *row) {
    struct store_conversation *list = grow(op->convs, op->n_convs, sizeof *list);
    if (!list) return false;
    op->convs = list;
    struct store_conversation *conv = &list[op->n_convs];
    *conv = (struct store_conversation){.changed_ms = sqlite3_column_int64(row, 2)};
    column_id(row, 0, &conv->id);
    column_id(row, 3, &conv->live);
    conv->title = column_text(row, 1, NULL);
    if (!conv->title) return false;
    op->n_convs++;
    return true;
}

bool store_add_message(struct store_op *op, sqlite3_stmt *row) {
    struct store_message *list = grow(op->messages, op->n_messages, sizeof *list);
    if (!list) return false;
    op->messages = list;
    struct store_message *message = &list[op->n_messages];
    *message = (struct store_message){
        .role = (enum message_role)sqlite3_column_int(row, 4),
        .state = (enum message_state)sqlite3_column_int(row, 5),
        .created_ms = sqlite3_column_int64(row, 6),
        .base_len = (size_t)sqlite3_column_int64(row, 8),
    };
    column_id(row, 0, &message->id);
    column_id(row, 1, &message->parent);
    column_id(row, 2, &message->conv);
    column_id(row, 3, &message->generation);
    message->text = column_text(row, 7, &message->text_len);
    message->meta = column_text(row, 9, NULL);
    if (!message->text || !message->meta) {
        free(message->text);
        free(message->meta);
        return false;
    }
    op->n_messages++;
    return true;
}

static void reverse_messages(struct store_op *op) {
    for (int i = 0, j = op->n_messages - 1; i < j; i++, j--) {
        struct store_message swap = op->messages[i];
        op->messages[i] = op->messages[j];
        op->messages[j] = swap;
    }
}

/* --- conversations and messages --- */

static enum store_status read_convs(struct db *db, struct store_op *op) {
    int64_t key = INT64_MAX, changed_ms = INT64_MAX;
    int limit = page_limit(op);
    sqlite3_stmt *row;
    if (op->conv.text[0]) {
        row = db_row(db, Q_CONV_FIND, "di", &op->conv, op->user);
        if (!row) return op_missing(db, op, "There is no such conversation.");
        key = sqlite3_column_int64(row, 0);
        changed_ms = sqlite3_column_int64(row, 2);
        db_end(row);
    }
    row = db_row(db, Q_CONV_PAGE, "iiii", op->user, changed_ms, key, (int64_t)limit + 1);
    for (bool on = row != NULL; on; on = db_next(db, row)) {
        op->more = op->n_convs == limit;
        if (op->more) break;
        if (store_add_conv(op, row)) continue;
        db_end(row);
        return op_out_of_memory(op);
    }
    db_end(row);
    return op->more || db->rc == SQLITE_DONE ? STORE_OK : op_trouble(db, op);
}

/* Finds op->conv of op->user: its key, and its title into op. */
static enum store_status open_conv(struct db *db, struct store_op *op, int64_t *conv) {
    sqlite3_stmt *row = db_row(db, Q_CONV_FIND, "di", &op->conv, op->user);
    if (!row) return op_missing(db, op, "There is no such conversation.");
    *conv = sqlite3_column_int64(row, 0);
    free(op->title);
    op->title = column_text(row, 1, NULL);
    db_end(row);
    return op->title ? STORE_OK : op_out_of_memory(op);
}

/* The rows of a query, newest first, turned around: at most `limit`, and max_bytes of text unless one alone has more. */
static enum store_status take_messages(struct db *db, struct store_op *op, sqlite3_stmt *row, int limit, size_t max_bytes) {
    size_t bytes = 0;
    for (bool on = row != NULL; on; on = db_next(db, row)) {
        bytes += (size_t)sqlite3_column_bytes(row, 7);
        op->more = op->n_messages == limit || (op->n_messages > 0 && bytes > max_bytes);
        if (op->more) break;
        if (store_add_message(op, row)) continue;
        db_end(row);
        return op_out_of_memory(op);
    }
    db_end(row);
    if (!op->more && db->rc != SQLITE_DONE) return op_trouble(db, op);
    reverse_messages(op);
    return STORE_OK;
}

static enum store_status read_hist(struct db *db, struct store_op *op) {
    int64_t conv = 0, before = INT64_MAX;
    int limit = page_limit(op);
    enum store_status status = open_conv(db, op, &conv);
    if (status != STORE_OK) return status;
    sqlite3_stmt *row;
    if (op->message.text[0]) {
        row = db_row(db, Q_MESSAGE_FIND, "di", &op->message, op->user);
        bool here = row && sqlite3_column_int64(row, 1) == conv;
        if (here) before = sqlite3_column_int64(row, 0);
        db_end(row);
        if (!row) return op_missing(db, op, "There is no such message.");
        if (!here) return op_refuse(op, STORE_NOT_FOUND, "The message is not in this conversation.");
    }
    row = db_row(db, Q_MESSAGE_PAGE, "iii", conv, before, (int64_t)limit + 1);
    return take_messages(db, op, row, limit, STORE_MAX_PAGE_BYTES);
}

static enum store_status read_learns(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_USER_LEARNS, "i", op->user);
    if (!row) return op_missing(db, op, "There is no such user.");
    op->learns = sqlite3_column_int(row, 0) != 0;
    db_end(row);
    return STORE_OK;
}

static enum store_status read_answers(struct db *db, struct store_op *op) {
    enum store_status status = read_learns(db, op);
    if (status != STORE_OK || !op->learns) return status;
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_ANSWERS, "i", op->user);
    return take_messages(db, op, row, INT_MAX, (size_t)op->limit);
}

/* From the message up to the root, one lookup by key each, then turned around. */
static enum store_status read_path(struct db *db, struct store_op *op) {
    size_t bytes = 0;
    enum store_status status = read_learns(db, op);
    if (status != STORE_OK) return status;
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_BY_ID, "di", &op->message, op->user);
    if (!row) return op_missing(db, op, "There is no such message.");
    column_id(row, 2, &op->conv);
    while (row) {
        bytes += (size_t)sqlite3_column_bytes(row, 7);
        op->more = op->n_messages == STORE_MAX_PATH || (op->n_messages > 0 && bytes > STORE_MAX_PATH_BYTES);
        int64_t parent = op->more ? 0 : sqlite3_column_int64(row, 10);
        bool added = op->more || store_add_message(op, row);
        db_end(row);
        if (!added) return op_out_of_memory(op);
        row = parent ? db_row(db, Q_MESSAGE_STEP, "i", parent) : NULL;
        if (parent && !row) return op_trouble(db, op);
    }
    reverse_messages(op);
    return STORE_OK;
}

static enum store_status read_message(struct db *db, struct store_op *op) {
    bool by_id = op->message.text[0] != '\0';
    sqlite3_stmt *row = by_id ? db_row(db, Q_MESSAGE_BY_ID, "di", &op->message, op->user)
                              : db_row(db, Q_MESSAGE_BY_GENERATION, "di", &op->generation, op->user);
    if (!row) return op_missing(db, op, by_id ? "There is no such message." : "There is no such generation.");
    column_id(row, 2, &op->conv);
    bool added = store_add_message(op, row);
    db_end(row);
    return added ? STORE_OK : op_out_of_memory(op);
}

/* --- who is asking --- */

static enum store_status found_user(struct db *db, struct store_op *op, sqlite3_stmt *row) {
    op->found_user = (struct store_user){0};
    if (!row) return db->rc == SQLITE_DONE ? STORE_OK : op_trouble(db, op);
    op->found_user.id = sqlite3_column_int64(row, 0);
    op->found_user.admin = sqlite3_column_int(row, 2) != 0;
    op->found_user.learns = sqlite3_column_int(row, 3) != 0;
    snprintf(op->found_user.name, sizeof op->found_user.name, "%s", (const char *)sqlite3_column_text(row, 1));
    db_end(row);
    return STORE_OK;
}

static enum store_status count_users(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_USER_COUNT, "");
    if (!row) return op_trouble(db, op);
    op->limit = sqlite3_column_int(row, 0);
    db_end(row);
    return STORE_OK;
}

static enum store_status list_users(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_USER_LIST, "");
    if (!row) return op_trouble(db, op);
    free(op->text);
    op->text = column_text(row, 0, &op->text_len);
    db_end(row);
    return op->text ? STORE_OK : op_out_of_memory(op);
}

static enum store_status run(struct db *db, struct store_op *op) {
    switch (op->kind) {
    case STORE_CONVS:
        return read_convs(db, op);
    case STORE_HIST:
        return read_hist(db, op);
    case STORE_PATH:
        return read_path(db, op);
    case STORE_ANSWERS:
        return read_answers(db, op);
    case STORE_MESSAGE_GET:
        return read_message(db, op);
    case STORE_EXPORT:
        return store_export(db, op);
    case STORE_SEARCH:
        return store_search(db, op);
    case STORE_SESSION_GET:
        return found_user(db, op, db_row(db, Q_SESSION_GET, "bi", op->token_hash, store_now_ms()));
    case STORE_KEY_GET:
        return found_user(db, op, db_row(db, Q_KEY_GET, "b", op->token_hash));
    case STORE_USER_COUNT:
        return count_users(db, op);
    case STORE_USER_LIST:
        return list_users(db, op);
    default:
        return op_refuse(op, STORE_ERROR, "This is not a read.");
    }
}

void store_read_one(struct db *db, struct store_op *op) {
    op->error[0] = '\0';
    op->status = db_do(db, Q_BEGIN_READ, "") ? run(db, op) : op_trouble(db, op);
    if (!sqlite3_get_autocommit(db->sql)) db_do(db, Q_COMMIT, "");
    bool failed = op->status == STORE_FULL || op->status == STORE_ERROR;
    if (failed && !db->in_trouble) log_error("store", "a read failed. %s", op->error);
    db->in_trouble = failed;
}
