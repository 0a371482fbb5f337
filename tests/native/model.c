/* The explorer. Depth first over choices: which thread runs next, and which store a load reads. An execution is replayed from
 * its beginning up to the last choice that has an untried alternative. A state that was met before is not explored again: a
 * thread's own state is told by what it has read so far.
 *
 * Memory. Each location has its stores in modification order. A thread has a view: of each location the oldest store that it may
 * still read, and a vector clock for happens-before. A release store carries its thread's view, an acquire load joins it. A
 * seq_cst fence joins the view of all seq_cst fences before it, and leaves its own there. This is the view machine of RC11 with a
 * store always last in its location's order, which holds where concurrent stores are read-modify-writes; others are refused.
 */
#include "model.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { LOCATIONS = 60, STORES = 48, REGIONS = 16, CHOICES = 4096, STEPS = 1024, SYNCS = 8 };
enum { STACK = 64 * 1024 };

typedef struct {
    uint8_t seen[LOCATIONS]; /* by location: the oldest store that may be read */
    uint8_t clock[MODEL_THREADS];
} view;

typedef struct {
    uint64_t value;
    view view;
} store;

typedef struct {
    uintptr_t at;
    size_t size;
    int count, first; /* stores; those before first can't be read any more */
    int lazy;         /* the last store was plain: its value is in memory */
    store stores[STORES];
    /* By thread: its clock at its last access of a kind. */
    uint8_t plain_read[MODEL_THREADS], plain_write[MODEL_THREADS];
    uint8_t atomic_read[MODEL_THREADS], atomic_write[MODEL_THREADS];
} location;

enum { READY, AWAITS, ASLEEP, LOCKING, ENDED };

typedef struct {
    int status;
    uintptr_t on; /* what it awaits, sleeps on, locks */
    size_t size;
    uint64_t old;
    view now, acquired,
        released;     /* acquired: by relaxed loads; released: at the last release fence */
    uint64_t history; /* hash of all that it has read */
    jmp_buf resume, restart;
    ucontext_t context;
    char *stack;
} thread;

/* What a lock hands on, a mutex or the kernel's of a futex. */
typedef struct {
    uintptr_t at;
    int owner; /* thread + 1 */
    view view;
} sync;

typedef struct {
    const char *what;
    int thread, stored;
    uintptr_t at;
    uint64_t value;
} step;

static struct {
    const char *name;
    uintptr_t begin, end;
} regions[REGIONS];
static int region_count;
static location locations[LOCATIONS];
static int location_count;
static thread threads[MODEL_THREADS];
static int thread_count, current = -1, started;
static sync syncs[SYNCS];
static int sync_count;
static view fenced;     /* of seq_cst fences and accesses */
static uintptr_t owned; /* by thread 0 */
static const model_scenario *scenario;
static jmp_buf scheduler;
static ucontext_t main_context;

static struct {
    uint16_t chosen, of;
} choices[CHOICES];
static int choice_count, choice_at;
static step steps[STEPS];
static int step_count;
static uint64_t executions, states;

/* ---------------------------------------------------------------- violations */

static void print_place(uintptr_t at)
{
    for (int i = 0; i < region_count; i++)
        if (at >= regions[i].begin && at < regions[i].end) {
            printf("%s+%d", regions[i].name, (int)(at - regions[i].begin));
            return;
        }
    printf("-");
}

_Noreturn void model_violated(const char *what)
{
    for (int i = 0; i < step_count; i++) {
        printf("%4d  thread %d  %-14s", i, steps[i].thread, steps[i].what);
        print_place(steps[i].at);
        printf("  %#" PRIx64, steps[i].value);
        if (steps[i].stored >= 0)
            printf("  (store %d)", steps[i].stored);
        printf("\n");
    }
    printf("%s: violation, thread %d: %s\n", scenario->name, current, what);
    fflush(stdout);
    exit(1);
}

static void note(const char *what, uintptr_t at, uint64_t value, int stored)
{
    if (step_count == STEPS)
        model_violated("too many steps for this checker");
    steps[step_count++] = (step){what, current, stored, at, value};
}

/* ---------------------------------------------------------------- choices and states */

static int choose(int of)
{
    if (of <= 1)
        return 0;
    if (choice_at == choice_count) {
        if (choice_count == CHOICES)
            model_violated("too many choices for this checker");
        choices[choice_count].chosen = 0;
        choices[choice_count++].of = (uint16_t)of;
    }
    return choices[choice_at++].chosen;
}

/* The next path, or 0: that was all. */
static int backtrack(void)
{
    while (choice_count && choices[choice_count - 1].chosen + 1 == choices[choice_count - 1].of)
        choice_count--;
    if (!choice_count)
        return 0;
    choices[choice_count - 1].chosen++;
    return 1;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9E3779B97F4A7C15;
    return hash ^ (hash >> 29);
}

static uint64_t mix_bytes(uint64_t hash, const void *bytes, size_t size)
{
    uint64_t word;

    for (size_t i = 0; i + 8 <= size; i += 8) {
        memcpy(&word, (const char *)bytes + i, 8);
        hash = mix(hash, word);
    }
    return hash;
}

static uint64_t load_memory(const location *l)
{
    uint64_t value = 0;

    memcpy(&value, (const void *)l->at, l->size);
    return value;
}

static uint64_t hash_location(const location *l, int index, uint64_t hash)
{
    int oldest = l->count - 1;

    for (int t = 0; t < thread_count; t++)
        if (threads[t].status != ENDED && threads[t].now.seen[index] < oldest)
            oldest = threads[t].now.seen[index];
    hash = mix(hash, (uint64_t)(oldest > l->first ? oldest : l->first) << 8 | (uint64_t)l->count);
    for (int i = oldest > l->first ? oldest : l->first; i < l->count - l->lazy; i++) {
        hash = mix(hash, l->stores[i].value);
        hash = mix_bytes(hash, &l->stores[i].view, sizeof(view));
    }
    hash = l->lazy ? mix(hash, load_memory(l)) : hash;
    return mix_bytes(hash, l->plain_read, 4 * MODEL_THREADS);
}

static uint64_t hash_state(void)
{
    uint64_t hash = mix_bytes(1, &fenced, sizeof fenced);

    for (int i = 0; i < thread_count; i++) {
        const thread *t = &threads[i];
        hash = mix(mix(mix(hash, t->history), (uint64_t)t->status), t->on);
        hash = mix_bytes(hash, &t->now, sizeof(view));
        hash = mix_bytes(hash, &t->acquired, sizeof(view));
        hash = mix_bytes(hash, &t->released, sizeof(view));
    }
    for (int i = 0; i < location_count; i++)
        hash = hash_location(&locations[i], i, hash);
    for (int i = 0; i < sync_count; i++)
        hash = mix_bytes(mix(hash, (uint64_t)syncs[i].owner), &syncs[i].view, sizeof(view));
    return hash ? hash : 1;
}

static uint64_t *visited;
static uint64_t visited_size, visited_count;

/* Whether it was not there. */
static int add_hash(uint64_t hash)
{
    uint64_t i = hash & (visited_size - 1);

    while (visited[i] && visited[i] != hash)
        i = (i + 1) & (visited_size - 1);
    if (visited[i])
        return 0;
    visited[i] = hash;
    visited_count++;
    return 1;
}

static int add_state(uint64_t hash)
{
    if (2 * visited_count >= visited_size) {
        uint64_t *old = visited, size = visited_size;
        visited_size = size ? 2 * size : 1 << 16;
        visited_count = 0;
        if (!(visited = calloc(visited_size, sizeof *visited)))
            model_violated("no memory for this checker");
        for (uint64_t i = 0; i < size; i++)
            if (old[i])
                add_hash(old[i]);
        free(old);
    }
    return add_hash(hash);
}

/* ---------------------------------------------------------------- threads */

/* Back to the scheduler, until it resumes this thread. */
static void yield(void)
{
    threads[current].history = mix(threads[current].history, 1); /* it is further on */
    if (!_setjmp(threads[current].resume))
        _longjmp(scheduler, 1);
}

/* The life of a coroutine: one run of its thread in each execution. */
static void live(void)
{
    _setjmp(threads[current].restart);
    scenario->threads[current]();
    threads[current].status = ENDED;
    _longjmp(scheduler, 1);
}

static void resume(int t)
{
    current = t;
    if (_setjmp(scheduler) == 0) {
        if (started & (1 << t))
            _longjmp(threads[t].resume, 1);
        started |= 1 << t;
        if (threads[t].stack)
            _longjmp(threads[t].restart, 1);
        threads[t].stack = malloc(STACK);
        getcontext(&threads[t].context);
        threads[t].context.uc_stack.ss_sp = threads[t].stack;
        threads[t].context.uc_stack.ss_size = STACK;
        makecontext(&threads[t].context, live, 0);
        swapcontext(&main_context, &threads[t].context);
    }
}

static sync *sync_at(uintptr_t at)
{
    for (int i = 0; i < sync_count; i++)
        if (syncs[i].at == at)
            return &syncs[i];
    if (sync_count == SYNCS)
        model_violated("too many locks for this checker");
    syncs[sync_count].at = at;
    return &syncs[sync_count++];
}

static uint64_t last_value(location *l)
{
    if (l->lazy) {
        l->stores[l->count - 1].value = load_memory(l);
        l->lazy = 0;
    }
    return l->stores[l->count - 1].value;
}

static location *locate(uintptr_t at, size_t size);

static int is_enabled(const thread *t)
{
    switch (t->status) {
    case READY:
        return 1;
    case AWAITS:
        return last_value(locate(t->on, t->size)) != t->old;
    case LOCKING:
        return sync_at(t->on)->owner == 0;
    default:
        return 0;
    }
}

static void reset(void)
{
    current = -1;
    started = 0;
    step_count = choice_at = sync_count = 0;
    memset(syncs, 0, sizeof syncs);
    memset(&fenced, 0, sizeof fenced);
    for (int i = 0; i < location_count; i++)
        memset((void *)locations[i].at, 0, locations[i].size);
    scenario->init();
    for (int i = 0; i < location_count; i++) {
        location *l = &locations[i];
        l->count = 1;
        l->first = l->lazy = 0;
        l->stores[0].value = load_memory(l);
        memset(l->plain_read, 0, 4 * MODEL_THREADS);
    }
    for (int i = 0; i < thread_count; i++) {
        thread *t = &threads[i];
        t->status = READY;
        t->history = t->on = 0;
        memset(&t->now, 0, sizeof t->now);
        t->now.clock[i] = 1;
        t->acquired = t->released = (view){0};
    }
}

/* The thread that ran last comes first, so that early paths have few switches. Returns how many. */
static int list_enabled(int last, int *list)
{
    int n = 0;

    for (int i = 0; i < thread_count; i++) {
        int t = (last + i) % thread_count;
        if (is_enabled(&threads[t]))
            list[n++] = t;
    }
    return n;
}

static int all_ended(void)
{
    for (int i = 0; i < thread_count; i++)
        if (threads[i].status != ENDED)
            return 0;
    return 1;
}

static void execute(void)
{
    int list[MODEL_THREADS], n, last = 0;

    reset();
    executions++;
    while ((n = list_enabled(last, list))) {
        if (choice_at == choice_count) {
            if (!add_state(hash_state()))
                return;
            states++;
        }
        last = list[choose(n)];
        resume(last);
        current = -1;
    }
    if (!all_ended())
        model_violated("every thread that has not ended waits for ever");
    if (scenario->check)
        scenario->check();
}

void model_run(const model_scenario *s)
{
    scenario = s;
    location_count = choice_count = 0;
    executions = states = 0;
    free(visited);
    visited = NULL;
    visited_size = visited_count = 0;
    for (thread_count = 0; thread_count < MODEL_THREADS && s->threads[thread_count];)
        thread_count++;
    do
        execute();
    while (backtrack());
    for (int i = 0; i < MODEL_THREADS; i++) {
        free(threads[i].stack);
        threads[i].stack = NULL;
    }
    for (int i = 0; i < region_count; i++) /* for the next scenario */
        memset((void *)regions[i].begin, 0, regions[i].end - regions[i].begin);
    region_count = 0;
    owned = 0;
    printf("ok %s: %" PRIu64 " states, %" PRIu64 " paths\n", s->name, states, executions);
    fflush(stdout);
}

/* ---------------------------------------------------------------- memory */

void model_share(const char *name, void *memory, size_t size)
{
    for (int i = 0; i < region_count; i++)
        if (regions[i].begin == (uintptr_t)memory)
            return;
    if (region_count == REGIONS)
        model_violated("too many regions for this checker");
    regions[region_count].name = name;
    regions[region_count].begin = (uintptr_t)memory;
    regions[region_count++].end = (uintptr_t)memory + size;
}

static int is_shared(uintptr_t at)
{
    for (int i = 0; i < region_count; i++)
        if (at >= regions[i].begin && at < regions[i].end)
            return 1;
    return 0;
}

void model_own(const void *word)
{
    owned = (uintptr_t)word;
}

/* The location there, made when it is met first. */
static location *locate(uintptr_t at, size_t size)
{
    location *l;

    for (int i = 0; i < location_count; i++)
        if (locations[i].at == at)
            return &locations[i];
    if (!is_shared(at))
        model_violated("an atomic operation on memory that is not declared to be shared");
    if (location_count == LOCATIONS)
        model_violated("too many locations for this checker");
    l = &locations[location_count++];
    memset(l, 0, sizeof *l);
    l->at = at;
    l->size = size;
    l->count = 1;
    l->stores[0].value = load_memory(l);
    return l;
}

static int index_of(const location *l)
{
    return (int)(l - locations);
}

static void join(view *to, const view *from)
{
    for (int i = 0; i < LOCATIONS; i++)
        to->seen[i] = to->seen[i] > from->seen[i] ? to->seen[i] : from->seen[i];
    for (int i = 0; i < MODEL_THREADS; i++)
        to->clock[i] = to->clock[i] > from->clock[i] ? to->clock[i] : from->clock[i];
}

static void join_seen(view *to, const view *from)
{
    view seen = *from;

    memset(seen.clock, 0, sizeof seen.clock);
    join(to, &seen);
}

/* No access of that kind by another thread may be unordered with this one. */
static void check_ordered(const uint8_t *clocks, const char *what)
{
    for (int t = 0; t < thread_count; t++)
        if (t != current && clocks[t] > threads[current].now.clock[t])
            model_violated(what);
}

static uint8_t clock_now(void)
{
    return threads[current].now.clock[current];
}

/* What comes after is not part of what was published. */
static void advance_clock(void)
{
    if (++threads[current].now.clock[current] == UINT8_MAX)
        model_violated("too many releases for this checker");
}

static void observe(uint64_t value)
{
    threads[current].history = mix(threads[current].history, value);
}

static int is_acquire(int order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
           order == __ATOMIC_SEQ_CST;
}

static int is_release(int order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

/* The oldest store that this thread may read. */
static int oldest(const location *l, int order)
{
    int index = index_of(l), from = threads[current].now.seen[index];

    if (order == __ATOMIC_SEQ_CST && fenced.seen[index] > from)
        from = fenced.seen[index];
    return from > l->first ? from : l->first;
}

static uint64_t read_store(location *l, int which, int order)
{
    thread *t = &threads[current];
    const store *s = &l->stores[which];

    check_ordered(l->plain_write, "a data race: an atomic load, a plain write");
    t->now.seen[index_of(l)] = (uint8_t)which;
    join(is_acquire(order) ? &t->now : &t->acquired, &s->view);
    l->atomic_read[current] = clock_now();
    observe(s->value);
    return s->value;
}

static store *append(location *l)
{
    if (l->count == STORES)
        model_violated("too many stores for this checker");
    threads[current].now.seen[index_of(l)] = (uint8_t)l->count;
    return &l->stores[l->count++];
}

static void set_memory(const location *l, uint64_t value)
{
    memcpy((void *)l->at, &value, l->size);
}

static void add_store(location *l, uint64_t value, int order, const view *chain)
{
    thread *t = &threads[current];
    store *s;

    if (l->at == owned && current != 0)
        model_violated("a store to what the first thread owns");
    check_ordered(l->plain_write, "a data race: an atomic store, a plain write");
    check_ordered(l->plain_read, "a data race: an atomic store, a plain read");
    s = append(l);
    s->value = value;
    s->view = is_release(order) ? t->now : t->released;
    s->view.seen[index_of(l)] = (uint8_t)(l->count - 1);
    if (chain)
        join(&s->view, chain);
    if (order == __ATOMIC_SEQ_CST)
        fenced.seen[index_of(l)] = (uint8_t)(l->count - 1);
    l->atomic_write[current] = clock_now();
    if (is_release(order))
        advance_clock();
    set_memory(l, value);
}

static uint64_t do_load(uintptr_t at, size_t size, int order)
{
    location *l;
    uint64_t value;
    int from, which;

    if (at != owned || current != 0)
        yield();
    l = locate(at, size);
    last_value(l);
    from = oldest(l, order);
    which = l->count - 1 - choose(l->count - from);
    value = read_store(l, which, order);
    note("load", at, value, which);
    return value;
}

static void do_store(uintptr_t at, size_t size, uint64_t value, int order)
{
    location *l;

    yield();
    l = locate(at, size);
    last_value(l);
    check_ordered(l->atomic_write, "two stores that nothing orders");
    add_store(l, value, order, NULL);
    note("store", at, value, l->count - 1);
}

enum { ADD, SUB, AND, OR, XOR, NAND, EXCHANGE };

static uint64_t combine(int kind, uint64_t old, uint64_t value)
{
    switch (kind) {
    case ADD:
        return old + value;
    case SUB:
        return old - value;
    case AND:
        return old & value;
    case OR:
        return old | value;
    case XOR:
        return old ^ value;
    case NAND:
        return ~(old & value);
    default:
        return value;
    }
}

static uint64_t cut(uint64_t value, size_t size)
{
    return size == 8 ? value : value & (((uint64_t)1 << (8 * size)) - 1);
}

static uint64_t replace(location *l, uint64_t value, int order)
{
    int last = l->count - 1;
    uint64_t old = read_store(l, last, order);
    view chain = l->stores[last].view;

    add_store(l, value, order, &chain);
    return old;
}

static uint64_t do_update(uintptr_t at, size_t size, int kind, uint64_t value, int order)
{
    location *l;
    uint64_t old;

    yield();
    l = locate(at, size);
    old = last_value(l);
    replace(l, cut(combine(kind, old, value), size), order);
    note("update", at, cut(combine(kind, old, value), size), l->count - 1);
    return old;
}

/* It fails for a store that differs, which may be an old one. That a weak one may fail for no reason is left out. */
static int do_compare(uintptr_t at, size_t size, uint64_t *expected, uint64_t value, int order,
                      int failure)
{
    location *l;
    int options[STORES], n = 0, which;

    yield();
    l = locate(at, size);
    if (last_value(l) == *expected)
        options[n++] = l->count - 1;
    for (int i = l->count - 1; i >= oldest(l, failure); i--)
        if (l->stores[i].value != *expected)
            options[n++] = i;
    which = n ? options[choose(n)] : l->count - 1; /* the last one is always among them */
    if (l->stores[which].value == *expected) {
        replace(l, value, order);
        note("exchanged", at, value, l->count - 1);
        return 1;
    }
    *expected = read_store(l, which, failure);
    note("not exchanged", at, *expected, which);
    return 0;
}

static void fence_thread(thread *t)
{
    join(&t->now, &t->acquired);
    join_seen(&fenced, &t->now);
    join_seen(&t->now, &fenced);
    t->released = t->now;
}

static void do_fence(int order)
{
    thread *t = &threads[current];

    if (order == __ATOMIC_SEQ_CST) {
        yield();
        note("fence", 0, 0, -1);
        fence_thread(t);
        advance_clock();
        return;
    }
    if (is_acquire(order))
        join(&t->now, &t->acquired);
    if (is_release(order)) {
        t->released = t->now;
        advance_clock();
    }
}

/* ---------------------------------------------------------------- plain accesses */

static location *plain_at(uintptr_t word)
{
    return is_shared(word) ? locate(word, 8) : NULL;
}

static void read_word(uintptr_t word)
{
    location *l = plain_at(word);

    if (!l)
        return;
    check_ordered(l->plain_write, "a data race: a plain read, a plain write");
    check_ordered(l->atomic_write, "a data race: a plain read, an atomic store");
    l->plain_read[current] = clock_now();
    observe(load_memory(l));
}

static void write_word(uintptr_t word)
{
    location *l = plain_at(word);

    if (!l)
        return;
    check_ordered(l->plain_write, "a data race: two plain writes");
    check_ordered(l->plain_read, "a data race: a plain write, a plain read");
    check_ordered(l->atomic_write, "a data race: a plain write, an atomic store");
    check_ordered(l->atomic_read, "a data race: a plain write, an atomic load");
    append(l)->view = (view){0};
    l->first = l->count - 1;
    l->lazy = 1;
    l->plain_write[current] = clock_now();
}

static void plain(void *memory, size_t size, void (*access)(uintptr_t word))
{
    uintptr_t at = (uintptr_t)memory;

    if (current >= 0)
        for (uintptr_t word = at & ~(uintptr_t)7; word < at + size; word += 8)
            access(word);
}

/* Memory that no access has met is zero and stays so. */
void *model_memset(void *memory, int value, size_t size)
{
    uintptr_t at = (uintptr_t)memory;

    if (current < 0 || value != 0)
        return memset(memory, value, size);
    for (int i = 0; i < location_count; i++)
        if (locations[i].at >= at && locations[i].at < at + size) {
            write_word(locations[i].at);
            memset((void *)locations[i].at, 0, locations[i].size);
        }
    return memory;
}

/* ---------------------------------------------------------------- waiting, the kernel, libc */

void model_await(const void *word, size_t size, uint64_t old)
{
    thread *t = &threads[current];
    location *l;

    t->status = AWAITS;
    t->on = (uintptr_t)word;
    t->size = size;
    t->old = old;
    yield();
    t->status = READY;
    t->on = 0;
    l = locate((uintptr_t)word, size);
    read_store(l, l->count - 1, __ATOMIC_RELAXED);
    note("awaited", l->at, last_value(l), l->count - 1);
}

/* membarrier(): each other thread goes through a full fence, at some moments before it returns. */
static void fence_all(void)
{
    yield();
    fence_thread(&threads[current]);
    for (int t = 0; t < thread_count; t++) {
        if (t == current)
            continue;
        yield();
        note("interrupts", 0, (uint64_t)t, -1);
        fence_thread(&threads[t]);
    }
    yield();
    fence_thread(&threads[current]);
    advance_clock();
}

static void take(sync *s)
{
    s->owner = current + 1;
    join(&threads[current].now, &s->view);
}

static void give(sync *s)
{
    s->owner = 0;
    join(&s->view, &threads[current].now);
    advance_clock();
}

int model_mutex_lock(void *mutex)
{
    thread *t = &threads[current];

    if (current < 0)
        return 0;
    t->status = LOCKING;
    t->on = (uintptr_t)mutex;
    yield();
    t->status = READY;
    t->on = 0;
    take(sync_at((uintptr_t)mutex));
    note("locks", (uintptr_t)mutex, 0, -1);
    return 0;
}

int model_mutex_unlock(void *mutex)
{
    if (current >= 0)
        give(sync_at((uintptr_t)mutex));
    return 0;
}

static void fall_asleep(const void *on)
{
    thread *t = &threads[current];

    t->status = ASLEEP;
    t->on = (uintptr_t)on;
    note("sleeps", t->on, 0, -1);
    yield();
    t->on = 0;
}

static void wake(const void *on)
{
    for (int i = 0; i < thread_count; i++)
        if (threads[i].status == ASLEEP && threads[i].on == (uintptr_t)on)
            threads[i].status = READY;
    note("wakes", (uintptr_t)on, 0, -1);
}

int model_cond_wait(void *cond, void *mutex, const void *until)
{
    (void)until; /* no time passes: a wake-up that only a deadline makes good is lost */
    model_mutex_unlock(mutex);
    fall_asleep(cond);
    return model_mutex_lock(mutex);
}

int model_cond_broadcast(void *cond)
{
    wake(cond);
    return 0;
}

/* Linux orders both sides by full barriers and by the lock of a hash bucket, under which it reads the word. */
static long futex(void *word, int operation, uint32_t key)
{
    sync *bucket;
    location *l;
    int which;

    yield();
    bucket = sync_at((uintptr_t)word);
    fence_thread(&threads[current]);
    take(bucket);
    if ((operation & FUTEX_CMD_MASK) == FUTEX_WAKE) {
        wake(word);
        give(bucket);
        return 0;
    }
    l = locate((uintptr_t)word, sizeof(uint32_t));
    which = l->count - 1 - choose(l->count - oldest(l, __ATOMIC_RELAXED));
    if (read_store(l, which, __ATOMIC_RELAXED) == key) {
        give(bucket);
        fall_asleep(word);
        return 0;
    }
    give(bucket);
    note("does not sleep", (uintptr_t)word, l->stores[which].value, which);
    errno = EAGAIN;
    return -1;
}

long model_syscall(long number, ...)
{
    va_list arguments;
    uint32_t key;
    void *word;
    int operation;

    if (number == SYS_membarrier) {
        fence_all();
        return 0;
    }
    if (number != SYS_futex)
        model_violated("a system call that this checker does not know");
    va_start(arguments, number);
    word = va_arg(arguments, void *);
    operation = va_arg(arguments, int);
    key = va_arg(arguments, uint32_t);
    va_end(arguments);
    return futex(word, operation, key);
}

/* ---------------------------------------------------------------- what -fsanitize=thread calls */

#define HOOK(result, name) \
    result name;           \
    result name

HOOK(void, __tsan_init(void))
{
}
HOOK(void, __tsan_func_entry(void *caller))
{
    (void)caller;
}
HOOK(void, __tsan_func_exit(void))
{
}

#define PLAIN(bits)                                    \
    HOOK(void, __tsan_read##bits(void *at))            \
    {                                                  \
        plain(at, bits, read_word);                    \
    }                                                  \
    HOOK(void, __tsan_write##bits(void *at))           \
    {                                                  \
        plain(at, bits, write_word);                   \
    }                                                  \
    HOOK(void, __tsan_unaligned_read##bits(void *at))  \
    {                                                  \
        plain(at, bits, read_word);                    \
    }                                                  \
    HOOK(void, __tsan_unaligned_write##bits(void *at)) \
    {                                                  \
        plain(at, bits, write_word);                   \
    }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

HOOK(void, __tsan_read_range(void *at, unsigned long size))
{
    plain(at, size, read_word);
}
HOOK(void, __tsan_write_range(void *at, unsigned long size))
{
    plain(at, size, write_word);
}
HOOK(void, __tsan_atomic_signal_fence(int order))
{
    (void)order;
}

HOOK(void, __tsan_atomic_thread_fence(int order))
{
    if (current >= 0)
        do_fence(order);
}

#define UPDATE(bits, name, kind, fallback)                                                     \
    HOOK(uint##bits##_t, __tsan_atomic##bits##_##name(volatile uint##bits##_t *at,             \
                                                      uint##bits##_t value, int order))        \
    {                                                                                          \
        return current < 0                                                                     \
                   ? fallback(at, value, __ATOMIC_SEQ_CST)                                     \
                   : (uint##bits##_t)do_update((uintptr_t)at, sizeof *at, kind, value, order); \
    }

#define COMPARE(bits, strength)                                                                \
    HOOK(int, __tsan_atomic##bits##_compare_exchange_##strength(                               \
                  volatile uint##bits##_t *at, uint##bits##_t *expected, uint##bits##_t value, \
                  int order, int failure))                                                     \
    {                                                                                          \
        uint64_t wanted = *expected;                                                           \
        int done;                                                                              \
                                                                                               \
        if (current < 0)                                                                       \
            return __atomic_compare_exchange_n(at, expected, value, 0, __ATOMIC_SEQ_CST,       \
                                               __ATOMIC_SEQ_CST);                              \
        done = do_compare((uintptr_t)at, sizeof *at, &wanted, value, order, failure);          \
        *expected = (uint##bits##_t)wanted;                                                    \
        return done;                                                                           \
    }

#define ATOMIC(bits)                                                                               \
    HOOK(uint##bits##_t, __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order)) \
    {                                                                                              \
        return current < 0 ? *at : (uint##bits##_t)do_load((uintptr_t)at, sizeof *at, order);      \
    }                                                                                              \
    HOOK(void, __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value,      \
                                           int order))                                             \
    {                                                                                              \
        if (current < 0)                                                                           \
            *at = value;                                                                           \
        else                                                                                       \
            do_store((uintptr_t)at, sizeof *at, value, order);                                     \
    }                                                                                              \
    UPDATE(bits, exchange, EXCHANGE, __atomic_exchange_n)                                          \
    UPDATE(bits, fetch_add, ADD, __atomic_fetch_add)                                               \
    UPDATE(bits, fetch_sub, SUB, __atomic_fetch_sub)                                               \
    UPDATE(bits, fetch_and, AND, __atomic_fetch_and)                                               \
    UPDATE(bits, fetch_or, OR, __atomic_fetch_or)                                                  \
    UPDATE(bits, fetch_xor, XOR, __atomic_fetch_xor)                                               \
    UPDATE(bits, fetch_nand, NAND, __atomic_fetch_nand)                                            \
    COMPARE(bits, strong)                                                                          \
    COMPARE(bits, weak)
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)
