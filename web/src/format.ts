/* format.ts - numbers, times and groups as people read them. Pure functions. */

const plain = new Intl.NumberFormat();
const oneDigit = new Intl.NumberFormat(undefined, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function formatCount(value: number): string {
    return plain.format(Math.round(value));
}

export function formatRate(perSecond: number): string {
    return perSecond >= 100 ? plain.format(Math.round(perSecond)) : oneDigit.format(perSecond);
}

export function formatMs(ms: number): string {
    if (ms < 1) return '0 ms';
    if (ms < 1000) return `${Math.round(ms)} ms`;
    return ms < 60_000
        ? `${oneDigit.format(ms / 1000)} s`
        : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/* A context length the way model cards write it: 2048 -> 2k. */
export function formatContext(tokens: number): string {
    return tokens >= 1024 ? `${plain.format(Math.round(tokens / 1024))}k` : plain.format(tokens);
}

const DAY_MS = 86_400_000;

/* The heading that a conversation stands under in the list. */
export function dayGroup(ts: number, now: number): string {
    const midnight = new Date(now);
    midnight.setHours(0, 0, 0, 0);
    const today = midnight.getTime();
    if (ts >= today) return 'Today';
    if (ts >= today - DAY_MS) return 'Yesterday';
    if (ts >= today - 7 * DAY_MS) return 'Previous 7 days';
    if (ts >= today - 30 * DAY_MS) return 'Previous 30 days';
    const date = new Date(ts);
    const sameYear = date.getFullYear() === midnight.getFullYear();
    return date.toLocaleDateString(undefined, sameYear ? { month: 'long' } : { month: 'long', year: 'numeric' });
}

/* A day as short as it can be told: of this year without the year. */
export function formatDay(ts: number, now: number): string {
    const date = new Date(ts);
    const sameYear = date.getFullYear() === new Date(now).getFullYear();
    return date.toLocaleDateString(undefined, { day: 'numeric', month: 'short', ...(!sameYear && { year: 'numeric' }) });
}

export function formatTime(ts: number): string {
    return new Date(ts).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}
