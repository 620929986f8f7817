/* tex.ts - a formula in TeX, drawn by KaTeX as MathML: browsers lay that out by themselves, so there are no fonts, no stylesheet and
 * no strings of markup. Loaded with the first formula.
 *
 *  (1) All or nothing: what KaTeX does not know, or what is refused here, makes null, and the reader sees the source.
 *  (2) Bounds: MAX_CHARS of source, MAX_DEPTH elements deep, and no definitions of macros: 4 kB of them make a million elements.
 *  (3) A formula never leaves its place (negative space) and never links or loads anything.
 *  (4) Of MathML 3 browsers left out fonts by name, the sides of columns, lines between them and the space around functions; they are
 *      put in here, as letters of Unicode and as classes for prose.css. */
import { render } from 'katex';

const MAX_CHARS = 4000;
const MAX_DEPTH = 100;

/* Definitions; what would link, load or set attributes; what needs an inline style; what shifts by a length; and a comment, which more
 * likely is a percent sign. */
const REFUSED = new RegExp(
    [
        String.raw`\\(?:[gex]?def|(?:future)?let|global|(?:re|provide)?(?:new)?command)(?![A-Za-z])`,
        String.raw`\\(?:href|url|includegraphics|html[A-Z]\w*|fcolorbox|raisebox)(?![A-Za-z])`,
        String.raw`\\(?:hspace\*?|m?kern|[hm]skip)\s*\{?\s*-`,
        String.raw`(?<!\\)%`,
    ].join('|'),
);

/* Where the alphabets of a font begin in Unicode: A (a follows Z), 0, and Α (α follows Ω). */
const FONTS: Record<string, [number, (number | undefined)?, number?]> = {
    bold: [0x1d400, 0x1d7ce, 0x1d6a8],
    italic: [0x1d434],
    'bold-italic': [0x1d468, undefined, 0x1d71c],
    script: [0x1d49c],
    fraktur: [0x1d504],
    'double-struck': [0x1d538, 0x1d7d8],
    'sans-serif': [0x1d5a0, 0x1d7e2],
    'bold-sans-serif': [0x1d5d4, 0x1d7ec],
    'sans-serif-italic': [0x1d608],
    'sans-serif-bold-italic': [0x1d63c],
    monospace: [0x1d670, 0x1d7f6],
};
/* Letters of these alphabets that Unicode had before: each stands behind the empty place that it fills. */
const OLD = new Map('𝔺ℂ𝔿ℍ𝕅ℕ𝕇ℙ𝕈ℚ𝕉ℝ𝕑ℤ𝒝ℬ𝒠ℰ𝒡ℱ𝒣ℋ𝒤ℐ𝒧ℒ𝒨ℳ𝒭ℛ𝒺ℯ𝒼ℊ𝓄ℴ𝔆ℭ𝔋ℌ𝔌ℑ𝔕ℜ𝔝ℨ𝑕ℎ'.match(/../gu)!.map((pair) => [...pair] as [string, string]));

function inFont(text: string, font: string): string {
    const [latin, digits, greek] = FONTS[font] ?? [];
    const move = (ch: string, from: string, to: number | undefined, gap = 0) =>
        to === undefined ? ch : String.fromCodePoint(ch.codePointAt(0)! - from.charCodeAt(0) + to + gap);
    const moved = (ch: string) => {
        if (/[A-Z]/.test(ch)) return move(ch, 'A', latin);
        if (/[a-z]/.test(ch)) return move(ch, 'a', latin, 26);
        if (/\d/.test(ch)) return move(ch, '0', digits);
        if (/[Α-Ω]/.test(ch)) return move(ch, 'Α', greek);
        return /[α-ω]/.test(ch) ? move(ch, 'α', greek, 26) : ch;
    };
    return [...text].map((ch) => OLD.get(moved(ch)) ?? moved(ch)).join('');
}

/* Letters of a named font; words in \text{} and what has no such letters keep the name, for prose.css. */
function setFont(element: Element): void {
    const font = element.getAttribute('mathvariant');
    if (font === null || element.firstElementChild || !/^m[ino]$/.test(element.localName)) return;
    const text = element.textContent ?? '';
    const moved = inFont(text, font);
    if (moved === text) return;
    element.textContent = moved;
    element.removeAttribute('mathvariant');
}

/* The sides of columns and the lines behind columns and rows, as classes of the cells. KaTeX's own cells around an equation and its
 * number have a class already and do not count. */
function setCells(table: Element): void {
    const listOf = (name: string) => (table.getAttribute(name) ?? '').split(' ');
    const [sides, behind, below] = [listOf('columnalign'), listOf('columnlines'), listOf('rowlines')];
    [...table.children].forEach((row, y) => {
        [...row.children]
            .filter((cell) => !cell.getAttribute('class'))
            .forEach((cell, x) => {
                const lines = [/solid|dashed/.test(behind[x] ?? '') && 'line-behind', /solid|dashed/.test(below[y] ?? '') && 'line-below'];
                cell.setAttribute('class', [sides[x], ...lines].filter(Boolean).join(' '));
            });
    });
}

/* KaTeX marks the end of a function's name by an invisible sign, in the base of a power of it too. TeX sets a name apart from what stands
 * beside it, brackets excepted; browsers do not. */
function setApart(sign: Element): void {
    const script = sign.parentElement?.parentElement;
    const inBase =
        script && /^m(sub|sup|subsup|under|over|underover)$/.test(script.localName) && script.firstElementChild === sign.parentElement;
    const first = inBase ? script : sign.previousElementSibling;
    const [before, after] = [first?.previousElementSibling, (inBase ? script : sign).nextElementSibling];
    if (before && !/^m(o|space)$/.test(before.localName)) first!.setAttribute('class', 'apart');
    if (after && !/^m(o|space)$/.test(after.localName) && !/^[([{]/.test(after.textContent ?? '')) after.setAttribute('class', 'apart');
}

/* Whether the tree is shallow enough to be laid out; finishes it on the way. */
function finish(element: Element, depth: number): boolean {
    if (depth > MAX_DEPTH) return false;
    setFont(element);
    if (element.localName === 'mtable') setCells(element);
    if (element.localName === 'mo' && element.textContent === '\u2061') setApart(element);
    return [...element.children].every((child) => finish(child, depth + 1));
}

/* Models write rows and & without an environment around them; KaTeX wants one. */
function withRows(tex: string): string {
    const outside = tex.replace(/\\begin\{(\w+\*?)\}[^]*?\\end\{\1\}/g, '');
    return /(?<!\\)&|\\\\/.test(outside) ? `\\begin{aligned}${tex}\\end{aligned}` : tex;
}

/* The element <math>, or null. */
export function drawTex(tex: string, display: boolean): Element | null {
    if (tex.length > MAX_CHARS || tex.trim() === '' || REFUSED.test(tex)) return null;
    const into = document.createElement('span');
    try {
        render(withRows(tex), into, {
            output: 'mathml',
            displayMode: display,
            throwOnError: true,
            strict: 'ignore', // it would only warn on the console
            trust: false,
            maxExpand: 1000,
            maxSize: 50,
            macros: {
                '\\pmb': '\\boldsymbol{#1}', // KaTeX draws it with an inline style, which the page's policy forbids
                '\\label': '\\@secondoftwo{#1}{}', // nothing
            },
        });
    } catch {
        return null; // not TeX that KaTeX knows, or nested so deep that its stack ended
    }
    const math = into.firstElementChild?.firstElementChild;
    if (!math || !finish(math, 0)) return null;
    math.setAttribute('display', display ? 'block' : 'inline');
    math.setAttribute('dir', 'ltr');
    return math;
}
