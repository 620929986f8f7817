/* transport.ts - what carries the frames of chat.v1 (gateway/protocol.h): a WebSocket, or, where a proxy lets none through, POST one
 * way and server-sent events or long polls the other.
 *
 * A line is the same for its user whatever it is made of: `opened`, then frames both ways, then `closed` once with a code as
 * WebSockets have them (1006: it just broke), and nothing after its own `close`. What few need is loaded when they do: httpline.ts. */

export type Transport = 'websocket' | 'sse' | 'longpoll';

export interface Line {
    send(frame: string): void;
    close(): void;
}

export interface LineEvents {
    opened(): void;
    received(frame: unknown): void;
    closed(code: number, why: string): void;
}

export function openLine(transport: Transport, events: LineEvents): Line {
    return transport === 'websocket' ? openWebSocket(events) : openHttp(transport, events);
}

function openWebSocket(events: LineEvents): Line {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws`, 'chat.v1');
    socket.onopen = () => events.opened();
    socket.onmessage = (event) => events.received(event.data);
    socket.onclose = (event) => events.closed(event.code, event.reason);
    return {
        send: (frame) => socket.send(frame),
        close() {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close(1000);
        },
    };
}

function openHttp(transport: 'sse' | 'longpoll', events: LineEvents): Line {
    let line: Line | null = null;
    let over = false;
    import('./httpline.ts').then(
        ({ HttpLine }) => over || (line = new HttpLine(transport, events)),
        () => over || events.closed(1006, ''),
    );
    return {
        send: (frame) => line?.send(frame),
        close() {
            over = true;
            line?.close();
        },
    };
}
