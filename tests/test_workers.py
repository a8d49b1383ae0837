"""Threads: opt-in, of no effect on any bit, and safe where threads and forks meet."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from functions import CALLS
from toolchain import preload, run_python

import fastsoftmax
from fastsoftmax import _backend, _workers

CPUS = os.cpu_count() or 1
BIG = (3000, 100)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(0, 3, BIG)


@pytest.fixture
def threads(monkeypatch):
    """Record how many threads each call had."""
    had = []
    worth = _workers.worth

    def recorded(workers, elements):
        had.append(worth(workers, elements))
        return had[-1]

    monkeypatch.setattr(_workers, "worth", recorded)
    return had


@pytest.fixture(params=CALLS, ids=str)
def compute(request, fs):
    """Return a public function as a call that takes rows and options."""

    def call(x, axis=-1, **options):
        y = np.random.default_rng(1).random(x.shape)
        return request.param.of_rows(fs, x, y, axis, **options)

    return call


@pytest.mark.parametrize("axis", [-1, 0])
def test_workers_change_no_bit(fs, compute, x, threads, axis):
    expected = compute(x, axis)
    most = x.size // _workers.MIN_ELEMENTS
    for workers, useful in ((2, 2), (3, 3), (10**20, most), (-1, min(most, CPUS))):
        threads.clear()
        np.testing.assert_array_equal(compute(x, axis, workers=workers), expected)
        # NumPy's is the calling thread, always.
        assert threads == [useful] if useful > 1 and fs.name != "numpy" else set(threads) <= {1}


def test_small_work_has_one_thread(compute, x, threads):
    compute(x[: (2 * _workers.MIN_ELEMENTS - 1) // x.shape[1]], workers=8)
    compute(x, workers=1)
    compute(x)
    assert set(threads) <= {1}


def test_threads_have_a_limit():
    assert _workers.worth(2, 1 << 40) == 2
    assert _workers.worth(10**6, 1 << 40) == max(_workers.MOST_THREADS, CPUS)
    assert _workers.worth(10**6, 5 * _workers.MIN_ELEMENTS) == 5
    assert _workers.worth(10**6, 0) == 1


def test_the_default_is_1_and_can_be_set_for_good_or_for_a_while():
    assert fastsoftmax.get_workers() == 1
    with fastsoftmax.set_workers(3):
        assert fastsoftmax.get_workers() == 3
        with fastsoftmax.set_workers(-1):
            assert fastsoftmax.get_workers() == CPUS
        assert fastsoftmax.get_workers() == 3
    assert fastsoftmax.get_workers() == 1
    with pytest.raises(RuntimeError, match="inside"), fastsoftmax.set_workers(2):
        raise RuntimeError("inside")
    assert fastsoftmax.get_workers() == 1
    fastsoftmax.set_workers(4)
    try:
        assert fastsoftmax.get_workers() == 4
        assert _workers.threads_for(None, 1 << 40) == 4
        assert _workers.threads_for(2, 1 << 40) == 2
    finally:
        fastsoftmax.set_workers(1)


@pytest.mark.parametrize("n", [0, -CPUS - 1])
def test_a_number_of_workers_out_of_range(n):
    with pytest.raises(ValueError, match=rf"n must be positive, or negative down to -{CPUS}"):
        fastsoftmax.set_workers(n)
    assert fastsoftmax.get_workers() == 1


@pytest.mark.parametrize("n", [1.0, "2", None, [1]])
def test_a_number_of_workers_of_another_type(n):
    with pytest.raises(TypeError, match="n must be an integer"):
        fastsoftmax.set_workers(n)


def test_the_default_belongs_to_its_thread_and_task():
    seen = []
    with fastsoftmax.set_workers(2):
        thread = threading.Thread(target=lambda: seen.append(fastsoftmax.get_workers()))
        thread.start()
        thread.join()
    assert seen == [1]

    async def task(n):
        with fastsoftmax.set_workers(n):
            await asyncio.sleep(0.01)
            return fastsoftmax.get_workers()

    async def both():
        return await asyncio.gather(task(2), task(3))

    assert asyncio.run(both()) == [2, 3]


def test_calls_from_many_threads_with_workers_of_their_own(fs, x):
    expected = fs.softmax(x)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: fs.softmax(x, workers=4), range(40)))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_call_after_call_whose_helpers_come_early_or_late(native_fs):
    """A helper may wake when the work that it was called for is over, or is the next one."""
    rng = np.random.default_rng(1)
    arrays = [rng.normal(0, 3, (rows, 64)).astype(np.float32) for rows in (2048, 2050, 2176, 9000)]
    expected = [native_fs.softmax(x) for x in arrays]

    def many(start):
        for i in range(start, start + 400):
            k = i % len(arrays)
            assert np.array_equal(native_fs.softmax(arrays[k], workers=2 + i % 3), expected[k])

    many(0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(many, range(3)))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("row", [0, 255, 256, 1500, 2999])
def test_a_class_index_out_of_range_is_found_in_any_row(fs, x, row, workers):
    """Whoever takes that row, and whatever rows are taken after it."""
    labels = np.zeros(len(x), int)
    labels[row] = x.shape[1]
    for logits, axis in ((x, -1), (x.astype(np.float16), -1), (x.T.copy(), 0)):
        for return_grad in (False, True):
            with pytest.raises(IndexError, match=f"got {x.shape[1]} at index {row}$"):
                fs.softmax_cross_entropy(
                    logits, labels, axis, return_grad=return_grad, workers=workers
                )


@pytest.mark.skipif(CPUS < 2, reason="one CPU")
def test_helpers_take_part(native_fs):
    x = np.zeros((4000, 1000), np.float32)
    deadline = time.monotonic() + 20  # on a busy machine they may come too late
    helped = 0.0
    while helped < 0.1 and time.monotonic() < deadline:
        mine, all_threads = time.thread_time(), time.process_time()
        native_fs.softmax(x, out=x, workers=2)
        mine, all_threads = time.thread_time() - mine, time.process_time() - all_threads
        helped = 1 - mine / all_threads
    assert helped >= 0.1


AT_EXIT = """
import atexit
import numpy as np
import fastsoftmax

x = np.random.default_rng(0).normal(0, 3, (3000, 100))
expected = fastsoftmax.softmax(x)

def last(workers):
    assert (fastsoftmax.softmax(x, workers=workers) == expected).all()
    print("the same with", workers)

atexit.register(last, 4)
last(2)
"""


def test_workers_at_exit(backend_name):
    """Threads that wait for work do not hold up the end, nor is it an error to want them there."""
    environment = {**os.environ, "FASTSOFTMAX_BACKEND": backend_name}
    program = [sys.executable, "-W", "error", "-c", AT_EXIT]
    done = subprocess.run(
        program, check=False, env=environment, timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["the same with 2", "the same with 4"]


def _child(expected, queue):
    x = np.random.default_rng(0).normal(0, 3, BIG)
    queue.put(fastsoftmax.softmax(x, workers=2).tobytes() == expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(x):
    expected = fastsoftmax.softmax(x, workers=2).tobytes()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(expected, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0


FORK = """
import os
import numpy as np
import fastsoftmax as fs

def threads():
    return len(os.listdir("/proc/self/task"))

x = np.random.default_rng(0).normal(0, 3, (3000, 100))
expected = fs.softmax(x, workers=2)
assert threads() > 1
child = os.fork()
if child == 0:
    assert threads() == 1
    assert (fs.softmax(x, workers=2) == expected).all()
    os._exit(10 + threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert (fs.softmax(x, workers=2) == expected).all()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="cannot count threads")
def test_a_forked_child_calls_no_helper_that_was_its_parents(native_name):
    done = run_python("-W", "ignore", "-c", FORK, backend=native_name)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "12\n")


HELPERS = """
import os
import threading
import time
import numpy as np
import fastsoftmax as fs

def threads():
    return len(os.listdir("/proc/self/task"))

x = np.random.default_rng(0).normal(0, 3, (30000, 100))
expected = fs.softmax(x)
before = threads()
results = []
callers = [
    threading.Thread(target=lambda: results.append(fs.softmax(x, workers=1000))) for _ in range(8)
]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert len(results) == 8
assert all((result == expected).all() for result in results)
assert before < threads() <= before + os.cpu_count(), threads()
time.sleep(7)
assert threads() == before, threads()
assert (fs.softmax(x, workers=2) == expected).all()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="cannot count threads")
@pytest.mark.skipif(not _backend.INSTRUCTION_SETS, reason="there is no extension")
def test_there_are_no_more_helpers_than_cpus_and_idle_ones_end():
    done = run_python("-W", "ignore", "-c", HELPERS, backend="native")
    assert (done.returncode, done.stderr) == (0, "")


NO_MEMORY = """
import ctypes
import numpy as np
import fastsoftmax as fs
from functions import CALLS

library = ctypes.CDLL(None)
library.get_control.restype = ctypes.c_uint64
library.refused.restype = ctypes.c_uint64
for function in CALLS:
    for dtype in ("float32", "float16"):
        rng = np.random.default_rng(0)
        x = rng.normal(0, 3, (1000, 333)).astype(dtype)
        y = rng.random(x.shape).astype(dtype)
        for axis in (-1, 0):
            expected = function.of_rows(fs, x, y, axis)
            for threads, workers in ((1, 1), (2, 2), (3, 2)):
                control = library.get_control()
                # Half a strip of columns, and less than any array here.
                library.refuse_memory(threads, 1 << 12, 1 << 19)
                try:
                    got = function.of_rows(fs, x, y, axis, workers=workers)
                except MemoryError:
                    got = expected
                finally:
                    library.refuse_memory(0, 0, 0)
                where = str(function), dtype, axis, threads
                assert got.tobytes() == expected.tobytes(), where
                assert library.get_control() & ~0x3F == control & ~0x3F, where
print(library.refused())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")
def test_where_memory_is_refused_there_is_an_error_and_no_wrong_result(
    native_name, tmp_path, monkeypatch
):
    """In the caller's thread, in a helper's or in both; the control register is restored."""
    assert refusals(NO_MEMORY, native_name, tmp_path, monkeypatch) > 0


NO_THREADS = """
import ctypes
import numpy as np
import fastsoftmax as fs
from functions import CALLS

library = ctypes.CDLL(None)
library.refused.restype = ctypes.c_uint64
rng = np.random.default_rng(0)
x, y = rng.normal(0, 3, (3000, 100)), rng.random((3000, 100))
for function in CALLS:
    expected = function.of_rows(fs, x, y)
    library.refuse_threads(1)
    assert (function.of_rows(fs, x, y, workers=4) == expected).all(), function
library.refuse_threads(0)
assert (function.of_rows(fs, x, y, workers=4) == expected).all()
print(library.refused())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")
def test_where_the_system_has_no_thread_the_caller_does_it_all(native_name, tmp_path, monkeypatch):
    assert refusals(NO_THREADS, native_name, tmp_path, monkeypatch) >= len(CALLS)


def refusals(program, name, tmp_path, monkeypatch):
    """Run a program that is refused memory or threads, and return how often it was."""
    preload("refuse.c", tmp_path, monkeypatch)
    done = run_python("-c", program, backend=name)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def test_the_kernels_release_the_gil(native_fs):
    x = np.zeros((4000, 1000), np.float32)
    ticks = []
    started, stop = threading.Event(), threading.Event()

    def count():
        started.set()
        while not stop.is_set():
            ticks.append(1)
            time.sleep(0)  # gives the GIL away

    counter = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # so that nobody is made to give it away
    try:
        counter.start()
        started.wait()
        before = after = len(ticks)
        deadline = time.monotonic() + 5  # on a busy machine a thread may have to wait for its turn
        while after == before and time.monotonic() < deadline:
            native_fs.softmax(x, out=x)
            after = len(ticks)
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        counter.join()
    assert after > before
