/* Ends one inclusion of the algorithms (see unit.h). */
#undef REAL
#undef VEC
#undef LANES
#undef V
#undef F
#undef FC
#undef FMA
#undef BLOCK
#undef ROW
#undef CONST_ROW
