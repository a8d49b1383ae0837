/* Runs a plan, in the calling thread or shared with helper threads. */
#ifndef FSM_THREADS_H
#define FSM_THREADS_H

#include "arrays.h"

/* The most helper threads that the process may have: one for each CPU. */
void fsm_limit_helpers(size_t most);

/* In the child of a fork, which has none of its parent's helpers. */
void fsm_forget_helpers(void);

/* Runs all of a plan, without releasing the GIL: a short one. Returns an enum fsm_status. Memory
 * that cannot be had is reported before anything is written. */
int fsm_execute(fsm_plan *plan);

/* The same of a plan that has `elements`, on at most `threads` threads, the GIL being released;
 * where threads cannot be had, fewer do the work. In the main thread (`is_main`) signal handlers
 * run meanwhile; where one raises, -1 is returned, with its exception. */
int fsm_execute_released(fsm_plan *plan, size_t elements, size_t threads, int is_main);

#endif
