/* A producer in single cases that went wrong once, or would if one line stood elsewhere. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

#include "check.h"
#include "hold.h"
#include "ka_producer.h"

enum { ROUNDS_MS = 1000 };

static ka_mock *mock;
static uint64_t seed = 0x9E3779B97F4A7C15;

/* ---------------------------------------------------------------- helpers */

static const char *nowhere(void)
{
    return "127.0.0.1:1";
}

static const char *somewhere(void)
{
    return ka_mock_bootstrap_servers(mock);
}

static void open_cluster(void)
{
    ka_error error;

    mock = ka_wait_mock_open(1, &error);
    CHECK(mock && ka_wait_mock_create_topic(mock, "t", 2, &error) == KA_OK);
}

static void close_cluster(void)
{
    CHECK(ka_wait_workers(20000000) == KA_OK);
    ka_wait_mock_close(mock);
}

static ka_producer *open_producer(const char *servers, const char *name, const char *value,
                                  const ka_producer_options *options)
{
    ka_conf *conf = ka_conf_new();
    ka_error error;
    ka_producer *p;

    CHECK(ka_conf_set(conf, "bootstrap.servers", servers, &error) == KA_OK);
    CHECK(!name || ka_conf_set(conf, name, value, &error) == KA_OK);
    p = ka_wait_producer_open(conf, options, &error);
    CHECK(p);
    return p;
}

static int64_t finish(ka_producer *p, int64_t timeout_us)
{
    int64_t lost;

    CHECK(ka_producer_close(p, timeout_us) == KA_OK);
    lost = ka_wait_producer_closed(p, -1);
    ka_producer_release(p);
    return lost;
}

static int answer(ka_command *command, int64_t *value)
{
    ka_error error;
    int status;

    do
        status = ka_wait_command(command, -1, &error);
    while (status == KA_INTERRUPTED);
    *value = ka_command_value(command);
    ka_command_release(command);
    return status;
}

static int transact(ka_producer *p, int what)
{
    int64_t value;

    return answer(ka_producer_transact(p, what, 10000000), &value);
}

static ka_producer *open_transactional(int number)
{
    char id[32];
    ka_producer *p;

    snprintf(id, sizeof id, "case%d", number);
    p = open_producer(
        somewhere(), "transactional.id", id,
        &(ka_producer_options){.queue_messages = 100, .queue_bytes = 1 << 20, .topic = "t"});
    CHECK(transact(p, KA_INIT) == KA_OK);
    return p;
}

static void send_one(ka_producer *p, int32_t number, int64_t token)
{
    CHECK(ka_producer_send_record(p, number, KA_PARTITION_ANY, -1, "v", 1, NULL, 0, NULL, 0,
                                  token) == KA_OK);
}

/* Hold the threads of that name for a moment, now and then. */
static void hold_sometimes(const char *name)
{
    atomic_store(&hold_ns, 300000);
    if (check_random(&seed, 3) == 0)
        hold_threads(name, &seed, 1);
}

/* Hold one thread at every moment that it may be at. It runs for a while in between: with the next
 * signal there already it would stand still for good, and with it whoever waits for its lock. */
static _Atomic int holding;

static void *hold_main(void *arg)
{
    uint64_t own = 7;

    while (atomic_load(&holding)) {
        int held = atomic_load(&hold_held);
        hold_thread((int)(intptr_t)arg);
        while (atomic_load(&hold_held) == held && atomic_load(&holding))
            sched_yield();
        check_spin(check_random(&own, 40000));
    }
    return NULL;
}

static pthread_t start_holding(const char *name)
{
    int tid;

    CHECK_SOON((tid = hold_find(name)) != 0); /* a thread names itself */
    atomic_store(&hold_ns, 1000);
    atomic_store(&holding, 1);
    return check_thread(hold_main, (void *)(intptr_t)tid);
}

static void stop_holding(pthread_t holder)
{
    atomic_store(&holding, 0);
    check_join(holder);
}

/* ---------------------------------------------------------------- flush */

static int64_t flush(ka_producer *p)
{
    int64_t ticket = ka_producer_flush(p);
    int status = (int)ticket;

    while (ticket > 0 && (status = ka_wait_producer_flush(p, ticket, -1)) == KA_INTERRUPTED)
        continue;
    return status;
}

/* Until nothing is outstanding, and not a moment longer. */
static void await_outcome(ka_producer *p)
{
    while (room_messages(atomic_load(&p->room)))
        continue;
}

/* No topic can have such a name, so what is sent there fails at once. */
static int32_t bad_topic(ka_producer *p)
{
    char name[600];

    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    return ka_producer_topic(p, name);
}

static void failures_are_there_when_a_flush_returns(void)
{
    ka_producer *p =
        open_producer(nowhere(), NULL, NULL,
                      &(ka_producer_options){.queue_messages = 100, .queue_bytes = 1 << 20});
    int32_t bad = bad_topic(p);
    int64_t end_ms = check_now_ms() + ROUNDS_MS;
    pthread_t holder = start_holding("ka-producer");

    for (int64_t sent = 1; check_now_ms() < end_ms; sent++) {
        send_one(p, bad, 0);
        await_outcome(p);
        CHECK(flush(p) == KA_OK);
        CHECK(ka_producer_unreported(p, 0) == sent);
    }
    stop_holding(holder);
    finish(p, 0);
}

static void results_are_announced_when_a_flush_returns(void)
{
    ka_producer *p =
        open_producer(nowhere(), NULL, NULL,
                      &(ka_producer_options){.queue_messages = 100, .queue_bytes = 1 << 20});
    int32_t bad = bad_topic(p);
    int64_t end_ms = check_now_ms() + ROUNDS_MS;
    pthread_t holder = start_holding("ka-producer");
    ka_result out[8];

    for (int64_t sent = 1; check_now_ms() < end_ms; sent++) {
        send_one(p, bad, sent);
        await_outcome(p);
        CHECK(flush(p) == KA_OK);
        CHECK(ka_producer_announced(p) == sent);
        CHECK(ka_producer_results(p, out, 8) == 1 && out[0].token == sent);
        CHECK(ka_producer_results(p, out, 8) == 0);
        CHECK(ka_wait_producer_told(p, sent, 0, 0) == KA_OK);
    }
    stop_holding(holder);
    finish(p, 0);
}

/* A producer of nothing but epochs. */
static void a_flush_waits_for_the_epochs_before_its_own(void)
{
    static ka_producer p;
    origin from = {.bytes = 1};
    flight *flights[2];

    CHECK(kai_flight_ready(&p));
    kai_wake_init(&p.progressed);
    for (int i = 0; i < 2; i++) {
        kai_epoch_open(&p);
        kai_hold(&p, from.bytes);
        flights[i] = kai_flight_begin(&p, &from, from.accepted_ns);
        p.last_epoch->end = 10 * (uint64_t)(i + 1);
    }
    kai_epoch_open(&p);
    kai_flight_end(&p, flights[1]); /* before the first */
    kai_publish(&p, &(outcomes){0});
    CHECK(atomic_load(&p.flushed) == 0 && p.first_epoch->next == p.last_epoch);
    kai_flight_end(&p, flights[0]);
    kai_publish(&p, &(outcomes){0});
    CHECK(atomic_load(&p.flushed) == 20 && p.first_epoch == p.last_epoch);
    CHECK(atomic_load(&p.held_messages) == 0 && atomic_load(&p.held_bytes) == 0);
    free(p.last_epoch);
    free(p.chunks);
    kai_wake_fini(&p.progressed);
}

/* ---------------------------------------------------------------- acceptance */

static void who_waits_for_room_is_woken_by_an_outcome(void)
{
    ka_producer *p = open_producer(
        somewhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 1, .queue_bytes = 100, .topic = "t"});

    for (int sent = 0; sent < 200;) {
        int status = ka_producer_send(p, "v", 1);
        CHECK(status == KA_OK || status == KA_FULL);
        sent += status == KA_OK;
        if (status == KA_FULL)
            CHECK(ka_wait_producer_room(p, 1, 0, -1) == KA_OK);
    }
    CHECK(finish(p, 5000000) == 0);
}

static void a_refused_message_gives_its_place_back(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 1, .queue_bytes = 100, .topic = "t"});

    send_one(p, 0, 1);
    for (int64_t token = 2; token < 10; token++)
        CHECK(ka_producer_send_record(p, 0, KA_PARTITION_ANY, -1, "v", 1, NULL, 0, NULL, 0,
                                      token) == KA_FULL);
    CHECK(atomic_load(&p->results.reserved) == 1);
    finish(p, 0);
}

static void a_batch_wakes_a_worker_that_sleeps(void)
{
    static const int64_t lengths[] = {1, 1};
    int32_t status[2];
    ka_batch batch = {.count = 2, .data = "vv", .value_len = lengths, .status = status};
    ka_producer *p = open_producer(
        somewhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 100, .topic = "t"});

    for (int i = 0; i < 100; i++) { /* it sleeps for good */
        CHECK_SOON(atomic_load(&p->worker.wake.sleepers) == 1);
        check_pause();
    }
    CHECK(ka_producer_send_batch(p, 0, &batch) == KA_OK);
    CHECK_SOON(atomic_load(&p->delivered) == 2);
    finish(p, 0);
}

static void a_batch_stops_where_no_transaction_is_open(void)
{
    static const int64_t lengths[] = {1, 1};
    int32_t status[2];
    ka_batch batch = {.count = 2, .data = "vv", .value_len = lengths, .status = status};
    ka_producer *p = open_transactional(2);

    CHECK(ka_producer_send_batch(p, 0, &batch) == KA_BARRED);
    CHECK(batch.next == 0 && batch.at == 0);
    finish(p, 0);
}

/* ---------------------------------------------------------------- purge */

static void purges_at_the_same_time_count_each_message_once(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 1000, .queue_bytes = 1 << 20, .topic = "t"});

    for (int round = 0; round < 1000; round++) {
        int64_t value[2];
        ka_command *commands[2];
        for (int i = 0; i < 100; i++)
            send_one(p, 0, 0);
        for (int i = 0; i < 2; i++)
            commands[i] = ka_producer_purge(p, 0);
        for (int i = 0; i < 2; i++)
            CHECK(answer(commands[i], &value[i]) == KA_OK);
        CHECK(value[0] + value[1] == 100);
    }
    CHECK(finish(p, 0) == 0);
}

static void a_purge_that_takes_its_time_wakes_a_worker_that_sleeps(void)
{
    ka_producer *p = open_producer(
        somewhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 1000, .topic = "t"});
    int64_t value;
    int tid;

    CHECK(answer(ka_producer_purge(p, 0), &value) == KA_OK && value == 0);
    CHECK_SOON((tid = hold_find("ka-control")) != 0);
    atomic_store(&hold_ns, 100000000);
    hold_thread(tid);
    CHECK_SOON(atomic_load(&hold_holding) == 1);
    CHECK(answer(ka_producer_purge(p, 0), &value) == KA_OK && value == 0);
    finish(p, 0);
}

/* A call is made in slices; that ends none of them before its time. */
static void a_call_takes_the_time_it_was_given(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 1000, .topic = "t"});
    int64_t start = kai_now_ns(), value;

    CHECK(answer(ka_producer_partitions(p, 0, 0, 1200000), &value) == KA_FAILED);
    CHECK(kai_now_ns() - start >= 1150000000);
    finish(p, 0);
}

/* ---------------------------------------------------------------- values */

typedef struct {
    ka_producer *p;
    _Atomic int done, pumps;
} pump;

static void values_are_accepted_all_or_none(void)
{
    static const char *const values[] = {"a", "b", "c", NULL};
    static const int64_t lens[] = {1, 1, 1, 1000001};
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 4, .queue_bytes = 2000000, .topic = "t"});
    ka_producer_stats stats;

    CHECK(ka_producer_send_values(p, 0, values, lens, 4) == KA_TOO_LARGE);
    CHECK(ka_producer_send_values(p, 1, values, lens, 3) == KA_INVALID);
    CHECK(ka_producer_send_values(p, -1, values, lens, 3) == KA_INVALID);
    CHECK(ka_producer_send_values(p, 0, values, lens, KA_VALUES + 1) == KA_INVALID);
    CHECK(ka_producer_send_values(p, 0, values, lens, 3) == KA_OK);
    CHECK(ka_producer_send_values(p, 0, values, lens, 2) == KA_FULL);
    CHECK(ka_producer_metrics(p, &stats) == KA_OK);
    CHECK(stats.accepted == 3 && stats.outstanding_bytes == 3);
    CHECK(ka_producer_send_values(p, 0, values, lens, 1) == KA_OK);
    CHECK(ka_producer_send_values(p, 0, values, lens, 0) == KA_OK);
    CHECK(finish(p, 0) == 4);
}

static void *pump_values(void *arg)
{
    enum { MOST = 300, LONGEST = 3000 };
    static const char data[LONGEST];
    const char *values[MOST];
    int64_t lens[MOST];
    pump *pumped = arg;
    uint64_t random = 7 + (uint64_t)atomic_fetch_add(&pumped->pumps, 1);

    while (!atomic_load(&pumped->done)) {
        int64_t count = 1 + (int64_t)check_random(&random, MOST);
        int status;
        for (int64_t i = 0; i < count; i++) {
            values[i] = data;
            lens[i] = (int64_t)check_random(&random, check_random(&random, 2) ? LONGEST : 50);
        }
        status = ka_producer_send_values(pumped->p, 0, values, lens, count);
        CHECK(status == KA_OK || status == KA_FULL);
    }
    return NULL;
}

/* The ring's size is a power of two, so that nothing is left over by rounding. */
static void values_that_share_a_reservation_fit_the_ring(void)
{
    ka_producer_options options = {.queue_messages = 3000, .topic = "t"};
    ka_producer like = {.queue_messages = 3000, .max_message = 20000 - 36};
    int64_t end_ms = check_now_ms() + 2LL * ROUNDS_MS;
    pthread_t threads[2], holder;
    pump pumped = {.done = 0};

    options.queue_bytes = like.queue_bytes = (int64_t)((1 << 20) - kai_ring_capacity(&like));
    pumped.p = open_producer(somewhere(), "message.max.bytes", "20000", &options);
    CHECK(pumped.p->max_message == like.max_message);
    CHECK(pumped.p->ring.capacity == 1 << 20 && kai_ring_capacity(pumped.p) == 1 << 20);
    for (int i = 0; i < 2; i++)
        threads[i] = check_thread(pump_values, &pumped);
    holder = start_holding("ka-producer");
    while (check_now_ms() < end_ms)
        check_pause();
    stop_holding(holder);
    atomic_store(&pumped.done, 1);
    for (int i = 0; i < 2; i++)
        check_join(threads[i]);
    CHECK(flush(pumped.p) == KA_OK);
    CHECK(atomic_load(&pumped.p->delivered) > 3000);
    CHECK(finish(pumped.p, 20000000) == 0);
}

/* ---------------------------------------------------------------- eviction */

static void *pump_main(void *arg)
{
    static const char value[4000];
    pump *pumped = arg;
    int status;

    while (!atomic_load(&pumped->done)) {
        status = ka_producer_send(pumped->p, value, sizeof value);
        CHECK(status == KA_OK || status == KA_DROPPED);
    }
    return NULL;
}

/* Bounds that make the ring's size a power of two, so that nothing is left over by rounding. */
static void evicted_messages_fit_the_ring_while_the_worker_stands_still(void)
{
    ka_producer_options options = {
        .queue_messages = 1000, .queue_bytes = 0, .topic = "t", .on_full = KA_DROP_OLD};
    ka_producer like = {
        .queue_messages = 1000, .max_message = 1000000 - 36, .on_full = KA_DROP_OLD};
    int64_t end_ms = check_now_ms() + 2LL * ROUNDS_MS;
    pthread_t threads[2], holder;
    pump pumped = {.done = 0};

    options.queue_bytes = like.queue_bytes = (int64_t)((8 << 20) - kai_ring_capacity(&like));
    CHECK(kai_ring_capacity(&like) == 8 << 20);
    pumped.p = open_producer(nowhere(), NULL, NULL, &options);
    CHECK(pumped.p->ring.capacity == 8 << 20);
    for (int i = 0; i < 2; i++)
        threads[i] = check_thread(pump_main, &pumped);
    holder = start_holding("ka-producer");
    atomic_store(&hold_ns, 3000000);
    while (check_now_ms() < end_ms)
        check_pause();
    atomic_store(&pumped.done, 1);
    for (int i = 0; i < 2; i++)
        check_join(threads[i]);
    stop_holding(holder);
    finish(pumped.p, 0);
}

/* Messages that are evicted, none that is refused. */
static void *evict_main(void *arg)
{
    pump *pumped = arg;
    uint64_t condemned;

    while (!atomic_load(&pumped->done)) {
        CHECK(ka_producer_send(pumped->p, "v", 1) == KA_OK);
        do { /* until the worker has come after */
            pthread_mutex_lock(&pumped->p->evict_lock);
            condemned = pumped->p->condemned;
            pthread_mutex_unlock(&pumped->p->evict_lock);
        } while (condemned > 1 << 20 && sched_yield() == 0);
    }
    return NULL;
}

static void *pump_bad_topic(void *arg)
{
    static const char value[900];
    pump *pumped = arg;
    int32_t bad = bad_topic(pumped->p);

    while (!atomic_load(&pumped->done)) {
        int status = ka_producer_send_record(pumped->p, bad, KA_PARTITION_ANY, -1, value,
                                             sizeof value, NULL, 0, NULL, 0, 0);
        CHECK(status == KA_OK || status == KA_FULL);
    }
    return NULL;
}

/* Room is given back when its place in the ring is free, and not before. */
static void messages_that_fail_at_once_fit_the_ring(void)
{
    ka_producer like = {.queue_messages = 1000, .max_message = 1000 - KA_WIRE_OVERHEAD};
    ka_producer_options options = {.queue_messages = 1000};
    int64_t end_ms = check_now_ms() + ROUNDS_MS;
    pthread_t threads[2], holder;
    pump pumped = {.done = 0};

    options.queue_bytes = like.queue_bytes = (int64_t)((1 << 20) - kai_ring_capacity(&like));
    pumped.p = open_producer(nowhere(), "message.max.bytes", "1000", &options);
    CHECK(pumped.p->ring.capacity == 1 << 20);
    holder = start_holding("ka-producer");
    atomic_store(&hold_ns, 100000);
    for (int i = 0; i < 2; i++)
        threads[i] = check_thread(pump_bad_topic, &pumped);
    while (check_now_ms() < end_ms)
        check_pause();
    atomic_store(&pumped.done, 1);
    for (int i = 0; i < 2; i++)
        check_join(threads[i]);
    stop_holding(holder);
    finish(pumped.p, 1000000);
}

static void an_evicted_message_is_dropped_and_purged_in_one_snapshot(void)
{
    ka_producer *p = open_producer(
        somewhere(), NULL, NULL,
        &(ka_producer_options){
            .queue_messages = 1000, .queue_bytes = 1 << 20, .topic = "t", .on_full = KA_DROP_OLD});
    int64_t end_ms = check_now_ms() + ROUNDS_MS;
    pump pumped = {.p = p};
    pthread_t thread = check_thread(evict_main, &pumped), holder = start_holding("ka-producer");
    ka_producer_stats stats;

    do {
        kai_producer_snapshot(p, &stats);
        CHECK(stats.purged == stats.dropped);
    } while (check_now_ms() < end_ms);
    CHECK(stats.dropped > 0 && stats.delivered > 0);
    stop_holding(holder);
    atomic_store(&pumped.done, 1);
    check_join(thread);
    finish(p, 0);
}

static void a_purge_empties_the_ring_behind_a_full_share(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){
            .queue_messages = 100, .queue_bytes = 1 << 20, .topic = "t", .on_full = KA_DROP_OLD});
    int64_t value;

    for (int i = 0; i < 100; i++)
        send_one(p, 0, 0);
    CHECK_SOON(atomic_load(&p->held_messages) == 25);
    CHECK(answer(ka_producer_purge(p, 0), &value) == KA_OK && value == 100);
    CHECK(finish(p, 0) == 0);
}

static void what_comes_after_the_ring_started_over_can_be_evicted(void)
{
    static const char value[4000];
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){
            .queue_messages = 400, .queue_bytes = 8 << 20, .topic = "t", .on_full = KA_DROP_OLD});

    for (int i = 0; i < 100; i++)
        CHECK(ka_producer_send(p, value, sizeof value) == KA_OK);
    CHECK_SOON(atomic_load(&p->held_messages) == 100); /* its share */
    /* It may have started over before the last of them came. */
    CHECK_SOON(kai_ring_tail(&p->ring) >= p->ring.capacity &&
               kai_ring_head(&p->ring) == kai_ring_tail(&p->ring));
    for (int i = 0; i < 1000; i++)
        CHECK(ka_producer_send(p, value, 1) == KA_OK);
    CHECK(atomic_load(&p->evicted) == 700);
    finish(p, 0);
}

static void nothing_is_evicted_for_a_message_that_finds_no_room_all_the_same(void)
{
    static const char value[900];
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){
            .queue_messages = 100, .queue_bytes = 1000, .topic = "t", .on_full = KA_DROP_OLD});
    ka_producer_stats stats;

    CHECK(ka_producer_send(p, value, 900) == KA_OK);
    CHECK_SOON(atomic_load(&p->held_bytes) == 900); /* and is not evicted any more */
    CHECK(ka_producer_send(p, value, 50) == KA_OK);
    CHECK(ka_producer_send(p, value, 500) == KA_DROPPED);
    kai_producer_snapshot(p, &stats);
    CHECK(stats.purged == 0 && stats.dropped == 1 && stats.outstanding == 2);
    CHECK(ka_producer_send(p, value, 100) == KA_OK); /* in the place of the 50 */
    kai_producer_snapshot(p, &stats);
    CHECK(stats.purged == 1 && stats.dropped == 2 && stats.outstanding_bytes == 1000);
    finish(p, 0);
}

/* ---------------------------------------------------------------- transactions */

/* Whatever the order in which they end. */
static void a_commit_asked_for_during_the_begin_bars_messages(void)
{
    ka_producer *p = open_transactional(1);
    int64_t end_ms = check_now_ms() + ROUNDS_MS, value;

    while (check_now_ms() < end_ms) {
        ka_command *begin = ka_producer_transact(p, KA_BEGIN, 10000000), *commit;
        check_spin(check_random(&seed, 50000));
        hold_sometimes("ka-control");
        commit = ka_producer_transact(p, KA_COMMIT, 10000000);
        CHECK(answer(begin, &value) == KA_OK);
        answer(commit, &value);
        if (ka_producer_transaction(p) == KA_TXN_OPEN)
            CHECK(transact(p, KA_COMMIT) == KA_OK);
        CHECK(ka_producer_transaction(p) == KA_TXN_READY);
        CHECK(ka_producer_send(p, "v", 1) == KA_BARRED);
    }
    finish(p, 0);
}

static void a_commit_waits_for_what_is_on_its_way_into_the_ring(void)
{
    ka_producer *p = open_transactional(3);
    ka_command *commit;
    ka_error error;

    CHECK(transact(p, KA_BEGIN) == KA_OK);
    atomic_fetch_add(&p->room, ROOM_MESSAGE + 1); /* a sender between its two steps */
    commit = ka_producer_transact(p, KA_COMMIT, 10000000);
    CHECK(ka_wait_command(commit, 50000, &error) == KA_TIMEOUT);
    atomic_fetch_sub(&p->room, ROOM_MESSAGE + 1);
    kai_wake_notify(&p->worker.wake);
    CHECK(ka_wait_command(commit, -1, &error) == KA_OK);
    ka_command_release(commit);
    finish(p, 0);
}

static void a_transaction_that_lost_a_message_cannot_be_committed(void)
{
    ka_producer *p = open_transactional(4);
    ka_command *commit;
    ka_error error;

    CHECK(transact(p, KA_BEGIN) == KA_OK);
    send_one(p, 0, 0);
    send_one(p, bad_topic(p), 0);
    commit = ka_producer_transact(p, KA_COMMIT, 10000000);
    CHECK(ka_wait_command(commit, -1, &error) == KA_FAILED && error.requires_abort);
    ka_command_release(commit);
    CHECK(ka_producer_send(p, "v", 1) == KA_BARRED);
    CHECK(transact(p, KA_ABORT) == KA_OK);
    CHECK(transact(p, KA_BEGIN) == KA_OK);
    send_one(p, 0, 0);
    CHECK(transact(p, KA_COMMIT) == KA_OK);
    CHECK(finish(p, 0) == 0);
}

static void what_was_committed_while_closing_is_not_lost(void)
{
    int64_t end_ms = check_now_ms() + 2LL * ROUNDS_MS;

    while (check_now_ms() < end_ms) {
        ka_producer *p;
        int64_t lost;
        /* A cluster draws its producer ids at random, of 900,000: of hundreds two may be the same. */
        close_cluster();
        open_cluster();
        p = open_transactional(100);
        CHECK(transact(p, KA_BEGIN) == KA_OK);
        send_one(p, 0, 0);
        CHECK(flush(p) == KA_OK);
        ka_command_release(ka_producer_transact(p, KA_COMMIT, 10000000));
        check_spin(check_random(&seed, 1000000));
        CHECK(ka_producer_close(p, 5000000) == KA_OK);
        lost = ka_wait_producer_closed(p, 4000000); /* long before its time */
        CHECK(lost == (ka_producer_transaction(p) == KA_TXN_READY ? 0 : 1));
        ka_producer_release(p);
    }
}

#ifndef CHECK_TSAN
static int purges_one(ka_producer *p)
{
    ka_producer_stats stats;
    int64_t value;

    send_one(p, 0, 0);
    CHECK(answer(ka_producer_purge(p, 1), &value) == KA_OK);
    kai_producer_snapshot(p, &stats);
    return stats.purged > 0;
}

/* As when the worker stands still between its purge for closing and its last look, and an abort ends meanwhile. */
static void what_an_abort_discards_is_not_lost(void)
{
    ka_producer *p = open_transactional(5);

    CHECK(transact(p, KA_BEGIN) == KA_OK);
    CHECK_SOON(purges_one(p));
    CHECK(transact(p, KA_ABORT) == KA_OK);
    p->purged_at_ns = kai_now_ns();
    CHECK(finish(p, 5000000) == 0);
}
#endif

/* ---------------------------------------------------------------- close */

static _Atomic int go;

static void *close_main(void *arg)
{
    atomic_store(&go, 1);
    while (atomic_load(&go) != 2)
        continue;
    check_spin((uint64_t)(kai_now_ns() % 8000)); /* until the signal is here */
    ka_producer_close(arg, 10000000);
    return NULL;
}

static void what_is_accepted_beside_the_close_has_its_outcome(void)
{
    int64_t end_ms = check_now_ms() + 2LL * ROUNDS_MS;

    atomic_store(&hold_ns, 300000);
    while (check_now_ms() < end_ms) {
        ka_producer *p = open_producer(
            somewhere(), NULL, NULL,
            &(ka_producer_options){.queue_messages = 1000, .queue_bytes = 1 << 20, .topic = "t"});
        pthread_t closer;
        ka_producer_stats stats;
        int64_t accepted = 0;

        send_one(p, 0, 0);
        CHECK(flush(p) == KA_OK); /* nothing is outstanding */
        atomic_store(&go, 0);
        closer = check_thread(close_main, p);
        CHECK_SOON(atomic_load(&go) == 1);
        atomic_store(&go, 2);
        pthread_kill(closer, SIGFPE); /* perhaps in the midst of it */
        while (atomic_load(&p->state) == OPEN)
            continue;
        check_spin(check_random(&seed, 3000));
        accepted = ka_producer_send(p, "v", 1) == KA_OK;
        check_join(closer);
        CHECK(ka_wait_producer_closed(p, -1) == 0);
        kai_producer_snapshot(p, &stats);
        CHECK(stats.accepted == 1 + accepted && stats.delivered == 1 + accepted);
        ka_producer_release(p);
    }
}

static void *wait_for_flush(void *arg)
{
    CHECK(ka_wait_producer_flush(arg, ka_producer_flush(arg), -1) == KA_CLOSED);
    return NULL;
}

static void *wait_for_room(void *arg)
{
    CHECK(ka_wait_producer_room(arg, 1, 0, -1) == KA_CLOSED);
    return NULL;
}

static void *wait_for_telling(void *arg)
{
    CHECK(ka_wait_producer_told(arg, 1, 0, -1) == KA_CLOSED);
    return NULL;
}

static void a_close_ends_every_wait(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 1, .queue_bytes = 1000, .topic = "t"});
    pthread_t threads[3];

    send_one(p, 0, 1);
    threads[0] = check_thread(wait_for_flush, p);
    threads[1] = check_thread(wait_for_room, p);
    threads[2] = check_thread(wait_for_telling, p);
    CHECK_SOON(atomic_load(&p->progressed.sleepers) == 1);
    CHECK_SOON(atomic_load(&p->room_freed.sleepers) == 1);
    CHECK_SOON(atomic_load(&p->results.progressed.sleepers) == 1);
    CHECK(ka_producer_close(p, 3000000) == KA_OK); /* none of them waits for that */
    for (int i = 0; i < 3; i++)
        check_join(threads[i]);
    CHECK(atomic_load(&p->state) == CLOSING);
    ka_producer_release(p);
}

static void a_call_that_runs_is_answered_by_the_close(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 1000, .topic = "t"});
    ka_command *command = ka_producer_partitions(p, 0, 0, 10000000);
    ka_error error;

    CHECK_SOON(hold_find("ka-control"));
    CHECK(ka_wait_command(command, 0, &error) == KA_TIMEOUT);
    CHECK(ka_producer_close(p, 0) == KA_OK);
    CHECK(ka_wait_command(command, 0, &error) == KA_CLOSED);
    ka_producer_release(p);
    ka_command_release(command);
}

#ifndef CHECK_TSAN
/* As when one of librdkafka's threads sits in name resolution: its reports are not seen. */
static void what_is_not_given_back_is_written_off_and_told(void)
{
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 1000, .topic = "t"});
    rd_kafka_queue_t *reports = p->events;
    ka_producer *shared = ka_producer_share(p);
    ka_producer_stats stats;
    ka_result out[8];

    for (int64_t token = 0; token <= 3; token++)
        send_one(p, 0, token);
    CHECK_SOON(atomic_load(&p->held_messages) == 4);
    p->events = rd_kafka_queue_new(p->rk);
    CHECK(ka_producer_close(p, 0) == KA_OK);
    CHECK(ka_wait_producer_closed(p, -1) == 4);
    rd_kafka_queue_destroy(reports);
    kai_producer_snapshot(p, &stats);
    CHECK(stats.purged == 4 && stats.outstanding == 0 && stats.outstanding_bytes == 0);
    ka_producer_release(p);
    CHECK(ka_producer_results(shared, out, 8) == 3);
    CHECK(out[0].token + out[1].token + out[2].token == 6 && out[0].code && out[1].code);
    CHECK(ka_producer_results(shared, out, 8) == KA_CLOSED);
    ka_producer_unshare(shared);
}
#endif

/* ---------------------------------------------------------------- fork */

static void in_a_child_a_batch_touches_nothing(void)
{
    static const int64_t lengths[] = {1};
    ka_batch batch = {.count = 1, .data = "v", .value_len = lengths};
    ka_producer *p = open_producer(
        nowhere(), NULL, NULL,
        &(ka_producer_options){.queue_messages = 10, .queue_bytes = 1000, .topic = "t"});
    int status;
    pid_t child;

    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        ka_latency latency;
        int bad = ka_producer_send_batch(p, 0, &batch) != KA_FORKED;
        kai_hist_summary(&p->send_latency, &latency);
        _exit(bad || batch.next != 0 || latency.count != 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    finish(p, 0);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
#define CASE(test) {#test, test}
        CASE(failures_are_there_when_a_flush_returns),
        CASE(results_are_announced_when_a_flush_returns),
        CASE(a_flush_waits_for_the_epochs_before_its_own),
        CASE(who_waits_for_room_is_woken_by_an_outcome),
        CASE(a_refused_message_gives_its_place_back),
        CASE(a_batch_wakes_a_worker_that_sleeps),
        CASE(a_batch_stops_where_no_transaction_is_open),
        CASE(values_are_accepted_all_or_none),
        CASE(values_that_share_a_reservation_fit_the_ring),
        CASE(purges_at_the_same_time_count_each_message_once),
        CASE(a_purge_that_takes_its_time_wakes_a_worker_that_sleeps),
        CASE(a_call_takes_the_time_it_was_given),
        CASE(evicted_messages_fit_the_ring_while_the_worker_stands_still),
        CASE(messages_that_fail_at_once_fit_the_ring),
        CASE(an_evicted_message_is_dropped_and_purged_in_one_snapshot),
        CASE(a_purge_empties_the_ring_behind_a_full_share),
        CASE(what_comes_after_the_ring_started_over_can_be_evicted),
        CASE(nothing_is_evicted_for_a_message_that_finds_no_room_all_the_same),
        CASE(a_commit_asked_for_during_the_begin_bars_messages),
        CASE(a_commit_waits_for_what_is_on_its_way_into_the_ring),
        CASE(a_transaction_that_lost_a_message_cannot_be_committed),
        CASE(what_was_committed_while_closing_is_not_lost),
        CASE(what_is_accepted_beside_the_close_has_its_outcome),
        CASE(a_close_ends_every_wait),
        CASE(a_call_that_runs_is_answered_by_the_close),
#ifndef CHECK_TSAN /* they change a field under the worker's feet */
        CASE(what_an_abort_discards_is_not_lost),
        CASE(what_is_not_given_back_is_written_off_and_told),
#endif
        CASE(in_a_child_a_batch_touches_nothing),
    };

    hold_install();
    open_cluster();
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (argc < 2 || strstr(tests[i].name, argv[1]))
            check_run(tests[i].name, tests[i].run);
    close_cluster();
    return 0;
}
