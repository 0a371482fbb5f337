/* The producer's worker: flights, outcomes, and the epochs that flushes wait for. */
#include <stdlib.h>
#include <syslog.h>

#include "ka_log.h"
#include "ka_producer.h"

epoch *kai_epoch_open(ka_producer *p)
{
    epoch *e = calloc(1, sizeof *e);

    if (!e)
        abort(); /* a few bytes for the sake of accounting: nothing sensible can go on */
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

static flight *take_flight(ka_producer *p)
{
    flight *f = p->free_flights;

    if (!f) {
        flight_chunk *chunk = calloc(1, sizeof *chunk);
        if (!chunk)
            return NULL;
        chunk->next = p->chunks;
        p->chunks = chunk;
        for (f = chunk->flights; f < chunk->flights + KAI_FLIGHTS; f++) {
            f->next_free = p->free_flights;
            p->free_flights = f;
        }
        f = p->free_flights;
    }
    p->free_flights = f->next_free;
    return f;
}

flight *kai_flight_begin(ka_producer *p, const record *r)
{
    flight *f = take_flight(p);

    if (!f)
        return NULL;
    f->epoch = p->last_epoch;
    f->epoch->outstanding++;
    f->accepted_ns = r->accepted_ns;
    f->bytes = (uint32_t)(kai_part_len(r->value_len) + kai_part_len(r->key_len) + r->headers_len);
    return f;
}

static void end_flight(ka_producer *p, flight *f, outcomes *o)
{
    epoch *e = f->epoch;

    o->messages++;
    o->bytes += f->bytes;
    if (--e->outstanding == 0 && e != p->last_epoch) {
        e->next_empty = p->empty;
        p->empty = e;
    }
    f->next_free = p->free_flights;
    p->free_flights = f;
}

void kai_conclude(ka_producer *p, flight *f, const kai_lost *message, int64_t now, outcomes *o)
{
    int64_t latency = now - f->accepted_ns;

    switch (message->code) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        o->delivered++;
        kai_hist_add(&p->ack_latency, latency);
        break;
    case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
    case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
        o->purged++;
        break;
    default:
        o->failed++;
        kai_failures_keep(&p->failures, message, (double)latency * 1e-9);
    }
    end_flight(p, f, o);
}

/* Count outcomes and give their shares back as one step of `version`. */
void kai_publish(ka_producer *p, const outcomes *o)
{
    uint64_t version = atomic_load_explicit(&p->version, memory_order_relaxed);
    epoch *e;

    if (o->messages == 0)
        return;
    atomic_store_explicit(&p->version, version + 1, memory_order_relaxed);
    /* release: a reader that saw a counter below sees the odd version too; partner: the acquire
     * fence in ka_producer_metrics(). */
    atomic_thread_fence(memory_order_release);
    atomic_fetch_add_explicit(&p->delivered, o->delivered, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->failed, o->failed, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->purged, o->purged, memory_order_relaxed);
    /* release: partner is admit(). */
    atomic_fetch_sub_explicit(&p->room, o->messages * ROOM_MESSAGE + o->bytes,
                              memory_order_release);
    atomic_store_explicit(&p->version, version + 2, memory_order_release);
    atomic_fetch_add(&p->unreported, o->failed);
    kai_wake_notify(&p->room_freed);
    /* Only now: a flush that returns must find its outcomes counted. */
    while ((e = p->empty)) {
        p->empty = e->next_empty;
        kai_epoch_end(p, e);
    }
}

static void take_reports(ka_producer *p, rd_kafka_event_t *event)
{
    const rd_kafka_message_t *m;
    int64_t now = kai_now_ns();
    outcomes o = {0};

    while ((m = rd_kafka_event_message_next(event))) {
        kai_lost message = {.code = m->err};
        if (m->err)
            message = (kai_lost){.code = m->err,
                                 .partition = m->partition,
                                 .topic = rd_kafka_topic_name(m->rkt),
                                 .value = m->payload,
                                 .value_len = m->len,
                                 .key = m->key,
                                 .key_len = m->key_len,
                                 .headers = kai_headers_of(m)};
        kai_conclude(p, m->_private, &message, now, &o);
    }
    kai_publish(p, &o);
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
            if (p->log)
                kai_log_put(p->rk, LOG_ERR, "ERROR", rd_kafka_event_error_string(event));
            break;
        default:
            break;
        }
        rd_kafka_event_destroy(event);
        served = 1;
    }
    return served;
}
