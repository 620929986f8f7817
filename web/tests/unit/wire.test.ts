/* wire.test.ts - only frames of the right shape pass, and nothing in them is of another type than it says. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readConversations, readFrame, readHistory, readTurn, writeFrame } from '../../src/wire.ts';
import { randomFrom } from './random.ts';

const read = (value: unknown) => readFrame(typeof value === 'string' ? value : JSON.stringify(value), () => undefined);
const message = { id: 'm', parent: null, role: 'assistant', text: 'hi', ts: 5, st: 'done' };

const ROUND = [
    [-1, 'a', 1, 1, null],
    [0, [226, 156], 0.5, 1, 'suffix'],
];

test('the frames of the protocol are read', () => {
    assert.deepEqual(read({ t: 'd', g: 'g', s: 2, n: 3, x: 'abc', tok: 3 }), {
        ...{ t: 'd', g: 'g', s: 2, n: 3, x: 'abc', tok: 3, acc: 0 },
    });
    assert.deepEqual(read({ t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: { name: '<end>' }, nodes: ROUND }), {
        ...{ t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: { name: '<end>' } },
        nodes: [
            { parent: -1, token: 'a', chance: 1, right: true, by: null },
            { parent: 0, token: [226, 156], chance: 0.5, right: true, by: 'suffix' },
        ],
    });
    const msg = read({ t: 'msg', conv: 'c', m: { ...message, g: 'g', usage: { in: 1, out: 2 }, why: 'stop' } });
    assert.ok(
        msg?.t === 'msg' && msg.m.usage?.out === 2 && msg.m.usage.seed === null && msg.m.why === 'stop' && msg.m.err === null,
    );
    assert.deepEqual(read({ t: 'conv', conv: 'c', deleted: true }), { t: 'conv_gone', id: 'c' });
    assert.deepEqual(read({ t: 'conv', c: { id: 'c', title: 't', ts: 1, live: null } }), {
        t: 'conv',
        c: { id: 'c', title: 't', ts: 1, live: null },
    });
    const welcome = read({
        t: 'welcome',
        v: 1,
        sid: 's',
        user: { name: 'ada', admin: true },
        model: { name: 'm', ctx: 8192, quant: null },
        server: { version: '1', node: 'n' },
        hb_ms: 25000,
        max_frame: 262144,
        now: 1,
    });
    assert.ok(welcome?.t === 'welcome' && welcome.model.quant === '' && !welcome.user.learn);
    assert.deepEqual(read({ t: 'learn', on: true }), { t: 'learn', on: true });
    const failed = read({
        t: 'done',
        g: 'g',
        s: 4,
        why: 'error',
        usage: null,
        len: 0,
        crc: '00000000',
        err: { code: 5001, msg: 'x' },
    });
    assert.ok(failed?.t === 'done' && failed.err?.code === 5001);
});

test('an object where text belongs is refused (the shape of CVE-2026-22028)', () => {
    const node = { type: 'img', props: { src: 'x', onerror: 'alert(1)' }, __v: 1 };
    assert.equal(read({ t: 'd', g: 'g', s: 1, n: 1, x: node, tok: 1 }), null);
    assert.equal(read({ t: 'msg', conv: 'c', m: { ...message, text: node } }), null);
    assert.equal(read({ t: 'conv', c: { id: 'c', title: node, ts: 1, live: null } }), null);
    assert.equal(read({ t: 'err', id: null, code: 1, msg: node }), null);
    assert.equal(read({ t: 'snap', g: 'g', upto: 1, x: [node], st: 'running' }), null);
});

test('wrong types, ranges and words are refused', () => {
    for (const bad of [
        'not json',
        '[]',
        'null',
        '3',
        '"t"',
        '{"t":3}',
        '{}',
        { t: 'd', g: 'g', s: 0, n: 1, x: '', tok: 0 },
        { t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: 'b', nodes: [] },
        { t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: [300], nodes: ROUND },
        { t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: 'b', nodes: [ROUND[0], [1, 'b', 0.5, 0, 'suffix']] },
        { t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: 'b', nodes: [ROUND[0], [0, {}, 0.5, 0, 'suffix']] },
        { t: 'trace', g: 'g', s: 4, r: 2, acc: 1, bonus: 'b', nodes: [ROUND[0], null] },
        { t: 'd', g: 'g', s: 1.5, n: 1, x: '', tok: 0 },
        { t: 'd', g: 'g', s: 1, n: 0, x: '' },
        { t: 'd', s: 1, n: 1, x: '' },
        { t: 'done', g: 'g', s: 1, why: 'bored', len: 0, crc: '' },
        { t: 'snap', g: 'g', upto: 1, x: '', st: 'lost' },
        { t: 'msg', conv: 'c', m: { ...message, role: 'system' } },
        { t: 'msg', conv: 'c', m: { ...message, ts: '5' } },
        { t: 'msg', conv: 'c' },
        { t: 'ok' },
        { t: 'ping' },
        { t: 'drain', after_ms: 'soon' },
        { t: '__proto__' },
        { t: 'unheard of' },
    ]) {
        assert.equal(read(bad), null, JSON.stringify(bad));
    }
    assert.equal(
        readFrame(new ArrayBuffer(4), () => undefined),
        null,
    );
});

test('answers to requests are read or refused as a whole', () => {
    assert.deepEqual(readTurn({ conv: 'c', msg: 'm', ans: 'a', g: 'g' }), { conv: 'c', msg: 'm', ans: 'a', g: 'g' });
    assert.deepEqual(readTurn({ conv: 'c', ans: 'a', g: 'g' }).msg, null);
    assert.equal(readHistory({ conv: 'c', title: 't', msgs: [message], more: true }).msgs.length, 1);
    assert.throws(() => readHistory({ conv: 'c', title: 't', msgs: [message, {}], more: true }));
    assert.throws(() => readConversations({ convs: 'all' }));
    assert.throws(() => readTurn({ conv: 'c', msg: 'm', ans: 7, g: 'g' }));
});

test('what goes out holds no character that JSON of the server refuses', () => {
    const sent = JSON.parse(writeFrame({ t: 'send', n: 1, text: 'a\0b \ud83d\ude42 \ud83d \ude42', gen: { system: '\0' } })) as unknown;
    assert.deepEqual(sent, { t: 'send', n: 1, text: 'ab \ud83d\ude42 \ufffd \ufffd', gen: { system: '' } });
});

test('random damage never passes as something else and never throws', () => {
    const seed = 7;
    const random = randomFrom(seed);
    const whole = JSON.stringify({ t: 'msg', conv: 'c', m: { ...message, usage: { in: 1 }, err: { code: 1, msg: 'x' } } });
    for (let i = 0; i < 5000; i++) {
        const at = random(whole.length);
        const damaged = whole.slice(0, at) + String.fromCharCode(32 + random(95)) + whole.slice(at + 1 + random(3));
        const frame = read(damaged);
        if (frame?.t === 'msg') assert.equal(typeof frame.m.text, 'string', `seed ${seed}: ${damaged}`);
    }
});
