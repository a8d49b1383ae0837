"""The project's performance targets, each with the figure that a run measured for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from .document import (
    Cell,
    Document,
    Row,
    best_ratio,
    cell_named,
    geometric_mean,
    peers,
    ratio,
    row,
    share,
    subject,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEWEST_BOUND = 1 << 14
"""Elements of the smallest cell that memory can bound."""


@dataclass(frozen=True)
class Check:
    """One figure of a target and the bound that it is held to."""

    label: str
    value: float | None
    bound: float
    at_least: bool = True
    unit: str = "×"
    quartiles: tuple[float, float] | None = None
    """Those of the figure over the rounds, where it decides nothing if they enclose the bound."""

    @property
    def undecided(self) -> bool:
        """Whether the figure is too noisy for its bound."""
        return self.quartiles is not None and self.quartiles[0] < self.bound < self.quartiles[1]

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None if the figure was not measured or is undecided."""
        if self.value is None or self.undecided:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        value = "not measured" if self.value is None else f"{self.value:.3g}{self.unit}"
        if self.quartiles is not None and self.undecided:
            value += " [{:.3g}–{:.3g}]".format(*self.quartiles)
        return f"{self.label} {value} ({sign} {self.bound:g})"


@dataclass(frozen=True)
class Target:
    """One numbered target."""

    number: int
    title: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return ``met``, ``not met``, or ``undecided`` or ``not measured`` where none decides."""
        found = [check.met for check in self.checks]
        if False in found:
            return "not met"
        if any(check.undecided for check in self.checks):
            return "undecided"
        measured = [met for met in found if met is not None]
        if not measured:
            return "not measured"
        return "met" if len(measured) == len(found) else "met as far as measured"


def _first(document: Document, tag: str) -> Cell | None:
    return next(iter(tagged(document, tag)), None)


def _at_most(label: str, cells: list[Cell], yardstick: str, bound: float) -> Check:
    """Return a check of the largest time that these cells take in terms of a yardstick's."""
    spreads = [spread for cell in cells if (spread := share(cell, yardstick))]
    if not spreads:
        return Check(label, None, bound, at_least=False)
    q1, median, q3 = map(max, zip(*spreads, strict=True))
    return Check(label, median, bound, at_least=False, quartiles=(q1, q3))


def _measured(
    label: str, spread: Row | None, bound: float, *, unit: str, median: float | None
) -> Check:
    """Return a check of a figure that is proportional to a spread, and is `median` at its median.

    It may be at most the bound.
    """
    if not spread or median is None:
        return Check(label, None, bound, at_least=False, unit=unit)
    factor = median / spread["median"]
    quartiles = (factor * spread["q1"], factor * spread["q3"])
    return Check(label, median, bound, at_least=False, unit=unit, quartiles=quartiles)


def _calls(document: Document) -> Iterator[Check]:
    plainest, of_list = tagged(document, "plainest-call"), tagged(document, "call-of-list")
    step = _first(document, "training-step")
    others = [c for c in tagged(document, "call") if c not in (*plainest, *of_list, step)]
    slowest = max(others, key=lambda cell: (share(cell, "numpy.exp") or (0, 0))[1], default=None)
    name = slowest["name"] if slowest else None
    yield _at_most("plainest, of numpy.exp's time", plainest, "numpy.exp", 0.5)
    yield _at_most(f"slowest of {len(others)} others ({name})", others, "numpy.exp", 1.4)
    seconds = subject(step)["seconds"] if step else None
    yield _measured(
        "training step of 32x10:", seconds, 0.8, unit=" µs",
        median=seconds and 1e6 * seconds["median"],
    )  # fmt: skip
    yield _at_most("list, of numpy.asarray's time", of_list, "numpy.asarray", 1.5)


def _times(label: str, other: Row | None, bound: float) -> Check:
    """Return a check of how many times as long as ours another contender takes."""
    if other is None:
        return Check(label, None, bound)
    spread = other["ratio"]
    return Check(label, spread["median"], bound, quartiles=(spread["q1"], spread["q3"]))


def _over(label: str, cell: Cell | None, name: str, bound: float) -> Check:
    """Return the same of a contender by name."""
    return _times(label, row(cell, name) if cell else None, bound)


def _best(label: str, cell: Cell, bound: float) -> Check:
    """Return the same of the fastest peer."""
    return _times(label, next(iter(peers(cell)), None), bound)


def _worst(label: str, cells: list[Cell], bound: float) -> Check:
    """Return the same of the cell where that is least."""
    checks = [_best(f"{label} ({cell['name']})", cell, bound) for cell in cells if peers(cell)]
    return min(checks, key=lambda check: check.value or 0, default=Check(label, None, bound))


def _is_bound(cell: Cell) -> bool:
    """Whether a cell runs at the speed of the copy that bounds it, almost.

    Not where the call is most of the time, which NumPy's copy has too.
    """
    is_as_fast = (ratio(cell, "copy") or 0) >= 0.95
    return is_as_fast and prod(cell["shape"]) >= FEWEST_BOUND


def _first_everywhere(document: Document) -> Iterator[Check]:
    cells = [cell for cell in document["cells"] if "compiled" not in cell["tags"]]
    known = [value for cell in cells if (value := best_ratio(cell)) is not None]
    yield Check("geometric mean over the best peers", geometric_mean(known), 2.5)
    unbound = [cell for cell in cells if not _is_bound(cell)]
    yield _worst("worst cell", unbound, 1.2)


def _every_input(document: Document) -> Iterator[Check]:
    for tag, bound in (("input-format", 1.25), ("input-steps", 1.5)):
        for cell in tagged(document, tag):
            yield _at_most(f"{cell['name']}, of plain rows' time", [cell], "plain", bound)


def _in_cache(document: Document) -> Iterator[Check]:
    kept, fresh = _first(document, "rows-1000-out"), _first(document, "rows-1000")
    ours = subject(kept) if kept else {}
    yield _measured(
        "rows of 1000, out=:", ours.get("seconds"), 0.8, unit=" cycles an element",
        median=ours.get("cycles_per_element"),
    )  # fmt: skip
    yield _over("ONNX Runtime", kept, "ONNX Runtime", 1.5)
    yield _over("torch", kept, "torch", 2.8)
    yield _over("SciPy (fresh)", fresh, "SciPy", 6)
    double = [*tagged(document, "rows-1000-float64"), *tagged(document, "rows-1000-out-float64")]
    yield _worst("float64, best peer", double, 1.4)
    for cell in tagged(document, "rows-100-256"):
        yield _at_most(f"{cell['name']}, of the time of rows of 300", [cell], "rows of 300", 1)
        yield _over(f"{cell['name']}, ONNX Runtime", cell, "ONNX Runtime", 1.3)


def _short(document: Document) -> Iterator[Check]:
    for tag, bound in (("short-3", 10), ("short-10", 4)):
        for cell in (*tagged(document, tag), *tagged(document, f"{tag}-float64")):
            yield _best(f"{cell['name']}, best peer", cell, bound)
    for cell in tagged(document, "ragged"):
        yield _at_most(
            f"{cell['name']}, of the time of rows of one length", [cell], "rows of one length", 3
        )


def _beyond_cache(document: Document) -> Iterator[Check]:
    one = (document.get("beyond_cache") or {}).get("1")
    two = (document.get("beyond_cache") or {}).get("2")
    yield _over("one worker, of copyto's speed", one, "copy", 1)
    yield _over("two workers, of a streaming copy's speed", two, "copy", 0.9)
    for tag in ("fresh-pages", "fresh-pages-float64"):
        for cell in tagged(document, tag):
            yield _at_most(f"{cell['name']}, of the time of out=", [cell], "out=", 1.1)
    yield _worst("where streaming begins, best peer", tagged(document, "dip"), 1.2)


def _axes(document: Document) -> Iterator[Check]:
    for cell in tagged(document, "other-axis"):
        bound = 1.25 if cell["name"] == "segmentation" else 1.5
        yield _at_most(f"{cell['name']}, of the last axis' time", [cell], "last axis", bound)


def _avx2(document: Document) -> Iterator[Check]:
    forced = document.get("avx2") or {"cells": []}
    for cell in forced["cells"]:
        yield _over(f"{cell['name']}, torch on AVX2", cell, "torch", 1.5)
    if not forced["cells"]:
        yield Check("torch on AVX2", None, 1.5)


def _family_and_workers(document: Document) -> Iterator[Check]:
    for cell in tagged(document, "workers"):
        yield _over(f"{cell['name']} over one", cell, "one worker", 1.8)
    shared = (document.get("two_threads") or {"cells": []})["cells"]
    yield _worst("two threads each, worst cell", shared, 1)
    family = [*tagged(document, "family"), *tagged(document, "family-float64")]
    known = [value for cell in family if (value := best_ratio(cell)) is not None]
    yield Check("family, geometric mean", geometric_mean(known), 2.5)
    yield _worst("family, worst cell", family, 1.2)
    for cell in tagged(document, "entropy-parts"):
        yield _at_most(f"{cell['name']}, of its parts' time", [cell], "its parts", 0.8)


def _compiled(document: Document) -> Iterator[Check]:
    for name, nanoseconds, times in (
        ("compiled-10", 35, 1), ("compiled-46", 55, 5), ("compiled-200", None, 12),
    ):  # fmt: skip
        cell = cell_named(document, name)
        if nanoseconds:
            seconds = subject(cell)["seconds"] if cell else None
            median = 1e9 * seconds["median"] / cell["shape"][0] if cell and seconds else None
            yield _measured(f"{name}, a row:", seconds, nanoseconds, unit=" ns", median=median)
        yield _over(f"{name}, numba's own loop", cell, "numba", times)


def _dask(document: Document) -> Iterator[Check]:
    cell = _first(document, "blocks")
    for label, suffix, bound in (("whole rows", "", 0.8), ("chunked classes", ", cut", 0.4)):
        loop, lazy = (ratio(cell, name + suffix) if cell else None for name in ("loop", "Dask"))
        speed = loop / lazy if loop and lazy else None
        yield Check(f"{label}, of a plain loop's speed", speed, bound)


def _package(document: Document) -> Iterator[Check]:
    package = document.get("package") or {}
    milliseconds = package.get("import") or {}
    yield _measured(
        "import beyond NumPy's:", milliseconds, 5, unit=" ms", median=milliseconds.get("median")
    )
    yield Check(
        "installed files, deflated:", package.get("deflated_kb"), 520, at_least=False, unit=" KB"
    )


def _without_compiler(document: Document) -> Iterator[Check]:
    forced = document.get("numpy_backend") or {"cells": []}
    for name, bound in (("one-row-46", 0.7), ("rows-1000", 0.6), ("rows-1000-f64", 0.5)):
        yield _over(f"{name}, SciPy", cell_named(forced, name), "SciPy", bound)


_TARGETS: tuple[tuple[int, str, Callable[[Document], Iterator[Check]], str], ...] = (
    (1, "Every call", _calls, ""),
    (2, "First in every cell", _first_everywhere, "but where the copy that bounds it is as fast"),
    (3, "Every input at the speed of float32", _every_input, ""),
    (4, "Rows in cache", _in_cache, ""),
    (5, "Short rows", _short, ""),
    (6, "Past the last-level cache", _beyond_cache, ""),
    (7, "Other axes", _axes, ""),
    (8, "AVX2 against torch on AVX2", _avx2, ""),
    (9, "Two workers, and the family", _family_and_workers, ""),
    (10, "From compiled code", _compiled, "from numba"),
    (11, "Dask", _dask, ""),
    (12, "The NumPy backend", _without_compiler, ""),
    (13, "A light package", _package, "build time is not measured here"),
)


def targets(document: Document) -> list[Target]:
    """Return the targets with this run's figures."""
    found = []
    for number, title, checks, note in _TARGETS:
        if number == 6 and not document.get("beyond_cache"):
            note = "full run only"
        elif number == 6 and (text := document["beyond_cache"].get("note")):
            note = text
        found.append(Target(number, title, tuple(checks(document)), note))
    return found
