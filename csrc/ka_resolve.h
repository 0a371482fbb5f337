/* Name resolution that a fork can't leave locked.
 *
 * The C library takes locks of its own in getaddrinfo() and resets none of them in the child of a fork: one that a
 * thread of the parent held at that moment stays locked there. So resolutions keep out of a fork's way.
 */
#ifndef KA_RESOLVE_H
#define KA_RESOLVE_H

struct addrinfo;

/* librdkafka's resolve_cb: getaddrinfo(), or freeaddrinfo() without node. Any thread that may wait. */
int kai_resolve(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res, void *opaque);

/* What fork handlers call: before the fork, after it in the parent, after it in the child. */
void kai_resolve_hold(void);
void kai_resolve_release(void);
void kai_resolve_reset(void);

#endif
