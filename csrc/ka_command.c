#include "ka_command.h"

#include "ka_worker.h"

void kai_command_init(ka_command *command, void (*free)(ka_command *command))
{
    atomic_init(&command->references, 2);
    command->free = free;
    command->process = atomic_load(&kai_process);
    kai_wake_init(&command->answered);
}

void kai_command_unreference(ka_command *command)
{
    if (atomic_fetch_sub(&command->references, 1) > 1)
        return;
    kai_wake_fini(&command->answered);
    command->free(command);
}

void ka_command_release(ka_command *command)
{
    if (command->process == atomic_load(&kai_process))
        kai_command_unreference(command);
}

void kai_command_answer(ka_command *command, int status, int64_t value, const ka_error *error)
{
    if (atomic_exchange(&command->claimed, 1))
        return;
    command->status = status;
    command->value = value;
    if (error)
        command->error = *error;
    atomic_store(&command->done, 1); /* release: partner is the load in check_done() */
    kai_wake_notify(&command->answered);
}

ka_command *kai_command_refuse(ka_command *command, int status)
{
    kai_command_answer(command, status, 0, NULL);
    kai_command_unreference(command);
    return command;
}

static int64_t check_done(void *self, int64_t arg)
{
    (void)arg;
    return atomic_load(&((ka_command *)self)->done) ? KA_OK : KA_EMPTY;
}

int ka_wait_command(ka_command *command, int64_t timeout_us, ka_error *err)
{
    int status;

    if (command->process != atomic_load(&kai_process))
        return KA_FORKED;
    status = (int)kai_wait_until(&command->answered, timeout_us, check_done, command, 0);
    if (status != KA_OK)
        return status;
    if (command->status == KA_FAILED)
        *err = command->error;
    return command->status;
}

int ka_try_command(ka_command *command, ka_error *err)
{
    return ka_wait_command(command, 0, err);
}

void ka_command_hang(ka_command *command, ka_bell *bell)
{
    kai_wake_hang(&command->answered, bell);
}

int64_t ka_command_value(const ka_command *command)
{
    return command->value;
}
