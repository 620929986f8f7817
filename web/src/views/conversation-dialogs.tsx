/* conversation-dialogs.tsx - rename and delete a conversation. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { deleteConversation, renameConversation } from '../list.ts';
import { chat, goTo } from '../session.ts';
import { tell } from '../toasts.ts';
import { dialog } from '../ui.ts';
import type { Conversation } from '../wire.ts';
import { Modal } from './dialog.tsx';

const close = () => void (dialog.value = null);

export function RenameDialog({ conversation }: { conversation: Conversation }) {
    const [title, setTitle] = useState(conversation.title);
    const field = useRef<HTMLInputElement>(null);
    // At once, not after the next frame: a key pressed before that would be selected and lost to the one after it.
    useLayoutEffect(() => field.current?.select(), []);
    const submit = (event: Event) => {
        event.preventDefault();
        close();
        void renameConversation(conversation, title);
    };
    return (
        <Modal title="Rename chat" class="small" onClose={close}>
            <form onSubmit={submit}>
                <label class="field">
                    <span>Title</span>
                    <input
                        ref={field}
                        data-first
                        value={title}
                        maxLength={200}
                        dir="auto"
                        onInput={(event) => setTitle(event.currentTarget.value)}
                    />
                </label>
                <footer>
                    <button type="button" class="button" onClick={close}>
                        Cancel
                    </button>
                    <button type="submit" class="button primary" disabled={title.trim() === ''}>
                        Rename
                    </button>
                </footer>
            </form>
        </Modal>
    );
}

export function DeleteDialog({ conversation }: { conversation: Conversation }) {
    const remove = async () => {
        close();
        const wasOpen = chat.value.id.value === conversation.id;
        if (!(await deleteConversation(conversation.id))) return;
        tell('Chat deleted.');
        if (wasOpen) goTo(null);
    };
    return (
        <Modal title="Delete this chat?" class="small" onClose={close}>
            <p class="modal-text">
                <strong>{conversation.title || 'Untitled chat'}</strong> and all its messages will be removed from the server.
                This cannot be undone.
            </p>
            <footer>
                <button type="button" class="button" onClick={close} data-first>
                    Cancel
                </button>
                <button type="button" class="button danger" onClick={() => void remove()}>
                    Delete
                </button>
            </footer>
        </Modal>
    );
}
