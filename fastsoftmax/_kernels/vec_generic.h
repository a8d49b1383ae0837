/* The vector operations in portable C: lanes are array elements, fma() is the C library's where
 * there is no instruction (unit.h asks whether it rounds once). Defines the meaning of each
 * operation for the other headers; what has no comment here does what its name says, lane by lane.
 */
#ifndef FSM_VEC_GENERIC_H
#define FSM_VEC_GENERIC_H

#include <math.h>
#include <string.h>

#include "coefficients.h"

typedef struct {
    float v[16];
} f32x16;
typedef struct {
    double v[8];
} f64x8;

#define FSM_LANES(type, width, expression)                                                         \
    type r;                                                                                        \
    for (int i = 0; i < width; i++) {                                                              \
        r.v[i] = (expression);                                                                     \
    }                                                                                              \
    return r

/* ---- f32x16 ---- */

FSM_INLINE f32x16 f32x16_set1(float a) {
    FSM_LANES(f32x16, 16, a);
}
FSM_INLINE f32x16 f32x16_load(const float *p) {
    FSM_LANES(f32x16, 16, p[i]);
}
/* The first `count` elements of p (no others are read), `fill` in the other lanes. */
FSM_INLINE f32x16 f32x16_load_partial(const float *p, size_t count, float fill) {
    FSM_LANES(f32x16, 16, (size_t)i < count ? p[i] : fill);
}
FSM_INLINE void f32x16_store(float *p, f32x16 a) {
    memcpy(p, a.v, sizeof a.v);
}
FSM_INLINE void f32x16_store_partial(float *p, f32x16 a, size_t count) {
    memcpy(p, a.v, count * sizeof a.v[0]);
}
/* Stores past the caches where the instruction set can; p is aligned to the vector. */
FSM_INLINE void f32x16_stream(float *p, f32x16 a) {
    memcpy(p, a.v, sizeof a.v);
}
FSM_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) {
    FSM_LANES(f32x16, 16, a.v[i] + b.v[i]);
}
FSM_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) {
    FSM_LANES(f32x16, 16, a.v[i] - b.v[i]);
}
FSM_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) {
    FSM_LANES(f32x16, 16, a.v[i] * b.v[i]);
}
/* a * b + c, rounded once. */
FSM_CORE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) {
    FSM_LANES(f32x16, 16, fmaf(a.v[i], b.v[i], c.v[i]));
}
/* The larger; b where either is NaN. */
FSM_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) {
    FSM_LANES(f32x16, 16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
/* a, but +0 where x < limit; a NaN in x keeps a. */
FSM_INLINE f32x16 f32x16_zero_below(f32x16 a, f32x16 x, f32x16 limit) {
    FSM_LANES(f32x16, 16, x.v[i] < limit.v[i] ? 0.0f : a.v[i]);
}
/* a in the first `count` lanes, +0 beyond. */
FSM_INLINE f32x16 f32x16_first(f32x16 a, size_t count) {
    FSM_LANES(f32x16, 16, (size_t)i < count ? a.v[i] : 0);
}
/* a, but -inf in one lane, if there is such a lane. */
FSM_INLINE f32x16 f32x16_without(f32x16 a, size_t lane) {
    FSM_LANES(f32x16, 16, (size_t)i == lane ? -(float)INFINITY : a.v[i]);
}
/* a, but +0 where t is 0. */
FSM_INLINE f32x16 f32x16_where_nonzero(f32x16 a, f32x16 t) {
    FSM_LANES(f32x16, 16, t.v[i] == 0 ? 0 : a.v[i]);
}
/* Bit i is set if lane i is equal. */
FSM_INLINE unsigned f32x16_equal(f32x16 a, f32x16 b) {
    unsigned bits = 0;
    for (int i = 0; i < 16; i++) {
        bits |= (unsigned)(a.v[i] == b.v[i]) << i;
    }
    return bits;
}
/* C * 2^(s/4) for the integer s in the low 10 bits of each lane of `steps`. */
FSM_INLINE f32x16 f32x16_power(f32x16 steps) {
    static const uint32_t table[4] = F32_TABLE;
    uint32_t bits[16];
    memcpy(bits, steps.v, sizeof bits);
    for (int i = 0; i < 16; i++) {
        bits[i] = table[bits[i] & 3] + (bits[i] << 21);
    }
    memcpy(steps.v, bits, sizeof bits);
    return steps;
}
FSM_INLINE float f32x16_reduce_max(f32x16 a) {
    float largest = a.v[0];
    for (int i = 1; i < 16; i++) {
        largest = a.v[i] > largest ? a.v[i] : largest;
    }
    return largest;
}
/* The sum of the lanes by halves: 8 apart, 4, 2, 1. */
FSM_CORE float f32x16_reduce_add(f32x16 a) {
    for (int half = 8; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.v[i] += a.v[i + half];
        }
    }
    return a.v[0];
}
/* The sum of the lanes' bits as integers, modulo 2^32. */
FSM_INLINE uint32_t f32x16_reduce_bits(f32x16 a) {
    uint32_t bits[16], sum = 0;
    memcpy(bits, a.v, sizeof bits);
    for (int i = 0; i < 16; i++) {
        sum += bits[i];
    }
    return sum;
}
/* The same reductions of 16 vectors at once: lane i reduces a[i]. */
FSM_CORE f32x16 f32x16_fold_max(const f32x16 *a) {
    FSM_LANES(f32x16, 16, f32x16_reduce_max(a[i]));
}
FSM_CORE f32x16 f32x16_fold_add(const f32x16 *a) {
    FSM_LANES(f32x16, 16, f32x16_reduce_add(a[i]));
}
FSM_CORE f32x16 f32x16_fold_bits(const f32x16 *a) {
    f32x16 r;
    for (int i = 0; i < 16; i++) {
        const uint32_t bits = f32x16_reduce_bits(a[i]);
        memcpy(r.v + i, &bits, sizeof bits);
    }
    return r;
}
/* Adds and subtracts the lanes' bits as integers, modulo 2^32. */
FSM_INLINE f32x16 f32x16_sub_bits(f32x16 a, f32x16 b) {
    uint32_t x[16], y[16];
    memcpy(x, a.v, sizeof x);
    memcpy(y, b.v, sizeof y);
    for (int i = 0; i < 16; i++) {
        x[i] -= y[i];
    }
    memcpy(a.v, x, sizeof x);
    return a;
}
FSM_INLINE f32x16 f32x16_add_bits(f32x16 a, f32x16 b) {
    uint32_t x[16], y[16];
    memcpy(x, a.v, sizeof x);
    memcpy(y, b.v, sizeof y);
    for (int i = 0; i < 16; i++) {
        x[i] += y[i];
    }
    memcpy(a.v, x, sizeof x);
    return a;
}
/* The int32 count = bits - offset of each lane as hi + lo, hi being count rounded to float. Garbage
 * in lo where hi overflows an int32. */
FSM_INLINE void f32x16_split_bits(f32x16 a, uint32_t offset, f32x16 *hi, f32x16 *lo) {
    uint32_t bits[16];
    memcpy(bits, a.v, sizeof bits);
    for (int i = 0; i < 16; i++) {
        const int32_t count = (int32_t)(bits[i] - offset);
        hi->v[i] = (float)count;
        lo->v[i] = (float)(count - (int64_t)hi->v[i]);
    }
}
FSM_INLINE f32x16 f32x16_div(f32x16 a, f32x16 b) {
    FSM_LANES(f32x16, 16, a.v[i] / b.v[i]);
}
FSM_INLINE float f32_from_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    uint32_t bits;
    float value;
    if (rest >= 0x7c00u) { /* infinity, NaN */
        bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
    } else if (rest >= 0x0400u) {
        bits = sign | ((rest << 13) + 0x38000000u);
    } else { /* subnormal: an integer times 2^-24, exact in float32 */
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}
/* Rounds half to even. */
FSM_INLINE uint16_t f16_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (bits >= 0x477ff000u) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (bits <
        /* Below 2^-14: adding 2^-1 makes the hardware round to multiples of 2^-24. */
        0x38800000u) {
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xc8000fffu + (bits >> 13 & 1u); /* rebias the exponent, round half to even */
    return (uint16_t)(sign | bits >> 13);
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    FSM_LANES(f32x16, 16, f32_from_f16(p[i]));
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) {
    for (int i = 0; i < 16; i++) {
        p[i] = f16_from_f32(a.v[i]);
    }
}

/* yes where a equals b, no elsewhere. */
FSM_INLINE f32x16 f32x16_where_equal(f32x16 a, f32x16 b, f32x16 yes, f32x16 no) {
    FSM_LANES(f32x16, 16, a.v[i] == b.v[i] ? yes.v[i] : no.v[i]);
}
/* Transposes four elements of each of 16 rows, `stride` bytes apart: element c of row r is lane r
 * of a[c]. store_group is the inverse. */
FSM_CORE void f32x16_load_group(const float *p, ptrdiff_t stride, f32x16 *a) {
    for (int r = 0; r < 16; r++) {
        const float *row = (const float *)((const char *)p + r * stride);
        for (int c = 0; c < 4; c++) {
            a[c].v[r] = row[c];
        }
    }
}
FSM_CORE void f32x16_store_group(float *p, ptrdiff_t stride, const f32x16 *a) {
    for (int r = 0; r < 16; r++) {
        float *row = (float *)((char *)p + r * stride);
        for (int c = 0; c < 4; c++) {
            row[c] = a[c].v[r];
        }
    }
}
/* The same for 16 contiguous rows of n < 4 elements. */
FSM_CORE void f32x16_load_narrow(const float *p, size_t n, f32x16 *a) {
    for (size_t r = 0; r < 16; r++) {
        for (size_t c = 0; c < n; c++) {
            a[c].v[r] = p[r * n + c];
        }
    }
}
FSM_CORE void f32x16_store_narrow(float *p, size_t n, const f32x16 *a) {
    for (size_t r = 0; r < 16; r++) {
        for (size_t c = 0; c < n; c++) {
            p[r * n + c] = a[c].v[r];
        }
    }
}

/* ---- f64x8 ---- */

FSM_INLINE f64x8 f64x8_set1(double a) {
    FSM_LANES(f64x8, 8, a);
}
FSM_INLINE f64x8 f64x8_load(const double *p) {
    FSM_LANES(f64x8, 8, p[i]);
}
FSM_INLINE f64x8 f64x8_load_partial(const double *p, size_t count, double fill) {
    FSM_LANES(f64x8, 8, (size_t)i < count ? p[i] : fill);
}
FSM_INLINE void f64x8_store(double *p, f64x8 a) {
    memcpy(p, a.v, sizeof a.v);
}
FSM_INLINE void f64x8_store_partial(double *p, f64x8 a, size_t count) {
    memcpy(p, a.v, count * sizeof a.v[0]);
}
FSM_INLINE void f64x8_stream(double *p, f64x8 a) {
    f64x8_store(p, a);
}
FSM_INLINE f64x8 f64x8_add(f64x8 a, f64x8 b) {
    FSM_LANES(f64x8, 8, a.v[i] + b.v[i]);
}
FSM_INLINE f64x8 f64x8_sub(f64x8 a, f64x8 b) {
    FSM_LANES(f64x8, 8, a.v[i] - b.v[i]);
}
FSM_INLINE f64x8 f64x8_mul(f64x8 a, f64x8 b) {
    FSM_LANES(f64x8, 8, a.v[i] * b.v[i]);
}
FSM_CORE f64x8 f64x8_fma(f64x8 a, f64x8 b, f64x8 c) {
    FSM_LANES(f64x8, 8, fma(a.v[i], b.v[i], c.v[i]));
}
FSM_INLINE f64x8 f64x8_max(f64x8 a, f64x8 b) {
    FSM_LANES(f64x8, 8, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
FSM_INLINE f64x8 f64x8_sub_bits(f64x8 a, f64x8 b) {
    uint64_t x[8], y[8];
    memcpy(x, a.v, sizeof x);
    memcpy(y, b.v, sizeof y);
    for (int i = 0; i < 8; i++) {
        x[i] -= y[i];
    }
    memcpy(a.v, x, sizeof x);
    return a;
}
FSM_INLINE f64x8 f64x8_zero_below(f64x8 a, f64x8 x, f64x8 limit) {
    FSM_LANES(f64x8, 8, x.v[i] < limit.v[i] ? 0.0 : a.v[i]);
}
FSM_INLINE f64x8 f64x8_first(f64x8 a, size_t count) {
    FSM_LANES(f64x8, 8, (size_t)i < count ? a.v[i] : 0);
}
FSM_INLINE f64x8 f64x8_without(f64x8 a, size_t lane) {
    FSM_LANES(f64x8, 8, (size_t)i == lane ? -(double)INFINITY : a.v[i]);
}
FSM_INLINE f64x8 f64x8_where_nonzero(f64x8 a, f64x8 t) {
    FSM_LANES(f64x8, 8, t.v[i] == 0 ? 0 : a.v[i]);
}
FSM_INLINE unsigned f64x8_equal(f64x8 a, f64x8 b) {
    unsigned bits = 0;
    for (int i = 0; i < 8; i++) {
        bits |= (unsigned)(a.v[i] == b.v[i]) << i;
    }
    return bits;
}
/* C * 2^(s/8) for the integer s in the low 14 bits of each lane of `steps`. */
FSM_INLINE f64x8 f64x8_power(f64x8 steps) {
    static const uint64_t table[8] = F64_TABLE;
    uint64_t bits[8];
    memcpy(bits, steps.v, sizeof bits);
    for (int i = 0; i < 8; i++) {
        bits[i] = table[bits[i] & 7] + (bits[i] << 49);
    }
    memcpy(steps.v, bits, sizeof bits);
    return steps;
}
FSM_INLINE double f64x8_reduce_max(f64x8 a) {
    double largest = a.v[0];
    for (int i = 1; i < 8; i++) {
        largest = a.v[i] > largest ? a.v[i] : largest;
    }
    return largest;
}
FSM_CORE double f64x8_reduce_add(f64x8 a) {
    for (int half = 4; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.v[i] += a.v[i + half];
        }
    }
    return a.v[0];
}
FSM_CORE f64x8 f64x8_fold_max(const f64x8 *a) {
    FSM_LANES(f64x8, 8, f64x8_reduce_max(a[i]));
}
FSM_CORE f64x8 f64x8_fold_add(const f64x8 *a) {
    FSM_LANES(f64x8, 8, f64x8_reduce_add(a[i]));
}
/* Halves, quarters or neighbours swapped, so that an addition folds them: a sum by halves. */
FSM_INLINE f64x8 f64x8_fold4(f64x8 a) {
    FSM_LANES(f64x8, 8, a.v[i ^ 4]);
}
FSM_INLINE f64x8 f64x8_fold2(f64x8 a) {
    FSM_LANES(f64x8, 8, a.v[i ^ 2]);
}
FSM_INLINE f64x8 f64x8_fold1(f64x8 a) {
    FSM_LANES(f64x8, 8, a.v[i ^ 1]);
}
FSM_INLINE double f64x8_lane0(f64x8 a) {
    return a.v[0];
}
FSM_INLINE f64x8 f64x8_widen_low(f32x16 a) {
    FSM_LANES(f64x8, 8, (double)a.v[i]);
}
FSM_INLINE f64x8 f64x8_widen_high(f32x16 a) {
    FSM_LANES(f64x8, 8, (double)a.v[i + 8]);
}
FSM_INLINE f32x16 f32x16_narrow(f64x8 low, f64x8 high) {
    FSM_LANES(f32x16, 16, (float)(i < 8 ? low.v[i & 7] : high.v[i & 7]));
}
FSM_INLINE f64x8 f64x8_div(f64x8 a, f64x8 b) {
    FSM_LANES(f64x8, 8, a.v[i] / b.v[i]);
}
FSM_INLINE f64x8 f64x8_where_equal(f64x8 a, f64x8 b, f64x8 yes, f64x8 no) {
    FSM_LANES(f64x8, 8, a.v[i] == b.v[i] ? yes.v[i] : no.v[i]);
}
/* The integer k with from <= a / 2^k < 2 from, where `from` is given as bits and a >= from; any k
 * for a NaN. */
FSM_INLINE f64x8 f64x8_binade(f64x8 a, uint64_t from) {
    uint64_t bits[8];
    memcpy(bits, a.v, sizeof bits);
    for (int i = 0; i < 8; i++) {
        a.v[i] = (double)((bits[i] - from) >> 52);
    }
    return a;
}
/* 2^k for an integer k, the result being a normal number. */
FSM_INLINE f64x8 f64x8_power_of_two(f64x8 k) {
    uint64_t bits[8];
    for (int i = 0; i < 8; i++) {
        bits[i] = (uint64_t)((int64_t)k.v[i] + 1023) << 52;
    }
    memcpy(k.v, bits, sizeof bits);
    return k;
}
/* Transposes two elements of each of 8 rows, `stride` bytes apart. */
FSM_CORE void f64x8_load_group(const double *p, ptrdiff_t stride, f64x8 *a) {
    for (int r = 0; r < 8; r++) {
        const double *row = (const double *)((const char *)p + r * stride);
        a[0].v[r] = row[0];
        a[1].v[r] = row[1];
    }
}
FSM_CORE void f64x8_store_group(double *p, ptrdiff_t stride, const f64x8 *a) {
    for (int r = 0; r < 8; r++) {
        double *row = (double *)((char *)p + r * stride);
        row[0] = a[0].v[r];
        row[1] = a[1].v[r];
    }
}
/* The longest rows that load_narrow and store_narrow take; shorter than a group: 1, or 3 where an
 * instruction set has them for longer ones. */
#define F64_NARROW 1
FSM_INLINE void f64x8_load_narrow(const double *p, size_t n, f64x8 *a) {
    (void)n;
    a[0] = f64x8_load(p);
}
FSM_INLINE void f64x8_store_narrow(double *p, size_t n, const f64x8 *a) {
    (void)n;
    f64x8_store(p, a[0]);
}

#endif
