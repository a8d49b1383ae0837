/* Tries the exp core of core_f32.h on float32 inputs, against the C library's exp in float64.
 *
 *     exhaustive_exp FIRST STEP [BITS...]
 *
 * The inputs are the bit patterns FIRST, FIRST + STEP, ... below 2^32, and BITS. Each is taken as
 * the maximum of its row; and, where it is not positive, as an element of a row whose maximum is 0.
 * Other maxima add nothing: N enters the weight as an exact power of two only. Prints "ulp N
 * hexadecimal-input"; "below N hexadecimal-input" and "above N hexadecimal-input", how far a weight
 * is from the exact one at most, in 2^-24 of that; "parts N hexadecimal-input", the same, to either
 * side, before a weight's last rounding; "wrong N" and "sum N": inputs whose weight is not what D
 * and F of the design say (0 below the cut-off, NaN from NaN, no infinity), and a sum of all bits,
 * the same for every instruction set. Compile with -DVECTORS='"vec_<name>.h"' and the flags of that
 * instruction set.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "portable.h"
#include VECTORS

#include "core_f32.h"

#define LANES 16

/* The largest of some errors, and where it is. */
typedef struct {
    double error;
    uint32_t witness;
} largest;

typedef struct {
    largest ulp, below, above, parts;
    uint64_t wrong, sum;
} findings;

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* In spacings of float32 at the exact value, which is far from subnormal. */
static double error_in_ulp(float got, double exact) {
    const int64_t exponent = (int64_t)(f64_to_bits(exact) >> 52) - 1023;
    return fabs((double)got - exact) * f64_from_bits((uint64_t)(1023 + 23 - exponent) << 52);
}

static void take_largest(largest *found, double error, float x) {
    if (error > found->error) {
        *found = (largest){error, to_bits(x)};
    }
}

static void take(findings *found, float x, float weight, double in_parts, double exact) {
    const double ulp = error_in_ulp(weight, exact);
    const double relative = ((double)weight / exact - 1) * 0x1p24;
    take_largest(&found->ulp, ulp, x);
    take_largest(&found->below, -relative, x);
    take_largest(&found->above, relative, x);
    take_largest(&found->parts, fabs(in_parts / exact - 1) * 0x1p24, x);
    found->wrong += !(ulp < 8);
}

/* The weights of a vector before their last rounding. */
static void weigh_in_parts(const float *x, const f32_row *row, int rare, double *weights) {
    float power[LANES], factor[LANES], q[LANES];
    const f32_parts parts = f32_weight_parts(f32x16_load(x), row, rare);
    f32x16_store(power, parts.power);
    f32x16_store(factor, parts.factor);
    f32x16_store(q, parts.q);
    for (int i = 0; i < LANES; i++) {
        weights[i] = (double)power[i] + (double)factor[i] * (double)q[i];
    }
}

/* Every lane its own maximum. */
static void as_maximum(const float *x, findings *found) {
    const double ln2 = LN2_HI + LN2_LO;
    float shift[LANES], magic[LANES], limit[LANES], weight[LANES], steps[LANES];
    double in_parts[LANES];
    for (int i = 0; i < LANES; i++) {
        const int shifted = !(fabsf(x[i]) <= F32_SHIFT_ABOVE);
        const float top = shifted ? 0 : x[i];
        steps[i] = (top * F32_LOG2E + F32_MAGIC) - F32_MAGIC;
        shift[i] = shifted ? x[i] : 0;
        magic[i] = F32_MAGIC + F32_STEPS * (F32_BIAS - steps[i]);
        limit[i] = top - F32_CUT;
    }
    const f32_row row = {
        .shift = f32x16_load(shift),
        .magic = f32x16_load(magic),
        .limit = f32x16_load(limit),
        .scale = f32x16_set1(1.0f),
        .inv_hi = f32x16_set1(1.0f),
        .inv_lo = f32x16_set1(0.0f),
    };
    f32x16_store(weight, f32_weight(f32x16_load(x), &row, 1));
    weigh_in_parts(x, &row, 1, in_parts);
    for (int i = 0; i < LANES; i++) {
        if (x[i] - x[i] != 0) { /* an infinity or NaN as the maximum: the row is lost */
            found->wrong += weight[i] == weight[i];
            continue;
        }
        found->sum += to_bits(weight[i]);
        const double argument = (double)x[i] - (double)shift[i];
        take(found, x[i], weight[i], in_parts[i],
             F32_SCALE * exp(argument - ((double)steps[i] - F32_BIAS) * ln2));
    }
}

static void below_zero(const float *x, findings *found) {
    const f32_row row = {.magic = f32x16_set1(F32_MAGIC + F32_STEPS * F32_BIAS),
                         .limit = f32x16_set1(-F32_CUT)};
    float weight[LANES];
    double in_parts[LANES];
    f32x16_store(weight, f32_weight(f32x16_load(x), &row, 0));
    weigh_in_parts(x, &row, 0, in_parts);
    for (int i = 0; i < LANES; i++) {
        if (x[i] != x[i]) {
            found->wrong += weight[i] == weight[i];
        } else if (x[i] < -F32_CUT) {
            found->wrong += to_bits(weight[i]) != 0;
        } else if (x[i] <= 0) {
            found->sum += to_bits(weight[i]);
            take(found, x[i], weight[i], in_parts[i], F32_SCALE * 0x1p64 * exp((double)x[i]));
        }
    }
}

static void try_vector(const float *x, findings *found) {
    as_maximum(x, found);
    below_zero(x, found);
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: exhaustive_exp FIRST STEP [BITS...]\n");
        return 2;
    }
    findings found = {0};
    float x[LANES];
    const uint64_t step = strtoull(arguments[2], NULL, 0);
    uint64_t at = strtoull(arguments[1], NULL, 0);
    while (at < (uint64_t)1 << 32) {
        for (int i = 0; i < LANES; i++) { /* the last vector is filled with its last input */
            x[i] = at >> 32 ? x[i - 1] : from_bits((uint32_t)at);
            at += at >> 32 ? 0 : step;
        }
        try_vector(x, &found);
    }
    for (int a = 3; a < count; a++) {
        for (int i = 0; i < LANES; i++) {
            x[i] = from_bits((uint32_t)strtoull(arguments[a], NULL, 0));
        }
        try_vector(x, &found);
    }
    const char *names[] = {"ulp", "below", "above", "parts"};
    const largest *errors[] = {&found.ulp, &found.below, &found.above, &found.parts};
    for (int i = 0; i < 4; i++) {
        printf("%s %.6f 0x%08" PRIx32 "\n", names[i], errors[i]->error, errors[i]->witness);
    }
    printf("wrong %" PRIu64 "\nsum %" PRIu64 "\n", found.wrong, found.sum);
    return 0;
}
