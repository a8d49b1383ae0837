"""A temperature for each row: what the scalar gives for it, whatever the other rows have."""

import numpy as np
import pytest
from functions import ENTROPY_OF_LABELS, ENTROPY_OF_TARGETS, LOG_SOFTMAX, SOFTMAX

from benchmarks.promised import Settings, promised, within

FUNCTIONS = (SOFTMAX, LOG_SOFTMAX, ENTROPY_OF_LABELS, ENTROPY_OF_TARGETS)
LENGTHS = [*range(1, 71), 300, 3000]


def rows_and_temperatures(n, dtype):
    """Return 40 rows, special ones among them, numbers from 0 to 1 and a temperature for each row."""
    rng = np.random.default_rng(n)
    x = rng.normal(0, 5, (40, n))
    x[3, n // 2], x[20, 0], x[30] = np.nan, np.inf, -np.inf
    x[7, ::2] = -np.inf
    x[11], x[25] = 3 * x[11] + 4090, 1000 * x[25]
    temperatures = np.exp(rng.uniform(-3, 3, 40))
    temperatures[::7] = 1
    temperatures[5:12:2] = 0.25
    return x.astype(dtype), rng.random(x.shape).astype(dtype), temperatures


def check_the_same(fs, got, expected):
    if fs.name == "numpy":  # which promises no bits
        eps = 8 * np.finfo(expected.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=eps, atol=eps)
    else:
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_row_has_the_bits_that_the_scalar_gives_it(fs, function, dtype):
    for n in LENGTHS if fs.name != "numpy" else (1, 2, 17, 300):
        x, y, temperatures = rows_and_temperatures(n, dtype)
        each = [
            function.of_rows(fs, row, other, temperature=float(t))
            for row, other, t in zip(x, y, temperatures, strict=True)
        ]
        expected = np.stack(each)
        for rows in (1, 3, 16, 40):
            for first in {0, 40 - rows}:
                part = slice(first, first + rows)
                column = temperatures[part, np.newaxis]
                got = function.of_rows(fs, x[part], y[part], temperature=column)
                check_the_same(fs, got, expected[part])
        side_by_side = function.of_rows(fs, x.T.copy(), y.T.copy(), 0, temperature=temperatures)
        check_the_same(fs, np.ascontiguousarray(side_by_side.T), expected)
        backwards = temperatures[::-1, np.newaxis].copy()[::-1]
        swapped = temperatures[:, np.newaxis].astype(">f8")
        for given in (backwards, swapped, swapped.tolist()):
            check_the_same(fs, function.of_rows(fs, x, y, temperature=given), expected)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_accurate_where_dividing_first_is_not(fs, name, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 30, (64, 300)).astype(dtype)
    temperatures = rng.uniform(0.2, 3, (64, 1)).astype(dtype)
    settings = Settings((1,), temperature=temperatures)
    ((exact, allowed),) = promised(name, (x,), settings, fs.name)
    assert within(getattr(fs, name)(x, temperature=temperatures), exact, allowed).all()
    divided = getattr(fs, name)(x / temperatures)
    assert name == "log_softmax" or not within(divided, exact, 10 * allowed).all()


def test_it_broadcasts_to_the_rows(fs):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (4, 5, 6))
    for axis, shape in (
        (-1, (4, 5, 1)), (-1, (5, 1)), (-1, (4, 1, 1)), (-1, (1,)), (0, (5, 6)), (0, (6,)), (1, (4, 1, 6)),
        ((0, 2), (5, 1)), ((0, 1), (6,)), (None, (1, 1, 1)), ((), (4, 5, 6)), ((), (6,)), ((), (4, 1, 1)),
    ):  # fmt: skip
        temperatures = rng.uniform(0.3, 3, shape)
        full = np.broadcast_to(temperatures, x.shape)
        for name in ("softmax", "log_softmax"):
            got = getattr(fs, name)(x, axis, temperature=temperatures)
            expected = getattr(fs, name)(x / full, axis)
            np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", ["bool", "int8", "uint64", "float16", "float32", "longdouble"])
def test_it_is_of_any_dtype_of_real_numbers_whose_value_it_has(fs, kind):
    """Not rounded to the dtype of the rows."""
    x = np.random.default_rng(0).normal(0, 3, (5, 7)).astype(np.float16)
    given = np.array([[1], [2], [3], [1], [7]]).astype(kind)
    if given.dtype.kind == "f":
        given /= 3
    expected = fs.softmax(x, temperature=given.astype(float))
    np.testing.assert_array_equal(fs.softmax(x, temperature=given), expected)
    tiny = np.array([[1 + 2.0**-30], [1]])
    wide = np.array([[4000, 4001], [4000, 4001]], np.float32)
    got = fs.log_softmax(wide, temperature=tiny)
    alone = [
        fs.log_softmax(row, temperature=float(t[0])) for row, t in zip(wide, tiny, strict=True)
    ]
    check_the_same(fs, got, np.stack(alone))


def test_of_no_rows_too(fs):
    for shape in ((0, 3), (3, 0)):
        temperatures = np.ones((shape[0], 1))
        assert fs.softmax(np.empty(shape), temperature=temperatures).shape == shape
    with pytest.raises(ValueError, match=r"^temperature must be finite and above 0, got 0\.0 at"):
        fs.softmax(np.empty((3, 0)), temperature=np.zeros((3, 1)))


def test_temperatures_may_lie_where_the_result_goes(fs):
    x = np.random.default_rng(0).normal(0, 3, (50, 8))
    temperatures = np.linspace(0.5, 3, 50)[:, np.newaxis]
    expected = fs.softmax(x, temperature=temperatures)
    for start in (0, 1, 8, 300):
        memory = np.zeros(900)
        out = memory[:400].reshape(50, 8)
        inside = memory[start : start + 50].reshape(50, 1)
        inside[...] = temperatures
        assert fs.softmax(x, temperature=inside, out=out) is out
        np.testing.assert_array_equal(out, expected)
