/* Which kernels are compiled in, which of them this CPU can run, and their floating-point
 * environment. */
#include "kernels.h"
#include "portable.h"

#if FSM_X86_64
#if defined(_MSC_VER) && !defined(__clang__)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#include <xmmintrin.h>
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

/* The register states that the operating system saves (XCR0). Only to be called where CPUID reports
 * OSXSAVE. */
static uint64_t saved_states(void) {
#if defined(_MSC_VER) && !defined(__clang__)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#endif
}

/* Bytes of the last-level cache; 0 where the CPU does not say. Leaf 4, or AMD's 0x8000001D of the
 * same form. */
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

int fsm_supported(const fsm_kernels *kernels) {
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

/* MXCSR with all exceptions masked, round to nearest, no flush-to-zero, no denormals-are-zero. The
 * low six bits are flags. */
#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_FLAGS 0x3fu

uint64_t fsm_enter(void) {
    const unsigned saved = _mm_getcsr();
    if (FSM_UNLIKELY((saved & ~MXCSR_FLAGS) != MXCSR_DEFAULT)) {
        _mm_setcsr(MXCSR_DEFAULT);
    }
    return saved;
}

void fsm_leave(uint64_t saved) {
    if (FSM_UNLIKELY((saved & ~(uint64_t)MXCSR_FLAGS) != MXCSR_DEFAULT)) {
        _mm_setcsr((unsigned)saved);
    }
}

#elif FSM_AARCH64

void fsm_detect(void) {
}

int fsm_supported(const fsm_kernels *kernels) {
    (void)kernels; /* Advanced SIMD is part of the base architecture. */
    return 1;
}

#if defined(_MSC_VER) && !defined(__clang__)
#include <arm64intr.h>
#define READ_FPCR() ((uint64_t)_ReadStatusReg(ARM64_FPCR))
#define WRITE_FPCR(value) _WriteStatusReg(ARM64_FPCR, (int64_t)(value))
#else
static uint64_t read_fpcr(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
static void write_fpcr(uint64_t value) {
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
}
#define READ_FPCR() read_fpcr()
#define WRITE_FPCR(value) write_fpcr(value)
#endif

uint64_t fsm_enter(void) {
    const uint64_t saved = READ_FPCR();
    if (FSM_UNLIKELY(saved != 0)) {
        WRITE_FPCR(0);
    }
    return saved;
}

void fsm_leave(uint64_t saved) {
    if (FSM_UNLIKELY(saved != 0)) {
        WRITE_FPCR(saved);
    }
}

#else

void fsm_detect(void) {
}

int fsm_supported(const fsm_kernels *kernels) {
    (void)kernels;
    return 1;
}

uint64_t fsm_enter(void) {
    return 0;
}

void fsm_leave(uint64_t saved) {
    (void)saved;
}

#endif
