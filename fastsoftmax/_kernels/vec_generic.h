/* The vector operations in portable C: lanes are array elements, fma() is the C library's where
 * there is no instruction (unit.h asks whether it rounds once). Defines the meaning of each
 * operation for the other headers; what has no comment here does what its name says, lane by lane.
 *
 * Operations of both formats are one text: the first part of this file, which the second part
 * includes once for each format (format_*.h). */
#if defined(VEC) /* ---- both formats: V(add) is f32x16_add, then f64x8_add ---- */

FSM_INLINE VEC V(set1)(REAL a) {
    FSM_LANES(VEC, LANES, a);
}
FSM_INLINE VEC V(load)(const REAL *p) {
    FSM_LANES(VEC, LANES, p[i]);
}
/* The first `count` elements of p (no others are read), `fill` in the other lanes. */
FSM_INLINE VEC V(load_partial)(const REAL *p, size_t count, REAL fill) {
    FSM_LANES(VEC, LANES, (size_t)i < count ? p[i] : fill);
}
FSM_INLINE void V(store)(REAL *p, VEC a) {
    memcpy(p, a.v, sizeof a.v);
}
FSM_INLINE void V(store_partial)(REAL *p, VEC a, size_t count) {
    memcpy(p, a.v, count * sizeof a.v[0]);
}
/* Stores past the caches where the instruction set can; p is aligned to the vector. */
FSM_INLINE void V(stream)(REAL *p, VEC a) {
    memcpy(p, a.v, sizeof a.v);
}
FSM_INLINE VEC V(add)(VEC a, VEC b) {
    FSM_LANES(VEC, LANES, a.v[i] + b.v[i]);
}
FSM_INLINE VEC V(sub)(VEC a, VEC b) {
    FSM_LANES(VEC, LANES, a.v[i] - b.v[i]);
}
FSM_INLINE VEC V(mul)(VEC a, VEC b) {
    FSM_LANES(VEC, LANES, a.v[i] * b.v[i]);
}
FSM_INLINE VEC V(div)(VEC a, VEC b) {
    FSM_LANES(VEC, LANES, a.v[i] / b.v[i]);
}
/* a * b + c, rounded once. */
FSM_CORE VEC V(fma)(VEC a, VEC b, VEC c) {
    FSM_LANES(VEC, LANES, FMA(a.v[i], b.v[i], c.v[i]));
}
/* The larger; b where either is NaN. */
FSM_INLINE VEC V(max)(VEC a, VEC b) {
    FSM_LANES(VEC, LANES, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
/* a, but +0 where x < limit; a NaN in x keeps a. */
FSM_INLINE VEC V(zero_below)(VEC a, VEC x, VEC limit) {
    FSM_LANES(VEC, LANES, x.v[i] < limit.v[i] ? 0 : a.v[i]);
}
/* a in the first `count` lanes, +0 beyond. */
FSM_INLINE VEC V(first)(VEC a, size_t count) {
    FSM_LANES(VEC, LANES, (size_t)i < count ? a.v[i] : 0);
}
/* a, but -inf in one lane, if there is such a lane. */
FSM_INLINE VEC V(without)(VEC a, size_t lane) {
    FSM_LANES(VEC, LANES, (size_t)i == lane ? -(REAL)INFINITY : a.v[i]);
}
/* a, but +0 where t is 0. */
FSM_INLINE VEC V(where_nonzero)(VEC a, VEC t) {
    FSM_LANES(VEC, LANES, t.v[i] == 0 ? 0 : a.v[i]);
}
/* yes where a equals b, no elsewhere. */
FSM_INLINE VEC V(where_equal)(VEC a, VEC b, VEC yes, VEC no) {
    FSM_LANES(VEC, LANES, a.v[i] == b.v[i] ? yes.v[i] : no.v[i]);
}
/* Bit i is set if lane i is equal. */
FSM_INLINE unsigned V(equal)(VEC a, VEC b) {
    unsigned bits = 0;
    for (int i = 0; i < LANES; i++) {
        bits |= (unsigned)(a.v[i] == b.v[i]) << i;
    }
    return bits;
}
/* Subtracts the lanes' bits as integers, modulo 2^32 or 2^64. */
FSM_INLINE VEC V(sub_bits)(VEC a, VEC b) {
    BITS x[LANES], y[LANES];
    memcpy(x, a.v, sizeof x);
    memcpy(y, b.v, sizeof y);
    for (int i = 0; i < LANES; i++) {
        x[i] -= y[i];
    }
    memcpy(a.v, x, sizeof x);
    return a;
}
/* C * 2^(s / STEPS) for the integer s in the low 10 bits (float64: 14) of each lane of `steps`. */
FSM_INLINE VEC V(power)(VEC steps) {
    static const BITS table[FC(STEPS)] = FC(TABLE);
    const int shift = LANES == 16 ? 21 : 49; /* STEPS << shift is 1 in the exponent */
    BITS bits[LANES];
    memcpy(bits, steps.v, sizeof bits);
    for (int i = 0; i < LANES; i++) {
        bits[i] = table[bits[i] & (FC(STEPS) - 1)] + (bits[i] << shift);
    }
    memcpy(steps.v, bits, sizeof bits);
    return steps;
}
FSM_INLINE REAL V(reduce_max)(VEC a) {
    REAL largest = a.v[0];
    for (int i = 1; i < LANES; i++) {
        largest = a.v[i] > largest ? a.v[i] : largest;
    }
    return largest;
}
/* The sum of the lanes by halves: 8 apart (float32 only), 4, 2, 1. */
FSM_CORE REAL V(reduce_add)(VEC a) {
    for (int half = LANES / 2; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.v[i] += a.v[i + half];
        }
    }
    return a.v[0];
}
/* The same reductions of as many vectors as there are lanes: lane i reduces a[i]. */
FSM_CORE VEC V(fold_max)(const VEC *a) {
    FSM_LANES(VEC, LANES, V(reduce_max)(a[i]));
}
FSM_CORE VEC V(fold_add)(const VEC *a) {
    FSM_LANES(VEC, LANES, V(reduce_add)(a[i]));
}
/* Transposes COLUMNS elements of each of LANES rows, `stride` bytes apart: element c of row r is
 * lane r of a[c]. store_group is the inverse. */
FSM_CORE void V(load_group)(const REAL *p, ptrdiff_t stride, VEC *a) {
    for (int r = 0; r < LANES; r++) {
        const REAL *row = (const REAL *)((const char *)p + r * stride);
        for (int c = 0; c < COLUMNS; c++) {
            a[c].v[r] = row[c];
        }
    }
}
FSM_CORE void V(store_group)(REAL *p, ptrdiff_t stride, const VEC *a) {
    for (int r = 0; r < LANES; r++) {
        REAL *row = (REAL *)((char *)p + r * stride);
        for (int c = 0; c < COLUMNS; c++) {
            row[c] = a[c].v[r];
        }
    }
}

#elif !defined(FSM_VEC_GENERIC_H)
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

#include "format_f32.h"
#include "vec_generic.h"
#include "undefine.h"
#include "format_f64.h"
#include "vec_generic.h"
#include "undefine.h"

/* ---- float32 alone ---- */

/* The sum of the lanes' bits as integers, modulo 2^32. */
FSM_INLINE uint32_t f32x16_reduce_bits(f32x16 a) {
    uint32_t bits[16], sum = 0;
    memcpy(bits, a.v, sizeof bits);
    for (int i = 0; i < 16; i++) {
        sum += bits[i];
    }
    return sum;
}
/* The same of 16 vectors at once. */
FSM_CORE f32x16 f32x16_fold_bits(const f32x16 *a) {
    f32x16 r;
    for (int i = 0; i < 16; i++) {
        const uint32_t bits = f32x16_reduce_bits(a[i]);
        memcpy(r.v + i, &bits, sizeof bits);
    }
    return r;
}
/* Adds the lanes' bits as integers, modulo 2^32. */
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

/* load_group and store_group for 16 contiguous rows of n < 4 elements. */
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

/* ---- float64 alone ---- */

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
