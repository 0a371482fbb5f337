/* Holds up threads of this process wherever they are, as a scheduler does, only more often: races that
 * need a thread to stand still between two instructions are met within seconds.
 *
 * By SIGFPE, since native threads block every signal but those of their own faults.
 */
#ifndef HOLD_H
#define HOLD_H

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "check.h"

static _Atomic int64_t hold_ns;  /* how long the next one is held */
static _Atomic int hold_closed;  /* those that are held stay so until it opens */
static _Atomic int hold_holding; /* how many are held now */
static _Atomic int hold_held;    /* how many times one was */

static void hold_here(int number)
{
    int saved = errno;
    struct timespec time = {0, (long)atomic_load(&hold_ns)};

    (void)number;
    atomic_fetch_add(&hold_holding, 1);
    do
        syscall(SYS_nanosleep, &time, NULL); /* past the sanitizers, which are no reentrant */
    while (atomic_load(&hold_closed));
    atomic_fetch_sub(&hold_holding, 1);
    atomic_fetch_add(&hold_held, 1);
    errno = saved;
}

static inline void hold_install(void)
{
    struct sigaction action = {.sa_handler = hold_here, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGFPE, &action, NULL) == 0);
}

static inline int hold_is_named(const char *tid, const char *name)
{
    char path[300], comm[32] = "";
    FILE *file;

    snprintf(path, sizeof path, "/proc/self/task/%s/comm", tid);
    if (!(file = fopen(path, "r")))
        return 0; /* it has ended */
    if (!fgets(comm, sizeof comm, file))
        comm[0] = 0;
    fclose(file);
    return strncmp(comm, name, strlen(name)) == 0;
}

/* A thread of that name; 0: none has it. */
static inline int hold_find(const char *name)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    int tid = 0;

    CHECK(tasks);
    while ((task = readdir(tasks)))
        if (hold_is_named(task->d_name, name))
            tid = atoi(task->d_name);
    closedir(tasks);
    return tid;
}

static inline void hold_thread(int tid)
{
    syscall(SYS_tgkill, getpid(), tid, SIGFPE);
}

/* Hold each thread of that name, or begin of a name, with a probability of 1/one_in. Returns how many. */
static inline int hold_threads(const char *name, uint64_t *seed, uint64_t one_in)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    int n = 0;

    CHECK(tasks);
    while ((task = readdir(tasks)))
        if (check_random(seed, one_in) == 0 && hold_is_named(task->d_name, name))
            n += syscall(SYS_tgkill, getpid(), atoi(task->d_name), SIGFPE) == 0;
    closedir(tasks);
    return n;
}

#endif
