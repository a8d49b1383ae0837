"""The rows that the golden hashes are taken over, the same on every machine.

Made from integers by a generator of our own and by exact scaling, without NumPy's generators (whose
streams may change) or any function of a C library (whose last bits may differ).
"""

import itertools
from dataclasses import dataclass

import numpy as np

FUNCTIONS = ("softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward")
"""In the order of enum fsm_function."""
LONG = FUNCTIONS[:3]
"""Those of which threads share a row."""
ENTROPY = ("cross_entropy_of_labels", "cross_entropy_of_targets")
WEIGHTED = "logsumexp_with_weights"
DTYPES = ("float32", "float64", "float16", "bfloat16")
"""In the order of enum fsm_dtype."""
UNSIGNED = {"float32": "u4", "float64": "u8", "float16": "u2", "bfloat16": "u2"}
TEMPERATURES = (1.0, 0.7, 3e-3, 250.0)
OF_LOSSES = tuple({"temperature": 0.7, "weight": -0.75, "smoothing": s} for s in (0.0, 0.1))


@dataclass
class Record:
    """Rows of one length for one function."""

    function: str
    dtype: str
    x: np.ndarray
    """Rows in the dtype; bfloat16 as its bits."""
    second: np.ndarray | None
    """The operand of a gradient, labels, targets, or weights of a logsumexp."""
    temperature: float = 1.0
    smoothing: float = 0.0
    weight: float = 1.0
    """The factor of losses and their gradients."""
    family: str = ""
    """Of rows whose hash is by itself."""

    @property
    def key(self):
        return " ".join(filter(None, (self.function, self.dtype, self.family)))

    @property
    def header(self):
        """What tests/c/bits.c reads before the operands."""
        function = (*FUNCTIONS, *ENTROPY, WEIGHTED).index(self.function)
        numbers = np.array([function, DTYPES.index(self.dtype), *self.x.shape], np.int64)
        return (
            numbers.tobytes() + np.array([self.temperature, self.smoothing, self.weight]).tobytes()
        )

    @property
    def result_size(self):
        rows, n = self.x.shape
        elements = {"logsumexp": rows, WEIGHTED: 2 * rows}.get(self.function, rows * n)
        return self.x.itemsize * (elements + rows * (self.function in ENTROPY))


class Source:
    """The splitmix64 generator (Steele, Lea, Flood 2014), whole arrays at a time."""

    def __init__(self, seed):
        self.state = seed

    def integers(self, shape):
        count = int(np.prod(shape))
        with np.errstate(over="ignore"):
            z = np.uint64(self.state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
            self.state = int(z[-1]) if count else self.state
            z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return (z ^ z >> np.uint64(31)).reshape(shape)

    def bits(self, shape, dtype):
        """Any bit patterns."""
        width = np.dtype(UNSIGNED[dtype]).itemsize * 8
        return (self.integers(shape) >> np.uint64(64 - width)).astype(UNSIGNED[dtype])

    def uniform(self, shape, exponent):
        """Multiples of 2^(exponent - 52) between -2^exponent and 2^exponent."""
        return np.ldexp(
            (self.integers(shape).view(np.int64) >> 11).astype(np.float64), exponent - 52
        )

    def chance(self, shape, eighths):
        return (self.integers(shape) >> np.uint64(61)) < np.uint64(eighths)


def _adversarial(source, rows, n, wide):
    """Yield float64 rows that kernels get wrong; `wide` says for which of the two formats."""
    half_exponent, floor, beyond = (9, 744, 900) if wide else (6, 103, 100)
    smallest = np.finfo(np.float64 if wide else np.float32).smallest_subnormal
    x = source.uniform((rows, n), 2)
    yield source.uniform((rows, n), half_exponent)
    yield x + np.ldexp(1.0, 13)
    yield x - np.ldexp(1.0, 100)
    yield source.uniform((rows, n), beyond)
    yield source.uniform((rows, n), -30)
    yield np.where(source.chance((rows, n), 3), -np.inf, x)
    yield np.where(source.chance((rows, n), 3), -1e9, x)
    yield np.repeat(source.uniform((rows, 1), 6), n, axis=1)
    yield np.where(source.chance((rows, n), 4), 0.0, -0.0)
    yield (source.integers((rows, n)) >> np.uint64(44)).astype(np.float64) * smallest
    tiny = source.uniform((rows, n), 3) - (floor - 7.75)
    tiny[:, n // 2] = 0
    yield tiny
    dominant = x.copy()
    dominant[:, -1] += 18
    yield dominant
    ladder = np.ldexp(-1.0, np.arange(n) % 24 - 16) * np.ones((rows, 1))
    yield ladder
    special = x.copy()
    special[0] = -np.inf
    special[1, n // 2] = np.inf
    special[2, 0] = np.nan
    special[3, -1], special[3, 0] = np.inf, -np.inf
    yield special


def thresholds(source, dtype, n):
    """Return rows whose maximum is ±4096 or a neighbour of that, at the first, last or any place.

    The digits of the other elements go beyond the spacing there, so that where a maximum is
    subtracted is seen in a result.
    """
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    up, down = 1 + 2.0**-bits, 1 - 2.0 ** -(bits + 1)
    tops = 4096 * np.array([1, up, down, -1, -up, -down])
    x = np.repeat(tops, 3)[:, np.newaxis] - 0.01 - 4 * abs(source.uniform((18, n), 2))
    for place, at in enumerate((0, n // 2, n - 1)):
        x[place::3, at] = tops
    return _in(dtype, x)


CUTS = (104.25, 126.0, 745.5, 767.0)
"""How far below the maximum an element weighs nothing: softmax, logarithms; float32, float64."""


def cuts(source, dtype, n):
    """Return rows with elements at a cut-off below the maximum, just above it and just below it."""
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    tops = np.repeat([0.0, 0.25, -0.25], 3 * len(CUTS))[:, np.newaxis]
    near = np.array([1, 1 + 2.0**-bits, 1 - 2.0**-bits])
    at = tops - np.tile(np.outer(CUTS, near).ravel(), 3)[:, np.newaxis]
    x = np.where(source.chance((len(tops), n), 4), at, at - abs(source.uniform((len(tops), n), 2)))
    x[:, n // 2] = at[:, 0]
    x[:, 0] = tops[:, 0]
    return _in(dtype, x)


def borders(source, dtype, n):
    """Return a row of numbers of one size, and one whose elements together weigh as the first."""
    x = source.uniform((1 if n > 1 << 16 else 2, n), 3)
    x[-1] = source.uniform((n,), -3) - np.frexp(n)[1] * 0.6931
    x[-1, 0] = 0
    return _in(dtype, x)


def long(source, dtype):
    """Return two rows that threads can share: one whose maximum rises from piece to piece."""
    n = (1 << 19) + 1030
    x = source.uniform((2, n), 3)
    x[1] += np.arange(n) >> 14
    return _in(dtype, x)


def _inputs(source, dtype):
    """Yield arrays of rows in the dtype (bfloat16: float32 to be rounded by its bits)."""
    for n in (*range(1, 301), 511, 512, 513, 1000, 4099, 20000):
        # Short rows in batches that kernels may take across, with a remainder.
        yield source.uniform((53 if n <= 17 else 2 if n < 300 else 1, n), 3)
    for n in (5, 33, 150, 700):
        yield from _adversarial(source, 53 if n == 5 else 4, n, dtype == "float64")


def _in(dtype, x):
    """Round to the dtype; bfloat16 as its bits, by cutting."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            return (x.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return x.astype(dtype)


def _finite(x):
    return np.where(np.isfinite(x), x, 0)


def _second(source, function, dtype, x):
    """Return what the function wants beside x."""
    if function == "softmax_backward":
        return _in(dtype, abs(source.uniform(x.shape, 0)))
    if function == "log_softmax_backward":
        return _in(dtype, -abs(source.uniform(x.shape, 4)))
    if function == "cross_entropy_of_labels":
        return (source.integers(len(x)) % np.uint64(x.shape[1])).astype(np.int64)
    if function == WEIGHTED:
        span = 8 if dtype == "float16" else 32
        exponents = (source.integers(x.shape) % np.uint64(2 * span)).astype(int) - span
        kept = np.where(source.chance(x.shape, 6), source.uniform(x.shape, 0), 0)
        return _in(dtype, np.ldexp(kept, exponents))
    if function == "cross_entropy_of_targets":
        kept = np.where(source.chance(x.shape, 5), source.uniform(x.shape, 0), 0)
        return _in(dtype, abs(kept))
    return None


def _options(function):
    """Return the options that a function's rows are computed with, one after the other."""
    if function in ENTROPY:
        return {}, {"smoothing": 0.1}
    tempered = TEMPERATURES if function in ("softmax", "log_softmax") else (1.0,)
    return tuple({"temperature": temperature} for temperature in tempered)


def records():
    """Return every record, in the order in which their results are hashed."""
    found = []
    for function, dtype in _functions_and_dtypes():
        source = Source(0x5EED)
        inputs = [_in(dtype, x) for x in _inputs(source, dtype)]
        # Arbitrary bits: infinities and NaNs of every kind among them.
        raw = [source.bits((8, n), dtype) for n in (1, 2, 7, 31, 200)]
        kind = UNSIGNED[dtype] if dtype == "bfloat16" else dtype
        inputs += [bits.view(kind) for bits in raw]
        found += _records_of(function, dtype, source, inputs)
    for function, dtype in _functions_and_dtypes():
        source = Source(0x4096)
        inputs = [thresholds(source, dtype, n) for n in (1, 2, 3, 10, 46, 300, 1000)]
        found += _records_of(function, dtype, source, inputs, "thresholds")
        inputs = [cuts(source, dtype, n) for n in (2, 3, 10, 46, 300, 1000)]
        found += _records_of(function, dtype, source, inputs, "cuts")
        if dtype in DTYPES[:2]:
            # Of chunks, of what is settled in a sum, of rows that are computed in pieces.
            inputs = [borders(source, dtype, n) for n in (257, 1024, 1025, 2049, 8193)]
            found += _records_of(function, dtype, source, inputs, "borders")
            inputs = [borders(source, dtype, (1 << 18) + 1)]
            found += itertools.islice(_records_of(function, dtype, source, inputs, "borders"), 1)
        if dtype in DTYPES[:2] and function in LONG:
            inputs = [long(source, dtype)]
            found += itertools.islice(_records_of(function, dtype, source, inputs, "long"), 2)
    return [*found, *_weighted_records()]


def _weighted_records():
    """Yield records with weights: of a logsumexp, and of losses at a temperature."""
    for function, dtype in (
        *((WEIGHTED, dtype) for dtype in DTYPES),
        *((function, dtype) for function in ENTROPY for dtype in DTYPES[:2]),
    ):
        source = Source(0xB)
        inputs = [
            _in(dtype, source.uniform((3, n), 3))
            for n in (*range(1, 20), 31, 46, 63, 64, 65, 127, 300, 513, 1000, 1025, 4099)
        ]
        inputs += [_in(dtype, x) for x in _adversarial(source, 4, 33, dtype == "float64")]
        options = ({},) if function == WEIGHTED else OF_LOSSES
        yield from _records_of(function, dtype, source, inputs, "weighted", options)


def _functions_and_dtypes():
    for function in (*FUNCTIONS, *ENTROPY):
        for dtype in DTYPES[:2] if function in ENTROPY else DTYPES:
            yield function, dtype


def _records_of(function, dtype, source, inputs, family="", options=None):
    for given in options or _options(function):
        for x in inputs:
            second = _second(source, function, dtype, x)
            yield Record(function, dtype, x, second, **given, family=family)
