/* Headers as a block of bytes: any bytes are judged rightly, by a second reading of the format, and what is valid comes
 * through librdkafka's list unchanged. */
#include "fuzz.h"
#include "ka_headers.h"

/* The format once more, by indices: 1 if the block is a sequence of headers. *plain: no name has a NUL, which librdkafka
 * takes for its end. */
static int is_valid(const uint8_t *block, uint64_t len, int *plain)
{
    uint64_t at = 0;

    *plain = 1;
    while (at < len) {
        uint32_t name, value;
        if (len - at < 8)
            return 0;
        memcpy(&name, block + at, 4);
        memcpy(&value, block + at + 4, 4);
        at += 8;
        if (name > len - at)
            return 0;
        if (name && memchr(block + at, 0, name))
            *plain = 0;
        at += name;
        if (value == UINT32_MAX)
            continue;
        if (value > len - at)
            return 0;
        at += value;
    }
    return 1;
}

static void round_trip(const char *block, int64_t len, int plain)
{
    rd_kafka_headers_t *headers = kai_headers_unpack(block, len);
    size_t size = kai_headers_size(headers);
    char *packed = malloc(size);

    kai_headers_pack(headers, packed);
    FUZZ_CHECK(kai_headers_valid(packed, (int64_t)size));
    if (plain)
        FUZZ_CHECK(fuzz_same(packed, size, block, (uint64_t)len) || !len);
    free(packed);
    rd_kafka_headers_destroy(headers);
}

/* A valid block: sizes that fit are what chance would not find. */
static char *build(fuzz_input *in, int64_t *len)
{
    enum { MOST = 2 * sizeof(uint32_t) + 7 + 7 }; /* of two bytes of input */
    char *block = malloc(in->left / 2 * MOST + 1), *to = block;

    while (in->left >= 2) {
        uint32_t sizes[] = {(uint32_t)fuzz_below(in, 8), (uint32_t)fuzz_below(in, 9)};
        uint32_t bytes = sizes[0] + sizes[1] % 8;
        char *data = fuzz_bytes(in, bytes);

        sizes[1] = sizes[1] == 8 ? KAI_NONE : sizes[1];
        to = kai_append(to, sizes, sizeof sizes);
        to = kai_append(to, data, bytes);
        free(data);
    }
    *len = to - block;
    return block;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    int plain, valid, built = fuzz_below(&in, 2) == 1;
    int64_t len = (int64_t)in.left;
    char *block = built ? build(&in, &len) : fuzz_bytes(&in, in.left);

    block = realloc(block, (size_t)len + !len); /* its exact size */
    FUZZ_CHECK(block);
    valid = is_valid((const uint8_t *)block, (uint64_t)len, &plain);
    FUZZ_CHECK(valid || !built);
    FUZZ_CHECK(kai_headers_valid(block, len) == valid);
    FUZZ_CHECK(!kai_headers_valid(block, -1 - len));
    if (valid)
        round_trip(block, len, plain);
    free(block);
    return 0;
}
