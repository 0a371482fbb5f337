/* The consumer's worker: rebalances, commands, stored offsets, close. */
#include <string.h>
#include <syslog.h>

#include "ka_consumer.h"
#include "ka_err.h"

static const int64_t STORE_NS = 100000000; /* well below auto.commit.interval.ms */
static const int64_t TICK_NS = 1000000000; /* librdkafka wants to be polled now and then */

void kai_on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                      rd_kafka_topic_partition_list_t *list, void *opaque)
{
    ka_consumer *c = opaque;
    int cooperative = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;

    if (code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        kai_partitions_adopt(c, list);
        if (cooperative)
            kai_consumer_log_error(c, "ASSIGN", rd_kafka_incremental_assign(rk, list));
        else if (rd_kafka_assign(rk, list))
            kai_consumer_log(c, LOG_ERR, "ASSIGN", rd_kafka_err2str(rd_kafka_last_error()));
        return;
    }
    kai_partitions_abandon(c, cooperative ? list : NULL);
    if (cooperative)
        kai_consumer_log_error(c, "UNASSIGN", rd_kafka_incremental_unassign(rk, list));
    else
        rd_kafka_assign(rk, NULL);
}

void kai_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                   rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
    (void)rk, (void)offsets;
    if (code && code != RD_KAFKA_RESP_ERR__NO_OFFSET)
        kai_consumer_log(opaque, LOG_ERR, "COMMIT", rd_kafka_err2str(code));
}

/* Until librdkafka is done with the last change of the assignment: another one in the midst of its stopping
 * a partition fails an assertion of its (seen on 2.0.2). Stopping is a chain of messages to
 * its main thread, a request and an answer, so two round trips there come after it; one more for good
 * measure costs microseconds. */
static void settle_assignment(ka_consumer *c)
{
    for (int i = 0; i < 3; i++) {
        rd_kafka_topic_partition_list_t *list = NULL;

        if (rd_kafka_assignment(c->rk, &list) == RD_KAFKA_RESP_ERR_NO_ERROR && list)
            rd_kafka_topic_partition_list_destroy(list);
    }
}

static rd_kafka_resp_err_t run_subscribe(ka_consumer *c,
                                         const rd_kafka_topic_partition_list_t *list)
{
    kai_partitions_abandon(c, NULL);
    if (!c->options.group) {
        kai_wanted_set(c, list);
        return rd_kafka_assign(c->rk, NULL);
    }
    if (list->cnt == 0)
        return rd_kafka_unsubscribe(c->rk);
    return rd_kafka_subscribe(c->rk, list);
}

static rd_kafka_resp_err_t run_assign(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    kai_partitions_abandon(c, NULL);
    kai_wanted_set(c, NULL);
    kai_partitions_adopt(c, list);
    return rd_kafka_assign(c->rk, list);
}

/* These calls of librdkafka are answered by its main thread, which never waits for the network; they
 * must run between two polls, so that no message is taken for one of another assignment. */
static int run_commands(ka_consumer *c)
{
    consumer_command *command, *next;

    if (atomic_load(&c->lookup) == LOOKUP_RUNNING) /* it has `wanted` */
        return 0;
    pthread_mutex_lock(&c->lock);
    command = c->first_command;
    c->first_command = NULL;
    c->last_command = &c->first_command;
    pthread_mutex_unlock(&c->lock);
    if (!command)
        return 0;
    for (; command; command = next) {
        rd_kafka_resp_err_t code;
        ka_error error;

        next = command->next;
        if (command->kind == GROUP) {
            kai_group_find(c, command);
            continue;
        }
        atomic_store(&c->lookup, LOOKUP_IDLE); /* a result not used yet is of another time */
        code = command->kind == ASSIGN ? run_assign(c, command->list)
                                       : run_subscribe(c, command->list);
        if (code)
            kai_partitions_abandon(c, NULL); /* nothing is read after a refusal */
        settle_assignment(c);
        kai_command_answer(&command->base, code ? kai_err_set(&error, code, NULL) : KA_OK, 0,
                           code ? &error : NULL);
        kai_command_unreference(&command->base);
    }
    return 1;
}

static void close_down(ka_consumer *c)
{
    consumer_command *command, *next;

    kai_control_join(&c->control);
    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, atomic_load(&c->store_last));
    command = c->first_command;
    c->first_command = NULL;
    pthread_mutex_unlock(&c->lock);
    for (; command; command = next) {
        next = command->next;
        kai_command_refuse(&command->base, KA_CLOSED);
    }
    kai_offsets_store(c);
    rd_kafka_queue_cb_event_enable(c->events, NULL, NULL);
    rd_kafka_queue_cb_event_enable(c->messages, NULL, NULL);
    rd_kafka_queue_destroy(c->events);
    rd_kafka_queue_destroy(c->messages);
    rd_kafka_consumer_close(c->rk);
    rd_kafka_set_log_level(c->rk, LOG_EMERG); /* how its threads end is nobody's concern */
    atomic_store(&c->state, CLOSED_DOWN);
    kai_wake_notify(&c->ready);
}

int64_t kai_consumer_step(void *self)
{
    ka_consumer *c = self;
    int64_t now, next;

    if (atomic_load(&c->state) == CLOSING) {
        close_down(c);
        return KAI_STEP_END;
    }
    if (run_commands(c) + kai_receive(c) + kai_discover(c))
        return KAI_STEP_AGAIN;
    now = kai_now_ns();
    next = kai_nudge(c);
    if (next > now + TICK_NS)
        next = now + TICK_NS;
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

/* The worker's last act; nobody waits for it. */
void kai_consumer_end(void *self)
{
    ka_consumer *c = self;

    rd_kafka_destroy(c->rk);
    kai_consumer_unreference(c);
}
