/* highlight.ts - asks the highlight worker, started with the first code block, and reads its answer into spans.
 *
 * Code longer than MAX_CHARS stays plain. Answers are kept for the last KEPT blocks, so turning to a branch and back costs
 * nothing. */
import workerUrl from './highlight.worker.ts?worker&url';
import { startWorker } from '../trusted.ts';
import { readSpans, textOf, type Part } from './spans.ts';

const MAX_CHARS = 60_000;
const KEPT = 100;

const ALIASES: Record<string, string> = {
    sh: 'bash', shell: 'bash', zsh: 'bash', console: 'bash', h: 'c', 'c++': 'cpp', cc: 'cpp', hpp: 'cpp', cs: 'csharp',
    'c#': 'csharp', golang: 'go', js: 'javascript', jsx: 'javascript', mjs: 'javascript', node: 'javascript', md: 'markdown',
    py: 'python', python3: 'python', rs: 'rust', ts: 'typescript', tsx: 'typescript', html: 'xml', svg: 'xml', yml: 'yaml',
    patch: 'diff', jsonc: 'json',
};
const NAMES: Record<string, string> = {
    bash: 'Shell', c: 'C', cpp: 'C++', csharp: 'C#', css: 'CSS', diff: 'Diff', go: 'Go', java: 'Java', javascript: 'JavaScript',
    json: 'JSON', markdown: 'Markdown', python: 'Python', rust: 'Rust', sql: 'SQL', typescript: 'TypeScript', xml: 'XML',
    yaml: 'YAML', html: 'HTML', jsx: 'JSX', tsx: 'TSX', svg: 'SVG',
};

let worker: Worker | null | undefined;
let nextId = 1;
const waiting = new Map<number, (markup: string | null) => void>();
const kept = new Map<string, Part[]>();

export function languageOf(info: string): string {
    const word = info.trim().split(/[\s{,]/)[0]!.toLowerCase();
    return Object.hasOwn(ALIASES, word) ? ALIASES[word]! : word;
}

export function languageLabel(info: string): string {
    const word = info.trim().split(/[\s{,]/)[0]!;
    if (word === '') return 'Text';
    const lower = word.toLowerCase();
    if (Object.hasOwn(NAMES, lower)) return NAMES[lower]!;
    const language = languageOf(info);
    return Object.hasOwn(NAMES, language) ? NAMES[language]! : word.slice(0, 24);
}

function theWorker(): Worker | null {
    if (worker !== undefined) return worker;
    try {
        worker = startWorker(workerUrl);
        worker.onmessage = ({ data }: MessageEvent<{ id: number; markup: unknown }>) => {
            waiting.get(data.id)?.(typeof data.markup === 'string' ? data.markup : null);
            waiting.delete(data.id);
        };
        worker.onerror = () => {
            for (const settle of waiting.values()) settle(null);
            waiting.clear();
        };
    } catch {
        worker = null; // no workers here: code stays plain
    }
    return worker;
}

export function keptHighlight(language: string, code: string): Part[] | null {
    return kept.get(`${language}\n${code}`) ?? null;
}

export async function highlight(language: string, code: string): Promise<Part[] | null> {
    const known = keptHighlight(language, code);
    if (known) return known;
    const to = language !== '' && Object.hasOwn(NAMES, language) && code.length <= MAX_CHARS ? theWorker() : null;
    if (!to) return null;
    const id = nextId++;
    const markup = await new Promise<string | null>((resolve) => {
        waiting.set(id, resolve);
        to.postMessage({ id, language, code });
    });
    const parts = markup === null ? null : readSpans(markup);
    if (!parts || textOf(parts) !== code) return null;
    kept.set(`${language}\n${code}`, parts);
    for (const key of kept.keys()) {
        if (kept.size <= KEPT) break;
        kept.delete(key);
    }
    return parts;
}
