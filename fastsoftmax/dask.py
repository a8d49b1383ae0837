"""Softmax and its family over Dask arrays, chunked in any way; results are lazy.

``fastsoftmax.softmax`` and the others come here with a Dask array. Where the reduced axes lie in
one chunk, blocks are computed as NumPy arrays are, to the same bits. Where they do not, each part
of a row is computed by itself, and then multiplied by its share of the row::

    share = weight / sum(weights)    weight = q / max(p)

with p the softmax of the part, and q the softmax of the maxima of all parts: the weight is what the
part adds to the sum of exponentials. Nothing large is subtracted, so nothing is lost in rounding.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastsoftmax import _api, _rules

OLDEST = "2024.5"
"""The first version of Dask that is tested."""
_INSTALL = f"fastsoftmax.dask needs Dask {OLDEST} or newer: `pip install 'fastsoftmax[dask]'`"

try:
    import dask
    import dask.array as da
    from dask.array.utils import meta_from_array
except ImportError as error:
    raise ImportError(f"{_INSTALL} ({error})") from error

if tuple(map(int, dask.__version__.split(".")[:2])) < tuple(map(int, OLDEST.split("."))):
    raise ImportError(f"{_INSTALL}, and this is Dask {dask.__version__}")

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastsoftmax._rules import Array

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
]


def softmax(
    x: Any, axis: Any = -1, *, where: Any = None, dtype: Any = None, temperature: Any = 1.0
) -> Any:
    """Softmax of a Dask array, over the last axis unless `axis` says otherwise.

    Parameters
    ----------
    x : dask.array.Array
        Input, of any dtype that :func:`fastsoftmax.softmax` takes, chunked in any way.
    axis : int, None or tuple of int, default -1
        The axis to normalise over; None is all axes together, a tuple those axes together.
    where : dask.array.Array or array_like of bool, optional
        Which elements take part, broadcast to the shape of `x`. The others are 0 in the result.
    dtype : dtype_like, optional
        The floating-point dtype that `x` is cast to first.
    temperature : dask.array.Array or array_like of float, default 1.0
        What `x` is divided by, for all or each row.

    Returns
    -------
    dask.array.Array
        Of the shape and chunks of `x`, and the dtype of `x` or `dtype` (float64 for integers and
        bool).

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As :func:`fastsoftmax.softmax`: at once for what dtypes and shapes tell, when the result is
        computed for what only the elements do.

    Notes
    -----
    Rows that lie in one chunk have the bits of :func:`fastsoftmax.softmax`. The bits of others
    depend on where they are cut.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import softmax
    >>> x = dask.array.from_array([[7.0, 2.0, 0.1], [1000.0, 1000.0, 998.0]], chunks=(1, 2))
    >>> y = softmax(x)
    >>> y
    dask.array<merged, shape=(2, 3), dtype=float64, chunksize=(1, 2), chunktype=numpy.ndarray>
    >>> print(y.compute())
    [[0.9923138  0.00668616 0.00100004]
     [0.46831053 0.46831053 0.06337894]]
    """
    return _elementwise("softmax", x, axis, where, dtype, temperature)


def log_softmax(
    x: Any, axis: Any = -1, *, where: Any = None, dtype: Any = None, temperature: Any = 1.0
) -> Any:
    """Logarithm of the softmax of a Dask array; arguments, result and notes as :func:`softmax`.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import log_softmax
    >>> x = dask.array.from_array([0.0, 0.0, -40.0], chunks=2)
    >>> print(log_softmax(x).compute())
    [ -0.69314718  -0.69314718 -40.69314718]
    """
    return _elementwise("log_softmax", x, axis, where, dtype, temperature)


def logsumexp(
    x: Any,
    axis: Any = -1,
    *,
    b: Any = None,
    where: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    dtype: Any = None,
) -> Any:
    """Logarithm of the sum of exponentials of a Dask array.

    Parameters
    ----------
    x : dask.array.Array
        Input, of any dtype that :func:`fastsoftmax.softmax` takes, chunked in any way.
    axis : int, None or tuple of int, default -1
        The axis to sum over; None is all axes together, a tuple those axes together.
    b : dask.array.Array or array_like, optional
        Finite factors of the exponentials, broadcast with `x`.
    where : dask.array.Array or array_like of bool, optional
        Which elements take part, broadcast to the shape of `x`.
    keepdims : bool, default False
        Whether the reduced axes stay, with length 1.
    return_sign : bool, default False
        Whether to return the sign of the sum too, and the logarithm of its absolute value.
    dtype : dtype_like, optional
        The floating-point dtype that `x` is cast to first.

    Returns
    -------
    dask.array.Array or tuple
        The logarithms, or a pair of them and the signs.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As :func:`fastsoftmax.logsumexp`; see :func:`softmax`.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import logsumexp
    >>> x = dask.array.zeros((2, 1000), chunks=(1, 300))
    >>> print(logsumexp(x).compute())
    [6.90775528 6.90775528]
    """
    x = _dask_array(x)
    if b is not None and np.ndim(b):
        x = da.broadcast_to(x, np.broadcast_shapes(_shape(x), _shape(b)), x.chunks)
    plan = _rules.forward(
        "logsumexp", _stand_in(x), axis, where=_stand_in(where), out=None, dtype=None,
        workers=None, keepdims=keepdims, return_sign=return_sign,
    )  # fmt: skip
    result = _result("logsumexp", x, dtype, b)
    options: dict[str, Any] = {"axis": plan.axis, "return_sign": plan.return_sign}
    operands = {"b": _aligned(x, b), "where": _aligned(x, where)}
    if _is_whole(x, plan.axes):
        given: dict[str, Any] = {**options, "dtype": dtype, "keepdims": True}
        logs = _blockwise("logsumexp", x, operands, result, plan.axes, **given)
    else:
        if b is None:
            of_part: Callable[..., Any] = _log_of_part
            of_parts, stacked = _log_of_parts, 3
            wide = _computed_in(result)
        else:  # what opposite signs leave is right to the digits that the parts have
            of_part = _weighted_log_of_part
            of_parts, stacked = _weighted_log_of_parts, 2
            wide = np.promote_types(result, np.float64)
        given = {"axis": plan.axis, "dtypes": (dtype, wide)}
        parts = _blockwise(of_part, x, operands, wide, plan.axes, stacked=stacked, **given)
        parts = parts.rechunk({d + 1: -1 for d in plan.axes})
        logs = _blockwise(
            of_parts, parts, {}, result, plan.axes, of_stacked=True, dtype=result, **options
        )
    at = tuple(0 if d in plan.axes and not plan.keepdims else slice(None) for d in _axes_of(x))
    if not plan.return_sign:
        return logs[at]
    return tuple(_blockwise(_item, logs, {}, result, i=i)[at] for i in range(2))


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    axis: int = -1,
    *,
    where: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: Any = 1.0,
    return_grad: bool = False,
    dtype: Any = None,
) -> Any:
    """Cross-entropy between labels and the softmax of logits, one loss for each row.

    Parameters
    ----------
    logits : dask.array.Array
        Scores before softmax. Chunks of the axis of the classes are merged.
    labels, where, sample_weight, temperature : dask.array.Array or array_like
        As in :func:`fastsoftmax.softmax_cross_entropy`.
    axis, ignore_index, label_smoothing, return_grad, dtype
        As there.

    Returns
    -------
    loss : dask.array.Array
        The losses, in nats.
    grad : dask.array.Array
        Only with ``return_grad=True``: the gradient of each loss with respect to its logits.

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As :func:`fastsoftmax.softmax_cross_entropy`; see :func:`softmax`.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import softmax_cross_entropy
    >>> logits = dask.array.from_array([[2.0, 0.0], [0.0, 0.0]], chunks=1)
    >>> print(softmax_cross_entropy(logits, [0, 1]).compute())
    [0.12692801 0.69314718]
    """
    x = _dask_array(logits)
    plan = _rules.cross_entropy(
        _stand_in(x), _stand_in(labels), axis, where=_stand_in(where),
        sample_weight=_stand_in(sample_weight), ignore_index=ignore_index,
        label_smoothing=label_smoothing, temperature=_stand_in(temperature),
        return_grad=return_grad, out=None, dtype=None, workers=None,
    )  # fmt: skip
    result = _result("softmax", x, dtype)
    (classes,) = plan.axes
    chunks = x.chunks[classes]
    x = x.rechunk({classes: -1})
    rows = tuple(d for d in _axes_of(x) if d != classes)
    assert plan.y is not None
    operands = {
        "labels": _aligned(x, labels, rows if plan.y.ndim < x.ndim else None),
        "where": _aligned(x, where),
        "sample_weight": _aligned(x, sample_weight, rows),
        "temperature": _aligned(x, temperature),
    }
    found = _blockwise(
        "softmax_cross_entropy", x, operands, result, axis=classes, dtype=dtype,
        ignore_index=ignore_index, label_smoothing=label_smoothing, return_grad=plan.return_grad,
    )  # fmt: skip
    loss = _blockwise(
        _item, found, {}, result, (classes,), i=0 if plan.return_grad else None, axis=classes
    )
    loss = loss[tuple(0 if d == classes else slice(None) for d in _axes_of(x))]
    if not plan.return_grad:
        return loss
    return loss, _blockwise(_item, found, {}, result, i=1).rechunk({classes: chunks})


def softmax_backward(grad_output: Any, output: Any, axis: Any = -1) -> Any:
    """Gradient with respect to the input of softmax, from that with respect to its output.

    Parameters
    ----------
    grad_output, output : dask.array.Array or array_like
        As in :func:`fastsoftmax.softmax_backward`. Chunks of the reduced axes are merged.
    axis : int, None or tuple of int, default -1
        The axis that softmax was taken over.

    Returns
    -------
    dask.array.Array
        Of the shape and chunks of `output`, and the common dtype; with the bits of the function
        itself.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As :func:`fastsoftmax.softmax_backward`; see :func:`softmax`.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import softmax, softmax_backward
    >>> y = softmax(dask.array.zeros((2, 2), chunks=1))
    >>> print(softmax_backward([[1.0, 0.0], [0.0, 0.0]], y).compute())
    [[ 0.25 -0.25]
     [ 0.    0.  ]]
    """
    return _backward("softmax_backward", grad_output, output, axis, None)


def log_softmax_backward(
    grad_output: Any, output: Any, axis: Any = -1, *, where: Any = None
) -> Any:
    """Gradient of log_softmax; arguments, result and errors as :func:`softmax_backward`.

    Examples
    --------
    >>> import dask.array
    >>> from fastsoftmax import log_softmax, log_softmax_backward
    >>> y = log_softmax(dask.array.zeros(2, chunks=1))
    >>> print(log_softmax_backward([1.0, 0.0], y).compute())
    [ 0.5 -0.5]
    """
    return _backward("log_softmax_backward", grad_output, output, axis, where)


def _backward(function: str, grad_output: Any, output: Any, axis: Any, where: Any) -> da.Array:
    plan = _rules.backward(
        function, _stand_in(grad_output), _stand_in(output), axis, out=None, workers=None,
        where=_stand_in(where),
    )  # fmt: skip
    chunked = _dask_array(output)
    y = chunked.rechunk(dict.fromkeys(plan.axes, -1))
    g, _ = _aligned(y, _dask_array(grad_output))
    operands = {"output": (y, _axes_of(y)), "where": _aligned(y, where)}
    found = _blockwise(function, g, operands, plan.result, axis=plan.axis)
    return found.rechunk(chunked.chunks)


# ---- softmax and log_softmax ----


def _elementwise(
    function: str, x: Any, axis: Any, where: Any, dtype: Any, temperature: Any
) -> da.Array:
    x = _dask_array(x)
    plan = _rules.forward(
        function, _stand_in(x), axis, where=_stand_in(where), out=None, dtype=None, workers=None,
        temperature=_stand_in(temperature),
    )  # fmt: skip
    result = _result(function, x, dtype)
    divided = {"temperature": _aligned(x, temperature)}
    mask = {"where": _aligned(x, where)}
    if _is_whole(x, plan.axes):
        return _blockwise(function, x, {**mask, **divided}, result, axis=plan.axis, dtype=dtype)
    wide = _computed_in(result)
    parts = _blockwise(
        _part, x, {**mask, **divided}, wide, function=function, axis=plan.axis, dtypes=(dtype, wide)
    )
    sums = _blockwise(_item, parts, {}, _summed_in(result), plan.axes, stacked=2, i=1)
    sums = sums.rechunk({d + 1: -1 for d in plan.axes})
    shared_in = np.promote_types(wide, np.float64)  # float32 is rounded once, when it is merged
    shares = _blockwise(
        _shares, sums, divided, shared_in, of_stacked=True, function=function, axis=plan.axis,
        dtype=shared_in,
    ).rechunk(dict.fromkeys(plan.axes, 1))  # fmt: skip
    operands = {"share": (shares, _axes_of(x)), **mask}
    return _blockwise(_merged, parts, operands, result, function=function, dtype=result)


NOTHING = {"softmax": 0.0, "log_softmax": -math.inf, "logsumexp": -math.inf}
"""What an element of no weight gets."""


def _part(
    x: Array, *, axis: Any, dtypes: tuple[Any, Any], function: str, **options: Any
) -> tuple[Array, Array]:
    """Return the results of a part of the rows, and its maxima and sums of exponentials."""
    x = _cast(x, *dtypes)
    call = getattr(_api, function)
    p = _api.softmax(x, axis, **options)
    if function == "logsumexp":
        result = call(x, axis, keepdims=True, **options)
    else:
        result = p if function == "softmax" else call(x, axis, **options)
    where = options.get("where")
    kept = x if where is None else np.where(where, x, -np.inf)
    reduced: dict[str, Any] = {"axis": _tuple(axis), "keepdims": True}
    top = kept.max(**reduced, initial=-np.inf)
    with np.errstate(all="ignore"):
        total = 1 / _cast(p.max(**reduced, initial=0), _summed_in(p.dtype))
    is_nothing = top == -np.inf
    total[is_nothing] = 0
    if is_nothing.any():  # -inf alone would be NaN; other parts may have more
        result = np.where(is_nothing, NOTHING[function], result)
    return result, np.stack((_cast(top, total.dtype), total))


def _shares(sums: Array, *, function: str, axis: Any, dtype: Any, temperature: Any = 1.0) -> Array:
    """Return by what the results of each part are multiplied, or what is added to logarithms."""
    top, total = sums
    reduced: dict[str, Any] = {"axis": _tuple(axis), "keepdims": True}
    with np.errstate(all="ignore"):
        weights = _weights(top, total, axis, temperature=temperature)
        whole = weights.sum(**reduced)
        share = weights / whole
        if function == "log_softmax":
            # The share of a part with more than half is as far from 1 as the others are from 0.
            is_most = share > 0.5
            rest = np.where(is_most, 0, weights).sum(**reduced)
            # The share of a part far below the maximum may underflow, its logarithm does not.
            far = _api.log_softmax(top, axis, temperature=temperature) + np.log(total / whole)
            small = np.where(weights < np.finfo(weights.dtype).tiny * 2.0**64, far, np.log(share))
            share = np.where(is_most, -np.log1p(rest / weights), small)
    return _cast(share, dtype)


def _weights(top: Array, total: Array, axis: Any, **options: Any) -> Array:
    """Return what each part adds to the sum of exponentials, in a common unit."""
    return np.where(total == 0, 0, _api.softmax(top, axis, **options) * total)


def _merged(
    part: tuple[Array, Array], share: Array, *, function: str, dtype: Any, where: Any = None
) -> Array:
    """Return the results of a part of the rows as those of the whole rows."""
    combine = np.multiply if function == "softmax" else np.add
    result, kept = part[0], True if where is None else where
    into = np.empty_like(result) if where is None else np.full_like(result, NOTHING[function])
    with np.errstate(all="ignore"):
        return _cast(combine(result, share, out=into, where=kept, casting="same_kind"), dtype)


# ---- logsumexp ----


def _log_of_part(x: Array, **options: Any) -> Array:
    """Return the logarithms of a part of the rows, and its maxima and sums of exponentials."""
    log, sums = _part(x, function="logsumexp", **options)
    return np.stack((_cast(log, sums.dtype), *sums))


def _log_of_parts(parts: Array, *, axis: Any, return_sign: bool, dtype: Any) -> Any:
    """Return the logarithms of the sums of whole rows.

    They are those of the parts with the maximum, of that size, and what the other parts add.
    """
    log, top, total = parts
    reduced: dict[str, Any] = {"axis": _tuple(axis), "keepdims": True}
    with np.errstate(all="ignore"):
        weights = _weights(top, total, axis)
        most = top.max(**reduced)
        first = _first(top == most, _tuple(axis))
        log = np.where(first, log, 0).sum(**reduced)
        rest = np.where(first, 0, weights).sum(**reduced)
        added = np.log1p(rest / np.where(first, weights, 0).sum(**reduced))
    log = _cast(np.where(np.isfinite(most), log + added, most), dtype)
    return (log, np.where(np.isnan(log), log, log > -np.inf).astype(dtype)) if return_sign else log


def _first(chosen: Array, axes: tuple[int, ...]) -> Array:
    """Return the first of the elements along the axes that are chosen, alone."""
    found = chosen
    for axis in axes:
        found = found & (np.cumsum(found, axis) == 1)
    return found


def _weighted_log_of_part(x: Array, *, axis: Any, dtypes: tuple[Any, Any], **options: Any) -> Array:
    """Return the logarithms of the weighted sums of a part of the rows, and their signs."""
    options |= {"dtype": dtypes[1], "keepdims": True, "return_sign": True}
    return np.stack(_api.logsumexp(_cast(x, dtypes[0]), axis, **options))


def _weighted_log_of_parts(parts: Array, *, axis: Any, return_sign: bool, dtype: Any) -> Any:
    logs, signs = parts
    signs = np.where(np.isnan(signs), 1, signs)  # where the logarithm is too
    log, sign = _api.logsumexp(logs, axis, b=signs, keepdims=True, return_sign=True)
    if return_sign:
        return _cast(log, dtype), _cast(sign, dtype)
    return _cast(np.where(sign < 0, np.nan, log), dtype)


# ---- blocks ----


def _blockwise(
    function: Callable[..., Any] | str,
    x: da.Array,
    operands: dict[str, Any],
    result: Any,
    reduced: tuple[int, ...] = (),
    /,
    *,
    stacked: int = 0,
    of_stacked: bool = False,
    **options: Any,
) -> da.Array:
    """Call a function for each block of x and what lies there of its operands.

    Operands that are arrays come with the axes of x that theirs are. The result has the axes of x,
    of which those that are `reduced` have length 1 in each block, and before them one of length
    `stacked`, which x loses if it is `of_stacked` arrays.
    """
    first = -1 if of_stacked else 0
    index = tuple(range(first, first + x.ndim))
    axes = index[1:] if of_stacked else index
    arguments: list[Any] = [x, index]
    names = []
    for name, operand in operands.items():
        if isinstance(operand, tuple):
            arguments += operand
            names.append(name)
        elif operand is not None:
            options[name] = operand
    out = (-1, *axes) if stacked else axes
    label = function if isinstance(function, str) else function.__name__.strip("_")
    return da.blockwise(
        functools.partial(_call, function, tuple(names), options),
        out,
        *arguments,
        token=label,
        dtype=result,
        new_axes={-1: stacked} if stacked else None,
        adjust_chunks=dict.fromkeys(reduced, lambda _: 1),
        align_arrays=False,
        concatenate=True,
        meta=np.empty((0,) * len(out), result),
    )


def _call(
    function: Callable[..., Any] | str,
    names: tuple[str, ...],
    options: dict[str, Any],
    block: Any,
    *operands: Any,
) -> Any:
    call: Callable[..., Any] = getattr(_api, function) if isinstance(function, str) else function
    return call(block, **dict(zip(names, operands, strict=True)), **options)


def _item(block: Any, *, i: int | None, axis: int | None = None) -> Any:
    """Return one of the arrays of a block, with an axis of length 1 if that is asked for."""
    array = block if i is None else block[i]
    return array if axis is None else np.expand_dims(array, axis)


def _aligned(x: da.Array, value: Any, axes: tuple[int, ...] | None = None) -> Any:
    """Return an operand in the chunks of x, and the axes of x that its own are."""
    if not isinstance(value, da.Array) and not np.ndim(value):
        return value
    operand = da.asarray(value)
    axes = _axes_of(x) if axes is None else axes
    axes = axes[len(axes) - operand.ndim :]
    pairs = zip(axes, operand.shape, strict=True)
    wanted = {i: x.chunks[d] for i, (d, n) in enumerate(pairs) if n == x.shape[d]}
    return operand.rechunk(wanted) if wanted else operand, axes


def _dask_array(value: Any) -> da.Array:
    return value if isinstance(value, da.Array) else da.asarray(value)


def _axes_of(x: da.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim))


def _is_whole(x: da.Array, axes: tuple[int, ...]) -> bool:
    """Whether no row is cut."""
    return all(x.numblocks[d] == 1 for d in axes)


def _shape(value: Any) -> tuple[int, ...]:
    """Return a shape; of an unknown length, 1."""
    return tuple(1 if math.isnan(n) else int(n) for n in np.shape(value))


def _stand_in(value: Any) -> Any:
    """Return an array of one number in memory for a Dask array, to be checked in its place."""
    if not isinstance(value, da.Array):
        return value
    meta = meta_from_array(value)
    if type(meta) is not np.ndarray:
        return meta
    one = np.ones((), meta.dtype) if meta.dtype.kind == "f" else np.zeros((), meta.dtype)
    return np.broadcast_to(one, _shape(value))


def _result(function: str, x: da.Array, dtype: Any, b: Any = None) -> np.dtype[Any]:
    """Return the dtype of the result."""
    options: dict[str, Any] = {} if b is None else {"b": b}
    if b is not None and type(b) not in (int, float):
        options["b"] = np.ones(
            (), _stand_in(b).dtype if isinstance(b, da.Array) else np.asarray(b).dtype
        )
    plan = _rules.forward(
        function, np.zeros((), x.dtype), -1, where=None, out=None, dtype=dtype, workers=None,
        **options,
    )  # fmt: skip
    return plan.result


def _computed_in(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of the parts of a result."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _summed_in(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of maxima and sums: the next wider one, if the platform has that."""
    return np.dtype(np.float64 if dtype == np.float32 else np.longdouble)


def _cast(array: Array, *dtypes: Any) -> Array:
    for dtype in dtypes:
        if dtype is not None:
            array = _rules.cast(array, np.dtype(dtype))
    return array


def _tuple(axis: Any) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else (axis,)
