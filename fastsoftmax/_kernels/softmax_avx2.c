/* x86-64 with avx2, fma, f16c. */
#include "portable.h"

#if FSM_X86_64
#include <float.h>
#include <math.h>
#include <string.h>

FSM_TARGET_BEGIN("avx2,fma,f16c")
#include "vec_avx2.h"

#define FSM_UNIT avx2
#include "unit.h"
FSM_TARGET_END
#endif
