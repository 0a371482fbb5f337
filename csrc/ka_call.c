/* The producer's commands: what is asked of librdkafka and may wait, run by the control thread.
 *
 * The worker starts a call when its turn has come, so that it is ordered with the messages accepted
 * before it. A call that waits is made in slices: between two of them others get their turn, and a
 * producer that closes need not wait for it. A question to the cluster that a slice was too short
 * for gets a longer one: the answer to the slice before is not listened to any more.
 */
#include <stddef.h>
#include <stdlib.h>

#include "ka_producer.h"

enum { SLICE_MS = 500, MOST_SLICE_MS = 4000 };

static void call_free(ka_command *base)
{
    call *c = (call *)base;

    if (c->offsets)
        rd_kafka_topic_partition_list_destroy(c->offsets);
    if (c->group)
        rd_kafka_consumer_group_metadata_destroy(c->group);
    free(c);
}

static void unlink_call(ka_producer *p, const call *c)
{
    call **at = &p->calls;

    pthread_mutex_lock(&p->calls_lock);
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    pthread_mutex_unlock(&p->calls_lock);
}

void kai_call_finish(call *c, int status, int64_t value, const ka_error *error)
{
    ka_producer *p = c->p;

    if (c->ended)
        c->ended(c);
    unlink_call(p, c);
    kai_command_answer(&c->base, status, value, error);
    kai_command_unreference(&c->base);
    kai_wake_notify(&p->worker.wake); /* others may wait for its end */
}

/* The slice was too short. An error that ends the transaction has the same code if messages of it timed out. */
static int is_unfinished(const call *c, int status, const ka_error *error)
{
    return status == KA_FAILED && !error->requires_abort && !error->fatal &&
           (error->code == RD_KAFKA_RESP_ERR__TIMED_OUT || (c->until_done && error->retriable));
}

/* On the control thread. */
static void run_call(kai_job *job)
{
    call *c = (call *)(void *)((char *)job - offsetof(call, job));
    ka_producer *p = c->p;
    int64_t left_ns = c->deadline_ns - kai_now_ns(), slice_ns = (int64_t)c->slice_ms * 1000000;
    ka_error error;
    int status;

    if (left_ns < 0)
        left_ns = 0;
    status =
        c->run(c, (int)(((left_ns < slice_ns ? left_ns : slice_ns) + 999999) / 1000000), &error);
    if (status == KA_EMPTY)
        return; /* the worker finishes it */
    if (c->begins_anew && c->slice_ms < MOST_SLICE_MS)
        c->slice_ms *= 2;
    if (status == KA_OK && c->ends_early)
        kai_trouble_over(&p->trouble);
    if (is_unfinished(c, status, &error) &&
        !(c->ends_early && kai_trouble_is_final(&p->trouble, &error)) && left_ns > slice_ns &&
        (atomic_load(&p->state) == OPEN || c->even_closing) &&
        kai_control_submit(&p->control, &c->job) == 0)
        return;
    kai_call_finish(c, status, c->value, status == KA_FAILED ? &error : NULL);
}

call *kai_call_new(ka_producer *p, int64_t timeout_us,
                   int (*run)(call *c, int timeout_ms, ka_error *error))
{
    call *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    kai_command_init(&c->base, call_free);
    c->job.run = run_call;
    c->p = p;
    c->run = run;
    c->slice_ms = SLICE_MS;
    c->asked_ns = kai_now_ns();
    c->deadline_ns = kai_deadline_ns(timeout_us);
    return c;
}

ka_command *kai_call_submit(ka_producer *p, call *c)
{
    call **at = &p->calls;
    int open;

    if (kai_producer_is_foreign(p))
        return kai_command_refuse(&c->base, KA_FORKED);
    pthread_mutex_lock(&p->calls_lock);
    open = c->even_closing || atomic_load(&p->state) == OPEN;
    if (open) {
        while (*at)
            at = &(*at)->next;
        *at = c;
        atomic_fetch_add(&p->asked, 1);
    }
    pthread_mutex_unlock(&p->calls_lock);
    if (!open)
        return kai_command_refuse(&c->base, KA_CLOSED);
    kai_wake_notify(&p->worker.wake);
    return &c->base;
}

void kai_call_background(ka_producer *p, call *c)
{
    if (c)
        ka_command_release(kai_call_submit(p, c));
}

void kai_calls_close(ka_producer *p)
{
    pthread_mutex_lock(&p->calls_lock);
    for (call *c = p->calls; c; c = c->next)
        kai_command_answer(&c->base, KA_CLOSED, 0, NULL);
    pthread_mutex_unlock(&p->calls_lock);
}

void kai_calls_end(ka_producer *p)
{
    call *c;

    do {
        /* A caller that found the producer open may still be putting its call there. */
        pthread_mutex_lock(&p->calls_lock);
        c = p->calls;
        pthread_mutex_unlock(&p->calls_lock);
        if (c)
            kai_call_finish(c, KA_CLOSED, 0, NULL);
    } while (c);
}

/* The oldest that the worker has not started. */
static call *next_call(ka_producer *p)
{
    call *c;

    if (atomic_load(&p->asked) == 0)
        return NULL;
    pthread_mutex_lock(&p->calls_lock);
    for (c = p->calls; c && c->started; c = c->next)
        continue;
    pthread_mutex_unlock(&p->calls_lock);
    return c;
}

/* Asked for before the producer began to close, and not started since. */
static int is_void(ka_producer *p, const call *c)
{
    return atomic_load(&p->state) != OPEN && !c->even_closing;
}

static void start_call(ka_producer *p, call *c)
{
    int refused = is_void(p, c);

    c->started = 1;
    atomic_fetch_sub(&p->asked, 1);
    if (refused || kai_control_submit(&p->control, &c->job) != 0)
        kai_call_finish(c, refused ? KA_CLOSED : KA_NOMEM, 0, NULL);
}

int kai_serve_calls(ka_producer *p)
{
    int served = kai_finish_purge(p);
    call *c;

    while ((c = next_call(p)) && (is_void(p, c) || !c->is_ready || c->is_ready(p, c))) {
        start_call(p, c);
        served = 1;
    }
    return served;
}
