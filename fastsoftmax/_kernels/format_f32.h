/* float32, for a text that is included once for each format, until undefine.h: REAL is the element
 * type, BITS an unsigned integer of its size, VEC the vector type, LANES its width, COLUMNS the
 * elements of a row that load_group takes, V(operation) a vector operation, F(name) a name of this
 * format, FC(name) a constant of this format, FMA the scalar fma. */
#define REAL float
#define BITS uint32_t
#define VEC f32x16
#define LANES 16
#define COLUMNS 4
#define V(operation) f32x16_##operation
#define F(name) f32_##name
#define FC(name) F32_##name
#define FMA fmaf
