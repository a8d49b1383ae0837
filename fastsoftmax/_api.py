"""The public functions: their signatures and documentation; `_api.pyi` has their overloads.

What is valid is said in `_rules`; which backend computes it, in `_backend`. The package exports
these functions as they are over NumPy, and over the kernels as C functions that come here with what
they do not take themselves.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import (
    Any,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

import numpy as np

from fastsoftmax import _backend, _rules


@runtime_checkable
class HasArray(Protocol):
    """What NumPy makes an array of by asking it."""

    def __array__(self) -> Array:
        """Return the array."""


# For typing.get_type_hints, and what checks calls by it; type checkers read `_api.pyi`.
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]  # numpy.typing takes a millisecond to import
ArrayLike: TypeAlias = SupportsFloat | HasArray | Sequence[Any]  # NumPy's takes complex numbers
Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
Bool: TypeAlias = bool | np.bool_
DType: TypeAlias = str | type[Any] | np.dtype[Any]
Result: TypeAlias = Array | np.generic
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_functions: list[Any] = []
_run = _backend.runner(_backend.default())


def _public(function: _Function) -> _Function:
    """Export a function of the package over the default backend."""
    function.__module__ = "fastsoftmax"  # as pickle looks it up
    _functions.append(function)
    return _backend.default().function(function)


@_public
def softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
    dtype: DType | None = None,
    temperature: ArrayLike = 1.0,
    workers: SupportsIndex | None = None,
) -> Result:
    """Softmax, over the last axis unless `axis` says otherwise.

    ``softmax(x) = exp(x) / sum(exp(x))``, to a few ULP for any finite values. SciPy's default
    is ``axis=None``, all axes together; here, as in most libraries, it is the last one.

    Parameters
    ----------
    x : array_like
        Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
        float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays,
        :class:`numpy.matrix` and arrays with units are refused.
    axis : int, None or tuple of int, default -1
        The axis to normalise over; None is all axes together, a tuple those axes together.
    where : array_like of bool, optional
        Which elements take part (True), broadcast to the shape of `x`. The others are not read,
        and 0 in the result.
    out : ndarray, optional
        Where to write the result: of the shape of `x` and of the result's dtype. It may be `x`.
        Without it, the memory of results of more than 32 MiB is kept for the next one when they
        are freed (on Linux; one block of at most 1 GiB, whose pages the system takes back where
        memory is short; FASTSOFTMAX_KEEP_MEMORY=0 in the environment switches that off). If a
        signal handler raises during the call, some rows are written.
    dtype : dtype_like, optional
        The floating-point dtype that `x` is cast to first.
    temperature : array_like of float, default 1.0
        Gives ``softmax(x / temperature)`` without the rounding or the overflow of that
        division. Finite and above 0. An array has one for each row: it broadcasts to the shape of
        `x` with the reduced axes of length 1, as ``temperature[:, np.newaxis]`` does for a 2-D `x`.
    workers : int, optional
        How many threads may share the rows of a large array; -1 is one for each CPU. By default
        what :func:`set_workers` has set, else 1. The bits do not depend on it.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the shape of `x`, and of the dtype of `x` or `dtype`
        (float64 for integers and bool), in native byte order. A scalar if `x` is 0-d.

    Raises
    ------
    TypeError
        If `x` is of another dtype, a masked array or a matrix, `axis` not an integer, `where`
        not bool, `out` not an array of the result's dtype, `temperature` no real numbers, or
        `workers` no integer.
    ValueError
        If `where` does not broadcast to the shape of `x` or `temperature` to the rows, `out` has
        another shape or is read-only, an axis occurs twice, or a `temperature` or `workers` is out
        of range.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    See Also
    --------
    log_softmax, logsumexp, softmax_backward, softmax_cross_entropy, segment_softmax

    Notes
    -----
    The bits of a row depend on its values, length and dtype and on `temperature`, and on
    nothing else, unless NumPy stands in for the kernels (:func:`show_config`). float16 and
    bfloat16 are computed in float32 and rounded once; longdouble by NumPy.

    -inf gives 0. A row with a NaN or +inf is NaN, as is one that holds only -inf. A row without
    any True in `where` is 0.

    In the main thread signal handlers, and so Ctrl-C, run within a tenth of a second of a long
    call; what they raise ends it.

    The maximum is not subtracted: powers of two, whose product with a number is exact, bring
    the exponentials to a common scale. Reducing the argument by multiples of ``ln(2) / 4``
    (float64: ``ln(2) / 8``) with a table follows Tang [1]_; the subtraction's error is
    discussed by Blanchard et al. [2]_.

    References
    ----------
    .. [1] P. T. P. Tang, "Table-driven implementation of the exponential function in IEEE
       floating-point arithmetic", ACM Trans. Math. Software 15 (1989), 144-157.
    .. [2] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA J. Numer. Anal. 41 (2021), 2311-2330.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import softmax
    >>> x = np.array([[7.0, 2.0, 0.1], [1000.0, 1000.0, 998.0]], dtype=np.float32)
    >>> print(softmax(x))
    [[0.9923138  0.00668616 0.00100004]
     [0.46831053 0.46831053 0.06337894]]
    >>> print(softmax(x, where=[True, False, True]))
    [[0.9989932  0.         0.00100677]
     [0.8807971  0.         0.11920292]]
    >>> _ = softmax(x, out=x)  # in place
    """
    if _rules.is_dask(x):
        options = {"where": where, "dtype": dtype, "temperature": temperature}
        return _lazily("softmax", x, axis, out=out, **options)
    return _run(
        _rules.forward(
            "softmax", x, axis, where=where, out=out, dtype=dtype, temperature=temperature,
            workers=workers,
        )
    )  # fmt: skip


@_public
def log_softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
    dtype: DType | None = None,
    temperature: ArrayLike = 1.0,
    workers: SupportsIndex | None = None,
) -> Result:
    """Logarithm of the softmax, over the last axis unless `axis` says otherwise.

    ``log_softmax(x) = x - log(sum(exp(x)))``, to a few ULP also where the result is near 0.

    Parameters
    ----------
    x : array_like
        Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
        float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays,
        :class:`numpy.matrix` and arrays with units are refused.
    axis : int, None or tuple of int, default -1
        The axis to normalise over; None is all axes together, a tuple those axes together.
    where : array_like of bool, optional
        Which elements take part (True), broadcast to the shape of `x`. The others are not read,
        and -inf in the result.
    out : ndarray, optional
        Where to write the result: of the shape of `x` and of the result's dtype. It may be `x`.
        If a signal handler raises during the call, some rows are written.
    dtype : dtype_like, optional
        The floating-point dtype that `x` is cast to first.
    temperature : array_like of float, default 1.0
        Gives ``log_softmax(x / temperature)`` without the rounding or the overflow of that
        division. Finite and above 0. An array has one for each row: it broadcasts to the shape of
        `x` with the reduced axes of length 1, as ``temperature[:, np.newaxis]`` does for a 2-D `x`.
    workers : int, optional
        How many threads may share the rows of a large array; -1 is one for each CPU. By default
        what :func:`set_workers` has set, else 1. The bits do not depend on it.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the shape of `x`, and of the dtype of `x` or `dtype`
        (float64 for integers and bool), in native byte order. A scalar if `x` is 0-d.

    Raises
    ------
    TypeError
        If `x` is of another dtype, a masked array or a matrix, `axis` not an integer, `where`
        not bool, `out` not an array of the result's dtype, `temperature` no real numbers, or
        `workers` no integer.
    ValueError
        If `where` does not broadcast to the shape of `x` or `temperature` to the rows, `out` has
        another shape or is read-only, an axis occurs twice, or a `temperature` or `workers` is out
        of range.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    See Also
    --------
    softmax : Has the notes, which hold here too.
    log_softmax_backward : The gradient.

    Notes
    -----
    -inf gives -inf, also where `softmax` has a NaN: only a row that holds nothing but -inf, or
    a NaN or +inf, is NaN. A row without any True in `where` is -inf. The term near 0 is a
    ``log1p`` of the sum without the largest element, as Blanchard et al. propose [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA J. Numer. Anal. 41 (2021), 2311-2330.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import log_softmax
    >>> print(log_softmax([0.0, 40.0]))  # log(softmax(x)) would give 0 for the second
    [-4.00000000e+01 -4.24835426e-18]
    """
    if _rules.is_dask(x):
        options = {"where": where, "dtype": dtype, "temperature": temperature}
        return _lazily("log_softmax", x, axis, out=out, **options)
    return _run(
        _rules.forward(
            "log_softmax", x, axis, where=where, out=out, dtype=dtype, temperature=temperature,
            workers=workers,
        )
    )  # fmt: skip


@_public
def logsumexp(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    b: ArrayLike | None = None,
    where: ArrayLike | None = None,
    keepdims: Bool = False,
    return_sign: Bool = False,
    out: Array | None = None,
    dtype: DType | None = None,
    workers: SupportsIndex | None = None,
) -> Result | tuple[Result, Result]:
    """Logarithm of the sum of exponentials, over the last axis unless `axis` says otherwise.

    ``logsumexp(x) = log(sum(exp(x)))``, without overflow, to a few ULP of the larger of the
    result and ``max(x)``; with weights, ``log(sum(b * exp(x)))``.

    Parameters
    ----------
    x : array_like
        Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
        float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays,
        :class:`numpy.matrix` and arrays with units are refused.
    axis : int, None or tuple of int, default -1
        The axis to sum over; None is all axes together, a tuple those axes together.
    b : array_like, optional
        Weights of the exponentials: finite, of either sign. A 0 takes its element out, whatever
        that is. `x` is broadcast with it, and has the shape of both then.
    where : array_like of bool, optional
        Which elements take part (True), broadcast to the shape of `x`. The others are not read.
    keepdims : bool, default False
        Whether the reduced axes stay, with length 1.
    return_sign : bool, default False
        Whether to return the logarithm of the sum's absolute value, and the sum's sign too.
    out : ndarray, optional
        Where to write the logarithms: of the result's shape and dtype. If a signal handler raises
        during the call, some rows are written.
    dtype : dtype_like, optional
        The floating-point dtype that `x` is cast to first.
    workers : int, optional
        How many threads may share the rows of a large array; -1 is one for each CPU. By default
        what :func:`set_workers` has set, else 1. The bits do not depend on it.

    Returns
    -------
    logarithm : ndarray or scalar
        `out` if given; else a new array, of the shape of `x` without the reduced axes (a scalar
        if none is left). Its dtype is `dtype`, or that of `x` (float64 for integers and bool), or
        that of `x` and an array `b` together.
    sign : ndarray or scalar
        Only with ``return_sign=True``: 1, -1, or 0 of a sum that is 0, of the same shape and dtype.

    Raises
    ------
    TypeError
        If `x` or `b` is of another dtype, a masked array or a matrix, `axis` not an integer,
        `where`, `keepdims` or `return_sign` not bool, `out` not an array of the result's dtype, or
        `workers` no number.
    ValueError
        If `where` does not broadcast to the shape of `x` or `b` with it, a `b` is not finite, `out`
        has another shape or is read-only, an axis occurs twice, or `workers` is out of range.
    numpy.exceptions.AxisError
        If `x` has no such axis.

    See Also
    --------
    softmax : Has the notes, which hold here too.

    Notes
    -----
    The sum of nothing is 0: -inf is the result of a row that holds only -inf, has no True in
    `where`, or is of length 0. +inf gives inf; a NaN, NaN. So does a negative sum, unless
    ``return_sign=True``.

    With `b` the largest ``log(abs(b)) + x`` stands for ``max(x)`` in the accuracy, and terms of
    different signs cancel: the error of the sum is a few ULP of what is added.

    Examples
    --------
    >>> from fastsoftmax import logsumexp
    >>> print(logsumexp([1000.0, 1000.0]))
    1000.6931471805599
    >>> print(*logsumexp([1.0, 2.0], b=[1.0, -1.0], return_sign=True))  # log(e^2 - e), and its sign
    1.5413248546129181 -1.0
    >>> print(logsumexp([[0.0, 0.0], [1.0, 1.0]], axis=0))
    [1.31326169 1.31326169]
    """
    if _rules.is_dask(x):
        options = {"b": b, "where": where, "keepdims": keepdims, "return_sign": return_sign}
        return _lazily("logsumexp", x, axis, out=out, dtype=dtype, **options)
    return _run(
        _rules.forward(
            "logsumexp", x, axis, b=b, where=where, out=out, dtype=dtype, keepdims=keepdims,
            return_sign=return_sign, workers=workers,
        )
    )  # fmt: skip


@_public
def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    workers: SupportsIndex | None = None,
) -> Result:
    """Gradient with respect to the input of softmax, from that with respect to its output.

    ``output * (grad_output - sum(grad_output * output))``.

    Parameters
    ----------
    grad_output : array_like
        The gradient with respect to the output.
    output : array_like
        What :func:`softmax` returned, of the same shape.
    axis : int, None or tuple of int, default -1
        The axis that softmax was taken over.
    out : ndarray, optional
        Where to write the result: of the inputs' shape and the result's dtype. It may be one of
        them. If a signal handler raises during the call, some rows are written.
    workers : int, optional
        How many threads may share the rows of a large array; see :func:`softmax`.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the inputs' shape and common dtype (float64 for
        integers and bool). A scalar if they are 0-d.

    Raises
    ------
    TypeError
        If an input is of a dtype that :func:`softmax` refuses, `axis` not an integer, or `out`
        not an array of the result's dtype.
    ValueError
        If the inputs have different shapes, `out` another one or is read-only, an axis occurs
        twice, or `workers` is out of range.
    numpy.exceptions.AxisError
        If there is no such axis.

    Notes
    -----
    With a temperature T, divide the result by T: the chain rule for ``x / T``. Masked elements
    have an output of 0 and so a gradient of 0.

    Examples
    --------
    >>> from fastsoftmax import softmax, softmax_backward
    >>> y = softmax([0.0, 0.0])
    >>> print(softmax_backward([1.0, 0.0], y))
    [ 0.25 -0.25]
    """
    if _rules.is_dask(grad_output) or _rules.is_dask(output):
        return _lazily("softmax_backward", grad_output, output, axis, out=out)
    return _run(
        _rules.backward("softmax_backward", grad_output, output, axis, out=out, workers=workers)
    )


@_public
def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    out: Array | None = None,
    workers: SupportsIndex | None = None,
) -> Result:
    """Gradient with respect to the input of log_softmax, from that with respect to its output.

    ``grad_output - exp(output) * sum(grad_output)``.

    Parameters
    ----------
    grad_output : array_like
        The gradient with respect to the output.
    output : array_like
        What :func:`log_softmax` returned, of the same shape.
    axis : int, None or tuple of int, default -1
        The axis that log_softmax was taken over.
    where : array_like of bool, optional
        The mask that log_softmax was given, broadcast to the inputs' shape. Of the elements that
        it leaves out nothing is read, and their gradient is 0.
    out : ndarray, optional
        Where to write the result: of the inputs' shape and the result's dtype. It may be one of
        them. If a signal handler raises during the call, some rows are written.
    workers : int, optional
        How many threads may share the rows of a large array; see :func:`softmax`.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the inputs' shape and common dtype (float64 for
        integers and bool). A scalar if they are 0-d.

    Raises
    ------
    TypeError
        If an input is of a dtype that :func:`softmax` refuses, `axis` not an integer, or `out`
        not an array of the result's dtype.
    ValueError
        If the inputs have different shapes, `out` another one or is read-only, an axis occurs
        twice, or `workers` is out of range.
    numpy.exceptions.AxisError
        If there is no such axis.

    Notes
    -----
    With a temperature T, divide the result by T: the chain rule for ``x / T``.

    Examples
    --------
    >>> from fastsoftmax import log_softmax, log_softmax_backward
    >>> y = log_softmax([0.0, 0.0])
    >>> print(log_softmax_backward([1.0, 0.0], y))
    [ 0.5 -0.5]
    """
    if _rules.is_dask(grad_output) or _rules.is_dask(output):
        return _lazily("log_softmax_backward", grad_output, output, axis, where=where, out=out)
    return _run(
        _rules.backward(
            "log_softmax_backward", grad_output, output, axis, where=where, out=out, workers=workers
        )
    )


@_public
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: SupportsIndex = -1,
    *,
    where: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: SupportsIndex | None = None,
    label_smoothing: Number = 0.0,
    temperature: ArrayLike = 1.0,
    return_grad: Bool = False,
    out: Array | tuple[Array | None, Array | None] | None = None,
    dtype: DType | None = None,
    workers: SupportsIndex | None = None,
) -> Result | tuple[Result, Result]:
    """Cross-entropy between labels and the softmax of logits, one loss for each row.

    ``-sum(t * log_softmax(logits / temperature))`` with ``t`` the label probabilities, accurate
    also where the loss is near 0. Nothing is reduced: take the mean or the sum of the result.

    Parameters
    ----------
    logits : array_like
        Scores before softmax, of any dtype that :func:`softmax` takes, with at least one axis.
    labels : array_like
        Either class indices, of an integer dtype and the shape of `logits` without `axis`, or
        probabilities, of a floating-point dtype and the shape of `logits`, taken as they are and
        in their own precision.
    axis : int, default -1
        The axis of the classes.
    where : array_like of bool, optional
        Which classes take part (True), broadcast to the shape of `logits`. The logits of the others
        are not read and count as -inf; their gradient is 0.
    sample_weight : array_like, optional
        A finite factor of each loss and its gradient, broadcast to the shape of the losses:
        ``1 / len(logits)`` for the gradient of a mean, ``w[labels]`` for weights of the classes. A
        row of weight 0 gives 0, and its logits are not read.
    ignore_index : int, optional
        Rows with this class index for a label, in range or not, give 0; their logits are not read.
    label_smoothing : float, default 0.0
        Which part of each label's probability is spread evenly over all n classes that take part:
        ``t = (1 - label_smoothing) * label + label_smoothing / n``. From 0 to 1.
    temperature : array_like of float, default 1.0
        What the logits are divided by, for all or each row; see :func:`softmax`.
    return_grad : bool, default False
        Whether to return the gradient too, which comes from the same pass.
    out : ndarray or tuple, optional
        Where to write the losses, or ``(loss, grad)``, of which either may be None: of their shapes
        and the result's dtype. `grad` may be `logits`. If a signal handler raises during the call,
        some rows are written.
    dtype : dtype_like, optional
        The floating-point dtype that `logits` is cast to first.
    workers : int, optional
        How many threads may share the rows of a large array; see :func:`softmax`.

    Returns
    -------
    loss : ndarray or scalar
        Losses in nats, of the shape of `logits` without `axis`, in its dtype or `dtype` (float64
        for integers and bool).
    grad : ndarray
        Only with ``return_grad=True``: the gradient of each loss with respect to its logits,
        ``sample_weight / temperature * (sum(t) * softmax(logits / temperature) - t)``, of the shape
        of `logits` and the dtype of the losses.

    Raises
    ------
    TypeError
        If `logits`, `labels` or `sample_weight` is of a dtype that is not accepted, `axis` or
        `ignore_index` not an integer, `where` or `return_grad` not bool, `out` no array of the
        result's dtype, or `label_smoothing` or `temperature` no real number.
    ValueError
        If `logits` is 0-d; if shapes do not match or broadcast; if `out` is read-only, no pair, or
        overlaps itself or `labels`; if `ignore_index` is given with probabilities; or if a number
        is out of range.
    IndexError
        If a class index is negative or not below the number of classes, and not `ignore_index`.
    numpy.exceptions.AxisError
        If `logits` has no such axis.

    See Also
    --------
    log_softmax

    Notes
    -----
    A probability of 0 against a logit of -inf, or a class that `where` leaves out, contributes 0;
    any other, inf. Label smoothing is that of Szegedy et al. [1]_. Distillation at a temperature T
    is ``softmax_cross_entropy(student, softmax(teacher, temperature=T), temperature=T,
    sample_weight=T * T)``.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR
       (2016), 2818-2826.

    Examples
    --------
    >>> import numpy as np
    >>> from fastsoftmax import softmax_cross_entropy
    >>> logits = np.array([[2.0, 0.0], [0.0, 0.0]])
    >>> loss, grad = softmax_cross_entropy(logits, [0, 1], return_grad=True)
    >>> print(loss)
    [0.12692801 0.69314718]
    >>> print(grad)
    [[-0.11920292  0.11920292]
     [ 0.5        -0.5       ]]
    """
    if _rules.is_dask(logits):
        return _lazily(
            "softmax_cross_entropy", logits, labels, axis, out=out, where=where,
            sample_weight=sample_weight, ignore_index=ignore_index,
            label_smoothing=label_smoothing, temperature=temperature, return_grad=return_grad,
            dtype=dtype,
        )  # fmt: skip
    return _run(
        _rules.cross_entropy(
            logits, labels, axis, where=where, sample_weight=sample_weight,
            ignore_index=ignore_index, label_smoothing=label_smoothing, temperature=temperature,
            return_grad=return_grad, out=out, dtype=dtype, workers=workers,
        )
    )  # fmt: skip


@_public
def segment_softmax(
    data: ArrayLike,
    indptr: ArrayLike,
    *,
    out: Array | None = None,
    temperature: Number = 1.0,
    workers: SupportsIndex | None = None,
) -> Array:
    """Softmax over each of the rows that `indptr` cuts data into, along its first axis.

    Row i is ``data[indptr[i]:indptr[i + 1]]``: ragged arrays, CSR matrices, edges of a graph
    sorted by node. What further axes hold (attention heads, features) are rows of their own.

    Parameters
    ----------
    data : array_like
        The rows one after the other along the first axis, of any dtype that :func:`softmax` takes.
    indptr : array_like of int
        Row pointers: 1-D, starting with 0, never decreasing, ending with ``len(data)``.
    out : ndarray, optional
        Where to write the result: of the shape of `data` and the result's dtype. It may be
        `data`. If a signal handler raises during the call, some segments are written.
    temperature : float, default 1.0
        As in :func:`softmax`, one for all rows.
    workers : int, optional
        How many threads may share the rows of large data; see :func:`softmax`.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the shape and dtype of `data` (float64 for integers
        and bool).

    Raises
    ------
    TypeError
        If `data` is of a dtype that is not accepted, `indptr` not of an integer dtype, `out` not
        an array of the result's dtype, or `temperature` no number.
    ValueError
        If `data` is 0-d or `indptr` not 1-D, `indptr` is no list of row pointers into `data`, `out`
        has another shape or is read-only, or `temperature` or `workers` is out of range.

    See Also
    --------
    softmax : Of rows of one length. It has the notes, which hold here too.
    segment_log_softmax, segment_logsumexp

    Notes
    -----
    Each row has the bits that :func:`softmax` gives for it alone.

    Examples
    --------
    >>> from fastsoftmax import segment_softmax
    >>> print(segment_softmax([0.0, 0.0, 5.0, 1.0, 1.0], [0, 2, 3, 5]))
    [0.5 0.5 1.  0.5 0.5]

    The stored elements of each row of a sparse matrix:

    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> scores = csr_array(np.array([[3.0, 0.0, 3.0], [0.0, 2.0, 0.0]]))
    >>> scores.data = segment_softmax(scores.data, scores.indptr)
    >>> print(scores.toarray())
    [[0.5 0.  0.5]
     [0.  1.  0. ]]

    Edges sorted by the node that they lead to, two heads each:

    >>> scores = np.array([[0.0, 2.0], [0.0, 2.0], [1.0, 5.0]])
    >>> print(segment_softmax(scores, [0, 2, 3]))
    [[0.5 0.5]
     [0.5 0.5]
     [1.  1. ]]
    """
    return _run(
        _rules.segments(
            "segment_softmax", data, indptr, out=out, temperature=temperature, workers=workers
        )
    )


@_public
def segment_log_softmax(
    data: ArrayLike,
    indptr: ArrayLike,
    *,
    out: Array | None = None,
    temperature: Number = 1.0,
    workers: SupportsIndex | None = None,
) -> Array:
    """Logarithm of the softmax over each of the rows that `indptr` cuts data into.

    The parameters, the errors and the result's shape and dtype are those of
    :func:`segment_softmax`; each row has the bits that :func:`log_softmax` gives for it alone.

    Parameters
    ----------
    data : array_like
        The rows one after the other along the first axis.
    indptr : array_like of int
        Row pointers.
    out : ndarray, optional
        Where to write the result. It may be `data`.
    temperature : float, default 1.0
        As in :func:`log_softmax`, one for all rows.
    workers : int, optional
        How many threads may share the rows of large data; see :func:`softmax`.

    Returns
    -------
    ndarray
        `out` if given; else a new array of the shape and dtype of `data` (float64 for integers
        and bool).

    Raises
    ------
    TypeError, ValueError
        As in :func:`segment_softmax`.

    See Also
    --------
    segment_softmax, log_softmax

    Examples
    --------
    >>> from fastsoftmax import segment_log_softmax
    >>> print(segment_log_softmax([0.0, 0.0, 5.0], [0, 2, 3]))
    [-0.69314718 -0.69314718  0.        ]
    """
    return _run(
        _rules.segments(
            "segment_log_softmax", data, indptr, out=out, temperature=temperature, workers=workers
        )
    )


@_public
def segment_logsumexp(
    data: ArrayLike,
    indptr: ArrayLike,
    *,
    out: Array | None = None,
    workers: SupportsIndex | None = None,
) -> Array:
    """Logarithm of the sum of exponentials of each of the rows that `indptr` cuts data into.

    Each row has the bits that :func:`logsumexp` gives for it alone; an empty one gives -inf.

    Parameters
    ----------
    data : array_like
        The rows one after the other along the first axis; see :func:`segment_softmax`.
    indptr : array_like of int
        Row pointers: 1-D, starting with 0, never decreasing, ending with ``len(data)``.
    out : ndarray, optional
        Where to write the result: of its shape and dtype.
    workers : int, optional
        How many threads may share the rows of large data; see :func:`softmax`.

    Returns
    -------
    ndarray
        `out` if given; else a new array of shape ``(len(indptr) - 1, *data.shape[1:])`` and the
        dtype of `data` (float64 for integers and bool).

    Raises
    ------
    TypeError, ValueError
        As in :func:`segment_softmax`.

    See Also
    --------
    segment_softmax, logsumexp

    Examples
    --------
    >>> from fastsoftmax import segment_logsumexp
    >>> print(segment_logsumexp([0.0, 0.0, 5.0], [0, 2, 2, 3]))
    [0.69314718       -inf 5.        ]
    """
    return _run(_rules.segments("segment_logsumexp", data, indptr, out=out, workers=workers))


def _lazily(name: str, *arguments: Any, out: Any, **options: Any) -> Any:
    """Call the function of this name for Dask arrays, whose engine shares the work as it does."""
    if out is not None:
        raise TypeError("out must be None for a Dask array, whose result is lazy")
    import fastsoftmax.dask

    return getattr(fastsoftmax.dask, name)(*arguments, **options)


def over(backend: _backend.Backend, *, by_rules: bool = False) -> types.SimpleNamespace:
    """Return the public functions over one backend, as attributes, and its `name`.

    With `by_rules` every call goes through `_rules`, as those do that the kernels' own C functions
    do not take.
    """
    scope = {**globals(), "_run": _backend.runner(backend)}
    found = types.SimpleNamespace(name=backend.name)
    for function in _functions:
        general = types.FunctionType(function.__code__, scope, function.__name__)
        general.__defaults__ = function.__defaults__
        general.__kwdefaults__ = function.__kwdefaults__
        general.__annotations__ = function.__annotations__
        general.__doc__, general.__module__ = function.__doc__, function.__module__
        setattr(found, function.__name__, general if by_rules else backend.function(general))
    return found
