/* access.spec.ts - WCAG 2.2 A and AA by axe in every state, light and dark; what a screen reader is told. */
import { expectAccessible } from '../axe.ts';
import { ask, begun, lastAnswer, over, say } from '../page.ts';
import { expect, test } from './fixture.ts';

for (const colorScheme of ['light', 'dark'] as const) {
    test.describe(colorScheme, () => {
        test.use({ colorScheme });

        test('no barrier in any state of a chat', async ({ page, mock }) => {
            await expectAccessible(page, 'empty');
            await mock.act('seed?n=6');
            await page.reload();
            await expect(page.locator('.row')).toHaveCount(6);
            await say(page, '/prefill');
            await expect(page.getByRole('progressbar')).toBeVisible();
            await expectAccessible(page, 'prefill');
            await over(page);
            await say(page, '/slow 100');
            await begun(page);
            await expectAccessible(page, 'streaming');
            await page.keyboard.press('Escape');
            await over(page);
            await expectAccessible(page, 'stopped');
            await ask(page, '/markdown');
            await expectAccessible(page, 'answer');
            await ask(page, '/xss');
            await expectAccessible(page, 'hostile answer');
            await ask(page, '/error');
            await expectAccessible(page, 'error');
            await say(page, '/refuse');
            await expect(page.getByRole('alert').last()).toBeVisible();
            await expectAccessible(page, 'context full');
            await mock.act('down?ms=2500');
            await expect(page.locator('.linkbar')).toBeVisible();
            await expectAccessible(page, 'offline');
            await expect(page.locator('.linkbar')).toHaveCount(0, { timeout: 20_000 });
        });

        test('no barrier in dialogs, menus and the gate', async ({ page, mock }) => {
            await mock.act('seed?n=2');
            await page.reload();
            await page.getByRole('searchbox', { name: /Find a chat/ }).fill('rainbow');
            await expect(page.locator('.hit').first()).toBeVisible();
            await expectAccessible(page, 'search');
            await page.locator('.hit a').first().click();
            await expect(page.locator('.message.found')).toBeVisible();
            await expectAccessible(page, 'found');
            await page.getByRole('searchbox', { name: /Find a chat/ }).fill('');
            await page.keyboard.press('Control+,');
            await expect(page.getByRole('dialog')).toBeVisible();
            await expectAccessible(page, 'settings');
            await page.keyboard.press('Escape');
            await page.keyboard.press('Control+/');
            await expectAccessible(page, 'help');
            await page.keyboard.press('Escape');
            await page.getByRole('button', { name: 'Options for this chat' }).click();
            await expectAccessible(page, 'menu');
            await page.getByRole('menuitem', { name: 'Delete' }).click();
            await expectAccessible(page, 'delete');
            await page.keyboard.press('Escape');
            await page.keyboard.press('Shift+Escape');
            await page.keyboard.press('ArrowUp');
            await expect(page.getByRole('textbox', { name: 'Edit your message' })).toBeVisible();
            await expectAccessible(page, 'editing');
            await page.keyboard.press('Escape');
            await page.goto(`${mock.origin}/#/c/${'0'.repeat(32)}`);
            await expect(page.getByRole('alert')).toContainText('not here');
            await expectAccessible(page, 'missing chat');
            await mock.act('expire');
            await expect(page.getByRole('heading', { name: 'Sign in again' })).toBeVisible();
            await expectAccessible(page, 'expired');
            await page.reload();
            await page.locator('input[name=key]').fill('wrong');
            await page.keyboard.press('Enter');
            await expect(page.getByRole('alert')).toBeVisible();
            await expectAccessible(page, 'gate');
        });
    });
}

test.describe('phone', () => {
    test.use({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
    test('no barrier on a phone, drawer open and closed', async ({ page, mock }) => {
        await mock.act('seed?n=3');
        await page.reload();
        await ask(page, '/markdown');
        await expectAccessible(page, 'phone');
        await page.getByRole('button', { name: 'Show the sidebar' }).tap();
        await expectAccessible(page, 'drawer');
    });
});

test('beginning and end of an answer are spoken, its text is not', async ({ page }) => {
    const status = page.getByRole('status');
    await say(page, '/slow 40');
    await expect(status).toHaveText('Answer started');
    await begun(page);
    await expect(lastAnswer(page)).toHaveAttribute('aria-busy', 'true');
    await over(page);
    await expect(status).toHaveText(/Answer complete, \d+ tokens/);
    await expect(page.getByRole('log')).toHaveAttribute('aria-live', 'off');
});

test('the focus stays where it is when an answer ends', async ({ page }) => {
    await say(page, '/slow 40');
    await begun(page);
    await page.locator('#filter').focus();
    await over(page);
    await expect(page.locator('#filter')).toBeFocused();
});

test('motion rests when the person asked for it', async ({ page }) => {
    await page.emulateMedia({ reducedMotion: 'reduce' });
    await say(page, '/slow 40');
    await begun(page);
    await over(page);
    expect(
        await page.evaluate(() => document.getAnimations().filter((animation) => animation.playState === 'running').length),
    ).toBe(0);
});
