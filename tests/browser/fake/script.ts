/* script.ts - what tests/fake_engine.c writes. */

export function scripted(tokens: number): string {
    const kinds = [' w%d', ' né%d', ' 日本%d', ' "q%d"', '\n%d.', ' 🙂%d', ' \\%d', ' <b>%d', '\t%d'];
    return Array.from({ length: tokens }, (_, i) => kinds[i % kinds.length]!.replace('%d', String(i))).join('');
}
