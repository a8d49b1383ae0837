"""Paired timing: contenders take turns within a round, so that drift of the machine cancels.

A round times every contender once, in random order; a ratio is taken within a round, and the
median over the rounds is reported with its quartiles.
"""

import random
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np


def as_arrays(result: Any) -> Any:
    """Return a result, or a pair of them, as arrays."""
    return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)


@dataclass(frozen=True)
class Call:
    """A call as a user writes it: nothing but the peer's own function is inside the timed loop."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    """What is needed after the call for its work to be done, such as JAX's wait."""
    to_numpy: Callable[[Any], Any] = as_arrays

    def timer(self) -> timeit.Timer:
        """Return a timer whose loop body is ``f(a0, ..., out=k0)`` over local variables."""
        values: dict[str, Any] = {"f": self.function}
        values.update((f"a{i}", value) for i, value in enumerate(self.args))
        values.update((f"k_{key}", value) for key, value in self.kwargs.items())
        positional = [f"a{i}" for i in range(len(self.args))]
        keywords = [f"{key}=k_{key}" for key in self.kwargs]
        statement = f"f({', '.join(positional + keywords)}){self.suffix}"
        setup = "; ".join(f"{name} = _{name}" for name in values)
        namespace = {f"_{name}": value for name, value in values.items()}
        return timeit.Timer(statement, setup, perf_counter, namespace)

    def result(self) -> Any:
        """Call once and return the result as NumPy arrays."""
        return self.to_numpy(self.function(*self.args, **self.kwargs))


@dataclass(frozen=True)
class Effort:
    """How long one cell may take."""

    rounds: int
    sample_seconds: float
    """Aimed length of one contender's sample; one call, if a call takes longer."""


QUICK = Effort(rounds=15, sample_seconds=0.003)
FULL = Effort(rounds=41, sample_seconds=0.01)

FEWEST_ROUNDS = 5
"""Rounds that even the slowest contender takes part in: the fewest that have quartiles."""


def spread(values: Any) -> dict[str, float]:
    """Return the median of values with its quartiles."""
    found = np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75))
    return dict(zip(("q1", "median", "q3"), found.tolist(), strict=True))


def _seconds_per_call(timer: timeit.Timer, aim: float) -> float:
    """Return a first estimate, from a sample long enough to be one."""
    number = 1
    while True:
        seconds = timer.timeit(number)
        if seconds >= aim / 8:
            return seconds / number
        number *= 4


class _Entrant:
    """One contender's timer, its calibrated loop and its samples by round."""

    def __init__(self, call: Call, effort: Effort, calls: int | None) -> None:
        self.timer = call.timer()
        self.timer.timeit(1)  # the first call pays for compilation, page faults and caches
        if calls is not None:
            self.number, self.stride = calls, 1
        else:
            one = _seconds_per_call(self.timer, effort.sample_seconds)
            self.number = max(1, round(effort.sample_seconds / one))
            # A call much longer than a sample sits some rounds out, to keep the whole run short.
            stride = round(one / (10 * effort.sample_seconds))
            self.stride = min(max(1, stride), effort.rounds // FEWEST_ROUNDS)
        self.samples: dict[int, float] = {}

    def sample(self, turn: int) -> None:
        self.samples[turn] = self.timer.timeit(self.number) / self.number


def measure(
    calls: dict[str, Call],
    effort: Effort,
    *,
    fixed_calls: int | None = None,
    each_round: Callable[[], None] = lambda: None,
    threaded: bool = False,
) -> dict[str, dict[int, float]]:
    """Time the calls against each other.

    `threaded` calls use several threads, which some contenders leave spinning: no sample begins
    before they rest.

    Returns
    -------
    dict
        For each name, seconds a call by round; the first name takes part in every round.
    """
    order = random.Random(0)
    rounds = FEWEST_ROUNDS if fixed_calls else effort.rounds
    entrants = {name: _Entrant(call, effort, fixed_calls) for name, call in calls.items()}
    first = next(iter(entrants.values()))
    first.stride = 1
    for turn in range(rounds):
        playing = [entrant for entrant in entrants.values() if turn % entrant.stride == 0]
        order.shuffle(playing)
        for entrant in playing:
            if threaded:
                wait_until_idle()
            entrant.sample(turn)
        each_round()
    return {name: entrant.samples for name, entrant in entrants.items()}


def wait_until_idle(most: float = 0.5) -> None:
    """Sleep until no thread of this process is busy, but no longer than `most` seconds."""
    end = perf_counter() + most
    while perf_counter() < end:
        start, used = perf_counter(), process_time()
        sleep(0.002)
        if process_time() - used < 0.2 * (perf_counter() - start):
            return


def paired_ratio(samples: dict[int, float], ours: dict[int, float]) -> dict[str, float]:
    """Return how many times as long as ours a contender took, round by round."""
    return spread([seconds / ours[turn] for turn, seconds in samples.items()])
