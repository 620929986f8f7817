/* trusted.ts - the page's only Trusted Types policy. It lets through addresses of our own workers and no HTML at all. */

interface Policy {
    createScriptURL(url: string): unknown;
}
interface Factory {
    createPolicy(name: string, rules: { createScriptURL(url: string): string }): Policy;
}

function makePolicy(): Policy | null {
    const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
    try {
        return factory?.createPolicy('app', { createScriptURL: onlyOurs }) ?? null;
    } catch {
        return null; // the server's policy names another: then there are no workers, and code stays plain
    }
}

function onlyOurs(url: string): string {
    if (/^\/assets\/[\w.-]+\.js$/.test(url)) return url;
    throw new TypeError('not one of our scripts');
}

const policy = makePolicy();

export function startWorker(url: string): Worker {
    return new Worker((policy ? policy.createScriptURL(url) : url) as string, { type: 'module' });
}
