/* The producer's worker: flush, close, end. */
#include <stddef.h>
#include <stdlib.h>
#include <syslog.h>

#include "ka_producer.h"

enum { FLUSH_SLICE_MS = 100 };

static const int64_t ADMITTED_NS = 1000000;
static const int64_t PURGE_GRACE_NS = 500000000; /* for librdkafka to report what it purged */

/* rd_kafka_flush() makes librdkafka ignore linger.ms while it waits; delivery reports are events, so
 * it serves none of them. */
static void run_override(kai_job *job)
{
    ka_producer *p = (ka_producer *)(void *)((char *)job - offsetof(ka_producer, override));

    rd_kafka_flush(p->rk, FLUSH_SLICE_MS);
    atomic_store(&p->overriding, 0);
    kai_wake_notify(&p->worker.wake);
}

static void override_linger(ka_producer *p)
{
    /* With nothing to wait for, it would return at once, again and again. */
    if (!p->linger || atomic_load(&p->held_messages) == 0 || atomic_load(&p->overriding))
        return;
    p->override.run = run_override;
    atomic_store(&p->overriding, 1);
    if (kai_control_submit(&p->control, &p->override) != 0) {
        atomic_store(&p->overriding, 0);
        kai_await_memory(p);
    }
}

/* What was drained so far is what the flushes asked for until now wait for. */
static int close_epoch(ka_producer *p)
{
    epoch *e = p->last_epoch;

    if (!kai_epoch_open(p)) {
        kai_await_memory(p);
        return 0;
    }
    p->closed_epochs = e->end = p->drained;
    if (e->outstanding == 0)
        kai_epoch_end(p, e);
    return 1;
}

static int serve_flushes(ka_producer *p)
{
    uint64_t asked = atomic_load(&p->flush_asked);
    int served = asked > p->closed_epochs && p->drained >= asked && close_epoch(p);

    if (asked > atomic_load(&p->flushed))
        override_linger(p);
    return served;
}

/* Purge everything, wherever it is. */
static void purge_all(ka_producer *p)
{
    p->discard_end = UINT64_MAX;
    p->purged_before = atomic_load(&p->purged);
    rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                              RD_KAFKA_PURGE_F_NON_BLOCKING);
}

/* A transaction that is open holds up its readers until the broker's timeout, so it is aborted; a commit that
 * has begun is finished. */
static int ends_transaction(ka_producer *p)
{
    if (!p->closing_began) {
        if (!kai_transaction_is_open(atomic_load(&p->transaction)))
            return 0;
        if ((p->closing_began = kai_end_for_close(p)) == 0)
            kai_await_memory(p);
    }
    return !atomic_load(&p->closing_ended);
}

/* What closing took away: by purging, or with a transaction. */
static int64_t count_lost(ka_producer *p)
{
    int ending = KA_TXN_ENDING, state;
    ka_producer_stats stats;

    /* Final: what ends later is not told any more. */
    atomic_compare_exchange_strong(&p->transaction, &ending, KA_TXN_UNKNOWN);
    state = atomic_load(&p->transaction);
    kai_producer_snapshot(p, &stats);
    if (state == KA_TXN_OPEN || state == KA_TXN_UNKNOWN)
        return stats.accepted - atomic_load(&p->txn_accepted);
    if (state == KA_TXN_READY) /* the purge met an abort that the caller had asked for */
        return 0;
    return p->purged_at_ns ? stats.purged - p->purged_before : 0;
}

/* Returns the time of the next look, or KAI_STEP_END. */
static int64_t serve_close(ka_producer *p)
{
    int64_t deadline = atomic_load(&p->close_deadline_ns), now = kai_now_ns();
    int ending = ends_transaction(p);
    int64_t outstanding = room_messages(atomic_load(&p->room));

    if ((outstanding || ending) && p->purged_at_ns == 0) {
        if (now < deadline) {
            override_linger(p);
            return deadline;
        }
        p->purged_at_ns = now;
        purge_all(p);
        return KAI_STEP_AGAIN;
    }
    if (outstanding && now < p->purged_at_ns + PURGE_GRACE_NS)
        return p->purged_at_ns + PURGE_GRACE_NS;
    /* A caller that was held up between admission and the ring. */
    if (!kai_all_held(p) && now < p->purged_at_ns + 2 * PURGE_GRACE_NS)
        return now + ADMITTED_NS;
    kai_write_off(p);
    atomic_store(&p->lost, count_lost(p));
    rd_kafka_set_log_level(p->rk, LOG_EMERG); /* how its threads end is nobody's concern */
    kai_sasl_close(&p->sasl);                 /* until now what is left needs connections */
    kai_results_close(&p->results);
    atomic_store(&p->state, CLOSED_DOWN);
    kai_producer_disown(p); /* not at the end, which librdkafka's threads may hold up */
    kai_wake_notify(&p->progressed);
    return KAI_STEP_END;
}

/* Returns the time of the next one. */
static int64_t serve_refresh(ka_producer *p)
{
    if (kai_now_ns() >= p->refresh_at_ns) {
        kai_refresh_partitions(p);
        p->refresh_at_ns = kai_now_ns() + p->refresh_ns;
    }
    return p->refresh_at_ns;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t kai_producer_step(void *self)
{
    ka_producer *p = self;
    int drained, served;
    int64_t next;

    p->memory_due_ns = KAI_FOREVER;
    drained = kai_drain_ring(p);
    served = kai_serve_events(p);
    served |= kai_sasl_serve(&p->sasl, p->rk);
    served |= kai_serve_calls(p);
    served |= serve_flushes(p);
    next = earlier(p->record_due_ns, kai_serve_timeouts(p));
    if (drained)
        return KAI_STEP_AGAIN;
    if (served)
        return KAI_STEP_SERVED;
    if (atomic_load(&p->state) == CLOSING)
        next = earlier(next, serve_close(p));
    else if (p->refresh_ns != KAI_FOREVER)
        next = earlier(next, serve_refresh(p));
    return earlier(next, p->memory_due_ns);
}

/* The worker's last act. Destroying a client joins its threads, which may sit in name resolution;
 * nobody waits for it here. */
void kai_producer_end(void *self)
{
    ka_producer *p = self;
    epoch *e;
    flight_chunk *chunk;

    kai_control_join(&p->control);
    kai_calls_end(p);
    rd_kafka_queue_cb_event_enable(p->events, NULL, NULL);
    rd_kafka_queue_destroy(p->events);
    for (int32_t i = 0; i < p->topics; i++)
        if (kai_topic_at(p, i)->rkt)
            rd_kafka_topic_destroy(kai_topic_at(p, i)->rkt);
    rd_kafka_destroy(p->rk);
    while ((e = p->first_epoch)) {
        p->first_epoch = e->next;
        free(e);
    }
    while ((chunk = p->chunks)) {
        p->chunks = chunk->next;
        free(chunk);
    }
    kai_producer_unreference(p);
}
