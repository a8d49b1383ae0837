"""Softmax over ragged rows: each as by itself, whatever lies around it."""

import itertools
import re

import numpy as np
import pytest


def ragged(rows=200, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 60, rows)
    lengths[[3, 4, 17]] = 0
    lengths[5] = 5000
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return rng.normal(0, 3, indptr[-1]).astype(dtype), indptr


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_each_row_is_the_softmax_of_that_row(fs, dtype):
    data, indptr = ragged(dtype=dtype)
    got = fs.segment_softmax(data, indptr)
    assert got.dtype == data.dtype
    for start, stop in itertools.pairwise(indptr):
        expected = fs.softmax(data[start:stop])
        if fs.name == "numpy" or dtype == "longdouble":
            np.testing.assert_allclose(got[start:stop], expected, rtol=8 * np.finfo(dtype).eps)
        else:
            np.testing.assert_array_equal(got[start:stop], expected)


def test_special_values_stay_in_their_row(fs):
    data = np.array([0, -np.inf, np.nan, 1, np.inf, 2, -np.inf, -np.inf, 5], np.float32)
    got = fs.segment_softmax(data, [0, 2, 4, 6, 8, 9])
    np.testing.assert_array_equal(got, [1, 0, *[np.nan] * 6, 1])


def test_outputs_layouts_and_types(fs):
    data, indptr = ragged()
    expected = fs.segment_softmax(data, indptr)
    spread = np.repeat(data, 3)[::3]
    np.testing.assert_array_equal(fs.segment_softmax(spread, indptr), expected)
    np.testing.assert_array_equal(fs.segment_softmax(data.astype(">f8"), indptr), expected)
    np.testing.assert_array_equal(fs.segment_softmax(data.tolist(), indptr.tolist()), expected)
    np.testing.assert_array_equal(fs.segment_softmax(data, indptr.astype(np.uint16)), expected)
    for out in (np.empty_like(data), np.empty(3 * data.size)[::3], data.copy()):
        assert fs.segment_softmax(data, indptr, out=out) is out
        np.testing.assert_array_equal(out, expected)
    inplace = data.copy()
    fs.segment_softmax(inplace, indptr, out=inplace)
    np.testing.assert_array_equal(inplace, expected)
    assert fs.segment_softmax([3, 3, 1], [0, 2, 3]).dtype == np.float64
    assert fs.segment_softmax([], [0, 0, 0]).shape == (0,)


def test_csr_matrices(fs):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.random_array((30, 40), density=0.2, format="csr", rng=np.random.default_rng(0))
    dense = matrix.toarray()
    kept = dense != 0
    matrix.data = fs.segment_softmax(matrix.data, matrix.indptr)
    np.testing.assert_allclose(matrix.toarray(), fs.softmax(dense, where=kept), rtol=1e-15)


BAD = [
    ([0, 3, 2, 5], ValueError, "indptr must not decrease, got 3 followed by 2 at index 2"),
    ([1, 5], ValueError, "indptr must start with 0, got 1"),
    ([-1, 5], ValueError, "indptr must start with 0, got -1"),
    ([0, 4], ValueError, "indptr must end with the length of data, 5, got 4"),
    ([0, 6], ValueError, "indptr must end with the length of data, 5, got 6"),
    ([0, 2**32 + 5], ValueError, "indptr must end with the length of data, 5, got 4294967301"),
    ([0], ValueError, "indptr must end with the length of data, 5, got 0"),
    ([[0, 5]], ValueError, "indptr must be 1-D and hold at least the 0, got shape (1, 2)"),
    (np.array([], int), ValueError, "indptr must be 1-D and hold at least the 0, got shape (0,)"),
    (5, ValueError, "indptr must be 1-D"),
    ([0.0, 5.0], TypeError, "indptr must be of an integer dtype, got float64"),
    ([False, True], TypeError, "indptr must be of an integer dtype, got bool"),
    (np.array([0, 2**64 - 1, 5], np.uint64), ValueError, "indptr must not decrease"),
]


@pytest.mark.parametrize(("indptr", "exception", "message"), BAD)
def test_bad_row_pointers(fs, indptr, exception, message):
    out = np.full(5, 7.0)
    with pytest.raises(exception, match=re.escape(message)):
        fs.segment_softmax(np.zeros(5), indptr, out=out)
    assert np.all(out == 7)


def test_other_bad_arguments(fs):
    out = np.full(5, 7.0)
    for data, options, exception, message in (
        (np.zeros((1, 5)), {}, ValueError, "data must be 1-D, got shape (1, 5)"),
        (3.0, {}, ValueError, "data must be 1-D, got shape ()"),
        (np.zeros(5, complex), {}, TypeError, "data must be of dtype"),
        (np.ma.zeros(5), {}, TypeError, "data must not be a MaskedArray"),
        (np.zeros(5), {"workers": 0}, ValueError, "workers must be positive"),
        (
            np.zeros(5, "f4"),
            {},
            TypeError,
            "out must be of dtype float32, the result's, got float64",
        ),
    ):
        with pytest.raises(exception, match=re.escape(message)):
            fs.segment_softmax(data, [0, 5], out=out, **options)
    assert np.all(out == 7)


def test_row_pointers_of_nothing(fs):
    for indptr in ([], (), [[]]):
        message = "indptr must be 1-D and hold at least the 0, got shape (0,); for no rows pass [0]"
        with pytest.raises(
            ValueError, match=re.escape(message.replace("(0,)", str(np.shape(indptr))))
        ):
            fs.segment_softmax([], indptr)
    with pytest.raises(TypeError, match="indptr must be of an integer dtype, got float64"):
        fs.segment_softmax([], np.empty(0))
    for indptr in ([0], np.zeros(1, np.uint8), [0, 0]):
        assert fs.segment_softmax([], indptr).shape == (0,)
