/* corpus.ts - Markdown that is awkward to stream: every construct, its half-written forms, and combinations of them. */
import { readFileSync } from 'node:fs';
import { MARKDOWN } from '../mock-scripts.mjs';

const CONSTRUCTS = [
    'A paragraph.\n\nAnother one.\n',
    'Line one\nline two\nline three\n\nEnd.\n',
    'Heading\n=======\n\nSub\n---\n\nText\n***\nmore\n',
    '# One\n## Two\n### Three\n#### Four\n##### Five\n###### Six\n####### no heading\n',
    '- a\n- b\n\n  para in b\n\n- c\n\ntext\n',
    '1. one\n2. two\n\n3. three\n10) ten\n',
    '* a\n    * b\n        * c\n\n      deep\n* d\n',
    '- a\n\n\n- b\n- c\n1. d\n2',
    '- [ ] todo\n- [x] done\n- [',
    '> quote\n> more\nlazy\n\n> > nested\n> - list\n> ```\n> code\n> ```\n',
    '```js\nlet a = 1;\n```\nafter\n\n~~~\ntilde ``` inside\n~~~\n',
    '````md\n```js\ninner\n```\n````\n\ntext\n',
    '```\nnever closed\n\n- not a list\n# not a heading',
    '    indented code\n    more\n\n    after a blank\n\ntext\n',
    '- item\n  ```py\n  x = 1\n\n  y = 2\n  ```\n  text\n- next\n',
    '| a | b |\n|---|---|\n| 1 | 2 |\n| 3 |\n\ntext\n',
    '| a | b |\nnot a table\n\n| x |\n|:-:|\n| `|` \\| z |\n',
    'a | b\n- | -\n1 | 2\nend\n',
    '*em* **strong** ***both*** _em_ __strong__ ~~del~~ `code` ``co`de``\n',
    '**bold over\ntwo lines** and *not closed\n\n**never closed\n',
    'snake_case_name 2*3*4 * alone _ and __init__ and **\n',
    '[link](https://a.example/x_(y)) [ref] [other][ref] ![img](http://h/p.png "t") <https://auto.example> https://bare.example/a_b_c.\n\n[ref]: https://late.example "late"\n',
    '[ref]: /early\n[ref]: /double\n\nuse [ref]\n\n[ref]: /again\n\nmore [ref] text\n',
    'use [late] first\n\nthen text\n\n[late]: https://late.example\n\nend\n',
    '<div>\nhtml *block*\n</div>\n\ntext <b>inline</b> <br> <!-- c -->\n\n<!-- block\n\ncomment -->\nend\n',
    '<details>\n<summary>x</summary>\n\n- a\n\n</details>\n',
    'hard  \nbreak\\\nagain\n\n* * *\n\n___\n- - -\n',
    'text\n- list right after\n\ntext\n1. one right after\n',
    'a\n\n\n\n\nb\n \n\t\nc\n',
    'windows\r\n\r\n- a\r\n- b\r\n\r\n```\r\ncode\r\n```\r\n',
    '&amp; &lt; &#65; &copy; &unknown; \\* \\` \\[x\\]\n',
    '中文**加粗**文字。\n\n- 項目一\n- 項目二\n\n👩‍👩‍👧 🙂\n',
    'العربية **غامق** نص\n\n> اقتباس\n',
    '$$x^2$$ and \\(a\\) and $5 and $6\n',
    'so\n\\[\na_1 = b\n= c_2 * d\n\\]\nthen $a_1$, $b_2$ and \\(x_i*y\\).\n\n$$\n\\frac{1}{2}\n$$\n\nopen\n$$\nx\n\n- y\n',
    '- a\n  $$\n  x\n  $$\n- b\n\\[\n> \\[ q\n> \\] r\n\ntext\n$$\n\n$$$$\n',
    '1. a\n   - b\n     1. c\n\n   text in a\n2. d\n\n\n\nend\n',
    '- a\n-\n- c\n\n-\n\ntext\n',
    '+ plus\n- minus\n* star\n',
    'Setext over\ntwo lines\n===\n\ntext\n',
    '\ttab code\n\ntext\ttab\n- \ttab item\n',
    '```',
    '`',
    '|',
    '[',
    '**',
    '\n\n\n',
];

/* The lexer's own test-like text in its package, as long real documents; absent ones are skipped. */
function documents(): string[] {
    const names = ['marked/README.md', 'highlight.js/README.md', 'preact/README.md', 'vite/README.md', 'ws/README.md', 'axe-core/README.md'];
    return names.flatMap((name) => {
        try {
            return [readFileSync(new URL(`../../node_modules/${name}`, import.meta.url), 'utf8')];
        } catch {
            return [];
        }
    });
}

export const constructs = CONSTRUCTS;
export const corpus: string[] = [...CONSTRUCTS, MARKDOWN, CONSTRUCTS.join('\n'), ...documents()];
