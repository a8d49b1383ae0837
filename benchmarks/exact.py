"""Exact results in long double, and how far from them a result may be.

The residuals of ``x - max`` and of its quotient by the temperature are carried, so that what is
left is the error of long double's exp: far below a float64 ULP where that type is wider than a
double (x86-64 and AArch64 Linux).
"""

import sys
from typing import Any, NamedTuple

import numpy as np

from .inputs import Array

IS_WIDER = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant

BOUND = {"softmax": 3.0, "log_softmax": 2.0, "logsumexp": 2.0}
"""ULP, of any result of any row; of logsumexp, of the larger of the result and the maximum.

How each bound comes about stands in ``fastsoftmax/_kernels/core_f32.h`` and ``core_f64.h``.
"""
BOUND_LOG_NEAR_SUBNORMAL = 2.25
"""ULP, of float64 results of the logarithms in the two binades above the smallest normal."""
BOUND_TEMPERED = 3.05
"""ULP, of results of softmax with a temperature."""
BOUND_NEAR_SUBNORMAL = 3.55
"""ULP, of results of softmax in the three binades above the smallest normal."""
BOUND_SUBNORMAL = 2.3
"""ULP, of results of softmax below the smallest normal."""
BOUND_LOSS = 2.5
"""ULP of the sum of the sizes of the terms that a loss is the sum of."""
BOUND_GRADIENT = {
    "softmax_cross_entropy": 3.0,
    "log_softmax_backward": 3.0,
    "softmax_backward": 7.0,
}
"""ULP of the sum of the sizes of the terms that a gradient is the difference of."""
NUMPY_BOUND = {"float32": 1.0, "float64": 4.0}
"""ULP, of any function of the NumPy backend, which ``fastsoftmax/_numpy.py`` derives."""
BOUND_16_BITS = 0.5 + 2.0**-9
"""ULP, of results of 16 bits, which are computed in float32 and rounded once more."""


def info(dtype: Any) -> Any:
    """Return numpy.finfo, for bfloat16 too."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.finfo(dtype)
    return sys.modules["ml_dtypes"].finfo(dtype)


def ulp_size(at: Array, dtype: Any) -> Array:
    """Return the spacing of `dtype` at `at`; the smallest normal's below that."""
    limits = info(dtype)
    exponent = np.frexp(at)[1] - 1
    exponent = np.where(at == 0, limits.minexp, np.maximum(exponent, limits.minexp))
    return np.ldexp(np.longdouble(1), exponent - limits.nmant)


def _quotient(high: Array, low: Array, divisor: float | Array) -> tuple[Array, Array]:
    """Return (high + low) / divisor as two numbers, whose product is split as Dekker's."""
    divisor = np.asarray(divisor, np.longdouble)
    if np.all(divisor == 1):
        return high, low
    factor = np.longdouble(2) ** ((np.finfo(np.longdouble).nmant + 2) // 2) + 1

    def halves(value: Any) -> tuple[Any, Any]:
        upper = factor * value - (factor * value - value)
        return upper, value - upper

    quotient = high / divisor
    (a, a_low), (b, b_low) = halves(quotient), halves(divisor)
    rest = ((high - a * b) - a * b_low - a_low * b) - a_low * b_low
    return quotient, (rest + low) / divisor


class _Rows:
    """A row's maximum, ``d = (x - max) / temperature`` as two numbers, and the weights e^d.

    What `where` drops is as -inf. A row without an answer (a NaN or +inf, or only -inf) is NaN.
    A temperature is a number, or one for each row, which ends in an axis of length 1.
    """

    def __init__(
        self, x: Array, where: Array | None = None, temperature: float | Array = 1
    ) -> None:
        x = x.astype(np.longdouble)
        if where is not None:
            x = np.where(where, x, -np.inf)
        self.top = x.max(axis=-1, keepdims=True)
        shift = np.where(np.isfinite(self.top), self.top, np.nan)
        with np.errstate(invalid="ignore"):
            high = x - shift
            taken = high - x
            low = (x - (high - taken)) - (shift + taken)
            high, low = _quotient(high, np.where(np.isfinite(low), low, 0), temperature)
        self.high, self.low = high, np.where(np.isfinite(low), low, 0)
        self.weights = np.exp(self.high) * (1 + self.low)

    def log(self) -> Array:
        """Return the logarithm of the sum of the weights, small or not."""
        rest = self.weights.copy()
        np.put_along_axis(rest, self.high.argmax(axis=-1)[..., None], 0, axis=-1)
        return np.log1p(rest.sum(axis=-1, keepdims=True))


def exact_softmax(x: Array, where: Array | None = None, temperature: float | Array = 1) -> Array:
    """Return softmax over the last axis in long double."""
    weights = _Rows(x, where, temperature).weights
    result = weights / weights.sum(axis=-1, keepdims=True)
    return result if where is None else np.where(where, result, 0)


def exact_log_softmax(
    x: Array, where: Array | None = None, temperature: float | Array = 1
) -> Array:
    """Return log_softmax over the last axis in long double."""
    rows = _Rows(x, where, temperature)
    result = rows.high - (rows.log() - rows.low)
    return result if where is None else np.where(where, result, -np.inf)


def exact_logsumexp(x: Array, where: Array | None = None) -> Array:
    """Return logsumexp over the last axis in long double."""
    rows = _Rows(x, where)
    total = np.where(np.isfinite(rows.top), rows.top + rows.log(), rows.top)
    return total[..., 0]


class Weighted(NamedTuple):
    """What log(sum(b exp(x))) is over the last axis."""

    logarithm: Array
    """Of the absolute value of the sum; -inf of a sum that is 0."""
    sign: Array
    largest: Array
    """The largest x + log(abs(b)) of a row; -inf of nothing."""
    cancellation: Array
    """sum(abs(b) exp(x)) over the absolute value of the sum."""


def exact_weighted(x: Array, b: Array, where: Array | None = None) -> Weighted:
    """Return the logarithm of a weighted sum of exponentials in long double.

    An element takes part if its b is not 0 and `where` keeps it. A NaN that does, or infinities of
    both signs, make all of the row's numbers NaN; so does an infinity the cancellation.
    """
    x, b = x.astype(np.longdouble), b.astype(np.longdouble)
    kept = b != 0 if where is None else where & (b != 0)
    with np.errstate(all="ignore"):
        magnitudes = np.where(kept, np.log(abs(np.where(kept, b, 1))), -np.inf)
        places = np.where(kept, x + magnitudes, -np.inf)
        largest = places.max(axis=-1, keepdims=True, initial=-np.inf)
        # The quotient of the powers of e is taken of differences of x, and b as it is: so opposite
        # terms cancel. Where that would overflow, b is scaled by a power of two.
        at = places.argmax(axis=-1)[..., np.newaxis]
        x_there, b_there = np.take_along_axis(x, at, -1), np.take_along_axis(b, at, -1)
        scaled = np.ldexp(b, -np.frexp(b_there)[1])
        terms = np.where(kept & (x > -np.inf), scaled * np.exp(x - x_there), 0)
        total, size = terms.sum(axis=-1), abs(terms).sum(axis=-1)
        logarithm = np.log(abs(total) / abs(np.ldexp(b_there, -np.frexp(b_there)[1]))[..., 0])
        logarithm = np.where(total == 0, -np.inf, logarithm + largest[..., 0])
        sign, cancellation = np.sign(total), np.where(size == 0, 1, size / abs(total))
    is_infinite = kept & (x == np.inf)
    up, down = np.any(is_infinite & (b > 0), axis=-1), np.any(is_infinite & (b < 0), axis=-1)
    spoilt = np.any(kept & np.isnan(x), axis=-1) | (up & down)
    logarithm = np.where(up | down, np.inf, logarithm)
    sign = np.where(up, 1, np.where(down, -1, sign))
    return Weighted(
        np.where(spoilt, np.nan, logarithm),
        np.where(spoilt, np.nan, sign),
        np.where(spoilt, np.nan, largest[..., 0]),
        np.where(spoilt | up | down, np.nan, cancellation),
    )
