"""The public face: signatures, help, pickling and the examples in the docstrings, on each backend."""

import doctest
import functools
import gc
import inspect
import pydoc
import re
import weakref

import numpy as np
import pytest
from functions import FUNCTIONS
from toolchain import run_python

import fastsoftmax
from fastsoftmax import _api, _backend, _workers

GENERAL = vars(_api.over(_backend.load("numpy"), by_rules=True))
"""The functions as they are written in Python."""
NAMES = [name for name in GENERAL if name != "name"]


def test_the_package_exports_every_function_and_nothing_else():
    names = {name for name in vars(fastsoftmax) if not name.startswith("_")}
    public = names - {"dask"}  # a module that some test has imported
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


def in_one_line(text):
    """Return a text without spaces, as a signature is shown in one line or, since 3.15, in many.

    Before 3.15 annotations have quotes.
    """
    return "".join(text.split()).replace(",)", ")").replace("'", "")


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_name_signature_and_docstring(fs, name):
    function = getattr(fs, name)
    assert function.__name__ == name
    assert inspect.getdoc(function) == inspect.getdoc(GENERAL[name])
    text = pydoc.plain(pydoc.render_doc(function))
    first = inspect.getdoc(function).splitlines()[0]
    assert in_one_line(f"{name}{inspect.signature(function)}") in in_one_line(text)
    assert first in text
    assert text.splitlines()[0].endswith(" in module fastsoftmax")
    assert re.fullmatch(f"<function {name}( at 0x[0-9a-f]+)?>", repr(function))
    assert inspect.isroutine(function)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_ask_for_the_signature_has_an_answer(fs, name):
    function, general = getattr(fs, name), GENERAL[name]
    for ask in (
        inspect.signature,
        functools.partial(inspect.signature, follow_wrapped=False),
        inspect.Signature.from_callable,
    ):
        answers = [ask(f).parameters.values() for f in (function, general)]
        got, expected = ([p.replace(annotation=p.empty) for p in answer] for answer in answers)
        assert got == expected
    got, expected = (inspect.getfullargspec(f) for f in (function, general))
    for part in ("args", "kwonlyargs", "kwonlydefaults"):
        assert getattr(got, part) == getattr(expected, part)


def test_the_vectorcall_protocol_calls_the_functions(native_fs):
    """Otherwise they are right, but a tuple and a dict are made for each call."""
    kind = type(native_fs.softmax)
    assert kind.__flags__ & 1 << 11  # Py_TPFLAGS_HAVE_VECTORCALL
    with pytest.raises(TypeError, match="not an acceptable base"):
        type("Derived", (kind,), {})


def test_a_function_keeps_what_it_calls(native_name):
    def general(x, **options):
        return "declined", x, options

    names = [inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    function = type(_api.over(_backend.load(native_name)).softmax)(
        "softmax", native_name, general, names
    )
    del general
    vars(function).clear()
    gc.collect()
    assert function(None, more=1) == ("declined", None, {"more": 1})
    with pytest.raises(ValueError, match="nonsense"):
        type(function)("softmax", "nonsense", len, names)


def test_help_of_the_package_lists_every_function():
    text = pydoc.plain(pydoc.render_doc(fastsoftmax))
    listed = text[text.index("\nFUNCTIONS\n") :]
    assert all(f"\n    {name}(" in listed for name in NAMES)


def test_a_function_that_is_a_class_attribute_is_called_as_it_is(native_fs):
    """Unlike one written in Python, it is no method."""
    owner = type("Owner", (), {"activation": native_fs.softmax})
    assert owner.activation is owner().activation is native_fs.softmax
    assert owner().activation([0.0]) == [1.0]


def test_a_function_can_be_called_in_every_way(fs):
    x = np.zeros((2, 4), np.float32)
    for call in (fs.softmax, fs.softmax.__call__, functools.partial(fs.softmax)):
        assert (call(x, 0, dtype="f8") == 0.5).all()
        keywords = {"axis": 0}
        assert (call(*[x], **keywords) == 0.5).all()
    assert (next(map(fs.softmax, [x])) == 0.25).all()
    with pytest.raises(TypeError, match="dim"):
        fs.softmax(x, dim=0)
    assert weakref.ref(fs.softmax)() is fs.softmax


@pytest.mark.parametrize("name", NAMES)
def test_every_docstring_has_the_sections_of_numpydoc(name):
    text = inspect.getdoc(GENERAL[name])
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in text
    for parameter in inspect.signature(GENERAL[name]).parameters:
        assert f"\n{parameter} : " in text


DUMP = """
import copy, functools, importlib, json, pickle, sys
import fastsoftmax

x = [0.0, 1.0]
found = {}
for library in sys.argv[2:]:
    pickler = importlib.import_module(library)
    for name in fastsoftmax.__all__:
        function = getattr(fastsoftmax, name)
        assert copy.copy(function) is copy.deepcopy(function) is function
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            dumped = pickler.dumps(function, protocol)
            assert pickler.loads(dumped) is function, name
        found[f"{library} {name}"] = dumped.hex()
    functions = [functools.partial(fastsoftmax.softmax, axis=0)]
    if library != "pickle":
        functions += [lambda x: fastsoftmax.softmax(x), lambda x, f=fastsoftmax.softmax: f(x)]
    found[f"{library} of others"] = pickler.dumps(functions).hex()
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""
LOAD = """
import importlib, json, pickle, sys

assert "fastsoftmax" not in sys.modules
with open(sys.argv[1]) as file:
    dumped = json.load(file)
for key in sorted(dumped, key=lambda key: sys.argv[2] not in key):
    library, name = key.split(maxsplit=1)
    if not key.endswith("of others"):
        loaded = pickle.loads(bytes.fromhex(dumped[key]))
        import fastsoftmax  # only now: to load the first is to import it

        assert loaded is getattr(fastsoftmax, name), key
    else:
        for loaded in importlib.import_module(library).loads(bytes.fromhex(dumped[key])):
            assert (loaded([0.0, 1.0]) == fastsoftmax.softmax([0.0, 1.0])).all(), key
"""


@pytest.mark.parametrize("library", ["pickle", "cloudpickle", "dill"])
def test_functions_can_be_pickled_and_copied(backend_name, tmp_path, library):
    """To themselves: in this process, and in one that has not heard of the package."""
    module = pytest.importorskip(library)
    if library == "dill":
        try:
            module.dumps(lambda: None)
        except AttributeError:
            pytest.skip("this dill cannot send functions of this Python")
    file = tmp_path / "dumped.json"
    for program, of in ((DUMP, library), (LOAD, "softmax")):
        done = run_python("-c", program, file, of, backend=backend_name)
        assert done.returncode == 0, done.stderr


WITHOUT_DOCSTRINGS = """
import inspect, pydoc
import numpy as np
import fastsoftmax as fs

def check(fact, text):
    if not fact:
        raise SystemExit(text)

check(not __debug__, "this is to be run by python -OO")
for name in fs.__all__:
    function = getattr(fs, name)
    check(function.__doc__ is None, f"{name} has the docstring {function.__doc__!r}")
    check(name in pydoc.plain(pydoc.render_doc(function)), f"{name} has no help")
    inspect.signature(function)
x = np.zeros((2, 2), "f4")
check((fs.softmax(x) == 0.5).all(), "softmax")
check((fs.softmax(x.tolist(), where=x == 0, temperature=2) == 0.5).all(), "softmax")
check((fs.logsumexp(x) == np.log(np.float32(2))).all(), "logsumexp")
loss, grad = fs.softmax_cross_entropy(x, [0, 1], return_grad=True)
check((abs(grad) == 0.5).all() and (loss == fs.logsumexp(x)).all(), "cross-entropy")
check(fs.segment_softmax(x[0], [0, 1, 2]).tolist() == [1, 1], "segments")
check(fs.segment_log_softmax(x, [0, 1, 2]).tolist() == [[0, 0], [0, 0]], "segments")
check(fs.segment_logsumexp(x[0], [0, 1, 2]).tolist() == [0, 0], "segments")
check((fs.softmax(x, temperature=[[1], [2]]) == 0.5).all(), "temperatures")
log, sign = fs.logsumexp(x, b=np.array([1, -1], "f4"), return_sign=True)
check((log == -np.inf).all() and (sign == 0).all(), "weights of exponentials")
loss, grad = fs.softmax_cross_entropy(
    x.copy(), [0, 9], ignore_index=9, sample_weight=[2, 2], return_grad=True, out=(loss, grad)
)
check(loss[1] == 0 and (grad == [[-1, 1], [0, 0]]).all(), "weights of losses")
check((fs.log_softmax_backward(x, fs.log_softmax(x)) == 0).all(), "gradient")
for options in ({"dim": 1}, {"axis": 2}, {"workers": True}, {"temperature": 0}, {"where": 1}):
    try:
        fs.softmax(x, **options)
    except (TypeError, ValueError):
        continue
    raise SystemExit(f"{options} were accepted")
"""


def test_everything_works_without_docstrings_and_assertions(backend_name):
    done = run_python("-OO", "-c", WITHOUT_DOCSTRINGS, backend=backend_name)
    assert done.returncode == 0, done.stderr


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
