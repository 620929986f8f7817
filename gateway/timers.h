/* timers.h - what is due when: a heap of timers that live inside the objects they belong to.
 *
 *  (1) No allocation: the heap (a pairing heap) is made of links in struct timer, so setting a timer cannot fail.
 *  (2) A timer fires once; its callback may set it again, cancel others, or free the object that holds it.
 *  (3) An object cancels its timers before it is freed.
 * Service thread only. The caller brings the time; server.c keeps one event-loop timer set to timers_next_ms. */
#ifndef FORESAY_TIMERS_H
#define FORESAY_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

struct timer {
    int64_t due_ms;
    void (*fire)(struct timer *timer); /* the owner is found by container_of */
    struct timer *child, *next, *prev; /* first child; siblings; prev of a first child is its parent */
    bool set;
};

struct timers {
    struct timer *root;
};

/* The owner of an embedded member. */
#define container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

void timer_init(struct timer *timer, void (*fire)(struct timer *timer));
/* Sets or moves it. */
void timer_set(struct timers *timers, struct timer *timer, int64_t due_ms);
void timer_cancel(struct timers *timers, struct timer *timer); /* no harm when it is not set */
/* When the first one is due; -1 when none is set. */
int64_t timers_next_ms(const struct timers *timers);
/* Fires all that are due at now_ms, in the order of their times. */
void timers_run(struct timers *timers, int64_t now_ms);

/* Milliseconds of the monotonic clock (for timers) and since 1970 (for people). */
int64_t clock_ms(void);
int64_t clock_wall_ms(void);

#endif
