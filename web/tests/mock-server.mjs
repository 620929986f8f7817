/* mock-server.mjs - a server that speaks chat.v1 (gateway/protocol.h) from memory and from scripts, for states that are hard to
 * reach with a real model. It serves web/dist with the real server's headers. For tests only.
 *
 * usage: node tests/mock-server.mjs [port]      prints one line: the sign-in address
 * POST /__mock/<action> steers it: drop, down?ms=N, interrupt, expire, corrupt, lose, push (body: a frame), seed?n=N, reset. */
import { createServer } from 'node:http';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocketServer } from 'ws';
import { cut, scriptFor } from './mock-scripts.mjs';

const DIST = process.env.FORESAY_DIST ?? fileURLToPath(new URL('../dist', import.meta.url));
const TYPES = {
    '.html': 'text/html; charset=utf-8',
    '.js': 'text/javascript; charset=utf-8',
    '.css': 'text/css; charset=utf-8',
    '.svg': 'image/svg+xml',
    '.webmanifest': 'application/manifest+json',
};
const policy = (host) =>
    `default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self' ws://${host} wss://${host}; ` +
    "worker-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; " +
    "require-trusted-types-for 'script'; trusted-types app";

const newId = () => randomBytes(16).toString('hex');
const bytesOf = (text) => Buffer.byteLength(text, 'utf8');

const crcTable = Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1;
    return n >>> 0;
});
function crc32c(text) {
    let crc = ~0;
    for (const byte of Buffer.from(text, 'utf8')) crc = (crc >>> 8) ^ crcTable[(crc ^ byte) & 255];
    return (~crc >>> 0).toString(16).padStart(8, '0');
}

let convs, generations, sessions, answered, next;
function reset() {
    for (const g of generations?.values() ?? []) clearTimeout(g.timer);
    convs = new Map(); // id -> {id, title, ts, live, messages: Map}
    generations = new Map(); // id -> {g, conv, msg, events, pieces, timer, base}
    sessions = new Set();
    answered = new Map(); // cid -> ok body
    next = { corrupt: false, lose: false, downUntil: 0 };
}
reset();

const sockets = new Set();
const broadcast = (frame) => sockets.forEach((socket) => socket.greeted && socket.say(frame));

/* --- conversations --- */

const convView = ({ id, title, ts, live }) => ({ id, title, ts, live });
const stateFor = {
    stop: 'done',
    length: 'length',
    context: 'length',
    cancel: 'stopped',
    error: 'error',
    interrupted: 'interrupted',
};

function touch(conv) {
    conv.ts = Date.now();
    broadcast({ t: 'conv', c: convView(conv) });
}

function addMessage(conv, part) {
    const message = { id: newId(), text: '', ts: Date.now(), st: 'done', ...part };
    conv.messages.set(message.id, message);
    return message;
}

/* --- generations --- */

function subscribe(socket, g, from) {
    socket.subs.set(g.g, from);
    pump(socket, g);
}

function pump(socket, g) {
    let at = socket.subs.get(g.g);
    if (at === undefined) return;
    for (const event of g.events) {
        if (event.s + (event.n ?? 1) - 1 < at) continue;
        if (next.lose && event.t === 'd') {
            next.lose = false;
        } else {
            socket.say(event);
        }
        at = event.s + (event.n ?? 1);
    }
    socket.subs.set(g.g, at);
}

function emit(g, event) {
    const last = g.events.at(-1);
    g.events.push({ g: g.g, s: last ? last.s + (last.n ?? 1) : 1, ...event });
    for (const socket of sockets) if (socket.greeted) pump(socket, g);
}

function finish(g, why, err) {
    clearTimeout(g.timer);
    const { message, conv } = g;
    const seconds = (Date.now() - g.began) / 1000;
    const usage = {
        in: 48,
        cached: 16,
        out: g.sent,
        queue_ms: 2,
        prefill_ms: 118,
        ttft_ms: 143,
        tps: g.sent / Math.max(0.01, seconds),
        rounds: 30,
        drafted: 90,
        accepted: 42,
        seed: 42,
    };
    Object.assign(message, { st: stateFor[why], why, usage, err });
    conv.live = null;
    const crc = next.corrupt ? '00000000' : crc32c(message.text);
    next.corrupt = false;
    emit(g, { t: 'done', why, usage, len: bytesOf(message.text), crc, ...(err ? { err } : {}) });
    touch(conv);
}

function play(g) {
    const { script, message } = g;
    const perTick = Math.max(1, Math.round(script.rate / 60));
    const tick = () => {
        const half = script.fail && g.at >= g.pieces.length / 2;
        if (half) return finish(g, 'error', script.fail);
        if (g.at >= g.pieces.length) return finish(g, script.why ?? 'stop', script.err);
        const part = g.pieces.slice(g.at, g.at + perTick);
        g.at += part.length;
        g.sent += part.length;
        const x = part.join('');
        message.text += x;
        emit(g, { t: 'd', n: part.length, x, tok: part.length });
        g.timer = setTimeout(tick, Math.max(4, (1000 * perTick) / script.rate));
    };
    const prefill = (done) => {
        if (done >= (script.prefill ?? 0)) return tick();
        emit(g, { t: 'state', st: 'prefill', done: done * 512, total: script.prefill * 512 });
        g.timer = setTimeout(() => prefill(done + 1), 200);
    };
    emit(g, {
        t: 'start',
        conv: g.conv.id,
        msg: message.id,
        parent: message.parent,
        base: bytesOf(message.text),
        ts: Date.now(),
    });
    if (script.trimmed) emit(g, { t: 'state', st: 'trimmed', dropped: script.trimmed });
    g.timer = setTimeout(() => prefill(0), script.silent_ms ?? 60);
}

function generate(conv, message, script, pieces) {
    const g = { g: newId(), conv, message, script, pieces, at: 0, sent: 0, events: [], timer: 0, began: Date.now() };
    generations.set(g.g, g);
    Object.assign(message, { g: g.g, st: 'running', base: message.text });
    conv.live = g.g;
    return g;
}

/* A running message shows what stood there before its generation; the events carry the rest. */
function messageView(m) {
    const { base, ...rest } = m;
    return m.st === 'running' ? { ...rest, text: base, usage: undefined, why: undefined, err: undefined } : rest;
}

/* --- requests --- */

class Refusal extends Error {
    constructor(code, msg, more = {}) {
        super(msg);
        this.body = { code, msg, ...more };
    }
}
const find = (map, id, what) =>
    map.get(id) ??
    (() => {
        throw new Refusal(3000, `There is no such ${what}.`);
    })();
const convOf = (messageId) =>
    find(new Map([...convs.values()].flatMap((c) => [...c.messages.keys()].map((m) => [m, c]))), messageId, 'message');

function begin(socket, conv, question, answer, script, pieces) {
    const g = generate(conv, answer, script, pieces);
    if (question) broadcast({ t: 'msg', conv: conv.id, m: messageView(question) });
    broadcast({ t: 'msg', conv: conv.id, m: messageView(answer) });
    touch(conv);
    socket.subs.set(g.g, 1);
    setTimeout(() => play(g), 0);
    return g;
}

const handlers = {
    send(socket, { conv: convId, parent, root, text, drop_oldest }) {
        const script = scriptFor(text);
        if (script.refuse && !drop_oldest)
            throw new Refusal(script.refuse.code, script.refuse.msg, { retry_ms: script.refuse.retry_ms });
        let conv = convId ? find(convs, convId, 'conversation') : null;
        if (!conv) {
            conv = { id: newId(), title: text.slice(0, 60), ts: Date.now(), live: null, messages: new Map() };
            convs.set(conv.id, conv);
        } else if (!parent && !root) {
            parent = [...conv.messages.keys()].at(-1);
        }
        if (conv.live) throw new Refusal(3004, 'The answer is still being written.');
        const question = addMessage(conv, { parent: parent ?? null, role: 'user', text });
        const answer = addMessage(conv, { parent: question.id, role: 'assistant', ts: Date.now() + 1 });
        const played = script.refuse ? scriptFor('') : script;
        const g = begin(socket, conv, question, answer, played, cut(played.text));
        return { conv: conv.id, msg: question.id, ans: answer.id, g: g.g };
    },
    regen(socket, { msg }) {
        const conv = convOf(msg);
        if (conv.live) throw new Refusal(3004, 'The answer is still being written.');
        const question = conv.messages.get(conv.messages.get(msg).parent);
        const answer = addMessage(conv, { parent: question.id, role: 'assistant' });
        const number = [...conv.messages.values()].filter((m) => m.parent === question.id).length;
        const script = scriptFor(question.text.replace(/^\/(error|refuse)/, ''));
        const g = begin(socket, conv, null, answer, script, cut(`Answer ${number}. ${script.text}`));
        return { conv: conv.id, msg: question.id, ans: answer.id, g: g.g };
    },
    cont(socket, { msg }) {
        const conv = convOf(msg);
        const answer = conv.messages.get(msg);
        if (!['interrupted', 'stopped', 'length'].includes(answer.st))
            throw new Refusal(3004, 'This answer cannot be continued.');
        const before = generations.get(answer.g);
        const rest = before.pieces.slice(before.at);
        const g = begin(
            socket,
            conv,
            null,
            answer,
            { rate: before.script.rate },
            rest.length > 0 ? rest : cut(' And so it went on.'),
        );
        return { conv: conv.id, ans: answer.id, g: g.g };
    },
    cancel(socket, { g }) {
        const running = find(generations, g, 'generation');
        if (running.message.st === 'running') finish(running, 'cancel');
        return {};
    },
    sub(socket, { id, g, from }) {
        const generation = find(generations, g, 'generation');
        socket.say({ t: 'ok', id });
        subscribe(socket, generation, from);
        return null;
    },
    unsub(socket, { g }) {
        socket.subs.delete(g);
        return {};
    },
    hist(socket, { conv: id, before, limit = 50 }) {
        const conv = find(convs, id, 'conversation');
        const all = [...conv.messages.values()];
        const end = before ? all.findIndex((m) => m.id === before) : all.length;
        const start = Math.max(0, end - limit);
        return { conv: id, title: conv.title, msgs: all.slice(start, end).map(messageView), more: start > 0 };
    },
    convs(socket, { before, limit = 50 }) {
        const all = [...convs.values()].sort((a, b) => b.ts - a.ts);
        const start = before ? all.findIndex((c) => c.id === before) + 1 : 0;
        return { convs: all.slice(start, start + limit).map(convView), more: start + limit < all.length };
    },
    search(socket, { q, before, limit = 20 }) {
        const words = q.toLowerCase().split(/\s+/).filter(Boolean);
        const found = [...convs.values()]
            .flatMap((conv) => [...conv.messages.values()].map((m) => ({ conv, m })))
            .filter(({ m }) => m.st !== 'running' && words.every((word) => m.text.toLowerCase().includes(word)))
            .sort((a, b) => b.m.ts - a.m.ts);
        const start = before ? found.findIndex(({ m }) => m.id === before) + 1 : 0;
        const hits = found.slice(start, start + limit).map(({ conv, m }) => {
            const at = m.text.toLowerCase().indexOf(words[0]);
            const from = Math.max(0, at - 40);
            const end = at + words[0].length;
            const parts = [m.text.slice(from, at), m.text.slice(at, end), m.text.slice(end, end + 120)];
            return { conv: conv.id, title: conv.title, id: m.id, role: m.role, ts: m.ts, text: parts };
        });
        return { hits, more: start + limit < found.length, indexing: false };
    },
    rename(socket, { conv: id, title }) {
        const conv = find(convs, id, 'conversation');
        conv.title = title;
        broadcast({ t: 'conv', c: convView(conv) });
        return {};
    },
    learn(socket, { on }) {
        broadcast({ t: 'learn', on });
        return {};
    },
    delete(socket, { conv: id }) {
        const conv = find(convs, id, 'conversation');
        if (conv.live) clearTimeout(generations.get(conv.live).timer);
        convs.delete(id);
        broadcast({ t: 'conv', conv: id, deleted: true });
        return {};
    },
};

function receive(socket, frame) {
    const { t, id, cid } = frame;
    if (t === 'ping') return socket.say({ t: 'pong', n: frame.n });
    if (t === 'pong') return undefined;
    if (t === 'hello') {
        socket.greeted = true;
        socket.say({
            t: 'welcome',
            v: 1,
            sid: newId(),
            user: { name: 'ada', admin: true, learn: false },
            model: { name: 'SmolLM2-135M-Instruct', ctx: 8192, quant: 'Q4_1' },
            server: { version: '0.1.0', node: 'mock' },
            hb_ms: 25000,
            max_frame: 262144,
            now: Date.now(),
        });
        for (const { g, from } of frame.resume ?? []) {
            if (generations.has(g)) subscribe(socket, generations.get(g), from);
            else socket.say({ t: 'err', g, code: 3001, msg: 'This stream is gone.' });
        }
        return undefined;
    }
    try {
        const known = cid && answered.get(cid);
        const body = known ?? handlers[t](socket, frame);
        if (cid) answered.set(cid, body);
        if (body) socket.say({ t: 'ok', id, ...body });
    } catch (error) {
        socket.say({ t: 'err', id, ...(error.body ?? { code: 5000, msg: String(error) }) });
    }
    return undefined;
}

/* --- steering --- */

const actions = {
    drop: () => sockets.forEach((socket) => socket.terminate()),
    down(query) {
        next.downUntil = Date.now() + Number(query.get('ms') ?? 5000);
        actions.drop();
    },
    interrupt() {
        for (const g of generations.values()) if (g.message.st === 'running') finish(g, 'interrupted');
    },
    expire() {
        sessions.clear();
        sockets.forEach((socket) => socket.close(4401, 'sign in again'));
    },
    corrupt: () => void (next.corrupt = true),
    lose: () => void (next.lose = true),
    push: (query, body) => sockets.forEach((socket) => socket.send(body)),
    reset,
    /* n conversations, the first with a history of `turns` turns. */
    seed(query) {
        const day = 86400000;
        const titles = [
            'How rainbows form',
            'A palindrome checker in Python',
            'Tea or coffee?',
            'Packing list for a week by the sea',
            'Letter to the landlord',
        ];
        for (let i = Number(query.get('n') ?? 12) - 1; i >= 0; i--) {
            const title = titles[i] ?? `An older conversation, number ${i}`;
            const ts = Date.now() - Math.floor(i * i * 0.07 * day) - i * 60000;
            const conv = { id: newId(), title, ts, live: null, messages: new Map() };
            let parent = null;
            for (let turn = 0; turn < (i === 0 ? Number(query.get('turns') ?? 2) : 1); turn++) {
                const question = addMessage(conv, {
                    parent,
                    role: 'user',
                    text: `${title}, part ${turn + 1}`,
                    ts: ts + turn * 2,
                });
                const usage = { in: 48, cached: 0, out: 90, queue_ms: 1, prefill_ms: 80, ttft_ms: 96, tps: 87.3, seed: 7 };
                const answer = {
                    parent: question.id,
                    role: 'assistant',
                    text: scriptFor('').text,
                    ts: ts + turn * 2 + 1,
                    why: 'stop',
                    usage,
                };
                parent = addMessage(conv, answer).id;
            }
            convs.set(conv.id, conv);
        }
        return JSON.stringify([...convs.keys()].reverse());
    },
    state: () => JSON.stringify([...convs.values()].map((c) => ({ ...convView(c), messages: [...c.messages.values()] }))),
};

/* --- HTTP --- */

const cookie = (request) => /(?:^|;\s*)session=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
const signedIn = (request) => sessions.has(cookie(request));
const newCookie = () => {
    const token = newId();
    sessions.add(token);
    return `session=${token}; Path=/; HttpOnly; SameSite=Strict`;
};
async function bodyOf(request) {
    const parts = [];
    for await (const part of request) parts.push(part);
    return Buffer.concat(parts).toString();
}

async function serveFile(request, response, path) {
    const file = normalize(path === '/' ? '/index.html' : path);
    const type = TYPES[extname(file)];
    const content = type && (await readFile(join(DIST, file)).catch(() => null));
    if (!content) return response.writeHead(404).end();
    const headers = { 'content-type': type, 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' };
    if (extname(file) === '.html') headers['content-security-policy'] = policy(request.headers.host);
    return response.writeHead(200, headers).end(content);
}

const server = createServer(async (request, response) => {
    const url = new URL(request.url, 'http://mock');
    if (url.pathname.startsWith('/__mock/')) {
        const result = actions[url.pathname.slice(8)](url.searchParams, await bodyOf(request));
        return response.writeHead(200).end(typeof result === 'string' ? result : '');
    }
    if (Date.now() < next.downUntil) return request.socket.destroy();
    if (url.pathname === '/sign-in') {
        if (url.searchParams.get('code') !== 'dev') return response.writeHead(403).end('This link does not work any more.');
        return response.writeHead(303, { location: '/', 'set-cookie': newCookie() }).end();
    }
    if (url.pathname === '/api/session') {
        if (request.method === 'POST') {
            const { key } = JSON.parse(await bodyOf(request));
            if (key !== 'fsk_dev') return response.writeHead(401).end('{"error":"This key is not known."}');
            return response.writeHead(204, { 'set-cookie': newCookie() }).end();
        }
        if (!signedIn(request)) return response.writeHead(401).end('{"error":"You are not signed in."}');
        if (request.method === 'DELETE') {
            sessions.delete(cookie(request));
            return response.writeHead(204).end();
        }
        return response.writeHead(200).end('{"user":{"name":"ada","admin":true}}');
    }
    return serveFile(request, response, url.pathname);
});

const wss = new WebSocketServer({ noServer: true, handleProtocols: () => 'chat.v1' });
server.on('upgrade', (request, raw, head) => {
    if (Date.now() < next.downUntil || request.url !== '/v1/ws') return raw.destroy();
    if (!signedIn(request)) return raw.end('HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\n');
    return wss.handleUpgrade(request, raw, head, (socket) => {
        socket.subs = new Map();
        socket.say = (frame) => socket.readyState === 1 && socket.send(JSON.stringify(frame));
        sockets.add(socket);
        socket.on('message', (data) => receive(socket, JSON.parse(String(data))));
        socket.on('close', () => sockets.delete(socket));
    });
});

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
    console.log(`http://127.0.0.1:${server.address().port}/sign-in?code=dev`);
});
