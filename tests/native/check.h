/* Checks of the C unit tests. A check that fails prints where it stands and ends the program with
 * status 1, and so does a test that takes longer than its limit. Tests wait for conditions, with
 * CHECK_SOON(); none of them sleeps and hopes.
 */
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHECK_LIMIT_S = 40 }; /* for one test, on a loaded machine and under a sanitizer */

#if defined(__has_feature)
#define CHECK_HAS_FEATURE(feature) __has_feature(feature)
#else
#define CHECK_HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || CHECK_HAS_FEATURE(thread_sanitizer)
#define CHECK_TSAN 1
#endif
#if defined(CHECK_TSAN) || defined(__SANITIZE_ADDRESS__) || CHECK_HAS_FEATURE(address_sanitizer)
#define CHECK_SANITIZED 1
#endif

/* How often a stress repeats: fewer times where each costs more. */
#ifdef CHECK_SANITIZED
#define CHECK_ROUNDS(n) ((n) / 8)
#else
#define CHECK_ROUNDS(n) (n)
#endif

#define CHECK(expr) ((expr) ? (void)0 : check_failed(__FILE__, __LINE__, #expr))

/* Wait until expr holds; it must before the test's limit. */
#define CHECK_SOON(expr)                                                                 \
    do {                                                                                 \
        for (int64_t check_end = check_now_ms() + (int64_t)CHECK_LIMIT_S * 500; !(expr); \
             check_pause())                                                              \
            if (check_now_ms() > check_end)                                              \
                check_failed(__FILE__, __LINE__, "in time: " #expr);                     \
    } while (0)

#define RUN(test) check_run(#test, test)

static const char *check_running = "";

_Noreturn static inline void check_failed(const char *file, int line, const char *expr)
{
    fprintf(stderr, "%s:%d: %s: failed: %s\n", file, line, check_running, expr);
    fflush(NULL);
    _exit(1); /* other threads may still run: no handlers, no report of leaks */
}

static inline int64_t check_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void check_pause(void)
{
    struct timespec time = {0, 100000};

    nanosleep(&time, NULL);
}

static inline void check_late(int number)
{
    static const char text[] = ": took longer than its limit\n";

    (void)number;
    if (write(STDERR_FILENO, check_running, strlen(check_running)) < 0 ||
        write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

static inline void check_run(const char *name, void (*test)(void))
{
    int64_t start = check_now_ms();

    check_running = name;
    signal(SIGALRM, check_late);
    alarm(CHECK_LIMIT_S);
    test();
    alarm(0);
    printf("ok %s (%d ms)\n", name, (int)(check_now_ms() - start));
    fflush(stdout);
}

static inline pthread_t check_thread(void *(*run)(void *), void *arg)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, run, arg) == 0);
    return thread;
}

static inline void check_join(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* A pseudo-random number below limit; every thread has a seed of its own, not 0. */
static inline uint64_t check_random(uint64_t *seed, uint64_t limit)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % limit;
}

/* Spend a little time without giving up the processor, so that races meet at varied moments. */
static inline void check_spin(uint64_t rounds)
{
    for (volatile uint64_t i = 0; i < rounds; i++)
        continue;
}

#endif
