/* Which kernels there are, which this CPU can run, and their floating-point environment. */
#include "kernels.h"
#include "portable.h"

#if FSM_X86_64
#if defined(_MSC_VER) && !defined(__clang__)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

extern const fsm_kernels fsm_generic;
#if FSM_X86_64
extern const fsm_kernels fsm_avx2, fsm_avx512;
static const fsm_kernels *const compiled[] = {&fsm_avx512, &fsm_avx2, &fsm_generic};
#elif FSM_AARCH64
extern const fsm_kernels fsm_neon;
static const fsm_kernels *const compiled[] = {&fsm_neon, &fsm_generic};
#else
static const fsm_kernels *const compiled[] = {&fsm_generic};
#endif

size_t fsm_compiled(const fsm_kernels *const **tables) {
    *tables = compiled;
    return sizeof compiled / sizeof compiled[0];
}

/* Results are streamed from half the last-level cache on: input and results then fill it. A virtual
 * machine or a large server reports a cache that is shared with others: half of 64 MiB at most. */
#define STREAM_FROM_AT_MOST ((size_t)32 << 20)
#define STREAM_FROM_UNKNOWN ((size_t)16 << 20)

static size_t stream_from = STREAM_FROM_UNKNOWN;

size_t fsm_stream_from(void) {
    return stream_from;
}

#if FSM_X86_64

static void cpuid(unsigned leaf, unsigned subleaf, unsigned registers[4]) {
#if defined(_MSC_VER) && !defined(__clang__)
    __cpuidex((int *)registers, (int)leaf, (int)subleaf);
#else
    __cpuid_count(leaf, subleaf, registers[0], registers[1], registers[2], registers[3]);
#endif
}

/* The register states that the system saves (XCR0); only where CPUID reports OSXSAVE. */
static uint64_t saved_states(void) {
#if defined(_MSC_VER) && !defined(__clang__)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

/* Bytes of the last-level cache; 0: unknown. Leaf 4, or AMD's 0x8000001D of the same form. */
static size_t last_level_cache(void) {
    size_t largest = 0;
    unsigned r[4];
    cpuid(0, 0, r);
    unsigned leaf = r[0] >= 4 ? 4 : 0;
    if (r[2] == 0x444d4163u) { /* AuthenticAMD */
        cpuid(0x80000000u, 0, r);
        leaf = r[0] >= 0x8000001du ? 0x8000001du : 0;
    }
    for (unsigned i = 0; leaf && i < 8; i++) {
        cpuid(leaf, i, r);
        if (!(r[0] & 31u)) {
            break;
        }
        const size_t ways = (r[1] >> 22) + 1, partitions = (r[1] >> 12 & 1023u) + 1;
        const size_t size = ways * partitions * ((r[1] & 4095u) + 1) * ((size_t)r[2] + 1);
        largest = size > largest ? size : largest;
    }
    return largest;
}

#define BIT(n) (1u << (n))
#define ALL(value, bits) (((value) & (bits)) == (bits))

static int runs_here(const fsm_kernels *kernels) {
    unsigned r[4], features, extended;
    if (kernels == &fsm_generic) {
        return 1;
    }
    cpuid(0, 0, r);
    if (r[0] < 7) {
        return 0;
    }
    cpuid(1, 0, r);
    features = r[2];
    /* FMA, OSXSAVE, AVX, F16C */
    if (!ALL(features, BIT(12) | BIT(27) | BIT(28) | BIT(29))) {
        return 0;
    }
    const uint64_t states = saved_states();
    cpuid(7, 0, r);
    extended = r[1];
    /* AVX2; the XMM and YMM states */
    if (!ALL(extended, BIT(5)) || !ALL(states, 0x6u)) {
        return 0;
    }
    if (kernels == &fsm_avx2) {
        return 1;
    }
    /* AVX-512 F, DQ, BW, VL; the opmask and ZMM states */
    return ALL(extended, BIT(16) | BIT(17) | BIT(30) | BIT(31)) && ALL(states, 0xe6u);
}

void fsm_detect(void) {
    const size_t half = last_level_cache() / 2;
    stream_from = !half                        ? STREAM_FROM_UNKNOWN
                  : half < STREAM_FROM_AT_MOST ? half
                                               : STREAM_FROM_AT_MOST;
}

#else

static int runs_here(const fsm_kernels *kernels) {
    (void)kernels; /* Advanced SIMD is part of AArch64. */
    return 1;
}

void fsm_detect(void) {
}

#endif

/* ---- the floating-point environment ---- */

/* CONTROL_DEFAULT: round to nearest, no flush-to-zero, no denormals-are-zero, no traps.
 * CONTROL_FLAGS are the status bits, which may have any value. */
#if FSM_X86_64 || defined(__i386__)
#include <xmmintrin.h>
#define CONTROL_DEFAULT 0x1f80u
#define CONTROL_FLAGS 0x3fu
static uint64_t read_control(void) {
    return _mm_getcsr();
}
static void write_control(uint64_t value) {
    _mm_setcsr((unsigned)value);
}
#elif FSM_AARCH64
#define CONTROL_DEFAULT 0
#define CONTROL_FLAGS 0
#if defined(_MSC_VER) && !defined(__clang__)
#include <arm64intr.h>
static uint64_t read_control(void) {
    return (uint64_t)_ReadStatusReg(ARM64_FPCR);
}
static void write_control(uint64_t value) {
    _WriteStatusReg(ARM64_FPCR, (int64_t)value);
}
#else
static uint64_t read_control(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void write_control(uint64_t value) {
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
}
#endif
#elif defined(__arm__) && defined(__ARM_FP)
#define CONTROL_DEFAULT 0
#define CONTROL_FLAGS 0xf800009fu
static uint64_t read_control(void) {
    uint32_t value;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(value));
    return value;
}
static void write_control(uint64_t value) {
    __asm__ volatile("vmsr fpscr, %0" : : "r"((uint32_t)value));
}
#else /* the rounding mode alone, as C has it */
#include <fenv.h>
#define CONTROL_DEFAULT FE_TONEAREST
#define CONTROL_FLAGS 0
static uint64_t read_control(void) {
    return (uint64_t)fegetround();
}
static void write_control(uint64_t value) {
    (void)fesetround((int)value);
}
#endif

static int is_default(uint64_t control) {
    return (control & ~(uint64_t)CONTROL_FLAGS) == CONTROL_DEFAULT;
}

uint64_t fsm_enter(void) {
    const uint64_t saved = read_control();
    if (FSM_UNLIKELY(!is_default(saved))) {
        write_control(CONTROL_DEFAULT);
    }
    return saved;
}

void fsm_leave(uint64_t saved) {
    if (FSM_UNLIKELY(!is_default(saved))) {
        write_control(saved);
    }
}

int fsm_supported(const fsm_kernels *kernels) {
    if (!runs_here(kernels)) {
        return 0;
    }
    const uint64_t saved = fsm_enter();
    const int rounds_once = kernels->rounds_once();
    fsm_leave(saved);
    return rounds_once;
}
