/* store_write.c - what changes the database, and the transaction around it.
 *
 *  (1) Operations that waited together share one transaction, and so one fsync. Each runs in a savepoint: one that fails undoes
 * itself only. (2) When the transaction itself is lost (the disk is full), each operation is tried again alone, so a large one
 * does not take the small ones with it. What fails then has changed nothing, and its inputs are as they came. (3) An operation is
 * answered after COMMIT, which has synced the WAL. Writer thread only. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/log.h"
#include "gateway/store_sql.h"

/* --- what the operations share --- */

/* DUPLICATE with the ids of its first use, when this user's cid was there before; else OK. */
static enum store_status request_check(struct db *db, struct store_op *op) {
    if (!op->cid[0]) return STORE_OK;
    sqlite3_stmt *row = db_row(db, Q_REQUEST_GET, "is", op->user, op->cid);
    if (!row) return db->rc == SQLITE_DONE ? STORE_OK : op_trouble(db, op);
    column_id(row, 0, &op->conv);
    column_id(row, 1, &op->message);
    column_id(row, 2, &op->answer);
    column_id(row, 3, &op->generation);
    db_end(row);
    return STORE_DUPLICATE;
}

static bool request_add(struct db *db, const struct store_op *op) {
    if (!op->cid[0]) return true;
    return db_do(db, Q_REQUEST_ADD, "isddddi", op->user, op->cid, &op->conv, &op->message, &op->answer, &op->generation,
                 op->time_ms);
}

/* A message as BEGIN_* need to know it. */
struct found {
    int64_t key, conv, parent; /* keys; parent 0 = none */
    enum message_role role;
    enum message_state state;
};

/* Finds op->message of op->user; fills op->conv and op->parent. */
static enum store_status message_find(struct db *db, struct store_op *op, const struct store_id *id, struct found *out) {
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_FIND, "di", id, op->user);
    if (!row) return op_missing(db, op, "There is no such message.");
    *out = (struct found){
        .key = sqlite3_column_int64(row, 0),
        .conv = sqlite3_column_int64(row, 1),
        .parent = sqlite3_column_int64(row, 2),
        .role = (enum message_role)sqlite3_column_int(row, 3),
        .state = (enum message_state)sqlite3_column_int(row, 4),
    };
    column_id(row, 5, &op->conv);
    column_id(row, 6, &op->parent);
    db_end(row);
    return STORE_OK;
}

/* Gives out the conversation as it is now. */
static enum store_status conv_report(struct db *db, struct store_op *op, int64_t conv) {
    sqlite3_stmt *row = db_row(db, Q_CONV_GET, "i", conv);
    if (!row) return op_trouble(db, op);
    bool added = store_add_conv(op, row);
    db_end(row);
    return added ? STORE_OK : op_out_of_memory(op);
}

static enum store_status conv_touch(struct db *db, struct store_op *op, int64_t conv) {
    if (!db_do(db, Q_CONV_TOUCH, "ii", conv, op->time_ms)) return op_trouble(db, op);
    return conv_report(db, op, conv);
}

/* A new row; its key, or 0 on trouble. Ids of the caller's making may have been used before: UNIQUE, so trouble too. */
static int64_t message_add(struct db *db, const struct store_op *op, int64_t conv, int64_t parent, enum message_role role) {
    static const struct store_id none;
    bool is_user = role == MESSAGE_USER;
    bool added = db_do(db, Q_MESSAGE_ADD, "dikiiidt", is_user ? &op->message : &op->answer, conv, parent, (int64_t)role,
                       (int64_t)(is_user ? MESSAGE_DONE : MESSAGE_RUNNING), op->time_ms, is_user ? &none : &op->generation,
                       is_user ? op->text : "", is_user ? op->text_len : (size_t)0);
    return added ? sqlite3_last_insert_rowid(db->sql) : 0;
}

static enum store_status message_trouble(struct db *db, struct store_op *op) {
    if ((db->rc & 0xFF) == SQLITE_CONSTRAINT) return op_refuse(op, STORE_CONFLICT, "This message or generation exists already.");
    return op_trouble(db, op);
}

/* --- a turn --- */

struct place {
    int64_t conv, parent; /* keys; parent 0 = root */
};

static enum store_status conv_create(struct db *db, struct store_op *op, struct place *at) {
    if (op->parent.text[0]) return op_refuse(op, STORE_NOT_FOUND, "A new conversation has no message to follow.");
    if (!op->title) op->title = store_title_from(op->text ? op->text : "", op->text_len);
    if (!op->title) return op_out_of_memory(op);
    store_id_new(&op->conv);
    if (!db_do(db, Q_CONV_ADD, "disi", &op->conv, op->user, op->title, op->time_ms)) {
        if (db->rc == SQLITE_CONSTRAINT_FOREIGNKEY) return op_refuse(op, STORE_NOT_FOUND, "There is no such user.");
        return op_trouble(db, op);
    }
    *at = (struct place){.conv = sqlite3_last_insert_rowid(db->sql)};
    return STORE_OK;
}

/* The answer that a message without a parent follows: the latest one. It has no children, for those would have brought a later
 * answer. */
static enum store_status follow_newest(struct db *db, struct store_op *op, struct place *at, enum message_state *state) {
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_NEWEST_ANSWER, "i", at->conv);
    if (!row) return db->rc == SQLITE_DONE ? STORE_OK : op_trouble(db, op);
    at->parent = sqlite3_column_int64(row, 0);
    *state = (enum message_state)sqlite3_column_int(row, 1);
    column_id(row, 2, &op->parent);
    db_end(row);
    return STORE_OK;
}

static enum store_status follow_parent(struct db *db, struct store_op *op, struct place *at, enum message_state *state) {
    struct store_id parent = op->parent, conv = op->conv;
    struct found found;
    enum store_status status = message_find(db, op, &parent, &found);
    op->parent = parent;
    op->conv = conv;
    if (status != STORE_OK) return status;
    if (found.conv != at->conv) return op_refuse(op, STORE_NOT_FOUND, "The message to follow is not in this conversation.");
    if (found.role != MESSAGE_ASSISTANT)
        return op_refuse(op, STORE_CONFLICT, "A message follows an answer, not another message.");
    at->parent = found.key;
    *state = found.state;
    return STORE_OK;
}

/* Where the new message goes: conversation and parent. */
static enum store_status find_place(struct db *db, struct store_op *op, struct place *at) {
    if (!op->conv.text[0]) return conv_create(db, op, at);
    sqlite3_stmt *row = db_row(db, Q_CONV_FIND, "di", &op->conv, op->user);
    if (!row) return op_missing(db, op, "There is no such conversation.");
    *at = (struct place){.conv = sqlite3_column_int64(row, 0)};
    db_end(row);
    enum message_state state = MESSAGE_DONE;
    enum store_status status = STORE_OK;
    if (op->parent.text[0]) {
        status = follow_parent(db, op, at, &state);
    } else if (!op->as_root) {
        status = follow_newest(db, op, at, &state);
    }
    if (status == STORE_OK && state == MESSAGE_RUNNING)
        status = op_refuse(op, STORE_CONFLICT, "The answer before it is still running.");
    return status;
}

static enum store_status begin_turn(struct db *db, struct store_op *op) {
    struct place at = {0};
    enum store_status status = request_check(db, op);
    if (status == STORE_OK) status = find_place(db, op, &at);
    if (status != STORE_OK) return status;
    store_id_new(&op->message);
    int64_t message = message_add(db, op, at.conv, at.parent, MESSAGE_USER);
    if (!message || !message_add(db, op, at.conv, message, MESSAGE_ASSISTANT)) return message_trouble(db, op);
    if (!request_add(db, op)) return op_trouble(db, op);
    return conv_touch(db, op, at.conv);
}

static enum store_status begin_regen(struct db *db, struct store_op *op) {
    struct found found;
    enum store_status status = request_check(db, op);
    if (status == STORE_OK) status = message_find(db, op, &op->message, &found);
    if (status != STORE_OK) return status;
    if (found.role != MESSAGE_ASSISTANT) return op_refuse(op, STORE_CONFLICT, "Only an answer can be generated again.");
    if (found.state == MESSAGE_RUNNING) return op_refuse(op, STORE_CONFLICT, "The answer is still running.");
    if (!message_add(db, op, found.conv, found.parent, MESSAGE_ASSISTANT)) return message_trouble(db, op);
    if (!request_add(db, op)) return op_trouble(db, op);
    return conv_touch(db, op, found.conv);
}

static enum store_status base_text(struct db *db, struct store_op *op, int64_t key) {
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_TEXT, "i", key);
    if (!row) return op_trouble(db, op);
    free(op->text);
    op->text = column_text(row, 0, &op->text_len);
    db_end(row);
    return op->text ? STORE_OK : op_out_of_memory(op);
}

static enum store_status begin_cont(struct db *db, struct store_op *op) {
    struct found found;
    enum store_status status = request_check(db, op);
    if (status == STORE_OK) status = message_find(db, op, &op->message, &found);
    if (status != STORE_OK) return status;
    if (found.state == MESSAGE_RUNNING) return op_refuse(op, STORE_CONFLICT, "The answer is still running.");
    bool open = found.state == MESSAGE_INTERRUPTED || found.state == MESSAGE_STOPPED || found.state == MESSAGE_LENGTH;
    if (found.role != MESSAGE_ASSISTANT || !open)
        return op_refuse(op, STORE_CONFLICT, "Only an answer that was cut off can be continued.");
    op->answer = op->message;
    status = base_text(db, op, found.key);
    if (status != STORE_OK) return status;
    if (!db_do(db, Q_MESSAGE_CONTINUE, "id", found.key, &op->generation)) return message_trouble(db, op);
    if (!request_add(db, op)) return op_trouble(db, op);
    return conv_touch(db, op, found.conv);
}

static enum store_status gone(struct store_op *op) {
    return op_refuse(op, STORE_NOT_FOUND, "The answer was deleted, or belongs to another generation by now.");
}

static enum store_status checkpoint(struct db *db, struct store_op *op) {
    if (!db_do(db, Q_MESSAGE_CHECKPOINT, "ddt", &op->message, &op->generation, op->text, op->text_len)) return op_trouble(db, op);
    return db_changes(db) > 0 ? STORE_OK : gone(op);
}

static enum store_status finish(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_FINISH, "ddtis", &op->message, &op->generation, op->text, op->text_len,
                               (int64_t)op->state, op->meta ? op->meta : "{}");
    if (!row) return db->rc == SQLITE_DONE ? gone(op) : op_trouble(db, op);
    int64_t conv = sqlite3_column_int64(row, 0);
    while (db_next(db, row)) {
    }
    db_end(row);
    return db->rc == SQLITE_DONE ? conv_touch(db, op, conv) : op_trouble(db, op);
}

/* --- conversations, users --- */

static enum store_status rename_conv(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_CONV_FIND, "di", &op->conv, op->user);
    if (!row) return op_missing(db, op, "There is no such conversation.");
    int64_t conv = sqlite3_column_int64(row, 0);
    db_end(row);
    if (!db_do(db, Q_CONV_RENAME, "is", conv, op->title ? op->title : "")) return op_trouble(db, op);
    return conv_report(db, op, conv);
}

static enum store_status delete_conv(struct db *db, struct store_op *op) {
    if (!db_do(db, Q_CONV_DELETE, "di", &op->conv, op->user)) return op_trouble(db, op);
    return db_changes(db) > 0 ? STORE_OK : op_refuse(op, STORE_NOT_FOUND, "There is no such conversation.");
}

static enum store_status learn(struct db *db, struct store_op *op) {
    if (!db_do(db, Q_USER_LEARN, "ii", op->user, (int64_t)op->learns)) return op_trouble(db, op);
    return db_changes(db) > 0 ? STORE_OK : op_refuse(op, STORE_NOT_FOUND, "There is no such user.");
}

/* A sign-in is also the moment to forget those that have expired: the table is as large as the people who are signed in. */
static enum store_status session_add(struct db *db, struct store_op *op) {
    if (!db_do(db, Q_SESSION_PURGE, "i", op->time_ms)) return op_trouble(db, op);
    if (db_do(db, Q_SESSION_ADD, "biii", op->token_hash, op->user, op->time_ms, op->expires_ms)) return STORE_OK;
    return db->rc == SQLITE_CONSTRAINT_FOREIGNKEY ? op_refuse(op, STORE_NOT_FOUND, "There is no such user.") : op_trouble(db, op);
}

static enum store_status session_drop(struct db *db, struct store_op *op) {
    return db_do(db, Q_SESSION_DROP, "b", op->token_hash) ? STORE_OK : op_trouble(db, op);
}

/* found_user holds name and admin, and gets the id. A taken name is CONFLICT. */
static enum store_status user_insert(struct db *db, struct store_op *op) {
    struct store_user *user = &op->found_user;
    if (!db_do(db, Q_USER_ADD, "sii", user->name, (int64_t)user->admin, op->time_ms)) return op_trouble(db, op);
    if (db_changes(db) == 0) return op_refuse(op, STORE_CONFLICT, "This name is taken.");
    user->id = sqlite3_last_insert_rowid(db->sql);
    return STORE_OK;
}

static enum store_status user_add(struct db *db, struct store_op *op) {
    enum store_status status = user_insert(db, op);
    if (status != STORE_OK) return status;
    return db_do(db, Q_KEY_ADD, "bii", op->token_hash, op->found_user.id, op->time_ms) ? STORE_OK : op_trouble(db, op);
}

/* The user called found_user.name: id and rights. */
static enum store_status user_find(struct db *db, struct store_op *op) {
    struct store_user *user = &op->found_user;
    sqlite3_stmt *row = db_row(db, Q_USER_BY_NAME, "s", user->name);
    if (!row) return op_missing(db, op, "There is no such user.");
    user->id = sqlite3_column_int64(row, 0);
    snprintf(user->name, sizeof user->name, "%s", (const char *)sqlite3_column_text(row, 1));
    user->admin = sqlite3_column_int(row, 2) != 0;
    db_end(row);
    return STORE_OK;
}

/* Whoever had the old key may be signed in with it, so that ends too. */
static enum store_status user_key(struct db *db, struct store_op *op) {
    enum store_status status = user_find(db, op);
    if (status != STORE_OK) return status;
    int64_t id = op->found_user.id;
    bool done = db_do(db, Q_USER_KEYS_DROP, "i", id) && db_do(db, Q_USER_SESSIONS_DROP, "i", id) &&
                db_do(db, Q_KEY_ADD, "bii", op->token_hash, id, op->time_ms);
    return done ? STORE_OK : op_trouble(db, op);
}

/* Sign-ins first, then conversations, some with each call (more), so that a server beside a command need not wait for all of
 * them; at last the user. */
static enum store_status user_remove(struct db *db, struct store_op *op) {
    enum { STEP = 20 };
    enum store_status status = user_find(db, op);
    if (status != STORE_OK) return status;
    int64_t id = op->found_user.id;
    sqlite3_stmt *row = db_row(db, Q_USER_MAY_GO, "i", id);
    if (!row && db->rc == SQLITE_DONE) return op_refuse(op, STORE_CONFLICT, "The last administrator cannot be removed.");
    db_end(row);
    bool done = row && db_do(db, Q_USER_KEYS_DROP, "i", id) && db_do(db, Q_USER_SESSIONS_DROP, "i", id) &&
                db_do(db, Q_USER_CONVS_DROP, "ii", id, (int64_t)STEP);
    op->more = done && db_changes(db) == STEP;
    return done && (op->more || db_do(db, Q_USER_REMOVE, "i", id)) ? STORE_OK : op_trouble(db, op);
}

/* The first administrator. Should somebody without rights be called "admin", the next free number goes behind the name. */
static enum store_status admin_ensure(struct db *db, struct store_op *op) {
    struct store_user *user = &op->found_user;
    sqlite3_stmt *row = db_row(db, Q_USER_ADMIN, "");
    if (row) {
        *user = (struct store_user){.id = sqlite3_column_int64(row, 0), .admin = true};
        snprintf(user->name, sizeof user->name, "%s", (const char *)sqlite3_column_text(row, 1));
        db_end(row);
        return STORE_OK;
    }
    if (db->rc != SQLITE_DONE) return op_trouble(db, op);
    enum store_status status = STORE_CONFLICT;
    for (int i = 1; i < 1000 && status == STORE_CONFLICT; i++) {
        *user = (struct store_user){.name = "admin", .admin = true};
        if (i > 1) snprintf(user->name, sizeof user->name, "admin%d", i);
        status = user_insert(db, op);
    }
    return status;
}

static enum store_status run(struct db *db, struct store_op *op) {
    switch (op->kind) {
    case STORE_BEGIN_TURN:
        return begin_turn(db, op);
    case STORE_BEGIN_REGEN:
        return begin_regen(db, op);
    case STORE_BEGIN_CONT:
        return begin_cont(db, op);
    case STORE_CHECKPOINT:
        return checkpoint(db, op);
    case STORE_FINISH:
        return finish(db, op);
    case STORE_RENAME:
        return rename_conv(db, op);
    case STORE_DELETE:
        return delete_conv(db, op);
    case STORE_LEARN:
        return learn(db, op);
    case STORE_IMPORT:
        return store_import(db, op);
    case STORE_SESSION_ADD:
        return session_add(db, op);
    case STORE_SESSION_DROP:
        return session_drop(db, op);
    case STORE_USER_ADD:
        return user_add(db, op);
    case STORE_USER_KEY:
        return user_key(db, op);
    case STORE_USER_REMOVE:
        return user_remove(db, op);
    case STORE_ADMIN_ENSURE:
        return admin_ensure(db, op);
    default:
        return op_refuse(op, STORE_ERROR, "This is not a write.");
    }
}

/* --- the transaction --- */

/* The inputs that an operation overwrites with results, to put back when it fails. Strings: a derived title and a base text are
 * results where there was no input. */
struct inputs {
    struct store_id conv, parent, message, answer, generation;
    struct store_user found_user;
    bool had_title, had_text;
};

static struct inputs inputs_of(const struct store_op *op) {
    return (struct inputs){op->conv,       op->parent,     op->message,       op->answer,
                           op->generation, op->found_user, op->title != NULL, op->text != NULL};
}

static void clear_string(char **slot) {
    free(*slot);
    *slot = NULL;
}

static void inputs_restore(struct store_op *op, const struct inputs *in) {
    op->conv = in->conv;
    op->parent = in->parent;
    op->message = in->message;
    op->answer = in->answer;
    op->generation = in->generation;
    op->found_user = in->found_user;
    if (!in->had_title) clear_string(&op->title);
    if (!in->had_text) clear_string(&op->text), op->text_len = 0;
    for (int i = 0; i < op->n_convs; i++) free(op->convs[i].title);
    free(op->convs);
    op->convs = NULL;
    op->n_convs = 0;
}

/* False when the transaction itself is gone. */
static bool run_in_savepoint(struct db *db, struct store_op *op, const struct inputs *in) {
    op->time_ms = store_now_ms();
    op->error[0] = '\0';
    if (!db_do(db, Q_SAVEPOINT, "")) {
        op->status = op_trouble(db, op);
        return false;
    }
    op->status = run(db, op);
    /* SQLite rolls everything back by itself on some failures; there is no savepoint then. */
    if (sqlite3_get_autocommit(db->sql)) return false;
    if (op->status != STORE_OK && op->status != STORE_DUPLICATE) {
        inputs_restore(op, in);
        if (!db_do(db, Q_SAVEPOINT_ROLLBACK, "")) return false;
    }
    return db_do(db, Q_SAVEPOINT_RELEASE, "");
}

/* Gives every operation whose result is lost with the transaction the reason, unless it has its own. */
static void fail_all(struct db *db, struct store_op **ops, int n, const struct inputs *in) {
    char why[sizeof ops[0]->error];
    enum store_status status = db_trouble(db, why, sizeof why);
    for (int i = 0; i < n; i++) {
        inputs_restore(ops[i], &in[i]);
        if (ops[i]->status == STORE_FULL || ops[i]->status == STORE_ERROR) continue;
        ops[i]->status = status;
        memcpy(ops[i]->error, why, sizeof why);
    }
}

static bool run_transaction(struct db *db, struct store_op **ops, int n, const struct inputs *in) {
    for (int i = 0; i < n; i++) ops[i]->status = STORE_OK;
    bool whole = db_do(db, Q_BEGIN_WRITE, "");
    for (int i = 0; i < n && whole; i++) whole = run_in_savepoint(db, ops[i], &in[i]);
    if (whole && db_do(db, Q_COMMIT, "")) return true;
    fail_all(db, ops, n, in);
    if (!sqlite3_get_autocommit(db->sql)) db_do(db, Q_ROLLBACK, "");
    return false;
}

/* One line when trouble begins, one when it is over: a full disk fails each of many checkpoints a second. */
static void log_trouble(struct db *db, struct store_op **ops, int n) {
    const struct store_op *failed = NULL;
    for (int i = 0; i < n && !failed; i++) {
        if (ops[i]->status == STORE_FULL || ops[i]->status == STORE_ERROR) failed = ops[i];
    }
    if (failed && !db->in_trouble) log_error("store", "a write failed and was not acknowledged. %s", failed->error);
    if (!failed && db->in_trouble) log_info("store", "writes work again");
    db->in_trouble = failed != NULL;
}

void store_write_group(struct db *db, struct store_op **ops, int n) {
    struct inputs in[STORE_GROUP_MAX] = {0};
    assert(n > 0 && n <= STORE_GROUP_MAX);
    for (int i = 0; i < n; i++) in[i] = inputs_of(ops[i]);
    if (!run_transaction(db, ops, n, in) && n > 1) {
        for (int i = 0; i < n; i++) run_transaction(db, &ops[i], 1, &in[i]);
    }
    log_trouble(db, ops, n);
}

/* FULL takes the write lock first, so that no guest starts the WAL anew meanwhile (see store_sql.h). A reader that somebody keeps
 * open for long leaves frames behind; the next try is then when the WAL has doubled. */
void store_checkpoint(struct db *db) {
    if (db->wal_pages < db->wal_limit) return;
    int frames = 0, copied = 0;
    sqlite3_busy_timeout(db->sql, DB_CHECKPOINT_WAIT_MS);
    db->rc = sqlite3_wal_checkpoint_v2(db->sql, NULL, SQLITE_CHECKPOINT_FULL, &frames, &copied);
    sqlite3_busy_timeout(db->sql, DB_BUSY_TIMEOUT_MS);
    bool whole = db->rc == SQLITE_OK && copied == frames;
    if (!whole) log_debug("store", "checkpoint copied %d of %d pages (SQLite %d)", copied, frames, db->rc);
    db->wal_limit = whole || frames <= 0 ? DB_WAL_LIMIT : 2 * frames;
    db->wal_pages = 0;
}
