/* A producer used from many threads at once, with the broker there and away, closed at any moment, while
 * threads are held up wherever they stand. The program counts for itself: what was accepted, what it
 * was told. */
#define _GNU_SOURCE /* pthread_setname_np */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "hold.h"
#include "ka.h"

enum {
    SENDERS = 3,
    PARTITIONS = 2,
    TOKENS = 1 << 18,
    ITEMS = 20,
    CONFIG_MS = 1500, /* for each kind of producer */
    PURGED_QUEUE = -152,
    PURGED_IN_FLIGHT = -151
};

typedef struct {
    ka_producer *p, *teller_p;
    int on_full, transactional;
    int64_t queue_messages, queue_bytes;
    _Atomic int64_t attempts, accepted, refused; /* by this program's own count */
    _Atomic int64_t accepted_tokens;
    _Atomic int64_t told, told_failed;
    _Atomic int64_t purged_by_command;
    _Atomic int64_t fetched;
    _Atomic int64_t next_token;
    _Atomic int over;                /* no more holds */
    _Atomic char wanted[TOKENS + 1]; /* accepted with that token */
    char seen[TOKENS + 1];           /* the teller's */
    _Atomic uint64_t seeds;
} run;

static run r;
static ka_mock *mock;

static uint64_t new_seed(void)
{
    return atomic_fetch_add(&r.seeds, 0x9E3779B97F4A7C15) | 1;
}

static int chance(uint64_t *seed, uint64_t one_in)
{
    return check_random(seed, one_in) == 0;
}

/* ---------------------------------------------------------------- senders */

static int64_t new_token(uint64_t *seed)
{
    int64_t token = chance(seed, 2) ? atomic_fetch_add(&r.next_token, 1) + 1 : 0;

    return token <= TOKENS ? token : 0;
}

static void count(int status, int64_t token)
{
    if (status == KA_OK) {
        atomic_fetch_add(&r.accepted, 1);
        if (token) {
            atomic_store(&r.wanted[token], 1);
            atomic_fetch_add(&r.accepted_tokens, 1);
        }
    } else if (status == KA_DROPPED) {
        CHECK(r.on_full != KA_REFUSE);
        atomic_fetch_add(&r.refused, 1);
    } else {
        CHECK(status == KA_CLOSED || status == KA_BARRED ||
              (status == KA_FULL && r.on_full == KA_REFUSE));
    }
}

/* librdkafka (2.0.2 to 2.14.2 at least) aborts the process, by an assertion on txn_req_cnt, when a
 * transaction ends while a partition is being added to it. So a transaction here has one partition, which
 * await_outcome() sees added. */
static int32_t new_partition(uint64_t *seed)
{
    if (r.transactional)
        return 0;
    return chance(seed, 3) ? (int32_t)check_random(seed, PARTITIONS) : KA_PARTITION_ANY;
}

static void *send_singly(void *arg)
{
    static const char headers[] = "\1\0\0\0\2\0\0\0nvv"; /* n: vv */
    static const char data[4000];
    uint64_t seed = new_seed();
    int status;

    (void)arg;
    pthread_setname_np(pthread_self(), "stress-send");
    do {
        int64_t token = new_token(&seed);
        const char *value = chance(&seed, 9) ? NULL : data;
        int64_t len = value ? (int64_t)check_random(&seed, chance(&seed, 50) ? 4000 : 200) : 0;
        int64_t key_len = chance(&seed, 2) ? 3 : 0;
        int64_t headers_len = chance(&seed, 4) ? (int64_t)sizeof headers - 1 : 0;
        atomic_fetch_add(&r.attempts, 1);
        status = ka_producer_send_record(
            r.p, 0, new_partition(&seed), chance(&seed, 2) ? -1 : 1700000000000, value, len,
            key_len ? "key" : NULL, key_len, headers, headers_len, token);
        count(status, token);
        if (status == KA_FULL || status == KA_BARRED) {
            int64_t bytes = len + key_len + headers_len;
            int waited = ka_wait_producer_room(r.p, bytes, token != 0, 2000);
            CHECK(waited == KA_OK || waited == KA_TIMEOUT || waited == KA_INTERRUPTED ||
                  waited == KA_CLOSED || waited == KA_BARRED);
            if (waited == KA_BARRED)
                sched_yield();
        } else if (status == KA_DROPPED || chance(&seed, 100)) {
            sched_yield();
        }
    } while (status != KA_CLOSED);
    return NULL;
}

typedef struct {
    char data[ITEMS * 64];
    int64_t value_len[ITEMS], key_len[ITEMS], partition[ITEMS];
    int32_t status[ITEMS];
} columns;

static int64_t fill(columns *c, uint64_t *seed)
{
    int64_t bytes = 0;

    for (int i = 0; i < ITEMS; i++) {
        c->value_len[i] = (int64_t)check_random(seed, 33) - 1;
        c->key_len[i] = (int64_t)check_random(seed, 33) - 1;
        c->partition[i] = (int64_t)check_random(seed, PARTITIONS + 1) - 1;
        bytes +=
            (c->value_len[i] > 0 ? c->value_len[i] : 0) + (c->key_len[i] > 0 ? c->key_len[i] : 0);
    }
    return bytes;
}

/* Returns what ended it: KA_OK or KA_CLOSED. */
static int send_columns(columns *c, int64_t bytes, uint64_t *seed)
{
    ka_batch batch = {.count = ITEMS,
                      .data = c->data,
                      .value_len = c->value_len,
                      .key_len = c->key_len,
                      .partition = chance(seed, 2) ? c->partition : NULL,
                      .status = c->status};
    int64_t before;
    int result;

    do {
        before = batch.next;
        atomic_fetch_add(&r.attempts, ITEMS - before);
        result = ka_producer_send_batch(r.p, 0, &batch);
        for (int64_t i = before; i < batch.next; i++)
            count(batch.status[i], 0);
        CHECK(result == KA_OK ? batch.next == ITEMS && batch.at == bytes
                              : batch.next < ITEMS && batch.at <= bytes);
        if (result != KA_OK && result != KA_CLOSED) {
            count(result, 0);
            ka_wait_producer_room(r.p, 64, 0, 2000);
        }
    } while (result != KA_OK && result != KA_CLOSED);
    return result;
}

static void *send_batches(void *arg)
{
    static columns c;
    uint64_t seed = new_seed();

    (void)arg;
    pthread_setname_np(pthread_self(), "stress-batch");
    while (send_columns(&c, fill(&c, &seed), &seed) != KA_CLOSED)
        if (chance(&seed, 4))
            sched_yield();
    return NULL;
}

/* ---------------------------------------------------------------- told, fetched, flushed */

static void hear(const ka_result *result)
{
    CHECK(result->token >= 1 && result->token <= TOKENS);
    CHECK(r.seen[result->token]++ == 0);
    CHECK(result->latency_s >= 0 && result->latency_s < CHECK_LIMIT_S);
    CHECK(result->code != 0 || (result->offset >= 0 && result->partition >= 0));
    if (result->code && result->code != PURGED_QUEUE && result->code != PURGED_IN_FLIGHT)
        atomic_fetch_add(&r.told_failed, 1);
}

static void *tell(void *arg)
{
    ka_producer *p = r.teller_p;
    uint64_t seed = new_seed();
    ka_producer_stats stats;
    ka_result out[64];
    int64_t n;

    (void)arg;
    pthread_setname_np(pthread_self(), "stress-tell");
    while ((n = ka_producer_results(p, out, 1 + (int64_t)check_random(&seed, 64))) >= 0) {
        for (int64_t i = 0; i < n; i++)
            hear(&out[i]);
        atomic_fetch_add(&r.told, n);
        CHECK(ka_producer_metrics(p, &stats) == KA_OK);
        CHECK(stats.delivered + stats.failed + stats.purged >= atomic_load(&r.told));
        if (n == 0)
            ka_wait_producer_results(p, -1);
        if (chance(&seed, 20))
            check_pause(); /* a callback */
    }
    CHECK(n == KA_CLOSED);
    return NULL;
}

/* A flush that returns finds its outcomes counted and announced, and soon told. */
static void *flush(void *arg)
{
    uint64_t seed = new_seed();
    ka_producer_stats stats;

    (void)arg;
    pthread_setname_np(pthread_self(), "stress-flush");
    for (;;) {
        int64_t accepted = atomic_load(&r.accepted), tokens = atomic_load(&r.accepted_tokens);
        int64_t ticket = ka_producer_flush(r.p), announced;
        int64_t timeout_us = (int64_t)check_random(&seed, 20000);
        int status = ticket > 0 ? ka_wait_producer_flush(r.p, ticket, timeout_us) : (int)ticket;
        if (status == KA_CLOSED)
            return NULL;
        CHECK(status == KA_OK || status == KA_TIMEOUT || status == KA_INTERRUPTED);
        if (status != KA_OK)
            continue;
        CHECK(ka_producer_metrics(r.p, &stats) == KA_OK);
        CHECK(stats.delivered + stats.failed + stats.purged >= accepted);
        announced = ka_producer_announced(r.p);
        CHECK(announced >= tokens);
        status = ka_wait_producer_told(r.p, announced, 0, timeout_us);
        CHECK(status != KA_OK || atomic_load(&r.told) >= announced);
        check_pause();
    }
}

static void *fetch_failures(void *arg)
{
    ka_failure *failure;
    int64_t left;

    (void)arg;
    do {
        while ((failure = ka_producer_failure(r.p))) {
            CHECK(failure->error.code != 0 && strcmp(failure->topic, "t") == 0);
            CHECK(failure->latency_s >= 0);
            ka_failure_free(failure);
            atomic_fetch_add(&r.fetched, 1);
            CHECK(ka_producer_unreported(r.p, 1) >= 0);
        }
        check_pause();
        left = ka_producer_flush(r.p);
    } while (left != KA_CLOSED);
    return NULL;
}

static void *watch(void *arg)
{
    ka_producer_stats stats;

    (void)arg;
    pthread_setname_np(pthread_self(), "stress-watch");
    while (!atomic_load(&r.over)) {
        int64_t before = atomic_load(&r.accepted), after;
        CHECK(ka_producer_metrics(r.p, &stats) == KA_OK);
        after = atomic_load(&r.attempts);
        CHECK(stats.accepted == stats.delivered + stats.failed + stats.purged + stats.outstanding);
        CHECK(stats.accepted >= before && stats.accepted <= after);
        CHECK(stats.outstanding >= 0 && stats.outstanding <= r.queue_messages);
        CHECK(stats.outstanding_bytes >= 0 && stats.outstanding_bytes <= r.queue_bytes);
        sched_yield();
    }
    return NULL;
}

/* ---------------------------------------------------------------- commands */

/* Wait for it, or leave it. Returns its status, KA_EMPTY if it was left. */
static int settle(ka_command *command, uint64_t *seed, int64_t *value)
{
    ka_error error;
    int status;

    CHECK(command);
    if (chance(seed, 4)) {
        ka_command_release(command);
        return KA_EMPTY;
    }
    do
        status = ka_wait_command(command, -1, &error);
    while (status == KA_INTERRUPTED);
    CHECK(status == KA_OK || status == KA_CLOSED || status == KA_FAILED);
    *value = ka_command_value(command);
    ka_command_release(command);
    return status;
}

static void *purge(void *arg)
{
    uint64_t seed = new_seed();
    int64_t value;
    int status;

    (void)arg;
    do {
        for (uint64_t i = check_random(&seed, 100); i > 0; i--)
            check_pause();
        status = settle(ka_producer_purge(r.p, chance(&seed, 2)), &seed, &value);
        CHECK(status != KA_FAILED);
        if (status == KA_OK) {
            CHECK(value >= 0);
            atomic_fetch_add(&r.purged_by_command, value);
        }
    } while (status != KA_CLOSED);
    return NULL;
}

static void *ask(void *arg)
{
    uint64_t seed = new_seed();
    int64_t value;
    int status;

    (void)arg;
    do {
        char name[16];
        int32_t topic;
        snprintf(name, sizeof name, "other%d", (int)check_random(&seed, 100));
        topic = ka_producer_topic(r.p, name);
        CHECK(topic >= 0 && ka_producer_topic(r.p, name) == topic);
        CHECK(ka_producer_partition_count(r.p, topic) == 0);
        status = settle(
            ka_producer_partitions(r.p, 0, chance(&seed, 2), (int64_t)check_random(&seed, 30000)),
            &seed, &value);
        if (status == KA_OK)
            CHECK(value == PARTITIONS && ka_producer_partition_count(r.p, 0) == PARTITIONS);
        check_pause();
    } while (status != KA_CLOSED);
    return NULL;
}

static void *hold_some(void *arg)
{
    static const char *const names[] = {"ka-producer", "ka-control", "stress"};
    uint64_t seed = new_seed();

    (void)arg;
#ifdef CHECK_TSAN
    return NULL; /* which does not survive a signal at a thread's birth or death */
#endif
    while (!atomic_load(&r.over)) {
        atomic_store(&hold_ns, (int64_t)check_random(&seed, chance(&seed, 10) ? 2000000 : 50000));
        hold_threads(names[check_random(&seed, 3)], &seed, 2);
        check_pause();
    }
    return NULL;
}

/* ---------------------------------------------------------------- one producer's life */

static ka_producer *open_producer(const char *servers, const char *timeout_ms, const char *id)
{
    ka_conf *conf = ka_conf_new();
    ka_error error;
    ka_producer *p;

    CHECK(ka_conf_set(conf, "bootstrap.servers", servers, &error) == KA_OK);
    CHECK(ka_conf_set(conf, "message.timeout.ms", timeout_ms, &error) == KA_OK);
    if (id)
        CHECK(ka_conf_set(conf, "transactional.id", id, &error) == KA_OK);
    p = ka_wait_producer_open(conf,
                              &(ka_producer_options){.queue_messages = r.queue_messages,
                                                     .queue_bytes = r.queue_bytes,
                                                     .on_full = r.on_full,
                                                     .count_partitions = 1,
                                                     .topic = "t"},
                              &error);
    CHECK(p);
    return p;
}

static void begin_run(uint64_t *seed, int on_full, const char *servers, const char *id)
{
    uint64_t seeds = atomic_load(&r.seeds);

    memset(&r, 0, sizeof r);
    atomic_store(&r.seeds, seeds + 12345);
    r.on_full = on_full;
    r.transactional = id != NULL;
    r.queue_messages = chance(seed, 4) ? 1 + (int64_t)check_random(seed, 3) : 200;
    r.queue_bytes = chance(seed, 3) ? 5000 : 1 << 20;
    r.p = open_producer(servers, !id && chance(seed, 2) ? "250" : "60000", id);
    r.teller_p = ka_producer_share(r.p);
}

static void check_end(void)
{
    ka_producer_stats stats;
    int64_t evicted, seen = 0;

    CHECK(ka_producer_metrics(r.teller_p, &stats) == KA_OK);
    CHECK(stats.outstanding == 0 && stats.outstanding_bytes == 0);
    CHECK(stats.accepted == atomic_load(&r.accepted));
    CHECK(stats.accepted == stats.delivered + stats.failed + stats.purged);
    evicted = stats.dropped - atomic_load(&r.refused);
    CHECK(evicted >= 0 && (evicted == 0 || r.on_full == KA_DROP_OLD));
    CHECK(atomic_load(&r.purged_by_command) + evicted <= stats.purged);
    for (int64_t token = 0; token <= TOKENS; token++) {
        CHECK(r.seen[token] == atomic_load(&r.wanted[token]));
        seen += r.seen[token];
    }
    CHECK(seen == atomic_load(&r.accepted_tokens) && seen == atomic_load(&r.told));
    CHECK(stats.failed - atomic_load(&r.told_failed) ==
          atomic_load(&r.fetched) + ka_producer_unreported(r.teller_p, 0));
}

/* With what all users of it are doing. */
static void close_amidst(uint64_t *seed)
{
    static const int64_t timeouts_us[] = {0, 1000, 50000, 400000};

    CHECK(ka_producer_close(r.p, timeouts_us[check_random(seed, 4)]) == KA_OK);
    CHECK(ka_producer_close(r.p, 0) == KA_CLOSED);
}

static int64_t wait_closed(void)
{
    int64_t lost;

    do
        lost = ka_wait_producer_closed(r.p, -1);
    while (lost == KA_INTERRUPTED);
    CHECK(lost >= 0 && lost <= atomic_load(&r.accepted));
    return lost;
}

static void live_and_die(uint64_t *seed, int on_full, const char *servers)
{
    void *(*const mains[])(void *) = {send_singly, send_singly, send_batches, flush,
                                      purge,       purge,       ask,          fetch_failures};
    enum { MAINS = sizeof mains / sizeof *mains };
    pthread_t threads[MAINS], teller, watcher, holder;

    begin_run(seed, on_full, servers, NULL);
    teller = check_thread(tell, NULL);
    watcher = check_thread(watch, NULL);
    holder = check_thread(hold_some, NULL);
    for (int i = 0; i < MAINS; i++)
        threads[i] = check_thread(mains[i], NULL);
    for (uint64_t i = check_random(seed, 600); i > 0; i--)
        check_pause();
    close_amidst(seed);
    for (int i = 0; i < MAINS; i++)
        check_join(threads[i]);
    if (chance(seed, 2))
        wait_closed();
    atomic_store(&r.over, 1);
    check_join(watcher);
    check_join(holder);
    ka_producer_release(r.p);
    check_join(teller); /* which reads on after the release */
    check_end();
    ka_producer_unshare(r.teller_p);
}

static void live_often(int on_full, const char *servers)
{
    int64_t end_ms = check_now_ms() + CONFIG_MS;
    uint64_t seed = new_seed();

    while (check_now_ms() < end_ms)
        live_and_die(&seed, on_full, servers);
}

static void refusing_with_a_broker(void)
{
    live_often(KA_REFUSE, ka_mock_bootstrap_servers(mock));
}

static void refusing_without_a_broker(void)
{
    live_often(KA_REFUSE, "127.0.0.1:1");
}

static void dropping_the_new_with_a_broker(void)
{
    live_often(KA_DROP_NEW, ka_mock_bootstrap_servers(mock));
}

static void dropping_the_new_without_a_broker(void)
{
    live_often(KA_DROP_NEW, "127.0.0.1:1");
}

static void dropping_the_old_with_a_broker(void)
{
    live_often(KA_DROP_OLD, ka_mock_bootstrap_servers(mock));
}

static void dropping_the_old_without_a_broker(void)
{
    live_often(KA_DROP_OLD, "127.0.0.1:1");
}

/* ---------------------------------------------------------------- transactions */

static int transact(int what, ka_error *error)
{
    ka_command *command = ka_producer_transact(r.p, what, 10000000);
    int status;

    do
        status = ka_wait_command(command, -1, error);
    while (status == KA_INTERRUPTED);
    ka_command_release(command);
    return status;
}

/* Commit or abort, perhaps with one that was abandoned before. Returns whether it was committed for
 * sure. */
static int end_transaction(uint64_t *seed)
{
    int what = chance(seed, 2) ? KA_COMMIT : KA_ABORT, abandoned = chance(seed, 3);
    ka_error error;
    int status;

    if (abandoned)
        ka_command_release(ka_producer_transact(r.p, what, 10000000));
    status = transact(what, &error);
    if (ka_producer_transaction(r.p) == KA_TXN_READY)
        return what == KA_COMMIT && status == KA_OK;
    CHECK(what == KA_COMMIT && status == KA_FAILED && error.requires_abort);
    CHECK(transact(KA_ABORT, &error) == KA_OK);
    return 0;
}

/* Or refused: a purge of what is in flight may come to spoil the next transaction too. */
static int has_outcome(const ka_producer_stats *before)
{
    ka_producer_stats stats;

    CHECK(ka_producer_metrics(r.p, &stats) == KA_OK);
    return stats.delivered > before->delivered || stats.failed > before->failed;
}

static void await_outcome(const ka_producer_stats *before)
{
    CHECK_SOON(has_outcome(before));
}

static void play_transaction(uint64_t *seed)
{
    ka_producer_stats before, after;
    ka_error error;
    int purged = chance(seed, 4), committed;

    CHECK(ka_producer_metrics(r.p, &before) == KA_OK);
    CHECK(transact(KA_BEGIN, &error) == KA_OK);
    CHECK(ka_producer_transaction(r.p) == KA_TXN_OPEN);
    for (uint64_t i = check_random(seed, 40); i > 0; i--)
        check_pause();
    await_outcome(&before);
    if (purged)
        ka_command_release(ka_producer_purge(r.p, 1));
    committed = end_transaction(seed);
    CHECK(ka_producer_transaction(r.p) == KA_TXN_READY);
    CHECK(ka_producer_send(r.p, "x", 1) == KA_BARRED);
    CHECK(ka_producer_metrics(r.p, &after) == KA_OK);
    CHECK(after.outstanding == 0);
    if (committed)
        CHECK(after.delivered - before.delivered == after.accepted - before.accepted);
}

static void live_in_transactions(uint64_t *seed, const char *id)
{
    pthread_t threads[SENDERS + 1], teller, watcher, holder;
    ka_producer_stats stats;
    ka_error error;
    int64_t lost;

    begin_run(seed, KA_REFUSE, ka_mock_bootstrap_servers(mock), id);
    teller = check_thread(tell, NULL);
    watcher = check_thread(watch, NULL);
    holder = check_thread(hold_some, NULL);
    for (int i = 0; i < SENDERS; i++)
        threads[i] = check_thread(send_singly, NULL);
    threads[SENDERS] = check_thread(flush, NULL);
    CHECK(transact(KA_INIT, &error) == KA_OK);
    for (int i = 0; i < 4; i++)
        play_transaction(seed);
    CHECK(ka_producer_metrics(r.p, &stats) == KA_OK);
    if (chance(seed, 2)) {
        CHECK(transact(KA_BEGIN, &error) == KA_OK);
        await_outcome(&stats);
    }
    if (chance(seed, 2))
        ka_command_release(
            ka_producer_transact(r.p, chance(seed, 2) ? KA_COMMIT : KA_ABORT, 1000000));
    close_amidst(seed);
    for (int i = 0; i < SENDERS + 1; i++)
        check_join(threads[i]);
    lost = wait_closed();
    CHECK(ka_producer_transaction(r.p) != KA_TXN_READY || lost == 0);
    atomic_store(&r.over, 1);
    check_join(watcher);
    check_join(holder);
    ka_producer_release(r.p);
    check_join(teller);
    check_end();
    ka_producer_unshare(r.teller_p);
}

static void transactions(void)
{
    int64_t end_ms = check_now_ms() + 2LL * CONFIG_MS;
    uint64_t seed = new_seed();

    for (int i = 0; check_now_ms() < end_ms; i++) {
        char id[16];
        snprintf(id, sizeof id, "txn%d", i);
        live_in_transactions(&seed, id);
    }
}

int main(void)
{
    ka_error error;

    hold_install();
    atomic_store(&r.seeds, (uint64_t)time(NULL) * 2654435761u + (uint64_t)getpid());
    printf("seed %llu\n", (unsigned long long)atomic_load(&r.seeds));
    mock = ka_wait_mock_open(1, &error);
    CHECK(mock && ka_wait_mock_create_topic(mock, "t", PARTITIONS, &error) == KA_OK);
    RUN(refusing_with_a_broker);
    RUN(refusing_without_a_broker);
    RUN(dropping_the_new_with_a_broker);
    RUN(dropping_the_new_without_a_broker);
    RUN(dropping_the_old_with_a_broker);
    RUN(dropping_the_old_without_a_broker);
    RUN(transactions);
    CHECK(ka_wait_workers(20000000) == KA_OK);
    ka_wait_mock_close(mock);
    return 0;
}
