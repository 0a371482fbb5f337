/* To be preloaded into Python: calls of the native module that ask for memory, a thread or a descriptor fail from
 * a number on, all of them or one. Whoever else calls, librdkafka and Python included, is served.
 *
 * By the address that a call returns to, so it is the module as built for use that is tested.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static _Atomic uintptr_t begin, end; /* of the module's code */
static _Atomic int64_t calls, first = INT64_MAX, last, failed;

static int find_code(struct dl_phdr_info *info, size_t size, void *name)
{
    (void)size;
    if (!strstr(info->dlpi_name, name))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type != PT_LOAD || !(header->p_flags & PF_X))
            continue;
        begin = info->dlpi_addr + header->p_vaddr;
        end = begin + header->p_memsz;
    }
    return 1;
}

/* From now on, the n-th call fails, and with all set those behind it. Returns whether the module is there. */
int alloc_arm(const char *module, int64_t n, int all)
{
    int found = dl_iterate_phdr(find_code, (void *)(uintptr_t)module);

    first = INT64_MAX;
    calls = failed = 0;
    last = all ? INT64_MAX : n;
    first = n;
    return found;
}

/* No call fails any more. Returns how many did. */
int64_t alloc_disarm(void)
{
    first = INT64_MAX;
    return failed;
}

int64_t alloc_failed(void)
{
    return failed;
}

static int fails(const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    int64_t n;

    if (at < begin || at >= end || first == INT64_MAX)
        return 0;
    n = atomic_fetch_add(&calls, 1) + 1;
    if (n < first || n > last)
        return 0;
    atomic_fetch_add(&failed, 1);
    errno = ENOMEM;
    return 1;
}

#define HERE __builtin_return_address(0)

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    return fails(HERE) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(HERE) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return fails(HERE) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails(HERE) ? NULL : __libc_memalign(alignment, size);
}

/* These ask for memory themselves, or for something else. */
#define NEXT(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = fails(HERE) ? NULL : __libc_malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset)
{
    return fails(HERE) ? MAP_FAILED : NEXT(mmap)(at, size, protection, flags, file, offset);
}

int eventfd(unsigned count, int flags)
{
    int eventfd(unsigned, int);

    return fails(HERE) ? -1 : NEXT(eventfd)(count, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *arg)
{
    return fails(HERE) ? EAGAIN : NEXT(pthread_create)(thread, attributes, run, arg);
}

FILE *open_memstream(char **text, size_t *len)
{
    return fails(HERE) ? NULL : NEXT(open_memstream)(text, len);
}
