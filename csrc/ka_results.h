/* Results on their way from a worker to the thread that tells them: bounded in number, and in the bytes
 * that the teller keeps for them, and never in the worker's way.
 *
 * Whoever accepts something that wants a result reserves its place first; a place is free again once
 * its result has been told, so the worker always finds room. The worker pushes results and
 * announces them together, when its counters say the same; one teller takes them in batches.
 */
#ifndef KA_RESULTS_H
#define KA_RESULTS_H

#include <stdatomic.h>
#include <stdint.h>

#include "ka.h"
#include "ka_hist.h"
#include "ka_ring.h"
#include "ka_wake.h"

typedef struct {
    kai_ring ring; /* of ka_result; the worker writes, the teller reads */
    int64_t capacity, capacity_bytes;
    kai_wake *freed; /* borrowed: notified when places are free again */
    _Atomic int64_t reserved, reserved_bytes;
    _Atomic int64_t announced; /* how many the teller may take, ever */
    _Atomic int64_t told;      /* how many it has told, ever */
    _Atomic int closed;        /* no more will be announced */
    kai_wake arrived, progressed;
    int64_t pushed;             /* worker only */
    int64_t taken, taken_bytes; /* teller only */
    kai_hist latency;           /* from a result's counted_ns until it was taken; the teller adds */
} kai_results;

/* 0, or -1 without memory. */
int kai_results_init(kai_results *results, int64_t capacity, int64_t capacity_bytes,
                     kai_wake *freed);
void kai_results_fini(kai_results *results);

/* Any thread. Whether there was a place for so many bytes; one that was not needed is given back. */
int kai_results_reserve(kai_results *results, int64_t bytes);
void kai_results_unreserve(kai_results *results, int64_t bytes);
int kai_results_full(const kai_results *results, int64_t bytes);

/* Worker. */
void kai_results_push(kai_results *results, const ka_result *result);
void kai_results_announce(kai_results *results);
void kai_results_close(kai_results *results);

/* Teller: what the last call gave is told now; take up to size more. KA_CLOSED: that was all. */
int64_t kai_results_take(kai_results *results, ka_result *out, int64_t size);
/* Until kai_results_take() has something to return. */
int kai_results_wait(kai_results *results, int64_t timeout_us);

#endif
