/* ui.ts - what is open on the page: drawer, dialogs, the message being edited; and what a screen reader is told. */
import { signal } from '@preact/signals';
import type { Conversation } from './wire.ts';

export type Dialog =
    | { kind: 'settings' }
    | { kind: 'help' }
    | { kind: 'guesses'; message: string }
    | { kind: 'rename'; conversation: Conversation }
    | { kind: 'delete'; conversation: Conversation };

export const dialog = signal<Dialog | null>(null);
export const drawer = signal(false); // the sidebar on a narrow screen
export const editing = signal<string | null>(null); // a user message's id
export const announcement = signal('');
export const filter = signal(''); // what the list of conversations is narrowed to

const narrowQuery = matchMedia('(max-width: 799px)');
export const narrow = signal(narrowQuery.matches);
narrowQuery.addEventListener('change', (event) => (narrow.value = event.matches));

export function announce(text: string): void {
    // The same words twice in a row must be spoken twice: a change is what is spoken.
    announcement.value = announcement.value === text ? `${text}\u00a0` : text;
}

export function focusComposer(): void {
    document.getElementById('composer')?.focus();
}

export function reducedMotion(): boolean {
    return matchMedia('(prefers-reduced-motion: reduce)').matches;
}
