/* One call as a plan: operands of any strides and formats in, contiguous rows to the kernels. The
 * layer between the bindings and one instruction set's rows; compiled once, for the baseline. Knows
 * no Python. */
#ifndef FSM_ARRAYS_H
#define FSM_ARRAYS_H

#include "kernels.h"

/* As many as NumPy's arrays have, and one of extent 1 where no axis is reduced. */
#define FSM_MAX_DIMENSIONS 65

/* The operands of a call. What each is:
 *
 *                              X             Y                      MASK     OUT          GRAD
 *     softmax, log_softmax     logits        -                      where    result       -
 *     logsumexp                logits        weights (b), if any    where    one a row    signs, one
 *                                                                                         a row, if any
 *     softmax_backward         grad_output   output                 -        result       -
 *     log_softmax_backward     grad_output   output                 where    result       -
 *     cross_entropy            logits        labels: class          where    one a row    gradient,
 *                                            indices or                      (losses)     if any
 *                                            probabilities
 *     segment_softmax,         data          row pointers           -        result       -
 *     segment_log_softmax
 *     segment_logsumexp        data          row pointers           -        one a row    -
 *
 * TEMPERATURE and WEIGHT (a cross-entropy's) are one a row, if any. OUT may be X or Y itself (the
 * backward functions), and GRAD may be X, element for element; else no two operands overlap in what
 * is written. */
enum fsm_operand {
    FSM_X,
    FSM_Y,
    FSM_MASK,
    FSM_TEMPERATURE,
    FSM_WEIGHT,
    FSM_OUT,
    FSM_GRAD,
    FSM_OPERANDS
};

/* One dimension of all operands; steps in bytes, 0 where an operand does not extend along it. */
typedef struct {
    size_t extent;
    ptrdiff_t step[FSM_OPERANDS];
} fsm_dimension;

/* What the bindings fill in, and what fsm_prepare decides from it. Never copied: most of it is
 * unused memory. */
typedef struct {
    const fsm_kernels *kernels;
    enum fsm_function function;
    enum fsm_dtype computing;            /* FSM_F32 or FSM_F64 */
    char *base[FSM_OPERANDS];            /* NULL: absent */
    enum fsm_dtype dtype[FSM_OPERANDS];  /* of what is not absent */
    unsigned char foreign[FSM_OPERANDS]; /* FSM_UNALIGNED | FSM_SWAPPED; inputs only */
    fsm_temperature temperature;         /* where there is no operand of them */
    double smoothing;                    /* of the labels */
    double weight;                       /* of every row; where there is no operand of them */
    int64_t ignored;                     /* rows with this label give 0, if `ignores` */
    int ignores;
    int fresh;    /* the results' memory has been allocated for this call */
    int unmapped; /* its pages are zeroed when they are first written to */
    /* The outer dimensions, then the reduced ones, of which there is at least one. No extent is 0.
     * The dimension that row pointers cut is a reduced one; that of the segments is apart. */
    int outer, inner;
    fsm_dimension segments; /* steps: of the row pointers and of results of one a row */
    fsm_dimension dimension[FSM_MAX_DIMENSIONS];

    /* ---- set by fsm_prepare ---- */
    size_t n;       /* elements of a row; at least those of the longest segment */
    size_t longest; /* those of that */
    size_t items;   /* to be run, in parts of any size: rows, or indices of the dimension `split` */
    size_t least;   /* smaller parts would be slow */
    int split;      /* the outer dimension that parts are taken of; -1: there is one item */
    size_t pieces;  /* of a row that threads can share (fsm_begin_row); 0: of none */
    int direct;     /* the kernels take the rows as they lie */
    int beside;     /* the kernels take rows that lie side by side as they lie */
    size_t together; /* indices of the outer dimension before the last, whose rows along that make a
                      * strip together; 0: strips are of rows along the last alone */
    int streamed;    /* results go past the caches, where they can */
    int far, large;  /* of fsm_rows */
    size_t scratch;  /* bytes of scratch that each thread needs, from a cache line on */
    /* Staged rows: how many at a time, elements from one to the next, and where in the scratch each
     * operand is staged. */
    size_t strip, pitch, raw_at, at[FSM_OPERANDS];
    size_t piece; /* elements of a long row that are staged at a time; 0: rows are staged whole */
    size_t panels_at;  /* where the rows of several indices are laid side by side, if they are */
    size_t kept_at;    /* where a strip's mask is as numbers: of a cross-entropy with smoothing */
    size_t weights_at; /* where the weights of a cross-entropy wait, if they do */
    int waits;
} fsm_plan;

enum { FSM_UNALIGNED = 1, FSM_SWAPPED = 2 };

/* What may go wrong; 0: nothing did. */
enum fsm_status {
    FSM_NO_MEMORY = 1, /* the scratch is larger than memory can be */
    FSM_BAD_INDEX,   /* a class index or row pointer is out of range, or a number is not finite, or
                      * a temperature not above 0: results are not to be used */
    FSM_INTERRUPTED, /* the caller's thread ends the call */
    FSM_FORKED /* the process is the child of a fork in which the call's other threads are lost */
};

/* Whether it is an integer format, as labels that are class indices have. */
static inline int fsm_is_integer(enum fsm_dtype dtype) {
    return dtype >= FSM_I8;
}

/* Appends a dimension after those there are, or merges it into the last where every operand allows.
 * `from` is the first dimension that it may be merged into: outer and reduced ones stay apart. */
static inline void fsm_append(fsm_plan *plan, int from, int *count, const fsm_dimension *added) {
    if (added->extent == 1) {
        return;
    }
    int merges = *count > from;
    fsm_dimension *last = &plan->dimension[merges ? *count - 1 : 0];
    for (int o = 0; o < FSM_OPERANDS && merges; o++) {
        merges = last->step[o] == added->step[o] * (ptrdiff_t)added->extent;
    }
    if (merges) {
        last->extent *= added->extent;
        for (int o = 0; o < FSM_OPERANDS; o++) {
            last->step[o] = added->step[o];
        }
        return;
    }
    plan->dimension[(*count)++] = *added;
}

/* Computes few rows of n elements, one after the other in every operand, in the default environment:
 * one of the functions of fsm_rows. */
void fsm_run_rows(const fsm_kernels *kernels, enum fsm_function function, enum fsm_dtype dtype,
                  const fsm_temperature *temperature, const void *x, const void *y, void *out,
                  size_t rows, size_t n);

/* Runs the plainest plan as it is, without dimensions: few unmasked rows of n elements, one after
 * the other in every operand. Returns 0, and nothing is done, where an operand is to be converted
 * or the function is not one of fsm_rows. */
int fsm_run_packed(const fsm_plan *plan, size_t elements, size_t n);

/* Decides what depends on sizes and layout. Returns a status; nothing is written. */
enum fsm_status fsm_prepare(fsm_plan *plan, fsm_watch *watch);

/* Runs items from `first` up to `last` of a plan that is prepared: an fsm_part_function. Returns a
 * status. */
int fsm_run(const void *plan, size_t first, size_t last, void *scratch, fsm_watch *watch);

/* A long row of a plan that is computed a piece at a time. */
typedef struct {
    const fsm_plan *plan;
    char *base[FSM_OPERANDS]; /* where it begins */
    fsm_temperature temperature;
    fsm_rows operands; /* of this row alone */
    fsm_long state;
    double result;   /* of a logsumexp, in the computing format */
    char *scratch;   /* for what is read once more */
    int writes;      /* what is to be done of each piece: its sum, or its results */
    fsm_piece *sums; /* of all pieces, where threads share them */
} fsm_row_at_work;

/* Begins row `index` of a plan that has `pieces`: `sums` is memory for one of each, `scratch` for
 * what the plan needs. What follows is to run its pieces, and to end that, until no pass is left. */
void fsm_begin_row(fsm_row_at_work *row, const fsm_plan *plan, size_t index, fsm_piece *sums,
                   char *scratch, fsm_watch *watch);

/* Runs pieces from `first` up to `last` of a row: an fsm_part_function. Returns a status. */
int fsm_run_pieces(const void *row, size_t first, size_t last, void *scratch, fsm_watch *watch);

/* After all of them: whether there is another pass. */
int fsm_end_pass(fsm_row_at_work *row);

/* T as the kernels want it, for arithmetic in `computing`. T > 0 and finite. */
fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype computing);

#endif
