/* What the bindings see of the kernels: rows in, rows out. Nothing here knows Python. */
#ifndef FSM_KERNELS_H
#define FSM_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* A temperature T as (scale, 1 / (T * scale)): scale is a power of two, so that no product
 * overflows. */
typedef struct {
    int tempered; /* 0: T is 1, and so are scale and inv_hi */
    double scale;
    double inv_hi, inv_lo;
} fsm_temperature;

/* One thread's share in a call that may end early: by an error in another thread, or because the
 * caller's thread is to. */
typedef struct fsm_watch {
    volatile size_t *status; /* of the call; where it is not 0, every thread is to stop */
    /* Returns a status: whether the caller's thread is to end the call. Asked now and then; NULL:
     * never, as in a helper. */
    int (*ask)(struct fsm_watch *watch);
    int64_t asked; /* when, in milliseconds */
    size_t passed; /* elements since */
} fsm_watch;

/* Elements that are passed before asking again: some 0.1 ms of work, without FMA some 10. */
#define FSM_ASK_EVERY ((size_t)1 << 18)

/* Now, in milliseconds. */
int64_t fsm_now(void);

/* The status of the call: whether to stop. Of no watch, 0. */
int fsm_stops(fsm_watch *watch);

/* The same after so many more elements; 0 where it is not yet time to ask. */
static inline int fsm_stops_after(fsm_watch *watch, size_t elements) {
    if (!watch || (watch->passed += elements) < FSM_ASK_EVERY) {
        return 0;
    }
    watch->passed = 0;
    return fsm_stops(watch);
}

/* For a pass over n elements, in pieces from `i` up to `end`: all but the last of FSM_ASK_EVERY,
 * which every vector's and chunk's length divides. Between pieces it asks whether to stop; then the
 * rest is not done. */
#define FSM_PIECES(i, end, n, watch)                                                               \
    for (size_t i = 0, end = 0; fsm_next_piece(&i, &end, n, watch);)

static inline int fsm_next_piece(size_t *i, size_t *end, size_t n, fsm_watch *watch) {
    *i = *end;
    if (*i == n || (*i && fsm_stops(watch))) {
        return 0;
    }
    *end = n - *i > FSM_ASK_EVERY ? *i + FSM_ASK_EVERY : n;
    return 1;
}

/* A batch of contiguous rows. Row i of an operand starts at its base + i * its stride (bytes, any
 * sign). */
typedef struct {
    size_t rows, n;
    const void *x; /* IN: logits; gradients for the backward functions */
    const void *y; /* IN: output of the forward pass (backward functions) */
    void *out;     /* OUT: n elements a row; logsumexp: one; may be x or y */
    ptrdiff_t x_stride, y_stride, out_stride;
    const fsm_temperature *temperature; /* IN: of all rows, or one each */
    size_t temperature_step;            /* 0 or 1: from a row's to the next one's */
    int far; /* operands are larger than the caches near by: the next row is worth fetching ahead */
    int large;        /* long rows: operands are larger than all caches */
    int streamed;     /* results go past the caches: of rows of FSM_STREAM_UP_TO, or long ones */
    void *scratch;    /* for that, FSM_STREAM_SCRATCH of a row, from a line on; not of long rows */
    fsm_watch *watch; /* of long rows; or NULL */
} fsm_rows;

/* Results of rows of more bytes than this, and of no more than that, can go past the caches. */
#define FSM_STREAM_ABOVE 1024
#define FSM_STREAM_UP_TO ((size_t)512 * 1024)
/* Two rows of so many bytes, each from where it starts in a line. */
#define FSM_STREAM_SCRATCH(row) (2 * ((row) + 128))

static inline const fsm_temperature *fsm_temperature_of(const fsm_rows *batch, size_t row) {
    return batch->temperature + row * batch->temperature_step;
}
/* Whether a row may have another temperature than 1. */
static inline int fsm_is_tempered(const fsm_rows *batch) {
    return batch->temperature_step || batch->temperature->tempered;
}

typedef void fsm_rows_function(const fsm_rows *batch);

/* Longer rows are not taken side by side. */
#define FSM_BESIDE_LENGTH 128
/* Rows side by side, as many as a vector has lanes: element i of all of them is vector i of
 * `block`, aligned to a cache line. Results take the elements' place (logsumexp: the first
 * vector's). Returns 0, the block being spoilt, where a row needs more than that. */
typedef int fsm_beside_function(void *block, size_t n);

/* The weights of up to so many vectors go into one compensated sum. */
#define FSM_CHUNK_VECTORS 64
/* Longer rows side by side, of one such sum, where they lie: element i of block k of them is a
 * vector at x + i * x_step bytes + k cache lines. */
typedef struct {
    size_t n, blocks;
    const void *x;
    void *out; /* OUT: may be x, with the same step */
    ptrdiff_t x_step, out_step;
    void *scratch; /* FSM_TALL_SCRATCH bytes a block, aligned to a cache line */
    int *done; /* OUT: of each block, 0 where a row needs more than that and nothing is written */
} fsm_tall;

/* Two vectors, and two for each of up to 16 lanes. */
#define FSM_TALL_SCRATCH ((2 + 2 * 16) * 64)
typedef void fsm_tall_function(const fsm_tall *rows);

/* Rows of the fused cross-entropy. Exactly one of `label` and `target` is given. */
typedef struct {
    size_t rows, n;
    const void *x; /* IN: logits, -inf for a class that takes no part */
    ptrdiff_t x_stride;
    const intptr_t *label; /* IN: class of each row, in range; or NULL */
    const void *target;    /* IN: a distribution a row; or NULL */
    ptrdiff_t target_stride;
    double smoothing;
    const void
        *kept; /* IN: a row's classes that have a share in the smoothing, others 0; or NULL */
    ptrdiff_t kept_stride;
    const size_t *classes;              /* IN: how many of them a row has; NULL: n */
    const fsm_temperature *temperature; /* IN: of all rows, or one each */
    size_t temperature_step;
    const double *weight; /* IN: factors of the rows' losses and gradients; NULL: 1 */
    void *loss;           /* OUT: one element a row, contiguous */
    void *grad;           /* OUT: n elements a row; or NULL; with scratch it may be x */
    ptrdiff_t grad_stride;
    void *scratch;    /* FSM_ENTROPY_SCRATCH of a row, from a line on; or NULL */
    int streamed;     /* gradients are streamed, from scratch */
    fsm_watch *watch; /* of long rows; or NULL */
} fsm_cross_entropy;

/* Rows of a cross-entropy whose weights wait in scratch at a time: 8 KiB of them, 8 at most. */
static inline size_t fsm_entropy_rows(size_t row_bytes) {
    const size_t fit = 8192 / row_bytes;
    return fit < 1 ? 1 : fit > 8 ? 8 : fit;
}
/* Each of them from where it starts in a line. */
#define FSM_ENTROPY_SCRATCH(row) (fsm_entropy_rows(row) * ((row) + 128))

typedef void fsm_cross_entropy_function(const fsm_cross_entropy *batch);

/* log|sum b e^x| of n elements, and to `sign` the sign of that sum. b is spoilt. */
typedef double fsm_weighted_function(const double *x, double *b, size_t n, double *sign,
                                     fsm_watch *watch);

enum fsm_function {
    FSM_SOFTMAX,
    FSM_LOG_SOFTMAX,
    FSM_LOGSUMEXP,
    FSM_SOFTMAX_BACKWARD,
    FSM_LOG_SOFTMAX_BACKWARD,
    FSM_ROW_FUNCTIONS, /* those of fsm_rows */
    FSM_CROSS_ENTROPY = FSM_ROW_FUNCTIONS,
    FSM_SEGMENT_SOFTMAX, /* in the order of those that compute their rows */
    FSM_SEGMENT_LOG_SOFTMAX,
    FSM_SEGMENT_LOGSUMEXP,
    FSM_FUNCTIONS
};
/* Several threads can compute a row of FSM_SHARED_FROM elements or more, in pieces of
 * FSM_SHARED_PIECE. */
#define FSM_SHARED_FROM (2 * FSM_ASK_EVERY)
#define FSM_SHARED_PIECE (FSM_ASK_EVERY / 4)

/* What one reading tells of a row, or of a piece of it. */
typedef struct {
    double maximum; /* NaNs are passed over */
    double steps;   /* N: weights are in units of 2^N (core_f32.h, A) */
    double hi, lo;  /* their sum */
} fsm_piece;

/* Elements of a long row from `first` up to `end`, no more than a piece: where they lie, or where
 * they have been gathered to, until the next such call. */
typedef const void *fsm_read_function(void *source, size_t first, size_t end);

/* A long row at work: softmax, log_softmax or logsumexp. */
typedef struct {
    const fsm_rows *rows; /* that row */
    enum fsm_function function;
    size_t piece;            /* elements of each but the last, by the length of the row alone */
    fsm_read_function *read; /* for what is seldom read once more; NULL: elements lie in rows->x */
    void *source;
    int known;     /* sums are in units of the maximum, sum.maximum, not of what they find */
    int stored;    /* results are written from the weights, which are there in place of elements */
    fsm_piece sum; /* of the pieces so far */
    double hi, lo; /* softmax: the sum's inverse; else the sum without one of the largest weights */
} fsm_long;

static inline size_t fsm_piece_length(size_t n) {
    return n < FSM_SHARED_FROM ? FSM_ASK_EVERY : FSM_SHARED_PIECE;
}

static inline fsm_long fsm_long_row(const fsm_rows *row, enum fsm_function function) {
    const double none = -(double)INFINITY;
    return (fsm_long){.rows = row,
                      .function = function,
                      .piece = fsm_piece_length(row->n),
                      .sum = {none, none, 0.0, 0.0}};
}

/* For pieces of n elements x, in any order and by any thread: `sum` of each (and its weights to w,
 * if that is not NULL); then `add` of each, in order; then `finish`, which returns whether all that
 * is to be done once more, with a known maximum, and else writes the result of a logsumexp; then
 * `write` of each, to `out`, which may be x. */
typedef struct {
    fsm_piece (*sum)(const fsm_long *row, const void *x, void *w, size_t n);
    void (*add)(fsm_long *row, const fsm_piece *piece);
    int (*finish)(fsm_long *row);
    void (*write)(const fsm_long *row, const void *x, void *out, size_t n);
} fsm_long_functions;

/* Formats of elements. Kernels compute in the first two; arrays.c converts the others. */
enum fsm_dtype {
    FSM_F32,
    FSM_F64,
    FSM_COMPUTE_DTYPES,
    FSM_F16 = FSM_COMPUTE_DTYPES,
    FSM_BF16,
    FSM_BOOL,
    FSM_I8, /* from here on: integers */
    FSM_U8,
    FSM_I16,
    FSM_U16,
    FSM_I32,
    FSM_U32,
    FSM_I64,
    FSM_U64,
    FSM_DTYPES
};

/* One instruction set's kernels. */
typedef struct {
    const char *name;
    fsm_rows_function *rows[FSM_ROW_FUNCTIONS][FSM_COMPUTE_DTYPES];
    fsm_long_functions long_rows[FSM_COMPUTE_DTYPES];
    fsm_beside_function *beside[FSM_ROW_FUNCTIONS][FSM_COMPUTE_DTYPES]; /* NULL: of none */
    fsm_tall_function *tall[FSM_COMPUTE_DTYPES];                        /* of softmax; NULL: none */
    fsm_cross_entropy_function *cross_entropy[FSM_COMPUTE_DTYPES];
    fsm_weighted_function *logsumexp_weighted;
    void (*from_f16)(float *out, const uint16_t *x, size_t n);
    void (*to_f16)(uint16_t *out, const float *x, size_t n);
    void (*from_bf16)(float *out, const uint16_t *x, size_t n);
    void (*to_bf16)(uint16_t *out, const float *x, size_t n);
    /* Elements of 2, 4 or 8 bytes, at any address, to the other byte order; `to` may be `from`. */
    void (*swap_bytes)(void *to, const void *from, size_t n, size_t size);
    /* out = x where the mask is not 0, else `other`; out may be x. */
    void (*select[FSM_COMPUTE_DTYPES])(void *out, const void *x, const uint8_t *mask, size_t n,
                                       double other);
    /* Rows that lie side by side, element i of them all at x + i * step bytes, to rows `pitch`
     * elements apart, and back. Returns how many rows were moved: whole vectors of them. */
    size_t (*gather[FSM_COMPUTE_DTYPES])(void *packed, size_t pitch, const void *x, ptrdiff_t step,
                                         size_t rows, size_t n);
    size_t (*scatter[FSM_COMPUTE_DTYPES])(void *out, ptrdiff_t step, const void *packed,
                                          size_t pitch, size_t rows, size_t n);
} fsm_kernels;

/* Best first; `supported` says whether this CPU and its operating system can run one. */
size_t fsm_compiled(const fsm_kernels *const **tables);
int fsm_supported(const fsm_kernels *kernels);

/* Results of so many bytes go past the caches. fsm_detect, to be called once before any kernel,
 * reads the CPU's cache sizes. */
void fsm_detect(void);
size_t fsm_stream_from(void);

/* The default floating-point environment (round to nearest, gradual underflow, no traps) while
 * kernels run. fsm_enter returns what fsm_leave needs to restore the caller's. */
uint64_t fsm_enter(void);
void fsm_leave(uint64_t saved);

#endif
