/* chat.ts - the open conversation: its loaded messages, the branch that is shown, the answers being written, the message on its
 * way out.
 *
 *  (1) The server owns the conversation. This is a view of a part of it that can be thrown away and fetched again at any moment.
 *  (2) A message that the person sent stays in `outgoing` until the server has acknowledged it, and is sent with one `cid`
 *      however often the connection breaks: it is neither lost nor doubled. It is also kept in sessionStorage, so a reload does
 *      not change that.
 *  (3) A message that the server calls finished is finished, whatever our stream says; a running one grows by its events alone.
 *  (4) Loaded messages are bounded by what the reader scrolled through; the transcript mounts only a window of them. */
import { batch, computed, signal, type Signal } from '@preact/signals';
import { connection, RequestError } from './connection.ts';
import { randomId } from './ids.ts';
import { LiveAnswer } from './live.ts';
import type { Round } from './guesses.ts';
import { generation, settings } from './settings.ts';
import { complain, tell } from './toasts.ts';
import { newestLeaf, newestLeafBelow, pathTo, type Messages } from './tree.ts';
import { CODE, readHistory, readNothing, readTurn, type Message, type StreamEvent } from './wire.ts';

const PAGE = 50;
const LARGE_PAGE = 100; // the server's largest: on the way to a message far back
const FIRST_EVENT_MS = 200; // no event by then: this socket is not subscribed (another tab asked, or the socket is a new one)
const SILENCE_MS = 15_000; // no event for so long: ask again; an answer that waits for the engine loses nothing by it
const MAX_FAULTS = 3; // a server that never agrees with itself must not keep us fetching
const MAX_TRACED = 20; // answers whose guesses are kept
const OUTGOING_KEY = 'foresay.outgoing';

export interface Outgoing {
    t: 'send' | 'regen' | 'cont';
    cid: string;
    text: string; // of a send
    parent: string | null; // of a send
    msg: string | null; // of regen and cont: the answer it concerns
    dropOldest: boolean;
    gen: Record<string, unknown>;
    sentAt: number;
    failure: { code: number; msg: string } | null;
}

type Loading = 'no' | 'first' | 'older' | 'failed' | 'missing';

export class Chat {
    readonly id: Signal<string | null>;
    readonly title = signal(''); // as the history named it; the list may not reach so far back
    readonly messages = signal<Messages>(new Map());
    readonly more = signal(false);
    readonly loading = signal<Loading>('no');
    readonly leaf = signal<string | null>(null);
    readonly outgoing = signal<Outgoing | null>(null);
    readonly queued = signal<string | null>(null); // written during an answer, goes out when that has ended well
    readonly lives = signal<ReadonlyMap<string, LiveAnswer>>(new Map()); // by message id
    readonly guesses = signal<ReadonlyMap<string, readonly Round[]>>(new Map()); // of finished answers, by message id
    readonly acknowledged = signal<{ cid: string; message: string } | null>(null); // the newest; its turn keeps its key
    readonly revealed = signal<{ message: string } | null>(null); // where the reader asked to go; new with each wish
    readonly sends = signal(0); // counts what this tab sent: the transcript scrolls to each
    readonly path = computed(() => pathTo(this.messages.value, this.leaf.value));
    readonly running = computed(() => {
        const last = this.path.value.at(-1);
        return last ? (this.lives.value.get(last.id) ?? null) : null;
    });
    private closed = false;
    private faults = 0;
    private older: Promise<boolean> | null = null; // a page on its way

    constructor(
        id: string | null,
        private wanted: string | null = null, // a message to go to when the chat is there
    ) {
        this.id = signal(id);
        if (id !== null) this.loading.value = 'first';
    }

    close(): void {
        this.closed = true;
        for (const live of this.lives.value.values()) {
            connection.request('unsub', { g: live.g }, readNothing, { resend: false }).catch(() => undefined);
        }
    }

    /* --- loading --- */

    async load(): Promise<void> {
        const id = this.id.value;
        if (id === null) return;
        try {
            const page = await connection.request('hist', { conv: id, limit: PAGE }, readHistory);
            if (this.closed) return;
            this.title.value = page.title;
            this.takeNewest(page.msgs, page.more);
            this.loading.value = 'no';
            const { wanted } = this;
            this.wanted = null;
            if (wanted !== null) void this.reveal(wanted);
        } catch (error) {
            if (this.closed) return;
            const missing = error instanceof RequestError && (error.code === CODE.notFound || error.code === CODE.gone);
            if (this.messages.value.size === 0) this.loading.value = missing ? 'missing' : 'failed';
            else complain('The conversation could not be brought up to date.', error);
        }
    }

    /* False when nothing came. */
    loadOlder(limit = PAGE): Promise<boolean> {
        this.older ??= this.fetchOlder(limit).finally(() => (this.older = null));
        return this.older;
    }

    private async fetchOlder(limit: number): Promise<boolean> {
        const oldest = this.messages.value.keys().next().value;
        if (oldest === undefined || !this.more.value || this.loading.value !== 'no') return false;
        this.loading.value = 'older';
        try {
            const page = await connection.request('hist', { conv: this.id.value, before: oldest, limit }, readHistory);
            if (this.closed) return false;
            batch(() => {
                this.messages.value = new Map([...page.msgs.map((m) => [m.id, m] as const), ...this.messages.value]);
                this.more.value = page.more && page.msgs.length > 0;
            });
            return true;
        } catch (error) {
            complain('Older messages could not be loaded.', error);
            return false;
        } finally {
            this.loading.value = 'no';
        }
    }

    private takeNewest(msgs: Message[], more: boolean): void {
        batch(() => {
            const known = this.messages.value;
            const touches = known.size === 0 || msgs.length === 0 || msgs.some((m) => known.has(m.id));
            const next = new Map(touches ? known : []);
            for (const m of msgs) next.set(m.id, this.reconcile(known.get(m.id), m));
            if (known.size === 0 || !touches) this.more.value = more;
            this.messages.value = new Map([...next].sort(([, a], [, b]) => a.ts - b.ts));
            const leaf = this.leaf.value;
            if (leaf === null || !next.has(leaf)) this.leaf.value = rememberedLeaf(this.id.value, next) ?? newestLeaf(next);
            for (const m of msgs) if (m.st === 'running') this.follow(next.get(m.id)!);
        });
    }

    /* Invariant 3: what to keep when the history names a message that we know. */
    private reconcile(ours: Message | undefined, theirs: Message): Message {
        if (theirs.st !== 'running') {
            this.dropLive(theirs.id);
            return theirs;
        }
        const finishedHere = ours && ours.g === theirs.g && ours.st !== 'running';
        return finishedHere || (ours && this.lives.value.has(ours.id)) ? ours : theirs;
    }

    /* --- streams --- */

    private dropLive(message: string): void {
        if (!this.lives.value.has(message)) return;
        const next = new Map(this.lives.value);
        next.delete(message);
        this.lives.value = next;
    }

    /* Begins to show a running message. Its events come by themselves when this socket asked for it; when none comes, we
     * subscribe. */
    private follow(message: Message): LiveAnswer | null {
        if (message.g === null) return null;
        const known = this.lives.value.get(message.id);
        if (known?.g === message.g) return known;
        const live = new LiveAnswer(message.g, message.id, message.text, (error) => this.streamLost(live, error));
        this.lives.value = new Map(this.lives.value).set(message.id, live);
        setTimeout(() => this.lives.value.get(message.id) === live && live.next === 1 && live.ask(), FIRST_EVENT_MS);
        return live;
    }

    /* The server does not have the stream (any more): what the history says is the truth. */
    private streamLost(live: LiveAnswer, error: unknown): void {
        if (error instanceof RequestError && (error.code === CODE.gone || error.code === CODE.notFound)) {
            this.dropLive(live.message);
            void this.load();
        }
    }

    streamFailed(g: string, code: number): void {
        const live = this.liveOf(g);
        if (live) this.streamLost(live, new RequestError(code, ''));
    }

    /* Called now and then: a stream that fell silent is asked for again, in case its subscription was lost. */
    nudge(): void {
        for (const live of this.lives.value.values()) {
            if (!live.ended && Date.now() - live.heardAt > SILENCE_MS && connection.link.value.kind === 'online') live.ask();
        }
    }

    private liveOf(g: string): LiveAnswer | undefined {
        for (const live of this.lives.value.values()) if (live.g === g) return live;
        return undefined;
    }

    resume(): { g: string; from: number }[] {
        return [...this.lives.value.values()].filter((live) => !live.ended).map((live) => ({ g: live.g, from: live.next }));
    }

    event(event: StreamEvent): void {
        let live = this.liveOf(event.g);
        if (!live && event.t === 'start' && event.conv === this.id.value) live = this.adopt(event) ?? undefined;
        if (!live) return;
        const outcome = live.apply(event);
        if (outcome === 'mismatch') this.mistrust(live);
        else if (outcome === 'applied' && live.ended) this.finish(live);
    }

    /* Our text is not the server's: say so where developers look, and take the history's word. */
    private mistrust(live: LiveAnswer): void {
        console.error(
            `foresay: the text of answer ${live.message} is not what the server sent (generation ${live.g}); fetching it again`,
        );
        if (live.ended) this.finish(live);
        else if (++this.faults <= MAX_FAULTS) this.dropLive(live.message);
        else return;
        void this.load();
    }

    /* A generation that began before its message was announced. */
    private adopt(start: Extract<StreamEvent, { t: 'start' }>): LiveAnswer | null {
        const known = this.messages.value.get(start.msg);
        const message: Message = known
            ? { ...known, st: 'running', g: start.g }
            : newMessage({ id: start.msg, parent: start.parent, role: 'assistant', ts: start.ts, st: 'running', g: start.g });
        this.announced(message);
        return this.follow(message);
    }

    private finish(live: LiveAnswer): void {
        const { text, end, rounds } = live.stream.peek();
        batch(() => {
            if (settings.value.guesses || rounds.length > 0) this.keepGuesses(live.message, rounds);
            this.setMessage(live.message, { text, st: end!.st, why: end!.why, usage: end!.usage, err: end!.err });
            this.dropLive(live.message);
        });
        if (live.message === this.leaf.value && end!.st !== 'error' && end!.st !== 'interrupted') this.sendQueued();
    }

    /* An answer that was continued has those of its earlier part, too. */
    private keepGuesses(message: string, rounds: readonly Round[]): void {
        const next = new Map(this.guesses.value).set(message, [...this.guessesOf(message), ...rounds]);
        if (next.size > MAX_TRACED) next.delete(next.keys().next().value!);
        this.guesses.value = next;
    }

    guessesOf(message: string): readonly Round[] {
        return this.guesses.value.get(message) ?? [];
    }

    private setMessage(id: string, part: Partial<Message>): void {
        const message = this.messages.value.get(id);
        if (message) this.messages.value = new Map(this.messages.value).set(id, { ...message, ...part });
    }

    /* A message was added, here or in another tab. The shown branch grows with it when it continues it. */
    announced(message: Message): void {
        batch(() => {
            const known = this.messages.value.get(message.id);
            const continued = known && message.st === 'running' && message.g !== known.g;
            if (!known || continued) this.messages.value = new Map(this.messages.value).set(message.id, message);
            if (!known && message.parent === this.leaf.value) this.showLeaf(message.id);
            if (message.st === 'running' && (!known || continued)) this.follow(message);
        });
    }

    /* --- branches --- */

    private showLeaf(id: string): void {
        this.leaf.value = id;
        rememberLeaf(this.id.value, id);
    }

    turnTo(message: string): void {
        this.showLeaf(newestLeafBelow(this.messages.value, message));
    }

    /* Shows the branch that a message is in and lets the transcript go there; older pages come until it is found. */
    async reveal(message: string): Promise<void> {
        if (this.loading.value === 'first') {
            this.wanted = message;
            return;
        }
        const isHere = () => this.messages.value.has(message);
        while (!this.closed && !isHere() && this.more.value && (await this.loadOlder(LARGE_PAGE)));
        if (this.closed) return;
        if (!isHere()) return tell('This message is not there any more.', true);
        batch(() => {
            const isShown = this.path.value.some(({ id }) => id === message);
            if (!isShown) this.showLeaf(newestLeafBelow(this.messages.value, message));
            this.revealed.value = { message };
        });
    }

    /* The reader is on his way to a message, or there: the focus is not the message field's. */
    isAimed(): boolean {
        return this.wanted !== null || this.revealed.peek() !== null;
    }

    /* --- asking --- */

    send(text: string, parent: string | null = this.leaf.value, dropOldest = false): void {
        this.dispatch({ t: 'send', text, parent, msg: null, dropOldest });
    }

    sendQueued(): void {
        const text = this.queued.value;
        if (text === null || this.running.value) return;
        this.queued.value = null;
        this.send(text);
    }

    regenerate(answer: Message, dropOldest = false): void {
        this.dispatch({ t: 'regen', text: '', parent: null, msg: answer.id, dropOldest });
    }

    goOn(answer: Message): void {
        this.dispatch({ t: 'cont', text: '', parent: null, msg: answer.id, dropOldest: false });
    }

    retry(dropOldest = false): void {
        const failed = this.outgoing.value;
        if (failed?.failure) this.dispatch({ ...failed, dropOldest: dropOldest || failed.dropOldest });
    }

    discardOutgoing(): void {
        this.outgoing.value = null;
        keepOutgoing(null, null);
    }

    private dispatch(what: Pick<Outgoing, 't' | 'text' | 'parent' | 'msg' | 'dropOldest'>): void {
        if (this.outgoing.value && !this.outgoing.value.failure) return;
        const outgoing: Outgoing = { ...what, cid: randomId(), gen: generation(), sentAt: Date.now(), failure: null };
        this.sends.value++;
        void this.deliver(outgoing);
    }

    /* Sends it (again, after a reload) and takes the answer in. */
    async deliver(outgoing: Outgoing): Promise<void> {
        this.outgoing.value = outgoing;
        keepOutgoing(this.id.value, outgoing);
        try {
            const turn = await connection.request(outgoing.t, requestBody(this.id.value, outgoing), readTurn);
            this.accepted(outgoing, turn);
            keepOutgoing(null, null);
        } catch (error) {
            const code = error instanceof RequestError ? error.code : 0;
            const msg = error instanceof Error ? error.message : 'It could not be sent.';
            if (this.outgoing.value?.cid === outgoing.cid) this.outgoing.value = { ...outgoing, failure: { code, msg } };
            keepOutgoing(null, null);
        }
    }

    private accepted(outgoing: Outgoing, turn: ReturnType<typeof readTurn>): void {
        if (this.closed) return;
        batch(() => {
            const created = this.id.value === null;
            if (created) this.id.value = turn.conv;
            const next = new Map(this.messages.value);
            const ts = Date.now();
            if (outgoing.t === 'send' && turn.msg !== null && !next.has(turn.msg)) {
                const { text, parent } = outgoing;
                next.set(turn.msg, newMessage({ id: turn.msg, parent, role: 'user', text, ts, st: 'done' }));
            }
            const known = next.get(turn.ans);
            const parent = turn.msg ?? known?.parent ?? null;
            const answered = known?.g === turn.g; // its events overtook the acknowledgement
            if (!known)
                next.set(turn.ans, newMessage({ id: turn.ans, parent, role: 'assistant', ts: ts + 1, st: 'running', g: turn.g }));
            else if (!answered) next.set(turn.ans, { ...known, st: 'running', g: turn.g, usage: null, why: null, err: null });
            this.messages.value = next;
            if (outgoing.t === 'send' && turn.msg !== null) this.acknowledged.value = { cid: outgoing.cid, message: turn.msg };
            this.outgoing.value = null;
            this.showLeaf(turn.ans);
            if (!answered) this.follow(next.get(turn.ans)!);
        });
    }

    async stop(): Promise<void> {
        const live = this.running.value;
        if (!live) return;
        try {
            await connection.request('cancel', { g: live.g }, readNothing);
        } catch (error) {
            const over = error instanceof RequestError && (error.code === CODE.gone || error.code === CODE.notFound);
            if (!over) complain('The answer could not be stopped.', error);
        }
    }
}

function newMessage(part: Pick<Message, 'id' | 'parent' | 'role' | 'ts' | 'st'> & Partial<Message>): Message {
    return { text: '', g: null, usage: null, why: null, err: null, ...part };
}

function requestBody(conv: string | null, outgoing: Outgoing): Record<string, unknown> {
    const { t, cid, text, parent, msg, dropOldest, gen } = outgoing;
    const body: Record<string, unknown> = { cid };
    if (Object.keys(gen).length > 0) body.gen = gen;
    if (dropOldest) body.drop_oldest = true;
    if (settings.value.guesses) body.trace = true;
    if (t !== 'send') return { ...body, msg };
    body.text = text;
    if (conv !== null) body.conv = conv;
    if (parent !== null) body.parent = parent;
    else if (conv !== null) body.root = true;
    return body;
}

/* --- what survives a reload of this tab --- */

function keepOutgoing(conv: string | null, outgoing: Outgoing | null): void {
    try {
        if (outgoing) sessionStorage.setItem(OUTGOING_KEY, JSON.stringify({ conv, outgoing }));
        else sessionStorage.removeItem(OUTGOING_KEY);
    } catch {
        // No room: a reload before the acknowledgement may lose the message, never double it.
    }
}

export function keptOutgoing(): { conv: string | null; outgoing: Outgoing } | null {
    try {
        const kept = JSON.parse(sessionStorage.getItem(OUTGOING_KEY) ?? 'null') as {
            conv: string | null;
            outgoing: Outgoing;
        } | null;
        return kept && typeof kept.outgoing.cid === 'string' && typeof kept.outgoing.text === 'string' ? kept : null;
    } catch {
        return null;
    }
}

const LEAVES_KEY = 'foresay.leaves';
const MAX_LEAVES = 100;

function leaves(): [conv: string, leaf: string][] {
    try {
        const value: unknown = JSON.parse(localStorage.getItem(LEAVES_KEY) ?? '[]');
        return Array.isArray(value) ? (value as [string, string][]).filter((pair) => Array.isArray(pair)) : [];
    } catch {
        return [];
    }
}

function rememberLeaf(conv: string | null, leaf: string): void {
    if (conv === null) return;
    const next = [...leaves().filter(([id]) => id !== conv), [conv, leaf]].slice(-MAX_LEAVES);
    try {
        localStorage.setItem(LEAVES_KEY, JSON.stringify(next));
    } catch {
        // The newest branch opens instead.
    }
}

/* The branch chosen in this browser; it may have grown elsewhere since. */
function rememberedLeaf(conv: string | null, messages: Messages): string | null {
    const leaf = leaves().find(([id]) => id === conv)?.[1];
    return leaf !== undefined && messages.has(leaf) ? newestLeafBelow(messages, leaf) : null;
}

export function forgetChatTraces(): void {
    try {
        localStorage.removeItem(LEAVES_KEY);
        sessionStorage.removeItem(OUTGOING_KEY);
    } catch {
        // Storage is forbidden: there was nothing to remove.
    }
}
