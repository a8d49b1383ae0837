/* The memory of large new results: kept when it is freed, for the next one. */
#ifndef FSM_MEMORY_H
#define FSM_MEMORY_H

#include <Python.h>
#include <stddef.h>

#include "numpy/ndarraytypes.h"

/* Larger blocks come fresh from the operating system (glibc's largest threshold; elsewhere it is
 * lower): their pages are zeroed, in the cache, when they are first written to. */
#define FSM_FRESH_ABOVE ((size_t)32 * 1024 * 1024)

/* A handler that takes memory from another, and keeps it; to be asked for once. NULL where this
 * system has no way to lend memory back. */
PyDataMem_Handler *fsm_keeping_handler(const PyDataMem_Handler *of_numpy);

/* Whether memory of that handler was never written to. */
int fsm_is_unused(const void *data);

#endif
