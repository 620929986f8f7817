/* test_store_users.c - protects sign-ins, and users who come and go. */
#include "tests/store_fixture.h"

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

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(sessions_and_keys),
        TEST(users_and_names),
        TEST(users_go_and_get_new_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
