/* The ring: layout, bounds, the wrap, starting over, and stress with many writers. */
#include "ka_ring.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

enum { HEADER = 16, PAGE = 4096, REWIND = 256 * 1024, WRITERS = 4 };

/* ---------------------------------------------------------------- helpers */

static void open_ring(kai_ring *ring, uint64_t capacity)
{
    CHECK(kai_ring_init(ring, capacity) == 0);
    CHECK(ring->capacity == capacity);
}

static uint64_t offset_of(const kai_ring *ring, const void *entry)
{
    return (uint64_t)((const char *)entry - ring->memory) - HEADER;
}

/* Write an entry whose bytes would not pass for a header's zeros. */
static void *put(kai_ring *ring, uint64_t len)
{
    void *entry = kai_ring_reserve(ring, len);

    if (entry) {
        memset(entry, 0xee, len);
        kai_ring_commit(entry, len);
    }
    return entry;
}

/* Read one entry and give its room back. */
static void *take(kai_ring *ring)
{
    uint64_t pos = kai_ring_head(ring);
    void *entry = kai_ring_next(ring, &pos);

    if (entry)
        kai_ring_release(ring, pos);
    return entry;
}

/* Move an empty ring on by size bytes, a multiple of 16. */
static void advance(kai_ring *ring, uint64_t size)
{
    CHECK(put(ring, size - HEADER));
    CHECK(take(ring));
}

static int all_zero(const kai_ring *ring)
{
    for (uint64_t i = 0; i < ring->capacity; i++)
        if (ring->memory[i])
            return 0;
    return 1;
}

/* ---------------------------------------------------------------- one thread */

static void entry_size_counts_the_header_and_rounds_up_to_16(void)
{
    CHECK(kai_ring_entry_size(0) == 16);
    CHECK(kai_ring_entry_size(1) == 32);
    CHECK(kai_ring_entry_size(16) == 32);
    CHECK(kai_ring_entry_size(17) == 48);
    CHECK(kai_ring_entry_size(PAGE - HEADER) == PAGE);
}

static void capacity_is_the_next_power_of_two_and_at_least_a_page(void)
{
    static const uint64_t asked[] = {0, 1, PAGE, PAGE + 1, 100000};
    static const uint64_t got[] = {PAGE, PAGE, PAGE, 2 * PAGE, 131072};

    for (unsigned i = 0; i < 5; i++) {
        kai_ring ring;
        CHECK(kai_ring_init(&ring, asked[i]) == 0);
        CHECK(ring.capacity == got[i]);
        kai_ring_fini(&ring);
        CHECK(ring.memory == NULL);
        kai_ring_fini(&ring);
    }
}

static void more_than_the_address_space_is_refused(void)
{
    kai_ring ring;

    CHECK(kai_ring_init(&ring, (uint64_t)1 << 62) == -1);
    CHECK(ring.memory == NULL);
    kai_ring_fini(&ring);
}

static void empty_ring_has_nothing_to_read(void)
{
    kai_ring ring;
    uint64_t pos;

    open_ring(&ring, PAGE);
    pos = kai_ring_head(&ring);
    CHECK(kai_ring_next(&ring, &pos) == NULL);
    CHECK(pos == kai_ring_head(&ring));
    kai_ring_release(&ring, pos);
    CHECK(kai_ring_head(&ring) == pos && kai_ring_tail(&ring) == pos);
    kai_ring_fini(&ring);
}

static void entries_of_every_size_come_back_in_order_and_aligned(void)
{
    kai_ring ring;
    uint64_t pos;

    open_ring(&ring, 64 * PAGE);
    for (uint64_t len = 0; len < 500; len++) {
        unsigned char *entry = kai_ring_reserve(&ring, len);
        CHECK(entry && (uintptr_t)entry % 16 == 0);
        memset(entry, (int)(len | 0x80) & 0xff, len);
        kai_ring_commit(entry, len);
    }
    pos = kai_ring_head(&ring);
    for (uint64_t len = 0; len < 500; len++) {
        uint64_t before = pos;
        unsigned char *entry = kai_ring_next(&ring, &pos);
        CHECK(entry && pos - before == kai_ring_entry_size(len));
        for (uint64_t i = 0; i < len; i++)
            CHECK(entry[i] == ((len | 0x80) & 0xff));
    }
    CHECK(kai_ring_next(&ring, &pos) == NULL);
    CHECK(pos == kai_ring_tail(&ring));
    kai_ring_fini(&ring);
}

static void entry_that_is_not_committed_hides_those_behind_it(void)
{
    kai_ring ring;
    uint64_t pos;
    void *first, *second;

    open_ring(&ring, PAGE);
    first = kai_ring_reserve(&ring, 100);
    second = put(&ring, 100);
    pos = kai_ring_head(&ring);
    CHECK(kai_ring_next(&ring, &pos) == NULL && pos == kai_ring_head(&ring));
    kai_ring_commit(first, 100);
    CHECK(kai_ring_next(&ring, &pos) == first);
    CHECK(kai_ring_next(&ring, &pos) == second);
    CHECK(kai_ring_next(&ring, &pos) == NULL);
    kai_ring_fini(&ring);
}

static void entry_of_exactly_the_capacity_fits_and_fills_the_ring(void)
{
    kai_ring ring;
    uint64_t pos;

    open_ring(&ring, PAGE);
    for (int lap = 0; lap < 3; lap++) {
        void *entry = put(&ring, PAGE - HEADER);
        CHECK(entry == ring.memory + HEADER);
        CHECK(kai_ring_reserve(&ring, 0) == NULL);
        pos = kai_ring_head(&ring);
        CHECK(kai_ring_next(&ring, &pos) == entry);
        /* One lap ahead, the header in sight is that of the entry just read. */
        CHECK(kai_ring_next(&ring, &pos) == NULL);
        kai_ring_release(&ring, pos);
        CHECK(kai_ring_head(&ring) == pos);
    }
    kai_ring_fini(&ring);
}

static void entry_larger_than_the_capacity_is_refused(void)
{
    static const uint64_t lens[] = {PAGE - HEADER + 1, PAGE,
                                    (uint64_t)1 << 63, UINT64_MAX - 47,
                                    UINT64_MAX - 31,   UINT64_MAX - 30,
                                    UINT64_MAX - 15,   UINT64_MAX};
    kai_ring ring;

    open_ring(&ring, PAGE);
    for (unsigned i = 0; i < sizeof lens / sizeof *lens; i++)
        CHECK(kai_ring_reserve(&ring, lens[i]) == NULL);
    CHECK(kai_ring_tail(&ring) == 0);
    CHECK(put(&ring, PAGE - HEADER));
    kai_ring_fini(&ring);
}

static void full_ring_takes_again_exactly_what_was_released(void)
{
    kai_ring ring;

    open_ring(&ring, PAGE);
    for (int i = 0; i < PAGE / 64; i++)
        CHECK(put(&ring, 64 - HEADER));
    for (int i = 0; i < 1000; i++) {
        uint64_t freed = kai_ring_head(&ring);
        CHECK(!kai_ring_reserve(&ring, 0));
        CHECK(take(&ring));
        freed = kai_ring_head(&ring) - freed;
        CHECK(!kai_ring_reserve(&ring, freed - HEADER + 1));
        if (freed == 64 && i % 3 == 0) {
            CHECK(put(&ring, 32 - HEADER));
            freed = 32;
        }
        CHECK(put(&ring, freed - HEADER));
    }
    kai_ring_fini(&ring);
}

static void entry_never_wraps_and_the_gap_is_passed_over(void)
{
    kai_ring ring;
    uint64_t pos, tail;
    void *entry;

    open_ring(&ring, PAGE);
    advance(&ring, PAGE - 64);
    entry = kai_ring_reserve(&ring, 128 - HEADER);
    CHECK(entry == ring.memory + HEADER);
    pos = kai_ring_head(&ring);
    CHECK(kai_ring_next(&ring, &pos) == NULL); /* the gap alone is no entry */
    kai_ring_commit(entry, 128 - HEADER);
    CHECK(kai_ring_next(&ring, &pos) == entry);
    CHECK(pos == PAGE + 128);
    kai_ring_release(&ring, pos);
    CHECK(all_zero(&ring));

    /* Released up to the gap, which then goes with the entry behind it. */
    advance(&ring, PAGE - 128 - 64);
    CHECK(put(&ring, 64 - HEADER) && (entry = put(&ring, 16)));
    CHECK(offset_of(&ring, entry) == 0); /* an exact end of a lap needs no gap */
    CHECK(take(&ring) && take(&ring) == entry);
    advance(&ring, PAGE - 32 - 96);
    CHECK(put(&ring, 64 - HEADER) && (entry = put(&ring, 64)));
    CHECK(offset_of(&ring, entry) == 0);
    CHECK(take(&ring) != entry && take(&ring) == entry);
    CHECK(all_zero(&ring));

    /* Too large for what the gap would leave: nothing is reserved, not even the gap. */
    advance(&ring, PAGE - 80 - 64);
    CHECK(put(&ring, 32 - HEADER));
    tail = kai_ring_tail(&ring);
    CHECK(kai_ring_reserve(&ring, PAGE - 64 + 1 - HEADER) == NULL);
    CHECK(kai_ring_tail(&ring) == tail);
    CHECK(put(&ring, 32 - HEADER));
    kai_ring_fini(&ring);
}

static void half_the_capacity_fits_an_empty_ring_wherever_it_stands(void)
{
    for (uint64_t offset = HEADER; offset <= PAGE; offset += 16) {
        kai_ring ring;
        open_ring(&ring, PAGE);
        advance(&ring, offset);
        CHECK(put(&ring, PAGE / 2 - HEADER));
        CHECK(take(&ring));
        CHECK(all_zero(&ring));
        kai_ring_fini(&ring);
    }
}

static void released_room_is_zero_on_both_sides_of_the_wrap(void)
{
    uint64_t seed = 1;
    kai_ring ring;

    open_ring(&ring, PAGE);
    for (int i = 0; i < 3000; i++) {
        uint64_t pos;
        while (put(&ring, check_random(&seed, 300)))
            continue;
        pos = kai_ring_head(&ring);
        while (kai_ring_next(&ring, &pos))
            continue;
        CHECK(pos == kai_ring_tail(&ring));
        kai_ring_release(&ring, pos);
        CHECK(all_zero(&ring));
    }
    kai_ring_fini(&ring);
}

static void reader_may_release_less_than_it_read(void)
{
    kai_ring ring;
    uint64_t pos, middle = 0, end;
    void *entries[10];

    open_ring(&ring, 4 * (uint64_t)REWIND);
    advance(&ring, REWIND + 64); /* starts over */
    advance(&ring, REWIND);
    for (int i = 0; i < 10; i++)
        CHECK((entries[i] = put(&ring, 1000)));
    pos = kai_ring_head(&ring);
    for (int i = 0; i < 10; i++) {
        CHECK(kai_ring_next(&ring, &pos) == entries[i]);
        if (i == 4)
            middle = pos;
    }
    end = pos;
    kai_ring_release(&ring, middle);
    pos = kai_ring_head(&ring);
    CHECK(pos == middle); /* entries behind it: no starting over */
    for (int i = 5; i < 10; i++)
        CHECK(kai_ring_next(&ring, &pos) == entries[i]);
    CHECK(pos == end && kai_ring_next(&ring, &pos) == NULL);
    kai_ring_release(&ring, pos);
    CHECK(kai_ring_head(&ring) > end && all_zero(&ring));
    kai_ring_fini(&ring);
}

static void empty_ring_starts_over_at_its_first_page(void)
{
    kai_ring ring;
    uint64_t lap = 4 * (uint64_t)REWIND, seed = 2;

    open_ring(&ring, lap);
    advance(&ring, REWIND);
    CHECK(kai_ring_head(&ring) == REWIND); /* few pages: stays */
    advance(&ring, 16);
    CHECK(kai_ring_head(&ring) == lap && kai_ring_tail(&ring) == lap);
    CHECK(offset_of(&ring, put(&ring, 100)) == 0);
    CHECK(take(&ring));

    /* Light traffic touches the first pages alone, lap after lap, and loses nothing. */
    for (int i = 0; i < CHECK_ROUNDS(20000); i++) {
        void *entry = put(&ring, check_random(&seed, 4000));
        CHECK(entry && offset_of(&ring, entry) <= REWIND + 4096);
        CHECK(take(&ring) == entry);
    }
    CHECK(all_zero(&ring));
    CHECK(kai_ring_head(&ring) > 4 * lap);
    kai_ring_fini(&ring);
}

static void ring_with_something_reserved_does_not_start_over(void)
{
    kai_ring ring;
    void *reserved;
    uint64_t pos;

    open_ring(&ring, 4 * (uint64_t)REWIND);
    CHECK(put(&ring, REWIND));
    reserved = kai_ring_reserve(&ring, 100);
    CHECK(take(&ring));
    pos = kai_ring_head(&ring);
    CHECK(pos == kai_ring_entry_size(REWIND));
    CHECK(kai_ring_next(&ring, &pos) == NULL);
    kai_ring_commit(reserved, 100);
    CHECK(take(&ring) == reserved);
    CHECK(kai_ring_head(&ring) == 4 * (uint64_t)REWIND);
    kai_ring_fini(&ring);
}

static void whole_ring_is_usable_after_it_started_over(void)
{
    kai_ring ring;
    uint64_t lap = 2 * (uint64_t)REWIND;

    open_ring(&ring, lap);
    for (int i = 0; i < 5; i++) {
        advance(&ring, REWIND + 16);
        CHECK(offset_of(&ring, put(&ring, lap - HEADER)) == 0);
        CHECK(!kai_ring_reserve(&ring, 0));
        CHECK(take(&ring) && all_zero(&ring));
    }
    kai_ring_fini(&ring);
}

static void committed_entry_lies_before_the_tail(void)
{
    kai_ring ring;
    uint64_t seed = 3;

    open_ring(&ring, 2 * (uint64_t)REWIND);
    for (int i = 0; i < 10000; i++) {
        uint64_t tail, pos = kai_ring_head(&ring), len = check_random(&seed, 2000);
        CHECK(put(&ring, len));
        tail = kai_ring_tail(&ring);
        CHECK(kai_ring_next(&ring, &pos) && pos == tail);
        kai_ring_release(&ring, pos);
        CHECK(kai_ring_head(&ring) >= tail && kai_ring_tail(&ring) >= tail);
        CHECK(kai_ring_tail(&ring) % 16 == 0);
    }
    kai_ring_fini(&ring);
}

static void old_copy_of_head_costs_no_room(void)
{
    kai_ring ring;

    open_ring(&ring, PAGE);
    for (int i = 0; i < 100; i++) {
        for (int n = 0; n < PAGE / 64; n++)
            CHECK(put(&ring, 64 - HEADER));
        for (int n = 0; n < PAGE / 64; n++)
            CHECK(take(&ring));
        /* As a writer leaves it that was held up for laps before it stored its copy. */
        atomic_store(&ring.head_seen, 0);
        CHECK(put(&ring, PAGE - HEADER) && !kai_ring_reserve(&ring, 0));
        CHECK(take(&ring));
    }
    kai_ring_fini(&ring);
}

/* The reader starts over in two stores, tail and then head, and may be held up between them. */
static void reader_held_up_while_it_starts_over_costs_no_room(void)
{
    uint64_t lap = 4 * (uint64_t)REWIND;
    kai_ring ring;
    void *first, *second;

    open_ring(&ring, lap);
    for (int i = 0; i < 3; i++) {
        uint64_t before = kai_ring_head(&ring), after;
        advance(&ring, REWIND + 16);
        after = kai_ring_head(&ring);
        CHECK(after > before + REWIND + 16);
        atomic_store(&ring.head, before);
        CHECK((first = put(&ring, lap / 2)));
        CHECK((second = put(&ring, lap / 2 - 64)));
        CHECK(!kai_ring_reserve(&ring, 64));
        atomic_store(&ring.head, after);
        CHECK(take(&ring) == first && take(&ring) == second);
        CHECK(all_zero(&ring));
    }
    kai_ring_fini(&ring);
}

/* ---------------------------------------------------------------- many writers */

typedef struct {
    kai_ring ring;
    uint64_t max_len;
    uint32_t per_phase, phases;
    _Atomic uint64_t received; /* by the reader, in all */
    _Atomic uint32_t writers;  /* gives each its number */
} stress;

/* An entry of at least this size says who wrote it; bytes that follow from that fill it. A
 * smaller one is empty. */
typedef struct {
    uint32_t writer, sequence, len;
} label;

static unsigned char filling(const label *l, uint64_t i)
{
    return (unsigned char)((l->writer * 31 + l->sequence * 7 + i) | 0x80);
}

/* Mostly short entries, some long ones, some empty. */
static uint64_t random_len(uint64_t *seed, uint64_t max_len)
{
    uint64_t kind = check_random(seed, 32);
    uint64_t limit = kind == 0 ? max_len : 200;

    return kind == 1 ? 0 : sizeof(label) + check_random(seed, limit - sizeof(label) + 1);
}

static void write_entry(stress *s, uint32_t writer, uint32_t sequence, uint64_t *seed)
{
    label l = {writer, sequence, (uint32_t)random_len(seed, s->max_len)};
    unsigned char *entry;

    while (!(entry = kai_ring_reserve(&s->ring, l.len)))
        sched_yield();
    if (check_random(seed, 64) == 0)
        sched_yield(); /* others commit before this one */
    if (l.len)
        memcpy(entry, &l, sizeof l);
    for (uint64_t i = sizeof l; i < l.len; i++)
        entry[i] = filling(&l, i);
    kai_ring_commit(entry, l.len);
}

/* At the end of a phase everybody waits until all of it was read: the ring is empty then. */
static void *writer_main(void *arg)
{
    stress *s = arg;
    uint32_t writer = atomic_fetch_add(&s->writers, 1), sequence = 0;
    uint64_t seed = 1000003 * (uint64_t)(writer + 1);

    for (uint32_t phase = 1; phase <= s->phases; phase++) {
        for (uint32_t i = 0; i < s->per_phase; i++)
            write_entry(s, writer, sequence++, &seed);
        while (atomic_load(&s->received) < (uint64_t)phase * s->per_phase * WRITERS)
            sched_yield();
    }
    return NULL;
}

static void verify(const unsigned char *entry, uint64_t size, uint64_t max_len,
                   uint32_t next[WRITERS])
{
    label l;

    memcpy(&l, entry, sizeof l);
    CHECK(l.writer < WRITERS && l.len <= max_len && kai_ring_entry_size(l.len) == size);
    CHECK(l.sequence >= next[l.writer]); /* the ones between were empty */
    next[l.writer] = l.sequence + 1;
    for (uint64_t i = sizeof l; i < l.len; i++)
        CHECK(entry[i] == filling(&l, i));
}

/* Read everything; returns how often the ring started over. */
static uint64_t read_all(stress *s)
{
    uint64_t total = (uint64_t)s->phases * s->per_phase * WRITERS, pos = 0, started_over = 0;
    uint64_t seed = 77, batch = 1, received = 0;
    uint32_t next[WRITERS] = {0};

    while (received < total) {
        unsigned char *entry = kai_ring_next(&s->ring, &pos);
        if (entry) {
            uint64_t size = (pos - offset_of(&s->ring, entry)) & (s->ring.capacity - 1);
            if (size > HEADER)
                verify(entry, size, s->max_len, next);
            received++;
            batch--;
        } else if (pos == kai_ring_head(&s->ring)) {
            sched_yield();
        }
        if (!entry || batch == 0 || received == total) {
            kai_ring_release(&s->ring, pos);
            started_over += kai_ring_head(&s->ring) != pos;
            pos = kai_ring_head(&s->ring);
            atomic_store(&s->received, received);
            batch = 1 + check_random(&seed, 50);
        }
    }
    return started_over;
}

static uint64_t run_stress(uint64_t capacity, uint64_t max_len, uint32_t per_phase, uint32_t phases)
{
    static stress s;
    pthread_t threads[WRITERS];
    uint64_t started_over;

    s = (stress){.max_len = max_len, .per_phase = per_phase, .phases = phases};
    open_ring(&s.ring, capacity);
    for (int i = 0; i < WRITERS; i++)
        threads[i] = check_thread(writer_main, &s);
    started_over = read_all(&s);
    for (int i = 0; i < WRITERS; i++)
        check_join(threads[i]);
    CHECK(kai_ring_head(&s.ring) == kai_ring_tail(&s.ring));
    CHECK(all_zero(&s.ring));
    kai_ring_fini(&s.ring);
    return started_over;
}

static void writers_that_fight_for_a_small_ring_lose_and_mix_nothing(void)
{
    CHECK(run_stress(PAGE, PAGE / 2 - HEADER, CHECK_ROUNDS(100000), 1) == 0);
}

static void writers_that_fill_a_ring_of_laps_lose_and_mix_nothing(void)
{
    run_stress(16 * PAGE, 8 * PAGE - HEADER, CHECK_ROUNDS(100000), 1);
}

/* A phase moves on by less than a lap, so some of them end beyond the first pages: that
 * the ring starts over is certain there, and a race with a writer elsewhere. */
static void writers_meet_a_ring_that_starts_over_and_lose_nothing(void)
{
    CHECK(run_stress(4 * (uint64_t)REWIND, 20000, 60, CHECK_ROUNDS(4000)) > 0);
}

/* ---------------------------------------------------------------- no false "full" */

enum { CREDIT_CAPACITY = 1 << 20, CREDIT_MAX = 300 * 1024 };

typedef struct {
    kai_ring ring;
    _Atomic int64_t credit; /* bytes of entries that may be live */
    _Atomic int done;
    _Atomic uint32_t writers; /* so far; gives each its seed */
} accounts;

/* Reads and gives back whatever is there, as fast as it can. */
static void *creditor_main(void *arg)
{
    accounts *a = arg;
    uint64_t pos = kai_ring_head(&a->ring);

    for (;;) {
        int done = atomic_load(&a->done);
        uint64_t size = 0;
        void *entry;
        while ((entry = kai_ring_next(&a->ring, &pos))) /* a gap before it was no debit */
            size += (pos - offset_of(&a->ring, entry)) & (a->ring.capacity - 1);
        if (size) {
            kai_ring_release(&a->ring, pos);
            atomic_fetch_add(&a->credit, (int64_t)size);
            pos = kai_ring_head(&a->ring);
        } else if (done) {
            return NULL;
        }
    }
}

static int take_credit(accounts *a, int64_t size)
{
    int64_t credit = atomic_load(&a->credit);

    while (credit >= size)
        if (atomic_compare_exchange_weak(&a->credit, &credit, credit - size))
            return 1;
    return 0;
}

static void *debtor_main(void *arg)
{
    accounts *a = arg;
    int64_t end = check_now_ms() + CHECK_ROUNDS(640);
    uint64_t seed = 5 + atomic_fetch_add(&a->writers, 1);

    for (uint64_t n = 0; n % 256 || check_now_ms() < end; n++) {
        uint64_t len = check_random(&seed, (n % 2 ? CREDIT_MAX : 4096) - HEADER);
        void *entry;
        while (!take_credit(a, (int64_t)kai_ring_entry_size(len)))
            sched_yield();
        entry = kai_ring_reserve(&a->ring, len);
        CHECK(entry);
        kai_ring_commit(entry, len);
        check_spin(check_random(&seed, 300));
    }
    return NULL;
}

/* Users size a ring for what they admit (live entries, and the largest twice) and rely on that: a
 * reservation within the bound is never refused, not even while the reader starts over. */
static void check_credit(int writers)
{
    static accounts a;
    pthread_t reader, threads[2];

    open_ring(&a.ring, CREDIT_CAPACITY);
    atomic_store(&a.credit, CREDIT_CAPACITY - 2 * CREDIT_MAX);
    atomic_store(&a.done, 0);
    reader = check_thread(creditor_main, &a);
    for (int i = 0; i < writers; i++)
        threads[i] = check_thread(debtor_main, &a);
    for (int i = 0; i < writers; i++)
        check_join(threads[i]);
    atomic_store(&a.done, 1);
    check_join(reader);
    kai_ring_fini(&a.ring);
}

static void what_the_bound_admits_is_never_refused_to_one_writer(void)
{
    check_credit(1);
}

static void what_the_bound_admits_is_never_refused_to_two_writers(void)
{
    check_credit(2);
}

/* Fill all of an empty ring and read it; how many of its pages are in memory then. */
static uint64_t resident_after_burst(kai_ring *ring)
{
    unsigned char in_core[64 * 256];
    uint64_t count = 0;

    while (put(ring, 1000))
        continue;
    for (uint64_t pos; pos = kai_ring_head(ring), kai_ring_next(ring, &pos);) {
        for (int i = 0; i < 100 && kai_ring_next(ring, &pos); i++)
            continue;
        kai_ring_release(ring, pos);
    }
    CHECK(mincore(ring->memory, ring->capacity, in_core) == 0);
    for (uint64_t i = 0; i < ring->capacity / PAGE; i++)
        count += in_core[i] & 1;
    return count;
}

static void memory_of_a_burst_is_given_back_but_for_what_is_kept(void)
{
    enum { CAPACITY = 16 << 20, KEEP = 1 << 20 };
    kai_ring ring;
    uint64_t most = CAPACITY / PAGE, given_back;

    open_ring(&ring, CAPACITY);
    CHECK(resident_after_burst(&ring) > most * 9 / 10);
    kai_ring_fini(&ring);
    open_ring(&ring, CAPACITY);
    ring.keep = KEEP;
#ifndef __linux__
    given_back = most;
#else
    given_back = most / 8; /* batches do not begin and end with pages */
#endif
    for (int i = 0; i < 3; i++) {
        CHECK(resident_after_burst(&ring) <= given_back);
        CHECK(all_zero(&ring));
        kai_ring_fini(&ring);
        open_ring(&ring, CAPACITY);
        ring.keep = KEEP;
    }
    kai_ring_fini(&ring);
}

/* Batches of a few pages, as a worker releases them, at every place of the ring. */
static void what_is_given_back_is_zero_and_usable_again(void)
{
    kai_ring ring;
    uint64_t seed = 3;

    open_ring(&ring, 1 << 20);
    ring.keep = 100 * 1000; /* no page's border */
    for (int lap = 0; lap < 300; lap++) {
        uint64_t pos;
        for (int i = 0; i < 40; i++)
            CHECK(put(&ring, 1 + check_random(&seed, 12000)));
        pos = kai_ring_head(&ring);
        for (int i = 0; i < 40; i++) {
            const unsigned char *entry = kai_ring_next(&ring, &pos);
            CHECK(entry && entry[0] == 0xee);
        }
        kai_ring_release(&ring, pos);
        CHECK(all_zero(&ring));
    }
    kai_ring_fini(&ring);
}

int main(void)
{
    RUN(entry_size_counts_the_header_and_rounds_up_to_16);
    RUN(capacity_is_the_next_power_of_two_and_at_least_a_page);
    RUN(more_than_the_address_space_is_refused);
    RUN(empty_ring_has_nothing_to_read);
    RUN(entries_of_every_size_come_back_in_order_and_aligned);
    RUN(entry_that_is_not_committed_hides_those_behind_it);
    RUN(entry_of_exactly_the_capacity_fits_and_fills_the_ring);
    RUN(entry_larger_than_the_capacity_is_refused);
    RUN(full_ring_takes_again_exactly_what_was_released);
    RUN(entry_never_wraps_and_the_gap_is_passed_over);
    RUN(half_the_capacity_fits_an_empty_ring_wherever_it_stands);
    RUN(released_room_is_zero_on_both_sides_of_the_wrap);
    RUN(reader_may_release_less_than_it_read);
    RUN(memory_of_a_burst_is_given_back_but_for_what_is_kept);
    RUN(what_is_given_back_is_zero_and_usable_again);
    RUN(empty_ring_starts_over_at_its_first_page);
    RUN(ring_with_something_reserved_does_not_start_over);
    RUN(whole_ring_is_usable_after_it_started_over);
    RUN(committed_entry_lies_before_the_tail);
    RUN(old_copy_of_head_costs_no_room);
    RUN(reader_held_up_while_it_starts_over_costs_no_room);
    RUN(writers_that_fight_for_a_small_ring_lose_and_mix_nothing);
    RUN(writers_that_fill_a_ring_of_laps_lose_and_mix_nothing);
    RUN(writers_meet_a_ring_that_starts_over_and_lose_nothing);
    RUN(what_the_bound_admits_is_never_refused_to_one_writer);
    RUN(what_the_bound_admits_is_never_refused_to_two_writers);
    return 0;
}
