/* gate.spec.ts - the way in: link, key, wrong key, pasted link, server away; and out, in all tabs. */
import { expect, test } from './fixture.ts';

const out = async (page: import('@playwright/test').Page, origin: string) => {
    await page.context().clearCookies();
    await page.goto(origin);
    await expect(page.locator('input[name=key]')).toBeFocused();
};

test('a key signs in, a wrong one says so and stays in the field', async ({ page, mock }) => {
    await out(page, mock.origin);
    await page.keyboard.press('Enter');
    await expect(page.getByRole('alert')).toContainText('Paste your API key');
    await page.locator('input[name=key]').fill('fsk_wrong');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('alert')).toContainText('not known here');
    await expect(page.locator('input[name=key]')).toHaveValue('fsk_wrong');
    await expect(page.locator('input[name=key]')).toHaveAttribute('type', 'password');
    await page.getByRole('button', { name: 'Show' }).click();
    await expect(page.locator('input[name=key]')).toHaveAttribute('type', 'text');
    await page.locator('input[name=key]').fill('fsk_dev');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
});

test('a pasted sign-in link signs in', async ({ page, mock }) => {
    await out(page, mock.origin);
    await page.locator('input[name=key]').fill(`  ${mock.url}\n`);
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
});

test('a server that is away is said', async ({ page, mock }) => {
    await out(page, mock.origin);
    await mock.act('down?ms=3000');
    await page.locator('input[name=key]').fill('fsk_dev');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('alert')).toContainText('cannot be reached');
});

test('signing out ends the other tabs too', async ({ page, context, mock }) => {
    const other = await context.newPage();
    await other.goto(mock.origin);
    await expect(other.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
    await page.getByRole('button', { name: /settings/ }).click();
    await page.getByRole('menuitem', { name: 'Sign out' }).click();
    await expect(other.locator('input[name=key]')).toBeVisible();
});
