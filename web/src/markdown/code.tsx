/* code.tsx - a block of code: its language, a Copy button, the text.
 *
 *  (1) While the fence is open the code is one text node that grows. It is coloured once, when the fence has closed.
 *  (2) The Copy button is the same element from the first character to the end, so it never vanishes under the pointer. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';
import { copyText } from '../clipboard.ts';
import { Icon } from '../views/icons.tsx';
import { highlight, keptHighlight, languageLabel, languageOf } from './highlight.ts';
import type { Part } from './spans.ts';

function spans(parts: Part[]): ComponentChildren[] {
    return parts.map((part) => (typeof part === 'string' ? part : <span class={part.name}>{spans(part.parts)}</span>));
}

function useHighlight(code: string, info: string, closed: boolean): Part[] | null {
    const language = languageOf(info);
    const [parts, setParts] = useState<{ code: string; parts: Part[] } | null>(null);
    useEffect(() => {
        if (!closed) return;
        let wanted = true;
        void highlight(language, code).then((found) => wanted && found && setParts({ code, parts: found }));
        return () => {
            wanted = false;
        };
    }, [code, language, closed]);
    if (!closed) return null;
    return parts?.code === code ? parts.parts : keptHighlight(language, code);
}

export function CopyButton({ text, label = 'Copy' }: { text: () => string; label?: string }) {
    const [done, setDone] = useState(false);
    const timer = useRef(0);
    useEffect(() => () => clearTimeout(timer.current), []);
    const copy = async () => {
        if (!(await copyText(text()))) return;
        setDone(true);
        clearTimeout(timer.current);
        timer.current = window.setTimeout(() => setDone(false), 1600);
    };
    return (
        <button type="button" class="copy" onClick={copy} aria-label={`${label} code`}>
            <Icon name={done ? 'check' : 'copy'} size={15} />
            <span>{done ? 'Copied' : label}</span>
        </button>
    );
}

export function CodeBlock({ code, info, closed }: { code: string; info: string; closed: boolean }) {
    const parts = useHighlight(code, info, closed);
    const label = languageLabel(info);
    return (
        <figure class="code" dir="ltr">
            <figcaption>
                <span class="language">{label}</span>
                <CopyButton text={() => code} />
            </figcaption>
            <pre tabIndex={0} role="group" aria-label={`${label} code`}>
                <code>{parts ? spans(parts) : String(code)}</code>
            </pre>
        </figure>
    );
}
