/* A call as a plan, for operands of any strides and formats: the layer between the bindings and the
 * kernels, which take contiguous rows. Compiled once, for the baseline. Knows no Python. */
#ifndef FSM_ARRAYS_H
#define FSM_ARRAYS_H

#include "kernels.h"

/* The dimensions of a NumPy array, and one of extent 1 where no axis is reduced. */
#define FSM_MAX_DIMENSIONS 65

/* The operands of a call:
 *
 *                             X            Y                     MASK   OUT        GRAD
 *    softmax, log_softmax     logits       -                     where  result     -
 *    logsumexp                logits       weights b, if any     where  one a row  signs, one a
 *                                                                                  row, if any
 *    softmax_backward         grad_output  output                -      result     -
 *    log_softmax_backward     grad_output  output                where  result     -
 *    cross_entropy            logits       class indices or      where  losses,    gradient, if
 *                                          class probabilities          one a row  any
 *    segment_softmax,         data         row pointers          -      result     -
 *    segment_log_softmax
 *    segment_logsumexp        data         row pointers          -      one a row  -
 *
 * TEMPERATURE and WEIGHT (of a cross-entropy) are one a row, if any. OUT may be X, or Y of a
 * backward function, and GRAD may be X, element for element; no other operands may overlap a
 * result. */
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

/* A dimension of all operands; steps in bytes, 0 where an operand does not extend along it. */
typedef struct {
    size_t extent;
    ptrdiff_t step[FSM_OPERANDS];
} fsm_dimension;

/* The bindings fill in the first part, fsm_prepare the second. Never copied: it is large. */
typedef struct {
    const fsm_kernels *kernels;
    enum fsm_function function;
    enum fsm_dtype computing;            /* FSM_F32 or FSM_F64 */
    char *base[FSM_OPERANDS];            /* NULL: absent */
    enum fsm_dtype dtype[FSM_OPERANDS];  /* of those present */
    unsigned char foreign[FSM_OPERANDS]; /* FSM_UNALIGNED | FSM_SWAPPED; inputs only */
    fsm_temperature temperature;         /* if there is no operand of temperatures */
    double smoothing;                    /* label smoothing */
    double weight;                       /* of every row, if there is no operand of weights */
    int64_t ignored;                     /* the label whose rows give 0, if `ignores` */
    int ignores;
    int fresh;    /* the results' memory was allocated for this call */
    int unmapped; /* and its pages are zeroed at the first store */
    /* The outer dimensions, then the reduced ones, at least one. No extent is 0. Row pointers cut a
     * reduced dimension; theirs is `segments`. */
    int outer, inner;
    fsm_dimension segments; /* steps: of row pointers, and of results with one a row */
    fsm_dimension dimension[FSM_MAX_DIMENSIONS];

    /* ---- set by fsm_prepare ---- */
    size_t n;       /* elements of a row; at least those of the longest segment */
    size_t longest; /* elements of the longest segment */
    /* What is divided among threads: rows, or indices of dimension `split`, or segments. */
    size_t items;
    size_t least;  /* smaller parts would be slow */
    int split;     /* the outer dimension that items are indices of; -1: none */
    size_t pieces; /* of each row, if threads share rows (fsm_begin_row); else 0 */
    int direct;    /* the kernels take the rows where they lie */
    int beside;    /* rows lie side by side, and the kernels take them so */
    /* Indices of the outer dimension before the last whose rows along the last make a strip; 0:
     * strips are of rows along the last one alone. */
    size_t together;
    int streamed;   /* results are streamed, where possible */
    int far, large; /* members of fsm_rows */
    size_t scratch; /* bytes of scratch a thread, aligned to a cache line */
    /* Staging: rows of a strip, elements from one row to the next in scratch, and the offsets in
     * scratch of what is not yet converted and of each operand. */
    size_t strip, pitch, raw_at, at[FSM_OPERANDS];
    size_t piece;      /* elements of a long row that are staged at a time; 0: whole rows */
    size_t panels_at;  /* offset of the panels, if there are any */
    size_t kept_at;    /* offset of the mask as numbers: cross-entropy with smoothing */
    size_t weights_at; /* offset of the weights of a cross-entropy, if `waits` */
    int waits;
} fsm_plan;

enum { FSM_UNALIGNED = 1, FSM_SWAPPED = 2 };

/* What may go wrong; 0: nothing. */
enum fsm_status {
    FSM_NO_MEMORY = 1, /* the scratch exceeds memory, or there is none */
    /* A class index or row pointer out of range, a number that is not finite, a temperature not
     * above 0: the results are not to be used. */
    FSM_BAD_INDEX,
    FSM_INTERRUPTED, /* the caller's thread ends the call */
    FSM_FORKED       /* this process was forked off during the call, without its other threads */
};

/* Whether it is an integer format, as class indices have. */
static inline int fsm_is_integer(enum fsm_dtype dtype) {
    return dtype >= FSM_I8;
}

/* Appends a dimension, or merges it into the last one where every operand's steps allow. `from` is
 * the first dimension that it may be merged into: outer and reduced ones stay apart. */
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

/* Computes few contiguous rows by a function of fsm_rows, in the default environment. */
void fsm_run_rows(const fsm_kernels *kernels, enum fsm_function function, enum fsm_dtype dtype,
                  const fsm_temperature *temperature, const void *x, const void *y, void *out,
                  size_t rows, size_t n);

/* Runs a plan without dimensions, of few unmasked contiguous rows of n elements. Returns 0 and does
 * nothing if an operand needs converting or the function is not one of fsm_rows. */
int fsm_run_packed(const fsm_plan *plan, size_t elements, size_t n);

/* Checks operands and decides the second part of the plan. Returns a status; writes no result. */
enum fsm_status fsm_prepare(fsm_plan *plan, fsm_watch *watch);

/* Runs the items from `first` up to `last` of a prepared plan: an fsm_part_function. */
int fsm_run(const void *plan, size_t first, size_t last, void *scratch, fsm_watch *watch);

/* A long row of a plan, computed piece by piece. */
typedef struct {
    const fsm_plan *plan;
    char *base[FSM_OPERANDS]; /* where the row begins */
    fsm_temperature temperature;
    fsm_rows operands; /* of this row alone */
    fsm_long state;
    double result;   /* of a logsumexp, in the computing format */
    char *scratch;   /* for pieces that are read again */
    int writes;      /* the pass: 0 for sums of pieces, 1 for results */
    fsm_piece *sums; /* of all pieces, where threads share them */
} fsm_row_at_work;

/* Begins row `index` of a plan with `pieces`; `sums` has room for one each. To be followed by
 * passes of fsm_run_pieces over all pieces and fsm_end_pass, until that returns 0. */
void fsm_begin_row(fsm_row_at_work *row, const fsm_plan *plan, size_t index, fsm_piece *sums,
                   char *scratch, fsm_watch *watch);

/* Runs the pieces from `first` up to `last` of a row: an fsm_part_function. */
int fsm_run_pieces(const void *row, size_t first, size_t last, void *scratch, fsm_watch *watch);

/* Ends a pass; returns whether there is another. */
int fsm_end_pass(fsm_row_at_work *row);

/* T as the kernels take it when they compute in `computing`; T > 0 and finite. */
fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype computing);

#endif
