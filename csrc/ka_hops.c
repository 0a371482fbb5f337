/* The producer: where the time of a message goes.
 *
 * Given, on the worker; sent and acknowledged, as librdkafka's broker threads see it; counted, on the worker
 * again. librdkafka tells how long each request was on its way, and right after that, on the same thread,
 * which messages were in it. */
#include "ka_producer.h"

enum { PRODUCE = 0 }; /* Kafka's ApiKey */

/* The last answer to a produce request that this thread has received. A broker's thread belongs to one client. */
static _Thread_local struct {
    int64_t arrived_ns;
    float wire_ns;
} answer;

static rd_kafka_resp_err_t on_response(rd_kafka_t *rk, int socket, const char *broker,
                                       int32_t broker_id, int16_t api, int16_t version, int32_t id,
                                       size_t size, int64_t round_trip_us, rd_kafka_resp_err_t code,
                                       void *opaque)
{
    (void)rk, (void)socket, (void)broker, (void)broker_id, (void)version, (void)id, (void)size,
        (void)opaque;
    if (api == PRODUCE && !code) {
        answer.arrived_ns = kai_now_ns();
        answer.wire_ns = (float)round_trip_us * 1e3f;
    }
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Before the report is queued, whose lock orders this before the worker's reading. */
static rd_kafka_resp_err_t on_acknowledgement(rd_kafka_t *rk, rd_kafka_message_t *m, void *opaque)
{
    flight *f = m->_private;
    int64_t now;

    (void)rk, (void)opaque;
    if (m->err) /* it may never have been sent */
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    now = answer.arrived_ns ? answer.arrived_ns : kai_now_ns(); /* acks=0: there is no answer */
    f->acked_ns = (float)(now - f->origin.accepted_ns);
    f->wire_ns = answer.wire_ns;
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

rd_kafka_resp_err_t kai_hops_watch(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *opaque,
                                   char *text, /* NOLINT(readability-non-const-parameter) */
                                   size_t size)
{
    (void)conf, (void)text, (void)size;
    rd_kafka_interceptor_add_on_response_received(rk, "kafka_async", on_response, opaque);
    return rd_kafka_interceptor_add_on_acknowledgement(rk, "kafka_async", on_acknowledgement,
                                                       opaque);
}

void kai_hops_note(ka_producer *p, const flight *f, int64_t now)
{
    int64_t whole = now - f->origin.accepted_ns;

    kai_hist_note(&p->queue_latency, (int64_t)(f->acked_ns - f->given_ns - f->wire_ns));
    kai_hist_note(&p->wire_latency, (int64_t)f->wire_ns);
    kai_hist_note(&p->report_latency, whole - (int64_t)f->acked_ns);
    kai_hist_note(&p->ack_latency, whole);
}
