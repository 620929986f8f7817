/* keyboard.spec.ts - everything can be done without a mouse, nothing happens while an input method composes, single keys only on
 * messages. */
import { answers, ask, begun, composer, lastAnswer, over, say, stopButton } from '../page.ts';
import { expect, test } from './fixture.ts';

test('a tour by keyboard only: send, stop, continue, edit, find, open, rename, help', async ({ page, mock }) => {
    await mock.act('seed?n=4');
    await page.reload();
    await expect(page.locator('.row')).toHaveCount(4);
    await expect(composer(page)).toBeFocused();
    await page.keyboard.type('/slow 200');
    await page.keyboard.press('Enter');
    await begun(page);
    await page.keyboard.press('Escape');
    await over(page);
    await expect(lastAnswer(page)).toContainText('You stopped this answer.');
    await page.keyboard.press('ArrowUp');
    await expect(page.getByRole('textbox', { name: 'Edit your message' })).toBeFocused();
    await page.keyboard.press('Escape');
    await expect(composer(page)).toBeFocused();
    await page.keyboard.press('Control+k');
    await expect(page.locator('#filter')).toBeFocused();
    await page.keyboard.type('coffee');
    await expect(page.locator('.row')).toHaveCount(1);
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Tea or coffee?');
    await page.locator('.row.open a').focus();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('menuitem', { name: 'Rename' })).toBeFocused();
    await page.keyboard.press('End');
    await expect(page.getByRole('menuitem', { name: 'Delete' })).toBeFocused();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('textbox', { name: 'Title' })).toBeVisible();
    await page.keyboard.type('Tea, of course');
    await page.keyboard.press('Enter');
    await page.locator('#filter').fill('');
    await expect(page.locator('.row.open')).toContainText('Tea, of course');
    await page.keyboard.press('Control+/');
    await expect(page.getByRole('dialog')).toContainText('Keyboard shortcuts');
    await page.keyboard.press('Escape');
    await expect(page.getByRole('dialog')).toHaveCount(0);
    await page.keyboard.press('Shift+Escape');
    await expect(composer(page)).toBeFocused();
    await page.keyboard.press('Control+Shift+O');
    await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
    await expect(composer(page)).toBeFocused();
});

test('the first key in the field of a dialog counts: its old title is selected before anything else happens', async ({
    page,
    mock,
}) => {
    await mock.act('seed?n=1');
    await page.reload();
    await page.locator('.row').hover();
    await page.locator('.row').getByRole('button').click();
    // What is selected when the field appears, before the next frame: a waiting test, or person, would see a later state.
    await page.evaluate(() => {
        const seen = new MutationObserver(() => {
            const field = document.querySelector<HTMLInputElement>('dialog input');
            if (!field) return;
            seen.disconnect();
            const all = document.activeElement === field && field.selectionStart === 0 && field.selectionEnd === field.value.length;
            document.title = all ? 'all selected' : 'not yet';
        });
        seen.observe(document.body, { childList: true, subtree: true });
    });
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await expect(page.getByRole('textbox', { name: 'Title' })).toBeVisible();
    await expect(page).toHaveTitle('all selected');
});

test('on a message: j k c e r and the branch brackets; in the field they are letters', async ({ page }) => {
    await ask(page, 'hello');
    await composer(page).pressSequentially('jkcer[]');
    await expect(composer(page)).toHaveValue('jkcer[]');
    await lastAnswer(page).focus();
    await page.keyboard.press('r');
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    await lastAnswer(page).focus();
    await page.keyboard.press('[');
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('1/2');
    await lastAnswer(page).focus();
    await page.keyboard.press('k');
    await expect(page.locator('article.question')).toBeFocused();
    await page.keyboard.press('j');
    await expect(lastAnswer(page)).toBeFocused();
    await page.keyboard.press('k');
    await page.keyboard.press('e');
    await expect(page.getByRole('textbox', { name: 'Edit your message' })).toBeFocused();
});

test('Enter that ends a composition does not send; Shift+Enter makes a line; the setting turns Enter around', async ({
    page,
}) => {
    const devtools = await page.context().newCDPSession(page);
    await composer(page).focus();
    await devtools.send('Input.imeSetComposition', { text: 'nihon', selectionStart: 5, selectionEnd: 5 });
    await page.evaluate(() => {
        const field = document.querySelector('#composer')!;
        field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }));
        field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }));
    });
    await expect(answers(page)).toHaveCount(0);
    await devtools.send('Input.insertText', { text: '日本' });
    await expect(composer(page)).toHaveValue('日本');
    await composer(page).press('Shift+Enter');
    await composer(page).pressSequentially('second line');
    await expect(composer(page)).toHaveValue('日本\nsecond line');
    await page.keyboard.press('Control+,');
    await page.getByRole('switch', { name: 'Enter sends' }).uncheck();
    await page.keyboard.press('Escape');
    await composer(page).press('Enter');
    await expect(composer(page)).toHaveValue('日本\nsecond line\n');
    await composer(page).press('Control+Enter');
    await expect(answers(page)).toHaveCount(1);
});

test('a message written during an answer waits in line and goes out after it', async ({ page }) => {
    await say(page, '/slow 60');
    await begun(page);
    await composer(page).fill('the next question');
    await composer(page).press('Enter');
    await expect(page.locator('.queued')).toContainText('the next question');
    await expect(stopButton(page)).toBeVisible();
    await page.locator('.queued').getByRole('button', { name: 'Edit' }).click();
    await expect(composer(page)).toHaveValue('the next question');
    await composer(page).press('Enter');
    await expect(answers(page)).toHaveCount(2, { timeout: 20_000 });
    await over(page);
    await expect(page.locator('article.question').last()).toContainText('the next question');
    await expect(page.locator('.queued')).toHaveCount(0);
});

test('a message in line behind an answer that fails waits for a word', async ({ page, mock }) => {
    await say(page, '/slow 200');
    await begun(page);
    await composer(page).fill('and then?');
    await composer(page).press('Enter');
    await mock.act('interrupt');
    await expect(page.locator('.queued')).toContainText('Not sent');
    await page.locator('.queued').getByRole('button', { name: 'Send' }).click();
    await expect(answers(page)).toHaveCount(2);
    await over(page);
});

test('F6 walks through the parts of the page', async ({ page }) => {
    await ask(page, 'hello');
    await composer(page).focus();
    await page.keyboard.press('F6');
    await expect(page.locator('#sidebar :focus')).toHaveCount(1);
    await page.keyboard.press('F6');
    await expect(page.locator('#transcript :focus')).toHaveCount(1);
    await page.keyboard.press('F6');
    await expect(composer(page)).toBeFocused();
});
