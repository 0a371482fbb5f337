/* The producer: open it, and everything that callers do. */
#include "ka_producer.h"

#include <stdlib.h>
#include <string.h>

#include "ka_conf.h"
#include "ka_err.h"

enum {
    TOPIC_CHUNK = 64,
    MAX_MESSAGES = 10000000,
    EVICTED_PLACES = 65536,
    SHARE_MESSAGES = 10000,
    SHARE_BYTES = 4 * 1024 * 1024,
    KEPT_BYTES = 4 * 1024 * 1024, /* of the ring after a burst */
};

static const int64_t RELEASE_TIMEOUT_US = 5000000;
static const int64_t WARM_NS = 5000000; /* see docs/design.md, "The idle worker" */

/* Under topics_lock. */
static topic *topic_at(ka_producer *p, int32_t number)
{
    return &p->topic_chunks[number / TOPIC_CHUNK][number % TOPIC_CHUNK];
}

topic *kai_topic_at(ka_producer *p, int32_t number)
{
    topic *t;

    pthread_mutex_lock(&p->topics_lock);
    t = topic_at(p, number);
    pthread_mutex_unlock(&p->topics_lock);
    return t;
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
    topic_at(p, p->topics)->name = copy;
    return p->topics++;
}

int32_t ka_producer_topic(ka_producer *p, const char *name)
{
    int32_t number = 0;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    pthread_mutex_lock(&p->topics_lock);
    while (number < p->topics && strcmp(topic_at(p, number)->name, name) != 0)
        number++;
    if (number == p->topics)
        number = add_topic(p, name);
    pthread_mutex_unlock(&p->topics_lock);
    return number;
}

int64_t ka_producer_flush(ka_producer *p)
{
    uint64_t room = atomic_load(&p->room), ticket, asked;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    if (room & ROOM_CLOSED)
        return KA_CLOSED;
    /* A message leaves `room` before its result is announced, and its place after it was told. */
    if (room_messages(room) == 0 && atomic_load(&p->results.reserved) == 0)
        return KA_OK;
    ticket = kai_ring_tail(&p->ring);
    asked = atomic_load(&p->flush_asked);
    while (asked < ticket && !atomic_compare_exchange_weak(&p->flush_asked, &asked, ticket))
        continue;
    kai_wake_notify(&p->worker.wake);
    return (int64_t)ticket;
}

static int64_t check_flushed(void *self, int64_t ticket)
{
    ka_producer *p = self;

    if (atomic_load(&p->room) & ROOM_CLOSED)
        return KA_CLOSED; /* what has its outcome may have been purged */
    return atomic_load(&p->flushed) >= (uint64_t)ticket ? KA_OK : KA_EMPTY;
}

int ka_wait_producer_flush(ka_producer *p, int64_t ticket, int64_t timeout_us)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    return (int)kai_wait_until(&p->progressed, timeout_us, check_flushed, p, ticket);
}

int ka_try_producer_flush(ka_producer *p, int64_t ticket)
{
    return ka_wait_producer_flush(p, ticket, 0);
}

ka_producer *ka_producer_share(ka_producer *p)
{
    atomic_fetch_add(&p->references, 1);
    return p;
}

void ka_producer_unshare(ka_producer *p)
{
    if (!kai_producer_is_foreign(p))
        kai_producer_unreference(p);
}

int64_t ka_producer_results(ka_producer *p, ka_result *out, int64_t size)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : kai_results_take(&p->results, out, size);
}

int ka_wait_producer_results(ka_producer *p, int64_t timeout_us)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : kai_results_wait(&p->results, timeout_us);
}

int64_t ka_producer_announced(ka_producer *p)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : atomic_load(&p->results.announced);
}

int64_t ka_producer_failed_results(ka_producer *p)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : atomic_load(&p->failed_results);
}

static int64_t check_told(void *self, int64_t count)
{
    return atomic_load(&((ka_producer *)self)->results.told) >= count ? KA_OK : KA_EMPTY;
}

static int64_t check_told_or_closed(void *self, int64_t count)
{
    int closed = (atomic_load(&((ka_producer *)self)->room) & ROOM_CLOSED) != 0;

    return closed ? KA_CLOSED : check_told(self, count);
}

int ka_wait_producer_told(ka_producer *p, int64_t count, int even_closed, int64_t timeout_us)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    return (int)kai_wait_until(&p->results.progressed, timeout_us,
                               even_closed ? check_told : check_told_or_closed, p, count);
}

void kai_producer_snapshot(ka_producer *p, ka_producer_stats *stats)
{
    uint64_t version, room;

    do {
        /* acquire: the counters below are read after; partner: the release in
         * kai_publish_counts(). */
        version = atomic_load_explicit(&p->version, memory_order_acquire);
        stats->delivered = atomic_load_explicit(&p->delivered, memory_order_relaxed);
        stats->failed = atomic_load_explicit(&p->failed, memory_order_relaxed);
        stats->purged = atomic_load_explicit(&p->purged, memory_order_relaxed);
        stats->dropped = atomic_load_explicit(&p->dropped, memory_order_relaxed) +
                         atomic_load_explicit(&p->evicted, memory_order_relaxed);
        room = atomic_load_explicit(&p->room, memory_order_relaxed);
        /* acquire: version is read again after the counters; partner: the release fence in
         * kai_publish_counts(). */
        atomic_thread_fence(memory_order_acquire);
    } while ((version & 1) || version != atomic_load_explicit(&p->version, memory_order_relaxed));
    stats->outstanding = room_messages(room);
    stats->outstanding_bytes = room_bytes(room);
    /* No outcome was published while room was read, so the sum is what had been admitted at
     * that moment. */
    stats->accepted = stats->delivered + stats->failed + stats->purged + stats->outstanding;
}

int ka_producer_metrics(ka_producer *p, ka_producer_stats *stats)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    kai_producer_snapshot(p, stats);
    kai_hist_summary(&p->send_latency, &stats->send);
    kai_hist_summary(&p->ring_latency, &stats->ring);
    kai_hist_summary(&p->queue_latency, &stats->queue);
    kai_hist_summary(&p->wire_latency, &stats->wire);
    kai_hist_summary(&p->report_latency, &stats->report);
    kai_hist_summary(&p->ack_latency, &stats->ack);
    kai_hist_summary(&p->results.latency, &stats->told);
    return KA_OK;
}

int64_t ka_producer_unreported(ka_producer *p, int64_t told)
{
    int64_t unreported;

    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    /* A failure may be fetched, and told, before it is counted: below 0 for a moment. */
    unreported = atomic_fetch_sub(&p->unreported, told) - told;
    return unreported > 0 ? unreported : 0;
}

ka_failure *ka_producer_failure(ka_producer *p)
{
    return kai_producer_is_foreign(p) ? NULL : kai_failures_take(&p->failures);
}

int ka_producer_trouble(ka_producer *p, ka_error *err)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : kai_trouble_last(&p->trouble, err);
}

int32_t ka_producer_partition_count(ka_producer *p, int32_t topic_number)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    return atomic_load_explicit(&kai_topic_at(p, topic_number)->partitions, memory_order_relaxed);
}

int ka_producer_transaction(ka_producer *p)
{
    return kai_producer_is_foreign(p) ? KA_FORKED : atomic_load(&p->transaction);
}

/* Of several that close, the earliest deadline counts. */
static void bring_forward(ka_producer *p, int64_t deadline_ns)
{
    int64_t now = atomic_load(&p->close_deadline_ns);

    while (deadline_ns < now &&
           !atomic_compare_exchange_weak(&p->close_deadline_ns, &now, deadline_ns))
        continue;
    kai_wake_notify(&p->worker.wake);
}

int ka_producer_close(ka_producer *p, int64_t timeout_us)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    bring_forward(p, kai_deadline_ns(timeout_us));
    /* Before the state, so that the worker, which ends when nothing is outstanding, finds that final. */
    if (atomic_fetch_or(&p->room, ROOM_CLOSED) & ROOM_CLOSED)
        return KA_CLOSED;
    atomic_store(&p->state, CLOSING);
    kai_calls_close(p);
    kai_wake_notify(&p->worker.wake);
    kai_wake_notify(&p->room_freed);
    kai_wake_notify(&p->progressed);
    kai_wake_notify(&p->results.progressed);
    return KA_OK;
}

static int64_t check_closed(void *self, int64_t arg)
{
    ka_producer *p = self;

    (void)arg;
    if (atomic_load(&p->state) != CLOSED_DOWN)
        return KA_EMPTY;
    atomic_store(&p->told, 1);
    return atomic_load(&p->lost);
}

int64_t ka_wait_producer_closed(ka_producer *p, int64_t timeout_us)
{
    if (kai_producer_is_foreign(p))
        return KA_FORKED;
    return kai_wait_until(&p->progressed, timeout_us, check_closed, p, 0);
}

int64_t ka_try_producer_closed(ka_producer *p)
{
    return ka_wait_producer_closed(p, 0);
}

void ka_producer_hang(ka_producer *p, ka_bell *bell)
{
    if (kai_producer_is_foreign(p))
        return;
    kai_wake_hang(&p->room_freed, bell);
    kai_wake_hang(&p->progressed, bell);
    kai_wake_hang(&p->results.arrived, bell);
}

void kai_producer_disown(ka_producer *p)
{
    if (atomic_fetch_sub(&p->owners, 1) == 1)
        kai_lose(ka_producer_unreported(p, 0) +
                 (atomic_load(&p->told) ? 0 : atomic_load(&p->lost)));
}

void kai_producer_unreference(ka_producer *p)
{
    if (atomic_fetch_sub(&p->references, 1) > 1)
        return;
    for (int32_t i = 0; i < p->topics; i++)
        free(topic_at(p, i)->name);
    for (int32_t i = 0; i < p->topics; i += TOPIC_CHUNK)
        free(p->topic_chunks[i / TOPIC_CHUNK]);
    free(p->topic_chunks);
    kai_control_fini(&p->control);
    kai_trouble_fini(&p->trouble);
    kai_sasl_fini(&p->sasl);
    kai_wake_fini(&p->worker.wake);
    kai_wake_fini(&p->room_freed);
    kai_wake_fini(&p->progressed);
    pthread_mutex_destroy(&p->topics_lock);
    pthread_mutex_destroy(&p->calls_lock);
    pthread_mutex_destroy(&p->evict_lock);
    kai_results_fini(&p->results);
    kai_failures_fini(&p->failures);
    kai_ring_fini(&p->ring);
    free(p);
}

void ka_producer_release(ka_producer *p)
{
    if (kai_producer_is_foreign(p))
        return;
    ka_producer_close(p, RELEASE_TIMEOUT_US);
    kai_producer_disown(p);
    kai_producer_unreference(p);
}

/* Runs on librdkafka's threads when a report is there. */
static void on_event(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    kai_wake_notify(&((ka_producer *)opaque)->worker.wake);
}

/* Runs on the worker. */
static void on_token_wanted(rd_kafka_t *rk, const char *config, void *opaque)
{
    (void)rk, (void)config;
    kai_sasl_ask(&((ka_producer *)opaque)->sasl);
}

/* Small, so that there is something to evict; enough for full requests on their way. */
static int64_t share_of(int64_t bound, int64_t most)
{
    int64_t share = (bound + 3) / 4;

    return share < most ? share : most;
}

/* For results: of what is outstanding, of as many again that wait to be told, and of evicted
 * messages that the worker has not passed yet. */
static int64_t places(const ka_producer *p)
{
    return 2 * p->queue_messages + (p->on_full == KA_DROP_OLD ? EVICTED_PLACES : 0);
}

static ka_producer *new_producer(const ka_conf *conf, const ka_producer_options *options)
{
    ka_producer *p = aligned_alloc(KAI_CACHE_LINE, (sizeof *p + KAI_CACHE_LINE - 1) &
                                                       ~(size_t)(KAI_CACHE_LINE - 1));
    int64_t timeout_ms, refresh_ms;
    char text[8];

    if (!p)
        return NULL;
    memset(p, 0, sizeof *p);
    p->queue_messages = options->queue_messages;
    p->queue_bytes = options->queue_bytes;
    p->max_message = kai_conf_number(conf, "message.max.bytes", 1000000) - KA_WIRE_OVERHEAD;
    p->linger = kai_conf_number(conf, "linger.ms", 5) > 0;
    p->log = options->log;
    p->on_full = options->on_full;
    p->share_messages = share_of(p->queue_messages, SHARE_MESSAGES);
    p->share_bytes = share_of(p->queue_bytes, SHARE_BYTES);
    timeout_ms = kai_conf_number(conf, "message.timeout.ms", 300000);
    p->message_timeout_ns = timeout_ms > 0 ? timeout_ms * 1000000 : KAI_FOREVER;
    refresh_ms = kai_conf_number(conf, "topic.metadata.refresh.interval.ms", 300000);
    p->refresh_ns =
        options->count_partitions && refresh_ms > 0 ? refresh_ms * 1000000 : KAI_FOREVER;
    p->record_due_ns = p->flight_due_ns = KAI_FOREVER;
    p->refresh_at_ns = kai_deadline_ns(p->refresh_ns / 1000);
    if (ka_conf_get(conf, "transactional.id", text, sizeof text) > 0) {
        atomic_init(&p->transaction, KA_TXN_NEW);
        atomic_init(&p->untold_step, -1);
        atomic_init(&p->room, ROOM_BARRED);
    }
    p->process = atomic_load(&kai_process);
    atomic_init(&p->references, 2);
    atomic_init(&p->owners, 2);
    atomic_init(&p->close_deadline_ns, KAI_FOREVER);
    kai_trouble_init(&p->trouble);
    kai_failures_init(&p->failures);
    pthread_mutex_init(&p->topics_lock, NULL);
    pthread_mutex_init(&p->calls_lock, NULL);
    pthread_mutex_init(&p->evict_lock, NULL);
    kai_wake_init(&p->room_freed);
    kai_wake_init(&p->progressed);
    kai_wake_init(&p->worker.wake);
    kai_control_init(&p->control, "ka-control");
    p->worker.name = "ka-producer";
    p->worker.step = kai_producer_step;
    p->worker.end = kai_producer_end;
    p->worker.self = p;
    p->worker.warm_ns = options->idle == KA_IDLE_WARM ? WARM_NS : 0;
    p->worker.spin = options->idle == KA_IDLE_SPIN;
    p->worker.bound = options->bound;
    p->worker.cpu = options->cpu;
    return p;
}

/* The rest of what it needs memory for. NULL, or what it is that there is none for. */
static const char *furnish(ka_producer *p, const ka_conf *conf, const ka_producer_options *options)
{
    if (kai_ring_init(&p->ring, kai_ring_capacity(p)) != 0 ||
        kai_results_init(&p->results, places(p), 2 * p->queue_bytes, &p->room_freed) != 0)
        return "no address space for the queue: lower queue_bytes or queue_messages";
    if (p->ring.keep > KEPT_BYTES)
        p->ring.keep = KEPT_BYTES;
    p->default_topic = options->topic ? ka_producer_topic(p, options->topic) : -1;
    if (p->default_topic == KA_NOMEM || !kai_epoch_open(p) ||
        !kai_secrets_learn(&p->trouble.secrets, conf) ||
        (options->bound && kai_control_keep_cpus(&p->control) != 0))
        return "no memory for a producer";
    return NULL;
}

/* Of a producer whose worker never ran; *err says why. */
static ka_producer *abandon(ka_producer *p)
{
    free(p->first_epoch);
    atomic_store(&p->references, 1);
    kai_producer_unreference(p);
    return NULL;
}

ka_producer *ka_wait_producer_open(ka_conf *conf, const ka_producer_options *options, ka_error *err)
{
    ka_producer *p;
    const char *lack;
    int error;

    if (options->queue_messages < 1 || options->queue_messages > MAX_MESSAGES ||
        options->queue_bytes < 1 || options->queue_bytes > (int64_t)ROOM_BYTES) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__INVALID_ARG, "a bound of the queue is out of range");
        return NULL;
    }
    /* librdkafka's own bounds must never be the ones that are met. */
    if (ka_conf_set(conf, "queue.buffering.max.messages", "10000000", err) != KA_OK ||
        ka_conf_set(conf, "queue.buffering.max.kbytes", "2147483647", err) != KA_OK)
        return NULL;
    p = kai_process_init() == 0 ? new_producer(conf, options) : NULL;
    if (!p) {
        kai_err_memory(err, "no memory for a producer");
        return NULL;
    }
    if ((lack = furnish(p, conf, options))) {
        kai_err_memory(err, lack);
        return abandon(p);
    }
    rd_kafka_conf_set_events(conf->rd, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
    kai_trouble_watch(conf);
    kai_sasl_configure(&p->sasl, options->oauth, conf, on_token_wanted);
    p->rk = kai_conf_create(conf, RD_KAFKA_PRODUCER, p, options->log, kai_hops_watch, err);
    if (!p->rk)
        return abandon(p);
    p->events = rd_kafka_queue_get_main(p->rk);
    rd_kafka_queue_cb_event_enable(p->events, on_event, p);
    kai_sasl_open(&p->sasl, p->rk, &p->worker.wake, on_event, p);
    error = kai_worker_start(&p->worker);
    if (error) {
        kai_sasl_close(&p->sasl);
        rd_kafka_queue_destroy(p->events);
        rd_kafka_destroy(p->rk);
        kai_err_worker(err, error);
        return abandon(p);
    }
    ka_conf_free(conf);
    return p;
}
