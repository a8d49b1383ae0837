"""What holds for any row: properties, tried by hypothesis."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.exact import IS_WIDER, exact_log_softmax, exact_logsumexp, exact_softmax, ulp_size

common = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # fixtures here hold no state
)
DTYPES = [np.float32, np.float64]


def rows(limit=None, elements=None):
    """Return a strategy for one row of any length, float32 or float64."""

    def of(dtype):
        width = np.dtype(dtype).itemsize * 8
        bound = limit or float(np.finfo(dtype).max) / 4
        values = st.floats(-bound, bound, width=width) if elements is None else elements
        return hnp.arrays(dtype, st.integers(1, 200), elements=values)

    return st.sampled_from(DTYPES).flatmap(of)


@given(rows())
@common
def test_sums_to_one_and_lies_between_0_and_1(fs, x):
    y = fs.softmax(x)
    assert np.all((y >= 0) & (y <= 1))
    bound = 1.2e-7 if x.dtype == np.float32 else 2.3e-16
    assert abs(float(y.astype(np.longdouble).sum() - 1)) <= bound


@given(rows())
@common
def test_larger_elements_have_no_smaller_results(fs, x):
    order = np.argsort(x, kind="stable")
    for name in ("softmax", "log_softmax"):
        y = getattr(fs, name)(x)[order]
        assert np.all(np.diff(y) >= 0)
        equal = np.diff(x[order]) == 0
        assert np.all(np.diff(y)[equal] == 0)


@given(rows(limit=2.0**10), st.integers(0, 8))
@common
def test_a_shift_by_a_power_of_two_that_is_exact_changes_little(fs, x, exponent):
    shift = x.dtype.type(2.0**exponent)
    moved = x + shift
    x = moved - shift
    if not np.array_equal(x + shift, moved):
        return
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(fs.softmax(moved), fs.softmax(x), rtol=6 * eps, atol=2e-38)
    total = fs.logsumexp(moved) - shift
    scale = max(abs(float(total)), float(np.abs(moved).max()), 1.0)
    np.testing.assert_allclose(total, fs.logsumexp(x), rtol=0, atol=6 * eps * scale)


@given(rows(limit=300.0), st.randoms(use_true_random=False))
@common
def test_a_permutation_permutes_the_result(fs, x, random):
    order = list(range(len(x)))
    random.shuffle(order)
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(fs.softmax(x[order]), fs.softmax(x)[order], rtol=6 * eps, atol=3e-45)
    np.testing.assert_allclose(
        fs.log_softmax(x[order]), fs.log_softmax(x)[order], rtol=6 * eps, atol=0
    )


@pytest.mark.skipif(not IS_WIDER, reason="long double is no wider than double on this platform")
@given(rows())
@common
def test_equals_the_reference(fs, x):
    for name, exact in (("softmax", exact_softmax), ("log_softmax", exact_log_softmax)):
        expected = exact(x[None])[0]
        error = np.abs(getattr(fs, name)(x) - expected) / ulp_size(expected, x.dtype)
        assert error.max() <= 3
    expected = exact_logsumexp(x[None])[0]
    size = max(abs(expected), np.abs(x).max().astype(np.longdouble))
    assert abs(fs.logsumexp(x) - expected) <= 4 * ulp_size(size, x.dtype)


@given(rows(elements=st.sampled_from([0.0, -0.0, 1.0, -np.inf, np.inf, np.nan, -(2.0**99), 80.0])))
@common
def test_special_values_give_nan_or_a_distribution(fs, x):
    y, log, total = fs.softmax(x), fs.log_softmax(x), fs.logsumexp(x)
    if np.isnan(x).any() or np.isinf(x).any(where=x > 0) or np.all(x == -np.inf):
        assert np.isnan(y).all()
        assert np.isnan(log).all()
        assert np.isnan(total) if np.isnan(x).any() else total == x.max()
    else:
        np.testing.assert_allclose(y.sum(), 1, rtol=1e-6)
        assert np.all((y == 0) == (x < x.max() - 750))
        np.testing.assert_array_equal(np.exp(log) == 0, y == 0)


@given(rows(limit=50.0), st.data())
@common
def test_a_mask_is_the_softmax_of_what_is_kept(fs, x, data):
    mask = data.draw(hnp.arrays(bool, len(x)))
    y, log = fs.softmax(x, where=mask), fs.log_softmax(x, where=mask)
    eps = np.finfo(x.dtype).eps
    assert np.all(y[~mask] == 0)
    assert np.all(log[~mask] == -np.inf)
    if mask.any():
        np.testing.assert_allclose(y[mask], fs.softmax(x[mask]), rtol=6 * eps)
        np.testing.assert_allclose(log[mask], fs.log_softmax(x[mask]), rtol=6 * eps)
        total = fs.logsumexp(x, where=mask)
        np.testing.assert_allclose(total, fs.logsumexp(x[mask]), rtol=8 * eps, atol=60 * eps)


@pytest.mark.skipif(not IS_WIDER, reason="long double is no wider than double on this platform")
@given(rows(limit=1e4), st.floats(1e-3, 1e3))
@common
def test_a_temperature_is_as_accurate_as_none(fs, x, temperature):
    # x / T to long double's digits and the residual of that are beyond a test in float64.
    expected = exact_softmax((x.astype(np.longdouble) / np.longdouble(temperature))[None])[0]
    span = float(np.abs(x).max()) / temperature * 2.0**-63
    slack = span / float(np.finfo(x.dtype).eps)
    error = np.abs(fs.softmax(x, temperature=temperature) - expected)
    assert np.all(error <= (3 + 2 * slack) * ulp_size(expected, x.dtype))
