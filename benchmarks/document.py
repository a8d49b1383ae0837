"""Reading the JSON of a run: the look-ups that targets, tables and plots share."""

from __future__ import annotations

from math import exp, log
from typing import Any

Row = dict[str, Any]
Cell = dict[str, Any]
Document = dict[str, Any]


def row(cell: Cell, name: str) -> Row | None:
    """Return a contender's entry if it was timed."""
    return next((r for r in cell["contenders"] if r["name"] == name and "seconds" in r), None)


def subject(cell: Cell) -> Row:
    """Return fastsoftmax's own entry."""
    found: Row = next(r for r in cell["contenders"] if r["role"] == "subject")
    return found


def peers(cell: Cell) -> list[Row]:
    """Return the peers whose time counts, fastest first."""
    timed = (r for r in cell["contenders"] if r["role"] == "peer" and "seconds" in r)
    return sorted(timed, key=lambda r: r["ratio"]["median"])


def best_ratio(cell: Cell) -> float | None:
    """Return how many times as long as ours the fastest peer took; None without peers."""
    rivals = peers(cell)
    return float(rivals[0]["ratio"]["median"]) if rivals else None


def ratio(cell: Cell | None, name: str) -> float | None:
    """Return how many times as long as ours a contender took."""
    found = row(cell, name) if cell else None
    return float(found["ratio"]["median"]) if found else None


def share(cell: Cell, name: str) -> tuple[float, float, float] | None:
    """Return our time in terms of a contender's: lower quartile, median, upper quartile."""
    found = row(cell, name)
    if found is None:
        return None
    spread = found["ratio"]
    return 1 / spread["q3"], 1 / spread["median"], 1 / spread["q1"]


def cell_named(document: Document, name: str) -> Cell | None:
    """Return a cell by name, or None if the run left it out."""
    return next((cell for cell in document["cells"] if cell["name"] == name), None)


def tagged(document: Document, tag: str) -> list[Cell]:
    """Return the cells of a tag."""
    return [cell for cell in document["cells"] if tag in cell["tags"]]


def geometric_mean(values: list[float]) -> float | None:
    """Return the geometric mean; None of nothing."""
    return exp(sum(map(log, values)) / len(values)) if values else None


def losses(document: Document) -> list[tuple[Cell, Row]]:
    """Return every cell and peer where the peer was faster."""
    return [
        (cell, peer)
        for cell in document["cells"]
        for peer in peers(cell)
        if peer["ratio"]["median"] < 1
    ]


def peer_names(document: Document) -> list[str]:
    """Return the peers that appear in a run, in the order of first appearance."""
    names: dict[str, None] = {}
    for cell in document["cells"]:
        for contender in cell["contenders"]:
            if contender["role"] == "peer":
                names[contender["name"]] = None
    return list(names)


def duration(seconds: float) -> str:
    """Return a time with three digits and a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def times(value: float | None) -> str:
    """Return a ratio for a table."""
    if value is None:
        return "–"
    return f"{value:.2f}×" if value < 9.95 else f"{value:.0f}×"


def ulp(value: float | None) -> str:
    """Return an error for a table: two digits, or its order of magnitude."""
    if value is None:
        return "–"
    if value < 1e4:
        return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
    return f"{value:.0e}".replace("e+0", "e")
