/* store_sql.c - one connection to the database: how it is opened, every statement it runs, values in and out, trouble into
 * sentences.
 *
 * Ids are 32 hex digits on the outside; inside the tables rows point at each other by integer keys. A message's key also is its
 * age: keys only grow, so pages and "the newest" go by key and need no clock. */
#include "gateway/store_sql.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAL_KEEP_BYTES = 64 << 20 }; /* a WAL that grew larger is cut back when it is reset */

_Static_assert(MESSAGE_USER == 0 && MESSAGE_ASSISTANT == 1 && MESSAGE_DONE == 0 && MESSAGE_RUNNING == 1 && MESSAGE_STOPPED == 2 &&
                   MESSAGE_INTERRUPTED == 3 && MESSAGE_ERROR == 4 && MESSAGE_LENGTH == 5,
               "these numbers are on disk and in the statements");

#define LIVE           "(SELECT r.generation FROM messages r WHERE r.conv = c.key AND r.state = 1 ORDER BY r.key DESC LIMIT 1)"
#define MESSAGE_TABLES " FROM messages m JOIN conversations c ON c.key = m.conv LEFT JOIN messages p ON p.key = m.parent "
#define MESSAGE_SELECT                                                                                                           \
    "SELECT m.id, p.id, c.id, m.generation, m.role, m.state, m.created_ms, m.text, m.base_len, m.meta, m.parent, "               \
    "m.key" MESSAGE_TABLES

static const char *const query_texts[Q_COUNT] = {
    [Q_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [Q_BEGIN_READ] = "BEGIN",
    [Q_COMMIT] = "COMMIT",
    [Q_ROLLBACK] = "ROLLBACK",
    [Q_SAVEPOINT] = "SAVEPOINT op",
    [Q_SAVEPOINT_RELEASE] = "RELEASE op",
    [Q_SAVEPOINT_ROLLBACK] = "ROLLBACK TO op",

    [Q_REQUEST_GET] = "SELECT conv, message, answer, generation FROM requests WHERE user_id = ?1 AND cid = ?2",
    [Q_REQUEST_ADD] =
        "INSERT INTO requests (user_id, cid, conv, message, answer, generation, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",

    [Q_CONV_ADD] = "INSERT INTO conversations (id, user_id, title, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?4, ?4)",
    [Q_CONV_FIND] = "SELECT key, title, changed_ms FROM conversations WHERE id = ?1 AND user_id = ?2",
    [Q_CONV_GET] = "SELECT c.id, c.title, c.changed_ms, " LIVE " FROM conversations c WHERE c.key = ?1",
    [Q_CONV_TOUCH] = "UPDATE conversations SET changed_ms = max(changed_ms, ?2) WHERE key = ?1",
    [Q_CONV_RENAME] = "UPDATE conversations SET title = ?2 WHERE key = ?1",
    [Q_CONV_DELETE] = "DELETE FROM conversations WHERE id = ?1 AND user_id = ?2",
    [Q_CONV_PAGE] = "SELECT c.id, c.title, c.changed_ms, " LIVE " FROM conversations c "
                    "WHERE c.user_id = ?1 AND (c.changed_ms, c.key) < (?2, ?3) ORDER BY c.changed_ms DESC, c.key DESC LIMIT ?4",
    /* By key, not by the index on user_id: that would be sorted for every chat. */
    [Q_CONV_NEXT] = "SELECT key FROM conversations WHERE +user_id = ?1 AND key > ?2 ORDER BY key LIMIT 1",
    [Q_CONV_IMPORT] = "INSERT INTO conversations (id, user_id, title, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?4, ?5)",

    [Q_MESSAGE_ADD] = "INSERT INTO messages (id, conv, parent, role, state, created_ms, generation, text) VALUES (?1, ?2, ?3, "
                      "?4, ?5, ?6, ?7, ?8)",
    [Q_MESSAGE_FIND] =
        "SELECT m.key, m.conv, m.parent, m.role, m.state, c.id, p.id" MESSAGE_TABLES "WHERE m.id = ?1 AND c.user_id = ?2",
    [Q_MESSAGE_NEWEST_ANSWER] = "SELECT key, state, id FROM messages WHERE conv = ?1 AND role = 1 ORDER BY key DESC LIMIT 1",
    [Q_MESSAGE_CONTINUE] =
        "UPDATE messages SET state = 1, generation = ?2, base_len = length(CAST(text AS BLOB)), meta = '{}' WHERE key = ?1",
    [Q_MESSAGE_CHECKPOINT] = "UPDATE messages SET text = ?3 WHERE id = ?1 AND generation = ?2 AND state = 1",
    [Q_MESSAGE_FINISH] =
        "UPDATE messages SET text = ?3, state = ?4, meta = ?5 WHERE id = ?1 AND generation = ?2 AND state = 1 RETURNING conv",
    [Q_MESSAGE_PAGE] = MESSAGE_SELECT "WHERE m.conv = ?1 AND m.key < ?2 ORDER BY m.key DESC LIMIT ?3",
    [Q_MESSAGE_NEXT] = MESSAGE_SELECT "WHERE m.conv = ?1 AND m.key > ?2 ORDER BY m.key LIMIT ?3",
    [Q_MESSAGE_IMPORT] = "INSERT INTO messages (id, conv, parent, role, state, created_ms, meta, text) "
                         "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [Q_MESSAGE_STEP] = MESSAGE_SELECT "WHERE m.key = ?1",
    [Q_MESSAGE_BY_ID] = MESSAGE_SELECT "WHERE m.id = ?1 AND c.user_id = ?2",
    [Q_MESSAGE_BY_GENERATION] = MESSAGE_SELECT "WHERE m.generation = ?1 AND c.user_id = ?2",
    [Q_MESSAGE_TEXT] = "SELECT text FROM messages WHERE key = ?1",
    /* CROSS JOIN: conversations first, so that both come by index, without sorting what may be many. */
    [Q_MESSAGE_ANSWERS] = "SELECT m.id, NULL, c.id, m.generation, m.role, m.state, m.created_ms, m.text, m.base_len, '{}', NULL "
                          "FROM conversations c CROSS JOIN messages m ON m.conv = c.key "
                          "WHERE c.user_id = ?1 AND m.role = 1 AND m.state NOT IN (1, 4) "
                          "ORDER BY c.changed_ms DESC, c.key DESC, m.key DESC",

    /* The owner is part of the question, so another user's words cost nothing and show nothing; c.user_id says it once more. The
     * index is walked from its end, so the newest hits need no sorting. */
    [Q_SEARCH] = "SELECT m.id, NULL, c.id, NULL, m.role, m.state, m.created_ms, excerpt(search), 0, '{}', c.key "
                 "FROM search CROSS JOIN messages m ON m.key = search.rowid CROSS JOIN conversations c ON c.key = m.conv "
                 "WHERE search MATCH ?1 AND search.rowid < ?2 AND c.user_id = ?3 ORDER BY search.rowid DESC LIMIT ?4",
    [Q_SEARCH_ADD] = "INSERT INTO search (rowid, owner, text) SELECT s.key, s.owner, s.text FROM search_rows s "
                     "JOIN messages m ON m.key = s.key WHERE s.key = ?1 AND m.state <> 1",
    [Q_BACKLOG_GET] = "SELECT rowid, lo, hi FROM search_backlog ORDER BY hi DESC LIMIT 1",
    [Q_BACKLOG_NEXT] = "SELECT key, length(text) FROM messages WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1",
    [Q_BACKLOG_MOVE] = "UPDATE search_backlog SET hi = ?2 WHERE rowid = ?1",
    [Q_BACKLOG_OPEN] = "INSERT INTO search_backlog (lo, hi) SELECT coalesce(max(key), 0) + 1, 9223372036854775807 FROM messages",
    [Q_BACKLOG_CLOSE] =
        "UPDATE search_backlog SET hi = (SELECT coalesce(max(key), 0) FROM messages) WHERE hi = 9223372036854775807",
    [Q_BACKLOG_DROP] = "DELETE FROM search_backlog WHERE rowid = ?1",

    [Q_SESSION_ADD] = "INSERT INTO sessions (hash, user_id, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4)",
    [Q_SESSION_DROP] = "DELETE FROM sessions WHERE hash = ?1",
    [Q_SESSION_PURGE] = "DELETE FROM sessions WHERE expires_ms <= ?1",
    [Q_SESSION_GET] = "SELECT u.id, u.name, u.admin, u.learns FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.hash = ?1 "
                      "AND s.expires_ms > ?2",
    [Q_KEY_ADD] = "INSERT INTO api_keys (hash, user_id, created_ms) VALUES (?1, ?2, ?3)",
    [Q_KEY_GET] = "SELECT u.id, u.name, u.admin, u.learns FROM api_keys k JOIN users u ON u.id = k.user_id WHERE k.hash = ?1",
    /* An id is never given again: a running server may still hold something of a user who was removed. */
    [Q_USER_ADD] = "INSERT INTO users (id, name, admin, created_ms) "
                   "VALUES ((SELECT max(?3, id + 1) FROM users_given), ?1, ?2, ?3) ON CONFLICT (name) DO NOTHING",
    [Q_USER_BY_NAME] = "SELECT id, name, admin FROM users WHERE name = ?1",
    [Q_USER_KEYS_DROP] = "DELETE FROM api_keys WHERE user_id = ?1",
    [Q_USER_SESSIONS_DROP] = "DELETE FROM sessions WHERE user_id = ?1",
    [Q_USER_MAY_GO] = "SELECT 1 FROM users WHERE id = ?1 AND (admin = 0 OR (SELECT count(*) FROM users WHERE admin = 1) > 1)",
    [Q_USER_CONVS_DROP] = "DELETE FROM conversations WHERE key IN (SELECT key FROM conversations WHERE user_id = ?1 LIMIT ?2)",
    [Q_USER_REMOVE] = "DELETE FROM users WHERE id = ?1",
    [Q_USER_COUNT] = "SELECT count(*) FROM users",
    [Q_USER_LIST] = "SELECT group_concat(line, '') FROM (SELECT printf('%s (%schats: %d%s)' || char(10), u.name, "
                    "CASE u.admin WHEN 1 THEN 'administrator, ' ELSE '' END, "
                    "(SELECT count(*) FROM conversations c WHERE c.user_id = u.id), "
                    "CASE WHEN EXISTS (SELECT 1 FROM api_keys k WHERE k.user_id = u.id) THEN '' ELSE ', no API key' END) AS line "
                    "FROM users u ORDER BY u.id)",
    [Q_USER_ADMIN] = "SELECT id, name, admin FROM users WHERE admin = 1 ORDER BY id LIMIT 1",
    [Q_USER_LEARNS] = "SELECT learns FROM users WHERE id = ?1",
    [Q_USER_LEARN] = "UPDATE users SET learns = ?2 WHERE id = ?1",
};

int64_t store_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- the connection --- */

static int on_commit(void *arg, sqlite3 *sql, const char *name, int wal_pages) {
    (void)sql;
    (void)name;
    ((struct db *)arg)->wal_pages = wal_pages;
    return SQLITE_OK;
}

/* A read-only journal_mode=WAL answers with what is; a file system without shared memory answers "delete". */
static bool switch_to_wal(struct db *db) {
    sqlite3_stmt *row = NULL;
    db->rc = sqlite3_prepare_v2(db->sql, "PRAGMA journal_mode = WAL", -1, &row, NULL);
    if (db->rc == SQLITE_OK) db->rc = sqlite3_step(row);
    bool is_wal = db->rc == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(row, 0), "wal") == 0;
    sqlite3_finalize(row);
    if (db->rc == SQLITE_ROW) db->rc = is_wal ? SQLITE_OK : SQLITE_CANTOPEN;
    return is_wal;
}

static bool configure(struct db *db, enum db_role role) {
    char settings[400];
    sqlite3_extended_result_codes(db->sql, 1);
    sqlite3_busy_timeout(db->sql, DB_BUSY_TIMEOUT_MS);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    /* Before SQLite 3.41 FTS5 does not say that it is harmless, so whoever writes must trust the triggers that fill the index. */
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, role != DB_READER, NULL);
    if (role != DB_WRITER) sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    db->rc = search_register(db->sql);
    if (db->rc != SQLITE_OK) return false;
    if (role == DB_READER) {
        db->rc = sqlite3_exec(db->sql, "PRAGMA query_only = 1", NULL, NULL, NULL);
        return db->rc == SQLITE_OK;
    }
    if (!switch_to_wal(db)) return false;
    /* secure_delete FAST: what a user deleted is overwritten wherever that costs no extra write. */
    snprintf(settings, sizeof settings,
             "PRAGMA synchronous = FULL; PRAGMA foreign_keys = 1; PRAGMA wal_autocheckpoint = 0; PRAGMA secure_delete = FAST;"
             "PRAGMA journal_size_limit = %d; PRAGMA temp_store = MEMORY",
             WAL_KEEP_BYTES);
    db->rc = sqlite3_exec(db->sql, settings, NULL, NULL, NULL);
    if (role == DB_WRITER) sqlite3_wal_hook(db->sql, on_commit, db);
    return db->rc == SQLITE_OK;
}

bool db_open(struct db *db, const char *path, enum db_role role, struct store_error *error) {
    *db = (struct db){.wal_limit = DB_WAL_LIMIT};
    int flags = SQLITE_OPEN_NOMUTEX | (role == DB_READER ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    db->rc = sqlite3_open_v2(path, &db->sql, flags, NULL);
    if (db->rc == SQLITE_OK && configure(db, role)) return true;
    if ((db->rc & 0xFF) == SQLITE_NOTADB) {
        snprintf(error->text, sizeof error->text, "%s is not a database: move it away, or choose another folder with --data.",
                 path);
    } else {
        char why[200];
        db_trouble(db, why, sizeof why);
        snprintf(error->text, sizeof error->text, "The database %s cannot be opened. %s", path, why);
    }
    db_close(db);
    return false;
}

void db_close(struct db *db) {
    for (int i = 0; i < Q_COUNT; i++) sqlite3_finalize(db->statements[i]);
    int rc = sqlite3_close(db->sql);
    assert(rc == SQLITE_OK); /* else a statement outside the table is alive */
    memset(db, 0, sizeof *db);
}

/* --- statements --- */

static void bind_value(sqlite3_stmt *statement, int place, char letter, va_list *args) {
    switch (letter) {
    case 'i':
        sqlite3_bind_int64(statement, place, va_arg(*args, int64_t));
        return;
    case 'k': {
        int64_t key = va_arg(*args, int64_t);
        if (key > 0) sqlite3_bind_int64(statement, place, key);
        return;
    }
    case 'd': {
        const struct store_id *id = va_arg(*args, const struct store_id *);
        if (id->text[0]) sqlite3_bind_text(statement, place, id->text, -1, SQLITE_STATIC);
        return;
    }
    case 's':
        sqlite3_bind_text(statement, place, va_arg(*args, const char *), -1, SQLITE_STATIC);
        return;
    case 't': {
        const char *text = va_arg(*args, const char *);
        size_t len = va_arg(*args, size_t);
        sqlite3_bind_text64(statement, place, text ? text : "", len, SQLITE_STATIC, SQLITE_UTF8);
        return;
    }
    case 'b':
        sqlite3_bind_blob(statement, place, va_arg(*args, const unsigned char *), 32, SQLITE_STATIC);
        return;
    default:
        assert(!"known letter");
    }
}

/* The statement after its first step; NULL when it could not be prepared. Places that are not bound are NULL. */
static sqlite3_stmt *start(struct db *db, enum db_query query, const char *format, va_list *args) {
    sqlite3_stmt **slot = &db->statements[query];
    if (!*slot) {
        db->rc = sqlite3_prepare_v3(db->sql, query_texts[query], -1, SQLITE_PREPARE_PERSISTENT, slot, NULL);
        if (db->rc != SQLITE_OK) return NULL;
    }
    for (int i = 0; format[i]; i++) bind_value(*slot, i + 1, format[i], args);
    db->rc = sqlite3_step(*slot);
    return *slot;
}

void db_end(sqlite3_stmt *row) {
    if (!row) return;
    sqlite3_reset(row);
    sqlite3_clear_bindings(row);
}

sqlite3_stmt *db_row(struct db *db, enum db_query query, const char *format, ...) {
    va_list args;
    va_start(args, format);
    sqlite3_stmt *row = start(db, query, format, &args);
    va_end(args);
    if (db->rc == SQLITE_ROW) return row;
    db_end(row);
    return NULL;
}

bool db_next(struct db *db, sqlite3_stmt *row) {
    db->rc = sqlite3_step(row);
    return db->rc == SQLITE_ROW;
}

bool db_do(struct db *db, enum db_query query, const char *format, ...) {
    va_list args;
    va_start(args, format);
    sqlite3_stmt *statement = start(db, query, format, &args);
    va_end(args);
    db_end(statement);
    return db->rc == SQLITE_DONE;
}

int64_t db_changes(struct db *db) { return sqlite3_changes64(db->sql); }

void column_id(sqlite3_stmt *row, int column, struct store_id *out) {
    const char *text = (const char *)sqlite3_column_text(row, column);
    if (!text || !store_id_parse(out, text)) out->text[0] = '\0';
}

char *column_text(sqlite3_stmt *row, int column, size_t *len) {
    const void *text = sqlite3_column_text(row, column);
    size_t bytes = (size_t)sqlite3_column_bytes(row, column);
    char *copy = malloc(bytes + 1);
    if (!copy) return NULL;
    if (bytes > 0) memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    if (len) *len = bytes;
    return copy;
}

/* --- trouble --- */

/* The errno behind an I/O error, 0 when it is not known. The connection's own is often overwritten by the rollback that follows;
 * the files remember theirs. */
static int cause_of(struct db *db) {
    if (!db->sql || (db->rc & 0xFF) != SQLITE_IOERR) return 0;
    static const int pointers[] = {SQLITE_FCNTL_JOURNAL_POINTER,
                                   SQLITE_FCNTL_FILE_POINTER}; /* in WAL mode the journal is the WAL */
    int number = 0;
    for (size_t i = 0; i < sizeof pointers / sizeof *pointers && number == 0; i++) {
        sqlite3_file *file = NULL;
        sqlite3_file_control(db->sql, "main", pointers[i], &file);
        if (file && file->pMethods) file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &number);
    }
    return number ? number : sqlite3_system_errno(db->sql);
}

/* ENOSPC comes as SQLITE_FULL. A quota, and a limit on the size of files, are a full disk to whoever has to do something about
 * it. */
static bool is_full(struct db *db, int cause) {
    return (db->rc & 0xFF) == SQLITE_FULL || cause == ENOSPC || cause == EDQUOT || cause == EFBIG;
}

enum store_status db_trouble(struct db *db, char *error, size_t size) {
    int number = cause_of(db);
    if (is_full(db, number)) {
        snprintf(error, size, "The disk is full: there is no room for the database. Free some space and try again.");
        return STORE_FULL;
    }
    char cause[80];
    bool known = number && strerror_r(number, cause, sizeof cause) == 0;
    snprintf(error, size, "The database answered: %s (SQLite %d)%s%s.", sqlite3_errstr(db->rc), db->rc, known ? ": " : "",
             known ? cause : "");
    return STORE_ERROR;
}

/* The sentence goes into the op for whoever logs or shows it. */
enum store_status op_refuse(struct store_op *op, enum store_status status, const char *sentence) {
    snprintf(op->error, sizeof op->error, "%s", sentence);
    return status;
}
enum store_status op_out_of_memory(struct store_op *op) { return op_refuse(op, STORE_ERROR, "Out of memory."); }
enum store_status op_trouble(struct db *db, struct store_op *op) { return db_trouble(db, op->error, sizeof op->error); }
enum store_status op_missing(struct db *db, struct store_op *op, const char *sentence) {
    return db->rc == SQLITE_DONE ? op_refuse(op, STORE_NOT_FOUND, sentence) : op_trouble(db, op);
}
