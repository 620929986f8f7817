/* fixture.ts - a test with the mock server: one server a worker, emptied before each test, and a signed-in page that is watched.
 * */
import { expect, test as base } from '@playwright/test';
import { watch } from '../page.ts';
import { startMock, type Server } from '../server.ts';

export interface Mock {
    origin: string;
    url: string;
    act(action: string, body?: string): Promise<string>;
}

export const test = base.extend<{ mock: Mock; watched: { troubles: string[] }; signedIn: void }, { mockServer: Server }>({
    mockServer: [
        async ({}, use) => {
            const server = await startMock();
            await use(server);
            await server.stop();
        },
        { scope: 'worker' },
    ],
    mock: async ({ mockServer }, use) => {
        const act = async (action: string, body = ''): Promise<string> =>
            (await fetch(`${mockServer.origin}/__mock/${action}`, { method: 'POST', body })).text();
        await act('reset');
        await use({ origin: mockServer.origin, url: mockServer.url, act });
    },
    watched: async ({ context, mock }, use) => {
        const watched = await watch(context, () => mock.origin);
        await use(watched);
        expect(watched.troubles).toEqual([]);
    },
    signedIn: [
        async ({ page, mock, watched: _ }, use) => {
            await page.goto(mock.url);
            await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
            await use();
        },
        { auto: true },
    ],
});

export { expect };
