"""The C functions of the family for Cython: rows of numbers, without the GIL.

`import_fastsoftmax` is to be called once in a module that cimports this, at its top. The module is
compiled with ``include_dirs=[fastsoftmax.get_include()]``. What the functions take and return is
said in ``include/fastsoftmax.h``.
"""

from libc.stdint cimport int64_t

cdef extern from "fastsoftmax.h" nogil:
    int FASTSOFTMAX_ABI
    int FASTSOFTMAX_OK
    int FASTSOFTMAX_NO_MEMORY
    int FASTSOFTMAX_BAD_INDEX
    int FASTSOFTMAX_BAD_NUMBER
    int FASTSOFTMAX_NOT_IMPORTED
    int64_t FASTSOFTMAX_IGNORE_NONE

    int import_fastsoftmax "fastsoftmax_import"() except -1 with gil

    int softmax_f32 "fastsoftmax_softmax_f32"(
        const float *x, float *out, size_t rows, size_t length, double temperature) noexcept

    int log_softmax_f32 "fastsoftmax_log_softmax_f32"(
        const float *x, float *out, size_t rows, size_t length, double temperature) noexcept

    int logsumexp_f32 "fastsoftmax_logsumexp_f32"(
        const float *x, float *out, size_t rows, size_t length) noexcept

    int softmax_backward_f32 "fastsoftmax_softmax_backward_f32"(
        const float *grad_output, const float *output, float *out, size_t rows, size_t length
    ) noexcept

    int log_softmax_backward_f32 "fastsoftmax_log_softmax_backward_f32"(
        const float *grad_output, const float *output, float *out, size_t rows, size_t length
    ) noexcept

    int softmax_cross_entropy_f32 "fastsoftmax_softmax_cross_entropy_f32"(
        const float *logits, const int64_t *labels, const double *sample_weight, float *loss,
        float *grad, size_t rows, size_t length, int64_t ignore_index, double label_smoothing,
        double temperature) noexcept

    int softmax_cross_entropy_targets_f32 "fastsoftmax_softmax_cross_entropy_targets_f32"(
        const float *logits, const float *targets, const double *sample_weight, float *loss,
        float *grad, size_t rows, size_t length, double label_smoothing, double temperature
    ) noexcept

    int segment_softmax_f32 "fastsoftmax_segment_softmax_f32"(
        const float *data, const int64_t *indptr, float *out, size_t segments, size_t length,
        double temperature) noexcept

    int segment_log_softmax_f32 "fastsoftmax_segment_log_softmax_f32"(
        const float *data, const int64_t *indptr, float *out, size_t segments, size_t length,
        double temperature) noexcept

    int segment_logsumexp_f32 "fastsoftmax_segment_logsumexp_f32"(
        const float *data, const int64_t *indptr, float *out, size_t segments, size_t length
    ) noexcept

    int softmax_f64 "fastsoftmax_softmax_f64"(
        const double *x, double *out, size_t rows, size_t length, double temperature) noexcept

    int log_softmax_f64 "fastsoftmax_log_softmax_f64"(
        const double *x, double *out, size_t rows, size_t length, double temperature) noexcept

    int logsumexp_f64 "fastsoftmax_logsumexp_f64"(
        const double *x, double *out, size_t rows, size_t length) noexcept

    int softmax_backward_f64 "fastsoftmax_softmax_backward_f64"(
        const double *grad_output, const double *output, double *out, size_t rows, size_t length
    ) noexcept

    int log_softmax_backward_f64 "fastsoftmax_log_softmax_backward_f64"(
        const double *grad_output, const double *output, double *out, size_t rows, size_t length
    ) noexcept

    int softmax_cross_entropy_f64 "fastsoftmax_softmax_cross_entropy_f64"(
        const double *logits, const int64_t *labels, const double *sample_weight, double *loss,
        double *grad, size_t rows, size_t length, int64_t ignore_index, double label_smoothing,
        double temperature) noexcept

    int softmax_cross_entropy_targets_f64 "fastsoftmax_softmax_cross_entropy_targets_f64"(
        const double *logits, const double *targets, const double *sample_weight, double *loss,
        double *grad, size_t rows, size_t length, double label_smoothing, double temperature
    ) noexcept

    int segment_softmax_f64 "fastsoftmax_segment_softmax_f64"(
        const double *data, const int64_t *indptr, double *out, size_t segments, size_t length,
        double temperature) noexcept

    int segment_log_softmax_f64 "fastsoftmax_segment_log_softmax_f64"(
        const double *data, const int64_t *indptr, double *out, size_t segments, size_t length,
        double temperature) noexcept

    int segment_logsumexp_f64 "fastsoftmax_segment_logsumexp_f64"(
        const double *data, const int64_t *indptr, double *out, size_t segments, size_t length
    ) noexcept
