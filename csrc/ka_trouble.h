/* Why there is no connection: what librdkafka said of one last, in words that tell which of the usual mistakes it is.
 *
 * librdkafka reports failed connections as error events and as log lines, the same failure once in 30 s, and goes on
 * connecting; what waits for the cluster just runs out of time. So each client keeps the last report, for whoever
 * runs out of time to show. One of a mistake (in certificates, passwords, protocols), which waiting does not mend,
 * is also told by itself: a consumer's poll raises it, once, and a question to the cluster ends with it when no
 * broker is left.
 *
 * Events come on the worker, log lines and certificates on librdkafka's threads, questions are any thread's: all goes
 * through the lock, a leaf. The two atomics are hints, looked at again.
 */
#ifndef KA_TROUBLE_H
#define KA_TROUBLE_H

#include <pthread.h>
#include <stdatomic.h>

#include <librdkafka/rdkafka.h>

#include "ka.h"
#include "ka_secret.h"

/* The first member of each client, so that librdkafka's opaque is one. */
typedef struct {
    kai_secrets secrets;  /* with a lock of its own */
    pthread_mutex_t lock; /* protects all below but the atomics */
    ka_error error;       /* the last report */
    int cause;            /* of it, in ka_trouble.c's table */
    int unsure;
    int64_t since_ns; /* when the first report of that cause came */
    int64_t at_ns;    /* when it came; 0: none has */
    int told;         /* the cause that was told last */
    int64_t told_ns;
    char broker[256]; /* whose certificate was refused last */
    int verdict;      /* and why: OpenSSL's code */
    _Atomic int untold;
    _Atomic int answered; /* a broker has, ever */
    _Atomic int all_down; /* no broker was left, and none has answered since */
} kai_trouble;

void kai_trouble_init(kai_trouble *t);
void kai_trouble_fini(kai_trouble *t);
/* See why certificates are refused by the client that is made of conf. */
void kai_trouble_watch(ka_conf *conf);
/* An error event: *error is what it says, in our words if it is of a mistake. */
void kai_trouble_event(kai_trouble *t, rd_kafka_resp_err_t code, const char *reason,
                       ka_error *error);
/* A log line. Returns whether it tells of a mistake, in our words in text, which no event does. */
int kai_trouble_line(kai_trouble *t, const char *facility, const char *line, char *text,
                     size_t size);
/* A broker has answered. Once for each message: it writes only what changes. */
static inline void kai_trouble_over(kai_trouble *t)
{
    if (!atomic_load_explicit(&t->answered, memory_order_relaxed))
        atomic_store(&t->answered, 1);
    if (atomic_load_explicit(&t->all_down, memory_order_relaxed))
        atomic_store(&t->all_down, 0);
}
/* The last report, if it is no older than a minute: KA_OK, or KA_EMPTY. */
int kai_trouble_last(kai_trouble *t, ka_error *error);
/* Whether no broker is left and *error, a mistake, is why. */
int kai_trouble_is_final(kai_trouble *t, ka_error *error);
/* Whether *error is a mistake that was not told. */
int kai_trouble_untold(kai_trouble *t, rd_kafka_t *rk, ka_error *error);

#endif
