/* transport.ts - what carries the frames of chat.v1 (gateway/protocol.h): a WebSocket, or, where a proxy lets none through, POST one
 * way and server-sent events or long polls the other.
 *
 *  (1) A line is the same for its user whatever it is made of: `opened`, then frames both ways, then `closed` once with a code as
 *      WebSockets have them (1006: it just broke), and nothing after its own `close`.
 *  (2) Over HTTP the frames go out in numbered batches, one at a time. A batch whose answer gets lost is sent again; the server
 *      does it once.
 *  (3) A read that breaks goes on behind the last message that came. After MAX_TRIES without success the line is closed.
 *  (4) Events are read from the body of a fetch: unlike an EventSource it says why it failed, so a blocked one is known at once. */

export type Transport = 'websocket' | 'sse' | 'longpoll';

export interface Line {
    send(frame: string): void;
    close(): void;
}

export interface LineEvents {
    opened(): void;
    received(frame: unknown): void;
    closed(code: number, why: string): void;
}

const MAX_TRIES = 3;
const RETRY_MS = 300;
const WAIT_S = 25;
const MAX_BATCH = 200_000; // characters; the server takes 512 KiB at once

export function openLine(transport: Transport, events: LineEvents): Line {
    return transport === 'websocket' ? openWebSocket(events) : new HttpLine(transport, events);
}

function openWebSocket(events: LineEvents): Line {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws`, 'chat.v1');
    socket.onopen = () => events.opened();
    socket.onmessage = (event) => events.received(event.data);
    socket.onclose = (event) => events.closed(event.code, event.reason);
    return {
        send: (frame) => socket.send(frame),
        close() {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close(1000);
        },
    };
}

/* Why a line is over. */
class Ended extends Error {
    constructor(
        readonly code: number,
        why = '',
    ) {
        super(why);
    }
}

const codes: Record<number, number> = { 401: 4401, 413: 1009 };

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

class HttpLine implements Line {
    private connection = '';
    private readonly queue: string[] = [];
    private posting = false;
    private posts = 0;
    private after = 0; // number of the last message that came
    private readonly over = new AbortController();

    constructor(
        private readonly transport: 'sse' | 'longpoll',
        private readonly events: LineEvents,
    ) {
        queueMicrotask(() => this.over.signal.aborted || events.opened());
    }

    send(frame: string): void {
        this.queue.push(frame);
        void this.post();
    }

    close(): void {
        if (this.over.signal.aborted) return;
        this.over.abort();
        if (this.connection) fetch(this.at('/api/cmd'), { method: 'DELETE', keepalive: true }).catch(() => undefined);
    }

    private end(error: unknown): void {
        if (this.over.signal.aborted) return;
        this.over.abort();
        if (error instanceof Ended) this.events.closed(error.code, error.message);
        else this.events.closed(1006, '');
    }

    private at(path: string, more = ''): string {
        return `${path}?connection=${this.connection}${more}`;
    }

    private async fetch(url: string, body?: string): Promise<Response> {
        const init = body === undefined ? {} : { method: 'POST', body };
        const response = await fetch(url, { ...init, signal: this.over.signal });
        if (!response.ok) throw new Ended(codes[response.status] ?? 1006);
        return response;
    }

    /* --- out --- */

    private async post(): Promise<void> {
        if (this.posting) return;
        this.posting = true;
        try {
            if (this.connection === '') await this.begin(this.queue.shift()!);
            while (this.queue.length > 0) await this.deliver(this.at('/api/cmd', `&n=${++this.posts}`), this.batch());
        } catch (error) {
            this.end(error);
        }
        this.posting = false;
    }

    private async begin(hello: string): Promise<void> {
        const body: unknown = await (await this.fetch('/api/cmd', hello)).json();
        this.connection = String((body as { connection?: unknown }).connection);
        void this.read();
    }

    private batch(): string {
        let characters = 0;
        const end = this.queue.findIndex((frame, i) => (characters += frame.length) > MAX_BATCH && i > 0);
        return this.queue.splice(0, end < 0 ? this.queue.length : end).join('\n');
    }

    private async deliver(url: string, body: string): Promise<void> {
        for (let tries = 1; ; tries++) {
            try {
                await this.fetch(url, body);
                return;
            } catch (error) {
                if (error instanceof Ended || tries === MAX_TRIES || this.over.signal.aborted) throw error;
                await pause(RETRY_MS * tries);
            }
        }
    }

    /* --- in --- */

    private async read(): Promise<void> {
        for (let failures = 0; failures < MAX_TRIES && !this.over.signal.aborted; ) {
            const before = this.after;
            try {
                await (this.transport === 'sse' ? this.readEvents() : this.poll());
                // A stream that ends before it said anything is of no use, a poll may well be empty.
                failures = this.transport === 'longpoll' || this.after > before ? 0 : failures + 1;
            } catch (error) {
                if (error instanceof Ended) return this.end(error);
                failures = this.after > before ? 1 : failures + 1;
            }
            if (failures > 0) await pause(RETRY_MS * failures);
        }
        this.end(null);
    }

    private async poll(): Promise<void> {
        const response = await this.fetch(this.at('/api/poll', `&after=${this.after}&wait=${WAIT_S}`));
        const answer = (await response.json()) as { next: number; msgs: unknown[]; close?: { code: number; reason: string } };
        for (const message of answer.msgs) this.events.received(JSON.stringify(message));
        this.after = answer.next;
        if (answer.close) throw new Ended(answer.close.code, answer.close.reason);
    }

    private async readEvents(): Promise<void> {
        const response = await this.fetch(this.at('/api/events', `&after=${this.after}`));
        const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
        let text = '';
        for (;;) {
            const { value, done } = await reader.read();
            if (done) return;
            text += value;
            for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) this.event(text.slice(0, end));
        }
    }

    private event(text: string): void {
        const of = new Map(text.split('\n').map((line) => line.split(/: (.*)/, 2) as [string, string]));
        const data = of.get('data');
        if (data !== undefined && of.get('event') === 'close') {
            const { code, reason } = JSON.parse(data) as { code: number; reason: string };
            throw new Ended(code, reason);
        }
        if (data !== undefined) this.events.received(data);
        this.after = Number(of.get('id') ?? this.after);
    }
}
