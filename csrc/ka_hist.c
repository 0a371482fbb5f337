#include "ka_hist.h"

/* Below STEPS one bucket a nanosecond; above, the leading bit picks the group and the next
 * five bits the step in it. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < KAI_HIST_STEPS)
        return (unsigned)ns;
    shift = 58u - (unsigned)__builtin_clzll(ns);
    return shift * KAI_HIST_STEPS + (unsigned)(ns >> shift);
}

/* The middle of a bucket, in nanoseconds. */
static double value_of(unsigned bucket)
{
    unsigned shift = bucket / KAI_HIST_STEPS;
    uint64_t step = bucket % KAI_HIST_STEPS;

    if (shift == 0)
        return (double)step;
    return ((double)(step + KAI_HIST_STEPS) + 0.5) * (double)((uint64_t)1 << (shift - 1));
}

void kai_hist_add(kai_hist *hist, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    uint64_t max = atomic_load_explicit(&hist->max_ns, memory_order_relaxed);

    /* relaxed: independent counters, no data is published through them. */
    atomic_fetch_add_explicit(&hist->buckets[bucket_of(value)], 1, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&hist->sum_ns, value, memory_order_relaxed) > UINT64_MAX - value)
        atomic_fetch_add_explicit(&hist->sum_carries, 1, memory_order_relaxed);
    while (value > max &&
           !atomic_compare_exchange_weak_explicit(&hist->max_ns, &max, value, memory_order_relaxed,
                                                  memory_order_relaxed))
        continue;
}

void kai_hist_note(kai_hist *hist, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;

    kai_raise_by(&hist->buckets[bucket_of(value)], 1);
    if (atomic_load_explicit(&hist->sum_ns, memory_order_relaxed) > UINT64_MAX - value)
        kai_raise_by(&hist->sum_carries, 1);
    kai_raise_by(&hist->sum_ns, value);
    if (value > atomic_load_explicit(&hist->max_ns, memory_order_relaxed))
        atomic_store_explicit(&hist->max_ns, value, memory_order_relaxed);
}

void kai_hist_summary(const kai_hist *hist, ka_latency *out)
{
    static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};
    double *values[] = {&out->p50, &out->p90, &out->p99, &out->p999};
    uint64_t counts[KAI_HIST_BUCKETS], count = 0, seen = 0;
    unsigned q = 0;

    *out = (ka_latency){0};
    for (unsigned i = 0; i < KAI_HIST_BUCKETS; i++)
        count += counts[i] = atomic_load_explicit(&hist->buckets[i], memory_order_relaxed);
    if (count == 0)
        return;
    out->count = (int64_t)count;
    out->max = (double)atomic_load_explicit(&hist->max_ns, memory_order_relaxed) * 1e-9;
    out->mean = ((double)atomic_load_explicit(&hist->sum_carries, memory_order_relaxed) * 0x1p64 +
                 (double)atomic_load_explicit(&hist->sum_ns, memory_order_relaxed)) /
                (double)count * 1e-9;
    for (unsigned i = 0; i < KAI_HIST_BUCKETS && q < 4; i++) {
        seen += counts[i];
        while (q < 4 && (double)seen >= quantiles[q] * (double)count) {
            double value = value_of(i) * 1e-9;
            *values[q++] = value < out->max ? value : out->max;
        }
    }
}
