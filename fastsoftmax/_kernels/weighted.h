/* log|sum b e^x| of one row in float64, for any finite b; included once by unit.h, after rows.h for
 * float64.
 *
 * Design
 * A. A weight is |b| = f 2^k, 0.7 < f < 1.42. k joins the exponent of e^x, so that the common unit
 *    of all terms suits the largest term: none overflows unless the result does, and none that
 *    counts vanishes.
 * B. The largest x that takes part is subtracted first, as two numbers (x may be so large that k
 *    would vanish beside it).
 * C. Terms are f w with w in two parts (core_f64.h, G). They join compensated sums, those with
 *    positive and with negative b apart. So the difference of the two sums has no other error than
 *    its terms: 0.126 u of each (core_f64.h, F), u = 2^-53.
 * D. The largest term is left out of the sums, as in a plain logsumexp: log|sum| = x + log|b| +
 *    log|1 + rest / largest|, so that a result near 0 keeps its accuracy where b is 1.
 * E. An element with b = 0 or x = -inf contributes nothing.
 * F. Most rows are plain: every b is positive, and no b and no e^(x - shift) is near the ends of
 *    the format. There A and E have nothing to do, and no term is negative. A term is then b w,
 *    which is f w 2^k with the same rounding errors: the same bits, in 0.6 of the time. */

/* Elements among which the largest term is looked for. */
#define WEIGHTED_PIECE 256

/* What the terms of a row depend on besides x and b; `limit` is the logarithms' cut-off. */
typedef struct {
    f64x8 shift, magic, limit;
} weighted_row;

/* A vector of a row: x + rest = x - shift, -inf where the element does not contribute; |b| = f 2^k;
 * `positive` is f where b > 0, else 0; `about` is about the logarithm of the term, less the shift.
 */
typedef struct {
    f64x8 x, rest, k, f, positive, about;
} weighted;

/* x, or -inf if b is 0. */
FSM_INLINE f64x8 weighted_part(f64x8 x, f64x8 b) {
    return f64x8_where_equal(b, f64x8_set1(0.0), f64x8_set1(-INFINITY), x);
}

/* x - shift as two numbers (two-sum). */
FSM_INLINE f64x8 weighted_difference(f64x8 x, f64x8 shift, f64x8 *rest) {
    const f64x8 d = f64x8_sub(x, shift);
    const f64x8 taken = f64x8_sub(d, x); /* -(what was subtracted of the shift) */
    *rest = f64x8_sub(f64x8_sub(x, f64x8_sub(d, taken)), f64x8_add(shift, taken));
    return d;
}
/* k of a normal weight |b| = f 2^k; binades are counted from one below all numbers. */
FSM_INLINE f64x8 weighted_binade(f64x8 b) {
    return f64x8_sub(f64x8_binade(b, SQRT_HALF_BITS - ((uint64_t)1021 << 52)), f64x8_set1(1021.0));
}

/* Splits |b| into f 2^k by its exponent, and x - shift into two numbers. */
FSM_CORE weighted weighted_of(f64x8 x, f64x8 b, f64x8 shift) {
    const f64x8 zero = f64x8_set1(0.0), one = f64x8_set1(1.0);
    const f64x8 magnitude = f64x8_max(b, f64x8_sub(zero, b));
    /* What may be subnormal is multiplied by 2^64 first. */
    const f64x8 normal = f64x8_zero_below(magnitude, magnitude, f64x8_set1(0x1p-960));
    const f64x8 lifted = f64x8_fma(f64x8_sub(magnitude, normal), f64x8_set1(0x1p64), normal);
    const f64x8 lift = f64x8_where_equal(normal, magnitude, zero, f64x8_set1(64.0));
    const f64x8 k = weighted_binade(lifted);
    const f64x8 exponent = f64x8_sub_bits(f64x8_power_of_two(k), one);
    const f64x8 part = weighted_part(x, b);
    weighted a;
    a.x = weighted_difference(part, shift, &a.rest);
    a.k = f64x8_sub(k, lift);
    a.f = f64x8_where_equal(part, f64x8_set1(-INFINITY), zero, f64x8_sub_bits(lifted, exponent));
    a.positive = f64x8_zero_below(a.f, b, zero);
    a.about = f64x8_fma(a.k, f64x8_set1(LN2_HI), a.x);
    return a;
}
FSM_CORE weighted weighted_load(const double *x, const double *b, size_t count, f64x8 shift) {
    return weighted_of(f64x8_load_partial(x, count, -INFINITY), f64x8_load_partial(b, count, 0.0),
                       shift);
}

/* e^(x - shift) 2^k of every lane, in the row's unit, as w + low. */
FSM_CORE f64x8 weighted_exp(const weighted *a, const weighted_row *row, f64x8 *low) {
    const f64x8 magic = f64x8_fma(a->k, f64x8_set1(F64_STEPS), row->magic);
    const f64x8 limit = f64x8_sub(row->limit, f64x8_mul(a->k, f64x8_set1(LN2_HI)));
    const f64x8 rest = f64x8_zero_below(a->rest, a->x, limit);
    const f64_reduced reduced = f64_reduce(f64x8_max(limit, a->x), magic, rest, 1);
    const f64x8 power = f64x8_power(reduced.z), w = f64x8_fma(power, reduced.q, power);
    *low = f64x8_fma(power, reduced.q, f64x8_sub(power, w));
    return w;
}

/* log v for v > 0. */
FSM_INLINE pair log_of(pair v) {
    const int lift = v.hi < 0x1p-960 ? 64 : 0;
    const double hi = lift ? v.hi * 0x1p64 : v.hi, lo = lift ? v.lo * 0x1p64 : v.lo;
    const int k = (int)((int64_t)(f64_to_bits(hi) - SQRT_HALF_BITS) >> 52);
    const double unscale = power_of_two(-k), count = (double)(k - lift);
    const pair logarithm = log_one_plus((pair){hi * unscale - 1.0, lo * unscale}, 1);
    return pair_sum((pair){count * LN2_HI, count * LN2_LO}, logarithm);
}

/* The result of a row with an infinite x, or without a term. */
FSM_NOINLINE double weighted_special(const double *x, const double *b, size_t n, double *sign) {
    double log = -INFINITY;
    *sign = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (b[i] == 0 || x[i] <= DBL_MAX) { /* or -inf */
            continue;
        }
        const double own = b[i] < 0 ? -1.0 : 1.0;
        if (x[i] != x[i] || own == -*sign) {
            *sign = f64_nan();
            return *sign;
        }
        log = x[i];
        *sign = own;
    }
    return log;
}

/* What tells plain rows (F): the largest x that takes part; the smallest x and b, negated; the
 * largest b. */
typedef struct {
    f64x8 top, below, least, most;
} weighted_range;

FSM_CORE void weighted_extend(weighted_range *range, f64x8 x, f64x8 b) {
    const f64x8 zero = f64x8_set1(0.0);
    range->top = f64x8_max(weighted_part(x, b), range->top);
    range->below = f64x8_max(f64x8_sub(zero, x), range->below);
    range->least = f64x8_max(f64x8_sub(zero, b), range->least);
    range->most = f64x8_max(b, range->most);
}
FSM_NOINLINE void weighted_extend_all(weighted_range *to, const double *x, const double *b,
                                      size_t n) {
    weighted_range range = *to;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        weighted_extend(&range, f64x8_load(x + i), f64x8_load(b + i));
    }
    if (i < n) {
        weighted_extend(&range, f64x8_load_partial(x + i, n - i, x[i]),
                        f64x8_load_partial(b + i, n - i, b[i]));
    }
    *to = range;
}
static int weighted_is_plain(const weighted_range *range) {
    const double top = f64x8_reduce_max(range->top), below = f64x8_reduce_max(range->below);
    return -below >= top - 256.0 && -f64x8_reduce_max(range->least) >= 0x1p-64 &&
           f64x8_reduce_max(range->most) <= 0x1p64;
}

/* The largest `about`; weighted_top_plain, of a plain row. */
FSM_CORE f64x8 weighted_top(const double *x, const double *b, size_t n, f64x8 shift) {
    f64x8 top = f64x8_set1(-INFINITY);
    for (size_t i = 0; i < n; i += 8) {
        const weighted a = weighted_load(x + i, b + i, n - i < 8 ? n - i : 8, shift);
        top = f64x8_max(a.about, top);
    }
    return top;
}
FSM_INLINE f64x8 weighted_about(f64x8 x, f64x8 b, f64x8 shift) {
    return f64x8_fma(weighted_binade(b), f64x8_set1(LN2_HI), f64x8_sub(x, shift));
}
FSM_CORE f64x8 weighted_top_plain(const double *x, const double *b, size_t n, f64x8 shift) {
    f64x8 top = f64x8_set1(-INFINITY);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        top = f64x8_max(weighted_about(f64x8_load(x + i), f64x8_load(b + i), shift), top);
    }
    if (i < n) {
        const f64x8 weight = f64x8_load_partial(b + i, n - i, b[i]);
        const f64x8 a = f64x8_load_partial(x + i, n - i, x[i]);
        top = f64x8_max(weighted_about(a, weight, shift), top);
    }
    return top;
}
/* The index of the first element whose `about` is `largest`; n if there is none. */
FSM_CORE size_t weighted_find(const double *x, const double *b, size_t n, f64x8 shift,
                              double largest) {
    for (size_t i = 0; i < n; i += 8) {
        const weighted a = weighted_load(x + i, b + i, n - i < 8 ? n - i : 8, shift);
        unsigned found = f64x8_equal(a.about, f64x8_set1(largest));
        for (size_t at = i; found; found >>= 1, at++) {
            if (found & 1) {
                return at;
            }
        }
    }
    return n;
}
/* If an `about` exceeds *largest: sets that to the largest, and *at to the index of its first
 * element, which is looked for in the one piece that has it. */
FSM_NOINLINE void weighted_find_largest(const double *x, const double *b, size_t first, size_t end,
                                        f64x8 shift, int plain, double *largest, size_t *at) {
    size_t piece = end, count = 0;
    for (size_t i = first; i < end; i += WEIGHTED_PIECE) {
        const size_t n = end - i < WEIGHTED_PIECE ? end - i : WEIGHTED_PIECE;
        const double top = f64x8_reduce_max(plain ? weighted_top_plain(x + i, b + i, n, shift)
                                                  : weighted_top(x + i, b + i, n, shift));
        if (top > *largest) {
            *largest = top;
            piece = i;
            count = n;
        }
    }
    if (count) {
        *at = piece + weighted_find(x + piece, b + piece, count, shift, *largest);
    }
}

typedef struct {
    f64_sum positive, negative;
} weighted_sums;

/* Adds the terms of a vector to the sums: f (w + low), positive and negative apart. */
FSM_CORE void weighted_add(weighted_sums *sums, weighted a, const weighted_row *row) {
    const f64x8 negative = f64x8_sub(a.f, a.positive);
    f64x8 low;
    const f64x8 w = weighted_exp(&a, row, &low);
    f64_sum_add_product(&sums->positive, w, a.positive);
    f64_sum_add_product(&sums->negative, w, negative);
    sums->positive.lo = f64x8_fma(low, a.positive, sums->positive.lo);
    sums->negative.lo = f64x8_fma(low, negative, sums->negative.lo);
}
FSM_NOINLINE void weighted_add_all(weighted_sums *to, const double *x, const double *b, size_t n,
                                   const weighted_row *given) {
    const weighted_row row = *given;
    weighted_sums sums = *to;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        weighted_add(&sums, weighted_of(f64x8_load(x + i), f64x8_load(b + i), row.shift), &row);
    }
    if (i < n) {
        weighted_add(&sums, weighted_load(x + i, b + i, n - i, row.shift), &row);
    }
    *to = sums;
}
/* As weighted_add, of a plain row. */
FSM_CORE void weighted_add_plain(f64_sum *sum, f64x8 x, f64x8 b, const weighted_row *row) {
    f64x8 rest;
    const f64x8 d = weighted_difference(x, row->shift, &rest);
    const f64_reduced reduced = f64_reduce(d, row->magic, rest, 1);
    const f64x8 power = f64x8_power(reduced.z), w = f64x8_fma(power, reduced.q, power);
    const f64x8 low = f64x8_fma(power, reduced.q, f64x8_sub(power, w));
    f64_sum_add_product(sum, w, b);
    sum->lo = f64x8_fma(low, b, sum->lo);
}
FSM_NOINLINE void weighted_add_all_plain(weighted_sums *to, const double *x, const double *b,
                                         size_t n, const weighted_row *given) {
    const weighted_row row = *given;
    f64_sum sum = to->positive;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        weighted_add_plain(&sum, f64x8_load(x + i), f64x8_load(b + i), &row);
    }
    if (i < n) {
        weighted_add_plain(&sum, f64x8_load_partial(x + i, n - i, x[i]),
                           f64x8_load_partial(b + i, n - i, 0.0), &row);
    }
    to->positive = sum;
}

/* fsm_weighted_function: (1) shift = the largest x; (2) the largest term, and which element has it;
 * (3) sums of the other terms, positive and negative; (4) ratio = rest / largest; (5) x + log|b| +
 * log|1 + ratio| and the sign. */
static double logsumexp_weighted(const double *x, double *b, size_t n, double *sign,
                                 fsm_watch *watch) {
    const f64x8 none = f64x8_set1(-INFINITY);
    weighted_range range = {none, none, none, none};
    FSM_PIECES(i, end, n, watch) {
        weighted_extend_all(&range, x + i, b + i, end - i);
    }
    const double shift = f64x8_reduce_max(range.top);
    if (!(shift <= DBL_MAX && shift >= -DBL_MAX)) {
        return weighted_special(x, b, n, sign);
    }
    const int plain = weighted_is_plain(&range);
    weighted_row row = {.shift = f64x8_set1(shift)};
    double largest = -INFINITY;
    size_t at = n;
    FSM_PIECES(i, end, n, watch) {
        weighted_find_largest(x, b, i, end, row.shift, plain, &largest, &at);
    }
    if (at == n) { /* the pass has ended early */
        return 0;
    }
    const f64_start start = f64_row_start(largest, F64_LOG_CUT, &untempered);
    row.magic = f64x8_set1(start.magic);
    row.limit = f64x8_set1(start.limit);
    const double own_x = x[at], own_b = b[at];
    weighted_sums sums = {f64_sum_zero(), f64_sum_zero()};
    b[at] = 0;
    FSM_PIECES(i, end, n, watch) {
        (plain ? weighted_add_all_plain : weighted_add_all)(&sums, x + i, b + i, end - i, &row);
    }
    const weighted own = weighted_of(f64x8_set1(own_x), f64x8_set1(own_b), row.shift);
    f64x8 own_low;
    const f64x8 own_w = weighted_exp(&own, &row, &own_low);
    const pair own_pair = {f64x8_reduce_max(own_w), f64x8_reduce_max(own_low)};
    const pair term = pair_product(own_pair, (pair){f64x8_reduce_max(own.f), 0.0});
    const pair minus = f64_sum_total(&sums.negative);
    const pair rest = pair_sum(f64_sum_total(&sums.positive), (pair){-minus.hi, -minus.lo});
    const double own_sign = own_b < 0 ? -1.0 : 1.0;
    const pair ratio = f64_ratio((pair){own_sign * rest.hi, own_sign * rest.lo}, term);
    pair logarithm;
    *sign = own_sign;
    if (ratio.hi > -0.25) {
        logarithm = log_one_plus(ratio, 1);
    } else {
        pair whole = two_sum(1.0, ratio.hi);
        whole = fast_two_sum(whole.hi, whole.lo + ratio.lo);
        if (whole.hi == 0) {
            *sign = 0.0;
            return -INFINITY;
        }
        *sign = whole.hi < 0 ? -own_sign : own_sign;
        logarithm = log_of(whole.hi < 0 ? (pair){-whole.hi, -whole.lo} : whole);
    }
    logarithm = pair_sum(log_of((pair){fabs(own_b), 0.0}), logarithm);
    const pair sum = two_sum(own_x, logarithm.hi);
    const double result = sum.hi + (sum.lo + logarithm.lo);
    if (result != result) {
        *sign = f64_nan();
        return *sign;
    }
    return result;
}
