/* memory.h - how much memory this process may still take, so that a model that cannot fit is refused with numbers instead of
 * being killed while it loads. */
#ifndef FORESAY_MEMORY_H
#define FORESAY_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* The least of what the system calls available and what the control groups around this process leave. UINT64_MAX when nothing can
 * be found out. Any thread. */
uint64_t memory_available(void);

/* The most that this process had in memory since it was started; 0 = unknown. getrusage would count what its parent had, too. */
uint64_t memory_peak(void);

/* "755.0 MiB"; writes into text and returns it. */
const char *memory_format(uint64_t bytes, char *text, size_t size);

#endif
