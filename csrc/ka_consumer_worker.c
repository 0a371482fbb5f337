/* The consumer's worker: what it does when, and its end. */
#include <syslog.h>

#include "ka_consumer.h"

static const int64_t STORE_NS = 100000000; /* well below auto.commit.interval.ms */
static const int64_t TICK_NS = 1000000000; /* librdkafka wants to be polled now and then */

static void close_down(ka_consumer *c)
{
    kai_commands_refuse(c);
    kai_control_join(&c->control);
    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, atomic_load(&c->store_last));
    pthread_mutex_unlock(&c->lock);
    kai_commits_hurry(c);
    kai_rebalances_drop(c);
    kai_offsets_store(c);
    kai_sasl_close(&c->sasl); /* what librdkafka does from here on, this thread waits for */
    rd_kafka_queue_cb_event_enable(c->events, NULL, NULL);
    rd_kafka_queue_cb_event_enable(c->messages, NULL, NULL);
    rd_kafka_queue_destroy(c->events);
    rd_kafka_queue_destroy(c->messages);
    c->cooperative = kai_protocol_is(c, "COOPERATIVE");
    /* Else a subscription that waits for the end of a rebalance comes into force while librdkafka closes, and
     * fails an assertion of its. */
    rd_kafka_unsubscribe(c->rk);
    rd_kafka_consumer_close(c->rk);
    kai_commands_end(c);
    rd_kafka_set_log_level(c->rk, LOG_EMERG); /* how its threads end is nobody's concern */
    atomic_store(&c->state, CLOSED_DOWN);
    kai_wake_notify(&c->ready);
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t kai_consumer_step(void *self)
{
    ka_consumer *c = self;
    int64_t now, next;

    if (atomic_load(&c->state) == CLOSING) {
        close_down(c);
        return KAI_STEP_END;
    }
    if (kai_rebalances_serve(c) + kai_commands_run(c) + kai_receive(c) + kai_discover(c) +
        kai_commits_serve(c) + kai_tell_trouble(c) + kai_sasl_serve(&c->sasl, c->rk))
        return KAI_STEP_AGAIN;
    now = kai_now_ns();
    next = sooner(sooner(kai_nudge(c), kai_seek_all(c, now)),
                  sooner(kai_liveness_serve(c, now), now + TICK_NS));
    if (atomic_load(&c->unstored)) {
        if (now >= c->stored_ns + STORE_NS) {
            pthread_mutex_lock(&c->lock);
            kai_block_settle(c, 0);
            /* Rows that Python has yet to hand out need another look. */
            if (word_load(&c->block.handed) == c->block.count)
                atomic_store(&c->unstored, 0);
            pthread_mutex_unlock(&c->lock);
            kai_offsets_store(c);
        }
        if (c->stored_ns + STORE_NS < next)
            next = c->stored_ns + STORE_NS;
    }
    if (c->wanted_count && atomic_load(&c->lookup) == LOOKUP_IDLE && c->discover_ns < next)
        next = c->discover_ns;
    return next;
}

/* librdkafka before 2.3 fails an assertion when it destroys a cooperative member that never had an assignment. */
static int must_not_be_destroyed(const ka_consumer *c)
{
    return !c->was_given && rd_kafka_version() < 0x02030000 && c->cooperative;
}

/* The worker's last act; nobody waits for it. */
void kai_consumer_end(void *self)
{
    ka_consumer *c = self;

    if (must_not_be_destroyed(c))
        kai_consumer_log(
            c, LOG_WARNING, "CLOSE",
            "it has left its group before it had an assignment; its idle threads stay, "
            "since this librdkafka would abort the process: 2.3 or later does not");
    else
        rd_kafka_destroy(c->rk);
    kai_consumer_unreference(c);
}
