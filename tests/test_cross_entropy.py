"""Cross-entropy: labels of both kinds, smoothing, gradients, edge cases and bad arguments."""

import re

import mpmath
import numpy as np
import pytest
from numpy.exceptions import AxisError

from benchmarks.exact import exact_log_softmax, exact_softmax, ulp_size
from benchmarks.promised import Settings, promised, within

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


DERIVED = {
    "nothing": {},
    "smoothing": {"label_smoothing": 0.2},
    "a temperature": {"temperature": 0.7},
    "a temperature a row": {"temperature": np.linspace(0.3, 3, 50)[:, np.newaxis]},
    "a weight": {"sample_weight": -1.5},
    "a weight a row": {"sample_weight": np.linspace(-1, 2, 50)},
    "a class to ignore": {"ignore_index": 3},
    "where": {"where": np.random.default_rng(7).random((50, 7)) < 0.7},
}
DERIVED["everything"] = {k: v for options in DERIVED.values() for k, v in options.items()}


@pytest.mark.parametrize("options", DERIVED.values(), ids=DERIVED)
def test_the_gradient_is_the_derivative_of_the_loss(fs, options):
    x, labels = inputs(7, "float64")
    if "where" in options:  # or the losses of these rows are infinite
        has_label = np.eye(7, dtype=bool)[labels["indices"]]
        options = {**options, "where": options["where"] | has_label}
    for kind in ("indices", "weights"):
        if kind == "weights":
            labels[kind] *= options.get("where", True)
            options = {name: value for name, value in options.items() if name != "ignore_index"}
        _, grad = fs.softmax_cross_entropy(x, labels[kind], return_grad=True, **options)
        h = 1e-6
        for j in range(7):
            step = np.zeros(7)
            step[j] = h
            up = fs.softmax_cross_entropy(x + step, labels[kind], **options)
            down = fs.softmax_cross_entropy(x - step, labels[kind], **options)
            np.testing.assert_allclose((up - down) / (2 * h), grad[:, j], atol=2e-8)


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
def test_an_impossible_class_that_has_a_share_costs_inf(fs, labels, smoothing):
    x = np.array([-INF, 0, 1])
    assert fs.softmax_cross_entropy(x, labels, label_smoothing=smoothing) == INF


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
    ((X, LABELS), {"where": np.ones((3, 3), bool)}, ValueError, "where must be broadcastable to the shape (2, 3) of logits, got shape (3, 3)"),
    ((X, LABELS), {"where": [1, 0, 1]}, TypeError, "where must be of dtype bool, got int64"),
    ((X, LABELS), {"dtype": int}, TypeError, "dtype must be float16"),
    ((X, LABELS), {"temperature": np.ones((1, 3))}, ValueError, "temperature must be broadcastable to (2, 1), the rows of logits, got shape (1, 3)"),
    ((X, LABELS), {"temperature": [2.0, 1.0]}, ValueError, "temperature must be broadcastable to (2, 1), the rows of logits, got shape (2,)"),
    ((X, LABELS), {"temperature": [[1.0], [0.0]]}, ValueError, "temperature must be finite and above 0, got 0.0 at index (1, 0)"),
    ((X, LABELS), {"sample_weight": [1.0, 2.0, 3.0]}, ValueError, "sample_weight must be broadcastable to (2,), the shape of the losses, got shape (3,)"),
    ((X, LABELS), {"sample_weight": [[1.0], [2.0]]}, ValueError, "sample_weight must be broadcastable to (2,), the shape of the losses, got shape (2, 1)"),
    ((X, LABELS), {"sample_weight": [-1.0, NAN]}, ValueError, "sample_weight must be finite, got nan at index 1"),
    ((X, LABELS), {"sample_weight": [INF]}, ValueError, "sample_weight must be finite, got inf at index 0"),
    ((X, LABELS), {"sample_weight": -INF}, ValueError, "sample_weight must be finite, got -inf"),
    ((X, LABELS), {"sample_weight": "1"}, TypeError, "sample_weight must be a real number or an array of them, got '1'"),
    ((X, LABELS), {"sample_weight": [1j, 0]}, TypeError, "sample_weight must be a real number or an array of them, got complex128"),
    ((X, LABELS), {"sample_weight": np.ma.ones(2)}, TypeError, "sample_weight must not be a MaskedArray"),
    ((X, LABELS), {"ignore_index": 1.0}, TypeError, "ignore_index must be an integer, got 1.0"),
    ((X, LABELS), {"ignore_index": True}, TypeError, "ignore_index must be an integer, got True"),
    ((X, LABELS), {"ignore_index": [-100]}, TypeError, "ignore_index must be an integer, got [-100]"),
    ((X, LABELS), {"ignore_index": 2**63}, ValueError, "ignore_index must be an integer of 64 bits, got 9223372036854775808"),
    ((X, X), {"ignore_index": -100}, ValueError, "ignore_index must not be given with probabilities, of which none is an index; pass sample_weight with a 0 for each row to be ignored"),
    ((X, [-100, 3]), {"ignore_index": -100}, IndexError, "labels must be class indices from 0 to 2 for 3 classes, got 3 at index 1"),
    ((X, np.array([255, 0], np.uint8)), {"ignore_index": -1}, IndexError, "got 255 at index 0"),
    ((X, [0, 3]), {"sample_weight": [1.0, 0.0]}, IndexError, "got 3 at index 1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "exception", "message"), BAD)
def test_bad_arguments(fs, arguments, options, exception, message):
    with pytest.raises(exception, match=re.escape(message)):
        fs.softmax_cross_entropy(*arguments, **options)
    out = np.full(2, 7.0), np.full((2, 3), 7.0)
    with pytest.raises(exception):
        fs.softmax_cross_entropy(*arguments, **{"return_grad": True, **options}, out=out)
    assert np.all(out[0] == 7)
    assert np.all(out[1] == 7)


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
        assert abs(float(loss) - 0.05026) < 2e-5
        np.testing.assert_array_equal(grad[1:], np.float16(-1e-8))
    loss = fs.softmax_cross_entropy(logits, teacher, dtype=np.float32)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, exact, rtol=2e-7)


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


# ---- where, temperature, weights, labels to ignore ----


def near(got, expected, ulps=4):
    """Assert that results agree but for roundings of their dtype."""
    expected = np.asarray(expected)
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, expected, rtol=ulps * eps, atol=ulps * eps)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes_that_are_left_out_might_as_well_not_be_there(fs, dtype, smoothing):
    """Smoothing is spread over the others; nothing of them is read, and their gradient is 0."""
    x, labels = inputs(11, dtype)
    rng = np.random.default_rng(0)
    where = rng.random(x.shape) < 0.6
    where[np.arange(50), labels["indices"]] = True
    given = np.where(where, labels["weights"], 0).astype(dtype)
    x[~where] = rng.choice([NAN, INF, -INF, 1e30, 0], (~where).sum())
    for t in (labels["indices"], given):
        loss, grad = fs.softmax_cross_entropy(
            x, t, where=where, label_smoothing=smoothing, return_grad=True
        )
        assert np.all(grad[~where] == 0)
        for i, kept in enumerate(where):
            label = kept[: t[i]].sum() if t is not given else t[i][kept]
            one, gradient = fs.softmax_cross_entropy(
                x[i][kept], label, label_smoothing=smoothing, return_grad=True
            )
            near(loss[i], one)
            near(grad[i][kept], gradient, 8)


def test_a_class_that_is_left_out_costs_inf_where_it_has_a_share(fs):
    x = np.array([1.0, 2.0, 3.0])
    where = [True, False, True]
    for labels, smoothing, cost in (
        (1, 0.0, INF),
        (1, 0.5, INF),
        (np.array([0.5, 0.25, 0.25]), 0.0, INF),
        (np.array([0.5, 1e-30, 0.5]), 0.5, INF),
        (1, 1.0, fs.softmax_cross_entropy(x[::2], 0, label_smoothing=1)),
        (np.array([1.0, 0, 0]), 0.0, fs.softmax_cross_entropy(x[::2], 0)),
    ):
        loss, grad = fs.softmax_cross_entropy(
            x, labels, where=where, label_smoothing=smoothing, return_grad=True
        )
        near(loss, cost)
        assert grad[1] == 0
        assert np.isfinite(grad).all()
        assert fs.softmax_cross_entropy(x, labels, where=where, label_smoothing=smoothing, sample_weight=-2) == (
            -2 * loss
        )  # fmt: skip


def test_a_row_without_classes_or_without_an_answer(fs):
    none = np.zeros((3, 2), bool)
    x = np.array([[0.0, NAN], [1.0, 2.0], [INF, 0.0]])
    loss, grad = fs.softmax_cross_entropy(x, [0, 1, 0], where=none, return_grad=True)
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_array_equal(grad, 0)
    given = np.array([[0.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    loss, grad = fs.softmax_cross_entropy(x, given, where=none, return_grad=True, sample_weight=-1)
    np.testing.assert_array_equal(loss, [0, -INF, -INF])
    np.testing.assert_array_equal(grad, 0)
    x = np.array([[0, NAN, 1], [0, INF, 1], [5, -INF, 7]])
    where = [[True, True, False], [True, True, False], [False, True, False]]
    loss, grad = fs.softmax_cross_entropy(x, [0, 0, 1], where=where, return_grad=True)
    assert np.isnan(loss).all()
    np.testing.assert_array_equal(np.isnan(grad), where)
    assert np.all(grad[~np.array(where)] == 0)


@pytest.mark.parametrize("kind", ["indices", "probabilities", "weights"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_temperature_divides_the_logits(fs, dtype, kind):
    x, labels = inputs(46, dtype, scale=30)
    temperatures = np.linspace(0.3, 5, 50)[:, np.newaxis]
    t = targets(labels[kind], 46, 0)
    wide = x.astype(np.longdouble) / temperatures
    expected, gradient = exact(wide, t)
    loss, grad = fs.softmax_cross_entropy(
        x, labels[kind], temperature=temperatures, return_grad=True
    )
    assert np.all(np.abs(loss - expected) <= 6 * ulp_size(expected, dtype))
    size = (np.abs(t) + t.sum(axis=-1, keepdims=True) * exact_softmax(wide)) / temperatures
    assert np.all(np.abs(grad - gradient / temperatures) <= 4 * ulp_size(size, dtype))


def test_a_temperature_brings_logits_of_any_size_together(fs):
    """Whose differences are beyond the format."""
    for dtype, top, temperature in (("float64", 1.5e308, 1e308), ("float32", 3e38, 1e38)):
        x = np.array([[top, -top], [-top, top]], dtype)
        of = 2 * np.log1p(np.exp(-2 * (top / temperature))), 2 * (top / temperature)
        expected = 0.25 * of[1] + 0.5 * of[0]
        for t in (temperature, np.full((2, 1), temperature)):
            loss, grad = fs.softmax_cross_entropy(
                x, np.array([[0.75, 0.25], [0.25, 0.75]], dtype), temperature=t, return_grad=True
            )
            np.testing.assert_allclose(loss, [expected] * 2, rtol=1e-6)
            assert np.isfinite(grad).all()
            loss = fs.softmax_cross_entropy(x, [0, 0], temperature=t)
            np.testing.assert_allclose(loss, [of[0] / 2, of[0] / 2 + of[1]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_a_weight_is_a_factor_of_the_loss_and_of_its_gradient(fs, dtype, kind):
    x, labels = inputs(10, dtype)
    given = labels[kind]
    loss, grad = fs.softmax_cross_entropy(x, given, return_grad=True)
    weights = np.linspace(-2, 3, 50)
    for factor in (2.0, -0.7, weights, weights.astype(dtype), np.array([3]), np.arange(50) % 3):
        expected = np.float64(1) * factor * loss, np.reshape(factor, (-1, 1)) * grad
        got = fs.softmax_cross_entropy(x, given, sample_weight=factor, return_grad=True)
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == dtype
            near(one, other)
        alone = fs.softmax_cross_entropy(x, given, sample_weight=factor)
        np.testing.assert_array_equal(alone, got[0])
    for same in (None, 1, 1.0, np.ones(50), np.ones(1, np.int8), True):
        got = fs.softmax_cross_entropy(x, given, sample_weight=same, return_grad=True)
        for one, other in zip(got, (loss, grad), strict=True):
            if fs.name == "numpy":  # which promises no bits
                near(one, other)
            else:
                np.testing.assert_array_equal(one, other)


def test_weights_for_the_gradient_of_a_mean_and_weights_of_classes(fs):
    x, labels = inputs(10, "float64")
    labels = labels["indices"]
    _, grad = fs.softmax_cross_entropy(x, labels, sample_weight=1 / len(x), return_grad=True)
    one_hot = np.eye(10)[labels]
    near(grad, (fs.softmax(x) - one_hot) / len(x))
    of_class = np.linspace(0, 2, 10)
    loss = fs.softmax_cross_entropy(x, labels, sample_weight=of_class[labels])
    near(
        loss,
        of_class[labels] * -np.take_along_axis(fs.log_softmax(x), labels[:, None], 1)[:, 0],
    )


def is_plain_0(array):
    return not np.any(array) and not np.signbit(array).any()


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30])
def test_of_a_row_of_weight_0_nothing_is_read(fs, garbage, axis):
    x, labels = inputs(10, "float64")
    off = np.arange(50) % 3 == 0
    weights = np.where(off, -0.0, 1.5)
    for given in (labels["indices"], labels["probabilities"].copy()):
        expected = fs.softmax_cross_entropy(x, given, sample_weight=1.5, return_grad=True)
        spoilt = x.copy()
        spoilt[off] = garbage
        if given.ndim == 2:
            given[off] = garbage
        turned = (spoilt.T.copy(), given.T.copy()) if axis == 0 else (spoilt, given)
        loss, grad = fs.softmax_cross_entropy(
            *turned, axis, sample_weight=weights, return_grad=True
        )
        grad = grad.T if axis == 0 else grad
        assert is_plain_0(loss[off])
        assert is_plain_0(grad[off])
        near(loss[~off], expected[0][~off])
        near(grad[~off], expected[1][~off])
        assert is_plain_0(fs.softmax_cross_entropy(spoilt, given, sample_weight=0))


@pytest.mark.parametrize(
    ("ignored", "dtype"),
    [(-100, "int64"), (4, "uint8"), (255, "uint8"), (2**40, "int64"), (-1, "int8")],
)
def test_rows_with_a_label_to_ignore_give_0_whatever_they_hold(fs, ignored, dtype):
    x, labels = inputs(10, "float32")
    labels = labels["indices"].astype(dtype)
    off = np.arange(50) % 3 == 0
    labels[off] = ignored
    off |= labels == ignored
    plain = np.where(off, 0, labels)
    for options in ({}, {"label_smoothing": 0.1}, {"temperature": 0.5, "sample_weight": -2.0}):
        expected = fs.softmax_cross_entropy(x, plain, return_grad=True, **options)
        for garbage in (0, NAN, INF, -INF):
            spoilt = x.copy()
            spoilt[off] += np.float32(garbage)
            for index in (ignored, np.int64(ignored)):
                loss, grad = fs.softmax_cross_entropy(
                    spoilt, labels, ignore_index=index, return_grad=True, **options
                )
                assert is_plain_0(loss[off])
                assert is_plain_0(grad[off])
                np.testing.assert_array_equal(loss[~off], expected[0][~off])
                np.testing.assert_array_equal(grad[~off], expected[1][~off])
    np.testing.assert_array_equal(
        fs.softmax_cross_entropy(x, plain, ignore_index=None), fs.softmax_cross_entropy(x, plain)
    )
    # No label has this value, nor could it: of 8 bits, without a sign.
    of_8_bits = plain.astype(np.uint8)
    np.testing.assert_array_equal(
        fs.softmax_cross_entropy(x, of_8_bits, ignore_index=-256 + 1000), fs.softmax_cross_entropy(x, plain)
    )  # fmt: skip


def test_distillation(fs):
    """As the docstring has it: T^2 times the divergence of the softened distributions, and its entropy."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 20, 46))
    for t in (2.0, np.linspace(1, 8, 20)[:, np.newaxis]):
        factor = np.reshape(t, (-1,)) ** 2 if np.ndim(t) else t * t
        loss, grad = fs.softmax_cross_entropy(
            student, fs.softmax(teacher, temperature=t), temperature=t, sample_weight=factor,
            return_grad=True,
        )  # fmt: skip
        p, q = fs.softmax(teacher / t), fs.log_softmax(student / t)
        np.testing.assert_allclose(loss, factor * -(p * q).sum(axis=1), rtol=1e-13)
        np.testing.assert_allclose(grad, t * (np.exp(q) - p), rtol=1e-11, atol=1e-15)


# ---- dtype and out ----


def test_logits_are_cast_to_dtype_first(fs):
    x, labels = inputs(10, "float16")
    for kind in ("indices", "probabilities"):
        given = labels[kind]
        for dtype in ("float32", "float64", "longdouble"):
            got = fs.softmax_cross_entropy(x, given, dtype=dtype, return_grad=True)
            expected = fs.softmax_cross_entropy(x.astype(dtype), given, return_grad=True)
            for one, other in zip(got, expected, strict=True):
                assert one.dtype == dtype
                np.testing.assert_array_equal(one, other)
    wide = x.astype(float) + 1e-5
    got = fs.softmax_cross_entropy(wide, labels["indices"], dtype="f2")
    np.testing.assert_array_equal(
        got, fs.softmax_cross_entropy(wide.astype("f2"), labels["indices"])
    )
    loss = fs.softmax_cross_entropy(np.array([100, 0], np.int16), 0, dtype=np.float32)
    assert loss.dtype == np.float32
    assert loss == np.float32(np.exp(-100.0))


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("axis", [-1, 0])
def test_losses_and_gradients_go_where_they_are_told(fs, dtype, kind, axis):
    x, labels = inputs(10, dtype)
    given = labels[kind]
    if axis == 0:
        x, given = x.T.copy(), given.T.copy()
    options = {"axis": axis, "return_grad": True}
    expected = fs.softmax_cross_entropy(x, given, **options)

    def outputs():
        yield np.empty(50, dtype), np.empty(x.shape, dtype)
        yield np.empty(150, dtype)[::-3], np.empty(x.shape[::-1], dtype).T
        unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
        yield np.empty(50, dtype), unaligned

    for loss, grad in outputs():
        for out in ((loss, grad), (loss, None), (None, grad), (None, None), loss):
            loss[...] = grad[...] = 7
            got = fs.softmax_cross_entropy(x, given, out=out, **options)
            pair = out if isinstance(out, tuple) else (out, None)
            for result, into, value in zip(got, pair, expected, strict=True):
                assert into is None or result is into
                np.testing.assert_array_equal(result, value)
            assert any(into is loss for into in pair) or np.all(loss == 7)
            assert any(into is grad for into in pair) or np.all(grad == 7)
        for out in (loss, (loss, None)):
            loss[...] = 7
            assert fs.softmax_cross_entropy(x, given, axis, out=out) is loss
            np.testing.assert_array_equal(loss, expected[0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", DERIVED.values(), ids=DERIVED)
def test_the_gradient_may_take_the_place_of_the_logits(fs, options, dtype):
    """And so may a part of it, and the losses theirs."""
    x, labels = inputs(7, dtype)
    for given in (labels["indices"], labels["weights"]):
        if given.ndim == 2:
            options = {name: value for name, value in options.items() if name != "ignore_index"}
        loss, grad = fs.softmax_cross_entropy(x, given, return_grad=True, **options)
        into = x.copy()
        got = fs.softmax_cross_entropy(into, given, return_grad=True, out=(None, into), **options)
        assert got[1] is into
        np.testing.assert_array_equal(got[0], loss)
        np.testing.assert_array_equal(into, grad)
        for shift in (-8, -1, 1, 7, 100):
            memory = np.zeros(3 * x.size, dtype)
            held = memory[x.size : 2 * x.size].reshape(x.shape)
            held[...] = x
            place = memory[x.size + shift : 2 * x.size + shift].reshape(x.shape)
            fs.softmax_cross_entropy(held, given, return_grad=True, out=(None, place), **options)
            np.testing.assert_array_equal(place, grad)
        held = x.copy()
        fs.softmax_cross_entropy(held, given, out=held[:, 3], **options)
        np.testing.assert_array_equal(held[:, 3], loss)


def test_an_output_may_be_of_integers_logits_or_labels_in_other_memory_of_theirs(fs):
    """Elements between each other's are no overlap."""
    x, labels = inputs(10, "float64")
    memory = np.zeros((50, 12))
    memory[:, :10] = x
    expected = fs.softmax_cross_entropy(x, labels["indices"], return_grad=True)
    indices = memory.view(np.int64)[:, 10]
    indices[...] = labels["indices"]
    out = memory[:, 11], memory[:, :10]
    fs.softmax_cross_entropy(memory[:, :10], indices, out=out, return_grad=True)
    np.testing.assert_array_equal(memory[:, 11], expected[0])
    np.testing.assert_array_equal(memory[:, :10], expected[1])
    np.testing.assert_array_equal(indices, labels["indices"])


def bad_outputs():
    loss, grad, labels = np.full(2, 7.0), np.full((2, 3), 7.0), np.full((2, 3), 7.0)
    indices = np.full(2, 7.0)
    indices.view(np.int64)[...] = [0, 1]
    locked = np.full((2, 3), 7.0)
    locked.flags.writeable = False
    pair = "out must be an array or a pair (loss, grad), got "
    return [
        ((), LABELS, ValueError, f"{pair}0 of them"),
        ((loss,), LABELS, ValueError, f"{pair}1 of them"),
        ((loss, grad, None), LABELS, ValueError, f"{pair}3 of them"),
        ([loss, grad], LABELS, TypeError, "out must be a NumPy array, got a list"),
        ((loss.tolist(), None), LABELS, TypeError, "out must be a NumPy array, got a list"),
        ((grad, loss), LABELS, ValueError, "out must have the result's shape (2,), got (2, 3)"),
        ((None, loss), LABELS, ValueError, "out must have the result's shape (2, 3), got (2,)"),
        ((loss, grad.T), LABELS, ValueError, "out must have the result's shape (2, 3), got (3, 2)"),
        ((loss, grad.astype("f4")), LABELS, TypeError, "out must be of dtype float64, the result's, got float32"),
        ((loss.astype(">f8"), None), LABELS, TypeError, "out must be of dtype float64, the result's, got >f8"),
        ((loss, locked), LABELS, ValueError, "out must be writeable, got a read-only array"),
        ((loss, np.ma.array(grad)), LABELS, TypeError, "out must not be a MaskedArray"),
        ((grad[:, 0], grad), LABELS, ValueError, "out's loss must not overlap out's gradient; pass a copy"),
        ((labels[:, 0], grad), labels, ValueError, "out's loss must not overlap labels; pass a copy"),
        ((None, labels), labels, ValueError, "out's gradient must not overlap labels; pass a copy"),
        ((None, labels[::-1]), labels, ValueError, "out's gradient must not overlap labels; pass a copy"),
        ((indices, None), indices.view(np.int64), ValueError, "out's loss must not overlap labels; pass a copy"),
        (labels[:, 1], labels, ValueError, "out's loss must not overlap labels; pass a copy"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(len(bad_outputs())))
def test_bad_outputs(fs, case):
    out, labels, exception, message = bad_outputs()[case]
    given = [a for a in (out if isinstance(out, (tuple, list)) else [out]) if a is not None]
    before = [np.copy(a) for a in given]
    with pytest.raises(exception, match=f"^{re.escape(message)}"):
        fs.softmax_cross_entropy(X, labels, out=out, return_grad=True)
    for array, held in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, held)


def test_a_place_for_a_gradient_that_is_not_asked_for_is_refused(fs):
    loss, grad = np.full(2, 7.0), np.full((2, 3), 7.0)
    message = "out must not have a gradient without return_grad=True; pass (loss, None)"
    for out in ((loss, grad), (None, grad)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            fs.softmax_cross_entropy(X, LABELS, out=out)
    assert np.all(loss == 7)
    assert np.all(grad == 7)


def test_outputs_of_no_rows_and_no_classes(fs):
    for shape in ((0, 3), (2, 0)):
        labels = np.empty(0, int) if shape[0] == 0 else np.empty(shape)
        loss, grad = np.full(shape[:1], 7.0), np.empty(shape)
        got = fs.softmax_cross_entropy(np.empty(shape), labels, out=(loss, grad), return_grad=True)
        assert got[0] is loss
        assert got[1] is grad
        assert np.all(loss == 0)


def test_results_may_lie_in_any_other_argument(fs):
    """A whole array of its own, not a part of a common memory."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(0, 3, (3, 3)), np.array([0, 2, 1])
    for name, shape in (("sample_weight", 3), ("temperature", (3, 1))):
        given = rng.uniform(0.5, 2, shape)
        expected = fs.softmax_cross_entropy(x, labels, **{name: given})
        out = given if given.ndim == 1 else given[:, 0]
        assert fs.softmax_cross_entropy(x, labels, **{name: given}, out=out) is out
        np.testing.assert_array_equal(out, expected)
    for function in (fs.softmax, fs.log_softmax):
        own = rng.uniform(0.5, 2, (3, 3))
        expected = function(x, axis=(), temperature=own)
        assert function(x, axis=(), temperature=own, out=own) is own
        np.testing.assert_array_equal(own, expected)
    weights = rng.normal(size=(3, 3))
    expected = fs.logsumexp(x, axis=(), b=weights, return_sign=True)
    got = fs.logsumexp(x, axis=(), b=weights, return_sign=True, out=weights)
    assert got[0] is weights
    np.testing.assert_array_equal(got, expected)


def test_smoothed_targets_that_add_up_to_more_than_1(fs):
    """Their sum is (1 - s) sum(t) + s, which sum(t) + s (1 - sum(t)) loses digits of."""
    x = [["0x1.47e23bc62ec31p+9", "0x1.21246cb536e19p+9", "0x1.4ef3b468556a1p+9"]]
    t = [["0x1.b02eb20910cbcp+2", "0x1.af1d6bbe1933ep+2", "0x1.b02eb20910cbcp+2"]]
    operands = [np.array([[float.fromhex(e) for e in row] for row in rows]) for rows in (x, t)]
    options = {"label_smoothing": 0.9204502436359647, "return_grad": True}
    results = fs.softmax_cross_entropy(*operands, **options)
    exact = promised("softmax_cross_entropy", operands, Settings((1,), **options), fs.name)
    for got, (values, allowed) in zip(results, exact, strict=True):
        assert within(got, values, allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "longdouble"])
def test_a_temperature_brings_a_sum_beyond_the_format_back(fs, dtype):
    """Found by the search: shares that add up to nearly ten, before their sum is divided."""
    largest = np.finfo(dtype).max
    x = np.full((1, 700), -largest)
    x[0, 5] = 0
    shares = np.full((1, 700), 0.0125, dtype)
    loss = fs.softmax_cross_entropy(x, shares, temperature=341.0)
    expected = 699 * (shares[0, 0] / 341) * largest
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)
