"""The choice of the backend: by default, by the environment, and when the extension is missing."""

import importlib.machinery
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from toolchain import preload, run_python

import fastsoftmax
from fastsoftmax import _backend

NAMES = ("avx512", "avx2", "neon", "generic")


def python(*arguments, backend=None, check=True):
    done = run_python(*arguments, backend=backend)
    assert not check or done.returncode == 0, done.stderr
    return done


def config(**options):
    return json.loads(python("-m", "fastsoftmax", "--json", **options).stdout)


WITHOUT_EXTENSION = """
import sys
sys.modules["fastsoftmax._native"] = None  # an import of it fails
import fastsoftmax, json
assert fastsoftmax.softmax([0.0, 0.0]).tolist() == [0.5, 0.5]
print(json.dumps(fastsoftmax.show_config(mode="dicts")))
"""


def test_the_default_is_the_best_there_is():
    found = config()
    assert found["available"] == list(_backend.available())
    expected = "numpy" if _backend.fallback_reason() else _backend.available()[0]
    assert found["backend"] == expected
    assert (found["fallback_reason"] is None) == (expected != "numpy")


@pytest.mark.parametrize("name", _backend.available())
def test_a_backend_by_name(name):
    found = config(backend=name)
    assert found["backend"] == name
    assert found["same_bits_everywhere"] == (name != "numpy")
    if name == "numpy":
        assert found["fallback_reason"] == "FASTSOFTMAX_BACKEND=numpy"


@pytest.mark.skipif(not _backend.INSTRUCTION_SETS, reason="there is no extension")
def test_native_is_the_best_instruction_set():
    assert config(backend="native")["backend"] == _backend.INSTRUCTION_SETS[0]


def test_an_empty_variable_is_as_unset():
    assert config(backend="")["backend"] == config()["backend"]


@pytest.mark.parametrize(
    "name", [*sorted(set(NAMES) - set(_backend.available())), "nonsense", "AVX2"]
)
def test_what_is_not_available_is_an_error_with_the_reason_and_the_list(name):
    done = python("-c", "import fastsoftmax", backend=name, check=False)
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith(f"ImportError: FASTSOFTMAX_BACKEND={name}: ")
    assert f"available: {', '.join(_backend.available())}" in message
    if name not in NAMES:
        assert "no backend has this name" in message


def test_kernels_whose_fma_rounds_twice_are_not_offered(tmp_path, monkeypatch):
    if "generic" not in _backend.INSTRUCTION_SETS or _backend._native.fma_is_fast():
        pytest.skip("no kernels here call the C library's fma()")
    preload("round_twice.c", tmp_path, monkeypatch)
    found = config()
    assert found["available"] == [name for name in _backend.available() if name != "generic"]
    assert found["compiled"] == list(_backend.COMPILED)
    reason = found["unavailable"]["generic"]
    assert "rounds twice" in reason
    assert reason in python("-m", "fastsoftmax").stdout
    done = python("-c", "import fastsoftmax", backend="generic", check=False)
    assert f"the backend 'generic' is not available: {reason}" in done.stderr


def test_without_the_extension_numpy_stands_in_and_says_why():
    found = json.loads(python("-c", WITHOUT_EXTENSION).stdout)
    assert found["backend"] == "numpy"
    assert found["available"] == ["numpy"]
    assert found["compiled"] == []
    assert "the extension cannot be imported" in found["fallback_reason"]


@pytest.mark.parametrize("name", ["native", *NAMES])
def test_without_the_extension_asking_for_kernels_is_an_error(name):
    done = python("-c", WITHOUT_EXTENSION, backend=name, check=False)
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError")
    assert "the extension cannot be imported" in message
    assert message.endswith("available: numpy")


PIP = f"{sys.executable} -m pip install --force-reinstall --no-deps fastsoftmax"
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def copy(tmp_path):
    """Return a folder that holds a copy of the package, without its extension."""
    package = Path(fastsoftmax.__file__).parent
    left_out = shutil.ignore_patterns("_kernels", "__pycache__", "_native.*")
    shutil.copytree(package, tmp_path / "fastsoftmax", ignore=left_out)
    return tmp_path


def extension():
    """Return the bytes of the extension."""
    if not _backend.INSTRUCTION_SETS:
        pytest.skip("there is no extension")
    return Path(_backend._native.__file__).read_bytes()


def reason(path, before=""):
    """Import the package from `path`, which works; return why that is without the extension."""
    start = f"import sys; sys.path.insert(0, {str(path)!r}); {before}"
    show = "import fastsoftmax; print(fastsoftmax.show_config(mode='dicts')['fallback_reason'])"
    # Without `site`, by which an editable install would find the extension elsewhere.
    text = python("-S", "-c", f"{start}\n{show}").stdout.strip()
    head = "the extension cannot be imported: "
    assert text.startswith(head)
    # The same where the extension is asked for.
    done = python("-S", "-c", f"{start}\nimport fastsoftmax", backend="native", check=False)
    assert f"the backend 'native' is not available: {text}; available: numpy" in done.stderr
    return text.removeprefix(head)


def test_a_package_in_an_archive_says_so(copy):
    archive = copy / "fastsoftmax.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in (copy / "fastsoftmax").iterdir():
            opened.write(file, f"fastsoftmax/{file.name}")
    assert reason(archive) == (
        f"the package lies in an archive ({archive}), from which Python can load no extension "
        "module; install it by pip, or unpack the archive"
    )


def test_a_package_that_was_not_compiled_says_how_to_see_why(copy):
    assert reason(copy) == (
        f"{copy / 'fastsoftmax'} has none, as it was not compiled; install a C compiler, and set "
        f"FASTSOFTMAX_REQUIRE_EXTENSION=1 to see what else fails: `{PIP}`"
    )


@pytest.mark.parametrize("other", ["_native.cpython-35m-x86_64-linux-gnu.so", "_native.cp35.pyd"])
def test_an_extension_of_another_python_is_named(copy, other):
    (copy / "fastsoftmax" / other).write_bytes(b"")
    assert reason(copy) == (
        f"it was compiled for another Python ({other}; this one imports _native{SUFFIX}); "
        f"install it for this one: `{PIP}`"
    )


def test_an_extension_that_cannot_be_loaded_has_the_reason_of_the_system(copy):
    (copy / "fastsoftmax" / f"_native{SUFFIX}").write_bytes(b"no machine code at all" * 100)
    text = reason(copy)
    assert text.startswith("the system cannot load it (")
    assert text.endswith(f"or compile it on this system: `{PIP} --no-binary fastsoftmax`")


@pytest.mark.skipif(sys.platform != "linux", reason="names a library of Linux")
def test_a_library_that_is_missing_is_named(copy):
    code = extension()
    if b"libm.so.6\0" not in code:
        pytest.skip("the C library has another name for libm")
    changed = code.replace(b"libm.so.6\0", b"lib-.so.6\0")
    (copy / "fastsoftmax" / f"_native{SUFFIX}").write_bytes(changed)
    assert reason(copy).startswith(
        "the system cannot load it (lib-.so.6: cannot open shared object file: No such file or "
        "directory); install the library that is missing, if one is, or "
    )


OTHER_NUMPY = """
import ctypes
import numpy._core._multiarray_umath as numpy_c

# NumPy's C functions, the first of which says with which releases they are compatible.
new, get = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
functions = (ctypes.c_void_p * 300).from_address(get(numpy_c._ARRAY_API, None))
functions = (ctypes.c_void_p * 300)(*functions)
compatible_with = ctypes.PYFUNCTYPE(ctypes.c_uint)(lambda: 0x7000000)
functions[0] = ctypes.cast(compatible_with, ctypes.c_void_p)
numpy_c._ARRAY_API = new(ctypes.addressof(functions), None, None)
"""


@pytest.mark.skipif(np.__version__ < "2", reason="the module has another name")
def test_an_extension_for_other_releases_of_numpy_says_which_are_here(copy):
    (copy / "fastsoftmax" / f"_native{SUFFIX}").write_bytes(extension())
    text = reason(copy, OTHER_NUMPY)
    assert text.startswith(f"it was compiled for other releases of NumPy than {np.__version__} (")
    assert "ABI version" in text
    assert text.endswith(
        f"upgrade NumPy, or compile it for this one: `{PIP} --no-binary fastsoftmax`"
    )


OLD_NUMPY = """
import sys, numpy
numpy.__version__ = "1.24.4"
sys.modules["numpy.exceptions"] = None  # as in NumPy 1.24, an import of it fails
import fastsoftmax
"""


def test_a_numpy_that_is_too_old_is_named():
    done = python("-c", OLD_NUMPY, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: fastsoftmax needs NumPy 1.26 or newer, and this is NumPy 1.24.4; upgrade it: "
        f"`{sys.executable} -m pip install --upgrade numpy`"
    )


def test_load_is_the_private_way_to_a_backend():
    for name in _backend.available():
        assert _backend.load(name).name == name
    with pytest.raises(ImportError, match="no backend has this name"):
        _backend.load("nonsense")


def test_show_config_prints_and_returns(capsys):
    assert fastsoftmax.show_config() is None
    text = capsys.readouterr().out
    found = fastsoftmax.show_config(mode="dicts")
    assert capsys.readouterr().out == ""
    for value in (found["version"], found["backend"], found["numpy"], *found["available"]):
        assert value in text
    assert found["version"] == fastsoftmax.__version__
    assert found["numpy"] == np.__version__
    if found["compiled"]:
        assert found["compiler"].split()[0] in {"gcc", "clang", "msvc"}
    with pytest.raises(ValueError, match="mode must be 'stdout' or 'dicts', got 'json'"):
        fastsoftmax.show_config(mode="json")


def test_the_module_prints_the_configuration():
    assert python("-m", "fastsoftmax", backend="numpy").stdout.startswith("fastsoftmax: ")
    assert "NumPy's" in python("-m", "fastsoftmax", backend="numpy").stdout
    assert (
        python("-m", "fastsoftmax", "--version").stdout
        == f"fastsoftmax {fastsoftmax.__version__}\n"
    )


def test_the_citation_has_the_version():
    file = Path(__file__).parents[1] / "CITATION.cff"
    if not file.exists():
        pytest.skip("needs the checkout")
    assert f"\nversion: {fastsoftmax.__version__}\n" in file.read_text(encoding="utf-8")


def test_importing_needs_numpy_only():
    """The package may import NumPy and what comes with Python; the rest is for those who ask."""
    code = "import sys, numpy; before = set(sys.modules); import fastsoftmax; print(*(set(sys.modules) - before))"
    loaded = python("-c", code).stdout.split()
    foreign = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    assert foreign <= {"fastsoftmax", "numpy", "cython_runtime", "_cython_3_1"} | {
        name for name in foreign if name.startswith("_cython")
    }
    assert "concurrent.futures" not in loaded
    if config()["backend"] != "numpy":
        assert "fastsoftmax._numpy" not in loaded
