/* lazy.tsx - a dialog whose code comes after the page, so that this comes sooner: a while later, and then it opens without the
 * network, or when it is opened before. */
import { h, type Attributes, type ComponentChild, type ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { complain } from '../toasts.ts';
import { dialog } from '../ui.ts';

const LATER_MS = 5000;

export function lazy<P>(load: () => Promise<ComponentType<P>>): (props: P) => ComponentChild {
    setTimeout(() => load().catch(() => undefined), LATER_MS);
    return function Lazy(props) {
        const [part, setPart] = useState<{ of: ComponentType<P> } | null>(null);
        useEffect(() => {
            load().then(
                (of) => setPart({ of }),
                (error: unknown) => {
                    dialog.value = null;
                    complain('This part of the page could not be loaded.', error);
                },
            );
        }, []);
        return part && h(part.of, props as P & Attributes);
    };
}
