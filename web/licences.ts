/* licences.ts - the notices of what the built page carries: part of the build, because only the build knows which packages end in a
 * bundle. The text is dist/licences.txt; check-dist finds it out of date when a package or its licence has changed. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Plugin } from 'vite';

const packages = new Set<string>(); // of the page and of its workers, which are bundled by themselves

const HEAD = `LICENCES

Foresay itself is under the Apache License 2.0; see the file LICENSE of its sources. The page in this server was built from these
packages as well, whose notices follow; then come the libraries that the server uses.
`;

function noticeOf(name: string): string {
    const folder = new URL(`node_modules/${name}/`, import.meta.url);
    const { version, license } = JSON.parse(readFileSync(new URL('package.json', folder), 'utf8')) as Record<string, string>;
    const file = readdirSync(folder).find((entry) => /^licen[cs]e(\.\w+)?$/i.test(entry));
    if (file === undefined) throw new Error(`${name} has no file with its licence: the page must not carry it`);
    const text = readFileSync(new URL(file, folder), 'utf8').replace(/\r/g, '').trim();
    return `${'-'.repeat(78)}\n${name} ${version} (${license})\n\n${text}\n`;
}

/* Notes the packages whose code is in a bundle; of the page's own, which comes last, it makes the file. */
export function licences(kind: 'page' | 'worker'): Plugin {
    return {
        name: `licences-${kind}`,
        generateBundle(_, bundle) {
            for (const part of Object.values(bundle)) {
                if (part.type !== 'chunk') continue;
                for (const [id, { renderedLength }] of Object.entries(part.modules)) {
                    const name = /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(id)?.[1];
                    if (name !== undefined && renderedLength > 0) packages.add(name);
                }
            }
            if (kind === 'worker') return;
            const notices = [...packages].sort().map(noticeOf);
            const libraries = readFileSync(new URL('libraries.txt', import.meta.url), 'utf8');
            const source = [HEAD, ...notices, `${'-'.repeat(78)}\n${libraries}`].join('\n');
            this.emitFile({ type: 'asset', fileName: 'licences.txt', source });
        },
    };
}
