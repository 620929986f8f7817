/* axe.ts - WCAG 2.2 A and AA, and axe's best practice, for the page as it stands. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, type Page } from '@playwright/test';

const axe = readFileSync(join(__dirname, '../../web/node_modules/axe-core/axe.min.js'), 'utf8');

export async function expectAccessible(page: Page, state: string): Promise<void> {
    await page.waitForTimeout(250); // transitions
    await page.evaluate(axe);
    const found = await page.evaluate(async () => {
        const run = (
            window as unknown as {
                axe: {
                    run(
                        context: Document,
                        options: object,
                    ): Promise<{ violations: { id: string; nodes: { html: string; failureSummary: string }[] }[] }>;
                };
            }
        ).axe;
        const { violations } = await run.run(document, {
            runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
            rules: { 'heading-order': { enabled: false } }, // the model decides which headings its text has
        });
        return violations.map(
            ({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html.slice(0, 160)} ${node.failureSummary}`).join(' | ')}`,
        );
    });
    expect(found, state).toEqual([]);
}
