/* The producer: open it, and everything that callers do. */
#include "ka_producer.h"

#include <stdlib.h>
#include <string.h>

#include "ka_conf.h"
#include "ka_err.h"

enum { TOPIC_CHUNK = 64, MAX_MESSAGES = 10000000 };

static const int64_t RELEASE_TIMEOUT_US = 5000000;
static const int64_t WARM_NS = 10000000; /* see docs/design.md, "The idle worker" */

static int is_foreign(const ka_producer *p)
{
    return p->process != atomic_load_explicit(&kai_process, memory_order_relaxed);
}

/* Take a share of both bounds. acquire: whoever gets a share that was given back also sees that its
 * place in the ring is free; partner: the release in kai_publish(). */
static int admit(ka_producer *p, int64_t bytes)
{
    uint64_t room = atomic_load_explicit(&p->room, memory_order_relaxed);

    if (bytes > p->queue_bytes)
        return KA_TOO_LARGE;
    do {
        if (room & ROOM_CLOSED)
            return KA_CLOSED;
        if (room_messages(room) >= p->queue_messages || room_bytes(room) + bytes > p->queue_bytes)
            return KA_FULL;
    } while (!atomic_compare_exchange_weak_explicit(&p->room, &room,
                                                    room + ROOM_MESSAGE + (uint64_t)bytes,
                                                    memory_order_acquire, memory_order_relaxed));
    return KA_OK;
}

static uint32_t length_of(const char *data, int64_t len)
{
    return data ? (uint32_t)len : KAI_NONE;
}

int ka_producer_send_record(ka_producer *p, int32_t topic_number, int32_t partition,
                            int64_t timestamp_ms, const char *value, int64_t value_len,
                            const char *key, int64_t key_len, const char *headers,
                            int64_t headers_len)
{
    int64_t now = kai_now_ns(), bytes = value_len + key_len + headers_len;
    record *r;
    char *to;
    int status;

    if (is_foreign(p))
        return KA_FORKED;
    if (value_len > p->max_message || key_len > p->max_message || headers_len > p->max_message ||
        bytes > p->max_message)
        return KA_TOO_LARGE;
    if (topic_number < 0 ||
        topic_number >= atomic_load_explicit(&p->topics, memory_order_relaxed) ||
        partition < KA_PARTITION_ANY || !kai_headers_valid(headers, headers_len))
        return KA_INVALID;
    if ((status = admit(p, bytes)) != KA_OK)
        return status;
    r = kai_ring_reserve(&p->ring, sizeof *r + (uint64_t)bytes);
    if (!r)
        abort(); /* the ring is sized for all that the bounds admit */
    *r = (record){.accepted_ns = now,
                  .timestamp_ms = timestamp_ms,
                  .topic = topic_number,
                  .partition = partition,
                  .value_len = length_of(value, value_len),
                  .key_len = length_of(key, key_len),
                  .headers_len = (uint32_t)headers_len};
    to = kai_append((char *)(r + 1), value, value_len);
    to = kai_append(to, key, key_len);
    kai_append(to, headers, headers_len);
    kai_ring_commit(r, sizeof *r + (uint64_t)bytes);
    kai_wake_notify(&p->worker.wake);
    kai_hist_add(&p->send_latency, kai_now_ns() - now);
    return KA_OK;
}

int ka_producer_send(ka_producer *p, const char *value, int64_t value_len)
{
    return ka_producer_send_record(p, p->default_topic, KA_PARTITION_ANY, -1, value, value_len,
                                   NULL, 0, NULL, 0);
}

topic *kai_topic_at(ka_producer *p, int32_t number)
{
    return &p->topic_chunks[number / TOPIC_CHUNK][number % TOPIC_CHUNK];
}

/* Under topics_lock. */
static int32_t add_topic(ka_producer *p, const char *name)
{
    char *copy = strdup(name);

    if (!copy)
        return KA_NOMEM;
    if (p->topics % TOPIC_CHUNK == 0) {
        size_t chunk = (size_t)p->topics / TOPIC_CHUNK;
        topic **chunks = realloc(p->topic_chunks, (chunk + 1) * sizeof(topic *));
        if (chunks)
            p->topic_chunks = chunks;
        if (!chunks || !(chunks[chunk] = calloc(TOPIC_CHUNK, sizeof(topic)))) {
            free(copy);
            return KA_NOMEM;
        }
    }
    kai_topic_at(p, p->topics)->name = copy;
    return p->topics++;
}

int32_t ka_producer_topic(ka_producer *p, const char *name)
{
    int32_t number = 0;

    if (is_foreign(p))
        return KA_FORKED;
    pthread_mutex_lock(&p->topics_lock);
    while (number < p->topics && strcmp(kai_topic_at(p, number)->name, name) != 0)
        number++;
    if (number == p->topics)
        number = add_topic(p, name);
    pthread_mutex_unlock(&p->topics_lock);
    return number;
}

/* Sleep on wake until check(p, arg) is not KA_EMPTY; returns that, or why the sleep ended. */
static int64_t wait_until(ka_producer *p, kai_wake *wake, int64_t timeout_us,
                          int64_t (*check)(ka_producer *p, int64_t arg), int64_t arg)
{
    int64_t deadline = kai_deadline_ns(timeout_us), result;
    int status = KA_OK;

    if (is_foreign(p))
        return KA_FORKED;
    for (;;) {
        uint32_t key = kai_wake_prepare(wake);

        result = check(p, arg);
        if (result != KA_EMPTY || status != KA_OK || timeout_us == 0) {
            kai_wake_cancel(wake);
            return result != KA_EMPTY ? result : status != KA_OK ? status : KA_TIMEOUT;
        }
        status = kai_wake_sleep(wake, key, deadline);
    }
}

static int64_t check_room(ka_producer *p, int64_t bytes)
{
    uint64_t room = atomic_load(&p->room);

    if (room & ROOM_CLOSED)
        return KA_CLOSED;
    return room_messages(room) < p->queue_messages && room_bytes(room) + bytes <= p->queue_bytes
               ? KA_OK
               : KA_EMPTY;
}

int ka_wait_producer_room(ka_producer *p, int64_t bytes, int64_t timeout_us)
{
    return (int)wait_until(p, &p->room_freed, timeout_us, check_room, bytes);
}

int64_t ka_producer_flush(ka_producer *p)
{
    uint64_t room = atomic_load(&p->room), ticket, asked;

    if (is_foreign(p))
        return KA_FORKED;
    if (room & ROOM_CLOSED)
        return KA_CLOSED;
    if (room_messages(room) == 0)
        return KA_OK;
    ticket = kai_ring_tail(&p->ring);
    asked = atomic_load(&p->flush_asked);
    while (asked < ticket && !atomic_compare_exchange_weak(&p->flush_asked, &asked, ticket))
        continue;
    kai_wake_notify(&p->worker.wake);
    return (int64_t)ticket;
}

static int64_t check_flushed(ka_producer *p, int64_t ticket)
{
    if (atomic_load(&p->room) & ROOM_CLOSED)
        return KA_CLOSED; /* what has its outcome may have been purged */
    return atomic_load(&p->flushed) >= (uint64_t)ticket ? KA_OK : KA_EMPTY;
}

int ka_wait_producer_flush(ka_producer *p, int64_t ticket, int64_t timeout_us)
{
    return (int)wait_until(p, &p->progressed, timeout_us, check_flushed, ticket);
}

int ka_producer_metrics(ka_producer *p, ka_producer_stats *stats)
{
    uint64_t version, room;

    if (is_foreign(p))
        return KA_FORKED;
    do {
        /* acquire: the counters below are read after; partner: the release in kai_publish(). */
        version = atomic_load_explicit(&p->version, memory_order_acquire);
        stats->delivered = atomic_load_explicit(&p->delivered, memory_order_relaxed);
        stats->failed = atomic_load_explicit(&p->failed, memory_order_relaxed);
        stats->purged = atomic_load_explicit(&p->purged, memory_order_relaxed);
        room = atomic_load_explicit(&p->room, memory_order_relaxed);
        /* acquire: version is read again after the counters; partner: the release fence in
         * kai_publish(). */
        atomic_thread_fence(memory_order_acquire);
    } while ((version & 1) || version != atomic_load_explicit(&p->version, memory_order_relaxed));
    room &= ~ROOM_CLOSED;
    stats->outstanding = room_messages(room);
    stats->outstanding_bytes = room_bytes(room);
    /* No outcome was published while room was read, so the sum is what had been admitted at
     * that moment. */
    stats->accepted = stats->delivered + stats->failed + stats->purged + stats->outstanding;
    kai_hist_summary(&p->send_latency, &stats->send);
    kai_hist_summary(&p->ack_latency, &stats->ack);
    return KA_OK;
}

int64_t ka_producer_unreported(ka_producer *p, int64_t told)
{
    int64_t unreported;

    if (is_foreign(p))
        return KA_FORKED;
    /* A failure may be fetched, and told, before it is counted: below 0 for a moment. */
    unreported = atomic_fetch_sub(&p->unreported, told) - told;
    return unreported > 0 ? unreported : 0;
}

ka_failure *ka_producer_failure(ka_producer *p)
{
    return is_foreign(p) ? NULL : kai_failures_take(&p->failures);
}

static int close_with(ka_producer *p, int64_t timeout_us)
{
    int open = OPEN;

    atomic_store(&p->close_deadline_ns, kai_deadline_ns(timeout_us));
    if (!atomic_compare_exchange_strong(&p->state, &open, CLOSING))
        return KA_CLOSED;
    atomic_fetch_or(&p->room, ROOM_CLOSED);
    kai_wake_notify(&p->worker.wake);
    kai_wake_notify(&p->room_freed);
    kai_wake_notify(&p->progressed);
    return KA_OK;
}

int ka_producer_close(ka_producer *p, int64_t timeout_us)
{
    if (is_foreign(p))
        return KA_FORKED;
    return atomic_load(&p->state) == OPEN ? close_with(p, timeout_us) : KA_CLOSED;
}

static int64_t check_closed(ka_producer *p, int64_t arg)
{
    (void)arg;
    if (atomic_load(&p->state) != CLOSED_DOWN)
        return KA_EMPTY;
    atomic_store(&p->told, 1);
    return atomic_load(&p->lost);
}

int64_t ka_wait_producer_closed(ka_producer *p, int64_t timeout_us)
{
    return wait_until(p, &p->progressed, timeout_us, check_closed, 0);
}

void kai_producer_unreference(ka_producer *p)
{
    if (atomic_fetch_sub(&p->references, 1) > 1)
        return;
    kai_lose(ka_producer_unreported(p, 0) + (atomic_load(&p->told) ? 0 : atomic_load(&p->lost)));
    for (int32_t i = 0; i < p->topics; i++)
        free(kai_topic_at(p, i)->name);
    for (int32_t i = 0; i < p->topics; i += TOPIC_CHUNK)
        free(p->topic_chunks[i / TOPIC_CHUNK]);
    free(p->topic_chunks);
    kai_control_fini(&p->control);
    kai_wake_fini(&p->worker.wake);
    kai_wake_fini(&p->room_freed);
    kai_wake_fini(&p->progressed);
    pthread_mutex_destroy(&p->topics_lock);
    kai_failures_fini(&p->failures);
    kai_ring_fini(&p->ring);
    free(p);
}

void ka_producer_release(ka_producer *p)
{
    if (is_foreign(p))
        return;
    ka_producer_close(p, RELEASE_TIMEOUT_US);
    kai_producer_unreference(p);
}

/* Runs on librdkafka's threads when a report is there. */
static void on_event(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    kai_wake_notify(&((ka_producer *)opaque)->worker.wake);
}

/* Room for all that the bounds admit, each with its record and rounding, and for the largest
 * entry once more at the end of a lap. */
static uint64_t ring_capacity(const ka_producer *p)
{
    return (uint64_t)p->queue_bytes +
           (uint64_t)p->queue_messages * kai_ring_entry_size(sizeof(record) + 15) +
           kai_ring_entry_size((uint64_t)p->max_message + sizeof(record)) * 2;
}

static ka_producer *new_producer(const ka_conf *conf, const ka_producer_options *options)
{
    ka_producer *p = aligned_alloc(KAI_CACHE_LINE, (sizeof *p + KAI_CACHE_LINE - 1) &
                                                       ~(size_t)(KAI_CACHE_LINE - 1));

    if (!p)
        return NULL;
    memset(p, 0, sizeof *p);
    p->queue_messages = options->queue_messages;
    p->queue_bytes = options->queue_bytes;
    p->max_message = kai_conf_number(conf, "message.max.bytes", 1000000) - KA_WIRE_OVERHEAD;
    p->linger = kai_conf_number(conf, "linger.ms", 5) > 0;
    p->log = options->log;
    p->process = atomic_load(&kai_process);
    atomic_init(&p->references, 2);
    kai_failures_init(&p->failures);
    pthread_mutex_init(&p->topics_lock, NULL);
    kai_wake_init(&p->room_freed);
    kai_wake_init(&p->progressed);
    kai_wake_init(&p->worker.wake);
    kai_control_init(&p->control, "ka-control");
    p->worker.name = "ka-producer";
    p->worker.step = kai_producer_step;
    p->worker.end = kai_producer_end;
    p->worker.self = p;
    p->worker.warm_ns = WARM_NS;
    kai_epoch_open(p);
    return p;
}

/* Of a producer whose worker never ran. */
static ka_producer *abandon(ka_producer *p, ka_error *err, rd_kafka_resp_err_t code,
                            const char *text)
{
    if (code)
        kai_err_set(err, code, text);
    free(p->first_epoch);
    atomic_store(&p->references, 1);
    kai_producer_unreference(p);
    return NULL;
}

ka_producer *ka_wait_producer_open(ka_conf *conf, const ka_producer_options *options, ka_error *err)
{
    ka_producer *p;

    kai_process_init();
    if (options->queue_messages < 1 || options->queue_messages > MAX_MESSAGES ||
        options->queue_bytes < 1 || options->queue_bytes > (int64_t)ROOM_BYTES) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__INVALID_ARG, "a bound of the queue is out of range");
        return NULL;
    }
    /* librdkafka's own bounds must never be the ones that are met. */
    if (ka_conf_set(conf, "queue.buffering.max.messages", "10000000", err) != KA_OK ||
        ka_conf_set(conf, "queue.buffering.max.kbytes", "2147483647", err) != KA_OK)
        return NULL;
    p = new_producer(conf, options);
    if (!p) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, "out of memory");
        return NULL;
    }
    if (kai_ring_init(&p->ring, ring_capacity(p)) != 0)
        return abandon(p, err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE,
                       "no address space for the queue: lower queue_bytes or queue_messages");
    p->default_topic = options->topic ? ka_producer_topic(p, options->topic) : -1;
    rd_kafka_conf_set_events(conf->rd, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
    p->rk = kai_conf_create(conf, RD_KAFKA_PRODUCER, p, options->log, err);
    if (!p->rk)
        return abandon(p, err, RD_KAFKA_RESP_ERR_NO_ERROR, NULL);
    p->events = rd_kafka_queue_get_main(p->rk);
    rd_kafka_queue_cb_event_enable(p->events, on_event, p);
    if (kai_worker_start(&p->worker) != 0) {
        rd_kafka_queue_destroy(p->events);
        rd_kafka_destroy(p->rk);
        return abandon(p, err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE,
                       "the worker thread did not start: raise the limit of threads");
    }
    return p;
}
