"""What is searched: the functions with their arguments, how to call them, and their errors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from . import promised
from .cases import Case
from .exact import BOUND_16_BITS
from .inputs import Array, Data
from .subject import arguments


@dataclass(frozen=True)
class Computation:
    """A function with the arguments that have code of their own."""

    function: str
    second: str = ""
    """The second operand: "b" (weights of both signs), "grad_output", "indices" or
    "probabilities"."""
    parameter: str = ""
    """Its number: a "temperature", a "label_smoothing" or a "sample_weight"."""
    by_row: bool = False
    """Whether the number is given as an array, of one for each row."""
    masked: bool = False

    @property
    def title(self) -> str:
        """What is computed, in words."""
        words = {
            "indices": " of class indices", "probabilities": " of probabilities",
            "b": " with weights",
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
        Computation(function, *arguments)
        for function in ("softmax", "log_softmax")
        for arguments in ((), ("", "temperature"), ("", "temperature", True), ("", "", False, True))
    ),
    Computation("logsumexp"),
    Computation("logsumexp", masked=True),
    Computation("logsumexp", "b"),
    Computation("softmax_backward", "grad_output"),
    Computation("log_softmax_backward", "grad_output"),
    Computation("log_softmax_backward", "grad_output", masked=True),
    *(
        Computation("softmax_cross_entropy", labels, parameter, masked=masked)
        for labels in ("indices", "probabilities")
        for masked, parameters in (
            (False, ("", "label_smoothing", "temperature", "sample_weight")),
            (True, ("", "label_smoothing")),
        )
        for parameter in parameters
    ),
    Computation("softmax_cross_entropy", "indices", "temperature", by_row=True),
    Computation("softmax_cross_entropy", "indices", "sample_weight", by_row=True),
    *(
        Computation(function, "", parameter)
        for function in ("segment_softmax", "segment_log_softmax")
        for parameter in ("", "temperature")
    ),
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

    def _with_rows(self, of: Callable[[Array], Array]) -> Self:
        second, where = (None if a is None else of(a) for a in (self.second, self.where))
        return replace(self, x=of(self.x), second=second, where=where)

    def row(self, index: int) -> Self:
        """Return one of the rows, as a batch."""
        return self._with_rows(lambda array: array[index : index + 1].copy())

    def repeated(self, rows: int) -> Self:
        """Return a batch of one row `rows` times."""
        return self._with_rows(lambda array: np.repeat(array, rows, axis=0))


def as_cell(computation: Computation, batch: Batch) -> tuple[Case, Data]:
    """Return the call of a batch as a cell of the suite, and its arguments."""
    function, second, x = computation.function, computation.second, batch.x
    options: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    if computation.by_row:
        rows = len(x) if computation.parameter == "sample_weight" else (len(x), 1)
        arrays[computation.parameter] = np.full(rows, batch.parameter)
    elif computation.parameter:
        options[computation.parameter] = batch.parameter
    if second == "b":
        arrays["b"] = batch.second
        options["return_sign"] = True
    has_labels = function == "softmax_cross_entropy"
    if has_labels:
        options["return_grad"] = True
    case = Case(
        "found", x.shape, "rows of the search", function, x.dtype.name,
        labels="probabilities" if second == "probabilities" else "indices",
        arrays=tuple(arrays), options=tuple(options.items()),
    )  # fmt: skip
    if function.startswith("segment"):
        ends = np.arange(0, x.size + 1, x.shape[1])
        return replace(case, shape=(x.size,)), Data(x.reshape(-1), indptr=ends)
    labels = batch.second if has_labels else None
    grad_output = batch.second if second == "grad_output" else None
    return case, Data(x, grad_output, labels, batch.where, arrays=arrays)


def parts_of(computation: Computation, batch: Batch, result: Any) -> tuple[Array, ...]:
    """Return results in the rows' shape, or of one number a row; a sign is left out."""
    shapes = [batch.x.shape]
    if computation.function == "softmax_cross_entropy":
        shapes = [batch.x.shape[:1], batch.x.shape]
    elif "logsumexp" in computation.function:
        shapes = [batch.x.shape[:1]]
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(np.reshape(*pair) for pair in zip(parts, shapes, strict=False))


def call(functions: Any, computation: Computation, batch: Batch) -> tuple[Array, ...]:
    """Return the package's results."""
    case, data = as_cell(computation, batch)
    args, options = arguments(case, data)
    return parts_of(computation, batch, getattr(functions, case.function)(*args, **options))


def terms(
    computation: Computation, batch: Batch
) -> tuple[str, tuple[Array, ...], promised.Settings]:
    """Return what `promised.exactly` takes."""
    name, second = computation.function.replace("segment_", ""), computation.second
    settings = promised.Settings((1,), where=batch.where, return_sign=second == "b")
    settings.return_grad = computation.function == "softmax_cross_entropy"
    if computation.parameter:
        setattr(settings, computation.parameter, batch.parameter)
    if second == "b":
        settings.b = batch.second
    if batch.second is None or second == "b":
        return name, (batch.x,), settings
    operands = (batch.second, batch.x) if second == "grad_output" else (batch.x, batch.second)
    return name, operands, settings


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
            kinds: dict[str, Any] = {parts[index]: np.isfinite(bound)}
            if len(parts) == 3:  # by the size of the results
                tiny = np.finfo(got.dtype).smallest_normal
                below, near = right.value < tiny, right.value < 8 * tiny
                kinds = dict(zip(parts, (~near, near & ~below, below), strict=True))
            for name, of_kind in kinds.items():
                most = float(np.where(of_kind, bound, 0).max())
                found[name] = Errors(got, np.where(of_kind, ulps, 0), most, index, besides)
    return found
