/* float32: the weight of one vector, the running sum of weights, the factor that normalises.
 *
 * Design
 * A. Weights are w = C * 2^(64 - N) * e^x with N = round(max * log2 e): the maximum is never
 *    subtracted, so no rounding depends on it. C and 2^(64 - N) cancel in every ratio.
 * B. x = k * ln2/4 + r. `magic` carries N and the bias, so that the low bits of z are at once the
 *    number of steps, the index into the table of quarters (2 bits) and the exponent (8 bits). k *
 *    STEP_HI is subtracted exactly by the FMA. Four entries, as that is what AVX2 can look up in
 *    one operation; Horner's form, as its linear coefficient need not be 1.
 * C. Bias 64: the smallest weight kept, e^-104.25 of the maximum, is 2^-87, far from subnormal; the
 *    largest sum is below 2^(66 + log2 n).
 * D. What is below the cut-off is exactly 0: -inf, masks of -1e9, the padding of tails. NaN is not
 *    below and survives.
 * E. Sum of a softmax: every weight is added to its one of 16 lanes, which start at 2^72 and stay
 *    in that binade, so that their bits count units of 2^49: the counts of all lanes are added
 *    exactly, as integers. What the additions round off, at most half a unit each, is collected in
 *    floats; after 16 vectors the whole units of that are settled, i.e. join the count. Where a row
 *    has several chunks (rows.h, C), each starts above its own largest weight instead, so that its
 *    units fit what it consists of. One definition for every length and every path. (README.md:
 *    what else was tried, and its cost in ulp.)
 * F. Error of a weight, against C * 2^(64 - N) * e^x, over all 2^32 inputs: at most 0.7536 ulp,
 *    witness 0xc253c210, x = -52.940; at most 1.151 * 2^-24 of itself below, witness 0xc313ba1e,
 *    and 1.117 * 2^-24 above, witness 0x3fa66327. (tests/c/exhaustive_exp.c, which also sees to D
 *    on every input.)
 * G. A logarithm's weights are not rounded to float32 before they are added: table entry and
 *    polynomial, `power` + `factor` * q, join the sum apart, which takes no operation more. They
 *    are within 0.294 * 2^-24, witness 0x455ff233. What is below the cut-off weighs as much as the
 *    limit does, e^-126, which vanishes in every result. Rows of up to 64 elements add powers in
 *    float64, what is beside them in float32; longer ones are summed as in E, with the exact rest
 *    of each addition.
 * H. Bounds, with u = 2^-24; a relative error of u is at most 1 ulp of a result, at the upper end
 *    of a binade.
 *    - softmax: an element and the sum may err in opposite directions, 1.151 u + 1.117 u (F). What
 *      the sum rounds off, at most half a unit a vector and lane, adds up to j half units after j
 *      vectors: 116 * 2^24 are lost in the additions of a lane in 16 vectors, 2^36.9 in a chunk,
 *      whose largest weight is 2^63.79 or more: 0.13 u with the fold. The inverse is two floats;
 *      the last operation rounds by 0.5 ulp. Together 2.9 ulp (promised 3); 0.125 u more with a
 *      temperature, whose residual rounds r once more (promised 3.05). Results just above the
 *      subnormal ones lose half of the smallest number in w * lo, 0.5 ulp more in the lowest binade
 *      (promised 3.55); in subnormal ones the relative part is half as large, beside 0.5 for w * lo
 *      and 0.5 (promised 2.3).
 *    - log_softmax, logsumexp: parts 0.294 u; of up to 64 elements, each lane's rest (at most 0.091
 *      of its weight) is rounded by 0.172 u and its fold by 0.25 u of the sum: 0.72 u. A mass,
 *      taken where it is n * 2^53 or more, loses 2^36.9 / 2^63 = 0.23 u at most in the chunk with
 *      the maximum, 0.13 u in others and in its fold: 0.65 u. So log1p errs by at most 0.72 ulp,
 *      log_softmax, which two subtractions round, by 1.8 (promised 2); logsumexp, where log1p may
 *      be twice the result, by 1.95 (promised 2).
 */
#ifndef FSM_CORE_F32_H
#define FSM_CORE_F32_H

#include "core_scalar.h"

#define F32_BIAS 64
#define F32_MAGIC 0x1.8p23f
/* Below max - 104.25 a softmax rounds to 0: e^-104.25 < 2^-150, half the smallest subnormal. */
#define F32_CUT 104.25f
/* rows.h, scale_low: a power of two that lifts every result out of the subnormal range; the
 * smallest normal number times that; twice as much; and the number whose bits are those of the
 * power's exponent, 64. */
#define F32_LIFT 0x1p64f
#define F32_LIFTED_NORMAL 0x1p-62f
#define F32_LIFTED_MAGIC 0x1p-61f
#define F32_LIFT_BITS 0x1p-63f
/* The logarithmic functions add up what is far below 2^-150 too: n * e^-126 stays below it for n <
 * 2^31. */
#define F32_LOG_CUT 126.0f
/* A mass of the others is as accurate as their sum from n times this on, or from half of the
 * largest weight on. */
#define F32_OTHERS_FROM 0x1p53
#define F32_LOG_IN_TWO 0
/* Vectors of weights in parts that are computed side by side; two keep a sum in memory where there
 * are 16 registers. */
#define F32_PARTS_AT_ONCE 1
/* Beyond this |max|, max is subtracted first: exact for all that contributes (Sterbenz, 2 * 126 <=
 * 4096). */
#define F32_SHIFT_ABOVE 4096.0f

/* Where the lanes of a mass start: above CHUNK / 16 weights of C * 2^(64.5) < 2^65 each, so that no
 * sum leaves the binade. */
#define F32_MASS_START 0x1p72f
#define F32_MASS_START_BITS 0x63800000u
#define F32_MASS_UNIT 0x1p49f
/* From one settling of what a mass has collected besides its units to the next: vectors. */
#define F32_SETTLED 16
/* Whether each chunk of a row of several starts above its own largest weight. */
#define F32_OWN_STARTS 1
/* Whether to weigh an element again takes less time than to keep its weight in memory. */
#define F32_WEIGHS_AGAIN 1

/* What one row's weights depend on besides x; the last four only where the maximum is large or
 * there is a temperature. */
typedef struct {
    f32x16 shift;          /* 0, or the maximum where |max| is large */
    f32x16 magic;          /* 1.5 * 2^23 + 4 * (bias - N) */
    f32x16 limit;          /* arguments below it weigh 0 */
    f32x16 scale;          /* 2^-e of the temperature */
    f32x16 inv_hi, inv_lo; /* 1 / (temperature * scale) */
} f32_row;

typedef struct {
    f64x8 low, high;
} f32_sum;

typedef struct {
    f32x16 hi, lo;
} f32_mass;

/* What a weight is made of: the steps from the magic on; what is left of x, and the polynomial of
 * that. */
typedef struct {
    f32x16 z, r, q;
} f32_reduced;

FSM_INLINE f32_reduced f32_reduce(f32x16 x, f32x16 magic, f32x16 residual, int rare) {
    const f32x16 z = f32x16_fma(x, f32x16_set1(F32_STEPS_PER_UNIT), magic);
    const f32x16 k = f32x16_sub(z, magic);
    f32x16 r = f32x16_fma(k, f32x16_set1(-F32_STEP_HI), x);
    r = f32x16_fma(k, f32x16_set1(-F32_STEP_LO), r);
    if (rare) {
        r = f32x16_add(r, residual);
    }
    f32x16 q = f32x16_fma(f32x16_set1(F32_C4), r, f32x16_set1(F32_C3));
    q = f32x16_fma(q, r, f32x16_set1(F32_C2));
    q = f32x16_fma(q, r, f32x16_set1(F32_C1));
    return (f32_reduced){z, r, q};
}
FSM_INLINE f32x16 f32_weight_of(f32_reduced a, f32x16 x, f32x16 limit) {
    const f32x16 power = f32x16_power(a.z);
    return f32x16_zero_below(f32x16_fma(f32x16_mul(power, a.r), a.q, power), x, limit);
}

/* x / T, and to `residual` what that lacks. */
FSM_INLINE f32x16 f32_scaled(f32x16 x, const f32_row *row, f32x16 *residual) {
    const f32x16 scaled = f32x16_mul(f32x16_sub(x, row->shift), row->scale);
    const f32x16 product = f32x16_mul(scaled, row->inv_hi);
    *residual = f32x16_fma(scaled, row->inv_hi, f32x16_sub(f32x16_set1(-0.0f), product));
    *residual = f32x16_fma(scaled, row->inv_lo, *residual);
    return product;
}

/* A row that is not `rare` has no shift and temperature 1; the operations for these would leave its
 * bits as they are. */
FSM_CORE f32x16 f32_weight(f32x16 x, const f32_row *row, int rare) {
    f32x16 residual = x;
    if (rare) {
        x = f32_scaled(x, row, &residual);
    }
    return f32_weight_of(f32_reduce(x, row->magic, residual, rare), x, row->limit);
}

/* A weight before its last rounding, power + factor * q; `x` is its argument. */
typedef struct {
    f32x16 power, factor, q, x;
} f32_parts;

/* As f32_weight; but what lies below the limit weighs as the limit does (G). */
FSM_CORE f32_parts f32_weight_parts(f32x16 x, const f32_row *row, int rare) {
    f32x16 residual = x;
    if (rare) {
        x = f32_scaled(x, row, &residual);
        residual = f32x16_zero_below(residual, x, row->limit);
    }
    const f32_reduced a = f32_reduce(f32x16_max(row->limit, x), row->magic, residual, rare);
    const f32x16 power = f32x16_power(a.z);
    return (f32_parts){power, f32x16_mul(power, a.r), a.q, x};
}
/* f32_weight of the same element. */
FSM_INLINE f32x16 f32_whole(f32_parts a, f32x16 limit) {
    return f32x16_zero_below(f32x16_fma(a.factor, a.q, a.power), a.x, limit);
}
/* The same, and its rounding. */
FSM_INLINE f32x16 f32_weight_split(f32x16 x, const f32_row *row, int rare, f32x16 *low) {
    const f32_parts a = f32_weight_parts(x, row, rare);
    const f32x16 w = f32x16_fma(a.factor, a.q, a.power);
    *low = f32x16_fma(a.factor, a.q, f32x16_sub(a.power, w));
    return w;
}
FSM_INLINE f32_parts f32_first_parts(f32_parts a, size_t count) {
    a.power = f32x16_first(a.power, count);
    a.factor = f32x16_first(a.factor, count);
    return a;
}

FSM_INLINE f32_sum f32_sum_zero(void) {
    const f64x8 zero = f64x8_set1(0.0);
    return (f32_sum){zero, zero};
}
FSM_CORE void f32_sum_add(f32_sum *sum, f32x16 a) {
    sum->low = f64x8_add(sum->low, f64x8_widen_low(a));
    sum->high = f64x8_add(sum->high, f64x8_widen_high(a));
}
/* Exact products: 48 bits fit float64. */
FSM_CORE void f32_sum_add_product(f32_sum *sum, f32x16 a, f32x16 b) {
    sum->low = f64x8_fma(f64x8_widen_low(a), f64x8_widen_low(b), sum->low);
    sum->high = f64x8_fma(f64x8_widen_high(a), f64x8_widen_high(b), sum->high);
}

/* A sum of up to ACROSS weights in parts: of the powers, which float64 adds nearly exactly, and of
 * what is beside them. */
typedef struct {
    f32_sum powers;
    f32x16 rest;
} f32_part_sum;

FSM_CORE f32_part_sum f32_part_sum_first(f32_parts a) {
    return (f32_part_sum){{f64x8_widen_low(a.power), f64x8_widen_high(a.power)},
                          f32x16_mul(a.factor, a.q)};
}
FSM_CORE void f32_part_sum_add(f32_part_sum *sum, f32_parts a) {
    f32_sum_add(&sum->powers, a.power);
    sum->rest = f32x16_fma(a.factor, a.q, sum->rest);
}
FSM_INLINE void f32_sum_join(f32_sum *sum, const f32_sum *more) {
    sum->low = f64x8_add(sum->low, more->low);
    sum->high = f64x8_add(sum->high, more->high);
}
FSM_INLINE void f32_part_sum_join(f32_part_sum *sum, const f32_part_sum *more) {
    f32_sum_join(&sum->powers, &more->powers);
    sum->rest = f32x16_add(sum->rest, more->rest);
}
/* Every lane's sum as one. */
FSM_CORE f32_sum f32_part_sum_whole(const f32_part_sum *sum) {
    f32_sum whole = sum->powers;
    f32_sum_add(&whole, sum->rest);
    return whole;
}

FSM_INLINE f32_mass f32_mass_start(float start) {
    return (f32_mass){f32x16_set1(start), f32x16_set1(0.0f)};
}
/* The mass of one weight a lane. */
FSM_INLINE f32_mass f32_mass_first(f32x16 w) {
    const f32x16 start = f32x16_set1(F32_MASS_START), hi = f32x16_add(start, w);
    return (f32_mass){hi, f32x16_sub(w, f32x16_sub(hi, start))};
}
FSM_CORE void f32_mass_add(f32_mass *mass, f32x16 w) {
    const f32x16 hi = f32x16_add(mass->hi, w);
    mass->lo = f32x16_add(mass->lo, f32x16_sub(w, f32x16_sub(hi, mass->hi)));
    mass->hi = hi;
}
/* The same without the rounding of the weight. */
FSM_CORE void f32_mass_add_parts(f32_mass *mass, f32_parts a) {
    const f32x16 hi = f32x16_add(mass->hi, f32x16_fma(a.factor, a.q, a.power));
    const f32x16 left = f32x16_sub(a.power, f32x16_sub(hi, mass->hi));
    mass->lo = f32x16_add(mass->lo, f32x16_fma(a.factor, a.q, left));
    mass->hi = hi;
}
/* The whole units among what is not counted in units. */
FSM_CORE void f32_mass_settle(f32_mass *mass) {
    const f32x16 hi = f32x16_add(mass->hi, mass->lo);
    mass->lo = f32x16_sub(mass->lo, f32x16_sub(hi, mass->hi));
    mass->hi = hi;
}

/* A sum of weights as two floats. */
typedef struct {
    float hi, lo;
} f32_total;

FSM_CORE f32_total f32_mass_total(const f32_mass *mass) {
    const uint32_t units = f32x16_reduce_bits(mass->hi) - 16u * F32_MASS_START_BITS;
    const float low = f32x16_reduce_add(mass->lo);
    const int32_t count = (int32_t)units;
    const float rounded = (float)count;
    const float high = rounded * F32_MASS_UNIT;
    const float rest = (float)(count - (int64_t)rounded) * F32_MASS_UNIT + low;
    const float hi = high + rest;
    return (f32_total){hi, rest - (hi - high)};
}

/* Masses of a row of several chunks are added up in float64; here and below `lo` is 0. */
FSM_INLINE void f32_running_add(pair *sum, const f32_mass *mass, float start) {
    uint32_t bits;
    memcpy(&bits, &start, sizeof bits);
    const uint32_t units = f32x16_reduce_bits(mass->hi) - 16u * bits;
    const double unit = (double)start * 0x1p-23;
    sum->hi += (double)(int32_t)units * unit + (double)f32x16_reduce_add(mass->lo);
}
FSM_INLINE void f32_running_join(pair *sum, pair more) {
    sum->hi += more.hi;
}
/* Where a chunk starts whose largest weight is 2^below of the row's, or so: as far above that as
 * MASS_START is above the row's. */
FSM_INLINE float f32_start_below(float below) {
    const int exponent = below > -140.0f ? (int)below : -140;
    const uint32_t bits = F32_MASS_START_BITS + ((uint32_t)exponent << 23);
    float start;
    memcpy(&start, &bits, sizeof start);
    return start;
}
/* Without the one weight own + own_low. */
FSM_INLINE pair f32_running_less(pair sum, float own, float own_low) {
    return (pair){sum.hi - (double)own - (double)own_low, 0.0};
}
FSM_INLINE f32_total f32_running_total(pair sum) {
    const float hi = (float)sum.hi;
    return (f32_total){hi, (float)(sum.hi - (double)hi)};
}
FSM_CORE pair f32_sum_total(const f32_sum *sum) {
    f64x8 a = f64x8_add(sum->low, sum->high);
    a = f64x8_add(a, f64x8_fold4(a));
    a = f64x8_add(a, f64x8_fold2(a));
    a = f64x8_add(a, f64x8_fold1(a));
    return (pair){f64x8_lane0(a), 0.0};
}

/* All lanes' sum. */
FSM_CORE pair f32_part_sum_total(const f32_part_sum *sum) {
    return (pair){f32_sum_total(&sum->powers).hi + (double)f32x16_reduce_add(sum->rest), 0.0};
}

/* A float64 as two float32; an overflow stays an infinity. */
FSM_INLINE void f32_split(pair a, float *hi, float *lo) {
    *hi = (float)a.hi;
    *lo = *hi - *hi == 0.0f ? (float)(a.hi - (double)*hi) : 0.0f;
}

/* numerator / total as two float32. */
FSM_INLINE void f32_quotient(pair numerator, pair total, float *hi, float *lo) {
    const double quotient = numerator.hi / total.hi;
    *hi = (float)quotient;
    *lo = (float)(quotient - (double)*hi);
}

/* 1 / total as two float32. */
FSM_INLINE void f32_inverse(f32_total total, float *hi, float *lo) {
    const float inverse = 1.0f / total.hi;
    *hi = inverse;
    *lo = fmaf(-inverse, total.lo, fmaf(-inverse, total.hi, 1.0f)) * inverse;
}

/* The weight of the maximum, whose argument is hi + lo, to float64's accuracy: C32 2^64 in place of
 * the core's C64 2^128. */
FSM_INLINE pair f32_top_weight(double hi, double lo, double steps) {
    const pair top = precise_weight(hi, lo, 0x1.8p52 + F64_STEPS * (128.0 - steps));
    return (pair){top.hi * (0x1p-64 * F32_SCALE * F64_SCALE_INVERSE), 0.0};
}

/* others / top */
FSM_INLINE pair f32_ratio(pair others, pair top) {
    return (pair){others.hi / top.hi, 0.0};
}

/* max + log as two float32; the second takes the rounding of the first. */
FSM_INLINE void f32_split_log(float maximum, pair logarithm, float *hi, float *lo) {
    *hi = (float)((double)maximum + logarithm.hi);
    *lo = (float)(((double)maximum - (double)*hi) + logarithm.hi);
}

#endif
