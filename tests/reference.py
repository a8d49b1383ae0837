"""What any call must return: exact values, and how far from each of them a result may be.

A tolerance is infinite where nothing is promised: of gradients and losses of operands that are not
finite (but for a NaN), and where the sum of the terms is near the end of the format.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from exact import (
    BOUND,
    BOUND_GRADIENT,
    BOUND_LOSS,
    BOUND_SUBNORMAL,
    IS_WIDER,
    SMOOTHING_COSTS,
    exact_log_softmax,
    exact_logsumexp,
    exact_softmax,
    info,
    ulp_size,
)

BOUND_OF_TARGETS = 3.0
"""ULP more for a loss of probabilities: each product is rounded."""


@dataclass
class Settings:
    """The options of a call in their plainest form."""

    axes: tuple[int, ...]
    where: np.ndarray | None = None
    """Of the first operand's shape."""
    temperature: float = 1.0
    label_smoothing: float = 0.0
    keepdims: bool = False
    return_grad: bool = False


def computed_in(dtype):
    """Return the format whose ULP bounds the error: results of 16 bits are rounded once more."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def tolerance(exact, bound, dtype, size=None):
    """Return how far a result may be: `bound` ULP of `size` (or the result), rounded once more."""
    wide = computed_in(dtype)
    exact = np.where(np.isfinite(exact), abs(exact), 0)
    size = exact if size is None else np.where(np.isfinite(size), size, 0)
    allowed = bound * ulp_size(size, wide)
    if dtype.char == "g" or (dtype == np.float64 and not IS_WIDER):
        return 8 * allowed  # the reference has errors of that size itself
    return allowed if dtype == wide else allowed + 0.501 * ulp_size(exact, dtype)


def tolerance_of_terms(exact, bound, dtype, size):
    """Return the tolerance of a sum of terms, whose sizes add up to `size`."""
    return np.where(fits(size, dtype), tolerance(exact, bound, dtype, size), np.inf)


def fits(size, dtype):
    """Whether no partial sum of terms whose sizes add up to `size` is near the format's end."""
    return size <= np.longdouble(info(computed_in(dtype)).max) / 8


def within(got, exact, allowed):
    """Whether each result is as near to the exact one as allowed; NaN is NaN, infinity infinity."""
    limits = info(got.dtype)
    end = np.longdouble(limits.max)
    if got.dtype != np.longdouble:
        end *= 1 + np.longdouble(limits.eps) / 2  # what rounds up to more is infinite
    values = got.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        near = abs(np.clip(values, -end, end) - np.clip(exact, -end, end)) <= allowed
    same = (values == exact) | (np.isnan(values) & np.isnan(exact))
    return same | (near & np.isfinite(exact)) | np.isinf(allowed)


def rows_last(array, axes):
    """Return rows of the elements of `axes`, 2-D, and how to undo that for results."""
    order = [*(d for d in range(array.ndim) if d not in axes), *axes]
    moved = array.transpose(order)

    def undo(rows):
        return rows.reshape(moved.shape).transpose(np.argsort(order).astype(int))

    return moved.reshape(-1, math.prod(array.shape[d] for d in axes)), undo


def promised(name, operands, settings):
    """Return for each result of the function `name` the exact values and their tolerances."""
    with np.errstate(all="ignore"):
        if operands[0].size == 0:
            return _of_nothing(name, operands[0], settings)
        if name == "segment_softmax":
            return [_segments(*operands)]
        if name == "softmax_cross_entropy":
            return _entropy(*operands, settings)
        if name.endswith("backward"):
            return [_gradient(name, *operands, settings)]
        return [_forward(name, operands[0], settings)]


def reduced(shape, settings):
    """Return the shape of a result of one number a row."""
    if settings.keepdims:
        return tuple(1 if d in settings.axes else n for d, n in enumerate(shape))
    return tuple(n for d, n in enumerate(shape) if d not in settings.axes)


def _of_nothing(name, x, settings):
    shape, value = x.shape, 0.0
    if name in ("logsumexp", "softmax_cross_entropy"):
        shape = reduced(x.shape, settings)
        value = -np.inf if name == "logsumexp" else 0.0
    results = [(np.full(shape, value, np.longdouble), np.zeros(shape))]
    if settings.return_grad:
        results.append((np.empty(x.shape, np.longdouble), np.empty(x.shape)))
    return results


def _forward(name, x, settings):
    rows, undo = rows_last(x, settings.axes)
    where = None if settings.where is None else rows_last(settings.where, settings.axes)[0]
    dtype = x.dtype
    if name == "logsumexp":
        exact = exact_logsumexp(rows, where)
        largest = (rows if where is None else np.where(where, rows, -np.inf)).max(axis=-1)
        size = np.maximum(abs(exact), abs(largest.astype(np.longdouble)))
        allowed = tolerance(exact, BOUND[name], dtype, size)
        shape = reduced(x.shape, settings)
        return exact.reshape(shape), allowed.reshape(shape)
    exactly = exact_softmax if name == "softmax" else exact_log_softmax
    exact = undo(exactly(rows, where, settings.temperature))
    if name == "softmax":
        return exact, _of_softmax(exact, dtype)
    allowed = tolerance(exact, BOUND[name], dtype)
    if settings.temperature != 1:
        # Not so yet where x - max, or that over T's power of two, overflows: test_accuracy.py.
        allowed = np.where(
            fits(abs(exact) * 4 * max(1, settings.temperature), dtype), allowed, np.inf
        )
    return exact, allowed


def _of_softmax(exact, dtype):
    is_subnormal = exact < np.longdouble(info(computed_in(dtype)).smallest_normal)
    bound = np.where(is_subnormal, BOUND_SUBNORMAL, BOUND["softmax"])
    return tolerance(exact, bound, dtype)


def _segments(data, indptr):
    exact = np.empty(data.shape, np.longdouble)
    for start, stop in itertools.pairwise(indptr):
        if stop > start:
            exact[start:stop] = exact_softmax(data[start:stop])
    return exact, _of_softmax(exact, data.dtype)


def _gradient(name, g, y, settings):
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
    allowed = tolerance_of_terms(exact, BOUND_GRADIENT, g.dtype, size)
    # No output of a softmax is above 1.
    proper = fits(sizes, g.dtype) & np.all(abs(factor) <= 1.01, axis=-1, keepdims=True)
    allowed = np.where(proper, allowed, np.inf)
    # Of a row with a NaN that every element depends on, every element is NaN.
    spoilt = np.isnan(inner).any(axis=-1, keepdims=True)
    exact, allowed = np.where(spoilt, np.nan, exact), np.where(spoilt, 0, allowed)
    if where is not None:
        exact, allowed = np.where(where, exact, 0), np.where(where, allowed, 0)
    return undo(exact), undo(allowed)


def _entropy(logits, labels, settings):
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
    bound = BOUND_LOSS + (SMOOTHING_COSTS if smoothing else 0)
    bound += 0 if by_index else BOUND_OF_TARGETS
    size = abs(terms).sum(axis=-1)
    allowed = tolerance_of_terms(loss, bound, logits.dtype, size)
    # What no distribution holds may cost anything. Nor is it inf yet, as it must be, what an impossible
    # class costs: test_cross_entropy.py.
    proper = np.all((target >= 0) & np.isfinite(target), axis=-1)
    # Nor is there a promise where a class's own loss, which may count little, is beyond the format.
    proper &= np.all(fits(abs(logarithms), logits.dtype) | ~np.isfinite(logarithms), axis=-1)
    allowed = np.where(proper & no_answer, 0, allowed)
    allowed = np.where(proper, allowed, np.inf)
    shape = reduced(logits.shape, settings)
    losses = loss.reshape(shape), allowed.reshape(shape)
    if not settings.return_grad:
        return [losses]
    share = exact_softmax(rows)
    grad = target.sum(axis=-1, keepdims=True) * share - target
    size = abs(target) + abs(target).sum(axis=-1, keepdims=True) * share
    bound = BOUND_GRADIENT + (0 if by_index else 1)
    of_grad = tolerance_of_terms(grad, bound, logits.dtype, size)
    of_grad = np.where(no_answer[..., np.newaxis] & proper[..., np.newaxis], 0, of_grad)
    of_grad = np.where(proper[..., np.newaxis], of_grad, np.inf)
    return [losses, (undo(grad), undo(of_grad))]
