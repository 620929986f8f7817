/* store_sql.h - private to store*.c: one connection to the database, its statements, and what runs on it.
 *
 * The store is cut by what changes together (folder, connection, schema, writes, reads, threads), so SQLite's header is included
 * here, once, for those files; nothing outside store*.c sees it.
 *
 *  (1) A connection belongs to one thread at a time; SQLite is opened without its own mutexes.
 *  (2) The writer's connection is the only one of a server that writes or checkpoints. SQLite 3.7.0 to 3.51.2 can corrupt a
 * database when one connection resets the WAL while another checkpoints; a guest (another process) writes but never checkpoints,
 * and the server's checkpoints hold the write lock, so the two never meet. (3) A statement is reset before its caller returns:
 * values are bound without a copy and live only in the operation. */
#ifndef FORESAY_STORE_SQL_H
#define FORESAY_STORE_SQL_H

#include <sqlite3.h>

#include "gateway/store.h"

enum db_role {
    DB_WRITER, /* reads, writes, checkpoints */
    DB_GUEST,  /* reads and writes beside a server's writer */
    DB_READER, /* reads only */
};

/* Every statement that is prepared once; the texts are in store_sql.c. */
enum db_query {
    Q_BEGIN_WRITE,
    Q_BEGIN_READ,
    Q_COMMIT,
    Q_ROLLBACK,
    Q_SAVEPOINT,
    Q_SAVEPOINT_RELEASE,
    Q_SAVEPOINT_ROLLBACK,
    Q_REQUEST_GET,
    Q_REQUEST_ADD,
    Q_CONV_ADD,
    Q_CONV_FIND,
    Q_CONV_GET,
    Q_CONV_TOUCH,
    Q_CONV_RENAME,
    Q_CONV_DELETE,
    Q_CONV_PAGE,
    Q_CONV_NEXT,
    Q_CONV_IMPORT,
    Q_MESSAGE_ADD,
    Q_MESSAGE_FIND,
    Q_MESSAGE_NEWEST_ANSWER,
    Q_MESSAGE_CONTINUE,
    Q_MESSAGE_CHECKPOINT,
    Q_MESSAGE_FINISH,
    Q_MESSAGE_PAGE,
    Q_MESSAGE_NEXT,
    Q_MESSAGE_IMPORT,
    Q_MESSAGE_STEP,
    Q_MESSAGE_BY_ID,
    Q_MESSAGE_BY_GENERATION,
    Q_MESSAGE_TEXT,
    Q_MESSAGE_ANSWERS,
    Q_SEARCH,
    Q_SEARCH_ADD,
    Q_BACKLOG_GET,
    Q_BACKLOG_NEXT,
    Q_BACKLOG_MOVE,
    Q_BACKLOG_DROP,
    Q_BACKLOG_OPEN,
    Q_BACKLOG_CLOSE,
    Q_SESSION_ADD,
    Q_SESSION_DROP,
    Q_SESSION_PURGE,
    Q_SESSION_GET,
    Q_KEY_ADD,
    Q_KEY_GET,
    Q_USER_ADD,
    Q_USER_BY_NAME,
    Q_USER_KEYS_DROP,
    Q_USER_SESSIONS_DROP,
    Q_USER_MAY_GO,
    Q_USER_CONVS_DROP,
    Q_USER_REMOVE,
    Q_USER_COUNT,
    Q_USER_LIST,
    Q_USER_ADMIN,
    Q_USER_LEARNS,
    Q_USER_LEARN,
    Q_COUNT,
};

struct db {
    sqlite3 *sql;
    sqlite3_stmt *statements[Q_COUNT];
    int rc;                   /* result of the latest call below */
    int wal_pages, wal_limit; /* frames in the WAL after the latest commit; how many bring a checkpoint. Writer only */
    bool in_trouble;          /* the latest group of writes had a failure */
    bool indexing;            /* the latest look at the backlog of search found some. Writer only */
};

/* Opens with this role's settings; the schema may still be missing. On failure error holds a sentence and db is closed. */
bool db_open(struct db *db, const char *path, enum db_role role, struct store_error *error);
void db_close(struct db *db); /* accepts a closed one */

/* Binds the values by format and steps once. A letter a value: i int64_t, d const struct store_id * (empty = NULL), s const char
 * * (NULL = NULL), t const char * and size_t (text with its length), b const unsigned char[32]. db_row returns the statement
 * standing on its first row, to be read, stepped (db_next) and ended (db_end); NULL when there is no row (rc SQLITE_DONE) or
 * trouble (another rc). db_do is for what gives no rows: true when it worked. */
sqlite3_stmt *db_row(struct db *db, enum db_query query, const char *format, ...);
bool db_next(struct db *db, sqlite3_stmt *row);
void db_end(sqlite3_stmt *row);
bool db_do(struct db *db, enum db_query query, const char *format, ...);
int64_t db_changes(struct db *db);

void column_id(sqlite3_stmt *row, int column, struct store_id *out);
char *column_text(sqlite3_stmt *row, int column, size_t *len); /* malloced copy; NULL: out of memory. len may be NULL */

/* Turns the latest rc into a status and writes the sentence; for an operation that could not be done. */
enum store_status db_trouble(struct db *db, char *error, size_t size);

/* Ends of an operation that did not work; each gives its status back. op_missing: after a lookup without a row, either nothing is
 * there, or trouble. */
enum store_status op_refuse(struct store_op *op, enum store_status status, const char *sentence);
enum store_status op_out_of_memory(struct store_op *op);
enum store_status op_trouble(struct db *db, struct store_op *op);
enum store_status op_missing(struct db *db, struct store_op *op, const char *sentence);

/* store_schema.c: brings the tables up to this version; false with a sentence when that cannot be. A guest beside a server only
 * checks. */
bool db_migrate(struct db *db, const char *path, bool may_change, struct store_error *error);
/* What a server does before it serves: running answers become interrupted (their number goes out), what has expired goes. */
bool db_recover(struct db *db, int *n_interrupted, struct store_error *error);

/* store_folder.c: makes the folder and the (empty, private) database file, takes the lock. The lock's descriptor, or -1 with a
 * sentence; a guest that finds it taken gets STORE_FOLDER_BUSY. */
enum { STORE_FOLDER_BUSY = -2 };
int store_folder_open(const char *dir, bool guest, struct store_error *error);

enum {
    STORE_GROUP_MAX = 64, /* operations that share a transaction: one fsync for all, and still a bounded wait for the first */
    DB_BUSY_TIMEOUT_MS = 5000,    /* a guest's transaction, or SQLite's recovery after a crash, is over long before */
    DB_WAL_LIMIT = 1000,          /* pages: 4 MB, SQLite's own default */
    DB_CHECKPOINT_WAIT_MS = 1000, /* writes wait this long at most when a stranger (a backup, a shell) keeps a read open */
};

/* store_write.c: runs the n operations as one transaction, each in its own savepoint, and leaves their statuses.
 * store_read.c: runs one that only reads. */
void store_write_group(struct db *db, struct store_op **ops, int n);
void store_checkpoint(struct db *db); /* copies the WAL into the database when it is long enough */
void store_read_one(struct db *db, struct store_op *op);
bool store_kind_reads(enum store_kind kind);
/* store_read.c: adds one to op->convs, from a row of Q_CONV_GET or Q_CONV_PAGE; to op->messages, from one with the columns of a
 * message. False: out of memory. */
bool store_add_conv(struct store_op *op, sqlite3_stmt *row);
bool store_add_message(struct store_op *op, sqlite3_stmt *row);

/* store_words.c: teaches a connection the words of the search index and the function excerpt(); an SQLite code. */
int search_register(sqlite3 *sql);
/* store_search.c: STORE_SEARCH. And a little of what is not in the index yet, as a transaction of its own; false when there is no
 * more, or it cannot be written now. */
enum store_status store_search(struct db *db, struct store_op *op);
bool store_index_some(struct db *db);

/* store_archive.c: STORE_EXPORT, STORE_IMPORT. */
enum store_status store_export(struct db *db, struct store_op *op);
enum store_status store_import(struct db *db, struct store_op *op);

int64_t store_now_ms(void);

/* store_op.c */
bool store_name_valid(const char *name);
char *store_title_from(const char *text, size_t len); /* at most 60 characters, malloced; NULL: out of memory */

#endif
