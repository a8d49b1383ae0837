/* softmax, log_softmax and logsumexp of rows in row-major order, written once and included for
 * float32 and float64 by unit.h. format_f32.h has the names by which the formats differ.
 *
 * Design
 * A. One definition of the sum of a row (core_*.h, E) for every path below, so that paths are free
 *    to differ in anything else.
 * B. Padding is -inf: the identity of max; its weight is exactly +0, the identity of the sum.
 * C. The mass of up to CHUNK weights: accumulators start above every sum of them, so that two
 *    subtractions give the rounding error of each addition (Dekker's Fast2Sum), and the
 *    accumulators of all lanes are added exactly. The errors themselves are added without
 *    compensation; for what that loses see core_f32.h, H.
 * D. A vector that lies wholly beyond the row is left out: adding +0 changes nothing.
 * E. Rows of up to FOLDED elements are taken in groups of LANES. What is left in the lanes of their
 *    vectors (maxima, masses) is reduced for all of them at once to one row a lane, and the
 *    arithmetic that follows is done for all rows at once (core_lanes.h).
 * F. A subnormal operand or result takes Intel's processors some 150 cycles. Once there has been
 *    one (the processor keeps a flag), results come from other operations that give the same bits
 *    (scale_low), until CALM rows on end have had none. */

#define ROW(base, stride, i) ((REAL *)((char *)(base) + (ptrdiff_t)(i) * (stride)))
#define CONST_ROW(base, stride, i)                                                                 \
    ((const REAL *)((const char *)(base) + (ptrdiff_t)(i) * (stride)))

/* Elements of one iteration of an unrolled loop. */
#define UNROLLED (4 * LANES)
#define ALL_LANES ((1u << LANES) - 1)
/* Elements of a chunk: their weights go into one mass. */
#define CHUNK (FSM_CHUNK_VECTORS * LANES)
/* Rows of a group: at most GROUP, and GROUP_BYTES of them, but at least one. */
#define GROUP 8
#define GROUP_BYTES (8 * 1024)
/* Whether to stream results; never where the unit has no streaming stores. */
#if defined(FSM_STREAMS)
#define STREAMED(b) ((b)->streamed)
#else
#define STREAMED(b) ((void)(b), 0)
#endif
/* Whether a softmax streams the results of a row while it computes the weights of the next. Where a
 * vector is two registers, there are too few for both: on Zen 3 (AVX2) plain stores take 0.61 to
 * 1.01 of the time, with one worker or two. */
#if defined(FSM_ONE_REGISTER)
#define STREAMS_SOFTMAX(b) STREAMED(b)
#else
#define STREAMS_SOFTMAX(b) ((void)(b), 0)
#endif
/* Bytes to prefetch ahead in streamed rows. */
#define FETCH_AHEAD 2048
/* Weights scaled at a time in rows of more than this (scale_pieces). */
#define SCALED (2 * CHUNK)
/* Rows by scale_low after the last that needed it. One that needed it and was scaled the usual way
 * takes up to ten times as long; one that did not need it, up to 1.3 times. */
#define CALM 32
/* The longest rows that go across (columns.h). */
#define ACROSS 64
/* The longest rows, and the fewest of them, whose reductions are folded together. */
#define FOLDED (16 * LANES)
#define FOLD_FROM (LANES / 4)
_Static_assert(FOLDED * sizeof(REAL) <= FSM_STREAM_ABOVE, "folded rows are never streamed");
_Static_assert(2 * CHUNK * sizeof(REAL) >= GROUP_BYTES,
               "a row of several chunks is alone in its group");

/* Rows seldom end with a cache line. A line of streamed results that two rows share is held here
 * until the next row fills it: storing a part of it would stall the streaming stores after it. */
typedef struct {
    REAL *at; /* where the line belongs; its first `held` elements are known */
    size_t held;
    REAL line[LANES];
} F(edge);

/* What the maximum of a row determines, needed before its weights. `shifted`: the maximum is
 * subtracted first; magic, limit and N are as in core_f32.h. */
typedef struct {
    int shifted;
    REAL maximum, magic, limit;
    double top_hi, top_lo; /* maximum / T, or 0 if shifted */
    double steps;          /* N */
    const REAL *chunks;    /* the largest element of each chunk, where has_chunks() */
} F(start);

/* Whether a row has several chunks, each of which starts its mass above its own largest weight. */
FSM_INLINE int F(has_chunks)(size_t n) {
    return FC(OWN_STARTS) && n > CHUNK;
}
/* Chunks of the longest row that is not long; 1 where chunks need no maxima. */
#define MOST_CHUNKS (FC(OWN_STARTS) ? FSM_ASK_EVERY / CHUNK : 1)

/* Byte distance to the next group, for prefetching; 0 for the last. */
FSM_INLINE ptrdiff_t F(ahead)(const fsm_rows *b, size_t first, size_t rows) {
    return first + rows < b->rows ? (ptrdiff_t)rows * b->x_stride : 0;
}

FSM_INLINE void F(fill_nan)(REAL *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        out[i] = FC(NAN);
    }
}

/* The largest element of each lane. A NaN may be missed; the sum of the row becomes NaN anyway. */
FSM_CORE VEC F(row_top)(const REAL *x, size_t n) {
    VEC m0 = V(set1)(-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    size_t i = 0;
    for (; i + UNROLLED <= n; i += UNROLLED) {
        m0 = V(max)(m0, V(load)(x + i));
        m1 = V(max)(m1, V(load)(x + i + LANES));
        m2 = V(max)(m2, V(load)(x + i + 2 * LANES));
        m3 = V(max)(m3, V(load)(x + i + 3 * LANES));
    }
    for (; i + LANES <= n; i += LANES) {
        m0 = V(max)(m0, V(load)(x + i));
    }
    if (i < n) {
        m1 = V(max)(m1, V(load_partial)(x + i, n - i, -INFINITY));
    }
    return V(max)(V(max)(m0, m1), V(max)(m2, m3));
}

/* Elements before the first cache line that starts in the row; 0 for rows of up to FOLDED. */
FSM_INLINE size_t F(before_line)(const REAL *row, size_t n) {
    return n > FOLDED ? -((uintptr_t)row / sizeof(REAL)) % LANES : 0;
}

/* The largest element. A longer row is read by whole cache lines and by a vector at either end,
 * which may overlap them; which of two zeros is found does not matter. */
FSM_INLINE REAL F(row_max)(const REAL *x, size_t n) {
    if (n <= FOLDED) {
        return V(reduce_max)(F(row_top)(x, n));
    }
    const VEC ends = V(max)(V(load)(x), V(load)(x + n - LANES));
    const size_t first = F(before_line)(x, n);
    return V(reduce_max)(V(max)(F(row_top)(x + first, (n - first) / LANES * LANES), ends));
}

/* The same; where the row has several chunks, also the largest element of each to `chunks`. */
FSM_INLINE REAL F(row_maxima)(const REAL *x, size_t n, REAL *chunks) {
    if (!F(has_chunks)(n)) {
        return F(row_max)(x, n);
    }
    REAL largest = -(REAL)INFINITY;
    for (size_t i = 0; i < n; i += CHUNK) {
        const REAL found = F(row_max)(x + i, n - i < CHUNK ? n - i : CHUNK);
        *chunks++ = found;
        largest = found > largest ? found : largest;
    }
    return largest;
}

/* The index of the first element equal to `value`; n if there is none. */
FSM_CORE size_t F(row_find)(const REAL *x, size_t n, REAL value) {
    const VEC wanted = V(set1)(value);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        if (V(equal)(V(load)(x + i), wanted)) {
            break;
        }
    }
    while (i < n && x[i] != value) {
        i++;
    }
    return i;
}

/* top + residual = maximum / T; N = round(top log2 e); magic and limit from these. A NaN or
 * infinite maximum counts as shifted. */
FSM_INLINE F(start) F(row_start)(REAL maximum, REAL cut, const fsm_temperature *t) {
    F(start) s;
    REAL top = maximum, residual = 0;
    if (t->tempered) {
        const REAL scaled = maximum * (REAL)t->scale;
        top = scaled * (REAL)t->inv_hi;
        residual = FMA(scaled, (REAL)t->inv_lo, FMA(scaled, (REAL)t->inv_hi, -top));
    }
    s.maximum = maximum;
    s.shifted = !(top <= FC(SHIFT_ABOVE) && top >= -FC(SHIFT_ABOVE));
    if (s.shifted) {
        top = residual = 0;
    }
    /* rounded = MAGIC + N, so this is MAGIC + STEPS (BIAS - N), exactly. */
    const REAL rounded = FMA(top, FC(LOG2E), FC(MAGIC));
    const REAL steps = rounded - FC(MAGIC);
    s.magic = FMA(rounded, -FC(STEPS), (FC(STEPS) + 1) * FC(MAGIC) + FC(STEPS) * FC(BIAS));
    s.limit = top - cut;
    s.top_hi = (double)top;
    s.top_lo = (double)residual;
    s.steps = (double)steps;
    s.chunks = NULL;
    return s;
}

/* Where the lanes start in a chunk with this largest element (core_*.h, E). */
FSM_INLINE REAL F(chunk_start)(REAL largest, const F(start) *s, const fsm_temperature *t) {
    if (s->shifted) {
        largest -= s->maximum;
    }
    if (t->tempered) {
        largest = largest * (REAL)t->scale * (REAL)t->inv_hi;
    }
    const REAL rounded = FMA(largest, FC(LOG2E), FC(MAGIC));
    return F(start_below)(rounded - FC(MAGIC) - (REAL)s->steps);
}

/* The start of a whole row, with the maxima of its chunks where it has several. */
FSM_INLINE F(start)
    F(row_begin)(const REAL *x, size_t n, REAL cut, const fsm_temperature *t, REAL *chunks) {
    F(start) s = F(row_start)(F(row_maxima)(x, n, chunks), cut, t);
    s.chunks = chunks;
    return s;
}

/* F(start) of LANES rows, one a lane. */
typedef struct {
    F(row) row;
    VEC maximum, top, residual, steps;
} F(starts);

/* The temperatures of LANES rows, from t on. */
FSM_NOINLINE void F(lanes_temperatures)(F(row) *row, const fsm_temperature *t) {
    REAL scale[LANES], inv_hi[LANES], inv_lo[LANES];
    for (size_t r = 0; r < LANES; r++) {
        scale[r] = (REAL)t[r].scale;
        inv_hi[r] = (REAL)t[r].inv_hi;
        inv_lo[r] = (REAL)t[r].inv_lo;
    }
    row->scale = V(load)(scale);
    row->inv_hi = V(load)(inv_hi);
    row->inv_lo = V(load)(inv_lo);
}

/* row_start of LANES rows with these maxima. If `tempered`, the temperatures are those at t, `step`
 * apart (0: one for all). Returns whether every row is plain, |max / T| <= SHIFT_ABOVE; else the
 * result is of no use. */
FSM_CORE int F(starts_of)(F(starts) *s, VEC maximum, REAL cut, const fsm_temperature *t,
                          size_t step, int tempered) {
    const VEC zero = V(set1)(0), magic = V(set1)(FC(MAGIC)), above = V(set1)(FC(SHIFT_ABOVE));
    s->maximum = maximum;
    s->top = maximum;
    s->residual = zero;
    s->row.shift = zero;
    if (tempered) {
        if (step) {
            F(lanes_temperatures)(&s->row, t);
        } else {
            s->row.scale = V(set1)((REAL)t->scale);
            s->row.inv_hi = V(set1)((REAL)t->inv_hi);
            s->row.inv_lo = V(set1)((REAL)t->inv_lo);
        }
        const VEC scaled = V(mul)(maximum, s->row.scale);
        s->top = V(mul)(scaled, s->row.inv_hi);
        const VEC rounding = V(fma)(scaled, s->row.inv_hi, V(sub)(V(set1)(FC(MINUS_ZERO)), s->top));
        s->residual = V(fma)(scaled, s->row.inv_lo, rounding);
    }
    const VEC rounded = V(fma)(s->top, V(set1)(FC(LOG2E)), magic);
    s->steps = V(sub)(rounded, magic);
    s->row.magic = V(fma)(rounded, V(set1)(-FC(STEPS)),
                          V(set1)((FC(STEPS) + 1) * FC(MAGIC) + FC(STEPS) * FC(BIAS)));
    s->row.limit = V(sub)(s->top, V(set1)(cut));
    /* max returns its second operand where either is NaN. */
    const VEC magnitude = V(max)(s->top, V(sub)(zero, s->top));
    return V(equal)(V(max)(above, magnitude), above) == ALL_LANES;
}

/* A start in vectors, as F(weight) takes it. */
FSM_INLINE F(row) F(row_of)(const F(start) *s, const fsm_temperature *t) {
    return (F(row)){
        .shift = V(set1)(s->shifted ? s->maximum : 0),
        .magic = V(set1)(s->magic),
        .limit = V(set1)(s->limit),
        .scale = V(set1)((REAL)t->scale),
        .inv_hi = V(set1)((REAL)t->inv_hi),
        .inv_lo = V(set1)((REAL)t->inv_lo),
    };
}

FSM_CORE VEC F(load_padded)(const REAL *x, size_t count) {
    return count < LANES ? V(load_partial)(x, count, -INFINITY) : V(load)(x);
}
FSM_CORE void F(store_weights)(REAL *w, VEC a, size_t count) {
    if (count < LANES) {
        V(store_partial)(w, a, count);
    } else {
        V(store)(w, a);
    }
}

/* How a mass is computed: `rare`, rows are shifted or have a temperature; `stored`, weights are
 * stored; `parts`, weights are added before their rounding, as logarithms need it (core_*.h, G). */
typedef struct {
    int rare, stored, parts;
} F(how);

/* Adds the weights of elements i to i + count <= i + LANES to the mass. */
FSM_CORE void F(mass_take)(F(mass) *mass, const REAL *x, REAL *w, size_t i, size_t count,
                           const F(row) *row, const F(how) how) {
    const VEC a = F(load_padded)(x + i, count);
    if (!how.parts) {
        const VEC weight = F(weight)(a, row, how.rare);
        if (how.stored) {
            F(store_weights)(w + i, weight, count);
        }
        F(mass_add)(mass, weight);
        return;
    }
    F(parts) parts = F(weight_parts)(a, row, how.rare);
    if (how.stored) {
        F(store_weights)(w + i, F(whole)(parts, row->limit), count);
    }
    if (count < LANES) {
        parts = F(first_parts)(parts, count);
    }
    F(mass_add_parts)(mass, parts);
}

/* w (hi + lo), where hi + lo = 1 / sum. */
FSM_CORE VEC F(normalised)(VEC w, VEC hi, VEC lo) {
    return V(fma)(w, hi, V(mul)(w, lo));
}

/* A row whose weights are in scratch, at the offset from a cache line that its results will have;
 * the first `done` results have been stored; hi + lo is the inverse of its sum. */
typedef struct {
    REAL *w, *out;
    size_t done, n;
    REAL hi, lo;
} F(waiting);

/* Streams `vectors` more of its results. */
FSM_INLINE void F(stream_waiting)(F(waiting) *row, size_t vectors) {
    const VEC hi = V(set1)(row->hi), lo = V(set1)(row->lo);
    for (size_t v = 0; v < vectors; v++) {
        V(stream)(row->out + row->done, F(normalised)(V(load)(row->w + row->done), hi, lo));
        row->done += LANES;
    }
}

/* Whether to settle masses before the vector that starts with element i (core_f32.h, E). */
FSM_INLINE int F(settles)(size_t i) {
    return FC(SETTLED) < FSM_CHUNK_VECTORS && i % (FC(SETTLED) * LANES) == 0 && i;
}
FSM_CORE void F(mass_settle_at)(F(mass) *mass, size_t i) {
    if (FSM_UNLIKELY(F(settles)(i))) {
        F(mass_settle)(mass);
    }
}

/* The mass of up to CHUNK elements, its lanes starting at `start`: w_i = weight(x_i), stored if
 * `how.stored`, and added. The loop is bound by arithmetic, so it also prefetches what lies `ahead`
 * bytes further, the next row, and streams results of the row that is `waiting`, if there is one.
 */
FSM_CORE F(mass) F(mass_of)(const REAL *x, REAL *w, size_t n, REAL start, ptrdiff_t ahead,
                            const F(row) *row, const F(how) how, F(waiting) *waiting) {
    const size_t two_vectors = 2 * LANES;
    F(mass) mass = F(mass_start)(start);
    size_t i = 0;
    for (; !how.rare && !how.parts && i + two_vectors <= n; i += two_vectors) {
        F(mass_settle_at)(&mass, i);
        FSM_PREFETCH((const char *)(x + i) + ahead);
        FSM_PREFETCH((const char *)(x + i + LANES) + ahead);
        const VEC a = F(weight)(V(load)(x + i), row, 0);
        const VEC b = F(weight)(V(load)(x + i + LANES), row, 0);
        if (how.stored) {
            V(store)(w + i, a);
            V(store)(w + i + LANES, b);
        }
        F(mass_add)(&mass, a);
        F(mass_add)(&mass, b);
        if (waiting && waiting->done + two_vectors <= waiting->n) {
            F(stream_waiting)(waiting, 2);
        }
    }
    for (; !how.rare && how.parts && FC(PARTS_AT_ONCE) == 2 && i + two_vectors <= n;
         i += two_vectors) {
        FSM_PREFETCH((const char *)(x + i) + ahead);
        FSM_PREFETCH((const char *)(x + i + LANES) + ahead);
        F(mass_take)(&mass, x, w, i, LANES, row, how);
        F(mass_take)(&mass, x, w, i + LANES, LANES, row, how);
    }
    for (; i + LANES <= n; i += LANES) {
        F(mass_settle_at)(&mass, i);
        FSM_PREFETCH((const char *)(x + i) + ahead);
        F(mass_take)(&mass, x, w, i, LANES, row, how);
    }
    if (i < n) {
        F(mass_settle_at)(&mass, i);
        F(mass_take)(&mass, x, w, i, n - i, row, how);
    }
    return mass;
}

/* Stores the weights of the row to w and returns their sum: a mass for each chunk, added up. */
FSM_INLINE F(total)
    F(weights_as)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(start) *s,
                  const fsm_temperature *t, int rare, F(waiting) *waiting) {
    const F(row) row = F(row_of)(s, t);
    pair running = {0};
    for (size_t i = 0; i < n; i += CHUNK) {
        const size_t count = n - i < CHUNK ? n - i : CHUNK;
        const REAL start =
            F(has_chunks)(n) ? F(chunk_start)(s->chunks[i / CHUNK], s, t) : FC(MASS_START);
        const F(mass) mass =
            F(mass_of)(x + i, w + i, count, start, ahead, &row, (F(how)){rare, 1, 0}, waiting);
        if (n <= CHUNK) {
            return F(mass_total)(&mass);
        }
        F(running_add)(&running, &mass, start);
    }
    return F(running_total)(running);
}

FSM_NOINLINE F(total) F(weights_rare)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead,
                                      const F(start) *s, const fsm_temperature *t) {
    return F(weights_as)(x, w, n, ahead, s, t, 1, NULL);
}

FSM_INLINE F(total) F(weights)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(start) *s,
                               const fsm_temperature *t) {
    if (FSM_UNLIKELY(s->shifted || t->tempered)) {
        return F(weights_rare)(x, w, n, ahead, s, t);
    }
    return F(weights_as)(x, w, n, ahead, s, t, 0, NULL);
}

/* The same, streaming a waiting row meanwhile; not inlined, for the registers it needs. */
FSM_NOINLINE F(total)
    F(weights_meanwhile)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(start) *s,
                         const fsm_temperature *t, F(waiting) *waiting) {
    if (FSM_UNLIKELY(s->shifted || t->tempered)) {
        return F(weights_rare)(x, w, n, ahead, s, t);
    }
    F(waiting) before = *waiting;
    const F(total) total = F(weights_as)(x, w, n, ahead, s, t, 0, &before);
    waiting->done = before.done;
    return total;
}

/* The sum, in parts, of the weights of up to ACROSS elements except element `skip`. Its relative
 * error is small even where the sum is; a mass's is not. Stores the weights to w unless that is
 * NULL, with 0 for element `skip`. */
FSM_CORE F(part_sum)
    F(some_others)(const REAL *x, REAL *w, size_t n, size_t skip, const F(row) *row, int rare) {
    F(part_sum) sum;
    for (size_t i = 0; i < n; i += LANES) {
        const size_t count = n - i < LANES ? n - i : LANES;
        VEC a = F(load_padded)(x + i, count);
        if (skip - i < LANES) {
            a = V(without)(a, skip - i);
        }
        F(parts) parts = F(weight_parts)(a, row, rare);
        if (w) {
            F(store_weights)(w + i, F(whole)(parts, row->limit), count);
        }
        if (count < LANES) {
            parts = F(first_parts)(parts, count);
        }
        if (i) {
            F(part_sum_add)(&sum, parts);
        } else {
            sum = F(part_sum_first)(parts);
        }
    }
    return sum;
}
/* Adds the same of a longer row, as sums of ACROSS elements. */
FSM_CORE void F(add_others)(F(sum) *sum, const REAL *x, REAL *w, size_t n, size_t skip,
                            const F(row) *row, int rare) {
    for (size_t i = 0; i < n; i += ACROSS) {
        const F(part_sum) some = F(some_others)(
            x + i, w ? w + i : NULL, n - i < ACROSS ? n - i : ACROSS, skip - i, row, rare);
        const F(sum) whole = F(part_sum_whole)(&some);
        F(sum_join)(sum, &whole);
    }
}

FSM_INLINE pair F(others_summed_as)(const REAL *x, REAL *w, size_t n, const F(start) *s,
                                    const fsm_temperature *t, int rare) {
    const size_t skip = F(row_find)(x, n, s->maximum);
    const F(row) row = F(row_of)(s, t);
    if (n <= ACROSS) {
        const F(part_sum) sum = F(some_others)(x, w, n, skip, &row, rare);
        return F(part_sum_total)(&sum);
    }
    F(sum) sum = F(sum_zero)();
    F(add_others)(&sum, x, w, n, skip, &row, rare);
    return F(sum_total)(&sum);
}
FSM_NOINLINE pair F(others_summed)(const REAL *x, REAL *w, size_t n, const F(start) *s,
                                   const fsm_temperature *t) {
    return s->shifted || t->tempered ? F(others_summed_as)(x, w, n, s, t, 1)
                                     : F(others_summed_as)(x, w, n, s, t, 0);
}

/* F(weight) without the cut-off, and its rounding error. */
FSM_INLINE VEC F(weight_split)(VEC x, const F(row) *row, int rare, VEC *low) {
    const F(parts) a = F(weight_parts)(x, row, rare);
    const VEC w = V(fma)(a.FC(FACTOR), a.q, a.power);
    *low = V(fma)(a.FC(FACTOR), a.q, V(sub)(a.power, w));
    return w;
}

/* A row's sum without one maximal weight. */
FSM_CORE pair F(without_top)(pair running, REAL maximum, const F(row) *row, int rare) {
    VEC low;
    const VEC own = F(weight_split)(V(set1)(maximum), row, rare, &low);
    return F(running_less)(running, V(reduce_max)(own), V(reduce_max)(low));
}

/* The mass of the row without one maximal weight; stores weights to w unless that is NULL. */
FSM_CORE pair F(others_massed)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(start) *s,
                               const fsm_temperature *t, const int rare) {
    const F(row) row = F(row_of)(s, t);
    pair running = {0};
    for (size_t i = 0; i < n; i += CHUNK) {
        const size_t count = n - i < CHUNK ? n - i : CHUNK;
        const REAL start =
            F(has_chunks)(n) ? F(chunk_start)(s->chunks[i / CHUNK], s, t) : FC(MASS_START);
        const F(mass) mass =
            w ? F(mass_of)(x + i, w + i, count, start, ahead, &row, (F(how)){rare, 1, 1}, NULL)
              : F(mass_of)(x + i, NULL, count, start, ahead, &row, (F(how)){rare, 0, 1}, NULL);
        F(running_add)(&running, &mass, start);
    }
    return F(without_top)(running, s->maximum, &row, rare);
}
FSM_NOINLINE pair F(others_massed_rare)(const REAL *x, REAL *w, size_t n, const F(start) *s,
                                        const fsm_temperature *t) {
    return F(others_massed)(x, w, n, 0, s, t, 1);
}

/* From this value on the others' mass is as accurate as adding them up by themselves. */
FSM_INLINE double F(others_from)(size_t n) {
    return (double)(n < CHUNK ? n : CHUNK) * FC(OTHERS_FROM);
}

/* The sum of all weights but one of the largest, and the weights to w unless that is NULL. Rows of
 * more than ACROSS elements take it from their mass, unless it is small beside the largest weight:
 * then, as in shorter rows, it is added up by itself. */
FSM_INLINE pair F(others)(const REAL *x, REAL *w, size_t n, ptrdiff_t ahead, const F(start) *s,
                          const fsm_temperature *t) {
    if (n > ACROSS) {
        const pair others = s->shifted || t->tempered ? F(others_massed_rare)(x, w, n, s, t)
                                                      : F(others_massed)(x, w, n, ahead, s, t, 0);
        if (others.hi >= F(others_from)(n)) {
            return others;
        }
    }
    return F(others_summed)(x, w, n, s, t);
}

/* The weight of the maximum, nearly exactly. */
FSM_INLINE pair F(log_top)(const F(start) *s) {
    return F(top_weight)(s->top_hi, s->top_lo, s->steps);
}

/* Whether a row has a NaN, nothing above -inf, or an infinite maximum. */
FSM_INLINE int F(no_answer)(REAL maximum, pair logarithm) {
    return !(logarithm.hi == logarithm.hi && maximum <= FC(MAX));
}

FSM_INLINE VEC F(normalised_partial)(const REAL *w, size_t n, VEC hi, VEC lo) {
    return F(normalised)(V(load_partial)(w, n, 0), hi, lo);
}

/* Stores what is held of a shared line; nothing if `edge` is NULL. */
FSM_NOINLINE void F(edge_flush)(F(edge) *edge) {
    if (edge && edge->held) {
        V(store_partial)(edge->at, V(load)(edge->line), edge->held);
        edge->held = 0;
    }
}
/* The first results of a row: completes and streams the held line if they belong to it. */
FSM_NOINLINE void F(edge_first)(REAL *out, VEC a, size_t first, F(edge) *edge) {
    if (edge->held && edge->at + edge->held == out && edge->held + first == LANES) {
        V(store_partial)(edge->line + edge->held, a, first);
        V(stream)(edge->at, V(load)(edge->line));
        edge->held = 0;
    } else {
        V(store_partial)(out, a, first);
    }
}
/* The last results of a row: holds them until the next row completes their line. */
FSM_NOINLINE void F(edge_last)(REAL *out, VEC a, size_t last, F(edge) *edge) {
    F(edge_flush)(edge);
    edge->at = out;
    edge->held = last;
    V(store)(edge->line, a);
}

/* Stores the results of a row before its first whole cache line, and those after its last: by way
 * of `edge` where results are streamed. */
FSM_INLINE void F(put_first)(REAL *out, VEC a, size_t first, F(edge) *edge) {
    if (edge) {
        F(edge_first)(out, a, first, edge);
    } else {
        V(store_partial)(out, a, first);
    }
}
FSM_INLINE void F(put_last)(REAL *out, VEC a, size_t last, F(edge) *edge) {
    if (edge) {
        F(edge_last)(out, a, last, edge);
    } else {
        V(store_partial)(out, a, last);
    }
}

/* Stores a whole vector of results; streams it if there is an `edge`. */
FSM_INLINE void F(put)(REAL *out, VEC x, const F(edge) *edge) {
    if (edge) {
        V(stream)(out, x);
    } else {
        V(store)(out, x);
    }
}

/* out = out (hi + lo) for the whole vectors from element `first` on. Bound by loads and stores: in
 * rows of more than FOLDED elements `first` is where the first cache line starts. */
FSM_CORE void F(scale_lines)(REAL *out, size_t first, size_t n, REAL inv_hi, REAL inv_lo) {
    const VEC hi = V(set1)(inv_hi), lo = V(set1)(inv_lo);
    size_t i = first;
    for (; i + UNROLLED <= n; i += UNROLLED) {
        const VEC a = F(normalised)(V(load)(out + i), hi, lo);
        const VEC b = F(normalised)(V(load)(out + i + LANES), hi, lo);
        const VEC c = F(normalised)(V(load)(out + i + 2 * LANES), hi, lo);
        const VEC d = F(normalised)(V(load)(out + i + 3 * LANES), hi, lo);
        V(store)(out + i, a);
        V(store)(out + i + LANES, b);
        V(store)(out + i + 2 * LANES, c);
        V(store)(out + i + 3 * LANES, d);
    }
    for (; i + LANES <= n; i += LANES) {
        V(store)(out + i, F(normalised)(V(load)(out + i), hi, lo));
    }
}
/* The same for the elements before and after these. A masked store holds up loads from its cache
 * line, so this comes after all lines of its row, or of several short rows. */
FSM_CORE void F(scale_ends)(REAL *out, size_t first, size_t n, REAL inv_hi, REAL inv_lo) {
    const VEC hi = V(set1)(inv_hi), lo = V(set1)(inv_lo);
    const size_t last = (n - first) % LANES;
    if (first) {
        V(store_partial)(out, F(normalised_partial)(out, first, hi, lo), first);
    }
    if (last) {
        out += n - last;
        V(store_partial)(out, F(normalised_partial)(out, last, hi, lo), last);
    }
}
FSM_CORE void F(scale_row)(REAL *out, size_t first, size_t n, REAL inv_hi, REAL inv_lo) {
    F(scale_lines)(out, first, n, inv_hi, inv_lo);
    F(scale_ends)(out, first, n, inv_hi, inv_lo);
}

/* Scales weights in place to y = w hi + (w lo), the bits of normalised(), but without a subnormal
 * operand or result, which are slow. Weights of `limit` or more, whose product with lo is normal,
 * go the usual way. Others are computed LIFT times as large, y LIFT = w (hi LIFT) + low:
 * - low = w (lo LIFT), which adding and subtracting `magic` rounds as the subnormal w lo would be;
 * - a sum of `normal` or more is a normal y: LIFT is taken off its exponent;
 * - a lower one is rounded by adding `normal`, whose last bit is then the smallest subnormal's: the
 *   bits above those of `normal` are those of y.
 * Returns whether there were such weights. */
FSM_NOINLINE int F(scale_low)(REAL *out, size_t n, VEC hi, VEC lo) {
    const VEC zero = V(set1)(0), normal = V(set1)(FC(LIFTED_NORMAL)), lift = V(set1)(FC(LIFT));
    const VEC lifted_hi = V(mul)(hi, lift), lifted_lo = V(mul)(lo, lift);
    const VEC magnitude = V(max)(lifted_lo, V(sub)(zero, lifted_lo));
    const VEC below = V(set1)(FC(LIFTED_NORMAL) * (1 - (REAL)0x1p-22));
    const VEC limit = V(div)(below, V(max)(magnitude, normal));
    /* Of the other sign than the product, so that their sum stays below |magic|, where the last bit
     * is the smallest subnormal's, times LIFT. */
    const VEC magic =
        V(where_equal)(magnitude, lifted_lo, V(set1)(-FC(LIFTED_MAGIC)), V(set1)(FC(LIFTED_MAGIC)));
    int found = 0;
    for (size_t i = 0; i < n; i += LANES) {
        const size_t count = n - i < LANES ? n - i : LANES;
        const VEC w = count < LANES ? V(load_partial)(out + i, count, 0) : V(load)(out + i);
        const VEC large = V(zero_below)(w, w, limit);
        VEC y = F(normalised)(large, hi, lo);
        if (V(equal)(large, w) != ALL_LANES) {
            const VEC small = V(sub)(w, large);
            const VEC low = V(sub)(V(fma)(small, lifted_lo, magic), magic);
            const VEC lifted = V(fma)(small, lifted_hi, low);
            const VEC as_normal = V(sub_bits)(lifted, V(set1)(FC(LIFT_BITS)));
            const VEC units = V(sub_bits)(V(fma)(small, lifted_hi, V(add)(normal, low)), normal);
            /* At most one of the three is not 0, so that their bits can be added. */
            y = V(sub_bits)(y, V(sub_bits)(zero, V(zero_below)(as_normal, lifted, normal)));
            y = V(sub_bits)(y, V(sub_bits)(V(zero_below)(units, lifted, normal), units));
            found = 1;
        }
        if (count < LANES) {
            V(store_partial)(out + i, y, count);
        } else {
            V(store)(out + i, y);
        }
    }
    return found;
}

/* Counts in *calm the rows since scale_low has last found something to do. */
FSM_INLINE void F(count_calm)(size_t *calm, size_t rows, int found) {
    *calm = found ? 0 : *calm + rows;
    if (*calm >= CALM) {
        *calm = 0;
        FSM_FORGET_UNDERFLOW();
    }
}

/* Scales some rows by scale_low. A NaN sum has NaN factors. */
FSM_NOINLINE void F(scale_rows_low)(const fsm_rows *b, size_t first, size_t rows, const REAL *hi,
                                    const REAL *lo, size_t *calm) {
    int found = 0;
    for (size_t g = 0; g < rows; g++) {
        REAL *out = ROW(b->out, b->out_stride, first + g);
        if (hi[g] != hi[g]) {
            F(fill_nan)(out, b->n);
        } else {
            found |= F(scale_low)(out, b->n, V(set1)(hi[g]), V(set1)(lo[g]));
        }
    }
    F(count_calm)(calm, rows, found);
}

/* Scales a long row piece by piece, asking before each but the first whether a result has been
 * subnormal. */
FSM_NOINLINE void F(scale_pieces)(REAL *out, size_t n, REAL hi, REAL lo) {
    size_t first = F(before_line)(out, n);
    for (size_t i = 0; i < n; first = 0) {
        const size_t count = n - i < first + SCALED ? n - i : first + SCALED;
        if (i && FSM_UNLIKELY(FSM_UNDERFLOWED())) {
            F(scale_low)(out + i, count, V(set1)(hi), V(set1)(lo));
        } else {
            F(scale_row)(out + i, first, count, hi, lo);
        }
        i += count;
    }
}

/* A group of rows, phase by phase: (1) maxima and starts; (2) weights, stored to out, and their
 * sum; (3) hi + lo = 1 / sum; (4) out = w (hi + lo). What a row waits for is computed while the
 * processor works on other rows. */
static void F(softmax_group)(const fsm_rows *b, size_t first, size_t rows, size_t *calm) {
    F(start) start[GROUP];
    REAL chunks[MOST_CHUNKS]; /* one buffer: a row of several is a group by itself */
    F(total) total[GROUP];
    REAL hi[GROUP], lo[GROUP];
    const ptrdiff_t ahead = F(ahead)(b, first, rows);
    for (size_t g = 0; g < rows; g++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, first + g);
        start[g] = F(row_begin)(x, b->n, FC(CUT), fsm_temperature_of(b, first + g), chunks);
    }
    for (size_t g = 0; g < rows; g++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, first + g);
        REAL *w = ROW(b->out, b->out_stride, first + g);
        total[g] = F(weights)(x, w, b->n, ahead, &start[g], fsm_temperature_of(b, first + g));
    }
    for (size_t g = 0; g < rows; g++) {
        F(inverse)(total[g], &hi[g], &lo[g]);
    }
    if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
        F(scale_rows_low)(b, first, rows, hi, lo, calm);
        return;
    }
    for (size_t g = 0; g < rows; g++) {
        REAL *out = ROW(b->out, b->out_stride, first + g);
        if (FSM_UNLIKELY(total[g].hi != total[g].hi)) {
            F(fill_nan)(out, b->n);
        } else if (b->n <= SCALED) {
            F(scale_row)(out, F(before_line)(out, b->n), b->n, hi[g], lo[g]);
        } else {
            F(scale_pieces)(out, b->n, hi[g], lo[g]);
        }
    }
}

/* Stores the results before the first whole cache line; the others are streamed later.
 * finish_waiting streams and stores what is left. */
FSM_NOINLINE void F(begin_waiting)(F(waiting) *row, F(edge) *edge) {
    row->done = F(before_line)(row->out, row->n);
    if (row->done) {
        const VEC hi = V(set1)(row->hi), lo = V(set1)(row->lo);
        F(put_first)(row->out, F(normalised_partial)(row->w, row->done, hi, lo), row->done, edge);
    }
}
FSM_NOINLINE void F(finish_waiting)(F(waiting) *row, F(edge) *edge) {
    const VEC hi = V(set1)(row->hi), lo = V(set1)(row->lo);
    F(stream_waiting)(row, (row->n - row->done) / LANES);
    const size_t last = row->n - row->done;
    if (last) {
        const VEC a = F(normalised_partial)(row->w + row->done, last, hi, lo);
        F(put_last)(row->out + row->done, a, last, edge);
    }
}

/* Stores all results of a row by way of scale_low. */
FSM_NOINLINE void F(stream_low)(const F(waiting) *row, size_t *calm) {
    const int found = F(scale_low)(row->w, row->n, V(set1)(row->hi), V(set1)(row->lo));
    F(count_calm)(calm, 1, found);
    size_t i = F(before_line)(row->out, row->n);
    memcpy(row->out, row->w, i * sizeof(REAL));
    for (; i + LANES <= row->n; i += LANES) {
        V(stream)(row->out + i, V(load)(row->w + i));
    }
    memcpy(row->out + i, row->w + i, (row->n - i) * sizeof(REAL));
}

/* Row by row: (1) maximum; (2) weights and their sum to scratch, while the results of the row
 * before are streamed; (3) what is left of those; (4) the inverse of the sum. The row's own results
 * wait for the next row. */
static void F(softmax_streamed)(const fsm_rows *b) {
    const size_t n = b->n, pitch = (n + 2 * LANES - 1) / LANES * LANES;
    const size_t next = 1 + (FETCH_AHEAD - 1) / (n * sizeof(REAL));
    F(waiting) before = {0};
    F(edge) edge = {0};
    size_t calm = 0;
    for (size_t r = 0; r < b->rows; r++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, r);
        REAL *out = ROW(b->out, b->out_stride, r);
        REAL *w = (REAL *)b->scratch + r % 2 * pitch + (uintptr_t)out % 64 / sizeof(REAL);
        const ptrdiff_t ahead = r + next < b->rows ? (ptrdiff_t)next * b->x_stride : 0;
        REAL chunks[MOST_CHUNKS];
        const fsm_temperature *t = fsm_temperature_of(b, r);
        const F(start) s = F(row_begin)(x, n, FC(CUT), t, chunks);
        const F(total) total = F(weights_meanwhile)(x, w, n, ahead, &s, t, &before);
        F(finish_waiting)(&before, &edge);
        if (FSM_UNLIKELY(total.hi != total.hi)) {
            F(fill_nan)(out, n);
            before = (F(waiting)){0};
            continue;
        }
        before = (F(waiting)){.w = w, .out = out, .n = n};
        F(inverse)(total, &before.hi, &before.lo);
        if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
            F(stream_low)(&before, &calm);
            before = (F(waiting)){0};
            continue;
        }
        F(begin_waiting)(&before, &edge);
    }
    F(finish_waiting)(&before, &edge);
    F(edge_flush)(&edge);
}

#ifndef FSM_CORE_CALLED
/* Up to LANES rows of up to FOLDED elements, phase by phase: (1) the maxima of each row's lanes,
 * folded to one row a lane, and the starts of all; (2) weights and masses along each row, masses
 * folded; (3) 1 / sum of all; (4) scaling. Absent rows repeat the first. If a row is not plain, all
 * go to softmax_group. */
static void F(softmax_folded)(const fsm_rows *b, size_t first, size_t rows, size_t *calm) {
    const size_t n = b->n;
    const ptrdiff_t ahead = F(ahead)(b, first, rows);
    VEC hi[LANES], lo[LANES];
    REAL magic[LANES], limit[LANES], inv_hi[LANES], inv_lo[LANES];
    F(starts) s;
    for (size_t r = 0; r < LANES; r++) {
        hi[r] = r < rows ? F(row_top)(CONST_ROW(b->x, b->x_stride, first + r), n) : hi[0];
    }
    if (!F(starts_of)(&s, V(fold_max)(hi), FC(CUT), &untempered, 0, 0)) {
        for (size_t r = 0; r < rows; r += GROUP) {
            F(softmax_group)(b, first + r, rows - r < GROUP ? rows - r : GROUP, calm);
        }
        return;
    }
    V(store)(magic, s.row.magic);
    V(store)(limit, s.row.limit);
    for (size_t r = 0; r < LANES; r++) {
        if (r < rows) {
            const F(row) row = {.magic = V(set1)(magic[r]), .limit = V(set1)(limit[r])};
            const F(mass) mass = F(mass_of)(CONST_ROW(b->x, b->x_stride, first + r),
                                            ROW(b->out, b->out_stride, first + r), n,
                                            FC(MASS_START), ahead, &row, (F(how)){0, 1, 0}, NULL);
            hi[r] = mass.hi;
            lo[r] = mass.lo;
        } else {
            hi[r] = hi[0];
            lo[r] = lo[0];
        }
    }
    const F(totals) total = F(folded_total)(hi, lo);
    VEC scale_hi, scale_lo;
    F(lanes_inverse)(&total, &scale_hi, &scale_lo);
    V(store)(inv_hi, scale_hi);
    V(store)(inv_lo, scale_lo);
    if (FSM_UNLIKELY(FSM_UNDERFLOWED())) {
        F(scale_rows_low)(b, first, rows, inv_hi, inv_lo, calm);
        return;
    }
    for (size_t r = 0; r < rows; r++) {
        REAL *out = ROW(b->out, b->out_stride, first + r);
        if (FSM_UNLIKELY(inv_hi[r] != inv_hi[r])) {
            F(fill_nan)(out, n);
        } else {
            F(scale_lines)(out, 0, n, inv_hi[r], inv_lo[r]);
        }
    }
    for (size_t r = 0; n % LANES && r < rows; r++) {
        if (inv_hi[r] == inv_hi[r]) {
            F(scale_ends)(ROW(b->out, b->out_stride, first + r), 0, n, inv_hi[r], inv_lo[r]);
        }
    }
}

/* A row of `count` vectors held in registers: one load and one store an element. It has only itself
 * to wait for, so its exponentials begin before its maximum is known; N, which only moves their
 * exponents, is applied afterwards. (The parity of magic would decide ties of x * STEPS_PER_UNIT;
 * but no element of up to SHIFT_ABOVE gives a tie.) */
FSM_INLINE void F(softmax_short)(const REAL *x, REAL *out, size_t n, const int count) {
    const size_t last = (size_t)(count - 1) * LANES;
    VEC a[8];
    for (int v = 0; v < count - 1; v++) {
        a[v] = V(load)(x + v * LANES);
    }
    a[count - 1] = V(load_partial)(x + last, n - last, -INFINITY);
    F(reduced) reduced[8];
    for (int v = 0; v < count; v++) {
        reduced[v] = F(reduce)(a[v], V(set1)(FC(MAGIC)), a[v], 0);
    }
    VEC m[4];
    for (int v = 0; v < 4 && v < count; v++) {
        m[v] = v + 4 < count ? V(max)(a[v], a[v + 4]) : a[v];
    }
    VEC top = count > 1 ? V(max)(m[0], m[1]) : m[0];
    if (count > 2) {
        top = V(max)(top, count > 3 ? V(max)(m[2], m[3]) : m[2]);
    }
    const REAL maximum = V(reduce_max)(top);
    const F(start) s = F(row_start)(maximum, FC(CUT), &untempered);
    const F(row) row = F(row_of)(&s, &untempered);
    F(mass) mass = F(mass_start)(FC(MASS_START));
    if (FSM_UNLIKELY(s.shifted)) {
        for (int v = 0; v < count; v++) {
            a[v] = F(weight)(a[v], &row, 1);
        }
    } else {
        const VEC by_n = V(sub_bits)(V(set1)(FC(MAGIC)), row.magic);
        for (int v = 0; v < count; v++) {
            reduced[v].z = V(sub_bits)(reduced[v].z, by_n);
            a[v] = F(weight_of)(reduced[v], a[v], row.limit);
        }
    }
    for (int v = 0; v < count; v++) {
        F(mass_add)(&mass, a[v]);
    }
    const F(total) total = F(mass_total)(&mass);
    if (FSM_UNLIKELY(total.hi != total.hi)) {
        F(fill_nan)(out, n);
        return;
    }
    REAL inv_hi, inv_lo;
    F(inverse)(total, &inv_hi, &inv_lo);
    const VEC hi = V(set1)(inv_hi), lo = V(set1)(inv_lo);
    for (int v = 0; v < count - 1; v++) {
        V(store)(out + v * LANES, F(normalised)(a[v], hi, lo));
    }
    V(store_partial)(out + last, F(normalised)(a[count - 1], hi, lo), n - last);
}

#endif

#define SHORT_ROWS(count)                                                                          \
    case count:                                                                                    \
        for (; row < b->rows; row++) {                                                             \
            F(softmax_short)(CONST_ROW(b->x, b->x_stride, row), ROW(b->out, b->out_stride, row),   \
                             b->n, count);                                                         \
        }                                                                                          \
        return

/* The path of a batch: folded, in registers, streamed, or in groups. */
static void F(softmax_along)(const fsm_rows *b) {
    size_t row = 0, calm = 0;
#ifndef FSM_CORE_CALLED
    if (!fsm_is_tempered(b) && b->n <= FOLDED) {
        for (; b->rows - row >= FOLD_FROM; row += LANES) {
            const size_t left = b->rows - row;
            F(softmax_folded)(b, row, left < LANES ? left : LANES, &calm);
            if (left <= LANES) {
                return;
            }
        }
    }
    if (!fsm_is_tempered(b)) {
        switch ((b->n + LANES - 1) / LANES) {
            SHORT_ROWS(1);
            SHORT_ROWS(2);
            SHORT_ROWS(3);
            SHORT_ROWS(4);
#ifdef FSM_ONE_REGISTER
            SHORT_ROWS(5);
            SHORT_ROWS(6);
            SHORT_ROWS(7);
            SHORT_ROWS(8);
#endif
        default:
            break;
        }
    }
#endif
    if (STREAMS_SOFTMAX(b)) {
        F(softmax_streamed)(b);
        return;
    }
    const size_t fit = GROUP_BYTES / sizeof(REAL) / b->n;
    const size_t group = fit < 1 ? 1 : fit > GROUP ? GROUP : fit;
    for (; row < b->rows; row += group) {
        F(softmax_group)(b, row, b->rows - row < group ? b->rows - row : group, &calm);
    }
}

#undef SHORT_ROWS

FSM_INLINE VEC F(logged)(VEC x, VEC hi, VEC lo) {
    return V(sub)(V(sub)(x, hi), lo);
}

/* out = (x - hi) - lo with hi + lo = max + log(sum / w_max): nothing cancels but in x - hi, which
 * is then exact. `first` as in scale_row; `edge` if results are streamed. */
FSM_CORE void F(log_softmax_plain)(const REAL *x, REAL *out, size_t first, size_t n, REAL log_hi,
                                   REAL log_lo, F(edge) *edge) {
    const VEC hi = V(set1)(log_hi), lo = V(set1)(log_lo);
    if (first) {
        F(put_first)(out, F(logged)(V(load_partial)(x, first, 0), hi, lo), first, edge);
    }
    size_t i = first;
    for (; i + LANES <= n; i += LANES) {
        F(put)(out + i, F(logged)(V(load)(x + i), hi, lo), edge);
    }
    if (i < n) {
        F(put_last)(out + i, F(logged)(V(load_partial)(x + i, n - i, 0), hi, lo), n - i, edge);
    }
}

/* (x - max) / T - log, with x - max as a two-sum and the residual of the division carried along.
 * `row` and `first`, a factor of x, are as log_softmax_tempered sets them. */
FSM_CORE VEC F(log_softmax_tempered_vector)(VEC x, VEC first, const F(row) *row, VEC log_hi,
                                            VEC log_lo) {
    const VEC zero = V(set1)(0), maximum = row->shift;
    x = V(mul)(x, first);
    const VEC d = V(sub)(x, maximum);
    const VEC of_max = V(sub)(d, x); /* -(what was subtracted of max) */
    const VEC error = V(sub)(V(sub)(x, V(sub)(d, of_max)), V(add)(maximum, of_max));
    const VEC scaled = V(mul)(d, row->scale);
    const VEC high = V(mul)(scaled, row->inv_hi);
    VEC low = V(fma)(scaled, row->inv_hi, V(sub)(zero, high));
    low = V(fma)(scaled, row->inv_lo, low);
    low = V(fma)(V(mul)(error, row->scale), row->inv_hi, low);
    low = V(zero_below)(low, high, V(set1)(-FC(MAX)));
    return V(add)(V(sub)(high, log_hi), V(sub)(low, log_lo));
}

/* The results of a row with a temperature. */
FSM_NOINLINE void F(log_softmax_tempered)(const REAL *x, REAL *out, size_t n, const F(start) *s,
                                          const fsm_temperature *t, pair logarithm) {
    /* 1 / T as three factors, so that nothing overflows that has a finite result: `first`, 1/2 or
     * 1, keeps x - max finite; the second is a power of two; the third lies in 1 to 2, so that no
     * product exceeds the result. With T < 1 only what has an infinite result overflows, but for a
     * two-sum with a maximum at the format's end: there a half, too, and no result can tell the bit
     * that a subnormal x loses. */
    const int halved = t->scale < 2 || fabs((double)s->maximum) > (double)FC(MAX) / 2;
    const REAL factor = halved ? (REAL)0.5 : 1;
    F(row) row = F(row_of)(s, t);
    row.shift = V(set1)(s->maximum * factor);
    row.scale = V(set1)((REAL)t->scale * (halved ? 1 : (REAL)0.5));
    row.inv_hi = V(add)(row.inv_hi, row.inv_hi);
    row.inv_lo = V(add)(row.inv_lo, row.inv_lo);
    const VEC first = V(set1)(factor);
    REAL hi, lo;
    F(split_log)(0, logarithm, &hi, &lo);
    const VEC log_hi = V(set1)(hi), log_lo = V(set1)(lo);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V(store)(out + i,
                 F(log_softmax_tempered_vector)(V(load)(x + i), first, &row, log_hi, log_lo));
    }
    if (i < n) {
        const VEC a = V(load_partial)(x + i, n - i, 0);
        V(store_partial)(out + i, F(log_softmax_tempered_vector)(a, first, &row, log_hi, log_lo),
                         n - i);
    }
}

/* logsumexp of a row with an infinite maximum or a NaN. */
FSM_NOINLINE REAL F(logsumexp_special)(const REAL *x, size_t n, REAL maximum) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] != x[i]) {
            return FC(NAN);
        }
    }
    return maximum;
}

/* The results of a row from its maximum and log(sum / w_max). */
FSM_INLINE void F(log_softmax_row)(const REAL *x, REAL *out, size_t n, const F(start) *s,
                                   const fsm_temperature *t, pair logarithm, F(edge) *edge) {
    if (FSM_UNLIKELY(F(no_answer)(s->maximum, logarithm))) {
        F(fill_nan)(out, n);
    } else if (t->tempered) {
        F(log_softmax_tempered)(x, out, n, s, t, logarithm);
    } else {
        REAL hi, lo;
        F(split_log)(s->maximum, logarithm, &hi, &lo);
        const size_t first = F(before_line)(out, n);
        if (edge) {
            F(log_softmax_plain)(x, out, first, n, hi, lo, edge);
        } else {
            F(log_softmax_plain)(x, out, first, n, hi, lo, NULL);
        }
    }
}
FSM_INLINE void F(logsumexp_row)(const REAL *x, REAL *out, size_t n, const F(start) *s,
                                 pair logarithm) {
    REAL hi, lo;
    F(split_log)(s->maximum, logarithm, &hi, &lo);
    if (FSM_UNLIKELY(F(no_answer)(s->maximum, logarithm))) {
        hi = F(logsumexp_special)(x, n, s->maximum);
    }
    *out = hi;
}

/* A group of rows, phase by phase: (1) maxima and starts; (2) the sum of all weights but a maximal
 * one; (3) log1p(others / top); (4) x - max - log, or max + log if `single`. */
FSM_NOINLINE void F(log_group)(const fsm_rows *b, size_t first, size_t rows, int single,
                               F(edge) *edge) {
    F(start) start[GROUP];
    REAL chunks[MOST_CHUNKS]; /* one buffer: a row of several is a group by itself */
    pair others[GROUP];
    pair logarithm[GROUP];
    const ptrdiff_t ahead = F(ahead)(b, first, rows);
    for (size_t g = 0; g < rows; g++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, first + g);
        start[g] = F(row_begin)(x, b->n, FC(LOG_CUT), fsm_temperature_of(b, first + g), chunks);
    }
    for (size_t g = 0; g < rows; g++) {
        others[g] = F(others)(CONST_ROW(b->x, b->x_stride, first + g), NULL, b->n, ahead, &start[g],
                              fsm_temperature_of(b, first + g));
    }
    for (size_t g = 0; g < rows; g++) {
        logarithm[g] = log_one_plus(F(ratio)(others[g], F(log_top)(&start[g])), FC(LOG_IN_TWO));
    }
    for (size_t g = 0; g < rows; g++) {
        const REAL *x = CONST_ROW(b->x, b->x_stride, first + g);
        REAL *out = ROW(b->out, b->out_stride, first + g);
        if (single) {
            F(logsumexp_row)(x, out, b->n, &start[g], logarithm[g]);
        } else {
            F(log_softmax_row)(x, out, b->n, &start[g], fsm_temperature_of(b, first + g),
                               logarithm[g], edge);
        }
    }
}

static void F(log_groups)(const fsm_rows *b, int single) {
    const size_t fit = GROUP_BYTES / sizeof(REAL) / b->n;
    const size_t group = fit < 1 ? 1 : fit > GROUP ? GROUP : fit;
    F(edge) shared, *const edge = STREAMED(b) ? &shared : NULL;
    shared.held = 0;
    for (size_t row = 0; row < b->rows; row += group) {
        F(log_group)(b, row, b->rows - row < group ? b->rows - row : group, single, edge);
    }
    F(edge_flush)(edge);
}
static void F(log_softmax_along)(const fsm_rows *b) {
    F(log_groups)(b, 0);
}
static void F(logsumexp_along)(const fsm_rows *b) {
    F(log_groups)(b, 1);
}
