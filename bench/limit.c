/* What plain C over librdkafka takes for what the other clients do: the limit of what a client over it can reach.
 *
 * limit COMMAND SERVERS TOPIC PARTITIONS COUNT SIZE RATE [PROPERTY=VALUE]...
 *
 * Takes one sample, and prints its values as a JSON object, named as kafka_async/bench/timing.py names them. The settings are
 * those of kafka_async/bench/clients.py. Errors end it with status 1 and a line on stderr. */
#define _GNU_SOURCE
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { TIMEOUT_MS = 120000, BATCH = 500, POINTS = 13, STAMP = 8 };

static const double points[POINTS] = {1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100};

typedef struct {
    const char *command, *servers, *topic;
    int partitions;
    int64_t count;
    size_t size;
    double rate;
    char **settings;
    int setting_count;
} order;

static _Atomic int64_t delivered;
static _Atomic int ended;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "limit: %s: %s\n", what, why);
    fflush(stderr);
    _exit(1);
}

static void *room(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);

    if (!memory)
        die("malloc", "no memory");
    return memory;
}

static double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || value < 0)
        die(text, "is not a number");
    return value;
}

/* Clocks ------------------------------------------------------------------------------------- */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static void sleep_until(int64_t due)
{
    int64_t left;

    while ((left = due - now_ns()) > 0) {
        struct timespec nap = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        nanosleep(&nap, NULL);
    }
}

static void exact_timers(void)
{
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1);
#endif
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print_percentiles(int64_t *times, int64_t count)
{
    qsort(times, (size_t)count, sizeof *times, by_size);
    for (int i = 0; i < POINTS; i++) {
        double rank = (double)count * points[i] / 100;
        int64_t at = (int64_t)rank + (rank > (double)(int64_t)rank) - 1;
        printf("%s\"p%g\": %.3f", i ? ", " : "", points[i], (double)times[at < 0 ? 0 : at] / 1000);
    }
}

/* Clients ------------------------------------------------------------------------------------ */

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char error[512];

    if (rd_kafka_conf_set(conf, name, value, error, sizeof error) != RD_KAFKA_CONF_OK)
        die(name, error);
}

static rd_kafka_conf_t *common(const order *o)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    set(conf, "bootstrap.servers", o->servers);
    set(conf, "socket.nagle.disable", "true");
    for (int i = 0; i < o->setting_count; i++) {
        char *value = strchr(o->settings[i], '=');
        if (!value)
            die(o->settings[i], "is not PROPERTY=VALUE");
        *value = '\0';
        set(conf, o->settings[i], value + 1);
        *value = '=';
    }
    return conf;
}

/* Runs on the thread that polls. */
static void report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk, (void)opaque;
    if (message->err)
        die("a message failed", rd_kafka_err2str(message->err));
    atomic_fetch_add_explicit(&delivered, 1, memory_order_relaxed);
}

static void *serve(void *rk)
{
    while (!atomic_load(&ended))
        rd_kafka_poll(rk, 10);
    return NULL;
}

static rd_kafka_t *opened(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char error[512];
    rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof error);

    if (!rk)
        die("rd_kafka_new", error);
    return rk;
}

typedef struct {
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    char *payload;
    size_t size;
} producer;

static void send_one(producer *p)
{
    if (rd_kafka_produce(p->topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, p->payload, p->size,
                         NULL, 0, NULL))
        die("rd_kafka_produce", rd_kafka_err2str(rd_kafka_last_error()));
}

/* Connected: one message is through. */
static producer new_producer(const order *o)
{
    rd_kafka_conf_t *conf = common(o);
    producer p = {.payload = room(o->size), .size = o->size};

    set(conf, "linger.ms", "0");
    set(conf, "queue.buffering.max.messages", "2000000");
    set(conf, "queue.buffering.max.kbytes", "1048576");
    rd_kafka_conf_set_dr_msg_cb(conf, report);
    p.rk = opened(RD_KAFKA_PRODUCER, conf);
    p.topic = rd_kafka_topic_new(p.rk, o->topic, NULL);
    memset(p.payload, 'x', o->size);
    send_one(&p);
    while (!atomic_load(&delivered))
        rd_kafka_poll(p.rk, 100);
    atomic_store(&delivered, 0);
    return p;
}

static void await_delivered(int64_t count)
{
    int64_t deadline = now_ns() + TIMEOUT_MS * INT64_C(1000000);

    while (atomic_load_explicit(&delivered, memory_order_relaxed) < count) {
        if (now_ns() > deadline)
            die("delivery", "not everything was delivered in time");
        usleep(200);
    }
}

static rd_kafka_t *new_consumer(const order *o, int64_t offset, const char *most)
{
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(o->partitions);
    rd_kafka_conf_t *conf = common(o);
    rd_kafka_t *rk;

    set(conf, "group.id", "unused");
    set(conf, "enable.auto.commit", "false");
    if (rd_kafka_version() >= 0x020200ff) /* unknown before */
        set(conf, "fetch.queue.backoff.ms", "2");
    if (most) {
        set(conf, "queued.min.messages", most);
        set(conf, "queued.max.messages.kbytes", "1048576");
    }
    rk = opened(RD_KAFKA_CONSUMER, conf);
    rd_kafka_poll_set_consumer(rk);
    for (int i = 0; i < o->partitions; i++)
        rd_kafka_topic_partition_list_add(all, o->topic, i)->offset = offset;
    rd_kafka_assign(rk, all);
    rd_kafka_topic_partition_list_destroy(all);
    return rk;
}

/* Sending ------------------------------------------------------------------------------------ */

static void time_calls(const order *o)
{
    producer p = new_producer(o);
    int64_t *times = room((size_t)o->count * sizeof *times), begin, cpu;
    pthread_t server;

    pthread_create(&server, NULL, serve, p.rk);
    for (int64_t i = 0; i < o->count; i++) {
        begin = now_ns();
        send_one(&p);
        times[i] = now_ns() - begin;
    }
    await_delivered(o->count);
    print_percentiles(times, o->count);
    begin = now_ns(), cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int64_t i = 0; i < o->count; i++)
        send_one(&p);
    printf(", \"loop_ns\": %.3f, \"cpu_ns\": %.3f", (double)(now_ns() - begin) / (double)o->count,
           (double)(clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu) / (double)o->count);
    await_delivered(2 * o->count);
}

/* A call that overruns makes the next ones begin late, as queued() of timing.py has it. */
static void time_paced(const order *o)
{
    producer p = new_producer(o);
    int64_t *times = room((size_t)o->count * sizeof *times), first, begin;
    int64_t period = (int64_t)(1e9 / o->rate), late = 0;
    pthread_t server;

    pthread_create(&server, NULL, serve, p.rk);
    exact_timers();
    first = now_ns();
    for (int64_t i = 0; i < o->count; i++) {
        sleep_until(first + i * period);
        begin = now_ns();
        send_one(&p);
        times[i] = late + now_ns() - begin;
        late = times[i] > period ? times[i] - period : 0;
    }
    await_delivered(o->count);
    print_percentiles(times, o->count);
}

static void time_delivery(const order *o)
{
    producer p = new_producer(o);
    int64_t begin = now_ns(), called;
    double took;
    pthread_t server;

    pthread_create(&server, NULL, serve, p.rk);
    for (int64_t i = 0; i < o->count; i++)
        send_one(&p);
    called = now_ns();
    await_delivered(o->count);
    took = (double)(now_ns() - begin) / 1e9;
    printf("\"messages_s\": %.3f, \"megabytes_s\": %.3f, \"loop_ns\": %.3f",
           (double)o->count / took, (double)o->count * (double)o->size / took / 1e6,
           (double)(called - begin) / (double)o->count);
}

/* One after the other, each from when it was due until its acknowledgement was polled. */
static void time_awaited(const order *o)
{
    producer p = new_producer(o);
    int64_t *times = room((size_t)o->count * sizeof *times), first;

    exact_timers();
    first = now_ns();
    for (int64_t i = 0; i < o->count; i++) {
        int64_t due = first + (int64_t)((double)i * 1e9 / o->rate);
        sleep_until(due);
        send_one(&p);
        while (atomic_load_explicit(&delivered, memory_order_relaxed) <= i)
            rd_kafka_poll(p.rk, 1000);
        times[i] = now_ns() - due;
    }
    print_percentiles(times, o->count);
}

static double resident(void)
{
    char line[128] = "";
    FILE *file = fopen("/proc/self/statm", "r");

    if (!file || !fgets(line, sizeof line, file))
        die("/proc/self/statm", "can't be read");
    fclose(file);
    return number(strchr(line, ' ')) * (double)sysconf(_SC_PAGESIZE);
}

static void measure_memory(const order *o)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    producer p = {.payload = room(o->size), .size = o->size};
    double before;

    set(conf, "bootstrap.servers", "127.0.0.1:1");
    set(conf, "log_level", "0");
    set(conf, "queue.buffering.max.messages", "2000000");
    set(conf, "queue.buffering.max.kbytes", "1048576");
    rd_kafka_conf_set_dr_msg_cb(conf, report);
    p.rk = opened(RD_KAFKA_PRODUCER, conf);
    p.topic = rd_kafka_topic_new(p.rk, "t", NULL);
    memset(p.payload, 'x', o->size);
    for (int i = 0; i < 1000; i++)
        send_one(&p);
    usleep(500000);
    before = resident();
    for (int64_t i = 0; i < o->count; i++)
        send_one(&p);
    usleep(500000);
    printf("\"bytes\": %.3f", (resident() - before) / (double)o->count);
}

/* Reading ------------------------------------------------------------------------------------ */

static int64_t seen; /* what is read of each message, so that no compiler leaves it out */

static void look(const rd_kafka_message_t *message)
{
    if (message->err)
        die("reading", rd_kafka_message_errstr(message));
    seen += message->offset + (message->len ? *(const char *)message->payload : 0);
}

static void poll_messages(rd_kafka_t *rk, int64_t count)
{
    while (count) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, 100);
        if (message) {
            look(message);
            rd_kafka_message_destroy(message);
            count--;
        }
    }
}

static void consume_batches(rd_kafka_t *rk, int64_t count)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    rd_kafka_message_t *messages[BATCH];

    while (count) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, 100, messages,
                                                   count < BATCH ? (size_t)count : BATCH);
        for (ssize_t i = 0; i < got; i++) {
            look(messages[i]);
            rd_kafka_message_destroy(messages[i]);
        }
        count -= got;
    }
    rd_kafka_queue_destroy(queue);
}

typedef void read_fn(rd_kafka_t *, int64_t);

static void time_read(const order *o, read_fn *read)
{
    int64_t opening = now_ns(), first;
    rd_kafka_t *rk = new_consumer(o, RD_KAFKA_OFFSET_BEGINNING, NULL);

    read(rk, 1);
    first = now_ns();
    read(rk, o->count - 1);
    printf("\"first_ms\": %.3f, \"messages_s\": %.3f", (double)(first - opening) / 1e6,
           (double)(o->count - 1) * 1e9 / (double)(now_ns() - first));
}

static void await_prefetched(rd_kafka_t *rk, int64_t count)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);

    for (int waits = 0; (int64_t)rd_kafka_queue_length(queue) < count; waits++) {
        if (waits > 3000)
            die("prefetching", "not everything was there within 30 s");
        usleep(10000);
    }
    rd_kafka_queue_destroy(queue);
}

static void time_prefetched(const order *o, read_fn *read)
{
    char most[24];
    int64_t wall, cpu;
    rd_kafka_t *rk;

    snprintf(most, sizeof most, "%lld", (long long)o->count * 4);
    rk = new_consumer(o, RD_KAFKA_OFFSET_BEGINNING, most);
    await_prefetched(rk, o->count);
    wall = now_ns(), cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    read(rk, o->count);
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu, wall = now_ns() - wall;
    printf("\"wall_ns\": %.3f, \"cpu_ns\": %.3f", (double)wall / (double)o->count,
           (double)cpu / (double)o->count);
}

/* The whole way ------------------------------------------------------------------------------ */

static void *send_stamps(void *arg)
{
    const order *o = arg;
    producer p = new_producer(o);
    int64_t first;
    pthread_t server;

    pthread_create(&server, NULL, serve, p.rk);
    usleep(300000);
    exact_timers();
    first = now_ns();
    for (int64_t i = 0; i < o->count; i++) {
        int64_t due = first + (int64_t)((double)i * 1e9 / o->rate);
        sleep_until(due);
        memcpy(p.payload, &due, STAMP);
        send_one(&p);
    }
    return NULL;
}

static void time_crossing(const order *o)
{
    int64_t *times = room((size_t)o->count * sizeof *times), got = 0;
    rd_kafka_t *rk = new_consumer(o, RD_KAFKA_OFFSET_END, NULL);
    order first = *o;
    producer marks;
    pthread_t sender;
    rd_kafka_message_t *message;

    first.size = 1;
    marks = new_producer(&first);
    while (!(message = rd_kafka_consumer_poll(rk, 100)))
        send_one(&marks);
    do
        rd_kafka_message_destroy(message);
    while ((message = rd_kafka_consumer_poll(rk, 300)));
    atomic_store(&delivered, 0);
    pthread_create(&sender, NULL, send_stamps, (void *)o);
    while (got < o->count) {
        int64_t due, now;
        if (!(message = rd_kafka_consumer_poll(rk, TIMEOUT_MS)))
            die("end to end", "messages are missing");
        now = now_ns();
        look(message);
        if (message->len == o->size && *(const char *)message->payload != 'x') {
            memcpy(&due, message->payload, STAMP);
            times[got++] = now - due;
        }
        rd_kafka_message_destroy(message);
    }
    print_percentiles(times, got);
}

int main(int argc, char **argv)
{
    order o;
    const char *command;

    if (argc < 8)
        die("usage", "limit COMMAND SERVERS TOPIC PARTITIONS COUNT SIZE RATE [PROPERTY=VALUE]...");
    o = (order){.command = argv[1],
                .servers = argv[2],
                .topic = argv[3],
                .partitions = (int)number(argv[4]),
                .count = (int64_t)number(argv[5]),
                .size = (size_t)number(argv[6]),
                .rate = number(argv[7]),
                .settings = argv + 8,
                .setting_count = argc - 8};
    command = o.command;
    if (o.count < 1 || o.partitions < 1 || o.size < STAMP)
        die("usage", "PARTITIONS and COUNT must be 1 or more, SIZE 8 or more");
    printf("{");
    if (!strcmp(command, "calls"))
        time_calls(&o);
    else if (!strcmp(command, "paced"))
        time_paced(&o);
    else if (!strcmp(command, "delivery"))
        time_delivery(&o);
    else if (!strcmp(command, "awaited"))
        time_awaited(&o);
    else if (!strcmp(command, "memory"))
        measure_memory(&o);
    else if (!strcmp(command, "read-poll"))
        time_read(&o, poll_messages);
    else if (!strcmp(command, "read-consume"))
        time_read(&o, consume_batches);
    else if (!strcmp(command, "prefetched-poll"))
        time_prefetched(&o, poll_messages);
    else if (!strcmp(command, "prefetched-consume"))
        time_prefetched(&o, consume_batches);
    else if (!strcmp(command, "crossing"))
        time_crossing(&o);
    else
        die(command, "no such sample");
    printf("}\n");
    fflush(stdout);
    _exit(0); /* closing is not part of any sample */
}
