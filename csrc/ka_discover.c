/* Without a group nobody assigns partitions: the worker finds those of its topics by metadata, which
 * the control thread asks for, now and then, and at once while a topic is missing. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ka_consumer.h"

enum { METADATA_TIMEOUT_MS = 1000 }; /* how long the end may have to wait for a lookup */

static const int64_t REDISCOVER_NS = 500000000; /* a topic is missing */

static void look_up(ka_consumer *c, wanted *w)
{
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(c->rk, w->name, NULL);
    const struct rd_kafka_metadata *metadata;

    w->found = -1;
    w->error = rkt ? rd_kafka_metadata(c->rk, 0, rkt, &metadata, METADATA_TIMEOUT_MS)
                   : RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    if (!w->error) {
        w->error = metadata->topics[0].err;
        if (!w->error)
            w->found = metadata->topics[0].partition_cnt;
        rd_kafka_metadata_destroy(metadata);
    }
    if (rkt)
        rd_kafka_topic_destroy(rkt);
}

/* Runs on the control thread. */
static void run_lookup(kai_job *job)
{
    ka_consumer *c = (ka_consumer *)(void *)((char *)job - offsetof(ka_consumer, look));

    for (int64_t i = 0; i < c->wanted_count && atomic_load(&c->state) == OPEN; i++)
        look_up(c, &c->wanted[i]);
    atomic_store(&c->lookup, LOOKUP_DONE); /* release: hands `wanted` back to the worker */
    kai_wake_notify(&c->worker.wake);
}

static void start_lookup(ka_consumer *c)
{
    c->look.run = run_lookup;
    atomic_store(&c->lookup, LOOKUP_RUNNING); /* the control thread has `wanted` now */
    if (kai_control_submit(&c->control, &c->look) != 0) {
        atomic_store(&c->lookup, LOOKUP_IDLE);
        c->discover_ns = kai_now_ns() + REDISCOVER_NS;
    }
}

/* Whether there is memory for those that the lookup found. */
static int is_prepared(ka_consumer *c, const wanted *w)
{
    topic *t = w->found > w->known ? kai_topic_find(c, w->name) : NULL;

    for (int32_t number = w->known; number < w->found; number++)
        if (!t || !kai_partition_find(c, t, number))
            return 0;
    return 1;
}

/* Read the partitions that the lookup found and we do not read yet. */
static void use_lookup(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    int missing = 0;

    for (wanted *w = c->wanted; w < c->wanted + c->wanted_count; w++) {
        int64_t offset = w->started ? KA_OFFSET_BEGINNING : c->options.default_offset;
        if (!is_prepared(c, w)) {
            missing = 1;
            continue;
        }
        for (; w->known < w->found; w->known++)
            rd_kafka_topic_partition_list_add(list, w->name, w->known)->offset = offset;
        w->started |= w->found > 0;
        missing |= w->found < 0;
        if (w->error && (int32_t)w->error != w->reported) {
            char text[512];
            snprintf(text, sizeof text, "topic \"%s\": %s", w->name, rd_kafka_err2str(w->error));
            kai_report(c, NULL, KA_OFFSET_NONE, w->error, text);
        }
        w->reported = w->error;
    }
    if (list->cnt) {
        kai_partitions_adopt(c, list);
        kai_consumer_log_error(c, "ASSIGN", rd_kafka_incremental_assign(c->rk, list));
    }
    rd_kafka_topic_partition_list_destroy(list);
    c->discover_ns = kai_now_ns() + (missing ? REDISCOVER_NS : c->refresh_ns);
}

int kai_discover(ka_consumer *c)
{
    switch (atomic_load(&c->lookup)) {
    case LOOKUP_DONE: /* acquire: partner is run_lookup() */
        atomic_store(&c->lookup, LOOKUP_IDLE);
        use_lookup(c);
        return 1;
    case LOOKUP_IDLE:
        if (c->wanted_count && kai_now_ns() >= c->discover_ns)
            start_lookup(c);
        return 0;
    default:
        return 0;
    }
}

static void free_wanted(wanted *topics, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        free(topics[i].name);
    free(topics);
}

static wanted *make_wanted(const rd_kafka_topic_partition_list_t *list)
{
    wanted *topics = calloc((size_t)list->cnt + 1, sizeof *topics);

    for (int i = 0; topics && i < list->cnt; i++)
        if (!(topics[i].name = strdup(list->elems[i].topic))) {
            free_wanted(topics, i);
            return NULL;
        }
    return topics;
}

int kai_wanted_set(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    wanted *topics = list ? make_wanted(list) : NULL;

    if (list && !topics)
        return 0;
    free_wanted(c->wanted, c->wanted_count);
    c->wanted = topics;
    c->wanted_count = list ? list->cnt : 0;
    c->discover_ns = 0;
    return 1;
}
