/* Included before the code under the model checker: what it calls of libc and the kernel is the checker's. */
#ifndef MODEL_CALLS_H
#define MODEL_CALLS_H

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

#define memset(memory, value, size) model_memset(memory, value, size)
#define syscall(...) model_syscall(__VA_ARGS__)
#define pthread_mutex_lock(mutex) model_mutex_lock(mutex)
#define pthread_mutex_unlock(mutex) model_mutex_unlock(mutex)
#define pthread_cond_timedwait(cond, mutex, until) model_cond_wait(cond, mutex, until)
#define pthread_cond_broadcast(cond) model_cond_broadcast(cond)

#endif
