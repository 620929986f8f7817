/* test_store_folder.c - protects the folder and its lock: two servers, guests, foreign files, missing rights. */
#include "tests/store_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "gateway/store_sql.h"

static void assert_refused(const char *dir, bool guest, const char *part) {
    struct store_error error = {""};
    struct store_config config = {.data_dir = dir, .guest = guest};
    struct store *store = store_open(&config, NULL, &error);
    assert_null(store);
    if (!strstr(error.text, part)) print_error("\"%s\" is not in: %s\n", part, error.text);
    assert_non_null(strstr(error.text, part));
}

/* A second server is refused; a guest may come in beside the first, add a user who can sign in at once, and leaves running
 * answers alone. */
static void lock_keeps_servers_apart(void **state) {
    struct fixture *f = *state;
    assert_refused(f->dir, false, "is in use by another foresay (process ");
    struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, "running");
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    struct store_error error;
    struct store_config config = {.data_dir = f->dir, .guest = true};
    struct store *guest = store_open(&config, NULL, &error);
    assert_non_null(guest);
    int64_t carol = add_user(guest, "carol");
    store_close(guest);
    struct store_op *key = store_op_new(STORE_KEY_GET);
    snprintf((char *)key->token_hash, 32, "carol");
    assert_int_equal(store_run(f->store, key), STORE_OK);
    assert_int_equal(key->found_user.id, carol);
    assert_int_equal(write_answer(f->store, STORE_FINISH, turn, "done", MESSAGE_DONE), STORE_OK);
    store_op_free(key);
    store_op_free(turn);
}

/* A guest alone makes folder and database, all private. */
static void guest_alone_makes_the_folder(void **state) {
    struct fixture *f = *state;
    char dir[300], path[340];
    snprintf(dir, sizeof dir, "%s/a/b", f->dir);
    struct store_error error;
    struct store_config config = {.data_dir = dir, .guest = true};
    struct store *guest = store_open(&config, NULL, &error);
    assert_non_null(guest);
    add_user(guest, "carol");
    struct stat status;
    static const char *const names[] = {"", "foresay.db", "foresay.db-wal", "foresay.lock"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 077, 0);
    }
    store_close(guest);
    struct store *server = open_store(dir, NULL);
    assert_int_equal(store_user_count(server), 1);
    store_close(server);
    folder_remove(dir);
    snprintf(dir, sizeof dir, "%s/a", f->dir);
    folder_remove(dir);
}

/* What is not a folder, not ours, or newer than this program is left as it is, with a sentence. */
static void foreign_data_is_refused(void **state) {
    struct fixture *f = *state;
    char path[300], version[20];
    store_close(f->store);
    f->store = NULL;
    snprintf(path, sizeof path, "%s/foresay.db", f->dir);
    assert_refused("", false, "has no name");
    assert_refused(path, false, "is a file, not a folder");
    snprintf(path, sizeof path, "%s/foresay.db/x", f->dir);
    assert_refused(path, false, "a file is in the way");

    sqlite3 *sql = open_sql(f->dir);
    sql_do(sql, "PRAGMA user_version = 1000");
    sqlite3_close(sql);
    assert_refused(f->dir, false, "has version 1000, made by a newer foresay; this one knows versions up to 4.");
    assert_refused(f->dir, true, "has version 1000");
    sql = open_sql(f->dir);
    sql_value(sql, "PRAGMA user_version", version, sizeof version);
    assert_string_equal(version, "1000");
    sql_do(sql, "PRAGMA user_version = 0");
    sqlite3_close(sql);
    assert_refused(f->dir, false, "is another program's database");

    snprintf(path, sizeof path, "%s/foresay.db", f->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++) fputs("This is no database. ", file);
    fclose(file);
    assert_refused(f->dir, false, "is not a database");
}

/* A folder that this user may not write is named before anything else happens. Root may write everywhere, so a child drops that
 * right. */
static void unwritable_folder_is_refused(void **state) {
    struct fixture *f = *state;
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(chmod(f->dir, 0555), 0);
    pid_t child = fork();
    if (child == 0) {
        struct store_error error = {""};
        struct store_config config = {.data_dir = f->dir};
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
        if (store_open(&config, NULL, &error)) _exit(3);
        _exit(strstr(error.text, "cannot be written (Permission denied)") ? 0 : 4);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(chmod(f->dir, 0700), 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(lock_keeps_servers_apart),
        TEST(guest_alone_makes_the_folder),
        TEST(foreign_data_is_refused),
        TEST(unwritable_folder_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
