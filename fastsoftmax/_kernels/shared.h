/* Work that several threads take parts of. Knows neither what it is nor what a thread is. */
#ifndef FSM_SHARED_H
#define FSM_SHARED_H

#include "kernels.h"

/* Runs items of some work from `first` up to `last`, with scratch and a watch of the thread's own.
 * Returns 0, or a status where it failed. */
typedef int fsm_part_function(const void *work, size_t first, size_t last, void *scratch,
                              fsm_watch *watch);

#define FSM_MOST_RANGES 32

/* Items that one thread takes before others do. */
typedef struct {
    volatile size_t next; /* the first that nobody has taken */
    size_t last;
    char apart[64 - 2 * sizeof(size_t)]; /* threads do not wait for each other's cache lines */
} fsm_range;

typedef struct {
    fsm_part_function *run;
    const void *work;
    char *scratch; /* `scratch_size` bytes for each thread */
    size_t scratch_size;
    size_t step;            /* items of a part */
    volatile size_t status; /* of a part that failed, or of a watch; no part is begun after it */
    size_t ranges;
    fsm_range range[FSM_MOST_RANGES];
} fsm_shared;

/* Begins to share `items` of work, which have `elements` together, between threads. A part has at
 * least `least` items, where that gives each thread one. `run`, `work` and the scratch are the
 * caller's to set. */
void fsm_share(fsm_shared *shared, size_t items, size_t least, size_t elements, size_t threads);

/* Takes parts until none is left; for every thread, the caller's being 0. */
void fsm_work(fsm_shared *shared, size_t thread, fsm_watch *watch);

#endif
