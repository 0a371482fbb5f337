/* The group's part of the consumer: what it gives and takes back, callbacks of the application about that, and
 * an application that does not poll.
 *
 * A rebalance that the application is to see goes through three hands. The worker puts it down (FRESH) and
 * makes the polling thread look. That thread takes it (SHOWN; of what is taken back nothing more is
 * handed out from then on), runs the callback, and reports back (DONE). The worker then completes it with
 * librdkafka, which waits meanwhile: heartbeats go on, and so does reading what is not concerned.
 * A loss is completed at once and told later: there is nothing left to save.
 */
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "ka_consumer.h"
#include "ka_err.h"

static const int64_t LOOK_NS = 200000000;  /* between looks at rows that are yet to be handed out */
static const int64_t REJOIN_NS = 10000000; /* leaving takes that long */

/* ---------------------------------------------------------------- with librdkafka */

static void give(ka_consumer *c, const rd_kafka_topic_partition_list_t *list, int incremental)
{
    if (incremental)
        kai_consumer_log_error(c, "ASSIGN", rd_kafka_incremental_assign(c->rk, list));
    else if (rd_kafka_assign(c->rk, list))
        kai_consumer_log(c, LOG_ERR, "ASSIGN", rd_kafka_err2str(rd_kafka_last_error()));
    c->given = (incremental ? c->given : 0) + list->cnt;
    c->was_given = 1;
    c->changing = 0;
}

rd_kafka_resp_err_t kai_group_leave(ka_consumer *c)
{
    c->leave_due = c->changing;
    return c->changing ? RD_KAFKA_RESP_ERR_NO_ERROR : rd_kafka_unsubscribe(c->rk);
}

/* As unsubscribing, but with no word to the group, which waits for the session's end as with Java's client. The
 * subscription matches no topic, so librdkafka neither joins nor sends heartbeats; it is seen in the log. */
static void fall_silent(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(none, "^none: the application does not poll$",
                                      RD_KAFKA_PARTITION_UA);
    rd_kafka_subscribe(c->rk, none);
    rd_kafka_topic_partition_list_destroy(none);
}

static void take_back(ka_consumer *c, const rd_kafka_topic_partition_list_t *list, int incremental)
{
    if (incremental)
        kai_consumer_log_error(c, "UNASSIGN", rd_kafka_incremental_unassign(c->rk, list));
    else
        rd_kafka_assign(c->rk, NULL);
    c->given = incremental ? c->given - list->cnt : 0;
}

static void assign(ka_consumer *c, rd_kafka_topic_partition_list_t *list, int incremental)
{
    rd_kafka_topic_partition_list_t *paused = rd_kafka_topic_partition_list_new(16);

    kai_partitions_adopt(c, list);
    give(c, list, incremental);
    pthread_mutex_lock(&c->lock);
    c->forfeited = 0;
    for (int i = 0; i < list->cnt; i++) {
        const partition *p = kai_partition_told(c, list->elems[i].topic, list->elems[i].partition);
        if (p && p->paused) /* by the callback */
            rd_kafka_topic_partition_list_add(paused, p->topic, p->number);
    }
    pthread_mutex_unlock(&c->lock);
    if (paused->cnt)
        rd_kafka_pause_partitions(c->rk, paused);
    rd_kafka_topic_partition_list_destroy(paused);
}

static void revoke(ka_consumer *c, const rd_kafka_topic_partition_list_t *list, int incremental)
{
    kai_partitions_abandon(c, list);
    take_back(c, list, incremental);
}

/* ---------------------------------------------------------------- with the application */

/* Under lock. */
static void announce(ka_consumer *c)
{
    int due = c->first_rebalance && c->first_rebalance->state == FRESH;

    atomic_store(&c->due, due);
    if (due)
        kai_block_invalidate(c); /* so that the polling thread looks */
}

/* Have what is needed to tell the application of these. librdkafka waits for us meanwhile. NULL: it can't be
 * told any more. */
static rebalance *prepare(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    rebalance *r = NULL;

    while (!kai_partitions_prepare(c, list) || !(r = calloc(1, sizeof *r)))
        if (!kai_await_memory(c))
            return NULL;
    return r;
}

/* 0: the application can't be told any more. */
static int put_down(ka_consumer *c, int kind, const rd_kafka_topic_partition_list_t *list,
                    int incremental, int complete)
{
    rebalance *r = prepare(c, list), **at;

    if (!r)
        return 0;
    r->kind = kind;
    r->list = rd_kafka_topic_partition_list_copy(list);
    r->incremental = incremental;
    r->complete = complete;
    pthread_mutex_lock(&c->lock);
    for (at = &c->first_rebalance; *at; at = &(*at)->next)
        continue;
    *at = r;
    announce(c);
    pthread_mutex_unlock(&c->lock);
    kai_wake_notify(&c->ready);
    return 1;
}

/* Take the one at *at off the list. */
static void take_off(ka_consumer *c, rebalance **at)
{
    rebalance *r;

    pthread_mutex_lock(&c->lock);
    r = *at;
    *at = r->next;
    announce(c);
    pthread_mutex_unlock(&c->lock);
    rd_kafka_topic_partition_list_destroy(r->list);
    free(r);
    kai_wake_notify(&c->ready);
}

static void complete(ka_consumer *c, rebalance *r)
{
    if (r->complete)
        return;
    r->complete = 1;
    if (r->kind == KA_ON_ASSIGN)
        assign(c, r->list, r->incremental);
    else
        revoke(c, r->list, r->incremental);
}

static int state_of_first(ka_consumer *c)
{
    int state;

    pthread_mutex_lock(&c->lock);
    state = c->first_rebalance ? c->first_rebalance->state : -1;
    pthread_mutex_unlock(&c->lock);
    return state;
}

int kai_rebalances_serve(ka_consumer *c)
{
    if (state_of_first(c) != DONE)
        return 0;
    complete(c, c->first_rebalance);
    take_off(c, &c->first_rebalance);
    return 1;
}

/* What the application has not looked at, it need not any more; but what it lost it is told. */
static void drop_unseen(ka_consumer *c)
{
    for (rebalance **at = &c->first_rebalance; *at;)
        if ((*at)->state == FRESH && (*at)->kind != KA_ON_LOST)
            take_off(c, at);
        else
            at = &(*at)->next;
}

void kai_rebalances_drop(ka_consumer *c)
{
    for (rebalance *r = c->first_rebalance; r; r = r->next) {
        if (r->kind == KA_ON_ASSIGN && !r->complete) {
            give(c, r->list, r->incremental); /* librdkafka waits for it; nobody reads them */
            r->complete = 1;
        }
        complete(c, r);
    }
    drop_unseen(c);
}

void kai_rebalances_free(ka_consumer *c)
{
    while (c->first_rebalance)
        take_off(c, &c->first_rebalance);
}

int kai_rebalance_show(ka_consumer *c)
{
    rebalance *r = c->first_rebalance;

    if (!r || r->state == DONE)
        return 0;
    r->state = SHOWN;
    atomic_store(&c->due, 0);
    for (int i = 0; i < r->list->cnt; i++) {
        rd_kafka_topic_partition_t *item = &r->list->elems[i];
        partition *p = kai_partition_at(c, item->topic, item->partition);
        if (r->kind == KA_ON_ASSIGN) {
            p->told = 1;
            p->leaving = p->paused = p->sought = 0;
            p->begin = p->position = p->processed = p->marked = KA_OFFSET_NONE;
        } else if (!r->complete) {
            p->leaving = 1;
            item->offset = p->position;
        }
    }
    return 1;
}

int64_t ka_consumer_rebalance(ka_consumer *c, int32_t *kind, ka_partition *out, int64_t size)
{
    const rebalance *r;
    int64_t n = 0;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock);
    r = c->first_rebalance;
    if (r && r->kind == KA_ON_LOST && atomic_load(&c->retired))
        kai_rebalance_show(c); /* no poll will */
    *kind = 0;
    if (r && r->state == SHOWN) {
        *kind = r->kind;
        n = r->list->cnt;
        for (int64_t i = 0; i < n && i < size; i++)
            out[i] = (ka_partition){.topic = r->list->elems[i].topic,
                                    .partition = r->list->elems[i].partition,
                                    .offset = r->kind == KA_ON_ASSIGN ? KA_OFFSET_NONE
                                                                      : r->list->elems[i].offset};
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

void ka_consumer_rebalanced(ka_consumer *c)
{
    rebalance *r;

    if (kai_consumer_is_foreign(c))
        return;
    pthread_mutex_lock(&c->lock);
    r = c->first_rebalance;
    if (r && r->state == SHOWN) {
        r->state = DONE;
        for (int i = 0; r->kind == KA_ON_REVOKE && !r->complete && i < r->list->cnt; i++)
            kai_partition_at(c, r->list->elems[i].topic, r->list->elems[i].partition)->told = 0;
    }
    pthread_mutex_unlock(&c->lock);
    atomic_store(&c->polled_ns, kai_now_ns());
    kai_wake_notify(&c->worker.wake);
}

int ka_consumer_retire(ka_consumer *c, int store_last, int closing)
{
    partition *p;
    int open;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock);
    open = atomic_load(&c->state) == OPEN && !atomic_load(&c->retired);
    if (open) {
        kai_block_invalidate(c);
        kai_block_settle(c, store_last);
        for (place at = {0}; (p = kai_partition_next(c, &at, 0));) {
            p->leaving = 1;
            if (!store_last)
                p->position = p->processed;
        }
        atomic_store(&c->retired, closing);
    }
    pthread_mutex_unlock(&c->lock);
    kai_wake_notify(&c->ready);
    return open ? KA_OK : KA_CLOSED;
}

/* ---------------------------------------------------------------- what the group says */

/* Those of the list that the application has, at our positions. */
static rd_kafka_topic_partition_list_t *told_of(ka_consumer *c,
                                                const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *told = rd_kafka_topic_partition_list_new(16);
    const partition *p;

    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, 0);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));)
        if (!p->leaving && (!list || rd_kafka_topic_partition_list_find(list, p->topic, p->number)))
            rd_kafka_topic_partition_list_add(told, p->topic, p->number)->offset = p->position;
    pthread_mutex_unlock(&c->lock);
    return told;
}

/* They are gone: tell the application. */
static void forfeit(ka_consumer *c, const rd_kafka_topic_partition_list_t *told)
{
    pthread_mutex_lock(&c->lock);
    c->forfeited = 1;
    pthread_mutex_unlock(&c->lock);
    if (told->cnt && c->options.callbacks & KA_ON_LOST)
        put_down(c, KA_ON_LOST, told, 0, 1);
}

/* Whether the application is there to be told. */
static int is_member(ka_consumer *c)
{
    return atomic_load(&c->state) == OPEN && c->subscription && !atomic_load(&c->expelled) &&
           !atomic_load(&c->retired);
}

/* The group has taken everything back: what was put down before is not to be completed, and what the application
 * does not look at yet is not to be told. */
static void supersede(ka_consumer *c)
{
    for (rebalance *r = c->first_rebalance; r; r = r->next)
        r->complete = 1;
    drop_unseen(c);
}

/* As librdkafka decides. */
static int matches(const char *subscribed, const char *name)
{
    regex_t pattern;
    int found;

    if (*subscribed != '^')
        return strcmp(subscribed, name) == 0;
    if (regcomp(&pattern, subscribed, REG_EXTENDED | REG_NOSUB) != 0)
        return 1; /* librdkafka could: there is no memory, so what it says stands */
    found = regexec(&pattern, name, 0, NULL, 0) == 0;
    regfree(&pattern);
    return found;
}

/* Whether the application has subscribed to other topics than these. */
static int is_dropped(const ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++)
        for (int k = 0; k < c->subscription->cnt; k++)
            if (matches(c->subscription->elems[k].topic, list->elems[i].topic))
                return 0;
    return 1;
}

/* librdkafka calls lost, too, what a cooperative member gives up for topics that were not known yet when it subscribed
 * to them, and unless it leads the group, does not join for them: only if it is told again. */
static int is_lost(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    if (!rd_kafka_assignment_lost(c->rk))
        return 0;
    if (!is_member(c) || !is_dropped(c, list))
        return 1;
    rd_kafka_subscribe(c->rk, c->subscription);
    return 0;
}

static void on_assign(ka_consumer *c, rd_kafka_topic_partition_list_t *list, int incremental)
{
    int tells = c->options.callbacks & KA_ON_ASSIGN, member = is_member(c);

    if (member && tells)
        member = put_down(c, KA_ON_ASSIGN, list, incremental, 0);
    while (member && !tells && !kai_partitions_prepare(c, list))
        member = kai_await_memory(c);
    if (!member)
        give(c, list, incremental); /* it is taken back soon */
    else if (!tells)
        assign(c, list, incremental);
}

static void on_revoke(ka_consumer *c, const rd_kafka_topic_partition_list_t *list, int incremental)
{
    rd_kafka_topic_partition_list_t *told = told_of(c, list);
    int seen = is_member(c) && told->cnt, lost = is_lost(c, list);

    c->revoke_due = 0;
    c->changing = c->in_steps && is_member(c) && !lost;
    if (lost) {
        supersede(c);
        kai_partitions_abandon(c, list);
        kai_offsets_forget(c, list);
        if (seen)
            forfeit(c, told);
        take_back(c, list, incremental);
    } else if (!seen || !(c->options.callbacks & KA_ON_REVOKE) ||
               !put_down(c, KA_ON_REVOKE, list, incremental, 0)) {
        revoke(c, list, incremental);
    }
    rd_kafka_topic_partition_list_destroy(told);
}

void kai_on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                      rd_kafka_topic_partition_list_t *list, void *opaque)
{
    ka_consumer *c = opaque;
    int incremental = kai_protocol_is(c, "COOPERATIVE");

    (void)rk;
    /* Else a cooperative member goes back to its heartbeats after this one. */
    if (c->keeps_quiet && atomic_load(&c->expelled))
        fall_silent(c);
    if (code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assign(c, list, incremental);
    else
        on_revoke(c, list, incremental);
    if (c->leave_due)
        kai_group_leave(c);
}

/* ---------------------------------------------------------------- an application that does not poll */

/* librdkafka would see to that, did the worker not poll it all the time. */
static void expel(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *told = told_of(c, NULL);
    int missed = told->cnt || state_of_first(c) == SHOWN; /* or it is stuck in a callback */
    ka_error error;

    kai_rebalances_drop(c);
    kai_partitions_abandon(c, NULL);
    forfeit(c, told);
    rd_kafka_topic_partition_list_destroy(told);
    atomic_store(&c->expelled, 1);
    if (c->keeps_quiet)
        fall_silent(c);
    else
        kai_group_leave(c);
    if (!missed)
        return;
    kai_err_set(&error, RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED, NULL);
    snprintf(
        error.text, sizeof error.text,
        "no poll for more than max.poll.interval.ms (%d ms): other members take the partitions "
        "over; poll more often, or raise it",
        (int)(c->max_poll_ns / 1000000));
    kai_push_failure(c, NULL, KA_OFFSET_NONE, &error);
}

/* Since librdkafka is served all the time, we have left by now, or will within moments. */
static int64_t rejoin(ka_consumer *c, int64_t now)
{
    rd_kafka_resp_err_t code;

    if (!atomic_load(&c->returned))
        return KAI_FOREVER; /* a poll wakes the worker */
    if (c->given || c->leave_due)
        return now + REJOIN_NS;
    atomic_store(&c->returned, 0);
    atomic_store(&c->expelled, 0);
    code = rd_kafka_subscribe(c->rk, c->subscription);
    if (code)
        kai_report(c, NULL, KA_OFFSET_NONE, code, rd_kafka_err2str(code));
    return KAI_FOREVER;
}

int64_t kai_liveness_serve(ka_consumer *c, int64_t now)
{
    int64_t handed = word_load(&c->block.handed), due;

    if (!c->subscription)
        return KAI_FOREVER;
    if (atomic_load(&c->expelled))
        return rejoin(c, now);
    if (handed != c->handed_seen || atomic_load(&c->polling))
        atomic_store(&c->polled_ns, now);
    c->handed_seen = handed;
    due = atomic_load(&c->polled_ns) + c->max_poll_ns;
    if (now >= due) {
        expel(c);
        return KAI_FOREVER;
    }
    /* Rows are handed out without a call. */
    return handed < c->block.count && now + LOOK_NS < due ? now + LOOK_NS : due;
}
