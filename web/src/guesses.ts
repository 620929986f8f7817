/* guesses.ts - how an answer came, as far as its rounds were told: which pieces of its text were guessed ahead and right, which
 * the model drew itself, and each round's tree of guesses. Pure functions.
 *
 *  (1) A round names its tokens, not their place. They are looked for where the text stood when the round came; what a stop string
 *      or half a character held back may stand before them. A round that is not found leaves its text unmarked, never wrong: the
 *      pieces together are always exactly the text.
 *  (2) Tokens that are parts of one character make one piece. */
import type { GuessNode, Token } from './wire.ts';

export interface Round {
    at: number; // how long the text was when it came
    r: number;
    acc: number;
    bonus: Token;
    nodes: readonly GuessNode[];
}

export type How = 'guessed' | 'drawn' | 'plain'; // plain: nothing was guessed there, or nobody told

export interface Piece {
    text: string;
    how: How;
    round: number; // index of its round, -1 = none
}

const MAX_HELD = 160; // characters that may be held back before a round's text

const utf8 = new TextEncoder();

function bytesOf(token: Token): Uint8Array {
    if (typeof token === 'string') return utf8.encode(token);
    return Array.isArray(token) ? new Uint8Array(token) : new Uint8Array();
}

/* The texts that a round added, each with how its last token came. */
function textsOf(round: Round): { text: string; how: How }[] {
    const path = round.nodes.filter((node, i) => i > 0 && node.right).map((node) => node.token);
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    const texts: { text: string; how: How }[] = [];
    for (const [i, token] of [...path, round.bonus].entries()) {
        const text = decoder.decode(bytesOf(token), { stream: true }).replaceAll('\ufffd', '');
        if (text !== '') texts.push({ text, how: i < path.length ? 'guessed' : 'drawn' });
    }
    return texts;
}

/* Where these texts stand, or -1. An answer's first token may have lost its space. */
function find(text: string, texts: { text: string }[], from: number): number {
    const whole = texts.map((one) => one.text).join('');
    if (whole === '') return -1;
    if (from === 0 && whole.startsWith(' ') && text.startsWith(whole.slice(1))) {
        texts[0]!.text = texts[0]!.text.slice(1);
        return 0;
    }
    const held = text.slice(from, from + MAX_HELD + whole.length).indexOf(whole);
    return held < 0 ? -1 : from + held;
}

export function piecesOf(text: string, rounds: readonly Round[]): Piece[] {
    const pieces: Piece[] = [];
    let at = 0;
    const add = (part: string, how: How, round: number) => {
        if (part !== '') pieces.push({ text: part, how, round });
        at += part.length;
    };
    for (const [i, round] of rounds.entries()) {
        const texts = textsOf(round);
        const begin = find(text, texts, Math.max(at, round.at));
        if (begin < 0) continue;
        add(text.slice(at, begin), 'plain', -1);
        for (const one of texts) add(one.text, one.how, i);
    }
    add(text.slice(at), 'plain', -1);
    return pieces;
}

export interface Sums {
    rounds: number;
    guessed: number;
    right: number;
    each: number; // tokens a round
    by: [source: string, right: number][]; // most first
}

export function sumsOf(rounds: readonly Round[]): Sums {
    let guessed = 0;
    let right = 0;
    const by = new Map<string, number>();
    for (const round of rounds) {
        guessed += round.nodes.length - 1;
        right += round.acc;
        for (const { right: came, by: source } of round.nodes.slice(1)) {
            if (came && source !== null) by.set(source, (by.get(source) ?? 0) + 1);
        }
    }
    const each = rounds.length > 0 ? (right + rounds.length) / rounds.length : 0;
    return { rounds: rounds.length, guessed, right, each, by: [...by].sort((a, b) => b[1] - a[1]) };
}

/* --- the tree of a round, as it is shown: the way the draws went first, the model's own token at its end --- */

export interface Leaf {
    token: Token;
    kind: 'known' | 'right' | 'wrong' | 'drawn';
    chance: number | null;
    by: string | null;
}

/* A run of tokens without a fork, and what follows its last one. */
export interface Run {
    leaves: Leaf[];
    forks: Run[];
}

export function treeOf(round: Round): Run {
    const children: number[][] = round.nodes.map(() => []);
    round.nodes.forEach((node, i) => i > 0 && children[node.parent]!.push(i));
    const end = round.nodes.findLastIndex((node) => node.right);
    const leaf = (i: number): Leaf => {
        const { token, right, chance, by } = round.nodes[i]!;
        return i === 0
            ? { token, kind: 'known', chance: null, by: null }
            : { token, kind: right ? 'right' : 'wrong', chance, by };
    };
    const run = (first: number): Run => {
        const leaves = [leaf(first)];
        let i = first;
        while (children[i]!.length === 1 && i !== end) leaves.push(leaf((i = children[i]![0]!)));
        const next = [...children[i]!].sort((a, b) => Number(round.nodes[b]!.right) - Number(round.nodes[a]!.right));
        const forks = next.map(run);
        if (i !== end) return { leaves, forks };
        const own: Leaf = { token: round.bonus, kind: 'drawn', chance: null, by: null };
        return forks.length > 0 ? { leaves, forks: [{ leaves: [own], forks: [] }, ...forks] } : { leaves: [...leaves, own], forks };
    };
    return run(0);
}

/* A token for the eye: what would be invisible gets a sign, half a character its bytes. */
export function labelOf(token: Token): string {
    if (typeof token === 'string') return visible(token.trim() === '' ? token.replaceAll(' ', '␣') : token);
    if (Array.isArray(token)) return token.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    return token.name;
}

export function visible(text: string): string {
    return text.replaceAll('\n', '↵').replaceAll('\t', '⇥');
}
