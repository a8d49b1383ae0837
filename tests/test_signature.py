"""The public face: signatures, help, pickling and the examples in the docstrings, on each backend."""

import copy
import doctest
import inspect
import pickle
import pydoc

import numpy as np
import pytest
from functions import FUNCTIONS

import fastsoftmax
from fastsoftmax import _api, _backend, _workers

GENERAL = vars(_api.over(_backend.load("numpy"), by_rules=True))
"""The functions as they are written in Python."""
NAMES = [name for name in GENERAL if name != "name"]


def test_the_package_exports_every_function_and_nothing_else():
    public = {name for name in vars(fastsoftmax) if not name.startswith("_")}
    assert public == set(fastsoftmax.__all__)
    assert set(NAMES) <= public
    assert isinstance(fastsoftmax.__version__, str)


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_that_of_the_python_function(fs, name):
    expected = list(inspect.signature(GENERAL[name]).parameters.values())
    got = list(inspect.signature(getattr(fs, name)).parameters.values())
    assert [(p.name, p.kind, p.default) for p in got] == [
        (p.name, p.kind, p.default) for p in expected
    ]


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_the_tests_know_every_argument(fs, function):
    parameters = inspect.signature(getattr(fs, function.name)).parameters.values()
    axis = [] if function.axes == "none" else ["axis"]
    positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert positional == [*function.operands, *axis]
    assert sorted(keywords) == sorted(function.options)


def test_the_tests_know_every_function():
    assert {function.name for function in FUNCTIONS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_name_signature_and_docstring(fs, name):
    function = getattr(fs, name)
    assert function.__name__ == name
    assert inspect.getdoc(function) == inspect.getdoc(GENERAL[name])
    text = pydoc.plain(pydoc.render_doc(function))
    first = inspect.getdoc(function).splitlines()[0]
    assert f"{name}(" in text
    assert first in text


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_has_the_sections_of_numpydoc(name):
    text = inspect.getdoc(GENERAL[name])
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in text
    for parameter in inspect.signature(GENERAL[name]).parameters:
        assert f"\n{parameter} : " in text


@pytest.mark.parametrize("name", NAMES)
def test_functions_can_be_pickled_and_copied(name):
    function = getattr(fastsoftmax, name)
    for again in (pickle.loads(pickle.dumps(function)), copy.deepcopy(function)):
        assert again == function


@pytest.mark.parametrize("module", [fastsoftmax, _backend, _workers])
def test_the_examples_in_the_docstrings(module):
    pytest.importorskip("scipy")  # one example is a sparse matrix
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_functions_have_a_module_and_a_representation():
    for name in NAMES:
        assert getattr(fastsoftmax, name).__module__.split(".")[0] == "fastsoftmax"
        assert name in repr(getattr(fastsoftmax, name))
