# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
# cython: auto_pickle=False
"""Bindings of the C kernels, and the fast lane.

Knows arrays and calls; what is valid, what is converted and which kernels are the default is
decided elsewhere.
"""

from cpython.mem cimport PyMem_Malloc, PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, intptr_t, uint64_t

cimport cython
cimport numpy as cnp

import importlib
import inspect
import os

import numpy as np

from fastsoftmax import _workers

cnp.import_array()

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        const char *ml_name
        void *ml_meth
        int ml_flags
        const char *ml_doc
    int METH_FASTCALL
    int METH_KEYWORDS
    object PyCFunction_NewEx(PyMethodDef *definition, PyObject *self, PyObject *module)
    object PyObject_Vectorcall(
        PyObject *callable, PyObject *const *arguments, size_t count, PyObject *keywords
    )
    int PyLong_CheckExact(PyObject *o)
    int PyFloat_CheckExact(PyObject *o)
    double PyFloat_AS_DOUBLE(PyObject *o)
    long PyLong_AsLong(PyObject *o) except? -1
    int PyUnicode_Compare(PyObject *left, PyObject *right) except? -1
    PyObject *PyTuple_GET_ITEM(PyObject *o, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *o)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject:
        pass
    ctypedef struct PyArray_Descr:
        pass
    ctypedef struct PyTypeObject:
        pass
    PyTypeObject PyArray_Type
    int PyArray_CheckExact(PyObject *o)
    int PyArray_FLAGS(PyArrayObject *o)
    int PyArray_NDIM(PyArrayObject *o)
    cnp.npy_intp *PyArray_DIMS(PyArrayObject *o)
    void *PyArray_DATA(PyArrayObject *o)
    cnp.npy_intp PyArray_SIZE(PyArrayObject *o)
    int PyArray_TYPE(PyArrayObject *o)
    bint PyArray_ISNOTSWAPPED(PyArrayObject *o)
    PyArray_Descr *PyArray_DescrFromType(int number)
    object PyArray_NewFromDescr(
        PyTypeObject *subtype, PyArray_Descr *descr, int nd, const cnp.npy_intp *dims,
        const cnp.npy_intp *strides, void *data, int flags, PyObject *obj
    )

cdef extern from "kernels.h" nogil:
    ctypedef struct fsm_temperature:
        int tempered
    ctypedef struct fsm_rows:
        size_t rows
        size_t n
        const void *x
        const void *y
        void *out
        ptrdiff_t x_stride
        ptrdiff_t y_stride
        ptrdiff_t out_stride
        fsm_temperature temperature
        int far
        void *scratch
    ctypedef struct fsm_cross_entropy:
        size_t rows
        size_t n
        const void *x
        ptrdiff_t x_stride
        const intptr_t *label
        const void *target
        ptrdiff_t target_stride
        double smoothing
        void *loss
        void *grad
        ptrdiff_t grad_stride
    ctypedef void fsm_rows_function(const fsm_rows *batch)
    ctypedef void fsm_cross_entropy_function(const fsm_cross_entropy *batch)
    enum fsm_function:
        FSM_SOFTMAX
        FSM_LOG_SOFTMAX
        FSM_LOGSUMEXP
        FSM_SOFTMAX_BACKWARD
        FSM_LOG_SOFTMAX_BACKWARD
    enum fsm_dtype:
        FSM_F32
        FSM_F64
        FSM_F16
        FSM_BF16
    ctypedef struct fsm_kernels:
        const char *name
        fsm_rows_function *rows[5][2]
        fsm_cross_entropy_function *cross_entropy[2]
    size_t fsm_compiled(const fsm_kernels *const **tables)
    int fsm_supported(const fsm_kernels *kernels)
    void fsm_detect()
    uint64_t fsm_enter()
    void fsm_leave(uint64_t saved)

cdef extern from "arrays.h" nogil:
    ctypedef struct fsm_operand:
        char *base
        ptrdiff_t outer[64]
        ptrdiff_t inner[64]
    ctypedef struct fsm_job:
        const fsm_kernels *kernels
        fsm_function function
        fsm_dtype dtype
        int outer_dimensions
        int inner_dimensions
        size_t outer_shape[64]
        size_t inner_shape[64]
        fsm_operand x
        fsm_operand y
        fsm_operand mask
        fsm_operand out
        fsm_temperature temperature
        size_t least
    size_t fsm_prepare(fsm_job *job)
    int fsm_run_job(const void *job, size_t first, size_t last)
    ctypedef struct fsm_batch:
        const fsm_kernels *kernels
        fsm_function function
        fsm_dtype dtype
        int fresh
        fsm_rows rows
    int fsm_run_batch(const void *batch, size_t first, size_t last)
    ctypedef struct fsm_entropies:
        const fsm_kernels *kernels
        fsm_dtype dtype
        fsm_cross_entropy batch
    int fsm_run_entropies(const void *entropies, size_t first, size_t last)
    ctypedef struct fsm_segments:
        const fsm_kernels *kernels
        fsm_dtype dtype
        const int64_t *pointers
        const void *x
        void *out
    int fsm_run_segments(const void *segments, size_t first, size_t last)
    fsm_temperature fsm_make_temperature(double temperature, fsm_dtype dtype)

cdef extern from "shared.h" nogil:
    ctypedef int fsm_part_function(const void *work, size_t first, size_t last)
    ctypedef struct fsm_shared:
        size_t failed
    void fsm_share(
        fsm_shared *shared, fsm_part_function *run, const void *work, size_t items,
        size_t least, size_t elements, size_t threads
    )
    void fsm_work(fsm_shared *shared, size_t thread)

cdef extern from "portable.h" nogil:
    size_t FSM_EXCHANGE(size_t *at, size_t value)
    int FSM_COMPARE_EXCHANGE(size_t *at, size_t old, size_t new)
    void FSM_PAUSE()

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    void PyThread_release_lock(PyThread_type_lock lock)
    void PyThread_free_lock(PyThread_type_lock lock)

cdef extern from *:
    """
    #if defined(__clang__)
    #define FSM_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FSM_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define FSM_STRING_(a) #a
    #define FSM_STRING(a) FSM_STRING_(a)
    #define FSM_COMPILER "msvc " FSM_STRING(_MSC_VER)
    #else
    #define FSM_COMPILER "unknown"
    #endif
    """
    const char *FSM_COMPILER

# Releasing and taking the GIL costs some 50 ns; from this many elements on (about 1 us of work)
# others gain more.
cdef enum:
    RELEASE_GIL_FROM = 8192


# Smaller work is not worth asking how many workers there may be.
cdef size_t MIN_TO_SHARE = 2 * _workers.MIN_ELEMENTS

fsm_detect()


def compiled():
    """Names of the instruction sets this extension holds kernels for, best first."""
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    return tuple([tables[i].name.decode() for i in range(count)])


def available():
    """Names of the instruction sets that this CPU and operating system can run, best first."""
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    return tuple([tables[i].name.decode() for i in range(count) if fsm_supported(tables[i])])


def compiler():
    """The compiler that built the extension, with its version."""
    return FSM_COMPILER.decode()


cdef const fsm_kernels *find_kernels(str name) except NULL:
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    for i in range(count):
        if tables[i].name.decode() == name and fsm_supported(tables[i]):
            return tables[i]
    raise ValueError(f"no kernels for {name!r} on this CPU; available: {', '.join(available())}")


cdef fsm_dtype dtype_of(cnp.ndarray a) except *:
    cdef int number = a.descr.type_num
    if number == cnp.NPY_FLOAT32:
        return FSM_F32
    if number == cnp.NPY_FLOAT64:
        return FSM_F64
    if number == cnp.NPY_FLOAT16:
        return FSM_F16
    if a.dtype.name == "bfloat16":
        return FSM_BF16
    raise TypeError(f"no kernels for dtype {a.dtype}")


cdef void set_operand(fsm_operand *operand, cnp.ndarray a, int outer, int inner) noexcept:
    cdef int d
    operand.base = cnp.PyArray_BYTES(a)
    for d in range(outer):
        operand.outer[d] = a.strides[d]
    for d in range(inner):
        operand.inner[d] = a.strides[outer + d]


# ---- threads ----

# What a helper does: waits; is called; takes parts; and so, while the caller waits for its end.
cdef enum:
    IDLE
    CALLED
    WORKING
    AWAITED
    # The caller first waits awake, for some 50 us: to be woken takes as long.
    PAUSES = 2000

cdef struct helper:
    size_t state
    fsm_shared *shared  # what it is called for
    size_t thread  # and as which of its threads
    PyThread_type_lock called  # released at each call
    PyThread_type_lock ended  # released at the end of work that is awaited
    helper *next  # of those called together


@cython.final
cdef class _Helper:
    """A thread that waits, without the GIL, to be called to work that is shared.

    It never takes the GIL again, so that a call costs no more than waking it, and it needs no end:
    it is a daemon.
    """

    cdef helper *helper  # not freed once there is a thread, which outlives all that could do it

    def __init__(self):
        import threading  # not at the package's import, which it would make half as long again

        self.helper = <helper *>PyMem_RawMalloc(sizeof(helper))
        if self.helper is NULL:
            raise MemoryError
        self.helper.state = IDLE
        self.helper.called = PyThread_allocate_lock()
        self.helper.ended = PyThread_allocate_lock()
        if self.helper.called is NULL or self.helper.ended is NULL:
            raise MemoryError
        PyThread_acquire_lock(self.helper.called, 1)
        PyThread_acquire_lock(self.helper.ended, 1)
        try:
            threading.Thread(target=self.serve, name="fastsoftmax", daemon=True).start()
        except RuntimeError:  # no thread was to be had
            PyThread_release_lock(self.helper.called)
            PyThread_release_lock(self.helper.ended)
            PyThread_free_lock(self.helper.called)
            PyThread_free_lock(self.helper.ended)
            PyMem_RawFree(self.helper)
            raise

    def serve(self):
        cdef helper *h = self.helper
        with nogil:
            while True:
                PyThread_acquire_lock(h.called, 1)
                if FSM_COMPARE_EXCHANGE(&h.state, CALLED, WORKING):  # else dismissed meanwhile
                    fsm_work(h.shared, h.thread)
                    if FSM_EXCHANGE(&h.state, IDLE) == AWAITED:
                        PyThread_release_lock(h.ended)


cdef void call(helper *h, fsm_shared *shared) noexcept nogil:
    h.shared = shared
    FSM_EXCHANGE(&h.state, CALLED)
    PyThread_release_lock(h.called)


cdef void dismiss(helper *h) noexcept nogil:
    """Return once the helper neither does nor will do anything for this call."""
    if FSM_COMPARE_EXCHANGE(&h.state, CALLED, IDLE):
        return
    for _ in range(PAUSES):
        if FSM_COMPARE_EXCHANGE(&h.state, IDLE, IDLE):
            return
        FSM_PAUSE()
    if FSM_COMPARE_EXCHANGE(&h.state, WORKING, AWAITED):
        PyThread_acquire_lock(h.ended, 1)


cdef list idle_helpers = []

if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=idle_helpers.clear)  # threads do not survive it


cdef list engage(int count):
    """So many helpers, or as many as there are threads to be had."""
    cdef list engaged = []
    try:
        while len(engaged) < count:
            try:
                engaged.append(idle_helpers.pop())
            except IndexError:
                engaged.append(_Helper())
    except RuntimeError:
        pass
    return engaged


cdef run_parts(
    fsm_part_function *run, const void *work, size_t items, size_t least, size_t elements,
    int threads
):
    """Run all of some work, in this thread and `threads` - 1 others."""
    cdef int status
    cdef fsm_shared shared
    cdef list engaged
    cdef helper *first = NULL
    cdef helper *h
    if threads > 1 and items > 1:
        fsm_share(&shared, run, work, items, least, elements, threads)
        engaged = engage(threads - 1)
        for i, each in enumerate(engaged):
            h = (<_Helper>each).helper
            h.thread = i + 1
            h.next = first
            first = h
        with nogil:
            h = first
            while h is not NULL:
                call(h, &shared)
                h = h.next
            fsm_work(&shared, 0)
            h = first
            while h is not NULL:
                dismiss(h)
                h = h.next
        idle_helpers.extend(reversed(engaged))  # to be what they were at the next call
        status = -<int>(shared.failed > 0)
    elif elements >= RELEASE_GIL_FROM:
        with nogil:
            status = run(work, 0, items)
    else:
        status = run(work, 0, items)
    if status:
        raise MemoryError("no memory for the scratch rows")


# ---- the backend ----

@cython.final
cdef class NativeBackend:
    """The kernels of one instruction set; `fastsoftmax._backend.Backend` is the protocol."""

    cdef const fsm_kernels *kernels
    cdef readonly str name

    def __init__(self, str name):
        self.kernels = find_kernels(name)
        self.name = name

    def __repr__(self):
        return f"NativeBackend({self.name!r})"

    cdef run(self, fsm_function function, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, int k,
             cnp.ndarray where, double temperature, int threads):
        cdef fsm_job job
        cdef int d, outer = x.ndim - k
        cdef size_t items
        job.kernels = self.kernels
        job.function = function
        job.dtype = dtype_of(x)
        job.outer_dimensions = outer
        job.inner_dimensions = k
        for d in range(outer):
            job.outer_shape[d] = x.shape[d]
        for d in range(k):
            job.inner_shape[d] = x.shape[outer + d]
        set_operand(&job.x, x, outer, k)
        set_operand(&job.out, out, outer, 0 if function == FSM_LOGSUMEXP else k)
        job.y.base = NULL
        job.mask.base = NULL
        if y is not None:
            set_operand(&job.y, y, outer, k)
        if where is not None:
            set_operand(&job.mask, where, outer, k)
        job.temperature = fsm_make_temperature(temperature, job.dtype)
        items = fsm_prepare(&job)
        run_parts(fsm_run_job, &job, items, job.least, cnp.PyArray_SIZE(x), threads)

    def softmax(self, x, out, int k, where, double temperature, int threads):
        self.run(FSM_SOFTMAX, x, None, out, k, where, temperature, threads)

    def log_softmax(self, x, out, int k, where, double temperature, int threads):
        self.run(FSM_LOG_SOFTMAX, x, None, out, k, where, temperature, threads)

    def logsumexp(self, x, out, int k, where, int threads):
        self.run(FSM_LOGSUMEXP, x, None, out, k, where, 1.0, threads)

    def softmax_backward(self, grad_output, output, out, int k, int threads):
        self.run(FSM_SOFTMAX_BACKWARD, grad_output, output, out, k, None, 1.0, threads)

    def log_softmax_backward(self, grad_output, output, out, int k, int threads):
        self.run(FSM_LOG_SOFTMAX_BACKWARD, grad_output, output, out, k, None, 1.0, threads)

    def softmax_cross_entropy(
        self, logits, labels, loss, grad, double label_smoothing, int threads
    ):
        computing = np.float64 if logits.dtype == np.float64 else np.float32
        cdef cnp.ndarray x = np.ascontiguousarray(logits, dtype=computing)
        cdef cnp.ndarray given, losses, gradient = None
        cdef bint indices = labels.dtype.kind in "iu"
        given = np.ascontiguousarray(labels, dtype=np.intp if indices else computing)
        losses = loss if loss.dtype == computing and loss.flags.c_contiguous else (
            np.empty(loss.shape, computing))
        if grad is not None:
            gradient = grad if grad.dtype == computing and grad.flags.c_contiguous else (
                np.empty(grad.shape, computing))
        cdef fsm_entropies entropies
        cdef fsm_cross_entropy *batch = &entropies.batch
        entropies.kernels = self.kernels
        entropies.dtype = dtype_of(x)
        cdef ptrdiff_t row = x.shape[x.ndim - 1] * (8 if entropies.dtype == FSM_F64 else 4)
        batch.n = x.shape[x.ndim - 1]
        batch.rows = cnp.PyArray_SIZE(x) // batch.n
        batch.x = cnp.PyArray_DATA(x)
        batch.x_stride = batch.target_stride = batch.grad_stride = row
        batch.label = <const intptr_t *>cnp.PyArray_DATA(given) if indices else NULL
        batch.target = NULL if indices else cnp.PyArray_DATA(given)
        batch.smoothing = label_smoothing
        batch.loss = cnp.PyArray_DATA(losses)
        batch.grad = cnp.PyArray_DATA(gradient) if gradient is not None else NULL
        run_parts(
            fsm_run_entropies, &entropies, batch.rows, 1, cnp.PyArray_SIZE(x), threads)
        with np.errstate(all="ignore"):
            if losses is not loss:
                loss[...] = losses
            if gradient is not grad:
                grad[...] = gradient

    def segment_softmax(self, data, indptr, out, int threads):
        computing = np.float64 if data.dtype == np.float64 else np.float32
        cdef cnp.ndarray x = np.ascontiguousarray(data, dtype=computing)
        cdef cnp.ndarray pointers = np.ascontiguousarray(indptr, dtype=np.int64)
        cdef cnp.ndarray result = out if out.dtype == computing and out.flags.c_contiguous else (
            np.empty(out.shape, computing))
        cdef fsm_segments segments
        segments.kernels = self.kernels
        segments.dtype = dtype_of(x)
        segments.pointers = <const int64_t *>cnp.PyArray_DATA(pointers)
        segments.x = cnp.PyArray_DATA(x)
        segments.out = cnp.PyArray_DATA(result)
        run_parts(
            fsm_run_segments, &segments, pointers.shape[0] - 1, 1, cnp.PyArray_SIZE(x), threads)
        if result is not out:
            with np.errstate(all="ignore"):
                out[...] = result

    def fast_lane(self, str name, general, threads_for):
        """Return a C function that runs the plain call by itself; `general` gets every other."""
        return _Lane(self, name, general, threads_for).function()


@cython.final
cdef class _Lane:
    """What one fast lane needs: bound as the ``self`` of a C function."""

    cdef NativeBackend backend
    cdef fsm_function operation
    cdef object general, threads_for
    cdef str name

    def __init__(self, NativeBackend backend, str name, general, threads_for):
        self.backend = backend
        self.operation = {
            "softmax": FSM_SOFTMAX, "log_softmax": FSM_LOG_SOFTMAX, "logsumexp": FSM_LOGSUMEXP
        }[name]
        self.name = name
        self.general = general
        self.threads_for = threads_for

    def __reduce__(self):
        # Pickle looks a C function up by name on its self: let that be the package.
        return importlib.import_module, ("fastsoftmax",)

    cdef function(self):
        # Never freed: a C function refers to its definition for as long as it lives.
        cdef PyMethodDef *definition = <PyMethodDef *>PyMem_Malloc(sizeof(PyMethodDef))
        if definition is NULL:
            raise MemoryError
        parameters = [
            p.replace(annotation=inspect.Parameter.empty)
            for p in inspect.signature(self.general).parameters.values()
        ]
        # The form that inspect reads the signature of a C function from.
        text = f"{self.name}{inspect.Signature(parameters)}\n--\n\n{inspect.getdoc(self.general)}"
        name_bytes = self.name.encode()
        text_bytes = text.encode()
        Py_INCREF(name_bytes)
        Py_INCREF(text_bytes)
        definition.ml_name = <const char *>name_bytes
        definition.ml_doc = <const char *>text_bytes
        definition.ml_meth = <void *>lane_call
        definition.ml_flags = METH_FASTCALL | METH_KEYWORDS
        module = "fastsoftmax"
        return PyCFunction_NewEx(definition, <PyObject *>self, <PyObject *>module)


cdef object OUT = "out"
cdef object AXIS = "axis"
cdef object TEMPERATURE = "temperature"
cdef object WORKERS = "workers"
cdef PyArray_Descr *FLOAT32 = PyArray_DescrFromType(cnp.NPY_FLOAT32)
cdef PyArray_Descr *FLOAT64 = PyArray_DescrFromType(cnp.NPY_FLOAT64)
cdef fsm_temperature UNTEMPERED = fsm_make_temperature(1.0, FSM_F32)


cdef inline bint plain(PyObject *o) noexcept:
    """A base ndarray of native float32 or float64, aligned and C-contiguous."""
    cdef int wanted = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED
    cdef PyArrayObject *a = <PyArrayObject *>o
    return (
        PyArray_CheckExact(o)
        and (PyArray_TYPE(a) == cnp.NPY_FLOAT32 or PyArray_TYPE(a) == cnp.NPY_FLOAT64)
        and PyArray_FLAGS(a) & wanted == wanted
        and PyArray_ISNOTSWAPPED(a)
        and PyArray_NDIM(a) > 0
    )


cdef inline bint is_keyword(PyObject *keyword, PyObject *name) except -1:
    # Keywords in a call are interned, so that identity settles nearly every comparison.
    return keyword is name or PyUnicode_Compare(keyword, name) == 0


cdef inline bint last_axis(PyObject *axis, int ndim) except -1:
    cdef long value
    if not PyLong_CheckExact(axis):
        return False
    try:
        value = PyLong_AsLong(axis)
    except OverflowError:
        return False
    return value == -1 or value == ndim - 1


cdef inline bint usable_temperature(PyObject *o) noexcept:
    return PyFloat_CheckExact(o) and 0 < PyFloat_AS_DOUBLE(o) < INFINITY


cdef inline bint usable_workers(PyObject *o) except -1:
    return o == <PyObject *>None or (PyLong_CheckExact(o) and <object>o > 0)


cdef inline bint usable_out(PyObject *o, PyArrayObject *x) noexcept:
    """Of x's shape and dtype, writeable, and x itself or apart from it."""
    cdef PyArrayObject *out = <PyArrayObject *>o
    cdef int d, ndim = PyArray_NDIM(x)
    if not plain(o) or PyArray_TYPE(out) != PyArray_TYPE(x) or PyArray_NDIM(out) != ndim:
        return False
    if not PyArray_FLAGS(out) & cnp.NPY_ARRAY_WRITEABLE:
        return False
    for d in range(ndim):
        if PyArray_DIMS(out)[d] != PyArray_DIMS(x)[d]:
            return False
    cdef char *a = <char *>PyArray_DATA(x)
    cdef char *b = <char *>PyArray_DATA(out)
    cdef cnp.npy_intp size = PyArray_SIZE(x) * (8 if PyArray_TYPE(x) == cnp.NPY_FLOAT64 else 4)
    return a == b or a + size <= b or b + size <= a


cdef object lane_call(
    PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords
):
    cdef _Lane lane = <_Lane>self
    cdef PyArrayObject *x = NULL
    cdef PyObject *out = NULL
    cdef PyObject *keyword
    cdef double temperature = 1.0
    cdef PyObject *workers = <PyObject *>None
    cdef Py_ssize_t i, named = 0 if keywords is NULL else PyTuple_GET_SIZE(keywords)
    cdef bint fits = count == 1 or count == 2
    cdef cnp.npy_intp rows = 1
    if fits:
        x = <PyArrayObject *>arguments[0]
        fits = plain(arguments[0]) and (count == 1 or last_axis(arguments[1], PyArray_NDIM(x)))
    for i in range(named):
        if not fits:
            break
        keyword = PyTuple_GET_ITEM(keywords, i)
        if lane.operation != FSM_LOGSUMEXP and is_keyword(keyword, <PyObject *>OUT):
            out = arguments[count + i]
            fits = out == <PyObject *>None or usable_out(out, x)
        elif is_keyword(keyword, <PyObject *>AXIS):
            fits = count == 1 and last_axis(arguments[count + i], PyArray_NDIM(x))
        elif lane.operation != FSM_LOGSUMEXP and is_keyword(keyword, <PyObject *>TEMPERATURE):
            fits = usable_temperature(arguments[count + i])
            temperature = PyFloat_AS_DOUBLE(arguments[count + i]) if fits else 1.0
        elif is_keyword(keyword, <PyObject *>WORKERS):
            workers = arguments[count + i]
            fits = usable_workers(workers)
        else:
            fits = False
    if fits:
        for i in range(PyArray_NDIM(x) - 1):
            rows *= PyArray_DIMS(x)[i]
        fits = rows > 0 and PyArray_DIMS(x)[PyArray_NDIM(x) - 1] > 0
    if not fits:
        return PyObject_Vectorcall(<PyObject *>lane.general, arguments, count, keywords)
    return lane_run(lane, x, NULL if out == <PyObject *>None else out, rows, temperature, workers)


cdef object lane_run(
    _Lane lane, PyArrayObject *x, PyObject *out, cnp.npy_intp rows, double temperature,
    PyObject *workers
):
    cdef bint double_precision = PyArray_TYPE(x) == cnp.NPY_FLOAT64
    cdef bint single = lane.operation == FSM_LOGSUMEXP
    cdef int ndim = PyArray_NDIM(x)
    cdef ptrdiff_t item = 8 if double_precision else 4
    cdef PyArray_Descr *descr = FLOAT64 if double_precision else FLOAT32
    cdef fsm_dtype dtype = FSM_F64 if double_precision else FSM_F32
    cdef fsm_rows batch
    cdef uint64_t saved
    cdef object result
    if out is NULL:
        Py_INCREF(<object>descr)  # stolen by the call
        result = PyArray_NewFromDescr(
            &PyArray_Type, descr, ndim - single, PyArray_DIMS(x), NULL, NULL, 0, NULL)
    else:
        result = <object>out
    batch.n = PyArray_DIMS(x)[ndim - 1]
    batch.rows = rows
    batch.x = PyArray_DATA(x)
    batch.y = NULL
    batch.out = PyArray_DATA(<PyArrayObject *>result)
    batch.x_stride = batch.n * item
    batch.y_stride = 0
    batch.out_stride = item if single else batch.x_stride
    batch.temperature = UNTEMPERED
    if temperature != 1.0:
        batch.temperature = fsm_make_temperature(temperature, dtype)
    batch.far = 0
    batch.scratch = NULL
    if rows * batch.n >= RELEASE_GIL_FROM:
        run_large(lane, &batch, dtype, out is NULL, workers)
    else:
        saved = fsm_enter()
        lane.backend.kernels.rows[<int>lane.operation][<int>dtype](&batch)
        fsm_leave(saved)
    if single and ndim == 1:
        return result[()]
    return result


cdef run_large(
    _Lane lane, const fsm_rows *rows, fsm_dtype dtype, bint fresh, PyObject *workers
):
    cdef size_t size = rows.rows * rows.n
    cdef fsm_batch batch
    batch.kernels = lane.backend.kernels
    batch.function = lane.operation
    batch.dtype = dtype
    batch.fresh = fresh
    batch.rows = rows[0]
    cdef int threads = lane.threads_for(<object>workers, size) if size >= MIN_TO_SHARE else 1
    run_parts(fsm_run_batch, &batch, rows.rows, 1, size, threads)
