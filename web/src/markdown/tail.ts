/* tail.ts - makes the unfinished end of a Markdown text presentable.
 *
 * Two moves, both for display only: a last line that may still become a fence, a rule, a table or a heading underline is held
 * back until it is finished; and emphasis, code spans and links that were opened in the last line are closed, so that text does
 * not first show as `**bold` and then jump to bold. A pure function; the property test in tests/unit/blocks.test.ts guards the
 * result. */

import { formulaAt, insideMath } from './math.ts';

/* Lines that mean something else once they are longer or finished. */
const UNDECIDED = [
    /^\s*[`~]{1,}[^`\n]*$/, // a fence, or its info string
    /^\s*[-*_=+#>]{1,}\s*$/, // rule, underline, list marker, heading, quote
    /^\s*(?:[-*_]\s*){2,}$/, // a spaced rule
    /^\s*\d{1,9}[.)]?\s*$/, // an ordered list marker
    /^\s*\|.*$/, // a table row
    /^\s*[-*+]\s+\[[ xX]?\]?\s*$/, // a task marker
    /^\s{0,3}\[[^\]]*\]:.*$/, // a link definition
    /^\s*<[^>]*$/, // a tag
];

function insideFence(text: string): boolean {
    let fence = '';
    for (const line of text.split('\n')) {
        const mark = /^\s*(?:>\s*)*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})(.*)$/.exec(line);
        if (!mark) continue;
        const [, marks = '', rest = ''] = mark;
        if (fence === '') fence = marks;
        else if (marks.startsWith(fence) && rest.trim() === '') fence = '';
    }
    return fence !== '';
}

function isTableRow(line: string): boolean {
    return /^\s*\|/.test(line);
}

/* A table shows from its delimiter row on; until then a row of bars is only text. */
function holdTable(before: string, line: string): { before: string; line: string } {
    const lines = before.split('\n');
    const previous = lines.at(-2) ?? '';
    const open = lines.some((row) => /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(row) && row.includes('|'));
    if (open) return { before, line };
    if (isTableRow(previous) && (line === '' || isTableRow(line))) {
        return { before: lines.slice(0, -2).join('\n') + (lines.length > 2 ? '\n' : ''), line: '' };
    }
    return { before, line: isTableRow(line) ? '' : line };
}

/* What closes the spans that are open at the end of a line, innermost first. */
export function closeSpans(line: string): string {
    const open: string[] = [];
    let text = line;
    for (let i = 0; i < text.length; i++) {
        const ch = text[i]!;
        const formula = ch === '$' || ch === '\\' ? formulaAt(text.slice(i)) : null;
        if (formula) {
            i += formula.raw.length - 1;
        } else if (ch === '\\' && /[([]/.test(text[i + 1] ?? '')) {
            break; // a formula that is not closed: nothing in it opens or closes anything
        } else if (ch === '\\') {
            i++;
        } else if (ch === '`') {
            const run = /^`+/.exec(text.slice(i))![0];
            const close = text.indexOf(run, i + run.length);
            if (close < 0) {
                if (text.slice(i + run.length).trim() === '') return text.slice(0, i) + open.reverse().join('');
                return text + run + open.reverse().join('');
            }
            i = close + run.length - 1;
        } else if (ch === '*' || ch === '_' || (ch === '~' && text[i + 1] === '~')) {
            const run = text.slice(i).match(ch === '*' ? /^\*{1,3}/ : ch === '_' ? /^_{1,3}/ : /^~~/)![0];
            const before = text[i - 1] ?? ' ';
            const after = text[i + run.length] ?? '';
            const inWord = ch === '_' && /\w/.test(before) && /\w/.test(after);
            const at = open.lastIndexOf(run);
            if (at >= 0 && !/\s/.test(before)) open.splice(at);
            else if (after === '') {
                // Nothing follows the marker yet: it may open or close, so it is not shown.
                text = text.slice(0, i);
            } else if (!/\s/.test(after) && !inWord) open.push(run);
            i += run.length - 1;
        } else if (ch === '[') {
            // A link or image that is not finished shows its label only; a picture nothing.
            const link = /^\[([^\]]*)(?:\](?:\([^)]*)?)?$/.exec(text.slice(i));
            if (link) {
                const start = text[i - 1] === '!' ? i - 1 : i;
                text = text.slice(0, start) + (start < i ? '' : link[1]!);
                i = start - 1;
            }
        }
    }
    // A closing marker after a blank would not close.
    return open.length > 0 ? text.trimEnd() + open.reverse().join('') : text;
}

export function repairTail(tail: string): string {
    const cut = tail.lastIndexOf('\n') + 1;
    if (insideFence(tail.slice(0, cut))) {
        // Inside a fence only a closing fence is held back.
        return /^\s*[`~]+$/.test(tail.slice(cut)) ? tail.slice(0, cut) : tail;
    }
    if (insideMath(tail)) return tail;
    const { before, line } = holdTable(tail.slice(0, cut), tail.slice(cut));
    if (line === '') return before;
    const inTable = isTableRow(line);
    if (!inTable && UNDECIDED.some((shape) => shape.test(line))) return before;
    const marker = /^\s*(?:>\s*)*(?:(?:[-*+]|\d{1,9}[.)])\s+)?(?:#{1,6}\s+)?/.exec(line)![0];
    return before + marker + closeSpans(line.slice(marker.length));
}
