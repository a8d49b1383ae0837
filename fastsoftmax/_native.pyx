# cython: language_level=3, freethreading_compatible=True, boundscheck=False, wraparound=False
# cython: auto_pickle=False, cdivision=True, binding=False
"""Bindings of the C kernels: a call's arguments to a plan, the result's memory, the call.

Design
------
(a) Each public function is an object that the vectorcall protocol calls, as NumPy's ufuncs are. It
    takes a call or declines it.
    A declined call goes, with the same arguments, to the Python function of `fastsoftmax._api`,
    whose rules raise, or convert the arguments and call back here. So each rule is written once:
    what is taken here is a part of what the rules accept, and any doubtful case is declined.
(b) Taken are base arrays of the formats that the kernels read, and options of exact types. Whatever
    may still run the caller's code (a class as dtype, a tracer) comes before any array is looked
    at, so that none runs between a check and its use.
(c) Nothing is copied here, and no error is about a value.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memset
from numpy cimport npy_intp

from fastsoftmax._c cimport *

import functools
import inspect
import os
import sys
import threading

import numpy as np

from fastsoftmax import _rules, _workers

cnp.import_array()
fsm_detect()
fsm_limit_helpers(os.cpu_count() or 1)

# The thread in which signal handlers run.
cdef unsigned long main_thread = threading.main_thread().ident


def forget_threads():
    """Adapt to being the child of a fork: the only thread is this one, now the main thread."""
    global main_thread
    main_thread = PyThread_get_thread_ident()
    fsm_forget_helpers()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=forget_threads)


def compiled():
    """Names of the instruction sets this extension holds kernels for, best first."""
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    return tuple([tables[i].name.decode() for i in range(count)])


def available():
    """Names of the instruction sets that give the right bits on this machine, best first."""
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    return tuple([tables[i].name.decode() for i in range(count) if fsm_supported(tables[i])])


cdef const fsm_kernels *kernels_of(str instruction_set):
    cdef const fsm_kernels *const *tables
    cdef size_t count = fsm_compiled(&tables)
    for i in range(count):
        if tables[i].name.decode() == instruction_set:
            return tables[i]
    return NULL


def interface(str instruction_set):
    """The functions of include/fastsoftmax.h as a capsule, over these kernels from now on."""
    return PyCapsule_New(
        <void *>fsm_interface(kernels_of(instruction_set)), FASTSOFTMAX_CAPSULE, NULL
    )


def fma_is_fast():
    """Whether the portable kernels have an instruction for fma, and call no function."""
    return bool(FSM_FAST_FMA)


def compiler():
    """The compiler that built the extension, with its version."""
    return FSM_COMPILER.decode()


# ---- arguments ----

# The slots of arguments, whatever their names. The fields of `_rules.Plan` have the same order.
cdef enum:
    X
    Y
    AXIS
    WHERE
    OUT
    DTYPE
    TEMPERATURE
    WORKERS
    KEEPDIMS
    SMOOTHING
    RETURN_GRAD
    RETURN_SIGN
    WEIGHT
    IGNORED
    ARGUMENTS
    OPTIONS = (
        1 << DTYPE | 1 << TEMPERATURE | 1 << SMOOTHING | 1 << WORKERS | 1 << KEEPDIMS
        | 1 << RETURN_GRAD | 1 << RETURN_SIGN | 1 << WEIGHT | 1 << IGNORED
    )

cdef dict SLOTS = {
    "x": X, "logits": X, "grad_output": X, "data": X,
    "y": Y, "output": Y, "labels": Y, "indptr": Y, "b": Y,
    "axis": AXIS, "where": WHERE, "out": OUT, "dtype": DTYPE, "temperature": TEMPERATURE,
    "workers": WORKERS, "keepdims": KEEPDIMS, "label_smoothing": SMOOTHING,
    "return_grad": RETURN_GRAD, "return_sign": RETURN_SIGN, "sample_weight": WEIGHT,
    "ignore_index": IGNORED,
}  # fmt: skip

cdef dict FUNCTIONS = {
    "softmax": FSM_SOFTMAX,
    "log_softmax": FSM_LOG_SOFTMAX,
    "logsumexp": FSM_LOGSUMEXP,
    "softmax_backward": FSM_SOFTMAX_BACKWARD,
    "log_softmax_backward": FSM_LOG_SOFTMAX_BACKWARD,
    "softmax_cross_entropy": FSM_CROSS_ENTROPY,
    "segment_softmax": FSM_SEGMENT_SOFTMAX,
    "segment_log_softmax": FSM_SEGMENT_LOG_SOFTMAX,
    "segment_logsumexp": FSM_SEGMENT_LOGSUMEXP,
}

# How a public function over one instruction set is called.
cdef struct signature:
    const fsm_kernels *kernels
    fsm_function function
    PyObject *general  # called where a call is declined
    int positional  # how many arguments may be positional
    int parameters
    PyObject *name[ARGUMENTS]  # interned, in the order of the parameters
    int slot[ARGUMENTS]
    unsigned required  # the slots without a default, as bits


cdef inline bint parse(
    const signature *s, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords,
    PyObject **given, unsigned *present
) noexcept:
    """Sort arguments into slots; `present` is the set of those given, the others stay NULL.

    Return False for what only Python can judge: too many arguments, unknown or doubled keywords.
    """
    cdef Py_ssize_t i, named = 0 if keywords is NULL else PyTuple_GET_SIZE(keywords)
    cdef PyObject *keyword
    cdef int p
    if count > s.positional:
        return False
    present[0] = 0
    for i in range(count):
        given[s.slot[i]] = arguments[i]
        present[0] |= 1 << s.slot[i]
    for i in range(named):
        # Keywords of a call are interned, as the names are; any other is left to Python.
        keyword = PyTuple_GET_ITEM(keywords, i)
        p = s.parameters - 1  # backwards: operands are seldom named
        while p >= 0 and s.name[p] != keyword:
            p -= 1
        if p < 0 or given[s.slot[p]] != NULL:
            return False
        given[s.slot[p]] = arguments[count + i]
        present[0] |= 1 << s.slot[p]
    return present[0] & s.required == s.required


cdef inline bint is_default(PyObject *o) noexcept:
    return o is NULL or o == Py_None


cdef inline bint as_integer(PyObject *o, long long *value) noexcept:
    cdef int overflow = 0
    cdef PyTypeObject *kind = Py_TYPE(o)
    if PyLong_CheckExact(o):
        value[0] = PyLong_AsLongAndOverflow(o, &overflow)
        return overflow == 0
    if kind == &PyLongArrType_Type:
        value[0] = (<PyLongScalarObject *>o).obval
    elif kind == &PyIntArrType_Type:
        value[0] = (<PyIntScalarObject *>o).obval
    elif kind == &PyLongLongArrType_Type:
        value[0] = (<PyLongLongScalarObject *>o).obval
    else:
        return False
    return True


cdef inline bint as_number(PyObject *o, double *value) noexcept:
    cdef long long integer
    cdef PyTypeObject *kind = Py_TYPE(o)
    if PyFloat_CheckExact(o):
        value[0] = PyFloat_AS_DOUBLE(o)
    elif kind == &PyDoubleArrType_Type:
        value[0] = (<PyDoubleScalarObject *>o).obval
    elif kind == &PyFloatArrType_Type:
        value[0] = (<PyFloatScalarObject *>o).obval
    elif as_integer(o, &integer):
        value[0] = <double>integer
    else:
        return False
    return True


cdef inline bint as_flag(PyObject *o, bint *value) noexcept:
    value[0] = o == Py_True or o == PyArrayScalar_True
    return value[0] or o == Py_False or o == PyArrayScalar_False


cdef inline bint add_axis(PyObject *o, int ndim, uint64_t *axes) noexcept:
    cdef long long axis
    if not as_integer(o, &axis) or not -ndim <= axis < ndim:
        return False
    axis += ndim if axis < 0 else 0
    if axes[0] >> axis & 1:
        return False
    axes[0] |= <uint64_t>1 << axis
    return True


cdef inline bint as_axes(PyObject *o, int ndim, uint64_t *axes) noexcept:
    """The axes as a set of bits."""
    cdef Py_ssize_t i
    axes[0] = 0
    if o is NULL:
        axes[0] = <uint64_t>1 << (ndim - 1) if ndim else 0
        return True
    if o == Py_None:
        axes[0] = ~<uint64_t>0 >> (64 - ndim) if ndim else 0
        return True
    if PyTuple_CheckExact(o):
        for i in range(PyTuple_GET_SIZE(o)):
            if not add_axis(PyTuple_GET_ITEM(o, i), ndim, axes):
                return False
        return True
    return add_axis(o, ndim, axes)


# ---- formats ----

cdef dict FORMATS = {
    "float32": FSM_F32, "float64": FSM_F64, "float16": FSM_F16, "bool": FSM_BOOL,
    "int8": FSM_I8, "uint8": FSM_U8, "int16": FSM_I16, "uint16": FSM_U16,
    "int32": FSM_I32, "uint32": FSM_U32, "int64": FSM_I64, "uint64": FSM_U64,
}  # fmt: skip

# The same by NumPy's type number; -1: declined.
cdef signed char FORMAT[24]
memset(FORMAT, -1, sizeof(FORMAT))
cdef str code
for code in "?bBhHiIlLqQefd":
    FORMAT[<int>np.dtype(code).num] = FORMATS[np.dtype(code).name]

# The type number of ml_dtypes.bfloat16, which NumPy assigns when that registers it; -1 until the
# rules have seen an array of it (know_bfloat16).
cdef int bfloat16 = -1


cdef inline int format_of(int number) noexcept:
    if number < 24:
        return FORMAT[number]
    return FSM_BF16 if number == bfloat16 else -1


cdef inline bint is_float(int f) noexcept:
    return 0 <= f <= FSM_BF16


cdef inline int as_float(int f) noexcept:
    return f if is_float(f) else FSM_F64


cdef inline int common_float(int a, int b) noexcept:
    """The format that holds both; -1 for float16 with bfloat16."""
    a, b = as_float(a), as_float(b)
    if a == b:
        return a
    if a == FSM_F64 or b == FSM_F64:
        return FSM_F64
    return FSM_F32 if a == FSM_F32 or b == FSM_F32 else -1


cdef int as_dtype(PyObject *o) except -2:
    """The format of an argument `dtype`; -1: declined."""
    cdef PyArray_Descr *descr = NULL
    cdef int found
    if not (PyArray_DescrCheck(o) or PyType_CheckExact(o) or PyUnicode_CheckExact(o)):
        return -1  # its conversion may run any code
    try:
        PyArray_DescrConverter(o, &descr)
    except Exception as error:
        if type(error) in _rules.OF_CONVERSION:  # the rules explain it
            return -1
        raise
    found = format_of(descr.type_num) if PyDataType_ISNOTSWAPPED(descr) else -1
    Py_DECREF(<object>descr)
    return found if is_float(found) else -1


# ---- operands ----

# What is known of a call besides its plan.
cdef struct call:
    PyArrayObject *array[FSM_OPERANDS]  # borrowed from the arguments; results may be new
    int flags  # those of NumPy's flags that all arrays have
    int ndim
    uint64_t axes
    int asked  # the format that `dtype` asks for; -1: none
    int result  # the results' format
    bint single  # one result a row
    bint keepdims
    bint return_grad
    bint return_sign
    bint unmapped  # the results' memory has pages that are zeroed at the first store
    bint own_temperatures  # `temperature` is an array
    bint own_weights  # `sample_weight` is an array
    bint plain_b  # b of a logsumexp is a Python number, which has no dtype of its own


cdef inline bint take(fsm_plan *plan, call *c, int operand, PyObject *o) noexcept:
    """Take a base array of a format that the kernels read, in any layout."""
    cdef PyArrayObject *a = <PyArrayObject *>o
    cdef int found
    if not PyArray_CheckExact(o):
        return False
    found = format_of(PyArray_TYPE(a))
    if found < 0:
        return False
    c.array[operand] = a
    c.flags &= PyArray_FLAGS(a)
    plan.base[operand] = PyArray_BYTES(a)
    plan.dtype[operand] = <fsm_dtype>found
    plan.foreign[operand] = 0
    if not PyArray_FLAGS(a) & NPY_ARRAY_ALIGNED:
        plan.foreign[operand] |= FSM_UNALIGNED
    if not PyArray_ISNOTSWAPPED(a):
        plan.foreign[operand] |= FSM_SWAPPED
    return True


cdef inline npy_intp elements_of(PyArrayObject *a) noexcept:
    cdef int d
    cdef npy_intp count = 1
    for d in range(PyArray_NDIM(a)):
        count *= PyArray_DIMS(a)[d]
    return count


cdef inline bint same_shape(PyArrayObject *a, PyArrayObject *b) noexcept:
    cdef int d, ndim = PyArray_NDIM(a)
    if PyArray_NDIM(b) != ndim:
        return False
    for d in range(ndim):
        if PyArray_DIMS(a)[d] != PyArray_DIMS(b)[d]:
            return False
    return True


cdef int rows_shape(call *c, npy_intp *shape) noexcept:
    """The shape of one number a row."""
    cdef int d, count = 0
    for d in range(c.ndim):
        if not c.axes >> d & 1:
            shape[count] = PyArray_DIMS(c.array[FSM_X])[d]
            count += 1
        elif c.keepdims:
            shape[count] = 1
            count += 1
    return count


cdef inline bint is_segments(fsm_function function) noexcept:
    return function >= FSM_SEGMENT_SOFTMAX


cdef void segments_shape(call *c, npy_intp *shape) noexcept:
    """The shape of one number for each segment, of as many dimensions as the data."""
    cdef int d
    shape[0] = PyArray_DIMS(c.array[FSM_Y])[0] - 1
    for d in range(1, c.ndim):
        shape[d] = PyArray_DIMS(c.array[FSM_X])[d]


cdef bint has_segments_shape(call *c, PyArrayObject *a) noexcept:
    cdef npy_intp shape[64]
    cdef int d
    if PyArray_NDIM(a) != c.ndim:
        return False
    segments_shape(c, shape)
    for d in range(c.ndim):
        if PyArray_DIMS(a)[d] != shape[d]:
            return False
    return True


cdef bint has_rows_shape(call *c, PyArrayObject *a) noexcept:
    cdef npy_intp shape[64]
    cdef int d, ndim = rows_shape(c, shape)
    if PyArray_NDIM(a) != ndim:
        return False
    for d in range(ndim):
        if PyArray_DIMS(a)[d] != shape[d]:
            return False
    return True


cdef bint broadcasts(PyArrayObject *a, PyArrayObject *x, uint64_t axes) noexcept:
    """Whether an array broadcasts to the shape of x with these axes of length 1."""
    cdef int d, shift = PyArray_NDIM(x) - PyArray_NDIM(a)
    cdef npy_intp extent
    if shift < 0:
        return False
    for d in range(PyArray_NDIM(a)):
        extent = PyArray_DIMS(a)[d]
        if extent != 1 and (axes >> (d + shift) & 1 or extent != PyArray_DIMS(x)[d + shift]):
            return False
    return True


cdef bint broadcasts_to_rows(call *c, PyArrayObject *a) noexcept:
    """Whether an array broadcasts to the shape of one number a row."""
    cdef npy_intp shape[64]
    cdef int d, ndim = rows_shape(c, shape), shift = ndim - PyArray_NDIM(a)
    if shift < 0:
        return False
    for d in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[d] != 1 and PyArray_DIMS(a)[d] != shape[d + shift]:
            return False
    return True


cdef void bounds(PyArrayObject *a, char **low, char **high) noexcept:
    """Where an array's memory begins and ends."""
    cdef int d
    cdef npy_intp reach
    low[0] = high[0] = PyArray_BYTES(a)
    for d in range(PyArray_NDIM(a)):
        reach = (PyArray_DIMS(a)[d] - 1) * PyArray_STRIDES(a)[d]
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    high[0] += PyArray_ITEMSIZE(a)


cdef bint is_same_memory(PyArrayObject *a, PyArrayObject *b) noexcept:
    """Whether two arrays of one shape are the same elements in native byte order."""
    cdef int d
    if PyArray_BYTES(a) != PyArray_BYTES(b) or PyArray_TYPE(a) != PyArray_TYPE(b):
        return False
    for d in range(PyArray_NDIM(a)):
        if PyArray_STRIDES(a)[d] != PyArray_STRIDES(b)[d] and PyArray_DIMS(a)[d] != 1:
            return False
    return PyArray_ISNOTSWAPPED(a)


cdef bint overlap(PyArrayObject *a, PyArrayObject *b) noexcept:
    """Whether the bounds of two arrays overlap."""
    cdef char *low
    cdef char *high
    cdef char *other_low
    cdef char *other_high
    bounds(a, &low, &high)
    bounds(b, &other_low, &other_high)
    return low < other_high and other_low < high


cdef bint may_be_written(call *c, fsm_function function, int operand) noexcept:
    """Whether a result's memory is an input, element for element, or apart from all of them."""
    cdef PyArrayObject *out = c.array[operand]
    cdef bint is_input
    cdef int o
    for o in range(operand):
        if c.array[o] is NULL or (
            # All arrays own their memory, so different ones cannot overlap.
            out != c.array[o] and c.flags & NPY_ARRAY_OWNDATA
        ) or not overlap(out, c.array[o]):
            continue
        is_input = o == FSM_X or (o == FSM_Y and function < FSM_CROSS_ENTROPY)
        if not is_input or (operand == FSM_OUT and c.single):
            return False
        if not is_same_memory(c.array[o], out):
            return False
    return True


cdef bint take_result(fsm_plan *plan, call *c, int operand, PyObject *o) noexcept:
    """Take an array as the memory of a result."""
    cdef PyArrayObject *out
    cdef bint fits
    if not take(plan, c, operand, o):
        return False
    out = c.array[operand]
    if operand == FSM_OUT and is_segments(plan.function) and c.single:
        fits = has_segments_shape(c, out)
    elif operand == FSM_OUT and c.single:
        fits = has_rows_shape(c, out)
    else:
        fits = same_shape(c.array[FSM_X], out)
    return (
        fits
        and <int>plan.dtype[operand] == c.result
        and not plan.foreign[operand]
        and PyArray_FLAGS(out) & NPY_ARRAY_WRITEABLE
        and may_be_written(c, plan.function, operand)
    )


cdef bint take_results(fsm_plan *plan, call *c, PyObject *o) noexcept:
    """Take an argument `out`: an array, or the pair of a cross-entropy's loss and gradient."""
    cdef PyObject *loss
    cdef PyObject *grad
    if plan.function != FSM_CROSS_ENTROPY or not PyTuple_CheckExact(o):
        return take_result(plan, c, FSM_OUT, o)
    if PyTuple_GET_SIZE(o) != 2:
        return False
    loss, grad = PyTuple_GET_ITEM(o, 0), PyTuple_GET_ITEM(o, 1)
    if loss != Py_None and not take_result(plan, c, FSM_OUT, loss):
        return False
    return grad == Py_None or (c.return_grad and take_result(plan, c, FSM_GRAD, grad))


cdef bint take_second(PyObject *const *given, fsm_plan *plan, call *c) noexcept:
    """Take the second operand: a forward function's output, b, labels, or row pointers."""
    cdef PyArrayObject *y
    cdef bint is_integer
    if given[Y] is NULL or not take(plan, c, FSM_Y, given[Y]):
        return False
    y = c.array[FSM_Y]
    if plan.function == FSM_LOGSUMEXP:
        plan.computing = FSM_F64
        if c.asked < 0 and not c.plain_b:  # the dtype with integers is left to the rules
            c.result = common_float(plan.dtype[FSM_X], plan.dtype[FSM_Y])
            if not (is_float(plan.dtype[FSM_X]) and is_float(plan.dtype[FSM_Y])) or c.result < 0:
                return False
        return broadcasts(y, c.array[FSM_X], 0)
    is_integer = fsm_is_integer(plan.dtype[FSM_Y])
    if is_segments(plan.function):
        return c.ndim > 0 and is_integer and PyArray_NDIM(y) == 1 and PyArray_DIMS(y)[0] >= 2
    if plan.function == FSM_CROSS_ENTROPY:
        if c.ndim == 0 or given[AXIS] == Py_None:
            return False
        if given[AXIS] is not NULL and PyTuple_CheckExact(given[AXIS]):
            return False
        if is_integer:
            return has_rows_shape(c, y)
        if plan.dtype[FSM_Y] == FSM_F64:
            plan.computing = FSM_F64
        return (
            is_float(plan.dtype[FSM_Y]) and not plan.ignores and same_shape(c.array[FSM_X], y)
        )
    c.result = common_float(plan.dtype[FSM_X], plan.dtype[FSM_Y])
    plan.computing = FSM_F64 if c.result == FSM_F64 else FSM_F32
    return c.result >= 0 and same_shape(c.array[FSM_X], y)


cdef inline bint take_operands(
    PyObject *const *given, fsm_plan *plan, call *c
) noexcept:
    """Take every array that is given: formats, shapes, overlaps."""
    cdef PyArrayObject *x
    memset(c.array, 0, 4 * sizeof(c.array[0]))  # in two, as `called` says
    memset(c.array + 4, 0, (FSM_OPERANDS - 4) * sizeof(c.array[0]))
    memset(plan.base, 0, 4 * sizeof(plan.base[0]))
    memset(plan.base + 4, 0, (FSM_OPERANDS - 4) * sizeof(plan.base[0]))
    c.flags = -1
    if not take(plan, c, FSM_X, given[X]):
        return False
    x = c.array[FSM_X]
    c.ndim = PyArray_NDIM(x)
    if not as_axes(given[AXIS], c.ndim, &c.axes):
        return False
    if is_segments(plan.function):  # in results of one a segment, segments replace the first axis
        c.axes = 1
        c.keepdims = True
    c.result = as_float(plan.dtype[FSM_X])
    if c.asked >= 0:
        if c.asked > FSM_F64 and c.asked != <int>plan.dtype[FSM_X]:
            return False
        c.result = c.asked
    plan.computing = FSM_F64 if c.result == FSM_F64 else FSM_F32
    c.single = (
        plan.function == FSM_LOGSUMEXP
        or plan.function == FSM_CROSS_ENTROPY
        or plan.function == FSM_SEGMENT_LOGSUMEXP
    )
    if plan.function >= FSM_SOFTMAX_BACKWARD or not is_default(given[Y]):
        if not take_second(given, plan, c):
            return False
    if c.asked == FSM_F32 and plan.computing == FSM_F64:  # x is to be cast to float32 first
        if plan.dtype[FSM_X] != FSM_F32 and PyArray_ITEMSIZE(x) > 2:
            return False
    if not is_default(given[WHERE]) and given[WHERE] != Py_True:
        if (
            not take(plan, c, FSM_MASK, given[WHERE])
            or plan.dtype[FSM_MASK] != FSM_BOOL
            or not broadcasts(c.array[FSM_MASK], x, 0)
        ):
            return False
    if c.own_temperatures and not (
        take(plan, c, FSM_TEMPERATURE, given[TEMPERATURE])
        and broadcasts(c.array[FSM_TEMPERATURE], x, c.axes)
    ):
        return False
    if c.own_weights and not (
        take(plan, c, FSM_WEIGHT, given[WEIGHT]) and broadcasts_to_rows(c, c.array[FSM_WEIGHT])
    ):
        return False
    return is_default(given[OUT]) or take_results(plan, c, given[OUT])


# ---- layout ----

cdef inline ptrdiff_t step_broadcast(PyArrayObject *a, int d) noexcept:
    """An array's step along dimension d; 0 where it is broadcast or has no such dimension."""
    return 0 if d < 0 or PyArray_DIMS(a)[d] == 1 else PyArray_STRIDES(a)[d]


cdef ptrdiff_t step_of(fsm_plan *plan, call *c, int operand, int d, int row_d) noexcept:
    """An operand's step along dimension d of x, which is dimension `row_d` of the rows' shape."""
    cdef PyArrayObject *a = c.array[operand]
    cdef bint is_reduced = c.axes >> d & 1
    cdef bint single = c.single and (operand == FSM_OUT or plan.function == FSM_LOGSUMEXP)
    if FSM_Y <= operand <= FSM_WEIGHT:
        if operand == FSM_Y and is_segments(plan.function):
            return 0
        if operand == FSM_WEIGHT:  # of a cross-entropy, which reduces one axis
            return 0 if is_reduced else step_broadcast(a, row_d - (c.ndim - 1 - PyArray_NDIM(a)))
        if operand != FSM_Y or plan.function == FSM_LOGSUMEXP:
            return step_broadcast(a, d - (c.ndim - PyArray_NDIM(a)))
        single = PyArray_NDIM(a) != c.ndim
    if operand == FSM_X or not single:
        return PyArray_STRIDES(a)[d]
    return 0 if is_reduced else PyArray_STRIDES(a)[d if c.keepdims else row_d]


cdef void lay_out(fsm_plan *plan, call *c) noexcept:
    """Dimensions and steps of all operands."""
    cdef npy_intp *shape = PyArray_DIMS(c.array[FSM_X])
    cdef fsm_dimension added
    cdef int o, d, row_d, first, count = 0
    for reduced in range(2):
        first = count
        row_d = 0
        for d in range(c.ndim):
            if <int>(c.axes >> d & 1) == reduced:
                added.extent = shape[d]
                for o in range(FSM_OPERANDS):
                    added.step[o] = 0 if c.array[o] is NULL else step_of(plan, c, o, d, row_d)
                fsm_append(plan, first, &count, &added)
            row_d += not c.axes >> d & 1
        if not reduced:
            plan.outer = count
    if count == plan.outer:  # no axis is reduced, or of length 1
        memset(&plan.dimension[count], 0, sizeof(fsm_dimension))
        plan.dimension[count].extent = 1
        count += 1
    plan.inner = count - plan.outer


cdef void lay_out_segments(fsm_plan *plan, call *c) noexcept:
    """Dimensions and steps of all operands, and the dimension of the segments."""
    lay_out(plan, c)
    memset(&plan.segments, 0, sizeof(fsm_dimension))
    plan.segments.extent = PyArray_DIMS(c.array[FSM_Y])[0] - 1
    plan.segments.step[<int>FSM_Y] = PyArray_STRIDES(c.array[FSM_Y])[0]
    if c.single:
        plan.segments.step[<int>FSM_OUT] = PyArray_STRIDES(c.array[FSM_OUT])[0]


cdef bint take_options(
    PyObject *const *given, fsm_plan *plan, call *c, double *temperature
) except -1:
    """Take every option that is not an array."""
    cdef long long workers, ignored
    if not is_default(given[DTYPE]):
        c.asked = as_dtype(given[DTYPE])
        if c.asked < 0:
            return False
    if given[TEMPERATURE] is not NULL:
        c.own_temperatures = PyArray_CheckExact(given[TEMPERATURE])
        if c.own_temperatures:
            if is_segments(plan.function):
                return False
        elif not (as_number(given[TEMPERATURE], temperature) and 0 < temperature[0] < INFINITY):
            return False
    if not is_default(given[WEIGHT]):
        c.own_weights = PyArray_CheckExact(given[WEIGHT])
        if not c.own_weights and not (
            as_number(given[WEIGHT], &plan.weight) and -INFINITY < plan.weight < INFINITY
        ):
            return False
    plan.ignores = not is_default(given[IGNORED])
    if plan.ignores:
        if not as_integer(given[IGNORED], &ignored):
            return False
        plan.ignored = ignored
    if given[SMOOTHING] is not NULL and not (
        as_number(given[SMOOTHING], &plan.smoothing) and 0 <= plan.smoothing <= 1
    ):
        return False
    if not is_default(given[WORKERS]) and not (
        as_integer(given[WORKERS], &workers) and workers > 0
    ):
        return False
    if given[KEEPDIMS] is not NULL and not as_flag(given[KEEPDIMS], &c.keepdims):
        return False
    if given[RETURN_SIGN] is not NULL and not as_flag(given[RETURN_SIGN], &c.return_sign):
        return False
    return given[RETURN_GRAD] is NULL or as_flag(given[RETURN_GRAD], &c.return_grad)


# ---- the call ----

# Elements from which a call releases the GIL (about 1 us of work): that costs it some 50 ns, and
# gains more for other threads.
cdef enum:
    RELEASE_GIL_FROM = 8192

# Below this many elements no second thread is worth it, so the number of workers is not asked for.
cdef npy_intp MIN_TO_SHARE = 2 * _workers.MIN_ELEMENTS

cdef fsm_temperature UNTEMPERED = fsm_make_temperature(1.0, FSM_F32)

# The dtypes of results, by their format.
cdef PyArray_Descr *FLOATS[4]
FLOATS[<int>FSM_F32] = PyArray_DescrFromType(cnp.NPY_FLOAT)
FLOATS[<int>FSM_F64] = PyArray_DescrFromType(cnp.NPY_DOUBLE)
FLOATS[<int>FSM_F16] = PyArray_DescrFromType(cnp.NPY_FLOAT16)


cdef size_t SIZES[4]
SIZES[:] = [4, 8, 2, 2]

# The memory handler of large results; None: the one that all arrays have.
cdef object keeping = None


def keep_memory():
    """Keep the memory of large results, when they are freed, for the next one, if possible."""
    global keeping
    cdef object of_numpy = <object>PyDataMem_DefaultHandler
    cdef PyDataMem_Handler *handler = fsm_keeping_handler(
        <PyDataMem_Handler *>PyCapsule_GetPointer(of_numpy, "mem_handler")
    )
    if handler is not NULL:
        keeping = PyCapsule_New(handler, "mem_handler", NULL)


cdef object new_array(call *c, int ndim, npy_intp *shape):
    """A new array of the results' format: of a shape, in C order; if NULL, laid out as x."""
    cdef size_t size = SIZES[c.result]
    cdef int d
    if shape is NULL:
        size *= elements_of(c.array[FSM_X])
    for d in range(ndim):
        size *= shape[d]
    return allocate(c, ndim, shape) if size <= FSM_FRESH_ABOVE else new_large(c, ndim, shape)


cdef object new_large(call *c, int ndim, npy_intp *shape):
    """The same, from the handler that keeps memory, unless the caller has set another one."""
    c.unmapped = True
    if keeping is None or PyDataMem_GetHandler() is not <object>PyDataMem_DefaultHandler:
        return allocate(c, ndim, shape)
    of_numpy = PyDataMem_SetHandler(keeping)
    try:
        result = allocate(c, ndim, shape)
    finally:
        PyDataMem_SetHandler(of_numpy)
    c.unmapped = fsm_is_unused(PyArray_BYTES(<PyArrayObject *>result))
    return result


cdef object allocate(call *c, int ndim, npy_intp *shape):
    cdef PyArray_Descr *descr = FLOATS[c.result]
    Py_INCREF(<object>descr)  # either call below steals a reference
    if shape is NULL:
        return PyArray_NewLikeArray(c.array[FSM_X], cnp.NPY_KEEPORDER, descr, 0)
    return PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, NULL, NULL, 0, NULL)


cdef object new_rows(call *c):
    """Memory for one result a row."""
    cdef npy_intp shape[64]
    cdef int ndim = rows_shape(c, shape)
    return new_array(c, ndim, shape)


cdef inline object new_result(fsm_plan *plan, call *c, int operand):
    """Memory for a result."""
    cdef object result
    cdef npy_intp shape[64]
    if c.single and is_segments(plan.function):
        segments_shape(c, shape)
        result = new_array(c, c.ndim, shape)
    elif c.single and (operand == FSM_OUT or plan.function == FSM_LOGSUMEXP):
        result = new_rows(c)
    elif PyArray_FLAGS(c.array[FSM_X]) & NPY_ARRAY_C_CONTIGUOUS:
        result = new_array(c, c.ndim, PyArray_DIMS(c.array[FSM_X]))
    else:
        result = new_array(c, 0, NULL)
    c.array[operand] = <PyArrayObject *>result
    c.flags &= PyArray_FLAGS(c.array[operand])
    plan.base[operand] = PyArray_BYTES(c.array[operand])
    plan.dtype[operand] = <fsm_dtype>c.result
    plan.foreign[operand] = 0
    return result


cdef inline bint is_packed(call *c) noexcept:
    """Whether the rows of every operand are contiguous, one after the other, and none is masked."""
    return (
        c.flags & NPY_ARRAY_C_CONTIGUOUS
        and c.ndim > 0
        and c.axes == <uint64_t>1 << (c.ndim - 1)
        and c.array[FSM_MASK] is NULL
    )


cdef int run_any(fsm_plan *plan, call *c, size_t elements, int threads) except? -1:
    """Run a call of any layout."""
    if is_segments(plan.function):
        lay_out_segments(plan, c)
    else:
        lay_out(plan, c)
    if elements < RELEASE_GIL_FROM:
        return fsm_execute(plan)
    return fsm_execute_released(
        plan, elements, threads,
        elements >= FSM_ASK_EVERY and PyThread_get_thread_ident() == main_thread,
    )


cdef object attempt(
    const signature *s, PyObject *const *given, unsigned present, bint plain_b
):
    """Return the result of a call; None where it is declined."""
    cdef fsm_plan plan
    cdef call c
    cdef double temperature = 1.0
    cdef size_t elements
    cdef int status, threads = 1
    cdef bint is_new
    cdef object result, second = None
    plan.function = s.function
    plan.smoothing = 0.0
    plan.weight = 1.0
    plan.ignores = False
    c.asked = -1
    c.plain_b = plain_b
    c.keepdims = c.return_grad = c.return_sign = c.own_temperatures = c.own_weights = False
    c.unmapped = False
    if present & OPTIONS and not take_options(given, &plan, &c, &temperature):
        return None
    if not PyArray_CheckExact(given[X]):
        return None
    elements = elements_of(<PyArrayObject *>given[X])
    if elements == 0:
        return None
    if elements >= <size_t>MIN_TO_SHARE:
        threads = _workers.threads_for(
            None if given[WORKERS] is NULL else <object>given[WORKERS], elements)
        # That ran Python, where a tracer or a signal handler may have changed the array.
        if <size_t>elements_of(<PyArrayObject *>given[X]) != elements:
            return None
    plan.kernels = s.kernels
    if not take_operands(given, &plan, &c):
        return None
    plan.fresh = c.array[FSM_OUT] is NULL and c.array[FSM_GRAD] is NULL
    is_new = c.array[FSM_OUT] is NULL
    result = new_result(&plan, &c, FSM_OUT) if is_new else <object>c.array[FSM_OUT]
    if c.return_grad or c.return_sign:
        if c.array[FSM_GRAD] is NULL:
            second = new_result(&plan, &c, FSM_GRAD)
        else:
            second = <object>c.array[FSM_GRAD]
    plan.unmapped = c.unmapped
    plan.temperature = UNTEMPERED
    if temperature != 1.0:
        plan.temperature = fsm_make_temperature(temperature, plan.computing)
    if not (elements < RELEASE_GIL_FROM and is_packed(&c) and fsm_run_packed(
        &plan, elements, PyArray_DIMS(c.array[FSM_X])[c.ndim - 1]
    )):
        status = run_any(&plan, &c, elements, threads)
        if status == FSM_NO_MEMORY:
            raise MemoryError("no memory for the scratch rows")
        if status == FSM_FORKED:
            raise RuntimeError(
                "a signal handler forked the process during a call with workers: "
                "in the child, which has only one thread, its results are incomplete"
            )
        if status == FSM_BAD_INDEX:
            return None
    if is_new:
        result = as_scalar(result)
    if second is None:
        return result
    return (result, as_scalar(second) if c.return_sign else second)


cdef inline object as_scalar(object array):
    """Return a new array; one without axes as a NumPy scalar."""
    if PyArray_NDIM(<PyArrayObject *>array):
        return array
    Py_INCREF(array)  # stolen by the call
    return PyArray_Return(<PyArrayObject *>array)


# The thread that converts an argument, or the last that began; 0: none. Not thread-local: for the
# first use of such a variable glibc allocates memory, and ends the process where there is none.
cdef unsigned long converting = 0


cdef object attempt_sequences(const signature *s, PyObject **given, unsigned present):
    """Attempt a call with arrays in place of lists, tuples and numbers.

    Their conversion may run code of the caller's; `attempt` then checks all arguments again. A call
    within a conversion is declined: Python has a limit for its own functions on the stack, as the
    rules are, and none for what is called from C alone.
    """
    global converting
    cdef unsigned long here = PyThread_get_thread_ident()
    cdef list held = []
    cdef PyObject *o
    cdef bint is_number, plain_b = False
    if converting == here:
        return None
    for slot in (<int>X, <int>Y, <int>WHERE, <int>TEMPERATURE, <int>WEIGHT):
        o = given[slot]
        if o is NULL:
            continue
        is_number = PyFloat_CheckExact(o) or PyLong_CheckExact(o)
        if (
            PyList_CheckExact(o) or PyTuple_CheckExact(o)
            or (is_number and slot != TEMPERATURE and slot != WEIGHT)
        ):
            plain_b |= is_number and slot == Y and s.function == FSM_LOGSUMEXP
            converting = here
            try:
                held.append(PyArray_FromAny(o, NULL, 0, 0, 0, NULL))
            except Exception as error:
                if type(error) in _rules.OF_CONVERSION:  # the rules explain it
                    return None
                raise
            finally:
                if converting == here:
                    converting = 0
            given[slot] = PyList_GET_ITEM(<PyObject *>held, len(held) - 1)
    return attempt(s, given, present, plain_b) if held else None


# ---- functions ----

cdef object called(
    PyObject *self, PyObject *const *arguments, size_t count_and_flag, PyObject *keywords
):
    """Call a Function; the vectorcall protocol comes here."""
    cdef const signature *s = &(<Function>self).signature
    cdef Py_ssize_t count = PyVectorcall_NARGS(count_and_flag)
    cdef PyObject *given[ARGUMENTS]
    cdef object result
    cdef unsigned present
    # In parts: for more than 48 bytes gcc emits "rep stos", which takes 10 ns to start.
    memset(given, 0, 6 * sizeof(given[0]))
    memset(given + 6, 0, 6 * sizeof(given[0]))
    memset(given + 12, 0, (ARGUMENTS - 12) * sizeof(given[0]))
    if parse(s, arguments, count, keywords, given, &present):
        result = attempt(s, given, present, False)
        if result is not None:
            return result
        result = attempt_sequences(s, given, present)
        if result is not None:
            return result
    return PyObject_Vectorcall(s.general, arguments, count, keywords)


# Before Python 3.14 WRAPPER_ASSIGNMENTS has the last by itself.
cdef tuple TAKEN_OVER = (*functools.WRAPPER_ASSIGNMENTS, "__annotations__")


@cython.final
@cython.no_gc_clear  # what the signature refers to must live as long as it may be called
cdef class Function:
    """A public function over the kernels of one instruction set.

    It takes the `parameters`, of :mod:`inspect`, and calls `general` where it declines. Its name,
    docstring and annotations are those of `general`: a built-in function could have no annotations.
    """

    cdef void *vectorcall  # the first
    cdef signature signature
    cdef tuple held
    cdef readonly str __text_signature__  # as a built-in function's: without annotations
    cdef dict __dict__
    cdef object __weakref__

    def __cinit__(self, str name, str instruction_set, general, parameters):
        cdef signature *s = &self.signature
        parameters = tuple(parameters)
        self.vectorcall = <void *>called
        s.kernels = kernels_of(instruction_set)
        if s.kernels is NULL or len(parameters) > ARGUMENTS:
            raise ValueError(f"no kernels for {instruction_set!r} and {parameters}")
        s.function = FUNCTIONS[name]
        s.general = <PyObject *>general
        s.parameters = len(parameters)
        s.positional = s.required = 0
        names = tuple([sys.intern(parameter.name) for parameter in parameters])
        for i, parameter in enumerate(parameters):
            s.name[<int>i] = PyTuple_GET_ITEM(<PyObject *>names, i)
            s.slot[<int>i] = SLOTS[parameter.name]
            s.positional += parameter.kind == parameter.POSITIONAL_OR_KEYWORD
            s.required |= (parameter.default is parameter.empty) << s.slot[<int>i]
        self.held = (general, names)
        without = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
        self.__text_signature__ = str(inspect.Signature(without))
        functools.update_wrapper(self, general, TAKEN_OVER)

    def __call__(self, *arguments, **keywords):
        return PyVectorcall_Call(self, arguments, keywords)

    def __get__(self, instance, owner):
        """Return the function: to have this makes it a routine for inspect, and so for help()."""
        return self

    def __reduce__(self):
        """Be pickled as the global of this name."""
        return self.__qualname__

    def __repr__(self):
        return f"<function {self.__qualname__}>"


# The first field follows the header of an object, unless the class has a base, or cdef methods,
# for whose table Cython adds a field before it.
fsm_set_vectorcall(<PyTypeObject *>Function, sizeof(PyObject))


def know_bfloat16(int number):
    """Read arrays of this type number as bfloat16 from now on."""
    global bfloat16
    FLOATS[<int>FSM_BF16] = PyArray_DescrFromType(number)
    bfloat16 = number
