/* hooks.ts - small hooks that several views share. */
import { useEffect, useState } from 'preact/hooks';

/* The time, read again every `everyMs` while it is wanted. */
export function useNow(wanted: boolean, everyMs: number): number {
    const [now, setNow] = useState(Date.now());
    useEffect(() => {
        if (!wanted) return;
        setNow(Date.now());
        const timer = setInterval(() => setNow(Date.now()), everyMs);
        return () => clearInterval(timer);
    }, [wanted, everyMs]);
    return now;
}
