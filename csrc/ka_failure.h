/* Failed messages, kept with their payload until the application fetches them. */
#ifndef KA_FAILURE_H
#define KA_FAILURE_H

#include <pthread.h>

#include <librdkafka/rdkafka.h>

#include "ka.h"

enum { KAI_KEPT_MESSAGES = 1000, KAI_KEPT_BYTES = 4 * 1024 * 1024 };

typedef struct {
    pthread_mutex_t lock; /* protects all below; never held during a call that may wait */
    ka_failure *first, **last;
    int64_t count, bytes;
} kai_failures;

/* A message with its outcome; everything is borrowed. Headers are librdkafka's or, if NULL, a
 * block (ka_headers.h). Of a delivered one, payload and topic are left out. */
typedef struct {
    rd_kafka_resp_err_t code;
    int32_t partition;
    int64_t offset, timestamp_ms;
    const char *topic;
    const void *value, *key, *block;
    size_t value_len, key_len, block_len;
    const rd_kafka_headers_t *headers;
} kai_report;

void kai_failures_init(kai_failures *failures);
/* Copy a message; past the bounds, or without memory, nothing is kept. */
void kai_failures_keep(kai_failures *failures, const kai_report *message, double latency_s);
/* The oldest, owned by the caller: ka_failure_free(). NULL: none. */
ka_failure *kai_failures_take(kai_failures *failures);
void kai_failures_fini(kai_failures *failures);

#endif
