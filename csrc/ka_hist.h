/* A latency histogram of fixed size: any thread adds, any thread reads.
 *
 * Buckets are logarithmic with 32 linear steps each, so a value is known within 1/64 of itself
 * (1.6 %), from 1 ns to 2^63 ns: a record may be years old when it is read.
 */
#ifndef KA_HIST_H
#define KA_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#include "ka.h"

enum { KAI_HIST_STEPS = 32, KAI_HIST_BUCKETS = KAI_HIST_STEPS * 59 };

typedef struct {
    _Atomic uint64_t sum_ns, sum_carries; /* 200,000 ages of a day fill the first */
    _Atomic uint64_t max_ns;
    _Atomic uint64_t buckets[KAI_HIST_BUCKETS];
} kai_hist;

/* Of a counter that one thread at a time writes: a locked addition waits until what the thread wrote before has left for the
 * caches, which takes longer than to copy a message. */
static inline void kai_raise_by(_Atomic uint64_t *count, uint64_t by)
{
    uint64_t now = atomic_load_explicit(count, memory_order_relaxed);

    atomic_store_explicit(count, now + by, memory_order_relaxed);
}

void kai_hist_add(kai_hist *hist, int64_t ns);
/* The same where no two threads add at a time: no locked instruction. */
void kai_hist_note(kai_hist *hist, int64_t ns);
/* Counters are read one by one: values added meanwhile may be in or not. */
void kai_hist_summary(const kai_hist *hist, ka_latency *out);

#endif
