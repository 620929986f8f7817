/* transports.spec.ts - the page where a proxy lets no WebSocket through, and no event stream either: nothing looks different, no
 * token is lost or doubled, and a WebSocket is used again when it works. */
import type { Page } from '@playwright/test';
import { ask, begun, history, lastAnswer, over, proseHtml, say, stopButton } from '../page.ts';
import { expect, test } from '../server-test.ts';
import { scripted } from './script.ts';

interface Blocking extends Window {
    blocked?: 'refused' | 'silent';
}

/* WebSockets of this page, but of no other, break at once or never say anything. */
async function blockWebSockets(page: Page, how: 'refused' | 'silent'): Promise<void> {
    await page.addInitScript((how) => {
        (window as Blocking).blocked = how;
        const Real = WebSocket;
        class Blocked {
            onclose: ((event: object) => void) | null = null;
            constructor(url: string, protocol: string) {
                const { blocked } = window as Blocking;
                if (!blocked) return new Real(url, protocol) as unknown as Blocked;
                if (blocked === 'refused') setTimeout(() => this.onclose?.({ code: 1006, reason: '' }));
            }
            close() {}
        }
        window.WebSocket = Blocked as unknown as typeof WebSocket;
    }, how);
    await page.reload();
}

async function expectConnectedBy(page: Page, what: string): Promise<void> {
    await page.keyboard.press('Control+,');
    await expect(page.locator('.about')).toContainText(`connected by ${what}.`);
    await page.keyboard.press('Escape');
    await expect(page.locator('.about')).toHaveCount(0);
}

/* The text is the script, in the history and on the page, and nothing else was ever shown. */
async function expectWhole(page: Page, tokens: number): Promise<void> {
    const other = await page.context().newPage(); // with WebSockets
    await other.goto(page.url());
    await expect(lastAnswer(other)).toBeVisible();
    expect((await history(other)).at(-1)!.text).toBe(scripted(tokens));
    expect(await proseHtml(page)).toBe(await proseHtml(other));
    await other.close();
}

test('without WebSockets an event stream carries the chat, over reloads and breaks', async ({ page, context }) => {
    await blockWebSockets(page, 'refused');
    await say(page, '[[tokens 360 rate 60]]');
    await begun(page);
    await expectConnectedBy(page, 'an event stream');
    await expect(page.locator('.linkbar')).toHaveCount(0);
    await page.reload();
    await begun(page);
    await context.setOffline(true);
    await page.evaluate(() => dispatchEvent(new Event('offline')));
    await page.waitForTimeout(1500);
    await context.setOffline(false);
    await over(page);
    await expectWhole(page, 360);
    await ask(page, '[[tokens 5]] again');
    await say(page, '[[tokens 4000 rate 60]]');
    await begun(page);
    await stopButton(page).click();
    await over(page);
    await expect(lastAnswer(page)).toContainText('You stopped this answer.');
});

test('a hidden tab keeps no request open, and misses nothing', async ({ page }) => {
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await blockWebSockets(page, 'refused');
    await say(page, '[[tokens 300 rate 60]]');
    await begun(page);
    const show = (hidden: boolean) =>
        page.evaluate((hidden) => {
            Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
        }, hidden);
    asked.length = 0;
    await show(true);
    await expect.poll(() => asked).toContain('/api/poll');
    expect(asked).not.toContain('/api/events');
    await page.waitForTimeout(1500);
    await show(false);
    await expect.poll(() => asked).toContain('/api/events');
    await over(page);
    await expectWhole(page, 300);
});

test('without event streams too, long polls carry it', async ({ page }) => {
    let polls = 0;
    await page.route('**/api/events*', (route) => route.abort());
    await page.route('**/api/poll*', (route) => (++polls % 5 === 0 ? route.abort() : route.continue()));
    await blockWebSockets(page, 'refused');
    await say(page, '[[tokens 300 rate 100]]');
    await begun(page);
    await expectConnectedBy(page, 'long polls');
    await over(page);
    expect(polls).toBeGreaterThan(10);
    await expectWhole(page, 300);
});

test('an event stream that a proxy holds back gives way to long polls', async ({ page }) => {
    let events = 0;
    await page.route('**/api/events*', () => void events++); // never answered
    await page.clock.install();
    await blockWebSockets(page, 'silent');
    await say(page, '[[tokens 40]]');
    await page.clock.fastForward(6_000);
    await expect.poll(() => events).toBe(1);
    await page.clock.fastForward(6_000);
    await over(page);
    await expectConnectedBy(page, 'long polls');
    await expectWhole(page, 40);
});

test('what works is remembered, and a WebSocket that works again takes over in mid-answer', async ({ page }) => {
    await page.clock.install();
    await blockWebSockets(page, 'refused');
    await ask(page, '[[tokens 5]] first');
    await page.reload();
    await expectConnectedBy(page, 'an event stream');
    await say(page, '[[tokens 600 rate 60]]');
    await begun(page);
    await page.evaluate(() => delete (window as Blocking).blocked);
    await page.clock.fastForward(5 * 60_000);
    await expectConnectedBy(page, 'a WebSocket');
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expectWhole(page, 600);
});
