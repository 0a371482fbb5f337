/* librdkafka's in-process mock cluster: real sockets on the loopback, its brokers on a thread of
 * librdkafka. */
#include <stdlib.h>

#include "ka_conf.h"
#include "ka_err.h"
#include "ka_worker.h"

#include <librdkafka/rdkafka_mock.h>

struct ka_mock {
    rd_kafka_t *rk; /* the cluster lives in a client that does nothing else */
    rd_kafka_mock_cluster_t *cluster;
    uint32_t process;
};

ka_mock *ka_wait_mock_open(int32_t brokers, ka_error *err)
{
    ka_mock *mock = calloc(1, sizeof *mock);
    ka_conf *conf = ka_conf_new();

    if (!mock || !conf) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, NULL);
        ka_conf_free(conf);
        free(mock);
        return NULL;
    }
    kai_process_init();
    mock->process = atomic_load(&kai_process);
    /* No log: it would warn that it has no bootstrap servers. */
    mock->rk = kai_conf_create(conf, RD_KAFKA_PRODUCER, mock, 0, err);
    if (!mock->rk) {
        ka_conf_free(conf);
        free(mock);
        return NULL;
    }
    mock->cluster = rd_kafka_mock_cluster_new(mock->rk, brokers);
    if (!mock->cluster) {
        kai_err_set(err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, "the mock cluster did not start");
        ka_wait_mock_close(mock);
        return NULL;
    }
    return mock;
}

const char *ka_mock_bootstrap_servers(const ka_mock *mock)
{
    return rd_kafka_mock_cluster_bootstraps(mock->cluster);
}

int ka_wait_mock_create_topic(ka_mock *mock, const char *name, int32_t partitions, ka_error *err)
{
    rd_kafka_resp_err_t code = rd_kafka_mock_topic_create(mock->cluster, name, partitions, 1);

    return code ? kai_err_set(err, code, NULL) : KA_OK;
}

void ka_wait_mock_close(ka_mock *mock)
{
    if (mock->process != atomic_load(&kai_process))
        return;
    if (mock->cluster)
        rd_kafka_mock_cluster_destroy(mock->cluster);
    rd_kafka_destroy(mock->rk);
    free(mock);
}
