/* help.tsx - the sheet of keyboard shortcuts, read from the registry in keys.ts. */
import { keyCaps, shortcuts, type Shortcut } from '../keys.ts';
import { dialog } from '../ui.ts';
import { Modal } from './dialog.tsx';

const GROUPS: Shortcut['group'][] = ['Everywhere', 'Writing', 'On a message'];

export function Keys({ keys }: { keys: string }) {
    return (
        <span class="keys">
            {keyCaps(keys).map((cap) => (
                <kbd key={cap}>{cap}</kbd>
            ))}
        </span>
    );
}

export function HelpDialog() {
    return (
        <Modal title="Keyboard shortcuts" onClose={() => void (dialog.value = null)}>
            <div class="shortcuts">
                {GROUPS.map((group) => (
                    <section key={group}>
                        <h3>{group}</h3>
                        <dl>
                            {shortcuts
                                .filter((shortcut) => shortcut.group === group)
                                .map((shortcut) => (
                                    <div key={shortcut.keys}>
                                        <dt>{shortcut.label}</dt>
                                        <dd>
                                            <Keys keys={shortcut.keys} />
                                        </dd>
                                    </div>
                                ))}
                        </dl>
                    </section>
                ))}
            </div>
        </Modal>
    );
}
