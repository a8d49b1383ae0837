/* float64: as format_f32.h. */
#define REAL double
#define BITS uint64_t
#define VEC f64x8
#define LANES 8
#define COLUMNS 2
#define V(operation) f64x8_##operation
#define F(name) f64_##name
#define FC(name) F64_##name
#define FMA fma
