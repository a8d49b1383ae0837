/* The vector vocabulary on AVX-512 (F, DQ, BW, VL): f32x16 and f64x8 are one register each.
 *
 * Leans on (latency / reciprocal throughput, cycles, Golden Cove; uops.info):
 *   vfmadd 4 / 0.5, vpermps 3 / 1 (port 5), vpslld 1 / 1, vpaddd 1 / 0.5, vcmpps to mask 3 / 1, vcvtps2pd 7 / 1.
 * Tails are masked loads and stores: nothing outside the row is touched.
 */
#ifndef FSM_VEC_AVX512_H
#define FSM_VEC_AVX512_H

#include <immintrin.h>

#include "coefficients.h"

typedef __m512 f32x16;
typedef __m512d f64x8;

FSM_INLINE __mmask16 f32_first(size_t count) {
    return (__mmask16)((1u << count) - 1u);
}
FSM_INLINE __mmask8 f64_first(size_t count) {
    return (__mmask8)((1u << count) - 1u);
}

/* ---- f32x16 ---- */

FSM_INLINE f32x16 f32x16_set1(float a) {
    return _mm512_set1_ps(a);
}
FSM_INLINE f32x16 f32x16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
FSM_INLINE f32x16 f32x16_load_partial(const float *p, size_t count, float fill) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), f32_first(count), p);
}
FSM_INLINE void f32x16_store(float *p, f32x16 a) {
    _mm512_storeu_ps(p, a);
}
FSM_INLINE void f32x16_store_partial(float *p, f32x16 a, size_t count) {
    _mm512_mask_storeu_ps(p, f32_first(count), a);
}
FSM_INLINE void f32x16_stream(float *p, f32x16 a) {
    _mm512_stream_ps(p, a);
}
FSM_INLINE f32x16 f32x16_add(f32x16 a, f32x16 b) {
    return _mm512_add_ps(a, b);
}
FSM_INLINE f32x16 f32x16_sub(f32x16 a, f32x16 b) {
    return _mm512_sub_ps(a, b);
}
FSM_INLINE f32x16 f32x16_mul(f32x16 a, f32x16 b) {
    return _mm512_mul_ps(a, b);
}
FSM_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
FSM_INLINE f32x16 f32x16_max(f32x16 a, f32x16 b) {
    return _mm512_max_ps(a, b);
}
FSM_INLINE f32x16 f32x16_zero_below(f32x16 a, f32x16 x, f32x16 limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}
FSM_INLINE f32x16 f32x16_first(f32x16 a, size_t count) {
    return _mm512_maskz_mov_ps(f32_first(count), a);
}
FSM_INLINE f32x16 f32x16_where_nonzero(f32x16 a, f32x16 t) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_NEQ_UQ), a);
}
FSM_INLINE unsigned f32x16_equal(f32x16 a, f32x16 b) {
    return (unsigned)_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
FSM_INLINE f32x16 f32x16_power(f32x16 steps) {
    const uint32_t table[8] = F32_TABLE;
    const __m512i entries = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)table));
    const __m512i bits = _mm512_castps_si512(steps);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_permutexvar_epi32(bits, entries), _mm512_slli_epi32(bits, 20)));
}
FSM_INLINE float f32x16_reduce_max(f32x16 a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

/* ---- f64x8 ---- */

FSM_INLINE f64x8 f64x8_set1(double a) {
    return _mm512_set1_pd(a);
}
FSM_INLINE f64x8 f64x8_load(const double *p) {
    return _mm512_loadu_pd(p);
}
FSM_INLINE f64x8 f64x8_load_partial(const double *p, size_t count, double fill) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), f64_first(count), p);
}
FSM_INLINE void f64x8_store(double *p, f64x8 a) {
    _mm512_storeu_pd(p, a);
}
FSM_INLINE void f64x8_store_partial(double *p, f64x8 a, size_t count) {
    _mm512_mask_storeu_pd(p, f64_first(count), a);
}
FSM_INLINE void f64x8_stream(double *p, f64x8 a) {
    _mm512_stream_pd(p, a);
}
FSM_INLINE f64x8 f64x8_add(f64x8 a, f64x8 b) {
    return _mm512_add_pd(a, b);
}
FSM_INLINE f64x8 f64x8_sub(f64x8 a, f64x8 b) {
    return _mm512_sub_pd(a, b);
}
FSM_INLINE f64x8 f64x8_mul(f64x8 a, f64x8 b) {
    return _mm512_mul_pd(a, b);
}
FSM_INLINE f64x8 f64x8_fma(f64x8 a, f64x8 b, f64x8 c) {
    return _mm512_fmadd_pd(a, b, c);
}
FSM_INLINE f64x8 f64x8_max(f64x8 a, f64x8 b) {
    return _mm512_max_pd(a, b);
}
FSM_INLINE f64x8 f64x8_zero_below(f64x8 a, f64x8 x, f64x8 limit) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, limit, _CMP_NLT_UQ), a);
}
FSM_INLINE f64x8 f64x8_first(f64x8 a, size_t count) {
    return _mm512_maskz_mov_pd(f64_first(count), a);
}
FSM_INLINE f64x8 f64x8_where_nonzero(f64x8 a, f64x8 t) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(t, _mm512_setzero_pd(), _CMP_NEQ_UQ), a);
}
FSM_INLINE unsigned f64x8_equal(f64x8 a, f64x8 b) {
    return (unsigned)_mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ);
}
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

/* Lanes 4-7, 2-3 or 1 moved to lane 0: the halving tree of a horizontal sum. */
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

FSM_INLINE void vec_fence(void) {
    _mm_sfence();
}

#endif
