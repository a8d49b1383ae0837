"""Faults end in a right result or an error: never in a crash, a hang or a lost exception.

Each is tried in a child process, which runs one of the functions of this file by its name. What it
prints last is what it was about to do.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import math
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from functions import CALLS, ENTROPY_OF_LABELS, FUNCTIONS, SEGMENT_SOFTMAX
from toolchain import preload, run_python

import fastsoftmax
from fastsoftmax import _backend

CPUS = os.cpu_count() or 1
TASKS = Path("/proc/self/task")
BACKENDS = ["native", "numpy"] if _backend.INSTRUCTION_SETS else ["numpy"]
SHAPE = (2000, 100)  # of work for three threads

SLOW = pytest.mark.slow
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")
has_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="has no interval timers")
has_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits no memory")


@pytest.fixture(params=[BACKENDS[0], *(pytest.param(name, marks=SLOW) for name in BACKENDS[1:])])
def backend(request):
    return request.param


@pytest.fixture
def native():
    if "native" not in BACKENDS:
        pytest.skip("there is no extension")
    return "native"


def survives(case, *arguments, backend, timeout=120):
    """Run a function of this file in a child, which must end as Python does where all is well."""
    options = ("-W", "ignore", "-X", "faulthandler")
    done = run_python(*options, __file__, case, *arguments, backend=backend, timeout=timeout)
    last = done.stdout.splitlines()[-1:]
    assert (done.returncode, done.stderr) == (0, ""), f"{last}: {done.returncode}\n{done.stderr}"
    return done.stdout


def doing(*what):
    print(*what, flush=True)


def rows(dtype=np.float32, shape=SHAPE):
    """Return logits, and as many numbers from 0 to 1."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, shape).astype(dtype), rng.random(shape).astype(dtype)


def same(got, expected):
    return len(got) == len(expected) and all(
        np.array_equal(one, other, equal_nan=True) for one, other in zip(got, expected, strict=True)
    )


def tasks():
    """Return how many threads the process has, or 0 where this cannot be known."""
    return len(list(TASKS.iterdir())) if TASKS.is_dir() else 0


# ---- signal handlers that raise ----


class LateError(RuntimeError):
    """What a handler raises: a kind of what Python raises where no thread can start."""


RAISED = {
    "RuntimeError": LateError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "OSError": TimeoutError,
}


def interrupt(raised, calls):
    """Run in the child: each call is interrupted once, at any moment of it or after it."""
    error = RAISED[raised]
    handled = []

    def handler(_number, _frame):
        handled.append(1)
        raise error("of a handler")

    signal.signal(signal.SIGALRM, handler)
    x, y = rows()
    expected = {function: function.of_rows(fastsoftmax, x, y) for function in CALLS}
    before = tasks()
    delays = 1e-4 * 1.5 ** np.arange(10)  # to 4 ms
    caught = 0
    for i in range(int(calls)):
        function, workers = CALLS[i % len(CALLS)], 2 + i % 10
        try:
            signal.setitimer(signal.ITIMER_REAL, delays[i * 7 % 10])
            function.of_rows(fastsoftmax, x, y, workers=workers)
            signal.setitimer(signal.ITIMER_REAL, 0)
            time.sleep(0)
        except error:
            caught += 1
        assert caught == len(handled), f"{function}: an exception was lost"
    assert caught > 0
    for function, workers in itertools.product(CALLS, range(2, 12)):
        got = function.of_rows(fastsoftmax, x, y, workers=workers)
        assert same([got], [expected[function]]), function
    deadline = time.monotonic() + 5
    while tasks() > before + CPUS and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tasks() <= before + CPUS


@has_timers
@pytest.mark.parametrize("raised", RAISED)
def test_a_handler_that_raises_loses_neither_its_exception_nor_a_helper(backend, raised):
    survives("interrupt", raised, "150", backend=backend)


@has_timers
@SLOW
@pytest.mark.parametrize("raised", RAISED)
def test_many_handlers_that_raise(native, raised):
    survives("interrupt", raised, "20000", backend=native, timeout=900)


def replace_threading():
    """Run in the child: what Python's threads are made of raises."""
    x, y = rows()
    expected = [function.of_rows(fastsoftmax, x, y) for function in CALLS]
    wait, start = threading.Event.wait, threading.Thread.start

    def waits_and_raises(event, timeout=None):
        wait(event, timeout)
        raise LateError

    def starts_and_raises(thread):
        start(thread)
        raise LateError

    for owner, name, broken in (
        (threading.Event, "wait", waits_and_raises),
        (threading.Thread, "start", starts_and_raises),
        (threading.Thread, "join", starts_and_raises),
    ):
        whole = getattr(owner, name)
        for replaced in (broken, whole):
            setattr(owner, name, replaced)
            for function, values in zip(CALLS, expected, strict=True):
                for workers in (2, 3, 11):
                    got = function.of_rows(fastsoftmax, x, y, workers=workers)
                    assert same([got], [values]), (function, name)


def test_helpers_do_not_come_from_the_module_threading(backend):
    survives("replace_threading", backend=backend)


# ---- operands in each other's memory ----


def overlap(dtype):
    """Run in the child: any two operands, and `out`, at any distance in one buffer."""
    x, y = rows(dtype, (1500, 100))
    shifts = (-1, -9, -333, -(10**5), 0, 1, 7, 1000, 33333)
    for function in CALLS:
        given = dict(zip(function.operands, function.from_rows(x, y, -1), strict=True))
        given.update({k: v for k, v in function.given(y).items() if isinstance(v, np.ndarray)})
        plain = {k: v for k, v in function.given(y).items() if k not in given}
        if "return_grad" in function.options:
            plain["return_grad"] = True
        expected = function.call(fastsoftmax, (), **given, **plain)
        if "out" in function.options:
            given["out"] = expected[0]
        for (under, over), shift, workers in itertools.product(
            itertools.permutations(given, 2), shifts, (1, 3)
        ):
            if under == "out":
                continue
            doing(function, under, over, shift, workers)
            lower, upper = given[under], given[over]
            start = 8 * 10**6
            buffer = np.zeros(3 * start, np.uint8)
            # The second begins where the first does, or elsewhere by some of its own elements.
            views = {}
            for name, array, at in (
                (over, upper, start + shift * upper.itemsize),
                (under, lower, start),
            ):
                at -= at % 8 if array.dtype == np.int64 else at % array.itemsize
                views[name] = buffer[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            views[over][...] = 0 if over == "out" else upper
            views[under][...] = lower
            call = {**given, **views}
            if not is_sound(call):
                continue
            copies = {name: call[name].copy() for name in call if name != "out"}
            right = function.call(fastsoftmax, (), **copies, **plain)
            got = function.call(fastsoftmax, (), **call, **plain, workers=workers)
            assert same(got, right)


def is_sound(call):
    """Whether arrays are still what they must be where something else was written."""
    if "labels" in call:
        labels = call["labels"]
        in_range = (labels >= 0) & (labels < call["logits"].shape[-1])
        if labels.dtype.kind == "i" and not np.all(in_range):
            return False
        if "out" in call and np.may_share_memory(call["out"], labels):  # which is refused
            return False
    if "indptr" in call:
        indptr = call["indptr"]
        return bool(
            indptr[0] == 0 and indptr[-1] == len(call["data"]) and np.all(np.diff(indptr) >= 0)
        )
    numbers = [call[name] for name in ("b", "sample_weight", "temperature") if name in call]
    if not all(np.all(np.isfinite(array)) for array in numbers):
        return False
    if "temperature" in call and not np.all(call["temperature"] > 0):
        return False
    return "where" not in call or bool(np.all(call["where"].view(np.uint8) < 2))


@SLOW
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_operands_overlap_in_any_way(native, dtype):
    survives("overlap", dtype, backend=native)


def overwrite_pointers():
    """Run in the child: row pointers under the result, which are wild once it is written."""
    for size, ints in itertools.product((4096, 100_000), (np.int64, np.uint32, np.dtype(">i8"))):
        x = np.zeros(size)
        expected = np.full(size, 0.25)
        for place, workers in itertools.product(("first", "last"), (1, 3)):
            doing(size, ints, place, workers)
            out = np.zeros(size)
            pointers = out.view(ints)
            n = size // 4 + 1
            pointers = pointers[:n] if place == "first" else pointers[-n:]
            pointers[...] = np.arange(0, size + 1, 4)
            got = fastsoftmax.segment_softmax(x, pointers, out=out, workers=workers)
            assert got is out
            assert np.array_equal(out, expected)


def test_row_pointers_that_the_result_overwrites(backend):
    survives("overwrite_pointers", backend=backend)


# ---- indices that another thread changes ----

INDEX_DTYPES = [np.dtype(code) for code in "bBhHiIqQ"]


def change(function, indices, at, call, expected):
    """Call while an index is now right and now wild: all calls are right or refused."""
    right = int(indices[at])
    limits = np.iinfo(indices.dtype)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for wild in (limits.max, limits.min or limits.max - 1):
                indices[at] = wild
                indices[at] = right

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(6):
            try:
                got = function.call(fastsoftmax, *call[0], **call[1])
            except (IndexError, ValueError):
                continue
            assert same(got, expected)
    finally:
        stop.set()
        writer.join()
        indices[at] = right


def change_indices():
    """Run in the child: every kind of index, in every function and place."""
    sys.setswitchinterval(1e-5)
    x, y = rows(np.float32, (1500, 100))
    for function, order, step in itertools.product(
        (ENTROPY_OF_LABELS, SEGMENT_SOFTMAX), "<>", (1, 3)
    ):
        for dtype in INDEX_DTYPES:
            data, plain = function.from_rows(x, y, -1)
            if function is SEGMENT_SOFTMAX:
                if dtype.itemsize == 1:  # points at too little data for the GIL to be released
                    continue
                plain = plain[:300] if dtype.itemsize == 2 else plain
                data = data[: plain[-1]]
            indices = np.zeros(step * plain.size, dtype.newbyteorder(order))[::step]
            indices[...] = plain
            for at, workers in itertools.product((len(plain) // 2, -2), (1, 2)):
                options = {"workers": workers}
                for more in ({}, {"return_grad": True}):
                    if more.keys() <= {*function.options}:
                        doing(function, dtype, order, step, at, workers, more)
                        expected = function.call(fastsoftmax, (data, plain), **more)
                        call = ((data, indices),), {**options, **more}
                        change(function, indices, at, call, expected)


def test_indices_that_another_thread_changes_are_right_or_refused(native):
    survives("change_indices", backend=native)


# ---- code of the caller's that changes other arguments ----


def factors(a):
    twos = a.size.bit_length() - 1
    return (2,) * twos if a.size == 1 << twos else (a.size, 1)


def set_shape(a):
    a.shape = factors(a)


def set_dtype(a):
    a.dtype = np.int8


STRIKES = {
    "reshaped": set_shape,
    "of another dtype": set_dtype,
    "emptied": lambda a: a.resize(0, refcheck=False),
    "grown": lambda a: a.resize((4 * a.shape[0], *a.shape[1:]), refcheck=False),
    "shrunk": lambda a: a.resize((1,) * a.ndim, refcheck=False),
    "read-only": lambda a: a.setflags(write=False),
}
"""What code can do to an array that somebody else has in hand."""


def of_method(name, answer):
    """Return a maker of objects with one method, which strikes and then answers."""

    def make(value, strike):
        def method(_self, *_arguments, **_options):
            strike()
            return answer(value)

        return type(f"With{name}", (), {name: method})()

    return make


def of_property(name, answer):
    """Return a maker of objects with one attribute that is computed."""

    def make(value, strike):
        def computed(_self):
            strike()
            return answer(value)

        return type(f"With{name}", (), {name: property(computed)})()

    return make


def array_with(name, lie):
    """Return a maker of arrays of a subclass, an attribute of which strikes and lies."""

    def make(value, strike):
        def computed(_self, *_arguments):
            strike()
            return lie

        method = computed if name.startswith("__") and name != "__class__" else property(computed)
        return np.asarray(value).copy().view(type(f"With{name}", (np.ndarray,), {name: method}))

    return make


def array_of_any_attribute(value, strike):
    class Attribute(np.ndarray):
        def __getattribute__(self, name):
            strike()
            return super().__getattribute__(name)

    return np.asarray(value).copy().view(Attribute)


def array_of_a_metaclass(value, strike):
    class Meta(type):
        @property
        def __array_ufunc__(cls):
            strike()
            return np.ndarray.__array_ufunc__

    class Array(np.ndarray, metaclass=Meta):
        pass

    return np.asarray(value).copy().view(Array)


def class_with_a_dtype(_value, strike):
    class Descriptor:
        def __get__(self, _instance, _owner):
            strike()
            return np.dtype(np.float32)

    return type("WithDtype", (), {"dtype": Descriptor()})


def number(value):
    return int(value) if isinstance(value, (int, float)) else 1


def list_of_arrays(value, strike):
    make = HOSTILE["__array__"]
    return [make(part, strike) for part in np.atleast_1d(value)]


HOSTILE = {
    "__array__": of_method("__array__", np.asarray),
    "__array_interface__": of_property(
        "__array_interface__", lambda value: np.asarray(value).__array_interface__
    ),
    "__array_struct__": of_property(
        "__array_struct__", lambda value: np.asarray(value).__array_struct__
    ),
    "__class__": of_property("__class__", lambda _: list),
    "__float__": of_method("__float__", lambda value: float(number(value))),
    "__index__": of_method("__index__", number),
    "__int__": of_method("__int__", number),
    "__bool__": of_method("__bool__", lambda _: True),
    "__len__": of_method("__len__", np.size),
    "__iter__": of_method("__iter__", lambda value: iter(np.atleast_1d(value))),
    "__repr__": of_method("__repr__", lambda _: "hostile"),
    "__eq__": of_method("__eq__", lambda _: True),
    "__buffer__": of_method("__buffer__", lambda value: memoryview(np.asarray(value))),
    "dtype": of_property("dtype", lambda _: np.dtype(np.float32)),
    "a class's dtype": class_with_a_dtype,
    "a list": list_of_arrays,
    "an array's dtype": array_with("dtype", np.dtype(np.float16)),
    "an array's shape": array_with("shape", (1 << 40, 3)),
    "an array's strides": array_with("strides", (1 << 40, 1 << 40)),
    "an array's ndim": array_with("ndim", 60),
    "an array's size": array_with("size", 1),
    "an array's flags": array_with("flags", None),
    "an array's class": array_with("__class__", np.ma.MaskedArray),
    "an array's interface": array_with("__array_interface__", {"data": (64, False), "version": 3}),
    "an array's finalizer": array_with("__array_finalize__", None),
    "an array's items": array_with("__getitem__", np.zeros(3)),
    "an array's attributes": array_of_any_attribute,
    "an array's metaclass": array_of_a_metaclass,
}
"""Objects that run code of the caller's, by what runs it: makers of one from what it stands for."""

DEFAULTS = {
    "temperature": 2.0,
    "label_smoothing": 1.0,
    "workers": 2,
    "keepdims": False,
    "return_grad": True,
    "dtype": np.float32,
    "axis": 1,
}
HOSTILE_SHAPE = (64, 64)  # of 2 ** 12


def arguments_of(function):
    """Return every argument of a function by its name, arrays that own their memory among them."""
    operands = function.make(HOSTILE_SHAPE, np.float64, np.random.default_rng(0))
    given = {k: a.copy() for k, a in zip(function.operands, operands, strict=True)}
    if function.axes != "none":
        given["axis"] = DEFAULTS["axis"]
    for option in function.options:
        if option in DEFAULTS:
            given[option] = DEFAULTS[option]
    if "where" in function.options:
        given["where"] = np.ones(HOSTILE_SHAPE, bool)
    if "out" in function.options:
        shape = operands[0].shape if function.keeps_shape else HOSTILE_SHAPE[1:]
        given["out"] = np.zeros(shape, np.float32 if "dtype" in function.options else np.float64)
    return given


class Call:
    """A call whose arrays are struck before it, by an argument at some occasion, or never."""

    def __init__(self, function, strikes, name, *, is_wrapped):
        self.function, self.strikes = function, STRIKES[strikes]
        self.given = arguments_of(function)
        arrays = {k: a for k, a in self.given.items() if isinstance(a, np.ndarray)}
        self.others = [a for k, a in arrays.items() if k != name]
        self.occasions = 0
        if is_wrapped:
            for key in arrays.keys() - {name, "out"}:
                self.given[key] = HOSTILE["__array__"](arrays[key], lambda: None)

    def strike(self):
        for array in self.others:
            with contextlib.suppress(ValueError):  # of a scalar, or what is so already
                self.strikes(array)

    def strike_at(self, occasion):
        """Return what code of the caller's is to do."""

        def code():
            self.occasions += 1
            if self.occasions == occasion:
                self.strike()

        return code

    def outcome(self):
        """Return the results, or the error that is raised."""
        try:
            return [np.array(r) for r in self.function.call(fastsoftmax, (), **self.given)]
        except (TypeError, ValueError, IndexError) as error:
            return error


def strike(strikes):
    """Run in the child: whatever is struck, and when, the call is as if that were done before it."""
    for function in FUNCTIONS:
        for name, is_wrapped in itertools.product(arguments_of(function), (False, True)):
            never, before = (Call(function, strikes, name, is_wrapped=is_wrapped) for _ in range(2))
            before.strike()
            never, before = never.outcome(), before.outcome()
            for kind, make in HOSTILE.items():
                for occasion in (1, 2, 3, 5):
                    doing(function, name, kind, is_wrapped, occasion)
                    call = Call(function, strikes, name, is_wrapped=is_wrapped)
                    call.given[name] = make(call.given[name], call.strike_at(occasion))
                    got = call.outcome()
                    if isinstance(got, list):  # most of such objects are refused
                        expected = before if call.occasions >= occasion else never
                        assert isinstance(expected, list), expected
                        assert same(got, expected)
                    if call.occasions <= occasion:
                        break


@pytest.mark.parametrize(
    "strikes", [name if name == "emptied" else pytest.param(name, marks=SLOW) for name in STRIKES]
)
def test_code_that_an_argument_runs_may_strike_the_others(backend, strikes, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "8192")  # glibc: what is freed is unmapped
    survives("strike", strikes, backend=backend)


def empty_while_it_begins():
    """Run in the child: a tracer's code runs where the call asks how many threads it may have."""
    x = np.zeros((1000, 1000))

    def tracer(frame, event, _argument):
        if event == "call" and frame.f_code.co_name == "threads_for":
            x.resize(0, refcheck=False)

    sys.setprofile(tracer)
    try:
        assert fastsoftmax.softmax(x, workers=2).size == 0
    finally:
        sys.setprofile(None)


def test_code_that_runs_while_a_call_begins_may_empty_its_array(native):
    survives("empty_while_it_begins", backend=native)


# ---- sizes that wrap ----


MOST = 2**63 - 1


def broadcast(value, dtype, shape):
    """Return an array that has one element and pretends to have as many as its dtype allows."""
    most = MOST // np.dtype(dtype).itemsize
    shape = [min(n, max(1, most // math.prod(shape[:d]))) for d, n in enumerate(shape)]
    return np.broadcast_to(np.asarray(value, dtype), shape)


def wrapping_calls():
    """Yield calls of arrays that are as large as there can be."""
    for dtype in ("e", "f", "d", "?", "b", "B", "h", "i", "q", "Q", ">f8", ">f4", ">f2", ">i4"):
        fit = MOST // np.dtype(dtype).itemsize
        for shape in ((fit,), (fit // 3, 3), (3, fit // 3), (2**20, fit // 2**20), (fit, 1, 1)):
            x = broadcast(1, dtype, shape)
            where = {"where": broadcast(True, bool, shape)}
            for axis, workers in itertools.product((None, 0, -1), (1, 3)):
                options = {"workers": workers, "axis": axis}
                yield "logsumexp", (x,), options
                yield "logsumexp", (x,), {**options, **where}
                yield "softmax", (x,), options
                yield "log_softmax", (x,), {**options, **where}
                yield "softmax_backward", (x, x), options
                yield "log_softmax_backward", (x, x), {**options, **where}
                if axis is not None:
                    rest = shape[1:] if axis == 0 else shape[:-1]
                    for labels in (x, broadcast(0, "b", rest), broadcast(0, ">i8", rest)):
                        both = {**options, "return_grad": workers == 3}
                        yield "softmax_cross_entropy", (x, labels), both
            if len(shape) == 1:
                for indptr in ([0, fit], broadcast(0, "b", (MOST,)), np.array([0, fit], ">u8")):
                    yield "segment_softmax", (x, indptr), {}
                    yield "segment_softmax", (x[:5], indptr), {"workers": 3}


def wrap():
    """Run in the child: no size is computed that does not fit."""
    import resource

    def stop(_number, _frame):
        raise InterruptedError

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.signal(signal.SIGALRM, stop)
    for name, operands, options in wrapping_calls():
        doing(name, [(a.dtype.str, a.shape) for a in map(np.asarray, operands)], options)
        # What needs no more memory than there is, a logsumexp, would take years.
        with contextlib.suppress(MemoryError, ValueError, IndexError, TypeError, InterruptedError):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            try:
                getattr(fastsoftmax, name)(*operands, **options)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)


@has_limits
def test_sizes_that_wrap_are_refused(native):
    survives("wrap", backend=native)


# ---- calls within calls ----


def nest():
    """Run in the child: an argument's conversion calls the function again, from C alone."""

    class Endless:
        pass

    endless = Endless()
    Endless.__array__ = staticmethod(functools.partial(fastsoftmax.softmax, [endless]))
    for value in (endless, [endless]):
        try:
            fastsoftmax.softmax(value)
        except RecursionError:
            continue
        raise AssertionError("nothing was raised")

    asked = []

    class Within:
        def __init__(self, inner):
            self.inner = inner

        def __array__(self, *_, **__):
            asked.append(1)
            return fastsoftmax.softmax([self.inner])

    value = "no number"
    for _ in range(12):
        value = Within(value)
    with contextlib.suppress(TypeError):
        fastsoftmax.softmax([value])
    assert len(asked) <= 12**2, "the conversions are twice as many at every level"


def test_a_conversion_that_calls_the_function_again_has_an_end(backend):
    survives("nest", backend=backend, timeout=60)


# ---- an allocator that fails ----


def layouts_of(x):
    """Yield an array, and an axis, as kernels read it where it lies, convert it or gather it."""
    yield "plain", x, -1
    yield "columns", x, 0
    yield "strided", np.repeat(x, 2, axis=1)[:, ::2], -1
    yield "swapped", x.astype(x.dtype.newbyteorder()), -1
    yield "half", x.astype(np.float16), -1


def outputs_for(function, result):
    """Yield no `out`, one that is written where it lies, and one that is written afterwards."""
    yield None
    if "out" in function.options:
        yield np.empty_like(result)
        unaligned = np.empty(result.nbytes + 1, np.uint8)[1:]
        yield unaligned.view(result.dtype).reshape(result.shape)


def fail_each():
    """Run in the child: the first allocation of a call fails, the second, and so on."""
    library = ctypes.CDLL(None)
    library.refused.restype = ctypes.c_uint64
    before, total = tasks(), 0
    for function, workers in itertools.product(CALLS, (1, 3)):
        x, y = rows()
        for layout, values, axis in layouts_of(x):
            given = function.from_rows(values, y, axis)
            options = {**function.given(y, axis), "workers": workers}
            if function.axes != "none":
                options["axis"] = axis
            if "return_grad" in function.options:
                options["return_grad"] = True
            expected = function.call(fastsoftmax, given, **options)
            for out in outputs_for(function, expected[0]):
                into = {} if out is None else {"out": out}
                for n in itertools.count(1):
                    doing(function, workers, layout, n)
                    if out is not None:
                        out[...] = 7
                    refused = library.refused()
                    got = None
                    with contextlib.suppress(MemoryError):
                        library.refuse_allocation(n)
                        got = function.call(fastsoftmax, given, **options, **into)
                    while library.refused() == refused:  # or this may be what is refused
                        with contextlib.suppress(MemoryError):
                            library.refuse_allocation(0)
                            break
                    if got is not None:
                        assert same(got, expected)
                    else:
                        assert out is None or np.all(out == 7), "there is an error, after writing"
                    if library.refused() == refused:
                        break
                    total += 1
    assert tasks() <= before + CPUS
    doing(total)


@on_linux
def test_whichever_allocation_fails_there_is_an_error_or_a_right_result(
    native, tmp_path, monkeypatch
):
    preload("refuse.c", tmp_path, monkeypatch)
    said = survives("fail_each", backend=native, timeout=300)
    assert int(said.splitlines()[-1]) > 300


# ---- the end of the process ----


class AtTheEnd:
    """Calls every function when it is finalised, by when most of Python is gone."""

    def __init__(self, dtype):
        self.x, self.y = rows(dtype, (1400, 100))
        # What the calls need of modules, which are emptied before.
        self.calls = [
            (getattr(fastsoftmax, f.name), f.from_rows(self.x, self.y, -1), f.given(self.y))
            for f in CALLS
        ]
        self.say = os.write

    def __del__(self):
        for function, operands, options in self.calls:
            for workers in (1, 3):
                function(*operands, **options, workers=workers)
        self.say(1, b"finalised\n")


def end(how, dtype):
    """Run in the child: the first call of all comes when the interpreter ends."""
    if how == "module":
        sys.modules["held"] = sys.modules[__name__]
        globals()["held"] = AtTheEnd(dtype)
    elif how == "sys":
        sys.held = AtTheEnd(dtype)
    elif how == "atexit":
        atexit.register(AtTheEnd(dtype).__del__)
    elif how == "thread":
        held = AtTheEnd(dtype)
        thread = threading.Thread(target=held.__del__)
        thread.start()  # and is waited for
    elif how == "daemon":

        def forever():
            held = AtTheEnd(dtype)
            while True:
                held.__del__()

        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        *((how, "float32") for how in ("module", "sys", "atexit", "thread", "daemon")),
        *((how, "longdouble") for how in ("module", "daemon")),
    ],
)
def test_first_calls_at_the_end_of_python(backend, how, dtype):
    said = survives("end", how, dtype, backend=backend)
    assert "finalised" in said or how in ("sys", "daemon")  # too late to say so


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    globals()[sys.argv[1]](*sys.argv[2:])
