#include "ka_wake.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include "ka.h"
#include "ka_bell.h"

#if KAI_FUTEX
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { SPIN_PAUSES = 16 }; /* below 1 us, and much more than a look costs its neighbours */

int64_t kai_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t kai_wall_minus_ns(int64_t now)
{
    struct timespec wall;

    clock_gettime(CLOCK_REALTIME, &wall);
    return (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - now;
}

int64_t kai_deadline_ns(int64_t timeout_us)
{
    int64_t now = kai_now_ns();

    if (timeout_us < 0 || timeout_us > (KAI_FOREVER - now) / 1000)
        return KAI_FOREVER;
    return now + timeout_us * 1000;
}

/* Lets the other hardware thread of the core run. */
static void pause_processor(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void kai_spin(void)
{
    for (int i = 0; i < SPIN_PAUSES; i++)
        pause_processor();
    sched_yield();
}

#if KAI_FUTEX
static int fence_expedited(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
}
#endif

void kai_fence_all(void)
{
    atomic_thread_fence(memory_order_seq_cst);
#if KAI_FUTEX
    if (fence_expedited())
        return;
    /* Once a process, and again in the child of a fork. */
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 &&
        fence_expedited())
        return;
#endif
    /* No such call: a store leaves its processor's buffer within microseconds by itself. */
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void kai_wake_hang(kai_wake *wake, ka_bell *bell)
{
    kai_bell_reference(bell);
    atomic_fetch_add_explicit(&wake->sleepers, 1, memory_order_relaxed);
    /* release: who sees the bell sees that it is counted; partner: ring(). */
    atomic_store_explicit(&wake->bell, bell, memory_order_release);
}

/* Returns whether somebody sleeps, too. A sleeper that is not counted yet will look at its condition only after this
 * notification's fence. */
static int ring(const kai_wake *wake)
{
    ka_bell *bell = atomic_load_explicit(&wake->bell, memory_order_acquire);

    if (!bell)
        return 1;
    kai_bell_ring(bell);
    return atomic_load_explicit(&wake->sleepers, memory_order_relaxed) > 1;
}

static void take_down(kai_wake *wake)
{
    ka_bell *bell = atomic_load(&wake->bell);

    if (bell)
        kai_bell_unreference(bell);
}

uint32_t kai_wake_prepare(kai_wake *wake)
{
    uint32_t key;

    atomic_fetch_add_explicit(&wake->sleepers, 1, memory_order_relaxed);
    /* Read before the fence: a notification that comes after the caller's look at its
     * condition changes sequence, and the sleep that is given the older key returns at once. */
    key = atomic_load_explicit(&wake->sequence, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* partner: kai_wake_notify() */
    return key;
}

void kai_wake_cancel(kai_wake *wake)
{
    atomic_fetch_sub_explicit(&wake->sleepers, 1, memory_order_relaxed);
}

int64_t kai_wait_until(kai_wake *wake, int64_t timeout_us,
                       int64_t (*check)(void *self, int64_t arg), void *self, int64_t arg)
{
    int64_t deadline = kai_deadline_ns(timeout_us), result;
    int status = timeout_us == 0 ? KA_TIMEOUT : KA_OK;

    for (;;) {
        uint32_t key = kai_wake_prepare(wake);

        result = check(self, arg);
        if (result != KA_EMPTY || status != KA_OK) {
            kai_wake_cancel(wake);
            return result != KA_EMPTY ? result : status;
        }
        status = kai_wake_sleep(wake, key, deadline);
    }
}

#if KAI_FUTEX

void kai_wake_init(kai_wake *wake)
{
    atomic_store_explicit(&wake->sequence, 0, memory_order_relaxed);
    atomic_store_explicit(&wake->sleepers, 0, memory_order_relaxed);
    atomic_store_explicit(&wake->bell, NULL, memory_order_relaxed);
}

void kai_wake_fini(kai_wake *wake)
{
    take_down(wake);
}

int kai_wake_sleep(kai_wake *wake, uint32_t key, int64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                             .tv_nsec = (long)(deadline_ns % 1000000000)};
    int error = 0;

    /* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, so an early wake-up costs no
     * arithmetic. KAI_FOREVER is given as one too: without a time, a handler installed with
     * SA_RESTART (as asyncio does) would not end the sleep. */
    if (syscall(SYS_futex, &wake->sequence, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, key, &until,
                NULL, FUTEX_BITSET_MATCH_ANY) != 0)
        error = errno;
    kai_wake_cancel(wake);
    return error == ETIMEDOUT ? KA_TIMEOUT : error == EINTR ? KA_INTERRUPTED : KA_OK;
}

void kai_wake_all(kai_wake *wake)
{
    if (!ring(wake))
        return;
    atomic_fetch_add_explicit(&wake->sequence, 1, memory_order_relaxed);
    syscall(SYS_futex, &wake->sequence, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

#else

void kai_wake_init(kai_wake *wake)
{
    atomic_store_explicit(&wake->sequence, 0, memory_order_relaxed);
    atomic_store_explicit(&wake->sleepers, 0, memory_order_relaxed);
    atomic_store_explicit(&wake->bell, NULL, memory_order_relaxed);
    pthread_mutex_init(&wake->lock, NULL);
    pthread_cond_init(&wake->cond, NULL);
}

void kai_wake_fini(kai_wake *wake)
{
    take_down(wake);
    pthread_cond_destroy(&wake->cond);
    pthread_mutex_destroy(&wake->lock);
}

/* Condition variables wait for wall-clock time everywhere; macOS knows no other. A step of
 * that clock would stretch the wait, so it is taken in slices of at most 100 ms. */
static int sleep_slice(kai_wake *wake, int64_t deadline_ns)
{
    int64_t left = deadline_ns - kai_now_ns();
    struct timespec until;

    if (left <= 0)
        return ETIMEDOUT;
    if (left > 100000000)
        left = 100000000;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)((until.tv_nsec + left) / 1000000000);
    until.tv_nsec = (long)((until.tv_nsec + left) % 1000000000);
    pthread_cond_timedwait(&wake->cond, &wake->lock, &until);
    return 0;
}

int kai_wake_sleep(kai_wake *wake, uint32_t key, int64_t deadline_ns)
{
    int error = 0;

    pthread_mutex_lock(&wake->lock);
    while (error == 0 && atomic_load_explicit(&wake->sequence, memory_order_relaxed) == key)
        error = sleep_slice(wake, deadline_ns);
    pthread_mutex_unlock(&wake->lock);
    kai_wake_cancel(wake);
    return error == ETIMEDOUT ? KA_TIMEOUT : KA_OK;
}

void kai_wake_all(kai_wake *wake)
{
    if (!ring(wake))
        return;
    pthread_mutex_lock(&wake->lock);
    atomic_fetch_add_explicit(&wake->sequence, 1, memory_order_relaxed);
    pthread_cond_broadcast(&wake->cond);
    pthread_mutex_unlock(&wake->lock);
}

#endif
