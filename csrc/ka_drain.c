/* The producer's worker: from the ring to librdkafka, in time. */
#include "ka_producer.h"

enum { DRAIN = 1024 }; /* records between two looks at delivery reports */
enum { CLOCK = 16 };   /* records between two looks at the clock */

static const int64_t LATE_NS = 500000000;           /* in the ring: no longer negligible */
static const int64_t TIMEOUT_GRACE_NS = 1000000000; /* librdkafka looks once a second */

topic *kai_topic_open(ka_producer *p, int32_t number)
{
    topic *t = p->last_topic;

    if (t && p->last_topic_number == number)
        return t;
    t = kai_topic_at(p, number);
    if (!t->rkt)
        t->rkt = rd_kafka_topic_new(p->rk, t->name, NULL);
    p->last_topic = t;
    p->last_topic_number = number;
    return t;
}

/* Headers, if there are any, come last; they are librdkafka's then. */
static rd_kafka_resp_err_t produce_parts(ka_producer *p, const rd_kafka_vu_t *parts, size_t count)
{
    rd_kafka_error_t *error = rd_kafka_produceva(p->rk, parts, count);
    rd_kafka_resp_err_t code;

    if (!error)
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    code = rd_kafka_error_code(error);
    if (code == RD_KAFKA_RESP_ERR__FATAL) /* which one? */
        code = rd_kafka_fatal_error(p->rk, NULL, 0);
    rd_kafka_error_destroy(error);
    if (parts[count - 1].vtype == RD_KAFKA_VTYPE_HEADERS) /* ours again */
        rd_kafka_headers_destroy(parts[count - 1].u.headers);
    return code;
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

    return produce_parts(p, parts, sizeof parts / sizeof *parts - (headers ? 0 : 1));
}

/* A record that librdkafka never had. */
static void conclude_record(ka_producer *p, const record *r, const origin *from,
                            rd_kafka_resp_err_t code, int64_t now, outcomes *o)
{
    const char *value = (const char *)(r + 1), *key = value + kai_part_len(r->value_len);
    kai_report report = {.code = code,
                         .partition = r->partition,
                         .offset = -1,
                         .timestamp_ms = -1,
                         .topic = kai_topic_at(p, r->topic)->name,
                         .value = r->value_len == KAI_NONE ? NULL : value,
                         .value_len = (size_t)kai_part_len(r->value_len),
                         .key = r->key_len == KAI_NONE ? NULL : key,
                         .key_len = (size_t)kai_part_len(r->key_len),
                         .block = key + kai_part_len(r->key_len),
                         .block_len = r->headers_len};

    kai_conclude(p, from, &report, now, o);
    atomic_store_explicit(&p->spoiled, 1, memory_order_relaxed);
}

rd_kafka_resp_err_t kai_produce_again(ka_producer *p, const rd_kafka_message_t *m, flight *f)
{
    rd_kafka_timestamp_type_t type;
    rd_kafka_headers_t *headers = kai_headers_of(m);
    rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = m->rkt},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = m->partition},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = m->payload, .size = m->len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = m->key, .size = m->key_len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = rd_kafka_message_timestamp(m, &type)},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = f},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_HEADERS,
         .u.headers = headers ? rd_kafka_headers_copy(headers) : NULL},
    };

    return produce_parts(p, parts, sizeof parts / sizeof *parts - (headers ? 0 : 1));
}

/* With KA_DROP_OLD: librdkafka has its share, and at least one message; or it gives some back, which
 * come first. */
static int share_is_full(const ka_producer *p)
{
    return p->on_full == KA_DROP_OLD &&
           (p->held_messages >= p->share_messages || p->held_bytes >= p->share_bytes ||
            (p->purging && p->purging->reviving));
}

/* What becomes of a record. */
enum { WAITS, EVICTED, PURGED, OVER, GIVEN };

static int judge(ka_producer *p, const record *r, uint64_t end, int64_t now)
{
    if (p->on_full == KA_DROP_OLD && end <= p->unclaimed)
        return EVICTED;
    if (end <= p->discard_end)
        return PURGED;
    if (kai_is_over(p, r->accepted_ns, now))
        return OVER;
    return share_is_full(p) || !p->free_flights ? WAITS : GIVEN;
}

/* The ring's next record, which is the worker's from then on; *end moves behind it. NULL: none, or it
 * WAITS for others, or for memory. */
static const record *claim(ka_producer *p, uint64_t *end, int *fate, int64_t now)
{
    int ready = kai_flight_ready(p);
    uint64_t next = *end;
    const record *r;

    kai_lock_eviction(p);
    r = kai_ring_next(&p->ring, &next);
    p->record_due_ns = KAI_FOREVER;
    *fate = r ? judge(p, r, next, now) : WAITS;
    if (*fate == EVICTED)
        p->passed += next - *end;
    else if (*fate != WAITS)
        p->unclaimed = next;
    else if (r)
        p->record_due_ns = kai_later(r->accepted_ns, p->message_timeout_ns);
    if (*fate == GIVEN)
        kai_hold(p, kai_record_bytes(r)); /* no caller evicts for room that this one takes */
    kai_unlock_eviction(p);
    if (r && *fate == WAITS && !ready)
        kai_await_memory(p);
    if (*fate == WAITS)
        return NULL;
    *end = next;
    return r;
}

/* A message whose own time within librdkafka ends later than message.timeout.ms allows. */
static void watch_flight(ka_producer *p, int64_t accepted_ns)
{
    int64_t due = kai_later(accepted_ns, kai_later(p->message_timeout_ns, TIMEOUT_GRACE_NS));

    if (due < p->flight_due_ns)
        p->flight_due_ns = due;
}

int64_t kai_serve_timeouts(ka_producer *p)
{
    int64_t now;

    if (p->flight_due_ns == KAI_FOREVER || (now = kai_now_ns()) < p->flight_due_ns)
        return p->flight_due_ns;
    p->flight_due_ns = KAI_FOREVER;
    watch_flight(p, kai_oldest_flight_ns(p));
    if (now >= p->flight_due_ns) {
        if (!p->purging)
            kai_revive(p);
        p->flight_due_ns = now + TIMEOUT_GRACE_NS; /* or when the purge has ended */
    }
    return p->flight_due_ns;
}

typedef struct {
    int64_t now, wall_ns; /* wall_ns: the wall clock minus the monotonic one */
    outcomes o;
} turn;

static void drain_record(ka_producer *p, const record *r, int fate, turn *t)
{
    origin from = {.accepted_ns = r->accepted_ns, .bytes = kai_record_bytes(r), .token = r->token};
    rd_kafka_resp_err_t code;
    topic *to;
    flight *f;

    switch (fate) {
    case EVICTED:
        kai_tell_evicted(p, &from);
        return;
    case PURGED:
        conclude_record(p, r, &from, RD_KAFKA_RESP_ERR__PURGE_QUEUE, t->now, &t->o);
        return;
    case OVER:
        conclude_record(p, r, &from, RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, t->now, &t->o);
        return;
    default:
        break;
    }
    if (t->now - r->accepted_ns > LATE_NS)
        watch_flight(p, r->accepted_ns);
    to = kai_topic_open(p, r->topic);
    f = kai_flight_begin(p, &from, t->now);
    code = to->rkt ? produce(p, r, to, f, t->wall_ns) : RD_KAFKA_RESP_ERR__INVALID_ARG;
    if (code) {
        conclude_record(p, r, &from, code, t->now, &t->o);
        kai_flight_end(p, f);
    }
}

/* Hand the room back up to what is drained; the ring may start over. */
static void release_ring(ka_producer *p)
{
    kai_lock_eviction(p);
    kai_ring_release(&p->ring, p->drained);
    p->drained = kai_ring_head(&p->ring);
    p->condemned -= p->passed; /* they take room until now */
    p->passed = 0;
    if (p->unclaimed < p->drained)
        p->unclaimed = p->drained;
    kai_unlock_eviction(p);
}

int kai_drain_ring(ka_producer *p)
{
    turn t = {.now = kai_now_ns()};
    const record *r;
    int n = 0, fate;

    while (n < DRAIN && (r = claim(p, &p->drained, &fate, t.now))) {
        if (n == 0)
            t.wall_ns = kai_wall_minus_ns(t.now);
        if (n++ % CLOCK == CLOCK - 1)
            t.now = kai_now_ns();
        drain_record(p, r, fate, &t);
    }
    if (n) {
        release_ring(p);
        kai_publish(p, &t.o);
    }
    return n;
}
