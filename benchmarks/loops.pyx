# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A user's loops over rows: by fastsoftmax's C function, and by the textbook's three passes."""

cimport fastsoftmax
from libc.math cimport expf

fastsoftmax.import_fastsoftmax()


def each_row(const float[:, ::1] x, float[:, ::1] out):
    """Write the softmax of each row."""
    cdef size_t i, n = x.shape[1]
    cdef int status = 0
    with nogil:
        for i in range(<size_t>x.shape[0]):
            status |= fastsoftmax.softmax_f32(&x[i, 0], &out[i, 0], 1, n, 1.0)
    if status != fastsoftmax.FASTSOFTMAX_OK:
        raise MemoryError


def textbook(const float[:, ::1] x, float[:, ::1] out):
    """Write the softmax of each row."""
    cdef Py_ssize_t i, j
    cdef float largest, total
    with nogil:
        for i in range(x.shape[0]):
            largest = x[i, 0]
            for j in range(1, x.shape[1]):
                largest = max(largest, x[i, j])
            total = 0
            for j in range(x.shape[1]):
                out[i, j] = expf(x[i, j] - largest)
                total += out[i, j]
            for j in range(x.shape[1]):
                out[i, j] /= total
