/* store_schema.c - the tables, and how an older database becomes this version's.
 *
 *  (1) PRAGMA user_version counts the migrations that have run. A migration, once released, is never edited: a change is a new
 * one at the end. (2) Each runs in a transaction together with its version number: after a crash a database has either version,
 * never half of one. (3) A database with a higher number was written by a newer foresay and is left alone. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/log.h"
#include "gateway/store_sql.h"

enum {
    APPLICATION_ID = 0x46534159, /* "FSAY", in the file's header: says whose database this is */
    REQUEST_KEEP_DAYS = 30,      /* no client repeats a request after that */
};

static const char *const migrations[] = {
    /* 1: users, conversations, messages */
    "CREATE TABLE users ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL UNIQUE COLLATE NOCASE,"
    "  admin INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL"
    ") STRICT;"
    /* Only hashes of secrets are stored; see auth.h. */
    "CREATE TABLE api_keys ("
    "  hash BLOB PRIMARY KEY NOT NULL CHECK (length(hash) = 32),"
    "  user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,"
    "  created_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX api_keys_user ON api_keys (user_id);"
    "CREATE TABLE sessions ("
    "  hash BLOB PRIMARY KEY NOT NULL CHECK (length(hash) = 32),"
    "  user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,"
    "  created_ms INTEGER NOT NULL,"
    "  expires_ms INTEGER NOT NULL"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX sessions_user ON sessions (user_id);"
    "CREATE INDEX sessions_expiry ON sessions (expires_ms);"
    "CREATE TABLE conversations ("
    "  key INTEGER PRIMARY KEY,"
    "  id TEXT NOT NULL UNIQUE,"
    "  user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,"
    "  title TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  changed_ms INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX conversations_page ON conversations (user_id, changed_ms);" /* and the key, as in every index */
    "CREATE TABLE messages ("
    "  key INTEGER PRIMARY KEY,"
    "  id TEXT NOT NULL UNIQUE,"
    "  conv INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,"
    "  parent INTEGER REFERENCES messages,"
    "  role INTEGER NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  generation TEXT,"
    "  base_len INTEGER NOT NULL DEFAULT 0,"
    "  meta TEXT NOT NULL DEFAULT '{}',"
    "  text TEXT NOT NULL" /* last: what stands before it is read without walking a long text's pages */
    ") STRICT;"
    "CREATE INDEX messages_conv ON messages (conv);"
    "CREATE INDEX messages_parent ON messages (parent);"
    "CREATE UNIQUE INDEX messages_generation ON messages (generation) WHERE generation IS NOT NULL;"
    "CREATE INDEX messages_running ON messages (conv) WHERE state = 1;"
    /* What became of a client's request: the same cid again is answered from here. Ids, not references: an answer stays true
     * after its conversation was deleted, and a late repetition does not bring it back. */
    "CREATE TABLE requests ("
    "  user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,"
    "  cid TEXT NOT NULL,"
    "  conv TEXT NOT NULL,"
    "  message TEXT,"
    "  answer TEXT,"
    "  generation TEXT NOT NULL,"
    "  created_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (user_id, cid)"
    ") STRICT, WITHOUT ROWID;",
    /* 2: may guesses come from the user's own earlier answers? */
    "ALTER TABLE users ADD COLUMN learns INTEGER NOT NULL DEFAULT 0;",
    /* 3: search in messages (store_search.c). The index reads the texts where they are; what an entry was made of must be the
     * same when it is taken out, hence by trigger, and a conversation's messages go before it does. Messages that are there
     * already wait in search_backlog. */
    "CREATE VIEW search_rows AS SELECT m.key AS key, 'u' || c.user_id AS owner, m.text AS text "
    "  FROM messages m JOIN conversations c ON c.key = m.conv;"
    "CREATE VIRTUAL TABLE search USING fts5(owner, text, content='search_rows', content_rowid='key', columnsize=0, "
    "  tokenize='words');"
    "CREATE TABLE search_backlog (lo INTEGER NOT NULL, hi INTEGER NOT NULL) STRICT;"
    "INSERT INTO search_backlog SELECT 1, key FROM messages ORDER BY key DESC LIMIT 1;"
    "CREATE TRIGGER search_add AFTER INSERT ON messages "
    "  WHEN new.state <> 1 AND NOT EXISTS (SELECT 1 FROM search_backlog WHERE new.key BETWEEN lo AND hi) "
    "  BEGIN INSERT INTO search (rowid, owner, text) SELECT key, owner, text FROM search_rows WHERE key = new.key; END;"
    "CREATE TRIGGER search_drop BEFORE DELETE ON messages "
    "  WHEN old.state <> 1 AND NOT EXISTS (SELECT 1 FROM search_backlog WHERE old.key BETWEEN lo AND hi) "
    "  BEGIN INSERT INTO search (search, rowid, owner, text) SELECT 'delete', key, owner, text FROM search_rows WHERE key = "
    "old.key; "
    "  END;"
    "CREATE TRIGGER search_out BEFORE UPDATE OF text, state ON messages "
    "  WHEN old.state <> 1 AND NOT EXISTS (SELECT 1 FROM search_backlog WHERE old.key BETWEEN lo AND hi) "
    "  BEGIN INSERT INTO search (search, rowid, owner, text) SELECT 'delete', key, owner, text FROM search_rows WHERE key = "
    "old.key; "
    "  END;"
    "CREATE TRIGGER search_in AFTER UPDATE OF text, state ON messages "
    "  WHEN new.state <> 1 AND NOT EXISTS (SELECT 1 FROM search_backlog WHERE new.key BETWEEN lo AND hi) "
    "  BEGIN INSERT INTO search (rowid, owner, text) SELECT key, owner, text FROM search_rows WHERE key = new.key; END;"
    "CREATE TRIGGER search_conv BEFORE DELETE ON conversations "
    "  BEGIN DELETE FROM messages WHERE conv = old.key; END;",
    /* 4: the latest id of a user, kept when the user goes: an id is never given again, however fast another one comes. */
    "CREATE TABLE users_given (id INTEGER NOT NULL) STRICT;"
    "INSERT INTO users_given SELECT coalesce(max(id), 0) FROM users;"
    "CREATE TRIGGER user_given AFTER INSERT ON users BEGIN UPDATE users_given SET id = new.id; END;",
};
enum { SCHEMA_VERSION = sizeof migrations / sizeof *migrations };

/* The one integer that a PRAGMA or SELECT gives; false on trouble. */
static bool read_number(struct db *db, const char *sql, int64_t *out) {
    sqlite3_stmt *row = NULL;
    db->rc = sqlite3_prepare_v2(db->sql, sql, -1, &row, NULL);
    if (db->rc == SQLITE_OK) db->rc = sqlite3_step(row);
    bool got = db->rc == SQLITE_ROW;
    if (got) *out = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    return got;
}

static bool execute(struct db *db, const char *sql) {
    db->rc = sqlite3_exec(db->sql, sql, NULL, NULL, NULL);
    return db->rc == SQLITE_OK;
}

static bool migrate_one(struct db *db, int version) {
    char mark[120];
    snprintf(mark, sizeof mark, "PRAGMA user_version = %d; PRAGMA application_id = %d; COMMIT", version + 1, APPLICATION_ID);
    if (execute(db, "BEGIN IMMEDIATE") && execute(db, migrations[version]) && execute(db, mark)) return true;
    int rc = db->rc;
    if (!sqlite3_get_autocommit(db->sql)) sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
    db->rc = rc;
    return false;
}

/* Another foresay holds the lock. A server has the schema ready; a command that is just making it will have in a moment. */
static bool await_version(struct db *db, int64_t *version) {
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    for (int i = 0; i < 40 && *version < SCHEMA_VERSION; i++) {
        nanosleep(&pause, NULL);
        if (!read_number(db, "PRAGMA user_version", version)) return false;
    }
    return true;
}

static bool say(struct db *db, const char *path, struct store_error *error) {
    char why[200];
    db_trouble(db, why, sizeof why);
    snprintf(error->text, sizeof error->text, "The database %s cannot be brought up to date. %s", path, why);
    return false;
}

bool db_migrate(struct db *db, const char *path, bool may_change, struct store_error *error) {
    int64_t version, tables;
    if (!read_number(db, "PRAGMA user_version", &version)) return say(db, path, error);
    if (!read_number(db, "SELECT count(*) FROM sqlite_schema", &tables)) return say(db, path, error);
    if (version == 0 && tables > 0 && may_change) {
        snprintf(error->text, sizeof error->text, "%s is another program's database: choose another folder with --data.", path);
        return false;
    }
    if (!may_change && !await_version(db, &version)) return say(db, path, error);
    if (version > SCHEMA_VERSION) {
        snprintf(error->text, sizeof error->text,
                 "The database %s has version %lld, made by a newer foresay; this one knows versions up to %d. "
                 "Use the newer foresay, or another folder with --data.",
                 path, (long long)version, SCHEMA_VERSION);
        return false;
    }
    if (version < SCHEMA_VERSION && !may_change) {
        snprintf(
            error->text, sizeof error->text,
            "The server on %s runs an older foresay (database version %lld, this one needs %d): restart it with this one first.",
            path, (long long)version, SCHEMA_VERSION);
        return false;
    }
    for (int from = (int)version; from < SCHEMA_VERSION; from++) {
        if (!migrate_one(db, from)) return say(db, path, error);
        if (version > 0) log_info("store", "the database went from version %d to %d", from, from + 1);
    }
    return true;
}

bool db_recover(struct db *db, int *n_interrupted, struct store_error *error) {
    char purge[300];
    long long now_ms = (long long)store_now_ms();
    snprintf(purge, sizeof purge, "DELETE FROM sessions WHERE expires_ms <= %lld; DELETE FROM requests WHERE created_ms <= %lld",
             now_ms, now_ms - REQUEST_KEEP_DAYS * 24LL * 3600 * 1000);
    if (execute(db, "UPDATE messages SET state = 3 WHERE state = 1")) {
        *n_interrupted = sqlite3_changes(db->sql);
        if (execute(db, purge)) return true;
    }
    char why[200];
    db_trouble(db, why, sizeof why);
    snprintf(error->text, sizeof error->text, "The database cannot be written. %s", why);
    return false;
}
