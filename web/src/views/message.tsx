/* message.tsx - one message: the person's in a bubble, the model's as text; below it what can be done with it.
 *
 *  (1) The actions are always there for keyboard and touch; a mouse sees them on hover.
 *  (2) Editing makes a sibling and never destroys: the old branch stays behind the arrows.
 *  (3) Only the answer that is being written renders while it is written, and in it only its last block. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { memo } from './memo.ts';
import { copyText } from '../clipboard.ts';
import { formatTime } from '../format.ts';
import type { LiveAnswer } from '../live.ts';
import { Markdown } from '../markdown/markdown.tsx';
import { chat, welcome } from '../session.ts';
import { dialog, editing, focusComposer } from '../ui.ts';
import type { Message } from '../wire.ts';
import { Ending, LiveStats, Progress, Stats } from './answer.tsx';
import { isComposing } from './composer.tsx';
import { settings } from '../settings.ts';
import { Icon, type IconName } from './icons.tsx';

const FOLD_CHARS = 2400; // a longer question is folded until asked for
const FOLD_LINES = 24;

function ActionButton({
    label,
    icon,
    onClick,
    disabled,
}: {
    label: string;
    icon: IconName;
    onClick: () => void;
    disabled?: boolean;
}) {
    return (
        <button type="button" class="icon-button action" aria-label={label} title={label} onClick={onClick} disabled={disabled}>
            <Icon name={icon} size={16} />
        </button>
    );
}

function CopyAction({ text }: { text: string }) {
    const [done, setDone] = useState(false);
    useEffect(() => {
        if (!done) return;
        const timer = setTimeout(() => setDone(false), 1600);
        return () => clearTimeout(timer);
    }, [done]);
    return (
        <ActionButton
            label={done ? 'Copied' : 'Copy'}
            icon={done ? 'check' : 'copy'}
            onClick={() => void copyText(text).then(setDone)}
        />
    );
}

/* < 2/3 > : the siblings of a message. */
function Branches({ message, siblings }: { message: Message; siblings: Message[] }) {
    if (siblings.length < 2) return null;
    const at = siblings.findIndex((one) => one.id === message.id);
    const turn = (to: number) => siblings[to] && chat.value.turnTo(siblings[to].id);
    return (
        <span class="branches" role="group" aria-label="Branches">
            <ActionButton label="Previous branch" icon="left" onClick={() => turn(at - 1)} disabled={at <= 0} />
            <span class="branch-place" aria-label={`Branch ${at + 1} of ${siblings.length}`}>
                {at + 1}/{siblings.length}
            </span>
            <ActionButton label="Next branch" icon="right" onClick={() => turn(at + 1)} disabled={at >= siblings.length - 1} />
        </span>
    );
}

/* The keys that work while a message itself has the focus. */
function onMessageKey(event: KeyboardEvent, act: Partial<Record<string, () => void>>): void {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const element = event.currentTarget as HTMLElement;
    const step = (by: number) => {
        const all = [...document.querySelectorAll<HTMLElement>('article.message')];
        all[all.indexOf(element) + by]?.focus();
    };
    const run = { j: () => step(1), k: () => step(-1), ...act }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
}

function turnBy(message: Message, siblings: Message[], by: number): void {
    const to = siblings[siblings.findIndex((one) => one.id === message.id) + by];
    if (to) chat.value.turnTo(to.id);
}

function Editor({ message }: { message: Message }) {
    const [text, setText] = useState(message.text);
    const field = useRef<HTMLTextAreaElement>(null);
    useLayoutEffect(() => {
        field.current!.focus();
        field.current!.setSelectionRange(text.length, text.length);
    }, []);
    const close = () => {
        editing.value = null;
        focusComposer();
    };
    const save = () => {
        if (text.trim() === '') return;
        close();
        chat.value.send(text.trim(), message.parent);
    };
    const onKeyDown = (event: KeyboardEvent) => {
        if (isComposing(event)) return;
        if (event.key === 'Escape') {
            event.preventDefault();
            close();
        } else if (event.key === 'Enter' && !event.shiftKey && (settings.value.enterSends || event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            save();
        }
    };
    return (
        <div class="editor">
            <textarea
                ref={field}
                value={text}
                dir="auto"
                aria-label="Edit your message"
                rows={Math.min(12, text.split('\n').length + 1)}
                onInput={(event) => setText(event.currentTarget.value)}
                onKeyDown={onKeyDown}
            />
            <div class="editor-actions">
                <span>The old version stays behind the arrows.</span>
                <button type="button" class="button small" onClick={close}>
                    Cancel
                </button>
                <button type="button" class="button small primary" onClick={save} disabled={text.trim() === ''}>
                    Send
                </button>
            </div>
        </div>
    );
}

function isLong(text: string): boolean {
    return text.length > FOLD_CHARS || text.split('\n', FOLD_LINES + 1).length > FOLD_LINES;
}

export function Bubble({ text, faint = false }: { text: string; faint?: boolean }) {
    const [folded, setFolded] = useState(isLong(text));
    return (
        <div class={`bubble ${faint ? 'faint' : ''} ${folded ? 'folded' : ''}`} dir="auto">
            <div class="bubble-text">{String(text)}</div>
            {isLong(text) && (
                <button type="button" class="link-button" onClick={() => setFolded(!folded)} aria-expanded={!folded}>
                    {folded ? 'Show all' : 'Show less'}
                </button>
            )}
        </div>
    );
}

export const Question = memo(function Question({
    message,
    siblings,
    focusable,
}: {
    message: Message;
    siblings: Message[];
    focusable: boolean;
}) {
    const edit = () => void (editing.value = message.id);
    const isEdited = editing.value === message.id;
    return (
        <article
            class={`message question ${isEdited ? 'edited' : ''}`}
            data-message={message.id}
            aria-label="You"
            tabIndex={focusable ? 0 : -1}
            onKeyDown={(event) =>
                onMessageKey(event, {
                    c: () => void copyText(message.text),
                    e: edit,
                    '[': () => turnBy(message, siblings, -1),
                    ']': () => turnBy(message, siblings, 1),
                })
            }
        >
            <h2 class="visually-hidden">You</h2>
            {isEdited ? (
                <Editor message={message} />
            ) : (
                <>
                    <Bubble text={message.text} />
                    <div class="actions">
                        <CopyAction text={message.text} />
                        <ActionButton label="Edit" icon="edit" onClick={edit} />
                        <Branches message={message} siblings={siblings} />
                        <time class="when" dateTime={new Date(message.ts).toISOString()}>
                            {formatTime(message.ts)}
                        </time>
                    </div>
                </>
            )}
        </article>
    );
});

interface AnswerProps {
    message: Message;
    siblings: Message[];
    live: LiveAnswer | null;
    latest: boolean;
    focusable: boolean;
}

export const Answer = memo(function Answer({ message, siblings, live, latest, focusable }: AnswerProps) {
    const again = () => chat.value.regenerate(message);
    const trimmed = live?.stream.value.trimmed ?? 0;
    const traced = live ? settings.value.guesses && welcome.value?.trace === true : chat.value.guesses.value.has(message.id);
    const showGuesses = () => traced && void (dialog.value = { kind: 'guesses', message: message.id });
    const writing = live !== null && live.stream.value.started;
    return (
        <article
            class={`message answer ${writing ? 'writing' : ''}`}
            data-message={message.id}
            aria-label="Answer"
            aria-busy={live !== null}
            tabIndex={focusable ? 0 : -1}
            onKeyDown={(event) =>
                onMessageKey(event, {
                    c: () => void copyText(message.text),
                    r: () => !live && again(),
                    s: showGuesses,
                    '[': () => turnBy(message, siblings, -1),
                    ']': () => turnBy(message, siblings, 1),
                })
            }
        >
            <h2 class="visually-hidden">Answer</h2>
            {trimmed > 0 && <p class="trimmed">The model does not see the {trimmed} oldest messages of this chat.</p>}
            <Markdown text={message.text} live={live ? live.text : null} />
            {live && <Progress live={live} />}
            {!live && <Ending message={message} latest={latest} />}
            <div class="actions">
                {live ? (
                    <>
                        {traced && <ActionButton label="Show the guesses" icon="fork" onClick={showGuesses} />}
                        <LiveStats live={live} />
                    </>
                ) : (
                    <>
                        <CopyAction text={message.text} />
                        <ActionButton label="Answer again" icon="retry" onClick={again} />
                        {traced && <ActionButton label="Show the guesses" icon="fork" onClick={showGuesses} />}
                        <Branches message={message} siblings={siblings} />
                        {message.usage && <Stats message={message} usage={message.usage} />}
                    </>
                )}
            </div>
        </article>
    );
});
