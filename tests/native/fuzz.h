/* What the fuzz targets share: the bytes that libFuzzer gives become numbers, choices and memory of its exact
 * size, so that a step over its end is seen. Past its end an input reads as zeros.
 *
 * The same targets, linked with replay.c in place of libFuzzer, replay tests/native/corpus/<target> as
 * ordinary tests.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_CHECK(expr) ((expr) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #expr))

typedef struct {
    const uint8_t *at;
    size_t left;
} fuzz_input;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

_Noreturn static inline void fuzz_failed(const char *file, int line, const char *expr)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, expr);
    abort(); /* libFuzzer keeps the input */
}

/* Little-endian, of up to 8 bytes. */
static inline uint64_t fuzz_number(fuzz_input *in, size_t bytes)
{
    uint64_t number = 0;

    for (size_t i = 0; i < bytes && in->left; i++, in->left--)
        number |= (uint64_t)*in->at++ << (8 * i);
    return number;
}

static inline uint64_t fuzz_below(fuzz_input *in, uint64_t limit)
{
    return fuzz_number(in, limit > 256 ? 4 : 1) % limit;
}

/* Mostly small, now and then anything. */
static inline uint32_t fuzz_size(fuzz_input *in)
{
    uint8_t kind = (uint8_t)fuzz_number(in, 1);

    return kind < 250   ? kind
           : kind < 254 ? (uint32_t)fuzz_number(in, 2)
                        : (uint32_t)fuzz_number(in, 4);
}

/* The input's next bytes, len of them, in memory of their own: free(). */
static inline char *fuzz_bytes(fuzz_input *in, size_t len)
{
    size_t given = len < in->left ? len : in->left;
    char *bytes = calloc(1, len + !len); /* of its exact size, unless that is 0 */

    FUZZ_CHECK(bytes);
    if (given)
        memcpy(bytes, in->at, given);
    in->at += given;
    in->left -= given;
    return bytes;
}

/* The same as a text, which may end early. */
static inline char *fuzz_text(fuzz_input *in, size_t len)
{
    char *bytes = fuzz_bytes(in, len), *text = malloc(len + 1);

    FUZZ_CHECK(text);
    if (len)
        memcpy(text, bytes, len);
    text[len] = 0;
    free(bytes);
    return text;
}

/* Equal parts, either of which may be absent. */
static inline int fuzz_same(const void *a, uint64_t a_len, const void *b, uint64_t b_len)
{
    return (a == NULL) == (b == NULL) &&
           (!a || (a_len == b_len && (!a_len || memcmp(a, b, a_len) == 0)));
}

#endif
