/* Rows of more than FSM_ASK_EVERY elements, included after backward.h: in pieces, between which a
 * call can end early (kernels.h). The arithmetic, and so every bit, is that of rows.h and
 * backward.h. Their loops have no such pieces: around a call, even one that is seldom made,
 * compilers keep vectors in memory (3 to 7 % of the time of logsumexp and of the gradients). They
 * are compiled to be small, for memory bounds them.
 */

FSM_SMALL REAL F(long_max)(const REAL *x, size_t n, fsm_watch *watch) {
    VEC top = V(max)(V(load)(x), V(load)(x + n - LANES));
    const size_t first = F(before_line)(x, n);
    FSM_PIECES(i, end, (n - first) / LANES * LANES, watch) {
        top = V(max)(F(row_top)(x + first + i, end - i), top);
    }
    return V(reduce_max)(top);
}

/* As mass_of, of a row that is shifted or tempered; and of others. */
FSM_SMALL F(mass)
    F(rare_mass_of)(const REAL *x, REAL *w, size_t n, REAL start, const F(row) *row, F(how) how) {
    F(mass) mass = F(mass_start)(start);
    for (size_t i = 0; i < n; i += LANES) {
        F(mass_settle_at)(&mass, i);
        F(mass_take)(&mass, x, w, i, n - i < LANES ? n - i : LANES, row, how);
    }
    return mass;
}
FSM_NOINLINE F(mass) F(softmax_mass_of)(const REAL *x, REAL *w, size_t n, REAL start,
                                        ptrdiff_t ahead, const F(row) *row) {
    return F(mass_of)(x, w, n, start, ahead, row, (F(how)){0, 1, 0}, NULL);
}
FSM_NOINLINE F(mass)
    F(log_mass_of)(const REAL *x, size_t n, REAL start, ptrdiff_t ahead, const F(row) *row) {
    return F(mass_of)(x, NULL, n, start, ahead, row, (F(how)){0, 0, 1}, NULL);
}
FSM_NOINLINE REAL F(chunk_max)(const REAL *x, size_t n) {
    return F(row_max)(x, n);
}

/* The mass of the row; weights are stored to w when given. */
FSM_SMALL F(running) F(long_masses)(const REAL *x, REAL *w, size_t n, const F(start) *s,
                                    const fsm_temperature *t, fsm_watch *watch, F(how) how) {
    F(running) running = {0};
    FSM_PIECES(first, end, n, watch) {
        const F(row) row = F(row_of)(s, t);
        for (size_t i = first; i < end; i += CHUNK) {
            const size_t count = n - i < CHUNK ? n - i : CHUNK;
            REAL *const to = how.stored ? w + i : NULL;
            const REAL start = F(has_chunks)(n) ? F(chunk_start)(F(chunk_max)(x + i, count), s, t)
                                                : FC(MASS_START);
            /* The next chunk, whose maximum is looked for before its weights are computed. */
            const ptrdiff_t ahead = n - i > CHUNK ? (ptrdiff_t)(CHUNK * sizeof(REAL)) : 0;
            const F(mass) mass = how.rare ? F(rare_mass_of)(x + i, to, count, start, &row, how)
                                 : how.parts
                                     ? F(log_mass_of)(x + i, count, start, ahead, &row)
                                     : F(softmax_mass_of)(x + i, to, count, start, ahead, &row);
            F(running_add)(&running, &mass, start);
        }
    }
    return running;
}

/* As F(others). */
FSM_SMALL pair F(long_others)(const REAL *x, size_t n, const F(start) *s, const fsm_temperature *t,
                              fsm_watch *watch) {
    const F(row) row = F(row_of)(s, t);
    const F(how) how = {s->shifted || t->tempered, 0, 1};
    const F(running) running = F(long_masses)(x, NULL, n, s, t, watch, how);
    const pair others = F(without_top)(running, s->maximum, &row, 1);
    if (others.hi >= F(others_from)(n)) {
        return others;
    }
    size_t skip = n;
    FSM_PIECES(i, end, n, watch) {
        const size_t found = F(row_find)(x + i, end - i, s->maximum);
        if (found < end - i) {
            skip = i + found;
            break;
        }
    }
    /* What is done for a shift and a temperature leaves the bits of other rows as they are. */
    F(sum) sum = F(sum_zero)();
    FSM_PIECES(i, end, n, watch) {
        F(add_others)(&sum, x + i, NULL, end - i, skip - i, &row, 1);
    }
    return F(sum_total)(&sum);
}

FSM_SMALL void F(softmax_long)(const fsm_rows *b) {
    for (size_t row = 0; row < b->rows; row++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row), hi, lo;
        const REAL maximum = F(long_max)(x, b->n, b->watch);
        const fsm_temperature *t = fsm_temperature_of(b, row);
        const F(start) s = F(row_start)(maximum, FC(CUT), t);
        const F(running) running =
            F(long_masses)(x, out, b->n, &s, t, b->watch, (F(how)){s.shifted || t->tempered, 1, 0});
        const F(total) total = F(running_total)(running);
        F(inverse)(total, &hi, &lo);
        FSM_PIECES(i, end, b->n, b->watch) {
            if (total.hi != total.hi) {
                F(fill_nan)(out + i, end - i);
            } else if (!FSM_UNDERFLOWED()) {
                F(scale_pieces)(out + i, end - i, hi, lo);
            } else if (!F(scale_low)(out + i, end - i, V(set1)(hi), V(set1)(lo))) {
                FSM_FORGET_UNDERFLOW();
            }
        }
    }
}

FSM_SMALL void F(log_long)(const fsm_rows *b, int single) {
    for (size_t row = 0; row < b->rows; row++) {
        const fsm_temperature *t = fsm_temperature_of(b, row);
        const REAL *x = CONST_ROW(b->x, b->x_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row);
        const F(start) s = F(row_start)(F(long_max)(x, b->n, b->watch), FC(LOG_CUT), t);
        const pair others = F(long_others)(x, b->n, &s, t, b->watch);
        const pair logarithm = log_one_plus(F(ratio)(others, F(log_top)(&s)), FC(LOG_IN_TWO));
        if (!single) {
            FSM_PIECES(i, end, b->n, b->watch) {
                F(log_softmax_row)(x + i, out + i, end - i, &s, t, logarithm, NULL);
            }
        } else if (!F(no_answer)(s.maximum, logarithm)) {
            F(logsumexp_row)(x, out, b->n, &s, logarithm);
        } else { /* the maximum, or a NaN that it has passed over */
            REAL answer = s.maximum;
            FSM_PIECES(i, end, b->n, b->watch) {
                answer = F(logsumexp_special)(x + i, end - i, answer);
            }
            *out = answer;
        }
    }
}

FSM_INLINE void F(long_canonical_nans)(REAL *out, size_t n, fsm_watch *watch) {
    FSM_PIECES(i, end, n, watch) {
        F(canonical_nans)(out + i, end - i);
    }
}

FSM_SMALL void F(softmax_backward_long)(const fsm_rows *b) {
    for (size_t row = 0; row < b->rows; row++) {
        const REAL *g = CONST_ROW(b->x, b->x_stride, row);
        const REAL *y = CONST_ROW(b->y, b->y_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row), dot_hi, dot_lo;
        F(sum) sum = F(sum_zero)();
        FSM_PIECES(i, end, b->n, b->watch) {
            F(add_products)(&sum, g + i, y + i, end - i);
        }
        F(split)(F(sum_total)(&sum), &dot_hi, &dot_lo);
        FSM_PIECES(first, end, b->n, b->watch) {
            const VEC hi = V(set1)(dot_hi), lo = V(set1)(dot_lo);
            const size_t i = F(gradients)(g, y, out, first, end, hi, lo, 0, 0, NULL);
            if (i < end) {
                const VEC last = F(gradient_partial)(g + i, y + i, end - i, hi, lo);
                V(store_partial)(out + i, last, end - i);
            }
        }
        if (!F(harmless)(dot_hi)) {
            F(long_canonical_nans)(out, b->n, b->watch);
        }
    }
}

FSM_SMALL void F(log_softmax_backward_long)(const fsm_rows *b) {
    for (size_t row = 0; row < b->rows; row++) {
        const REAL *g = CONST_ROW(b->x, b->x_stride, row);
        const REAL *y = CONST_ROW(b->y, b->y_stride, row);
        REAL *out = ROW(b->out, b->out_stride, row), largest = -INFINITY, top;
        F(sum) sum = F(sum_zero)();
        VEC lanes = V(set1)(0);
        int shifted;
        FSM_PIECES(i, end, b->n, b->watch) {
            F(add_elements)(&sum, g + i, end - i);
        }
        FSM_PIECES(i, end, b->n, b->watch) {
            VEC sums;
            const REAL found = F(row_max_and_sum)(y + i, end - i, &sums);
            largest = found > largest ? found : largest;
            lanes = V(add)(lanes, sums);
        }
        const pair total = F(sum_total)(&sum);
        const F(expected) expected = F(expected_of)(total, largest, b->temperature, &top, &shifted);
        FSM_PIECES(first, end, b->n, b->watch) {
            const size_t i = F(log_gradients)(g, y, out, first, end, &expected, 0, 0, 1, NULL);
            if (i < end) {
                F(log_gradient_partial)(g + i, y + i, out + i, end - i, &expected, 1, NULL, 1);
            }
        }
        if (F(may_be_nan)(lanes, top, total)) {
            F(long_canonical_nans)(out, b->n, b->watch);
        }
    }
}

/* A piece of a row, as if it were one; where the label is not in it, that is beyond its end. */
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

/* Weights are computed once more for the gradient, so that it can lie where the logits do. */
FSM_SMALL void F(cross_entropy_long)(const fsm_cross_entropy *b) {
    for (size_t r = 0; r < b->rows; r++) {
        const F(entropy) e = F(entropy_of)(b, r);
        const REAL maximum = F(long_max)(e.x, e.n, e.watch);
        F(entropy_sums) sums = {.start = F(row_start)(maximum, FC(LOG_CUT), e.t)};
        sums.others = F(long_others)(e.x, e.n, &sums.start, e.t, e.watch);
        F(entropy_finish)(&sums);
        const F(row) row = F(row_of)(&sums.start, e.t);
        ((REAL *)b->loss)[r] = F(entropy_row)(&e, &sums, F(long_moments), F(long_grad), &row, NULL);
    }
}
