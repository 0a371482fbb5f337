/* The producer's records: what callers put into the ring, one by one or as columns, is what librdkafka is given, what the
 * failures keep and what the results tell, against a list of what was sent. The worker's part runs here, on the same
 * thread, and librdkafka's producing is this program's. */
#include "fuzz.h"
#include "ka_producer.h"

enum { SENT = 256, ITEMS = 6, TOPICS = 2, NO_CODE = 0 };

typedef struct {
    int32_t topic, partition;
    int64_t timestamp_ms;
    char *parts[3]; /* value, key, headers; NULL: absent */
    int64_t lens[3];
    uint32_t token;
    int evicted;
} sent;

static ka_producer *p;
static sent queue[SENT]; /* in the ring, oldest first */
static int queued, drained, failing;
static sent failed[SENT]; /* refused by librdkafka with nobody to be told */
static int failures;
static flight *flights[SENT];
static int flying;
static int64_t accepted, dropped, told, tokens, token_bytes, told_bytes;
static const char *const names[TOPICS] = {"a", "b.c"};

/* ---------------------------------------------------------------- librdkafka's part */

rd_kafka_topic_t *__wrap_rd_kafka_topic_new(rd_kafka_t *rk, const char *name,
                                            rd_kafka_topic_conf_t *conf);
rd_kafka_error_t *__wrap_rd_kafka_produceva(rd_kafka_t *rk, const rd_kafka_vu_t *parts,
                                            size_t count);

rd_kafka_topic_t *__wrap_rd_kafka_topic_new(rd_kafka_t *rk, const char *name,
                                            rd_kafka_topic_conf_t *conf)
{
    (void)rk, (void)conf;
    return (rd_kafka_topic_t *)(uintptr_t)name;
}

static void check_headers(rd_kafka_headers_t *headers, const sent *s)
{
    size_t size = kai_headers_size(headers);
    char *packed = malloc(size + 1);

    kai_headers_pack(headers, packed);
    FUZZ_CHECK(fuzz_same(packed, size, s->parts[2], (uint64_t)s->lens[2]));
    free(packed);
}

static void check_part(const rd_kafka_vu_t *part, const sent *s, int which)
{
    FUZZ_CHECK(
        fuzz_same(part->u.mem.ptr, part->u.mem.size, s->parts[which], (uint64_t)s->lens[which]));
}

rd_kafka_error_t *__wrap_rd_kafka_produceva(rd_kafka_t *rk, const rd_kafka_vu_t *parts,
                                            size_t count)
{
    const sent *s;
    rd_kafka_headers_t *headers = NULL;

    (void)rk;
    while (queue[drained].evicted)
        drained++;
    s = &queue[drained++];
    FUZZ_CHECK(drained <= queued);
    for (size_t i = 0; i < count; i++) {
        switch (parts[i].vtype) {
        case RD_KAFKA_VTYPE_RKT:
            FUZZ_CHECK(strcmp((const char *)parts[i].u.rkt, names[s->topic]) == 0);
            break;
        case RD_KAFKA_VTYPE_PARTITION:
            FUZZ_CHECK(parts[i].u.i32 == s->partition);
            break;
        case RD_KAFKA_VTYPE_VALUE:
            check_part(&parts[i], s, 0);
            break;
        case RD_KAFKA_VTYPE_KEY:
            check_part(&parts[i], s, 1);
            break;
        case RD_KAFKA_VTYPE_TIMESTAMP:
            FUZZ_CHECK(s->timestamp_ms < 0 ? parts[i].u.i64 > 1600000000000
                                           : parts[i].u.i64 == s->timestamp_ms);
            break;
        case RD_KAFKA_VTYPE_HEADERS:
            headers = parts[i].u.headers;
            break;
        case RD_KAFKA_VTYPE_OPAQUE:
            flights[flying] = parts[i].u.ptr;
            break;
        default:
            FUZZ_CHECK(parts[i].vtype == RD_KAFKA_VTYPE_MSGFLAGS);
        }
    }
    FUZZ_CHECK(!headers == !s->lens[2]);
    if (headers)
        check_headers(headers, s);
    if (failing) {
        if (!s->token)
            failed[failures++] = *s;
        return rd_kafka_error_new(RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, "no");
    }
    if (headers)
        rd_kafka_headers_destroy(headers);
    flying++;
    return NULL;
}

/* ---------------------------------------------------------------- a producer without threads */

static void open_producer(fuzz_input *in)
{
    p = aligned_alloc(KAI_CACHE_LINE, (sizeof *p + 63) & ~(size_t)63);
    memset(p, 0, sizeof *p);
    kai_process_init();
    p->process = atomic_load(&kai_process);
    p->queue_messages = 1 + (int64_t)fuzz_below(in, 16);
    p->queue_bytes = 1 + (int64_t)fuzz_below(in, 2048);
    p->max_message = 1 + (int64_t)fuzz_below(in, 1024);
    p->on_full = (int)fuzz_below(in, 3);
    p->share_messages = p->share_bytes = INT64_MAX;
    p->message_timeout_ns = KAI_FOREVER;
    p->record_due_ns = p->flight_due_ns = KAI_FOREVER;
    atomic_init(&p->references, 1);
    kai_failures_init(&p->failures);
    pthread_mutex_init(&p->topics_lock, NULL);
    pthread_mutex_init(&p->calls_lock, NULL);
    pthread_mutex_init(&p->evict_lock, NULL);
    kai_wake_init(&p->room_freed);
    kai_wake_init(&p->progressed);
    kai_wake_init(&p->worker.wake);
    kai_control_init(&p->control, "fuzz");
    kai_epoch_open(p);
    FUZZ_CHECK(kai_ring_init(&p->ring, kai_ring_capacity(p)) == 0);
    FUZZ_CHECK(kai_results_init(&p->results, 2 * p->queue_messages + 1024, 2 * p->queue_bytes,
                                &p->room_freed) == 0);
    for (int32_t i = 0; i < TOPICS; i++)
        FUZZ_CHECK(ka_producer_topic(p, names[i]) == i);
    queued = drained = failures = flying = 0;
    accepted = dropped = told = tokens = token_bytes = told_bytes = 0;
}

static void forget(sent *s)
{
    for (int i = 0; i < 3; i++)
        free(s->parts[i]);
}

static void close_producer(void)
{
    for (int i = 0; i < queued; i++)
        forget(&queue[i]);
    while (p->chunks) {
        flight_chunk *chunk = p->chunks;
        p->chunks = chunk->next;
        free(chunk);
    }
    free(p->first_epoch);
    kai_producer_unreference(p);
}

/* ---------------------------------------------------------------- what is to be */

static int64_t bytes_of(const sent *s)
{
    return s->lens[0] + s->lens[1] + s->lens[2];
}

static int is_full(int64_t bytes)
{
    uint64_t room = atomic_load(&p->room);

    return room_messages(room) >= p->queue_messages || room_bytes(room) + bytes > p->queue_bytes;
}

/* Mark those that are to be evicted; whether that makes room. */
static int evict(int64_t bytes)
{
    uint64_t room = atomic_load(&p->room);
    int64_t messages = room_messages(room), held = room_bytes(room);

    if (p->held_messages >= p->queue_messages || p->held_bytes + bytes > p->queue_bytes)
        return 0;
    for (int i = drained; i < queued; i++) {
        if (queue[i].evicted)
            continue;
        queue[i].evicted = 1;
        dropped++;
        held -= bytes_of(&queue[i]);
        if (--messages < p->queue_messages && held + bytes <= p->queue_bytes)
            return 1;
    }
    return 0;
}

static int expected(const sent *s)
{
    int full;

    for (int i = 0; i < 3; i++)
        if (s->lens[i] > p->max_message)
            return KA_TOO_LARGE;
    if (bytes_of(s) > p->max_message)
        return KA_TOO_LARGE;
    if (s->topic < 0 || s->topic >= TOPICS || s->partition < -1 ||
        !kai_headers_valid(s->parts[2], s->lens[2]))
        return KA_INVALID;
    if (bytes_of(s) > p->queue_bytes)
        return KA_TOO_LARGE;
    if (s->token && p->results.reserved_bytes + bytes_of(s) > p->results.capacity_bytes)
        full = 1;
    else
        full = is_full(bytes_of(s)) && !(p->on_full == KA_DROP_OLD && evict(bytes_of(s)));
    return !full ? KA_OK : p->on_full == KA_REFUSE ? KA_FULL : KA_DROPPED;
}

static void note(sent *s, int status)
{
    dropped += status == KA_DROPPED;
    if (status != KA_OK) {
        forget(s);
        return;
    }
    accepted++;
    if (s->token) {
        tokens++;
        token_bytes += bytes_of(s);
    }
    queue[queued++] = *s;
}

/* ---------------------------------------------------------------- steps */

static char *headers_of(fuzz_input *in, int64_t *len)
{
    uint32_t sizes[2] = {(uint32_t)fuzz_below(in, 12), (uint32_t)fuzz_below(in, 12)};
    uint32_t value_len = sizes[1] == 11 ? 0 : sizes[1];
    char *block = malloc(sizeof sizes + sizes[0] + value_len), *data = fuzz_text(in, sizes[0]);

    for (uint32_t i = 0; i < sizes[0]; i++)
        if (!data[i])
            data[i] = 'x'; /* a NUL ends a name */
    sizes[1] = sizes[1] == 11 ? KAI_NONE : sizes[1];
    kai_append(kai_append(block, sizes, sizeof sizes), data, sizes[0]);
    memset(block + sizeof sizes + sizes[0], 'v', value_len);
    free(data);
    *len = (int64_t)(sizeof sizes + sizes[0] + value_len);
    return block;
}

static sent make(fuzz_input *in)
{
    uint64_t kind = fuzz_number(in, 1);
    sent s = {.topic = (int32_t)fuzz_below(in, TOPICS),
              .partition = (int32_t)fuzz_below(in, 4) - 1,
              .timestamp_ms = kind & 1 ? (int64_t)fuzz_number(in, 8) : -1,
              .token = kind & 2 ? (uint32_t)(tokens + 1) : 0};

    for (int i = 0; i < 2; i++)
        if (kind & (4u << i)) {
            s.lens[i] = fuzz_size(in) % 4096;
            s.parts[i] = fuzz_bytes(in, (size_t)s.lens[i]);
            if (!s.parts[i])
                s.parts[i] = malloc(1);
        }
    if (kind & 16)
        s.parts[2] = headers_of(in, &s.lens[2]);
    if ((kind & 0xe0) == 0xe0 && s.parts[2])
        s.lens[2] -= (int64_t)fuzz_below(in, 3); /* may be malformed */
    if ((kind & 0xe0) == 0xc0) {
        s.topic = (int32_t)fuzz_number(in, 4);
        s.partition = (int32_t)fuzz_number(in, 4);
    }
    return s;
}

static void send_one(fuzz_input *in)
{
    sent s = make(in);
    int status = expected(&s);

    FUZZ_CHECK(ka_producer_send_record(p, s.topic, s.partition, s.timestamp_ms, s.parts[0],
                                       s.lens[0], s.parts[1], s.lens[1], s.parts[2], s.lens[2],
                                       s.token) == status);
    note(&s, status);
}

typedef struct {
    ka_batch batch;
    sent items[ITEMS];
    int64_t lens[3][ITEMS], partition[ITEMS], timestamp_ms[ITEMS];
    int32_t status[ITEMS];
    char *data;
} columns;

/* Columns that are left out say the same of every item. */
static void fill(columns *c, fuzz_input *in)
{
    uint64_t kind = fuzz_number(in, 1);
    size_t len = 0;

    c->batch.count = (int64_t)fuzz_below(in, ITEMS + 1);
    c->data = malloc(1);
    for (int i = 0; i < c->batch.count; i++) {
        sent *s = &c->items[i];
        *s = make(in);
        s->token = 0;
        s->topic = 0;
        s->partition = kind & 1 ? s->partition : -1;
        s->timestamp_ms = kind & 2 ? s->timestamp_ms : -1;
        for (int part = 0; part < 3; part++) {
            if (!(kind & (4u << part)) || !s->parts[part]) {
                free(s->parts[part]);
                s->parts[part] = NULL;
                s->lens[part] = 0;
            }
            c->data = realloc(c->data, len + (size_t)s->lens[part] + 1);
            kai_append(c->data + len, s->parts[part], s->lens[part]);
            len += (size_t)s->lens[part];
            c->lens[part][i] = s->parts[part] ? s->lens[part] : -1;
        }
        c->partition[i] = s->partition;
        c->timestamp_ms[i] = s->timestamp_ms;
    }
    c->data = realloc(c->data, len + !len);
    c->batch.data = c->data;
    c->batch.status = c->status;
    c->batch.partition = kind & 1 ? c->partition : NULL;
    c->batch.timestamp_ms = kind & 2 ? c->timestamp_ms : NULL;
    c->batch.value_len = kind & 4 ? c->lens[0] : NULL;
    c->batch.key_len = kind & 8 ? c->lens[1] : NULL;
    c->batch.headers_len = kind & 16 ? c->lens[2] : NULL;
}

/* The whole batch is sent before its items can be foretold, since an eviction is foretold from the counts. */
static void send_batch(fuzz_input *in)
{
    columns c = {0};
    int64_t next = 0, ok = 0, refused = 0;

    fill(&c, in);
    while (next < c.batch.count) {
        int64_t count = c.batch.count;
        int status = expected(&c.items[next]), returned;

        c.batch.count = next + 1;
        returned = ka_producer_send_batch(p, 0, &c.batch);
        c.batch.count = count;
        if (status == KA_FULL) {
            FUZZ_CHECK(returned == KA_FULL && c.batch.next == next);
            break;
        }
        FUZZ_CHECK(returned == KA_OK && c.status[next] == status);
        note(&c.items[next], status);
        ok += status == KA_OK;
        refused += status == KA_DROPPED;
        FUZZ_CHECK(c.batch.next == ++next && c.batch.accepted == ok && c.batch.dropped == refused);
    }
    for (; next < c.batch.count; next++)
        forget(&c.items[next]);
    free(c.data);
}

static void drain(fuzz_input *in)
{
    failing = (int)fuzz_below(in, 2);
    kai_drain_ring(p);
    while (drained < queued && queue[drained].evicted)
        drained++;
    FUZZ_CHECK(drained == queued);
}

static void deliver(void)
{
    outcomes o = {0};
    kai_report report = {.offset = 7, .timestamp_ms = 8};

    for (int i = 0; i < flying; i++) {
        kai_conclude(p, &flights[i]->origin, &report, kai_now_ns(), &o);
        kai_flight_end(p, flights[i]);
    }
    flying = 0;
    kai_publish(p, &o);
}

static void fetch_failures(void)
{
    ka_failure *f;

    for (int i = 0; i < failures; i++) {
        const sent *s = &failed[i];
        FUZZ_CHECK((f = ka_producer_failure(p)) && strcmp(f->topic, names[s->topic]) == 0);
        FUZZ_CHECK(f->error.code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC &&
                   f->partition == s->partition);
        FUZZ_CHECK(fuzz_same(f->value, (uint64_t)f->value_len, s->parts[0], (uint64_t)s->lens[0]));
        FUZZ_CHECK(fuzz_same(f->key, (uint64_t)f->key_len, s->parts[1], (uint64_t)s->lens[1]));
        FUZZ_CHECK(
            fuzz_same(f->headers, (uint64_t)f->headers_len, s->parts[2], (uint64_t)s->lens[2]));
        ka_failure_free(f);
    }
    failures = 0;
    FUZZ_CHECK(!ka_producer_failure(p));
}

static void take_results(void)
{
    ka_result results[16];
    int64_t n;

    while ((n = ka_producer_results(p, results, 16)) > 0)
        for (int64_t i = 0; i < n; i++) {
            told++;
            told_bytes += results[i].bytes;
        }
    FUZZ_CHECK(n == 0 && told <= tokens && told_bytes <= token_bytes);
}

static void check_counts(void)
{
    ka_producer_stats stats;

    FUZZ_CHECK(ka_producer_metrics(p, &stats) == KA_OK);
    FUZZ_CHECK(stats.accepted == accepted && stats.dropped == dropped);
}

/* Everything in the end: each message has its outcome, all room and all places are free again. */
static void settle(fuzz_input *in)
{
    drain(in);
    deliver();
    fetch_failures();
    take_results();
    check_counts();
    FUZZ_CHECK(told == tokens && told_bytes == token_bytes);
    FUZZ_CHECK(atomic_load(&p->room) == 0 && p->results.reserved == 0);
    FUZZ_CHECK(p->held_messages == 0 && p->held_bytes == 0 && p->condemned == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};

    open_producer(&in);
    while (in.left && queued + ITEMS < SENT) {
        switch (fuzz_below(&in, 8)) {
        case 0:
            drain(&in);
            break;
        case 1:
            deliver();
            break;
        case 2:
            fetch_failures();
            break;
        case 3:
            take_results();
            break;
        case 4:
            send_batch(&in);
            break;
        default:
            send_one(&in);
        }
        check_counts();
    }
    settle(&in);
    close_producer();
    return 0;
}
