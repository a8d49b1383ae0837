"""What may hold the numbers: subclasses of ndarray, frames, sparse matrices, anything of anyone's."""

import re
import warnings

import numpy as np
import pytest
from functions import FUNCTIONS

FUNCTION = pytest.mark.parametrize("function", FUNCTIONS, ids=str)


class Sub(np.ndarray):
    """As most subclasses: the same numbers."""


class Unit(np.ndarray):
    """Numbers that mean something else than they say, as astropy's Quantity."""

    def __array_ufunc__(self, *_arguments, **_options):
        raise AssertionError("not to be reached")


def arguments(function):
    """Return each argument of a valid call that is an array, by name."""
    operands = function.make((3, 4), np.float64, np.random.default_rng(0))
    named = dict(zip(function.operands, operands, strict=True))
    if "where" in function.options:
        named["where"] = np.arange(12).reshape(3, 4) % 5 > 0
    if "out" in function.options:
        named["out"] = np.full(operands[0].shape if function.keeps_shape else 3, 7.0)
    return named


def spoilt(function, make):
    """Yield the arguments with each of them in turn replaced, by its name."""
    for name in arguments(function):
        named = arguments(function)
        named[name] = make(named[name])
        yield name, named


def check_refused(fs, function, name, named, exception, message):
    with pytest.raises(exception, match=re.escape(message)) as info:
        getattr(fs, function.name)(**named)
    assert str(info.value).startswith(f"{name} must ")
    if name != "out" and "out" in named:
        assert np.all(named["out"] == 7)


# ---- subclasses of ndarray ----


@pytest.mark.parametrize("kind", [Sub, np.recarray, np.memmap])
@FUNCTION
def test_a_subclass_gives_a_base_array(fs, function, kind):
    plain = arguments(function)
    expected = getattr(fs, function.name)(**plain).copy()
    for name, named in spoilt(function, lambda array: array.view(kind)):
        got = getattr(fs, function.name)(**named)
        if "out" in named:
            assert got is named["out"], name
            del named["out"]
            got = getattr(fs, function.name)(**named)
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, expected)


@FUNCTION
def test_numbers_with_a_meaning_of_their_own_are_refused(fs, function):
    for name, named in spoilt(function, lambda array: array.view(Unit)):
        message = f"{name} must not be a test_containers Unit, whose unit or other meaning"
        check_refused(fs, function, name, named, TypeError, message)


@FUNCTION
def test_quantities_are_refused(fs, function):
    units = pytest.importorskip("astropy.units")
    for name, named in spoilt(
        function, lambda array: units.Quantity(array, "m", dtype=array.dtype)
    ):
        message = f"{name} must not be an astropy Quantity"
        check_refused(fs, function, name, named, TypeError, message)


def masked_hint(function, name):
    if name in ("x", "grad_output", "output") and "where" in function.options:
        return f"pass {name}.data and where=~{name}.mask"
    fill = {
        "where": "False", "logits": "-numpy.inf", "data": "-numpy.inf", "grad_output": "0", "output": "0"
    }  # fmt: skip
    return (
        f"pass {name}.data" if name == "out" else f"pass {name}.filled({fill.get(name, 'value')})"
    )


@FUNCTION
def test_masked_arrays_are_refused_with_what_to_pass(fs, function):
    for mask in (False, True):
        for name, named in spoilt(function, lambda a, mask=mask: np.ma.masked_array(a, mask)):
            message = f"{name} must not be a MaskedArray, whose mask would be lost; "
            message += masked_hint(function, name)
            check_refused(fs, function, name, named, TypeError, message)


def test_what_the_message_about_a_mask_says_works(fs):
    x = np.ma.masked_array([[1.0, 2.0, 3.0]], [[False, True, False]])
    expected = [fs.softmax(np.array([1.0, 3.0]))]
    np.testing.assert_array_equal(fs.softmax(x.data, where=~x.mask)[:, [0, 2]], expected)
    g, y = (
        np.ma.masked_array([[1.0, 2.0, 4.0]], x.mask),
        np.ma.masked_array(fs.softmax(x.filled(-np.inf)), x.mask),
    )
    expected = [fs.softmax_backward(np.array([1.0, 4.0]), y.compressed())]
    np.testing.assert_array_equal(
        fs.softmax_backward(g.filled(0), y.filled(0))[:, [0, 2]], expected
    )
    all_of_it = np.ma.masked_array([[1.0, 2.0]])  # its mask is numpy.ma.nomask
    assert fs.softmax(all_of_it.data, where=~all_of_it.mask).sum() == 1


@FUNCTION
def test_matrices_are_refused(fs, function):
    for name, named in spoilt(function, lambda array: np.atleast_2d(array).view(np.matrix)):
        message = f"{name} must not be a numpy.matrix; pass numpy.asarray({name})"
        check_refused(fs, function, name, named, TypeError, message)


@FUNCTION
def test_what_becomes_an_array_of_such_a_class_is_refused_too(fs, function):
    class Wrapper:
        def __init__(self, array):
            self.array = np.ma.masked_array(array)

        def __array__(self, dtype=None, copy=None):
            return self.array

    for name, named in spoilt(function, Wrapper):
        if name != "out":
            message = f"{name} must not be a MaskedArray"
            check_refused(fs, function, name, named, TypeError, message)


# ---- containers that NumPy makes objects of ----


def frame(array):
    pandas = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            pandas.DataFrame(np.atleast_2d(array))
            .convert_dtypes()
            .mask(lambda f: f == f.iloc[0, 0])
        )


def polars_frame(_array):
    return pytest.importorskip("polars").DataFrame({"a": ["text"], "b": [1.0]})


def sparse_matrix(array):
    return pytest.importorskip("scipy.sparse").csr_matrix(np.atleast_2d(array))


def sparse_array(array):
    return pytest.importorskip("scipy.sparse").coo_array(np.atleast_2d(array))


NUMBERS = {"where": "bool, na_value=False", "labels": "int", "indptr": "int"}
OBJECTS = [
    # what makes it of an array, how the message goes on after "got object, from "
    (
        frame,
        "a pandas DataFrame; pass its columns of numbers, nullable ones as {name}.to_numpy({kind})",
    ),
    (polars_frame, "a polars DataFrame; pass its columns of numbers"),
    (sparse_matrix, "a scipy csr_matrix; pass {name}.toarray()"),
    (sparse_array, "a scipy coo_array; pass {name}.toarray()"),
    (lambda array: (row for row in array), "a generator; pass list({name})"),
    (lambda array: map(float, array.ravel()), "a map; pass list({name})"),
    (lambda array: dict(enumerate(array)), "a dict; pass list({name}.values())"),
    (lambda array: dict(enumerate(array)).values(), "a dict_values; pass list({name})"),
    (lambda _: {1.0, 2.0}, "a set; pass list({name})"),
    (lambda _: object(), "an object"),
    (lambda _: [1.0, None], "a list that holds None"),
    (lambda _: ([1.0], [{}]), "a tuple that holds a dict"),
    (lambda _: [1, 2**64], "a list that holds an integer of more than 64 bits"),
]


@pytest.mark.parametrize(("make", "message"), OBJECTS, ids=[text for _, text in OBJECTS])
@FUNCTION
def test_a_container_that_numpy_makes_objects_of_is_named(fs, function, make, message):
    for name, named in spoilt(function, make):
        if name == "out":
            said = "out must be a NumPy array, got a"
        else:
            said = f"got object, from {message}".format(
                name=name, kind=NUMBERS.get(name, "float, na_value=numpy.nan")
            )
        check_refused(fs, function, name, named, TypeError, said)


@FUNCTION
def test_none_is_no_operand(fs, function):
    for name, named in spoilt(function, lambda _: None):
        if name in function.operands:
            check_refused(fs, function, name, named, TypeError, "got object, from None")


def test_what_the_messages_about_containers_say_works(fs):
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame({"a": [1, None], "b": [3, 4]}, dtype="Int64")
    expected = fs.softmax([[1.0, 3.0], [np.nan, 4.0]])
    np.testing.assert_array_equal(fs.softmax(x.to_numpy(float, na_value=np.nan)), expected)
    where = pandas.DataFrame({"a": [True, None], "b": [True, True]}, dtype="boolean")
    where = where.to_numpy(bool, na_value=False)
    np.testing.assert_array_equal(fs.softmax(np.zeros((2, 2)), where=where), [[0.5, 0.5], [0, 1]])


@pytest.mark.parametrize("library", ["pandas", "polars"])
@FUNCTION
def test_frames_and_columns_of_plain_numbers_are_accepted(fs, function, library):
    library = pytest.importorskip(library)

    def make(array):
        return library.Series(array) if array.ndim == 1 else library.DataFrame(array)

    expected = getattr(fs, function.name)(**arguments(function)).copy()
    for name, named in spoilt(function, make):
        if name != "out":
            got = getattr(fs, function.name)(**named)
            np.testing.assert_array_equal(got, expected)


# ---- what numpy.asarray fails on ----


@FUNCTION
def test_rows_of_several_lengths_are_refused_by_name(fs, function):
    for ragged in ([[1, 2], [3]], ([1.0], 2.0), [np.ones(2), np.ones(3)]):
        for name, named in spoilt(function, lambda _, ragged=ragged: ragged):
            if name != "out":
                kind = type(ragged).__name__
                message = f"{name} must have rows of one length, got a {kind} of several"
                if name in ("x", "data"):
                    message += "; join them with numpy.concatenate and use segment_softmax"
                check_refused(fs, function, name, named, ValueError, message)


class Failing:
    """Something that cannot become an array, as a tensor that requires a gradient."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@FUNCTION
def test_an_error_of_other_code_names_the_argument(fs, function):
    for error, exception in (
        (RuntimeError("call detach()"), TypeError),
        (KeyError("call detach()"), TypeError),
        (ValueError("call detach()"), ValueError),
    ):
        for name, named in spoilt(function, lambda _, error=error: Failing(error)):
            if name != "out":
                message = f"{name} must be what numpy.asarray takes, got a test_containers Failing"
                check_refused(fs, function, name, named, exception, message)
                with pytest.raises(exception, match=r"call detach\(\)") as info:
                    getattr(fs, function.name)(**named)
                assert info.value.__cause__ is error
    deep = []
    deep.append(deep)
    for name, named in spoilt(function, lambda _: deep):
        if name != "out":
            message = f"{name} must be what numpy.asarray takes, got a list (ValueError: "
            check_refused(fs, function, name, named, ValueError, message)


def test_what_is_no_error_of_a_container_is_left_alone(fs):
    for error in (MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as info:
            fs.softmax(Failing(error))
        assert info.value is error
