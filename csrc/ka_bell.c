#include "ka_bell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "ka_worker.h"

#if defined(__linux__) && !defined(KA_NO_FUTEX) /* the portable build does without */
#define KAI_EVENTFD 1
#include <sys/eventfd.h>
#else
#define KAI_EVENTFD 0
#endif

struct ka_bell {
    _Atomic int references;
    _Atomic int armed;
    int out, in; /* the same for an eventfd */
    uint32_t process;
};

#if KAI_EVENTFD
static void open_descriptors(ka_bell *bell)
{
    bell->out = bell->in = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
#else
static void open_descriptors(ka_bell *bell)
{
    int ends[2];

    bell->out = bell->in = -1;
    if (pipe(ends) != 0)
        return;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    bell->out = ends[0];
    bell->in = ends[1];
}
#endif

ka_bell *ka_bell_new(void)
{
    ka_bell *bell = calloc(1, sizeof *bell);

    if (!bell)
        return NULL;
    open_descriptors(bell);
    atomic_init(&bell->references, 1);
    bell->process = atomic_load(&kai_process);
    return bell;
}

void kai_bell_reference(ka_bell *bell)
{
    atomic_fetch_add_explicit(&bell->references, 1, memory_order_relaxed);
}

void kai_bell_unreference(ka_bell *bell)
{
    if (atomic_fetch_sub(&bell->references, 1) > 1)
        return;
    if (bell->out >= 0)
        close(bell->out);
    if (bell->in != bell->out)
        close(bell->in);
    free(bell);
}

void ka_bell_release(ka_bell *bell)
{
    /* Else the parent reads from the same descriptor. */
    if (bell->process == atomic_load(&kai_process))
        kai_bell_unreference(bell);
}

int ka_bell_descriptor(const ka_bell *bell)
{
    return bell->out;
}

int ka_bell_arm(ka_bell *bell)
{
    char rung[64];

    if (bell->process != atomic_load(&kai_process))
        return KA_FORKED;
    while (read(bell->out, rung, sizeof rung) == (ssize_t)sizeof rung)
        continue; /* of a pipe; an eventfd is empty after 8 bytes */
    atomic_store_explicit(&bell->armed, 1, memory_order_relaxed);
    /* Before the caller's look at its conditions. A ringer changes one, goes through a full fence, then looks at
     * armed: so the caller sees the change, or the ringer sees it armed. */
    atomic_thread_fence(memory_order_seq_cst);
    return KA_OK;
}

void kai_bell_ring(ka_bell *bell)
{
    static const uint64_t one = 1;

    if (!atomic_load_explicit(&bell->armed, memory_order_relaxed) ||
        !atomic_exchange_explicit(&bell->armed, 0, memory_order_relaxed))
        return;
    /* It can't be full: who arms it has emptied it, and it is rung once until then. */
    while (write(bell->in, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}
