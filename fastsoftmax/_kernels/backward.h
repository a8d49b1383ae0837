/* Gradients and the fused cross-entropy, included after rows.h for each format.
 *
 * Bounds, in ulp of the sum of the sizes of the terms; u is half a unit in the last place of 1, a
 * weight's error at most 1.14 u (core_*.h, F).
 * - softmax_backward: of four products of a lane the first is rounded four times, the last once: 4
 *   u; g - dot rounds twice, the product once: 7 (what underflows apart).
 * - log_softmax_backward: a weight, two roundings: 2.2 (promised 3).
 * - cross-entropy: a distance d is rounded once, sums of t d and t, and their products with the
 *   smoothing, are two numbers each, as the logarithm is but for 0.93 u; the last rounding is 0.5:
 *   1.5. Class indices without smoothing as log_softmax: 1.9 (promised 2.5). Its gradient: a weight
 *   and the sum 1.8 u, or a smoothed target 2 u, and two roundings: 3.
 */

/* Every NaN of a row made the canonical one. Needed only where an infinity or NaN came in or
 * arithmetic overflowed. */
FSM_NOINLINE void F(canonical_nans)(REAL *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (out[i] != out[i]) {
            out[i] = FC(NAN);
        }
    }
}

/* Whether subtracting it from a finite number can neither overflow nor give NaN. */
FSM_INLINE int F(harmless)(REAL a) {
    return a < FC(MAX) * (REAL)0x1p-60 && a > -FC(MAX) * (REAL)0x1p-60;
}

/* The largest element, and the sum of each lane: NaN where an element is. */
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

/* Vectors of products that are added up as they come before they join a sum that keeps what they
 * round off. */
#define PRODUCTS 4

/* Adds sum(g y). */
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

/* Whole vectors of a row's gradient from element i on; returns where they end. */
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

/* What e^y sum(g) is made of: e^y is a weight times 2^(N - bias) / C, and the power of two,
 * `unbias`, is applied first (exact); hi + lo is -sum(g) / C. */
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

/* Whole vectors of a row's gradient from element i on; returns where they end. */
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

/* Adds sum(g). */
FSM_CORE void F(add_elements)(F(sum) *sum, const REAL *g, size_t n) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        F(sum_add)(sum, V(load)(g + i));
    }
    if (i < n) {
        F(sum_add)(sum, V(load_partial)(g + i, n - i, 0));
    }
}

/* What the gradient of a row needs, from the sum of g and the maximum of y. */
FSM_INLINE F(expected)
    F(expected_of)(pair total, REAL largest, const fsm_temperature *t, REAL *top, int *shifted) {
    /* e^y itself, which the weights are in units of: of a maximum far below 0 the unit would be
     * 0. */
    *top = largest < 0 ? 0 : largest;
    const F(start) s = F(row_start)(*top, FC(CUT), t);
    const pair product = {total.hi * FC(SCALE_INVERSE),
                          fma(total.hi, FC(SCALE_INVERSE), -total.hi * FC(SCALE_INVERSE)) +
                              total.hi * FC(SCALE_INVERSE_LO) + total.lo * FC(SCALE_INVERSE)};
    REAL factor_hi, factor_lo;
    F(split)(product, &factor_hi, &factor_lo);
    /* Where the maximum was subtracted, e^y is 0 or infinite. */
    const int exponent = s.shifted ? (s.maximum < 0 ? -4000 : 4000) : (int)s.steps - FC(BIAS);
    *shifted = s.shifted;
    return (F(expected)){
        .row = F(row_of)(&s, t),
        .unbias = V(set1)((REAL)power_of_two(exponent)),
        .hi = V(set1)(-factor_hi),
        .lo = V(set1)(-factor_lo),
    };
}

/* Whether a NaN may be among the gradients of a row; `lanes` has the sums of y. */
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
        const F(expected) expected =
            F(expected_of)(total, largest, &b->temperature, &top, &shifted);
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

/* One row of the cross-entropy: what its loss and gradient are made of. */
typedef struct {
    const REAL *x, *target;
    REAL *grad;
    size_t n, label;
    double smoothing, keep, spread; /* 1 - smoothing, smoothing / n */
    fsm_watch *watch;               /* of a long row */
} F(entropy);

/* The target of up to LANES classes from i on; 0 beyond the row. */
FSM_CORE VEC F(entropy_target)(const F(entropy) *e, size_t i, size_t count) {
    const VEC spread = V(set1)((REAL)e->spread);
    if (!e->target) {
        return spread;
    }
    const VEC given = V(load_partial)(e->target + i, count, 0);
    if (e->spread == 0) {
        return given;
    }
    return V(fma)(given, V(set1)((REAL)e->keep), spread);
}

/* Sums over the classes, d_i = max - x_i being how far a class is below the largest: of t_i d_i and
 * t_i over a distribution, and of d_i where every class has a share. */
typedef struct {
    F(sum) given, mass, distance;
} F(moments);

FSM_INLINE F(moments) F(moments_zero)(void) {
    return (F(moments)){F(sum_zero)(), F(sum_zero)(), F(sum_zero)()};
}

/* A target of 0 contributes 0 whatever its logit. */
FSM_CORE void F(add_moments)(F(moments) *m, const F(entropy) *e, REAL maximum) {
    const VEC largest = V(set1)(maximum);
    for (size_t i = 0; i < e->n; i += LANES) {
        const size_t count = e->n - i < LANES ? e->n - i : LANES;
        const VEC x = V(load_partial)(e->x + i, count, maximum);
        const VEC distance = V(sub)(largest, x);
        if (e->target) {
            const VEC t = V(load_partial)(e->target + i, count, 0);
            F(sum_add_product)(&m->given, t, V(where_nonzero)(distance, t));
            F(sum_add)(&m->mass, t);
        }
        if (e->spread > 0) {
            F(sum_add)(&m->distance, distance);
        }
    }
}

/* The loss where a sum has overflowed, at an impossible class or for a distance beyond the format;
 * from distances halved. */
FSM_NOINLINE REAL F(entropy_special)(const F(entropy) *e, REAL maximum, pair logarithm) {
    const double top = 0.5 * (double)maximum;
    pair sum = {0.0, 0.0};
    double mass = 0.0;
    FSM_PIECES(first, end, e->n, e->watch) {
        for (size_t i = first; i < end; i++) {
            const double given = e->target ? (double)e->target[i] : i == e->label;
            const double t = given * e->keep + e->spread;
            mass += t;
            if (t != 0) {
                const double term = t * (top - 0.5 * (double)e->x[i]);
                if (!(term < (double)INFINITY)) {
                    return (REAL)term;
                }
                sum = pair_sum(sum, (pair){term, 0.0});
            }
        }
    }
    return (REAL)(2 * sum.hi + mass * logarithm.hi);
}

/* w / total - t, from the weights of F(others) in e->grad. Those of the largest elements are `top`,
 * exact to their last bit. */
FSM_CORE void F(entropy_grad)(const F(entropy) *e, REAL maximum, REAL top, REAL hi, REAL lo) {
    const VEC inv_hi = V(set1)(hi), inv_lo = V(set1)(lo), zero = V(set1)(0);
    const VEC largest = V(set1)(maximum), top_weight = V(set1)(top);
    for (size_t i = 0; i < e->n; i += LANES) {
        const size_t count = e->n - i < LANES ? e->n - i : LANES;
        const int whole = count == LANES;
        const VEC x = whole ? V(load)(e->x + i) : V(load_partial)(e->x + i, count, 0);
        const VEC given = whole ? V(load)(e->grad + i) : V(load_partial)(e->grad + i, count, 0);
        const VEC w = V(where_equal)(x, largest, top_weight, given);
        const VEC minus_t = V(sub)(zero, F(entropy_target)(e, i, count));
        const VEC gradient = V(fma)(w, inv_hi, V(fma)(w, inv_lo, minus_t));
        if (whole) {
            V(store)(e->grad + i, gradient);
        } else {
            V(store_partial)(e->grad + i, gradient, count);
        }
    }
}

/* The same for targets that add up to so little that mass / total may underflow, or to no number:
 * (w / total) mass - t. */
FSM_NOINLINE void F(entropy_grad_small)(const F(entropy) *e, REAL maximum, double top, pair mass,
                                        pair total) {
    FSM_PIECES(first, end, e->n, e->watch) {
        for (size_t i = first; i < end; i++) {
            const double w = e->x[i] == maximum ? top : (double)e->grad[i], p = w / total.hi;
            const double low = (fma(-p, total.hi, w) - p * total.lo) / total.hi;
            const double t = fma((double)e->target[i], e->keep, e->spread);
            e->grad[i] = (REAL)fma(p, mass.hi, fma(low, mass.hi, fma(p, mass.lo, -t)));
        }
    }
}
#define SMALL_MASS 0x1p-40

/* softmax - t at the label of a row, for its weight w; for a large t as (1 - t) - (1 - softmax),
 * without the cancellation. */
FSM_INLINE REAL F(entropy_at_label)(const F(entropy) *e, int is_top, double w, double total,
                                    double ratio) {
    const double t = e->keep + e->spread;
    if (t < 0.5) {
        return (REAL)((is_top ? 1.0 / (1.0 + ratio) : w / total) - t);
    }
    const double missing = is_top ? ratio / (1.0 + ratio) : 1.0 - w / total;
    return (REAL)((1.0 - e->keep - e->spread) - missing) + (REAL)0; /* never -0 */
}

/* The row's logarithm, phase by phase for a few rows (rows.h, softmax_group). */
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

/* Two passes over a row, as functions: those above, or those of a long row. */
typedef void F(moments_pass)(F(moments) *m, const F(entropy) *e, REAL maximum);
typedef void F(grad_pass)(const F(entropy) *e, REAL maximum, REAL top, REAL hi, REAL lo);

/* The loss, sum_i t_i (max + log - x_i) = keep sum_i t_i d_i + spread sum_i d_i + log sum_i t_i: no
 * term is negative. To `mass` the sum of the targets, smoothed. */
FSM_CORE REAL F(entropy_loss)(const F(entropy) *e, REAL maximum, pair logarithm,
                              F(moments_pass) *add_moments, pair *mass) {
    *mass = (pair){1.0, 0.0};
    if (!e->target && e->spread == 0) {
        REAL log_hi, log_lo;
        F(split_log)(maximum, logarithm, &log_hi, &log_lo);
        return (log_hi - e->x[e->label]) + log_lo;
    }
    F(moments) m = F(moments_zero)();
    add_moments(&m, e, maximum);
    const pair keep = fast_two_sum(1.0, -e->smoothing);
    pair given = two_sum((double)maximum, -(double)e->x[e->label]);
    if (e->target) {
        given = F(sum_total)(&m.given);
        *mass = F(sum_total)(&m.mass);
    }
    pair loss = given;
    if (e->spread > 0) {
        const double count = (double)e->n, share = e->smoothing / count;
        const pair spread = {share, fma(-share, count, e->smoothing) / count};
        loss = pair_sum(pair_product(keep, given), pair_product(spread, F(sum_total)(&m.distance)));
        if (e->target) {
            *mass = pair_sum(pair_product(keep, *mass), (pair){e->smoothing, 0.0});
        }
    }
    loss = pair_sum(loss, pair_product(*mass, logarithm));
    return loss.hi - loss.hi == 0 ? (REAL)loss.hi : F(entropy_special)(e, maximum, logarithm);
}

FSM_INLINE REAL F(entropy_row)(const F(entropy) *e, const F(entropy_sums) *sums,
                               F(moments_pass) *add_moments, F(grad_pass) *grad) {
    const REAL maximum = sums->start.maximum;
    if (FSM_UNLIKELY(F(no_answer)(maximum, sums->logarithm))) {
        FSM_PIECES(i, end, e->grad ? e->n : 0, e->watch) {
            F(fill_nan)(e->grad + i, end - i);
        }
        return FC(NAN);
    }
    pair mass;
    const REAL loss = F(entropy_loss)(e, maximum, sums->logarithm, add_moments, &mass);
    if (e->grad) {
        const pair top = sums->top;
        pair total = two_sum(sums->others.hi, top.hi);
        total.lo += sums->others.lo + top.lo;
        REAL hi, lo;
        F(quotient)(mass, total, &hi, &lo);
        const int is_top = !e->target && e->x[e->label] == maximum;
        const double at_label = e->target ? 0 : (double)e->grad[e->label];
        if (FSM_UNLIKELY(!(mass.hi >= SMALL_MASS))) {
            F(entropy_grad_small)(e, maximum, top.hi, mass, total);
        } else {
            grad(e, maximum, (REAL)top.hi, hi, lo);
        }
        if (!e->target) {
            e->grad[e->label] = F(entropy_at_label)(e, is_top, at_label, total.hi, sums->ratio.hi);
        }
        FSM_PIECES(i, end, e->n, e->watch) {
            F(canonical_nans)(e->grad + i, end - i);
        }
    }
    return loss != loss ? FC(NAN) : loss;
}

FSM_INLINE F(entropy) F(entropy_of)(const fsm_cross_entropy *b, size_t row) {
    return (F(entropy)){
        .x = CONST_ROW(b->x, b->x_stride, row),
        .target = b->target ? CONST_ROW(b->target, b->target_stride, row) : NULL,
        .grad = b->grad ? ROW(b->grad, b->grad_stride, row) : NULL,
        .n = b->n,
        .label = b->label ? (size_t)b->label[row] : 0,
        .smoothing = b->smoothing,
        .keep = 1.0 - b->smoothing,
        .spread = b->smoothing / (double)b->n,
        .watch = b->watch,
    };
}

FSM_NOINLINE void F(cross_entropy_group)(const fsm_cross_entropy *b, size_t first, size_t rows) {
    F(entropy) e[GROUP];
    F(entropy_sums) sums[GROUP];
    REAL chunks[MOST_CHUNKS]; /* as in softmax_group */
    for (size_t g = 0; g < rows; g++) {
        e[g] = F(entropy_of)(b, first + g);
        sums[g].start = F(row_begin)(e[g].x, b->n, FC(LOG_CUT), &untempered, chunks);
    }
    for (size_t g = 0; g < rows; g++) {
        sums[g].others = F(others)(e[g].x, e[g].grad, b->n, 0, &sums[g].start, &untempered);
    }
    for (size_t g = 0; g < rows; g++) {
        F(entropy_finish)(&sums[g]);
    }
    for (size_t g = 0; g < rows; g++) {
        ((REAL *)b->loss)[first + g] =
            F(entropy_row)(&e[g], &sums[g], F(add_moments), F(entropy_grad));
    }
}
