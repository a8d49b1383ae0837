"""The choice of the backend: by default, by the environment, and when the extension is missing."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _backend

NAMES = ("avx512", "avx2", "neon", "generic")


def python(*arguments, backend=None, check=True):
    """Run Python in a child that imports what this process would."""
    environment = {k: v for k, v in os.environ.items() if k != "FASTSOFTMAX_BACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    if backend is not None:
        environment["FASTSOFTMAX_BACKEND"] = backend
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=check
    )


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
