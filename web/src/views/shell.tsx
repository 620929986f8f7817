/* shell.tsx - the page around a conversation: sidebar, header, transcript, composer, and what is laid over them. */
import { useEffect, useRef } from 'preact/hooks';
import { formatContext, formatCount } from '../format.ts';
import { toggleSidebar } from '../keys.ts';
import { chat, openConversation, openTitle, phase, welcome } from '../session.ts';
import { settings } from '../settings.ts';
import { dismiss, toasts } from '../toasts.ts';
import { announce, announcement, dialog, drawer, narrow } from '../ui.ts';
import { Composer, shortName } from './composer.tsx';
import { DeleteDialog, RenameDialog } from './conversation-dialogs.tsx';
import { ExpiredDialog } from './gate.tsx';
import { HelpDialog } from './help.tsx';
import { Icon } from './icons.tsx';
import { lazy } from './lazy.tsx';
import { LinkBar } from './linkbar.tsx';
import { Menu } from './menu.tsx';
import { conversationMenu, Sidebar } from './sidebar.tsx';
import { Transcript } from './transcript.tsx';
import { newChat } from '../keys.ts';

function Header() {
    const model = welcome.value?.model;
    const known = openConversation.value;
    const sidebarAway = narrow.value || !settings.value.sidebar;
    return (
        <header class="header">
            {sidebarAway && (
                <button
                    type="button"
                    class="icon-button"
                    aria-label="Show the sidebar"
                    title="Show the sidebar"
                    onClick={toggleSidebar}
                >
                    <Icon name="sidebar" />
                </button>
            )}
            <h1 dir="auto" title={openTitle.value}>
                {openTitle.value}
            </h1>
            {model && (
                <span class="model" title={`${model.name}, context of ${formatCount(model.ctx)} tokens`}>
                    <span class="model-name">{narrow.value ? shortName(model.name) : model.name}</span>
                    {model.quant && <span class="model-detail">{model.quant}</span>}
                    <span class="model-detail">{formatContext(model.ctx)}</span>
                </span>
            )}
            {sidebarAway && (
                <button type="button" class="icon-button" aria-label="New chat" title="New chat" onClick={newChat}>
                    <Icon name="plus" />
                </button>
            )}
            {known && (
                <Menu label="Options for this chat" items={conversationMenu(known)}>
                    <Icon name="more" />
                </Menu>
            )}
        </header>
    );
}

/* Speaks the beginning and the end of an answer; the text itself is read at the reader's own pace. */
function Announcer() {
    const live = chat.value.running.value;
    const before = useRef(live);
    useEffect(() => {
        const ended = before.current;
        before.current = live;
        if (live && live !== ended) {
            announce('Answer started');
        } else if (!live && ended) {
            const message = chat.value.messages.value.get(ended.message);
            const tokens = message?.usage ? `, ${formatCount(message.usage.out)} tokens` : '';
            announce(message?.st === 'done' ? `Answer complete${tokens}` : 'Answer ended');
        }
    }, [live]);
    return (
        <div class="visually-hidden" role="status" aria-live="polite">
            {announcement.value}
        </div>
    );
}

function Toasts() {
    return (
        <div class="toasts" aria-live="polite">
            {toasts.value.map((toast) => (
                <div key={toast.id} class={`toast ${toast.bad ? 'bad' : ''}`} role={toast.bad ? 'alert' : undefined}>
                    <Icon name={toast.bad ? 'warning' : 'check'} size={17} />
                    <span>{toast.text}</span>
                    <button type="button" class="icon-button" aria-label="Dismiss" onClick={() => dismiss(toast.id)}>
                        <Icon name="close" size={15} />
                    </button>
                </div>
            ))}
        </div>
    );
}

const GuessesDialog = lazy(() => import('./guesses.tsx').then((part) => part.GuessesDialog));
const SettingsDialog = lazy(() => import('./settings.tsx').then((part) => part.SettingsDialog));

function OpenDialog() {
    const open = dialog.value;
    switch (open?.kind) {
        case 'settings':
            return <SettingsDialog />;
        case 'help':
            return <HelpDialog />;
        case 'guesses':
            return <GuessesDialog message={open.message} />;
        case 'rename':
            return <RenameDialog conversation={open.conversation} />;
        case 'delete':
            return <DeleteDialog conversation={open.conversation} />;
        default:
            return null;
    }
}

export function Shell() {
    useEffect(() => {
        document.title = chat.value.id.value === null ? 'Foresay' : `${openTitle.value} · Foresay`;
    }, [openTitle.value, chat.value.id.value]);
    return (
        <>
            <a
                class="skip"
                href="#composer"
                onClick={(event) => (event.preventDefault(), document.getElementById('composer')?.focus())}
            >
                Skip to the message field
            </a>
            <div class="shell">
                <Sidebar />
                <main class="main" inert={narrow.value && drawer.value}>
                    <Header />
                    <LinkBar />
                    <Transcript />
                    <Composer />
                </main>
            </div>
            <Toasts />
            <Announcer />
            <OpenDialog />
            {phase.value === 'expired' && <ExpiredDialog />}
        </>
    );
}
