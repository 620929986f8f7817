/* composer.tsx - where messages are written.
 *
 *  (1) A plain textarea: a pasted book costs what the browser needs to show it and no more.
 *  (2) What is typed is kept per conversation until it is sent, over reloads too.
 *  (3) Enter never sends while an input method is composing. During an answer the Send button is Stop, in the same place; typing
 *      goes on, and one message may be put in line: it goes out when the answer has ended well, and waits for a word when it has
 *      not.
 *  (4) A message that the server could not take (larger than one frame) is refused here, with a word, and stays in the field. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { connection } from '../connection.ts';
import { draftOf, keepDraft } from '../drafts.ts';
import { formatCount } from '../format.ts';
import { chat, welcome } from '../session.ts';
import { settings } from '../settings.ts';
import { tell } from '../toasts.ts';
import { editing } from '../ui.ts';
import { Icon } from './icons.tsx';
import { signal } from '@preact/signals';

const DRAFT_DELAY_MS = 300;
const FRAME_ROOM = 4096; // of a frame, for everything but the text
const growsByItself = CSS.supports('field-sizing', 'content');

/* A text to put into the field: a prompt card, or a message that was refused. */
export const proposed = signal<string | null>(null);

/* True for Enter that belongs to an input method; Safari says so by the key code only. */
export function isComposing(event: KeyboardEvent): boolean {
    return event.isComposing || event.keyCode === 229;
}

function tooBig(text: string): boolean {
    const limit = welcome.value?.max_frame ?? 256 * 1024;
    return text.length * 3 > limit - FRAME_ROOM && new TextEncoder().encode(JSON.stringify(text)).length > limit - FRAME_ROOM;
}

function lastOwnMessage(): string | null {
    return chat.value.path.value.findLast((message) => message.role === 'user')?.id ?? null;
}

function grow(field: HTMLTextAreaElement): void {
    if (growsByItself) return;
    field.style.height = 'auto';
    field.style.height = `${field.scrollHeight}px`;
}

/* A message in line behind the answer that is being written. */
function Queued({ text, busy, edit }: { text: string; busy: boolean; edit: () => void }) {
    return (
        <div class="queued">
            <Icon name="clock" size={15} />
            <span class="queued-text" dir="auto">
                {text}
            </span>
            <span class="queued-note">{busy ? 'Sends after this answer' : 'Not sent'}</span>
            {!busy && (
                <button type="button" class="link-button" onClick={() => chat.value.sendQueued()}>
                    Send
                </button>
            )}
            <button type="button" class="link-button" onClick={edit}>
                Edit
            </button>
        </div>
    );
}

export function Composer() {
    const open = chat.value;
    const [text, setText] = useState(() => draftOf(open.id.value));
    const field = useRef<HTMLTextAreaElement>(null);
    const owner = useRef(open);
    const timer = useRef(0);
    const busy = open.running.value !== null;
    const waiting = open.outgoing.value !== null && open.outgoing.value.failure === null;

    const unsaved = useRef<string | null>(null);

    const saveDraft = () => {
        clearTimeout(timer.current);
        if (unsaved.current !== null)
            keepDraft(owner.current.id.value, [owner.current.queued.value, unsaved.current].filter(Boolean).join('\n\n'));
        unsaved.current = null;
    };
    useLayoutEffect(() => {
        if (owner.current === open) return;
        saveDraft();
        owner.current = open;
        setText(draftOf(open.id.value));
    }, [open]);
    useEffect(() => {
        addEventListener('pagehide', saveDraft);
        return () => removeEventListener('pagehide', saveDraft);
    }, []);
    useLayoutEffect(() => grow(field.current!), [text]);
    useLayoutEffect(() => {
        if (matchMedia('(pointer: fine)').matches && !open.isAimed()) field.current?.focus();
    }, [open]);
    useLayoutEffect(() => {
        if (proposed.value === null) return;
        type(proposed.value);
        proposed.value = null;
        field.current?.focus();
    }, [proposed.value]);

    const type = (value: string) => {
        setText(value);
        unsaved.current = value;
        clearTimeout(timer.current);
        timer.current = window.setTimeout(saveDraft, DRAFT_DELAY_MS);
    };
    const send = () => {
        if (text.trim() === '' || waiting || (busy && open.queued.value !== null)) return;
        if (tooBig(text)) {
            tell(`This is too long to send: ${formatCount(text.length)} characters. Shorten it or send it in parts.`, true);
            return;
        }
        if (busy) open.queued.value = text.trim();
        unsaved.current = '';
        saveDraft();
        setText('');
        if (busy) return;
        editing.value = null;
        if (open.outgoing.value?.failure) open.discardOutgoing();
        open.send(text.trim());
    };
    const takeBack = () => {
        type([open.queued.value, text].filter(Boolean).join('\n\n'));
        open.queued.value = null;
        field.current?.focus();
    };
    const onKeyDown = (event: KeyboardEvent) => {
        if (isComposing(event)) return;
        if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
            const chord = event.ctrlKey || event.metaKey;
            if (!chord && !settings.value.enterSends) return;
            event.preventDefault();
            send();
        } else if (event.key === 'ArrowUp' && text === '' && !busy) {
            const last = lastOwnMessage();
            if (last === null) return;
            event.preventDefault();
            editing.value = last;
        }
    };
    const offline = connection.link.value.kind !== 'online';
    return (
        <form
            class="composer"
            aria-label="Message"
            onSubmit={(event) => {
                event.preventDefault();
                send();
            }}
        >
            {open.queued.value !== null && <Queued text={open.queued.value} busy={busy} edit={takeBack} />}
            <div class="composer-box">
                <textarea
                    ref={field}
                    id="composer"
                    rows={1}
                    dir="auto"
                    aria-label="Message"
                    placeholder={welcome.value ? `Message ${shortName(welcome.value.model.name)}` : 'Message'}
                    enterkeyhint={settings.value.enterSends ? 'send' : 'enter'}
                    value={text}
                    onInput={(event) => type(event.currentTarget.value)}
                    onKeyDown={onKeyDown}
                />
                {busy ? (
                    <button
                        type="button"
                        class="send stop"
                        aria-label="Stop the answer"
                        title="Stop (Esc)"
                        onClick={() => void open.stop()}
                    >
                        <span class="stop-square" />
                    </button>
                ) : (
                    <button
                        type="submit"
                        class="send"
                        aria-label="Send"
                        title={offline ? 'Goes out when the server is back' : 'Send (Enter)'}
                        disabled={text.trim() === '' || waiting}
                    >
                        <Icon name="up" size={20} />
                    </button>
                )}
            </div>
            <p class="composer-note">Answers can be wrong. Check what matters.</p>
        </form>
    );
}

/* "SmolLM2-135M" is enough of a name for "SmolLM2-135M-Instruct.Q4_1": up to its size, if it names one. */
export function shortName(model: string): string {
    const plain = model.replace(/\.gguf$/i, '');
    return /^.*?\b\d+(?:\.\d+)?\s?[MBT]\b/i.exec(plain)?.[0] ?? plain.slice(0, 28);
}
