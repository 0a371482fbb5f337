#include "ka_err.h"

#include <stdio.h>
#include <string.h>

#include "ka_worker.h"

/* Codes after which the same call may succeed: Kafka's own retriable ones and, of librdkafka's,
 * those that speak of a state that passes. */
static int is_retriable(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR_INVALID_MSG: /* corrupted on the way */
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
    case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
    case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS:
    case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
    case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
    case RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS:
    case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
    case RD_KAFKA_RESP_ERR_FETCH_SESSION_ID_NOT_FOUND:
    case RD_KAFKA_RESP_ERR_INVALID_FETCH_SESSION_EPOCH:
    case RD_KAFKA_RESP_ERR_LISTENER_NOT_FOUND:
    case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
    case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
    case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_ELIGIBLE_LEADERS_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT:
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
    case RD_KAFKA_RESP_ERR__ISR_INSUFF:
    case RD_KAFKA_RESP_ERR__WAIT_COORD:
    case RD_KAFKA_RESP_ERR__WAIT_CACHE:
    case RD_KAFKA_RESP_ERR__IN_PROGRESS:
    case RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR__NO_OFFSET:
    case RD_KAFKA_RESP_ERR__RETRY:
        return 1;
    default:
        return 0;
    }
}

int kai_err_is_logged(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT ||
           code == RD_KAFKA_RESP_ERR__RESOLVE || code == RD_KAFKA_RESP_ERR__SSL;
}

int kai_err_set(ka_error *err, rd_kafka_resp_err_t code, const char *text)
{
    if (!err)
        return KA_FAILED;
    err->code = code;
    err->retriable = is_retriable(code);
    err->fatal = code == RD_KAFKA_RESP_ERR__FATAL || code == RD_KAFKA_RESP_ERR__FENCED;
    err->requires_abort = 0;
    snprintf(err->name, sizeof err->name, "%s", rd_kafka_err2name(code));
    snprintf(err->text, sizeof err->text, "%s", text && *text ? text : rd_kafka_err2str(code));
    return KA_FAILED;
}

void kai_err_name(ka_error *err, rd_kafka_resp_err_t code, const char *what, const char *name)
{
    char text[sizeof err->text];

    if (err->code != (int32_t)code || !name)
        return;
    memcpy(text, err->text, sizeof text);
    snprintf(err->text, sizeof err->text, "%s '%.200s': %.280s", what, name, text);
}

int kai_err_memory(ka_error *err, const char *text)
{
    *err = (ka_error){.code = KA_NOMEM, .retriable = 1, .name = "NOMEM"};
    snprintf(err->text, sizeof err->text, "%s", text);
    return KA_FAILED;
}

int kai_err_worker(ka_error *err, int error)
{
    return kai_is_shortage(error)
               ? kai_err_memory(err, kai_worker_refusal(error))
               : kai_err_set(err, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, kai_worker_refusal(error));
}

int kai_err_take(ka_error *err, rd_kafka_error_t *error)
{
    if (!error)
        return KA_OK;
    kai_err_set(err, rd_kafka_error_code(error), rd_kafka_error_string(error));
    if (err) {
        /* It knows better than the code alone: only one of these is ever set. */
        err->retriable = rd_kafka_error_is_retriable(error);
        err->fatal = rd_kafka_error_is_fatal(error);
        err->requires_abort = rd_kafka_error_txn_requires_abort(error);
    }
    rd_kafka_error_destroy(error);
    return KA_FAILED;
}

void ka_error_describe(int32_t code, ka_error *err)
{
    kai_err_set(err, (rd_kafka_resp_err_t)code, NULL);
}

const char *ka_librdkafka_version(void)
{
    return rd_kafka_version_str();
}

int32_t ka_librdkafka_version_linked(void)
{
    return rd_kafka_version();
}

int32_t ka_librdkafka_version_compiled(void)
{
    return RD_KAFKA_VERSION;
}
