/* The wake-up: nothing lost, nobody forgotten, deadlines, signals. */
#include "ka_wake.h"

#include <sched.h>

#include "check.h"
#include "ka.h"

enum { SLEEPERS = 8, MS = 1000000 };

/* ---------------------------------------------------------------- one thread */

static void deadline_is_now_plus_the_timeout(void)
{
    int64_t before = kai_now_ns(), deadline = kai_deadline_ns(1500), after = kai_now_ns();

    CHECK(deadline >= before + 1500000 && deadline <= after + 1500000);
    before = kai_now_ns();
    deadline = kai_deadline_ns(0);
    CHECK(deadline >= before && deadline <= kai_now_ns());
}

static void negative_or_huge_timeout_is_forever(void)
{
    CHECK(kai_deadline_ns(-1) == KAI_FOREVER);
    CHECK(kai_deadline_ns(INT64_MIN) == KAI_FOREVER);
    CHECK(kai_deadline_ns(INT64_MAX) == KAI_FOREVER);
    CHECK(kai_deadline_ns(INT64_MAX / 1000) == KAI_FOREVER);
    /* A century is not. */
    CHECK(kai_deadline_ns((int64_t)100 * 365 * 86400 * 1000000) < KAI_FOREVER);
}

static void clock_never_goes_back(void)
{
    int64_t last = kai_now_ns();

    for (int i = 0; i < 10000; i++) {
        int64_t now = kai_now_ns();
        CHECK(now >= last);
        last = now;
    }
}

static void notification_with_nobody_asleep_leaves_no_trace(void)
{
    kai_wake wake;

    kai_wake_init(&wake);
    kai_wake_notify(&wake);
    CHECK(atomic_load(&wake.sequence) == 0);
    kai_wake_prepare(&wake);
    kai_wake_cancel(&wake);
    kai_wake_notify(&wake);
    CHECK(atomic_load(&wake.sequence) == 0 && atomic_load(&wake.sleepers) == 0);
    kai_wake_fini(&wake);
}

static void notification_between_prepare_and_sleep_ends_the_sleep(void)
{
    kai_wake wake;

    kai_wake_init(&wake);
    for (int i = 0; i < 1000; i++) {
        uint32_t key = kai_wake_prepare(&wake);
        kai_wake_notify(&wake);
        CHECK(kai_wake_sleep(&wake, key, KAI_FOREVER) == KA_OK);
    }
    CHECK(atomic_load(&wake.sleepers) == 0);
    kai_wake_fini(&wake);
}

static void static_wake_needs_no_init(void)
{
    static kai_wake wake = KAI_WAKE_STATIC;
    uint32_t key = kai_wake_prepare(&wake);

    kai_wake_notify(&wake);
    CHECK(kai_wake_sleep(&wake, key, KAI_FOREVER) == KA_OK);
    key = kai_wake_prepare(&wake);
    CHECK(kai_wake_sleep(&wake, key, kai_deadline_ns(1000)) == KA_TIMEOUT);
}

static void sleep_ends_at_its_deadline_and_not_before(void)
{
    static const int64_t timeouts_us[] = {1, 50, 999, 1000, 20000, 150000};
    kai_wake wake;

    kai_wake_init(&wake);
    for (unsigned i = 0; i < sizeof timeouts_us / sizeof *timeouts_us; i++) {
        int64_t deadline = kai_deadline_ns(timeouts_us[i]);
        int status = KA_OK;
        while (status == KA_OK) /* it may end for no reason */
            status = kai_wake_sleep(&wake, kai_wake_prepare(&wake), deadline);
        CHECK(status == KA_TIMEOUT);
        CHECK(kai_now_ns() >= deadline);
    }
    CHECK(atomic_load(&wake.sleepers) == 0);
    kai_wake_fini(&wake);
}

static void deadline_in_the_past_ends_the_sleep_at_once(void)
{
    kai_wake wake;

    kai_wake_init(&wake);
    CHECK(kai_wake_sleep(&wake, kai_wake_prepare(&wake), kai_now_ns()) == KA_TIMEOUT);
    CHECK(kai_wake_sleep(&wake, kai_wake_prepare(&wake), 0) == KA_TIMEOUT);
    CHECK(atomic_load(&wake.sleepers) == 0);
    kai_wake_fini(&wake);
}

static void notification_counts_more_than_a_deadline_that_is_over(void)
{
    kai_wake wake;
    uint32_t key;

    kai_wake_init(&wake);
    key = kai_wake_prepare(&wake);
    kai_wake_notify(&wake);
    CHECK(kai_wake_sleep(&wake, key, 0) == KA_OK);
    kai_wake_fini(&wake);
}

/* ---------------------------------------------------------------- two threads */

/* Rounds are passed to and fro. The word is written and read without any order of its own that
 * could hide a fence missing in the wake-up. */
typedef struct {
    kai_wake wake[2];
    _Atomic uint64_t turn; /* even: the first player's */
    uint64_t rounds;
} game;

static void await_turn(game *g, unsigned player, uint64_t turn, uint64_t spins)
{
    check_spin(spins); /* so that the sleep and the notification meet */
    while (atomic_load_explicit(&g->turn, memory_order_acquire) != turn) {
        uint32_t key = kai_wake_prepare(&g->wake[player]);
        if (atomic_load_explicit(&g->turn, memory_order_acquire) == turn)
            kai_wake_cancel(&g->wake[player]);
        else
            CHECK(kai_wake_sleep(&g->wake[player], key, KAI_FOREVER) == KA_OK);
    }
}

static void play(game *g, unsigned player)
{
    uint64_t seed = player + 11;

    for (uint64_t turn = player; turn < g->rounds; turn += 2) {
        await_turn(g, player, turn, check_random(&seed, 1000));
        atomic_store_explicit(&g->turn, turn + 1, memory_order_release);
        kai_wake_notify(&g->wake[!player]);
    }
}

static void *second_player(void *arg)
{
    play(arg, 1);
    return NULL;
}

static void ping_pong_loses_no_notification(void)
{
    static game g;
    pthread_t second;

    g.rounds = CHECK_ROUNDS(60000);
    kai_wake_init(&g.wake[0]);
    kai_wake_init(&g.wake[1]);
    second = check_thread(second_player, &g);
    play(&g, 0);
    check_join(second);
    CHECK(atomic_load(&g.turn) == g.rounds);
    for (int i = 0; i < 2; i++) {
        CHECK(atomic_load(&g.wake[i].sleepers) == 0);
        kai_wake_fini(&g.wake[i]);
    }
}

/* The notifier waits for the sleeper without sleeping, and so meets it on its way to bed. */
typedef struct {
    kai_wake wake;
    _Atomic uint64_t posted, seen;
    uint64_t rounds;
} mailbox;

static void *mailbox_main(void *arg)
{
    mailbox *m = arg;
    uint64_t seed = 21;

    for (uint64_t seen = 0; seen < m->rounds;) {
        uint32_t key;
        check_spin(check_random(&seed, 32));
        key = kai_wake_prepare(&m->wake);
        if (atomic_load_explicit(&m->posted, memory_order_relaxed) != seen) {
            kai_wake_cancel(&m->wake);
            atomic_store_explicit(&m->seen, ++seen, memory_order_release);
        } else {
            kai_wake_sleep(&m->wake, key, KAI_FOREVER);
        }
    }
    return NULL;
}

static void notification_that_meets_a_sleeper_on_its_way_is_not_lost(void)
{
    static mailbox m;
    uint64_t seed = 22;
    pthread_t sleeper;

    m.rounds = CHECK_ROUNDS(400000);
    kai_wake_init(&m.wake);
    sleeper = check_thread(mailbox_main, &m);
    for (uint64_t i = 1; i <= m.rounds; i++) {
        check_spin(check_random(&seed, 32));
        atomic_store_explicit(&m.posted, i, memory_order_relaxed);
        kai_wake_notify(&m.wake);
        for (int spins = 0; atomic_load_explicit(&m.seen, memory_order_acquire) != i;)
            if (++spins % 1024 == 0)
                sched_yield();
    }
    check_join(sleeper);
    CHECK(atomic_load(&m.wake.sleepers) == 0);
    kai_wake_fini(&m.wake);
}

/* ---------------------------------------------------------------- many sleepers */

typedef struct {
    kai_wake wake;
    _Atomic int open, passed;
} gate;

static void *gate_main(void *arg)
{
    gate *g = arg;

    while (!atomic_load(&g->open)) {
        uint32_t key = kai_wake_prepare(&g->wake);
        if (atomic_load(&g->open))
            kai_wake_cancel(&g->wake);
        else
            CHECK(kai_wake_sleep(&g->wake, key, KAI_FOREVER) == KA_OK);
    }
    atomic_fetch_add(&g->passed, 1);
    return NULL;
}

/* The portable wake-up looks anew every 100 ms, so a sleeper who was forgotten would come late. */
static void one_notification_wakes_every_sleeper_at_once(void)
{
    int64_t best_ns = KAI_FOREVER;

    for (int round = 0; round < 20; round++) {
        int64_t start_ns;
        gate g = {.wake = KAI_WAKE_STATIC};
        pthread_t threads[SLEEPERS];
        for (int i = 0; i < SLEEPERS; i++)
            threads[i] = check_thread(gate_main, &g);
        CHECK_SOON(atomic_load(&g.wake.sleepers) == SLEEPERS);
        start_ns = kai_now_ns();
        atomic_store(&g.open, 1);
        kai_wake_notify(&g.wake);
        for (int i = 0; i < SLEEPERS; i++)
            check_join(threads[i]);
        start_ns = kai_now_ns() - start_ns;
        best_ns = start_ns < best_ns ? start_ns : best_ns;
        CHECK(atomic_load(&g.passed) == SLEEPERS && atomic_load(&g.wake.sleepers) == 0);
        kai_wake_fini(&g.wake);
    }
    CHECK(best_ns < 50 * MS); /* the best of many: others use this machine too */
}

/* ---------------------------------------------------------------- signals */

static _Atomic int handled;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&handled, 1);
}

static void install_handler(int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};

    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    atomic_store(&handled, 0);
}

typedef struct {
    kai_wake wake;
    int64_t deadline_ns;
    _Atomic int result; /* 1: none yet */
} nap;

static void *nap_main(void *arg)
{
    nap *n = arg;

    atomic_store(&n->result, kai_wake_sleep(&n->wake, kai_wake_prepare(&n->wake), n->deadline_ns));
    return NULL;
}

/* Signal a sleeping thread until its sleep ends, or until it took `most` of them and sleeps on.
 * Each signal waits for the handler of the one before. */
static int signal_sleeper(int64_t deadline_ns, int flags, int most)
{
    nap n = {.wake = KAI_WAKE_STATIC, .deadline_ns = deadline_ns, .result = 1};
    pthread_t sleeper;

    install_handler(flags);
    sleeper = check_thread(nap_main, &n);
    CHECK_SOON(atomic_load(&n.wake.sleepers) == 1);
    for (int i = 1; i <= most && atomic_load(&n.result) == 1; i++) {
        check_pause(); /* a signal before the system call does not end it */
        pthread_kill(sleeper, SIGUSR1);
        CHECK_SOON(atomic_load(&handled) == i || atomic_load(&n.result) != 1);
    }
    if (atomic_load(&n.result) == 1)
        kai_wake_notify(&n.wake);
    check_join(sleeper);
    CHECK(atomic_load(&n.wake.sleepers) == 0);
    kai_wake_fini(&n.wake);
    return atomic_load(&n.result);
}

#if KAI_FUTEX

static void signal_handler_interrupts_a_sleep(void)
{
    CHECK(signal_sleeper(KAI_FOREVER, 0, 100000) == KA_INTERRUPTED);
    CHECK(signal_sleeper(kai_now_ns() + (int64_t)3600000 * MS, 0, 100000) == KA_INTERRUPTED);
}

/* A handler may be installed so that system calls go on after it; a sleep must end all the
 * same, or a program that did so could not be interrupted. */
static void handler_that_restarts_system_calls_interrupts_a_sleep_too(void)
{
    CHECK(signal_sleeper(kai_now_ns() + (int64_t)3600000 * MS, SA_RESTART, 1000) == KA_INTERRUPTED);
    CHECK(signal_sleeper(KAI_FOREVER, SA_RESTART, 1000) == KA_INTERRUPTED);
}

#else

static void sleep_goes_on_after_a_signal_handler(void)
{
    CHECK(signal_sleeper(KAI_FOREVER, 0, 50) == KA_OK);
    CHECK(signal_sleeper(kai_now_ns() + (int64_t)3600000 * MS, 0, 50) == KA_OK);
    CHECK(atomic_load(&handled) == 50);
}

#endif

/* ---------------------------------------------------------------- kai_wait_until() */

/* A condition, and how often it was looked at. */
typedef struct {
    kai_wake wake;
    _Atomic int64_t result;
    int64_t true_from_ns, arg;
    _Atomic int looks, waited; /* waited: the wait's result, 1: none yet */
    int64_t timeout_us;
} watched;

static int64_t look(void *self, int64_t arg)
{
    watched *w = self;

    CHECK(arg == w->arg);
    atomic_fetch_add(&w->looks, 1);
    if (w->true_from_ns && kai_now_ns() >= w->true_from_ns)
        return 17;
    return atomic_load(&w->result);
}

static watched *watch(int64_t result)
{
    static watched w;

    memset(&w, 0, sizeof w);
    kai_wake_init(&w.wake);
    atomic_store(&w.result, result);
    atomic_store(&w.waited, 1);
    w.arg = 1234567890123;
    return &w;
}

static int64_t wait_until(watched *w, int64_t timeout_us)
{
    int64_t result = kai_wait_until(&w->wake, timeout_us, look, w, w->arg);

    CHECK(atomic_load(&w->wake.sleepers) == 0);
    return result;
}

static void wait_returns_what_its_condition_says(void)
{
    static const int64_t results[] = {KA_OK, KA_CLOSED, KA_TIMEOUT, 3, INT64_MAX, INT64_MIN};

    for (unsigned i = 0; i < sizeof results / sizeof *results; i++) {
        watched *w = watch(results[i]);
        for (int64_t timeout_us = -1; timeout_us < 2; timeout_us++)
            CHECK(wait_until(w, timeout_us) == results[i]);
        CHECK(atomic_load(&w->looks) == 3);
        CHECK(atomic_load(&w->wake.sequence) == 0);
        kai_wake_fini(&w->wake);
    }
}

static void wait_without_time_looks_once(void)
{
    watched *w = watch(KA_EMPTY);

    CHECK(wait_until(w, 0) == KA_TIMEOUT);
    CHECK(atomic_load(&w->looks) == 1);
    kai_wake_fini(&w->wake);
}

static void wait_ends_at_its_time_and_looks_once_more(void)
{
    watched *w = watch(KA_EMPTY);
    int64_t start = kai_now_ns();

    CHECK(wait_until(w, 20000) == KA_TIMEOUT);
    CHECK(kai_now_ns() - start >= 20 * MS && atomic_load(&w->looks) >= 2);
    /* What came true without a notification counts more than the time that is over. */
    w->true_from_ns = kai_now_ns() + 20 * MS;
    CHECK(wait_until(w, 30000) == 17);
    kai_wake_fini(&w->wake);
}

static void *watch_main(void *arg)
{
    watched *w = arg;

    atomic_store(&w->waited, (int)kai_wait_until(&w->wake, w->timeout_us, look, w, w->arg));
    return NULL;
}

static void notification_for_no_reason_does_not_end_a_wait(void)
{
    watched *w = watch(KA_EMPTY);
    pthread_t thread;

    w->timeout_us = -1;
    thread = check_thread(watch_main, w);
    for (int i = 1; i <= 50; i++) {
        CHECK_SOON(atomic_load(&w->looks) >= i && atomic_load(&w->wake.sleepers) == 1);
        kai_wake_notify(&w->wake);
        CHECK(atomic_load(&w->waited) == 1);
    }
    atomic_store(&w->result, KA_CLOSED);
    kai_wake_notify(&w->wake);
    check_join(thread);
    CHECK(atomic_load(&w->waited) == KA_CLOSED && atomic_load(&w->wake.sleepers) == 0);
    kai_wake_fini(&w->wake);
}

/* The condition is written and read without any order of its own. */
typedef struct {
    kai_wake wake[2];
    _Atomic int64_t turn;
    int64_t rounds;
} match;

static int64_t is_turn(void *self, int64_t turn)
{
    return atomic_load_explicit(&((match *)self)->turn, memory_order_relaxed) >= turn ? turn
                                                                                      : KA_EMPTY;
}

static void play_match(match *m, int player)
{
    uint64_t seed = (uint64_t)player + 61;

    for (int64_t turn = player; turn < m->rounds; turn += 2) {
        check_spin(check_random(&seed, 200));
        CHECK(kai_wait_until(&m->wake[player], -1, is_turn, m, turn) == turn);
        atomic_store_explicit(&m->turn, turn + 1, memory_order_relaxed);
        kai_wake_notify(&m->wake[!player]);
    }
}

static void *second_of_match(void *arg)
{
    play_match(arg, 1);
    return NULL;
}

static void waits_lose_no_notification(void)
{
    static match m;
    pthread_t second;

    m.rounds = CHECK_ROUNDS(60000);
    kai_wake_init(&m.wake[0]);
    kai_wake_init(&m.wake[1]);
    second = check_thread(second_of_match, &m);
    play_match(&m, 0);
    check_join(second);
    for (int i = 0; i < 2; i++) {
        CHECK(atomic_load(&m.wake[i].sleepers) == 0);
        kai_wake_fini(&m.wake[i]);
    }
}

#if KAI_FUTEX

static watched *signalled;

static void make_it_true(int number)
{
    (void)number;
    atomic_store(&signalled->result, KA_OK);
}

static int wait_until_signalled(void (*handler)(int number))
{
    struct sigaction action = {.sa_handler = handler};
    watched *w = signalled = watch(KA_EMPTY);
    pthread_t thread;

    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    w->timeout_us = 3600000000;
    thread = check_thread(watch_main, w);
    CHECK_SOON(atomic_load(&w->wake.sleepers) == 1);
    while (atomic_load(&w->waited) == 1) {
        check_pause();
        pthread_kill(thread, SIGUSR1);
    }
    check_join(thread);
    CHECK(atomic_load(&w->looks) >= 2 && atomic_load(&w->wake.sleepers) == 0);
    kai_wake_fini(&w->wake);
    return atomic_load(&w->waited);
}

static void signal_ends_a_wait_after_one_more_look(void)
{
    CHECK(wait_until_signalled(on_signal) == KA_INTERRUPTED);
    CHECK(wait_until_signalled(make_it_true) == KA_OK);
}

#endif

/* ---------------------------------------------------------------- a fence for all */

/* Each side stores its own and then looks at the other's. */
typedef struct {
    _Alignas(64) _Atomic int light;
    _Alignas(64) _Atomic int heavy;
    _Alignas(64) _Atomic int arrived;
    int light_saw, heavy_saw;
    int rounds;
} sides;

/* The two threads meet the n-th time. */
static void meet(sides *s, int n)
{
    atomic_fetch_add(&s->arrived, 1);
    while (atomic_load(&s->arrived) < 2 * n)
        sched_yield();
}

static void *light_side(void *arg)
{
    sides *s = arg;
    uint64_t seed = 5;

    for (int i = 0; i < s->rounds; i++) {
        meet(s, 2 * i + 1);
        check_spin(check_random(&seed, 200));
        atomic_store_explicit(&s->light, i + 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst); /* as it stands in the program, no more */
        s->light_saw = atomic_load_explicit(&s->heavy, memory_order_relaxed);
        meet(s, 2 * i + 2);
    }
    return NULL;
}

static void fence_for_all_lets_one_side_see_the_other(void)
{
    static sides s;
    uint64_t seed = 6;
    pthread_t thread;

    s.rounds = KAI_FUTEX ? CHECK_ROUNDS(200000) : 2000; /* without its system call a fence sleeps */
    thread = check_thread(light_side, &s);
    for (int i = 0; i < s.rounds; i++) {
        meet(&s, 2 * i + 1);
        check_spin(check_random(&seed, 200));
        atomic_store_explicit(&s.heavy, i + 1, memory_order_relaxed);
        kai_fence_all();
        s.heavy_saw = atomic_load_explicit(&s.light, memory_order_relaxed);
        meet(&s, 2 * i + 2);
        CHECK(s.light_saw == i + 1 || s.heavy_saw == i + 1);
    }
    check_join(thread);
}

int main(void)
{
    RUN(deadline_is_now_plus_the_timeout);
    RUN(negative_or_huge_timeout_is_forever);
    RUN(clock_never_goes_back);
    RUN(notification_with_nobody_asleep_leaves_no_trace);
    RUN(notification_between_prepare_and_sleep_ends_the_sleep);
    RUN(static_wake_needs_no_init);
    RUN(sleep_ends_at_its_deadline_and_not_before);
    RUN(deadline_in_the_past_ends_the_sleep_at_once);
    RUN(notification_counts_more_than_a_deadline_that_is_over);
    RUN(ping_pong_loses_no_notification);
    RUN(notification_that_meets_a_sleeper_on_its_way_is_not_lost);
    RUN(one_notification_wakes_every_sleeper_at_once);
#if KAI_FUTEX
    RUN(signal_handler_interrupts_a_sleep);
    RUN(handler_that_restarts_system_calls_interrupts_a_sleep_too);
#else
    RUN(sleep_goes_on_after_a_signal_handler);
#endif
    RUN(wait_returns_what_its_condition_says);
    RUN(wait_without_time_looks_once);
    RUN(wait_ends_at_its_time_and_looks_once_more);
    RUN(notification_for_no_reason_does_not_end_a_wait);
    RUN(waits_lose_no_notification);
#if KAI_FUTEX
    RUN(signal_ends_a_wait_after_one_more_look);
#endif
    RUN(fence_for_all_lets_one_side_see_the_other);
    return 0;
}
