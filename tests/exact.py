"""Exact results in long double, for arrays of many elements.

The residual of ``x - max`` is carried, so that what is left is the error of long double's exp: far
below a float64 ULP where that type is wider than a double (x86-64 and AArch64 Linux).
"""

import numpy as np

IS_WIDER = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant


def ulp_size(at, dtype):
    """Return the spacing of `dtype` at `at`; the smallest normal's below that."""
    info = np.finfo(dtype)
    exponent = np.frexp(at)[1] - 1
    exponent = np.where(at == 0, info.minexp, np.maximum(exponent, info.minexp))
    return np.ldexp(np.longdouble(1), exponent - info.nmant)


class _Rows:
    """A row's maximum, ``x - max`` as two numbers, and the weights e^(x - max)."""

    def __init__(self, x):
        x = x.astype(np.longdouble)
        self.top = x.max(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            self.high = x - self.top
            taken = self.high - x
            low = (x - (self.high - taken)) - (self.top + taken)
        self.low = np.where(np.isfinite(self.high), low, 0)
        self.weights = np.exp(self.high) * (1 + self.low)

    def log(self):
        """Return the logarithm of the sum of the weights, small or not."""
        rest = self.weights.copy()
        np.put_along_axis(rest, self.high.argmax(axis=-1)[..., None], 0, axis=-1)
        return np.log1p(rest.sum(axis=-1, keepdims=True))


def exact_softmax(x):
    weights = _Rows(x).weights
    return weights / weights.sum(axis=-1, keepdims=True)


def exact_log_softmax(x):
    rows = _Rows(x)
    return rows.high - (rows.log() - rows.low)


def exact_logsumexp(x):
    rows = _Rows(x)
    return (rows.top + rows.log())[..., 0]
