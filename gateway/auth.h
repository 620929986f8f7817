/* auth.h - who is asking: tokens, their hashes, one-time sign-in codes, cookies, origins. No I/O; the only user of libsodium.
 *
 *  (1) A token (API key or session) carries 256 random bits. It leaves the server once; the store keeps only its BLAKE2b-256
 * hash, so a stolen database signs nobody in. A plain hash is enough for a random token; passwords would need argon2id. (2) A
 * one-time code lives in memory only, works once, for AUTH_CODE_MS, and wrong guesses are counted. (3) A cookie proves a session
 * but not who wrote the page that sent it. So everything that acts on a cookie (the WebSocket upgrade, any POST or DELETE) also
 * needs auth_origin_allowed; a request with an Authorization header needs no Origin, because a foreign page cannot make a browser
 * send one. Functions touch only what they are given: any thread, one at a time for a struct auth_codes. */
#ifndef FORESAY_AUTH_H
#define FORESAY_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_COOKIE "foresay_session"

enum {
    AUTH_HASH_LEN = 32,             /* = sizeof token_hash in struct store_op */
    AUTH_TOKEN_SIZE = 4 + 43 + 1,   /* "fsk_" or "fss_", 43 base64url characters (256 bits), terminator */
    AUTH_CODE_SIZE = 4 * 5 + 3 + 1, /* "7KQ2M-...": 20 characters (100 bits) in four groups, terminator */
    AUTH_COOKIE_SIZE = 256,         /* fits what auth_cookie_set and auth_cookie_clear write */
    AUTH_ORIGIN_SIZE = 300,         /* scheme, a DNS name of at most 253 bytes, port */
    AUTH_CODE_MS = 15 * 60 * 1000,  /* a code is typed or pasted within minutes of being printed */
    AUTH_MAX_CODES = 8,             /* a ninth replaces the oldest */
    AUTH_MAX_GUESSES = 20,          /* wrong codes per AUTH_GUESS_WINDOW_MS, from everybody together */
    AUTH_GUESS_WINDOW_MS = 60 * 1000,
    AUTH_SESSION_DAYS = 30,
};
#define AUTH_SESSION_MS ((int64_t)AUTH_SESSION_DAYS * 24 * 3600 * 1000)

/* Once, before anything else here. False when the system has no source of random numbers. */
bool auth_init(void);

/* A fresh secret and its hash. text is for the person (printed, or set as cookie) and is forgotten; hash is for the store. */
struct auth_token {
    char text[AUTH_TOKEN_SIZE];
    unsigned char hash[AUTH_HASH_LEN];
};
void auth_key_new(struct auth_token *out);     /* "fsk_...": API key */
void auth_session_new(struct auth_token *out); /* "fss_...": session, for the cookie */
void auth_token_wipe(struct auth_token *token);

/* The hash to look up for a token that came from outside. False unless it has the form of a key (auth_hash_key) or a session
 * (auth_hash_session), so that neither works in the other's place. */
bool auth_hash_key(const char *token, unsigned char hash[AUTH_HASH_LEN]);
bool auth_hash_session(const char *token, unsigned char hash[AUTH_HASH_LEN]);
/* Constant time: equal hashes? */
bool auth_hash_equal(const unsigned char a[AUTH_HASH_LEN], const unsigned char b[AUTH_HASH_LEN]);

/* One-time codes. Zero-initialised is empty. */
struct auth_codes {
    struct {
        unsigned char hash[AUTH_HASH_LEN];
        int64_t expires_ms; /* 0 = empty place */
    } code[AUTH_MAX_CODES];
    int64_t window_ms; /* when the current window of guesses began */
    int guesses;       /* wrong ones in it */
};
enum auth_code_result {
    AUTH_CODE_OK,
    AUTH_CODE_WRONG,   /* unknown, used or expired: one answer for all three */
    AUTH_CODE_LIMITED, /* too many wrong ones lately; not looked at. Again in at most AUTH_GUESS_WINDOW_MS */
};
void auth_code_new(struct auth_codes *codes, int64_t now_ms, char text[AUTH_CODE_SIZE]);
/* Uses a code up. Case, spaces and dashes do not matter; 0/O and 1/I/L are the same. */
enum auth_code_result auth_code_take(struct auth_codes *codes, const char *text, int64_t now_ms);

/* The value of a Set-Cookie header: HttpOnly; SameSite=Strict; Path=/; 30 days; Secure when browsers come over https
 * (auth_secure). Returns its length. */
size_t auth_cookie_set(char out[AUTH_COOKIE_SIZE], const char *token, bool secure);
size_t auth_cookie_clear(char out[AUTH_COOKIE_SIZE], bool secure);
/* Finds the session token in a Cookie header's value; false when there is none of the right form. header may be NULL. */
bool auth_cookie_find(const char *header, char token[AUTH_TOKEN_SIZE]);
/* The token in an Authorization header's value ("Bearer x", any case of the word): a pointer into header, or NULL. header may be
 * NULL. */
const char *auth_bearer(const char *header);

/* "HTTPS://Chat.Example:443/" -> "https://chat.example": scheme and host in lower case, no default port, no path. False unless
 * text is an http or https origin. */
bool auth_origin_normalize(const char *text, char out[AUTH_ORIGIN_SIZE]);
/* True when the page that sent the request is ours: origin is http://HOST, HOST being the request's own Host header, or it is
 * public_origin (may be NULL). Absent (NULL or empty) and "null" origins are foreign. */
bool auth_origin_allowed(const char *origin, const char *host, const char *public_origin);
/* Do browsers come over https? public_origin may be NULL. */
bool auth_secure(const char *public_origin);

#endif
