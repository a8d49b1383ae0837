/* Portable C: any CPU. */
#define FSM_CORE_CALLED
#include "portable.h"
#include "vec_generic.h"

#define FSM_UNIT generic
#include "unit.h"
