/* Runs a plan, in the calling thread or shared with helper threads. */
#ifndef FSM_THREADS_H
#define FSM_THREADS_H

#include "arrays.h"

/* The most helpers that the process may have: one for each CPU. */
void fsm_limit_helpers(size_t most);

/* To be called in the child of a fork, which has none of its parent's helpers. */
void fsm_forget_helpers(void);

/* Runs all of a plan, without releasing the GIL: a short one. Returns an enum fsm_status. A lack of
 * memory is reported before anything is written. */
int fsm_execute(fsm_plan *plan);

/* The same for a plan of `elements`, by at most `threads` threads, with the GIL released; where
 * threads cannot be started, fewer do the work. In the main thread (`is_main`) signal handlers run
 * meanwhile; if one raises, returns -1 with its exception set. */
int fsm_execute_released(fsm_plan *plan, size_t elements, size_t threads, int is_main);

#endif
