"""The gradients: formulas in long double, finite differences, PyTorch, layouts and bad arguments."""

import re

import numpy as np
import pytest

from benchmarks.exact import ulp_size

NAMES = ("softmax_backward", "log_softmax_backward")


def exact(name, g, y, axis=-1):
    g, y = g.astype(np.longdouble), y.astype(np.longdouble)
    if name == "softmax_backward":
        return y * (g - (g * y).sum(axis=axis, keepdims=True))
    return g - np.exp(y) * g.sum(axis=axis, keepdims=True)


def inputs(name, shape, dtype, axis=-1, seed=0):
    from fastsoftmax import _api, _backend

    rng = np.random.default_rng(seed)
    forward = getattr(_api.over(_backend.load("numpy")), name.removesuffix("_backward"))
    g = rng.normal(size=shape).astype(dtype)
    return g, forward(rng.normal(0, 2, shape).astype(dtype), axis)


@pytest.mark.parametrize("n", [1, 2, 5, 15, 16, 17, 46, 64, 130, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_formula(fs, name, dtype, n):
    g, y = inputs(name, (40, n), dtype)
    got = getattr(fs, name)(g, y)
    assert got.dtype == dtype
    weights = np.abs(y) if name == "softmax_backward" else np.exp(y)
    inner = np.abs(g * weights if name == "softmax_backward" else g).sum(axis=-1, keepdims=True)
    size = (
        weights * (np.abs(g) + inner) if name == "softmax_backward" else np.abs(g) + weights * inner
    )
    assert np.all(np.abs(got - exact(name, g, y)) <= 3 * ulp_size(size, dtype))


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_in_extended_precision(fs, name):
    """The Jacobian's transpose applied to a vector, from longdouble differences of the function."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, 9).astype(np.longdouble)
    g = rng.normal(size=9)
    forward = getattr(fs, name.removesuffix("_backward"))
    h = np.longdouble(2) ** -20
    numeric = [(g * (forward(x + h * e) - forward(x - h * e))).sum() / (2 * h) for e in np.eye(9)]
    got = getattr(fs, name)(g, forward(x).astype(np.float64))
    np.testing.assert_allclose(got, np.array(numeric, np.float64), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_of_pytorch(fs, name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = torch.tensor(rng.normal(0, 3, (20, 46)), requires_grad=True)
    g = rng.normal(size=(20, 46))
    y = getattr(torch, name.removesuffix("_backward"))(x, dim=-1)
    y.backward(torch.tensor(g))
    got = getattr(fs, name)(g, y.detach().numpy())
    np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1, 2, None, (0, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_any_axis_layout_and_output(fs, name, axis):
    g, y = inputs(name, (5, 6, 33), "float32", axis)
    expected = getattr(fs, name)(g, y, axis)
    np.testing.assert_allclose(expected, exact(name, g, y, axis), rtol=1e-4, atol=1e-6)
    f, z = np.asfortranarray(g), np.asfortranarray(y)
    np.testing.assert_allclose(getattr(fs, name)(f, z, axis), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(getattr(fs, name)(g, z, axis), expected, rtol=0, atol=1e-6)
    for which in (0, 1):
        pair = [g.copy(), y.copy()]
        out = pair[which]
        assert getattr(fs, name)(*pair, axis, out=out) is out
        np.testing.assert_array_equal(out, expected)
    buffer = np.concatenate([g.ravel(), np.zeros(7, np.float32)])
    shifted = buffer[7:].reshape(g.shape)
    getattr(fs, name)(buffer[: g.size].reshape(g.shape), y, axis, out=shifted)
    np.testing.assert_array_equal(shifted, expected)


@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_batch_or_layout(native_fs, name):
    for n in (3, 10, 15, 46, 300):
        g, y = inputs(name, (37, n), "float32")
        whole = getattr(native_fs, name)(g, y)
        rows = [getattr(native_fs, name)(a.copy(), b.copy()) for a, b in zip(g, y, strict=True)]
        np.testing.assert_array_equal(whole, rows)
        turned = getattr(native_fs, name)(g.T.copy(), y.T.copy(), 0)
        np.testing.assert_array_equal(turned.T, whole)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_edge_cases(fs, name):
    g, y = inputs(name, (4, 6), "float64")
    function = getattr(fs, name)
    assert function(g.astype("f2"), y.astype("f2")).dtype == np.float16
    assert function(g.astype("f4"), y).dtype == np.float64
    assert function(np.ones((2, 3), int), np.ones((2, 3), "f4")).dtype == np.float64
    assert function(g.astype("g"), y).dtype == np.longdouble
    assert function(np.empty((0, 3)), np.empty((0, 3))).shape == (0, 3)
    assert function(np.empty((3, 0)), np.empty((3, 0))).shape == (3, 0)
    assert isinstance(function(2.0, 1.0 if name == "softmax_backward" else 0.0), np.float64)
    bad = g.copy()
    bad[1, 2] = np.nan
    got = function(bad, y)
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[[0, 2, 3]], function(g, y)[[0, 2, 3]])


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(fs, name):
    g, y = inputs(name, (4, 6), "float64")
    function = getattr(fs, name)
    out = np.full((4, 6), 7.0)
    for arguments, options, exception, message in (
        ((g, y[:3]), {}, ValueError, "grad_output and output must have the same shape, got (4, 6) and (3, 6)"),
        ((g, y[0]), {}, ValueError, "must have the same shape"),
        ((g + 1j, y), {}, TypeError, "grad_output must be of dtype"),
        ((g, ["a"]), {}, TypeError, "output must be of dtype"),
        ((g, np.ma.array(y)), {}, TypeError, "output must not be a MaskedArray"),
        ((g, y, 5), {}, ValueError, "axis 5 is out of bounds"),
        ((g, y, 0.5), {}, TypeError, "axis must be an integer"),
        ((g, y), {"workers": 0}, ValueError, "workers must be positive"),
    ):  # fmt: skip
        with pytest.raises(exception, match=re.escape(message)):
            function(*arguments, out=out, **options)
    with pytest.raises(TypeError, match="out must be of dtype float64"):
        function(g, y, out=out.astype("f4"))
    with pytest.raises(ValueError, match="out must have the result's shape"):
        function(g, y, out=out[:2])
    assert np.all(out == 7)


# ---- dtypes of the two operands ----


def any_dtype(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


DTYPES = [
    "bool",
    "int8",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "longdouble",
    ">f2",
    ">f4",
]


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_of_the_common_dtype(fs, name, first, second):
    """In which it is computed from both: what a cast before the call gives."""
    pair = any_dtype(first), any_dtype(second)
    as_float = [np.dtype(float) if d.kind in "biu" else d.newbyteorder("=") for d in pair]
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (2, 2, 5), (0, 4)):
        g, y = (rng.integers(0, 2, shape).astype(dtype) for dtype in pair)
        if {d.name for d in as_float} == {"float16", "bfloat16"}:
            message = f"grad_output and output must have a common dtype, got {as_float[0]} and {as_float[1]}"
            for out in (None, np.full(shape, 7, np.float16)):
                with pytest.raises(TypeError, match=message):
                    getattr(fs, name)(g, y, out=out)
                assert out is None or np.all(out == 7)
            continue
        common = np.result_type(*as_float)
        got = getattr(fs, name)(g, y)
        assert got.dtype == common
        assert got.dtype.isnative
        expected = getattr(fs, name)(g.astype(common), y.astype(common))
        np.testing.assert_array_equal(got, expected)
        out = np.empty(shape, common)
        assert getattr(fs, name)(g, y, out=out) is out
        np.testing.assert_array_equal(out, expected)


# ---- log_softmax_backward over a mask ----


def masked_exact(g, y, where, axis):
    g, y = (np.where(where, a, 0).astype(np.longdouble) for a in (g, y))
    p = np.where(where, np.exp(y), 0)
    return np.where(where, g - p * g.sum(axis=axis, keepdims=True), 0)


def test_the_gradient_over_a_mask_leaves_out_what_it_masks(fs):
    x = np.array([0.3, -1.2, 0.8], np.longdouble)
    where = np.array([True, False, True])
    g = np.array([1, 1, 0.5], np.longdouble)
    h = np.longdouble(2) ** -20

    def loss(x):
        return (g * fs.log_softmax(x, where=where))[where].sum()

    numeric = [(loss(x + h * e) - loss(x - h * e)) / (2 * h) for e in np.eye(3)]
    got = fs.log_softmax_backward(g, fs.log_softmax(x, where=where), where=where)
    assert numeric[1] == got[1] == 0
    np.testing.assert_allclose(got.astype(float), np.array(numeric, float), rtol=1e-10)
    p = fs.softmax(x[[0, 2]])
    np.testing.assert_allclose(
        got[[0, 2]].astype(float), (g[[0, 2]] - 1.5 * p).astype(float), rtol=1e-15
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis", "mask"),
    [
        ((3, 7), -1, (3, 7)), ((3, 7), -1, (7,)), ((3, 7), 0, (3, 1)), ((3, 7), 0, (3, 7)), ((3, 7), None, (3, 7)),
        ((2, 3, 65), -1, (3, 1)), ((2, 3, 65), (0, 2), (1, 3, 65)), ((2, 65, 3), 1, (65, 1)), ((2, 3, 4), (), (3, 4)),
        ((120, 300), -1, (300,)), ((4, 5), -1, ()), ((7,), -1, (7,)),
    ],
)  # fmt: skip
def test_nothing_that_is_masked_is_read(fs, dtype, shape, axis, mask):
    rng = np.random.default_rng(0)
    where = rng.random(mask) < 0.6
    g = rng.normal(size=shape).astype(dtype)
    y = fs.log_softmax(rng.normal(0, 2, shape).astype(dtype), axis, where=where)
    full = np.broadcast_to(where, shape)
    exact = masked_exact(g, y, full, axis)
    kept = fs.log_softmax_backward(g, y, axis, where=where)
    assert kept.dtype == dtype
    assert np.all(kept[~full] == 0)
    size = np.where(full, np.abs(g), 0).astype(np.longdouble)
    size = size + np.where(full, np.exp(y.astype(np.longdouble)), 0) * size.sum(
        axis=axis, keepdims=True
    )
    computed = "float32" if dtype == "float16" else dtype
    allowed = 4 * ulp_size(size, computed)
    if dtype == "float16":
        allowed = allowed + 0.501 * ulp_size(exact, dtype)
    assert np.all(np.abs(kept - exact) <= allowed)
    for garbage in (np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min, 0):
        bad_g, bad_y = g.copy(), y.copy()
        bad_g[~full] = bad_y[~full] = garbage
        for workers in (None, 2):
            for out in (None, np.full(shape, 7, dtype), bad_g.copy(), bad_y.copy()):
                got = fs.log_softmax_backward(
                    bad_g, bad_y, axis, where=where, out=out, workers=workers
                )
                np.testing.assert_array_equal(got, kept)
        for in_place in (bad_g.copy(), bad_y.copy()):
            pair = (in_place, bad_y) if in_place.tobytes() == bad_g.tobytes() else (bad_g, in_place)
            assert fs.log_softmax_backward(*pair, axis, where=where, out=in_place) is in_place
            np.testing.assert_array_equal(in_place, kept)


def test_a_mask_of_the_gradient_that_does_not_fit_is_refused(fs):
    g = np.zeros((2, 3))
    for where, exception, message in (
        (
            np.ones((2, 4), bool),
            ValueError,
            "where must be broadcastable to the shape (2, 3) of grad_output",
        ),
        (np.ones((5, 2, 3), bool), ValueError, "got shape (5, 2, 3)"),
        (np.ones((2, 3)), TypeError, "where must be of dtype bool, got float64"),
        (1, TypeError, "where must be of dtype bool, got int64"),
    ):
        with pytest.raises(exception, match=re.escape(message)):
            fs.log_softmax_backward(g, g, where=where)
