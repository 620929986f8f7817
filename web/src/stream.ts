/* stream.ts - one generation as the page sees it: a value, and a pure function that applies one event to it.
 *
 *  (1) An event is applied if and only if its number is last + 1. Older ones are dropped, later ones are a gap: the caller asks
 *      for the events from last + 1 again and nothing changes until they come.
 *  (2) `text` is the whole message text: what stood there before (base) and every delta since, each exactly once.
 *  (3) `bytes` and `crc` always belong to `text`. When `done` disagrees with them the outcome says so and the caller fetches the
 *      message from the history; the page never claims that a text is whole when it is not.
 *  (4) After the end nothing is applied.
 *  (5) `rounds` are those that were told; a snapshot, a slow server or an answer without the wish leaves them out. */
import { crc32c, crcText } from './crc32c.ts';
import type { Round } from './guesses.ts';
import type { Failure, Status, StreamEvent, Usage, Why } from './wire.ts';

export interface Ending {
    st: Status;
    why: Why | null;
    usage: Usage | null;
    err: Failure | null;
}

export interface Stream {
    g: string;
    last: number; // number of the newest event applied
    text: string;
    bytes: number; // of text as UTF-8
    crc: number; // CRC-32C of those bytes
    tokens: number; // of this generation, so far
    accepted: number; // of these, guessed ahead and right
    rounds: readonly Round[];
    prefill: { done: number; total: number } | null; // while the prompt is being read
    trimmed: number; // oldest messages left out to fit the context
    started: boolean; // the first delta has come
    end: Ending | null;
}

export type Outcome = 'applied' | 'dropped' | 'gap' | 'mismatch';

const utf8 = new TextEncoder();

export function newStream(g: string, base: string): Stream {
    const bytes = utf8.encode(base);
    return {
        g,
        last: 0,
        text: base,
        bytes: bytes.length,
        crc: crc32c(bytes),
        tokens: 0,
        accepted: 0,
        rounds: [],
        prefill: null,
        trimmed: 0,
        started: false,
        end: null,
    };
}

export function statusOf(why: Why): Status {
    switch (why) {
        case 'stop':
            return 'done';
        case 'length':
        case 'context':
            return 'length';
        case 'cancel':
            return 'stopped';
        case 'error':
            return 'error';
        case 'interrupted':
            return 'interrupted';
    }
}

/* A snapshot stands for all events up to `upto`; it may also say that the generation is over. */
function applySnapshot(stream: Stream, snap: Extract<StreamEvent, { t: 'snap' }>): [Stream, Outcome] {
    if (snap.upto < stream.last) return [stream, 'dropped'];
    const bytes = utf8.encode(snap.x);
    const end = snap.st === 'running' ? null : { st: snap.st, why: snap.why, usage: null, err: null };
    const started = stream.started || snap.x.length > 0;
    return [
        { ...stream, last: snap.upto, text: snap.x, bytes: bytes.length, crc: crc32c(bytes), prefill: null, started, end },
        'applied',
    ];
}

export function applyEvent(stream: Stream, event: StreamEvent): [Stream, Outcome] {
    if (stream.end) return [stream, 'dropped'];
    if (event.t === 'snap') return applySnapshot(stream, event);
    const covers = event.t === 'd' ? event.n : 1;
    if (event.s + covers - 1 <= stream.last) return [stream, 'dropped'];
    if (event.s !== stream.last + 1) return [stream, 'gap'];
    const last = stream.last + covers;

    switch (event.t) {
        case 'start':
            if (event.base !== stream.bytes) return [{ ...stream, last }, 'mismatch'];
            return [{ ...stream, last }, 'applied'];
        case 'state':
            if (event.st === 'prefill') {
                return [{ ...stream, last, prefill: { done: event.done, total: event.total } }, 'applied'];
            }
            if (event.st === 'trimmed') return [{ ...stream, last, trimmed: event.dropped }, 'applied'];
            return [{ ...stream, last }, 'applied'];
        case 'd': {
            const bytes = utf8.encode(event.x);
            const next = {
                ...stream,
                last,
                text: stream.text + event.x,
                bytes: stream.bytes + bytes.length,
                crc: crc32c(bytes, stream.crc),
                tokens: stream.tokens + event.tok,
                accepted: stream.accepted + event.acc,
                prefill: null,
                started: true,
            };
            return [next, 'applied'];
        }
        case 'trace': {
            const { r, acc, bonus, nodes } = event;
            return [{ ...stream, last, rounds: [...stream.rounds, { at: stream.text.length, r, acc, bonus, nodes }] }, 'applied'];
        }
        case 'done': {
            const end = { st: statusOf(event.why), why: event.why, usage: event.usage, err: event.err };
            const whole = event.len === stream.bytes && event.crc.toLowerCase() === crcText(stream.crc);
            return [{ ...stream, last, prefill: null, end }, whole ? 'applied' : 'mismatch'];
        }
    }
}
