/* random.ts - a small seeded generator (xorshift), so that a failing random test can be run again. */

export function randomFrom(seed: number): (below: number) => number {
    let state = seed | 0 || 1;
    return (below) => {
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        return (state >>> 0) % below;
    };
}
