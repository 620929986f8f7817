/* guesses.tsx - how an answer came: its text coloured by who knew it first, and round by round the tree that was guessed.
 *
 *  (1) Never colour alone: what was guessed is underlined, what the model drew itself dotted, wrong guesses are struck through; and
 *      each has its word for those who listen.
 *  (2) The slider is the way to a round for keys and screen readers; a press on the text is a short cut to it.
 *  (3) While the answer is written the view looks at it a few times a second and stays with the newest round, until another
 *      one is chosen. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { formatCount, formatRate } from '../format.ts';
import { labelOf, piecesOf, sumsOf, treeOf, visible, type Leaf, type Piece, type Round, type Run } from '../guesses.ts';
import { chat } from '../session.ts';
import { dialog } from '../ui.ts';
import { Modal } from './dialog.tsx';
import { useNow } from './hooks.ts';
import { Icon } from './icons.tsx';

const LOOK_MS = 250;

const KINDS = {
    guessed: 'Guessed ahead, and right',
    drawn: 'Drawn by the model at the end of a round',
    plain: 'Nothing was guessed here',
} as const;

const OFF: Record<string, string> = {
    none: 'guessing ahead is turned off',
    prompts: 'prompts of other chats were being read',
    'no guess': 'nothing like it was known',
    cost: 'it would not have paid',
    loss: 'late guesses had cost more than they gained',
    room: 'there was no memory for it',
};

const BY: Record<string, string> = {
    suffix: 'seen in this chat',
    own: 'from your own earlier answers',
    ngram: 'from the n-gram store',
    model: 'from the draft model',
    eagle: 'from the drafting head',
    medusa: 'from the drafting head',
    blockwise: 'from the drafting head',
    recurrent: 'from the drafting head',
};

function Sums({ rounds }: { rounds: readonly Round[] }) {
    const { guessed, right, each, by } = sumsOf(rounds);
    const rows = [
        ['Rounds', formatCount(rounds.length)],
        ['Tokens a round', formatRate(each)],
        ['Guesses', formatCount(guessed)],
        ['Right', `${formatCount(right)} (${Math.round((100 * right) / Math.max(1, guessed))}%)`],
    ];
    const sources = by.map(([source, n]) => `${formatCount(n)} ${BY[source] ?? `by ${source}`}`).join(', ');
    return (
        <section>
            <dl class="guess-sums">
                {rows.map(([name, value]) => (
                    <div key={name}>
                        <dt>{name}</dt>
                        <dd>{value}</dd>
                    </div>
                ))}
            </dl>
            {sources && <p class="setting-help">Of the right ones {sources}.</p>}
        </section>
    );
}

/* A line break keeps its sign and breaks the line. */
function shown(piece: Piece): string {
    return visible(piece.text).replaceAll('↵', '↵\n');
}

/* The chosen round's pieces come into the box's view; the dialog itself stays. */
function scrollTo(box: HTMLElement): void {
    const here = box.querySelector<HTMLElement>('.here');
    if (!here) return;
    const low = here.offsetTop - box.clientHeight + 48;
    box.scrollTop = Math.max(low, Math.min(box.scrollTop, here.offsetTop - 24));
}

function Text({ pieces, at, choose }: { pieces: Piece[]; at: number; choose: (round: number) => void }) {
    const box = useRef<HTMLParagraphElement>(null);
    useEffect(() => scrollTo(box.current!), [at]);
    const onClick = (event: MouseEvent) => {
        const round = (event.target as HTMLElement).closest<HTMLElement>('[data-round]')?.dataset.round;
        if (round !== undefined) choose(Number(round));
    };
    return (
        <p ref={box} class="guess-text" dir="auto" tabIndex={0} role="region" aria-label="The answer, piece by piece" onClick={onClick}>
            {pieces.map((piece, i) =>
                piece.round < 0 ? (
                    shown(piece)
                ) : (
                    <span
                        key={i}
                        class={`guess ${piece.how} ${piece.round === at ? 'here' : ''}`}
                        data-round={piece.round}
                        title={KINDS[piece.how]}
                    >
                        {shown(piece)}
                    </span>
                ),
            )}
        </p>
    );
}

const WORDS = { known: 'after', right: 'guessed right', wrong: 'wrong guess', drawn: 'drawn by the model' } as const;

function Node({ leaf }: { leaf: Leaf }) {
    const chance = leaf.chance === null ? '' : `${Math.round(leaf.chance * 100)}%`;
    const words = [WORDS[leaf.kind], BY[leaf.by ?? '']].filter(Boolean).join(', ');
    return (
        <span class={`node ${leaf.kind}`} title={words}>
            <span class="visually-hidden">{words}: </span>
            <span class="guess-token">{labelOf(leaf.token)}</span>
            {chance !== '' && <small>{chance}</small>}
        </span>
    );
}

function Branch({ run }: { run: Run }) {
    return (
        <li>
            <span class="run">
                {run.leaves.map((leaf, i) => (
                    <Node key={i} leaf={leaf} />
                ))}
            </span>
            {run.forks.length > 0 && (
                <ul>
                    {run.forks.map((fork, i) => (
                        <Branch key={i} run={fork} />
                    ))}
                </ul>
            )}
        </li>
    );
}

/* Tokens a round, one bar each: the model's own below, what was guessed on it. A press chooses the round. */
function Bars({ rounds, at, choose }: { rounds: readonly Round[]; at: number; choose: (round: number) => void }) {
    const most = Math.max(...rounds.map((round) => round.acc)) + 1;
    const bars = (from: (round: Round) => number, to: (round: Round) => number) =>
        rounds.map((round, i) => `M${i} ${most - from(round)}V${most - to(round)}h1V${most - from(round)}z`).join('');
    const onClick = (event: MouseEvent) => {
        const box = (event.currentTarget as Element).getBoundingClientRect();
        choose(Math.min(rounds.length - 1, Math.floor(((event.clientX - box.left) / box.width) * rounds.length)));
    };
    return (
        <svg
            class="guess-bars"
            viewBox={`0 0 ${rounds.length} ${most}`}
            preserveAspectRatio="none"
            aria-hidden="true"
            onClick={onClick}
        >
            <rect class="here" x={at} width={1} height={most} />
            <path class="drawn" d={bars(() => 0, () => 1)} />
            <path class="guessed" d={bars(() => 1, (round) => round.acc + 1)} />
        </svg>
    );
}

function RoundView({ rounds, at, choose }: { rounds: readonly Round[]; at: number; choose: (round: number) => void }) {
    const round = rounds[at]!;
    const words = `${formatCount(round.acc)} of ${formatCount(round.nodes.length - 1)} guesses right`;
    const step = (by: number) => choose(Math.min(rounds.length - 1, Math.max(0, at + by)));
    return (
        <section>
            <div class="section-head">
                <h3>
                    Round {formatCount(at + 1)} of {formatCount(rounds.length)}: {words}, {formatCount(round.acc + 1)} token
                    {round.acc > 0 ? 's' : ''} in one step
                </h3>
            </div>
            <div class="guess-steps">
                <button type="button" class="icon-button" aria-label="Round before" onClick={() => step(-1)} disabled={at === 0}>
                    <Icon name="left" />
                </button>
                <div class="guess-track">
                    <Bars rounds={rounds} at={at} choose={choose} />
                    <input
                        type="range"
                        aria-label="Round"
                        aria-valuetext={`Round ${at + 1}: ${words}`}
                        min={1}
                        max={rounds.length}
                        value={at + 1}
                        onInput={(event) => choose(Number(event.currentTarget.value) - 1)}
                    />
                </div>
                <button
                    type="button"
                    class="icon-button"
                    aria-label="Next round"
                    onClick={() => step(1)}
                    disabled={at === rounds.length - 1}
                >
                    <Icon name="right" />
                </button>
            </div>
            <ul class="guess-tree" aria-label="What was guessed">
                <Branch run={treeOf(round)} />
            </ul>
        </section>
    );
}

export function GuessesDialog({ message }: { message: string }) {
    const open = chat.value;
    const live = open.lives.value.get(message) ?? null;
    const [picked, pick] = useState<number | null>(null);
    useNow(live !== null, LOOK_MS);
    const stored = open.messages.value.get(message);
    const stream = live?.stream.peek();
    const rounds = [...open.guessesOf(message), ...(stream?.rounds ?? [])];
    const text = stream?.text ?? stored?.text ?? '';
    const at = Math.min(picked ?? rounds.length - 1, rounds.length - 1);
    const choose = (round: number) => pick(round === rounds.length - 1 ? null : round);
    const why = OFF[stored?.usage?.draft_off ?? ''];
    const lost = stored?.usage?.traces_lost ?? 0;
    return (
        <Modal title="How this answer came" class="guesses" onClose={() => void (dialog.value = null)}>
            {rounds.length === 0 ? (
                <p class="modal-text">
                    {live ? 'Nothing was guessed ahead yet.' : `Nothing was guessed ahead in this answer${why ? `: ${why}` : ''}.`}
                </p>
            ) : (
                <div class="settings">
                    <Sums rounds={rounds} />
                    <section>
                        <ul class="guess-legend">
                            {(['guessed', 'drawn', 'plain'] as const).map((how) => (
                                <li key={how}>
                                    <span class={`guess ${how}`} aria-hidden="true">
                                        word
                                    </span>{' '}
                                    {KINDS[how]}
                                </li>
                            ))}
                        </ul>
                        <Text pieces={piecesOf(text, rounds)} at={at} choose={choose} />
                        {lost > 0 && <p class="setting-help">{formatCount(lost)} rounds were too many to be told.</p>}
                    </section>
                    <RoundView rounds={rounds} at={at} choose={choose} />
                </div>
            )}
        </Modal>
    );
}
