/* sidebar.tsx - the list of conversations, by day; a new chat, a filter, the person's menu. A drawer on narrow screens. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { connection } from '../connection.ts';
import { dayGroup } from '../format.ts';
import { newChat, toggleSidebar } from '../keys.ts';
import {
    conversations,
    listState,
    loadAllConversations,
    loadMoreConversations,
    moreConversations,
    refreshList,
    unread,
} from '../list.ts';
import { chat, hrefOf, signOut, welcome } from '../session.ts';
import { change, settings } from '../settings.ts';
import { dialog, drawer, filter, narrow } from '../ui.ts';
import type { Conversation } from '../wire.ts';
import { Keys } from './help.tsx';
import { Icon, Logo } from './icons.tsx';
import { Menu, type MenuItem } from './menu.tsx';

export function conversationMenu(conversation: Conversation): MenuItem[] {
    return [
        { label: 'Rename', icon: 'edit', run: () => void (dialog.value = { kind: 'rename', conversation }) },
        { label: 'Delete', icon: 'trash', danger: true, run: () => void (dialog.value = { kind: 'delete', conversation }) },
    ];
}

function Row({ conversation }: { conversation: Conversation }) {
    const open = chat.value.id.value === conversation.id;
    const title = conversation.title || 'Untitled chat';
    const mark = conversation.live ? 'live' : unread.value.has(conversation.id) ? 'unread' : null;
    return (
        <li class={`row ${open ? 'open' : ''}`}>
            <a
                href={hrefOf(conversation.id)}
                aria-current={open ? 'page' : undefined}
                title={title}
                onClick={() => (drawer.value = false)}
            >
                <span class="row-title" dir="auto">
                    {title}
                </span>
                {mark && (
                    <span
                        class={`dot ${mark}`}
                        role="img"
                        aria-label={mark === 'live' ? 'Answer is being written' : 'New answer'}
                    />
                )}
            </a>
            <Menu label={`Options for ${title}`} items={conversationMenu(conversation)}>
                <Icon name="more" />
            </Menu>
        </li>
    );
}

function groups(list: Conversation[]): [string, Conversation[]][] {
    const now = Date.now();
    const byDay = new Map<string, Conversation[]>();
    for (const one of list) {
        const day = dayGroup(one.ts, now);
        const group = byDay.get(day);
        if (group) group.push(one);
        else byDay.set(day, [one]);
    }
    return [...byDay];
}

const ROWS = 50; // more come when the end of the list is seen: thousands at once would freeze the page

/* Asks for more rows when its own place comes into view. */
function More({ rows, onMore }: { rows: number; onMore: () => void }) {
    const ref = useRef<HTMLButtonElement>(null);
    useEffect(() => {
        const seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && onMore());
        seen.observe(ref.current!);
        return () => seen.disconnect();
    }, [rows]);
    return (
        <button ref={ref} type="button" class="link-button more" onClick={onMore}>
            Load more
        </button>
    );
}

function List() {
    const words = filter.value.trim().toLowerCase();
    const found =
        words === '' ? conversations.value : conversations.value.filter((one) => one.title.toLowerCase().includes(words));
    // Words are looked for in all chats, also in those that were not loaded yet.
    const searching = words !== '' && moreConversations.value;
    const [most, setMost] = useState(ROWS);
    useEffect(() => setMost(ROWS), [words]);
    useEffect(() => void (searching && loadAllConversations(() => filter.value.trim() !== '')), [searching]);
    if (listState.value === 'loading') {
        return (
            <div class="skeleton" aria-hidden="true">
                <i />
                <i />
                <i />
                <i />
            </div>
        );
    }
    if (listState.value === 'failed') {
        return (
            <div class="list-note">
                <p>The chats could not be loaded.</p>
                <button type="button" class="link-button" onClick={() => void refreshList()}>
                    Try again
                </button>
            </div>
        );
    }
    if (found.length === 0 && !searching) {
        return (
            <p class="list-note">
                {words === '' ? 'Your chats will be listed here.' : `No chat is called “${filter.value.trim()}”.`}
            </p>
        );
    }
    const shown = found.slice(0, most);
    const showMore = () => {
        setMost(shown.length + ROWS);
        if (shown.length === found.length) void loadMoreConversations();
    };
    return (
        <>
            {groups(shown).map(([day, list]) => (
                <section key={day}>
                    <h2>{day}</h2>
                    <ul>
                        {list.map((one) => (
                            <Row key={one.id} conversation={one} />
                        ))}
                    </ul>
                </section>
            ))}
            {searching && <p class="list-note">Looking through older chats…</p>}
            {(shown.length < found.length || (moreConversations.value && !searching)) && (
                <More rows={shown.length} onMore={showMore} />
            )}
        </>
    );
}

function Foot() {
    const name = welcome.value?.user.name ?? '';
    const online = connection.link.value.kind === 'online';
    const items: (MenuItem | 'line')[] = [
        { label: 'Settings', icon: 'sliders', run: () => void (dialog.value = { kind: 'settings' }) },
        { label: 'Keyboard shortcuts', icon: 'keyboard', run: () => void (dialog.value = { kind: 'help' }) },
        'line',
        {
            label: 'System theme',
            icon: 'monitor',
            checked: settings.value.theme === 'system',
            run: () => change({ theme: 'system' }),
        },
        { label: 'Light theme', icon: 'sun', checked: settings.value.theme === 'light', run: () => change({ theme: 'light' }) },
        { label: 'Dark theme', icon: 'moon', checked: settings.value.theme === 'dark', run: () => change({ theme: 'dark' }) },
        'line',
        { label: 'Sign out', icon: 'signout', run: () => void signOut() },
    ];
    return (
        <Menu label="Settings, shortcuts, sign out" ownName class="person" items={items}>
            <span class="avatar" aria-hidden="true">
                {(name[0] ?? '?').toUpperCase()}
            </span>
            <span class="person-name">{name || 'Signing in…'}</span>
            <span class={`link-state ${online ? 'online' : 'away'}`}>{online ? 'live' : 'offline'}</span>
            <span class="visually-hidden">, settings</span>
        </Menu>
    );
}

export function Sidebar() {
    const hidden = narrow.value ? !drawer.value : !settings.value.sidebar;
    const ref = useRef<HTMLElement>(null);
    useEffect(() => {
        if (narrow.value && drawer.value) ref.current?.querySelector<HTMLElement>('button')?.focus();
    }, [drawer.value]);
    return (
        <>
            <nav ref={ref} id="sidebar" class={`sidebar ${hidden ? 'hidden' : ''}`} aria-label="Chats" inert={hidden}>
                <div class="sidebar-head">
                    <a class="brand" href="#/" aria-label="Foresay, new chat">
                        <Logo />
                        <span>Foresay</span>
                    </a>
                    <button
                        type="button"
                        class="icon-button"
                        aria-label="Hide the sidebar"
                        title="Hide the sidebar"
                        onClick={toggleSidebar}
                    >
                        <Icon name="sidebar" />
                    </button>
                </div>
                <button type="button" class="new-chat" onClick={newChat}>
                    <Icon name="plus" />
                    <span>New chat</span>
                    <Keys keys="Mod+Shift+O" />
                </button>
                <div class="filter">
                    <Icon name="search" size={16} />
                    <input
                        id="filter"
                        type="search"
                        placeholder="Find a chat"
                        aria-label="Find a chat by its title"
                        value={filter.value}
                        onInput={(event) => (filter.value = event.currentTarget.value)}
                        onKeyDown={(event) => {
                            if (event.key !== 'Escape' || filter.value === '') return;
                            event.preventDefault();
                            filter.value = '';
                        }}
                    />
                </div>
                <div class="list">
                    <List />
                </div>
                <Foot />
            </nav>
            {narrow.value && <div class={`backdrop ${drawer.value ? 'shown' : ''}`} onClick={() => (drawer.value = false)} />}
        </>
    );
}
