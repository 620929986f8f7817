/* learning.c - see learning.h. */
#include "gateway/learning.h"

#include "engine/log.h"

#include <stdlib.h>

enum { ANSWER_BYTES = 512 * 1024 }; /* what the engine keeps of a user, 64k tokens, is less in any language */

/* Answers being read. At most one a user. */
struct learning_load {
    struct gateway *gateway;
    int64_t user;
    uint32_t number;
    bool again; /* an answer ended meanwhile, perhaps too late for this read */
    struct learning_load *next;
};

/* Counts what was forgotten, of several users together: that costs at most a read. */
static uint32_t *number_of(struct gateway *gateway, int64_t user) {
    return &gateway->learning.numbers[(uint64_t)user % GATEWAY_BUCKETS];
}

static struct learning_load *find_load(struct gateway *gateway, int64_t user) {
    struct learning_load *load = gateway->learning.loads;
    while (load && load->user != user) load = load->next;
    return load;
}

static void unlink_load(struct learning_load *load) {
    struct learning_load **at = &load->gateway->learning.loads;
    while (*at != load) at = &(*at)->next;
    *at = load->next;
    free(load);
}

static bool can_learn(const struct gateway *gateway) { return gateway->engine && gateway->model.can_learn; }

/* --- reading what there is --- */

static bool post_load(struct learning_load *load);

static void teach(struct gateway *gateway, int64_t user, const struct store_op *op) {
    uint64_t key = turn_user_key(gateway, user);
    engine_forget_user(gateway->engine, key);
    for (int i = 0; i < op->n_messages; i++)
        engine_user_text(gateway->engine, key, op->messages[i].text, op->messages[i].text_len);
}

static void on_answers(struct store_op *op) {
    struct learning_load *load = op->context;
    struct gateway *gateway = load->gateway;
    bool is_current = load->number == *number_of(gateway, load->user) && !load->again;
    bool goes_on = !is_current && op->status == STORE_OK && can_learn(gateway);
    if (is_current && op->status == STORE_OK && op->learns && can_learn(gateway)) teach(gateway, load->user, op);
    if (op->status != STORE_OK) log_warn("learning", "earlier answers could not be read: %s", op->error);
    store_op_free(op);
    if (!goes_on || !post_load(load)) unlink_load(load);
}

static bool post_load(struct learning_load *load) {
    struct store_op *op = store_op_new(STORE_ANSWERS);
    if (!op) return false;
    load->number = *number_of(load->gateway, load->user);
    load->again = false;
    op->user = load->user;
    op->limit = ANSWER_BYTES;
    op->context = load;
    op->done = on_answers;
    if (gateway_post(load->gateway, op)) return true;
    store_op_free(op);
    return false;
}

static void begin_load(struct gateway *gateway, int64_t user) {
    struct learning_load *load = find_load(gateway, user);
    if (load || !(load = calloc(1, sizeof *load))) return;
    *load = (struct learning_load){.gateway = gateway, .user = user, .next = gateway->learning.loads};
    gateway->learning.loads = load;
    if (!post_load(load)) unlink_load(load);
}

void learning_greet(struct gateway *gateway, int64_t user, bool learns) {
    if (learns && can_learn(gateway) && !engine_knows_user(gateway->engine, turn_user_key(gateway, user)))
        begin_load(gateway, user);
}

/* --- a turn --- */

void learning_prepare(struct generation *g) { g->learning_number = *number_of(g->gateway, g->user); }

void learning_begin(struct generation *g, const struct store_op *path) {
    g->learns = path->learns && can_learn(g->gateway) && g->learning_number == *number_of(g->gateway, g->user);
    learning_greet(g->gateway, g->user, g->learns);
}

void learning_end(struct generation *g) {
    struct gateway *gateway = g->gateway;
    uint64_t key = turn_user_key(gateway, g->user);
    struct learning_load *load = find_load(gateway, g->user);
    const struct stream *s = g->stream;
    if (!g->learns || !can_learn(gateway) || g->result.why == WHY_ERROR) return;
    if (load)
        load->again = true;
    else if (!engine_knows_user(gateway->engine, key))
        begin_load(gateway, g->user);
    else if (s->text_len > s->base_len)
        engine_user_text(gateway->engine, key, s->text + s->base_len, s->text_len - s->base_len);
}

/* --- forgetting --- */

void learning_forget(struct gateway *gateway, int64_t user) {
    ++*number_of(gateway, user);
    if (gateway->engine) engine_forget_user(gateway->engine, turn_user_key(gateway, user));
}

void learning_set(struct gateway *gateway, int64_t user, bool learns) {
    learning_greet(gateway, user, learns);
    if (learns) return;
    learning_forget(gateway, user);
    turns_stop_learning(gateway, user);
}
