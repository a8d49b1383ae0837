/* Ends one inclusion of the algorithms (see unit.h). */
#undef REAL
#undef VEC
#undef LANES
#undef COLUMNS
#undef V
#undef F
#undef FC
#undef FMA
#undef BLOCK
#undef CHUNK
#undef GROUP
#undef GROUP_BYTES
#undef ROW
#undef CONST_ROW
#undef SHORT
#undef ALL_LANES
#undef SPAN
