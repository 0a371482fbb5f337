/* The bell: rings once for a burst, never too late, and outlives those that ring it. */
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "check.h"
#include "ka_bell.h"
#include "ka_wake.h"
#include "ka_worker.h"

enum { RINGERS = 4, ROUNDS = CHECK_ROUNDS(80000) };

static int rings(const ka_bell *bell, int timeout_ms)
{
    struct pollfd fd = {.fd = ka_bell_descriptor(bell), .events = POLLIN};

    return poll(&fd, 1, timeout_ms) == 1;
}

static void rings_once_until_it_is_armed_again(void)
{
    ka_bell *bell = ka_bell_new();
    kai_wake wake;

    kai_wake_init(&wake);
    kai_wake_notify(&wake);
    kai_wake_hang(&wake, bell);
    kai_wake_notify(&wake);
    CHECK(!rings(bell, 0)); /* nobody armed it */
    for (int i = 0; i < 3; i++) {
        CHECK(ka_bell_arm(bell) == KA_OK);
        CHECK(!rings(bell, 0));
        kai_wake_notify(&wake);
        kai_wake_notify(&wake);
        CHECK(rings(bell, 0));
        CHECK(ka_bell_arm(bell) == KA_OK);
        CHECK(!rings(bell, 0));
    }
    kai_wake_fini(&wake);
    ka_bell_release(bell);
}

static void hangs_on_many_wake_ups_and_outlives_its_owner(void)
{
    ka_bell *bell = ka_bell_new();
    kai_wake wakes[3];
    int fd = ka_bell_descriptor(bell);

    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        kai_wake_init(&wakes[i]);
        kai_wake_hang(&wakes[i], bell);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(ka_bell_arm(bell) == KA_OK);
        kai_wake_notify(&wakes[i]);
        CHECK(rings(bell, 0));
    }
    ka_bell_release(bell);
    for (int i = 0; i < 3; i++) {
        CHECK(fcntl(fd, F_GETFD) >= 0);
        kai_wake_notify(&wakes[i]);
        kai_wake_fini(&wakes[i]);
    }
    CHECK(fcntl(fd, F_GETFD) < 0);
}

static void *sleep_and_return(void *arg)
{
    kai_wake *wake = arg;

    return (void *)(intptr_t)kai_wake_sleep(wake, kai_wake_prepare(wake),
                                            kai_now_ns() + 10000000000);
}

/* A bell counts as a sleeper, and is not taken for the only one. */
static void a_sleeper_beside_it_is_woken(void)
{
    ka_bell *bell = ka_bell_new();
    kai_wake wake;
    pthread_t thread;
    void *result;

    kai_wake_init(&wake);
    kai_wake_hang(&wake, bell);
    CHECK(ka_bell_arm(bell) == KA_OK);
    CHECK(pthread_create(&thread, NULL, sleep_and_return, &wake) == 0);
    while (atomic_load(&wake.sleepers) < 2)
        check_pause();
    kai_wake_notify(&wake);
    pthread_join(thread, &result);
    CHECK((intptr_t)result == KA_OK);
    CHECK(rings(bell, 0));
    kai_wake_fini(&wake);
    ka_bell_release(bell);
}

/* ---------------------------------------------------------------- many threads */

static kai_wake shared;
static _Atomic int done;

static void *ring_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add_explicit(&done, 1, memory_order_relaxed);
        kai_wake_notify(&shared);
    }
    return NULL;
}

/* As an event loop does it: arm, look, wait. A change that neither the look nor a ring told of would leave it
 * waiting. */
static void no_change_is_missed(void)
{
    ka_bell *bell = ka_bell_new();
    pthread_t threads[RINGERS];
    int seen = 0, rung = 0;

    kai_wake_init(&shared);
    kai_wake_hang(&shared, bell);
    for (int i = 0; i < RINGERS; i++)
        CHECK(pthread_create(&threads[i], NULL, ring_often, NULL) == 0);
    while (seen < RINGERS * ROUNDS) {
        int now;

        CHECK(ka_bell_arm(bell) == KA_OK);
        now = atomic_load_explicit(&done, memory_order_relaxed);
        if (now == seen)
            CHECK(rings(bell, 20000));
        rung += now == seen;
        seen = now;
    }
    for (int i = 0; i < RINGERS; i++)
        pthread_join(threads[i], NULL);
    printf("%d changes, %d waits\n", seen, rung);
    kai_wake_fini(&shared);
    ka_bell_release(bell);
}

static void child_of_a_fork_leaves_it_alone(void)
{
    ka_bell *bell;
    int status;
    pid_t child;

    kai_process_init();
    bell = ka_bell_new();
    child = fork();
    if (child == 0) {
        int bad = ka_bell_arm(bell) != KA_FORKED;
        ka_bell_release(bell);
        _exit(bad || fcntl(ka_bell_descriptor(bell), F_GETFD) < 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(ka_bell_arm(bell) == KA_OK);
    ka_bell_release(bell);
}

int main(void)
{
    RUN(rings_once_until_it_is_armed_again);
    RUN(hangs_on_many_wake_ups_and_outlives_its_owner);
    RUN(a_sleeper_beside_it_is_woken);
    RUN(no_change_is_missed);
    RUN(child_of_a_fork_leaves_it_alone);
    return 0;
}
