/* Commands: the first answer counts, whoever goes last frees, and nobody who waits is forgotten. */
#include "ka_command.h"

#include <sched.h>
#include <sys/wait.h>

#include "check.h"
#include "ka.h"
#include "ka_worker.h"

enum { WAITERS = 4, MS = 1000000 };

/* ---------------------------------------------------------------- helpers */

typedef struct {
    ka_command base;
    char *owned; /* freed with it: a leak or a second free is seen */
} thing;

static _Atomic int freed;

static void thing_free(ka_command *base)
{
    thing *t = (thing *)base;

    free(t->owned);
    free(t);
    atomic_fetch_add(&freed, 1);
}

static ka_command *new_command(void)
{
    thing *t = calloc(1, sizeof *t);

    CHECK(t && (t->owned = malloc(16)));
    kai_command_init(&t->base, thing_free);
    return &t->base;
}

static void expect_freed(int count)
{
    CHECK(atomic_exchange(&freed, 0) == count);
}

/* ---------------------------------------------------------------- one thread */

static void a_command_has_no_answer_at_first(void)
{
    ka_command *c = new_command();
    int64_t start = kai_now_ns();
    ka_error error;

    CHECK(ka_wait_command(c, 0, &error) == KA_TIMEOUT);
    CHECK(ka_wait_command(c, 20000, &error) == KA_TIMEOUT);
    CHECK(kai_now_ns() - start >= 20 * MS);
    kai_command_unreference(c);
    expect_freed(0);
    ka_command_release(c);
    expect_freed(1);
}

static void the_answer_comes_with_its_value_as_often_as_asked(void)
{
    ka_command *c = new_command();
    ka_error error = {.code = 77};

    kai_command_answer(c, KA_OK, 1234567890123, NULL);
    for (int i = 0; i < 3; i++) {
        CHECK(ka_wait_command(c, i - 1, &error) == KA_OK);
        CHECK(ka_command_value(c) == 1234567890123);
    }
    CHECK(error.code == 77); /* not touched */
    kai_command_unreference(c);
    expect_freed(0);
    ka_command_release(c);
    expect_freed(1);
}

static void a_failure_comes_with_its_error(void)
{
    static const int others[] = {KA_CLOSED, KA_NOMEM};
    ka_error why = {.code = -185, .retriable = 1, .name = "_TIMED_OUT", .text = "late"}, error;

    for (int i = 0; i < 3; i++) {
        ka_command *c = new_command();
        int status = i < 2 ? others[i] : KA_FAILED;
        memset(&error, 0, sizeof error);
        kai_command_answer(c, status, 0, status == KA_FAILED ? &why : NULL);
        CHECK(ka_wait_command(c, 0, &error) == status);
        CHECK(memcmp(&error, &(ka_error){0}, sizeof error) == 0 || status == KA_FAILED);
        if (status == KA_FAILED)
            CHECK(error.code == -185 && error.retriable == 1 && strcmp(error.text, "late") == 0);
        kai_command_unreference(c);
        ka_command_release(c);
    }
    expect_freed(3);
}

static void the_first_answer_counts(void)
{
    ka_command *c = new_command();
    ka_error why = {.code = 5}, error = {.code = 1};

    kai_command_answer(c, KA_CLOSED, 1, NULL);
    kai_command_answer(c, KA_FAILED, 2, &why);
    kai_command_answer(c, KA_OK, 3, NULL);
    CHECK(ka_wait_command(c, 0, &error) == KA_CLOSED);
    CHECK(error.code == 1 && ka_command_value(c) == 1);
    kai_command_unreference(c);
    ka_command_release(c);
    expect_freed(1);
}

static void a_refused_command_is_answered_and_the_callers_alone(void)
{
    ka_command *c = new_command();
    ka_error error;

    CHECK(kai_command_refuse(c, KA_NOMEM) == c);
    expect_freed(0);
    CHECK(ka_wait_command(c, -1, &error) == KA_NOMEM);
    ka_command_release(c);
    expect_freed(1);
}

static void an_abandoned_command_lives_until_its_runner_is_done(void)
{
    ka_command *c = new_command();

    ka_command_release(c);
    expect_freed(0);
    kai_command_answer(c, KA_OK, 0, NULL);
    expect_freed(0);
    kai_command_unreference(c);
    expect_freed(1);
}

/* ---------------------------------------------------------------- waits */

typedef struct {
    ka_command *c;
    _Atomic int result; /* 1: none yet */
    int64_t value;
    ka_error error;
} waiter;

static void *wait_main(void *arg)
{
    waiter *w = arg;
    int status = ka_wait_command(w->c, -1, &w->error);

    w->value = ka_command_value(w->c);
    atomic_store(&w->result, status);
    return NULL;
}

static void the_answer_wakes_everyone_who_waits(void)
{
    static waiter waiters[WAITERS];
    ka_command *c = new_command();
    ka_error why = {.code = 9};
    pthread_t threads[WAITERS];

    for (int i = 0; i < WAITERS; i++) {
        waiters[i] = (waiter){.c = c, .result = 1};
        threads[i] = check_thread(wait_main, &waiters[i]);
    }
    CHECK_SOON(atomic_load(&c->answered.sleepers) == WAITERS);
    kai_command_answer(c, KA_FAILED, 11, &why);
    for (int i = 0; i < WAITERS; i++) {
        check_join(threads[i]);
        CHECK(atomic_load(&waiters[i].result) == KA_FAILED);
        CHECK(waiters[i].value == 11 && waiters[i].error.code == 9);
    }
    CHECK(atomic_load(&c->answered.sleepers) == 0);
    kai_command_unreference(c);
    ka_command_release(c);
    expect_freed(1);
}

#if KAI_FUTEX

static void on_signal(int number)
{
    (void)number;
}

static void a_signal_ends_a_wait_but_not_the_command(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    waiter w = {.c = new_command(), .result = 1};
    ka_error error;
    pthread_t thread;

    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    thread = check_thread(wait_main, &w);
    CHECK_SOON(atomic_load(&w.c->answered.sleepers) == 1);
    while (atomic_load(&w.result) == 1) {
        pthread_kill(thread, SIGUSR1);
        check_pause();
    }
    check_join(thread);
    CHECK(atomic_load(&w.result) == KA_INTERRUPTED);
    kai_command_answer(w.c, KA_OK, 0, NULL);
    CHECK(ka_wait_command(w.c, 0, &error) == KA_OK);
    kai_command_unreference(w.c);
    ka_command_release(w.c);
    expect_freed(1);
}

#endif

/* ---------------------------------------------------------------- races */

/* One runner, one caller who may go at any time, one who closes and answers what the list holds, as a
 * producer does. status and error are no atomics: the sanitizer sees an answer that is read too early. */
typedef struct {
    ka_command *_Atomic given; /* to the runner */
    pthread_mutex_t lock;
    ka_command *listed; /* under lock: not finished */
    _Atomic int done;
} office;

static void *run_all(void *arg)
{
    office *o = arg;
    uint64_t seed = 31;

    while (!atomic_load(&o->done)) {
        ka_command *c = atomic_exchange(&o->given, NULL);
        if (!c) {
            sched_yield();
            continue;
        }
        check_spin(check_random(&seed, 500));
        pthread_mutex_lock(&o->lock);
        o->listed = NULL;
        pthread_mutex_unlock(&o->lock);
        kai_command_answer(c, KA_FAILED, 42, &(ka_error){.code = 42});
        kai_command_unreference(c);
    }
    return NULL;
}

static void *close_all(void *arg)
{
    office *o = arg;
    uint64_t seed = 41;

    while (!atomic_load(&o->done)) {
        pthread_mutex_lock(&o->lock);
        if (o->listed)
            kai_command_answer(o->listed, KA_CLOSED, 7, NULL);
        pthread_mutex_unlock(&o->lock);
        check_spin(check_random(&seed, 2000));
    }
    return NULL;
}

static int is_listed(office *o)
{
    int listed;

    pthread_mutex_lock(&o->lock);
    listed = o->listed != NULL;
    pthread_mutex_unlock(&o->lock);
    return listed;
}

static void wait_for_it(ka_command *c, int64_t timeout_us)
{
    ka_error error = {.code = 0};
    int status = ka_wait_command(c, timeout_us, &error);

    CHECK(status == KA_FAILED || status == KA_CLOSED || (status == KA_TIMEOUT && timeout_us >= 0));
    if (status == KA_FAILED)
        CHECK(error.code == 42 && ka_command_value(c) == 42);
    if (status == KA_CLOSED)
        CHECK(error.code == 0 && ka_command_value(c) == 7);
}

static void every_command_is_answered_once_and_freed_once(void)
{
    static office o = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t runner = check_thread(run_all, &o), closer = check_thread(close_all, &o);
    int rounds = CHECK_ROUNDS(60000);
    uint64_t seed = 51;

    for (int i = 0; i < rounds; i++) {
        ka_command *c = new_command();
        pthread_mutex_lock(&o.lock);
        o.listed = c;
        pthread_mutex_unlock(&o.lock);
        atomic_store(&o.given, c);
        check_spin(check_random(&seed, 500));
        if (i % 4)
            wait_for_it(c, i % 4 == 1 ? -1 : i % 4 == 2 ? 0 : 50);
        ka_command_release(c);
        while (is_listed(&o))
            sched_yield();
    }
    CHECK_SOON(atomic_load(&freed) == rounds);
    atomic_store(&o.done, 1);
    check_join(runner);
    check_join(closer);
    expect_freed(rounds);
}

/* Two answers at the same time: what is read is all of the one or all of the other. */
typedef struct {
    ka_command *c;
    int number;
} answerer;

static _Atomic int starting;

static void *answer_main(void *arg)
{
    answerer *a = arg;
    ka_error error = {.code = a->number};

    snprintf(error.text, sizeof error.text, "%d", a->number);
    atomic_fetch_add(&starting, 1);
    while (atomic_load(&starting) < 2)
        continue;
    kai_command_answer(a->c, KA_FAILED, a->number, &error);
    return NULL;
}

static void answers_at_the_same_time_do_not_mix(void)
{
    for (int i = 0; i < CHECK_ROUNDS(4000); i++) {
        ka_command *c = new_command();
        answerer a[] = {{.c = c, .number = 1}, {.c = c, .number = 2}};
        pthread_t threads[2];
        ka_error error;
        int64_t value;

        atomic_store(&starting, 0);
        for (int t = 0; t < 2; t++)
            threads[t] = check_thread(answer_main, &a[t]);
        CHECK(ka_wait_command(c, -1, &error) == KA_FAILED);
        value = ka_command_value(c);
        CHECK((value == 1 || value == 2) && error.code == value);
        CHECK(error.text[0] == '0' + (char)value && error.text[1] == 0);
        for (int t = 0; t < 2; t++)
            check_join(threads[t]);
        CHECK(ka_command_value(c) == value);
        kai_command_unreference(c);
        ka_command_release(c);
    }
    expect_freed(CHECK_ROUNDS(4000));
}

/* ---------------------------------------------------------------- fork */

static void in_a_child_a_command_is_foreign_and_stays(void)
{
    ka_command *c;
    int status;
    pid_t child;

    kai_process_init();
    c = new_command();
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        ka_error error;
        int bad = ka_wait_command(c, -1, &error) != KA_FORKED;
        ka_command_release(c);
        ka_command_release(c); /* does nothing, however often */
        _exit(bad || atomic_load(&freed) != 0 || atomic_load(&c->references) != 2);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    kai_command_unreference(c);
    ka_command_release(c);
    expect_freed(1);
}

int main(void)
{
    RUN(a_command_has_no_answer_at_first);
    RUN(the_answer_comes_with_its_value_as_often_as_asked);
    RUN(a_failure_comes_with_its_error);
    RUN(the_first_answer_counts);
    RUN(a_refused_command_is_answered_and_the_callers_alone);
    RUN(an_abandoned_command_lives_until_its_runner_is_done);
    RUN(the_answer_wakes_everyone_who_waits);
#if KAI_FUTEX
    RUN(a_signal_ends_a_wait_but_not_the_command);
#endif
    RUN(every_command_is_answered_once_and_freed_once);
    RUN(answers_at_the_same_time_do_not_mix);
    RUN(in_a_child_a_command_is_foreign_and_stays);
    return 0;
}
