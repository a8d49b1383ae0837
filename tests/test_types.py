"""Types: what checkers make of calls, that results are what was said, and hints at run time."""

import ast
import importlib.util
import inspect
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import typed_calls
from toolchain import run

from fastsoftmax import _api, _backend

CALLS = Path(typed_calls.__file__)
ROOT = CALLS.parents[1]
GENERAL = vars(_api.over(_backend.load("numpy"), by_rules=True))
"""The functions as they are written in Python."""
NAMES = [name for name in GENERAL if name != "name"]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_what_is_right_and_refuse_what_is_wrong(checker):
    """Of each call the file says the type, or that it is an error: an ignored error must be one."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"needs {checker}")
    if not (ROOT / "fastsoftmax" / "__init__.py").exists():
        pytest.skip("needs the package's sources")
    files = [CALLS] if checker == "mypy" else ["--pythonpath", sys.executable]
    run(sys.executable, "-m", checker, *files, cwd=ROOT)


def is_of(value, hint):
    """Whether a value is of the type that a checker gave its expression."""
    if hint is typing.Any:
        return True
    arguments = typing.get_args(hint)
    if hasattr(typing.get_origin(hint), "__value__"):  # an alias with a parameter, as NDArray is
        return is_of(value, typing.get_origin(hint).__value__[arguments])
    if typing.get_origin(hint) is tuple:
        return len(value) == len(arguments) and all(map(is_of, value, arguments))
    if typing.get_origin(hint) is np.ndarray:
        shape, dtype = arguments
        axes = typing.get_args(getattr(shape, "__value__", shape))
        return (
            isinstance(value, np.ndarray)
            and issubclass(value.dtype.type, typing.get_args(dtype)[0])
            and (value.ndim == len(axes) or Ellipsis in axes or shape is typing.Any)
        )
    if typing.get_origin(hint) is np.dtype:
        return issubclass(value.type, arguments[0])
    return isinstance(value, typing.get_origin(hint) or hint)


@pytest.fixture
def calls(fs, monkeypatch):
    """The file, calling the functions of one backend."""
    for name in NAMES:
        monkeypatch.setattr(typed_calls, name, getattr(fs, name))
    return typed_calls


def test_results_have_the_types_that_checkers_say(calls, monkeypatch):
    def check(value, hint):
        assert is_of(value, hint), f"{value!r} is not of the type {hint}"

    monkeypatch.setattr(calls, "assert_type", check)
    x = np.ones((2, 2), np.float32)
    calls.accepted(
        x,
        mixed=x,
        integers=np.ones((2, 2), np.int64),
        anything=x,
        labels=np.array([0, 1]),
        out=np.ones((2, 2), np.float32),
        losses=np.ones(2, np.float32),
        maybe=None,
        flag=True,
    )


REFUSED = [
    ast.unparse(statement)
    for function in ast.parse(CALLS.read_text()).body
    if isinstance(function, ast.FunctionDef) and function.name == "refused"
    for statement in function.body
]


@pytest.mark.parametrize("call", REFUSED)
def test_what_type_checkers_refuse_is_an_error(calls, call):
    x = np.ones((2, 2), np.float32)
    with pytest.raises((TypeError, ValueError)):
        eval(call, {**vars(calls), "x": x, "labels": np.array([0, 2])})


@pytest.mark.parametrize("name", NAMES)
def test_hints_can_be_resolved(fs, name):
    function = getattr(fs, name)
    hints = typing.get_type_hints(function)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    assert hints == typing.get_type_hints(GENERAL[name])


def by_beartype(function):
    return pytest.importorskip("beartype").beartype(function)


def by_pydantic(function):
    """It refuses what is not written in Python, as ufuncs; behind a C function is one that is."""
    pydantic = pytest.importorskip("pydantic")
    written = inspect.unwrap(function)
    return pydantic.validate_call(written, config={"arbitrary_types_allowed": True})


@pytest.mark.parametrize("checked", [by_beartype, by_pydantic])
def test_calls_can_be_checked_by_the_hints(fs, checked):
    softmax, cross_entropy = checked(fs.softmax), checked(fs.softmax_cross_entropy)
    x = np.zeros((2, 4), np.float32)
    options = {"where": x == 0, "temperature": [[1.0], [2.0]], "workers": np.int8(1)}
    assert (softmax(x, (0, np.int64(1)), dtype="f8", out=np.empty((2, 4))) == 1 / 8).all()
    assert (softmax(x, np.int8(-1), dtype=np.float32, **options) == 1 / 4).all()
    assert softmax(1.0) == 1
    loss, grad = cross_entropy(x, [0, 3], label_smoothing=np.float32(0), return_grad=np.True_)
    assert (loss == np.log(np.float32(4))).all()
    assert grad[0, 0] == -3 / 4
    with pytest.raises(Exception, match=r"axis|SupportsIndex"):
        softmax(x, 0.5)
