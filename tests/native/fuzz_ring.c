/* The ring against a list: entries come out as they went in, in the order of their reservation, none before its
 * commit, none over another; what is released is zero. A ring of one page, or one that is large enough to start over. */
#include "fuzz.h"
#include "ka_ring.h"

enum { PENDING = 64, HEADER = 16, LARGE = 16384 };

/* What was reserved and not released, in order. */
typedef struct {
    char *data;
    uint64_t len, end; /* end: known when it was read */
    uint8_t fill;
    int committed, read;
} item;

static kai_ring ring;
static item items[PENDING];
static int count, reads;
static uint64_t position;

static int overlaps(const char *data, uint64_t len)
{
    for (int i = 0; i < count; i++)
        if (data - HEADER < items[i].data + items[i].len && items[i].data - HEADER < data + len)
            return 1;
    return 0;
}

/* What all that is held takes, with the gap of a lap: more than that is never asked for in vain. */
static uint64_t held(uint64_t largest)
{
    uint64_t sum = 0;

    for (int i = 0; i < count; i++) {
        sum += kai_ring_entry_size(items[i].len);
        largest = items[i].len > largest ? items[i].len : largest;
    }
    return sum + kai_ring_entry_size(largest);
}

static void reserve(fuzz_input *in, uint64_t most)
{
    uint64_t len = fuzz_number(in, 4), before = kai_ring_tail(&ring);
    uint8_t fill = (uint8_t)(fuzz_number(in, 1) | 1);
    char *data;

    len = len == UINT32_MAX ? UINT64_MAX - fill : len % (most + 1);
    if (count == PENDING)
        return;
    data = kai_ring_reserve(&ring, len);
    if (!data) {
        FUZZ_CHECK(kai_ring_tail(&ring) == before);
        FUZZ_CHECK(len > ring.capacity || held(len) + kai_ring_entry_size(len) > ring.capacity);
        return;
    }
    FUZZ_CHECK((uintptr_t)data % HEADER == 0 && data - HEADER >= ring.memory);
    FUZZ_CHECK(data + len <= ring.memory + ring.capacity && !overlaps(data, len));
    for (uint64_t i = 0; i<len; i += len> 256 ? 97 : 1)
        FUZZ_CHECK(data[i] == 0);
    memset(data, fill, len);
    items[count++] = (item){.data = data, .len = len, .fill = fill};
}

static void commit(fuzz_input *in)
{
    int i = (int)fuzz_below(in, PENDING);

    if (i >= count || items[i].committed)
        return;
    kai_ring_commit(items[i].data, items[i].len);
    items[i].committed = 1;
}

static void read_next(void)
{
    const char *data = kai_ring_next(&ring, &position);

    if (reads == count || !items[reads].committed) {
        FUZZ_CHECK(!data);
        return;
    }
    FUZZ_CHECK(data == items[reads].data);
    for (uint64_t i = 0; i < items[reads].len; i++)
        FUZZ_CHECK((uint8_t)data[i] == items[reads].fill);
    items[reads++].end = position;
}

static void release(fuzz_input *in)
{
    int n = (int)fuzz_below(in, PENDING) % (reads + 1);

    if (n == 0)
        return;
    kai_ring_release(&ring, items[n - 1].end);
    for (int i = 0; i < n; i++)
        for (uint64_t at = 0; at < items[i].len; at++)
            FUZZ_CHECK(items[i].data[at] == 0);
    memmove(items, items + n, (size_t)(count - n) * sizeof *items);
    count -= n;
    reads -= n;
    if (kai_ring_head(&ring) > position)
        position = kai_ring_head(&ring);
    FUZZ_CHECK(kai_ring_tail(&ring) >= position);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    uint64_t capacity = fuzz_number(&in, 1) % 2 ? LARGE : 4096;
    uint64_t most = capacity >> fuzz_below(&in, 8);

    FUZZ_CHECK(kai_ring_init(&ring, capacity) == 0 && ring.capacity == capacity);
    count = reads = 0;
    position = 0;
    for (int step = 0; in.left && step < 400; step++) {
        switch (fuzz_below(&in, 4)) {
        case 0:
            reserve(&in, most);
            break;
        case 1:
            commit(&in);
            break;
        case 2:
            read_next();
            break;
        default:
            release(&in);
        }
    }
    kai_ring_fini(&ring);
    return 0;
}
