"""A search for the rows with the largest errors: random families, then climbing from the worst.

Errors are in ULP against long double; what beats a kind's record is rechecked by mpmath.
"""

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import families, peers, worst_rows
from .cases import UsageError
from .computations import COMPUTATIONS, Batch, Computation, Kind, call, errors
from .exact import IS_WIDER, exact_log_softmax, exact_softmax
from .inputs import SEED, Array
from .runner import Run, document
from .subject import Subject
from .timing import QUICK
from .worst_rows import Record, confirmed

DTYPES = ("float32", "float64", "float16")
POOL = 8
"""Rows of a kind from which it is climbed."""
PATIENCE = 40
"""Batches that bring a row nothing before it is left."""
MOST_ELEMENTS = 1 << 12
"""Of a batch of several rows."""
LONG_SHARE = 0.2
"""The share of the time that goes to long rows."""

Random = np.random.Generator


# ---- random rows ----


def _parameter(rng: Random, name: str, dtype: str) -> float:
    if name == "label_smoothing":
        small = rng.random() < 0.3
        return float(10 ** rng.uniform(-8, 0) if small else rng.uniform(1e-9, 1 - 1e-9))
    if name == "sample_weight":
        return float(rng.choice((-1, 1)) * 10 ** rng.uniform(-4, 3))
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
    second = np.asarray(signs * np.exp(rng.normal(0, spread / 8, x.shape)), x.dtype)
    if kind == "b":
        largest = np.finfo(x.dtype).max
        second = np.clip(second, -largest, largest)
        second[rng.random(x.shape) < rng.choice((0, 0, rng.random()))] = 0
    return second


def _with_labels_kept(batch: Batch, computation: Computation) -> Batch:
    """Return a batch whose mask leaves out no class that has a share, if it has a mask."""
    if batch.where is None or batch.second is None or computation.second == "grad_output":
        return batch
    where = batch.where.copy()
    if computation.second == "probabilities":
        where |= batch.second != 0
    else:
        where[np.arange(len(where)), batch.second] = True
    return replace(batch, where=where)


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
        where = _second(rng, "where", x) if computation.masked else None
        if computation.second == "grad_output":
            logs = computation.function.startswith("log")
            x = (exact_log_softmax if logs else exact_softmax)(x, where).astype(dtype)
        elif computation.second == "probabilities" and second is not None and where is not None:
            second = np.where(where, second, 0).astype(dtype)
    return _with_labels_kept(Batch(x, second, parameter, origin, where), computation)


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
    x, second, parameter, where = batch.x, batch.second, batch.parameter, batch.where
    rearranges = n <= MOST_ELEMENTS and rng.random() < 0.2
    if rearranges:
        columns = _rearranged(rng, height, n)
        x = np.take_along_axis(x, columns, axis=1)
        if second is not None and second.ndim == 2:
            second = np.take_along_axis(second, columns, axis=1)
        elif second is not None:
            second = np.minimum(second, x.shape[1] - 1)
        if where is not None:
            where = np.take_along_axis(where, columns, axis=1)
    elif where is not None and rng.random() < 0.2:
        where = where ^ (rng.random(where.shape) < 1 / n)
        where[np.arange(height), x.argmax(axis=1)] = True
    with np.errstate(all="ignore"):
        if second is not None and rng.random() < 0.4:
            if computation.second == "indices":
                second = rng.integers(0, x.shape[1], height)
            else:
                second = _perturbed(rng, second)
                second = abs(second) if computation.second == "probabilities" else second
        elif not rearranges or rng.random() < 0.5:
            x = _perturbed(rng, x)
        if parameter is not None and rng.random() < 0.3:
            parameter = float(_bumped(rng, np.array([parameter]))[0])
            least = -np.inf if computation.parameter == "sample_weight" else 0
            most = 1.0 if computation.parameter == "label_smoothing" else np.inf
            parameter = parameter if least < parameter < most else batch.parameter
    changed = replace(
        batch, x=np.ascontiguousarray(x), second=second, parameter=parameter, where=where
    )
    return _with_labels_kept(changed, computation)


# ---- the search ----


@dataclass(eq=False)
class Climber:
    """A row of the pool."""

    ulps: float
    row: Batch
    idle: int = 0


@dataclass(eq=False)
class State:
    """How far the search for one kind's worst row has come."""

    kind: Kind
    tried: int = 0
    seconds: float = 0.0
    seconds_long: float = 0.0
    pool: list[Climber] = field(default_factory=list)
    record: Record | None = None


class Search:
    """A search for the worst rows of a package's functions."""

    def __init__(self, functions: Any, dtypes: tuple[str, ...], seed: int) -> None:
        self.functions = functions
        self.backend = getattr(functions, "name", "")
        self.rng = np.random.default_rng(seed)
        kinds = [
            Kind(computation, dtype, part)
            for dtype in dtypes
            for computation in COMPUTATIONS
            for part in computation.parts(dtype)
        ]
        self.states = {kind: State(kind) for kind in kinds}

    def run(self, seconds: float) -> Iterator[tuple[Kind, float]]:
        """Give each kind its part of the time, in rounds; yield it and the time spent on it."""
        end = time.perf_counter() + seconds
        share = min(0.5, max(0.005, seconds / len(self.states) / 4))
        while True:
            for kind, state in self.states.items():
                start = time.perf_counter()
                if start >= end:
                    return
                self._work(state, min(end, start + share))
                spent = time.perf_counter() - start
                state.seconds += spent
                yield kind, spent

    def _work(self, state: State, end: float) -> None:
        """Try random rows and climb, in turn."""
        computation = state.kind.computation
        while True:
            start = time.perf_counter()
            is_long = state.seconds_long < LONG_SHARE * state.seconds
            rows = self._rows(state.kind.dtype, is_long=is_long)
            self._try(state, completed(self.rng, computation, *rows))
            middle = time.perf_counter()
            state.seconds_long += (middle - start) * is_long
            until = min(end, middle + (0 if is_long else middle - start))
            while state.pool:
                climber = state.pool[self.rng.integers(0, len(state.pool))]
                self._try(state, mutated(self.rng, climber.row, computation), climber)
                if time.perf_counter() > until:
                    break
            if time.perf_counter() > end:
                return

    def _rows(self, dtype: str, *, is_long: bool) -> tuple[Array, str]:
        """Return rows of a family, or at times those that are near another kind's worst row."""
        known = [
            state.record.row
            for kind, state in self.states.items()
            if state.record and kind.dtype == dtype and kind.computation.second != "grad_output"
        ]
        known = [row for row in known if (row.x.shape[1] > MOST_ELEMENTS) == is_long]
        if not known or self.rng.random() < 0.7:
            return families.rows(self.rng, dtype, MOST_ELEMENTS, is_long=is_long)
        row = replace(
            known[self.rng.integers(0, len(known))], second=None, parameter=None, where=None
        )
        return mutated(self.rng, row, COMPUTATIONS[0]).x, row.origin

    def _try(self, state: State, batch: Batch, climber: Climber | None = None) -> None:
        """Take in the errors of a batch, of all kinds of results that it has."""
        kind = state.kind
        results = call(self.functions, kind.computation, batch)
        for part, found in errors(kind.computation, batch, results, self.backend).items():
            target = self.states[replace(kind, part=part)]
            ulps = found.of_rows()
            target.tried += len(ulps)
            best = int(ulps.argmax())
            if ulps[best] > 0:
                parent = climber if target is state else None
                self._keep(target, float(ulps[best]), batch.row(best), len(ulps), parent)
        if climber:
            climber.idle += 1 if batch.x.shape[1] <= MOST_ELEMENTS else 4
            if climber.idle > PATIENCE and climber in state.pool:
                state.pool.remove(climber)

    def _keep(
        self, state: State, ulps: float, row: Batch, rows: int, parent: Climber | None
    ) -> None:
        """Put a row into the pool if it is worse than another there, and on record if it is."""
        pool, best = state.pool, state.record
        if not parent and len(pool) == POOL:
            parent = min(pool, key=lambda other: other.ulps)
        if parent and ulps <= parent.ulps:
            return
        if best is None or ulps > best.ulps:
            record = confirmed(self.functions, state.kind, row, rows)
            if record.ulps < 0.9 * ulps:
                return  # long double was wrong
            if best is None or record.ulps > best.ulps:
                state.record = record
        if parent:
            parent.ulps, parent.row, parent.idle = ulps, row, 0
        else:
            pool.append(Climber(ulps, row))

    def worst(self, state: State) -> list[Record]:
        """Return a kind's worst rows."""
        if state.record is None:
            return []
        worst = sorted(state.pool, key=lambda climber: -climber.ulps)[: worst_rows.KEPT]
        found = [confirmed(self.functions, state.kind, climber.row, 1) for climber in worst]
        return [state.record, *found]


def run(options: Namespace) -> dict[str, Any]:
    """Search, and return the worst row of each kind with the peers' errors on it."""
    from .progress import within

    chosen = options.dtypes.split(",")
    if unknown := set(chosen) - set(DTYPES):
        raise UsageError(f"no dtype to search is named {min(unknown)!r}; there are {DTYPES}")
    kept = tuple(dtype for dtype in chosen if IS_WIDER or dtype != "float64")
    suite = Run(Subject(options.instruction_set), peers.distinct(options.peers), QUICK)
    seed = SEED if options.seed is None else options.seed
    search = Search(suite.subject.functions, kept, seed)
    for _ in within(
        options.search, "search", lambda kind: f"{kind.title} {kind.dtype}",
        search.run(options.search),
    ):  # fmt: skip
        pass
    found = []
    for kind, state in search.states.items():
        entry: dict[str, Any] = {"title": kind.title, "dtype": kind.dtype}
        if state.record:
            entry = worst_rows.as_entry(kind, state.record)
            entry["peers"] = worst_rows.of_peers(suite.rivals, kind, state.record.row)
        found.append({**entry, "tried": state.tried, "seconds": state.seconds})
    if options.keep:
        records = [(s.kind, record) for s in search.states.values() for record in search.worst(s)]
        worst_rows.merge(search.functions, [worst_rows.as_entry(*pair) for pair in records])
    return {**document(suite, "search", options), "search": found}
