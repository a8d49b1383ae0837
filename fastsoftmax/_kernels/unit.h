/* The kernels of one instruction set: included by softmax_*.c after the vector operations, with
 * FSM_UNIT as its name. Compiles the algorithms for both formats and collects them in the table
 * fsm_<name>. */

#include <float.h>
#include <math.h>
#include <string.h>

#include "core_f32.h"
#include "core_f64.h"
#include "core_lanes.h"
#include "kernels.h"
#include "portable.h"

#define FSM_PASTE_(a, b) a##b
#define FSM_PASTE(a, b) FSM_PASTE_(a, b)
#define FSM_STRING_(a) #a
#define FSM_STRING(a) FSM_STRING_(a)

#define F32_NAN f32_nan()
#define F32_MINUS_ZERO -0.0f
#define F32_MAX FLT_MAX
#define F32_NARROW 3
#define F32_HARMLESS_LOG 40.0f /* e^40, and its product with a harmless number, do not overflow */
#define F64_NAN f64_nan()
#define F64_MINUS_ZERO -0.0
#define F64_MAX DBL_MAX
#define F64_HARMLESS_LOG 40.0

/* The canonical quiet NaN: positive, empty payload, whatever the compiler's NAN is. */
FSM_INLINE float f32_nan(void) {
    const uint32_t bits = 0x7fc00000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
FSM_INLINE double f64_nan(void) {
    return f64_from_bits(0x7ff8000000000000u);
}

/* Whether fma() rounds once. Tries a, b, c and the right a * b + c that a wrong fma misses: one in
 * a wider format, one that adds a rounded product, scales subnormal results, or overflows or
 * underflows in between, as some C libraries have. `volatile`, so that the compiler does not
 * compute the answer. */
FSM_SMALL int rounds_once(void) {
    static const float narrow[][4] = {
        {0x1.001p0f, 0x1.001p0f, 0x1p-120f, 0x1.002002p0f},
        {0x1.003p0f, 0x1.001p0f, -0x1p-120f, 0x1.004002p0f},
        {0x1.001p0f, 0x1.001p0f, -0x1.002p0f, 0x1p-24f},
        {0x1.803p-75f, 0x1.ffcp-75f, 0x1p-147f, 0x1.4p-147f},
        {-0x1p-80f, 0x1p-80f, 0.0f, -0.0f},
    };
    static const double wide[][4] = {
        {0x1.0000004p0, 0x1.0000002p0, 0x1p-120, 0x1.0000006000001p0},
        {0x1.000000cp0, 0x1.0000002p0, -0x1p-120, 0x1.000000e000001p0},
        {0x1.0000000000001p0, 0x1.0000000000001p0, -0x1.0000000000002p0, 0x1p-104},
        {0x1.80000006p-537, 0x1.fffffff8p-538, 0x1p-1072, 0x1.4p-1072},
        {-0x1p-600, 0x1p-600, 0.0, -0.0}, /* wrong in musl 1.2.3 */
        {DBL_MAX, 2.0, -DBL_MAX, DBL_MAX},
    };
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        const volatile float a = narrow[i][0], b = narrow[i][1], c = narrow[i][2];
        const float result = fmaf(a, b, c);
        if (memcmp(&result, &narrow[i][3], sizeof result)) {
            return 0;
        }
    }
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        const volatile double a = wide[i][0], b = wide[i][1], c = wide[i][2];
        const double result = fma(a, b, c);
        if (memcmp(&result, &wide[i][3], sizeof result)) {
            return 0;
        }
    }
    return 1;
}

static const fsm_temperature untempered = {0, 1.0, 1.0, 0.0};

#include "format_f32.h"
#include "rows.h"
#include "backward.h"
#include "long_rows.h"
#include "columns.h"
#include "undefine.h"

#include "format_f64.h"
#include "rows.h"
#include "backward.h"
#include "long_rows.h"
#include "columns.h"
#include "weighted.h"
#include "undefine.h"

#include "elements.h"

const fsm_kernels FSM_PASTE(fsm_, FSM_UNIT) = {
    .name = FSM_STRING(FSM_UNIT),
    .rounds_once = rounds_once,
    .rows =
        {
            [FSM_SOFTMAX] = {f32_softmax_rows, f64_softmax_rows},
            [FSM_LOG_SOFTMAX] = {f32_log_softmax_rows, f64_log_softmax_rows},
            [FSM_LOGSUMEXP] = {f32_logsumexp_rows, f64_logsumexp_rows},
            [FSM_SOFTMAX_BACKWARD] = {f32_softmax_backward_rows, f64_softmax_backward_rows},
            [FSM_LOG_SOFTMAX_BACKWARD] = {f32_log_softmax_backward_rows,
                                          f64_log_softmax_backward_rows},
        },
    .long_rows =
        {
            {f32_long_sum, f32_long_add, f32_long_total, f32_long_finish, f32_long_write},
            {f64_long_sum, f64_long_add, f64_long_total, f64_long_finish, f64_long_write},
        },
#ifndef FSM_CORE_CALLED
    .beside =
        {
            [FSM_SOFTMAX] = {f32_softmax_beside, f64_softmax_beside},
            [FSM_LOG_SOFTMAX] = {f32_log_softmax_beside, f64_log_softmax_beside},
            [FSM_LOGSUMEXP] = {f32_logsumexp_beside, f64_logsumexp_beside},
        },
    .tall = {f32_softmax_tall, f64_softmax_tall},
#endif
    .cross_entropy = {f32_cross_entropy_rows, f64_cross_entropy_rows},
    .logsumexp_weighted = logsumexp_weighted,
    .widen = {widen_f32, widen_f64},
    .to_f16 = to_f16,
    .to_bf16 = to_bf16,
    .reverse = {reverse_f32, reverse_f64},
    .every_second = {every_second_f32, every_second_f64},
    .swap_bytes = swap_bytes,
    .select = {select_f32, select_f64},
    .gather = {f32_gather, f64_gather},
    .scatter = {f32_scatter, f64_scatter},
};
