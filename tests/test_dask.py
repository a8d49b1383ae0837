"""Dask arrays: lazy, chunked in any way, the bits of whole rows and the bounds of cut ones."""

import doctest
import pickle
import subprocess
import sys

import numpy as np
import pytest
from edge_cases import ACCEPTED_DTYPES, EDGE_CASES, WEIGHTED_CASES
from functions import CALLS

import fastsoftmax
from benchmarks import families, promised
from benchmarks.exact import IS_WIDER, ulp_size
from fastsoftmax import _backend

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
lazy = pytest.importorskip("fastsoftmax.dask")

BOUND = {"float32": 4.0, "float64": 8.0}
"""ULP, of rows whose parts lie in several chunks."""
LAZY_CALLS = [call for call in CALLS if call.name in lazy.__all__]
CALL = pytest.mark.parametrize("call", LAZY_CALLS, ids=str)


class InChunks:
    """The functions over Dask arrays, called with NumPy arrays and returning them."""

    def __init__(self, chunks, others=2):
        self.chunks, self.others = chunks, others

    def __getattr__(self, name):
        return lambda *operands, **options: self._computed(name, operands, options)

    def _computed(self, name, operands, options):
        first = da.from_array(operands[0], chunks=self.chunks)
        operands = [first, *map(self._chunked, operands[1:])]
        options = {name: self._chunked(value) for name, value in options.items()}
        results = getattr(fastsoftmax, name)(*operands, **options)
        found = []
        for result in results if isinstance(results, tuple) else (results,):
            assert isinstance(result, da.Array)
            blocks = dask.compute(*result.to_delayed().flat, scheduler="synchronous")
            shapes = {
                tuple(c[i] for c, i in zip(result.chunks, at, strict=True))
                for at in np.ndindex(result.numblocks)
            }
            assert {np.shape(block) for block in blocks} == shapes
            assert {block.dtype for block in blocks} <= {result.dtype}
            found.append(result.compute(scheduler="synchronous"))
        return tuple(found) if isinstance(results, tuple) else found[0]

    def _chunked(self, value):
        return da.from_array(value, chunks=self.others) if np.ndim(value) else value


def same(got, expected):
    """Whether results are those of the function itself; of NumPy's backend, nearly."""
    if _backend.default().name != "numpy":
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(got.dtype).eps)
    assert got.dtype == expected.dtype


def check_within(result, name, x, settings, bound):
    (exact,) = promised.exactly(name, (x,), settings)
    unit = ulp_size(np.where(np.isfinite(exact.size), exact.size, 0), result.dtype)
    assert np.max(promised.distance(result, exact.value) / unit, initial=0) <= bound


# ---- whole rows ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@CALL
def test_whole_rows_have_the_bits_of_the_function_itself(call, dtype):
    rng = np.random.default_rng(1)
    for axis in (0, 1, -1):
        x, y = rng.normal(0, 3, (5, 7, 4)).astype(dtype), rng.random((5, 7, 4)).astype(dtype)
        chunks = [2, 3, 1]
        chunks[axis] = -1
        for others in (2, -1):
            got = call.of_rows(InChunks(tuple(chunks), others), x, y, axis)
            same(got, call.of_rows(fastsoftmax, x, y, axis))


def test_several_axes_and_all():
    x = np.random.default_rng(2).normal(0, 3, (4, 5, 6))
    d = da.from_array(x, chunks=(4, 5, 2))
    for name in ("softmax", "log_softmax", "logsumexp"):
        for axis in ((0, 1), (1, 0), ()):
            same(getattr(lazy, name)(d, axis).compute(), getattr(fastsoftmax, name)(x, axis))
        whole = da.from_array(x, chunks=-1)
        same(getattr(lazy, name)(whole, None).compute(), getattr(fastsoftmax, name)(x, None))
        scalar = da.from_array(np.float32(3), chunks=())
        assert getattr(lazy, name)(scalar).compute() == getattr(fastsoftmax, name)(np.float32(3))


@pytest.mark.parametrize(("dtype", "result"), ACCEPTED_DTYPES, ids=str)
def test_dtypes(dtype, result):
    x = np.arange(12).reshape(3, 4).astype(dtype)
    for chunks in ((1, 4), (2, 2)):
        d = da.from_array(x, chunks=chunks)
        for name in ("softmax", "log_softmax", "logsumexp"):
            for asked in (None, np.float16, np.float64):
                expected = getattr(fastsoftmax, name)(x, dtype=asked)
                got = getattr(lazy, name)(d, dtype=asked)
                assert got.dtype == (asked or result)
                assert got.compute().dtype == got.dtype
                tolerance = 4 * np.finfo(expected.dtype).eps
                np.testing.assert_allclose(got.compute(), expected, rtol=tolerance)


# ---- rows that are cut ----


def cuts(rng, n):
    """Return chunks of a row, an empty one among them now and then."""
    inner = np.sort(rng.integers(0, n + 1, rng.integers(1, 5)))
    return tuple(np.diff([0, *inner, n]).tolist())


@pytest.mark.skipif(not IS_WIDER, reason="no long double to compare with")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_cut_rows_of_every_family_are_within_the_bound(name, dtype):
    check_families(name, dtype, 60)


def check_families(name, dtype, examples):
    rng = np.random.default_rng(3)
    for _ in range(examples):
        x, _ = families.rows(rng, dtype, 1 << 12, is_long=False)
        options = {}
        if name != "logsumexp":
            options["temperature"] = rng.choice([1.0, 0.7, 30.0])
        settings = promised.Settings((1,), **options)
        d = da.from_array(x, chunks=((len(x),), cuts(rng, x.shape[1])))
        with dask.config.set(scheduler="synchronous"):
            got = getattr(lazy, name)(d, **options).compute()
        check_within(got, name, x, settings, BOUND[dtype])


@pytest.mark.slow
@pytest.mark.skipif(not IS_WIDER, reason="no long double to compare with")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_more_cut_rows(name, dtype):
    check_families(name, dtype, 3000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@CALL
def test_every_option_of_cut_rows(call, dtype):
    rng = np.random.default_rng(4)
    for shape, axis in (((5, 7), 1), ((6, 4), 0), ((3, 8, 2), 1)):
        x, y = rng.normal(0, 3, shape).astype(dtype), rng.random(shape).astype(dtype)
        expected = call.of_rows(fastsoftmax, x, y, axis)
        got = call.of_rows(InChunks(3), x, y, axis)
        assert got.dtype == expected.dtype
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(got, expected, rtol=64 * eps, atol=8 * eps)


@pytest.mark.parametrize("case", EDGE_CASES, ids=lambda case: case[0])
@pytest.mark.filterwarnings("error")
def test_edge_cases_wherever_they_are_cut(case):
    _, x, where, *expected = case
    x = np.array(x, np.float64)
    mask = None if where is None else np.array(where)
    for chunks in {(n, len(x) - n) for n in range(len(x) + 1)} | {(1,) * len(x)}:
        d = da.from_array(x, chunks=(chunks,))
        for name, right in zip(("softmax", "log_softmax", "logsumexp"), expected, strict=True):
            got = getattr(lazy, name)(d, where=mask).compute(scheduler="synchronous")
            np.testing.assert_allclose(got, right, rtol=4e-16, atol=1e-300, err_msg=str(chunks))


@pytest.mark.parametrize("case", WEIGHTED_CASES, ids=lambda case: case[0])
def test_weighted_sums_wherever_they_are_cut(case):
    _, x, b, where, logarithm, sign = case
    mask = None if where is None else np.array(where)
    for chunks in {(n, len(x) - n) for n in range(len(x) + 1)} | {(1,) * len(x)}:
        d = da.from_array(np.array(x, np.float64), chunks=(chunks,))
        options = {"b": np.array(b, np.float64), "where": mask}
        got = lazy.logsumexp(d, return_sign=True, **options)
        got = [part.compute(scheduler="synchronous") for part in got]
        np.testing.assert_allclose(got, [logarithm, sign], rtol=1e-15, atol=1e-15)
        plain = lazy.logsumexp(d, **options).compute(scheduler="synchronous")
        np.testing.assert_equal(plain, np.nan if sign < 0 else got[0])


def test_arrays_without_elements():
    for shape in ((0, 3), (3, 0), (0, 0)):
        x = np.empty(shape, np.float32)
        d = da.from_array(x, chunks=2)
        for name in ("softmax", "log_softmax", "logsumexp"):
            for axis in (0, 1, None):
                same(getattr(lazy, name)(d, axis).compute(), getattr(fastsoftmax, name)(x, axis))


def test_unknown_chunk_sizes():
    x = np.random.default_rng(5).normal(0, 3, (9, 6))
    for chunks in ((3, 6), (3, 2)):
        d = da.from_array(x, chunks=chunks)
        chosen = d[d[:, 0] > 0]
        assert np.isnan(chosen.shape[0])
        expected = x[x[:, 0] > 0]
        for name in ("softmax", "log_softmax", "logsumexp"):
            for axis in (0, 1):
                got = getattr(lazy, name)(chosen, axis, where=chosen > -9)
                right = getattr(fastsoftmax, name)(expected, axis)
                np.testing.assert_allclose(got.compute(), right, rtol=2e-15)
    with pytest.raises(ValueError, match="where must be broadcastable"):
        lazy.softmax(chosen, where=x > 0)


# ---- lazy ----


def _never(_):
    raise AssertionError("computed")


def test_nothing_is_computed_before_it_is_asked_for():
    for chunks in ((2, 6), (2, 3)):
        d = da.zeros((4, 6), dtype=np.float32, chunks=chunks).map_blocks(_never, dtype=np.float32)
        labels = da.zeros(4, dtype=np.int64, chunks=2).map_blocks(_never, dtype=np.int64)
        for result in (
            fastsoftmax.softmax(d, where=d > 0, temperature=d[:, :1]),
            fastsoftmax.log_softmax(d, 0),
            fastsoftmax.logsumexp(d, keepdims=True, b=d),
            *fastsoftmax.softmax_cross_entropy(d, labels, return_grad=True, sample_weight=d[:, 0]),
            fastsoftmax.softmax_backward(d, d, 0),
            fastsoftmax.softmax_backward(np.zeros((4, 6), np.float32), d),
            fastsoftmax.log_softmax_backward(d, np.zeros((4, 6), np.float32), where=d > 0),
        ):
            assert isinstance(result, da.Array)
            assert result.dtype == np.float32
            with pytest.raises(AssertionError, match="computed"):
                result.compute(scheduler="synchronous")


def test_one_call_has_one_name():
    d = da.zeros((4, 6), chunks=3)
    assert lazy.softmax(d).name == lazy.softmax(d).name != lazy.softmax(d, temperature=2).name
    assert pickle.loads(pickle.dumps(lazy.softmax(d))).compute().shape == (4, 6)


@pytest.mark.parametrize("options", [
    {"axis": 2}, {"axis": 0.5}, {"axis": (0, 0)}, {"where": np.ones(6)}, {"where": np.ones(7, bool)},
    {"temperature": 0}, {"temperature": np.ones(3)}, {"temperature": "1"}, {"dtype": "int"},
    {"dtype": "complex64"},
], ids=str)  # fmt: skip
def test_errors_are_those_of_the_function_and_come_at_once(options):
    x = np.zeros((4, 6))
    for chunks in ((2, 6), (2, 3)):
        for name in ("softmax", "log_softmax"):
            with pytest.raises(Exception) as expected:  # noqa: PT011 - compared below
                getattr(fastsoftmax, name)(x, **options)
            with pytest.raises(type(expected.value)) as got:
                getattr(fastsoftmax, name)(da.from_array(x, chunks=chunks), **options)
            assert str(got.value) == str(expected.value)


def test_what_else_is_refused():
    d = da.zeros((4, 6), chunks=3)
    with pytest.raises(TypeError, match="out must be None for a Dask array"):
        fastsoftmax.softmax(d, out=np.zeros((4, 6)))
    for call in (
        lambda: fastsoftmax.segment_softmax(d, [0, 4]),
        lambda: fastsoftmax.softmax(np.zeros((4, 6)), where=d > 0),
        lambda: fastsoftmax.softmax_cross_entropy(np.zeros((6, 2)), d[0].astype(int)),
        lambda: fastsoftmax.softmax(np.zeros((4, 6)), out=d),
    ):
        with pytest.raises(
            TypeError, match=r"not be a Dask array here.*compute\(\)|be a NumPy array"
        ):
            call()
    with pytest.raises(TypeError, match="must not be a MaskedArray"):
        lazy.softmax(da.ma.masked_array(d, d > 0))
    with pytest.raises(TypeError, match="x must be of dtype bool"):
        lazy.softmax(d + 1j)
    with pytest.raises(ValueError, match="whose shape must be that of logits"):
        lazy.softmax_cross_entropy(d, np.zeros(3, int))
    with pytest.raises(IndexError, match="class indices from 0 to 5"):
        lazy.softmax_cross_entropy(d, da.full(4, 6, chunks=2)).compute()
    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        lazy.softmax(d, temperature=da.zeros((4, 1), chunks=2)).compute()


# ---- schedulers ----


def _results(x):
    d = da.from_array(x, chunks=(3, 4))
    labels = da.zeros(len(x), dtype=int, chunks=2)
    return dask.compute(
        lazy.softmax(d, where=d > -9),
        lazy.softmax(d.rechunk((2, -1))),
        lazy.log_softmax(d, 0, temperature=2),
        lazy.logsumexp(d, None),
        lazy.softmax_backward(d, d),
        *lazy.softmax_cross_entropy(d, labels, return_grad=True),
    )


def check_scheduler():
    x = np.random.default_rng(6).normal(0, 3, (10, 10)).astype(np.float32)
    with dask.config.set(scheduler="synchronous"):
        expected = _results(x)
    for got, right in zip(_results(x), expected, strict=True):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_of_one_machine(scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        check_scheduler()


@pytest.mark.filterwarnings("default")  # of the cluster's own
def test_a_cluster():
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
    )
    with cluster, distributed.Client(cluster):
        check_scheduler()


LARGE = """
import resource, sys
import dask, dask.array as da, numpy as np, fastsoftmax
dask.config.set(scheduler="threads", num_workers=2)
limit = 256 << 20
shape, chunks = (4 * limit // 4 // 1024, 1024), CHUNKS
x = da.random.default_rng(0).standard_normal(shape, dtype=np.float32, chunks=chunks)
da.random.default_rng(0).standard_normal(chunks, dtype=np.float32, chunks=chunks).sum().compute()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
p = fastsoftmax.softmax(x)
logs, largest = dask.compute(fastsoftmax.logsumexp(x).sum(), (p.sum(axis=1) - 1).max())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
assert x.nbytes == 4 * limit and abs(largest) < 1e-5, largest
print((after - before) / limit)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux has it")
@pytest.mark.parametrize("chunks", ["(4096, 1024)", "(8192, 256)"])
def test_an_array_of_four_times_a_limit_stays_within_it(chunks):
    done = subprocess.run(
        [sys.executable, "-c", LARGE.replace("CHUNKS", chunks)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1, done.stdout


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(lazy, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


# ---- without Dask ----


def of_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() + done.stderr.strip().rpartition("\n")[2]


def test_the_package_never_imports_dask_by_itself():
    code = "import sys, fastsoftmax; fastsoftmax.softmax([1, 2]); print('dask' in sys.modules)"
    assert of_python(code) == "False"


def test_dask_that_is_missing_or_too_old_is_named():
    missing = of_python("import sys; sys.modules['dask'] = None; import fastsoftmax.dask")
    assert missing.startswith("ImportError: fastsoftmax.dask needs Dask 20")
    assert "pip install 'fastsoftmax[dask]'" in missing
    old = of_python("import dask; dask.__version__ = '2021.4.0'; import fastsoftmax.dask")
    assert old.endswith("and this is Dask 2021.4.0")
