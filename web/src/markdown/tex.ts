/* tex.ts - a formula in the part of TeX that language models write, as a tree of MathML elements.
 *
 *  (1) All or nothing: a command that is not known here, or braces that do not match, make null, and the reader sees the source.
 *  (2) Bounds: a formula of more than MAX_CHARS or nested deeper than MAX_DEPTH is not read.
 *  (3) A pure function; the tree holds text only, never markup. */

export interface MathNode {
    tag: string;
    attributes?: Record<string, string>;
    parts: (MathNode | string)[];
}

const MAX_CHARS = 4000;
const MAX_DEPTH = 40;

class NotKnown extends Error {}

/* "name=sign ..." */
function table(text: string): Map<string, string> {
    return new Map(text.trim().split(/\s+/).map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
}

const LETTERS = table(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ
lambda=λ mu=μ nu=ν xi=ξ pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω
Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω
infty=∞ hbar=ℏ ell=ℓ Re=ℜ Im=ℑ aleph=ℵ emptyset=∅ varnothing=∅ partial=∂ nabla=∇ angle=∠ degree=° imath=ı jmath=ȷ
dots=… ldots=… cdots=⋯ vdots=⋮ ddots=⋱ dotsc=… dotsb=⋯ square=□ Box=□ blacksquare=■ triangle=△ checkmark=✓ top=⊤ bot=⊥`);

const SIGNS = table(`times=× div=÷ cdot=⋅ pm=± mp=∓ ast=∗ star=⋆ circ=∘ bullet=∙ oplus=⊕ otimes=⊗ odot=⊙ le=≤ leq=≤ leqslant=⩽
ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ approx=≈ equiv=≡ sim=∼ simeq=≃ cong=≅ propto=∝ ll=≪ gg=≫ doteq=≐ in=∈ notin=∉ ni=∋ subset=⊂
subseteq=⊆ supset=⊃ supseteq=⊇ cup=∪ cap=∩ setminus=∖ land=∧ wedge=∧ lor=∨ vee=∨ lnot=¬ neg=¬ forall=∀ exists=∃ nexists=∄ to=→
rightarrow=→ leftarrow=← gets=← leftrightarrow=↔ Rightarrow=⇒ Leftarrow=⇐ Leftrightarrow=⇔ implies=⟹ iff=⟺ mapsto=↦ longrightarrow=⟶
Longrightarrow=⟹ uparrow=↑ downarrow=↓ mid=∣ parallel=∥ perp=⊥ therefore=∴ because=∵ models=⊨ vdash=⊢ prime=′ lt=< gt=> colon=:
langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ lbrace={ rbrace=} vert=| Vert=‖ lvert=| rvert=| lVert=‖ rVert=‖ {={ }=} |=‖ %=% $=$
#=# &=& _=_ int=∫ iint=∬ iiint=∭ oint=∮ backslash=\\`);

const LARGE = table('sum=∑ prod=∏ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀');
const FUNCTIONS = new Set(
    'sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan ln log lg exp ker dim deg arg hom'.split(' '),
);
const LIMITS = new Set('lim max min sup inf det gcd Pr limsup liminf argmax argmin'.split(' '));
const ABOVE = table(
    'hat=^ widehat=^ bar=‾ overline=‾ vec=→ overrightarrow=→ dot=˙ ddot=¨ tilde=~ widetilde=~ check=ˇ breve=˘ overbrace=⏞',
);
const BELOW = table('underline=_ underbrace=⏟');
const SPACES = table(',=0.17em :=0.22em >=0.22em ;=0.28em !=-0.17em quad=1em qquad=2em thinspace=0.17em');
const WORDS = new Set('text textrm textbf textit textsf mbox operatorname mathrm mathsf mathtt mathit'.split(' '));
const ALPHABETS = new Map([
    ['mathbf', [0x1d400, 0x1d41a]],
    ['boldsymbol', [0x1d400, 0x1d41a]],
    ['mathbb', [0x1d538, 0x1d552]],
    ['mathcal', [0x1d49c, 0x1d4b6]],
    ['mathscr', [0x1d49c, 0x1d4b6]],
    ['mathfrak', [0x1d504, 0x1d51e]],
]);
/* Letters of these alphabets that Unicode had before. */
const OLD = table('𝔺=ℂ 𝔿=ℍ 𝕅=ℕ 𝕇=ℙ 𝕈=ℚ 𝕉=ℝ 𝕑=ℤ 𝒝=ℬ 𝒠=ℰ 𝒡=ℱ 𝒣=ℋ 𝒤=ℐ 𝒧=ℒ 𝒨=ℳ 𝒭=ℛ 𝒺=ℯ 𝒼=ℊ 𝓄=ℴ 𝔆=ℭ 𝔋=ℌ 𝔌=ℑ 𝔕=ℜ 𝔝=ℨ');
const BRACKETS = table('matrix=. pmatrix=() bmatrix=[] Bmatrix={} vmatrix=|| Vmatrix=‖‖ cases={. smallmatrix=.');
const ALIGNED = new Set('aligned align align* split equation equation* gather gather* gathered array'.split(' '));

const ALIGNED_SIDES = ['right', 'left']; // classes of cells, see prose.css

const node = (tag: string, parts: (MathNode | string)[], attributes?: Record<string, string>): MathNode =>
    attributes ? { tag, parts, attributes } : { tag, parts };
const thin = (): MathNode => node('mspace', [], { width: '0.17em' });
const row = (parts: MathNode[]): MathNode => (parts.length === 1 ? parts[0]! : node('mrow', parts));
const sign = (text: string, stretchy?: boolean): MathNode =>
    node('mo', [text], stretchy === undefined ? undefined : { stretchy: String(stretchy) });

class Reader {
    private at = 0;
    private depth = 0;

    constructor(
        private readonly tex: string,
        private readonly display: boolean,
    ) {}

    whole(): MathNode {
        const all = this.rows();
        if (this.at < this.tex.length) throw new NotKnown();
        return all;
    }

    private skipBlank(): void {
        while (/[\s~]/.test(this.tex[this.at] ?? '')) this.at++;
    }

    /* The next command with its backslash, or character; '' at the end. */
    private peek(): string {
        this.skipBlank();
        return /\\(?:[A-Za-z]+\*?|[^])|[^]/uy.exec(this.slide())?.[0] ?? '';
    }
    private slide(): string {
        return this.tex.slice(this.at, this.at + 40);
    }
    private take(): string {
        const token = this.peek();
        this.at += token.length;
        return token;
    }
    private expect(token: string): void {
        if (this.take() !== token) throw new NotKnown();
    }

    /* Cells between & and rows between \\; one cell alone is no table. `sides` are given to the columns by turns. */
    private rows(sides = ALIGNED_SIDES): MathNode {
        const lines: MathNode[][] = [[this.row()]];
        for (let token = this.peek(); token === '&' || token === '\\\\'; token = this.peek()) {
            this.take();
            if (token === '&') lines.at(-1)!.push(this.row());
            else lines.push([this.row()]);
        }
        if (lines.length > 1 && lines.at(-1)!.length === 1 && lines.at(-1)![0]!.parts.length === 0) lines.pop();
        if (lines.length === 1 && lines[0]!.length === 1) return lines[0]![0]!;
        const cellOf = (cell: MathNode, i: number) => node('mtd', [cell], { class: sides[i % sides.length]! });
        const made = lines.map((line) => node('mtr', line.map(cellOf)));
        return node('mtable', made, sides === ALIGNED_SIDES ? { displaystyle: 'true' } : undefined);
    }

    private row(): MathNode {
        if (++this.depth > MAX_DEPTH) throw new NotKnown();
        const parts: MathNode[] = [];
        for (;;) {
            const token = this.peek();
            if (token === '' || token === '}' || token === '&' || token === '\\\\' || token === '\\right' || token === '\\end') break;
            const isFunction = FUNCTIONS.has(token.slice(1)) || LIMITS.has(token.slice(1));
            if (isFunction && parts.length > 0 && parts.at(-1)!.tag !== 'mo') parts.push(thin());
            parts.push(this.scripted());
            const next = this.peek();
            if (isFunction && /^[\p{L}\d\\]/u.test(next) && next !== '\\left') parts.push(thin());
        }
        this.depth--;
        return row(parts);
    }

    /* An atom and what stands above and below it. */
    private scripted(): MathNode {
        const first = this.peek();
        const base = first === '^' || first === '_' ? node('mrow', []) : this.atom();
        let above: MathNode | null = null;
        let below: MathNode | null = null;
        for (let token = this.peek(); token === '^' || token === '_' || token === "'"; token = this.peek()) {
            this.take();
            if (token === "'") above = row([...(above ? [above] : []), sign('′')]);
            else if (token === '^') above = row([...(above ? [above] : []), this.atom()]);
            else if (below) throw new NotKnown();
            else below = this.atom();
        }
        const name = first.slice(1);
        const over = (this.display && (LARGE.has(name) || LIMITS.has(name))) || name === 'underbrace' || name === 'overbrace';
        if (above && below) return node(over ? 'munderover' : 'msubsup', [base, below, above]);
        if (above) return node(over ? 'mover' : 'msup', [base, above]);
        return below ? node(over ? 'munder' : 'msub', [base, below]) : base;
    }

    private group(): MathNode {
        const inner = this.row();
        this.expect('}');
        return inner;
    }

    private atom(): MathNode {
        const token = this.take();
        if (token === '{') return this.group();
        if (/\d/.test(token)) {
            const rest = /^[\d]*(?:[.,]\d+)*/.exec(this.slide())![0];
            this.at += rest.length;
            return node('mn', [token + rest]);
        }
        if (/^\p{L}$/u.test(token)) return node('mi', [token]);
        if (token[0] === '\\' && token.length > 1) return this.command(token.slice(1));
        if (token === '' || '}&^_#%$\\'.includes(token)) throw new NotKnown();
        if (token === '|') return node('mo', ['|'], { stretchy: 'false', lspace: '0', rspace: '0' });
        return sign({ '-': '−', '*': '∗', "'": '′' }[token] ?? token, '()[]/'.includes(token) ? false : undefined);
    }

    private command(name: string): MathNode {
        const known = LETTERS.get(name);
        if (known) return node('mi', [known], /^[A-Z]/.test(name) ? { mathvariant: 'normal' } : undefined);
        if (SIGNS.has(name)) return sign(SIGNS.get(name)!, /^[A-Za-z]+$/.test(name) && !/^(l|r)/.test(name) ? undefined : false);
        if (LARGE.has(name)) return node('mo', [LARGE.get(name)!], { movablelimits: 'false' });
        if (FUNCTIONS.has(name) || LIMITS.has(name)) return node('mi', [name.replace(/^(lim|arg)(...)$/, '$1 $2')]);
        if (SPACES.has(name)) return node('mspace', [], { width: SPACES.get(name)! });
        if (name === ' ') return node('mspace', [], { width: '0.25em' });
        if (WORDS.has(name)) return node(name.startsWith('math') || name === 'operatorname' ? 'mi' : 'mtext', [this.words()], { mathvariant: 'normal' });
        if (ABOVE.has(name)) return node('mover', [this.atom(), sign(ABOVE.get(name)!, /^(over|wide)/.test(name))], { accent: 'true' });
        if (BELOW.has(name)) return node('munder', [this.atom(), sign(BELOW.get(name)!, true)], { accentunder: 'true' });
        if (ALPHABETS.has(name)) return node('mi', [this.lettersOf(ALPHABETS.get(name)!)]);
        if (/^[dtc]?frac$/.test(name)) return node('mfrac', [this.atom(), this.atom()]);
        if (/^[Bb]igg?[lrm]?$/.test(name)) return sign(this.delimiter());
        if (/^(displaystyle|textstyle|limits|nolimits|nonumber|notag)$/.test(name)) return node('mrow', []);
        if (name === 'sqrt') return this.root();
        if (name === 'binom') {
            const both = node('mfrac', [this.atom(), this.atom()], { linethickness: '0' });
            return node('mrow', [sign('('), both, sign(')')]);
        }
        if (name === 'left') return this.fenced();
        if (name === 'begin') return this.environment();
        if (name === 'boxed') return node('mrow', [this.atom()], { class: 'boxed' });
        if (name === 'pmod') return node('mrow', [node('mspace', [], { width: '0.5em' }), sign('('), node('mi', ['mod']), node('mspace', [], { width: '0.3em' }), this.atom(), sign(')')]);
        if (name === 'bmod' || name === 'mod') return sign('mod');
        throw new NotKnown();
    }

    /* {plain words} */
    private words(): string {
        this.expect('{');
        const end = this.tex.indexOf('}', this.at);
        const text = this.tex.slice(this.at, end);
        if (end < 0 || /[\\{]/.test(text)) throw new NotKnown();
        this.at = end + 1;
        return text.replace(/^\s|\s$/g, '\u00a0').replace(/\$/g, '');
    }

    private lettersOf([upper = 0, lower = 0]: number[]): string {
        const text = this.peek() === '{' ? this.words() : this.take();
        if (!/^[A-Za-z0-9 ]+$/.test(text)) throw new NotKnown();
        return text.replace(/[A-Za-z]/g, (letter) => {
            const code = letter.charCodeAt(0);
            const made = String.fromCodePoint(code < 97 ? upper + code - 65 : lower + code - 97);
            return OLD.get(made) ?? made;
        });
    }

    private root(): MathNode {
        if (this.peek() !== '[') return node('msqrt', [this.atom()]);
        const end = this.tex.indexOf(']', this.at);
        if (end < 0) throw new NotKnown();
        const index = new Reader(this.tex.slice(this.at + 1, end), false).whole();
        this.at = end + 1;
        return node('mroot', [this.atom(), index]);
    }

    private delimiter(): string {
        const token = this.take();
        if (token === '.') return '';
        const text = token[0] === '\\' ? SIGNS.get(token.slice(1)) : token;
        if (!text || !/^[()[\]{}|‖/⟨⟩⌊⌋⌈⌉<>\\↑↓]$/u.test(text)) throw new NotKnown();
        return { '<': '⟨', '>': '⟩' }[text] ?? text;
    }

    private fenced(): MathNode {
        const left = this.delimiter();
        const parts = [sign(left, true), this.row()];
        while (this.peek() === '\\middle') throw new NotKnown();
        this.expect('\\right');
        return node('mrow', [...parts, sign(this.delimiter(), true)]);
    }

    private environment(): MathNode {
        const name = this.words();
        const around = BRACKETS.get(name);
        if (around === undefined && !ALIGNED.has(name)) throw new NotKnown();
        if (name === 'array') this.words();
        const body = this.rows(name === 'cases' ? ['start'] : around !== undefined || name === 'array' ? ['middle'] : ALIGNED_SIDES);
        this.expect('\\end');
        if (this.words() !== name) throw new NotKnown();
        if (around === undefined || around === '.') return body;
        const [open, close] = [...around];
        return node('mrow', [sign(open!, true), body, ...(close === '.' ? [] : [sign(close!, true)])]);
    }
}

export function readTex(tex: string, display: boolean): MathNode | null {
    if (tex.length > MAX_CHARS || tex.trim() === '') return null;
    try {
        return new Reader(tex, display).whole();
    } catch (error) {
        if (error instanceof NotKnown) return null;
        throw error;
    }
}
