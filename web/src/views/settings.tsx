/* settings.tsx - theme, keys and sampling, kept in this browser, and what the server keeps for the user. An empty field leaves the
 * choice to the server. */
import type { ComponentChildren } from 'preact';
import { useRef } from 'preact/hooks';
import { change, defaults, LIMITS, MAX_SYSTEM_CHARS, settings, type Scrolling, type Theme } from '../settings.ts';
import { connection } from '../connection.ts';
import { setLearning, welcome } from '../session.ts';
import { importChats, importing, saveAllChats } from '../archive.ts';
import { dialog } from '../ui.ts';
import { Modal } from './dialog.tsx';
import { Icon, type IconName } from './icons.tsx';

const THEMES: { value: Theme; label: string; icon: IconName }[] = [
    { value: 'system', label: 'System', icon: 'monitor' },
    { value: 'light', label: 'Light', icon: 'sun' },
    { value: 'dark', label: 'Dark', icon: 'moon' },
];

const SCROLLING: { value: Scrolling; label: string }[] = [
    { value: 'anchor', label: 'Bring my question to the top' },
    { value: 'follow', label: 'Follow the answer' },
    { value: 'never', label: 'Do not scroll' },
];

const GUESSES_HELP = {
    some: 'New answers tell which words were guessed ahead, as long as the chat stays open.',
    none: 'This server keeps its guesses to itself (--pace-ms).',
};

const CONNECTED = { websocket: 'a WebSocket', sse: 'an event stream', longpoll: 'long polls' };

function ThemeChoice() {
    return (
        <div class="segments" role="radiogroup" aria-label="Theme">
            {THEMES.map(({ value, label, icon }) => (
                <label key={value}>
                    <input
                        type="radio"
                        name="theme"
                        checked={settings.value.theme === value}
                        onChange={() => change({ theme: value })}
                    />
                    <span>
                        <Icon name={icon} size={16} />
                        {label}
                    </span>
                </label>
            ))}
        </div>
    );
}

function Row({ label, help, children }: { label: string; help?: string; children: ComponentChildren }) {
    return (
        <div class="setting">
            <div>
                <div class="setting-label">{label}</div>
                {help && <div class="setting-help">{help}</div>}
            </div>
            {children}
        </div>
    );
}

type NumberSetting = 'temp' | 'top_p' | 'max' | 'seed';

function NumberRow({ name, label, help }: { name: NumberSetting; label: string; help: string }) {
    const { min, max, step } = LIMITS[name];
    const value = settings.value[name];
    const onChange = (event: { currentTarget: HTMLInputElement }) => {
        const typed = event.currentTarget.value.trim();
        change({ [name]: typed === '' ? null : Math.min(max, Math.max(min, Number(typed))) });
        event.currentTarget.value = settings.value[name] === null ? '' : String(settings.value[name]);
    };
    return (
        <Row label={label} help={help}>
            <input
                class="number"
                type="number"
                inputMode="decimal"
                aria-label={label}
                min={min}
                max={max}
                step={step}
                placeholder="Default"
                value={value ?? ''}
                onChange={onChange}
            />
        </Row>
    );
}

function FileRows() {
    const field = useRef<HTMLInputElement>(null);
    const choose = (event: { currentTarget: HTMLInputElement }) => {
        const file = event.currentTarget.files?.[0];
        event.currentTarget.value = '';
        if (file) void importChats(file);
    };
    return (
        <>
            <Row label="Save all my chats" help="One file with all branches, for keeping or for another server.">
                <button type="button" class="button small" onClick={saveAllChats}>
                    Save
                </button>
            </Row>
            <Row label="Bring in chats from a file" help="They are added to those that are here; all of the file, or nothing.">
                <button type="button" class="button small" disabled={importing.value} onClick={() => field.current!.click()}>
                    {importing.value ? 'Reading…' : 'Choose a file'}
                </button>
                <input
                    ref={field}
                    type="file"
                    accept=".json,application/json"
                    aria-label="File of chats"
                    tabIndex={-1}
                    hidden
                    onChange={choose}
                />
            </Row>
        </>
    );
}

export function SettingsDialog() {
    const changed =
        (['temp', 'top_p', 'max', 'seed'] as const).some((name) => settings.value[name] !== null) || settings.value.system !== '';
    const reset = () =>
        change({ temp: defaults.temp, top_p: defaults.top_p, max: defaults.max, seed: defaults.seed, system: defaults.system });
    return (
        <Modal title="Settings" onClose={() => void (dialog.value = null)}>
            <div class="settings">
                <section>
                    <h3>This browser</h3>
                    <Row label="Theme">
                        <ThemeChoice />
                    </Row>
                    <Row label="Enter sends" help="Otherwise Ctrl+Enter sends and Enter begins a new line.">
                        <input
                            class="switch"
                            type="checkbox"
                            role="switch"
                            aria-label="Enter sends"
                            checked={settings.value.enterSends}
                            onChange={(event) => change({ enterSends: event.currentTarget.checked })}
                        />
                    </Row>
                    <Row label="After sending">
                        <select
                            aria-label="After sending"
                            value={settings.value.scrolling}
                            onChange={(event) => change({ scrolling: event.currentTarget.value as Scrolling })}
                        >
                            {SCROLLING.map(({ value, label }) => (
                                <option key={value} value={value}>
                                    {label}
                                </option>
                            ))}
                        </select>
                    </Row>
                </section>
                <section>
                    <div class="section-head">
                        <h3>Answers</h3>
                        <button type="button" class="link-button" onClick={reset} disabled={!changed}>
                            Reset to defaults
                        </button>
                    </div>
                    <NumberRow name="temp" label="Temperature" help="0 always takes the likeliest word; higher is freer." />
                    <NumberRow name="top_p" label="Top-p" help="Chooses among the likeliest words that reach this share." />
                    <NumberRow name="max" label="Longest answer" help="In tokens. An answer cut here can be continued." />
                    <NumberRow name="seed" label="Seed" help="The same seed and question give the same answer." />
                    <Row label="Show guesses" help={GUESSES_HELP[welcome.value?.trace === false ? 'none' : 'some']}>
                        <input
                            class="switch"
                            type="checkbox"
                            role="switch"
                            aria-label="Show guesses"
                            checked={settings.value.guesses}
                            disabled={welcome.value?.trace === false}
                            onChange={(event) => change({ guesses: event.currentTarget.checked })}
                        />
                    </Row>
                    <label class="field">
                        <span>System prompt</span>
                        <textarea
                            class="system"
                            rows={3}
                            maxLength={MAX_SYSTEM_CHARS}
                            placeholder="How the model should behave in every chat of this browser"
                            value={settings.value.system}
                            dir="auto"
                            onChange={(event) => change({ system: event.currentTarget.value })}
                        />
                    </label>
                </section>
                <section>
                    <h3>Your account</h3>
                    <Row
                        label="Learn from my answers to answer faster"
                        help="Your earlier answers help to guess the next ones. No answer changes by it, and nobody else gets anything of yours."
                    >
                        <input
                            class="switch"
                            type="checkbox"
                            role="switch"
                            aria-label="Learn from my answers to answer faster"
                            checked={welcome.value?.user.learn ?? false}
                            disabled={!welcome.value}
                            onChange={(event) => void setLearning(event.currentTarget.checked)}
                        />
                    </Row>
                    <FileRows />
                </section>
                <p class="about">
                    {welcome.value &&
                        `${welcome.value.model.name} on Foresay ${welcome.value.server.version}, connected by ${CONNECTED[connection.transport.value]}. `}
                    Other settings stay in this browser; chats stay on the server.{' '}
                    <a href="/licences.txt" target="_blank" rel="noreferrer">
                        Licences
                    </a>
                </p>
            </div>
        </Modal>
    );
}
