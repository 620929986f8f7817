/* sidebar.tsx - the list of conversations, by day; a new chat, the person's menu; what a search finds in titles and in messages. A
 * drawer on narrow screens. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { saveChat } from '../archive.ts';
import { connection } from '../connection.ts';
import { dayGroup, formatDay } from '../format.ts';
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
import { hits, indexing, loadMoreHits, moreHits, searching } from '../search.ts';
import { change, settings } from '../settings.ts';
import { dialog, drawer, filter, narrow } from '../ui.ts';
import type { Conversation, Hit } from '../wire.ts';
import { Keys } from './help.tsx';
import { Icon, Logo } from './icons.tsx';
import { Menu, type MenuItem } from './menu.tsx';

export function conversationMenu(conversation: Conversation): MenuItem[] {
    return [
        { label: 'Rename', icon: 'edit', run: () => void (dialog.value = { kind: 'rename', conversation }) },
        { label: 'Save as Markdown', icon: 'save', run: () => saveChat(conversation.id, 'markdown') },
        { label: 'Save as JSON', icon: 'save', run: () => saveChat(conversation.id, 'json') },
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

const FOUND_ROWS = 20; // titles that a search shows before the messages
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

function HitRow({ hit }: { hit: Hit }) {
    return (
        <li class="hit">
            <a href={hrefOf(hit.conv, hit.id)} onClick={() => (drawer.value = false)}>
                <span class="hit-head">
                    <span class="hit-title" dir="auto">
                        {hit.title || 'Untitled chat'}
                    </span>
                    <time dateTime={new Date(hit.ts).toISOString()}>{formatDay(hit.ts, Date.now())}</time>
                </span>
                <span class="hit-text" dir="auto">
                    {hit.role === 'user' && <span class="hit-role">You: </span>}
                    {hit.text.map((part, i) => (i % 2 === 1 ? <mark key={i}>{part}</mark> : String(part)))}
                </span>
            </a>
        </li>
    );
}

function Hits() {
    if (hits.value.length === 0) return searching.value ? <p class="list-note">Searching messages…</p> : null;
    return (
        <section aria-busy={searching.value}>
            <h2>In messages</h2>
            <ul>
                {hits.value.map((hit) => (
                    <HitRow key={hit.id} hit={hit} />
                ))}
            </ul>
            {moreHits.value && <More rows={hits.value.length} onMore={loadMoreHits} />}
            {indexing.value && <p class="list-note">The server is still making older messages ready for search.</p>}
        </section>
    );
}

/* Arrow keys walk through the field and the links below it. */
function walk(event: KeyboardEvent): void {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    const stops = [...document.querySelectorAll<HTMLElement>('#filter, #sidebar .list a')];
    const at = stops.indexOf(document.activeElement as HTMLElement);
    const to = at < 0 ? undefined : stops[at + step];
    if (!to) return;
    event.preventDefault();
    to.focus();
}

function List() {
    const words = filter.value.trim().toLowerCase();
    const found =
        words === '' ? conversations.value : conversations.value.filter((one) => one.title.toLowerCase().includes(words));
    // Words are looked for in all chats, also in those that were not loaded yet.
    const loading = words !== '' && moreConversations.value;
    const rows = words === '' ? ROWS : FOUND_ROWS;
    const [most, setMost] = useState(rows);
    useEffect(() => setMost(rows), [words]);
    useEffect(() => void (loading && loadAllConversations(() => filter.value.trim() !== '')), [loading]);
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
    if (found.length === 0 && !loading) {
        const nowhere = words !== '' && hits.value.length === 0 && !searching.value;
        return (
            <>
                {words === '' && <p class="list-note">Your chats will be listed here.</p>}
                {nowhere && <p class="list-note">No chat is called “{filter.value.trim()}”. No message says so, either.</p>}
                {words !== '' && <Hits />}
            </>
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
            {loading && <p class="list-note">Looking through older chats…</p>}
            {words === '' && (shown.length < found.length || moreConversations.value) && (
                <More rows={shown.length} onMore={showMore} />
            )}
            {words !== '' && shown.length < found.length && (
                <button type="button" class="link-button more" onClick={showMore}>
                    More titles
                </button>
            )}
            {words !== '' && <Hits />}
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
    useLayoutEffect(() => {
        if (narrow.value && drawer.value) ref.current?.querySelector<HTMLElement>('button')?.focus();
    }, [drawer.value]);
    return (
        <>
            <nav
                ref={ref}
                id="sidebar"
                class={`sidebar ${hidden ? 'hidden' : ''}`}
                aria-label="Chats"
                inert={hidden}
                onKeyDown={walk}
            >
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
                        placeholder="Search chats"
                        aria-label="Find a chat by its title or by what was said"
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
