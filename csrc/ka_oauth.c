#include "ka_oauth.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ka_conf.h"
#include "ka_trouble.h"
#include "ka_worker.h"

/* What the application answered, in one piece of memory; owned by whoever holds it. */
typedef struct {
    int64_t expires_ms;
    const char *token; /* NULL: it failed, and text says why */
    const char *text;  /* or the principal */
    size_t parts;
    const char *extensions[]; /* behind them, all texts */
} answer;

static answer no_memory = {.text = "out of memory"};

static void discard(answer *a)
{
    if (a != &no_memory)
        free(a);
}

struct ka_oauth {
    _Atomic int references; /* the application's, the client's */
    uint32_t process;
    kai_wake wanted;      /* for who answers */
    _Atomic int asked;    /* librdkafka wants a token, and nobody has taken note yet */
    _Atomic int closed;   /* nothing will be asked any more */
    _Atomic int answered; /* there is one in the mailbox */
    pthread_mutex_t lock; /* protects the two below */
    answer *mailbox;
    kai_wake *worker;   /* NULL: before the client is there, or closed */
    int64_t expires_ms; /* worker only: of the token that librdkafka has */
};

static int is_foreign(const ka_oauth *o)
{
    return o->process != atomic_load_explicit(&kai_process, memory_order_relaxed);
}

ka_oauth *ka_oauth_new(void)
{
    ka_oauth *o = calloc(1, sizeof *o);

    if (!o || kai_process_init() != 0) {
        free(o);
        return NULL;
    }
    o->process = atomic_load(&kai_process);
    atomic_init(&o->references, 1);
    kai_wake_init(&o->wanted);
    pthread_mutex_init(&o->lock, NULL);
    return o;
}

static void unreference(ka_oauth *o)
{
    if (atomic_fetch_sub(&o->references, 1) > 1)
        return;
    discard(o->mailbox);
    kai_wake_fini(&o->wanted);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

void ka_oauth_release(ka_oauth *o)
{
    if (!is_foreign(o))
        unreference(o);
}

void ka_oauth_hang(ka_oauth *o, ka_bell *bell)
{
    if (!is_foreign(o))
        kai_wake_hang(&o->wanted, bell);
}

static int64_t check_asked(void *self, int64_t arg)
{
    ka_oauth *o = self;

    (void)arg;
    if (atomic_load(&o->closed))
        return KA_CLOSED;
    return atomic_exchange(&o->asked, 0) ? KA_OK : KA_EMPTY;
}

int ka_wait_oauth(ka_oauth *o, int64_t timeout_us)
{
    if (is_foreign(o))
        return KA_FORKED;
    return (int)kai_wait_until(&o->wanted, timeout_us, check_asked, o, 0);
}

int ka_try_oauth(ka_oauth *o)
{
    return ka_wait_oauth(o, 0);
}

/* Takes a over. */
static int post(ka_oauth *o, answer *a)
{
    int status = KA_CLOSED;

    pthread_mutex_lock(&o->lock);
    if (o->worker) {
        answer *before = o->mailbox;
        o->mailbox = a;
        a = before; /* the latest counts */
        atomic_store(&o->answered, 1);
        kai_wake_notify(o->worker); /* under the lock: closing takes it before the worker may go */
        status = KA_OK;
    }
    pthread_mutex_unlock(&o->lock);
    discard(a);
    return status;
}

static const char *append(char **to, const char *text, size_t len)
{
    const char *at = memcpy(*to, text, len);

    *to += len;
    return at;
}

static size_t count_texts(const char *texts, size_t len)
{
    size_t count = 0;

    for (size_t i = 0; i < len; i++)
        count += texts[i] == '\0';
    return count;
}

/* no_memory where there is none: librdkafka would wait for an answer for ever. */
static answer *new_answer(const char *token, const char *text, const char *extensions, size_t len)
{
    size_t parts = count_texts(extensions, len), token_len = token ? strlen(token) + 1 : 0,
           text_len = strlen(text) + 1;
    answer *a = malloc(sizeof *a + parts * sizeof *a->extensions + token_len + text_len + len);
    char *to;

    if (!a)
        return &no_memory;
    to = (char *)(a->extensions + parts);
    a->parts = parts;
    a->token = token ? append(&to, token, token_len) : NULL;
    a->text = append(&to, text, text_len);
    for (size_t i = 0; i < parts; i++) {
        a->extensions[i] = append(&to, extensions, strlen(extensions) + 1);
        extensions += strlen(extensions) + 1;
    }
    return a;
}

int ka_oauth_give(ka_oauth *o, const char *token, int64_t expires_ms, const char *principal,
                  const char *extensions, int64_t extensions_len)
{
    answer *a;

    if (is_foreign(o))
        return KA_FORKED;
    a = new_answer(token, principal, extensions, (size_t)extensions_len);
    if (a != &no_memory)
        a->expires_ms = expires_ms;
    return post(o, a);
}

int ka_oauth_fail(ka_oauth *o, const char *reason)
{
    return is_foreign(o) ? KA_FORKED : post(o, new_answer(NULL, reason, NULL, 0));
}

void kai_sasl_configure(kai_sasl *sasl, ka_oauth *oauth, ka_conf *conf,
                        void (*refresh)(rd_kafka_t *rk, const char *config, void *opaque))
{
    sasl->oauth = oauth;
    if (oauth) {
        atomic_fetch_add(&oauth->references, 1);
        rd_kafka_conf_set_oauthbearer_token_refresh_cb(conf->rd, refresh);
    }
    /* Where librdkafka fetches tokens by HTTP itself, its own thread serves the queue, since that waits. */
    sasl->serves = !kai_conf_is(conf, "sasl.oauthbearer.method", "oidc");
    rd_kafka_conf_enable_sasl_queue(conf->rd, sasl->serves);
}

void kai_sasl_open(kai_sasl *sasl, rd_kafka_t *rk, kai_wake *worker,
                   void (*on_event)(rd_kafka_t *rk, void *opaque), void *opaque)
{
    if (sasl->oauth)
        sasl->oauth->worker = worker; /* which is about to start */
    sasl->queue = sasl->serves ? rd_kafka_queue_get_sasl(rk) : NULL;
    if (sasl->queue)
        rd_kafka_queue_cb_event_enable(sasl->queue, on_event, opaque);
}

void kai_sasl_ask(const kai_sasl *sasl)
{
    atomic_store(&sasl->oauth->asked, 1); /* release: partner is the exchange in check_asked() */
    kai_wake_notify(&sasl->oauth->wanted);
}

static answer *take(ka_oauth *o)
{
    answer *a;

    if (!atomic_exchange(&o->answered, 0))
        return NULL;
    pthread_mutex_lock(&o->lock);
    a = o->mailbox;
    o->mailbox = NULL;
    pthread_mutex_unlock(&o->lock);
    return a;
}

/* What librdkafka says of a token that it refuses may quote it. */
static void hand_over(ka_oauth *o, rd_kafka_t *rk, answer *a)
{
    kai_trouble *trouble = rd_kafka_opaque(rk);
    const char *reason = a->text;
    char text[512];

    if (a->token && !kai_secrets_learn_token(&trouble->secrets, a->token)) {
        reason = no_memory.text;
    } else if (a->token) {
        reason = "the token had expired when librdkafka got it, or is malformed";
        if (rd_kafka_oauthbearer_set_token(rk, a->token, a->expires_ms, a->text, a->extensions,
                                           a->parts, text,
                                           sizeof text) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            o->expires_ms = a->expires_ms;
            return;
        }
    }
    rd_kafka_oauthbearer_set_token_failure(rk, reason); /* it asks again after 10 s */
}

int kai_sasl_serve(const kai_sasl *sasl, rd_kafka_t *rk)
{
    int served = sasl->queue ? rd_kafka_queue_poll_callback(sasl->queue, 0) : 0;
    answer *a = sasl->oauth ? take(sasl->oauth) : NULL;

    if (a)
        hand_over(sasl->oauth, rk, a);
    discard(a);
    return served || a;
}

int kai_sasl_has_token(const kai_sasl *sasl)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return sasl->oauth &&
           sasl->oauth->expires_ms > (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void close_mailbox(ka_oauth *o)
{
    pthread_mutex_lock(&o->lock);
    discard(o->mailbox);
    o->mailbox = NULL;
    o->worker = NULL;
    pthread_mutex_unlock(&o->lock);
    atomic_store(&o->closed, 1);
    kai_wake_notify(&o->wanted);
}

void kai_sasl_close(kai_sasl *sasl)
{
    if (sasl->oauth)
        close_mailbox(sasl->oauth);
    if (sasl->queue) {
        rd_kafka_queue_cb_event_enable(sasl->queue, NULL, NULL);
        rd_kafka_queue_destroy(sasl->queue);
    }
    sasl->queue = NULL;
}

void kai_sasl_fini(kai_sasl *sasl)
{
    if (sasl->oauth)
        unreference(sasl->oauth);
}
