/* keys.ts - every keyboard shortcut of the page, once: the handler, the tooltips and the help sheet read the same table.
 *
 *  (1) Matching is by the key's meaning (event.key), not by its place on the board.
 *  (2) Nothing here takes a chord that browsers keep for themselves, and nothing single-key works while a field has the focus.
 *  (3) Escape closes the uppermost layer first; only with nothing open does it stop the answer. */
import { change, settings } from './settings.ts';
import { chat, goTo } from './session.ts';
import { dialog, drawer, editing, focusComposer, narrow } from './ui.ts';

export interface Shortcut {
    keys: string; // "Mod" is Ctrl, or Command on Apple keyboards
    label: string;
    group: 'Everywhere' | 'Writing' | 'On a message';
    run?: () => boolean | void; // false: not taken, the browser may have it
}

const apple = /Mac|iPhone|iPad/.test(navigator.platform);

export function focusFilter(): void {
    if (narrow.value) drawer.value = true;
    else if (!settings.value.sidebar) change({ sidebar: true });
    requestAnimationFrame(() => document.getElementById('filter')?.focus());
}

export function toggleSidebar(): void {
    if (narrow.value) drawer.value = !drawer.value;
    else change({ sidebar: !settings.value.sidebar });
}

export function newChat(): void {
    goTo(null);
    drawer.value = false;
    requestAnimationFrame(focusComposer);
}

function escape(): boolean {
    if (drawer.value) drawer.value = false;
    else if (editing.value !== null) editing.value = null;
    else if (chat.value.running.value) void chat.value.stop();
    else return false;
    return true;
}

/* F6 walks through the page's regions. */
function nextRegion(step: number): void {
    const regions = ['sidebar', 'transcript', 'composer']
        .map((id) => document.getElementById(id))
        .filter((el) => el && !el.closest('[inert]'));
    const at = regions.findIndex((region) => region!.contains(document.activeElement));
    const region = regions[(at + step + regions.length) % regions.length];
    const inside = region?.querySelector<HTMLElement>('button:not([disabled]), a[href], [tabindex="0"]');
    (region?.matches('textarea') ? region : (inside ?? region))?.focus();
}

export const shortcuts: Shortcut[] = [
    { keys: 'Mod+K', label: 'Find a chat or a message', group: 'Everywhere', run: focusFilter },
    { keys: 'Mod+Shift+O', label: 'New chat', group: 'Everywhere', run: newChat },
    { keys: 'Mod+B', label: 'Show or hide the sidebar', group: 'Everywhere', run: toggleSidebar },
    { keys: 'Mod+,', label: 'Settings', group: 'Everywhere', run: () => void (dialog.value = { kind: 'settings' }) },
    { keys: 'Mod+/', label: 'This list', group: 'Everywhere', run: () => void (dialog.value = { kind: 'help' }) },
    { keys: 'Shift+Escape', label: 'Go to the message field', group: 'Everywhere', run: focusComposer },
    { keys: 'Escape', label: 'Close what is open, then stop the answer', group: 'Everywhere', run: escape },
    { keys: 'F6', label: 'Next part of the page', group: 'Everywhere', run: () => nextRegion(1) },
    { keys: 'Shift+F6', label: 'Previous part of the page', group: 'Everywhere', run: () => nextRegion(-1) },
    { keys: 'Enter', label: 'Send (or Ctrl+Enter, as set)', group: 'Writing' },
    { keys: 'Shift+Enter', label: 'New line', group: 'Writing' },
    { keys: 'ArrowUp', label: 'Edit the last message, from the empty field', group: 'Writing' },
    { keys: 'J', label: 'Next message', group: 'On a message' },
    { keys: 'K', label: 'Previous message', group: 'On a message' },
    { keys: 'C', label: 'Copy', group: 'On a message' },
    { keys: 'E', label: 'Edit', group: 'On a message' },
    { keys: 'R', label: 'Answer again', group: 'On a message' },
    { keys: 'S', label: 'Show the guesses, if they were asked for', group: 'On a message' },
    { keys: '[', label: 'Previous branch', group: 'On a message' },
    { keys: ']', label: 'Next branch', group: 'On a message' },
];

const SYMBOLS: Record<string, string> = { Escape: 'Esc', ArrowUp: '↑', Enter: 'Enter' };

export function keyCaps(keys: string): string[] {
    return keys.split('+').map((key) => {
        if (key === 'Mod') return apple ? '⌘' : 'Ctrl';
        if (key === 'Shift' && apple) return '⇧';
        return SYMBOLS[key] ?? key;
    });
}

function matches(event: KeyboardEvent, keys: string): boolean {
    const parts = keys.split('+');
    const key = parts.at(-1)!;
    const mod = apple ? event.metaKey : event.ctrlKey;
    const other = apple ? event.ctrlKey : event.metaKey;
    return (
        event.key.toLowerCase() === key.toLowerCase() &&
        mod === parts.includes('Mod') &&
        event.shiftKey === parts.includes('Shift') &&
        !event.altKey &&
        !other
    );
}

export function installKeys(): void {
    document.addEventListener('keydown', (event) => {
        if (event.defaultPrevented || event.isComposing || event.keyCode === 229) return;
        const layered = document.querySelector('dialog[open], :popover-open') !== null;
        if (layered) return;
        for (const shortcut of shortcuts) {
            if (!shortcut.run || !matches(event, shortcut.keys)) continue;
            if (shortcut.run() !== false) event.preventDefault();
            return;
        }
    });
}
