"""The plots: latency, throughput, the standing in every cell, and accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .accuracy_report import groups, libraries
from .document import Cell, Document, peer_names, peers, row

if TYPE_CHECKING:
    from pathlib import Path

mpl.rcParams.update(
    {
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 10,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "svg.hashsalt": "fastsoftmax",  # the same figures give the same file
    }
)

OURS = "#c1121f"
COLOURS = {
    "NumPy": "#457b9d",
    "SciPy": "#1d3557",
    "torch": "#e07a1f",
    "ONNX Runtime": "#2a9d8f",
    "JAX": "#8e5bb5",
    "numba": "#b5a642",
    "scikit-learn": "#7d8597",
    "TensorFlow": "#d4a373",
    "OpenVINO": "#588157",
    "numpy.exp": "#9a9a9a",
    "copy": "#cfcfcf",
}


def _style(name: str) -> dict[str, Any]:
    if name.startswith("fastsoftmax"):
        return {"color": OURS, "linewidth": 2.4, "zorder": 5}
    dashed = name in ("numpy.exp", "copy")
    return {"color": COLOURS.get(name), "linestyle": "--" if dashed else "-", "linewidth": 1.3}


def _series(cells: list[Cell]) -> dict[str, list[tuple[int, float]]]:
    """Return (elements, seconds) by contender."""
    found: dict[str, list[tuple[int, float]]] = {}
    for cell in cells:
        elements = int(np.prod(cell["shape"]))
        for contender in cell["contenders"]:
            if "seconds" in contender:
                point = (elements, contender["seconds"]["median"])
                found.setdefault(contender["name"], []).append(point)
    return found


def _sweep(document: Document, prefix: str) -> list[Cell]:
    return [cell for cell in document.get("sweeps", []) if cell["name"].startswith(prefix)]


def latency(document: Document) -> Figure:
    """Draw the time of one float32 row against its length."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in _series(_sweep(document, "latency")).items():
        n, seconds = np.array(points).T
        axes.loglog(n, seconds * 1e6, label=name, **_style(name))
    axes.set(xlabel="n, elements of one float32 row", ylabel="time of a call [µs]")
    axes.set_title("Latency of one row, fresh result")
    axes.legend(ncols=2, fontsize=9)
    return figure


def throughput(document: Document) -> Figure:
    """Draw elements a second against the array's size, with the caches marked."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    largest = 0.0
    for name, points in _series(_sweep(document, "throughput")).items():
        elements, seconds = np.array(points).T
        size = elements * 4 / 1024
        largest = max(largest, float(size.max()))
        axes.semilogx(size, elements / seconds / 1e9, label=name, **_style(name))
    # A copy in the innermost cache is several times as fast: the axis belongs to the contenders.
    fastest = max(
        elements / seconds
        for name, points in _series(_sweep(document, "throughput")).items()
        for elements, seconds in points
        if name != "copy"
    )
    axes.set_ylim(0, 1.12 * fastest / 1e9)
    for level, capacity in document["machine"]["caches"].items():
        if capacity / 1024 < largest:
            axes.axvline(capacity / 1024, color="#555555", linewidth=0.8, linestyle=":")
            axes.annotate(f" {level}", (capacity / 1024, 1.06 * fastest / 1e9), color="#555555")
    axes.set(xlabel="size of the input [KiB]", ylabel="elements a second [10⁹]")
    axes.set_title("Throughput, float32 rows of 1024 into a warm buffer")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    return figure


def standing(document: Document) -> Figure:
    """Draw every peer's time over ours, cell by cell."""
    cells = [cell for cell in document["cells"] if peers(cell)]
    figure = Figure(figsize=(9, 1.5 + 0.27 * len(cells)), layout="constrained")
    axes = figure.subplots()
    heights = {cell["name"]: -index for index, cell in enumerate(cells)}
    for name in peer_names(document):
        found = [(row(cell, name), heights[cell["name"]]) for cell in cells]
        points = [(entry["ratio"]["median"], height) for entry, height in found if entry]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=26, color=COLOURS.get(name), label=name, zorder=3)
    axes.axvline(1, color=OURS, linewidth=2)
    axes.set_xscale("log")
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if _within(t, axes.get_xlim())]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_yticks(list(heights.values()), [cell["name"] for cell in cells], fontsize=8)
    axes.set_ylim(-len(cells) + 0.4, 0.6)
    axes.set_xlabel(
        "time of the peer over the time of fastsoftmax (right of the line: ours is faster)"
    )
    axes.set_title("Standing in every cell")
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return figure


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


MOST_ULP = 1e20
"""Larger errors are drawn as this one: what is wrong in every digit would flatten the others."""


def accuracy(document: Document) -> Figure:
    """Draw the max ULP by family for each function and dtype."""
    panels = groups(document)
    columns = 2 if len({dtype for _, dtype in panels}) == 2 else 1
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(7 * columns, 3.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, ((function, dtype), entries) in zip(grid.flat, panels.items(), strict=False):
        families = list(dict.fromkeys(entry["family"] for entry in entries))
        for name in libraries(entries):
            found = {e["family"]: e["max_ulp"] for e in entries if e["library"] == name}
            x = [i for i, family in enumerate(families) if family in found]
            y = [min(max(found[families[i]], 0.1), MOST_ULP) for i in x]
            ours = name.startswith("fastsoftmax")
            colour = OURS if ours else COLOURS.get(name)
            axes.scatter(x, y, color=colour, s=60 if ours else 24, label=name, zorder=4 + ours)
        axes.set_yscale("log")
        axes.set_title(f"{function}, {dtype}", fontsize=10)
        axes.set_ylabel("max ULP")
        axes.set_xticks(range(len(families)), families, rotation=40, ha="right", fontsize=7)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6)
    return figure


def draw(document: Document, folder: Path) -> list[Path]:
    """Write the plots of a run as SVG and PNG and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if document["kind"] == "accuracy":
        figures = {"accuracy": accuracy(document)}
    else:
        figures = {"standing": standing(document)}
        if document.get("sweeps"):
            figures |= {"latency": latency(document), "throughput": throughput(document)}
    written = []
    for name, figure in figures.items():
        for suffix in ("svg", "png"):
            path = folder / f"{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(path, dpi=130, metadata=metadata)
            written.append(path)
    return written
