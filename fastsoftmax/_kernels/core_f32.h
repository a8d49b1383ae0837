/* float32: the weight of one vector, the sum of weights, the factor that normalises.
 *
 * Design
 * A. A weight is w = C * 2^(64 - N) * e^x with N = round(max * log2 e). The maximum is never
 *    subtracted, so no rounding depends on it; C and 2^(64 - N) cancel in every ratio.
 * B. x = k * ln2/4 + r. `magic` includes N and the bias, so that the low bits of z are at once the
 *    number of steps k, the index into the table of quarters (2 bits) and the exponent (8 bits).
 *    The FMA subtracts k * STEP_HI exactly. Four entries are what AVX2 can look up in one
 *    operation. Horner's form, as its linear coefficient need not be 1.
 * C. Bias 64: the smallest weight kept, e^-104.25 of the largest, is 2^-87, far from subnormal; the
 *    largest sum is below 2^(66 + log2 n).
 * D. What is below the cut-off is exactly 0: -inf, masks of -1e9, the padding of tails. A NaN is
 *    not below it and survives.
 * E. The sum of a softmax, the mass. Each weight is added to its one of 16 lanes, which start at
 *    2^72 and stay in that binade, so that their bits count units of 2^49; the counts of all lanes
 *    are added exactly, as integers. What an addition rounds off, at most half a unit, is found
 *    exactly and collected in floats, the remainders; after 16 vectors their whole units are
 *    settled, i.e. moved to the count. In a row of several chunks (rows.h, C) each chunk starts
 *    above its own largest weight, so that the unit suits its weights. One definition for every
 *    length and path. (MEASUREMENTS.md has the alternatives and their cost in ulp.)
 * F. Error of a weight against C * 2^(64 - N) * e^x, over all 2^32 inputs: at most 0.7536 ulp,
 *    witness 0xc253c210, x = -52.940; at most 1.151 * 2^-24 of itself below, witness 0xc313ba1e,
 *    and 1.117 * 2^-24 above, witness 0x3fa66327. (tests/c/exhaustive_exp.c, which checks D on
 *    every input, too.)
 * G. The logarithmic functions do not round a weight to float32 before they add it: its parts,
 *    `power` and `factor` * q, join the sum separately, which takes no more operations. They are
 *    within 0.294 * 2^-24, witness 0x455ff233. What is below the cut-off weighs as much as the
 *    limit, e^-126 of the largest, which vanishes in every result. Rows of up to 64 elements add
 *    powers in float64 and the rest in float32; longer ones are summed as in E, with the exact
 *    remainder of each addition.
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
 *      of its weight) is rounded by 0.172 u and its fold by 0.25 u of the sum: 0.72 u. A mass, used
 *      where it is n * 2^53 or more, loses 2^36.9 / 2^63 = 0.23 u at most in the chunk with the
 *      maximum, 0.13 u in others and in its fold: 0.65 u. So log1p errs by at most 0.72 ulp,
 *      log_softmax, which two subtractions round, by 1.8 (promised 2); logsumexp, where log1p may
 *      be twice the result, by 1.95 (promised 2). */
#ifndef FSM_CORE_F32_H
#define FSM_CORE_F32_H

#include "core_scalar.h"

#define F32_BIAS 64
#define F32_MAGIC 0x1.8p23f
/* Below max - 104.25 a softmax rounds to 0: e^-104.25 < 2^-150, half the smallest subnormal. */
#define F32_CUT 104.25f
/* Constants of scale_low (rows.h): a power of two that lifts every result out of the subnormal
 * range; the smallest normal number times it; twice that; the float whose bits are 64 << 23, to be
 * subtracted from a float's bits to divide by 2^64. */
#define F32_LIFT 0x1p64f
#define F32_LIFTED_NORMAL 0x1p-62f
#define F32_LIFTED_MAGIC 0x1p-61f
#define F32_LIFT_BITS 0x1p-63f
/* Logarithms add up what a softmax rounds to 0: n e^-126 stays below 2^-150 for n < 2^31. */
#define F32_LOG_CUT 126.0f
/* The mass of the others is used if it is at least this times min(n, CHUNK), for a whole chunk
 * about half of the largest weight; below that they are added up by themselves. */
#define F32_OTHERS_FROM 0x1p53
#define F32_LOG_IN_TWO 0
/* Vectors in parts computed together; two would need more than 16 registers. */
#define F32_PARTS_AT_ONCE 1
/* If |max / T| is larger, max is subtracted first: exact for the elements that count, which lie
 * within 126 of it and so, above 4096, within a factor of two (Sterbenz). */
#define F32_SHIFT_ABOVE 4096.0f

/* Where a mass starts: the 64 weights of a lane, below 2^65 each, keep it below 2^73. */
#define F32_MASS_START 0x1p72f
#define F32_MASS_START_BITS 0x63800000u
#define F32_MASS_UNIT 0x1p49f
/* Vectors between two settlings of a mass (E). */
#define F32_SETTLED 16
/* Whether each chunk of a row of several starts above its own largest weight. */
#define F32_OWN_STARTS 1
/* Whether weighing an element again is faster than storing and reloading its weight. */
#define F32_WEIGHS_AGAIN 1

/* x as z, with the number of steps k, the remainder r, and q with e^r = 1 + r q. */
typedef struct {
    f32x16 z, r, q;
} f32_reduced;

/* z = x * 4/ln2 + magic; k = z - magic; r = x - k * ln2/4, plus what x / T lacks if there is a
 * temperature; q = c1 + c2 r + c3 r^2 + c4 r^3. */
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
/* w = p + (p r) q with p = C * 2^(k/4 + bias - N); 0 where x is below the limit. */
FSM_INLINE f32x16 f32_weight_of(f32_reduced a, f32x16 x, f32x16 limit) {
    const f32x16 power = f32x16_power(a.z);
    f32x16 factor = f32x16_mul(power, a.r);
#ifdef FSM_FREE_MASKS /* below the limit it may be subnormal, which costs time (rows.h, F) */
    factor = f32x16_zero_below(factor, x, limit);
#endif
    return f32x16_zero_below(f32x16_fma(factor, a.q, power), x, limit);
}

/* A weight before its last rounding: power + factor * q; `x` is its argument. */
typedef struct {
    f32x16 power, factor, q, x;
} f32_parts;
/* The member that q is multiplied by. */
#define F32_FACTOR factor

/* Keeps the first `count` lanes; others weigh 0. */
FSM_INLINE f32_parts f32_first_parts(f32_parts a, size_t count) {
    a.power = f32x16_first(a.power, count);
    a.factor = f32x16_first(a.factor, count);
    return a;
}

/* A sum in float64: of lanes 0 to 7, 8 to 15. */
typedef struct {
    f64x8 low, high;
} f32_sum;

/* A sum of weights in two floats. */
typedef struct {
    float hi, lo;
} f32_total;

/* f32_row, f32_weight, f32_mass, f32_inverse and others. */
#include "format_f32.h"
#include "core_both.h"
#include "undefine.h"

/* As f32_weight, in parts; what lies below the limit weighs as the limit (G). */
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

FSM_CORE void f32_sum_add(f32_sum *sum, f32x16 a) {
    sum->low = f64x8_add(sum->low, f64x8_widen_low(a));
    sum->high = f64x8_add(sum->high, f64x8_widen_high(a));
}
/* The products are exact: 48 bits fit float64. */
FSM_CORE void f32_sum_add_product(f32_sum *sum, f32x16 a, f32x16 b) {
    sum->low = f64x8_fma(f64x8_widen_low(a), f64x8_widen_low(b), sum->low);
    sum->high = f64x8_fma(f64x8_widen_high(a), f64x8_widen_high(b), sum->high);
}

/* The sum of up to ACROSS weights in parts: powers (nearly exact in float64), factor * q. */
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
/* Joins both sums, lane by lane. */
FSM_CORE f32_sum f32_part_sum_whole(const f32_part_sum *sum) {
    f32_sum whole = sum->powers;
    f32_sum_add(&whole, sum->rest);
    return whole;
}

/* Moves the whole units of lo to hi. */
FSM_CORE void f32_mass_settle(f32_mass *mass) {
    const f32x16 hi = f32x16_add(mass->hi, mass->lo);
    mass->lo = f32x16_sub(mass->lo, f32x16_sub(hi, mass->hi));
    mass->hi = hi;
}

/* The mass of all lanes: the count of units, an exact integer, as two floats, the lower of which
 * takes the remainders, folded by halves. */
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

/* Adds the mass of a chunk to a row's sum, in float64; `lo` is 0 here and below. */
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
/* Where the lanes of a chunk start whose largest weight is about 2^below times the row's: as far
 * above it as MASS_START is above the row's. */
FSM_INLINE float f32_start_below(float below) {
    const int exponent = below > -140.0f ? (int)below : -140;
    const uint32_t bits = F32_MASS_START_BITS + ((uint32_t)exponent << 23);
    float start;
    memcpy(&start, &bits, sizeof start);
    return start;
}
/* The sum without one weight, own + own_low. */
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

/* The sum over all lanes. */
FSM_CORE pair f32_part_sum_total(const f32_part_sum *sum) {
    return (pair){f32_sum_total(&sum->powers).hi + (double)f32x16_reduce_add(sum->rest), 0.0};
}

/* A float64 as two floats; an infinity stays one. */
FSM_INLINE void f32_split(pair a, float *hi, float *lo) {
    *hi = (float)a.hi;
    *lo = *hi - *hi == 0.0f ? (float)(a.hi - (double)*hi) : 0.0f;
}

/* numerator / total as two floats. */
FSM_INLINE void f32_quotient(pair numerator, pair total, float *hi, float *lo) {
    const double quotient = numerator.hi / total.hi;
    *hi = (float)quotient;
    *lo = (float)(quotient - (double)*hi);
}

/* The weight of the maximum to the accuracy of float64, its argument being hi + lo: precise_weight
 * has C64 2^128 where the core has C32 2^64. */
FSM_INLINE pair f32_top_weight(double hi, double lo, double steps) {
    const pair top = precise_weight(hi, lo, 0x1.8p52 + F64_STEPS * (128.0 - steps));
    return (pair){top.hi * (0x1p-64 * F32_SCALE * F64_SCALE_INVERSE), 0.0};
}

/* others / top */
FSM_INLINE pair f32_ratio(pair others, pair top) {
    return (pair){others.hi / top.hi, 0.0};
}

/* max + log as two floats; the second takes the rounding error of the first. */
FSM_INLINE void f32_split_log(float maximum, pair logarithm, float *hi, float *lo) {
    *hi = (float)((double)maximum + logarithm.hi);
    *lo = (float)(((double)maximum - (double)*hi) + logarithm.hi);
}

#endif
