/* float64: as core_f32.h, with a polynomial of degree 7 and a compensated sum.
 *
 * Design (where it differs)
 * C. Bias 128: the smallest softmax weight kept, e^-745.5 of the largest, is 2^-948.
 * E. The mass: as in float32, over 8 lanes that start at 2^137. A chunk's sums have so few bits
 *    above the unit of that binade that the lanes are added exactly as they are. Remainders need no
 *    settling: they lose at most 2^44.5 in a chunk, beside a largest weight of 2^127.5.
 * F. Error of a weight, relative, with u = 2^-53: table 0.036 u, polynomial 0.024 u, r and q half a
 *    unit of theirs, u/32 each, the terms of q from r^2 on 0.004 u, and the last rounding u: 1.126
 *    u. In parts (G), without the last rounding, 0.126 u.
 * G. Rows of up to 64 elements add powers by two-sums, whose errors join the low part with power *
 *    q, at most 0.045 of a weight.
 * H. Bounds.
 *    - softmax: 2 * 1.126 u (0.06 u more with a temperature) and 0.5 ulp: 2.8, promised 3; nearly
 *      subnormal 3.3 (promised 3.55); subnormal 1.13 + 1 (promised 2.3).
 *    - log_softmax, logsumexp: the others in parts 0.126 u, the rounding of the low parts 0.18 u in
 *      lanes of 8 and 0.14 u in their fold, the largest weight 0.126 u: 0.57 u of the quotient.
 *      log1p turns that into 0.57 * c u, c = R / (1 + R) / log1p(R), and adds 0.36 u at most, where
 *      R is about 0.41 and c 0.85 (core_scalar.h). So log_softmax, which two subtractions round,
 *      errs by 1.9 ulp at most; logsumexp, where log1p may be twice the result, by 1.9 where the
 *      result is just below 1/8 (promised 2 each). The quotient's low part is itself subnormal
 *      where the result is nearly so: 0.5 ulp more in the lowest binade (promised 2.25). */
#ifndef FSM_CORE_F64_H
#define FSM_CORE_F64_H

#include "core_scalar.h"

#define F64_BIAS 128
#define F64_MAGIC 0x1.8p52
#define F64_CUT 745.5
#define F64_LIFT 0x1p128
#define F64_LIFTED_NORMAL 0x1p-894
#define F64_LIFTED_MAGIC 0x1p-893
#define F64_LIFT_BITS 0x1p-895
#define F64_LOG_CUT 767.0
/* As in float32; in float64 a mass loses far less than this allows for. */
#define F64_OTHERS_FROM 0x1p116
#define F64_LOG_IN_TWO 1
#define F64_PARTS_AT_ONCE 2
#define F64_SHIFT_ABOVE 4096.0

/* Where the lanes of a mass start: a chunk's sum of all lanes, at most CHUNK * C * 2^(128.5) <
 * 2^138, fits 53 bits above their unit, 2^85. */
#define F64_MASS_START 0x1p137
/* No settling; chunks start alike but in very long rows (long_rows.h, starts_apart). */
#define F64_SETTLED FSM_CHUNK_VECTORS
#define F64_OWN_STARTS 0
#if defined(FSM_ONE_REGISTER)
#define F64_WEIGHS_AGAIN 1
#else
#define F64_WEIGHS_AGAIN 0
#endif

typedef struct {
    f64x8 z, q;
} f64_reduced;

/* z, k and r as in float32; q = r + c2 r^2 + ... + c7 r^7, by powers of r^2. */
FSM_INLINE f64_reduced f64_reduce(f64x8 x, f64x8 magic, f64x8 residual, int rare) {
    const f64x8 z = f64x8_fma(x, f64x8_set1(F64_STEPS_PER_UNIT), magic);
    const f64x8 k = f64x8_sub(z, magic);
    f64x8 r = f64x8_fma(k, f64x8_set1(-F64_STEP_HI), x);
    r = f64x8_fma(k, f64x8_set1(-F64_STEP_LO), r);
    if (rare) {
        r = f64x8_add(r, residual);
    }
    const f64x8 square = f64x8_mul(r, r);
    const f64x8 q23 = f64x8_fma(f64x8_set1(F64_C3), r, f64x8_set1(F64_C2));
    const f64x8 q45 = f64x8_fma(f64x8_set1(F64_C5), r, f64x8_set1(F64_C4));
    f64x8 q = f64x8_fma(f64x8_set1(F64_C7), r, f64x8_set1(F64_C6));
    q = f64x8_fma(q, square, q45);
    q = f64x8_fma(q, square, q23);
    return (f64_reduced){z, f64x8_fma(q, square, r)};
}
/* w = p + p q with p = C * 2^(k/8 + bias - N); 0 where x is below the limit. */
FSM_INLINE f64x8 f64_weight_of(f64_reduced a, f64x8 x, f64x8 limit) {
    const f64x8 power = f64x8_power(a.z);
    return f64x8_zero_below(f64x8_fma(power, a.q, power), x, limit);
}

/* power + power * q */
typedef struct {
    f64x8 power, q, x;
} f64_parts;
#define F64_FACTOR power

FSM_INLINE f64_parts f64_first_parts(f64_parts a, size_t count) {
    a.power = f64x8_first(a.power, count);
    return a;
}

typedef struct {
    f64x8 hi, lo;
} f64_sum;

typedef pair f64_total;

#include "format_f64.h"
#include "core_both.h"
#include "undefine.h"

FSM_CORE f64_parts f64_weight_parts(f64x8 x, const f64_row *row, int rare) {
    f64x8 residual = x;
    if (rare) {
        x = f64_scaled(x, row, &residual);
        residual = f64x8_zero_below(residual, x, row->limit);
    }
    const f64_reduced a = f64_reduce(f64x8_max(row->limit, x), row->magic, residual, rare);
    return (f64_parts){f64x8_power(a.z), a.q, x};
}

/* Adds a to *sum and returns the rounding error (two-sum). */
FSM_CORE f64x8 f64_add_to(f64x8 *sum, f64x8 a) {
    const f64x8 before = *sum, after = f64x8_add(before, a);
    const f64x8 of_a = f64x8_sub(after, before);
    *sum = after;
    return f64x8_add(f64x8_sub(before, f64x8_sub(after, of_a)), f64x8_sub(a, of_a));
}
/* hi + lo += a + low; lo takes the rounding error of hi. */
FSM_CORE void f64_sum_add2(f64_sum *sum, f64x8 a, f64x8 low) {
    const f64x8 error = f64_add_to(&sum->hi, a);
    sum->lo = f64x8_add(f64x8_add(sum->lo, low), error);
}
FSM_INLINE void f64_sum_add(f64_sum *sum, f64x8 a) {
    f64_sum_add2(sum, a, f64x8_set1(0.0));
}
FSM_CORE void f64_sum_add_product(f64_sum *sum, f64x8 a, f64x8 b) {
    const f64x8 product = f64x8_mul(a, b);
    f64_sum_add2(sum, product, f64x8_fma(a, b, f64x8_sub(f64x8_set1(-0.0), product)));
}

/* hi: the sum of the powers; lo: the errors of its two-sums, and power * q. */
typedef f64_sum f64_part_sum;

FSM_CORE f64_part_sum f64_part_sum_first(f64_parts a) {
    return (f64_part_sum){a.power, f64x8_mul(a.power, a.q)};
}
FSM_CORE void f64_part_sum_add(f64_part_sum *sum, f64_parts a) {
    const f64x8 error = f64_add_to(&sum->hi, a.power);
    sum->lo = f64x8_add(sum->lo, f64x8_fma(a.power, a.q, error));
}
FSM_INLINE void f64_sum_join(f64_sum *sum, const f64_sum *more) {
    f64_sum_add2(sum, more->hi, more->lo);
}
FSM_CORE void f64_part_sum_join(f64_part_sum *sum, const f64_part_sum *more) {
    const f64x8 error = f64_add_to(&sum->hi, more->hi);
    sum->lo = f64x8_add(sum->lo, f64x8_add(more->lo, error));
}
FSM_CORE f64_sum f64_part_sum_whole(const f64_part_sum *sum) {
    const f64x8 hi = f64x8_add(sum->hi, sum->lo);
    return (f64_sum){hi, f64x8_sub(sum->lo, f64x8_sub(hi, sum->hi))};
}

FSM_INLINE void f64_mass_settle(f64_mass *mass) {
    (void)mass;
}

/* The total of a mass whose lanes started at `start`. */
FSM_CORE f64_total f64_mass_above(const f64_mass *mass, double start) {
    const f64x8 units = f64x8_sub(mass->hi, f64x8_set1(start));
    return fast_two_sum(f64x8_reduce_add(units), f64x8_reduce_add(mass->lo));
}
FSM_INLINE f64_total f64_mass_total(const f64_mass *mass) {
    return f64_mass_above(mass, F64_MASS_START);
}

FSM_INLINE void f64_running_join(pair *sum, pair more) {
    const pair both = two_sum(sum->hi, more.hi);
    sum->lo += both.lo + more.lo;
    sum->hi = both.hi;
}
FSM_INLINE void f64_running_add(pair *sum, const f64_mass *mass, double start) {
    f64_running_join(sum, f64_mass_above(mass, start));
}
FSM_INLINE double f64_start_below(double below) {
    return F64_MASS_START * power_of_two(below > -1074.0 ? (int)below : -1074);
}
FSM_INLINE pair f64_running_less(pair sum, double own, double own_low) {
    const pair less = two_sum(sum.hi, -own);
    return (pair){less.hi, less.lo + (sum.lo - own_low)};
}
FSM_INLINE f64_total f64_running_total(pair sum) {
    return fast_two_sum(sum.hi, sum.lo);
}
FSM_CORE pair f64_sum_total(const f64_sum *sum) {
    f64_sum a = *sum;
    f64_sum_add2(&a, f64x8_fold4(a.hi), f64x8_fold4(a.lo));
    f64_sum_add2(&a, f64x8_fold2(a.hi), f64x8_fold2(a.lo));
    f64_sum_add2(&a, f64x8_fold1(a.hi), f64x8_fold1(a.lo));
    return (pair){f64x8_lane0(a.hi), f64x8_lane0(a.lo)};
}

FSM_CORE pair f64_part_sum_total(const f64_part_sum *sum) {
    f64_part_sum a = *sum;
    f64_part_sum_join(&a, &(f64_part_sum){f64x8_fold4(a.hi), f64x8_fold4(a.lo)});
    f64_part_sum_join(&a, &(f64_part_sum){f64x8_fold2(a.hi), f64x8_fold2(a.lo)});
    f64_part_sum_join(&a, &(f64_part_sum){f64x8_fold1(a.hi), f64x8_fold1(a.lo)});
    return fast_two_sum(f64x8_lane0(a.hi), f64x8_lane0(a.lo));
}

FSM_INLINE void f64_split(pair a, double *hi, double *lo) {
    *hi = a.hi;
    *lo = a.hi - a.hi == 0.0 ? a.lo : 0.0;
}

/* numerator / total as hi + lo; lo from the remainder of hi. */
FSM_INLINE void f64_quotient(pair numerator, pair total, double *hi, double *lo) {
    const double quotient = numerator.hi / total.hi;
    const double remainder =
        fma(-total.hi, quotient, numerator.hi) + (numerator.lo - total.lo * quotient);
    *hi = quotient;
    *lo = remainder / total.hi;
}

FSM_INLINE pair f64_top_weight(double hi, double lo, double steps) {
    return precise_weight(hi, lo, F64_MAGIC + F64_STEPS * (F64_BIAS - steps));
}

/* others / top: the quotient of the high parts, and a first-order correction. */
FSM_INLINE pair f64_ratio(pair others, pair top) {
    const double ratio = others.hi / top.hi;
    const double residual = fma(-ratio, top.hi, others.hi) + (others.lo - ratio * top.lo);
    return fast_two_sum(ratio, residual / top.hi);
}

FSM_INLINE void f64_split_log(double maximum, pair logarithm, double *hi, double *lo) {
    const pair sum = two_sum(maximum, logarithm.hi);
    const pair both = fast_two_sum(sum.hi, sum.lo + logarithm.lo);
    *hi = both.hi;
    *lo = both.lo;
}

#endif
