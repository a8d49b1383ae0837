"""The C that the bindings use: plans and threads of the kernels, and parts of Python and NumPy that
Cython does not declare (with arguments as borrowed pointers, which are not reference-counted).
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from numpy cimport npy_intp

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    object PyObject_Vectorcall(
        PyObject *callable, PyObject *const *arguments, size_t count, PyObject *keywords
    )
    object PyVectorcall_Call(object callable, object arguments, object keywords)
    Py_ssize_t PyVectorcall_NARGS(size_t count_and_flag)
    int PyLong_CheckExact(PyObject *o)
    int PyFloat_CheckExact(PyObject *o)
    int PyList_CheckExact(PyObject *o)
    int PyTuple_CheckExact(PyObject *o)
    int PyUnicode_CheckExact(PyObject *o)
    int PyType_CheckExact(PyObject *o)
    double PyFloat_AS_DOUBLE(PyObject *o)
    long PyLong_AsLongAndOverflow(PyObject *o, int *overflow)
    PyObject *PyTuple_GET_ITEM(PyObject *o, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *o)
    PyObject *PyList_GET_ITEM(PyObject *o, Py_ssize_t i)
    PyTypeObject *Py_TYPE(PyObject *o)
    unsigned long PyThread_get_thread_ident()
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False

cdef extern from *:
    """
    /* Have the vectorcall protocol call what the objects of a type hold at this offset. */
    static void fsm_set_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    void fsm_set_vectorcall(PyTypeObject *type, Py_ssize_t offset)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject:
        pass
    ctypedef struct PyArray_Descr:
        int type_num
    PyTypeObject PyArray_Type
    int NPY_ARRAY_C_CONTIGUOUS
    int NPY_ARRAY_ALIGNED
    int NPY_ARRAY_WRITEABLE
    int NPY_ARRAY_OWNDATA
    int PyArray_CheckExact(PyObject *o)
    int PyArray_FLAGS(PyArrayObject *o)
    int PyArray_NDIM(PyArrayObject *o)
    npy_intp *PyArray_DIMS(PyArrayObject *o)
    npy_intp *PyArray_STRIDES(PyArrayObject *o)
    char *PyArray_BYTES(PyArrayObject *o)
    int PyArray_ITEMSIZE(PyArrayObject *o)
    int PyArray_TYPE(PyArrayObject *o)
    bint PyArray_ISNOTSWAPPED(PyArrayObject *o)
    bint PyArray_DescrCheck(PyObject *o)
    bint PyDataType_ISNOTSWAPPED(PyArray_Descr *descr)
    int PyArray_DescrConverter(PyObject *o, PyArray_Descr **descr) except 0
    PyArray_Descr *PyArray_DescrFromType(int number)
    object PyArray_NewFromDescr(
        PyTypeObject *subtype, PyArray_Descr *descr, int nd, const npy_intp *dims,
        const npy_intp *strides, void *data, int flags, PyObject *obj
    )
    object PyArray_FromAny(
        PyObject *o, PyArray_Descr *descr, int min_ndim, int max_ndim, int flags, PyObject *context
    )
    object PyArray_NewLikeArray(
        PyArrayObject *prototype, int order, PyArray_Descr *descr, int subok
    )
    object PyArray_Return(PyArrayObject *array)
    ctypedef struct PyDataMem_Handler:
        pass
    PyObject *PyDataMem_DefaultHandler
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object handler)

cdef extern from "numpy/arrayscalars.h":
    ctypedef struct PyFloatScalarObject:
        float obval
    ctypedef struct PyDoubleScalarObject:
        double obval
    ctypedef struct PyIntScalarObject:
        int obval
    ctypedef struct PyLongScalarObject:
        long obval
    ctypedef struct PyLongLongScalarObject:
        long long obval
    PyTypeObject PyFloatArrType_Type
    PyTypeObject PyDoubleArrType_Type
    PyTypeObject PyIntArrType_Type
    PyTypeObject PyLongArrType_Type
    PyTypeObject PyLongLongArrType_Type
    PyObject *PyArrayScalar_True
    PyObject *PyArrayScalar_False

cdef extern from "arrays.h" nogil:
    enum fsm_function:
        FSM_SOFTMAX
        FSM_LOG_SOFTMAX
        FSM_LOGSUMEXP
        FSM_SOFTMAX_BACKWARD
        FSM_LOG_SOFTMAX_BACKWARD
        FSM_CROSS_ENTROPY
        FSM_SEGMENT_SOFTMAX
        FSM_SEGMENT_LOG_SOFTMAX
        FSM_SEGMENT_LOGSUMEXP
        FSM_FUNCTIONS
    enum fsm_dtype:
        FSM_F32
        FSM_F64
        FSM_F16
        FSM_BF16
        FSM_BOOL
        FSM_I8
        FSM_U8
        FSM_I16
        FSM_U16
        FSM_I32
        FSM_U32
        FSM_I64
        FSM_U64
    enum:  # fsm_operand, as indices
        FSM_X
        FSM_Y
        FSM_MASK
        FSM_TEMPERATURE
        FSM_WEIGHT
        FSM_OUT
        FSM_GRAD
        FSM_OPERANDS
    enum fsm_status:
        FSM_NO_MEMORY
        FSM_BAD_INDEX
        FSM_FORKED
    enum:
        FSM_UNALIGNED
        FSM_SWAPPED
    ctypedef struct fsm_kernels:
        const char *name
    ctypedef struct fsm_temperature:
        int tempered
    ctypedef struct fsm_dimension:
        size_t extent
        ptrdiff_t step[7]
    ctypedef struct fsm_plan:
        const fsm_kernels *kernels
        fsm_function function
        fsm_dtype computing
        char *base[7]
        fsm_dtype dtype[7]
        unsigned char foreign[7]
        fsm_temperature temperature
        double smoothing
        double weight
        int64_t ignored
        bint ignores
        int fresh
        int unmapped
        int outer
        int inner
        fsm_dimension segments
        fsm_dimension dimension[65]
    size_t FSM_ASK_EVERY
    bint fsm_is_integer(fsm_dtype dtype)
    void fsm_append(fsm_plan *plan, int first, int *count, const fsm_dimension *added)
    fsm_temperature fsm_make_temperature(double temperature, fsm_dtype computing)
    bint fsm_run_packed(const fsm_plan *plan, size_t elements, size_t n)
    size_t fsm_compiled(const fsm_kernels *const **tables)
    int fsm_supported(const fsm_kernels *kernels)
    void fsm_detect()

cdef extern from "portable.h":
    bint FSM_FAST_FMA

cdef extern from "_interface.h":
    const void *fsm_interface(const fsm_kernels *chosen)

cdef extern from *:
    """
    #define FASTSOFTMAX_ONLY_TYPES
    #include "include/fastsoftmax.h"
    """
    const char *FASTSOFTMAX_CAPSULE

cdef extern from "_memory.h":
    size_t FSM_FRESH_ABOVE
    PyDataMem_Handler *fsm_keeping_handler(const PyDataMem_Handler *of_numpy)
    bint fsm_is_unused(const void *data)

cdef extern from "_threads.h":
    void fsm_limit_helpers(size_t most)
    void fsm_forget_helpers()
    int fsm_execute(fsm_plan *plan)
    int fsm_execute_released(
        fsm_plan *plan, size_t elements, size_t threads, bint is_main
    ) except? -1

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
