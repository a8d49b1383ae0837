"""The public functions inside numba's nopython mode. Only numba's entry point loads this.

Design
------
(a) Each public function has an overload with the same signature, which decides while a call is
    compiled: what it does not take is an error of typing that says what is taken.
(b) Compiled code names the functions of ``fastsoftmax.h`` as symbols, which `init` gives LLVM the
    addresses of, in each process: so code in numba's cache is right in the next one.
(c) Rows that do not lie one after the other are copied; results always do.
"""

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable

import fastsoftmax
from fastsoftmax import _interface

# The members of the structure in fastsoftmax.h, in its order.
ABI = 1
CAPSULE = b"fastsoftmax.functions"
MEMBERS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax_backward",
    "log_softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_targets",
    "segment_softmax",
    "segment_log_softmax",
    "segment_logsumexp",
)
SUFFIXES = {types.float32: "f32", types.float64: "f64"}
NOT_IMPORTED, MISSHAPEN, OVERLAPPING = 4, 5, 6
NO_LABEL_IS_IGNORED = -(2**63)

_reasons_for_none: list[str] = []


def init() -> None:
    """Make the functions known to numba; its entry point ``numba_extensions`` calls this."""
    names = [f"{member}_{suffix}" for suffix in SUFFIXES.values() for member in MEMBERS]
    try:
        addresses = _addresses(_interface.capsule(), len(names))
    except ImportError as error:
        _reasons_for_none.append(str(error))
        addresses = [_address_of_none] * len(names)
    for name, address in zip(names, addresses, strict=True):
        binding.add_symbol(_symbol(name), address)


def _addresses(capsule: object, count: int) -> list[int]:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    head = 2 * ctypes.sizeof(ctypes.c_uint32)
    table = get_pointer(capsule, CAPSULE)
    return list((ctypes.c_size_t * count).from_address(table + head))


@ctypes.CFUNCTYPE(ctypes.c_int)
def _none() -> int:
    """Stand in for each function where there is none, for code that numba has in its cache."""
    return NOT_IMPORTED


_address_of_none = ctypes.cast(_none, ctypes.c_void_p).value or 0


def _symbol(name: str) -> str:
    return f"fastsoftmax_{ABI}_{name}"


# ---- what a call may be given, decided while it is compiled ----


def _constant(kind: Any) -> Any:
    """Return the value of an argument that is a constant; None where it is not.

    An argument that is left out comes as its default, or as a type that has it.
    """
    if isinstance(kind, types.Omitted):
        return kind.value
    if isinstance(kind, types.Literal):
        return kind.literal_value
    return None if isinstance(kind, types.Type) else kind


def _is_absent(kind: Any) -> bool:
    """Whether an argument is None."""
    value = kind.value if isinstance(kind, types.Omitted) else kind
    return value is None or isinstance(value, types.NoneType)


def _refuse(**arguments: Any) -> None:
    for name, kind in arguments.items():
        if not _is_absent(kind):
            raise TypingError(
                f"{name}= is not taken inside numba, got {kind}; call the function from "
                "Python for it"
            )


def _take_array(name: str, kind: Any, like: Any = None, ndim: int | None = None) -> str:
    """Check an array of rows; return which functions take it."""
    if _reasons_for_none:
        raise TypingError(_reasons_for_none[0])
    if not isinstance(kind, types.Array) or kind.dtype not in SUFFIXES or kind.ndim == 0:
        raise TypingError(
            f"{name} must be an array of float32 or float64 with one axis or more inside numba, "
            f"got {kind}"
        )
    if like is not None and (kind.dtype, kind.ndim) != (like.dtype, ndim or like.ndim):
        raise TypingError(
            f"{name} must be an array of {like.dtype} with {ndim or like.ndim} axes, got {kind}"
        )
    return SUFFIXES[kind.dtype]


def _take_out(name: str, kind: Any, like: Any, ndim: int) -> None:
    """Check an array for results of the dtype of `like` with `ndim` axes, or None."""
    if _is_absent(kind):
        return
    if (
        not isinstance(kind, types.Array)
        or (kind.dtype, kind.ndim, kind.layout) != (like.dtype, ndim, "C")
        or not kind.mutable
    ):
        raise TypingError(
            f"{name} must be a writeable C-contiguous array of {like.dtype} with {ndim} axes "
            f"inside numba, or None, got {kind}"
        )


def _take_axis(kind: Any, ndim: int) -> None:
    if _constant(kind) not in (-1, ndim - 1):
        raise TypingError(f"axis must be the last one, -1, as a constant inside numba, got {kind}")


def _take_number(name: str, kind: Any) -> None:
    if _constant(kind) is not None and not isinstance(_constant(kind), (bool, str)):
        return
    if not isinstance(kind, (types.Integer, types.Float)):
        raise TypingError(f"{name} must be one real number inside numba, got {kind}")


def _take_flag(name: str, kind: Any) -> bool:
    value = _constant(kind)
    if not isinstance(value, bool):
        raise TypingError(f"{name} must be True or False as a constant inside numba, got {kind}")
    return value


# ---- calls of the C functions ----

# Inlined, or counting the references to arrays takes as long as a short row.
_overload = functools.partial(overload, prefer_literal=True, jit_options={"forceinline": True})


@intrinsic(prefer_literal=True)
def _call(typingctx, name, refused, *arguments):
    """Call a C function by its name, unless a status says already what is wrong; return its status.

    Arrays are given by their memory, None by no memory. What is raised is raised after the call
    alone, so that numba's compiler finds pairs of references which it need not count.
    """

    def generate(context, builder, signature, values):
        given = []

        def give(kind, value):
            if isinstance(kind, types.BaseTuple):
                for part, member in zip(kind, cgutils.unpack_tuple(builder, value), strict=True):
                    give(part, member)
            elif isinstance(kind, types.Array):
                memory = context.make_array(kind)(context, builder, value).data
                given.append(builder.bitcast(memory, cgutils.voidptr_t))
            elif isinstance(kind, types.NoneType):
                given.append(ir.Constant(cgutils.voidptr_t, None))
            else:
                wide = types.float64 if isinstance(kind, types.Float) else types.int64
                given.append(context.cast(builder, value, kind, wide))

        give(signature.args[2], values[2])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.IntType(32), [value.type for value in given]),
            _symbol(name.literal_value),
        )
        status = cgutils.alloca_once_value(builder, values[1])
        with builder.if_then(cgutils.is_null(builder, values[1]), likely=True):
            builder.store(builder.call(function, given), status)
        return builder.load(status)

    return types.int32(name, types.int32, types.StarArgTuple(arguments)), generate


@register_jitable(forceinline=True)
def _check(status):
    if status != 0:
        if status == 1:
            raise MemoryError("no memory for the scratch rows")
        if status == 2:
            raise IndexError("a label is not below the number of classes, or negative")
        if status == 3:
            raise ValueError(
                "temperature must be finite and above 0, label_smoothing from 0 to 1, and "
                "sample_weight finite"
            )
        if status == MISSHAPEN:
            raise ValueError("out must have the shape of the result")
        if status == OVERLAPPING:
            raise ValueError(
                "out must not overlap an operand in part inside numba: copy that first"
            )
        raise RuntimeError(
            "fastsoftmax has no compiled functions here, and had when this was cached"
        )


def _packed(x):
    """Return rows that lie one after the other: a copy where these do not."""


@_overload(_packed)
def _typed_packed(x):
    return (lambda x: x) if x.layout == "C" else (lambda x: np.ascontiguousarray(x))


def _rows(x):
    """Return how many rows there are."""


@_overload(_rows)
def _typed_rows(x):
    if x.ndim == 1:
        return lambda x: 1

    def count(x):
        product = 1
        for extent in x.shape[:-1]:
            product *= extent
        return product

    return count


@intrinsic
def _misplaced(typingctx, out, shape, operand):
    """Return MISSHAPEN for another shape of `out`, OVERLAPPING for a part of an operand; else 0."""

    def generate(context, builder, signature, values):
        def ends(array):
            start = builder.ptrtoint(array.data, cgutils.intp_t)
            return start, builder.add(start, builder.mul(array.nitems, array.itemsize))

        result = context.make_array(out)(context, builder, values[0])
        start, end = ends(result)
        first, last = ends(context.make_array(operand)(context, builder, values[2]))
        overlaps = builder.and_(
            builder.icmp_unsigned("!=", start, first),
            builder.and_(
                builder.icmp_unsigned("<", start, last), builder.icmp_unsigned("<", first, end)
            ),
        )
        status = builder.select(
            overlaps, *(ir.Constant(ir.IntType(32), n) for n in (OVERLAPPING, 0))
        )
        lengths = cgutils.unpack_tuple(builder, result.shape)
        for given, wanted in zip(lengths, cgutils.unpack_tuple(builder, values[1]), strict=True):
            differs = builder.icmp_signed("!=", given, wanted)
            status = builder.select(differs, ir.Constant(ir.IntType(32), MISSHAPEN), status)
        return status

    return types.int32(out, shape, operand), generate


def _result(out, x):
    """Return memory for a result of the shape of `x`: `out`, or a new array."""


@_overload(_result)
def _typed_result(out, x):
    if _is_absent(out):
        return lambda out, x: np.empty(x.shape, x.dtype)
    return lambda out, x: out


def _shape_of_numbers(x, keepdims):
    """Return the shape of one number a row."""


@_overload(_shape_of_numbers)
def _typed_shape_of_numbers(x, keepdims):
    if _constant(keepdims):
        return lambda x, keepdims: x.shape[:-1] + (1,)
    return lambda x, keepdims: x.shape[:-1]


def _given_numbers(out, x, keepdims):
    """Return memory for one number a row: `out`, or a new array."""


@_overload(_given_numbers)
def _typed_given_numbers(out, x, keepdims):
    if _is_absent(out):
        return lambda out, x, keepdims: np.empty(_shape_of_numbers(x, keepdims), x.dtype)
    return lambda out, x, keepdims: out


def _delivered(out, result):
    """Return a result: a new array without axes as a number."""


@_overload(_delivered)
def _typed_delivered(out, result):
    if _is_absent(out) and result.ndim == 0:
        return lambda out, result: result[()]
    return lambda out, result: result


def _labels(labels):
    """Return labels that lie one after the other: int64, or the probabilities that they are."""


@_overload(_labels)
def _typed_labels(labels):
    if isinstance(labels, types.Integer):
        return lambda labels: np.full(1, labels, np.int64)
    if labels.dtype in SUFFIXES or (labels.dtype == types.int64 and labels.layout == "C"):
        return lambda labels: _packed(labels)
    return lambda labels: labels.astype(np.int64)


def _weights(weights, rows):
    """Return weights that lie one after the other, as float64, or None."""


@_overload(_weights)
def _typed_weights(weights, rows):
    if _is_absent(weights):
        return lambda weights, rows: None
    if isinstance(weights, types.Array):
        if weights.dtype == types.float64 and weights.layout == "C":
            return lambda weights, rows: weights
        return lambda weights, rows: weights.astype(np.float64)
    return lambda weights, rows: np.full(rows, weights, np.float64)


def _part(out, index):
    """Return one of a pair of buffers, which may be None altogether, as may each of them."""


@_overload(_part)
def _typed_part(out, index):
    if isinstance(out, types.BaseTuple):
        return (lambda out, index: out[0]) if _constant(index) == 0 else (lambda out, index: out[1])
    if _constant(index) == 0:
        return lambda out, index: out
    return lambda out, index: None


# ---- the functions ----


def _overload_softmax(name: str) -> None:
    @_overload(getattr(fastsoftmax, name))
    def typed(x, axis=-1, where=None, out=None, dtype=None, temperature=1.0, workers=None):
        symbol = f"{name}_{_take_array('x', x)}"
        _take_axis(axis, x.ndim)
        _take_out("out", out, x, x.ndim)
        _take_number("temperature", temperature)
        _refuse(where=where, dtype=dtype, workers=workers)

        def compute(x, axis=-1, where=None, out=None, dtype=None, temperature=1.0, workers=None):
            rows = _packed(x)
            result = _result(out, rows)
            wrong = _misplaced(result, rows.shape, rows)
            n, number = rows.shape[-1], float(temperature)
            _check(_call(symbol, wrong, rows, result, _rows(rows), n, number))
            return result

        return compute


def _overload_backward(name: str) -> None:
    @_overload(getattr(fastsoftmax, name))
    def typed(grad_output, output, axis=-1, where=None, out=None, workers=None):
        symbol = f"{name}_{_take_array('grad_output', grad_output)}"
        _take_array("output", output, like=grad_output)
        _take_axis(axis, output.ndim)
        _take_out("out", out, output, output.ndim)
        _refuse(where=where, workers=workers)

        def compute(grad_output, output, axis=-1, where=None, out=None, workers=None):
            if grad_output.shape != output.shape:
                raise ValueError("grad_output and output must have the same shape")
            gradients, outputs = _packed(grad_output), _packed(output)
            result = _result(out, gradients)
            wrong = max(
                _misplaced(result, gradients.shape, gradients),
                _misplaced(result, outputs.shape, outputs),
            )
            count, n = _rows(outputs), outputs.shape[-1]
            _check(_call(symbol, wrong, gradients, outputs, result, count, n))
            return result

        return compute


for _name in ("softmax", "log_softmax"):
    _overload_softmax(_name)
    _overload_backward(f"{_name}_backward")


@_overload(fastsoftmax.logsumexp)
def _typed_logsumexp(
    x,
    axis=-1,
    b=None,
    where=None,
    keepdims=False,
    return_sign=False,
    out=None,
    dtype=None,
    workers=None,
):
    symbol = f"logsumexp_{_take_array('x', x)}"
    _take_axis(axis, x.ndim)
    keeps = _take_flag("keepdims", keepdims)
    _take_out("out", out, x, x.ndim - (not keeps))
    _refuse(b=b, where=where, dtype=dtype, workers=workers)
    if _take_flag("return_sign", return_sign):
        raise TypingError("return_sign=True is not taken inside numba: it is 1 without b")

    def compute(
        x,
        axis=-1,
        b=None,
        where=None,
        keepdims=False,
        return_sign=False,
        out=None,
        dtype=None,
        workers=None,
    ):
        rows = _packed(x)
        result = _given_numbers(out, rows, keeps)
        wrong = _misplaced(result, _shape_of_numbers(rows, keeps), rows)
        _check(_call(symbol, wrong, rows, result, _rows(rows), rows.shape[-1]))
        return _delivered(out, result)

    return compute


@_overload(fastsoftmax.softmax_cross_entropy)
def _typed_softmax_cross_entropy(
    logits,
    labels,
    axis=-1,
    where=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    temperature=1.0,
    return_grad=False,
    out=None,
    dtype=None,
    workers=None,
):
    suffix = _take_array("logits", logits)
    ndim = logits.ndim - 1
    _take_axis(axis, logits.ndim)
    _take_labels(labels, logits)
    _take_weights(sample_weight, ndim)
    _take_number("label_smoothing", label_smoothing)
    _take_number("temperature", temperature)
    _refuse(where=where, dtype=dtype, workers=workers)
    has_grad = _take_flag("return_grad", return_grad)
    if has_grad and isinstance(out, types.BaseTuple) and len(out) == 2:
        _take_out("out[0]", out[0], logits, ndim)
        _take_out("out[1]", out[1], logits, ndim + 1)
    else:
        _take_out("out", out, logits, ndim)
    if isinstance(labels, types.Array) and labels.dtype in SUFFIXES:
        if not _is_absent(ignore_index):
            raise TypingError("ignore_index must be None with probabilities as labels")
        symbol = f"softmax_cross_entropy_targets_{suffix}"
        given_options = _options_of_targets
    else:
        if not _is_absent(ignore_index) and not isinstance(ignore_index, (int, types.Integer)):
            raise TypingError(f"ignore_index must be an integer or None, got {ignore_index}")
        symbol = f"softmax_cross_entropy_{suffix}"
        given_options = _options_of_labels

    def compute(
        logits,
        labels,
        axis=-1,
        where=None,
        sample_weight=None,
        ignore_index=None,
        label_smoothing=0.0,
        temperature=1.0,
        return_grad=False,
        out=None,
        dtype=None,
        workers=None,
    ):
        rows, given = _packed(logits), _labels(labels)
        _check_shapes(rows, labels, sample_weight)
        count = _rows(rows)
        losses = _given_numbers(_part(out, 0), rows, False)
        grads = _given_grads(_part(out, 1), rows, has_grad)
        weights, options = _weights(sample_weight, count), given_options(ignore_index)
        numbers = options + (float(label_smoothing), float(temperature))
        n = rows.shape[-1]
        wrong = max(_misplaced(losses, rows.shape[:-1], rows), _misplaced_grads(grads, rows))
        _check(_call(symbol, wrong, rows, given, weights, losses, grads, count, n, numbers))
        return _loss_and_grad(_delivered(_part(out, 0), losses), grads)

    return compute


def _take_labels(kind: Any, logits: Any) -> None:
    if isinstance(kind, types.Array) and kind.dtype in SUFFIXES:
        _take_array("labels", kind, like=logits)
    elif logits.ndim == 1 and isinstance(kind, types.Integer):
        return
    elif not (
        isinstance(kind, types.Array)
        and isinstance(kind.dtype, types.Integer)
        and kind.ndim == logits.ndim - 1
    ):
        raise TypingError(
            "labels must be class indices, integers in the shape of the losses, or probabilities "
            f"in the dtype and the shape of the logits inside numba, got {kind}"
        )


def _take_weights(kind: Any, ndim: int) -> None:
    if _is_absent(kind):
        return
    if not isinstance(kind, types.Array):
        _take_number("sample_weight", kind)
    elif kind.dtype not in SUFFIXES or kind.ndim != ndim:
        raise TypingError(
            "sample_weight must be a number, or float32 or float64 in the shape of the losses "
            f"inside numba, got {kind}"
        )


def _options_of_labels(ignore_index):
    """Return what the function takes of labels alone: the one to ignore."""


@_overload(_options_of_labels)
def _typed_options_of_labels(ignore_index):
    if _is_absent(ignore_index):
        return lambda ignore_index: (NO_LABEL_IS_IGNORED,)
    return lambda ignore_index: (np.int64(ignore_index),)


@register_jitable(forceinline=True)
def _options_of_targets(ignore_index):
    return ()


def _check_shapes(logits, labels, weights):
    """Refuse labels and weights of other shapes than those of the logits."""


@_overload(_check_shapes)
def _typed_check_shapes(logits, labels, weights):
    are_indices = isinstance(labels, types.Array) and labels.ndim < logits.ndim
    are_probabilities = isinstance(labels, types.Array) and not are_indices
    has_weights = isinstance(weights, types.Array)

    def check(logits, labels, weights):
        if are_indices and labels.shape != logits.shape[:-1]:
            raise ValueError("labels must have the shape of the losses")
        if are_probabilities and labels.shape != logits.shape:
            raise ValueError("labels must have the shape of the logits")
        if has_weights and weights.shape != logits.shape[:-1]:
            raise ValueError("sample_weight must have the shape of the losses")

    return check


def _given_grads(out, x, has_grad):
    """Return memory for gradients: `out`, a new array, or None."""


@_overload(_given_grads)
def _typed_given_grads(out, x, has_grad):
    if _constant(has_grad):
        return lambda out, x, has_grad: _result(out, x)
    return lambda out, x, has_grad: None


def _misplaced_grads(grad, x):
    """Return what is wrong with memory for gradients, if there is any."""


@_overload(_misplaced_grads)
def _typed_misplaced_grads(grad, x):
    if _is_absent(grad):
        return lambda grad, x: np.int32(0)
    return lambda grad, x: _misplaced(grad, x.shape, x)


def _loss_and_grad(loss, grad):
    """Return the losses, or the pair where there are gradients."""


@_overload(_loss_and_grad)
def _typed_loss_and_grad(loss, grad):
    return (lambda loss, grad: loss) if _is_absent(grad) else (lambda loss, grad: (loss, grad))


def _take_segments(data: Any, indptr: Any) -> str:
    if getattr(data, "ndim", 1) != 1:
        raise TypingError(f"data must have one axis inside numba, got {data}")
    if not (
        isinstance(indptr, types.Array)
        and isinstance(indptr.dtype, types.Integer)
        and indptr.ndim == 1
    ):
        raise TypingError(f"indptr must be an array of integers with one axis, got {indptr}")
    return _take_array("data", data)


@register_jitable(forceinline=True)
def _check_segments(status):
    if status == 2:
        raise ValueError("indptr must start with 0, not decrease, and end with len(data)")
    _check(status)


@register_jitable(forceinline=True)
def _segments(indptr):
    if len(indptr) == 0:
        raise ValueError("indptr must not be empty")
    return len(indptr) - 1


def _overload_segment_softmax(name: str) -> None:
    @_overload(getattr(fastsoftmax, name))
    def typed(data, indptr, out=None, temperature=1.0, workers=None):
        symbol = f"{name}_{_take_segments(data, indptr)}"
        _take_out("out", out, data, 1)
        _take_number("temperature", temperature)
        _refuse(workers=workers)

        def compute(data, indptr, out=None, temperature=1.0, workers=None):
            values, pointers, segments = _packed(data), _labels(indptr), _segments(indptr)
            result = _result(out, values)
            count, number = len(values), float(temperature)
            wrong = _misplaced(result, values.shape, values)
            status = _call(symbol, wrong, values, pointers, result, segments, count, number)
            _check_segments(status)
            return result

        return compute


_overload_segment_softmax("segment_softmax")
_overload_segment_softmax("segment_log_softmax")


@_overload(fastsoftmax.segment_logsumexp)
def _typed_segment_logsumexp(data, indptr, out=None, workers=None):
    symbol = f"segment_logsumexp_{_take_segments(data, indptr)}"
    _take_out("out", out, data, 1)
    _refuse(workers=workers)

    def compute(data, indptr, out=None, workers=None):
        values, pointers, segments = _packed(data), _labels(indptr), _segments(indptr)
        result = _result_of_segments(out, values, segments)
        wrong = _misplaced(result, (segments,), values)
        _check_segments(_call(symbol, wrong, values, pointers, result, segments, len(values)))
        return result

    return compute


def _result_of_segments(out, data, segments):
    """Return memory for one number a segment: `out`, or a new array."""


@_overload(_result_of_segments)
def _typed_result_of_segments(out, data, segments):
    if _is_absent(out):
        return lambda out, data, segments: np.empty(segments, data.dtype)

    return lambda out, data, segments: out
