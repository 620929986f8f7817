/* protocol.h - the wire: `chat.v1`, one JSON object per message, the same objects on every transport.
 *
 * WebSocket: GET /v1/ws, subprotocol "chat.v1", text frames, session cookie, Origin checked. A client frame holds at most
 * PROTOCOL_MAX_FRAME bytes. Member `t` names the kind of a message: {"t":"send", ...}. Times are milliseconds since 1970. Ids
 * are 32 hex digits (128 random bits), always checked against the user.
 *
 * Without a WebSocket, same cookie: what the client says goes by POST, what the server says comes by GET, to one reader at a
 * time, which may change its kind (SSE, long polling, polling) whenever it likes.
 *   POST /api/cmd {hello}                      200 {connection: ID}; a connection like any other: same limits, same closes
 *   POST /api/cmd?connection=ID&n=N            messages, one a line, at most 512 KiB -> 204; their answers come to the reader.
 *              N = 1, 2, ...: one that was done is answered 204 and not done again, so repeat what got no answer; 409: one is
 *              missing
 *   DELETE /api/cmd?connection=ID              the client leaves -> 204
 *   GET  /api/poll?connection=ID&after=A&wait=S
 *              200 {next, msgs:[...], close?:{code, reason}} with what is owed beyond message number A (0 at first, then the last
 *              `next`), at most about 64 KiB of it; at once if there is something, else within S seconds (0..60, default 0)
 *   GET  /api/events?connection=ID&after=A     text/event-stream: `id` a message's number, `data` the message; at last the event
 *              `close` {code, reason}. The header Last-Event-ID goes before `after`
 * What a reader may not have got is kept and sent again: all of it for polls, the latest 64 KiB for events. 410: ID is over, or
 * what A asks for is not kept: begin anew with hello and its resume, as after a broken WebSocket. Other refusals: 400, 401 (sign
 * in again), 403 (another site), 413, 503 (later), all with {error: sentence}. POST and DELETE need the page's Origin. Pings need
 * no pong here. A connection that nobody reads ends after one or two minutes.
 *
 * A message m:        {id, parent (id or null), role "user"|"assistant", text, ts, st, g?, usage?, why?, err?}
 *   st: "done" | "running" | "stopped" | "interrupted" | "error" | "length"; user messages are always "done".
 *   A running message's text is what stood there before this generation began (empty but for `cont`); its events carry the
 *   rest: sub{g, from:1}.
 * A conversation c:   {id, title, ts (last change), live (g of its running generation, or null)}
 *
 * Client -> server. `id` (string, at most 64 bytes) names the request; exactly one `ok` or `err` with this id answers it.
 *   hello  {v:1, cid (client instance, 1..64 chars), resume?:[{g, from}]}
 *              first message of a connection; answered by `welcome`, then each resumed stream continues as if by sub
 *   send   {id, cid, conv?, parent?, root?, text, gen?, drop_oldest?:bool, trace?:bool}
 *              -> ok {conv, msg, ans (assistant message's id), g} once both messages are on disk
 *              cid: unique per message of this user, 1..64 chars; the same cid again returns the first answer, nothing is
 *              done twice. parent: the assistant message it follows; null or absent with conv = its newest branch's end;
 *              editing = the parent of the edited message. root:true = a new first message in conv
 *              trace: the answer's stream has trace events; where welcome says trace:false the wish is without effect
 *   regen  {id, cid, msg (assistant message), gen?, drop_oldest?, trace?}
 *              a sibling answer  -> ok {conv, msg:<user msg>, ans, g}
 *   cont   {id, cid, msg, gen?, trace?}       goes on in the same message -> ok {conv, ans, g}
 *              msg: an assistant message with st interrupted, stopped or length
 *   cancel {id, g}                            the only stop; the partial text stays   -> ok {}
 *   sub    {id, g, from}                      events from sequence number `from` (>= 1) on   -> ok {}, then events
 *   unsub  {id, g}                                                                           -> ok {}
 *   hist   {id, conv, before? (message id), limit? (1..100, default 50)}
 *              newest first paging over all branches: -> ok {conv, title, msgs:[m oldest..newest], more:bool}
 *   convs  {id, before? (conversation id), limit?}    -> ok {convs:[c newest first], more:bool}
 *   search {id, q (words, 1..256 bytes), before? (message id of a hit), limit? (1..50, default 20)}
 *              messages of the user that hold all the words, newest first; the last word may be a
 *              beginning, if it has two letters
 *              -> ok {hits:[{conv, title, id (message), role, ts, text:[plain, hit, plain, ...]}], more:bool, indexing:bool}
 *              text: an excerpt, cut at the words looked for; indexing: older messages are still being made ready for search.
 *              An answer is found once it is no longer being written
 *   rename {id, conv, title (1..200 chars)}   -> ok {}         delete {id, conv} -> ok {}
 *   learn  {id, on:bool}   may guesses come from the user's own earlier answers? They make answers faster and change none; no
 *              other user gets anything of it. Off for new users; off: what was learned is forgotten at once   -> ok {}
 *   ping   {n}                                -> pong {n}      pong {n}   answers the server's ping
 * gen: {temp 0..5, top_p (0,1], top_k >= 0, min_p [0,1), max >= 1, seed >= 0, repeat_penalty, frequency_penalty,
 *       presence_penalty, stop:[string], system:string (first message for the model, not stored), drafter, verify
 *       (names: who guesses ahead and how guesses are checked, see engine.h)}; unknown members are an error that names them.
 *
 * Server -> client
 *   welcome {v:1, sid, user:{name, admin, learn}, model:{name, ctx, quant}, server:{version, node}, trace, hb_ms, max_frame,
 *            now}    trace: the server tells of guesses; false with --pace-ms, where sizes must not say which came true
 *   ok  {id, ...}     err {id?, g?, code, msg, retry_ms?}
 *   msg  {conv, m}                            a message was added (to all connections of the user)
 *   conv {c} | {conv, deleted:true}           a conversation was added, renamed, got a new end, or went away (likewise)
 *   learn {on}                                the user's setting has changed (likewise)
 *   imported {}                               many conversations were added at once: ask for convs again (likewise)
 *   Events of a generation g, numbered s = 1, 2, ... without gaps:
 *   start {g, s:1, conv, msg (assistant message), parent, base (bytes of text it continues, 0 for a new answer), ts}
 *   state {g, s, st:"prefill", done, total}   progress of a long prompt, tokens; or {st:"trimmed", dropped:n}: oldest messages
 *                                             that the model did not see
 *   d     {g, s, n, x, tok, acc?}             covers events s .. s + n - 1: text x, tok tokens, acc of them guessed ahead and
 *                                             right (absent = 0; never with --pace-ms). A lagging reader gets fewer, larger ones
 *   trace {g, s, r, acc, bonus:TOKEN, nodes:[[parent, TOKEN, chance, right:0|1, source], ...]}
 *              when asked for: round r checked a tree of guesses. It stands before the text of the round's tokens: the acc right
 *              nodes in order, then the bonus, which the model drew behind them. Node 0 is the last token before the round, it
 *              has parent -1; parents stand before children; chance: as estimated before, that the draws come there; source:
 *              the drafter that guessed it, or own: the user's earlier answers in other conversations.
 *              TOKEN: its text, or [bytes] when these are not whole characters, or {name} for a control token, which has no text.
 *              In the live log alone, as long as that is kept (also for sub after a break, or after the end), not in the
 *              history; a snap has none. At most 1 MiB an answer; rounds that found no room are counted in usage.traces_lost,
 *              their r is missing
 *   done  {g, s, why, usage:{in, cached, out, queue_ms, prefill_ms, ttft_ms, tps, rounds, drafted, accepted, own,
 *              accepted_at, drafter, verify, model_rounds, draft_off, traces_lost?, seed}, len, crc, err?:{code, msg}}
 *              rounds: steps that checked a draft; drafted, accepted: tokens guessed ahead, of these right; own: of the
 *              latter, guessed from the user's own earlier answers (learn); accepted_at: likewise, how many were the first
 *              guess of their round, the second, ..., the eighth or later; drafter: who was to guess; verify: how
 *              guesses were checked; model_rounds: those in which the draft model or the head had a part; draft_off: why
 *              most steps without a draft had none
 *              why: "stop" | "length" | "context" | "cancel" | "error" | "interrupted"; len = bytes and crc = CRC-32C (8 hex
 *              digits) of the whole message text, base included
 *   snap  {g, upto, x, st, why?}              instead of events that are no longer kept: x = the whole message text as of
 *                                             event upto
 *   drain {after_ms}   the server is going away: reconnect after this      ping {n}   answer with pong within hb_ms
 *   Subscribers: the sending connection is subscribed at once; other ones of the user learn of g through msg and conv, and sub.
 * Client rule (exactly once): apply an event only if s == last + 1; if s + n - 1 <= last drop it; else sub{g, from: last + 1}.
 *
 * Codes: 1000 bad_json, 1001 bad_field, 1002 unknown_type, 1003 too_big; 2000 unauthenticated, 2002 forbidden; 3000 not_found,
 * 3001 gone, 3004 conflict (the answer is still running); 4000 rate_limited, 4002 busy, 4003 too_many; 5000 internal,
 * 5001 engine_down, 5002 store_down (disk full and the like), 5003 context_full, 5004 draining.
 * Closes: 4401 sign in again, 4408 too slow, 4413 no pong, 4429 rate (come back); 4500 bad protocol, 4503 forbidden (final);
 * 1000 the client left; 1009 frame too big; 1012 restart.
 *
 * HTTP on the same port
 *   GET  /  and /assets/...                    the page (embedded; ETag; strict CSP)
 *   GET  /sign-in?code=C                       one-time code from the terminal -> session cookie, 303 to / (to /?code=expired
 *                                              without a cookie when the code is used up)
 *   POST /api/session {"key": "fsk_..."}       API key -> 204 and session cookie; 401 {error}; DELETE /api/session signs out
 *   GET  /api/session                          200 {user:{name, admin}} or 401
 *   GET  /api/export, POST /api/import         one's chats as a file, and back: archive.h
 *   GET  /health                               200 {status:"ok"|"draining", version, model, uptime_s, ...}; no sign-in needed
 *   POST, DELETE /api/cmd, GET /api/poll, /api/events    as above
 *   GET  /v1/models, /v1/models/NAME, POST /v1/chat/completions, POST /v1/completions
 *                                              OpenAI's shapes and errors; Authorization: Bearer fsk_...
 */
#ifndef FORESAY_PROTOCOL_H
#define FORESAY_PROTOCOL_H

enum {
    PROTOCOL_MAX_FRAME = 256 * 1024, /* bytes of one client message: a very long paste fits, a flood does not */
    PROTOCOL_MAX_ID = 64,
    PROTOCOL_HEARTBEAT_MS = 25000,
    PROTOCOL_MAX_WAIT_S = 60,
};

enum protocol_code {
    CODE_BAD_JSON = 1000,
    CODE_BAD_FIELD = 1001,
    CODE_UNKNOWN_TYPE = 1002,
    CODE_TOO_BIG = 1003,
    CODE_UNAUTHENTICATED = 2000,
    CODE_FORBIDDEN = 2002,
    CODE_NOT_FOUND = 3000,
    CODE_GONE = 3001,
    CODE_CONFLICT = 3004,
    CODE_RATE_LIMITED = 4000,
    CODE_BUSY = 4002,
    CODE_TOO_MANY = 4003,
    CODE_INTERNAL = 5000,
    CODE_ENGINE_DOWN = 5001,
    CODE_STORE_DOWN = 5002,
    CODE_CONTEXT_FULL = 5003,
    CODE_DRAINING = 5004,
};

/* The code for a status of the engine (enum engine_status); 0 for ENGINE_OK. */
int protocol_code_of_engine(int status);

#endif
