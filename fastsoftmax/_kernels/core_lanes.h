/* core_scalar.h and the last steps of core_f32.h and core_f64.h, lane by lane, for columns.h and
 * folded rows. Each lane performs the operations of the scalar function named above a function, in
 * the same order, so that both give the same bits. */
#ifndef FSM_CORE_LANES_H
#define FSM_CORE_LANES_H

#include "core_f32.h"
#include "core_f64.h"
#include "core_scalar.h"

/* The number hi + lo in every lane. */
typedef struct {
    f64x8 hi, lo;
} pairs;

FSM_INLINE f64x8 lanes_negated(f64x8 a) {
    return f64x8_sub(f64x8_set1(-0.0), a);
}

/* precise_weight */
FSM_CORE pairs lanes_precise_weight(f64x8 hi, f64x8 lo, f64x8 magic) {
    const f64x8 steps = f64x8_fma(hi, f64x8_set1(F64_STEPS_PER_UNIT), magic);
    const f64x8 k = f64x8_sub(steps, magic);
    f64x8 r = f64x8_fma(k, f64x8_set1(-F64_STEP_HI), hi);
    r = f64x8_add(f64x8_fma(k, f64x8_set1(-F64_STEP_LO), r), lo);
    f64x8 q = f64x8_fma(f64x8_set1(F64_C7), r, f64x8_set1(F64_C6));
    q = f64x8_fma(q, r, f64x8_set1(F64_C5));
    q = f64x8_fma(q, r, f64x8_set1(F64_C4));
    q = f64x8_fma(q, r, f64x8_set1(F64_C3));
    q = f64x8_fma(q, r, f64x8_set1(F64_C2));
    q = f64x8_mul(f64x8_fma(q, r, f64x8_set1(1.0)), r);
    const f64x8 power = f64x8_power(steps);
    const f64x8 weight = f64x8_fma(power, q, power);
    return (pairs){weight, f64x8_fma(power, q, f64x8_sub(power, weight))};
}

/* fast_two_sum, two_sum */
FSM_INLINE pairs lanes_fast_two_sum(f64x8 a, f64x8 b) {
    const f64x8 sum = f64x8_add(a, b);
    return (pairs){sum, f64x8_sub(b, f64x8_sub(sum, a))};
}
FSM_INLINE pairs lanes_two_sum(f64x8 a, f64x8 b) {
    const f64x8 sum = f64x8_add(a, b);
    const f64x8 of_b = f64x8_sub(sum, a);
    return (pairs){sum, f64x8_add(f64x8_sub(a, f64x8_sub(sum, of_b)), f64x8_sub(b, of_b))};
}

/* log_one_plus */
FSM_CORE pairs lanes_log_one_plus(pairs a, const int in_two) {
    static const double odd[] = {2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13,
                                 2.0 / 11, 2.0 / 9,  2.0 / 7,  2.0 / 5,  2.0 / 3};
    const f64x8 one = f64x8_set1(1.0), zero = f64x8_set1(0.0);
    const pairs s = lanes_two_sum(one, a.hi);
    const f64x8 k = f64x8_binade(s.hi, SQRT_HALF_BITS);
    const f64x8 unscale = f64x8_power_of_two(f64x8_sub(zero, k));
    f64x8 u = f64x8_sub(f64x8_mul(s.hi, unscale), one);
    const f64x8 rest = f64x8_mul(in_two ? f64x8_add(s.lo, a.lo) : s.lo, unscale);
    if (!in_two) {
        u = f64x8_add(u, rest);
    }
    const f64x8 t = f64x8_div(u, f64x8_add(f64x8_set1(2.0), u));
    const f64x8 z = f64x8_mul(t, t);
    f64x8 series = f64x8_set1(2.0 / 23);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        series = f64x8_fma(z, series, f64x8_set1(odd[i]));
    }
    const f64x8 half = f64x8_mul(f64x8_set1(0.5), u);
    const f64x8 square = f64x8_mul(half, u);
    const f64x8 last = f64x8_mul(t, f64x8_fma(z, series, square));
    if (!in_two) {
        const f64x8 less = f64x8_sub(f64x8_sub(square, last), f64x8_mul(k, f64x8_set1(LN2_LO)));
        return (pairs){f64x8_fma(k, f64x8_set1(LN2_HI), f64x8_sub(u, less)), zero};
    }
    const f64x8 minus_u = lanes_negated(u);
    const f64x8 square_low = f64x8_fma(half, u, lanes_negated(square));
    const f64x8 slope = f64x8_fma(minus_u, f64x8_fma(minus_u, f64x8_sub(one, u), one), one);
    const f64x8 small = f64x8_fma(rest, slope, f64x8_sub(last, square_low));
    const pairs below = lanes_fast_two_sum(u, lanes_negated(square));
    const pairs sum = lanes_fast_two_sum(f64x8_mul(k, f64x8_set1(LN2_HI)), below.hi);
    const f64x8 low = f64x8_add(below.lo, f64x8_fma(k, f64x8_set1(LN2_LO), small));
    const f64x8 minus_half = f64x8_mul(f64x8_set1(-0.5), a.hi);
    return lanes_fast_two_sum(
        f64x8_where_equal(sum.hi, zero, a.hi, sum.hi),
        f64x8_where_equal(sum.hi, zero, f64x8_fma(minus_half, a.hi, a.lo), f64x8_add(sum.lo, low)));
}

/* ---- float32: f32_sum holds the totals of lanes 0 to 7 in `low`, 8 to 15 in `high` ---- */

/* f32_quotient */
FSM_CORE void f32_lanes_quotient(const f32_sum *numerator, const f32_sum *total, f32x16 *hi,
                                 f32x16 *lo) {
    const f64x8 low = f64x8_div(numerator->low, total->low);
    const f64x8 high = f64x8_div(numerator->high, total->high);
    *hi = f32x16_narrow(low, high);
    *lo =
        f32x16_narrow(f64x8_sub(low, f64x8_widen_low(*hi)), f64x8_sub(high, f64x8_widen_high(*hi)));
}
/* f32_mass_total: `units` and `low` are the counts and remainders of `lanes` lanes, added. */
typedef struct {
    f32x16 hi, lo;
} f32_totals;

FSM_INLINE f32x16 f32_lanes_units(f32x16 sum, const f32_mass *mass) {
    return f32x16_add_bits(sum, mass->hi);
}
FSM_INLINE f32_totals f32_lanes_total(f32x16 units, f32x16 low, uint32_t lanes) {
    const f32x16 unit = f32x16_set1(F32_MASS_UNIT);
    f32x16 rounded, left;
    f32x16_split_bits(units, lanes * F32_MASS_START_BITS, &rounded, &left);
    const f32x16 high = f32x16_mul(rounded, unit);
    const f32x16 rest = f32x16_add(f32x16_mul(left, unit), low);
    const f32x16 hi = f32x16_add(high, rest);
    return (f32_totals){hi, f32x16_sub(rest, f32x16_sub(hi, high))};
}
/* f32_running_add to 0, then f32_running_less */
FSM_INLINE f32_sum f32_lanes_others(f32x16 units, f32x16 low, uint32_t lanes, f32x16 own,
                                    f32x16 own_low) {
    const f32x16 unit = f32x16_set1(F32_MASS_UNIT);
    f32x16 rounded, left;
    f32x16_split_bits(units, lanes * F32_MASS_START_BITS, &rounded, &left);
    const f32x16 high = f32x16_mul(rounded, unit), rest = f32x16_mul(left, unit);
    const f64x8 high_a = f64x8_add(f64x8_widen_low(high), f64x8_widen_low(rest));
    const f64x8 high_b = f64x8_add(f64x8_widen_high(high), f64x8_widen_high(rest));
    const f64x8 all_a = f64x8_add(high_a, f64x8_widen_low(low));
    const f64x8 all_b = f64x8_add(high_b, f64x8_widen_high(low));
    const f64x8 a = f64x8_sub(all_a, f64x8_widen_low(own));
    const f64x8 b = f64x8_sub(all_b, f64x8_widen_high(own));
    return (f32_sum){f64x8_sub(a, f64x8_widen_low(own_low)),
                     f64x8_sub(b, f64x8_widen_high(own_low))};
}
/* Whether a sum is at least `least`: one bit a lane, as f32x16_equal. */
FSM_INLINE unsigned f32_lanes_at_least(const f32_sum *a, double least) {
    const f64x8 l = f64x8_set1(least);
    return f64x8_equal(f64x8_max(l, a->low), a->low) | f64x8_equal(f64x8_max(l, a->high), a->high)
                                                           << 8;
}
FSM_INLINE f32_sum f32_folded_others(const f32x16 *hi, const f32x16 *lo, f32x16 own,
                                     f32x16 own_low) {
    return f32_lanes_others(f32x16_fold_bits(hi), f32x16_fold_add(lo), 16, own, own_low);
}
FSM_INLINE f32_totals f32_folded_total(const f32x16 *hi, const f32x16 *lo) {
    return f32_lanes_total(f32x16_fold_bits(hi), f32x16_fold_add(lo), 16);
}
/* f32_inverse */
FSM_INLINE void f32_lanes_inverse(const f32_totals *total, f32x16 *hi, f32x16 *lo) {
    const f32x16 one = f32x16_set1(1.0f), inverse = f32x16_div(one, total->hi);
    const f32x16 minus = f32x16_sub(f32x16_set1(-0.0f), inverse);
    *hi = inverse;
    *lo = f32x16_mul(f32x16_fma(minus, total->lo, f32x16_fma(minus, total->hi, one)), inverse);
}
/* f32_top_weight */
FSM_INLINE f32_sum f32_lanes_top_weight(f32x16 hi, f32x16 lo, f32x16 steps) {
    const f64x8 to_f32 = f64x8_set1(0x1p-64 * F32_SCALE * F64_SCALE_INVERSE);
    const f64x8 magic = f64x8_set1(F64_MAGIC), bias = f64x8_set1(F64_BIAS);
    const f64x8 fraction = f64x8_set1(F64_STEPS);
    const f64x8 magic_low =
        f64x8_add(magic, f64x8_mul(fraction, f64x8_sub(bias, f64x8_widen_low(steps))));
    const f64x8 magic_high =
        f64x8_add(magic, f64x8_mul(fraction, f64x8_sub(bias, f64x8_widen_high(steps))));
    const pairs low = lanes_precise_weight(f64x8_widen_low(hi), f64x8_widen_low(lo), magic_low);
    const pairs high = lanes_precise_weight(f64x8_widen_high(hi), f64x8_widen_high(lo), magic_high);
    return (f32_sum){f64x8_mul(low.hi, to_f32), f64x8_mul(high.hi, to_f32)};
}
/* A float64 for every lane. */
typedef struct {
    f64x8 low, high;
} f32_wide;

FSM_INLINE f32_wide f32_lanes_ratio(const f32_sum *others, const f32_sum *top) {
    return (f32_wide){f64x8_div(others->low, top->low), f64x8_div(others->high, top->high)};
}
FSM_INLINE f32_wide f32_lanes_log_one_plus(f32_wide a) {
    const f64x8 zero = f64x8_set1(0.0);
    return (f32_wide){lanes_log_one_plus((pairs){a.low, zero}, 0).hi,
                      lanes_log_one_plus((pairs){a.high, zero}, 0).hi};
}
/* f32_split_log */
FSM_CORE void f32_lanes_split_log(f32x16 maximum, f32_wide logarithm, f32x16 *hi, f32x16 *lo) {
    const f64x8 low = f64x8_widen_low(maximum), high = f64x8_widen_high(maximum);
    *hi = f32x16_narrow(f64x8_add(low, logarithm.low), f64x8_add(high, logarithm.high));
    *lo = f32x16_narrow(f64x8_add(f64x8_sub(low, f64x8_widen_low(*hi)), logarithm.low),
                        f64x8_add(f64x8_sub(high, f64x8_widen_high(*hi)), logarithm.high));
}

/* Parts of the cross-entropy: others + top; 1; a number a row; the loss at a label without
 * smoothing (entropy_loss); the top weight in float32; the gradient at a label (entropy_at_label).
 */
FSM_INLINE f32_sum f32_lanes_with_top(const f32_sum *others, const f32_sum *top) {
    return (f32_sum){f64x8_add(others->low, top->low), f64x8_add(others->high, top->high)};
}
FSM_INLINE f32_sum f32_lanes_one(void) {
    return (f32_sum){f64x8_set1(1.0), f64x8_set1(1.0)};
}
FSM_INLINE f32_sum f32_lanes_numbers(const double *a) {
    return (f32_sum){f64x8_load(a), f64x8_load(a + 8)};
}
/* entropy_loss for class indices without smoothing or temperature, times a weight. */
FSM_INLINE f64x8 lanes_weighted_loss(f64x8 maximum, f64x8 x, pairs log, f64x8 weight) {
    const pairs given = lanes_two_sum(maximum, lanes_negated(x));
    const pairs sum = lanes_two_sum(given.hi, log.hi);
    const pairs loss = lanes_fast_two_sum(sum.hi, f64x8_add(sum.lo, f64x8_add(given.lo, log.lo)));
    const f64x8 product = f64x8_mul(loss.hi, weight);
    const f64x8 rounding = f64x8_fma(loss.hi, weight, lanes_negated(product));
    return f64x8_add(product, f64x8_add(rounding, f64x8_mul(loss.lo, weight)));
}
FSM_INLINE f32x16 f32_lanes_weighted_loss(f32x16 maximum, f32x16 x, f32_wide log,
                                          const f32_sum *weight) {
    const f64x8 zero = f64x8_set1(0.0);
    return f32x16_narrow(lanes_weighted_loss(f64x8_widen_low(maximum), f64x8_widen_low(x),
                                             (pairs){log.low, zero}, weight->low),
                         lanes_weighted_loss(f64x8_widen_high(maximum), f64x8_widen_high(x),
                                             (pairs){log.high, zero}, weight->high));
}
FSM_INLINE f32x16 f32_lanes_high(const f32_sum *a) {
    return f32x16_narrow(a->low, a->high);
}
/* softmax - 1 = -(others / (top + others)) of a maximal element, -(1 - w / total) else. */
FSM_INLINE f64x8 lanes_minus_missing(f64x8 x, f64x8 maximum, f64x8 w, f64x8 total, f64x8 ratio) {
    const f64x8 one = f64x8_set1(1.0);
    const f64x8 of_top = f64x8_div(ratio, f64x8_add(one, ratio));
    const f64x8 of_other = f64x8_sub(one, f64x8_div(w, total));
    return f64x8_sub(f64x8_set1(0.0), f64x8_where_equal(x, maximum, of_top, of_other));
}
FSM_INLINE f32x16 f32_lanes_at_label(f32x16 x, f32x16 maximum, f32x16 w, const f32_sum *total,
                                     f32_wide ratio, const f32_sum *weight) {
    const f64x8 low = lanes_minus_missing(f64x8_widen_low(x), f64x8_widen_low(maximum),
                                          f64x8_widen_low(w), total->low, ratio.low);
    const f64x8 high = lanes_minus_missing(f64x8_widen_high(x), f64x8_widen_high(maximum),
                                           f64x8_widen_high(w), total->high, ratio.high);
    const f32x16 minus_missing =
        f32x16_narrow(f64x8_mul(low, weight->low), f64x8_mul(high, weight->high));
    return f32x16_add(minus_missing, f32x16_set1(0.0f));
}

/* f32_split of finite totals */
FSM_INLINE void f32_lanes_split(const f32_sum *a, f32x16 *hi, f32x16 *lo) {
    *hi = f32x16_narrow(a->low, a->high);
    *lo = f32x16_narrow(f64x8_sub(a->low, f64x8_widen_low(*hi)),
                        f64x8_sub(a->high, f64x8_widen_high(*hi)));
}
/* total / C and 2^(N - bias), for the gradient of log_softmax (backward.h, expected_of) */
FSM_INLINE f32_sum f32_lanes_unscaled(const f32_sum *total) {
    const f64x8 inverse = f64x8_set1(F32_SCALE_INVERSE);
    return (f32_sum){f64x8_mul(total->low, inverse), f64x8_mul(total->high, inverse)};
}
FSM_INLINE f32x16 f32_lanes_unbias(f32x16 steps) {
    const f64x8 bias = f64x8_set1(F32_BIAS);
    return f32x16_narrow(f64x8_power_of_two(f64x8_sub(f64x8_widen_low(steps), bias)),
                         f64x8_power_of_two(f64x8_sub(f64x8_widen_high(steps), bias)));
}

/* ---- float64: f64_sum holds the lanes' totals as hi + lo ---- */

FSM_CORE void f64_lanes_quotient(const f64_sum *numerator, const f64_sum *total, f64x8 *hi,
                                 f64x8 *lo) {
    const f64x8 quotient = f64x8_div(numerator->hi, total->hi);
    const f64x8 correction = f64x8_sub(numerator->lo, f64x8_mul(total->lo, quotient));
    const f64x8 remainder =
        f64x8_add(f64x8_fma(lanes_negated(total->hi), quotient, numerator->hi), correction);
    *hi = quotient;
    *lo = f64x8_div(remainder, total->hi);
}
/* f64_mass_total */
typedef struct {
    f64x8 hi, lo;
} f64_totals;

FSM_INLINE f64x8 f64_lanes_units(f64x8 sum, const f64_mass *mass) {
    return f64x8_add(sum, f64x8_sub(mass->hi, f64x8_set1(F64_MASS_START)));
}
FSM_INLINE f64_totals f64_lanes_total(f64x8 units, f64x8 low, uint32_t lanes) {
    (void)lanes;
    const f64x8 sum = f64x8_add(units, low);
    return (f64_totals){sum, f64x8_sub(low, f64x8_sub(sum, units))};
}
/* f64_running_add to 0, f64_running_less */
FSM_INLINE f64_sum f64_lanes_others(f64x8 units, f64x8 low, uint32_t lanes, f64x8 own,
                                    f64x8 own_low) {
    const f64_totals total = f64_lanes_total(units, low, lanes);
    f64_sum sum = {total.hi, f64x8_set1(0.0)};
    f64_sum_add2(&sum, lanes_negated(own), f64x8_sub(total.lo, own_low));
    return sum;
}
FSM_INLINE unsigned f64_lanes_at_least(const f64_sum *a, double least) {
    return f64x8_equal(f64x8_max(f64x8_set1(least), a->hi), a->hi);
}
FSM_INLINE f64_sum f64_folded_others(const f64x8 *hi, const f64x8 *lo, f64x8 own, f64x8 own_low) {
    f64x8 units[8];
    for (int i = 0; i < 8; i++) {
        units[i] = f64x8_sub(hi[i], f64x8_set1(F64_MASS_START));
    }
    return f64_lanes_others(f64x8_fold_add(units), f64x8_fold_add(lo), 8, own, own_low);
}
FSM_INLINE f64_totals f64_folded_total(const f64x8 *hi, const f64x8 *lo) {
    f64x8 units[8];
    for (int i = 0; i < 8; i++) {
        units[i] = f64x8_sub(hi[i], f64x8_set1(F64_MASS_START));
    }
    return f64_lanes_total(f64x8_fold_add(units), f64x8_fold_add(lo), 8);
}
/* f64_inverse */
FSM_INLINE void f64_lanes_inverse(const f64_totals *total, f64x8 *hi, f64x8 *lo) {
    const f64x8 one = f64x8_set1(1.0), inverse = f64x8_div(one, total->hi);
    const f64x8 minus = lanes_negated(inverse);
    *hi = inverse;
    *lo = f64x8_mul(f64x8_fma(minus, total->lo, f64x8_fma(minus, total->hi, one)), inverse);
}
FSM_INLINE f64_sum f64_lanes_top_weight(f64x8 hi, f64x8 lo, f64x8 steps) {
    const f64x8 bias = f64x8_sub(f64x8_set1(F64_BIAS), steps);
    const f64x8 magic = f64x8_add(f64x8_set1(F64_MAGIC), f64x8_mul(f64x8_set1(F64_STEPS), bias));
    const pairs top = lanes_precise_weight(hi, lo, magic);
    return (f64_sum){top.hi, top.lo};
}
typedef pairs f64_wide;

FSM_INLINE f64_wide f64_lanes_ratio(const f64_sum *others, const f64_sum *top) {
    const f64x8 ratio = f64x8_div(others->hi, top->hi);
    const f64x8 correction = f64x8_sub(others->lo, f64x8_mul(ratio, top->lo));
    const f64x8 residual =
        f64x8_add(f64x8_fma(lanes_negated(ratio), top->hi, others->hi), correction);
    return lanes_fast_two_sum(ratio, f64x8_div(residual, top->hi));
}
FSM_INLINE f64_wide f64_lanes_log_one_plus(f64_wide a) {
    return lanes_log_one_plus(a, 1);
}
FSM_INLINE void f64_lanes_split_log(f64x8 maximum, f64_wide logarithm, f64x8 *hi, f64x8 *lo) {
    const pairs sum = lanes_two_sum(maximum, logarithm.hi);
    const pairs both = lanes_fast_two_sum(sum.hi, f64x8_add(sum.lo, logarithm.lo));
    *hi = both.hi;
    *lo = both.lo;
}
FSM_INLINE f64_sum f64_lanes_with_top(const f64_sum *others, const f64_sum *top) {
    f64_sum sum = *others;
    f64_sum_add2(&sum, top->hi, top->lo);
    return sum;
}
FSM_INLINE f64_sum f64_lanes_one(void) {
    return (f64_sum){f64x8_set1(1.0), f64x8_set1(0.0)};
}
FSM_INLINE f64_sum f64_lanes_numbers(const double *a) {
    return (f64_sum){f64x8_load(a), f64x8_set1(0.0)};
}
FSM_INLINE f64x8 f64_lanes_weighted_loss(f64x8 maximum, f64x8 x, f64_wide log,
                                         const f64_sum *weight) {
    return lanes_weighted_loss(maximum, x, log, weight->hi);
}
FSM_INLINE f64x8 f64_lanes_high(const f64_sum *a) {
    return a->hi;
}
FSM_INLINE f64x8 f64_lanes_at_label(f64x8 x, f64x8 maximum, f64x8 w, const f64_sum *total,
                                    f64_wide ratio, const f64_sum *weight) {
    const f64x8 minus_missing = lanes_minus_missing(x, maximum, w, total->hi, ratio.hi);
    return f64x8_add(f64x8_mul(minus_missing, weight->hi), f64x8_set1(0.0));
}
FSM_INLINE void f64_lanes_split(const f64_sum *a, f64x8 *hi, f64x8 *lo) {
    *hi = a->hi;
    *lo = a->lo;
}
FSM_INLINE f64_sum f64_lanes_unscaled(const f64_sum *total) {
    const f64x8 inverse = f64x8_set1(F64_SCALE_INVERSE);
    const f64x8 inverse_lo = f64x8_set1(F64_SCALE_INVERSE_LO);
    const f64x8 hi = f64x8_mul(total->hi, inverse);
    const f64x8 residual = f64x8_fma(total->hi, inverse, lanes_negated(hi));
    const f64x8 lo = f64x8_add(residual, f64x8_mul(total->hi, inverse_lo));
    return (f64_sum){hi, f64x8_add(lo, f64x8_mul(total->lo, inverse))};
}
FSM_INLINE f64x8 f64_lanes_unbias(f64x8 steps) {
    return f64x8_power_of_two(f64x8_sub(steps, f64x8_set1(F64_BIAS)));
}

#endif
