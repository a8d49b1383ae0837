/* Work that several threads take parts of. Knows neither what it is nor what a thread is. */
#ifndef FSM_SHARED_H
#define FSM_SHARED_H

#include <stddef.h>

/* Items of some work from `first` up to `last`. Returns 0, or -1 where it failed. */
typedef int fsm_part_function(const void *work, size_t first, size_t last);

typedef struct {
    fsm_part_function *run;
    const void *work;
    size_t items;
    size_t step;            /* items of a part */
    volatile size_t next;   /* the first item that nobody has taken */
    volatile size_t failed; /* how many parts failed */
} fsm_shared;

/* Begins to share work of so many items, which have so many elements together, between so many threads. Parts have at least
 * `least` items, where that gives each thread one. */
void fsm_share(fsm_shared *shared, fsm_part_function *run, const void *work, size_t items,
               size_t least, size_t elements, size_t threads);

/* Takes parts until none is left; for every thread. */
void fsm_work(fsm_shared *shared);

#endif
