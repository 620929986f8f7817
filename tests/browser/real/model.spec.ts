/* model.spec.ts - the whole product: the real server, the real model, a browser. What the project promises on its first page. */
import type { Page } from '@playwright/test';
import { answers, ask, begun, composer, history, lastAnswer, over, proseHtml, say, stopButton } from '../page.ts';
import { expect, test } from '../server-test.ts';

test.use({ program: process.env.FORESAY_BIN ?? '', model: process.env.FORESAY_MODEL ?? '' });
test.describe.configure({ mode: 'serial', timeout: 180_000 });

async function setNumber(page: Page, name: string, value: number): Promise<void> {
    await page.keyboard.press('Control+,');
    await page.getByRole('spinbutton', { name }).fill(String(value));
    await page.keyboard.press('Escape');
}

/* Long enough to be interrupted, short enough for a busy machine. */
async function limitAnswers(page: Page, tokens: number): Promise<void> {
    await setNumber(page, 'Longest answer', tokens);
}

const LONG = 'Tell me a long story about a lighthouse keeper, in at least ten paragraphs.';

test('a question is answered by the model, in the sidebar, with its numbers', async ({ page }) => {
    await setNumber(page, 'Temperature', 0); /* a drawn answer may leave the city out */
    await ask(page, 'What is the capital of France? Answer in one sentence.');
    await expect(lastAnswer(page)).toContainText('Paris');
    await expect(lastAnswer(page).locator('button.stats')).toContainText(/tok\/s.*to first token.*tokens/);
    await expect(page.locator('.row.open')).toContainText('capital of France');
});

test('a reload in the middle goes on to the exact text of the history', async ({ page }) => {
    await limitAnswers(page, 500);
    await say(page, LONG);
    for (let i = 0; i < 2; i++) {
        await begun(page);
        await page.reload();
    }
    await expect(lastAnswer(page)).toBeVisible();
    await over(page);
    const streamed = await proseHtml(page);
    const message = (await history(page)).at(-1)!;
    expect(message.st).toMatch(/done|length/);
    await page.reload();
    await expect(lastAnswer(page)).toBeVisible();
    expect(await proseHtml(page)).toBe(streamed);
    expect((await history(page)).at(-1)!.text).toBe(message.text);
});

test('kill -9 in the middle, restart: marked as interrupted, Continue works', async ({ page, foresay }) => {
    await limitAnswers(page, 500);
    await say(page, LONG);
    await begun(page);
    await page.waitForTimeout(700);
    await foresay.kill('SIGKILL');
    await foresay.restart();
    await expect(lastAnswer(page)).toContainText('The server stopped while this was written', { timeout: 30_000 });
    const part = (await history(page)).at(-1)!.text;
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    const whole = (await history(page)).at(-1)!.text;
    expect(whole.startsWith(part)).toBe(true);
    expect(whole.length).toBeGreaterThan(part.length);
    await expect(answers(page)).toHaveCount(1);
});

test('the same seed gives the same answer; stop keeps what was written', async ({ page }) => {
    await limitAnswers(page, 40);
    await setNumber(page, 'Seed', 7);
    await ask(page, 'Name three fruits.');
    await lastAnswer(page).hover();
    await lastAnswer(page).getByRole('button', { name: 'Answer again' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    const texts = (await history(page)).filter((message) => message.role === 'assistant').map((message) => message.text);
    expect(texts[1]).toBe(texts[0]);
    await page.keyboard.press('Control+,');
    await page.getByRole('button', { name: 'Reset to defaults' }).click();
    await page.keyboard.press('Escape');
    await say(page, LONG);
    await begun(page);
    await page.keyboard.press('Escape');
    await over(page);
    await expect(lastAnswer(page)).toContainText('You stopped this answer.');
    expect((await history(page)).at(-1)!.text.length).toBeGreaterThan(0);
    await expect(composer(page)).toBeEnabled();
});
