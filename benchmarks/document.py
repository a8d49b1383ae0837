"""Reading the JSON of a run: look-ups, and the columns that all tables of cells share."""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any, Literal, NamedTuple

from .cases import BY_NAME, GROUPS

Entry = dict[str, Any]
"""What was found of one contender in one cell."""
Cell = dict[str, Any]
Document = dict[str, Any]


def label(cell: Cell) -> str:
    """Return what tables and pictures call a cell, whatever the run that measured it called it."""
    known = BY_NAME.get(cell["name"])
    if known is None:
        return str(cell["label"])
    return replace(known, workers=cell.get("workers", known.workers)).label


def grouped(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Return the cells by the title of their group."""
    titles = {case.name: title for title, cases in GROUPS.items() for case in cases}
    found: dict[str, list[Cell]] = {title: [] for title in (*GROUPS, "Others")}
    for cell in cells:
        found[titles.get(cell["name"], "Others")].append(cell)
    return {title: members for title, members in found.items() if members}


def tables(document: Document) -> dict[str, list[Cell]]:
    """Return the cells of a run, and of its companion on two threads, by what is said of them."""
    shared = (document.get("two_threads") or {"cells": []})["cells"]
    threads = document.get("threads", 1)
    found = {f"On {threads} thread{'s' * (threads > 1)}": document["cells"]}
    known = set(map(label, document["cells"]))  # some have two workers anyway
    found["On 2 threads"] = [cell for cell in shared if label(cell) not in known]
    return {title: cells for title, cells in found.items() if cells}


def entry(cell: Cell | None, name: str) -> Entry | None:
    """Return a contender's entry if it was timed."""
    timed = (e for e in cell["contenders"] if "seconds" in e) if cell else ()
    return next((e for e in timed if e["name"] == name), None)


def ours(cell: Cell) -> Entry:
    """Return fastsoftmax's own entry."""
    return next(e for e in cell["contenders"] if e["role"] == "subject")


def rivals(cell: Cell) -> list[Entry]:
    """Return the peers whose time counts, fastest first."""
    timed = (e for e in cell["contenders"] if e["role"] == "peer" and "seconds" in e)
    return sorted(timed, key=lambda e: e["ratio"]["median"])


def best_peer(cell: Cell) -> Entry | None:
    """Return the fastest peer's entry."""
    return next(iter(rivals(cell)), None)


def ratio(cell: Cell | None, name: str) -> float | None:
    """Return how many times as long as ours a contender took."""
    found = entry(cell, name)
    return float(found["ratio"]["median"]) if found else None


def verdict(peer: Entry | None) -> str:
    """Return whether fastsoftmax is faster than a peer: undecided if the quartiles enclose 1."""
    if peer is None:
        return "–"
    if peer["ratio"]["q1"] > 1:
        return "win"
    return "loss" if peer["ratio"]["q3"] < 1 else "undecided"


def losses(cells: list[Cell]) -> list[tuple[Cell, Entry]]:
    """Return every cell and peer where the peer was faster, the worst first."""
    lost = [(cell, peer) for cell in cells for peer in rivals(cell) if verdict(peer) == "loss"]
    return sorted(lost, key=lambda pair: pair[1]["ratio"]["median"])


def summary(cells: list[Cell]) -> str:
    """Return how many cells were won, undecided and lost, and the mean ratio."""
    best = [peer for cell in cells if (peer := best_peer(cell))]
    found = [verdict(peer) for peer in best]
    win, undecided, loss = (found.count(word) for word in ("win", "undecided", "loss"))
    mean = geometric_mean([peer["ratio"]["median"] for peer in best])
    return (
        f"Of {len(best)} cells, each against its best peer: {win} won, {undecided} undecided, "
        f"{loss} lost; geometric mean of the ratios: {times(mean)}."
    )


def means(cells: list[Cell]) -> str:
    """Return the geometric mean of each peer's ratios, over the cells that it takes part in."""
    found = {
        name: geometric_mean([r for cell in cells if (r := ratio(cell, name))])
        for name in peer_names(cells)
    }
    return ", ".join(f"{name} {times(mean)}" for name, mean in found.items())


def cell_named(document: Document, name: str) -> Cell | None:
    """Return a cell by name, or None if the run left it out."""
    return next((cell for cell in document["cells"] if cell["name"] == name), None)


def geometric_mean(values: list[float]) -> float | None:
    """Return the geometric mean; None of nothing."""
    return exp(sum(map(log, values)) / len(values)) if values else None


def peer_names(cells: list[Cell]) -> list[str]:
    """Return the peers that appear in a run, in the order of first appearance."""
    everyone = (e for cell in cells for e in cell["contenders"])
    return list(dict.fromkeys(e["name"] for e in everyone if e["role"] == "peer"))


def taken_on(document: Document) -> str:
    """Return machine, instruction set, threads, versions, date and commit."""
    threads = document.get("threads", 1)
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"{document['machine']['cpu']}, instruction set {document['instruction_set']}, "
        f"{threads} thread{'s' * (threads > 1)}; {versions}; {document['date']}, "
        f"commit {document['commit']}"
    )


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    return f"{number / 2**20:g} MiB" if number >= 1 << 20 else f"{number / 2**10:g} KiB"


def duration(seconds: float) -> str:
    """Return a time with three digits and a unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def digits(value: float) -> str:
    """Return three digits at most."""
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def times(value: float | None) -> str:
    """Return a ratio for a table."""
    return "–" if value is None else f"{digits(value)}×"


def interval(peer: Entry) -> str:
    """Return the quartiles of a peer's ratio."""
    return f"[{digits(peer['ratio']['q1'])}–{digits(peer['ratio']['q3'])}]"


def ulp(value: float | None) -> str:
    """Return an error for a table: two digits, or its order of magnitude."""
    if value is None:
        return "–"
    return digits(value) if value < 1e4 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


# ---- the columns of the tables of cells, on the terminal and in the documentation ----

LEGEND = (
    "Time: of one call of fastsoftmax. Ratio: the time of the best peer, the fastest other "
    "library, over it, the median of paired rounds. Undecided: the middle half of the ratios has "
    "1 in it. ULP: the largest error in units in the last place, ours and the best peer's. Cell: "
    "a function, a dtype, a shape and a way of calling. "
    "f32: float32; 32×46: the shape; out=: into a buffer that the caller keeps; b=array: an array "
    "as that argument. `python -m benchmarks --list` says what each cell is for."
)


class Column(NamedTuple):
    """A column of the table of cells: what it has of each."""

    heading: str
    text: Callable[[Cell], str]
    justify: Literal["left", "right"] = "right"
    verdict: Callable[[Cell], str] = lambda _: ""
    """The verdict that it shows."""


def _of_best(text: Callable[[Entry], str]) -> Callable[[Cell], str]:
    return lambda cell: text(peer) if (peer := best_peer(cell)) else "–"


def of_peer(name: str) -> Column:
    """Return a peer's column of ratios."""

    def text(cell: Cell) -> str:
        found = next((e for e in cell["contenders"] if e["name"] == name), None)
        return "" if found is None else "wrong" if found["wrong"] else times(ratio(cell, name))

    return Column(name, text, verdict=lambda cell: verdict(entry(cell, name)))


def _cycles(cell: Cell) -> str:
    cycles = ours(cell).get("cycles_per_element")
    return f"{cycles:.3g}" if cycles else "–"


_VERDICT = _of_best(verdict)
OF_BEST = (
    Column("time", lambda cell: duration(ours(cell)["seconds"]["median"])),
    Column("ratio", _of_best(lambda e: times(e["ratio"]["median"])), verdict=_VERDICT),
    Column("best peer", _of_best(lambda e: str(e["name"])), justify="left"),
    Column("verdict", _VERDICT, justify="left", verdict=_VERDICT),
    Column("ULP", lambda cell: ulp(ours(cell)["max_ulp"])),
    Column("its ULP", _of_best(lambda e: ulp(e["max_ulp"]))),
)
"""The figures of the best peer."""
INTERVAL = Column("middle half", _of_best(interval))
MORE_COLUMNS = (
    Column("numpy.exp", lambda cell: times(ratio(cell, "numpy.exp"))),
    Column("copy", lambda cell: times(ratio(cell, "copy"))),
    Column("cycles an element", _cycles),
)
"""What follows the peers, as far as there is room."""
