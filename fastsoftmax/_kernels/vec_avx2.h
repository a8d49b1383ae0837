/* The vector operations on AVX2 with FMA and F16C: f32x16 and f64x8 are two registers each.
 *
 * Instructions it depends on (latency / reciprocal throughput, cycles, Golden Cove; uops.info):
 *   vfmadd 4 / 0.5, vpermps 3 / 1, vblendvps 3 / 1, vpslld 1 / 0.5, vcmpps 4 / 0.5, vmaskmovps load
 *   3+ / 0.5.
 * The table of eight doubles is looked up as low and high words: two vpermps and two interleavings.
 *
 * Operations of both formats are one text: the first part of this file, which the second part
 * includes once for each format (format_*.h). */
#if defined(VEC) /* ---- both formats: V(add) is f32x16_add, then f64x8_add ---- */

/* Intrinsics: I(add) of lanes, IB(add) of their bits as integers. INDEX(i) is i in every lane,
 * INDICES(i) i and its successors. */
#if LANES == 16
#define REGISTER __m256
#define I(name) _mm256_##name##_ps
#define IB(name) _mm256_##name##_epi32
#define BITS_OF(a) _mm256_castps_si256(a)
#define INDEX(i) _mm256_set1_epi32((int)(i))
#define INDICES(i) _mm256_setr_epi32(i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7)
#else
#define REGISTER __m256d
#define I(name) _mm256_##name##_pd
#define IB(name) _mm256_##name##_epi64
#define BITS_OF(a) _mm256_castpd_si256(a)
#define INDEX(i) _mm256_set1_epi64x((long long)(i))
#define INDICES(i) _mm256_setr_epi64x(i, i + 1, i + 2, i + 3)
#endif
/* Lanes of a register. */
#define HALF (LANES / 2)

/* All ones in the first `count` lanes; all lanes for a count at or beyond the width. */
FSM_INLINE __m256i F(first)(size_t count) {
    const __m256i lane = INDICES(0);
    return IB(cmpgt)(INDEX(count), lane);
}
FSM_INLINE VEC V(set1)(REAL s) {
    const REGISTER v = I(set1)(s);
    return (VEC){v, v};
}
FSM_INLINE VEC V(load)(const REAL *p) {
    return (VEC){I(loadu)(p), I(loadu)(p + HALF)};
}
FSM_INLINE REGISTER F(load_half_partial)(const REAL *p, size_t count, REAL fill) {
    const __m256i first = F(first)(count);
    return I(blendv)(I(set1)(fill), I(maskload)(p, first), I(castsi256)(first));
}
FSM_INLINE VEC V(load_partial)(const REAL *p, size_t count, REAL fill) {
    if (count <= HALF) {
        return (VEC){F(load_half_partial)(p, count, fill), I(set1)(fill)};
    }
    return (VEC){I(loadu)(p), F(load_half_partial)(p + HALF, count - HALF, fill)};
}
FSM_INLINE void V(store)(REAL *p, VEC x) {
    I(storeu)(p, x.a);
    I(storeu)(p + HALF, x.b);
}
FSM_INLINE void V(store_partial)(REAL *p, VEC x, size_t count) {
    if (count <= HALF) {
        F(store_half_partial)(p, x.a, count);
    } else {
        I(storeu)(p, x.a);
        F(store_half_partial)(p + HALF, x.b, count - HALF);
    }
}
FSM_INLINE void V(stream)(REAL *p, VEC x) {
    I(stream)(p, x.a);
    I(stream)(p + HALF, x.b);
}
FSM_INLINE VEC V(add)(VEC x, VEC y) {
    return (VEC){I(add)(x.a, y.a), I(add)(x.b, y.b)};
}
FSM_INLINE VEC V(sub)(VEC x, VEC y) {
    return (VEC){I(sub)(x.a, y.a), I(sub)(x.b, y.b)};
}
FSM_INLINE VEC V(mul)(VEC x, VEC y) {
    return (VEC){I(mul)(x.a, y.a), I(mul)(x.b, y.b)};
}
FSM_INLINE VEC V(div)(VEC x, VEC y) {
    return (VEC){I(div)(x.a, y.a), I(div)(x.b, y.b)};
}
FSM_INLINE VEC V(fma)(VEC x, VEC y, VEC z) {
    return (VEC){I(fmadd)(x.a, y.a, z.a), I(fmadd)(x.b, y.b, z.b)};
}
FSM_INLINE VEC V(max)(VEC x, VEC y) {
    return (VEC){I(max)(x.a, y.a), I(max)(x.b, y.b)};
}
FSM_INLINE VEC V(zero_below)(VEC w, VEC x, VEC limit) {
    return (VEC){I (and)(w.a, I(cmp)(x.a, limit.a, _CMP_NLT_UQ)),
                 I (and)(w.b, I(cmp)(x.b, limit.b, _CMP_NLT_UQ))};
}
FSM_INLINE VEC V(first)(VEC x, size_t count) {
    const size_t high = count > HALF ? count - HALF : 0;
    return (VEC){I (and)(x.a, I(castsi256)(F(first)(count))),
                 I (and)(x.b, I(castsi256)(F(first)(high)))};
}
FSM_INLINE VEC V(without)(VEC x, size_t lane) {
    const REGISTER out = I(set1)(-INFINITY);
    const __m256i at = INDEX(lane);
    const __m256i low = IB(cmpeq)(at, INDICES(0)), high = IB(cmpeq)(at, INDICES(HALF));
    return (VEC){I(blendv)(x.a, out, I(castsi256)(low)), I(blendv)(x.b, out, I(castsi256)(high))};
}
FSM_INLINE VEC V(where_nonzero)(VEC x, VEC t) {
    const REGISTER zero = I(setzero)();
    return (VEC){I (and)(x.a, I(cmp)(t.a, zero, _CMP_NEQ_UQ)),
                 I (and)(x.b, I(cmp)(t.b, zero, _CMP_NEQ_UQ))};
}
FSM_INLINE VEC V(where_equal)(VEC x, VEC y, VEC yes, VEC no) {
    return (VEC){I(blendv)(no.a, yes.a, I(cmp)(x.a, y.a, _CMP_EQ_OQ)),
                 I(blendv)(no.b, yes.b, I(cmp)(x.b, y.b, _CMP_EQ_OQ))};
}
FSM_INLINE unsigned V(equal)(VEC x, VEC y) {
    const int low = I(movemask)(I(cmp)(x.a, y.a, _CMP_EQ_OQ));
    const int high = I(movemask)(I(cmp)(x.b, y.b, _CMP_EQ_OQ));
    return (unsigned)(low | high << HALF);
}
FSM_INLINE REGISTER F(sub_bits)(REGISTER x, REGISTER y) {
    return I(castsi256)(IB(sub)(BITS_OF(x), BITS_OF(y)));
}
FSM_INLINE VEC V(sub_bits)(VEC x, VEC y) {
    return (VEC){F(sub_bits)(x.a, y.a), F(sub_bits)(x.b, y.b)};
}

#undef REGISTER
#undef I
#undef IB
#undef BITS_OF
#undef INDEX
#undef INDICES
#undef HALF

#elif !defined(FSM_VEC_AVX2_H)
#define FSM_VEC_AVX2_H

#include <immintrin.h>

#include "coefficients.h"

typedef struct {
    __m256 a, b;
} f32x16;
typedef struct {
    __m256d a, b;
} f64x8;

#define FSM_STREAMS
#define F64_NARROW 1

/* vmaskmovps is not used: its store takes some 12 cycles on Zen. */
FSM_INLINE void f32_store_half_partial(float *p, __m256 x, size_t count) {
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
FSM_INLINE void f64_store_half_partial(double *p, __m256d x, size_t count) {
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

#include "format_f32.h"
#include "vec_avx2.h"
#include "undefine.h"
#include "format_f64.h"
#include "vec_avx2.h"
#include "undefine.h"

/* ---- float32 alone ---- */

FSM_INLINE __m256 f32_add_bits8(__m256 x, __m256 y) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
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
FSM_INLINE f32x16 f32x16_load_f16(const uint16_t *p) {
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
FSM_INLINE void f32x16_store_f16(uint16_t *p, f32x16 x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
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

/* ---- float64 alone ---- */

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
FSM_INLINE void f64x8_load_narrow(const double *p, size_t n, f64x8 *a) {
    (void)n;
    a[0] = f64x8_load(p);
}
FSM_INLINE void f64x8_store_narrow(double *p, size_t n, const f64x8 *a) {
    (void)n;
    f64x8_store(p, a[0]);
}

#endif
