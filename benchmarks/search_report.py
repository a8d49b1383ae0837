"""The worst rows that a search has found, on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from .computations import BY_TITLE
from .document import Document, ulp
from .report import fallback_banner, heading

if TYPE_CHECKING:
    from rich.console import Console

Entry = dict[str, Any]

MOST_RUNS = 40
"""Runs of equal elements that are printed of a row; the JSON has all."""


def _arguments(entry: Entry) -> str:
    """Return the options of the call, and how many rows it had if more than this one."""
    parts = []
    parameter = BY_TITLE[entry["computation"]].parameter
    if parameter:
        parts.append(f"{parameter}={entry[parameter]!r}")
    if entry["rows"] > 1:
        parts.append(f"{entry['rows']} such rows")
    return ", ".join(parts) or "–"


def _table(document: Document) -> Table:
    table = Table(title="Worst rows by kind of result")
    headings = ("result", "dtype", "rows tried", "max ULP", "bound", "by", "n", "arguments")
    for text in headings:
        table.add_column(text, justify="left" if text in ("result", "dtype", "by") else "right")
    for entry in document["search"]:
        if "x" not in entry:
            table.add_row(entry["title"], entry["dtype"], f"{entry['tried']:,}", *"–––––")
            continue
        figure = f"{entry['max_ulp']:.4f}"
        table.add_row(
            entry["title"], entry["dtype"], f"{entry['tried']:,}",
            f"[red]{figure}[/]" if entry["max_ulp"] > entry["bound"] else figure,
            f"{entry['bound']:.4g}", entry["by"], str(entry["n"]), _arguments(entry),
        )  # fmt: skip
    return table


def _numbers(name: str, text: str | int) -> str:
    if isinstance(text, int):
        return f"{name} = {text}"
    runs = text.split(", ")
    shown = runs if len(runs) <= MOST_RUNS else [*runs[:4], f"... {len(runs)} in the JSON"]
    return f"{name} = [{', '.join(shown)}]"


def _row(entry: Entry) -> str:
    """Return a worst row in hex, and the peers' errors on it."""
    title = f"{entry['title']} {entry['dtype']}: {entry['max_ulp']:.4f} ULP"
    where = f"element {entry['element']} of {entry['n']} ({entry['family']})"
    lines = [
        f"{title}, {where}; {_arguments(entry)}",
        f"  {_numbers('x', entry['x'])}",
    ]
    computation = BY_TITLE[entry["computation"]]
    seconds = filter(None, (computation.second, "where" if computation.masked else ""))
    lines += [f"  {_numbers(name, entry[name])}" for name in seconds]
    if entry["peers"]:
        lines.append("  " + ", ".join(f"{name} {ulp(v)}" for name, v in entry["peers"].items()))
    return "\n".join(lines)


def print_report(console: Console, document: Document) -> None:
    """Print a table of the kinds, and the worst row of each."""
    if not document["native"]:
        fallback_banner(console)
    console.print(heading(document), highlight=False)
    console.print(_table(document))
    for entry in document["search"]:
        if "x" in entry:
            console.print(_row(entry), highlight=False, markup=False, soft_wrap=True)
