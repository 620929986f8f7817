/* tool_tokenize.c - `foresay tokenize`: text to token ids and back, as the engine does it.
 *
 * stdin is text and stdout one JSON array of ids, or with --many one line for each text; with --decode the other way round.
 * --chat shows the whole prompt that a conversation becomes: messages separated by NUL bytes, the user's first, then by turns. */
#define _GNU_SOURCE /* fwrite_unlocked */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chat_template.h"
#include "engine/gguf.h"
#include "engine/options.h"
#include "engine/tokenizer.h"
#include "engine/tools.h"

enum { MAX_MESSAGES = 1024 };

struct settings {
    const char *model, *system;
    bool decode, chat, bos, many;
};

struct input {
    char *text;
    size_t len;
};

static int fail(const char *sentence) {
    fprintf(stderr, "foresay tokenize: %s\n", sentence);
    return 1;
}

static bool read_input(struct input *input) {
    size_t capacity = 1 << 16;
    input->text = malloc(capacity);
    input->len = 0;
    while (input->text) {
        input->len += fread(input->text + input->len, 1, capacity - input->len, stdin);
        if (input->len < capacity) return !ferror(stdin);
        capacity *= 2;
        char *larger = realloc(input->text, capacity);
        if (!larger) break;
        input->text = larger;
    }
    return false;
}

/* --- text to ids --- */

static void print_ids(const struct token_list *list) {
    char number[16];
    putchar('[');
    for (size_t i = 0; i < list->n; i++) { /* by hand: printf takes longer than finding the token did */
        size_t at = sizeof number;
        uint32_t id = (uint32_t)list->ids[i];
        do number[--at] = (char)('0' + id % 10);
        while (id /= 10);
        if (i > 0) {
            number[--at] = ' ';
            number[--at] = ',';
        }
        fwrite_unlocked(number + at, 1, sizeof number - at, stdout);
    }
    puts("]");
}

static int encode(const struct tokenizer *tokenizer, const struct settings *settings, const char *text, size_t len) {
    struct token_list list = {0};
    int rc = settings->bos ? tokenizer_encode_prompt(tokenizer, text, len, &list) : tokenizer_encode(tokenizer, text, len, &list);
    if (rc == ENGINE_OK) print_ids(&list);
    token_list_free(&list);
    return rc == ENGINE_OK ? 0 : fail("not enough memory");
}

static int encode_many(const struct tokenizer *tokenizer, const struct settings *settings, const struct input *input) {
    int rc = 0;
    for (size_t at = 0; rc == 0 && at <= input->len;) {
        const char *end = memchr(input->text + at, '\0', input->len - at);
        size_t len = end ? (size_t)(end - input->text) - at : input->len - at;
        rc = encode(tokenizer, settings, input->text + at, len);
        at += len + 1;
    }
    return rc;
}

/* --- a conversation to ids --- */

/* Cuts the input at NUL bytes into messages by turns; -1 if there are too many. */
static int split_messages(const struct settings *settings, const struct input *input, struct engine_message *messages) {
    int n = 0;
    if (settings->system) {
        messages[n++] = (struct engine_message){ENGINE_ROLE_SYSTEM, settings->system, strlen(settings->system)};
    }
    enum engine_role role = ENGINE_ROLE_USER;
    for (size_t at = 0; at <= input->len;) {
        const char *end = memchr(input->text + at, '\0', input->len - at);
        size_t len = end ? (size_t)(end - input->text) - at : input->len - at;
        if (n == MAX_MESSAGES) return -1;
        messages[n++] = (struct engine_message){role, input->text + at, len};
        role = role == ENGINE_ROLE_USER ? ENGINE_ROLE_ASSISTANT : ENGINE_ROLE_USER;
        at += len + 1;
    }
    return n;
}

static int encode_chat(const struct tokenizer *tokenizer, const struct gguf *gguf, const struct settings *settings,
                       const struct input *input) {
    static struct engine_message messages[MAX_MESSAGES];
    struct engine_error error;
    struct chat_template *template;
    struct token_list list = {0};
    int n = split_messages(settings, input, messages);
    if (n < 0) return fail("too many messages");
    if (chat_template_open(&template, gguf, tokenizer, &error) != ENGINE_OK) return fail(error.text);
    struct chat_prompt prompt = {.messages = messages, .n_messages = n};
    prompt.continue_last = messages[n - 1].role == ENGINE_ROLE_ASSISTANT;
    int rc = chat_template_render(template, &prompt, &list, NULL, &error);
    if (rc == ENGINE_OK) print_ids(&list);
    token_list_free(&list);
    chat_template_close(template);
    return rc == ENGINE_OK ? 0 : fail(error.text);
}

/* --- ids to text --- */

/* Numbers in brackets, separated by commas: what print_ids writes. */
static int decode(const struct tokenizer *tokenizer, const char *text) {
    char problem[128];
    const char *at = text;
    char *end;
    bool first = true, skips_space = tokenizer_prefixes_space(tokenizer);
    while (isspace((unsigned char)*at)) at++;
    if (*at++ != '[') return fail("--decode needs a JSON array of token ids, such as [1, 2, 3]");
    for (;; first = false) {
        while (isspace((unsigned char)*at)) at++;
        if (first && *at == ']') break;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || (!isdigit((unsigned char)*at) && *at != '-')) return fail("the array must hold whole numbers only");
        if (errno || id < 0 || id >= tokenizer_vocab_size(tokenizer)) {
            snprintf(problem, sizeof problem, "token %.*s is not in the vocabulary of %d", (int)(end - at < 24 ? end - at : 24),
                     at, tokenizer_vocab_size(tokenizer));
            return fail(problem);
        }
        size_t len;
        const char *piece = tokenizer_piece(tokenizer, (int32_t)id, &len);
        size_t skipped = skips_space && len > 0 && *piece == ' ';
        fwrite(piece + skipped, 1, len - skipped, stdout);
        skips_space = skips_space && len == 0;
        for (at = end; isspace((unsigned char)*at); at++) {
        }
        if (*at == ']') break;
        if (*at++ != ',') return fail("the numbers of the array must be separated by commas");
    }
    at++;
    while (isspace((unsigned char)*at)) at++;
    return *at ? fail("there is something after the end of the array") : 0;
}

/* --- command --- */

static int run(const struct tokenizer *tokenizer, const struct gguf *gguf, const struct settings *settings) {
    struct input input;
    int rc;
    if (!read_input(&input)) {
        rc = fail("cannot read the input");
    } else if (settings->decode) {
        input.text[input.len] = '\0'; /* read_input leaves room */
        rc = decode(tokenizer, input.text);
    } else if (settings->chat) {
        rc = encode_chat(tokenizer, gguf, settings, &input);
    } else {
        rc = settings->many ? encode_many(tokenizer, settings, &input) : encode(tokenizer, settings, input.text, input.len);
    }
    free(input.text);
    if (fflush(stdout) != 0 && rc == 0) rc = fail("cannot write the output");
    return rc;
}

int tool_tokenize(int argc, char **argv) {
    struct settings settings = {0};
    struct option_row rows[] = {
        {"model", OPTION_STRING, &settings.model, "FILE", "GGUF file with the tokenizer; one without weights will do", 0, 0,
         false},
        {"decode", OPTION_FLAG, &settings.decode, NULL, "stdin is a JSON array of ids; write their text", 0, 0, false},
        {"bos", OPTION_FLAG, &settings.bos, NULL, "begin as the model's plain prompts do", 0, 0, false},
        {"many", OPTION_FLAG, &settings.many, NULL, "stdin holds texts separated by NUL; one array for each", 0, 0, false},
        {"chat", OPTION_FLAG, &settings.chat, NULL, "stdin holds messages separated by NUL, the user's first", 0, 0, false},
        {"system", OPTION_STRING, &settings.system, "TEXT", "the system message of --chat", 0, 0, false},
    };
    struct option_set set = {.command = "tokenize",
                             .usage = "--model FILE [--decode | --chat | --many] <input",
                             .about =
                                 "Writes the token ids of the text on stdin as a JSON array, or with --decode the text of an "
                                 "array.\nSpecial tokens in the text are plain text.",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof *rows};
    struct engine_error error;
    struct gguf *gguf;
    struct tokenizer *tokenizer = NULL;
    int rc = options_parse(&set, argc, argv, NULL);
    if (rc) return rc == 1 ? 0 : rc;
    if (!settings.model) {
        fail("--model FILE is missing (foresay tokenize --help)");
        return 2;
    }
    if (gguf_open(&gguf, settings.model, &error) != ENGINE_OK) return fail(error.text);
    rc = tokenizer_open(&tokenizer, gguf, &error) == ENGINE_OK ? run(tokenizer, gguf, &settings) : fail(error.text);
    tokenizer_close(tokenizer);
    gguf_close(gguf);
    return rc;
}
