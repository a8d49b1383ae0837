/* Portable C: any CPU. */
#include "portable.h"
#include "vec_generic.h"

#define FSM_UNIT generic
#include "unit.h"
