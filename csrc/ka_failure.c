#include "ka_failure.h"

#include <stdlib.h>
#include <string.h>

#include "ka_err.h"
#include "ka_headers.h"

void kai_failures_init(kai_failures *failures)
{
    *failures = (kai_failures){.last = &failures->first};
    pthread_mutex_init(&failures->lock, NULL);
}

void kai_failures_fini(kai_failures *failures)
{
    ka_failure *f;

    while ((f = kai_failures_take(failures)))
        ka_failure_free(f);
    pthread_mutex_destroy(&failures->lock);
}

static const char *copy_part(char **to, const void *data, size_t len)
{
    char *at = *to;

    if (!data)
        return NULL;
    *to = kai_append(at, data, (int64_t)len);
    return at;
}

/* One block of memory, so that ka_failure_free() is free(). */
static ka_failure *copy_message(const kai_report *m, size_t headers_len)
{
    size_t name_size = strlen(m->topic) + 1;
    ka_failure *f = calloc(1, sizeof *f + name_size + m->value_len + m->key_len + headers_len);
    char *to = (char *)(f + 1);

    if (!f)
        return NULL;
    kai_err_set(&f->error, m->code, NULL);
    f->topic = copy_part(&to, m->topic, name_size);
    f->partition = m->partition;
    f->value = copy_part(&to, m->value, m->value_len);
    f->value_len = (int64_t)m->value_len;
    f->key = copy_part(&to, m->key, m->key_len);
    f->key_len = (int64_t)m->key_len;
    f->headers_len = (int64_t)headers_len;
    if (m->headers) {
        f->headers = to;
        kai_headers_pack(m->headers, to);
    } else if (headers_len) {
        f->headers = copy_part(&to, m->block, headers_len);
    }
    return f;
}

void kai_failures_keep(kai_failures *failures, const kai_report *message, double latency_s)
{
    size_t headers_len = message->headers ? kai_headers_size(message->headers) : message->block_len;
    int64_t bytes = (int64_t)(message->value_len + message->key_len + headers_len);
    ka_failure *f = NULL;

    pthread_mutex_lock(&failures->lock);
    if (failures->count < KAI_KEPT_MESSAGES && failures->bytes + bytes <= KAI_KEPT_BYTES)
        f = copy_message(message, headers_len);
    if (f) {
        f->latency_s = latency_s;
        *failures->last = f;
        failures->last = &f->next;
        failures->count++;
        failures->bytes += bytes;
    }
    pthread_mutex_unlock(&failures->lock);
}

ka_failure *kai_failures_take(kai_failures *failures)
{
    ka_failure *f;

    pthread_mutex_lock(&failures->lock);
    f = failures->first;
    if (f) {
        failures->first = f->next;
        if (!f->next)
            failures->last = &failures->first;
        failures->count--;
        failures->bytes -= f->value_len + f->key_len + f->headers_len;
    }
    pthread_mutex_unlock(&failures->lock);
    return f;
}

void ka_failure_free(ka_failure *failure)
{
    free(failure);
}
