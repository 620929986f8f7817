/* scroll.spec.ts - the reader moves the page; the page moves only when asked: the question to the top, the end when following. */
import type { Page } from '@playwright/test';
import { answers, ask, begun, composer, lastAnswer, over, say } from '../page.ts';
import { expect, test } from './fixture.ts';

const top = (page: Page) => page.evaluate(() => document.querySelector('#transcript')!.scrollTop);
const questionTop = (page: Page) =>
    page.evaluate(() => {
        const question = [...document.querySelectorAll('article.question')].at(-1)!;
        return Math.round(
            question.getBoundingClientRect().top - document.querySelector('#transcript')!.getBoundingClientRect().top,
        );
    });

test('sending puts the question 16 px under the header and keeps it there to the end', async ({ page }) => {
    await ask(page, 'hello');
    await say(page, '/slow 60');
    await begun(page);
    await expect.poll(() => questionTop(page)).toBe(16);
    const before = await top(page);
    await over(page);
    expect(await top(page)).toBe(before);
    await page.waitForTimeout(300);
    expect(await questionTop(page)).toBe(16);
    // Nor does the field move it when it grows and shrinks.
    await composer(page).fill('one\ntwo\nthree\nfour');
    await page.waitForTimeout(200);
    expect(await questionTop(page)).toBe(16);
    await composer(page).fill('');
    await page.waitForTimeout(200);
    expect(await questionTop(page)).toBe(16);
});

test('a long answer does not drag the reader along; Latest follows; a wheel lets go', async ({ page }) => {
    await say(page, '/slow 700');
    await begun(page);
    const pill = page.getByRole('button', { name: 'Latest' });
    await expect(pill).toBeVisible({ timeout: 20_000 });
    const before = await top(page);
    await page.waitForTimeout(500);
    expect(await top(page)).toBe(before);
    await pill.click();
    await expect(pill).toBeHidden();
    const followed = await top(page);
    await expect.poll(() => top(page), { timeout: 15_000 }).toBeGreaterThan(followed + 40);
    await page.locator('#transcript').hover();
    await page.mouse.wheel(0, -300);
    await page.waitForTimeout(400);
    const free = await top(page);
    await page.waitForTimeout(900);
    expect(Math.abs((await top(page)) - free)).toBeLessThan(2);
    await over(page);
    expect(Math.abs((await top(page)) - free)).toBeLessThan(2);
});

test('a chat opens at its end; older messages come in without a jump; no more than 160 are mounted', async ({ page, mock }) => {
    const [first] = JSON.parse(await mock.act('seed?n=1&turns=150')) as string[];
    await page.goto(`${mock.origin}/#/c/${first}`);
    await page.reload();
    await expect(page.getByText('part 150')).toBeInViewport();
    await expect(answers(page)).toHaveCount(25);
    for (let i = 0; i < 12; i++) {
        const seen = await page.evaluate(() => {
            const box = document.querySelector('#transcript')!;
            box.scrollTop = Math.min(box.scrollTop, 400);
            const frame = box.getBoundingClientRect();
            const turn = [...document.querySelectorAll('.turn')].find(
                (one) => one.getBoundingClientRect().bottom > frame.top + 40,
            )!;
            (window as unknown as { watchedTurn: Element }).watchedTurn = turn;
            return { y: turn.getBoundingClientRect().top, count: document.querySelectorAll('article').length };
        });
        await page.waitForTimeout(350);
        const after = await page.evaluate(() => {
            const turn = (window as unknown as { watchedTurn: Element }).watchedTurn;
            return {
                y: turn.getBoundingClientRect().top,
                connected: turn.isConnected,
                count: document.querySelectorAll('article').length,
            };
        });
        expect(after.connected).toBe(true);
        expect(Math.abs(after.y - seen.y)).toBeLessThan(3);
        expect(after.count).toBeLessThanOrEqual(160);
    }
    await expect(page.getByText('part 1', { exact: false }).first()).toBeAttached();
    // Writing again shows the end.
    await say(page, 'once more');
    await expect(page.locator('article.question').last()).toContainText('once more');
    await over(page);
    await expect.poll(() => questionTop(page)).toBe(16);
    await expect(lastAnswer(page)).toBeInViewport();
});
