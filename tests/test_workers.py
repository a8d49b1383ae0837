"""Threads: opt-in, of no effect on any bit, and safe where threads and forks meet."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import sys
import threading
import time

import numpy as np
import pytest

import fastsoftmax
from fastsoftmax import _workers

CPUS = os.cpu_count() or 1
BIG = (3000, 100)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(0, 3, BIG)


@pytest.fixture
def pieces(monkeypatch):
    """Record in how many pieces each call was made, and for how many workers."""
    made = []
    share = _workers.share

    def recorded(call, parts, workers):
        made.append((len(parts), workers))
        share(call, parts, workers)

    monkeypatch.setattr(_workers, "share", recorded)
    return made


def calls(fs, x):
    """Return every public function as a call that takes only options."""
    labels = np.arange(len(x)) % x.shape[1]
    indptr = np.arange(0, x.size + 1, 100)
    return {
        "softmax": lambda **o: fs.softmax(x, **o),
        "softmax of columns": lambda **o: fs.softmax(x, 0, **o),
        "log_softmax": lambda **o: fs.log_softmax(x, **o),
        "log_softmax where": lambda **o: fs.log_softmax(x, where=x > -3, **o),
        "logsumexp": lambda **o: fs.logsumexp(x, **o),
        "softmax_backward": lambda **o: fs.softmax_backward(x, x, **o),
        "log_softmax_backward": lambda **o: fs.log_softmax_backward(x, x, **o),
        "cross-entropy": lambda **o: np.column_stack(
            [
                a.reshape(len(x), -1)
                for a in fs.softmax_cross_entropy(x, labels, return_grad=True, **o)
            ]
        ),
        "cross-entropy of targets": lambda **o: fs.softmax_cross_entropy(x, np.abs(x), **o),
        "segment_softmax": lambda **o: fs.segment_softmax(x.ravel(), indptr, **o),
    }


NAMES = list(calls(fastsoftmax, np.zeros((100, 100))))


@pytest.mark.parametrize("name", NAMES)
def test_workers_change_no_bit(fs, x, pieces, name):
    call = calls(fs, x)[name]
    expected = call()
    for workers in (2, 3, 64, -1):
        np.testing.assert_array_equal(call(workers=workers), expected)
    most = x.size // _workers.MIN_ELEMENTS
    assert (most, 64) in pieces
    assert (min(most, 2 * _workers.PIECES_EACH), 2) in pieces


@pytest.mark.parametrize("name", NAMES)
def test_small_work_starts_no_thread(fs, x, monkeypatch, name):
    def no_pool():
        raise AssertionError("asked for a pool")

    monkeypatch.setattr(_workers, "_get_pool", no_pool)
    small = x[: (2 * _workers.MIN_ELEMENTS - 1) // x.shape[1]]
    calls(fs, small)[name](workers=8)
    calls(fs, x)[name](workers=1)
    calls(fs, x)[name]()


def test_the_default_is_1_and_can_be_set_for_good_or_for_a_while(x, pieces):
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
        fastsoftmax.softmax(x)
        assert pieces == [(4, 4)]
        fastsoftmax.softmax(x, workers=2)
        assert pieces == [(4, 4), (4, 2)]
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


def test_a_call_inside_a_worker_does_not_wait_for_itself(x):
    """More nested calls than the pool has threads, each with pieces for others."""
    rows = [[x] for _ in range(200)]
    done = []

    def nested(array):
        done.append(fastsoftmax.softmax(array, workers=4)[0, 0])

    finished = threading.Thread(target=lambda: _workers.share(nested, rows, len(rows)), daemon=True)
    finished.start()
    finished.join(60)
    assert not finished.is_alive()
    assert len(done) == 200


def test_an_error_in_a_worker_reaches_the_caller():
    def fail(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece"):
        _workers.share(fail, [[1], [2], [3]], 2)


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
