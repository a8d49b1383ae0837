/* Short rows, across: a block of LANES rows is transposed so that column i is one vector and a lane is a row; included after
 * rows.h for each format.
 *
 * Design
 * A. The weights of a column, the sum over columns and all that follows are the operations of the row kernels, lane by lane:
 *    the sum's tree adds columns 8, 4, 2, 1 apart as the row kernel folds its lanes. So a row has the same bits here and
 *    alone; there is no horizontal step, and one division and one logarithm serve a block.
 * B. A block with a row that is not plain (a NaN, an infinite or large maximum) is left to the row kernels, before anything
 *    of it is written.
 * C. What remains of a batch is padded to a block if that pays, else left to the row kernels.
 */

/* Rows shorter than this go across. One block of the float64 sum (rows.h, block). */
#define SHORT 16
#define ALL_LANES ((1u << LANES) - 1)
/* Rows that one call takes: two blocks. */
#define SPAN (2 * LANES)

/* LANES rows' worth of F(start). */
typedef struct {
    F(row) row;
    VEC maximum, top, residual, steps;
} F(columns);

/* Computes SPAN rows of the batch from `first` on, or nothing: 0. */
typedef int F(columns_function)(const fsm_rows *b, size_t first);

FSM_INLINE void F(columns_load)(const REAL *x, ptrdiff_t stride, VEC *a, size_t n) {
    if (n >= COLUMNS) {
        for (size_t i = 0; i + COLUMNS <= n; i += COLUMNS) {
            V(load_group)(x + i, stride, a + i);
        }
        if (n % COLUMNS) {
            V(load_group)(x + n - COLUMNS, stride, a + n - COLUMNS);
        }
    } else if (stride == (ptrdiff_t)(n * sizeof(REAL))) {
        V(load_narrow)(x, n, a);
    } else {
        REAL packed[COLUMNS * LANES];
        for (size_t r = 0; r < LANES; r++) {
            memcpy(packed + r * n, (const char *)x + (ptrdiff_t)r * stride, n * sizeof(REAL));
        }
        V(load_narrow)(packed, n, a);
    }
}

FSM_INLINE void F(columns_store)(REAL *out, ptrdiff_t stride, const VEC *a, size_t n) {
    if (n >= COLUMNS) {
        for (size_t i = 0; i + COLUMNS <= n; i += COLUMNS) {
            V(store_group)(out + i, stride, a + i);
        }
        if (n % COLUMNS) {
            V(store_group)(out + n - COLUMNS, stride, a + n - COLUMNS);
        }
    } else if (stride == (ptrdiff_t)(n * sizeof(REAL))) {
        V(store_narrow)(out, n, a);
    } else {
        REAL packed[COLUMNS * LANES];
        V(store_narrow)(packed, n, a);
        for (size_t r = 0; r < LANES; r++) {
            memcpy((char *)out + (ptrdiff_t)r * stride, packed + r * n, n * sizeof(REAL));
        }
    }
}

FSM_INLINE VEC F(columns_max)(const VEC *a, size_t n) {
    VEC m0 = a[0], m1 = a[n - 1];
    for (size_t i = 1; i + 1 < n; i += 2) {
        m0 = V(max)(m0, a[i]);
        m1 = V(max)(m1, a[i + 1]);
    }
    return V(max)(m0, m1);
}

/* row_start; whether every row is plain. */
FSM_INLINE int F(columns_start)(F(columns) *s, VEC maximum, REAL cut, const fsm_temperature *t,
                                int tempered) {
    const VEC zero = V(set1)(0), magic = V(set1)(FC(MAGIC)), above = V(set1)(FC(SHIFT_ABOVE));
    s->maximum = maximum;
    s->top = maximum;
    s->residual = zero;
    s->row.shift = zero;
    if (tempered) {
        s->row.scale = V(set1)((REAL)t->scale);
        s->row.inv_hi = V(set1)((REAL)t->inv_hi);
        s->row.inv_lo = V(set1)((REAL)t->inv_lo);
        const VEC scaled = V(mul)(maximum, s->row.scale);
        s->top = V(mul)(scaled, s->row.inv_hi);
        const VEC rounding = V(fma)(scaled, s->row.inv_hi, V(sub)(V(set1)(FC(MINUS_ZERO)), s->top));
        s->residual = V(fma)(scaled, s->row.inv_lo, rounding);
    }
    const VEC rounded = V(fma)(s->top, V(set1)(FC(LOG2E)), magic);
    s->steps = V(sub)(rounded, magic);
    s->row.magic = V(fma)(rounded, V(set1)(-8), V(set1)(9 * FC(MAGIC) + 8 * FC(BIAS)));
    s->row.limit = V(sub)(s->top, V(set1)(cut));
    /* The second operand of max wins against a NaN. */
    const VEC magnitude = V(max)(s->top, V(sub)(zero, s->top));
    return V(equal)(V(max)(above, magnitude), above) == ALL_LANES;
}

/* Folds what n lanes of the row kernel hold. */
FSM_INLINE F(sum) F(columns_fold)(F(sum) *lane, size_t n) {
    for (size_t half = LANES / 2; half; half /= 2) {
        for (size_t i = 0; i < half && i + half < n; i++) {
            F(lanes_join)(&lane[i], &lane[i + half]);
        }
        n = n < half ? n : half;
    }
    return lane[0];
}

/* The row's sum of weights. Absent terms are +0 and left out. */
FSM_INLINE F(sum) F(columns_sum)(const VEC *a, size_t n) {
    F(sum) lane[LANES];
    for (size_t i = 0; i < n && i < LANES; i++) {
        const int pair = LANES < SHORT && i + LANES < n;
        lane[i] = F(lanes_first)(pair ? V(add)(a[i], a[(i + LANES) % SHORT]) : a[i]);
    }
    return F(columns_fold)(lane, n < LANES ? n : LANES);
}

/* `blocks` blocks side by side: what one waits for (its maximum, sum, division) the other fills. */
FSM_INLINE int F(softmax_columns_of)(const fsm_rows *b, size_t first, const size_t n,
                                     const int blocks, const int tempered) {
    VEC a[2][SHORT], hi[2], lo[2];
    F(columns) s[2];
    F(sum) total[2];
    int plain = 1;
    for (int k = 0; k < blocks; k++) {
        F(columns_load)(CONST_ROW(b->x, b->x_stride, first + k * LANES), b->x_stride, a[k], n);
    }
    for (int k = 0; k < blocks; k++) {
        plain &=
            F(columns_start)(&s[k], F(columns_max)(a[k], n), FC(CUT), &b->temperature, tempered);
    }
    if (!plain) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; k < blocks; k++) {
            a[k][i] = F(weight)(a[k][i], &s[k].row, 0, tempered);
        }
    }
    for (int k = 0; k < blocks; k++) {
        total[k] = F(columns_sum)(a[k], n);
    }
    for (int k = 0; k < blocks; k++) {
        F(lanes_inverse)(&total[k], &hi[k], &lo[k]);
        plain &= V(equal)(hi[k], hi[k]) == ALL_LANES;
    }
    if (!plain) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; k < blocks; k++) {
            a[k][i] = F(normalised)(a[k][i], hi[k], lo[k]);
        }
    }
    for (int k = 0; k < blocks; k++) {
        F(columns_store)(ROW(b->out, b->out_stride, first + k * LANES), b->out_stride, a[k], n);
    }
    return 1;
}

static int F(softmax_columns)(const fsm_rows *b, size_t first) {
#ifndef FSM_CORE_CALLED
    if (!b->temperature.tempered) {
        switch (b->n) {
#define EXACTLY(n)                                                                                 \
    case n:                                                                                        \
        return F(softmax_columns_of)(b, first, n, 2, 0)
            EXACTLY(2);
            EXACTLY(3);
            EXACTLY(4);
            EXACTLY(5);
            EXACTLY(6);
            EXACTLY(7);
            EXACTLY(8);
            EXACTLY(9);
            EXACTLY(10);
            EXACTLY(11);
            EXACTLY(12);
            EXACTLY(13);
            EXACTLY(14);
            EXACTLY(15);
#undef EXACTLY
        default:
            break;
        }
    }
#endif
    return F(softmax_columns_of)(b, first, b->n, 2, b->temperature.tempered);
}

/* Fewer rows than a span, with zeros for the rest. */
FSM_NOINLINE int F(across_padded)(const fsm_rows *b, F(columns_function) *columns, size_t outputs) {
    REAL x[SHORT * SPAN] = {0}, y[SHORT * SPAN] = {0}, out[SHORT * SPAN];
    const ptrdiff_t stride = (ptrdiff_t)(b->n * sizeof(REAL));
    const fsm_rows padded = {
        .rows = SPAN,
        .n = b->n,
        .x = x,
        .y = b->y ? y : NULL,
        .out = out,
        .x_stride = stride,
        .y_stride = stride,
        .out_stride = (ptrdiff_t)(outputs * sizeof(REAL)),
        .temperature = b->temperature,
    };
    for (size_t r = 0; r < b->rows; r++) {
        memcpy(x + r * b->n, CONST_ROW(b->x, b->x_stride, r), b->n * sizeof(REAL));
        if (b->y) {
            memcpy(y + r * b->n, CONST_ROW(b->y, b->y_stride, r), b->n * sizeof(REAL));
        }
    }
    if (!columns(&padded, 0)) {
        return 0;
    }
    for (size_t r = 0; r < b->rows; r++) {
        memcpy(ROW(b->out, b->out_stride, r), out + r * outputs, outputs * sizeof(REAL));
    }
    return 1;
}

/* A batch of short rows: by spans of rows where that works, by rows elsewhere. `outputs`: elements a row of the result has. */
FSM_INLINE void F(across)(const fsm_rows *b, F(columns_function) *columns, fsm_rows_function *along,
                          size_t outputs) {
    fsm_rows part = *b;
    size_t row = 0;
    for (; row < b->rows; row += part.rows) {
        const size_t left = b->rows - row;
        if (left >= SPAN && columns(b, row)) {
            part.rows = SPAN;
            continue;
        }
        part.rows = left < SPAN ? left : SPAN;
        part.x = CONST_ROW(b->x, b->x_stride, row);
        part.y = b->y ? CONST_ROW(b->y, b->y_stride, row) : NULL;
        part.out = ROW(b->out, b->out_stride, row);
        if (left >= SPAN || left < LANES / 4 || !F(across_padded)(&part, columns, outputs)) {
            along(&part);
        }
    }
}

static void F(softmax_rows)(const fsm_rows *b) {
    if (b->n < SHORT && b->rows > 1 && !b->scratch) {
        F(across)(b, F(softmax_columns), F(softmax_along), b->n);
    } else {
        F(softmax_along)(b);
    }
}
