/* server.ts - starts a server for a test, waits for the sign-in address on its output, ends it. Only processes that were started
 * here. */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const START_TIMEOUT_MS = 60_000;

export interface Server {
    url: string; // signs in
    origin: string;
    process: ChildProcess;
    log: () => string;
    stop(signal?: NodeJS.Signals): Promise<void>;
}

async function start(program: string, args: string[], env: Record<string, string> = {}): Promise<Server> {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    let output = '';
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    const url = await new Promise<string>((resolve, reject) => {
        const look = (data: Buffer) => {
            output += data.toString();
            const found = /http:\/\/\S+\/sign-in\?code=\S+/.exec(output);
            if (found) resolve(found[0]);
        };
        child.stdout.on('data', look);
        child.stderr.on('data', look);
        child.once('exit', (code) => reject(new Error(`${program} ended with ${code}:\n${output}`)));
        child.once('error', reject);
        setTimeout(() => reject(new Error(`${program} printed no sign-in address:\n${output}`)), START_TIMEOUT_MS).unref();
    });
    return {
        url,
        origin: new URL(url).origin,
        process: child,
        log: () => output,
        async stop(signal = 'SIGTERM') {
            if (child.exitCode === null && child.signalCode === null) child.kill(signal);
            await ended;
        },
    };
}

export function startMock(): Promise<Server> {
    return start(process.execPath, [join(__dirname, '../../web/tests/mock-server.mjs')]);
}

export class DataFolder {
    readonly path = mkdtempSync(join(tmpdir(), 'foresay-browser-'));
    remove(): void {
        rmSync(this.path, { recursive: true, force: true });
    }
}

/* The server itself, with the real model or (foresay-fake) a scripted engine; `port` 0 takes any free one. */
export function startForesay(
    program: string,
    data: DataFolder,
    more: { port?: number; model?: string; args?: string[] } = {},
): Promise<Server> {
    const args = [
        'serve',
        '--model',
        more.model ?? 'none',
        '--port',
        String(more.port ?? 0),
        '--data',
        data.path,
        ...(more.args ?? []),
    ];
    return start(program, args);
}
