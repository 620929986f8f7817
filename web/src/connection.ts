/* connection.ts - the one line of this tab: opens it, keeps it alive, opens it again, and carries requests over the breaks.
 *
 *  (1) A request is answered once. One marked `resend` survives the loss of the line: it goes out again, same id and same body,
 *      on the next one, until `ok` or `err` comes. The server does nothing twice for a repeated `cid`, so a message is sent
 *      exactly once.
 *  (2) A line is good only after `welcome`. Any frame counts as a sign of life; when none comes for longer than the heartbeat,
 *      we ask with a ping, and without an answer the line is dropped. A slow answer from the model is never taken for a dead
 *      line.
 *  (3) Waiting between attempts doubles from 0.5 s to 15 s, half of it random, so that a restarted server is not met by all at
 *      once.
 *  (4) Bounds: at most MAX_REQUESTS unanswered requests; one more is refused at once.
 *  (5) A WebSocket comes first. Where none gets through although the server answers, events with POST are tried, then long polls;
 *      what worked is remembered for this origin. There a WebSocket is tried again every WEBSOCKET_AGAIN_MS beside the line that
 *      works, which goes when the new one has its welcome. `transport` says what it is; nothing else in the page depends on it. */
import { signal } from '@preact/signals';
import { randomId } from './ids.ts';
import { openLine, type Line, type Transport } from './transport.ts';
import { CODE, readFrame, writeFrame, type Frame, type Welcome } from './wire.ts';

const MAX_REQUESTS = 64;
const CONNECT_TIMEOUT_MS = 6_000;
const PROBE_TIMEOUT_MS = 5_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const WEBSOCKET_AGAIN_MS = 5 * 60_000;
const ORDER: readonly Transport[] = ['websocket', 'sse', 'longpoll'];
const KEY = 'foresay.transport';

/* What got through lately, and when a WebSocket did not. */
function remembered(): { transport: Transport; blockedAt: number } {
    try {
        const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as { transport?: unknown; blockedAt?: unknown };
        const transport = ORDER.find((name) => name === kept.transport);
        if (transport && typeof kept.blockedAt === 'number') return { transport, blockedAt: kept.blockedAt };
    } catch {
        // nothing that we wrote
    }
    return { transport: 'websocket', blockedAt: 0 };
}

export type Link =
    | { kind: 'idle' } // not signed in, or not asked to connect yet
    | { kind: 'connecting'; since: number }
    | { kind: 'online' }
    | { kind: 'waiting'; retryAt: number; why: string }
    | { kind: 'refused'; why: string }; // final: trying again by ourselves would not help

export class RequestError extends Error {
    constructor(
        readonly code: number,
        message: string,
        readonly retryMs: number | null = null,
    ) {
        super(message);
    }
}

interface Request {
    id: string;
    frame: string;
    resend: boolean;
    resolve(body: Record<string, unknown>): void;
    reject(error: Error): void;
}

export interface Listener {
    frame(frame: Exclude<Frame, { t: 'welcome' | 'ok' | 'ping' | 'pong' | 'drain' }>): void;
    welcome(welcome: Welcome): void;
    resume(): { g: string; from: number }[];
    signedOut(): void; // the session is over: show the gate, keep what the person wrote
}

export class Connection {
    readonly link = signal<Link>({ kind: 'idle' });
    readonly transport = signal<Transport>(remembered().transport);
    private blockedAt = remembered().blockedAt;
    private line: Line | null = null;
    private candidate: Line | null = null; // a WebSocket that is tried beside the line
    private requests = new Map<string, Request>();
    private nextId = 1;
    private attempts = 0;
    private earliestRetry = 0; // a draining server asked us to stay away until then
    private heartbeatMs = 25_000;
    private timers = { retry: 0, connect: 0, watch: 0, probe: 0, again: 0 };
    private readonly instance = randomId();

    private listener: Listener | null = null;

    /* Called once, before `start`. */
    listen(listener: Listener): void {
        this.listener = listener;
        const wakeUp = () => this.checkNow();
        document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && wakeUp());
        addEventListener('pageshow', wakeUp);
        addEventListener('online', wakeUp);
        addEventListener('offline', () => this.probe());
    }

    start(): void {
        if (this.link.value.kind === 'online' || this.link.value.kind === 'connecting') return;
        this.attempts = 0;
        this.connect();
    }

    /* Ends everything; unanswered requests are rejected. Used at sign-out. */
    stop(): void {
        this.dropLine();
        this.link.value = { kind: 'idle' };
        this.rejectAll(new RequestError(CODE.unauthenticated, 'Signed out.'));
    }

    private rejectAll(error: RequestError): void {
        for (const request of this.requests.values()) request.reject(error);
        this.requests.clear();
    }

    retryNow(): void {
        if (this.link.value.kind === 'waiting' || this.link.value.kind === 'refused') this.connect();
    }

    request<T>(
        t: string,
        body: Record<string, unknown>,
        read: (body: Record<string, unknown>) => T,
        { resend = true }: { resend?: boolean } = {},
    ): Promise<T> {
        if (this.requests.size >= MAX_REQUESTS) {
            return Promise.reject(new RequestError(0, 'Too much is waiting for the server. Try again in a moment.'));
        }
        const id = String(this.nextId++);
        const frame = writeFrame({ t, id, ...body });
        return new Promise<Record<string, unknown>>((resolve, reject) => {
            this.requests.set(id, { id, frame, resend, resolve, reject });
            if (this.link.value.kind === 'online') this.line?.send(frame);
            else if (!resend) this.settle(id)?.reject(new RequestError(0, 'Not connected.'));
        }).then(read);
    }

    /* --- life of a line --- */

    private open(transport: Transport): Line {
        const line: Line = openLine(transport, {
            opened: () =>
                line.send(JSON.stringify({ t: 'hello', v: 1, cid: this.instance, resume: this.listener?.resume() ?? [] })),
            received: (data) => this.receive(line, data),
            closed: (code, why) => this.closed(line, code, why),
        });
        return line;
    }

    private connect(): void {
        this.dropLine();
        this.link.value = { kind: 'connecting', since: Date.now() };
        const line = this.open(this.transport.value);
        this.line = line;
        this.timers.connect = window.setTimeout(() => void this.blocked(line, true), CONNECT_TIMEOUT_MS);
    }

    private closed(line: Line, code: number, why: string): void {
        if (line === this.candidate) {
            this.dropCandidate();
        } else if (line !== this.line) {
            return;
        } else if (code === 4401) {
            this.sessionOver();
        } else if (code === 4500 || code === 4503) {
            this.dropLine();
            this.link.value = { kind: 'refused', why: why || 'The server refused this page.' };
        } else if (code === 1009) {
            // Something that we sent is too large for the server; sending it again would only end the next line too.
            this.rejectAll(new RequestError(CODE.tooBig, 'This is too long for the server.'));
            this.lost(line, 'The connection was lost.');
        } else if (code === 1006 && this.link.value.kind === 'connecting') {
            void this.blocked(line, false);
        } else {
            this.lost(line, why || 'The connection was lost.');
        }
    }

    private sessionOver(): void {
        this.dropLine();
        this.link.value = { kind: 'idle' };
        this.listener?.signedOut();
    }

    /* No welcome. A browser does not tell why; the session endpoint does. Once is an accident (a server that just starts), unless
     * it was silence: `sure`. */
    private async blocked(line: Line, sure: boolean): Promise<void> {
        clearTimeout(this.timers.connect);
        const status = await fetch('/api/session', { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) }).then(
            (response) => response.status,
            () => 0,
        );
        if (line !== this.line || this.link.value.kind !== 'connecting') return;
        if (status === 401) this.sessionOver();
        else if (status === 200 && (sure || this.attempts > 0) && this.nextTransport()) this.connect();
        else this.lost(line, 'The server cannot be reached.');
    }

    /* False: that was the last, and the next attempt begins with the first. */
    private nextTransport(): boolean {
        if (this.transport.value === 'websocket') this.blockedAt = Date.now();
        const next = ORDER[ORDER.indexOf(this.transport.value) + 1];
        this.transport.value = next ?? 'websocket';
        return next !== undefined;
    }

    private lost(line: Line, why: string): void {
        if (line !== this.line) return;
        this.dropLine();
        for (const request of [...this.requests.values()]) {
            if (!request.resend) this.settle(request.id)?.reject(new RequestError(0, why));
        }
        const bound = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.attempts++);
        const wait = Math.max(bound / 2 + (Math.random() * bound) / 2, this.earliestRetry - Date.now());
        this.link.value = { kind: 'waiting', retryAt: Date.now() + wait, why };
        this.timers.retry = window.setTimeout(() => this.connect(), wait);
    }

    /* With all that waits for it. */
    private dropLine(): void {
        for (const name of ['retry', 'connect', 'watch', 'probe', 'again'] as const) {
            clearTimeout(this.timers[name]);
            this.timers[name] = 0;
        }
        this.line?.close();
        this.candidate?.close();
        this.line = this.candidate = null;
    }

    /* --- a WebSocket instead --- */

    private tryWebSocket(): void {
        this.blockedAt = Date.now();
        this.candidate = this.open('websocket');
        this.timers.again = window.setTimeout(() => this.dropCandidate(), CONNECT_TIMEOUT_MS);
    }

    private dropCandidate(): void {
        this.candidate?.close();
        this.candidate = null;
        this.remember();
    }

    private promote(line: Line): void {
        this.line?.close();
        this.line = line;
        this.candidate = null;
        this.transport.value = 'websocket';
    }

    /* At the welcome, and when a WebSocket failed again. */
    private remember(): void {
        clearTimeout(this.timers.again);
        try {
            if (this.transport.value === 'websocket') localStorage.removeItem(KEY);
            else localStorage.setItem(KEY, JSON.stringify({ transport: this.transport.value, blockedAt: this.blockedAt }));
        } catch {
            // no storage: found out anew next time
        }
        if (this.transport.value === 'websocket') return;
        const wait = Math.max(FIRST_WAIT_MS, this.blockedAt + WEBSOCKET_AGAIN_MS - Date.now());
        this.timers.again = window.setTimeout(() => this.tryWebSocket(), wait);
    }

    /* --- frames --- */

    private receive(line: Line, data: unknown): void {
        if (line !== this.line && line !== this.candidate) return;
        const frame = readFrame(data, (why) => console.warn('foresay: a frame was skipped:', why));
        if (line === this.candidate) {
            if (frame?.t !== 'welcome') return;
            this.promote(line);
        }
        this.alive();
        if (!frame) return;
        switch (frame.t) {
            case 'welcome':
                this.welcomed(frame);
                break;
            case 'ok':
                this.settle(frame.id)?.resolve(frame.body);
                break;
            case 'ping':
                if (this.transport.value === 'websocket') line.send(JSON.stringify({ t: 'pong', n: frame.n }));
                break;
            case 'pong':
                break;
            case 'drain':
                this.earliestRetry = Date.now() + Math.min(frame.after_ms, 60_000);
                break;
            case 'err': {
                const request = frame.id === null ? undefined : this.settle(frame.id);
                if (request) request.reject(new RequestError(frame.code, frame.msg, frame.retry_ms));
                else this.listener?.frame(frame);
                break;
            }
            default:
                this.listener?.frame(frame);
        }
    }

    private welcomed(welcome: Welcome): void {
        clearTimeout(this.timers.connect);
        this.attempts = 0;
        this.remember();
        this.heartbeatMs = welcome.hb_ms;
        // What waited goes out first; what `online` and the listener ask for now, they send themselves.
        for (const request of this.requests.values()) this.line?.send(request.frame);
        this.link.value = { kind: 'online' };
        this.listener?.welcome(welcome);
        this.alive();
    }

    private settle(id: string): Request | undefined {
        const request = this.requests.get(id);
        this.requests.delete(id);
        return request;
    }

    /* --- heartbeat --- */

    private alive(): void {
        clearTimeout(this.timers.probe);
        clearTimeout(this.timers.watch);
        this.timers.probe = 0;
        this.timers.watch = window.setTimeout(() => this.probe(), this.heartbeatMs * 1.2);
    }

    private probe(): void {
        const line = this.line;
        if (this.link.value.kind !== 'online' || !line || this.timers.probe) return;
        line.send(JSON.stringify({ t: 'ping', n: Date.now() }));
        this.timers.probe = window.setTimeout(() => this.lost(line, 'The server does not answer.'), PROBE_TIMEOUT_MS);
    }

    /* The tab was asleep or the network changed: an open line must prove itself, a closed one is opened now. */
    private checkNow(): void {
        if (this.link.value.kind === 'online') this.probe();
        else if (this.link.value.kind === 'waiting') this.connect();
    }
}

/* The tab's connection. */
export const connection = new Connection();
