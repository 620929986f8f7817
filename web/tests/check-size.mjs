/* check-size.mjs - fails when the first route grows over its budget: what a browser loads before anything is typed, gzip -9. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const BUDGET_KB = { js: 60, css: 12 };
const dist = new URL('../dist/', import.meta.url);
const html = readFileSync(new URL('index.html', dist), 'utf8');
let failed = false;

for (const [kind, budget] of Object.entries(BUDGET_KB)) {
    const files = [...html.matchAll(/(?:src|href)="\/(assets\/[^"]+)"/g)]
        .map((match) => match[1])
        .filter((name) => name.endsWith(`.${kind}`));
    const bytes = files.reduce((sum, name) => sum + gzipSync(readFileSync(new URL(name, dist)), { level: 9 }).length, 0);
    const over = files.length === 0 || bytes > budget * 1000;
    failed ||= over;
    console.log(
        `first-route ${kind}: ${(bytes / 1000).toFixed(1)} kB of ${budget} kB gzipped${over ? '  <-- over the budget' : ''}`,
    );
}
if (/<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=/i.test(html)) {
    failed = true;
    console.log('index.html holds an inline script or style; the Content-Security-Policy forbids both');
}
process.exit(failed ? 1 : 0);
