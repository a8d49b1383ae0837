/* x86-64 with avx512f, avx512dq, avx512bw, avx512vl, avx2, fma, f16c. */
#include "portable.h"

#if FSM_X86_64
#include <float.h>
#include <math.h>
#include <string.h>

FSM_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "vec_avx512.h"

/* A vector is one register (rows.h, columns.h, core_f64.h). */
#define FSM_ONE_REGISTER
/* Masking the operation that computes a vector costs nothing (core_f32.h). */
#define FSM_FREE_MASKS
#define FSM_UNIT avx512
#include "unit.h"
FSM_TARGET_END
#endif
