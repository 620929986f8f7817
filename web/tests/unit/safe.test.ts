/* safe.test.ts - links lead only where they may, references become text, highlighter output becomes a tree or nothing. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import hljs from 'highlight.js/lib/core';
import c from 'highlight.js/lib/languages/c';
import { decodeEntities, hostOf, safeHref } from '../../src/markdown/safe.ts';
import { readSpans, textOf } from '../../src/markdown/spans.ts';
import { languageLabel, languageOf } from '../../src/markdown/highlight.ts';

test('only http, https and mailto are followed', () => {
    assert.equal(safeHref('https://example.org/a?b=1&amp;c=2'), 'https://example.org/a?b=1&c=2');
    assert.equal(safeHref('HTTP://EXAMPLE.org'), 'http://example.org/');
    assert.equal(safeHref('mailto:a@b.example'), 'mailto:a@b.example');
    for (const bad of [
        'javascript:alert(1)',
        'JaVaScRiPt:alert(1)',
        ' javascript:alert(1)',
        'java\tscript:alert(1)',
        'java\nscript:x',
        '\u0001javascript:x',
        'java&#115;cript:alert(1)',
        'javascript&#58;alert(1)',
        '&#x6A;avascript:x',
        'data:text/html,x',
        'vbscript:x',
        'file:///etc/passwd',
        'blob:https://a/b',
        '/health',
        'health',
        '//evil.example',
        '',
        '#x',
        'http://',
    ]) {
        assert.equal(safeHref(bad), null, JSON.stringify(bad));
    }
    assert.equal(hostOf('https://evil.example/p.png'), 'evil.example');
    assert.equal(hostOf('nonsense'), 'image');
});

test('character references become characters once, unknown ones stay', () => {
    assert.equal(
        decodeEntities('&lt;b&gt; &amp;amp; &#65;&#x41; &copy; &unknown; &constructor; & &;'),
        '<b> &amp; AA © &unknown; &constructor; & &;',
    );
    assert.equal(decodeEntities('&#0; &#xD800; &#1114112;'), '\ufffd \ufffd \ufffd');
});

test('highlighted code keeps its text, character by character', () => {
    hljs.registerLanguage('c', c);
    const code = '#include <a.h>\nint main(void) { return "&amp;\'<"[0] > 1 && x; } /* é 日本 🙂 */\n';
    const parts = readSpans(hljs.highlight(code, { language: 'c' }).value);
    assert.ok(parts);
    assert.equal(textOf(parts), code);
    assert.ok(parts.some((part) => typeof part !== 'string'));
});

test('anything but plain spans is refused', () => {
    for (const bad of [
        '<b>x</b>',
        '<span class="a" onclick="x">y</span>',
        '<span class="a">open',
        'x</span>',
        '<img src=x>',
        '&nbsp;',
        '<span class="a"b">x</span>',
    ]) {
        assert.equal(readSpans(bad), null, bad);
    }
    assert.deepEqual(readSpans(''), []);
});

test('language names are recognised and shown', () => {
    assert.deepEqual(['py', 'C++ title=x', 'js{1,2}', 'html', '', 'brainfuck'].map(languageOf), [
        'python',
        'cpp',
        'javascript',
        'xml',
        '',
        'brainfuck',
    ]);
    assert.deepEqual(['py', 'html', '', 'sh', 'constructor'].map(languageLabel), [
        'Python',
        'HTML',
        'Text',
        'Shell',
        'constructor',
    ]);
});
