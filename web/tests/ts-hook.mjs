/* ts-hook.mjs - lets `node --test` read the page's TypeScript on any Node that Vite supports: each file is stripped of its types
 * on the way in. Worker addresses (?worker&url) become a name that is never opened. */
import { readFile } from 'node:fs/promises';
import { register } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';

if (isMainThread) register(import.meta.url);

export async function resolve(specifier, context, next) {
    if (specifier.endsWith('?worker&url'))
        return { url: `data:text/javascript,export default '/assets/none.js'`, shortCircuit: true };
    return next(specifier, context);
}

export async function load(url, context, next) {
    if (!/\.tsx?$/.test(url)) return next(url, context);
    const { transformWithOxc } = await import('vite');
    const path = fileURLToPath(url);
    const { code } = await transformWithOxc(await readFile(path, 'utf8'), path, {
        jsx: { runtime: 'automatic', importSource: 'preact' },
    });
    return { format: 'module', source: code, shortCircuit: true };
}
