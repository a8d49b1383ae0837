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
    int streamed; /* set by fsm_prepare: results go past the caches, where they can */
    int far;      /* set by fsm_prepare: of fsm_rows */
    int split;    /* set by fsm_prepare: the outer dimension that parts are taken of */
    size_t least; /* set by fsm_prepare: smaller parts would be slow */
} fsm_job;

/* Merges the dimensions of a job and decides what depends on its size. Every extent is at least 1. Returns how many items there are
 * to be run, in parts of any size. */
size_t fsm_prepare(fsm_job *job);

/* Of a job that is prepared, items from `first` up to `last`: an fsm_part_function. Returns 0, or -1 without memory for the scratch, in
 * which case nothing was written. */
int fsm_run_job(const void *job, size_t first, size_t last);

/* Contiguous rows of one operand, for which a job would be more than is needed. */
typedef struct {
    const fsm_kernels *kernels;
    enum fsm_function function;
    enum fsm_dtype dtype; /* FSM_F32 or FSM_F64 */
    int fresh;            /* the results' memory has been allocated for them */
    fsm_rows rows;
} fsm_batch;

/* Of a batch, rows `first` up to `last`: an fsm_part_function. Returns 0. */
int fsm_run_batch(const void *batch, size_t first, size_t last);

typedef struct {
    const fsm_kernels *kernels;
    enum fsm_dtype dtype; /* FSM_F32 or FSM_F64 */
    fsm_cross_entropy batch;
} fsm_entropies;

/* Of cross-entropies, those of rows `first` up to `last`: an fsm_part_function. Returns 0. */
int fsm_run_entropies(const void *entropies, size_t first, size_t last);

typedef struct {
    const fsm_kernels *kernels;
    enum fsm_dtype dtype;    /* FSM_F32 or FSM_F64 */
    const int64_t *pointers; /* segment i is elements pointers[i] up to pointers[i + 1] */
    const void *x;
    void *out; /* may be x */
} fsm_segments;

/* Of the softmax of segments, those from `first` up to `last`: an fsm_part_function. Returns 0. */
int fsm_run_segments(const void *segments, size_t first, size_t last);

/* T as the kernels want it, for arithmetic in `dtype`. T > 0 and finite. */
fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype dtype);

#endif
