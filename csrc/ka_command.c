/* What is asked of the consumer's worker, and its answer. */
#include <stdlib.h>

#include "ka_consumer.h"

static void command_unreference(ka_command *command)
{
    if (atomic_fetch_sub(&command->references, 1) > 1)
        return;
    rd_kafka_topic_partition_list_destroy(command->list);
    kai_wake_fini(&command->answered);
    free(command);
}

void ka_command_release(ka_command *command)
{
    if (command->process == atomic_load(&kai_process))
        command_unreference(command);
}

void kai_command_answer(ka_command *command, int status)
{
    command->status = status;
    atomic_store(&command->done, 1); /* release: partner is the load in ka_wait_command() */
    kai_wake_notify(&command->answered);
    command_unreference(command);
}

int ka_wait_command(ka_command *command, int64_t timeout_us, ka_error *err)
{
    int64_t deadline = kai_deadline_ns(timeout_us);
    int status = KA_OK;

    if (command->process != atomic_load(&kai_process))
        return KA_FORKED;
    for (;;) {
        uint32_t key = kai_wake_prepare(&command->answered);

        if (atomic_load(&command->done)) {
            kai_wake_cancel(&command->answered);
            if (command->status == KA_FAILED)
                *err = command->error;
            return command->status;
        }
        if (status != KA_OK) {
            kai_wake_cancel(&command->answered);
            return status;
        }
        status = kai_wake_sleep(&command->answered, key, deadline);
    }
}

static ka_command *command_new(int assign, int64_t count)
{
    ka_command *command = calloc(1, sizeof *command);

    if (!command)
        return NULL;
    atomic_init(&command->references, 2);
    command->assign = assign;
    command->list = rd_kafka_topic_partition_list_new((int)count);
    command->process = atomic_load(&kai_process);
    kai_wake_init(&command->answered);
    return command;
}

/* Answered without the worker. */
static ka_command *command_refuse(ka_command *command, int status)
{
    atomic_store(&command->references, 1);
    command->status = status;
    atomic_store(&command->done, 1);
    return command;
}

static ka_command *command_submit(ka_consumer *c, ka_command *command)
{
    int open;

    if (kai_consumer_is_foreign(c))
        return command_refuse(command, KA_FORKED);
    pthread_mutex_lock(&c->lock);
    open = atomic_load(&c->state) == OPEN;
    if (open) {
        *c->last_command = command;
        c->last_command = &command->next;
    }
    pthread_mutex_unlock(&c->lock);
    if (!open)
        return command_refuse(command, KA_CLOSED);
    kai_wake_notify(&c->worker.wake);
    return command;
}

ka_command *ka_consumer_subscribe(ka_consumer *c, const char *const *topics, int64_t count)
{
    ka_command *command = command_new(0, count);

    for (int64_t i = 0; command && i < count; i++)
        rd_kafka_topic_partition_list_add(command->list, topics[i], RD_KAFKA_PARTITION_UA);
    return command ? command_submit(c, command) : NULL;
}

ka_command *ka_consumer_assign(ka_consumer *c, const ka_partition *partitions, int64_t count)
{
    ka_command *command = command_new(1, count);

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
