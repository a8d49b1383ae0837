/* The vector vocabulary on AVX2 with FMA and F16C: f32x16 and f64x8 are two registers each.
 *
 * Leans on (latency / reciprocal throughput, cycles, Golden Cove; uops.info):
 *   vfmadd 4 / 0.5, vpermps 3 / 1, vblendvps 3 / 1, vpslld 1 / 0.5, vcmpps 4 / 0.5, vmaskmovps load 3+ / 0.5.
 * The table of eight doubles is four registers' worth of words: two vpermps and a blend.
 */
#ifndef FSM_VEC_AVX2_H
#define FSM_VEC_AVX2_H

#include <immintrin.h>

#include "coefficients.h"

typedef struct {
    __m256 a, b;
} f32x16;
typedef struct {
    __m256d a, b;
} f64x8;

/* All ones in the first `count` lanes; a count at or beyond the width gives all lanes. */
FSM_INLINE __m256i f32_first(size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane);
}
FSM_INLINE __m256i f64_first(size_t count) {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)count), lane);
}

/* ---- f32x16 ---- */

FSM_INLINE f32x16 f32x16_set1(float s) {
    const __m256 v = _mm256_set1_ps(s);
    return (f32x16){v, v};
}
FSM_INLINE f32x16 f32x16_load(const float *p) {
    return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
FSM_INLINE __m256 f32_load8_partial(const float *p, size_t count, float fill) {
    const __m256i first = f32_first(count);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, first),
                            _mm256_castsi256_ps(first));
}
FSM_INLINE f32x16 f32x16_load_partial(const float *p, size_t count, float fill) {
    if (count <= 8) {
        return (f32x16){f32_load8_partial(p, count, fill), _mm256_set1_ps(fill)};
    }
    return (f32x16){_mm256_loadu_ps(p), f32_load8_partial(p + 8, count - 8, fill)};
}
FSM_INLINE void f32x16_store(float *p, f32x16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
FSM_INLINE void f32x16_store_partial(float *p, f32x16 x, size_t count) {
    if (count <= 8) {
        _mm256_maskstore_ps(p, f32_first(count), x.a);
    } else {
        _mm256_storeu_ps(p, x.a);
        _mm256_maskstore_ps(p + 8, f32_first(count - 8), x.b);
    }
}
FSM_INLINE void f32x16_stream(float *p, f32x16 x) {
    _mm256_stream_ps(p, x.a);
    _mm256_stream_ps(p + 8, x.b);
}
FSM_INLINE f32x16 f32x16_add(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
FSM_INLINE f32x16 f32x16_sub(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
FSM_INLINE f32x16 f32x16_mul(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
FSM_INLINE f32x16 f32x16_fma(f32x16 x, f32x16 y, f32x16 z) {
    return (f32x16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
FSM_INLINE f32x16 f32x16_max(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
FSM_INLINE f32x16 f32x16_zero_below(f32x16 w, f32x16 x, f32x16 limit) {
    return (f32x16){_mm256_and_ps(w.a, _mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ)),
                    _mm256_and_ps(w.b, _mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ))};
}
FSM_INLINE f32x16 f32x16_first(f32x16 x, size_t count) {
    const size_t high = count > 8 ? count - 8 : 0;
    return (f32x16){_mm256_and_ps(x.a, _mm256_castsi256_ps(f32_first(count))),
                    _mm256_and_ps(x.b, _mm256_castsi256_ps(f32_first(high)))};
}
FSM_INLINE f32x16 f32x16_where_nonzero(f32x16 x, f32x16 t) {
    const __m256 zero = _mm256_setzero_ps();
    return (f32x16){_mm256_and_ps(x.a, _mm256_cmp_ps(t.a, zero, _CMP_NEQ_UQ)),
                    _mm256_and_ps(x.b, _mm256_cmp_ps(t.b, zero, _CMP_NEQ_UQ))};
}
FSM_INLINE unsigned f32x16_equal(f32x16 x, f32x16 y) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
    return (unsigned)(low | high << 8);
}
FSM_INLINE __m256 f32_power8(__m256 steps) {
    const uint32_t table[8] = F32_TABLE;
    const __m256i entries = _mm256_loadu_si256((const __m256i *)table);
    const __m256i bits = _mm256_castps_si256(steps);
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_permutevar8x32_epi32(entries, bits), _mm256_slli_epi32(bits, 20)));
}
FSM_INLINE f32x16 f32x16_power(f32x16 steps) {
    return (f32x16){f32_power8(steps.a), f32_power8(steps.b)};
}
FSM_INLINE float f32x16_reduce_max(f32x16 x) {
    const __m256 half = _mm256_max_ps(x.a, x.b);
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

/* ---- f64x8 ---- */

FSM_INLINE f64x8 f64x8_set1(double s) {
    const __m256d v = _mm256_set1_pd(s);
    return (f64x8){v, v};
}
FSM_INLINE f64x8 f64x8_load(const double *p) {
    return (f64x8){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
}
FSM_INLINE __m256d f64_load4_partial(const double *p, size_t count, double fill) {
    const __m256i first = f64_first(count);
    return _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p, first),
                            _mm256_castsi256_pd(first));
}
FSM_INLINE f64x8 f64x8_load_partial(const double *p, size_t count, double fill) {
    if (count <= 4) {
        return (f64x8){f64_load4_partial(p, count, fill), _mm256_set1_pd(fill)};
    }
    return (f64x8){_mm256_loadu_pd(p), f64_load4_partial(p + 4, count - 4, fill)};
}
FSM_INLINE void f64x8_store(double *p, f64x8 x) {
    _mm256_storeu_pd(p, x.a);
    _mm256_storeu_pd(p + 4, x.b);
}
FSM_INLINE void f64x8_store_partial(double *p, f64x8 x, size_t count) {
    if (count <= 4) {
        _mm256_maskstore_pd(p, f64_first(count), x.a);
    } else {
        _mm256_storeu_pd(p, x.a);
        _mm256_maskstore_pd(p + 4, f64_first(count - 4), x.b);
    }
}
FSM_INLINE void f64x8_stream(double *p, f64x8 x) {
    _mm256_stream_pd(p, x.a);
    _mm256_stream_pd(p + 4, x.b);
}
FSM_INLINE f64x8 f64x8_add(f64x8 x, f64x8 y) {
    return (f64x8){_mm256_add_pd(x.a, y.a), _mm256_add_pd(x.b, y.b)};
}
FSM_INLINE f64x8 f64x8_sub(f64x8 x, f64x8 y) {
    return (f64x8){_mm256_sub_pd(x.a, y.a), _mm256_sub_pd(x.b, y.b)};
}
FSM_INLINE f64x8 f64x8_mul(f64x8 x, f64x8 y) {
    return (f64x8){_mm256_mul_pd(x.a, y.a), _mm256_mul_pd(x.b, y.b)};
}
FSM_INLINE f64x8 f64x8_fma(f64x8 x, f64x8 y, f64x8 z) {
    return (f64x8){_mm256_fmadd_pd(x.a, y.a, z.a), _mm256_fmadd_pd(x.b, y.b, z.b)};
}
FSM_INLINE f64x8 f64x8_max(f64x8 x, f64x8 y) {
    return (f64x8){_mm256_max_pd(x.a, y.a), _mm256_max_pd(x.b, y.b)};
}
FSM_INLINE f64x8 f64x8_zero_below(f64x8 w, f64x8 x, f64x8 limit) {
    return (f64x8){_mm256_and_pd(w.a, _mm256_cmp_pd(x.a, limit.a, _CMP_NLT_UQ)),
                   _mm256_and_pd(w.b, _mm256_cmp_pd(x.b, limit.b, _CMP_NLT_UQ))};
}
FSM_INLINE f64x8 f64x8_first(f64x8 x, size_t count) {
    const size_t high = count > 4 ? count - 4 : 0;
    return (f64x8){_mm256_and_pd(x.a, _mm256_castsi256_pd(f64_first(count))),
                   _mm256_and_pd(x.b, _mm256_castsi256_pd(f64_first(high)))};
}
FSM_INLINE f64x8 f64x8_where_nonzero(f64x8 x, f64x8 t) {
    const __m256d zero = _mm256_setzero_pd();
    return (f64x8){_mm256_and_pd(x.a, _mm256_cmp_pd(t.a, zero, _CMP_NEQ_UQ)),
                   _mm256_and_pd(x.b, _mm256_cmp_pd(t.b, zero, _CMP_NEQ_UQ))};
}
FSM_INLINE unsigned f64x8_equal(f64x8 x, f64x8 y) {
    const int low = _mm256_movemask_pd(_mm256_cmp_pd(x.a, y.a, _CMP_EQ_OQ));
    const int high = _mm256_movemask_pd(_mm256_cmp_pd(x.b, y.b, _CMP_EQ_OQ));
    return (unsigned)(low | high << 4);
}
FSM_INLINE __m256d f64_power4(__m256d steps) {
    const uint64_t table[8] = F64_TABLE;
    const __m256i low = _mm256_loadu_si256((const __m256i *)table);
    const __m256i high = _mm256_loadu_si256((const __m256i *)(table + 4));
    const __m256i bits = _mm256_castpd_si256(steps);
    /* Words 2j and 2j + 1 of the table; vpermps looks at three bits, bit 2 of j picks the half. */
    const __m256i twice = _mm256_shuffle_epi32(_mm256_add_epi64(bits, bits), 0xA0);
    const __m256i words = _mm256_or_si256(twice, _mm256_set1_epi64x(0x100000000LL));
    const __m256d entry =
        _mm256_blendv_pd(_mm256_castsi256_pd(_mm256_permutevar8x32_epi32(low, words)),
                         _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(high, words)),
                         _mm256_castsi256_pd(_mm256_slli_epi64(bits, 61)));
    return _mm256_castsi256_pd(
        _mm256_add_epi64(_mm256_castpd_si256(entry), _mm256_slli_epi64(bits, 49)));
}
FSM_INLINE f64x8 f64x8_power(f64x8 steps) {
    return (f64x8){f64_power4(steps.a), f64_power4(steps.b)};
}
FSM_INLINE double f64x8_reduce_max(f64x8 x) {
    const __m256d half = _mm256_max_pd(x.a, x.b);
    const __m128d quarter =
        _mm_max_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_max_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
FSM_INLINE f64x8 f64x8_fold4(f64x8 x) {
    return (f64x8){x.b, x.a};
}
FSM_INLINE f64x8 f64x8_fold2(f64x8 x) {
    return (f64x8){_mm256_permute2f128_pd(x.a, x.a, 1), x.b};
}
FSM_INLINE f64x8 f64x8_fold1(f64x8 x) {
    return (f64x8){_mm256_permute_pd(x.a, 5), x.b};
}
FSM_INLINE double f64x8_lane0(f64x8 x) {
    return _mm256_cvtsd_f64(x.a);
}
FSM_INLINE f64x8 f64x8_widen8(__m256 v) {
    return (f64x8){_mm256_cvtps_pd(_mm256_castps256_ps128(v)),
                   _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}
FSM_INLINE f64x8 f64x8_widen_low(f32x16 x) {
    return f64x8_widen8(x.a);
}
FSM_INLINE f64x8 f64x8_widen_high(f32x16 x) {
    return f64x8_widen8(x.b);
}

FSM_INLINE void vec_fence(void) {
    _mm_sfence();
}

#endif
