/* markdown.tsx - a Markdown text on the page: whole, or growing under the reader's eyes. */
import { useEffect, useMemo, useReducer, useRef } from 'preact/hooks';
import type { ReadonlySignal } from '@preact/signals';
import { GrowingMarkdown } from './blocks.ts';
import { BlockView } from './render.tsx';

const DRAIN_MS = 100; // a burst of tokens is spread over this time, so that text flows instead of jerking

function flowsGently(): boolean {
    return !document.hidden && !matchMedia('(prefers-reduced-motion: reduce)').matches;
}

/* Never between the two halves of a character outside the basic plane. */
function cutAt(text: string, length: number): number {
    const code = text.charCodeAt(length - 1);
    return code >= 0xd800 && code <= 0xdbff ? length + 1 : length;
}

/* The text of a growing answer as it should be shown now. */
function useFlow(source: ReadonlySignal<string> | null): string {
    const [, redraw] = useReducer((n: number) => n + 1, 0);
    const state = useRef({ source, shown: source?.peek().length ?? 0, deadline: 0, last: 0 });
    if (state.current.source !== source) {
        // What stood there before it began to grow (an answer that goes on) does not flow in again.
        state.current.source = source;
        state.current.shown = source?.peek().length ?? 0;
    }
    useEffect(() => {
        if (!source) return;
        let frame = 0;
        const step = (now: number) => {
            frame = 0;
            const text = source.peek();
            const at = state.current;
            const rest = text.length - at.shown;
            const part = Math.min(1, Math.max(0, now - at.last) / Math.max(1, at.deadline - at.last));
            at.shown = cutAt(text, Math.min(text.length, at.shown + Math.max(1, Math.ceil(rest * part))));
            at.last = now;
            redraw(0);
            if (at.shown < text.length) frame = requestAnimationFrame(step);
        };
        const stop = source.subscribe((text) => {
            const at = state.current;
            if (text.length < at.shown) at.shown = 0;
            if (!flowsGently()) {
                at.shown = text.length;
                redraw(0);
                return;
            }
            const now = performance.now();
            at.deadline = now + DRAIN_MS;
            if (frame === 0 && at.shown < text.length) {
                at.last = now;
                frame = requestAnimationFrame(step);
            }
        });
        const onHidden = () => {
            if (!document.hidden) return;
            state.current.shown = source.peek().length;
            redraw(0);
        };
        document.addEventListener('visibilitychange', onHidden);
        return () => {
            stop();
            cancelAnimationFrame(frame);
            document.removeEventListener('visibilitychange', onHidden);
        };
    }, [source]);
    return source ? source.peek().slice(0, state.current.shown) : '';
}

/* `live` is the growing text while there is one; `text` the whole one otherwise. */
export function Markdown({ text, live }: { text: string; live: ReadonlySignal<string> | null }) {
    const growing = useMemo(() => new GrowingMarkdown(), []);
    const flow = useFlow(live);
    const source = live ? flow : String(text);
    const blocks = useMemo(() => growing.update(source, !live), [source, live === null]);
    return (
        <div class="prose">
            {blocks.map((block) => (
                <BlockView key={block.key} block={block} />
            ))}
        </div>
    );
}
