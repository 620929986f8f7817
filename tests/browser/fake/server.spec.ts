/* server.spec.ts - the page and the real gateway with a scripted engine: sign-in, streams over breaks, crashes and restarts,
 * several tabs. The engine numbers every token, so one that is lost, doubled or moved shows in the text. */
import { readFileSync } from 'node:fs';
import type { Page } from '@playwright/test';
import { expectAccessible } from '../axe.ts';
import { answers, ask, begun, composer, history, lastAnswer, over, proseHtml, say, stopButton } from '../page.ts';
import { expect, test } from '../server-test.ts';
import { scripted } from './script.ts';

/* The history holds exactly the script, and the page shows exactly what it shows for the history. */
async function expectWhole(page: Page, tokens: number): Promise<void> {
    const shown = await proseHtml(page);
    expect((await history(page)).at(-1)!.text).toBe(scripted(tokens));
    await page.reload();
    await expect(lastAnswer(page)).toBeVisible();
    expect(await proseHtml(page)).toBe(shown);
}

test('the printed link signs in once; the answer streams and stays', async ({ page, foresay }) => {
    await expect(page).toHaveURL(`${foresay.origin}/`);
    await ask(page, '[[tokens 60 rate 200]] hello');
    await expectWhole(page, 60);
    await expect(lastAnswer(page).locator('button.stats')).toContainText('60 tokens');
    await page.context().clearCookies();
    await page.goto(foresay.origin);
    await expect(page.locator('input[name=key]')).toBeVisible();
});

test('reloads in the middle of an answer lose and double nothing', async ({ page }) => {
    await say(page, '[[tokens 600 rate 40]]');
    for (let i = 0; i < 4; i++) {
        await begun(page);
        await page.waitForTimeout(200 * i);
        await page.reload();
    }
    await begun(page);
    await over(page);
    await expectWhole(page, 600);
});

test('going offline and back in the middle loses and doubles nothing', async ({ page, context }) => {
    await say(page, '[[tokens 600 rate 40]]');
    await begun(page);
    for (let i = 0; i < 3; i++) {
        // An offline page keeps its open socket; a closed one cannot be opened again.
        await context.setOffline(true);
        await page.evaluate(() => dispatchEvent(new Event('offline')));
        await page.waitForTimeout(600);
        await context.setOffline(false);
        await page.waitForTimeout(400);
    }
    await over(page);
    await expectWhole(page, 600);
});

test('kill -9 in the middle: the part is there, marked, and Continue ends it whole', async ({ page, foresay }) => {
    await say(page, '[[tokens 200 rate 50]]');
    await begun(page);
    await page.waitForTimeout(1500);
    await foresay.kill('SIGKILL');
    await expect(page.locator('.linkbar')).toContainText('Reconnecting');
    await foresay.restart();
    await expect(page.locator('.linkbar')).toHaveCount(0, { timeout: 20_000 });
    await expect(lastAnswer(page)).toContainText('The server stopped while this was written', { timeout: 15_000 });
    const part = (await history(page)).at(-1)!.text;
    expect(scripted(200).startsWith(part)).toBe(true);
    expect(part.length).toBeGreaterThan(20);
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expect(answers(page)).toHaveCount(1);
    await expectWhole(page, 200);
});

test('a clean restart in the middle: the page comes back by itself and the answer can be continued', async ({
    page,
    foresay,
}) => {
    await say(page, '[[tokens 200 rate 50]]');
    await begun(page);
    await foresay.kill('SIGTERM');
    await foresay.restart();
    await expect(lastAnswer(page).getByRole('button', { name: 'Continue' })).toBeVisible({ timeout: 20_000 });
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expectWhole(page, 200);
});

test('stop, continue, regenerate, branches, edit', async ({ page }) => {
    await say(page, '[[tokens 400 rate 80]]');
    await begun(page);
    await page.keyboard.press('Escape');
    await over(page);
    await expect(lastAnswer(page)).toContainText('You stopped this answer.');
    expect((await history(page)).at(-1)!.st).toBe('stopped');
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expectWhole(page, 400);
    await lastAnswer(page).hover();
    await lastAnswer(page).getByRole('button', { name: 'Answer again' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    await lastAnswer(page).getByRole('button', { name: 'Previous branch' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('1/2');
    await page.locator('article.question').hover();
    await page.locator('article.question').getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('textbox', { name: 'Edit your message' }).fill('[[tokens 20]] edited');
    await page.keyboard.press('Enter');
    await expect(page.locator('article.question .branch-place')).toHaveText('2/2');
    await over(page);
    expect(await history(page)).toHaveLength(5);
});

test('the ends of an answer: an error of the engine, the token limit', async ({ page }) => {
    await ask(page, '[[fail 1 tokens 20]]');
    await expect(lastAnswer(page).getByRole('alert')).toBeVisible();
    await lastAnswer(page).getByRole('button', { name: 'Retry' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    await page.keyboard.press('Control+,');
    await page.getByRole('spinbutton', { name: 'Longest answer' }).fill('10');
    await page.keyboard.press('Escape');
    await ask(page, '[[tokens 30]]');
    await expect(lastAnswer(page)).toContainText('reached its token limit');
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect.poll(async () => (await history(page)).at(-1)!.text).toBe(scripted(20));
});

test('a chat that no longer fits offers a new one, or to drop the oldest turns', async ({ page }) => {
    await ask(page, `[[tokens 5]] ${'old words '.repeat(2000)}`);
    await say(page, `[[tokens 5]] ${'new words '.repeat(2000)}`);
    await expect(page.getByRole('alert')).toContainText(/context|no longer fits|end of what the model can see/, {
        timeout: 15_000,
    });
    await page.getByRole('button', { name: 'Drop the oldest turns and retry' }).click();
    await expect(page.getByRole('button', { name: 'Drop the oldest turns and retry' })).toHaveCount(0);
    await over(page);
    await expect(lastAnswer(page)).toContainText('w0');
    await page.getByRole('button', { name: 'New chat' }).click();
    await say(page, `[[tokens 5]] ${'word '.repeat(12000)}`);
    await page.getByRole('alert').getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('textbox', { name: 'Edit your message' }).fill('[[tokens 5]] word');
    await page.keyboard.press('Enter');
    await over(page);
    await expect(lastAnswer(page)).toContainText('w0');
});

test('two tabs follow the same answer, and a third opened in the middle catches up', async ({ page, context, foresay }) => {
    await ask(page, '[[tokens 5]] first');
    const other = await context.newPage();
    await other.goto(page.url());
    await expect(answers(other)).toHaveCount(1);
    await say(page, '[[tokens 200 rate 60]]');
    await begun(other);
    const third = await context.newPage();
    await third.goto(page.url());
    await begun(third);
    await stopButton(third).click();
    for (const tab of [page, other, third]) await over(tab);
    const html = await proseHtml(page);
    expect(await proseHtml(other)).toBe(html);
    expect(await proseHtml(third)).toBe(html);
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill('One for three');
    await page.keyboard.press('Enter');
    await expect(other.locator('.row.open')).toContainText('One for three');
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(third.getByText('This conversation was deleted.')).toBeVisible();
    await other.goto(foresay.origin);
    await expect(other.locator('.row')).toHaveCount(0);
});

test('a message written while the server is down goes out exactly once', async ({ page, foresay }) => {
    await ask(page, '[[tokens 5]] first');
    await foresay.kill('SIGKILL');
    await expect(page.locator('.linkbar')).toBeVisible();
    await say(page, '[[tokens 5]] second');
    await expect(page.getByText('Goes out when the server is back')).toBeVisible();
    await foresay.restart();
    await expect(answers(page)).toHaveCount(2, { timeout: 20_000 });
    await over(page);
    expect((await history(page)).filter((message) => message.text === '[[tokens 5]] second')).toHaveLength(1);
});

test('learning from own answers is off until it is switched on, for all tabs, and stays', async ({ page, context, foresay }) => {
    const learns = (of: Page) => of.getByRole('switch', { name: /Learn from my answers/ });
    const other = await context.newPage();
    await other.goto(foresay.origin);
    for (const tab of [page, other]) {
        await tab.keyboard.press('Control+,');
        await expect(learns(tab)).not.toBeChecked();
    }
    await learns(page).check();
    await expect(learns(other)).toBeChecked();
    await page.reload();
    await page.keyboard.press('Control+,');
    await expect(learns(page)).toBeChecked();
    await learns(page).uncheck();
    await expect(learns(other)).not.toBeChecked();
});

test('signing out ends the session in all tabs', async ({ page, context, foresay }) => {
    const other = await context.newPage();
    await other.goto(foresay.origin);
    await expect(composer(other)).toBeVisible();
    await page.getByRole('button', { name: /settings/ }).click();
    await page.getByRole('menuitem', { name: 'Sign out' }).click();
    await expect(page.locator('input[name=key]')).toBeVisible();
    await expect(other.locator('input[name=key]')).toBeVisible();
    expect(await page.evaluate(() => fetch('/api/session').then((response) => response.status))).toBe(401);
});

test('the guesses of an answer: coloured while it is written, over a reload, round by round by keyboard', async ({ page }) => {
    const dialog = page.getByRole('dialog', { name: 'How this answer came' });
    const text = dialog.getByRole('region', { name: 'The answer, piece by piece' });
    const slider = dialog.getByRole('slider', { name: 'Round' });
    await ask(page, '[[tokens 20 guess 3]]');
    await expect(lastAnswer(page).getByRole('button', { name: 'Show the guesses' })).toHaveCount(0);
    await page.keyboard.press('Control+,');
    await page.getByRole('switch', { name: 'Show guesses' }).check();
    await page.keyboard.press('Escape');
    await say(page, '[[tokens 241 rate 40 guess 3]]');
    await begun(page);
    await expect(lastAnswer(page)).toContainText('guessed ahead');
    await page.reload();
    await begun(page);
    await lastAnswer(page).focus();
    await page.keyboard.press('s');
    await expect(slider).toBeVisible();
    const before = Number(await slider.getAttribute('max'));
    expect(before).toBeGreaterThan(1);
    await expect.poll(async () => Number(await slider.getAttribute('max'))).toBeGreaterThan(before);
    await expectAccessible(page, 'guesses');
    await page.keyboard.press('Escape');
    await over(page);
    await lastAnswer(page).getByRole('button', { name: 'Show the guesses' }).click();
    // The first token, then 96 rounds of 1, 2, 3, 4, 1, ... tokens.
    await expect(text).toHaveText(scripted(241).replaceAll('\t', '⇥').replaceAll('\n', '↵\n'));
    await expect(text.locator('.guessed')).toHaveCount(144);
    await expect(text.locator('.drawn')).toHaveCount(96);
    await expect(dialog).toContainText(/Of the right ones 144 (from|seen|by) /);
    // It opens at the newest round: its words are in view.
    await expect(text.locator('.here').last()).toBeInViewport();
    await expect(dialog.locator('.guess-sums')).toHaveText('Rounds96Tokens a round2.5Guesses384Right144 (38%)');
    await slider.focus();
    await page.keyboard.press('Home');
    for (const right of [0, 1, 2, 3, 0]) {
        await expect(slider).toHaveAttribute('aria-valuetext', new RegExp(`: ${right} of 4 guesses right`));
        await expect(dialog.locator('.node.right')).toHaveCount(right);
        await expect(dialog.locator('.node.wrong')).toHaveCount(4 - right);
        await expect(dialog.locator('.node.drawn')).toHaveCount(1);
        await expect(text.locator('.here')).toHaveCount(right + 1);
        await page.keyboard.press('ArrowRight');
    }
    await page.keyboard.press('Escape');
    await expect(dialog).toHaveCount(0);
    await page.reload();
    await expect(lastAnswer(page)).toBeVisible();
    await expect(lastAnswer(page).getByRole('button', { name: 'Show the guesses' })).toHaveCount(0);
});

test('hostile text from the engine stays text', async ({ page }) => {
    await ask(
        page,
        '[[echo 1]]Text <script>window.hacked=1</script> <img src=x onerror="window.hacked=2"> [x](javascript:window.hacked=3) ![p](https://evil.example/p.png)',
    );
    await expect(lastAnswer(page)).toContainText('<script>');
    await expect(lastAnswer(page).locator('.chip')).toContainText('evil.example');
    expect(await page.evaluate(() => (window as unknown as { hacked?: number }).hacked ?? null)).toBeNull();
});

test('chats go out as files and come in again', async ({ page }) => {
    await ask(page, '[[tokens 9]] to be kept');
    const saved = async (start: () => Promise<void>) => {
        const [file] = await Promise.all([page.waitForEvent('download'), start()]);
        return { name: file.suggestedFilename(), text: readFileSync((await file.path())!, 'utf8') };
    };
    const fromMenu = async (item: string) => {
        await page.getByRole('button', { name: 'Options for this chat' }).click();
        await page.getByRole('menuitem', { name: item }).click();
    };
    const markdown = await saved(() => fromMenu('Save as Markdown'));
    expect(markdown.name).toBe('[[tokens 9]] to be kept.md');
    expect(markdown.text).toContain(`## Answer\n\n${scripted(9)}`);
    expect((await saved(() => fromMenu('Save as JSON'))).name).toBe('[[tokens 9]] to be kept.json');
    await page.keyboard.press('Control+,');
    const all = await saved(() => page.getByRole('button', { name: 'Save', exact: true }).click());
    expect(JSON.parse(all.text).chats).toHaveLength(1);
    const bring = (buffer: string) =>
        page
            .getByLabel('File of chats')
            .setInputFiles({ name: all.name, mimeType: 'application/json', buffer: Buffer.from(buffer) });
    await bring(all.text);
    await expect(page.getByText('1 chat with 2 messages came in.')).toBeVisible();
    await bring(all.text.replace('"role":"user"', '"role":"cook"'));
    await expect(page.getByText('Nothing came in. Chat 1, message 1: role')).toBeVisible();
    await expectAccessible(page, 'settings with news');
    await page.keyboard.press('Escape');
    await expect(page.locator('.row')).toHaveCount(2);
    // What came in is found by its words, like everything else.
    await page.getByRole('searchbox', { name: /Find a chat/ }).fill('w0');
    await expect(page.locator('.hit')).toHaveCount(2);
    await page.locator('.hit a').first().click();
    await expect(lastAnswer(page)).toBeFocused();
    await expect(lastAnswer(page).locator('.prose')).toContainText('w0');
});
