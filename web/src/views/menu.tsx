/* menu.tsx - a button that opens a menu (named by `label`, or by its own text): arrow keys walk it, Escape and a click outside
 * close it, the focus returns to the button.
 *
 * The menu is a popover, so it stands above everything and is never cut off by a scrolling list. */
import type { ComponentChildren } from 'preact';
import { useId, useRef } from 'preact/hooks';
import { Icon, type IconName } from './icons.tsx';

export interface MenuItem {
    label: string;
    icon: IconName;
    run: () => void;
    danger?: boolean;
    checked?: boolean;
}

const GAP = 6;
const EDGE = 8;

/* Below the button, or above it where there is no room; never beyond the edge of the window. */
function place(menu: HTMLElement, button: HTMLElement): void {
    const at = button.getBoundingClientRect();
    const size = menu.getBoundingClientRect();
    const rtl = getComputedStyle(button).direction === 'rtl';
    const left = rtl ? at.left : at.right - size.width;
    const below = at.bottom + GAP;
    const top = below + size.height > innerHeight - EDGE ? Math.max(EDGE, at.top - GAP - size.height) : below;
    menu.style.left = `${Math.min(Math.max(EDGE, left), innerWidth - size.width - EDGE)}px`;
    menu.style.top = `${top}px`;
}

export function Menu(props: {
    label: string;
    ownName?: boolean;
    items: (MenuItem | 'line')[];
    class?: string;
    children: ComponentChildren;
}) {
    const id = useId();
    const button = useRef<HTMLButtonElement>(null);
    const menu = useRef<HTMLDivElement>(null);
    const buttons = () => [...menu.current!.querySelectorAll<HTMLButtonElement>('button')];

    const onToggle = (event: Event) => {
        const open = (event as ToggleEvent).newState === 'open';
        button.current!.setAttribute('aria-expanded', String(open));
        if (!open) return;
        place(menu.current!, button.current!);
        buttons()[0]?.focus();
    };
    const onKeyDown = (event: KeyboardEvent) => {
        const all = buttons();
        const at = all.indexOf(document.activeElement as HTMLButtonElement);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
        if (to !== undefined) {
            event.preventDefault();
            all[(to + all.length) % all.length]?.focus();
        } else if (event.key === 'Tab') {
            menu.current!.hidePopover();
        }
    };
    const choose = (item: MenuItem) => {
        menu.current!.hidePopover();
        item.run();
    };
    return (
        <>
            <button
                ref={button}
                type="button"
                class={props.class ?? 'icon-button'}
                aria-label={props.ownName ? undefined : props.label}
                title={props.label}
                aria-haspopup="menu"
                aria-expanded="false"
                popovertarget={id}
            >
                {props.children}
            </button>
            <div
                ref={menu}
                id={id}
                popover="auto"
                role="menu"
                class="menu"
                aria-label={props.label}
                onToggle={onToggle}
                onKeyDown={onKeyDown}
            >
                {props.items.map((item, i) =>
                    item === 'line' ? (
                        <div key={i} role="separator" />
                    ) : (
                        <button
                            key={i}
                            type="button"
                            role={item.checked === undefined ? 'menuitem' : 'menuitemradio'}
                            aria-checked={item.checked}
                            tabIndex={-1}
                            class={item.danger ? 'danger' : undefined}
                            onClick={() => choose(item)}
                        >
                            <Icon name={item.icon} size={17} />
                            <span>{item.label}</span>
                            {item.checked && <Icon name="check" size={15} />}
                        </button>
                    ),
                )}
            </div>
        </>
    );
}
