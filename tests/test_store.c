/* test_store.c - protects what is on disk: turns and branches, one user's data from another's, paging, sign-ins, the folder and
 * its lock. */
#include "tests/store_fixture.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "gateway/store_sql.h"

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

/* --- sign-in --- */

static void sessions_and_keys(void **state) {
    struct fixture *f = *state;
    struct store_op *get = store_op_new(STORE_SESSION_GET), *add = op_for(STORE_SESSION_ADD, f->ann.id);
    memset(get->token_hash, 7, 32);
    memset(add->token_hash, 7, 32);
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->found_user.id, 0);
    add->expires_ms = INT64_MAX;
    assert_int_equal(store_run(f->store, add), STORE_OK);
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->found_user.id, f->ann.id);
    assert_string_equal(get->found_user.name, "ann");

    struct store_op *drop = store_op_new(STORE_SESSION_DROP);
    memset(drop->token_hash, 7, 32);
    assert_int_equal(run_free(f->store, drop), STORE_OK);
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->found_user.id, 0);
    assert_string_equal(get->found_user.name, "");

    add->expires_ms = 1000; /* long ago */
    assert_int_equal(store_run(f->store, add), STORE_OK);
    assert_int_equal(store_run(f->store, get), STORE_OK);
    assert_int_equal(get->found_user.id, 0);
    add->user = 99;
    memset(add->token_hash, 8, 32);
    assert_int_equal(store_run(f->store, add), STORE_NOT_FOUND);

    struct store_op *key = store_op_new(STORE_KEY_GET);
    snprintf((char *)key->token_hash, 32, "bob");
    assert_int_equal(store_run(f->store, key), STORE_OK);
    assert_int_equal(key->found_user.id, f->bob.id);
    memset(key->token_hash, 9, 32);
    assert_int_equal(store_run(f->store, key), STORE_OK);
    assert_int_equal(key->found_user.id, 0);
    store_op_free(key);
    store_op_free(add);
    store_op_free(get);
}

static void users_and_names(void **state) {
    struct fixture *f = *state;
    struct store_user user;
    struct store_error error = {""};
    unsigned char hash[32] = {42};
    char long_name[70];
    memset(long_name, 'x', sizeof long_name);
    long_name[65] = '\0';
    static const char *const bad[] = {"", " ann2", "ann2 ", "a\nb", "a\x7F", "\xFF", "\xC0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(store_user_add(f->store, bad[i], false, hash, &user, &error), STORE_ERROR);
    }
    assert_int_equal(store_user_add(f->store, long_name, false, hash, &user, &error), STORE_ERROR);
    assert_int_equal(store_user_add(f->store, "ANN", false, hash, &user, &error), STORE_CONFLICT);
    assert_int_equal(store_user_count(f->store), 2);
    long_name[64] = '\0';
    assert_int_equal(store_user_add(f->store, long_name, false, hash, &user, &error), STORE_OK);
    assert_string_equal(user.name, long_name);

    hash[0] = 43;
    assert_int_equal(store_user_add(f->store, "admin", false, hash, &user, &error), STORE_OK);
    assert_false(user.admin);
    assert_int_equal(store_admin_ensure(f->store, &user, &error), STORE_OK);
    assert_string_equal(user.name, "admin2");
    assert_true(user.admin);
    int64_t id = user.id;
    assert_int_equal(store_admin_ensure(f->store, &user, &error), STORE_OK);
    assert_int_equal(user.id, id);
    assert_int_equal(store_user_count(f->store), 5);
}

/* What is in use by a name or id of today must not be met again under it tomorrow. */
static void users_go_and_get_new_keys(void **state) {
    struct fixture *f = *state;
    struct store_user user;
    struct store_error error = {""};
    unsigned char hash[32] = {44};
    assert_int_equal(store_user_remove(f->store, "BOB", &user, &error), STORE_OK);
    assert_int_equal(user.id, f->bob.id);
    assert_string_equal(user.name, "bob");
    assert_int_equal(store_user_remove(f->store, "bob", &user, &error), STORE_NOT_FOUND);
    assert_int_equal(store_user_key(f->store, "bob", hash, &user, &error), STORE_NOT_FOUND);
    assert_int_equal(store_user_add(f->store, "bob", false, hash, &user, &error), STORE_OK);
    assert_true(user.id > f->bob.id);

    hash[0] = 45;
    assert_int_equal(store_user_key(f->store, "ann", hash, &user, &error), STORE_OK);
    struct store_op *key = store_op_new(STORE_KEY_GET);
    memcpy(key->token_hash, hash, 32);
    assert_int_equal(store_run(f->store, key), STORE_OK);
    assert_int_equal(key->found_user.id, f->ann.id);
    memset(key->token_hash, 0, 32);
    snprintf((char *)key->token_hash, 32, "ann");
    assert_int_equal(store_run(f->store, key), STORE_OK);
    assert_int_equal(key->found_user.id, 0);
    store_op_free(key);

    assert_int_equal(store_admin_ensure(f->store, &user, &error), STORE_OK);
    assert_int_equal(store_user_remove(f->store, user.name, &user, &error), STORE_CONFLICT);
    hash[0] = 46;
    assert_int_equal(store_user_add(f->store, "boss", true, hash, &user, &error), STORE_OK);
    assert_int_equal(store_user_remove(f->store, "admin", &user, &error), STORE_OK);
    char *list = store_user_list(f->store, &error);
    assert_string_equal(list, "ann (chats: 0)\nbob (chats: 0)\nboss (administrator, chats: 0)\n");
    free(list);
}

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

/* --- the folder --- */

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
        TEST(sessions_and_keys),
        TEST(users_and_names),
        TEST(users_go_and_get_new_keys),
        TEST(imports_come_whole_or_not_at_all),
        TEST(a_user_of_many_chats_goes),
        TEST(queue_is_bounded_and_groups_hold),
        TEST(lock_keeps_servers_apart),
        TEST(guest_alone_makes_the_folder),
        TEST(foreign_data_is_refused),
        TEST(unwritable_folder_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
