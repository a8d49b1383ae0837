"""Calls that must be refused, for hypothesis to draw: a valid one with one thing wrong, or two."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from calls import HALF, MOST_DIMENSIONS, SELDOM, Call, calls, written
from functions import (
    ENTROPIES,
    ENTROPY_OF_LABELS,
    ENTROPY_OF_TARGETS,
    EVERY_OPTION,
    GRADIENTS,
    SEGMENTS,
)
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from benchmarks.promised import reduced


@dataclass(eq=False)
class InvalidCall:
    """A call that raises, and nothing else."""

    call: Call
    by_position: list[Any]
    by_keyword: dict[str, Any]
    wrong: list[tuple[type, str]]
    """For each thing that is wrong, the exception and how its message begins."""

    def run(self, fs):
        return getattr(fs, self.call.function.name)(*self.by_position, **self.by_keyword)

    def _repr_pretty_(self, printer, _cycle):
        printer.text(written(self.call.function.name, self.by_position, self.by_keyword))


def other_types(shape):
    """Return arrays of dtypes that no function takes."""
    ml_dtypes = sys.modules.get("ml_dtypes")
    narrow = ["float8_e5m2", "float8_e4m3fn", "float8_e4m3b11fnuz"] if ml_dtypes else []
    yield from (np.zeros(shape, dtype) for dtype in (complex, object, "U1", "S2", "M8[s]", "m8[s]"))
    yield from (np.zeros(shape, np.dtype(getattr(ml_dtypes, name))) for name in narrow)
    yield np.zeros(shape, [("a", "f4")])


# Each of these spoils `named`, the arguments by name, and returns the exception and how its
# message begins; or it returns None where a call has nothing of that kind.


def a_dtype(draw, call, named):
    name = draw(st.sampled_from(call.function.operands))
    wrong = draw(st.sampled_from(list(other_types(np.shape(named[name])))))
    named[name] = wrong
    return TypeError, f"{name} must be "


def a_subclass(draw, call, named):
    names = [*call.function.operands, *call.named]
    name = draw(st.sampled_from(names))
    named[name] = np.ma.masked_array(named[name])
    return TypeError, f"{name} must not be a MaskedArray"


def a_second_shape(_draw, call, named):
    if call.function not in (*GRADIENTS, *ENTROPIES):
        return None
    name = call.function.operands[1]
    named[name] = np.zeros((2, *named[name].shape), named[name].dtype)
    of = "grad_output and output" if call.function in GRADIENTS else "labels"
    return ValueError, of


def an_axis(draw, call, named):
    if call.function.axes == "none":
        return None
    ndim = named[call.function.operands[0]].ndim
    wrong = [
        (ndim + 1, AxisError, f"axis {ndim + 1} is out of bounds"),
        (np.int64(-ndim - 2), AxisError, f"axis {-ndim - 2} is out of bounds"),
        *((axis, TypeError, "axis must be an integer") for axis in (0.0, "0", [0], True, np.True_)),
    ]
    if call.function.axes == "one":
        wrong += [(axis, TypeError, "axis must be an integer") for axis in (None, (0,), ())]
    elif ndim:
        wrong += [((0, 0), ValueError, "axis must not name an axis twice")]
        wrong += [((0, -ndim), ValueError, "axis must not name an axis twice")]
        wrong += [((0, ndim), AxisError, f"axis {ndim} is out of bounds")]
    named["axis"], *expected = draw(st.sampled_from(wrong))
    return expected


def a_mask(draw, call, named):
    if "where" not in call.function.options:
        return None
    shape = named[call.function.operands[0]].shape
    wrong = [
        (np.ones(shape, np.uint8), TypeError, "where must be of dtype bool"),
        (np.ones(shape), TypeError, "where must be of dtype bool"),
        (1, TypeError, "where must be of dtype bool"),
        (np.ones((2, *shape), bool), ValueError, "where must be broadcastable"),
    ]
    named["where"], *expected = draw(st.sampled_from(wrong))
    return expected


def an_output(draw, call, named):
    given = [i for i, window in enumerate(call.results) if window is not None]
    if not given:
        return None
    i = draw(st.sampled_from(given))
    out = call.into()[i]
    locked = out[...]
    locked.flags.writeable = False
    wrong = [
        (out.tolist(), TypeError, "out must be a NumPy array"),
        (np.zeros(out.shape, np.int64), TypeError, "out must be of dtype"),
        (np.zeros(out.shape, np.complex64), TypeError, "out must be of dtype"),
        (np.zeros(out.shape, out.dtype).astype(">f8"), TypeError, "out must be of dtype"),
        (out[np.newaxis], ValueError, "out must have the result's shape"),
        (np.zeros((*out.shape, 2), out.dtype), ValueError, "out must have the result's shape"),
        (locked, ValueError, "out must be writeable"),
        (np.ma.masked_array(out), TypeError, "out must not be a MaskedArray"),
    ]
    spoilt, *expected = draw(st.sampled_from(wrong))
    named["out"] = spoilt
    if call.is_tuple:
        named["out"] = tuple(spoilt if k == i else a for k, a in enumerate(call.into()))
    return expected


def a_pair(draw, call, named):
    if call.function not in ENTROPIES:
        return None
    shape = call.operands[0].shape
    grad = np.zeros(shape, call.dtype)
    length = draw(st.sampled_from([0, 1, 3]))
    wrong = [
        ((None,) * length, {}, "out must be an array or a pair (loss, grad), got"),
        ((grad,) * length, {}, "out must be an array or a pair (loss, grad), got"),
        ((None, grad), {"return_grad": False}, "out must not have a gradient without return_grad"),
    ]
    named["out"], options, text = draw(st.sampled_from(wrong))
    named.update(options)
    return ValueError, text


def an_overlap(draw, call, named):
    """Put the results of a cross-entropy into each other, or into the labels."""
    if call.function not in ENTROPIES:
        return None
    logits, labels = named["logits"], named["labels"]
    is_plain = all(type(a) is np.ndarray and a.dtype.kind in "biuf" for a in (logits, labels))
    if not is_plain or labels.shape != call.operands[1].shape or 0 in logits.shape:
        return None
    shapes = {"out's loss": reduced(logits.shape, call.settings), "out's gradient": logits.shape}
    sizes = {name: np.zeros(shape, call.dtype).nbytes for name, shape in shapes.items()}
    memory = np.zeros(2 * max(*sizes.values(), labels.nbytes) + 64, np.uint8)
    first, second = draw(
        st.sampled_from(
            [
                ("out's loss", "out's gradient"),
                ("out's loss", "labels"),
                ("out's gradient", "labels"),
            ]
        )
    )

    def placed(name, at):
        if name == "labels":
            window = memory[at : at + labels.nbytes].view(labels.dtype).reshape(labels.shape)
            window[...] = labels
            return window
        return memory[at : at + sizes[name]].view(call.dtype).reshape(shapes[name])

    at = {first: 0, second: 0}
    arrays = {name: placed(name, place) for name, place in at.items()}
    named["return_grad"] = True
    named["labels"] = arrays.get("labels", labels)
    named["out"] = arrays.get("out's loss"), arrays.get("out's gradient")
    return ValueError, f"{first} must not overlap {second}"


def an_array_of_numbers(draw, call, named):
    """Spoil temperatures, weights of losses or weights of exponentials."""
    x = named[call.function.operands[0]]
    names = [
        name for name in ("b", "temperature", "sample_weight") if name in call.function.options
    ]
    if not names or call.function in SEGMENTS:
        return None
    name = draw(st.sampled_from(names))
    shape = np.shape(x)
    if name == "temperature":
        shape = tuple(1 if d in call.settings.axes else n for d, n in enumerate(shape))
    elif name == "sample_weight":
        shape = reduced(shape, call.settings)
    kind = {"b": "of dtype bool, an integer dtype, float16"}.get(
        name, "a real number or an array of them"
    )
    if name != "b":
        shapes = [((2, *shape), "be broadcastable to"), ((*shape, 7), "be broadcastable to")]
    else:  # may enlarge x
        text = "have a shape that broadcasts with"
        shapes = [((shape[-1] + 1,), text)] if shape and shape[-1] > 1 else []
    wrong = [
        *((np.ones(other), ValueError, f"{name} must {text}") for other, text in shapes),
        (draw(st.sampled_from(list(other_types(shape)))), TypeError, f"{name} must be {kind}"),
        (np.ma.ones(shape), TypeError, f"{name} must not be a MaskedArray"),
    ]
    if 0 not in shape:
        spoilt = np.ones(shape, draw(st.sampled_from(["f4", "f8", ">f8", "f2"])))
        values = [np.nan, np.inf, -np.inf, *([0, -0.0, -1] if name == "temperature" else [])]
        spoilt.flat[draw(st.integers(0, spoilt.size - 1))] = draw(st.sampled_from(values))
        above = " and above 0" if name == "temperature" else ""
        wrong.append((spoilt, ValueError, f"{name} must be finite{above}, got "))
    own, other = (x.dtype.newbyteorder("="), None) if isinstance(x, np.ndarray) else (None, None)
    if name == "b" and own in HALF and len(HALF) == 2 and named.get("dtype") is None:
        (other,) = {*HALF} - {own}
        wrong.append((np.ones(shape, other), TypeError, "x and b must have a common dtype"))
    named[name], *expected = draw(st.sampled_from(wrong))
    return expected


ABOVE_0 = "temperature must be finite and above 0"
SHARE = "label_smoothing must be from 0 to 1"
FINITE = "sample_weight must be finite, got "
WHOLE = "ignore_index must be an integer"
NUMBERS = [
    *(("temperature", number, ValueError, ABOVE_0) for number in (0, 0.0, -0.0, -1, -0.5, -1e300)),
    *(("temperature", number, ValueError, ABOVE_0) for number in (np.nan, np.inf, 10**400)),
    *(("temperature", number, ValueError, ABOVE_0) for number in (np.float32(-2), np.float64(0))),
    *(("temperature", other, TypeError, "temperature must be") for other in ("1", 1j, b"1", None)),
    *(("sample_weight", number, ValueError, FINITE) for number in (np.nan, -np.inf, 10**400)),
    *(("sample_weight", other, TypeError, "sample_weight must be a real") for other in ("1", 1j)),
    *(
        ("b", number, ValueError, "b must be finite, got")
        for number in (np.nan, np.float32(np.inf))
    ),
    *(("b", other, TypeError, "b must be of dtype") for other in ("1", 1j, 10**400, object())),
    *(("ignore_index", other, TypeError, WHOLE) for other in (1.0, "1", True, [1], np.array([1]))),
    *(("ignore_index", n, ValueError, f"{WHOLE} of 64 bits, got") for n in (2**63, -(2**63) - 1)),
    *(("label_smoothing", number, ValueError, SHARE) for number in (-0.1, 1.5, np.nan, 2)),
    *(("label_smoothing", number, ValueError, SHARE) for number in (np.float32(-1), np.inf)),
    *(("label_smoothing", other, TypeError, "label_smoothing must be") for other in ("0", None)),
    *(("workers", number, ValueError, "workers must be positive") for number in (0, -100_000)),
    *(("workers", other, TypeError, "workers must be an integer") for other in (1.0, "2", [1])),
    *(
        ("keepdims", other, TypeError, "keepdims must be True or False")
        for other in (1, "no", None)
    ),
    *(
        ("return_sign", other, TypeError, "return_sign must be True or False")
        for other in (1, None, np.int8(0))
    ),
    *(
        ("return_grad", other, TypeError, "return_grad must be True or False")
        for other in (1, None)
    ),
    *(("dtype", dtype, TypeError, "dtype must be") for dtype in (int, bool, complex, "V4", "what")),
]
"""Keyword, value, exception and how its message begins."""


def a_number(draw, call, named):
    wrong = [(key, *rest) for key, *rest in NUMBERS if key in call.function.options]
    key, named[key], *expected = draw(st.sampled_from(wrong))
    return expected


def labels(draw, call, named):
    logits, given = named[call.function.operands[0]], named.get("labels")
    if call.function is ENTROPY_OF_LABELS and given.size and 0 not in logits.shape:
        outside = draw(st.sampled_from([-1, call.classes, np.iinfo(np.int64).max]))
        if outside == named.get("ignore_index"):
            outside = -2
        spoilt = np.array(given, np.int64)
        spoilt.flat[draw(st.integers(0, given.size - 1))] = outside
        named["labels"] = spoilt
        return IndexError, "labels must be class indices from 0 to"
    if call.function is ENTROPY_OF_TARGETS and draw(st.booleans()):
        named["ignore_index"] = draw(st.sampled_from([0, -100, np.int8(1)]))
        return ValueError, "ignore_index must not be given with probabilities"
    if call.function is ENTROPY_OF_TARGETS:
        named["labels"] = np.ones(logits.shape, bool)
        return TypeError, "labels must be class indices of an integer dtype or probabilities"
    return None


def row_pointers(draw, call, named):
    if call.function not in SEGMENTS:
        return None
    if draw(SELDOM):
        named["data"] = draw(st.sampled_from([1.5, np.float32(2), np.zeros(())]))
        return ValueError, "data must have at least one axis, which indptr cuts; got "
    length = len(named["data"])
    wrong = [
        ([0, 5 + length, length], ValueError, "indptr must not decrease"),
        ([1, length + 1], ValueError, "indptr must start with 0"),
        ([0, length + 1], ValueError, "indptr must end with the length of data"),
        ([[0, length]], ValueError, "indptr must be 1-D"),
        ([0.0, length], TypeError, "indptr must be of an integer dtype"),
        (np.array([0, 2**64 - 1, length], np.uint64), ValueError, "indptr must not decrease"),
    ]
    named["indptr"], *expected = draw(st.sampled_from(wrong))
    return expected


def foreign_keywords(function):
    """Return the keywords of other functions, and those of other libraries."""
    return sorted({*EVERY_OPTION, "dim", "axes"} - {*function.options})


def a_keyword(draw, call, named):
    others = foreign_keywords(call.function)
    name = draw(st.sampled_from(others))
    named[name] = draw(st.sampled_from([None, 1, 1.0, 0.5]))
    return TypeError, f"{call.function.name}() got an unexpected keyword argument '{name}'"


def a_missing_operand(draw, call, named):
    del named[draw(st.sampled_from(call.function.operands))]
    return TypeError, f"{call.function.name}() missing 1 required positional argument"


SPOILERS = [
    a_dtype,
    a_subclass,
    a_second_shape,
    an_axis,
    a_mask,
    an_output,
    a_pair,
    an_overlap,
    an_array_of_numbers,
    a_number,
    a_number,
    labels,
    row_pointers,
    a_keyword,
    a_missing_operand,
]


@st.composite
def invalid_calls(draw):
    """Draw a call with one thing wrong, or two."""
    call = draw(calls().filter(lambda call: len(call.operands[0].shape) < MOST_DIMENSIONS))
    by_position, by_keyword = call.arguments()
    named = {
        **dict(zip([*call.function.operands, "axis"], by_position, strict=False)),
        **by_keyword,
    }
    if draw(st.sampled_from([False] * 9 + [True])):
        first = [named.pop(name) for name in call.function.operands]
        axis = [named.pop("axis", -1)] if call.function.axes != "none" else []
        wrong = TypeError, f"{call.function.name}() takes "
        return InvalidCall(call, [*first, *axis, None], named, [wrong])
    wrong = []
    for spoil in draw(st.lists(st.sampled_from(SPOILERS), min_size=1, max_size=2, unique=True)):
        if all(name in named for name in call.function.operands):
            wrong.append(spoil(draw, call, named))
    wrong = [tuple(expected) for expected in wrong if expected is not None]
    if not wrong:
        wrong = [a_keyword(draw, call, named)]
    by_position = []
    if draw(st.booleans()) and all(name in named for name in call.function.operands):
        by_position = [named.pop(name) for name in call.function.operands]
    return InvalidCall(call, by_position, named, wrong)
