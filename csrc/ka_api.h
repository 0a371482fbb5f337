/* kafka_async: the contract between the native core and Python.
 *
 * This file is read unmodified by the C compiler (through ka.h) and by cffi, so it
 * holds no preprocessor line and no attribute. What Python can do is what stands here.
 *
 * Names.      ka_wait_*: may wait, so it releases the GIL. Every other ka_*: a leaf; it keeps
 *             the GIL, is bounded, and waits for nothing that a thread could hold while it
 *             wants the GIL. The prelude ka_cffi.h makes the choice from the name.
 *             ka_try_x() is the leaf that looks once where ka_wait_x() would wait: KA_TIMEOUT, not yet.
 * Returns.    KA_OK or a negative KA_* code; counts share the return and are >= 0.
 * Ownership.  borrowed: the caller keeps it, valid for the call. copied: the callee made its
 *             own. owned: whoever receives it frees it with the function named.
 * Time.       timeout_us and friends are microseconds; negative waits without limit, 0 never.
 * Threads.    Every call may be made from any thread unless it says otherwise.
 * Fork.       In a child process, calls on an object made by the parent return KA_FORKED and
 *             the *_release calls do nothing: the threads behind it exist only in the parent.
 */

enum {
    KA_DROPPED = 1, /* refused and counted, as the policy says; only of the send calls */
    KA_OK = 0,
    KA_TIMEOUT = -1,     /* the time given is over */
    KA_INTERRUPTED = -2, /* a signal reached the waiting thread */
    KA_FULL = -3,        /* a bound on messages or bytes is reached */
    KA_CLOSED = -4,      /* the object is closing or closed */
    KA_FORKED = -5,      /* the object belongs to the parent process */
    KA_NOMEM = -6,       /* out of memory */
    KA_TOO_LARGE = -7,   /* the message can never be accepted */
    KA_INVALID = -8,     /* an argument is out of range */
    KA_EMPTY = -9,       /* nothing there */
    KA_BUSY = -10,       /* another thread is polling */
    KA_FAILED = -11,     /* see the ka_error */
    KA_BARRED = -12,     /* a transactional producer without an open transaction */
    KA_REBALANCE = -13   /* a rebalance callback of the application is due */
};

enum { KA_PRODUCER = 0, KA_CONSUMER = 1 };

/* Partition values beside real ones. */
enum { KA_PARTITION_ANY = -1 };

/* Offsets with a meaning of their own; the values are Kafka's and librdkafka's. */
enum {
    KA_OFFSET_BEGINNING = -2,
    KA_OFFSET_END = -1,
    KA_OFFSET_STORED = -1000,
    KA_OFFSET_NONE = -1001
};

/* How a thread waits for work. WARM: while work keeps coming it naps between looks, else it sleeps until it
 * is notified. PARK: it sleeps at once. SPIN: it never sleeps and takes a core. To notify a thread that
 * sleeps is a system call, any other costs next to nothing. */
enum { KA_IDLE_WARM = 0, KA_IDLE_PARK = 1, KA_IDLE_SPIN = 2 };

/* Bytes that librdkafka adds to key, value and headers before it compares with message.max.bytes. */
enum { KA_WIRE_OVERHEAD = 36 };

/* Message.timestamp_type */
enum { KA_TIMESTAMP_NONE = 0, KA_TIMESTAMP_CREATE = 1, KA_TIMESTAMP_APPEND = 2 };

/* ---------------------------------------------------------------- errors (ka_err.c) */

/* An error of Kafka or librdkafka; texts are NUL-terminated UTF-8. */
typedef struct {
    int32_t code;      /* librdkafka's rd_kafka_resp_err_t: > 0 the broker's, < 0 local; KA_NOMEM */
    int32_t retriable; /* 1: the same call may succeed later */
    int32_t fatal;     /* 1: the object is of no further use */
    int32_t requires_abort; /* 1: the transaction can only be aborted */
    char name[64];          /* e.g. "_MSG_TIMED_OUT" */
    char text[512];
} ka_error;

/* Fill *err with what is known of a code. */
void ka_error_describe(int32_t code, ka_error *err);

/* librdkafka's version as linked, e.g. "2.0.2"; static storage. */
const char *ka_librdkafka_version(void);
/* The same as a number, 0xMMmmrrpp, as linked and as compiled against. */
int32_t ka_librdkafka_version_linked(void);
int32_t ka_librdkafka_version_compiled(void);

/* ---------------------------------------------------------------- bells (ka_bell.c) */

/* A file descriptor for an event loop. It becomes readable when one of the ka_wait_*() calls of what it hangs on
 * might return something new: once, then not before it is armed again. Owned: ka_bell_release(); what it
 * hangs on keeps it open. */
typedef struct ka_bell ka_bell;

/* NULL: no memory. */
ka_bell *ka_bell_new(void);
/* To be watched for reading, and for nothing else. < 0: none was left for it, so the bell is of no use. */
int ka_bell_descriptor(const ka_bell *bell);
/* Have it ring again. Then look: what changed before rings no more. KA_FORKED. */
int ka_bell_arm(ka_bell *bell);
void ka_bell_release(ka_bell *bell);

/* ---------------------------------------------------------------- configuration (ka_conf.c) */

typedef struct ka_conf ka_conf;

/* A new configuration with librdkafka's defaults. Owned: ka_conf_free(). NULL: no memory. */
ka_conf *ka_conf_new(void);

/* Set one property; name and value are copied. KA_EMPTY: there is no such property. KA_FAILED:
 * it refuses the value. The text says why, and may quote the value. */
int ka_conf_set(ka_conf *conf, const char *name, const char *value, ka_error *err);

/* Copy a property's value to buf. Returns its length without the NUL (>= size: truncated; of debug and
 * builtin.features librdkafka tells no more than fits), or KA_EMPTY when the property is unknown or unset. */
int64_t ka_conf_get(const ka_conf *conf, const char *name, char *buf, int64_t size);

/* Copy librdkafka's own table of properties to buf as text. Returns its length, which may be
 * more than size. KA_NOMEM. */
int64_t ka_conf_properties(char *buf, int64_t size);

void ka_conf_free(ka_conf *conf);

/* ---------------------------------------------------------------- latencies (ka_hist.c) */

/* Seconds, within 1.6 % of the true value; all 0 when count is 0. */
typedef struct {
    int64_t count;
    double mean, p50, p90, p99, p999, max;
} ka_latency;

/* ---------------------------------------------------------------- commands (ka_command.c) */

/* Something asked of a native thread. Owned: ka_command_release(), which may be called before it is
 * done: then it ends in the background. */
typedef struct ka_command ka_command;

/* Wait for the answer: KA_OK, KA_FAILED and *err, KA_CLOSED, KA_FORKED, KA_NOMEM; or KA_TIMEOUT,
 * KA_INTERRUPTED: not answered yet. */
int ka_wait_command(ka_command *command, int64_t timeout_us, ka_error *err);
int ka_try_command(ka_command *command, ka_error *err);
/* Ring this bell when it is answered. */
void ka_command_hang(ka_command *command, ka_bell *bell);
/* The number that an answer of KA_OK came with. */
int64_t ka_command_value(const ka_command *command);
void ka_command_release(ka_command *command);

/* ---------------------------------------------------------------- tokens (ka_oauth.c) */

/* How the application gives tokens of SASL/OAUTHBEARER to one producer or consumer. Made before that, and named in
 * its options, it may be used and released before and after it. Owned: ka_oauth_release(). */
typedef struct ka_oauth ka_oauth;

/* NULL: no memory. */
ka_oauth *ka_oauth_new(void);
/* Wait until a token is wanted, and take note of that: KA_OK is returned once for each, and is to be answered by
 * ka_oauth_give() or ka_oauth_fail(). KA_CLOSED: no more are wanted. KA_TIMEOUT, KA_INTERRUPTED, KA_FORKED. */
int ka_wait_oauth(ka_oauth *o, int64_t timeout_us);
int ka_try_oauth(ka_oauth *o);
/* Ring this bell when one is wanted, or no more are. */
void ka_oauth_hang(ka_oauth *o, ka_bell *bell);
/* Answer with a token; all of it is copied. expires_ms is since the epoch. extensions: names and values in turn, a NUL
 * behind each. A token that librdkafka refuses, or that finds no memory, fails. KA_CLOSED, KA_FORKED. */
int ka_oauth_give(ka_oauth *o, const char *token, int64_t expires_ms, const char *principal,
                  const char *extensions, int64_t extensions_len);
/* Answer that there is none; librdkafka asks again after 10 s. reason (copied) goes into its error. */
int ka_oauth_fail(ka_oauth *o, const char *reason);
void ka_oauth_release(ka_oauth *o);

/* ---------------------------------------------------------------- producer (ka_producer.c) */

typedef struct ka_producer ka_producer;

/* One partition in a call or an answer. topic is borrowed. */
typedef struct {
    const char *topic;
    int32_t partition;
    int32_t error; /* in an answer: a code, 0: none */
    int64_t offset;
} ka_partition;

/* What a message meets that is beyond the bounds: KA_FULL; KA_DROPPED; or the oldest that librdkafka
 * does not hold yet makes room by being purged (KA_DROPPED if there is none). */
enum { KA_REFUSE = 0, KA_DROP_NEW = 1, KA_DROP_OLD = 2 };

typedef struct {
    int64_t queue_messages;   /* bound on messages from acceptance to outcome, 1 .. 10,000,000 */
    int64_t queue_bytes;      /* bound on key + value + headers of them, 1 .. 2^38 - 1 */
    int32_t log;              /* 1: librdkafka's lines go to the log ring */
    int32_t on_full;          /* KA_REFUSE, KA_DROP_NEW, KA_DROP_OLD */
    int32_t count_partitions; /* 1: keep the numbers of partitions fresh */
    const char *topic;        /* of ka_producer_send(), copied; NULL: none */
    int32_t idle;             /* KA_IDLE_*: how the worker waits */
    int32_t bound, cpu;       /* bound 1: the worker runs on this CPU alone, counted from 0 */
    ka_oauth *oauth;          /* borrowed; NULL: the application gives no tokens */
} ka_producer_options;

typedef struct {
    int64_t accepted, delivered, failed, purged; /* messages since open */
    int64_t dropped;                             /* refused by policy, and purged to make room */
    int64_t outstanding, outstanding_bytes;      /* accepted, no outcome yet */
    ka_latency send;                             /* time inside ka_producer_send* */
    /* Where the time from acceptance to delivery, ack, goes: in our ring; in librdkafka, until the request
     * is sent that succeeds; until its answer; until the worker has counted it. And from there until
     * ka_producer_results() gives it. */
    ka_latency ring, queue, wire, report, ack, told;
} ka_producer_stats;

/* The outcome of one message that asked for it. */
typedef struct {
    int64_t token, bytes; /* bytes: of key, value and headers */
    int64_t offset;       /* < 0: not known */
    int64_t timestamp_ms; /* the record's, < 0: none */
    double latency_s;     /* acceptance to outcome */
    int64_t counted_ns;   /* the outcome's time, of the core's clock */
    int32_t code;         /* 0: delivered */
    int32_t partition;    /* KA_PARTITION_ANY: never assigned */
} ka_result;

/* One message that failed. Owned by the receiver: ka_failure_free(). Null pointers: no such part. */
typedef struct ka_failure ka_failure;
struct ka_failure {
    ka_failure *next; /* the core's own */
    ka_error error;
    const char *topic;
    int32_t partition; /* KA_PARTITION_ANY: never assigned */
    double latency_s;  /* acceptance to failure */
    const char *value, *key, *headers;
    int64_t value_len, key_len, headers_len;
};

/* Start a producer: librdkafka's threads and one worker. Takes conf over on success only.
 * NULL: *err says why, KA_NOMEM: no memory, or no thread. May load certificates from files, so it may wait. */
ka_producer *ka_wait_producer_open(ka_conf *conf, const ka_producer_options *options,
                                   ka_error *err);

/* A number for a topic's name (copied), the same for the same name. KA_NOMEM, KA_FORKED. */
int32_t ka_producer_topic(ka_producer *p, const char *name);

/* Accept a message for the topic of the options: value is copied, and the call never waits. value
 * NULL: a tombstone. KA_FULL, KA_TOO_LARGE, KA_CLOSED, KA_BARRED, KA_FORKED, KA_INVALID (no topic):
 * nothing was queued. KA_DROPPED: the same, and counted. */
int ka_producer_send(ka_producer *p, const char *value, int64_t value_len);

/* The same with everything a record can carry. key NULL: none. timestamp_ms < 0: the time of the call.
 * headers: a block of (uint32 name length, uint32 value length or UINT32_MAX for none, name,
 * value) in native byte order, copied. token, 1 .. 2^32 - 1: its outcome comes through
 * ka_producer_results(), and counts as told; 0: none wanted. KA_INVALID: a partition below
 * KA_PARTITION_ANY, a malformed header block, no topic of that number. */
int ka_producer_send_record(ka_producer *p, int32_t topic, int32_t partition, int64_t timestamp_ms,
                            const char *value, int64_t value_len, const char *key, int64_t key_len,
                            const char *headers, int64_t headers_len, int64_t token);

/* Many messages for one topic, as columns. Of each, value, key and headers follow one another in
 * data; a length of -1: no such part. Columns that are NULL: keys and headers none, any partition,
 * the time of the call. The rest is written by ka_producer_send_batch(), zero at first. */
typedef struct {
    int64_t count;
    const char *data;
    const int64_t *value_len, *key_len, *headers_len, *partition, *timestamp_ms;
    int32_t *status; /* of each item that was dealt with, as ka_producer_send_record() returns it */
    int64_t next;    /* how many were dealt with */
    int64_t at;      /* and how far in data */
    int64_t accepted, dropped;
} ka_batch;

/* Accept a batch from item next on. Stops before an item that finds KA_FULL, KA_CLOSED, KA_BARRED,
 * KA_FORKED, and returns that; KA_OK at the end. */
int ka_producer_send_batch(ka_producer *p, int32_t topic, ka_batch *batch);

/* Accept values for one topic, copied: all or none. Any partition, no keys. What ka_producer_send_record() returns
 * for a refusal; where a policy would drop some, KA_FULL. count <= KA_VALUES. */
enum { KA_VALUES = 65536 };
int ka_producer_send_values(ka_producer *p, int32_t topic, const char *const *values,
                            const int64_t *lens, int64_t count);

/* Wait until a message of so many bytes could be accepted (result: one with a token). KA_TIMEOUT,
 * KA_INTERRUPTED, KA_CLOSED, KA_BARRED, KA_FORKED. */
int ka_wait_producer_room(ka_producer *p, int64_t bytes, int result, int64_t timeout_us);
int ka_try_producer_room(ka_producer *p, int64_t bytes, int result);

/* Ask for the outcome of everything accepted so far, ignoring linger. Returns a ticket > 0 for
 * ka_wait_producer_flush(), or KA_OK when there is nothing to wait for. KA_CLOSED, KA_FORKED. */
int64_t ka_producer_flush(ka_producer *p);

/* Wait for a ticket. KA_TIMEOUT, KA_INTERRUPTED, KA_CLOSED (stopped meanwhile), KA_FORKED.
 * A ticket needs no giving back. */
int ka_wait_producer_flush(ka_producer *p, int64_t ticket, int64_t timeout_us);
int ka_try_producer_flush(ka_producer *p, int64_t ticket);

/* Another reference to the producer, for the one thread that tells results: they stay readable after
 * ka_producer_release(). Owned: ka_producer_unshare(). */
ka_producer *ka_producer_share(ka_producer *p);
void ka_producer_unshare(ka_producer *p);

/* Take up to size outcomes, oldest first; what the last call gave has been told now. 0: none there.
 * KA_CLOSED: there will be no more. KA_FORKED. Only by the thread that tells. */
int64_t ka_producer_results(ka_producer *p, ka_result *out, int64_t size);
/* Wait until ka_producer_results() would return something. KA_TIMEOUT, KA_INTERRUPTED, KA_FORKED. */
int ka_wait_producer_results(ka_producer *p, int64_t timeout_us);
/* How many outcomes there were to tell so far, and how many of them are failures. KA_FORKED. */
int64_t ka_producer_announced(ka_producer *p);
int64_t ka_producer_failed_results(ka_producer *p);
/* Wait until so many have been told. KA_TIMEOUT, KA_INTERRUPTED, KA_FORKED; KA_CLOSED, unless closing
 * does not matter. */
int ka_wait_producer_told(ka_producer *p, int64_t count, int even_closed, int64_t timeout_us);

/* One consistent snapshot. */
int ka_producer_metrics(ka_producer *p, ka_producer_stats *stats);

/* The last report of a failed connection, if it is no older than a minute. KA_OK, KA_EMPTY, KA_FORKED. */
int ka_producer_trouble(ka_producer *p, ka_error *err);

/* How many failures nobody has been told of, after told more of them have been. KA_FORKED. */
int64_t ka_producer_unreported(ka_producer *p, int64_t told);

/* The oldest kept failure, owned by the caller, or NULL. The core keeps at most 1,000
 * messages and 4 MiB of them. */
ka_failure *ka_producer_failure(ka_producer *p);
void ka_failure_free(ka_failure *failure);

/* Commands: NULL without memory; each is answered KA_CLOSED when the producer closes. */

/* Purge what librdkafka has not sent, with in_flight also what waits for an acknowledgement. The value
 * is how many messages that were. */
ka_command *ka_producer_purge(ka_producer *p, int in_flight);

/* Ask the cluster for a topic's number of partitions, the value. connect: also connect to the
 * leader of each. */
ka_command *ka_producer_partitions(ka_producer *p, int32_t topic, int connect, int64_t timeout_us);
/* The number that was found last, 0: not known. KA_FORKED. */
int32_t ka_producer_partition_count(ka_producer *p, int32_t topic);

/* Transactions. Commit and abort bar new messages at once and begin when all that was accepted is with
 * librdkafka (commit) or purged (abort). One that timed out is resumed by asking again. */
enum { KA_TXN_OFF, KA_TXN_NEW, KA_TXN_READY, KA_TXN_OPEN, KA_TXN_ENDING, KA_TXN_UNKNOWN };
/* KA_TXN_OFF: not transactional. KA_TXN_NEW: not initialised. KA_TXN_ENDING: being committed or
 * aborted, or that failed. KA_TXN_UNKNOWN: the producer closed before that ended. KA_FORKED. */
int ka_producer_transaction(ka_producer *p);
enum { KA_INIT = 0, KA_BEGIN = 1, KA_COMMIT = 2, KA_ABORT = 3 };
ka_command *ka_producer_transact(ka_producer *p, int what, int64_t timeout_us);
/* Tell that the caller of the last one knows of its success. Of a success that nobody was told of, since
 * the caller went away, the next call of the same is told. KA_FORKED. */
int ka_producer_step_told(ka_producer *p);

/* Make offsets (of the next messages to read) part of the open transaction, for the group that an answered
 * ka_consumer_group() found, which can be used for this once. */
ka_command *ka_producer_send_offsets(ka_producer *p, ka_command *group,
                                     const ka_partition *partitions, int64_t count,
                                     int64_t timeout_us);

/* Ring this bell for the producer, once it is open; one at most. */
void ka_producer_hang(ka_producer *p, ka_bell *bell);

/* Begin to close: refuses new messages, and after timeout_us purges what has no outcome yet. An open
 * transaction is aborted, a commit that has begun is finished. The worker does it all;
 * ka_wait_producer_closed() waits for it. KA_CLOSED: was closing, and may do so sooner now. */
int ka_producer_close(ka_producer *p, int64_t timeout_us);

/* Wait until every message has its outcome and the producer is closed. Returns how many were
 * purged by closing, or belonged to a transaction that closing aborted. KA_TIMEOUT,
 * KA_INTERRUPTED, KA_FORKED. */
int64_t ka_wait_producer_closed(ka_producer *p, int64_t timeout_us);
int64_t ka_try_producer_closed(ka_producer *p);

/* Give the object back; it must not be used again. If it is open, closes it with a limit of
 * 5 s in the background. */
void ka_producer_release(ka_producer *p);

/* ---------------------------------------------------------------- consumer (ka_consumer.c) */

typedef struct ka_consumer ka_consumer;

typedef struct {
    int64_t prefetch_messages; /* bounds on what our own ring holds */
    int64_t prefetch_bytes;
    int32_t log;
    int32_t group;          /* 1: conf has the application's own group.id */
    int32_t store_offsets;  /* 1: processed messages are stored for auto-commit */
    int64_t default_offset; /* where a partition without an offset begins when there is no group */
    int32_t callbacks;      /* KA_ON_*: what the application is told of rebalances */
    int32_t idle;           /* KA_IDLE_*: how ka_wait_consumer_ready() waits; WARM is as PARK */
    int32_t bound, cpu;     /* bound 1: the worker runs on this CPU alone, counted from 0 */
    ka_oauth *oauth;        /* borrowed; NULL: the application gives no tokens */
} ka_consumer_options;

/* Rebalance callbacks, as a mask, and which one is due. A loss is told as KA_ON_LOST only. */
enum { KA_ON_ASSIGN = 1, KA_ON_REVOKE = 2, KA_ON_LOST = 4 };

/* A block of messages, filled by ka_consumer_take() and read by Python as memory. It belongs to
 * the consumer. Row i describes message i; *_at and *_end are places in [base, base + size),
 * -1 for a part that is not there. handed and generation are the two words that both sides
 * see at any time: see "The block" in ka_consumer.c. */
enum { KA_BLOCK = 256 };
typedef struct {
    int64_t handed;     /* Python: how many of the block it has handed out */
    int64_t generation; /* core: changes when the rest of the block may be stale */
    int64_t count;
    int64_t top; /* the highest topic number */
    const char *base;
    int64_t size;
    int64_t topic[256], partition[256], offset[256]; /* KA_COLUMNS from here */
    int64_t timestamp_ms[256], timestamp_type[256];
    int64_t value_at[256], value_end[256];
    int64_t key_at[256], key_end[256];
    int64_t headers_at[256], headers_end[256];
} ka_block;

/* Messages that are handed out together, in memory of their own of size bytes: this, then KA_COLUMNS columns of
 * count int64 each, as in a block, then key, value and headers; *_at and *_end count from the
 * begin of it all. */
enum { KA_COLUMNS = 11 };
typedef struct {
    int64_t count, top, size;
} ka_messages;

typedef struct {
    int64_t received, handed_out, purged; /* messages since open */
    int64_t prefetched, prefetched_bytes; /* in our ring now */
    /* From a record's timestamp to its arrival in our ring; in there; in the block (of a row, as if rows were
     * handed out evenly); and from the timestamp to the block. */
    ka_latency arrival, ring, block, age;
} ka_consumer_stats;

/* Start a consumer: librdkafka's threads and one worker. Takes conf over on success only. */
ka_consumer *ka_wait_consumer_open(ka_conf *conf, const ka_consumer_options *options,
                                   ka_error *err);

/* The consumer's block; valid until ka_consumer_release(). */
ka_block *ka_consumer_block(ka_consumer *c);

/* Read these topics, replacing what was read before; none: nothing. With a group: a
 * subscription (a name that begins with ^ is a regular expression). Without: every partition
 * of them. Names are copied. NULL: no memory. */
ka_command *ka_consumer_subscribe(ka_consumer *c, const char *const *topics, int64_t count);

/* Read exactly these partitions from these offsets, replacing what was read before; or these too; or
 * these no more. KA_ADD and KA_REMOVE fail as a whole (_CONFLICT: read already, _STATE: not read). */
enum { KA_REPLACE = 0, KA_ADD = 1, KA_REMOVE = 2 };
ka_command *ka_consumer_assign(ka_consumer *c, int how, const ka_partition *partitions,
                               int64_t count);

/* Keep back what comes of these partitions (pause 1), or go on at our position (0). Fails as a whole with
 * _STATE when one is not assigned. Once answered, nothing of a paused one is handed out. */
ka_command *ka_consumer_pause(ka_consumer *c, int pause, const ka_partition *partitions,
                              int64_t count);

/* Go on at another offset. Once answered, nothing from before is handed out. _STATE: not assigned. */
ka_command *ka_consumer_seek(ka_consumer *c, const ka_partition *to);

/* Commit these offsets; partitions NULL: of each assigned partition what ka_consumer_store() was told, or
 * else our position. The answer's value is how many; ka_consumer_answer() gives them. patient 1: it
 * is waited for when the consumer closes. */
ka_command *ka_consumer_commit(ka_consumer *c, const ka_partition *partitions, int64_t count,
                               int patient);

/* The application is done with a message: what to commit of its partition. KA_INVALID: not assigned. */
int ka_consumer_store(ka_consumer *c, const ka_partition *next);

/* Ask the cluster, at most timeout_us. ka_consumer_answer() then gives for each partition: what the group
 * committed; the first offset at or after a time (milliseconds in offset); and for one
 * partition two, the begin and the end of its log. LAG: the ends minus our positions, partitions ignored. */
enum { KA_ASK_COMMITTED = 0, KA_ASK_TIMES = 1, KA_ASK_WATERMARKS = 2, KA_ASK_LAG = 3 };
ka_command *ka_consumer_ask(ka_consumer *c, int what, const ka_partition *partitions, int64_t count,
                            int64_t timeout_us);

/* The lag of assigned partitions as of the last fetch of each; left out: one of which nothing is known. */
ka_command *ka_consumer_lag(ka_consumer *c);

/* Fill out with up to size partitions of an answer; their topics live as long as the command. Returns how
 * many there are. */
int64_t ka_consumer_answer(const ka_command *command, ka_partition *out, int64_t size);

/* A command that finds what a transaction needs to know of the group, for ka_producer_send_offsets(). */
ka_command *ka_consumer_group(ka_consumer *c);

/* Fill out with up to size assigned partitions (offset: our position, or KA_OFFSET_NONE; topic
 * lives as long as the consumer). Returns how many there are. */
int64_t ka_consumer_assignment(ka_consumer *c, ka_partition *out, int64_t size);

/* After KA_REBALANCE, or for a loss after ka_consumer_retire() with closing 1: which callback (0: none), and fill
 * out with up to size partitions for it (offset: our position).
 * Returns how many there are. Valid until ka_consumer_rebalanced(). */
int64_t ka_consumer_rebalance(ka_consumer *c, int32_t *kind, ka_partition *out, int64_t size);
/* The callback has run: go on with the rebalance. */
void ka_consumer_rebalanced(ka_consumer *c);

/* Hand out nothing more of what is assigned now, in order to give it up; store_last: the message in hand is
 * processed, else our position goes back to it. closing 1: nothing is handed out ever again. KA_CLOSED:
 * is closing, or was called with closing 1 before. */
int ka_consumer_retire(ka_consumer *c, int store_last, int closing);

/* The polling thread's own call: everything handed out so far is processed; fill the block
 * with what comes next. Returns how many messages (0: none there, or look again), KA_FAILED with an error
 * event in *err and *where (its topic lives as long as the consumer, NULL: no partition; code KA_NOMEM: there was no
 * memory for the message there, which is fetched again until there is), KA_REBALANCE, KA_BUSY, KA_CLOSED, KA_FORKED. */
int64_t ka_consumer_take(ka_consumer *c, ka_error *err, ka_partition *where);

/* The polling thread's own call, when it has counted a row in block.handed and then finds another generation. 1: the
 * row was seen to be handed out before that changed, so it is. 0: it is not, and no longer counted. */
int ka_consumer_keep(ka_consumer *c);

/* The same, but it hands out up to max messages at once, fewer if they are large: *out is owned,
 * ka_messages_free(). They count as processed when the next ones are asked for. KA_NOMEM. */
int64_t ka_consumer_take_messages(ka_consumer *c, int64_t max, ka_messages **out, ka_error *err,
                                  ka_partition *where);
/* Free *messages, which may be NULL, and set it to NULL. */
void ka_messages_free(ka_messages **messages);
/* Take the last of them back: they come again, as after a seek. The polling thread's own call. NULL: no memory. */
ka_command *ka_consumer_put_back(ka_consumer *c);

/* Wait until ka_consumer_take() would return something. KA_TIMEOUT, KA_INTERRUPTED, KA_BUSY,
 * KA_CLOSED, KA_FORKED. */
int ka_wait_consumer_ready(ka_consumer *c, int64_t timeout_us);
int ka_try_consumer_ready(ka_consumer *c);

/* The name behind a block's topic number; lives as long as the consumer. */
const char *ka_consumer_topic_name(ka_consumer *c, int64_t number);

/* As ka_producer_trouble(). */
int ka_consumer_trouble(ka_consumer *c, ka_error *err);

int ka_consumer_metrics(ka_consumer *c, ka_consumer_stats *stats);

/* Ring this bell for the consumer, once it is open; one at most. */
void ka_consumer_hang(ka_consumer *c, ka_bell *bell);

/* Begin to close: the worker stores what was processed (store_last: the message in hand too),
 * commits, and leaves the group. KA_CLOSED: was closing. */
int ka_consumer_close(ka_consumer *c, int store_last);

/* Wait for the end of closing. KA_TIMEOUT, KA_INTERRUPTED, KA_FORKED. */
int ka_wait_consumer_closed(ka_consumer *c, int64_t timeout_us);
int ka_try_consumer_closed(ka_consumer *c);

/* Give the object back; if it is open, closes it in the background. */
void ka_consumer_release(ka_consumer *c);

/* ---------------------------------------------------------------- logs (ka_log.c) */

typedef struct {
    int32_t level; /* syslog's: 0 emergency .. 7 debug */
    char name[128];
    char text[1024];
} ka_log_line;

/* Take the oldest line of librdkafka's log, of all objects of this process. KA_EMPTY. */
int ka_log_next(ka_log_line *line);
/* How many lines were lost because the ring was full; sets that number to 0. */
int64_t ka_log_lost(void);
/* Wait for a line. KA_TIMEOUT, KA_INTERRUPTED, KA_CLOSED after ka_log_close(). */
int ka_wait_log(int64_t timeout_us);
/* End every present and future ka_wait_log(), until ka_log_open(). */
void ka_log_close(void);
void ka_log_open(void);

/* ---------------------------------------------------------------- process (ka_worker.c) */

/* Wait until no native worker of this process is left. KA_TIMEOUT, KA_INTERRUPTED. */
int ka_wait_workers(int64_t timeout_us);

/* Name the calling thread for debuggers and /proc; the name is copied. KA_INVALID: longer than 15
 * bytes, which is all that Linux keeps. */
int ka_thread_name(const char *name);

/* How many messages of producers that had been given back failed or were purged with nobody told. */
int64_t ka_lost_messages(void);

/* ---------------------------------------------------------------- embedded cluster (ka_mock.c) */

typedef struct ka_mock ka_mock;

/* Start librdkafka's in-process mock cluster. Owned: ka_wait_mock_close(), after every other call
 * on it has returned. Brokers have the ids 1 to brokers. */
ka_mock *ka_wait_mock_open(int32_t brokers, ka_error *err);
/* host:port,host:port; lives as long as the cluster. */
const char *ka_mock_bootstrap_servers(const ka_mock *mock);
/* Partition p is led by broker p % brokers + 1. KA_FAILED, KA_FORKED. */
int ka_wait_mock_create_topic(ka_mock *mock, const char *name, int32_t partitions, ka_error *err);

/* Describe entry index of librdkafka's table of errors. KA_EMPTY: past its end. KA_INVALID: the
 * table has a hole there. */
int ka_mock_error(int64_t index, ka_error *err);

/* Answer the next requests of an API (Kafka's ApiKey), whichever broker they reach, with these codes in
 * order, after those given before. 0: as if nothing was wrong. RD_KAFKA_RESP_ERR__TRANSPORT (-195):
 * close the connection. All of them are added at once; errors is copied. An API without error
 * injection ignores it. KA_INVALID: a number is out of range. KA_FORKED. */
int ka_mock_fail(ka_mock *mock, int32_t api, const int32_t *errors, int64_t count);

/* Close a broker's connections and refuse new ones (up 0), or accept them again (up 1). Leaders stay who
 * they are. KA_INVALID: no such broker. KA_FORKED. */
int ka_wait_mock_broker(ka_mock *mock, int32_t broker, int up);

/* Delay a broker's responses, those included that wait to be sent. KA_INVALID: no such broker, or a
 * negative time. KA_FORKED. */
int ka_wait_mock_round_trip(ka_mock *mock, int32_t broker, int32_t round_trip_ms);

void ka_wait_mock_close(ka_mock *mock);
