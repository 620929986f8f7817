/* server-test.ts - a test with the real gateway: a server with its own data folder for each test, and a signed-in page that is
 * watched. The server can be killed and started again on the same port with the same data. */
import { expect, test as base } from '@playwright/test';
import { watch } from './page.ts';
import { DataFolder, startForesay, type Server } from './server.ts';

export interface Foresay {
    origin: string;
    kill(signal: NodeJS.Signals): Promise<void>;
    restart(): Promise<void>;
}

interface Options {
    program: string;
    model: string;
    args: string[];
}

export const test = base.extend<Options & { foresay: Foresay; signedIn: void }>({
    program: [process.env.FORESAY_FAKE_BIN ?? '', { option: true }],
    model: ['none', { option: true }],
    args: [[], { option: true }],
    foresay: async ({ program, model, args, context, page }, use) => {
        const data = new DataFolder();
        let server: Server = await startForesay(program, data, { model, args });
        const watched = await watch(context, () => server.origin);
        const port = Number(new URL(server.origin).port);
        await page.goto(server.url);
        await use({
            origin: server.origin,
            kill: (signal) => server.stop(signal),
            restart: async () => void (server = await startForesay(program, data, { model, args, port })),
        });
        await page.goto('about:blank');
        await server.stop();
        data.remove();
        expect(watched.troubles).toEqual([]);
    },
    signedIn: [
        async ({ page, foresay: _ }, use) => {
            await expect(page.getByRole('heading', { name: 'What is on your mind?' })).toBeVisible();
            await use();
        },
        { auto: true },
    ],
});

export { expect };
