/* Included before our own C by the build of alloc_cases alone: each call there that may find no memory (or no
 * thread, or no descriptor) is a site, and asks alloc_fails() before it is made.
 *
 * The sites are collected by the linker, so the test knows all that there are.
 */
#ifndef ALLOC_HOOK_H
#define ALLOC_HOOK_H

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <regex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#define revoke revoke_of_unistd /* a name of ours */
#include <unistd.h>
#undef revoke

typedef struct {
    const char *file, *call;
    long line;
} alloc_site;

/* Whether the call that is about to be made there fails; errno is set. Any thread. */
int alloc_fails(const alloc_site *site);

#ifndef ALLOC_UNHOOKED

/* The call itself stands in parentheses, so that it is no macro again. */
#define ALLOC_AT(call, failure, ...)                                                             \
    __extension__({                                                                              \
        static alloc_site alloc_at __attribute__((section("alloc_sites"), aligned(8), used)) = { \
            __FILE__, #call, __LINE__};                                                          \
        alloc_fails(&alloc_at) ? (failure) : (call)(__VA_ARGS__);                                \
    })

#define malloc(...) ALLOC_AT(malloc, NULL, __VA_ARGS__)
#define calloc(...) ALLOC_AT(calloc, NULL, __VA_ARGS__)
#define realloc(...) ALLOC_AT(realloc, NULL, __VA_ARGS__)
#define aligned_alloc(...) ALLOC_AT(aligned_alloc, NULL, __VA_ARGS__)
#undef strdup
#define strdup(...) ALLOC_AT(strdup, NULL, __VA_ARGS__)
#define mmap(...) ALLOC_AT(mmap, MAP_FAILED, __VA_ARGS__)
#define eventfd(...) ALLOC_AT(eventfd, -1, __VA_ARGS__)
#define pipe(...) ALLOC_AT(pipe, -1, __VA_ARGS__)
#define regcomp(...) ALLOC_AT(regcomp, REG_ESPACE, __VA_ARGS__)
#define pthread_create(...) ALLOC_AT(pthread_create, EAGAIN, __VA_ARGS__)
#define pthread_atfork(...) ALLOC_AT(pthread_atfork, ENOMEM, __VA_ARGS__)
#define open_memstream(...) ALLOC_AT(open_memstream, NULL, __VA_ARGS__)
/* It gives up what it has, and may find no memory for the text. */
#define fclose(file) ALLOC_AT(fclose, ((fclose)(file), EOF), file)
#undef CPU_ALLOC
#define CPU_ALLOC(count) ALLOC_AT(__sched_cpualloc, NULL, count)

#endif

#endif
