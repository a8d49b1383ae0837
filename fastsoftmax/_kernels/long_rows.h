/* Rows of more than FSM_ASK_EVERY elements, included after backward.h: in pieces, which threads can
 * share and between which a call can end early (kernels.h). The loops of rows.h and backward.h are
 * not cut so: around a call, even a rare one, compilers keep vectors in memory (3 to 7 % of the
 * time of logsumexp and of the gradients).
 *
 * Design
 * A. A piece's sum is made of its chunks' masses, the row's of its pieces' sums, each in order. So
 *    it does not matter which thread adds up which piece. Where threads can share pieces, these are
 *    a quarter as long: of three long ones, one thread would have two.
 * B. One reading gives the maximum and the sum. The weights of a chunk are computed for the largest
 *    element of the piece so far, i.e. times a power of two (core_*.h, A); where a larger one is
 *    found, the sum is multiplied by the ratio of the two powers. That is exact, and what was kept
 *    for an earlier maximum but is cut off for the row's is less than 2^-100 of the sum, so it
 *    vanishes there. Every bit is as if the maximum had been known from the start, provided that
 *    each chunk starts its mass above its own largest weight.
 * C. Before anything is found, the largest element is taken to be -4096, the lowest that needs no
 *    shift. Where the row's turns out to need one, or the sum is NaN, the row is read once more,
 *    now that the maximum is known. So is every float64 softmax that threads share (starts_apart).
 * D. The results of a softmax that is larger than the caches are computed from the elements, whose
 *    weights are computed again, where that takes less time than to write weights, read them and
 *    write results: not in float64 where a vector is several registers. */

FSM_SMALL REAL F(long_max)(const REAL *x, size_t n, fsm_watch *watch) {
    VEC top = V(max)(V(load)(x), V(load)(x + n - LANES));
    const size_t first = F(before_line)(x, n);
    FSM_PIECES(i, end, (n - first) / LANES * LANES, watch) {
        top = V(max)(F(row_top)(x + first + i, end - i), top);
    }
    return V(reduce_max)(top);
}

/* mass_of for rows that are shifted or have a temperature, and for any other. */
FSM_SMALL F(mass)
    F(rare_mass_of)(const REAL *x, REAL *w, size_t n, REAL start, const F(row) *row, F(how) how) {
    F(mass) mass = F(mass_start)(start);
    for (size_t i = 0; i < n; i += LANES) {
        F(mass_settle_at)(&mass, i);
        F(mass_take)(&mass, x, w, i, n - i < LANES ? n - i : LANES, row, how);
    }
    return mass;
}
FSM_NOINLINE F(mass) F(stored_mass_of)(const REAL *x, REAL *w, size_t n, REAL start,
                                       ptrdiff_t ahead, const F(row) *row) {
    return F(mass_of)(x, w, n, start, ahead, row, (F(how)){0, 1, 0}, NULL);
}
FSM_NOINLINE F(mass)
    F(softmax_mass_of)(const REAL *x, size_t n, REAL start, ptrdiff_t ahead, const F(row) *row) {
    return F(mass_of)(x, NULL, n, start, ahead, row, (F(how)){0, 0, 0}, NULL);
}
FSM_NOINLINE F(mass)
    F(log_mass_of)(const REAL *x, size_t n, REAL start, ptrdiff_t ahead, const F(row) *row) {
    return F(mass_of)(x, NULL, n, start, ahead, row, (F(how)){0, 0, 1}, NULL);
}
/* Stores weights, without their mass. */
FSM_NOINLINE void F(weigh)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(row) *row,
                           int rare) {
    if (rare) {
        (void)F(rare_mass_of)(x, w, n, FC(MASS_START), row, (F(how)){1, 1, 0});
    } else {
        (void)F(mass_of)(x, w, n, FC(MASS_START), ahead, row, (F(how)){0, 1, 0}, NULL);
    }
}
FSM_NOINLINE REAL F(chunk_max)(const REAL *x, size_t n) {
    return F(row_max)(x, n);
}

/* Byte distance to the next chunk, for prefetching; 0 for the last. */
FSM_INLINE ptrdiff_t F(next_chunk)(size_t i, size_t n) {
    return n - i > CHUNK ? (ptrdiff_t)(CHUNK * sizeof(REAL)) : 0;
}

/* Whether each chunk starts its mass above its own largest weight, so that B holds. A float64
 * softmax gains nothing by that: finding a chunk's maximum costs what the reading saves. */
FSM_INLINE int F(starts_apart)(const fsm_long *row) {
    const size_t n = row->rows->n;
    return F(has_chunks)(n) || (row->function != FSM_SOFTMAX && n >= FSM_SHARED_FROM);
}

/* A sum for a unit of weights that is 2^by times as large. */
FSM_INLINE pair F(in_units)(pair sum, double by) {
    const double factor = power_of_two(by < 1100.0 ? -(int)by : -1100);
    return (pair){sum.hi * factor, sum.lo * factor};
}

/* Whether to stream n results; never a few, in which before_line() looks for no cache line. */
FSM_INLINE int F(streams)(const fsm_rows *b, size_t n) {
    return STREAMED(b) && n > FOLDED;
}

FSM_INLINE REAL F(long_cut)(const fsm_long *row) {
    return row->function == FSM_SOFTMAX ? FC(CUT) : FC(LOG_CUT);
}
FSM_INLINE F(start) F(long_start)(const fsm_long *row) {
    return F(row_start)((REAL)row->sum.maximum, F(long_cut)(row), row->rows->temperature);
}

/* fsm_long_functions.sum: for each chunk (1) its maximum; if it is the largest so far, a new start
 * and unit (B); (2) its mass, which joins the sum. */
FSM_SMALL fsm_piece F(long_sum)(const fsm_long *row, const void *piece, void *weights, size_t n) {
    const fsm_temperature *t = row->rows->temperature;
    const REAL *x = piece, cut = F(long_cut)(row);
    const int apart = F(starts_apart)(row), parts = row->function != FSM_SOFTMAX;
    F(start) s = row->known ? F(long_start)(row) : F(row_start)(-FC(SHIFT_ABOVE), cut, &untempered);
    F(row) vectors = F(row_of)(&s, t);
    const F(how) how = {s.shifted || t->tempered, weights != NULL, parts};
    REAL maximum = row->known ? (REAL)row->sum.maximum : -(REAL)INFINITY;
    pair sum = {apart || row->known ? 0.0 : (double)FC(NAN), 0.0};
    for (size_t i = 0; i < n; i += CHUNK) {
        const size_t count = n - i < CHUNK ? n - i : CHUNK;
        const REAL largest = apart || !row->known ? F(chunk_max)(x + i, count) : maximum;
        if (!row->known && largest > maximum) {
            const F(start) above = F(row_start)(largest, cut, t);
            maximum = largest;
            if (!above.shifted) {
                sum = F(in_units)(sum, above.steps - s.steps);
                s = above;
                vectors = F(row_of)(&s, t);
            } else if (largest > 0) {
                sum.hi = (double)FC(NAN); /* to be read again (C) */
            }
        }
        if (sum.hi != sum.hi) {
            continue;
        }
        const REAL start = apart ? F(chunk_start)(largest, &s, t) : FC(MASS_START);
        const ptrdiff_t ahead = F(next_chunk)(i, n);
        REAL *const w = how.stored ? (REAL *)weights + i : NULL;
        const F(mass) mass = how.rare ? F(rare_mass_of)(x + i, w, count, start, &vectors, how)
                             : parts  ? F(log_mass_of)(x + i, count, start, ahead, &vectors)
                             : how.stored
                                 ? F(stored_mass_of)(x + i, w, count, start, ahead, &vectors)
                                 : F(softmax_mass_of)(x + i, count, start, ahead, &vectors);
        F(running_add)(&sum, &mass, start);
    }
    return (fsm_piece){(double)maximum, s.steps, sum.hi, sum.lo};
}

/* fsm_long_functions.add: brings both sums to the larger unit, and adds them. */
FSM_SMALL void F(long_add)(fsm_long *row, const fsm_piece *piece) {
    pair sum = {row->sum.hi, row->sum.lo}, more = {piece->hi, piece->lo};
    if (piece->maximum > row->sum.maximum) {
        row->sum.maximum = piece->maximum;
    }
    if (piece->steps > row->sum.steps) {
        sum = F(in_units)(sum, piece->steps - row->sum.steps);
        row->sum.steps = piece->steps;
    } else {
        more = F(in_units)(more, row->sum.steps - piece->steps);
    }
    F(running_join)(&sum, more);
    row->sum.hi = sum.hi;
    row->sum.lo = sum.lo;
}

/* The length of the piece at element i where a row is read again: 0 at the end, or if the call is
 * to stop. And where its elements lie. */
FSM_INLINE size_t F(next_length)(const fsm_long *row, size_t i) {
    const size_t left = row->rows->n - i;
    return fsm_stops_after(row->rows->watch, row->piece) ? 0
           : left < row->piece                           ? left
                                                         : row->piece;
}
FSM_INLINE const REAL *F(elements)(const fsm_long *row, size_t i, size_t n) {
    return row->read ? row->read(row->source, i, i + n) : (const REAL *)row->rows->x + i;
}

/* others of a row where they are small beside the largest weight: added up by themselves. The
 * operations for a shift and a temperature leave the bits of other rows as they are. */
FSM_SMALL pair F(long_others)(const fsm_long *long_row, REAL maximum, const F(row) *row) {
    size_t left = 1; /* maximal elements still to be left out */
    F(sum) sum = F(sum_zero)();
    for (size_t i = 0, n; (n = F(next_length)(long_row, i)) != 0; i += n) {
        const REAL *x = F(elements)(long_row, i, n);
        const size_t found = left ? F(row_find)(x, n, maximum) : n;
        F(add_others)(&sum, x, NULL, n, found, row, 1);
        left -= found < n;
    }
    return F(sum_total)(&sum);
}

/* log(sum / w_max) = log1p(others / top) */
FSM_INLINE pair F(long_logarithm)(const fsm_long *row, const F(start) *s) {
    const pair others = {row->hi, row->lo};
    return log_one_plus(F(ratio)(others, F(log_top)(s)), FC(LOG_IN_TWO));
}

FSM_SMALL void F(long_logsumexp)(const fsm_long *row, const F(start) *s) {
    REAL *const out = row->rows->out;
    REAL answer = s->maximum;
    const pair logarithm = F(long_logarithm)(row, s);
    if (!F(no_answer)(answer, logarithm)) {
        F(logsumexp_row)(NULL, out, 0, s, logarithm);
        return;
    }
    /* The maximum, or a NaN that it has skipped. */
    for (size_t i = 0, n; (n = F(next_length)(row, i)) != 0; i += n) {
        answer = F(logsumexp_special)(F(elements)(row, i, n), n, answer);
    }
    *out = answer;
}

/* fsm_long_functions.finish: 1 / sum, or the others, and a logsumexp's result. */
FSM_SMALL int F(long_finish)(fsm_long *row) {
    const fsm_rows *b = row->rows;
    const F(start) s = F(long_start)(row);
    const pair sum = {row->sum.hi, row->sum.lo};
    if (!row->known && (s.shifted || sum.hi != sum.hi)) {
        row->known = 1;
        row->sum = (fsm_piece){row->sum.maximum, -INFINITY, 0.0, 0.0};
        return 1;
    }
    if (row->function == FSM_SOFTMAX) {
        REAL hi, lo;
        F(inverse)(F(running_total)(sum), &hi, &lo);
        row->hi = (double)hi;
        row->lo = (double)lo;
        return 0;
    }
    const F(row) vectors = F(row_of)(&s, b->temperature);
    pair others = F(without_top)(sum, s.maximum, &vectors, 1);
    if (!(others.hi >= F(others_from)(b->n))) {
        others = F(long_others)(row, s.maximum, &vectors);
    }
    row->hi = others.hi;
    row->lo = others.lo;
    if (row->function == FSM_LOGSUMEXP) {
        F(long_logsumexp)(row, &s);
    }
    return 0;
}

/* Scales a softmax's weights in place. */
FSM_SMALL void F(scale_long)(REAL *out, size_t n, REAL hi, REAL lo) {
    if (!FSM_UNDERFLOWED()) {
        F(scale_pieces)(out, n, hi, lo);
    } else if (!F(scale_low)(out, n, V(set1)(hi), V(set1)(lo))) {
        FSM_FORGET_UNDERFLOW();
    }
}

/* softmax of up to CHUNK elements, the sum being known. `streams`: to whole cache lines. */
FSM_SMALL void F(softmax_of_chunk)(const REAL *x, REAL *out, size_t n, ptrdiff_t ahead,
                                   const F(row) *row, int rare, REAL hi, REAL lo, int streams) {
    FSM_ALIGNED(64) REAL block[CHUNK];
    if (!streams) {
        F(weigh)(x, out, n, ahead, row, rare);
        F(scale_long)(out, n, hi, lo);
        return;
    }
    F(weigh)(x, block, n, ahead, row, rare);
    if (!FSM_UNDERFLOWED()) {
        F(stream_waiting)(&(F(waiting)){.w = block, .out = out, .hi = hi, .lo = lo}, n / LANES);
        return;
    }
    F(scale_long)(block, n, hi, lo);
    for (size_t i = 0; i < n; i += LANES) {
        V(stream)(out + i, V(load)(block + i));
    }
}

/* softmax of a piece; streamed results by whole cache lines between their ends. */
FSM_SMALL void F(softmax_again)(const fsm_long *row, const REAL *x, REAL *out, size_t n) {
    const fsm_rows *b = row->rows;
    const REAL hi = (REAL)row->hi, lo = (REAL)row->lo;
    const F(start) s = F(long_start)(row);
    const F(row) vectors = F(row_of)(&s, b->temperature);
    const int rare = s.shifted || b->temperature->tempered;
    const int streamed = F(streams)(b, n);
    size_t i = 0, count = streamed ? F(before_line)(out, n) : 0;
    if (count) {
        F(softmax_of_chunk)(x, out, count, 0, &vectors, rare, hi, lo, 0);
    }
    while ((i += count) < n) {
        const size_t left = n - i;
        const int streams = streamed && left >= LANES;
        count = left >= CHUNK ? CHUNK : streams ? left / LANES * LANES : left;
        F(softmax_of_chunk)(x + i, out + i, count, F(next_chunk)(i, n), &vectors, rare, hi, lo,
                            streams);
    }
}

/* What a gradient is made of besides g and y: sum(g y); or sum(g), and sums of y that are NaN where
 * one of its elements is. The maximum of y is kept in row->sum. */
typedef struct {
    F(sum) sum;
    VEC nans;
} F(gradient_sums);
_Static_assert(sizeof(F(gradient_sums)) <= sizeof((fsm_long *)NULL)->lanes, "room for them");

FSM_INLINE F(gradient_sums) F(gradient_sums_of)(const fsm_long *row) {
    F(gradient_sums) sums;
    memcpy(&sums, row->lanes, sizeof sums);
    return sums;
}

/* fsm_long_functions.total */
FSM_SMALL void F(long_total)(fsm_long *row, const void *piece, const void *outputs, size_t n) {
    const REAL *g = piece, *y = outputs;
    F(gradient_sums) sums = F(gradient_sums_of)(row);
    if (row->function == FSM_SOFTMAX_BACKWARD) {
        F(add_products)(&sums.sum, g, y, n);
    } else {
        VEC nans;
        const double largest = (double)F(row_max_and_sum)(y, n, &nans);
        row->sum.maximum = largest > row->sum.maximum ? largest : row->sum.maximum;
        sums.nans = V(add)(sums.nans, nans);
        F(add_elements)(&sums.sum, g, n);
    }
    memcpy(row->lanes, &sums, sizeof sums);
}

/* y (g - dot), or g - e^y sum(g), of a piece. Both return whether it may have NaNs. */
FSM_SMALL int F(softmax_gradient)(const fsm_long *row, const REAL *g, const REAL *y, REAL *out,
                                  size_t n) {
    const F(gradient_sums) sums = F(gradient_sums_of)(row);
    REAL dot_hi, dot_lo;
    F(split)(F(sum_total)(&sums.sum), &dot_hi, &dot_lo);
    const VEC hi = V(set1)(dot_hi), lo = V(set1)(dot_lo);
    const size_t i = F(gradients)(g, y, out, 0, n, hi, lo, 0, 0, NULL);
    if (i < n) {
        V(store_partial)(out + i, F(gradient_partial)(g + i, y + i, n - i, hi, lo), n - i);
    }
    return !F(harmless)(dot_hi);
}
FSM_SMALL int F(log_softmax_gradient)(const fsm_long *row, const REAL *g, const REAL *y, REAL *out,
                                      size_t n) {
    const F(gradient_sums) sums = F(gradient_sums_of)(row);
    const pair total = F(sum_total)(&sums.sum);
    REAL top;
    int shifted;
    const F(expected) expected =
        F(expected_of)(total, (REAL)row->sum.maximum, row->rows->temperature, &top, &shifted);
    const size_t i = F(log_gradients)(g, y, out, 0, n, &expected, 0, 0, 1, NULL);
    if (i < n) {
        F(log_gradient_partial)(g + i, y + i, out + i, n - i, &expected, 1, NULL, 1);
    }
    return F(may_be_nan)(sums.nans, top, total);
}

FSM_SMALL void F(long_write)(const fsm_long *row, const void *piece, const void *outputs,
                             void *results, size_t n) {
    const fsm_rows *b = row->rows;
    const REAL *x = piece, *y = outputs;
    REAL *const out = results;
    if (row->function > FSM_LOGSUMEXP) {
        if (row->function == FSM_SOFTMAX_BACKWARD ? F(softmax_gradient)(row, x, y, out, n)
                                                  : F(log_softmax_gradient)(row, x, y, out, n)) {
            F(canonical_nans)(out, n);
        }
        return;
    }
    if (row->function == FSM_SOFTMAX) {
        if (row->hi != row->hi) {
            F(fill_nan)(out, n);
        } else if (row->stored) {
            F(scale_long)(out, n, (REAL)row->hi, (REAL)row->lo);
        } else {
            F(softmax_again)(row, x, out, n);
        }
        return;
    }
    const F(start) s = F(long_start)(row);
    F(edge) shared, *const edge = F(streams)(b, n) ? &shared : NULL;
    shared.held = 0;
    F(log_softmax_row)(x, out, n, &s, b->temperature, F(long_logarithm)(row, &s), edge);
    F(edge_flush)(edge);
}

/* The maximum and the sum of a row, by one thread. A pass of its own finds the maximum where one
 * reading does not suffice: weights are stored, or chunks do not start apart (B). */
FSM_SMALL void F(long_sums)(fsm_long *row) {
    const fsm_rows *b = row->rows;
    const REAL *x = b->x;
    REAL *const w = row->stored ? b->out : NULL;
    if (!F(starts_apart)(row) || row->stored) {
        row->known = 1;
        row->sum.maximum = (double)F(long_max)(x, b->n, b->watch);
    }
    do {
        FSM_PIECES(first, end, b->n, b->watch) {
            for (size_t i = first, n; i < end; i += n) {
                n = end - i < row->piece ? end - i : row->piece;
                const fsm_piece piece = F(long_sum)(row, x + i, w ? w + i : NULL, n);
                F(long_add)(row, &piece);
            }
        }
    } while (F(long_finish)(row));
}

/* Long rows by one thread: the maximum and the sum of each, then its results. */
FSM_SMALL void F(rows_long)(const fsm_rows *b, enum fsm_function function) {
    for (size_t r = 0; r < b->rows; r++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, r);
        REAL *out = ROW(b->out, b->out_stride, r);
        fsm_rows one = *b;
        one.rows = 1;
        one.x = x;
        one.out = out;
        one.temperature = fsm_temperature_of(b, r);
        fsm_long row = fsm_long_row(&one, function);
        row.stored = function == FSM_SOFTMAX && !(b->large && FC(WEIGHS_AGAIN));
        F(long_sums)(&row);
        FSM_PIECES(first, end, function == FSM_LOGSUMEXP ? 0 : b->n, b->watch) {
            F(long_write)(&row, x + first, NULL, out + first, end - first);
        }
    }
}

/* The gradients of long rows: the sums of each, then its results. */
FSM_SMALL void F(backward_long)(const fsm_rows *b, enum fsm_function function) {
    for (size_t r = 0; r < b->rows; r++) {
        const REAL *g = CONST_ROW(b->x, b->x_stride, r), *y = CONST_ROW(b->y, b->y_stride, r);
        REAL *out = ROW(b->out, b->out_stride, r);
        fsm_long row = fsm_long_row(b, function);
        FSM_PIECES(i, end, b->n, b->watch) {
            F(long_total)(&row, g + i, y + i, end - i);
        }
        FSM_PIECES(first, end, b->n, b->watch) {
            F(long_write)(&row, g + first, y + first, out + first, end - first);
        }
    }
}

/* A piece of a row, as a row; its label lies beyond its end where it is in another piece. */
FSM_INLINE F(entropy) F(entropy_piece)(const F(entropy) *e, size_t first, size_t end) {
    F(entropy) piece = *e;
    piece.x += first;
    piece.target = e->target ? e->target + first : NULL;
    piece.kept = e->kept ? e->kept + first : NULL;
    piece.grad = e->grad ? e->grad + first : NULL;
    piece.n = end - first;
    piece.label = e->label - first < piece.n ? e->label - first : piece.n;
    return piece;
}

FSM_SMALL void F(long_moments)(F(moments) *m, const F(entropy) *e, REAL maximum) {
    FSM_PIECES(i, end, e->n, e->watch) {
        const F(entropy) piece = F(entropy_piece)(e, i, end);
        F(add_moments)(m, &piece, maximum);
    }
}

FSM_SMALL void F(long_grad)(const F(entropy) *e, const F(slopes) *s, const F(row) *row,
                            F(edge) *edge) {
    FSM_PIECES(i, end, e->n, e->watch) {
        const F(entropy) piece = F(entropy_piece)(e, i, end);
        F(entropy_grad)(&piece, s, row, edge);
    }
}

/* Weights are computed again for the gradient, so that it can overwrite the logits. */
FSM_SMALL void F(cross_entropy_long)(const fsm_cross_entropy *b) {
    for (size_t r = 0; r < b->rows; r++) {
        const F(entropy) e = F(entropy_of)(b, r);
        const fsm_rows one = {.rows = 1, .n = e.n, .x = e.x, .temperature = e.t, .watch = e.watch};
        fsm_long logarithm = fsm_long_row(&one, FSM_LOG_SOFTMAX);
        F(long_sums)(&logarithm);
        F(entropy_sums) sums = {
            .start = F(long_start)(&logarithm),
            .others = {logarithm.hi, logarithm.lo},
        };
        F(entropy_finish)(&sums);
        const F(row) row = F(row_of)(&sums.start, e.t);
        ((REAL *)b->loss)[r] = F(entropy_row)(&e, &sums, F(long_moments), F(long_grad), &row, NULL);
    }
}
