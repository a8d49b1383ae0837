/* The interface of one instruction set's kernels: contiguous rows in, contiguous rows out. Nothing
 * here knows Python. README.md defines the words that are used throughout. */
#ifndef FSM_KERNELS_H
#define FSM_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* A temperature T as scale and 1 / (T * scale), the latter in two parts; scale is a power of two
 * that keeps the products from overflowing. */
typedef struct {
    int tempered; /* 0: T is 1, as are scale and inv_hi */
    double scale;
    double inv_hi, inv_lo;
} fsm_temperature;

/* A thread's view of a call that a failing thread, or the caller's, may end early. */
typedef struct fsm_watch {
    volatile size_t *status; /* shared by the call's threads; not 0: stop */
    /* Asks whether the caller's thread has to end the call; returns a status. NULL: helpers. */
    int (*ask)(struct fsm_watch *watch);
    int64_t asked; /* time of the last question, in milliseconds */
    size_t passed; /* elements processed since */
} fsm_watch;

/* Elements between two questions: some 0.1 ms of work, some 10 ms without FMA. */
#define FSM_ASK_EVERY ((size_t)1 << 18)

/* The time in milliseconds. */
int64_t fsm_now(void);

/* The status of the call, not 0 if it is to stop; 0 without a watch. */
int fsm_stops(fsm_watch *watch);

/* Counts elements, and returns fsm_stops() once there are FSM_ASK_EVERY; else 0. */
static inline int fsm_stops_after(fsm_watch *watch, size_t elements) {
    if (!watch || (watch->passed += elements) < FSM_ASK_EVERY) {
        return 0;
    }
    watch->passed = 0;
    return fsm_stops(watch);
}

/* Loops over n elements in pieces from `i` up to `end`, all but the last of FSM_ASK_EVERY, a
 * multiple of every vector's and chunk's length. Asks between pieces whether to stop, and then
 * skips the rest. */
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

/* A batch of contiguous rows; row i of an operand starts i * stride bytes after its base. */
typedef struct {
    size_t rows, n;
    const void *x; /* IN: logits; gradients for the backward functions */
    const void *y; /* IN: output of the forward pass (backward functions) */
    void *out;     /* OUT: n elements a row; logsumexp: one; may be x or y */
    ptrdiff_t x_stride, y_stride, out_stride;
    const fsm_temperature *temperature; /* IN: one for all rows, or one each */
    size_t temperature_step;            /* 0 or 1: elements from a row's to the next row's */
    /* Operands exceed the inner caches: softmax_backward prefetches the next row. */
    int far;
    /* Long rows: the array has fsm_stream_from() bytes or more. */
    int large;
    /* Stream results: of rows of FSM_STREAM_ABOVE to FSM_STREAM_UP_TO bytes, or long ones. */
    int streamed;
    /* For streamed rows that are not long: FSM_STREAM_SCRATCH bytes, aligned to a cache line. */
    void *scratch;
    fsm_watch *watch; /* of long rows; may be NULL */
} fsm_rows;

/* Rows above 1 KiB and up to 512 KiB may be written with streaming stores. */
#define FSM_STREAM_ABOVE 1024
#define FSM_STREAM_UP_TO ((size_t)512 * 1024)
/* Scratch for the weights of two rows, each at its result's offset in a cache line. */
#define FSM_STREAM_SCRATCH(row) (2 * ((row) + 128))

static inline const fsm_temperature *fsm_temperature_of(const fsm_rows *batch, size_t row) {
    return batch->temperature + row * batch->temperature_step;
}
/* Whether any row may have a temperature other than 1. */
static inline int fsm_is_tempered(const fsm_rows *batch) {
    return batch->temperature_step || batch->temperature->tempered;
}

typedef void fsm_rows_function(const fsm_rows *batch);

/* The longest rows that fsm_beside_function takes. */
#define FSM_BESIDE_LENGTH 128
/* Computes 16 (float32) or 8 (float64) rows in place, transposed: vector i of `block`, which is
 * aligned to a cache line, holds element i of every row. Results replace elements (logsumexp: those
 * in vector 0). Returns 0 if a row has a NaN, no finite maximum, |max| > 4096, or (logarithms of
 * more than 64 elements) one dominant element; the block is then garbage and the caller recomputes
 * it. */
typedef int fsm_beside_function(void *block, size_t n);

/* Vectors in a chunk: their weights go into one compensated sum. */
#define FSM_CHUNK_VECTORS 64
/* Rows side by side in memory, of at most one chunk, computed where they lie: element i of the rows
 * of block k is the vector at x + i * x_step + k cache lines. */
typedef struct {
    size_t n, blocks;
    const void *x;
    void *out; /* OUT: may be x if out_step is x_step */
    ptrdiff_t x_step, out_step;
    void *scratch; /* FSM_TALL_SCRATCH bytes a block, aligned to a cache line */
    /* OUT, by block: 0 if a row has no finite maximum or |max| > 4096; nothing is written then. */
    int *done;
} fsm_tall;

/* Scratch per block: two vectors of row state (maximum, start), and 16 pairs of high and low
 * accumulators; 64 bytes a vector. */
#define FSM_TALL_SCRATCH ((2 + 2 * 16) * 64)
typedef void fsm_tall_function(const fsm_tall *rows);

/* Rows of the fused cross-entropy. Exactly one of `label` and `target` is given. */
typedef struct {
    size_t rows, n;
    const void *x; /* IN: logits, -inf for a class that is masked out */
    ptrdiff_t x_stride;
    const intptr_t *label; /* IN: class of each row, in range; or NULL */
    const void *target;    /* IN: a row of class probabilities each; or NULL */
    ptrdiff_t target_stride;
    double smoothing;
    const void
        /* IN: rows of numbers, not 0 for a class that shares in the smoothing; NULL: all share. */
        *kept;
    ptrdiff_t kept_stride;
    const size_t *classes;              /* IN: how many classes share, by row; NULL: n */
    const fsm_temperature *temperature; /* IN: one for all rows, or one each */
    size_t temperature_step;
    const double *weight; /* IN: factor of each row's loss and gradient; NULL: 1 */
    void *loss;           /* OUT: one element a row, contiguous */
    void *grad;           /* OUT: n elements a row, or NULL; may be x if there is scratch */
    ptrdiff_t grad_stride;
    /* FSM_ENTROPY_SCRATCH bytes for weights, aligned to a cache line; NULL: they go to grad. */
    void *scratch;
    int streamed;     /* gradients are streamed; needs scratch */
    fsm_watch *watch; /* of long rows; may be NULL */
} fsm_cross_entropy;

/* Rows of a cross-entropy whose weights are in scratch at a time: at most 8, and 8 KiB. */
static inline size_t fsm_entropy_rows(size_t row_bytes) {
    const size_t fit = 8192 / row_bytes;
    return fit < 1 ? 1 : fit > 8 ? 8 : fit;
}
/* Scratch for their weights, each row at its gradient's offset in a cache line. */
#define FSM_ENTROPY_SCRATCH(row) (fsm_entropy_rows(row) * ((row) + 128))

typedef void fsm_cross_entropy_function(const fsm_cross_entropy *batch);

/* Returns log|sum b e^x| over n elements, and stores the sign of the sum. Overwrites b. */
typedef double fsm_weighted_function(const double *x, double *b, size_t n, double *sign,
                                     fsm_watch *watch);

enum fsm_function {
    FSM_SOFTMAX,
    FSM_LOG_SOFTMAX,
    FSM_LOGSUMEXP,
    FSM_SOFTMAX_BACKWARD,
    FSM_LOG_SOFTMAX_BACKWARD,
    FSM_ROW_FUNCTIONS, /* the functions above are those of fsm_rows */
    FSM_CROSS_ENTROPY = FSM_ROW_FUNCTIONS,
    FSM_SEGMENT_SOFTMAX, /* in the order of FSM_SOFTMAX ..., which compute their rows */
    FSM_SEGMENT_LOG_SOFTMAX,
    FSM_SEGMENT_LOGSUMEXP,
    FSM_FUNCTIONS
};
/* Threads can share a row of FSM_SHARED_FROM elements or more, in pieces of FSM_SHARED_PIECE. */
#define FSM_SHARED_FROM (2 * FSM_ASK_EVERY)
#define FSM_SHARED_PIECE (FSM_ASK_EVERY / 4)

/* What one reading of a row, or of a piece of one, yields. */
typedef struct {
    double maximum; /* ignores NaNs */
    double steps;   /* N: weights are in units of 2^N (core_f32.h, A) */
    double hi, lo;  /* sum of the weights */
} fsm_piece;

/* Returns elements `first` up to `end` of a long row, at most a piece, where they lie or gathered
 * into memory that is valid until the next call. */
typedef const void *fsm_read_function(void *source, size_t first, size_t end);

/* A long row being computed, by a function of fsm_rows. */
typedef struct {
    const fsm_rows *rows; /* that row alone */
    enum fsm_function function;
    size_t piece; /* elements a piece, but for the last; depends on n alone */
    /* Reads elements again, in the rare cases that need it; NULL: they lie in rows->x. */
    fsm_read_function *read;
    void *source;
    /* Whether sum.maximum is the row's, as in a second reading; else it is of the pieces so far. */
    int known;
    int stored;       /* results are scaled from weights that lie in their place */
    fsm_piece sum;    /* over the pieces so far */
    double hi, lo;    /* softmax: 1 / sum; else the sum without one maximal weight */
    double lanes[24]; /* of a gradient: its sums over the pieces so far, by lane */
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

/* For pieces of n elements x. `sum` takes pieces in any order, on any thread, and also stores the
 * weights to w unless that is NULL; `add` adds their sums, in the order of the pieces; a gradient's
 * sums are added by `total` instead, in that order. `finish` returns whether the sums are to be
 * repeated with a known maximum, and else writes the result of a logsumexp; `write` writes the
 * results of a piece, in any order, to `out`, which may be x or y. */
typedef struct {
    fsm_piece (*sum)(const fsm_long *row, const void *x, void *w, size_t n);
    void (*add)(fsm_long *row, const fsm_piece *piece);
    void (*total)(fsm_long *row, const void *x, const void *y, size_t n);
    int (*finish)(fsm_long *row);
    void (*write)(const fsm_long *row, const void *x, const void *y, void *out, size_t n);
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

/* Elements of a block of those that are converted (elements.h). */
#define FSM_BLOCK 32

/* The kernels of one instruction set. */
typedef struct {
    const char *name;
    int (*rounds_once)(void); /* whether fma() does, in this unit */
    fsm_rows_function *rows[FSM_ROW_FUNCTIONS][FSM_COMPUTE_DTYPES];
    fsm_long_functions long_rows[FSM_COMPUTE_DTYPES];
    fsm_beside_function *beside[FSM_ROW_FUNCTIONS][FSM_COMPUTE_DTYPES]; /* NULL: none */
    fsm_tall_function *tall[FSM_COMPUTE_DTYPES]; /* softmax only; NULL: none */
    fsm_cross_entropy_function *cross_entropy[FSM_COMPUTE_DTYPES];
    fsm_weighted_function *logsumexp_weighted;
    /* Converts n elements, FSM_BLOCK or more, of another format to float32 or float64. */
    void (*widen[FSM_COMPUTE_DTYPES])(enum fsm_dtype dtype, void *to, const void *from, size_t n);
    void (*to_f16)(uint16_t *out, const float *x, size_t n);
    void (*to_bf16)(uint16_t *out, const float *x, size_t n);
    /* Copies n elements, unaligned, with a step of -1 or 2 elements in `from`. */
    void (*reverse[FSM_COMPUTE_DTYPES])(void *to, const void *from, size_t n);
    void (*every_second[FSM_COMPUTE_DTYPES])(void *to, const void *from, size_t n);
    /* Swaps the bytes of n elements of 2, 4 or 8 bytes, unaligned; `to` may be `from`. */
    void (*swap_bytes)(void *to, const void *from, size_t n, size_t size);
    /* out = x where the mask is not 0, else `other`; out may be x. */
    void (*select[FSM_COMPUTE_DTYPES])(void *out, const void *x, const uint8_t *mask, size_t n,
                                       double other);
    /* Transposes: element i of all rows is the run at x + i * step, rows begin `pitch` elements
     * apart in `packed`. Returns how many rows were moved, a multiple of LANES; the caller moves
     * the others. */
    size_t (*gather[FSM_COMPUTE_DTYPES])(void *packed, size_t pitch, const void *x, ptrdiff_t step,
                                         size_t rows, size_t n);
    size_t (*scatter[FSM_COMPUTE_DTYPES])(void *out, ptrdiff_t step, const void *packed,
                                          size_t pitch, size_t rows, size_t n);
} fsm_kernels;

/* The tables compiled in, best first; and whether this CPU and its operating system can run one,
 * with an fma() that rounds once. */
size_t fsm_compiled(const fsm_kernels *const **tables);
int fsm_supported(const fsm_kernels *kernels);

/* fsm_detect reads the CPU's cache sizes; to be called once, before any kernel. Results of at least
 * fsm_stream_from() bytes are worth streaming. */
void fsm_detect(void);
size_t fsm_stream_from(void);

/* The default floating-point environment (round to nearest, gradual underflow, no traps) while
 * kernels run. fsm_enter returns what fsm_leave needs to restore the caller's. */
uint64_t fsm_enter(void);
void fsm_leave(uint64_t saved);

#endif
