/* gate.tsx - the way in: open the link that the server printed, or paste it, or paste an API key. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { phase, signInWithKey } from '../session.ts';
import { Icon, Logo } from './icons.tsx';

/* A pasted sign-in link holds a one-time code; the server answers that address itself. */
function codeOf(text: string): string | null {
    return /(?:^|\/)sign-in\?code=([\w~.-]+)/.exec(text)?.[1] ?? null;
}

const badCode = /[?&](?:expired|error|code)=/.test(location.search);

export function Gate() {
    const [text, setText] = useState('');
    const [shown, setShown] = useState(false);
    const [busy, setBusy] = useState(false);
    const [trouble, setTrouble] = useState<string | null>(null);
    const field = useRef<HTMLInputElement>(null);
    const expired = phase.value === 'expired';
    useLayoutEffect(() => field.current?.focus(), []);

    const submit = async (event: Event) => {
        event.preventDefault();
        const value = text.trim();
        const code = codeOf(value);
        if (code !== null) {
            location.assign(`/sign-in?code=${encodeURIComponent(code)}`);
            return;
        }
        if (value === '') {
            setTrouble('Paste your API key or the sign-in link.');
            field.current?.focus();
            return;
        }
        setBusy(true);
        setTrouble(await signInWithKey(value));
        setBusy(false);
        field.current?.select();
    };

    return (
        <div class="gate-card">
            <div class="gate-brand">
                <Logo size={44} />
                <h1>{expired ? 'Sign in again' : 'Foresay'}</h1>
                <p>
                    {expired
                        ? 'Your session has ended. Your chat and what you typed are still here.'
                        : 'Chat with a model on your own machine.'}
                </p>
            </div>
            {badCode && !expired && (
                <p class="notice warn" role="alert">
                    <Icon name="clock" size={17} />
                    <span>
                        That sign-in link has been used or has expired. Restart the server for a fresh one, or use an API key.
                    </span>
                </p>
            )}
            <form onSubmit={(event) => void submit(event)}>
                <label class="field">
                    <span>API key or sign-in link</span>
                    <span class="with-button">
                        <input
                            ref={field}
                            name="key"
                            type={(shown ? 'text' : 'password') as 'password'}
                            autocomplete="current-password"
                            autocapitalize="off"
                            spellcheck={false}
                            placeholder="fsk_..."
                            value={text}
                            aria-invalid={trouble !== null}
                            aria-describedby={trouble ? 'gate-trouble' : undefined}
                            onInput={(event) => setText(event.currentTarget.value)}
                        />
                        <button type="button" class="inside" onClick={() => setShown(!shown)} aria-pressed={shown}>
                            {shown ? 'Hide' : 'Show'}
                        </button>
                    </span>
                </label>
                {trouble && (
                    <p class="notice bad" role="alert" id="gate-trouble">
                        <Icon name="warning" size={17} />
                        <span>{trouble}</span>
                    </p>
                )}
                <button type="submit" class="button primary wide" disabled={busy}>
                    {busy ? 'Signing in…' : 'Sign in'}
                </button>
            </form>
            <div class="gate-help">
                <p>
                    <strong>On the machine itself?</strong> Open the link that <code>foresay serve</code> printed in its terminal.
                </p>
                <p>
                    <strong>Need a key?</strong> <code>foresay user add NAME</code> prints one, once;{' '}
                    <code>foresay user key NAME</code> a new one, when it is lost.
                </p>
            </div>
        </div>
    );
}

export function GateScreen() {
    return (
        <main class="gate">
            <Gate />
        </main>
    );
}

/* The session ended in the middle of things: the gate stands before the chat, which stays as it is. */
export function ExpiredDialog() {
    const ref = useRef<HTMLDialogElement>(null);
    useLayoutEffect(() => ref.current?.showModal(), []);
    return (
        <dialog ref={ref} class="modal small bare" aria-label="Sign in again" onCancel={(event) => event.preventDefault()}>
            <Gate />
        </dialog>
    );
}
