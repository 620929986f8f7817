/* settings.ts - what a person chose in this browser: theme, keys, sampling. Kept in localStorage, checked field by field when
 * read.
 *
 *  (1) A number that is null is left to the server's default and not sent.
 *  (2) Broken or foreign storage never breaks the page: each field falls back by itself. */
import { effect, signal } from '@preact/signals';

export type Theme = 'system' | 'light' | 'dark';
export type Scrolling = 'anchor' | 'follow' | 'never';

export interface Settings {
    theme: Theme;
    enterSends: boolean;
    scrolling: Scrolling;
    sidebar: boolean; // shown on wide screens
    guesses: boolean; // answers are asked to tell what was guessed ahead
    temp: number | null;
    top_p: number | null;
    max: number | null;
    seed: number | null;
    system: string;
}

export const LIMITS = {
    temp: { min: 0, max: 5, step: 0.1 },
    top_p: { min: 0.01, max: 1, step: 0.01 },
    max: { min: 1, max: 1_000_000, step: 1 },
    seed: { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
} as const;
export const MAX_SYSTEM_CHARS = 16_000;

const KEY = 'foresay.settings';

export const defaults: Settings = {
    theme: 'system',
    enterSends: true,
    scrolling: 'anchor',
    sidebar: true,
    guesses: false,
    temp: null,
    top_p: null,
    max: null,
    seed: null,
    system: '',
};

function numberIn(value: unknown, { min, max, step }: { min: number; max: number; step: number }): number | null {
    if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value > max) return null;
    return step === 1 ? Math.floor(value) : value;
}

export function checkSettings(value: unknown): Settings {
    const of = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
    return {
        theme: of.theme === 'light' || of.theme === 'dark' ? of.theme : 'system',
        enterSends: typeof of.enterSends === 'boolean' ? of.enterSends : defaults.enterSends,
        scrolling: of.scrolling === 'follow' || of.scrolling === 'never' ? of.scrolling : 'anchor',
        sidebar: typeof of.sidebar === 'boolean' ? of.sidebar : defaults.sidebar,
        guesses: of.guesses === true,
        temp: numberIn(of.temp, LIMITS.temp),
        top_p: numberIn(of.top_p, LIMITS.top_p),
        max: numberIn(of.max, LIMITS.max),
        seed: numberIn(of.seed, LIMITS.seed),
        system: typeof of.system === 'string' ? of.system.slice(0, MAX_SYSTEM_CHARS) : '',
    };
}

function load(): Settings {
    try {
        return checkSettings(JSON.parse(localStorage.getItem(KEY) ?? '{}'));
    } catch {
        return defaults;
    }
}

export const settings = signal<Settings>(load());

export function change(part: Partial<Settings>): void {
    settings.value = checkSettings({ ...settings.value, ...part });
    try {
        localStorage.setItem(KEY, JSON.stringify(settings.value));
    } catch {
        // Storage is full or forbidden: the setting holds for this visit.
    }
}

/* The `gen` member of a request: only what differs from the server's defaults. */
export function generation(): Record<string, unknown> {
    const { temp, top_p, max, seed, system } = settings.value;
    const gen: Record<string, unknown> = {};
    if (temp !== null) gen.temp = temp;
    if (top_p !== null) gen.top_p = top_p;
    if (max !== null) gen.max = max;
    if (seed !== null) gen.seed = seed;
    if (system.trim() !== '') gen.system = system.trim();
    return gen;
}

/* Puts the theme on the root element and keeps it there; another tab's change arrives by the storage event. */
export function applyTheme(): void {
    const darkWanted = matchMedia('(prefers-color-scheme: dark)');
    const systemDark = signal(darkWanted.matches);
    darkWanted.addEventListener('change', (event) => (systemDark.value = event.matches));
    addEventListener('storage', (event) => {
        if (event.key === KEY) settings.value = load();
    });
    effect(() => {
        const { theme } = settings.value;
        const dark = theme === 'dark' || (theme === 'system' && systemDark.value);
        document.documentElement.dataset.theme = dark ? 'dark' : 'light';
        document.querySelector('meta[name=theme-color]')?.setAttribute('content', dark ? '#141517' : '#fcfcfa');
    });
}
