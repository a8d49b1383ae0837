"""What holds for every call of every function, whatever its arguments are and where they lie.

FASTSOFTMAX_EXAMPLES multiplies the number of calls that are tried.
"""

import os
import warnings

import numpy as np
from calls import calls
from hypothesis import HealthCheck, given, settings
from invalid_calls import invalid_calls
from reference import promised, within

EXAMPLES = float(os.environ.get("FASTSOFTMAX_EXAMPLES", "1"))


def tried(examples):
    """Return settings for tests whose fixtures hold no state: the same calls in every run."""
    return settings(
        max_examples=round(examples * EXAMPLES),
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


@given(calls())
@tried(2000)
def test_any_call_gives_what_its_plainest_form_gives_to_a_few_ulp(fs, backend_name, call):
    operands, options = call.plain()
    expected = call.function.call(fs, operands, **options)
    exact = promised(call.function.name, operands, call.settings)
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

    if call.out is None:
        for got in results:
            assert type(got) is np.ndarray or (isinstance(got, np.generic) and got.shape == ())
            assert not np.may_share_memory(got, call.memory)
    else:
        assert len(results) == 1
        call.out.of(before)[...] = results[0]
    # Nothing has been written but `out`.
    assert (call.memory == before).all()


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
