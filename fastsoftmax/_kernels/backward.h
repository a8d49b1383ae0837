/* Gradients and the fused cross-entropy, included after rows.h for each format.
 *
 * Bounds, in ulp of the sum of the magnitudes of the terms; u is half a unit in the last place of
 * 1, a weight's error at most 1.14 u (core_*.h, F).
 * - softmax_backward: of four products of a lane the first is rounded four times, the last once: 4
 *   u; g - dot rounds twice, the product once: 7 (underflow apart).
 * - log_softmax_backward: a weight, two roundings: 2.2 (promised 3).
 * - cross-entropy: a distance d is rounded once; sums of t d and t, and their products with the
 *   smoothing, the temperature and the weight, are two numbers each, as the logarithm is but for
 *   0.93 u; the last rounding is 0.5: 1.5. Class indices without any of these as log_softmax: 1.9
 *   (promised 2.5). Its gradient: a weight and the sum 1.8 u, or a target smoothed or weighted 2 u
 *   (the factor of both is rounded once), and two roundings: 3. */

/* Makes NaNs canonical: needed where an infinity or NaN came in or arithmetic overflowed. */
FSM_NOINLINE void F(canonical_nans)(REAL *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (out[i] != out[i]) {
            out[i] = FC(NAN);
        }
    }
}

/* Whether subtracting a from a finite number can neither overflow nor give NaN. */
FSM_INLINE int F(harmless)(REAL a) {
    return a < FC(MAX) * (REAL)0x1p-60 && a > -FC(MAX) * (REAL)0x1p-60;
}

/* The largest element, and to `sum` the sum of each lane, NaN where one of its elements is. */
FSM_CORE REAL F(row_max_and_sum)(const REAL *x, size_t n, VEC *sum) {
    VEC m0 = V(set1)(-INFINITY), m1 = m0, s0 = V(set1)(0), s1 = s0;
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const VEC a = V(load)(x + i), b = V(load)(x + i + LANES);
        m0 = V(max)(m0, a);
        m1 = V(max)(m1, b);
        s0 = V(add)(s0, a);
        s1 = V(add)(s1, b);
    }
    for (; i < n; i += LANES) {
        const VEC a = V(load_partial)(x + i, n - i < LANES ? n - i : LANES, -INFINITY);
        m0 = V(max)(m0, a);
        s0 = V(add)(s0, a);
    }
    *sum = V(add)(s0, s1);
    return V(reduce_max)(V(max)(m0, m1));
}

/* Vectors of products that are added without compensation before they join a compensated sum. */
#define PRODUCTS 4

/* sum += sum(g y) */
FSM_CORE void F(add_products)(F(sum) *sum, const REAL *g, const REAL *y, size_t n) {
    size_t i = 0;
    for (; i + PRODUCTS * LANES <= n; i += PRODUCTS * LANES) {
        VEC product = V(mul)(V(load)(g + i), V(load)(y + i));
        for (size_t v = LANES; v < PRODUCTS * LANES; v += LANES) {
            product = V(fma)(V(load)(g + i + v), V(load)(y + i + v), product);
        }
        F(sum_add)(sum, product);
    }
    VEC product = V(set1)(0);
    for (; i + LANES <= n; i += LANES) {
        product = V(fma)(V(load)(g + i), V(load)(y + i), product);
    }
    if (i < n) {
        product =
            V(fma)(V(load_partial)(g + i, n - i, 0), V(load_partial)(y + i, n - i, 0), product);
    }
    F(sum_add)(sum, product);
}

/* y (g - dot) */
FSM_CORE VEC F(gradient)(VEC g, VEC y, VEC hi, VEC lo) {
    return V(mul)(y, V(sub)(V(sub)(g, hi), lo));
}
FSM_CORE VEC F(gradient_partial)(const REAL *g, const REAL *y, size_t n, VEC hi, VEC lo) {
    return F(gradient)(V(load_partial)(g, n, 0), V(load_partial)(y, n, 0), hi, lo);
}

/* Stores y (g - dot) for whole vectors from element i on; returns where they end. */
FSM_CORE size_t F(gradients)(const REAL *g, const REAL *y, REAL *out, size_t i, size_t n, VEC hi,
                             VEC lo, ptrdiff_t ahead_g, ptrdiff_t ahead_y, const F(edge) *edge) {
    for (; i + LANES <= n; i += LANES) {
        if (ahead_g) {
            FSM_PREFETCH((const char *)(g + i) + ahead_g);
            FSM_PREFETCH((const char *)(y + i) + ahead_y);
        }
        F(put)(out + i, F(gradient)(V(load)(g + i), V(load)(y + i), hi, lo), edge);
    }
    return i;
}

/* out = y (g - sum(g y)) */
static void F(softmax_backward_along)(const fsm_rows *b) {
    F(edge) shared, *const edge = STREAMED(b) ? &shared : NULL;
    shared.held = 0;
    for (size_t row = 0; row < b->rows; row++) {
        const REAL *g = CONST_ROW(b->x, b->x_stride, row);
        const REAL *y = CONST_ROW(b->y, b->y_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row);
        REAL dot_hi, dot_lo;
        F(sum) sum = F(sum_zero)();
        F(add_products)(&sum, g, y, b->n);
        F(split)(F(sum_total)(&sum), &dot_hi, &dot_lo);
        const VEC hi = V(set1)(dot_hi), lo = V(set1)(dot_lo);
        size_t i = F(before_line)(out, b->n);
        if (i) {
            F(put_first)(out, F(gradient_partial)(g, y, i, hi, lo), i, edge);
        }
        const int more = b->far && row + 1 < b->rows;
        const ptrdiff_t ahead_g = more ? b->x_stride : 0, ahead_y = more ? b->y_stride : 0;
        i = edge   ? F(gradients)(g, y, out, i, b->n, hi, lo, ahead_g, ahead_y, edge)
            : more ? F(gradients)(g, y, out, i, b->n, hi, lo, ahead_g, ahead_y, NULL)
                   : F(gradients)(g, y, out, i, b->n, hi, lo, 0, 0, NULL);
        if (i < b->n) {
            const VEC last = F(gradient_partial)(g + i, y + i, b->n - i, hi, lo);
            F(put_last)(out + i, last, b->n - i, edge);
        }
        if (FSM_UNLIKELY(!F(harmless)(dot_hi))) {
            F(edge_flush)(edge);
            F(canonical_nans)(out, b->n);
        }
    }
    F(edge_flush)(edge);
}

/* What e^y sum(g) is made of: e^y = weight * unbias / C with unbias = 2^(N - bias), which is
 * applied first and exactly; hi + lo = -sum(g) / C. */
typedef struct {
    F(row) row;
    VEC unbias, hi, lo;
} F(expected);

/* g - e^y sum(g) */
FSM_CORE VEC F(log_gradient)(VEC g, VEC y, const F(expected) *s, int shifted) {
    const VEC e = V(mul)(F(weight)(y, &s->row, shifted), s->unbias);
    return V(fma)(e, s->hi, V(fma)(e, s->lo, g));
}
FSM_NOINLINE void F(log_gradient_partial)(const REAL *g, const REAL *y, REAL *out, size_t n,
                                          const F(expected) *s, int shifted, F(edge) *edge,
                                          int last) {
    const VEC a = V(load_partial)(g, n, 0), b = V(load_partial)(y, n, -INFINITY);
    const VEC gradient = F(log_gradient)(a, b, s, shifted);
    if (last) {
        F(put_last)(out, gradient, n, edge);
    } else {
        F(put_first)(out, gradient, n, edge);
    }
}

/* Stores g - e^y sum(g) for whole vectors from element i on; returns where they end. */
FSM_CORE size_t F(log_gradients)(const REAL *g, const REAL *y, REAL *out, size_t i, size_t n,
                                 const F(expected) *expected, ptrdiff_t ahead_g, ptrdiff_t ahead_y,
                                 int shifted, const F(edge) *edge) {
    const F(expected) s = *expected;
    for (; i + LANES <= n; i += LANES) {
        FSM_PREFETCH((const char *)(g + i) + ahead_g);
        FSM_PREFETCH((const char *)(y + i) + ahead_y);
        const VEC a = V(load)(g + i), b = V(load)(y + i);
        F(put)(out + i, F(log_gradient)(a, b, &s, shifted), edge);
    }
    return i;
}

/* sum += sum(g) */
FSM_CORE void F(add_elements)(F(sum) *sum, const REAL *g, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        F(sum_add)(sum, V(load)(g + i));
    }
    if (i < n) {
        F(sum_add)(sum, V(load_partial)(g + i, n - i, 0));
    }
}

/* F(expected) of a row, from sum(g) and the maximum of y. */
FSM_INLINE F(expected)
    F(expected_of)(pair total, REAL largest, const fsm_temperature *t, REAL *top, int *shifted) {
    /* A unit of at least e^0: with a maximum far below 0, unbias would be 0. */
    *top = largest < 0 ? 0 : largest;
    const F(start) s = F(row_start)(*top, FC(CUT), t);
    const pair product = {total.hi * FC(SCALE_INVERSE),
                          fma(total.hi, FC(SCALE_INVERSE), -total.hi * FC(SCALE_INVERSE)) +
                              total.hi * FC(SCALE_INVERSE_LO) + total.lo * FC(SCALE_INVERSE)};
    REAL factor_hi, factor_lo;
    F(split)(product, &factor_hi, &factor_lo);
    /* Where the maximum would be subtracted, e^y is 0 or infinite. */
    const int exponent = s.shifted ? (s.maximum < 0 ? -4000 : 4000) : (int)s.steps - FC(BIAS);
    *shifted = s.shifted;
    return (F(expected)){
        .row = F(row_of)(&s, t),
        .unbias = V(set1)((REAL)power_of_two(exponent)),
        .hi = V(set1)(-factor_hi),
        .lo = V(set1)(-factor_lo),
    };
}

/* Whether a row's gradient may have a NaN; `lanes` has the sums of y by lane. */
FSM_INLINE int F(may_be_nan)(VEC lanes, REAL top, pair total) {
    return V(equal)(lanes, lanes) != ALL_LANES || !(top < FC(HARMLESS_LOG)) ||
           !F(harmless)((REAL)total.hi) || total.hi != total.hi;
}

/* out = g - e^y sum(g), y the output of log_softmax */
static void F(log_softmax_backward_along)(const fsm_rows *b) {
    F(edge) shared, *const edge = STREAMED(b) ? &shared : NULL;
    shared.held = 0;
    for (size_t row = 0; row < b->rows; row++) {
        const REAL *g = CONST_ROW(b->x, b->x_stride, row);
        const REAL *y = CONST_ROW(b->y, b->y_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row);
        F(sum) sum = F(sum_zero)();
        F(add_elements)(&sum, g, b->n);
        const pair total = F(sum_total)(&sum);
        VEC lanes;
        REAL top;
        int shifted;
        const REAL largest = F(row_max_and_sum)(y, b->n, &lanes);
        const F(expected) expected = F(expected_of)(total, largest, b->temperature, &top, &shifted);
        const int last = row + 1 == b->rows;
        const ptrdiff_t ahead_g = last ? 0 : b->x_stride, ahead_y = last ? 0 : b->y_stride;
        size_t i = F(before_line)(out, b->n);
        if (i) {
            F(log_gradient_partial)(g, y, out, i, &expected, shifted, edge, 0);
        }
        i = FSM_UNLIKELY(shifted) ? F(log_gradients)(g, y, out, i, b->n, &expected, 0, 0, 1, NULL)
            : edge ? F(log_gradients)(g, y, out, i, b->n, &expected, ahead_g, ahead_y, 0, edge)
                   : F(log_gradients)(g, y, out, i, b->n, &expected, ahead_g, ahead_y, 0, NULL);
        if (i < b->n) {
            F(log_gradient_partial)(g + i, y + i, out + i, b->n - i, &expected, shifted, edge, 1);
        }
        if (FSM_UNLIKELY(F(may_be_nan)(lanes, top, total))) {
            F(edge_flush)(edge);
            F(canonical_nans)(out, b->n);
        }
    }
    F(edge_flush)(edge);
}

/* One row of the cross-entropy. Its smoothed targets are t_i = keep target_i + spread. */
typedef struct {
    const REAL *x, *target, *kept;
    REAL *w, *grad; /* weights of the gradient, in scratch or in grad */
    size_t n, label;
    double smoothing, classes, keep, spread; /* 1 - smoothing, smoothing / classes */
    const fsm_temperature *t;
    double weight;    /* of the loss and the gradient */
    fsm_watch *watch; /* of a long row */
} F(entropy);

/* Sums over the classes, where d_i = max - x_i: `given` of target_i d_i, `mass` of target_i,
 * `distance` of d_i over the classes that share in the smoothing. */
typedef struct {
    F(sum) given, mass, distance;
} F(moments);

FSM_INLINE F(moments) F(moments_zero)(void) {
    return (F(moments)){F(sum_zero)(), F(sum_zero)(), F(sum_zero)()};
}

/* Adds them. A target of 0 contributes 0, whatever its logit. */
FSM_CORE void F(add_moments)(F(moments) *m, const F(entropy) *e, REAL maximum) {
    const VEC largest = V(set1)(maximum);
    for (size_t i = 0; i < e->n; i += LANES) {
        const size_t count = e->n - i < LANES ? e->n - i : LANES;
        const VEC x = V(load_partial)(e->x + i, count, maximum);
        VEC distance = V(sub)(largest, x);
        if (e->target) {
            const VEC t = V(load_partial)(e->target + i, count, 0);
            F(sum_add_product)(&m->given, t, V(where_nonzero)(distance, t));
            F(sum_add)(&m->mass, t);
        }
        if (e->spread > 0) {
            if (e->kept) {
                distance = V(where_nonzero)(distance, V(load_partial)(e->kept + i, count, 0));
            }
            F(sum_add)(&m->distance, distance);
        }
    }
}

/* a / T for numbers so large that a product of pairs may overflow. */
FSM_INLINE double F(tempered)(double a, const fsm_temperature *t) {
    return a * t->inv_hi * t->scale;
}

/* The loss where a sum has overflowed, by an impossible class or distances near the end of the
 * format: from distances times `scale`, a power of two. */
FSM_NOINLINE double F(scaled_loss)(const F(entropy) *e, REAL maximum, pair logarithm,
                                   double scale) {
    const double top = scale * (double)maximum;
    pair sum = {0.0, 0.0};
    pair mass = {0.0, 0.0};
    FSM_PIECES(first, end, e->n, e->watch) {
        for (size_t i = first; i < end; i++) {
            const double given = e->target ? (double)e->target[i] : i == e->label;
            const double share = e->kept && e->kept[i] == 0 ? 0.0 : e->spread;
            const double t = given * e->keep + share;
            mass = pair_sum(mass, (pair){t, 0.0});
            if (t != 0) {
                const double term = t * (top - scale * (double)e->x[i]);
                if (!(term < (double)INFINITY)) {
                    return term * e->weight;
                }
                sum = pair_sum(sum, (pair){term, 0.0});
            }
        }
    }
    const pair mean = pair_product(sum, (pair){e->t->inv_hi, e->t->inv_lo});
    return (mean.hi * e->t->scale / scale + mass.hi * logarithm.hi) * e->weight;
}

/* A scale of 1/2 is enough, unless a temperature brings back a sum that overflows even then; with
 * 2^-512 none does for targets below 2^449. Scale 1/2 decides where the loss itself overflows. */
FSM_NOINLINE REAL F(entropy_special)(const F(entropy) *e, REAL maximum, pair logarithm) {
    const double loss = F(scaled_loss)(e, maximum, logarithm, 0.5);
    const double again = loss - loss == 0 ? loss : F(scaled_loss)(e, maximum, logarithm, 0x1p-512);
    return (REAL)(again - again == 0 ? again : loss);
}

/* weight / T, the factor of a row's gradient. */
FSM_INLINE pair F(entropy_factor)(const F(entropy) *e) {
    if (!e->t->tempered) {
        return (pair){e->weight, 0.0};
    }
    const pair inverse = {e->t->inv_hi, e->t->inv_lo};
    const pair factor = pair_product(inverse, (pair){e->weight, 0.0});
    return (pair){factor.hi * e->t->scale, factor.lo * e->t->scale};
}
/* Whether a factor is far from the ends of float32; others are applied step by step. */
FSM_INLINE int F(is_moderate)(double a) {
    return fabs(a) >= 0x1p-60 && fabs(a) <= 0x1p60;
}
FSM_INLINE double F(times_factor)(double a, pair factor, const F(entropy) *e) {
    return F(is_moderate)(factor.hi) ? fma(a, factor.hi, a * factor.lo)
                                     : F(tempered)(a * e->weight, e->t);
}

/* The gradient of a row, (mass w / total - t) factor, as w (hi + lo) - (target share + spread) with
 * hi + lo = mass factor / total; share is keep factor, spread includes the factor, too. w is `top`
 * for maximal elements. At the label the gradient is `at_label`. */
typedef struct {
    VEC largest, top, hi, lo, share, spread;
    REAL at_label;
} F(slopes);

/* Elements i to i + count of the gradient, from e->w or, unless `row` is NULL, new weights. */
FSM_CORE VEC F(slope)(const F(entropy) *e, const F(slopes) *s, size_t i, size_t count,
                      const F(row) *row) {
    const int whole = count == LANES;
    const VEC x = whole ? V(load)(e->x + i) : V(load_partial)(e->x + i, count, 0);
    const VEC given = row     ? F(weight)(x, row, 1)
                      : whole ? V(load)(e->w + i)
                              : V(load_partial)(e->w + i, count, 0);
    const VEC w = V(where_equal)(x, s->largest, s->top, given);
    VEC t = s->spread;
    if (e->target) {
        const VEC target =
            whole ? V(load)(e->target + i) : V(load_partial)(e->target + i, count, 0);
        t = V(fma)(target, s->share, t);
    }
    const VEC minus_t = V(sub)(V(set1)(0), t);
    return V(fma)(w, s->hi, V(fma)(w, s->lo, minus_t));
}
/* The same; the label may be among them. */
FSM_CORE VEC F(slope_at_label)(const F(entropy) *e, const F(slopes) *s, size_t i, size_t count,
                               const F(row) *row) {
    const VEC slope = F(slope)(e, s, i, count, row);
    if (e->target || e->label - i >= count) {
        return slope;
    }
    REAL elements[LANES];
    V(store)(elements, slope);
    elements[e->label - i] = s->at_label;
    return V(load)(elements);
}
/* Stores it for the whole vectors from element i up to `end`; returns where they end. */
FSM_CORE size_t F(put_slopes)(const F(entropy) *e, const F(slopes) *s, size_t i, size_t end,
                              const F(row) *row, const F(edge) *edge) {
    for (; i + LANES <= end; i += LANES) {
        F(put)(e->grad + i, F(slope)(e, s, i, LANES, row), edge);
    }
    return i;
}

/* The gradient of a row, or of a piece of it; streamed if there is an `edge`. */
FSM_CORE void F(entropy_grad)(const F(entropy) *e, const F(slopes) *s, const F(row) *row,
                              F(edge) *edge) {
    const size_t first = edge ? F(before_line)(e->grad, e->n) : 0;
    size_t i = first;
    if (first) {
        F(put_first)(e->grad, F(slope_at_label)(e, s, 0, first, row), first, edge);
    }
    if (!e->target && e->label < e->n && e->label >= first) {
        i = F(put_slopes)(e, s, i, e->label, row, edge);
        if (i + LANES <= e->n) {
            F(put)(e->grad + i, F(slope_at_label)(e, s, i, LANES, row), edge);
            i += LANES;
        }
    }
    i = F(put_slopes)(e, s, i, e->n, row, edge);
    if (i < e->n) {
        F(put_last)(e->grad + i, F(slope_at_label)(e, s, i, e->n - i, row), e->n - i, edge);
    }
}

/* The gradient without smoothed or soft targets, where results may be subnormal (rows.h, F): then
 * it is w (hi + lo) but at the label, and the bits are those of entropy_grad. */
FSM_NOINLINE void F(entropy_grad_low)(const F(entropy) *e, const F(slopes) *s) {
    for (size_t i = 0; i < e->n; i += LANES) {
        const size_t count = e->n - i < LANES ? e->n - i : LANES;
        const VEC x = V(load_partial)(e->x + i, count, 0), w = V(load_partial)(e->w + i, count, 0);
        V(store_partial)(e->grad + i, V(where_equal)(x, s->largest, s->top, w), count);
    }
    if (!F(scale_low)(e->grad, e->n, s->hi, s->lo)) {
        FSM_FORGET_UNDERFLOW();
    }
    e->grad[e->label] = s->at_label;
}

/* The gradient where the factor of the weights may underflow, overflow or be NaN: ((w / total) mass
 * - t) factor, with w / total in two numbers. */
FSM_NOINLINE void F(entropy_grad_far)(const F(entropy) *e, REAL maximum, double top, pair mass,
                                      pair total, pair factor, REAL at_label, const F(row) *row) {
    FSM_PIECES(first, end, e->n, e->watch) {
        for (size_t i = first; i < end; i++) {
            const REAL x = e->x[i];
            const REAL given = row ? V(reduce_max)(F(weight)(V(set1)(x), row, 1)) : e->w[i];
            const double w = x == maximum ? top : (double)given, p = w / total.hi;
            const double low = (fma(-p, total.hi, w) - p * total.lo) / total.hi;
            const double target = e->target ? (double)e->target[i] : 0.0;
            const double t = fma(target, e->keep, e->spread);
            const double slope = fma(p, mass.hi, fma(low, mass.hi, fma(p, mass.lo, -t)));
            e->grad[i] = (REAL)F(times_factor)(slope, factor, e) + (REAL)0; /* never -0 */
        }
    }
    if (!e->target) {
        e->grad[e->label] = at_label;
    }
}
#define SMALL_MASS 0x1p-40

/* (softmax - t) factor at a row's label; for t >= 1/2 as (1 - t) - (1 - softmax). */
FSM_INLINE REAL F(entropy_at_label)(const F(entropy) *e, int is_top, double w, double total,
                                    double ratio, pair factor) {
    const double t = e->keep + e->spread;
    double slope = (is_top ? 1.0 / (1.0 + ratio) : w / total) - t;
    if (t >= 0.5) {
        const double missing = is_top ? ratio / (1.0 + ratio) : 1.0 - w / total;
        slope = (1.0 - e->keep - e->spread) - missing;
    }
    return (REAL)F(times_factor)(slope, factor, e) + (REAL)0;
}

/* The logarithm of a row, computed phase by phase for a few rows (rows.h, softmax_group). */
typedef struct {
    F(start) start;
    pair others, top;
    pair ratio, logarithm;
} F(entropy_sums);

FSM_INLINE void F(entropy_finish)(F(entropy_sums) *sums) {
    sums->top = F(log_top)(&sums->start);
    sums->ratio = F(ratio)(sums->others, sums->top);
    sums->logarithm = log_one_plus(sums->ratio, FC(LOG_IN_TWO));
}

/* Two passes over a row: those above, or those of a long row. */
typedef void F(moments_pass)(F(moments) *m, const F(entropy) *e, REAL maximum);
typedef void F(grad_pass)(const F(entropy) *e, const F(slopes) *s, const F(row) *row,
                          F(edge) *edge);

/* The loss sum_i t_i ((max - x_i) / T + log), as (keep sum_i target_i d_i + spread sum_i d_i) / T +
 * log sum_i t_i without negative terms, times the weight. To `mass`: sum_i t_i. */
FSM_CORE REAL F(entropy_loss)(const F(entropy) *e, REAL maximum, pair logarithm,
                              F(moments_pass) *add_moments, pair *mass) {
    *mass = (pair){1.0, 0.0};
    if (!e->target && e->spread == 0 && e->weight == 1 && !e->t->tempered) {
        REAL log_hi, log_lo;
        F(split_log)(maximum, logarithm, &log_hi, &log_lo);
        return (log_hi - e->x[e->label]) + log_lo;
    }
    F(moments) m = F(moments_zero)();
    if (e->target || e->spread > 0) {
        add_moments(&m, e, maximum);
    }
    const pair keep = fast_two_sum(1.0, -e->smoothing);
    pair given = two_sum((double)maximum, -(double)e->x[e->target ? 0 : e->label]);
    if (e->target) {
        given = F(sum_total)(&m.given);
        *mass = F(sum_total)(&m.mass);
    }
    if (e->keep == 0) {
        given = (pair){0.0, 0.0}; /* weighs nothing, and may be infinite */
    }
    pair loss = given;
    if (e->spread > 0) {
        const double share = e->spread, count = e->classes;
        const pair spread = {share, fma(-share, count, e->smoothing) / count};
        loss = pair_sum(pair_product(keep, given), pair_product(spread, F(sum_total)(&m.distance)));
        if (e->target) {
            *mass = pair_sum(pair_product(keep, *mass), (pair){e->smoothing, 0.0});
        }
    }
    if (e->t->tempered) {
        loss = pair_product(loss, (pair){e->t->inv_hi, e->t->inv_lo});
        loss = (pair){loss.hi * e->t->scale, loss.lo * e->t->scale};
    }
    loss = pair_sum(loss, pair_product(*mass, logarithm));
    if (e->weight != 1) {
        loss = pair_product(loss, (pair){e->weight, 0.0});
    }
    return loss.hi - loss.hi == 0 ? (REAL)loss.hi : F(entropy_special)(e, maximum, logarithm);
}

/* The gradient of a row whose logarithm is a number. */
FSM_INLINE void F(entropy_slopes)(const F(entropy) *e, const F(entropy_sums) *sums, pair mass,
                                  F(grad_pass) *grad, const F(row) *row, F(edge) *edge) {
    const REAL maximum = sums->start.maximum;
    const pair top = sums->top, factor = F(entropy_factor)(e);
    pair total = two_sum(sums->others.hi, top.hi);
    total.lo += sums->others.lo + top.lo;
    F(slopes) s = {.at_label = 0};
    if (!e->target) {
        const REAL x = e->x[e->label];
        const int is_top = x == maximum;
        const REAL w = is_top ? 0
                       : row  ? V(reduce_max)(F(weight)(V(set1)(x), row, 1))
                              : e->w[e->label];
        s.at_label = F(entropy_at_label)(e, is_top, (double)w, total.hi, sums->ratio.hi, factor);
    }
    const pair scaled = factor.hi == 1 && factor.lo == 0 ? mass : pair_product(mass, factor);
    if (FSM_UNLIKELY(!(fabs(scaled.hi) >= SMALL_MASS && fabs(scaled.hi) <= 0x1p60 &&
                       F(is_moderate)(factor.hi)))) {
        F(edge_flush)(edge);
        F(entropy_grad_far)(e, maximum, top.hi, mass, total, factor, s.at_label, row);
        return;
    }
    REAL hi, lo;
    F(quotient)(scaled, total, &hi, &lo);
    s.largest = V(set1)(maximum);
    s.top = V(set1)((REAL)top.hi);
    s.hi = V(set1)(hi);
    s.lo = V(set1)(lo);
    s.share = V(set1)((REAL)(e->keep * factor.hi));
    s.spread = V(set1)((REAL)(e->spread * factor.hi));
    if (FSM_UNLIKELY(FSM_UNDERFLOWED()) && !e->target && e->spread == 0 && hi > 0 && !row) {
        F(edge_flush)(edge);
        F(entropy_grad_low)(e, &s);
        return;
    }
    grad(e, &s, row, edge);
}

/* The loss of a row, and its gradient if there is memory for it. */
FSM_INLINE REAL F(entropy_row)(const F(entropy) *e, const F(entropy_sums) *sums,
                               F(moments_pass) *add_moments, F(grad_pass) *grad, const F(row) *row,
                               F(edge) *edge) {
    if (FSM_UNLIKELY(F(no_answer)(sums->start.maximum, sums->logarithm))) {
        F(edge_flush)(edge);
        FSM_PIECES(i, end, e->grad ? e->n : 0, e->watch) {
            F(fill_nan)(e->grad + i, end - i);
        }
        return FC(NAN);
    }
    pair mass;
    const REAL loss = F(entropy_loss)(e, sums->start.maximum, sums->logarithm, add_moments, &mass);
    if (e->grad) {
        F(entropy_slopes)(e, sums, mass, grad, row, edge);
        /* The loss is not finite where a target is not. */
        if (FSM_UNLIKELY(!(loss - loss == 0))) {
            F(edge_flush)(edge);
            FSM_PIECES(i, end, e->n, e->watch) {
                F(canonical_nans)(e->grad + i, end - i);
            }
        }
    }
    return loss != loss ? FC(NAN) : loss;
}

FSM_INLINE F(entropy) F(entropy_of)(const fsm_cross_entropy *b, size_t row) {
    const double classes = (double)(b->classes ? b->classes[row] : b->n);
    REAL *grad = b->grad ? ROW(b->grad, b->grad_stride, row) : NULL;
    return (F(entropy)){
        .x = CONST_ROW(b->x, b->x_stride, row),
        .target = b->target ? CONST_ROW(b->target, b->target_stride, row) : NULL,
        .kept = b->kept ? CONST_ROW(b->kept, b->kept_stride, row) : NULL,
        .w = grad,
        .grad = grad,
        .n = b->n,
        .label = b->label ? (size_t)b->label[row] : 0,
        .smoothing = b->smoothing,
        .classes = classes,
        .keep = 1.0 - b->smoothing,
        .spread = classes > 0 ? b->smoothing / classes : 0.0,
        .t = b->temperature + row * b->temperature_step,
        .weight = b->weight ? b->weight[row] : 1.0,
        .watch = b->watch,
    };
}

/* A group of rows, phase by phase: (1) maxima and starts; (2) weights, and the sum of all but a
 * maximal one; (3) log1p(others / top); (4) losses and gradients. */
FSM_NOINLINE void F(cross_entropy_group)(const fsm_cross_entropy *b, size_t first, size_t rows,
                                         F(edge) *edge) {
    F(entropy) e[GROUP];
    F(entropy_sums) sums[GROUP];
    REAL chunks[MOST_CHUNKS]; /* of a row of several, which is a group by itself */
    const size_t pitch = (b->n + 2 * LANES - 1) / LANES * LANES;
    for (size_t g = 0; g < rows; g++) {
        e[g] = F(entropy_of)(b, first + g);
        if (b->scratch && e[g].grad) {
            e[g].w = (REAL *)b->scratch + g * pitch + (uintptr_t)e[g].grad % 64 / sizeof(REAL);
        }
        sums[g].start = F(row_begin)(e[g].x, b->n, FC(LOG_CUT), e[g].t, chunks);
    }
    for (size_t g = 0; g < rows; g++) {
        sums[g].others = F(others)(e[g].x, e[g].w, b->n, 0, &sums[g].start, e[g].t);
    }
    for (size_t g = 0; g < rows; g++) {
        F(entropy_finish)(&sums[g]);
    }
    for (size_t g = 0; g < rows; g++) {
        REAL *loss = (REAL *)b->loss + first + g;
        *loss = edge ? F(entropy_row)(&e[g], &sums[g], F(add_moments), F(entropy_grad), NULL, edge)
                     : F(entropy_row)(&e[g], &sums[g], F(add_moments), F(entropy_grad), NULL, NULL);
    }
}
