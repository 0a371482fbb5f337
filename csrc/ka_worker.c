#define _GNU_SOURCE /* pthread_setname_np, pthread_setaffinity_np */
#include "ka_worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ka.h"
#include "ka_resolve.h"

#ifdef __linux__
#include <sys/prctl.h>
#endif

enum { NAP_LEAST_NS = 50000, NAP_MOST_NS = 200000, NAME_LEN = 15 };

_Atomic uint32_t kai_process;

static struct {
    _Atomic uint32_t workers;
    _Atomic int64_t lost;
    kai_wake ended;
    pthread_mutex_t births; /* protects refused of workers; held until the new thread is bound */
    int registered;         /* the fork handlers; under births */
} process = {.ended = KAI_WAKE_STATIC, .births = PTHREAD_MUTEX_INITIALIZER};

/* Runs in the child. The threads of the parent are not there, and one of them may have held a
 * lock. */
static void after_fork_in_child(void)
{
    atomic_fetch_add(&kai_process, 1);
    atomic_store(&process.workers, 0);
    atomic_store(&process.lost, 0);
    kai_wake_init(&process.ended);
    pthread_mutex_init(&process.births, NULL);
    kai_resolve_reset();
}

int kai_process_init(void)
{
    int error = 0;

    pthread_mutex_lock(&process.births);
    if (!process.registered)
        error = pthread_atfork(kai_resolve_hold, kai_resolve_release, after_fork_in_child);
    process.registered |= !error;
    pthread_mutex_unlock(&process.births);
    return error;
}

void kai_lose(int64_t messages)
{
    atomic_fetch_add(&process.lost, messages);
}

int64_t ka_lost_messages(void)
{
    return atomic_load(&process.lost);
}

static int64_t check_workers(void *self, int64_t arg)
{
    (void)self, (void)arg;
    return atomic_load(&process.workers) ? KA_EMPTY : KA_OK;
}

int ka_wait_workers(int64_t timeout_us)
{
    return (int)kai_wait_until(&process.ended, timeout_us, check_workers, NULL, 0);
}

static void count_out(void)
{
    atomic_fetch_sub(&process.workers, 1);
    kai_wake_notify(&process.ended);
}

static void set_name(const char *name)
{
#ifdef __APPLE__
    pthread_setname_np(name);
#else
    pthread_setname_np(pthread_self(), name);
#endif
}

int ka_thread_name(const char *name)
{
    if (strlen(name) > NAME_LEN)
        return KA_INVALID;
    set_name(name);
    return KA_OK;
}

/* A thread is born with its creator's mask, so the creator blocks everything for that moment. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
    /* A fault of the thread itself must reach whoever reports crashes. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t all, before;
    int error;

    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* How a worker rests between steps without work. */
typedef struct {
    int64_t asked_ns;      /* when callers brought work last */
    int64_t gap_ns;        /* between the last two times */
    int64_t warm_until_ns; /* it naps until then */
} rest;

/* What comes at longer intervals than warm_ns would find it parked each time, and every nap would
 * have been for nothing; so one piece of work alone does not warm. */
static void warm_up(rest *r, const kai_worker *worker)
{
    int64_t now = kai_now_ns();

    r->gap_ns = now - r->asked_ns;
    if (r->gap_ns < worker->warm_ns)
        r->warm_until_ns = now + worker->warm_ns;
    r->asked_ns = now;
}

/* The longer nothing has come, the longer the nap: what comes then waits for a small part of the time that it let pass. What
 * comes at regular intervals waits for less: the nearer its time, the shorter the nap. */
static void nap(int64_t quiet_ns, int64_t gap_ns)
{
    int64_t off_ns = gap_ns > quiet_ns ? gap_ns - quiet_ns : quiet_ns - gap_ns;
    int64_t time_ns = off_ns / 2 < quiet_ns / 4 ? off_ns / 2 : quiet_ns / 4;
    struct timespec time = {0, NAP_LEAST_NS};

    if (time_ns > NAP_LEAST_NS)
        time.tv_nsec = time_ns < NAP_MOST_NS ? (long)time_ns : NAP_MOST_NS;
    nanosleep(&time, NULL);
}

/* Before another look. 0: it is time to park. */
static int stay_awake(const rest *r, const kai_worker *worker)
{
    int64_t now;

    if (worker->spin) {
        kai_spin();
        return 1;
    }
    if (!worker->warm_ns || (now = kai_now_ns()) >= r->warm_until_ns)
        return 0;
    nap(now - r->asked_ns, r->gap_ns);
    return 1;
}

static int is_idle(int64_t next)
{
    return next != KAI_STEP_AGAIN && next != KAI_STEP_SERVED && next != KAI_STEP_END;
}

/* Sleep for a notification. The step after prepare is the second look that makes it safe. */
static int64_t park(kai_worker *worker)
{
    uint32_t key = kai_wake_prepare(&worker->wake);
    int64_t next = worker->step(worker->self);

    if (is_idle(next))
        kai_wake_sleep(&worker->wake, key, next);
    else
        kai_wake_cancel(&worker->wake);
    return next;
}

static void work(kai_worker *worker)
{
    rest r = {.asked_ns = kai_now_ns()};
    int64_t next;

#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* the default of 50 us would double a nap */
#endif
    r.warm_until_ns = r.asked_ns + worker->warm_ns;
    do {
        next = worker->step(worker->self);
        if (is_idle(next) && !stay_awake(&r, worker))
            next = park(worker);
        if (next == KAI_STEP_AGAIN)
            warm_up(&r, worker);
    } while (next != KAI_STEP_END);
    worker->end(worker->self);
}

/* Waits until the starter has tried. */
static int is_bound(const kai_worker *worker)
{
    int refused;

    pthread_mutex_lock(&process.births);
    refused = worker->refused;
    pthread_mutex_unlock(&process.births);
    return !refused;
}

static void *run_worker(void *arg)
{
    kai_worker *worker = arg;

    if (worker->bound && !is_bound(worker))
        return NULL;
    set_name(worker->name);
    work(worker);
    count_out();
    return NULL;
}

static int bind_thread(pthread_t thread, int cpu)
{
#ifdef __linux__
    size_t count = (size_t)cpu + 1, size = CPU_ALLOC_SIZE(count);
    cpu_set_t *set = cpu < 0 ? NULL : CPU_ALLOC(count);
    int error;

    if (!set)
        return cpu < 0 ? EINVAL : ENOMEM;
    CPU_ZERO_S(size, set);
    CPU_SET_S((size_t)cpu, size, set);
    error = pthread_setaffinity_np(thread, size, set);
    CPU_FREE(set);
    return error;
#else
    (void)thread, (void)cpu;
    return ENOTSUP;
#endif
}

/* The new thread waits for the lock before it does anything, so that it runs on its CPU from its first
 * step on, or makes none. */
static int start_bound(pthread_t *thread, kai_worker *worker)
{
    int error;

    pthread_mutex_lock(&process.births);
    error = start_thread(thread, run_worker, worker);
    if (error) {
        pthread_mutex_unlock(&process.births);
        return error;
    }
    error = worker->refused = bind_thread(*thread, worker->cpu);
    pthread_mutex_unlock(&process.births); /* from here on the worker may be gone */
    if (error)
        pthread_join(*thread, NULL);
    return error;
}

int kai_worker_start(kai_worker *worker)
{
    pthread_t thread;
    int error = kai_process_init();

    if (error)
        return error;
    atomic_fetch_add(&process.workers, 1);
    error =
        worker->bound ? start_bound(&thread, worker) : start_thread(&thread, run_worker, worker);
    if (error)
        count_out(); /* a waiter may have counted it */
    else
        pthread_detach(thread);
    return error;
}

int kai_is_shortage(int error)
{
    return error == EAGAIN || error == ENOMEM;
}

const char *kai_worker_refusal(int error)
{
    return kai_is_shortage(error)
               ? "the worker thread did not start: there is no memory for it, or the limit of "
                 "threads is reached: raise it"
               : "the worker thread can't be bound to that CPU: give another cpu, or none";
}

void kai_control_init(kai_control *control, const char *name)
{
    *control = (kai_control){.name = name, .last = &control->first};
    pthread_mutex_init(&control->lock, NULL);
    pthread_cond_init(&control->cond, NULL);
}

int kai_control_keep_cpus(kai_control *control)
{
#ifdef __linux__
    cpu_set_t *cpus = malloc(sizeof *cpus);

    if (!cpus)
        return -1;
    if (sched_getaffinity(0, sizeof *cpus, cpus) == 0)
        control->cpus = cpus;
    else
        free(cpus);
#else
    (void)control;
#endif
    return 0;
}

/* Wait for a job; NULL at the end. */
static kai_job *next_job(kai_control *control)
{
    kai_job *job;

    pthread_mutex_lock(&control->lock);
    while (!control->first && !control->ending)
        pthread_cond_wait(&control->cond, &control->lock);
    job = control->first;
    if (job && !(control->first = job->next))
        control->last = &control->first;
    pthread_mutex_unlock(&control->lock);
    return job;
}

static void *run_control(void *arg)
{
    kai_control *control = arg;
    kai_job *job;

    set_name(control->name);
#ifdef __linux__
    if (control->cpus)
        sched_setaffinity(0, sizeof(cpu_set_t), control->cpus);
#endif
    while ((job = next_job(control)))
        job->run(job);
    return NULL;
}

int kai_control_submit(kai_control *control, kai_job *job)
{
    int error = 0;

    pthread_mutex_lock(&control->lock);
    if (!control->started && !(error = start_thread(&control->thread, run_control, control)))
        control->started = 1;
    if (!error) {
        job->next = NULL;
        *control->last = job;
        control->last = &job->next;
        pthread_cond_signal(&control->cond);
    }
    pthread_mutex_unlock(&control->lock);
    return error;
}

void kai_control_join(kai_control *control)
{
    pthread_mutex_lock(&control->lock);
    control->ending = 1;
    pthread_cond_signal(&control->cond);
    pthread_mutex_unlock(&control->lock);
    if (control->started)
        pthread_join(control->thread, NULL);
    control->started = 0;
}

void kai_control_fini(kai_control *control)
{
    free(control->cpus);
    pthread_cond_destroy(&control->cond);
    pthread_mutex_destroy(&control->lock);
}
