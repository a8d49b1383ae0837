/* fastsoftmax for C and Cython: the family over contiguous rows, without Python.
 *
 *     if (fastsoftmax_import() < 0) {
 *         return NULL;  // an ImportError is set: put this where your module is initialised
 *     }
 *     int status = fastsoftmax_softmax_f32(x, out, rows, length, 1.0);
 *
 * Each source file that calls these functions imports them for itself. They are called without a
 * lock of any kind: the GIL is not needed, from any number of threads. The kernels are those that
 * the Python functions use, and so are the bits, whatever the caller's floating-point environment.
 *
 * Names end in _f32 for float and in _f64 for double (`real` below). `rows` rows of `length`
 * elements lie one after the other, without gaps; no pointer needs more alignment than its type.
 * A result may be written over the input of the same shape, element for element; other memory must
 * not overlap with results. Rows are computed in the calling thread.
 *
 *     softmax, log_softmax(x, out, rows, length, temperature)
 *     logsumexp(x, out, rows, length)                            out: one a row
 *     softmax_backward, log_softmax_backward(grad_output, output, out, rows, length)
 *     softmax_cross_entropy(logits, labels, sample_weight, loss, grad, rows, length, ignore_index,
 *                           label_smoothing, temperature)        labels, sample_weight, loss: one a
 *                                                                row; grad may be logits
 *     softmax_cross_entropy_targets(logits, targets, ...)        the same of probabilities, one for
 *                                                                each logit
 *     segment_softmax, segment_log_softmax(data, indptr, out, segments, length, temperature)
 *     segment_logsumexp(data, indptr, out, segments, length)     indptr: segments + 1 row pointers
 *                                                                into data, of `length` elements
 *
 * sample_weight and grad may be NULL, ignore_index FASTSOFTMAX_IGNORE_NONE. The arguments mean what
 * the Python functions' documentation says.
 *
 * This interface is stable. Functions are added at the end of the structure; what is here keeps its
 * meaning for as long as FASTSOFTMAX_ABI is the same. A module that was compiled with this header
 * works with every fastsoftmax of the same FASTSOFTMAX_ABI that is not older. */
#ifndef FASTSOFTMAX_H
#define FASTSOFTMAX_H

#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#define FASTSOFTMAX_ABI 1

/* What the functions return. */
enum fastsoftmax_status {
    FASTSOFTMAX_OK = 0,
    /* No memory for scratch, which only calls on rows of several kilobytes need. Nothing has been
     * written. */
    FASTSOFTMAX_NO_MEMORY = 1,
    /* A label or row pointer is out of range. Nothing has been written. */
    FASTSOFTMAX_BAD_INDEX = 2,
    /* A temperature that is not finite and above 0, a label_smoothing that is not from 0 to 1, or a
     * sample weight that is not finite. Nothing has been written. */
    FASTSOFTMAX_BAD_NUMBER = 3,
    /* fastsoftmax_import was not called in this source file, or failed. */
    FASTSOFTMAX_NOT_IMPORTED = 4
};

/* No row is ignored. */
#define FASTSOFTMAX_IGNORE_NONE INT64_MIN

#define FASTSOFTMAX_MEMBERS_(real, suffix)                                                         \
    int (*softmax_##suffix)(const real *x, real *out, size_t rows, size_t length,                  \
                            double temperature);                                                   \
    int (*log_softmax_##suffix)(const real *x, real *out, size_t rows, size_t length,              \
                                double temperature);                                               \
    int (*logsumexp_##suffix)(const real *x, real *out, size_t rows, size_t length);               \
    int (*softmax_backward_##suffix)(const real *grad_output, const real *output, real *out,       \
                                     size_t rows, size_t length);                                  \
    int (*log_softmax_backward_##suffix)(const real *grad_output, const real *output, real *out,   \
                                         size_t rows, size_t length);                              \
    int (*softmax_cross_entropy_##suffix)(const real *logits, const int64_t *labels,               \
                                          const double *sample_weight, real *loss, real *grad,     \
                                          size_t rows, size_t length, int64_t ignore_index,        \
                                          double label_smoothing, double temperature);             \
    int (*softmax_cross_entropy_targets_##suffix)(                                                 \
        const real *logits, const real *targets, const double *sample_weight, real *loss,          \
        real *grad, size_t rows, size_t length, double label_smoothing, double temperature);       \
    int (*segment_softmax_##suffix)(const real *data, const int64_t *indptr, real *out,            \
                                    size_t segments, size_t length, double temperature);           \
    int (*segment_log_softmax_##suffix)(const real *data, const int64_t *indptr, real *out,        \
                                        size_t segments, size_t length, double temperature);       \
    int (*segment_logsumexp_##suffix)(const real *data, const int64_t *indptr, real *out,          \
                                      size_t segments, size_t length);

/* What the capsule holds. */
typedef struct {
    uint32_t abi;  /* FASTSOFTMAX_ABI of the package */
    uint32_t size; /* bytes of its structure */
    FASTSOFTMAX_MEMBERS_(float, f32)
    FASTSOFTMAX_MEMBERS_(double, f64)
} fastsoftmax_functions;

#define FASTSOFTMAX_CAPSULE "fastsoftmax.functions"

#ifndef FASTSOFTMAX_ONLY_TYPES

static const fastsoftmax_functions *fastsoftmax_imported = NULL;

/* Imports the package; call it with the GIL, before any other function. Returns 0, or -1 with an
 * ImportError: there is no fastsoftmax, or one without compiled kernels, or with another version of
 * this interface. */
static inline int fastsoftmax_import(void) {
    PyObject *module = PyImport_ImportModule("fastsoftmax._interface");
    PyObject *capsule = module ? PyObject_CallMethod(module, "capsule", NULL) : NULL;
    const fastsoftmax_functions *found = NULL;
    if (capsule) {
        found = (const fastsoftmax_functions *)PyCapsule_GetPointer(capsule, FASTSOFTMAX_CAPSULE);
    }
    if (found && (found->abi != FASTSOFTMAX_ABI || found->size < sizeof *found)) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %d of fastsoftmax's C interface (%d "
                     "bytes), and the fastsoftmax that is installed has version %d (%d bytes): "
                     "install the fastsoftmax that it was compiled for, or compile it again",
                     FASTSOFTMAX_ABI, (int)sizeof *found, (int)found->abi, (int)found->size);
        found = NULL;
    }
    Py_XDECREF(capsule); /* the package keeps it */
    Py_XDECREF(module);
    if (found) {
        fastsoftmax_imported = found;
    }
    return found ? 0 : -1;
}

#define FASTSOFTMAX_CALL_(function, ...)                                                           \
    (fastsoftmax_imported ? fastsoftmax_imported->function(__VA_ARGS__)                            \
                          : (int)FASTSOFTMAX_NOT_IMPORTED)

#define FASTSOFTMAX_DEFINE_(real, suffix)                                                          \
    static inline int fastsoftmax_softmax_##suffix(const real *x, real *out, size_t rows,          \
                                                   size_t length, double temperature) {            \
        return FASTSOFTMAX_CALL_(softmax_##suffix, x, out, rows, length, temperature);             \
    }                                                                                              \
    static inline int fastsoftmax_log_softmax_##suffix(const real *x, real *out, size_t rows,      \
                                                       size_t length, double temperature) {        \
        return FASTSOFTMAX_CALL_(log_softmax_##suffix, x, out, rows, length, temperature);         \
    }                                                                                              \
    static inline int fastsoftmax_logsumexp_##suffix(const real *x, real *out, size_t rows,        \
                                                     size_t length) {                              \
        return FASTSOFTMAX_CALL_(logsumexp_##suffix, x, out, rows, length);                        \
    }                                                                                              \
    static inline int fastsoftmax_softmax_backward_##suffix(                                       \
        const real *grad_output, const real *output, real *out, size_t rows, size_t length) {      \
        return FASTSOFTMAX_CALL_(softmax_backward_##suffix, grad_output, output, out, rows,        \
                                 length);                                                          \
    }                                                                                              \
    static inline int fastsoftmax_log_softmax_backward_##suffix(                                   \
        const real *grad_output, const real *output, real *out, size_t rows, size_t length) {      \
        return FASTSOFTMAX_CALL_(log_softmax_backward_##suffix, grad_output, output, out, rows,    \
                                 length);                                                          \
    }                                                                                              \
    static inline int fastsoftmax_softmax_cross_entropy_##suffix(                                  \
        const real *logits, const int64_t *labels, const double *sample_weight, real *loss,        \
        real *grad, size_t rows, size_t length, int64_t ignore_index, double label_smoothing,      \
        double temperature) {                                                                      \
        return FASTSOFTMAX_CALL_(softmax_cross_entropy_##suffix, logits, labels, sample_weight,    \
                                 loss, grad, rows, length, ignore_index, label_smoothing,          \
                                 temperature);                                                     \
    }                                                                                              \
    static inline int fastsoftmax_softmax_cross_entropy_targets_##suffix(                          \
        const real *logits, const real *targets, const double *sample_weight, real *loss,          \
        real *grad, size_t rows, size_t length, double label_smoothing, double temperature) {      \
        return FASTSOFTMAX_CALL_(softmax_cross_entropy_targets_##suffix, logits, targets,          \
                                 sample_weight, loss, grad, rows, length, label_smoothing,         \
                                 temperature);                                                     \
    }                                                                                              \
    static inline int fastsoftmax_segment_softmax_##suffix(                                        \
        const real *data, const int64_t *indptr, real *out, size_t segments, size_t length,        \
        double temperature) {                                                                      \
        return FASTSOFTMAX_CALL_(segment_softmax_##suffix, data, indptr, out, segments, length,    \
                                 temperature);                                                     \
    }                                                                                              \
    static inline int fastsoftmax_segment_log_softmax_##suffix(                                    \
        const real *data, const int64_t *indptr, real *out, size_t segments, size_t length,        \
        double temperature) {                                                                      \
        return FASTSOFTMAX_CALL_(segment_log_softmax_##suffix, data, indptr, out, segments,        \
                                 length, temperature);                                             \
    }                                                                                              \
    static inline int fastsoftmax_segment_logsumexp_##suffix(                                      \
        const real *data, const int64_t *indptr, real *out, size_t segments, size_t length) {      \
        return FASTSOFTMAX_CALL_(segment_logsumexp_##suffix, data, indptr, out, segments, length); \
    }

FASTSOFTMAX_DEFINE_(float, f32)
FASTSOFTMAX_DEFINE_(double, f64)

#endif
#endif
