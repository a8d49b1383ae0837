/* All compiler extensions: inlining, alignment, atomics, pragmas, the instruction sets of units. */
#ifndef FSM_PORTABLE_H
#define FSM_PORTABLE_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

/* Arithmetic other than IEEE 754 would give other bits: such a build fails, and uses NumPy. */
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||     \
    defined(_M_FP_FAST) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "the kernels are not to be compiled by -ffast-math, /fp:fast, or an option that these imply"
#endif
#if defined(__i386__) && defined(__GNUC__) && !defined(__clang__)
/* SSE in place of the x87, whose 80 bits FLT_EVAL_METHOD still reports. */
#pragma GCC target("sse2,fpmath=sse")
#elif FLT_EVAL_METHOD != 0
#error "float and double are computed in a wider format here (FLT_EVAL_METHOD)"
#endif
_Static_assert(sizeof 1.0 == sizeof(double), "no -fsingle-precision-constant");

#if defined(_MSC_VER) && !defined(__clang__)
#define FSM_INLINE static __forceinline
#define FSM_NOINLINE static __declspec(noinline)
#define FSM_SMALL FSM_NOINLINE
#define FSM_ALIGNED(bytes) __declspec(align(bytes))
#define FSM_RESTRICT __restrict
#define FSM_UNLIKELY(condition) (condition)
#else
#define FSM_INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define FSM_NOINLINE static __attribute__((noinline, unused))
#else /* gcc would clone it for constant arguments */
#define FSM_NOINLINE static __attribute__((noinline, noclone, unused))
#endif
/* Compiled for size: what is bound by memory, or rare. */
#define FSM_SMALL static __attribute__((noinline, cold, unused))
#define FSM_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define FSM_RESTRICT __restrict__
#define FSM_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define FSM_X86_64 1
#else
#define FSM_X86_64 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define FSM_AARCH64 1
#else
#define FSM_AARCH64 0
#endif

/* Whether fma() is an instruction in code that names no target. Not all compilers say so. */
#if defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA) || FSM_AARCH64 || defined(__powerpc__) || \
    defined(__s390x__) || (defined(__riscv_flen) && __riscv_flen >= 64)
#define FSM_FAST_FMA 1
#else
#define FSM_FAST_FMA 0
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define FSM_PREFETCH(address) ((void)(address))
#else
#define FSM_PREFETCH(address) __builtin_prefetch(address)
#endif

/* Atomic operations on size_t, and the spin-wait hint. */
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#if defined(_WIN64)
#define FSM_INTERLOCKED(operation, at, ...)                                                        \
    (size_t)_Interlocked##operation##64((volatile __int64 *)(at), __VA_ARGS__)
#else
#define FSM_INTERLOCKED(operation, at, ...)                                                        \
    (size_t)_Interlocked##operation((volatile long *)(at), __VA_ARGS__)
#endif
#define FSM_FETCH_ADD(at, n) FSM_INTERLOCKED(ExchangeAdd, at, n)
#define FSM_EXCHANGE(at, value) FSM_INTERLOCKED(Exchange, at, value)
/* Stores `to` if the value is `from`; returns whether it was. */
#define FSM_COMPARE_EXCHANGE(at, from, to)                                                         \
    (FSM_INTERLOCKED(CompareExchange, at, to, from) == (from))
#define FSM_READ(at) (*(at))
#else
#define FSM_FETCH_ADD(at, n) __atomic_fetch_add(at, n, __ATOMIC_ACQ_REL)
#define FSM_EXCHANGE(at, value) __atomic_exchange_n(at, value, __ATOMIC_ACQ_REL)
#define FSM_COMPARE_EXCHANGE(at, from, to) __sync_bool_compare_and_swap(at, from, to)
#define FSM_READ(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
#endif
#if FSM_X86_64
#include <xmmintrin.h>
#define FSM_PAUSE() _mm_pause()
#elif FSM_AARCH64 && !defined(_MSC_VER)
#define FSM_PAUSE() __asm__ volatile("isb")
#else
#define FSM_PAUSE() ((void)0)
#endif

/* Reads or clears MXCSR's underflow flag; always 0 outside x86-64, and in the generic unit. Asked
 * where subnormal results cost time (rows.h, F). */
#if FSM_X86_64 && !defined(FSM_CORE_CALLED)
#define FSM_UNDERFLOWED() (_mm_getcsr() >> 4 & 1)
#define FSM_FORGET_UNDERFLOW() _mm_setcsr(_mm_getcsr() & ~0x10u)
#else
#define FSM_UNDERFLOWED() 0
#define FSM_FORGET_UNDERFLOW() ((void)0)
#endif

#define FSM_PRAGMA(text) _Pragma(#text)

/* Before a loop of few, constant iterations; not in the generic unit, with its nested loops. */
#if defined(FSM_CORE_CALLED)
#define FSM_UNROLL
#elif defined(__clang__)
#define FSM_UNROLL FSM_PRAGMA(unroll)
#elif defined(__GNUC__)
#define FSM_UNROLL FSM_PRAGMA(GCC unroll 16)
#else
#define FSM_UNROLL
#endif

/* Before a loop of few operations that compilers do not vectorise: the time that the loop itself
 * takes depends on where its code lies. */
#if defined(__clang__)
#define FSM_UNROLL_SOME FSM_PRAGMA(unroll 4)
#elif defined(__GNUC__)
#define FSM_UNROLL_SOME FSM_PRAGMA(GCC unroll 4)
#else
#define FSM_UNROLL_SOME
#endif

/* Before a loop whose iterations are independent, so that it is vectorised without a check. */
#if defined(__clang__)
#define FSM_INDEPENDENT FSM_PRAGMA(clang loop vectorize(assume_safety))
#elif defined(__GNUC__)
#define FSM_INDEPENDENT FSM_PRAGMA(GCC ivdep)
#else
#define FSM_INDEPENDENT
#endif

/* Copies an aligned cache line past the caches. A fence has to follow the last one. */
#if FSM_X86_64
#include <xmmintrin.h>
#define FSM_STREAM_LINE(to, from)                                                                  \
    do {                                                                                           \
        for (int part_ = 0; part_ < 16; part_ += 4) {                                              \
            _mm_stream_ps((float *)(to) + part_, _mm_load_ps((const float *)(from) + part_));      \
        }                                                                                          \
    } while (0)
#define FSM_STREAM_FENCE() _mm_sfence()
#else
#define FSM_STREAM_LINE(to, from) memcpy(to, from, 64)
#define FSM_STREAM_FENCE() ((void)0)
#endif

/* The exponential is inlined into the algorithms where a vector is a few registers, and called
 * where it is loops (the generic unit), which keeps that unit's code and build time small. */
#if defined(FSM_CORE_CALLED)
#define FSM_CORE FSM_NOINLINE
#else
#define FSM_CORE FSM_INLINE
#endif

/* Around a unit for a wider instruction set than the baseline. MSVC needs no switch. */
#if defined(__clang__)
#define FSM_TARGET_BEGIN(features)                                                                 \
    FSM_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FSM_TARGET_END FSM_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define FSM_TARGET_BEGIN(features)                                                                 \
    FSM_PRAGMA(GCC push_options)                                                                   \
    FSM_PRAGMA(GCC target(features))
#define FSM_TARGET_END FSM_PRAGMA(GCC pop_options)
#else
#define FSM_TARGET_BEGIN(features)
#define FSM_TARGET_END
#endif

#endif
