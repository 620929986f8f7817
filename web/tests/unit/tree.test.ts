/* tree.test.ts - branches: the way shown, its siblings, what opens when one turns to another branch. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newestLeaf, newestLeafBelow, pathTo, siblingsOf } from '../../src/tree.ts';
import type { Message } from '../../src/wire.ts';

function build(...rows: [id: string, parent: string | null, ts: number][]): Map<string, Message> {
    return new Map(
        rows.map(([id, parent, ts]) => [
            id,
            {
                id,
                parent,
                role: id.startsWith('u') ? 'user' : 'assistant',
                text: id,
                ts,
                st: 'done',
                g: null,
                usage: null,
                why: null,
                err: null,
            },
        ]),
    );
}
const ids = (messages: Message[]) => messages.map((message) => message.id).join(' ');

const tree = build(
    ['u1', null, 1],
    ['a1', 'u1', 2],
    ['a2', 'u1', 3],
    ['u2', 'a1', 4],
    ['a3', 'u2', 5],
    ['u3', 'a1', 6],
    ['a4', 'u3', 7],
    ['u4', 'a2', 3.5],
);

test('the way runs from the root to the leaf', () => {
    assert.equal(ids(pathTo(tree, 'a4')), 'u1 a1 u3 a4');
    assert.equal(ids(pathTo(tree, null)), '');
    assert.equal(ids(pathTo(tree, 'gone')), '');
});

test('a page that lacks the older messages gives the way it has', () => {
    assert.equal(ids(pathTo(build(['a1', 'missing', 2], ['u2', 'a1', 3]), 'u2')), 'a1 u2');
});

test('siblings share parent and role, oldest first', () => {
    assert.equal(ids(siblingsOf(tree, tree.get('a2')!)), 'a1 a2');
    assert.equal(ids(siblingsOf(tree, tree.get('u3')!)), 'u2 u3');
    assert.equal(ids(siblingsOf(tree, tree.get('u1')!)), 'u1');
});

test('turning to a branch opens its newest end; the newest message of all opens first', () => {
    assert.equal(newestLeafBelow(tree, 'a1'), 'a4');
    assert.equal(newestLeafBelow(tree, 'u2'), 'a3');
    assert.equal(newestLeafBelow(tree, 'a2'), 'u4');
    assert.equal(newestLeaf(tree), 'a4');
    assert.equal(newestLeaf(new Map()), null);
});

test('a circle among the parents ends instead of hanging', () => {
    const circle = build(['u1', 'a1', 1], ['a1', 'u1', 2]);
    assert.equal(pathTo(circle, 'a1').length, 2);
    assert.ok(['u1', 'a1'].includes(newestLeafBelow(circle, 'u1')));
});
