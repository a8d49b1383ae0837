"""Signals that come during a call: their handlers run meanwhile, and what one raises ends the call."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from functions import CALLS, FUNCTIONS, SOFTMAX
from toolchain import run_python

import fastsoftmax
from fastsoftmax import _api, _backend

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here"),
    pytest.mark.skipif(not _backend.INSTRUCTION_SETS, reason="no kernels here"),
]
SLOW = pytest.mark.slow


class StopError(Exception):
    """What a handler raises."""


@pytest.fixture
def alarms():
    """Return the times at which handlers ran; each raises while there is an error in `raising`."""
    assert threading.current_thread() is threading.main_thread()
    ran, raising = [], []

    def handle(_number, _frame):
        ran.append(time.perf_counter())
        if raising:
            raise raising[0]

    before = signal.signal(signal.SIGALRM, handle)
    yield ran, raising
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def filled(shape, dtype=np.float32):
    """Return random numbers, of which few are different: made quickly."""
    few = np.random.default_rng(0).random(1 << 12).astype(np.float32)
    return np.resize(few.astype(dtype), shape)


# Each has loops of its own: over rows, within one row, and over what is gathered for the kernels.
LAYOUTS = {
    "rows": lambda many: (filled((many // 1024, 1024)), -1),
    "one row": lambda many: (filled((1, many)), -1),
    "long columns": lambda many: (filled((many // 16, 16)), 0),
    "short rows": lambda many: (filled((many // 8, 8)), -1),
    "columns": lambda many: (filled((16, many // 16)), 0),
    "every second element": lambda many: (filled((1, 2 * many))[:, ::2], -1),
    "float16": lambda many: (filled((1, many), np.float16), -1),
    "byte-swapped float64": lambda many: (filled((1, many), ">f8"), -1),
    "two axes": lambda many: (filled((4, many // 512, 8, 16)), (1, 3)),
}
MANY = 1 << 23
LONG_ENOUGH = 0.08
"""Seconds; handlers run each 0.025."""


def made(function, layout, many=MANY):
    """Return a call of a function over so many elements; None if it takes no such axis."""
    x, axis = LAYOUTS[layout](many)
    y = filled(x.shape)
    several = isinstance(axis, tuple)
    if (several and function.axes != "several") or (axis != -1 and function.axes == "none"):
        return None
    operands = (x, y)[: len(function.operands)] if several else function.from_rows(x, y, axis)
    options = function.given(y, axis)
    if function.axes != "none":
        options["axis"] = axis
    return lambda fs, **more: function.call(fs, operands, **options, **more)


def soon(call):
    """Make a call during which a signal comes."""
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    call()


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def twice(call):
    """Time a call: the lesser of two, as the first may spend it on pages that are new to it."""
    return min(seconds(call) for _ in range(2))


def check_interrupted(call, alarms, whole, within=np.inf):
    """Demand that what a handler raises ends a call of `whole` seconds early, `within` so many."""
    ran, raising = alarms
    took = []
    for _ in range(8):  # on a busy machine the end may come late
        ran.clear()
        raising[:] = [StopError()]
        start = time.perf_counter()
        with pytest.raises(StopError):
            soon(call)
        took.append(time.perf_counter() - start)
        raising.clear()
        assert len(ran) == 1
        if took[-1] < min(0.8 * whole, within):
            return
    pytest.fail(f"the whole call takes {whole:.3f} s; ended by a handler after {took}")


@pytest.fixture
def slowest_fs():
    """Return the public functions over the portable kernels, whose calls take longest."""
    return _api.over(_backend.load(_backend.INSTRUCTION_SETS[-1]))


def check_layout(fs, function, layout, workers, alarms):
    for many in (MANY, 4 * MANY, 16 * MANY):
        call = made(function, layout, many)
        if call is None:
            pytest.skip("has no such axis")
        whole = twice(lambda call=call: call(fs, workers=workers))
        if whole > LONG_ENOUGH:
            break
    check_interrupted(lambda: call(fs, workers=workers), alarms, whole)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_what_a_handler_raises_ends_the_call(slowest_fs, function, alarms):
    check_layout(slowest_fs, function, "rows", 1, alarms)


@pytest.mark.parametrize("layout", ["one row", "long columns", "every second element", "two axes"])
def test_what_a_handler_raises_ends_a_softmax_in_any_layout(slowest_fs, layout, alarms):
    check_layout(slowest_fs, SOFTMAX, layout, 2, alarms)


@SLOW
@pytest.mark.parametrize(
    ("layout", "workers"),
    [("rows", 1), ("one row", 1), ("long columns", 1), *((layout, 2) for layout in LAYOUTS)],
)
@pytest.mark.parametrize("function", CALLS, ids=str)
def test_what_a_handler_raises_ends_any_call(slowest_fs, function, layout, workers, alarms):
    check_layout(slowest_fs, function, layout, workers, alarms)


@SLOW
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shape", [(100_000, 1000), (1, 100_000_000)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_it_ends_a_long_call_within_a_tenth_of_a_second(shape, axis, workers, alarms):
    x = filled(shape)

    def call():
        fastsoftmax.softmax(x, axis, out=x, workers=workers)

    if seconds(call) < LONG_ENOUGH:
        pytest.skip("is over before a handler would run")
    check_interrupted(call, alarms, twice(call), within=0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_whole_or_untouched_where_a_call_has_ended(slowest_fs, workers, alarms):
    x = filled((MANY // 1024, 1024))
    expected, out = slowest_fs.softmax(x), np.full(x.shape, np.float32(-1))

    def call():
        slowest_fs.softmax(x, out=out, workers=workers)

    check_interrupted(call, alarms, twice(call))
    out[:] = -1
    alarms[1][:] = [StopError()]
    with pytest.raises(StopError):
        soon(call)
    alarms[1].clear()
    written = (out == expected).all(axis=1)
    np.testing.assert_array_equal(out[~written], np.float32(-1))
    assert written.any()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=SLOW), 2])
@pytest.mark.parametrize(
    "function", [f if f in FUNCTIONS else pytest.param(f, marks=SLOW) for f in CALLS], ids=str
)
def test_handlers_that_return_change_no_bit(slowest_fs, function, workers, alarms):
    call = made(function, "rows")
    expected = call(_api.over(_backend.load(_backend.INSTRUCTION_SETS[0])))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.002)
    results = call(slowest_fs, workers=workers)
    signal.setitimer(signal.ITIMER_REAL, 0)
    for result, bits in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, bits)
    assert alarms[0]


NESTED = """
import resource, signal
import numpy as np
import fastsoftmax as fs

resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, -1))
x = np.zeros((4000, 1000), np.float32)
depth, deepest = 0, 0

def handle(number, frame):
    global depth, deepest
    depth += 1
    deepest = max(depth, deepest)
    if deepest < 40:
        fs.softmax(x, workers=2)
    depth -= 1

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while deepest < 40:
    fs.softmax(x, workers=2)
signal.setitimer(signal.ITIMER_REAL, 0)
assert (fs.softmax(x, workers=2) == np.float32(0.001)).all()
"""


@SLOW
def test_calls_of_handlers_of_calls_of_handlers_need_little_stack():
    done = run_python("-W", "ignore", "-c", NESTED, backend="generic")
    assert (done.returncode, done.stderr) == (0, "")


INTERRUPTED = """
import signal, threading, time
import numpy as np
import fastsoftmax as fs

signal.signal(signal.SIGINT, signal.default_int_handler)  # or it may be ignored from the start
x = np.zeros((30000, 1000), np.float32)
small = np.random.default_rng(0).random((2000, 100))
expected = fs.softmax(small)
for workers in (1, 2):
    for _ in range(5):
        calling = []

        def interrupt():
            while not calling:
                time.sleep(0.001)
            time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=interrupt).start()  # before, as a signal would break it off
        try:
            calling.append(True)
            while True:
                fs.softmax(x, out=x, workers=workers)
        except KeyboardInterrupt:
            assert (fs.softmax(small, workers=2) == expected).all()
            print("interrupted")
"""


def test_control_c_leaves_helpers_that_serve_the_next_call():
    done = run_python("-W", "ignore", "-c", INTERRUPTED)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "interrupted\n" * 10)


FORKING = """
import os, signal, sys
import numpy as np
import fastsoftmax as fs

x = np.random.default_rng(0).random((8000, 1000), np.float32)
small = x[:200]
expected, out = fs.softmax(small), x.copy()
children = []

def handle(number, frame):
    signal.setitimer(signal.ITIMER_REAL, 0)
    children.append(os.fork())
    if children[-1] == 0 and sys.argv[2] == "leaves":
        raise SystemExit(0)

signal.signal(signal.SIGALRM, handle)
workers = int(sys.argv[1])
signal.setitimer(signal.ITIMER_REAL, 0.001)
try:
    while not children:
        fs.softmax(x, out=out, workers=workers)
    ended = "went on"
except RuntimeError as error:
    assert "forked" in str(error)
    ended = "was told"
assert (fs.softmax(small, workers=2) == expected).all()
if children[0] == 0:
    # Between two calls it is no matter.
    sys.exit({"went on": 0, "was told": 3}[ended])
assert ended == "went on"
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork here")
@pytest.mark.parametrize(
    ("workers", "then", "codes"), [(1, "stays", "0"), (2, "stays", "03"), (2, "leaves", "0")]
)
def test_a_handler_may_fork(workers, then, codes):
    """Its child either has all results or is told that it has not."""
    for _ in range(2):
        done = run_python("-W", "ignore", "-c", FORKING, str(workers), then, backend="generic")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() in codes
