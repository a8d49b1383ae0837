"""Large new results: arrays as any other, in memory that an earlier result has left."""

import ctypes
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from toolchain import run_python

import fastsoftmax
from fastsoftmax import _api, _backend

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

needs_kept_memory = pytest.mark.skipif(
    sys.platform != "linux" or not _backend.INSTRUCTION_SETS, reason="nothing is kept"
)
ROWS, N = 9000, 1000  # 34 MiB of float32
MAX_KEPT = 1 << 30


@pytest.fixture(scope="module")
def fs():
    return _api.over(_backend.load("native" if _backend.INSTRUCTION_SETS else "numpy"))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(5).normal(size=(ROWS, N)).astype(np.float32)


def address(array):
    return array.__array_interface__["data"][0]


def handler_name(array):
    return multiarray.get_handler_name(array)


def test_it_is_an_array_as_any_other(fs, x):
    expected = np.vstack([fs.softmax(part) for part in np.array_split(x, 9)])
    for _ in range(3):  # in new memory and in memory that was another's
        y = fs.softmax(x)
        assert type(y) is np.ndarray
        assert y.base is None
        assert y.flags.owndata
        assert y.flags.writeable
        np.testing.assert_array_equal(y, expected)


def test_it_can_be_resized(fs, x):
    for _ in range(2):
        y = fs.softmax(x)
        start = y[:5].copy()
        y.resize((ROWS + 500, N), refcheck=False)
        np.testing.assert_array_equal(y[:5], start)
        assert not y[ROWS:].any()
        y.resize((5, N), refcheck=False)
        np.testing.assert_array_equal(y, start)


def test_it_is_traced(fs, x):
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        y = fs.softmax(x)
        held, _ = tracemalloc.get_traced_memory()
        assert y.nbytes <= held - before < y.nbytes + 10**5
        del y
        after, _ = tracemalloc.get_traced_memory()
        assert after - before < 10**5
    finally:
        tracemalloc.stop()


@needs_kept_memory
def test_it_takes_the_memory_that_another_has_left(fs, x):
    first = fs.softmax(x)
    assert handler_name(first) == "fastsoftmax"
    was = address(first)
    del first
    second = fs.log_softmax(x)
    assert address(second) == was
    np.testing.assert_array_equal(second[:9], fs.log_softmax(x[:9]))
    third = fs.softmax(x)
    assert address(third) != was
    assert not np.may_share_memory(second, third)


def held_by_us():
    """Return how many bytes are lent to the system."""
    with Path("/proc/self/smaps").open() as maps:
        return sum(1024 * int(line.split()[1]) for line in maps if line.startswith("LazyFree:"))


@needs_kept_memory
def test_one_of_another_size_does_not(fs, x):
    y = fs.softmax(x)
    was = address(y)
    del y
    y = fs.softmax(np.concatenate([x, x]))  # half of which would not fit
    assert address(y) != was
    np.testing.assert_array_equal(y[:9], y[ROWS : ROWS + 9])
    del y
    y = fs.softmax(x)  # would leave half of it unused
    again = fs.softmax(x)
    np.testing.assert_array_equal(y, again)
    assert handler_name(y) == handler_name(again) == "fastsoftmax"
    del y, again
    assert held_by_us() <= 1.1 * x.nbytes


@needs_kept_memory
def test_smaller_results_have_the_memory_of_all_arrays(fs, x):
    assert handler_name(fs.softmax(x[:100])) == "default_allocator"


@needs_kept_memory
def test_what_is_kept_is_lent_to_the_system(fs, x):
    """Which takes it where memory is short: /proc/self/smaps says how much there is to take."""
    y = fs.softmax(x)
    assert held_by_us() == 0
    del y
    assert 0.9 * x.nbytes < held_by_us() < 1.1 * x.nbytes


@needs_kept_memory
def test_it_can_be_switched_off(monkeypatch):
    code = """
import numpy as np, fastsoftmax
try:
    from numpy._core import multiarray
except ImportError:
    from numpy.core import multiarray
y = fastsoftmax.softmax(np.zeros((9000, 1000), np.float32))
print(multiarray.get_handler_name(y))
"""
    for value, expected in (("0", "default_allocator"), ("1", "fastsoftmax")):
        monkeypatch.setenv("FASTSOFTMAX_KEEP_MEMORY", value)
        done = run_python("-c", code, backend="native")
        assert done.stdout.strip() == expected, done.stderr


class _Allocator(ctypes.Structure):
    _fields_ = [("pointers", ctypes.c_void_p * 5)]


class _Handler(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("all", _Allocator)]


@needs_kept_memory
def test_a_handler_of_the_callers_is_not_put_aside(fs, x):
    """As those who place arrays themselves have one (NEP 49): here NumPy's under another name."""
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table = ctypes.cast(
        api.PyCapsule_GetPointer(multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
    of_numpy = ctypes.cast(table[306], ctypes.POINTER(ctypes.py_object))[0]
    handler = _Handler.from_buffer_copy(
        ctypes.string_at(
            api.PyCapsule_GetPointer(of_numpy, b"mem_handler"), ctypes.sizeof(_Handler)
        )
    )
    handler.name = b"the caller's"
    before = set_handler(api.PyCapsule_New(ctypes.addressof(handler), b"mem_handler", None))
    try:
        y = fs.softmax(x)
        assert handler_name(y) == "the caller's"
        assert multiarray.get_handler_name() == "the caller's"
        del y
    finally:
        set_handler(before)
    assert multiarray.get_handler_name() == "default_allocator"


@needs_kept_memory
def test_threads_get_memory_of_their_own(fs, x):
    expected = fs.softmax(x)
    wrong = []

    def work():
        for _ in range(6):
            y = fs.softmax(x)
            if not np.array_equal(y, expected):
                wrong.append(y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
@needs_kept_memory
def test_at_most_a_gibibyte_is_kept():
    done = run_python(
        "-c",
        f"""
import resource, numpy as np, fastsoftmax
x = np.zeros(({MAX_KEPT} // 4000 + 2000, 1000), np.float32)

def mapped():
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * resource.getpagesize()

fastsoftmax.softmax(x[:10])
before = mapped()
y = fastsoftmax.softmax(x)
assert mapped() - before > y.nbytes / 2
del y
print(mapped() - before)
""",
        backend="native",
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10**7


def test_results_that_no_memory_is_left_for(fs):
    x = np.broadcast_to(np.float32(0), (1 << 30, 1 << 14))
    with pytest.raises(MemoryError):
        fs.softmax(x)
    assert fastsoftmax.softmax(np.zeros((2, 2))).sum() == 2
