/* The producer's worker: flights, outcomes, and the epochs that flushes wait for. */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "ka_err.h"
#include "ka_log.h"
#include "ka_producer.h"

epoch *kai_epoch_open(ka_producer *p)
{
    epoch *e = calloc(1, sizeof *e);

    if (!e)
        return NULL;
    e->prev = p->last_epoch;
    *(e->prev ? &e->prev->next : &p->first_epoch) = e;
    return p->last_epoch = e;
}

/* Take a closed epoch without outstanding messages off the list. Flushes that waited for it wait
 * for the one before it, or are done. */
void kai_epoch_end(ka_producer *p, epoch *e)
{
    if (e->prev) {
        e->prev->end = e->end;
        e->prev->next = e->next;
    } else {
        p->first_epoch = e->next;
        atomic_store(&p->flushed, e->end);
        kai_wake_notify(&p->progressed);
    }
    e->next->prev = e->prev; /* a closed one is never the last */
    free(e);
}

int kai_flight_ready(ka_producer *p)
{
    flight_chunk *chunk;

    if (p->free_flights)
        return 1;
    if (!(chunk = calloc(1, sizeof *chunk)))
        return 0;
    chunk->next = p->chunks;
    p->chunks = chunk;
    for (flight *f = chunk->flights; f < chunk->flights + KAI_FLIGHTS; f++) {
        f->next_free = p->free_flights;
        p->free_flights = f;
    }
    return 1;
}

void kai_hold(ka_producer *p, uint32_t bytes)
{
    atomic_fetch_add_explicit(&p->held_messages, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->held_bytes, bytes, memory_order_relaxed);
}

flight *kai_flight_begin(ka_producer *p, const origin *from, int64_t now)
{
    /* A turn has one time for several records, which may lie before this one was accepted. */
    int64_t waited = now > from->accepted_ns ? now - from->accepted_ns : 0;
    flight *f = p->free_flights;

    p->free_flights = f->next_free;
    f->epoch = p->last_epoch;
    f->epoch->outstanding++;
    f->origin = *from;
    f->given_ns = (float)waited;
    kai_hist_note(&p->ring_latency, waited);
    return f;
}

void kai_flight_end(ka_producer *p, flight *f)
{
    epoch *e = f->epoch;

    if (--e->outstanding == 0 && e != p->last_epoch) {
        e->next_empty = p->empty;
        p->empty = e;
    }
    atomic_fetch_sub_explicit(&p->held_messages, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&p->held_bytes, f->origin.bytes, memory_order_relaxed);
    f->origin = (origin){0};
    f->next_free = p->free_flights;
    p->free_flights = f;
}

/* A batch has one time, which may lie before a message that was accepted meanwhile. */
static double seconds(int64_t ns)
{
    return ns > 0 ? (double)ns * 1e-9 : 0.0;
}

static void push_result(ka_producer *p, const origin *from, const kai_report *report, int64_t now)
{
    kai_results_push(&p->results, &(ka_result){.token = from->token,
                                               .bytes = from->bytes,
                                               .offset = report->offset,
                                               .timestamp_ms = report->timestamp_ms,
                                               .latency_s = seconds(now - from->accepted_ns),
                                               .counted_ns = now,
                                               .code = report->code,
                                               .partition = report->partition});
}

/* Of a message that was never written anywhere. */
static kai_report nowhere(rd_kafka_resp_err_t code)
{
    return (kai_report){
        .code = code, .partition = KA_PARTITION_ANY, .offset = -1, .timestamp_ms = -1};
}

void kai_tell_evicted(ka_producer *p, const origin *from)
{
    kai_report evicted = nowhere(RD_KAFKA_RESP_ERR__PURGE_QUEUE);

    if (from->token)
        push_result(p, from, &evicted, kai_now_ns());
}

void kai_conclude(ka_producer *p, const origin *from, const kai_report *report, int64_t now,
                  outcomes *o)
{
    o->messages++;
    o->bytes += from->bytes;
    if (from->token)
        push_result(p, from, report, now);
    switch (report->code) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        o->delivered++;
        break;
    case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
    case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
        o->purged++;
        break;
    default:
        o->failed++;
        if (from->token)
            break;
        o->untold++;
        kai_failures_keep(&p->failures, report, seconds(now - from->accepted_ns));
    }
}

void kai_publish_counts(ka_producer *p, const outcomes *o)
{
    uint64_t version = atomic_load_explicit(&p->version, memory_order_relaxed);

    atomic_store_explicit(&p->version, version + 1, memory_order_relaxed);
    /* release: a reader that saw a counter below sees the odd version too; partner: the acquire
     * fence in ka_producer_metrics(). */
    atomic_thread_fence(memory_order_release);
    atomic_fetch_add_explicit(&p->delivered, o->delivered, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->failed, o->failed, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->purged, o->purged, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->evicted, o->evicted, memory_order_relaxed);
    /* release: partner is admit(). */
    atomic_fetch_sub_explicit(&p->room, o->messages * ROOM_MESSAGE + o->bytes,
                              memory_order_release);
    atomic_store_explicit(&p->version, version + 2, memory_order_release);
}

void kai_publish(ka_producer *p, const outcomes *o)
{
    epoch *e;

    if (o->messages) {
        /* First: a flush that finds nothing outstanding must find the failures. */
        atomic_fetch_add(&p->unreported, o->untold);
        atomic_fetch_add(&p->failed_results, o->failed - o->untold);
        kai_lock_eviction(p);
        kai_publish_counts(p, o);
        kai_unlock_eviction(p);
        kai_wake_notify(&p->room_freed);
    }
    kai_results_announce(&p->results);
    /* Only now: a flush that returns must find its outcomes counted. */
    while ((e = p->empty)) {
        p->empty = e->next_empty;
        kai_epoch_end(p, e);
    }
}

void kai_write_off(ka_producer *p)
{
    uint64_t room = atomic_load(&p->room);
    outcomes o = {.purged = room_messages(room),
                  .messages = (uint64_t)room_messages(room),
                  .bytes = (uint64_t)room_bytes(room)};
    kai_report report = nowhere(RD_KAFKA_RESP_ERR__PURGE_INFLIGHT);
    int64_t now = kai_now_ns();

    for (flight_chunk *chunk = p->chunks; chunk; chunk = chunk->next)
        for (flight *f = chunk->flights; f < chunk->flights + KAI_FLIGHTS; f++)
            if (f->origin.token)
                push_result(p, &f->origin, &report, now);
    kai_publish(p, &o);
}

int64_t kai_oldest_flight_ns(const ka_producer *p)
{
    int64_t oldest = KAI_FOREVER;

    for (const flight_chunk *chunk = p->chunks; chunk; chunk = chunk->next)
        for (const flight *f = chunk->flights; f < chunk->flights + KAI_FLIGHTS; f++)
            if (f->origin.accepted_ns && f->origin.accepted_ns < oldest)
                oldest = f->origin.accepted_ns;
    return oldest;
}

/* Whether a message was taken back to be produced again; one whose time is over has failed. */
static int is_revived(ka_producer *p, const rd_kafka_message_t *m, flight *f, int64_t now,
                      kai_report *report)
{
    if (!p->purging || !p->purging->reviving || report->code != RD_KAFKA_RESP_ERR__PURGE_QUEUE)
        return 0;
    report->code = RD_KAFKA_RESP_ERR__MSG_TIMED_OUT;
    if (kai_is_over(p, f->origin.accepted_ns, now))
        return 0;
    report->code = kai_produce_again(p, m, f);
    return report->code == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* After a fatal error librdkafka purges its queue, where nobody asked for that: these messages failed. */
static rd_kafka_resp_err_t code_of(ka_producer *p, const rd_kafka_message_t *m)
{
    int purged =
        m->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || m->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
    rd_kafka_resp_err_t fatal = RD_KAFKA_RESP_ERR_NO_ERROR;
    char text[8];

    if (purged && !p->purging && !p->purged_at_ns)
        fatal = rd_kafka_fatal_error(p->rk, text, sizeof text);
    return fatal ? fatal : m->err;
}

/* A delivered message needs no more than where it is. */
static kai_report report_of(ka_producer *p, const rd_kafka_message_t *m, uint32_t token)
{
    rd_kafka_timestamp_type_t type;
    kai_report report = {.code = code_of(p, m),
                         .partition = m->partition,
                         .offset = m->offset,
                         .timestamp_ms = token ? rd_kafka_message_timestamp(m, &type) : -1};

    if (m->err && !token) {
        report.topic = rd_kafka_topic_name(m->rkt);
        report.value = m->payload;
        report.value_len = m->len;
        report.key = m->key;
        report.key_len = m->key_len;
        report.headers = kai_headers_of(m);
    }
    return report;
}

static void take_reports(ka_producer *p, rd_kafka_event_t *event)
{
    const rd_kafka_message_t *m;
    int64_t now = kai_now_ns();
    outcomes o = {0};

    while ((m = rd_kafka_event_message_next(event))) {
        flight *f = m->_private;
        kai_report report = report_of(p, m, f->origin.token);

        if (is_revived(p, m, f, now, &report))
            continue;
        if (report.code == RD_KAFKA_RESP_ERR_NO_ERROR)
            kai_hops_note(p, f, now);
        kai_conclude(p, &f->origin, &report, now, &o);
        kai_flight_end(p, f);
    }
    if (o.delivered)
        kai_trouble_over(&p->trouble);
    kai_publish(p, &o);
}

static void take_error(ka_producer *p, rd_kafka_event_t *event)
{
    const char *reason = rd_kafka_event_error_string(event);
    rd_kafka_resp_err_t code = rd_kafka_event_error(event);
    ka_error error;

    kai_trouble_event(&p->trouble, code, reason, &error);
    if (p->log && (!kai_err_is_logged(code) || strcmp(error.text, reason) != 0)) /* in our words */
        kai_log_put(p->rk, LOG_ERR, "ERROR", error.text);
}

/* Serve everything that librdkafka reports: its queue signals on empty -> non-empty only. */
int kai_serve_events(ka_producer *p)
{
    rd_kafka_event_t *event;
    int served = 0;

    while ((event = rd_kafka_queue_poll(p->events, 0))) {
        switch (rd_kafka_event_type(event)) {
        case RD_KAFKA_EVENT_DR:
            take_reports(p, event);
            break;
        case RD_KAFKA_EVENT_ERROR:
            take_error(p, event);
            break;
        default:
            break;
        }
        rd_kafka_event_destroy(event);
        served = 1;
    }
    return served;
}
