/* mock-scripts.mjs - what the mock server answers: a message that begins with /name gets that script, any other text a plain
 * answer.
 *
 * A script is {text, tokens a second, and what else should happen}. Texts are cut into pieces the way a tokenizer would. */

export const MARKDOWN = `Here is a short tour of what an answer may hold.

## A heading

Plain text with **bold**, *italic*, ~~struck~~, \`inline code\`, a [link](https://example.org/page "a title") and a footnote-like [1].

- first point
- second point with **bold** text
    - nested point
    - another one
- [ ] an open task
- [x] a finished task

1. one
2. two
3. three

> A quote that is long enough to run over the end of the line, so that its second line shows how it is set.

| Drink | Caffeine | Taste |
|:------|---------:|:-----:|
| Tea | 47 mg | light, floral |
| Coffee | 95 mg | strong, bitter |
| Cocoa | 12 mg | sweet |

\`\`\`python
def is_palindrome(word: str) -> bool:
    """True if the word reads the same both ways."""
    letters = [c.lower() for c in word if c.isalnum()]
    return letters == letters[::-1]

print(is_palindrome("Racecar"))  # True
\`\`\`

---

And a last paragraph after a rule.
`;

const CODE = `A small program in C:

\`\`\`c
#include <stdio.h>

/* Greets everyone who is named on the command line. */
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        printf("Hello, %s!\\n", argv[i]);
    }
    return argc > 1 ? 0 : 1;
}
\`\`\`

Build it with \`cc hello.c\` and run it with a few names.
`;

const XSS = `<script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2"> and <svg onload="window.hacked = 3"></svg>

<iframe srcdoc="<script>parent.hacked = 4</script>"></iframe>

[click](javascript:window.hacked=5) [data](data:text/html,<script>window.hacked=6</script>) [vb](vbscript:x) [rel](/health)

![pixel](https://evil.example/pixel.png) ![js](javascript:window.hacked=7)

<https://example.org/?a=1&b=2> &lt;b&gt;entity&lt;/b&gt; &#60;i&#62; &#x6A;avascript:

[a&#x3a;b](java&#115;cript:window.hacked=8) [tab](java\tscript:window.hacked=9)

\`\`\`"><img src=x onerror=window.hacked=10>
</code></pre><script>window.hacked = 11</script>
\`\`\`

| <b>h</b> | [x](javascript:window.hacked=12) |
|---|---|
| <img src=x onerror=window.hacked=13> | \`<i>\` |
`;

const CJK = `中文和日本語の混在テキスト。绵羊在草地上吃草，太阳慢慢下山。 Emoji: 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ok. العربية من اليمين إلى اليسار.

مرحبا بالعالم، هذا نص عربي مع كلمة code في الوسط.
`;

function longText(words) {
    const stock = 'The quick brown fox looks twice before it jumps over the lazy dog and then sits down to think about it for a while'.split(' ');
    const out = [];
    for (let i = 0; i < words; i++) out.push((i % 60 === 59 ? '\n\n' : ' ') + stock[i % stock.length] + (i % 12 === 11 ? '.' : ''));
    return out.join('').trim();
}

const PLAIN =
    'A rainbow forms when sunlight meets rain.\n\nEach drop **bends** the light as it enters, reflects it at the back, and bends it again on the way out. ' +
    'Because every colour bends by a slightly different angle, the white light is spread into bands: red at the outer edge, violet at the inner one.\n\n' +
    'You see it only with the sun *behind* you and the rain in front.';

export function scriptFor(text) {
    const [, name = '', rest = ''] = /^\/(\w+)\s*([\s\S]*)$/.exec(text) ?? [];
    switch (name) {
        case 'markdown':
            return { text: MARKDOWN, rate: 400 };
        case 'slow':
            return { text: longText(Number(rest) || 400), rate: 40 };
        case 'long':
            return { text: longText(Number(rest) || 1500), rate: 2000 };
        case 'code':
            return { text: CODE, rate: 200 };
        case 'xss':
            return { text: XSS, rate: 800 };
        case 'cjk':
            return { text: CJK, rate: 200 };
        case 'echo':
            return { text: rest, rate: 500 };
        case 'type': // the same slowly, so that a busy page too draws it half-written
            return { text: rest, rate: 30 };
        case 'prefill':
            return { text: PLAIN, rate: 100, prefill: 10 };
        case 'queue':
            return { text: PLAIN, rate: 100, silent_ms: Number(rest) || 3000 };
        case 'trimmed':
            return { text: PLAIN, rate: 100, trimmed: 6 };
        case 'error':
            return { text: PLAIN, rate: 200, fail: { code: 5001, msg: 'The engine has stopped: out of memory on the device.' } };
        case 'unsaved':
            return { text: PLAIN, rate: 400, err: { code: 5002, msg: 'The answer could not be saved: the disk is full.' } };
        case 'length':
            return { text: PLAIN, rate: 400, why: 'length' };
        case 'context':
            return { text: PLAIN, rate: 400, why: 'context' };
        case 'refuse':
            return { refuse: { code: 5003, msg: 'The messages need 9,120 tokens; the context holds 8,192.' } };
        case 'busy':
            return { refuse: { code: 4002, msg: 'The server is busy: 64 requests are waiting.', retry_ms: 2000 } };
        default:
            return { text: PLAIN, rate: 60 };
    }
}

/* Pieces of one to eight characters, never half a character. */
export function cut(text) {
    return text.match(/\s?[\p{L}\p{N}\p{M}_]{1,7}|\s+|[\s\S]/gu) ?? [];
}
