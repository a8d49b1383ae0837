"""Cross-entropy: labels of both kinds, smoothing, gradients, edge cases and bad arguments."""

import re

import mpmath
import numpy as np
import pytest
from numpy.exceptions import AxisError

from benchmarks.exact import exact_log_softmax, exact_softmax, ulp_size

INF, NAN = np.inf, np.nan


def targets(labels, n, smoothing):
    """Return what the labels stand for, in long double."""
    t = np.asarray(labels)
    t = np.eye(n, dtype=np.longdouble)[t] if t.dtype.kind in "iu" else t.astype(np.longdouble)
    if smoothing == 0:
        return t
    return t * (1 - np.longdouble(smoothing)) + np.longdouble(smoothing) / n


def exact(x, t):
    """Return losses and gradients by the formula, in long double; 0 times infinity is 0."""
    terms = np.where(t == 0, 0, -t * exact_log_softmax(x))
    return terms.sum(axis=-1), t.sum(axis=-1, keepdims=True) * exact_softmax(x) - t


def inputs(n, dtype, scale=3):
    rng = np.random.default_rng(n)
    x = rng.normal(0, scale, (50, n)).astype(dtype)
    given = rng.random((50, n)).astype(dtype)
    return x, {
        "indices": rng.integers(0, n, 50),
        "probabilities": given / given.sum(axis=1, keepdims=True),
        "one-hot": np.eye(n, dtype=dtype)[rng.integers(0, n, 50)],
        "weights": (3 * given).astype(dtype),
    }


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["indices", "probabilities", "one-hot", "weights"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 16, 46, 300])
def test_losses_and_gradients_are_those_of_the_formula(fs, n, dtype, kind, smoothing):
    x, labels = inputs(n, dtype)
    t = targets(labels[kind], n, smoothing)
    loss, grad = fs.softmax_cross_entropy(
        x, labels[kind], label_smoothing=smoothing, return_grad=True
    )
    assert loss.dtype == grad.dtype == dtype
    expected, gradient = exact(x, t)
    # A loss is a sum of terms that are all positive: relative to itself. Targets are rounded once.
    assert np.all(np.abs(loss - expected) <= 6 * ulp_size(expected, dtype))
    size = np.abs(t) + t.sum(axis=-1, keepdims=True) * exact_softmax(x)
    assert np.all(np.abs(grad - gradient) <= 4 * ulp_size(size, dtype))
    alone = fs.softmax_cross_entropy(x, labels[kind], label_smoothing=smoothing)
    np.testing.assert_array_equal(alone, loss)


@pytest.mark.parametrize("gap", [1e-3, 1, 10, 30, 80, 700])
def test_accurate_where_the_loss_is_near_0_and_where_it_is_large(fs, gap):
    for n in (2, 5, 46):
        x = np.zeros((1, n))
        x[0, 1] = gap
        with mpmath.workprec(2000):
            rest = (n - 1) * mpmath.exp(-mpmath.mpf(gap))
            right = float(mpmath.log1p(rest))
            wrong = float(mpmath.log1p(rest) + mpmath.mpf(gap))
            gradient = float(-rest / (1 + rest))
        loss, grad = fs.softmax_cross_entropy(x, [1], return_grad=True)
        np.testing.assert_allclose(loss, [right], rtol=1e-15)
        np.testing.assert_allclose(grad[0, 1], gradient, rtol=1e-15)
        np.testing.assert_allclose(fs.softmax_cross_entropy(x, [0]), [wrong], rtol=1e-15)


def test_the_gradient_is_the_derivative_of_the_loss(fs):
    x, labels = inputs(7, "float64")
    for kind, smoothing in (("indices", 0.0), ("indices", 0.2), ("weights", 0.2)):
        options = {"label_smoothing": smoothing}
        _, grad = fs.softmax_cross_entropy(x, labels[kind], return_grad=True, **options)
        h = 1e-6
        for j in range(7):
            step = np.zeros(7)
            step[j] = h
            up = fs.softmax_cross_entropy(x + step, labels[kind], **options)
            down = fs.softmax_cross_entropy(x - step, labels[kind], **options)
            np.testing.assert_allclose((up - down) / (2 * h), grad[:, j], atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8"])
def test_dtypes(fs, dtype):
    x = np.array([[2, 0, -1], [0, 5, 1]]).astype(dtype)
    result = np.dtype(np.float64 if dtype == "int8" else dtype)
    loss, grad = fs.softmax_cross_entropy(x, np.array([0, 2], np.uint8), return_grad=True)
    assert loss.dtype == grad.dtype == result
    expected = fs.softmax_cross_entropy(x.astype(float), [0, 2])
    np.testing.assert_allclose(loss.astype(float), expected, rtol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_any_axis_and_layout(fs, axis):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (4, 5, 6))
    labels = rng.integers(0, x.shape[axis], np.delete(x.shape, axis))
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    expected, gradient = fs.softmax_cross_entropy(moved, labels, return_grad=True)
    one_hot = np.moveaxis(np.eye(x.shape[axis])[labels], -1, axis)
    for array in (x, np.asfortranarray(x), x[:, ::-1][:, ::-1]):
        for given in (labels, one_hot):
            loss, grad = fs.softmax_cross_entropy(array, given, axis, return_grad=True)
            np.testing.assert_allclose(loss, expected, rtol=1e-15)
            np.testing.assert_allclose(np.moveaxis(grad, axis, -1), gradient, rtol=0, atol=4e-16)


def test_a_single_row_gives_a_scalar(fs):
    loss, grad = fs.softmax_cross_entropy([0.0, 0.0], 1, return_grad=True)
    assert isinstance(loss, np.float64)
    np.testing.assert_allclose(loss, np.log(2))
    np.testing.assert_array_equal(grad, [0.5, -0.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_edge_cases(fs, dtype):
    x = np.array([[0, -INF, 0], [-INF, 0, 0], [NAN, 0, 0], [INF, 0, 0], [-INF] * 3], dtype)
    loss, grad = fs.softmax_cross_entropy(x, [0, 0, 1, 1, 1], return_grad=True)
    np.testing.assert_allclose(loss, [np.log(2), INF, NAN, NAN, NAN], rtol=1e-6)
    np.testing.assert_array_equal(grad[0], [-0.5, 0, 0.5])
    np.testing.assert_array_equal(grad[1], [-1, 0.5, 0.5])
    assert np.isnan(grad[2:]).all()
    given = np.array([[0.5, 0, 0.5], [0, 1, 0]], dtype)
    loss = fs.softmax_cross_entropy(x[:2], given)  # 0 against -inf contributes 0
    np.testing.assert_allclose(loss, [np.log(2)] * 2, rtol=1e-6)
    assert fs.softmax_cross_entropy(x[:1], [0], label_smoothing=0.1) == INF


@pytest.mark.parametrize(
    ("labels", "smoothing"), [(0, 1.0), (np.array([0.5, 0.5, 0]), 0.0)], ids=["smoothed", "share"]
)
def test_an_impossible_class_that_has_a_share_costs_inf(native_fs, labels, smoothing):
    x = np.array([-INF, 0, 1])
    assert native_fs.softmax_cross_entropy(x, labels, label_smoothing=smoothing) == INF


def test_empty(fs):
    loss, grad = fs.softmax_cross_entropy(np.empty((0, 3)), np.empty(0, int), return_grad=True)
    assert loss.shape == (0,)
    assert grad.shape == (0, 3)
    np.testing.assert_array_equal(fs.softmax_cross_entropy(np.empty((2, 0)), np.empty((2, 0))), 0)


X = np.zeros((2, 3))
LABELS = np.array([0, 1])
BAD = [
    ((X, [0, 3]), {}, IndexError, "labels must be class indices from 0 to 2 for 3 classes, got 3 at index 1"),
    ((X, [-1, 0]), {}, IndexError, "got -1 at index 0"),
    ((np.zeros((2, 3, 4)), [[0, 1, 2, 1], [0, 1, 9, 1]], 1), {}, IndexError, "got 9 at index (1, 2)"),
    ((X, np.array([0, 2**63], np.uint64)), {}, IndexError, "got 9223372036854775808 at index 1"),
    ((X, np.array([2**32, 0])), {}, IndexError, "got 4294967296 at index 0"),
    ((X, np.array([2**32, 0], np.uint64)), {}, IndexError, "got 4294967296 at index 0"),
    ((X[0], 3), {}, IndexError, "got 3"),
    ((X, [0]), {}, ValueError, "without the axis of the classes, (2,); got (1,)"),
    ((X, []), {}, ValueError, "labels of dtype int64 are class indices, whose shape must be that of logits without the axis of the classes, (2,); got (0,)"),
    ((np.zeros((0, 3)), np.empty(0)), {}, ValueError, "labels of dtype float64 are probabilities"),
    ((np.zeros((2, 0)), [0, 0]), {}, IndexError, "labels must be class indices, of which there are none: logits has no classes, got 0 at index 0"),
    ((X, [[0], [1]]), {}, ValueError, "without the axis of the classes, (2,); got (2, 1); pass numpy.reshape(labels, (2,))"),
    ((X, [[0, 1]]), {}, ValueError, "; got (1, 2); pass numpy.reshape(labels, (2,))"),
    ((X.T, [[0, 1]], 0), {}, ValueError, "; got (1, 2); pass numpy.reshape(labels, (2,))"),
    ((X[0], [1]), {}, ValueError, "without the axis of the classes, (); got (1,); pass numpy.reshape(labels, ())"),
    ((X[:, :1], [[0], [0]]), {}, ValueError, "; got (2, 1); pass numpy.reshape(labels, (2,))"),
    ((X, [[1, 0, 0], [0, 1, 0]]), {}, ValueError, "; got (2, 3); one-hot labels are probabilities: pass numpy.asarray(labels, 'float32')"),
    ((X, [[0.0], [1.0]]), {}, ValueError, "; got (2, 1); class indices are of an integer dtype: pass numpy.asarray(labels, 'int')"),
    ((LABELS, X), {}, ValueError, "whose shape must be that of logits, (2,); got (2, 3); the order is softmax_cross_entropy(logits, labels)"),
    ((LABELS.astype(float), X), {}, ValueError, "; the order is softmax_cross_entropy(logits, labels)"),
    ((LABELS[:, None], X), {}, ValueError, "; the order is softmax_cross_entropy(logits, labels)"),
    ((1, X[0]), {}, ValueError, "logits must have at least one axis, that of the classes; got 1"),
    ((X, [0.0, 1.0]), {}, ValueError, "labels of dtype float64 are probabilities, whose shape must be that of logits, (2, 3); got (2,)"),
    ((X, [True, False]), {}, TypeError, "labels must be class indices of an integer dtype or probabilities of a floating-point dtype, got bool; pass numpy.asarray(labels, 'int')"),
    ((X, [[True, False, False]] * 2), {}, TypeError, "got bool; pass numpy.asarray(labels, 'float32')"),
    ((X, ["a", "b"]), {}, TypeError, "labels must be class indices"),
    ((X, X + 1j), {}, TypeError, "labels must be class indices"),
    ((X, np.ma.array([0, 1])), {}, TypeError, "labels must not be a MaskedArray"),
    ((X + 1j, LABELS), {}, TypeError, "logits must be of dtype"),
    ((1.0, 0), {}, ValueError, "logits must have at least one axis"),
    ((X, LABELS, 2), {}, AxisError, "axis 2 is out of bounds"),
    ((X, LABELS, None), {}, TypeError, "axis must be an integer, the axis of the classes, got None"),
    ((X, LABELS, (0,)), {}, TypeError, "axis must be an integer, the axis of the classes"),
    ((X, LABELS), {"label_smoothing": -0.1}, ValueError, "label_smoothing must be from 0 to 1, got -0.1"),
    ((X, LABELS), {"label_smoothing": 1.1}, ValueError, "label_smoothing must be from 0 to 1"),
    ((X, LABELS), {"label_smoothing": NAN}, ValueError, "label_smoothing must be from 0 to 1"),
    ((X, LABELS), {"label_smoothing": "0"}, TypeError, "label_smoothing must be a real number"),
    ((X, LABELS), {"return_grad": 1}, TypeError, "return_grad must be True or False, got 1"),
    ((X, LABELS), {"workers": 0}, ValueError, "workers must be positive"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "exception", "message"), BAD)
def test_bad_arguments(fs, arguments, options, exception, message):
    with pytest.raises(exception, match=re.escape(message)):
        fs.softmax_cross_entropy(*arguments, **options)


def test_labels_of_no_rows(fs):
    """[] has no dtype of its own: it is class indices, but for probabilities of its very shape."""
    for labels in ([], (), np.empty(0, int)):
        loss, grad = fs.softmax_cross_entropy(np.empty((0, 3)), labels, return_grad=True)
        assert loss.shape == (0,)
        assert grad.shape == (0, 3)
    assert fs.softmax_cross_entropy(np.empty((2, 0, 3)), [[], []]).shape == (2, 0)
    np.testing.assert_array_equal(fs.softmax_cross_entropy(np.empty((2, 0)), [[], []]), [0, 0])
    assert fs.softmax_cross_entropy([], []) == 0  # one row without classes


def test_what_the_messages_about_labels_say_works(fs):
    expected = fs.softmax_cross_entropy(X, LABELS)
    for labels in ([[0], [1]], [[0, 1]]):
        np.testing.assert_array_equal(
            fs.softmax_cross_entropy(X, np.reshape(labels, (2,))), expected
        )
    for hot in ([[1, 0, 0], [0, 1, 0]], [[True, False, False], [False, True, False]]):
        given = np.asarray(hot, "float32")
        for logits in (X, X.astype("f4"), X.astype("f2"), X.astype(int)):
            got = fs.softmax_cross_entropy(logits, given)
            np.testing.assert_array_equal(got, fs.softmax_cross_entropy(logits, LABELS))


# ---- labels in their own precision ----


def test_small_probabilities_count_whatever_the_dtype_of_the_logits(fs):
    loss = fs.softmax_cross_entropy(
        np.array([0, -60000], np.float16), np.array([1, 1e-8], np.float32)
    )
    assert loss.dtype == np.float16
    assert loss == np.float16(6e-4)
    logits = np.zeros(50257, np.float16)
    logits[1:] = -100
    teacher = np.full(50257, 1e-8, np.float32)
    teacher[0] = 1 - 1e-8 * 50256
    exact = np.sum(teacher[1:].astype(float)) * 100
    for labels in (teacher, teacher.astype(float), teacher.astype("g"), teacher.astype(">f4")):
        loss, grad = fs.softmax_cross_entropy(logits, labels, return_grad=True)
        assert loss == np.float16(exact)
        np.testing.assert_array_equal(grad[1:], np.float16(-1e-8))


@pytest.mark.parametrize("n", [2, 3, 17, 200, 3000])
@pytest.mark.parametrize("labels", ["float32", "float64", "longdouble"])
@pytest.mark.parametrize("logits", ["float16", "float32", "int16"])
def test_the_loss_of_wider_labels_is_that_of_wider_logits_rounded_once(fs, logits, labels, n):
    rng = np.random.default_rng(n)
    x = rng.normal(0, 5, (20, n)).astype(logits)
    t = rng.random((20, n)) ** 20
    t = (t / t.sum(axis=1, keepdims=True)).astype(labels)
    wide = np.result_type(np.float64, labels)
    for axis in (-1, 0):
        given, of = (x, t) if axis else (x.T.copy(), t.T.copy())
        loss, grad = fs.softmax_cross_entropy(given, of, axis, return_grad=True)
        expected, gradient = fs.softmax_cross_entropy(
            given.astype(wide), of, axis, return_grad=True
        )
        assert loss.dtype == grad.dtype == (np.float64 if logits == "int16" else logits)
        if labels == "float64" or (labels == "longdouble" and logits != "int16"):
            np.testing.assert_array_equal(loss, expected.astype(loss.dtype))
            np.testing.assert_array_equal(grad, gradient.astype(loss.dtype))
        else:  # computed in float32 and rounded twice, or in float64 as the result
            computed = "float64" if loss.dtype == np.float64 else "float32"
            allowed = 6 * ulp_size(expected, computed) + 0.501 * ulp_size(expected, loss.dtype)
            assert np.all(abs(loss.astype(wide) - expected) <= allowed)
