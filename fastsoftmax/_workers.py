"""Rows split over threads: the default number of workers, and the pool that they come from.

The calling thread always works too, and whoever is free takes the next piece. So a call waits only
for threads that are busy with its own rows, never for a free one: nested calls cannot block each
other, and a pool that cannot start threads any more (at interpreter exit) merely leaves all rows to
the caller.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from numpy.typing import NDArray

# What one piece has at least: some 20 us of work, of which waking a thread takes half.
MIN_ELEMENTS = 1 << 16
# More pieces than workers, so that one that was slow to wake, or is held up, takes fewer of them.
PIECES_EACH = 4

_default: ContextVar[int] = ContextVar("fastsoftmax.workers", default=1)
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


class set_workers:  # noqa: N801 - called like a function, as scipy.fft's
    """Set the default number of workers, for good or for a ``with`` block.

    Parameters
    ----------
    n : int
        How many threads a call may use where it does not say so itself by ``workers=``. Negative
        numbers count from the number of CPUs: -1 is all of them.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is 0, or negative and beyond the number of CPUs.

    See Also
    --------
    get_workers : The default in effect.

    Notes
    -----
    The default is 1 and belongs to the context (:mod:`contextvars`): other threads and other
    asyncio tasks keep their own. No number of workers changes a single bit of a result.

    Examples
    --------
    >>> import fastsoftmax
    >>> with fastsoftmax.set_workers(2):
    ...     print(fastsoftmax.get_workers())
    2
    >>> print(fastsoftmax.get_workers())
    1
    """

    def __init__(self, n: int) -> None:
        workers = count("n", n)
        self._previous = _default.get()
        _default.set(workers)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        _default.set(self._previous)


def get_workers() -> int:
    """Return the default number of workers.

    Returns
    -------
    int
        How many threads a call may use where it does not say so itself by ``workers=``.

    See Also
    --------
    set_workers : Set it.

    Examples
    --------
    >>> import fastsoftmax
    >>> print(fastsoftmax.get_workers())
    1
    """
    return _default.get()


def choose(workers: int | None) -> int:
    """Return how many workers a call is to use, by its argument `workers` or by default."""
    return _default.get() if workers is None else count("workers", workers)


def count(name: str, n: int) -> int:
    """Return the number of workers that `n` stands for; `name` is the argument's."""
    try:
        workers = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {n!r}") from None
    if workers > 0:
        return workers
    cpus = os.cpu_count() or 1  # which takes longer than a small softmax
    workers += cpus + 1
    if n == 0 or workers <= 0:
        raise ValueError(f"{name} must be positive, or negative down to -{cpus} (CPUs), got {n}")
    return workers


def for_rows(
    workers: int, lead: int, call: Callable[..., None], *arrays: NDArray[Any] | None
) -> None:
    """Call ``call(*arrays)``, in parallel over pieces of the first `lead` axes if that is worth it.

    The first array gives the shape; those axes of the others are the same or absent (None).
    """
    first = arrays[0]
    assert first is not None
    pieces = count_pieces(workers, first.size)
    if pieces > 1 and lead:
        axis = max(range(lead), key=first.shape.__getitem__)
        length = first.shape[axis]
        pieces = min(pieces, length)
        bounds = [length * i // pieces for i in range(pieces + 1)]
        slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
        indices = [(slice(None),) * axis + (piece,) for piece in slices]
        parts = [[None if a is None else a[index] for a in arrays] for index in indices]
        share(call, parts, workers)
    else:
        call(*arrays)


def count_pieces(workers: int, elements: int) -> int:
    """Return how many pieces `workers` threads should have of so many elements; 1 is no split."""
    most = PIECES_EACH * workers if workers > 1 else 1
    return max(1, min(most, elements // MIN_ELEMENTS))


def share(call: Callable[..., None], pieces: list[list[Any]], workers: int) -> None:
    """Call `call` with each piece, in this thread and in up to ``workers - 1`` of the pool."""

    def take_pieces() -> None:
        while pieces:
            try:
                piece = pieces.pop()
            except IndexError:  # another was faster
                return
            call(*piece)

    helpers: list[Future[None]] = []
    with contextlib.suppress(RuntimeError):  # no more threads; what was submitted may still help
        helpers.extend(_get_pool().submit(take_pieces) for _ in pieces[1:workers])
    try:
        take_pieces()
    finally:
        # Also after an exception: nobody may write to the output once this call has ended.
        pieces.clear()
        running = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in running]
    for error in errors:
        if error is not None:
            raise error


def _get_pool() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - threads are worth keeping
    with _lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            size = max(32, os.cpu_count() or 1)
            _pool = ThreadPoolExecutor(size, thread_name_prefix="fastsoftmax")
        return _pool


def _forget_pool() -> None:
    """Start afresh in a child process: threads do not survive a fork, and a lock may be held."""
    global _pool, _lock  # noqa: PLW0603 - of the parent, not to be used here
    _lock = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_forget_pool)
