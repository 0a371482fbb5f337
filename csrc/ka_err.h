/* Kafka's and librdkafka's error codes as a ka_error. */
#ifndef KA_ERR_H
#define KA_ERR_H

#include <librdkafka/rdkafka.h>

#include "ka.h"

/* Fill *err (may be NULL) with what is known of code, and text if it says more. Returns
 * KA_FAILED. */
int kai_err_set(ka_error *err, rd_kafka_resp_err_t code, const char *text);

/* Put the name of what it concerns before an error of this code. */
void kai_err_name(ka_error *err, rd_kafka_resp_err_t code, const char *what, const char *name);

/* The same as kai_err_set() from librdkafka's error object, which is destroyed. NULL: KA_OK. */
int kai_err_take(ka_error *err, rd_kafka_error_t *error);

/* Whether librdkafka has logged it itself: it does so of a connection that fails, each time it has not just said
 * the same, before it reports it. Nobody needs that line twice. */
int kai_err_is_logged(rd_kafka_resp_err_t code);

/* Fill *err with a lack of memory, which the text tells of. Returns KA_FAILED. */
int kai_err_memory(ka_error *err, const char *text);

/* The same of what kai_worker_start() returned. */
int kai_err_worker(ka_error *err, int error);

#endif
