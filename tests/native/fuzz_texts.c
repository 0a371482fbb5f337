/* Texts that come from librdkafka: log lines through their ring, errors, and its table of them. Whatever their length, what
 * arrives is the beginning of what was given, ended by a NUL. */
#include "fuzz.h"
#include "ka.h"
#include "ka_err.h"
#include "ka_log.h"

enum { WAITING = 32 };

static char *facilities[WAITING], *texts[WAITING];
static int levels[WAITING], waiting;

static int begins(const char *cut, size_t size, const char *whole)
{
    size_t len = strlen(whole);

    return memchr(cut, 0, size) && strlen(cut) == (len < size ? len : size - 1) &&
           strncmp(cut, whole, size - 1) == 0;
}

static void put_line(fuzz_input *in)
{
    if (waiting == WAITING)
        return;
    levels[waiting] = (int)fuzz_number(in, 4);
    facilities[waiting] = fuzz_text(in, fuzz_size(in) % 300);
    texts[waiting] = fuzz_text(in, fuzz_size(in) % 3000);
    kai_log_put(NULL, levels[waiting], facilities[waiting], texts[waiting]);
    waiting++;
}

static void check_line(const ka_log_line *line, int i)
{
    char name[400];

    snprintf(name, sizeof name, "rdkafka %s", facilities[i]);
    FUZZ_CHECK(line->level == levels[i] && begins(line->name, sizeof line->name, name));
    FUZZ_CHECK(begins(line->text, sizeof line->text, texts[i]));
    free(facilities[i]);
    free(texts[i]);
}

static void take_lines(void)
{
    ka_log_line line;

    for (int i = 0; i < waiting; i++) {
        FUZZ_CHECK(ka_wait_log(0) == KA_OK && ka_log_next(&line) == KA_OK);
        check_line(&line, i);
    }
    waiting = 0;
    FUZZ_CHECK(ka_log_next(&line) == KA_EMPTY && ka_wait_log(0) == KA_TIMEOUT &&
               ka_log_lost() == 0);
}

/* More than the ring holds: what did not fit is counted. */
static void overflow(fuzz_input *in)
{
    size_t len = (size_t)fuzz_below(in, 2000);
    char *text = malloc(len + 1);
    ka_log_line line;
    int put = 0, taken = 0, lost;

    memset(text, 'x', len);
    text[len] = 0;
    while (!(lost = (int)ka_log_lost()) && put < 40000) {
        kai_log_put(NULL, 1, "F", text);
        put++;
    }
    FUZZ_CHECK(lost == 1);
    for (; ka_log_next(&line) == KA_OK; taken++)
        FUZZ_CHECK(begins(line.text, sizeof line.text, text) &&
                   strcmp(line.name, "rdkafka F") == 0);
    FUZZ_CHECK(taken == put - 1);
    free(text);
}

static void check_error(const ka_error *err, int32_t code, const char *text)
{
    FUZZ_CHECK(err->code == code && !err->requires_abort);
    FUZZ_CHECK(memchr(err->name, 0, sizeof err->name) && err->text[0]);
    FUZZ_CHECK(*text ? begins(err->text, sizeof err->text, text)
                     : memchr(err->text, 0, sizeof err->text) != NULL);
}

static void errors(fuzz_input *in)
{
    int32_t code = (int32_t)fuzz_number(in, 4);
    int64_t index = (int64_t)fuzz_number(in, 8);
    char *text = fuzz_text(in, fuzz_size(in) % 2000);
    ka_error err;
    int status;

    memset(&err, 0x55, sizeof err);
    FUZZ_CHECK(kai_err_set(&err, (rd_kafka_resp_err_t)code, text) == KA_FAILED);
    check_error(&err, code, text);
    ka_error_describe(code, &err);
    check_error(&err, code, "");
    status = ka_mock_error(index, &err);
    FUZZ_CHECK(status == KA_OK || status == KA_EMPTY || status == KA_INVALID);
    FUZZ_CHECK(index >= 0 || status == KA_EMPTY);
    if (status == KA_OK)
        check_error(&err, err.code, "");
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};

    while (in.left) {
        uint64_t step = fuzz_number(&in, 1);
        if (step == 255) {
            take_lines();
            overflow(&in);
        } else if (step % 4 == 0) {
            take_lines();
        } else if (step % 4 == 1) {
            errors(&in);
        } else {
            put_line(&in);
        }
    }
    take_lines();
    return 0;
}
