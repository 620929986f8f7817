/* test_store.c - protects what is on disk: turns and branches, one user's data from another's, paging. */
#include "tests/store_fixture.h"

#include <sys/stat.h>

#include "gateway/store_sql.h"

static void ids_are_checked(void **state) {
    (void)state;
    struct store_id a, b;
    store_id_new(&a);
    store_id_new(&b);
    assert_string_not_equal(a.text, b.text);
    assert_true(store_id_parse(&b, a.text));
    assert_string_equal(a.text, b.text);
    static const char *const bad[] = {"", "0123456789abcdef", "0123456789abcdef0123456789abcdeF",
                                      "0123456789abcdef0123456789abcdef0", "0123456789abcdef0123456789abcdeg"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(store_id_parse(&b, bad[i]));
    assert_false(store_id_parse(&b, NULL));
    assert_string_equal(message_state_name(MESSAGE_DONE), "done");
    assert_string_equal(message_state_name(MESSAGE_LENGTH), "length");
}

/* --- turns and branches --- */

/* A first message makes a conversation with a title, the user's message and a running answer; the answer ends; all of it can be
 * read. */
static void turn_is_stored(void **state) {
    struct fixture *f = *state;
    static const char text[] = "Hello \xF0\x9F\x98\x80\nsecond line";
    struct store_op *turn = turn_op(f->ann.id, "c1", NULL, NULL, text);
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    assert_string_equal(turn->title, "Hello \xF0\x9F\x98\x80");
    assert_int_equal(turn->n_convs, 1);
    assert_string_equal(turn->convs[0].live.text, turn->generation.text);
    assert_int_equal(turn->convs[0].changed_ms, turn->time_ms);

    struct store_op *end = answer_op(STORE_FINISH, &turn->answer, &turn->generation, "Hi!");
    store_op_set_meta(end, "{\"why\":\"stop\"}");
    assert_int_equal(store_run(f->store, end), STORE_OK);
    assert_int_equal(end->n_convs, 1);
    assert_string_equal(end->convs[0].live.text, "");
    store_op_free(end);

    struct store_op *hist = op_for(STORE_HIST, f->ann.id);
    hist->conv = turn->conv;
    assert_int_equal(store_run(f->store, hist), STORE_OK);
    assert_string_equal(hist->title, turn->title);
    assert_int_equal(hist->n_messages, 2);
    assert_false(hist->more);
    const struct store_message *question = &hist->messages[0], *answer = &hist->messages[1];
    assert_int_equal(question->role, MESSAGE_USER);
    assert_string_equal(question->id.text, turn->message.text);
    assert_string_equal(question->parent.text, "");
    assert_string_equal(question->text, text);
    assert_int_equal(question->created_ms, turn->time_ms);
    assert_int_equal(answer->role, MESSAGE_ASSISTANT);
    assert_int_equal(answer->state, MESSAGE_DONE);
    assert_string_equal(answer->parent.text, question->id.text);
    assert_string_equal(answer->generation.text, turn->generation.text);
    assert_string_equal(answer->conv.text, turn->conv.text);
    assert_string_equal(answer->text, "Hi!");
    assert_string_equal(answer->meta, "{\"why\":\"stop\"}");
    store_op_free(hist);
    store_op_free(turn);
}

/* Bytes that C strings end at are kept. */
static void text_may_hold_nul(void **state) {
    struct fixture *f = *state;
    struct store_op *turn = turn_op(f->ann.id, "c", NULL, NULL, "");
    store_op_set_text(turn, "a\0b", 3);
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    struct store_op *get = op_for(STORE_MESSAGE_GET, f->ann.id);
    get->message = turn->message;
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->messages[0].text_len, 3);
    assert_memory_equal(get->messages[0].text, "a\0b", 4);
    store_op_free(get);
    store_op_free(turn);
}

#define TEN        "0123456789"
#define NINE_WORDS "aaaaa bbbbb ccccc ddddd eeeee fffff ggggg hhhhh iiiii"
#define ELLIPSIS   "\xE2\x80\xA6"
#define UE         "\xC3\xBC"

static void titles_come_from_the_text(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *text, *title;
    } rows[] = {
        {"Hello", "Hello"},
        {"  \n\t Hello   there \r\nmore", "Hello there"},
        {"", "New conversation"},
        {" \n ", "New conversation"},
        {"\xFF\xFE", "New conversation"},
        {"a\xFF b", "a b"},
        {TEN TEN TEN TEN TEN TEN, TEN TEN TEN TEN TEN TEN},
        {TEN TEN TEN TEN TEN TEN "   \n", TEN TEN TEN TEN TEN TEN},
        {TEN TEN TEN TEN TEN TEN "x", TEN TEN TEN TEN TEN "012345678" ELLIPSIS},
        {NINE_WORDS " jjjjjj", NINE_WORDS " jjjjjj"},
        {NINE_WORDS " jjjjjjj", NINE_WORDS ELLIPSIS},
        {NINE_WORDS " jjjjjj k", NINE_WORDS ELLIPSIS},
        {UE TEN TEN TEN TEN TEN TEN, UE TEN TEN TEN TEN TEN "01234567" ELLIPSIS},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, rows[i].text);
        assert_int_equal(store_run(f->store, turn), STORE_OK);
        assert_string_equal(turn->title, rows[i].title);
        store_op_free(turn);
    }
    struct store_op *named = turn_op(f->ann.id, "", NULL, NULL, "Hello");
    store_op_set_title(named, "My title");
    assert_int_equal(store_run(f->store, named), STORE_OK);
    assert_string_equal(named->convs[0].title, "My title");
    store_op_free(named);
}

/* A repeated cid is answered with the first ids and adds nothing; another user's equal cid is another request. */
static void cid_is_done_once(void **state) {
    struct fixture *f = *state;
    struct store_op *first = turn_op(f->ann.id, "same", NULL, NULL, "Hello");
    struct store_op *again = turn_op(f->ann.id, "same", NULL, NULL, "Hello");
    struct store_op *other = turn_op(f->bob.id, "same", NULL, NULL, "Hello");
    assert_int_equal(store_run(f->store, first), STORE_OK);
    assert_int_equal(store_run(f->store, again), STORE_DUPLICATE);
    assert_int_equal(store_run(f->store, other), STORE_OK);
    assert_string_equal(again->conv.text, first->conv.text);
    assert_string_equal(again->message.text, first->message.text);
    assert_string_equal(again->answer.text, first->answer.text);
    assert_string_equal(again->generation.text, first->generation.text);
    assert_string_not_equal(other->conv.text, first->conv.text);
    struct store_op *hist = op_for(STORE_HIST, f->ann.id);
    hist->conv = first->conv;
    assert_int_equal(store_run(f->store, hist), STORE_OK);
    assert_int_equal(hist->n_messages, 2);
    store_op_free(hist);
    store_op_free(first);
    store_op_free(again);
    store_op_free(other);
}

/* Without a parent a message follows the newest answer, which must have ended; as_root starts anew; a named parent makes a
 * branch. */
static void messages_find_their_place(void **state) {
    struct fixture *f = *state;
    struct store_op *one = turn_op(f->ann.id, "", NULL, NULL, "one");
    assert_int_equal(store_run(f->store, one), STORE_OK);

    struct store_op *early = turn_op(f->ann.id, "", &one->conv, NULL, "early");
    assert_int_equal(store_run(f->store, early), STORE_CONFLICT);
    assert_string_equal(early->parent.text, "");
    early->parent = one->answer;
    assert_int_equal(store_run(f->store, early), STORE_CONFLICT);
    early->parent = one->message;
    assert_int_equal(store_run(f->store, early), STORE_CONFLICT); /* a message follows an answer */
    store_op_free(early);

    assert_int_equal(write_answer(f->store, STORE_FINISH, one, "1", MESSAGE_DONE), STORE_OK);
    struct store_op *two = whole_turn(f->store, f->ann.id, &one->conv, "two", "2");
    assert_string_equal(two->parent.text, one->answer.text);

    struct store_op *branch = turn_op(f->ann.id, "", &one->conv, &one->answer, "other two");
    assert_int_equal(store_run(f->store, branch), STORE_OK);
    assert_int_equal(write_answer(f->store, STORE_FINISH, branch, "other 2", MESSAGE_DONE), STORE_OK);

    struct store_op *root = turn_op(f->ann.id, "", &one->conv, NULL, "other one");
    root->as_root = true;
    assert_int_equal(store_run(f->store, root), STORE_OK);
    assert_string_equal(root->parent.text, "");
    assert_int_equal(write_answer(f->store, STORE_FINISH, root, "other 1", MESSAGE_DONE), STORE_OK);

    struct store_op *path = op_for(STORE_PATH, f->ann.id);
    path->message = branch->answer;
    assert_int_equal(store_run(f->store, path), STORE_OK);
    static const char *const want[] = {"one", "1", "other two", "other 2"};
    assert_int_equal(path->n_messages, 4);
    for (int i = 0; i < 4; i++) assert_string_equal(path->messages[i].text, want[i]);
    assert_string_equal(path->conv.text, one->conv.text);
    store_op_free(path);

    struct store_op *elsewhere = whole_turn(f->store, f->ann.id, NULL, "elsewhere", "x");
    struct store_op *astray = turn_op(f->ann.id, "", &one->conv, &elsewhere->answer, "astray");
    assert_int_equal(store_run(f->store, astray), STORE_NOT_FOUND);
    store_op_free(astray);
    store_op_free(elsewhere);
    store_op_free(root);
    store_op_free(branch);
    store_op_free(two);
    store_op_free(one);
}

/* A sibling answer has the same parent; neither a running answer nor a user's message can be generated again. */
static void regen_adds_a_sibling(void **state) {
    struct fixture *f = *state;
    struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, "Hello");
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    struct store_op *regen = op_for(STORE_BEGIN_REGEN, f->ann.id);
    snprintf(regen->cid, sizeof regen->cid, "r");
    store_id_new(&regen->answer);
    store_id_new(&regen->generation);
    regen->message = turn->answer;
    assert_int_equal(store_run(f->store, regen), STORE_CONFLICT);
    assert_int_equal(write_answer(f->store, STORE_FINISH, turn, "Hi", MESSAGE_DONE), STORE_OK);
    regen->message = turn->message;
    assert_int_equal(store_run(f->store, regen), STORE_CONFLICT);
    regen->message = turn->answer;
    assert_int_equal(store_run(f->store, regen), STORE_OK);
    assert_string_equal(regen->conv.text, turn->conv.text);
    assert_string_equal(regen->parent.text, turn->message.text);
    assert_string_equal(regen->convs[0].live.text, regen->generation.text);
    assert_int_equal(store_run(f->store, regen), STORE_DUPLICATE);
    /* the id of an answer cannot be used twice */
    struct store_op *clash = turn_op(f->ann.id, "", NULL, NULL, "Hello");
    clash->answer = regen->answer;
    assert_int_equal(store_run(f->store, clash), STORE_CONFLICT);
    store_op_free(clash);
    store_op_free(regen);
    store_op_free(turn);
}

/* Only an answer that was cut off goes on; its text so far is the base. */
static void cont_goes_on(void **state) {
    struct fixture *f = *state;
    static const enum message_state states[] = {MESSAGE_DONE, MESSAGE_STOPPED, MESSAGE_INTERRUPTED, MESSAGE_ERROR,
                                                MESSAGE_LENGTH};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, "Hello");
        assert_int_equal(store_run(f->store, turn), STORE_OK);
        struct store_op *cont = op_for(STORE_BEGIN_CONT, f->ann.id);
        store_id_new(&cont->generation);
        cont->message = turn->answer;
        assert_int_equal(store_run(f->store, cont), STORE_CONFLICT);
        assert_int_equal(write_answer(f->store, STORE_FINISH, turn, "Hi th\xC3\xBC", states[i]), STORE_OK);
        bool open = states[i] == MESSAGE_STOPPED || states[i] == MESSAGE_INTERRUPTED || states[i] == MESSAGE_LENGTH;
        assert_int_equal(store_run(f->store, cont), open ? STORE_OK : STORE_CONFLICT);
        if (open) {
            assert_string_equal(cont->text, "Hi th\xC3\xBC");
            assert_int_equal(cont->text_len, 7);
            assert_string_equal(cont->parent.text, turn->message.text);
            struct store_op *get = op_for(STORE_MESSAGE_GET, f->ann.id);
            get->generation = cont->generation;
            assert_int_equal(store_run(f->store, get), STORE_OK);
            assert_int_equal(get->messages[0].base_len, 7);
            assert_int_equal(get->messages[0].state, MESSAGE_RUNNING);
            store_op_free(get);
            /* the first generation has lost its hold */
            assert_int_equal(write_answer(f->store, STORE_FINISH, turn, "late", MESSAGE_DONE), STORE_NOT_FOUND);
        }
        store_op_free(cont);
        store_op_free(turn);
    }
}

/* A deleted conversation takes its messages; a generation that still runs there finds nothing, quietly. */
static void deleted_is_gone(void **state) {
    struct fixture *f = *state;
    struct store_op *one = whole_turn(f->store, f->ann.id, NULL, "one", "1");
    struct store_op *two = turn_op(f->ann.id, "cid", &one->conv, NULL, "two");
    assert_int_equal(store_run(f->store, two), STORE_OK);
    struct store_op *del = op_for(STORE_DELETE, f->ann.id);
    del->conv = one->conv;
    assert_int_equal(store_run(f->store, del), STORE_OK);
    assert_int_equal(store_run(f->store, del), STORE_NOT_FOUND);
    assert_int_equal(write_answer(f->store, STORE_CHECKPOINT, two, "2", MESSAGE_DONE), STORE_NOT_FOUND);
    assert_int_equal(write_answer(f->store, STORE_FINISH, two, "2", MESSAGE_DONE), STORE_NOT_FOUND);
    struct store_op *again = turn_op(f->ann.id, "cid", &one->conv, NULL, "two"); /* a late repetition does not bring it back */
    assert_int_equal(store_run(f->store, again), STORE_DUPLICATE);
    store_op_free(again);
    sqlite3 *sql = open_sql(f->dir);
    char count[20];
    sql_value(sql, "SELECT count(*) FROM messages", count, sizeof count);
    assert_string_equal(count, "0");
    sqlite3_close(sql);
    store_op_free(del);
    store_op_free(two);
    store_op_free(one);
}

/* After an end without goodbye: running answers are interrupted with the text of their last checkpoint, and can be continued. */
static void running_becomes_interrupted(void **state) {
    struct fixture *f = *state;
    int n = -1;
    struct store_op *done = whole_turn(f->store, f->ann.id, NULL, "done", "d");
    struct store_op *cut = turn_op(f->ann.id, "", NULL, NULL, "cut");
    assert_int_equal(store_run(f->store, cut), STORE_OK);
    assert_int_equal(write_answer(f->store, STORE_CHECKPOINT, cut, "so far", MESSAGE_DONE), STORE_OK);
    reopen(f, &n);
    assert_int_equal(n, 1);
    struct store_op *get = op_for(STORE_MESSAGE_GET, f->ann.id);
    get->message = cut->answer;
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->messages[0].state, MESSAGE_INTERRUPTED);
    assert_string_equal(get->messages[0].text, "so far");
    store_op_free(get);
    reopen(f, &n);
    assert_int_equal(n, 0);
    store_op_free(done);
    store_op_free(cut);
}

/* --- one user's data is not another's --- */

static void others_find_nothing(void **state) {
    struct fixture *f = *state;
    struct store_op *turn = turn_op(f->ann.id, "c", NULL, NULL, "secret");
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    assert_int_equal(write_answer(f->store, STORE_FINISH, turn, "answer", MESSAGE_STOPPED), STORE_OK);
    static const enum store_kind kinds[] = {STORE_BEGIN_TURN, STORE_BEGIN_REGEN, STORE_BEGIN_CONT, STORE_RENAME,     STORE_DELETE,
                                            STORE_CONVS,      STORE_HIST,        STORE_PATH,       STORE_MESSAGE_GET};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct store_op *op = op_for(kinds[i], f->bob.id);
        op->conv = turn->conv;
        op->message = turn->answer;
        store_id_new(&op->generation);
        store_id_new(&op->answer);
        store_op_set_title(op, "mine now");
        assert_int_equal(store_run(f->store, op), STORE_NOT_FOUND);
        assert_int_equal(op->n_messages + op->n_convs, 0);
        store_op_free(op);
    }
    struct store_op *branch = turn_op(f->bob.id, "", NULL, NULL, "own");
    assert_int_equal(store_run(f->store, branch), STORE_OK);
    struct store_op *steal = turn_op(f->bob.id, "", &branch->conv, &turn->answer, "own, behind ann's answer");
    assert_int_equal(store_run(f->store, steal), STORE_NOT_FOUND);
    struct store_op *by_generation = op_for(STORE_MESSAGE_GET, f->bob.id);
    by_generation->generation = turn->generation;
    assert_int_equal(store_run(f->store, by_generation), STORE_NOT_FOUND);
    struct store_op *convs = op_for(STORE_CONVS, f->bob.id);
    assert_int_equal(store_run(f->store, convs), STORE_OK);
    assert_int_equal(convs->n_convs, 1);
    store_op_free(convs);
    store_op_free(by_generation);
    store_op_free(steal);
    store_op_free(branch);
    store_op_free(turn);
}

/* --- what may be learned --- */

/* Answers as one string: a|b|c */
static void answers_are(struct store *store, int64_t user, int limit, const char *expected) {
    struct store_op *op = op_for(STORE_ANSWERS, user);
    char text[200] = "";
    op->limit = limit;
    assert_int_equal(store_run(store, op), STORE_OK);
    assert_int_equal(op->learns, expected != NULL);
    for (int i = 0; i < op->n_messages; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s", i ? "|" : "", op->messages[i].text);
    }
    assert_string_equal(text, expected ? expected : "");
    store_op_free(op);
}

static void set_learns(struct store *store, int64_t user, bool learns) {
    struct store_op *op = op_for(STORE_LEARN, user);
    op->learns = learns;
    assert_int_equal(run_free(store, op), STORE_OK);
}

/* Off at first, each user's own, kept; off, nothing is given out. Answers: the user's, whole ones, latest last, bounded. */
static void answers_are_for_whoever_allows_it(void **state) {
    struct fixture *f = *state;
    struct store_op *one = whole_turn(f->store, f->ann.id, NULL, "q", "one"),
                    *two = whole_turn(f->store, f->ann.id, NULL, "q", "two");
    usleep(2000); /* conversations are ordered by the millisecond */
    struct store_op *three = whole_turn(f->store, f->ann.id, &one->conv, "q", "three");
    struct store_op *cut = turn_op(f->ann.id, "", NULL, NULL, "q"), *failed = turn_op(f->ann.id, "", NULL, NULL, "q");
    struct store_op *other = whole_turn(f->store, f->bob.id, NULL, "q", "bob's"), *nobody = op_for(STORE_LEARN, 99);
    answers_are(f->store, f->ann.id, 1000, NULL);
    set_learns(f->store, f->ann.id, true);
    reopen(f, NULL);
    answers_are(f->store, f->ann.id, 1000, "two|one|three");
    answers_are(f->store, f->ann.id, 8, "one|three");
    answers_are(f->store, f->ann.id, 1, "three");
    answers_are(f->store, f->bob.id, 1000, NULL);
    usleep(2000);
    assert_int_equal(store_run(f->store, cut), STORE_OK);
    assert_int_equal(store_run(f->store, failed), STORE_OK);
    assert_int_equal(write_answer(f->store, STORE_FINISH, failed, "half", MESSAGE_ERROR), STORE_OK);
    answers_are(f->store, f->ann.id, 1000, "two|one|three");
    assert_int_equal(write_answer(f->store, STORE_FINISH, cut, "stopped", MESSAGE_STOPPED), STORE_OK);
    answers_are(f->store, f->ann.id, 1000, "two|one|three|stopped");
    struct store_op *path = op_for(STORE_PATH, f->ann.id), *del = op_for(STORE_DELETE, f->ann.id);
    path->message = three->answer;
    assert_int_equal(store_run(f->store, path), STORE_OK);
    assert_true(path->learns && path->n_messages == 4);
    del->conv = one->conv;
    assert_int_equal(run_free(f->store, del), STORE_OK);
    answers_are(f->store, f->ann.id, 1000, "two|stopped");
    set_learns(f->store, f->ann.id, false);
    answers_are(f->store, f->ann.id, 1000, NULL);
    assert_int_equal(store_run(f->store, nobody), STORE_NOT_FOUND);
    struct store_op *const all[] = {one, two, three, cut, failed, other, nobody, path};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) store_op_free(all[i]);
}

/* A database of version 1 comes along, with the setting off. */
static void the_setting_comes_to_older_databases(void **state) {
    struct fixture *f = *state;
    store_op_free(whole_turn(f->store, f->ann.id, NULL, "q", "kept"));
    store_close(f->store);
    sqlite3 *sql = open_sql(f->dir);
    assert_int_equal(search_register(sql), SQLITE_OK);
    sql_do(sql, BEFORE_SEARCH "ALTER TABLE users DROP COLUMN learns; PRAGMA user_version = 1");
    sqlite3_close(sql);
    f->store = open_store(f->dir, NULL);
    answers_are(f->store, f->ann.id, 1000, NULL);
    set_learns(f->store, f->ann.id, true);
    answers_are(f->store, f->ann.id, 1000, "kept");
}

/* --- pages --- */

static char *repeat(char c, size_t n) {
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, c, n);
    text[n] = '\0';
    return text;
}

/* Conversations come by last change, each once, whatever the page size; a turn brings one to the top, a new name does not. */
static void conversations_are_paged(void **state) {
    struct fixture *f = *state;
    enum { N = 23 };
    struct store_id ids[N];
    for (int i = 0; i < N; i++) {
        struct store_op *turn = whole_turn(f->store, f->ann.id, NULL, "x", "y");
        ids[i] = turn->conv;
        store_op_free(turn);
    }
    struct store_op *name = op_for(STORE_RENAME, f->ann.id);
    name->conv = ids[0];
    store_op_set_title(name, "renamed");
    assert_int_equal(store_run(f->store, name), STORE_OK);
    assert_string_equal(name->convs[0].title, "renamed");
    store_op_free(name);
    struct store_id before = {""};
    int seen = 0;
    for (bool more = true; more; seen += 10) {
        struct store_op *page = op_for(STORE_CONVS, f->ann.id);
        page->conv = before;
        page->limit = 10;
        assert_int_equal(store_run(f->store, page), STORE_OK);
        assert_int_equal(page->n_convs, seen < 20 ? 10 : N - 20);
        for (int i = 0; i < page->n_convs; i++) assert_string_equal(page->convs[i].id.text, ids[N - 1 - seen - i].text);
        more = page->more;
        before = page->convs[page->n_convs - 1].id;
        store_op_free(page);
    }
    assert_int_equal(seen, 30);
}

/* History comes newest page first, each page oldest first, and also ends at a number of bytes. */
static void history_is_paged(void **state) {
    struct fixture *f = *state;
    struct store_op *turn = whole_turn(f->store, f->ann.id, NULL, "0", "1");
    struct store_id conv = turn->conv;
    store_op_free(turn);
    for (int i = 2; i < 14; i += 2) {
        char question[16], answer[16];
        snprintf(question, sizeof question, "%d", i);
        snprintf(answer, sizeof answer, "%d", i + 1);
        store_op_free(whole_turn(f->store, f->ann.id, &conv, question, answer));
    }
    struct store_id before = {""};
    int left = 14;
    for (bool more = true; more;) {
        struct store_op *page = op_for(STORE_HIST, f->ann.id);
        page->conv = conv;
        page->message = before;
        page->limit = 5;
        assert_int_equal(store_run(f->store, page), STORE_OK);
        left -= page->n_messages;
        for (int i = 0; i < page->n_messages; i++) assert_int_equal(strtol(page->messages[i].text, NULL, 10), left + i);
        more = page->more;
        before = page->messages[0].id;
        store_op_free(page);
    }
    assert_int_equal(left, 0);

    char *large = repeat('x', STORE_MAX_PAGE_BYTES);
    store_op_free(whole_turn(f->store, f->ann.id, &conv, "large", large));
    free(large);
    struct store_op *page = op_for(STORE_HIST, f->ann.id);
    page->conv = conv;
    assert_int_equal(store_run(f->store, page), STORE_OK);
    assert_int_equal(page->n_messages, 1);
    assert_true(page->more);
    store_op_free(page);
}

/* A path beyond its bound keeps the newest messages and says so. */
static void path_is_bounded(void **state) {
    struct fixture *f = *state;
    char *half = repeat('x', STORE_MAX_PATH_BYTES / 2);
    struct store_op *one = whole_turn(f->store, f->ann.id, NULL, "first", half);
    struct store_op *two = whole_turn(f->store, f->ann.id, &one->conv, "second", half);
    struct store_op *path = op_for(STORE_PATH, f->ann.id);
    path->message = two->answer;
    assert_int_equal(store_run(f->store, path), STORE_OK);
    assert_true(path->more);
    assert_int_equal(path->n_messages, 2);
    assert_string_equal(path->messages[0].text, "second");
    store_op_free(path);
    store_op_free(two);
    store_op_free(one);
    free(half);
}

/* The writer copies the WAL into the database as it goes, so that it does not grow with the number of checkpoints of answers. */
static void wal_is_bounded(void **state) {
    struct fixture *f = *state;
    enum { TEXT = 300000, WRITES = 60, MAX_WAL = 8 << 20 };
    char *text = repeat('x', TEXT), path[300];
    struct store_op *turn = turn_op(f->ann.id, "", NULL, NULL, "Hello");
    assert_int_equal(store_run(f->store, turn), STORE_OK);
    for (int i = 0; i < WRITES; i++) { /* another length each time: SQLite writes nothing for an equal value */
        assert_int_equal(write_answer(f->store, STORE_CHECKPOINT, turn, text + WRITES - i, MESSAGE_DONE), STORE_OK);
    }
    struct stat wal, database;
    snprintf(path, sizeof path, "%s/foresay.db-wal", f->dir);
    assert_int_equal(stat(path, &wal), 0);
    snprintf(path, sizeof path, "%s/foresay.db", f->dir);
    assert_int_equal(stat(path, &database), 0);
    assert_in_range(wal.st_size, 1, MAX_WAL);
    assert_in_range(database.st_size, TEXT, 4 * TEXT);
    store_op_free(turn);
    free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_checked),
        TEST(turn_is_stored),
        TEST(text_may_hold_nul),
        TEST(titles_come_from_the_text),
        TEST(cid_is_done_once),
        TEST(messages_find_their_place),
        TEST(regen_adds_a_sibling),
        TEST(cont_goes_on),
        TEST(deleted_is_gone),
        TEST(running_becomes_interrupted),
        TEST(others_find_nothing),
        TEST(answers_are_for_whoever_allows_it),
        TEST(the_setting_comes_to_older_databases),
        TEST(conversations_are_paged),
        TEST(history_is_paged),
        TEST(path_is_bounded),
        TEST(wal_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
