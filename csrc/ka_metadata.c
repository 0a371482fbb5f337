/* The producer's metadata: numbers of partitions, and connections before the first message. */
#include <string.h>
#include <time.h>

#include "ka_err.h"
#include "ka_producer.h"

enum { MISSING_RETRY_NS = 50000000, REFRESH_US = 500000 };

static const int64_t MISSING_TOPIC_NS = 1000000000; /* how long a topic may take to appear */

/* librdkafka prepares the partitions of topics that are in use. */
static int open_topic(ka_producer *p, call *c)
{
    kai_topic_open(p, c->topic);
    return 1;
}

static rd_kafka_resp_err_t count_topic(const struct rd_kafka_metadata_topic *found, topic *t)
{
    if (!found->err && found->partition_cnt > 0)
        atomic_store(&t->partitions, found->partition_cnt);
    return found->err;
}

/* One request to the leader of each partition opens the connection that messages will use. */
static rd_kafka_resp_err_t connect_leaders(ka_producer *p, const topic *t,
                                           const struct rd_kafka_metadata_topic *found,
                                           int64_t deadline_ns)
{
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int i = 0; i < found->partition_cnt && !code; i++) {
        const struct rd_kafka_metadata_partition *partition = &found->partitions[i];
        int64_t low, high, left_ms = (deadline_ns - kai_now_ns()) / 1000000;
        int known = 0;

        for (int j = 0; j < i && !known; j++)
            known = found->partitions[j].leader == partition->leader;
        if (!known && partition->leader >= 0)
            code = rd_kafka_query_watermark_offsets(p->rk, t->name, partition->id, &low, &high,
                                                    left_ms > 1 ? (int)left_ms : 1);
    }
    return code;
}

/* A topic that is being created is not there yet, or has no leader. */
static int is_coming(const call *c, rd_kafka_resp_err_t code)
{
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return kai_now_ns() < c->asked_ns + MISSING_TOPIC_NS;
    return code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
}

static int run_partitions(call *c, int timeout_ms, ka_error *error)
{
    ka_producer *p = c->p;
    topic *t = kai_topic_at(p, c->topic);
    int64_t until = kai_now_ns() + (int64_t)timeout_ms * 1000000;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code;

    if (!t->rkt) /* no topic can have such a name */
        return kai_err_set(error, RD_KAFKA_RESP_ERR__INVALID_ARG, NULL);
    code = rd_kafka_metadata(p->rk, 0, t->rkt, &metadata, timeout_ms > 0 ? timeout_ms : 1);
    if (!code) {
        code = count_topic(&metadata->topics[0], t);
        if (!code && c->connect)
            code = connect_leaders(p, t, &metadata->topics[0], until);
        c->value = metadata->topics[0].partition_cnt;
        rd_kafka_metadata_destroy(metadata);
    }
    if (is_coming(c, code)) {
        nanosleep(&(struct timespec){.tv_nsec = MISSING_RETRY_NS}, NULL);
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    /* Without a connection librdkafka knows it before the time is over. */
    if (code == RD_KAFKA_RESP_ERR__TRANSPORT)
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    return code ? kai_err_set(error, code, NULL) : KA_OK;
}

ka_command *ka_producer_partitions(ka_producer *p, int32_t topic_number, int connect,
                                   int64_t timeout_us)
{
    call *c = kai_call_new(p, timeout_us, run_partitions);

    if (!c)
        return NULL;
    c->is_ready = open_topic;
    c->topic = topic_number;
    c->connect = connect;
    c->begins_anew = 1;
    c->ends_early = 1;
    return kai_call_submit(p, c);
}

static void store_count(ka_producer *p, const struct rd_kafka_metadata_topic *found)
{
    for (int32_t i = 0; i < atomic_load(&p->topics); i++)
        if (strcmp(kai_topic_at(p, i)->name, found->topic) == 0)
            count_topic(found, kai_topic_at(p, i));
}

static int run_refresh(call *c, int timeout_ms, ka_error *error)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code = rd_kafka_metadata(c->p->rk, 0, NULL, &metadata, timeout_ms);

    if (code)
        return kai_err_set(error, code, NULL);
    for (int i = 0; i < metadata->topic_cnt; i++)
        store_count(c->p, &metadata->topics[i]);
    rd_kafka_metadata_destroy(metadata);
    return KA_OK;
}

void kai_refresh_partitions(ka_producer *p)
{
    kai_call_background(p, kai_call_new(p, REFRESH_US, run_refresh));
}
