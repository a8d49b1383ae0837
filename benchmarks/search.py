"""A search for the rows with the largest errors: random families, then climbing from the worst.

Errors are in ULP against long double; what beats a kind's record is rechecked by mpmath.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import families, precise, promised
from .cases import Case, UsageError
from .exact import BOUND_16_BITS, IS_WIDER, exact_log_softmax, exact_softmax
from .inputs import SEED, Data
from .runner import Run, document
from .subject import Subject
from .timing import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .inputs import Array
    from .peers import Peer

DTYPES = ("float32", "float64", "float16")
WORST_ROWS = Path(__file__).with_name("worst_rows.json")
KEPT = 3
"""Rows of a kind in that file."""
SHORT_TEXT = 64
"""A row of more runs of equal elements gets into that file only where no other is known."""
POOL = 8
"""Rows of a kind from which it is climbed."""
PATIENCE = 40
"""A row is left after so many batches that brought it nothing."""
MOST_ELEMENTS = 1 << 12
"""Of a batch of several rows."""
LONG_SHARE = 0.15
"""The share of the time that goes to long rows."""

Random = np.random.Generator


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
        """Return a batch of one row, so many times."""
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


def _terms(
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

    def of_rows(self) -> Array:
        """Return each row's largest."""
        return self.ulps.reshape(len(self.ulps), -1).max(axis=1)


def errors(computation: Computation, batch: Batch, results: tuple[Array, ...]) -> dict[str, Errors]:
    """Return the errors of results, by kind."""
    with np.errstate(all="ignore"):
        exact = promised.exactly(*_terms(computation, batch))
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


# ---- random rows ----


def _parameter(rng: Random, name: str, dtype: str) -> float:
    if name == "label_smoothing":
        small = rng.random() < 0.3
        return float(10 ** rng.uniform(-8, 0) if small else rng.uniform(1e-9, 1 - 1e-9))
    extreme = 30 if dtype == "float32" else 300 if dtype == "float64" else 4
    power = rng.uniform(-extreme, extreme) if rng.random() < 0.15 else rng.uniform(-3, 3)
    return float(10**power)


def _second(rng: Random, kind: str, x: Array) -> Array:
    height, n = x.shape
    if kind == "where":
        kept: Array = rng.random(x.shape) < np.full(x.shape, rng.random())
        kept[np.arange(height), rng.integers(0, n, height)] = True
        return kept
    if kind == "indices":
        chance = rng.random(height) < 0.5
        return np.where(chance, x.argmax(axis=-1), rng.integers(0, n, height))
    spread = 10 ** rng.uniform(-2, 1.5)
    if kind == "probabilities":
        return exact_softmax(rng.normal(0, np.full(x.shape, spread))).astype(x.dtype)
    signs = rng.choice((-1, 1), x.shape) if rng.random() < 0.7 else 1
    return np.asarray(signs * np.exp(rng.normal(0, spread / 8, x.shape)), x.dtype)


def completed(rng: Random, computation: Computation, x: Array, origin: str) -> Batch:
    """Return logits with what else the computation takes, at random."""
    dtype, parameter = x.dtype.name, None
    with np.errstate(all="ignore"):
        if computation.parameter:
            parameter = _parameter(rng, computation.parameter, dtype)
        if computation.parameter == "temperature" and rng.random() < 0.7:
            most = float(np.finfo(dtype).max)
            x = np.clip(x.astype(float) * parameter, *(-most, most)).astype(dtype)
        second = _second(rng, computation.second, x) if computation.second else None
        if computation.second == "grad_output":
            logs = computation.function.startswith("log")
            x = (exact_log_softmax if logs else exact_softmax)(x).astype(dtype)
    return Batch(x, second, parameter, origin)


# ---- climbing ----


def _bumped(rng: Random, values: Array) -> Array:
    """Change numbers by an ulp, by as much as they are, or anything between."""
    info = np.finfo(values.dtype)
    sign = rng.choice((-1, 1), values.shape)
    ulps = np.exp2(rng.uniform(0, info.nmant + 1, values.shape)) * sign
    relative = values + np.rint(ulps).astype(values.dtype) * np.spacing(abs(values))
    absolute = values + rng.normal(0, 1, values.shape) * 10 ** rng.uniform(-6, 1, values.shape)
    changed = np.where(rng.random(values.shape) < 0.7, relative, absolute).astype(values.dtype)
    return np.where(np.isfinite(changed), changed, values)


def _perturbed(rng: Random, rows: Array) -> Array:
    """Change one element a row, several, all that have one value, or all by the same."""
    height, n = rows.shape
    at = np.arange(height)
    way = rng.integers(0, 4)
    if way == 0:
        chosen = rng.random(rows.shape) < min(1, rng.integers(1, 5) / n)
        return np.where(chosen, _bumped(rng, rows), rows)
    column = rng.integers(0, n, height)
    value = rows[at, column]
    bumped = _bumped(rng, value)
    if way == 1:
        changed = rows.copy()
        changed[at, column] = bumped
        return changed
    if way == 2:
        return np.where(rows == value[:, None], bumped[:, None], rows)
    changed = rows + (bumped - value)[:, None]
    return np.where(np.isfinite(changed), changed, rows).astype(rows.dtype)


def _rearranged(rng: Random, height: int, n: int) -> Array:
    """Return for each row which elements it has: one dropped, doubled, appended, or two swapped."""
    j = rng.integers(0, n, (height, 1))
    way = rng.integers(0, 4)
    if way == 0 and n > 1:
        columns = np.arange(n - 1)
        return columns + (columns >= j)
    if way == 1:
        columns = np.arange(n + 1)
        return columns - (columns > j)
    columns = np.broadcast_to(np.arange(n), (height, n)).copy()
    if way == 2:
        return np.concatenate((columns, j), axis=1)
    other = rng.integers(0, n, (height, 1))
    first, last = j[:, 0], other[:, 0]
    at = np.arange(height)
    columns[at, first], columns[at, last] = last, first
    return columns


def mutated(rng: Random, batch: Batch, computation: Computation) -> Batch:
    """Return rows that differ a little from one."""
    n = batch.x.shape[1]
    height = max(1, min(256, 2 * MOST_ELEMENTS // n))
    batch = batch.repeated(height)
    x, second, parameter = batch.x, batch.second, batch.parameter
    rearranges = n <= MOST_ELEMENTS and rng.random() < 0.2
    if rearranges:
        columns = _rearranged(rng, height, n)
        x = np.take_along_axis(x, columns, axis=1)
        if second is not None and second.ndim == 2:
            second = np.take_along_axis(second, columns, axis=1)
        elif second is not None:
            second = np.minimum(second, x.shape[1] - 1)
    with np.errstate(all="ignore"):
        if second is not None and rng.random() < 0.4:
            if computation.second == "where":
                second = second ^ (rng.random(second.shape) < 1 / second.shape[1])
                second[np.arange(height), x.argmax(axis=1)] = True
            elif computation.second == "indices":
                second = rng.integers(0, x.shape[1], height)
            else:
                second = _perturbed(rng, second)
                second = abs(second) if computation.second == "probabilities" else second
        elif not rearranges or rng.random() < 0.5:
            x = _perturbed(rng, x)
        if parameter is not None and rng.random() < 0.3:
            parameter = float(_bumped(rng, np.array([parameter]))[0])
            most = 1.0 if computation.parameter == "label_smoothing" else np.inf
            parameter = parameter if 0 < parameter < most else batch.parameter
    return replace(batch, x=np.ascontiguousarray(x), second=second, parameter=parameter)


# ---- the search ----


@dataclass(eq=False)
class Climber:
    """A row of the pool."""

    ulps: float
    row: Batch
    idle: int = 0


@dataclass
class Record:
    """The worst row of a kind."""

    ulps: float
    row: Batch
    rows: int
    """How often the row is repeated in the call."""
    element: int
    by: str
    """What says so: mpmath, or long double."""


@dataclass
class Kind:
    """One kind of results, and the worst that is known of it."""

    computation: Computation
    dtype: str
    part: str
    bound: float = 0.0
    tried: int = 0
    seconds: float = 0.0
    seconds_long: float = 0.0
    pool: list[Climber] = field(default_factory=list)
    record: Record | None = None

    @property
    def title(self) -> str:
        """What is computed, and of which results the error is."""
        return ": ".join(filter(None, (self.computation.title, self.part)))


class Search:
    """A search for the worst rows of a package's functions."""

    def __init__(self, functions: Any, dtypes: tuple[str, ...], seed: int) -> None:
        self.functions = functions
        self.rng = np.random.default_rng(seed)
        self.kinds = [
            Kind(computation, dtype, part)
            for dtype in dtypes
            for computation in COMPUTATIONS
            for part in computation.parts(dtype)
        ]
        self._by_key = {(k.computation, k.dtype, k.part): k for k in self.kinds}

    def run(self, seconds: float) -> Iterator[tuple[Kind, float]]:
        """Give each kind its part of the time, in rounds; yield it and the time spent on it."""
        end = time.perf_counter() + seconds
        share = min(0.5, max(0.02, seconds / len(self.kinds) / 4))
        while True:
            for kind in self.kinds:
                start = time.perf_counter()
                if start >= end:
                    return
                self._work(kind, min(end, start + share))
                spent = time.perf_counter() - start
                kind.seconds += spent
                yield kind, spent

    def _work(self, kind: Kind, end: float) -> None:
        """Try random rows and climb, in turn."""
        while True:
            start = time.perf_counter()
            is_long = kind.seconds_long < LONG_SHARE * kind.seconds
            batch = completed(self.rng, kind.computation, *self._rows(kind.dtype, is_long=is_long))
            self._try(kind, batch)
            middle = time.perf_counter()
            kind.seconds_long += (middle - start) * is_long
            spent = middle - start if batch.x.size <= 2 * MOST_ELEMENTS else 0
            while kind.pool:
                climber = kind.pool[self.rng.integers(0, len(kind.pool))]
                self._try(kind, mutated(self.rng, climber.row, kind.computation), climber)
                if time.perf_counter() > min(end, middle + spent):
                    break
            if time.perf_counter() > end:
                return

    def _rows(self, dtype: str, *, is_long: bool) -> tuple[Array, str]:
        """Return rows of a family, or at times those that are near another kind's worst row."""
        other = self.kinds[self.rng.integers(0, len(self.kinds))]
        if (
            is_long or not other.record or other.dtype != dtype
            or other.computation.second == "grad_output" or self.rng.random() < 0.5
        ):  # fmt: skip
            return families.rows(self.rng, dtype, MOST_ELEMENTS, is_long=is_long)
        row = replace(other.record.row, second=None, parameter=None)
        return mutated(self.rng, row, COMPUTATIONS[0]).x, row.origin

    def _try(self, kind: Kind, batch: Batch, climber: Climber | None = None) -> None:
        """Take in the errors of a batch, of all kinds of results that it has."""
        results = call(self.functions, kind.computation, batch)
        for part, found in errors(kind.computation, batch, results).items():
            target = self._by_key[kind.computation, kind.dtype, part]
            bound = BOUND_16_BITS if kind.dtype == "float16" else found.bound
            target.bound = max(target.bound, bound)
            ulps = found.of_rows()
            target.tried += len(ulps)
            best = int(ulps.argmax())
            if ulps[best] > 0:
                parent = climber if target is kind else None
                self._keep(target, float(ulps[best]), batch.row(best), len(ulps), parent)
        if climber:
            climber.idle += 1
            if climber.idle > PATIENCE and climber in kind.pool:
                kind.pool.remove(climber)

    def _keep(self, kind: Kind, ulps: float, row: Batch, rows: int, parent: Climber | None) -> None:
        """Put a row into the pool if it is worse than another there, and on record if it is."""
        if parent and ulps <= parent.ulps:
            return
        if not parent and len(kind.pool) == POOL:
            parent = min(kind.pool, key=lambda other: other.ulps)
            if ulps <= parent.ulps:
                return
        if kind.record is None or ulps > kind.record.ulps:
            record = confirmed(self.functions, kind, row, rows)
            if record.ulps < 0.9 * ulps:
                return  # long double was wrong, or the row alone has another result
            if kind.record is None or record.ulps > kind.record.ulps:
                kind.record = record
        if parent:
            parent.ulps, parent.row, parent.idle = ulps, row, 0
        else:
            kind.pool.append(Climber(ulps, row))

    def worst(self, kind: Kind) -> list[Record]:
        """Return the kind's worst rows, of different families or lengths, worst first."""
        if kind.record is None:
            return []
        found = [confirmed(self.functions, kind, climber.row, 1) for climber in kind.pool]
        found.sort(key=lambda record: -record.ulps)
        distinct: dict[Any, Record] = {}
        for record in (kind.record, *found):
            distinct.setdefault((record.row.x.shape, record.row.origin), record)
        return list(distinct.values())[:KEPT]


def confirmed(functions: Any, kind: Kind, row: Batch, rows: int) -> Record:
    """Return the error of one row: alone, or with others like it where that is larger."""
    found = _confirmed(functions, kind, row, 1)
    if rows > 1:
        beside = _confirmed(functions, kind, row, rows)
        if beside.ulps > 1.001 * found.ulps:
            return beside
    return found


def _confirmed(functions: Any, kind: Kind, row: Batch, rows: int) -> Record:
    repeated = row.repeated(rows)
    results = tuple(part[:1] for part in call(functions, kind.computation, repeated))
    found = errors(kind.computation, row, results)[kind.part]
    element = int(found.ulps[0].argmax())
    ulps = float(found.ulps.max())
    record = Record(ulps, row, rows, element, "long double")
    if not np.isfinite(ulps) or ulps == 0:
        return record
    name, operands, settings = _terms(kind.computation, row)
    if settings.where is not None:
        settings.where = settings.where[0]
    right = precise.precisely(
        name, tuple(part[0] for part in operands), settings, found.part, element
    )
    if right is not None:
        record.ulps = precise.error(found.got[0].flat[element], *right, found.bound)
        record.by = "mpmath"
    return record


# ---- rows as text ----


def _runs(row: Array) -> list[str]:
    """Return a row's numbers in hex, equal neighbours as one with their number."""
    texts = []
    for value, same in groupby(row.tolist()):
        count = sum(1 for _ in same)
        text = value.hex() if isinstance(value, float) else str(int(value))
        text = re.sub(r"\.?0*p", "p", text)
        texts.append(text if count == 1 else f"{text} * {count}")
    return texts


def _numbers(runs: list[str], dtype: Any) -> Array:
    """Return the row that `_runs` wrote."""
    values: list[float] = []
    for run in runs:
        text, _, count = run.partition(" * ")
        values += [float.fromhex(text)] * int(count or 1)
    return np.array([values], dtype)


def as_entry(kind: Kind, record: Record | None) -> dict[str, Any]:
    """Return what a document says of a kind and its worst row."""
    entry: dict[str, Any] = {
        "title": kind.title, "computation": kind.computation.title, "part": kind.part,
        "dtype": kind.dtype, "bound": kind.bound, "tried": kind.tried, "seconds": kind.seconds,
    }  # fmt: skip
    if record is None:
        return entry
    row = record.row
    entry |= {
        "max_ulp": record.ulps, "by": record.by, "element": record.element,
        "n": row.x.shape[1], "rows": record.rows, "family": row.origin, "x": _runs(row.x[0]),
    }  # fmt: skip
    if kind.computation.parameter:
        entry[kind.computation.parameter] = row.parameter
    if row.second is not None:
        is_index = kind.computation.second == "indices"
        entry[kind.computation.second] = int(row.second[0]) if is_index else _runs(row.second[0])
    return entry


def from_entry(entry: dict[str, Any]) -> tuple[Kind, Batch]:
    """Return the kind and the row that an entry is of."""
    computation = BY_TITLE[entry["computation"]]
    x = _numbers(entry["x"], entry["dtype"])
    second: Array | None = None
    if computation.second == "indices":
        second = np.array([entry["indices"]])
    elif computation.second:
        dtype = bool if computation.second == "where" else entry["dtype"]
        second = _numbers(entry[computation.second], dtype)
    parameter = entry[computation.parameter] if computation.parameter else None
    kind = Kind(computation, entry["dtype"], entry["part"], entry["bound"])
    return kind, Batch(x, second, parameter, entry["family"])


# ---- other libraries on the same row ----


def _case(kind: Kind, row: Batch) -> tuple[Case, Data]:
    """Return the row as a cell of the suite has it, for its peers."""
    computation, options = kind.computation, []
    if computation.parameter:
        options.append((computation.parameter, row.parameter))
    if kind.part == "gradient":
        options.append(("return_grad", True))
    is_soft = computation.second == "probabilities"
    case = Case(
        "found", row.x.shape, "a row that the search found", computation.function, kind.dtype,
        labels="probabilities" if is_soft else "indices", options=tuple(options),
    )  # fmt: skip
    name = "labels" if computation.second in ("indices", "probabilities") else computation.second
    extra: dict[str, Any] = {name: row.second} if name else {}
    if computation.function == "segment_softmax":
        return replace(case, shape=(row.x.size,)), Data(row.x[0], indptr=np.array([0, row.x.size]))
    return case, Data(row.x, **extra)


def of_peers(rivals: list[Peer], kind: Kind, row: Batch) -> dict[str, float]:
    """Return the errors of the libraries that have the function, by name."""
    case, data = _case(kind, row)
    found = {}
    for peer in filter(lambda peer: peer.takes(case), rivals):
        try:
            made = peer.call(case, data)
            if made is None:
                continue
            with np.errstate(all="ignore"):
                result = made.result()
        except Exception:  # noqa: BLE001 - a peer that lacks a dtype is left out
            continue
        parts = [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]
        if any(part.dtype != kind.dtype for part in parts):
            continue
        shapes: list[tuple[int, ...]] = [row.x.shape]
        if kind.computation.function == "logsumexp":
            shapes = [(1,)]
        elif kind.computation.function == "softmax_cross_entropy":
            shapes = [(1,), row.x.shape]
            parts = [*parts, np.zeros_like(row.x)][:2]  # a gradient that is not looked at
        shaped = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        found[peer.name] = float(errors(kind.computation, row, shaped)[kind.part].ulps.max())
    return found


# ---- the command ----


def _merged(entries: list[dict[str, Any]], path: Path) -> None:
    """Write the worst rows of each kind, of those given and those already in the file."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in (*known, *entries):
        slim = {k: v for k, v in entry.items() if k not in ("tried", "seconds", "peers")}
        by_kind.setdefault((entry["dtype"], entry["title"]), []).append(slim)
    kept = []
    for _, rows in sorted(by_kind.items()):
        distinct = {json.dumps([row["x"], row["rows"]]): row for row in rows}
        ranked = sorted(distinct.values(), key=lambda row: -row["max_ulp"])
        short = [row for row in ranked if len(row["x"]) <= SHORT_TEXT]
        kept += (short or ranked[:1])[:KEPT]
    path.write_text(json.dumps({"rows": kept}, indent=1) + "\n")


def known_rows() -> list[dict[str, Any]]:
    """Return the worst rows that searches have left in the file."""
    rows: list[dict[str, Any]] = json.loads(WORST_ROWS.read_text())["rows"]
    return rows


def run(
    instruction_set: str | None,
    names: str | None,
    *,
    seconds: float,
    dtypes: str,
    seed: int | None,
    keep: bool,
    words: list[str],
) -> dict[str, Any]:
    """Search, and return the worst row of each kind with the peers' errors on it."""
    from .accuracy import libraries
    from .progress import within

    chosen = tuple(dtypes.split(","))
    if unknown := set(chosen) - set(DTYPES):
        raise UsageError(f"no dtype to search is named {min(unknown)!r}; there are {DTYPES}")
    if not IS_WIDER:
        chosen = tuple(dtype for dtype in chosen if dtype != "float64")
    suite = Run(Subject(instruction_set), libraries(names), QUICK)
    search = Search(suite.subject.functions, chosen, SEED if seed is None else seed)
    for _ in within(seconds, "search", search.run(seconds)):
        pass
    command = shlex.join(["python", "-m", "benchmarks", *words])
    found = document(suite, [], kind="search", quick=False, threads=1, command=command)
    found["search"] = [as_entry(kind, kind.record) for kind in search.kinds]
    for kind, entry in zip(search.kinds, found["search"], strict=True):
        if kind.record:
            entry["peers"] = of_peers(suite.rivals, kind, kind.record.row)
    if keep:
        _merged(
            [as_entry(kind, record) for kind in search.kinds for record in search.worst(kind)],
            WORST_ROWS,
        )
    return found
