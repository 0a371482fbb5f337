/* The producer's inside: what its files share.
 *
 * Who runs what. Callers (any thread) admit, copy into the ring, wake. One worker does all the rest:
 * it drains the ring into librdkafka, takes delivery reports, counts, answers flushes, closes, and
 * at its end destroys librdkafka's client. A control thread exists only while a flush must
 * override linger.ms, since rd_kafka_flush() waits.
 *
 * A message's life. admit() takes its share of the two bounds in one word, `room`. The worker turns
 * its ring entry into a message of librdkafka (which copies the payload) and a `flight`. The
 * delivery report ends the flight: one of delivered, failed, purged is counted and the share is
 * given back, both within one turn of `version`, so that a snapshot never sees half of it.
 *
 * Closing. The CLOSED bit lives in `room` too: once it is set, the set of admitted messages is
 * fixed, and zero messages outstanding means that none was forgotten.
 *
 * ka_producer.c: open and the callers' side. ka_outcome.c: flights, outcomes, flush epochs.
 * ka_producer_worker.c: the worker. ka_failure.c: failed messages that are kept.
 */
#ifndef KA_PRODUCER_H
#define KA_PRODUCER_H

#include <pthread.h>
#include <stdatomic.h>

#include <librdkafka/rdkafka.h>

#include "ka.h"
#include "ka_failure.h"
#include "ka_headers.h"
#include "ka_hist.h"
#include "ka_ring.h"
#include "ka_wake.h"
#include "ka_worker.h"

/* The word `room`: closed (1 bit), messages (25 bits), bytes (38 bits). */
#define ROOM_CLOSED ((uint64_t)1 << 63)
#define ROOM_MESSAGE ((uint64_t)1 << 38)
#define ROOM_BYTES (ROOM_MESSAGE - 1)

/* A message in the ring; value, key and headers follow. */
typedef struct {
    int64_t accepted_ns;
    int64_t timestamp_ms; /* < 0: stamp with accepted_ns */
    int32_t topic, partition;
    uint32_t value_len, key_len, headers_len;
} record;

/* Messages that the same flushes wait for: those drained between two flush requests. A list, oldest
 * first; all but the last are closed. */
typedef struct epoch {
    struct epoch *prev, *next;
    struct epoch *next_empty; /* in the list `empty` */
    uint64_t end;             /* ring position where it was closed */
    uint64_t outstanding;     /* drained, no outcome yet */
} epoch;

/* A message within librdkafka. Worker only; recycled through a free list. */
typedef struct flight {
    union {
        struct flight *next_free;
        epoch *epoch;
    };
    int64_t accepted_ns;
    uint32_t bytes;
} flight;

typedef struct {
    char *name;
    rd_kafka_topic_t *rkt; /* worker only; NULL until first used, or if the name is illegal */
} topic;

#define KAI_FLIGHTS 256 /* allocated at a time */

typedef struct flight_chunk {
    struct flight_chunk *next;
    flight flights[KAI_FLIGHTS];
} flight_chunk;

/* Outcomes not yet published. */
typedef struct {
    int64_t delivered, failed, purged;
    uint64_t messages, bytes;
} outcomes;

enum { OPEN, CLOSING, CLOSED_DOWN };

struct ka_producer {
    /* Set once. */
    rd_kafka_t *rk;
    rd_kafka_queue_t *events;
    int64_t queue_messages, queue_bytes;
    int64_t max_message; /* what librdkafka allows for key + value + headers */
    int linger;          /* a flush has something to override */
    int log;
    int32_t default_topic;  /* < 0: none */
    uint32_t process;       /* kai_process at open */
    _Atomic int references; /* the facade's and the worker's; the last one frees */

    /* Callers and worker. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t room;
    _Atomic int state;
    _Atomic int64_t close_deadline_ns;
    _Atomic int told;             /* somebody has asked for the count of lost messages */
    _Atomic uint64_t flush_asked; /* the largest ticket */
    kai_ring ring;
    kai_hist send_latency;

    /* Worker writes, all read. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t version; /* odd while outcomes are being published */
    _Atomic int64_t delivered, failed, purged;
    _Atomic uint64_t flushed;   /* everything accepted before this ring position has its outcome */
    _Atomic int64_t lost;       /* purged by closing */
    _Atomic int64_t unreported; /* failures that nobody was told of */
    kai_hist ack_latency;
    kai_wake room_freed, progressed; /* for blocked senders; for flush and close */

    kai_failures failures;

    /* Under topics_lock: callers append, the worker looks up what it meets first. */
    pthread_mutex_t topics_lock;
    topic **topic_chunks;   /* chunks never move, so a topic's address is stable */
    _Atomic int32_t topics; /* how many; read without the lock to check a number */

    /* Worker only. */
    _Alignas(KAI_CACHE_LINE) kai_worker worker;
    uint64_t drained;       /* ring position up to which records were given to librdkafka */
    uint64_t closed_epochs; /* end of the last closed epoch */
    epoch *first_epoch, *last_epoch;
    epoch *empty;      /* closed ones whose last outcome is not published yet */
    topic *last_topic; /* the one of the last record */
    int32_t last_topic_number;
    flight *free_flights;
    flight_chunk *chunks;
    int64_t purged_at_ns; /* 0: closing has not purged yet */
    int64_t purged_before;

    kai_control control;
    _Atomic int overriding; /* a job that overrides linger is queued or running */
};

static inline int64_t room_messages(uint64_t room)
{
    return (int64_t)((room & ~ROOM_CLOSED) / ROOM_MESSAGE);
}

static inline int64_t room_bytes(uint64_t room)
{
    return (int64_t)(room & ROOM_BYTES);
}

/* ka_producer.c */

/* A topic's address is stable; its number must have been given out. Under topics_lock. */
topic *kai_topic_at(ka_producer *p, int32_t number);
/* Drop one of the two references. */
void kai_producer_unreference(ka_producer *p);

/* ka_outcome.c; all on the worker */

/* Begin the epoch that messages join from now on. */
epoch *kai_epoch_open(ka_producer *p);
/* Take a closed epoch without outstanding messages off the list. */
void kai_epoch_end(ka_producer *p, epoch *e);
/* A flight of the epoch that is open, or NULL without memory. */
flight *kai_flight_begin(ka_producer *p, const record *r);
/* The outcome of one message, counted in *o. */
void kai_conclude(ka_producer *p, flight *f, const kai_lost *message, int64_t now, outcomes *o);
/* Count outcomes and give their shares back as one step of `version`; then answer flushes. */
void kai_publish(ka_producer *p, const outcomes *o);
/* Serve everything that librdkafka reports. Returns whether there was something. */
int kai_serve_events(ka_producer *p);

/* ka_producer_worker.c */

int64_t kai_producer_step(void *self);
void kai_producer_end(void *self);

#endif
