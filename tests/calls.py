"""Any valid call of any public function, for hypothesis to draw.

All arrays of a call are windows into one memory, so that any two of them may overlap in any way:
the operands, the mask and `out` alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from functions import (
    ENTROPY_OF_LABELS,
    ENTROPY_OF_TARGETS,
    FUNCTIONS,
    GRADIENTS,
    SEGMENT_SOFTMAX,
    SOFTMAX_BACKWARD,
    Function,
)
from hypothesis import strategies as st

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
    "dtype": [*[OMITTED] * 6, None, np.float32, np.dtype(np.float64), "float64", float, "f2", "g"],
    "workers": [*[OMITTED] * 3, None, 1, 2, np.int64(2), -1],
}
"""The values that an option may have, in every way to write them."""
MEANINGS = {
    "temperature": float,
    "label_smoothing": float,
    "keepdims": bool,
    "return_grad": bool,
}


def result_dtype(dtype):
    """Return the dtype of the result of an operand."""
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype.newbyteorder("=")


# Made once, since making a strategy takes longer than a draw from it.
SELDOM = st.sampled_from([False] * 4 + [True])
SPELLED = {name: st.sampled_from(values) for name, values in SPELLINGS.items()}
ANY_DTYPE = st.sampled_from(DTYPES)
ANY_FUNCTION = st.sampled_from(FUNCTIONS)
SOME_EXTENTS = {
    axes: st.lists(st.sampled_from(EXTENTS), min_size=least, max_size=most)
    for axes, least, most in (("none", 1, 1), ("one", 1, 4), ("several", 0, 4))
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


def is_sound(function, arrays, mask, axes):
    """Whether labels, pointers and booleans are what they must be, after all has been written."""
    for array in (*arrays, *([] if mask is None else [mask])):
        if array.dtype.kind == "b" and np.any(array.view(np.uint8) > 1):
            return False
    if function is ENTROPY_OF_LABELS:
        logits, labels = arrays
        return bool(np.all((labels >= 0) & (labels < logits.shape[axes[0]])))
    if function is SEGMENT_SOFTMAX:
        data, indptr = arrays
        rises = np.all(indptr[1:] >= indptr[:-1])
        return bool(rises and indptr[0] == 0 and indptr[-1] == len(data))
    return True


# ---- a call ----


@dataclass(eq=False)
class Call:
    """A valid call: what is passed, and what that means."""

    function: Function
    memory: np.ndarray
    operands: list[Window]
    mask: Window | None
    out: Window | None
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
        if self.mask is not None:
            options["where"] = self.mask.of(self.memory)
        if self.out is not None:
            options["out"] = self.out.of(self.memory)
        by_position = [named.pop(name) for name in list(named)[: self.positional]]
        return by_position, {**named, **options}

    def run(self, fs):
        """Return the results as a tuple."""
        by_position, by_keyword = self.arguments()
        return self.function.call(fs, by_position, **by_keyword)

    @property
    def classes(self):
        """How many there are along the one axis."""
        return self.operands[0].shape[self.settings.axes[0]]

    def plain(self):
        """Return copies of the operands, contiguous and cast, and the settings as options."""
        operands = [np.array(window.of(self.memory), order="C") for window in self.operands]
        dtype = computed_dtype(self.function, [a.dtype for a in operands], self.passed.get("dtype"))
        native = [a.dtype.newbyteorder("=") for a in operands]
        native[0] = dtype
        if self.function in GRADIENTS:
            native[1] = dtype
        operands = [cast(a, wanted) for a, wanted in zip(operands, native, strict=True)]
        if self.mask is not None:
            mask = self.mask.of(self.memory)
            self.settings.where = np.array(np.broadcast_to(mask, operands[0].shape), order="C")
        options = {}
        if self.function.axes == "several":
            options["axis"] = self.settings.axes
        elif self.function.axes == "one":
            (options["axis"],) = self.settings.axes
        for name in ("where", "temperature", "label_smoothing", "keepdims", "return_grad"):
            if name in self.function.options:
                options[name] = getattr(self.settings, name)
        return operands, options

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


def computed_dtype(function, dtypes, asked):
    """Return the dtype of the result."""
    if asked is not None:
        return np.dtype(asked)
    if function in GRADIENTS:
        return np.result_type(*map(result_dtype, dtypes))
    return result_dtype(dtypes[0])


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
def mask_shapes(draw, shape):
    """Draw a shape that broadcasts to another."""
    narrowed = [1 if draw(SELDOM) else n for n in shape]
    return tuple(narrowed[draw(st.sampled_from([0, 0, 0, 1, len(shape)])) :])


@st.composite
def second_operands(draw, function, shape, axes, first, rng):
    """Draw gradients' outputs, labels of either kind or row pointers."""
    if function is ENTROPY_OF_LABELS:
        least = shape[axes[0]] - 1
        dtype = draw(st.sampled_from([d for d in INTEGERS if np.iinfo(d).max >= least]))
        rows = tuple(n for d, n in enumerate(shape) if d != axes[0])
        return rng.integers(0, least + 1, rows).astype(dtype)
    if function is SEGMENT_SOFTMAX:
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
    spelled = [name for name in function.options if name in SPELLINGS]
    passed = {name: draw(SPELLED[name]) for name in spelled if not is_plain or draw(SELDOM)}
    settings = settings_of(axes, passed)
    passed["axis"] = axis

    dtype = draw(st.sampled_from([SINGLE, DOUBLE]) if is_plain else ANY_DTYPE)
    contents = [content(rng, draw(ANY_VALUES), shape, dtype)]
    if len(function.operands) > 1:
        contents.append(draw(second_operands(function, shape, axes, dtype, rng)))
    may_repeat = function is not SEGMENT_SOFTMAX
    operands = [
        draw(windows(a.dtype, a.shape, is_plain=is_plain, may_repeat=may_repeat)) for a in contents
    ]
    mask = out = None
    if "where" in function.options and not is_plain:
        passed["where"] = draw(st.sampled_from([OMITTED, None, True, np.True_, ..., ..., ..., ...]))
        if passed["where"] is ...:
            del passed["where"]
            mask = draw(windows(np.dtype(bool), draw(mask_shapes(shape)), is_plain=False))
            contents.append(rng.random(mask.shape) < draw(st.sampled_from([0, 0.3, 0.7, 1])))
    passed = {name: value for name, value in passed.items() if value is not OMITTED}
    if "out" in function.options and not draw(SELDOM):
        result = computed_dtype(function, [w.dtype for w in operands], passed.get("dtype"))
        of = shape if function.keeps_shape else reduced(shape, settings)
        out = draw(windows(result, of, is_plain=is_plain, any_order=False, may_repeat=False))

    filled = [*operands, *([mask] if mask else [])]
    listed = [*filled, *([out] if out else [])]
    how = [any_place(rng, is_plain=is_plain) for _ in listed]
    for attempt in (how, [APART] * len(listed)):
        memory = arrange(listed, attempt)
        memory[...] = rng.integers(0, 256, memory.size, np.uint8)
        for window, values in zip(filled, contents, strict=True):
            window.of(memory)[...] = values
        arrays = [window.of(memory) for window in operands]
        if is_sound(function, arrays, mask.of(memory) if mask else None, axes):
            break
    positional = draw(st.integers(0, len(function.operands) + ("axis" in passed)))
    return Call(function, memory, operands, mask, out, passed, positional, settings)
