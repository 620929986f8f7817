/* guesses.test.ts - pieces are the text whatever the rounds say, and what came right is marked; trees show every guess once. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { labelOf, piecesOf, sumsOf, treeOf, type Round, type Run } from '../../src/guesses.ts';
import type { Token } from '../../src/wire.ts';
import { randomFrom } from './random.ts';

/* The right guesses as a chain, a wrong one beside the first. */
function round(at: number, right: Token[], bonus: Token): Round {
    const chain = right.map((token, i) => ({ parent: i, token, chance: 0.5, right: true, by: 'suffix' }));
    const wrong = { parent: 0, token: 'wrong', chance: 0.1, right: false, by: 'suffix' };
    return {
        ...{ at, r: 1, acc: right.length, bonus },
        nodes: [{ parent: -1, token: 'root', chance: 1, right: true, by: null }, ...chain, wrong],
    };
}

const show = (text: string, rounds: Round[]) =>
    piecesOf(text, rounds).map((piece) => `${piece.how[0]}${piece.round}:${piece.text}`);

test('pieces say how each part of the text came', () => {
    const rounds = [round(5, [' in', ' the'], ' end'), round(16, [], '.'), round(18, ['\n'], { name: '<end>' })];
    assert.deepEqual(show('Begin in the end.!\n', rounds), ['p-1:Begin', 'g0: in', 'g0: the', 'd0: end', 'd1:.', 'p-1:!', 'g2:\n']);
});

test('a space that the start of the text lost, and parts of a character', () => {
    assert.deepEqual(show('The end', [round(0, [' The'], ' end')]), ['g0:The', 'd0: end']);
    assert.deepEqual(show('a日b', [round(1, [[0xe6], [0x97, 0xa5]], 'b')]), ['p-1:a', 'g0:日', 'd0:b']);
    assert.deepEqual(show('a日b', [round(1, [[0xe6]], [0x97, 0xa5]), round(2, [], 'b')]), ['p-1:a', 'd0:日', 'd1:b']);
    assert.equal(labelOf([0xe6, 0x7]), 'e6 07');
    assert.equal(labelOf('\n\t x'), '↵⇥ x');
    assert.equal(labelOf('\n  '), '↵␣␣');
});

test('held back text stands before its round; a round whose text is not there marks nothing', () => {
    assert.deepEqual(show('ab-STxy', [round(2, ['x'], 'y')]), ['p-1:ab-ST', 'g0:x', 'd0:y']);
    assert.deepEqual(show('abc', [round(3, ['x'], 'y')]), ['p-1:abc']);
    assert.deepEqual(show('', [round(0, ['x'], 'y')]), []);
});

test('whatever the rounds claim, the pieces are the text', () => {
    const random = randomFrom(11);
    for (let i = 0; i < 2000; i++) {
        const text = Array.from({ length: random(40) }, () => 'ab 日'[random(4)]).join('');
        const some = (): Token => (random(3) === 0 ? [0xe6, 0x97].slice(random(2)) : text.slice(random(40), random(40)));
        const rounds = Array.from({ length: random(6) }, () => round(random(45), Array.from({ length: random(3) }, some), some()));
        const pieces = piecesOf(text, rounds);
        assert.equal(pieces.map((piece) => piece.text).join(''), text);
        assert.ok(pieces.every((piece, n) => n === 0 || piece.round < 0 || piece.round >= pieces[n - 1]!.round));
    }
});

test('the tree has the right way first, every guess once and the bonus at the end of the way', () => {
    const flat = (run: Run): string =>
        run.leaves.map((leaf) => `${leaf.kind[0]}:${labelOf(leaf.token)}`).join(' ') + run.forks.map((f) => `(${flat(f)})`).join('');
    assert.equal(flat(treeOf(round(0, ['a', 'b'], 'c'))), 'k:root(r:a r:b d:c)(w:wrong)');
    assert.equal(flat(treeOf(round(0, [], 'c'))), 'k:root(d:c)(w:wrong)');
    const forked = round(0, ['a'], 'c');
    const nodes = [...forked.nodes, { parent: 1, token: 'late', chance: 0.2, right: false, by: null }];
    assert.equal(flat(treeOf({ ...forked, nodes })), 'k:root(r:a(d:c)(w:late))(w:wrong)');
    assert.deepEqual(sumsOf([forked, round(0, ['a', 'b'], 'c')]), { rounds: 2, guessed: 5, right: 3, each: 2.5, by: [['suffix', 3]] });
});
