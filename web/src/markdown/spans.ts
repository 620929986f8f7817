/* spans.ts - reads the highlighter's output, which is nothing but <span class="..."> and five character references, into a tree.
 *
 * Anything else in it is a fault: the reader then returns null and the code stays plain. A pure function. */

export interface Span {
    name: string;
    parts: Part[];
}
export type Part = string | Span;

const REFERENCES: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', '#x27': "'" };
const PIECE = /<span class="([\w -]+)">|<\/span>|&(amp|lt|gt|quot|#x27);|[^<&]+/gy;

export function readSpans(markup: string): Part[] | null {
    const root: Span = { name: '', parts: [] };
    const stack = [root];
    let text = '';
    const flush = () => {
        if (text !== '') stack.at(-1)!.parts.push(text);
        text = '';
    };
    let end = 0;
    PIECE.lastIndex = 0;
    for (let piece = PIECE.exec(markup); piece; piece = PIECE.exec(markup)) {
        end = PIECE.lastIndex;
        if (piece[1] !== undefined) {
            flush();
            const span: Span = { name: piece[1], parts: [] };
            stack.at(-1)!.parts.push(span);
            stack.push(span);
        } else if (piece[0] === '</span>') {
            flush();
            if (stack.length === 1) return null;
            stack.pop();
        } else {
            text += piece[2] !== undefined ? REFERENCES[piece[2]]! : piece[0];
        }
    }
    flush();
    return end === markup.length && stack.length === 1 ? root.parts : null;
}

export function textOf(parts: Part[]): string {
    return parts.map((part) => (typeof part === 'string' ? part : textOf(part.parts))).join('');
}
