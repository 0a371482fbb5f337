/* Lists of partitions as calls bring them, and the consumer's table of them, against a plain list: every number a caller may
 * give, names of any kind, found again and walked over in order. */
#include "fuzz.h"
#include "ka_consumer.h"

enum { KNOWN = 64, TOPICS = 4, LISTED = 8 };

typedef struct {
    int topic;
    int32_t number;
    partition *p;
} known;

static ka_consumer *c;
static known table[KNOWN];
static int count;
static char *names[TOPICS];

static int32_t any_number(fuzz_input *in)
{
    uint64_t kind = fuzz_number(in, 1);

    return kind < 200 ? (int32_t)(kind % 8) : (int32_t)(fuzz_number(in, 4) & INT32_MAX);
}

static const known *find(int topic_index, int32_t number)
{
    for (int i = 0; i < count; i++)
        if (table[i].number == number && strcmp(names[table[i].topic], names[topic_index]) == 0)
            return &table[i];
    return NULL;
}

static void add(fuzz_input *in)
{
    int topic_index = (int)fuzz_below(in, TOPICS);
    int32_t number = any_number(in);
    const known *k = find(topic_index, number);
    partition *p;

    if (!k && count == KNOWN)
        return;
    p = kai_partition_find(c, kai_topic_find(c, names[topic_index]), number);
    FUZZ_CHECK(p && p->number == number && strcmp(p->topic, names[topic_index]) == 0);
    FUZZ_CHECK(c->topics[p->topic_number]->name == p->topic && (!k || k->p == p));
    if (!k)
        table[count++] = (known){topic_index, number, p};
    p->told = (int)fuzz_below(in, 2);
}

static void look_up(fuzz_input *in)
{
    int topic_index = (int)fuzz_below(in, TOPICS);
    int32_t number = any_number(in);
    const known *k = find(topic_index, number);

    FUZZ_CHECK(kai_partition_at(c, names[topic_index], number) == (k ? k->p : NULL));
    FUZZ_CHECK(kai_partition_told(c, names[topic_index], number) ==
               (k && k->p->told ? k->p : NULL));
}

/* Each once, topic by topic, by number. */
static void walk(int all)
{
    const partition *p, *last = NULL;
    int seen = 0, expected = 0;

    for (place at = {0}; (p = kai_partition_next(c, &at, all)); last = p, seen++) {
        FUZZ_CHECK(all || p->told);
        FUZZ_CHECK(!last || last->topic_number < p->topic_number ||
                   (last->topic_number == p->topic_number && last->number < p->number));
    }
    for (int i = 0; i < count; i++)
        expected += all || table[i].p->told;
    FUZZ_CHECK(seen == expected);
}

static int run_nothing(consumer_command *command)
{
    (void)command;
    return KA_OK;
}

/* A list goes into a command, and comes back as its answer, cut to the size asked for. */
static void list(fuzz_input *in)
{
    ka_partition given[LISTED], back[LISTED];
    int64_t n = (int64_t)fuzz_below(in, LISTED + 1), size = (int64_t)fuzz_below(in, LISTED + 1);
    consumer_command *command;

    for (int64_t i = 0; i < n; i++)
        given[i] = (ka_partition){.topic = names[fuzz_below(in, TOPICS)],
                                  .partition = (int32_t)fuzz_number(in, 4),
                                  .offset = (int64_t)fuzz_number(in, 8)};
    command = kai_command_new(c, run_nothing, given, n);
    FUZZ_CHECK(kai_command_submit(command) == &command->base && kai_commands_run(c) == 1);
    FUZZ_CHECK(ka_try_command(&command->base, NULL) == KA_OK);
    FUZZ_CHECK(ka_consumer_answer(&command->base, back, size) == n);
    for (int64_t i = 0; i < n && i < size; i++)
        FUZZ_CHECK(strcmp(back[i].topic, given[i].topic) == 0 && !back[i].error &&
                   back[i].partition == given[i].partition && back[i].offset == given[i].offset);
    ka_command_release(&command->base);
}

static void open_consumer(fuzz_input *in)
{
    c = aligned_alloc(KAI_CACHE_LINE, (sizeof *c + 63) & ~(size_t)63);
    memset(c, 0, sizeof *c);
    kai_process_init();
    c->process = atomic_load(&kai_process);
    atomic_init(&c->references, 1);
    c->last_command = &c->first_command;
    pthread_mutex_init(&c->lock, NULL);
    kai_wake_init(&c->ready);
    kai_wake_init(&c->worker.wake);
    kai_control_init(&c->control, "fuzz");
    count = 0;
    for (int i = 0; i < TOPICS; i++)
        names[i] = fuzz_text(in, (size_t)fuzz_below(in, 6)); /* some may be the same */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};

    open_consumer(&in);
    while (in.left) {
        switch (fuzz_below(&in, 4)) {
        case 0:
            look_up(&in);
            break;
        case 1:
            list(&in);
            break;
        default:
            add(&in);
        }
        walk(0);
        walk(1);
    }
    kai_consumer_unreference(c);
    for (int i = 0; i < TOPICS; i++)
        free(names[i]);
    return 0;
}
