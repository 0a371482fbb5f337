/* The producer's transactions: their order with messages, and what of them librdkafka does not know. */
#include <stdio.h>

#include "ka_err.h"
#include "ka_group.h"
#include "ka_producer.h"

enum { OFFSETS_SLICE_MS = 5000 };

static const int64_t SETTLE_NS = 1000000000; /* for what is on its way when closing aborts */

/* From now on no message joins the transaction. */
static void bar(ka_producer *p)
{
    int open = KA_TXN_OPEN;

    if (!atomic_compare_exchange_strong(&p->transaction, &open, KA_TXN_ENDING))
        return;
    atomic_fetch_or(&p->room, ROOM_BARRED);
    kai_wake_notify(&p->room_freed);
}

/* Whether a begin is with the control thread. */
static int begin_runs(ka_producer *p)
{
    int runs = 0;

    pthread_mutex_lock(&p->calls_lock);
    for (call *c = p->calls; c; c = c->next)
        runs |= c->started && c->kind == KA_BEGIN;
    pthread_mutex_unlock(&p->calls_lock);
    return runs;
}

static int is_commit_ready(ka_producer *p, call *c)
{
    (void)c;
    /* Asked for during a begin, it found nothing to bar. */
    if (begin_runs(p))
        return 0;
    bar(p);
    return kai_all_held(p);
}

/* Barred or closed: all that is in the ring still belongs to the transaction. */
static int is_discarded(ka_producer *p, call *c)
{
    (void)c;
    p->discard_end = kai_all_held(p) ? p->drained : UINT64_MAX;
    return kai_all_held(p);
}

static int is_abort_ready(ka_producer *p, call *c)
{
    if (begin_runs(p))
        return 0;
    bar(p);
    return is_discarded(p, c);
}

/* Messages that librdkafka never took, or refused, are missing in it without its knowledge. */
static void refuse_spoiled(ka_error *error)
{
    kai_err_set(
        error, RD_KAFKA_RESP_ERR__INCONSISTENT,
        "messages of the transaction failed (failures() tells why) or were purged: abort it");
    error->requires_abort = 1;
}

static void open_transaction(ka_producer *p)
{
    ka_producer_stats stats;

    /* Barred: nothing is accepted meanwhile. */
    kai_producer_snapshot(p, &stats);
    atomic_store(&p->txn_accepted, stats.accepted);
    atomic_store(&p->spoiled, 0);
    atomic_store(&p->untold_step, -1);
    /* In this order: a commit bars what is open, and bars it after this. */
    atomic_fetch_and(&p->room, ~ROOM_BARRED);
    atomic_store(&p->transaction, KA_TXN_OPEN);
}

/* Whether messages still get on: not where librdkafka has given the transaction up, nor when its abort has begun. */
static int is_under_way(ka_producer *p)
{
    rd_kafka_error_t *refusal = rd_kafka_begin_transaction(p->rk); /* since one is open, and why */
    int under_way = rd_kafka_error_code(refusal) == RD_KAFKA_RESP_ERR__STATE &&
                    !rd_kafka_error_txn_requires_abort(refusal);

    rd_kafka_error_destroy(refusal);
    return under_way;
}

/* An abort waits for what librdkafka has, as a commit does. Else there may be a request without an answer before it, to add
 * partitions. When their connection breaks, both are sent again on a new one, and the broker may carry out the old ones late:
 * an abort then ends the next transaction, which is committed without what it had so far. And of a transaction that has not
 * begun on the broker the end is fatal (librdkafka's issue 4849). */
static int is_settled(ka_producer *p, const call *c, int timeout_ms)
{
    return atomic_load(&p->transaction) == KA_TXN_READY || !is_under_way(p) ||
           rd_kafka_flush(p->rk, timeout_ms) == RD_KAFKA_RESP_ERR_NO_ERROR ||
           (c->even_closing && kai_now_ns() >= c->asked_ns + SETTLE_NS);
}

static rd_kafka_error_t *step(ka_producer *p, int kind, int timeout_ms)
{
    switch (kind) {
    case KA_INIT:
        return rd_kafka_init_transactions(p->rk, timeout_ms);
    case KA_BEGIN:
        return rd_kafka_begin_transaction(p->rk);
    case KA_COMMIT:
        return rd_kafka_commit_transaction(p->rk, timeout_ms);
    default:
        return rd_kafka_abort_transaction(p->rk, timeout_ms);
    }
}

/* An earlier call did the same, and whoever made it went away before it was told. */
static int was_done(ka_producer *p, const call *c)
{
    return c->kind != KA_BEGIN && atomic_load(&p->transaction) == KA_TXN_READY &&
           atomic_load(&p->untold_step) == c->kind;
}

static void done(ka_producer *p, const call *c)
{
    int ending = KA_TXN_ENDING;

    if (c->kind == KA_BEGIN) {
        open_transaction(p);
        return;
    }
    atomic_store(&p->untold_step, c->kind);
    if (c->kind == KA_INIT)
        atomic_store(&p->transaction, KA_TXN_READY);
    else /* not when closing aborts an open one without a word, nor after it has given up */
        atomic_compare_exchange_strong(&p->transaction, &ending, KA_TXN_READY);
}

/* Returns whether it succeeded. */
static int attempt(ka_producer *p, const call *c, int timeout_ms, ka_error *error)
{
    rd_kafka_error_t *failure;

    if (c->kind == KA_COMMIT && atomic_load(&p->spoiled)) {
        refuse_spoiled(error);
        return 0;
    }
    if (c->kind == KA_ABORT && !is_settled(p, c, timeout_ms)) {
        kai_err_set(error, RD_KAFKA_RESP_ERR__TIMED_OUT, NULL);
        return 0;
    }
    if ((failure = step(p, c->kind, timeout_ms))) {
        kai_err_take(error, failure);
        kai_secrets_hide(&p->trouble.secrets, error->text);
        return 0;
    }
    done(p, c);
    return 1;
}

static int run_transact(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;

    if (was_done(p, c) || attempt(p, c, timeout_ms, error))
        return KA_OK;
    if (!c->even_closing || !error->requires_abort || c->kind == KA_ABORT)
        return KA_FAILED;
    /* A commit that closing wanted to finish, and can't. */
    c->kind = KA_ABORT;
    atomic_store(&p->transaction, KA_TXN_OPEN);
    return attempt(p, c, timeout_ms, error) ? KA_OK : KA_FAILED;
}

ka_command *ka_producer_transact(ka_producer *p, int what, int64_t timeout_us)
{
    call *c = kai_call_new(p, timeout_us, run_transact);

    if (!c)
        return NULL;
    c->kind = what;
    /* When a slice of an init is over, librdkafka tells the broker's last answer, not that. */
    c->until_done = c->ends_early = what == KA_INIT;
    if (what == KA_COMMIT || what == KA_ABORT) {
        atomic_store(&p->ending, what);
        c->is_ready = what == KA_COMMIT ? is_commit_ready : is_abort_ready;
        if (!kai_producer_is_foreign(p))
            bar(p);
    }
    return kai_call_submit(p, c);
}

static void closing_ended(call *c)
{
    atomic_store(&c->p->closing_ended, 1);
}

static int is_all_held(ka_producer *p, call *c)
{
    (void)c;
    return kai_all_held(p);
}

int kai_end_for_close(ka_producer *p)
{
    call *c = kai_call_new(p, -1, run_transact);
    int commits =
        atomic_load(&p->transaction) == KA_TXN_ENDING && atomic_load(&p->ending) == KA_COMMIT;

    if (!c)
        return 0;
    c->kind = commits ? KA_COMMIT : KA_ABORT;
    c->is_ready = commits ? is_all_held : is_discarded;
    c->ended = closing_ended;
    c->even_closing = 1;
    c->deadline_ns = atomic_load(&p->close_deadline_ns);
    kai_call_background(p, c);
    return 1;
}

int ka_producer_step_told(ka_producer *p)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    atomic_store(&p->untold_step, -1);
    return KA_OK;
}

static int run_offsets(call *c, int timeout_ms, ka_error *error)
{
    int status = kai_err_take(
        error, rd_kafka_send_offsets_to_transaction(c->p->rk, c->offsets, c->group, timeout_ms));

    if (status != KA_OK)
        kai_secrets_hide(&c->p->trouble.secrets, error->text);
    return status;
}

ka_command *ka_producer_send_offsets(ka_producer *p, ka_command *group,
                                     const ka_partition *partitions, int64_t count,
                                     int64_t timeout_us)
{
    call *c = kai_call_new(p, timeout_us, run_offsets);

    if (!c)
        return NULL;
    c->slice_ms = OFFSETS_SLICE_MS; /* each begins anew */
    c->group = kai_group_take(group);
    c->offsets = rd_kafka_topic_partition_list_new((int)count);
    for (int64_t i = 0; i < count; i++)
        rd_kafka_topic_partition_list_add(c->offsets, partitions[i].topic, partitions[i].partition)
            ->offset = partitions[i].offset;
    return kai_call_submit(p, c);
}
