/* The producer's inside: what its files share.
 *
 * Who runs what. Callers (any thread) admit, copy into the ring, wake. One worker does all the rest:
 * it drains the ring into librdkafka, takes delivery reports, counts, answers flushes, closes, and
 * at its end destroys librdkafka's client. A control thread makes the calls of librdkafka that wait
 * (purge, transactions, metadata, overriding linger.ms); it exists only once one is needed.
 *
 * A message's life. admit() takes its share of the two bounds in one word, `room`. The worker turns
 * its ring entry into a message of librdkafka (which copies the payload) and a `flight`. The
 * delivery report ends the flight: one of delivered, failed, purged is counted and the share is
 * given back, both within one turn of `version`, so that a snapshot never sees half of it. A message
 * with a token has a place in `results` from acceptance until its outcome was told.
 *
 * Closing. The CLOSED bit lives in `room` too: once it is set, the set of admitted messages is
 * fixed, and zero messages outstanding means that none was forgotten. The same goes for the BARRED
 * bit, which a transactional producer has outside of a transaction: what was admitted before
 * belongs to the transaction that is being ended.
 *
 * Eviction (KA_DROP_OLD). librdkafka holds a small share of the messages, so that there normally is
 * one in the ring that may go. The caller that finds no room condemns the oldest: counts it as
 * purged and takes its room; the worker passes it over and tells its result. Had the worker to
 * decide, a send would have to wait for it. Both sides move `unclaimed` under evict_lock: what lies
 * before it is the worker's or condemned.
 *
 * message.timeout.ms counts from acceptance, librdkafka's own from produce. So the worker fails what
 * grew too old in the ring, and with KA_DROP_OLD, where messages may wait there, it takes back what
 * librdkafka has not sent when one of them is over: that one fails, the others are produced again.
 *
 * ka_producer.c: open, close. ka_send.c: the callers' way into the ring. ka_outcome.c: flights,
 * outcomes, flush epochs. ka_hops.c: where a message's time goes. ka_drain.c: from the ring to librdkafka. ka_producer_worker.c: flush,
 * close, end. ka_call.c: what the control thread runs: ka_purge.c, ka_metadata.c, ka_transaction.c.
 * ka_results.c: outcomes that are told. ka_failure.c: failed messages that are kept.
 */
#ifndef KA_PRODUCER_H
#define KA_PRODUCER_H

#include <pthread.h>
#include <stdatomic.h>

#include <librdkafka/rdkafka.h>

#include "ka.h"
#include "ka_command.h"
#include "ka_failure.h"
#include "ka_headers.h"
#include "ka_hist.h"
#include "ka_oauth.h"
#include "ka_results.h"
#include "ka_ring.h"
#include "ka_trouble.h"
#include "ka_wake.h"
#include "ka_worker.h"

/* The word `room`: closed (1 bit), barred (1 bit), messages (24 bits), bytes (38 bits). */
#define ROOM_CLOSED ((uint64_t)1 << 63)
#define ROOM_BARRED ((uint64_t)1 << 62)
#define ROOM_MESSAGE ((uint64_t)1 << 38)
#define ROOM_BYTES (ROOM_MESSAGE - 1)

/* A message in the ring; value, key and headers follow. */
typedef struct {
    int64_t accepted_ns;
    int64_t timestamp_ms; /* < 0: stamp with accepted_ns */
    int32_t topic, partition;
    uint32_t value_len, key_len, headers_len;
    uint32_t token; /* 0: nobody waits for the outcome */
} record;

/* Messages that the same flushes wait for: those drained between two flush requests. A list, oldest
 * first; all but the last are closed. */
typedef struct epoch {
    struct epoch *prev, *next;
    struct epoch *next_empty; /* in the list `empty` */
    uint64_t end;             /* ring position where it was closed */
    uint64_t outstanding;     /* drained, no outcome yet */
} epoch;

/* What the outcome of a message needs to know of it. */
typedef struct {
    int64_t accepted_ns;
    uint32_t bytes, token;
} origin;

/* A message within librdkafka. Worker only; recycled through a free list, all zero. */
typedef struct flight {
    union {
        struct flight *next_free;
        epoch *epoch;
    };
    origin origin;
    /* Nanoseconds from acceptance until librdkafka was given it, and until its acknowledgement arrived; and on the
     * wire. The last two are written by a thread of librdkafka: see ka_hops.c. */
    float given_ns, acked_ns, wire_ns;
} flight;

typedef struct {
    char *name;
    rd_kafka_topic_t *rkt;      /* worker only; NULL until first used, or if the name is illegal */
    _Atomic int32_t partitions; /* 0: not known */
} topic;

#define KAI_FLIGHTS 256 /* allocated at a time */

typedef struct flight_chunk {
    struct flight_chunk *next;
    flight flights[KAI_FLIGHTS];
} flight_chunk;

/* Outcomes not yet published. */
typedef struct {
    int64_t delivered, failed, purged;
    int64_t evicted; /* purged to make room */
    int64_t untold;  /* failures without a result */
    uint64_t messages, bytes;
} outcomes;

enum { OPEN, CLOSING, CLOSED_DOWN };

/* A command to the producer: handed from its caller to the worker, which starts it at the right
 * moment, to the control thread, and for a purge back to the worker. The list of calls holds it
 * until it is finished. */
typedef struct call {
    ka_command base; /* first, so that one can be taken for the other */
    kai_job job;
    struct call *next;
    ka_producer *p; /* outlives the call: the control thread is joined first */
    /* On the worker, may be NULL: whether its turn has come; sees to it that it comes. */
    int (*is_ready)(ka_producer *p, struct call *c);
    /* On the control thread. KA_EMPTY: the worker finishes it. */
    int (*run)(struct call *c, int timeout_ms, ka_error *error);
    /* May be NULL: before it is answered. */
    void (*ended)(struct call *c);
    int even_closing; /* asked for by the worker, also when no more calls are taken */
    int started;      /* worker only */
    int slice_ms;     /* the longest that run may wait */
    int begins_anew;  /* each slice does, so the next one is longer */
    int until_done;   /* any retriable error of a slice means that it goes on */
    int ends_early;   /* when there is no way to a broker because of a mistake */
    int64_t asked_ns, deadline_ns;
    int64_t value;
    /* Transactions: KA_INIT ... KA_ABORT. */
    int kind;
    /* Purge. */
    int in_flight;
    int reviving;          /* only what is over ends, the rest is produced again */
    uint64_t ring_end;     /* what was in the ring */
    int64_t purged_before; /* < 0: its turn has not come */
    _Atomic int ran;       /* all reports of it are there */
    /* Partitions. */
    int32_t topic;
    int connect;
    /* Offsets; owned. */
    rd_kafka_topic_partition_list_t *offsets;
    rd_kafka_consumer_group_metadata_t *group;
} call;

struct ka_producer {
    kai_trouble trouble; /* first: see ka_trouble.h */

    /* Set once. */
    rd_kafka_t *rk;
    rd_kafka_queue_t *events;
    int64_t queue_messages, queue_bytes;
    int64_t max_message;                 /* what librdkafka allows for key + value + headers */
    int64_t message_timeout_ns;          /* KAI_FOREVER: none */
    int64_t refresh_ns;                  /* how often to count partitions; KAI_FOREVER: never */
    int64_t share_messages, share_bytes; /* KA_DROP_OLD: what librdkafka may hold */
    int linger;                          /* a flush has something to override */
    int log, on_full;
    int32_t default_topic;  /* < 0: none */
    uint32_t process;       /* kai_process at open */
    _Atomic int references; /* the facade's, the worker's, the teller's; the last one frees */
    _Atomic int owners; /* the facade, and the worker until closed; the last counts what is lost */

    /* Callers and worker. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t room;
    _Atomic int state, transaction;
    _Atomic int64_t close_deadline_ns;
    _Atomic int told;             /* somebody has asked for the count of lost messages */
    _Atomic uint64_t flush_asked; /* the largest ticket */
    _Atomic int64_t dropped;      /* refused by policy */
    kai_ring ring;
    kai_results results;
    kai_hist send_latency;
    _Atomic int64_t next_timed_ns; /* a call that begins before is not in it */

    /* Under evict_lock, which is taken with KA_DROP_OLD only. */
    _Alignas(KAI_CACHE_LINE) pthread_mutex_t evict_lock;
    uint64_t unclaimed; /* ring position: before it, the worker's or condemned */
    uint64_t condemned; /* bytes of the ring that condemned records take */
    _Atomic int64_t evicted;

    /* Worker writes (with KA_DROP_OLD also who evicts, under evict_lock), all read. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t version; /* odd while outcomes are being published */
    _Atomic int64_t delivered, failed, purged;
    _Atomic int64_t held_messages, held_bytes; /* with librdkafka */
    _Atomic uint64_t flushed;   /* everything accepted before this ring position has its outcome */
    _Atomic int64_t lost;       /* purged by closing */
    _Atomic int64_t unreported; /* failures that nobody was told of */
    _Atomic int64_t failed_results; /* failures that were to be told by a result */
    kai_hist ring_latency, queue_latency, wire_latency, report_latency,
        ack_latency;                 /* worker only */
    kai_wake room_freed, progressed; /* for blocked senders; for flush and close */

    kai_failures failures;

    /* Under topics_lock: callers append, the worker looks up what it meets first. */
    pthread_mutex_t topics_lock;
    topic **topic_chunks;   /* chunks never move, so a topic's address is stable */
    _Atomic int32_t topics; /* how many; read without the lock to check a number */

    pthread_mutex_t calls_lock;
    call *calls;           /* under calls_lock: not finished, in the order they were asked for */
    _Atomic int64_t asked; /* how many the worker has not started yet */

    /* Of the transaction that is open. Written by the control thread and the worker. */
    _Atomic int spoiled;          /* messages failed or were purged without librdkafka knowing it */
    _Atomic int64_t txn_accepted; /* messages accepted before it */
    _Atomic int ending;           /* KA_COMMIT or KA_ABORT: what was asked for last */
    _Atomic int untold_step;      /* what succeeded with nobody told yet; < 0: nothing */
    _Atomic int closing_ended;    /* the abort that closing began has ended */

    /* Worker only. */
    _Alignas(KAI_CACHE_LINE) kai_worker worker;
    uint64_t drained;       /* ring position up to which records were given to librdkafka */
    uint64_t discard_end;   /* ring position up to which they are purged instead */
    uint64_t passed;        /* bytes of condemned records that are not released yet */
    uint64_t closed_epochs; /* end of the last closed epoch */
    epoch *first_epoch, *last_epoch;
    epoch *empty;      /* closed ones whose last outcome is not published yet */
    topic *last_topic; /* the one of the last record */
    int32_t last_topic_number;
    flight *free_flights;
    flight_chunk *chunks;
    call *purging;         /* the one purge that is started */
    int64_t record_due_ns; /* when the record that waits in the ring has its time over */
    int64_t flight_due_ns; /* when a message that had waited in the ring has */
    int64_t memory_due_ns; /* when to try again what there was no memory or thread for */
    int64_t refresh_at_ns;
    int64_t purged_at_ns; /* 0: closing has not purged yet */
    int64_t purged_before;
    int closing_began; /* the abort of an open transaction was asked for */

    kai_sasl sasl;
    kai_control control;
    kai_job override;       /* of linger */
    _Atomic int overriding; /* it is queued or running */
};

static inline int64_t room_messages(uint64_t room)
{
    return (int64_t)((room & ~(ROOM_CLOSED | ROOM_BARRED)) / ROOM_MESSAGE);
}

static inline int64_t room_bytes(uint64_t room)
{
    return (int64_t)(room & ROOM_BYTES);
}

static inline int kai_producer_is_foreign(const ka_producer *p)
{
    return p->process != atomic_load_explicit(&kai_process, memory_order_relaxed);
}

/* Also while its end is awaited. */
static inline int kai_transaction_is_open(int transaction)
{
    return transaction == KA_TXN_OPEN || transaction == KA_TXN_ENDING;
}

static inline uint32_t kai_record_bytes(const record *r)
{
    return (uint32_t)(kai_part_len(r->value_len) + kai_part_len(r->key_len) + r->headers_len);
}

/* Where nobody evicts, the lock costs nothing. */
static inline void kai_lock_eviction(ka_producer *p)
{
    if (p->on_full == KA_DROP_OLD)
        pthread_mutex_lock(&p->evict_lock);
}

static inline void kai_unlock_eviction(ka_producer *p)
{
    if (p->on_full == KA_DROP_OLD)
        pthread_mutex_unlock(&p->evict_lock);
}

/* A time and a span, either of which may be KAI_FOREVER. */
static inline int64_t kai_later(int64_t time_ns, int64_t span_ns)
{
    return span_ns > KAI_FOREVER - time_ns ? KAI_FOREVER : time_ns + span_ns;
}

/* Whether a message has waited for its outcome as long as message.timeout.ms allows. */
static inline int kai_is_over(const ka_producer *p, int64_t accepted_ns, int64_t now)
{
    return now - accepted_ns >= p->message_timeout_ns;
}

/* Something can't be done for want of memory: the worker looks again soon. */
static inline void kai_await_memory(ka_producer *p)
{
    p->memory_due_ns = kai_now_ns() + 100000000;
}

/* Whether everything that was admitted is with librdkafka. Worker, and only when no outcome
 * waits to be published. */
static inline int kai_all_held(ka_producer *p)
{
    return room_messages(atomic_load(&p->room)) == atomic_load(&p->held_messages);
}

/* ka_producer.c */

/* A topic's address is stable; its number must have been given out. Takes topics_lock. */
topic *kai_topic_at(ka_producer *p, int32_t number);
/* Messages accepted since open; stats but for latencies. */
void kai_producer_snapshot(ka_producer *p, ka_producer_stats *stats);
/* Drop one of the references. */
void kai_producer_unreference(ka_producer *p);
/* Closed, or forgotten: when both, what nobody was told of is lost. */
void kai_producer_disown(ka_producer *p);

/* ka_send.c */

/* Bytes of the ring that serve the bounds, and the condemned beside them. */
uint64_t kai_ring_capacity(const ka_producer *p);

/* ka_outcome.c; all on the worker, but for kai_publish_counts() */

/* Begin the epoch that messages join from now on. NULL: no memory. */
epoch *kai_epoch_open(ka_producer *p);
/* Take a closed epoch without outstanding messages off the list. */
void kai_epoch_end(ka_producer *p, epoch *e);
/* Whether kai_flight_begin() has one to give; 0 without memory. */
int kai_flight_ready(ka_producer *p);
/* Count a message as librdkafka's; kai_flight_end() undoes it. */
void kai_hold(ka_producer *p, uint32_t bytes);
/* A flight of the epoch that is open, of a message that is held. */
flight *kai_flight_begin(ka_producer *p, const origin *from, int64_t now);
void kai_flight_end(ka_producer *p, flight *f);
/* The outcome of one message, counted in *o. */
void kai_conclude(ka_producer *p, const origin *from, const kai_report *report, int64_t now,
                  outcomes *o);
/* The same for one that was evicted, which is counted already. */
void kai_tell_evicted(ka_producer *p, const origin *from);
/* Count outcomes and give their shares back as one step of `version`. Under evict_lock, if there may be
 * others. */
void kai_publish_counts(ka_producer *p, const outcomes *o);
/* The same, then announce results and answer flushes. */
void kai_publish(ka_producer *p, const outcomes *o);
/* Serve everything that librdkafka reports. Returns whether there was something. */
int kai_serve_events(ka_producer *p);
/* Count as purged what librdkafka did not give back. */
void kai_write_off(ka_producer *p);
/* When the oldest message within librdkafka was accepted; KAI_FOREVER: there is none. */
int64_t kai_oldest_flight_ns(const ka_producer *p);

/* ka_hops.c */

/* Interceptor of librdkafka, run by its new client: has the moments noted that only its threads see. */
rd_kafka_resp_err_t kai_hops_watch(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *opaque,
                                   char *text, size_t size);
/* On the worker: a message was delivered; where its time went. */
void kai_hops_note(ka_producer *p, const flight *f, int64_t now);

/* ka_call.c */

/* A call with nothing but its run. NULL: no memory. */
call *kai_call_new(ka_producer *p, int64_t timeout_us,
                   int (*run)(call *c, int timeout_ms, ka_error *error));
/* Hand it to the worker. */
ka_command *kai_call_submit(ka_producer *p, call *c);
/* The same with nobody who waits; c may be NULL. */
void kai_call_background(ka_producer *p, call *c);
/* Answer it; it may be gone then. */
void kai_call_finish(call *c, int status, int64_t value, const ka_error *error);
/* On the worker: start what can be started, finish what is done. Returns whether something was. */
int kai_serve_calls(ka_producer *p);
/* Answer all of them KA_CLOSED; those that run go on. state is CLOSING. */
void kai_calls_close(ka_producer *p);
/* At the very end, when nothing runs any more. */
void kai_calls_end(ka_producer *p);

/* ka_purge.c */

/* On the worker: finish the purge that has run. Returns whether there was one. */
int kai_finish_purge(ka_producer *p);
/* In the background: take back what librdkafka has not sent, to end what is over. */
void kai_revive(ka_producer *p);

/* ka_metadata.c */

/* In the background: count the partitions of all topics. */
void kai_refresh_partitions(ka_producer *p);

/* ka_transaction.c */

/* In the background, since the producer closes: abort the open transaction, or finish its commit. Returns whether
 * there was memory for that. */
int kai_end_for_close(ka_producer *p);

/* ka_drain.c; all on the worker */

/* A topic, in use by librdkafka from then on. */
topic *kai_topic_open(ka_producer *p, int32_t number);
/* Give what is in the ring to librdkafka. Returns how many records it was done with. */
int kai_drain_ring(ka_producer *p);
/* Give a message that librdkafka gave back to it once more. */
rd_kafka_resp_err_t kai_produce_again(ka_producer *p, const rd_kafka_message_t *m, flight *f);
/* See to messages that waited in the ring. Returns the time of the next look. */
int64_t kai_serve_timeouts(ka_producer *p);

/* ka_producer_worker.c */

int64_t kai_producer_step(void *self);
void kai_producer_end(void *self);

#endif
