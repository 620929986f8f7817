/* speculative.h - guessing tokens ahead so that the target verifies several of them in one step.
 *
 *     a drafter proposes a token tree            lookup_drafter_open, or any struct drafter
 *     the controller keeps what pays             controller_plan
 *     the target computes the rows of the tree   the engine
 *     the target's own draws walk it             walk_begin, walk_step
 *     everyone learns                            odds_learn, controller_learn
 *
 * One rule makes speculation invisible: at each node the target draws its own token, with the noise of that position; a child
 * that carries the token is accepted, and the first token that no child carries ends the round (the bonus). A draft decides
 * how many draws one step allows, never what is drawn, so a bad one costs time alone.
 *
 * This folder knows tokens and times, no model and no engine; it prints nothing and keeps no threads. One thread (the
 * engine's) uses these things; memory is allocated by *_open alone. */
#ifndef FORESAY_SPECULATIVE_H
#define FORESAY_SPECULATIVE_H

#include <stdbool.h>
#include <stdint.h>

/* --- the tree ---
 *
 * Node 0 is the root: the last token that is known. Parents stand before children, and chances never rise from one node to the
 * next, so the first n nodes are a tree too, and the best one of that size. A chain is a tree in which node i hangs on i - 1. */

enum {
    TREE_MAX_NODES = 64, /* the root included: a set of nodes fits a word */
    ODDS_KINDS = 193,
    ODDS_LUCKS = 5, /* see odds */
    ODDS_CLASSES = ODDS_LUCKS * ODDS_KINDS,
    DRAFT_STORE_CLASS = 16, /* and the seven after it: guesses of an n-gram store; those below: of the text itself */
    SEEN_STORE_CLASS = 32,  /* likewise, for tokens that the text has already */
};

struct token_tree {
    int n_nodes;
    int32_t tokens[TREE_MAX_NODES];
    int8_t parent[TREE_MAX_NODES]; /* -1 for the root */
    int8_t depth[TREE_MAX_NODES];
    uint16_t odds_class[TREE_MAX_NODES]; /* whose odds its chance was made of */
    float chance[TREE_MAX_NODES];        /* that the target's draws reach it, as estimated; 1 for the root */
    uint64_t ancestors[TREE_MAX_NODES];  /* bit j: node j is the node itself or stands above it */
};

void tree_init(struct token_tree *tree, int32_t root);
/* Adds a child, or finds the one that carries the token already. Its chance is the parent's times odds. Returns the node, or
 * -1 when the tree is full. */
int tree_add(struct token_tree *tree, int parent, int32_t token, int odds_class, float odds);
/* Adds a child even if another one carries the same token: drafts that are drawn may repeat. Otherwise like tree_add. */
int tree_push(struct token_tree *tree, int parent, int32_t token, int odds_class, float odds);
/* Puts the first n nodes, which are a tree, in depth-first order, of siblings the likelier first: the best path then stands right
 * behind the root. Only for trees that need no longer be cut. */
void tree_sort_depth_first(struct token_tree *tree, int n);
/* The likeliest nodes of two trees with one root, at most `most` beside it. What two guessers hold to be likely may add up to
 * more than is left: then the weaker guess gets the rest. */
void tree_merge(struct token_tree *out, const struct token_tree *a, const struct token_tree *b, int most);
/* The first child of a node that carries the token, or -1. */
int tree_child(const struct token_tree *tree, int node, int32_t token);

/* Where the target's draws have come to in a tree of which only the first n_nodes were computed. */
struct tree_walk {
    const struct token_tree *tree;
    int n_nodes, node;
};
static inline void walk_begin(struct tree_walk *walk, const struct token_tree *tree, int n_nodes) {
    *walk = (struct tree_walk){.tree = tree, .n_nodes = n_nodes};
}
/* The target drew token at walk->node. True: a computed child carries it and is walk->node now, so its logits give the next draw.
 * False: the token is the bonus, and the round is over. */
bool walk_step(struct tree_walk *walk, int32_t token);

/* --- verifying by distribution ---
 *
 * Sample-and-match gives the very text of plain decoding and needs to know nothing of the drafter. The modes below compare the
 * target's distribution with the one that the draft was drawn from. They accept drawn drafts more often; what comes out has the
 * target's distribution, but is not the text that plain decoding would give for the same seed. Typical acceptance changes the
 * distribution, too.
 *
 * A draft's shape (how many nodes, which of them are verified) must not depend on what was drawn for its nodes, or what comes out
 * is biased; and noise that one round has looked at must not serve another. */

enum {
    DRAWN_MOST = 64, /* tokens that a guess is drawn from */
    DRAWN_DEPTH = 16 /* drawn tokens behind each other */
};

/* What a node's children were drawn from: n tokens with probabilities that sum to 1. */
struct drawn_row {
    int n;
    int32_t tokens[DRAWN_MOST];
    double p[DRAWN_MOST];
};

/* Who decides: a random number generator, or a test that follows every path. */
struct verify_dice {
    bool (*accept)(void *self, double chance);
    int (*pick)(void *self, const double *weights, int n); /* weights need not sum to 1 */
    void *self;
};

struct verify_problem {
    const struct token_tree *tree; /* children in the order in which they were drawn */
    int n_vocab;
    /* The target's distribution behind a node: the probabilities of some tokens, asked for more than once; those of all. */
    void (*chances)(void *self, int node, const int32_t *tokens, int n, double *p);
    void (*row)(void *self, int node, double *p);
    void *self;
    const struct drawn_row *const *drawn; /* [n_nodes]. NULL: the node's children are not drawn but chosen, so each is a draw
                                             from a distribution of its own that has this token alone */
    double *scratch;                      /* [n_vocab] */
};

/* Node by node from the root (SpecInfer's multi-step speculative sampling). The drawn children of a node are independent draws,
 * or, with no_repeats, draws without replacement (Sequoia). On a chain this is token-level rejection (Leviathan et al., Chen et
 * al.). out: the accepted tokens and one more, at most the tree's depth + 1; returns their number. */
int verify_multi_step(const struct verify_problem *problem, bool no_repeats, const struct verify_dice *dice, int32_t *out);
/* From the leaves to the root, whole paths at once (traversal verification); children are drawn without replacement. On a
 * chain this is block verification (Sun et al.), which accepts more than token by token. */
int verify_traversal(const struct verify_problem *problem, const struct verify_dice *dice, int32_t *out);
/* LOSSY: Medusa's typical acceptance. A token is typical where its probability exceeds min(epsilon, delta * exp(-entropy)); the
 * longest path of them is accepted, its first token must be the target's likeliest, and the likeliest token follows it. */
int verify_typical(const struct verify_problem *problem, double epsilon, double delta, int32_t *out);

/* --- odds: how often a kind of guess came true ---
 *
 * Guesses fall into classes (the suffix drafter's: by length of the match). Each draw of the target scores the children of its
 * node, whether they were computed or not: the draw would have been the same. So odds are learned also while nothing is
 * drafted. */

/* A class is a kind of guess and the luck of its token, where that is known: luck * ODDS_KINDS + kind. Luck 0: the target draws
 * without noise, or nobody may know it. */
static inline int odds_kind(int odds_class) { return odds_class % ODDS_KINDS; }

struct draft_odds {
    float tried[ODDS_CLASSES], right[ODDS_CLASSES]; /* weights; older guesses count less */
};

/* What is assumed before anything was seen. */
void odds_init_prior(struct draft_odds *all);
/* own: of one sequence, all zero at first; all: of all sequences together, the assumption of new ones. */
float odds_estimate(const struct draft_odds *own, const struct draft_odds *all, int odds_class);
/* What was tried and right of the eight kinds from `first` on, whatever their luck, and the estimate for them together. */
void odds_sum(const struct draft_odds *odds, int first, float *tried, float *right);
float odds_estimate_from(const struct draft_odds *own, const struct draft_odds *all, int first);
/* The kind of a guess that its drafter gives probability p: one of the eight from `first` on. */
int odds_class_of(int first, float p);
/* The target drew n tokens from the root on: scores every node whose parent they reach. */
void odds_learn(struct draft_odds *own, struct draft_odds *all, const struct token_tree *tree, const int32_t *drawn, int n);

/* The noise with which the target will draw, for drafters that may know it (coupled drafts: Daliri et al. 2024): arrival times
 * in a race, exponentially distributed, from which a draw takes the token with the least arrival / probability. Gumbel noise is
 * their negative logarithm. of: NULL = there is none. */
struct draft_noise {
    double (*of)(const void *self, int position, int32_t token); /* the draw after `position` tokens of text */
    const void *self;
};
/* The class of a guess for the token behind `position` tokens. */
int odds_class_of_draw(const struct draft_noise *noise, int position, int32_t token, int kind);

/* --- drafters --- */

/* What a drafter that computes holds likely behind the text, likeliest first, for one that looks things up. */
enum { DRAFT_HINTS = 16 };
struct draft_hints {
    int n;
    int32_t tokens[DRAFT_HINTS];
    float p[DRAFT_HINTS]; /* its probability; where the noise of the draw is known, the token's share of that race */
};

struct draft_context {
    const int32_t *tokens; /* [n_tokens], the text so far; those of earlier calls for the same slot are unchanged */
    int n_tokens;
    const struct draft_odds *own, *all;
    int max_nodes;                   /* beside the root; at most TREE_MAX_NODES - 1 */
    int max_width;                   /* branches; 1 = a chain */
    int sources;                     /* of a drafter with several: DRAFT_FROM_... */
    const struct past_text *past;    /* earlier texts of the same author; NULL = none */
    const struct draft_hints *hints; /* NULL = none */
    float least_chance;              /* nodes below cannot pay */
    struct draft_noise noise;        /* of the target's draws */
    const void *request;             /* how the target draws, for drafters that draw like it: the engine's */
};

enum { DRAFT_FROM_SUFFIX = 1, DRAFT_FROM_STORE = 2, DRAFT_FROM_PAST = 4, DRAFT_FROM_ALL = 7 };

/* Rows of one sequence that the target has computed and whose tokens are certain by now: what heads on top of its states read. */
struct draft_rows {
    const int32_t *tokens; /* the text; tokens[first_pos + n] is known, too */
    int first_pos, n;
    const float *features;   /* [n, width of the features]; NULL where nobody asked for them */
    const float *last_state; /* of the last row, behind all layers; NULL = was not computed */
};

/* A guess for one of several sequences. */
struct draft_ask {
    int slot;
    struct draft_context context;
    struct token_tree *tree;   /* has its root */
    struct draft_hints *hints; /* for hint_all */
    struct drawn_row
        *rows; /* [DRAWN_DEPTH]: the guesses are to be drawn, those at depth d + 1 from rows[d]. NULL: they are not */
};

/* A slot is one sequence's place in a drafter. */
struct drafter_ops {
    const char *name;
    void (*begin)(void *self, int slot); /* a new sequence takes the slot */
    /* Grows the tree, which has its root. Leaves it alone when there is nothing to guess. */
    void (*propose)(void *self, int slot, const struct draft_context *context, struct token_tree *tree);
    void (*close)(void *self);
    /* The rest may be NULL. Instead of propose, for drafters that compute: the guesses of n sequences together, each a chain. */
    void (*propose_all)(void *self, const struct draft_ask *asks, int n);
    /* Hints for another drafter instead; none where it cannot tell. */
    void (*hint_all)(void *self, const struct draft_ask *asks, int n);
    void (*end)(void *self, int slot); /* the sequence has left; the slot's memory may serve others */
    void (*observe)(void *self, int slot, const struct draft_rows *rows); /* after each step */
};
struct drafter {
    const struct drafter_ops *ops;
    void *self;
};

/* --- the n-gram store ---
 *
 * What the target tends to say after 1 .. 4 tokens, distilled from its own text: for each context up to NGRAM_NEXT tokens with
 * their probability, blended with what shorter contexts say, so that the longest known context has the answer. The image is
 * what lies in a file: a header, then for each length the records sorted by hash of their context. 8 bytes a record. */

enum { NGRAM_ORDERS = 4, NGRAM_NEXT = 4 };

struct ngram_header {
    char magic[8]; /* "fsngram1" */
    uint64_t vocab_digest, target_digest;
    uint64_t n_text; /* tokens of text that it was made of */
    uint32_t n_vocab;
    uint32_t n_records[NGRAM_ORDERS]; /* by length of the context, 1 first */
    uint32_t checksum;                /* of the records */
};

struct ngram_record {
    uint32_t key;  /* hash of the context; ascending, of equals the likelier token first */
    uint32_t next; /* token in the low 24 bits, probability * 255 in the high 8 */
};

struct ngram_store {
    const struct ngram_header *header; /* into the image, which must outlive the store */
    const struct ngram_record *records[NGRAM_ORDERS];
};

struct ngram_guess {
    int32_t token;
    float probability;
};

/* image: 8-byte aligned. NULL when all is well, or what is wrong, to be put behind the file's name: "is cut off ...". Digests
 * of 0 are not compared. */
const char *ngram_open(struct ngram_store *out, const void *image, uint64_t size, uint32_t n_vocab, uint64_t vocab_digest,
                       uint64_t target_digest);
/* Guesses what follows the last of n tokens, likeliest first. Returns their number, at most NGRAM_NEXT. */
int ngram_find(const struct ngram_store *store, const int32_t *tokens, int n, struct ngram_guess *out);
/* Makes an image of at most max_bytes from text; negative ids in it stand between texts. Returns malloc'ed memory and its size in
 * *size; NULL when memory is refused. The longest contexts that were seen least go first where the size does not suffice. */
void *ngram_build(const int32_t *text, uint64_t n_text, uint32_t n_vocab, uint64_t vocab_digest, uint64_t target_digest,
                  uint64_t max_bytes, uint64_t *size);

struct ngram_builder;
/* The same piece by piece, for those who must be ready to leave off: a step goes over the text once. text must outlive it. */
struct ngram_builder *ngram_builder_open(const int32_t *text, uint64_t n_text, uint32_t n_vocab, uint64_t vocab_digest,
                                         uint64_t target_digest, uint64_t max_bytes); /* NULL when memory is refused */
uint64_t ngram_builder_bytes(uint64_t n_text, uint64_t max_bytes);
bool ngram_builder_step(struct ngram_builder *builder); /* false: it is done */
void *ngram_builder_finish(struct ngram_builder *builder, uint64_t *size);
void ngram_builder_close(struct ngram_builder *builder); /* accepts NULL */

/* --- an author's earlier texts ---
 *
 * The latest max_tokens / 2 to max_tokens tokens of them, to look up what followed the same words there. Each is a world of its
 * own: what is in one can reach a guess only through draft_context.past. Memory is allocated by past_open alone. */
struct past_text;
uint64_t past_bytes(int max_tokens);
struct past_text *past_open(int max_tokens); /* max_tokens >= 4; NULL when memory is refused */
void past_close(struct past_text *past);     /* accepts NULL */
/* One more text; of one longer than max_tokens / 2 its end. */
void past_add(struct past_text *past, const int32_t *tokens, int n);
int past_tokens(const struct past_text *past); /* how many there are, with one between any two texts */
/* Copies the latest past_tokens of them, -1 behind each text. */
void past_read(const struct past_text *past, int32_t *out);
/* An n-gram store that was made of this author's texts, to guess from beside them: a malloc'ed image that past owns from now on.
 * NULL takes it away. */
void past_set_store(struct past_text *past, void *image, uint64_t size);
bool past_has_store(const struct past_text *past);

/* The kind of guesses that come from there, and the kinds after it; the last eight: from the author's store. */
enum { PAST_CLASS = 40, PAST_STORE_CLASS = PAST_CLASS + 9 };

/* Kinds of guesses beside hints: the hint's alone, in eight steps; those of the text, and of the store, in eight steps of their
 * own odds by eight of the hint's. */
enum { HINT_CLASS = PAST_STORE_CLASS + 8, HINT_TEXT_CLASS = HINT_CLASS + 8, HINT_STORE_CLASS = HINT_TEXT_CLASS + 64 };
static inline bool odds_is_past(int kind) { return kind >= PAST_CLASS && kind < HINT_CLASS; }

/* --- the drafter that looks things up --- */

enum {
    SUFFIX_MAX_MATCH = 32, /* tokens that are compared */
    SUFFIX_MAX_PLACES = 4, /* of them are followed in one tree */
};

/* Three sources: earlier places of the sequence's own text that end like it (what followed there may follow here), an n-gram
 * store (NULL = none), and such places in earlier texts of the same author, where the context names them. Their guesses grow into
 * one tree, likeliest first. 9 to 14 bytes a token of text; a proposal takes some microseconds. The store must outlive the
 * drafter. Returns 0, or -1 when memory is refused. */
int lookup_drafter_open(struct drafter *out, int n_slots, int max_tokens, const struct ngram_store *store);
/* Bytes that lookup_drafter_open allocates. */
uint64_t lookup_drafter_bytes(int n_slots, int max_tokens);

/* --- what a drafter would have gained on texts that are there already --- */

struct replay_sums {
    uint64_t n_steps, n_tokens, n_drafted; /* n_tokens / n_steps: tokens a step */
};

/* Rounds played again, in slot 0 of a drafter. */
struct replay {
    const struct drafter *drafter;
    const struct past_text *past; /* earlier texts of the same author; NULL = none */
    int max_nodes, max_width;     /* guesses a step; of them for the same place */
    float least_chance;           /* of nodes that are verified */
    struct draft_odds own, all;   /* as learned so far */
    const int32_t *tokens;        /* [n], the text being played, up to `at` */
    int n, at;
    struct replay_sums sums; /* of all texts */
};

/* All that the drafter guesses is verified, unless the caller sets other bounds. */
void replay_init(struct replay *replay, const struct drafter *drafter, const struct past_text *past);
/* A text whose first n_known tokens are given; the first always is. */
void replay_begin_text(struct replay *replay, const int32_t *tokens, int n_known, int n);
/* At most so many rounds. False: the text is over. */
bool replay_play(struct replay *replay, int most);

/* The same for the lookup drafter on many answers. text: tokens; of a prompt, which stands before its answer, token t as -2 - t;
 * -1 ends an answer. Returns 0, or -1 when memory is refused. */
int speculative_replay(const int32_t *text, uint64_t n_text, const struct ngram_store *store, int max_nodes, int max_width,
                       struct replay_sums *out);

/* --- costs --- */

enum { COST_MAX_ROWS = 256, COST_SAMPLES = 15 };

struct row_cost {
    float samples_ms[COST_SAMPLES]; /* the latest, oldest overwritten first; at the table's pace */
    int n, next;
    float median_ms;
    uint64_t pass; /* when it was measured last */
};

/* What a pass of so many rows takes: moving medians of measured times. All zero at first. */
struct cost_table {
    struct row_cost rows[COST_MAX_ROWS + 1];
    uint64_t n_passes;
    double pace; /* of the machine: what a pass takes now, by what it is kept as; 0 = 1 */
};

void cost_learn(struct cost_table *table, int n_rows, double ms);
/* Measured, or drawn from the nearest measured sizes. 0 when nothing was measured yet. */
double cost_ms(const struct cost_table *table, int n_rows);
/* Of a size that was measured. */
double cost_median_ms(const struct cost_table *table, int n_rows);
/* The machine is not what it was. */
void cost_forget_above(struct cost_table *table, int n_rows);

/* --- the controller ---
 *
 * Knows what a step of n rows costs here and keeps the nodes that raise expected tokens per millisecond. All sequences' nodes
 * compete for one budget, so drafts fade out by themselves as the batch fills. A drafter that computes is asked only where its
 * time, too, comes back. */

/* What drafts have gained of late, in plain steps. A little is added in every step; once it is spent, drafts rest. So they can
 * never lose more than that little, whatever is wrong with the estimates. */
struct draft_ledger {
    double credit, most;
    bool is_resting;
    int probe_after; /* steps without a draft, then one is tried: times may have changed */
    uint64_t last_draft;
};

/* What asking for hints has brought of late, in tokens above what their rows cost: by the odds of the best free guess, in
 * eight steps. */
enum { HINT_STEPS = 8 };
struct hint_worth {
    float tokens[HINT_STEPS];
    double price; /* of a row in the step under way, in tokens */
};

struct controller {
    struct cost_table steps;         /* of the target */
    struct cost_table passes;        /* of the drafter that computes; there a pass has the rows of all sequences that ask */
    struct draft_ledger free, asked; /* steps with drafts that cost nothing; what asking brought beyond what those promised */
    double forgone;                  /* what they promised in the step in which somebody asks */
    struct hint_worth hints;
    double promised, kept;    /* tokens that nodes were to bring, and brought, of late */
    double promise;           /* the former of the step under way */
    bool is_probe, has_asked; /* likewise */
    double pass_share;
    int n_burst; /* rounds that a probe of the drafter that computes still goes on */
};

/* What a step did. Steps with prompts in them are not to be told. */
struct step_outcome {
    int n_rows, n_drafted; /* all rows, each with logits; those of them that were nodes of drafts */
    int n_tokens;          /* that came out */
    double ms, asked_ms;   /* the step; before it, asking the drafter that computes */
};

/* pass_share: what a pass of the drafter that computes should cost, of a step with as many rows; 0 = there is none. */
void controller_init(struct controller *c, double pass_share);
void controller_learn(struct controller *c, const struct step_outcome *step);
/* A step will compute n_rows rows, each for one certain token, and may add at most budget nodes of the trees. kept[i]: how many
 * nodes of tree i, beside the root, pay. Returns their sum, 0 when plain decoding is best. */
int controller_plan(struct controller *c, const struct token_tree *const *trees, int n_trees, int n_rows, int budget, int *kept);

/* Nodes below cannot pay in a step of n_rows rows: half of the tokens that a row is known to cost; 0 when that is not known. */
float controller_least_chance(const struct controller *c, int n_rows);

/* What the drafter that computes may do for a sequence in this step. */
struct draft_offer {
    const struct token_tree *free; /* what another drafter guesses at no cost; the root alone = nothing */
    struct token_tree *asked;      /* for its guess; until then scratch of controller_ask */
    bool is_hint;                  /* it hints to the free one: judged by what that has brought, not by odds */
    float odds;                    /* that a token it guesses comes true if those before it did */
    int most;                      /* tokens it may guess */
    int n_missing;                 /* tokens of the text that it has not computed yet, at least 1 */
    int n_left;                    /* tokens that the text may still grow by: what catching up is good for */
    bool asks;                     /* result */
};

/* Decides who asks in this step, before controller_plan. Returns how many; their guesses should end at nodes whose chance is
 * below *least_chance. */
int controller_ask(struct controller *c, struct draft_offer *offers, int n, int n_rows, int budget, float *least_chance);
/* It asked for a hint, and the free guess became this one. */
void controller_hinted(struct controller *c, const struct token_tree *free, const struct token_tree *tree);

#endif
