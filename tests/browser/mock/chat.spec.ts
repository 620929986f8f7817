/* chat.spec.ts - the ordinary life of a chat: send, stop, regenerate, edit, branches, continue, every way an answer may end. */
import { expectAccessible } from '../axe.ts';
import { answers, ask, begun, composer, history, lastAnswer, over, say, stopButton } from '../page.ts';
import { expect, test } from './fixture.ts';

test('a question is answered, streamed, and the numbers stand below it', async ({ page }) => {
    await say(page, '/slow 40');
    await begun(page);
    const early = (await lastAnswer(page).locator('.prose').innerText()).length;
    await over(page);
    expect((await lastAnswer(page).locator('.prose').innerText()).length).toBeGreaterThan(early);
    await expect(lastAnswer(page).locator('button.stats')).toContainText(/tok\/s.*to first token.*tokens/);
    await expect(page).toHaveURL(/#\/c\/[0-9a-f]{32}$/);
    await expect(page.locator('.row.open')).toContainText('/slow 40');
    expect((await history(page)).at(-1)!.st).toBe('done');
});

test('digits and spaces are those of a text font, whatever emoji font is installed', async ({ page }) => {
    const widths = await page.evaluate(() =>
        ['0000000000', 'nnnnnnnnnn', 'n n n n n n'].map((text) => {
            const span = document.body.appendChild(document.createElement('span'));
            span.textContent = text;
            const width = span.getBoundingClientRect().width;
            span.remove();
            return width;
        }),
    );
    expect(widths[0]! / widths[1]!).toBeLessThan(1.3); /* an emoji font's are twice as wide */
    expect(widths[2]! / widths[1]!).toBeLessThan(1.1);
});

test('the sum of the numbers opens on a press', async ({ page }) => {
    await ask(page, 'hello');
    await lastAnswer(page).locator('button.stats').click();
    await expect(page.locator('.panel:popover-open')).toContainText('Prompt from cache');
});

test('stop keeps the part that was written; continue goes on in the same answer', async ({ page }) => {
    await say(page, '/slow 120');
    await begun(page);
    await stopButton(page).click();
    await over(page);
    const part = await lastAnswer(page).locator('.prose').innerText();
    await expect(lastAnswer(page)).toContainText('You stopped this answer.');
    await lastAnswer(page).getByRole('button', { name: 'Continue' }).click();
    await expect(stopButton(page)).toBeVisible();
    await over(page);
    await expect(answers(page)).toHaveCount(1);
    const whole = (await history(page)).at(-1)!;
    expect(whole.text.replace(/\s+/g, ' ').startsWith(part.replace(/\s+/g, ' ').trimEnd())).toBe(true);
    expect(whole.text.split(' ').length).toBeGreaterThan(100);
    await expect(lastAnswer(page).locator('.prose')).toHaveText(whole.text.replace(/\s*\n+\s*/g, ''), { useInnerText: false });
});

test('regenerate makes a sibling; the arrows turn between them; the choice survives a reload', async ({ page }) => {
    await ask(page, 'hello');
    await lastAnswer(page).hover();
    await lastAnswer(page).getByRole('button', { name: 'Answer again' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    await expect(lastAnswer(page)).toContainText('Answer 2.');
    await lastAnswer(page).getByRole('button', { name: 'Previous branch' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('1/2');
    await expect(lastAnswer(page)).not.toContainText('Answer 2.');
    await page.reload();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('1/2');
    await expect(lastAnswer(page)).not.toContainText('Answer 2.');
});

test('editing a question makes a branch and keeps the old one', async ({ page }) => {
    await ask(page, 'first words');
    await ask(page, 'second words');
    const second = page.locator('article.question').last();
    await second.hover();
    await second.getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('textbox', { name: 'Edit your message' }).fill('better words');
    await page.getByRole('textbox', { name: 'Edit your message' }).press('Enter');
    const edited = page.locator('article.question').last();
    await expect(edited).toContainText('better words');
    await expect(edited.locator('.branch-place')).toHaveText('2/2');
    await expect(answers(page)).toHaveCount(2);
    await over(page);
    await edited.getByRole('button', { name: 'Previous branch' }).click();
    await expect(page.locator('article.question').last()).toContainText('second words');
    // The first message of a chat can be edited too: it becomes a second root.
    const first = page.locator('article.question').first();
    await first.hover();
    await first.getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('textbox', { name: 'Edit your message' }).fill('another beginning');
    await page.getByRole('button', { name: 'Send' }).first().click();
    await expect(page.locator('article.question')).toHaveCount(1);
    await expect(page.locator('article.question .branch-place')).toHaveText('2/2');
    await expect(answers(page)).toHaveCount(1);
    await over(page);
});

test('an answer that fails says why and can be tried again', async ({ page }) => {
    await ask(page, '/error');
    await expect(lastAnswer(page).getByRole('alert')).toContainText('out of memory on the device');
    await lastAnswer(page).getByRole('button', { name: 'Retry' }).click();
    await expect(lastAnswer(page).locator('.branch-place')).toHaveText('2/2');
    await over(page);
    await expect(lastAnswer(page).getByRole('alert')).toHaveCount(0);
});

test('a context that is full offers a new chat or to drop the oldest turns', async ({ page }) => {
    await ask(page, 'hello');
    await say(page, '/refuse me');
    const card = page.getByRole('alert').filter({ hasText: 'no longer fits' });
    await expect(card).toContainText('8,192 tokens');
    await card.getByRole('button', { name: 'New chat' }).click();
    await expect(composer(page)).toHaveValue('/refuse me');
    await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
    await page.goBack();
    await say(page, '/refuse me');
    await card.getByRole('button', { name: 'Drop the oldest turns and retry' }).click();
    await expect(answers(page)).toHaveCount(2);
    await over(page);
    expect((await history(page)).filter((message) => message.text === '/refuse me')).toHaveLength(1);
});

test('a first message that is too long by itself is to be shortened', async ({ page }) => {
    await say(page, '/refuse me');
    const card = page.getByRole('alert').filter({ hasText: 'too long for the model' });
    await expect(card).toContainText('8,192 tokens');
    await expect(card.getByRole('button')).toHaveCount(1);
    await card.getByRole('button', { name: 'Edit' }).click();
    await expect(composer(page)).toHaveValue('/refuse me');
});

test('an answer that could not be saved says so', async ({ page }) => {
    await ask(page, '/unsaved');
    await expect(lastAnswer(page)).toContainText('the sun behind you');
    await expect(lastAnswer(page).getByRole('alert')).toContainText('could not be saved');
});

test('an answer that filled the context says so', async ({ page }) => {
    await ask(page, '/context');
    await expect(lastAnswer(page).getByRole('alert')).toContainText('reached the end of what the model can see');
});

test('a server that is busy is said and nothing is lost', async ({ page }) => {
    await say(page, '/busy now');
    await expect(page.getByRole('alert')).toContainText('The server is busy');
    await page.getByRole('button', { name: 'Edit' }).last().click();
    await expect(composer(page)).toHaveValue('/busy now');
});

test('reading a long prompt shows how far it is; waiting in line is said; trimming is said', async ({ page }) => {
    await say(page, '/prefill');
    await expect(page.getByRole('progressbar', { name: 'Reading the conversation' })).toBeVisible();
    await expect(lastAnswer(page)).toContainText(/of 5,120 tokens/);
    await over(page);
    await expect(page.getByRole('progressbar')).toHaveCount(0);
    await say(page, '/trimmed');
    await expect(lastAnswer(page)).toContainText('does not see the 6 oldest messages');
    await over(page);
});

test('rename and delete, with a question before', async ({ page, mock }) => {
    await mock.act('seed?n=5');
    await page.reload();
    const row = page.locator('.row').filter({ hasText: 'Tea or coffee?' });
    await row.hover();
    await row.getByRole('button').click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill('Hot drinks');
    await page.getByRole('textbox', { name: 'Title' }).press('Enter');
    await expect(page.locator('.row').filter({ hasText: 'Hot drinks' })).toBeVisible();
    await page.locator('.row').filter({ hasText: 'Hot drinks' }).getByRole('link').click();
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Hot drinks');
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Delete' }).click();
    await expect(page.getByRole('dialog')).toContainText('Hot drinks');
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(page.locator('.row').filter({ hasText: 'Hot drinks' })).toHaveCount(0);
    await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
    await page.reload();
    await expect(page.locator('.row')).toHaveCount(4);
});

test('the list loads page after page and can be filtered', async ({ page, mock }) => {
    await mock.act('seed?n=120');
    await page.reload();
    await expect(page.locator('.row')).toHaveCount(50);
    await page.getByRole('button', { name: 'Load more' }).scrollIntoViewIfNeeded();
    await expect(page.locator('.row')).toHaveCount(100);
    await page.getByRole('searchbox', { name: /Find a chat/ }).fill('packing');
    await expect(page.locator('.row')).toHaveCount(1);
});

test('a search looks through chats that were not loaded yet, and shows many matches in parts', async ({ page, mock }) => {
    await mock.act('seed?n=330');
    await page.reload();
    await expect(page.locator('.row')).toHaveCount(50);
    const search = page.getByRole('searchbox', { name: /Find a chat/ });
    await search.fill('number 32');
    await expect(page.locator('.row')).toHaveCount(11);
    await search.fill('no such title');
    await expect(page.getByText('No chat is called “no such title”.')).toBeVisible();
    await search.fill('');
    await expect(page.locator('.row')).toHaveCount(50);
    for (const rows of [100, 150, 200, 250, 300, 330]) {
        await page.getByRole('button', { name: 'Load more' }).scrollIntoViewIfNeeded();
        await expect(page.locator('.row')).toHaveCount(rows);
    }
    await expect(page.getByRole('button', { name: 'Load more' })).toHaveCount(0);
});

test('an old chat that the list has not loaded has its title and can be renamed', async ({ page, mock }) => {
    await mock.act('seed?n=120');
    await page.reload();
    await page.getByRole('searchbox', { name: /Find a chat/ }).fill('number 110');
    await page.locator('.row').getByRole('link').click();
    await page.reload();
    await expect(page.locator('.row')).toHaveCount(50);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('An older conversation, number 110');
    await page.getByRole('button', { name: 'Options for this chat' }).click();
    await page.getByRole('menuitem', { name: 'Rename' }).click();
    await page.getByRole('textbox', { name: 'Title' }).fill('Found again');
    await page.keyboard.press('Enter');
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Found again');
    // It does not stand at the end of the list, which would hide those between.
    await expect(page.locator('.row')).toHaveCount(50);
    await page.getByRole('button', { name: 'Load more' }).scrollIntoViewIfNeeded();
    await expect(page.locator('.row')).toHaveCount(100);
    await page.getByRole('button', { name: 'Load more' }).scrollIntoViewIfNeeded();
    await expect(page.locator('.row')).toHaveCount(120);
});

test('formulas are laid out; money and what is not understood stay text', async ({ page }) => {
    const loaded: string[] = [];
    page.on('request', (request) => loaded.push(request.url()));
    const drawers = () => loaded.filter((url) => url.includes('/assets/tex-')).length;
    await ask(page, '/echo Money $5 and $10.');
    expect(drawers()).toBe(0);
    await ask(page, '/echo Energy \\(E = m_0 c^2\\), money $5 and $10.\n\n\\[\n\\frac{a_1}{b_2}\n= *c*\n\\]\n\nThen $\\nosuch{x}_1$.');
    const prose = lastAnswer(page).locator('.prose');
    await expect(prose.locator('math[display=inline] msup')).toHaveText('c2');
    await expect(prose.locator('math[display=block] mfrac')).toHaveText('a1b2');
    expect(await prose.locator('mfrac').evaluate((el) => el.getBoundingClientRect().height)).toBeGreaterThan(20);
    await expect(prose).toContainText('money $5 and $10.');
    await expect(prose.locator('code.tex')).toHaveText('$\\nosuch{x}_1$');
    expect(drawers()).toBe(1);
    await expectAccessible(page, 'formulas');
});

test('rows of a formula stand under each other; a wide one scrolls in its box', async ({ page }) => {
    await page.setViewportSize({ width: 390, height: 800 });
    await ask(page, `/echo \\[ long &= x \\in \\mathbb{R} \\\\ s &= \\boxed{y} \\]\n\n$$${'b + '.repeat(90)}b$$`);
    const prose = lastAnswer(page).locator('.prose');
    await expect(prose.locator('math')).toHaveCount(2);
    await expect(prose.locator('mtr').first()).toContainText('ℝ');
    const edge = (side: 'left' | 'right', i: number) =>
        prose.locator('mtd > *').nth(i).evaluate((el, side) => Math.round(el.getBoundingClientRect()[side]), side);
    expect(await edge('right', 0)).toBe(await edge('right', 2));
    expect(await edge('left', 1)).toBe(await edge('left', 3));
    expect(await edge('left', 2)).toBeGreaterThan((await edge('left', 0)) + 10);
    expect(await prose.locator('menclose').evaluate((el) => getComputedStyle(el).borderTopWidth)).toBe('1px');
    const wide = await prose.locator('.wide-block').last().evaluate((el) => [el.scrollWidth > el.clientWidth, el.clientWidth <= 390]);
    expect(wide).toEqual([true, true]);
});

test('a formula that is drawn stays the same node while its paragraph grows', async ({ page }) => {
    await say(page, '/type Here is $\\frac{a}{b}$ and more words that follow in the same paragraph, one by one, until it ends.');
    const drawn = await lastAnswer(page).locator('math').elementHandle();
    await over(page);
    expect(await lastAnswer(page).locator('math').evaluate((el, before) => el === before, drawn)).toBe(true);
    await expect(lastAnswer(page).locator('.prose')).toContainText('until it ends.');
});

test('a hostile formula stays text', async ({ page }) => {
    const hostile = [
        '$\\href{javascript:alert(1)}{x}$',
        '$\\url{https://evil.example/}$',
        '$\\includegraphics{https://evil.example/a.png}$',
        '$\\htmlStyle{color: red}{x}$',
        `$\\def\\a{${'x'.repeat(500)}}${'\\a'.repeat(500)}$`,
        `$${'{'.repeat(3000)}$`,
    ];
    await ask(page, `/echo ${hostile.join('\n\n')}\n\n$\\text{<img src=x>} \\pmb{x}$`);
    const prose = lastAnswer(page).locator('.prose');
    await expect(prose.locator('math')).toHaveCount(1); // and no violation of the policy, see the fixture
    await expect(prose.locator('code.tex')).toHaveText(hostile);
    await expect(prose.locator('a, img, [style]')).toHaveCount(0);
});

test('a draft is kept for each chat and over a reload', async ({ page, mock }) => {
    await mock.act('seed?n=3');
    await page.reload();
    await page.locator('.row').nth(1).getByRole('link').click();
    await composer(page).fill('half a thought');
    await page.locator('.row').nth(2).getByRole('link').click();
    await expect(composer(page)).toHaveValue('');
    await page.waitForTimeout(400);
    await page.reload();
    await page.locator('.row').nth(1).getByRole('link').click();
    await expect(composer(page)).toHaveValue('half a thought');
});

test('settings go with each message and reset to the defaults', async ({ page }) => {
    const sent: string[] = [];
    page.on('websocket', (socket) => socket.on('framesent', (frame) => sent.push(String(frame.payload))));
    await page.reload();
    await page.keyboard.press('Control+,');
    await page.getByRole('spinbutton', { name: 'Temperature' }).fill('0.3');
    await page.getByRole('spinbutton', { name: 'Seed' }).fill('99');
    await page.getByRole('textbox', { name: 'System prompt' }).fill('Be brief.');
    await page.keyboard.press('Escape');
    await ask(page, 'hello');
    const send = sent.map((frame) => JSON.parse(frame)).find((frame) => frame.t === 'send');
    expect(send.gen).toEqual({ temp: 0.3, seed: 99, system: 'Be brief.' });
    await page.keyboard.press('Control+,');
    await page.getByRole('button', { name: 'Reset to defaults' }).click();
    await page.keyboard.press('Escape');
    await ask(page, 'again');
    expect(JSON.parse(sent.findLast((frame) => frame.includes('"send"'))!).gen).toBeUndefined();
});

test('a search also shows what was said; a hit opens its chat, branch and message', async ({ page, mock }) => {
    await mock.act('seed?n=4&turns=90');
    await page.reload();
    const search = page.getByRole('searchbox', { name: /Find a chat/ });
    await search.fill('rainbows form, part 3');
    await expect(page.locator('.hit')).toHaveCount(18);
    await expect(page.locator('.hit mark').first()).toHaveText('rainbows');
    await expect(page.getByRole('status')).toHaveText('18 messages found');
    // By keyboard: from the field down to the last one, which is far above the newest messages.
    for (let i = 0; i < 18; i++) await page.keyboard.press('ArrowDown');
    await expect(page.locator('.hit a').last()).toBeFocused();
    await page.keyboard.press('Enter');
    const bubble = page.locator('.bubble-text', { hasText: /part 3$/ });
    const message = page.locator('article.question').filter({ has: bubble });
    await expect(message).toBeFocused();
    await expect(message).toBeInViewport();
    await expect(message).toHaveClass(/found/);
    await expect(page).toHaveURL(/#\/c\/[0-9a-f]{32}$/);
    await expect(message).not.toHaveClass(/found/);
    // Back to it once more, after scrolling away.
    await page.getByRole('button', { name: 'Latest' }).click();
    await expect(message).not.toBeInViewport();
    await page.locator('.hit a').last().click();
    await expect(message).toBeInViewport();
    await search.fill('nowhere at all');
    await expect(page.locator('.hit')).toHaveCount(0);
    await expect(page.getByText('No chat is called')).toContainText('No message says so, either.');
});

test('a hit in another branch turns to it; an excerpt is text, not markup', async ({ page }) => {
    await ask(page, 'the <b>first</b> words');
    await page.locator('article.question').hover();
    await page.locator('article.question').getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('textbox', { name: 'Edit your message' }).fill('quite another');
    await page.keyboard.press('Enter');
    await over(page);
    await expect(page.locator('article.question .branch-place')).toHaveText('2/2');
    await page.getByRole('searchbox', { name: /Find a chat/ }).fill('first');
    await expect(page.locator('.hit')).toHaveCount(1);
    await expect(page.locator('.hit')).toContainText('the <b>first</b> words');
    await page.locator('.hit a').click();
    await expect(page.locator('article.question .branch-place')).toHaveText('1/2');
    await expect(page.locator('article.question')).toBeFocused();
});

test('in a long message the words themselves are in sight and lit up, also in a folded question', async ({ page }) => {
    await ask(page, `/echo ${'Much text. '.repeat(600)}\n\nThen the Nädel, and an end.`);
    await page.getByRole('button', { name: 'New chat' }).click();
    await page.getByRole('searchbox', { name: /Find a chat/ }).fill('nädel');
    await expect(page.locator('.hit')).toHaveCount(2);
    const lit = (selector: string) =>
        page.evaluate((within) => {
            const found = (CSS as unknown as { highlights: Map<string, Iterable<Range>> }).highlights.get('found') ?? [];
            return [...found]
                .filter((range) => range.startContainer.parentElement!.closest(within))
                .map((range) => ({ text: range.toString(), top: range.getBoundingClientRect().top }));
        }, selector);
    for (const [place, selector] of [
        [0, 'article.answer'],
        [1, 'article.question'],
    ] as const) {
        await page.locator('.hit a').nth(place).click();
        await expect(page.locator(selector)).toBeFocused();
        await expect.poll(async () => (await lit(selector)).map(({ text }) => text)).toEqual(['Nädel']);
        const { top } = (await lit(selector))[0]!;
        expect(top).toBeGreaterThan(60);
        expect(top).toBeLessThan(680); // above the message field
        await expect.poll(() => lit(selector)).toEqual([]);
    }
});
