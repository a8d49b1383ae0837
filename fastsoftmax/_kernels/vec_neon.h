/* The vector operations on Advanced SIMD (AArch64): f32x16 and f64x8 are four registers each.
 *
 * The table look-ups are byte look-ups (TBL): over one register for four floats, over four for
 * eight doubles.
 *
 * Operations of both formats are one text: the first part of this file, which the second part
 * includes once for each format (format_*.h). */
#if defined(VEC) /* ---- both formats: V(add) is f32x16_add, then f64x8_add ---- */

/* Intrinsics: I(vadd) of lanes, IB(vadd) of their bits as integers. */
#if LANES == 16
#define REGISTER float32x4_t
#define REGISTERS_2 float32x4x2_t
#define REGISTERS_3 float32x4x3_t
#define I(name) name##q_f32
#define IB(name) name##q_u32
#define SPREAD(a) vdupq_n_f32(a)
#define BITS_OF(a) vreinterpretq_u32_f32(a)
#define LANES_OF(bits) vreinterpretq_f32_u32(bits)
#else
#define REGISTER float64x2_t
#define REGISTERS_2 float64x2x2_t
#define REGISTERS_3 float64x2x3_t
#define I(name) name##q_f64
#define IB(name) name##q_u64
#define SPREAD(a) vdupq_n_f64(a)
#define BITS_OF(a) vreinterpretq_u64_f64(a)
#define LANES_OF(bits) vreinterpretq_f64_u64(bits)
#endif
/* Lanes of a register. */
#define QUARTER (LANES / 4)

FSM_INLINE VEC V(set1)(REAL a) {
    FSM_QUARTERS(VEC, SPREAD(a));
}
FSM_INLINE VEC V(load)(const REAL *p) {
    FSM_QUARTERS(VEC, I(vld1)(p + QUARTER * i));
}
FSM_INLINE VEC V(load_partial)(const REAL *p, size_t count, REAL fill) {
    REAL lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        lanes[i] = fill;
    }
    memcpy(lanes, p, count * sizeof lanes[0]);
    return V(load)(lanes);
}
FSM_INLINE void V(store)(REAL *p, VEC a) {
    for (int i = 0; i < 4; i++) {
        I(vst1)(p + QUARTER * i, a.v[i]);
    }
}
FSM_INLINE void V(store_partial)(REAL *p, VEC a, size_t count) {
    REAL lanes[LANES];
    V(store)(lanes, a);
    memcpy(p, lanes, count * sizeof lanes[0]);
}
FSM_INLINE void V(stream)(REAL *p, VEC a) {
    V(store)(p, a);
}
FSM_INLINE VEC V(add)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, I(vadd)(a.v[i], b.v[i]));
}
FSM_INLINE VEC V(sub)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, I(vsub)(a.v[i], b.v[i]));
}
FSM_INLINE VEC V(mul)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, I(vmul)(a.v[i], b.v[i]));
}
FSM_INLINE VEC V(div)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, I(vdiv)(a.v[i], b.v[i]));
}
FSM_INLINE VEC V(fma)(VEC a, VEC b, VEC c) {
    FSM_QUARTERS(VEC, I(vfma)(c.v[i], a.v[i], b.v[i]));
}
/* FMAX would return the NaN; the operation is to return b. */
FSM_INLINE REGISTER F(max)(REGISTER a, REGISTER b) {
    return I(vbsl)(I(vcgt)(a, b), a, b);
}
FSM_INLINE VEC V(max)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, F(max)(a.v[i], b.v[i]));
}
FSM_INLINE VEC V(zero_below)(VEC a, VEC x, VEC limit) {
    FSM_QUARTERS(VEC, LANES_OF(IB(vbic)(BITS_OF(a.v[i]), I(vclt)(x.v[i], limit.v[i]))));
}
FSM_INLINE VEC V(first)(VEC a, size_t count) {
    REAL lanes[LANES];
    V(store)(lanes, a);
    return V(load_partial)(lanes, count, 0);
}
FSM_INLINE VEC V(without)(VEC a, size_t lane) {
    REAL lanes[LANES];
    V(store)(lanes, a);
    if (lane < LANES) {
        lanes[lane] = -(REAL)INFINITY;
    }
    return V(load)(lanes);
}
FSM_INLINE VEC V(where_nonzero)(VEC a, VEC t) {
    FSM_QUARTERS(VEC, LANES_OF(IB(vbic)(BITS_OF(a.v[i]), I(vceqz)(t.v[i]))));
}
FSM_INLINE VEC V(where_equal)(VEC a, VEC b, VEC yes, VEC no) {
    FSM_QUARTERS(VEC, I(vbsl)(I(vceq)(a.v[i], b.v[i]), yes.v[i], no.v[i]));
}
FSM_INLINE REAL V(reduce_max)(VEC a) {
    REAL lanes[LANES];
    V(store)(lanes, a);
    REAL largest = lanes[0];
    for (int i = 1; i < LANES; i++) {
        largest = lanes[i] > largest ? lanes[i] : largest;
    }
    return largest;
}
FSM_INLINE VEC V(sub_bits)(VEC a, VEC b) {
    FSM_QUARTERS(VEC, LANES_OF(IB(vsub)(BITS_OF(a.v[i]), BITS_OF(b.v[i]))));
}
FSM_INLINE void V(load_narrow)(const REAL *p, size_t n, VEC *a) {
    if (n == 1) {
        a[0] = V(load)(p);
        return;
    }
    for (int q = 0; q < 4; q++) {
        if (n == 2) {
            const REGISTERS_2 rows = I(vld2)(p + 2 * QUARTER * q);
            a[0].v[q] = rows.val[0];
            a[1].v[q] = rows.val[1];
        } else {
            const REGISTERS_3 rows = I(vld3)(p + 3 * QUARTER * q);
            a[0].v[q] = rows.val[0];
            a[1].v[q] = rows.val[1];
            a[2].v[q] = rows.val[2];
        }
    }
}
FSM_INLINE void V(store_narrow)(REAL *p, size_t n, const VEC *a) {
    if (n == 1) {
        V(store)(p, a[0]);
        return;
    }
    for (int q = 0; q < 4; q++) {
        if (n == 2) {
            const REGISTERS_2 rows = {{a[0].v[q], a[1].v[q]}};
            I(vst2)(p + 2 * QUARTER * q, rows);
        } else {
            const REGISTERS_3 rows = {{a[0].v[q], a[1].v[q], a[2].v[q]}};
            I(vst3)(p + 3 * QUARTER * q, rows);
        }
    }
}

#undef REGISTER
#undef REGISTERS_2
#undef REGISTERS_3
#undef I
#undef IB
#undef SPREAD
#undef BITS_OF
#undef LANES_OF
#undef QUARTER

#elif !defined(FSM_VEC_NEON_H)
#define FSM_VEC_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "coefficients.h"

typedef struct {
    float32x4_t v[4];
} f32x16;
typedef struct {
    float64x2_t v[4];
} f64x8;

#define FSM_QUARTERS(type, expression)                                                             \
    type r;                                                                                        \
    for (int i = 0; i < 4; i++) {                                                                  \
        r.v[i] = (expression);                                                                     \
    }                                                                                              \
    return r

#define F64_NARROW 3

#include "format_f32.h"
#include "vec_neon.h"
#include "undefine.h"
#include "format_f64.h"
#include "vec_neon.h"
#include "undefine.h"

/* ---- float32 alone ---- */

FSM_INLINE unsigned f32x16_equal(f32x16 a, f32x16 b) {
    const uint32x4_t weight = {1, 2, 4, 8};
    unsigned bits = 0;
    for (int i = 0; i < 4; i++) {
        bits |= vaddvq_u32(vandq_u32(vceqq_f32(a.v[i], b.v[i]), weight)) << (4 * i);
    }
    return bits;
}
FSM_INLINE f32x16 f32x16_power(f32x16 steps) {
    static const uint32_t table[4] = F32_TABLE;
    const uint8x16_t entries = vreinterpretq_u8_u32(vld1q_u32(table));
    f32x16 r;
    for (int i = 0; i < 4; i++) {
        const uint32x4_t bits = vreinterpretq_u32_f32(steps.v[i]);
        /* Byte addresses 4j .. 4j + 3 of entry j. */
        const uint32x4_t bytes = vmlaq_u32(
            vdupq_n_u32(0x03020100u), vandq_u32(bits, vdupq_n_u32(3)), vdupq_n_u32(0x04040404u));
        const uint8x16_t entry = vqtbl1q_u8(entries, vreinterpretq_u8_u32(bytes));
        r.v[i] =
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_u8(entry), vshlq_n_u32(bits, 21)));
    }
    return r;
}
FSM_INLINE float32x4_t f32_add_bits4(float32x4_t a, float32x4_t b) {
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
}
FSM_INLINE float f32x16_reduce_add(f32x16 a) {
    const float32x4_t quarter = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t pair = vadd_f32(vget_low_f32(quarter), vget_high_f32(quarter));
    return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}
FSM_INLINE f32x16 f32x16_add_bits(f32x16 a, f32x16 b) {
    FSM_QUARTERS(f32x16, f32_add_bits4(a.v[i], b.v[i]));
}
FSM_INLINE uint32_t f32x16_reduce_bits(f32x16 a) {
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += vaddvq_u32(vreinterpretq_u32_f32(a.v[i]));
    }
    return sum;
}
/* Reductions of four vectors at a time by a commutative operation `join`. */
#define FSM_FOLD4(name, join)                                                                      \
    FSM_INLINE float32x4_t name##4(const f32x16 *a) {                                              \
        float64x2_t quarter[4];                                                                    \
        for (int r = 0; r < 4; r++) {                                                              \
            quarter[r] = vreinterpretq_f64_f32(                                                    \
                join(join(a[r].v[0], a[r].v[2]), join(a[r].v[1], a[r].v[3])));                     \
        }                                                                                          \
        const float32x4_t low = join(vreinterpretq_f32_f64(vzip1q_f64(quarter[0], quarter[1])),    \
                                     vreinterpretq_f32_f64(vzip2q_f64(quarter[0], quarter[1])));   \
        const float32x4_t high = join(vreinterpretq_f32_f64(vzip1q_f64(quarter[2], quarter[3])),   \
                                      vreinterpretq_f32_f64(vzip2q_f64(quarter[2], quarter[3])));  \
        return join(vuzp1q_f32(low, high), vuzp2q_f32(low, high));                                 \
    }                                                                                              \
    FSM_INLINE f32x16 name(const f32x16 *a) {                                                      \
        FSM_QUARTERS(f32x16, name##4(a + 4 * i));                                                  \
    }
FSM_FOLD4(f32x16_fold_max, f32_max)
FSM_FOLD4(f32x16_fold_add, vaddq_f32)
FSM_FOLD4(f32x16_fold_bits, f32_add_bits4)
#undef FSM_FOLD4
FSM_INLINE void f32x16_split_bits(f32x16 a, uint32_t offset, f32x16 *hi, f32x16 *lo) {
    for (int i = 0; i < 4; i++) {
        const int32x4_t count =
            vreinterpretq_s32_u32(vsubq_u32(vreinterpretq_u32_f32(a.v[i]), vdupq_n_u32(offset)));
        hi->v[i] = vcvtq_f32_s32(count);
        lo->v[i] = vcvtq_f32_s32(vsubq_s32(count, vcvtq_s32_f32(hi->v[i])));
    }
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    FSM_QUARTERS(f32x16, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) {
    for (int i = 0; i < 4; i++) {
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
    }
}

FSM_INLINE void f32x16_load_group(const float *p, ptrdiff_t stride, f32x16 *a) {
    const char *row = (const char *)p;
    for (int q = 0; q < 4; q++, row += 4 * stride) {
        const float32x4_t r0 = vld1q_f32((const float *)row);
        const float32x4_t r1 = vld1q_f32((const float *)(row + stride));
        const float32x4_t r2 = vld1q_f32((const float *)(row + 2 * stride));
        const float32x4_t r3 = vld1q_f32((const float *)(row + 3 * stride));
        const float32x4_t even_low = vzip1q_f32(r0, r2), odd_low = vzip1q_f32(r1, r3);
        const float32x4_t even_high = vzip2q_f32(r0, r2), odd_high = vzip2q_f32(r1, r3);
        a[0].v[q] = vzip1q_f32(even_low, odd_low);
        a[1].v[q] = vzip2q_f32(even_low, odd_low);
        a[2].v[q] = vzip1q_f32(even_high, odd_high);
        a[3].v[q] = vzip2q_f32(even_high, odd_high);
    }
}
FSM_INLINE void f32x16_store_group(float *p, ptrdiff_t stride, const f32x16 *a) {
    char *row = (char *)p;
    for (int q = 0; q < 4; q++, row += 4 * stride) {
        const float32x4_t even_low = vzip1q_f32(a[0].v[q], a[2].v[q]);
        const float32x4_t odd_low = vzip1q_f32(a[1].v[q], a[3].v[q]);
        const float32x4_t even_high = vzip2q_f32(a[0].v[q], a[2].v[q]);
        const float32x4_t odd_high = vzip2q_f32(a[1].v[q], a[3].v[q]);
        vst1q_f32((float *)row, vzip1q_f32(even_low, odd_low));
        vst1q_f32((float *)(row + stride), vzip2q_f32(even_low, odd_low));
        vst1q_f32((float *)(row + 2 * stride), vzip1q_f32(even_high, odd_high));
        vst1q_f32((float *)(row + 3 * stride), vzip2q_f32(even_high, odd_high));
    }
}

/* ---- float64 alone ---- */

FSM_INLINE unsigned f64x8_equal(f64x8 a, f64x8 b) {
    const uint64x2_t weight = {1, 2};
    unsigned bits = 0;
    for (int i = 0; i < 4; i++) {
        bits |= (unsigned)vaddvq_u64(vandq_u64(vceqq_f64(a.v[i], b.v[i]), weight)) << (2 * i);
    }
    return bits;
}
FSM_INLINE f64x8 f64x8_power(f64x8 steps) {
    static const uint64_t table[8] = F64_TABLE;
    const uint8x16x4_t entries = {
        {vreinterpretq_u8_u64(vld1q_u64(table)), vreinterpretq_u8_u64(vld1q_u64(table + 2)),
         vreinterpretq_u8_u64(vld1q_u64(table + 4)), vreinterpretq_u8_u64(vld1q_u64(table + 6))}};
    const uint32x4_t eight = vdupq_n_u32(0x08080808u);
    const uint32x4_t offsets = {0x03020100u, 0x07060504u, 0x03020100u, 0x07060504u};
    f64x8 r;
    for (int i = 0; i < 4; i++) {
        const uint64x2_t bits = vreinterpretq_u64_f64(steps.v[i]);
        /* j in both words of the lane, then byte addresses 8j .. 8j + 7. */
        const uint64x2_t index = vandq_u64(bits, vdupq_n_u64(7));
        const uint32x4_t words = vreinterpretq_u32_u64(vsliq_n_u64(index, index, 32));
        const uint32x4_t bytes = vmlaq_u32(offsets, words, eight);
        const uint8x16_t entry = vqtbl4q_u8(entries, vreinterpretq_u8_u32(bytes));
        r.v[i] =
            vreinterpretq_f64_u64(vaddq_u64(vreinterpretq_u64_u8(entry), vshlq_n_u64(bits, 49)));
    }
    return r;
}
FSM_INLINE double f64x8_reduce_add(f64x8 a) {
    const float64x2_t pair = vaddq_f64(vaddq_f64(a.v[0], a.v[2]), vaddq_f64(a.v[1], a.v[3]));
    return vgetq_lane_f64(pair, 0) + vgetq_lane_f64(pair, 1);
}
#define FSM_FOLD2(name, join)                                                                      \
    FSM_INLINE float64x2_t name##2(const f64x8 *a) {                                               \
        float64x2_t pair[2];                                                                       \
        for (int r = 0; r < 2; r++) {                                                              \
            pair[r] = join(join(a[r].v[0], a[r].v[2]), join(a[r].v[1], a[r].v[3]));                \
        }                                                                                          \
        return join(vzip1q_f64(pair[0], pair[1]), vzip2q_f64(pair[0], pair[1]));                   \
    }                                                                                              \
    FSM_INLINE f64x8 name(const f64x8 *a) {                                                        \
        FSM_QUARTERS(f64x8, name##2(a + 2 * i));                                                   \
    }
FSM_FOLD2(f64x8_fold_max, f64_max)
FSM_FOLD2(f64x8_fold_add, vaddq_f64)
#undef FSM_FOLD2
FSM_INLINE f64x8 f64x8_fold4(f64x8 a) {
    return (f64x8){{a.v[2], a.v[3], a.v[0], a.v[1]}};
}
FSM_INLINE f64x8 f64x8_fold2(f64x8 a) {
    return (f64x8){{a.v[1], a.v[0], a.v[3], a.v[2]}};
}
FSM_INLINE f64x8 f64x8_fold1(f64x8 a) {
    FSM_QUARTERS(f64x8, vextq_f64(a.v[i], a.v[i], 1));
}
FSM_INLINE double f64x8_lane0(f64x8 a) {
    return vgetq_lane_f64(a.v[0], 0);
}
FSM_INLINE f64x8 f64_widen(float32x4_t low, float32x4_t high) {
    return (f64x8){{vcvt_f64_f32(vget_low_f32(low)), vcvt_high_f64_f32(low),
                    vcvt_f64_f32(vget_low_f32(high)), vcvt_high_f64_f32(high)}};
}
FSM_INLINE f64x8 f64x8_widen_low(f32x16 a) {
    return f64_widen(a.v[0], a.v[1]);
}
FSM_INLINE f64x8 f64x8_widen_high(f32x16 a) {
    return f64_widen(a.v[2], a.v[3]);
}
FSM_INLINE f32x16 f32x16_narrow(f64x8 low, f64x8 high) {
    return (f32x16){{vcvt_high_f32_f64(vcvt_f32_f64(low.v[0]), low.v[1]),
                     vcvt_high_f32_f64(vcvt_f32_f64(low.v[2]), low.v[3]),
                     vcvt_high_f32_f64(vcvt_f32_f64(high.v[0]), high.v[1]),
                     vcvt_high_f32_f64(vcvt_f32_f64(high.v[2]), high.v[3])}};
}
FSM_INLINE f64x8 f64x8_binade(f64x8 a, uint64_t from) {
    const uint64x2_t below = vdupq_n_u64(from);
    FSM_QUARTERS(f64x8,
                 vcvtq_f64_u64(vshrq_n_u64(vsubq_u64(vreinterpretq_u64_f64(a.v[i]), below), 52)));
}
FSM_INLINE f64x8 f64x8_power_of_two(f64x8 k) {
    const float64x2_t bias = vdupq_n_f64(0x1.8p52 + 1023);
    FSM_QUARTERS(f64x8, vreinterpretq_f64_u64(
                            vshlq_n_u64(vreinterpretq_u64_f64(vaddq_f64(k.v[i], bias)), 52)));
}
FSM_INLINE void f64x8_load_group(const double *p, ptrdiff_t stride, f64x8 *a) {
    const char *row = (const char *)p;
    for (int q = 0; q < 4; q++, row += 2 * stride) {
        const float64x2_t even = vld1q_f64((const double *)row);
        const float64x2_t odd = vld1q_f64((const double *)(row + stride));
        a[0].v[q] = vzip1q_f64(even, odd);
        a[1].v[q] = vzip2q_f64(even, odd);
    }
}
FSM_INLINE void f64x8_store_group(double *p, ptrdiff_t stride, const f64x8 *a) {
    char *row = (char *)p;
    for (int q = 0; q < 4; q++, row += 2 * stride) {
        vst1q_f64((double *)row, vzip1q_f64(a[0].v[q], a[1].v[q]));
        vst1q_f64((double *)(row + stride), vzip2q_f64(a[0].v[q], a[1].v[q]));
    }
}
#undef FSM_QUARTERS

#endif
