/* One bounded ring for the process. librdkafka's threads write, one logging thread of the
 * application reads; a full ring loses the new line and counts it. */
#include "ka_log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "ka.h"
#include "ka_ring.h"
#include "ka_trouble.h"
#include "ka_wake.h"

enum { RING_BYTES = 1024 * 1024 };

static struct {
    kai_ring ring;
    kai_wake wake;
    _Atomic int64_t lost;
    _Atomic int closed;
    _Atomic int ready;      /* the ring is there */
    int registered;         /* the fork handler; under reader */
    pthread_mutex_t reader; /* one reader at a time; the making of the ring */
} logs = {.wake = KAI_WAKE_STATIC, .reader = PTHREAD_MUTEX_INITIALIZER};

/* The child of a fork starts with an empty ring: a thread of the parent may have been in the
 * middle of an entry. The parent's memory is left alone, as librdkafka's copies are. */
static void reset(void)
{
    atomic_store(&logs.ready, 0);
    kai_wake_init(&logs.wake);
    atomic_store(&logs.lost, 0);
    atomic_store(&logs.closed, 0);
    pthread_mutex_init(&logs.reader, NULL);
}

/* Under reader. Returns whether there was memory. */
static int make(void)
{
    if (!logs.registered && pthread_atfork(NULL, NULL, reset) != 0)
        return 0;
    logs.registered = 1;
    return kai_ring_init(&logs.ring, RING_BYTES) == 0;
}

/* Whether the ring is there; it is made when it is needed first, or else the next time. */
static int is_ready(void)
{
    int ready = atomic_load(&logs.ready); /* acquire: the ring; partner: the store below */

    if (ready)
        return 1;
    pthread_mutex_lock(&logs.reader);
    ready = atomic_load(&logs.ready) || make();
    atomic_store(&logs.ready, ready);
    pthread_mutex_unlock(&logs.reader);
    return ready;
}

static void put(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    ka_log_line line;
    size_t len;
    void *entry;

    line.level = level;
    snprintf(line.name, sizeof line.name, "%s %s", rk ? rd_kafka_name(rk) : "rdkafka", facility);
    snprintf(line.text, sizeof line.text, "%s", text);
    len = offsetof(ka_log_line, text) + strlen(line.text) + 1;
    entry = is_ready() ? kai_ring_reserve(&logs.ring, len) : NULL;
    if (!entry) {
        atomic_fetch_add(&logs.lost, 1);
        return;
    }
    memcpy(entry, &line, len);
    kai_ring_commit(entry, len);
    kai_wake_notify(&logs.wake);
}

static kai_trouble *trouble_of(const rd_kafka_t *rk)
{
    return rk ? rd_kafka_opaque(rk) : NULL;
}

void kai_log_put(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    kai_trouble *t = trouble_of(rk);
    char shown[sizeof((ka_log_line *)0)->text], words[512];

    if (!t) {
        put(rk, level, facility, text);
        return;
    }
    snprintf(shown, sizeof shown, "%s", text);
    kai_secrets_hide(&t->secrets, shown);
    put(rk, level, facility, shown);
    if (kai_trouble_line(t, facility, shown, words, sizeof words))
        put(rk, LOG_ERR, "ERROR", words);
}

void kai_log_drop(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    kai_trouble *t = trouble_of(rk);
    char words[512];

    (void)level;
    if (t) /* what it notes of a line is librdkafka's own */
        kai_trouble_line(t, facility, text, words, sizeof words);
}

int ka_log_next(ka_log_line *line)
{
    const ka_log_line *entry;
    uint64_t pos;

    if (!is_ready())
        return KA_EMPTY;
    pthread_mutex_lock(&logs.reader);
    pos = kai_ring_head(&logs.ring);
    entry = kai_ring_next(&logs.ring, &pos);
    if (entry) {
        memcpy(line, entry, offsetof(ka_log_line, text));
        snprintf(line->text, sizeof line->text, "%s", entry->text);
        kai_ring_release(&logs.ring, pos);
    }
    pthread_mutex_unlock(&logs.reader);
    return entry ? KA_OK : KA_EMPTY;
}

int64_t ka_log_lost(void)
{
    return atomic_exchange(&logs.lost, 0);
}

static int64_t check_line(void *self, int64_t arg)
{
    uint64_t pos;

    (void)self, (void)arg;
    if (atomic_load(&logs.closed))
        return KA_CLOSED;
    if (!is_ready())
        return KA_EMPTY;
    pos = kai_ring_head(&logs.ring);
    return kai_ring_next(&logs.ring, &pos) ? KA_OK : KA_EMPTY;
}

int ka_wait_log(int64_t timeout_us)
{
    return (int)kai_wait_until(&logs.wake, timeout_us, check_line, NULL, 0);
}

void ka_log_close(void)
{
    atomic_store(&logs.closed, 1);
    kai_wake_notify(&logs.wake);
}

void ka_log_open(void)
{
    atomic_store(&logs.closed, 0);
}
