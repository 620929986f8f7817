/* store_search.c - search in messages: what is asked becomes a question to the index, and what is not in it yet gets there.
 *
 *  (1) The index (table `search`, store_schema.c) holds each message that is not being written, with its owner as a word of the
 * first column; triggers keep it so, whoever changes or deletes. Keys between the bounds of a row of search_backlog are left out
 * by the triggers and put in here, newest first, a little at a time while nothing else is to be written: an old database, or a
 * large import, stops nobody. (2) A question names the owner, and the rows found are compared with the user once more.
 *  (3) What a person types is only words: each stands in quotes, so no part of it is FTS5's language. (4) What a deleted message
 * had in the index is struck out at once, and leaves the file when FTS5 next merges that part of it. */
#include <stdio.h>
#include <string.h>

#include "engine/log.h"
#include "gateway/store_sql.h"

enum {
    MAX_WORDS = 16, /* of a question; further ones do not count */
    DEFAULT_HITS = 20,
    STEP_BYTES = 256 * 1024, /* of text indexed in one transaction: tens of milliseconds */
    STEP_ROWS = 1000,
    QUESTION_BYTES = 2 * STORE_MAX_QUERY + 4 * MAX_WORDS + 64,
};

/* --- the question --- */

/* Bytes of the blank at text, 0 when there is none: control characters, spaces, the wide space of East Asia. */
static size_t blank_at(const char *text, size_t len) {
    if (len > 0 && (unsigned char)text[0] <= ' ') return 1;
    return len >= 3 && memcmp(text, "\xE3\x80\x80", 3) == 0 ? 3 : 0;
}

/* owner : "u7" AND text : ("all" "words" "begi" *): the last one may go on, unless it is one letter, with which half of all words
 * begin. False: there is no word. */
static bool make_question(char out[QUESTION_BYTES], int64_t user, const char *text, size_t len) {
    int n_words = 0;
    bool is_long = false;
    size_t n = (size_t)snprintf(out, QUESTION_BYTES, "owner : \"u%lld\" AND text : (", (long long)user);
    for (size_t i = 0, blank; i < len && n_words < MAX_WORDS; i += blank) {
        if ((blank = blank_at(text + i, len - i)) > 0) continue;
        size_t begin = i;
        out[n++] = '"';
        for (; i < len && blank_at(text + i, len - i) == 0; i++) {
            if (text[i] == '"') out[n++] = '"';
            out[n++] = text[i];
        }
        out[n++] = '"';
        out[n++] = ' ';
        n_words++;
        is_long = i - begin > 1;
    }
    snprintf(out + n, QUESTION_BYTES - n, is_long ? "*)" : ")");
    return n_words > 0;
}

/* --- the answer --- */

/* The key before which hits are wanted. */
static enum store_status search_before(struct db *db, struct store_op *op, int64_t *key) {
    *key = INT64_MAX;
    if (!op->message.text[0]) return STORE_OK;
    sqlite3_stmt *row = db_row(db, Q_MESSAGE_FIND, "di", &op->message, op->user);
    if (!row) return op_missing(db, op, "There is no such message.");
    *key = sqlite3_column_int64(row, 0);
    db_end(row);
    return STORE_OK;
}

static enum store_status read_backlog(struct db *db, struct store_op *op) {
    sqlite3_stmt *row = db_row(db, Q_BACKLOG_GET, "");
    if (!row && db->rc != SQLITE_DONE) return op_trouble(db, op);
    op->indexing = row != NULL;
    db_end(row);
    return STORE_OK;
}

static enum store_status take_hit(struct db *db, struct store_op *op, sqlite3_stmt *row) {
    if (!store_add_message(op, row)) return op_out_of_memory(op);
    sqlite3_stmt *conv = db_row(db, Q_CONV_GET, "i", sqlite3_column_int64(row, 10));
    if (!conv) return op_trouble(db, op);
    bool added = store_add_conv(op, conv);
    db_end(conv);
    return added ? STORE_OK : op_out_of_memory(op);
}

enum store_status store_search(struct db *db, struct store_op *op) {
    char question[QUESTION_BYTES];
    int64_t before;
    int limit = op->limit > 0 && op->limit < STORE_MAX_PAGE ? op->limit : DEFAULT_HITS;
    enum store_status status = search_before(db, op, &before);
    if (status == STORE_OK) status = read_backlog(db, op);
    size_t len = op->text_len < STORE_MAX_QUERY ? op->text_len : STORE_MAX_QUERY;
    if (status != STORE_OK || !make_question(question, op->user, op->text ? op->text : "", len)) return status;
    sqlite3_stmt *row = db_row(db, Q_SEARCH, "siii", question, before, op->user, (int64_t)limit + 1);
    for (bool on = row != NULL; on && status == STORE_OK; on = status == STORE_OK && db_next(db, row)) {
        op->more = op->n_messages == limit;
        if (op->more) break;
        status = take_hit(db, op, row);
    }
    bool whole = op->more || db->rc == SQLITE_DONE;
    db_end(row);
    return status != STORE_OK || whole ? status : op_trouble(db, op);
}

/* --- what is not in the index yet --- */

/* Takes up to a step's worth of messages from `hi` down to `lo`; *next: the key that is due then. */
static bool index_range(struct db *db, int64_t lo, int64_t hi, int64_t *next) {
    int64_t bytes = 0;
    *next = hi;
    for (int n = 0; n < STEP_ROWS && bytes < STEP_BYTES; n++) {
        sqlite3_stmt *row = db_row(db, Q_BACKLOG_NEXT, "ii", lo, *next);
        if (!row) {
            *next = lo - 1;
            return db->rc == SQLITE_DONE;
        }
        int64_t key = sqlite3_column_int64(row, 0);
        bytes += sqlite3_column_int64(row, 1);
        db_end(row);
        if (!db_do(db, Q_SEARCH_ADD, "i", key)) return false;
        *next = key - 1;
    }
    return true;
}

static bool index_step(struct db *db) {
    sqlite3_stmt *row = db_row(db, Q_BACKLOG_GET, "");
    if (!row) return false;
    int64_t id = sqlite3_column_int64(row, 0), lo = sqlite3_column_int64(row, 1), hi = sqlite3_column_int64(row, 2), next;
    db_end(row);
    if (!index_range(db, lo, hi, &next)) return false;
    return next < lo ? db_do(db, Q_BACKLOG_DROP, "i", id) : db_do(db, Q_BACKLOG_MOVE, "ii", id, next);
}

bool store_index_some(struct db *db) {
    sqlite3_stmt *row = db_row(db, Q_BACKLOG_GET, "");
    db_end(row);
    if (!row) {
        if (db->indexing) log_info("store", "all messages can be found by search");
        return db->indexing = false;
    }
    if (!db->indexing) log_info("store", "messages are being made ready for search, the newest first");
    db->indexing = true;
    if (db_do(db, Q_BEGIN_WRITE, "") && index_step(db) && db_do(db, Q_COMMIT, "")) return true;
    char why[200];
    db_trouble(db, why, sizeof why);
    log_warn("store", "search waits with the messages that it does not know yet. %s", why);
    if (!sqlite3_get_autocommit(db->sql)) db_do(db, Q_ROLLBACK, "");
    return db->indexing = false;
}
