/* What is asked of the consumer's worker: how it is queued, run and answered. */
#include <stdlib.h>

#include "ka_consumer.h"
#include "ka_err.h"

static void command_free(ka_command *base)
{
    consumer_command *command = (consumer_command *)base;

    rd_kafka_topic_partition_list_destroy(command->list);
    if (command->group)
        rd_kafka_consumer_group_metadata_destroy(command->group);
    free(command);
}

consumer_command *kai_command_new(ka_consumer *c, int (*run)(consumer_command *command),
                                  const ka_partition *partitions, int64_t count)
{
    consumer_command *command = calloc(1, sizeof *command);

    if (!command)
        return NULL;
    kai_command_init(&command->base, command_free);
    command->c = c;
    command->run = run;
    command->deadline_ns = KAI_FOREVER;
    command->list = rd_kafka_topic_partition_list_new((int)count);
    for (int64_t i = 0; i < count; i++)
        rd_kafka_topic_partition_list_add(command->list, partitions[i].topic,
                                          partitions[i].partition)
            ->offset = partitions[i].offset;
    return command;
}

ka_command *kai_command_submit(consumer_command *command)
{
    ka_consumer *c;
    int open;

    if (!command)
        return NULL;
    c = command->c;
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

static void answer(consumer_command *command, int code, const char *text)
{
    ka_error error;

    if (code == KA_NOMEM) {
        kai_command_answer(&command->base, code, 0, NULL);
        return;
    }
    if (!code) {
        kai_command_answer(&command->base, KA_OK, command->list->cnt, NULL);
        return;
    }
    kai_err_set(&error, code, text);
    kai_err_name(&error, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "group", command->c->group);
    kai_command_answer(&command->base, KA_FAILED, 0, &error);
}

void kai_command_close(consumer_command *command, int code, const char *text)
{
    ka_consumer *c = command->c;
    consumer_command **at;

    pthread_mutex_lock(&c->lock);
    for (at = &c->open_commands; *at && *at != command; at = &(*at)->next)
        continue;
    if (*at)
        *at = command->next;
    pthread_mutex_unlock(&c->lock);
    answer(command, code, text);
    kai_command_unreference(&command->base);
}

/* The first command, if it may run now: it is open from then on. */
static consumer_command *next_command(ka_consumer *c)
{
    consumer_command *command;

    pthread_mutex_lock(&c->lock);
    command = c->first_command;
    if (command && command->waits_for_revoke && (c->revoke_due || c->leave_due))
        command = NULL;
    if (command) {
        c->first_command = command->next;
        if (!c->first_command)
            c->last_command = &c->first_command;
        command->next = c->open_commands;
        c->open_commands = command;
    }
    pthread_mutex_unlock(&c->lock);
    return command;
}

static int run_all(ka_consumer *c)
{
    consumer_command *command;
    int n = 0;

    for (; (command = next_command(c)); n++) {
        int code = command->run(command);
        if (code != LATER)
            kai_command_close(command, code, NULL);
    }
    return n;
}

int kai_commands_run(ka_consumer *c)
{
    return atomic_load(&c->lookup) == LOOKUP_RUNNING ? 0 : run_all(c); /* that has `wanted` */
}

static void refuse_all(consumer_command *command)
{
    consumer_command *next;

    for (; command; command = next) {
        next = command->next;
        kai_command_refuse(&command->base, KA_CLOSED);
    }
}

/* Patient ones are what the close waits for, whether the worker had seen them before it or not. */
void kai_commands_refuse(ka_consumer *c)
{
    consumer_command **at = &c->first_command, *refused = NULL, *queued;

    pthread_mutex_lock(&c->lock);
    while ((queued = *at)) {
        if (queued->patient) {
            at = &queued->next;
            continue;
        }
        *at = queued->next;
        queued->next = refused;
        refused = queued;
    }
    c->last_command = at;
    for (consumer_command *open = c->open_commands; open; open = open->next)
        if (!open->patient) /* whoever runs it drops its reference later */
            kai_command_answer(&open->base, KA_CLOSED, 0, NULL);
    pthread_mutex_unlock(&c->lock);
    refuse_all(refused);
    run_all(c);
}

void kai_commands_end(ka_consumer *c)
{
    refuse_all(c->open_commands);
    c->open_commands = NULL;
}

int64_t ka_consumer_answer(const ka_command *command, ka_partition *out, int64_t size)
{
    const rd_kafka_topic_partition_list_t *list = ((const consumer_command *)command)->list;

    for (int i = 0; i < list->cnt && i < size; i++)
        out[i] = (ka_partition){.topic = list->elems[i].topic,
                                .partition = list->elems[i].partition,
                                .error = list->elems[i].err,
                                .offset = list->elems[i].offset};
    return list->cnt;
}
