/* The consumer's table of partitions. The worker alone changes the table, under lock; it reads it without. */
#include <stdlib.h>
#include <string.h>

#include "ka_consumer.h"

/* Put it at the table's end. 0: no memory. */
static int append(ka_consumer *c, topic *t)
{
    topic **topics;

    pthread_mutex_lock(&c->lock);
    topics = realloc(c->topics, (size_t)(c->topic_count + 1) * sizeof(topic *));
    if (topics) {
        c->topics = topics;
        c->topics[c->topic_count++] = t;
    }
    pthread_mutex_unlock(&c->lock);
    return topics != NULL;
}

static topic *make_topic(ka_consumer *c, const char *name)
{
    topic *t = calloc(1, sizeof *t);

    if (t && (t->name = strdup(name)) && append(c, t))
        return t;
    if (t)
        free(t->name);
    free(t);
    return NULL;
}

topic *kai_topic_find(ka_consumer *c, const char *name)
{
    for (int64_t i = 0; i < c->topic_count; i++)
        if (strcmp(c->topics[i]->name, name) == 0)
            return c->topics[i];
    return make_topic(c, name);
}

/* Where a partition stands or would: the first whose number is not smaller. Where all are known, a partition's
 * place is its number. */
static int32_t place_of(const topic *t, int32_t number)
{
    int32_t low = 0, high = t->size;

    if (number >= 0 && number < high && t->partitions[number]->number == number)
        return number;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (t->partitions[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static partition *look_up(const topic *t, int32_t number)
{
    int32_t at = place_of(t, number);

    return at < t->size && t->partitions[at]->number == number ? t->partitions[at] : NULL;
}

/* 0: no memory. Under lock. */
static int insert(topic *t, partition *p)
{
    int32_t at = place_of(t, p->number);
    partition **partitions = realloc(t->partitions, ((size_t)t->size + 1) * sizeof(partition *));

    if (!partitions)
        return 0;
    memmove(partitions + at + 1, partitions + at, (size_t)(t->size - at) * sizeof(partition *));
    partitions[at] = p;
    t->partitions = partitions;
    t->size++;
    return 1;
}

partition *kai_partition_find(ka_consumer *c, topic *t, int32_t number)
{
    partition *p = look_up(t, number);
    int placed;

    if (p)
        return p;
    if (!(p = calloc(1, sizeof *p)))
        return NULL;
    p->topic = t->name;
    p->number = number;
    while (c->topics[p->topic_number] != t)
        p->topic_number++;
    p->begin = p->position = p->processed = p->marked = p->stored = p->lacking = p->batch_begin =
        KA_OFFSET_NONE;
    pthread_mutex_lock(&c->lock);
    placed = insert(t, p);
    pthread_mutex_unlock(&c->lock);
    if (placed)
        return p;
    free(p);
    return NULL;
}

int kai_partitions_prepare(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++) {
        topic *t = kai_topic_find(c, list->elems[i].topic);
        if (!t || !kai_partition_find(c, t, list->elems[i].partition))
            return 0;
    }
    return 1;
}

partition *kai_partition_next(const ka_consumer *c, place *at, int all)
{
    for (; at->topic < c->topic_count; at->topic++, at->index = 0) {
        const topic *t = c->topics[at->topic];
        while (at->index < t->size) {
            partition *p = t->partitions[at->index++];
            if (all || p->told)
                return p;
        }
    }
    return NULL;
}

partition *kai_partition_at(const ka_consumer *c, const char *topic_name, int32_t number)
{
    for (int64_t i = 0; i < c->topic_count; i++) {
        const topic *t = c->topics[i];
        if (strcmp(t->name, topic_name) == 0)
            return look_up(t, number);
    }
    return NULL;
}

partition *kai_partition_told(const ka_consumer *c, const char *topic_name, int32_t number)
{
    partition *p = kai_partition_at(c, topic_name, number);

    return p && p->told ? p : NULL;
}

void kai_partition_moved(ka_consumer *c, partition *p)
{
    if (p->moved)
        return;
    p->moved = 1;
    p->next_moved = c->moved;
    c->moved = p;
}

int64_t kai_partition_next_offset(const partition *p)
{
    return p->position == KA_OFFSET_NONE ? p->begin : p->position;
}

/* A message's topic object stays the same while its partition is assigned, so its address is
 * compared before its name. */
partition *kai_partition_of(ka_consumer *c, const rd_kafka_message_t *m)
{
    topic *t = c->last_topic;

    if (!m->rkt || m->partition < 0)
        return NULL;
    if (!t || t->rkt != m->rkt) {
        if (!(t = kai_topic_find(c, rd_kafka_topic_name(m->rkt))))
            return NULL;
        t->rkt = m->rkt;
        c->last_topic = t;
    }
    return kai_partition_find(c, t, m->partition);
}

/* Forget the shortcut: topic objects of librdkafka may be freed and their addresses used again. */
static void forget_topics(ka_consumer *c)
{
    c->last_topic = NULL;
    for (int64_t i = 0; i < c->topic_count; i++)
        c->topics[i]->rkt = NULL;
}

/* Runs on librdkafka's threads when something arrived in a partition's own queue. */
static void on_stray(rd_kafka_t *rk, void *opaque)
{
    ka_consumer *c = opaque;

    (void)rk;
    atomic_store(&c->strayed, 1);
    kai_wake_notify(&c->worker.wake);
}

/* Let what arrives of it come to that queue; NULL: it stays in its own. */
static void forward(ka_consumer *c, const char *topic_name, int32_t number, rd_kafka_queue_t *to)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_get_partition(c->rk, topic_name, number);

    if (!queue)
        return;
    rd_kafka_queue_cb_event_enable(queue, on_stray, c);
    rd_kafka_queue_forward(queue, to);
    rd_kafka_queue_destroy(queue);
}

void kai_partition_forward(ka_consumer *c, const partition *p)
{
    forward(c, p->topic, p->number, c->messages);
}

void kai_partitions_forward(ka_consumer *c)
{
    const partition *p;

    for (place at = {0}; (p = kai_partition_next(c, &at, 0));)
        kai_partition_forward(c, p);
}

/* librdkafka does that where it stops fetching. One that it had not begun to fetch would stay forwarded, and when
 * librdkafka frees such a partition it empties its queue, which would be ours, with what the others have there. */
static void end_forwarding(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++)
        forward(c, list->elems[i].topic, list->elems[i].partition, NULL);
}

static void adopt(ka_consumer *c, partition *p, rd_kafka_topic_partition_t *item)
{
    if (p->sought) { /* by the callback */
        item->offset = p->begin;
    } else {
        p->begin = item->offset;
        p->position = p->processed = KA_OFFSET_NONE;
    }
    p->told = p->assigned = 1;
    p->leaving = p->sought = p->fetched = p->stopped = 0;
    p->searching = item->offset < 0;
    p->generation = ++c->generations;
    p->marked = p->stored = p->lacking = KA_OFFSET_NONE;
}

void kai_partitions_adopt(ka_consumer *c, rd_kafka_topic_partition_list_t *list)
{
    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *item = &list->elems[i];
        partition *p = kai_must(kai_partition_at(c, item->topic, item->partition)); /* prepared */

        kai_partition_forward(c, p);
        pthread_mutex_lock(&c->lock);
        adopt(c, p, item);
        pthread_mutex_unlock(&c->lock);
    }
}

void kai_partitions_abandon(ka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(16);
    rd_kafka_topic_partition_list_t *paused = rd_kafka_topic_partition_list_new(16);
    partition *p;

    pthread_mutex_lock(&c->lock);
    kai_block_invalidate(c);
    for (place at = {0}; (p = kai_partition_next(c, &at, 1));) {
        if (!p->told && !p->assigned)
            continue;
        if (list && !rd_kafka_topic_partition_list_find(list, p->topic, p->number))
            continue;
        rd_kafka_topic_partition_list_add(all, p->topic, p->number);
        if ((p->paused && p->assigned) || p->corrupt)
            rd_kafka_topic_partition_list_add(paused, p->topic, p->number);
        p->told = p->assigned = p->sought = p->paused = p->corrupt = 0;
        p->generation = ++c->generations;
    }
    pthread_mutex_unlock(&c->lock);
    if (paused->cnt) /* librdkafka would remember it for the next assignment */
        rd_kafka_resume_partitions(c->rk, paused);
    rd_kafka_topic_partition_list_destroy(paused);
    end_forwarding(c, all);
    rd_kafka_topic_partition_list_destroy(all);
    kai_offsets_store(c);
    forget_topics(c);
}
