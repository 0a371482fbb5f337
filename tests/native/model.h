/* A model checker for our C as it is compiled: every interleaving of a few threads, and every value that the C11 memory model
 * lets a load return, for small scenarios.
 *
 * The code under test and the scenario are compiled with -fsanitize=thread, so that each access to memory calls a
 * __tsan_* function, and linked without ThreadSanitizer: model.c has those functions. Threads are coroutines that switch
 * before each atomic operation. See docs/design.md, "Checked by model", for what that covers.
 */
#ifndef MODEL_H
#define MODEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>

enum { MODEL_THREADS = 4 };

typedef struct {
    const char *name;
    void (*init)(void);                   /* alone, before the threads */
    void (*threads[MODEL_THREADS])(void); /* NULL: no more */
    void (*check)(void);                  /* alone, after them; may be NULL */
} model_scenario;

#define MODEL_CHECK(expr) ((expr) ? (void)0 : model_violated("not true: " #expr))

/* Memory that threads share; all other is taken for a thread's own. It is zero before each init. */
void model_share(const char *name, void *memory, size_t size);

/* Only the first thread stores to this word, so its own loads of it need no switch before them. */
void model_own(const void *word);

/* Explores a scenario; a violation prints the steps that led to it and ends the program with status 1. */
void model_run(const model_scenario *scenario);

_Noreturn void model_violated(const char *what);

/* Of a thread: wait until the word, of size bytes, does not hold old any more, and know that; else as a relaxed load. A loop
 * that would spin waits by it. */
void model_await(const void *word, size_t size, uint64_t old);

/* The kernel's and libc's part, for what the code under test calls by these names. */
void *model_memset(void *memory, int value, size_t size);
long model_syscall(long number, ...);
int model_mutex_lock(void *mutex);
int model_mutex_unlock(void *mutex);
int model_cond_wait(void *cond, void *mutex, const void *until);
int model_cond_broadcast(void *cond);

#endif
