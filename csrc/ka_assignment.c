/* What the consumer reads, and from where. Its calls of librdkafka are answered by librdkafka's main thread, which
 * never waits for the network. They run on the worker between two polls, so that no message is taken
 * for one of another assignment. */
#include <string.h>

#include "ka_consumer.h"

enum { SEEK_TIMEOUT_MS = 1000 }; /* librdkafka's main thread answers at once unless it is broken */

static const int64_t SEEK_AGAIN_NS = 10000000;

/* Another change in the midst of librdkafka's stopping a partition fails an assertion of its (seen on 2.0.2).
 * Stopping is a chain of messages to its main thread, a request and an answer, so two round trips there
 * come after it; one more for good measure costs microseconds. */
static void settle_assignment(ka_consumer *c)
{
    for (int i = 0; i < 3; i++) {
        rd_kafka_topic_partition_list_t *list = NULL;

        if (rd_kafka_assignment(c->rk, &list) == RD_KAFKA_RESP_ERR_NO_ERROR && list)
            rd_kafka_topic_partition_list_destroy(list);
    }
}

static rd_kafka_resp_err_t code_of(rd_kafka_error_t *error)
{
    rd_kafka_resp_err_t code = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;

    rd_kafka_error_destroy(error);
    return code;
}

int kai_protocol_is(const ka_consumer *c, const char *name)
{
    const char *protocol = rd_kafka_rebalance_protocol(c->rk); /* NULL: it is closed */

    return protocol && strcmp(protocol, name) == 0;
}

static rd_kafka_resp_err_t replace_step_by_step(ka_consumer *c,
                                                const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *old = NULL;
    rd_kafka_resp_err_t code = rd_kafka_assignment(c->rk, &old);

    if (!code && old->cnt)
        code = code_of(rd_kafka_incremental_unassign(c->rk, old));
    settle_assignment(c);
    if (!code && list->cnt)
        code = code_of(rd_kafka_incremental_assign(c->rk, list));
    if (old)
        rd_kafka_topic_partition_list_destroy(old);
    return code;
}

/* Have librdkafka read exactly these. Once a group was cooperative, it takes steps only, and once one was
 * eager, it takes no steps. */
static rd_kafka_resp_err_t replace_all(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_resp_err_t code = kai_protocol_is(c, "COOPERATIVE") ? replace_step_by_step(c, list)
                                                                 : rd_kafka_assign(c->rk, list);

    settle_assignment(c);
    return code;
}

static void read_nothing(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_new(0);

    kai_partitions_abandon(c, NULL);
    replace_all(c, none);
    rd_kafka_topic_partition_list_destroy(none);
}

/* ---------------------------------------------------------------- topics */

static void set_subscription(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    if (c->subscription)
        rd_kafka_topic_partition_list_destroy(c->subscription);
    c->subscription = list->cnt ? rd_kafka_topic_partition_list_copy(list) : NULL;
    atomic_store(&c->expelled, 0);
    atomic_store(&c->returned, 0);
    atomic_store(&c->polled_ns, kai_now_ns());
}

static rd_kafka_resp_err_t leave_group(ka_consumer *c)
{
    kai_rebalances_drop(c);
    c->revoke_due = c->given > 0;
    kai_partitions_abandon(c, NULL);
    return kai_group_leave(c);
}

static int run_subscribe(consumer_command *command)
{
    ka_consumer *c = command->c;
    rd_kafka_resp_err_t code;

    if (!c->options.group && !kai_wanted_set(c, command->list))
        return KA_NOMEM;
    atomic_store(&c->lookup, LOOKUP_IDLE); /* a result not used yet is of another time */
    if (!c->subscription)                  /* assigned by hand, or without a group */
        read_nothing(c);
    if (!c->options.group)
        return KA_OK;
    if (command->list->cnt == 0)
        code = leave_group(c);
    else
        code = rd_kafka_subscribe(c->rk, command->list);
    if (!code)
        set_subscription(c, command->list);
    return code;
}

ka_command *ka_consumer_subscribe(ka_consumer *c, const char *const *topics, int64_t count)
{
    consumer_command *command = kai_command_new(c, run_subscribe, NULL, 0);

    for (int64_t i = 0; command && i < count; i++)
        rd_kafka_topic_partition_list_add(command->list, topics[i], RD_KAFKA_PARTITION_UA);
    if (command)
        command->waits_for_revoke = 1;
    return kai_command_submit(command);
}

/* ---------------------------------------------------------------- partitions */

static int run_replace(consumer_command *command)
{
    ka_consumer *c = command->c;
    rd_kafka_resp_err_t code;

    if (!kai_partitions_prepare(c, command->list))
        return KA_NOMEM;
    atomic_store(&c->lookup, LOOKUP_IDLE);
    kai_partitions_abandon(c, NULL);
    kai_wanted_set(c, NULL);
    kai_partitions_adopt(c, command->list);
    code = replace_all(c, command->list);
    if (code)
        kai_partitions_abandon(c, NULL); /* nothing is read after a refusal */
    return code;
}

/* Where librdkafka takes no steps: all that is assigned, with and without a step, anew. */
static rd_kafka_resp_err_t replace_all_told(ka_consumer *c)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    rd_kafka_resp_err_t code;
    partition *p;

    pthread_mutex_lock(&c->lock);
    kai_block_invalidate(c);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));) {
        rd_kafka_topic_partition_list_add(list, p->topic, p->number)->offset =
            kai_partition_next_offset(p);
        p->generation = ++c->generations;
        p->sought = p->fetched = p->stopped = 0;
        p->lacking = KA_OFFSET_NONE;
        p->searching = kai_partition_next_offset(p) < 0;
        if (p->position != KA_OFFSET_NONE)
            kai_partition_moved(c, p);
    }
    pthread_mutex_unlock(&c->lock);
    code = replace_all(c, list);
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

/* Whether one of the list is assigned (told 1), or is not (0); the code becomes its error. */
static int finds(ka_consumer *c, rd_kafka_topic_partition_list_t *list, int told,
                 rd_kafka_resp_err_t code)
{
    int found = 0;

    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < list->cnt && !found; i++) {
        rd_kafka_topic_partition_t *item = &list->elems[i];
        found = told == !!kai_partition_told(c, item->topic, item->partition);
        if (found)
            item->err = code;
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

/* Of what librdkafka reads, with our table changed already. */
static rd_kafka_resp_err_t step(ka_consumer *c, const rd_kafka_topic_partition_list_t *list,
                                rd_kafka_error_t *(*take)(rd_kafka_t *rk,
                                                          const rd_kafka_topic_partition_list_t *))
{
    rd_kafka_resp_err_t code =
        kai_protocol_is(c, "EAGER") ? replace_all_told(c) : code_of(take(c->rk, list));

    settle_assignment(c);
    return code;
}

static int run_add(consumer_command *command)
{
    ka_consumer *c = command->c;
    rd_kafka_resp_err_t code;

    if (finds(c, command->list, 1, RD_KAFKA_RESP_ERR__CONFLICT))
        return RD_KAFKA_RESP_ERR__CONFLICT;
    if (!kai_partitions_prepare(c, command->list))
        return KA_NOMEM;
    kai_partitions_adopt(c, command->list);
    code = step(c, command->list, rd_kafka_incremental_assign);
    if (code)
        kai_partitions_abandon(c, command->list);
    return code;
}

static int run_remove(consumer_command *command)
{
    ka_consumer *c = command->c;

    if (finds(c, command->list, 0, RD_KAFKA_RESP_ERR__STATE))
        return RD_KAFKA_RESP_ERR__STATE;
    kai_partitions_abandon(c, command->list);
    return step(c, command->list, rd_kafka_incremental_unassign);
}

static int run_assign(consumer_command *command)
{
    static int (*const runs[])(consumer_command *) = {run_replace, run_add, run_remove};

    if (command->list->cnt == 0 && command->how != KA_REPLACE)
        return KA_OK;
    return runs[command->how](command);
}

ka_command *ka_consumer_assign(ka_consumer *c, int how, const ka_partition *partitions,
                               int64_t count)
{
    consumer_command *command = kai_command_new(c, run_assign, partitions, count);

    if (!command)
        return NULL;
    command->how = how;
    command->waits_for_revoke = 1;
    for (int i = 0; i < command->list->cnt; i++)
        if (command->list->elems[i].offset == KA_OFFSET_NONE)
            command->list->elems[i].offset =
                c->options.group ? KA_OFFSET_STORED : c->options.default_offset;
    return kai_command_submit(command);
}

/* ---------------------------------------------------------------- where to go on */

/* Drop what was fetched of it; librdkafka goes on at kai_partition_next_offset(). Under lock. */
static void restart(ka_consumer *c, partition *p)
{
    p->generation = ++c->generations;
    p->sought = 1;
    p->lacking = KA_OFFSET_NONE;
}

/* Begin anew with one that librdkafka has given up: a seek would not wake it. */
static int revive(ka_consumer *c, partition *p, int64_t offset)
{
    rd_kafka_topic_partition_list_t *list;
    rd_kafka_resp_err_t code;

    p->searching = offset < 0;
    p->stopped = 0;
    if (kai_protocol_is(c, "EAGER"))
        return replace_all_told(c) == RD_KAFKA_RESP_ERR_NO_ERROR;
    list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, p->topic, p->number)->offset = offset;
    code = code_of(rd_kafka_incremental_unassign(c->rk, list));
    settle_assignment(c);
    kai_partition_forward(c, p);
    if (!code)
        code = code_of(rd_kafka_incremental_assign(c->rk, list));
    settle_assignment(c);
    rd_kafka_topic_partition_list_destroy(list);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR;
}

static int seek_one(ka_consumer *c, partition *p, int64_t offset)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *item = rd_kafka_topic_partition_list_add(list, p->topic, p->number);
    rd_kafka_resp_err_t code;

    p->searching = offset < 0;
    item->offset = offset;
    code = code_of(rd_kafka_seek_partitions(c->rk, list, SEEK_TIMEOUT_MS));
    if (!code)
        code = item->err; /* it has not begun to fetch yet, perhaps */
    rd_kafka_topic_partition_list_destroy(list);
    return code == RD_KAFKA_RESP_ERR_NO_ERROR;
}

int64_t kai_seek_all(ka_consumer *c, int64_t now)
{
    partition *p;

    if (now < c->seek_ns)
        return c->seek_ns;
    c->seek_ns = KAI_FOREVER;
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));) {
        int64_t offset;
        /* A paused one waits to be resumed. One that librdkafka looks up an offset for waits for that: its
         * answer, were it out of date, would start another search, half a second later, and undo the seek. */
        if (!p->sought || !p->assigned || p->paused || p->searching)
            continue;
        pthread_mutex_lock(&c->lock);
        offset = p->lacking == KA_OFFSET_NONE ? kai_partition_next_offset(p) : p->lacking;
        pthread_mutex_unlock(&c->lock);
        if (p->stopped ? revive(c, p, offset) : seek_one(c, p, offset)) {
            p->sought = 0;
            p->fetched = p->lacking != KA_OFFSET_NONE; /* what came before it still counts */
        } else {
            c->seek_ns = now + SEEK_AGAIN_NS;
        }
    }
    return c->seek_ns;
}

static int run_seek(consumer_command *command)
{
    ka_consumer *c = command->c;
    rd_kafka_topic_partition_t *item = command->list->elems;
    partition *p;

    pthread_mutex_lock(&c->lock);
    p = kai_partition_told(c, item->topic, item->partition);
    if (p) {
        kai_block_invalidate(c);
        p->begin = item->offset;
        p->position = item->offset >= 0 ? item->offset : KA_OFFSET_NONE;
        p->marked = KA_OFFSET_NONE;
        kai_partition_moved(c, p);
        restart(c, p);
    }
    pthread_mutex_unlock(&c->lock);
    if (!p)
        return item->err = RD_KAFKA_RESP_ERR__STATE;
    if (p->corrupt && !p->paused)
        rd_kafka_resume_partitions(c->rk, command->list);
    p->corrupt = 0;
    c->seek_ns = 0;
    kai_seek_all(c, kai_now_ns());
    return KA_OK;
}

static int run_put_back(consumer_command *command)
{
    ka_consumer *c = command->c;
    partition *p;

    pthread_mutex_lock(&c->lock);
    kai_block_invalidate(c);
    for (place at = {0}; (p = kai_partition_next(c, &at, 0));) {
        if (p->batch_begin == KA_OFFSET_NONE)
            continue;
        p->begin = p->position = p->batch_begin;
        p->batch_begin = KA_OFFSET_NONE;
        restart(c, p);
    }
    c->handed_out -= c->batch_count;
    c->purged += c->batch_count;
    c->batch_count = 0;
    pthread_mutex_unlock(&c->lock);
    c->seek_ns = 0;
    kai_seek_all(c, kai_now_ns());
    return KA_OK;
}

ka_command *ka_consumer_put_back(ka_consumer *c)
{
    return kai_command_submit(kai_command_new(c, run_put_back, NULL, 0));
}

ka_command *ka_consumer_seek(ka_consumer *c, const ka_partition *to)
{
    return kai_command_submit(kai_command_new(c, run_seek, to, 1));
}

static void pause_one(ka_consumer *c, partition *p, int pause)
{
    p->paused = pause;
    if (p->position != KA_OFFSET_NONE)
        kai_partition_moved(c, p); /* its rows are stale, what was handed out is not */
    /* While it was paused, what came was dropped. */
    if (pause)
        p->generation = ++c->generations;
    else if (p->fetched)
        restart(c, p);
}

static int run_pause(consumer_command *command)
{
    ka_consumer *c = command->c;
    int pause = command->how;
    rd_kafka_topic_partition_list_t *list;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

    if (finds(c, command->list, 0, RD_KAFKA_RESP_ERR__STATE))
        return RD_KAFKA_RESP_ERR__STATE;
    list = rd_kafka_topic_partition_list_new(16);
    pthread_mutex_lock(&c->lock);
    kai_block_invalidate(c);
    for (int i = 0; i < command->list->cnt; i++) {
        partition *p =
            kai_partition_told(c, command->list->elems[i].topic, command->list->elems[i].partition);
        if (p->paused == pause)
            continue; /* librdkafka goes back to where it was paused last when it resumes twice */
        if (p->assigned && !p->corrupt)
            rd_kafka_topic_partition_list_add(list, p->topic, p->number);
        pause_one(c, p, pause);
    }
    pthread_mutex_unlock(&c->lock);
    if (list->cnt)
        code = pause ? rd_kafka_pause_partitions(c->rk, list)
                     : rd_kafka_resume_partitions(c->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    c->seek_ns = 0;
    kai_seek_all(c, kai_now_ns());
    return code;
}

ka_command *ka_consumer_pause(ka_consumer *c, int pause, const ka_partition *partitions,
                              int64_t count)
{
    consumer_command *command = kai_command_new(c, run_pause, partitions, count);

    if (command)
        command->how = pause;
    return kai_command_submit(command);
}
