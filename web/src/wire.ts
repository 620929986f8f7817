/* wire.ts - the messages of chat.v1 (gateway/protocol.h) as types, and the reader that lets nothing else in.
 *
 *  (1) Every frame passes `readFrame` before any other code sees it: fields have their type, or the frame is refused as a whole.
 *      An object where text belongs can therefore never reach the renderer.
 *  (2) Unknown members are ignored and unknown frame types are skipped, so a newer server may say more than we understand.
 *  (3) What goes out passes `writeFrame`, which lets out no character that the server's JSON refuses.
 *  (4) The answers to requests are read by the `read...` function that the asker names (connection.ts calls it). */

export type Status = 'done' | 'running' | 'stopped' | 'interrupted' | 'error' | 'length';
export type Why = 'stop' | 'length' | 'context' | 'cancel' | 'error' | 'interrupted';

/* NUL and half a surrogate pair, which a paste may hold, are no text for the server: it would refuse the frame as a whole, without
 * the id of the request, and that would wait for ever. */
export function writeFrame(frame: Record<string, unknown>): string {
    return JSON.stringify(frame, (_, value: unknown) =>
        typeof value === 'string' ? value.replace(/\0/g, '').replace(/\p{Surrogate}/gu, '\ufffd') : value,
    );
}

export interface Usage {
    in: number;
    cached: number;
    out: number;
    queue_ms: number;
    prefill_ms: number;
    ttft_ms: number;
    tps: number;
    drafted: number;
    accepted: number;
    draft_off: string; // why most steps without a guess had none
    traces_lost: number;
    seed: number | null;
}

/* A token's text; or its bytes, when these are not whole characters; or the name of one that adds no text. */
export type Token = string | number[] | { name: string };

export interface GuessNode {
    parent: number; // -1: the last token before the round
    token: Token;
    chance: number;
    right: boolean;
    by: string | null;
}

export interface Failure {
    code: number;
    msg: string;
}

export interface Message {
    id: string;
    parent: string | null;
    role: 'user' | 'assistant';
    text: string;
    ts: number;
    st: Status;
    g: string | null;
    usage: Usage | null;
    why: Why | null;
    err: Failure | null;
}

export interface Conversation {
    id: string;
    title: string;
    ts: number;
    live: string | null;
}

/* A message that holds what was looked for. */
export interface Hit {
    conv: string;
    title: string;
    id: string;
    role: 'user' | 'assistant';
    ts: number;
    text: string[]; // an excerpt: plain and hit by turns, plain first
}

export interface Welcome {
    t: 'welcome';
    user: { name: string; admin: boolean; learn: boolean };
    model: { name: string; ctx: number; quant: string };
    server: { version: string; node: string };
    trace: boolean; // the server tells of guesses
    hb_ms: number;
    max_frame: number;
    now: number;
}

export type StreamEvent =
    | { t: 'start'; g: string; s: number; conv: string; msg: string; parent: string | null; base: number; ts: number }
    | { t: 'state'; g: string; s: number; st: 'prefill'; done: number; total: number }
    | { t: 'state'; g: string; s: number; st: 'trimmed'; dropped: number }
    | { t: 'state'; g: string; s: number; st: 'other' }
    | { t: 'd'; g: string; s: number; n: number; x: string; tok: number; acc: number }
    | { t: 'trace'; g: string; s: number; r: number; acc: number; bonus: Token; nodes: GuessNode[] }
    | { t: 'done'; g: string; s: number; why: Why; usage: Usage | null; len: number; crc: string; err: Failure | null }
    | { t: 'snap'; g: string; upto: number; x: string; st: Status; why: Why | null };

export type Frame =
    | Welcome
    | { t: 'ok'; id: string; body: Record<string, unknown> }
    | { t: 'err'; id: string | null; g: string | null; code: number; msg: string; retry_ms: number | null }
    | { t: 'msg'; conv: string; m: Message }
    | { t: 'conv'; c: Conversation }
    | { t: 'conv_gone'; id: string }
    | { t: 'learn'; on: boolean }
    | { t: 'imported' }
    | StreamEvent
    | { t: 'drain'; after_ms: number }
    | { t: 'ping'; n: number }
    | { t: 'pong'; n: number };

/* Codes that the page itself acts on. */
export const CODE = {
    tooBig: 1003,
    unauthenticated: 2000,
    notFound: 3000,
    gone: 3001,
    conflict: 3004,
    contextFull: 5003,
    draining: 5004,
} as const;

type Fields = Record<string, unknown>;
class Refused extends Error {}

function refuse(what: string): never {
    throw new Refused(what);
}

function fields(value: unknown, name: string): Fields {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse(name);
    return value as Fields;
}

function text(of: Fields, name: string): string {
    const value = of[name];
    return typeof value === 'string' ? value : refuse(name);
}

function textOr<T>(of: Fields, name: string, otherwise: T): string | T {
    return of[name] === undefined || of[name] === null ? otherwise : text(of, name);
}

function number(of: Fields, name: string): number {
    const value = of[name];
    return typeof value === 'number' && Number.isFinite(value) ? value : refuse(name);
}

function numberOr<T>(of: Fields, name: string, otherwise: T): number | T {
    return of[name] === undefined || of[name] === null ? otherwise : number(of, name);
}

function count(of: Fields, name: string, least: number): number {
    const value = number(of, name);
    return Number.isInteger(value) && value >= least ? value : refuse(name);
}

function oneOf<T extends string>(of: Fields, name: string, allowed: readonly T[]): T {
    const value = of[name];
    return allowed.includes(value as T) ? (value as T) : refuse(name);
}

function list<T>(of: Fields, name: string, read: (value: unknown, i: number) => T): T[] {
    const value = of[name];
    return Array.isArray(value) ? value.map(read) : refuse(name);
}

const STATUSES = ['done', 'running', 'stopped', 'interrupted', 'error', 'length'] as const;
const REASONS = ['stop', 'length', 'context', 'cancel', 'error', 'interrupted'] as const;

function readUsage(value: unknown): Usage | null {
    if (value === undefined || value === null) return null;
    const of = fields(value, 'usage');
    return {
        in: numberOr(of, 'in', 0),
        cached: numberOr(of, 'cached', 0),
        out: numberOr(of, 'out', 0),
        queue_ms: numberOr(of, 'queue_ms', 0),
        prefill_ms: numberOr(of, 'prefill_ms', 0),
        ttft_ms: numberOr(of, 'ttft_ms', 0),
        tps: numberOr(of, 'tps', 0),
        drafted: numberOr(of, 'drafted', 0),
        accepted: numberOr(of, 'accepted', 0),
        draft_off: textOr(of, 'draft_off', ''),
        traces_lost: numberOr(of, 'traces_lost', 0),
        seed: numberOr(of, 'seed', null),
    };
}

function readFailure(value: unknown): Failure | null {
    if (value === undefined || value === null) return null;
    const of = fields(value, 'err');
    return { code: number(of, 'code'), msg: text(of, 'msg') };
}

function readWhy(of: Fields): Why | null {
    return of.why === undefined || of.why === null ? null : oneOf(of, 'why', REASONS);
}

function readMessage(value: unknown): Message {
    const of = fields(value, 'm');
    return {
        id: text(of, 'id'),
        parent: textOr(of, 'parent', null),
        role: oneOf(of, 'role', ['user', 'assistant'] as const),
        text: text(of, 'text'),
        ts: number(of, 'ts'),
        st: oneOf(of, 'st', STATUSES),
        g: textOr(of, 'g', null),
        usage: readUsage(of.usage),
        why: readWhy(of),
        err: readFailure(of.err),
    };
}

function readConversation(value: unknown): Conversation {
    const of = fields(value, 'c');
    return { id: text(of, 'id'), title: textOr(of, 'title', ''), ts: number(of, 'ts'), live: textOr(of, 'live', null) };
}

function readWelcome(of: Fields): Welcome {
    const user = fields(of.user, 'user');
    const model = fields(of.model, 'model');
    const server = fields(of.server, 'server');
    return {
        t: 'welcome',
        user: { name: text(user, 'name'), admin: user.admin === true, learn: user.learn === true },
        model: { name: text(model, 'name'), ctx: number(model, 'ctx'), quant: textOr(model, 'quant', '') },
        server: { version: text(server, 'version'), node: textOr(server, 'node', '') },
        trace: of.trace === true,
        hb_ms: count(of, 'hb_ms', 1),
        max_frame: count(of, 'max_frame', 1),
        now: number(of, 'now'),
    };
}

function readState(of: Fields): StreamEvent {
    const head = { t: 'state', g: text(of, 'g'), s: count(of, 's', 1) } as const;
    if (of.st === 'prefill') return { ...head, st: 'prefill', done: number(of, 'done'), total: number(of, 'total') };
    if (of.st === 'trimmed') return { ...head, st: 'trimmed', dropped: number(of, 'dropped') };
    return { ...head, st: 'other' };
}

function readToken(value: unknown): Token {
    if (typeof value === 'string') return value;
    if (!Array.isArray(value)) return { name: text(fields(value, 'token'), 'name') };
    return value.every((byte) => Number.isInteger(byte) && byte >= 0 && byte < 256) ? (value as number[]) : refuse('token');
}

/* Parents stand before children, so whoever walks the tree comes to an end. */
function readNode(value: unknown, i: number): GuessNode {
    if (!Array.isArray(value)) refuse('nodes');
    const [parent, token, chance, right, by] = value as unknown[];
    const known = Number.isInteger(parent) && (i === 0 ? parent === -1 : (parent as number) >= 0 && (parent as number) < i);
    if (!known || typeof chance !== 'number') refuse('nodes');
    return {
        parent: parent as number,
        token: readToken(token),
        chance,
        right: right === 1,
        by: typeof by === 'string' ? by : null,
    };
}

function readTrace(of: Fields): StreamEvent {
    const nodes = list(of, 'nodes', readNode);
    if (nodes.length === 0) refuse('nodes');
    return {
        t: 'trace',
        g: text(of, 'g'),
        s: count(of, 's', 1),
        r: count(of, 'r', 1),
        acc: count(of, 'acc', 0),
        bonus: readToken(of.bonus),
        nodes,
    };
}

function readObject(of: Fields): Frame | null {
    switch (of.t) {
        case 'welcome':
            return readWelcome(of);
        case 'ok':
            return { t: 'ok', id: text(of, 'id'), body: of };
        case 'err':
            return {
                t: 'err',
                id: textOr(of, 'id', null),
                g: textOr(of, 'g', null),
                code: number(of, 'code'),
                msg: text(of, 'msg'),
                retry_ms: numberOr(of, 'retry_ms', null),
            };
        case 'msg':
            return { t: 'msg', conv: text(of, 'conv'), m: readMessage(of.m) };
        case 'conv':
            if (of.deleted === true) return { t: 'conv_gone', id: text(of, 'conv') };
            return { t: 'conv', c: readConversation(of.c) };
        case 'learn':
            return { t: 'learn', on: of.on === true };
        case 'imported':
            return { t: 'imported' };
        case 'start':
            return {
                t: 'start',
                g: text(of, 'g'),
                s: count(of, 's', 1),
                conv: text(of, 'conv'),
                msg: text(of, 'msg'),
                parent: textOr(of, 'parent', null),
                base: count(of, 'base', 0),
                ts: number(of, 'ts'),
            };
        case 'state':
            return readState(of);
        case 'd':
            return {
                t: 'd',
                g: text(of, 'g'),
                s: count(of, 's', 1),
                n: count(of, 'n', 1),
                x: text(of, 'x'),
                tok: numberOr(of, 'tok', 0),
                acc: numberOr(of, 'acc', 0),
            };
        case 'trace':
            return readTrace(of);
        case 'done':
            return {
                t: 'done',
                g: text(of, 'g'),
                s: count(of, 's', 1),
                why: oneOf(of, 'why', REASONS),
                usage: readUsage(of.usage),
                len: count(of, 'len', 0),
                crc: text(of, 'crc'),
                err: readFailure(of.err),
            };
        case 'snap':
            return {
                t: 'snap',
                g: text(of, 'g'),
                upto: count(of, 'upto', 0),
                x: text(of, 'x'),
                st: oneOf(of, 'st', STATUSES),
                why: readWhy(of),
            };
        case 'drain':
            return { t: 'drain', after_ms: number(of, 'after_ms') };
        case 'ping':
            return { t: 'ping', n: number(of, 'n') };
        case 'pong':
            return { t: 'pong', n: number(of, 'n') };
        default:
            return null;
    }
}

/* One frame of the socket; null when it is not one that we know how to read. `report` hears why. */
export function readFrame(data: unknown, report: (why: string) => void): Frame | null {
    try {
        if (typeof data !== 'string') refuse('not a text frame');
        const frame = readObject(fields(JSON.parse(data), 'frame'));
        if (!frame) report('unknown frame type');
        return frame;
    } catch (error) {
        report(error instanceof Refused ? `bad field: ${error.message}` : 'not JSON');
        return null;
    }
}

/* --- bodies of `ok`; each throws on a body that does not fit, which rejects the request --- */

type Body = Record<string, unknown>;

export function readTurn(of: Body): { conv: string; msg: string | null; ans: string; g: string } {
    return { conv: text(of, 'conv'), msg: textOr(of, 'msg', null), ans: text(of, 'ans'), g: text(of, 'g') };
}

export function readHistory(of: Body): { conv: string; title: string; msgs: Message[]; more: boolean } {
    return {
        conv: text(of, 'conv'),
        title: textOr(of, 'title', ''),
        msgs: list(of, 'msgs', readMessage),
        more: of.more === true,
    };
}

export function readConversations(of: Body): { convs: Conversation[]; more: boolean } {
    return { convs: list(of, 'convs', readConversation), more: of.more === true };
}

function readHit(value: unknown): Hit {
    const of = fields(value, 'hit');
    return {
        conv: text(of, 'conv'),
        title: textOr(of, 'title', ''),
        id: text(of, 'id'),
        role: oneOf(of, 'role', ['user', 'assistant'] as const),
        ts: number(of, 'ts'),
        text: list(of, 'text', (part) => (typeof part === 'string' ? part : refuse('text'))),
    };
}

export function readHits(of: Body): { hits: Hit[]; more: boolean; indexing: boolean } {
    return { hits: list(of, 'hits', readHit), more: of.more === true, indexing: of.indexing === true };
}

export function readNothing(): null {
    return null;
}
