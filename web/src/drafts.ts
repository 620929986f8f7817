/* drafts.ts - what was typed and not sent yet, one text per conversation, kept over a reload; gone at sign-out.
 *
 * Bounds: MAX_DRAFTS conversations, MAX_CHARS each; the oldest draft makes room. */

const KEY = 'foresay.drafts';
const MAX_DRAFTS = 40;
const MAX_CHARS = 60_000;

type Drafts = [conversation: string, text: string][]; // newest last

function load(): Drafts {
    try {
        const value: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
        if (!Array.isArray(value)) return [];
        return value.filter((pair): pair is [string, string] => Array.isArray(pair) && pair.every((x) => typeof x === 'string'));
    } catch {
        return [];
    }
}

let drafts = load();

export function draftOf(conversation: string | null): string {
    return drafts.find(([id]) => id === (conversation ?? ''))?.[1] ?? '';
}

export function keepDraft(conversation: string | null, text: string): void {
    const id = conversation ?? '';
    drafts = drafts.filter(([known]) => known !== id);
    if (text.trim() !== '' && text.length <= MAX_CHARS) drafts.push([id, text]);
    drafts = drafts.slice(-MAX_DRAFTS);
    try {
        localStorage.setItem(KEY, JSON.stringify(drafts));
    } catch {
        // No room: the draft lives as long as the tab.
    }
}

export function forgetDrafts(): void {
    drafts = [];
    try {
        localStorage.removeItem(KEY);
    } catch {
        // Storage is forbidden: there was nothing to remove.
    }
}
