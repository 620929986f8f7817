/* transcript.tsx - the messages of the shown branch, as turns: a question and its answers.
 *
 *  (1) At most MAX_MOUNTED messages are in the document; scrolling near an end moves the window, and the server is asked for
 *      older pages.
 *  (2) A turn keeps its key from the moment of sending on, so nothing is built anew when the server's id arrives.
 *  (3) The list is a labelled log that is not live: token by token is unreadable aloud. A separate status line speaks
 *      (shell.tsx). */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Chat, Outgoing } from '../chat.ts';
import { formatContext } from '../format.ts';
import { ScrollKeeper } from '../scroll.ts';
import { chat, welcome } from '../session.ts';
import { settings } from '../settings.ts';
import { siblingsOf } from '../tree.ts';
import { filter, focusComposer } from '../ui.ts';
import type { Message } from '../wire.ts';
import { OutgoingState } from './answer.tsx';
import { proposed, shortName } from './composer.tsx';
import { Icon, Logo, type IconName } from './icons.tsx';
import { Answer, Bubble, Question } from './message.tsx';
import { newChat } from '../keys.ts';

const MAX_MOUNTED = 160;
const WINDOW_STEP = 40;

interface Turn {
    key: string;
    messages: Message[];
    outgoing: Outgoing | null; // a question that the server has not confirmed
}

/* The server may announce a message before it confirms our request for it. */
function isOutgoing(message: Message, outgoing: Outgoing): boolean {
    return message.role === 'user' && message.parent === outgoing.parent && message.text === outgoing.text;
}

function turnsOf(open: Chat, path: Message[], keys: Map<string, string>): Turn[] {
    const turns: Turn[] = [];
    const outgoing = open.outgoing.value?.t === 'send' ? open.outgoing.value : null;
    // An edited message replaces what followed its parent.
    const cut = outgoing ? path.findIndex((message) => message.parent === outgoing.parent) : -1;
    const arrived = outgoing !== null && cut >= 0 && isOutgoing(path[cut]!, outgoing);
    for (const message of outgoing && cut >= 0 && !arrived ? path.slice(0, cut) : path) {
        if (arrived && isOutgoing(message, outgoing)) keys.set(message.id, outgoing.cid);
        if (message.role === 'user' || turns.length === 0)
            turns.push({ key: keys.get(message.id) ?? message.id, messages: [], outgoing: null });
        turns.at(-1)!.messages.push(message);
    }
    if (outgoing && !arrived) turns.push({ key: outgoing.cid, messages: [], outgoing });
    return turns;
}

const CARDS: { icon: IconName; title: string; prompt: string }[] = [
    { icon: 'bulb', title: 'Explain something', prompt: 'Explain how a rainbow forms, in simple words.' },
    {
        icon: 'edit',
        title: 'Write a draft',
        prompt: 'Write a short, friendly email asking a colleague to move our meeting to Thursday.',
    },
    {
        icon: 'code',
        title: 'Work with code',
        prompt: 'Write a Python function that checks whether a word is a palindrome, with two examples.',
    },
    { icon: 'table', title: 'Compare', prompt: 'Compare tea and coffee in a table: taste, caffeine, preparation.' },
];

function Empty() {
    const model = welcome.value?.model;
    return (
        <div class="empty">
            <Logo size={48} />
            <h2>What is on your mind?</h2>
            {model && (
                <p class="empty-model">
                    {shortName(model.name)} is ready, with room for {formatContext(model.ctx)} tokens.
                </p>
            )}
            <div class="cards">
                {CARDS.map(({ icon, title, prompt }) => (
                    <button
                        key={title}
                        type="button"
                        class="card"
                        onClick={() => {
                            proposed.value = prompt;
                            focusComposer();
                        }}
                    >
                        <span class="card-title">
                            <Icon name={icon} size={16} />
                            {title}
                        </span>
                        <span class="card-text">{prompt}</span>
                    </button>
                ))}
            </div>
        </div>
    );
}

function Trouble({ open }: { open: Chat }) {
    const missing = open.loading.value === 'missing';
    return (
        <div class="empty" role="alert">
            <span class="empty-icon">
                <Icon name={missing ? 'search' : 'warning'} size={26} />
            </span>
            <h2>{missing ? 'This chat is not here' : 'The chat could not be loaded'}</h2>
            <p class="empty-model">
                {missing ? 'It may have been deleted, or it belongs to someone else.' : 'The server answered with an error.'}
            </p>
            <button type="button" class="button primary" onClick={() => (missing ? newChat() : void open.load())}>
                {missing ? 'New chat' : 'Try again'}
            </button>
        </div>
    );
}

/* The part of the path that is mounted, named by its first and last message so that pages put before it change nothing. Null: the
 * newest MAX_MOUNTED / 2 messages, or on to the end. */
function useWindow(open: Chat, path: Message[]) {
    const sends = open.sends.value; // each brings the window back to the end
    const [choice, choose] = useState<{ open: Chat; sends: number; first: string | null; last: string | null } | null>(null);
    const { first, last } = choice?.open === open && choice.sends === sends ? choice : { first: null, last: null };
    const indexOf = (id: string | null) => (id === null ? -1 : path.findIndex((message) => message.id === id));
    const lastAt = indexOf(last);
    const firstAt = indexOf(first);
    const end = lastAt < 0 ? path.length : lastAt + 1;
    const start = firstAt < 0 || firstAt >= end ? Math.max(0, end - MAX_MOUNTED / 2) : firstAt;
    const show = (from: number, to: number) =>
        choose({ open, sends, first: path[from]?.id ?? null, last: to >= path.length ? null : (path[to - 1]?.id ?? null) });
    const earlier = () => {
        if (start > 0) {
            const from = Math.max(0, start - WINDOW_STEP);
            show(from, Math.min(end, from + MAX_MOUNTED));
        } else if (open.more.value && open.loading.value === 'no') {
            void open.loadOlder();
        }
    };
    const later = () => {
        if (end >= path.length) return;
        const to = Math.min(path.length, end + WINDOW_STEP);
        show(Math.max(start, to - MAX_MOUNTED), to);
    };
    const around = (id: string) => {
        const at = indexOf(id);
        if (at >= 0 && (at < start || at >= end))
            show(Math.max(0, at - MAX_MOUNTED / 4), Math.min(path.length, at + MAX_MOUNTED / 4));
    };
    return { start, end, atEnd: end >= path.length, earlier, later, around, toEnd: () => choose(null) };
}

export function Transcript() {
    const open = chat.value;
    const scroller = useRef<HTMLDivElement>(null);
    const content = useRef<HTMLDivElement>(null);
    const keeper = useRef<ScrollKeeper | null>(null);
    const keys = useMemo(() => new Map<string, string>(), [open]);
    const path = open.path.value;
    const messages = open.messages.value;
    const part = useWindow(open, path);
    const shown = path.slice(part.start, part.end);
    const acknowledged = open.acknowledged.value;
    if (acknowledged) keys.set(acknowledged.message, acknowledged.cid);
    const turns = turnsOf(open, shown, keys);
    const sends = open.sends.value;
    const empty = path.length === 0 && open.outgoing.value === null;
    const first = turns[0]?.key;
    const [pill, setPill] = useState(false);

    useLayoutEffect(() => {
        keeper.current = new ScrollKeeper(scroller.current!, content.current!);
        const stop = keeper.current.pill.subscribe(setPill);
        return () => {
            stop();
            keeper.current!.close();
        };
    }, []);
    useLayoutEffect(() => {
        keeper.current!.onNearTop = part.earlier;
        keeper.current!.onNearEnd = part.later;
    });
    // Order matters: first keep the place, then go where a send or an opened chat asks.
    useLayoutEffect(() => keeper.current!.keepPlace(), [first, part.atEnd]);
    const filled = messages.size > 0;
    useLayoutEffect(() => {
        if (sends === 0) keeper.current!.open();
    }, [open, filled]);
    useLayoutEffect(() => {
        if (sends === 0) return;
        if (settings.value.scrolling === 'anchor') keeper.current!.anchor();
        else if (settings.value.scrolling === 'follow') keeper.current!.follow();
    }, [sends]);
    const revealed = open.revealed.value;
    const done = useRef(revealed);
    const isMounted = revealed !== null && shown.some(({ id }) => id === revealed.message);
    useLayoutEffect(() => {
        if (revealed === null || done.current === revealed) return;
        if (!isMounted) return part.around(revealed.message);
        done.current = revealed;
        const message = content.current!.querySelector<HTMLElement>(`[data-message="${revealed.message}"]`);
        if (message) keeper.current!.reveal(message, filter.peek());
    }, [revealed, isMounted]);
    useLayoutEffect(() => keeper.current!.reserve(), [turns.at(-1)?.key]);
    // A page that came in may not have filled the window yet.
    useEffect(() => keeper.current!.lookAtEdges(), [path.length, part.start]);
    const lastId = path.at(-1)?.id;
    return (
        <div class="transcript-frame">
            <div
                ref={scroller}
                id="transcript"
                class="transcript"
                role="log"
                aria-live="off"
                aria-label="Conversation"
                tabIndex={-1}
            >
                <div ref={content} class="column">
                    {open.loading.value === 'first' && path.length === 0 && <Skeleton />}
                    {(open.loading.value === 'failed' || open.loading.value === 'missing') && <Trouble open={open} />}
                    {empty && open.loading.value === 'no' && <Empty />}
                    {turns.map((turn) => (
                        <div class="turn" key={turn.key}>
                            {turn.messages.map((message) =>
                                message.role === 'user' ? (
                                    <Question
                                        key={message.id}
                                        message={message}
                                        siblings={siblingsOf(messages, message)}
                                        focusable={false}
                                    />
                                ) : (
                                    <Answer
                                        key={message.id}
                                        message={message}
                                        siblings={siblingsOf(messages, message)}
                                        live={open.lives.value.get(message.id) ?? null}
                                        latest={message.id === lastId}
                                        focusable={message.id === lastId}
                                    />
                                ),
                            )}
                            {turn.outgoing && (
                                <article class="message question" aria-label="You">
                                    <Bubble text={turn.outgoing.text} faint={turn.outgoing.failure === null} />
                                </article>
                            )}
                            {turn === turns.at(-1) && <OutgoingState onEdit={(text) => (proposed.value = text)} />}
                        </div>
                    ))}
                </div>
            </div>
            {open.loading.value === 'older' && <p class="older">Loading older messages…</p>}
            <button
                type="button"
                class={`pill ${pill ? 'shown' : ''}`}
                tabIndex={pill ? 0 : -1}
                aria-hidden={!pill}
                onClick={() => {
                    part.toEnd();
                    requestAnimationFrame(() => keeper.current?.follow());
                }}
            >
                <Icon name="down" size={16} />
                Latest
            </button>
        </div>
    );
}

function Skeleton() {
    return (
        <div class="skeleton page" aria-label="Loading the conversation" role="status">
            <i />
            <i />
            <i />
            <i />
            <i />
        </div>
    );
}
