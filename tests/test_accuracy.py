"""Right to a few ULP on any row: the bounds of README.md's section on accuracy, on every backend.

`python tests/test_accuracy.py` prints what is measured: for each function, dtype and backend the
family with the largest error, and the largest mean.
"""

import functools
import sys
from dataclasses import dataclass

import checkout  # noqa: F401
import mpmath
import numpy as np
import pytest

from benchmarks import search, worst_rows
from benchmarks.exact import (
    BOUND,
    BOUND_GRADIENT,
    BOUND_LOSS,
    BOUND_SUBNORMAL,
    IS_WIDER,
    exact_log_softmax,
    exact_logsumexp,
    exact_softmax,
    ulp_size,
)
from fastsoftmax import _api, _backend

MEAN_BOUND = 0.5
"""ULP, mean over the results of one family."""
SUM_BOUND = {"float32": 1.2e-7, "float64": 2.3e-16}
"""How far the sum of a row of softmax may be from 1."""

DTYPES = ("float32", "float64") if IS_WIDER else ("float32",)
FUNCTIONS = {
    "softmax": exact_softmax,
    "log_softmax": exact_log_softmax,
    "logsumexp": exact_logsumexp,
}


def normal(sigma):
    return lambda rng, rows, n, _: rng.normal(0, sigma, (rows, n))


def uniform(half):
    return lambda rng, rows, n, _: rng.uniform(-half, half, (rows, n))


def offset(size):
    def make(rng, rows, n, _):
        return np.where(np.arange(rows) % 2, -size, size)[:, None] + rng.normal(0, 5, (rows, n))

    return make


def dominant(rng, rows, n, _):
    x = rng.normal(0, 1, (rows, n))
    x[np.arange(rows), rng.integers(0, n, rows)] += rng.uniform(10, 40, rows)
    return x


def equal(rng, rows, n, _):
    return np.repeat(rng.normal(0, 50, (rows, 1)), n, axis=1)


def ladder(rng, rows, n, _):
    return -np.geomspace(1e-6, 80, n) * rng.uniform(0.5, 1, (rows, 1))


def masked(value):
    def make(rng, rows, n, _):
        x = rng.normal(0, 3, (rows, n))
        dropped = rng.random((rows, n)) < 0.4
        dropped[:, n // 2] = False
        return np.where(dropped, value, x)

    return make


def subnormal_inputs(rng, rows, n, info):
    return rng.uniform(-1, 1, (rows, n)) * float(info.tiny)


def subnormal_results(rng, rows, n, info):
    floor = -103.0 if info.bits == 32 else -744.0
    x = rng.uniform(floor, floor + 18, (rows, n))
    x[:, n // 2] = 0
    return x


def subnormal_everywhere(rng, rows, n, info):
    """One large element, and the smallest and the next results that are not 0."""
    limit = np.log(float(info.smallest_subnormal))
    x = limit + rng.uniform(-1, 3, (rows, n))
    x[:, 0] = 0
    return x


def random_bits(rng, rows, n, info):
    """Any finite bit pattern."""
    x = rng.integers(0, 1 << info.bits, (rows, n), f"u{info.bits // 8}", endpoint=False)
    x = x.view(info.dtype)
    return np.where(np.isfinite(x), x, 1)


def random_bits_of_moderate_size(rng, rows, n, info):
    """Any bit pattern of which more than one element may contribute."""
    x = random_bits(rng, rows, n, info)
    return np.where(abs(x) < 1e3, x, rng.normal(0, 3, (rows, n)))


def half_steps(rng, rows, n, _):
    """Arguments where the reduced one is largest: halves of ln2/8 and their neighbours."""
    k = rng.integers(-600, 600, (rows, n))
    return (k + 0.5) * (np.log(2) / 8) * (1 + rng.normal(0, 1e-7, (rows, n)))


def around_the_switch(rng, rows, n, _):
    """The largest elements on either side of where the maximum is subtracted first."""
    sign = np.where(np.arange(rows) % 2, -1, 1)[:, None]
    x = 4096 * sign + rng.normal(0, 1e-3, (rows, 1)) - abs(rng.normal(0, 20, (rows, n)))
    x[:, n // 3] = 4096 * sign[:, 0]
    return x


@dataclass(frozen=True)
class Family:
    """Rows of one kind."""

    make: object
    lengths: tuple = (2, 10, 100, 1000)
    rows: int = 40

    def inputs(self, dtype):
        rng = np.random.default_rng(20)
        info = np.finfo(dtype)
        for n in self.lengths:
            with np.errstate(over="ignore"):
                yield np.ascontiguousarray(self.make(rng, self.rows, n, info), dtype)


FAMILIES = {
    **{f"normal, σ = {sigma}": Family(normal(sigma)) for sigma in (0.1, 1, 3, 10, 30, 100)},
    **{f"uniform, ±{half}": Family(uniform(half)) for half in (40, 350, 700)},
    **{f"offset by ±{size:g}": Family(offset(size)) for size in (1e4, 1e30)},
    "one dominant logit": Family(dominant),
    "all equal": Family(equal),
    "geometric ladder": Family(ladder),
    "masked by −inf": Family(masked(-np.inf)),
    "masked by −1e9": Family(masked(-1e9)),
    "subnormal inputs": Family(subnormal_inputs),
    "subnormal results": Family(subnormal_results),
    "the smallest results": Family(subnormal_everywhere),
    "random bits": Family(random_bits),
    "random bits of moderate size": Family(random_bits_of_moderate_size),
    "half steps of the reduction": Family(half_steps),
    "around the switch to a shift": Family(around_the_switch),
    "every length to 300": Family(normal(3), tuple(range(1, 301)), rows=2),
    "powers of two to 2^17": Family(normal(3), tuple(1 << k for k in range(18)), rows=1),
    "powers of two to 2^17, uniform": Family(uniform(40), tuple(1 << k for k in range(18)), rows=1),
}
LONG = {
    "rows of 2^18 to 2^20, normal": Family(normal(3), (1 << 18, 1 << 19, 1 << 20), rows=1),
    "rows of 2^18 to 2^20, equal": Family(equal, (1 << 18, (1 << 20) - 1, 1 << 20), rows=1),
    "many short rows": Family(normal(4), (2, 3, 5, 17), rows=40000),
    "many short rows, uniform": Family(uniform(80), (2, 3, 5, 17), rows=40000),
}


@functools.cache
def cases(family, dtype, function):
    """Return inputs, exact results and the size that an ULP is taken of, for each length."""
    found = []
    for x in {**FAMILIES, **LONG}[family].inputs(dtype):
        exact = FUNCTIONS[function](x)
        size = abs(exact)
        if function == "logsumexp":  # it cancels near 0: an ULP of the larger term
            size = np.maximum(size, abs(x.max(axis=-1).astype(np.longdouble)))
        found.append((x, exact, size))
    return found


@dataclass
class Tally:
    """What the errors of one family come to."""

    largest: float = 0.0
    largest_subnormal: float = 0.0
    total: float = 0.0
    count: int = 0
    sum_error: float = 0.0
    flushed: int = 0
    unordered: int = 0
    argmax_lost: int = 0

    @property
    def mean(self):
        return self.total / max(1, self.count)

    def add(self, got, exact, size):
        info = np.finfo(got.dtype)
        wide = got.astype(np.longdouble)
        with np.errstate(invalid="ignore"):
            error = np.where(wide == exact, 0, abs(wide - exact))
            error /= ulp_size(size, got.dtype)
        assert not np.isnan(error).any(), "a NaN, or an infinity where there is none"
        with np.errstate(over="ignore"):  # an exact result beyond the format is infinite
            error = np.where(np.isinf(got) & (got == exact.astype(got.dtype)), 0, error)
        subnormal = (size < info.tiny) & (size > 0)
        rounds_up = np.longdouble(info.smallest_subnormal) * 0.75
        self.largest_subnormal = max(self.largest_subnormal, error[subnormal].max(initial=0))
        self.flushed += int(((got == 0) & (exact > rounds_up)).sum())
        self.largest = max(self.largest, error[~subnormal].max(initial=0))
        self.total += error[~subnormal].sum()
        self.count += int((~subnormal).sum())

    def add_distribution(self, x, got):
        """Take in what only a softmax promises."""
        sums = got.astype(np.longdouble).sum(axis=-1)
        self.sum_error = max(self.sum_error, abs(sums - 1).max())
        order = np.argsort(x, axis=-1, kind="stable")
        ranked = np.take_along_axis(got, order, -1)
        self.unordered += int((np.diff(ranked, axis=-1) < 0).sum())
        self.argmax_lost += int((ranked[:, -1] < got.max(axis=-1)).sum())


def tally(fs, function, dtype, family):
    found = Tally()
    for x, exact, size in cases(family, dtype, function):
        got = getattr(fs, function)(x)
        assert got.dtype == dtype
        found.add(got, exact, size)
        if function == "softmax":
            found.add_distribution(x, got)
    return found


def check(fs, function, dtype, family):
    found = tally(fs, function, dtype, family)
    assert found.largest <= BOUND[function]
    assert found.mean <= MEAN_BOUND
    if function == "softmax":
        assert found.largest_subnormal <= BOUND_SUBNORMAL
        assert found.flushed == 0
        assert found.sum_error <= SUM_BOUND[dtype]
        assert found.argmax_lost == 0
        assert found.unordered == 0


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_errors_stay_within_the_bounds(fs, function, dtype, family):
    check(fs, function, dtype, family)


FOUND_BY_SEARCH = {
    # 3.11 ULP where weights are added in pairs before the compensated sum.
    "float64": """
        0x1.9131e40e57888p+4 -0x1.788a7476e2a10p+3 0x1.ad9e5832009acp+4 -0x1.086432c79dac4p+4
        -0x1.ec0c178657856p+5 -0x1.6df1f8ec28264p+5 0x1.5b191e0356c40p+2 0x1.b10b78d82dc30p+3
        0x1.edb820916cc28p+5 -0x1.ed2c460ace5c8p+3
    """,
    # 2.49 ULP.
    "float32": """
        0x1.035dfp+6 -0x1.d58658p+4 -0x1.8a95fcp+5 0x1.5343fp+5 0x1.5383ep+5 -0x1.a4ff7ep+2
        -0x1.180cb4p+6 0x1.b485fp+2 0x1.310d8ep+4
    """,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_millions_of_others_led_to_stay_within_the_bounds(fs, dtype):
    x = np.array([[float.fromhex(word) for word in FOUND_BY_SEARCH[dtype].split()]], dtype)
    exact = exact_softmax(x)
    found = Tally()
    found.add(fs.softmax(x), exact, exact)
    assert found.largest <= BOUND["softmax"]


@pytest.mark.parametrize(
    "entry", worst_rows.known(), ids=lambda entry: f"{entry['title']} {entry['dtype']}"
)
def test_the_worst_rows_that_searches_found_stay_within_the_bounds(fs, entry):
    if entry["dtype"] == "float64" and not IS_WIDER:
        pytest.skip("long double is a double here")
    kind, row = worst_rows.from_entry(entry)
    found = worst_rows.confirmed(fs, kind, row, entry["rows"])
    assert found.ulps <= found.bound


@pytest.mark.slow
def test_a_search_of_a_minute_finds_no_row_beyond_the_bounds(native_fs):
    found = search.Search(native_fs, DTYPES, seed=20)
    for _ in found.run(60):
        pass
    beyond = {
        f"{kind.title} {kind.dtype}": (record.ulps, record.bound)
        for kind, standing in found.standings.items()
        if (record := standing.record) and record.ulps > record.bound
    }
    assert not beyond


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", LONG)
def test_errors_stay_within_the_bounds_on_many_elements(fs, function, dtype, family):
    check(fs, function, dtype, family)


# ---- parameters, gradients, narrow types ----


def exact_tempered(x, temperature, logarithm):
    """Return (log_)softmax of ``x / temperature`` in 120 bits."""
    with mpmath.workprec(120):
        result = []
        for row in x:
            scaled = [mpmath.mpf(float(v)) / mpmath.mpf(temperature) for v in row]
            top = scaled.index(max(scaled))
            rest = [mpmath.exp(v - scaled[top]) for i, v in enumerate(scaled) if i != top]
            log = mpmath.log1p(mpmath.fsum(rest))
            values = [v - scaled[top] - log for v in scaled]
            result.append(values if logarithm else [mpmath.exp(v) for v in values])
        # Two doubles hold more than a long double.
        high = np.array([[float(v) for v in row] for row in result])
        low = [
            [float(v - h) for v, h in zip(*rows, strict=True)]
            for rows in zip(result, high, strict=True)
        ]
    return high.astype(np.longdouble) + np.array(low)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.7, 3e-3, 250.0, 1e7])
def test_a_temperature_costs_no_accuracy(fs, function, dtype, temperature):
    rng = np.random.default_rng(30)
    found = Tally()
    for n in (2, 7, 33):
        x = np.concatenate(
            [rng.normal(0, s, (4, n)) for s in (1, 3, 30)] + [rng.uniform(-700, 700, (4, n))]
        )
        x = (x * min(temperature, 1e5)).astype(dtype)
        exact = exact_tempered(x, temperature, function == "log_softmax")
        found.add(getattr(fs, function)(x, temperature=temperature), exact, abs(exact))
    assert found.largest <= BOUND[function]
    assert found.mean <= MEAN_BOUND


def test_a_temperature_brings_far_logits_into_the_format(fs):
    x = np.array([[3e38, -3e38]], np.float32)
    np.testing.assert_allclose(fs.log_softmax(x, temperature=3.0), [[0, -2e38]], rtol=1e-6)


@pytest.mark.parametrize("function", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_right_to_a_few_ulp_of_their_terms(fs, function, dtype):
    rng = np.random.default_rng(31)
    found = Tally()
    for n in (1, 2, 10, 100, 1000, 30000):
        g = (rng.normal(0, 1, (6, n)) * [[1], [1], [1e-20], [1e10], [1], [100]]).astype(dtype)
        x = rng.normal(0, 1, (6, n)) * [[1], [3], [10], [1], [30], [0.1]]
        wide = g.astype(np.longdouble)
        if function == "softmax_backward":
            y = exact_softmax(x).astype(dtype)
            products = wide * y
            exact = y * (wide - products.sum(axis=-1, keepdims=True))
            size = abs(y) * (abs(wide) + abs(products).sum(axis=-1, keepdims=True))
        else:
            y = exact_log_softmax(x).astype(dtype)
            p = np.exp(y.astype(np.longdouble))
            exact = wide - p * wide.sum(axis=-1, keepdims=True)
            size = abs(wide) + p * abs(wide).sum(axis=-1, keepdims=True)
        found.add(getattr(fs, function)(g, y), exact, size)
    assert found.largest <= BOUND_GRADIENT[function]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_right_to_a_few_ulp(fs, dtype, smoothing):
    rng = np.random.default_rng(32)
    losses, grads = Tally(), Tally()
    for n in (2, 10, 100, 1000):
        for sigma in (1, 10, 50):
            x = rng.normal(0, sigma, (40, n)).astype(dtype)
            x[::2, 0] += 20
            labels = np.where(np.arange(40) % 3, 0, rng.integers(0, n, 40))
            t = smoothing / np.longdouble(n) + (1 - np.longdouble(smoothing)) * (
                labels[:, None] == np.arange(n)
            )
            loss, grad = fs.softmax_cross_entropy(
                x, labels, label_smoothing=smoothing, return_grad=True
            )
            terms = -t * exact_log_softmax(x)
            losses.add(loss, terms.sum(axis=-1), terms.sum(axis=-1))
            p = exact_softmax(x)
            grads.add(grad, p - t, p + t)
    assert losses.largest <= BOUND_LOSS
    assert grads.largest <= BOUND_GRADIENT["softmax_cross_entropy"]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("family", ["normal, σ = 3", "uniform, ±40", "masked by −inf"])
def test_float16_is_rounded_once(fs, function, family):
    for x in FAMILIES[family].inputs("float16"):
        exact = FUNCTIONS[function](x)
        found = Tally()
        found.add(getattr(fs, function)(x), exact, abs(exact))
        assert max(found.largest, found.largest_subnormal) <= 0.501


def report():
    for function in FUNCTIONS:
        for dtype in DTYPES:
            for name in _backend.available():
                fs = _api.over(_backend.load(name))
                found = {f: tally(fs, function, dtype, f) for f in (*FAMILIES, *LONG)}
                worst = max(found, key=lambda f: found[f].largest)
                mean = max(found, key=lambda f: found[f].mean)
                line = (
                    f"{function:12}{dtype:9}{name:8}max {found[worst].largest:.3f} ({worst}), "
                    f"mean {found[mean].mean:.3f} ({mean})"
                )
                if function == "softmax":
                    small = max(t.largest_subnormal for t in found.values())
                    off = max(found, key=lambda f: found[f].sum_error)
                    line += f", subnormal {small:.3f}, |Σ−1| {found[off].sum_error:.3g} ({off})"
                    line += f", unordered {sum(t.unordered for t in found.values())}"
                    line += f", lost {sum(t.argmax_lost for t in found.values())}"
                    line += f", flushed {sum(t.flushed for t in found.values())}"
                print(line, flush=True)


if __name__ == "__main__":
    sys.exit(report())
