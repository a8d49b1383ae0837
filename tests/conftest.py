"""Every test that takes `fs` runs on NumPy and on every instruction set that this CPU has.

The usual run has those on the default backend, and those on any that are marked `every_backend`.
"""

import functools
import types

import checkout  # noqa: F401 - puts benchmarks on the path
import pytest

from fastsoftmax import _api, _backend

OTHERS = {*_backend.available()} - {_backend.default().name}
"""The backends that are not the default."""


def pytest_collection_modifyitems(items):
    """Mark the tests that say which backend computes, and those of another than the default.

    All instruction sets give the same bits: every run compares them with the golden hashes.
    """
    for item in items:
        if names := {"backend_name", "native_name"} & set(item.fixturenames):
            item.add_marker("chooses_backend")
            chosen = {item.callspec.params[name] for name in names}
            if chosen & OTHERS and not item.get_closest_marker("every_backend"):
                item.add_marker("other_backend")


@pytest.fixture(params=_backend.available())
def backend_name(request):
    return request.param


@pytest.fixture
def fs(backend_name):
    """Return the public functions over one backend."""
    return _api.over(_backend.load(backend_name))


@pytest.fixture(scope="session")
def numpy_fs():
    """Return the public functions over NumPy, the specification of the others."""
    return _api.over(_backend.load("numpy"))


@pytest.fixture(params=_backend.INSTRUCTION_SETS)
def native_name(request):
    return request.param


@pytest.fixture
def native_fs(native_name):
    """Return the public functions over one instruction set's kernels."""
    return _api.over(_backend.load(native_name))


@pytest.fixture
def rules_fs(native_name):
    """Return the same, but every call goes through the rules first."""
    return _api.over(_backend.load(native_name), by_rules=True)


@pytest.fixture
def direct_fs(native_name):
    """Return the C functions of one instruction set, which fail where they leave a call to the rules."""
    backend = _backend.load(native_name)

    def alone(general):
        @functools.wraps(general)  # has the signature, which says what the C function takes
        def left(*_arguments, **_keywords):
            raise AssertionError(f"{general.__name__} left a call to the rules")

        return backend.function(left)

    general = vars(_api.over(backend, by_rules=True))
    functions = {name: alone(general[name]) for name in general.keys() - {"name"}}
    return types.SimpleNamespace(name=native_name, **functions)
