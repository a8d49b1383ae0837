"""The project's performance targets: a table, and each with the figure that a run measured."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan, prod
from typing import NamedTuple

from .document import Cell, Document, best_peer, entry, geometric_mean, label, ours, ratio

Spread = tuple[float, float, float]
"""Lower quartile, median, upper quartile; three times the same of a figure that has none."""

FEWEST_BOUND = 1 << 14
"""Elements of the smallest cell that memory can bound."""


class Line(NamedTuple):
    """One line of the table of targets."""

    cells: str
    """Names and tags of the JSON, and those of `_kinds`; behind a slash, of a part of the JSON."""
    figure: str
    """A quotient of times, which must be at least the bound, or at most that if it is of ours; or
    a unit, of which there must be no more."""
    bound: float
    how: str = "each"
    """Each cell by itself, or the "worst" of them, or their geometric "mean"."""


BEST, EXP = "best peer / ours", "ours / numpy.exp"
# fmt: off
_TARGETS: dict[str, tuple[Line, ...]] = {
    "Every call": (
        Line("plainest-call", EXP, 0.5, "worst"),
        Line("other-call", EXP, 1.4, "worst"),
        Line("training-step", "µs", 0.8),
        Line("call-of-list", "ours / numpy.asarray", 1.5)),
    "First in every cell (but where the copy that bounds it is as fast)": (
        Line("from-python", BEST, 2.5, "mean"),
        Line("unbound", BEST, 1.2, "worst")),
    "Every input at the speed of float32": (
        Line("input-format", "ours / plain", 1.25),
        Line("input-steps", "ours / plain", 1.5)),
    "Rows in cache": (
        Line("rows-1000-out", "cycles an element", 0.8),
        Line("rows-1000-out", "ONNX Runtime / ours", 1.5),
        Line("rows-1000-out", "torch / ours", 2.8),
        Line("rows-1000", "SciPy / ours", 6),
        Line("rows-1000-float64,rows-1000-out-float64", BEST, 1.4, "worst"),
        Line("rows-100-256", "ours / rows of 300", 1),
        Line("rows-100-256", "ONNX Runtime / ours", 1.3)),
    "Short rows": (
        Line("short-3,short-3-float64", BEST, 10),
        Line("short-10,short-10-float64", BEST, 4),
        Line("ragged", "ours / rows of one length", 3)),
    "Past the last-level cache": (
        Line("beyond_cache/1", "copy / ours", 1),
        Line("beyond_cache/2", "copy / ours", 0.9),  # a copy that streams
        Line("fresh-pages,fresh-pages-float64", "ours / out=", 1.1),
        Line("dip", BEST, 1.2, "worst")),
    "Other axes": (
        Line("axis-0,middle-axis-8", "ours / last axis", 1.5),
        Line("segmentation", "ours / last axis", 1.25)),
    "AVX2 against torch on AVX2": (
        Line("avx2/any", "torch / ours", 1.5),),
    "Two workers, and the family": (
        Line("workers", "one worker / ours", 1.8),
        Line("two_threads/any", BEST, 1, "worst"),
        Line("family,family-float64", BEST, 2.5, "mean"),
        Line("family,family-float64", BEST, 1.2, "worst"),
        Line("entropy-parts", "ours / its parts", 0.8)),
    "From compiled code": (
        Line("cython-10", "ns a row", 35),
        Line("cython-46", "ns a row", 55),
        Line("compiled-10", "ns a row", 35),
        Line("compiled-10", "numba / ours", 1),
        Line("compiled-46", "ns a row", 55),
        Line("compiled-46", "numba / ours", 5),
        Line("compiled-200", "numba / ours", 12)),
    "Dask": (
        Line("blocks", "loop / Dask", 0.8),
        Line("blocks", "loop, cut / Dask, cut", 0.4)),
    "The NumPy backend": (
        Line("numpy_backend/one-row-46", "SciPy / ours", 0.7),
        Line("numpy_backend/rows-1000", "SciPy / ours", 0.6),
        Line("numpy_backend/rows-1000-f64", "SciPy / ours", 0.5)),
    "A light package (build time is not measured here)": (
        Line("package/import", "ms beyond NumPy's import", 5),
        Line("package/deflated_kb", "KB of installed files, deflated", 520)),
}
# fmt: on


@dataclass(frozen=True)
class Check:
    """One figure of a target and the bound that it is held to."""

    label: str
    spread: Spread | None
    line: Line

    @property
    def undecided(self) -> bool:
        """Whether the figure is too noisy for its bound: its quartiles enclose it."""
        return self.spread is not None and self.spread[0] < self.line.bound < self.spread[2]

    @property
    def at_least(self) -> bool:
        """Whether the bound is a lower one."""
        return "/" in self.line.figure and not self.line.figure.startswith("ours")

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None if the figure was not measured or is undecided."""
        if self.spread is None or self.undecided:
            return None
        median, bound = self.spread[1], self.line.bound
        return median >= bound if self.at_least else median <= bound

    def __str__(self) -> str:
        value = f"{self.spread[1]:.3g}" if self.spread else "not measured"
        if self.spread and self.undecided:
            value += f" [{self.spread[0]:.3g}–{self.spread[2]:.3g}]"
        sign = "≥" if self.at_least else "≤"
        return f"{self.label}: {self.line.figure} {value} ({sign} {self.line.bound:g})"


@dataclass(frozen=True)
class Target:
    """One numbered target."""

    number: int
    title: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """Return ``met``, ``not met``, or ``undecided`` or ``not measured`` where none decides."""
        found = [check.met for check in self.checks]
        if False in found:
            return "not met"
        if any(check.undecided for check in self.checks):
            return "undecided"
        if True not in found:
            return "not measured"
        return "met" if None not in found else "met as far as measured"


def _kinds(cell: Cell) -> Iterator[str]:
    """Yield what a line of the table may call a cell."""
    tags = set(cell["tags"])
    yield from ("any", cell["name"], *tags)
    if "call" in tags and not tags & {"plainest-call", "call-of-list", "training-step"}:
        yield "other-call"
    if "compiled" not in tags:
        yield "from-python"
        # Nearly at the speed of the copy; small calls do not count, whose time is overhead.
        is_as_fast = (ratio(cell, "copy") or 0) >= 0.95
        if not is_as_fast or prod(cell["shape"]) < FEWEST_BOUND:
            yield "unbound"


UNITS: dict[str, Callable[[Cell], float]] = {
    "µs": lambda _: 1e6,
    "ns a row": lambda cell: 1e9 / cell["shape"][0],
    "cycles an element": lambda cell: 1e9 * (cell["clock_ghz"] or 0) / prod(cell["shape"]),
}
"""What our time in seconds is multiplied by; 0 if that is not known."""


def _scaled(spread: dict[str, float] | None, factor: float = 1.0) -> Spread | None:
    if not spread:
        return None
    return factor * spread["q1"], factor * spread["median"], factor * spread["q3"]


def _spread(figure: str, cell: Cell) -> Spread | None:
    if figure in UNITS:
        factor = UNITS[figure](cell)
        return _scaled(ours(cell)["seconds"], factor) if factor else None
    one, _, other = figure.partition(" / ")
    if "ours" not in (one, other):
        first, second = ratio(cell, one), ratio(cell, other)
        return (first / second,) * 3 if first and second else None
    contender = (
        best_peer(cell) if one == "best peer" else entry(cell, other if one == "ours" else one)
    )
    times = _scaled(contender["ratio"]) if contender else None
    return (1 / times[2], 1 / times[1], 1 / times[0]) if times and one == "ours" else times


def _figures(line: Line, document: Document) -> list[tuple[str, Spread]]:
    """Return the figure of every cell that has it, by the cell's label."""
    part, _, wanted = line.cells.rpartition("/")
    inside = (document.get(part) or {}) if part else document
    if part == "package":
        found = inside.get(wanted)
        spread = _scaled(found) if isinstance(found, dict) else found and (found,) * 3
        return [(part, spread)] if spread else []
    if part == "beyond_cache":
        cells = [inside[wanted]] if wanted in inside else []
    else:
        every = inside.get("cells", ())
        cells = [cell for name in wanted.split(",") for cell in every if name in _kinds(cell)]
    return [(label(cell), spread) for cell in cells if (spread := _spread(line.figure, cell))]


def _checks(line: Line, document: Document) -> Iterator[Check]:
    found = _figures(line, document)
    if not found:
        yield Check(line.cells, None, line)
        return
    if line.how == "each":
        yield from (Check(*pair, line) for pair in found)
        return
    names, spreads = zip(*found, strict=True)
    medians = [spread[1] for spread in spreads]
    if line.how == "mean":
        yield Check(f"geometric mean of {len(found)}", (geometric_mean(medians) or nan,) * 3, line)
        return
    # Quartile by quartile, so that a clear miss counts beside a noisier and larger one.
    worst = max if line.figure.startswith("ours") else min
    q1, median, q3 = map(worst, zip(*spreads, strict=True))
    yield Check(f"worst of {len(found)}, {names[medians.index(median)]}", (q1, median, q3), line)


def targets(document: Document) -> list[Target]:
    """Return the targets with this run's figures."""
    return [
        Target(number, title, tuple(check for line in lines for check in _checks(line, document)))
        for number, (title, lines) in enumerate(_TARGETS.items(), 1)
    ]
