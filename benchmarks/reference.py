"""Correctness beside every timing: errors in ULP against a long double reference.

Where long double is no wider than a double, `exact.IS_WIDER` is False and float64 errors below 1
ULP mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .exact import exact_log_softmax, exact_logsumexp, exact_softmax, ulp_size

if TYPE_CHECKING:
    from .cases import Case
    from .inputs import Array, Data

SAMPLED_ELEMENTS = 1 << 17
"""Rows are sampled from larger cells: an element costs about 0.1 us in long double."""


@dataclass(frozen=True)
class Score:
    """How right one result is."""

    max_ulp: float
    mean_ulp: float
    wrong: str | None = None
    """Why the time is withheld; None for an answer that is right, if perhaps imprecise."""


def tolerance(dtype: Any) -> float:
    """Return the error, absolute or relative, above which an answer counts as wrong.

    The square root of the dtype's epsilon: no rounding error of a sound method comes near it, and
    an answer that is merely imprecise (any peer's log_softmax near 0) stays in the table.
    """
    return float(np.sqrt(np.finfo(dtype).eps))


def _exact_backward(case: Case, data: Data, rows: Array, y: Array) -> tuple[Array, Array]:
    """Return the gradient and the size of the terms it is the difference of."""
    assert data.grad_output is not None
    g = _as_rows(data.grad_output, case)[rows].astype(np.longdouble)
    y = y.astype(np.longdouble)
    if case.function == "softmax_backward":
        products = g * y
        dot, size = (f(products).sum(-1, keepdims=True) for f in (np.positive, np.abs))
        return y * (g - dot), abs(y) * (abs(g) + size)
    p = np.exp(y)
    total, size = (f(g).sum(-1, keepdims=True) for f in (np.positive, np.abs))
    return g - p * total, abs(g) + p * size


def _as_rows(array: Array, case: Case) -> Array:
    return np.moveaxis(array, case.dimension, -1).reshape(-1, case.row_length)


class Reference:
    """The exact result of one cell, on the rows that are checked.

    ``exact`` and ``scale`` are lists of one array for each part of the result. ``scale`` is where
    the ULP is taken: the exact value itself, except where terms cancel.
    """

    def __init__(self, case: Case, data: Data, *, everything: bool = False) -> None:
        self.case = case
        if case.function == "segment_softmax":
            self._make_segments(data)
            return
        x = _as_rows(data.x, case)
        sampled = len(x) if everything else SAMPLED_ELEMENTS // case.row_length
        count = min(len(x), max(1, sampled))
        self.rows = np.unique(np.linspace(0, len(x) - 1, count).astype(np.intp))
        self._make(data, x[self.rows])

    def _make(self, data: Data, x: Array) -> None:
        """Set ``exact`` and ``scale``."""
        case = self.case
        kept = np.ones(x.shape, bool)
        if data.where is not None:
            kept = _as_rows(data.where, case)[self.rows]
        temperature = case.option("temperature", 1)
        if case.function == "softmax":
            self.exact = [exact_softmax(x, kept, temperature)]
        elif case.function == "log_softmax":
            self.exact = [exact_log_softmax(x, kept, temperature)]
        elif case.function == "logsumexp":
            top = np.where(kept, x, -np.inf).max(axis=-1).astype(np.longdouble)
            self.exact = [exact_logsumexp(x, kept)]
            self.scale = [np.maximum(abs(top), abs(self.exact[0]))]
            return
        elif case.function == "softmax_cross_entropy":
            self._make_cross_entropy(data, x, kept)
            return
        else:
            exact, scale = _exact_backward(case, data, self.rows, x)
            self.exact, self.scale = [exact], [scale]
            return
        self.scale = [abs(self.exact[0])]

    def _make_cross_entropy(self, data: Data, x: Array, kept: Array) -> None:
        assert data.labels is not None
        if self.case.labels == "probabilities":
            labels = _as_rows(data.labels, self.case)[self.rows].astype(np.longdouble)
        else:
            indices = data.labels.reshape(-1)[self.rows]
            labels = (indices[:, None] == np.arange(x.shape[-1])).astype(np.longdouble)
        terms = np.where(labels == 0, 0, labels * exact_log_softmax(x, kept))
        loss = -terms.sum(axis=-1)
        self.exact, self.scale = [loss], [abs(loss)]
        if self.case.option("return_grad"):
            weighed = labels.sum(axis=-1, keepdims=True) * exact_softmax(x, kept)
            self.exact.append(weighed - labels)
            self.scale.append(weighed + labels)

    def _make_segments(self, data: Data) -> None:
        assert data.indptr is not None
        pointers = data.indptr[: 1 + np.searchsorted(data.indptr, SAMPLED_ELEMENTS)]
        self.rows = np.arange(pointers[-1])
        parts = np.split(data.x[: pointers[-1]], pointers[1:-1])
        exact = [exact_softmax(part) for part in parts]
        self.exact = [np.concatenate(exact)]
        self.scale = [self.exact[0]]

    def _parts(self, result: Any) -> list[Array]:
        """Return the result's arrays in the form of ``exact``, all rows."""
        case = self.case
        if case.function == "softmax_cross_entropy":
            if not case.option("return_grad"):
                return [np.asarray(result).reshape(-1)]
            loss, grad = result
            return [np.asarray(loss).reshape(-1), _as_rows(np.asarray(grad), case)]
        array = np.asarray(result)
        if case.function in ("logsumexp", "segment_softmax"):
            return [array.reshape(-1)]
        return [_as_rows(array, case)]

    def score(self, result: Any) -> Score:
        """Return the errors of a result, and whether it is wrong."""
        worst, means, wrong = 0.0, [], None
        dtype = self.case.result_dtype
        for part, exact, scale in zip(self._parts(result), self.exact, self.scale, strict=True):
            if part.dtype != dtype:
                wrong = wrong or f"the result is {part.dtype}"
            got = part[self.rows].astype(np.longdouble)
            same = got == exact  # infinities included: their difference would be NaN
            with np.errstate(invalid="ignore"):
                error = np.where(same, 0, abs(got - exact))
                relative = np.where(same, 0, error / np.maximum(1, abs(exact)))
                ulps = np.where(same, 0, error / ulp_size(scale, dtype))
            if not (relative <= tolerance(dtype)).all():
                wrong = wrong or f"off by {float(relative.max()):.1g}"
            worst = max(worst, float(ulps.max()))
            means.append(float(ulps.mean()))
        return Score(worst, max(means), wrong or self._whole(result))

    def _whole(self, result: Any) -> str | None:
        """Return what is wrong with the whole result, if a cheap look can tell."""
        shape = np.shape(result[-1] if isinstance(result, tuple) else result)
        if shape != self.case.result_shape:
            return f"the result has the shape {shape}"
        for part in self._parts(result):
            if np.isnan(part).any():
                return "NaN"
        if self.case.function != "softmax":
            return None
        sums = self._parts(result)[0].sum(axis=-1, dtype=np.float64)
        off = float(abs(sums - 1).max())
        if off > 2 * tolerance(self.case.result_dtype):
            return f"rows sum to 1 +- {off:.1g}"
        return None
