"""What is searched: the functions with their arguments, how to call them, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import promised
from .exact import BOUND_16_BITS

if TYPE_CHECKING:
    from .inputs import Array


@dataclass(frozen=True)
class Computation:
    """A function with the arguments that have code of their own."""

    function: str
    second: str = ""
    """The second operand or mask: "where", "grad_output", "indices" or "probabilities"."""
    parameter: str = ""
    """Its number: a "temperature" or a "label_smoothing"."""

    @property
    def title(self) -> str:
        """What is computed, in words."""
        words = {"indices": " of class indices", "probabilities": " of probabilities"}
        options = {"temperature": ", tempered", "label_smoothing": ", smoothed"}
        masked = ", masked" if self.second == "where" else ""
        text = f"{self.function}{words.get(self.second, '')}{masked}"
        return text + options.get(self.parameter, "")

    def parts(self, dtype: str) -> tuple[str, ...]:
        """Return the kinds of results, each with a worst row of its own."""
        if self.function == "softmax_cross_entropy":
            return "loss", "gradient"
        if self.function in ("softmax", "segment_softmax") and dtype != "float16":
            return "", "near the subnormal", "subnormal"
        return ("",)


COMPUTATIONS = (
    *(
        Computation(function, second, parameter)
        for function in ("softmax", "log_softmax")
        for second, parameter in (("", ""), ("", "temperature"), ("where", ""))
    ),
    Computation("logsumexp"),
    Computation("logsumexp", "where"),
    Computation("softmax_backward", "grad_output"),
    Computation("log_softmax_backward", "grad_output"),
    *(
        Computation("softmax_cross_entropy", labels, parameter)
        for labels in ("indices", "probabilities")
        for parameter in ("", "label_smoothing")
    ),
    Computation("segment_softmax"),
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

    def row(self, index: int) -> Batch:
        """Return one of the rows, as a batch."""
        second = None if self.second is None else self.second[index : index + 1].copy()
        return replace(self, x=self.x[index : index + 1].copy(), second=second)

    def repeated(self, rows: int) -> Batch:
        """Return a batch of one row `rows` times."""
        second = None if self.second is None else np.repeat(self.second, rows, axis=0)
        return replace(self, x=np.repeat(self.x, rows, axis=0), second=second)


def call(functions: Any, computation: Computation, batch: Batch) -> tuple[Array, ...]:
    """Return the package's results, of the rows' shape or of one number a row."""
    function, x = getattr(functions, computation.function), batch.x
    if computation.function == "segment_softmax":
        ends = np.arange(0, x.size + 1, x.shape[1])
        return (function(x.reshape(-1), ends).reshape(x.shape),)
    options: dict[str, Any] = {}
    if computation.parameter:
        options[computation.parameter] = batch.parameter
    if computation.second == "where":
        return (function(x, where=batch.second, **options),)
    if computation.second == "grad_output":
        return (function(batch.second, x),)
    if computation.second:
        found: tuple[Array, ...] = function(x, batch.second, return_grad=True, **options)
        return found
    return (function(x, **options),)


def terms(
    computation: Computation, batch: Batch
) -> tuple[str, tuple[Array, ...], promised.Settings]:
    """Return what `promised.exactly` takes."""
    name = computation.function.replace("segment_", "")
    settings = promised.Settings((1,), return_grad=computation.function == "softmax_cross_entropy")
    if computation.parameter:
        setattr(settings, computation.parameter, batch.parameter)
    if computation.second == "where":
        settings.where = batch.second
    if computation.second in ("", "where"):
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
        exact = promised.exactly(*terms(computation, batch), backend)
        parts = computation.parts(batch.x.dtype.name)
        found: dict[str, Errors] = {}
        for index, (got, right) in enumerate(zip(results, exact, strict=True)):
            bound = np.broadcast_to(right.bound, right.value.shape)
            ulps = promised.distance(got, right.value) / right.ulp(got.dtype)
            ulps = np.where(np.isfinite(bound), ulps, 0).astype(float)
            if len(parts) == 3:
                tiny = np.finfo(got.dtype).smallest_normal
                classes = np.where(right.value < tiny, 2, np.where(right.value < 8 * tiny, 1, 0))
                for place, name in enumerate(parts):
                    chosen = classes == place
                    of_class = float(np.where(chosen, bound, 0).max())
                    found[name] = Errors(got, np.where(chosen, ulps, 0), of_class, index)
                continue
            most = float(np.where(np.isfinite(bound), bound, 0).max())
            found[parts[index]] = Errors(got, ulps, most, index)
    return found
