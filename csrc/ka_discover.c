/* Without a group nobody assigns partitions: the worker finds those of its topics by metadata, which
 * the control thread asks for, now and then, and at once while a topic is missing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ka_consumer.h"

enum { METADATA_TIMEOUT_MS = 1000 }; /* how long the end may have to wait for a lookup */

static const int64_t REDISCOVER_NS = 500000000; /* a topic is missing */

typedef struct {
    kai_job job;
    ka_consumer *c; /* outlives the job: the control thread is joined before the end */
} lookup_job;

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
    ka_consumer *c = ((lookup_job *)(void *)job)->c;

    free(job);
    for (int64_t i = 0; i < c->wanted_count && atomic_load(&c->state) == OPEN; i++)
        look_up(c, &c->wanted[i]);
    atomic_store(&c->lookup, LOOKUP_DONE); /* release: hands `wanted` back to the worker */
    kai_wake_notify(&c->worker.wake);
}

static void start_lookup(ka_consumer *c)
{
    lookup_job *job = kai_must(malloc(sizeof *job));

    *job = (lookup_job){.job.run = run_lookup, .c = c};
    atomic_store(&c->lookup, LOOKUP_RUNNING); /* the control thread has `wanted` now */
    if (kai_control_submit(&c->control, &job->job) != 0) {
        atomic_store(&c->lookup, LOOKUP_IDLE);
        free(job);
    }
}

/* Read the partitions that the lookup found and we do not read yet. */
static void use_lookup(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    int missing = 0;

    for (wanted *w = c->wanted; w < c->wanted + c->wanted_count; w++) {
        int64_t offset = w->started ? KA_OFFSET_BEGINNING : c->options.default_offset;
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

void kai_wanted_set(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    for (int64_t i = 0; i < c->wanted_count; i++)
        free(c->wanted[i].name);
    free(c->wanted);
    c->wanted_count = list ? list->cnt : 0;
    c->wanted = kai_must(calloc((size_t)c->wanted_count + 1, sizeof *c->wanted));
    for (int64_t i = 0; i < c->wanted_count; i++)
        c->wanted[i].name = kai_must(strdup(list->elems[i].topic));
    c->discover_ns = 0;
}
