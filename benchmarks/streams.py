"""The copy that bounds a cell: of as many bytes as its call has to read and to write, at the least.

Both lie in warm memory, also where results are fresh, since no call needs to be slower than that.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import Any

import numpy as np

from .cases import Case
from .inputs import Array, Data
from .machine import caches
from .timing import Call

Steps = list[Callable[[], Any]]


def _extent(array: Array) -> int:
    """Return the bytes of an array's own elements: a broadcast axis has no more than one."""
    sizes = zip(array.shape, array.strides, strict=True)
    return array.itemsize * prod(size for size, stride in sizes if stride)


def moved(case: Case, data: Data) -> tuple[int, int]:
    """Return how many bytes the arguments of a cell have, and how many its results."""
    given = (data.x, data.grad_output, data.labels, data.where, data.indptr, *data.arrays.values())
    elements = prod(case.result_shape)
    if case.function == "segment_logsumexp":
        assert data.indptr is not None
        elements = (len(data.indptr) - 1) * prod(case.shape[1:])
    if case.is_pair:
        elements += case.elements // case.row_length
    read = sum(_extent(array) for array in given if array is not None)
    return read, elements * np.dtype(case.result_dtype).itemsize


def is_read_twice(case: Case, data: Data) -> bool:
    """Whether a row is gone from the core's own cache when the results of it are written."""
    whole_rows = case.result_shape == case.shape and not case.function.startswith("segment")
    return whole_rows and case.row_length * data.x.itemsize > caches().get("L2", 1 << 20)


def _steps(source: Array, target: Array, *, twice: bool) -> Steps:
    """Return a copy of what both have; the rest of the longer is only read, or only written."""
    both = min(len(source), len(target))
    steps: Steps = [source.max] if twice else []
    steps.append(partial(np.copyto, target[:both], source[:both]))
    if len(source) > both:
        steps.append(source[both:].max)
    if len(target) > both:
        steps.append(partial(target[both:].fill, 0))
    return steps


def _take(steps: Steps) -> None:
    for step in steps:
        step()


def _share(first: Steps, others: list[Steps], pool: ThreadPoolExecutor) -> None:
    waiting = [pool.submit(_take, steps) for steps in others]
    _take(first)
    for done in waiting:
        done.result()


def bound(case: Case, data: Data) -> Call:
    """Return the copy that bounds a cell, shared by as many threads as the cell has workers."""
    buffers = [np.ones(size, np.uint8) for size in moved(case, data)]  # zeros would share a page
    twice, halves = is_read_twice(case, data), (np.array_split(b, case.workers) for b in buffers)
    first, *others = (_steps(*part, twice=twice) for part in zip(*halves, strict=True))
    if others:
        return Call(_share, (first, others, ThreadPoolExecutor(len(others))))
    return Call(first[0]) if len(first) == 1 else Call(_take, (first,))
