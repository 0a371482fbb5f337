#define _GNU_SOURCE /* open_memstream */
#include "ka_conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ka_err.h"
#include "ka_log.h"
#include "ka_resolve.h"

ka_conf *ka_conf_new(void)
{
    ka_conf *conf = malloc(sizeof *conf);

    if (conf)
        conf->rd = rd_kafka_conf_new();
    return conf;
}

void ka_conf_free(ka_conf *conf)
{
    if (!conf)
        return;
    if (conf->rd)
        rd_kafka_conf_destroy(conf->rd);
    free(conf);
}

int ka_conf_set(ka_conf *conf, const char *name, const char *value, ka_error *err)
{
    char text[512];

    switch (rd_kafka_conf_set(conf->rd, name, value, text, sizeof text)) {
    case RD_KAFKA_CONF_OK:
        return KA_OK;
    case RD_KAFKA_CONF_UNKNOWN:
        kai_err_set(err, RD_KAFKA_RESP_ERR__INVALID_ARG, text);
        return KA_EMPTY;
    default:
        return kai_err_set(err, RD_KAFKA_RESP_ERR__INVALID_ARG, text);
    }
}

int64_t ka_conf_get(const ka_conf *conf, const char *name, char *buf, int64_t size)
{
    size_t len = (size_t)size;

    if (rd_kafka_conf_get(conf->rd, name, buf, &len) != RD_KAFKA_CONF_OK || len == 0)
        return KA_EMPTY;
    return (int64_t)len - 1;
}

int64_t ka_conf_properties(char *buf, int64_t size)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    int incomplete;

    if (!file)
        return KA_NOMEM;
    rd_kafka_conf_properties_show(file);
    incomplete = ferror(file); /* it had no memory to grow */
    if (fclose(file) != 0 || incomplete) {
        free(text);
        return KA_NOMEM;
    }
    if (size > 0) /* buf may be NULL */
        memcpy(buf, text, len < (size_t)size ? len : (size_t)size);
    free(text);
    return (int64_t)len;
}

int kai_conf_is(const ka_conf *conf, const char *name, const char *value)
{
    char text[64];

    return ka_conf_get(conf, name, text, sizeof text) > 0 && strcmp(text, value) == 0;
}

int64_t kai_conf_number(const ka_conf *conf, const char *name, int64_t fallback)
{
    char text[64];
    int64_t len = ka_conf_get(conf, name, text, sizeof text);

    return len <= 0 ? fallback : strtoll(text, NULL, 10);
}

rd_kafka_t *kai_conf_create(const ka_conf *conf, rd_kafka_type_t type, void *opaque, int log,
                            rd_kafka_interceptor_f_on_new_t *on_new, ka_error *err)
{
    rd_kafka_conf_t *rd = rd_kafka_conf_dup(conf->rd);
    char text[512];
    rd_kafka_t *rk;

    rd_kafka_conf_set_opaque(rd, opaque);
    rd_kafka_conf_set_log_cb(rd, log ? kai_log_put : kai_log_drop);
    rd_kafka_conf_set_resolve_cb(rd, kai_resolve);
    if (on_new) /* not earlier: a copy of a configuration has no interceptors */
        rd_kafka_conf_interceptor_add_on_new(rd, "kafka_async", on_new, opaque);
    rk = rd_kafka_new(type, rd, text, sizeof text);
    if (!rk) {
        kai_err_set(err, rd_kafka_last_error(), text);
        if (!on_new) /* librdkafka has freed the interceptors that this copy refers to: it would free them again */
            rd_kafka_conf_destroy(rd);
    }
    return rk;
}
