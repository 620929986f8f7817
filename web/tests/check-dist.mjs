/* check-dist.mjs - builds the page into a temporary folder and compares it byte for byte with the committed dist.
 * Also looks at the lockfile: it must be usable with any registry, so it carries no addresses. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));
const fresh = mkdtempSync(join(tmpdir(), 'foresay-dist-'));
const trouble = [];

function filesOf(folder) {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(folder.length + 1))
        .sort();
}

try {
    execFileSync(process.execPath, [join(web, 'node_modules/vite/bin/vite.js'), 'build', '--logLevel', 'error'], {
        cwd: web,
        stdio: 'inherit',
        env: { ...process.env, FORESAY_DIST: fresh },
    });
    const dist = join(web, 'dist');
    const [built, committed] = [filesOf(fresh), filesOf(dist)];
    for (const name of new Set([...built, ...committed])) {
        if (!committed.includes(name)) trouble.push(`${name} is not in web/dist`);
        else if (!built.includes(name)) trouble.push(`${name} in web/dist is left from an older build`);
        else if (!readFileSync(join(fresh, name)).equals(readFileSync(join(dist, name)))) trouble.push(`${name} differs`);
    }
    if (/"resolved"/.test(readFileSync(join(web, 'package-lock.json'), 'utf8')))
        trouble.push('package-lock.json carries registry addresses');
} finally {
    rmSync(fresh, { recursive: true, force: true });
}

for (const line of trouble) console.log(line);
console.log(
    trouble.length > 0
        ? 'web/dist is not what the sources give: run `make page` and commit the result'
        : 'web/dist is what the sources give',
);
process.exit(trouble.length > 0 ? 1 : 0);
