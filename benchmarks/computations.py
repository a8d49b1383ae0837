"""What is searched: the functions with their arguments, how to call them, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import promised
from .exact import BOUND_16_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .inputs import Array


@dataclass(frozen=True)
class Computation:
    """A function with the arguments that have code of their own."""

    function: str
    second: str = ""
    """The second operand, or the mask of a function of one: "where", "b" (weights of both signs),
    "grad_output", "indices" or "probabilities"."""
    parameter: str = ""
    """Its number: a "temperature", a "label_smoothing" or a "sample_weight"."""
    by_row: bool = False
    """Whether the number is given as an array, of one for each row."""
    masked: bool = False
    """Whether a function of two operands has a mask too."""

    @property
    def title(self) -> str:
        """What is computed, in words."""
        words = {
            "indices": " of class indices", "probabilities": " of probabilities",
            "b": " with weights", "where": ", masked",
        }  # fmt: skip
        options = {
            "temperature": ", tempered", "label_smoothing": ", smoothed",
            "sample_weight": ", weighed",
        }  # fmt: skip
        text = f"{self.function}{words.get(self.second, '')}{', masked' if self.masked else ''}"
        return f"{text}{options.get(self.parameter, '')}{' by row' if self.by_row else ''}"

    def parts(self, dtype: str) -> tuple[str, ...]:
        """Return the kinds of results, each with a worst row of its own."""
        if self.function == "softmax_cross_entropy":
            return "loss", "gradient"
        if self.function in ("softmax", "segment_softmax") and dtype != "float16":
            return "", "near the subnormal", "subnormal"
        return ("",)


COMPUTATIONS = (
    *(
        Computation(function, second, parameter, by_row)
        for function in ("softmax", "log_softmax")
        for second, parameter, by_row in (
            ("", "", False),
            ("", "temperature", False),
            ("", "temperature", True),
            ("where", "", False),
        )
    ),
    Computation("logsumexp"),
    Computation("logsumexp", "where"),
    Computation("logsumexp", "b"),
    Computation("softmax_backward", "grad_output"),
    Computation("log_softmax_backward", "grad_output"),
    Computation("log_softmax_backward", "grad_output", masked=True),
    *(
        Computation("softmax_cross_entropy", labels, parameter, masked=masked)
        for labels in ("indices", "probabilities")
        for parameter, masked in (
            ("", False),
            ("label_smoothing", False),
            ("temperature", False),
            ("sample_weight", False),
            ("", True),
            ("label_smoothing", True),
        )
    ),
    Computation("softmax_cross_entropy", "indices", "temperature", by_row=True),
    Computation("softmax_cross_entropy", "indices", "sample_weight", by_row=True),
    Computation("segment_softmax"),
    Computation("segment_softmax", "", "temperature"),
    Computation("segment_log_softmax"),
    Computation("segment_log_softmax", "", "temperature"),
    Computation("segment_logsumexp"),
)
BY_TITLE = {computation.title: computation for computation in COMPUTATIONS}


@dataclass(frozen=True)
class Kind:
    """One kind of results, of which the worst row is kept."""

    computation: Computation
    dtype: str
    part: str

    @property
    def title(self) -> str:
        """What is computed, and of which results the error is."""
        return ": ".join(filter(None, (self.computation.title, self.part)))


@dataclass(frozen=True)
class Batch:
    """Rows of one length and what else a call of them takes."""

    x: Array
    second: Array | None = None
    parameter: float | None = None
    origin: str = ""
    where: Array | None = None
    """The mask of a function of two operands."""

    def _with_rows(self, of: Callable[[Array], Array]) -> Batch:
        second, where = (None if a is None else of(a) for a in (self.second, self.where))
        return replace(self, x=of(self.x), second=second, where=where)

    def row(self, index: int) -> Batch:
        """Return one of the rows, as a batch."""
        return self._with_rows(lambda array: array[index : index + 1].copy())

    def repeated(self, rows: int) -> Batch:
        """Return a batch of one row `rows` times."""
        return self._with_rows(lambda array: np.repeat(array, rows, axis=0))


def call(functions: Any, computation: Computation, batch: Batch) -> tuple[Array, ...]:
    """Return the package's results, of the rows' shape or of one number a row."""
    function, x = getattr(functions, computation.function), batch.x
    options: dict[str, Any] = {}
    if computation.parameter:
        options[computation.parameter] = batch.parameter
    if computation.by_row:
        is_weight = computation.parameter == "sample_weight"
        options[computation.parameter] = np.full(
            len(x) if is_weight else (len(x), 1), batch.parameter
        )
    if batch.where is not None:
        options["where"] = batch.where
    if computation.function.startswith("segment"):
        ends = np.arange(0, x.size + 1, x.shape[1])
        result = function(x.reshape(-1), ends, **options)
        return (result if computation.function == "segment_logsumexp" else result.reshape(x.shape),)
    if computation.second == "where":
        return (function(x, where=batch.second, **options),)
    if computation.second == "b":
        logarithms, _ = function(x, b=batch.second, return_sign=True, **options)
        return (logarithms,)
    if computation.second == "grad_output":
        return (function(batch.second, x, **options),)
    if computation.second:
        found: tuple[Array, ...] = function(x, batch.second, return_grad=True, **options)
        return found
    return (function(x, **options),)


def terms(
    computation: Computation, batch: Batch
) -> tuple[str, tuple[Array, ...], promised.Settings]:
    """Return what `promised.exactly` takes."""
    name = computation.function.replace("segment_", "")
    settings = promised.Settings((1,), where=batch.where)
    settings.return_grad = computation.function == "softmax_cross_entropy"
    if computation.parameter:
        setattr(settings, computation.parameter, batch.parameter)
    if computation.second == "where":
        settings.where = batch.second
    if computation.second == "b":
        settings.b, settings.return_sign = batch.second, True
    if computation.second in ("", "where", "b"):
        return name, (batch.x,), settings
    assert batch.second is not None
    if computation.second == "grad_output":
        return name, (batch.second, batch.x), settings
    return name, (batch.x, batch.second), settings


@dataclass(frozen=True)
class Errors:
    """The errors of one kind of results of a batch, an element or a row each; 0 of other kinds."""

    got: Array
    ulps: Array
    bound: float
    """Of the format that the function computes in."""
    part: int
    """Which of the call's results."""
    besides: Array
    """What errors may be besides, absolute: `ulps` are of what is more."""

    @property
    def promise(self) -> float:
        """The bound of the results' own format."""
        return BOUND_16_BITS if self.got.dtype == np.float16 else self.bound

    def of_rows(self) -> Array:
        """Return each row's largest."""
        return self.ulps.reshape(len(self.ulps), -1).max(axis=1)


def errors(
    computation: Computation, batch: Batch, results: tuple[Array, ...], backend: str = ""
) -> dict[str, Errors]:
    """Return the errors of results, by kind."""
    with np.errstate(all="ignore"):
        exact = promised.exactly(*terms(computation, batch), backend)[: len(results)]
        parts = computation.parts(batch.x.dtype.name)
        found: dict[str, Errors] = {}
        for index, (got, right) in enumerate(zip(results, exact, strict=True)):
            bound = np.broadcast_to(right.bound, right.value.shape)
            besides = np.broadcast_to(right.besides, right.value.shape)
            off = np.maximum(promised.distance(got, right.value) - besides, 0)
            ulps = off / right.ulp(got.dtype)
            ulps = np.where(np.isfinite(bound), ulps, 0).astype(float)
            if len(parts) == 3:
                tiny = np.finfo(got.dtype).smallest_normal
                classes = np.where(right.value < tiny, 2, np.where(right.value < 8 * tiny, 1, 0))
                for place, name in enumerate(parts):
                    chosen = classes == place
                    of_class = float(np.where(chosen, bound, 0).max())
                    found[name] = Errors(got, np.where(chosen, ulps, 0), of_class, index, besides)
                continue
            most = float(np.where(np.isfinite(bound), bound, 0).max())
            found[parts[index]] = Errors(got, ulps, most, index, besides)
    return found
