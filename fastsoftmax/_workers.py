"""How many threads share the rows of an array: the default, and how many are worthwhile.

The calling thread always works too, and any thread that is free takes the next rows. So a call
waits only for threads that are busy with its own rows: nested calls cannot block each other, and
where no thread can be started (at interpreter exit) the caller computes all rows.
"""

from __future__ import annotations

import operator
import os
from contextvars import ContextVar
from typing import SupportsIndex

import numpy as np

# Fewest elements per thread: some 20 us of work, twice what it takes to wake a thread.
MIN_ELEMENTS = 1 << 16
# Most threads per call: 32, or the number of CPUs if larger.
MOST_THREADS = 32

_default: ContextVar[int] = ContextVar("fastsoftmax.workers", default=1)


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

    def __init__(self, n: SupportsIndex) -> None:
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


def threads_for(workers: SupportsIndex | None, elements: int) -> int:
    """Return how many threads a call is to use, by its argument `workers` or by default."""
    wanted = _default.get() if workers is None else count("workers", workers)
    return worth(wanted, elements) if wanted > 1 else 1


def count(name: str, n: SupportsIndex) -> int:
    """Return the number of workers that `n`, the value of argument `name`, stands for."""
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        wanted = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {n!r}") from None
    if wanted > 0:
        return wanted
    cpus = os.cpu_count() or 1  # which takes longer than a small softmax
    if not -cpus <= wanted < 0:
        given = wanted if abs(wanted) < 10**20 else "a larger number"
        raise ValueError(
            f"{name} must be positive, or negative down to -{cpus} (CPUs), got {given}"
        )
    return cpus + 1 + wanted


def worth(workers: int, elements: int) -> int:
    """Return how many of the workers are worthwhile for a number of elements."""
    useful = max(1, min(workers, elements // MIN_ELEMENTS))
    return useful if useful <= MOST_THREADS else max(MOST_THREADS, min(useful, os.cpu_count() or 1))
