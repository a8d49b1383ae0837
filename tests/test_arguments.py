"""Bad arguments: the exact exception, a message that names what was wrong, nothing written."""

import re

import numpy as np
import pytest
from calls import MEANINGS, OMITTED, SPELLINGS
from functions import FUNCTIONS
from invalid_calls import NUMBERS, foreign_keywords
from numpy.exceptions import AxisError

X = np.arange(12.0).reshape(3, 4)
MASKED = np.ma.masked_array(X, X > 3)


def read_only(shape):
    array = np.full(shape, 7.0)
    array.flags.writeable = False
    return array


# options, exception, what the message says
BAD = [
    ({"axis": 2}, AxisError, "axis 2 is out of bounds for array of dimension 2"),
    ({"axis": -3}, AxisError, "axis -3 is out of bounds"),
    ({"axis": (0, 5)}, AxisError, "axis 5 is out of bounds"),
    ({"axis": (0, 0)}, ValueError, "axis must not name an axis twice, got (0, 0)"),
    ({"axis": (1, -1)}, ValueError, "axis must not name an axis twice"),
    ({"axis": 1.0}, TypeError, "axis must be an integer, a tuple of integers or None, got 1.0"),
    ({"axis": "0"}, TypeError, "axis must be an integer"),
    ({"axis": [0]}, TypeError, "axis must be an integer"),
    ({"axis": True}, TypeError, "axis must be an integer"),
    ({"where": [1, 0, 1, 0]}, TypeError, "where must be of dtype bool, got int64"),
    ({"where": X}, TypeError, "where must be of dtype bool, got float64"),
    ({"where": [True, False]}, ValueError, "where must be broadcastable to the shape (3, 4)"),
    ({"where": np.ones((2, 3, 4), bool)}, ValueError, "got shape (2, 3, 4)"),
    ({"where": np.ma.array([True])}, TypeError, "where must not be a MaskedArray"),
    ({"workers": 0}, ValueError, "workers must be positive"),
    ({"workers": -10_000}, ValueError, "workers must be positive, or negative down to -"),
    ({"workers": 1.5}, TypeError, "workers must be an integer, got 1.5"),
    ({"workers": "2"}, TypeError, "workers must be an integer"),
    ({"dtype": int}, TypeError, "dtype must be float16"),
]
BAD_TEMPERATURES = [
    ({"temperature": 0}, ValueError, "temperature must be finite and above 0, got 0"),
    ({"temperature": -1}, ValueError, "temperature must be finite and above 0, got -1"),
    ({"temperature": np.nan}, ValueError, "temperature must be finite and above 0, got nan"),
    ({"temperature": np.inf}, ValueError, "temperature must be finite and above 0, got inf"),
    ({"temperature": 10**400}, ValueError, "temperature must be finite and above 0"),
    ({"temperature": "1"}, TypeError, "temperature must be a real number, got '1'"),
    ({"temperature": None}, TypeError, "temperature must be a real number, got None"),
    ({"temperature": 1j}, TypeError, "temperature must be a real number"),
    ({"temperature": [1.0]}, TypeError, "temperature must be a real number"),
]
BAD_OUTPUTS = [
    (np.full((4, 3), 7.0), ValueError, "out must have the result's shape (3, 4), got (4, 3)"),
    (np.full((1, 3, 4), 7.0), ValueError, "out must have the result's shape"),
    (np.full((3, 4), 7, np.float32), TypeError, "out must be of dtype float64, the result's, got float32"),
    (np.full((3, 4), 7), TypeError, "out must be of dtype float64"),
    (np.full((3, 4), 7, ">f8"), TypeError, "out must be of dtype float64, the result's, got >f8"),
    (read_only((3, 4)), ValueError, "out must be writeable, got a read-only array"),
    (np.ma.masked_array(np.full((3, 4), 7.0)), TypeError, "out must not be a MaskedArray"),
    (np.full((3, 4), 7.0).view(np.matrix), TypeError, "out must not be a numpy.matrix"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize(("options", "exception", "message"), BAD)
def test_bad_option(fs, name, options, exception, message):
    out = np.full(X.shape[: 1 if name == "logsumexp" else 2], 7.0)
    with pytest.raises(exception, match=re.escape(message)):
        getattr(fs, name)(X, **{**options, "out": out})
    assert np.all(out == 7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("options", "exception", "message"), BAD_TEMPERATURES)
def test_bad_temperature(fs, name, options, exception, message):
    out = np.full(X.shape, 7.0)
    with pytest.raises(exception, match=re.escape(message)):
        getattr(fs, name)(X, out=out, **options)
    assert np.all(out == 7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 1e-300, 1e300])
def test_a_temperature_may_be_any_real_number(fs, name, temperature):
    function = getattr(fs, name)
    given = function(X, temperature=temperature)
    assert np.array_equal(given, function(X, temperature=np.float64(temperature)))
    assert np.array_equal(given, function(X, temperature=np.array(temperature)))
    assert (temperature == 1) == np.array_equal(given, function(X))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("out", "exception", "message"), BAD_OUTPUTS)
def test_bad_output(fs, name, out, exception, message):
    with pytest.raises(exception, match=re.escape(message)):
        getattr(fs, name)(X, out=out)
    assert np.all(np.asarray(out) == 7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("out", [[0.0] * 4, "out", (np.empty((3, 4)),), 1.0])
def test_an_output_that_is_no_array(fs, name, out):
    with pytest.raises(TypeError, match=f"out must be a NumPy array, got {type(out).__name__}"):
        getattr(fs, name)(X, out=out)


@pytest.mark.parametrize(
    ("out", "options", "exception", "message"),
    [
        (np.full(4, 7.0), {}, ValueError, "out must have the result's shape (3,), got (4,)"),
        (np.full((3, 1), 7.0), {}, ValueError, "out must have the result's shape (3,)"),
        (np.full(3, 7.0), {"keepdims": True}, ValueError, "result's shape (3, 1), got (3,)"),
        (np.full(3, 7, "f4"), {}, TypeError, "out must be of dtype float64"),
        (read_only(3), {}, ValueError, "out must be writeable"),
        (np.full(3, 7.0), {"keepdims": 1}, TypeError, "keepdims must be True or False, got 1"),
        (np.full(3, 7.0), {"keepdims": "no"}, TypeError, "keepdims must be True or False"),
    ],
)
def test_bad_output_of_a_reduction(fs, out, options, exception, message):
    with pytest.raises(exception, match=re.escape(message)):
        fs.logsumexp(X, out=out, **options)
    assert np.all(out == 7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_masked_arrays_and_matrices_are_refused(fs, name):
    with pytest.raises(TypeError, match=re.escape("x must not be a MaskedArray")) as info:
        getattr(fs, name)(MASKED)
    assert "where=~x.mask" in str(info.value)
    with pytest.raises(TypeError, match=r"x must not be a numpy\.matrix"):
        getattr(fs, name)(X.view(np.matrix))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_other_subclasses_give_a_base_array(fs, name):
    class Sub(np.ndarray):
        pass

    got = getattr(fs, name)(X.view(Sub))
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, getattr(fs, name)(X))


def test_an_output_of_a_subclass_is_returned_as_it_is(fs, tmp_path):
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=X.shape)
    assert fs.softmax(X, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), fs.softmax(X))


def test_calls_that_no_signature_allows(fs):
    for name in ("softmax", "log_softmax", "logsumexp"):
        function = getattr(fs, name)
        with pytest.raises(TypeError):
            function()
        with pytest.raises(TypeError):
            function(X, 0, None)
        with pytest.raises(TypeError):
            function(X, axes=0)
        with pytest.raises(TypeError):
            function(X, -1, axis=0)
        with pytest.raises(TypeError):
            function(X, x=X)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_every_way_to_pass_an_argument(fs, name):
    function = getattr(fs, name)
    expected = function(X)
    shape = np.shape(expected)
    for got in (
        function(x=X),
        function(X, -1),
        function(X, axis=-1),
        function(X, axis=1),
        function(X, np.int64(1)),
        function(axis=1, x=X),
        function(X, out=None),
        function(X, out=np.empty(shape)),
        function(X, 1, out=np.empty(shape), where=None),
        function(X, dtype=None, workers=None),
    ):
        np.testing.assert_array_equal(got, expected)
    by_column = function(np.ascontiguousarray(X.T))
    np.testing.assert_array_equal(function(X, 0), by_column.T)


# ---- every function, called as plainly as it can be, which may be a path of its own ----


def plain_calls(function, **options):
    """Yield calls of small arrays, with each of the options as it is and together with `out`."""
    for dtype in (np.float32, np.float64):
        operands = function.make((4, 5), dtype, np.random.default_rng(0))
        yield operands, options
        if function.keeps_shape and "out" not in options:
            yield operands, {"out": np.full_like(operands[0], 7), **options}


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_keyword_of_another_function_is_refused_by_name(fs, function):
    for keyword in foreign_keywords(function):
        for value in (None, 1, 1.0, 0.5, True, np.ones(())):
            for operands, options in plain_calls(function, **{keyword: value}):
                message = f"^{function.name}\\(\\) got an unexpected keyword argument '{keyword}'"
                with pytest.raises(TypeError, match=message):
                    function.call(fs, operands, **options)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_number_out_of_range_or_of_another_type_is_refused(fs, function):
    for keyword, value, exception, message in NUMBERS:
        for operands, options in plain_calls(function, **{keyword: value}):
            if keyword in function.options:
                with pytest.raises(exception, match=f"^{re.escape(message)}"):
                    function.call(fs, operands, **options)
                assert np.all(options.get("out", 7) == 7)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_every_way_to_write_an_option_is_accepted(fs, function):
    """And means what its plainest form means: np.True_ what True does, np.float32(1) what 1 does."""
    for keyword in SPELLINGS.keys() & {*function.options} - {"dtype"}:
        for value in SPELLINGS[keyword]:
            if value is not OMITTED:
                plain = MEANINGS.get(keyword, lambda given: given and int(given))(value)
                for operands, options in plain_calls(function):
                    expected = function.call(fs, operands, **{keyword: plain})
                    got = function.call(fs, operands, **{keyword: value}, **options)
                    for one, other in zip(got, expected, strict=True):
                        np.testing.assert_array_equal(one, other)
