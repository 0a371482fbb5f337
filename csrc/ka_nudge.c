/* Against the stall of librdkafka before 2.2, which has no fetch.queue.backoff.ms: a broker thread that
 * found its partitions' queue full looks again after a fixed second, however soon we emptied it. It
 * does so earlier when something else wakes it. So when the queue has run empty after it may have
 * been full, the control thread asks every leader for an offset, the cheapest request that goes to
 * just the threads that sleep.
 */
#include <stddef.h>

#include "ka_consumer.h"

enum { TIMEOUT_MS = 1000 };

static const int64_t PAUSE_NS = 10000000; /* between two nudges */

/* Runs on the control thread. The answer does not matter. */
static void run(kai_job *job)
{
    ka_consumer *c = (ka_consumer *)(void *)((char *)job - offsetof(ka_consumer, nudge));

    rd_kafka_offsets_for_times(c->rk, c->nudged, TIMEOUT_MS);
    rd_kafka_topic_partition_list_destroy(c->nudged);
    atomic_store(&c->nudging, 0); /* release: the next one begins after it */
    kai_wake_notify(&c->worker.wake);
}

static void start(ka_consumer *c)
{
    const partition *p;

    c->nudge.run = run;
    c->nudged = rd_kafka_topic_partition_list_new(16);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));)
        rd_kafka_topic_partition_list_add(c->nudged, p->topic, p->number)->offset =
            INT64_MAX; /* as a timestamp: found to be beyond the end without a search */
    atomic_store(&c->nudging, 1);
    if (c->nudged->cnt == 0 || kai_control_submit(&c->control, &c->nudge) != 0) {
        rd_kafka_topic_partition_list_destroy(c->nudged);
        atomic_store(&c->nudging, 0);
    }
}

void kai_nudge_empty(ka_consumer *c)
{
    /* librdkafka's half of the bounds is as large as ours: the queue was full at most if so much
     * came out of it since it was empty. */
    c->nudge_due |= c->fresh_messages >= c->options.prefetch_messages ||
                    c->fresh_bytes >= c->options.prefetch_bytes;
    c->fresh_messages = c->fresh_bytes = 0;
}

int64_t kai_nudge(ka_consumer *c)
{
    int64_t now;

    if (!c->nudge_due || atomic_load(&c->nudging) || rd_kafka_version() >= 0x02020000)
        return KAI_FOREVER;
    now = kai_now_ns();
    if (now < c->nudged_ns + PAUSE_NS)
        return c->nudged_ns + PAUSE_NS;
    c->nudge_due = 0;
    c->nudged_ns = now;
    start(c);
    return KAI_FOREVER;
}
