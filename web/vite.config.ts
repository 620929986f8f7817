/* vite.config.ts - how the page is built.
 *
 *  (1) index.html carries no inline script and no inline style: the server sends a strict Content-Security-Policy, so the module
 *      preload polyfill is off and no asset is turned into a data: address.
 *  (2) Every file under assets/ has a content hash in its name; the server lets browsers keep those for ever.
 *  (3) The same sources and lockfile give the same bytes: dist is committed and CI compares. */
import { defineConfig } from 'vite';
import { licences } from './licences.ts';

export default defineConfig({
    base: '/',
    build: {
        outDir: process.env.FORESAY_DIST ?? 'dist',
        emptyOutDir: true,
        target: 'es2022',
        assetsInlineLimit: 0,
        cssCodeSplit: false,
        modulePreload: { polyfill: false },
        reportCompressedSize: false,
    },
    plugins: [licences('page')],
    worker: { format: 'es', plugins: () => [licences('worker')] },
});
