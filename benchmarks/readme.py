"""The README's tables, made from the JSON of a run and put between two markers.

Figures in the README are never typed: ``--update-readme`` replaces what is between
``<!-- benchmark:begin -->`` and ``<!-- benchmark:end -->`` (likewise ``accuracy`` and
``reproducibility``) and touches nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .accuracy_report import groups, share, summary
from .cases import UsageError
from .document import (
    Cell,
    Document,
    best_ratio,
    duration,
    geometric_mean,
    losses,
    peer_names,
    peers,
    ratio,
    subject,
    times,
    ulp,
)
from .machine import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def replace_between(text: str, name: str, body: str) -> str:
    """Return ``text`` with ``body`` between the markers of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UsageError(f"the README needs {begin} and {end}, once each and in this order")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{body.strip()}\n{end}", text)


def table(headings: list[str], rows: list[list[str]], *, left: int = 1) -> str:
    """Return a Markdown table; all but the first ``left`` columns are figures."""
    rule = ["---" if index < left else "---:" for index in range(len(headings))]
    lines = [headings, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _taken_on(document: Document) -> str:
    """Return machine, versions and command: what a reader needs to take the figures again."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"{machine['cpu']}, instruction set {document['instruction_set']}, one thread; {versions}; "
        f"{document['date']}, commit {document['commit']}. Reproduce with `{document['command']}`."
    )


def _speed_row(cell: Cell, names: list[str]) -> list[str]:
    ours = subject(cell)
    figures = []
    for name in names:
        value = ratio(cell, name)
        figures.append(times(value) if value is None or value >= 1 else f"**{times(value)}**")
    worst = max((peer["max_ulp"] for peer in peers(cell)), default=None)
    time = duration(ours["seconds"]["median"])
    label = f"`{cell['label']}`"
    return [
        label,
        time,
        *figures,
        times(ratio(cell, "numpy.exp")),
        ulp(ours["max_ulp"]),
        ulp(worst),
    ]


def benchmark_section(document: Document) -> str:
    """Return the table of speed, its summary and its losses."""
    names = peer_names(document)
    headings = ["cell", "fastsoftmax", *names, "`numpy.exp`", "max ULP", "peers' worst ULP"]
    rows = [_speed_row(cell, names) for cell in document["cells"]]
    mean = geometric_mean([v for cell in document["cells"] if (v := best_ratio(cell))])
    against = f" Geometric mean over the best peer of each cell: {times(mean)}." if mean else ""
    introduction = (
        "How many times as long as fastsoftmax each peer takes (median of paired rounds), and "
        f"the largest error in ULP.{against} {_losses(document)}"
    )
    return "\n\n".join([introduction, table(headings, rows), _taken_on(document)])


def _losses(document: Document) -> str:
    lost = losses(document)
    if not lost:
        return "No peer was faster in any cell."
    named = (f"{peer['name']} in `{cell['label']}`" for cell, peer in lost)
    return f"Losses, in bold: {', '.join(named)}."


def accuracy_section(document: Document) -> str:
    """Return the table of the worst errors over all families of rows."""
    entries = groups(document)
    names = list(dict.fromkeys(name for group in entries.values() for name in summary(group)))
    rows = []
    for (function, dtype), group in entries.items():
        found = summary(group)
        rows.append([f"`{function}` {dtype}, max ULP", *_figures(found, names, "max_ulp")])
        there = {
            entry["library"]: entry
            for entry in document.get("on_worst_rows", ())
            if (entry["function"], entry["dtype"]) == (function, dtype)
        }
        if there:
            rows.append(["… on fastsoftmax's worst rows", *_figures(there, names, "max_ulp")])
            rows.append(["… fastsoftmax on its worst row", *_figures(found, names, "ours_there")])
        if function == "softmax":
            rows.append([f"`{function}` {dtype}, mean ULP", *_figures(found, names, "mean_ulp")])
            sums = [f"{found[n]['sum_error']:.1e}" if n in found else "–" for n in names]
            rows.append([f"`{function}` {dtype}, max \\|Σ − 1\\|", *sums])
            flushed = [str(found[n]["flushed"]) if n in found else "–" for n in names]
            rows.append([f"`{function}` {dtype}, subnormal results flushed to 0", *flushed])
    families = len({entry["family"] for entry in document["accuracy"]})
    return "\n\n".join(
        [
            f"Worst over {families} families of rows, against a long double reference.",
            table(["", *names], rows),
            _taken_on(document),
        ]
    )


def _figures(found: dict[str, dict[str, Any]], names: list[str], key: str) -> list[str]:
    return [ulp(found[name][key]) if name in found else "–" for name in names]


def reproducibility_section(document: Document) -> str:
    """Return the table of rows that change their bits."""
    entries = document["reproducibility"]
    names = list(dict.fromkeys(entry["library"] for entry in entries))
    by_key = {(entry["library"], entry["dtype"]): entry for entry in entries}
    rows = []
    for key, text in (("layout", "memory layout"), ("batch", "the batch"), ("cpu", "the CPU")):
        for dtype in dict.fromkeys(entry["dtype"] for entry in entries):
            found = (by_key.get((name, dtype)) for name in names)
            rows.append([f"{text}, {dtype}", *(share(e[key]) if e else "–" for e in found)])
    introduction = (
        "Share of 256 rows of 1000 whose bits change with what should not matter (– where a "
        "library has no switch to test it by)."
    )
    return "\n\n".join([introduction, table(["with", *names], rows)])


def accuracy_summary(document: Document) -> str:
    """Return a sentence on the largest error of each library's softmax."""
    entries = [entry for entry in document["accuracy"] if entry["function"] == "softmax"]
    worst: dict[str, float] = {}
    for entry in entries:
        worst[entry["library"]] = max(worst.get(entry["library"], 0), entry["max_ulp"])
    families = len({entry["family"] for entry in entries})
    errors = ", ".join(f"{name} {ulp(value)}" for name, value in worst.items())
    return (
        f"Largest error of `softmax` in {families} families of rows, float32 and float64, in ULP: "
        f"{errors}."
    )


def sections(document: Document) -> dict[str, dict[str, str]]:
    """Return the sections that a document fills, by the page and the name of their markers."""
    if document["kind"] == "speed":
        return {"README.md": {"benchmark": benchmark_section(document)}}
    return {
        "README.md": {"accuracy": accuracy_summary(document)},
        "benchmarks/ACCURACY.md": {
            "accuracy": accuracy_section(document),
            "reproducibility": reproducibility_section(document),
        },
    }


def update(document: Document, root: Path = ROOT) -> None:
    """Rewrite the README's sections, and those of ACCURACY.md, from a run on compiled kernels."""
    if not document["native"]:
        raise UsageError("the README shows compiled kernels: not updated from the NumPy fallback")
    for page, bodies in sections(document).items():
        text = (root / page).read_text(encoding="utf-8")
        for name, body in bodies.items():
            text = replace_between(text, name, body)
        (root / page).write_text(text, encoding="utf-8")
