/* toasts.ts - short notices at the edge of the page. At most MAX_TOASTS at a time; each leaves by itself. */
import { signal } from '@preact/signals';

const MAX_TOASTS = 3;
const SHOWN_MS = 7000;

export interface Toast {
    id: number;
    text: string;
    bad: boolean;
}

export const toasts = signal<Toast[]>([]);
let nextId = 1;

export function tell(text: string, bad = false): void {
    const id = nextId++;
    toasts.value = [...toasts.value.filter((toast) => toast.text !== text), { id, text, bad }].slice(-MAX_TOASTS);
    setTimeout(() => dismiss(id), SHOWN_MS);
}

export function complain(what: string, error: unknown): void {
    const why = error instanceof Error ? error.message : '';
    tell(why === '' ? what : `${what} ${why}`, true);
}

export function dismiss(id: number): void {
    toasts.value = toasts.value.filter((toast) => toast.id !== id);
}
