/* math.ts - where formulas stand in Markdown: $x$ and \(x\) in a line, $$x$$ and \[x\] in a line or by themselves. For marked's
 * lexer, which would take their underscores, stars and backslashes for its own.
 *
 *  (1) A formula by itself begins a line and goes on to its end mark, at most to the next blank line: what comes after that never
 *      changes what it is, so a growing text may freeze it (blocks.ts).
 *  (2) One dollar is money unless it looks like a formula: no blank inside the marks, no digit behind them, no plain words. */
import { Marked, type TokenizerAndRendererExtension } from 'marked';

export interface MathToken {
    type: 'math' | 'formula'; // by itself, in a line
    raw: string;
    tex: string;
    display: boolean;
    closed: boolean;
}

const BLOCK = /^ {0,3}(?:\$\$((?:(?!\$\$|\n[ \t]*\n)[^])*)(\$\$[ \t]*\n?)?|\\\[((?:(?!\\\]|\n[ \t]*\n)[^])*)(\\\][ \t]*\n?)?)/;
const BLOCK_START = /\n {0,3}(?:\$\$|\\\[)/;
const INLINE =
    /^(?:\$\$((?:(?!\$\$|\n[ \t]*\n)[^])+)\$\$|\\\[((?:(?!\\\]|\n[ \t]*\n)[^])+)\\\]|\\\(((?:(?!\\\)|\n[ \t]*\n)[^])+)\\\)|\$((?!\s)(?:\\[^]|[^$\\\n])+)(?<!\s)\$(?!\d))/;

function looksLikeWords(tex: string): boolean {
    return !tex.includes('\\') && /[A-Za-z]{2,}[ ,.][^=^_+]*[A-Za-z]{2,}/.test(tex);
}

/* The formula that begins this text, or null. */
export function formulaAt(text: string): MathToken | null {
    const found = INLINE.exec(text);
    if (!found || (found[4] !== undefined && looksLikeWords(found[4]))) return null;
    const display = found[1] ?? found[2];
    return { type: 'formula', raw: found[0], tex: (display ?? found[3] ?? found[4])!, display: display !== undefined, closed: true };
}

/* Whether the end of this text stands in a formula by itself that is not closed yet. */
export function insideMath(text: string): boolean {
    return /(?:^|\n) {0,3}(?:\$\$(?:(?!\$\$|\n[ \t]*\n)[^])*|\\\[(?:(?!\\\]|\n[ \t]*\n)[^])*)$/.test(text);
}

const extensions: TokenizerAndRendererExtension[] = [
    {
        name: 'math',
        level: 'block',
        start: (text) => {
            const found = BLOCK_START.exec(text);
            return found ? found.index + 1 : undefined;
        },
        tokenizer: (text) => {
            const found = BLOCK.exec(text);
            if (!found) return undefined;
            const closed = (found[2] ?? found[4]) !== undefined;
            return { type: 'math', raw: found[0], tex: found[1] ?? found[3] ?? '', display: true, closed };
        },
    },
    {
        name: 'formula',
        level: 'inline',
        start: (text) => {
            const at = text.search(/\$|\\[([]/);
            return at < 0 ? undefined : at;
        },
        tokenizer: (text) => (formulaAt(text) as unknown as { type: 'formula'; raw: string } | null) ?? undefined,
    },
];

/* What the lexer needs to know of formulas. */
export const lexerOptions = { gfm: true, ...new Marked({ extensions }).defaults };
