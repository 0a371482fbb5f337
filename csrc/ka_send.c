/* The producer: the callers' way into the ring. */
#include <stdlib.h>
#include <string.h>

#include "ka_producer.h"

/* What condemned records may take of the ring until the worker has passed them. */
enum { CONDEMNED_BYTES = 4 * 1024 * 1024 };
/* Of entries that share a reservation, which the ring's end may cost as much again. */
enum { SHARED_BYTES = 64 * 1024 };
/* At most one call in so long is timed. */
enum { TIMED_EVERY_NS = 10000 };

/* A message on its way into the ring; everything is borrowed. */
typedef struct {
    int32_t topic, partition;
    int64_t timestamp_ms;
    const char *value, *key, *headers;
    int64_t value_len, key_len, headers_len; /* 0 for a part that is NULL */
    uint32_t token;
} message;

static int64_t size_of(const message *m)
{
    return m->value_len + m->key_len + m->headers_len;
}

/* Take a share of both bounds. acquire: whoever gets a share that was given back also sees that its
 * place in the ring is free; partner: the release in kai_publish_counts(). */
static int admit(ka_producer *p, int64_t messages, int64_t bytes)
{
    uint64_t room = atomic_load_explicit(&p->room, memory_order_relaxed);

    do {
        if (room & (ROOM_CLOSED | ROOM_BARRED))
            return room & ROOM_CLOSED ? KA_CLOSED : KA_BARRED;
        if (room_messages(room) + messages > p->queue_messages ||
            room_bytes(room) + bytes > p->queue_bytes)
            return KA_FULL;
    } while (!atomic_compare_exchange_weak_explicit(
        &p->room, &room, room + (uint64_t)messages * ROOM_MESSAGE + (uint64_t)bytes,
        memory_order_acquire, memory_order_relaxed));
    return KA_OK;
}

uint64_t kai_ring_capacity(const ka_producer *p)
{
    /* All that the bounds admit, each with its record and rounding, and the largest entry once
     * more at the end of a lap. */
    uint64_t admitted = (uint64_t)p->queue_bytes +
                        (uint64_t)p->queue_messages * kai_ring_entry_size(sizeof(record) + 15) +
                        kai_ring_entry_size((uint64_t)p->max_message + sizeof(record)) * 2;

    return p->on_full == KA_DROP_OLD ? admitted + CONDEMNED_BYTES : admitted;
}

/* Purge the oldest record of the ring to make room. Under evict_lock. */
static int condemn_oldest(ka_producer *p)
{
    uint64_t end = p->unclaimed;
    const record *r = kai_ring_next(&p->ring, &end);
    outcomes o = {.purged = 1, .evicted = 1, .messages = 1};

    if (!r || p->condemned + (end - p->unclaimed) > CONDEMNED_BYTES)
        return 0;
    p->condemned += end - p->unclaimed;
    p->unclaimed = end;
    o.bytes = kai_record_bytes(r);
    kai_publish_counts(p, &o);
    return 1;
}

static int evict_and_admit(ka_producer *p, int64_t bytes)
{
    int status;

    kai_lock_eviction(p);
    status = admit(p, 1, bytes);
    /* Nothing is condemned for a message that would find no room all the same. */
    if (atomic_load(&p->held_messages) < p->queue_messages &&
        atomic_load(&p->held_bytes) + bytes <= p->queue_bytes)
        while (status == KA_FULL && condemn_oldest(p))
            status = admit(p, 1, bytes);
    kai_unlock_eviction(p);
    return status;
}

/* A place for the result first: one without a message is easily given back. */
static int admit_message(ka_producer *p, const message *m)
{
    int64_t bytes = size_of(m);
    int status;

    if (bytes > p->queue_bytes)
        return KA_TOO_LARGE;
    if (m->token && !kai_results_reserve(&p->results, bytes))
        return KA_FULL;
    status = admit(p, 1, bytes);
    if (status == KA_FULL && p->on_full == KA_DROP_OLD)
        status = evict_and_admit(p, bytes);
    if (status != KA_OK && m->token)
        kai_results_unreserve(&p->results, bytes);
    return status;
}

static int check_message(const ka_producer *p, const message *m)
{
    /* One by one, so that the sum can't overflow. */
    if (m->value_len > p->max_message || m->key_len > p->max_message ||
        m->headers_len > p->max_message || size_of(m) > p->max_message)
        return KA_TOO_LARGE;
    if (m->topic < 0 || m->topic >= atomic_load_explicit(&p->topics, memory_order_relaxed) ||
        m->partition < KA_PARTITION_ANY || !kai_headers_valid(m->headers, m->headers_len))
        return KA_INVALID;
    return KA_OK;
}

static uint32_t length_of(const char *data, int64_t len)
{
    return data ? (uint32_t)len : KAI_NONE;
}

static void put(ka_producer *p, const message *m, int64_t now)
{
    uint64_t len = sizeof(record) + (uint64_t)size_of(m);
    record *r = kai_ring_reserve(&p->ring, len);
    char *to;

    if (!r)
        abort(); /* the ring is sized for all that the bounds admit */
    *r = (record){.accepted_ns = now,
                  .timestamp_ms = m->timestamp_ms,
                  .topic = m->topic,
                  .partition = m->partition,
                  .value_len = length_of(m->value, m->value_len),
                  .key_len = length_of(m->key, m->key_len),
                  .headers_len = (uint32_t)m->headers_len,
                  .token = m->token};
    to = kai_append((char *)(r + 1), m->value, m->value_len);
    to = kai_append(to, m->key, m->key_len);
    kai_append(to, m->headers, m->headers_len);
    kai_ring_commit(r, len);
}

static int accept_message(ka_producer *p, const message *m, int64_t now)
{
    int status = check_message(p, m);

    if (status == KA_OK)
        status = admit_message(p, m);
    if (status == KA_OK)
        put(p, m, now);
    if (status != KA_FULL || p->on_full == KA_REFUSE)
        return status;
    atomic_fetch_add_explicit(&p->dropped, 1, memory_order_relaxed);
    return KA_DROPPED;
}

/* Note how long a call took, unless another was timed just before: the clock and the counters take a third of a send. */
static void note_call(ka_producer *p, int64_t began_ns)
{
    /* relaxed: nothing else depends on it. Two threads that time at once do no harm. */
    if (began_ns < atomic_load_explicit(&p->next_timed_ns, memory_order_relaxed))
        return;
    atomic_store_explicit(&p->next_timed_ns, began_ns + TIMED_EVERY_NS, memory_order_relaxed);
    kai_hist_add(&p->send_latency, kai_now_ns() - began_ns);
}

int ka_producer_send_record(ka_producer *p, int32_t topic_number, int32_t partition,
                            int64_t timestamp_ms, const char *value, int64_t value_len,
                            const char *key, int64_t key_len, const char *headers,
                            int64_t headers_len, int64_t token)
{
    int64_t now = kai_now_ns();
    message m = {.topic = topic_number,
                 .partition = partition,
                 .timestamp_ms = timestamp_ms,
                 .value = value,
                 .key = key,
                 .headers = headers,
                 .value_len = value_len,
                 .key_len = key_len,
                 .headers_len = headers_len,
                 .token = (uint32_t)token};
    int status;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    status = accept_message(p, &m, now);
    if (status < 0)
        return status;
    kai_wake_notify(&p->worker.wake); /* also for what was evicted in vain */
    if (status != KA_OK)
        return status;
    note_call(p, now);
    return KA_OK;
}

int ka_producer_send(ka_producer *p, const char *value, int64_t value_len)
{
    return ka_producer_send_record(p, p->default_topic, KA_PARTITION_ANY, -1, value, value_len,
                                   NULL, 0, NULL, 0, 0);
}

static int64_t column(const int64_t *values, int64_t at, int64_t none)
{
    return values ? values[at] : none;
}

/* A part of an item, which begins at *at and may be absent. */
static const char *part(const ka_batch *batch, const int64_t *lengths, int64_t item, int64_t *at,
                        int64_t *len)
{
    const char *data = batch->data + *at;

    *len = column(lengths, item, -1);
    if (*len < 0) {
        *len = 0;
        return NULL;
    }
    *at += *len;
    return data;
}

/* Deal with one item, unless what it meets is the same for all that follow. */
static int accept_item(ka_producer *p, int32_t topic_number, ka_batch *batch, int64_t now)
{
    int64_t i = batch->next, end = batch->at;
    message m = {.topic = topic_number,
                 .partition = (int32_t)column(batch->partition, i, KA_PARTITION_ANY),
                 .timestamp_ms = column(batch->timestamp_ms, i, -1)};
    int status;

    m.value = part(batch, batch->value_len, i, &end, &m.value_len);
    m.key = part(batch, batch->key_len, i, &end, &m.key_len);
    m.headers = part(batch, batch->headers_len, i, &end, &m.headers_len);
    status = accept_message(p, &m, now);
    if (status == KA_FULL || status == KA_CLOSED || status == KA_BARRED)
        return status;
    batch->status[i] = status;
    batch->accepted += status == KA_OK;
    batch->dropped += status == KA_DROPPED;
    batch->at = end;
    batch->next++;
    return KA_OK;
}

int ka_producer_send_batch(ka_producer *p, int32_t topic_number, ka_batch *batch)
{
    int64_t now = kai_now_ns();
    int result = KA_OK;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    if (atomic_load(&p->room) & ROOM_CLOSED) /* also with no item */
        return KA_CLOSED;
    while (result == KA_OK && batch->next < batch->count)
        result = accept_item(p, topic_number, batch, now);
    kai_wake_notify(&p->worker.wake);
    note_call(p, now);
    return result;
}

static uint64_t entry_of(int64_t value_len)
{
    return kai_ring_entry_size(sizeof(record) + (uint64_t)value_len);
}

/* How many values from lens on share a reservation, and the sum of their entries: no more than what the ring's size
 * allows for at the end of a lap. */
static int64_t share(const ka_producer *p, const int64_t *lens, int64_t count, uint64_t *size)
{
    uint64_t most = entry_of(p->max_message);
    int64_t n = 1;

    if (most > SHARED_BYTES)
        most = SHARED_BYTES;
    for (*size = entry_of(lens[0]); n < count && *size + entry_of(lens[n]) <= most; n++)
        *size += entry_of(lens[n]);
    return n;
}

/* Put values that are admitted. */
static void put_values(ka_producer *p, int32_t topic_number, const char *const *values,
                       const int64_t *lens, int64_t count, int64_t now)
{
    for (int64_t i = 0, end; i < count; i = end) {
        uint64_t size;
        char *at;

        end = i + share(p, lens + i, count - i, &size);
        at = kai_ring_reserve(&p->ring, size - kai_ring_entry_size(0));
        if (!at)
            abort(); /* the ring is sized for all that the bounds admit */
        for (int64_t n = i; n < end; at += entry_of(lens[n]), n++) {
            record *r = (record *)(void *)at;
            *r = (record){.accepted_ns = now,
                          .timestamp_ms = -1,
                          .topic = topic_number,
                          .partition = KA_PARTITION_ANY,
                          .value_len = (uint32_t)lens[n],
                          .key_len = KAI_NONE};
            kai_append((char *)(r + 1), values[n], lens[n]);
            kai_ring_commit(r, sizeof *r + (uint64_t)lens[n]);
        }
    }
}

int ka_producer_send_values(ka_producer *p, int32_t topic_number, const char *const *values,
                            const int64_t *lens, int64_t count)
{
    int64_t now = kai_now_ns(), bytes = 0;
    int status;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    if (count < 0 || count > KA_VALUES || topic_number < 0 ||
        topic_number >= atomic_load_explicit(&p->topics, memory_order_relaxed))
        return KA_INVALID;
    for (int64_t i = 0; i < count; i++) {
        if (lens[i] > p->max_message)
            return KA_TOO_LARGE;
        bytes += lens[i];
    }
    status = admit(p, count, bytes);
    if (status != KA_OK)
        return status;
    put_values(p, topic_number, values, lens, count, now);
    kai_wake_notify(&p->worker.wake);
    note_call(p, now);
    return KA_OK;
}

static int64_t check_room(void *self, int64_t bytes)
{
    ka_producer *p = self;
    uint64_t room = atomic_load(&p->room);

    if (room & (ROOM_CLOSED | ROOM_BARRED))
        return room & ROOM_CLOSED ? KA_CLOSED : KA_BARRED;
    return room_messages(room) < p->queue_messages && room_bytes(room) + bytes <= p->queue_bytes
               ? KA_OK
               : KA_EMPTY;
}

static int64_t check_room_and_place(void *self, int64_t bytes)
{
    ka_producer *p = self;
    int64_t status = check_room(p, bytes);

    return status == KA_OK && kai_results_full(&p->results, bytes) ? KA_EMPTY : status;
}

int ka_wait_producer_room(ka_producer *p, int64_t bytes, int result, int64_t timeout_us)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    return (int)kai_wait_until(&p->room_freed, timeout_us,
                               result ? check_room_and_place : check_room, p, bytes);
}

int ka_try_producer_room(ka_producer *p, int64_t bytes, int result)
{
    return ka_wait_producer_room(p, bytes, result, 0);
}
