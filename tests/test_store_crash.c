/* test_store_crash.c - protects the promise "what was acknowledged is on disk": kill -9 at any moment, a full disk, a disk that
 * fails inside a group of writes. */
#include "tests/store_fixture.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { ROUNDS = 30, IN_FLIGHT = 24, SEED = 20261123 };

static uint32_t random_state = SEED;
static uint32_t next_random(void) { /* xorshift32 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* --- kill -9 --- */

/* One line of the child's report: an operation that was acknowledged. */
struct report {
    int number; /* of the turn; its cid is "r<round>-<number>", its text "text <number>" */
    int answer; /* the answer's checkpoints and end: how many x its text has; -1 = the turn itself */
    bool finished;
    struct store_id message, answer_id;
};

struct child {
    struct store *store;
    int64_t user;
    int round, n_posted, report_fd;
};

struct child_turn {
    struct child *child;
    struct report report;
    struct store_id generation;
};

static void child_post(struct child *child);

static void child_report(const struct report *report, int fd) {
    if (write(fd, report, sizeof *report) != (ssize_t)sizeof *report) _exit(10);
}

/* The life of a turn in the child: begun, three checkpoints, finished; then a new one takes its place. */
static void child_done(struct store_op *op) {
    struct child_turn *turn = op->context;
    struct child *child = turn->child;
    if (op->status != STORE_OK) _exit(11);
    if (op->kind == STORE_BEGIN_TURN) {
        turn->report.message = op->message;
        turn->report.answer_id = op->answer;
        turn->generation = op->generation;
    }
    turn->report.finished = op->kind == STORE_FINISH;
    child_report(&turn->report, child->report_fd);
    store_op_free(op);
    if (turn->report.finished) {
        free(turn);
        child_post(child);
        return;
    }
    char text[100];
    turn->report.answer = turn->report.answer < 0 ? 1 : turn->report.answer + 20;
    memset(text, 'x', sizeof text);
    text[turn->report.answer] = '\0';
    struct store_op *next =
        answer_op(turn->report.answer > 60 ? STORE_FINISH : STORE_CHECKPOINT, &turn->report.answer_id, &turn->generation, text);
    next->done = child_done;
    next->context = turn;
    if (!store_post(child->store, next)) _exit(12);
}

static void child_post(struct child *child) {
    struct child_turn *turn = calloc(1, sizeof *turn);
    if (!turn) _exit(13);
    char cid[65], text[40];
    turn->child = child;
    turn->report.number = child->n_posted++;
    turn->report.answer = -1;
    snprintf(cid, sizeof cid, "r%d-%d", child->round, turn->report.number);
    snprintf(text, sizeof text, "text %d", turn->report.number);
    struct store_op *op = turn_op(child->user, cid, NULL, NULL, text);
    op->done = child_done;
    op->context = turn;
    if (!store_post(child->store, op)) _exit(14);
}

static int child_wake_pipe[2];
static void child_wake(void *arg) {
    (void)arg;
    if (write(child_wake_pipe[1], "", 1) != 1) _exit(15);
}

static void child_main(const char *dir, int round, int64_t user, int report_fd) {
    struct store_error error;
    struct store_config config = {.data_dir = dir, .wake = child_wake};
    char byte;
    if (pipe(child_wake_pipe) != 0) _exit(16);
    struct child child = {.round = round, .user = user, .report_fd = report_fd};
    child.store = store_open(&config, NULL, &error);
    if (!child.store) _exit(17);
    for (int i = 0; i < IN_FLIGHT; i++) child_post(&child);
    while (read(child_wake_pipe[0], &byte, 1) == 1) store_poll(child.store);
    _exit(18);
}

/* Every acknowledged turn is there once, with its text; every answer at least as far as acknowledged. */
static void verify(struct store *store, int64_t user, int round, const struct report *reports, int n) {
    for (int i = 0; i < n; i++) {
        char cid[65], text[40];
        const struct report *report = &reports[i];
        snprintf(cid, sizeof cid, "r%d-%d", round, report->number);
        snprintf(text, sizeof text, "text %d", report->number);
        struct store_op *again = turn_op(user, cid, NULL, NULL, text);
        assert_int_equal(store_run(store, again), STORE_DUPLICATE);
        assert_string_equal(again->message.text, report->message.text);
        assert_string_equal(again->answer.text, report->answer_id.text);
        struct store_op *path = op_for(STORE_PATH, user);
        path->message = report->answer_id;
        assert_int_equal(store_run(store, path), STORE_OK);
        assert_int_equal(path->n_messages, 2);
        assert_string_equal(path->messages[0].text, text);
        const struct store_message *answer = &path->messages[1];
        assert_true((int)answer->text_len >= report->answer);
        assert_int_equal(answer->text_len, strspn(answer->text, "x"));
        if (report->finished) assert_int_equal(answer->state, MESSAGE_DONE);
        assert_true(answer->state == MESSAGE_DONE || answer->state == MESSAGE_INTERRUPTED);
        store_op_free(path);
        store_op_free(again);
    }
}

static void assert_sound(const char *dir) {
    char answer[200];
    sqlite3 *sql = open_sql(dir);
    sql_value(sql, "PRAGMA integrity_check", answer, sizeof answer);
    assert_string_equal(answer, "ok");
    sqlite3_close(sql);
}

/* The child works at full speed and is killed after a random number of acknowledgements, which the pipe brings whole. */
static int run_round(const char *dir, int round, int64_t user, struct report *reports, int max) {
    int fds[2], n = 0, kill_after = 1 + (int)(next_random() % 200);
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        close(fds[0]);
        child_main(dir, round, user, fds[1]);
    }
    close(fds[1]);
    while (n < max && read(fds[0], &reports[n], sizeof *reports) == (ssize_t)sizeof *reports) {
        if (++n == kill_after) kill(child, SIGKILL);
    }
    close(fds[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(n >= kill_after && n < max);
    return n;
}

static void acknowledged_survives_kill(void **state) {
    struct fixture *f = *state;
    enum { MAX_REPORTS = 20000 };
    struct report *reports = calloc(MAX_REPORTS, sizeof *reports);
    assert_non_null(reports);
    int total = 0;
    print_message("seed %d\n", SEED);
    store_close(f->store);
    for (int round = 0; round < ROUNDS; round++) {
        int n = run_round(f->dir, round, f->ann.id, reports, MAX_REPORTS);
        f->store = open_store(f->dir, NULL);
        verify(f->store, f->ann.id, round, reports, n);
        store_close(f->store);
        assert_sound(f->dir);
        total += n;
    }
    print_message("%d acknowledged operations, all there after %d kills\n", total, ROUNDS);
    f->store = open_store(f->dir, NULL);
    free(reports);
}

/* --- a full disk --- */

/* The process's limit on file size stands in for the end of the disk: write() fails in the same place. */
/* Enough for some tens of small turns, each of which writes about ten pages to the WAL; not for one of the large texts below. */
enum { DISK_ROOM = 1000000, LARGE = 4 << 20 };

static void set_limit(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void disk_fills_up(const char *dir) {
    char path[300];
    struct stat wal;
    snprintf(path, sizeof path, "%s/foresay.db-wal", dir);
    assert_int_equal(stat(path, &wal), 0);
    signal(SIGXFSZ, SIG_IGN);
    set_limit((rlim_t)wal.st_size + DISK_ROOM);
}
static void disk_has_room(void) { set_limit(RLIM_INFINITY); }

static int message_count(const char *dir) {
    char count[20];
    sqlite3 *sql = open_sql(dir);
    sql_value(sql, "SELECT count(*) FROM messages", count, sizeof count);
    sqlite3_close(sql);
    return (int)strtol(count, NULL, 10);
}

/* Writes fail with a sentence and change nothing; reads go on; what was acknowledged stays; with room again writes work. */
static void full_disk_loses_nothing(void **state) {
    struct fixture *f = *state;
    enum { MAX_TURNS = 2000 };
    static char text[4000], long_answer[LARGE];
    memset(text, 'x', sizeof text - 1);
    memset(long_answer, 'x', sizeof long_answer - 1);
    struct store_op *cut = turn_op(f->ann.id, "", NULL, NULL, "Hello");
    assert_int_equal(store_run(f->store, cut), STORE_OK);
    disk_fills_up(f->dir);
    int n = 0;
    enum store_status status = STORE_OK;
    char error[200] = "";
    struct store_id conv = {""};
    while (status == STORE_OK && n < MAX_TURNS) {
        struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, text);
        status = store_run(f->store, turn);
        memcpy(error, turn->error, sizeof error);
        conv = turn->conv;
        if (status == STORE_OK) n++;
        store_op_free(turn);
    }
    assert_in_range(n, 1, MAX_TURNS - 1);
    assert_int_equal(status, STORE_FULL);
    assert_non_null(strstr(error, "The disk is full"));
    assert_string_equal(conv.text, ""); /* an operation that failed looks as before */
    assert_int_equal(write_answer(f->store, STORE_FINISH, cut, long_answer, MESSAGE_DONE), STORE_FULL);

    struct store_op *page = op_for(STORE_CONVS, f->ann.id);
    assert_int_equal(store_run(f->store, page), STORE_OK);
    assert_true(page->n_convs > 0);
    store_op_free(page);

    disk_has_room();
    assert_int_equal(write_answer(f->store, STORE_FINISH, cut, long_answer, MESSAGE_DONE), STORE_OK);
    reopen(f, NULL);
    assert_int_equal(message_count(f->dir), 2 * (n + 1));
    assert_sound(f->dir);
    store_op_free(cut);
}

struct outcome {
    int n_ok, n_full, n_else;
};

static void count_outcome(struct store_op *op) {
    struct outcome *outcome = op->context;
    if (op->status == STORE_OK)
        outcome->n_ok++;
    else if (op->status == STORE_FULL)
        outcome->n_full++;
    else
        outcome->n_else++;
    store_op_free(op);
}

/* Several operations share a transaction, and one of them is too large for the disk: the others get in. */
static void large_write_does_not_sink_its_group(void **state) {
    struct fixture *f = *state;
    enum { SMALL = 6 };
    struct outcome outcome = {0};
    char *large = malloc(LARGE + 1);
    assert_non_null(large);
    memset(large, 'x', LARGE);
    large[LARGE] = '\0';
    sqlite3 *sql = open_sql(f->dir);
    sql_do(sql, "BEGIN IMMEDIATE"); /* until all are posted, so that they wait together */
    disk_fills_up(f->dir);
    for (int i = 0; i <= SMALL; i++) {
        struct store_op *op = turn_op(f->ann.id, "", NULL, NULL, i == SMALL / 2 ? large : "small");
        op->done = count_outcome;
        op->context = &outcome;
        assert_true(store_post(f->store, op));
    }
    sql_do(sql, "COMMIT");
    sqlite3_close(sql);
    store_close(f->store);
    disk_has_room();
    f->store = open_store(f->dir, NULL);
    assert_int_equal(outcome.n_ok, SMALL);
    assert_int_equal(outcome.n_full, 1);
    assert_int_equal(outcome.n_else, 0);
    assert_int_equal(message_count(f->dir), 2 * SMALL);
    free(large);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(acknowledged_survives_kill),
        TEST(full_disk_loses_nothing),
        TEST(large_write_does_not_sink_its_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
