/* A malloc and a pthread_create that fail where a test says so. Preloaded, so that they come before the C library's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "environment.c"

extern void *__libc_malloc(size_t size);

enum { CALLER = 1, OTHERS = 2 };

static atomic_int threads;
static atomic_size_t least, most;
static atomic_uint_fast64_t count;

/* Refuse sizes from `from` to `to`: in the main thread (1), in all others (2), in any (3), in none (0). */
void refuse_memory(int in_threads, size_t from, size_t to) {
    atomic_store(&least, from);
    atomic_store(&most, to);
    atomic_store(&threads, in_threads);
}

static atomic_int no_threads;

void refuse_threads(int refuse) {
    atomic_store(&no_threads, refuse);
}

/* As where the system has no more threads. */
int pthread_create(pthread_t *thread, const pthread_attr_t *options, void *(*run)(void *),
                   void *argument) {
    if (atomic_load(&no_threads)) {
        atomic_fetch_add(&count, 1);
        return EAGAIN;
    }
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, options, run, argument);
}

uint64_t refused(void) {
    return atomic_load(&count);
}

void *malloc(size_t size) {
    const int asked = atomic_load(&threads);
    if (asked && size >= atomic_load(&least) && size <= atomic_load(&most)) {
        const int here = getpid() == (pid_t)syscall(SYS_gettid) ? CALLER : OTHERS;
        if (asked & here) {
            atomic_fetch_add(&count, 1);
            return NULL;
        }
    }
    return __libc_malloc(size);
}
