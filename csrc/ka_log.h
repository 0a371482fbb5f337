/* librdkafka's log lines, from its threads to whoever calls ka_log_next(). */
#ifndef KA_LOG_H
#define KA_LOG_H

#include <librdkafka/rdkafka.h>

/* Callbacks of librdkafka; they run on its threads. The opaque of the client is a kai_trouble or NULL. */
void kai_log_put(const rd_kafka_t *rk, int level, const char *facility, const char *text);
void kai_log_drop(const rd_kafka_t *rk, int level, const char *facility, const char *text);

#endif
