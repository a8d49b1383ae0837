"""Correctness beside every timing: errors in ULP against a long double reference.

Where long double is no wider than a double, `exact.IS_WIDER` is False and float64 errors below 1
ULP mean nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cases import Case
from .exact import info, ulp_size
from .inputs import Array, Data
from .promised import Settings, exactly

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
    return float(np.sqrt(float(info(dtype).eps)))


def _as_rows(array: Array, case: Case) -> Array:
    return np.moveaxis(array, case.dimension, -1).reshape(-1, case.row_length)


class Reference:
    """The exact result of one cell, on the rows that are checked.

    ``exact`` and ``scale`` are lists of one array for each part of the result. ``scale`` is where
    the ULP is taken: the exact value itself, except where terms cancel.
    """

    def __init__(self, case: Case, data: Data, *, everything: bool = False) -> None:
        self.case = case
        self.is_segments = case.function.startswith("segment")
        if self.is_segments:
            operands, settings = self._segments(data), Settings((0,))
        else:
            x = _as_rows(data.x, case)
            sampled = len(x) if everything else SAMPLED_ELEMENTS // case.row_length
            count = min(len(x), max(1, sampled))
            self.rows = np.unique(np.linspace(0, len(x) - 1, count).astype(np.intp))
            operands, settings = self._operands(data, x[self.rows]), self._settings(data)
        with np.errstate(all="ignore"):
            found = exactly(case.function, operands, settings)
        self.exact = [part.value for part in found]
        self.scale = [part.size for part in found]

    def _segments(self, data: Data) -> tuple[Array, ...]:
        """Return the first segments of data and their row pointers."""
        assert data.indptr is not None
        self.segments = len(data.indptr) - 1
        width = self.case.elements // len(data.x)
        pointers = data.indptr[: 1 + np.searchsorted(data.indptr, SAMPLED_ELEMENTS // width)]
        is_one_each = self.case.function == "segment_logsumexp"
        self.rows = np.arange(len(pointers) - 1 if is_one_each else pointers[-1])
        return data.x[: pointers[-1]], pointers

    def _operands(self, data: Data, x: Array) -> tuple[Array, ...]:
        case = self.case
        if x.dtype.kind in "biu":
            x = x.astype(np.float64)
        if data.grad_output is not None:
            return _as_rows(data.grad_output, case)[self.rows], x
        if data.labels is None:
            return (x,)
        if case.labels == "probabilities":
            return x, _as_rows(data.labels, case)[self.rows]
        return x, data.labels.reshape(-1)[self.rows]

    def _settings(self, data: Data) -> Settings:
        """Return the options as those of the rows that are looked at."""
        case = self.case
        options = {k: v for k, v in case.options if k not in ("dtype", "keepdims")}
        for name, array in data.arrays.items():
            of_all = name == "b"  # the rest are one a row
            options[name] = array if of_all else array.reshape(-1)[self.rows]
        if "temperature" in data.arrays:
            options["temperature"] = options["temperature"][:, np.newaxis]
        if data.where is not None:
            options["where"] = _as_rows(data.where, case)[self.rows]
        return Settings((1,), **options)

    def _parts(self, result: Any) -> list[Array]:
        """Return the result's arrays in the form of ``exact``, all rows."""
        parts = [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]
        if self.is_segments:
            return parts
        whole = self.case.shape
        return [
            _as_rows(part, self.case) if part.shape == whole else part.reshape(-1) for part in parts
        ]

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
        last = result[-1] if isinstance(result, tuple) else result
        shape, expected = np.shape(last), self.case.result_shape
        if self.case.function == "segment_logsumexp":
            expected = (self.segments, *expected[1:])
        if shape != expected:
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
