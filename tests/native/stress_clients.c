/* A producer and a consumer against the embedded cluster, used from many threads at once: for the
 * sanitizers. Also counts: what was accepted is delivered, and read once, in order, though its partitions are paused
 * and resumed. A second topic is sought in, and assigned and not, meanwhile. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "ka.h"

enum { SENDERS = 3, EACH = 20000, PARTITIONS = 2, OTHERS = 100, COMMANDERS = 6 };

static ka_producer *producer;
static ka_consumer *consumer;
static _Atomic int done;

static void *send_all(void *arg)
{
    int64_t record[2] = {(intptr_t)arg, 0}; /* sender, number */

    while (record[1] < EACH) {
        int status =
            ka_producer_send_record(producer, 0, (int32_t)record[0] % PARTITIONS, -1,
                                    (const char *)record, sizeof record, "k", 1, NULL, 0, 0);
        if (status == KA_FULL)
            ka_wait_producer_room(producer, sizeof record + 1, 0, -1);
        else
            CHECK(status == KA_OK);
        record[1] += status == KA_OK;
    }
    return NULL;
}

static void *flush_and_count(void *arg)
{
    ka_producer_stats stats;

    (void)arg;
    while (!atomic_load(&done)) {
        int64_t ticket = ka_producer_flush(producer);
        if (ticket > 0)
            ka_wait_producer_flush(producer, ticket, 1000);
        CHECK(ka_producer_metrics(producer, &stats) == KA_OK);
        CHECK(stats.accepted == stats.delivered + stats.failed + stats.purged + stats.outstanding);
        CHECK(stats.outstanding >= 0 && stats.outstanding <= 500);
    }
    return NULL;
}

static void *watch_consumer(void *arg)
{
    ka_consumer_stats stats;
    ka_partition partitions[PARTITIONS];

    (void)arg;
    while (!atomic_load(&done)) {
        CHECK(ka_consumer_metrics(consumer, &stats) == KA_OK);
        CHECK(stats.prefetched >= 0);
        CHECK(ka_consumer_assignment(consumer, partitions, PARTITIONS) >= 0);
    }
    return NULL;
}

/* An answer is no failure, whatever another thread did meanwhile; state 1: but that it is not assigned. */
static void settle(ka_command *command, int state)
{
    ka_partition answer[2 * PARTITIONS];
    ka_error error;
    int status = ka_wait_command(command, 20000000, &error);

    CHECK(status == KA_OK || (state && status == KA_FAILED));
    CHECK(ka_consumer_answer(command, answer, 2LL * PARTITIONS) >= 0);
    ka_command_release(command);
}

static void pause_and_resume(uint64_t *seed)
{
    ka_partition which = {.topic = "t", .partition = (int32_t)check_random(seed, PARTITIONS)};

    settle(ka_consumer_pause(consumer, 1, &which, 1), 0);
    settle(ka_consumer_pause(consumer, 0, &which, 1), 0);
    for (int i = 0; i < 100; i++)
        check_pause(); /* so that reading comes on: what was fetched ahead is fetched again */
}

static void seek(uint64_t *seed)
{
    ka_partition to = {.topic = "u", .partition = 0, .offset = (int64_t)check_random(seed, OTHERS)};

    settle(ka_consumer_seek(consumer, &to), 0);
    check_pause();
}

static void assign_and_not(uint64_t *seed)
{
    ka_partition which = {.topic = "u", .partition = 1};

    which.offset = (int64_t)check_random(seed, OTHERS);
    settle(ka_consumer_assign(consumer, KA_ADD, &which, 1), 0);
    settle(ka_consumer_seek(consumer, &which), 0);
    settle(ka_consumer_assign(consumer, KA_REMOVE, &which, 1), 0);
    check_pause();
}

static void meet_what_is_gone(uint64_t *seed)
{
    ka_partition which = {
        .topic = "u", .partition = 1, .offset = (int64_t)check_random(seed, OTHERS)};

    settle(ka_consumer_seek(consumer, &which), 1);
    settle(ka_consumer_pause(consumer, 1, &which, 1), 1);
    ka_consumer_store(consumer, &which);
    check_pause();
}

static void commit(uint64_t *seed)
{
    ka_command *command = ka_consumer_commit(consumer, NULL, 0, (int)check_random(seed, 2));

    if (check_random(seed, 2))
        ka_command_release(command); /* nobody listens */
    else
        settle(command, 0);
}

static void ask(uint64_t *seed)
{
    ka_partition which = {.topic = "t", .partition = (int32_t)check_random(seed, PARTITIONS)};

    settle(ka_consumer_lag(consumer), 0);
    settle(ka_consumer_ask(consumer, KA_ASK_LAG, NULL, 0, 20000000), 0);
    settle(ka_consumer_ask(consumer, KA_ASK_WATERMARKS, &which, 1, 20000000), 0);
    settle(ka_consumer_ask(consumer, KA_ASK_COMMITTED, &which, 1, 20000000), 0);
}

static void *command(void *arg)
{
    static void (*const all[COMMANDERS])(uint64_t *) = {pause_and_resume,  seek,   assign_and_not,
                                                        meet_what_is_gone, commit, ask};
    uint64_t seed = (uint64_t)(intptr_t)arg + 1;

    while (!atomic_load(&done))
        all[(intptr_t)arg](&seed);
    return NULL;
}

/* As the facade does it. Whether row i of the block was handed out. */
static int hand_out(ka_block *block, int64_t i, int64_t *generation)
{
    int64_t now;

    __atomic_store_n(&block->handed, i + 1, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
    now = __atomic_load_n(&block->generation, __ATOMIC_RELAXED);
    if (now == *generation)
        return 1;
    if (!ka_consumer_keep(consumer))
        return 0;
    *generation = -1; /* the rest needs another look */
    return 1;
}

static void check_row(const ka_block *block, int64_t i, int64_t *next, int64_t *count)
{
    int64_t record[2];

    CHECK(block->value_end[i] - block->value_at[i] == sizeof record);
    memcpy(record, block->base + block->value_at[i], sizeof record);
    if (record[0] == SENDERS) { /* of the second topic */
        CHECK(record[1] == block->offset[i]);
        return;
    }
    CHECK(record[1] == next[record[0]]++);
    ++*count;
}

static void read_all(void)
{
    ka_block *block = ka_consumer_block(consumer);
    int64_t next[SENDERS] = {0}, count = 0;
    ka_partition where;
    ka_error error;

    while (count < (int64_t)SENDERS * EACH) {
        int64_t generation = __atomic_load_n(&block->generation, __ATOMIC_SEQ_CST);
        int64_t n = ka_consumer_take(consumer, &error, &where);
        CHECK(n >= 0);
        for (int64_t i = 0; i < n && generation >= 0 && hand_out(block, i, &generation); i++)
            check_row(block, i, next, &count);
        if (n == 0)
            ka_wait_consumer_ready(consumer, 100000);
    }
}

static void fill_others(void)
{
    int64_t record[2] = {SENDERS, 0};

    for (int32_t partition = 0; partition < PARTITIONS; partition++)
        for (record[1] = 0; record[1] < OTHERS; record[1]++)
            while (ka_producer_send_record(producer, ka_producer_topic(producer, "u"), partition,
                                           -1, (const char *)record, sizeof record, NULL, 0, NULL,
                                           0, 0) == KA_FULL)
                ka_wait_producer_room(producer, sizeof record, 0, -1);
}

static void finish(void)
{
    ka_producer_stats stats;

    CHECK(ka_producer_close(producer, 10000000) == KA_OK);
    CHECK(ka_wait_producer_closed(producer, -1) == 0);
    CHECK(ka_producer_metrics(producer, &stats) == KA_OK);
    CHECK(stats.delivered == (int64_t)SENDERS * EACH + (int64_t)PARTITIONS * OTHERS);
    CHECK(ka_consumer_close(consumer, 1) == KA_OK);
    CHECK(ka_wait_consumer_closed(consumer, -1) == KA_OK);
    ka_producer_release(producer);
    ka_consumer_release(consumer);
    CHECK(ka_wait_workers(10000000) == KA_OK);
}

int main(void)
{
    const ka_partition partitions[] = {{.topic = "t", .partition = 0, .offset = 0},
                                       {.topic = "t", .partition = 1, .offset = 0},
                                       {.topic = "u", .partition = 0, .offset = 0}};
    ka_error error;
    ka_mock *mock = ka_wait_mock_open(1, &error);
    ka_conf *conf[] = {ka_conf_new(), ka_conf_new()};
    pthread_t threads[SENDERS + 2 + COMMANDERS];

    CHECK(mock && ka_wait_mock_create_topic(mock, "t", PARTITIONS, &error) == KA_OK);
    CHECK(ka_wait_mock_create_topic(mock, "u", PARTITIONS, &error) == KA_OK);
    for (int i = 0; i < 2; i++)
        CHECK(ka_conf_set(conf[i], "bootstrap.servers", ka_mock_bootstrap_servers(mock), &error) ==
              KA_OK);
    CHECK(ka_conf_set(conf[1], "group.id", "none", &error) == KA_OK);
    CHECK(ka_conf_set(conf[1], "enable.auto.commit", "false", &error) == KA_OK);
    producer = ka_wait_producer_open(
        conf[0],
        &(ka_producer_options){.queue_messages = 500, .queue_bytes = 1 << 20, .topic = "t"},
        &error);
    consumer = ka_wait_consumer_open(conf[1],
                                     &(ka_consumer_options){.prefetch_messages = 300,
                                                            .prefetch_bytes = 1 << 16,
                                                            .default_offset = KA_OFFSET_BEGINNING},
                                     &error);
    CHECK(producer && consumer);
    fill_others();
    settle(ka_consumer_assign(consumer, KA_REPLACE, partitions, 3), 0);
    for (intptr_t i = 0; i < SENDERS; i++)
        CHECK(pthread_create(&threads[i], NULL, send_all, (void *)i) == 0);
    CHECK(pthread_create(&threads[SENDERS], NULL, flush_and_count, NULL) == 0);
    CHECK(pthread_create(&threads[SENDERS + 1], NULL, watch_consumer, NULL) == 0);
    for (intptr_t i = 0; i < COMMANDERS; i++)
        CHECK(pthread_create(&threads[SENDERS + 2 + i], NULL, command, (void *)i) == 0);
    read_all();
    atomic_store(&done, 1);
    for (int i = 0; i < SENDERS + 2 + COMMANDERS; i++)
        pthread_join(threads[i], NULL);
    finish();
    ka_wait_mock_close(mock);
    return 0;
}
