/* librdkafka's in-process mock cluster: real sockets on the loopback, its brokers on a thread of
 * librdkafka.
 *
 * Calls on the cluster are handed to that thread and wait for its answer, so they are ka_wait_*. Injected
 * errors are not: they go onto a list under a mutex that is only ever held to touch that list. */
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "ka_conf.h"
#include "ka_err.h"
#include "ka_worker.h"

#include <librdkafka/rdkafka_mock.h>

struct ka_mock {
    rd_kafka_t *rk; /* the cluster lives in a client that does nothing else */
    rd_kafka_mock_cluster_t *cluster;
    int32_t brokers;
    uint32_t process;
};

static int is_forked(const ka_mock *mock)
{
    return mock->process != atomic_load(&kai_process);
}

/* Let the cluster's thread go back to sleep after it has answered a command. On its way it throws
 * pending wake-ups away, that of a next command included, which it would then see a second later. */
static void settle(void)
{
    const struct timespec time = {.tv_nsec = 1000000};

    (void)nanosleep(&time, NULL);
}

/* Of a command for one broker; the only thing that can be wrong is its id. */
static int broker_status(rd_kafka_resp_err_t code)
{
    settle();
    return code ? KA_INVALID : KA_OK;
}

/* Its thread, which starts here, would end at the first signal that reaches it. */
static rd_kafka_mock_cluster_t *new_cluster(rd_kafka_t *rk, int32_t brokers)
{
    rd_kafka_mock_cluster_t *cluster;
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    cluster = rd_kafka_mock_cluster_new(rk, brokers);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return cluster;
}

ka_mock *ka_wait_mock_open(int32_t brokers, ka_error *err)
{
    ka_mock *mock = calloc(1, sizeof *mock);
    ka_conf *conf = ka_conf_new();

    if (!mock || !conf || kai_process_init() != 0) {
        kai_err_memory(err, "no memory for a cluster");
        ka_conf_free(conf);
        free(mock);
        return NULL;
    }
    mock->process = atomic_load(&kai_process);
    mock->brokers = brokers;
    /* No log: it would warn that it has no bootstrap servers. */
    mock->rk = kai_conf_create(conf, RD_KAFKA_PRODUCER, NULL, 0, NULL, err);
    ka_conf_free(conf);
    if (!mock->rk) {
        free(mock);
        return NULL;
    }
    mock->cluster = new_cluster(mock->rk, brokers);
    if (!mock->cluster) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, "the mock cluster did not start");
        rd_kafka_destroy(mock->rk);
        free(mock);
        return NULL;
    }
    return mock;
}

const char *ka_mock_bootstrap_servers(const ka_mock *mock)
{
    return rd_kafka_mock_cluster_bootstraps(mock->cluster);
}

/* librdkafka 2.0.2 draws leaders by lot, and a test that takes a broker down must know whose partitions
 * it takes along. */
static rd_kafka_resp_err_t spread_leaders(ka_mock *mock, const char *topic, int32_t partitions)
{
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int32_t i = 0; i < partitions && mock->brokers > 1 && !code; i++) {
        code = rd_kafka_mock_partition_set_leader(mock->cluster, topic, i, i % mock->brokers + 1);
        settle();
    }
    return code;
}

int ka_wait_mock_create_topic(ka_mock *mock, const char *name, int32_t partitions, ka_error *err)
{
    rd_kafka_resp_err_t code;

    if (is_forked(mock))
        return KA_FORKED;
    code = rd_kafka_mock_topic_create(mock->cluster, name, partitions, 1);
    settle();
    if (!code)
        code = spread_leaders(mock, name, partitions);
    return code ? kai_err_set(err, code, NULL) : KA_OK;
}

int ka_mock_error(int64_t index, ka_error *err)
{
    const struct rd_kafka_err_desc *table;
    size_t count;

    rd_kafka_get_err_descs(&table, &count);
    if (index < 0 || (size_t)index >= count)
        return KA_EMPTY;
    if (!table[index].desc)
        return KA_INVALID;
    kai_err_set(err, table[index].code, NULL);
    return KA_OK;
}

int ka_mock_fail(ka_mock *mock, int32_t api, const int32_t *errors, int64_t count)
{
    /* An enum with negative values is an int. */
    _Static_assert(sizeof(rd_kafka_resp_err_t) == sizeof(int32_t),
                   "errors are passed on as they are");

    if (is_forked(mock))
        return KA_FORKED;
    if (api < 0 || api > INT16_MAX || count < 0)
        return KA_INVALID;
    if (count > 0)
        rd_kafka_mock_push_request_errors_array(mock->cluster, (int16_t)api, (size_t)count,
                                                (const rd_kafka_resp_err_t *)errors);
    return KA_OK;
}

int ka_wait_mock_broker(ka_mock *mock, int32_t broker, int up)
{
    if (is_forked(mock))
        return KA_FORKED;
    if (broker < 1) /* librdkafka takes -1 for all of them */
        return KA_INVALID;
    return broker_status(up ? rd_kafka_mock_broker_set_up(mock->cluster, broker)
                            : rd_kafka_mock_broker_set_down(mock->cluster, broker));
}

int ka_wait_mock_round_trip(ka_mock *mock, int32_t broker, int32_t round_trip_ms)
{
    if (is_forked(mock))
        return KA_FORKED;
    if (broker < 1 || round_trip_ms < 0)
        return KA_INVALID;
    return broker_status(rd_kafka_mock_broker_set_rtt(mock->cluster, broker, round_trip_ms));
}

void ka_wait_mock_close(ka_mock *mock)
{
    if (is_forked(mock))
        return;
    rd_kafka_mock_cluster_destroy(mock->cluster);
    rd_kafka_destroy(mock->rk);
    free(mock);
}
