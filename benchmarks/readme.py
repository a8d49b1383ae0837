"""The tables of the documentation, made from the JSON of a run.

Figures are never typed: ``--update-readme`` replaces what is between ``<!-- benchmark:begin -->``
and ``<!-- benchmark:end -->`` (likewise ``accuracy`` and ``reproducibility``) in the page that has
these markers, and touches nothing else; all cells go to a page of their own.
"""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from .accuracy_report import changed_bits, libraries, worst_errors
from .cases import IN_README, UsageError
from .document import (
    INTERVAL,
    LEGEND,
    MORE_COLUMNS,
    OF_BEST,
    Cell,
    Column,
    Document,
    grouped,
    label,
    losses,
    means,
    of_peer,
    peer_names,
    summary,
    tables,
    taken_on,
    ulp,
)
from .machine import ROOT

FULL_TABLE = "benchmarks/results/TABLE.md"


def replace_between(text: str, name: str, body: str) -> str:
    """Return ``text`` with ``body`` between the markers of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UsageError(f"the README needs {begin} and {end}, once each and in this order")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{body.strip()}\n{end}", text)


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all but the first column are figures."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    escaped = ((text.replace("|", "\\|") for text in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _source(document: Document) -> str:
    """Return what a reader needs to take the figures again."""
    return _paragraph(f"{taken_on(document)}. Reproduce with `{document['command']}`.")


def _cells_table(cells: list[Cell], columns: Iterable[Column]) -> str:
    def figure(column: Column, cell: Cell) -> str:
        text = column.text(cell)
        return f"**{text}**" if column.verdict(cell) == "loss" else text

    chosen = list(columns)
    rows = [[f"`{label(cell)}`", *(figure(column, cell) for column in chosen)] for cell in cells]
    return table(["cell", *(column.heading for column in chosen)], rows)


def benchmark_section(document: Document) -> str:
    """Return the short table of speed, with every loss in it, and the count of all cells."""
    cells = document["cells"]
    lost = {cell["name"] for cell, _ in losses(cells)}
    shown = [cell for cell in cells if cell["name"] in lost.union(IN_README)]
    link = f"[The full table]({FULL_TABLE}) has every library in every cell."
    return "\n\n".join(
        [
            _cells_table(shown, (*OF_BEST[:2], INTERVAL, *OF_BEST[2:])),
            _paragraph(f"{summary(cells)} Of each library's time to ours: {means(cells)}. {link}"),
            _paragraph(LEGEND),
            _source(document),
        ]
    )


def full_table(document: Document) -> str:
    """Return the page of all cells."""
    written = "Written by `python -m benchmarks --update-readme`; losses are bold."
    parts = ["# Every cell of the benchmark"]
    parts += [_paragraph(f"{written} {LEGEND}"), _source(document)]
    for heading, all_cells in tables(document).items():
        parts += [f"## {heading}", _paragraph(summary(all_cells))]
        for title, cells in grouped(all_cells).items():
            peers = map(of_peer, peer_names(cells))
            parts += [f"### {title}", _cells_table(cells, (*OF_BEST, *peers, *MORE_COLUMNS))]
    return "\n\n".join(parts) + "\n"


def accuracy_section(document: Document) -> str:
    """Return the table of the worst errors over all families of rows."""
    families = len({entry["family"] for entry in document["accuracy"]})
    introduction = f"Worst over {families} families of rows, against a long double reference."
    return "\n\n".join([introduction, table(*worst_errors(document)), _source(document)])


def reproducibility_section(document: Document) -> str:
    """Return the table of rows that change their bits."""
    introduction = (
        "Share of 256 rows of 1000 whose bits change with what should not matter (– where a "
        "library has no switch to test it by)."
    )
    return "\n\n".join([_paragraph(introduction), table(*changed_bits(document))])


def accuracy_summary(document: Document) -> str:
    """Return a sentence on the largest error of each library's softmax."""
    entries = [entry for entry in document["accuracy"] if entry["function"] == "softmax"]
    families = len({entry["family"] for entry in entries})
    worst = {n: max(e["max_ulp"] for e in entries if e["library"] == n) for n in libraries(entries)}
    errors = ", ".join(f"{name} {ulp(value)}" for name, value in worst.items())
    return _paragraph(
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
    """Rewrite the sections, and the page of all cells, from a run on compiled kernels."""
    if not document["native"]:
        raise UsageError("the README shows compiled kernels: not updated from the NumPy fallback")
    for page, bodies in sections(document).items():
        text = (root / page).read_text(encoding="utf-8")
        for name, body in bodies.items():
            text = replace_between(text, name, body)
        (root / page).write_text(text, encoding="utf-8")
    if document["kind"] == "speed":
        (root / FULL_TABLE).parent.mkdir(parents=True, exist_ok=True)
        (root / FULL_TABLE).write_text(full_table(document), encoding="utf-8")
