"""Compiled code: users' modules in Cython and C, and numba, have the bits of the Python functions."""

import importlib.util
import re
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
import toolchain

import fastsoftmax
from fastsoftmax import _backend

PAGE = Path(__file__).parents[1] / "fastsoftmax" / "RECIPES.md"

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TYPES = {np.float32: "float", np.float64: "double"}
"""As Cython names them, where an argument that may be None leaves it open."""

SHAPES = [(1, 1), (1, 10), (1, 46), (7, 3), (3, 200), (100, 300), (2, 300_000)]
"""Few rows, which go to the kernels at once; more; and one longer than what is asked for between
two questions whether to stop."""

if _backend.default().name == "numpy":
    pytest.skip("the C interface has no functions over NumPy", allow_module_level=True)


def build(folder, source, name):
    """Compile a user's module against the fastsoftmax that is imported here, and import it."""
    toolchain.need_compiler("gcc")
    if source.suffix == ".pyx":
        pytest.importorskip("Cython")
        package_path = Path(fastsoftmax.__file__).parents[1]
        made = folder / f"{name}.c"
        toolchain.run(sys.executable, "-m", "cython", f"-I{package_path}", source, "-o", made)
        source = made
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = [f"-I{sysconfig.get_path('include')}", f"-I{fastsoftmax.get_include()}"]
    toolchain.run("gcc", "-O1", "-shared", "-fPIC", *include, source, "-o", library)
    return library


def load(library, name):
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    source = toolchain.PROGRAMS / "interface.pyx"
    return build(tmp_path_factory.mktemp("interface"), source, "interface")


@pytest.fixture(scope="session")
def user(library):
    return load(library, "interface")


def arrays(shape, dtype):
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, shape).astype(dtype), rng.random(shape).astype(dtype)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_have_the_bits_of_the_python_functions(user, shape, dtype):
    x, y = arrays(shape, dtype)
    out, numbers = np.empty_like(x), np.empty(len(x), dtype)
    for temperature in (1.0, 0.7):
        for name in ("softmax", "log_softmax"):
            assert getattr(user, name)(x, out, temperature) == 0
            expected = getattr(fastsoftmax, name)(x, temperature=temperature)
            np.testing.assert_array_equal(out, expected)
    assert user.logsumexp(x, numbers) == 0
    np.testing.assert_array_equal(numbers, fastsoftmax.logsumexp(x))
    for name in ("softmax_backward", "log_softmax_backward"):
        assert getattr(user, name)(x, y, out) == 0
        np.testing.assert_array_equal(out, getattr(fastsoftmax, name)(x, y))
    in_place = x.copy()
    assert user.softmax(in_place, in_place, 1.0) == 0
    np.testing.assert_array_equal(in_place, fastsoftmax.softmax(x))


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_have_the_bits_of_the_python_function(user, shape, dtype):
    x, y = arrays(shape, dtype)
    labels = y.argmax(-1)
    losses = np.empty(len(x), dtype)
    for weights, ignored, smoothing in (
        (None, None, 0.0),
        (None, None, 0.1),
        (np.linspace(0, 2, len(x)), int(labels[0]), 0.1),
    ):
        options = {"label_smoothing": smoothing, "temperature": 0.7, "sample_weight": weights}
        expected = fastsoftmax.softmax_cross_entropy(
            x, labels, ignore_index=ignored, return_grad=True, **options
        )
        code = user.NONE if ignored is None else ignored
        in_place = x.copy()
        for logits, grads in ((x, None), (x, np.empty_like(x)), (in_place, in_place)):
            arguments = (logits, labels, weights, losses, grads, code, smoothing, 0.7)
            assert user.softmax_cross_entropy[TYPES[dtype]](*arguments) == 0
            np.testing.assert_array_equal(losses, expected[0])
            if grads is not None:
                np.testing.assert_array_equal(grads, expected[1])
        expected = fastsoftmax.softmax_cross_entropy(x, y, return_grad=True, **options)
        grads = np.empty_like(x)
        status = user.softmax_cross_entropy_targets(x, y, weights, losses, grads, smoothing, 0.7)
        assert status == 0
        np.testing.assert_array_equal(losses, expected[0])
        np.testing.assert_array_equal(grads, expected[1])


@DTYPES
def test_segments_have_the_bits_of_the_python_functions(user, dtype):
    data, _ = arrays((30_000,), dtype)
    indptr = np.array([0, 0, 3, 50, 51, 20_000, 30_000])
    out, numbers = np.empty_like(data), np.empty(len(indptr) - 1, dtype)
    for name in ("segment_softmax", "segment_log_softmax"):
        assert getattr(user, name)(data, indptr, out, 0.7) == 0
        expected = getattr(fastsoftmax, name)(data, indptr, temperature=0.7)
        np.testing.assert_array_equal(out, expected)
    assert user.segment_logsumexp(data, indptr, numbers) == 0
    np.testing.assert_array_equal(numbers, fastsoftmax.segment_logsumexp(data, indptr))


def test_what_is_wrong_is_a_status_and_nothing_is_written(user):
    x, _ = arrays((3, 5), np.float32)
    out, losses = np.full_like(x, 7), np.full(3, 7, np.float32)
    for temperature in (0.0, -1.0, np.inf, np.nan):
        assert user.softmax(x, out, temperature) == 3
    assert (
        user.softmax_cross_entropy["float"](
            x, np.array([0, 5, 1]), None, losses, out, user.NONE, 0, 1
        )
        == 2
    )
    assert (
        user.softmax_cross_entropy["float"](x, np.array([0, -1, 1]), None, losses, out, 3, 0, 1)
        == 2
    )
    weights = np.array([1.0, np.nan, 1.0])
    assert (
        user.softmax_cross_entropy["float"](x, np.array([0, 1, 1]), weights, losses, out, 3, 0, 1)
        == 3
    )
    assert (
        user.softmax_cross_entropy["float"](x, np.array([0, 1, 1]), None, losses, out, 3, 1.5, 1)
        == 3
    )
    assert user.segment_softmax(x.ravel(), np.array([0, 9, 5, 15]), out.ravel(), 1.0) == 2
    assert user.segment_softmax(x.ravel(), np.array([0, 16]), out.ravel(), 1.0) == 2
    assert (out == 7).all()
    assert (losses == 7).all()


def test_two_threads_run_at_once_without_the_gil(user):
    x, _ = arrays((200, 1000), np.float64)
    outs = [np.empty_like(x) for _ in range(2)]

    def work(out):
        for _ in range(20):
            user.softmax(x, out, 1.0)

    threads = [threading.Thread(target=work, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, fastsoftmax.softmax(x))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("abi", r"compiled for version 1 .* has version 2"),
        ("size", r"compiled for version 1 .*\(168 bytes\).* has version 1 \(160 bytes\)"),
    ],
)
def test_another_version_is_an_import_error(library, changed, says):
    change = {"abi": "head[0] = 2", "size": "head[1] -= 8"}[changed]
    done = toolchain.run_python(
        "-c",
        f"""
import ctypes, importlib.util
from fastsoftmax import _interface
get = ctypes.pythonapi.PyCapsule_GetPointer
get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
make = ctypes.pythonapi.PyCapsule_New
make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
pointer = get(_interface.capsule(), b"fastsoftmax.functions")
head = (ctypes.c_uint32 * 42)(*(ctypes.c_uint32 * 42).from_address(pointer))
{change}
other = make(ctypes.addressof(head), b"fastsoftmax.functions", None)
_interface.capsule = lambda: other
spec = importlib.util.spec_from_file_location("interface", {str(library)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
""",
    )
    assert done.returncode == 1
    assert re.search(r"ImportError: this module was " + says, done.stderr), done.stderr


IMPORTS = """
import importlib.util
spec = importlib.util.spec_from_file_location("interface", {!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def test_numpy_only_is_an_import_error_that_says_so(library):
    imports = IMPORTS.format(str(library))
    hidden = "import sys; sys.modules['fastsoftmax._native'] = None\n"
    done = toolchain.run_python("-c", hidden + imports)
    assert (
        "ImportError: fastsoftmax has no compiled functions for C, Cython and numba" in done.stderr
    )
    done = toolchain.run_python("-c", imports, backend="numpy")
    assert "FASTSOFTMAX_BACKEND=numpy asks for no kernels" in done.stderr


@pytest.mark.parametrize("name", _backend.INSTRUCTION_SETS)
def test_the_kernels_are_those_of_the_python_functions(library, name):
    check = """
import numpy as np, fastsoftmax
x = np.linspace(0, 5, 46, dtype="f").reshape(1, 46)
out = np.empty_like(x)
assert module.softmax(x, out, 1.0) == 0
assert (out == fastsoftmax.softmax(x)).all()
"""
    done = toolchain.run_python("-c", IMPORTS.format(str(library)) + check, backend=name)
    assert done.returncode == 0, done.stderr


def recipe(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_recipe_for_cython_works(tmp_path):
    source = tmp_path / "rows.pyx"
    source.write_text(recipe("cython"))
    x, _ = arrays((5, 10), np.float32)
    out = np.empty_like(x)
    load(build(tmp_path, source, "rows"), "rows").softmax_of_rows(x, out)
    np.testing.assert_array_equal(out, fastsoftmax.softmax(x))


def test_the_recipe_for_c_works(tmp_path):
    source = tmp_path / "example.c"
    source.write_text(recipe("c"))
    found = load(build(tmp_path, source, "example"), "example").largest()
    assert found == fastsoftmax.softmax(np.array([2, 1, 0.1], np.float32))[0]


def test_a_call_before_the_import_is_a_status(tmp_path):
    source = tmp_path / "example.c"
    source.write_text(recipe("c").replace("fastsoftmax_import() < 0", "0"))
    with pytest.raises(MemoryError):
        load(build(tmp_path, source, "example"), "example").largest()
