"""Bad arguments: the exact exception, a message that names what was wrong, nothing written."""

import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from calls import MEANINGS, OMITTED, spellings_of
from functions import FUNCTIONS
from invalid_calls import NUMBERS, foreign_keywords
from numpy.exceptions import AxisError

import fastsoftmax
from fastsoftmax import _api, _backend

X = np.arange(12.0).reshape(3, 4)


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
    ({"temperature": "1"}, TypeError, "temperature must be a real number or an array of them, got '1'"),
    ({"temperature": None}, TypeError, "temperature must be a real number or an array of them, got None"),
    ({"temperature": 1j}, TypeError, "temperature must be a real number or an array of them, got 1j"),
    ({"temperature": [1j] * 3}, TypeError, "temperature must be a real number or an array of them, got complex128"),
    ({"temperature": ["1"]}, TypeError, "temperature must be a real number or an array of them, got <U1"),
    ({"temperature": np.ones(3, object)}, TypeError, "temperature must be a real number or an array of them, got object"),
    ({"temperature": [[1], [2, 3]]}, ValueError, "temperature must have rows of one length, got a list of several"),
    ({"temperature": np.ma.ones((3, 1))}, TypeError, "temperature must not be a MaskedArray"),
    ({"temperature": np.ones(3)}, ValueError, "temperature must be broadcastable to (3, 1), the rows of x, got shape (3,)"),
    ({"temperature": np.ones((3, 4))}, ValueError, "temperature must be broadcastable to (3, 1), the rows of x, got shape (3, 4)"),
    ({"temperature": np.ones((1, 3, 1))}, ValueError, "temperature must be broadcastable to (3, 1)"),
    ({"temperature": np.ones((4, 1)), "axis": 0}, ValueError, "temperature must be broadcastable to (1, 4), the rows of x, got shape (4, 1)"),
    ({"temperature": np.ones((3, 1)), "axis": None}, ValueError, "temperature must be broadcastable to (1, 1)"),
    ({"temperature": [[1], [0], [-1]]}, ValueError, "temperature must be finite and above 0, got 0 at index (1, 0)"),
    ({"temperature": [[1.0], [2.0], [-0.0]]}, ValueError, "temperature must be finite and above 0, got -0.0 at index (2, 0)"),
    ({"temperature": [[np.nan]]}, ValueError, "temperature must be finite and above 0, got nan at index (0, 0)"),
    ({"temperature": [np.inf]}, ValueError, "temperature must be finite and above 0, got inf at index 0"),
    ({"temperature": np.array([[1], [1], [np.inf]], "f2")}, ValueError, "temperature must be finite and above 0, got inf at index (2, 0)"),
]  # fmt: skip
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
    with pytest.raises(TypeError, match=f"out must be a NumPy array, got a {type(out).__name__}"):
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
        (np.full(3, 7.0), {"return_sign": 1}, TypeError, "return_sign must be True or False, got 1"),
        (np.full(3, 7.0), {"b": np.ones(3)}, ValueError, "b must have a shape that broadcasts with the shape (3, 4) of x, got (3,)"),
        (np.full(3, 7.0), {"b": np.ones((2, 3, 4))}, ValueError, "out must have the result's shape (2, 3), got (3,)"),
        (np.full(3, 7.0), {"b": [1, np.nan, 0, np.inf]}, ValueError, "b must be finite, got nan at index 1"),
        (np.full(3, 7.0), {"b": -np.inf}, ValueError, "b must be finite, got -inf"),
        (np.full(3, 7.0), {"b": 1j}, TypeError, "b must be of dtype bool, an integer dtype, float16"),
        (np.full(3, 7.0), {"b": "1"}, TypeError, "b must be of dtype bool, an integer dtype, float16"),
        (np.full(3, 7.0), {"b": 10**400}, TypeError, "b must be of dtype bool, an integer dtype, float16"),
        (np.full(3, 7.0), {"b": np.ma.ones(4)}, TypeError, "b must not be a MaskedArray"),
        (np.full(3, 7.0), {"b": np.ones(4, "g")}, TypeError, "out must be of dtype"),
        (np.full(3, 7.0), {"b": np.ones(4, "f4"), "dtype": "f4"}, TypeError, "out must be of dtype float32"),
        ((np.full(3, 7.0), None), {"return_sign": True}, TypeError, "out must be a NumPy array, got a tuple"),
    ],
)  # fmt: skip
def test_bad_output_of_a_reduction(fs, out, options, exception, message):
    with pytest.raises(exception, match=re.escape(message)):
        fs.logsumexp(X, out=out, **options)
    assert np.all((out[0] if isinstance(out, tuple) else out) == 7)


def test_an_output_of_a_subclass_is_returned_as_it_is(fs, tmp_path):
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=X.shape)
    assert fs.softmax(X, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), fs.softmax(X))


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_calls_that_no_signature_allows_get_the_words_of_python(fs, function):
    """Those of the function as it is written in Python: its name, and all names that are missing."""
    given = function.make((3, 4), np.float64, np.random.default_rng(0))
    first, last = function.operands[0], function.operands[-1]
    in_python = getattr(_api.over(_backend.load("numpy"), by_rules=True), function.name)
    for by_position, by_keyword, words in (
        ((), {}, "missing"),
        ((), {"axis": 0} if function.axes != "none" else {"out": None}, "missing"),
        ((), {last: given[-1]}, "missing"),
        (given[:-1], {}, "missing"),
        (given, {"dim": 1}, "got an unexpected keyword argument 'dim'"),
        (given, {"Axis": 1}, "got an unexpected keyword argument 'Axis'"),
        (given, {first: given[0]}, f"got multiple values for argument '{first}'"),
        ((*given, -1, None), {}, "takes "),
        ((*given, -1), {"axis": -1}, "got "),
    ):
        if words == "missing" and len(function.operands) == 1 and by_keyword.keys() == {"x"}:
            continue
        with pytest.raises(TypeError) as info:
            getattr(fs, function.name)(*by_position, **by_keyword)
        with pytest.raises(TypeError) as expected:
            in_python(*by_position, **by_keyword)
        assert str(info.value) == str(expected.value)
        assert str(info.value).startswith(f"{function.name}() {words}")


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
    spellings = spellings_of(function)
    for keyword in spellings.keys() - {"dtype"}:
        for value in spellings[keyword]:
            if value is not OMITTED:
                plain = MEANINGS.get(keyword, lambda given: given and int(given))(value)
                for operands, options in plain_calls(function):
                    expected = function.call(fs, operands, **{keyword: plain})
                    got = function.call(fs, operands, **{keyword: value}, **options)
                    for one, other in zip(got, expected, strict=True):
                        np.testing.assert_array_equal(one, other)


# ---- numbers of any type, and code of the caller's that they run ----


class Number:
    """A number by one of the two methods that make one, which does something else before."""

    def __init__(self, value, before=lambda: None):
        self.value, self.before = value, before


class AsFloat(Number):
    def __float__(self):
        self.before()
        return self.value


class AsIndex(Number):
    def __index__(self):
        self.before()
        return self.value


class AsArray(Number):
    def __array__(self, dtype=None, copy=None):
        self.before()
        return np.asarray(self.value, dtype)


HALVES = [
    *(Fraction(1, 2), Decimal("0.5"), np.float16(0.5), np.longdouble(0.5), AsFloat(0.5)),
    *(np.array(0.5), np.array(0.5, np.float32), np.array(0.5, ">f4")),
]
ONES = [True, np.True_, np.uint8(1), np.array(1), np.array(True), AsIndex(1), Decimal(1)]
NO_NUMBERS = [
    *("0.5", b"1", np.str_("0.5"), np.array("0.5"), np.array(b"1"), bytearray(b"1")),
    *(1j, np.complex64(1), np.array(1j), np.array(0.5, object), np.array(None), None, object()),
    *(np.datetime64(1, "s"), np.timedelta64(1, "s"), {}, Decimal("sNaN"), AsFloat("0.5")),
]
ARRAYS_OF_NUMBERS = [[0.5], (), np.array([0.5]), np.array([]), np.ones((1, 1))]
NUMERIC = {"temperature", "label_smoothing", "sample_weight"}
OF_NUMBERS = [f for f in FUNCTIONS if NUMERIC & {*f.options}]


def numbers_of(function):
    return sorted(NUMERIC & {*function.options})


def may_be_an_array(function, keyword):
    return keyword != "label_smoothing" and function.axes != "none"


@pytest.mark.parametrize("function", OF_NUMBERS, ids=str)
def test_a_number_may_be_of_any_type_of_real_numbers(fs, function):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    operands = function.make((3, 4), np.float64, np.random.default_rng(0))
    halves = [*HALVES, ml_dtypes.bfloat16(0.5), np.array(0.5, ml_dtypes.bfloat16)]
    for keyword in numbers_of(function):
        for value, numbers in ((0.5, halves), (1.0, ONES)):
            (expected,) = function.call(fs, operands, **{keyword: value})
            for number in numbers:
                (got,) = function.call(fs, operands, **{keyword: number})
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("function", OF_NUMBERS, ids=str)
def test_what_is_no_real_number_is_refused(fs, function):
    operands = function.make((3, 4), np.float64, np.random.default_rng(0))
    for keyword in numbers_of(function):
        one_each = may_be_an_array(function, keyword)
        accepted = "a real number or an array of them" if one_each else "a real number"
        for value in [*NO_NUMBERS, *([] if one_each else ARRAYS_OF_NUMBERS)]:
            if value is None and keyword == "sample_weight":
                continue
            with pytest.raises(TypeError, match=f"^{keyword} must be {accepted}, got "):
                function.call(fs, operands, **{keyword: value})
        for masked in (np.ma.masked, np.ma.masked_array(0.5)):
            with pytest.raises(TypeError, match=f"^{keyword} must not be a Masked"):
                function.call(fs, operands, **{keyword: masked})


class Mute:
    def __repr__(self):
        raise OSError


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_message_is_short_whatever_the_caller_gave(fs, function):
    operands = function.make((3, 4), np.float64, np.random.default_rng(0))
    axis = [] if function.axes == "none" else ["axis"]
    for keyword in [*axis, *({*function.options} - {"where", "workers"})]:
        for value in (Mute(), 10**5000, Fraction(10**400), "a" * 10**4, [0] * 10**4):
            if keyword != "axis" or not isinstance(value, int):  # which is NumPy's to say
                with pytest.raises((TypeError, ValueError), match=f"^{keyword} must ") as info:
                    function.call(fs, operands, **{keyword: value})
                assert len(str(info.value)) < 250


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (3,), (80, 90), (0, 4), ()])
def test_code_that_a_number_runs_may_change_the_arrays(fs, function, shape):
    """The call is as if they had been changed before it: right, or an error."""
    numbers = {
        "temperature": (AsFloat, 0.5, 0.5),
        "label_smoothing": (AsFloat, 0.5, 0.5),
        "sample_weight": (AsFloat, 0.5, 0.5),
        "b": (AsArray, 0.5, 0.5),
        "axis": (AsIndex, 0, 0),
        "workers": (AsIndex, 2, 2),
    }
    keywords = numbers.keys() & {*function.options, *(["axis"] if function.axes != "none" else [])}
    for keyword in sorted(keywords):
        kind, value, plain = numbers[keyword]
        for at in range(len(function.operands) + 2):

            def call(number, at=at, before=False, keyword=keyword):
                arrays = [
                    a.copy() for a in function.make((3, 4), np.float64, np.random.default_rng(0))
                ]
                options = {"out": np.zeros((3, 4))} if "out" in function.options else {}
                if "where" in function.options:
                    options["where"] = np.ones((3, 4), bool)
                changed = dict(enumerate([*arrays, *options.values()])).get(at)

                def change():
                    if changed is not None:
                        changed.resize(shape, refcheck=False)

                if before:
                    change()
                options[keyword] = number(change)
                try:
                    return [np.copy(r) for r in function.call(fs, arrays, **options)]
                except (TypeError, ValueError, IndexError) as error:
                    return [str(error)]

            expected = call(lambda _, plain=plain: plain, before=True)
            got = call(lambda change, kind=kind, value=value: kind(value, change))
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_truth_value_is_no_number_of_workers(fs, function):
    operands = function.make((3, 4), np.float64, np.random.default_rng(0))
    for value in (True, False, np.True_, np.False_):
        with pytest.raises(TypeError, match=f"^workers must be an integer, got {value!r}"):
            function.call(fs, operands, workers=value)
        with pytest.raises(TypeError, match=f"^n must be an integer, got {value!r}"):
            fastsoftmax.set_workers(value)


def test_the_axis_of_the_classes_is_one_integer(fs):
    for axis in (None, (0,), (), True, np.True_, 0.0, "0", [0], np.array([0])):
        message = "axis must be an integer, the axis of the classes, got "
        with pytest.raises(TypeError, match=f"^{message}"):
            fs.softmax_cross_entropy(X, [0, 0, 0], axis)
    for axis in (1, np.int8(-1), AsIndex(1), np.array(1)):
        np.testing.assert_array_equal(
            fs.softmax_cross_entropy(X, [0, 0, 0], axis), fs.softmax_cross_entropy(X, [0, 0, 0])
        )


@pytest.mark.parametrize(
    "dtype", [",", "f4,f4", "(2,)f4", {"names": ["a"]}, [1], 5, -1, np.ones(3)]
)
def test_whatever_numpy_says_of_a_dtype(fs, dtype):
    for name in ("softmax", "log_softmax", "logsumexp"):
        with pytest.raises(TypeError, match=r"^dtype must be float16, bfloat16"):
            getattr(fs, name)(X, dtype=dtype)
