/* session.ts - the page's life: signed in or not, which conversation is open, where the server's frames go.
 *
 *  (1) The address bar decides which conversation is open (#/c/<id>); everything else follows it.
 *  (2) When a session ends the chat stays on the page behind the gate with all that was typed, and goes on after signing in
 *      again.
 *  (3) Signing out forgets everything in this browser but the settings, in all tabs. */
import { computed, signal } from '@preact/signals';
import { Chat, forgetChatTraces, keptOutgoing } from './chat.ts';
import { connection } from './connection.ts';
import { forgetDrafts } from './drafts.ts';
import { conversation, conversationChanged, conversationGone, forgetList, markRead, refreshList } from './list.ts';
import { complain, tell } from './toasts.ts';
import { readNothing, type Conversation, type Welcome } from './wire.ts';

export const phase = signal<'starting' | 'gate' | 'in' | 'expired'>('starting');
export const welcome = signal<Welcome | null>(null);
export const chat = signal<Chat>(new Chat(null));
/* The open conversation, also one that the list has not loaded. */
export const openConversation = computed<Conversation | null>(() => {
    const id = chat.value.id.value;
    const title = chat.value.title.value;
    return conversation(id) ?? (id !== null && title !== '' ? { id, title, ts: 0, live: null } : null);
});
export const openTitle = computed(() =>
    chat.value.id.value === null ? 'New chat' : openConversation.value?.title || 'Untitled chat',
);

const NUDGE_MS = 15_000;
const tabs = typeof BroadcastChannel === 'undefined' ? null : new BroadcastChannel('foresay');

/* --- which conversation --- */

/* #/c/<id>, and #/c/<id>/<message> for a message in it. */
function routed(): { id: string | null; message: string | null } {
    const [, id, message] = /^#\/c\/([0-9a-f]{32})(?:\/([0-9a-f]{32}))?$/.exec(location.hash) ?? [];
    return { id: id ?? null, message: message ?? null };
}

export function hrefOf(id: string | null, message: string | null = null): string {
    return id === null ? '#/' : message === null ? `#/c/${id}` : `#/c/${id}/${message}`;
}

export function goTo(id: string | null): void {
    if (routed().id === id && chat.value.id.value === id) return;
    location.hash = hrefOf(id);
    routeChanged();
}

function routeChanged(): void {
    const { id, message } = routed();
    // The message is where the reader goes once, not where he stays: the address is free for the next way there.
    if (message !== null) history.replaceState(null, '', hrefOf(id));
    if (chat.value.id.value === id) {
        if (message !== null) void chat.value.reveal(message);
        return;
    }
    chat.value.close();
    chat.value = new Chat(id, message);
    if (id !== null) markRead(id);
    if (connection.link.value.kind === 'online') void chat.value.load();
}

/* A new conversation has got its id from the server. */
function followNewId(): void {
    let known: Chat | null = null;
    let before: string | null = null;
    chat.subscribe((open) => {
        open.id.subscribe((id) => {
            if (open !== chat.peek()) return;
            if (known === open && before === null && id !== null) history.replaceState(null, '', hrefOf(id));
            known = open;
            before = id;
        });
    });
}

/* --- the server's frames --- */

const listener: Parameters<typeof connection.listen>[0] = {
    welcome(frame) {
        const first = welcome.value === null;
        if (welcome.value && welcome.value.user.name !== frame.user.name) forget();
        welcome.value = frame;
        phase.value = 'in';
        void refreshList();
        void chat.value.load();
        if (first) takeUpOutgoing();
    },
    frame(frame) {
        switch (frame.t) {
            case 'conv':
                conversationChanged(frame.c, frame.c.id === chat.value.id.value);
                if (frame.c.id === chat.value.id.value) chat.value.title.value = frame.c.title;
                break;
            case 'conv_gone':
                conversationGone(frame.id);
                if (chat.value.id.value === frame.id) {
                    tell('This conversation was deleted.');
                    goTo(null);
                }
                break;
            case 'learn':
                noteLearning(frame.on);
                break;
            case 'imported':
                // Old chats came in between known ones: the list begins anew.
                forgetList();
                void refreshList();
                break;
            case 'msg':
                if (frame.conv === chat.value.id.value) chat.value.announced(frame.m);
                break;
            case 'err':
                if (frame.g !== null) chat.value.streamFailed(frame.g, frame.code);
                else console.warn('foresay: the server reports', frame.code, frame.msg);
                break;
            default:
                chat.value.event(frame);
        }
    },
    resume: () => chat.value.resume(),
    signedOut() {
        phase.value = welcome.value === null ? 'gate' : 'expired';
    },
};

/* --- the setting that the server keeps --- */

function noteLearning(on: boolean): void {
    const known = welcome.value;
    if (known) welcome.value = { ...known, user: { ...known.user, learn: on } };
}

/* The switch shows what is wished until the server refuses it. */
export async function setLearning(on: boolean): Promise<void> {
    noteLearning(on);
    try {
        await connection.request('learn', { on }, readNothing);
    } catch (error) {
        noteLearning(!on);
        complain('The setting was not saved.', error);
    }
}

/* A message that was on its way when the tab was reloaded goes out again, with the same cid. */
function takeUpOutgoing(): void {
    const kept = keptOutgoing();
    if (!kept) return;
    if (kept.conv !== chat.value.id.value) goTo(kept.conv);
    void chat.value.deliver(kept.outgoing);
}

/* --- signing in and out --- */

export async function start(): Promise<void> {
    followNewId();
    const { id, message } = routed();
    chat.value = new Chat(id, message);
    if (message !== null) history.replaceState(null, '', hrefOf(id));
    connection.listen(listener);
    addEventListener('hashchange', routeChanged);
    setInterval(() => chat.value.nudge(), NUDGE_MS);
    if (tabs) tabs.onmessage = (event) => event.data === 'signed-out' && leave();
    const status = await fetch('/api/session').then(
        (response) => response.status,
        () => 0,
    );
    if (status === 401) {
        phase.value = 'gate';
    } else {
        phase.value = 'in';
        connection.start();
    }
}

/* Null on success, otherwise what to tell the person. */
export async function signInWithKey(key: string): Promise<string | null> {
    let response: Response;
    try {
        response = await fetch('/api/session', {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify({ key }),
        });
    } catch {
        return 'The server cannot be reached. Is it running?';
    }
    if (response.status === 401 || response.status === 403) return 'This key is not known here. Check that it was copied whole.';
    if (response.status === 429) {
        const seconds = Number(response.headers.get('Retry-After'));
        return seconds > 0 ? `Too many attempts. Try again in ${seconds} s.` : 'Too many attempts. Try again in a moment.';
    }
    if (!response.ok) return `The server answered with an error (${response.status}). Its log says more.`;
    phase.value = 'in';
    connection.start();
    return null;
}

/* Nothing of one person is left for the next. */
function forget(): void {
    chat.value.close();
    chat.value = new Chat(null);
    forgetList();
    forgetDrafts();
    forgetChatTraces();
    history.replaceState(null, '', hrefOf(null));
}

function leave(): void {
    connection.stop();
    forget();
    welcome.value = null;
    phase.value = 'gate';
}

export async function signOut(): Promise<void> {
    try {
        const response = await fetch('/api/session', { method: 'DELETE' });
        if (!response.ok && response.status !== 401) throw new Error(`The server answered ${response.status}.`);
    } catch (error) {
        tell(`Signing out did not work. ${error instanceof Error ? error.message : ''}`, true);
        return;
    }
    tabs?.postMessage('signed-out');
    leave();
}
