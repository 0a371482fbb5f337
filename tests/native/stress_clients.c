/* A producer and a consumer against the embedded cluster, used from many threads at once: for the
 * sanitizers. Also counts: what was accepted is delivered, and read once, in order. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "ka.h"

enum { SENDERS = 3, EACH = 20000, PARTITIONS = 2 };

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

static void read_all(void)
{
    ka_block *block = ka_consumer_block(consumer);
    int64_t next[SENDERS] = {0}, count = 0, record[2];
    ka_partition where;
    ka_error error;

    while (count < (int64_t)SENDERS * EACH) {
        int64_t n = ka_consumer_take(consumer, &error, &where);
        CHECK(n >= 0);
        for (int64_t i = 0; i < n; i++) {
            __atomic_store_n(&block->handed, i + 1, __ATOMIC_SEQ_CST);
            CHECK(block->value_end[i] - block->value_at[i] == sizeof record);
            memcpy(record, block->base + block->value_at[i], sizeof record);
            CHECK(record[1] == next[record[0]]++);
        }
        count += n;
        if (n == 0)
            ka_wait_consumer_ready(consumer, 100000);
    }
}

static void finish(void)
{
    ka_producer_stats stats;

    CHECK(ka_producer_close(producer, 10000000) == KA_OK);
    CHECK(ka_wait_producer_closed(producer, -1) == 0);
    CHECK(ka_producer_metrics(producer, &stats) == KA_OK);
    CHECK(stats.delivered == (int64_t)SENDERS * EACH);
    CHECK(ka_consumer_close(consumer, 1) == KA_OK);
    CHECK(ka_wait_consumer_closed(consumer, -1) == KA_OK);
    ka_producer_release(producer);
    ka_consumer_release(consumer);
    CHECK(ka_wait_workers(10000000) == KA_OK);
}

int main(void)
{
    const char *topics[] = {"t"};
    ka_error error;
    ka_mock *mock = ka_wait_mock_open(1, &error);
    ka_conf *conf[] = {ka_conf_new(), ka_conf_new()};
    pthread_t threads[SENDERS + 2];
    ka_command *command;

    CHECK(mock && ka_wait_mock_create_topic(mock, "t", PARTITIONS, &error) == KA_OK);
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
    command = ka_consumer_subscribe(consumer, topics, 1);
    CHECK(ka_wait_command(command, 10000000, &error) == KA_OK);
    ka_command_release(command);
    for (intptr_t i = 0; i < SENDERS; i++)
        CHECK(pthread_create(&threads[i], NULL, send_all, (void *)i) == 0);
    CHECK(pthread_create(&threads[SENDERS], NULL, flush_and_count, NULL) == 0);
    CHECK(pthread_create(&threads[SENDERS + 1], NULL, watch_consumer, NULL) == 0);
    read_all();
    atomic_store(&done, 1);
    for (int i = 0; i < SENDERS + 2; i++)
        pthread_join(threads[i], NULL);
    finish();
    ka_wait_mock_close(mock);
    return 0;
}
