/* formula.tsx - a formula on the page, as MathML, which browsers lay out and screen readers speak by themselves; what is not
 * understood, or not closed yet, as its source. KaTeX is loaded with the first formula. */
import { useLayoutEffect, useMemo, useRef } from 'preact/hooks';
import { signal } from '@preact/signals';
import type { MathToken } from './math.ts';
import type { drawTex } from './tex.ts';

const drawer = signal<typeof drawTex | null>(null);
let asked = false;
const LONG = 40; // characters of TeX that may be wider than a phone

function loadDrawer(): void {
    if (asked) return;
    asked = true;
    import('./tex.ts').then(
        (module) => (drawer.value = module.drawTex),
        () => (asked = false), // the source stays; the next formula asks again
    );
}

/* Holds a <math> that is not one of Preact's nodes; set before the browser paints. */
function Drawn({ math, box }: { math: Element; box: string }) {
    const at = useRef<HTMLSpanElement>(null);
    useLayoutEffect(() => at.current!.replaceChildren(math), [math]);
    return <span ref={at} class={box} />;
}

export function Formula({ token: { tex, raw, display, closed } }: { token: MathToken }) {
    const draw = drawer.value;
    if (!draw && closed) loadDrawer();
    // While an answer grows, its last block renders with each piece: what is drawn stays the same node.
    const math = useMemo(() => (draw && closed ? draw(tex, display) : null), [draw, tex, display, closed]);
    if (!math) return <code class="tex">{raw.trim()}</code>;
    // No browser breaks a formula into lines: a long one scrolls in a box of its own.
    return <Drawn math={math} box={display ? 'wide-block' : tex.length > LONG ? 'wide' : 'formula'} />;
}
