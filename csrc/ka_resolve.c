#include "ka_resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>

#include "ka.h"
#include "ka_wake.h"

/* How long a fork waits for resolutions that have begun. What takes longer, on a busy machine too, waits for a name
 * server, and the C library holds no lock in that. */
enum { HOLD_MOST_US = 200000 };

static struct {
    _Atomic uint32_t forks;     /* about to be, or under way: nobody begins to resolve */
    _Atomic uint32_t resolving; /* threads in getaddrinfo() */
    kai_wake changed;
} guard = {.changed = KAI_WAKE_STATIC};

static int64_t no_fork(void *self, int64_t arg)
{
    (void)self, (void)arg;
    return atomic_load(&guard.forks) ? KA_EMPTY : KA_OK;
}

static int64_t none_resolving(void *self, int64_t arg)
{
    (void)self, (void)arg;
    return atomic_load(&guard.resolving) ? KA_EMPTY : KA_OK;
}

static void leave(void)
{
    atomic_fetch_sub(&guard.resolving, 1);
    kai_wake_notify(&guard.changed);
}

/* Counts itself, then looks at forks; a fork counts itself, then looks at resolving. In the one order of these, whoever
 * comes second sees the other. */
static void enter(void)
{
    atomic_fetch_add(&guard.resolving, 1);
    while (atomic_load(&guard.forks)) {
        leave();
        kai_wait_until(&guard.changed, -1, no_fork, NULL, 0);
        atomic_fetch_add(&guard.resolving, 1);
    }
}

static int resolve_guarded(const char *node, const char *service, const struct addrinfo *hints,
                           struct addrinfo **res)
{
    int result, saved;

    enter();
    result = getaddrinfo(node, service, hints, res);
    saved = errno; /* says more of EAI_SYSTEM */
    leave();
    errno = saved;
    return result;
}

int kai_resolve(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res, void *opaque)
{
    struct addrinfo numeric;

    (void)opaque;
    if (!node) {
        freeaddrinfo(*res);
        return 0;
    }
    /* Numbers take no lock, but for the list of the machine's addresses: that flag would only refuse them. */
    numeric = *hints;
    numeric.ai_flags &= ~AI_ADDRCONFIG;
    numeric.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    if (getaddrinfo(node, service, &numeric, res) == 0)
        return 0;
    return resolve_guarded(node, service, hints, res);
}

void kai_resolve_hold(void)
{
    int64_t deadline = kai_deadline_ns(HOLD_MOST_US), left_us = HOLD_MOST_US;

    atomic_fetch_add(&guard.forks, 1);
    while (kai_wait_until(&guard.changed, left_us, none_resolving, NULL, 0) == KA_INTERRUPTED &&
           (left_us = (deadline - kai_now_ns()) / 1000) > 0)
        continue;
}

void kai_resolve_release(void)
{
    atomic_fetch_sub(&guard.forks, 1);
    kai_wake_notify(&guard.changed);
}

/* The parent's threads are not there, those that were in getaddrinfo() neither. */
void kai_resolve_reset(void)
{
    atomic_store(&guard.forks, 0);
    atomic_store(&guard.resolving, 0);
    kai_wake_init(&guard.changed);
}
