/* Results: the places exact, told once and in order, nothing announced before it is counted, and the
 * worker never held up. */
#include "ka_results.h"

#include <sched.h>

#include "check.h"
#include "ka.h"

enum { TAKERS = 6, CAPACITY = 64, BYTES = 100, MS = 1000000 };

/* ---------------------------------------------------------------- helpers */

typedef struct {
    kai_results r;
    kai_wake freed;
} fixture;

static void begin(fixture *f, int64_t capacity)
{
    memset(f, 0, sizeof *f);
    kai_wake_init(&f->freed);
    CHECK(kai_results_init(&f->r, capacity, capacity * BYTES, &f->freed) == 0);
}

static void end(fixture *f)
{
    CHECK(atomic_load(&f->r.arrived.sleepers) == 0);
    CHECK(atomic_load(&f->r.progressed.sleepers) == 0);
    CHECK(atomic_load(&f->freed.sleepers) == 0);
    kai_results_fini(&f->r);
    kai_wake_fini(&f->freed);
}

static void push(fixture *f, int64_t token)
{
    kai_results_push(&f->r, &(ka_result){.token = token,
                                         .bytes = BYTES,
                                         .offset = token * 3,
                                         .timestamp_ms = token * 5,
                                         .code = (int32_t)-token,
                                         .partition = (int32_t)(token % 7)});
}

static void reserve_and_push(fixture *f, int64_t first, int64_t last)
{
    for (int64_t token = first; token <= last; token++) {
        CHECK(kai_results_reserve(&f->r, BYTES));
        push(f, token);
    }
}

static void check_results(const ka_result *results, int64_t n, int64_t first)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t token = first + i;
        CHECK(results[i].token == token && results[i].offset == token * 3);
        CHECK(results[i].timestamp_ms == token * 5 && results[i].code == -token);
        CHECK(results[i].partition == token % 7);
    }
}

/* ---------------------------------------------------------------- places */

static void bytes_are_bounded_until_told(void)
{
    ka_result out[2];
    fixture f;

    begin(&f, 3);
    CHECK(kai_results_full(&f.r, 3 * BYTES + 1) && !kai_results_reserve(&f.r, 3 * BYTES + 1));
    CHECK(!kai_results_full(&f.r, 3 * BYTES) && kai_results_reserve(&f.r, 3 * BYTES));
    CHECK(!kai_results_reserve(&f.r, 1));
    kai_results_push(&f.r, &(ka_result){.bytes = 3 * BYTES});
    kai_results_announce(&f.r);
    CHECK(kai_results_take(&f.r, out, 2) == 1);
    CHECK(!kai_results_reserve(&f.r, 1));
    CHECK(kai_results_take(&f.r, out, 2) == 0);
    CHECK(atomic_load(&f.r.reserved_bytes) == 0 && kai_results_reserve(&f.r, 3 * BYTES));
    end(&f);
}

static void places_are_as_many_as_the_capacity(void)
{
    fixture f;

    begin(&f, 3);
    for (int i = 0; i < 3; i++) {
        CHECK(!kai_results_full(&f.r, BYTES));
        CHECK(kai_results_reserve(&f.r, BYTES));
    }
    CHECK(kai_results_full(&f.r, BYTES));
    CHECK(!kai_results_reserve(&f.r, BYTES));
    kai_results_unreserve(&f.r, BYTES);
    CHECK(!kai_results_full(&f.r, BYTES));
    CHECK(kai_results_reserve(&f.r, BYTES) && !kai_results_reserve(&f.r, BYTES));
    CHECK(atomic_load(&f.r.reserved) == 3);
    end(&f);
}

typedef struct {
    fixture f;
    _Atomic int64_t held, most, got;
    int64_t rounds;
} crowd;

static void *reserve_until_full(void *arg)
{
    crowd *c = arg;

    while (kai_results_reserve(&c->f.r, BYTES))
        atomic_fetch_add(&c->got, 1);
    return NULL;
}

static void many_threads_get_exactly_the_capacity(void)
{
    static crowd c;
    pthread_t threads[TAKERS];

    for (int round = 0; round < 50; round++) {
        begin(&c.f, 1000);
        atomic_store(&c.got, 0);
        for (int i = 0; i < TAKERS; i++)
            threads[i] = check_thread(reserve_until_full, &c);
        for (int i = 0; i < TAKERS; i++)
            check_join(threads[i]);
        CHECK(atomic_load(&c.got) == 1000 && atomic_load(&c.f.r.reserved) == 1000);
        end(&c.f);
    }
}

static void *take_and_give_back(void *arg)
{
    crowd *c = arg;
    uint64_t seed = (uintptr_t)&seed | 1;

    for (int64_t i = 0; i < c->rounds; i++) {
        int64_t held;
        if (!kai_results_reserve(&c->f.r, BYTES)) {
            sched_yield();
            continue;
        }
        held = atomic_fetch_add(&c->held, 1) + 1;
        CHECK(held <= 3);
        check_spin(check_random(&seed, 100));
        atomic_fetch_sub(&c->held, 1);
        kai_results_unreserve(&c->f.r, BYTES);
    }
    return NULL;
}

static void never_more_places_than_the_capacity_and_none_is_lost(void)
{
    static crowd c;
    pthread_t threads[TAKERS];

    begin(&c.f, 3);
    c.rounds = CHECK_ROUNDS(100000);
    for (int i = 0; i < TAKERS; i++)
        threads[i] = check_thread(take_and_give_back, &c);
    for (int i = 0; i < TAKERS; i++)
        check_join(threads[i]);
    CHECK(atomic_load(&c.f.r.reserved) == 0);
    end(&c.f);
}

/* ---------------------------------------------------------------- push, announce, take */

static void nothing_is_taken_before_it_is_announced(void)
{
    fixture f;
    ka_result out[4];

    begin(&f, 10);
    CHECK(kai_results_take(&f.r, out, 4) == 0);
    kai_results_announce(&f.r); /* of nothing */
    reserve_and_push(&f, 1, 3);
    CHECK(kai_results_take(&f.r, out, 4) == 0);
    CHECK(kai_results_wait(&f.r, 0) == KA_TIMEOUT);
    kai_results_announce(&f.r);
    reserve_and_push(&f, 4, 4);
    CHECK(kai_results_wait(&f.r, 0) == KA_OK);
    CHECK(kai_results_take(&f.r, out, 4) == 3);
    check_results(out, 3, 1);
    CHECK(kai_results_wait(&f.r, 0) == KA_TIMEOUT);
    CHECK(kai_results_take(&f.r, out, 4) == 0);
    end(&f);
}

static void results_come_in_order_and_in_portions(void)
{
    fixture f;
    ka_result out[3];
    int64_t first = 1, n;

    begin(&f, 10);
    reserve_and_push(&f, 1, 10);
    kai_results_announce(&f.r);
    while ((n = kai_results_take(&f.r, out, 3)) > 0) {
        CHECK(n == (first == 10 ? 1 : 3));
        check_results(out, n, first);
        first += n;
        CHECK(kai_results_wait(&f.r, 0) == (first <= 10 ? KA_OK : KA_TIMEOUT));
    }
    CHECK(first == 11);
    end(&f);
}

/* Taken is not told: that is when the teller comes back. */
static void a_place_is_free_only_once_its_result_was_told(void)
{
    fixture f;
    ka_result out[2];

    begin(&f, 3);
    reserve_and_push(&f, 1, 3);
    kai_results_announce(&f.r);
    CHECK(atomic_load(&f.r.announced) == 3);
    CHECK(kai_results_take(&f.r, out, 2) == 2);
    CHECK(atomic_load(&f.r.told) == 0 && atomic_load(&f.r.reserved) == 3);
    CHECK(!kai_results_reserve(&f.r, BYTES));
    CHECK(kai_results_take(&f.r, out, 2) == 1);
    CHECK(atomic_load(&f.r.told) == 2 && atomic_load(&f.r.reserved) == 1);
    CHECK(kai_results_reserve(&f.r, BYTES) && kai_results_reserve(&f.r, BYTES) &&
          !kai_results_reserve(&f.r, BYTES));
    CHECK(kai_results_take(&f.r, out, 2) == 0);
    CHECK(atomic_load(&f.r.told) == 3 && atomic_load(&f.r.reserved) == 2);
    CHECK(kai_results_take(&f.r, out, 2) == 0); /* not twice */
    CHECK(atomic_load(&f.r.told) == 3 && atomic_load(&f.r.reserved) == 2);
    end(&f);
}

/* A ring that is no larger than it must be, at every place of its laps. */
static void worker_finds_room_for_every_place_at_any_time(void)
{
    for (int64_t capacity = 1; capacity < 200; capacity += 13) {
        fixture f;
        ka_result out[256];
        int64_t first = 1, n;

        begin(&f, capacity);
        for (int round = 0; round < 200; round++) {
            int64_t count = 1 + round * 7 % capacity;
            reserve_and_push(&f, first, first + count - 1); /* aborts if there is no room */
            kai_results_announce(&f.r);
            while ((n = kai_results_take(&f.r, out, 1 + round % 5)) > 0) {
                check_results(out, n, first);
                first += n;
            }
        }
        CHECK(atomic_load(&f.r.reserved) == 0 && atomic_load(&f.r.told) == first - 1);
        end(&f);
    }
}

/* ---------------------------------------------------------------- closing */

static void after_closing_comes_what_was_announced_and_then_the_end(void)
{
    fixture f;
    ka_result out[4];

    begin(&f, 4);
    reserve_and_push(&f, 1, 2);
    kai_results_announce(&f.r);
    kai_results_close(&f.r);
    CHECK(kai_results_wait(&f.r, 0) == KA_OK);
    CHECK(kai_results_take(&f.r, out, 1) == 1);
    CHECK(kai_results_take(&f.r, out, 1) == 1);
    CHECK(kai_results_take(&f.r, out, 1) == KA_CLOSED);
    CHECK(atomic_load(&f.r.told) == 2 && atomic_load(&f.r.reserved) == 0);
    CHECK(kai_results_take(&f.r, out, 1) == KA_CLOSED);
    CHECK(kai_results_wait(&f.r, 0) == KA_OK);
    end(&f);
}

typedef struct {
    fixture f;
    _Atomic int go;
    int64_t count;
    uint64_t seed;
} closing;

static void *announce_and_close(void *arg)
{
    closing *c = arg;

    while (!atomic_load(&c->go))
        sched_yield();
    check_spin(check_random(&c->seed, 400));
    reserve_and_push(&c->f, 1, c->count);
    kai_results_announce(&c->f.r);
    kai_results_close(&c->f.r);
    return NULL;
}

static void last_announcement_is_never_missed_beside_the_close(void)
{
    static closing c;
    uint64_t seed = 5;

    for (int round = 0; round < CHECK_ROUNDS(3000); round++) {
        int64_t told = 0, n;
        ka_result out[2];
        pthread_t worker;

        begin(&c.f, 8);
        c.count = 1 + round % 3;
        c.seed = (uint64_t)round + 1;
        atomic_store(&c.go, 0);
        worker = check_thread(announce_and_close, &c);
        atomic_store(&c.go, 1);
        check_spin(check_random(&seed, 400));
        while ((n = kai_results_take(&c.f.r, out, 2)) != KA_CLOSED) {
            check_results(out, n, told + 1);
            told += n;
            if (n == 0 && round % 2)
                CHECK(kai_results_wait(&c.f.r, -1) == KA_OK);
        }
        CHECK(told == c.count && atomic_load(&c.f.r.told) == told);
        check_join(worker);
        end(&c.f);
    }
}

/* ---------------------------------------------------------------- waits */

static void wait_without_results_ends_at_its_time(void)
{
    fixture f;
    int64_t start = kai_now_ns();

    begin(&f, 4);
    CHECK(kai_results_wait(&f.r, 20000) == KA_TIMEOUT);
    CHECK(kai_now_ns() - start >= 20 * MS);
    end(&f);
}

typedef struct {
    fixture f;
    _Atomic int result; /* 1: none yet */
} waiter;

static void *wait_forever(void *arg)
{
    waiter *w = arg;

    atomic_store(&w->result, kai_results_wait(&w->f.r, -1));
    return NULL;
}

static pthread_t start_waiter(waiter *w)
{
    pthread_t thread;

    begin(&w->f, 4);
    atomic_store(&w->result, 1);
    thread = check_thread(wait_forever, w);
    CHECK_SOON(atomic_load(&w->f.r.arrived.sleepers) == 1);
    return thread;
}

static void end_waiter(waiter *w, pthread_t thread, int result)
{
    CHECK_SOON(atomic_load(&w->result) != 1);
    check_join(thread);
    CHECK(atomic_load(&w->result) == result);
    end(&w->f);
}

static void wait_ends_by_an_announcement_and_not_by_a_push(void)
{
    static waiter w;
    pthread_t thread = start_waiter(&w);

    reserve_and_push(&w.f, 1, 1);
    for (int i = 0; i < 20; i++) {
        kai_wake_notify(&w.f.r.arrived); /* for no reason */
        check_pause();
        CHECK(atomic_load(&w.result) == 1);
    }
    kai_results_announce(&w.f.r);
    end_waiter(&w, thread, KA_OK);
}

static void wait_ends_by_the_close(void)
{
    static waiter w;
    pthread_t thread = start_waiter(&w);

    kai_results_close(&w.f.r);
    end_waiter(&w, thread, KA_OK);
}

#if KAI_FUTEX

static void on_signal(int number)
{
    (void)number;
}

static void wait_ends_by_a_signal(void)
{
    static waiter w;
    struct sigaction action = {.sa_handler = on_signal};
    pthread_t thread = start_waiter(&w);

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    while (atomic_load(&w.result) == 1) {
        pthread_kill(thread, SIGUSR1);
        check_pause();
    }
    end_waiter(&w, thread, KA_INTERRUPTED);
}

#endif

static int64_t check_place(void *self, int64_t arg)
{
    (void)arg;
    return kai_results_full(self, BYTES) ? KA_EMPTY : KA_OK;
}

static void *wait_for_place(void *arg)
{
    fixture *f = arg;

    CHECK(kai_wait_until(&f->freed, -1, check_place, &f->r, 0) == KA_OK);
    return NULL;
}

static pthread_t fill_and_wait_for_place(fixture *f)
{
    pthread_t thread;

    begin(f, 2);
    reserve_and_push(f, 1, 2);
    kai_results_announce(&f->r);
    thread = check_thread(wait_for_place, f);
    CHECK_SOON(atomic_load(&f->freed.sleepers) == 1);
    return thread;
}

static void who_waits_for_a_place_is_woken_when_one_is_told_or_given_back(void)
{
    static fixture f;
    ka_result out[2];
    pthread_t thread = fill_and_wait_for_place(&f);

    CHECK(kai_results_take(&f.r, out, 2) == 2);
    CHECK(kai_results_take(&f.r, out, 2) == 0);
    check_join(thread);
    end(&f);

    thread = fill_and_wait_for_place(&f);
    kai_results_unreserve(&f.r, BYTES);
    check_join(thread);
    end(&f);
}

static int64_t check_told(void *self, int64_t count)
{
    return atomic_load(&((kai_results *)self)->told) >= count ? KA_OK : KA_EMPTY;
}

static void *wait_for_two_told(void *arg)
{
    fixture *f = arg;

    CHECK(kai_wait_until(&f->r.progressed, -1, check_told, &f->r, 2) == KA_OK);
    return NULL;
}

static void who_waits_for_the_telling_is_woken(void)
{
    static fixture f;
    ka_result out[2];
    pthread_t thread;

    begin(&f, 4);
    reserve_and_push(&f, 1, 2);
    kai_results_announce(&f.r);
    thread = check_thread(wait_for_two_told, &f);
    CHECK_SOON(atomic_load(&f.r.progressed.sleepers) == 1);
    CHECK(kai_results_take(&f.r, out, 2) == 2);
    CHECK(kai_results_take(&f.r, out, 2) == 0);
    check_join(thread);
    end(&f);
}

/* ---------------------------------------------------------------- all of them together */

/* Acceptors reserve places and hand tokens to the worker through a ring, as a producer's senders do; one
 * teller. `counted` is no atomic: the sanitizer sees a result that is told before it is counted. */
typedef struct {
    fixture f;
    kai_ring ring; /* of tokens */
    _Atomic int64_t accepted, refused;
    _Atomic int done;
    char *counted;
    int64_t each;
} line;

static void *accept_all(void *arg)
{
    line *l = arg;

    for (int64_t i = 0; i < l->each;) {
        int64_t *entry;
        if (!kai_results_reserve(&l->f.r, BYTES)) {
            atomic_fetch_add(&l->refused, 1);
            if (i % 2)
                CHECK(kai_wait_until(&l->f.freed, -1, check_place, &l->f.r, 0) == KA_OK);
            else
                sched_yield();
            continue;
        }
        if (i % 16 == 7 && atomic_load(&l->refused) % 2 == 0) {
            kai_results_unreserve(&l->f.r, BYTES);
            i++;
            continue;
        }
        entry = kai_ring_reserve(&l->ring, sizeof *entry);
        CHECK(entry); /* as many as places */
        *entry = atomic_fetch_add(&l->accepted, 1) + 1;
        kai_ring_commit(entry, sizeof *entry);
        i++;
    }
    return NULL;
}

/* Returns how many it passed on. */
static int64_t pass_on(line *l)
{
    uint64_t pos = kai_ring_head(&l->ring);
    int64_t *entry, n = 0;
    int64_t tokens[16];

    while (n < 16 && (entry = kai_ring_next(&l->ring, &pos)))
        tokens[n++] = *entry;
    kai_ring_release(&l->ring, pos);
    for (int64_t i = 0; i < n; i++) {
        push(&l->f, tokens[i]);
        l->counted[tokens[i]] = 1;
    }
    kai_results_announce(&l->f.r);
    return n;
}

static void *pass_on_all(void *arg)
{
    line *l = arg;

    for (;;) {
        int done = atomic_load(&l->done);
        if (pass_on(l) == 0) {
            if (done)
                break;
            sched_yield();
        }
    }
    kai_results_close(&l->f.r);
    return NULL;
}

static void *tell_all(void *arg)
{
    line *l = arg;
    char *told = calloc((size_t)(TAKERS * l->each) + 1, 1);
    uint64_t seed = 77;
    int64_t count = 0, n;
    ka_result out[5];

    CHECK(told);
    while ((n = kai_results_take(&l->f.r, out, 1 + (int64_t)check_random(&seed, 5))) >= 0) {
        for (int64_t i = 0; i < n; i++) {
            check_results(&out[i], 1, out[i].token);
            CHECK(l->counted[out[i].token] == 1);
            CHECK(told[out[i].token]++ == 0);
        }
        CHECK(atomic_load(&l->f.r.told) == count);
        count += n;
        CHECK(atomic_load(&l->f.r.reserved) <= CAPACITY);
        if (n == 0)
            CHECK(kai_results_wait(&l->f.r, -1) == KA_OK);
    }
    CHECK(n == KA_CLOSED && count == atomic_load(&l->accepted));
    free(told);
    return NULL;
}

static void every_result_is_told_once_beside_many_acceptors(void)
{
    static line l;
    pthread_t acceptors[TAKERS], worker, teller;

    begin(&l.f, CAPACITY);
    l.each = CHECK_ROUNDS(40000);
    l.counted = calloc((size_t)(TAKERS * l.each) + 1, 1);
    CHECK(l.counted && kai_ring_init(&l.ring, 2 * CAPACITY * kai_ring_entry_size(8)) == 0);
    worker = check_thread(pass_on_all, &l);
    teller = check_thread(tell_all, &l);
    for (int i = 0; i < TAKERS; i++)
        acceptors[i] = check_thread(accept_all, &l);
    for (int i = 0; i < TAKERS; i++)
        check_join(acceptors[i]);
    atomic_store(&l.done, 1);
    check_join(worker);
    check_join(teller);
    CHECK(atomic_load(&l.f.r.reserved) == 0);
    CHECK(atomic_load(&l.f.r.told) == atomic_load(&l.f.r.announced));
    kai_ring_fini(&l.ring);
    free(l.counted);
    end(&l.f);
}

int main(void)
{
    RUN(bytes_are_bounded_until_told);
    RUN(places_are_as_many_as_the_capacity);
    RUN(many_threads_get_exactly_the_capacity);
    RUN(never_more_places_than_the_capacity_and_none_is_lost);
    RUN(nothing_is_taken_before_it_is_announced);
    RUN(results_come_in_order_and_in_portions);
    RUN(a_place_is_free_only_once_its_result_was_told);
    RUN(worker_finds_room_for_every_place_at_any_time);
    RUN(after_closing_comes_what_was_announced_and_then_the_end);
    RUN(last_announcement_is_never_missed_beside_the_close);
    RUN(wait_without_results_ends_at_its_time);
    RUN(wait_ends_by_an_announcement_and_not_by_a_push);
    RUN(wait_ends_by_the_close);
#if KAI_FUTEX
    RUN(wait_ends_by_a_signal);
#endif
    RUN(who_waits_for_a_place_is_woken_when_one_is_told_or_given_back);
    RUN(who_waits_for_the_telling_is_woken);
    RUN(every_result_is_told_once_beside_many_acceptors);
    return 0;
}
