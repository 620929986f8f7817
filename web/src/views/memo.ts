/* memo.ts - a component that renders again only when one of its properties is another value. Lists count as equal item by item,
 * so a freshly filtered array of the same messages does not redraw anything. */
import { Component, h, type FunctionComponent, type VNode } from 'preact';

function same(a: unknown, b: unknown): boolean {
    if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => item === b[i]);
    return a === b;
}

export function memo<P extends object>(view: FunctionComponent<P>): FunctionComponent<P> {
    class Memo extends Component<P> {
        override shouldComponentUpdate(next: P): boolean {
            const before = this.props as Record<string, unknown>;
            const after = next as Record<string, unknown>;
            return Object.keys(after).some((key) => !same(before[key], after[key]));
        }
        override render(): VNode {
            return h(view, this.props as P) as VNode;
        }
    }
    return Memo as unknown as FunctionComponent<P>;
}
