/* Native threads: a worker that steps and sleeps, and a control thread that runs jobs.
 *
 * All of them block every signal, so that signals reach the threads of the application. None of
 * them knows Python.
 */
#ifndef KA_WORKER_H
#define KA_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "ka_wake.h"

/* What a step returns, beside the time (kai_now_ns) of the next step if nobody wakes it. AGAIN: it did work
 * that callers brought, whose notifications must be cheap. SERVED: it did something else. */
enum { KAI_STEP_AGAIN = 0, KAI_STEP_END = -1, KAI_STEP_SERVED = -2 };

/* A thread that calls step(self) until that returns KAI_STEP_END, then end(self), which may free
 * self and the worker in it. Without work it parks: it sleeps until it is notified. But where callers
 * brought work twice within warm_ns, it naps for so long first, when a notification costs the notifier
 * no system call. With spin set it does neither: it takes all of a processor, and no
 * notification is ever a system call. */
typedef struct {
    kai_wake wake;
    const char *name; /* up to 15 characters */
    int64_t (*step)(void *self);
    void (*end)(void *self);
    void *self;
    int64_t warm_ns;
    int spin;
    int bound, cpu; /* bound: it runs on this CPU alone */
    int refused;    /* the starter's: it can't be bound */
} kai_worker;

/* 0, or an errno: nothing of the worker was called. A shortage: no thread or no memory; anything else: it can't
 * be bound to its CPU. */
int kai_worker_start(kai_worker *worker);
int kai_is_shortage(int error);
/* What to tell the application of such an errno; static storage. */
const char *kai_worker_refusal(int error);

/* A control thread: runs jobs one after the other, for calls that may wait. The thread starts with
 * the first job. */
typedef struct kai_job {
    struct kai_job *next;
    void (*run)(struct kai_job *job); /* owns the job from then on */
} kai_job;

typedef struct {
    const char *name;
    pthread_mutex_t lock; /* protects all below */
    pthread_cond_t cond;
    kai_job *first, **last;
    pthread_t thread;
    int started, ending;
    void *cpus; /* set once: a cpu_set_t, or NULL */
} kai_control;

void kai_control_init(kai_control *control, const char *name);
/* Let the thread run where the calling thread may, instead of where the one may that submits the first
 * job, which is a worker that may be bound to a CPU. 0, or -1 without memory. */
int kai_control_keep_cpus(kai_control *control);
/* 0, or an errno: the job was not taken. */
int kai_control_submit(kai_control *control, kai_job *job);
/* Run what is queued, then end the thread. No job may be submitted any more. */
void kai_control_join(kai_control *control);
void kai_control_fini(kai_control *control);

/* Changes in the child of a fork: an object with another number belongs to the parent. */
extern _Atomic uint32_t kai_process;
/* Register the fork handlers; before the first object. 0, or an errno: no memory. */
int kai_process_init(void);

/* Count messages that were purged with nobody to tell. */
void kai_lose(int64_t messages);

#endif
