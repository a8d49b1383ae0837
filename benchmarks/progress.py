"""A progress line on a terminal; silence in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")


def each(items: Sequence[Item], title: str, label: Callable[[Item], str]) -> Iterator[Item]:
    """Yield the items, showing on standard error which one is in work."""
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(items))
        for item in items:
            progress.update(task, description=label(item))
            yield item
            progress.advance(task)


def within(seconds: float, title: str, work: Iterator[tuple[Any, float]]) -> Iterator[Any]:
    """Yield what has been worked on, showing on standard error what part of the time is over."""
    columns = (
        TextColumn(title),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seconds)
        for item, spent in work:
            progress.update(task, advance=spent, description=f"{item.title} {item.dtype}")
            yield item
