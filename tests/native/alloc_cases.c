/* No memory: each call of our C that may find none fails once, in the first, the second ... of a life of producers
 * and consumers against the embedded cluster. Whoever asked must be told so, or it must come right by itself;
 * what works again is asked again, counts must hold with our own, closing must end in time, nothing may leak.
 *
 * Every case runs in a process of its own. alloc_cases SCENARIO runs those of one scenario, alloc_cases SCENARIO MODE
 * NUMBER a single one, and shows what fails in it.
 */
#include <dirent.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <librdkafka/rdkafka.h>

#include "check.h"
#include "ka_consumer.h"
#include "ka_log.h"

/* ONCE: one call fails. SPELL: all do from there on, until what was refused has been asked again in vain. EVER: all
 * do to the end. */
enum { ONCE, SPELL, EVER, MODES };
static const char *const mode_names[] = {"once", "spell", "ever"};

enum { UNREACHED = 3, AT_ONCE = 24, LATE_MS = 300, LIMIT_MS = 15000, CASE_LIMIT_S = 60 };

extern alloc_site __start_alloc_sites[], __stop_alloc_sites[];

static int mode, shows;
static char running[200];
static _Atomic int64_t calls, first_to_fail = INT64_MAX, failed;
static _Atomic int uncounted; /* calls are of no interest for now: others like them are made, too */
static _Atomic int *met;      /* of each site, how often it failed; shared by all processes */

int alloc_fails(const alloc_site *site)
{
    int64_t n, first = atomic_load(&first_to_fail);

    if (atomic_load(&uncounted))
        return 0;
    n = atomic_fetch_add(&calls, 1) + 1;
    if (mode == ONCE ? n != first : n < first)
        return 0;
    atomic_fetch_add(&failed, 1);
    atomic_fetch_add(&met[site - __start_alloc_sites], 1);
    if (shows)
        fprintf(stderr, "%s:%ld: no %s\n", site->file, site->line, site->call);
    errno = ENOMEM;
    return 1;
}

static void restore(void)
{
    atomic_store(&first_to_fail, INT64_MAX);
}

/* Whether there is no memory right now, as far as anybody has noticed. */
static int is_short(void)
{
    return mode != ONCE && atomic_load(&failed) && atomic_load(&first_to_fail) != INT64_MAX;
}

/* Whether a lack of memory explains a refusal, or that something is late. */
static int is_excused(void)
{
    static int64_t excused;
    static int times;

    if (is_short()) {
        if (++times == 2)
            restore();
        return 1;
    }
    if (mode != ONCE || excused == atomic_load(&failed))
        return 0;
    excused = atomic_load(&failed);
    return 1;
}

static int is_late(int64_t began)
{
    int64_t ms = check_now_ms() - began;

    if (is_short() && ms > LATE_MS)
        return 1;
    CHECK(ms < LIMIT_MS);
    check_pause();
    return 0;
}

/* In a step: until expr holds. Without memory it need not. */
#define AWAIT(expr)                                \
    for (int64_t began = check_now_ms(); !(expr);) \
        if (is_late(began))                        \
    return 0

/* ---------------------------------------------------------------- what a life has */

enum { CHUNK = 64, TOPICS = CHUNK + 2, MESSAGES = 300, PARTITIONS = 2, SMALL = 5, BIG = 1500000 };

typedef struct {
    ka_mock *mock;
    ka_conf *conf;
    ka_producer *p;
    ka_consumer *c;
    ka_bell *bell;
    int topics, stage;
    /* Our own counts. */
    int64_t ticket, accepted, tokens, delivered, lost;
    char told[2 * MESSAGES];
    int64_t read[2][PARTITIONS], handed; /* next offset of each partition */
    int again;                           /* it is read a second time, by batches */
    int lacked;                          /* there was no memory for the big one */
} life;

static life l;

static void open_cluster(void)
{
    ka_error error;

    CHECK((l.mock = ka_wait_mock_open(1, &error)));
    CHECK(ka_wait_mock_create_topic(l.mock, "t", PARTITIONS, &error) == KA_OK);
    CHECK(ka_wait_mock_create_topic(l.mock, "u", PARTITIONS, &error) == KA_OK);
}

static void set(const char *name, const char *value)
{
    ka_error error;

    CHECK(ka_conf_set(l.conf, name, value, &error) == KA_OK);
}

static int make_conf(void)
{
    if (!(l.conf = ka_conf_new()))
        return 0;
    set("bootstrap.servers", ka_mock_bootstrap_servers(l.mock));
    set("sasl.password", "taken note of, though nobody asks");
    return 1;
}

/* Whether it was answered KA_OK; the only other answer is that there was no memory. */
static int is_answered(ka_command *command, int64_t *value)
{
    ka_error error = {.text = ""};
    int64_t began = check_now_ms();
    int status;

    if (!command)
        return 0;
    status = ka_wait_command(command, (int64_t)LIMIT_MS * 1000, &error);
    if (value)
        *value = ka_command_value(command);
    ka_command_release(command);
    if (status != KA_OK && status != KA_NOMEM)
        fprintf(stderr, "%s: status %d after %d ms: %s\n", running, status,
                (int)(check_now_ms() - began), error.text);
    CHECK(status == KA_OK || (status == KA_NOMEM && atomic_load(&failed)));
    return status == KA_OK;
}

static int open_bell(void)
{
    if (!(l.bell = ka_bell_new()))
        return 0;
    if (ka_bell_descriptor(l.bell) >= 0)
        return 1;
    ka_bell_release(l.bell);
    l.bell = NULL;
    return 0;
}

static int32_t first_cpu(void)
{
    cpu_set_t set;
    size_t cpu = 0;

    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    while (!CPU_ISSET(cpu, &set))
        cpu++;
    return (int32_t)cpu;
}

/* How many messages the log of topic t has, as a client of its own sees it. */
static int64_t count_log(void)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int64_t low, high, sum = 0;
    char text[256];
    rd_kafka_t *rk;

    CHECK(ka_wait_mock_broker(l.mock, 1, 1) == KA_OK);
    CHECK(!rd_kafka_conf_set(conf, "bootstrap.servers", ka_mock_bootstrap_servers(l.mock), text,
                             sizeof text));
    CHECK((rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text)));
    for (int32_t i = 0; i < PARTITIONS; i++, sum += high)
        CHECK(!rd_kafka_query_watermark_offsets(rk, "t", i, &low, &high, LIMIT_MS));
    rd_kafka_destroy(rk);
    return sum;
}

/* ---------------------------------------------------------------- a producer's steps */

static ka_producer_options producer_options(void)
{
    return (ka_producer_options){.queue_messages = 2 * MESSAGES,
                                 .queue_bytes = 1 << 20,
                                 .topic = "t",
                                 .bound = 1,
                                 .cpu = first_cpu()};
}

static int try_producer(const ka_producer_options *options)
{
    ka_error error = {.code = 0};

    if ((l.p = ka_wait_producer_open(l.conf, options, &error))) {
        l.conf = NULL;
        return 1;
    }
    CHECK(error.code == KA_NOMEM && *error.text);
    return 0;
}

static int make_producer_conf(void)
{
    if (!make_conf())
        return 0;
    set("linger.ms", "60000"); /* so that a flush has to override it */
    return 1;
}

static int read_table(void)
{
    static char text[1 << 17];
    int64_t len = ka_conf_properties(text, sizeof text);

    CHECK(len == KA_NOMEM || len > 10000);
    return len > 0;
}

static int open_producer(void)
{
    ka_producer_options options = producer_options();

    return try_producer(&options);
}

static int hang_bell(void)
{
    if (!open_bell())
        return 0;
    ka_producer_hang(l.p, l.bell);
    return 1;
}

static int name_topics(void)
{
    for (; l.topics < TOPICS; l.topics++) {
        char name[24];
        int32_t number;

        snprintf(name, sizeof name, "topic%d", l.topics);
        atomic_store(&uncounted, l.topics > 1 && l.topics < CHUNK - 2);
        number = ka_producer_topic(l.p, name);
        atomic_store(&uncounted, 0);
        if (number == KA_NOMEM)
            return 0;
        CHECK(number == l.topics + 1);
        CHECK(ka_producer_topic(l.p, name) == number);
    }
    return 1;
}

static int count_partitions(void)
{
    int64_t value;

    if (!is_answered(ka_producer_partitions(l.p, 0, 1, 10000000), &value))
        return 0;
    CHECK(value == PARTITIONS && ka_producer_partition_count(l.p, 0) == PARTITIONS);
    return 1;
}

static void check_counts(ka_producer_stats *stats)
{
    CHECK(ka_producer_metrics(l.p, stats) == KA_OK);
    CHECK(stats->accepted == l.accepted);
    CHECK(stats->accepted == stats->delivered + stats->failed + stats->purged + stats->outstanding);
}

static void send_one(int with_token)
{
    static const char headers[] = "\1\0\0\0\2\0\0\0hvv";
    int64_t token = with_token ? l.tokens + 1 : 0;
    int status = ka_producer_send_record(l.p, 0, KA_PARTITION_ANY, -1, "value", 5, "key", 3,
                                         with_token ? headers : NULL,
                                         with_token ? (int64_t)sizeof headers - 1 : 0, token);

    CHECK(status == KA_OK);
    l.accepted++;
    l.tokens += with_token;
}

/* Sending needs no memory. */
static int send_all(void)
{
    static const int64_t lengths[] = {1, 1, 1};
    int32_t status[3];
    ka_batch batch = {.count = 3, .data = "abc", .value_len = lengths, .status = status};

    while (l.accepted < MESSAGES)
        send_one(l.accepted % 2 == 1);
    CHECK(ka_producer_send_batch(l.p, 0, &batch) == KA_OK && batch.accepted == 3);
    l.accepted += 3;
    CHECK(ka_producer_send(l.p, "x", 1) == KA_OK);
    l.accepted++;
    return 1;
}

static int flush(void)
{
    ka_producer_stats stats;

    if (!l.ticket) /* asked for once: the worker tries again by itself */
        CHECK((l.ticket = ka_producer_flush(l.p)) >= 0);
    if (l.ticket)
        AWAIT(ka_try_producer_flush(l.p, l.ticket) == KA_OK);
    l.ticket = 0;
    check_counts(&stats);
    CHECK(stats.outstanding == 0);
    return 1;
}

/* Each token is told once. KA_CLOSED at the end. */
static int64_t take_results(void)
{
    ka_result results[64];
    int64_t n = ka_producer_results(l.p, results, 64);

    for (int64_t i = 0; i < n; i++) {
        CHECK(results[i].token >= 1 && results[i].token <= l.tokens);
        CHECK(!l.told[results[i].token]++);
        l.delivered += results[i].code == 0;
    }
    return n;
}

static int64_t count_told(void)
{
    int64_t n = 0;

    while (take_results() > 0)
        continue;
    for (int64_t i = 1; i <= l.tokens; i++)
        n += l.told[i];
    return n;
}

static int is_all_told(void)
{
    AWAIT(count_told() == l.tokens);
    CHECK(l.delivered == l.tokens);
    return 1;
}

static int fail_one(void)
{
    static const int32_t refusal = RD_KAFKA_RESP_ERR_INVALID_RECORD;

    CHECK(ka_mock_fail(l.mock, 0, &refusal, 1) == KA_OK);
    send_one(0);
    return 1;
}

/* A failure that there was no memory to keep is counted all the same. */
static int take_failure(void)
{
    ka_producer_stats stats;
    ka_failure *failure;

    check_counts(&stats);
    CHECK(stats.failed == 1);
    if ((failure = ka_producer_failure(l.p)))
        CHECK(failure->value_len == 5 && memcmp(failure->value, "value", 5) == 0);
    CHECK(failure || atomic_load(&failed));
    ka_failure_free(failure);
    CHECK(ka_producer_unreported(l.p, 0) == 1);
    CHECK(ka_producer_unreported(l.p, 1) == 0);
    return 1;
}

static int send_to_nobody(void)
{
    CHECK(ka_wait_mock_broker(l.mock, 1, 0) == KA_OK);
    for (int i = 0; i < 4; i++)
        send_one(i % 2);
    return 1;
}

static int purge(void)
{
    ka_producer_stats stats;

    if (!is_answered(ka_producer_purge(l.p, 1), NULL))
        return 0;
    check_counts(&stats);
    CHECK(stats.outstanding == 0 && stats.purged == 4);
    return 1;
}

static void close_producer(void)
{
    int64_t began = check_now_ms(), timeout_ms = mode == EVER ? 300 : 3000;
    ka_producer_stats stats;
    int64_t log;

    CHECK(ka_producer_close(l.p, timeout_ms * 1000) == KA_OK);
    l.lost = ka_wait_producer_closed(l.p, (int64_t)LIMIT_MS * 1000);
    CHECK(l.lost >= 0);
    CHECK(check_now_ms() - began < timeout_ms + 3000); /* what closing may add, on a slow machine */
    CHECK(count_told() == l.tokens);
    CHECK(take_results() == KA_CLOSED);
    check_counts(&stats);
    CHECK(stats.outstanding == 0 && stats.outstanding_bytes == 0);
    log = count_log();
    CHECK(stats.delivered >= l.delivered);
    CHECK(stats.delivered == log || (mode == EVER && stats.delivered < log));
    ka_producer_release(l.p);
}

static int (*const producer_steps[])(void) = {
    make_producer_conf, read_table, open_producer, hang_bell, name_topics, count_partitions,
    send_all,           flush,      is_all_told,   fail_one,  flush,       take_failure,
    send_to_nobody,     purge,      NULL};

/* ---------------------------------------------------------------- messages that grow old */

static void begin_old(void)
{
    ka_producer_options options = {.queue_messages = 20,
                                   .queue_bytes = 1 << 20,
                                   .topic = "t",
                                   .on_full = KA_DROP_OLD,
                                   .count_partitions = 1};

    open_cluster();
    CHECK(make_conf());
    set("message.timeout.ms", "700");
    set("topic.metadata.refresh.interval.ms", "100");
    set("reconnect.backoff.max.ms", "200");
    CHECK(try_producer(&options));
    CHECK(ka_wait_mock_broker(l.mock, 1, 0) == KA_OK);
}

static int send_too_many(void)
{
    for (int i = 0; i < 100; i++) {
        int64_t token = l.tokens + 1;
        int status = ka_producer_send_record(l.p, 0, 0, -1, "value", 5, NULL, 0, NULL, 0, token);
        CHECK(status == KA_OK || status == KA_DROPPED);
        l.accepted += status == KA_OK;
        l.tokens += status == KA_OK;
    }
    return 1;
}

/* message.timeout.ms ends them, with memory or without. */
static int grow_old(void)
{
    ka_producer_stats stats;

    CHECK_SOON(count_told() == l.tokens);
    check_counts(&stats);
    CHECK(stats.delivered == 0 && stats.failed > 0 && stats.outstanding == 0);
    CHECK(ka_wait_mock_broker(l.mock, 1, 1) == KA_OK);
    return 1;
}

/* What grows old before there is a connection is sent anew. */
static int is_delivered(void)
{
    ka_producer_stats stats;

    check_counts(&stats);
    if (stats.outstanding == 0 && stats.delivered == 0)
        send_one(0);
    return stats.delivered == 1;
}

static int send_again(void)
{
    AWAIT(is_delivered());
    return 1;
}

static int (*const old_steps[])(void) = {send_too_many, grow_old, send_again, NULL};

/* ---------------------------------------------------------------- transactions */

static void begin_transactions(void)
{
    ka_error error;

    open_cluster();
    CHECK(make_conf());
    set("group.id", "g");
    l.c = ka_wait_consumer_open(
        l.conf, &(ka_consumer_options){.prefetch_messages = 10, .prefetch_bytes = 1000, .group = 1},
        &error);
    CHECK(l.c && make_conf());
    set("transactional.id", "x");
}

static int transact(int what)
{
    return is_answered(ka_producer_transact(l.p, what, 10000000), NULL);
}

static int init_transactions(void)
{
    return transact(KA_INIT);
}

static int begin_transaction(void)
{
    if (!transact(KA_BEGIN))
        return 0;
    send_one(1);
    send_one(0);
    return 1;
}

static int commit_transaction(void)
{
    return transact(KA_COMMIT);
}
static int abort_transaction(void)
{
    return transact(KA_ABORT);
}

static int send_offsets(void)
{
    ka_partition offsets[] = {{.topic = "u", .partition = 0, .offset = 3}};
    ka_command *group = ka_consumer_group(l.c), *sent;
    ka_error error;
    int status;

    if (!group)
        return 0;
    status = ka_wait_command(group, (int64_t)LIMIT_MS * 1000, &error);
    CHECK(status == KA_OK || status == KA_NOMEM);
    sent = status == KA_OK ? ka_producer_send_offsets(l.p, group, offsets, 1, 10000000) : NULL;
    ka_command_release(group);
    return is_answered(sent, NULL);
}

static int (*const transaction_steps[])(void) = {
    open_producer, init_transactions,  begin_transaction,
    send_offsets,  commit_transaction, begin_transaction,
    flush,         abort_transaction,  begin_transaction,
    NULL};

/* ---------------------------------------------------------------- a consumer's steps */

/* Into both topics, each of whose partitions has SMALL messages; the first one has a big one before its last. */
static void fill_topics(void)
{
    static char big[BIG];
    ka_producer *p;
    ka_error error;

    CHECK(make_conf());
    set("message.max.bytes", "2000000");
    p = ka_wait_producer_open(
        l.conf, &(ka_producer_options){.queue_messages = 100, .queue_bytes = 1 << 22}, &error);
    CHECK(p);
    for (int32_t i = 0; i < SMALL; i++)
        for (int32_t n = 0; n < 2 * PARTITIONS; n++) {
            int is_big = i == SMALL - 2 && n == 0;
            CHECK(ka_producer_send_record(p, ka_producer_topic(p, n % 2 ? "u" : "t"), n / 2, -1,
                                          big, is_big ? BIG : 10, "k", 1, NULL, 0, 0) == KA_OK);
        }
    CHECK(ka_producer_close(p, 10000000) == KA_OK && ka_wait_producer_closed(p, -1) == 0);
    ka_producer_release(p);
    CHECK(ka_wait_workers(10000000) == KA_OK);
    l.conf = NULL;
}

static void begin_consumer(void)
{
    open_cluster();
    fill_topics();
}

static ka_consumer_options consumer_options(void)
{
    return (ka_consumer_options){.prefetch_messages = 1000,
                                 .prefetch_bytes = 1 << 22,
                                 .default_offset = KA_OFFSET_BEGINNING,
                                 .bound = 1,
                                 .cpu = first_cpu()};
}

static int try_consumer(const ka_consumer_options *options)
{
    ka_error error = {.code = 0};

    if ((l.c = ka_wait_consumer_open(l.conf, options, &error))) {
        l.conf = NULL;
        return 1;
    }
    CHECK(error.code == KA_NOMEM && *error.text);
    return 0;
}

static int make_consumer_conf(void)
{
    if (!make_conf())
        return 0;
    set("group.id", "g");
    set("auto.offset.reset", "earliest");
    set("enable.auto.commit", "false");
    set("message.max.bytes", "2000000");
    set("heartbeat.interval.ms", "100");
    set("enable.partition.eof", "true");
    return 1;
}

static int open_consumer(void)
{
    ka_consumer_options options = consumer_options();

    return try_consumer(&options);
}

static int hang_consumer_bell(void)
{
    if (!open_bell())
        return 0;
    ka_consumer_hang(l.c, l.bell);
    return 1;
}

static int subscribe(void)
{
    static const char *const topics[] = {"t", "u"};

    return is_answered(ka_consumer_subscribe(l.c, topics, 2), NULL);
}

/* Once each, in order. */
static void note_message(const int64_t *columns, int64_t stride, int64_t i)
{
    const char *name = ka_consumer_topic_name(l.c, columns[i]);
    int64_t number = columns[stride + i], offset = columns[2 * stride + i];
    int64_t len = columns[6 * stride + i] - columns[5 * stride + i];

    CHECK(offset == l.read[*name == 'u'][number]++);
    CHECK(len == (*name == 't' && number == 0 && offset == SMALL - 2 ? BIG : 10));
    l.handed++;
}

static int is_all_read(void)
{
    int64_t n = 0;

    for (int i = 0; i < 2; i++)
        for (int32_t k = 0; k < PARTITIONS; k++)
            n += l.read[i][k];
    return n == (int64_t)2 * PARTITIONS * SMALL;
}

/* The polling thread alone reads, so no row is stale. */
static int64_t read_block(ka_error *error, ka_partition *where)
{
    ka_block *block = ka_consumer_block(l.c);
    int64_t n = ka_consumer_take(l.c, error, where);

    for (int64_t i = 0; i < n; i++) {
        note_message(block->topic, KA_BLOCK, i);
        __atomic_store_n(&block->handed, i + 1, __ATOMIC_SEQ_CST);
    }
    return n;
}

static int64_t read_batch(ka_error *error, ka_partition *where)
{
    ka_messages *messages = NULL;
    int64_t n = ka_consumer_take_messages(l.c, 7, &messages, error, where);

    for (int64_t i = 0; i < n; i++)
        note_message((const int64_t *)(messages + 1), messages->count, i);
    ka_messages_free(&messages);
    return n;
}

/* Whether all has been read by now; -1: there was no memory to read it, and the application was told. */
static int read_more(void)
{
    ka_partition where;
    ka_error error = {.text = ""};
    int64_t n = l.again ? read_batch(&error, &where) : read_block(&error, &where);

    if (n == KA_FAILED && error.code == RD_KAFKA_RESP_ERR__PARTITION_EOF)
        return is_all_read();
    if (n == KA_FAILED && error.code != KA_NOMEM)
        fprintf(stderr, "%s: %s\n", running, error.text);
    CHECK(n >= 0 || (n == KA_FAILED && error.code == KA_NOMEM) || n == KA_NOMEM);
    if (n == KA_FAILED) { /* the big one comes later by itself */
        CHECK(where.offset == SMALL - 2 && where.partition == 0);
        CHECK(l.lacked++ == l.again);
    }
    return n == KA_NOMEM ? -1 : is_all_read();
}

static int read_all(void)
{
    int read;

    AWAIT((read = read_more()));
    if (read < 0)
        return 0;
    ka_consumer_take(l.c, &(ka_error){0}, &(ka_partition){0}); /* the last one is processed, too */
    return 1;
}

static int ask(void)
{
    ka_partition which = {.topic = "t", .partition = 0};

    return is_answered(ka_consumer_ask(l.c, KA_ASK_WATERMARKS, &which, 1, 10000000), NULL) &&
           is_answered(ka_consumer_ask(l.c, KA_ASK_TIMES, &which, 1, 10000000), NULL) &&
           is_answered(ka_consumer_lag(l.c), NULL);
}

static int pause_and_resume(void)
{
    ka_partition which[] = {{.topic = "t", .partition = 0}, {.topic = "u", .partition = 1}};

    return is_answered(ka_consumer_pause(l.c, 1, which, 2), NULL) &&
           is_answered(ka_consumer_pause(l.c, 0, which, 2), NULL);
}

static int64_t count_received(void)
{
    ka_consumer_stats stats;

    CHECK(ka_consumer_metrics(l.c, &stats) == KA_OK);
    return stats.received;
}

/* All is there once more, behind what is stale by the seeks: the ends of partitions. */
static int is_fetched(void)
{
    AWAIT(count_received() >= l.handed + (int64_t)2 * PARTITIONS * SMALL);
    return 1;
}

/* What was counted of the ring when it was used up, was counted once. */
static int is_ring_empty(void)
{
    AWAIT(ka_consumer_take(l.c, &(ka_error){0}, &(ka_partition){0}) == 0 &&
          ka_try_consumer_ready(l.c) == KA_TIMEOUT && kai_held_messages(l.c) == 0 &&
          atomic_load(&l.c->held_failures) == 0 && atomic_load(&l.c->held_ends) == 0);
    return 1;
}

static int seek_all(void)
{
    for (; l.stage < 2 * PARTITIONS; l.stage++) {
        ka_partition to = {.topic = l.stage % 2 ? "u" : "t", .partition = l.stage / 2};
        if (!is_answered(ka_consumer_seek(l.c, &to), NULL))
            return 0;
        l.read[l.stage % 2][l.stage / 2] = 0;
    }
    l.again = l.lacked = 1;
    return 1;
}

static int assign_others(void)
{
    ka_partition some[] = {{.topic = "other", .partition = 3}, {.topic = "u", .partition = 0}};
    ka_partition another[] = {{.topic = "another", .partition = 1}};

    switch (l.stage) {
    case 2 * PARTITIONS:
        if (!is_answered(ka_consumer_assign(l.c, KA_REPLACE, some, 2), NULL))
            return 0;
        l.stage++; /* fallthrough */
    case 2 * PARTITIONS + 1:
        if (!is_answered(ka_consumer_assign(l.c, KA_ADD, another, 1), NULL))
            return 0;
        l.stage++; /* fallthrough */
    default:
        CHECK(ka_consumer_assignment(l.c, NULL, 0) == 3);
        return is_answered(ka_consumer_assign(l.c, KA_REMOVE, another, 1), NULL);
    }
}

static void close_consumer(void)
{
    int64_t began = check_now_ms();
    ka_consumer_stats stats;

    CHECK(ka_consumer_close(l.c, 1) == KA_OK);
    CHECK(ka_wait_consumer_closed(l.c, (int64_t)LIMIT_MS * 1000) == KA_OK);
    CHECK(check_now_ms() - began < 10000); /* librdkafka leaves the group, the machine is busy */
    CHECK(ka_consumer_metrics(l.c, &stats) == KA_OK);
    CHECK(stats.handed_out == l.handed && stats.prefetched == 0);
    CHECK(stats.received == stats.handed_out + stats.purged);
    ka_consumer_release(l.c);
}

static int (*const consumer_steps[])(void) = {make_consumer_conf,
                                              open_consumer,
                                              hang_consumer_bell,
                                              subscribe,
                                              read_all,
                                              ask,
                                              pause_and_resume,
                                              seek_all,
                                              is_fetched,
                                              read_all,
                                              is_ring_empty,
                                              assign_others,
                                              NULL};

/* ---------------------------------------------------------------- a member of a group */

static void begin_member(void)
{
    ka_consumer_options options = consumer_options();

    begin_consumer();
    CHECK(make_consumer_conf());
    options.group = 1;
    options.callbacks = KA_ON_ASSIGN | KA_ON_REVOKE | KA_ON_LOST;
    CHECK(try_consumer(&options));
}

/* As a member that has no callbacks. */
static void begin_silent_member(void)
{
    ka_consumer_options options = consumer_options();

    begin_consumer();
    CHECK(make_consumer_conf());
    options.group = 1;
    CHECK(try_consumer(&options));
}

static int subscribe_by_pattern(void)
{
    static const char *const topics[] = {"^t$", "u"};

    return is_answered(ka_consumer_subscribe(l.c, topics, 2), NULL);
}

/* The next callback is this one, for all partitions. */
static int is_told(int32_t kind)
{
    ka_partition where, partitions[2 * PARTITIONS];
    ka_error error;
    int32_t told;

    AWAIT(ka_consumer_take(l.c, &error, &where) == KA_REBALANCE);
    CHECK(ka_consumer_rebalance(l.c, &told, partitions, 2 * PARTITIONS) == 2 * PARTITIONS);
    CHECK(told == kind);
    ka_consumer_rebalanced(l.c);
    return 1;
}

static int join(void)
{
    return is_told(KA_ON_ASSIGN);
}

static int commit(void)
{
    return is_answered(ka_consumer_commit(l.c, NULL, 0, 0), NULL);
}

static int ask_committed(void)
{
    ka_partition which = {.topic = "u", .partition = 1}, found;
    ka_command *command = ka_consumer_ask(l.c, KA_ASK_COMMITTED, &which, 1, 10000000);
    ka_error error;
    int status;

    if (!command)
        return 0;
    status = ka_wait_command(command, (int64_t)LIMIT_MS * 1000, &error);
    CHECK(status == KA_OK || status == KA_NOMEM);
    if (status == KA_OK)
        CHECK(ka_consumer_answer(command, &found, 1) == 1 && found.offset == SMALL);
    ka_command_release(command);
    return status == KA_OK;
}

/* The group does not know it any more. */
static int be_expelled(void)
{
    static const int32_t unknown = RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;

    CHECK(ka_mock_fail(l.mock, 12, &unknown, 1) == KA_OK);
    return 1;
}

static int lose(void)
{
    return is_told(KA_ON_LOST);
}

static int unsubscribe(void)
{
    return is_answered(ka_consumer_subscribe(l.c, NULL, 0), NULL);
}

static int (*const member_steps[])(void) = {subscribe_by_pattern, join,        read_all, commit,
                                            ask_committed,        be_expelled, lose,     NULL};
static int (*const silent_steps[])(void) = {subscribe, read_all, unsubscribe, NULL};

/* ---------------------------------------------------------------- the rest */

static int make_mock(void)
{
    ka_error error = {.code = 0};

    l.mock = ka_wait_mock_open(1, &error);
    CHECK(l.mock || error.code == KA_NOMEM);
    return l.mock != NULL;
}

/* A line that there is no ring for is counted. */
static int write_log(void)
{
    static ka_log_line line;
    int64_t failures = atomic_load(&failed);

    CHECK(ka_wait_log(0) == KA_TIMEOUT);
    CHECK(ka_log_next(&line) == KA_EMPTY);
    kai_log_put(NULL, 3, "TEST", "text");
    if (ka_log_lost() == 1) {
        CHECK(atomic_load(&failed) > failures);
        CHECK(ka_log_next(&line) == KA_EMPTY);
        return 0;
    }
    CHECK(ka_wait_log(0) == KA_OK && ka_log_next(&line) == KA_OK);
    CHECK(strcmp(line.text, "text") == 0);
    return 1;
}

static int make_plain_producer(void)
{
    static const ka_producer_options options = {
        .queue_messages = 10, .queue_bytes = 1000, .topic = "t"};

    return (l.conf || make_conf()) && try_producer(&options);
}

/* The child must know that it is one, though the handler was registered late. */
static int fork_child(void)
{
    ka_log_line line;
    int status;
    pid_t child = fork();

    if (child == 0)
        _exit(ka_producer_send(l.p, "x", 1) == KA_FORKED && ka_log_next(&line) == KA_EMPTY ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 1;
}

static int send_some(void)
{
    while (l.accepted < 5)
        send_one(0);
    return 1;
}

/* Nobody wants it yet; an answer without memory is one, too. */
static int give_token(void)
{
    ka_oauth *oauth = ka_oauth_new();

    if (!oauth)
        return 0;
    CHECK(ka_oauth_give(oauth, "token", 1, "me", "", 0) == KA_CLOSED);
    ka_oauth_release(oauth);
    return 1;
}

static int (*const process_steps[])(void) = {make_mock,           write_log, give_token,
                                             make_plain_producer, write_log, fork_child,
                                             send_some,           flush,     NULL};

/* ---------------------------------------------------------------- cases */

typedef struct {
    const char *name;
    void (*begin)(void);
    int (*const *steps)(void);
} scenario;

static void begin_nothing(void)
{
}

static const scenario scenarios[] = {
    {"member", begin_member, member_steps},
    {"silent", begin_silent_member, silent_steps},
    {"old", begin_old, old_steps},
    {"transactions", begin_transactions, transaction_steps},
    {"consumer", begin_consumer, consumer_steps},
    {"producer", open_cluster, producer_steps},
    {"process", begin_nothing, process_steps},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

static int count_entries(const char *path)
{
    DIR *folder = opendir(path);
    int n = 0;

    CHECK(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

static void live(const scenario *s)
{
    for (int (*const *step)(void) = s->steps; *step; step++)
        while (!(*step)()) {
            CHECK(is_excused());
            if (mode == EVER)
                return;
        }
}

static void end_life(void)
{
    if (l.p)
        close_producer();
    if (l.c)
        close_consumer();
    if (l.bell)
        ka_bell_release(l.bell);
    ka_conf_free(l.conf);
    CHECK(ka_wait_workers((int64_t)LIMIT_MS * 1000) == KA_OK);
    if (l.mock)
        ka_wait_mock_close(l.mock);
}

static void run_case(const scenario *s, int64_t number)
{
    int descriptors = count_entries("/proc/self/fd"), threads = count_entries("/proc/self/task");

    snprintf(running, sizeof running, "%s %s %d", s->name, mode_names[mode], (int)number);
    check_running = running;
    signal(SIGALRM, check_late);
    alarm(CASE_LIMIT_S);
    s->begin();
    atomic_store(&calls, 0);
    atomic_store(&first_to_fail, number);
    live(s);
    if (mode != EVER)
        restore();
    end_life();
    CHECK_SOON(count_entries("/proc/self/task") == threads);
    CHECK(atomic_load(&failed) < 1000); /* who finds no memory tries again after a while */
    CHECK(count_entries("/proc/self/fd") == descriptors);
    exit(atomic_load(&failed) ? 0 : UNREACHED); /* by way of the check for leaks */
}

static struct {
    pid_t pid;
    int scenario, mode;
    int64_t number;
} cases[AT_ONCE];
static int ended[SCENARIOS][MODES]; /* no call has that number */
static int bad, count;

static void reap(void)
{
    int status, i = 0;
    pid_t pid = wait(&status);

    while (cases[i].pid != pid)
        i++;
    cases[i].pid = 0;
    count++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == UNREACHED) {
        ended[cases[i].scenario][cases[i].mode] = 1;
    } else if (status != 0) {
        fprintf(stderr, "failed with status %x: alloc_cases %s %s %d\n", (unsigned)status,
                scenarios[cases[i].scenario].name, mode_names[cases[i].mode], (int)cases[i].number);
        bad++;
    }
}

/* A place for another one. */
static int free_case(void)
{
    for (;;) {
        for (int i = 0; i < AT_ONCE; i++)
            if (!cases[i].pid)
                return i;
        reap();
    }
}

static void start_case(int which, int how, int64_t number)
{
    int i = free_case();

    if (ended[which][how])
        return;
    cases[i].scenario = which;
    cases[i].mode = how;
    cases[i].number = number;
    if ((cases[i].pid = fork()) == 0) {
        mode = how;
        run_case(&scenarios[which], number);
    }
    CHECK(cases[i].pid > 0);
}

static int is_running(void)
{
    for (int i = 0; i < AT_ONCE; i++)
        if (cases[i].pid)
            return 1;
    return 0;
}

static void run_all(int from, int to)
{
    for (int which = from; which < to; which++) {
        int64_t began = check_now_ms();
        for (int how = 0; how < MODES; how++)
            for (int64_t number = 1; !ended[which][how] && bad < 20; number++)
                start_case(which, how, number);
        printf("%s: %d cases by now, %d ms\n", scenarios[which].name, count,
               (int)(check_now_ms() - began));
        fflush(NULL);
    }
    while (is_running())
        reap();
}

/* Every call that may fail did. */
static void check_sites(void)
{
    for (const alloc_site *site = __start_alloc_sites; site < __stop_alloc_sites; site++) {
        int times = atomic_load(&met[site - __start_alloc_sites]);
        printf("%4d x %s:%ld %s\n", times, strrchr(site->file, '/') + 1, site->line, site->call);
        bad += times == 0;
    }
}

static int index_of(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "alloc_cases: %s is not known\n", name);
    abort();
}

int main(int argc, char **argv)
{
    size_t size = (size_t)(__stop_alloc_sites - __start_alloc_sites) * sizeof *met;
    const char *names[SCENARIOS];
    int which = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    met = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(met != MAP_FAILED);
    for (int i = 0; i < SCENARIOS; i++)
        names[i] = scenarios[i].name;
    if (argc > 1)
        which = index_of(argv[1], names, SCENARIOS);
    if (argc > 3) {
        shows = 1;
        mode = index_of(argv[2], mode_names, MODES);
        run_case(&scenarios[which], strtoll(argv[3], NULL, 10));
    }
    run_all(argc > 1 ? which : 0, argc > 1 ? which + 1 : SCENARIOS);
    if (argc == 1)
        check_sites();
    printf("%d cases, %d bad\n", count, bad);
    return bad != 0;
}
