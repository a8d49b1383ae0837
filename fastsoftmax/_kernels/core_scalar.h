/* float64 arithmetic needed once a row: sums in two numbers, log1p. Only fma() of libm. */
#ifndef FSM_CORE_SCALAR_H
#define FSM_CORE_SCALAR_H

#include <math.h>
#include <string.h>

#include "coefficients.h"
#include "portable.h"

/* The number hi + lo, unevaluated. */
typedef struct {
    double hi, lo;
} pair;

/* a + b exactly (Knuth). */
FSM_INLINE pair two_sum(double a, double b) {
    const double sum = a + b;
    const double of_b = sum - a;
    return (pair){sum, (a - (sum - of_b)) + (b - of_b)};
}

/* a + b exactly if |a| >= |b| or a is 0 (Dekker). */
FSM_INLINE pair fast_two_sum(double a, double b) {
    const double sum = a + b;
    return (pair){sum, b - (sum - a)};
}
FSM_INLINE pair pair_sum(pair a, pair b) {
    const pair sum = two_sum(a.hi, b.hi);
    return fast_two_sum(sum.hi, sum.lo + (a.lo + b.lo));
}
FSM_INLINE pair pair_product(pair a, pair b) {
    const double product = a.hi * b.hi;
    const double low = fma(a.hi, b.hi, -product) + (a.hi * b.lo + a.lo * b.hi);
    return fast_two_sum(product, low);
}

FSM_INLINE double f64_from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
FSM_INLINE uint64_t f64_to_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* 2^e: subnormal, 0 or infinite where e is out of range. */
FSM_INLINE double power_of_two(int e) {
    if (e > 1023) {
        return f64_from_bits(0x7ff0000000000000u);
    }
    if (e < -1022) {
        return e < -1074 ? 0.0 : f64_from_bits((uint64_t)1 << (e + 1074));
    }
    return f64_from_bits((uint64_t)(e + 1023) << 52);
}

/* The float64 weight of the argument hi + lo: the vector core on one element, in Horner's form and
 * with its last rounding kept in lo. Good to about 0.06 ulp, so that dividing by it adds nothing to
 * the error of the logarithmic functions. */
FSM_INLINE pair precise_weight(double hi, double lo, double magic) {
    static const uint64_t table[8] = F64_TABLE;
    const double steps = fma(hi, F64_STEPS_PER_UNIT, magic);
    const double k = steps - magic;
    const double r = fma(-k, F64_STEP_LO, fma(-k, F64_STEP_HI, hi)) + lo;
    double q = fma(F64_C7, r, F64_C6);
    q = fma(q, r, F64_C5);
    q = fma(q, r, F64_C4);
    q = fma(q, r, F64_C3);
    q = fma(q, r, F64_C2);
    q = fma(q, r, 1.0) * r;
    const uint64_t bits = f64_to_bits(steps);
    const double power = f64_from_bits(table[bits & 7] + (bits << 49));
    const double weight = fma(power, q, power);
    return (pair){weight, fma(power, q, power - weight)};
}

#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdu

/* log(1 + a) for a >= 0: within 2^-54 of itself as hi + lo if `in_two`, else (for float32) within
 * 2^-52 with lo = 0. Steps:
 * s = 1 + a = 2^k (1 + u) with -0.3 < u < 0.42; t = u / (2 + u);
 * log(1 + u) = 2 atanh(t) = u - u^2/2 + t (u^2/2 + t^2 P(t^2)), the arrangement of fdlibm's
 * e_log.c; P is the Taylor series of 2 atanh, 2/3 + 2/5 z + ..., cut where 0.0295^11 is below
 * 2^-55.
 * Of hi + lo, k ln 2, u and u^2/2 are exact, in two numbers each. The last term, below a 19th of
 * the result for every u, is rounded: by up to 5.3 * 2^-53 of itself, 0.28 * 2^-53 of the result.
 * `rest`, what u lacks, below 2^-53, is multiplied by 1 - u + u^2 - u^3 in place of 1 / (1 + u):
 * 0.08 * 2^-53. Where a is below 2^-53, so that u is 0, the result is a - a^2/2. */
FSM_INLINE pair log_one_plus(pair a, const int in_two) {
    const pair s = two_sum(1.0, a.hi);
    const int64_t k = (int64_t)(f64_to_bits(s.hi) - SQRT_HALF_BITS) >> 52;
    const double unscale = f64_from_bits((uint64_t)(1023 - k) << 52);
    const double count = (double)k;
    double u = s.hi * unscale - 1.0; /* exact */
    const double rest = (in_two ? s.lo + a.lo : s.lo) * unscale;
    if (!in_two) {
        u += rest;
    }
    const double t = u / (2.0 + u);
    const double z = t * t;
    double series = fma(z, 2.0 / 23, 2.0 / 21);
    series = fma(z, series, 2.0 / 19);
    series = fma(z, series, 2.0 / 17);
    series = fma(z, series, 2.0 / 15);
    series = fma(z, series, 2.0 / 13);
    series = fma(z, series, 2.0 / 11);
    series = fma(z, series, 2.0 / 9);
    series = fma(z, series, 2.0 / 7);
    series = fma(z, series, 2.0 / 5);
    series = fma(z, series, 2.0 / 3);
    const double half = 0.5 * u;
    const double square = half * u;
    const double last = t * fma(z, series, square);
    if (!in_two) {
        const double small = u - ((square - last) - count * LN2_LO);
        return (pair){fma(count, LN2_HI, small), 0.0};
    }
    const double square_low = fma(half, u, -square);
    const double slope = fma(-u, fma(-u, 1.0 - u, 1.0), 1.0);
    const double small = fma(rest, slope, last - square_low);
    const pair below = fast_two_sum(u, -square);
    const pair sum = fast_two_sum(count * LN2_HI, below.hi); /* the first is 0 or the larger one */
    if (sum.hi == 0) {
        return fast_two_sum(a.hi, fma(-0.5 * a.hi, a.hi, a.lo));
    }
    return fast_two_sum(sum.hi, sum.lo + (below.lo + fma(count, LN2_LO, small)));
}

#endif
