"""What any call must return: exact values, and how far from each of them a result may be.

A tolerance is infinite where nothing is promised: of gradients of operands that are not finite (but
for a NaN), of losses against what is no distribution, where the sum of the terms is near the end of
the format, and of a sum of weighted exponentials that cancel each other to the last bit.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    exact_weighted,
    info,
    ulp_size,
)
from .inputs import Array


@dataclass
class Settings:
    """The options of a call in their plainest form."""

    axes: tuple[int, ...]
    where: Array | None = None
    """Of the first operand's shape."""
    temperature: float | Array = 1.0
    """An array broadcasts to the rows: the operand's shape with reduced axes of length 1."""
    label_smoothing: float = 0.0
    keepdims: bool = False
    return_grad: bool = False
    return_sign: bool = False
    b: float | Array | None = None
    """An array broadcasts to the operand's shape."""
    sample_weight: float | Array | None = None
    """An array broadcasts to the shape of the losses."""
    ignore_index: int | None = None


class Exact(NamedTuple):
    """The values that a result should have, and how far from them it may be."""

    value: Array
    size: Array
    """What an ULP is taken of: the value, or the larger terms that it is the sum of."""
    bound: Any
    """ULP; infinite where nothing is promised."""
    besides: Any = 0.0
    """What the error may be besides, whatever the value: what cancellation costs."""

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
        allowed = allowed + self.besides
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
    with np.errstate(invalid="ignore", over="ignore"):
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


def per_row(value: float | Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """Return a number for each of the rows that `rows_last` gives, 2-D; or the one for all."""
    if np.ndim(value) == 0:
        return np.longdouble(value)
    rows = tuple(1 if d in axes else n for d, n in enumerate(shape))
    given = np.broadcast_to(np.asarray(value, np.longdouble), rows)
    return rows_last(given, axes)[0]


def per_loss(value: float | Array | None, shape: tuple[int, ...]) -> Any:
    """Return a number for each loss of a result of `shape`, 1-D, or the one for all."""
    if value is None:
        return np.longdouble(1)
    return np.broadcast_to(np.asarray(value, np.longdouble), shape).reshape(-1)


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
        return _of_nothing(name, operands, settings)
    if name.startswith("segment_"):
        return [_segments(name.removeprefix("segment_"), operands[0], operands[1], settings)]
    if name == "softmax_cross_entropy":
        return _entropy(operands[0], operands[1], settings)
    if name.endswith("backward"):
        return [_gradient(name, operands[0], operands[1], settings)]
    if name == "logsumexp":
        return _logsumexp(operands[0], settings)
    return [_forward(name, operands[0], settings)]


def reduced(shape: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """Return the shape of a result of one number a row."""
    if settings.keepdims:
        return tuple(1 if d in settings.axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in settings.axes)


def _of_nothing(name: str, operands: tuple[Array, ...], settings: Settings) -> list[Exact]:
    x = operands[0]
    shape = x.shape
    if name in ("logsumexp", "softmax_cross_entropy"):
        shape = reduced(x.shape, settings)
    elif name == "segment_logsumexp":
        shape = (len(operands[1]) - 1, *x.shape[1:])
    value = -np.inf if name.endswith("logsumexp") else 0.0
    results = [Exact(np.full(shape, value, np.longdouble), np.zeros(shape), 0)]
    if settings.return_grad:
        results.append(Exact(np.empty(x.shape, np.longdouble), np.empty(x.shape), 0))
    if settings.return_sign:
        results.append(Exact(np.zeros(shape, np.longdouble), np.zeros(shape), 0))
    return results


def _forward(name: str, x: Array, settings: Settings) -> Exact:
    rows, undo = rows_last(x, settings.axes)
    where = None if settings.where is None else rows_last(settings.where, settings.axes)[0]
    temperature = per_row(settings.temperature, x.shape, settings.axes)
    if name == "softmax":
        exact = exact_softmax(rows, where, temperature)
        bound = bound_of_softmax(exact, x.dtype, is_tempered=temperature != 1)
    else:
        exact = exact_log_softmax(rows, where, temperature)
        bound = _bound_of_logarithm(name, abs(exact), x.dtype)
    return Exact(*map(undo, (exact, abs(exact), bound)))


def _logsumexp(x: Array, settings: Settings) -> list[Exact]:
    """Return the logarithms of sums, weighted or not, and their signs if they are asked for."""
    rows, _ = rows_last(x, settings.axes)
    where = None if settings.where is None else rows_last(settings.where, settings.axes)[0]
    kept = rows if where is None else np.where(where, rows, -np.inf)
    exact = exact_logsumexp(rows, where)
    size = np.maximum(abs(exact), abs(kept.max(axis=-1).astype(np.longdouble)))
    results = [Exact(exact, size, _bound_of_logarithm("logsumexp", size, x.dtype))]
    sign = np.where(np.isnan(exact), np.nan, np.where(exact == -np.inf, 0, 1))
    signs = Exact(sign.astype(np.longdouble), abs(sign), 0.0)
    if settings.b is not None:
        b = rows_last(np.broadcast_to(np.asarray(settings.b), x.shape), settings.axes)[0]
        is_plain = np.all(b == 1 if where is None else (b == 1) | ~where, axis=-1)
        logarithms, weighted_signs = _weighted(rows, b, where, x.dtype, settings)
        results[0] = _where(is_plain, results[0], logarithms)
        signs = _where(is_plain, signs, weighted_signs)
    if settings.return_sign:
        results.append(signs)
    shape = reduced(x.shape, settings)
    return [
        Exact(*(np.broadcast_to(field, exact.shape).reshape(shape) for field in result))
        for result in results
    ]


def _where(chosen: Array, ones: Exact, others: Exact) -> Exact:
    pairs = zip(ones, others, strict=True)
    return Exact(*(np.where(chosen, one, other) for one, other in pairs))


def _weighted(
    rows: Array, b: Array, where: Array | None, dtype: Any, settings: Settings
) -> tuple[Exact, Exact]:
    value, sign, largest, cancellation = exact_weighted(rows, b, where)
    unit = np.longdouble(2.0**-53)
    if dtype.char == "g":
        unit = min(unit, np.finfo(np.longdouble).eps / 2)
    size = np.maximum(abs(largest), np.where(np.isinf(value), 0, abs(value)))
    error = np.where(np.isnan(cancellation), 0, 2 * unit * cancellation)  # of the sum, relative
    is_known = error < 0.5
    besides = -np.log1p(-np.where(is_known, error, 0))
    # Two terms that cancel each other leave nothing; of more, one may be rounded.
    terms = (b != 0) if where is None else where & (b != 0)
    is_known |= (value == -np.inf) & (np.sum(terms & (rows > -np.inf), axis=-1) <= 2)
    bound = np.where(np.isfinite(value), BOUND["logsumexp"], 0.0)
    if not settings.return_sign:
        value = np.where(sign < 0, np.nan, value)
        bound = np.where(sign < 0, 0.0, bound)
        besides = np.where(sign < 0, 0.0, besides)
    return (
        Exact(value, size, np.where(is_known, bound, np.inf), besides),
        Exact(sign, abs(sign), np.where(is_known, 0.0, np.inf), np.zeros(sign.shape)),
    )


def _bound_of_logarithm(name: str, size: Array, dtype: Any) -> Array:
    smallest = np.longdouble(np.finfo(np.float64).smallest_normal)
    is_near = (dtype == np.float64) & (size < 4 * smallest)
    return np.where(is_near, BOUND_LOG_NEAR_SUBNORMAL, BOUND[name])


def bound_of_softmax(exact: Array, dtype: Any, *, is_tempered: bool | Array = False) -> Array:
    """Return the bound of each result of a softmax."""
    smallest = np.longdouble(info(computed_in(dtype)).smallest_normal)
    normal = np.where(is_tempered, BOUND_TEMPERED, BOUND["softmax"])
    above = np.where(exact < 8 * smallest, BOUND_NEAR_SUBNORMAL, normal)
    return np.where(exact < smallest, BOUND_SUBNORMAL, above)


def _segments(name: str, data: Array, indptr: Array, settings: Settings) -> Exact:
    """Return what each segment gives by itself; a segment of nothing, -inf or nothing."""
    keeps_shape = name != "logsumexp"
    shape = data.shape if keeps_shape else (len(indptr) - 1, *data.shape[1:])
    fields = [np.zeros(shape, np.longdouble) for _ in Exact._fields]
    fields[0][...] = -np.inf
    own = Settings((0,), temperature=settings.temperature, keepdims=True)
    for i, (start, stop) in enumerate(itertools.pairwise(indptr)):
        if stop > start:
            (result,) = exactly(name, (data[start:stop],), own)
            for field, value in zip(fields, result, strict=True):
                field[slice(start, stop) if keeps_shape else slice(i, i + 1)] = value
    return Exact(*fields)


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
    if name == "softmax_backward":  # which takes the sum from g before it multiplies by y
        proper = proper & fits(abs(rows) + sizes, g.dtype)
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
    shape = reduced(logits.shape, settings)
    by_index = labels.dtype.kind in "iu"
    if by_index:
        shares = (labels.reshape(-1, 1) == np.arange(n)).astype(np.longdouble)
    else:
        shares = rows_last(labels, settings.axes)[0].astype(np.longdouble)
    kept = np.ones(rows.shape, bool)
    if settings.where is not None:
        kept = rows_last(settings.where, settings.axes)[0]
    taking_part = kept.sum(axis=-1, keepdims=True)
    smoothing = np.longdouble(settings.label_smoothing)
    target = shares
    if smoothing != 0:
        even = smoothing / np.maximum(taking_part, 1)
        target = (1 - smoothing) * shares + np.where(kept, even, 0)
    temperature = per_row(settings.temperature, logits.shape, settings.axes)
    factor = np.broadcast_to(per_loss(settings.sample_weight, shape), len(rows))
    slope = factor[:, np.newaxis] / temperature

    nothing = taking_part == 0
    logarithms = exact_log_softmax(rows, kept, temperature)
    no_answer = np.any(np.isnan(logarithms) & kept, axis=-1)
    logarithms = np.where(nothing, -np.inf, logarithms)
    costs = np.where(nothing, shares, target)  # of no classes none is smoothed
    terms = np.where(costs == 0, 0, -costs * logarithms)
    loss = np.where(no_answer, np.nan, terms.sum(axis=-1))
    size = abs(terms).sum(axis=-1)
    # What no distribution holds may cost anything.
    proper = np.all((target >= 0) & np.isfinite(target), axis=-1)
    given_up = factor == 0
    if by_index and settings.ignore_index is not None:
        given_up = given_up | (labels.reshape(-1) == settings.ignore_index)
    # What it is the sum of, and the sum before it is weighted, are of that format too.
    largest = np.where(target == 0, 0, abs(logarithms)).max(axis=-1)
    inner = [np.where(np.isfinite(values), values, 0) for values in (size, largest, slope[:, 0])]
    is_far = np.any([~fits(abs(values), logits.dtype) for values in inner], axis=0)

    def result(
        value: Array, size: Array, bound: float, known: Array, of_row: Callable[[Array], Array]
    ) -> Exact:
        is_known = fits(size, logits.dtype) & of_row(~is_far)
        bounds = np.where(known, 0, np.where(is_known, bound, np.inf))
        bounds = np.where(of_row(proper), bounds, np.inf)
        bounds = np.where(of_row(given_up), 0, bounds)
        return Exact(np.where(of_row(given_up), 0, value), size, bounds)

    impossible = np.any((costs > 0) & (logarithms == -np.inf), axis=-1)
    losses = result(
        factor * loss, abs(factor) * size, BOUND_LOSS, no_answer | impossible, lambda rows: rows
    )
    # Before it is enlarged by a weight, a number is no better than the smallest there is.
    smallest = np.longdouble(info(computed_in(logits.dtype)).smallest_subnormal)
    enlarged = np.where(abs(factor) > 1, BOUND_LOSS * abs(factor) * smallest, 0)
    off = np.where(given_up | no_answer | impossible, 0, enlarged)
    losses = Exact(*(np.reshape(a, shape) for a in (*losses[:3], off)))
    if not settings.return_grad:
        return [losses]
    share = np.where(nothing, 0, exact_softmax(rows, kept, temperature))
    total = target.sum(axis=-1, keepdims=True)
    value = slope * (total * share - target)
    value = np.where(no_answer[:, np.newaxis] & kept, np.nan, value)
    size = abs(slope) * (abs(target) + abs(target).sum(axis=-1, keepdims=True) * share)
    bound = BOUND_GRADIENT["softmax_cross_entropy"]
    known = np.broadcast_to(no_answer[:, np.newaxis], value.shape)
    grads = result(value, size, bound, known, lambda rows: rows[..., np.newaxis])
    enlarged = np.where(abs(slope) > 1, bound * abs(slope) * smallest, 0)
    off = np.where(kept & ~known & ~given_up[:, np.newaxis], enlarged, 0)
    value, bounds = np.where(kept, grads.value, 0), np.where(kept, grads.bound, 0)
    return [losses, Exact(*map(undo, (value, size, bounds, off)))]
