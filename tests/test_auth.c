/* test_auth.c - protects sign-in: tokens and their hashes, one-time codes, cookies, origins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/auth.h"

static int start(void **state) {
    (void)state;
    return auth_init() ? 0 : -1;
}

/* Tokens differ, carry their prefix, hash to what was stored, and a key is no session. */
static void tokens_hash_and_do_not_mix(void **state) {
    (void)state;
    struct auth_token key, session, other;
    unsigned char hash[AUTH_HASH_LEN];
    auth_key_new(&key);
    auth_session_new(&session);
    auth_key_new(&other);
    assert_int_equal(strlen(key.text), AUTH_TOKEN_SIZE - 1);
    assert_int_equal(strncmp(key.text, "fsk_", 4), 0);
    assert_string_not_equal(key.text, other.text);
    assert_false(auth_hash_equal(key.hash, other.hash));
    assert_true(auth_hash_key(key.text, hash));
    assert_true(auth_hash_equal(hash, key.hash));
    assert_true(auth_hash_session(session.text, hash));
    assert_true(auth_hash_equal(hash, session.hash));
    assert_false(auth_hash_session(key.text, hash));
    assert_false(auth_hash_key(session.text, hash));
    auth_token_wipe(&key);
    assert_int_equal(key.text[0], 0);
}

/* What is not exactly a token is refused before it is hashed. */
static void odd_tokens_are_refused(void **state) {
    (void)state;
    struct auth_token key;
    unsigned char hash[AUTH_HASH_LEN];
    char text[AUTH_TOKEN_SIZE + 8];
    auth_key_new(&key);
    assert_false(auth_hash_key(NULL, hash));
    assert_false(auth_hash_key("", hash));
    assert_false(auth_hash_key("fsk_", hash));
    memcpy(text, key.text, sizeof key.text);
    text[AUTH_TOKEN_SIZE - 2] = '\0'; /* one short */
    assert_false(auth_hash_key(text, hash));
    memcpy(text, key.text, sizeof key.text);
    memcpy(text + AUTH_TOKEN_SIZE - 1, "x", 2); /* one long */
    assert_false(auth_hash_key(text, hash));
    memcpy(text, key.text, sizeof key.text);
    text[10] = '%';
    assert_false(auth_hash_key(text, hash));
}

/* A code works once, however it is typed. */
static void code_works_once(void **state) {
    (void)state;
    struct auth_codes codes = {0};
    char code[AUTH_CODE_SIZE], typed[AUTH_CODE_SIZE + 2] = " ";
    auth_code_new(&codes, 1000, code);
    assert_int_equal(strlen(code), AUTH_CODE_SIZE - 1);
    for (int i = 0; code[i]; i++) {
        char c = code[i];
        if (c == '0') c = 'o';
        if (c == '1') c = 'l';
        if (c == '-') c = ' ';
        typed[i + 1] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    assert_int_equal(auth_code_take(&codes, typed, 2000), AUTH_CODE_OK);
    assert_int_equal(auth_code_take(&codes, code, 2000), AUTH_CODE_WRONG);
}

/* A code ends after its time; wrong, empty and absent codes are all just wrong. */
static void code_expires(void **state) {
    (void)state;
    struct auth_codes codes = {0};
    char code[AUTH_CODE_SIZE];
    auth_code_new(&codes, 1000, code);
    assert_int_equal(auth_code_take(&codes, code, 1000 + AUTH_CODE_MS), AUTH_CODE_WRONG);
    assert_int_equal(auth_code_take(&codes, code, 999 + AUTH_CODE_MS), AUTH_CODE_OK);
    assert_int_equal(auth_code_take(&codes, "", 1000), AUTH_CODE_WRONG);
    assert_int_equal(auth_code_take(&codes, NULL, 1000), AUTH_CODE_WRONG);
    assert_int_equal(auth_code_take(&codes, "00000-00000-00000-00000", 1000), AUTH_CODE_WRONG);
    assert_int_equal(auth_code_take(&codes, "00000-00000-00000-000000", 1000), AUTH_CODE_WRONG);
}

/* Guessing is limited, for the right code too, until the window is over; a clock set back opens a new one. */
static void guesses_are_limited(void **state) {
    (void)state;
    struct auth_codes codes = {0};
    char code[AUTH_CODE_SIZE];
    auth_code_new(&codes, 100000, code);
    for (int i = 0; i < AUTH_MAX_GUESSES; i++) assert_int_equal(auth_code_take(&codes, "guess", 100000 + i), AUTH_CODE_WRONG);
    assert_int_equal(auth_code_take(&codes, code, 100100), AUTH_CODE_LIMITED);
    struct auth_codes set_back = codes;
    assert_int_equal(auth_code_take(&codes, code, 100000 + AUTH_GUESS_WINDOW_MS), AUTH_CODE_OK);
    assert_int_equal(auth_code_take(&set_back, code, 5), AUTH_CODE_OK);
}

/* A ninth code replaces the oldest and no other. */
static void codes_are_bounded(void **state) {
    (void)state;
    struct auth_codes codes = {0};
    char code[AUTH_MAX_CODES + 1][AUTH_CODE_SIZE];
    for (int i = 0; i <= AUTH_MAX_CODES; i++) auth_code_new(&codes, 1000 + i, code[i]);
    assert_int_equal(auth_code_take(&codes, code[0], 2000), AUTH_CODE_WRONG);
    for (int i = 1; i <= AUTH_MAX_CODES; i++) assert_int_equal(auth_code_take(&codes, code[i], 2000), AUTH_CODE_OK);
}

/* The cookie that is set is the cookie that is found, between others. */
static void cookie_round_trip(void **state) {
    (void)state;
    struct auth_token session;
    char cookie[AUTH_COOKIE_SIZE], header[400], token[AUTH_TOKEN_SIZE];
    auth_session_new(&session);
    size_t len = auth_cookie_set(cookie, session.text, false);
    assert_int_equal(len, strlen(cookie));
    assert_non_null(strstr(cookie, "; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"));
    assert_null(strstr(cookie, "Secure"));
    auth_cookie_set(cookie, session.text, true);
    assert_non_null(strstr(cookie, "; Secure"));
    auth_cookie_clear(cookie, false);
    assert_non_null(strstr(cookie, AUTH_COOKIE "=; Path=/; Max-Age=0"));

    static const char *const around[] = {"%s=%s",
                                         "a=b; %s=%s",
                                         "%s=%s; a=b",
                                         "%s=%s ;a=b",
                                         "x_foresay_session=1;%s=%s;",
                                         "foresay_session=other; %s=%s",
                                         "foresay_session=; %s=%s"};
    for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
        snprintf(header, sizeof header, around[i], AUTH_COOKIE, session.text);
        assert_true(auth_cookie_find(header, token));
        assert_string_equal(token, session.text);
    }
}

static void odd_cookies_are_not_found(void **state) {
    (void)state;
    struct auth_token session, key;
    char header[400], token[AUTH_TOKEN_SIZE];
    auth_session_new(&session);
    auth_key_new(&key);
    static const char *const odd[] = {"",  ";",  ";;;", "foresay_session", "foresay_session=", "foresay_session=fss_short",
                                      "=", "a=b"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) assert_false(auth_cookie_find(odd[i], token));
    assert_false(auth_cookie_find(NULL, token));
    snprintf(header, sizeof header, "x%s=%s", AUTH_COOKIE, session.text);
    assert_false(auth_cookie_find(header, token));
    snprintf(header, sizeof header, "%s=%sx", AUTH_COOKIE, session.text);
    assert_false(auth_cookie_find(header, token));
    snprintf(header, sizeof header, "%s=%s\"; a", AUTH_COOKIE, session.text);
    assert_false(auth_cookie_find(header, token));
    snprintf(header, sizeof header, "%s=%s", AUTH_COOKIE, key.text);
    assert_false(auth_cookie_find(header, token));
}

static void bearer_is_found(void **state) {
    (void)state;
    assert_string_equal(auth_bearer("Bearer abc"), "abc");
    assert_string_equal(auth_bearer("bearer   abc"), "abc");
    assert_null(auth_bearer("Bearer"));
    assert_null(auth_bearer("Bearer "));
    assert_null(auth_bearer("Bearerabc"));
    assert_null(auth_bearer("Basic abc"));
    assert_null(auth_bearer(""));
    assert_null(auth_bearer(NULL));
}

static void origins_are_normalized(void **state) {
    (void)state;
    static const struct {
        const char *text, *want; /* NULL: refused */
    } rows[] = {
        {"http://localhost:8080", "http://localhost:8080"},
        {"HTTPS://Chat.Example:443/", "https://chat.example"},
        {"http://a:80", "http://a"},
        {"https://a:80", "https://a:80"},
        {"http://[::1]:8080", "http://[::1]:8080"},
        {"http://127.0.0.1", "http://127.0.0.1"},
        {"http://", NULL},
        {"http://a:", NULL},
        {"http://a:0", NULL},
        {"http://a:99999", NULL},
        {"http://a:000080", NULL},
        {"http://a:8080x", NULL},
        {"http://a/path", NULL},
        {"http://a@b", NULL},
        {"http://[::1", NULL},
        {"http://[]", NULL},
        {"ftp://a", NULL},
        {"null", NULL},
        {"", NULL},
        {NULL, NULL},
    };
    char out[AUTH_ORIGIN_SIZE], longest[600];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool taken = auth_origin_normalize(rows[i].text, out);
        assert_int_equal(taken, rows[i].want != NULL);
        if (taken) assert_string_equal(out, rows[i].want);
    }
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "http://", 7);
    longest[sizeof longest - 1] = '\0';
    assert_false(auth_origin_normalize(longest, out));
}

/* Only our own page may act on a cookie: same scheme, host and port. */
static void foreign_origins_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *origin, *host, *public_origin;
        bool want;
    } rows[] = {
        {"http://localhost:8080", "localhost:8080", NULL, true},
        {"http://LOCALHOST:8080", "localhost:8080", NULL, true},
        {"http://localhost", "localhost:80", NULL, true},
        {"http://localhost:8081", "localhost:8080", NULL, false},
        {"https://localhost:8080", "localhost:8080", NULL, false},
        {"http://127.0.0.1:8080", "localhost:8080", NULL, false},
        {"http://evil.example", "localhost:8080", NULL, false},
        {"http://localhost:8080.evil.example", "localhost:8080", NULL, false},
        {"https://chat.example", "127.0.0.1:8080", "https://chat.example", true},
        {"https://chat.example", "127.0.0.1:8080", "https://Chat.Example:443/", true},
        {"http://chat.example", "127.0.0.1:8080", "https://chat.example", false},
        {"http://127.0.0.1:8080", "127.0.0.1:8080", "https://chat.example", true},
        {"http://localhost:8080", "localhost:8080/", NULL, false},
        {"http://localhost:8080", "", NULL, false},
        {"http://localhost:8080", NULL, NULL, false},
        {"null", "null", NULL, false},
        {"", "localhost", NULL, false},
        {NULL, "localhost", "https://chat.example", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(auth_origin_allowed(rows[i].origin, rows[i].host, rows[i].public_origin), rows[i].want);
    }
    assert_true(auth_secure("https://chat.example"));
    assert_false(auth_secure("http://chat.example"));
    assert_false(auth_secure(NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_hash_and_do_not_mix),
        cmocka_unit_test(odd_tokens_are_refused),
        cmocka_unit_test(code_works_once),
        cmocka_unit_test(code_expires),
        cmocka_unit_test(guesses_are_limited),
        cmocka_unit_test(codes_are_bounded),
        cmocka_unit_test(cookie_round_trip),
        cmocka_unit_test(odd_cookies_are_not_found),
        cmocka_unit_test(bearer_is_found),
        cmocka_unit_test(origins_are_normalized),
        cmocka_unit_test(foreign_origins_are_refused),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
