/* layout.spec.ts - narrow, wide, touch, right-to-left, long words: nothing overflows, everything can be reached. */
import type { Page } from '@playwright/test';
import { ask, composer, say } from '../page.ts';
import { expect, test } from './fixture.ts';

async function expectNoSideScroll(page: Page): Promise<void> {
    const wide = await page.evaluate(() => {
        const limit = document.documentElement.clientWidth;
        const box = document.querySelector('#transcript');
        return {
            page: document.documentElement.scrollWidth > limit,
            transcript: box ? box.scrollWidth > box.clientWidth : false,
        };
    });
    expect(wide).toEqual({ page: false, transcript: false });
}

for (const width of [320, 390, 640, 768, 1024, 1440]) {
    test(`no horizontal scrolling at ${width} px, in any state`, async ({ page }) => {
        await page.setViewportSize({ width, height: 800 });
        await expectNoSideScroll(page);
        await ask(page, '/markdown');
        await ask(
            page,
            `/echo ${'x'.repeat(300)} https://example.org/${'y'.repeat(200)}\n\n| ${'column | '.repeat(30)}\n|${'---|'.repeat(30)}\n| ${'value | '.repeat(30)}\n\n\`${'z'.repeat(150)}\`\n\nsum \\(${'a + '.repeat(60)}a\\)\n\n$$${'b + '.repeat(90)}b$$`,
        );
        await expectNoSideScroll(page);
        await ask(page, '/error');
        await say(page, '/refuse');
        await expect(page.getByRole('alert').last()).toBeVisible();
        await expectNoSideScroll(page);
    });
}

test.describe('phone', () => {
    test.use({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });

    test('the sidebar is a drawer that takes and gives back the focus', async ({ page, mock }) => {
        await mock.act('seed?n=3');
        await page.reload();
        await expect(page.locator('#sidebar')).toBeHidden();
        await page.getByRole('button', { name: 'Show the sidebar' }).tap();
        await expect(page.locator('#sidebar')).toBeVisible();
        await expect(page.locator('main')).toHaveAttribute('inert', '');
        await page.locator('.row a').nth(1).tap();
        await expect(page.locator('#sidebar')).toBeHidden();
        await expect(page.getByRole('heading', { level: 1 })).toHaveText('A palindrome checker in Python');
        await page.getByRole('button', { name: 'Show the sidebar' }).tap();
        await page.touchscreen.tap(380, 500);
        await expect(page.locator('#sidebar')).toBeHidden();
    });

    test('fields do not zoom, targets are large enough, the composer stays in view', async ({ page }) => {
        await ask(page, '/code');
        expect(await composer(page).evaluate((field) => parseFloat(getComputedStyle(field).fontSize))).toBeGreaterThanOrEqual(16);
        const small = await page.evaluate(() =>
            [...document.querySelectorAll<HTMLElement>('button, a.brand')]
                .filter(
                    (el) =>
                        el.checkVisibility({ visibilityProperty: true }) &&
                        !el.closest('[inert]') &&
                        !el.closest('.prose, .stats, .linkbar'),
                )
                .map((el) => ({ name: el.getAttribute('aria-label') ?? el.innerText, w: el.offsetWidth, h: el.offsetHeight }))
                .filter(({ w, h }) => w < 26 || h < 32),
        );
        expect(small).toEqual([]);
        await expect(composer(page)).toBeInViewport();
        await expect(page.getByRole('button', { name: 'Send' })).toBeInViewport();
    });
});

test('each paragraph takes its own direction; code stays left to right', async ({ page }) => {
    await ask(page, '/echo مرحبا بالعالم\n\nHello\n\n```c\nint x;\n```');
    const directions = await page.evaluate(() =>
        [...document.querySelectorAll('.answer .prose > *')].map((block) => getComputedStyle(block).direction),
    );
    expect(directions).toEqual(['rtl', 'ltr', 'ltr']);
});

test('a very long question is folded and a very long paste stays quick', async ({ page }) => {
    await ask(page, `/echo ${'line\n'.repeat(80)}`);
    const bubble = page.locator('.bubble').first();
    await expect(bubble.getByRole('button', { name: 'Show all' })).toBeVisible();
    expect((await bubble.boundingBox())!.height).toBeLessThan(400);
    await composer(page).fill('word '.repeat(80_000));
    await composer(page).press('Enter');
    await expect(page.getByRole('alert')).toContainText('too long to send');
    await expect(composer(page)).not.toHaveValue('');
    await page.setViewportSize({ width: 390, height: 700 });
    await expect(page.getByRole('button', { name: 'Send' })).toBeInViewport();
});

test('the theme follows the system until one is chosen, and the choice stays', async ({ page }) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.emulateMedia({ colorScheme: 'dark' });
    await expect.poll(ground).toBe('rgb(20, 21, 23)');
    await page.getByRole('button', { name: /settings/ }).click();
    await page.getByRole('menuitemradio', { name: 'Light theme' }).click();
    await expect.poll(ground).toBe('rgb(252, 252, 250)');
    await page.reload();
    await expect.poll(ground).toBe('rgb(252, 252, 250)');
});
