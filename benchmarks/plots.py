"""The pictures: the standing by groups of cells, latency, throughput, and accuracy.

Each says what it was taken on, and has a white ground of its own, which a dark page needs.
"""

import textwrap
from math import prod
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .accuracy_report import groups, libraries
from .document import (
    Document,
    geometric_mean,
    grouped,
    peer_names,
    ratio,
    size,
    summary,
    taken_on,
    times,
    ulp,
)

mpl.rcParams |= {
    "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False, "font.size": 10,
    "grid.alpha": 0.25, "legend.frameon": False, "savefig.facecolor": "white",
    "svg.hashsalt": "fastsoftmax",  # the same figures give the same file
}  # fmt: skip

WIDTH = 8.3
"""Inches: a README's width at 100 dots an inch."""
OURS = "#c1121f"
COLOURS = {
    "NumPy": "#457b9d", "SciPy": "#1d3557", "torch": "#e07a1f", "ONNX Runtime": "#2a9d8f",
    "JAX": "#8e5bb5", "numba": "#a89a2c", "scikit-learn": "#7d8597", "TensorFlow": "#d4a373",
    "OpenVINO": "#588157", "Awkward": "#b5526f", "Cython": "#6a994e",
    "numpy.exp": "#9a9a9a", "copy": "#c4c4c4",
}  # fmt: skip


def _figure(height: float, document: Document, note: str = "") -> Figure:
    """Return a figure that says below it what it was taken on."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    text = "\n".join(textwrap.wrap(taken_on(document), 130))
    figure.supxlabel("\n".join(filter(None, (note, text))), fontsize=7.5, color="#555555")
    return figure


def standing(document: Document) -> Figure:
    """Draw every peer's times over ours in each group of cells: each peer has a line of its own."""
    found = {
        f"{title} ({len(cells)})": {
            name: [value for cell in cells if (value := ratio(cell, name))]
            for name in peer_names(cells)
        }
        for title, cells in grouped(document["cells"]).items()
    }
    lines = sum(map(len, found.values()))
    figure = _figure(1.6 + 0.135 * lines + 0.19 * len(found), document, summary(document["cells"]))
    axes = figure.subplots()
    place = 0.0
    for title, of_peers in found.items():
        axes.axhline(place + 0.7, color="#cccccc", linewidth=0.8)
        axes.annotate(
            title, (0.005, place), xycoords=("axes fraction", "data"), fontsize=8.5,
            weight="bold", va="center", bbox={"color": "white", "pad": 0.5}, zorder=5,
        )  # fmt: skip
        place -= 1.1
        for name, values in ((name, values) for name, values in of_peers.items() if values):
            colour, mean = COLOURS.get(name), geometric_mean(values) or 1.0
            axes.plot([min(values), max(values)], [place] * 2, color=colour, linewidth=2, alpha=0.5)
            axes.plot(mean, place, "o", color=colour, markersize=5)
            axes.annotate(
                f"{name} {times(mean)}", (max(values), place), (6, 0),
                textcoords="offset points", fontsize=7.5, color=colour, va="center",
            )  # fmt: skip
            place -= 1
        place -= 0.3
    axes.axvline(1, color=OURS, linewidth=1.6)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, 4 * high)
    axes.set_ylim(place + 0.5, 0.7)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_title(
        "Time of each library over the time of fastsoftmax, by groups of cells (how many):\n"
        "geometric mean, and from least to largest; right of the red line fastsoftmax is faster",
        fontsize=10,
    )
    return figure


def _sweep(document: Document, prefix: str) -> dict[str, Any]:
    """Return elements and seconds by contender, one array of both each."""
    found: dict[str, list[tuple[int, float]]] = {}
    for cell in (cell for cell in document["sweeps"] if cell["name"].startswith(prefix)):
        for contender in (e for e in cell["contenders"] if "seconds" in e):
            point = (prod(cell["shape"]), contender["seconds"]["median"])
            found.setdefault(contender["name"], []).append(point)
    return {name: np.array(points).T for name, points in found.items()}


def _style(name: str) -> dict[str, Any]:
    if name.startswith("fastsoftmax"):
        return {"label": name, "color": OURS, "linewidth": 2.4, "zorder": 5}
    dashed = "--" if name in ("numpy.exp", "copy") else "-"
    return {"label": name, "color": COLOURS.get(name), "linestyle": dashed, "linewidth": 1.3}


def latency(document: Document) -> Figure:
    """Draw the time of one float32 row against its length."""
    figure = _figure(5.3, document)
    axes = figure.subplots()
    for name, (n, seconds) in _sweep(document, "latency").items():
        axes.loglog(n, seconds * 1e6, **_style(name))
    axes.set(xlabel="n, elements of one float32 row", ylabel="time of a call [µs]")
    axes.set_title("Latency of one row, fresh result")
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return figure


def throughput(document: Document) -> Figure:
    """Draw elements a second against the array's size, with the caches marked."""
    caches = document["machine"]["caches"]
    note = ", ".join(f"{level} {size(capacity)}" for level, capacity in caches.items())
    figure = _figure(5.3, document, f"dotted: the sizes of the data caches ({note})")
    axes = figure.subplots()
    curves = _sweep(document, "throughput")
    # A copy in the innermost cache is several times as fast: the axis belongs to the contenders.
    fastest = max((n / seconds).max() for name, (n, seconds) in curves.items() if name != "copy")
    for name, (n, seconds) in curves.items():
        axes.semilogx(n * 4 / 1024, n / seconds / 1e9, **_style(name))
    axes.set_ylim(0, 1.15 * fastest / 1e9)
    for level, capacity in caches.items():
        axes.axvline(capacity / 1024, color="#555555", linewidth=0.9, linestyle=":")
        axes.annotate(f" {level}", (capacity / 1024, 1.09 * fastest / 1e9), color="#555555")
    axes.set(xlabel="size of the input [KiB]", ylabel="elements a second [10⁹]")
    axes.set_title("Throughput, float32 rows of 1024 into a warm buffer")
    figure.legend(loc="outside upper center", ncols=5, fontsize=9)
    return figure


MOST_ULP = 1e7
"""Larger errors have this one's colour: what is wrong in every digit would flatten the others."""


def accuracy(document: Document) -> Figure:
    """Draw the max ULP of every library and family of rows as a table with colours."""
    panels = groups(document)
    families = list(dict.fromkeys(e["family"] for e in document["accuracy"]))
    lines = -(-len(panels) // 3)
    figure = _figure(0.9 + lines * (0.6 + 0.145 * len(families)), document,
                     "– not measured; the colours are logarithmic")  # fmt: skip
    grid = figure.subplots(lines, 3, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    order = sorted(panels, key=lambda key: key[1])
    for axes, key in zip(grid.flat, order, strict=False):
        names = libraries(panels[key])
        values = np.full((len(families), len(names)), np.nan)
        for found in panels[key]:
            at = families.index(found["family"]), names.index(found["library"])
            values[at] = found["max_ulp"]
        shown = np.clip(values, 0.5, MOST_ULP)
        axes.imshow(shown, norm=LogNorm(0.5, MOST_ULP), cmap="YlOrRd", aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            dark = value > 1e4
            axes.text(x, y, "–" if np.isnan(value) else ulp(value), ha="center", va="center",
                      fontsize=6.5, color="white" if dark else "black")  # fmt: skip
        axes.grid(visible=False)
        axes.set_title("\n".join(textwrap.wrap(" ".join(key), 34)), fontsize=8)
        axes.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=6)
        axes.set_yticks(range(len(families)), families, fontsize=7)
        axes.tick_params(length=0)
    figure.suptitle("Largest error in ULP, by family of rows", fontsize=10)
    return figure


def draw(document: Document, folder: Path) -> list[Path]:
    """Write the pictures of a run as SVG and PNG and return their paths."""
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
            written.append(folder / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=130, metadata={"Date": None} if suffix == "svg" else {})
    return written
