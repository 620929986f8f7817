/* httpline.ts - a line over HTTP: POST one way, server-sent events or long polls the other.
 *
 *  (1) The frames go out in numbered batches, one at a time. A batch whose answer gets lost is sent again; the server does it once.
 *  (2) A read that breaks goes on behind the last message that came. After MAX_TRIES without success the line is closed.
 *  (3) Events are read from the body of a fetch: unlike an EventSource it says why it failed, so a blocked one is known at once.
 *  (4) A browser opens six connections to a host, for all tabs. So a hidden tab holds none for long: it asks every HIDDEN_MS, and
 *      after it has said something. */
import type { Line, LineEvents } from './transport.ts';

const MAX_TRIES = 3;
const RETRY_MS = 300;
const WAIT_S = 25;
const HIDDEN_MS = 10_000;
const HIDDEN_WAIT_S = 1;
const MAX_BATCH = 150_000; // characters, of three bytes at most; the server takes 512 KiB at once

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

function pause(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
        setTimeout(resolve, ms);
        signal?.addEventListener('abort', () => resolve());
    });
}

export class HttpLine implements Line {
    private connection = '';
    private readonly queue: string[] = [];
    private posting = false;
    private posts = 0;
    private after = 0; // number of the last message that came
    private readonly over = new AbortController();
    private asking = new AbortController(); // aborted to ask again at once
    private readonly askAgain = () => this.asking.abort();

    constructor(
        private readonly transport: 'sse' | 'longpoll',
        private readonly events: LineEvents,
    ) {
        queueMicrotask(() => this.over.signal.aborted || events.opened());
        document.addEventListener('visibilitychange', this.askAgain, { signal: this.over.signal });
        this.over.signal.addEventListener('abort', this.askAgain);
    }

    send(frame: string): void {
        this.queue.push(frame);
        void this.flush();
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

    private async fetch(url: string, init: RequestInit): Promise<Response> {
        const response = await fetch(url, init);
        if (!response.ok) throw new Ended(codes[response.status] ?? 1006);
        return response;
    }

    /* --- out --- */

    private post(url: string, body: string): Promise<Response> {
        return this.fetch(url, { method: 'POST', body, signal: this.over.signal });
    }

    private async flush(): Promise<void> {
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
        const body: unknown = await (await this.post('/api/cmd', hello)).json();
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
                await this.post(url, body);
                if (document.hidden) this.askAgain();
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
            this.asking = new AbortController();
            const useful = await this.readOnce().catch((error) => (error instanceof Ended ? error : false));
            if (useful instanceof Ended) return this.end(useful);
            if (this.asking.signal.aborted) continue;
            failures = useful || this.after > before ? 0 : failures + 1;
            if (failures > 0) await pause(RETRY_MS * failures);
        }
        this.end(null);
    }

    /* True: it went well, although perhaps nothing came. */
    private async readOnce(): Promise<boolean> {
        if (document.hidden) {
            await this.poll(HIDDEN_WAIT_S);
            await pause(HIDDEN_MS, this.asking.signal);
        } else if (this.transport === 'longpoll') {
            await this.poll(WAIT_S);
        } else {
            await this.readEvents();
            return false; // a stream that ends before it said anything is of no use
        }
        return true;
    }

    private get(url: string): Promise<Response> {
        return this.fetch(url, { signal: this.asking.signal });
    }

    private async poll(wait: number): Promise<void> {
        const response = await this.get(this.at('/api/poll', `&after=${this.after}&wait=${wait}`));
        const answer = (await response.json()) as { next: number; msgs: unknown[]; close?: { code: number; reason: string } };
        for (const message of answer.msgs) this.events.received(JSON.stringify(message));
        this.after = answer.next;
        if (answer.close) throw new Ended(answer.close.code, answer.close.reason);
    }

    private async readEvents(): Promise<void> {
        const response = await this.get(this.at('/api/events', `&after=${this.after}`));
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
