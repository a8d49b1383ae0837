"""What any call must return: exact values, and how far from each of them a result may be.

A tolerance is infinite where nothing is promised: of gradients and losses of operands that are not
finite (but for a NaN), and where the sum of the terms is near the end of the format.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .exact import (
    BOUND,
    BOUND_GRADIENT,
    BOUND_LOG_NEAR_SUBNORMAL,
    BOUND_LOSS,
    BOUND_NEAR_SUBNORMAL,
    BOUND_SUBNORMAL,
    BOUND_TEMPERED,
    IS_WIDER,
    NUMPY_BOUND,
    exact_log_softmax,
    exact_logsumexp,
    exact_softmax,
    info,
    ulp_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .inputs import Array


@dataclass
class Settings:
    """The options of a call in their plainest form."""

    axes: tuple[int, ...]
    where: Array | None = None
    """Of the first operand's shape."""
    temperature: float = 1.0
    label_smoothing: float = 0.0
    keepdims: bool = False
    return_grad: bool = False


class Exact(NamedTuple):
    """The values that a result should have, and how far from them it may be."""

    value: Array
    size: Array
    """What an ULP is taken of: the value, or the larger terms that it is the sum of."""
    bound: Any
    """ULP; infinite where nothing is promised."""

    def ulp(self, dtype: Any) -> Array:
        """Return an ULP of each result; of 16 bits, with twice what float32's error may be.

        That is left out where it is nothing: where the value is no smaller than half its terms.
        """
        wide = computed_in(dtype)
        unit = ulp_size(np.where(np.isfinite(self.size), self.size, 0), wide)
        if dtype == wide:
            return unit
        value = np.where(np.isfinite(self.value), abs(self.value), 0)
        cancelled = np.where(self.size > 2 * value, 2 * self.bound * unit, 0)
        return ulp_size(value, dtype) + cancelled

    def allowed(self, dtype: Any) -> Array:
        """Return how far the results may be: beside `bound`, those of 16 bits are rounded once."""
        wide = computed_in(dtype)
        allowed = self.bound * ulp_size(np.where(np.isfinite(self.size), self.size, 0), wide)
        if dtype.char == "g" or (dtype == np.float64 and not IS_WIDER):
            return 8 * allowed  # the reference has errors of that size itself
        if dtype == wide:
            return allowed
        value = np.where(np.isfinite(self.value), abs(self.value), 0)
        return allowed + 0.501 * ulp_size(value, dtype)


def computed_in(dtype: Any) -> Any:
    """Return the format whose ULP bounds the error: results of 16 bits are rounded once more."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def fits(size: Array, dtype: Any) -> Array:
    """Whether no partial sum of terms whose sizes add up to `size` is near the format's end."""
    return size <= np.longdouble(info(computed_in(dtype)).max) / 8


def distance(got: Array, exact: Array) -> Array:
    """Return how far results are from the exact ones; NaN is at 0 from NaN, infinity from itself.

    What is beyond the format is as far as its end.
    """
    limits = info(got.dtype)
    end = np.longdouble(limits.max)
    if got.dtype != np.longdouble:
        end *= 1 + np.longdouble(limits.eps) / 2  # what rounds up to more is infinite
    values = got.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        off = abs(np.clip(values, -end, end) - np.clip(exact, -end, end))
    same = (values == exact) | (np.isnan(values) & np.isnan(exact))
    return np.where(same, 0, np.where(np.isfinite(exact) & ~np.isnan(values), off, np.inf))


def within(got: Array, exact: Array, allowed: Array) -> Array:
    """Whether each result is as near to the exact one as allowed; NaN is NaN, infinity infinity."""
    return (distance(got, exact) <= allowed) | np.isinf(allowed)


def rows_last(array: Array, axes: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:
    """Return rows of the elements of `axes`, 2-D, and how to undo that for results."""
    order = [*(d for d in range(array.ndim) if d not in axes), *axes]
    moved = array.transpose(order)

    def undo(rows: Array) -> Array:
        return rows.reshape(moved.shape).transpose(np.argsort(order).astype(int))

    return moved.reshape(-1, math.prod(array.shape[d] for d in axes)), undo


def promised(
    name: str, operands: tuple[Array, ...], settings: Settings, backend: str = ""
) -> list[tuple[Array, Array]]:
    """Return for each result of the function `name` the exact values and their tolerances."""
    with np.errstate(all="ignore"):
        results = exactly(name, operands, settings, backend)
        return [(result.value, result.allowed(operands[0].dtype)) for result in results]


def exactly(
    name: str, operands: tuple[Array, ...], settings: Settings, backend: str = ""
) -> list[Exact]:
    """Return for each result of the function `name` what it should be by a backend."""
    with np.errstate(all="ignore"):
        results = _exactly(name, operands, settings)
    wide = computed_in(operands[0].dtype).name
    if backend != "numpy" or wide not in NUMPY_BOUND:
        return results

    def own(bound: Any) -> Any:
        return np.where(np.isfinite(bound) & (np.asarray(bound) > 0), NUMPY_BOUND[wide], bound)

    return [result._replace(bound=own(result.bound)) for result in results]


def _exactly(name: str, operands: tuple[Array, ...], settings: Settings) -> list[Exact]:
    if operands[0].size == 0:
        return _of_nothing(name, operands[0], settings)
    if name == "segment_softmax":
        return [_segments(*operands)]
    if name == "softmax_cross_entropy":
        return _entropy(operands[0], operands[1], settings)
    if name.endswith("backward"):
        return [_gradient(name, operands[0], operands[1], settings)]
    return [_forward(name, operands[0], settings)]


def reduced(shape: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """Return the shape of a result of one number a row."""
    if settings.keepdims:
        return tuple(1 if d in settings.axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in settings.axes)


def _of_nothing(name: str, x: Array, settings: Settings) -> list[Exact]:
    shape, value = x.shape, 0.0
    if name in ("logsumexp", "softmax_cross_entropy"):
        shape = reduced(x.shape, settings)
        value = -np.inf if name == "logsumexp" else 0.0
    results = [Exact(np.full(shape, value, np.longdouble), np.zeros(shape), 0)]
    if settings.return_grad:
        results.append(Exact(np.empty(x.shape, np.longdouble), np.empty(x.shape), 0))
    return results


def _forward(name: str, x: Array, settings: Settings) -> Exact:
    rows, undo = rows_last(x, settings.axes)
    where = None if settings.where is None else rows_last(settings.where, settings.axes)[0]
    dtype = x.dtype
    if name == "logsumexp":
        exact = exact_logsumexp(rows, where)
        largest = (rows if where is None else np.where(where, rows, -np.inf)).max(axis=-1)
        size = np.maximum(abs(exact), abs(largest.astype(np.longdouble)))
        shape = reduced(x.shape, settings)
        return Exact(
            exact.reshape(shape),
            size.reshape(shape),
            _bound_of_logarithm(name, size, dtype).reshape(shape),
        )
    forward = exact_softmax if name == "softmax" else exact_log_softmax
    exact = undo(forward(rows, where, settings.temperature))
    if name == "softmax":
        return Exact(
            exact, exact, bound_of_softmax(exact, dtype, is_tempered=settings.temperature != 1)
        )
    return Exact(exact, abs(exact), _bound_of_logarithm(name, abs(exact), dtype))


def _bound_of_logarithm(name: str, size: Array, dtype: Any) -> Array:
    smallest = np.longdouble(np.finfo(np.float64).smallest_normal)
    is_near = (dtype == np.float64) & (size < 4 * smallest)
    bound: Array = np.where(is_near, BOUND_LOG_NEAR_SUBNORMAL, BOUND[name])
    return bound


def bound_of_softmax(exact: Array, dtype: Any, *, is_tempered: bool = False) -> Array:
    """Return the bound of each result of a softmax."""
    smallest = np.longdouble(info(computed_in(dtype)).smallest_normal)
    normal = BOUND_TEMPERED if is_tempered else BOUND["softmax"]
    above = np.where(exact < 8 * smallest, BOUND_NEAR_SUBNORMAL, normal)
    bound: Array = np.where(exact < smallest, BOUND_SUBNORMAL, above)
    return bound


def _segments(data: Array, indptr: Array) -> Exact:
    exact = np.empty(data.shape, np.longdouble)
    for start, stop in itertools.pairwise(indptr):
        if stop > start:
            exact[start:stop] = exact_softmax(data[start:stop])
    return Exact(exact, exact, bound_of_softmax(exact, data.dtype))


def _gradient(name: str, g: Array, y: Array, settings: Settings) -> Exact:
    (rows, undo), (outputs, _) = rows_last(g, settings.axes), rows_last(y, settings.axes)
    rows, outputs = rows.astype(np.longdouble), outputs.astype(np.longdouble)
    where = None if settings.where is None else rows_last(settings.where, settings.axes)[0]
    if where is not None:
        rows, outputs = np.where(where, rows, 0), np.where(where, outputs, -np.inf)
    if name == "softmax_backward":
        inner, factor, left = rows * outputs, outputs, outputs * rows
    else:
        inner, factor, left = rows, np.exp(outputs), rows
    exact = left - factor * inner.sum(axis=-1, keepdims=True)
    sizes = abs(inner).sum(axis=-1, keepdims=True)
    size = abs(left) + abs(factor) * sizes
    # No output of a softmax is above 1.
    proper = fits(sizes, g.dtype) & np.all(abs(factor) <= 1.01, axis=-1, keepdims=True)
    bound: Any = BOUND_GRADIENT[name]
    if name == "softmax_backward":  # each product may round off half of the smallest number
        smallest = np.longdouble(info(computed_in(g.dtype)).smallest_subnormal)
        off = rows.shape[-1] * abs(factor) * smallest / 2
        bound = bound + off / ulp_size(size, computed_in(g.dtype))
    bound = np.where(proper & fits(size, g.dtype), bound, np.inf)
    # Of a row with a NaN that every element depends on, every element is NaN.
    spoilt = np.isnan(inner).any(axis=-1, keepdims=True)
    exact, bound = np.where(spoilt, np.nan, exact), np.where(spoilt, 0, bound)
    if where is not None:
        exact, bound = np.where(where, exact, 0), np.where(where, bound, 0)
    return Exact(undo(exact), undo(size), undo(bound))


def _entropy(logits: Array, labels: Array, settings: Settings) -> list[Exact]:
    rows, undo = rows_last(logits, settings.axes)
    n = rows.shape[-1]
    smoothing = np.longdouble(settings.label_smoothing)
    by_index = labels.dtype.kind in "iu"
    if by_index:
        shares = (labels.reshape(-1, 1) == np.arange(n)).astype(np.longdouble)
    else:
        shares = rows_last(labels, settings.axes)[0].astype(np.longdouble)
    target = shares if smoothing == 0 else (1 - smoothing) * shares + smoothing / n
    logarithms = exact_log_softmax(rows)
    no_answer = np.isnan(logarithms).any(axis=-1)
    terms = np.where(target == 0, 0, -target * logarithms)
    loss = np.where(no_answer, np.nan, terms.sum(axis=-1))
    size = abs(terms).sum(axis=-1)
    # What no distribution holds may cost anything.
    proper = np.all((target >= 0) & np.isfinite(target), axis=-1)

    def result(value: Array, size: Array, bound: float, of_row: Callable[[Array], Array]) -> Exact:
        bounds = np.where(fits(size, logits.dtype), bound, np.inf)
        bounds = np.where(of_row(proper & no_answer), 0, bounds)
        return Exact(value, size, np.where(of_row(proper), bounds, np.inf))

    loss, size, bounds = result(loss, size, BOUND_LOSS, lambda rows: rows)
    shape = reduced(logits.shape, settings)
    losses = Exact(loss.reshape(shape), size.reshape(shape), bounds.reshape(shape))
    if not settings.return_grad:
        return [losses]
    share = exact_softmax(rows)
    total = target.sum(axis=-1, keepdims=True)
    size = abs(target) + abs(target).sum(axis=-1, keepdims=True) * share
    bound = BOUND_GRADIENT["softmax_cross_entropy"]
    grads = result(total * share - target, size, bound, lambda rows: rows[..., np.newaxis])
    return [losses, Exact(*map(undo, grads))]
