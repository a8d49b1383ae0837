"""Inputs of the cells: logits of classifiers fitted on bundled data first, random ones second.

Every maker takes a shape and returns float64; the same name and shape always give the same values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from .cases import Case

Array = np.ndarray[Any, np.dtype[Any]]

SEED = 20240229

REPEATED_ELEMENTS = 1 << 23
"""Random elements of which larger arrays are made: fresh ones would take longer than the timing."""


@dataclass(frozen=True)
class Data:
    """The arguments of one cell."""

    x: Array
    """The logits; the forward result for the backward functions."""
    grad_output: Array | None = None
    labels: Array | None = None
    where: Array | None = None
    indptr: Array | None = None
    values: list[float] | None = None
    """The logits as a list, if the caller has a list."""
    arrays: dict[str, Array] = field(default_factory=dict)
    """Further arguments, by name."""

    @property
    def given(self) -> Any:
        """The logits as the caller has them."""
        return self.x if self.values is None else self.values


def normal(shape: tuple[int, ...]) -> Array:
    """Return N(0, 3) logits, the spread of a trained classifier's."""
    return np.random.default_rng(SEED).normal(0.0, 3.0, shape)


@cache
def _labelled(name: str) -> tuple[Array, Array]:
    """Return the wines or the digits; or these in 46 clusters: no bundled data has 46 classes."""
    from sklearn import cluster, datasets, preprocessing

    if name == "wine":
        features, labels = datasets.load_wine(return_X_y=True)
        return preprocessing.scale(features), labels
    pixels, labels = datasets.load_digits(return_X_y=True)
    if name == "clusters":
        labels = cluster.KMeans(46, n_init=1, random_state=0).fit_predict(pixels)
    return pixels / 16.0, labels


@cache
def _logistic(name: str, **options: float) -> Array:
    """Return the logits of a logistic regression fitted on labelled data."""
    from sklearn.linear_model import LogisticRegression

    features, labels = _labelled(name)
    model = LogisticRegression(**options).fit(features, labels)
    return np.asarray(model.decision_function(features))


@cache
def _discriminant(name: str) -> Array:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    # Shrinkage because some pixels are always 0, which makes the covariance singular.
    features, labels = _labelled(name)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(features, labels)
    return np.asarray(model.decision_function(features))


def digits(shape: tuple[int, ...]) -> Array:
    """Return logits of a logistic regression fitted on scikit-learn's digits, repeated."""
    return np.resize(_logistic("digits", max_iter=200), shape)


def attention(shape: tuple[int, ...]) -> Array:
    """Return q.k / sqrt(d) of digit images as tokens, under random projections per head."""
    batch, heads, queries, keys = shape
    width = 32
    pixels, _ = _labelled("digits")
    tokens = np.resize(pixels, (batch, 1, max(queries, keys), pixels.shape[1]))
    weights = np.random.default_rng(SEED).normal(0.0, 0.35, (2, heads, pixels.shape[1], width))
    q = tokens[:, :, :queries] @ weights[0]
    k = tokens[:, :, :keys] @ weights[1]
    return np.asarray(q @ k.swapaxes(-1, -2) / np.sqrt(width))


def vocabulary(shape: tuple[int, ...]) -> Array:
    """Return logits as a language model has them: a broad bulk and a few likely tokens."""
    rng = np.random.default_rng(SEED)
    logits = rng.normal(-2.0, 2.5, shape)
    likely = rng.integers(0, shape[-1], 40)
    logits[..., likely] += rng.gamma(4.0, 2.5, 40)
    return logits


SOURCES: dict[str, Callable[[tuple[int, ...]], Array]] = {
    "normal": normal,
    # Small whole numbers, of which a quarter are 0.
    "counts": lambda shape: np.floor(abs(normal(shape))),
    "digits": digits,
    # The same as a quantised network has them: whole numbers of eighths, within int8.
    "eighths": lambda shape: np.rint(8 * digits(shape)),
    # Logistic regressions on scikit-learn's wines, and on 46 clusters of its digits.
    "wine": lambda shape: np.resize(_logistic("wine", max_iter=200), shape),
    "clusters46": lambda shape: np.resize(_logistic("clusters", max_iter=100, tol=1e-2), shape),
    # Scores of a linear discriminant over the same clusters: they range over hundreds.
    "discriminant46": lambda shape: np.resize(_discriminant("clusters"), shape),
    "attention": attention,
    "vocabulary": vocabulary,
}
"""Makers of logits."""


def _padded(x: Array) -> Array:
    """Return rows that are the first part of longer ones, a multiple of 64."""
    n = x.shape[-1]
    longer = np.zeros((*x.shape[:-1], -(-n // 64) * 64), x.dtype)
    longer[..., :n] = x
    return longer[..., :n]


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": np.ascontiguousarray,
    "strided": _padded,
    "Fortran": np.asfortranarray,
    "list": np.ascontiguousarray,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
}


def _row_pointers(case: Case) -> Array:
    """Return pointers to ragged rows of up to twice their mean length; to edges, seven a node."""
    rng, elements, mean = np.random.default_rng(SEED), case.shape[0], case.mean_length
    if len(case.shape) == 1:
        lengths = rng.integers(int(mean > 1), 2 * mean + (mean == 1), elements + 1)
    else:
        lengths = rng.geometric(1 / 7, elements)
    pointers = np.concatenate(([0], np.cumsum(lengths)))
    pointers = pointers[pointers < elements]
    return np.concatenate((pointers, [elements])).astype(np.int64)


def _logits(case: Case) -> Array:
    maker, shape = SOURCES[case.source], case.shape
    if maker is normal and len(shape) == 2 and case.elements > REPEATED_ELEMENTS:
        rows = REPEATED_ELEMENTS // shape[1]
        return np.resize(maker((rows, shape[1])).astype(case.dtype), shape)
    return LAYOUTS[case.layout](maker(shape).astype(case.dtype))


def _weights(case: Case, rng: np.random.Generator) -> Array:
    """Return a mixture's weights, or those of a difference where its sign is asked for."""
    weights = rng.dirichlet(np.ones(case.row_length))
    if case.option("return_sign"):
        weights[::3] *= -1
    return weights


ARRAYS: dict[str, Callable[[Case, np.random.Generator], Array]] = {
    # What requests ask for, one a row: from nearly greedy to above 1.
    "temperature": lambda case, rng: rng.choice((0.2, 0.7, 0.8, 1.0, 1.3), (case.shape[0], 1)),
    # Advantages, of either sign, one a row.
    "sample_weight": lambda case, rng: rng.normal(0.0, 1.0, case.shape[0]),
    "b": _weights,
}
"""Makers of further arguments."""


def _mask(case: Case, rng: np.random.Generator) -> Array:
    """Return a causal mask of attention scores; of rows otherwise, about half of each."""
    if len(case.shape) == 4:
        return np.broadcast_to(np.tri(case.shape[-2], case.shape[-1]) == 1, case.shape)
    return rng.random(case.shape) < 0.5


def _labels(case: Case, rng: np.random.Generator) -> Array:
    if case.labels == "probabilities":
        teacher = rng.dirichlet(np.ones(case.shape[-1]), case.shape[:-1])
        return teacher.astype(case.dtype)
    labels = rng.integers(0, case.shape[-1], case.shape[:-1])
    ignored = case.option("ignore_index")
    if ignored is not None:
        labels[::4] = ignored
    return labels


def make(case: Case) -> Data:
    """Return the arguments of a cell."""
    x = _logits(case)
    rng = np.random.default_rng(SEED + 1)
    if case.function.endswith("_backward"):
        grad_output = rng.normal(0.0, 1.0, case.shape).astype(case.dtype)
        where = _mask(case, rng) if case.where else None
        return Data(_forward(case, x, where), grad_output=grad_output, where=where)
    if case.function.startswith("segment"):
        return Data(x, indptr=_row_pointers(case))
    return around(case, x, rng)


def around(case: Case, x: Array, rng: np.random.Generator) -> Data:
    """Return logits with what else the call of a cell takes."""
    labels = _labels(case, rng) if case.function == "softmax_cross_entropy" else None
    where = _mask(case, rng) if case.where else None
    if where is not None and labels is not None:
        where[np.arange(len(labels)), labels] = True
    arrays = {name: ARRAYS[name](case, rng).astype(case.dtype) for name in case.arrays}
    values = x.tolist() if case.layout == "list" else None
    return Data(x, labels=labels, where=where, values=values, arrays=arrays)


def _forward(case: Case, x: Array, where: Array | None) -> Array:
    """Return the correctly rounded forward result that a backward cell starts from."""
    from .exact import exact_log_softmax, exact_softmax

    forward = exact_log_softmax if case.function.startswith("log") else exact_softmax
    kept = np.ones(x.shape, bool) if where is None else where
    parts = zip(np.array_split(x, 8), np.array_split(kept, 8), strict=True)
    return np.concatenate([forward(*part).astype(case.dtype) for part in parts if len(part[0])])
