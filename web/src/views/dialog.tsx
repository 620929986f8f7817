/* dialog.tsx - a native modal dialog with a title; Escape, the cross and a click beside it close it. */
import type { ComponentChildren } from 'preact';
import { useId, useLayoutEffect, useRef } from 'preact/hooks';
import { Icon } from './icons.tsx';

export function Modal(props: { title: string; onClose: () => void; class?: string; children: ComponentChildren }) {
    const ref = useRef<HTMLDialogElement>(null);
    const title = useId();
    // Before the effects of what it holds, which may measure and scroll.
    useLayoutEffect(() => {
        const element = ref.current!;
        const opener = document.activeElement;
        element.showModal();
        // The dialog itself takes the focus unless a control asks for it: no button is lit up before the text was read.
        if (!element.querySelector('[data-first]')) element.focus();
        else element.querySelector<HTMLElement>('[data-first]')!.focus();
        return () => {
            element.close();
            if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
        };
    }, []);
    return (
        <dialog
            ref={ref}
            tabIndex={-1}
            class={`modal ${props.class ?? ''}`}
            aria-labelledby={title}
            onCancel={(event) => {
                event.preventDefault();
                props.onClose();
            }}
            onPointerDown={(event) => event.target === ref.current && props.onClose()}
        >
            <div class="modal-body">
                <header>
                    <h2 id={title}>{props.title}</h2>
                    <button type="button" class="icon-button" aria-label="Close" onClick={props.onClose}>
                        <Icon name="close" />
                    </button>
                </header>
                {props.children}
            </div>
        </dialog>
    );
}
