/* fma() as some C libraries have it: computed in a wider format, and rounded once more. A library
 * to preload. */
double fma(double a, double b, double c) {
    return (double)((long double)a * b + c);
}

float fmaf(float a, float b, float c) {
    return (float)((double)a * b + c);
}
