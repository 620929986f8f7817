/* playwright.config.ts - the page in Debian's Chromium.
 *
 * usage: cd web && npm run test:browser [-- --project=mock]
 * Projects: `mock` drives the built page (web/dist) against web/tests/mock-server.mjs and reaches every state fast; `fake` uses
 * the real server with a scripted engine (FORESAY_FAKE_BIN), `real` the real server and the real model (FORESAY_BIN,
 * FORESAY_MODEL). A project whose program is not named is left out with a word. The page's Content-Security-Policy stays on
 * everywhere. */
import { defineConfig } from '@playwright/test';

const programs = { fake: process.env.FORESAY_FAKE_BIN, real: process.env.FORESAY_BIN && process.env.FORESAY_MODEL };
const projects = [{ name: 'mock', testDir: 'mock' }];
for (const [name, program] of Object.entries(programs)) {
    if (program) projects.push({ name, testDir: name });
    else if (!process.env.TEST_WORKER_INDEX)
        console.log(`browser tests: project "${name}" is left out, its program is not named in the environment`);
}

export default defineConfig({
    projects,
    outputDir: '../../build/browser-tests',
    workers: 2,
    // CI's machine is shared: a second try tells a stall of the machine from a fault of ours. It is printed as "flaky".
    retries: process.env.FORESAY_CI ? 1 : 0,
    timeout: 60_000,
    expect: { timeout: 10_000 },
    reporter: [['line']],
    use: {
        viewport: { width: 1280, height: 800 },
        actionTimeout: 10_000,
        screenshot: 'only-on-failure',
        launchOptions: {
            executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
            args: [
                '--no-sandbox',
                '--disable-gpu',
                '--disable-quic',
                '--no-first-run',
                '--disable-background-networking',
                '--disable-component-update',
                '--disable-sync',
            ],
        },
    },
});
