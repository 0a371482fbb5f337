/* The histogram: resolution, percentiles; exact count, mean and maximum. */
#include "ka_hist.h"

#include <sched.h>
#include <string.h>

#include "check.h"

enum { THREADS = 4, EACH = 320000 };

static const uint64_t HOUR_NS = 3600 * (uint64_t)1000000000;

/* ---------------------------------------------------------------- helpers */

static int is_near(double value, double wanted, double tolerance)
{
    double difference = value > wanted ? value - wanted : wanted - value;

    return difference <= wanted * tolerance;
}

static int is_exact(double seconds, double wanted_ns)
{
    return is_near(seconds, wanted_ns * 1e-9, 1e-12);
}

static ka_latency summary_of(const kai_hist *hist)
{
    ka_latency l;

    memset(&l, 0xff, sizeof l);
    kai_hist_summary(hist, &l);
    return l;
}

/* What a value is known as. A larger one is added, since no percentile exceeds the maximum. */
static double value_kept(uint64_t ns)
{
    kai_hist hist = {0};

    kai_hist_add(&hist, (int64_t)ns);
    kai_hist_add(&hist, INT64_MAX / 4);
    return summary_of(&hist).p50 * 1e9;
}

/* ---------------------------------------------------------------- one thread */

static void empty_histogram_is_all_zero(void)
{
    kai_hist hist = {0};
    ka_latency l = summary_of(&hist);

    CHECK(l.count == 0 && l.mean == 0 && l.max == 0);
    CHECK(l.p50 == 0 && l.p90 == 0 && l.p99 == 0 && l.p999 == 0);
}

/* At both ends of every bucket, where the error is largest. */
static void values_up_to_2_to_the_40_are_kept_within_1_6_percent(void)
{
    for (uint64_t ns = 1; ns < 64; ns++)
        CHECK(is_near(value_kept(ns), (double)ns, 0.016));
    for (unsigned shift = 1; shift <= 35; shift++)
        for (uint64_t step = KAI_HIST_STEPS; step < 2 * KAI_HIST_STEPS; step++) {
            uint64_t first = step << shift, last = ((step + 1) << shift) - 1;
            if (last > (uint64_t)1 << 40)
                break;
            CHECK(is_near(value_kept(first), (double)first, 0.016));
            CHECK(is_near(value_kept(last), (double)last, 0.016));
        }
    CHECK(is_near(value_kept((uint64_t)1 << 40), (double)((uint64_t)1 << 40), 0.016));
}

static void larger_values_are_kept_as_larger_ones(void)
{
    double last = 0;

    for (uint64_t ns = 1; ns < (uint64_t)1 << 60; ns += ns / 8 + 1) {
        double value = value_kept(ns);
        CHECK(value >= last);
        last = value;
    }
}

static void values_beyond_the_range_count_as_very_long(void)
{
    static const int64_t values[] = {(int64_t)1 << 41, (int64_t)1 << 50, INT64_MAX};

    for (unsigned i = 0; i < 3; i++) {
        kai_hist hist = {0};
        ka_latency l;
        kai_hist_add(&hist, values[i]);
        l = summary_of(&hist);
        CHECK(l.count == 1 && is_exact(l.max, (double)values[i]));
        CHECK(is_exact(l.mean, (double)values[i]));
        CHECK(l.p50 >= (double)((uint64_t)1 << 40) * 1e-9 && l.p50 <= l.max);
    }
}

static void negative_value_counts_as_zero(void)
{
    kai_hist hist = {0};
    ka_latency l;

    kai_hist_add(&hist, -1);
    kai_hist_add(&hist, INT64_MIN);
    kai_hist_add(&hist, 0);
    l = summary_of(&hist);
    CHECK(l.count == 3 && l.mean == 0 && l.max == 0 && l.p50 == 0 && l.p999 == 0);
}

static void no_percentile_exceeds_the_maximum(void)
{
    for (int64_t ns = 1; ns < 100000; ns += ns / 16 + 1) {
        kai_hist hist = {0};
        ka_latency l;
        kai_hist_add(&hist, ns);
        l = summary_of(&hist);
        CHECK(is_exact(l.max, (double)ns) && l.p50 <= l.max && l.p999 <= l.max);
        CHECK(is_near(l.p50, (double)ns * 1e-9, 0.016));
    }
}

static void percentiles_of_a_uniform_distribution(void)
{
    kai_hist hist = {0};
    ka_latency l;

    for (int i = 10000; i >= 1; i--) /* 1 us .. 10 ms */
        kai_hist_add(&hist, (int64_t)i * 1000);
    l = summary_of(&hist);
    CHECK(l.count == 10000 && is_exact(l.max, 1e7) && is_exact(l.mean, 5000.5e3));
    CHECK(is_near(l.p50, 5.0e-3, 0.016) && is_near(l.p90, 9.0e-3, 0.016));
    CHECK(is_near(l.p99, 9.9e-3, 0.016) && is_near(l.p999, 9.99e-3, 0.016));
}

/* The percentile is the smallest value that so many are not above: one more, and it jumps. */
static void percentiles_turn_at_exactly_their_rank(void)
{
    static const int fast[] = {500, 499, 900, 899, 990, 989, 999, 998};

    for (unsigned i = 0; i < 8; i++) {
        kai_hist hist = {0};
        ka_latency l;
        double kept[4];
        for (int n = 0; n < 1000; n++)
            kai_hist_add(&hist, n < fast[i] ? 1000 : 1000000);
        l = summary_of(&hist);
        memcpy(kept, (double[]){l.p50, l.p90, l.p99, l.p999}, sizeof kept);
        for (unsigned q = 0; q < 4; q++)
            CHECK(is_near(kept[q], q < i / 2 || (q == i / 2 && i % 2 == 0) ? 1e-6 : 1e-3, 0.016));
    }
}

static void single_outlier_shows_in_max_alone(void)
{
    kai_hist hist = {0};
    ka_latency l;

    for (int i = 0; i < 9999; i++)
        kai_hist_add(&hist, 2000);
    kai_hist_add(&hist, 123456789);
    l = summary_of(&hist);
    CHECK(is_near(l.p999, 2e-6, 0.016) && is_exact(l.max, 123456789));
}

/* A consumer that catches up meets ages of days by the million. */
static void mean_of_many_long_values_is_exact(void)
{
    kai_hist hist = {0};
    ka_latency l;

    for (int i = 0; i < 300000; i++)
        kai_hist_add(&hist, (int64_t)(24 * HOUR_NS));
    for (int i = 0; i < 300000; i++)
        kai_hist_add(&hist, (int64_t)(48 * HOUR_NS));
    l = summary_of(&hist);
    CHECK(l.count == 600000 && is_near(l.mean, 36 * 3600.0, 1e-9) && is_exact(l.max, 48 * 3600e9));
}

/* ---------------------------------------------------------------- many threads */

static _Atomic int ready;

static void *adder_main(void *arg)
{
    kai_hist *hist = arg;

    atomic_fetch_add(&ready, 1);
    CHECK_SOON(atomic_load(&ready) == THREADS); /* all at the same time */
    for (int64_t i = 1; i <= CHECK_ROUNDS(EACH); i++)
        kai_hist_add(hist, i % 16 ? 1 : i);
    return NULL;
}

static void concurrent_adds_are_counted_exactly(void)
{
    static kai_hist hist;
    int64_t each = CHECK_ROUNDS(EACH);
    pthread_t threads[THREADS];
    ka_latency l = {0};

    for (int i = 0; i < THREADS; i++)
        threads[i] = check_thread(adder_main, &hist);
    while (l.count < each) { /* read meanwhile */
        int64_t count = l.count;
        l = summary_of(&hist);
        CHECK(l.count >= count && l.max <= (double)each * 1.000001e-9 && l.p50 <= l.p999);
    }
    for (int i = 0; i < THREADS; i++)
        check_join(threads[i]);
    l = summary_of(&hist);
    CHECK(l.count == THREADS * each);
    CHECK(is_exact(l.max, (double)each));
    CHECK(is_exact(l.mean * (double)each,
                   (double)each * 15 / 16 + (double)(each / 16) * (double)(each + 16) / 2));
}

/* Two threads that wait for each other twice a round. */
typedef struct {
    kai_hist hist;
    _Atomic int64_t number, arrived;
} race;

static void meet(race *r, int64_t meeting)
{
    atomic_fetch_add(&r->arrived, 1);
    for (int spins = 0; atomic_load(&r->arrived) < 2 * meeting;)
        if (++spins % 1024 == 0)
            sched_yield();
}

static void *racer_main(void *arg)
{
    race *r = arg;
    int64_t number = atomic_fetch_add(&r->number, 1);

    for (int64_t round = 1; round <= CHECK_ROUNDS(20000); round++) {
        meet(r, 2 * round - 1);
        kai_hist_add(&r->hist, 2 * round + number);
        meet(r, 2 * round);
        CHECK(atomic_load(&r->hist.max_ns) == (uint64_t)(2 * round + 1));
    }
    return NULL;
}

static void larger_of_two_values_at_the_same_time_is_the_maximum(void)
{
    static race r;
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        threads[i] = check_thread(racer_main, &r);
    for (int i = 0; i < 2; i++)
        check_join(threads[i]);
}

static void one_writer_counts_as_many_do(void)
{
    static const int64_t edges[] = {INT64_MIN, -1, 0, 1, 31, 32, INT64_MAX, INT64_MAX, INT64_MAX};
    kai_hist added = {0}, noted = {0};
    ka_latency a, n;

    for (unsigned i = 0; i < sizeof edges / sizeof *edges; i++) {
        kai_hist_add(&added, edges[i]);
        kai_hist_note(&noted, edges[i]);
    }
    for (int64_t ns = 1; ns < (int64_t)1 << 60; ns += ns / 8 + 1) {
        kai_hist_add(&added, ns);
        kai_hist_note(&noted, ns);
    }
    CHECK(memcmp(added.buckets, noted.buckets, sizeof added.buckets) == 0);
    a = summary_of(&added);
    n = summary_of(&noted);
    CHECK(memcmp(&a, &n, sizeof a) == 0);
}

int main(void)
{
    RUN(empty_histogram_is_all_zero);
    RUN(values_up_to_2_to_the_40_are_kept_within_1_6_percent);
    RUN(larger_values_are_kept_as_larger_ones);
    RUN(values_beyond_the_range_count_as_very_long);
    RUN(negative_value_counts_as_zero);
    RUN(no_percentile_exceeds_the_maximum);
    RUN(percentiles_of_a_uniform_distribution);
    RUN(percentiles_turn_at_exactly_their_rank);
    RUN(single_outlier_shows_in_max_alone);
    RUN(mean_of_many_long_values_is_exact);
    RUN(one_writer_counts_as_many_do);
    RUN(concurrent_adds_are_counted_exactly);
    RUN(larger_of_two_values_at_the_same_time_is_the_maximum);
    return 0;
}
