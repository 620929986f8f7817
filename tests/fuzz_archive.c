/* fuzz_archive.c - any bytes as a file of chats: no crash, no leak; what is given out keeps its promises to the store. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/archive_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct store_chat *chat) {
    assert(chat->title && chat->title[0] && chat->changed_ms >= 0 && chat->n_messages >= 1);
    for (int i = 0; i < chat->n_messages; i++) {
        const struct store_chat_message *m = &chat->messages[i];
        assert(m->parent >= -1 && m->parent < i && m->state != MESSAGE_RUNNING && m->created_ms >= 0);
        assert(m->parent >= 0 ? chat->messages[m->parent].role != m->role : m->role == MESSAGE_USER);
        assert(m->meta[0] == '{' && m->meta[strlen(m->meta) - 1] == '}');
        assert(m->role == MESSAGE_ASSISTANT || (m->state == MESSAGE_DONE && strcmp(m->meta, "{}") == 0));
        assert(m->text && m->text[m->text_len] == '\0');
    }
}

/* To the end or to the first trouble; its counts. */
static int read_all(struct archive_reader *reader) {
    struct store_chat chat;
    enum store_next next;
    while ((next = archive_next(reader, &chat)) == STORE_NEXT_CHAT) check(&chat);
    if (next == STORE_NEXT_BAD) assert(reader->error[0]);
    return next == STORE_NEXT_END ? reader->n_messages : -1;
}

static void run(const char *text, size_t len) {
    struct archive_reader reader;
    archive_reader_begin(&reader, text, len);
    int first = read_all(&reader);
    archive_reader_rewind(&reader);
    assert(read_all(&reader) == first);
    archive_reader_end(&reader);
}

/* The bytes by themselves, and as parts of files that are right but for them: random bytes seldom make JSON. */
#define HEAD "{\"format\":\"foresay-chats\",\"version\":1,\"chats\":["
#define MESSAGES                                                                                                                 \
    HEAD "{\"title\":\"t\",\"ts\":1,\"messages\":[{\"id\":\"q\",\"role\":\"user\",\"text\":\"x\",\"ts\":1,\"st\":\"done\"},"
static const char *const files[][2] = {
    {"", ""},
    {HEAD, "]}"},
    {HEAD "{\"title\":\"t\",\"ts\":1,\"messages\":[", "]}]}"},
    {MESSAGES "{\"id\":\"a\",\"parent\":\"q\",\"role\":\"assistant\",\"text\":\"y\",\"ts\":1,", "}]}]}"},
    {MESSAGES "{\"id\":\"a\",\"parent\":\"q\",\"role\":\"assistant\",\"text\":\"y\",\"ts\":1,\"st\":\"done\",\"usage\":{",
     "}}]}]}"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t before = strlen(files[i][0]), after = strlen(files[i][1]);
        char *text = malloc(before + size + after + !size); /* exactly as long as said: reading past it is seen */
        memcpy(text, files[i][0], before);
        memcpy(text + before, data, size);
        memcpy(text + before + size, files[i][1], after);
        run(text, before + size + after);
        free(text);
    }
    return 0;
}
