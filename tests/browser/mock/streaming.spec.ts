/* streaming.spec.ts - a growing answer looks from the first character like the finished one, and finished parts of it are left
 * alone. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ask, begun, lastAnswer, over, proseHtml, say } from '../page.ts';
import { expect, test } from './fixture.ts';

const FENCE = '```';

const CORPUS = [
    '/markdown',
    '/code',
    '/cjk',
    `/echo # Title\n\n1. one\n   - a\n   - b\n\n     para\n2. two\n\n> quote **bold**\n> - list\n\n${FENCE}js\nlet a = "<b>";\n${FENCE}\n\ntail`,
    '/echo | a | b |\n|:--|--:|\n| 1 | `|` |\n| **x** | [l](https://e.example) |\n\nafter *em* ***both*** __str__ ~~del~~ &amp; &copy;',
    `/echo use [late] here\n\ntext\n\n[late]: https://late.example "t"\n\n${FENCE}\nnever closed\n# no heading`,
    '/echo a $x_1$ b \\(y*z\\)\n\n\\[\n\\frac{1}{2}\n\\]\n\n$$\nopen_1',
    '/echo - [ ] a\n- [x] b\n\nSetext\n===\n\nline  \nbreak\n\n---\n\n![pic](https://h.example/p.png) <b>raw</b>',
];

for (const [i, text] of CORPUS.entries()) {
    test(`the finished stream is the same document as the text loaded at once (${i + 1})`, async ({ page }) => {
        await ask(page, text);
        const streamed = await proseHtml(page);
        await page.reload();
        await expect(lastAnswer(page)).toBeVisible();
        expect(streamed).toBe(await proseHtml(page));
        expect(streamed.length).toBeGreaterThan(50);
    });
}

test('a long real document, streamed fast, is the same too', async ({ page }) => {
    const document = readFileSync(join(__dirname, '../../../web/node_modules/ws/README.md'), 'utf8');
    await ask(page, `/echo ${document}`);
    const streamed = await proseHtml(page);
    await page.reload();
    await expect(lastAnswer(page)).toBeVisible();
    expect(streamed).toBe(await proseHtml(page));
});

test('frozen blocks get no mutation; the copy button keeps its identity; a selection survives', async ({ page }) => {
    await say(
        page,
        `/echo First paragraph to select.\n\n${FENCE}c\nint x = 1;\n${FENCE}\n\n${'More words follow here. '.repeat(300)}`,
    );
    await begun(page);
    const code = lastAnswer(page).locator('figure.code');
    await expect(code).toBeVisible();
    await page.waitForFunction(() => document.querySelector('.prose code .hljs-type, .prose code .hljs-number') !== null);
    await page.evaluate(() => {
        const state = window as unknown as { mutations: number; button: Element };
        state.mutations = 0;
        state.button = document.querySelector('.prose .copy')!;
        const observer = new MutationObserver((records) => (state.mutations += records.length));
        const blocks = [...document.querySelectorAll('.prose > *')].slice(0, 2);
        for (const block of blocks)
            observer.observe(block, { subtree: true, childList: true, characterData: true, attributes: true });
        getSelection()!.selectAllChildren(blocks[0]!);
    });
    await over(page);
    const after = await page.evaluate(() => {
        const state = window as unknown as { mutations: number; button: Element };
        return {
            mutations: state.mutations,
            same: state.button === document.querySelector('.prose .copy'),
            selected: String(getSelection()),
        };
    });
    expect(after).toEqual({ mutations: 0, same: true, selected: 'First paragraph to select.' });
});

/* What the page makes of every length of this text is a unit test's subject (web/tests/unit/blocks.test.ts): how many of them are drawn is
 * the machine's affair. This one looks at what is on the screen. */
test('text never flickers: no marker shows before it is emphasis, no fence before it is code', async ({ page }) => {
    await page.evaluate(() => {
        const state = window as unknown as { seen: Set<string> };
        state.seen = new Set();
        new MutationObserver(() => {
            for (const prose of document.querySelectorAll('.answer .prose')) state.seen.add((prose as HTMLElement).innerText);
        }).observe(document.body, { subtree: true, childList: true, characterData: true });
    });
    await ask(
        page,
        `/type Some **bold words here** and \`code spans\`.\n\n${FENCE}js\nlet a = 1;\n${FENCE}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Heading two\n\n1. first\n2. second`,
    );
    const seen = await page.evaluate(() => [...(window as unknown as { seen: Set<string> }).seen]);
    expect(seen.length).toBeGreaterThan(3);
    for (const text of seen) expect(text).not.toMatch(/\*|`|\||#|---/);
});

test('code is copied as it was written', async ({ page, context }) => {
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await ask(page, '/code');
    await page.locator('figure.code .copy').click();
    await expect(page.locator('figure.code .copy')).toHaveText('Copied');
    expect(await page.evaluate(() => navigator.clipboard.readText())).toContain('    for (int i = 1; i < argc; i++) {\n');
    await expect(page.locator('figure.code .language')).toHaveText('C');
});

test('a long fast answer leaves the page responsive', async ({ page }) => {
    await page.evaluate(() => {
        const state = window as unknown as { longest: number };
        state.longest = 0;
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) state.longest = Math.max(state.longest, entry.duration);
        }).observe({ entryTypes: ['longtask'] });
    });
    await ask(page, '/long 6000');
    const longest = await page.evaluate(() => (window as unknown as { longest: number }).longest);
    console.log(`longest task while streaming 6000 words: ${Math.round(longest)} ms`);
    expect((await lastAnswer(page).locator('.prose').innerText()).split(/\s+/).length).toBe(6000);
});
