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


def _segments(x, _y, axis):
    """Lay the rows one after the other: a view of `x` where they lie so."""
    rows = np.moveaxis(x, axis, -1)
    return rows.reshape(-1), np.arange(0, x.size + 1, rows.shape[-1])


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
    given: Callable[..., dict] = lambda _: {}
    """The options that are always given, made of the second of these arrays."""

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
        options = {**self.given(y), **options}
        if self.axes != "none":
            options["axis"] = axis
        if "return_grad" in self.options:
            options["return_grad"] = True
        results = []
        for result in self.call(fs, self.from_rows(x, y, axis), **options):
            if self.axes == "none":
                rows = result.reshape(np.moveaxis(x, axis, -1).shape)
                results.append(np.moveaxis(rows, -1, axis))
            else:
                flat = np.ndim(result) < x.ndim
                results.append(np.expand_dims(result, axis) if flat else result)
        return np.concatenate(results, axis)

    def with_option(self, label, given):
        return replace(self, label=f"{self.label} with {label}", given=given)


_SHARED = ("out", "workers")
_OF_X = ("where", "dtype", *_SHARED)
_OF_ENTROPY = ("label_smoothing", "return_grad", "workers")

SOFTMAX = Function("softmax", "softmax", ("x",), (*_OF_X, "temperature"), "several", True, _only_x)
LOG_SOFTMAX = replace(SOFTMAX, label="log_softmax", name="log_softmax")
LOGSUMEXP = Function(
    "logsumexp", "logsumexp", ("x",), (*_OF_X, "keepdims"), "several", False, _only_x
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
    "segment_softmax", "segment_softmax", ("data", "indptr"), _SHARED, "none", True, _segments
)

FUNCTIONS = (
    SOFTMAX,
    LOG_SOFTMAX,
    LOGSUMEXP,
    SOFTMAX_BACKWARD,
    LOG_SOFTMAX_BACKWARD,
    ENTROPY_OF_LABELS,
    ENTROPY_OF_TARGETS,
    SEGMENT_SOFTMAX,
)
CALLS = (
    *FUNCTIONS,
    SOFTMAX.with_option("where", lambda y: {"where": y > 0.25}),
    LOG_SOFTMAX.with_option("a temperature", lambda _: {"temperature": 0.7}),
    LOGSUMEXP.with_option("where", lambda y: {"where": y > 0.25}),
    LOG_SOFTMAX_BACKWARD.with_option("where", lambda y: {"where": y > 0.25}),
    ENTROPY_OF_TARGETS.with_option("smoothing", lambda _: {"label_smoothing": 0.1}),
)
GRADIENTS = (SOFTMAX_BACKWARD, LOG_SOFTMAX_BACKWARD)
EVERY_OPTION = tuple(sorted({option for function in FUNCTIONS for option in function.options}))
"""The keywords of any function, most of which are no keyword of another."""
