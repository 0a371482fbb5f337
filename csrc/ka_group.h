/* What a producer's transaction takes from a consumer. */
#ifndef KA_GROUP_H
#define KA_GROUP_H

#include <librdkafka/rdkafka.h>

#include "ka.h"

/* Take what an answered ka_consumer_group() found; the caller's from then on. NULL: taken before. */
rd_kafka_consumer_group_metadata_t *kai_group_take(ka_command *command);

#endif
