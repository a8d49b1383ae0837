/* The vector operations on AVX2 with FMA and F16C: f32x16 and f64x8 are two registers each.
 *
 * Instructions it depends on (latency / reciprocal throughput, cycles, Golden Cove; uops.info):
 *   vfmadd 4 / 0.5, vpermps 3 / 1, vblendvps 3 / 1, vpslld 1 / 0.5, vcmpps 4 / 0.5, vmaskmovps load
 *   3+ / 0.5.
 * The table of eight doubles is looked up as low and high words: two vpermps and two interleavings.
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

/* All ones in the first `count` lanes; all lanes for a count at or beyond the width. */
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
/* vmaskmovps is not used: its store takes some 12 cycles on Zen. */
FSM_INLINE void f32_store8_partial(float *p, __m256 x, size_t count) {
    __m128 q = _mm256_castps256_ps128(x);
    if (count & 8) {
        _mm256_storeu_ps(p, x);
        return;
    }
    if (count & 4) {
        _mm_storeu_ps(p, q);
        q = _mm256_extractf128_ps(x, 1);
        p += 4;
    }
    if (count & 2) {
        _mm_storel_pi((__m64 *)p, q);
        q = _mm_movehl_ps(q, q);
        p += 2;
    }
    if (count & 1) {
        _mm_store_ss(p, q);
    }
}
FSM_INLINE void f32x16_store_partial(float *p, f32x16 x, size_t count) {
    if (count <= 8) {
        f32_store8_partial(p, x.a, count);
    } else {
        _mm256_storeu_ps(p, x.a);
        f32_store8_partial(p + 8, x.b, count - 8);
    }
}
#define FSM_STREAMS
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
FSM_INLINE __m256 f32_add_bits8(__m256 x, __m256 y) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
FSM_INLINE f32x16 f32x16_max(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
FSM_INLINE __m256 f32_sub_bits8(__m256 x, __m256 y) {
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
FSM_INLINE f32x16 f32x16_sub_bits(f32x16 x, f32x16 y) {
    return (f32x16){f32_sub_bits8(x.a, y.a), f32_sub_bits8(x.b, y.b)};
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
FSM_INLINE f32x16 f32x16_without(f32x16 x, size_t lane) {
    const __m256 out = _mm256_set1_ps(-INFINITY);
    const __m256i at = _mm256_set1_epi32((int)lane);
    const __m256i low = _mm256_cmpeq_epi32(at, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i high = _mm256_cmpeq_epi32(at, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
    return (f32x16){_mm256_blendv_ps(x.a, out, _mm256_castsi256_ps(low)),
                    _mm256_blendv_ps(x.b, out, _mm256_castsi256_ps(high))};
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
    static const uint32_t table[4] = F32_TABLE;
    const __m256 entries = _mm256_broadcast_ps((const __m128 *)table);
    const __m256i bits = _mm256_castps_si256(steps);
    const __m256 entry = _mm256_permutevar_ps(entries, bits);
    return f32_add_bits8(entry, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 21)));
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
FSM_INLINE float f32x16_reduce_add(f32x16 x) {
    const __m256 half = _mm256_add_ps(x.a, x.b);
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}
FSM_INLINE f32x16 f32x16_add_bits(f32x16 x, f32x16 y) {
    return (f32x16){f32_add_bits8(x.a, y.a), f32_add_bits8(x.b, y.b)};
}
FSM_INLINE uint32_t f32x16_reduce_bits(f32x16 x) {
    const __m256i half = _mm256_add_epi32(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b));
    __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    quarter = _mm_add_epi32(quarter, _mm_unpackhi_epi64(quarter, quarter));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 1)));
}
/* Reductions of eight vectors at once by a commutative operation `join`. When halves are joined,
 * one operand takes a half of each of two vectors as it lies (a blend), so that only the other has
 * to be moved. */
#define FSM_FOLD8(name, join)                                                                      \
    FSM_INLINE __m256 name##8(const f32x16 *x) {                                                   \
        __m256 half[8], quarter[4], pair[2];                                                       \
        for (int r = 0; r < 8; r++) {                                                              \
            half[r] = join(x[r].a, x[r].b);                                                        \
        }                                                                                          \
        for (int r = 0; r < 4; r++) {                                                              \
            quarter[r] = join(_mm256_blend_ps(half[r], half[r + 4], 0xF0),                         \
                              _mm256_permute2f128_ps(half[r], half[r + 4], 0x21));                 \
        }                                                                                          \
        for (int r = 0; r < 2; r++) {                                                              \
            const __m256d p = _mm256_castps_pd(quarter[2 * r]);                                    \
            const __m256d q = _mm256_castps_pd(quarter[2 * r + 1]);                                \
            pair[r] = join(_mm256_castpd_ps(_mm256_unpacklo_pd(p, q)),                             \
                           _mm256_castpd_ps(_mm256_unpackhi_pd(p, q)));                            \
        }                                                                                          \
        return join(_mm256_shuffle_ps(pair[0], pair[1], 0x88),                                     \
                    _mm256_shuffle_ps(pair[0], pair[1], 0xDD));                                    \
    }                                                                                              \
    FSM_INLINE f32x16 name(const f32x16 *x) {                                                      \
        return (f32x16){name##8(x), name##8(x + 8)};                                               \
    }
FSM_FOLD8(f32x16_fold_max, _mm256_max_ps)
FSM_FOLD8(f32x16_fold_add, _mm256_add_ps)
FSM_FOLD8(f32x16_fold_bits, f32_add_bits8)
#undef FSM_FOLD8
FSM_INLINE void f32_split_bits8(__m256 x, uint32_t offset, __m256 *hi, __m256 *lo) {
    const __m256i count =
        _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32((int32_t)offset));
    *hi = _mm256_cvtepi32_ps(count);
    *lo = _mm256_cvtepi32_ps(_mm256_sub_epi32(count, _mm256_cvttps_epi32(*hi)));
}
FSM_INLINE void f32x16_split_bits(f32x16 x, uint32_t offset, f32x16 *hi, f32x16 *lo) {
    f32_split_bits8(x.a, offset, &hi->a, &lo->a);
    f32_split_bits8(x.b, offset, &hi->b, &lo->b);
}
FSM_INLINE f32x16 f32x16_div(f32x16 x, f32x16 y) {
    return (f32x16){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

FSM_INLINE f32x16 f32x16_where_equal(f32x16 x, f32x16 y, f32x16 yes, f32x16 no) {
    return (f32x16){_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)),
                    _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))};
}
/* Transposes four by four elements within each half. */
FSM_INLINE void f32_transpose_halves(__m256 *x) {
    const __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(x[0], x[1]));
    const __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(x[0], x[1]));
    const __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(x[2], x[3]));
    const __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(x[2], x[3]));
    x[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23));
    x[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23));
    x[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23));
    x[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23));
}
FSM_INLINE void f32_load_group8(const char *row, ptrdiff_t stride, __m256 *x) {
    for (int r = 0; r < 4; r++) {
        const __m128 low = _mm_loadu_ps((const float *)(row + r * stride));
        const __m128 high = _mm_loadu_ps((const float *)(row + (r + 4) * stride));
        x[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
    }
    f32_transpose_halves(x);
}
FSM_INLINE void f32_store_group8(char *row, ptrdiff_t stride, __m256 *x) {
    f32_transpose_halves(x);
    for (int r = 0; r < 4; r++) {
        _mm_storeu_ps((float *)(row + r * stride), _mm256_castps256_ps128(x[r]));
        _mm_storeu_ps((float *)(row + (r + 4) * stride), _mm256_extractf128_ps(x[r], 1));
    }
}
FSM_INLINE void f32x16_load_group(const float *p, ptrdiff_t stride, f32x16 *x) {
    __m256 a[4], b[4];
    f32_load_group8((const char *)p, stride, a);
    f32_load_group8((const char *)p + 8 * stride, stride, b);
    for (int c = 0; c < 4; c++) {
        x[c] = (f32x16){a[c], b[c]};
    }
}
FSM_INLINE void f32x16_store_group(float *p, ptrdiff_t stride, const f32x16 *x) {
    __m256 a[4] = {x[0].a, x[1].a, x[2].a, x[3].a}, b[4] = {x[0].b, x[1].b, x[2].b, x[3].b};
    f32_store_group8((char *)p, stride, a);
    f32_store_group8((char *)p + 8 * stride, stride, b);
}
/* Four floats from p and four from p + 4 n: the same places of rows 0 to 3 and of rows 4 to 7. */
FSM_INLINE __m256 f32_load_both(const float *p, size_t n) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * n),
                                1);
}
FSM_INLINE void f32_store_both(float *p, size_t n, __m256 x) {
    _mm_storeu_ps(p, _mm256_castps256_ps128(x));
    _mm_storeu_ps(p + 4 * n, _mm256_extractf128_ps(x, 1));
}
/* Lanes i and j of x, then k and l of y, within each half. */
#define FSM_PICK(x, i, j, y, k, l) _mm256_shuffle_ps(x, y, (i) | (j) << 2 | (k) << 4 | (l) << 6)
FSM_INLINE void f32_load_narrow8(const float *p, size_t n, __m256 *x) {
    const __m256 u = f32_load_both(p, n), v = f32_load_both(p + 4, n);
    if (n == 2) {
        x[0] = FSM_PICK(u, 0, 2, v, 0, 2);
        x[1] = FSM_PICK(u, 1, 3, v, 1, 3);
        return;
    }
    /* u = x0 y0 z0 x1, v = y1 z1 x2 y2, w = z2 x3 y3 z3 */
    const __m256 w = f32_load_both(p + 8, n);
    const __m256 x2y2x3y3 = FSM_PICK(v, 2, 3, w, 1, 2), y0z0y1z1 = FSM_PICK(u, 1, 2, v, 0, 1);
    x[0] = FSM_PICK(u, 0, 3, x2y2x3y3, 0, 2);
    x[1] = FSM_PICK(y0z0y1z1, 0, 2, x2y2x3y3, 1, 3);
    x[2] = FSM_PICK(y0z0y1z1, 1, 3, w, 0, 3);
}
FSM_INLINE void f32_store_narrow8(float *p, size_t n, __m256 x, __m256 y, __m256 z) {
    if (n == 2) {
        f32_store_both(p, n, _mm256_unpacklo_ps(x, y));
        f32_store_both(p + 4, n, _mm256_unpackhi_ps(x, y));
        return;
    }
    const __m256 x0x2y0y2 = FSM_PICK(x, 0, 2, y, 0, 2), y1y3z1z3 = FSM_PICK(y, 1, 3, z, 1, 3);
    const __m256 z0z2x1x3 = FSM_PICK(z, 0, 2, x, 1, 3);
    f32_store_both(p, n, FSM_PICK(x0x2y0y2, 0, 2, z0z2x1x3, 0, 2));
    f32_store_both(p + 4, n, FSM_PICK(y1y3z1z3, 0, 2, x0x2y0y2, 1, 3));
    f32_store_both(p + 8, n, FSM_PICK(z0z2x1x3, 1, 3, y1y3z1z3, 1, 3));
}
#undef FSM_PICK
FSM_INLINE void f32x16_load_narrow(const float *p, size_t n, f32x16 *x) {
    if (n == 1) {
        x[0] = f32x16_load(p);
        return;
    }
    __m256 a[3], b[3];
    f32_load_narrow8(p, n, a);
    f32_load_narrow8(p + 8 * n, n, b);
    for (size_t c = 0; c < n; c++) {
        x[c] = (f32x16){a[c], b[c]};
    }
}
FSM_INLINE void f32x16_store_narrow(float *p, size_t n, const f32x16 *x) {
    if (n == 1) {
        f32x16_store(p, x[0]);
        return;
    }
    const f32x16 last = x[n == 2 ? 1 : 2];
    f32_store_narrow8(p, n, x[0].a, x[1].a, last.a);
    f32_store_narrow8(p + 8 * n, n, x[0].b, x[1].b, last.b);
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
FSM_INLINE void f64_store4_partial(double *p, __m256d x, size_t count) {
    __m128d q = _mm256_castpd256_pd128(x);
    if (count & 4) {
        _mm256_storeu_pd(p, x);
        return;
    }
    if (count & 2) {
        _mm_storeu_pd(p, q);
        q = _mm256_extractf128_pd(x, 1);
        p += 2;
    }
    if (count & 1) {
        _mm_store_sd(p, q);
    }
}
FSM_INLINE void f64x8_store_partial(double *p, f64x8 x, size_t count) {
    if (count <= 4) {
        f64_store4_partial(p, x.a, count);
    } else {
        _mm256_storeu_pd(p, x.a);
        f64_store4_partial(p + 4, x.b, count - 4);
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
FSM_INLINE __m256d f64_sub_bits4(__m256d x, __m256d y) {
    return _mm256_castsi256_pd(_mm256_sub_epi64(_mm256_castpd_si256(x), _mm256_castpd_si256(y)));
}
FSM_INLINE f64x8 f64x8_sub_bits(f64x8 x, f64x8 y) {
    return (f64x8){f64_sub_bits4(x.a, y.a), f64_sub_bits4(x.b, y.b)};
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
FSM_INLINE f64x8 f64x8_without(f64x8 x, size_t lane) {
    const __m256d out = _mm256_set1_pd(-INFINITY);
    const __m256i at = _mm256_set1_epi64x((int64_t)lane);
    const __m256i low = _mm256_cmpeq_epi64(at, _mm256_setr_epi64x(0, 1, 2, 3));
    const __m256i high = _mm256_cmpeq_epi64(at, _mm256_setr_epi64x(4, 5, 6, 7));
    return (f64x8){_mm256_blendv_pd(x.a, out, _mm256_castsi256_pd(low)),
                   _mm256_blendv_pd(x.b, out, _mm256_castsi256_pd(high))};
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
FSM_INLINE __m256i f64_table_words(int shift) {
    static const uint64_t table[8] = F64_TABLE;
    return _mm256_setr_epi32((int)(uint32_t)(table[0] >> shift), (int)(uint32_t)(table[1] >> shift),
                             (int)(uint32_t)(table[2] >> shift), (int)(uint32_t)(table[3] >> shift),
                             (int)(uint32_t)(table[4] >> shift), (int)(uint32_t)(table[5] >> shift),
                             (int)(uint32_t)(table[6] >> shift),
                             (int)(uint32_t)(table[7] >> shift));
}
/* Looks up the entries' low and high words for eight lanes at a time, in the order a0 a1 b0 b1 | a2
 * a3 b2 b3, which results from shuffling the indices together; interleaving the words restores the
 * order. */
FSM_INLINE f64x8 f64x8_power(f64x8 steps) {
    const __m256i index = _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castpd_ps(steps.a), _mm256_castpd_ps(steps.b), 0x88));
    const __m256i low = _mm256_permutevar8x32_epi32(f64_table_words(0), index);
    const __m256i high = _mm256_permutevar8x32_epi32(f64_table_words(32), index);
    const __m256i a = _mm256_slli_epi64(_mm256_castpd_si256(steps.a), 49);
    const __m256i b = _mm256_slli_epi64(_mm256_castpd_si256(steps.b), 49);
    return (f64x8){
        _mm256_castsi256_pd(_mm256_add_epi64(_mm256_unpacklo_epi32(low, high), a)),
        _mm256_castsi256_pd(_mm256_add_epi64(_mm256_unpackhi_epi32(low, high), b)),
    };
}
FSM_INLINE double f64x8_reduce_max(f64x8 x) {
    const __m256d half = _mm256_max_pd(x.a, x.b);
    const __m128d quarter =
        _mm_max_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_max_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
FSM_INLINE double f64x8_reduce_add(f64x8 x) {
    const __m256d half = _mm256_add_pd(x.a, x.b);
    const __m128d quarter =
        _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_add_sd(quarter, _mm_unpackhi_pd(quarter, quarter)));
}
#define FSM_FOLD4(name, join)                                                                      \
    FSM_INLINE __m256d name##4(const f64x8 *x) {                                                   \
        __m256d half[4], quarter[2];                                                               \
        for (int r = 0; r < 4; r++) {                                                              \
            half[r] = join(x[r].a, x[r].b);                                                        \
        }                                                                                          \
        for (int r = 0; r < 2; r++) {                                                              \
            quarter[r] = join(_mm256_blend_pd(half[r], half[r + 2], 0xC),                          \
                              _mm256_permute2f128_pd(half[r], half[r + 2], 0x21));                 \
        }                                                                                          \
        return join(_mm256_unpacklo_pd(quarter[0], quarter[1]),                                    \
                    _mm256_unpackhi_pd(quarter[0], quarter[1]));                                   \
    }                                                                                              \
    FSM_INLINE f64x8 name(const f64x8 *x) {                                                        \
        return (f64x8){name##4(x), name##4(x + 4)};                                                \
    }
FSM_FOLD4(f64x8_fold_max, _mm256_max_pd)
FSM_FOLD4(f64x8_fold_add, _mm256_add_pd)
#undef FSM_FOLD4
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

FSM_INLINE f32x16 f32x16_narrow(f64x8 low, f64x8 high) {
    return (f32x16){_mm256_set_m128(_mm256_cvtpd_ps(low.b), _mm256_cvtpd_ps(low.a)),
                    _mm256_set_m128(_mm256_cvtpd_ps(high.b), _mm256_cvtpd_ps(high.a))};
}
FSM_INLINE f64x8 f64x8_div(f64x8 x, f64x8 y) {
    return (f64x8){_mm256_div_pd(x.a, y.a), _mm256_div_pd(x.b, y.b)};
}
FSM_INLINE f64x8 f64x8_where_equal(f64x8 x, f64x8 y, f64x8 yes, f64x8 no) {
    return (f64x8){_mm256_blendv_pd(no.a, yes.a, _mm256_cmp_pd(x.a, y.a, _CMP_EQ_OQ)),
                   _mm256_blendv_pd(no.b, yes.b, _mm256_cmp_pd(x.b, y.b, _CMP_EQ_OQ))};
}
/* 2^52 with a small integer k in its low bits is 2^52 + k. */
FSM_INLINE __m256d f64_binade4(__m256d x, uint64_t from) {
    const __m256i above =
        _mm256_sub_epi64(_mm256_castpd_si256(x), _mm256_set1_epi64x((long long)from));
    const __m256d offset = _mm256_set1_pd(0x1p52);
    const __m256i k = _mm256_or_si256(_mm256_srli_epi64(above, 52), _mm256_castpd_si256(offset));
    return _mm256_sub_pd(_mm256_castsi256_pd(k), offset);
}
FSM_INLINE f64x8 f64x8_binade(f64x8 x, uint64_t from) {
    return (f64x8){f64_binade4(x.a, from), f64_binade4(x.b, from)};
}
FSM_INLINE __m256d f64_power_of_two4(__m256d k) {
    const __m256i biased = _mm256_castpd_si256(_mm256_add_pd(k, _mm256_set1_pd(0x1.8p52 + 1023)));
    return _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52));
}
FSM_INLINE f64x8 f64x8_power_of_two(f64x8 k) {
    return (f64x8){f64_power_of_two4(k.a), f64_power_of_two4(k.b)};
}
FSM_INLINE __m256d f64_load_halves(const char *row, ptrdiff_t stride) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd((const double *)row)),
                                _mm_loadu_pd((const double *)(row + 2 * stride)), 1);
}
FSM_INLINE void f64_store_halves(char *row, ptrdiff_t stride, __m256d x) {
    _mm_storeu_pd((double *)row, _mm256_castpd256_pd128(x));
    _mm_storeu_pd((double *)(row + 2 * stride), _mm256_extractf128_pd(x, 1));
}
FSM_INLINE void f64x8_load_group(const double *p, ptrdiff_t stride, f64x8 *x) {
    const char *low = (const char *)p, *high = low + 4 * stride;
    const __m256d even_a = f64_load_halves(low, stride),
                  odd_a = f64_load_halves(low + stride, stride);
    const __m256d even_b = f64_load_halves(high, stride);
    const __m256d odd_b = f64_load_halves(high + stride, stride);
    x[0] = (f64x8){_mm256_unpacklo_pd(even_a, odd_a), _mm256_unpacklo_pd(even_b, odd_b)};
    x[1] = (f64x8){_mm256_unpackhi_pd(even_a, odd_a), _mm256_unpackhi_pd(even_b, odd_b)};
}
FSM_INLINE void f64x8_store_group(double *p, ptrdiff_t stride, const f64x8 *x) {
    char *low = (char *)p, *high = low + 4 * stride;
    f64_store_halves(low, stride, _mm256_unpacklo_pd(x[0].a, x[1].a));
    f64_store_halves(low + stride, stride, _mm256_unpackhi_pd(x[0].a, x[1].a));
    f64_store_halves(high, stride, _mm256_unpacklo_pd(x[0].b, x[1].b));
    f64_store_halves(high + stride, stride, _mm256_unpackhi_pd(x[0].b, x[1].b));
}
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
