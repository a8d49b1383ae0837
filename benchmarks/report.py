"""The report on the terminal: times and standing, every peer, wins and losses, targets."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from .document import (
    Cell,
    Document,
    Row,
    best_ratio,
    cell_named,
    duration,
    geometric_mean,
    losses,
    peer_names,
    peers,
    ratio,
    row,
    share,
    subject,
    tagged,
    times,
    ulp,
)
from .targets import targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH_WITHOUT_TERMINAL = 150
"""A log or a file takes any width; rich would assume 80 columns."""

QUIET_LOAD = 0.5
"""Load average above which a report says that the machine was not quiet."""


def make_console() -> Console:
    """Return the console of reports."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)


def fallback_banner(console: Console) -> None:
    """Say so loudly when no compiled kernel is measured."""
    console.print(
        Panel(
            "These figures are of the NumPy fallback, NOT of fastsoftmax's compiled kernels.\n"
            "`python -m fastsoftmax` says why the extension is missing. The exit status is 3;\n"
            "`--allow-fallback` makes it 0.",
            title="NOT A NATIVE RUN",
            style="bold white on red",
        )
    )


def _standing(cell: Cell) -> list[str]:
    ours = subject(cell)
    rivals = peers(cell)
    best, spread = "–", ""
    if rivals:
        quartiles = rivals[0]["ratio"]
        best = rivals[0]["name"]
        spread = f"{times(quartiles['median'])} [{quartiles['q1']:.2f}–{quartiles['q3']:.2f}]"
    cycles = ours.get("cycles_per_element")
    return [
        cell["name"],
        duration(ours["seconds"]["median"]),
        best,
        f"[bold red]{spread}[/]" if rivals and rivals[0]["ratio"]["median"] < 1 else spread,
        times(ratio(cell, "numpy.exp")),
        f"{cycles:.3g}" if cycles else "–",
        f"{100 * (ratio(cell, 'copy') or 0):.0f}%",
        ulp(ours["max_ulp"]),
        ulp(max((peer["max_ulp"] for peer in rivals), default=None)),
    ]


def standing_table(document: Document) -> Table:
    """Return the table of our times beside the best peer, numpy.exp and a copy."""
    threads = "" if document["threads"] == 1 else f" ({document['threads']} threads each)"
    table = Table(title=f"Time of fastsoftmax, and how many times as long the others take{threads}")
    headings = (
        "cell", "time", "best peer", "its ratio [quartiles]", "numpy.exp", "cycles/el",
        "of copy speed", "max ULP", "peers' worst",
    )  # fmt: skip
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index in (0, 2) else "right", no_wrap=True)
    for cell in document["cells"]:
        table.add_row(*_standing(cell))
    return table


def _peer_cell(contender: Row | None) -> str:
    if contender is None:
        return ""
    if contender["wrong"]:
        return f"[red]wrong: {contender['wrong']}[/]"
    text = f"{times(contender['ratio']['median'])} ({ulp(contender['max_ulp'])})"
    return f"[bold red]{text}[/]" if contender["ratio"]["median"] < 1 else text


def peers_table(document: Document) -> Table:
    """Return the table of every peer's ratio to ours, with its max ULP."""
    table = Table(title="Every peer: its time over ours (its max ULP)")
    table.add_column("cell", no_wrap=True)
    names = peer_names(document)
    for name in names:
        table.add_column(name, justify="right")
    for cell in document["cells"]:
        entries = {r["name"]: r for r in cell["contenders"] if r["role"] == "peer"}
        table.add_row(cell["name"], *(_peer_cell(entries.get(name)) for name in names))
    return table


def calls_table(calls: list[Cell]) -> Table:
    """Return the table of small calls beside ``numpy.exp`` of as many float32 numbers."""
    table = Table(title="Small calls: time of fastsoftmax beside numpy.exp of a float32 array")
    for heading in ("call", "time", "numpy.exp", "time / numpy.exp's [quartiles]"):
        table.add_column(heading, justify="left" if heading == "call" else "right", no_wrap=True)
    for cell in calls:
        exp, spread = row(cell, "numpy.exp"), share(cell, "numpy.exp")
        if exp and spread:
            ours, theirs = (duration(r["seconds"]["median"]) for r in (subject(cell), exp))
            q1, median, q3 = spread
            table.add_row(cell["label"], ours, theirs, f"{times(median)} [{q1:.2f}–{q3:.2f}]")
    return table


def targets_table(document: Document) -> Table:
    """Return the targets with the measured figures."""
    table = Table(title="Targets")
    for heading in ("", "target", "measured (bound)", "verdict"):
        table.add_column(heading)
    style = {"met": "green", "not met": "bold red"}
    for target in targets(document):
        lines = [*map(str, target.checks), *([f"({target.note})"] if target.note else [])]
        verdict = target.verdict
        text = f"[{style[verdict]}]{verdict}[/]" if verdict in style else verdict
        table.add_row(str(target.number), target.title, "\n".join(lines), text)
    return table


def _names(cells: Iterable[Cell]) -> str:
    return ", ".join(cell["name"] for cell in cells) or "none"


def print_standing(console: Console, document: Document) -> None:
    """Print wins and losses, the losses one by one."""
    compared = [cell for cell in document["cells"] if peers(cell)]
    won = [cell for cell in compared if (best_ratio(cell) or 0) >= 1]
    mean = geometric_mean([value for cell in compared if (value := best_ratio(cell))])
    console.print(f"[bold]First in {len(won)} of {len(compared)} cells[/]: {_names(won)}")
    if mean:
        console.print(f"Geometric mean of the best peer's ratio: {mean:.2f}×")
    lost = losses(document)
    console.print(f"[bold]Losses: {len(lost) or 'none'}[/]")
    for cell, peer in lost:
        spread = peer["ratio"]
        console.print(
            f"  {cell['name']}: {peer['name']} takes {spread['median']:.2f}× our time "
            f"[{spread['q1']:.2f}–{spread['q3']:.2f}], at {ulp(peer['max_ulp'])} ULP "
            f"to our {ulp(subject(cell)['max_ulp'])}",
            markup=False,
        )


def heading(document: Document) -> str:
    """Return what was measured on what, in one paragraph."""
    machine = document["machine"]
    sizes = ", ".join(f"{level} {size >> 10} KiB" for level, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    clock = next((cell["clock_ghz"] for cell in document["cells"] if cell["clock_ghz"]), None)
    speed = f" at {clock:.2f} GHz" if clock else ""
    load = machine["load_at_start"] or 0
    busy = f"\nload average at the start: {load:.1f}; other work disturbs these figures"
    return (
        f"{machine['cpu']}{speed}, {machine['cores']} cores; {sizes}; {machine['system']}\n"
        f"instruction set: {document['instruction_set']}; threads: {document['threads']}; "
        f"commit: {document['commit']}\n{versions}{busy if load > QUIET_LOAD else ''}"
    )


def notes(document: Document) -> Iterator[str]:
    """Yield what a reader of the tables should know beside them, a line each."""
    for name, package in document.get("left_out", {}).items():
        yield f"{name} is left out: {package} is not installed."
    row_46, batch = (cell_named(document, name) for name in ("one-row-46", "batch-46"))
    called, compiled = (cell and row(cell, "numba") for cell in (row_46, batch))
    if row_46 and called and batch and compiled:
        inlined = compiled["seconds"]["median"] / batch["shape"][0]
        ours, theirs = (r["seconds"]["median"] for r in (subject(row_46), called))
        yield (
            f"A row of 46 takes {duration(inlined)} where numba inlines softmax in the caller's "
            f"own compiled loop (batch-46); called from Python, {duration(theirs)} with numba "
            f"and {duration(ours)} with fastsoftmax (one-row-46)."
        )


def print_report(console: Console, document: Document) -> None:
    """Print the whole report of a run."""
    if not document["native"]:
        fallback_banner(console)
    console.print(heading(document), highlight=False)
    for part in (document, document.get("two_threads")):
        if part:
            console.print(standing_table(part))
            if peer_names(part):
                console.print(peers_table(part))
                print_standing(console, part)
    if calls := tagged(document, "call"):
        console.print(calls_table(calls))
    for cell in (document.get("beyond_cache") or {}).values():
        if isinstance(cell, dict):
            console.print(beyond_cache_row(cell), highlight=False)
    console.print(targets_table(document))
    for line in notes(document):
        console.print(line, highlight=False)
    wrong = document["wrong_above"]["float32"]
    console.print(
        "Ratios are medians over paired rounds. Cycles come from "
        f"{document['machine']['clock_method']}. A time is withheld where the answer is NaN or off "
        f"by more than the square root of the dtype's epsilon ({wrong:.1g} in float32), absolute "
        "or relative. logsumexp's ULP is taken at max(|max|, |result|), a gradient's at the size "
        "of the terms it is the difference of.",
        highlight=False,
    )
    if not document["native"]:
        fallback_banner(console)


def beyond_cache_row(cell: Cell) -> str:
    """Return one line on the cell past the last-level cache."""
    names = ("numpy.exp", "copy")
    parts = [f"{name} {times(ratio(cell, name))}" for name in names if row(cell, name)]
    return f"{cell['label']}: {duration(subject(cell)['seconds']['median'])}; " + ", ".join(parts)
