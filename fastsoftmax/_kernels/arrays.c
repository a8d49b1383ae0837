/* Design
 * A. Dimensions that are one run in memory for every operand are merged first, so that what is left is what the layout is.
 * B. Rows that are contiguous in every operand go to the kernels where they lie.
 * C. All else is staged: a strip of rows is gathered into scratch as contiguous rows (transposed, converted to the
 *    computing type, masked elements as -inf), computed there by the same kernels, and scattered. The scratch is a strip,
 *    never the array, and the bits are those of the contiguous row.
 * D. A strip runs along the outer dimension with the smallest step in x, so that gathering reads whole cache lines.
 */
#include "arrays.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A strip's rows take about half of a small L2. */
#define STRIP_BYTES (256 * 1024)
#define STRIP_ROWS 64

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
static void transfer_run(char *base, ptrdiff_t row_step, ptrdiff_t step, size_t rows, size_t n,
                         void *packed, size_t pitch, size_t size, int gather) {
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
    const ptrdiff_t row_step =
        job->outer_dimensions ? operand->outer[job->outer_dimensions - 1] : 0;
    const size_t extent = job->inner_shape[dimension];
    if (dimension == job->inner_dimensions - 1) {
        transfer_run(base, row_step, operand->inner[dimension], rows, extent, packed, pitch, size,
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

static void from_bf16(float *out, const uint16_t *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* Ties to even; a NaN becomes the canonical one. */
static void to_bf16(uint16_t *out, const float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
    }
}

typedef struct {
    char *x, *y, *out, *half;
    uint8_t *mask;
} scratch_rows;

static void gather(const fsm_job *job, const fsm_operand *operand, char *base, size_t rows,
                   size_t n, const scratch_rows *scratch, char *packed) {
    const int narrow = job->dtype >= FSM_COMPUTE_DTYPES;
    char *raw = narrow ? scratch->half : packed;
    transfer(job, operand, base, rows, raw, n, storage_size(job->dtype), 0, 1);
    if (job->dtype == FSM_F16) {
        job->kernels->from_f16((float *)packed, (const uint16_t *)raw, rows * n);
    } else if (job->dtype == FSM_BF16) {
        from_bf16((float *)packed, (const uint16_t *)raw, rows * n);
    }
}

static void scatter(const fsm_job *job, char *base, size_t rows, size_t n,
                    const scratch_rows *scratch) {
    char *raw = scratch->out;
    if (job->dtype == FSM_F16) {
        raw = scratch->half;
        job->kernels->to_f16((uint16_t *)raw, (const float *)scratch->out, rows * n);
    } else if (job->dtype == FSM_BF16) {
        raw = scratch->half;
        to_bf16((uint16_t *)raw, (const float *)scratch->out, rows * n);
    }
    const size_t size = storage_size(job->dtype);
    if (job->function == FSM_LOGSUMEXP) {
        const ptrdiff_t row_step =
            job->outer_dimensions ? job->out.outer[job->outer_dimensions - 1] : 0;
        transfer_run(base, row_step, 0, rows, 1, raw, 1, size, 0);
    } else {
        transfer(job, &job->out, base, rows, raw, n, size, 0, 0);
    }
}

/* The elements left out get `value`. */
static void fill_masked(const fsm_job *job, char *packed, const uint8_t *mask, size_t count,
                        double value) {
    if (computing(job->dtype) == FSM_F64) {
        double *a = (double *)packed;
        for (size_t i = 0; i < count; i++) {
            a[i] = mask[i] ? a[i] : value;
        }
    } else {
        float *a = (float *)packed;
        for (size_t i = 0; i < count; i++) {
            a[i] = mask[i] ? a[i] : (float)value;
        }
    }
}

static void run_strip(const fsm_job *job, char *const base[4], size_t rows, size_t n,
                      const scratch_rows *scratch) {
    const size_t size = storage_size(computing(job->dtype));
    const int single = job->function == FSM_LOGSUMEXP;
    gather(job, &job->x, base[0], rows, n, scratch, scratch->x);
    if (job->y.base) {
        gather(job, &job->y, base[1], rows, n, scratch, scratch->y);
    }
    if (job->mask.base) {
        transfer(job, &job->mask, base[2], rows, (char *)scratch->mask, n, 1, 0, 1);
        fill_masked(job, scratch->x, scratch->mask, rows * n, -INFINITY);
    }
    const fsm_rows batch = {
        .rows = rows,
        .n = n,
        .x = scratch->x,
        .y = scratch->y,
        .out = scratch->out,
        .x_stride = (ptrdiff_t)(n * size),
        .y_stride = (ptrdiff_t)(n * size),
        .out_stride = (ptrdiff_t)(single ? size : n * size),
        .temperature = job->temperature,
    };
    job->kernels->rows[job->function][computing(job->dtype)](&batch);
    if (job->mask.base && !single) {
        fill_masked(job, scratch->out, scratch->mask, rows * n,
                    job->function == FSM_SOFTMAX ? 0.0 : -INFINITY);
    }
    scatter(job, base[3], rows, n, scratch);
}

/* ---- the two ways through the outer dimensions ---- */

/* Calls one strip or batch for every index of the outer dimensions but the last. */
static void for_each_prefix(const fsm_job *job, size_t n, const scratch_rows *scratch,
                            size_t strip) {
    const fsm_operand *const operands[4] = {&job->x, &job->y, &job->mask, &job->out};
    const int last = job->outer_dimensions - 1;
    const size_t rows = last >= 0 ? job->outer_shape[last] : 1;
    size_t index[FSM_MAX_DIMENSIONS] = {0};
    char *base[4];
    for (int o = 0; o < 4; o++) {
        base[o] = operands[o]->base;
    }
    for (;;) {
        if (scratch) {
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
            };
            job->kernels->rows[job->function][job->dtype](&batch);
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

static int run_staged(fsm_job *job, size_t n) {
    if (job->outer_dimensions > 1) {
        order_outer(job);
    }
    const size_t size = storage_size(computing(job->dtype));
    const size_t rows = job->outer_dimensions ? job->outer_shape[job->outer_dimensions - 1] : 1;
    size_t strip = STRIP_BYTES / size / n;
    strip = strip > STRIP_ROWS ? STRIP_ROWS : strip < TILE ? TILE : strip;
    strip = strip > rows ? rows : strip;
    const size_t elements = strip * n;
    /* x, out, y if any; narrow values; the mask. Each starts on a cache line. */
    const size_t part = (elements * size + 63) / 64 * 64;
    const size_t parts = job->y.base ? 3 : 2;
    char *memory = malloc(parts * part + (elements * 2 + 63) / 64 * 64 + elements + 64);
    if (!memory) {
        return -1;
    }
    char *start = memory + (64 - (uintptr_t)memory % 64) % 64;
    const scratch_rows scratch = {
        .x = start,
        .out = start + part,
        .y = start + 2 * part,
        .half = start + parts * part,
        .mask = (uint8_t *)start + parts * part + (elements * 2 + 63) / 64 * 64,
    };
    for_each_prefix(job, n, &scratch, strip);
    free(memory);
    return 0;
}

int fsm_run(fsm_job *job) {
    job->inner_dimensions = merge_dimensions(job, job->inner_shape, job->inner_dimensions, 1);
    job->outer_dimensions = merge_dimensions(job, job->outer_shape, job->outer_dimensions, 0);
    const size_t n = row_length(job);
    const uint64_t saved = fsm_enter();
    int status = 0;
    if (contiguous_rows(job)) {
        for_each_prefix(job, n, NULL, 0);
    } else {
        status = run_staged(job, n);
    }
    fsm_leave(saved);
    return status;
}
