"""The public functions: validate, normalise, choose a path, return.

Every argument is checked before anything is written, so that an error leaves `out` untouched. What
passes is brought into the form that `fastsoftmax._backend.Backend` describes: the reduced axes
last, native byte order, no overlap but the exact one.
"""

from __future__ import annotations

import importlib
import math
import operator
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.exceptions import AxisError

from fastsoftmax import _workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastsoftmax._backend import Backend

    Array: TypeAlias = NDArray[Any]
    Axis: TypeAlias = int | tuple[int, ...] | None

FLOATS = "float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble"
ACCEPTED = f"bool, an integer dtype, {FLOATS}"


class Functions:
    """The public functions over one backend, as methods.

    The package has one instance and exports its methods, as :mod:`random` does with
    `random.Random`.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        for name in ("softmax", "log_softmax", "logsumexp"):
            lane = backend.fast_lane(name, getattr(self, name), _workers.threads_for)
            setattr(self, name, lane)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        # Pickle stores a method by its name on its instance: let that be the package.
        return importlib.import_module, ("fastsoftmax",)

    def __deepcopy__(self, memo: dict[int, Any]) -> Functions:
        return self  # holds no state, and a copied method must stay bound to it

    def softmax(
        self,
        x: ArrayLike,
        axis: Axis = -1,
        *,
        where: ArrayLike | None = None,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        temperature: float = 1.0,
        workers: int | None = None,
    ) -> Array:
        """Softmax, over the last axis unless `axis` says otherwise.

        ``softmax(x) = exp(x) / sum(exp(x))``, to a few ULP for any finite values. SciPy's default
        is ``axis=None``, all axes together; here, as in most libraries, it is the last one.

        Parameters
        ----------
        x : array_like
            Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
            float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays and
            :class:`numpy.matrix` are refused.
        axis : int, None or tuple of int, default -1
            The axis to normalise over; None is all axes together, a tuple those axes together.
        where : array_like of bool, optional
            Which elements take part (True), broadcast to the shape of `x`. The others are not read,
            and 0 in the result.
        out : ndarray, optional
            Where to write the result: of the shape of `x` and of the result's dtype. It may be `x`.
            Worth having for large results, whose fresh memory may cost more than the softmax.
        dtype : dtype_like, optional
            The floating-point dtype that `x` is cast to first.
        temperature : float, default 1.0
            Gives ``softmax(x / temperature)`` without the rounding or the overflow of that
            division. Finite and above 0.
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
            not bool, `out` not an array of the result's dtype, or `temperature` or `workers` no
            number.
        ValueError
            If `where` does not broadcast to the shape of `x`, `out` has another shape or is
            read-only, an axis occurs twice, or `temperature` or `workers` is out of range.
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
        return self._rows("softmax", x, axis, where, out, dtype, temperature, workers)

    def log_softmax(
        self,
        x: ArrayLike,
        axis: Axis = -1,
        *,
        where: ArrayLike | None = None,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        temperature: float = 1.0,
        workers: int | None = None,
    ) -> Array:
        """Logarithm of the softmax, over the last axis unless `axis` says otherwise.

        ``log_softmax(x) = x - log(sum(exp(x)))``, to a few ULP also where the result is near 0.

        Parameters
        ----------
        x : array_like
            Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
            float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays and
            :class:`numpy.matrix` are refused.
        axis : int, None or tuple of int, default -1
            The axis to normalise over; None is all axes together, a tuple those axes together.
        where : array_like of bool, optional
            Which elements take part (True), broadcast to the shape of `x`. The others are not read,
            and -inf in the result.
        out : ndarray, optional
            Where to write the result: of the shape of `x` and of the result's dtype. It may be `x`.
        dtype : dtype_like, optional
            The floating-point dtype that `x` is cast to first.
        temperature : float, default 1.0
            Gives ``log_softmax(x / temperature)`` without the rounding or the overflow of that
            division. Finite and above 0.
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
            not bool, `out` not an array of the result's dtype, or `temperature` or `workers` no
            number.
        ValueError
            If `where` does not broadcast to the shape of `x`, `out` has another shape or is
            read-only, an axis occurs twice, or `temperature` or `workers` is out of range.
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
        return self._rows("log_softmax", x, axis, where, out, dtype, temperature, workers)

    def logsumexp(
        self,
        x: ArrayLike,
        axis: Axis = -1,
        *,
        where: ArrayLike | None = None,
        keepdims: bool = False,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        workers: int | None = None,
    ) -> Any:
        """Logarithm of the sum of exponentials, over the last axis unless `axis` says otherwise.

        ``logsumexp(x) = log(sum(exp(x)))``, without overflow, to a few ULP of the larger of the
        result and ``max(x)``.

        Parameters
        ----------
        x : array_like
            Input, of any shape, strides and byte order. Its dtype is bool, an integer dtype,
            float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble. Masked arrays and
            :class:`numpy.matrix` are refused.
        axis : int, None or tuple of int, default -1
            The axis to sum over; None is all axes together, a tuple those axes together.
        where : array_like of bool, optional
            Which elements take part (True), broadcast to the shape of `x`. The others are not read.
        keepdims : bool, default False
            Whether the reduced axes stay, with length 1.
        out : ndarray, optional
            Where to write the result: of the result's shape and dtype.
        dtype : dtype_like, optional
            The floating-point dtype that `x` is cast to first.
        workers : int, optional
            How many threads may share the rows of a large array; -1 is one for each CPU. By default
            what :func:`set_workers` has set, else 1. The bits do not depend on it.

        Returns
        -------
        ndarray or scalar
            `out` if given; else a new array, of the shape of `x` without the reduced axes (a scalar
            if none is left) and of the dtype of `x` or `dtype` (float64 for integers and bool).

        Raises
        ------
        TypeError
            If `x` is of another dtype, a masked array or a matrix, `axis` not an integer, `where`
            or `keepdims` not bool, `out` not an array of the result's dtype, or `workers` no
            number.
        ValueError
            If `where` does not broadcast to the shape of `x`, `out` has another shape or is
            read-only, an axis occurs twice, or `workers` is out of range.
        numpy.exceptions.AxisError
            If `x` has no such axis.

        See Also
        --------
        softmax : Has the notes, which hold here too.

        Notes
        -----
        The sum of nothing is 0: -inf is the result of a row that holds only -inf, has no True in
        `where`, or is of length 0. +inf gives inf; a NaN, NaN.

        Examples
        --------
        >>> from fastsoftmax import logsumexp
        >>> print(logsumexp([1000.0, 1000.0]))
        1000.6931471805599
        >>> print(logsumexp([[0.0, 0.0], [1.0, 1.0]], axis=0))
        [1.31326169 1.31326169]
        """
        x = _input("x", x, _float_dtype(dtype))
        axes = _axes(axis, x.ndim)
        mask = _mask(where, x.shape)
        if not isinstance(keepdims, (bool, np.bool_)):
            raise TypeError(f"keepdims must be True or False, got {keepdims!r}")
        threads = _workers.threads_for(workers, x.size)
        kept = [d for d in range(x.ndim) if d not in axes]
        shape = tuple(
            x.shape[d] if d in kept else 1 for d in range(x.ndim) if d in kept or keepdims
        )
        result = _checked("out", out, shape, x.dtype)
        if result is None:
            result = np.empty(shape, x.dtype)
        if result.size == 0:
            return result if out is None else out
        if x.size == 0:
            result[...] = -np.inf
            return result[()] if out is None else out
        target = _target(result, x, mask, in_place=False)
        rows, k = _rows_last(x, axes)
        backend = self._backend_for(x.dtype)
        flat = target.reshape(rows.shape[:-k])
        assert np.may_share_memory(flat, target)
        where_rows = None if mask is None else _rows_last(mask, axes)[0]
        backend.logsumexp(rows, flat, k, where_rows, threads)
        if target is not result:
            result[...] = target
        return result[()] if out is None else out

    def softmax_backward(
        self,
        grad_output: ArrayLike,
        output: ArrayLike,
        axis: Axis = -1,
        *,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Array:
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
            them.
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
        return self._backward("softmax_backward", grad_output, output, axis, out, workers)

    def log_softmax_backward(
        self,
        grad_output: ArrayLike,
        output: ArrayLike,
        axis: Axis = -1,
        *,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Array:
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
        out : ndarray, optional
            Where to write the result: of the inputs' shape and the result's dtype. It may be one of
            them.
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
        return self._backward("log_softmax_backward", grad_output, output, axis, out, workers)

    def softmax_cross_entropy(
        self,
        logits: ArrayLike,
        labels: ArrayLike,
        axis: int = -1,
        *,
        label_smoothing: float = 0.0,
        return_grad: bool = False,
        workers: int | None = None,
    ) -> Any:
        """Cross-entropy between labels and the softmax of logits, one loss for each row.

        ``-sum(t * log_softmax(logits))`` with ``t`` the label probabilities, accurate also where
        the loss is near 0. Nothing is reduced: take the mean or the sum of the result.

        Parameters
        ----------
        logits : array_like
            Scores before softmax, of any dtype that :func:`softmax` takes, with at least one axis.
        labels : array_like
            Either class indices, of an integer dtype and the shape of `logits` without `axis`, or
            probabilities, of a floating-point dtype and the shape of `logits`, taken as they are.
        axis : int, default -1
            The axis of the classes.
        label_smoothing : float, default 0.0
            Which part of each label's probability is spread evenly over all n classes:
            ``t = (1 - label_smoothing) * label + label_smoothing / n``. From 0 to 1.
        return_grad : bool, default False
            Whether to return the gradient too, which comes from the same pass.
        workers : int, optional
            How many threads may share the rows of a large array; see :func:`softmax`.

        Returns
        -------
        loss : ndarray or scalar
            Losses in nats, of the shape of `logits` without `axis`, in its dtype (float64 for
            integers and bool).
        grad : ndarray
            Only with ``return_grad=True``: the gradient of each loss with respect to its logits,
            ``sum(t) * softmax(logits) - t``, of the shape of `logits`.

        Raises
        ------
        TypeError
            If `logits` or `labels` is of a dtype that is not accepted, `axis` not an integer,
            `return_grad` not bool, or `label_smoothing` no number.
        ValueError
            If `logits` is 0-d, the shapes do not match, or `label_smoothing` or `workers` is out of
            range.
        IndexError
            If a class index is negative or not below the number of classes.
        numpy.exceptions.AxisError
            If `logits` has no such axis.

        See Also
        --------
        log_softmax

        Notes
        -----
        A probability of 0 against a logit of -inf contributes 0. For the gradient of a mean over
        the rows, divide `grad` by their number. Label smoothing is that of Szegedy et al. [1]_.

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
        x = _input("logits", logits)
        if x.ndim == 0:
            raise ValueError(
                "logits must have at least one axis, that of the classes; got a scalar"
            )
        axes = _class_axis(axis, x.ndim)
        smoothing = _number("label_smoothing", label_smoothing)
        if not 0 <= smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
        if not isinstance(return_grad, (bool, np.bool_)):
            raise TypeError(f"return_grad must be True or False, got {return_grad!r}")
        threads = _workers.threads_for(workers, x.size)
        targets = _labels(labels, x, *axes)
        x_rows = _rows_last(x, axes)[0]
        if targets.ndim == x.ndim:
            targets = _rows_last(targets, axes)[0]
        loss = np.zeros(x_rows.shape[:-1], x.dtype)  # of no classes: the empty sum
        grad = np.empty_like(x) if return_grad else None
        if x.size:
            grad_rows = None if grad is None else _rows_last(grad, axes)[0]
            backend = self._backend_for(x.dtype)
            backend.softmax_cross_entropy(x_rows, targets, loss, grad_rows, smoothing, threads)
        return loss[()] if grad is None else (loss[()], grad)

    def segment_softmax(
        self,
        data: ArrayLike,
        indptr: ArrayLike,
        *,
        out: Array | None = None,
        workers: int | None = None,
    ) -> Array:
        """Softmax over each of the rows that `indptr` cuts 1-D data into.

        Row i is ``data[indptr[i]:indptr[i + 1]]``: ragged arrays, CSR matrices, edges of a graph
        sorted by node.

        Parameters
        ----------
        data : array_like
            The rows one after the other, 1-D, of any dtype that :func:`softmax` takes.
        indptr : array_like of int
            Row pointers: 1-D, starting with 0, never decreasing, ending with ``len(data)``.
        out : ndarray, optional
            Where to write the result: of the shape of `data` and the result's dtype. It may be
            `data`.
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
            If `data` is of a dtype that is not accepted, `indptr` not of an integer dtype, or `out`
            not an array of the result's dtype.
        ValueError
            If `data` or `indptr` is not 1-D, `indptr` is no list of row pointers into `data`, `out`
            has another shape or is read-only, or `workers` is out of range.

        See Also
        --------
        softmax : Of rows of one length. It has the notes, which hold here too.

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
        """
        x = _input("data", data)
        if x.ndim != 1:
            raise ValueError(f"data must be 1-D, got shape {x.shape}")
        pointers = _pointers(indptr, len(x))
        threads = _workers.threads_for(workers, x.size)
        result = _checked("out", out, x.shape, x.dtype)
        if result is None:
            result = np.empty_like(x)
        if x.size:
            x = np.ascontiguousarray(x)
            target = _target(result, x)
            if not target.flags.c_contiguous:
                target = np.empty_like(x)
            self._backend_for(x.dtype).segment_softmax(x, pointers, target, threads)
            if target is not result:
                result[...] = target
        return result if out is None else out

    def _rows(
        self,
        name: str,
        x: ArrayLike,
        axis: Axis,
        where: ArrayLike | None,
        out: Array | None,
        dtype: DTypeLike | None,
        temperature: float,
        workers: int | None,
    ) -> Array:
        """Compute softmax or log_softmax, whichever `name` is."""
        x = _input("x", x, _float_dtype(dtype))
        axes = _axes(axis, x.ndim)
        mask = _mask(where, x.shape)
        divisor = _number("temperature", temperature)
        if not 0 < divisor < math.inf:
            raise ValueError(f"temperature must be finite and above 0, got {temperature!r}")
        threads = _workers.threads_for(workers, x.size)
        result = _checked("out", out, x.shape, x.dtype)
        if result is None:
            result = np.empty_like(x)
        if x.size:
            compute = getattr(self._backend_for(x.dtype), name)
            target = result if out is None else _target(result, x, mask)
            rows, k = _rows_last(x, axes)
            where_rows = None if mask is None else _rows_last(mask, axes)[0]
            compute(rows, _rows_last(target, axes)[0], k, where_rows, divisor, threads)
            if target is not result:
                result[...] = target
        return result[()] if out is None else out

    def _backward(
        self,
        name: str,
        grad_output: ArrayLike,
        output: ArrayLike,
        axis: Axis,
        out: Array | None,
        workers: int | None,
    ) -> Array:
        """Compute the gradient of softmax or log_softmax, whichever `name` is."""
        g = _input("grad_output", grad_output)
        y = _input("output", output)
        if g.shape != y.shape:
            raise ValueError(
                f"grad_output and output must have the same shape, got {g.shape} and {y.shape}"
            )
        if g.dtype != y.dtype:
            common = np.result_type(g, y)
            g, y = _cast(g, common), _cast(y, common)
        axes = _axes(axis, g.ndim)
        threads = _workers.threads_for(workers, g.size)
        result = _checked("out", out, g.shape, g.dtype)
        if result is None:
            result = np.empty_like(g)
        if g.size:
            compute = getattr(self._backend_for(g.dtype), name)
            target = result if out is None else _target(result, g, y)
            rows, k = _rows_last(g, axes)
            compute(rows, _rows_last(y, axes)[0], _rows_last(target, axes)[0], k, threads)
            if target is not result:
                result[...] = target
        return result[()] if out is None else out

    def _backend_for(self, dtype: np.dtype[Any]) -> Backend:
        if dtype.char != "g":
            return self._backend
        from fastsoftmax._numpy import NumpyBackend

        return NumpyBackend()


def _base(name: str, value: Any) -> Array:
    """Return `value` as a base ndarray, refusing the subclasses that mean something else."""
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{name} must not be a MaskedArray, whose mask would be lost; if it takes a mask, "
                "pass x.data and where=~x.mask"
            )
        if isinstance(value, np.matrix):
            raise TypeError(f"{name} must not be a numpy.matrix; pass numpy.asarray({name})")
    return np.asarray(value)


def _float_of(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype in which values of `dtype` are returned; None if they are not accepted."""
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    ml_dtypes = sys.modules.get("ml_dtypes")  # before it is imported, no array is of its dtype
    if dtype.kind == "f" or (ml_dtypes is not None and dtype.type is ml_dtypes.bfloat16):
        native: np.dtype[Any] = dtype.newbyteorder("=")
        return native
    return None


def _float_dtype(dtype: DTypeLike | None) -> np.dtype[Any] | None:
    """Check the argument `dtype`."""
    if dtype is None:
        return None
    try:
        given = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be {FLOATS}, got {dtype!r}") from None
    result = None if given.kind in "biu" else _float_of(given)
    if result is None:
        raise TypeError(f"dtype must be {FLOATS}, got {given}")
    return result


def _input(name: str, value: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """Return an input as an aligned base ndarray of the dtype that it is computed for."""
    array = _base(name, value)
    result = _float_of(array.dtype)
    if result is None:
        raise TypeError(f"{name} must be of dtype {ACCEPTED}, got {array.dtype}")
    return _cast(array, result if dtype is None else dtype)


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype and array.flags.aligned:
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes, counted from 0 and in order, so that the order of a tuple changes no bit."""
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    if axis is None:
        return tuple(range(ndim))
    axes = []
    for given in axis if isinstance(axis, tuple) else (axis,):
        if isinstance(given, (bool, np.bool_)):
            raise TypeError(f"axis must be an integer, a tuple of integers or None, got {axis!r}")
        try:
            index = operator.index(given)
        except TypeError:
            raise TypeError(
                f"axis must be an integer, a tuple of integers or None, got {axis!r}"
            ) from None
        if ndim == 0 and index in (-1, 0):  # as NumPy's reductions: a scalar is a row of itself
            continue
        if not -ndim <= index < ndim:
            raise AxisError(index, ndim)
        axes.append(index % ndim)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must not name an axis twice, got {axis!r}")
    return tuple(sorted(axes))


def _class_axis(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"axis must be an integer, the axis of the classes, got {axis!r}")
    return _axes(axis, ndim)


def _mask(where: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    if where is None:
        return None
    mask = _base("where", where)
    if mask.dtype != np.bool_:
        raise TypeError(f"where must be of dtype bool, got {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where must be broadcastable to the shape {shape} of x, got shape {mask.shape}"
        ) from None


def _number(name: str, value: Any) -> float:
    """Return a real number as a float."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, (str, bytes, bytearray)) or np.ndim(value):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} must be a real number, got {value!r}") from None
    except OverflowError:
        return math.inf


def _checked(
    name: str, out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array | None:
    """Check an output array and return it as a base ndarray."""
    if out is None:
        return None
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(out).__name__}")
    base = _base(name, out)
    if out.dtype != dtype:
        raise TypeError(f"{name} must be of dtype {dtype}, the result's, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} must have the result's shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    return base


def _target(result: Array, *inputs: Array | None, in_place: bool = True) -> Array:
    """Return `result`, or new memory if it overlaps an input in any way but exactly."""
    overlaps = any(
        a is not None
        and np.may_share_memory(result, a)
        and not (in_place and _is_same_memory(result, a))
        for a in inputs
    )
    if overlaps or not result.flags.aligned:
        return np.empty_like(result)
    return result


def _is_same_memory(a: Array, b: Array) -> bool:
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def _rows_last(array: Array, axes: tuple[int, ...]) -> tuple[Array, int]:
    """Return a view with `axes` at the end, and how many there are; at least one, of length 1."""
    if not axes:
        return array[..., np.newaxis], 1
    if axes == (array.ndim - 1,):
        return array, 1
    kept = [d for d in range(array.ndim) if d not in axes]
    return array.transpose(*kept, *axes), len(axes)


def _labels(labels: ArrayLike, logits: Array, axis: int) -> Array:
    """Return labels as class indices (intp) or as probabilities in the dtype of the logits."""
    given = _base("labels", labels)
    if given.dtype.kind in "iu":
        rows = logits.shape[:axis] + logits.shape[axis + 1 :]
        if given.shape != rows:
            raise ValueError(
                "labels of an integer dtype are class indices, whose shape must be that of logits "
                f"without the axis of the classes, {rows}; got {given.shape}"
            )
        classes = logits.shape[axis]
        outside = (given < 0) | (given >= classes)
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            where = f" at index {at if len(at) > 1 else at[0]}" if at else ""
            raise IndexError(
                f"labels must be class indices from 0 to {classes - 1} for {classes} classes, "
                f"got {given[at]}{where}"
            )
        return given.astype(np.intp, copy=False)
    if given.dtype.kind == "b" or _float_of(given.dtype) is None:
        raise TypeError(
            "labels must be class indices of an integer dtype or probabilities of a "
            f"floating-point dtype, got {given.dtype}"
        )
    if given.shape != logits.shape:
        raise ValueError(
            f"labels of dtype {given.dtype} are probabilities, whose shape must be that of logits, "
            f"{logits.shape}; got {given.shape} (class indices are of an integer dtype)"
        )
    return _cast(given, logits.dtype)


def _pointers(indptr: ArrayLike, length: int) -> NDArray[np.int64]:
    """Check the row pointers of `length` elements."""
    given = _base("indptr", indptr)
    if given.dtype.kind not in "iu":
        raise TypeError(f"indptr must be of an integer dtype, got {given.dtype}")
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"indptr must be 1-D and hold at least the 0, got shape {given.shape}")
    if given[0] != 0:
        raise ValueError(f"indptr must start with 0, got {given[0]}")
    falls = given[1:] < given[:-1]
    if falls.any():
        i = int(np.argmax(falls))
        raise ValueError(
            f"indptr must not decrease, got {given[i]} followed by {given[i + 1]} at index {i + 1}"
        )
    if given[-1] != length:
        raise ValueError(f"indptr must end with the length of data, {length}, got {given[-1]}")
    return np.ascontiguousarray(given, dtype=np.int64)
