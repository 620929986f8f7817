/* linkbar.tsx - says when the server cannot be reached, when the next attempt is, and lets the person try at once.
 *
 * A break shorter than GRACE_MS is not worth a word. The state of the connection never becomes part of a chat. */
import { useEffect, useState } from 'preact/hooks';
import { connection } from '../connection.ts';
import { useNow } from './hooks.ts';
import { Icon } from './icons.tsx';

const GRACE_MS = 900;

export function LinkBar() {
    const link = connection.link.value;
    const away = link.kind === 'waiting' || link.kind === 'refused' || link.kind === 'connecting';
    const [shown, setShown] = useState(false);
    const now = useNow(shown, 250);
    useEffect(() => {
        if (!away) {
            setShown(false);
            return;
        }
        const timer = setTimeout(() => setShown(true), GRACE_MS);
        return () => clearTimeout(timer);
    }, [away]);
    if (!shown) return null;

    const text =
        link.kind === 'refused'
            ? link.why
            : link.kind === 'connecting'
              ? 'Connecting…'
              : link.kind === 'waiting'
                ? `Reconnecting in ${Math.max(1, Math.ceil((link.retryAt - now) / 1000))} s`
                : '';
    return (
        <div class={`linkbar ${link.kind}`}>
            <Icon name="offline" size={16} />
            <span class="linkbar-text">
                <strong>{navigator.onLine ? 'Server out of reach.' : 'You are offline.'}</strong> Reading works, sending waits.{' '}
                <span class="countdown">{text}</span>
            </span>
            {link.kind !== 'connecting' && (
                <button type="button" onClick={() => connection.retryNow()}>
                    Now
                </button>
            )}
        </div>
    );
}
