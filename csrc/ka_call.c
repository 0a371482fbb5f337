/* The producer's commands: what is asked of librdkafka and may wait, run by the control thread.
 *
 * The worker starts a call when its turn has come, so that it is ordered with the messages accepted
 * before it. A call that waits is made in slices: between two of them others get their turn, and a
 * producer that closes need not wait for it.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ka_err.h"
#include "ka_group.h"
#include "ka_producer.h"

enum { SLICE_MS = 500, OFFSETS_SLICE_MS = 5000, MISSING_RETRY_NS = 50000000 };

static const int64_t BEGIN_NS = 1000000000; /* how long a broker may take to begin a transaction */
static const int64_t MISSING_TOPIC_NS = 1000000000; /* how long a topic may take to appear */

static void call_free(ka_command *base)
{
    call *c = (call *)base;

    if (c->offsets)
        rd_kafka_topic_partition_list_destroy(c->offsets);
    if (c->group)
        rd_kafka_consumer_group_metadata_destroy(c->group);
    free(c);
}

static void unlink_call(ka_producer *p, const call *c)
{
    call **at = &p->calls;

    pthread_mutex_lock(&p->calls_lock);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    pthread_mutex_unlock(&p->calls_lock);
}

static void finish(call *c, int status, int64_t value, const ka_error *error)
{
    unlink_call(c->p, c);
    kai_command_answer(&c->base, status, value, error);
    kai_command_unreference(&c->base);
}

/* The slice was too short. Of an init, librdkafka then passes on the broker's last answer. */
static int is_unfinished(const call *c, int status, const ka_error *error)
{
    return status == KA_FAILED && (error->code == RD_KAFKA_RESP_ERR__TIMED_OUT ||
                                   (c->kind == KA_INIT && error->retriable));
}

/* On the control thread. */
static void run_call(kai_job *job)
{
    call *c = (call *)(void *)((char *)job - offsetof(call, job));
    ka_producer *p = c->p;
    int64_t left_ns = c->deadline_ns - kai_now_ns(), slice_ns = (int64_t)c->slice_ms * 1000000;
    ka_error error;
    int status, is_begin;

    if (left_ns < 0)
        left_ns = 0;
    status = c->run(c, (int)((left_ns < slice_ns ? left_ns : slice_ns) / 1000000), &error);
    if (status == KA_EMPTY)
        return; /* somebody else finishes it */
    if (is_unfinished(c, status, &error) && left_ns > slice_ns &&
        (atomic_load(&p->state) == OPEN || c->even_closing) &&
        kai_control_submit(&p->control, &c->job) == 0)
        return;
    if (c->kind == CALL_CLOSING) {
        atomic_store(&p->closing_ended, 1);
        kai_wake_notify(&p->worker.wake);
    }
    is_begin = c->kind == KA_BEGIN;
    finish(c, status, c->value, status == KA_FAILED ? &error : NULL);
    if (is_begin) /* others wait for its end */
        kai_wake_notify(&p->worker.wake);
}

static call *call_new(ka_producer *p, int kind, int64_t timeout_us,
                      int (*run)(call *c, int timeout_ms, ka_error *error))
{
    call *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    kai_command_init(&c->base, call_free);
    c->job.run = run_call;
    c->p = p;
    c->kind = kind;
    c->run = run;
    c->slice_ms = SLICE_MS;
    c->asked_ns = kai_now_ns();
    c->deadline_ns = kai_deadline_ns(timeout_us);
    return c;
}

/* Hand it to the worker. */
static ka_command *call_submit(ka_producer *p, call *c)
{
    call **at = &p->calls;
    int open;

    if (kai_producer_is_foreign(p))
        return kai_command_refuse(&c->base, KA_FORKED);
    pthread_mutex_lock(&p->calls_lock);
    open = c->even_closing || atomic_load(&p->state) == OPEN;
    if (open) {
        while (*at)
            at = &(*at)->next;
        *at = c;
        atomic_fetch_add(&p->asked, 1);
    }
    pthread_mutex_unlock(&p->calls_lock);
    if (!open)
        return kai_command_refuse(&c->base, KA_CLOSED);
    kai_wake_notify(&p->worker.wake);
    return &c->base;
}

/* Nobody waits for it. */
static void ask_in_background(ka_producer *p, call *c)
{
    if (c)
        ka_command_release(call_submit(p, c));
}

void kai_calls_close(ka_producer *p)
{
    pthread_mutex_lock(&p->calls_lock);
    for (call *c = p->calls; c; c = c->next)
        kai_command_answer(&c->base, KA_CLOSED, 0, NULL);
    pthread_mutex_unlock(&p->calls_lock);
}

void kai_calls_end(ka_producer *p)
{
    call *c;

    do {
        /* A caller that found the producer open may still be putting its call there. */
        pthread_mutex_lock(&p->calls_lock);
        c = p->calls;
        pthread_mutex_unlock(&p->calls_lock);
        if (c)
            finish(c, KA_CLOSED, 0, NULL);
    } while (c);
}

/* The oldest that the worker has not started. */
static call *next_call(ka_producer *p)
{
    call *c;

    if (atomic_load(&p->asked) == 0)
        return NULL;
    pthread_mutex_lock(&p->calls_lock);
    for (c = p->calls; c && c->started; c = c->next)
        continue;
    pthread_mutex_unlock(&p->calls_lock);
    return c;
}

/* From now on no message joins the transaction. */
static void bar(ka_producer *p)
{
    int open = KA_TXN_OPEN;

    if (!atomic_compare_exchange_strong(&p->transaction, &open, KA_TXN_ENDING))
        return;
    atomic_fetch_or(&p->room, ROOM_BARRED);
    kai_wake_notify(&p->room_freed);
}

/* Purged on request: what makes room is not. */
static int64_t purged_so_far(ka_producer *p)
{
    int64_t count;

    pthread_mutex_lock(&p->evict_lock); /* both change together */
    count = atomic_load(&p->purged) - atomic_load(&p->evicted);
    pthread_mutex_unlock(&p->evict_lock);
    return count;
}

/* One purge at a time, so that each counts its own messages. */
static int is_purge_ready(ka_producer *p, call *c)
{
    if (p->purging)
        return 0;
    if (c->purged_before < 0)
        c->purged_before = purged_so_far(p);
    if (p->discard_end < c->ring_end)
        p->discard_end = c->ring_end;
    return p->drained >= c->ring_end;
}

/* librdkafka ends a transaction that it has asked the broker to begin, begun or not (its issue 4849), and an
 * end of what has not begun is fatal. A message that was delivered shows that it has. */
static int has_begun(ka_producer *p, const call *c)
{
    int64_t give_up_ns = c->asked_ns + BEGIN_NS;

    if (atomic_load(&p->held_messages) == 0 ||
        atomic_load(&p->delivered) > atomic_load(&p->txn_delivered) || kai_now_ns() >= give_up_ns)
        return 1;
    p->call_due_ns = give_up_ns;
    return 0;
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

/* Whether a call's turn has come; sees to it that it comes. */
static int is_ready(ka_producer *p, call *c)
{
    switch (c->kind) {
    case KA_COMMIT:
    case KA_ABORT:
        /* Asked for during a begin, they found nothing to bar. */
        if (begin_runs(p))
            return 0;
        bar(p);
        if (c->kind == KA_COMMIT)
            return kai_all_held(p);
        /* fall through */
    case CALL_CLOSING:
        /* Barred or closed: all that comes still belongs to the transaction. */
        p->discard_end = kai_all_held(p) ? p->drained : UINT64_MAX;
        return kai_all_held(p) && has_begun(p, c);
    case CALL_PURGE:
        return is_purge_ready(p, c);
    default:
        return 1;
    }
}

static void start_call(ka_producer *p, call *c)
{
    c->started = 1;
    atomic_fetch_sub(&p->asked, 1);
    if (c->kind == CALL_PURGE)
        p->purging = c;
    if (c->kind == CALL_PARTITIONS)
        kai_topic_open(p,
                       c->topic); /* librdkafka prepares the partitions of topics that are in use */
    if (kai_control_submit(&p->control, &c->job) == 0)
        return;
    if (p->purging == c)
        p->purging = NULL;
    if (c->kind == CALL_CLOSING)
        atomic_store(&p->closing_ended, 1);
    finish(c, KA_NOMEM, 0, NULL);
}

/* Asked for before the producer began to close, and not started since. */
static int is_void(ka_producer *p, const call *c)
{
    return atomic_load(&p->state) != OPEN && !c->even_closing;
}

/* Returns whether a purge has ended. */
static int finish_purge(ka_producer *p)
{
    call *c = p->purging;

    /* acquire: partner is run_purge(); its reports are in the queue. */
    if (!c || !atomic_load(&c->ran))
        return 0;
    kai_serve_events(p);
    p->purging = NULL;
    if (p->flight_due_ns != KAI_FOREVER)
        p->flight_due_ns = 0; /* look which is the next */
    finish(c, KA_OK, purged_so_far(p) - c->purged_before, NULL);
    return 1;
}

int kai_serve_calls(ka_producer *p)
{
    int served = finish_purge(p);
    call *c;

    p->call_due_ns = KAI_FOREVER;
    while ((c = next_call(p)) && (is_void(p, c) || is_ready(p, c))) {
        served = 1;
        if (!is_void(p, c)) {
            start_call(p, c);
            continue;
        }
        atomic_fetch_sub(&p->asked, 1);
        finish(c, KA_CLOSED, 0, NULL);
    }
    return served;
}

/* Purge ------------------------------------------------------------------------------------- */

static int run_purge(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;

    (void)timeout_ms, (void)error;
    /* Waits until each of librdkafka's threads has given back what it held. */
    rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | (c->in_flight ? RD_KAFKA_PURGE_F_INFLIGHT : 0));
    atomic_store(&c->ran, 1); /* release: partner is finish_purge(), which frees the call */
    kai_wake_notify(&p->worker.wake);
    return KA_EMPTY;
}

void kai_revive(ka_producer *p)
{
    call *c = call_new(p, CALL_PURGE, -1, run_purge);

    if (c)
        c->reviving = c->even_closing = 1;
    ask_in_background(p, c);
}

ka_command *ka_producer_purge(ka_producer *p, int in_flight)
{
    call *c = call_new(p, CALL_PURGE, -1, run_purge);

    if (!c)
        return NULL;
    c->in_flight = in_flight;
    c->ring_end = kai_ring_tail(&p->ring);
    c->purged_before = -1;
    return call_submit(p, c);
}

/* Partitions -------------------------------------------------------------------------------- */

static rd_kafka_resp_err_t count_topic(const struct rd_kafka_metadata_topic *found, topic *t)
{
    if (!found->err && found->partition_cnt > 0)
        atomic_store(&t->partitions, found->partition_cnt);
    return found->err;
}

/* One request to the leader of each partition opens the connection that messages will use. */
static rd_kafka_resp_err_t connect_leaders(ka_producer *p, const topic *t,
                                           const struct rd_kafka_metadata_topic *found,
                                           int64_t deadline_ns)
{
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int i = 0; i < found->partition_cnt && !code; i++) {
        const struct rd_kafka_metadata_partition *partition = &found->partitions[i];
        int64_t low, high, left_ms = (deadline_ns - kai_now_ns()) / 1000000;
        int known = 0;

        for (int j = 0; j < i && !known; j++)
            known = found->partitions[j].leader == partition->leader;
        if (!known && partition->leader >= 0)
            code = rd_kafka_query_watermark_offsets(p->rk, t->name, partition->id, &low, &high,
                                                    left_ms > 1 ? (int)left_ms : 1);
    }
    return code;
}

/* A topic that is being created is not there yet, or has no leader. */
static int is_coming(const call *c, rd_kafka_resp_err_t code)
{
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return kai_now_ns() < c->asked_ns + MISSING_TOPIC_NS;
    return code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
}

static int run_partitions(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;
    topic *t = kai_topic_at(p, c->topic);
    int64_t until = kai_now_ns() + (int64_t)timeout_ms * 1000000;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(p->rk, t->name, NULL);
    rd_kafka_resp_err_t code;

    if (!rkt)
        return kai_err_set(error, RD_KAFKA_RESP_ERR__INVALID_ARG, NULL);
    code = rd_kafka_metadata(p->rk, 0, rkt, &metadata, timeout_ms > 0 ? timeout_ms : 1);
    rd_kafka_topic_destroy(rkt);
    if (!code) {
        code = count_topic(&metadata->topics[0], t);
        if (!code && c->connect)
            code = connect_leaders(p, t, &metadata->topics[0], until);
        c->value = metadata->topics[0].partition_cnt;
        rd_kafka_metadata_destroy(metadata);
    }
    if (is_coming(c, code)) {
        nanosleep(&(struct timespec){.tv_nsec = MISSING_RETRY_NS}, NULL);
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    /* Without a connection librdkafka knows it before the time is over. */
    if (code == RD_KAFKA_RESP_ERR__TRANSPORT)
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    return code ? kai_err_set(error, code, NULL) : KA_OK;
}

ka_command *ka_producer_partitions(ka_producer *p, int32_t topic_number, int connect,
                                   int64_t timeout_us)
{
    call *c = call_new(p, CALL_PARTITIONS, timeout_us, run_partitions);

    if (!c)
        return NULL;
    c->topic = topic_number;
    c->connect = connect;
    return call_submit(p, c);
}

static void store_count(ka_producer *p, const struct rd_kafka_metadata_topic *found)
{
    for (int32_t i = 0; i < atomic_load(&p->topics); i++)
        if (strcmp(kai_topic_at(p, i)->name, found->topic) == 0)
            count_topic(found, kai_topic_at(p, i));
}

static int run_refresh(call *c, int timeout_ms, ka_error *error)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code = rd_kafka_metadata(c->p->rk, 0, NULL, &metadata, timeout_ms);

    if (code)
        return kai_err_set(error, code, NULL);
    for (int i = 0; i < metadata->topic_cnt; i++)
        store_count(c->p, &metadata->topics[i]);
    rd_kafka_metadata_destroy(metadata);
    return KA_OK;
}

void kai_refresh_partitions(ka_producer *p)
{
    ask_in_background(p, call_new(p, CALL_REFRESH, (int64_t)SLICE_MS * 1000, run_refresh));
}

/* Transactions ------------------------------------------------------------------------------ */

/* Messages that librdkafka never took, or refused, are missing in it without its knowledge. */
static int refuse_spoiled(ka_producer *p, ka_error *error)
{
    char text[128];

    snprintf(text, sizeof text, "%lld messages of the transaction failed or were purged: abort it",
             (long long)atomic_load(&p->spoiled));
    kai_err_set(error, RD_KAFKA_RESP_ERR__INCONSISTENT, text);
    error->requires_abort = 1;
    return KA_FAILED;
}

static void open_transaction(ka_producer *p)
{
    ka_producer_stats stats;

    /* Barred: nothing is accepted meanwhile. */
    kai_producer_snapshot(p, &stats);
    atomic_store(&p->txn_accepted, stats.accepted);
    atomic_store(&p->txn_delivered, stats.delivered);
    atomic_store(&p->spoiled, 0);
    /* In this order: a commit bars what is open, and bars it after this. */
    atomic_fetch_and(&p->room, ~ROOM_BARRED);
    atomic_store(&p->transaction, KA_TXN_OPEN);
}

static int run_transact(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;
    rd_kafka_error_t *failure;

    switch (c->kind) {
    case KA_INIT:
        failure = rd_kafka_init_transactions(p->rk, timeout_ms);
        break;
    case KA_BEGIN:
        failure = rd_kafka_begin_transaction(p->rk);
        break;
    case KA_COMMIT:
        if (atomic_load(&p->spoiled))
            return refuse_spoiled(p, error);
        failure = rd_kafka_commit_transaction(p->rk, timeout_ms);
        break;
    default:
        failure = rd_kafka_abort_transaction(p->rk, timeout_ms);
        break;
    }
    if (failure)
        return kai_err_take(error, failure);
    if (c->kind == KA_BEGIN)
        open_transaction(p);
    else if (c->kind != CALL_CLOSING) /* which tells that one was open */
        atomic_store(&p->transaction, KA_TXN_READY);
    return KA_OK;
}

ka_command *ka_producer_transact(ka_producer *p, int what, int64_t timeout_us)
{
    call *c = call_new(p, what, timeout_us, run_transact);

    if (!c)
        return NULL;
    if (!kai_producer_is_foreign(p) && (what == KA_COMMIT || what == KA_ABORT))
        bar(p);
    return call_submit(p, c);
}

static int run_offsets(call *c, int timeout_ms, ka_error *error)
{
    return kai_err_take(
        error, rd_kafka_send_offsets_to_transaction(c->p->rk, c->offsets, c->group, timeout_ms));
}

ka_command *ka_producer_send_offsets(ka_producer *p, ka_command *group,
                                     const ka_partition *partitions, int64_t count,
                                     int64_t timeout_us)
{
    call *c = call_new(p, CALL_OFFSETS, timeout_us, run_offsets);

    if (!c)
        return NULL;
    c->slice_ms = OFFSETS_SLICE_MS; /* each begins anew */
    c->group = kai_group_take(group);
    c->offsets = rd_kafka_topic_partition_list_new((int)count);
    for (int64_t i = 0; i < count; i++)
        rd_kafka_topic_partition_list_add(c->offsets, partitions[i].topic, partitions[i].partition)
            ->offset = partitions[i].offset;
    return call_submit(p, c);
}

void kai_abort_for_close(ka_producer *p)
{
    call *c = call_new(p, CALL_CLOSING, -1, run_transact);

    if (c) {
        c->even_closing = 1;
        c->deadline_ns = atomic_load(&p->close_deadline_ns);
    } else {
        atomic_store(&p->closing_ended, 1);
    }
    ask_in_background(p, c);
}
