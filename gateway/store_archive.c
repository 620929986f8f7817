/* store_archive.c - chats on their way out and in as files (archive.h): a part of an export read, an import written.
 *
 *  (1) An export goes by keys, which are not reused and do not change, from chat to chat in the order in which they were made:
 * what comes, changes or goes meanwhile shifts nothing. (2) An import runs in the savepoint of its operation: one wrong message,
 * and nothing was there. Its messages get to search later (store_search.c), so that everybody waits for the rows only. */
#include "gateway/store_sql.h"

/* --- out: reader thread --- */

/* The chat to read from: that of the cursor if its messages go on, else the next one. 0: there is none. */
static enum store_status find_chat(struct db *db, struct store_op *op, int64_t *conv) {
    *conv = op->after_chat;
    if (op->after_message > 0) return STORE_OK;
    sqlite3_stmt *row = op->conv.text[0] ? db_row(db, Q_CONV_FIND, "di", &op->conv, op->user)
                                         : db_row(db, Q_CONV_NEXT, "ii", op->user, op->after_chat);
    *conv = row ? sqlite3_column_int64(row, 0) : 0;
    db_end(row);
    if (row) return STORE_OK;
    bool is_end = db->rc == SQLITE_DONE && !op->conv.text[0];
    return is_end ? STORE_OK : op_missing(db, op, "There is no such conversation.");
}

enum store_status store_export(struct db *db, struct store_op *op) {
    int64_t conv, last = op->after_message;
    size_t bytes = 0;
    enum store_status status = find_chat(db, op, &conv);
    if (status != STORE_OK || conv == 0) return status;
    sqlite3_stmt *row = db_row(db, Q_CONV_GET, "i", conv);
    bool added = !row || store_add_conv(op, row);
    db_end(row);
    if (!added) return op_out_of_memory(op);
    row = db_row(db, Q_MESSAGE_NEXT, "iii", conv, last, (int64_t)op->limit + 1);
    for (bool on = row != NULL; on; on = db_next(db, row)) {
        bytes += (size_t)sqlite3_column_bytes(row, 7);
        op->more = op->n_messages == op->limit || (op->n_messages > 0 && bytes > STORE_MAX_PAGE_BYTES);
        if (op->more) break;
        last = sqlite3_column_int64(row, 11);
        if (store_add_message(op, row)) continue;
        db_end(row);
        return op_out_of_memory(op);
    }
    db_end(row);
    if (!op->more && db->rc != SQLITE_DONE) return op_trouble(db, op);
    op->after_chat = conv;
    op->after_message = op->more ? last : 0;
    return STORE_OK;
}

/* --- in: writer thread --- */

/* Keys grow by one with each row of a table that only this thread adds to, so a parent's key follows from its place. */
static bool add_messages(struct db *db, int64_t conv, const struct store_chat *chat) {
    int64_t first = 0;
    for (int i = 0; i < chat->n_messages; i++) {
        const struct store_chat_message *m = &chat->messages[i];
        struct store_id id;
        store_id_new(&id);
        if (!db_do(db, Q_MESSAGE_IMPORT, "dikiiist", &id, conv, m->parent >= 0 ? first + m->parent : 0, (int64_t)m->role,
                   (int64_t)m->state, m->created_ms, m->meta, m->text, m->text_len))
            return false;
        if (i == 0) first = sqlite3_last_insert_rowid(db->sql);
    }
    return true;
}

static bool add_chat(struct db *db, int64_t user, const struct store_chat *chat) {
    struct store_id id;
    store_id_new(&id);
    return db_do(db, Q_CONV_IMPORT, "disii", &id, user, chat->title, chat->messages[0].created_ms, chat->changed_ms) &&
           add_messages(db, sqlite3_last_insert_rowid(db->sql), chat);
}

enum store_status store_import(struct db *db, struct store_op *op) {
    struct store_chat chat;
    enum store_next next;
    op->import->rewind(op->import->arg);
    if (!db_do(db, Q_BACKLOG_OPEN, "")) return op_trouble(db, op);
    while ((next = op->import->next(op->import->arg, &chat)) == STORE_NEXT_CHAT) {
        if (add_chat(db, op->user, &chat)) continue;
        if (db->rc == SQLITE_CONSTRAINT_FOREIGNKEY) return op_refuse(op, STORE_NOT_FOUND, "There is no such user.");
        return op_trouble(db, op);
    }
    if (next == STORE_NEXT_BAD) return op_refuse(op, STORE_CONFLICT, "The chats to import are not what they should be.");
    return db_do(db, Q_BACKLOG_CLOSE, "") ? STORE_OK : op_trouble(db, op);
}
