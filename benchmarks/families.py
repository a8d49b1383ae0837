"""Families of rows: the same in every run, or with random parameters, to search among."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .inputs import Array

Random = np.random.Generator
Maker = Callable[[Random, int, int, str], Array]
"""From a generator, a number of rows, a length and a dtype."""

SHORT = (2, 3, 4, 5, 8, 17)
BORDERS = (
    1, 2, 8, 9, 12, 13, 15, 16, 17, 23, 24, 46, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256,
    257, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193,
)  # fmt: skip
"""Row lengths at which another kernel, block or tail takes over, and their neighbours."""
LONG = (1 << 15, 1 << 16, 1 << 17, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 1 << 19, 1 << 20)
HEIGHTS = (1, 2, 8, 16, 53, 256)
"""Rows in one call."""
CUTS = {
    "float16": (9.7, 17.33, 104.25),
    "float32": (87.336, 103.97, 104.25, 126.0),
    "float64": (708.396, 744.44, 745.5, 767.0),
}
"""Distances from the maximum where results turn subnormal or 0, or are left out of the sum."""


def _log_uniform(rng: Random, low: float, high: float, size: Any = None) -> Any:
    return np.exp(rng.uniform(math.log(low), math.log(high), size))


def _below(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return a distance below the maximum for each row.

    It is near it, near a cut-off, between, or where n elements weigh about as much as the maximum.
    """
    cuts = np.array(CUTS[dtype])
    return np.choose(
        rng.choice(4, (rows, 1), p=(0.25, 0.2, 0.2, 0.35)),
        [
            rng.uniform(0, 25, (rows, 1)),
            rng.choice(cuts, (rows, 1)) + rng.uniform(-4, 4, (rows, 1)),
            rng.uniform(0, cuts[-1], (rows, 1)),
            np.maximum(math.log(n) + rng.normal(0, 1.5, (rows, 1)), 0),
        ],
    )


def _dominant(rng: Random, rows: int, n: int, dtype: str) -> Array:
    x = rng.normal(0, 1, (rows, n)) * _log_uniform(rng, 1e-3, 5, (rows, 1))
    x[np.arange(rows), rng.integers(0, n, rows)] += _below(rng, rows, n, dtype)[:, 0]
    return x


def _plateau(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return one element, and all others equal."""
    x = np.repeat(-_below(rng, rows, n, dtype), n, axis=1)
    x[np.arange(rows), rng.integers(0, n, rows)] = 0
    return x


def _periodic(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return two or three values in turn, each for some elements, below one maximum."""
    period = rng.choice((2, 8, 16, 64))
    values = [-_below(rng, rows, n, dtype) for _ in range(rng.integers(2, 4))]
    turns = np.arange(n) // max(1, period // len(values)) % len(values)
    x = np.concatenate(values, axis=1)[:, turns]
    x[:, rng.integers(0, n)] = 0
    return x


def _half_steps(rng: Random, rows: int, n: int, _: str) -> Array:
    """Return arguments where the reduced one is largest, and their neighbours."""
    steps = rng.integers(-300, 300, (rows, n)) + 0.5
    near = 1 + rng.normal(0, 1, (rows, n)) * _log_uniform(rng, 1e-16, 1e-3, (rows, 1))
    return steps * (math.log(2) / rng.choice((4, 8))) * near


def _random_bits(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return any bit pattern of which more than one element may contribute."""
    width = np.dtype(dtype).itemsize
    x = rng.integers(0, 1 << 8 * width, (rows, n), f"u{width}", endpoint=False).view(dtype)
    most = _log_uniform(rng, 1e-2, 1e3)
    return np.where(abs(x) < most, x, rng.uniform(-most, most, (rows, n)))


def _subnormal_inputs(rng: Random, rows: int, n: int, dtype: str) -> Array:
    return rng.uniform(-1, 1, (rows, n)) * float(np.finfo(dtype).smallest_normal)


def _near_a_cut(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return elements at a cut-off below the maximum, a few ulps from it, or a little more."""
    info, cut = np.finfo(dtype), rng.choice(CUTS[dtype])
    off = rng.normal(0, 1, (rows, n)) * _log_uniform(rng, cut * float(info.eps), 4, (rows, n))
    x = np.where(rng.random((rows, n)) < 0.3, -cut, -cut + off)
    x[:, rng.integers(0, n)] = 0
    return x


def _small_sum(rng: Random, rows: int, n: int, _: str) -> Array:
    """Return rows whose logsumexp is near 0, near the maximum's opposite, or in between.

    The maximum is -A and the others' weights add up to e^(f A) - 1.
    """
    a = _log_uniform(rng, 1e-4, 4, (rows, 1))
    f = np.where(rng.random((rows, 1)) < 0.3, rng.choice((1, 2), (rows, 1)), 0)
    f = np.where(f == 0, rng.uniform(0, 3, (rows, 1)), f + rng.normal(0, 1e-3, (rows, 1)))
    return -a + _others(rng, rows, n, np.expm1(np.minimum(a * f, 3)))


def _log_below_a_power(rng: Random, rows: int, n: int, _: str) -> Array:
    """Return rows whose log1p(rest) lies just below a power of two."""
    power = np.exp2(rng.integers(-12, 2, (rows, 1)).astype(float))
    log = power * (1 - _log_uniform(rng, 1e-6, 0.2, (rows, 1)))
    sign = rng.choice((-1, 0, 1), (rows, 1))
    return sign * _log_uniform(rng, 1e-3, 10, (rows, 1)) + _others(rng, rows, n, np.expm1(log))


def _others(rng: Random, rows: int, n: int, rest: Array) -> Array:
    """Return a 0 and n - 1 elements whose weights add up to `rest`, if they may."""
    shares = rng.dirichlet(np.full(max(1, n - 1), _log_uniform(rng, 0.1, 10)), rows)
    with np.errstate(divide="ignore"):
        others = np.log(np.clip(rest, 1e-300, max(1, n - 1)) * np.maximum(shares, 1e-300))
    return np.concatenate((np.zeros((rows, 1)), np.minimum(others, 0)), axis=1)[:, :n]


def _ends(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return the format's largest numbers, parts of them, the smallest, and the next ones."""
    info = np.finfo(dtype)
    shares = np.append((1, -1, 0.5, -0.5), rng.uniform(-1, 1, 20))
    least = [0, float(info.tiny), float(info.smallest_subnormal)]
    values = np.append(shares * float(info.max), least).astype(dtype)
    x = rng.choice(np.append(values, np.nextafter(values, values.dtype.type(0))), (rows, n))
    if rng.random() < 0.5:
        x[:, rng.integers(0, n)] = info.max
    return np.minimum(x, 0) if rng.random() < 0.3 else x


MAKERS: dict[str, Maker] = {
    "normal": lambda rng, rows, n, _: (
        rng.normal(0, 1, (rows, n)) * _log_uniform(rng, 1e-3, 1e3, (rows, 1))
    ),
    "uniform": lambda rng, rows, n, _: (
        rng.uniform(-1, 1, (rows, n)) * _log_uniform(rng, 1e-3, 1e3, (rows, 1))
    ),
    "one dominant": _dominant,
    "one and all others equal": _plateau,
    "periodic": _periodic,
    "half steps": _half_steps,
    "random bits": _random_bits,
    "subnormal inputs": _subnormal_inputs,
    "near a cut-off": _near_a_cut,
    "small sum": _small_sum,
    "log just below a power of two": _log_below_a_power,
    "ends of the format": _ends,
}
REPETITIVE = ("one and all others equal", "periodic")


def _moved(rng: Random, x: Array) -> Array:
    """Move rows to another maximum: the switch to a shift, its neighbours, or far away."""
    size = rng.choice((0.0, 4096.0, 1e4, 1e6, 1e30, 1.0))
    spread = 0.0 if rng.random() < 0.3 else _log_uniform(rng, 1e-3, 30)
    top = size * rng.choice((-1, 1), (len(x), 1)) + rng.normal(0, spread, (len(x), 1))
    with np.errstate(over="ignore"):  # of rows from one end of the format to the other
        return x - x.max(axis=-1, keepdims=True) + top


def length(rng: Random, *, is_long: bool) -> int:
    """Return a row length: mostly a few elements."""
    if is_long:
        return int(rng.choice(LONG, p=(0.2, 0.15, 0.15, 0.1, 0.2, 0.1, 0.06, 0.04)))
    kind = rng.random()
    if kind < 0.6:
        return int(rng.choice(SHORT))
    return int(rng.choice(BORDERS)) if kind < 0.8 else int(_log_uniform(rng, 1, 1 << 13))


def rows(rng: Random, dtype: str, most: int, *, is_long: bool) -> tuple[Array, str]:
    """Return rows of one length, of `most` elements if more than one row, and their family."""
    n = length(rng, is_long=is_long)
    height = max(1, min(int(rng.choice(HEIGHTS)), most // n))
    names = REPETITIVE if is_long and rng.random() < 0.7 else tuple(MAKERS)
    name = str(rng.choice(names))
    x = MAKERS[name](rng, height, n, dtype)
    if name not in ("small sum", "log just below a power of two") and rng.random() < 0.5:
        x = _moved(rng, x)
    largest = float(np.finfo(dtype).max)
    x = np.clip(x, -largest, largest)
    if rng.random() < 0.1:
        dropped = rng.random(x.shape) < rng.random()
        dropped[np.arange(height), x.argmax(axis=-1)] = False
        x, name = np.where(dropped, -np.inf, x), f"{name}, masked by -inf"
    return np.ascontiguousarray(x, dtype), name


# ---- the same rows in every run: of the tables of accuracy, and of the tests ----


@dataclass(frozen=True)
class Family:
    """Rows of one kind."""

    make: Maker
    lengths: tuple[int, ...] = (2, 10, 100, 1000)
    rows: int = 40

    def inputs(self, dtype: str) -> Iterator[Array]:
        """Yield rows of each length."""
        rng = np.random.default_rng(20)
        for n in self.lengths:
            with np.errstate(over="ignore"):
                yield np.ascontiguousarray(self.make(rng, self.rows, n, dtype), dtype)


def _of_spread(sigma: float) -> Maker:
    return lambda rng, rows, n, _: rng.normal(0, sigma, (rows, n))


def _within(half: float) -> Maker:
    return lambda rng, rows, n, _: rng.uniform(-half, half, (rows, n))


def _offset(size: float) -> Maker:
    return lambda rng, rows, n, _: (
        np.where(np.arange(rows) % 2, -size, size)[:, None] + rng.normal(0, 5, (rows, n))
    )


def _equal(rng: Random, rows: int, n: int, _: str) -> Array:
    return np.repeat(rng.normal(0, 50, (rows, 1)), n, axis=1)


def _ladder(rng: Random, rows: int, n: int, _: str) -> Array:
    return -np.geomspace(1e-6, 80, n) * rng.uniform(0.5, 1, (rows, 1))


def _masked(value: float) -> Maker:
    def make(rng: Random, rows: int, n: int, _: str) -> Array:
        x = rng.normal(0, 3, (rows, n))
        dropped = rng.random((rows, n)) < 0.4
        dropped[:, n // 2] = False
        return np.where(dropped, value, x)

    return make


def _subnormal_results(rng: Random, rows: int, n: int, dtype: str) -> Array:
    floor = -103.0 if dtype == "float32" else -744.0
    x = rng.uniform(floor, floor + 18, (rows, n))
    x[:, n // 2] = 0
    return x


def _smallest_results(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return one large element, and the smallest and the next results that are not 0."""
    x = np.log(float(np.finfo(dtype).smallest_subnormal)) + rng.uniform(-1, 3, (rows, n))
    x[:, 0] = 0
    return x


def _any_bits(rng: Random, rows: int, n: int, dtype: str) -> Array:
    """Return any finite bit pattern."""
    width = np.dtype(dtype).itemsize
    x = rng.integers(0, 1 << 8 * width, (rows, n), f"u{width}", endpoint=False).view(dtype)
    return np.where(np.isfinite(x), x, 1)


def _around_the_switch(rng: Random, rows: int, n: int, _: str) -> Array:
    """Return the largest elements on either side of where the maximum is subtracted first."""
    sign = np.where(np.arange(rows) % 2, -1, 1)[:, None]
    x = 4096 * sign + rng.normal(0, 1e-3, (rows, 1)) - abs(rng.normal(0, 20, (rows, n)))
    x[:, n // 3] = 4096 * sign[:, 0]
    return x


_EVERY, _POWERS = tuple(range(1, 301)), tuple(1 << k for k in range(18))
FAMILIES = {
    **{f"normal, σ = {sigma}": Family(_of_spread(sigma)) for sigma in (0.1, 1, 3, 10, 30, 100)},
    **{f"uniform, ±{half}": Family(_within(half)) for half in (40, 350, 700)},
    **{f"offset by ±{size:g}": Family(_offset(size)) for size in (1e4, 1e30)},
    "one dominant logit": Family(_dominant),
    "all equal": Family(_equal),
    "geometric ladder": Family(_ladder),
    "masked by −inf": Family(_masked(-np.inf)),
    "masked by −1e9": Family(_masked(-1e9)),
    "subnormal inputs": Family(_subnormal_inputs),
    "subnormal results": Family(_subnormal_results),
    "the smallest results": Family(_smallest_results),
    "random bits": Family(_any_bits),
    "random bits of moderate size": Family(_random_bits),
    "half steps of the reduction": Family(_half_steps),
    "around the switch to a shift": Family(_around_the_switch),
    "every length to 300": Family(_of_spread(3), _EVERY, rows=2),
    "powers of two to 2^17": Family(_of_spread(3), _POWERS, rows=1),
    "powers of two to 2^17, uniform": Family(_within(40), _POWERS, rows=1),
}
SLOW = {
    "rows of 2^18 to 2^20, normal": Family(_of_spread(3), (1 << 18, 1 << 19, 1 << 20), rows=1),
    "rows of 2^18 to 2^20, equal": Family(_equal, (1 << 18, (1 << 20) - 1, 1 << 20), rows=1),
    "many short rows": Family(_of_spread(4), (2, 3, 5, 17), rows=40000),
    "many short rows, uniform": Family(_within(80), (2, 3, 5, 17), rows=40000),
}
"""What takes long enough that the tests leave it to a slow run."""
