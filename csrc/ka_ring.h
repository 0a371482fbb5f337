/* A bounded ring of variable-size entries: many writers, one reader, no lock.
 *
 * Positions are 64-bit byte counts that run free; an entry never wraps. A writer reserves room
 * by moving tail, fills its entry, then commits it by storing the size in the entry's own
 * header. The reader meets entries in the order of their reservation and stops at the first
 * one that is not committed. It hands the room back with kai_ring_release(), which zeroes it:
 * a header that was never committed must read as 0.
 *
 * An empty ring starts over at its first page, so that light traffic lives in a few warm
 * pages however large the ring is. What a burst took beyond `keep` goes back to the system as it
 * is released.
 */
#ifndef KA_RING_H
#define KA_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define KAI_CACHE_LINE 64

typedef struct {
    /* Set once. */
    char *memory;
    uint64_t capacity; /* a power of two */
    uint64_t keep;     /* bytes whose pages stay: all, unless the owner lowers it before use */
    uint64_t page;
    /* Writers. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t tail; /* end of what is reserved; one bit */
    _Atomic uint64_t head_seen;                     /* writers' copy of head, may be old */
    /* Reader. */
    _Alignas(KAI_CACHE_LINE) _Atomic uint64_t head; /* begin of what is not released */
} kai_ring;

/* What one entry of len bytes takes of the ring; at most one more entry's size is lost at the
 * wrap. */
uint64_t kai_ring_entry_size(uint64_t len);

/* Reserve memory for at least min_capacity bytes of entries. 0, or -1 without memory. Pages
 * are touched when used. */
int kai_ring_init(kai_ring *ring, uint64_t min_capacity);
void kai_ring_fini(kai_ring *ring);

/* Room for len bytes, aligned to 16; NULL when the ring is full. What it returns belongs to the
 * caller until kai_ring_commit(). Any thread. */
void *kai_ring_reserve(kai_ring *ring, uint64_t len);
void kai_ring_commit(void *entry, uint64_t len);

/* Several entries may share one reservation, of the sum of their sizes less kai_ring_entry_size(0). The first is what
 * kai_ring_reserve() returned, each other one kai_ring_entry_size(len) bytes behind its predecessor of len bytes; each
 * is committed by itself. */

/* The next committed entry at *pos, which moves past it, or NULL. Start with kai_ring_head().
 * Valid until released. Reader only. */
void *kai_ring_next(kai_ring *ring, uint64_t *pos);
uint64_t kai_ring_head(const kai_ring *ring);

/* Everything before pos is no longer used; go on from kai_ring_head(), which may lie behind
 * pos. Reader only. */
void kai_ring_release(kai_ring *ring, uint64_t pos);

/* Where the next reservation will begin, or later. An entry that was committed before the
 * call lies before it. */
uint64_t kai_ring_tail(const kai_ring *ring);

#endif
