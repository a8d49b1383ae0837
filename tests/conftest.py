"""Every test that takes `fs` runs on NumPy and on every instruction set that this CPU has."""

import pytest

from fastsoftmax import _api, _backend


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
