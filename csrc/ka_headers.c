#include "ka_headers.h"

#include <string.h>

char *kai_append(char *to, const void *data, int64_t len)
{
    if (len)
        memcpy(to, data, (size_t)len);
    return to + len;
}

int kai_headers_valid(const char *block, int64_t len)
{
    uint32_t sizes[2];

    while (len >= (int64_t)sizeof sizes) {
        memcpy(sizes, block, sizeof sizes);
        int64_t size = (int64_t)sizeof sizes + sizes[0] + (kai_part_len(sizes[1]));
        if (size > len)
            return 0;
        block += size;
        len -= size;
    }
    return len == 0;
}

rd_kafka_headers_t *kai_headers_unpack(const char *block, int64_t len)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(8);

    for (const char *at = block; at < block + len;) {
        uint32_t sizes[2];
        memcpy(sizes, at, sizeof sizes);
        at += sizeof sizes;
        rd_kafka_header_add(headers, at, sizes[0], sizes[1] == KAI_NONE ? NULL : at + sizes[0],
                            kai_part_len(sizes[1]));
        at += sizes[0] + (kai_part_len(sizes[1]));
    }
    return headers;
}

rd_kafka_headers_t *kai_headers_of(const rd_kafka_message_t *message)
{
    rd_kafka_headers_t *headers;

    return rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR ? headers
                                                                                     : NULL;
}

size_t kai_headers_size(const rd_kafka_headers_t *headers)
{
    const char *name;
    const void *value;
    size_t len, size = 0;

    for (size_t i = 0; headers && !rd_kafka_header_get_all(headers, i, &name, &value, &len); i++)
        size += 2 * sizeof(uint32_t) + strlen(name) + (value ? len : 0);
    return size;
}

void kai_headers_pack(const rd_kafka_headers_t *headers, char *to)
{
    const char *name;
    const void *value;
    size_t len;

    for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &len); i++) {
        uint32_t sizes[] = {(uint32_t)strlen(name), value ? (uint32_t)len : KAI_NONE};
        to = kai_append(to, sizes, sizeof sizes);
        to = kai_append(to, name, sizes[0]);
        to = kai_append(to, value, value ? sizes[1] : 0);
    }
}
