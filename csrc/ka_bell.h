/* A bell: how an event loop learns that something which ka_wait_*() would wait for may have changed.
 *
 * It is a file descriptor that becomes readable (an eventfd; elsewhere the end of a pipe), and hangs on any number of
 * wake-ups. The loop's thread arms it, then looks at its conditions; the next notification rings it, which takes
 * one system call, and those after that find it rung: a burst costs one wake-up.
 *
 * Every wake-up that it hangs on holds a reference, so the descriptor outlives the last notification.
 */
#ifndef KA_BELL_H
#define KA_BELL_H

#include "ka.h"

void kai_bell_reference(ka_bell *bell);
void kai_bell_unreference(ka_bell *bell);
/* Any thread, after a full fence that follows what the bell tells of; see kai_wake_notify(). */
void kai_bell_ring(ka_bell *bell);

#endif
