"""Any valid call of any public function, for hypothesis to draw.

All arrays of a call are windows into one memory, so that any two of them may overlap in any way:
operands, options that are arrays, and what results go into. But a cross-entropy's results may not
overlap each other or the labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from functions import (
    ENTROPIES,
    ENTROPY_OF_LABELS,
    ENTROPY_OF_TARGETS,
    FUNCTIONS,
    GRADIENTS,
    SEGMENT_LOGSUMEXP,
    SEGMENTS,
    SOFTMAX_BACKWARD,
    Function,
)
from hypothesis import strategies as st
from numpy.exceptions import TooHardError

from benchmarks.exact import info
from benchmarks.promised import Settings, reduced

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

MOST_ELEMENTS = 3000
MOST_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
OMITTED = object()
"""An option that is not passed."""

HALF = [np.dtype(np.float16), *([np.dtype(bfloat16)] if bfloat16 else [])]
SINGLE, DOUBLE, LONG = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.longdouble)
INTEGERS = [np.dtype(code) for code in "bBhHiIlLqQ"]
DTYPES = [*[SINGLE, DOUBLE] * 6, *HALF * 3, np.dtype(bool), *INTEGERS, LONG]

EXTENTS = [0, *[1] * 6, *[2, 3] * 4, 4, 5, 7, 8, 10, 15, 16, 17, 31, 33, 46, 64, 70]
SPELLINGS = {
    "temperature": [
        *[OMITTED] * 4,
        *(1, 1.0, np.float32(1), 2, 0.7, np.float32(0.3), np.float64(250), np.array(3.0)),
        *(1e-3, 1e300, 1e-300),
    ],
    "label_smoothing": [*[OMITTED] * 3, 0, 0.0, 1, 1.0, 0.1, np.float32(0.25), np.float64(0.5)],
    "keepdims": [OMITTED, False, True, np.False_, np.True_],
    "return_grad": [OMITTED, False, True, np.False_, np.True_],
    "return_sign": [OMITTED, False, True, np.False_, np.True_],
    "dtype": [*[OMITTED] * 6, None, np.float32, np.dtype(np.float64), "float64", float, "f2", "g"],
    "workers": [*[OMITTED] * 3, None, 1, 2, np.int64(2), -1],
    "b": [
        *[OMITTED] * 8,
        *(None, 1, 1.0, 2, -0.5, 0, -(10**9), 1e300, np.float32(3), np.float64(-1e-300)),
        *(np.array(2.0), True, np.int8(-1)),
    ],
    "sample_weight": [
        *[OMITTED] * 4,
        *(None, 0, 1, 1.0, -2, 0.3, -1e-3, np.float32(0.1), np.float64(1e30), np.array(2.5), True),
    ],
    "ignore_index": [
        *[OMITTED] * 2,
        *(None, 0, 1, 2, -100, np.int64(-1), np.uint8(3), -(2**63), 2**63 - 1),
    ],
}
"""The values that an option may have, in every way to write them."""
MEANINGS = {
    "temperature": float,
    "label_smoothing": float,
    "keepdims": bool,
    "return_grad": bool,
    "return_sign": bool,
    "b": lambda given: given,  # whose type says of which dtype the result is
    "sample_weight": lambda given: None if given is None else float(given),
    "ignore_index": lambda given: None if given is None else int(given),
}


def spellings_of(function):
    """Return the values that each option of a function may have, but for arrays and `out`."""
    values = {name: SPELLINGS[name] for name in function.options if name in SPELLINGS}
    if function.name == "softmax_cross_entropy" and function.from_rows is not (
        ENTROPY_OF_LABELS.from_rows
    ):
        values["ignore_index"] = [OMITTED, None]
    return values


def result_dtype(dtype):
    """Return the dtype of the result of an operand."""
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


# Made once, since making a strategy takes longer than a draw from it.
SELDOM = st.sampled_from([False] * 4 + [True])
SPELLED = {
    function: {name: st.sampled_from(values) for name, values in spellings_of(function).items()}
    for function in FUNCTIONS
}
SOMETIMES = st.sampled_from([False, True])
ANY_DTYPE = st.sampled_from(DTYPES)
ANY_FUNCTION = st.sampled_from(FUNCTIONS)
SOME_EXTENTS = {
    axes: st.lists(st.sampled_from(EXTENTS), min_size=least, max_size=most)
    for axes, least, most in (("none", 1, 3), ("one", 1, 4), ("several", 0, 4))
}


# ---- where arrays lie ----


@dataclass
class Window:
    """An array's place in the memory of its call; `at` is where element 0 lies."""

    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    at: int = 0

    def of(self, memory):
        return np.ndarray(self.shape, self.dtype, memory, self.at, self.strides)

    @property
    def span(self):
        """The first byte of any element and the one after the last, counted from `at`."""
        if 0 in self.shape:
            return 0, 0
        ends = [(n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)]
        return sum(min(0, end) for end in ends), sum(max(0, end) for end in ends) + (
            self.dtype.itemsize
        )

    @property
    def repeats(self):
        """Whether two elements are one."""
        return any(n > 1 and s == 0 for n, s in zip(self.shape, self.strides, strict=True))


@dataclass
class Place:
    """How a window lies to one before it."""

    relation: str
    other: int
    shift: int
    """In elements; in bytes where `is_odd`."""
    is_odd: bool
    part: float
    """What to shift by as well, of the window's length."""


APART = Place("apart", 0, 0, is_odd=False, part=0)


def any_place(rng, *, is_plain):
    """Choose a place by itself: hypothesis likes to repeat a choice, for the next array too."""
    return Place(
        relation=rng.choice(["apart", "apart", "same", "shifted", "over"]),
        other=int(rng.integers(4)),
        shift=int(rng.choice([0, 0, 1, -1, 2, 5, -7])),
        is_odd=not is_plain and rng.random() < 0.25,
        part=rng.choice([0, 0, 0, 0.6, -0.6, 0.9]),
    )


@st.composite
def strides_of(draw, shape, itemsize, may_repeat):
    """Draw strides: of C or Fortran order, or with axes permuted, reversed, stepped, repeated."""
    kind = draw(st.sampled_from(["C", "C", "Fortran", "any", "any"]))
    order = range(len(shape))
    if kind == "C":
        order = reversed(order)
    if kind != "any":
        return _nested(shape, itemsize, order, [1] * len(shape))
    order = draw(st.permutations(order))
    choices = [1, 1, 1, -1, 2, -3, *([0] if may_repeat else [])]
    steps = draw(st.lists(st.sampled_from(choices), min_size=len(shape), max_size=len(shape)))
    if math.prod(shape) > MOST_ELEMENTS // 4:
        steps = [max(-1, min(step, 1)) for step in steps]
    gap = draw(st.sampled_from([0, 0, 0, 1, 4]))  # elements of a packed record
    strides = list(_nested(shape, itemsize + gap, order, steps))
    for d, n in enumerate(shape):
        if n == 1:  # of no account
            strides[d] = draw(st.sampled_from([strides[d], 0, -7, 1 << 40]))
    return tuple(strides)


def _nested(shape, unit, order, steps):
    strides = [0] * len(shape)
    for d in order:
        strides[d] = unit * steps[d]
        if shape[d] > 1:  # or many axes of one element would spread the others over gigabytes
            unit *= shape[d] * abs(steps[d])
    return tuple(strides)


def arrange(windows, how):
    """Give each window its place in a common memory, and return that."""
    placed = []
    for window, place in zip(windows, how, strict=True):
        _place(window, place, placed)
        placed.append(window)
    first = min(w.at + w.span[0] for w in placed)
    base = (first - 64) // 64 * 64
    for window in placed:
        window.at -= base
    size = max(w.at + w.span[1] for w in placed) + 64
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _place(window, place, placed):
    shift = place.shift * (1 if place.is_odd else window.dtype.itemsize)
    if not placed or place.relation == "apart":
        end = max((w.at + w.span[1] for w in placed), default=0)
        window.at = (end + 127) // 64 * 64 + abs(shift) - window.span[0]
        return
    other = placed[place.other % len(placed)]
    size = math.prod(window.shape) * window.dtype.itemsize
    window.at = other.at + shift + round(place.part * size) // 16 * 16
    alike = other.shape == window.shape and other.dtype.itemsize == window.dtype.itemsize
    if alike and not other.repeats and place.relation != "over":
        window.strides = other.strides
        if place.relation == "same":
            window.at = other.at


# ---- what they hold ----


def near_thresholds(rng, sign, shape, dtype):
    """Rows whose maximum is ±4096, where kernels subtract it first, or a neighbour of that."""
    unit = 2.0 ** -info(dtype).nmant
    tops = 4096 * sign * np.array([1, 1 + unit, 1 - unit / 2])
    below = 4096 * sign - 0.01 - abs(rng.normal(0, 20, shape))
    return np.where(rng.random(shape) < 0.3, rng.choice(tops, shape), below)


def specials(rng, shape):
    values = rng.normal(0, 3, shape)
    dropped = rng.random(shape) < 0.15
    return np.where(dropped, rng.choice([-np.inf, np.inf, np.nan, -np.nan, -1e30], shape), values)


def huge(rng, shape, dtype):
    largest = min(float(info(dtype).max), float(np.finfo(float).max))
    return rng.uniform(-1, 1, shape) * largest


FLOAT_VALUES = {
    "normal": lambda rng, shape, _: rng.normal(0, 3, shape),
    "wide": lambda rng, shape, _: rng.normal(0, 300, shape),
    "at 4096": lambda rng, shape, dtype: near_thresholds(rng, 1, shape, dtype),
    "at -4096": lambda rng, shape, dtype: near_thresholds(rng, -1, shape, dtype),
    "specials": lambda rng, shape, _: specials(rng, shape),
    "masked": lambda rng, shape, _: rng.choice([-np.inf, 0.5, 1, 3], shape),
    "equal": lambda rng, shape, _: np.full(shape, rng.normal(0, 50)),
    "huge": huge,
    "from 0 to 1": lambda rng, shape, _: np.maximum(0, rng.uniform(-0.3, 1, shape)),
    "logarithms": lambda rng, shape, _: -rng.exponential(4, shape),
}


ANY_VALUES = st.sampled_from(list(FLOAT_VALUES))


def content(rng, kind, shape, dtype):
    """Return an array of a kind of values; of integers, small ones or any that there are."""
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        ends = (limits.min, limits.max) if kind == "huge" else (max(-9, limits.min), 10)
        return rng.integers(*ends, shape, dtype)
    with np.errstate(over="ignore"):
        return np.asarray(FLOAT_VALUES[kind](rng, shape, dtype)).astype(dtype)


def row_pointers(rng, length):
    """Return pointers to a few rows, some of them empty."""
    inner = rng.integers(0, length + 1, rng.integers(0, 6) if length else 2)
    return np.array([0, *sorted(inner), length] if length else [0, 0])


def rates(rng, shape, dtype):
    """Return temperatures: finite and above 0."""
    if dtype.kind in "biu":
        return rng.integers(1, 2 if dtype.kind == "b" else 10, shape).astype(dtype)
    some = [
        1,
        1,
        0.5,
        0.7,
        2,
        3.3,
        250,
        1e-3,
        1e4,
        *([1e300, 1e-300] if rng.random() < 0.1 else []),
    ]
    with np.errstate(over="ignore"):
        values = rng.choice(some, shape).astype(dtype)
    return np.where((values > 0) & np.isfinite(values), values, np.ones((), dtype))


def factors(rng, shape, dtype):
    """Return finite numbers of either sign: many of them 0 or 1, all of them 1, or huge and tiny."""
    if dtype.kind == "b":
        return rng.random(shape) < 0.7
    if dtype.kind in "iu":
        return rng.integers(-3 if dtype.kind == "i" else 0, 4, shape).astype(dtype)
    some = [0, 1, 1, -1, 0.5, -2.25, 1 / 3, 7, 1e-3]
    values = rng.choice(some, shape) * rng.choice([1, rng.normal()], shape)
    if rng.random() < 0.2:
        values = values * 10.0 ** rng.integers(-300, 300, shape)
    if rng.random() < 0.2:
        values = np.ones(shape)
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    return np.where(np.isfinite(values), values, np.ones((), dtype))


def is_sound(function, arrays, named, results, settings):
    """Whether all arrays are what they must be, after everything has been written."""
    for array in (*arrays, *named.values()):
        if array.dtype.kind == "b" and np.any(array.view(np.uint8) > 1):
            return False
    with np.errstate(invalid="ignore"):
        if any(not np.all(np.isfinite(named[name])) for name in named.keys() - {"where"}):
            return False
        if "temperature" in named and not np.all(named["temperature"].astype(float) > 0):
            return False
    if function is ENTROPY_OF_LABELS:
        logits, labels = arrays
        in_range = (labels >= 0) & (labels < logits.shape[settings.axes[0]])
        if not np.all(in_range | is_ignored(labels, settings.ignore_index)):
            return False
    if function in ENTROPIES:
        apart = [array for array in (arrays[1], *results) if array is not None]
        pairs = ((a, b) for i, a in enumerate(apart) for b in apart[i + 1 :])
        return not any(may_share_elements(a, b) for a, b in pairs)
    if function in SEGMENTS:
        data, indptr = arrays
        rises = np.all(indptr[1:] >= indptr[:-1])
        return bool(rises and indptr[0] == 0 and indptr[-1] == len(data))
    return True


def is_ignored(labels, ignored):
    limits = np.iinfo(labels.dtype)
    if ignored is None or not limits.min <= ignored <= limits.max:
        return np.zeros(labels.shape, bool)
    return labels == ignored


def may_share_elements(a, b):
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except TooHardError:
        return True


# ---- a call ----


@dataclass(eq=False)
class Call:
    """A valid call: what is passed, and what that means."""

    function: Function
    memory: np.ndarray
    operands: list[Window]
    named: dict[str, Window]
    """The other arguments that are arrays to be read."""
    results: list[Window | None]
    """For each result, what it goes into: `out`, unless all are None."""
    is_tuple: bool
    """Whether `out` is a tuple."""
    passed: dict[str, Any]
    """The other arguments, as they are written."""
    positional: int
    """How many arguments are passed by position."""
    settings: Settings
    """What they mean."""

    def arguments(self):
        """Return the arguments by position and those by keyword, windows into the memory."""
        arrays = [window.of(self.memory) for window in self.operands]
        named = dict(zip(self.function.operands, arrays, strict=True))
        options = dict(self.passed)
        if "axis" in options:
            named["axis"] = options.pop("axis")
        for name, window in self.named.items():
            options[name] = window.of(self.memory)
        if self.is_tuple or any(self.results):
            options["out"] = self.into() if self.is_tuple else self.into()[0]
        by_position = [named.pop(name) for name in list(named)[: self.positional]]
        return by_position, {**named, **options}

    def into(self):
        """Return what each result goes into."""
        return tuple(window and window.of(self.memory) for window in self.results)

    def run(self, fs):
        """Return the results as a tuple."""
        by_position, by_keyword = self.arguments()
        return self.function.call(fs, by_position, **by_keyword)

    @property
    def classes(self):
        """How many there are along the one axis."""
        return self.operands[0].shape[self.settings.axes[0]]

    @property
    def out(self):
        """What the first result goes into."""
        return self.results[0]

    def plain(self):
        """Return copies of the operands, contiguous and cast, and the settings as options."""
        operands = [np.array(window.of(self.memory), order="C") for window in self.operands]
        dtype = self.dtype
        native = [a.dtype.newbyteorder("=") for a in operands]
        native[0] = dtype
        if self.function in GRADIENTS:
            native[1] = dtype
        operands = [cast(a, wanted) for a, wanted in zip(operands, native, strict=True)]
        for name, window in self.named.items():
            setattr(self.settings, name, self._plain_array(name, window.of(self.memory)))
        options = {}
        if self.function.axes == "several":
            options["axis"] = self.settings.axes
        elif self.function.axes == "one":
            (options["axis"],) = self.settings.axes
        for name in {"where", *MEANINGS} & {*self.function.options}:
            options[name] = getattr(self.settings, name)
        if self.settings.b is not None:
            options["dtype"] = dtype
        return operands, options

    def _plain_array(self, name, array):
        """Return an array of full shape; temperatures and weights of the losses are numbers."""
        x = self.operands[0]
        shape = x.shape
        if name == "temperature":
            shape = tuple(1 if d in self.settings.axes else n for d, n in enumerate(shape))
        elif name == "sample_weight":
            shape = reduced(shape, self.settings)
        if name in ("temperature", "sample_weight") and (
            array.dtype.char != "g" or name == "temperature"
        ):
            array = array.astype(float)
        if array.ndim == 0 and name != "where":
            return array[()] if name == "b" else float(array)
        native = array.astype(array.dtype.newbyteorder("="))
        return np.array(np.broadcast_to(native, shape), order="C")

    @property
    def dtype(self):
        """The dtype of the results."""
        b = self.named["b"].dtype if "b" in self.named else self.passed.get("b")
        dtypes = [window.dtype for window in self.operands]
        return computed_dtype(self.function, dtypes, self.passed.get("dtype"), b)

    def __repr__(self):
        return written(self.function.name, *self.arguments())

    def _repr_pretty_(self, printer, _cycle):
        printer.text(repr(self))  # what hypothesis shows


def written(name, by_position, by_keyword):
    """Return a call as it is written, its arrays by where they lie."""
    shown = [_show(value) for value in by_position]
    shown += [f"{name}={_show(value)}" for name, value in by_keyword.items()]
    return f"{name}({', '.join(shown)})"


def _show(value):
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return repr(value)
    text = f"<{value.dtype} {value.shape} strides {value.strides} at {value.ctypes.data % 4096}>"
    return text if value.size > 12 else f"{text}{value.tolist()}"


def cast(array, dtype):
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def computed_dtype(function, dtypes, asked, b=None):
    """Return the dtype of the result; `b` is a number, or the dtype of an array."""
    if asked is not None:
        return np.dtype(asked)
    if function in GRADIENTS:
        return np.result_type(*map(result_dtype, dtypes))
    return result_dtype(np.result_type(dtypes[0], *dtype_of_weights(b)))


def dtype_of_weights(b):
    """Return in a tuple the dtype that weights add to the result's, if they have one."""
    if b is None or type(b) in (int, float):
        return ()
    return (b if isinstance(b, np.dtype) else np.asarray(b).dtype,)


def have_a_common_dtype(*dtypes):
    try:
        np.result_type(*dtypes)
    except TypeError:
        return False
    return True


@st.composite
def shapes(draw, axes):
    extents = draw(SOME_EXTENTS[axes])
    if len(extents) == 1 and draw(st.booleans()):
        extents = [draw(st.integers(0, 300))]
    if axes == "several" and draw(st.integers(0, 50)) == 50:
        extents = [1] * (MOST_DIMENSIONS - len(extents)) + extents
    size = 1
    for d, n in enumerate(extents):
        extents[d] = n if size * n <= MOST_ELEMENTS else 1
        size *= max(1, extents[d])
    return tuple(extents)


@st.composite
def axis_arguments(draw, axes, ndim):
    """Draw `axis` as it is written, and the axes that it means, counted from 0."""
    if axes == "none":
        return OMITTED, ()
    if axes == "last" and ndim:
        return draw(st.sampled_from([OMITTED, -1, ndim - 1])), (ndim - 1,)
    if ndim == 0:
        return draw(st.sampled_from([OMITTED, -1, 0, None, (), np.int64(0)])), ()
    kinds = ["omitted", "int", "negative", "int64"]
    kinds += ["None", "tuple", "tuple", "tuple", "()"] if axes == "several" else []
    kind = draw(st.sampled_from(kinds))
    if kind == "omitted":
        return OMITTED, (ndim - 1,)
    if kind == "None":
        return None, tuple(range(ndim))
    if kind == "()":
        return (), ()
    if kind == "tuple":
        chosen = draw(st.permutations(range(ndim)))[: draw(st.integers(1, ndim))]
        written = tuple(d - ndim if draw(st.booleans()) else d for d in chosen)
        return written, tuple(sorted(chosen))
    d = draw(st.integers(0, ndim - 1))
    return {"int": d, "negative": d - ndim, "int64": np.int64(d)}[kind], (d,)


@st.composite
def windows(draw, dtype, shape, *, is_plain, any_order=True, may_repeat=True):
    """Draw an array's dtype, in either byte order, and its strides, some of them 0."""
    if is_plain:
        order = reversed(range(len(shape)))
        return Window(dtype, shape, _nested(shape, dtype.itemsize, order, [1] * len(shape)))
    if any_order and dtype not in HALF[1:] and draw(SELDOM):
        dtype = dtype.newbyteorder()
    return Window(dtype, shape, draw(strides_of(shape, dtype.itemsize, may_repeat)))


@st.composite
def narrower_shapes(draw, shape):
    """Draw a shape that broadcasts to another."""
    narrowed = [1 if draw(SELDOM) else n for n in shape]
    return tuple(narrowed[draw(st.sampled_from([0, 0, 0, 1, len(shape)])) :])


@st.composite
def second_operands(draw, function, shape, settings, first, rng):
    """Draw gradients' outputs, labels of either kind or row pointers."""
    if function is ENTROPY_OF_LABELS:
        (axis,) = settings.axes
        least = shape[axis] - 1
        dtype = draw(st.sampled_from([d for d in INTEGERS if np.iinfo(d).max >= least]))
        rows = tuple(n for d, n in enumerate(shape) if d != axis)
        labels = rng.integers(0, least + 1, rows).astype(dtype)
        ignored = settings.ignore_index
        if ignored is not None and np.iinfo(dtype).min <= ignored <= np.iinfo(dtype).max:
            labels = np.where(rng.random(rows) < 0.3, dtype.type(ignored), labels)
        return labels
    if function in SEGMENTS:
        fitting = [d for d in INTEGERS if np.iinfo(d).max >= shape[0]]
        return row_pointers(rng, shape[0]).astype(draw(st.sampled_from(fitting)))
    own = draw(ANY_DTYPE) if draw(SELDOM) else first
    if {own, first} == set(HALF):  # which have no common dtype
        own = first
    if function is ENTROPY_OF_TARGETS:
        own = own if own.kind not in "biu" else SINGLE
        kinds = ["from 0 to 1"] * 4 + ["specials"]
    else:
        usual = "from 0 to 1" if function is SOFTMAX_BACKWARD else "logarithms"
        kinds = [usual] * 3 + list(FLOAT_VALUES)
    return content(rng, draw(st.sampled_from(kinds)), shape, own)


def settings_of(axes, passed):
    """Return what the options that are passed mean."""
    settings = Settings(axes)
    for name, of in MEANINGS.items():
        if passed.get(name, OMITTED) is not OMITTED:
            setattr(settings, name, of(passed[name]))
    return settings


ARRAY_OPTIONS = ("where", "temperature", "sample_weight", "b")


@st.composite
def array_options(draw, function, shape, settings, dtype, rng, *, is_plain):
    """Draw options that are arrays: what they hold, by name."""
    arrays = {}
    options = {*function.options} - ({"temperature"} if function in SEGMENTS else set())
    for name in ARRAY_OPTIONS:
        if name not in options or not draw(SELDOM if is_plain else SOMETIMES):
            continue
        if name == "where":
            kept = draw(st.sampled_from([0, 0.3, 0.7, 1]))
            arrays[name] = rng.random(draw(narrower_shapes(shape))) < kept
            continue
        of = shape
        if name == "temperature":
            of = tuple(1 if d in settings.axes else n for d, n in enumerate(shape))
        elif name == "sample_weight":
            of = reduced(shape, settings)
        own = draw(ANY_DTYPE)
        if name == "b" and (draw(st.booleans()) or not have_a_common_dtype(own, dtype)):
            own = dtype
        fill = rates if name == "temperature" else factors
        arrays[name] = fill(rng, draw(narrower_shapes(of)), own)
    return arrays


@st.composite
def result_windows(draw, function, shapes, dtype, *, is_plain):
    """Draw what the results go into, of these shapes, and whether it is a tuple."""
    if draw(SELDOM):
        return [None] * len(shapes), False

    def window_of(shape):
        return draw(windows(dtype, shape, is_plain=is_plain, any_order=False, may_repeat=False))

    if function not in ENTROPIES or draw(st.booleans()):
        return [window_of(shapes[0]), *[None] * (len(shapes) - 1)], False
    return [None if shape is None or draw(SELDOM) else window_of(shape) for shape in shapes], True


@st.composite
def calls(draw):
    """Draw a valid call of any function: a plain one, as most are, or one of any kind."""
    is_plain = draw(st.booleans())
    function = draw(ANY_FUNCTION)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    shape = draw(shapes(function.axes))
    axis, axes = draw(
        axis_arguments(
            "last" if is_plain and function.axes != "none" else function.axes, len(shape)
        )
    )
    if function is ENTROPY_OF_LABELS and shape[axes[0]] == 0:  # no class can be named
        shape = tuple(n or 1 for n in shape)
    passed = {
        name: draw(values)
        for name, values in SPELLED[function].items()
        if not is_plain or draw(SELDOM)
    }
    settings = settings_of(axes, passed)
    passed["axis"] = axis

    dtype = draw(st.sampled_from([SINGLE, DOUBLE]) if is_plain else ANY_DTYPE)
    contents = [content(rng, draw(ANY_VALUES), shape, dtype)]
    if len(function.operands) > 1:
        contents.append(draw(second_operands(function, shape, settings, dtype, rng)))
    if not is_plain and "where" in function.options:
        passed["where"] = draw(st.sampled_from([OMITTED, None, True, np.True_]))
    arrays = draw(array_options(function, shape, settings, dtype, rng, is_plain=is_plain))
    passed = {
        name: value for name, value in passed.items() if value is not OMITTED and name not in arrays
    }
    if "b" not in passed or not have_a_common_dtype(dtype, *dtype_of_weights(passed["b"])):
        passed.pop("b", None)
        settings.b = None
    may_repeat = [name != "indptr" for name in function.operands]
    operands = [
        draw(windows(a.dtype, a.shape, is_plain=is_plain, may_repeat=may))
        for a, may in zip(contents, may_repeat, strict=True)
    ]
    named = {name: draw(windows(a.dtype, a.shape, is_plain=is_plain)) for name, a in arrays.items()}
    results: list[Window | None] = [None]
    call = Call(function, None, operands, named, results, False, passed, 0, settings)
    if "out" in function.options:
        of = [shape if function.keeps_shape else reduced(shape, settings)]
        if function is SEGMENT_LOGSUMEXP:
            of = [(len(contents[1]) - 1, *shape[1:])]
        if settings.return_grad:
            of.append(shape)
        if function in ENTROPIES and len(of) == 1:
            of.append(None)
        call.results, call.is_tuple = draw(
            result_windows(function, of, call.dtype, is_plain=is_plain)
        )
    call.positional = draw(st.integers(0, len(function.operands) + ("axis" in passed)))
    _lay_out(call, [*contents, *arrays.values()], rng, is_plain=is_plain)
    return call


def _lay_out(call, contents, rng, *, is_plain):
    """Give a call's arrays their places in one memory, which they are written to."""
    filled = [*call.operands, *call.named.values()]
    given = [window for window in call.results if window is not None]
    how = [any_place(rng, is_plain=is_plain) for _ in (*filled, *given)]
    if call.settings.return_grad and call.results[-1] is not None and rng.random() < 0.5:
        how[-1] = Place("same", 0, 0, is_odd=False, part=0)  # the gradient where the logits are
    for attempt in (how, [APART] * len(how)):
        call.memory = arrange([*filled, *given], attempt)
        call.memory[...] = rng.integers(0, 256, call.memory.size, np.uint8)
        for window, values in zip(filled, contents, strict=True):
            window.of(call.memory)[...] = values
        arrays = [window.of(call.memory) for window in call.operands]
        named = {name: window.of(call.memory) for name, window in call.named.items()}
        results = [window and window.of(call.memory) for window in call.results]
        if is_sound(call.function, arrays, named, results, call.settings):
            return
    raise AssertionError(f"{call!r} is no valid call")
