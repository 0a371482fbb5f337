/* The consumer's inside: from librdkafka's queues to blocks of messages that Python reads as memory.
 *
 * Who runs what. One worker polls librdkafka, copies each message into a ring and frees it, serves
 * rebalances and commands, stores offsets, closes, and at its end destroys librdkafka's client. The
 * polling thread of the application takes blocks out of the ring. A control thread makes the calls that
 * wait: metadata when there is no group, nudges of an old librdkafka; it exists only then.
 *
 * Two queues. Every assigned partition is forwarded to `messages`, so that librdkafka's own consumer
 * queue holds rebalances and errors alone: they are served however full our ring is.
 *
 * The block. ka_consumer_take() describes up to 256 entries of the ring as rows, and the entries stay
 * where they are until the next take. Python counts in block.handed how many it gave to the
 * application, each time before it gives one, and reads block.generation after that: a change
 * means that some rows may be stale (a partition was revoked, the consumer is closing), so it
 * takes anew, which describes the rows not handed out again, without the stale ones. Both sides may have seen
 * the other's word; then the core says whether that row still counted (ka_consumer_keep()). Thus the core
 * knows at any time, with no call, what the application has: rows before handed are handed out, all
 * of them but the last are processed ("the next one was asked for").
 *
 * Offsets. A partition's `position` is what was handed out + 1, or where it was sought to; `processed` is what
 * may be stored. The worker stores (rd_kafka_offsets_store) what changed: every STORE_NS, before a partition is
 * given up, and when closing; librdkafka's auto-commit does the rest. librdkafka's own position is where
 * the worker is and of no interest: pause and resume, too, go on from ours.
 *
 * Rebalances. Without a callback of the application the worker completes one at once. With one it is put
 * down (rebalance), the polling thread shows it to the application and reports back, and then the worker
 * completes it. A partition is `told` while the application has it, `assigned` while librdkafka reads it for us.
 *
 * ka_consumer.c: open and most callers. ka_block.c: the polling thread's side. ka_consumer_command.c: what
 * is asked of the worker. ka_assignment.c: what is read, and from where. ka_offset.c: storing and
 * committing. ka_ask.c: what the control thread asks the cluster. ka_rebalance.c: the group's part.
 * ka_consumer_worker.c: the worker. ka_partition.c: its table of partitions. ka_receive.c: into the ring.
 * ka_discover.c: partitions without a group. ka_nudge.c: a stall of old librdkafkas.
 */
#ifndef KA_CONSUMER_H
#define KA_CONSUMER_H

#include <pthread.h>
#include <stdatomic.h>

#include <librdkafka/rdkafka.h>

#include "ka.h"
#include "ka_command.h"
#include "ka_headers.h"
#include "ka_hist.h"
#include "ka_oauth.h"
#include "ka_ring.h"
#include "ka_trouble.h"
#include "ka_wake.h"
#include "ka_worker.h"

enum {
    KAI_MAX_INLINE = 1024 * 1024, /* larger messages are malloc'ed beside the ring */
    KAI_MAX_FAILURES = 100,       /* in the ring; more are only logged */
};

/* What a row or an entry may belong to. Lives as long as the consumer. Under lock; the worker alone writes
 * assigned, paused, sought and generation, and reads them without. */
typedef struct partition {
    const char *topic;
    int64_t topic_number;
    int32_t number;
    int told;      /* the application has it, as far as it knows */
    int leaving;   /* it is about to be given up: nothing more is handed out */
    int assigned;  /* librdkafka reads it for us */
    int paused;    /* by the application */
    int sought;    /* librdkafka has yet to be told to go on at kai_partition_next_offset() */
    int corrupt;   /* worker only: given up until it is assigned again or sought */
    int searching; /* worker only: librdkafka looks up the offset to begin at */
    int stopped;   /* worker only: librdkafka has given it up for want of an offset to begin at */
    int fetched;   /* worker only: something of it came since it was assigned or sought */
    int64_t generation; /* differs for every assignment, seek and pause */
    /* Offsets, KA_OFFSET_NONE: none. */
    int64_t begin;     /* where reading begins; may be logical until the first message comes */
    int64_t position;  /* of the next message to hand out; none before the first */
    int64_t processed; /* what may be stored */
    int64_t lacking; /* worker only: there was no memory for this message, reading goes on at it */
    int64_t marked;  /* what the application stored */
    int64_t stored;  /* what librdkafka was given to commit */
    int64_t
        batch_begin; /* where the last batch began, until the next is asked for; KA_OFFSET_NONE: none */
    struct partition *next_moved; /* see kai_partition_moved() */
    int moved;
} partition;

typedef struct {
    char *name;
    const rd_kafka_topic_t *rkt; /* the last one seen with this name: only to compare */
    partition **partitions;      /* by number, which may be any */
    int32_t size;
} topic;

/* Where a walk over the table of partitions is. */
typedef struct {
    int64_t topic;
    int32_t index;
} place;

enum { MESSAGE, FAILURE, END };

/* In the ring: a message, followed by value, key and headers (or external with them); a failure, followed by
 * a ka_error; or the end of a partition. */
typedef struct {
    partition *partition; /* a failure's may be NULL */
    int64_t generation;
    int64_t offset, timestamp_ms;
    int64_t arrived_ns; /* of a message */
    char *external;     /* owned by the entry */
    uint32_t value_len, key_len, headers_len;
    int16_t timestamp_type, kind;
} entry;

/* What is asked of the worker. It is queued, then run; one that is not answered by that is `open` until its
 * answer comes. */
typedef struct consumer_command {
    ka_command base; /* first, so that one can be taken for the other */
    ka_consumer *c;  /* outlives it until it is answered */
    struct consumer_command *next;
    /* On the worker. KA_OK: done; a code of librdkafka (never KA_OK's 0) or KA_NOMEM: failed; LATER. */
    int (*run)(struct consumer_command *command);
    rd_kafka_topic_partition_list_t *list; /* owned; once answered, the answer */
    int how;                               /* KA_REPLACE ... */
    int no_list;                           /* commit what was handed out */
    struct consumer_command *next_commit;  /* in line */
    int waits_for_revoke;                  /* not before the group has taken back what it gave */
    int patient;                           /* is waited for when closing */
    int tries;                             /* of a commit, again */
    /* Of what the control thread runs. */
    kai_job job;
    int64_t deadline_ns;
    rd_kafka_resp_err_t (*ask)(struct consumer_command *command, int timeout_ms);
    rd_kafka_consumer_group_metadata_t *group; /* owned */
} consumer_command;

/* A rebalance that the application is to be told of. FRESH: not yet. SHOWN: its callback runs. DONE: it has
 * run. Under lock; the worker alone makes and frees it. */
typedef struct rebalance {
    struct rebalance *next;
    rd_kafka_topic_partition_list_t
        *list; /* owned; of an assignment, with the offsets to begin at */
    int kind;  /* KA_ON_* */
    int incremental;
    int complete; /* the worker has nothing left to do for it */
    int state;
} rebalance;
enum { FRESH, SHOWN, DONE };

/* Without a group: a topic to find the partitions of. */
typedef struct {
    char *name;
    int32_t known;    /* partitions assigned */
    int32_t found;    /* by the last lookup; < 0: none */
    int32_t reported; /* the error that the application was told last */
    rd_kafka_resp_err_t error;
    int started; /* later partitions are new and are read from their beginning */
} wanted;

/* On both clocks. */
typedef struct {
    int64_t ns, wall_ms;
} instant;

enum { OPEN, CLOSING, CLOSED_DOWN };
enum { LOOKUP_IDLE, LOOKUP_RUNNING, LOOKUP_DONE };

struct ka_consumer {
    kai_trouble trouble; /* first: see ka_trouble.h */

    /* Set once. */
    rd_kafka_t *rk;
    rd_kafka_queue_t *events, *messages;
    ka_consumer_options options;
    char *group;        /* its name, for errors; owned; NULL: no memory */
    int ends;           /* the application wants to know when a partition is read to its end */
    int64_t refresh_ns; /* how often to look for new partitions */
    uint32_t process;
    _Atomic int references; /* the facade's and the worker's; the last one frees */

    /* Callers, poller and worker. */
    _Atomic int state, store_last, polling, want_room, unstored;
    _Atomic int retired;       /* nothing is handed out any more */
    _Atomic int strayed;       /* a partition is not forwarded */
    _Atomic int due;           /* the first rebalance is FRESH */
    _Atomic int expelled;      /* we left the group since the application did not poll */
    _Atomic int returned;      /* it polls again */
    _Atomic int64_t polled_ns; /* the last poll */
    /* Messages into the ring and out of it, which the worker and the poller alone raise: kai_held_messages(). */
    _Atomic uint64_t received, received_bytes;
    _Atomic uint64_t released, released_bytes;
    _Atomic int64_t held_failures, held_ends; /* in the ring */
    kai_ring ring;                            /* worker writes, poller reads */
    kai_wake ready;                           /* for the poller; for close */
    kai_hist arrival; /* the worker adds; to the others the poller, under lock */
    kai_hist ring_latency, block_latency, age;

    pthread_mutex_t
        lock;       /* protects all down to commands; never held during a call of librdkafka */
    ka_block block; /* rows; its two shared words are accessed with word_*() */
    const partition *row_partition[KA_BLOCK];
    int64_t row_generation[KA_BLOCK];
    uint64_t row_end[KA_BLOCK]; /* ring position behind the row's entry */
    uint64_t block_start, block_end;
    instant block_taken; /* when it was filled */
    int64_t row_arrived_ns[KA_BLOCK];
    int64_t noted;                 /* rows whose latencies were added */
    int64_t positioned, processed; /* rows that position and processed have seen */
    int64_t counted;               /* the last row that a position is behind of, + 1 */
    partition *moved;              /* see kai_partition_moved() */
    rebalance *first_rebalance;
    int forfeited; /* the assignment was lost; nothing can be committed until there is a new one */
    int64_t handed_out, purged; /* of blocks before this one */
    int64_t batch_count;        /* of the last batch */
    topic **topics;
    int64_t topic_count;
    int64_t generations;
    consumer_command *first_command, **last_command;
    consumer_command *open_commands;

    /* Worker only. */
    kai_worker worker;
    topic *last_topic;
    int64_t stored_ns, seek_ns;
    int64_t arrived_ns,
        wall_ns;     /* of what arrives now; wall_ns: the wall clock minus the monotonic one */
    int64_t largest; /* message of the last batch */
    consumer_command *first_commit;                /* in line */
    int committing;                                /* the first one is on its way */
    rd_kafka_resp_err_t commit_code;               /* of the last commit that was told of */
    rd_kafka_topic_partition_list_t *subscription; /* in a group; NULL: none */
    int64_t max_poll_ns, handed_seen;
    int64_t given; /* partitions that librdkafka was given by the group */
    int was_given, cooperative;
    int revoke_due;  /* we left; the group has yet to take them back */
    int in_steps;    /* group.protocol=consumer */
    int keeps_quiet; /* a static member of a classic group */
    int changing;    /* with that one, the group has taken back and not given yet */
    int leave_due;   /* we leave when it has given */

    /* Since librdkafka's queue was empty; see ka_nudge.c. */
    int64_t fresh_messages, fresh_bytes, nudged_ns;
    int nudge_due;
    kai_job nudge;
    rd_kafka_topic_partition_list_t *nudged; /* the nudge's */
    _Atomic int nudging;                     /* a nudge is under way */

    /* Without a group. The worker's but while a lookup runs; lookup says which. */
    wanted *wanted;
    int64_t wanted_count;
    int64_t discover_ns;
    _Atomic int lookup;
    kai_sasl sasl;
    kai_job look;
    kai_control control;
};

/* The two words of the block that Python reads and writes as plain memory. */
#define word_load(word) __atomic_load_n((word), __ATOMIC_SEQ_CST)
#define word_store(word, value) __atomic_store_n((word), (value), __ATOMIC_SEQ_CST)

static inline int kai_consumer_is_foreign(const ka_consumer *c)
{
    return c->process != atomic_load_explicit(&kai_process, memory_order_relaxed);
}

/* What the ring holds. Never negative: what came out of it is read first. */
static inline int64_t kai_held_messages(const ka_consumer *c)
{
    uint64_t released = atomic_load(&c->released);

    return (int64_t)(atomic_load(&c->received) - released);
}

static inline int64_t kai_held_bytes(const ka_consumer *c)
{
    uint64_t released = atomic_load(&c->released_bytes);

    return (int64_t)(atomic_load(&c->received_bytes) - released);
}

static inline int64_t kai_entry_bytes(const entry *e)
{
    return (int64_t)kai_part_len(e->value_len) + kai_part_len(e->key_len) + e->headers_len;
}

/* ka_consumer.c */

/* Drop one of the two references. */
void kai_consumer_unreference(ka_consumer *c);
/* What must be there: a place in a ring that is sized for it, a partition that was prepared. */
void *kai_must(void *memory);
/* On the worker: wait a moment for memory. 0: it is not worth it, since nobody will read any more. */
int kai_await_memory(ka_consumer *c);
void kai_consumer_log(ka_consumer *c, int level, const char *facility, const char *text);
/* The same of librdkafka's error object (NULL: none), which is destroyed. */
void kai_consumer_log_error(ka_consumer *c, const char *facility, rd_kafka_error_t *error);

/* ka_block.c */

/* Add the time from a message's timestamp, which is whatever a producer wrote, to now. */
void kai_age_note(kai_hist *hist, int64_t type, int64_t timestamp_ms, int64_t wall_ms);

/* The rest under lock. */

/* Bring positions up to what Python has handed out, and processed up to all of it (the next one
 * is being asked for) or all but the one in hand. Returns whether more is processed now. */
int kai_block_settle(ka_consumer *c, int all);
/* Add the latencies of rows that were handed out; not of all rows, since a block may be described again. */
void kai_block_note(ka_consumer *c);
/* Some rows may be stale: none is handed out before another look at its generation. Positions are settled up
 * to what was handed out before. */
void kai_block_invalidate(ka_consumer *c);

/* ka_consumer_command.c */

enum { LATER = 1 }; /* no code of librdkafka that a command could meet */

/* With a copy of the partitions, KA_OFFSET_NONE where they have none. NULL: no memory. */
consumer_command *kai_command_new(ka_consumer *c, int (*run)(consumer_command *command),
                                  const ka_partition *partitions, int64_t count);
/* Hand it to the worker; command may be NULL. */
ka_command *kai_command_submit(consumer_command *command);
/* Answer one that is open, with a code of librdkafka or KA_NOMEM. Any native thread. */
void kai_command_close(consumer_command *command, int code, const char *text);
/* All on the worker. */
int kai_commands_run(ka_consumer *c);
/* No more are taken: refuse what is queued, and answer what is open, but for patient ones, which run. */
void kai_commands_refuse(ka_consumer *c);
/* librdkafka answers no more: refuse what is still open. */
void kai_commands_end(ka_consumer *c);

/* ka_assignment.c; on the worker */

/* Tell librdkafka of partitions that were sought. Returns when to look again. */
int64_t kai_seek_all(ka_consumer *c, int64_t now);
/* Whether the protocol of the group, which librdkafka goes by even when it has been left, is this one. */
int kai_protocol_is(const ka_consumer *c, const char *name);

/* ka_rebalance.c; on the worker */

/* Callback of librdkafka. */
void kai_on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                      rd_kafka_topic_partition_list_t *list, void *opaque);
/* Complete what the application's callbacks have seen. Returns whether there was something. */
int kai_rebalances_serve(ka_consumer *c);
/* Complete all of them without the application. */
void kai_rebalances_drop(ka_consumer *c);
/* Free them all, at the very end. */
void kai_rebalances_free(ka_consumer *c);
/* The polling thread takes the first one, to run its callback; again, if an exception kept it from that. Returns
 * whether there was one. Under lock. */
int kai_rebalance_show(ka_consumer *c);
/* Leave, with group.protocol=consumer not in the midst of a change of the assignment: librdkafka 2.14.2 then ends up
 * between the states, and Kafka calls its next heartbeat invalid, which is fatal. */
rd_kafka_resp_err_t kai_group_leave(ka_consumer *c);
/* Leave the group when the application has not polled for too long, and come back when it does. Returns
 * when to look again. */
int64_t kai_liveness_serve(ka_consumer *c, int64_t now);

/* ka_offset.c; on the worker */

/* Give offsets that changed to librdkafka, for auto-commit to commit. */
void kai_offsets_store(ka_consumer *c);
/* Let librdkafka commit nothing more of these, which were lost. It may have a new member id by then, drops that one
 * when the group refuses the commit, and then the group waits for it until its session ends. */
void kai_offsets_forget(ka_consumer *c, const rd_kafka_topic_partition_list_t *list);
/* Give librdkafka the next commit when it is done with the last. Returns how many were begun. */
int kai_commits_serve(ka_consumer *c);
/* Give librdkafka all commits that wait for their turn: it is closing. */
void kai_commits_hurry(ka_consumer *c);
/* Callback of librdkafka: of auto-commit. */
void kai_on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t code,
                   rd_kafka_topic_partition_list_t *offsets, void *opaque);

/* ka_partition.c; all on the worker */

/* Find or make; they live as long as the consumer. NULL: no memory. */
topic *kai_topic_find(ka_consumer *c, const char *name);
partition *kai_partition_find(ka_consumer *c, topic *t, int32_t number);
/* Have all of these in the table. 0: no memory. */
int kai_partitions_prepare(ka_consumer *c, const rd_kafka_topic_partition_list_t *list);
/* The next partition of the table that the application has, or with all set, that there is; NULL at the end.
 * *at is zero at first. Also for others than the worker, under lock. */
partition *kai_partition_next(const ka_consumer *c, place *at, int all);
/* One that is in the table, or NULL; one that the application has. Both under lock, any thread. */
partition *kai_partition_at(const ka_consumer *c, const char *topic_name, int32_t number);
partition *kai_partition_told(const ka_consumer *c, const char *topic_name, int32_t number);
/* Its position is no longer what was handed out: it counts as processed when the next message is asked
 * for. Under lock. */
void kai_partition_moved(ka_consumer *c, partition *p);
/* Where reading goes on after what was handed out; may be logical, KA_OFFSET_NONE: not known. */
int64_t kai_partition_next_offset(const partition *p);
/* A message's partition, or NULL when it has none, or there is no memory for one that is not assigned. */
partition *kai_partition_of(ka_consumer *c, const rd_kafka_message_t *m);
/* Of what is prepared, before librdkafka may fetch: what arrives must find its partition current and come
 * through our queue. Where the application sought or paused one in its callback, that stands, also in the list. */
void kai_partitions_adopt(ka_consumer *c, rd_kafka_topic_partition_list_t *list);
/* Let a partition's messages come through our queue, those included that wait in its own. */
void kai_partition_forward(ka_consumer *c, const partition *p);
/* Forward every assigned partition again. librdkafka ends the forwarding when it has stopped fetching
 * for an assignment, which may be after we began the next one of the same partition. */
void kai_partitions_forward(ka_consumer *c);
/* Nothing of these partitions (NULL: of any) is handed out from now on; what was processed of them
 * is stored, while they are still ours. */
void kai_partitions_abandon(ka_consumer *c, const rd_kafka_topic_partition_list_t *list);

/* ka_receive.c; all on the worker */

/* Move what librdkafka has into the ring, while there is room. Returns how much that was. */
int kai_receive(ka_consumer *c);
/* Trouble that passes is logged and survived; the rest is for the application. */
void kai_report(ka_consumer *c, partition *p, int64_t offset, rd_kafka_resp_err_t code,
                const char *text);
/* An error for the application to meet in its order among the messages; p may be NULL. */
void kai_push_failure(ka_consumer *c, partition *p, int64_t offset, const ka_error *error);
/* Tell the application of a mistake that keeps the cluster away. Returns whether there was one. */
int kai_tell_trouble(ka_consumer *c);
/* Callback of librdkafka. */
void kai_on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque);

/* ka_discover.c; all on the worker */

/* Look for partitions when it is time, and read those that were found. */
int kai_discover(ka_consumer *c);
/* Look for partitions of these topics (NULL: of none) from now on. Not while a lookup runs. 0: no memory, and nothing
 * has changed; not for NULL. */
int kai_wanted_set(ka_consumer *c, const rd_kafka_topic_partition_list_t *list);

/* ka_nudge.c; both on the worker */

/* librdkafka's queue has run empty. */
void kai_nudge_empty(ka_consumer *c);
/* Wake librdkafka's fetchers if they may sleep for no reason. Returns when to look again. */
int64_t kai_nudge(ka_consumer *c);

/* ka_consumer_worker.c */

int64_t kai_consumer_step(void *self);
void kai_consumer_end(void *self);

#endif
