"""The table of edge cases, in every function, dtype, layout and backend."""

import itertools
import warnings

import numpy as np
import pytest
from calls import MOST_DIMENSIONS
from edge_cases import EDGE_CASES, NOT_A_NUMBER, WEIGHTED_CASES
from functions import CALLS, FUNCTIONS, SOFTMAX_BACKWARD

from benchmarks.promised import Settings, promised, within

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

FLOATS = ["float16", "float32", "float64", "longdouble"]
CASES = [pytest.param(*case[1:], id=case[0]) for case in EDGE_CASES]
TOLERANCE = {"float16": 2e-3, "float32": 5e-7, "float64": 1e-15, "longdouble": 1e-15}


def check(got, expected, dtype):
    assert got.dtype == dtype
    with np.errstate(over="ignore"):
        expected = np.asarray(expected, dtype=dtype)
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=0)
    # Equal, where it is not a rounded number.
    plain = ~np.isfinite(expected) | (expected == 0) | (expected == 1)
    np.testing.assert_array_equal(got[plain], expected[plain])
    if dtype in NOT_A_NUMBER:
        bits = np.atleast_1d(got[np.isnan(got)]).view(f"u{got.dtype.itemsize}")
        assert set(bits.tolist()) <= {NOT_A_NUMBER[dtype]}


def layouts(row):
    """Yield arrays that hold the row twice, and the axis that it lies along."""
    pair = np.stack([row, row])
    yield pair, -1
    yield np.asfortranarray(pair), 1
    yield np.ascontiguousarray(pair.T), 0
    yield np.repeat(pair, 2, axis=1)[:, ::2], -1
    yield np.broadcast_to(row, (2, len(row))), -1


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("x", "where", "softmax", "log_softmax", "logsumexp"), CASES)
def test_edge_case(fs, dtype, x, where, softmax, log_softmax, logsumexp):
    with np.errstate(over="ignore"):
        row = np.asarray(x, dtype=dtype)
    mask = None if where is None else np.asarray(where)
    for array, axis in layouts(row):
        aligned = mask if mask is None or axis != 0 else mask[:, None]
        for name, expected in (("softmax", softmax), ("log_softmax", log_softmax)):
            result = getattr(fs, name)(array, axis, where=aligned)
            for got in np.moveaxis(result, axis, -1):
                check(got, expected, dtype)
        for got in fs.logsumexp(array, axis, where=aligned):
            check(got[None], [logsumexp], dtype)


# ---- weights of exponentials ----


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("x", "b", "where", "logarithm", "sign"),
    [pytest.param(*case[1:], id=case[0]) for case in WEIGHTED_CASES],
)
def test_edge_case_of_weights(fs, dtype, x, b, where, logarithm, sign):
    row, weights = np.array(x, dtype), np.array(b, dtype)
    mask = None if where is None else np.array(where)
    eps = max(np.finfo(name).eps for name in (dtype, "float64"))  # the table has float64's digits
    size = eps * max(1, *abs(row[np.isfinite(row)].astype(float)), 1)
    for array, axis in layouts(row):
        for given in (weights, np.broadcast_to(weights, (2, len(b))), weights.astype(">f2")):
            turned = given if axis != 0 or given.ndim == 2 else given[:, np.newaxis]
            turned = turned.T if axis == 0 and given.ndim == 2 else turned
            options = {"b": turned, "dtype": dtype}
            options["where"] = mask if mask is None or axis != 0 else mask[:, np.newaxis]
            logarithms, signs = fs.logsumexp(array, axis, return_sign=True, **options)
            assert logarithms.dtype == signs.dtype == dtype
            np.testing.assert_allclose(logarithms, [logarithm] * 2, rtol=0, atol=3 * size)
            np.testing.assert_array_equal(signs, [sign] * 2)
            alone = fs.logsumexp(array, axis, **options)
            np.testing.assert_array_equal(alone, np.where(signs < 0, np.nan, logarithms))
            for got in (logarithms, signs, alone):
                check_nans(got)


def check_nans(got):
    if got.dtype.name in NOT_A_NUMBER:
        bits = np.ascontiguousarray(got[np.isnan(got)]).view(f"u{got.itemsize}")
        assert set(bits.tolist()) <= {NOT_A_NUMBER[got.dtype.name]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sign_of_a_sum_without_weights_is_1(fs, dtype):
    x = np.array([[0, 1], [-np.inf, -np.inf], [np.nan, 1], [np.inf, 0]], dtype)
    expected = fs.logsumexp(x)
    for options in ({}, {"b": 1}, {"b": np.ones(2, dtype)}):
        logarithms, signs = fs.logsumexp(x, return_sign=True, **options)
        np.testing.assert_array_equal(logarithms, expected)
        np.testing.assert_array_equal(signs, [1, 0, np.nan, 1])
        assert signs.dtype == dtype
    logarithm, sign = fs.logsumexp(x[0], return_sign=True)
    assert isinstance(logarithm, np.generic)
    assert isinstance(sign, np.generic)
    out = np.full((4, 1), 7, dtype)
    got, signs = fs.logsumexp(x, return_sign=True, keepdims=True, out=out)
    assert got is out
    assert signs.shape == (4, 1)
    np.testing.assert_array_equal(out[:, 0], expected)
    logarithms, signs = fs.logsumexp(x[:, :0], return_sign=True)
    np.testing.assert_array_equal(logarithms, -np.inf)
    np.testing.assert_array_equal(signs, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_any_magnitude(fs, dtype):
    """No product overflows, and no term that counts is lost."""
    for x, b, logarithm, sign in (
        ([0, 0], [1e300, 1e300], 691.469, 1),
        ([0, 0], [1e-300, 1e-300], -690.082, 1),
        ([600, -600], [1e-300, -1e300], 90.776, -1),
        ([80, -80, 0], [1e-300, 1e300, -1e-300], 610.776, 1),
        ([1e4, 0], [1e-300, 1e300], 9309.224, 1),
        ([-1e4, 0], [1e300, 1e-300], -690.776, 1),
        ([0, 0, 0], [1e308, 1e308, 1e308], 710.295, 1),
        ([700, 690], [1e-304, -1e-300], -0.591, 1),
        ([4e37, 8e-15], [-1e283, -2e-56], 4e37, -1),
        ([-1e37, -3e37, -2e37], [1, 1e300, -1e-300], -1e37, 1),
    ):
        row, weights = np.array([x], dtype), np.array([b])
        settings = Settings((1,), b=weights, return_sign=True)
        (exact, allowed), (signs, _) = promised("logsumexp", (row,), settings, fs.name)
        np.testing.assert_allclose(float(exact[0]), logarithm, rtol=1e-7, atol=1e-3)
        assert signs == sign
        got = fs.logsumexp(row, b=weights, return_sign=True, dtype=dtype)
        assert within(got[0], exact, allowed).all()
        assert got[1] == sign


def test_the_dtype_of_a_weighted_sum_is_that_of_both(fs):
    for x, b, result in (
        ("f4", "f4", "f4"), ("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f2", "f4", "f4"), ("f4", "f2", "f4"),
        ("f4", "i1", "f4"), ("f4", "i8", "f8"), ("i1", "f4", "f4"), ("i8", "i1", "f8"), ("f2", "?", "f2"),
        ("f4", ">f8", "f8"), (">f4", ">f4", "f4"), ("f4", "g", "g"), ("g", "f4", "g"),
    ):  # fmt: skip
        given = np.zeros(3, x), np.ones(3, b)
        got = fs.logsumexp(given[0], b=given[1])
        assert got.dtype == np.dtype(result)
        assert got.dtype.isnative
        np.testing.assert_allclose(got, np.log(3), rtol=1e-3)
        assert fs.logsumexp(given[0], b=given[1], dtype="f4").dtype == np.float32
    for number in (2, 2.0, -3):  # has no dtype of its own
        for dtype in ("f2", "f4", "f8", "i4"):
            got = fs.logsumexp(np.zeros(3, dtype), b=number, return_sign=True)
            assert got[0].dtype == (np.float64 if dtype == "i4" else dtype)
            np.testing.assert_allclose(got[0], np.log(3 * abs(number)), rtol=1e-3)
            assert got[1] == np.sign(number)
    assert fs.logsumexp(np.zeros(3, "f4"), b=np.float64(2)).dtype == np.float64


def test_16_bits_of_two_kinds_have_no_common_dtype(fs):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    message = "^x and b must have a common dtype, got float16 and bfloat16; cast one of them$"
    with pytest.raises(TypeError, match=message):
        fs.logsumexp(np.zeros(3, np.float16), b=np.ones(3, bfloat16))
    got = fs.logsumexp(np.zeros(3, np.float16), b=np.ones(3, bfloat16), dtype=np.float32)
    np.testing.assert_allclose(got, np.log(3), rtol=1e-6)


@pytest.mark.parametrize("b", [(33,), (7, 1), (1, 33), (5, 1, 1), (5, 7, 33), (1,), ()], ids=str)
def test_weights_are_broadcast(fs, b):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(0, 3, (5, 7, 33)), rng.normal(0, 1, b)
    full = np.broadcast_to(weights, x.shape)
    for axis in (-1, 0, 1, None, (0, 2), ()):
        total = (full * np.exp(x)).sum(axis=axis)
        logarithms, signs = fs.logsumexp(x, axis, b=weights, return_sign=True)
        np.testing.assert_array_equal(signs, np.sign(total))
        cancelled = (abs(full) * np.exp(x)).sum(axis=axis) / abs(total)
        error = abs(logarithms - np.log(abs(total)))
        assert np.all(error <= 4e-15 * np.maximum(cancelled, 8))


@pytest.mark.parametrize("n", [2, 15, 16, 17, 46, 64, 65, 130, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_special_value_anywhere_in_a_row_of_any_length(fs, n, dtype, special):
    """Also beside rows without one, which must not notice."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (40, n)).astype(dtype)
    plain = fs.softmax(x), fs.log_softmax(x), fs.logsumexp(x)
    for at in {0, n // 2, n - 1}:
        y = x.copy()
        y[::3, at] = special
        soft, log, total = fs.softmax(y), fs.log_softmax(y), fs.logsumexp(y)
        untouched = np.arange(40) % 3 > 0
        for got, same in zip((soft, log, total), plain, strict=True):
            np.testing.assert_array_equal(got[untouched], same[untouched])
        if special == -np.inf:
            assert np.all(soft[::3, at] == 0)
            assert np.all(log[::3, at] == -np.inf)
            np.testing.assert_allclose(soft[::3].sum(axis=1), 1, rtol=1e-6)
        else:
            check(soft[::3].ravel(), np.full(soft[::3].size, np.nan), dtype)
            check(log[::3].ravel(), np.full(log[::3].size, np.nan), dtype)
            np.testing.assert_array_equal(total[::3], special)


EMPTY = [
    # shape, axis, shape of logsumexp
    ((0,), -1, ()),
    ((3, 0), -1, (3,)),
    ((0, 3), -1, (0,)),
    ((0, 3), 0, (3,)),
    ((2, 0, 3), 1, (2, 3)),
    ((2, 0, 3), (0, 2), (0,)),
    ((2, 0, 3), None, ()),
    ((0, 0), -1, (0,)),
]


@pytest.mark.parametrize(("shape", "axis", "reduced"), EMPTY)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "longdouble"])
def test_empty_arrays(fs, shape, axis, reduced, dtype):
    x = np.empty(shape, dtype)
    result = np.float64 if dtype == "int8" else dtype
    for name in ("softmax", "log_softmax"):
        got = getattr(fs, name)(x, axis)
        assert got.shape == shape
        assert got.dtype == result
    got = fs.logsumexp(x, axis)
    assert np.shape(got) == reduced
    assert np.all(got == -np.inf)
    assert fs.logsumexp(x, axis, keepdims=True).ndim == len(shape)
    out = np.zeros(reduced, result)
    assert fs.logsumexp(x, axis, out=out) is out
    assert np.all(out == -np.inf)


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
@pytest.mark.parametrize("x", [3.5, np.float32(3.5), np.array(3.5), 7, True])
def test_a_scalar_is_a_row_of_itself(fs, x, axis):
    dtype = np.float32 if isinstance(x, np.float32) else np.float64
    for got, expected in (
        (fs.softmax(x, axis), 1),
        (fs.log_softmax(x, axis), 0),
        (fs.logsumexp(x, axis), float(x)),
    ):
        assert isinstance(got, dtype)
        assert got == expected


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf])
def test_a_scalar_that_is_not_finite_is_a_row_of_itself_too(fs, x):
    assert np.isnan(fs.softmax(x))
    assert np.isnan(fs.log_softmax(x))
    np.testing.assert_equal(float(fs.logsumexp(x)), x)


def test_no_axes_give_ones(fs):
    x = np.array([[1.0, 2.0], [-np.inf, 4.0]])
    np.testing.assert_array_equal(fs.softmax(x, ()), [[1, 1], [np.nan, 1]])
    np.testing.assert_array_equal(fs.log_softmax(x, ()), [[0, 0], [np.nan, 0]])
    np.testing.assert_array_equal(fs.logsumexp(x, ()), x)


CLASSIC = [
    # By mpmath, for the numbers as written in decimal.
    ([7.0, 2.0, 0.1], [0.99231380279877657, 0.006686157809719105, 0.0010000393915043245]),
    ([1.0, 2.0, 1.0], [0.21194155761708544, 0.57611688476582912, 0.21194155761708544]),
    ([1000.0, 1000.0], [0.5, 0.5]),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-7), ("float64", 4e-16)])
@pytest.mark.parametrize(("x", "expected"), CLASSIC)
def test_classic_values(fs, x, dtype, tolerance, expected):
    got = fs.softmax(np.array(x, dtype))
    np.testing.assert_allclose(got, expected, rtol=tolerance)
    assert abs(float(got.sum()) - 1) < tolerance


def test_no_warning_and_no_floating_point_error_reaches_the_caller(fs):
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        for _, x, where, *_ in EDGE_CASES:
            for dtype in FLOATS[1:]:
                row = np.array(x, dtype=dtype)
                fs.softmax(row, where=where)
                fs.log_softmax(row, where=where)
                fs.logsumexp(row, where=where)
        fs.softmax(np.array([0.0, -100.0, -87.5], np.float32))
        fs.softmax(np.array([1e308, -1e308]), dtype=np.float32)


# ---- NaNs of any sign and payload ----


def not_numbers(dtype):
    """Return NaNs of both signs and many payloads, quiet and signalling."""
    quiet = NOT_A_NUMBER[dtype.name]
    width = 8 * dtype.itemsize
    infinity = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}.get(
        dtype.name, 0x7FF << 52
    )
    bits = [quiet, quiet | 0x15, infinity | 1, infinity | 0x2A, 2 ** (width - 1) - 1]
    bits += [one | 1 << (width - 1) for one in bits]
    return np.array(bits, f"u{dtype.itemsize}").view(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_nan_is_the_canonical_one(fs, call, dtype):
    if dtype == "bfloat16" and ml_dtypes is None:
        pytest.skip("needs ml_dtypes")
    dtype = np.dtype(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
    nans = not_numbers(dtype)
    casts = [{}]
    if "dtype" in call.options:
        casts += [{"dtype": other} for other in ("float16", "float32", "float64")]
    takes_both = call.from_rows is SOFTMAX_BACKWARD.from_rows
    for n, axis in itertools.product((1, 2, 3, 10, 16, 17, 64, 300), (-1, 0)):
        shape = (len(nans), n) if axis else (n, len(nans))
        plain = np.random.default_rng(n).uniform(0.5, 1, (2, *shape)).astype(dtype)
        options = call.given(plain[1], axis)
        options |= {} if call.axes == "none" else {"axis": axis}
        options |= {"return_grad": True} if "return_grad" in call.options else {}
        for at, cast in itertools.product((0, 1) if takes_both else (0,), casts):
            both = plain.copy()
            rows = np.moveaxis(both[at], axis, -1)
            rows[np.arange(len(nans)), np.arange(len(nans)) % n] = nans
            for got in call.call(fs, call.from_rows(*both, axis), **options, **cast):
                bits = np.ascontiguousarray(got[got != got]).view(f"u{got.itemsize}")
                assert set(bits.tolist()) == {NOT_A_NUMBER[got.dtype.name]}


# ---- as many dimensions as NumPy has ----

MANY = (1,) * (MOST_DIMENSIONS - 1) + (3,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8"])
def test_no_axes_of_as_many_dimensions_as_there_are(fs, dtype):
    x = np.ones(MANY, dtype)
    for options in ({}, {"where": np.ones(MANY, bool)}, {"where": np.ones((), bool)}):
        one = fs.softmax(x, (), **options)
        assert one.shape == MANY
        assert np.all(one == 1)
        out = np.full(MANY, 7, one.dtype)
        assert fs.softmax(x, (), out=out, **options) is out
        assert np.all(out == 1)
        assert np.all(fs.log_softmax(x, (), **options) == 0)
        np.testing.assert_array_equal(fs.logsumexp(x, (), **options), x)


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.axes != "none"], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_as_many_dimensions_as_there_are(fs, function, dtype):
    """As the row, or the three rows of one element, that it is without the others."""
    last = MOST_DIMENSIONS - 1
    several = [None, (), (last,), (0, last), (0, 1), tuple(range(last)), tuple(range(last + 1))]
    for axis in [-1, last, 0, 5, -last - 1, *(several if function.axes == "several" else [])]:
        axes = range(last + 1) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        plain = (1, 3) if last in [d % (last + 1) for d in axes] else (3, 1)
        x, y = np.random.default_rng(0).random((2, *plain)).astype(dtype)
        expected = function.call(fs, function.from_rows(x, y, -1))
        many = [x.reshape(MANY), y.reshape(MANY)]
        operands = function.from_rows(*many, axis if isinstance(axis, int) else -1)
        if function.axes == "several":
            operands = tuple(many[: len(operands)])
        options = {"axis": axis}
        if "where" in function.options:
            options["where"] = np.ones(MANY, bool)
        got = function.call(fs, operands, **options)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(np.ravel(one), np.ravel(other))
            assert not function.keeps_shape or one.shape == MANY
        if "out" in function.options:
            out = np.full(np.shape(got[0]), 7, dtype)
            assert function.call(fs, operands, **options, out=out)[0] is out
            np.testing.assert_array_equal(out, got[0])


def test_weights_that_enlarge_the_elements(fs):
    x, b = np.arange(3.0)[:, np.newaxis], np.array([1, -2, 0.5, 0])
    both = np.broadcast_to(x, (3, 4)).copy(), np.broadcast_to(b, (3, 4)).copy()
    for options in ({"axis": 0}, {"axis": None}, {}, {"where": b > 0}):
        got = fs.logsumexp(x, b=b, return_sign=True, **options)
        expected = fs.logsumexp(both[0], b=both[1], return_sign=True, **options)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)
