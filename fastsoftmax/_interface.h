/* The functions of include/fastsoftmax.h. */
#ifndef FSM_INTERFACE_H
#define FSM_INTERFACE_H

#include "kernels.h"

/* Chooses the kernels, before any of the functions is called; returns the fastsoftmax_functions
 * that the capsule holds. */
const void *fsm_interface(const fsm_kernels *chosen);

#endif
