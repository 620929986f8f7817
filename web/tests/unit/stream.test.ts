/* stream.test.ts - every event is applied exactly once and in order, whatever the order and number of its arrivals. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32c, crcText } from '../../src/crc32c.ts';
import { applyEvent, newStream, statusOf, type Stream } from '../../src/stream.ts';
import type { StreamEvent, Why } from '../../src/wire.ts';
import { randomFrom } from './random.ts';

const utf8 = new TextEncoder();
const sum = (text: string) => crcText(crc32c(utf8.encode(text)));
const delta = (s: number, n: number, x: string): StreamEvent => ({ t: 'd', g: 'g', s, n, x, tok: n, acc: 0 });
const start = (base = 0): StreamEvent => ({ t: 'start', g: 'g', s: 1, conv: 'c', msg: 'm', parent: null, base, ts: 1 });
const done = (s: number, text: string, why: Why = 'stop'): StreamEvent => ({
    t: 'done',
    g: 'g',
    s,
    why,
    usage: null,
    len: utf8.encode(text).length,
    crc: sum(text),
    err: null,
});

function play(stream: Stream, events: StreamEvent[]): { stream: Stream; outcomes: string[] } {
    const outcomes: string[] = [];
    for (const event of events) {
        const [next, outcome] = applyEvent(stream, event);
        stream = next;
        outcomes.push(outcome);
    }
    return { stream, outcomes };
}

test('crc32c gives the published check value and goes on where it stopped', () => {
    assert.equal(crcText(crc32c(utf8.encode('123456789'))), 'e3069283');
    assert.equal(crcText(crc32c(new Uint8Array(32))), '8a9136aa');
    assert.equal(crc32c(utf8.encode('6789'), crc32c(utf8.encode('12345'))), crc32c(utf8.encode('123456789')));
    assert.equal(crcText(crc32c(new Uint8Array())), '00000000');
});

test('an answer in order ends whole', () => {
    const { stream, outcomes } = play(newStream('g', ''), [
        start(),
        delta(2, 1, 'Hel'),
        delta(3, 2, 'lo né'),
        done(5, 'Hello né'),
    ]);
    assert.deepEqual(outcomes, ['applied', 'applied', 'applied', 'applied']);
    assert.equal(stream.text, 'Hello né');
    assert.equal(stream.tokens, 3);
    assert.equal(stream.end?.st, 'done');
});

test('doubled and older events change nothing', () => {
    const events = [start(), delta(2, 2, 'ab'), delta(2, 2, 'ab'), delta(3, 1, 'b'), start(), delta(4, 1, 'c')];
    const { stream, outcomes } = play(newStream('g', ''), events);
    assert.deepEqual(outcomes, ['applied', 'applied', 'dropped', 'dropped', 'dropped', 'applied']);
    assert.equal(stream.text, 'abc');
});

test('a gap and a partly known delta wait for the missing events', () => {
    const { stream, outcomes } = play(newStream('g', ''), [
        start(),
        delta(3, 1, 'b'),
        delta(2, 1, 'a'),
        delta(2, 3, 'abc'),
        delta(3, 1, 'b'),
    ]);
    assert.deepEqual(outcomes, ['applied', 'gap', 'applied', 'gap', 'applied']);
    assert.equal(stream.text, 'ab');
});

test('nothing is applied after the end', () => {
    const { stream, outcomes } = play(newStream('g', ''), [
        start(),
        delta(2, 1, 'a'),
        done(3, 'a'),
        delta(4, 1, 'b'),
        done(4, 'a'),
    ]);
    assert.deepEqual(outcomes.slice(3), ['dropped', 'dropped']);
    assert.equal(stream.text, 'a');
});

test("a text that is not the server's is found out at the end", () => {
    assert.equal(play(newStream('g', ''), [start(), delta(2, 1, 'a'), done(3, 'b')]).outcomes[2], 'mismatch');
    assert.equal(play(newStream('g', ''), [start(), delta(2, 1, 'a'), done(3, 'aa')]).outcomes[2], 'mismatch');
    const upper = { ...done(3, 'a'), crc: sum('a').toUpperCase() } as StreamEvent;
    assert.equal(play(newStream('g', ''), [start(), delta(2, 1, 'a'), upper]).outcomes[2], 'applied');
});

test('a continued answer builds on what stood there, and a wrong base is found out at the start', () => {
    const base = 'Grüße ';
    const { stream, outcomes } = play(newStream('g', base), [
        start(utf8.encode(base).length),
        delta(2, 1, 'da'),
        done(3, `${base}da`),
    ]);
    assert.deepEqual(outcomes, ['applied', 'applied', 'applied']);
    assert.equal(stream.text, 'Grüße da');
    assert.equal(play(newStream('g', ''), [start(7)]).outcomes[0], 'mismatch');
});

test('prefill and trimming are states, not text', () => {
    const { stream } = play(newStream('g', ''), [
        start(),
        { t: 'state', g: 'g', s: 2, st: 'trimmed', dropped: 4 },
        { t: 'state', g: 'g', s: 3, st: 'prefill', done: 512, total: 2048 },
        { t: 'state', g: 'g', s: 4, st: 'other' },
    ]);
    assert.deepEqual(stream.prefill, { done: 512, total: 2048 });
    assert.equal(stream.trimmed, 4);
    assert.equal(stream.last, 4);
    assert.equal(stream.started, false);
});

test('a snapshot stands for all events up to its number; the events after it go on', () => {
    const snap: StreamEvent = { t: 'snap', g: 'g', upto: 9, x: 'half a ', st: 'running', why: null };
    const { stream, outcomes } = play(newStream('g', ''), [
        start(),
        delta(2, 1, 'ha'),
        snap,
        delta(9, 1, 'x'),
        delta(10, 1, 'text'),
        done(11, 'half a text'),
    ]);
    assert.deepEqual(outcomes, ['applied', 'applied', 'applied', 'dropped', 'applied', 'applied']);
    assert.equal(stream.text, 'half a text');
    const over = play(newStream('g', ''), [{ ...snap, st: 'interrupted', why: 'interrupted' } as StreamEvent]);
    assert.equal(over.stream.end?.st, 'interrupted');
    const older = play(newStream('g', ''), [start(), delta(2, 9, 'all of it'), { ...snap, upto: 5 } as StreamEvent]);
    assert.equal(older.outcomes[2], 'dropped');
});

test('every reason of ending has its status', () => {
    const all: Why[] = ['stop', 'length', 'context', 'cancel', 'error', 'interrupted'];
    assert.deepEqual(all.map(statusOf), ['done', 'length', 'length', 'stopped', 'error', 'interrupted']);
});

/* The server resends from last + 1 after each gap; frames are lost, doubled and merged at random. */
test('a thousand broken deliveries give the exact text', () => {
    const seed = 20261123;
    const random = randomFrom(seed);
    const alphabet = ['a', ' ', 'é', '日', '🙂', '\n', '**', '`'];
    for (let round = 0; round < 1000; round++) {
        const pieces = Array.from({ length: 1 + random(40) }, () => alphabet[random(alphabet.length)]!);
        const text = pieces.join('');
        const from = (s: number): StreamEvent[] => {
            const events: StreamEvent[] = s <= 1 ? [start()] : [];
            for (let at = Math.max(2, s); at < pieces.length + 2;) {
                const n = Math.min(1 + random(5), pieces.length + 2 - at);
                events.push(delta(at, n, pieces.slice(at - 2, at - 2 + n).join('')));
                at += n;
            }
            return [...events, done(pieces.length + 2, text)];
        };
        let stream = newStream('g', '');
        for (let tries = 0; !stream.end; tries++) {
            assert.ok(tries < 500, `seed ${seed}, round ${round}: no end`);
            for (const event of from(tries === 0 ? 1 : stream.last + 1 - random(Math.min(3, stream.last + 1)))) {
                if (random(10) === 0) continue; // lost
                for (let copies = random(8) === 0 ? 2 : 1; copies > 0; copies--) {
                    const [next, outcome] = applyEvent(stream, event);
                    assert.notEqual(outcome, 'mismatch', `seed ${seed}, round ${round}`);
                    stream = next;
                }
            }
        }
        assert.equal(stream.text, text, `seed ${seed}, round ${round}`);
    }
});
