"""Every kind of call from many threads at once, while the process forks, is signalled and runs short of memory.

    python tests/soak.py --seconds 600

Each result is compared, bit for bit, with that of the same call made before by one thread alone. The
program ends with one line of figures, and with status 0 only if nothing was wrong. It tests the package
that Python imports, on the backend that FASTSOFTMAX_BACKEND chooses, and needs Linux.

The time is divided into rounds. In a round's busy part, 16 threads and the main thread make calls, one
thread forks, and one limits the address space for moments. Then all but the main thread end, and after
some idle seconds there must be no helper thread left.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import faulthandler
import functools
import gc
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import checkout  # noqa: F401 - puts benchmarks on the path
import numpy as np
from calls import bfloat16, calls
from functions import CALLS
from hypothesis import Phase, given, settings
from invalid_calls import invalid_calls
from test_any_call import error_of, have_the_same_bits, tried

import fastsoftmax

CALLERS = 16
CPUS = os.cpu_count() or 1
MOST_WORKERS = 4
IDLE_SECONDS = 7.0
"""Helpers end after 5 s without work."""
LEAST_SECONDS = 20
HANG_SECONDS = 120
"""A round that takes so much longer than it should hangs; so does a child after half of that."""
GROWTH_MIB = 48
"""Allocators keep a few MiB for each thread that there was; a leak of 1 KiB a call is far more."""
FREE_GROWTH_MIB = 192
"""Without the GIL, what another thread allocated is freed some time later."""


class Alarm(Exception):  # noqa: N818 - what a signal's handler raises
    """Of no kind that anything catches."""


class RuntimeAlarm(RuntimeError):  # noqa: N818 - the same
    """Of the kind that Python raises where no thread can be started."""


class BaseAlarm(BaseException):
    """As KeyboardInterrupt."""


ALARMS = (Alarm, RuntimeAlarm, BaseAlarm)


# ---- the calls and what they must give ----


class Computation:
    """A call of one of CALLS, large enough for helpers or small, with any number of workers."""

    def __init__(self, function, x, y, axis):
        self.function = function
        self.operands = function.from_rows(x, y, axis)
        self.options = function.given(y, axis)
        if function.axes != "none":
            self.options["axis"] = axis
        if "return_grad" in function.options:
            self.options["return_grad"] = True
        self.expected = function.call(fastsoftmax, self.operands, **self.options)

    def is_right(self, rng):
        workers = rng.randint(1, MOST_WORKERS)
        got = self.function.call(fastsoftmax, self.operands, workers=workers, **self.options)
        return all(map(have_the_same_bits, got, self.expected))

    def __str__(self):
        x = self.operands[0]
        return f"{self.function} of {x.dtype} {x.shape}, axis {self.options.get('axis')}"


class AnyCall:
    """A call of hypothesis: any dtypes, strides, overlaps and options; each time in a copy of its memory."""

    def __init__(self, call):
        self.call = call
        self.expected, self.memory = self.outcome()

    def outcome(self):
        mine = dataclasses.replace(self.call, memory=self.call.memory.copy())
        return mine.run(fastsoftmax), mine.memory

    def is_right(self, _rng):
        got, memory = self.outcome()
        return all(map(have_the_same_bits, got, self.expected)) and (memory == self.memory).all()

    def __str__(self):
        return repr(self.call)


class InvalidCall:
    """A call that is refused in the same words each time."""

    def __init__(self, call):
        self.call = call
        self.expected = error_of(call, fastsoftmax)

    def is_right(self, _rng):
        return error_of(self.call, fastsoftmax) == self.expected

    def __str__(self):
        return f"an invalid call of {self.call.call.function}"


def drawn(strategy, count):
    """Return different draws of a strategy, the same ones in every run."""
    found = []

    @settings(tried(count, 1), phases=[Phase.generate])
    @given(strategy)
    def draw(call):
        found.append(call)

    draw()
    gc.callbacks.clear()  # what a signal handler raises in one, as hypothesis has, is lost
    return found


def every_kind_of_call():
    rng = np.random.default_rng(0)
    halves = [np.float16, *([bfloat16] if bfloat16 else [])]
    shapes = [((3000, 100), dtype) for dtype in (np.float32, np.float64, *halves)]
    shapes += [((300, 2000), np.float32), ((7, 13), np.float32), ((1, 5), np.float64)]
    large = []
    for shape, dtype in shapes:
        x, y = rng.normal(0, 3, shape).astype(dtype), rng.random(shape).astype(dtype)
        for function in CALLS:
            large += [Computation(function, x, y, axis) for axis in (-1, 0)]
    # The bytes of a long double that hold nothing are not compared.
    valid = [call for call in map(AnyCall, drawn(calls(), 400)) if "g" not in dtypes_of(call)]
    return [large, valid, list(map(InvalidCall, drawn(invalid_calls(), 200)))]


def dtypes_of(call):
    return {result.dtype.char for result in call.expected}


# ---- what happens meanwhile ----


class Soak:
    """All threads of a run, and what they count."""

    def __init__(self, *, calls_only):
        self.calls_only = calls_only
        self.kinds = every_kind_of_call()
        self.faults = []
        self.counts = [{"calls": 0, "memory errors": 0} for _ in range(CALLERS + 1)]
        """Of each thread, the main thread's last: a shared sum would lose some."""
        self.forks = self.signals = self.raised = self.delivered = 0
        self.stop = threading.Event()
        self.may_raise = False
        """Whether a signal's handler may raise now, which then ends the main thread's call."""
        self.squeezes = 0
        """Odd while the address space is limited."""
        self.process = threading.Lock()
        """Held while the address space is limited, and by who forks: Python's own work there needs memory."""
        self.chance = random.Random(0)
        if (child := os.fork()) == 0:  # at the first fork OpenBLAS ends the threads that it had
            os._exit(0)
        os.waitpid(child, 0)
        self.threads_before = count_threads()
        self.most_threads = self.threads_before

    def total(self, counted):
        return sum(counts[counted] for counts in self.counts)

    def fault(self, text):
        self.faults.append(text)
        print("FAULT:", text, file=sys.stderr, flush=True)

    def step(self, caller, rng):
        """Make one call; memory may be refused only while it is limited."""
        call = rng.choice(rng.choice(self.kinds))
        squeezes = self.squeezes
        try:
            right = call.is_right(rng)
        except MemoryError:
            if squeezes % 2 == 0 and squeezes == self.squeezes:
                self.fault(f"MemoryError without need: {call}\n{traceback.format_exc()}")
            self.counts[caller]["memory errors"] += 1
        except ALARMS:
            raise
        except BaseException:  # noqa: BLE001 - nothing else may come out of a call
            self.fault(f"{call}\n{traceback.format_exc()}")
        else:
            self.counts[caller]["calls"] += 1
            if not right:
                self.fault(f"wrong: {call}")

    def make_calls(self, caller):
        rng = random.Random(self.chance.random())
        while not self.stop.is_set():
            # What follows a refusal, its count, may need memory too.
            with contextlib.suppress(MemoryError):
                self.step(caller, rng)

    def make_calls_under_signals(self, seconds):
        """Make the main thread's calls: a handler's exception arrives here, whatever it ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.calls_only:
                signal.setitimer(signal.ITIMER_REAL, self.chance.choice([1e-4, 1e-3, 5e-3]), 2e-3)
            try:
                self.may_raise = True
                self.step(CALLERS, self.chance)
                self.may_raise = False
            except ALARMS:
                self.delivered += 1
            except MemoryError:
                self.may_raise = False
            if not self.calls_only and self.chance.random() < 0.003:
                self.fork(self.chance)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def on_alarm(self, _number, _frame):
        self.signals += 1
        if self.may_raise and self.chance.random() < 0.3:
            self.may_raise = False
            self.raised += 1
            raise self.chance.choice(ALARMS)

    def make_forks(self):
        rng = random.Random(1)
        while not self.stop.wait(0.2):
            self.fork(rng)

    def fork(self, rng):
        """Let a child make calls, of which some need helpers of its own."""
        with self.process:
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os._exit(self.be_a_child(rng))
            os._exit(1)
        end = time.monotonic() + HANG_SECONDS * 0.75
        status = (0, 0)
        while status[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.002)
            status = os.waitpid(child, os.WNOHANG)
        self.forks += 1
        code = os.waitstatus_to_exitcode(status[1])
        if code:
            self.fault(f"a child ended with {code}")

    def be_a_child(self, rng):
        # A child that hangs shows where, and ends.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(HANG_SECONDS // 2)
        before = len(self.faults)
        for _ in range(8):
            self.step(CALLERS, rng)
        return len(self.faults) > before

    def squeeze(self):
        """Leave little of the address space for some moments."""
        limits = resource.getrlimit(resource.RLIMIT_AS)
        rng = random.Random(2)
        while not self.stop.wait(rng.uniform(0.1, 0.6)):
            with self.process:
                little = address_space() + (rng.randrange(-1 << 22, 1 << 22) & -4096), limits[1]
                self.squeezes += 1
                resource.setrlimit(resource.RLIMIT_AS, little)
                time.sleep(rng.uniform(0.02, 0.2))
                resource.setrlimit(resource.RLIMIT_AS, limits)
                self.squeezes += 1

    def watch(self):
        most = self.threads_before + CALLERS + 3 + CPUS  # three: this one, the forks', the limits'
        while not self.stop.wait(0.01):
            with contextlib.suppress(MemoryError, OSError):
                self.most_threads = max(self.most_threads, count_threads())
        if self.most_threads > most:
            self.fault(f"{self.most_threads} threads, which is more than {most}")

    def be_busy(self, seconds):
        self.stop.clear()
        work = [functools.partial(self.make_calls, i) for i in range(CALLERS)]
        work += [self.watch] if self.calls_only else [self.watch, self.make_forks, self.squeeze]
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        try:
            self.make_calls_under_signals(seconds)
        finally:
            self.stop.set()
        for thread in threads:
            thread.join()  # or the process is ended as one that hangs

    def be_idle(self):
        """Return the resident memory after a time in which all helpers should have ended."""
        time.sleep(IDLE_SECONDS)
        helpers = count_threads() - self.threads_before
        if helpers:
            self.fault(f"{helpers} helpers after {IDLE_SECONDS:.0f} s without a call")
        gc.collect()
        with contextlib.suppress(AttributeError):  # glibc's: give back what is free
            ctypes.CDLL(None).malloc_trim(0)
        return resident_mib()

    def run(self, seconds):
        rounds = max(2, seconds // 60)
        busy = seconds / rounds - IDLE_SECONDS
        signal.signal(signal.SIGALRM, self.on_alarm)
        memory = []
        start = time.monotonic()
        for _ in range(rounds):
            await_hangs(seconds / rounds + HANG_SECONDS)
            self.be_busy(busy)
            memory.append(self.be_idle())
        if self.raised != self.delivered:
            self.fault(f"{self.raised} exceptions were raised, {self.delivered} arrived")
        half = rounds // 2
        if min(memory[half:]) - min(memory[:half]) > (GROWTH_MIB if has_gil() else FREE_GROWTH_MIB):
            self.fault(f"memory grew, MiB after each round: {[round(mib) for mib in memory]}")
        print(
            f"{time.monotonic() - start:.0f} s: {self.total('calls')} calls, {self.forks} forks, "
            f"{self.signals} signals, {self.delivered} exceptions of {self.raised} delivered, "
            f"{self.total('memory errors')} MemoryErrors; {self.most_threads} threads at most, "
            f"{count_threads() - self.threads_before} helpers at the end; resident memory from "
            f"{memory[0]:.0f} to {memory[-1]:.0f} MiB; {len(self.faults)} faults"
        )
        return not self.faults


def await_hangs(seconds):
    """Let a thread show where all the others are and end the process, unless put off again."""
    faulthandler.dump_traceback_later(seconds, exit=True)


def has_gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def count_threads():
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def pages(field):
    sizes = Path("/proc/self/statm").read_text().split()
    return int(sizes[field]) * resource.getpagesize()


def address_space():
    return pages(0)


def resident_mib():
    return pages(1) / (1 << 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=LEAST_SECONDS, help="at least %(default)s")
    parser.add_argument(
        "--calls-only",
        action="store_true",
        help="no forks, signals and lack of memory, which a sanitizer's runtime may not survive",
    )
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if seconds < LEAST_SECONDS:
        parser.error(f"a soak takes {LEAST_SECONDS} s at least")
    warnings.simplefilter("error")
    # Python warns of what is tried here.
    warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    with contextlib.suppress(AttributeError):
        # glibc's M_MMAP_THRESHOLD and M_ARENA_MAX: large arrays come from the system each time, where
        # the limit is, and there are no reserves of address space, one for each thread.
        ctypes.CDLL(None).mallopt(-3, 1 << 16)
        ctypes.CDLL(None).mallopt(-8, 1)
    faulthandler.enable()
    await_hangs(HANG_SECONDS)
    sys.setswitchinterval(1e-4)
    print(f"Python {sys.version.split()[0]}{'' if has_gil() else ' without the GIL'}, {CPUS} CPUs")
    fastsoftmax.show_config()
    ended_well = Soak(calls_only=arguments.calls_only).run(seconds)
    faulthandler.cancel_dump_traceback_later()
    return not ended_well


if __name__ == "__main__":
    sys.exit(main())
