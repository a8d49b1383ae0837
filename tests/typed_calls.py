"""Calls of the public functions: what type checkers must make of each, and those they must refuse.

`test_types.py` has mypy and pyright read this file, and runs it.
"""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import (
    get_workers,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    segment_log_softmax,
    segment_logsumexp,
    segment_softmax,
    set_workers,
    show_config,
    softmax,
    softmax_backward,
    softmax_cross_entropy,
)

F32 = np.float32
Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]
Row32 = np.ndarray[tuple[int], np.dtype[np.float32]]
Rows32 = np.ndarray[tuple[int, int], np.dtype[np.float32]]

row: Row32 = np.ones(2, np.float32)
rows: Rows32 = np.ones((2, 2), np.float32)
complexes: NDArray[np.complex128] = np.ones((2, 2), np.complex128)
objects: NDArray[np.object_] = np.ones((2, 2), np.object_)


def accepted(
    x: Array32,
    mixed: NDArray[np.float32 | np.float64],
    integers: NDArray[np.int64],
    anything: NDArray[Any],
    labels: NDArray[np.int64],
    out: Array32,
    losses: Array32,
    maybe: Array32 | None,
    flag: bool,
) -> None:
    # The dtype is kept, and the shape where it is known.
    assert_type(softmax(x), Array32)
    assert_type(softmax(rows), Rows32)
    assert_type(softmax(mixed), NDArray[np.float32 | np.float64])
    assert_type(softmax(np.ones(2, np.float16)).dtype, np.dtype[np.float16])
    assert_type(softmax(np.ones(2, np.longdouble)).dtype, np.dtype[np.longdouble])
    assert_type(log_softmax(x, 0, where=x > 0, temperature=np.float32(2)), Array32)
    assert_type(softmax(x, (0, np.int64(1)), temperature=[[2.0]], workers=np.int8(1)), Array32)

    # Integers, bool and lists give float64.
    assert_type(softmax(integers), Array64)
    assert_type(softmax(x > 0), Array64)
    assert_type(softmax([1, 2.0]), Array64)
    assert_type(softmax(([True, 2], (3, 4.0))), Array64)
    assert_type(softmax([[[[[1.0]]]]]), Array64)
    assert_type(log_softmax(range(3)), Array64)
    softmax([x, x])
    softmax([np.float32(1), 2.0])
    softmax(anything)

    # Scalars.
    assert_type(softmax(1), np.float64)
    assert_type(softmax(1.0), np.float64)
    assert_type(softmax(np.int8(1)), np.float64)
    assert_type(log_softmax(np.float32(1)), F32)

    # dtype= and out=.
    assert_type(softmax(integers, dtype=np.float32), Array32)
    assert_type(softmax([1, 2], dtype=np.float32), Array32)
    assert_type(log_softmax(integers, dtype=x.dtype), Array32)
    assert_type(softmax(x, dtype="float16"), Any)
    assert_type(softmax(x, dtype=float), Any)
    assert_type(softmax(x, out=out), Array32)
    assert_type(softmax(integers, out=out, dtype=np.float32), Array32)
    assert_type(softmax(x, out=maybe), Array32)

    # A reduction gives an array or a scalar, by the number of axes.
    assert_type(logsumexp(x), Any)
    assert_type(logsumexp(x, axis=None), F32)
    assert_type(logsumexp(x, keepdims=True), Array32)
    assert_type(logsumexp(rows, (0, 1), keepdims=True), Rows32)
    assert_type(logsumexp(x, keepdims=flag), Any)
    assert_type(logsumexp(row), F32)
    assert_type(logsumexp(rows, where=[True, False]), Row32)
    assert_type(logsumexp(rows, b=[1.0, 2.0]), Any)
    assert_type(logsumexp(F32(1)), F32)
    assert_type(logsumexp([[1, 2], [3, 4]], axis=None), np.float64)
    assert_type(logsumexp(integers, keepdims=True), Array64)
    assert_type(logsumexp(x, return_sign=True), tuple[Any, Any])
    assert_type(logsumexp(rows, b=rows, return_sign=flag), Any)
    assert_type(logsumexp(x, axis=0, out=losses), Array32)

    # Gradients.
    assert_type(softmax_backward(x, x), Array32)
    assert_type(log_softmax_backward(rows, rows, 0, where=[[True, False]]), Rows32)
    assert_type(softmax_backward([1.0, 2.0], [0.5, 0.5]), Array64)
    assert_type(softmax_backward(x, [[0.5, 0.5], [1.0, 0.0]]), Any)
    assert_type(log_softmax_backward(x, x, out=out), Array32)

    # Losses.
    assert_type(softmax_cross_entropy(x, labels), Any)
    assert_type(softmax_cross_entropy(rows, [0, 1]), Row32)
    assert_type(softmax_cross_entropy(rows, labels, return_grad=True), tuple[Row32, Rows32])
    assert_type(softmax_cross_entropy(row, np.int64(1), return_grad=True), tuple[Any, Row32])
    assert_type(softmax_cross_entropy(x, labels, return_grad=True), tuple[Any, Array32])
    assert_type(softmax_cross_entropy([[1, 2]], [0], return_grad=True), tuple[Any, Array64])
    assert_type(softmax_cross_entropy(x, labels, return_grad=True, dtype=F32), tuple[Any, Any])
    assert_type(
        softmax_cross_entropy(x, labels, return_grad=True, out=(None, out)), tuple[Any, Any]
    )
    assert_type(softmax_cross_entropy(x, labels, return_grad=flag), Any)
    assert_type(softmax_cross_entropy(x, labels, out=losses), Array32)
    softmax_cross_entropy(
        x, x, np.int64(1), where=[True, True], sample_weight=[1, 2], label_smoothing=np.float32(0.5)
    )
    softmax_cross_entropy(x, labels, ignore_index=np.int64(-100), sample_weight=0.5)

    # Segments.
    assert_type(segment_softmax(x, [0, 1, 2]), Array32)
    assert_type(segment_log_softmax(rows, np.array([0, 2], np.int32)), Rows32)
    assert_type(segment_logsumexp(rows, [np.int64(0), np.int64(2)]), Rows32)
    assert_type(segment_softmax([1, 2], [0, 2], temperature=np.float64(2)), Array64)
    assert_type(segment_logsumexp(row, [0, 1, 2], out=losses), Array32)

    # The rest.
    assert_type(get_workers(), int)
    with set_workers(np.int64(1)):
        assert_type(show_config("dicts"), dict[str, Any])


def refused(x: Array32, labels: NDArray[np.int64]) -> None:
    softmax(complexes)  # type: ignore
    softmax(objects)  # type: ignore
    softmax(1j)  # type: ignore
    softmax([[1j]])  # type: ignore
    softmax("text")  # type: ignore
    softmax(["text"])  # type: ignore
    softmax(None)  # type: ignore
    softmax([1.0, None])  # type: ignore
    softmax({0: 1.0})  # type: ignore
    softmax(x, dtype=np.int32)  # type: ignore
    softmax(x, dtype=complex)  # type: ignore
    softmax(x, axis=1.0)  # type: ignore
    softmax(x, axis=[0, 1])  # type: ignore
    softmax(x, where=labels)  # type: ignore
    softmax(x, where=[1, 0])  # type: ignore
    softmax(x, temperature="1")  # type: ignore
    softmax(x, workers=1.5)  # type: ignore
    softmax(x, out=labels)  # type: ignore
    softmax(x, dim=1)  # type: ignore
    softmax(x, 1, None)  # type: ignore
    log_softmax(complexes)  # type: ignore
    logsumexp(x, b=complexes)  # type: ignore
    logsumexp(x, keepdims=1)  # type: ignore
    softmax_backward(x)  # type: ignore
    softmax_backward(x, complexes)  # type: ignore
    softmax_cross_entropy(1.0, 1)  # type: ignore
    softmax_cross_entropy(x, "text")  # type: ignore
    softmax_cross_entropy(x, labels, axis=None)  # type: ignore
    softmax_cross_entropy(x, labels, label_smoothing="0.1")  # type: ignore
    segment_softmax(1.0, labels)  # type: ignore
    segment_softmax(x, x)  # type: ignore
    segment_softmax(x, [0.0, 2.0])  # type: ignore
    set_workers(1.5)  # type: ignore
    show_config("text")  # type: ignore
