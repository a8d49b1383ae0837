"""Functions of ragged rows: each as by itself, whatever lies around it."""

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


NAMES = ("segment_softmax", "segment_log_softmax", "segment_logsumexp")


def each_alone(fs, name, data, indptr, **options):
    """Return what the function of rows gives for each segment and further index, in one array."""
    function = getattr(fs, name.removeprefix("segment_"))
    shape = (len(indptr) - 1, *data.shape[1:]) if name == "segment_logsumexp" else data.shape
    result = np.full(shape, -np.inf, data.dtype)
    for i, (start, stop) in enumerate(itertools.pairwise(indptr)):
        place = i if name == "segment_logsumexp" else slice(start, stop)
        for index in np.ndindex(data.shape[1:]):
            row = data[(slice(start, stop), *index)].copy()
            result[(place, *index)] = function(row, **options)
    return result


def check_the_same(fs, got, expected):
    assert got.dtype == expected.dtype
    if fs.name == "numpy" or expected.dtype.char == "g":
        eps = np.finfo(expected.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=8 * eps, atol=eps)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_each_segment_is_as_that_row_by_itself(fs, dtype, name):
    data, indptr = ragged(dtype=dtype)
    got = getattr(fs, name)(data, indptr)
    check_the_same(fs, got, each_alone(fs, name, data, indptr))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (8,), (16,), (17,), (2, 5), (0,), (3, 0)])
def test_what_further_axes_hold_are_rows_of_their_own(fs, dtype, name, shape):
    lengths = [3, 0, 1, 70, 17, 0, 2, 300]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(0)
    data = rng.normal(0, 3, (indptr[-1], *shape)).astype(dtype)
    data[rng.random(data.shape) < 0.01] = -np.inf
    data[[4, 100]] = np.nan
    expected = each_alone(fs, name, data, indptr)
    function = getattr(fs, name)
    check_the_same(fs, function(data, indptr), expected)
    turned = np.array(data.T, order="C").T
    check_the_same(fs, function(turned, indptr), expected)
    check_the_same(fs, function(data[::-1].copy()[::-1], indptr.astype("u2")), expected)
    out = np.full(expected.shape[::-1], 7, dtype).T
    assert function(data, indptr, out=out) is out
    check_the_same(fs, out, expected)
    if name != "segment_logsumexp":
        assert function(data, indptr, out=data) is data
        check_the_same(fs, data, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (8,), (33,)])
def test_many_short_segments(native_fs, dtype, name, shape):
    """Those of one length are computed together, wherever they lie; some have rows that are not."""
    rng = np.random.default_rng(len(shape) and shape[0])
    lengths = rng.geometric(0.2, 2500 if shape == () else 300) - 1
    lengths[rng.random(len(lengths)) < 0.02] *= 30
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = rng.normal(0, 3, (indptr[-1], *shape)).astype(dtype)
    places = rng.random(data.shape) < 0.003
    data[places] = rng.choice([np.nan, np.inf, -np.inf, 5000, -1e30], data.shape)[places]
    function = getattr(native_fs, name)
    expected = each_alone(native_fs, name, data, indptr)
    check_the_same(native_fs, function(data, indptr), expected)
    if name != "segment_logsumexp":
        check_the_same(native_fs, function(data, indptr, out=data), expected)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("temperature", [0.3, 2, np.float32(0.7), np.array(5.0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_temperature_for_all_segments(fs, dtype, name, temperature):
    data, indptr = ragged(40, dtype)
    got = getattr(fs, name)(data, indptr, temperature=temperature)
    check_the_same(fs, got, each_alone(fs, name, data, indptr, temperature=temperature))
    heads = np.stack([data, data[::-1]], axis=1)
    got = getattr(fs, name)(heads, indptr, temperature=temperature)
    check_the_same(fs, got, each_alone(fs, name, heads, indptr, temperature=temperature))


def test_of_nothing_the_logarithm_of_the_sum_is_that_of_0(fs):
    for data, indptr, shape in (
        (np.ones(3), [0, 0, 3, 3], (3,)),
        (np.ones((3, 2)), [0, 0, 3, 3], (3, 2)),
        (np.ones(0), [0, 0, 0], (2,)),
        (np.ones((0, 4)), [0, 0], (1, 4)),
        (np.ones((2, 0)), [0, 1, 2], (2, 0)),
        ([], [0], (0,)),
    ):
        expected = np.full(shape, -np.inf)
        if np.size(data):
            expected[1] = 1 + np.log(3)
        for out in (None, np.full(shape, 7.0)):
            got = fs.segment_logsumexp(data, indptr, out=out)
            assert out is None or got is out
            assert got.shape == shape
            np.testing.assert_allclose(got, expected, rtol=1e-15)


# ---- gradients, by recipes ----


def sums_of_segments(values, indptr):
    """Return the sum of each segment, repeated for each of its elements.

    By `numpy.add.reduceat`, which gives an element for an empty segment: those are left out.
    """
    lengths = np.diff(indptr)
    sums = np.add.reduceat(values, indptr[:-1][lengths > 0], axis=0)
    return np.repeat(sums, lengths[lengths > 0], axis=0)


def segment_softmax_backward(grad_output, output, indptr):
    return output * (grad_output - sums_of_segments(grad_output * output, indptr))


def segment_log_softmax_backward(grad_output, output, indptr):
    return grad_output - np.exp(output) * sums_of_segments(grad_output, indptr)


def segment_logsumexp_backward(fs, grad_output, data, indptr):
    return fs.segment_softmax(data, indptr) * np.repeat(grad_output, np.diff(indptr), axis=0)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("lengths", [[2, 0, 5, 1, 0, 0, 9, 0], [0, 0], [0, 4]])
def test_gradients_of_segments(fs, lengths, shape):
    """As the gradients of each row by itself, and as finite differences in extended precision."""
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(0)
    data, g = rng.normal(0, 2, (2, indptr[-1], *shape))
    of_sums = rng.normal(0, 2, (len(lengths), *shape))
    soft, log = fs.segment_softmax(data, indptr), fs.segment_log_softmax(data, indptr)
    got = {
        "segment_softmax": segment_softmax_backward(g, soft, indptr),
        "segment_log_softmax": segment_log_softmax_backward(g, log, indptr),
        "segment_logsumexp": segment_logsumexp_backward(fs, of_sums, data, indptr),
    }
    for start, stop in itertools.pairwise(indptr):
        own = slice(start, stop)
        for name, function, output in (
            ("segment_softmax", fs.softmax_backward, soft),
            ("segment_log_softmax", fs.log_softmax_backward, log),
        ):
            expected = function(g[own], output[own], 0)
            np.testing.assert_allclose(got[name][own], expected, rtol=1e-13, atol=1e-15)
    h = np.longdouble(2) ** -20
    wide = data.astype(np.longdouble)
    for name, weights in zip(NAMES, (g, g, of_sums), strict=True):
        function = getattr(fs, name)
        for index in np.ndindex(data.shape):
            step = np.zeros_like(wide)
            step[index] = h
            up, down = function(wide + step, indptr), function(wide - step, indptr)
            some = up > -np.inf  # but the logarithms of nothing
            numeric = (weights[some] * (up[some] - down[some])).sum() / (2 * h)
            np.testing.assert_allclose(float(numeric), got[name][index], rtol=1e-9, atol=1e-10)


# ---- special values, layouts, types ----


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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5,), (5, 2)])
@pytest.mark.parametrize(("indptr", "exception", "message"), BAD)
def test_bad_row_pointers(fs, indptr, exception, message, shape, name):
    out = np.full(shape, 7.0)
    with pytest.raises(exception, match=re.escape(message)):
        getattr(fs, name)(np.zeros(shape), indptr, out=out)
    assert np.all(out == 7)


OTHER_BAD = [
    (3.0, {}, ValueError, "data must have at least one axis, which indptr cuts; got 3.0"),
    (np.array(3), {}, ValueError, "data must have at least one axis, which indptr cuts; got 3"),
    (np.zeros(5, complex), {}, TypeError, "data must be of dtype"),
    (np.ma.zeros(5), {}, TypeError, "data must not be a MaskedArray"),
    ([[1], [2, 3]], {}, ValueError, "data must have rows of one length, got a list of several; join them with numpy.concatenate and use segment_softmax"),
    (np.zeros((4, 5)), {}, ValueError, "indptr must end with the length of data, 4, got 5"),
    (np.zeros(5), {"workers": 0}, ValueError, "workers must be positive"),
    (np.zeros(5, "f4"), {}, TypeError, "out must be of dtype float32, the result's, got float64"),
    (np.zeros((5, 1)), {}, ValueError, "out must have the result's shape "),
    (np.zeros(5), {"axis": 0}, TypeError, "got an unexpected keyword argument 'axis'"),
    (np.zeros(5), {"where": True}, TypeError, "got an unexpected keyword argument 'where'"),
]  # fmt: skip
BAD_TEMPERATURES = [
    (np.zeros(5), {"temperature": 0}, ValueError, "temperature must be finite and above 0, got 0"),
    (np.zeros(5), {"temperature": -np.inf}, ValueError, "temperature must be finite and above 0"),
    (np.zeros(5), {"temperature": "1"}, TypeError, "temperature must be a real number, got '1'"),
    (np.zeros(5), {"temperature": np.ones(5)}, TypeError, "temperature must be a real number, got array("),
    (np.zeros(5), {"temperature": [1.0]}, TypeError, "temperature must be a real number, got [1.0]"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_other_bad_arguments(fs, name):
    out = np.full(1 if name == "segment_logsumexp" else 5, 7.0)
    bad = OTHER_BAD if name == "segment_logsumexp" else [*OTHER_BAD, *BAD_TEMPERATURES]
    for data, options, exception, message in bad:
        with pytest.raises(exception, match=re.escape(message)):
            getattr(fs, name)(data, [0, 5], out=out, **options)
    if name == "segment_logsumexp":
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'temperature'"):
            fs.segment_logsumexp(np.zeros(5), [0, 5], temperature=1.0)
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
