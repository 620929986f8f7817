/* tex.test.ts - formulas are found where they are meant, read as MathML, or left as they are; money stays money. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lexer } from 'marked';
import { formulaAt, lexerOptions } from '../../src/markdown/math.ts';
import { readTex, type MathNode } from '../../src/markdown/tex.ts';
import { randomFrom } from './random.ts';

const flat = (of: MathNode | string): string => (typeof of === 'string' ? of : `${of.tag}(${of.parts.map(flat).join(' ')})`);
const read = (tex: string, display = false) => {
    const tree = readTex(tex, display);
    return tree && flat(tree);
};
const types = (text: string) => new Lexer(lexerOptions).lex(text).map((token) => token.type);

test('formulas become MathML', () => {
    for (const [tex, tree] of [
        ['x', 'mi(x)'],
        ['a_1^2', 'msubsup(mi(a) mn(1) mn(2))'],
        ["f''(x)", 'mrow(msup(mi(f) mrow(mo(′) mo(′))) mo(() mi(x) mo()))'],
        ['\\frac{n}{2.5}', 'mfrac(mi(n) mn(2.5))'],
        ['\\sqrt[3]{x}', 'mroot(mi(x) mn(3))'],
        ['\\alpha \\le \\infty', 'mrow(mi(α) mo(≤) mi(∞))'],
        ['\\mathbb{R}^n', 'msup(mi(ℝ) mi(n))'],
        ['\\text{if } x', 'mrow(mtext(if\u00a0) mi(x))'],
        ['\\left( x \\right.', 'mrow(mo(() mi(x) mo())'],
        ['\\sin^2 x', 'mrow(msup(mi(sin) mn(2)) mspace() mi(x))'],
        ['|x|', 'mrow(mo(|) mi(x) mo(|))'],
        ['\\log n', 'mrow(mi(log) mspace() mi(n))'],
        ['\\lim_{x \\to 0} x', 'mrow(msub(mi(lim) mrow(mi(x) mo(→) mn(0))) mspace() mi(x))'],
        ['\\begin{pmatrix} 1 & 0 \\\\ 0 & 1 \\end{pmatrix}', 'mrow(mo(() mtable(mtr(mtd(mn(1)) mtd(mn(0))) mtr(mtd(mn(0)) mtd(mn(1)))) mo()))'],
    ]) {
        assert.equal(read(tex!), tree, tex);
    }
    assert.equal(read('\\sum_{i=1}^n i', true), 'mrow(munderover(mo(∑) mrow(mi(i) mo(=) mn(1)) mi(n)) mi(i))');
    assert.equal(read('a &= b \\\\ &= c \\\\', true)!.match(/mtr/g)!.length, 2);
});

test('what is not understood is left alone', () => {
    for (const tex of ['\\foo', '{x', 'x}', 'x_1_2', '\\frac{1}', '\\left( x', '\\begin{tikz}x\\end{tikz}', '\\text{$\\x$}', '', '{'.repeat(90)]) {
        assert.equal(read(tex), null, tex);
    }
    assert.equal(read('x'.repeat(5000)), null);
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
    for (let i = 0; i < 3000; i++) readTex(Array.from({ length: random(20) }, () => pieces[random(pieces.length)]).join(''), i % 2 === 0);
});
