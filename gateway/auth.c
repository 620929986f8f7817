/* auth.c - see auth.h. Everything secret is made, hashed and compared here, and wiped where a copy would outlive its use. */
#include "gateway/auth.h"

#include <assert.h>
#include <ctype.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { SECRET_BYTES = 32, SECRET_CHARS = 43, PREFIX_CHARS = 4, CODE_CHARS = 20, CODE_GROUP = 5 };

static const char key_prefix[] = "fsk_";
static const char session_prefix[] = "fss_";

bool auth_init(void) { return sodium_init() >= 0; }

/* --- tokens --- */

static void hash_text(const char *text, size_t len, unsigned char hash[AUTH_HASH_LEN]) {
    crypto_generichash(hash, AUTH_HASH_LEN, (const unsigned char *)text, len, NULL, 0);
}

static void token_new(struct auth_token *out, const char *prefix) {
    unsigned char secret[SECRET_BYTES];
    randombytes_buf(secret, sizeof secret);
    memcpy(out->text, prefix, PREFIX_CHARS);
    sodium_bin2base64(out->text + PREFIX_CHARS, sizeof out->text - PREFIX_CHARS, secret, sizeof secret,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    sodium_memzero(secret, sizeof secret);
    hash_text(out->text, AUTH_TOKEN_SIZE - 1, out->hash);
}

void auth_key_new(struct auth_token *out) { token_new(out, key_prefix); }
void auth_session_new(struct auth_token *out) { token_new(out, session_prefix); }
void auth_token_wipe(struct auth_token *token) { sodium_memzero(token, sizeof *token); }

static bool is_token_char(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Length of the run of token characters at text, as far as one more than a token has. */
static size_t token_span(const char *text) {
    size_t n = 0;
    while (n < AUTH_TOKEN_SIZE && is_token_char(text[n])) n++;
    return n;
}

static bool hash_token(const char *token, const char *prefix, unsigned char hash[AUTH_HASH_LEN]) {
    if (!token || strncmp(token, prefix, PREFIX_CHARS) != 0) return false;
    if (token_span(token) != AUTH_TOKEN_SIZE - 1 || token[AUTH_TOKEN_SIZE - 1] != '\0') return false;
    hash_text(token, AUTH_TOKEN_SIZE - 1, hash);
    return true;
}

bool auth_hash_key(const char *token, unsigned char hash[AUTH_HASH_LEN]) { return hash_token(token, key_prefix, hash); }
bool auth_hash_session(const char *token, unsigned char hash[AUTH_HASH_LEN]) { return hash_token(token, session_prefix, hash); }

bool auth_hash_equal(const unsigned char a[AUTH_HASH_LEN], const unsigned char b[AUTH_HASH_LEN]) {
    return sodium_memcmp(a, b, AUTH_HASH_LEN) == 0;
}

/* --- one-time codes --- */

/* 32 characters that cannot be taken for each other when read aloud or from a photograph: no I, L, O, U. */
static const char code_alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

void auth_code_new(struct auth_codes *codes, int64_t now_ms, char text[AUTH_CODE_SIZE]) {
    unsigned char random[CODE_CHARS];
    char plain[CODE_CHARS];
    char *out = text;
    randombytes_buf(random, sizeof random);
    for (int i = 0; i < CODE_CHARS; i++) {
        plain[i] = code_alphabet[random[i] & 31];
        if (i > 0 && i % CODE_GROUP == 0) *out++ = '-';
        *out++ = plain[i];
    }
    *out = '\0';

    int place = 0; /* the one that expires first; empty places expired at 0 */
    for (int i = 1; i < AUTH_MAX_CODES; i++) {
        if (codes->code[i].expires_ms < codes->code[place].expires_ms) place = i;
    }
    hash_text(plain, sizeof plain, codes->code[place].hash);
    codes->code[place].expires_ms = now_ms + AUTH_CODE_MS;
    sodium_memzero(random, sizeof random);
    sodium_memzero(plain, sizeof plain);
}

/* Upper case, look-alikes folded, separators dropped. False when it cannot be a code. */
static bool code_fold(const char *text, char plain[CODE_CHARS]) {
    int n = 0;
    for (const char *p = text; *p; p++) {
        char c = (char)toupper((unsigned char)*p);
        if (c == '-' || c == ' ') continue;
        if (c == 'O') c = '0';
        if (c == 'I' || c == 'L') c = '1';
        if (n == CODE_CHARS || !strchr(code_alphabet, c)) return false;
        plain[n++] = c;
    }
    return n == CODE_CHARS;
}

/* Opens a new window of guesses when the last one is over, also when the clock was set back. */
static bool guesses_left(struct auth_codes *codes, int64_t now_ms) {
    if (now_ms < codes->window_ms || now_ms - codes->window_ms >= AUTH_GUESS_WINDOW_MS) {
        codes->window_ms = now_ms;
        codes->guesses = 0;
    }
    return codes->guesses < AUTH_MAX_GUESSES;
}

enum auth_code_result auth_code_take(struct auth_codes *codes, const char *text, int64_t now_ms) {
    if (!guesses_left(codes, now_ms)) return AUTH_CODE_LIMITED;
    char plain[CODE_CHARS];
    unsigned char hash[AUTH_HASH_LEN];
    int found = -1;
    if (text && code_fold(text, plain)) {
        hash_text(plain, sizeof plain, hash);
        for (int i = 0; i < AUTH_MAX_CODES; i++) {
            if (codes->code[i].expires_ms > now_ms && auth_hash_equal(hash, codes->code[i].hash)) found = i;
        }
    }
    if (found < 0) {
        codes->guesses++;
        return AUTH_CODE_WRONG;
    }
    memset(&codes->code[found], 0, sizeof codes->code[found]);
    return AUTH_CODE_OK;
}

/* --- cookies and headers --- */

static size_t cookie_write(char out[AUTH_COOKIE_SIZE], const char *token, long max_age_s, bool secure) {
    int n = snprintf(out, AUTH_COOKIE_SIZE, AUTH_COOKIE "=%s; Path=/; Max-Age=%ld; HttpOnly; SameSite=Strict%s", token, max_age_s,
                     secure ? "; Secure" : "");
    assert(n > 0 && n < AUTH_COOKIE_SIZE);
    return (size_t)n;
}

size_t auth_cookie_set(char out[AUTH_COOKIE_SIZE], const char *token, bool secure) {
    return cookie_write(out, token, AUTH_SESSION_DAYS * 24L * 3600, secure);
}
size_t auth_cookie_clear(char out[AUTH_COOKIE_SIZE], bool secure) { return cookie_write(out, "", 0, secure); }

/* A pair ends at ';'. A second cookie of our name (another path, an older server on this host) may stand first with a value of
 * another form, so every pair is looked at. */
bool auth_cookie_find(const char *header, char token[AUTH_TOKEN_SIZE]) {
    static const char name[] = AUTH_COOKIE "=";
    const char *p = header;
    while (p && *p) {
        p += strspn(p, " \t;");
        if (strncmp(p, name, sizeof name - 1) == 0) {
            const char *value = p + sizeof name - 1;
            size_t len = token_span(value);
            const char *rest = value + len + strspn(value + len, " \t");
            if (len == AUTH_TOKEN_SIZE - 1 && (*rest == ';' || *rest == '\0') &&
                strncmp(value, session_prefix, PREFIX_CHARS) == 0) {
                memcpy(token, value, len);
                token[len] = '\0';
                return true;
            }
        }
        p = strchr(p, ';');
    }
    return false;
}

const char *auth_bearer(const char *header) {
    static const char word[] = "Bearer";
    if (!header || strncasecmp(header, word, sizeof word - 1) != 0) return NULL;
    const char *token = header + sizeof word - 1;
    if (*token != ' ' && *token != '\t') return NULL;
    token += strspn(token, " \t");
    return *token ? token : NULL;
}

/* --- origins --- */

/* Host characters of a DNS name, an IPv4 address, or an IPv6 address in brackets. Lower-cases into out; returns its length, 0 =
 * none. */
static size_t host_copy(const char *text, char *out, size_t size) {
    bool bracket = text[0] == '[';
    size_t n = 0;
    for (; text[n]; n++) {
        char c = text[n];
        bool fits = isalnum((unsigned char)c) || c == '-' || c == '.' || c == '_';
        if (bracket) fits = isxdigit((unsigned char)c) || c == ':' || c == '.' || c == '[' || c == ']';
        if (!fits) break;
        if (n + 1 >= size) return 0;
        out[n] = (char)tolower((unsigned char)c);
        if (bracket && c == ']') {
            n++;
            break;
        }
    }
    if (bracket && (n < 4 || out[n - 1] != ']')) return 0;
    out[n] = '\0';
    return n;
}

/* "host[:port][/]" behind the scheme. */
static bool authority_normalize(const char *text, int default_port, char *out, size_t size) {
    size_t n = host_copy(text, out, size);
    if (n == 0) return false;
    const char *p = text + n;
    if (*p == ':') {
        int port = 0, digits = 0;
        for (p++; isdigit((unsigned char)*p); p++) {
            if (++digits > 5) return false;
            port = port * 10 + (*p - '0');
        }
        if (digits == 0 || port == 0 || port > 65535) return false;
        if (port != default_port) {
            int k = snprintf(out + n, size - n, ":%d", port);
            if (k < 0 || (size_t)k >= size - n) return false;
        }
    }
    if (*p == '/') p++;
    return *p == '\0';
}

bool auth_origin_normalize(const char *text, char out[AUTH_ORIGIN_SIZE]) {
    static const struct {
        const char *prefix;
        size_t len;
        int port;
    } schemes[] = {{"http://", 7, 80}, {"https://", 8, 443}};
    if (!text) return false;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        size_t len = schemes[i].len;
        if (strncasecmp(text, schemes[i].prefix, len) != 0) continue;
        memcpy(out, schemes[i].prefix, len);
        return authority_normalize(text + len, schemes[i].port, out + len, AUTH_ORIGIN_SIZE - len);
    }
    return false;
}

bool auth_origin_allowed(const char *origin, const char *host, const char *public_origin) {
    char theirs[AUTH_ORIGIN_SIZE], ours[AUTH_ORIGIN_SIZE];
    if (!auth_origin_normalize(origin, theirs)) return false;
    if (public_origin && auth_origin_normalize(public_origin, ours) && strcmp(theirs, ours) == 0) return true;
    if (!host) return false;
    int n = snprintf(ours, sizeof ours, "http://%s", host);
    char direct[AUTH_ORIGIN_SIZE];
    return n > 0 && (size_t)n < sizeof ours && !strchr(host, '/') && auth_origin_normalize(ours, direct) &&
           strcmp(theirs, direct) == 0;
}

bool auth_secure(const char *public_origin) { return public_origin && strncasecmp(public_origin, "https://", 8) == 0; }
