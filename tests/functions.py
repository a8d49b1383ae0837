"""The public functions, in one list: what each takes, how to make that, and how to call it.

A test that holds for every function iterates over FUNCTIONS; one that holds for every computation,
over CALLS, which adds the options that have code of their own. A function that is new, or a keyword,
is entered here and is then in every such test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def _only_x(x, _y, _axis):
    return (x,)


def _both(x, y, _axis):
    return x, y


def _class_indices(x, y, axis):
    return x, y.argmax(axis)


def _kept_probabilities(x, y, _axis):
    """Give no probability to a class that `_where` leaves out, or all losses are infinite."""
    return x, np.where(y > 0.25, y, 0).astype(y.dtype)


def _segments(x, _y, axis):
    """Lay the rows one after the other: a view of `x` where they lie so."""
    rows = np.moveaxis(x, axis, -1)
    return rows.reshape(-1), np.arange(0, x.size + 1, rows.shape[-1])


def _heads(rows):
    """Return how many of so many rows lie side by side."""
    return next(heads for heads in (3, 2, 1) if rows % heads == 0)


def _segments_of_heads(x, _y, axis):
    """Lay two or three rows side by side, and those one after the other."""
    rows = np.moveaxis(x, axis, -1)
    n = rows.shape[-1]
    heads = _heads(rows.size // n)
    data = rows.reshape(-1, heads, n).swapaxes(1, 2).reshape(-1, heads)
    return data, np.arange(0, len(data) + 1, n)


@dataclass(frozen=True)
class Function:
    """A public function, or one with an option that is always given."""

    label: str
    name: str
    """As the package exports it."""
    operands: tuple[str, ...]
    """The names of the arguments without a default."""
    options: tuple[str, ...]
    """The names of the arguments that are keywords only."""
    axes: str
    """What `axis` may be: "several" (None and tuples too), "one", or "none": there is no `axis`."""
    keeps_shape: bool
    """Whether each result has the first operand's shape."""
    from_rows: Callable[..., tuple[np.ndarray, ...]]
    """Make operands of two arrays of one shape and an axis; see `of_rows`."""
    given: Callable[..., dict] = lambda _y, _axis=-1: {}
    """The options that are always given, made of the second of these arrays and the axes."""

    def __str__(self):
        return self.label

    def make(self, shape, dtype, rng, axis=-1):
        """Return valid operands for rows along `axis` of an array of `shape`."""
        return self.from_rows(
            rng.normal(0, 3, shape).astype(dtype), rng.random(shape).astype(dtype), axis
        )

    def call(self, fs, operands, **options):
        """Return the results as a tuple, whether there is one or more."""
        results = getattr(fs, self.name)(*operands, **options)
        return results if isinstance(results, tuple) else (results,)

    def of_rows(self, fs, x, y, axis=-1, **options):
        """Compute all there is from rows `x` and as many numbers `y` from 0 to 1, as one array.

        Results follow each other along `axis`; of one for each row, that axis has length 1.
        """
        options = {**self.given(y, axis), **options}
        if self.axes != "none":
            options["axis"] = axis
        if "return_grad" in self.options:
            options["return_grad"] = True
        return self.joined(self.call(fs, self.from_rows(x, y, axis), **options), x, axis)

    def joined(self, results, x, axis=-1):
        """Return the results of rows `x` as one array: see `of_rows`."""
        found = []
        for result in results:
            if self.axes == "none":
                found.append(np.moveaxis(self._rows_of(result, np.moveaxis(x, axis, -1)), -1, axis))
            else:
                flat = np.ndim(result) < x.ndim
                found.append(np.expand_dims(result, axis) if flat else result)
        return np.concatenate(found, axis)

    def _rows_of(self, result, rows):
        """Return the results of segments, each of them a row again."""
        shape = rows.shape if self.keeps_shape else (*rows.shape[:-1], 1)
        heads = 1 if result.ndim == 1 else result.shape[1]
        return result.reshape(-1, shape[-1], heads).swapaxes(1, 2).reshape(shape)

    def with_option(self, label, given):
        """Return this function with options always given, made of numbers `y` and the axes."""
        return replace(
            self, label=f"{self.label} with {label}", given=lambda y, axis=-1: given(y, axis)
        )


_SHARED = ("out", "workers")
_OF_X = ("where", "dtype", *_SHARED)
_OF_ENTROPY = (
    *(*_OF_X, "temperature", "sample_weight", "ignore_index", "label_smoothing", "return_grad"),
)

SOFTMAX = Function("softmax", "softmax", ("x",), (*_OF_X, "temperature"), "several", True, _only_x)
LOG_SOFTMAX = replace(SOFTMAX, label="log_softmax", name="log_softmax")
LOGSUMEXP = Function(
    "logsumexp",
    "logsumexp",
    ("x",),
    (*_OF_X, "b", "keepdims", "return_sign"),
    "several",
    False,
    _only_x,
)
SOFTMAX_BACKWARD = Function(
    "softmax_backward",
    "softmax_backward",
    ("grad_output", "output"),
    _SHARED,
    "several",
    True,
    _both,
)
LOG_SOFTMAX_BACKWARD = replace(
    SOFTMAX_BACKWARD,
    label="log_softmax_backward",
    name="log_softmax_backward",
    options=("where", *_SHARED),
)
ENTROPY_OF_LABELS = Function(
    "softmax_cross_entropy of class indices",
    "softmax_cross_entropy",
    ("logits", "labels"),
    _OF_ENTROPY,
    "one",
    False,
    _class_indices,
)
ENTROPY_OF_TARGETS = replace(
    ENTROPY_OF_LABELS, label="softmax_cross_entropy of probabilities", from_rows=_both
)
SEGMENT_SOFTMAX = Function(
    "segment_softmax",
    "segment_softmax",
    ("data", "indptr"),
    (*_SHARED, "temperature"),
    "none",
    True,
    _segments,
)
SEGMENT_LOG_SOFTMAX = replace(
    SEGMENT_SOFTMAX, label="segment_log_softmax", name="segment_log_softmax"
)
SEGMENT_LOGSUMEXP = replace(
    SEGMENT_SOFTMAX,
    label="segment_logsumexp",
    name="segment_logsumexp",
    options=_SHARED,
    keeps_shape=False,
)

GRADIENTS = (SOFTMAX_BACKWARD, LOG_SOFTMAX_BACKWARD)
ENTROPIES = (ENTROPY_OF_LABELS, ENTROPY_OF_TARGETS)
SEGMENTS = (SEGMENT_SOFTMAX, SEGMENT_LOG_SOFTMAX, SEGMENT_LOGSUMEXP)
FUNCTIONS = (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, *GRADIENTS, *ENTROPIES, *SEGMENTS)


# Options of the rows that `y`, numbers from 0 to 1, may stand for: made of it without rounding, which
# some tests have changed.


def _where(y, _axis):
    return {"where": y > 0.25}


def _temperature_a_row(y, axis):
    return {"temperature": y.max(axis, keepdims=True, initial=0.25)}


def _of_a_loss(y, axis):
    """All that losses may have: the weights are of either sign, some classes are left out."""
    largest = y.max(axis, initial=0)
    weights = np.where(largest > 0.75, -largest, largest)
    return {
        **_where(y, axis),
        **_temperature_a_row(y, axis),
        "sample_weight": weights,
        "label_smoothing": 0.1,
    }


def _weights_of_terms(y, axis):
    """Of either sign, some of them 0 and some left out."""
    b = np.where(y > 0.875, 0, y - 0.5).astype(y.dtype)
    return {**_where(y, axis), "b": b, "return_sign": True}


CALLS = (
    *FUNCTIONS,
    SOFTMAX.with_option("where", _where),
    SOFTMAX.with_option("a temperature a row", _temperature_a_row),
    LOG_SOFTMAX.with_option("a temperature", lambda *_: {"temperature": 0.7}),
    LOG_SOFTMAX.with_option("a temperature a row", _temperature_a_row),
    LOGSUMEXP.with_option("where", _where),
    LOGSUMEXP.with_option("b", _weights_of_terms),
    LOG_SOFTMAX_BACKWARD.with_option("where", _where),
    ENTROPY_OF_LABELS.with_option(
        "all options", lambda *rows: {**_of_a_loss(*rows), "ignore_index": 1}
    ),
    replace(ENTROPY_OF_TARGETS, from_rows=_kept_probabilities).with_option(
        "all options", _of_a_loss
    ),
    ENTROPY_OF_TARGETS.with_option("smoothing", lambda *_: {"label_smoothing": 0.1}),
    replace(SEGMENT_SOFTMAX, from_rows=_segments_of_heads).with_option(
        "heads and a temperature", lambda *_: {"temperature": 0.7}
    ),
    replace(SEGMENT_LOGSUMEXP, from_rows=_segments_of_heads).with_option("heads", lambda *_: {}),
)
EVERY_OPTION = tuple(sorted({option for function in FUNCTIONS for option in function.options}))
"""The keywords of any function, most of which are no keyword of another."""
