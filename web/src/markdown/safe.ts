/* safe.ts - what a link may point to, and character references as text. Pure functions, no HTML parser involved. */

const SCHEMES = new Set(['http:', 'https:', 'mailto:']);

/* The address if it is one that may be followed from an answer; null otherwise (javascript:, data:, relative, broken). */
export function safeHref(href: string): string | null {
    try {
        const url = new URL(decodeEntities(href).trim());
        return SCHEMES.has(url.protocol) ? url.href : null;
    } catch {
        return null;
    }
}

export function hostOf(href: string): string {
    try {
        const url = new URL(decodeEntities(href).trim());
        return url.host || url.protocol.replace(':', '');
    } catch {
        return 'image';
    }
}

/* The names that models use; others stay as they were written. */
const NAMED: Record<string, string> = {
    amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', ensp: '\u2002', emsp: '\u2003', thinsp: '\u2009',
    shy: '\u00ad', copy: '©', reg: '®', trade: '™', hellip: '…', mdash: '—', ndash: '–', minus: '−', times: '×', divide: '÷',
    plusmn: '±', middot: '·', bull: '•', deg: '°', micro: 'µ', para: '¶', sect: '§', laquo: '«', raquo: '»', lsquo: '‘',
    rsquo: '’', ldquo: '“', rdquo: '”', larr: '←', rarr: '→', uarr: '↑', darr: '↓', harr: '↔', rArr: '⇒', lArr: '⇐', hArr: '⇔',
    le: '≤', ge: '≥', ne: '≠', asymp: '≈', infin: '∞', sum: '∑', prod: '∏', radic: '√', int: '∫', part: '∂', nabla: '∇',
    isin: '∈', notin: '∉', cap: '∩', cup: '∪', sub: '⊂', sup: '⊃', empty: '∅', forall: '∀', exist: '∃', and: '∧', or: '∨',
    not: '¬', alpha: 'α', beta: 'β', gamma: 'γ', delta: 'δ', epsilon: 'ε', theta: 'θ', lambda: 'λ', mu: 'μ', pi: 'π', rho: 'ρ',
    sigma: 'σ', tau: 'τ', phi: 'φ', omega: 'ω', Delta: 'Δ', Sigma: 'Σ', Omega: 'Ω', frac12: '½', frac14: '¼', frac34: '¾',
    sup2: '²', sup3: '³', euro: '€', pound: '£', yen: '¥', cent: '¢', check: '✓',
};

function decodeNumber(digits: string, radix: number, raw: string): string {
    const code = parseInt(digits, radix);
    const valid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
    return valid ? String.fromCodePoint(code) : raw.startsWith('&#') ? '\ufffd' : raw;
}

export function decodeEntities(text: string): string {
    if (!text.includes('&')) return text;
    return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z][a-zA-Z0-9]{1,8}));/g, (raw, decimal, hex, name) => {
        if (decimal !== undefined) return decodeNumber(String(decimal), 10, raw);
        if (hex !== undefined) return decodeNumber(String(hex), 16, raw);
        return Object.hasOwn(NAMED, String(name)) ? NAMED[String(name)]! : raw;
    });
}
