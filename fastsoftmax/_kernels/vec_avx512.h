/* The vector operations on AVX-512 (F, DQ, BW, VL): f32x16 and f64x8 are one register each.
 *
 * Instructions it depends on (latency / reciprocal throughput, cycles, Golden Cove; uops.info):
 *   vfmadd 4 / 0.5, vpermps 3 / 1 (port 5), vpslld 1 / 1, vpaddd 1 / 0.5, vcmpps to mask 3 / 1,
 *   vcvtps2pd 7 / 1.
 * Tails are masked loads and stores: nothing outside the row is touched.
 *
 * Operations of both formats are one text: the first part of this file, which the second part
 * includes once for each format (format_*.h). */
#if defined(VEC) /* ---- both formats: V(add) is f32x16_add, then f64x8_add ---- */

/* Intrinsics: I(add) of lanes, IB(add) of their bits as integers. */
#if LANES == 16
#define I(name) _mm512_##name##_ps
#define IB(name) _mm512_##name##_epi32
#define BITS_OF(a) _mm512_castps_si512(a)
#define COMPARE(a, b, how) _mm512_cmp_ps_mask(a, b, how)
#define MASK __mmask16
#define LANE_NUMBERS _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#else
#define I(name) _mm512_##name##_pd
#define IB(name) _mm512_##name##_epi64
#define BITS_OF(a) _mm512_castpd_si512(a)
#define COMPARE(a, b, how) _mm512_cmp_pd_mask(a, b, how)
#define MASK __mmask8
#define LANE_NUMBERS _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)
#endif

FSM_INLINE MASK F(first)(size_t count) {
    return (MASK)((1u << count) - 1u);
}
FSM_INLINE VEC V(set1)(REAL a) {
    return I(set1)(a);
}
FSM_INLINE VEC V(load)(const REAL *p) {
    return I(loadu)(p);
}
FSM_INLINE VEC V(load_partial)(const REAL *p, size_t count, REAL fill) {
    return I(mask_loadu)(I(set1)(fill), F(first)(count), p);
}
FSM_INLINE void V(store)(REAL *p, VEC a) {
    I(storeu)(p, a);
}
FSM_INLINE void V(store_partial)(REAL *p, VEC a, size_t count) {
    I(mask_storeu)(p, F(first)(count), a);
}
FSM_INLINE void V(stream)(REAL *p, VEC a) {
    I(stream)(p, a);
}
FSM_INLINE VEC V(add)(VEC a, VEC b) {
    return I(add)(a, b);
}
FSM_INLINE VEC V(sub)(VEC a, VEC b) {
    return I(sub)(a, b);
}
FSM_INLINE VEC V(mul)(VEC a, VEC b) {
    return I(mul)(a, b);
}
FSM_INLINE VEC V(div)(VEC a, VEC b) {
    return I(div)(a, b);
}
FSM_INLINE VEC V(fma)(VEC a, VEC b, VEC c) {
    return I(fmadd)(a, b, c);
}
FSM_INLINE VEC V(max)(VEC a, VEC b) {
    return I(max)(a, b);
}
FSM_INLINE VEC V(zero_below)(VEC a, VEC x, VEC limit) {
    return I(maskz_mov)(COMPARE(x, limit, _CMP_NLT_UQ), a);
}
FSM_INLINE VEC V(first)(VEC a, size_t count) {
    return I(maskz_mov)(F(first)(count), a);
}
FSM_INLINE VEC V(without)(VEC a, size_t lane) {
    const MASK at = (MASK)(lane < LANES ? 1u << lane : 0u);
    return I(mask_mov)(a, at, I(set1)(-INFINITY));
}
FSM_INLINE VEC V(where_nonzero)(VEC a, VEC t) {
    return I(maskz_mov)(COMPARE(t, I(setzero)(), _CMP_NEQ_UQ), a);
}
FSM_INLINE VEC V(where_equal)(VEC a, VEC b, VEC yes, VEC no) {
    return I(mask_mov)(no, COMPARE(a, b, _CMP_EQ_OQ), yes);
}
FSM_INLINE unsigned V(equal)(VEC a, VEC b) {
    return (unsigned)COMPARE(a, b, _CMP_EQ_OQ);
}
FSM_INLINE VEC V(sub_bits)(VEC a, VEC b) {
    return I(castsi512)(IB(sub)(BITS_OF(a), BITS_OF(b)));
}
/* Lanes of a and b by index `first`, but where mask `third` is set of c by index `last`. */
FSM_INLINE VEC F(every_third)(VEC a, VEC b, VEC c, __m512i first, MASK third, __m512i last) {
    return I(mask_permutexvar)(I(permutex2var)(a, first, b), third, last, c);
}
FSM_INLINE void V(load_narrow)(const REAL *p, size_t n, VEC *a) {
    const VEC v0 = V(load)(p);
    if (n == 1) {
        a[0] = v0;
        return;
    }
    const VEC v1 = V(load)(p + LANES);
    const __m512i lane = LANE_NUMBERS;
    const __m512i one = IB(set1)(1), two = IB(set1)(2);
    if (n == 2) {
        const __m512i even = IB(add)(lane, lane);
        a[0] = I(permutex2var)(v0, even, v1);
        a[1] = I(permutex2var)(v0, IB(add)(even, one), v1);
        return;
    }
    const VEC v2 = V(load)(p + 2 * LANES);
    const __m512i at = IB(add)(IB(add)(lane, lane), lane);
    const __m512i at1 = IB(add)(at, one), at2 = IB(add)(at, two);
    /* From lane (2 * LANES + 2 - c) / 3 of a[c] on, the indices are beyond the second vector's and
     * wrap around to those of the third. */
    const MASK beyond = (MASK)~F(first)((2 * LANES + 2) / 3);
    const MASK beyond1 = (MASK)~F(first)((2 * LANES + 1) / 3);
    const MASK beyond2 = (MASK)~F(first)(2 * LANES / 3);
    a[0] = F(every_third)(v0, v1, v2, at, beyond, at);
    a[1] = F(every_third)(v0, v1, v2, at1, beyond1, at1);
    a[2] = F(every_third)(v0, v1, v2, at2, beyond2, at2);
}

#undef I
#undef IB
#undef BITS_OF
#undef COMPARE
#undef MASK
#undef LANE_NUMBERS

#elif !defined(FSM_VEC_AVX512_H)
#define FSM_VEC_AVX512_H

#include <immintrin.h>

#include "coefficients.h"

typedef __m512 f32x16;
typedef __m512d f64x8;

#define FSM_STREAMS
#define F64_NARROW 3

#include "format_f32.h"
#include "vec_avx512.h"
#include "undefine.h"
#include "format_f64.h"
#include "vec_avx512.h"
#include "undefine.h"

/* ---- float32 alone ---- */

FSM_INLINE f32x16 f32x16_power(f32x16 steps) {
    static const uint32_t table[4] = F32_TABLE;
    const __m512 entries = _mm512_broadcast_f32x4(_mm_loadu_ps((const float *)table));
    const __m512i bits = _mm512_castps_si512(steps);
    const __m512 entry = _mm512_permutevar_ps(entries, bits);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(entry), _mm512_slli_epi32(bits, 21)));
}
FSM_INLINE float f32x16_reduce_max(f32x16 a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
FSM_INLINE float f32x16_reduce_add(f32x16 a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
FSM_INLINE f32x16 f32x16_add_bits(f32x16 a, f32x16 b) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
FSM_INLINE uint32_t f32x16_reduce_bits(f32x16 a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(bits), _mm512_extracti32x8_epi32(bits, 1));
    __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    quarter = _mm_add_epi32(quarter, _mm_unpackhi_epi64(quarter, quarter));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 1)));
}
/* Reductions of sixteen vectors at once by a commutative operation `join`. When halves and quarters
 * are joined, one operand takes them of each of two vectors as they lie (a blend), so that only the
 * other has to be moved. */
#define FSM_FOLD16(name, join)                                                                     \
    FSM_INLINE f32x16 name(const f32x16 *a) {                                                      \
        f32x16 half[8], quarter[4], pair[2];                                                       \
        for (int r = 0; r < 8; r++) {                                                              \
            half[r] = join(_mm512_mask_mov_ps(a[r], 0xFF00, a[r + 8]),                             \
                           _mm512_shuffle_f32x4(a[r], a[r + 8], 0x4E));                            \
        }                                                                                          \
        for (int r = 0; r < 4; r++) {                                                              \
            const f32x16 other = _mm512_mask_mov_ps(half[r + 4], 0xF0F0, half[r]);                 \
            quarter[r] = join(_mm512_mask_mov_ps(half[r], 0xF0F0, half[r + 4]),                    \
                              _mm512_shuffle_f32x4(other, other, 0xB1));                           \
        }                                                                                          \
        for (int r = 0; r < 2; r++) {                                                              \
            const __m512d p = _mm512_castps_pd(quarter[2 * r]);                                    \
            const __m512d q = _mm512_castps_pd(quarter[2 * r + 1]);                                \
            pair[r] = join(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)),                             \
                           _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));                            \
        }                                                                                          \
        return join(_mm512_shuffle_ps(pair[0], pair[1], 0x88),                                     \
                    _mm512_shuffle_ps(pair[0], pair[1], 0xDD));                                    \
    }
FSM_FOLD16(f32x16_fold_max, _mm512_max_ps)
FSM_FOLD16(f32x16_fold_add, _mm512_add_ps)
FSM_FOLD16(f32x16_fold_bits, f32x16_add_bits)
#undef FSM_FOLD16
FSM_INLINE void f32x16_split_bits(f32x16 a, uint32_t offset, f32x16 *hi, f32x16 *lo) {
    const __m512i count =
        _mm512_sub_epi32(_mm512_castps_si512(a), _mm512_set1_epi32((int32_t)offset));
    *hi = _mm512_cvtepi32_ps(count);
    *lo = _mm512_cvtepi32_ps(_mm512_sub_epi32(count, _mm512_cvttps_epi32(*hi)));
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* Rows r, r + 4, r + 8, r + 12 in one register: inserting from memory is a blend, not a shuffle. */
FSM_INLINE f32x16 f32_load_quarters(const char *row, ptrdiff_t stride) {
    f32x16 a = _mm512_castps128_ps512(_mm_loadu_ps((const float *)row));
    a = _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 4 * stride)), 1);
    a = _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 8 * stride)), 2);
    return _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 12 * stride)), 3);
}
FSM_INLINE void f32_store_quarters(char *row, ptrdiff_t stride, f32x16 a) {
    _mm_storeu_ps((float *)row, _mm512_castps512_ps128(a));
    _mm_storeu_ps((float *)(row + 4 * stride), _mm512_extractf32x4_ps(a, 1));
    _mm_storeu_ps((float *)(row + 8 * stride), _mm512_extractf32x4_ps(a, 2));
    _mm_storeu_ps((float *)(row + 12 * stride), _mm512_extractf32x4_ps(a, 3));
}
/* Transposes four by four elements within each quarter. */
FSM_INLINE void f32_transpose_quarters(f32x16 *a) {
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(a[0], a[1]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(a[0], a[1]));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(a[2], a[3]));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(a[2], a[3]));
    a[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    a[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    a[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    a[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
}
FSM_INLINE void f32x16_load_group(const float *p, ptrdiff_t stride, f32x16 *a) {
    for (int r = 0; r < 4; r++) {
        a[r] = f32_load_quarters((const char *)p + r * stride, stride);
    }
    f32_transpose_quarters(a);
}
FSM_INLINE void f32x16_store_group(float *p, ptrdiff_t stride, const f32x16 *a) {
    f32x16 rows[4] = {a[0], a[1], a[2], a[3]};
    f32_transpose_quarters(rows);
    for (int r = 0; r < 4; r++) {
        f32_store_quarters((char *)p + r * stride, stride, rows[r]);
    }
}
FSM_INLINE void f32x16_store_narrow(float *p, size_t n, const f32x16 *a) {
    if (n == 1) {
        f32x16_store(p, a[0]);
        return;
    }
    if (n == 2) {
        const __m512i low =
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        f32x16_store(p, _mm512_permutex2var_ps(a[0], low, a[1]));
        f32x16_store(p + 16, _mm512_permutex2var_ps(a[0], high, a[1]));
        return;
    }
    const __m512i first = _mm512_setr_epi32(0, 16, 0, 1, 17, 1, 2, 18, 2, 3, 19, 3, 4, 20, 4, 5);
    const __m512i second = _mm512_setr_epi32(21, 5, 6, 22, 6, 7, 23, 7, 8, 24, 8, 9, 25, 9, 10, 26);
    const __m512i third =
        _mm512_setr_epi32(10, 11, 27, 11, 12, 28, 12, 13, 29, 13, 14, 30, 14, 15, 31, 15);
    f32x16_store(p, f32_every_third(a[0], a[1], a[2], first, 0x4924, first));
    f32x16_store(p + 16, f32_every_third(a[0], a[1], a[2], second, 0x2492, second));
    f32x16_store(p + 32, f32_every_third(a[0], a[1], a[2], third, 0x9249, third));
}

/* ---- float64 alone ---- */

FSM_INLINE f64x8 f64x8_power(f64x8 steps) {
    const uint64_t table[8] = F64_TABLE;
    const __m512i entries = _mm512_loadu_si512(table);
    const __m512i bits = _mm512_castpd_si512(steps);
    return _mm512_castsi512_pd(
        _mm512_add_epi64(_mm512_permutexvar_epi64(bits, entries), _mm512_slli_epi64(bits, 49)));
}
FSM_INLINE double f64x8_reduce_max(f64x8 a) {
    const __m256d half = _mm256_max_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    const __m128d quarter =
        _mm_max_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_max_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
FSM_INLINE double f64x8_reduce_add(f64x8 a) {
    const __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    const __m128d quarter =
        _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_add_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
#define FSM_FOLD8(name, join)                                                                      \
    FSM_INLINE f64x8 name(const f64x8 *a) {                                                        \
        f64x8 half[4], quarter[2];                                                                 \
        for (int r = 0; r < 4; r++) {                                                              \
            half[r] = join(_mm512_mask_mov_pd(a[r], 0xF0, a[r + 4]),                               \
                           _mm512_shuffle_f64x2(a[r], a[r + 4], 0x4E));                            \
        }                                                                                          \
        for (int r = 0; r < 2; r++) {                                                              \
            const f64x8 other = _mm512_mask_mov_pd(half[r + 2], 0xCC, half[r]);                    \
            quarter[r] = join(_mm512_mask_mov_pd(half[r], 0xCC, half[r + 2]),                      \
                              _mm512_shuffle_f64x2(other, other, 0xB1));                           \
        }                                                                                          \
        return join(_mm512_unpacklo_pd(quarter[0], quarter[1]),                                    \
                    _mm512_unpackhi_pd(quarter[0], quarter[1]));                                   \
    }
FSM_FOLD8(f64x8_fold_max, _mm512_max_pd)
FSM_FOLD8(f64x8_fold_add, _mm512_add_pd)
#undef FSM_FOLD8

FSM_INLINE f64x8 f64x8_fold4(f64x8 a) {
    return _mm512_shuffle_f64x2(a, a, 0x4E);
}
FSM_INLINE f64x8 f64x8_fold2(f64x8 a) {
    return _mm512_shuffle_f64x2(a, a, 0xB1);
}
FSM_INLINE f64x8 f64x8_fold1(f64x8 a) {
    return _mm512_permute_pd(a, 0x55);
}
FSM_INLINE double f64x8_lane0(f64x8 a) {
    return _mm512_cvtsd_f64(a);
}
FSM_INLINE f64x8 f64x8_widen_low(f32x16 a) {
    return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}
FSM_INLINE f64x8 f64x8_widen_high(f32x16 a) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}

FSM_INLINE f32x16 f32x16_narrow(f64x8 low, f64x8 high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high),
                              1);
}
FSM_INLINE f64x8 f64x8_binade(f64x8 a, uint64_t from) {
    const __m512i above =
        _mm512_sub_epi64(_mm512_castpd_si512(a), _mm512_set1_epi64((long long)from));
    return _mm512_cvtepi64_pd(_mm512_srli_epi64(above, 52));
}
FSM_INLINE f64x8 f64x8_power_of_two(f64x8 k) {
    const __m512i biased = _mm512_castpd_si512(_mm512_add_pd(k, _mm512_set1_pd(0x1.8p52 + 1023)));
    return _mm512_castsi512_pd(_mm512_slli_epi64(biased, 52));
}
/* Even rows in one register, odd ones in the other. */
FSM_INLINE f64x8 f64_load_quarters(const char *row, ptrdiff_t stride) {
    f64x8 a = _mm512_castpd128_pd512(_mm_loadu_pd((const double *)row));
    a = _mm512_insertf64x2(a, _mm_loadu_pd((const double *)(row + 2 * stride)), 1);
    a = _mm512_insertf64x2(a, _mm_loadu_pd((const double *)(row + 4 * stride)), 2);
    return _mm512_insertf64x2(a, _mm_loadu_pd((const double *)(row + 6 * stride)), 3);
}
FSM_INLINE void f64_store_quarters(char *row, ptrdiff_t stride, f64x8 a) {
    _mm_storeu_pd((double *)row, _mm512_castpd512_pd128(a));
    _mm_storeu_pd((double *)(row + 2 * stride), _mm512_extractf64x2_pd(a, 1));
    _mm_storeu_pd((double *)(row + 4 * stride), _mm512_extractf64x2_pd(a, 2));
    _mm_storeu_pd((double *)(row + 6 * stride), _mm512_extractf64x2_pd(a, 3));
}
FSM_INLINE void f64x8_load_group(const double *p, ptrdiff_t stride, f64x8 *a) {
    const f64x8 even = f64_load_quarters((const char *)p, stride);
    const f64x8 odd = f64_load_quarters((const char *)p + stride, stride);
    a[0] = _mm512_unpacklo_pd(even, odd);
    a[1] = _mm512_unpackhi_pd(even, odd);
}
FSM_INLINE void f64x8_store_group(double *p, ptrdiff_t stride, const f64x8 *a) {
    f64_store_quarters((char *)p, stride, _mm512_unpacklo_pd(a[0], a[1]));
    f64_store_quarters((char *)p + stride, stride, _mm512_unpackhi_pd(a[0], a[1]));
}
FSM_INLINE void f64x8_store_narrow(double *p, size_t n, const f64x8 *a) {
    if (n == 1) {
        f64x8_store(p, a[0]);
        return;
    }
    if (n == 2) {
        const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        const __m512i high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
        f64x8_store(p, _mm512_permutex2var_pd(a[0], low, a[1]));
        f64x8_store(p + 8, _mm512_permutex2var_pd(a[0], high, a[1]));
        return;
    }
    const __m512i first = _mm512_setr_epi64(0, 8, 0, 1, 9, 1, 2, 10);
    const __m512i second = _mm512_setr_epi64(2, 3, 11, 3, 4, 12, 4, 5);
    const __m512i third = _mm512_setr_epi64(13, 5, 6, 14, 6, 7, 15, 7);
    f64x8_store(p, f64_every_third(a[0], a[1], a[2], first, 0x24, first));
    f64x8_store(p + 8, f64_every_third(a[0], a[1], a[2], second, 0x49, second));
    f64x8_store(p + 16, f64_every_third(a[0], a[1], a[2], third, 0x92, third));
}

#endif
