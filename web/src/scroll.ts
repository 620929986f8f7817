/* scroll.ts - who moves the transcript. The reader does; we move it in three cases only, each asked for.
 *
 *  (1) After sending, the question goes to the top and room is kept below it, so the answer grows into empty space (anchor).
 *  (2) While following (the "Latest" button, the End key, or the setting) the end stays in view. A wheel, touch, key, scrollbar
 *      press or selection ends that; a scroll event that the layout caused does not.
 *  (3) When older messages are put before what is shown, the first visible one stays where it is.
 *  The end of an answer moves nothing. A message that was looked for is shown at once (reveal). */
import { signal } from '@preact/signals';
import { findWords, lightUp } from './found.ts';
import { reducedMotion } from './ui.ts';

export const QUESTION_TOP = 16; // px between the header and an anchored question
const FOUND_TOP = 48; // above a message that was looked for: the end of the one before it is in sight
const FOUND_MS = 2400;
const FAR_SCREENS = 2; // beyond that a movement is a jump
const PILL_SHOW = 200;
const PILL_HIDE = 60;
const LEAVING_KEYS = new Set(['ArrowUp', 'ArrowDown', 'PageUp', 'PageDown', 'Home']);

export class ScrollKeeper {
    readonly pill = signal(false);
    onNearTop: () => void = () => undefined;
    onNearEnd: () => void = () => undefined;
    private following = false;
    private anchored = false;
    private tallest = 0; // the window since the anchoring: a field that grew and shrank again must not move the question
    private held: { turn: Element; top: number } | null = null;
    private readonly sizes: ResizeObserver;
    private readonly ends: (() => void)[] = [];

    constructor(
        private readonly scroller: HTMLElement,
        private readonly content: HTMLElement,
    ) {
        this.sizes = new ResizeObserver(() => this.resized());
        this.sizes.observe(scroller);
        this.sizes.observe(content);
        const on = (target: EventTarget, type: string, handler: (event: Event) => void) => {
            target.addEventListener(type, handler, { passive: true });
            this.ends.push(() => target.removeEventListener(type, handler));
        };
        on(scroller, 'scroll', () => this.scrolled());
        on(scroller, 'wheel', (event) => (event as WheelEvent).deltaY < 0 && this.leave());
        on(scroller, 'touchmove', () => this.leave());
        on(scroller, 'pointerdown', (event) => event.target === scroller && this.leave());
        on(document, 'selectionchange', () => this.selecting() && this.leave());
        on(document, 'keydown', (event) => this.keyed(event as KeyboardEvent));
    }

    close(): void {
        this.sizes.disconnect();
        for (const end of this.ends) end();
    }

    /* The last turn is the question just asked. */
    anchor(): void {
        this.following = false;
        this.anchored = true;
        this.tallest = 0;
        this.reserve();
        const turn = this.lastTurn();
        if (!turn) return;
        const top = turn.offsetTop - QUESTION_TOP;
        const near = Math.abs(top - this.scroller.scrollTop) < FAR_SCREENS * this.scroller.clientHeight;
        this.scroller.scrollTo({ top, behavior: near && !reducedMotion() ? 'smooth' : 'auto' });
    }

    follow(): void {
        this.following = true;
        this.toEnd(reducedMotion() ? 'auto' : 'smooth');
    }

    /* A conversation was opened: its end, at once, with no room kept. */
    open(): void {
        this.following = this.anchored = false;
        this.reserve();
        this.toEnd('auto');
    }

    /* A message that was looked for: at the top, or so that the words are in sight; lit up for a moment, and where the keyboard
     * goes on. */
    reveal(message: HTMLElement, words: string): void {
        const folded = message.querySelector<HTMLElement>('.bubble.folded > button');
        this.following = this.anchored = false;
        this.reserve();
        folded?.click();
        if (folded) requestAnimationFrame(() => this.showFound(message, words));
        else this.showFound(message, words);
    }

    private showFound(message: HTMLElement, words: string): void {
        const { ranges, place } = findWords(message, words);
        const top = message.getBoundingClientRect().top;
        const wordTop = place?.getBoundingClientRect().top ?? top;
        const isFar = wordTop - top > this.scroller.clientHeight - 2 * FOUND_TOP;
        const wanted = isFar ? wordTop - this.scroller.clientHeight / 3 : top - FOUND_TOP;
        this.scroller.scrollTop += wanted - this.scroller.getBoundingClientRect().top;
        message.focus({ preventScroll: true });
        lightUp(ranges, FOUND_MS);
        message.classList.add('found');
        setTimeout(() => message.classList.remove('found'), FOUND_MS);
    }

    /* Where the first visible turn stands; remembered with every movement. */
    private hold(): void {
        const top = this.scroller.getBoundingClientRect().top;
        for (const turn of this.content.querySelectorAll('.turn')) {
            const box = turn.getBoundingClientRect();
            if (box.bottom <= top) continue;
            this.held = { turn, top: box.top };
            return;
        }
    }

    /* To be called when turns were put in front or taken away there: what was visible stays where it was. */
    keepPlace(): void {
        if (this.held?.turn.isConnected) this.scroller.scrollTop += this.held.turn.getBoundingClientRect().top - this.held.top;
        this.reserve();
        this.hold();
    }

    /* Asks for more where the reader is near an edge of what is mounted. */
    lookAtEdges(): void {
        const { scrollTop, scrollHeight, clientHeight } = this.scroller;
        if (scrollTop < clientHeight) this.onNearTop();
        if (scrollHeight - scrollTop - clientHeight < clientHeight) this.onNearEnd();
    }

    /* Room below the anchored question: the last turn is at least as tall as the window. */
    reserve(): void {
        const last = this.lastTurn();
        for (const turn of this.content.querySelectorAll<HTMLElement>('.turn')) if (turn !== last) turn.style.minHeight = '';
        if (!last) return;
        this.tallest = Math.max(this.tallest, this.scroller.clientHeight);
        const below = parseFloat(getComputedStyle(this.content).paddingBottom);
        last.style.minHeight = this.anchored ? `${Math.max(0, this.tallest - QUESTION_TOP - below)}px` : '';
    }

    private lastTurn(): HTMLElement | null {
        return [...this.content.querySelectorAll<HTMLElement>('.turn')].at(-1) ?? null;
    }

    private leave(): void {
        this.following = false;
    }

    private selecting(): boolean {
        const selection = getSelection();
        return selection !== null && !selection.isCollapsed && this.content.contains(selection.anchorNode);
    }

    private keyed(event: KeyboardEvent): void {
        if (event.target instanceof HTMLElement && event.target.closest('textarea, input, select, [role=menu]')) return;
        if (LEAVING_KEYS.has(event.key)) this.leave();
        else if (event.key === 'End' && document.activeElement?.closest('dialog') === null) this.follow();
    }

    private toEnd(behavior: ScrollBehavior): void {
        const end = this.anchored ? this.scroller.scrollTop + Math.max(0, this.distance() + 24) : this.scroller.scrollHeight;
        this.scroller.scrollTo({ top: end, behavior });
    }

    /* From the lower edge of the window to the end of the text; negative when the end is above it. */
    private distance(): number {
        const marks = this.content.querySelectorAll('.turn > :last-child');
        const last = marks[marks.length - 1];
        return last ? last.getBoundingClientRect().bottom - this.scroller.getBoundingClientRect().bottom : 0;
    }

    private resized(): void {
        this.reserve();
        if (this.following && this.distance() > 0) this.toEnd('auto');
        this.hold();
        this.judgePill();
    }

    private scrolled(): void {
        this.hold();
        this.judgePill();
        this.lookAtEdges();
    }

    private judgePill(): void {
        const away = this.distance();
        if (away > PILL_SHOW) this.pill.value = true;
        else if (away < PILL_HIDE) this.pill.value = false;
    }
}
