/* Design
 * A. What include/fastsoftmax.h declares. Each function makes a plan of its arguments, and runs it
 *    in the calling thread as a call from Python is run, so that the bits are the same. Nothing
 *    here needs the GIL.
 * B. Few rows go to the kernels without a plan.
 * C. The kernels are chosen once, before the capsule is made; then nothing here changes. */
#define FASTSOFTMAX_ONLY_TYPES
#include "include/fastsoftmax.h"

#include <string.h>

#include "_interface.h"
#include "_threads.h"

/* The most elements and labels of calls without a plan; the first as in calls from Python. */
#define FEW_ELEMENTS 8192
#define FEW_LABELS 64

static const fsm_kernels *kernels;
static const fsm_temperature UNTEMPERED = {0, 1.0, 1.0, 0.0};

static int is_temperature(double temperature) {
    return temperature > 0 && temperature < (double)INFINITY;
}

static fsm_temperature make_temperature(double temperature, enum fsm_dtype dtype) {
    return temperature == 1 ? UNTEMPERED : fsm_make_temperature(temperature, dtype);
}

/* Whether there are any elements, but few: a plan would decide nothing. */
static inline int are_few(size_t rows, size_t n) {
    return rows && n && (rows == 1 ? n <= FEW_ELEMENTS : n <= FEW_ELEMENTS / rows);
}

static void begin(fsm_plan *plan, enum fsm_function function, enum fsm_dtype dtype,
                  double temperature) {
    plan->kernels = kernels;
    plan->function = function;
    plan->computing = dtype;
    memset(plan->base, 0, sizeof plan->base);
    memset(plan->foreign, 0, sizeof plan->foreign);
    plan->temperature = make_temperature(temperature, dtype);
    plan->smoothing = 0;
    plan->weight = 1;
    plan->ignores = plan->fresh = plan->unmapped = 0;
}

static void give(fsm_plan *plan, enum fsm_operand operand, const void *base, enum fsm_dtype dtype) {
    plan->base[operand] = (char *)base;
    plan->dtype[operand] = dtype;
}

/* Whether an operand has one element a row. */
static int is_one_a_row(const fsm_plan *plan, int operand) {
    switch (operand) {
    case FSM_Y:
        return fsm_is_integer(plan->dtype[FSM_Y]);
    case FSM_OUT:
        return plan->function == FSM_LOGSUMEXP || plan->function == FSM_CROSS_ENTROPY;
    default:
        return operand == FSM_WEIGHT;
    }
}

static ptrdiff_t size_of(const fsm_plan *plan, int operand) {
    return plan->dtype[operand] == FSM_F32 ? 4 : 8;
}

static int run(fsm_plan *plan) {
    switch (fsm_execute(plan)) {
    case 0:
        return FASTSOFTMAX_OK;
    case FSM_NO_MEMORY:
        return FASTSOFTMAX_NO_MEMORY;
    default:
        return FASTSOFTMAX_BAD_INDEX;
    }
}

/* Adds the dimensions to a plan, and runs it. */
static int run_laid_out(fsm_plan *plan, size_t rows, size_t n) {
    fsm_dimension row = {.extent = rows}, element = {.extent = n};
    for (int o = 0; o < FSM_OPERANDS; o++) {
        if (plan->base[o]) {
            const int single = is_one_a_row(plan, o);
            element.step[o] = single ? 0 : size_of(plan, o);
            row.step[o] = single ? size_of(plan, o) : (ptrdiff_t)n * size_of(plan, o);
        }
    }
    plan->outer = rows > 1;
    plan->inner = 1;
    plan->dimension[0] = row;
    plan->dimension[plan->outer] = element;
    return run(plan);
}

static int plan_rows(enum fsm_function function, enum fsm_dtype dtype, const void *x, const void *y,
                     void *out, size_t rows, size_t n, double temperature) {
    fsm_plan plan;
    begin(&plan, function, dtype, temperature);
    give(&plan, FSM_X, x, dtype);
    give(&plan, FSM_Y, y, dtype);
    give(&plan, FSM_OUT, out, dtype);
    return run_laid_out(&plan, rows, n);
}

static inline int run_rows(enum fsm_function function, enum fsm_dtype dtype, const void *x,
                           const void *y, void *out, size_t rows, size_t n, double temperature) {
    if (!is_temperature(temperature)) {
        return FASTSOFTMAX_BAD_NUMBER;
    }
    if (!are_few(rows, n)) {
        return rows && n ? plan_rows(function, dtype, x, y, out, rows, n, temperature)
                         : FASTSOFTMAX_OK;
    }
    const fsm_temperature made = make_temperature(temperature, dtype);
    fsm_run_rows(kernels, function, dtype, &made, x, y, out, rows, n);
    return FASTSOFTMAX_OK;
}

/* Few rows with class indices, no weights and no ignored label, their gradient in memory of its
 * own. The labels are copied, as another thread may change them after they have been checked. */
static int run_labels(enum fsm_dtype dtype, const void *logits, const int64_t *labels, void *loss,
                      void *grad, size_t rows, size_t n, double smoothing, double temperature) {
    intptr_t label[FEW_LABELS];
    for (size_t r = 0; r < rows; r++) {
        const int64_t given = labels[r];
        if ((uint64_t)given >= n) {
            return FASTSOFTMAX_BAD_INDEX;
        }
        label[r] = (intptr_t)given;
    }
    const ptrdiff_t row = (ptrdiff_t)n * (dtype == FSM_F32 ? 4 : 8);
    const fsm_temperature made = make_temperature(temperature, dtype);
    const fsm_cross_entropy batch = {
        .rows = rows,
        .n = n,
        .x = logits,
        .x_stride = row,
        .label = label,
        .smoothing = smoothing,
        .temperature = &made,
        .loss = loss,
        .grad = grad,
        .grad_stride = row,
    };
    const uint64_t saved = fsm_enter();
    kernels->cross_entropy[dtype](&batch);
    fsm_leave(saved);
    return FASTSOFTMAX_OK;
}

static int run_entropies(enum fsm_dtype dtype, const void *logits, enum fsm_dtype dtype_of_labels,
                         const void *labels, const double *sample_weight, void *loss, void *grad,
                         size_t rows, size_t n, int64_t ignore_index, double label_smoothing,
                         double temperature) {
    fsm_plan plan;
    if (!is_temperature(temperature) || !(label_smoothing >= 0 && label_smoothing <= 1)) {
        return FASTSOFTMAX_BAD_NUMBER;
    }
    for (size_t r = 0; r < rows && sample_weight; r++) {
        if (!(sample_weight[r] - sample_weight[r] == 0)) {
            return FASTSOFTMAX_BAD_NUMBER;
        }
    }
    if (!rows || !n) {
        return rows && fsm_is_integer(dtype_of_labels) ? FASTSOFTMAX_BAD_INDEX : FASTSOFTMAX_OK;
    }
    if (fsm_is_integer(dtype_of_labels) && !sample_weight && rows <= FEW_LABELS &&
        ignore_index == FASTSOFTMAX_IGNORE_NONE && grad != logits && are_few(rows, n)) {
        return run_labels(dtype, logits, labels, loss, grad, rows, n, label_smoothing, temperature);
    }
    begin(&plan, FSM_CROSS_ENTROPY, dtype, temperature);
    plan.smoothing = label_smoothing;
    plan.ignores = ignore_index != FASTSOFTMAX_IGNORE_NONE;
    plan.ignored = ignore_index;
    give(&plan, FSM_X, logits, dtype);
    give(&plan, FSM_Y, labels, dtype_of_labels);
    give(&plan, FSM_WEIGHT, sample_weight, FSM_F64);
    give(&plan, FSM_OUT, loss, dtype);
    give(&plan, FSM_GRAD, grad, dtype);
    return run_laid_out(&plan, rows, n);
}

static int run_segments(enum fsm_function function, enum fsm_dtype dtype, const void *data,
                        const int64_t *indptr, void *out, size_t segments, size_t elements,
                        double temperature) {
    fsm_plan plan;
    if (!is_temperature(temperature)) {
        return FASTSOFTMAX_BAD_NUMBER;
    }
    if (!segments || !elements) {
        for (size_t s = 0; s <= segments; s++) {
            if (indptr[s] != 0) {
                return FASTSOFTMAX_BAD_INDEX;
            }
        }
        return elements ? FASTSOFTMAX_BAD_INDEX : FASTSOFTMAX_OK;
    }
    begin(&plan, function, dtype, temperature);
    give(&plan, FSM_X, data, dtype);
    give(&plan, FSM_Y, indptr, FSM_I64);
    give(&plan, FSM_OUT, out, dtype);
    const int single = function == FSM_SEGMENT_LOGSUMEXP;
    const ptrdiff_t size = size_of(&plan, FSM_X);
    plan.outer = 0;
    plan.inner = 1;
    plan.dimension[0] = (fsm_dimension){elements, {[FSM_X] = size, [FSM_OUT] = single ? 0 : size}};
    plan.segments =
        (fsm_dimension){segments, {[FSM_Y] = sizeof(int64_t), [FSM_OUT] = single ? size : 0}};
    return run(&plan);
}

#define REAL float
#define DTYPE FSM_F32
#define F(name) name##_f32
#include "_interface_of.h"
#undef REAL
#undef DTYPE
#undef F

#define REAL double
#define DTYPE FSM_F64
#define F(name) name##_f64
#include "_interface_of.h"
#undef REAL
#undef DTYPE
#undef F

#define MEMBERS(suffix)                                                                            \
    .softmax_##suffix = softmax_##suffix, .log_softmax_##suffix = log_softmax_##suffix,            \
    .logsumexp_##suffix = logsumexp_##suffix,                                                      \
    .softmax_backward_##suffix = softmax_backward_##suffix,                                        \
    .log_softmax_backward_##suffix = log_softmax_backward_##suffix,                                \
    .softmax_cross_entropy_##suffix = softmax_cross_entropy_##suffix,                              \
    .softmax_cross_entropy_targets_##suffix = softmax_cross_entropy_targets_##suffix,              \
    .segment_softmax_##suffix = segment_softmax_##suffix,                                          \
    .segment_log_softmax_##suffix = segment_log_softmax_##suffix,                                  \
    .segment_logsumexp_##suffix = segment_logsumexp_##suffix

static const fastsoftmax_functions functions = {
    .abi = FASTSOFTMAX_ABI,
    .size = sizeof(fastsoftmax_functions),
    MEMBERS(f32),
    MEMBERS(f64),
};

const void *fsm_interface(const fsm_kernels *chosen) {
    kernels = chosen;
    return &functions;
}
