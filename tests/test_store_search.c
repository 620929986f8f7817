/* test_store_search.c - protects search in messages: words in any script, any input, only one's own, the index in step with what
 * is written and deleted, old databases brought along. */
#include "tests/store_fixture.h"

#include <time.h>

#include "gateway/store_sql.h"

static struct store_op *ask(struct store *store, int64_t user, const char *words, size_t len) {
    struct store_op *op = op_for(STORE_SEARCH, user);
    assert_true(store_op_set_text(op, words, len));
    assert_int_equal(store_run(store, op), STORE_OK);
    assert_int_equal(op->n_messages, op->n_convs);
    return op;
}

static int count_hits(struct store *store, int64_t user, const char *words) {
    struct store_op *op = ask(store, user, words, strlen(words));
    int n = op->n_messages;
    store_op_free(op);
    return n;
}

static void say(struct fixture *f, int64_t user, const char *question, const char *answer) {
    store_op_free(whole_turn(f->store, user, NULL, question, answer));
}

/* The index against the texts, word by word: only while no message is being written. */
static void index_is_whole(struct fixture *f) {
    sqlite3 *sql = open_sql(f->dir);
    assert_int_equal(search_register(sql), SQLITE_OK);
    sql_do(sql, "INSERT INTO search (search, rank) VALUES ('integrity-check', 1)");
    sqlite3_close(sql);
}

/* --- words --- */

static void words_are_found(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *text, *words;
        bool found;
    } rows[] = {
        {"The quick brown fox", "quick", true},
        {"The quick brown fox", "FOX quick", true},
        {"The quick brown fox", "qui", true},
        {"The quick brown fox", "fox q", false}, /* and not of one letter */
        {"The quick brown fox", "fox qu", true},
        {"The quick brown fox", "qui fox", false}, /* only the last word may be a beginning */
        {"The quick brown fox", "uick", false},
        {"Crème brûlée", "creme brule", true},
        {"Straße in Köln", "koln stra", true},
        {"call foo_bar(x) now", "foo_bar(x)", true},
        {"call foo_bar(x) now", "bar foo", true},
        {"call foo_bar(x) now", "bar_foo", false},
        {"我喜欢喝绿茶,不喜欢咖啡。", "绿茶", true},
        {"我喜欢喝绿茶,不喜欢咖啡。", "咖啡 喜欢", true},
        {"我喜欢喝绿茶,不喜欢咖啡。", "茶绿", false},
        {"昨日、東京都に行きました。", "京都", true},
        {"昨日、東京都に行きました。", "東京\xE3\x80\x80行き", true},
        {"カタカナとひらがな", "ひら", true},
        {"내일 서울에서 만나요", "서울", true},
        {"내일 서울에서 만나요", "만나 내일", true},
        {"ภาษาไทยไม่เว้นวรรค", "ไทย", true},
        {"iPhone手机 is here", "iphone手", true},
        {"well done \xF0\x9F\x98\x80\xF0\x9F\x8E\x89!", "\xF0\x9F\x8E\x89", true},
        {"well done \xF0\x9F\x98\x80!", "\xF0\x9F\x8E\x89", false},
        {"a and b", "AND", true},
        {"x NEAR y", "near", true},
        {"say \"hello there\" twice", "\"hello", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct store_op *turn = whole_turn(f->store, f->ann.id, NULL, rows[i].text, "");
        int n = count_hits(f->store, f->ann.id, rows[i].words);
        if (n != (int)rows[i].found) print_error("%s in: %s\n", rows[i].words, rows[i].text);
        assert_int_equal(n, rows[i].found);
        struct store_op *del = op_for(STORE_DELETE, f->ann.id);
        del->conv = turn->conv;
        assert_int_equal(run_free(f->store, del), STORE_OK);
        store_op_free(turn);
    }
    index_is_whole(f);
}

/* Nothing that is typed is FTS5's language, and nothing is too long. */
static void any_input_is_safe(void **state) {
    struct fixture *f = *state;
    static const char *const inputs[] = {"",
                                         " ",
                                         "\"",
                                         "\"\"",
                                         "\"\"\"",
                                         "a\"",
                                         "AND",
                                         "a AND",
                                         "NOT",
                                         "NEAR(",
                                         "NEAR(a",
                                         "*",
                                         "a* *",
                                         "(",
                                         ")",
                                         "a)(",
                                         "text:a",
                                         "owner:u1",
                                         "-a",
                                         "^a",
                                         "{a b}: c",
                                         "a + b",
                                         "+",
                                         "++ --",
                                         "'",
                                         "'; DROP TABLE users; --",
                                         "\x01\x02\x03",
                                         "\xF0\x9F",
                                         "\xFF\xFE",
                                         "\xED\xA0\x80",
                                         "\\",
                                         "%",
                                         "_"};
    say(f, f->ann.id, "a b c", "and so on");
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) count_hits(f->store, f->ann.id, inputs[i]);
    static char long_input[5000];
    for (size_t i = 0; i < sizeof long_input; i++) long_input[i] = "\"a "[i % 3];
    store_op_free(ask(f->store, f->ann.id, long_input, sizeof long_input));
    memset(long_input, '"', sizeof long_input);
    store_op_free(ask(f->store, f->ann.id, long_input, sizeof long_input));
    struct store_op *nul = ask(f->store, f->ann.id, "a\0b", 3);
    assert_int_equal(nul->n_messages, 1);
    store_op_free(nul);
    assert_int_equal(count_hits(f->store, f->ann.id, "a + b"), 1);
    assert_int_equal(count_hits(f->store, f->ann.id, "+"), 0);
    assert_int_equal(count_hits(f->store, f->ann.id, "owner:u1"), 0);
}

/* --- excerpts --- */

static void excerpt_is(struct fixture *f, const char *words, const char *wanted) {
    struct store_op *op = ask(f->store, f->ann.id, words, strlen(words));
    assert_int_equal(op->n_messages, 1);
    assert_string_equal(op->messages[0].text, wanted);
    assert_string_equal(op->convs[0].id.text, op->messages[0].conv.text);
    store_op_free(op);
}

static void hits_are_marked(void **state) {
    struct fixture *f = *state;
    say(f, f->ann.id, "<b>Fish</b> & chips,\n\n\tfish\x02pond \"fishing\"", "");
    excerpt_is(f, "fish", "<b>\2Fish\3</b> & chips, \2fish\3 pond \"\2fishing\3\"");
    say(f, f->ann.id, "我喜欢喝绿茶。", "");
    excerpt_is(f, "绿茶", "我喜欢喝\2绿茶\3。");
}

/* The rare word is in sight, with some text around it; its excerpt costs the same in a text of any length. */
static void long_texts_have_short_excerpts(void **state) {
    struct fixture *f = *state;
    enum { N = 200 * 1000 };
    char *text = malloc(N + 100);
    assert_non_null(text);
    for (int i = 0; i < N; i += 4) memcpy(text + i, "the ", 4);
    snprintf(text + N, 100, "needle in the hay the end of it");
    say(f, f->ann.id, text, "");
    struct store_op *op = ask(f->store, f->ann.id, "the needle", 10);
    assert_int_equal(op->n_messages, 1);
    const char *excerpt = op->messages[0].text;
    assert_non_null(strstr(excerpt, "\2needle\3 in \2the\3 hay"));
    assert_memory_equal(excerpt, "\xE2\x80\xA6", 3);
    assert_true(strlen(excerpt) < 400);
    store_op_free(op);
    memset(text, 'x', N);
    memcpy(text, "start ", 6);
    say(f, f->ann.id, text, "");
    op = ask(f->store, f->ann.id, "start", 5);
    assert_true(op->messages[0].text_len < 250);
    store_op_free(op);
    free(text);
}

/* --- whose, and in which order --- */

static void others_words_are_not_found(void **state) {
    struct fixture *f = *state;
    say(f, f->ann.id, "shared secretann", "same answer");
    say(f, f->bob.id, "shared secretbob", "same answer");
    char guess[40];
    snprintf(guess, sizeof guess, "u%lld", (long long)f->ann.id);
    assert_int_equal(count_hits(f->store, f->ann.id, "same"), 1);
    assert_int_equal(count_hits(f->store, f->ann.id, "secret"), 1);
    assert_int_equal(count_hits(f->store, f->bob.id, "secretann"), 0);
    assert_int_equal(count_hits(f->store, f->bob.id, guess), 0);
    assert_int_equal(count_hits(f->store, 0, "same"), 0);
    struct store_op *anns = ask(f->store, f->ann.id, "secret", 6), *op = op_for(STORE_SEARCH, f->bob.id);
    store_op_set_text(op, "secret", 6);
    op->message = anns->messages[0].id;
    assert_int_equal(run_free(f->store, op), STORE_NOT_FOUND);
    store_op_free(anns);
}

static void hits_are_paged(void **state) {
    struct fixture *f = *state;
    enum { N = 23, PAGE = 5 };
    char text[40];
    for (int i = 0; i < N; i++) {
        snprintf(text, sizeof text, "number%d word", i);
        say(f, f->ann.id, text, "");
        say(f, f->bob.id, text, "");
    }
    struct store_id before = {""};
    for (int i = N - 1, more = 1; more;) {
        struct store_op *op = op_for(STORE_SEARCH, f->ann.id);
        store_op_set_text(op, "word", 4);
        op->message = before;
        op->limit = PAGE;
        assert_int_equal(store_run(f->store, op), STORE_OK);
        for (int k = 0; k < op->n_messages; k++, i--) {
            snprintf(text, sizeof text, "number%d \2word\3", i);
            assert_string_equal(op->messages[k].text, text);
        }
        more = op->more;
        assert_int_equal(op->n_messages, more ? PAGE : N % PAGE);
        before = op->messages[op->n_messages - 1].id;
        store_op_free(op);
        if (!more) assert_int_equal(i, -1);
    }
}

/* --- the index follows what is written --- */

static void index_follows_the_messages(void **state) {
    struct fixture *f = *state;
    int64_t ann = f->ann.id;
    struct store_op *turn = turn_op(ann, "", NULL, NULL, "question");
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    assert_int_equal(count_hits(f->store, ann, "question"), 1);
    write_answer(f->store, STORE_CHECKPOINT, turn, "half an answ", MESSAGE_DONE);
    assert_int_equal(count_hits(f->store, ann, "half"), 0);
    write_answer(f->store, STORE_FINISH, turn, "half an answer", MESSAGE_STOPPED);
    assert_int_equal(count_hits(f->store, ann, "half answer"), 1);

    struct store_op *on = op_for(STORE_BEGIN_CONT, ann);
    on->message = turn->answer;
    store_id_new(&on->generation);
    assert_int_equal(store_run(f->store, on), STORE_OK);
    assert_int_equal(count_hits(f->store, ann, "half"), 0);
    write_answer(f->store, STORE_FINISH, on, "half an answer made whole", MESSAGE_DONE);
    assert_int_equal(count_hits(f->store, ann, "whole"), 1);
    assert_int_equal(count_hits(f->store, ann, "half"), 1);

    struct store_op *again = op_for(STORE_BEGIN_REGEN, ann);
    again->message = turn->answer;
    store_id_new(&again->generation);
    store_id_new(&again->answer);
    assert_int_equal(store_run(f->store, again), STORE_OK);
    write_answer(f->store, STORE_FINISH, again, "another whole", MESSAGE_DONE);
    assert_int_equal(count_hits(f->store, ann, "whole"), 2);
    index_is_whole(f);

    struct store_op *del = op_for(STORE_DELETE, ann);
    del->conv = turn->conv;
    assert_int_equal(run_free(f->store, del), STORE_OK);
    assert_int_equal(count_hits(f->store, ann, "whole"), 0);
    assert_int_equal(count_hits(f->store, ann, "question"), 0);
    index_is_whole(f);
    struct store_op *const all[] = {turn, on, again};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) store_op_free(all[i]);
}

static void what_was_cut_off_is_found(void **state) {
    struct fixture *f = *state;
    struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, "q");
    int n_interrupted = 0;
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    write_answer(f->store, STORE_CHECKPOINT, turn, "unfinished", MESSAGE_DONE);
    reopen(f, &n_interrupted);
    assert_int_equal(n_interrupted, 1);
    assert_int_equal(count_hits(f->store, f->ann.id, "unfinished"), 1);
    index_is_whole(f);
    store_op_free(turn);
}

static void a_removed_users_words_go(void **state) {
    struct fixture *f = *state;
    struct store_user user;
    struct store_error error;
    say(f, f->ann.id, "one", "two");
    say(f, f->bob.id, "one", "two");
    assert_int_equal(store_user_remove(f->store, "bob", &user, &error), STORE_OK);
    assert_int_equal(count_hits(f->store, f->ann.id, "one"), 1);
    index_is_whole(f);
}

/* --- a database from before --- */

static void await_index(struct fixture *f) {
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    for (bool on = true; on; nanosleep(&pause, NULL)) {
        struct store_op *op = ask(f->store, f->ann.id, "x", 1);
        on = op->indexing;
        store_op_free(op);
    }
}

/* Messages that were there before are found soon; what is changed or deleted before its turn is neither lost nor doubled. */
static void older_databases_come_along(void **state) {
    enum { STEPS_BYTES = 40000 }; /* of a message: all are more than one step takes */
    struct fixture *f = *state;
    struct store_op *gone = whole_turn(f->store, f->ann.id, NULL, "old", "deleted");
    struct store_op *cut = turn_op(f->ann.id, "", NULL, NULL, "old");
    assert_int_equal(store_run(f->store, cut), STORE_OK);
    write_answer(f->store, STORE_FINISH, cut, "continued", MESSAGE_STOPPED);
    char *text = malloc(STEPS_BYTES + 1);
    assert_non_null(text);
    for (int i = 0; i < STEPS_BYTES; i += 4) memcpy(text + i, "old ", 4);
    text[STEPS_BYTES] = '\0';
    for (int i = 0; i < 20; i++) say(f, i % 2 ? f->ann.id : f->bob.id, text, "old answer");
    free(text);
    store_close(f->store);
    sqlite3 *sql = open_sql(f->dir);
    assert_int_equal(search_register(sql), SQLITE_OK);
    sql_do(sql, BEFORE_SEARCH "PRAGMA user_version = 2");
    sqlite3_close(sql);
    f->store = open_store(f->dir, NULL);

    struct store_op *on = op_for(STORE_BEGIN_CONT, f->ann.id), *del = op_for(STORE_DELETE, f->ann.id);
    on->message = cut->answer;
    store_id_new(&on->generation);
    del->conv = gone->conv;
    assert_int_equal(store_run(f->store, on), STORE_OK);
    assert_int_equal(run_free(f->store, del), STORE_OK);
    say(f, f->ann.id, "new", "deleted");
    await_index(f);
    write_answer(f->store, STORE_FINISH, on, "continued to the end", MESSAGE_DONE);
    assert_int_equal(count_hits(f->store, f->ann.id, "deleted"), 1);
    assert_int_equal(count_hits(f->store, f->ann.id, "continued"), 1);
    struct store_op *all = op_for(STORE_SEARCH, f->ann.id);
    store_op_set_text(all, "old", 3);
    all->limit = 50;
    assert_int_equal(store_run(f->store, all), STORE_OK);
    assert_int_equal(all->n_messages, 21); /* ten turns of both sides, and one question */
    assert_false(all->more);
    index_is_whole(f);
    struct store_op *const ops[] = {gone, cut, on, all};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) store_op_free(ops[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(words_are_found),
        TEST(any_input_is_safe),
        TEST(hits_are_marked),
        TEST(long_texts_have_short_excerpts),
        TEST(others_words_are_not_found),
        TEST(hits_are_paged),
        TEST(index_follows_the_messages),
        TEST(what_was_cut_off_is_found),
        TEST(a_removed_users_words_go),
        TEST(older_databases_come_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
