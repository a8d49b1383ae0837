/* Loops over elements for arrays.c: formats, steps, byte order, masks. Plain C where compilers
 * vectorise it, for the instruction set of the unit. */

/* Elements are converted in blocks of FSM_BLOCK, of which the last two may overlap, so that no loop
 * is needed for what is left over. gcc makes vectors of 32 numbers of int8, not of 16; and of int64
 * with AVX-512 only. */
FSM_INLINE size_t next_block(size_t i, size_t n) {
    i += FSM_BLOCK;
    return i + FSM_BLOCK <= n || i >= n ? i : n - FSM_BLOCK;
}
#define WIDEN(element)                                                                             \
    for (size_t i = 0; i < n; i = next_block(i, n)) {                                              \
        FSM_UNROLL_SOME                                                                            \
        for (size_t j = 0; j < FSM_BLOCK; j++) {                                                   \
            result[i + j] = (WIDE)(element);                                                       \
        }                                                                                          \
    }                                                                                              \
    return
#define ELEMENT(type) ((const type *)from)[i + j]
#define WIDEN_FROM(format, type)                                                                   \
    case format:                                                                                   \
        WIDEN(ELEMENT(type))
/* Of a bool 1 for any byte but 0; gcc would make branches of a comparison. */
#define WIDEN_INTEGERS                                                                             \
    case FSM_BOOL:                                                                                 \
        WIDEN((ELEMENT(uint8_t) + 255) >> 8);                                                      \
        WIDEN_FROM(FSM_I8, int8_t);                                                                \
        WIDEN_FROM(FSM_U8, uint8_t);                                                               \
        WIDEN_FROM(FSM_I16, int16_t);                                                              \
        WIDEN_FROM(FSM_U16, uint16_t);                                                             \
        WIDEN_FROM(FSM_I32, int32_t);                                                              \
        WIDEN_FROM(FSM_U32, uint32_t);                                                             \
        WIDEN_FROM(FSM_I64, int64_t);                                                              \
        WIDEN_FROM(FSM_U64, uint64_t)

static void widen_f32(enum fsm_dtype dtype, void *FSM_RESTRICT to, const void *FSM_RESTRICT from,
                      size_t n) {
    float *const result = to;
    switch (dtype) {
#define WIDE float
        WIDEN_FROM(FSM_F64, double);
        WIDEN_INTEGERS;
#undef WIDE
    case FSM_F16:
        for (size_t i = 0; i < n; i = next_block(i, n)) {
            for (size_t j = i; j < i + FSM_BLOCK; j += 16) {
                f32x16_store(result + j, f32x16_load_f16((const uint16_t *)from + j));
            }
        }
        return;
    default: /* bfloat16 */
        for (size_t i = 0; i < n; i = next_block(i, n)) {
            for (size_t j = 0; j < FSM_BLOCK; j++) {
                const uint32_t bits = (uint32_t)ELEMENT(uint16_t) << 16;
                memcpy(result + i + j, &bits, sizeof bits);
            }
        }
    }
}

static void widen_f64(enum fsm_dtype dtype, void *FSM_RESTRICT to, const void *FSM_RESTRICT from,
                      size_t n) {
    double *const result = to;
    switch (dtype) {
#define WIDE double
        WIDEN_FROM(FSM_F32, float);
        WIDEN_INTEGERS;
#undef WIDE
    default: /* float16, bfloat16 */
        for (size_t i = 0; i < n; i = next_block(i, n)) {
            float block[FSM_BLOCK];
            widen_f32(dtype, block, (const uint16_t *)from + i, FSM_BLOCK);
            for (size_t j = 0; j < FSM_BLOCK; j++) {
                result[i + j] = block[j];
            }
        }
    }
}
#undef WIDEN_INTEGERS
#undef WIDEN_FROM
#undef ELEMENT
#undef WIDEN

static void to_f16(uint16_t *out, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        f32x16_store_f16(out + i, f32x16_load(x + i));
    }
    if (i < n) {
        uint16_t tail[16];
        f32x16_store_f16(tail, f32x16_load_partial(x + i, n - i, 0.0f));
        memcpy(out + i, tail, (n - i) * sizeof tail[0]);
    }
}

/* Rounds half to even; a NaN becomes the canonical one. */
static void to_bf16(uint16_t *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
    }
}

/* Steps that are known to the compiler, which makes permutations of vectors of them. */
#define COPY(name, type, step)                                                                     \
    static void name(void *FSM_RESTRICT to, const void *FSM_RESTRICT from, size_t n) {             \
        for (size_t i = 0; i < n; i++) {                                                           \
            type a;                                                                                \
            memcpy(&a, (const char *)from + (ptrdiff_t)i * (step) * (ptrdiff_t)sizeof a,           \
                   sizeof a);                                                                      \
            memcpy((char *)to + i * sizeof a, &a, sizeof a);                                       \
        }                                                                                          \
    }
COPY(reverse_f32, uint32_t, -1)
COPY(reverse_f64, uint64_t, -1)
COPY(every_second_f32, uint32_t, 2)
COPY(every_second_f64, uint64_t, 2)
#undef COPY

#define SWAP(type, swapped)                                                                        \
    FSM_INDEPENDENT                                                                                \
    for (size_t i = 0; i < n; i++) {                                                               \
        type a;                                                                                    \
        memcpy(&a, (const char *)from + i * sizeof a, sizeof a);                                   \
        a = (type)(swapped);                                                                       \
        memcpy((char *)to + i * sizeof a, &a, sizeof a);                                           \
    }

/* Shifts and masks, which compilers turn into a byte permutation where the vectors have one. */
static void swap_bytes(void *to, const void *from, size_t n, size_t size) {
    if (size == 2) {
        SWAP(uint16_t, a >> 8 | a << 8)
    } else if (size == 4) {
        SWAP(uint32_t, a >> 24 | (a >> 8 & 0xff00) | (a << 8 & 0xff0000) | a << 24)
    } else {
        SWAP(uint64_t, (a & 0xff) << 56 | (a & 0xff00) << 40 | (a & 0xff0000) << 24 |
                           (a & 0xff000000u) << 8 | (a >> 8 & 0xff000000u) | (a >> 24 & 0xff0000) |
                           (a >> 40 & 0xff00) | a >> 56)
    }
}
#undef SWAP

static void select_f32(void *out, const void *x, const uint8_t *mask, size_t n, double other) {
    const float *from = x;
    float *to = out, value = (float)other;
    for (size_t i = 0; i < n; i++) {
        const float given = from[i];
        to[i] = mask[i] ? given : value;
    }
}

static void select_f64(void *out, const void *x, const uint8_t *mask, size_t n, double other) {
    const double *from = x;
    double *to = out;
    for (size_t i = 0; i < n; i++) {
        const double given = from[i];
        to[i] = mask[i] ? given : other;
    }
}
