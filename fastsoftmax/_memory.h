/* The memory of large new results, kept when it is freed for the next one. */
#ifndef FSM_MEMORY_H
#define FSM_MEMORY_H

#include <Python.h>
#include <stddef.h>

#include "numpy/ndarraytypes.h"

/* Larger blocks come fresh from the operating system (glibc's highest threshold; lower elsewhere):
 * their pages are zeroed, in the cache, at the first store. */
#define FSM_FRESH_ABOVE ((size_t)32 * 1024 * 1024)

/* A handler that takes memory from `of_numpy` and keeps it; to be called once. NULL where the
 * operating system has no way to take back pages of kept memory. */
PyDataMem_Handler *fsm_keeping_handler(const PyDataMem_Handler *of_numpy);

/* Whether this memory of the handler has never been an array's before. */
int fsm_is_unused(const void *data);

#endif
