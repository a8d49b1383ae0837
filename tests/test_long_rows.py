"""Rows of more than 2**18 elements: in pieces, which threads share, read as seldom as may be."""

import itertools
import sys

import numpy as np
import pytest
from toolchain import run_python

from fastsoftmax import _api, _backend

PIECE = 1 << 18
FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
GRADIENTS = ("softmax_backward", "log_softmax_backward")
LENGTHS = (
    3 * PIECE + 5,
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in (PIECE + 1, 2 * PIECE - 1, 2 * PIECE, 2 * PIECE + 1130)
    ),
)
"""Of more than one piece and, from 2 * PIECE on, more than one thread; ends of every kind."""
LARGE = 33 << 20
"""Bytes of an array that is larger than the caches by what the kernels take for that."""


def rows_of(dtype, n):
    """Return rows by what is found in them, and when."""
    x = np.random.default_rng(n).normal(0, 3, n)
    ramp = np.linspace(-4000, 4000, n)
    rows = {
        "any": x,
        "ever larger": np.sort(x),
        "ever smaller": np.sort(x)[::-1],
        "from far below to far above": ramp,
        "beyond 4096 at last": 1.1 * ramp,
        "beyond 4096 at first": -1.1 * ramp,
        "all below -4096": x - 5000,
        "all below -4096 but the last": np.append(x[1:] - 5000, -4000),
        "at -4096": np.minimum(x, 0) - 4096,
        "at 4096": np.append(np.minimum(x[1:], 0), 4096),
        "masked at first": np.where(np.arange(n) < n // 2, -np.inf, x),
        "only masked": np.full(n, -np.inf),
        "one of all": np.append(np.full(n - 1, -90.0), 0),
        "subnormal results": np.append(np.full(n - 1, -98.0 if dtype == np.float32 else -740.0), 0),
        "NaN at first": np.append(np.nan, x[1:]),
        "NaN at last": np.append(x[1:], np.nan),
        "NaN amid masks": np.where(np.arange(n) == 7, np.nan, -np.inf),
        "inf at last": np.append(x[1:], np.inf),
        "inf and NaN": np.append(np.inf, np.append(x[2:], np.nan)),
    }
    return {name: row.astype(dtype) for name, row in rows.items()}


@pytest.fixture(params=_backend.INSTRUCTION_SETS[:1])
def best_fs(request):
    """Return the functions over the best kernels: the others' bits are compared in test_bits.py."""
    return _api.over(_backend.load(request.param))


def calls_of(fs, function, x, options):
    """Yield what else computes the same rows, by name, with its result."""
    call = getattr(fs, function)
    for workers in (2, 3):
        yield f"{workers} workers", call(x, workers=workers, **options)
    if function != "logsumexp":
        yield "out", call(x, out=np.empty_like(x), **options)
        for workers in (1, 2):
            place = x.copy()
            yield f"in place, {workers} workers", call(place, out=place, workers=workers, **options)
    yield "a stride", call(np.stack([x, x], axis=-1)[..., 0], **options)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_has_the_same_bits_however_it_is_computed(best_fs, function, dtype, n):
    for name, x in rows_of(dtype, n).items():
        for options in ({},) if function == "logsumexp" else ({}, {"temperature": 0.3}):
            expected = getattr(best_fs, function)(x, **options)
            for how, result in calls_of(best_fs, function, x, options):
                np.testing.assert_array_equal(result, expected, f"{name}, {how}, {options}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_beyond_the_caches_has_the_bits_that_a_segment_has(best_fs, function, dtype):
    """A segment's weights wait in its result, whatever its length."""
    n = LARGE // np.dtype(dtype).itemsize + 1130
    x = np.random.default_rng(n).normal(0, 3, n).astype(dtype)
    expected = getattr(best_fs, f"segment_{function}")(x, [0, n])
    results = dict(calls_of(best_fs, function, x, {}), fresh=getattr(best_fs, function)(x))
    for how, result in results.items():
        np.testing.assert_array_equal(np.atleast_1d(result), expected, how)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_of_an_array_beyond_the_caches_have_the_bits_that_they_have_alone(
    best_fs, function, dtype
):
    call = getattr(best_fs, function)
    x = np.stack(list(rows_of(dtype, 2 * PIECE + 1130).values()))
    assert x.nbytes > LARGE
    expected = np.stack([call(row) for row in x])
    for workers in (1, 2):
        np.testing.assert_array_equal(call(x, workers=workers), expected)
    if function != "logsumexp":
        np.testing.assert_array_equal(call(x, out=np.empty_like(x)), expected)
        np.testing.assert_array_equal(call(x, out=x), expected)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("function", FUNCTIONS[:2])
def test_few_long_rows_may_have_a_temperature_each(best_fs, function, workers):
    call, temperatures = getattr(best_fs, function), (0.5, 1, 7)
    x = np.stack([rows_of(np.float32, 3 * PIECE + 5)["ever larger"]] * 3)
    result = call(x, temperature=np.array(temperatures)[:, np.newaxis], workers=workers)
    for row, temperature, values in zip(result, temperatures, x, strict=True):
        np.testing.assert_array_equal(row, call(values, temperature=temperature))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_results_are_those_of_numpy(native_fs, numpy_fs, function, dtype):
    rtol = 1e-6 if dtype == np.float32 else 4e-15
    for name, x in rows_of(dtype, 2 * PIECE + 1130).items():
        got, expected = (getattr(fs, function)(x) for fs in (native_fs, numpy_fs))
        atol = 2 * float(np.finfo(dtype).smallest_subnormal)
        np.testing.assert_allclose(got, expected, rtol, atol, err_msg=name)


def staged_forms(x, mask):
    """Yield what is computed by way of scratch: axis, operand, and the same row where it lies."""
    half = x.astype(np.float16)
    signs = np.nan_to_num(x).clip(-100, 100).astype(np.int8)
    yield "float16", -1, half, {"dtype": np.float32}, half.astype(np.float32)
    yield "bytes", -1, signs, {"dtype": np.float32}, signs.astype(np.float32)
    yield "swapped", -1, x.astype(x.dtype.newbyteorder()), {}, x
    yield "reversed", -1, x[::-1].copy()[::-1], {}, x
    yield "masked", -1, x, {"where": mask}, np.where(mask, x, -np.inf).astype(x.dtype)
    columns = np.stack([x, -x, x], axis=-1)
    yield "masked columns", 0, columns, {"where": mask[:, np.newaxis]}, None


@pytest.mark.parametrize("n", [PIECE + 1, 2 * PIECE + 1130])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_row_that_is_staged_by_pieces_has_the_same_bits(best_fs, function, n):
    call = getattr(best_fs, function)
    mask = np.random.default_rng(n).random(n) < 0.7
    masked = {"softmax": 0.0, "log_softmax": -np.inf}
    for row, x in rows_of(np.float32, n).items():
        for form, axis, given, options, plain in staged_forms(x, mask):
            rows = [plain] if plain is not None else list(np.where(mask, given.T, -np.inf))
            expected = np.stack([call(row.astype(np.float32)) for row in rows], axis=-1)
            if "where" in options and function in masked:
                expected[~mask] = masked[function]
            for workers in (1, 2):
                result = call(given, axis=axis, workers=workers, **options)
                result = result.reshape(expected.shape)
                np.testing.assert_array_equal(result, expected, f"{row}, {form}, {workers} workers")


@pytest.mark.parametrize("n", [PIECE + 1, 2 * PIECE + 1130])
@pytest.mark.parametrize("function", GRADIENTS)
def test_a_gradient_that_is_staged_by_pieces_has_the_same_bits(best_fs, function, n):
    call, forward = (getattr(best_fs, f) for f in (function, function.removesuffix("_backward")))
    rng = np.random.default_rng(n)
    mask = rng.random(n) < 0.7
    y = forward(rng.normal(0, 3, n).astype(np.float32))
    rows = rows_of(np.float32, n)
    for name, g in rows.items():
        expected = call(g, y)
        np.testing.assert_array_equal(call(g[::-1].copy()[::-1], y), expected, name)
        np.testing.assert_array_equal(call(g.astype(">f4"), y.astype(">f4")), expected, name)
        place = np.stack([y, y])[::-1].T
        assert call(np.stack([g, g], axis=-1), place, axis=0, out=place) is place
        np.testing.assert_array_equal(place, np.stack([expected] * 2, axis=-1), name)
        if function == "log_softmax_backward":
            kept = call(np.where(mask, g, 0), np.where(mask, y, np.float32(-np.inf)))
            np.testing.assert_array_equal(call(g, y, where=mask), np.where(mask, kept, 0), name)
        half = [g.astype(np.float16), y.astype(np.float16)]
        expected = call(*(a.astype(np.float32) for a in half))
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(call(*half), expected.astype(np.float16), name)


@pytest.mark.parametrize(
    ("shape", "axes"), [((1311, 2, 401), (0, 2)), ((61, 2, 73, 3, 71), (0, 2, 4))]
)
@pytest.mark.parametrize("function", [*FUNCTIONS, *GRADIENTS])
def test_a_row_of_several_axes_has_the_same_bits(best_fs, function, shape, axes):
    """Pieces begin within a dimension."""
    call = getattr(best_fs, function)
    operands = np.random.default_rng(0).normal(0, 3, (2, *shape)).astype(np.float32)
    mask = operands[1] > -2

    def flat(array):
        rows = np.moveaxis(array, axes, range(-len(axes), 0))
        return rows.reshape(*rows.shape[: -len(axes)], -1)

    given = operands[: 1 + (function in GRADIENTS)]
    for options in ({},) if function == "softmax_backward" else ({}, {"where": mask}):
        expected = call(*map(flat, given), **{name: flat(a) for name, a in options.items()})
        result = call(*given, axis=axes, **options)
        result = result if function == "logsumexp" else flat(result)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("heads", [(), (3,)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_segment_that_is_staged_by_pieces_has_the_same_bits(best_fs, function, heads):
    """Segments that are not in pieces, and in pieces of either length, follow each other."""
    call, alone = getattr(best_fs, f"segment_{function}"), getattr(best_fs, function)
    ends = np.cumsum([0, 3, 2 * PIECE - 1, 0, PIECE, PIECE + 1, 2 * PIECE + 1130, 5])
    data = np.random.default_rng(0).normal(0, 3, (ends[-1], *heads)).astype(np.float32)
    data[7], data[-9] = 9000, np.nan
    joined, of_none = np.concatenate, np.empty((0, *heads))
    if function == "logsumexp":
        joined, of_none = np.stack, np.full(heads, -np.inf)
    segments = [data[start:end] for start, end in itertools.pairwise(ends)]
    expected = joined([alone(x, axis=0) if len(x) else of_none for x in segments])
    for given in (data, data.astype(">f4"), data[::-1].copy()[::-1]):
        for workers in (1, 2):
            np.testing.assert_array_equal(call(given, ends, workers=workers), expected)
    half = data.astype(np.float16)
    expected = call(half.astype(np.float32), ends).astype(np.float16)
    np.testing.assert_array_equal(call(half, ends), expected)


PEAK = """
import re
import numpy as np
import fastsoftmax
n = 30_000_000
x, out = np.ones(n, np.float16), np.ones(n, np.float16)
columns, swapped = x.reshape(-1, 3), x.astype(">f2")
def peak():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1]) << 10
before = peak()
for workers in (1, 2):
    fastsoftmax.softmax(x, out=out, workers=workers)
    fastsoftmax.log_softmax(columns, axis=0, out=out.reshape(-1, 3), workers=workers)
    fastsoftmax.logsumexp(x, workers=workers)
    fastsoftmax.logsumexp(x.reshape(-1, 3, 1000), axis=(0, 2), workers=workers)
    fastsoftmax.softmax_backward(x, x, out=out, workers=workers)
    fastsoftmax.log_softmax_backward(columns, columns, axis=0, out=x.reshape(-1, 3))
    fastsoftmax.segment_softmax(x, [0, 5, n], out=out, workers=workers)
    fastsoftmax.segment_logsumexp(swapped, [0, n], workers=workers)
print(peak() - before)
"""


def test_the_scratch_of_a_long_row_has_a_fixed_size(native_name):
    if native_name == "generic":
        pytest.skip("as the others, but slow")
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc: getrusage includes what the parent process had taken")
    done = run_python("-c", PEAK, backend=native_name)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40 << 20  # float32 rows would be 120 MB
