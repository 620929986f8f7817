/* trusted.ts - the page's only Trusted Types policy. It lets through addresses of our own workers and no HTML at all. */

interface Policy {
    createScriptURL(url: string): unknown;
}
interface Factory {
    createPolicy(name: string, rules: { createScriptURL(url: string): string }): Policy;
}

const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes;
const policy = factory?.createPolicy('app', {
    createScriptURL(url) {
        if (/^\/assets\/[\w.-]+\.js$/.test(url)) return url;
        throw new TypeError('not one of our scripts');
    },
});

export function startWorker(url: string): Worker {
    return new Worker((policy ? policy.createScriptURL(url) : url) as string, { type: 'module' });
}
