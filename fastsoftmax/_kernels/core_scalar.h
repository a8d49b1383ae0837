/* Scalar float64 helpers of one row: exact sums, the weight of the maximum, log1p. No C library call but fma(). */
#ifndef FSM_CORE_SCALAR_H
#define FSM_CORE_SCALAR_H

#include <math.h>
#include <string.h>

#include "coefficients.h"
#include "portable.h"

/* An unevaluated sum hi + lo. */
typedef struct {
    double hi, lo;
} pair;

FSM_INLINE pair two_sum(double a, double b) {
    const double sum = a + b;
    const double of_b = sum - a;
    return (pair){sum, (a - (sum - of_b)) + (b - of_b)};
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

/* 2^e, subnormal, zero or infinite where it must be. */
FSM_INLINE double power_of_two(int e) {
    if (e > 1023) {
        return f64_from_bits(0x7ff0000000000000u);
    }
    if (e < -1022) {
        return e < -1074 ? 0.0 : f64_from_bits((uint64_t)1 << (e + 1074));
    }
    return f64_from_bits((uint64_t)(e + 1023) << 52);
}

/* The float64 weight of the argument hi + lo, i.e. the vector core on one element, with the last rounding kept in lo:
 * good to about 0.06 ulp, so that dividing by it adds nothing to the error of the logarithmic functions. */
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

/* log(1 + a) for a >= 0, about 0.7 ulp. With s = 1 + a = 2^k (1 + u), |u| < 0.42 exact to double precision, and t = u / (2 + u):
 * log(1 + u) = 2 atanh(t) = u - (u^2/2 - t (u^2/2 + t^2 P(t^2))), whose leading term is exact (the arrangement of
 * fdlibm's e_log.c); P is the Taylor series of 2 atanh, 2/3 + 2/5 z + ..., cut where 0.0295^11 is below 2^-55. */
FSM_INLINE double log_one_plus(double a) {
    const pair s = two_sum(1.0, a);
    const int64_t k = (int64_t)(f64_to_bits(s.hi) - SQRT_HALF_BITS) >> 52;
    const double unscale = f64_from_bits((uint64_t)(1023 - k) << 52);
    const double u = (s.hi * unscale - 1.0) + s.lo * unscale;
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
    const double half = 0.5 * u * u;
    const double rest = half - t * fma(z, series, half);
    const double count = (double)k;
    return fma(count, LN2_HI, u - (rest - count * LN2_LO));
}

#endif
