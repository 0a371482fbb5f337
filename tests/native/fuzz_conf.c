/* Configuration: any name and value is taken or refused with a text, and what was taken can be read back into a buffer of any
 * size. Names are those of librdkafka's own table as often as not. */
#include "fuzz.h"
#include "ka_conf.h"

static char *table;
static const char *names[1024];
static int count;

/* First column of the table; the plugins' one would load libraries. */
static void list_names(void)
{
    int64_t len = ka_conf_properties(NULL, 0);

    table = malloc((size_t)len + 1);
    FUZZ_CHECK(table && ka_conf_properties(table, len) == len);
    table[len] = 0;
    for (char *line = strtok(table, "\n"); line && count < 1024; line = strtok(NULL, "\n")) {
        char *end = line + strcspn(line, " |");
        if (strchr(line, '|') && end > line && strncmp(line, "plugin.", 7) != 0) {
            *end = 0;
            names[count++] = line;
        }
    }
    FUZZ_CHECK(count > 100);
}

static void check_error(const ka_error *err)
{
    FUZZ_CHECK(err->code && memchr(err->text, 0, sizeof err->text) && err->text[0]);
    FUZZ_CHECK(memchr(err->name, 0, sizeof err->name) && err->name[0]);
}

/* Its text, whole, and cut short by a smaller buffer. */
static void read_back(const ka_conf *conf, const char *name, uint64_t size)
{
    int is_flags = strcmp(name, "debug") == 0 || strcmp(name, "builtin.features") == 0;
    int64_t len = ka_conf_get(conf, name, NULL, 0);
    char *whole, *cut = malloc(size);

    if (len < 0) {
        FUZZ_CHECK(len == KA_EMPTY);
        free(cut);
        return;
    }
    whole = malloc((size_t)len + 1);
    /* Of flags librdkafka tells one too many without a buffer, and no more than fits with one. */
    FUZZ_CHECK(ka_conf_get(conf, name, whole, len + 1) == len - is_flags);
    FUZZ_CHECK(strlen(whole) == (size_t)(len -= is_flags));
    FUZZ_CHECK(ka_conf_get(conf, name, cut, (int64_t)size) == len || is_flags);
    FUZZ_CHECK(memchr(cut, 0, size) && strncmp(whole, cut, strlen(cut)) == 0);
    FUZZ_CHECK(strlen(cut) == (size < (size_t)len + 1 ? size - 1 : (size_t)len));
    FUZZ_CHECK(kai_conf_is(conf, name, whole) == (len > 0 && len < 64));
    kai_conf_number(conf, name, 5);
    free(whole);
    free(cut);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    ka_conf *conf = ka_conf_new();
    ka_error err;

    if (!count)
        list_names();
    while (in.left > 2) {
        uint64_t pick = fuzz_number(&in, 2);
        char *own = fuzz_text(&in, (size_t)fuzz_below(&in, 40));
        char *value = fuzz_text(&in, fuzz_size(&in) % 1024);
        const char *name = pick & 1 ? names[pick / 2 % (uint64_t)count] : own;

        memset(&err, 0x55, sizeof err);
        if (strncmp(name, "plugin.", 7) != 0 && ka_conf_set(conf, name, value, &err) != KA_OK)
            check_error(&err);
        read_back(conf, name, 1 + fuzz_below(&in, 80));
        free(own);
        free(value);
    }
    ka_conf_free(conf);
    return 0;
}
