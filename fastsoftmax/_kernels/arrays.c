/* Design
 * A. Dimensions that are one run in memory for every operand are merged first, so that what is left is what the layout is.
 * B. Rows that are contiguous in every operand go to the kernels where they lie. Where the array is larger than the caches,
 *    the results of long rows are streamed past them: a line that is written whole need not be read.
 * C. Rows that lie side by side are taken a vector of rows at a time, where they lie.
 * D. All else is staged: a strip of rows is gathered into scratch as contiguous rows (transposed, converted to the
 *    computing type, masked elements as -inf), computed there by the same kernels, and scattered. The scratch is a strip,
 *    never the array, and the bits are those of the contiguous row. An operand that needs none of this is used as it lies.
 * E. A strip runs along the outer dimension with the smallest step in x, so that gathering reads whole cache lines.
 */
#include "arrays.h"
#include "portable.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a cache line. */
#define LINE 64
/* Operands of so many bytes each do not stay in the caches near by. */
#define FAR_FROM ((size_t)6 * 1024 * 1024)
/* More memory than this comes fresh from the operating system (glibc's largest threshold; elsewhere it is lower): its pages are not there
 * before they are written to, and in the caches then. */
#define FRESH_ABOVE ((size_t)32 * 1024 * 1024)
/* A strip's rows take about half of a small L2. */
#define STRIP_BYTES (256 * 1024)
#define STRIP_ROWS 64
/* Rows side by side, whose elements are copied in runs that share a page: as many as are in a strip anyway. */
#define BESIDE_ROWS 256
/* A thread's parts of such rows: half a page of float32. */
#define BESIDE_PART 512
/* Of that many indices threads take parts of about the same size. */
#define ENOUGH_PARTS 16

static size_t storage_size(enum fsm_dtype dtype) {
    static const size_t size[FSM_DTYPES] = {4, 8, 2, 2};
    return size[dtype];
}

static enum fsm_dtype computing(enum fsm_dtype dtype) {
    return dtype == FSM_F64 ? FSM_F64 : FSM_F32;
}

fsm_temperature fsm_make_temperature(double temperature, enum fsm_dtype dtype) {
    fsm_temperature t = {temperature != 1.0, 1.0, 1.0, 0.0};
    if (!t.tempered) {
        return t;
    }
    const uint64_t saved = fsm_enter(); /* the caller's rounding mode must not change a bit */
    const int limit = computing(dtype) == FSM_F64 ? 1022 : 126;
    int exponent = ilogb(temperature);
    exponent = exponent > limit ? limit : exponent < -limit ? -limit : exponent;
    t.scale = ldexp(1.0, -exponent);
    const double scaled = temperature * t.scale;
    double inverse = 1.0 / scaled;
    if (computing(dtype) == FSM_F64) {
        t.inv_hi = inverse;
        t.inv_lo = fma(-scaled, inverse, 1.0) * inverse;
    } else {
        /* Outside float32's range the result is that of the nearest end: one maximum, or all equal. */
        inverse = inverse > FLT_MAX   ? (double)FLT_MAX
                  : inverse < FLT_MIN ? (double)FLT_MIN
                                      : inverse;
        t.inv_hi = (double)(float)inverse;
        t.inv_lo = (double)(float)(inverse - t.inv_hi);
    }
    fsm_leave(saved);
    return t;
}

/* ---- merging ---- */

static int merges(const fsm_operand *operand, size_t outer_extent_below, int at, int inner) {
    const ptrdiff_t *stride = inner ? operand->inner : operand->outer;
    return !operand->base || stride[at] == stride[at + 1] * (ptrdiff_t)outer_extent_below;
}

/* Merges dimensions `at` and `at + 1` where every operand allows. */
static int merge_dimensions(fsm_job *job, size_t *shape, int dimensions, int inner) {
    fsm_operand *const operands[4] = {&job->x, &job->y, &job->mask, &job->out};
    const int used = inner && job->function == FSM_LOGSUMEXP ? 3 : 4;
    for (int at = dimensions - 2; at >= 0; at--) {
        int all = 1;
        for (int o = 0; o < used; o++) {
            all = all && merges(operands[o], shape[at + 1], at, inner);
        }
        if (!all && shape[at] != 1 && shape[at + 1] != 1) {
            continue;
        }
        /* The step of the extent-1 side is never taken. */
        const int keep = shape[at + 1] == 1 && !all ? at : at + 1;
        shape[at] *= shape[at + 1];
        for (int o = 0; o < used; o++) {
            ptrdiff_t *stride = inner ? operands[o]->inner : operands[o]->outer;
            stride[at] = stride[keep];
            memmove(stride + at + 1, stride + at + 2,
                    (size_t)(dimensions - at - 2) * sizeof stride[0]);
        }
        memmove(shape + at + 1, shape + at + 2, (size_t)(dimensions - at - 2) * sizeof shape[0]);
        dimensions--;
    }
    return dimensions;
}

static ptrdiff_t magnitude(ptrdiff_t a) {
    return a < 0 ? -a : a;
}

/* Puts the dimension along which strips and batches run last. */
static void order_outer(fsm_job *job) {
    fsm_operand *const operands[4] = {&job->x, &job->y, &job->mask, &job->out};
    const int last = job->outer_dimensions - 1;
    int best = last;
    for (int d = 0; d < last; d++) {
        if (job->outer_shape[d] > 1 && magnitude(job->x.outer[d]) < magnitude(job->x.outer[best])) {
            best = d;
        }
    }
    const size_t extent = job->outer_shape[best];
    job->outer_shape[best] = job->outer_shape[last];
    job->outer_shape[last] = extent;
    for (int o = 0; o < 4; o++) {
        const ptrdiff_t stride = operands[o]->outer[best];
        operands[o]->outer[best] = operands[o]->outer[last];
        operands[o]->outer[last] = stride;
    }
}

static size_t row_length(const fsm_job *job) {
    size_t n = 1;
    for (int d = 0; d < job->inner_dimensions; d++) {
        n *= job->inner_shape[d];
    }
    return n;
}

/* ---- gathering and scattering one strip ---- */

#define TILE 16

/* rows x n elements of `size` bytes between a strided array and contiguous rows, tile by tile. */
#define TRANSFER(type, gather)                                                                     \
    for (size_t i0 = 0; i0 < n; i0 += TILE) {                                                      \
        const size_t i1 = i0 + TILE < n ? i0 + TILE : n;                                           \
        for (size_t r0 = 0; r0 < rows; r0 += TILE) {                                               \
            const size_t r1 = r0 + TILE < rows ? r0 + TILE : rows;                                 \
            for (size_t i = i0; i < i1; i++) {                                                     \
                char *strided = base + (ptrdiff_t)i * step + (ptrdiff_t)r0 * row_step;             \
                type *row = (type *)packed + r0 * pitch + i;                                       \
                for (size_t r = r0; r < r1; r++, strided += row_step, row += pitch) {              \
                    if (gather) {                                                                  \
                        *row = *(const type *)strided;                                             \
                    } else {                                                                       \
                        *(type *)strided = *row;                                                   \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

/* One run of the innermost dimension; `pitch` elements lie between packed rows. */
static void transfer_run(const fsm_job *job, char *base, ptrdiff_t row_step, ptrdiff_t step,
                         size_t rows, size_t n, void *packed, size_t pitch, size_t size,
                         int gather) {
    if (row_step == (ptrdiff_t)size && size == storage_size(computing(job->dtype))) {
        const enum fsm_dtype dtype = computing(job->dtype);
        const size_t done = gather
                                ? job->kernels->gather[dtype](packed, pitch, base, step, rows, n)
                                : job->kernels->scatter[dtype](base, step, packed, pitch, rows, n);
        base += done * size;
        packed = (char *)packed + done * pitch * size;
        rows -= done;
    }
    if (size == 8) {
        TRANSFER(uint64_t, gather)
    } else if (size == 4) {
        TRANSFER(uint32_t, gather)
    } else if (size == 2) {
        TRANSFER(uint16_t, gather)
    } else {
        TRANSFER(uint8_t, gather)
    }
}

/* All inner dimensions, from `dimension` on. Returns the elements passed. */
static size_t transfer(const fsm_job *job, const fsm_operand *operand, char *base, size_t rows,
                       char *packed, size_t pitch, size_t size, int dimension, int gather) {
    const ptrdiff_t step = job->outer_dimensions ? operand->outer[job->outer_dimensions - 1] : 0;
    const size_t extent = job->inner_shape[dimension];
    if (dimension == job->inner_dimensions - 1) {
        transfer_run(job, base, step, operand->inner[dimension], rows, extent, packed, pitch, size,
                     gather);
        return extent;
    }
    size_t passed = 0;
    for (size_t i = 0; i < extent; i++) {
        passed += transfer(job, operand, base + (ptrdiff_t)i * operand->inner[dimension], rows,
                           packed + passed * size, pitch, size, dimension + 1, gather);
    }
    return passed;
}

typedef struct {
    size_t pitch;       /* elements from one row to the next, in each */
    char *x, *y, *half; /* x becomes the result, in place */
    uint8_t *mask;
    int streamed; /* results of blocks side by side go past the caches */
} scratch_rows;

static ptrdiff_t row_step(const fsm_job *job, const fsm_operand *operand) {
    return job->outer_dimensions ? operand->outer[job->outer_dimensions - 1] : 0;
}

/* Whether a row of the operand is one run of elements of this size. */
static int is_packed(const fsm_job *job, const fsm_operand *operand, size_t size) {
    return job->inner_dimensions == 1 &&
           (job->inner_shape[0] == 1 || operand->inner[0] == (ptrdiff_t)size);
}

static void widen(const fsm_job *job, char *to, const char *from, size_t n) {
    if (job->dtype == FSM_F16) {
        job->kernels->from_f16((float *)to, (const uint16_t *)from, n);
    } else if (job->dtype == FSM_BF16) {
        job->kernels->from_bf16((float *)to, (const uint16_t *)from, n);
    } else {
        memcpy(to, from, n * storage_size(job->dtype));
    }
}

static void narrow(const fsm_job *job, char *to, const char *from, size_t n) {
    if (job->dtype == FSM_F16) {
        job->kernels->to_f16((uint16_t *)to, (const float *)from, n);
    } else if (job->dtype == FSM_BF16) {
        job->kernels->to_bf16((uint16_t *)to, (const float *)from, n);
    } else {
        memcpy(to, from, n * storage_size(job->dtype));
    }
}

/* Contiguous rows of the computing type in `packed`. */
static void gather(const fsm_job *job, const fsm_operand *operand, char *base, size_t rows,
                   size_t n, const scratch_rows *scratch, char *packed) {
    const size_t size = storage_size(job->dtype), wide = storage_size(computing(job->dtype));
    const size_t pitch = scratch->pitch;
    if (is_packed(job, operand, size)) {
        for (size_t r = 0; r < rows; r++) {
            widen(job, packed + r * pitch * wide, base + (ptrdiff_t)r * row_step(job, operand), n);
        }
    } else if (size == wide) {
        transfer(job, operand, base, rows, packed, pitch, size, 0, 1);
    } else {
        transfer(job, operand, base, rows, scratch->half, pitch, size, 0, 1);
        for (size_t r = 0; r < rows; r++) {
            widen(job, packed + r * pitch * wide, scratch->half + r * pitch * size, n);
        }
    }
}

static void scatter(const fsm_job *job, char *base, size_t rows, size_t n,
                    const scratch_rows *scratch) {
    const size_t size = storage_size(job->dtype), wide = storage_size(computing(job->dtype));
    const int single = job->function == FSM_LOGSUMEXP;
    const size_t pitch = single ? 1 : scratch->pitch;
    if (!single && is_packed(job, &job->out, size)) {
        for (size_t r = 0; r < rows; r++) {
            narrow(job, base + (ptrdiff_t)r * row_step(job, &job->out),
                   scratch->x + r * pitch * wide, n);
        }
        return;
    }
    char *raw = scratch->x;
    if (size != wide) {
        raw = scratch->half;
        for (size_t r = 0; r < rows; r++) {
            narrow(job, raw + r * pitch * size, scratch->x + r * pitch * wide, single ? 1 : n);
        }
    }
    if (single) {
        transfer_run(job, base, row_step(job, &job->out), 0, rows, 1, raw, 1, size, 0);
    } else {
        transfer(job, &job->out, base, rows, raw, pitch, size, 0, 0);
    }
}

/* What the kernels are given of one operand: a row and the step to the next. */
typedef struct {
    char *base;
    ptrdiff_t step;
} rows_at;

static rows_at operand_rows(const fsm_job *job, const fsm_operand *operand, char *base, size_t rows,
                            size_t n, const scratch_rows *scratch, char *packed) {
    const size_t size = storage_size(computing(job->dtype));
    if (job->dtype < FSM_COMPUTE_DTYPES && is_packed(job, operand, size)) {
        return (rows_at){base, row_step(job, operand)};
    }
    gather(job, operand, base, rows, n, scratch, packed);
    return (rows_at){packed, (ptrdiff_t)(scratch->pitch * size)};
}

static int is_nan(const char *element, enum fsm_dtype dtype) {
    if (dtype == FSM_F64) {
        const double value = *(const double *)element;
        return value != value;
    }
    const float value = *(const float *)element;
    return value != value;
}

static void run_strip(const fsm_job *job, char *const base[4], size_t rows, size_t n,
                      const scratch_rows *scratch) {
    const enum fsm_dtype dtype = computing(job->dtype);
    const size_t size = storage_size(dtype);
    const int single = job->function == FSM_LOGSUMEXP;
    rows_at x = operand_rows(job, &job->x, base[0], rows, n, scratch, scratch->x);
    rows_at y = {NULL, 0};
    if (job->y.base) {
        y = operand_rows(job, &job->y, base[1], rows, n, scratch, scratch->y);
    }
    rows_at mask = {NULL, 0};
    if (job->mask.base) {
        mask = (rows_at){base[2], row_step(job, &job->mask)};
        if (!is_packed(job, &job->mask, 1)) {
            transfer(job, &job->mask, base[2], rows, (char *)scratch->mask, scratch->pitch, 1, 0,
                     1);
            mask = (rows_at){(char *)scratch->mask, (ptrdiff_t)scratch->pitch};
        }
        for (size_t r = 0; r < rows; r++) {
            job->kernels->select[dtype](
                scratch->x + r * scratch->pitch * size, x.base + (ptrdiff_t)r * x.step,
                (const uint8_t *)mask.base + (ptrdiff_t)r * mask.step, n, -INFINITY);
        }
        x = (rows_at){scratch->x, (ptrdiff_t)(scratch->pitch * size)};
    }
    const int direct =
        job->dtype < FSM_COMPUTE_DTYPES && (single || is_packed(job, &job->out, size));
    const rows_at out =
        direct ? (rows_at){base[3], row_step(job, &job->out)}
               : (rows_at){scratch->x, (ptrdiff_t)(single ? size : scratch->pitch * size)};
    const fsm_rows batch = {
        .rows = rows,
        .n = n,
        .x = x.base,
        .y = y.base,
        .out = out.base,
        .x_stride = x.step,
        .y_stride = y.step,
        .out_stride = out.step,
        .temperature = job->temperature,
    };
    job->kernels->rows[job->function][dtype](&batch);
    if (mask.base && !single) {
        /* A masked element weighs 0 already, unless its row is NaN throughout. */
        const double value = job->function == FSM_SOFTMAX ? 0.0 : -INFINITY;
        for (size_t r = 0; r < rows; r++) {
            char *row = out.base + (ptrdiff_t)r * out.step;
            if (is_nan(row, dtype)) {
                job->kernels->select[dtype](
                    row, row, (const uint8_t *)mask.base + (ptrdiff_t)r * mask.step, n, value);
            }
        }
    }
    if (!direct) {
        scatter(job, base[3], rows, n, scratch);
    }
}

/* ---- rows that lie contiguous ---- */

static void run_rows(const fsm_kernels *kernels, enum fsm_function function, enum fsm_dtype dtype,
                     const fsm_rows *batch, int streamed) {
    const size_t row = batch->n * storage_size(dtype);
    fsm_rows rows = *batch;
    char *memory = NULL;
    if (streamed && row > FSM_STREAM_ABOVE && row <= FSM_STREAM_UP_TO &&
        function != FSM_LOGSUMEXP && batch->out != batch->x && batch->out != batch->y) {
        memory = malloc(FSM_STREAM_SCRATCH(row) + LINE);
    }
    rows.scratch = memory ? memory + (LINE - (uintptr_t)memory % LINE) % LINE : NULL;
    kernels->rows[function][dtype](&rows);
    if (memory) {
        FSM_STREAM_FENCE();
        free(memory);
    }
}

/* ---- rows that lie side by side ---- */

#define BLOCKS (BESIDE_ROWS * sizeof(double) / LINE)
/* Of longer rows: a page of each element. */
#define TALL_BLOCKS 64

/* Whether blocks of rows, a cache line of each element, can be taken as they lie. */
static int lies_beside(const fsm_job *job, size_t n) {
    const ptrdiff_t size = (ptrdiff_t)storage_size(job->dtype);
    if (job->dtype >= FSM_COMPUTE_DTYPES || job->mask.base || job->temperature.tempered ||
        job->inner_dimensions != 1 || row_step(job, &job->x) != size ||
        row_step(job, &job->out) != size) {
        return 0;
    }
    if (n <= FSM_BESIDE_LENGTH) {
        return job->kernels->beside[job->function][job->dtype] != NULL;
    }
    return job->function == FSM_SOFTMAX && job->kernels->tall[job->dtype] &&
           n <= FSM_CHUNK_VECTORS * LINE / (size_t)size;
}

/* Whether results of that can be streamed: they are lines, all at the same offset. */
static int streams_beside(const fsm_job *job, size_t n) {
    size_t steps = (size_t)job->out.inner[0];
    for (int d = 0; d < job->outer_dimensions - 1; d++) {
        steps |= (size_t)job->out.outer[d];
    }
    return job->streamed && n <= FSM_BESIDE_LENGTH && job->function != FSM_LOGSUMEXP &&
           steps % LINE == 0 && job->out.base != job->x.base;
}

/* Blocks of a strip that the kernels did not take are staged. */
static void run_other_blocks(const fsm_job *job, char *const base[4], const int *done,
                             size_t blocks, size_t n, const scratch_rows *scratch) {
    for (size_t k = 0; k < blocks; k++) {
        if (!done[k]) {
            char *const at[4] = {base[0] + k * LINE, NULL, NULL, base[3] + k * LINE};
            run_strip(job, at, LINE / storage_size(job->dtype), n, scratch);
        }
    }
}

/* As many whole blocks of a strip as there are, of longer rows; returns how many rows these are. */
static size_t run_tall(const fsm_job *job, char *const base[4], size_t rows, size_t n,
                       const scratch_rows *scratch) {
    const size_t lanes = LINE / storage_size(job->dtype);
    int done[TALL_BLOCKS];
    const fsm_tall tall = {
        .n = n,
        .blocks = rows / lanes < TALL_BLOCKS ? rows / lanes : TALL_BLOCKS,
        .x = base[0],
        .out = base[3],
        .x_step = job->x.inner[0],
        .out_step = job->out.inner[0],
        .scratch = scratch->x,
        .done = done,
    };
    job->kernels->tall[job->dtype](&tall);
    run_other_blocks(job, base, done, tall.blocks, n, scratch);
    return tall.blocks * lanes;
}

/* The same of rows of up to FSM_BESIDE_LENGTH. */
static size_t run_blocks(const fsm_job *job, char *const base[4], size_t rows, size_t n,
                         const scratch_rows *scratch) {
    const size_t size = storage_size(job->dtype), lanes = LINE / size;
    const size_t blocks = rows / lanes < BLOCKS ? rows / lanes : BLOCKS;
    const size_t results = job->function == FSM_LOGSUMEXP ? 1 : n;
    int done[BLOCKS], all = 1;
    for (size_t i = 0; i < n; i++) {
        const char *x = base[0] + (ptrdiff_t)i * job->x.inner[0];
        for (size_t k = 0; k < blocks; k++) {
            memcpy(scratch->x + (k * n + i) * LINE, x + k * LINE, LINE);
        }
    }
    for (size_t k = 0; k < blocks; k++) {
        done[k] = job->kernels->beside[job->function][job->dtype](scratch->x + k * n * LINE, n);
        all &= done[k];
    }
    const int streamed = scratch->streamed && all && (uintptr_t)base[3] % LINE == 0;
    for (size_t i = 0; i < results; i++) {
        char *out = base[3] + (results > 1 ? (ptrdiff_t)i * job->out.inner[0] : 0);
        for (size_t k = 0; k < blocks; k++) {
            const char *line = scratch->x + (k * n + i) * LINE;
            if (streamed) {
                FSM_STREAM_LINE(out + k * LINE, line);
            } else if (done[k]) {
                memcpy(out + k * LINE, line, LINE);
            }
        }
    }
    run_other_blocks(job, base, done, blocks, n, scratch);
    return blocks * lanes;
}

static void run_beside(const fsm_job *job, char *const base[4], size_t rows, size_t strip, size_t n,
                       const scratch_rows *scratch) {
    const size_t size = storage_size(job->dtype);
    const size_t offset = (uintptr_t)base[3] % LINE;
    size_t done = 0;
    if (scratch->streamed && offset && offset % size == 0 && rows > LINE / size) {
        done = (LINE - offset) / size; /* up to where a line of results starts */
        run_strip(job, base, done, n, scratch);
    }
    for (size_t first = done; first < rows; first += done) {
        const size_t left = rows - first < strip ? rows - first : strip;
        char *const at[4] = {base[0] + first * size, NULL, NULL, base[3] + first * size};
        done = n <= FSM_BESIDE_LENGTH ? run_blocks(job, at, left, n, scratch)
                                      : run_tall(job, at, rows - first, n, scratch);
        if (!done) {
            done = left;
            run_strip(job, at, done, n, scratch);
        }
    }
}

/* ---- the two ways through the outer dimensions ---- */

/* Calls one strip or batch for every index of the outer dimensions but the last. */
static void for_each_prefix(const fsm_job *job, size_t n, const scratch_rows *scratch,
                            size_t strip) {
    const fsm_operand *const operands[4] = {&job->x, &job->y, &job->mask, &job->out};
    const int last = job->outer_dimensions - 1;
    const size_t rows = last >= 0 ? job->outer_shape[last] : 1;
    const int beside = scratch && lies_beside(job, n);
    size_t index[FSM_MAX_DIMENSIONS] = {0};
    char *base[4];
    for (int o = 0; o < 4; o++) {
        base[o] = operands[o]->base;
    }
    for (;;) {
        if (beside) {
            run_beside(job, base, rows, strip, n, scratch);
        } else if (scratch) {
            for (size_t first = 0; first < rows; first += strip) {
                char *at[4];
                for (int o = 0; o < 4; o++) {
                    at[o] = base[o] && first ? base[o] + (ptrdiff_t)first * operands[o]->outer[last]
                                             : base[o];
                }
                run_strip(job, at, rows - first < strip ? rows - first : strip, n, scratch);
            }
        } else {
            const fsm_rows batch = {
                .rows = rows,
                .n = n,
                .x = base[0],
                .y = base[1],
                .out = base[3],
                .x_stride = last >= 0 ? job->x.outer[last] : 0,
                .y_stride = last >= 0 ? job->y.outer[last] : 0,
                .out_stride = last >= 0 ? job->out.outer[last] : 0,
                .temperature = job->temperature,
                .far = job->far,
            };
            run_rows(job->kernels, job->function, job->dtype, &batch, job->streamed);
        }
        int d = last - 1;
        for (; d >= 0; d--) {
            for (int o = 0; o < 4; o++) {
                if (base[o]) {
                    base[o] += operands[o]->outer[d];
                }
            }
            if (++index[d] < job->outer_shape[d]) {
                break;
            }
            for (int o = 0; o < 4; o++) {
                if (base[o]) {
                    base[o] -= (ptrdiff_t)job->outer_shape[d] * operands[o]->outer[d];
                }
            }
            index[d] = 0;
        }
        if (d < 0) {
            return;
        }
    }
}

static int contiguous_rows(const fsm_job *job) {
    const ptrdiff_t size = (ptrdiff_t)storage_size(job->dtype);
    if (job->dtype >= FSM_COMPUTE_DTYPES || job->mask.base || job->inner_dimensions != 1) {
        return 0;
    }
    if (job->inner_shape[0] == 1) {
        return 1;
    }
    return job->x.inner[0] == size && (!job->y.base || job->y.inner[0] == size) &&
           (job->function == FSM_LOGSUMEXP || job->out.inner[0] == size);
}

static int run_staged(const fsm_job *job, size_t n) {
    const size_t size = storage_size(computing(job->dtype));
    const size_t rows = job->outer_dimensions ? job->outer_shape[job->outer_dimensions - 1] : 1;
    size_t strip = STRIP_BYTES / size / n;
    const int beside = lies_beside(job, n);
    const size_t most = beside ? BESIDE_ROWS : STRIP_ROWS;
    strip = strip > most ? most : strip < TILE ? TILE : strip;
    strip = strip > rows ? rows : strip;
    /* An odd number of cache lines: a column of the scratch meets all sets of the cache. */
    const size_t lines = (n * size + 63) / 64 | 1;
    const size_t pitch = n < 16 ? n : lines * 64 / size;
    const size_t elements = strip * pitch;
    /* x, y if any; narrow values; the mask. Each starts on a cache line. */
    const size_t tall = beside ? TALL_BLOCKS * FSM_TALL_SCRATCH : 0;
    const size_t packed = (elements * size + 63) / 64 * 64, part = packed > tall ? packed : tall;
    const size_t parts = job->y.base ? 2 : 1;
    char *memory = malloc(parts * part + (elements * 2 + 63) / 64 * 64 + elements + 64);
    if (!memory) {
        return -1;
    }
    char *start = memory + (64 - (uintptr_t)memory % 64) % 64;
    const scratch_rows scratch = {
        .pitch = pitch,
        .x = start,
        .y = start + part,
        .half = start + parts * part,
        .mask = (uint8_t *)start + parts * part + (elements * 2 + 63) / 64 * 64,
        .streamed = streams_beside(job, n),
    };
    for_each_prefix(job, n, &scratch, strip);
    FSM_STREAM_FENCE();
    free(memory);
    return 0;
}

/* The dimension that parts are taken of: the longest, but strips and batches run along the last. */
static int split_dimension(const fsm_job *job, int beside) {
    const int last = job->outer_dimensions - 1;
    int longest = 0;
    for (int d = 1; d < last; d++) {
        if (job->outer_shape[d] > job->outer_shape[longest]) {
            longest = d;
        }
    }
    const int enough = last > 0 && !beside && job->outer_shape[longest] >= ENOUGH_PARTS;
    return enough || job->outer_shape[longest] > job->outer_shape[last] ? longest : last;
}

size_t fsm_prepare(fsm_job *job) {
    job->inner_dimensions = merge_dimensions(job, job->inner_shape, job->inner_dimensions, 1);
    job->outer_dimensions = merge_dimensions(job, job->outer_shape, job->outer_dimensions, 0);
    const size_t n = row_length(job);
    const int contiguous = contiguous_rows(job);
    if (job->outer_dimensions > 1 && !contiguous) {
        order_outer(job);
    }
    const int beside = !contiguous && lies_beside(job, n);
    size_t rows = 1;
    for (int d = 0; d < job->outer_dimensions; d++) {
        rows *= job->outer_shape[d];
    }
    job->least = beside ? BESIDE_PART : 1;
    const size_t bytes = rows * n * storage_size(job->dtype);
    job->streamed = bytes >= fsm_stream_from();
    job->far = bytes >= FAR_FROM;
    if (!job->outer_dimensions) {
        return 1;
    }
    job->split = split_dimension(job, beside);
    return job->outer_shape[job->split];
}

int fsm_run_job(const void *prepared, size_t first, size_t last) {
    fsm_job job = *(const fsm_job *)prepared;
    if (job.outer_dimensions) {
        fsm_operand *const operands[4] = {&job.x, &job.y, &job.mask, &job.out};
        job.outer_shape[job.split] = last - first;
        for (int o = 0; o < 4; o++) {
            if (operands[o]->base) {
                operands[o]->base += (ptrdiff_t)first * operands[o]->outer[job.split];
            }
        }
    }
    const size_t n = row_length(&job);
    const uint64_t saved = fsm_enter();
    int status = 0;
    if (contiguous_rows(&job)) {
        for_each_prefix(&job, n, NULL, 0);
    } else {
        status = run_staged(&job, n);
    }
    fsm_leave(saved);
    return status;
}

/* ---- what is contiguous rows from the start ---- */

int fsm_run_batch(const void *batch, size_t first, size_t last) {
    const fsm_batch *all = batch;
    fsm_rows part = all->rows;
    part.rows = last - first;
    part.x = (const char *)part.x + (ptrdiff_t)first * part.x_stride;
    part.out = (char *)part.out + (ptrdiff_t)first * part.out_stride;
    const size_t bytes = all->rows.rows * all->rows.n * storage_size(all->dtype);
    const int streamed = bytes >= fsm_stream_from() && !(all->fresh && bytes > FRESH_ABOVE);
    const uint64_t saved = fsm_enter();
    run_rows(all->kernels, all->function, all->dtype, &part, streamed);
    fsm_leave(saved);
    return 0;
}

int fsm_run_entropies(const void *entropies, size_t first, size_t last) {
    const fsm_entropies *all = entropies;
    const size_t size = storage_size(all->dtype);
    fsm_cross_entropy part = all->batch;
    part.rows = last - first;
    part.x = (const char *)part.x + (ptrdiff_t)first * part.x_stride;
    if (part.label) {
        part.label += first;
    } else {
        part.target = (const char *)part.target + (ptrdiff_t)first * part.target_stride;
    }
    part.loss = (char *)part.loss + first * size;
    if (part.grad) {
        part.grad = (char *)part.grad + (ptrdiff_t)first * part.grad_stride;
    }
    const uint64_t saved = fsm_enter();
    all->kernels->cross_entropy[all->dtype](&part);
    fsm_leave(saved);
    return 0;
}

int fsm_run_segments(const void *segments, size_t first, size_t last) {
    const fsm_segments *all = segments;
    const size_t size = storage_size(all->dtype);
    fsm_rows row = {.rows = 1, .temperature = fsm_make_temperature(1.0, all->dtype)};
    const uint64_t saved = fsm_enter();
    for (size_t i = first; i < last; i++) {
        const size_t start = (size_t)all->pointers[i];
        row.n = (size_t)all->pointers[i + 1] - start;
        row.x = (const char *)all->x + start * size;
        row.out = (char *)all->out + start * size;
        if (row.n) {
            all->kernels->rows[FSM_SOFTMAX][all->dtype](&row);
        }
    }
    fsm_leave(saved);
    return 0;
}
