/* What a client knows and no text may show, though its broker, or who gives its tokens, repeats it in a refusal.
 *
 * Texts of librdkafka are searched where they come in, before they are kept or queued. The copies that this
 * takes are the client's, which librdkafka keeps a copy of as long; they are overwritten when they are freed.
 */
#ifndef KA_SECRET_H
#define KA_SECRET_H

#include <pthread.h>

#include "ka.h"

typedef struct kai_secret kai_secret;

/* Any thread may call all but init and fini. */
typedef struct {
    pthread_mutex_t lock; /* a leaf; protects all below */
    kai_secret *first;    /* the last tokens, newest first, and behind them what conf has */
} kai_secrets;

void kai_secrets_init(kai_secrets *secrets);
void kai_secrets_fini(kai_secrets *secrets);
/* Take note of what conf has. Returns whether there was memory. */
int kai_secrets_learn(kai_secrets *secrets, const ka_conf *conf);
/* Take note of a token, in place of the one before the last. Returns whether there was memory. */
int kai_secrets_learn_token(kai_secrets *secrets, const char *token);
/* Put stars in place of each, in a text of librdkafka's. */
void kai_secrets_hide(kai_secrets *secrets, char *text);

#endif
