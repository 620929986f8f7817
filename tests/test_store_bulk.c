/* test_store_bulk.c - protects what is too much for one transaction, and the queue of the store's thread. */
#include "tests/store_fixture.h"

#include <stdatomic.h>

/* --- imports, and what is too much for one transaction --- */

/* Chats of one question and one answer each; the one at place `bad` is none. */
struct given {
    int n, at, bad;
};

static void given_rewind(void *arg) { ((struct given *)arg)->at = 0; }

static enum store_next given_next(void *arg, struct store_chat *out) {
    static struct store_chat_message messages[] = {
        {MESSAGE_USER, MESSAGE_DONE, -1, 5, "question", "{}", 8},
        {MESSAGE_ASSISTANT, MESSAGE_LENGTH, 0, 6, "answer", "{\"why\":\"length\"}", 6},
    };
    struct given *given = arg;
    if (given->at == given->n) return STORE_NEXT_END;
    *out = (struct store_chat){.title = "given", .changed_ms = given->at, .messages = messages, .n_messages = 2};
    return given->at++ == given->bad ? STORE_NEXT_BAD : STORE_NEXT_CHAT;
}

static enum store_status give(struct fixture *f, int64_t user, int n, int bad) {
    struct given given = {.n = n, .at = 1, .bad = bad};
    const struct store_import import = {&given, given_rewind, given_next};
    struct store_op *op = op_for(STORE_IMPORT, user);
    op->import = &import;
    return run_free(f->store, op);
}

static int count_chats(struct fixture *f, int64_t user) {
    struct store_op *op = op_for(STORE_CONVS, user);
    op->limit = STORE_MAX_PAGE;
    assert_int_equal(store_run(f->store, op), STORE_OK);
    int n = op->n_convs;
    store_op_free(op);
    return n;
}

static void imports_come_whole_or_not_at_all(void **state) {
    struct fixture *f = *state;
    assert_int_equal(give(f, f->ann.id, 30, 29), STORE_CONFLICT);
    assert_int_equal(give(f, 12345, 2, -1), STORE_NOT_FOUND);
    assert_int_equal(count_chats(f, f->ann.id), 0);
    assert_int_equal(give(f, f->ann.id, 30, -1), STORE_OK);
    assert_int_equal(give(f, f->ann.id, 0, -1), STORE_OK);
    assert_int_equal(count_chats(f, f->ann.id), 30);
    struct store_op *op = op_for(STORE_EXPORT, f->ann.id);
    op->limit = 1;
    assert_int_equal(store_run(f->store, op), STORE_OK);
    assert_true(op->n_convs == 1 && op->n_messages == 1 && op->more && op->after_message > 0);
    struct store_op *rest = op_for(STORE_EXPORT, f->ann.id);
    rest->limit = 10;
    rest->after_chat = op->after_chat;
    rest->after_message = op->after_message;
    assert_int_equal(store_run(f->store, rest), STORE_OK);
    assert_true(rest->n_messages == 1 && !rest->more && rest->after_message == 0);
    assert_string_equal(rest->messages[0].parent.text, op->messages[0].id.text);
    assert_string_equal(rest->messages[0].meta, "{\"why\":\"length\"}");
    store_op_free(op);
    store_op_free(rest);
}

static void a_user_of_many_chats_goes(void **state) {
    struct fixture *f = *state;
    struct store_user user;
    struct store_error error = {""};
    assert_int_equal(give(f, f->bob.id, 45, -1), STORE_OK);
    assert_int_equal(give(f, f->ann.id, 3, -1), STORE_OK);
    struct store_op *step = store_op_new(STORE_USER_REMOVE);
    snprintf(step->found_user.name, sizeof step->found_user.name, "bob");
    assert_int_equal(store_run(f->store, step), STORE_OK);
    assert_true(step->more);
    store_op_free(step);
    assert_int_equal(count_chats(f, f->bob.id), 25);
    assert_int_equal(store_user_remove(f->store, "bob", &user, &error), STORE_OK);
    assert_int_equal(user.id, f->bob.id);
    assert_int_equal(count_chats(f, f->bob.id), 0);
    assert_int_equal(store_user_remove(f->store, "bob", &user, &error), STORE_NOT_FOUND);
    assert_int_equal(count_chats(f, f->ann.id), 3);
}

/* --- queues --- */

struct results {
    int n, n_ok, n_conflict;
};

static void count_result(struct store_op *op) {
    struct results *results = op->context;
    results->n++;
    results->n_ok += op->status == STORE_OK;
    results->n_conflict += op->status == STORE_CONFLICT;
    store_op_free(op);
}

static atomic_int n_wakes;
static void on_wake(void *arg) {
    (void)arg;
    atomic_fetch_add(&n_wakes, 1);
}

/* A full queue refuses; a failing operation of a group undoes itself only; store_close completes what was posted. The writer is
 * held up by a transaction of the test's own, so that the operations wait together. */
static void queue_is_bounded_and_groups_hold(void **state) {
    struct fixture *f = *state;
    enum { MAX_QUEUE = 100, GROUP = 64 };
    struct results results = {0};
    struct store_error error;
    struct store_config config = {.data_dir = f->dir, .max_queue = MAX_QUEUE, .wake = on_wake};
    store_close(f->store);
    f->store = store_open(&config, NULL, &error);
    assert_non_null(f->store);
    struct store_op *first = whole_turn(f->store, f->ann.id, NULL, "first", "1");
    sqlite3 *sql = open_sql(f->dir);
    sql_do(sql, "BEGIN IMMEDIATE");
    int posted = 0, bad = 0;
    for (;; posted++) {
        bool is_bad = posted % 3 == 1;
        char cid[20];
        snprintf(cid, sizeof cid, "q%d", posted);
        struct store_op *op = turn_op(f->ann.id, cid, NULL, NULL, "Hello");
        if (is_bad) op->answer = first->answer; /* fails after its conversation and question were written */
        op->done = count_result;
        op->context = &results;
        if (!store_post(f->store, op)) {
            store_op_free(op);
            break;
        }
        bad += is_bad;
    }
    assert_in_range(posted, MAX_QUEUE, MAX_QUEUE + GROUP);
    assert_int_equal(results.n, 0);
    sql_do(sql, "COMMIT");
    store_close(f->store);
    assert_int_equal(results.n, posted);
    assert_int_equal(results.n_conflict, bad);
    assert_int_equal(results.n_ok, posted - bad);
    assert_in_range(atomic_load(&n_wakes), 1, posted);
    char count[20], want[20];
    sql_value(sql, "SELECT count(*) FROM conversations", count, sizeof count);
    snprintf(want, sizeof want, "%d", 1 + posted - bad);
    assert_string_equal(count, want);
    sqlite3_close(sql);
    store_op_free(first);
    f->store = open_store(f->dir, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(imports_come_whole_or_not_at_all),
        TEST(a_user_of_many_chats_goes),
        TEST(queue_is_bounded_and_groups_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
