/* archive.h - a person's chats as a file, and a file as chats. By cookie or, for scripts, by API key.
 *
 *   GET  /api/export                       all chats: {"format":"foresay-chats","version":1,"ts":now,"chats":[chat, ...]}
 *   GET  /api/export?chat=ID               the same with one chat
 *   GET  /api/export?chat=ID&as=markdown   for readers: one branch, which ends with &leaf=MESSAGE or the newest message
 *   POST /api/import                       a file of the first two kinds -> 200 {chats, messages} (their numbers); 400 {error}
 *   chat: {title, ts (last change), messages:[m, ...]}; m as in protocol.h without g, parents before children, none running.
 *
 *  (1) A file of any number of chats takes the memory of one page (STORE_MAX_PAGE_BYTES): the next is read when the last is out.
 *  (2) An import is checked before it is believed (archive_in.h) and done wholly or not at all. One at a time: it is the only
 *      body of its size. What an export gave, an import takes, and its export is the same but for ids.
 *  (3) Who is asking is known before a body is kept.
 * Service thread only; the store's writer pulls the chats of an import. */
#ifndef FORESAY_ARCHIVE_H
#define FORESAY_ARCHIVE_H

#include "gateway/http.h"

void archive_export(struct exchange *exchange);
/* When the head is in: false when it was refused. Then, when the body is in: */
bool archive_import_begin(struct exchange *exchange);
void archive_import(struct exchange *exchange);

#endif
