/* A malloc and a pthread_create that fail where a test says so. Preloaded, so that they come before
 * the C library's. */
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
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

enum { CALLER = 1, OTHERS = 2 };

static atomic_int threads;
static atomic_size_t least, most;
static atomic_uint_fast64_t count;

/* Refuse sizes from `from` to `to`: in the main thread (1), in all others (2), in any (3), in none
 * (0). */
void refuse_memory(int in_threads, size_t from, size_t to) {
    atomic_store(&least, from);
    atomic_store(&most, to);
    atomic_store(&threads, in_threads);
}

static atomic_int no_threads;

void refuse_threads(int refuse) {
    atomic_store(&no_threads, refuse);
}

static atomic_uint_fast64_t until;

/* Refuse the n-th from now on of all that can be refused, in any thread: memory of any size, or a
 * thread. 0 is none. */
void refuse_allocation(uint64_t n) {
    atomic_store(&until, n);
}

static int is_the_one(void) {
    uint_fast64_t left = atomic_load(&until);
    while (left && !atomic_compare_exchange_weak(&until, &left, left - 1)) {
    }
    if (left == 1) {
        atomic_fetch_add(&count, 1);
    }
    return left == 1;
}

/* As where the system has no more threads. */
int pthread_create(pthread_t *thread, const pthread_attr_t *options, void *(*run)(void *),
                   void *argument) {
    if (atomic_load(&no_threads)) {
        atomic_fetch_add(&count, 1);
        return EAGAIN;
    }
    if (is_the_one()) {
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
    return is_the_one() ? NULL : __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    return is_the_one() ? NULL : __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size) {
    return is_the_one() ? NULL : __libc_realloc(memory, size);
}
