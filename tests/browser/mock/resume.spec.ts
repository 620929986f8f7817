/* resume.spec.ts - no token is lost, doubled or reordered, however the connection behaves; a message is sent exactly once. */
import { answers, ask, begun, composer, history, lastAnswer, over, proseHtml, say, stopButton } from '../page.ts';
import { expect, test } from './fixture.ts';

/* The text on the page is that of the history, and it is the text that was to be written. */
async function expectExact(page: import('@playwright/test').Page, words: number): Promise<void> {
    const shown = await proseHtml(page);
    const last = (await history(page)).at(-1)!;
    expect(last.text.split(/\s+/).length).toBe(words);
    await page.reload();
    await expect(lastAnswer(page)).toBeVisible();
    expect(await proseHtml(page)).toBe(shown);
    await expect(lastAnswer(page).locator('.prose')).toHaveText(last.text.replace(/\n\n/g, ''));
}

test('a reload in the middle goes on without a lost or doubled character', async ({ page }) => {
    await say(page, '/slow 200');
    for (let i = 0; i < 3; i++) {
        await begun(page);
        await page.reload();
    }
    await begun(page);
    await over(page);
    await expectExact(page, 200);
});

test('sockets that drop again and again leave the exact text', async ({ page, mock }) => {
    await say(page, '/slow 200');
    await begun(page);
    for (let i = 0; i < 4; i++) {
        await mock.act('drop');
        await page.waitForTimeout(700);
    }
    await over(page);
    await expectExact(page, 200);
});

test('a lost frame is asked for again', async ({ page, mock }) => {
    await say(page, '/slow 80');
    await begun(page);
    await mock.act('lose');
    await over(page);
    await expectExact(page, 80);
});

test('a text that does not match its checksum is fetched again and reported', async ({ page, mock }) => {
    const reports: string[] = [];
    page.on('console', (message) => message.type() === 'error' && reports.push(message.text()));
    const frames: string[] = [];
    page.on('websocket', (socket) => socket.on('framesent', (frame) => frames.push(String(frame.payload))));
    await page.reload();
    await mock.act('corrupt');
    await ask(page, '/slow 30');
    await expect.poll(() => reports.join()).toContain('is not what the server sent');
    await expect.poll(() => frames.filter((frame) => frame.includes('"hist"')).length).toBeGreaterThan(0);
    await expectExact(page, 30);
});

test('a tab that was away while the answer ended shows all of it', async ({ page, mock, context }) => {
    await say(page, '/slow 60');
    await begun(page);
    await context.setOffline(true);
    await mock.act('drop');
    await page.waitForTimeout(2500);
    await context.setOffline(false);
    await over(page);
    await expectExact(page, 60);
});

test('the bar says that the server is away, counts down, and tries at once when told', async ({ page, mock }) => {
    await mock.act('down?ms=60000');
    const bar = page.locator('.linkbar');
    await expect(bar).toContainText('Reading works, sending waits.');
    // Far enough from the next attempt that only the button can bring the page back at once.
    await expect(bar).toContainText(/Reconnecting in ([4-9]|1\d) s/, { timeout: 30_000 });
    await mock.act('down?ms=0');
    await bar.getByRole('button', { name: 'Now' }).click();
    await expect(bar).toHaveCount(0);
});

test('a message written while offline goes out exactly once', async ({ page, mock }) => {
    await ask(page, 'hello');
    await mock.act('down?ms=3000');
    await expect(page.locator('.linkbar')).toBeVisible();
    await say(page, 'from the tunnel');
    await expect(page.getByText('Goes out when the server is back')).toBeVisible();
    await expect(answers(page)).toHaveCount(2, { timeout: 20_000 });
    await over(page);
    expect((await history(page)).filter((message) => message.text === 'from the tunnel')).toHaveLength(1);
});

test('an acknowledgement that is lost does not send the message twice', async ({ page, mock }) => {
    await ask(page, 'hello');
    // The frame reaches the server; the socket dies before the answer can come back.
    await page.evaluate(() => {
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (data) {
            send.call(this, data);
            if (String(data).includes('"t":"send"')) {
                WebSocket.prototype.send = send;
                this.onmessage = null;
            }
        };
    });
    await say(page, 'only once');
    await page.waitForTimeout(300);
    await mock.act('drop');
    await expect(answers(page)).toHaveCount(2);
    await over(page);
    expect((await history(page)).filter((message) => message.text === 'only once')).toHaveLength(1);
});

test('a message that was on its way during a reload goes out once', async ({ page, mock }) => {
    await ask(page, 'hello');
    await mock.act('down?ms=2500');
    await expect(page.locator('.linkbar')).toBeVisible();
    await say(page, 'through the reload');
    await page.waitForTimeout(2600);
    await page.reload();
    await expect(answers(page)).toHaveCount(2, { timeout: 20_000 });
    await over(page);
    expect((await history(page)).filter((message) => message.text === 'through the reload')).toHaveLength(1);
});

test('an answer that the server had to break off says so and can be continued', async ({ page, mock }) => {
    await say(page, '/slow 100');
    await begun(page);
    await mock.act('interrupt');
    await over(page);
    await expect(lastAnswer(page)).toContainText('The server stopped while this was written');
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expectExact(page, 100);
});

test('two tabs show the same: messages, streams, titles, stop, deletion', async ({ page, context, mock }) => {
    await ask(page, 'hello');
    const other = await context.newPage();
    await other.goto(page.url());
    await expect(answers(other)).toHaveCount(1);
    await say(page, '/slow 150');
    await begun(other);
    await expect(other.locator('article.question').last()).toContainText('/slow 150');
    await stopButton(other).click();
    await over(page);
    await over(other);
    expect(await proseHtml(other)).toBe(await proseHtml(page));
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill('Shared title');
    await page.keyboard.press('Enter');
    await expect(other.getByRole('heading', { level: 1 })).toHaveText('Shared title');
    // A draft in one tab is left alone by what happens in the other.
    await composer(other).fill('unsent');
    await ask(page, 'hello again');
    await expect(answers(other)).toHaveCount(3);
    await expect(composer(other)).toHaveValue('unsent');
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(other.getByText('This conversation was deleted.')).toBeVisible();
    await expect(other.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
    await mock.act('drop');
});

test('an answer goes on behind another chat and is marked in the list', async ({ page, mock }) => {
    await mock.act('seed?n=2');
    await page.reload();
    await say(page, '/slow 100');
    await begun(page);
    const writing = page.url();
    await page.locator('.row').filter({ hasText: 'How rainbows form' }).getByRole('link').click();
    await expect(page.getByRole('img', { name: 'Answer is being written' })).toBeVisible();
    await expect(page.getByRole('img', { name: 'New answer' })).toBeVisible({ timeout: 20_000 });
    await page.goto(writing);
    await over(page);
    await expectExact(page, 100);
});

test('a session that ends keeps the chat and the draft; signing in again goes on', async ({ page, mock }) => {
    await ask(page, 'hello');
    await composer(page).fill('precious draft');
    await mock.act('expire');
    await expect(page.getByRole('heading', { name: 'Sign in again' })).toBeVisible();
    await page.getByRole('textbox').first().press('Escape');
    await page.locator('input[name=key]').fill('fsk_dev');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { name: 'Sign in again' })).toHaveCount(0);
    await expect(composer(page)).toHaveValue('precious draft');
    await composer(page).press('Enter');
    await expect(answers(page)).toHaveCount(2);
});

test('a slow start is not taken for a lost connection', async ({ page }) => {
    await page.clock.install();
    await page.reload();
    await expect(composer(page)).toBeVisible();
    await say(page, '/queue 4000');
    await expect(page.getByText('In line for the engine').or(page.getByText('Thinking'))).toBeAttached();
    await page.clock.fastForward(20_000);
    await expect(page.getByText(/Waiting for the engine, \d+ s/)).toBeVisible();
    await expect(page.locator('.linkbar')).toHaveCount(0);
    await over(page);
});
