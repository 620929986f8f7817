/* connection.ts - the one socket of this tab: opens it, keeps it alive, opens it again, and carries requests over the breaks.
 *
 *  (1) A request is answered once. One marked `resend` survives the loss of the socket: it goes out again, same id and same body,
 *      on the next one, until `ok` or `err` comes. The server does nothing twice for a repeated `cid`, so a message is sent
 *      exactly once.
 *  (2) A socket is good only after `welcome`. Any frame counts as a sign of life; when none comes for longer than the heartbeat,
 *      we ask with a ping, and without an answer the socket is dropped. A slow answer from the model is never taken for a dead
 *      socket.
 *  (3) Waiting between attempts doubles from 0.5 s to 15 s, half of it random, so that a restarted server is not met by all at
 *      once.
 *  (4) Bounds: at most MAX_REQUESTS unanswered requests; one more is refused at once. */
import { signal } from '@preact/signals';
import { randomId } from './ids.ts';
import { CODE, readFrame, writeFrame, type Frame, type Welcome } from './wire.ts';

const MAX_REQUESTS = 64;
const CONNECT_TIMEOUT_MS = 10_000;
const PROBE_TIMEOUT_MS = 5_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;

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
    private socket: WebSocket | null = null;
    private requests = new Map<string, Request>();
    private nextId = 1;
    private attempts = 0;
    private earliestRetry = 0; // a draining server asked us to stay away until then
    private heartbeatMs = 25_000;
    private timers = { retry: 0, connect: 0, watch: 0, probe: 0 };
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
        this.clearTimers();
        this.dropSocket(1000);
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
            if (this.link.value.kind === 'online') this.socket?.send(frame);
            else if (!resend) this.settle(id)?.reject(new RequestError(0, 'Not connected.'));
        }).then(read);
    }

    /* --- life of a socket --- */

    private connect(): void {
        this.clearTimers();
        this.dropSocket(1000);
        this.link.value = { kind: 'connecting', since: Date.now() };
        const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws`, 'chat.v1');
        this.socket = socket;
        let opened = false;
        this.timers.connect = window.setTimeout(() => this.lost(socket, 'The server does not answer.'), CONNECT_TIMEOUT_MS);
        socket.onopen = () => {
            opened = true;
            socket.send(JSON.stringify({ t: 'hello', v: 1, cid: this.instance, resume: this.listener?.resume() ?? [] }));
        };
        socket.onmessage = (event) => this.receive(socket, event.data);
        socket.onclose = (event) => this.closed(socket, event, opened);
    }

    private closed(socket: WebSocket, event: CloseEvent, opened: boolean): void {
        if (socket !== this.socket) return;
        if (event.code === 4401) {
            this.socket = null;
            this.clearTimers();
            this.link.value = { kind: 'idle' };
            this.listener?.signedOut();
        } else if (event.code === 4500 || event.code === 4503) {
            this.socket = null;
            this.clearTimers();
            this.link.value = { kind: 'refused', why: event.reason || 'The server refused this page.' };
        } else if (event.code === 1009) {
            // Something that we sent is too large for the server; sending it again would only end the next socket too.
            this.rejectAll(new RequestError(CODE.tooBig, 'This is too long for the server.'));
            this.lost(socket, 'The connection was lost.');
        } else if (!opened) {
            void this.refusedUpgrade(socket);
        } else {
            this.lost(socket, event.reason || 'The connection was lost.');
        }
    }

    /* A browser does not tell why an upgrade failed; the session endpoint does. */
    private async refusedUpgrade(socket: WebSocket): Promise<void> {
        const status = await fetch('/api/session', { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) }).then(
            (response) => response.status,
            () => 0,
        );
        if (socket !== this.socket) return;
        if (status === 401) {
            this.socket = null;
            this.clearTimers();
            this.link.value = { kind: 'idle' };
            this.listener?.signedOut();
        } else {
            this.lost(socket, 'The server cannot be reached.');
        }
    }

    private lost(socket: WebSocket, why: string): void {
        if (socket !== this.socket) return;
        this.clearTimers();
        this.dropSocket(1000);
        for (const request of [...this.requests.values()]) {
            if (!request.resend) this.settle(request.id)?.reject(new RequestError(0, why));
        }
        const bound = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.attempts++);
        const wait = Math.max(bound / 2 + (Math.random() * bound) / 2, this.earliestRetry - Date.now());
        this.link.value = { kind: 'waiting', retryAt: Date.now() + wait, why };
        this.timers.retry = window.setTimeout(() => this.connect(), wait);
    }

    private dropSocket(code: number): void {
        const socket = this.socket;
        this.socket = null;
        if (!socket) return;
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close(code);
    }

    private clearTimers(): void {
        for (const name of ['retry', 'connect', 'watch', 'probe'] as const) {
            clearTimeout(this.timers[name]);
            this.timers[name] = 0;
        }
    }

    /* --- frames --- */

    private receive(socket: WebSocket, data: unknown): void {
        if (socket !== this.socket) return;
        const frame = readFrame(data, (why) => console.warn('foresay: a frame was skipped:', why));
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
                socket.send(JSON.stringify({ t: 'pong', n: frame.n }));
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
        this.heartbeatMs = welcome.hb_ms;
        // What waited goes out first; what `online` and the listener ask for now, they send themselves.
        for (const request of this.requests.values()) this.socket?.send(request.frame);
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
        const socket = this.socket;
        if (this.link.value.kind !== 'online' || !socket || this.timers.probe) return;
        socket.send(JSON.stringify({ t: 'ping', n: Date.now() }));
        this.timers.probe = window.setTimeout(() => this.lost(socket, 'The server does not answer.'), PROBE_TIMEOUT_MS);
    }

    /* The tab was asleep or the network changed: an open socket must prove itself, a closed one is opened now. */
    private checkNow(): void {
        if (this.link.value.kind === 'online') this.probe();
        else if (this.link.value.kind === 'waiting') this.connect();
    }
}

/* The tab's connection. */
export const connection = new Connection();
