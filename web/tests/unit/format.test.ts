/* format.test.ts - groups of days, numbers and settings. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dayGroup, formatContext, formatMs, formatRate } from '../../src/format.ts';

test('conversations stand under the right day', () => {
    const now = new Date(2026, 10, 23, 9, 30).getTime();
    const at = (...date: [number, number, number, number]) => dayGroup(new Date(...date).getTime(), now);
    assert.equal(at(2026, 10, 23, 0), 'Today');
    assert.equal(at(2026, 10, 22, 23), 'Yesterday');
    assert.equal(at(2026, 10, 20, 12), 'Previous 7 days');
    assert.equal(at(2026, 10, 1, 12), 'Previous 30 days');
    assert.match(at(2026, 2, 1, 12), /March|^\p{L}+$/u);
    assert.match(at(2024, 2, 1, 12), /2024/);
    assert.equal(dayGroup(now + 3_600_000, now), 'Today');
});

test('numbers read well at every size', () => {
    assert.equal(formatMs(0.4), '0 ms');
    assert.equal(formatMs(180.4), '180 ms');
    assert.equal(formatMs(2345), '2.3 s');
    assert.equal(formatMs(125_000), '2 min 5 s');
    assert.equal(formatRate(41.23), '41.2');
    assert.equal(formatRate(361.4), '361');
    assert.equal(formatContext(8192), '8k');
    assert.equal(formatContext(512), '512');
});
