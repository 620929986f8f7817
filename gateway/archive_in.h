/* archive_in.h - a file of exported chats, checked field by field and given out chat by chat; archive.h describes the file.
 *
 * Everything is checked: types, lengths, times, that the messages of a chat are a tree in which questions and answers take turns.
 * Unknown members are left out. No I/O; one thread at a time (the store's writer pulls the chats). */
#ifndef FORESAY_ARCHIVE_IN_H
#define FORESAY_ARCHIVE_IN_H

#include "gateway/store.h"

#define ARCHIVE_FORMAT "foresay-chats"
enum {
    ARCHIVE_VERSION = 1,
    ARCHIVE_MAX_MESSAGES = 100000, /* of one chat */
};
#define ARCHIVE_MAX_TIME (INT64_C(1) << 53) /* what JavaScript can count */

enum archive_phase { ARCHIVE_BEFORE, ARCHIVE_IN_CHATS, ARCHIVE_AFTER, ARCHIVE_OVER };

struct archive_reader {
    const char *text;
    size_t len, at;
    enum archive_phase phase;
    bool has_format, has_version;
    int n_chats, n_messages; /* given out */
    int message;             /* being read, counted from 1; 0 = none */
    struct store_chat chat;
    void *tree; /* of the chat given out last */
    char error[200];
};

/* text stays the caller's, and stays where it is. */
void archive_reader_begin(struct archive_reader *reader, const char *text, size_t len);
void archive_reader_rewind(struct archive_reader *reader);
void archive_reader_end(struct archive_reader *reader);
/* For struct store_import: what *out points at lives until the next call. BAD: error has a sentence. */
enum store_next archive_next(void *reader, struct store_chat *out);

#endif
