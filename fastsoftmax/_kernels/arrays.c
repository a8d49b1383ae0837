/* Design
 * A. Dimensions that are one run in memory for every operand are merged while the plan is filled
 *    in; what is left is the layout.
 * B. Rows that are contiguous in every operand, in the computing format, go to the kernels where
 *    they lie. In an array larger than the caches the results of long enough rows are streamed: a
 *    cache line that is written whole need not be read.
 * C. Rows that lie side by side are taken a vector of rows at a time, where they lie.
 * D. All else is staged: a strip of rows is gathered into scratch as contiguous rows (transposed,
 *    converted to the computing format, masked elements as -inf), computed there by the same
 *    kernels, and scattered. The scratch is a strip, never the array, and the bits are those of the
 *    contiguous row. An operand that needs none of this is used as it lies.
 * E. A strip runs along the outer dimension with the smallest step in x, so that gathering reads
 *    whole cache lines. Where that dimension is short, a strip takes the rows of several indices of
 *    another one together, as a strip of few rows costs more than its elements.
 * F. Class indices and row pointers are copied, checked, and then used: another thread that changes
 *    them meanwhile gets a status or wrong results, never a wild access. Operands of one number a
 *    row (labels, temperatures, weights) and the weights of a logsumexp are checked before the
 *    first store, too.
 * G. Nothing here allocates: fsm_prepare says how much scratch a thread needs, so that a call fails
 *    before its first store.
 * H. Every loop that can be long asks the thread's watch, once in FSM_ASK_EVERY elements, whether
 *    to stop. What was then left undone leaves garbage, which is computed with until the status is
 *    returned here. */
#include "arrays.h"
#include "portable.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Bytes of a cache line. */
#define LINE 64
/* Operands of more bytes than this do not stay in the caches of one core. */
#define FAR_FROM ((size_t)6 * 1024 * 1024)
/* The rows of a strip take about half of a small L2. */
#define STRIP_BYTES (256 * 1024)
#define STRIP_ROWS 64
/* Elements of a long row of a gradient that are staged at a time; no bit depends on it. 16 rows of
 * two float32 operands take 1 MiB. */
#define GRADIENT_PIECE ((size_t)1 << 13)
/* A strip of short rows whose elements are near each other takes half of a small L1. */
#define ALONG_BYTES (16 * 1024)
/* Such rows of fewer elements are contiguous in scratch too, so that one loop converts them all. */
#define PACKED_LENGTH 256
/* The fewest elements worth a strip of their own where rows fill whole vectors. */
#define STRIP_SUFFICES 128
/* The fewest bytes that the rows of a few indices must fill of a cache line to be a block. */
#define FILLED (LINE - LINE / 8)
/* Rows side by side that are copied at a time: their runs share a page. */
#define BESIDE_ROWS 256
/* The fewest such rows in a thread's part: half a page of float32. */
#define BESIDE_PART 512
/* With this many indices of a dimension, threads get parts of about equal size. */
#define ENOUGH_PARTS 16
/* The most elements of segments that are taken together: if they are staged; if they lie side by
 * side (of each row; their cache lines take half of a small L1); if the kernels take them as they
 * lie. And the most row pointers that are read at a time. */
#define GROUP_ELEMENTS 2048
#define GROUP_ELEMENTS_BESIDE 512
#define GROUP_ELEMENTS_DIRECT 16384
#define GROUP_SEGMENTS 1024
/* The fewest segments that are sorted by length, and the longest that are sorted. */
#define SORTED_SEGMENTS 128
#define SORTED_LENGTH 64
/* The fewest segments of one length that make a batch, and the bytes of a block of them. */
#define ALIKE 4
#define SORTED_BYTES 8192
/* Class indices copied and checked at a time; temperatures. */
#define LABELS 256
#define TEMPERATURES 64
/* Elements of another byte order or alignment that are copied, swapped and converted at a time. */
#define FOREIGN_BLOCK 512

/* Some items of a plan: where the operands begin, and how many indices of dimension `split`. */
typedef struct {
    const fsm_plan *plan;
    char *base[FSM_OPERANDS];
    size_t split_extent;
    size_t n;               /* elements of a row: the plan's, of the segments or piece at hand */
    size_t first;           /* the first of them, where a row has several dimensions */
    const int64_t *pointer; /* where these begin, and where the last one ends */
    size_t segments;
    char *scratch;
    fsm_watch *watch;
} part;

/* Rows of an operand as the kernels take them: where the first begins, and bytes to the next. */
typedef struct {
    char *base;
    ptrdiff_t step;
} rows_at;

static size_t size_of(enum fsm_dtype dtype) {
    static const size_t size[FSM_DTYPES] = {4, 8, 2, 2, 1, 1, 1, 2, 2, 4, 4, 8, 8};
    return size[dtype];
}

/* 2^e, a normal number. */
static double power_of_two(int e) {
    const uint64_t bits = (uint64_t)(e + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 1 - a * b, exact, for b = 1 / a rounded: the products of halves (Dekker 1971), as this file calls
 * no fma(). */
static double residual_of_inverse(double a, double b) {
    const double split = 0x1p27 + 1;
    const double a_hi = split * a - (split * a - a), a_lo = a - a_hi;
    const double b_hi = split * b - (split * b - b), b_lo = b - b_hi;
    return ((1.0 - a_hi * b_hi) - (a_hi * b_lo + a_lo * b_hi)) - a_lo * b_lo;
}

/* In the default environment: the caller's rounding mode must not change a bit. */
static fsm_temperature make_temperature(double temperature, enum fsm_dtype computing) {
    fsm_temperature t = {temperature != 1.0, 1.0, 1.0, 0.0};
    if (!t.tempered) {
        return t;
    }
    const int limit = computing == FSM_F64 ? 1022 : 126;
    uint64_t bits;
    memcpy(&bits, &temperature, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023; /* of a subnormal number: -1023 */
    exponent = exponent > limit ? limit : exponent < -limit ? -limit : exponent;
    t.scale = power_of_two(-exponent);
    const double scaled = temperature * t.scale;
    double inverse = 1.0 / scaled;
    if (computing == FSM_F64) {
        t.inv_hi = inverse;
        t.inv_lo = residual_of_inverse(scaled, inverse) * inverse;
    } else {
        /* Outside float32's range the result is the one at its end: one maximum, or all equal.
         * The kernels also use twice the inverse. */
        inverse = inverse > FLT_MAX / 2 ? (double)(FLT_MAX / 2)
                  : inverse < FLT_MIN   ? (double)FLT_MIN
                                        : inverse;
        t.inv_hi = (double)(float)inverse;
        t.inv_lo = (double)(float)(inverse - t.inv_hi);
    }
    return t;
}

fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype computing) {
    const uint64_t saved = fsm_enter();
    const fsm_temperature t = make_temperature(temperature, computing);
    fsm_leave(saved);
    return t;
}

/* The status of the call, as far as this thread knows it. */
static int status_of(const part *at) {
    return at->watch ? (int)FSM_READ(at->watch->status) : 0;
}

/* Rows of n elements to compute before asking whether to stop: whole strips if possible. */
static size_t rows_at_once(size_t n) {
    const size_t rows = FSM_ASK_EVERY / n;
    return rows >= STRIP_ROWS ? rows / STRIP_ROWS * STRIP_ROWS : rows ? rows : 1;
}

/* ---- properties of operands ---- */

/* Whether the operand has one number a row, i.e. lacks the reduced dimensions. */
static int is_single(const fsm_plan *p, int operand) {
    return (operand == FSM_OUT &&
            (p->function == FSM_LOGSUMEXP || p->function == FSM_CROSS_ENTROPY ||
             p->function == FSM_SEGMENT_LOGSUMEXP)) ||
           (operand == FSM_GRAD && p->function == FSM_LOGSUMEXP);
}

static int has_segments(const fsm_plan *p) {
    return p->function >= FSM_SEGMENT_SOFTMAX;
}

/* Whether it is a logsumexp with weights b. */
static int is_weighted(const fsm_plan *p) {
    return p->function == FSM_LOGSUMEXP && p->base[FSM_Y];
}

static int is_gradient(const fsm_plan *p) {
    return p->function == FSM_SOFTMAX_BACKWARD || p->function == FSM_LOG_SOFTMAX_BACKWARD;
}

/* The function of the kernels that computes its rows. */
static enum fsm_function row_function(const fsm_plan *p) {
    return has_segments(p) ? p->function - FSM_SEGMENT_SOFTMAX + FSM_SOFTMAX : p->function;
}

/* Whether the operand holds class indices or row pointers, which are read one by one. */
static int is_index(const fsm_plan *p, int operand) {
    return operand == FSM_Y && (has_segments(p) || (p->function == FSM_CROSS_ENTROPY &&
                                                    fsm_is_integer(p->dtype[FSM_Y])));
}

/* Whether the operand is absent, or is neither rows of numbers nor a result. */
static int is_other(const fsm_plan *p, int operand) {
    return !p->base[operand] || (operand >= FSM_MASK && operand <= FSM_WEIGHT) ||
           is_index(p, operand);
}

/* The outer dimension that strips run along; -1: none. */
static int strip_dimension(const fsm_plan *p) {
    return p->outer - (p->together ? 2 : 1);
}

static ptrdiff_t row_step(const fsm_plan *p, int operand) {
    return p->outer ? p->dimension[p->outer - 1].step[operand] : 0;
}

/* Whether one step leads from each row of a strip to the next, even where a strip takes rows of
 * several indices of the dimension before the last. */
static int is_even(const fsm_plan *p, int operand) {
    if (!p->together) {
        return 1;
    }
    const fsm_dimension *last = &p->dimension[p->outer - 1];
    return last[-1].step[operand] == last->step[operand] * (ptrdiff_t)last->extent;
}

/* Whether rows of the operand are runs of contiguous elements, an equal step apart. */
static int is_run(const fsm_plan *p, int operand) {
    return p->inner == 1 && is_even(p, operand) &&
           (p->n == 1 ||
            p->dimension[p->outer].step[operand] == (ptrdiff_t)size_of(p->dtype[operand]));
}

/* Whether its elements have the computing format, alignment and byte order. */
static int is_computable(const fsm_plan *p, int operand) {
    return p->dtype[operand] == p->computing && !p->foreign[operand];
}

/* Whether the kernels take the operand as it lies. */
static int is_direct(const fsm_plan *p, int operand) {
    if (is_weighted(p) && operand <= FSM_Y) {
        return 0; /* the kernel overwrites the weights */
    }
    if (is_single(p, operand)) {
        /* The kernels write losses one after the other. */
        return is_computable(p, operand) && is_even(p, operand) &&
               (p->function != FSM_CROSS_ENTROPY || !p->outer ||
                row_step(p, operand) == (ptrdiff_t)size_of(p->computing));
    }
    return is_computable(p, operand) && is_run(p, operand);
}

/* ---- conversion from any format and to it ---- */

/* Numbers converted or checked at a time, on the stack. */
#define AT_ONCE 64

/* Converts n elements, aligned and in the machine's byte order, to FSM_F32 or FSM_F64. */
static void widen(const fsm_plan *p, enum fsm_dtype wide, void *to, enum fsm_dtype dtype,
                  const char *from, size_t n) {
    if (dtype == wide) {
        memcpy(to, from, n * size_of(dtype));
    } else if (n >= FSM_BLOCK) {
        p->kernels->widen[wide](dtype, to, from, n);
    } else {
        FSM_ALIGNED(8) char given[FSM_BLOCK * sizeof(double)] = {0};
        FSM_ALIGNED(8) char converted[FSM_BLOCK * sizeof(double)];
        memcpy(given, from, n * size_of(dtype));
        p->kernels->widen[wide](dtype, converted, given, FSM_BLOCK);
        memcpy(to, converted, n * size_of(wide));
    }
}

/* float64 to float32 by rounding to odd: towards zero, with the last bit set if anything was cut
 * off. Rounding that again, to fewer bits, is rounding the float64 once (Boldo and Melquiond,
 * "Emulation of a FMA and correctly rounded sums", 2008). */
static float round_to_odd(double x) {
    float nearest = (float)x;
    if (x != x || (double)nearest == x) {
        return nearest;
    }
    uint32_t bits;
    memcpy(&bits, &nearest, sizeof bits);
    bits -= fabs((double)nearest) > fabs(x);
    bits |= 1;
    memcpy(&nearest, &bits, sizeof bits);
    return nearest;
}

/* Converts n results from the computing format. */
static void narrow(const fsm_plan *p, enum fsm_dtype dtype, char *to, const char *from, size_t n) {
    void (*const to_half)(uint16_t *, const float *, size_t) =
        dtype == FSM_F16 ? p->kernels->to_f16 : p->kernels->to_bf16;
    if (dtype == p->computing) {
        memcpy(to, from, n * size_of(dtype));
    } else if (p->computing == FSM_F32) {
        to_half((uint16_t *)to, (const float *)from, n);
    } else if (dtype == FSM_F32) {
        for (size_t i = 0; i < n; i++) {
            ((float *)to)[i] = (float)((const double *)from)[i];
        }
    } else {
        for (size_t done = 0; done < n; done += AT_ONCE) {
            float piece[AT_ONCE];
            const size_t count = n - done < AT_ONCE ? n - done : AT_ONCE;
            for (size_t i = 0; i < count; i++) {
                piece[i] = round_to_odd(((const double *)from)[done + i]);
            }
            to_half((uint16_t *)to + done, piece, count);
        }
    }
}

/* ---- indices ---- */

#define READ_INDICES(name, type)                                                                   \
    case name:                                                                                     \
        for (size_t i = 0; i < n; i++, from += step) {                                             \
            type value;                                                                            \
            memcpy(&value, from, sizeof value);                                                    \
            to[i] = (int64_t)value;                                                                \
        }                                                                                          \
        return

static void read_native(enum fsm_dtype dtype, const char *from, ptrdiff_t step, size_t n,
                        int64_t *to) {
    switch (dtype) {
        READ_INDICES(FSM_I8, int8_t);
        READ_INDICES(FSM_U8, uint8_t);
        READ_INDICES(FSM_I16, int16_t);
        READ_INDICES(FSM_U16, uint16_t);
        READ_INDICES(FSM_I32, int32_t);
        READ_INDICES(FSM_U32, uint32_t);
        READ_INDICES(FSM_U64, uint64_t);
    default:
        READ_INDICES(FSM_I64, int64_t);
    }
}

/* Copies n class indices or row pointers from the caller's memory, which another thread may write
 * to. One beyond int64 becomes negative, and so out of range. */
static void read_indices(const fsm_plan *p, const char *from, ptrdiff_t step, size_t n,
                         int64_t *to) {
    const enum fsm_dtype dtype = p->dtype[FSM_Y];
    if (dtype == FSM_I64 && step == sizeof *to && !p->foreign[FSM_Y]) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    if (!(p->foreign[FSM_Y] & FSM_SWAPPED)) {
        read_native(dtype, from, step, n, to);
        return;
    }
    for (size_t i = 0; i < n; i++, from += step) {
        FSM_ALIGNED(8) char bytes[8];
        memcpy(bytes, from, size_of(dtype));
        p->kernels->swap_bytes(bytes, bytes, 1, size_of(dtype));
        read_native(dtype, bytes, 0, 1, to + i);
    }
}

#define COPY_ELEMENTS(size)                                                                        \
    for (size_t i = 0; i < n; i++, from += from_step, to += to_step) {                             \
        memcpy(to, from, size);                                                                    \
    }                                                                                              \
    return

/* Copies n elements of `size` bytes, contiguous on one side. */
static void copy_elements(const fsm_plan *p, char *to, ptrdiff_t to_step, const char *from,
                          ptrdiff_t from_step, size_t n, size_t size) {
    if (to_step == (ptrdiff_t)size) {
        if (from_step == to_step) {
            memcpy(to, from, n * size);
            return;
        }
        if (size >= 4 && from_step == -to_step) {
            p->kernels->reverse[size == 8](to, from, n);
            return;
        }
        if (size >= 4 && from_step == 2 * to_step) {
            p->kernels->every_second[size == 8](to, from, n);
            return;
        }
    }
    switch (size) {
    case 8:
        COPY_ELEMENTS(8);
    case 4:
        COPY_ELEMENTS(4);
    case 2:
        COPY_ELEMENTS(2);
    default:
        COPY_ELEMENTS(1);
    }
}

/* Copies n numbers, at most AT_ONCE, and converts them to float64. */
static void read_numbers(const fsm_plan *p, int operand, const char *from, ptrdiff_t step, size_t n,
                         double *to) {
    FSM_ALIGNED(8) char raw[AT_ONCE * sizeof(double)];
    const size_t size = size_of(p->dtype[operand]);
    copy_elements(p, raw, (ptrdiff_t)size, from, step, n, size);
    if (p->foreign[operand] & FSM_SWAPPED) {
        p->kernels->swap_bytes(raw, raw, n, size);
    }
    widen(p, FSM_F64, to, p->dtype[operand], raw, n);
}

/* Whether a class index is out of range and not the ignored one. */
static int is_outside(const fsm_plan *p, int64_t label) {
    const int is_beyond = p->dtype[FSM_Y] == FSM_U64 && label < 0;
    return (uint64_t)label >= p->n && (is_beyond || !p->ignores || label != p->ignored);
}

/* Whether class indices are in range, other numbers finite, temperatures above 0. */
static int are_valid(const fsm_plan *p, int operand, const char *from, ptrdiff_t step, size_t n) {
    double number[AT_ONCE];
    int64_t label[AT_ONCE];
    int valid = 1;
    if (is_index(p, operand)) {
        read_indices(p, from, step, n, label);
        for (size_t i = 0; i < n; i++) {
            valid &= !is_outside(p, label[i]);
        }
        return valid;
    }
    read_numbers(p, operand, from, step, n, number);
    for (size_t i = 0; i < n; i++) {
        valid &= number[i] - number[i] == 0 && (operand != FSM_TEMPERATURE || number[i] > 0);
    }
    return valid;
}

/* Checks all of an operand's elements, along dimensions d to `last`; returns a status. Dimensions
 * that the operand does not extend along are left out. */
static int check_elements(const fsm_plan *p, int operand, const char *base, int d, int last,
                          fsm_watch *watch) {
    while (d < last && !p->dimension[d].step[operand]) {
        d++;
    }
    while (d < last && !p->dimension[last].step[operand]) {
        last--;
    }
    const ptrdiff_t step = p->dimension[d].step[operand];
    const size_t extent = step ? p->dimension[d].extent : 1;
    const size_t most = d < last ? 1 : AT_ONCE;
    int status = 0;
    for (size_t i = 0; i < extent && !status; i += most) {
        const size_t n = extent - i < most ? extent - i : most;
        const char *from = base + (ptrdiff_t)i * step;
        if (d < last) {
            status = check_elements(p, operand, from, d + 1, last, watch);
        } else {
            status = are_valid(p, operand, from, step, n) ? fsm_stops_after(watch, n)
                                                          : (int)FSM_BAD_INDEX;
        }
    }
    return status;
}

/* Checks every operand that has to be checked before anything is written. */
static int check_operands(const fsm_plan *p, fsm_watch *watch) {
    int status = 0;
    for (int o = FSM_Y; o <= FSM_WEIGHT && !status; o++) {
        /* Class indices are checked when used: too late if the results' memory is the caller's. */
        const int checked =
            o == FSM_Y ? is_weighted(p) || (is_index(p, o) && !p->fresh) : o >= FSM_TEMPERATURE;
        if (p->base[o] && checked) {
            status = check_elements(p, o, p->base[o], 0, p->outer + p->inner - 1, watch);
        }
    }
    return status;
}

/* ---- gathering and scattering a strip ---- */

#define TILE 16
/* Rows rounded up to whole tiles. */
#define ROUNDED(rows) (((rows) + TILE - 1) / TILE * TILE)

/* Moves rows x n elements between a strided array and contiguous rows, tile by tile. */
#define TRANSFER(size, gather)                                                                     \
    for (size_t i0 = 0; i0 < n; i0 += TILE) {                                                      \
        const size_t i1 = i0 + TILE < n ? i0 + TILE : n;                                           \
        for (size_t r0 = 0; r0 < rows; r0 += TILE) {                                               \
            const size_t r1 = r0 + TILE < rows ? r0 + TILE : rows;                                 \
            for (size_t i = i0; i < i1; i++) {                                                     \
                char *strided = base + (ptrdiff_t)i * step + (ptrdiff_t)r0 * row_step;             \
                char *row = packed + (r0 * pitch + i) * (size);                                    \
                for (size_t r = r0; r < r1; r++, strided += row_step, row += pitch * (size)) {     \
                    if (gather) {                                                                  \
                        memcpy(row, strided, size);                                                \
                    } else {                                                                       \
                        memcpy(strided, row, size);                                                \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

/* Moves a piece of the innermost dimension; packed rows are `pitch` elements apart. Where elements
 * of neighbouring rows are contiguous, the kernels transpose whole vectors of rows. */
static void transfer_piece(const fsm_plan *p, char *base, ptrdiff_t row_step, ptrdiff_t step,
                           size_t rows, size_t n, char *packed, size_t pitch, size_t size,
                           int gather) {
    if (row_step == (ptrdiff_t)size && size == size_of(p->computing) &&
        ((uintptr_t)base | (uintptr_t)step) % size == 0) {
        const size_t done =
            gather ? p->kernels->gather[p->computing](packed, pitch, base, step, rows, n)
                   : p->kernels->scatter[p->computing](base, step, packed, pitch, rows, n);
        base += done * size;
        packed += done * pitch * size;
        rows -= done;
    }
    const ptrdiff_t within = step < 0 ? -step : step, between = row_step < 0 ? -row_step : row_step;
    if (within < between && within <= LINE) { /* row by row, where a row is nearly a run */
        for (size_t r = 0; r < rows; r++, base += row_step, packed += pitch * size) {
            if (gather) {
                copy_elements(p, packed, (ptrdiff_t)size, base, step, n, size);
            } else {
                copy_elements(p, base, step, packed, (ptrdiff_t)size, n, size);
            }
        }
        return;
    }
    if (size == 8) {
        TRANSFER(8, gather)
    } else if (size == 4) {
        TRANSFER(4, gather)
    } else if (size == 2) {
        TRANSFER(2, gather)
    } else {
        TRANSFER(1, gather)
    }
}

/* Moves elements `first` up to `end` of the inner dimensions from `dimension` on. */
static void transfer(const part *at, int operand, char *base, size_t rows, char *packed,
                     int dimension, size_t first, size_t end, int gather) {
    const fsm_plan *p = at->plan;
    const size_t size = size_of(p->dtype[operand]);
    const ptrdiff_t step = p->dimension[dimension].step[operand];
    const int last = p->outer + p->inner - 1;
    if (dimension == last) {
        const size_t most = rows_at_once(rows);
        int status = 0;
        for (size_t i = first; i < end && !status; i += most) {
            const size_t n = end - i < most ? end - i : most;
            transfer_piece(p, base + (ptrdiff_t)i * step, row_step(p, operand), step, rows, n,
                           packed + (i - first) * size, p->pitch, size, gather);
            status = fsm_stops_after(at->watch, rows * n);
        }
        return;
    }
    size_t each = 1;
    for (int d = dimension + 1; d <= last; d++) {
        each *= p->dimension[d].extent;
    }
    for (size_t next; first < end && !status_of(at); first = next) {
        const size_t i = first / each, begin = i * each;
        next = end - begin < each ? end : begin + each;
        transfer(at, operand, base + (ptrdiff_t)i * step, rows, packed, dimension + 1,
                 first - begin, next - begin, gather);
        packed += (next - first) * size;
    }
}

/* Copies 4 bytes or more, a multiple of 4, rarely more than 64. */
static inline void copy_few(char *to, const char *from, size_t bytes) {
    if (bytes > 64) {
        memcpy(to, from, bytes);
    } else if (bytes >= 16) {
        for (size_t i = 0; i + 16 < bytes; i += 16) {
            memcpy(to + i, from + i, 16);
        }
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else if (bytes >= 8) {
        memcpy(to, from, 8);
        memcpy(to + bytes - 8, from + bytes - 8, 8);
    } else {
        memcpy(to, from, 4);
    }
}

/* Moves runs of `bytes` between scratch (`pitch` bytes apart) and an array (`step` apart). */
static inline void move_some_runs(char *packed, size_t pitch, char *strided, ptrdiff_t step,
                                  size_t runs, size_t bytes, int gather) {
    for (size_t i = 0; i < runs; i++, packed += pitch, strided += step) {
        copy_few(gather ? packed : strided, gather ? strided : packed, bytes);
    }
}

/* The same, compiled for the most frequent lengths. */
static void move_runs(char *packed, size_t pitch, char *strided, ptrdiff_t step, size_t runs,
                      size_t bytes, int gather) {
#define MOVE(bytes)                                                                                \
    case bytes:                                                                                    \
        move_some_runs(packed, pitch, strided, step, runs, bytes, gather);                         \
        return
    switch (bytes) {
        MOVE(8);
        MOVE(12);
        MOVE(16);
        MOVE(24);
        MOVE(28);
        MOVE(32);
        MOVE(64);
    default:
        move_some_runs(packed, pitch, strided, step, runs, bytes, gather);
    }
#undef MOVE
}

/* Moves rows that lie side by side, but few of each index of the dimension before the last, between
 * where they lie and panels in scratch. A panel holds the rows of `fit` indices side by side,
 * `line` bytes from one element to the next. `results`: elements of each row to move. */
static void move_panels(const fsm_plan *p, int operand, char *base, size_t indices, size_t fit,
                        size_t results, char *panel, size_t line, int gather) {
    const fsm_dimension *last = &p->dimension[p->outer - 1];
    const size_t bytes = last->extent * size_of(p->dtype[operand]);
    const ptrdiff_t index = last[-1].step[operand], step = last[1].step[operand];
    for (size_t first = 0; first < indices; first += fit) {
        const size_t count = indices - first < fit ? indices - first : fit;
        for (size_t i = 0; i < results && count > results; i++) { /* the longer loop inside */
            move_runs(panel + i * line, bytes, base + (ptrdiff_t)i * step, index, count, bytes,
                      gather);
        }
        for (size_t g = 0; g < count && count <= results; g++) {
            move_runs(panel + g * bytes, line, base + (ptrdiff_t)g * index, step, results, bytes,
                      gather);
        }
        base += (ptrdiff_t)fit * index;
        panel += p->n * line;
    }
}

/* Moves all rows of a strip. Where few lie side by side, they go by way of a panel, of which
 * transfer_piece moves whole vectors. */
static void transfer_rows(const part *at, int operand, char *base, size_t rows, char *packed,
                          int gather) {
    const fsm_plan *p = at->plan;
    if (is_even(p, operand)) {
        transfer(at, operand, base, rows, packed, p->outer, at->first, at->first + at->n, gather);
        return;
    }
    const fsm_dimension *last = &p->dimension[p->outer - 1];
    const size_t size = size_of(p->dtype[operand]);
    if (p->inner > 1 || last->step[operand] != (ptrdiff_t)size || size != size_of(p->computing)) {
        for (size_t r = 0; r < rows; r += last->extent, base += last[-1].step[operand]) {
            transfer(at, operand, base, last->extent, packed + r * p->pitch * size, p->outer, 0,
                     at->n, gather);
        }
        return;
    }
    const size_t indices = rows / last->extent, line = ROUNDED(rows) * size;
    char *const panel = at->scratch + p->panels_at;
    if (gather) {
        move_panels(p, operand, base, indices, indices, p->n, panel, line, 1);
    }
    transfer_piece(p, panel, (ptrdiff_t)size, (ptrdiff_t)line, ROUNDED(rows), p->n, packed,
                   p->pitch, size, gather);
    if (!gather) {
        move_panels(p, operand, base, indices, indices, p->n, panel, line, 0);
    }
}

/* Rows that are one run of elements for a loop: all of a strip if contiguous, else one. */
typedef struct {
    size_t rows, elements;
} run_of_rows;

/* Rows of n elements are `step` bytes apart in one operand, `pitch` elements in the other. */
static run_of_rows run_of(size_t n, size_t size, size_t rows, ptrdiff_t step, size_t pitch) {
    const size_t together = step == (ptrdiff_t)(n * size) && pitch == n ? rows : 1;
    return (run_of_rows){together, together * n};
}

/* Converts n elements of any byte order and alignment, by blocks that stay in L1. */
static void widen_foreign(const fsm_plan *p, int operand, char *to, const char *from, size_t n) {
    const enum fsm_dtype dtype = p->dtype[operand];
    const size_t size = size_of(dtype), wide = size_of(p->computing);
    FSM_ALIGNED(64) char block[FOREIGN_BLOCK * sizeof(double)];
    for (size_t i = 0; i < n; i += FOREIGN_BLOCK) {
        const size_t count = n - i < FOREIGN_BLOCK ? n - i : FOREIGN_BLOCK;
        char *const raw = dtype == p->computing ? to + i * size : block;
        if (p->foreign[operand] & FSM_SWAPPED) {
            p->kernels->swap_bytes(raw, from + i * size, count, size);
        } else {
            memcpy(raw, from + i * size, count * size);
        }
        if (raw == block) {
            widen(p, p->computing, to + i * wide, dtype, block, count);
        }
    }
}

/* Gathers rows into `packed`, as contiguous rows of the computing format. */
static void gather(const part *at, int operand, char *base, size_t rows, char *packed) {
    const fsm_plan *p = at->plan;
    const enum fsm_dtype dtype = p->dtype[operand];
    const size_t size = size_of(dtype), wide = size_of(p->computing), pitch = p->pitch;
    if (is_run(p, operand)) {
        const run_of_rows run = run_of(at->n, size, rows, row_step(p, operand), pitch);
        for (size_t r = 0; r < rows; r += run.rows) {
            const char *row = base + (ptrdiff_t)r * row_step(p, operand);
            FSM_PIECES(i, end, run.elements, at->watch) {
                char *const to = packed + (r * pitch + i) * wide;
                if (p->foreign[operand]) {
                    widen_foreign(p, operand, to, row + i * size, end - i);
                } else {
                    widen(p, p->computing, to, dtype, row + i * size, end - i);
                }
            }
        }
        return;
    }
    const int converts = dtype != p->computing;
    char *raw = converts ? at->scratch + p->raw_at : packed;
    transfer_rows(at, operand, base, rows, raw, 1);
    const run_of_rows run = run_of(at->n, 1, rows, (ptrdiff_t)pitch, pitch);
    for (size_t r = 0; r < rows; r += run.rows) {
        FSM_PIECES(i, end, run.elements, at->watch) {
            const size_t first = r * pitch + i;
            if (p->foreign[operand] & FSM_SWAPPED) {
                p->kernels->swap_bytes(raw + first * size, raw + first * size, end - i, size);
            }
            if (converts) {
                widen(p, p->computing, packed + first * wide, dtype, raw + first * size, end - i);
            }
        }
    }
}

/* Where row r of a strip begins. */
static char *row_in_strip(const fsm_plan *p, int operand, char *base, size_t r) {
    if (is_even(p, operand)) {
        return base + (ptrdiff_t)r * row_step(p, operand);
    }
    const fsm_dimension *last = &p->dimension[p->outer - 1];
    return base + (ptrdiff_t)(r / last->extent) * last[-1].step[operand] +
           (ptrdiff_t)(r % last->extent) * last->step[operand];
}

/* Converts results and moves them from scratch to where they belong. */
static void scatter(const part *at, int operand, char *base, size_t rows, const char *packed) {
    const fsm_plan *p = at->plan;
    const enum fsm_dtype dtype = p->dtype[operand];
    const size_t size = size_of(dtype), wide = size_of(p->computing);
    const size_t n = is_single(p, operand) ? 1 : at->n,
                 pitch = is_single(p, operand) ? 1 : p->pitch;
    if (n == 1 || is_run(p, operand)) {
        const ptrdiff_t step = is_even(p, operand) ? row_step(p, operand) : 0;
        const run_of_rows run = run_of(n, size, rows, step, pitch);
        for (size_t r = 0; r < rows; r += run.rows) {
            char *row = row_in_strip(p, operand, base, r);
            FSM_PIECES(i, end, run.elements, at->watch) {
                narrow(p, dtype, row + i * size, packed + (r * pitch + i) * wide, end - i);
            }
        }
        return;
    }
    if (dtype != p->computing) {
        char *raw = at->scratch + p->raw_at;
        const run_of_rows run = run_of(n, 1, rows, (ptrdiff_t)pitch, pitch);
        for (size_t r = 0; r < rows; r += run.rows) {
            FSM_PIECES(i, end, run.elements, at->watch) {
                const size_t first = r * pitch + i;
                narrow(p, dtype, raw + first * size, packed + first * wide, end - i);
            }
        }
        packed = raw;
    }
    transfer_rows(at, operand, base, rows, (char *)packed, 0);
}

/* ---- a batch of rows as the kernels take them ---- */

/* The canonical NaN. */
static double no_number(void) {
    const uint64_t bits = 0x7ff8000000000000u;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Whether a row of a mask keeps any class. */
static int keeps_any(const char *mask, size_t n) {
    size_t i = 0;
    while (i < n && !mask[i]) {
        i++;
    }
    return i < n;
}

static double number_at(const char *element, enum fsm_dtype dtype) {
    return dtype == FSM_F64 ? *(const double *)element : (double)*(const float *)element;
}

static void set_number(char *element, enum fsm_dtype dtype, double value) {
    if (dtype == FSM_F64) {
        *(double *)element = value;
    } else {
        *(float *)element = (float)value;
    }
}

/* A mask's row as numbers, not 0 where a class shares in the smoothing; returns their count. */
static size_t kept_classes(const fsm_plan *p, const char *mask, char *kept) {
    const size_t size = size_of(p->computing);
    size_t count = 0;
    for (size_t i = 0; i < p->n; i++) {
        set_number(kept + i * size, p->computing, mask[i] != 0);
        count += mask[i] != 0;
    }
    return count;
}

/* The loss of a row without a class: infinite, unless all its probabilities are 0. */
static double loss_of_none(const fsm_plan *p, const char *target, double weight) {
    const size_t size = size_of(p->computing);
    for (size_t i = 0; target && i < p->n; i++) {
        if (number_at(target + i * size, p->computing) != 0) {
            target = NULL;
        }
    }
    return target ? 0.0 : weight * (double)INFINITY;
}

/* Labels, weights and temperatures of some rows of a cross-entropy, as kernels take them. */
typedef struct {
    intptr_t label[LABELS];
    double weight[LABELS]; /* if there are any */
    fsm_temperature temperature[TEMPERATURES];
    size_t classes[LABELS];
    unsigned char left_out[LABELS]; /* whose results are 0; valid if leaves_out() */
} entropy_rows;

/* Whether rows have weights; whether rows may be left out, i.e. give 0. */
static int has_weights(const fsm_plan *p) {
    return p->base[FSM_WEIGHT] || p->weight != 1;
}
static int leaves_out(const fsm_plan *p) {
    return p->ignores || has_weights(p);
}

/* Reads class indices; returns a status, whether they are in range. */
static int read_labels(const fsm_plan *p, rows_at at, size_t first, size_t count,
                       entropy_rows *rows) {
    int64_t given[LABELS];
    int outside = 0;
    read_indices(p, at.base + (ptrdiff_t)first * at.step, at.step, count, given);
    for (size_t r = 0; r < count; r++) {
        outside |= (uint64_t)given[r] >= p->n;
        rows->label[r] = (intptr_t)given[r];
    }
    for (size_t r = 0; r < count && p->ignores; r++) {
        rows->left_out[r] = given[r] == p->ignored;
    }
    if (outside && p->ignores) {
        outside = 0;
        for (size_t r = 0; r < count; r++) {
            outside |= is_outside(p, given[r]);
        }
    }
    return outside ? FSM_BAD_INDEX : 0;
}

/* Reads weights; rows of weight 0 are left out. */
static void read_weights(const fsm_plan *p, rows_at at, size_t first, size_t count,
                         entropy_rows *rows) {
    for (size_t r = 0; r < count && p->base[FSM_WEIGHT]; r += AT_ONCE) {
        const size_t n = count - r < AT_ONCE ? count - r : AT_ONCE;
        read_numbers(p, FSM_WEIGHT, at.base + (ptrdiff_t)(first + r) * at.step, at.step, n,
                     rows->weight + r);
    }
    for (size_t r = 0; r < count; r++) {
        if (!p->base[FSM_WEIGHT]) {
            rows->weight[r] = p->weight;
        }
        rows->left_out[r] |= rows->weight[r] == 0;
    }
}

/* Reads the temperatures of at most TEMPERATURES rows. */
FSM_NOINLINE void read_temperatures(const fsm_plan *p, rows_at at, size_t first, size_t count,
                                    fsm_temperature *to) {
    double number[TEMPERATURES];
    read_numbers(p, FSM_TEMPERATURE, at.base + (ptrdiff_t)first * at.step, at.step, count, number);
    for (size_t r = 0; r < count; r++) {
        to[r] = make_temperature(number[r], p->computing);
    }
}

/* Where a row of an operand begins; NULL if the operand is absent. */
static char *row_of(rows_at at, size_t row) {
    return at.base ? at.base + (ptrdiff_t)row * at.step : NULL;
}

/* Rows of a cross-entropy, in batches without rows that are left out. Returns a status. */
static int compute_entropies(const part *part, const rows_at *at, size_t rows) {
    const fsm_plan *p = part->plan;
    const size_t size = size_of(p->computing), fit = rows_at_once(p->n);
    const int own = p->base[FSM_TEMPERATURE] != NULL, labelled = is_index(p, FSM_Y);
    const size_t limit = own ? TEMPERATURES : LABELS, most = fit < limit ? fit : limit;
    const rows_at mask = at[FSM_MASK];
    const int shared = mask.base && p->smoothing > 0;
    const ptrdiff_t pitch = (ptrdiff_t)(p->pitch * size);
    char *const kept = part->scratch + p->kept_at;
    entropy_rows given;
    for (size_t first = 0; first < rows; first += most) {
        const size_t count = rows - first < most ? rows - first : most;
        int status = 0;
        if (leaves_out(p)) {
            memset(given.left_out, 0, count);
        }
        if (labelled && (status = read_labels(p, at[FSM_Y], first, count, &given)) != 0) {
            return status;
        }
        if (has_weights(p)) {
            read_weights(p, at[FSM_WEIGHT], first, count, &given);
        }
        if (own) {
            read_temperatures(p, at[FSM_TEMPERATURE], first, count, given.temperature);
        }
        for (size_t r = 0; r < count && shared; r++) {
            given.classes[r] =
                kept_classes(p, row_of(mask, first + r), kept + (ptrdiff_t)(first + r) * pitch);
        }
        for (size_t r = 0, end; r < count; r = end) {
            const size_t row = first + r;
            char *const loss = at[FSM_OUT].base + row * size;
            char *const grad = row_of(at[FSM_GRAD], row);
            if (leaves_out(p) && given.left_out[r]) {
                end = r + 1;
                memset(loss, 0, size);
                if (grad) {
                    memset(grad, 0, p->n * size);
                }
                continue;
            }
            end = leaves_out(p) ? r + 1 : count;
            while (end < count && !given.left_out[end]) {
                end++;
            }
            const fsm_cross_entropy batch = {
                .rows = end - r,
                .n = p->n,
                .x = row_of(at[FSM_X], row),
                .x_stride = at[FSM_X].step,
                .label = labelled ? given.label + r : NULL,
                .target = labelled ? NULL : row_of(at[FSM_Y], row),
                .target_stride = at[FSM_Y].step,
                .smoothing = p->smoothing,
                .kept = shared ? kept + (ptrdiff_t)row * pitch : NULL,
                .kept_stride = pitch,
                .classes = shared ? given.classes + r : NULL,
                .temperature = own ? given.temperature + r : &p->temperature,
                .temperature_step = own,
                .weight = has_weights(p) ? given.weight + r : NULL,
                .loss = loss,
                .grad = grad,
                .grad_stride = at[FSM_GRAD].step,
                .scratch = p->waits ? part->scratch + p->weights_at : NULL,
                .streamed = p->streamed,
                .watch = part->watch,
            };
            p->kernels->cross_entropy[p->computing](&batch);
            for (size_t i = r; i < end && mask.base; i++) {
                char *const of_row = at[FSM_OUT].base + (first + i) * size;
                const double value = number_at(of_row, p->computing);
                if (value != value && !keeps_any(row_of(mask, first + i), p->n)) {
                    const char *target = labelled ? NULL : row_of(at[FSM_Y], first + i);
                    const double weight = has_weights(p) ? given.weight[i] : 1.0;
                    set_number(of_row, p->computing, loss_of_none(p, target, weight));
                }
            }
        }
        status = fsm_stops_after(part->watch, count * p->n);
        if (status) {
            return status;
        }
    }
    return 0;
}

/* The signs of the sums of plain logsumexps: 1, but 0 for an empty sum and NaN for NaN. */
static void signs_of(const fsm_plan *p, rows_at out, rows_at sign, size_t rows) {
    for (size_t r = 0; r < rows; r++) {
        const double log = number_at(row_of(out, r), p->computing);
        const double value = log != log ? log : log == -(double)INFINITY ? 0.0 : 1.0;
        set_number(row_of(sign, r), p->computing, value);
    }
}

/* Rows of a logsumexp with b. Without a sign, the logarithm of a negative sum is NaN. */
static int compute_weighted(const part *part, const rows_at *at, size_t rows) {
    const fsm_plan *p = part->plan;
    for (size_t r = 0; r < rows; r++) {
        double sign;
        const double log = p->kernels->logsumexp_weighted((const double *)row_of(at[FSM_X], r),
                                                          (double *)row_of(at[FSM_Y], r), p->n,
                                                          &sign, part->watch);
        if (at[FSM_GRAD].base) {
            *(double *)row_of(at[FSM_GRAD], r) = sign;
        }
        *(double *)row_of(at[FSM_OUT], r) = sign < 0 && !at[FSM_GRAD].base ? no_number() : log;
        const int status = fsm_stops_after(part->watch, p->n);
        if (status) {
            return status;
        }
    }
    return 0;
}

/* Rows of any function, as the kernels take them. `stream`: scratch for streaming, or NULL. */
static int compute(const part *part, const rows_at *at, size_t rows, void *stream) {
    const fsm_plan *p = part->plan;
    if (p->function == FSM_CROSS_ENTROPY) {
        return compute_entropies(part, at, rows);
    }
    if (is_weighted(p)) {
        return compute_weighted(part, at, rows);
    }
    fsm_temperature temperature[TEMPERATURES];
    const int own = p->base[FSM_TEMPERATURE] != NULL;
    fsm_rows batch = {
        .n = part->n,
        .x = at[FSM_X].base,
        .y = has_segments(p) ? NULL : at[FSM_Y].base,
        .out = at[FSM_OUT].base,
        .x_stride = at[FSM_X].step,
        .y_stride = at[FSM_Y].step,
        .out_stride = at[FSM_OUT].step,
        .temperature = own ? temperature : &p->temperature,
        .temperature_step = own,
        .far = p->far,
        .large = p->large,
        .streamed = stream || (p->streamed && part->n > FSM_ASK_EVERY),
        .scratch = stream,
        .watch = part->watch,
    };
    size_t most = 2 * rows_at_once(part->n);
    if (own && most > TEMPERATURES) {
        most = TEMPERATURES;
    }
    for (size_t first = 0; first < rows; first += most) {
        batch.rows = rows - first < most ? rows - first : most;
        if (own) {
            read_temperatures(p, at[FSM_TEMPERATURE], first, batch.rows, temperature);
        }
        p->kernels->rows[row_function(p)][p->computing](&batch);
        const int status = fsm_stops_after(part->watch, batch.rows * part->n);
        if (status) {
            return status;
        }
        batch.x = (const char *)batch.x + (ptrdiff_t)most * batch.x_stride;
        batch.y = batch.y ? (const char *)batch.y + (ptrdiff_t)most * batch.y_stride : NULL;
        batch.out = (char *)batch.out + (ptrdiff_t)most * batch.out_stride;
    }
    if (p->function == FSM_LOGSUMEXP && at[FSM_GRAD].base) {
        signs_of(p, at[FSM_OUT], at[FSM_GRAD], rows);
    }
    return 0;
}

static int run_direct(const part *at, size_t rows) {
    const fsm_plan *p = at->plan;
    rows_at operands[FSM_OPERANDS];
    for (int o = 0; o < FSM_OPERANDS; o++) {
        operands[o] = (rows_at){at->base[o], row_step(p, o)};
    }
    return compute(at, operands, rows, p->scratch ? at->scratch : NULL);
}

/* ---- strips ---- */

/* to = from where the mask keeps an element, else `other`. */
static void select_rows(const part *at, rows_at to, rows_at from, rows_at mask, size_t rows,
                        double other) {
    const fsm_plan *p = at->plan;
    const size_t size = size_of(p->computing);
    const int even = to.step == from.step && to.step == mask.step * (ptrdiff_t)size;
    const run_of_rows run = run_of(at->n, 1, rows, even ? mask.step : 0, at->n);
    for (size_t r = 0; r < rows; r += run.rows) {
        char *result = to.base + (ptrdiff_t)r * to.step;
        const char *row = from.base + (ptrdiff_t)r * from.step;
        const uint8_t *kept = (const uint8_t *)mask.base + (ptrdiff_t)r * mask.step;
        FSM_PIECES(i, end, run.elements, at->watch) {
            p->kernels->select[p->computing](result + i * size, row + i * size, kept + i, end - i,
                                             other);
        }
    }
}

/* Sets masked elements in the results of rows. */
static void mask_results(const part *at, rows_at out, rows_at mask, size_t rows) {
    const fsm_plan *p = at->plan;
    if (p->function == FSM_LOG_SOFTMAX_BACKWARD || p->function == FSM_CROSS_ENTROPY) {
        select_rows(at, out, out, mask, rows, 0.0);
        return;
    }
    /* They weigh 0, so their results are right, unless the row is NaN throughout. */
    const double other = p->function == FSM_SOFTMAX ? 0.0 : -INFINITY;
    for (size_t r = 0; r < rows; r++) {
        const double value = number_at(out.base, p->computing);
        if (value != value) {
            select_rows(at, out, out, mask, 1, other);
        }
        out.base += out.step;
        mask.base += mask.step;
    }
}

/* Computes the rows of all segments at hand, which follow each other in the operands' rows. Results
 * of one a row go where they belong, from `out` on. */
static int compute_segments(const part *at, char *out, const rows_at *operands, size_t rows) {
    const fsm_plan *p = at->plan;
    const size_t size = size_of(p->computing);
    const int single = is_single(p, FSM_OUT), direct = is_direct(p, FSM_OUT);
    part segment = *at;
    int status = 0;
    for (size_t s = 0; s < at->segments && !status; s++, out += p->segments.step[FSM_OUT]) {
        const size_t start = (size_t)(at->pointer[s] - at->pointer[0]) * size;
        rows_at own[FSM_OPERANDS] = {{NULL, 0}};
        own[FSM_X] = (rows_at){operands[FSM_X].base + start, operands[FSM_X].step};
        own[FSM_OUT] = operands[FSM_OUT];
        own[FSM_OUT].base = !single ? own[FSM_OUT].base + start : direct ? out : own[FSM_OUT].base;
        segment.n = (size_t)(at->pointer[s + 1] - at->pointer[s]);
        if (segment.n) {
            status = compute(&segment, own, rows, NULL);
        }
        for (size_t r = 0; r < rows && single && !segment.n; r++) {
            set_number(row_of(own[FSM_OUT], r), p->computing, -INFINITY);
        }
        if (single && !direct) {
            scatter(&segment, FSM_OUT, out, rows, own[FSM_OUT].base);
        }
    }
    return status;
}

/* A strip's operands as the kernels take them: in place, or gathered into scratch and masked. */
static void stage(const part *at, char *const base[FSM_OPERANDS], size_t rows,
                  rows_at operands[FSM_OPERANDS]) {
    const fsm_plan *p = at->plan;
    const ptrdiff_t staged_step = (ptrdiff_t)(p->pitch * size_of(p->computing));
    rows_at staged[FSM_OPERANDS];
    for (int o = 0; o < FSM_OPERANDS; o++) {
        operands[o] = (rows_at){base[o], row_step(p, o)};
        staged[o] = (rows_at){at->scratch + p->at[o], staged_step};
    }
    for (int o = FSM_X; o <= FSM_Y; o++) {
        if (!is_other(p, o) && !is_direct(p, o)) {
            gather(at, o, base[o], rows, staged[o].base);
            operands[o] = staged[o];
        }
    }
    rows_at mask = operands[FSM_MASK];
    if (mask.base) {
        if (!is_run(p, FSM_MASK)) {
            mask = (rows_at){staged[FSM_MASK].base, (ptrdiff_t)p->pitch};
            transfer_rows(at, FSM_MASK, base[FSM_MASK], rows, mask.base, 1);
        }
        operands[FSM_MASK] = mask;
        const int backward = p->function == FSM_LOG_SOFTMAX_BACKWARD;
        select_rows(at, staged[FSM_X], operands[FSM_X], mask, rows, backward ? 0.0 : -INFINITY);
        operands[FSM_X] = staged[FSM_X];
        if (backward) {
            select_rows(at, staged[FSM_Y], operands[FSM_Y], mask, rows, -INFINITY);
            operands[FSM_Y] = staged[FSM_Y];
        }
    }
    for (int o = FSM_OUT; o <= FSM_GRAD; o++) {
        if (!is_other(p, o) && !is_direct(p, o)) {
            operands[o] = staged[o];
            if (is_single(p, o)) {
                operands[o].step = (ptrdiff_t)size_of(p->computing);
            }
        }
    }
}

/* Masks the results of a strip, and scatters those that are in scratch. */
static void unstage(const part *at, char *const base[FSM_OPERANDS], size_t rows,
                    const rows_at operands[FSM_OPERANDS]) {
    const fsm_plan *p = at->plan;
    for (int o = FSM_OUT; o <= FSM_GRAD; o++) {
        if (operands[FSM_MASK].base && operands[o].base && !is_single(p, o)) {
            mask_results(at, operands[o], operands[FSM_MASK], rows);
        }
    }
    for (int o = FSM_OUT; o <= FSM_GRAD; o++) {
        if (!is_other(p, o) && !is_direct(p, o) && !(has_segments(p) && is_single(p, o))) {
            scatter(at, o, base[o], rows, operands[o].base);
        }
    }
}

/* Gathers, computes and scatters one strip; returns a status. */
static int run_strip(const part *at, char *const base[FSM_OPERANDS], size_t rows) {
    rows_at operands[FSM_OPERANDS];
    stage(at, base, rows, operands);
    const int status = has_segments(at->plan) ? compute_segments(at, base[FSM_OUT], operands, rows)
                                              : compute(at, operands, rows, NULL);
    if (status) {
        return status;
    }
    unstage(at, base, rows, operands);
    return status_of(at);
}

/* ---- long rows, a piece at a time ---- */

/* Where a piece of a row or a strip begins in each operand. */
static void find_piece(part *at, char *const row[FSM_OPERANDS], size_t first,
                       char *piece[FSM_OPERANDS]) {
    const fsm_plan *p = at->plan;
    at->first = p->inner == 1 ? 0 : first;
    for (int o = 0; o < FSM_OPERANDS; o++) {
        const ptrdiff_t step = p->dimension[p->outer].step[o];
        piece[o] = row[o] ? row[o] + (ptrdiff_t)(first - at->first) * step : NULL;
    }
}

/* fsm_read_function: stages a piece once more. */
static const void *read_again(void *source, size_t first, size_t end) {
    const fsm_row_at_work *row = source;
    part at = {
        .plan = row->plan, .n = end - first, .scratch = row->scratch, .watch = row->operands.watch};
    char *base[FSM_OPERANDS];
    rows_at operands[FSM_OPERANDS];
    find_piece(&at, row->base, first, base);
    stage(&at, base, 1, operands);
    return operands[FSM_X].base;
}

/* Begins row r of those that begin at `base`; its length is the part's. */
static void begin_row(fsm_row_at_work *row, const part *at, char *const base[FSM_OPERANDS],
                      size_t r) {
    const fsm_plan *p = at->plan;
    for (int o = 0; o < FSM_OPERANDS; o++) {
        row->base[o] = base[o] ? base[o] + (ptrdiff_t)r * row_step(p, o) : NULL;
    }
    row->plan = p;
    row->scratch = at->scratch;
    row->temperature = p->temperature;
    if (p->base[FSM_TEMPERATURE]) {
        read_temperatures(p, (rows_at){row->base[FSM_TEMPERATURE], 0}, 0, 1, &row->temperature);
    }
    row->operands = (fsm_rows){
        .rows = 1,
        .n = at->n,
        .out = &row->result,
        .temperature = &row->temperature,
        .streamed = p->streamed,
        .watch = at->watch,
    };
    row->state = fsm_long_row(&row->operands, row_function(p));
    row->state.piece = is_gradient(p) ? p->piece : row->state.piece;
    row->state.read = read_again;
    row->state.source = row;
    row->writes = 0;
}

/* Stages a piece, from element `first` on, of each row of a strip. If `sum` is given, computes the
 * sums of those rows that still need one; else the results of all. */
static void run_piece(part *at, char *const base[FSM_OPERANDS], fsm_row_at_work *row, size_t rows,
                      size_t first, fsm_piece *sum) {
    const fsm_plan *p = at->plan;
    const fsm_long_functions *of = &p->kernels->long_rows[p->computing];
    char *piece[FSM_OPERANDS];
    rows_at operands[FSM_OPERANDS];
    const size_t left = row->operands.n - first;
    at->n = left < row->state.piece ? left : row->state.piece;
    find_piece(at, base, first, piece);
    stage(at, piece, rows, operands);
    for (size_t r = 0; r < rows; r++) {
        const char *x = row_of(operands[FSM_X], r), *y = row_of(operands[FSM_Y], r);
        if (!sum) {
            of->write(&row[r].state, x, y, row_of(operands[FSM_OUT], r), at->n);
        } else if (is_gradient(p)) {
            of->total(&row[r].state, x, y, at->n);
        } else if (!row[r].writes) {
            sum[r] = of->sum(&row[r].state, x, NULL, at->n);
        }
    }
    if (!sum) {
        unstage(at, piece, rows, operands);
    }
}

/* Ends the sums of a row; returns whether to repeat them. Writes a logsumexp's result. */
static int end_sums(fsm_row_at_work *row) {
    const fsm_plan *p = row->plan;
    row->writes = is_gradient(p) || !p->kernels->long_rows[p->computing].finish(&row->state);
    if (row->writes && is_single(p, FSM_OUT)) {
        double sign;
        const rows_at log = {(char *)&row->result, 0}, of_log = {(char *)&sign, 0};
        narrow(p, p->dtype[FSM_OUT], row->base[FSM_OUT], log.base, 1);
        if (p->base[FSM_GRAD]) {
            signs_of(p, log, of_log, 1);
            narrow(p, p->dtype[FSM_GRAD], row->base[FSM_GRAD], of_log.base, 1);
        }
    }
    return !row->writes;
}

/* A strip of long rows: passes over all pieces for the sums, then one for the results. */
FSM_NOINLINE int run_long_strip(const part *strip, char *const base[FSM_OPERANDS], size_t rows) {
    const fsm_plan *p = strip->plan;
    const fsm_long_functions *of = &p->kernels->long_rows[p->computing];
    fsm_row_at_work row[TILE];
    fsm_piece sum[TILE];
    part at = *strip;
    int status = 0, again = 1;
    for (size_t r = 0; r < rows; r++) {
        begin_row(&row[r], strip, base, r);
    }
    while (again && !status) {
        again = 0;
        for (size_t i = 0; i < strip->n && !status; i += row->state.piece) {
            run_piece(&at, base, row, rows, i, sum);
            for (size_t r = 0; r < rows && !is_gradient(p); r++) {
                if (!row[r].writes) {
                    of->add(&row[r].state, &sum[r]);
                }
            }
            status = fsm_stops_after(at.watch, rows * at.n);
        }
        for (size_t r = 0; r < rows && !status; r++) {
            again |= !row[r].writes && end_sums(&row[r]);
        }
    }
    const size_t results = is_single(p, FSM_OUT) ? 0 : strip->n;
    for (size_t i = 0; i < results && !status; i += row->state.piece) {
        run_piece(&at, base, row, rows, i, NULL);
        status = fsm_stops_after(at.watch, rows * at.n);
    }
    return status ? status : status_of(&at);
}

/* ---- rows that lie side by side ---- */

#define BESIDE_BLOCKS (BESIDE_ROWS * sizeof(double) / LINE)
/* Blocks of longer rows that are taken at a time: a page of each element. */
#define TALL_BLOCKS 64

/* Whether the kernels can take blocks of rows, a cache line of each element, as they lie. */
static int lies_beside(const fsm_plan *p) {
    const ptrdiff_t size = (ptrdiff_t)size_of(p->computing);
    if (p->function >= FSM_ROW_FUNCTIONS || p->base[FSM_Y] || p->base[FSM_MASK] ||
        p->base[FSM_TEMPERATURE] || p->base[FSM_GRAD] || !is_computable(p, FSM_X) ||
        !is_computable(p, FSM_OUT) || p->temperature.tempered || p->inner != 1 ||
        row_step(p, FSM_X) != size || row_step(p, FSM_OUT) != size) {
        return 0;
    }
    if (p->n <= FSM_BESIDE_LENGTH) {
        return p->kernels->beside[p->function][p->computing] != NULL;
    }
    return p->function == FSM_SOFTMAX && p->kernels->tall[p->computing] &&
           p->n <= FSM_CHUNK_VECTORS * LINE / (size_t)size;
}

/* Whether their results can be streamed: all cache lines have the same offset. */
static int streams_beside(const fsm_plan *p) {
    size_t steps = (size_t)p->dimension[p->outer].step[FSM_OUT];
    for (int d = 0; d < p->outer - 1; d++) {
        steps |= (size_t)p->dimension[d].step[FSM_OUT];
    }
    return p->n <= FSM_BESIDE_LENGTH && p->function != FSM_LOGSUMEXP && steps % LINE == 0 &&
           p->base[FSM_OUT] != p->base[FSM_X];
}

/* Stages the blocks of a strip that the kernels did not take. */
static void run_other_blocks(const part *at, char *x, char *out, const int *done, size_t blocks) {
    for (size_t k = 0; k < blocks; k++) {
        if (!done[k]) {
            char *const base[FSM_OPERANDS] = {[FSM_X] = x + k * LINE, [FSM_OUT] = out + k * LINE};
            run_strip(at, base, LINE / size_of(at->plan->computing));
        }
    }
}

/* Computes whole blocks of longer rows where they lie; returns how many rows. */
static size_t run_tall(const part *at, char *x, char *out, size_t rows) {
    const fsm_plan *p = at->plan;
    const size_t lanes = LINE / size_of(p->computing);
    int done[TALL_BLOCKS];
    const fsm_tall tall = {
        .n = p->n,
        .blocks = rows / lanes < TALL_BLOCKS ? rows / lanes : TALL_BLOCKS,
        .x = x,
        .out = out,
        .x_step = p->dimension[p->outer].step[FSM_X],
        .out_step = p->dimension[p->outer].step[FSM_OUT],
        .scratch = at->scratch,
        .done = done,
    };
    p->kernels->tall[p->computing](&tall);
    run_other_blocks(at, x, out, done, tall.blocks);
    return tall.blocks * lanes;
}

/* The same for rows of up to FSM_BESIDE_LENGTH: (1) copies whole cache lines to blocks in scratch;
 * (2) computes each block in place; (3) copies or streams the results. */
static size_t run_blocks(const part *at, char *x, char *out, size_t rows) {
    const fsm_plan *p = at->plan;
    const size_t n = p->n, lanes = LINE / size_of(p->computing);
    const size_t blocks = rows / lanes < BESIDE_BLOCKS ? rows / lanes : BESIDE_BLOCKS;
    const size_t results = p->function == FSM_LOGSUMEXP ? 1 : n;
    const ptrdiff_t x_step = p->dimension[p->outer].step[FSM_X];
    const ptrdiff_t out_step = p->dimension[p->outer].step[FSM_OUT];
    int done[BESIDE_BLOCKS], all = 1;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < blocks; k++) {
            memcpy(at->scratch + (k * n + i) * LINE, x + (ptrdiff_t)i * x_step + k * LINE, LINE);
        }
    }
    for (size_t k = 0; k < blocks; k++) {
        done[k] = p->kernels->beside[p->function][p->computing](at->scratch + k * n * LINE, n);
        all &= done[k];
    }
    const int streamed = p->streamed && all && (uintptr_t)out % LINE == 0;
    for (size_t i = 0; i < results; i++) {
        char *to = out + (ptrdiff_t)i * out_step;
        for (size_t k = 0; k < blocks; k++) {
            const char *line = at->scratch + (k * n + i) * LINE;
            if (streamed) {
                FSM_STREAM_LINE(to + k * LINE, line);
            } else if (done[k]) {
                memcpy(to + k * LINE, line, LINE);
            }
        }
    }
    run_other_blocks(at, x, out, done, blocks);
    return blocks * lanes;
}

/* A strip of rows side by side, few of each index of the dimension before the last. A block is the
 * rows of as many indices as fit in a cache line; where that would leave much of it empty, the rows
 * of all indices are laid side by side in a panel, and blocks are copied from that. */
static int run_panels(const part *at, char *const base[FSM_OPERANDS], size_t rows) {
    const fsm_plan *p = at->plan;
    const fsm_dimension *last = &p->dimension[p->outer - 1];
    const size_t n = p->n, size = size_of(p->computing), run = last->extent * size;
    const size_t results = p->function == FSM_LOGSUMEXP ? 1 : n, indices = rows / last->extent;
    const int fills = LINE / run * run >= FILLED;
    const size_t fit = fills ? LINE / run : indices;
    const size_t blocks = fills ? (indices + fit - 1) / fit : (rows * size + LINE - 1) / LINE;
    const size_t line = fills ? LINE : blocks * LINE;
    char *const panels = at->scratch + p->panels_at, *const block = fills ? panels : at->scratch;
    const int has_gaps = indices % fit || fit * run % LINE;
    for (size_t i = 1; has_gaps && i <= (fills ? blocks * n : n); i++) {
        memset(panels + i * line - LINE, 0, LINE);
    }
    move_panels(p, FSM_X, base[FSM_X], indices, fit, n, panels, line, 1);
    for (size_t i = 0; i < n && !fills; i++) {
        for (size_t k = 0; k < blocks; k++) {
            memcpy(block + (k * n + i) * LINE, panels + i * line + k * LINE, LINE);
        }
    }
    for (size_t k = 0; k < blocks; k++) {
        if (!p->kernels->beside[p->function][p->computing](block + k * n * LINE, n)) {
            return run_strip(at, base, rows);
        }
    }
    for (size_t i = 0; i < results && !fills; i++) {
        for (size_t k = 0; k < blocks; k++) {
            memcpy(panels + i * line + k * LINE, block + (k * n + i) * LINE, LINE);
        }
    }
    move_panels(p, FSM_OUT, base[FSM_OUT], indices, fit, results, panels, line, 0);
    return fsm_stops_after(at->watch, rows * n);
}

/* Strips along a dimension: of its rows, or of the rows that each of its indices has. */
static int run_strips(const part *at, size_t extent) {
    const fsm_plan *p = at->plan;
    const int along = strip_dimension(p);
    const size_t most = p->together ? p->together : p->strip;
    const size_t each = p->together ? p->dimension[along + 1].extent : 1;
    int status = 0;
    for (size_t first = 0; first < extent && !status; first += most) {
        char *base[FSM_OPERANDS];
        for (int o = 0; o < FSM_OPERANDS; o++) {
            base[o] = at->base[o] && first
                          ? at->base[o] + (ptrdiff_t)first * p->dimension[along].step[o]
                          : at->base[o];
        }
        const size_t rows = (extent - first < most ? extent - first : most) * each;
        status = p->together && p->beside            ? run_panels(at, base, rows)
                 : p->piece && at->n > FSM_ASK_EVERY ? run_long_strip(at, base, rows)
                                                     : run_strip(at, base, rows);
    }
    return status;
}

/* Strips of rows side by side; streamed ones from their first whole cache line on. */
static int run_beside(const part *at, size_t rows) {
    const fsm_plan *p = at->plan;
    const size_t size = size_of(p->computing);
    const size_t offset = (uintptr_t)at->base[FSM_OUT] % LINE;
    size_t done = 0;
    int status = 0;
    if (p->streamed && offset && offset % size == 0 && rows > LINE / size) {
        done = (LINE - offset) / size; /* up to the first cache line of results */
        run_strip(at, at->base, done);
    }
    for (size_t first = done; first < rows && !status; first += done) {
        const size_t left = rows - first < p->strip ? rows - first : p->strip;
        char *x = at->base[FSM_X] + first * size, *out = at->base[FSM_OUT] + first * size;
        done = p->n <= FSM_BESIDE_LENGTH ? run_blocks(at, x, out, left)
                                         : run_tall(at, x, out, rows - first);
        if (!done) {
            char *const base[FSM_OPERANDS] = {[FSM_X] = x, [FSM_OUT] = out};
            done = left;
            run_strip(at, base, done);
        }
        status = fsm_stops_after(at->watch, done * p->n);
    }
    return status;
}

/* ---- through the outer dimensions ---- */

/* Calls `run` for every index of the outer dimensions before the one that strips run along. */
static int for_each_prefix(const part *all, int (*run)(const part *at, size_t rows)) {
    const fsm_plan *p = all->plan;
    const int last = strip_dimension(p);
    size_t extent[FSM_MAX_DIMENSIONS], index[FSM_MAX_DIMENSIONS];
    part at = *all;
    for (int d = 0; d <= last; d++) {
        extent[d] = d == p->split ? all->split_extent : p->dimension[d].extent;
        index[d] = 0;
    }
    for (;;) {
        const int status = run(&at, last >= 0 ? extent[last] : 1);
        if (status) {
            return status;
        }
        int d = last - 1;
        for (; d >= 0; d--) {
            const int carries = ++index[d] == extent[d];
            for (int o = 0; o < FSM_OPERANDS; o++) {
                const ptrdiff_t step = p->dimension[d].step[o];
                at.base[o] = !at.base[o] ? NULL
                             : carries   ? at.base[o] - (ptrdiff_t)(extent[d] - 1) * step
                                         : at.base[o] + step;
            }
            if (!carries) {
                break;
            }
            index[d] = 0;
        }
        if (d < 0) {
            return 0;
        }
    }
}

/* ---- segments ---- */

/* Reads the pointers of some segments, and raises `longest` to the length of the longest. Returns a
 * status: whether they increase and stay within the data. */
static int read_pointers(const fsm_plan *p, size_t first, size_t segments, int64_t *pointer,
                         size_t *longest) {
    const ptrdiff_t step = p->segments.step[FSM_Y];
    uint64_t widest = *longest, highest;
    read_indices(p, p->base[FSM_Y] + (ptrdiff_t)first * step, step, segments + 1, pointer);
    highest = (uint64_t)pointer[0];
    for (size_t s = 0; s < segments; s++) {
        const uint64_t end = (uint64_t)pointer[s + 1], n = end - (uint64_t)pointer[s];
        widest = n > widest ? n : widest; /* very large where pointers decrease */
        highest = end > highest ? end : highest;
    }
    *longest = (size_t)widest;
    return widest > p->dimension[p->outer].extent || highest > p->dimension[p->outer].extent
               ? FSM_BAD_INDEX
               : 0;
}

/* Finds the length of the longest segment; returns a status. */
static int measure_segments(const part *all, size_t *longest) {
    const size_t last = all->plan->segments.extent;
    int64_t pointer[GROUP_SEGMENTS + 1];
    int status = 0;
    for (size_t first = 0, count; first < last && !status; first += count) {
        count = last - first < GROUP_SEGMENTS ? last - first : GROUP_SEGMENTS;
        status = read_pointers(all->plan, first, count, pointer, longest);
        status = status ? status : fsm_stops_after(all->watch, count);
    }
    return status;
}

/* Calls `run` for groups of the segments from `first` up to `last`, each of at most `most` elements
 * or of one segment. Another thread may have changed the pointers since they were measured, so they
 * are checked again: none may exceed the longest. */
static int for_each_group(const part *all, size_t first, size_t last, size_t most,
                          int (*run)(const part *group, size_t start, void *context),
                          void *context) {
    const fsm_plan *p = all->plan;
    int64_t pointer[GROUP_SEGMENTS + 1];
    int status = 0;
    for (; first < last && !status; first += GROUP_SEGMENTS) {
        const size_t count = last - first < GROUP_SEGMENTS ? last - first : GROUP_SEGMENTS;
        size_t longest = p->longest;
        status = read_pointers(p, first, count, pointer, &longest);
        if (status || longest > p->longest) {
            return FSM_BAD_INDEX;
        }
        for (size_t i = 0, end; i < count && !status; i = end) {
            part group = *all;
            end = (size_t)(pointer[count] - pointer[i]) <= most ? count : i + 1;
            while (end < count && (size_t)(pointer[end + 1] - pointer[i]) <= most) {
                end++;
            }
            group.pointer = pointer + i;
            group.segments = end - i;
            group.n = (size_t)(pointer[end] - pointer[i]);
            status = run(&group, first + i, context);
            status = status ? status : fsm_stops_after(all->watch, group.n + group.segments);
        }
    }
    return status;
}

/* Segments of a group of data with one axis, where they lie. */
typedef struct {
    const part *group;
    fsm_rows_function *compute;
    const char *x;
    char *out;
    ptrdiff_t x_step, out_step; /* from an element to the next, or a single result */
    size_t size;
    int single;
} lying_segments;

static char *result_of(const lying_segments *at, size_t segment) {
    const ptrdiff_t start = (ptrdiff_t)at->group->pointer[segment];
    return at->out + (at->single ? (ptrdiff_t)segment : start) * at->out_step;
}

static void run_segment(const lying_segments *at, fsm_rows *row, size_t segment) {
    const int64_t *pointer = at->group->pointer + segment;
    row->n = (size_t)(pointer[1] - pointer[0]);
    row->x = at->x + (ptrdiff_t)pointer[0] * at->x_step;
    row->out = result_of(at, segment);
    if (row->n) {
        at->compute(row);
    } else if (at->single) {
        set_number(row->out, at->group->plan->computing, -INFINITY);
    }
}

/* Moves segments between where they lie and a block of rows. */
static inline void move_some(const lying_segments *at, const uint16_t *segment, size_t count,
                             size_t bytes, char *block, int gathers) {
    const int64_t *pointer = at->group->pointer;
    for (size_t r = 0; r < count; r++, block += bytes) {
        if (gathers) {
            copy_few(block, at->x + (ptrdiff_t)pointer[segment[r]] * at->x_step, bytes);
        } else {
            copy_few(result_of(at, segment[r]), block, bytes);
        }
    }
}

/* The same, compiled for short rows. */
static inline void move_rows(const lying_segments *at, const uint16_t *segment, size_t count,
                             size_t bytes, char *block, int gathers) {
#define MOVE(size)                                                                                 \
    case size:                                                                                     \
        move_some(at, segment, count, size, block, gathers);                                       \
        return
    switch (bytes) {
        MOVE(4);
        MOVE(8);
        MOVE(12);
        MOVE(16);
        MOVE(20);
        MOVE(24);
        MOVE(28);
        MOVE(32);
    default:
        move_some(at, segment, count, bytes, block, gathers);
    }
#undef MOVE
}

/* Segments of one length as a batch, copied to a block and back: a row's bits are the same. */
static void run_alike(const lying_segments *at, const fsm_rows *row, const uint16_t *segment,
                      size_t count, size_t n) {
    uint64_t memory[SORTED_BYTES / sizeof(uint64_t) + LINE / sizeof(uint64_t)];
    char *const block = (char *)memory + (LINE - (uintptr_t)memory % LINE) % LINE;
    const size_t bytes = n * at->size, result = at->single ? at->size : bytes;
    const size_t most = SORTED_BYTES / bytes / TILE * TILE;
    fsm_rows batch = *row;
    batch.n = n;
    batch.x = batch.out = block;
    batch.x_stride = (ptrdiff_t)bytes;
    batch.out_stride = (ptrdiff_t)result;
    for (size_t first = 0; first < count; first += batch.rows) {
        batch.rows = count - first < most ? count - first : most;
        move_rows(at, segment + first, batch.rows, bytes, block, 1);
        at->compute(&batch);
        move_rows(at, segment + first, batch.rows, result, block, 0);
    }
}

/* The segments by length: those of n elements end at end[n], longer ones come last. */
typedef struct {
    uint16_t order[GROUP_SEGMENTS], end[SORTED_LENGTH + 2];
} sorted_segments;

/* A counting sort. */
static void sort_segments(const part *group, sorted_segments *sorted) {
    const int64_t *pointer = group->pointer;
    unsigned char bin[GROUP_SEGMENTS];
    memset(sorted->end, 0, sizeof sorted->end);
    for (size_t s = 0; s < group->segments; s++) {
        const uint64_t n = (uint64_t)(pointer[s + 1] - pointer[s]);
        bin[s] = (unsigned char)(n <= SORTED_LENGTH ? n : SORTED_LENGTH + 1);
        sorted->end[bin[s]]++;
    }
    for (size_t b = 0, sum = 0; b < SORTED_LENGTH + 2; b++) {
        const size_t count = sorted->end[b];
        sorted->end[b] = (uint16_t)sum; /* where a bin begins; once it is filled, ends */
        sum += count;
    }
    for (size_t s = 0; s < group->segments; s++) {
        sorted->order[sorted->end[bin[s]]++] = (uint16_t)s;
    }
}

static void run_sorted(const lying_segments *at, fsm_rows *row) {
    sorted_segments sorted;
    sort_segments(at->group, &sorted);
    for (size_t n = 0, first = 0; n < SORTED_LENGTH + 2; first = sorted.end[n++]) {
        const size_t count = sorted.end[n] - first;
        if (n && n <= SORTED_LENGTH && count >= ALIKE) {
            run_alike(at, row, sorted.order + first, count, n);
            continue;
        }
        for (size_t i = first; i < sorted.end[n]; i++) {
            run_segment(at, row, sorted.order[i]);
        }
    }
}

/* A group as rows of the kernels, one by one or by length. `row` is what all have in common. */
static int run_segments(const part *group, size_t first, void *row) {
    const fsm_plan *p = group->plan;
    const fsm_dimension *data = &p->dimension[p->outer];
    const int single = is_single(p, FSM_OUT);
    const lying_segments at = {
        .group = group,
        .compute = p->kernels->rows[row_function(p)][p->computing],
        .x = p->base[FSM_X],
        .out = p->base[FSM_OUT] + (single ? (ptrdiff_t)first * p->segments.step[FSM_OUT] : 0),
        .x_step = data->step[FSM_X],
        .out_step = single ? p->segments.step[FSM_OUT] : data->step[FSM_OUT],
        .size = size_of(p->computing),
        .single = single,
    };
    if (group->segments >= SORTED_SEGMENTS && group->n <= SORTED_LENGTH * group->segments) {
        run_sorted(&at, row);
    } else {
        for (size_t s = 0; s < group->segments; s++) {
            run_segment(&at, row, s);
        }
    }
    return 0;
}

/* A group as strips. */
static int stage_segments(const part *group, size_t first, void *unused) {
    const fsm_plan *p = group->plan;
    const fsm_dimension *data = &p->dimension[p->outer];
    part at = *group;
    (void)unused;
    for (int o = FSM_X; o < FSM_OPERANDS; o++) {
        if (at.base[o]) {
            at.base[o] += (ptrdiff_t)group->pointer[0] * data->step[o] +
                          (ptrdiff_t)first * p->segments.step[o];
        }
    }
    return for_each_prefix(&at, run_strips);
}

/* Whether the rows of several segments, which lie side by side, are worth a block. */
static int segments_lie_beside(const fsm_plan *p) {
    const ptrdiff_t size = (ptrdiff_t)size_of(p->computing);
    return p->outer == 1 && p->dimension[0].extent * (size_t)size <= LINE / 2 &&
           is_computable(p, FSM_X) && is_computable(p, FSM_OUT) && !p->temperature.tempered &&
           p->kernels->beside[row_function(p)][p->computing] && row_step(p, FSM_X) == size &&
           row_step(p, FSM_OUT) == size;
}

/* Where the results of a segment belong. */
static char *result_beside(const part *group, size_t first, size_t segment) {
    const fsm_plan *p = group->plan;
    return group->base[FSM_OUT] +
           (is_single(p, FSM_OUT)
                ? (ptrdiff_t)(first + segment) * p->segments.step[FSM_OUT]
                : (ptrdiff_t)group->pointer[segment] * p->dimension[p->outer].step[FSM_OUT]);
}

/* One segment as strips. */
static int run_segment_beside(const part *group, size_t first, size_t segment) {
    const fsm_dimension *data = &group->plan->dimension[group->plan->outer];
    part one = *group;
    one.pointer += segment;
    one.segments = 1;
    one.n = (size_t)(one.pointer[1] - one.pointer[0]);
    one.base[FSM_X] += (ptrdiff_t)one.pointer[0] * data->step[FSM_X];
    one.base[FSM_OUT] = result_beside(group, first, segment);
    return run_strips(&one, group->plan->dimension[0].extent);
}

/* Segments of one length: blocks of as many of them as fit in a cache line, side by side, a line of
 * each element. All blocks are filled before the first is computed, so that what was stored has
 * reached the cache when the kernels load it as whole vectors. */
static int run_alike_beside(const part *group, size_t first, const uint16_t *segment, size_t count,
                            size_t n) {
    const fsm_plan *p = group->plan;
    const fsm_dimension *data = &p->dimension[p->outer];
    const size_t rows = p->dimension[0].extent, bytes = rows * size_of(p->computing);
    const size_t together = LINE / bytes, results = is_single(p, FSM_OUT) ? 1 : n;
    uint64_t memory[(SORTED_BYTES + LINE) / sizeof(uint64_t)];
    char *const block = (char *)memory + (LINE - (uintptr_t)memory % LINE) % LINE;
    int status = 0, done = 0;
    memset(block, 0, (count + together - 1) / together * n * LINE);
    for (size_t s = 0; s < count; s++) {
        char *line = block + s / together * n * LINE + s % together * bytes;
        const char *x =
            group->base[FSM_X] + (ptrdiff_t)group->pointer[segment[s]] * data->step[FSM_X];
        for (size_t i = 0; i < n; i++, line += LINE, x += data->step[FSM_X]) {
            copy_few(line, x, bytes);
        }
    }
    for (size_t s = 0; s < count && !status; s++) {
        const size_t column = s % together, at = s / together * n * LINE;
        char *line = block + at + column * bytes;
        char *const out = result_beside(group, first, segment[s]);
        if (!column) {
            done = p->kernels->beside[row_function(p)][p->computing](block + at, n);
        }
        if (done) {
            for (size_t i = 0; i < results; i++) {
                copy_few(out + (ptrdiff_t)i * data->step[FSM_OUT], line + i * LINE, bytes);
            }
        } else {
            status = run_segment_beside(group, first, segment[s]);
        }
    }
    return status;
}

/* A group of segments whose rows lie side by side, by length. */
static int run_segments_beside(const part *group, size_t first, void *unused) {
    const size_t bytes = group->plan->dimension[0].extent * size_of(group->plan->computing);
    sorted_segments sorted;
    int status = 0;
    (void)unused;
    sort_segments(group, &sorted);
    for (size_t n = 0, done = 0; n < SORTED_LENGTH + 2; n++) {
        const int fits = n && n <= SORTED_LENGTH;
        const size_t most = fits ? SORTED_BYTES / (n * LINE) * (LINE / bytes) : 1;
        for (size_t count; done < sorted.end[n] && !status; done += count) {
            const size_t left = sorted.end[n] - done;
            count = left < most ? left : most;
            status = fits ? run_alike_beside(group, first, sorted.order + done, count, n)
                          : run_segment_beside(group, first, sorted.order[done]);
        }
    }
    return status;
}

void fsm_run_rows(const fsm_kernels *kernels, enum fsm_function function, enum fsm_dtype dtype,
                  const fsm_temperature *temperature, const void *x, const void *y, void *out,
                  size_t rows, size_t n) {
    const ptrdiff_t size = (ptrdiff_t)size_of(dtype), row = (ptrdiff_t)n * size;
    const fsm_rows batch = {
        .rows = rows,
        .n = n,
        .x = x,
        .y = y,
        .out = out,
        .x_stride = row,
        .y_stride = row,
        .out_stride = function == FSM_LOGSUMEXP ? size : row,
        .temperature = temperature,
    };
    const uint64_t saved = fsm_enter();
    kernels->rows[function][dtype](&batch);
    fsm_leave(saved);
}

int fsm_run_packed(const fsm_plan *p, size_t elements, size_t n) {
    if (p->function >= FSM_ROW_FUNCTIONS || !is_computable(p, FSM_X) ||
        !is_computable(p, FSM_OUT) || (p->base[FSM_Y] && !is_computable(p, FSM_Y)) ||
        p->base[FSM_TEMPERATURE] ||
        (p->function == FSM_LOGSUMEXP && (p->base[FSM_Y] || p->base[FSM_GRAD]))) {
        return 0;
    }
    fsm_run_rows(p->kernels, p->function, p->computing, &p->temperature, p->base[FSM_X],
                 p->base[FSM_Y], p->base[FSM_OUT], elements == n ? 1 : elements / n, n);
    return 1;
}

int fsm_run(const void *plan, size_t first, size_t last, void *scratch, fsm_watch *watch) {
    const fsm_plan *p = plan;
    part at = {
        .plan = p, .split_extent = last - first, .n = p->n, .scratch = scratch, .watch = watch};
    for (int o = 0; o < FSM_OPERANDS; o++) {
        at.base[o] = p->base[o];
    }
    const uint64_t saved = fsm_enter();
    int status;
    if (has_segments(p)) {
        fsm_rows row = {.rows = 1, .temperature = &p->temperature, .watch = watch};
        if (p->direct) {
            status = for_each_group(&at, first, last, GROUP_ELEMENTS_DIRECT, run_segments, &row);
        } else if (p->beside) {
            status =
                for_each_group(&at, first, last, GROUP_ELEMENTS_BESIDE, run_segments_beside, NULL);
        } else {
            status = for_each_group(&at, first, last, GROUP_ELEMENTS, stage_segments, NULL);
        }
    } else {
        if (first) {
            for (int o = 0; o < FSM_OPERANDS; o++) {
                if (at.base[o]) {
                    at.base[o] += (ptrdiff_t)first * p->dimension[p->split].step[o];
                }
            }
        }
        status = for_each_prefix(&at, p->direct                   ? run_direct
                                      : p->beside && !p->together ? run_beside
                                                                  : run_strips);
    }
    if (p->streamed) {
        FSM_STREAM_FENCE();
    }
    fsm_leave(saved);
    return status;
}

/* ---- long rows whose pieces threads share ---- */

void fsm_begin_row(fsm_row_at_work *row, const fsm_plan *p, size_t index, fsm_piece *sums,
                   char *scratch, fsm_watch *watch) {
    const part at = {.plan = p, .n = p->n, .scratch = scratch, .watch = watch};
    const uint64_t saved = fsm_enter();
    begin_row(row, &at, p->base, index);
    fsm_leave(saved);
    row->sums = sums;
}

int fsm_run_pieces(const void *work, size_t first, size_t last, void *scratch, fsm_watch *watch) {
    fsm_row_at_work *row = (fsm_row_at_work *)work; /* changed for a gradient only */
    part at = {.plan = row->plan, .scratch = scratch, .watch = watch};
    const uint64_t saved = fsm_enter();
    int status = 0;
    for (size_t i = first; i < last && !status; i++) {
        run_piece(&at, row->base, row, 1, i * row->state.piece, row->writes ? NULL : &row->sums[i]);
        status = fsm_stops_after(watch, at.n);
    }
    if (row->writes && row->plan->streamed) {
        FSM_STREAM_FENCE();
    }
    fsm_leave(saved);
    return status;
}

int fsm_end_pass(fsm_row_at_work *row) {
    const fsm_plan *p = row->plan;
    if (row->writes) {
        return 0;
    }
    const uint64_t saved = fsm_enter();
    for (size_t i = 0; i < p->pieces; i++) {
        p->kernels->long_rows[p->computing].add(&row->state, &row->sums[i]);
    }
    const int again = end_sums(row);
    fsm_leave(saved);
    return again || !is_single(p, FSM_OUT);
}

/* ---- what a plan needs ---- */

static ptrdiff_t magnitude(ptrdiff_t a) {
    return a < 0 ? -a : a;
}

/* Moves the dimension with the smallest step in x, along which strips run, to the end. */
static void order_outer(fsm_plan *p) {
    const int last = p->outer - 1;
    int best = last;
    for (int d = 0; d < last; d++) {
        if (magnitude(p->dimension[d].step[FSM_X]) < magnitude(p->dimension[best].step[FSM_X])) {
            best = d;
        }
    }
    const fsm_dimension moved = p->dimension[best];
    p->dimension[best] = p->dimension[last];
    p->dimension[last] = moved;
}

/* The longest of the first `count` dimensions. */
static int longest_dimension(const fsm_plan *p, int count) {
    int longest = 0;
    for (int d = 1; d < count; d++) {
        if (p->dimension[d].extent > p->dimension[longest].extent) {
            longest = d;
        }
    }
    return longest;
}

/* Whether strips along the last outer dimension alone do well: rows fill whole vectors and have
 * enough elements; or the kernels take them as they lie, and one row is left over at most. */
static int suffices_alone(const fsm_plan *p, size_t rows) {
    const size_t lanes = LINE / size_of(p->computing);
    const size_t left = rows % lanes, whole = (rows - left) * p->n;
    if (p->beside && p->n > FSM_BESIDE_LENGTH) {
        return rows >= lanes;
    }
    return p->beside ? left <= 1 && whole >= left * 2 * STRIP_SUFFICES
                     : !left && whole >= STRIP_SUFFICES;
}

/* Where the last outer dimension is short, lets strips take several indices of the longest other
 * one, moved before it. Operands of one number a row must then have one step between rows. */
static void plan_together(fsm_plan *p) {
    const int last = p->outer - 1;
    const size_t rows = last < 1 ? 0 : p->dimension[last].extent;
    if (!rows || rows > STRIP_ROWS / 2 || p->n < 2 ||
        p->n * STRIP_ROWS * size_of(p->computing) > STRIP_BYTES || suffices_alone(p, rows)) {
        return;
    }
    const int longest = longest_dimension(p, last);
    const fsm_dimension moved = p->dimension[longest];
    p->dimension[longest] = p->dimension[last - 1];
    p->dimension[last - 1] = moved;
    p->together = STRIP_ROWS / rows;
    while (!p->beside && p->n <= STRIP_ROWS && p->together * rows % TILE && p->together < TILE) {
        p->together++; /* no block of short rows is incomplete */
    }
    p->together = p->together < moved.extent ? p->together : moved.extent;
    for (int o = FSM_Y; o <= FSM_WEIGHT; o++) {
        if (p->base[o] && (o > FSM_MASK || is_index(p, o)) && !is_even(p, o)) {
            p->together = 0;
            return;
        }
    }
    p->beside = p->beside && p->n <= FSM_BESIDE_LENGTH;
}

/* The dimension that threads divide: the longest, but strips and batches run along the last. */
static int split_dimension(const fsm_plan *p) {
    const int last = p->outer - 1;
    if (p->together) {
        return longest_dimension(p, last);
    }
    const int longest = longest_dimension(p, last);
    const int enough = last > 0 && !p->beside && p->dimension[longest].extent >= ENOUGH_PARTS;
    return enough || p->dimension[longest].extent > p->dimension[last].extent ? longest : last;
}

/* Adds a region of scratch, aligned to a cache line; returns its offset. */
static size_t region(fsm_plan *p, size_t bytes) {
    const size_t start = p->scratch;
    p->scratch += (bytes + LINE - 1) / LINE * LINE;
    return start;
}

/* Whether each row of every operand is nearly a run of its elements, as it is in scratch. */
static int lies_along(const fsm_plan *p) {
    int along = p->inner == 1 && !p->beside && !p->together && !has_segments(p);
    for (int o = 0; o < FSM_OPERANDS && along; o++) {
        const ptrdiff_t step = magnitude(p->dimension[p->outer].step[o]);
        along = is_single(p, o) || is_other(p, o) ||
                (step <= LINE && (!p->outer || step < magnitude(row_step(p, o))));
    }
    return along;
}

/* Whether rows that are staged are staged piece by piece. */
static int has_pieces(const fsm_plan *p) {
    return p->n > FSM_ASK_EVERY && row_function(p) < FSM_ROW_FUNCTIONS && !is_weighted(p);
}

/* Plans staging: the rows of a strip, and the scratch of each operand. Returns a status. */
static int plan_strips(fsm_plan *p) {
    /* The rows or pieces of other segments may be longer than the pieces of the longest. */
    p->piece = !has_pieces(p)    ? 0
               : has_segments(p) ? FSM_ASK_EVERY
               : is_gradient(p)  ? GRADIENT_PIECE
                                 : fsm_piece_length(p->n);
    const size_t size = size_of(p->computing), n = p->piece ? p->piece : p->n;
    const size_t rows = p->outer ? p->dimension[p->outer - 1].extent : 1;
    if (n > PTRDIFF_MAX / 1024) {
        return FSM_NO_MEMORY;
    }
    const int along = lies_along(p);
    const size_t least = along ? 1 : TILE, most = p->beside ? BESIDE_ROWS : STRIP_ROWS;
    size_t strip = STRIP_BYTES / size / n;
    strip = strip > most ? most : strip < least ? least : strip;
    if (along && strip < ALONG_BYTES / size / n) {
        strip = ALONG_BYTES / size / n;
    }
    p->strip = p->together ? p->together * rows : strip > rows ? rows : strip;
    /* An odd number of cache lines, so that a column of the scratch uses all sets of the cache. */
    p->pitch =
        n < (along ? PACKED_LENGTH : 16) ? n : ((n * size + LINE - 1) / LINE | 1) * LINE / size;
    const size_t elements = (p->together ? ROUNDED(p->strip) : p->strip) * p->pitch;
    size_t widest = 0;
    int x_is_staged = 0;
    for (int o = 0; o < FSM_OPERANDS; o++) {
        if (is_other(p, o)) {
            continue;
        }
        const int staged = !is_direct(p, o), masked = o <= FSM_Y && p->base[FSM_MASK];
        if (o == FSM_OUT && staged && x_is_staged && !is_single(p, o)) {
            p->at[o] = p->at[FSM_X]; /* computed in place */
        } else if (staged || masked || (o == FSM_X && p->beside)) {
            p->at[o] = region(p, (is_single(p, o) ? p->strip : elements) * size);
            x_is_staged |= o == FSM_X;
        }
        if (staged && p->dtype[o] != p->computing && size_of(p->dtype[o]) > widest) {
            widest = size_of(p->dtype[o]);
        }
    }
    p->raw_at = region(p, elements * widest);
    if (p->together) {
        /* Blocks of FILLED bytes of each cache line need one more tile at most. */
        p->panels_at = region(p, (ROUNDED(p->strip) + TILE) * n * size);
    }
    if (p->base[FSM_MASK] && !is_run(p, FSM_MASK)) {
        p->at[FSM_MASK] = region(p, elements);
    }
    if (p->base[FSM_MASK] && p->smoothing > 0) {
        p->kept_at = region(p, elements * size);
    }
    if (p->waits) {
        p->weights_at = region(p, FSM_ENTROPY_SCRATCH(n * size));
    }
    if (p->beside && n > FSM_BESIDE_LENGTH && p->scratch < TALL_BLOCKS * FSM_TALL_SCRATCH) {
        p->scratch = TALL_BLOCKS * FSM_TALL_SCRATCH;
    }
    return 0;
}

/* fsm_prepare for segments: checks and measures the row pointers, and plans strips of groups. */
static int prepare_segments(fsm_plan *p, fsm_watch *watch) {
    const part all = {.plan = p, .watch = watch};
    const size_t elements = p->dimension[p->outer].extent;
    size_t longest = 0;
    p->items = p->segments.extent;
    p->least = 1;
    p->split = -1;
    p->far = p->large = p->streamed = p->beside = p->waits = 0;
    int64_t ends[2];
    read_indices(p, p->base[FSM_Y], (ptrdiff_t)p->items * p->segments.step[FSM_Y], 2, ends);
    if (ends[0] != 0 || ends[1] != (int64_t)elements) {
        return FSM_BAD_INDEX;
    }
    p->n = p->longest = elements;
    p->direct = !p->outer && is_direct(p, FSM_X) && is_direct(p, FSM_OUT);
    if (p->direct && p->fresh) {
        return 0; /* wrong pointers are found when used; new results are not seen then */
    }
    const int status = measure_segments(&all, &longest);
    p->n = p->longest = longest;
    if (status || p->direct) {
        return status;
    }
    p->n = longest > GROUP_ELEMENTS ? longest : GROUP_ELEMENTS;
    if (p->outer > 1) {
        order_outer(p);
    }
    const int planned = plan_strips(p);
    p->beside = segments_lie_beside(p);
    return planned;
}

enum fsm_status fsm_prepare(fsm_plan *p, fsm_watch *watch) {
    p->scratch = p->pieces = p->piece = p->together = 0;
    if (has_segments(p)) {
        return (enum fsm_status)prepare_segments(p, watch);
    }
    size_t rows = 1;
    p->n = 1;
    for (int d = 0; d < p->outer + p->inner; d++) {
        *(d < p->outer ? &rows : &p->n) *= p->dimension[d].extent;
    }
    const int status = check_operands(p, watch);
    if (status) {
        return (enum fsm_status)status;
    }
    p->direct = !p->base[FSM_MASK];
    for (int o = 0; o < FSM_OPERANDS && p->direct; o++) {
        p->direct = is_other(p, o) || is_direct(p, o);
    }
    if (!p->direct && p->outer > 1) {
        order_outer(p);
    }
    p->beside = !p->direct && lies_beside(p);
    if (!p->direct) {
        plan_together(p);
    }
    p->split = p->outer ? split_dimension(p) : -1;
    p->least = 1;
    if (p->together) {
        p->least = p->split == strip_dimension(p) ? p->together : 1;
    } else if (p->beside) {
        p->least = BESIDE_PART;
    }
    p->items = p->outer ? p->dimension[p->split].extent : 1;
    const double bytes = (double)rows * (double)p->n * (double)size_of(p->dtype[FSM_X]);
    p->large = bytes >= (double)fsm_stream_from();
    p->streamed = p->large && !p->unmapped;
    p->far = bytes >= (double)FAR_FROM;
    const int sharable = p->function <= FSM_LOGSUMEXP && has_pieces(p) && p->n >= FSM_SHARED_FROM &&
                         p->outer <= 1 && (p->direct || lies_along(p));
    p->pieces = sharable ? (p->n + FSM_SHARED_PIECE - 1) / FSM_SHARED_PIECE : 0;
    const size_t row = p->n * size_of(p->computing);
    const int in_place = p->base[FSM_GRAD] && p->base[FSM_GRAD] == p->base[FSM_X];
    const int streams =
        p->direct && p->streamed && row > FSM_STREAM_ABOVE && row <= FSM_STREAM_UP_TO && !in_place;
    p->waits = p->function == FSM_CROSS_ENTROPY && p->base[FSM_GRAD] && p->n <= FSM_ASK_EVERY &&
               (streams || in_place);
    if (!p->direct) {
        p->streamed =
            p->streamed && (p->beside ? !p->together && streams_beside(p) : has_pieces(p));
        return (enum fsm_status)plan_strips(p);
    }
    if (p->waits) {
        p->streamed = streams;
        p->weights_at = region(p, FSM_ENTROPY_SCRATCH(row));
    } else if (streams && p->function < FSM_ROW_FUNCTIONS && p->function != FSM_LOGSUMEXP &&
               p->base[FSM_OUT] != p->base[FSM_X] && p->base[FSM_OUT] != p->base[FSM_Y]) {
        p->scratch = FSM_STREAM_SCRATCH(row);
    }
    return 0;
}
