/* timers.c - see timers.h. A pairing heap: melding two heaps is one comparison, so setting is O(1) and removing O(log n)
 *
 * amortised. */
#include "gateway/timers.h"

#include <stddef.h>
#include <time.h>

void timer_init(struct timer *timer, void (*fire)(struct timer *timer)) { *timer = (struct timer){.fire = fire}; }

/* Both are roots (no siblings) or NULL; the later one becomes the first child of the earlier. */
static struct timer *meld(struct timer *a, struct timer *b) {
    if (!a) return b;
    if (!b) return a;
    if (b->due_ms < a->due_ms) {
        struct timer *t = a;
        a = b;
        b = t;
    }
    b->next = a->child;
    if (b->next) b->next->prev = b;
    b->prev = a;
    a->child = b;
    return a;
}

/* Melds a list of siblings into one heap: pairs from left to right, then the pairs from right to left. */
static struct timer *meld_siblings(struct timer *list) {
    struct timer *pairs = NULL, *heap = NULL;
    while (list) {
        struct timer *a = list, *b = a->next;
        list = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b) b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs; /* next chains the pairs, last one first */
        pairs = a;
    }
    while (pairs) {
        struct timer *rest = pairs->next;
        pairs->next = NULL;
        heap = meld(heap, pairs);
        pairs = rest;
    }
    return heap;
}

void timer_cancel(struct timers *timers, struct timer *timer) {
    if (!timer->set) return;
    struct timer *children = meld_siblings(timer->child);
    timer->child = NULL;
    if (timers->root == timer) {
        timers->root = children;
    } else {
        if (timer->prev->child == timer)
            timer->prev->child = timer->next;
        else
            timer->prev->next = timer->next;
        if (timer->next) timer->next->prev = timer->prev;
        timers->root = meld(timers->root, children);
    }
    timer->next = timer->prev = NULL;
    timer->set = false;
}

void timer_set(struct timers *timers, struct timer *timer, int64_t due_ms) {
    timer_cancel(timers, timer);
    timer->due_ms = due_ms;
    timer->set = true;
    timers->root = meld(timers->root, timer);
}

int64_t timers_next_ms(const struct timers *timers) { return timers->root ? timers->root->due_ms : -1; }

void timers_run(struct timers *timers, int64_t now_ms) {
    while (timers->root && timers->root->due_ms <= now_ms) {
        struct timer *timer = timers->root;
        timer_cancel(timers, timer);
        timer->fire(timer);
    }
}

static int64_t read_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
int64_t clock_ms(void) { return read_clock(CLOCK_MONOTONIC); }
int64_t clock_wall_ms(void) { return read_clock(CLOCK_REALTIME); }
