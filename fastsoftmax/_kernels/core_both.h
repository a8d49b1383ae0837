/* The parts of core_f32.h and core_f64.h that differ in type alone; each includes this for its
 * format. Letters are those of core_f32.h's design. */

/* What a row's weights depend on besides x; in a row that is not `rare`, magic and limit alone. */
typedef struct {
    VEC shift;          /* 0, or the maximum where |max| is large */
    VEC magic;          /* 1.5 * 2^23 (float64: 2^52) + STEPS * (bias - N) */
    VEC limit;          /* arguments below it have weight 0 */
    VEC scale;          /* 2^-e for a temperature near 2^e */
    VEC inv_hi, inv_lo; /* 1 / (temperature * scale) */
} F(row);

/* The sum of up to a chunk of weights, lane by lane (E). */
typedef struct {
    VEC hi, lo;
} F(mass);

/* x / T rounded, and its residual. */
FSM_INLINE VEC F(scaled)(VEC x, const F(row) *row, VEC *residual) {
    const VEC scaled = V(mul)(V(sub)(x, row->shift), row->scale);
    const VEC product = V(mul)(scaled, row->inv_hi);
    *residual = V(fma)(scaled, row->inv_hi, V(sub)(V(set1)(-(REAL)0), product));
    *residual = V(fma)(scaled, row->inv_lo, *residual);
    return product;
}

/* The weight of every lane. A row that is not `rare` has no shift and T = 1; the operations for
 * these would leave its bits as they are. */
FSM_CORE VEC F(weight)(VEC x, const F(row) *row, int rare) {
    VEC residual = x;
    if (rare) {
        x = F(scaled)(x, row, &residual);
    }
    return F(weight_of)(F(reduce)(x, row->magic, residual, rare), x, row->limit);
}

/* Rounds parts to F(weight) of the same element. */
FSM_INLINE VEC F(whole)(F(parts) a, VEC limit) {
    return V(zero_below)(V(fma)(a.FC(FACTOR), a.q, a.power), a.x, limit);
}

FSM_INLINE F(sum) F(sum_zero)(void) {
    const f64x8 zero = f64x8_set1(0.0);
    return (F(sum)){zero, zero};
}

FSM_INLINE F(mass) F(mass_start)(REAL start) {
    return (F(mass)){V(set1)(start), V(set1)(0)};
}
/* The mass of one weight a lane. */
FSM_INLINE F(mass) F(mass_first)(VEC w) {
    const VEC start = V(set1)(FC(MASS_START)), hi = V(add)(start, w);
    return (F(mass)){hi, V(sub)(w, V(sub)(hi, start))};
}
/* hi + lo += w without loss: what hi rounds off is found exactly (Fast2Sum) and added to lo. */
FSM_CORE void F(mass_add)(F(mass) *mass, VEC w) {
    const VEC hi = V(add)(mass->hi, w);
    mass->lo = V(add)(mass->lo, V(sub)(w, V(sub)(hi, mass->hi)));
    mass->hi = hi;
}
/* Adds a weight in parts: rounded to hi, what that lacks of power + factor * q to lo. */
FSM_CORE void F(mass_add_parts)(F(mass) *mass, F(parts) a) {
    const VEC hi = V(add)(mass->hi, V(fma)(a.FC(FACTOR), a.q, a.power));
    const VEC left = V(sub)(a.power, V(sub)(hi, mass->hi));
    mass->lo = V(add)(mass->lo, V(fma)(a.FC(FACTOR), a.q, left));
    mass->hi = hi;
}

/* 1 / total in two numbers, the low one from the residual of the division. */
FSM_INLINE void F(inverse)(F(total) total, REAL *hi, REAL *lo) {
    const REAL inverse = 1 / total.hi;
    *hi = inverse;
    *lo = FMA(-inverse, total.lo, FMA(-inverse, total.hi, 1)) * inverse;
}
