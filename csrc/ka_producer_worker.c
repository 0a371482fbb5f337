/* The producer's worker: from the ring to librdkafka, flush, close. */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "ka_producer.h"

enum {
    DRAIN = 1024, /* records between two looks at delivery reports */
    FLUSH_SLICE_MS = 100,
};

static const int64_t PURGE_GRACE_NS = 500000000; /* for librdkafka to report what it purged */

static topic *find_topic(ka_producer *p, int32_t number)
{
    topic *t = p->last_topic;

    if (t && p->last_topic_number == number)
        return t;
    pthread_mutex_lock(&p->topics_lock);
    t = kai_topic_at(p, number);
    pthread_mutex_unlock(&p->topics_lock);
    if (!t->rkt)
        t->rkt = rd_kafka_topic_new(p->rk, t->name, NULL);
    p->last_topic = t;
    p->last_topic_number = number;
    return t;
}

/* Give a record to librdkafka, which copies it. wall_ns is the wall clock minus the monotonic
 * one. */
static rd_kafka_resp_err_t produce(ka_producer *p, const record *r, const topic *t, flight *f,
                                   int64_t wall_ns)
{
    const char *value = (const char *)(r + 1), *key = value + kai_part_len(r->value_len);
    const char *block = key + kai_part_len(r->key_len);
    rd_kafka_headers_t *headers = r->headers_len ? kai_headers_unpack(block, r->headers_len) : NULL;
    int64_t stamp = r->timestamp_ms >= 0 ? r->timestamp_ms : (r->accepted_ns + wall_ns) / 1000000;
    rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = t->rkt},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = r->partition},
        {.vtype = RD_KAFKA_VTYPE_VALUE,
         .u.mem = {.ptr = r->value_len == KAI_NONE ? NULL : (void *)(uintptr_t)value,
                   .size = (size_t)kai_part_len(r->value_len)}},
        {.vtype = RD_KAFKA_VTYPE_KEY,
         .u.mem = {.ptr = r->key_len == KAI_NONE ? NULL : (void *)(uintptr_t)key,
                   .size = (size_t)kai_part_len(r->key_len)}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = stamp},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = f},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    size_t count = sizeof parts / sizeof *parts - (headers ? 0 : 1);
    rd_kafka_error_t *error = rd_kafka_produceva(p->rk, parts, count);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    if (error) {
        code = rd_kafka_error_code(error);
        rd_kafka_error_destroy(error);
        if (headers) /* ours again */
            rd_kafka_headers_destroy(headers);
    }
    return code;
}

/* A record that librdkafka refused has failed. */
static void refuse(ka_producer *p, const record *r, const topic *t, flight *f,
                   rd_kafka_resp_err_t code, outcomes *o)
{
    const char *value = (const char *)(r + 1), *key = value + kai_part_len(r->value_len);
    kai_lost message = {.code = code,
                        .partition = r->partition,
                        .topic = t->name,
                        .value = r->value_len == KAI_NONE ? NULL : value,
                        .value_len = (size_t)kai_part_len(r->value_len),
                        .key = r->key_len == KAI_NONE ? NULL : key,
                        .key_len = (size_t)kai_part_len(r->key_len),
                        .block = key + kai_part_len(r->key_len),
                        .block_len = r->headers_len};

    kai_conclude(p, f, &message, kai_now_ns(), o);
}

static int64_t wall_minus_monotonic_ns(void)
{
    struct timespec wall;

    clock_gettime(CLOCK_REALTIME, &wall);
    return (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - kai_now_ns();
}

/* One record of the ring. 0: it must stay there and be tried again later. */
static int drain_record(ka_producer *p, const record *r, int64_t wall_ns, outcomes *refused)
{
    topic *t = find_topic(p, r->topic);
    flight *f = kai_flight_begin(p, r);
    rd_kafka_resp_err_t code;

    if (!f)
        return 0;
    code = t->rkt ? produce(p, r, t, f, wall_ns) : RD_KAFKA_RESP_ERR__INVALID_ARG;
    if (code)
        refuse(p, r, t, f, code, refused);
    return 1;
}

static int drain_ring(ka_producer *p)
{
    uint64_t pos = p->drained;
    int64_t wall_ns = 0;
    outcomes refused = {0};
    const record *r;
    int n = 0;

    while (n < DRAIN && (r = kai_ring_next(&p->ring, &pos))) {
        if (n++ == 0)
            wall_ns = wall_minus_monotonic_ns();
        if (!drain_record(p, r, wall_ns, &refused)) {
            n--;
            break;
        }
        p->drained = pos;
    }
    if (n) {
        kai_ring_release(&p->ring, p->drained);
        p->drained = kai_ring_head(&p->ring);
        kai_publish(p, &refused);
    }
    return n;
}

typedef struct {
    kai_job job;
    ka_producer *p; /* outlives the job: the control thread is joined before the end */
} override_job;

/* rd_kafka_flush() makes librdkafka ignore linger.ms while it waits; delivery reports are events, so
 * it serves none of them. */
static void run_override(kai_job *job)
{
    ka_producer *p = ((override_job *)(void *)job)->p;

    free(job);
    rd_kafka_flush(p->rk, FLUSH_SLICE_MS);
    atomic_store(&p->overriding, 0);
    kai_wake_notify(&p->worker.wake);
}

static void override_linger(ka_producer *p)
{
    override_job *o;

    if (!p->linger || atomic_load(&p->overriding) || !(o = malloc(sizeof *o)))
        return;
    *o = (override_job){.job.run = run_override, .p = p};
    atomic_store(&p->overriding, 1);
    if (kai_control_submit(&p->control, &o->job) != 0) {
        atomic_store(&p->overriding, 0);
        free(o);
    }
}

static int serve_flushes(ka_producer *p)
{
    uint64_t asked = atomic_load(&p->flush_asked);
    int served = 0;

    if (asked > p->closed_epochs && p->drained >= asked) {
        epoch *e = p->last_epoch;
        kai_epoch_open(p);
        p->closed_epochs = e->end = p->drained;
        if (e->outstanding == 0)
            kai_epoch_end(p, e);
        served = 1;
    }
    if (asked > atomic_load(&p->flushed))
        override_linger(p);
    return served;
}

/* Whatever librdkafka did not give back in time is counted as purged; the flights are not touched
 * again, since the client is destroyed next. */
static void write_off(ka_producer *p)
{
    uint64_t room = atomic_load(&p->room);

    kai_publish(p, &(outcomes){.purged = room_messages(room),
                               .messages = (uint64_t)room_messages(room),
                               .bytes = (uint64_t)room_bytes(room)});
}

/* Returns the time of the next look, or KAI_STEP_END. */
static int64_t serve_close(ka_producer *p)
{
    int64_t deadline = atomic_load(&p->close_deadline_ns), now = kai_now_ns();
    int64_t outstanding = room_messages(atomic_load(&p->room));

    if (outstanding && p->purged_at_ns == 0) {
        if (now < deadline) {
            override_linger(p);
            return deadline;
        }
        p->purged_at_ns = now;
        p->purged_before = atomic_load(&p->purged);
        rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                  RD_KAFKA_PURGE_F_NON_BLOCKING);
    }
    if (outstanding && now < p->purged_at_ns + PURGE_GRACE_NS)
        return p->purged_at_ns + PURGE_GRACE_NS;
    write_off(p);
    if (p->purged_at_ns)
        atomic_store(&p->lost, atomic_load(&p->purged) - p->purged_before);
    rd_kafka_set_log_level(p->rk, LOG_EMERG); /* how its threads end is nobody's concern */
    atomic_store(&p->state, CLOSED_DOWN);
    kai_wake_notify(&p->progressed);
    return KAI_STEP_END;
}

int64_t kai_producer_step(void *self)
{
    ka_producer *p = self;
    int drained = drain_ring(p), served = kai_serve_events(p), flushed = serve_flushes(p);

    if (drained || served || flushed)
        return KAI_STEP_AGAIN;
    return atomic_load(&p->state) == CLOSING ? serve_close(p) : KAI_FOREVER;
}

/* The worker's last act. Destroying a client joins its threads, which may sit in name resolution;
 * nobody waits for it here. */
void kai_producer_end(void *self)
{
    ka_producer *p = self;
    epoch *e;
    flight_chunk *chunk;

    kai_control_join(&p->control);
    rd_kafka_queue_cb_event_enable(p->events, NULL, NULL);
    rd_kafka_queue_destroy(p->events);
    pthread_mutex_lock(&p->topics_lock);
    for (int32_t i = 0; i < p->topics; i++)
        if (kai_topic_at(p, i)->rkt)
            rd_kafka_topic_destroy(kai_topic_at(p, i)->rkt);
    pthread_mutex_unlock(&p->topics_lock);
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
