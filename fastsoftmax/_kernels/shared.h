/* Work that several threads take parts of. Knows neither the work nor the threads. */
#ifndef FSM_SHARED_H
#define FSM_SHARED_H

#include "kernels.h"

/* Runs items from `first` up to `last`, with a thread's scratch and watch; returns a status. */
typedef int fsm_part_function(const void *work, size_t first, size_t last, void *scratch,
                              fsm_watch *watch);

#define FSM_MOST_RANGES 32

/* The items that one thread takes before others do. */
typedef struct {
    volatile size_t next; /* the first that is not taken */
    size_t last;
    char apart[64 - 2 * sizeof(size_t)]; /* each range has a cache line of its own */
} fsm_range;

typedef struct {
    fsm_part_function *run;
    const void *work;
    char *scratch; /* `scratch_size` bytes for each thread */
    size_t scratch_size;
    size_t step;            /* items of a part */
    volatile size_t status; /* of a part that failed, or of a watch; then no part is begun */
    size_t ranges;
    fsm_range range[FSM_MOST_RANGES];
} fsm_shared;

/* Divides `items` of work, of `elements` in all, among threads. A part has at least `least` items,
 * unless that leaves a thread without one. The caller sets `run`, `work` and the scratch. */
void fsm_share(fsm_shared *shared, size_t items, size_t least, size_t elements, size_t threads);

/* Takes parts until none is left. Called by every thread; the caller is thread 0. */
void fsm_work(fsm_shared *shared, size_t thread, fsm_watch *watch);

#endif
