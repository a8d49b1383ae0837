"""What holds for every call of every function, whatever its arguments are and where they lie.

FASTSOFTMAX_EXAMPLES multiplies the number of calls that are tried: 0.2 by default, 1 in `.ci/run`.
Some 10^5 calls on the best instruction set, in ten minutes on one CPU, and as many again that
helpers share:

    FASTSOFTMAX_EXAMPLES=50 pytest tests/test_any_call.py -k "gives_what and not numpy and not generic"
    FASTSOFTMAX_EXAMPLES=12 pytest tests/test_any_call.py -m slow
"""

import os
import warnings
from itertools import zip_longest

import numpy as np
import pytest
from calls import DOUBLE, OMITTED, SINGLE, bfloat16, calls, spellings_of
from functions import CALLS, FUNCTIONS
from hypothesis import HealthCheck, given, settings
from invalid_calls import invalid_calls
from toolchain import run_python

from benchmarks.promised import promised, within
from fastsoftmax import _backend

EXAMPLES = float(os.environ.get("FASTSOFTMAX_EXAMPLES", "0.2"))


def tried(examples, part=EXAMPLES):
    """Return settings for tests whose fixtures hold no state: the same calls in every run."""
    return settings(
        max_examples=round(examples * part),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def run(call, fs):
    """Return the results of a call that neither warns nor trips over a floating-point error."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        return call.run(fs)


def nans_are_canonical(result):
    canonical = {"float16": 0x7E00, "bfloat16": 0x7FC0, "float32": 0x7FC00000}
    canonical["float64"] = 0x7FF8 << 48
    if result.dtype.name not in canonical:
        return True
    bits = np.atleast_1d(result[np.isnan(result)]).view(f"u{result.dtype.itemsize}")
    return set(bits.tolist()) <= {canonical[result.dtype.name]}


def have_the_same_bits(got, expected):
    if got.dtype.char == "g":  # has bytes without meaning
        return np.array_equal(got, expected, equal_nan=True)
    return got.tobytes() == expected.tobytes()


@pytest.mark.every_backend
@given(calls())
@tried(2000)
def test_any_call_gives_what_its_plainest_form_gives_to_a_few_ulp(fs, backend_name, call):
    operands, options = call.plain()
    expected = call.function.call(fs, operands, **options)
    exact = promised(call.function.name, operands, call.settings, fs.name)
    before = call.memory.copy()
    results = run(call, fs)

    assert len(results) == len(expected) == len(exact)
    for got, plain, (values, allowed) in zip(results, expected, exact, strict=True):
        assert got.dtype == plain.dtype
        assert got.shape == plain.shape == values.shape
        assert nans_are_canonical(got)
        right = within(got, values, allowed)
        assert right.all(), (got[~right], values[~right], allowed[~right])
        if backend_name != "numpy":
            assert have_the_same_bits(got, plain)

    for got, window in zip_longest(results, call.results[: len(results)]):
        if window is None:
            assert type(got) is np.ndarray or (isinstance(got, np.generic) and got.shape == ())
            assert not np.may_share_memory(got, call.memory)
        else:
            assert address_of(got) == address_of(window.of(call.memory))
            window.of(before)[...] = got
    # Nothing has been written but what was given for the results.
    assert (call.memory == before).all()


def address_of(array):
    return array.__array_interface__["data"][0], array.strides


SHARED = """
import importlib.util
import pathlib
import sys
import pytest

# The extension reads this number when it is loaded, with the package.
name = "fastsoftmax._workers"
folder = pathlib.Path(importlib.util.find_spec("fastsoftmax").origin).parent
spec = importlib.util.spec_from_file_location(name, folder / "_workers.py")
workers = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(workers)
workers.MIN_ELEMENTS = 1
had = []
worth = workers.worth
workers.worth = lambda *given: had.append(worth(*given)) or had[-1]
workers.set_workers(3)
failed = pytest.main([sys.argv[1], "-q", "-p", "no:cacheprovider", "-k", sys.argv[2]])
sys.exit(failed or had.count(3) < 1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", _backend.INSTRUCTION_SETS[:1])
def test_any_call_gives_the_same_where_helpers_share_arrays_of_a_few_elements(name, monkeypatch):
    monkeypatch.setenv("FASTSOFTMAX_EXAMPLES", str(4 * max(1, EXAMPLES)))
    done = run_python("-c", SHARED, __file__, f"gives_what and {name}", backend="native")
    assert done.returncode == 0, done.stdout + done.stderr


def error_of(call, fs):
    """Return the type and the message of what a call raises."""
    try:
        call.run(fs)
    except (TypeError, ValueError, IndexError) as error:
        return type(error), str(error)
    return None


@given(invalid_calls())
@tried(900)
def test_any_invalid_call_is_refused_in_the_same_words_and_writes_nothing(fs, numpy_fs, call):
    before = call.call.memory.copy()
    error = error_of(call, fs)
    assert (call.call.memory == before).all()
    assert error is not None
    assert any(error[0] is kind and error[1].startswith(text) for kind, text in call.wrong), (
        error,
        call.wrong,
    )
    assert error == error_of(call, numpy_fs)


# ---- the two ways to a plan: a C function's own, and the rules ----

# They are the same for every instruction set.
BEST = pytest.mark.parametrize("native_name", _backend.INSTRUCTION_SETS[:1], indirect=True)


def outcome(call, fs):
    """Return the results of a call and what else is in memory, which is left as it was."""
    before = call.memory.copy()
    results = run(call, fs)
    given = [window.of(call.memory) for window in call.results if window is not None]
    results = [r.copy() if np.may_share_memory(r, call.memory) else r for r in results]
    for out in given:
        out[...] = np.zeros((), out.dtype)
    after = call.memory.copy()
    call.memory[...] = before
    return results, after


@BEST
@given(calls())
@tried(1000)
def test_any_call_gives_the_same_directly_and_by_the_rules(native_fs, rules_fs, call):
    direct, memory = outcome(call, native_fs)
    ruled, same_memory = outcome(call, rules_fs)
    assert (memory == same_memory).all()
    assert len(direct) == len(ruled)
    for got, expected in zip(direct, ruled, strict=True):
        assert type(got) is type(expected)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert got.strides == expected.strides
        assert have_the_same_bits(got, expected)


@BEST
@given(invalid_calls())
@tried(900)
def test_any_invalid_call_is_refused_in_the_same_words_by_the_rules(native_fs, rules_fs, call):
    error = error_of(call, native_fs)
    assert error is not None
    assert error == error_of(call, rules_fs)


def is_plain_argument(name, value):
    """Whether an option needs no rule: it is of a type whose code the C function knows."""
    if name == "dtype":
        return value != "g"
    if name == "workers":
        return value is None or value > 0
    if name == "where":
        return value is not np.True_
    if name == "b":
        return type(value) in (int, float, type(None))
    if name == "ignore_index":
        return type(value) in (int, np.int64, type(None))
    if name == "sample_weight":
        return type(value) is not bool
    return not isinstance(value, np.ndarray)


def is_cast_early(dtype, operands, *, is_wide=False):
    """Whether an operand is cast to `dtype` by the rules, as it is for what float64 computes."""
    x = operands[0].dtype
    if dtype == "f2":
        return x != np.float16
    is_wide |= any(operand.dtype == DOUBLE for operand in operands[1:])
    return is_wide and dtype is np.float32 and x != SINGLE and x.itemsize > 2


def may_be_taken_directly(call):
    """Whether arrays lie as kernels can take them, and each option is plain."""
    inputs = [window.of(call.memory) for window in (*call.operands, *call.named.values())]
    x = inputs[0]
    if x.size == 0 or any(array.dtype.char == "g" for array in inputs):
        return False
    if any(window.of(call.memory).ndim == 0 for window in call.named.values()):
        return False
    if x.ndim == 0 and "axis" in call.passed:
        return False
    if not all(is_plain_argument(*item) for item in call.passed.items()):
        return False
    if "b" in call.named and call.passed.get("dtype") is None:
        weights = call.named["b"].of(call.memory)
        if x.dtype.kind in "biu" or weights.dtype.kind in "biu":
            return False  # NumPy says of which dtype both are together
    is_weighted = "b" in call.passed or "b" in call.named
    if is_cast_early(call.passed.get("dtype"), inputs, is_wide=is_weighted):
        return False
    given = [window.of(call.memory) for window in call.results if window is not None]
    return all(
        out.flags.aligned
        and not any(np.may_share_memory(out, array) for array in (*inputs, *given[:i]))
        for i, out in enumerate(given)
    )


@BEST
@given(calls())
@tried(2000)
def test_a_call_that_needs_no_rule_does_not_go_through_them(direct_fs, native_fs, call):
    """Whatever its dtypes, layouts and options are, and in whichever way these are written."""
    if bfloat16:  # known to C from the first call on
        native_fs.softmax(np.ones(1, bfloat16))
    if may_be_taken_directly(call):
        run(call, direct_fs)


@BEST
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_every_way_to_write_an_option_is_taken_without_a_detour(direct_fs, function, dtype):
    operands = function.make((4, 5), dtype, np.random.default_rng(0))
    values = spellings_of(function)
    if "where" in function.options:
        values["where"] = [None, True, np.ones((4, 5), bool), np.ones(5, bool)]
    for option in values:
        for value in values[option]:
            plain = value is OMITTED or is_plain_argument(option, value)
            if plain and not (option == "dtype" and is_cast_early(value, operands)):
                function.call(direct_fs, operands, **{} if value is OMITTED else {option: value})


@BEST
@pytest.mark.parametrize("function", CALLS, ids=str)
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=str)
def test_results_go_into_an_operand_without_a_detour(direct_fs, function, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (4, 5)).astype(dtype), rng.random((4, 5)).astype(dtype)
    operands, options = function.from_rows(x, y, -1), function.given(y)
    if function.keeps_shape and "out" in function.options:
        for i, operand in enumerate(operands):
            if function.axes != "none" or i == 0:
                taken = list(operands)
                taken[i] = operand.copy()
                (got,) = function.call(direct_fs, taken, out=taken[i], **options)
                assert got is taken[i]


@BEST
@pytest.mark.parametrize("function", CALLS, ids=str)
def test_lists_are_taken_without_a_detour(direct_fs, native_fs, function):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (4, 5)), rng.random((4, 5))
    operands, options = function.from_rows(x, y, -1), function.given(y)
    expected = function.call(native_fs, operands, **options)
    lists = [operand.tolist() for operand in operands]
    options = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in options.items()}
    for got, other in zip(function.call(direct_fs, lists, **options), expected, strict=True):
        assert got.tobytes() == other.tobytes()
