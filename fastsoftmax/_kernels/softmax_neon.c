/* Advanced SIMD, the baseline of AArch64. */
#include "portable.h"

#if FSM_AARCH64
#include "vec_neon.h"

#define FSM_UNIT neon
#include "unit.h"
#endif
