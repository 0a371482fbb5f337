/* A consumer in single cases that went wrong once. */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "hold.h"
#include "ka.h"

static ka_mock *mock;

static ka_consumer *open_member(void)
{
    ka_consumer_options options = {.prefetch_messages = 1000, .prefetch_bytes = 1 << 20};
    ka_partition first = {.topic = "t", .partition = 0};
    ka_conf *conf = ka_conf_new();
    ka_command *command;
    ka_error error;
    ka_consumer *c;

    CHECK(ka_conf_set(conf, "bootstrap.servers", ka_mock_bootstrap_servers(mock), &error) == KA_OK);
    CHECK(ka_conf_set(conf, "group.id", "g", &error) == KA_OK);
    CHECK((c = ka_wait_consumer_open(conf, &options, &error)));
    CHECK((command = ka_consumer_assign(c, KA_REPLACE, &first, 1)));
    CHECK(ka_wait_command(command, 20000000, &error) == KA_OK);
    ka_command_release(command);
    return c;
}

static void close_member(ka_consumer *c)
{
    ka_consumer_close(c, 0);
    CHECK(ka_wait_consumer_closed(c, 20000000) == KA_OK);
    ka_consumer_release(c);
}

static int64_t committed(void)
{
    ka_partition which = {.topic = "t", .partition = 0}, answer;
    ka_consumer *c = open_member();
    ka_command *command = ka_consumer_ask(c, KA_ASK_COMMITTED, &which, 1, 20000000);
    ka_error error;

    CHECK(ka_wait_command(command, 20000000, &error) == KA_OK);
    CHECK(ka_consumer_answer(command, &answer, 1) == 1);
    ka_command_release(command);
    close_member(c);
    return answer.offset;
}

/* patient: the application does not wait for the commit, the close does. */
static void a_commit_that_was_asked_for_before_the_close_is_made(void)
{
    ka_consumer *c = open_member();
    ka_partition seventh = {.topic = "t", .partition = 0, .offset = 7};
    ka_command *patient, *impatient;
    ka_error error;

    atomic_store(&hold_closed, 1);
    hold_thread(hold_find("ka-consumer"));
    while (!atomic_load(&hold_holding))
        check_pause();
    CHECK((patient = ka_consumer_commit(c, &seventh, 1, 1)));
    CHECK((impatient = ka_consumer_commit(c, &seventh, 1, 0)));
    ka_consumer_close(c, 0);
    atomic_store(&hold_closed, 0);
    CHECK(ka_wait_command(patient, 20000000, &error) == KA_OK);
    CHECK(ka_wait_command(impatient, 20000000, &error) == KA_CLOSED);
    ka_command_release(patient);
    ka_command_release(impatient);
    close_member(c);
    CHECK(committed() == 7);
}

int main(void)
{
    ka_error error;

    hold_install();
    atomic_store(&hold_ns, 1000000);
    CHECK((mock = ka_wait_mock_open(1, &error)));
    CHECK(ka_wait_mock_create_topic(mock, "t", 1, &error) == KA_OK);
    RUN(a_commit_that_was_asked_for_before_the_close_is_made);
    CHECK(ka_wait_workers(20000000) == KA_OK);
    ka_wait_mock_close(mock);
    return 0;
}
