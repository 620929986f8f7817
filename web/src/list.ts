/* list.ts - the conversations of the sidebar: a page at a time, kept current by the server's `conv` frames.
 *
 *  (1) Newest change first; the order is that of `ts`, whatever the order of arrival.
 *  (2) The list has no gaps: what is older than its end is not put in before its page is loaded.
 *  (3) What the server says replaces what we have; a rename shows at once and is taken back when the server refuses it. */
import { computed, signal } from '@preact/signals';
import { connection } from './connection.ts';
import { CODE, readConversations, readNothing, type Conversation } from './wire.ts';
import { RequestError } from './connection.ts';
import { complain } from './toasts.ts';

const PAGE = 50;
const LARGE_PAGE = 100; // the server's largest: a search looks through all of them
const PACE_MS = 60; // between its pages: below the messages a second that the server takes

const known = signal<ReadonlyMap<string, Conversation>>(new Map());
export const moreConversations = signal(false);
export const listState = signal<'loading' | 'ready' | 'failed'>('loading');
export const unread = signal<ReadonlySet<string>>(new Set());
export const conversations = computed(() => [...known.value.values()].sort((a, b) => b.ts - a.ts));

export function conversation(id: string | null): Conversation | undefined {
    return id === null ? undefined : known.value.get(id);
}

function put(...conversationsToPut: Conversation[]): void {
    const next = new Map(known.value);
    for (const one of conversationsToPut) next.set(one.id, one);
    known.value = next;
}

function remove(id: string): void {
    const next = new Map(known.value);
    next.delete(id);
    known.value = next;
    markRead(id);
}

/* The newest page again, after a (re)connection: what went away meanwhile goes away here too. */
export async function refreshList(): Promise<void> {
    try {
        const page = await connection.request('convs', { limit: PAGE }, readConversations);
        const oldest = page.convs.at(-1)?.ts ?? -Infinity;
        const kept = page.more ? [...known.value.values()].filter((one) => one.ts < oldest) : [];
        known.value = new Map([...page.convs, ...kept].map((one) => [one.id, one]));
        if (kept.length === 0) moreConversations.value = page.more;
        listState.value = 'ready';
    } catch (error) {
        console.warn('foresay: the list of conversations did not come:', error);
        if (known.value.size === 0) listState.value = 'failed';
    }
}

let loadingMore = false;
export async function loadMoreConversations(): Promise<void> {
    if (loadingMore) return;
    loadingMore = true;
    try {
        await loadNextPage(PAGE);
    } catch (error) {
        complain('Older conversations could not be loaded.', error);
    } finally {
        loadingMore = false;
    }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/* All that are left, a page after another, as long as `wanted` says so; at the pace that the server allows. */
export async function loadAllConversations(wanted: () => boolean): Promise<void> {
    if (loadingMore) return;
    loadingMore = true;
    try {
        while (wanted() && (await loadNextPage(LARGE_PAGE))) await pause(PACE_MS);
    } catch (error) {
        complain('Older conversations could not be searched.', error);
    } finally {
        loadingMore = false;
    }
}

/* False when there is no further one. */
async function loadNextPage(limit: number): Promise<boolean> {
    const last = conversations.value.at(-1);
    if (!last || !moreConversations.value) return false;
    const page = await connection.request('convs', { before: last.id, limit }, readConversations);
    put(...page.convs);
    moreConversations.value = page.more && page.convs.length > 0;
    return moreConversations.value;
}

export function conversationChanged(changed: Conversation, isOpen: boolean): void {
    const before = known.value.get(changed.id);
    const end = moreConversations.value ? (conversations.value.at(-1)?.ts ?? Infinity) : -Infinity;
    if (before || changed.ts >= end) put(changed);
    if (before?.live && !changed.live && !isOpen) unread.value = new Set([...unread.value, changed.id]);
}

export function conversationGone(id: string): void {
    remove(id);
}

export function markRead(id: string): void {
    if (!unread.value.has(id)) return;
    const next = new Set(unread.value);
    next.delete(id);
    unread.value = next;
}

export async function renameConversation({ id, title: before }: Conversation, title: string): Promise<void> {
    const wanted = title.trim().slice(0, 200);
    const name = (as: string) => {
        const listed = known.value.get(id);
        if (listed) put({ ...listed, title: as });
    };
    if (wanted === '' || wanted === before) return;
    name(wanted);
    try {
        await connection.request('rename', { conv: id, title: wanted }, readNothing);
    } catch (error) {
        name(before);
        complain('The conversation was not renamed.', error);
    }
}

export async function deleteConversation(id: string): Promise<boolean> {
    try {
        await connection.request('delete', { conv: id }, readNothing);
    } catch (error) {
        const alreadyGone = error instanceof RequestError && error.code === CODE.notFound;
        if (!alreadyGone) {
            complain('The conversation was not deleted.', error);
            return false;
        }
    }
    remove(id);
    return true;
}

export function forgetList(): void {
    known.value = new Map();
    unread.value = new Set();
    moreConversations.value = false;
    listState.value = 'loading';
}
