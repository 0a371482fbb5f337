/* The consumer's entries: what librdkafka gives is what blocks and batches of messages show, against a list of what was given,
 * while the application takes, hands out some, and partitions come and go. The worker's part and the application's run here,
 * on one thread, and librdkafka's messages are this program's. */
#include "fuzz.h"
#include "ka_consumer.h"

enum { GIVEN = 512, BURST = 8, PARTITIONS = 3 };
enum { DENIED = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED };

/* A message of librdkafka, or its end of a partition, or an error. */
typedef struct {
    rd_kafka_message_t m; /* first, so that one can be taken for the other */
    rd_kafka_headers_t *headers;
    char *packed;
    size_t packed_len;
    int64_t timestamp_ms;
    rd_kafka_timestamp_type_t type;
    int which;          /* of the partitions */
    int64_t generation; /* of its partition when it came */
} given;

static ka_consumer *c;
static given *list[GIVEN]; /* all that was given, the first `gone` of which are done with */
static int count, gone;
static given *queue[BURST]; /* librdkafka's */
static int queued, taken;
static partition *partitions[PARTITIONS];
static int64_t generations[PARTITIONS], positions[PARTITIONS];
static int64_t received, handed_out, passed;
static int64_t block_handed;

/* ---------------------------------------------------------------- librdkafka's part */

rd_kafka_message_t *__wrap_rd_kafka_consumer_poll(rd_kafka_t *rk, int timeout_ms);
ssize_t __wrap_rd_kafka_consume_batch_queue(rd_kafka_queue_t *from, int timeout_ms,
                                            rd_kafka_message_t **out, size_t most);
void __wrap_rd_kafka_message_destroy(rd_kafka_message_t *m);
int64_t __wrap_rd_kafka_message_timestamp(const rd_kafka_message_t *m,
                                          rd_kafka_timestamp_type_t *type);
rd_kafka_resp_err_t __wrap_rd_kafka_message_headers(const rd_kafka_message_t *m,
                                                    rd_kafka_headers_t **headers);
const char *__wrap_rd_kafka_message_errstr(const rd_kafka_message_t *m);
const char *__wrap_rd_kafka_topic_name(const rd_kafka_topic_t *rkt);

rd_kafka_message_t *__wrap_rd_kafka_consumer_poll(rd_kafka_t *rk, int timeout_ms)
{
    (void)rk, (void)timeout_ms;
    return NULL;
}

ssize_t __wrap_rd_kafka_consume_batch_queue(rd_kafka_queue_t *from, int timeout_ms,
                                            rd_kafka_message_t **out, size_t most)
{
    ssize_t n = 0;

    (void)from, (void)timeout_ms;
    for (; taken < queued && (size_t)n < most; n++)
        out[n] = &queue[taken++]->m;
    return n;
}

void __wrap_rd_kafka_message_destroy(rd_kafka_message_t *m)
{
    (void)m; /* it is compared later */
}

int64_t __wrap_rd_kafka_message_timestamp(const rd_kafka_message_t *m,
                                          rd_kafka_timestamp_type_t *type)
{
    const given *g = (const given *)m;

    *type = g->type;
    return g->timestamp_ms;
}

rd_kafka_resp_err_t __wrap_rd_kafka_message_headers(const rd_kafka_message_t *m,
                                                    rd_kafka_headers_t **headers)
{
    *headers = ((const given *)m)->headers;
    return *headers ? RD_KAFKA_RESP_ERR_NO_ERROR : RD_KAFKA_RESP_ERR__NOENT;
}

const char *__wrap_rd_kafka_message_errstr(const rd_kafka_message_t *m)
{
    (void)m;
    return "denied";
}

const char *__wrap_rd_kafka_topic_name(const rd_kafka_topic_t *rkt)
{
    return (const char *)rkt;
}

/* ---------------------------------------------------------------- a consumer without threads */

static void assign(int which)
{
    partition *p = partitions[which];

    pthread_mutex_lock(&c->lock);
    p->told = p->assigned = 1;
    p->position = p->processed = p->marked = p->stored = KA_OFFSET_NONE;
    p->generation = generations[which] = ++c->generations;
    pthread_mutex_unlock(&c->lock);
    positions[which] = KA_OFFSET_NONE;
}

static void open_consumer(fuzz_input *in)
{
    static const char *const names[PARTITIONS] = {"a", "b", "b"};

    c = aligned_alloc(KAI_CACHE_LINE, (sizeof *c + 63) & ~(size_t)63);
    memset(c, 0, sizeof *c);
    kai_process_init();
    c->process = atomic_load(&kai_process);
    c->options.prefetch_messages = 1 + (int64_t)fuzz_below(in, 32);
    c->options.prefetch_bytes = 1 + (int64_t)fuzz_below(in, 4096);
    c->ends = (int)fuzz_below(in, 2);
    c->options.group = 1;
    c->largest = 1;
    atomic_init(&c->references, 1);
    c->last_command = &c->first_command;
    pthread_mutex_init(&c->lock, NULL);
    kai_wake_init(&c->ready);
    kai_wake_init(&c->worker.wake);
    kai_control_init(&c->control, "fuzz");
    FUZZ_CHECK(kai_ring_init(&c->ring, 4u * KAI_MAX_INLINE) == 0);
    for (int i = 0; i < PARTITIONS; i++) {
        partitions[i] = kai_partition_find(c, kai_topic_find(c, names[i]), i);
        assign(i);
    }
    count = gone = 0;
    received = handed_out = passed = block_handed = 0;
}

static void close_consumer(void)
{
    kai_consumer_unreference(c);
    for (int i = 0; i < count; i++) {
        if (list[i]->headers)
            rd_kafka_headers_destroy(list[i]->headers);
        free(list[i]->packed);
        free(list[i]->m.payload);
        free(list[i]->m.key);
        free(list[i]);
    }
}

/* ---------------------------------------------------------------- what librdkafka gives */

static void add_headers(given *g, fuzz_input *in)
{
    g->headers = rd_kafka_headers_new(2);
    for (uint64_t n = fuzz_below(in, 4); n; n--) {
        char *name = fuzz_text(in, (size_t)fuzz_below(in, 12));
        size_t len = (size_t)fuzz_below(in, 16);
        char *value = fuzz_bytes(in, len);
        uint32_t sizes[] = {(uint32_t)strlen(name), len == 15 ? KAI_NONE : (uint32_t)len};
        char *to;

        rd_kafka_header_add(g->headers, name, -1, len == 15 ? NULL : value,
                            len == 15 ? 0 : (ssize_t)len);
        g->packed = realloc(g->packed, g->packed_len + sizeof sizes + sizes[0] + len + 1);
        to = kai_append(g->packed + g->packed_len, sizes, sizeof sizes);
        to = kai_append(to, name, sizes[0]);
        to = kai_append(to, value, kai_part_len(sizes[1]));
        g->packed_len = (size_t)(to - g->packed);
        free(name);
        free(value);
    }
}

/* Small, of the input; or about as large as what has to stand beside the ring. */
static void *part(fuzz_input *in, int present, size_t *len)
{
    if (!present)
        return NULL;
    *len = fuzz_size(in);
    if (*len <= UINT16_MAX)
        return fuzz_bytes(in, *len %= 4096);
    *len = KAI_MAX_INLINE - 32 + *len % 64;
    return calloc(1, *len);
}

static given *make(fuzz_input *in)
{
    given *g = calloc(1, sizeof *g);
    uint64_t kind = fuzz_number(in, 1);

    g->which = (int)fuzz_below(in, PARTITIONS);
    g->generation = generations[g->which];
    g->m.rkt = (rd_kafka_topic_t *)(uintptr_t)partitions[g->which]->topic;
    g->m.partition = partitions[g->which]->number;
    g->m.offset = count;
    if (kind >= 250) {
        g->m.err = kind == 250 ? (rd_kafka_resp_err_t)DENIED : RD_KAFKA_RESP_ERR__PARTITION_EOF;
        return g;
    }
    g->m.payload = part(in, (kind & 1) != 0, &g->m.len);
    g->m.key = part(in, (kind & 2) != 0, &g->m.key_len);
    g->timestamp_ms = kind & 4 ? (int64_t)fuzz_number(in, 8) : 5;
    g->type = (rd_kafka_timestamp_type_t)fuzz_below(in, 3);
    if (kind & 8)
        add_headers(g, in);
    return g;
}

static int has_room(void)
{
    return kai_held_messages(c) + c->held_ends < c->options.prefetch_messages &&
           kai_held_bytes(c) < c->options.prefetch_bytes;
}

static void give(fuzz_input *in)
{
    int room = has_room();

    taken = 0;
    queued = 1 + (int)fuzz_below(in, BURST);
    if (count + queued > GIVEN)
        queued = GIVEN - count;
    for (int i = 0; i < queued; i++, count++)
        queue[i] = list[count] = make(in);
    kai_receive(c);
    FUZZ_CHECK(!taken == !(room && queued));
    FUZZ_CHECK(taken == queued || !has_room()); /* the rest is left where it is */
    for (int i = 0; i < queued; i++) {
        if (i < taken)
            received += !queue[i]->m.err;
        else
            queue[i]->generation = -1; /* it is never shown */
    }
}

/* ---------------------------------------------------------------- what is shown */

/* The next that is to be shown; it passes over what is stale. NULL: nothing. */
static given *upcoming(int *at)
{
    for (; *at < count; ++*at) {
        given *g = list[*at];
        if (g->generation == generations[g->which] &&
            !(g->m.err == RD_KAFKA_RESP_ERR__PARTITION_EOF && !c->ends))
            return g;
    }
    return NULL;
}

/* A part of a row against one of the message. */
static void check_part(const char *base, int64_t size, int64_t at, int64_t end, const void *data,
                       size_t len)
{
    FUZZ_CHECK(data ? at >= 0 && at <= end && end <= size : at == -1 && end == -1);
    FUZZ_CHECK(!data || (end - at == (int64_t)len && (!len || memcmp(base + at, data, len) == 0)));
}

/* Row i of columns of so many cells. */
static void check_row(const int64_t *cells, int64_t stride, int64_t i, const char *base,
                      int64_t size, const given *g)
{
    const int64_t *cell = cells + i;

    FUZZ_CHECK(cell[0] == partitions[g->which]->topic_number && cell[stride] == g->m.partition);
    FUZZ_CHECK(cell[2 * stride] == g->m.offset && cell[3 * stride] == g->timestamp_ms);
    FUZZ_CHECK(cell[4 * stride] == (int64_t)g->type);
    check_part(base, size, cell[5 * stride], cell[6 * stride], g->m.payload, g->m.len);
    check_part(base, size, cell[7 * stride], cell[8 * stride], g->m.key, g->m.key_len);
    check_part(base, size, cell[9 * stride], cell[10 * stride], g->packed_len ? g->packed : NULL,
               g->packed_len);
}

static void hand_out(given *g)
{
    handed_out++;
    positions[g->which] = g->m.offset + 1;
    g->generation = -1;
}

static void check_event(const given *g, const ka_error *err, const ka_partition *where)
{
    FUZZ_CHECK(g && g->m.err && err->code == (int32_t)g->m.err);
    FUZZ_CHECK(where->topic == partitions[g->which]->topic && where->partition == g->m.partition &&
               where->offset == g->m.offset);
}

/* Rows 0 to n of the block are what comes next. */
static void check_block(int64_t n)
{
    const ka_block *b = &c->block;
    int at = gone;

    for (int64_t i = 0; i < n; i++, at++) {
        const given *g = upcoming(&at);
        FUZZ_CHECK(g && !g->m.err);
        check_row(b->topic, KA_BLOCK, i, b->base, b->size, g);
    }
}

static void end_event(const ka_error *err, const ka_partition *where)
{
    given *g = upcoming(&gone);

    check_event(g, err, where);
    g->generation = -1;
}

static int64_t take(void)
{
    ka_error err;
    ka_partition where;
    int64_t n = ka_consumer_take(c, &err, &where);

    block_handed = 0;
    if (n == KA_FAILED)
        end_event(&err, &where);
    else
        FUZZ_CHECK(n == c->block.count && (n > 0) == (upcoming(&gone) != NULL));
    if (n > 0)
        check_block(n);
    return n;
}

static void assign_anew(int which)
{
    pthread_mutex_lock(&c->lock);
    kai_block_invalidate(c);
    partitions[which]->assigned = 0;
    partitions[which]->generation = ++c->generations;
    pthread_mutex_unlock(&c->lock);
    FUZZ_CHECK(partitions[which]->position == positions[which]);
    assign(which);
}

/* As Python does: count, look whether the block changed, give. The change may come in between. */
static void hand_out_some(fuzz_input *in)
{
    int64_t n = take(), generation = c->block.generation;
    uint64_t most = fuzz_below(in, 32), change = fuzz_below(in, 64);
    int which = (int)fuzz_below(in, PARTITIONS);

    for (int64_t i = 0; i < n && (uint64_t)i < most; i++) {
        given *g = upcoming(&gone);
        if (change == (uint64_t)(2 * i))
            assign_anew(which);
        word_store(&c->block.handed, i + 1);
        if (change == (uint64_t)(2 * i + 1)) {
            /* It was seen in time: so it is handed out, and its position counts. */
            hand_out(g);
            assign_anew(which);
            FUZZ_CHECK(word_load(&c->block.generation) != generation && ka_consumer_keep(c));
            return;
        }
        if (word_load(&c->block.generation) != generation) {
            FUZZ_CHECK(!ka_consumer_keep(c) && word_load(&c->block.handed) == i);
            return;
        }
        hand_out(g);
    }
}

static void take_messages(fuzz_input *in)
{
    ka_error err;
    ka_partition where;
    ka_messages *m = NULL;
    int64_t n = ka_consumer_take_messages(c, 1 + (int64_t)fuzz_below(in, 40), &m, &err, &where);

    if (n == KA_FAILED) {
        end_event(&err, &where);
        return;
    }
    FUZZ_CHECK((n > 0) == (upcoming(&gone) != NULL) && !m == !n);
    for (int64_t i = 0; i < n; i++) {
        given *g = upcoming(&gone);
        FUZZ_CHECK(g && !g->m.err);
        check_row((int64_t *)(m + 1), n, i, (const char *)m, m->size, g);
        hand_out(g);
    }
    FUZZ_CHECK(!m || m->count == n);
    ka_messages_free(&m);
}

static void check_counts(void)
{
    ka_consumer_stats stats;
    ka_partition positions_now[PARTITIONS];

    FUZZ_CHECK(ka_consumer_metrics(c, &stats) == KA_OK);
    FUZZ_CHECK(stats.received == received && stats.handed_out == handed_out);
    FUZZ_CHECK(stats.purged + stats.prefetched == received - handed_out && stats.purged >= passed);
    passed = stats.purged;
    FUZZ_CHECK(ka_consumer_assignment(c, positions_now, PARTITIONS) == PARTITIONS);
    for (int i = 0; i < PARTITIONS; i++)
        FUZZ_CHECK(positions_now[i].offset == positions[i]);
}

/* In the end all of it was handed out or passed over. */
static void take_all(void)
{
    int64_t n;

    while ((n = take()) != 0) {
        for (int64_t i = 0; i < n; i++)
            hand_out(upcoming(&gone));
        if (n > 0)
            word_store(&c->block.handed, n);
    }
    FUZZ_CHECK(!upcoming(&gone));
    FUZZ_CHECK(kai_held_messages(c) == 0 && kai_held_bytes(c) == 0 && c->held_ends == 0 &&
               c->held_failures == 0);
    check_counts();
    FUZZ_CHECK(passed == received - handed_out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};

    open_consumer(&in);
    while (in.left && count < GIVEN) {
        switch (fuzz_below(&in, 8)) {
        case 0:
            assign_anew((int)fuzz_below(&in, PARTITIONS));
            break;
        case 1:
            hand_out_some(&in);
            break;
        case 2:
            take_messages(&in);
            break;
        default:
            give(&in);
        }
        check_counts();
    }
    take_all();
    close_consumer();
    return 0;
}
