/* librdkafka's configuration object with our handling of errors. */
#ifndef KA_CONF_H
#define KA_CONF_H

#include <librdkafka/rdkafka.h>

#include "ka.h"

struct ka_conf {
    rd_kafka_conf_t *rd;
};

/* Whether a property has this value, as librdkafka writes it. */
int kai_conf_is(const ka_conf *conf, const char *name, const char *value);
/* A numeric property, or fallback when it is unset. */
int64_t kai_conf_number(const ka_conf *conf, const char *name, int64_t fallback);

/* Make a client of a copy of conf; conf itself is borrowed. on_new, with opaque, adds interceptors to the new
 * client; NULL: none. NULL: *err says why. */
rd_kafka_t *kai_conf_create(const ka_conf *conf, rd_kafka_type_t type, void *opaque, int log,
                            rd_kafka_interceptor_f_on_new_t *on_new, ka_error *err);

#endif
