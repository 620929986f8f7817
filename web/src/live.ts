/* live.ts - an answer that is being written: the stream value (stream.ts), the signals that views watch, the request for lost
 * events.
 *
 *  (1) `text` changes with every delta and is watched by the answer's text alone; `stream` by its status line.
 *  (2) A gap asks once for the events from last + 1 and then waits; a second request goes out only after the first was answered.
 *      */
import { signal, type Signal } from '@preact/signals';
import { connection } from './connection.ts';
import { applyEvent, newStream, type Outcome, type Stream } from './stream.ts';
import { readNothing, type StreamEvent } from './wire.ts';

export class LiveAnswer {
    readonly stream: Signal<Stream>;
    readonly text: Signal<string>;
    readonly began = Date.now();
    heardAt = Date.now(); // when the last event came
    firstTokenAt = 0;
    private asking = false;

    constructor(
        readonly g: string,
        readonly message: string,
        base: string,
        private readonly lost: (error: unknown) => void,
    ) {
        this.stream = signal(newStream(g, base));
        this.text = signal(base);
    }

    apply(event: StreamEvent): Outcome {
        const [next, outcome] = applyEvent(this.stream.peek(), event);
        this.heardAt = Date.now();
        if (outcome === 'gap') this.ask();
        if (outcome === 'dropped' || outcome === 'gap') return outcome;
        if (next.started && this.firstTokenAt === 0) this.firstTokenAt = performance.now();
        this.stream.value = next;
        this.text.value = next.text;
        return outcome;
    }

    /* Asks for the events that follow the last one. */
    ask(): void {
        if (this.asking) return;
        this.asking = true;
        connection
            .request('sub', { g: this.g, from: this.next }, readNothing, { resend: false })
            .catch((error: unknown) => this.lost(error))
            .finally(() => (this.asking = false));
    }

    get next(): number {
        return this.stream.peek().last + 1;
    }

    get ended(): boolean {
        return this.stream.peek().end !== null;
    }

    /* Tokens per second since the first one came; 0 until that says anything. */
    rate(now: number): number {
        const { tokens } = this.stream.peek();
        const seconds = (now - this.firstTokenAt) / 1000;
        return this.firstTokenAt > 0 && tokens > 1 && seconds > 0.3 ? tokens / seconds : 0;
    }
}
