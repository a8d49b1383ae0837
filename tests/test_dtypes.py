"""Which dtypes are accepted, what they give, and how they are rounded."""

import mpmath
import numpy as np
import pytest
from edge_cases import ACCEPTED_DTYPES, OF_ML_DTYPES, REFUSED, REFUSED_DTYPES
from functions import FUNCTIONS as ALL_FUNCTIONS

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
ACCEPTED = {
    "where": "of dtype bool",
    "labels": "class indices of an integer dtype or probabilities of a floating-point dtype",
    "indptr": "of an integer dtype",
    "out": "of dtype float64, the result's",
    "dtype": "float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble",
}
OPERAND = "of dtype bool, an integer dtype, float16, bfloat16 (of ml_dtypes), float32, float64 or longdouble"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "result"), ACCEPTED_DTYPES)
def test_result_dtype(fs, name, dtype, result):
    x = np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype)
    got = getattr(fs, name)(x)
    assert got.dtype == result
    expected = getattr(fs, name)(x.astype(np.float64))
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=1e-3)
    assert getattr(fs, name)(x, where=np.array([True, False, True])).dtype == result


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i8", "g"])
def test_any_byte_order_is_accepted_and_the_result_is_native(fs, name, dtype):
    x = np.array([[3, -1, 2], [0, 5, 4]]).astype(dtype)
    swapped = x.astype(x.dtype.newbyteorder())
    assert not swapped.dtype.isnative
    got, expected = getattr(fs, name)(swapped), getattr(fs, name)(x)
    assert got.dtype == expected.dtype
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("named", REFUSED)
def test_other_dtypes_are_refused_by_name(fs, name, named):
    with pytest.raises(
        TypeError, match="x must be of dtype bool, an integer dtype, float16"
    ) as info:
        getattr(fs, name)(REFUSED[named])
    assert named.split("'")[0] in str(info.value)


def test_the_narrow_types_of_ml_dtypes_are_all_there():
    pytest.importorskip("ml_dtypes")
    names = {dtype.name for dtype in OF_ML_DTYPES}
    assert {"float8_e5m2", "float8_e4m3fn", "int4", "uint4"} <= names
    assert "bfloat16" not in names


@pytest.mark.parametrize("dtype", REFUSED_DTYPES, ids=str)
@pytest.mark.parametrize("function", ALL_FUNCTIONS, ids=str)
def test_a_dtype_that_an_argument_may_not_have_is_named_with_those_it_may(fs, function, dtype):
    """Whatever the argument, and where it is empty too."""
    for rows in (3, 0):
        operands = function.make((3, 4), np.float64, np.random.default_rng(0))
        if rows == 0 and function.axes != "none":
            operands = tuple(operand[:0] for operand in operands)
        elif rows == 0:
            operands = operands[0][:0], operands[1][:1]
        arguments = dict(zip(function.operands, operands, strict=True))
        shapes = {name: array.shape for name, array in arguments.items()}
        shapes["where"] = shapes[function.operands[0]]
        shapes["out"] = shapes["where"] if function.keeps_shape else (rows,)
        for name in [*function.operands, *({"where", "out", "dtype"} & {*function.options})]:
            wrong = dtype if name == "dtype" else np.zeros(shapes[name], dtype)
            with pytest.raises(TypeError) as info:
                getattr(fs, function.name)(**{**arguments, name: wrong})
            accepted = ACCEPTED.get(name, OPERAND)
            assert str(info.value) == f"{name} must be {accepted}, got {dtype}"


def test_integers_are_converted_before_anything_else(fs):
    np.testing.assert_allclose(fs.softmax(np.array([127, -128], np.int8)), [1, np.exp(-255.0)])
    np.testing.assert_allclose(fs.softmax(np.array([0, 255], np.uint8)), [np.exp(-255.0), 1])
    big = np.array([2**64 - 1, 0], np.uint64)
    np.testing.assert_array_equal(fs.softmax(big), [1, 0])
    np.testing.assert_allclose(fs.softmax([True, False]), [np.e / (1 + np.e), 1 / (1 + np.e)])


@pytest.mark.parametrize("x", [[1, 2.5], (1, 2), [[1], [2]], range(4), [np.float32(1), 2]])
def test_whatever_asarray_takes(fs, x):
    np.testing.assert_array_equal(fs.softmax(x), fs.softmax(np.asarray(x)))


def test_dtype_is_cast_to_first(fs):
    x = np.array([0.1, 0.2, 0.3])
    narrow = fs.softmax(x, dtype=np.float32)
    assert narrow.dtype == np.float32
    np.testing.assert_array_equal(narrow, fs.softmax(x.astype(np.float32)))
    wide = fs.softmax(np.arange(3), dtype="longdouble")
    assert wide.dtype == np.longdouble
    out = np.empty(3, np.float32)
    assert fs.log_softmax(x, dtype="f4", out=out) is out
    np.testing.assert_array_equal(fs.softmax(x, dtype=">f8"), fs.softmax(x))
    assert fs.logsumexp(np.float32([1, 2]), dtype=float).dtype == np.float64
    assert np.isnan(fs.softmax(np.array([1e300, 0]), dtype=np.float32)).all()  # as of +inf


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("asked", [np.float16, "f4", float, np.dtype("g")], ids=str)
@pytest.mark.parametrize("dtype", [dtype for dtype, _ in ACCEPTED_DTYPES])
def test_dtype_gives_what_it_gives_to_cast_first(fs, name, dtype, asked):
    x = abs(np.random.default_rng(0).normal(0, 3, (5, 33))).astype(dtype)
    got, expected = getattr(fs, name)(x, dtype=asked), getattr(fs, name)(x.astype(asked))
    assert got.dtype == expected.dtype == asked
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("code", "?bBhHiIlLqQ")
def test_a_dtype_of_integers_is_refused_even_if_it_is_that_of_x(fs, name, code):
    for dtype in (code, np.dtype(code), np.dtype(code).type):
        with pytest.raises(TypeError, match=r"^dtype must be "):
            getattr(fs, name)(np.ones(3, code), dtype=dtype)


@pytest.mark.parametrize("dtype", [int, bool, complex, object, str, "datetime64[s]", "nonsense"])
def test_a_dtype_that_is_not_floating_point_is_refused(fs, dtype):
    with pytest.raises(TypeError, match="dtype must be float16, bfloat16"):
        fs.softmax([1.0, 2.0], dtype=dtype)


@pytest.mark.parametrize("n", [1, 5, 16, 33, 200])
def test_half_precision_is_computed_in_float32_and_rounded_once(fs, n):
    rng = np.random.default_rng(n)
    x = rng.normal(0, 4, (50, n)).astype(np.float16)
    for name in FUNCTIONS:
        got = getattr(fs, name)(x)
        single = getattr(fs, name)(x.astype(np.float32))
        double = getattr(fs, name)(x.astype(np.float64))
        # NumPy's backend rounds from float64, the kernels from float32.
        rounded = (single.astype(np.float16), double.astype(np.float16))
        assert np.all((got == rounded[0]) | (got == rounded[1]))
        exact = np.abs(got.astype(np.float64) - double)
        assert np.all(exact <= 0.501 * np.spacing(np.abs(double).astype(np.float16)))


def test_a_float16_sum_of_many_does_not_saturate(fs):
    x = np.zeros((2, 100_000), np.float16)
    np.testing.assert_array_equal(fs.softmax(x), np.float16(1e-5))
    np.testing.assert_array_equal(fs.logsumexp(x), np.float16(np.log(1e5)))


def test_bfloat16(fs):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    x = rng.normal(0, 4, (50, 46)).astype(ml_dtypes.bfloat16)
    for name in FUNCTIONS:
        got = getattr(fs, name)(x)
        assert got.dtype == ml_dtypes.bfloat16
        expected = getattr(fs, name)(x.astype(np.float64))
        error = np.abs(got.astype(np.float64) - expected)
        ulp = 2.0 ** (np.frexp(np.abs(expected))[1] - 8)
        assert np.all(error <= 0.501 * ulp)
    assert fs.softmax(x, dtype="float32").dtype == np.float32
    assert fs.softmax(x.astype(np.float32), dtype="bfloat16").dtype == ml_dtypes.bfloat16
    special = np.array([[np.nan, 1], [np.inf, 1], [-np.inf, -np.inf]], ml_dtypes.bfloat16)
    assert set(fs.softmax(special).view(np.uint16).ravel().tolist()) == {0x7FC0}
    with pytest.raises(TypeError, match="float8_e4m3"):
        fs.softmax(x.astype(ml_dtypes.float8_e4m3))


@pytest.mark.parametrize("function", ALL_FUNCTIONS, ids=str)
def test_bfloat16_of_any_byte_order_gives_native_results(fs, function):
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    swapped = bfloat16.newbyteorder()
    operands = function.make((3, 4), bfloat16, np.random.default_rng(0))
    given = [a.byteswap().view(swapped) if a.dtype == bfloat16 else a for a in operands]
    for got, expected in zip(function.call(fs, given), function.call(fs, operands), strict=True):
        assert got.dtype == bfloat16
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, expected)
    if "dtype" in function.options:
        assert function.call(fs, operands, dtype=swapped)[0].dtype.isnative


def test_longdouble_keeps_its_digits(fs):
    x = np.array([1, 2, 3], np.longdouble) / 3
    digits = np.finfo(np.longdouble).nmant
    with mpmath.workprec(200):
        terms = [mpmath.exp(mpmath.mpf(int(np.ldexp(v, digits))) / 2**digits) for v in x]
        exact = [term / sum(terms) for term in terms]
        got = [mpmath.mpf(int(np.ldexp(v, digits))) / 2**digits for v in fs.softmax(x)]
        assert all(
            abs(g - e) < 4 * mpmath.mpf(2) ** -digits for g, e in zip(got, exact, strict=True)
        )


def test_what_is_cast_is_cast_before_it_is_computed_in_float64(fs):
    """As a cross-entropy of float64 labels, and a logsumexp with weights, are."""
    rng = np.random.default_rng(0)
    for x in (rng.normal(0, 30, (5, 40)), rng.integers(-(2**60), 2**60, (5, 40)) // 2**54):
        single = x.astype(np.float32)
        labels, weights = rng.random((5, 40)), rng.normal(size=(5, 40))
        options = {"dtype": np.float32, "sample_weight": 2.5}
        got = fs.softmax_cross_entropy(x, labels, **options)
        np.testing.assert_array_equal(got, fs.softmax_cross_entropy(single, labels, **options))
        got = fs.logsumexp(x, b=weights, dtype=np.float32, return_sign=True)
        expected = fs.logsumexp(single, b=weights, dtype=np.float32, return_sign=True)
        np.testing.assert_array_equal(got, expected)
