/* formula.tsx - a formula on the page, as MathML, which browsers lay out and screen readers speak by themselves; what is not
 * understood, or not closed yet, as its source. The reader of TeX is loaded with the first formula. */
import { h, type VNode } from 'preact';
import { signal } from '@preact/signals';
import type { MathToken } from './math.ts';
import type { MathNode, readTex } from './tex.ts';

const reader = signal<typeof readTex | null>(null);
let asked = false;
const LONG = 40; // characters of TeX that may be wider than a phone

function loadReader(): void {
    if (asked) return;
    asked = true;
    import('./tex.ts').then(
        (module) => (reader.value = module.readTex),
        () => (asked = false), // the source stays; the next formula asks again
    );
}

function element(of: MathNode | string, key: number): VNode | string {
    return typeof of === 'string' ? of : h(of.tag, { key, ...of.attributes }, of.parts.map(element));
}

export function Formula({ token }: { token: MathToken }) {
    if (!reader.value) loadReader();
    const tree = token.closed ? (reader.value?.(token.tex, token.display) ?? null) : null;
    if (!tree) return <code class="tex">{token.raw.trim()}</code>;
    const formula = h('math', { display: token.display ? 'block' : 'inline', dir: 'ltr' }, element(tree, 0));
    // No browser breaks a formula into lines: a long one scrolls in a box of its own.
    return token.display || token.tex.length > LONG ? <span class={token.display ? 'wide-block' : 'wide'}>{formula}</span> : formula;
}
