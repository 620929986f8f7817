/* blocks.test.ts - a text that grew gives block for block what the whole text gives, and a frozen block's object never changes.
 * */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Token, Tokens } from 'marked';
import { fenceIsClosed, GrowingMarkdown, type Block } from '../../src/markdown/blocks.ts';
import { closeSpans, repairTail } from '../../src/markdown/tail.ts';
import { constructs, corpus } from './corpus.ts';
import { randomFrom } from './random.ts';

const shape = (blocks: Block[]) => blocks.map(({ key, raw, token }) => JSON.stringify([key, raw, token]));

function grow(text: string, steps: () => number): { final: Block[]; frozenMoved: string | null } {
    const growing = new GrowingMarkdown();
    let frozen: Block[] = [];
    let frozenMoved: string | null = null;
    for (let at = 0; at < text.length;) {
        at = Math.min(text.length, at + steps());
        const blocks = growing.update(text.slice(0, at), false);
        frozen.forEach((block, i) => {
            if (blocks[i] !== block) frozenMoved ??= `block ${i} (${block.raw.slice(0, 30)}) at ${at}`;
        });
        frozen = blocks.filter((block) => block.closed);
    }
    return { final: growing.update(text, true), frozenMoved };
}

for (const size of [1, 7, 64]) {
    test(`grown in pieces of ${size}: equal to the whole, frozen blocks untouched`, () => {
        for (const text of corpus) {
            if (size === 1 && text.length > 8000) continue; // the longer ones in larger pieces
            const whole = new GrowingMarkdown().update(text, true);
            const { final, frozenMoved } = grow(text, () => size);
            assert.deepEqual(shape(final), shape(whole), JSON.stringify(text.slice(0, 80)));
            assert.equal(frozenMoved, null, JSON.stringify(text.slice(0, 80)));
        }
    });
}

test('random combinations in random pieces: what is frozen is what the whole text has there', () => {
    const seed = 4711;
    const random = randomFrom(seed);
    for (let round = 0; round < 400; round++) {
        const text = Array.from({ length: 1 + random(6) }, () => constructs[random(constructs.length)]!).join(
            random(2) ? '\n' : '',
        );
        const clean = text.replace(/\r\n?/g, '\n');
        const whole = new Map(new GrowingMarkdown().update(text, true).map((block) => [block.key, block.raw]));
        const growing = new GrowingMarkdown();
        for (let at = 0; at < clean.length;) {
            at = Math.min(clean.length, at + 1 + random(30));
            for (const block of growing.update(clean.slice(0, at), false)) {
                if (!block.closed || /^ {0,3}\[[^\]]+\]:/m.test(clean)) continue; // definitions may be lexed apart from their paragraph
                assert.equal(whole.get(block.key), block.raw, `seed ${seed}, round ${round}: ${JSON.stringify(text)}`);
            }
        }
        const { final } = grow(text, () => 1 + random(30));
        assert.deepEqual(shape(final), shape(new GrowingMarkdown().update(text, true)), `seed ${seed}, round ${round}`);
    }
});

test('blocks that were frozen keep their object when the text is complete', () => {
    const growing = new GrowingMarkdown();
    const [first] = growing.update('One.\n\nTwo.\n\nThr', false);
    assert.ok(first?.closed);
    assert.equal(growing.update('One.\n\nTwo.\n\nThree.', true)[0], first);
});

test('a link that is defined later is a link at the end', () => {
    const { final } = grow('see [it]\n\ntext\n\n[it]: https://x.example\n', () => 3);
    assert.match(JSON.stringify(final[0]!.token), /"type":"link"/);
});

test('another text begins anew', () => {
    const growing = new GrowingMarkdown();
    growing.update('One.\n\nTwo.\n\nThree.', false);
    assert.deepEqual(shape(growing.update('Other.', true)), shape(new GrowingMarkdown().update('Other.', true)));
});

test('a half-written line does not show as what it is not', () => {
    for (const [text, shown] of [
        ['a\n``', 'a\n'],
        ['a\n```py', 'a\n'],
        ['a\n-', 'a\n'],
        ['a\n==', 'a\n'],
        ['a\n\n#', 'a\n\n'],
        ['a\n\n1.', 'a\n\n'],
        ['a\n\n| x', 'a\n\n'],
        ['a\n\n| x |\n', 'a\n\n'],
        ['a\n\n| x |\n|--', 'a\n\n'],
        ['| x |\n|---|\n', '| x |\n|---|\n'],
        ['| x |\n|---|\n| 1', '| x |\n|---|\n| 1'],
        ['```\ncode\n``', '```\ncode\n'],
        ['```\n- x', '```\n- x'],
        ['text <di', 'text <di'],
        ['a\n<div', 'a\n'],
        ['- [ ', ''],
    ] as const) {
        assert.equal(repairTail(text), shown, JSON.stringify(text));
    }
});

/* The words that a reader sees of a block. */
function visible(token: Token): string {
    if (token.type === 'table') return [token.header, ...token.rows].flat().map((cell: Tokens.TableCell) => cell.tokens.map(visible).join('')).join(' ');
    const children: Token[] | undefined = token.type === 'list' ? token.items : 'tokens' in token ? token.tokens : undefined;
    if (children) return children.map(visible).join('');
    return 'text' in token ? token.text : token.raw;
}

test('no marker shows at any length, whatever was drawn before', () => {
    const text =
        'Some **bold words here** and `code spans`.\n\n```js\nlet a = 1;\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Heading two\n\n1. first\n2. second';
    for (let before = 0; before <= text.length; before++) {
        for (let at = before; at <= text.length; at++) {
            const growing = new GrowingMarkdown();
            growing.update(text.slice(0, before), false);
            const shown = growing.update(text.slice(0, at), false).map(({ token }) => visible(token)).join('\n');
            assert.doesNotMatch(shown, /\*|`|\||#|---/, `${before}, then ${at} characters`);
        }
    }
});

test('what is open at the end of a line is closed, what may open is not shown', () => {
    for (const [line, closed] of [
        ['a **b', 'a **b**'],
        ['a **', 'a '],
        ['a *b', 'a *b*'],
        ['a **b** c', 'a **b** c'],
        ['a ***b', 'a ***b***'],
        ['`x', '`x`'],
        ['a `', 'a '],
        ['**a `b', '**a `b`**'],
        ['~~a', '~~a~~'],
        ['2 * 3', '2 * 3'],
        ['snake_case', 'snake_case'],
        ['a [b', 'a b'],
        ['a [b](http://x', 'a b'],
        ['a [b](http://x)', 'a [b](http://x)'],
        ['a ![b](http://x', 'a '],
        ['\\*a', '\\*a'],
        ['a **b [c', 'a **b c**'],
        ['``a`b', '``a`b``'],
    ] as const) {
        assert.equal(closeSpans(line), closed, JSON.stringify(line));
    }
});

test('closed and open fences are told apart', () => {
    assert.equal(fenceIsClosed('```js\nx\n```'), true);
    assert.equal(fenceIsClosed('```js\nx\n'), false);
    assert.equal(fenceIsClosed('````\n```\n'), false);
    assert.equal(fenceIsClosed('````\n```\n````\n'), true);
    assert.equal(fenceIsClosed('~~~\n```\n'), false);
    assert.equal(fenceIsClosed('```'), false);
    assert.equal(fenceIsClosed('    indented'), true);
});
