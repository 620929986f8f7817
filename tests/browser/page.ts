/* page.ts - what every browser test knows about the page: how to say something, when an answer is over, what must never happen.
 *
 * Every page is watched: a violation of the Content-Security-Policy, an uncaught error or a request to another host fails the
 * test. */
import { expect, type BrowserContext, type Locator, type Page } from '@playwright/test';

export interface Watched {
    troubles: string[];
}

export async function watch(context: BrowserContext, origin: () => string): Promise<Watched> {
    const watched: Watched = { troubles: [] };
    await context.exposeFunction('reportTrouble', (text: string) => void watched.troubles.push(text));
    await context.addInitScript(() => {
        addEventListener('securitypolicyviolation', (event) => {
            (window as unknown as { reportTrouble(text: string): void }).reportTrouble(
                `CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`,
            );
        });
    });
    const onPage = (page: Page) => {
        page.on('pageerror', (error) => watched.troubles.push(`uncaught: ${error.stack ?? error.message}`));
        page.on('dialog', (dialog) => {
            watched.troubles.push(`dialog: ${dialog.message()}`);
            void dialog.dismiss();
        });
        page.on('request', (request) => {
            const url = new URL(request.url());
            if (url.protocol.startsWith('http') && url.origin !== origin())
                watched.troubles.push(`foreign request: ${request.url()}`);
        });
    };
    context.on('page', onPage);
    return watched;
}

export const composer = (page: Page): Locator => page.locator('#composer');
export const answers = (page: Page): Locator => page.locator('article.answer');
export const lastAnswer = (page: Page): Locator => answers(page).last();
export const stopButton = (page: Page): Locator => page.getByRole('button', { name: 'Stop the answer' });

export async function say(page: Page, text: string): Promise<void> {
    await composer(page).fill(text);
    await composer(page).press('Enter');
}

/* The answer to what was said last has begun to show text. */
export async function begun(page: Page): Promise<void> {
    await expect(stopButton(page)).toBeVisible();
    await expect(lastAnswer(page).locator('.prose')).not.toHaveText('');
}

export async function over(page: Page): Promise<void> {
    await expect(stopButton(page)).toHaveCount(0, { timeout: 45_000 });
    await expect(lastAnswer(page)).toHaveAttribute('aria-busy', 'false');
}

export async function ask(page: Page, text: string): Promise<void> {
    const before = await answers(page).count();
    await say(page, text);
    await expect(answers(page)).toHaveCount(before + 1);
    await over(page);
}

/* The conversation as the server has it, asked over a socket of the page's own origin and session. */
export async function history(
    page: Page,
): Promise<{ id: string; role: string; text: string; st: string; parent: string | null }[]> {
    return page.evaluate(async () => {
        const conv = /#\/c\/(\w+)/.exec(location.hash)![1];
        const socket = new WebSocket(`ws://${location.host}/v1/ws`, 'chat.v1');
        await new Promise((resolve) => (socket.onopen = resolve));
        const body = await new Promise<{ msgs: [] }>((resolve, reject) => {
            socket.onmessage = (event) => {
                const frame = JSON.parse(String(event.data));
                if (frame.t === 'welcome') socket.send(JSON.stringify({ t: 'hist', id: 'h', conv, limit: 100 }));
                if (frame.id === 'h') frame.t === 'ok' ? resolve(frame) : reject(new Error(frame.msg));
            };
            socket.send(JSON.stringify({ t: 'hello', v: 1, cid: 'test' }));
        });
        socket.close();
        return body.msgs;
    });
}

/* What the page would show for this text had it never been a stream: the same answer loaded anew. */
export async function proseHtml(page: Page): Promise<string> {
    // Code is coloured a moment after it is whole.
    await page.waitForFunction(() =>
        [...document.querySelectorAll('.prose .language')].every((label) => {
            const code = label.closest('.code')!.querySelector('code')!;
            return label.textContent === 'Text' || code.children.length > 0 || code.textContent!.length < 4;
        }),
    );
    // All formulas are drawn at once, when KaTeX is there.
    await page.waitForFunction(() => !document.querySelector('.prose code.tex') || document.querySelector('.prose math'));
    return page.evaluate(() => [...document.querySelectorAll('.prose')].map((prose) => prose.innerHTML).join('\n====\n'));
}
