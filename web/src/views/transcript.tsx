/* transcript.tsx - the messages of the shown branch, as turns: a question and its answers.
 *
 *  (1) At most MAX_MOUNTED messages are in the document; scrolling near an end moves the window, and the server is asked for older pages.
 *  (2) A turn keeps its key from the moment of sending on, so nothing is built anew when the server's id arrives.
 *  (3) The list is a labelled log that is not live: token by token is unreadable aloud. A separate status line speaks (shell.tsx). */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Chat, Outgoing } from '../chat.ts';
import { formatContext } from '../format.ts';
import { ScrollKeeper } from '../scroll.ts';
import { chat, welcome } from '../session.ts';
import { settings } from '../settings.ts';
import { siblingsOf } from '../tree.ts';
import { focusComposer } from '../ui.ts';
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
        if (message.role === 'user' || turns.length === 0) turns.push({ key: keys.get(message.id) ?? message.id, messages: [], outgoing: null });
        turns.at(-1)!.messages.push(message);
    }
    if (outgoing && !arrived) turns.push({ key: outgoing.cid, messages: [], outgoing });
    return turns;
}

const CARDS: { icon: IconName; title: string; prompt: string }[] = [
    { icon: 'bulb', title: 'Explain something', prompt: 'Explain how a rainbow forms, in simple words.' },
    { icon: 'edit', title: 'Write a draft', prompt: 'Write a short, friendly email asking a colleague to move our meeting to Thursday.' },
    { icon: 'code', title: 'Work with code', prompt: 'Write a Python function that checks whether a word is a palindrome, with two examples.' },
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
            <p class="empty-model">{missing ? 'It may have been deleted, or it belongs to someone else.' : 'The server answered with an error.'}</p>
            <button type="button" class="button primary" onClick={() => (missing ? newChat() : void open.load())}>
                {missing ? 'New chat' : 'Try again'}
            </button>
        </div>
    );
}

/* The part of the path that is mounted: [start, end) of it; end follows the path while it is at its end. */
function useWindow(open: Chat, length: number, keeper: { current: ScrollKeeper | null }) {
    const [window, setWindow] = useState({ open, start: Math.max(0, length - MAX_MOUNTED / 2), end: Infinity });
    const of = window.open === open ? window : { open, start: Math.max(0, length - MAX_MOUNTED / 2), end: Infinity };
    const earlier = () => {
        keeper.current?.hold();
        if (of.start > 0) {
            const start = Math.max(0, of.start - WINDOW_STEP);
            const end = Math.min(of.end, length);
            setWindow({ open, start, end: end - start > MAX_MOUNTED ? start + MAX_MOUNTED : of.end });
        } else if (open.more.value && open.loading.value === 'no') {
            void open.loadOlder();
        }
    };
    const later = () => {
        if (of.end >= length) return;
        keeper.current?.hold();
        const end = of.end + WINDOW_STEP;
        setWindow({ open, start: Math.max(of.start, Math.min(end, length) - MAX_MOUNTED), end: end >= length ? Infinity : end });
    };
    const toEnd = () => setWindow({ open, start: Math.max(0, length - MAX_MOUNTED / 2), end: Infinity });
    return { ...of, earlier, later, toEnd };
}

export function Transcript() {
    const open = chat.value;
    const scroller = useRef<HTMLDivElement>(null);
    const content = useRef<HTMLDivElement>(null);
    const keeper = useRef<ScrollKeeper | null>(null);
    const keys = useMemo(() => new Map<string, string>(), [open]);
    const path = open.path.value;
    const messages = open.messages.value;
    const part = useWindow(open, path.length, keeper);
    const shown = path.slice(part.start, part.end);
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
    useLayoutEffect(() => keeper.current!.release(), [first, part.end]);
    const loaded = open.loading.value === 'no';
    useLayoutEffect(() => keeper.current!.open(), [open, loaded && messages.size > 0 && sends === 0]);
    useLayoutEffect(() => {
        if (sends === 0) return;
        if (part.end !== Infinity) part.toEnd();
        if (settings.value.scrolling === 'anchor') keeper.current!.anchor();
        else if (settings.value.scrolling === 'follow') keeper.current!.follow();
    }, [sends]);
    useLayoutEffect(() => keeper.current!.reserve(), [turns.at(-1)?.key]);
    // An acknowledged turn keeps its key for as long as the chat is open.
    const acknowledged = open.acknowledged.value;
    useEffect(() => {
        if (acknowledged) keys.set(acknowledged.message, acknowledged.cid);
    }, [acknowledged]);
    if (acknowledged && !keys.has(acknowledged.message)) keys.set(acknowledged.message, acknowledged.cid);

    const lastId = path.at(-1)?.id;
    return (
        <div class="transcript-frame">
            <div ref={scroller} id="transcript" class="transcript" role="log" aria-live="off" aria-label="Conversation" tabIndex={-1}>
                <div ref={content} class="column">
                    {open.loading.value === 'first' && path.length === 0 && <Skeleton />}
                    {open.loading.value === 'older' && <p class="older">Loading older messages…</p>}
                    {(open.loading.value === 'failed' || open.loading.value === 'missing') && <Trouble open={open} />}
                    {empty && open.loading.value === 'no' && <Empty />}
                    {turns.map((turn) => (
                        <div class="turn" key={turn.key}>
                            {turn.messages.map((message) =>
                                message.role === 'user' ? (
                                    <Question key={message.id} message={message} siblings={siblingsOf(messages, message)} focusable={false} />
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
            <button
                type="button"
                class={`pill ${pill ? 'shown' : ''}`}
                tabIndex={pill ? 0 : -1}
                aria-hidden={!pill}
                onClick={() => {
                    if (part.end !== Infinity) part.toEnd();
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
