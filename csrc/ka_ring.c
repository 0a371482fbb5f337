#include "ka_ring.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 16, REWIND = 256 * 1024 };

/* In tail, whose low bits are free: the reader started over here. Everything before is released, even
 * if head does not say so yet: the reader may be held up between its two stores, and a writer
 * that was within its bounds would find the ring full. */
static const uint64_t STARTED_OVER = 1;

/* Stands before every entry. size counts header and padding too; 0: not committed. */
typedef struct {
    _Atomic uint64_t size;
    uint64_t skip; /* 1: only fills the end of a lap */
} header;

_Static_assert(sizeof(header) == ALIGN, "an entry's data must be aligned");

static header *header_at(const kai_ring *ring, uint64_t pos)
{
    return (header *)(void *)(ring->memory + (pos & (ring->capacity - 1)));
}

uint64_t kai_ring_entry_size(uint64_t len)
{
    return (sizeof(header) + len + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

int kai_ring_init(kai_ring *ring, uint64_t min_capacity)
{
    uint64_t capacity = 4096;

    while (capacity < min_capacity)
        capacity *= 2;
    ring->memory = mmap(NULL, capacity, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ring->memory == MAP_FAILED) {
        ring->memory = NULL;
        return -1;
    }
    ring->capacity = capacity;
    ring->keep = capacity;
    ring->page = (uint64_t)sysconf(_SC_PAGESIZE);
    atomic_init(&ring->tail, 0);
    atomic_init(&ring->head_seen, 0);
    atomic_init(&ring->head, 0);
    return 0;
}

void kai_ring_fini(kai_ring *ring)
{
    if (ring->memory)
        munmap(ring->memory, ring->capacity);
    ring->memory = NULL;
}

/* Raise the writers' copy of head, which never falls; returns it. release: hands on to the writers
 * that only read the copy what this one acquired with head or tail: what the reader zeroed is zero
 * before a writer may write there. */
static uint64_t see_head(kai_ring *ring, uint64_t head)
{
    uint64_t seen = atomic_load_explicit(&ring->head_seen, memory_order_acquire);

    while (seen < head &&
           !atomic_compare_exchange_weak_explicit(&ring->head_seen, &seen, head,
                                                  memory_order_acq_rel, memory_order_acquire))
        continue;
    return seen > head ? seen : head;
}

/* Whether [.., end) fits. The acquires pair with see_head() and with kai_ring_release(). */
static int fits(kai_ring *ring, uint64_t end)
{
    if (end - atomic_load_explicit(&ring->head_seen, memory_order_acquire) <= ring->capacity)
        return 1;
    return end - see_head(ring, atomic_load_explicit(&ring->head, memory_order_acquire)) <=
           ring->capacity;
}

void *kai_ring_reserve(kai_ring *ring, uint64_t len)
{
    uint64_t size = kai_ring_entry_size(len);
    /* acquire: pairs with the releases of tail below and in kai_ring_release(). */
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire), pos, skip;

    if (size < len || size > ring->capacity)
        return NULL;
    for (;;) {
        uint64_t left;
        pos = tail & ~STARTED_OVER;
        if (tail != pos)
            see_head(ring, pos);
        left = ring->capacity - (pos & (ring->capacity - 1));
        skip = size > left ? left : 0;
        if (!fits(ring, pos + skip + size)) {
            /* A tail that others have moved since says nothing: head may be beyond it. */
            uint64_t now = atomic_load_explicit(&ring->tail, memory_order_acquire);
            if (now == tail)
                return NULL;
            tail = now;
            /* release: who meets the new tail, without the bit, also meets the head_seen that the
             * bit told of. The entry itself is published by its commit. */
        } else if (atomic_compare_exchange_weak_explicit(&ring->tail, &tail, pos + skip + size,
                                                         memory_order_acq_rel,
                                                         memory_order_acquire)) {
            break;
        }
    }
    if (skip) {
        header *gap = header_at(ring, pos);
        gap->skip = 1;
        /* release: pairs with the acquire in kai_ring_next(). */
        atomic_store_explicit(&gap->size, skip, memory_order_release);
    }
    return header_at(ring, pos + skip) + 1;
}

void kai_ring_commit(void *entry, uint64_t len)
{
    /* release: pairs with the acquire in kai_ring_next(), which then sees the whole entry. */
    atomic_store_explicit(&((header *)entry - 1)->size, kai_ring_entry_size(len),
                          memory_order_release);
}

void *kai_ring_next(kai_ring *ring, uint64_t *pos)
{
    for (;;) {
        header *h;
        uint64_t size;

        /* A position one lap past head is the header of head itself: all of the ring is read. */
        if (*pos - kai_ring_head(ring) == ring->capacity)
            return NULL;
        h = header_at(ring, *pos);
        size = atomic_load_explicit(&h->size, memory_order_acquire);
        if (size == 0)
            return NULL;
        *pos += size;
        if (!h->skip)
            return h + 1;
    }
}

uint64_t kai_ring_head(const kai_ring *ring)
{
    return atomic_load_explicit(&ring->head, memory_order_relaxed); /* only the reader moves it */
}

uint64_t kai_ring_tail(const kai_ring *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_relaxed) & ~STARTED_OVER;
}

/* Zero what only the reader may touch. Whole pages beyond keep are given back, which zeroes them, too
 * (madvise of Linux: memory of nobody else's reads as zero from then on). */
static void clear(kai_ring *ring, uint64_t begin, uint64_t end)
{
#ifdef __linux__
    uint64_t pages = (begin > ring->keep ? begin : ring->keep) + ring->page - 1, last = end;

    pages -= pages % ring->page;
    last -= last % ring->page;
    if (pages < last && madvise(ring->memory + pages, last - pages, MADV_DONTNEED) == 0) {
        memset(ring->memory + begin, 0, pages > begin ? pages - begin : 0);
        begin = last;
    }
#endif
    memset(ring->memory + begin, 0, end - begin);
}

void kai_ring_release(kai_ring *ring, uint64_t pos)
{
    uint64_t head = kai_ring_head(ring);
    uint64_t offset = head & (ring->capacity - 1);
    uint64_t len = pos - head;
    uint64_t first = len < ring->capacity - offset ? len : ring->capacity - offset;

    clear(ring, offset, offset + first);
    clear(ring, 0, len - first);
    /* Nothing reserved behind pos: continue at the next lap's first page. The room jumped over is
     * zero already. A writer that reserved meanwhile wins, and nothing is jumped. */
    offset = pos & (ring->capacity - 1);
    if (offset > REWIND) {
        uint64_t lap = pos - offset + ring->capacity, tail = pos;
        /* release: pairs with the acquire in kai_ring_reserve(), which then sees the zeros. */
        if (atomic_compare_exchange_strong_explicit(&ring->tail, &tail, lap | STARTED_OVER,
                                                    memory_order_release, memory_order_relaxed))
            pos = lap;
    }
    /* release: pairs with the acquire in fits(). */
    atomic_store_explicit(&ring->head, pos, memory_order_release);
}
