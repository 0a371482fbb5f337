/* The producer's purges: what the application throws away, and what is taken back to end in time. */
#include "ka_producer.h"

/* Purged on request: what makes room is not. */
static int64_t purged_so_far(ka_producer *p)
{
    int64_t count;

    kai_lock_eviction(p); /* both change together */
    count = atomic_load(&p->purged) - atomic_load(&p->evicted);
    kai_unlock_eviction(p);
    return count;
}

/* One purge at a time, so that each counts its own messages. */
static int is_ready(ka_producer *p, call *c)
{
    if (p->purging)
        return 0;
    if (c->purged_before < 0)
        c->purged_before = purged_so_far(p);
    if (p->discard_end < c->ring_end)
        p->discard_end = c->ring_end;
    if (p->drained < c->ring_end)
        return 0;
    p->purging = c;
    return 1;
}

static void ended(call *c)
{
    if (c->p->purging == c)
        c->p->purging = NULL;
}

static int run(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;
    int transaction = atomic_load(&p->transaction);

    (void)timeout_ms, (void)error;
    if (transaction == KA_TXN_OPEN && !c->reviving)
        atomic_store(&p->spoiled, 1);
    /* Of a transaction they stay, to be aborted: librdkafka numbers the next ones past those that it gave back, which the
     * broker refuses, and its abort would not wait for what begins the transaction, see is_settled().
     * Waits until each of librdkafka's threads has given back what it held. */
    if (c->in_flight || c->reviving || !kai_transaction_is_open(transaction))
        rd_kafka_purge(p->rk,
                       RD_KAFKA_PURGE_F_QUEUE | (c->in_flight ? RD_KAFKA_PURGE_F_INFLIGHT : 0));
    atomic_store(&c->ran, 1); /* release: partner is kai_finish_purge(), which frees the call */
    kai_wake_notify(&p->worker.wake);
    return KA_EMPTY;
}

static call *purge_new(ka_producer *p)
{
    call *c = kai_call_new(p, -1, run);

    if (!c)
        return NULL;
    c->is_ready = is_ready;
    c->ended = ended;
    c->purged_before = -1;
    return c;
}

ka_command *ka_producer_purge(ka_producer *p, int in_flight)
{
    call *c = purge_new(p);

    if (!c)
        return NULL;
    c->in_flight = in_flight;
    c->ring_end = kai_ring_tail(&p->ring);
    return kai_call_submit(p, c);
}

void kai_revive(ka_producer *p)
{
    call *c = purge_new(p);

    if (c)
        c->reviving = c->even_closing = 1;
    kai_call_background(p, c);
}

int kai_finish_purge(ka_producer *p)
{
    call *c = p->purging;

    /* acquire: partner is run(); its reports are in the queue. */
    if (!c || !atomic_load(&c->ran))
        return 0;
    kai_serve_events(p); /* while it is known as the one that purged them */
    if (p->flight_due_ns != KAI_FOREVER)
        p->flight_due_ns = 0; /* look which is the next */
    kai_call_finish(c, KA_OK, purged_so_far(p) - c->purged_before, NULL);
    return 1;
}
