/* The consumer: open it, and what callers do beside polling. */
#include "ka_consumer.h"

#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "ka_conf.h"
#include "ka_err.h"
#include "ka_log.h"

void *kai_must(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

int kai_await_memory(ka_consumer *c)
{
    static const struct timespec moment = {.tv_nsec = 10000000};

    if (atomic_load(&c->state) != OPEN || atomic_load(&c->retired))
        return 0;
    nanosleep(&moment, NULL);
    return 1;
}

void kai_consumer_log(ka_consumer *c, int level, const char *facility, const char *text)
{
    if (c->options.log)
        kai_log_put(c->rk, level, facility, text);
}

void kai_consumer_log_error(ka_consumer *c, const char *facility, rd_kafka_error_t *error)
{
    if (error)
        kai_consumer_log(c, LOG_ERR, facility, rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
}

const char *ka_consumer_topic_name(ka_consumer *c, int64_t number)
{
    const char *name;

    pthread_mutex_lock(&c->lock);
    name = c->topics[number]->name;
    pthread_mutex_unlock(&c->lock);
    return name;
}

int64_t ka_consumer_assignment(ka_consumer *c, ka_partition *out, int64_t size)
{
    const partition *p;
    int64_t n = 0;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, 0);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0)); n++)
        if (n < size)
            out[n] =
                (ka_partition){.topic = p->topic, .partition = p->number, .offset = p->position};
    pthread_mutex_unlock(&c->lock);
    return n;
}

int ka_consumer_metrics(ka_consumer *c, ka_consumer_stats *stats)
{
    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock);
    stats->handed_out = c->handed_out + word_load(&c->block.handed);
    stats->purged = c->purged;
    kai_block_note(c);
    pthread_mutex_unlock(&c->lock);
    stats->received = (int64_t)atomic_load(&c->received);
    stats->prefetched_bytes = kai_held_bytes(c);
    if (atomic_load(&c->state) == CLOSED_DOWN) { /* what was still held will not be handed out */
        stats->purged = stats->received - stats->handed_out;
        stats->prefetched_bytes = 0;
    }
    stats->prefetched = stats->received - stats->handed_out - stats->purged;
    kai_hist_summary(&c->arrival, &stats->arrival);
    kai_hist_summary(&c->ring_latency, &stats->ring);
    kai_hist_summary(&c->block_latency, &stats->block);
    kai_hist_summary(&c->age, &stats->age);
    return KA_OK;
}

int ka_consumer_trouble(ka_consumer *c, ka_error *err)
{
    return kai_consumer_is_foreign(c) ? KA_FORKED : kai_trouble_last(&c->trouble, err);
}

int ka_consumer_close(ka_consumer *c, int store_last)
{
    int open;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock); /* so that no command is queued behind the worker's last look */
    open = atomic_load(&c->state) == OPEN;
    if (open) {
        atomic_store(&c->store_last, store_last);
        atomic_store(&c->state, CLOSING);
        kai_block_invalidate(c);
    }
    pthread_mutex_unlock(&c->lock);
    kai_wake_notify(&c->worker.wake);
    kai_wake_notify(&c->ready);
    return open ? KA_OK : KA_CLOSED;
}

static int64_t check_closed(void *self, int64_t arg)
{
    (void)arg;
    return atomic_load(&((ka_consumer *)self)->state) == CLOSED_DOWN ? KA_OK : KA_EMPTY;
}

int ka_wait_consumer_closed(ka_consumer *c, int64_t timeout_us)
{
    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    return (int)kai_wait_until(&c->ready, timeout_us, check_closed, c, 0);
}

int ka_try_consumer_closed(ka_consumer *c)
{
    return ka_wait_consumer_closed(c, 0);
}

void ka_consumer_hang(ka_consumer *c, ka_bell *bell)
{
    if (!kai_consumer_is_foreign(c))
        kai_wake_hang(&c->ready, bell);
}

static void free_topic(topic *t)
{
    for (int32_t i = 0; i < t->size; i++)
        free(t->partitions[i]);
    free(t->partitions);
    free(t->name);
    free(t);
}

void kai_consumer_unreference(ka_consumer *c)
{
    uint64_t at;
    entry *e;

    if (atomic_fetch_sub(&c->references, 1) > 1)
        return;
    at = kai_ring_head(&c->ring);
    while (c->ring.memory && (e = kai_ring_next(&c->ring, &at)))
        free(e->external);
    kai_ring_fini(&c->ring);
    for (int64_t i = 0; i < c->topic_count; i++)
        free_topic(c->topics[i]);
    free(c->topics);
    for (int64_t i = 0; i < c->wanted_count; i++)
        free(c->wanted[i].name);
    free(c->wanted);
    free(c->group);
    kai_rebalances_free(c);
    if (c->subscription)
        rd_kafka_topic_partition_list_destroy(c->subscription);
    kai_control_fini(&c->control);
    kai_trouble_fini(&c->trouble);
    kai_sasl_fini(&c->sasl);
    kai_wake_fini(&c->worker.wake);
    kai_wake_fini(&c->ready);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void ka_consumer_release(ka_consumer *c)
{
    if (kai_consumer_is_foreign(c))
        return;
    ka_consumer_close(c, 0);
    kai_consumer_unreference(c);
}

/* Runs on librdkafka's threads when something is there. */
static void on_event(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    kai_wake_notify(&((ka_consumer *)opaque)->worker.wake);
}

/* Runs on the worker. */
static void on_token_wanted(rd_kafka_t *rk, const char *config, void *opaque)
{
    (void)rk, (void)config;
    kai_sasl_ask(&((ka_consumer *)opaque)->sasl);
}

/* What room() lets in, the last message on top, errors, and the gap at the end of a lap. */
static uint64_t ring_capacity(const ka_consumer_options *options)
{
    return (uint64_t)options->prefetch_bytes +
           (uint64_t)options->prefetch_messages * kai_ring_entry_size(sizeof(entry) + 15) +
           2 * kai_ring_entry_size(sizeof(entry) + KAI_MAX_INLINE) +
           KAI_MAX_FAILURES * kai_ring_entry_size(sizeof(entry) + sizeof(ka_error));
}

/* Of a consumer whose worker never ran; *err says why. */
static ka_consumer *give_up(ka_consumer *c)
{
    atomic_store(&c->references, 1);
    kai_consumer_unreference(c);
    return NULL;
}

static char *group_of(const ka_conf *conf)
{
    int64_t size = ka_conf_get(conf, "group.id", NULL, 0) + 1;
    char *name = size > 0 ? malloc((size_t)size) : NULL;

    if (name)
        ka_conf_get(conf, "group.id", name, size);
    return name;
}

static ka_consumer *new_consumer(const ka_conf *conf, const ka_consumer_options *options)
{
    ka_consumer *c = aligned_alloc(KAI_CACHE_LINE, (sizeof *c + KAI_CACHE_LINE - 1) &
                                                       ~(size_t)(KAI_CACHE_LINE - 1));

    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    c->options = *options;
    c->refresh_ns = kai_conf_number(conf, "topic.metadata.refresh.interval.ms", 300000) * 1000000;
    if (c->refresh_ns <= 0)
        c->refresh_ns = KAI_FOREVER / 2; /* the application asked for no refresh */
    c->max_poll_ns = kai_conf_number(conf, "max.poll.interval.ms", 300000) * 1000000;
    c->in_steps = kai_conf_is(conf, "group.protocol", "consumer");
    c->keeps_quiet = !c->in_steps && ka_conf_get(conf, "group.instance.id", NULL, 0) > 0;
    c->seek_ns = KAI_FOREVER;
    c->largest = KAI_MAX_INLINE;
    c->process = atomic_load(&kai_process);
    atomic_init(&c->references, 2);
    c->last_command = &c->first_command;
    kai_trouble_init(&c->trouble);
    pthread_mutex_init(&c->lock, NULL);
    kai_wake_init(&c->ready);
    kai_wake_init(&c->worker.wake);
    c->group = group_of(conf);
    kai_control_init(&c->control, "ka-control");
    c->worker.name = "ka-consumer";
    c->worker.step = kai_consumer_step;
    c->worker.end = kai_consumer_end;
    c->worker.self = c;
    c->worker.bound = options->bound;
    c->worker.cpu = options->cpu;
    return c;
}

/* conf stays as it is, for another try. */
static rd_kafka_t *create_client(ka_consumer *c, const ka_conf *conf, ka_error *err)
{
    ka_conf own = {.rd = rd_kafka_conf_dup(conf->rd)};
    rd_kafka_t *rk;

    /* The worker sees by it that librdkafka's search for an offset is over. */
    rd_kafka_conf_set(own.rd, "enable.partition.eof", "true", NULL, 0);
    rd_kafka_conf_set_rebalance_cb(own.rd, kai_on_rebalance);
    rd_kafka_conf_set_error_cb(own.rd, kai_on_error);
    rd_kafka_conf_set_offset_commit_cb(own.rd, kai_on_commit);
    kai_trouble_watch(&own);
    kai_sasl_configure(&c->sasl, c->options.oauth, &own, on_token_wanted);
    rk = kai_conf_create(&own, RD_KAFKA_CONSUMER, c, c->options.log, NULL, err);
    rd_kafka_conf_destroy(own.rd);
    return rk;
}

ka_consumer *ka_wait_consumer_open(ka_conf *conf, const ka_consumer_options *options, ka_error *err)
{
    ka_consumer *c;
    int error;

    if (options->prefetch_messages < 1 || options->prefetch_bytes < 1) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__INVALID_ARG, "a bound of prefetch is out of range");
        return NULL;
    }
    c = kai_process_init() == 0 ? new_consumer(conf, options) : NULL;
    if (!c) {
        kai_err_memory(err, "no memory for a consumer");
        return NULL;
    }
    if (kai_ring_init(&c->ring, ring_capacity(options)) != 0) {
        kai_err_memory(err,
                       "no address space for prefetch: lower prefetch_bytes or prefetch_messages");
        return give_up(c);
    }
    if (!kai_secrets_learn(&c->trouble.secrets, conf) ||
        (options->bound && kai_control_keep_cpus(&c->control) != 0)) {
        kai_err_memory(err, "no memory for a consumer");
        return give_up(c);
    }
    c->ends = kai_conf_is(conf, "enable.partition.eof", "true");
    c->rk = create_client(c, conf, err);
    if (!c->rk)
        return give_up(c);
    rd_kafka_poll_set_consumer(c->rk);
    c->events = rd_kafka_queue_get_consumer(c->rk);
    c->messages = rd_kafka_queue_new(c->rk);
    rd_kafka_queue_cb_event_enable(c->events, on_event, c);
    rd_kafka_queue_cb_event_enable(c->messages, on_event, c);
    kai_sasl_open(&c->sasl, c->rk, &c->worker.wake, on_event, c);
    error = kai_worker_start(&c->worker);
    if (error) {
        kai_sasl_close(&c->sasl);
        rd_kafka_queue_destroy(c->events);
        rd_kafka_queue_destroy(c->messages);
        rd_kafka_destroy(c->rk);
        kai_err_worker(err, error);
        return give_up(c);
    }
    ka_conf_free(conf);
    return c;
}
