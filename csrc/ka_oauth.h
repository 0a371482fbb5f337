/* OAUTHBEARER: how librdkafka's wish for a token gets to the application's callback, and the token back.
 *
 * librdkafka puts its wish into a queue of its own, which the client's worker serves however full the ring is and
 * whether the application polls or not: a callback of librdkafka notes it there and wakes whoever waits in
 * ka_wait_oauth(), a thread of Python's or an event loop. The answer lies in a mailbox until the worker takes it to
 * librdkafka; so nobody else touches the client, which the worker may be about to destroy.
 *
 * The queue is also what renews librdkafka's own unsecured tokens: on a queue that is read as events, as the
 * producer's is, nothing calls the function that makes them.
 */
#ifndef KA_OAUTH_H
#define KA_OAUTH_H

#include <librdkafka/rdkafka.h>

#include "ka.h"
#include "ka_wake.h"

/* The worker's side, a part of its client. All functions run on the worker, or before it starts or after it ended. */
typedef struct {
    ka_oauth *oauth;         /* a reference; NULL: the application gives no tokens */
    rd_kafka_queue_t *queue; /* NULL: librdkafka has no use for it */
    int serves;              /* the worker serves it */
} kai_sasl;

/* Before the client is made. refresh is a callback of librdkafka; it calls kai_sasl_ask(). */
void kai_sasl_configure(kai_sasl *sasl, ka_oauth *oauth, ka_conf *conf,
                        void (*refresh)(rd_kafka_t *rk, const char *config, void *opaque));
/* Before the worker starts; on_event wakes it, and runs on librdkafka's threads. */
void kai_sasl_open(kai_sasl *sasl, rd_kafka_t *rk, kai_wake *worker,
                   void (*on_event)(rd_kafka_t *rk, void *opaque), void *opaque);
/* librdkafka wants a token. */
void kai_sasl_ask(const kai_sasl *sasl);
/* Returns whether there was something to do. */
int kai_sasl_serve(const kai_sasl *sasl, rd_kafka_t *rk);
/* Whether there is a token that has not expired. */
int kai_sasl_has_token(const kai_sasl *sasl);
/* No token is asked for or taken any more. Before the client is destroyed. */
void kai_sasl_close(kai_sasl *sasl);
/* When the client's memory is freed, and if it was never opened. */
void kai_sasl_fini(kai_sasl *sasl);

#endif
