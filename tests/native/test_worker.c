/* The worker, the control thread, the count of workers, and what a fork leaves of them. */
#define _GNU_SOURCE /* pthread_getname_np, pthread_setattr_default_np, sched_getcpu */
#include "ka_worker.h"

#include <errno.h>
#include <sched.h>
#include <sys/wait.h>

#include "check.h"
#include "ka.h"

enum { MS = 1000000, JOBS = 1000, SUBMITTERS = 4 };

/* ---------------------------------------------------------------- helpers */

/* A worker whose steps follow a plan. */
typedef struct puppet {
    kai_worker worker;
    int64_t (*plan)(struct puppet *p, int step); /* steps count from 1 */
    _Atomic int steps, ended, finish;
    _Atomic uint64_t asked, served;
    _Atomic int64_t deadline_ns, woken_ns;
    char name[32];
    sigset_t mask;
} puppet;

static int64_t puppet_step(void *self)
{
    puppet *p = self;
    int step = atomic_fetch_add(&p->steps, 1) + 1;

    CHECK(!atomic_load(&p->ended));
    if (step == 1) {
        pthread_sigmask(SIG_SETMASK, NULL, &p->mask);
        pthread_getname_np(pthread_self(), p->name, sizeof p->name);
    }
    return atomic_load(&p->finish) ? KAI_STEP_END : p->plan(p, step);
}

static void puppet_end(void *self)
{
    atomic_fetch_add(&((puppet *)self)->ended, 1);
}

static void prepare(puppet *p, int64_t (*plan)(puppet *p, int step), int64_t warm_ns)
{
    *p = (puppet){.worker = {.name = "ka-test",
                             .step = puppet_step,
                             .end = puppet_end,
                             .self = p,
                             .warm_ns = warm_ns},
                  .plan = plan};
    kai_wake_init(&p->worker.wake);
}

static void start(puppet *p, int64_t (*plan)(puppet *p, int step), int64_t warm_ns)
{
    prepare(p, plan, warm_ns);
    CHECK(kai_worker_start(&p->worker) == 0);
}

static int is_parked(puppet *p)
{
    return atomic_load(&p->worker.wake.sleepers) == 1;
}

static void finish(puppet *p)
{
    atomic_store(&p->finish, 1);
    kai_wake_notify(&p->worker.wake);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(atomic_load(&p->ended) == 1);
    CHECK(atomic_load(&p->worker.wake.sleepers) == 0);
    kai_wake_fini(&p->worker.wake);
}

static int64_t plan_idle(puppet *p, int step)
{
    (void)p, (void)step;
    return KAI_FOREVER;
}

static int blocks_all(const sigset_t *mask)
{
    static const int signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGPIPE, SIGALRM, SIGTERM,
                                  SIGUSR1, SIGUSR2, SIGCHLD, SIGTSTP, SIGWINCH};

    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        if (sigismember(mask, signals[i]) != 1)
            return 0;
    return 1;
}

/* ---------------------------------------------------------------- worker: life */

static int64_t plan_ten_steps(puppet *p, int step)
{
    (void)p;
    return step < 10 ? KAI_STEP_AGAIN : KAI_STEP_END;
}

static void worker_steps_until_the_end_and_ends_once(void)
{
    puppet p;

    start(&p, plan_ten_steps, 0);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(atomic_load(&p.steps) == 10 && atomic_load(&p.ended) == 1);
    kai_wake_fini(&p.worker.wake);
}

static int64_t plan_end_at_second_look(puppet *p, int step)
{
    (void)p;
    return step == 1 ? KAI_FOREVER : KAI_STEP_END;
}

static void worker_that_ends_instead_of_parking_leaves_no_sleeper(void)
{
    puppet p;

    start(&p, plan_end_at_second_look, 0);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(atomic_load(&p.steps) == 2 && atomic_load(&p.ended) == 1);
    CHECK(atomic_load(&p.worker.wake.sleepers) == 0);
    kai_wake_fini(&p.worker.wake);
}

static void free_puppet(void *self)
{
    puppet *p = self;

    kai_wake_fini(&p->worker.wake);
    free(p);
}

/* Under AddressSanitizer, a look at the worker after its end would be seen. */
static void end_may_free_the_worker(void)
{
    for (int i = 0; i < 200; i++) {
        puppet *p = calloc(1, sizeof *p);
        CHECK(p);
        p->plan = i % 2 ? plan_ten_steps : plan_end_at_second_look;
        p->worker = (kai_worker){
            .name = "ka-test", .step = puppet_step, .end = free_puppet, .self = p, .warm_ns = 0};
        kai_wake_init(&p->worker.wake);
        CHECK(kai_worker_start(&p->worker) == 0);
    }
    CHECK(ka_wait_workers(-1) == KA_OK);
}

static void worker_blocks_every_signal_and_its_creator_none(void)
{
    sigset_t before, after;
    puppet p;

    pthread_sigmask(SIG_SETMASK, NULL, &before);
    start(&p, plan_ten_steps, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(blocks_all(&p.mask));
    for (int number = 1; number < 32; number++)
        CHECK(sigismember(&before, number) == sigismember(&after, number));
    CHECK(sigismember(&after, SIGINT) == 0);
    kai_wake_fini(&p.worker.wake);
}

static void worker_has_its_name(void)
{
    puppet p;

    start(&p, plan_ten_steps, 0);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(strcmp(p.name, "ka-test") == 0);
    kai_wake_fini(&p.worker.wake);
}

/* ---------------------------------------------------------------- worker: parking */

static void worker_without_work_looks_twice_and_parks(void)
{
    puppet p;

    start(&p, plan_idle, 0);
    CHECK_SOON(is_parked(&p) && atomic_load(&p.steps) == 2);
    for (int i = 0; i < 20; i++) {
        check_pause();
        CHECK(is_parked(&p) && atomic_load(&p.steps) == 2);
    }
    finish(&p);
}

static void notification_wakes_a_parked_worker(void)
{
    puppet p;

    start(&p, plan_idle, 0);
    for (int i = 1; i <= 200; i++) {
        CHECK_SOON(is_parked(&p));
        kai_wake_notify(&p.worker.wake);
        CHECK_SOON(atomic_load(&p.steps) >= 2 * (i + 1));
    }
    finish(&p);
}

/* Serve what is asked for; the order of the words is left to the wake-up. */
static int64_t plan_serve(puppet *p, int step)
{
    uint64_t asked = atomic_load_explicit(&p->asked, memory_order_relaxed);

    (void)step;
    if (atomic_load_explicit(&p->served, memory_order_relaxed) == asked)
        return KAI_FOREVER;
    atomic_store_explicit(&p->served, asked, memory_order_release);
    return KAI_STEP_AGAIN;
}

static void stress_notifications(int64_t warm_ns, uint64_t rounds)
{
    uint64_t seed = 31;
    puppet p;

    start(&p, plan_serve, warm_ns);
    for (uint64_t i = 1; i <= rounds; i++) {
        check_spin(check_random(&seed, 1000)); /* to meet the worker on its way to park */
        atomic_store_explicit(&p.asked, i, memory_order_relaxed);
        kai_wake_notify(&p.worker.wake);
        for (int spins = 0; atomic_load_explicit(&p.served, memory_order_acquire) != i;)
            if (++spins % 1024 == 0)
                sched_yield();
    }
    finish(&p);
}

static void worker_on_its_way_to_park_misses_no_notification(void)
{
    stress_notifications(0, CHECK_ROUNDS(100000));
}

static void worker_between_naps_and_park_misses_no_notification(void)
{
    stress_notifications(100000, CHECK_ROUNDS(8000));
}

/* ---------------------------------------------------------------- worker: time */

static int64_t plan_deadline(puppet *p, int step)
{
    int64_t now = kai_now_ns(), deadline = atomic_load(&p->deadline_ns);

    (void)step;
    if (!deadline)
        return KAI_FOREVER;
    if (now < deadline)
        return deadline;
    atomic_store(&p->deadline_ns, 0);
    atomic_store(&p->woken_ns, now);
    return KAI_STEP_AGAIN;
}

static void step_is_run_again_at_the_time_it_returned(void)
{
    puppet p;

    start(&p, plan_deadline, 0);
    for (int ms = 1; ms <= 64; ms *= 4) {
        int64_t deadline = kai_now_ns() + (int64_t)ms * MS;
        atomic_store(&p.woken_ns, 0);
        atomic_store(&p.deadline_ns, deadline);
        kai_wake_notify(&p.worker.wake);
        CHECK_SOON(atomic_load(&p.woken_ns));
        CHECK(atomic_load(&p.woken_ns) >= deadline);
    }
    finish(&p);
}

static int64_t plan_one_deadline(puppet *p, int step)
{
    int64_t now = kai_now_ns();

    if (step == 1)
        atomic_store(&p->deadline_ns, now + 50 * MS);
    if (step <= 2)
        return atomic_load(&p->deadline_ns);
    if (step == 3)
        atomic_store(&p->woken_ns, now);
    return KAI_FOREVER;
}

static void step_with_a_deadline_is_not_run_before_it(void)
{
    puppet p;

    start(&p, plan_one_deadline, 0);
    CHECK_SOON(atomic_load(&p.woken_ns));
    CHECK(atomic_load(&p.woken_ns) >= atomic_load(&p.deadline_ns));
    finish(&p);
}

/* While warm, the worker steps by itself and takes no notification's system call. */
static void warm_worker_naps_and_looks_without_being_notified(void)
{
    puppet p;

    start(&p, plan_serve, (int64_t)3600000 * MS);
    for (uint64_t i = 1; i <= 100; i++) {
        int steps = atomic_load(&p.steps);
        CHECK(!is_parked(&p));
        atomic_store(&p.asked, i);
        CHECK_SOON(atomic_load(&p.served) == i && atomic_load(&p.steps) > steps + 2);
        kai_wake_notify(&p.worker.wake);
        CHECK(atomic_load(&p.worker.wake.sequence) == 0);
    }
    finish(&p);
}

/* Bring one piece of work and wait until it is done. */
static void ask(puppet *p)
{
    uint64_t asked = atomic_load(&p->asked) + 1;

    atomic_store(&p->asked, asked);
    kai_wake_notify(&p->worker.wake);
    CHECK_SOON(atomic_load(&p->served) == asked);
}

/* Wait until warm_ns after the last work is over. */
static void let_cool(puppet *p, int64_t since_ns)
{
    CHECK_SOON(kai_now_ns() - since_ns > p->worker.warm_ns && is_parked(p));
}

static void work_that_follows_work_warms_and_rest_parks(void)
{
    puppet p;

    start(&p, plan_serve, 40 * MS);
    for (int i = 0; i < 3; i++) {
        int64_t began;
        int steps;
        let_cool(&p, kai_now_ns());
        do { /* a loaded machine may be slow once */
            began = kai_now_ns();
            ask(&p);
            steps = atomic_load(&p.steps);
            ask(&p);
        } while (kai_now_ns() - began >= p.worker.warm_ns);
        CHECK_SOON(atomic_load(&p.steps) > steps + 10); /* naps */
        CHECK_SOON(is_parked(&p));
        CHECK(kai_now_ns() - began >= p.worker.warm_ns);
    }
    finish(&p);
}

/* At rates that would find it parked each time, naps would be for nothing. */
static void work_alone_does_not_warm(void)
{
    puppet p;

    start(&p, plan_serve, 2 * MS);
    for (int i = 0; i < 20; i++) {
        int steps;
        let_cool(&p, kai_now_ns());
        steps = atomic_load(&p.steps);
        ask(&p);
        CHECK_SOON(is_parked(&p));
        CHECK(atomic_load(&p.steps) <= steps + 5);
    }
    finish(&p);
}

static int64_t plan_serve_something_else(puppet *p, int step)
{
    int64_t next = plan_serve(p, step);

    return next == KAI_STEP_AGAIN ? KAI_STEP_SERVED : next;
}

static void what_callers_did_not_bring_does_not_warm(void)
{
    puppet p;

    start(&p, plan_serve_something_else, 20 * MS);
    let_cool(&p, kai_now_ns());
    for (int i = 0; i < 100; i++) {
        int steps = atomic_load(&p.steps);
        ask(&p);
        CHECK_SOON(is_parked(&p));
        CHECK(atomic_load(&p.steps) <= steps + 5);
    }
    finish(&p);
}

static void start_spinning(puppet *p, int64_t (*plan)(puppet *p, int step))
{
    prepare(p, plan, 0);
    p->worker.spin = 1;
    CHECK(kai_worker_start(&p->worker) == 0);
}

/* Its steps follow each other without end, and no notification finds it asleep. */
static void spinning_worker_never_sleeps(void)
{
    puppet p;

    start_spinning(&p, plan_serve);
    for (uint64_t i = 1; i <= 100; i++) {
        int steps = atomic_load(&p.steps);
        CHECK(!is_parked(&p));
        atomic_store(&p.asked, i);
        kai_wake_notify(&p.worker.wake);
        CHECK_SOON(atomic_load(&p.served) == i && atomic_load(&p.steps) > steps + 100);
    }
    CHECK(atomic_load(&p.worker.wake.sequence) == 0);
    finish(&p);
}

static void spinning_worker_needs_no_notification_to_end(void)
{
    puppet p;

    start_spinning(&p, plan_idle);
    CHECK_SOON(atomic_load(&p.steps) > 10);
    atomic_store(&p.finish, 1);
    CHECK(ka_wait_workers(-1) == KA_OK);
    CHECK(atomic_load(&p.ended) == 1);
    kai_wake_fini(&p.worker.wake);
}

/* ---------------------------------------------------------------- names of threads */

static void *name_main(void *arg)
{
    char name[32];

    (void)arg;
    CHECK(ka_thread_name("fifteen letters") == KA_OK);
    CHECK(ka_thread_name("sixteen letters!") == KA_INVALID);
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0);
    CHECK(strcmp(name, "fifteen letters") == 0);
    return NULL;
}

static void thread_can_name_itself(void)
{
    check_join(check_thread(name_main, NULL));
}

/* ---------------------------------------------------------------- worker: CPU */

#ifdef __linux__

enum { NO_SUCH_CPU = 100000 };

/* The CPUs of the calling thread; *last: the last of them. */
static cpu_set_t own_cpus(int *last)
{
    cpu_set_t cpus;

    CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    for (*last = CPU_SETSIZE - 1; !CPU_ISSET((size_t)*last, &cpus);)
        --*last;
    return cpus;
}

static int is_on_its_cpu(const puppet *p)
{
    cpu_set_t cpus;

    CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    return CPU_COUNT(&cpus) == 1 && CPU_ISSET((size_t)p->worker.cpu, &cpus) &&
           sched_getcpu() == p->worker.cpu;
}

static int64_t plan_ten_steps_on_its_cpu(puppet *p, int step)
{
    CHECK(is_on_its_cpu(p));
    return step < 10 ? KAI_STEP_AGAIN : KAI_STEP_END;
}

static void bound_worker_is_on_its_cpu_from_the_first_step_on(void)
{
    int last;
    cpu_set_t before = own_cpus(&last), after;

    for (int cpu = 0; cpu <= last; cpu += last ? last : 1) {
        for (int i = 0; i < 50; i++) {
            puppet p;
            if (!CPU_ISSET((size_t)cpu, &before))
                break;
            prepare(&p, plan_ten_steps_on_its_cpu, 0);
            p.worker.bound = 1;
            p.worker.cpu = cpu;
            CHECK(kai_worker_start(&p.worker) == 0);
            CHECK(ka_wait_workers(-1) == KA_OK);
            CHECK(atomic_load(&p.steps) == 10 && atomic_load(&p.ended) == 1);
            kai_wake_fini(&p.worker.wake);
        }
    }
    after = own_cpus(&last);
    CHECK(CPU_EQUAL(&before, &after));
}

static void end_may_free_a_bound_worker(void)
{
    int last;

    own_cpus(&last);
    for (int i = 0; i < 200; i++) {
        puppet *p = calloc(1, sizeof *p);
        CHECK(p);
        prepare(p, i % 2 ? plan_ten_steps : plan_end_at_second_look, 0);
        p->worker.end = free_puppet;
        p->worker.bound = 1;
        p->worker.cpu = last;
        CHECK(kai_worker_start(&p->worker) == 0);
    }
    CHECK(ka_wait_workers(-1) == KA_OK);
}

static void worker_that_cannot_be_bound_makes_no_step(void)
{
    static const int wrong[] = {-1, NO_SUCH_CPU};

    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        puppet p;
        prepare(&p, plan_idle, 0);
        p.worker.bound = 1;
        p.worker.cpu = wrong[i];
        CHECK(kai_worker_start(&p.worker) == EINVAL);
        CHECK(ka_wait_workers(0) == KA_OK);
        CHECK(atomic_load(&p.steps) == 0 && atomic_load(&p.ended) == 0);
        kai_wake_fini(&p.worker.wake);
    }
    CHECK(strstr(kai_worker_refusal(EINVAL), "CPU"));
    CHECK(strstr(kai_worker_refusal(EAGAIN), "limit of threads"));
}

#endif

/* ---------------------------------------------------------------- ka_wait_workers */

static void waiting_for_workers_times_out_and_not_before(void)
{
    int64_t deadline;
    puppet p;

    start(&p, plan_idle, 0);
    deadline = kai_deadline_ns(30000);
    CHECK(ka_wait_workers(30000) == KA_TIMEOUT);
    CHECK(kai_now_ns() >= deadline);
    CHECK(ka_wait_workers(0) == KA_TIMEOUT);
    finish(&p);
    CHECK(ka_wait_workers(0) == KA_OK);
}

static void *wait_main(void *arg)
{
    atomic_fetch_add((_Atomic int *)arg, 1);
    CHECK(ka_wait_workers(-1) == KA_OK);
    atomic_fetch_add((_Atomic int *)arg, 100);
    return NULL;
}

static void every_waiter_is_told_of_the_last_workers_end(void)
{
    for (int round = 0; round < 50; round++) {
        _Atomic int waiters = 0;
        pthread_t threads[3];
        puppet first, last;
        start(&first, plan_idle, 0);
        start(&last, plan_idle, 0);
        for (int i = 0; i < 3; i++)
            threads[i] = check_thread(wait_main, &waiters);
        CHECK_SOON(atomic_load(&waiters) == 3);
        atomic_store(&first.finish, 1);
        kai_wake_notify(&first.worker.wake);
        CHECK_SOON(atomic_load(&first.ended));
        CHECK(atomic_load(&waiters) == 3 && ka_wait_workers(0) == KA_TIMEOUT);
        finish(&last);
        for (int i = 0; i < 3; i++)
            check_join(threads[i]);
        kai_wake_fini(&first.worker.wake);
    }
}

static void waiting_that_meets_the_last_end_is_told(void)
{
    uint64_t seed = 41;

    for (int i = 0; i < CHECK_ROUNDS(4000); i++) {
        puppet p;
        start(&p, plan_end_at_second_look, 0);
        check_spin(check_random(&seed, 60000));
        CHECK(ka_wait_workers(-1) == KA_OK);
        kai_wake_fini(&p.worker.wake);
    }
}

static void slow_end(void *self)
{
    check_spin(1000000);
    puppet_end(self);
}

static void waiting_for_workers_includes_their_end(void)
{
    puppet p;

    start(&p, plan_idle, 0);
    p.worker.end = slow_end; /* published by finish */
    atomic_store(&p.finish, 1);
    kai_wake_notify(&p.worker.wake);
    CHECK_SOON(ka_wait_workers(0) == KA_OK);
    CHECK(atomic_load(&p.ended) == 1);
    kai_wake_fini(&p.worker.wake);
}

#if KAI_FUTEX

static void on_signal(int number)
{
    (void)number;
}

static void *interrupted_main(void *arg)
{
    atomic_store((_Atomic int *)arg, ka_wait_workers(-1));
    return NULL;
}

static void signal_interrupts_the_waiting_for_workers(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    _Atomic int result = 1;
    pthread_t waiter;
    puppet p;

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    start(&p, plan_idle, 0);
    waiter = check_thread(interrupted_main, &result);
    while (atomic_load(&result) == 1) { /* one that comes before the sleep does not end it */
        pthread_kill(waiter, SIGUSR1);
        check_pause();
    }
    CHECK(atomic_load(&result) == KA_INTERRUPTED);
    check_join(waiter);
    finish(&p);
}

#endif

#ifdef __GLIBC__

/* Stacks larger than the address space: no thread can be made. */
static void forbid_threads(int forbid)
{
    static size_t usual;
    pthread_attr_t attr;

    CHECK(pthread_getattr_default_np(&attr) == 0);
    if (!usual)
        CHECK(pthread_attr_getstacksize(&attr, &usual) == 0);
    CHECK(pthread_attr_setstacksize(&attr, forbid ? SIZE_MAX / 4 : usual) == 0);
    CHECK(pthread_setattr_default_np(&attr) == 0);
    pthread_attr_destroy(&attr);
}

static void worker_that_cannot_start_is_not_waited_for(void)
{
    puppet p = {.worker = {.name = "ka-test", .step = puppet_step, .end = puppet_end, .self = &p}};

    kai_wake_init(&p.worker.wake);
    forbid_threads(1);
    CHECK(kai_worker_start(&p.worker) == EAGAIN);
    forbid_threads(0);
    CHECK(ka_wait_workers(0) == KA_OK);
    CHECK(atomic_load(&p.steps) == 0 && atomic_load(&p.ended) == 0);
    kai_wake_fini(&p.worker.wake);
}

#endif

/* ---------------------------------------------------------------- fork */

/* The child ends with the number of the first line that failed, 0 for none. */
#define CHILD_CHECK(expr)              \
    do {                               \
        if (!(expr))                   \
            return __LINE__ % 251 + 1; \
    } while (0)

static int look_around_in_child(uint32_t process, puppet *parents)
{
    CHILD_CHECK(atomic_load(&kai_process) != process);
    CHILD_CHECK(ka_wait_workers(0) == KA_OK);
    CHILD_CHECK(ka_lost_messages() == 0);
    CHILD_CHECK(atomic_load(&parents->ended) == 0);
    kai_lose(3);
    CHILD_CHECK(ka_lost_messages() == 3);
#ifndef CHECK_TSAN /* it dies of a thread started in such a child */
    puppet p;
    start(&p, plan_idle, 0);
    CHILD_CHECK(ka_wait_workers(1000) == KA_TIMEOUT);
    finish(&p);
#endif
    return 0;
}

enum { STARTING, RESTLESS, STOPPING };

/* Takes and gives the locks that a child may inherit. */
static void *restless_main(void *arg)
{
    _Atomic int *state = arg;

    atomic_store(state, RESTLESS);
    while (atomic_load(state) == RESTLESS)
        ka_wait_workers(0);
    return NULL;
}

static void child_of_a_fork_has_another_number_and_no_workers(void)
{
    uint32_t process = atomic_load(&kai_process);
    int64_t lost = ka_lost_messages();
    _Atomic int waiters = 0, state = STARTING;
    pthread_t waiter, restless;
    puppet p;

    start(&p, plan_idle, 0);
    CHECK_SOON(is_parked(&p));
    waiter = check_thread(wait_main, &waiters);
    restless = check_thread(restless_main, &state);
    /* A thread that begins holds locks of a sanitizer, which its child would wait for. */
    CHECK_SOON(atomic_load(&waiters) == 1 && atomic_load(&state) == RESTLESS);
    kai_lose(7);
    for (int i = 0; i < CHECK_ROUNDS(64); i++) {
        int status;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(CHECK_LIMIT_S / 2);
            _exit(look_around_in_child(process, &p));
        }
        CHECK(waitpid(child, &status, 0) == child);
        if (status)
            fprintf(stderr, "child: status %d, line + 1 (mod 251) %d\n", status,
                    WEXITSTATUS(status));
        CHECK(status == 0);
    }
    CHECK(atomic_load(&kai_process) == process);
    CHECK(ka_lost_messages() == lost + 7);
    CHECK(ka_wait_workers(0) == KA_TIMEOUT && atomic_load(&waiters) == 1);
    atomic_store(&state, STOPPING);
    check_join(restless);
    finish(&p);
    check_join(waiter);
}

static void grandchild_of_a_fork_differs_from_both(void)
{
    uint32_t process = atomic_load(&kai_process);
    pid_t child = fork();
    int status;

    CHECK(child >= 0);
    if (child == 0) {
        uint32_t own = atomic_load(&kai_process);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            uint32_t last = atomic_load(&kai_process);
            _exit(last == process || last == own);
        }
        _exit(own == process || waitpid(grandchild, &status, 0) != grandchild || status != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void losses_add_up(void)
{
    int64_t before = ka_lost_messages();

    kai_lose(2);
    kai_lose(0);
    kai_lose(40);
    CHECK(ka_lost_messages() == before + 42);
}

/* ---------------------------------------------------------------- control thread */

typedef struct {
    kai_control control;
    _Atomic int runs;
    int order[JOBS]; /* control thread only, until joined */
    pthread_t thread;
    char name[32];
    sigset_t mask;
} office;

typedef struct {
    kai_job job;
    office *office;
    int number;
} task;

static void run_task(kai_job *job)
{
    task *t = (task *)(void *)job;
    office *o = t->office;
    int run = atomic_load(&o->runs);

    if (run == 0) {
        o->thread = pthread_self();
        pthread_sigmask(SIG_SETMASK, NULL, &o->mask);
        pthread_getname_np(pthread_self(), o->name, sizeof o->name);
    }
    CHECK(pthread_equal(o->thread, pthread_self()));
    o->order[run] = t->number;
    free(t); /* it is the job's own */
    atomic_store(&o->runs, run + 1);
}

static task *new_task(office *o, int number, void (*run)(kai_job *job))
{
    task *t = malloc(sizeof *t);

    CHECK(t);
    *t = (task){.job.run = run, .office = o, .number = number};
    return t;
}

static void submit(office *o, int number, void (*run)(kai_job *job))
{
    CHECK(kai_control_submit(&o->control, &new_task(o, number, run)->job) == 0);
}

static void open_office(office *o)
{
    *o = (office){0};
    kai_control_init(&o->control, "ka-jobs");
}

static void close_office(office *o)
{
    kai_control_join(&o->control);
    kai_control_fini(&o->control);
}

static void control_has_no_thread_before_the_first_job(void)
{
    office o;

    open_office(&o);
    CHECK(!o.control.started);
    kai_control_join(&o.control);
    CHECK(!o.control.started);
    kai_control_fini(&o.control);

    open_office(&o);
    submit(&o, 0, run_task);
    close_office(&o);
    CHECK(atomic_load(&o.runs) == 1);
}

static void jobs_run_in_order_on_one_thread_of_their_own(void)
{
    static office o;

    open_office(&o);
    for (int i = 0; i < JOBS; i++) {
        submit(&o, i, run_task);
        if (i % 100 == 0) /* from an empty queue as well as from a full one */
            CHECK_SOON(atomic_load(&o.runs) == i + 1);
    }
    close_office(&o);
    CHECK(atomic_load(&o.runs) == JOBS);
    for (int i = 0; i < JOBS; i++)
        CHECK(o.order[i] == i);
    CHECK(!pthread_equal(o.thread, pthread_self()));
    CHECK(strcmp(o.name, "ka-jobs") == 0 && blocks_all(&o.mask));
}

#ifdef __linux__

typedef struct {
    kai_job job;
    cpu_set_t cpus;
    _Atomic int done;
} cpus_job;

static void run_cpus(kai_job *job)
{
    cpus_job *j = (cpus_job *)(void *)job;

    CHECK(sched_getaffinity(0, sizeof j->cpus, &j->cpus) == 0);
    atomic_store(&j->done, 1);
}

static void *submit_bound_main(void *arg)
{
    void **both = arg;
    cpu_set_t one;
    int last;

    own_cpus(&last);
    CPU_ZERO(&one);
    CPU_SET((size_t)last, &one);
    CHECK(pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0);
    CHECK(kai_control_submit(both[0], both[1]) == 0);
    return NULL;
}

static void control_keeps_the_cpus_of_its_owner(void)
{
    cpus_job job = {.job.run = run_cpus};
    int last;
    cpu_set_t own = own_cpus(&last);
    office o;

    open_office(&o);
    kai_control_keep_cpus(&o.control);
    check_join(check_thread(submit_bound_main, (void *[]){&o.control, &job.job}));
    CHECK_SOON(atomic_load(&job.done));
    CHECK(CPU_EQUAL(&own, &job.cpus));
    close_office(&o);
}

#endif

static int is_ending(kai_control *control)
{
    int ending;

    pthread_mutex_lock(&control->lock);
    ending = control->ending;
    pthread_mutex_unlock(&control->lock);
    return ending;
}

static void run_until_ending(kai_job *job)
{
    CHECK_SOON(is_ending(&((task *)(void *)job)->office->control));
    run_task(job);
}

static void join_runs_what_is_queued(void)
{
    office o;

    open_office(&o);
    submit(&o, 0, run_until_ending); /* the rest waits until the join has begun */
    for (int i = 1; i < 10; i++)
        submit(&o, i, run_task);
    CHECK(atomic_load(&o.runs) == 0);
    kai_control_join(&o.control);
    CHECK(atomic_load(&o.runs) == 10);
    kai_control_join(&o.control); /* once more is nothing */
    kai_control_fini(&o.control);
}

static void *submit_main(void *arg)
{
    for (int i = 0; i < JOBS / SUBMITTERS; i++)
        submit(arg, i, run_task);
    return NULL;
}

static void jobs_of_many_threads_all_run(void)
{
    for (int round = 0; round < 20; round++) {
        static office o;
        pthread_t threads[SUBMITTERS];
        open_office(&o);
        for (int i = 0; i < SUBMITTERS; i++)
            threads[i] = check_thread(submit_main, &o);
        for (int i = 0; i < SUBMITTERS; i++)
            check_join(threads[i]);
        close_office(&o);
        CHECK(atomic_load(&o.runs) == JOBS / SUBMITTERS * SUBMITTERS);
    }
}

#ifdef __GLIBC__

static void job_without_a_thread_is_not_taken(void)
{
    office o;
    task *t;

    open_office(&o);
    t = new_task(&o, 0, run_task);
    forbid_threads(1);
    CHECK(kai_control_submit(&o.control, &t->job) == EAGAIN);
    forbid_threads(0);
    CHECK(kai_control_submit(&o.control, &t->job) == 0);
    close_office(&o);
    CHECK(atomic_load(&o.runs) == 1);
}

#endif

int main(void)
{
    RUN(worker_steps_until_the_end_and_ends_once);
    RUN(worker_that_ends_instead_of_parking_leaves_no_sleeper);
    RUN(end_may_free_the_worker);
    RUN(worker_blocks_every_signal_and_its_creator_none);
    RUN(worker_has_its_name);
    RUN(worker_without_work_looks_twice_and_parks);
    RUN(notification_wakes_a_parked_worker);
    RUN(worker_on_its_way_to_park_misses_no_notification);
    RUN(worker_between_naps_and_park_misses_no_notification);
    RUN(step_is_run_again_at_the_time_it_returned);
    RUN(step_with_a_deadline_is_not_run_before_it);
    RUN(warm_worker_naps_and_looks_without_being_notified);
    RUN(work_that_follows_work_warms_and_rest_parks);
    RUN(work_alone_does_not_warm);
    RUN(what_callers_did_not_bring_does_not_warm);
    RUN(spinning_worker_never_sleeps);
    RUN(spinning_worker_needs_no_notification_to_end);
    RUN(thread_can_name_itself);
#ifdef __linux__
    RUN(bound_worker_is_on_its_cpu_from_the_first_step_on);
    RUN(end_may_free_a_bound_worker);
    RUN(worker_that_cannot_be_bound_makes_no_step);
#endif
    RUN(waiting_for_workers_times_out_and_not_before);
    RUN(every_waiter_is_told_of_the_last_workers_end);
    RUN(waiting_that_meets_the_last_end_is_told);
    RUN(waiting_for_workers_includes_their_end);
#if KAI_FUTEX
    RUN(signal_interrupts_the_waiting_for_workers);
#endif
    RUN(child_of_a_fork_has_another_number_and_no_workers);
    RUN(grandchild_of_a_fork_differs_from_both);
    RUN(losses_add_up);
    RUN(control_has_no_thread_before_the_first_job);
    RUN(jobs_run_in_order_on_one_thread_of_their_own);
#ifdef __linux__
    RUN(control_keeps_the_cpus_of_its_owner);
#endif
    RUN(join_runs_what_is_queued);
    RUN(jobs_of_many_threads_all_run);
#ifdef __GLIBC__
    RUN(worker_that_cannot_start_is_not_waited_for);
    RUN(job_without_a_thread_is_not_taken);
#endif
    return 0;
}
