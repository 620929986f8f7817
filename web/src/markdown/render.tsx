/* render.tsx - lexer tokens to virtual nodes. There is no HTML string anywhere on this way.
 *
 *  (1) Raw HTML in Markdown shows as the text it is.
 *  (2) A link is followed only for http, https and mailto; anything else shows as text. A picture becomes a chip with its host:
 *      the page never fetches what a model names.
 *  (3) Every piece of text passes String(), so no object can pose as a node. */
import { Component, type ComponentChildren } from 'preact';
import type { Token, Tokens } from 'marked';
import { Icon } from '../views/icons.tsx';
import { fenceIsClosed, type Block } from './blocks.ts';
import { CodeBlock } from './code.tsx';
import { Formula } from './formula.tsx';
import type { MathToken } from './math.ts';
import { decodeEntities, hostOf, safeHref } from './safe.ts';

function Link({ token }: { token: Tokens.Link }) {
    const href = safeHref(token.href);
    const children = inline(token.tokens);
    if (href === null) return <span class="dead-link">{children}</span>;
    return (
        <a href={href} title={token.title ? decodeEntities(token.title) : undefined} target="_blank" rel="noopener noreferrer">
            {children}
        </a>
    );
}

function ImageChip({ token }: { token: Tokens.Image }) {
    const href = safeHref(token.href);
    const body = (
        <>
            <Icon name="image" size={15} />
            <span>{decodeEntities(String(token.text)) || 'Image'}</span>
            <span class="host">{hostOf(token.href)}</span>
        </>
    );
    if (href === null) return <span class="chip">{body}</span>;
    return (
        <a
            class="chip"
            href={href}
            target="_blank"
            rel="noopener noreferrer"
            title="Pictures are not loaded. Opens in a new tab."
        >
            {body}
        </a>
    );
}

function inline(tokens: Token[] | undefined): ComponentChildren[] {
    return (tokens ?? []).map((token, i) => inlineOne(token, i));
}

function inlineOne(token: Token, key: number): ComponentChildren {
    switch (token.type) {
        case 'strong':
            return <strong key={key}>{inline(token.tokens)}</strong>;
        case 'em':
            return <em key={key}>{inline(token.tokens)}</em>;
        case 'del':
            return <del key={key}>{inline(token.tokens)}</del>;
        case 'codespan':
            return <code key={key}>{String(token.text)}</code>;
        case 'br':
            return <br key={key} />;
        case 'link':
            return <Link key={key} token={token as Tokens.Link} />;
        case 'image':
            return <ImageChip key={key} token={token as Tokens.Image} />;
        case 'formula':
            return <Formula key={key} token={token as unknown as MathToken} />;
        case 'checkbox':
            return (
                <input
                    key={key}
                    type="checkbox"
                    checked={token.checked === true}
                    disabled
                    aria-label={token.checked ? 'Done' : 'To do'}
                />
            );
        case 'html':
            return String(token.raw);
        case 'escape':
            return String(token.text);
        default:
            if ('tokens' in token && Array.isArray(token.tokens)) return inline(token.tokens);
            return decodeEntities(String('text' in token ? token.text : token.raw));
    }
}

function List({ token, closed }: { token: Tokens.List; closed: boolean }) {
    const items = token.items.map((item, i) => (
        <li key={i} class={item.task ? 'task' : undefined}>
            {item.tokens.map((part, j) => block(part, j, closed))}
        </li>
    ));
    const start = token.start === '' || token.start === 1 ? undefined : token.start;
    return token.ordered ? <ol start={start}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ token }: { token: Tokens.Table }) {
    const cell = (of: Tokens.TableCell, i: number, Tag: 'th' | 'td') => (
        <Tag key={i} class={of.align ? `align-${of.align}` : undefined} scope={Tag === 'th' ? 'col' : undefined}>
            {inline(of.tokens)}
        </Tag>
    );
    return (
        <div class="table-box" tabIndex={0} role="group" aria-label="Table">
            <table>
                <thead>
                    <tr>{token.header.map((of, i) => cell(of, i, 'th'))}</tr>
                </thead>
                <tbody>
                    {token.rows.map((row, i) => (
                        <tr key={i}>{row.map((of, j) => cell(of, j, 'td'))}</tr>
                    ))}
                </tbody>
            </table>
        </div>
    );
}

const HEADINGS = ['h3', 'h4', 'h5', 'h6', 'h6', 'h6'] as const; // h1 is the chat's title, h2 names each message

function block(token: Token, key: number, closed: boolean): ComponentChildren {
    switch (token.type) {
        case 'space':
        case 'def':
            return null;
        case 'heading': {
            const Heading = HEADINGS[Math.min(6, Math.max(1, token.depth as number)) - 1]!;
            return (
                <Heading key={key} dir="auto" class={`depth-${token.depth as number}`}>
                    {inline(token.tokens)}
                </Heading>
            );
        }
        case 'paragraph':
            return (
                <p key={key} dir="auto">
                    {inline(token.tokens)}
                </p>
            );
        case 'code':
            return (
                <CodeBlock
                    key={key}
                    code={String(token.text)}
                    info={String(token.lang ?? '')}
                    closed={closed || fenceIsClosed(token.raw)}
                />
            );
        case 'math':
            return (
                <div key={key} class="math-box">
                    <Formula token={token as unknown as MathToken} />
                </div>
            );
        case 'list':
            return <List key={key} token={token as Tokens.List} closed={closed} />;
        case 'blockquote':
            return <blockquote key={key}>{(token.tokens ?? []).map((part, i) => block(part, i, closed))}</blockquote>;
        case 'table':
            return <Table key={key} token={token as Tokens.Table} />;
        case 'hr':
            return <hr key={key} />;
        case 'html':
            return (
                <p key={key} class="raw" dir="auto">
                    {String(token.raw).trimEnd()}
                </p>
            );
        default:
            return inlineOne(token, key);
    }
}

/* One block. It renders again only when its token is another object: a frozen block is left alone while the answer grows. */
export class BlockView extends Component<{ block: Block }> {
    override shouldComponentUpdate(next: { block: Block }): boolean {
        return next.block.token !== this.props.block.token || next.block.closed !== this.props.block.closed;
    }
    override render() {
        return block(this.props.block.token, 0, this.props.block.closed);
    }
}
