"""A progress line on a terminal; silence in a log."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def each(items: Sequence[Item], title: str, label: Callable[[Item], str]) -> Iterator[Item]:
    """Yield the items, showing on standard error which one is in work."""
    return within(len(items), title, label, ((item, 1) for item in items))


def within(
    total: float, title: str, label: Callable[[Item], str], work: Iterable[tuple[Item, float]]
) -> Iterator[Item]:
    """Yield items of which each is a part of the total, showing which one and how much is done."""
    console = Console(stderr=True)
    columns = (
        TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for item, part in work:
            progress.update(task, description=label(item))
            yield item
            progress.advance(task, part)
