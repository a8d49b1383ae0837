"""One element of one result by mpmath, to recheck what long double says of a row."""

from typing import Any

import mpmath
import numpy as np

from .exact import info
from .inputs import Array
from .promised import Settings

MOST_DISTINCT = 5000
"""A row of more distinct elements takes seconds."""
PRECISION = 400


def spacing(at: Any, dtype: Any) -> Any:
    """Return the spacing of `dtype` at a number; the smallest normal's below that."""
    limits = info(dtype)
    exponent = max(mpmath.frexp(at)[1] - 1, int(limits.minexp)) if at else int(limits.minexp)
    return mpmath.ldexp(1, exponent - limits.nmant)


class Row:
    """A row as its distinct elements, with how many there are of each."""

    def __init__(self, columns: list[Array], element: int) -> None:
        keys = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            values, places = np.unique(column, return_inverse=True)
            keys = keys * len(values) + places
        distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
        self.is_short = len(distinct) <= MOST_DISTINCT
        if self.is_short:
            self.counts = counts.tolist()
            self.columns = [[mpmath.mpf(float(v)) for v in column[first]] for column in columns]
            self.at = int(np.searchsorted(distinct, keys[element]))

    def sum(self, values: Any) -> Any:
        """Return the sum of a value for each element of the row."""
        return mpmath.fsum(count * v for count, v in zip(self.counts, values, strict=True))


def precisely(
    name: str, operands: tuple[Array, ...], settings: Settings, part: int, element: int
) -> tuple[Any, Any] | None:
    """Return an element of a result of one row, and what its ULP is taken of.

    None of a row with too many distinct elements.
    """
    columns, index = list(operands), element
    if settings.b is not None:
        columns.append(np.broadcast_to(settings.b, operands[0].shape))
    if name == "softmax_cross_entropy" and operands[1].dtype.kind == "i":
        columns[1] = np.arange(len(columns[0])) == operands[1]
    if settings.where is not None:
        columns = [column[settings.where] for column in columns]
        index = int(settings.where[:element].sum())
    row = Row(columns, index)
    if not row.is_short:
        return None
    with mpmath.workprec(PRECISION):
        if name.endswith("_backward"):
            return _gradient(name, row)
        if settings.b is not None:
            return _weighted(row)
        x, at = row.columns[0], row.at
        top = max(x)
        d = [(v - top) / mpmath.mpf(settings.temperature) for v in x]
        rest = row.sum(mpmath.exp(v) if v else 0 for v in d)
        rest += row.sum(v == 0 for v in d) - 1
        log = mpmath.log1p(rest)
        if name == "logsumexp":
            return top + log, max(abs(top), abs(top + log))
        if name == "softmax_cross_entropy":
            value, size = _entropy(row, d, log, settings.label_smoothing, len(columns[0]), part)
            factor = 1 if settings.sample_weight is None else mpmath.mpf(settings.sample_weight)
            factor /= 1 if part == 0 else mpmath.mpf(settings.temperature)
            return factor * value, abs(factor) * size
        value = d[at] - log if name == "log_softmax" else mpmath.exp(d[at]) / (1 + rest)
        return value, abs(value)


def _weighted(row: Row) -> tuple[Any, Any]:
    """Return the logarithm of the absolute value of a weighted sum."""
    x, b = row.columns
    largest = max(v + mpmath.log(abs(w)) for v, w in zip(x, b, strict=True) if w)
    total = row.sum(w * mpmath.exp(v - largest) if w else 0 for v, w in zip(x, b, strict=True))
    value = largest + mpmath.log(abs(total))
    return value, max(abs(largest), abs(value))


def _gradient(name: str, row: Row) -> tuple[Any, Any]:
    (g, y), at = row.columns, row.at
    if name == "softmax_backward":
        inner, factor, left = [a * b for a, b in zip(g, y, strict=True)], y[at], g[at] * y[at]
    else:
        inner, factor, left = g, mpmath.exp(y[at]), g[at]
    size = abs(left) + abs(factor) * row.sum(map(abs, inner))
    return left - factor * row.sum(inner), size


def _entropy(
    row: Row, d: list[Any], log: Any, smoothing: float, n: int, part: int
) -> tuple[Any, Any]:
    epsilon = mpmath.mpf(smoothing)
    target = [(1 - epsilon) * share + epsilon / n for share in row.columns[1]]
    if part == 0:
        loss = row.sum(t * (log - v) if t else 0 for t, v in zip(target, d, strict=True))
        return loss, abs(loss)
    total = row.sum(target)
    probability = mpmath.exp(d[row.at] - log)
    return total * probability - target[row.at], target[row.at] + total * probability


def error(got: Any, value: Any, size: Any, bound: float, besides: float) -> float:
    """Return how far a result is from the value, in ULP of `size`, as `promised.Exact.ulp`.

    What it may be `besides`, absolute, is left out. What is beyond the format is as far as its end,
    as in `promised.distance`: the next number after the largest is infinity.
    """
    limits = info(got.dtype)
    with mpmath.workprec(PRECISION):
        end = mpmath.mpf(float(limits.max)) * (1 + mpmath.mpf(float(limits.eps)) / 2)
        within = [max(-end, min(end, number)) for number in (mpmath.mpf(float(got)), value)]
        unit = spacing(size, got.dtype)
        if got.dtype.itemsize == 2:
            unit = spacing(value, got.dtype)
            if size > 2 * abs(value):
                unit += 2 * bound * spacing(size, np.float32)
        return float(max(0, abs(within[0] - within[1]) - besides) / unit)
