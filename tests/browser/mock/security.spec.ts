/* security.spec.ts - text is never anything but text, wherever it comes from; nothing is fetched from elsewhere. The fixture
 * fails each test on a CSP violation, a dialog, an uncaught error or a foreign request. */
import { answers, ask, composer, lastAnswer, say } from '../page.ts';
import { expect, test } from './fixture.ts';

const hacked = (page: import('@playwright/test').Page) =>
    page.evaluate(() => (window as unknown as { hacked?: number }).hacked ?? null);

test('hostile Markdown in an answer, a question and a title stays text', async ({ page, mock }) => {
    await ask(page, '/xss');
    await say(page, '<img src=x onerror="window.hacked=20"><script>window.hacked=21</script>');
    await expect(answers(page)).toHaveCount(2);
    await page.reload();
    await expect(answers(page)).toHaveCount(2);
    expect(await hacked(page)).toBeNull();
    const inside = await page.evaluate(() => ({
        elements: [
            ...document.querySelectorAll(
                '.transcript :is(script, img, svg:not(.icon), iframe, object, embed, form, style, link)',
            ),
        ].length,
        links: [...document.querySelectorAll<HTMLAnchorElement>('.transcript a')].map((a) => [a.protocol, a.rel, a.target]),
        handlers: [...document.querySelectorAll('.transcript *')].filter((el) =>
            el.getAttributeNames().some((name) => name.startsWith('on')),
        ).length,
    }));
    expect(inside.elements).toBe(0);
    expect(inside.handlers).toBe(0);
    for (const link of inside.links)
        expect(link).toEqual([expect.stringMatching(/^https?:|^mailto:/), 'noopener noreferrer', '_blank']);
    await expect(lastAnswer(page)).toBeVisible();
    await expect(page.locator('.answer').first()).toContainText('<script>window.hacked = 1</script>');
    await expect(page.locator('.chip').first()).toContainText('evil.example');
    const title = '<img src=x onerror=window.hacked=30>';
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill(title);
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText(title);
    await expect(page.locator('.row.open')).toContainText(title);
    expect(await hacked(page)).toBeNull();
    await mock.act('drop');
});

test('a frame with an object where text belongs is refused and the page lives on', async ({ page, mock }) => {
    await ask(page, 'hello');
    const node = { type: 'img', props: { src: 'x', onerror: 'window.hacked=40' }, key: null, ref: null, __k: null, __v: 1 };
    for (const frame of [
        { t: 'msg', conv: 'x', m: { id: 'a', parent: null, role: 'user', text: node, ts: 1, st: 'done' } },
        { t: 'conv', c: { id: 'c'.repeat(32), title: node, ts: Date.now(), live: null } },
        { t: 'err', id: null, code: 1, msg: node },
        { t: 'd', g: node, s: 1, n: 1, x: node },
    ]) {
        await mock.act('push', JSON.stringify(frame));
    }
    for (const garbage of ['', '{', '[]', 'null', '{"t":"welcome"}', '{"t":"__proto__"}']) await mock.act('push', garbage);
    await ask(page, 'still here?');
    expect(await hacked(page)).toBeNull();
    await expect(page.locator('.row')).toHaveCount(1);
});

test('the page is served with a policy that allows neither inline code nor strings as markup', async ({ page }) => {
    const response = await page.reload();
    const policy = response!.headers()['content-security-policy'] ?? '';
    for (const part of [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]) {
        expect(policy).toContain(part);
    }
    expect(policy).not.toContain('unsafe');
    const refused = await page.evaluate(() => {
        try {
            document.createElement('div').innerHTML = '<b>x</b>';
            return false;
        } catch {
            return true;
        }
    });
    expect(refused).toBe(true);
});

test('nothing of a conversation stays in the browser after signing out', async ({ page }) => {
    await ask(page, 'a secret question');
    await composer(page).fill('a secret draft');
    await page.waitForTimeout(400);
    await page.getByRole('button', { name: /settings/ }).click();
    await page.getByRole('menuitem', { name: 'Sign out' }).click();
    await expect(page.getByRole('heading', { name: 'Foresay' })).toBeVisible();
    const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
    expect(stored).not.toContain('secret');
    await page.reload();
    await expect(page.locator('input[name=key]')).toBeVisible();
});
