/* The polling thread's side of the consumer: from the ring to the rows of a block. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ka_columns.h"
#include "ka_consumer.h"
#include "ka_err.h"

_Static_assert(sizeof((ka_block *)0)->topic / sizeof(int64_t) == KA_BLOCK, "rows of a block");

/* Entries that fill() passes over at a time, so that no call takes long. */
enum { SKIP = 4096 };
/* What a batch of messages may take, but for its last one, so that no copy takes long. */
enum { MANY_BYTES = 1024 * 1024 };

static int is_current(const partition *p, int64_t generation)
{
    return p->assigned && !p->leaving && p->generation == generation;
}

static int is_stale(const entry *e)
{
    return e->partition && !is_current(e->partition, e->generation);
}

int kai_block_settle(ka_consumer *c, int all)
{
    int64_t handed = word_load(&c->block.handed);
    int64_t done = all ? handed : handed - 1;
    int progressed = c->processed < done || (all && c->moved);

    for (; c->positioned < handed; c->positioned++) {
        partition *p = (partition *)(uintptr_t)c->row_partition[c->positioned];
        if (!is_current(p, c->row_generation[c->positioned]))
            continue;
        p->position = c->block.offset[c->positioned] + 1;
        c->counted = c->positioned + 1;
    }
    for (; c->processed < done; c->processed++) {
        partition *p = (partition *)(uintptr_t)c->row_partition[c->processed];
        if (p->generation == c->row_generation[c->processed])
            p->processed = c->block.offset[c->processed] + 1;
    }
    for (; all && c->moved; c->moved = c->moved->next_moved) {
        c->moved->processed = c->moved->position;
        c->moved->batch_begin = KA_OFFSET_NONE;
        c->moved->moved = 0;
    }
    return progressed;
}

void kai_block_invalidate(ka_consumer *c)
{
    word_store(&c->block.generation, c->block.generation + 1);
    /* Python stores `handed`, then loads `generation`, with no fence between. After this one either its store
     * is seen below, or its load sees the new generation, or both: ka_consumer_keep(). */
    kai_fence_all();
    kai_block_settle(c, 0);
}

int ka_consumer_keep(ka_consumer *c)
{
    int64_t handed;
    int keep;

    if (kai_consumer_is_foreign(c))
        return 0;
    pthread_mutex_lock(&c->lock);
    handed = word_load(&c->block.handed);
    keep = handed && c->counted == handed; /* else a take is due, which settles what moved, too */
    if (handed && !keep)
        word_store(&c->block.handed, handed - 1);
    pthread_mutex_unlock(&c->lock);
    return keep;
}

/* Give the ring back up to pos; returns how many messages that were. */
static int64_t release_to(ka_consumer *c, uint64_t pos)
{
    uint64_t at = kai_ring_head(&c->ring);
    int64_t held[] = {[MESSAGE] = 0, [FAILURE] = 0, [END] = 0}, bytes = 0;
    entry *e;

    if (at == pos)
        return 0;
    while (at < pos && (e = kai_ring_next(&c->ring, &at))) {
        held[e->kind]++;
        bytes += kai_entry_bytes(e);
        free(e->external);
    }
    kai_ring_release(&c->ring, pos);
    atomic_fetch_add(&c->released, (uint64_t)held[MESSAGE]);
    atomic_fetch_sub(&c->held_failures, held[FAILURE]);
    atomic_fetch_sub(&c->held_ends, held[END]);
    atomic_fetch_add(&c->released_bytes, (uint64_t)bytes);
    return held[MESSAGE];
}

_Static_assert(HEADERS_END + 1 == KA_COLUMNS, "columns");
_Static_assert(offsetof(ka_block, headers_end) - offsetof(ka_block, topic) ==
                   HEADERS_END * sizeof(int64_t) * KA_BLOCK,
               "columns of a block");

/* Columns of so many cells each. */
typedef struct {
    int64_t *cells, stride;
    int64_t *top;
} columns;

static void set_part(const columns *to, int column, int64_t i, int64_t *begin, uint32_t len)
{
    int64_t *at = to->cells + column * to->stride + i, *end = at + to->stride;

    *at = len == KAI_NONE ? -1 : *begin;
    *begin += kai_part_len(len);
    *end = len == KAI_NONE ? -1 : *begin;
}

/* Describe an entry, whose parts lie at `at`, as row i. */
static void set_row(const columns *to, int64_t i, const entry *e, int64_t at)
{
    const partition *p = e->partition; /* a failure, which may have none, is no row */
    int64_t *cell = to->cells + i;

    cell[TOPIC * to->stride] = p->topic_number; // NOLINT(*.NullDereference)
    cell[PARTITION * to->stride] = p->number;
    cell[OFFSET * to->stride] = e->offset;
    cell[TIMESTAMP_MS * to->stride] = e->timestamp_ms;
    cell[TIMESTAMP_TYPE * to->stride] = e->timestamp_type;
    set_part(to, VALUE_AT, i, &at, e->value_len);
    set_part(to, KEY_AT, i, &at, e->key_len);
    set_part(to, HEADERS_AT, i, &at, e->headers_len ? e->headers_len : KAI_NONE);
    if (p->topic_number > *to->top)
        *to->top = p->topic_number;
}

void kai_age_note(kai_hist *hist, int64_t type, int64_t timestamp_ms, int64_t wall_ms)
{
    int64_t ms, ns;

    if (type != KA_TIMESTAMP_NONE && !__builtin_sub_overflow(wall_ms, timestamp_ms, &ms) &&
        !__builtin_mul_overflow(ms, (int64_t)1000000, &ns))
        kai_hist_note(hist, ns);
}

static instant instant_now(void)
{
    int64_t ns = kai_now_ns();

    return (instant){.ns = ns, .wall_ms = (ns + kai_wall_minus_ns(ns)) / 1000000};
}

/* A message leaves the ring for the application. */
static void note_take(ka_consumer *c, int64_t arrived_ns, int64_t type, int64_t timestamp_ms,
                      const instant *taken)
{
    kai_hist_note(&c->ring_latency, taken->ns - arrived_ns);
    kai_age_note(&c->age, type, timestamp_ms, taken->wall_ms);
}

/* Of an entry that is no message. */
static void tell(const entry *e, ka_error *err, ka_partition *where)
{
    if (e->kind == END)
        kai_err_set(err, RD_KAFKA_RESP_ERR__PARTITION_EOF, NULL);
    else
        memcpy(err, e + 1, sizeof *err);
    *where = (ka_partition){.offset = e->offset};
    if (e->partition) {
        where->topic = e->partition->topic;
        where->partition = e->partition->number;
    }
}

static void fill_row(ka_consumer *c, const entry *e)
{
    ka_block *b = &c->block;
    int64_t i = b->count++;
    columns to = {.cells = b->topic, .stride = KA_BLOCK, .top = &b->top};

    c->row_partition[i] = e->partition;
    c->row_generation[i] = e->generation;
    set_row(&to, i, e, e->external ? 0 : (const char *)(e + 1) - b->base);
    c->row_arrived_ns[i] = e->arrived_ns;
}

/* Pass an entry that no message comes of, maybe again: a block may be described anew. Returns KA_FAILED if the application is to
 * know it, else 0. */
static int use_up(const entry *e, ka_error *err, ka_partition *where)
{
    if (is_stale(e))
        return 0;
    tell(e, err, where);
    return KA_FAILED;
}

/* Describe what comes next. KA_FAILED: an event is next, and is used up. */
static int64_t fill(ka_consumer *c, ka_error *err, ka_partition *where)
{
    ka_block *b = &c->block;
    uint64_t at = c->block_end;
    int skipped = 0;
    entry *e;

    c->block_taken = instant_now();
    b->base = c->ring.memory;
    b->size = (int64_t)c->ring.capacity;
    while (b->count < KA_BLOCK && skipped < SKIP && (e = kai_ring_next(&c->ring, &at))) {
        int stale = is_stale(e);

        if (!stale && b->count && (e->kind != MESSAGE || e->external))
            break; /* such an entry stands alone */
        c->block_end = at;
        if (stale || e->kind != MESSAGE) {
            if (use_up(e, err, where) == KA_FAILED)
                return KA_FAILED;
            skipped++;
            continue;
        }
        if (e->external) {
            b->base = e->external;
            b->size = kai_entry_bytes(e);
        }
        fill_row(c, e);
        c->row_end[b->count - 1] = at;
        if (e->external)
            break;
    }
    return b->count;
}

void kai_block_note(ka_consumer *c)
{
    const ka_block *b = &c->block;
    int64_t handed = word_load(&b->handed);

    for (int64_t i; (i = c->noted) < handed; c->noted++)
        note_take(c, c->row_arrived_ns[i], b->timestamp_type[i], b->timestamp_ms[i],
                  &c->block_taken);
}

/* When Python handed out each row it does not say: the first one at once, and the next block is asked for after the
 * last one. */
static void note_block(ka_consumer *c, int64_t handed)
{
    int64_t time_ns = handed > 1 ? kai_now_ns() - c->block_taken.ns : 0;

    kai_block_note(c);
    for (int64_t i = 0; i < handed; i++)
        kai_hist_note(&c->block_latency, time_ns * i / handed);
}

/* Begin a new block behind what was handed out. */
static void release_handed(ka_consumer *c)
{
    int64_t handed = word_load(&c->block.handed), released;
    uint64_t pos = handed == c->block.count ? c->block_end
                   : handed                 ? c->row_end[handed - 1]
                                            : c->block_start;

    note_block(c, handed);
    released = release_to(c, pos);
    c->handed_out += handed;
    c->purged += released - handed;
    c->block_start = c->block_end = kai_ring_head(&c->ring);
    c->block.count = c->block.top = 0;
    c->positioned = c->processed = c->counted = c->noted = 0;
    word_store(&c->block.handed, 0);
}

static int64_t take(ka_consumer *c, ka_error *err, ka_partition *where)
{
    int64_t n;

    if (kai_rebalance_show(c))
        return KA_REBALANCE;
    n = fill(c, err, where);
    if (n == 0) /* what was passed over makes room now: nobody may come back for long */
        release_handed(c);
    return n;
}

ka_block *ka_consumer_block(ka_consumer *c)
{
    return &c->block;
}

static int is_open(const ka_consumer *c)
{
    return atomic_load(&c->state) == OPEN && !atomic_load(&c->retired);
}

/* The application is alive. */
static void note_poll(ka_consumer *c)
{
    atomic_store(&c->polled_ns, kai_now_ns());
    atomic_store(&c->polling, 0);
    if (atomic_load(&c->expelled) && !atomic_exchange(&c->returned, 1))
        kai_wake_notify(&c->worker.wake);
}

/* What the next messages take, up to max of them and about MANY_BYTES. Returns how many; *end lies behind
 * them, c->block_end before the first. KA_FAILED: an event is next, and is used up. */
static int64_t measure(ka_consumer *c, int64_t max, uint64_t *end, int64_t *bytes, ka_error *err,
                       ka_partition *where)
{
    int64_t n = 0;
    int skipped = 0;
    uint64_t at = *end = c->block_end;
    const entry *e;

    while (n < max && *bytes < MANY_BYTES && skipped < SKIP && (e = kai_ring_next(&c->ring, &at))) {
        int stale = is_stale(e);

        if (n && e->kind != MESSAGE)
            break;
        *end = at;
        if (n == 0 && (stale || e->kind != MESSAGE))
            c->block_end = at; /* it is used up once, whatever comes of the rest */
        if (stale || e->kind != MESSAGE) {
            if (use_up(e, err, where) == KA_FAILED)
                return KA_FAILED;
            skipped++;
            continue;
        }
        n++;
        *bytes += kai_entry_bytes(e);
    }
    return n;
}

/* Copy the messages up to end, which are handed out by that. */
static void copy_messages(ka_consumer *c, ka_messages *m, uint64_t end)
{
    instant now = instant_now();
    int64_t i = 0, bytes;
    columns to = {.cells = (int64_t *)(m + 1), .stride = m->count, .top = &m->top};
    uint64_t at = c->block_end;
    char *data = (char *)(to.cells + KA_COLUMNS * m->count);
    const entry *e;

    while (at < end && (e = kai_ring_next(&c->ring, &at))) {
        if (e->kind != MESSAGE || is_stale(e))
            continue;
        bytes = kai_entry_bytes(e);
        memcpy(data, e->external ? e->external : (const char *)(e + 1), (size_t)bytes);
        set_row(&to, i++, e, data - (char *)m);
        note_take(c, e->arrived_ns, e->timestamp_type, e->timestamp_ms, &now);
        kai_hist_note(&c->block_latency, 0);
        data += bytes;
        if (e->partition->batch_begin == KA_OFFSET_NONE)
            e->partition->batch_begin = e->offset;
        e->partition->position = e->offset + 1;
        kai_partition_moved(c, e->partition);
    }
}

static int64_t take_messages(ka_consumer *c, int64_t max, ka_messages **out, ka_error *err,
                             ka_partition *where)
{
    int64_t n, bytes = 0, size;
    uint64_t end;

    if (kai_rebalance_show(c))
        return KA_REBALANCE;
    n = measure(c, max, &end, &bytes, err, where);
    if (n > 0) {
        size = (int64_t)sizeof **out + n * KA_COLUMNS * (int64_t)sizeof(int64_t) + bytes;
        if (!(*out = malloc((size_t)size)))
            return KA_NOMEM;
        **out = (ka_messages){.count = n, .size = size};
        copy_messages(c, *out, end);
        c->handed_out += n;
        c->batch_count = n;
        c->purged -= n;
    }
    c->block_end = end;
    release_handed(c);
    return n;
}

void ka_messages_free(ka_messages **messages)
{
    free(*messages);
    *messages = NULL;
}

static int64_t poll(ka_consumer *c, int64_t max, ka_messages **out, ka_error *err,
                    ka_partition *where)
{
    int wanted_room, progressed = 0;
    int64_t n = KA_CLOSED;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    if (atomic_exchange(&c->polling, 1))
        return KA_BUSY;
    pthread_mutex_lock(&c->lock);
    if (is_open(c)) {
        progressed = kai_block_settle(c, 1);
        release_handed(c);
        n = out ? take_messages(c, max, out, err, where) : take(c, err, where);
    }
    pthread_mutex_unlock(&c->lock);
    note_poll(c);
    /* The worker sets want_room, then looks at held_*; this side gave room, then looks at
     * want_room: all of them seq_cst, so one of the two sees the other. */
    wanted_room = atomic_load(&c->want_room) && atomic_exchange(&c->want_room, 0);
    progressed =
        (progressed || n > 0) && c->options.store_offsets && !atomic_exchange(&c->unstored, 1);
    if (wanted_room || progressed)
        kai_wake_notify(&c->worker.wake);
    return n;
}

int64_t ka_consumer_take(ka_consumer *c, ka_error *err, ka_partition *where)
{
    return poll(c, 0, NULL, err, where);
}

int64_t ka_consumer_take_messages(ka_consumer *c, int64_t max, ka_messages **out, ka_error *err,
                                  ka_partition *where)
{
    return poll(c, max, out, err, where);
}

static int is_ready(ka_consumer *c)
{
    uint64_t at = c->block_end; /* only the polling thread changes it */

    return atomic_load(&c->due) || kai_ring_next(&c->ring, &at);
}

/* KA_EMPTY: go on sleeping. slept: how the last sleep ended. */
static int check_ready(ka_consumer *c, int slept)
{
    if (!is_open(c))
        return KA_CLOSED;
    if (is_ready(c))
        return KA_OK;
    return slept == KA_OK ? KA_EMPTY : slept;
}

/* Look again and again; the worker finds nobody to wake. Only stop() and the deadline end it, so
 * whoever must see signals waits in short slices. */
static int spin_until_ready(ka_consumer *c, int64_t deadline, int slept)
{
    int result;

    while ((result = check_ready(c, slept)) == KA_EMPTY) {
        kai_spin();
        if (kai_now_ns() >= deadline)
            slept = KA_TIMEOUT;
    }
    return result;
}

static int sleep_until_ready(ka_consumer *c, int64_t deadline, int slept)
{
    int result;

    for (;;) {
        uint32_t key = kai_wake_prepare(&c->ready);

        if ((result = check_ready(c, slept)) != KA_EMPTY)
            break;
        slept = kai_wake_sleep(&c->ready, key, deadline);
    }
    kai_wake_cancel(&c->ready);
    return result;
}

int ka_wait_consumer_ready(ka_consumer *c, int64_t timeout_us)
{
    int64_t deadline = kai_deadline_ns(timeout_us);
    int slept = timeout_us == 0 ? KA_TIMEOUT : KA_OK, result;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    if (atomic_exchange(&c->polling, 1))
        return KA_BUSY;
    if (c->options.idle == KA_IDLE_SPIN)
        result = spin_until_ready(c, deadline, slept);
    else
        result = sleep_until_ready(c, deadline, slept);
    note_poll(c);
    return result;
}

int ka_try_consumer_ready(ka_consumer *c)
{
    return ka_wait_consumer_ready(c, 0);
}
