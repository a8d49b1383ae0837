"""The report on the terminal: every cell with its verdict, the losses, the targets if asked for."""

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from .document import (
    INTERVAL,
    LEGEND,
    MORE_COLUMNS,
    OF_BEST,
    Cell,
    Column,
    Document,
    cell_named,
    duration,
    entry,
    grouped,
    interval,
    label,
    losses,
    of_peer,
    ours,
    peer_names,
    ratio,
    size,
    summary,
    tables,
    taken_on,
    times,
    ulp,
)
from .targets import targets

WIDTH_OF_A_LOG = 150
"""A log or a file takes any width; rich would assume 80 columns."""
NARROWEST_LABEL = 33

FASTEST_PEERS = ("torch", "ONNX Runtime", "JAX", "numba")

QUIET_LOAD = 0.5
"""Load average above which a report says that the machine was not quiet."""

STYLES = {"win": "green", "loss": "bold red", "met": "green", "not met": "bold red"}


def make_console() -> Console:
    """Return the console of reports."""
    is_log = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=WIDTH_OF_A_LOG if is_log else None, highlight=False)


def fallback_banner(console: Console, document: Document) -> None:
    """Say so loudly when no compiled kernel is measured."""
    if document["native"]:
        return
    text = (
        "These figures are of the NumPy fallback, NOT of fastsoftmax's compiled kernels.\n"
        "`python -m fastsoftmax` says why the extension is missing. The exit status is 3;\n"
        "`--allow-fallback` makes it 0."
    )
    console.print(Panel(text, title="NOT A NATIVE RUN", style="bold white on red"))


def _styled(text: str, word: str) -> str:
    return f"[{STYLES[word]}]{text}[/]" if word in STYLES else text


def cells_table(cells: list[Cell], width: int) -> Table:
    """Return the table of all cells: more of every peer the more room there is."""
    peers = map(of_peer, peer_names(cells))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold underline")
    room = width - NARROWEST_LABEL
    chosen: list[tuple[Column, str, int]] = []
    for column in (*OF_BEST, INTERVAL, *peers, *MORE_COLUMNS):
        heading = column.heading.replace("-", "- ")  # where a name may be cut
        needed = max(map(len, (*heading.split(), *map(column.text, cells))))
        room -= needed + 1
        if room < 0 and len(chosen) >= len(OF_BEST):
            break
        chosen.append((column, heading, needed))
    rest = max(12, width - sum(needed + 1 for *_, needed in chosen))
    table.add_column("cell", width=min(rest, max(map(len, map(label, cells)), default=4)))
    for column, heading, needed in chosen:
        table.add_column(heading, justify=column.justify, width=needed)
    for title, members in grouped(cells).items():
        table.add_row()
        table.add_row(f"[bold]{title}[/]")
        for cell in members:
            texts = (_styled(column.text(cell), column.verdict(cell)) for column, *_ in chosen)
            table.add_row(textwrap.fill(label(cell), rest, subsequent_indent="  "), *texts)
    return table


def table_of(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int
) -> Table:
    """Return a table; all but the first ``texts`` columns are of figures."""
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < texts else "right")
    for row in rows:
        table.add_row(*row)
    return table


def targets_table(document: Document) -> Table:
    """Return the targets with the measured figures."""
    rows = (
        (str(t.number), t.title, "\n".join(map(str, t.checks)), _styled(t.verdict, t.verdict))
        for t in targets(document)
    )
    return table_of("Targets", ("", "target", "measured (bound)", "verdict"), rows, texts=4)


def print_losses(console: Console, cells: list[Cell]) -> None:
    """Print wins and losses, the losses one by one."""
    console.print(f"[bold]{summary(cells)}[/]")
    lost = losses(cells)
    console.print(f"[bold]Peers that were faster: {'' if lost else 'none'}[/]")
    for cell, peer in lost:
        console.print(
            f"  {label(cell)}: {peer['name']} takes {times(peer['ratio']['median'])} our time "
            f"{interval(peer)}, at {ulp(peer['max_ulp'])} ULP to our {ulp(ours(cell)['max_ulp'])}",
            markup=False,
        )


def heading(document: Document) -> str:
    """Return what was measured on what, in one paragraph."""
    machine = document["machine"]
    caches = ", ".join(f"{level} {size(number)}" for level, number in machine["caches"].items())
    clock = next((cell["clock_ghz"] for cell in document["cells"] if cell["clock_ghz"]), None)
    speed = f" at {clock:.2f} GHz" if clock else ""
    load = machine["load_at_start"] or 0
    busy = f"\nload average at the start: {load:.1f}; other work disturbs these figures"
    return (
        f"{taken_on(document)}\n{machine['cores']} cores{speed}; {caches}; {machine['system']}"
        f"{busy if load > QUIET_LOAD else ''}"
    )


def notes(document: Document) -> Iterator[str]:
    """Yield what a reader of the tables should know beside them, a line each."""
    absent = [name for name in FASTEST_PEERS if name not in peer_names(document["cells"])]
    if absent:
        yield (
            f"Not in this run, though often the best peer: {', '.join(absent)}; README.md says how "
            "to install them."
        )
    for name, package in document.get("left_out", {}).items():
        yield f"{name} is left out: {package} is not installed."
    for cell in document["cells"]:
        for peer in (e for e in cell["contenders"] if e.get("wrong")):
            yield f"{label(cell)}: {peer['name']} is wrong and not timed ({peer['wrong']})."
    for cell in (document.get("beyond_cache") or {}).values():
        if isinstance(cell, str):
            yield cell
        else:
            found = [f"{name} {times(ratio(cell, name))}" for name in ("numpy.exp", "copy")]
            time = duration(ours(cell)["seconds"]["median"])
            yield f"{label(cell)}, past the last-level cache: {time}; {', '.join(found)}."
    row_46, batch = (cell_named(document, name) for name in ("one-row-46", "batch-46"))
    called, compiled = entry(row_46, "numba"), entry(batch, "numba")
    if row_46 and called and batch and compiled:
        inlined = compiled["seconds"]["median"] / batch["shape"][0]
        of_ours, theirs = (duration(e["seconds"]["median"]) for e in (ours(row_46), called))
        yield (
            f"A row of 46 takes {duration(inlined)} where numba inlines softmax in the caller's "
            f"own compiled loop (batch-46); called from Python, {theirs} with numba "
            f"and {of_ours} with fastsoftmax (one-row-46)."
        )
    wrong = document["wrong_above"]["float32"]
    yield (
        "A time is withheld where the answer is NaN or off by more than the square root of the "
        f"dtype's epsilon ({wrong:.1g} in float32), absolute or relative. logsumexp's ULP is taken "
        "at max(|max|, |result|), a gradient's at the size of the terms it is the difference of. "
        f"Cycles come from {document['machine']['clock_method']}."
    )


def print_report(console: Console, document: Document, *, with_targets: bool = False) -> None:
    """Print the whole report of a run."""
    fallback_banner(console, document)
    console.print(heading(document))
    for title, cells in tables(document).items():
        console.print(f"\n[bold]{title}[/]")
        console.print(cells_table(cells, console.width))
        if cells is document["cells"]:
            console.print(f"\n{LEGEND}\n", markup=False)
        if peer_names(cells):
            print_losses(console, cells)
    if with_targets:
        console.print(targets_table(document))
    for line in notes(document):
        console.print(line, markup=False)
    fallback_banner(console, document)
