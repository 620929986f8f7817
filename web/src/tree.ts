/* tree.ts - the messages of a conversation are a tree; what is shown is the way from one leaf up to the root.
 *
 *  (1) Pure functions over a Map from id to message; a Map keeps the order of arrival, and so do siblings.
 *  (2) Only a part of the tree may be loaded: a way ends where a parent is not there (yet), and a message's siblings are those
 *      loaded.
 *  (3) A way visits a message once, whatever the input says: a circle in the parents ends it. */
import type { Message } from './wire.ts';

export type Messages = ReadonlyMap<string, Message>;

/* From the oldest loaded ancestor down to the leaf. */
export function pathTo(messages: Messages, leaf: string | null): Message[] {
    const path: Message[] = [];
    const seen = new Set<string>();
    let id = leaf;
    while (id !== null && !seen.has(id)) {
        const message = messages.get(id);
        if (!message) break;
        seen.add(id);
        path.push(message);
        id = message.parent;
    }
    return path.reverse();
}

export function siblingsOf(messages: Messages, of: Message): Message[] {
    const siblings: Message[] = [];
    for (const message of messages.values()) {
        if (message.parent === of.parent && message.role === of.role) siblings.push(message);
    }
    return siblings.sort((a, b) => a.ts - b.ts);
}

/* The end of the newest branch below a message: what opens when the reader turns to it. */
export function newestLeafBelow(messages: Messages, from: string): string {
    const newestChild = new Map<string, Message>();
    for (const message of messages.values()) {
        if (message.parent === null) continue;
        const known = newestChild.get(message.parent);
        if (!known || message.ts >= known.ts) newestChild.set(message.parent, message);
    }
    const seen = new Set<string>();
    let id = from;
    for (let child = newestChild.get(id); child && !seen.has(child.id); child = newestChild.get(id)) {
        seen.add(child.id);
        id = child.id;
    }
    return id;
}

/* The newest message of all ends the branch that was used last. */
export function newestLeaf(messages: Messages): string | null {
    let newest: Message | null = null;
    for (const message of messages.values()) if (!newest || message.ts >= newest.ts) newest = message;
    return newest ? newestLeafBelow(messages, newest.id) : null;
}
