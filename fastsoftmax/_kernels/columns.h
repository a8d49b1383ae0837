/* Short rows, transposed: of a block of LANES rows, column i (element i of each row) is one vector,
 * and a lane is a row. Included after rows.h and backward.h for each format.
 *
 * Design
 * A. The weights of a column, the sum over columns and all that follows are the operations of the
 *    row kernels, lane by lane. What these have in lane i of their accumulators is here the
 *    accumulator of columns i, i + LANES, ...; these are added 8, 4, 2, 1 apart, as the row kernel
 *    folds its lanes. So a row has the same bits here and there. There is no horizontal step, and
 *    one division and one logarithm serve a block.
 * B. A block with a row that is not plain (a NaN, an infinite or large maximum) is left to the row
 *    kernels, before anything of it is written.
 * C. The last rows of a batch are padded to a block if that pays, else left to the row kernels.
 * D. gather and scatter are the same transposes for arrays.c: from rows side by side in memory to
 *    contiguous rows, and back.
 * E. Rows side by side in memory, of up to FSM_BESIDE_LENGTH elements, need no transposing: a block
 *    of them is columns as it lies. Longer ones, in a softmax, are computed where they lie
 *    (softmax_tall). */

/* The longest rows that go across in a softmax (longer ones are folded), and the longest whose last
 * rows are padded to a span, i.e. the rows that one call of a columns function computes. */
#define SOFTMAX_ACROSS (3 * LANES - 1)
#define PADDED 16
/* The longest rows that are transposed by permuting whole vectors: contiguous ones of up to
 * FC(NARROW) elements, and those of fewer than COLUMNS, which are copied together first. */
#define MOST_NARROW 3
/* Blocks interleaved in a softmax, so that one computes while the other waits for its maximum, sum
 * and division: generic 1, AVX-512 2, others 2 for 2 to 4 columns, else 1. */
#ifdef FSM_CORE_CALLED
#define INTERLEAVED(n) 1
#elif defined(FSM_ONE_REGISTER)
#define INTERLEAVED(n) 2
#else
#define INTERLEAVED(n) ((n) > 1 && (n) < 5 ? 2 : 1)
#endif
#define MOST_INTERLEAVED 2

/* Computes rows from `first` on, and returns how many; 0 if they need the row kernels. */
typedef size_t F(columns_function)(const fsm_rows *b, size_t first);

/* Transposes LANES rows of n elements, `stride` bytes apart, to columns a. */
FSM_CORE void F(columns_load)(const REAL *x, ptrdiff_t stride, VEC *a, size_t n) {
    a[0] = V(set1)(0); /* n is never 0, which gcc cannot know: it warns */
    if (n <= FC(NARROW) && stride == (ptrdiff_t)(n * sizeof(REAL))) {
        V(load_narrow)(x, n, a);
    } else if (n >= COLUMNS) {
        for (size_t i = 0; i + COLUMNS <= n; i += COLUMNS) {
            V(load_group)(x + i, stride, a + i);
        }
        if (n % COLUMNS) {
            V(load_group)(x + n - COLUMNS, stride, a + n - COLUMNS);
        }
    } else {
        REAL packed[MOST_NARROW * LANES];
        for (size_t r = 0; r < LANES; r++) {
            memcpy(packed + r * n, (const char *)x + (ptrdiff_t)r * stride, n * sizeof(REAL));
        }
        V(load_narrow)(packed, n, a);
    }
}

/* Transposes columns a to rows. */
FSM_CORE void F(columns_store)(REAL *out, ptrdiff_t stride, const VEC *a, size_t n) {
    if (n <= FC(NARROW) && stride == (ptrdiff_t)(n * sizeof(REAL))) {
        V(store_narrow)(out, n, a);
    } else if (n >= COLUMNS) {
        for (size_t i = 0; i + COLUMNS <= n; i += COLUMNS) {
            V(store_group)(out + i, stride, a + i);
        }
        if (n % COLUMNS) {
            V(store_group)(out + n - COLUMNS, stride, a + n - COLUMNS);
        }
    } else {
        REAL packed[MOST_NARROW * LANES];
        V(store_narrow)(packed, n, a);
        for (size_t r = 0; r < LANES; r++) {
            memcpy((char *)out + (ptrdiff_t)r * stride, packed + r * n, n * sizeof(REAL));
        }
    }
}

/* The same, not inlined, for an n that is not a constant. */
FSM_NOINLINE void F(columns_read)(const REAL *x, ptrdiff_t stride, VEC *a, size_t n) {
    F(columns_load)(x, stride, a, n);
}
FSM_NOINLINE void F(columns_write)(REAL *out, ptrdiff_t stride, const VEC *a, size_t n) {
    F(columns_store)(out, stride, a, n);
}

FSM_CORE VEC F(columns_max)(const VEC *a, size_t n) {
    VEC m0 = a[0], m1 = a[n - 1];
    for (size_t i = 1; i + 1 < n; i += 2) {
        m0 = V(max)(m0, a[i]);
        m1 = V(max)(m1, a[i + 1]);
    }
    return V(max)(m0, m1);
}

/* Joins lane[0 .. n) into lane[0] by halves, as a row kernel folds the lanes of a vector. */
#define COLUMNS_FOLD(lane, n, join)                                                                \
    do {                                                                                           \
        size_t left = (n) < LANES ? (n) : LANES;                                                   \
        for (size_t half = LANES / 2; half; half /= 2) {                                           \
            for (size_t l = 0; l < half && l + half < left; l++) {                                 \
                join(&(lane)[l], &(lane)[l + half]);                                               \
            }                                                                                      \
            left = left < half ? left : half;                                                      \
        }                                                                                          \
    } while (0)

/* A block's masses: the counts of units of all accumulators, added; each one's remainder. */
typedef struct {
    VEC units, low[LANES];
} F(columns_mass);

/* The weights of the columns, to w unless NULL (it may be x), and their mass. */
FSM_CORE void F(columns_weigh)(const VEC *x, VEC *w, size_t n, const F(row) *row, int tempered,
                               F(columns_mass) *mass) {
    mass->low[0] = mass->units = V(set1)(0); /* n is not 0, as gcc cannot know */
    for (size_t i = 0; i < n && i < LANES; i++) {
        const VEC first = F(weight)(x[i], row, tempered);
        F(mass) lane = F(mass_first)(first);
        if (w) {
            w[i] = first;
        }
        for (size_t at = i + LANES; at < n; at += LANES) {
            const VEC a = F(weight)(x[at], row, tempered);
            F(mass_add)(&lane, a);
            if (w) {
                w[at] = a;
            }
        }
        mass->units = F(lanes_units)(mass->units, &lane);
        mass->low[i] = lane.lo;
    }
}

/* The mass of the columns' weights in parts, for a logarithm. */
FSM_CORE void F(columns_weigh_parts)(const VEC *x, size_t n, const F(row) *row,
                                     F(columns_mass) *mass) {
    mass->units = V(set1)(0);
    for (size_t i = 0; i < LANES; i++) {
        F(mass) lane = F(mass_start)(FC(MASS_START));
        for (size_t at = i; at < n; at += LANES) {
            F(mass_add_parts)(&lane, F(weight_parts)(x[at], row, 0));
        }
        mass->units = F(lanes_units)(mass->units, &lane);
        mass->low[i] = lane.lo;
    }
}

/* The sum of the remainders by halves, without absent ones: these would add +0. */
FSM_CORE VEC F(columns_low)(F(columns_mass) *mass, size_t lanes) {
    FSM_UNROLL
    for (size_t half = LANES / 2; half; half /= 2) {
        FSM_UNROLL
        for (size_t i = 0; i < half; i++) {
            if (i + half < lanes) {
                mass->low[i] = V(add)(mass->low[i], mass->low[i + half]);
            }
        }
    }
    return mass->low[0];
}

FSM_INLINE uint32_t F(columns_lanes)(size_t n) {
    return (uint32_t)(n < LANES ? n : LANES);
}

/* The columns' sum in parts, for a logarithm; the weights to w unless NULL (it may be x). */
FSM_CORE F(sum) F(columns_sum)(const VEC *x, VEC *w, size_t n, const F(row) *row) {
    F(part_sum) lane[LANES];
    for (size_t i = 0; i < n && i < LANES; i++) {
        for (size_t at = i; at < n; at += LANES) {
            const F(parts) parts = F(weight_parts)(x[at], row, 0);
            if (at < LANES) {
                lane[i] = F(part_sum_first)(parts);
            } else {
                F(part_sum_add)(&lane[i], parts);
            }
            if (w) {
                w[at] = F(whole)(parts, row->limit);
            }
        }
    }
    COLUMNS_FOLD(lane, n, F(part_sum_join));
    return F(part_sum_whole)(&lane[0]);
}

/* sum(a_i b_i), with products grouped as F(add_products) does; sum(a_i) if b is NULL. */
FSM_CORE F(sum) F(columns_dot)(const VEC *a, const VEC *b, size_t n) {
    F(sum) lane[LANES];
    lane[0] = F(sum_zero)(); /* n is not 0, as gcc cannot know */
    for (size_t i = 1; i < n && i < LANES; i++) {
        lane[i] = F(sum_zero)();
    }
    for (size_t i = 0; i < n; i++) {
        if (!b) {
            F(sum_add)(&lane[i % LANES], a[i]);
        } else if (i / LANES % PRODUCTS == 0) {
            VEC product = V(mul)(a[i], b[i]);
            for (size_t at = i + LANES; at < n && at < i + PRODUCTS * LANES; at += LANES) {
                product = V(fma)(a[at], b[at], product);
            }
            F(sum_add)(&lane[i % LANES], product);
        }
    }
    COLUMNS_FOLD(lane, n, F(sum_join));
    return lane[0];
}

/* Whether |a| < limit in every lane. */
FSM_INLINE int F(columns_below)(VEC a, REAL limit) {
    const VEC zero = V(set1)(0), one = V(set1)(1);
    const VEC magnitude = V(max)(a, V(sub)(zero, a));
    return V(equal)(V(zero_below)(one, magnitude, V(set1)(limit)), zero) == ALL_LANES;
}

/* The softmax of `blocks` blocks: (1) transpose; (2) maxima, starts; (3) weights, masses; (4) hi +
 * lo = 1 / sum; (5) w (hi + lo); (6) transpose back. `exactly`: n is a constant. */
FSM_INLINE size_t F(softmax_columns_of)(const fsm_rows *b, size_t first, const size_t n,
                                        const int blocks, const int tempered, const int exactly) {
    VEC a[MOST_INTERLEAVED][ACROSS], hi[MOST_INTERLEAVED], lo[MOST_INTERLEAVED];
    F(starts) s[MOST_INTERLEAVED];
    F(columns_mass) mass[MOST_INTERLEAVED];
    F(totals) total[MOST_INTERLEAVED];
    int plain = 1;
    for (int k = 0; k < blocks; k++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, first + k * LANES);
        if (exactly) {
            F(columns_load)(x, b->x_stride, a[k], n);
        } else {
            F(columns_read)(x, b->x_stride, a[k], n);
        }
    }
    for (int k = 0; k < blocks; k++) {
        plain &=
            F(starts_of)(&s[k], F(columns_max)(a[k], n), FC(CUT),
                         fsm_temperature_of(b, first + k * LANES), b->temperature_step, tempered);
    }
    if (!plain) {
        return 0;
    }
    for (int k = 0; k < blocks; k++) {
        F(columns_weigh)(a[k], a[k], n, &s[k].row, tempered, &mass[k]);
    }
    for (int k = 0; k < blocks; k++) {
        const uint32_t lanes = F(columns_lanes)(n);
        total[k] = F(lanes_total)(mass[k].units, F(columns_low)(&mass[k], lanes), lanes);
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
        REAL *out = ROW(b->out, b->out_stride, first + k * LANES);
        if (exactly) {
            F(columns_store)(out, b->out_stride, a[k], n);
        } else {
            F(columns_write)(out, b->out_stride, a[k], n);
        }
    }
    return (size_t)blocks * LANES;
}

#ifndef FSM_CORE_CALLED
/* fsm_beside_function of softmax: the steps above on a block that is columns already. */
static int F(softmax_beside)(void *block, size_t n) {
    VEC *const a = block;
    VEC hi, lo;
    const uint32_t lanes = F(columns_lanes)(n);
    F(starts) s;
    F(columns_mass) mass;
    if (!F(starts_of)(&s, F(columns_max)(a, n), FC(CUT), &untempered, 0, 0)) {
        return 0;
    }
    F(columns_weigh)(a, a, n, &s.row, 0, &mass);
    const F(totals) total = F(lanes_total)(mass.units, F(columns_low)(&mass, lanes), lanes);
    F(lanes_inverse)(&total, &hi, &lo);
    if (V(equal)(hi, hi) != ALL_LANES) {
        return 0;
    }
    if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
        if (!F(scale_low)((REAL *)a, n * LANES, hi, lo)) {
            FSM_FORGET_UNDERFLOW();
        }
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        a[i] = F(normalised)(a[i], hi, lo);
    }
    return 1;
}

/* A block of contiguous rows by way of softmax_beside, which can do with subnormal results. */
FSM_NOINLINE size_t F(softmax_columns_low)(const fsm_rows *b, size_t first) {
    VEC a[ACROSS];
    if (fsm_is_tempered(b)) {
        return 0;
    }
    F(columns_read)(CONST_ROW(b->x, b->x_stride, first), b->x_stride, a, b->n);
    if (!F(softmax_beside)(a, b->n)) {
        return 0;
    }
    F(columns_write)(ROW(b->out, b->out_stride, first), b->out_stride, a, b->n);
    return LANES;
}
#endif

/* Compiled for each length up to 16 (float64: 10), where a vector is registers. */
static size_t F(softmax_columns)(const fsm_rows *b, size_t first) {
#ifndef FSM_CORE_CALLED
    if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
        return F(softmax_columns_low)(b, first);
    }
    if (!fsm_is_tempered(b)) {
        switch (b->n) {
#define EXACTLY(n)                                                                                 \
    case n:                                                                                        \
        return F(softmax_columns_of)(b, first, n, INTERLEAVED(n), 0, 1)
            EXACTLY(2);
            EXACTLY(3);
            EXACTLY(4);
            EXACTLY(5);
            EXACTLY(6);
            EXACTLY(7);
            EXACTLY(8);
            EXACTLY(9);
            EXACTLY(10);
#if LANES > 8
            EXACTLY(11);
            EXACTLY(12);
            EXACTLY(13);
            EXACTLY(14);
            EXACTLY(15);
            EXACTLY(16);
#endif
#undef EXACTLY
        default:
            return F(softmax_columns_of)(b, first, b->n, INTERLEAVED(LANES), 0, 0);
        }
    }
#endif
    return F(softmax_columns_of)(b, first, b->n, 1, fsm_is_tempered(b), 0);
}

/* Computes fewer rows than a span, the others being 0; returns 0 if they need the row kernels. */
FSM_NOINLINE int F(across_padded)(const fsm_rows *b, F(columns_function) *columns, size_t span,
                                  size_t outputs) {
    REAL x[PADDED * MOST_INTERLEAVED * LANES] = {0}, y[PADDED * MOST_INTERLEAVED * LANES] = {0};
    REAL out[PADDED * MOST_INTERLEAVED * LANES];
    const ptrdiff_t stride = (ptrdiff_t)(b->n * sizeof(REAL));
    const fsm_rows padded = {
        .rows = span,
        .n = b->n,
        .x = x,
        .y = b->y ? y : NULL,
        .out = out,
        .x_stride = stride,
        .y_stride = stride,
        .out_stride = (ptrdiff_t)(outputs * sizeof(REAL)),
        .temperature = b->temperature, /* the same for all rows */
    };
    for (size_t r = 0; r < b->rows; r++) {
        memcpy(x + r * b->n, CONST_ROW(b->x, b->x_stride, r), b->n * sizeof(REAL));
        if (b->y) {
            memcpy(y + r * b->n, CONST_ROW(b->y, b->y_stride, r), b->n * sizeof(REAL));
        }
    }
    if (columns(&padded, 0) < b->rows) {
        return 0;
    }
    for (size_t r = 0; r < b->rows; r++) {
        memcpy(ROW(b->out, b->out_stride, r), out + r * outputs, outputs * sizeof(REAL));
    }
    return 1;
}

/* A batch of short rows: by `columns`, `span` rows or more at a time, and by `along` what that
 * leaves. A result has `outputs` elements a row. */
FSM_INLINE void F(across)(const fsm_rows *b, F(columns_function) *columns, size_t span,
                          fsm_rows_function *along, size_t outputs) {
    fsm_rows part = *b;
    size_t row = 0;
    for (; row < b->rows; row += part.rows) {
        const size_t left = b->rows - row;
        part.rows = left >= span ? columns(b, row) : 0;
        if (part.rows) {
            continue;
        }
        part.rows = left < span ? left : span;
        part.x = CONST_ROW(b->x, b->x_stride, row);
        part.temperature = fsm_temperature_of(b, row);
        part.y = b->y ? CONST_ROW(b->y, b->y_stride, row) : NULL;
        part.out = ROW(b->out, b->out_stride, row);
        if (left >= span || left < LANES / 4 || b->n > PADDED || b->temperature_step ||
            !F(across_padded)(&part, columns, span, outputs)) {
            along(&part);
        }
    }
}

/* fsm_kernels.rows, here and below: long rows to long_rows.h, short ones across, others along. */
static void F(softmax_rows)(const fsm_rows *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(rows_long)(b, FSM_SOFTMAX);
    } else if (b->n <= SOFTMAX_ACROSS && b->rows > 1) {
        const int blocks = fsm_is_tempered(b) ? 1 : INTERLEAVED(b->n);
        F(across)(b, F(softmax_columns), (size_t)blocks * LANES, F(softmax_along), b->n);
    } else {
        F(softmax_along)(b);
    }
}

/* What the logarithms of LANES rows, log1p(others / top), are made of. */
typedef struct {
    F(starts) start;
    F(sum) others, top;
    F(wide) ratio, logarithm;
} F(logs);

FSM_NOINLINE void F(logs_finish)(F(logs) *s) {
    s->top = F(lanes_top_weight)(s->start.top, s->start.residual, s->start.steps);
    s->ratio = F(lanes_ratio)(&s->others, &s->top);
    s->logarithm = F(lanes_log_one_plus)(s->ratio);
}

/* The start and `others` of a block, for logs_finish: the sum in parts of its columns without the
 * first largest element of each row. Returns 0 if a row is not plain. Overwrites w; with `weights`,
 * w then holds the weights, 0 for that element. */
FSM_CORE int F(columns_logs_of)(const VEC *a, VEC *w, size_t n, F(logs) *s, const int weights) {
    const VEC nothing = V(set1)(-INFINITY), found = V(set1)(FC(NAN));
    if (!F(starts_of)(&s->start, F(columns_max)(a, n), FC(LOG_CUT), &untempered, 0, 0)) {
        return 0;
    }
    /* Becomes NaN at the first maximal element, which no later one is equal to. */
    VEC wanted = s->start.maximum;
    for (size_t i = 0; i < n; i++) {
        w[i] = V(where_equal)(a[i], wanted, nothing, a[i]);
        wanted = V(where_equal)(a[i], wanted, found, wanted);
    }
    s->others = F(columns_sum)(w, weights ? w : NULL, n, &s->start.row);
    return 1;
}
FSM_NOINLINE int F(columns_logs)(const VEC *a, VEC *w, size_t n, F(logs) *s) {
    return F(columns_logs_of)(a, w, n, s, 0);
}
FSM_NOINLINE int F(columns_logs_and_weights)(const VEC *a, VEC *w, size_t n, F(logs) *s) {
    return F(columns_logs_of)(a, w, n, s, 1);
}

/* max + log(sum / w_max) of each row of a few blocks as hi + lo; 0 if one is not plain. */
FSM_INLINE int F(columns_log)(VEC (*a)[ACROSS], const int blocks, size_t n, VEC *hi, VEC *lo) {
    VEC w[ACROSS];
    F(logs) s[MOST_INTERLEAVED];
    int plain = 1;
    for (int k = 0; k < blocks; k++) {
        plain = plain && F(columns_logs)(a[k], w, n, &s[k]);
    }
    /* Each is a chain of dependent operations; the processor overlaps two of them. */
    for (int k = 0; k < blocks && plain; k++) {
        F(logs_finish)(&s[k]);
    }
    for (int k = 0; k < blocks && plain; k++) {
        F(lanes_split_log)(s[k].start.maximum, s[k].logarithm, &hi[k], &lo[k]);
        plain = V(equal)(hi[k], hi[k]) == ALL_LANES;
    }
    return plain;
}

/* The same of the rows from `first` on, which are transposed to a. Returns the number of blocks. */
FSM_NOINLINE int F(columns_log_of)(const fsm_rows *b, size_t first, VEC (*a)[ACROSS], VEC *hi,
                                   VEC *lo) {
    const int blocks = b->rows - first < MOST_INTERLEAVED * LANES ? 1 : MOST_INTERLEAVED;
    for (int k = 0; k < blocks; k++) {
        F(columns_read)(CONST_ROW(b->x, b->x_stride, first + k * LANES), b->x_stride, a[k], b->n);
    }
    return F(columns_log)(a, blocks, b->n, hi, lo) ? blocks : 0;
}

#ifndef FSM_CORE_CALLED
/* Up to LANES rows of up to FOLDED elements, folded together (rows.h, E): (1) maxima and starts;
 * (2) masses in parts along each row; (3) others = mass - top, log1p(others / top) and max + log of
 * all; (4) results. Rows that are not plain, or whose others are small beside their largest weight,
 * go to log_group one by one. */
FSM_NOINLINE void F(log_folded)(const fsm_rows *b, size_t first, size_t rows, int single) {
    const size_t n = b->n;
    VEC hi[LANES], lo[LANES];
    REAL magic[LANES], limit[LANES];
    const ptrdiff_t ahead = F(ahead)(b, first, rows);
    F(logs) s;
    for (size_t r = 0; r < LANES; r++) {
        hi[r] = r < rows ? F(row_top)(CONST_ROW(b->x, b->x_stride, first + r), n) : hi[0];
    }
    const int plain = F(starts_of)(&s.start, V(fold_max)(hi), FC(LOG_CUT), &untempered, 0, 0);
    V(store)(magic, s.start.row.magic);
    V(store)(limit, s.start.row.limit);
    for (size_t r = 0; plain && r < LANES; r++) {
        if (r < rows) {
            const F(row) row = {.magic = V(set1)(magic[r]), .limit = V(set1)(limit[r])};
            const F(mass) mass = F(mass_of)(CONST_ROW(b->x, b->x_stride, first + r), NULL, n,
                                            FC(MASS_START), ahead, &row, (F(how)){0, 0, 1}, NULL);
            hi[r] = mass.hi;
            lo[r] = mass.lo;
        } else {
            hi[r] = hi[0];
            lo[r] = lo[0];
        }
    }
    unsigned answered = 0;
    if (plain) {
        VEC log_hi, log_lo, own_low;
        const VEC own = F(weight_split)(s.start.maximum, &s.start.row, 0, &own_low);
        s.others = F(folded_others)(hi, lo, own, own_low);
        answered = F(lanes_at_least)(&s.others, F(others_from)(n));
        F(logs_finish)(&s);
        F(lanes_split_log)(s.start.maximum, s.logarithm, &log_hi, &log_lo);
        V(store)(magic, log_hi);
        V(store)(limit, log_lo);
    }
    for (size_t r = 0; r < rows; r++) {
        REAL *out = ROW(b->out, b->out_stride, first + r);
        if (!(answered >> r & 1)) {
            F(log_group)(b, first + r, 1, single, NULL);
        } else if (single) {
            *out = magic[r];
        } else {
            F(log_softmax_plain)(CONST_ROW(b->x, b->x_stride, first + r), out, 0, n, magic[r],
                                 limit[r], NULL);
        }
    }
}

#endif

/* A batch of rows: up to FOLDED elements folded, unless they are few; else by log_groups. */
static void F(log_folds)(const fsm_rows *b, int single) {
#ifndef FSM_CORE_CALLED
    if (b->n <= FOLDED && b->rows >= FOLD_FROM && !fsm_is_tempered(b)) {
        for (size_t row = 0; row < b->rows; row += LANES) {
            F(log_folded)(b, row, b->rows - row < LANES ? b->rows - row : LANES, single);
        }
        return;
    }
#endif
    F(log_groups)(b, single);
}

static size_t F(log_softmax_columns)(const fsm_rows *b, size_t first) {
    VEC a[MOST_INTERLEAVED][ACROSS], hi[MOST_INTERLEAVED], lo[MOST_INTERLEAVED];
    const int blocks = F(columns_log_of)(b, first, a, hi, lo);
    for (int k = 0; k < blocks; k++) {
        for (size_t i = 0; i < b->n; i++) {
            a[k][i] = F(logged)(a[k][i], hi[k], lo[k]);
        }
        F(columns_write)(ROW(b->out, b->out_stride, first + k * LANES), b->out_stride, a[k], b->n);
    }
    return (size_t)blocks * LANES;
}

static void F(log_softmax_rows)(const fsm_rows *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(rows_long)(b, FSM_LOG_SOFTMAX);
    } else if (b->n <= ACROSS && b->rows > 1 && !fsm_is_tempered(b)) {
        F(across)(b, F(log_softmax_columns), LANES, F(log_softmax_along), b->n);
    } else {
        F(log_folds)(b, 0);
    }
}

static size_t F(logsumexp_columns)(const fsm_rows *b, size_t first) {
    VEC a[MOST_INTERLEAVED][ACROSS], hi[MOST_INTERLEAVED], lo[MOST_INTERLEAVED];
    const int blocks = F(columns_log_of)(b, first, a, hi, lo);
    for (int k = 0; k < blocks; k++) {
        F(columns_write)(ROW(b->out, b->out_stride, first + k * LANES), b->out_stride, &hi[k], 1);
    }
    return (size_t)blocks * LANES;
}

static void F(logsumexp_rows)(const fsm_rows *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(rows_long)(b, FSM_LOGSUMEXP);
    } else if (b->n <= ACROSS && b->rows > 1) {
        F(across)(b, F(logsumexp_columns), LANES, F(logsumexp_along), 1);
    } else {
        F(log_folds)(b, 1);
    }
}

/* y (g - dot) with dot = sum(g y) of a block. */
static size_t F(softmax_backward_columns)(const fsm_rows *b, size_t first) {
    VEC g[ACROSS], y[ACROSS], hi, lo;
    F(columns_load)(CONST_ROW(b->x, b->x_stride, first), b->x_stride, g, b->n);
    F(columns_load)(CONST_ROW(b->y, b->y_stride, first), b->y_stride, y, b->n);
    const F(sum) dot = F(columns_dot)(g, y, b->n);
    F(lanes_split)(&dot, &hi, &lo);
    if (!F(columns_below)(hi, FC(MAX) * (REAL)0x1p-60)) {
        return 0;
    }
    for (size_t i = 0; i < b->n; i++) {
        g[i] = V(mul)(y[i], V(sub)(V(sub)(g[i], hi), lo));
    }
    F(columns_store)(ROW(b->out, b->out_stride, first), b->out_stride, g, b->n);
    return LANES;
}

/* Two operands to transpose, no exponential: from 13 elements on this costs what it saves. */
static void F(softmax_backward_rows)(const fsm_rows *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(backward_long)(b, FSM_SOFTMAX_BACKWARD);
    } else if (b->n <= 12 && b->rows > 1) {
        F(across)(b, F(softmax_backward_columns), LANES, F(softmax_backward_along), b->n);
    } else {
        F(softmax_backward_along)(b);
    }
}

/* g - e^y sum(g) of a block. */
static size_t F(log_softmax_backward_columns)(const fsm_rows *b, size_t first) {
    VEC g[ACROSS], y[ACROSS], hi, lo, minus_hi, minus_lo;
    F(starts) s;
    F(columns_load)(CONST_ROW(b->x, b->x_stride, first), b->x_stride, g, b->n);
    F(columns_load)(CONST_ROW(b->y, b->y_stride, first), b->y_stride, y, b->n);
    const F(sum) total = F(columns_dot)(g, NULL, b->n);
    F(lanes_split)(&total, &hi, &lo);
    /* The unit of the weights, as in the row kernel; a maximum far above 0 could leave the range of
     * 2^(N - bias). */
    const VEC top = V(max)(F(columns_max)(y, b->n), V(set1)(0));
    if (!F(starts_of)(&s, top, FC(CUT), &untempered, 0, 0) || !F(columns_below)(top, 32) ||
        !F(columns_below)(hi, FC(MAX) * (REAL)0x1p-60)) {
        return 0;
    }
    const F(sum) factor = F(lanes_unscaled)(&total);
    F(lanes_split)(&factor, &hi, &lo);
    const VEC unbias = F(lanes_unbias)(s.steps), minus_zero = V(set1)(FC(MINUS_ZERO));
    minus_hi = V(sub)(minus_zero, hi);
    minus_lo = V(sub)(minus_zero, lo);
    VEC sum = V(set1)(0);
    for (size_t i = 0; i < b->n; i++) {
        const VEC e = V(mul)(F(weight)(y[i], &s.row, 0), unbias);
        g[i] = V(fma)(e, minus_hi, V(fma)(e, minus_lo, g[i]));
        sum = V(add)(sum, g[i]);
    }
    /* The row kernel makes every NaN the canonical one. */
    if (V(equal)(sum, sum) != ALL_LANES) {
        return 0;
    }
    F(columns_store)(ROW(b->out, b->out_stride, first), b->out_stride, g, b->n);
    return LANES;
}

static void F(log_softmax_backward_rows)(const fsm_rows *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(backward_long)(b, FSM_LOG_SOFTMAX_BACKWARD);
    } else if (b->n < PADDED && b->rows > 1) {
        F(across)(b, F(log_softmax_backward_columns), LANES, F(log_softmax_backward_along), b->n);
    } else {
        F(log_softmax_backward_along)(b);
    }
}

/* The losses of a block times their weights; those in `plain` where a weight is 1. NaN where a loss
 * is infinite, or a weight so small or large that entropy_slopes takes another way. */
FSM_NOINLINE VEC F(weighted_losses)(const F(logs) *s, VEC of_label, VEC plain,
                                    const double *weight) {
    REAL moderate[LANES], is_one[LANES];
    for (size_t r = 0; r < LANES; r++) {
        moderate[r] =
            fabs(weight[r]) >= SMALL_MASS && fabs(weight[r]) <= 0x1p60 ? (REAL)0 : (REAL)INFINITY;
        is_one[r] = weight[r] == 1;
    }
    const F(sum) weights = F(lanes_numbers)(weight);
    VEC loss = F(lanes_weighted_loss)(s->start.maximum, of_label, s->logarithm, &weights);
    loss = V(where_equal)(V(load)(is_one), V(set1)(1), plain, loss);
    const VEC spoilt = V(add)(loss, V(load)(moderate));
    return V(add)(loss, V(sub)(spoilt, spoilt));
}

/* Losses and gradients of LANES rows with class indices, without smoothing or temperature, as
 * F(entropy_row) computes them: (1) others, top and log; (2) loss = max + log - x at the label; (3)
 * gradient = w / sum, at the label softmax - 1, each times the row's weight. Returns 0 if a row is
 * not plain. */
FSM_CORE int F(cross_entropy_columns)(const fsm_cross_entropy *b, size_t first) {
    const size_t n = b->n;
    VEC a[ACROSS], w[ACROSS], hi, lo;
    REAL at_label[LANES], weights[ACROSS * LANES];
    F(logs) s;
    F(columns_read)(CONST_ROW(b->x, b->x_stride, first), b->x_stride, a, n);
    if (!(b->grad ? F(columns_logs_and_weights)(a, w, n, &s) : F(columns_logs)(a, w, n, &s))) {
        return 0;
    }
    F(logs_finish)(&s);
    F(lanes_split_log)(s.start.maximum, s.logarithm, &hi, &lo);
    if (V(equal)(hi, hi) != ALL_LANES) {
        return 0;
    }
    for (size_t r = 0; r < LANES; r++) {
        at_label[r] = CONST_ROW(b->x, b->x_stride, first + r)[b->label[first + r]];
    }
    const VEC of_label = V(load)(at_label);
    VEC loss = V(add)(V(sub)(hi, of_label), lo);
    F(sum) weight = F(lanes_one)();
    if (b->weight) {
        weight = F(lanes_numbers)(b->weight + first);
        loss = F(weighted_losses)(&s, of_label, loss, b->weight + first);
    }
    if (V(equal)(loss, loss) != ALL_LANES) {
        return 0;
    }
    V(store)((REAL *)b->loss + first, loss);
    if (!b->grad) {
        return 1;
    }
    const F(sum) total = F(lanes_with_top)(&s.others, &s.top);
    F(lanes_quotient)(&weight, &total, &hi, &lo);
    const VEC top = F(lanes_high)(&s.top);
    for (size_t i = 0; i < n; i++) {
        const VEC weight = V(where_equal)(a[i], s.start.maximum, top, w[i]);
        V(store)(weights + i * LANES, weight);
        a[i] = V(fma)(weight, hi, V(fma)(weight, lo, V(set1)(0)));
    }
    for (size_t r = 0; r < LANES; r++) {
        at_label[r] = weights[(size_t)b->label[first + r] * LANES + r];
    }
    V(store)(at_label, F(lanes_at_label)(of_label, s.start.maximum, V(load)(at_label), &total,
                                         s.ratio, &weight));
    F(columns_write)(ROW(b->grad, b->grad_stride, first), b->grad_stride, a, n);
    for (size_t r = 0; r < LANES; r++) {
        ROW(b->grad, b->grad_stride, first + r)[b->label[first + r]] = at_label[r];
    }
    return 1;
}

static void F(cross_entropy_rows)(const fsm_cross_entropy *b) {
    if (FSM_UNLIKELY(b->n > FSM_ASK_EVERY)) {
        F(cross_entropy_long)(b);
        return;
    }
    const int across = b->label && b->smoothing == 0 && b->n <= ACROSS && !b->temperature_step &&
                       !b->temperature->tempered;
    const size_t most = b->scratch ? fsm_entropy_rows(b->n * sizeof(REAL)) : GROUP;
    F(edge) shared, *const edge = b->scratch && b->streamed ? &shared : NULL;
    shared.held = 0;
    for (size_t row = 0; row < b->rows;) {
        const size_t left = b->rows - row;
        if (across && left >= LANES && F(cross_entropy_columns)(b, row)) {
            row += LANES;
            continue;
        }
        const size_t group = F(has_chunks)(b->n) ? 1 : most;
        const size_t rows = left < group ? left : group;
        F(cross_entropy_group)(b, row, rows, edge);
        row += rows;
    }
    F(edge_flush)(edge);
}

#ifndef FSM_CORE_CALLED
/* ---- rows side by side in memory, of at most one chunk (kernels.h, fsm_tall) ---- */

/* The state of a block between passes: its maxima in `first`; then magic and limit; then hi and lo
 * of 1 / sum. Beside it, the scratch holds a mass for each accumulator of each block (A). */
typedef struct {
    VEC first, second;
} F(tall_state);

/* The largest element of every row; NaNs are skipped where possible. */
FSM_INLINE void F(tall_maxima)(const fsm_tall *t, F(tall_state) *own) {
    for (size_t i = 0; i < t->n; i += 2) {
        const REAL *x = CONST_ROW(t->x, t->x_step, i);
        const REAL *y = CONST_ROW(t->x, t->x_step, i + 1 < t->n ? i + 1 : i);
        for (size_t k = 0; k < t->blocks; k++) {
            const VEC larger = V(max)(V(load)(x + k * LANES), V(load)(y + k * LANES));
            own[k].first = V(max)(own[k].first, larger);
        }
    }
}

/* Weighs elements i and (if there is one) i + LANES of all blocks; both join one accumulator. */
FSM_INLINE void F(tall_weigh)(const fsm_tall *t, const F(tall_state) *own, F(mass) *lane, size_t i,
                              const int both) {
    const size_t j = both ? i + LANES : i;
    const REAL *x = CONST_ROW(t->x, t->x_step, i), *y = CONST_ROW(t->x, t->x_step, j);
    REAL *out_x = ROW(t->out, t->out_step, i), *out_y = ROW(t->out, t->out_step, j);
    const int settles = F(settles)(i - i % LANES);
    for (size_t k = 0; k < t->blocks; k++) {
        if (!t->done[k]) {
            continue;
        }
        const F(row) row = {.magic = own[k].first, .limit = own[k].second};
        const VEC a = F(weight)(V(load)(x + k * LANES), &row, 0);
        if (settles) {
            F(mass_settle)(&lane[k]);
        }
        if (both) {
            const VEC b = F(weight)(V(load)(y + k * LANES), &row, 0);
            V(store)(out_y + k * LANES, b);
            V(store)(out_x + k * LANES, a);
            F(mass_add)(&lane[k], a);
            F(mass_add)(&lane[k], b);
        } else {
            V(store)(out_x + k * LANES, a);
            F(mass_add)(&lane[k], a);
        }
    }
}

/* 1 / sum of a block from its masses. */
FSM_INLINE void F(tall_factor)(F(tall_state) *own, const F(mass) *lane, size_t blocks) {
    F(columns_mass) mass;
    mass.units = V(set1)(0);
    for (size_t l = 0; l < LANES; l++) {
        mass.units = F(lanes_units)(mass.units, &lane[l * blocks]);
        mass.low[l] = lane[l * blocks].lo;
    }
    const F(totals) total = F(lanes_total)(mass.units, F(columns_low)(&mass, LANES), LANES);
    F(lanes_inverse)(&total, &own->first, &own->second);
}

/* Scales one element of all blocks by scale_low. */
FSM_NOINLINE void F(tall_low)(const fsm_tall *t, const F(tall_state) *own, REAL *out) {
    int found = 0;
    for (size_t k = 0; k < t->blocks; k++) {
        if (t->done[k]) {
            found |= F(scale_low)(out + k * LANES, LANES, own[k].first, own[k].second);
        }
    }
    if (!found) {
        FSM_FORGET_UNDERFLOW();
    }
}

/* Passes over all blocks, a page of each element at a time: (1) maxima; (2) starts; (3) weights to
 * out, and masses; (4) 1 / sum; (5) scaling; (6) NaNs for rows whose sum is NaN. */
static void F(softmax_tall)(const fsm_tall *t) {
    F(tall_state) *const own = t->scratch;
    F(mass) *const lanes = (F(mass) *)(own + t->blocks);
    for (size_t k = 0; k < t->blocks; k++) {
        own[k].first = V(set1)(-INFINITY);
    }
    F(tall_maxima)(t, own);
    for (size_t k = 0; k < t->blocks; k++) {
        F(starts) s;
        t->done[k] = F(starts_of)(&s, own[k].first, FC(CUT), &untempered, 0, 0);
        own[k].first = s.row.magic;
        own[k].second = s.row.limit;
        for (size_t l = 0; l < LANES; l++) {
            lanes[l * t->blocks + k] = F(mass_start)(FC(MASS_START));
        }
    }
    for (size_t i = 0; i < t->n; i += 2 * LANES) {
        for (size_t l = 0; l < LANES && i + l < t->n; l++) {
            if (i + l + LANES < t->n) {
                F(tall_weigh)(t, own, lanes + l * t->blocks, i + l, 1);
            } else {
                F(tall_weigh)(t, own, lanes + l * t->blocks, i + l, 0);
            }
        }
    }
    for (size_t k = 0; k < t->blocks; k++) {
        F(tall_factor)(&own[k], &lanes[k], t->blocks);
    }
    for (size_t i = 0; i < t->n; i++) {
        REAL *out = ROW(t->out, t->out_step, i);
        if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
            F(tall_low)(t, own, out);
            continue;
        }
        for (size_t k = 0; k < t->blocks; k++) {
            if (t->done[k]) {
                const VEC w = V(load)(out + k * LANES);
                V(store)(out + k * LANES, F(normalised)(w, own[k].first, own[k].second));
            }
        }
    }
    for (size_t k = 0; k < t->blocks; k++) {
        const unsigned numbers = V(equal)(own[k].first, own[k].first);
        for (size_t r = 0; t->done[k] && numbers != ALL_LANES && r < LANES; r++) {
            for (size_t i = 0; !(numbers >> r & 1) && i < t->n; i++) {
                ROW(t->out, t->out_step, i)[k * LANES + r] = FC(NAN);
            }
        }
    }
}

/* max + log(sum / w_max) of a block as hi + lo, by the sum that a row of n elements has. Returns 0
 * if a row is not plain, or its others are small beside its largest weight. */
FSM_NOINLINE int F(beside_log)(const VEC *a, size_t n, VEC *hi, VEC *lo) {
    F(logs) s;
    F(columns_mass) mass;
    if (n <= ACROSS) {
        VEC w[ACROSS];
        if (!F(columns_logs)(a, w, n, &s)) {
            return 0;
        }
        F(logs_finish)(&s);
        F(lanes_split_log)(s.start.maximum, s.logarithm, hi, lo);
        return V(equal)(*hi, *hi) == ALL_LANES;
    }
    if (!F(starts_of)(&s.start, F(columns_max)(a, n), FC(LOG_CUT), &untempered, 0, 0)) {
        return 0;
    }
    F(columns_weigh_parts)(a, n, &s.start.row, &mass);
    VEC own_low;
    const VEC own = F(weight_split)(s.start.maximum, &s.start.row, 0, &own_low);
    s.others = F(lanes_others)(mass.units, F(columns_low)(&mass, LANES), LANES, own, own_low);
    F(logs_finish)(&s);
    F(lanes_split_log)(s.start.maximum, s.logarithm, hi, lo);
    return F(lanes_at_least)(&s.others, F(others_from)(n)) == ALL_LANES &&
           V(equal)(*hi, *hi) == ALL_LANES;
}

static int F(log_softmax_beside)(void *block, size_t n) {
    VEC *const a = block;
    VEC hi, lo;
    if (!F(beside_log)(a, n, &hi, &lo)) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        a[i] = V(sub)(V(sub)(a[i], hi), lo);
    }
    return 1;
}

static int F(logsumexp_beside)(void *block, size_t n) {
    VEC *const a = block;
    VEC hi, lo;
    const int plain = F(beside_log)(a, n, &hi, &lo);
    a[0] = hi;
    return plain;
}

#endif

/* fsm_kernels.gather and scatter: element i of all rows is one run. COLUMNS elements of LANES rows
 * are transposed at a time, the last ones overlapping those before. */
static size_t F(gather)(void *packed, size_t pitch, const void *x, ptrdiff_t step, size_t rows,
                        size_t n) {
    const size_t whole = n < COLUMNS ? 0 : rows / LANES * LANES;
    for (size_t i = 0; whole && i < n; i += COLUMNS) {
        const size_t at = i + COLUMNS <= n ? i : n - COLUMNS;
        for (size_t r = 0; r < whole; r += LANES) {
            VEC a[COLUMNS];
            for (size_t c = 0; c < COLUMNS; c++) {
                a[c] = V(load)(CONST_ROW(x, step, at + c) + r);
            }
            V(store_group)((REAL *)packed + r * pitch + at, (ptrdiff_t)(pitch * sizeof(REAL)), a);
        }
    }
    return whole;
}

static size_t F(scatter)(void *out, ptrdiff_t step, const void *packed, size_t pitch, size_t rows,
                         size_t n) {
    const size_t whole = n < COLUMNS ? 0 : rows / LANES * LANES;
    for (size_t i = 0; whole && i < n; i += COLUMNS) {
        const size_t at = i + COLUMNS <= n ? i : n - COLUMNS;
        for (size_t r = 0; r < whole; r += LANES) {
            VEC a[COLUMNS];
            V(load_group)((const REAL *)packed + r * pitch + at, (ptrdiff_t)(pitch * sizeof(REAL)),
                          a);
            for (size_t c = 0; c < COLUMNS; c++) {
                V(store)(ROW(out, step, at + c) + r, a[c]);
            }
        }
    }
    return whole;
}
