/* found.ts - the words of a search in a message that is shown: where they stand, and lit up for a moment. The text is only looked at;
 * the browser paints the ranges (CSS custom highlights, where it has them), so nothing that is rendered changes. */

const MAX_RANGES = 100;

const highlights = (CSS as unknown as { highlights?: Map<string, unknown> }).highlights;
const Highlight = (globalThis as unknown as { Highlight?: new (...ranges: Range[]) => unknown }).Highlight;

/* As the server counts words: case and accents do not matter. A text in which accents are characters of their own stays as it is,
 * so that places in it stay true. */
function fold(text: string): string {
    const folded = text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase();
    return folded.length === text.length ? folded : text;
}

/* The beginning of a word, in scripts that have such. */
function begins(text: string, at: number): boolean {
    return at === 0 || !/[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\d]{2}/u.test(text.slice(at - 1, at + 1));
}

/* All ranges, and the one to go to: of the places where each word stands first the last, as the excerpts have it. */
export function findWords(element: Element, words: string): { ranges: Range[]; place: Range | null } {
    const wanted = new Set(words.split(/[^\p{L}\p{M}\p{N}\p{S}]+/u).map(fold).filter(Boolean));
    const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const firsts = new Map<string, Range>();
    const ranges: Range[] = [];
    while (walk.nextNode() && ranges.length < MAX_RANGES) {
        const text = fold(walk.currentNode.nodeValue!);
        for (const word of wanted) {
            for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + 1)) {
                if (!begins(text, at)) continue;
                const range = document.createRange();
                range.setStart(walk.currentNode, at);
                range.setEnd(walk.currentNode, at + word.length);
                ranges.push(range);
                if (!firsts.has(word)) firsts.set(word, range);
            }
        }
    }
    return { ranges, place: [...firsts.values()].at(-1) ?? null };
}

export function lightUp(ranges: Range[], forMs: number): void {
    if (!highlights || !Highlight || ranges.length === 0) return;
    const highlight = new Highlight(...ranges);
    highlights.set('found', highlight);
    setTimeout(() => highlights.get('found') === highlight && highlights.delete('found'), forMs);
}
