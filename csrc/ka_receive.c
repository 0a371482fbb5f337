/* The consumer's worker: from librdkafka's queues into the ring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "ka_consumer.h"
#include "ka_err.h"

enum { POLL = 512 }; /* messages between two looks at everything else */
/* What is taken, and told to the polling thread, at once, so that its first message never waits for long. */
enum { BATCH = 256, BATCH_BYTES = 128 * 1024 };

static const int64_t LACKING_NS =
    500000000; /* until a message that there was no memory for is fetched again */

/* How many messages there is room for, if they are no larger than those before; one at least, until the ring is full. */
static int64_t room(const ka_consumer *c)
{
    int64_t messages =
        c->options.prefetch_messages - kai_held_messages(c) - atomic_load(&c->held_ends);
    int64_t bytes = c->options.prefetch_bytes - kai_held_bytes(c);
    int64_t fitting = (bytes < BATCH_BYTES ? bytes : BATCH_BYTES) / c->largest;

    if (messages <= 0 || bytes <= 0)
        return 0;
    if (fitting < messages)
        messages = fitting > 0 ? fitting : 1;
    return messages < BATCH ? messages : BATCH;
}

void kai_push_failure(ka_consumer *c, partition *p, int64_t offset, const ka_error *error)
{
    size_t len = sizeof(entry) + sizeof *error;
    entry *e;

    if (atomic_load(&c->held_failures) >= KAI_MAX_FAILURES) {
        kai_consumer_log(c, LOG_ERR, error->name, error->text);
        return;
    }
    atomic_fetch_add(&c->held_failures, 1);
    e = kai_must(kai_ring_reserve(&c->ring, len));
    *e = (entry){
        .partition = p, .generation = p ? p->generation : 0, .offset = offset, .kind = FAILURE};
    memcpy(e + 1, error, sizeof *error);
    kai_ring_commit(e, len);
    kai_wake_notify(&c->ready);
}

static void push_end(ka_consumer *c, partition *p, int64_t offset)
{
    entry *e = kai_must(kai_ring_reserve(&c->ring, sizeof *e)); /* it takes a message's room */

    atomic_fetch_add(&c->held_ends, 1);
    *e = (entry){.partition = p, .generation = p->generation, .offset = offset, .kind = END};
    kai_ring_commit(e, sizeof *e);
}

/* There is no memory for a message: it is fetched again after a while. The application is told of each once. */
static void lack(ka_consumer *c, partition *p, const rd_kafka_message_t *m, size_t bytes)
{
    char text[128];
    ka_error error;

    if (p->lacking != m->offset) {
        snprintf(text, sizeof text,
                 "no memory for a message of %zu bytes: it comes when there is, or seek beyond it",
                 bytes);
        kai_err_memory(&error, text);
        kai_push_failure(c, p, m->offset, &error);
    }
    p->lacking = m->offset;
    p->sought = 1;
    if (c->seek_ns > kai_now_ns() + LACKING_NS)
        c->seek_ns = kai_now_ns() + LACKING_NS;
}

/* The rest of a batch that turned out larger than those before it has no place in the ring, but it is in memory anyway. */
static int is_beside(const ka_consumer *c, size_t bytes)
{
    return bytes > KAI_MAX_INLINE || (bytes && kai_held_bytes(c) >= c->options.prefetch_bytes);
}

static void push_message(ka_consumer *c, partition *p, const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers = kai_headers_of(m);
    size_t headers_len = kai_headers_size(headers), bytes = m->len + m->key_len + headers_len;
    int beside = is_beside(c, bytes);
    char *external = beside ? malloc(bytes) : NULL;
    size_t len = sizeof(entry) + (beside ? 0 : bytes);
    rd_kafka_timestamp_type_t type;
    entry *e;
    char *to;

    if (beside && !external) {
        lack(c, p, m, bytes);
        return;
    }
    p->lacking = KA_OFFSET_NONE;
    e = kai_must(kai_ring_reserve(&c->ring, len)); /* sized for what room() lets in */
    *e = (entry){.partition = p,
                 .generation = p->generation,
                 .offset = m->offset,
                 .timestamp_ms = rd_kafka_message_timestamp(m, &type),
                 .arrived_ns = c->arrived_ns,
                 .external = external,
                 .value_len = m->payload ? (uint32_t)m->len : KAI_NONE,
                 .key_len = m->key ? (uint32_t)m->key_len : KAI_NONE,
                 .headers_len = (uint32_t)headers_len};
    e->timestamp_type = (int16_t)type;
    kai_age_note(&c->arrival, e->timestamp_type, e->timestamp_ms,
                 (c->arrived_ns + c->wall_ns) / 1000000);
    to = kai_append(external ? external : (char *)(e + 1), m->payload, (int64_t)m->len);
    to = kai_append(to, m->key, (int64_t)m->key_len);
    if (headers_len)
        kai_headers_pack(headers, to);
    c->fresh_messages++;
    c->fresh_bytes += (int64_t)bytes;
    if (c->largest < (int64_t)bytes)
        c->largest = (int64_t)bytes;
    /* Whoever meets the entry meets the new values: its commit is a release. */
    kai_raise_by(&c->received, 1);
    kai_raise_by(&c->received_bytes, bytes);
    kai_ring_commit(e, len);
}

/* Without a group the client has one in name only, which it never joins; what its coordinator (or
 * an ACL) says does not matter. */
static int is_of_group(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
    case RD_KAFKA_RESP_ERR__WAIT_COORD:
        return 1;
    default:
        return 0;
    }
}

void kai_report(ka_consumer *c, partition *p, int64_t offset, rd_kafka_resp_err_t code,
                const char *text)
{
    ka_error error, noted;

    if (!c->options.group && is_of_group(code))
        return;
    kai_err_set(&error, code, text);
    kai_secrets_hide(&c->trouble.secrets, error.text);
    kai_err_name(&error, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, "group", c->group);
    if (code ==
        RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED) /* what waits for the coordinator runs out of time */
        kai_trouble_event(&c->trouble, code, error.text, &noted);
    if (error.retriable && code != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        kai_consumer_log(c, LOG_WARNING, error.name, error.text);
    else
        kai_push_failure(c, p, offset, &error);
}

/* What librdkafka calls a failure to authenticate, and is none: that the next token of OAUTHBEARER could not be had,
 * while there is one; that the connection was lost before the broker had said anything. */
static int passes(const ka_consumer *c, const char *reason)
{
    return (strstr(reason, "acquire SASL OAUTHBEARER token") && kai_sasl_has_token(&c->sasl)) ||
           strstr(reason, "mechanism handshake failed: Local: ");
}

void kai_on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    ka_consumer *c = opaque;
    char text[512];
    ka_error error;

    switch (code) {
    case RD_KAFKA_RESP_ERR__FATAL:
        kai_err_set(&error, rd_kafka_fatal_error(rk, text, sizeof text), text);
        kai_secrets_hide(&c->trouble.secrets, error.text);
        error.fatal = 1;
        kai_push_failure(c, NULL, KA_OFFSET_NONE, &error);
        break;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        if (passes(c, reason)) {
            kai_consumer_log(c, LOG_WARNING, rd_kafka_err2name(code), reason);
            break;
        }
        /* FALLTHROUGH */
    default:
        kai_trouble_event(&c->trouble, code, reason, &error);
        if (!kai_err_is_logged(code) || strcmp(error.text, reason) != 0) /* in our words */
            kai_consumer_log(c, LOG_ERR, error.name, error.text);
    }
}

int kai_tell_trouble(ka_consumer *c)
{
    ka_error error;
    int found = kai_trouble_untold(&c->trouble, c->rk, &error);

    if (found)
        kai_push_failure(c, NULL, KA_OFFSET_NONE, &error);
    return found;
}

/* librdkafka knows where the partition begins. */
static void end_search(ka_consumer *c, partition *p)
{
    if (!p->searching)
        return;
    p->searching = 0;
    if (p->sought)
        c->seek_ns = 0; /* it waited for that */
}

/* What comes of a paused partition comes again later; what comes of one that was sought is from before. */
static int is_wanted(ka_consumer *c, partition *p, int64_t offset)
{
    kai_trouble_over(&c->trouble);
    if (p->assigned)
        end_search(c, p);
    if (!p->assigned || p->sought || p->corrupt)
        return 0;
    if (!p->fetched) {
        p->fetched = 1;
        pthread_mutex_lock(&c->lock);
        p->begin = offset;
        pthread_mutex_unlock(&c->lock);
    }
    return !p->paused;
}

static int is_corruption(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR__BAD_MSG || code == RD_KAFKA_RESP_ERR__BAD_COMPRESSION ||
           code == RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED; /* of a format or codec */
}

/* librdkafka goes on behind data that it can't read, and not only there: after a wrong checksum it takes the
 * middle of some batch for the next one and may read on at whatever offset it finds in it, which leads to
 * a reset of the offset. So nothing more of the partition is taken until it is assigned or sought. */
static void give_up(ka_consumer *c, partition *p)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

    p->corrupt = 1;
    rd_kafka_topic_partition_list_add(list, p->topic, p->number);
    rd_kafka_pause_partitions(c->rk, list); /* or it would fetch the same again and again */
    rd_kafka_topic_partition_list_destroy(list);
}

/* What a group's subscription meets concerns a topic, no partition, yet librdkafka says partition 0, which may
 * be nobody's: the error would pass for one of an assignment that is over. */
static void receive_error(ka_consumer *c, partition *p, const rd_kafka_message_t *m)
{
    int of_topic = m->offset < 0 && !(p && p->assigned);

    if (p && p->corrupt)
        return; /* told already */
    if (p && p->assigned && is_corruption(m->err))
        give_up(c, p);
    if (p && p->assigned && m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        p->stopped = 1;
        end_search(c, p);
    }
    if (of_topic && m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        kai_consumer_log(c, LOG_WARNING, rd_kafka_err2name(m->err), rd_kafka_message_errstr(m));
    else
        kai_report(c, of_topic ? NULL : p, m->offset, m->err, rd_kafka_message_errstr(m));
}

static void hand_on(ka_consumer *c, partition *p, const rd_kafka_message_t *m)
{
    if (!m->err)
        push_message(c, p, m);
    else if (c->ends)
        push_end(c, p, m->offset);
}

static void receive(ka_consumer *c, rd_kafka_message_t *m)
{
    partition *p = kai_partition_of(c, m);

    if (m->err && m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
        receive_error(c, p, m);
    else if (p && is_wanted(c, p, m->offset))
        hand_on(c, p, m);
}

/* Returns how many there were; 0: none, or no room for any. */
static int receive_batch(ka_consumer *c)
{
    rd_kafka_message_t *batch[BATCH];
    int64_t most = room(c);
    ssize_t n;

    if (!most) {
        atomic_store(&c->want_room, 1); /* partner: ka_consumer_take() */
        if (!(most = room(c)))
            return 0;
    }
    /* On this thread alone, as what changes the assignment, seeks and pauses: before 2.1 it loses messages beside those. */
    if ((n = rd_kafka_consume_batch_queue(c->messages, 0, batch, (size_t)most)) <= 0) {
        kai_nudge_empty(c);
        return 0;
    }
    c->arrived_ns = kai_now_ns();
    c->largest = 1;
    for (ssize_t i = 0; i < n; i++)
        receive(c, batch[i]);
    /* In one go: the heap that they came from is locked for each, and librdkafka's thread waits for that less often. */
    for (ssize_t i = 0; i < n; i++)
        rd_kafka_message_destroy(batch[i]);
    /* Once: a polling thread that the first one wakes overtakes this one, and sleeps again, many times a batch. */
    kai_wake_notify(&c->ready);
    return (int)n;
}

int kai_receive(ka_consumer *c)
{
    rd_kafka_message_t *m;
    int n = 0, received;

    if (atomic_exchange(&c->strayed, 0))
        kai_partitions_forward(c);
    c->arrived_ns = kai_now_ns();
    c->wall_ns = kai_wall_minus_ns(c->arrived_ns);
    while ((m = rd_kafka_consumer_poll(c->rk, 0))) {
        receive(c, m);
        rd_kafka_message_destroy(m);
        n++;
    }
    if (n)
        kai_wake_notify(&c->ready);
    while (n < POLL && (received = receive_batch(c)))
        n += received;
    return n;
}
