/* The floating-point control register, for tests that change it under the library's feet. A shared
 * library for ctypes. */
#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>

uint64_t get_control(void) {
    return _mm_getcsr();
}
void set_control(uint64_t value) {
    _mm_setcsr((unsigned)value);
}
#else
uint64_t get_control(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
void set_control(uint64_t value) {
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
}
#endif
