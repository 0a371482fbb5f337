/* The consumer's offsets: what is stored for auto-commit, and what the application commits. */
#include <stdio.h>
#include <syslog.h>

#include "ka_consumer.h"

enum {
    STALE_MEMBER_EPOCH = 113, /* librdkafka 2.0.2 has no name for it */
    TRIES = 5,
};

void kai_offsets_store(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *list;
    partition *p;

    if (!c->options.store_offsets)
        return;
    list = rd_kafka_topic_partition_list_new(16);
    pthread_mutex_lock(&c->lock);
    for (place at = {0}; (p = kai_partition_next(c, &at, 1));) {
        if (p->processed == p->stored)
            continue;
        rd_kafka_topic_partition_list_add(list, p->topic, p->number)->offset = p->processed;
        p->stored = p->processed;
    }
    pthread_mutex_unlock(&c->lock);
    if (list->cnt)
        rd_kafka_offsets_store(c->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    c->stored_ns = kai_now_ns();
}

void kai_offsets_forget(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_copy(list);

    for (int i = 0; i < none->cnt; i++)
        none->elems[i].offset = RD_KAFKA_OFFSET_INVALID;
    rd_kafka_offsets_store(c->rk, none);
    rd_kafka_topic_partition_list_destroy(none);
}

/* Runs on the worker. A coordinator that is away fails every commit: that is told once, and its end; when
 * closing, there is no next one. */
void kai_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                   rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
    ka_consumer *c = opaque;
    char text[256];

    (void)rk, (void)offsets;
    if (code == RD_KAFKA_RESP_ERR__NO_OFFSET ||
        (code == c->commit_code && !(code && atomic_load(&c->state) == CLOSING)))
        return;
    c->commit_code = code;
    snprintf(text, sizeof text, "%s: what was processed since the last commit may be seen again",
             rd_kafka_err2str(code));
    if (code)
        kai_consumer_log(c, LOG_ERR, "COMMIT", text);
    else
        kai_consumer_log(c, LOG_INFO, "COMMIT", "commits succeed again");
}

int ka_consumer_store(ka_consumer *c, const ka_partition *next)
{
    partition *p;

    if (kai_consumer_is_foreign(c))
        return KA_FORKED;
    pthread_mutex_lock(&c->lock);
    p = kai_partition_told(c, next->topic, next->partition);
    if (p) {
        kai_block_settle(c, 0); /* else it would go back to a row before */
        p->processed = p->marked = next->offset;
    }
    pthread_mutex_unlock(&c->lock);
    if (!p)
        return KA_INVALID;
    if (c->options.store_offsets && !atomic_exchange(&c->unstored, 1))
        kai_wake_notify(&c->worker.wake);
    return KA_OK;
}

/* What the application has had of each partition, or said that it is done with. */
static void list_positions(ka_consumer *c, rd_kafka_topic_partition_list_t *list)
{
    partition *p;

    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, 0);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));) {
        int64_t offset = p->marked == KA_OFFSET_NONE ? p->position : p->marked;
        if (offset != KA_OFFSET_NONE)
            rd_kafka_topic_partition_list_add(list, p->topic, p->number)->offset = offset;
    }
    pthread_mutex_unlock(&c->lock);
}

static void list_answers(rd_kafka_topic_partition_list_t *list,
                         const rd_kafka_topic_partition_list_t *answers, rd_kafka_resp_err_t *code)
{
    for (int i = 0; i < answers->cnt; i++) {
        const rd_kafka_topic_partition_t *answer = &answers->elems[i];
        rd_kafka_topic_partition_t *item =
            rd_kafka_topic_partition_list_find(list, answer->topic, answer->partition);
        if (item)
            item->err = answer->err;
        if (answer->err && !*code)
            *code = answer->err;
    }
}

static void end_commit(consumer_command *command, rd_kafka_resp_err_t code)
{
    ka_consumer *c = command->c;

    if (c->first_commit == command) {
        c->first_commit = command->next_commit;
        c->committing = 0;
    }
    kai_command_close(command, code);
}

/* Callback of librdkafka, on the worker. */
static void on_answer(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                      rd_kafka_topic_partition_list_t *offsets, void *opaque)
{
    consumer_command *command = opaque;
    ka_consumer *c = command->c;

    if (offsets)
        list_answers(command->list, offsets, &code);
    /* It crossed a heartbeat that gave us the next epoch, whose answer came before this one. */
    if ((int)code == STALE_MEMBER_EPOCH && atomic_load(&c->state) == OPEN &&
        command->tries++ < TRIES &&
        !rd_kafka_commit_queue(rk, command->list, c->events, on_answer, command))
        return;
    end_commit(command, code);
}

static void begin_commit(consumer_command *command)
{
    ka_consumer *c = command->c;
    rd_kafka_resp_err_t code =
        rd_kafka_commit_queue(c->rk, command->list, c->events, on_answer, command);

    if (code)
        end_commit(command, code);
}

/* One at a time: librdkafka keeps those back that it gets before it knows the group's coordinator, and
 * lets later ones pass, so that an old offset would replace a new one. */
int kai_commits_serve(ka_consumer *c)
{
    int n = 0;

    for (; c->first_commit && !c->committing; n++) {
        c->committing = 1;
        begin_commit(c->first_commit);
    }
    return n;
}

void kai_commits_hurry(ka_consumer *c)
{
    consumer_command *command = c->first_commit, *next;

    if (command && c->committing)
        command = command->next_commit;
    c->first_commit = NULL;
    for (; command; command = next) {
        next = command->next_commit;
        begin_commit(command);
    }
}

/* Also while the application is told of a loss, when the next assignment may be there. Under lock. */
static int is_forfeited(const ka_consumer *c)
{
    const rebalance *r = c->first_rebalance;

    return c->forfeited || (r && r->state == SHOWN && r->kind == KA_ON_LOST);
}

static int run_commit(consumer_command *command)
{
    ka_consumer *c = command->c;
    consumer_command **at = &c->first_commit;
    int forfeited;

    pthread_mutex_lock(&c->lock);
    forfeited = is_forfeited(c);
    pthread_mutex_unlock(&c->lock);
    if (forfeited)
        return RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST;
    if (command->no_list)
        list_positions(c, command->list);
    if (command->list->cnt == 0)
        return KA_OK;
    while (*at)
        at = &(*at)->next_commit;
    *at = command;
    return LATER;
}

ka_command *ka_consumer_commit(ka_consumer *c, const ka_partition *partitions, int64_t count,
                               int patient)
{
    consumer_command *command = kai_command_new(c, run_commit, partitions, count);

    if (command) {
        command->no_list = !partitions;
        command->patient = patient;
    }
    return kai_command_submit(command);
}
