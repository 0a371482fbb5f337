/* The ring under the model checker, csrc/ka_ring.c as it is: two writers and a reader, within the bounds that the producer
 * keeps, so that no reservation may ever fail. */
#include "ka_ring.h"
#include "model.h"

enum { WORD = 8, HEADER = 16, SMALL = 128, LARGE = 1 << 20, REWIND = 256 * 1024, MOST = 4 };

static kai_ring ring;
static char memory[LARGE] __attribute__((aligned(64)));
static _Atomic int64_t
    room; /* how many messages more are admitted: as in admit() and kai_publish_counts() */

/* A scenario: where it begins, and what each writer puts. */
static uint64_t capacity, start;
static int64_t admitted;
static uint64_t lens[2][MOST]; /* 0: no more */
static uint64_t filler;        /* an entry that is there before all others; 0: none */
static int batch;              /* entries that are read before they are released together */

static void init(void)
{
    ring.memory = memory;
    ring.capacity = ring.keep = capacity;
    ring.page = 4096;
    atomic_init(&ring.tail, start);
    atomic_init(&ring.head_seen, start);
    atomic_init(&ring.head, start);
    atomic_init(&room, admitted);
    if (filler)
        kai_ring_commit(kai_ring_reserve(&ring, filler), filler);
    model_share("tail", &ring.tail, WORD);
    model_share("head_seen", &ring.head_seen, WORD);
    model_share("head", &ring.head, WORD);
    model_own(&ring.head);
    model_share("room", &room, WORD);
    model_share("memory", memory, sizeof memory);
}

static void admit(void)
{
    int64_t now = atomic_load_explicit(&room, memory_order_relaxed);

    for (;;) {
        if (now == 0) {
            model_await(&room, WORD, 0);
            now = atomic_load_explicit(&room, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&room, &now, now - 1, memory_order_acquire,
                                                         memory_order_relaxed)) {
            return;
        }
    }
}

static uint64_t content(int writer, int i)
{
    return (uint64_t)writer * 16 + (uint64_t)i + 1;
}

/* Without admission, as log lines are put, a full ring is met; they would be lost, here they wait. */
static uint64_t *reserve(uint64_t len)
{
    uint64_t head = atomic_load_explicit(&ring.head, memory_order_relaxed), *entry;

    while (!(entry = kai_ring_reserve(&ring, len))) {
        model_await(&ring.head, WORD, head);
        head = atomic_load_explicit(&ring.head, memory_order_relaxed);
    }
    return entry;
}

/* The first and the last word stand for all. */
static void put(int writer, int i)
{
    uint64_t len = lens[writer][i], *entry;

    if (admitted) {
        admit();
        entry = kai_ring_reserve(&ring, len);
        MODEL_CHECK(entry != NULL);
    } else {
        entry = reserve(len);
    }
#ifdef MODEL_COMMIT_FIRST
    kai_ring_commit(entry, len);
#endif
    entry[0] = content(writer, i);
    if (len > WORD)
        entry[len / WORD - 1] = ~content(writer, i);
#ifndef MODEL_COMMIT_FIRST
    kai_ring_commit(entry, len);
#endif
}

static void write_all(int writer)
{
    for (int i = 0; i < MOST && lens[writer][i]; i++)
        put(writer, i);
}

static void writer_0(void)
{
    write_all(0);
}

static void writer_1(void)
{
    write_all(1);
}

/* One of the two that may come next, whole. */
static void check_entry(const uint64_t *entry, int *next)
{
    int writer = next[1] < MOST && entry[0] == content(1, next[1]);
    uint64_t len = lens[writer][next[writer]];

    MODEL_CHECK(len && entry[0] == content(writer, next[writer]));
    MODEL_CHECK(len <= WORD || entry[len / WORD - 1] == ~entry[0]);
    next[writer]++;
}

static void give_back(uint64_t *pos, int64_t count)
{
    kai_ring_release(&ring, *pos);
    *pos = kai_ring_head(&ring);
    /* release: partner is admit(). */
    if (admitted)
        atomic_fetch_add_explicit(&room, count, memory_order_release);
}

static int total(void)
{
    int n = 0;

    for (int writer = 0; writer < 2; writer++)
        for (int i = 0; i < MOST && lens[writer][i]; i++)
            n++;
    return n;
}

static void read_all(void)
{
    uint64_t pos = kai_ring_head(&ring), *entry;
    int next[2] = {0, 0}, held = 0;

    if (filler && kai_ring_next(&ring, &pos))
        give_back(&pos, 0);
    for (int n = total(); n; n--) {
        while (!(entry = kai_ring_next(&ring, &pos))) {
            if (held)
                give_back(&pos, held);
            held = 0;
            model_await(memory + (pos & (capacity - 1)), WORD, 0);
        }
        check_entry(entry, next);
        if (++held == batch || n == 1) {
            give_back(&pos, held);
            held = 0;
        }
    }
}

static void check_empty(void)
{
    MODEL_CHECK(kai_ring_tail(&ring) == kai_ring_head(&ring) && room == admitted);
    for (uint64_t i = 0; i < 2 * HEADER; i++)
        MODEL_CHECK(memory[i] == 0);
    for (uint64_t i = 0; i < SMALL; i++)
        MODEL_CHECK(memory[i] == 0);
}

static void run(const char *name, void (*first)(void), void (*second)(void))
{
    const model_scenario s = {name, init, {read_all, first, second}, check_empty};

    model_run(&s);
}

static void set(uint64_t size, uint64_t at, int64_t messages, int together)
{
    capacity = size;
    start = at;
    admitted = messages;
    batch = together;
    filler = 0;
    for (int i = 0; i < 2 * MOST; i++)
        lens[i / MOST][i % MOST] = 0;
}

int main(int argc, char **argv)
{
    (void)argv;
    /* One writer, as in the consumer and for results: laps with gaps, full again and again. */
    set(SMALL, SMALL - 32, 2, 1);
    lens[0][0] = 32, lens[0][1] = 16, lens[0][2] = 32, lens[0][3] = 16;
    run("one writer, full and around", writer_0, NULL);
    set(SMALL, SMALL - 32, 2, 2);
    lens[0][0] = 32, lens[0][1] = 16, lens[0][2] = 32, lens[0][3] = 16;
    run("one writer, released in twos", writer_0, NULL);

    set(SMALL, SMALL - 32, 0, 1);
    lens[0][0] = 32, lens[0][1] = 16, lens[0][2] = 32, lens[0][3] = 16;
    run("one writer, no admission", writer_0, NULL);

    /* The ring starts over: the tail's bit, the head that comes later. */
    set(LARGE, REWIND + 4096, 2, 1);
    lens[0][0] = 300000, lens[0][1] = 300000, lens[0][2] = 300000;
    run("one writer, starting over", writer_0, NULL);

    set(SMALL, SMALL - 32, 2, 1);
    lens[0][0] = 32, lens[1][0] = 16, lens[1][1] = 32;
    run("two writers, around the end", writer_0, writer_1);
    set(SMALL, SMALL, 0, 1);
    filler = SMALL - HEADER;
    lens[0][0] = 32, lens[1][0] = 16;
    run("two writers, no admission", writer_0, writer_1);
    set(LARGE, REWIND + 4096, 2, 1);
    lens[0][0] = 300000, lens[1][0] = 300000;
    run("two writers, starting over", writer_0, writer_1);
    if (argc == 1)
        return 0;

    /* With an argument: minutes. */
    set(LARGE, REWIND + 4096, 2, 1);
    lens[0][0] = 300000, lens[1][0] = 300000, lens[1][1] = 300000;
    run("two writers, starting over twice", writer_0, writer_1);
    set(SMALL, SMALL - 32, 2, 1);
    lens[0][0] = 32, lens[0][1] = 16, lens[1][0] = 16, lens[1][1] = 32;
    run("two writers of two, around the end", writer_0, writer_1);
    return 0;
}
