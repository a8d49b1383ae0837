/* Strided arrays in, contiguous rows to the kernels: the layer between the bindings and one instruction set's rows.
 * Compiled once, for the baseline. */
#ifndef FSM_ARRAYS_H
#define FSM_ARRAYS_H

#include "kernels.h"

#define FSM_MAX_DIMENSIONS 64

/* One array; strides in bytes over the outer dimensions and over the reduced ones. base NULL: not given. */
typedef struct {
    char *base;
    ptrdiff_t outer[FSM_MAX_DIMENSIONS];
    ptrdiff_t inner[FSM_MAX_DIMENSIONS];
} fsm_operand;

typedef struct {
    const fsm_kernels *kernels;
    enum fsm_function function;
    enum fsm_dtype dtype;
    int outer_dimensions, inner_dimensions;
    size_t outer_shape[FSM_MAX_DIMENSIONS], inner_shape[FSM_MAX_DIMENSIONS];
    fsm_operand x;    /* IN */
    fsm_operand y;    /* IN, backward functions */
    fsm_operand mask; /* IN, one byte an element, 0: left out; may be absent */
    fsm_operand out;  /* OUT; no inner dimension for logsumexp. x or y itself, or apart from both */
    fsm_temperature temperature;
} fsm_job;

/* Runs the job; changes it (merges dimensions). Every extent is at least 1. Returns 0, or -1 without memory for the scratch, in which
 * case nothing was written. */
int fsm_run(fsm_job *job);

/* Calls the kernel on contiguous rows, in the environment of fsm_enter. */
void fsm_run_rows(const fsm_kernels *kernels, enum fsm_function function, enum fsm_dtype dtype,
                  const fsm_rows *batch);

/* T as the kernels want it, for arithmetic in `dtype`. T > 0 and finite. */
fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype dtype);

#endif
