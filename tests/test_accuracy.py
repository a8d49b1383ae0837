"""Right to a few ULP on any row: the bounds of benchmarks/ACCURACY.md, on every backend.

`python tests/test_accuracy.py` prints what is measured: for each function, dtype and backend the
family with the largest error, and the largest mean.
"""

import functools
import sys
from dataclasses import dataclass, replace

import checkout  # noqa: F401 - puts benchmarks on the path
import mpmath
import numpy as np
import pytest

from benchmarks import search, worst_rows
from benchmarks.computations import BY_TITLE, COMPUTATIONS, Batch, call, errors
from benchmarks.exact import (
    BOUND,
    BOUND_GRADIENT,
    BOUND_LOSS,
    BOUND_SUBNORMAL,
    IS_WIDER,
    NUMPY_BOUND,
    exact_log_softmax,
    exact_logsumexp,
    exact_softmax,
    ulp_size,
)
from benchmarks.families import FAMILIES, MAKERS, SLOW
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


@functools.cache
def cases(family, dtype, function):
    """Return inputs, exact results and the size that an ULP is taken of, for each length."""
    found = []
    for x in {**FAMILIES, **SLOW}[family].inputs(dtype):
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


def bound_of(fs, dtype, native):
    """Return the bound that a backend is held to: the NumPy backend has its own."""
    return NUMPY_BOUND[dtype] if fs.name == "numpy" else native


def check(fs, function, dtype, family):
    found = tally(fs, function, dtype, family)
    assert found.largest <= bound_of(fs, dtype, BOUND[function])
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


@pytest.mark.parametrize(
    "entry", worst_rows.known(), ids=lambda entry: f"{entry['title']} {entry['dtype']}"
)
def test_the_worst_rows_that_searches_found_stay_within_the_bounds(fs, entry):
    if entry["dtype"] == "float64" and not IS_WIDER:
        pytest.skip("long double is a double here")
    kind, row = worst_rows.from_entry(entry)
    found = worst_rows.confirmed(fs, kind, row, entry["rows"])
    assert found.ulps <= found.bound


@pytest.mark.parametrize(
    "entry", worst_rows.known(), ids=lambda entry: f"{entry['title']} {entry['dtype']}"
)
def test_the_worst_rows_have_the_errors_that_were_found(native_fs, entry):
    if entry["dtype"] == "float64" and not IS_WIDER:
        pytest.skip("long double is a double here")
    assert worst_rows.measured(native_fs, entry)["max_ulp"] == pytest.approx(entry["max_ulp"])


WITNESSED = {
    "softmax": 0.75,
    "log_softmax": 0.5,
    "logsumexp": 0.5,
    "softmax_backward": 0.4,
    "log_softmax_backward": 0.4,
    "softmax_cross_entropy": 0.4,
}
"""A share of its bound that some row comes to in every function, at least."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", WITNESSED)
def test_a_row_comes_near_each_bound(function, dtype):
    entries = [
        entry
        for entry in worst_rows.known()
        if entry["dtype"] == dtype and entry["computation"].split(" ")[0].strip(",") == function
    ]
    bounds = {**BOUND, **BOUND_GRADIENT}
    assert max(entry["max_ulp"] for entry in entries) >= WITNESSED[function] * bounds[function]


@pytest.mark.parametrize("computation", COMPUTATIONS, ids=lambda computation: computation.title)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_at_the_ends_of_the_format_have_the_bounds(native_fs, computation, dtype):
    """Nothing overflows on the way to a finite result, whatever the temperature."""
    rng = np.random.default_rng(20)
    for _ in range(40):
        n = int(rng.choice((2, 3, 5, 17, 70)))
        x = MAKERS["ends of the format"](rng, 600 // n, n, dtype)
        batch = search.completed(rng, computation, x, "")
        if computation.second != "grad_output":
            batch = replace(batch, x=x)
        if computation.parameter == "temperature":
            size = float(np.finfo(dtype).max) ** rng.choice((0, 0, 1))
            batch = replace(batch, parameter=rng.uniform(0.2, 1) * size)
        results = call(native_fs, computation, batch)
        for found in errors(computation, batch, results, native_fs.name).values():
            assert found.ulps.max() <= found.promise


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_have_the_bound_where_the_distance_overflows_before_the_temperature(
    native_fs, dtype
):
    computation = BY_TITLE["softmax_cross_entropy of probabilities, tempered"]
    rng, largest = np.random.default_rng(20), float(np.finfo(dtype).max)
    for temperature in rng.uniform(0.1, 0.5, 100) * largest:
        x = (rng.uniform(0.3, 1, (400, 2)) * (-largest, largest)).astype(dtype)
        share = rng.integers(1, 64, 400).astype(dtype) / 64
        batch = Batch(x, np.stack((share, 1 - share), axis=1), temperature)
        found = errors(computation, batch, call(native_fs, computation, batch))["loss"]
        assert found.ulps.max() <= found.promise


@pytest.mark.slow
@pytest.mark.skipif(not _backend.INSTRUCTION_SETS, reason="no kernels here")
def test_a_search_of_a_minute_finds_no_row_beyond_the_bounds():
    """Over one instruction set: the others have the same bits."""
    functions = _api.over(_backend.load(_backend.INSTRUCTION_SETS[0]))
    found = search.Search(functions, DTYPES, seed=20)
    for _ in found.run(60):
        pass
    beyond = {
        f"{kind.title} {kind.dtype}": (record.ulps, record.bound)
        for kind, state in found.states.items()
        if (record := state.record) and record.ulps > record.bound
    }
    assert not beyond


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SLOW)
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
    assert found.largest <= bound_of(fs, dtype, BOUND[function])
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
    assert found.largest <= bound_of(fs, dtype, BOUND_GRADIENT[function])


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
    assert losses.largest <= bound_of(fs, dtype, BOUND_LOSS)
    assert grads.largest <= bound_of(fs, dtype, BOUND_GRADIENT["softmax_cross_entropy"])


def of_hex(words):
    return np.array([[float.fromhex(word) for word in words.split()]])


# Rows on which the NumPy backend has errors near the largest that a search found in float64, 2.2 to
# 3.5 ULP where exp and log1p are glibc's: logits, the second operand, the parameter.
NUMPY_WITNESSES = {
    "softmax": (
        """-0x1.39673dee618afp+0 -0x1.51556fb3a5dc8p+2 -0x1.dc2070850778cp+0 -0x1.dc2070850778cp+0
        -0x1.506c1d8394a26p+2 -0x1.3b83c2c1b430bp+1 -0x1.506c1d8394a09p+2""",
        None,
        None,
    ),
    "log_softmax": (
        """-0x1.5cbac2b095337p+9 -0x1.5d1debd36bd97p+9 -0x1.722ec19caa176p+9 -0x1.e87be9f48ff0ep-3
        -0x1.5c5758febda3ep+9""",
        None,
        None,
    ),
    "logsumexp": (
        "-0x1.d12f82d98eeb2p-4 -0x1.34885ad0efafcp+3 -0x1.7422569675b43p+0",
        None,
        None,
    ),
    "softmax, tempered": (
        """-0x1.872dbd86afc6ap-2 -0x1.2d8eeb1eeef1ep-6 0x1.cd388c13a28f8p-4 0x1.cd598990c0738p-4
        0x1.2a4833316bbdbp-1 0x1.69741f3b64fa6p-2 0x1.50023ef453f76p-2""",
        None,
        0.7,
    ),
    "log_softmax, tempered": (
        "-0x1.652410cc013efp-10 -0x1.5a0aa10e388bep-7 -0x1.9a0e705eafdecp-15",
        None,
        3e-3,
    ),
    "softmax_backward": (
        "-0x1.1e949a06426ccp+0 -0x1.2b8015f7d642bp+0 -0x1.1e9456fc62130p+0 -0x1.2b7ae93143051p+0",
        "-0x1.f932bedf5b0edp-1 0x1.24f4129a0e380p-10 -0x1.59f24c57f1617p-11 -0x1.59f24c48b1b64p-11",
        None,
    ),
    "log_softmax_backward": (
        "-0x1.73d5aa4af16e9p+9 -0x1.74866d7f7879bp+9 -0x1.1efa0e06e9cf5p-1 -0x1.62c8222b58011p+9",
        "-0x1.2fa440cb0fc57p+1 -0x1.32e41f12b549dp+1 -0x1.378bff5dbccdbp+1 0x0.0000000000009p-1022",
        None,
    ),
    "softmax_cross_entropy of class indices": (
        """-0x1.5bae212dba586p+9 -0x1.632ea5e0d69c8p+9 -0x1.206d54b2d928dp-1 -0x1.5b32f86a10538p+9
        -0x1.5b32f86a10538p+9 -0x1.5b32f86a1052ep+9 -0x1.5b85ad30052a4p+9""",
        2,
        None,
    ),
    "softmax_cross_entropy of class indices, smoothed": (
        """0x1.d69feed6e6986p+8 -0x1.e5314bced5716p+7 -0x1.1e9ab450ea902p+9 -0x1.1e9ab450ea902p+9
        0x1.d606ed4ef7cafp+8""",
        0,
        0.9,
    ),
    "softmax_cross_entropy of probabilities, smoothed": (
        "-0x1.f51601b65f7abp-2 -0x1.dfbf49f006111p+6 -0x1.dfbf49f006111p+6",
        "0x1.fffb03fad1df7p-1 0x1.3f014b8827400p-16 0x1.3f014b8827400p-16",
        0.1,
    ),
    "softmax_cross_entropy of probabilities": (
        "0x1.5ed48fc95453bp-4 0x1.1a8b290c9b53bp+1 0x1.1a8b290c9b53bp+1 0x1.08eb7415e3949p+2",
        """0x1.6f6c12ee2fea7p-24 0x1.fffffa4172f01p-1 0x1.b9888f1e9bb40p-34
        0x1.6f6c12ee2f104p-24""",
        None,
    ),
}


def largest_error(fs, title, x, second=None, parameter=None, where=None):
    """Return the largest error of a computation, in ULP; of a gradient, x are logits."""
    computation = BY_TITLE[title]
    if computation.second == "grad_output":
        forward = exact_log_softmax if title.startswith("log") else exact_softmax
        x = forward(x, where).astype(x.dtype)
    batch = Batch(x, second, parameter, where=where)
    found = errors(computation, batch, call(fs, computation, batch), fs.name)
    return max(of_kind.ulps.max() for of_kind in found.values())


@pytest.mark.skipif(not IS_WIDER, reason="the reference is no wider than float64")
@pytest.mark.parametrize("title", NUMPY_WITNESSES)
def test_the_numpy_backend_keeps_its_bounds_on_the_worst_rows_found(numpy_fs, title):
    x, second, parameter = NUMPY_WITNESSES[title]
    second = np.array([second]) if isinstance(second, int) else second and of_hex(second)
    error = largest_error(numpy_fs, title, of_hex(x), second, parameter)
    assert error <= NUMPY_BOUND["float64"]


def rows_for_search(rng, rows, n):
    """Rows of many kinds; half of them with a maximum a little below 0, where logsumexp cancels."""
    size = 10 ** rng.uniform(-3, 3, (rows, 1))
    kind = rng.integers(0, 5, (rows, 1))
    x = rng.normal(0, 1, (rows, n)) * size
    same = np.repeat(-rng.uniform(0, 20, (rows, 1)), n, axis=1)
    same[:, 0] = 0  # a maximum, and all others alike
    far = -rng.uniform(680, 745, (rows, n))
    far[:, n // 2] = 0
    x = np.select([kind == 1, kind == 2, kind == 3], [same, far, rng.uniform(-2, 0, (rows, n))], x)
    shift = x.max(axis=-1, keepdims=True) + rng.random((rows, 1))
    return np.where(rng.random((rows, 1)) < 0.5, x - shift, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "n",
    [1, 2, 5, 33, 1000, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8, 64, 1 << 15))],
)
def test_the_numpy_backend_keeps_its_bounds_in_every_function(numpy_fs, dtype, n):
    rng = np.random.default_rng(n)
    rows = max(2, min(500, 20000 // n))
    x = rows_for_search(rng, rows, n).astype(dtype)
    g = (rng.normal(0, 1, (rows, n)) * 10 ** rng.uniform(-3, 3, (rows, 1))).astype(dtype)
    p = np.exp(-abs(rng.normal(0, 1, (rows, n)) * 10 ** rng.uniform(-2, 2, (rows, 1))))
    p = (p / p.sum(axis=-1, keepdims=True)).astype(dtype)
    labels = rng.integers(0, n, rows)
    b, where = np.where(p < 0.3 / n, 0, g), p > 0.5 / n
    b[:, 0], where[:, 0] = 1, True
    second = {"indices": labels, "probabilities": p, "grad_output": g, "b": b}
    masks = {"indices": where | (labels[:, np.newaxis] == np.arange(n)), "probabilities": p > 0}
    masks |= {"": where, "grad_output": where}
    parameters = {"temperature": (0.7, 250.0), "label_smoothing": (0.1, 0.9, 1.0), "": (None,)}
    parameters["sample_weight"] = (-2.3,)
    worst = {
        (title, parameter): largest_error(
            numpy_fs,
            title,
            x,
            second.get(computation.second),
            parameter,
            masks[computation.second] if computation.masked else None,
        )
        for title, computation in BY_TITLE.items()
        for parameter in parameters[computation.parameter]
    }
    assert {name: error for name, error in worst.items() if error > NUMPY_BOUND[dtype]} == {}


@pytest.mark.skipif(not IS_WIDER, reason="the reference is no wider than float64")
@pytest.mark.parametrize("n", [2, 64, 40000])
def test_the_numpy_backend_loses_nothing_that_underflows_on_the_way(numpy_fs, n):
    rng = np.random.default_rng(n)
    x = np.full((3, n), -744.0) + rng.uniform(-0.5, 8, (3, n))
    x[:, 0] = 0  # the others' weights are subnormal, their sum need not be
    for name in ("log_softmax", "logsumexp"):
        assert largest_error(numpy_fs, name, x) <= NUMPY_BOUND["float64"]
    title = "softmax_cross_entropy of class indices"
    assert largest_error(numpy_fs, title, x, np.zeros(3, int)) <= NUMPY_BOUND["float64"]
    # A share of 1e-320 or less of a large sum, and a sum of products that are each below 2^-1074.
    g = rng.uniform(0.5, 1, (3, n)) * 1e30
    assert largest_error(numpy_fs, "log_softmax_backward", x, g) <= NUMPY_BOUND["float64"]
    g = np.where(np.arange(n) == 0, 0, rng.uniform(1, 2, (3, n))) * 1e-15
    y = np.where(np.arange(n) == 0, 0, -np.full((3, n), 710.0))
    assert largest_error(numpy_fs, "softmax_backward", y, g) <= NUMPY_BOUND["float64"]


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
                found = {f: tally(fs, function, dtype, f) for f in (*FAMILIES, *SLOW)}
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
