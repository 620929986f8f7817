/* icons.tsx - the page's icons, drawn on a 24-unit grid with one stroke; decoration only, names are given by the controls around
 * them. */

const PATHS = {
    plus: 'M12 5v14M5 12h14',
    search: 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM20 20l-4.8-4.8',
    sidebar: 'M4 6.5A2.5 2.5 0 0 1 6.5 4h11A2.5 2.5 0 0 1 20 6.5v11a2.5 2.5 0 0 1-2.5 2.5h-11A2.5 2.5 0 0 1 4 17.5v-11ZM9.5 4v16',
    more: 'M6.2 12a.7.7 0 1 1-1.4 0 .7.7 0 0 1 1.4 0ZM12.7 12a.7.7 0 1 1-1.4 0 .7.7 0 0 1 1.4 0ZM19.2 12a.7.7 0 1 1-1.4 0 .7.7 0 0 1 1.4 0Z',
    copy: 'M9 9.5A1.5 1.5 0 0 1 10.5 8h8A1.5 1.5 0 0 1 20 9.5v9a1.5 1.5 0 0 1-1.5 1.5h-8A1.5 1.5 0 0 1 9 18.5v-9ZM15 8V5.5A1.5 1.5 0 0 0 13.5 4h-8A1.5 1.5 0 0 0 4 5.5v8A1.5 1.5 0 0 0 5.5 15H9',
    check: 'M5 12.5l4.5 4.5L19 7',
    edit: 'M4 20h4L19.2 8.8a2 2 0 0 0 0-2.8L18 4.8a2 2 0 0 0-2.8 0L4 16v4ZM13.5 6.5l4 4',
    retry: 'M20 12a8 8 0 1 1-2.4-5.7M20 4v5h-5',
    left: 'M14.5 6l-6 6 6 6',
    right: 'M9.5 6l6 6-6 6',
    down: 'M12 5v14M6 13l6 6 6-6',
    save: 'M12 4v10.5M7.5 10.5 12 15l4.5-4.5M4.5 18.5v1h15v-1',
    up: 'M12 19V5M6 11l6-6 6 6',
    close: 'M6 6l12 12M18 6L6 18',
    trash: 'M4.5 7h15M9.5 7V4.5h5V7M6.5 7l.8 12.2a1 1 0 0 0 1 .8h7.4a1 1 0 0 0 1-.8L17.5 7M10 11v5M14 11v5',
    sliders: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.8v4.4M9 14.8v4.4',
    keyboard: 'M3.5 8A2 2 0 0 1 5.5 6h13a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2V8ZM7 10h.01M10.3 10h.01M13.7 10h.01M17 10h.01M8 14h8',
    sun: 'M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 2.8v1.7M12 19.5v1.7M2.8 12h1.7M19.5 12h1.7M5.5 5.5l1.2 1.2M17.3 17.3l1.2 1.2M18.5 5.5l-1.2 1.2M6.7 17.3l-1.2 1.2',
    moon: 'M20 14.2A8.2 8.2 0 0 1 9.8 4a8.2 8.2 0 1 0 10.2 10.2Z',
    monitor: 'M3.5 6.5A1.5 1.5 0 0 1 5 5h14a1.5 1.5 0 0 1 1.5 1.5v8A1.5 1.5 0 0 1 19 16H5a1.5 1.5 0 0 1-1.5-1.5v-8ZM9 20h6M12 16v4',
    signout: 'M14 5H6.5A1.5 1.5 0 0 0 5 6.5v11A1.5 1.5 0 0 0 6.5 19H14M10 12h10M16.5 8.5L20 12l-3.5 3.5',
    warning: 'M12 9v4.5M12 17h.01M10.3 4.5L3 17.5A2 2 0 0 0 4.7 20.5h14.6a2 2 0 0 0 1.7-3l-7.3-13a2 2 0 0 0-3.4 0Z',
    offline: 'M4 4l16 16M8.8 15.8a4.6 4.6 0 0 1 5.2-.900M5.5 12.4a9.5 9.5 0 0 1 4-2.3M2.5 9a14 14 0 0 1 4.2-2.7M12 19.5h.01M11 6a14 14 0 0 1 10.5 3M15 10.8a9.5 9.5 0 0 1 3.5 1.6',
    play: 'M8 5.5v13l10.5-6.5L8 5.5Z',
    image: 'M4 6.5A1.5 1.5 0 0 1 5.5 5h13A1.5 1.5 0 0 1 20 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5v-11ZM4 16l4.5-4.5 4 4 2.5-2.5 5 5M15.5 9h.01',
    key: 'M14.5 13.5a4.5 4.5 0 1 0-4.3-3.2L4 16.5V20h3.5v-2.5H10V15l1.7-1.7c.800.2 1.8.2 2.8.2ZM15.8 8.2h.01',
    info: 'M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17ZM12 11.5v4.5M12 8h.01',
    code: 'M8.5 7l-5 5 5 5M15.5 7l5 5-5 5',
    table: 'M4 6.5A1.5 1.5 0 0 1 5.5 5h13A1.5 1.5 0 0 1 20 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5v-11ZM4 10h16M10 10v9',
    bulb: 'M9.5 17.5h5M10.5 20.5h3M9.5 17.5c0-2.5-3-3.6-3-7.5a5.5 5.5 0 0 1 11 0c0 3.9-3 5-3 7.5',
    fork: 'M4 12h5.5M9.5 12C13 12 12.5 6 16 6h4M9.5 12c3.5 0 3 6 6.5 6h4M17.5 3.5 20 6l-2.5 2.5',
    clock: 'M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17ZM12 7.5V12l3 2',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
    return (
        <svg class="icon" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
            <path d={PATHS[name]} />
        </svg>
    );
}

/* Two speech bubbles, the second a step ahead of the first. */
export function Logo({ size = 26 }: { size?: number }) {
    return (
        <svg class="logo" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
            <rect class="logo-tile" width="32" height="32" rx="9" />
            <path class="logo-back" d="M8 10.5A3.5 3.5 0 0 1 11.5 7h6a3.5 3.5 0 0 1 3.5 3.5v1" />
            <path
                class="logo-front"
                d="M11 15.5A3.5 3.5 0 0 1 14.5 12h7a3.5 3.5 0 0 1 3.5 3.5v3a3.5 3.5 0 0 1-3.5 3.5h-4.2L13.5 25v-3.2A3.5 3.5 0 0 1 11 18.5v-3Z"
            />
        </svg>
    );
}
