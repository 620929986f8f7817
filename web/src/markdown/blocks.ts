/* blocks.ts - Markdown that is still growing, cut into blocks that are parsed once.
 *
 *  (1) A block is frozen when a later block has begun, judged only on text up to the last newline: a half-written line may still
 *      turn into something that changes the block before it. A frozen block's object is never replaced while the text grows, so a
 *      view that compares objects leaves its nodes alone.
 *  (2) The tail after the frozen blocks is lexed each time. What stands in an unfinished line is shown as it will most likely
 *      look (tail.ts); it is display only and never frozen.
 *  (3) When the text is complete it is lexed once as a whole, so the result is exactly that of a text which never was a stream.
 *      Blocks that come out the same keep their objects.
 *  (4) A block's key is its offset in the text: it stays the same from its first character to the end. */
import { Lexer, type Token } from 'marked';
import { lexerOptions } from './math.ts';
import { repairTail } from './tail.ts';

export interface Block {
    key: number; // offset in the text
    raw: string;
    token: Token;
    closed: boolean; // nothing will be added
}

type Links = Lexer['tokens']['links'];

function lex(source: string, known: Links): { tokens: Token[]; links: Links } {
    const lexer = new Lexer(lexerOptions);
    Object.assign(lexer.tokens.links, known);
    const tokens = lexer.lex(source);
    return { tokens, links: lexer.tokens.links };
}

function toBlocks(tokens: Token[], offset: number, closed: boolean): Block[] {
    const blocks: Block[] = [];
    for (const token of tokens) {
        if (token.type !== 'space' && token.type !== 'def') blocks.push({ key: offset, raw: token.raw, token, closed });
        offset += token.raw.length;
    }
    return blocks;
}

/* The lexer drops a repeated link definition without a trace; offsets would then be wrong, so such a stretch is not frozen. */
function coversAll(tokens: Token[], length: number): boolean {
    return tokens.reduce((sum, token) => sum + token.raw.length, 0) === length;
}

/* Whether a block reads the same after all definitions are known. Without any definition equal text means equal tokens. */
function sameBlock(old: Block, fresh: Block, anyLinks: boolean): boolean {
    if (old.key !== fresh.key || old.raw !== fresh.raw) return false;
    return !anyLinks || JSON.stringify(old.token) === JSON.stringify(fresh.token);
}

export class GrowingMarkdown {
    private frozen: Block[] = [];
    private frozenEnd = 0; // offset up to which the text is frozen
    private linesEnd = 0; // offset after the last newline that was looked at
    private source = '';
    private links: Links = Object.create(null) as Links;
    private shown: Block[] = [];

    /* The blocks of `text`; `complete` says that no more will come. */
    update(text: string, complete: boolean): Block[] {
        // A carriage return at the end may be half of a line break, so it waits for the next piece.
        const source = text.includes('\r') ? text.replace(/\r$/, complete ? '\n' : '').replace(/\r\n?/g, '\n') : text;
        if (!source.startsWith(this.source)) this.restart();
        this.source = source;
        this.shown = complete ? this.whole(source) : this.partial(source);
        return this.shown;
    }

    private restart(): void {
        this.frozen = [];
        this.frozenEnd = this.linesEnd = 0;
        this.links = Object.create(null) as Links;
    }

    private partial(source: string): Block[] {
        const linesEnd = source.lastIndexOf('\n') + 1;
        if (linesEnd > this.linesEnd) this.freeze(source, linesEnd);
        const tail = repairTail(source.slice(this.frozenEnd));
        const { tokens } = lex(tail, this.links);
        return [...this.frozen, ...toBlocks(tokens, this.frozenEnd, false)];
    }

    private freeze(source: string, linesEnd: number): void {
        this.linesEnd = linesEnd;
        const { tokens, links } = lex(source.slice(this.frozenEnd, linesEnd), this.links);
        if (!coversAll(tokens, linesEnd - this.frozenEnd)) return;
        let live = tokens.length - 1;
        while (live > 0 && tokens[live]!.type === 'space') live--;
        const done = tokens.slice(0, Math.max(0, live));
        this.frozen = [...this.frozen, ...toBlocks(done, this.frozenEnd, true)];
        this.frozenEnd += done.reduce((sum, token) => sum + token.raw.length, 0);
        this.links = links;
    }

    private whole(source: string): Block[] {
        const { tokens, links } = lex(source, Object.create(null) as Links);
        const anyLinks = Object.keys(links).length > 0;
        const known = new Map([...this.shown, ...this.frozen].filter((block) => block.closed).map((block) => [block.key, block]));
        return toBlocks(tokens, 0, true).map((fresh) => {
            const old = known.get(fresh.key);
            return old && sameBlock(old, fresh, anyLinks) ? old : fresh;
        });
    }
}

/* A fence is closed by its own last line; a code block by anything that follows. */
export function fenceIsClosed(raw: string): boolean {
    const open = /^ {0,3}(`{3,}|~{3,})/.exec(raw)?.[1];
    if (!open) return true;
    const lastLine = raw.trimEnd().split('\n').slice(1).at(-1)?.trim() ?? '';
    return lastLine.startsWith(open) && lastLine === lastLine[0]!.repeat(lastLine.length);
}
