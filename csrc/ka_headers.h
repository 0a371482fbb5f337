/* Record headers as one block of bytes, the form in which they cross between C and Python: for each
 * (uint32 name length, uint32 value length or UINT32_MAX for none, name, value), in native byte
 * order.
 */
#ifndef KA_HEADERS_H
#define KA_HEADERS_H

#include <librdkafka/rdkafka.h>

#include "ka.h"

/* A length: the part is absent, not empty. */
#define KAI_NONE UINT32_MAX

static inline int64_t kai_part_len(uint32_t len)
{
    return len == KAI_NONE ? 0 : len;
}

int kai_headers_valid(const char *block, int64_t len);

/* Owned: rd_kafka_headers_destroy(). The block must be valid. */
rd_kafka_headers_t *kai_headers_unpack(const char *block, int64_t len);

/* A message's headers, which the message owns, or NULL when it has none. */
rd_kafka_headers_t *kai_headers_of(const rd_kafka_message_t *message);
/* Bytes that kai_headers_pack() writes; 0 for NULL. */
size_t kai_headers_size(const rd_kafka_headers_t *headers);
void kai_headers_pack(const rd_kafka_headers_t *headers, char *to);

/* memcpy that takes NULL with len 0 and returns the end of what it wrote. */
char *kai_append(char *to, const void *data, int64_t len);

#endif
