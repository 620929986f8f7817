/* search.ts - what stands in messages for the words in the search field: asked of the server when typing pauses, a page at a time.
 *
 *  (1) Hits belong to the words they were found for: an answer to older words is thrown away.
 *  (2) The server sees the user's own messages only, newest first, and says where in a text the words stand; nothing of it is
 *      markup. */
import { effect, signal } from '@preact/signals';
import { connection } from './connection.ts';
import { announce, filter } from './ui.ts';
import { complain } from './toasts.ts';
import { readHits, type Hit } from './wire.ts';

const PAUSE_MS = 200;
const PAGE = 20;
const MAX_WORDS_BYTES = 256; // as the server takes them

export const hits = signal<readonly Hit[]>([]);
export const moreHits = signal(false);
export const indexing = signal(false); // the server does not know all old messages yet
export const searching = signal(false);

let wanted = ''; // the words that hits are for, or will be
let asking = 0; // number of the latest question

/* One letter is in every message; one Chinese character is a word. */
function isWorthAsking(words: string): boolean {
    return words.length > 1 || /[^\u0000-\u0fff]/.test(words);
}

function cut(words: string): string {
    let text = words;
    while (new TextEncoder().encode(text).length > MAX_WORDS_BYTES) text = text.slice(0, -1);
    return text;
}

async function ask(before: string | null): Promise<void> {
    const mine = ++asking;
    const words = wanted;
    searching.value = true;
    try {
        const page = await connection.request('search', { q: cut(words), limit: PAGE, ...(before && { before }) }, readHits);
        if (mine !== asking) return;
        hits.value = before ? [...hits.value, ...page.hits] : page.hits;
        moreHits.value = page.more;
        indexing.value = page.indexing;
        if (!before) announce(page.hits.length === 0 ? 'No messages found' : `${page.hits.length} messages found`);
    } catch (error) {
        if (mine === asking) complain('The messages could not be searched.', error);
    } finally {
        if (mine === asking) searching.value = false;
    }
}

export function loadMoreHits(): void {
    const last = hits.value.at(-1);
    if (last && moreHits.value && !searching.value) void ask(last.id);
}

function forgetHits(): void {
    asking++;
    hits.value = [];
    moreHits.value = searching.value = false;
}

let pause = 0;
effect(() => {
    const words = filter.value.trim();
    if (words === wanted) return;
    wanted = words;
    clearTimeout(pause);
    if (!isWorthAsking(words)) return forgetHits();
    searching.value = true;
    pause = window.setTimeout(() => void ask(null), PAUSE_MS);
});
