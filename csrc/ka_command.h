/* Something asked of a native thread, and its answer.
 *
 * Two references: the caller's, who waits and may go away at any time, and the runner's. The first
 * answer counts: closing answers what is still being run, and the runner's own comes too late.
 */
#ifndef KA_COMMAND_H
#define KA_COMMAND_H

#include <stdatomic.h>
#include <stdint.h>

#include "ka.h"
#include "ka_wake.h"

struct ka_command {
    _Atomic int references;
    _Atomic int claimed; /* by whoever answers */
    _Atomic int done;
    int status; /* these once done */
    int64_t value;
    ka_error error;
    uint32_t process;
    kai_wake answered;
    void (*free)(ka_command *command);
};

/* Begin the life of a command; free frees it with all that it owns. */
void kai_command_init(ka_command *command, void (*free)(ka_command *command));
/* Answer it; error: NULL unless KA_FAILED. The runner keeps its reference. */
void kai_command_answer(ka_command *command, int status, int64_t value, const ka_error *error);
void kai_command_unreference(ka_command *command);
/* Answer without a runner: drops its reference. */
ka_command *kai_command_refuse(ka_command *command, int status);

#endif
