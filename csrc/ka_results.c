#include "ka_results.h"

#include <stdlib.h>

int kai_results_init(kai_results *results, int64_t capacity, int64_t capacity_bytes,
                     kai_wake *freed)
{
    results->capacity = capacity;
    results->capacity_bytes = capacity_bytes;
    results->freed = freed;
    kai_wake_init(&results->arrived);
    kai_wake_init(&results->progressed);
    return kai_ring_init(&results->ring,
                         (uint64_t)(capacity + 1) * kai_ring_entry_size(sizeof(ka_result)));
}

void kai_results_fini(kai_results *results)
{
    kai_wake_fini(&results->arrived);
    kai_wake_fini(&results->progressed);
    kai_ring_fini(&results->ring);
}

/* Raise a count that has a bound. acquire: partner is the release in kai_results_unreserve(), so that the
 * worker, which this message reaches, sees the ring's room. */
static int add_bounded(_Atomic int64_t *count, int64_t by, int64_t most)
{
    int64_t now = atomic_load_explicit(count, memory_order_relaxed);

    do {
        if (now + by > most)
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(count, &now, now + by, memory_order_acquire,
                                                    memory_order_relaxed));
    return 1;
}

int kai_results_reserve(kai_results *results, int64_t bytes)
{
    if (!add_bounded(&results->reserved_bytes, bytes, results->capacity_bytes))
        return 0;
    if (add_bounded(&results->reserved, 1, results->capacity))
        return 1;
    atomic_fetch_sub_explicit(&results->reserved_bytes, bytes, memory_order_relaxed);
    return 0;
}

static void unreserve(kai_results *results, int64_t places, int64_t bytes)
{
    atomic_fetch_sub_explicit(&results->reserved_bytes, bytes, memory_order_relaxed);
    /* release: partner is add_bounded(). */
    atomic_fetch_sub_explicit(&results->reserved, places, memory_order_release);
    kai_wake_notify(results->freed);
}

void kai_results_unreserve(kai_results *results, int64_t bytes)
{
    unreserve(results, 1, bytes);
}

int kai_results_full(const kai_results *results, int64_t bytes)
{
    return atomic_load(&results->reserved) >= results->capacity ||
           atomic_load(&results->reserved_bytes) + bytes > results->capacity_bytes;
}

void kai_results_push(kai_results *results, const ka_result *result)
{
    ka_result *entry = kai_ring_reserve(&results->ring, sizeof *entry);

    if (!entry)
        abort(); /* every result has a reserved place */
    *entry = *result;
    kai_ring_commit(entry, sizeof *entry);
    results->pushed++;
}

void kai_results_announce(kai_results *results)
{
    if (results->pushed == atomic_load_explicit(&results->announced, memory_order_relaxed))
        return;
    /* release: whoever is told a result finds it counted; partner: kai_results_take(). */
    atomic_store_explicit(&results->announced, results->pushed, memory_order_release);
    kai_wake_notify(&results->arrived);
}

void kai_results_close(kai_results *results)
{
    atomic_store(&results->closed, 1); /* release: after the last announcement */
    kai_wake_notify(&results->arrived);
}

static void finish_taken(kai_results *results)
{
    if (results->taken == 0)
        return;
    atomic_fetch_add(&results->told, results->taken);
    unreserve(results, results->taken, results->taken_bytes);
    results->taken = results->taken_bytes = 0;
    kai_wake_notify(&results->progressed);
}

static void note_taken(kai_results *results, const ka_result *out, int64_t n)
{
    int64_t now = kai_now_ns();

    for (int64_t i = 0; i < n; i++)
        kai_hist_note(&results->latency, now - out[i].counted_ns);
}

int64_t kai_results_take(kai_results *results, ka_result *out, int64_t size)
{
    /* In this order: what is announced before closing must be seen by who sees the closing. */
    int closed = atomic_load(&results->closed);
    int64_t left, n = 0;
    uint64_t pos = kai_ring_head(&results->ring);

    finish_taken(results);
    left = atomic_load_explicit(&results->announced, memory_order_acquire) -
           atomic_load_explicit(&results->told, memory_order_relaxed);
    for (; n < left && n < size; n++) {
        out[n] = *(ka_result *)kai_ring_next(&results->ring, &pos);
        results->taken_bytes += out[n].bytes;
    }
    if (n) {
        kai_ring_release(&results->ring, pos);
        note_taken(results, out, n);
    }
    results->taken = n;
    return n == 0 && closed ? KA_CLOSED : n;
}

static int64_t check_arrived(void *self, int64_t arg)
{
    kai_results *results = self;

    (void)arg;
    if (atomic_load(&results->announced) > atomic_load(&results->told) + results->taken ||
        atomic_load(&results->closed))
        return KA_OK;
    return KA_EMPTY;
}

int kai_results_wait(kai_results *results, int64_t timeout_us)
{
    return (int)kai_wait_until(&results->arrived, timeout_us, check_arrived, results, 0);
}
