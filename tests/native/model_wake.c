/* The wake-up under the model checker, csrc/ka_wake.c as it is: no notification is lost. Whoever sleeps does so without a
 * deadline, so that a lost one leaves a thread that waits for ever. */
#include "ka.h"
#include "ka_bell.h"
#include "ka_ring.h"
#include "ka_wake.h"
#include "model.h"

enum { SMALL = 64, LEN = 8 };

static kai_wake event;
static _Atomic int32_t steps;
static kai_ring ring;
static char memory[4096] __attribute__((aligned(64)));

/* No bell hangs here. */
void kai_bell_reference(ka_bell *bell)
{
    (void)bell;
}

void kai_bell_unreference(ka_bell *bell)
{
    (void)bell;
}

void kai_bell_ring(ka_bell *bell)
{
    (void)bell;
}

static void init(void)
{
    event = (kai_wake)KAI_WAKE_STATIC;
    atomic_init(&steps, 0);
    ring.memory = memory;
    ring.capacity = ring.keep = SMALL;
    ring.page = 4096;
    atomic_init(&ring.tail, 0);
    atomic_init(&ring.head_seen, 0);
    atomic_init(&ring.head, 0);
    model_share("sequence", &event.sequence, sizeof event.sequence);
    model_share("sleepers", &event.sleepers, sizeof event.sleepers);
    model_share("bell", &event.bell, sizeof event.bell);
    model_share("steps", &steps, sizeof steps);
    model_share("tail", &ring.tail, sizeof ring.tail);
    model_share("head_seen", &ring.head_seen, sizeof ring.head_seen);
    model_share("head", &ring.head, sizeof ring.head);
    model_share("memory", memory, SMALL);
    model_own(&ring.head);
}

/* The weakest condition there is. */
static int64_t check_steps(void *self, int64_t wanted)
{
    (void)self;
    return atomic_load_explicit(&steps, memory_order_relaxed) >= wanted ? KA_OK : KA_EMPTY;
}

static void wait_for(int64_t wanted)
{
    MODEL_CHECK(kai_wait_until(&event, -1, check_steps, NULL, wanted) == KA_OK);
}

static void sleep_once(void)
{
    wait_for(1);
}

static void sleep_until_two(void)
{
    wait_for(2);
}

static void sleep_twice(void)
{
    wait_for(1);
    wait_for(2);
}

static void take_step(void)
{
    atomic_fetch_add_explicit(&steps, 1, memory_order_relaxed);
    kai_wake_notify(&event);
}

static void take_two_steps(void)
{
    take_step();
    take_step();
}

static void nobody_sleeps(void)
{
    MODEL_CHECK(event.sleepers == 0);
}

/* The ring and its reader's wake-up together. */
static void send(void)
{
    uint64_t *entry = kai_ring_reserve(&ring, LEN);

    MODEL_CHECK(entry != NULL);
    *entry = 7;
    kai_ring_commit(entry, LEN);
    kai_wake_notify(&event);
}

static void send_two(void)
{
    send();
    send();
}

static int64_t check_entry(void *self, int64_t arg)
{
    (void)arg;
    return kai_ring_next(&ring, &(uint64_t){*(uint64_t *)self}) ? KA_OK : KA_EMPTY;
}

static void receive(int count)
{
    uint64_t pos = kai_ring_head(&ring);

    while (count--) {
        MODEL_CHECK(kai_wait_until(&event, -1, check_entry, &pos, 0) == KA_OK);
        MODEL_CHECK(*(uint64_t *)kai_ring_next(&ring, &pos) == 7);
        kai_ring_release(&ring, pos);
    }
}

static void receive_two(void)
{
    receive(2);
}

int main(void)
{
    static const model_scenario scenarios[] = {
        {"one sleeper", init, {sleep_once, take_step}, nobody_sleeps},
        {"one sleeper, twice", init, {sleep_twice, take_two_steps}, nobody_sleeps},
        {"one sleeper, two notifiers",
         init,
         {sleep_until_two, take_step, take_step},
         nobody_sleeps},
        {"two sleepers", init, {sleep_once, sleep_once, take_step}, nobody_sleeps},
        {"ring and reader", init, {receive_two, send_two}, nobody_sleeps},
    };

    for (unsigned i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        model_run(&scenarios[i]);
    return 0;
}
