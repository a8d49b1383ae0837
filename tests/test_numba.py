"""Inside numba's nopython mode the public functions have their own bits, or are refused in words."""

import importlib.metadata

import numpy as np
import pytest
import toolchain

import fastsoftmax as fs
from fastsoftmax import _backend

numba = pytest.importorskip("numba")

if not any(
    entry.value == "fastsoftmax._numba:init"
    for entry in importlib.metadata.entry_points(group="numba_extensions")
):
    pytest.skip(
        "fastsoftmax is not installed, so that numba does not know it", allow_module_level=True
    )
if _backend.default().name == "numpy":
    pytest.skip("there are no compiled functions over NumPy", allow_module_level=True)

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.njit
def rows(x, y, out):
    numbers = np.empty(x.shape[:-1], x.dtype)
    fs.logsumexp(x, out=numbers)
    fs.log_softmax(x, out=out, temperature=3)
    return (
        (fs.softmax(x), fs.softmax(x, -1, temperature=0.7), fs.log_softmax(x), out, numbers),
        (fs.softmax_backward(y, x), fs.log_softmax_backward(y, x)),
        (fs.logsumexp(x), fs.logsumexp(x, keepdims=True)),
    )


@numba.njit
def losses(x, y, labels, weights, loss, grad):
    fs.softmax_cross_entropy(x, labels, return_grad=True, out=(loss, grad))
    return (
        (fs.softmax_cross_entropy(x, labels), fs.softmax_cross_entropy(x, y)),
        fs.softmax_cross_entropy(x, y, sample_weight=0.5, label_smoothing=0.1, return_grad=True),
        fs.softmax_cross_entropy(
            x, labels, sample_weight=weights, ignore_index=2, temperature=2, return_grad=True
        ),
        (loss, grad),
    )


@numba.njit
def segments(data, indptr):
    return (
        fs.segment_softmax(data, indptr),
        fs.segment_log_softmax(data, indptr, temperature=0.5),
        fs.segment_logsumexp(data, indptr),
    )


def assert_same(found, expected):
    if isinstance(found, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        if isinstance(found, np.ndarray):
            assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def assert_same_as_python(function, make):
    assert_same(function(*make()), function.py_func(*make()))


def slowly(*values):
    """Return parameters of a slow test: of compiling, seconds for each."""
    return pytest.param(*values, marks=pytest.mark.slow)


@DTYPES
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("contiguous", (46,)),
        slowly("contiguous", (5, 10)),
        slowly("contiguous", (2, 3, 4)),
        slowly("transposed", (46,)),
        slowly("transposed", (5, 10)),
        ("transposed", (2, 3, 4)),
    ],
    ids=str,
)
def test_rows_have_the_bits_of_the_python_functions(shape, layout, dtype):
    def make():
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=shape).astype(dtype), rng.random(shape).astype(dtype)
        if layout == "transposed":
            x, y = (np.repeat(x, 2, -1)[..., ::2], np.asfortranarray(y))
        return x, y, np.empty(shape, dtype)

    assert_same_as_python(rows, make)


@DTYPES
@pytest.mark.parametrize("shape", [(46,), (5, 10)], ids=str)
def test_losses_have_the_bits_of_the_python_function(shape, dtype):
    def make():
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=shape).astype(dtype), rng.random(shape).astype(dtype)
        return (
            *(x, y, y.argmax(-1), rng.random(shape[:-1]) if len(shape) > 1 else 0.3),
            *(np.empty(shape[:-1], dtype), np.empty(shape, dtype)),
        )

    assert_same_as_python(losses, make)


@DTYPES
def test_segments_have_the_bits_of_the_python_functions(dtype):
    def make():
        data = np.random.default_rng(0).normal(size=100).astype(dtype)
        return data, np.array([0, 0, 3, 50, 100])

    assert_same_as_python(segments, make)


@numba.njit(parallel=True)
def in_parallel(x, out):
    for i in numba.prange(len(x)):
        fs.softmax(x[i], out=out[i])


def test_rows_of_a_parallel_loop():
    x = np.random.default_rng(0).normal(size=(300, 46))
    out = np.empty_like(x)
    in_parallel(x, out)
    np.testing.assert_array_equal(out, fs.softmax(x))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: fs.softmax(x, axis=0), "axis must be the last one"),
        (lambda x: fs.softmax(x, where=x > 0), "where= is not taken inside numba"),
        (lambda x: fs.softmax(x, temperature=x), "temperature must be one real number"),
        (lambda x: fs.softmax(x.astype(np.int64)), "x must be an array of float32 or float64"),
        (lambda x: fs.softmax(x[0, 0]), "x must be an array of float32 or float64"),
        (lambda x: fs.softmax(x, out=x[:, ::2]), "out must be a writeable C-contiguous array"),
        (lambda x: fs.logsumexp(x, b=x), "b= is not taken inside numba"),
        (lambda x: fs.softmax_backward(x, x[0]), "output must be an array of float64 with 2 axes"),
        (lambda x: fs.softmax_cross_entropy(x, x[0]), "labels must be"),
        (lambda x: fs.segment_softmax(x, np.array([0, 2])), "data must have one axis"),
    ],
)
def test_what_is_not_taken_is_said_while_it_is_compiled(call, says):
    with pytest.raises(numba.TypingError, match=says):
        numba.njit(call)(np.ones((2, 4)))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: fs.softmax(x, temperature=0), ValueError, "temperature must be"),
        (lambda x: fs.softmax(x, out=np.empty((2, 3))), ValueError, "out must have the shape"),
        (lambda x: fs.softmax(x[:1], out=x.ravel()[1:5].reshape(1, 4)), ValueError, "overlap"),
        (lambda x: fs.softmax_backward(x, x[:1]), ValueError, "must have the same shape"),
        (lambda x: fs.softmax_cross_entropy(x, np.array([0, 4])), IndexError, "label"),
        (lambda x: fs.softmax_cross_entropy(x, np.array([0])), ValueError, "shape of the losses"),
        (lambda x: fs.segment_softmax(x[0], np.array([0, 9])), ValueError, "indptr must"),
    ],
)
def test_what_is_wrong_raises(call, error, says):
    with pytest.raises(error, match=says):
        numba.njit(call)(np.ones((2, 4)))


def test_importing_the_package_does_not_import_numba():
    done = toolchain.run_python("-c", "import sys, fastsoftmax; assert 'numba' not in sys.modules")
    assert done.returncode == 0, done.stderr


PROGRAM = """
import numpy as np
from numba import njit
from fastsoftmax import softmax

@njit(cache=True)
def first(x):
    return softmax(x)[0]

x = np.linspace(0, 1, 46)
assert first(x) == softmax(x)[0]
print(sum(first.stats.cache_hits.values()))
"""


def test_code_from_the_cache_is_right_in_a_new_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = [toolchain.run_python(str(program)) for _ in range(2)]
    assert [done.stdout.strip() for done in found] == ["0", "1"], found


def test_without_kernels_the_reason_is_an_error_and_cached_code_does_not_crash(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    fresh = toolchain.run_python(str(program), backend="numpy")
    assert "FASTSOFTMAX_BACKEND=numpy asks for no kernels" in fresh.stderr
    assert toolchain.run_python(str(program)).returncode == 0
    cached = toolchain.run_python(str(program), backend="numpy")
    assert cached.returncode == 1
    assert "fastsoftmax has no compiled functions here" in cached.stderr, cached.stderr
