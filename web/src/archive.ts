/* archive.ts - chats as files and files as chats (gateway/archive.h). The browser saves what the server sends; nothing of it passes
 * through this page's memory. */
import { signal } from '@preact/signals';
import { chat } from './session.ts';
import { tell } from './toasts.ts';

const MAX_FILE_BYTES = 64 * 1024 * 1024; // as the server takes them

export const importing = signal(false);

function save(address: string): void {
    const link = document.createElement('a');
    link.href = address;
    link.download = '';
    link.click();
}

/* As JSON the whole chat; as Markdown the branch that is shown, or the newest one of a chat that is not open. */
export function saveChat(id: string, as: 'markdown' | 'json'): void {
    const leaf = chat.value.id.value === id ? chat.value.leaf.value : null;
    save(`/api/export?chat=${id}${as === 'markdown' ? `&as=markdown${leaf === null ? '' : `&leaf=${leaf}`}` : ''}`);
}

export function saveAllChats(): void {
    save('/api/export');
}

function many(count: number, what: string): string {
    return `${count} ${what}${count === 1 ? '' : 's'}`;
}

async function send(file: File): Promise<string> {
    const response = await fetch('/api/import', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: file,
    });
    const answer = (await response.json()) as { chats?: number; messages?: number; error?: string };
    if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
    return `${many(answer.chats ?? 0, 'chat')} with ${many(answer.messages ?? 0, 'message')} came in.`;
}

export async function importChats(file: File): Promise<void> {
    if (file.size > MAX_FILE_BYTES) return tell('The file is larger than 64 MB, which the server does not take.', true);
    importing.value = true;
    try {
        tell(await send(file));
    } catch (error) {
        tell(`Nothing came in. ${error instanceof Error ? error.message : ''}`, true);
    } finally {
        importing.value = false;
    }
}
