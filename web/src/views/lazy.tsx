/* lazy.tsx - a dialog whose code comes when it is opened first, so that the page itself comes sooner. */
import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { complain } from '../toasts.ts';
import { dialog } from '../ui.ts';

export function lazy(load: () => Promise<ComponentType>): ComponentType {
    return function Lazy() {
        const [part, setPart] = useState<{ of: ComponentType } | null>(null);
        useEffect(() => {
            load().then(
                (of) => setPart({ of }),
                (error: unknown) => {
                    dialog.value = null;
                    complain('This part of the page could not be loaded.', error);
                },
            );
        }, []);
        return part && <part.of />;
    };
}
