/* Runs a plan, in the calling thread or shared with helper threads. Needs no GIL, and takes none. */
#ifndef FSM_THREADS_H
#define FSM_THREADS_H

#include "arrays.h"

/* The most helper threads that the process may have: one for each CPU. */
void fsm_limit_helpers(size_t most);

/* In the child of a fork, which has none of its parent's helpers. */
void fsm_forget_helpers(void);

/* Runs all of a plan, which has `elements`, on at most `threads` threads. Returns an enum fsm_status. Memory that cannot be
 * had is reported before anything is written; where threads cannot be had, fewer do the work. */
int fsm_execute(fsm_plan *plan, size_t elements, size_t threads);

#endif
