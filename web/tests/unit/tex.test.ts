/* tex.test.ts - formulas are found where they are meant, drawn as MathML, or left as they are; money stays money. KaTeX draws into a
 * document that has only what it may use: a try to write markup throws. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Lexer } from 'marked';
import { formulaAt, lexerOptions } from '../../src/markdown/math.ts';
import { drawTex } from '../../src/markdown/tex.ts';
import { randomFrom } from './random.ts';

class FakeElement {
    parts: (FakeElement | string)[] = [];
    attributes = new Map<string, string>();
    readonly style = Object.freeze({}); // KaTeX looks at it for its box; to set anything would throw
    constructor(readonly localName: string) {}
    get children(): FakeElement[] {
        return this.parts.filter((part) => part instanceof FakeElement);
    }
    get firstElementChild(): FakeElement | undefined {
        return this.children[0];
    }
    parentElement: FakeElement | null = null;
    private beside(step: number): FakeElement | undefined {
        const all = this.parentElement?.children ?? [];
        return all[all.indexOf(this) + step];
    }
    get previousElementSibling(): FakeElement | undefined {
        return this.beside(-1);
    }
    get nextElementSibling(): FakeElement | undefined {
        return this.beside(1);
    }
    get textContent(): string {
        return this.parts.map((part) => (typeof part === 'string' ? part : part.textContent)).join('');
    }
    set textContent(text: string) {
        this.parts = text === '' ? [] : [text];
    }
    set innerHTML(_: string) {
        throw new Error('markup');
    }
    set className(names: string) {
        this.attributes.set('class', names);
    }
    appendChild(part: FakeElement | string): void {
        if (part instanceof FakeElement && part.localName === '#fragment') return part.parts.forEach((inner) => this.appendChild(inner));
        this.parts.push(part);
        if (part instanceof FakeElement) part.parentElement = this;
    }
    getAttribute(name: string): string | null {
        return this.attributes.get(name) ?? null;
    }
    setAttribute(name: string, value: string): void {
        assert.doesNotMatch(name, /^(style|on|href|src)/); // what the page's policy forbids, and what links or loads
        this.attributes.set(name, value);
    }
    removeAttribute(name: string): void {
        this.attributes.delete(name);
    }
}

const create = (name: string) => new FakeElement(name);
(globalThis as { document: unknown }).document = {
    createElement: create,
    createElementNS: (_: string, name: string) => create(name),
    createDocumentFragment: () => create('#fragment'),
    createTextNode: String,
};

const draw = (tex: string, display = false) => drawTex(tex, display) as unknown as FakeElement | null;
function flat(of: FakeElement | string): string {
    if (typeof of === 'string') return of;
    const inner = of.parts.filter((part) => typeof part === 'string' || part.localName !== 'annotation').map(flat);
    return /^(math|semantics|mrow|mstyle)$/.test(of.localName) ? inner.join(' ') : `${of.localName}(${inner.join(' ')})`;
}
const read = (tex: string, display = false) => {
    const math = draw(tex, display);
    return math && flat(math);
};
function all(of: FakeElement, name: string): FakeElement[] {
    return [...(of.localName === name ? [of] : []), ...of.children.flatMap((child) => all(child, name))];
}
const cells = (tex: string) => all(draw(tex, true)!, 'mtd').map((cell) => cell.getAttribute('class'));
const types = (text: string) => new Lexer(lexerOptions).lex(text).map((token) => token.type);

test('formulas become MathML', () => {
    for (const [tex, tree] of [
        ['x', 'mi(x)'],
        ['a_1^2', 'msubsup(mi(a) mn(1) mn(2))'],
        ['\\frac{n}{2.5}', 'mfrac(mi(n) mn(2.5))'],
        ['\\sqrt[3]{x}', 'mroot(mi(x) mn(3))'],
        ['\\alpha \\le \\infty', 'mi(α) mo(≤) mi(∞)'],
        ['50\\%', 'mn(50) mi(%)'],
        ['x \\label{eq:x_1}', 'mi(x)'],
    ]) {
        assert.equal(read(tex!), tree, tex);
    }
    assert.equal(read('\\sum_{i=1}^n i', true), 'munderover(mo(∑) mi(i) mo(=) mn(1) mi(n)) mi(i)');
    const math = draw('x', true)!;
    assert.deepEqual([math.localName, math.getAttribute('display'), math.getAttribute('dir')], ['math', 'block', 'ltr']);
    assert.equal(draw('x')!.getAttribute('display'), 'inline');
});

test('fonts by name become letters of Unicode', () => {
    for (const [tex, tree] of [
        ['\\mathbb{RZ}', 'mi(ℝ) mi(ℤ)'],
        ['\\mathbf{Aaz09}', 'mi(𝐀) mi(𝐚) mi(𝐳) mn(𝟎𝟗)'],
        ['\\mathcal{LA}', 'mi(ℒ) mi(𝒜)'],
        ['\\mathfrak{gC}', 'mi(𝔤) mi(ℭ)'],
        ['\\boldsymbol{\\alpha\\omega}', 'mi(mi(𝜶) mi(𝝎))'],
        ['\\pmb{x}', 'mi(𝒙)'],
    ]) {
        assert.equal(read(tex!), tree, tex);
    }
    assert.equal(read('\\textbf{if}'), 'mtext(if)');
    assert.equal(all(draw('\\textbf{if}')!, 'mtext')[0]!.getAttribute('mathvariant'), 'bold');
});

test('columns have their sides, and the lines between them', () => {
    assert.deepEqual(cells('a &= b \\\\ &= c'), ['right', 'left', 'right', 'left']);
    assert.deepEqual(cells('a &= \\begin{vmatrix} b \\end{vmatrix} \\\\ &= c'), ['right', 'left', 'center', 'right', 'left']);
    assert.deepEqual(cells('\\begin{cases} 1 & x \\end{cases}'), ['left', 'left']);
    assert.deepEqual(cells('\\begin{align*} a &= b \\end{align*}'), ['right', 'left']);
    assert.deepEqual(cells('\\begin{array}{l|r} a & b \\\\ \\hline c & d \\end{array}'), [
        'left line-behind line-below',
        'right line-below',
        'left line-behind',
        'right',
    ]);
});

test('names of functions stand apart, but not from brackets', () => {
    const apart = (tex: string) => {
        const classed = (of: FakeElement): FakeElement[] => (of.getAttribute('class') === 'apart' ? [of] : of.children.flatMap(classed));
        return classed(draw(tex, true)!).map(flat);
    };
    assert.deepEqual(apart('2\\sin x'), ['mi(sin)', 'mi(x)']);
    assert.deepEqual(apart('a + \\log_2 n'), ['mi(n)']);
    assert.deepEqual(apart('\\sin(x) \\cos\\left(x\\right) + \\ln, x'), []);
    assert.deepEqual(apart('\\lim_{x} f').length, 1);
});

test('what is not understood is left alone', () => {
    for (const tex of ['\\foo', '{x', 'x}', 'x_1_2', '\\frac{1}', '\\left( x', '\\begin{tikz}x\\end{tikz}', '\\text{$\\x$}', '', ' ', '50%']) {
        assert.equal(read(tex), null, tex);
    }
});

test('hostile formulas are left alone', () => {
    for (const tex of [
        '\\href{javascript:alert(1)}{x}',
        '\\href{https://example.org}{x}',
        '\\url{https://example.org}',
        '\\includegraphics{https://example.org/a.png}',
        '\\htmlStyle{color:red}{x}',
        '\\htmlId{composer}{x}',
        '\\fcolorbox{red}{blue}{x}',
        '\\def\\a{\\a\\a}\\a',
        `\\gdef\\a{${'x'.repeat(2000)}}${'\\a'.repeat(600)}`,
        '\\newcommand{\\a}{x}\\a',
        '\\let\\a=b',
        '\\hspace{-500em}x',
        '\\kern-500em x',
        '\\raisebox{90em}{x}',
        'x'.repeat(5000),
        '{'.repeat(50_000) + '}'.repeat(50_000),
        '{'.repeat(100_000),
        '{'.repeat(1900) + 'x' + '}'.repeat(1900),
        '\\sqrt{'.repeat(200) + 'x' + '}'.repeat(200),
        'x^{'.repeat(200) + 'x' + '}'.repeat(200),
        '\\left('.repeat(200) + 'x' + '\\right)'.repeat(200),
    ]) {
        assert.equal(read(tex), null, tex.slice(0, 60));
    }
    assert.notEqual(read('\\sqrt{'.repeat(20) + 'x' + '}'.repeat(20)), null);
    assert.equal(read('\\text{<b onclick=x>}'), 'mtext(<b\u00a0onclick=x>)');
    assert.equal(all(draw('\\rule{900em}{900em}')!, 'mspace')[0]!.getAttribute('width'), '50em');
});

test('formulas in a line, and money', () => {
    for (const [text, tex] of [
        ['$x_1$ and', 'x_1'],
        ['\\(a*b*c\\)', 'a*b*c'],
        ['$$x$$', 'x'],
        ['\\[x\\]', 'x'],
        ['$\\text{two words}$', '\\text{two words}'],
        ['$5 and $10', null],
        ['$5-$10', null],
        ['$ x$', null],
        ['$5 or about that, 6$ more', null],
        ['$', null],
        ['\\(never closed', null],
    ] as const) {
        assert.equal(formulaAt(text)?.tex ?? null, tex, text);
    }
});

test('a formula by itself interrupts a paragraph and ends at its mark or a blank line', () => {
    assert.deepEqual(types('so\n\\[\nx\n= y\n\\]\nthen\n'), ['paragraph', 'math', 'paragraph']);
    assert.deepEqual(types('$$\nx\n\n- y\n'), ['math', 'space', 'list']);
    assert.deepEqual(types('costs $5\n'), ['paragraph']);
});

test('random bytes of TeX never throw', () => {
    const random = randomFrom(11);
    const pieces = ['{', '}', '_', '^', '\\frac', '\\sqrt[', '\\left(', '\\right)', '\\begin{cases}', '\\end{cases}', '&', '\\\\', 'x', '1', ' ', "'", '\\text{', '\\'];
    for (let i = 0; i < 3000; i++) draw(Array.from({ length: random(20) }, () => pieces[random(pieces.length)]).join(''), i % 2 === 0);
});

test('KaTeX is loaded later, and only its drawing', () => {
    const folder = new URL('../../dist/', import.meta.url);
    const files = readdirSync(new URL('assets/', folder));
    const drawing = files.filter((name) => /^tex-.*\.js$/.test(name));
    assert.equal(drawing.length, 1);
    assert.doesNotMatch(readFileSync(new URL('index.html', folder), 'utf8'), /tex-/);
    assert.doesNotMatch(readFileSync(new URL(`assets/${drawing[0]}`, folder), 'utf8'), /innerHTML|insertAdjacentHTML|document\.write/);
    for (const name of files) assert.doesNotMatch(name, /katex|KaTeX|\.woff2?$/);
});
