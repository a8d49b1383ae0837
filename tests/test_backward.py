"""The gradients: formulas in long double, finite differences, PyTorch, layouts and bad arguments."""

import re

import numpy as np
import pytest
from exact import ulp_size

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
