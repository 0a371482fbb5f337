/* An event count: sleep until a condition may have changed, without losing a notification.
 *
 * Sleeper:   key = kai_wake_prepare(w);  if (condition) kai_wake_cancel(w);
 *            else kai_wake_sleep(w, key, deadline);  look again
 * Notifier:  make the condition true;  kai_wake_notify(w);
 *
 * A notification with nobody asleep is one fence and one load. Any number of sleepers; all of them
 * wake. A sleep ends early when a signal handler ran in its thread (futex only; the
 * portable wake-up sleeps on, so whoever must see signals sleeps in short slices).
 */
#ifndef KA_WAKE_H
#define KA_WAKE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__linux__) && !defined(KA_NO_FUTEX)
#define KAI_FUTEX 1
#else
#define KAI_FUTEX 0
#include <pthread.h>
#endif

#define KAI_FOREVER INT64_MAX

struct ka_bell;

typedef struct {
    _Atomic uint32_t sequence; /* changes with every notification that somebody sleeps for */
    _Atomic uint32_t sleepers; /* a bell counts as one */
    struct ka_bell *_Atomic bell;
#if !KAI_FUTEX
    pthread_mutex_t lock; /* protects sequence against a sleep that is about to begin */
    pthread_cond_t cond;
#endif
} kai_wake;

#if KAI_FUTEX
#define KAI_WAKE_STATIC \
    {                   \
        0, 0, NULL      \
    }
#else
#define KAI_WAKE_STATIC                                                 \
    {                                                                   \
        0, 0, NULL, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER \
    }
#endif

void kai_wake_init(kai_wake *wake);
void kai_wake_fini(kai_wake *wake);
/* Ring this bell at each notification from now on; once, before anybody relies on it. The wake-up holds a
 * reference until kai_wake_fini(). */
void kai_wake_hang(kai_wake *wake, struct ka_bell *bell);

uint32_t kai_wake_prepare(kai_wake *wake);
void kai_wake_cancel(kai_wake *wake);
/* KA_OK (notified, or for no reason), KA_TIMEOUT, KA_INTERRUPTED. */
int kai_wake_sleep(kai_wake *wake, uint32_t key, int64_t deadline_ns);
/* Sleep until check(self, arg) returns something else than KA_EMPTY, and return that; or KA_TIMEOUT,
 * KA_INTERRUPTED after one more look. A timeout of 0 looks once. */
int64_t kai_wait_until(kai_wake *wake, int64_t timeout_us,
                       int64_t (*check)(void *self, int64_t arg), void *self, int64_t arg);
/* Wakes the sleepers by a system call, and rings the bell; use kai_wake_notify(). */
void kai_wake_all(kai_wake *wake);

static inline void kai_wake_notify(kai_wake *wake)
{
    /* The notifier writes the condition, then reads sleepers; a sleeper writes sleepers, then
     * reads the condition. This fence and the one in kai_wake_prepare() see to it that at least
     * one of the two sees the other's write. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&wake->sleepers, memory_order_relaxed))
        kai_wake_all(wake);
}

/* A moment between two looks of a thread that waits without sleeping. Others that must run on its CPU
 * do so, and need not wait for the end of its time slice. */
void kai_spin(void);

/* Every other thread of the process goes through a full fence meanwhile: what it stored before is visible
 * after, and what it loads later sees what was stored before the call. For hand-overs whose other
 * side can't have a fence of its own. Costs some microseconds. */
void kai_fence_all(void);

/* Monotonic time. */
int64_t kai_now_ns(void);
/* The wall clock minus that one, which reads now. */
int64_t kai_wall_minus_ns(int64_t now);
/* now + timeout; KAI_FOREVER for a negative timeout or one that overflows. */
int64_t kai_deadline_ns(int64_t timeout_us);

#endif
