"""The accuracy and reproducibility tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from .accuracy import worst
from .document import Document, ulp
from .report import fallback_banner, heading

if TYPE_CHECKING:
    from rich.console import Console

Entry = dict[str, Any]


def libraries(entries: list[Entry]) -> list[str]:
    """Return the libraries of a table, in order of appearance."""
    return list(dict.fromkeys(entry["library"] for entry in entries))


def groups(document: Document) -> dict[tuple[str, str], list[Entry]]:
    """Return the entries by function and dtype."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in document["accuracy"]:
        found.setdefault((entry["function"], entry["dtype"]), []).append(entry)
    return found


def summary(entries: list[Entry]) -> dict[str, Entry]:
    """Return the worst over the families, by library."""
    return {
        name: worst([entry for entry in entries if entry["library"] == name])
        for name in libraries(entries)
    }


def share(value: float | None) -> str:
    """Return a share of rows for a table."""
    return "–" if value is None else f"{100 * value:.0f}%" if value == 0 or value > 0.005 else "<1%"


def _family_table(function: str, dtype: str, entries: list[Entry]) -> Table:
    table = Table(title=f"{function} {dtype}: max ULP by family of rows")
    table.add_column("family", no_wrap=True)
    names = libraries(entries)
    for name in names:
        table.add_column(name, justify="right")
    for family in dict.fromkeys(entry["family"] for entry in entries):
        row = {e["library"]: e for e in entries if e["family"] == family}
        table.add_row(family, *(_cell(row.get(name)) for name in names))
    return table


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    return f"[red]{entry['nan']} NaN[/]" if entry["nan"] else ulp(entry["max_ulp"])


def _summary_table(document: Document) -> Table:
    table = Table(title="Worst over the families")
    headings = (
        "function", "dtype", "library", "max ULP", "mean ULP", "max ULP, subnormal results",
        "flushed to 0", "max |sum − 1|", "argmax lost", "NaN", "on our worst rows",
        "ours on its worst row",
    )  # fmt: skip
    for index, text in enumerate(headings):
        table.add_column(text, justify="left" if index < 3 else "right")
    on_ours = {
        (entry["function"], entry["dtype"], entry["library"]): entry["max_ulp"]
        for entry in document.get("on_worst_rows", ())  # documents before the search have none
    }
    for (function, dtype), entries in groups(document).items():
        is_softmax = function == "softmax"
        for name, entry in summary(entries).items():
            table.add_row(
                function, dtype, name, ulp(entry["max_ulp"]), f"{entry['mean_ulp']:.2g}",
                ulp(entry["max_ulp_subnormal"]), str(entry["flushed"]) if is_softmax else "–",
                f"{entry['sum_error']:.1e}" if is_softmax else "–",
                str(entry["argmax_lost"]) if is_softmax else "–", str(entry["nan"]),
                ulp(on_ours.get((function, dtype, name))), ulp(entry["ours_there"]),
            )  # fmt: skip
        table.add_section()
    return table


def _reproducibility_table(document: Document) -> Table:
    table = Table(title="Share of rows whose bits change (256 rows of 1000)")
    headings = ("library", "dtype", "with memory layout", "with the batch", "with the CPU")
    for index, text in enumerate(headings):
        table.add_column(text, justify="left" if index < 2 else "right")
    for entry in document["reproducibility"]:
        shares = (share(entry[key]) for key in ("layout", "batch", "cpu"))
        table.add_row(entry["library"], entry["dtype"], *shares)
    return table


def print_report(console: Console, document: Document) -> None:
    """Print the families, the summary and the reproducibility table."""
    if not document["native"]:
        fallback_banner(console)
    console.print(heading(document), highlight=False)
    for (function, dtype), entries in groups(document).items():
        console.print(_family_table(function, dtype, entries))
    console.print(_summary_table(document))
    console.print(_reproducibility_table(document))
    if not document["native"]:
        fallback_banner(console)
