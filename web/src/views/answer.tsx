/* answer.tsx - the states of an answer in words and controls: waiting, reading the prompt, writing, and each way of ending. */
import type { ComponentChildren } from 'preact';
import { useId, useRef } from 'preact/hooks';
import { copyText } from '../clipboard.ts';
import { formatCount, formatMs, formatRate } from '../format.ts';
import { newChat } from '../keys.ts';
import type { LiveAnswer } from '../live.ts';
import { chat, welcome } from '../session.ts';
import { tell } from '../toasts.ts';
import { editing } from '../ui.ts';
import { CODE, type Failure, type Message, type Usage } from '../wire.ts';
import { connection } from '../connection.ts';
import { useNow } from './hooks.ts';
import { Icon } from './icons.tsx';

const SILENCE_MS = 15_000; // after that long without an event we say that we wait

/* What an answer that has no text yet is doing. */
export function Progress({ live }: { live: LiveAnswer }) {
    const now = useNow(true, 500);
    const { prefill, last, started } = live.stream.value;
    if (started) return null;
    const silent = now - live.heardAt;
    const offline = connection.link.value.kind !== 'online';
    if (!offline && silent > SILENCE_MS) {
        return <p class="progress">Waiting for the engine, {formatCount(silent / 1000)} s</p>;
    }
    if (prefill && prefill.total > 0) {
        const part = Math.min(1, prefill.done / prefill.total);
        return (
            <div class="progress">
                <span>
                    Reading the conversation, {formatCount(prefill.done)} of {formatCount(prefill.total)} tokens
                </span>
                <progress value={part} max={1} aria-label="Reading the conversation" />
            </div>
        );
    }
    return (
        <p class="progress">
            <span class="dots" aria-hidden="true">
                <i />
                <i />
                <i />
            </span>
            <span class={last > 0 ? 'visually-hidden' : undefined}>
                {last > 0 ? 'Thinking' : now - live.began > 700 ? 'In line for the engine' : ''}
            </span>
        </p>
    );
}

export function LiveStats({ live }: { live: LiveAnswer }) {
    useNow(true, 500);
    const { tokens, accepted, started } = live.stream.value;
    const rate = live.rate(performance.now());
    if (!started) return null;
    return (
        <span class="stats">
            {rate > 0 && <span>{formatRate(rate)} tok/s</span>}
            <span>{formatCount(tokens)} tokens</span>
            {accepted > 0 && <span>{formatCount(accepted)} guessed ahead</span>}
        </span>
    );
}

const ENDINGS: Record<string, string> = {
    stop: 'finished',
    length: 'token limit',
    context: 'context full',
    cancel: 'stopped by you',
    error: 'error',
    interrupted: 'server stopped',
};

/* The short line under an answer; a press shows where the time went. */
export function Stats({ message, usage }: { message: Message; usage: Usage }) {
    const id = useId();
    const button = useRef<HTMLButtonElement>(null);
    const panel = useRef<HTMLDivElement>(null);
    const rows: [string, ComponentChildren][] = [
        ['Speed', `${formatRate(usage.tps)} tok/s`],
        ['First token after', formatMs(usage.ttft_ms)],
        ['Waited in line', formatMs(usage.queue_ms)],
        ['Prompt read in', formatMs(usage.prefill_ms)],
        ['Prompt', `${formatCount(usage.in)} tokens`],
        ['Prompt from cache', `${formatCount(usage.cached)} tokens`],
        ['Answer', `${formatCount(usage.out)} tokens`],
        ['Ended by', ENDINGS[message.why ?? ''] ?? message.st],
    ];
    if (usage.drafted > 0)
        rows.push(['Guessed ahead', `${formatCount(usage.accepted)} of ${formatCount(usage.drafted)} right`]);
    if (usage.seed !== null) rows.push(['Seed', String(usage.seed)]);
    const onToggle = (event: Event) => {
        if ((event as ToggleEvent).newState !== 'open') return;
        const at = button.current!.getBoundingClientRect();
        const size = panel.current!.getBoundingClientRect();
        const above = at.top - size.height - 6;
        panel.current!.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
        panel.current!.style.top = `${above > 8 ? above : at.bottom + 6}px`;
    };
    return (
        <>
            <button ref={button} type="button" class="stats" popovertarget={id} title="Where the time went">
                {usage.tps > 0 && <span>{formatRate(usage.tps)} tok/s</span>}
                {usage.out > 0 && <span class="wide-only">{formatMs(usage.ttft_ms)} to first token</span>}
                <span>{formatCount(usage.out)} tokens</span>
            </button>
            <div ref={panel} id={id} popover="auto" class="panel" onToggle={onToggle}>
                <dl>
                    {rows.map(([name, value]) => (
                        <div key={name}>
                            <dt>{name}</dt>
                            <dd>{value}</dd>
                        </div>
                    ))}
                </dl>
            </div>
        </>
    );
}

function Notice(props: {
    kind: 'quiet' | 'warn' | 'bad';
    text: ComponentChildren;
    alert?: boolean;
    children?: ComponentChildren;
}) {
    return (
        <div class={`ending ${props.kind}`} role={props.alert ? 'alert' : undefined}>
            <Icon name={props.kind === 'quiet' ? 'info' : 'warning'} size={18} />
            <p>{props.text}</p>
            <div class="ending-actions">{props.children}</div>
        </div>
    );
}

function Action({ label, primary, run }: { label: string; primary?: boolean; run: () => void }) {
    return (
        <button type="button" class={`button small ${primary ? 'primary' : ''}`} onClick={run}>
            {label}
        </button>
    );
}

/* The model cannot see more than its context: begin anew, or let the oldest turns go. */
export function ContextFull({ refused, dropOldest, carry }: { refused: boolean; dropOldest: () => void; carry: () => void }) {
    const ctx = welcome.value?.model.ctx;
    return (
        <Notice
            kind="warn"
            alert
            text={
                <>
                    <strong>
                        {refused
                            ? 'This chat no longer fits the model.'
                            : 'The chat has reached the end of what the model can see.'}
                    </strong>{' '}
                    {ctx ? `Its context holds ${formatCount(ctx)} tokens. ` : ''}Begin a new chat, or answer without the oldest
                    turns; they stay in the chat.
                </>
            }
        >
            <Action label="New chat" run={carry} />
            <Action label="Drop the oldest turns and retry" primary run={dropOldest} />
        </Notice>
    );
}

function copyDetails(message: Message, err: Failure | null): void {
    const details = {
        answer: message.id,
        generation: message.g,
        code: err?.code,
        message: err?.msg,
        server: welcome.value?.server,
    };
    void copyText(JSON.stringify(details, null, 2)).then((done) => done && tell('Details copied.'));
}

/* How an answer ended, when that needs a word or offers a next step. `latest` answers may be continued. */
export function Ending({ message, latest }: { message: Message; latest: boolean }) {
    const open = chat.value;
    const goOn = latest ? <Action label="Continue" primary run={() => open.goOn(message)} /> : null;
    const again = <Action label="Retry" run={() => open.regenerate(message)} />;
    if (message.why === 'context' || message.err?.code === CODE.contextFull) {
        if (!latest) return null;
        const question = open.messages.value.get(message.parent ?? '');
        if (message.text === '' && question?.parent === null)
            return <TooLong shorten={() => void (editing.value = question.id)} />;
        return <ContextFull refused={message.text === ''} dropOldest={() => open.regenerate(message, true)} carry={newChat} />;
    }
    // However it ended, something went wrong afterwards: it is not saved.
    if (message.err && message.st !== 'error') return <Notice kind="bad" alert text={String(message.err.msg)} />;
    switch (message.st) {
        case 'stopped':
            return (
                <Notice kind="quiet" text="You stopped this answer.">
                    {goOn}
                </Notice>
            );
        case 'length':
            return (
                <Notice kind="quiet" text="The answer reached its token limit.">
                    {goOn}
                </Notice>
            );
        case 'interrupted':
            return (
                <Notice kind="warn" text="The server stopped while this was written. Nothing that was written is lost.">
                    {again}
                    {goOn}
                </Notice>
            );
        case 'error':
            return (
                <Notice kind="bad" alert text={message.err?.msg ? String(message.err.msg) : 'The answer failed.'}>
                    <Action label="Copy details" run={() => copyDetails(message, message.err)} />
                    <Action label="Retry" primary run={() => open.regenerate(message)} />
                </Notice>
            );
        default:
            return null;
    }
}

/* The first message is more than the context by itself: neither a new chat nor dropping turns would help. */
function TooLong({ shorten }: { shorten: () => void }) {
    const ctx = welcome.value?.model.ctx;
    return (
        <Notice
            kind="warn"
            alert
            text={
                <>
                    <strong>This message is too long for the model.</strong>{' '}
                    {ctx ? `Its context holds ${formatCount(ctx)} tokens. ` : ''}Shorten it, or send it in parts.
                </>
            }
        >
            <Action label="Edit" primary run={shorten} />
        </Notice>
    );
}

/* A request that the server refused, or that still waits for the connection. */
export function OutgoingState({ onEdit }: { onEdit: (text: string) => void }) {
    const open = chat.value;
    const outgoing = open.outgoing.value;
    const now = useNow(outgoing !== null, 300);
    if (!outgoing) return null;
    const { failure, t, text } = outgoing;
    if (!failure) {
        const offline = connection.link.value.kind !== 'online';
        if (!offline && now - outgoing.sentAt < 800) return null;
        return (
            <p class="sending">
                <Icon name="clock" size={15} />
                {offline ? 'Goes out when the server is back' : 'Sending…'}
            </p>
        );
    }
    const takeBack = () => {
        open.discardOutgoing();
        if (t === 'send') onEdit(text);
    };
    if (failure.code === CODE.contextFull && t === 'send' && outgoing.parent === null) return <TooLong shorten={takeBack} />;
    if (failure.code === CODE.contextFull && t !== 'cont') {
        const carry = () => {
            open.discardOutgoing();
            newChat();
            if (t === 'send') onEdit(text);
        };
        return <ContextFull refused dropOldest={() => open.retry(true)} carry={carry} />;
    }
    return (
        <Notice kind="bad" alert text={String(failure.msg) || 'The server did not accept this.'}>
            <Action label={t === 'send' ? 'Edit' : 'Dismiss'} run={takeBack} />
            <Action label="Retry" primary run={() => open.retry()} />
        </Notice>
    );
}
