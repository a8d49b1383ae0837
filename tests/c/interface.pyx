# cython: language_level=3, boundscheck=False
"""A user's module: each function of the C interface over rows, called without the GIL."""

from cython cimport floating
from libc.stdint cimport int64_t

cimport fastsoftmax

fastsoftmax.import_fastsoftmax()

NONE = fastsoftmax.FASTSOFTMAX_IGNORE_NONE


def softmax(floating[:, ::1] x, floating[:, ::1] out, double temperature):
    cdef size_t rows = x.shape[0], n = x.shape[1]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.softmax_f32(&x[0, 0], &out[0, 0], rows, n, temperature)
        else:
            status = fastsoftmax.softmax_f64(&x[0, 0], &out[0, 0], rows, n, temperature)
    return status


def log_softmax(floating[:, ::1] x, floating[:, ::1] out, double temperature):
    cdef size_t rows = x.shape[0], n = x.shape[1]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.log_softmax_f32(&x[0, 0], &out[0, 0], rows, n, temperature)
        else:
            status = fastsoftmax.log_softmax_f64(&x[0, 0], &out[0, 0], rows, n, temperature)
    return status


def logsumexp(floating[:, ::1] x, floating[::1] out):
    cdef size_t rows = x.shape[0], n = x.shape[1]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.logsumexp_f32(&x[0, 0], &out[0], rows, n)
        else:
            status = fastsoftmax.logsumexp_f64(&x[0, 0], &out[0], rows, n)
    return status


def softmax_backward(floating[:, ::1] g, floating[:, ::1] y, floating[:, ::1] out):
    cdef size_t rows = g.shape[0], n = g.shape[1]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.softmax_backward_f32(&g[0, 0], &y[0, 0], &out[0, 0], rows, n)
        else:
            status = fastsoftmax.softmax_backward_f64(&g[0, 0], &y[0, 0], &out[0, 0], rows, n)
    return status


def log_softmax_backward(floating[:, ::1] g, floating[:, ::1] y, floating[:, ::1] out):
    cdef size_t rows = g.shape[0], n = g.shape[1]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.log_softmax_backward_f32(&g[0, 0], &y[0, 0], &out[0, 0], rows, n)
        else:
            status = fastsoftmax.log_softmax_backward_f64(&g[0, 0], &y[0, 0], &out[0, 0], rows, n)
    return status


def softmax_cross_entropy(
    floating[:, ::1] x, int64_t[::1] labels, double[::1] weights, floating[::1] loss,
    floating[:, ::1] grad, int64_t ignored, double smoothing, double temperature
):
    cdef size_t rows = x.shape[0], n = x.shape[1]
    cdef const double *w = NULL if weights is None else &weights[0]
    cdef floating *g = NULL if grad is None else &grad[0, 0]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.softmax_cross_entropy_f32(
                &x[0, 0], &labels[0], w, &loss[0], g, rows, n, ignored, smoothing, temperature)
        else:
            status = fastsoftmax.softmax_cross_entropy_f64(
                &x[0, 0], &labels[0], w, &loss[0], g, rows, n, ignored, smoothing, temperature)
    return status


def softmax_cross_entropy_targets(
    floating[:, ::1] x, floating[:, ::1] targets, double[::1] weights, floating[::1] loss,
    floating[:, ::1] grad, double smoothing, double temperature
):
    cdef size_t rows = x.shape[0], n = x.shape[1]
    cdef const double *w = NULL if weights is None else &weights[0]
    cdef floating *g = NULL if grad is None else &grad[0, 0]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.softmax_cross_entropy_targets_f32(
                &x[0, 0], &targets[0, 0], w, &loss[0], g, rows, n, smoothing, temperature)
        else:
            status = fastsoftmax.softmax_cross_entropy_targets_f64(
                &x[0, 0], &targets[0, 0], w, &loss[0], g, rows, n, smoothing, temperature)
    return status


def segment_softmax(floating[::1] x, int64_t[::1] indptr, floating[::1] out, double temperature):
    cdef size_t segments = indptr.shape[0] - 1, n = x.shape[0]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.segment_softmax_f32(
                &x[0], &indptr[0], &out[0], segments, n, temperature)
        else:
            status = fastsoftmax.segment_softmax_f64(
                &x[0], &indptr[0], &out[0], segments, n, temperature)
    return status


def segment_log_softmax(
    floating[::1] x, int64_t[::1] indptr, floating[::1] out, double temperature
):
    cdef size_t segments = indptr.shape[0] - 1, n = x.shape[0]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.segment_log_softmax_f32(
                &x[0], &indptr[0], &out[0], segments, n, temperature)
        else:
            status = fastsoftmax.segment_log_softmax_f64(
                &x[0], &indptr[0], &out[0], segments, n, temperature)
    return status


def segment_logsumexp(floating[::1] x, int64_t[::1] indptr, floating[::1] out):
    cdef size_t segments = indptr.shape[0] - 1, n = x.shape[0]
    cdef int status
    with nogil:
        if floating is float:
            status = fastsoftmax.segment_logsumexp_f32(&x[0], &indptr[0], &out[0], segments, n)
        else:
            status = fastsoftmax.segment_logsumexp_f64(&x[0], &indptr[0], &out[0], segments, n)
    return status
