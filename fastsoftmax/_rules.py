"""What is valid, said once: arguments are checked and brought into the one form of a `Plan`.

Each rule raises an error that names the argument, what it was, and what is accepted, before
anything is written. Code of the caller's that runs on the way (``__index__``, ``__array__`` ...)
cannot change what was checked: numbers are made numbers, and all arguments arrays (`_array`),
before any array is looked at; from then on arrays are held by views of our own (`_base`).
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastsoftmax import _workers

try:
    from numpy.exceptions import AxisError, TooHardError
except ImportError:
    raise ImportError(
        f"fastsoftmax needs NumPy 1.26 or newer, and this is NumPy {np.__version__}; upgrade it: "
        f"`{sys.executable or 'python'} -m pip install --upgrade numpy`"
    ) from None

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

FLOATS = "float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble"
OPERAND = f"of dtype bool, an integer dtype, {FLOATS}"
ACCEPTED = {
    "where": "of dtype bool",
    "labels": "class indices of an integer dtype or probabilities of a floating-point dtype",
    "indptr": "of an integer dtype",
    "dtype": FLOATS,
    "temperature": "a real number or an array of them",
    "sample_weight": "a real number or an array of them",
}
"""What an argument must be, by its name; any other is an operand."""

_BUILT_IN_FLOATS: tuple[type, ...] = (np.float16, np.float32, np.float64, np.longdouble)
FIRST_USER_DEFINED = 256  # NumPy's NPY_USERDEF: other packages' types have numbers from here on


class Plan(NamedTuple):
    """A valid call. `x` to `ignore_index` are in the order of the arguments in `_native.pyx`."""

    function: str
    result: np.dtype[Any]
    """The result's dtype."""
    x: Array
    """The first operand, a base array: logits, data, or the gradient of an output."""
    y: Array | None = None
    """The output of the forward function, labels (class indices: in range), row pointers, or the
    weights `b` of a logsumexp, broadcastable to x."""
    axis: int | tuple[int, ...] = 0
    """Counted from 0; a tuple is sorted and holds none, or two or more."""
    where: Array | None = None
    """Of dtype bool, broadcastable to x."""
    out: Array | None = None
    """A base array of the result's shape and dtype that may be written while inputs are read."""
    dtype: np.dtype[Any] | None = None
    temperature: float | Array = 1.0
    """An array is broadcastable to x with the reduced axes of length 1."""
    workers: int | None = None
    keepdims: bool = False
    label_smoothing: float = 0.0
    return_grad: bool = False
    return_sign: bool = False
    sample_weight: float | Array | None = None
    """An array is broadcastable to the shape of the losses."""
    ignore_index: int | None = None
    into: tuple[Array | None, ...] = ()
    """What the caller gave for each result, to be returned; nothing if for none. It is written
    afterwards where `out` or `grad` is None."""
    grad: Array | None = None
    """As `out`, for the gradient of a cross-entropy."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a computation needs to know, in the order of `ARGUMENTS`."""
        out = self.out if self.grad is None else (self.out, self.grad)
        return tuple(out if name == "out" else getattr(self, name) for name in ARGUMENTS)

    @property
    def axes(self) -> tuple[int, ...]:
        """The reduced axes, in order."""
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result, or of the first of two."""
        if self.function == "segment_logsumexp":
            assert self.y is not None
            return (len(self.y) - 1, *self.x.shape[1:])
        return _result_shape(self.function, self.x.shape, self.axes, self.keepdims)


ARGUMENTS = Plan._fields[2:-2]
"""What a computation needs to know."""
FUNCTIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax_backward",
    "log_softmax_backward",
    "softmax_cross_entropy",
    "segment_softmax",
    "segment_log_softmax",
    "segment_logsumexp",
)


# ---- one rule for each function ----


def forward(
    function: str,
    x: Any,
    axis: Any,
    *,
    where: Any,
    out: Any,
    dtype: Any,
    workers: Any,
    temperature: Any = 1.0,
    b: Any = None,
    keepdims: Any = False,
    return_sign: Any = False,
) -> Plan:
    """Softmax, log_softmax or logsumexp."""
    divisor = _number_or_array("temperature", temperature)
    kept = _flag("keepdims", keepdims)
    with_sign = _flag("return_sign", return_sign)
    count = _count(workers)
    axes = _integers(axis)
    asked = _asked(dtype)
    x = _array("x", x, has_mask=True)
    weights = None if b is None else _array("b", b)
    where, out = _mask_array(where), _output_array(out)
    x = _operand("x", x)
    if weights is not None:
        weights = _operand("b", weights)
        x = _enlarged(x, weights)
        _check_finite("b", weights)
        if asked is None:  # a plain number has no dtype of its own
            asked = _float_of(x.dtype if type(b) in (int, float) else _together(x, weights))
    numbers = _axes(axes, axis, x.ndim)
    result = _float_of(x.dtype) if asked is None else asked
    mask = _mask(where, x.shape)
    divisor = _temperature(divisor, x.shape, numbers)
    x = _cast_early(x, asked, weights is not None)
    # By position, in the order of the fields: keywords would take a 30th of a small call.
    plan = Plan(
        function, result, x, weights, numbers, mask, None, asked, divisor, count, kept,
        return_sign=with_sign,
    )  # fmt: skip
    return _with_outputs(plan, out)


def backward(
    function: str,
    grad_output: Any,
    output: Any,
    axis: Any,
    *,
    out: Any,
    workers: Any,
    where: Any = None,
) -> Plan:
    """Gradient of softmax or of log_softmax."""
    count = _count(workers)
    axes = _integers(axis)
    has_mask = function == "log_softmax_backward"
    g = _array("grad_output", grad_output, has_mask=has_mask)
    y = _array("output", output, has_mask=has_mask)
    where, out = _mask_array(where), _output_array(out)
    g = _operand("grad_output", g)
    y = _operand("output", y)
    if g.shape != y.shape:
        raise ValueError(
            f"grad_output and output must have the same shape, got {g.shape} and {y.shape}"
        )
    plan = Plan(
        function,
        _common(g.dtype, y.dtype),
        x=g,
        y=y,
        axis=_axes(axes, axis, g.ndim),
        where=_mask(where, g.shape, "grad_output"),
        workers=count,
    )
    return _with_outputs(plan, out)


def cross_entropy(
    logits: Any,
    labels: Any,
    axis: Any,
    *,
    where: Any,
    sample_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    temperature: Any,
    return_grad: Any,
    out: Any,
    dtype: Any,
    workers: Any,
) -> Plan:
    """Losses, and gradients too if asked for."""
    smoothing = _number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {_shown(label_smoothing)}")
    divisor = _number_or_array("temperature", temperature)
    factor = None if sample_weight is None else _number_or_array("sample_weight", sample_weight)
    ignored = _label("ignore_index", ignore_index)
    with_gradient = _flag("return_grad", return_grad)
    count = _count(workers)
    axes = _integers(axis, several=False)
    asked = _asked(dtype)
    x = _array("logits", logits)
    y = _array("labels", labels)
    where = _mask_array(where)
    outputs = _output_pair(out, with_gradient=with_gradient)
    x = _operand("logits", x)
    if x.ndim == 0:
        raise ValueError(f"logits must have at least one axis, that of the classes; got {x}")
    classes = _axes(axes, axis, x.ndim)
    assert isinstance(classes, int)
    y = _labels(_base(y), x, classes, ignored, is_list=_is_list(labels))
    plan = Plan(
        "softmax_cross_entropy",
        _float_of(x.dtype) if asked is None else asked,
        x=_cast_early(x, asked, y.dtype == np.float64),
        y=y,
        axis=classes,
        where=_mask(where, x.shape, "logits"),
        dtype=asked,
        temperature=_temperature(divisor, x.shape, classes, "logits"),
        workers=count,
        label_smoothing=smoothing,
        return_grad=with_gradient,
        ignore_index=ignored,
    )
    return _with_outputs(plan._replace(sample_weight=_factor(factor, plan.shape)), *outputs)


def segments(
    function: str, data: Any, indptr: Any, *, out: Any, workers: Any, temperature: Any = 1.0
) -> Plan:
    """One of the functions of the rows that row pointers cut data into."""
    divisor = _number("temperature", temperature)
    _check_above_0(divisor, temperature)
    count = _count(workers)
    x = _array("data", data)
    y = _array("indptr", indptr)
    out = _output_array(out)
    x = _operand("data", x)
    if x.ndim == 0:
        raise ValueError(f"data must have at least one axis, which indptr cuts; got {x}")
    y = _pointers(_base(y), len(x), is_list=_is_list(indptr))
    plan = Plan(
        function,
        _float_of(x.dtype),
        x=x,
        y=y,
        temperature=divisor,
        workers=count,
    )
    return _with_outputs(plan, out)


# ---- arrays ----


def is_dask(value: Any) -> bool:
    """Whether a value is a Dask array, of which there is none before Dask is imported."""
    array = getattr(sys.modules.get("dask.array"), "Array", None)
    return array is not None and issubclass(type(value), array)


FILLS = {
    "where": "False",
    "logits": "-numpy.inf",
    "data": "-numpy.inf",
    "grad_output": "0",
    "output": "0",
}
"""What stands for a masked element in an argument that comes without a mask."""


def _array(name: str, value: Any, *, has_mask: bool = False) -> Array:
    """Return an array, refusing what would lose its meaning as a base array.

    Of an argument, code of the caller's runs here only. It may change any other array, so none is
    looked at before all arguments have been here.
    """
    if type(value) is np.ndarray:
        return value
    if is_dask(value):
        raise TypeError(
            f"{name} must not be a Dask array here, which would be computed at once; "
            f"pass {name}.compute()"
        )
    array = _converted(name, value)
    if isinstance(array, np.ma.MaskedArray):
        hint = f"{name}.filled({FILLS.get(name, 'value')})"
        if name == "out":
            hint = "out.data"
        elif has_mask:
            hint = f"{name}.data and where=~{name}.mask"
        raise TypeError(f"{name} must not be a MaskedArray, whose mask would be lost; pass {hint}")
    if isinstance(array, np.matrix):
        raise TypeError(f"{name} must not be a numpy.matrix; pass numpy.asarray({name})")
    if type(array).__array_ufunc__ is not np.ndarray.__array_ufunc__:
        raise TypeError(
            f"{name} must not be {_kind_of(array)}, whose unit or other meaning would be lost; "
            f"pass the plain numbers, as numpy.asarray({name}) gives them"
        )
    if array is not value and _base(array).dtype == object:
        raise _refused(name, f"object, from {_kind_of(value)}{_way_in(name, value, array)}")
    return array


def _base(array: Array) -> Array:
    """Return a base array of our own over the memory of any array, whatever its class says."""
    return np.asarray(array)[...]


def _is_list(value: Any) -> bool:
    """Whether a value is a list or a tuple, not asking it: `__class__` may be code."""
    return issubclass(type(value), (list, tuple))


OF_CONVERSION = frozenset({
    TypeError, ValueError, OverflowError, RuntimeError, NotImplementedError, AttributeError,
    KeyError, IndexError, SyntaxError, OSError,
})  # fmt: skip
"""What is raised where a value cannot be an array, a dtype or text. Any other error, derived from
these too, has a meaning to somebody: it may be a signal handler's, which can run at any moment. So
has RecursionError: a conversion that is tried again would double at every level of calls."""


def _converted(name: str, value: Any) -> Array:
    """Return what NumPy makes of a value; what goes wrong on the way is an error of ours."""
    try:
        return np.asanyarray(value)
    except Exception as error:
        if type(error) not in OF_CONVERSION:
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        if "inhomogeneous" in str(error):
            message = f"{name} must have rows of one length, got {_kind_of(value)} of several"
            if name in ("x", "data"):
                message += "; join them with numpy.concatenate and use segment_softmax"
            raise kind(message) from None
        message = f"{name} must be what numpy.asarray takes, got {_kind_of(value)}"
        raise kind(f"{message} ({type(error).__name__}: {error})") from error


def _refused(name: str, got: object, accepted: str = "") -> TypeError:
    return TypeError(f"{name} must be {accepted or ACCEPTED.get(name, OPERAND)}, got {got}")


def _kind_of(value: Any) -> str:
    """Name the type of a value, and the library that it is from."""
    if value is None:
        return "None"
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    is_known = library in ("builtins", "numpy", "__main__")
    text = kind.__name__ if is_known else f"{library} {kind.__name__}"
    return f"an {text}" if text[0] in "aeiouAEIOU" else f"a {text}"


def _way_in(name: str, value: Any, array: Array) -> str:
    """Say how the numbers in what NumPy makes objects of can be passed."""
    if hasattr(value, "tocsr"):
        stored = f", or its stored elements: m = {name}.tocsr(), segment_softmax(m.data, m.indptr)"
        return f"; pass {name}.toarray(){stored if name in ('x', 'data') else ''}"
    if hasattr(value, "to_numpy"):
        kinds = {"where": "bool, na_value=False", "labels": "int", "indptr": "int"}
        kind = kinds.get(name, "float, na_value=numpy.nan")
        return f"; pass its columns of numbers, nullable ones as {name}.to_numpy({kind})"
    if isinstance(value, Mapping):
        return f"; pass list({name}.values())"
    if isinstance(value, (list, tuple)):
        others = (_kind_of(e) for e in array.flat if not isinstance(e, (int, float, np.generic)))
        return f" that holds {next(others, 'an integer of more than 64 bits')}"
    return f"; pass list({name})" if isinstance(value, Iterable) else ""


def _operand(name: str, array: Array, accepted: str = "") -> Array:
    """Return an operand as a base array of an accepted dtype."""
    base = _base(array)
    _float_of(base.dtype, name, accepted)
    return base


def _float_of(dtype: np.dtype[Any], name: str = "x", accepted: str = "") -> np.dtype[Any]:
    """Return the dtype of the result for an operand of `dtype`."""
    if dtype.type in _BUILT_IN_FLOATS or _is_bfloat16(dtype):
        return dtype if dtype.isnative else dtype.newbyteorder("=")
    if dtype.kind in "biu" and dtype.num < FIRST_USER_DEFINED:
        return np.dtype(np.float64)
    raise _refused(name, dtype, accepted)


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    ml_dtypes = sys.modules.get("ml_dtypes")  # before it is imported, no array is of its dtype
    return ml_dtypes is not None and dtype.type is ml_dtypes.bfloat16


def _asked(dtype: Any) -> np.dtype[Any] | None:
    """Check the argument `dtype`."""
    if dtype is None:
        return None
    try:
        given = np.dtype(dtype)
    except Exception as error:
        if type(error) not in OF_CONVERSION:
            raise
        raise _refused("dtype", _shown(dtype)) from None
    if given.type in _BUILT_IN_FLOATS or _is_bfloat16(given):
        return given.newbyteorder("=")
    raise _refused("dtype", given)


def _cast_early(x: Array, dtype: np.dtype[Any] | None, is_wide: bool = False) -> Array:
    """Cast an input to `dtype` where the backends do not do it as they read: for rare formats.

    Where the computation `is_wide`, in float64, they read what x holds.
    """
    if dtype is None or x.dtype == dtype:
        return x
    if dtype.itemsize == 2 or dtype.char == "g" or x.dtype.char == "g":
        return cast(x, dtype)
    return cast(x, dtype) if is_wide and dtype == np.float32 and x.dtype.itemsize > 2 else x


def cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array in a dtype, without a warning."""
    with np.errstate(all="ignore"):
        return array.astype(dtype, copy=False)


def _common(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a gradient of these two is of."""
    a, b = _float_of(a), _float_of(b)
    if {a.itemsize, b.itemsize} == {2} and a != b:
        raise TypeError(
            f"grad_output and output must have a common dtype, got {a} and {b}; cast one of them"
        )
    return np.result_type(a, b)


def _mask_array(where: Any) -> Array | None:
    return None if where is None or where is True else _array("where", where)


def _mask(where: Array | None, shape: tuple[int, ...], of: str = "x") -> Array | None:
    if where is None:
        return None
    mask = _base(where)
    if mask.dtype != np.bool_:
        raise _refused("where", mask.dtype)
    _check_broadcast("where", mask, shape, f"the shape {{}} of {of}")
    return mask


def _check_broadcast(name: str, array: Array, shape: tuple[int, ...], of: str) -> None:
    """Check that an array broadcasts to a shape, which `of` has a place for."""
    try:
        np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} must be broadcastable to {of.format(shape)}, got shape {array.shape}"
        ) from None


def _check_finite(name: str, array: Array) -> None:
    infinite = ~np.isfinite(array)
    if _any(infinite):
        raise ValueError(f"{name} must be finite, got {_first(array, infinite)}")


def _first(array: Array, chosen: Array) -> str:
    """Describe the first element that is chosen, with its index where there are several."""
    at = tuple(int(i) for i in np.argwhere(chosen)[0])
    return f"{array[at]}{f' at index {at if len(at) > 1 else at[0]}' if at else ''}"


def _enlarged(x: Array, b: Array) -> Array:
    """Return x with the shape that it and its weights broadcast to together."""
    try:
        np.broadcast_to(b, x.shape)
    except ValueError:
        pass
    else:
        return x
    try:
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, b.shape))
    except (ValueError, RuntimeError):  # the latter for more than 32 dimensions
        raise ValueError(
            f"b must have a shape that broadcasts with the shape {x.shape} of x, got {b.shape}"
        ) from None


def _together(x: Array, b: Array) -> np.dtype[Any]:
    """Return the dtype of x and b together, as NumPy has it."""
    try:
        return np.result_type(x.dtype, b.dtype)
    except TypeError:
        raise TypeError(
            f"x and b must have a common dtype, got {x.dtype} and {b.dtype}; cast one of them"
        ) from None


# ---- results ----


def _result_shape(
    function: str, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[int, ...]:
    if function not in ("logsumexp", "softmax_cross_entropy"):
        return shape
    return tuple(1 if d in axes else n for d, n in enumerate(shape) if keepdims or d not in axes)


def _output_array(out: Any) -> Array | None:
    if out is None:
        return None
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {_kind_of(out)}")
    return _array("out", out)


def _output_pair(out: Any, *, with_gradient: bool) -> tuple[Array | None, Array | None]:
    """Return what a cross-entropy's `out` has for the losses and for the gradient."""
    if not isinstance(out, tuple):
        return _output_array(out), None
    if len(out) != 2:
        raise ValueError(f"out must be an array or a pair (loss, grad), got {len(out)} of them")
    loss, grad = (_output_array(given) for given in out)
    if grad is not None and not with_gradient:
        raise ValueError("out must not have a gradient without return_grad=True; pass (loss, None)")
    return loss, grad


def _with_outputs(plan: Plan, out: Array | None, grad: Array | None = None) -> Plan:
    """Return the plan with what was given for its results, checked.

    A result is written afterwards if an input is under it.
    """
    if out is None and grad is None:
        return plan
    bases = (
        None if out is None else _checked_output(plan, out, plan.shape),
        None if grad is None else _checked_output(plan, grad, plan.x.shape),
    )
    if plan.function == "softmax_cross_entropy":
        named = {"out's loss": bases[0], "out's gradient": bases[1], "labels": plan.y}
        _check_apart(named)
    loss, gradient = (None if base is None else _directly(plan, base) for base in bases)
    return plan._replace(out=loss, grad=gradient, into=(out, grad))


def _checked_output(plan: Plan, out: Array, shape: tuple[int, ...]) -> Array:
    base = _base(out)
    if base.dtype != plan.result:
        raise TypeError(f"out must be of dtype {plan.result}, the result's, got {base.dtype}")
    if base.shape != shape:
        raise ValueError(f"out must have the result's shape {shape}, got {base.shape}")
    if not base.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    return base


def _check_apart(named: dict[str, Array | None]) -> None:
    """Check that no result of two lies in the other or in the labels."""
    arrays = [(name, array) for name, array in named.items() if array is not None]
    for i, (name, array) in enumerate(arrays):
        for other_name, other in arrays[i + 1 :]:
            if _share_elements(array, other):
                raise ValueError(f"{name} must not overlap {other_name}; pass a copy")


def _share_elements(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type] # any integer
    except TooHardError:
        return True


def _directly(plan: Plan, base: Array) -> Array | None:
    """Return an array that may be written while inputs are read; None of any other."""
    elementwise = base.shape == plan.x.shape and "logsumexp" not in plan.function
    is_segments = plan.function.startswith("segment")
    inputs: list[tuple[Any, bool]] = [(plan.x, elementwise), (plan.where, False)]
    inputs.append((plan.y, elementwise and not is_segments))
    inputs += [(plan.temperature, False), (plan.sample_weight, False)]
    apart = base.flags.aligned and all(
        not isinstance(array, np.ndarray)
        or not np.may_share_memory(base, array)
        or (in_place and _is_same_memory(base, array))
        for array, in_place in inputs
    )
    return base if apart else None


def _is_same_memory(a: Array, b: Array) -> bool:
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def of_nothing(plan: Plan) -> Any:
    """Return the results of a call without elements: a sum of nothing is 0, and its log -inf."""
    results = [np.full(plan.shape, -np.inf if "logsumexp" in plan.function else 0, plan.result)]
    if plan.return_grad or plan.return_sign:
        results.append(np.zeros(plan.x.shape if plan.return_grad else plan.shape, plan.result))
    results = [result[()] for result in results]
    unwritten = plan._replace(out=None, grad=None)
    return delivered(unwritten, tuple(results) if len(results) > 1 else results[0])


def delivered(plan: Plan, results: Any) -> Any:
    """Return the results in what the caller has given for them, written if it is not yet."""
    if not plan.into:
        return results
    several = isinstance(results, tuple)
    found = list(results) if several else [results]
    for i, (into, written) in enumerate(zip(plan.into, (plan.out, plan.grad), strict=True)):
        if into is not None:
            if written is None:
                into[...] = found[i]
            found[i] = into
    return tuple(found) if several else found[0]


# ---- numbers ----


def _number(name: str, value: Any, accepted: str = "a real number") -> float:
    """Return a real number as a float."""
    if type(value) is float:
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        value = _operand(name, _array(name, value), accepted)
    try:
        if isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", False):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):  # ValueError: of a signalling NaN
        raise _refused(name, _shown(value), accepted) from None
    except OverflowError:
        return math.inf


def _number_or_array(name: str, value: Any) -> float | Array:
    """Return a number, or an array of one axis or more, neither of them looked at."""
    kind = type(value)
    if kind is float:
        return float(value)
    is_text = issubclass(kind, (str, bytes, bytearray))
    if is_text or not (hasattr(kind, "__array__") or hasattr(kind, "__len__")):
        return _number(name, value, ACCEPTED[name])
    array = _array(name, value)
    return array if array.ndim else _number(name, array, ACCEPTED[name])


def _check_above_0(number: float, given: Any) -> None:
    if not 0 < number < math.inf:
        raise ValueError(f"temperature must be finite and above 0, got {_shown(given)}")


def _temperature(
    given: float | Array, shape: tuple[int, ...], axes: int | tuple[int, ...], of: str = "x"
) -> float | Array:
    """Return a temperature, or one for each row as a base array."""
    if not isinstance(given, np.ndarray):
        _check_above_0(given, given)
        return given
    array = _operand("temperature", given)
    if array.dtype.char == "g":
        array = cast(array, np.dtype(np.float64))
    reduced = axes if isinstance(axes, tuple) else (axes,)
    rows = tuple(1 if d in reduced else n for d, n in enumerate(shape))
    _check_broadcast("temperature", array, rows, f"{{}}, the rows of {of}")
    with np.errstate(invalid="ignore"):
        invalid = ~((array > 0) & np.isfinite(array))
    if _any(invalid):
        raise ValueError(f"temperature must be finite and above 0, got {_first(array, invalid)}")
    return array


def _factor(given: float | Array | None, shape: tuple[int, ...]) -> float | Array | None:
    """Return a sample weight, or those of each row as a base array."""
    if not isinstance(given, np.ndarray):
        if given is not None and not math.isfinite(given):
            raise ValueError(f"sample_weight must be finite, got {given}")
        return given
    array = _operand("sample_weight", given)
    _check_broadcast("sample_weight", array, shape, "{}, the shape of the losses")
    _check_finite("sample_weight", array)
    return array


def _shown(value: Any) -> str:
    """Return what the caller gave as text, however large or broken that is."""
    try:
        text = repr(value)
    except Exception as error:  # of the caller's code, or of an integer of too many digits
        if type(error) not in OF_CONVERSION and type(error) is not RecursionError:
            raise
        text = _kind_of(value)
    return text if len(text) < 100 else f"{text[:100]}..."


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool and not isinstance(value, np.bool_):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def _label(name: str, value: Any) -> int | None:
    """Return what stands for a class index."""
    if value is None:
        return None
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must be an integer of 64 bits, got {_shown(value)}")
    return number


def _count(workers: Any) -> int | None:
    return None if workers is None else min(_workers.count("workers", workers), sys.maxsize)


def _integers(axis: Any, *, several: bool = True) -> tuple[int, ...] | None:
    """Return the axes as integers, whatever they stand for; None is all axes."""
    if type(axis) is int:
        return (axis,)
    if axis is None and several:
        return None
    given = axis if isinstance(axis, tuple) and several else (axis,)
    try:
        if any(isinstance(i, (bool, np.bool_)) for i in given):
            raise TypeError
        return tuple(operator.index(i) for i in given)
    except TypeError:
        accepted = ", a tuple of integers or None" if several else ", the axis of the classes"
        raise TypeError(f"axis must be an integer{accepted}, got {_shown(axis)}") from None


def _axes(integers: tuple[int, ...] | None, given: Any, ndim: int) -> int | tuple[int, ...]:
    """Return the axes, counted from 0 and in order, so that the order of a tuple changes no bit."""
    axes = []
    for axis in range(ndim) if integers is None else integers:
        if ndim == 0 and axis in (-1, 0):  # as NumPy's reductions: a scalar is a row of itself
            continue
        if not -ndim <= axis < ndim:
            raise AxisError(axis, ndim)
        axes.append(axis % ndim)
    if len(axes) == 1:
        return axes[0]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must not name an axis twice, got {_shown(given)}")
    return tuple(sorted(axes))


# ---- indices ----


def _labels(given: Array, logits: Array, axis: int, ignored: int | None, *, is_list: bool) -> Array:
    """Return labels: class indices in range or ignored, or probabilities of the logits' shape."""
    rows = logits.shape[:axis] + logits.shape[axis + 1 :]
    if given.size == 0 and is_list and given.shape != logits.shape:
        given = given.astype(np.intp)  # [] has no dtype of its own
    if given.dtype.kind == "b":
        as_type = "float32" if given.shape == logits.shape else "int"
        raise _refused("labels", f"bool; pass numpy.asarray(labels, '{as_type}')")
    _float_of(given.dtype, "labels")
    is_one_each = [n for n in given.shape if n != 1] == [n for n in rows if n != 1]
    hint = ""
    if given.dtype.kind in "iu":
        if given.shape == rows:
            _check_classes(given, logits.shape[axis], ignored)
            return given
        if is_one_each:
            hint = f"; pass numpy.reshape(labels, {rows})"
        elif given.shape == logits.shape:
            hint = "; one-hot labels are probabilities: pass numpy.asarray(labels, 'float32')"
        raise ValueError(
            f"labels of dtype {given.dtype} are class indices, whose shape must be that of logits "
            f"without the axis of the classes, {rows}; got {given.shape}{hint}"
        )
    if given.shape == logits.shape:
        if ignored is not None:
            raise ValueError(
                "ignore_index must not be given with probabilities, of which none is an index; "
                "pass sample_weight with a 0 for each row to be ignored"
            )
        return given
    if logits.dtype.kind in "biu" or given.ndim > logits.ndim:
        hint = "; the order is softmax_cross_entropy(logits, labels)"
    elif is_one_each:
        hint = "; class indices are of an integer dtype: pass numpy.asarray(labels, 'int')"
    raise ValueError(
        f"labels of dtype {given.dtype} are probabilities, whose shape must be that of logits, "
        f"{logits.shape}; got {given.shape}{hint}"
    )


def _any(booleans: Array) -> bool:
    """Whether one is true; `ndarray.any` imports Python code, which a finaliser cannot."""
    return bool(np.count_nonzero(booleans))


def _check_classes(labels: Array, classes: int, ignored: int | None) -> None:
    outside = (labels < 0) | (labels >= classes)
    limits = np.iinfo(labels.dtype)
    if ignored is not None and limits.min <= ignored <= limits.max:
        outside &= labels != ignored
    if not _any(outside):
        return
    some = f" from 0 to {classes - 1} for {classes} classes"
    none = ", of which there are none: logits has no classes"
    raise IndexError(
        f"labels must be class indices{some if classes else none}, got {_first(labels, outside)}"
    )


def _pointers(given: Array, length: int, *, is_list: bool) -> Array:
    """Check the row pointers of `length` elements."""
    if given.dtype.kind not in "iu" and (given.size or not is_list):
        raise _refused("indptr", given.dtype)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(
            f"indptr must be 1-D and hold at least the 0, got shape {given.shape}"
            + ("" if given.size else "; for no rows pass [0]")
        )
    if given[0] != 0:
        raise ValueError(f"indptr must start with 0, got {given[0]}")
    falls = given[1:] < given[:-1]
    if _any(falls):
        i = int(np.argmax(falls))
        raise ValueError(
            f"indptr must not decrease, got {given[i]} followed by {given[i + 1]} at index {i + 1}"
        )
    if given[-1] != length:
        raise ValueError(f"indptr must end with the length of data, {length}, got {given[-1]}")
    return given
