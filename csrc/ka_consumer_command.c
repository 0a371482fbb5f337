/* What is asked of the consumer's worker. */
#include <stddef.h>
#include <stdlib.h>

#include "ka_consumer.h"
#include "ka_err.h"
#include "ka_group.h"

static void command_free(ka_command *base)
{
    consumer_command *command = (consumer_command *)base;

    rd_kafka_topic_partition_list_destroy(command->list);
    if (command->group)
        rd_kafka_consumer_group_metadata_destroy(command->group);
    free(command);
}

static consumer_command *command_new(int kind, int64_t count)
{
    consumer_command *command = calloc(1, sizeof *command);

    if (!command)
        return NULL;
    kai_command_init(&command->base, command_free);
    command->kind = kind;
    command->list = rd_kafka_topic_partition_list_new((int)count);
    return command;
}

static ka_command *command_submit(ka_consumer *c, consumer_command *command)
{
    int open;

    if (kai_consumer_is_foreign(c))
        return kai_command_refuse(&command->base, KA_FORKED);
    pthread_mutex_lock(&c->lock);
    open = atomic_load(&c->state) == OPEN;
    if (open) {
        *c->last_command = command;
        c->last_command = &command->next;
    }
    pthread_mutex_unlock(&c->lock);
    if (!open)
        return kai_command_refuse(&command->base, KA_CLOSED);
    kai_wake_notify(&c->worker.wake);
    return &command->base;
}

ka_command *ka_consumer_subscribe(ka_consumer *c, const char *const *topics, int64_t count)
{
    consumer_command *command = command_new(SUBSCRIBE, count);

    for (int64_t i = 0; command && i < count; i++)
        rd_kafka_topic_partition_list_add(command->list, topics[i], RD_KAFKA_PARTITION_UA);
    return command ? command_submit(c, command) : NULL;
}

ka_command *ka_consumer_assign(ka_consumer *c, const ka_partition *partitions, int64_t count)
{
    consumer_command *command = command_new(ASSIGN, count);

    for (int64_t i = 0; command && i < count; i++) {
        int64_t offset = partitions[i].offset;
        if (offset == KA_OFFSET_NONE)
            offset = c->options.group ? KA_OFFSET_STORED : c->options.default_offset;
        rd_kafka_topic_partition_list_add(command->list, partitions[i].topic,
                                          partitions[i].partition)
            ->offset = offset;
    }
    return command ? command_submit(c, command) : NULL;
}

ka_command *ka_consumer_group(ka_consumer *c)
{
    consumer_command *command = command_new(GROUP, 0);

    return command ? command_submit(c, command) : NULL;
}

/* Waits for librdkafka's main thread. */
static void run_group(kai_job *job)
{
    consumer_command *command =
        (consumer_command *)(void *)((char *)job - offsetof(consumer_command, job));
    ka_error error;

    command->group = rd_kafka_consumer_group_metadata(command->c->rk);
    if (command->group)
        kai_command_answer(&command->base, KA_OK, 0, NULL);
    else
        kai_command_answer(&command->base,
                           kai_err_set(&error, RD_KAFKA_RESP_ERR__UNKNOWN_GROUP, NULL), 0, &error);
    kai_command_unreference(&command->base);
}

void kai_group_find(ka_consumer *c, consumer_command *command)
{
    command->c = c;
    command->job.run = run_group;
    if (kai_control_submit(&c->control, &command->job) != 0)
        kai_command_refuse(&command->base, KA_NOMEM);
}

rd_kafka_consumer_group_metadata_t *kai_group_take(ka_command *command)
{
    consumer_command *found = (consumer_command *)command;
    rd_kafka_consumer_group_metadata_t *group = found->group;

    found->group = NULL;
    return group;
}
