/* Name resolution and forks, with a stand-in for the C library's: it takes a lock, waits for name servers, and fails. */
#include "ka_resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "check.h"
#include "ka_worker.h"

enum { BOUND_MS = 200, THREADS = 3 };

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int server_hangs, waiting, answered, freed, stopping;
static struct addrinfo answer;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res)
{
    CHECK(strcmp(service, "9092") == 0 && hints->ai_socktype == SOCK_STREAM);
    *res = &answer;
    if (hints->ai_flags & AI_NUMERICHOST) {
        CHECK(hints->ai_flags == (AI_NUMERICHOST | AI_NUMERICSERV)); /* so that it takes no lock */
        return node[0] == '1' ? 0 : EAI_NONAME;
    }
    CHECK(hints->ai_flags == AI_ADDRCONFIG && node[0] != '1');
    pthread_mutex_lock(&library);
    check_spin(1000);
    pthread_mutex_unlock(&library);
    atomic_fetch_add(&waiting, 1);
    while (atomic_load(&server_hangs))
        check_pause();
    atomic_fetch_sub(&waiting, 1);
    atomic_fetch_add(&answered, 1);
    errno = ENETDOWN;
    return strcmp(node, "missing") == 0 ? EAI_SYSTEM : 0;
}

void freeaddrinfo(struct addrinfo *list)
{
    CHECK(list == &answer);
    atomic_fetch_add(&freed, 1);
}

static int resolve(const char *node)
{
    struct addrinfo hints = {.ai_flags = AI_ADDRCONFIG, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int result = kai_resolve(node, "9092", &hints, &found, NULL);

    CHECK(result != 0 || found == &answer);
    return result;
}

static void *resolve_main(void *arg)
{
    (void)arg;
    CHECK(resolve("name") == 0);
    return NULL;
}

static void *resolve_on(void *arg)
{
    while (!atomic_load(&stopping))
        resolve_main(arg);
    return NULL;
}

static pthread_t begin_to_wait_for_a_server(void)
{
    pthread_t thread;

    atomic_store(&server_hangs, 1);
    thread = check_thread(resolve_main, NULL);
    CHECK_SOON(atomic_load(&waiting) == 1);
    return thread;
}

static int64_t hold_ms(void)
{
    int64_t start = check_now_ms();

    kai_resolve_hold();
    kai_resolve_release();
    return check_now_ms() - start;
}

static void check_child(pid_t child)
{
    int status;

    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

static void result_is_that_of_the_c_library(void)
{
    struct addrinfo *found = &answer;

    CHECK(resolve("127.0.0.1") == 0 && resolve("name") == 0);
    errno = 0;
    CHECK(resolve("missing") == EAI_SYSTEM && errno == ENETDOWN);
    CHECK(kai_resolve(NULL, NULL, NULL, &found, NULL) == 0 && atomic_load(&freed) == 1);
}

static void many_wait_for_name_servers_at_once(void)
{
    pthread_t threads[THREADS];

    atomic_store(&server_hangs, 1);
    for (int i = 0; i < THREADS; i++)
        threads[i] = check_thread(resolve_main, NULL);
    CHECK_SOON(atomic_load(&waiting) == THREADS);
    atomic_store(&server_hangs, 0);
    for (int i = 0; i < THREADS; i++)
        check_join(threads[i]);
}

static void during_a_fork_only_numbers_are_resolved(void)
{
    int before = atomic_load(&answered);
    pthread_t thread;

    kai_resolve_hold();
    thread = check_thread(resolve_main, NULL);
    for (int i = 0; i < 50; i++) {
        CHECK(resolve("127.0.0.1") == 0);
        check_pause();
    }
    CHECK(atomic_load(&answered) == before);
    kai_resolve_release();
    check_join(thread);
    CHECK(atomic_load(&answered) == before + 1);
}

static void do_nothing(int number)
{
    (void)number;
}

static void *disturb(void *thread)
{
    while (!atomic_load(&stopping)) {
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
        check_pause();
    }
    return NULL;
}

static void fork_waits_for_a_name_server_within_its_bound(void)
{
    pthread_t self = pthread_self(), disturber, thread = begin_to_wait_for_a_server();
    int64_t took;

    signal(SIGUSR1, do_nothing);
    atomic_store(&stopping, 0);
    disturber = check_thread(disturb, &self);
    took = hold_ms();
    CHECK(took >= BOUND_MS && took < CHECK_LIMIT_S * 500);
    atomic_store(&stopping, 1);
    check_join(disturber);
    atomic_store(&server_hangs, 0);
    check_join(thread);
}

/* How long it waits by itself: a busy machine makes some waits longer, not all. */
static int holds_at_once(void)
{
    for (int i = 0; i < 20; i++)
        if (hold_ms() < BOUND_MS)
            return 1;
    return 0;
}

static void child_does_not_wait_for_what_its_parent_resolves(void)
{
    pthread_t thread = begin_to_wait_for_a_server();
    pid_t child = fork();

    if (child == 0) {
        alarm(CHECK_LIMIT_S / 2);
        atomic_store(&server_hangs, 0);
        _exit(resolve("name") != 0 || !holds_at_once());
    }
    check_child(child);
    atomic_store(&server_hangs, 0);
    check_join(thread);
    CHECK(holds_at_once());
}

static void child_finds_the_c_librarys_lock_free(void)
{
    pthread_t threads[THREADS];
    int before = atomic_load(&answered), in_time = 0;

    atomic_store(&stopping, 0);
    for (int i = 0; i < THREADS; i++)
        threads[i] = check_thread(resolve_on, NULL);
    CHECK_SOON(atomic_load(&answered) > before + THREADS); /* they have begun; see test_worker.c */
    for (int i = 0; i < CHECK_ROUNDS(800); i++) {
        int64_t start = check_now_ms();
        pid_t child = fork();
        if (child == 0)
            _exit(check_now_ms() - start < BOUND_MS && pthread_mutex_trylock(&library) != 0);
        in_time += check_now_ms() - start < BOUND_MS;
        check_child(child);
    }
    CHECK(in_time > 0);
    atomic_store(&stopping, 1);
    for (int i = 0; i < THREADS; i++)
        check_join(threads[i]);
}

int main(void)
{
    CHECK(kai_process_init() == 0);
    RUN(result_is_that_of_the_c_library);
    RUN(many_wait_for_name_servers_at_once);
    RUN(during_a_fork_only_numbers_are_resolved);
    RUN(fork_waits_for_a_name_server_within_its_bound);
    RUN(child_does_not_wait_for_what_its_parent_resolves);
    RUN(child_finds_the_c_librarys_lock_free);
    return 0;
}
