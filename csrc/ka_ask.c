/* What the cluster is asked on behalf of the consumer's callers. The control thread asks, since librdkafka waits
 * for the answer, in slices: the end of the consumer has to wait for one of them at most. Each is longer than the one
 * before, whose answer is not listened to any more: a cluster may be slow. */
#include <stddef.h>
#include <string.h>

#include "ka_consumer.h"
#include "ka_group.h"

enum { SLICE_MS = 1000, MOST_SLICE_MS = 4000 };

static int is_passing(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR__TIMED_OUT || code == RD_KAFKA_RESP_ERR__TRANSPORT ||
           code == RD_KAFKA_RESP_ERR__WAIT_COORD || code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
}

/* The first error of a partition, where there is none of the whole. */
static rd_kafka_resp_err_t first_error(const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++)
        if (list->elems[i].err)
            return list->elems[i].err;
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Runs on the control thread. */
static void run_ask(kai_job *job)
{
    consumer_command *command =
        (consumer_command *)(void *)((char *)job - offsetof(consumer_command, job));
    rd_kafka_resp_err_t code;
    ka_error error;
    int64_t left_ms;
    int slice_ms;

    for (slice_ms = SLICE_MS;; slice_ms = slice_ms < MOST_SLICE_MS ? 2 * slice_ms : slice_ms) {
        left_ms = (command->deadline_ns - kai_now_ns()) / 1000000 + 1;
        code = command->ask(command, left_ms > slice_ms ? slice_ms
                                     : left_ms > 0      ? (int)left_ms
                                                        : 1);
        if (!is_passing(code) || left_ms <= slice_ms || atomic_load(&command->c->state) != OPEN)
            break;
        if (kai_trouble_is_final(&command->c->trouble, &error)) {
            kai_command_close(command, error.code, error.text);
            return;
        }
    }
    kai_command_close(command, code, NULL);
}

static int run_on_control(consumer_command *command)
{
    command->job.run = run_ask;
    return kai_control_submit(&command->c->control, &command->job) == 0 ? LATER : KA_NOMEM;
}

static rd_kafka_resp_err_t ask_committed(consumer_command *command, int timeout_ms)
{
    rd_kafka_resp_err_t code = rd_kafka_committed(command->c->rk, command->list, timeout_ms);

    return code ? code : first_error(command->list);
}

/* The answers' errors, so that the caller is told of which partition one is. */
static void set_errors(rd_kafka_topic_partition_list_t *list,
                       const rd_kafka_topic_partition_list_t *answers)
{
    for (int i = 0; i < list->cnt; i++)
        list->elems[i].err = answers ? answers->elems[i].err : RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t ask_times(consumer_command *command, int timeout_ms)
{
    rd_kafka_topic_partition_list_t *list;
    rd_kafka_resp_err_t code;

    if (command->list->cnt == 0)
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    set_errors(command->list, NULL); /* of the slice before */
    list = rd_kafka_topic_partition_list_copy(command->list);
    code = rd_kafka_offsets_for_times(command->c->rk, list, timeout_ms);
    if (!code)
        code = first_error(list);
    if (code) { /* the question stays for another slice */
        set_errors(command->list, list);
        rd_kafka_topic_partition_list_destroy(list);
        return code;
    }
    rd_kafka_topic_partition_list_destroy(command->list);
    command->list = list;
    return code;
}

/* The list holds the partition twice, for the two offsets, which are asked for as times: librdkafka's own call
 * for them keeps no timeout. */
static rd_kafka_resp_err_t ask_watermarks(consumer_command *command, int timeout_ms)
{
    static const int64_t ends[] = {KA_OFFSET_BEGINNING, KA_OFFSET_END};
    rd_kafka_topic_partition_list_t *both = command->list;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    for (int i = 0; i < 2 && !code; i++) {
        command->list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(command->list, both->elems->topic, both->elems->partition)
            ->offset = ends[i];
        code = ask_times(command, timeout_ms);
        both->elems[i].offset = command->list->elems->offset;
        both->elems[i].err = command->list->elems->err;
        rd_kafka_topic_partition_list_destroy(command->list);
    }
    command->list = both;
    return code;
}

static void list_told(consumer_command *command, int64_t offset)
{
    ka_consumer *c = command->c;
    const partition *p;

    pthread_mutex_lock(&c->lock);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));)
        rd_kafka_topic_partition_list_add(command->list, p->topic, p->number)->offset = offset;
    pthread_mutex_unlock(&c->lock);
}

/* From ends to lags: what is left out has no end, or we don't know where we are. */
static void subtract_positions(consumer_command *command)
{
    rd_kafka_topic_partition_list_t *list = command->list;
    ka_consumer *c = command->c;

    pthread_mutex_lock(&c->lock);
    kai_block_settle(c, 0);
    for (int i = list->cnt - 1; i >= 0; i--) {
        rd_kafka_topic_partition_t *item = &list->elems[i];
        const partition *p = kai_partition_told(c, item->topic, item->partition);
        int64_t at = p ? kai_partition_next_offset(p) : KA_OFFSET_NONE;
        if (at < 0 || item->offset < 0)
            rd_kafka_topic_partition_list_del_by_idx(list, i);
        else
            item->offset = item->offset > at ? item->offset - at : 0;
    }
    pthread_mutex_unlock(&c->lock);
}

static rd_kafka_resp_err_t ask_lag(consumer_command *command, int timeout_ms)
{
    rd_kafka_resp_err_t code;

    if (command->list->cnt == 0)
        list_told(command, KA_OFFSET_END); /* as a time: the end */
    code = ask_times(command, timeout_ms);
    if (!code)
        subtract_positions(command);
    return code;
}

ka_command *ka_consumer_ask(ka_consumer *c, int what, const ka_partition *partitions, int64_t count,
                            int64_t timeout_us)
{
    static rd_kafka_resp_err_t (*const asks[])(consumer_command *, int) = {ask_committed, ask_times,
                                                                           ask_watermarks, ask_lag};
    consumer_command *command = kai_command_new(c, run_on_control, partitions, count);

    if (!command)
        return NULL;
    if (what == KA_ASK_WATERMARKS)
        rd_kafka_topic_partition_list_add(command->list, partitions->topic, partitions->partition);
    command->ask = asks[what];
    command->deadline_ns = kai_deadline_ns(timeout_us);
    return kai_command_submit(command);
}

/* As of the last fetch. librdkafka tells it without asking anybody. */
static int run_lag(consumer_command *command)
{
    list_told(command, KA_OFFSET_NONE);
    for (int i = 0; i < command->list->cnt; i++) {
        rd_kafka_topic_partition_t *item = &command->list->elems[i];
        int64_t low, high;
        if (!rd_kafka_get_watermark_offsets(command->c->rk, item->topic, item->partition, &low,
                                            &high))
            item->offset = high;
    }
    subtract_positions(command);
    return KA_OK;
}

ka_command *ka_consumer_lag(ka_consumer *c)
{
    return kai_command_submit(kai_command_new(c, run_lag, NULL, 0));
}

/* Waits for librdkafka's main thread. */
static rd_kafka_resp_err_t find_group(consumer_command *command, int timeout_ms)
{
    (void)timeout_ms;
    command->group = rd_kafka_consumer_group_metadata(command->c->rk);
    return command->group ? RD_KAFKA_RESP_ERR_NO_ERROR : RD_KAFKA_RESP_ERR__UNKNOWN_GROUP;
}

ka_command *ka_consumer_group(ka_consumer *c)
{
    consumer_command *command = kai_command_new(c, run_on_control, NULL, 0);

    if (command)
        command->ask = find_group;
    return kai_command_submit(command);
}

rd_kafka_consumer_group_metadata_t *kai_group_take(ka_command *command)
{
    consumer_command *found = (consumer_command *)command;
    rd_kafka_consumer_group_metadata_t *group = found->group;

    found->group = NULL;
    return group;
}
