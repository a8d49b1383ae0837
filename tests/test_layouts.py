"""Any layout gives what the contiguous row gives, on the kernels to the bit, and writes no more."""

import itertools
import math

import numpy as np
import pytest
from functions import CALLS
from functions import FUNCTIONS as ALL

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
OVER_SEVERAL_AXES = [function for function in ALL if function.axes == "several"]
SHAPE = (5, 7, 33)
AXES = [-1, 0, 1, -2, None, (0, 1), (1, 2), (0, 2), (2, 0), (0, 1, 2), ()]
CANARY = 0xA5


def data(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(0, 5, shape).astype(dtype)


def same(fs, got, expected):
    """Assert equal bits on the kernels, and what rounding allows on NumPy."""
    assert got.dtype == expected.dtype
    if fs.name == "numpy":
        tolerance = 4 * np.finfo(expected.dtype).eps
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(got, expected)


def by_rows(fs, function, x, y, axis):
    """Return a result computed row by row from contiguous copies."""
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis).astype(int) % x.ndim
    axes = sorted(axes)
    order = [*(d for d in range(x.ndim) if d not in axes), *axes]
    lead = x.ndim - len(axes)
    moved = [np.ascontiguousarray(a.transpose(order)) for a in (x, y)]
    shape = moved[0].shape
    rows = [a.reshape(math.prod(shape[:lead]), -1) for a in moved]
    results = np.array(
        [
            function.call(fs, function.from_rows(row.copy(), other.copy(), -1))[0]
            for row, other in zip(*rows, strict=True)
        ]
    )
    if not function.keeps_shape:
        return results.reshape(shape[:lead])
    return results.reshape(shape).transpose(np.argsort(order))


def variants(x):
    """Yield arrays equal to x in other layouts."""
    yield "C", x.copy()
    yield "Fortran", x.copy(order="F")
    for order in itertools.permutations(range(x.ndim)):
        copy = x.transpose(order).copy()
        yield f"order {order}", copy.transpose(np.argsort(order))
    reverse = (slice(None, None, -1),) * x.ndim
    yield "reversed", x[reverse].copy()[reverse]
    gaps = np.zeros([3 * n for n in x.shape], x.dtype)
    gaps[(slice(None, None, 3),) * x.ndim] = x
    yield "every third", gaps[(slice(None, None, 3),) * x.ndim]
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    unaligned = raw.view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    yield "unaligned", unaligned
    yield "swapped", x.astype(x.dtype.newbyteorder())


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("function", OVER_SEVERAL_AXES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_any_axis_and_layout_has_the_values_of_the_contiguous_row(fs, dtype, function, axis):
    x, y = data(SHAPE, dtype), data(SHAPE, dtype, seed=1)
    expected = by_rows(fs, function, x, y, axis)
    for (_, array), (_, other) in zip(variants(x), variants(y), strict=True):
        (got,) = function.call(fs, function.from_rows(array, other, -1), axis=axis)
        same(fs, got, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1000, 300), (3, 700, 40), (2, 21, 16, 16), (4, 100, 3)])
def test_middle_and_first_axes_of_larger_arrays(native_fs, dtype, name, shape):
    x = data(shape, dtype)
    for axis in range(x.ndim - 1):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        expected = getattr(native_fs, name)(moved)
        if name != "logsumexp":
            expected = np.moveaxis(expected, -1, axis)
        np.testing.assert_array_equal(getattr(native_fs, name)(x, axis), expected)


# (indices before, elements of a row, rows behind): rows that fill a line or do not, of one strip
# or several.
FEW_BEHIND = [
    *((40, 7, 8), (33, 7, 7), (70, 2, 2), (33, 21, 3), (19, 10, 6), (9, 40, 15), (5, 70, 17)),
    *((4, 130, 5), (3, 200, 9), (2, 3, 31)),
]


@pytest.mark.parametrize("function", [f for f in CALLS if f.axes != "none"], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_few_rows_behind_the_axis_have_the_bits_of_contiguous_rows(native_fs, dtype, function):
    """Strips of several indices: also where kernels do not take some of their rows in blocks."""
    for shape in FEW_BEHIND:
        rng = np.random.default_rng(0)
        plain, y = rng.normal(0, 5, shape).astype(dtype), rng.random(shape).astype(dtype)
        rare = plain.copy()
        rare[0, 1, 1], rare[1, 0, 0], rare[-1, :, -1] = np.nan, 6e4, -np.inf
        for x in (plain, rare):
            rows = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, y)]
            expected = np.moveaxis(function.of_rows(native_fs, *rows), -1, 1)
            for mine, other in ((x, y), (np.repeat(x, 2, 0)[::2], y[::-1].copy()[::-1])):
                got = function.of_rows(native_fs, mine, other, axis=1)
                np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("function", [f for f in CALLS if f.axes != "none"], ids=str)
@pytest.mark.parametrize("shape", [(2500, 7, 8), (30, 5, 400, 3), (700, 40, 5)], ids=str)
def test_few_rows_behind_the_axis_by_two_workers(native_fs, shape, function):
    """Parts may begin and end within what would be one strip; indices may have two steps."""
    rng = np.random.default_rng(0)
    x, y = (np.moveaxis(rng.random(shape), 1, -2).astype(np.float32) for _ in range(2))
    rows = [np.ascontiguousarray(np.moveaxis(a, -2, -1)) for a in (x, y)]
    expected = np.moveaxis(function.of_rows(native_fs, *rows), -1, -2)
    got = function.of_rows(native_fs, x, y, axis=-2, workers=2)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "function", [f for f in CALLS if f.keeps_shape and f.axes != "none"], ids=str
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(40, 7, 8), (9, 40, 3), (19, 10, 6)], ids=str)
def test_few_rows_behind_the_axis_write_their_results_and_nothing_else(
    native_fs, shape, dtype, function
):
    """In place, over a part of an operand, beside gaps between the rows, to another layout."""
    x, y = data(shape, dtype), np.random.default_rng(1).random(shape).astype(dtype)
    options = {"axis": 1, **function.given(y, 1)}
    operands = function.from_rows(x, y, 1)
    (expected,) = function.call(native_fs, operands, **options)
    for which in range(len(operands)):
        for shift in (0, 1, -3, shape[2], -x.size // 2):
            buffer = np.zeros(3 * x.size, dtype)
            moved = list(operands)
            moved[which] = buffer[x.size : 2 * x.size].reshape(shape)
            moved[which][...] = operands[which]
            out = buffer[x.size + shift : 2 * x.size + shift].reshape(shape)
            function.call(native_fs, moved, out=out, **options)
            np.testing.assert_array_equal(out, expected)
    first, n, last = shape
    memory = np.full((first + 2, n + 1, last + 1), 7, dtype)
    out = memory[1:-1, :-1, :-1]
    function.call(native_fs, operands, out=out, **options)
    np.testing.assert_array_equal(out, expected)
    out[...] = 7
    assert np.all(memory == 7)
    for out in (np.zeros(shape, dtype, "F"), np.zeros((first, last, n), dtype).swapaxes(1, 2)):
        function.call(native_fs, operands, out=out, **options)
        np.testing.assert_array_equal(out, expected)


def uneven(a):
    """Return an equal array whose last axis has a gap: no one step leads through the last two."""
    memory = np.zeros((*a.shape[:-1], a.shape[-1] + 1), a.dtype)
    memory[..., :-1] = a
    return memory[..., :-1]


@pytest.mark.parametrize("function", [f for f in CALLS if f.axes != "none"], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_few_rows_behind_the_axis_with_uneven_steps(native_fs, dtype, function):
    """Of what is one a row, operands and results; and of rows that lie contiguous."""
    shape = (40, 7, 8)
    x, y = data(shape, dtype), np.random.default_rng(1).random(shape).astype(dtype)
    rows = [np.ascontiguousarray(a.swapaxes(1, 2)) for a in (x, y)]
    expected = function.of_rows(native_fs, *rows).swapaxes(1, 2)
    operands = [uneven(a) for a in function.from_rows(x, y, 1)]
    options = {"axis": 1, **function.given(y, 1)}
    for name, option in options.items():
        if isinstance(option, np.ndarray):
            options[name] = uneven(option)
    if "return_grad" in function.options:
        options["return_grad"] = True
    results = function.call(native_fs, operands, **options)
    np.testing.assert_array_equal(function.joined(results, x, 1), expected)
    if "return_sign" not in options:  # which has no buffer
        out = tuple(uneven(result) for result in results)
        function.call(native_fs, operands, out=out if len(out) > 1 else out[0], **options)
        np.testing.assert_array_equal(function.joined(out, x, 1), expected)
    for which, a in enumerate(operands):
        if a.shape == shape:  # contiguous rows, 8 of each 9
            memory = np.zeros((40, 9, 7), a.dtype)
            memory[:, :-1] = a.swapaxes(1, 2)
            operands[which] = memory[:, :-1].swapaxes(1, 2)
    results = function.call(native_fs, operands, **options)
    np.testing.assert_array_equal(function.joined(results, x, 1), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_broadcast_input(fs, name):
    row = data(33, np.float32)
    for x, axis in (
        (np.broadcast_to(row, (6, 33)), -1),
        (np.broadcast_to(row[:, None], (33, 6)), 0),
        (np.broadcast_to(np.float32(2), (5, 6)), -1),
    ):
        same(fs, getattr(fs, name)(x, axis), getattr(fs, name)(x.copy(), axis))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1, None, (0, 2)])
def test_in_place_and_into_any_layout(fs, name, axis):
    x = data(SHAPE, np.float32)
    expected = getattr(fs, name)(x, axis)
    for label, array in variants(x):
        if label == "swapped":
            continue  # is no output: results are native
        out = array[...]
        assert getattr(fs, name)(x, axis, out=out) is out
        same(fs, out, expected)
        array[...] = x
        assert getattr(fs, name)(array, axis, out=array) is array
        same(fs, array, expected)


@pytest.mark.parametrize("function", [f for f in CALLS if f.keeps_shape], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_partial_overlap_goes_through_a_temporary(fs, function, dtype):
    """Of `out` with each operand, by one element to all but one."""
    x, y = data((5, 33), dtype), data((5, 33), dtype, seed=1)
    operands, options = function.from_rows(x, y, -1), function.given(y)
    (expected,) = function.call(fs, operands, **options)
    for which, operand in enumerate(operands):
        for shift in (1, 5, 33, 40, 82, 83, 100, 164) if operand.shape == expected.shape else ():
            for sign in (-1, 1):
                buffer = np.zeros(3 * 165, dtype)
                start = 165 + sign * shift
                overlapped = list(operands)
                overlapped[which] = buffer[165:330].reshape(operand.shape)
                overlapped[which][...] = operand
                out = buffer[start : start + 165].reshape(operand.shape)
                assert function.call(fs, overlapped, out=out, **options)[0] is out
                same(fs, out, expected)


def test_overlaps_of_other_kinds(fs):
    x = data((150, 150), np.float32)  # several strips
    expected = fs.softmax(x.copy())
    square = x.copy()
    same(fs, fs.softmax(square, out=square.T), expected)
    backwards = x.copy()
    same(fs, fs.softmax(backwards, out=backwards[::-1]), expected)
    for view in (np.transpose, np.flipud, np.fliplr):  # of memory that is the output's own
        out = x.copy()
        same(fs, fs.softmax(view(out), out=out), fs.softmax(view(x).copy()))
    column = x.copy()
    total = fs.logsumexp(x.copy())
    same(fs, fs.logsumexp(column, out=column[:, 3]), total)
    mask = np.zeros((150, 600), bool)
    mask[:, :150] = x > 0
    wanted = fs.softmax(x, where=mask[:, :150].copy())
    same(fs, fs.softmax(x, where=mask[:, :150], out=mask.view(np.float32)), wanted)


@pytest.mark.parametrize("function", [f for f in ALL if "where" in f.options], ids=str)
@pytest.mark.parametrize("axis", [-1, 0])
def test_the_mask_may_lie_where_the_result_goes(fs, function, axis):
    """A result is many bytes of the mask, whose later rows must have been read before."""
    x = np.moveaxis(data((4000, 7), np.float64), -1, axis)
    kept = x > -3
    operands = function.make(x.shape, np.float64, np.random.default_rng(2), axis)
    operands = (x, *operands[1:])
    (expected,) = function.call(fs, operands, axis=axis, where=kept)
    memory = np.zeros(20 * x.size, np.uint8)
    start = 8 * x.size
    for shift in (-8 * x.size + 64, -320, 0, 400, 1000, 8000):
        mask = memory[start : start + x.size].view(bool).reshape(kept.shape)
        mask[...] = kept
        place = slice(start + shift, start + shift + expected.nbytes)
        out = memory[place].view(np.float64).reshape(expected.shape)
        function.call(fs, operands, axis=axis, where=mask, out=out)
        same(fs, out, expected)


def test_row_pointers_may_lie_where_the_result_goes(fs):
    pointers = np.arange(0, 3001, 6)
    x = data(3000, np.float64)
    expected = fs.segment_softmax(x, pointers)
    memory = np.zeros(4000)
    for start in (0, 100, 2600, 3499):  # of the pointers, before the result, or under it
        indptr = memory[start : start + pointers.size].view(np.int64)
        indptr[...] = pointers
        out = memory[500:3500]
        assert fs.segment_softmax(x, indptr, out=out) is out
        same(fs, out, expected)


MASKS = [(), (1,), (33,), (7, 1), (7, 33), (1, 33), (5, 1, 1), (5, 7, 1), (5, 1, 33), (1, 7, 33)]


@pytest.mark.parametrize("function", [f for f in ALL if "where" in f.options], ids=str)
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_a_mask_of_any_shape_that_broadcasts_is_one_of_the_full_shape(fs, function, shape):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < 0.6
    full = np.broadcast_to(mask, SHAPE).copy()
    operands = function.make(SHAPE, np.float32, rng)
    for axis in AXES if function.axes == "several" else [-1]:
        (expected,) = function.call(fs, operands, axis=axis, where=full)
        for where in (np.array(mask), np.asfortranarray(mask), np.broadcast_to(mask, SHAPE)):
            same(fs, function.call(fs, operands, axis=axis, where=where)[0], expected)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_length_at_every_offset_writes_its_rows_and_nothing_else(native_fs, name, dtype):
    size = np.dtype(dtype).itemsize
    function = getattr(native_fs, name)
    for n in range(1, 301):
        x = data((3, n), dtype, seed=n)
        expected = np.array([function(row.copy()) for row in x])
        for offset in range(0, 64, size if n < 80 else 20):
            memory = np.full(64 + offset + x.nbytes + 128, CANARY, np.uint8)
            start = -memory.ctypes.data % 64 + offset
            raw = memory[start : start + x.nbytes]
            if raw.ctypes.data % size:
                continue
            out = raw.view(dtype).reshape(x.shape)
            function(x, out=out)
            np.testing.assert_array_equal(out, expected)
            assert np.all(memory[:start] == CANARY)
            assert np.all(memory[start + x.nbytes :] == CANARY)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gaps_of_a_strided_output_stay(fs, name, axis):
    x = data((9, 37), np.float32)
    memory = np.full((18, 74), 7, np.float32)
    getattr(fs, name)(x, axis, out=memory[::2, 1::2])
    same(fs, memory[::2, 1::2], getattr(fs, name)(x, axis))
    assert np.all(memory[1::2] == 7)
    assert np.all(memory[:, ::2] == 7)


@pytest.mark.parametrize("function", CALLS, ids=str)
def test_the_operands_are_never_written(fs, function):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 5, (50, 40)), rng.random((50, 40))
    for axis in (-1, 0):
        operands = function.from_rows(x, y, axis)
        before = [operand.copy() for operand in operands]
        for operand in operands:
            operand.flags.writeable = False
        options = {"axis": axis} if function.axes != "none" else {}
        function.call(fs, operands, **options, **function.given(y, axis))
        for operand, held in zip(operands, before, strict=True):
            np.testing.assert_array_equal(operand, held)


def test_keepdims(fs):
    x = data(SHAPE, np.float64)
    for axis in AXES:
        if axis == ():
            continue
        flat = fs.logsumexp(x, axis)
        kept = fs.logsumexp(x, axis, keepdims=True)
        assert kept.shape == np.sum(x, axis=axis, keepdims=True).shape
        assert np.shape(flat) == np.shape(np.sum(x, axis=axis))
        np.testing.assert_array_equal(kept.ravel(), np.ravel(flat))


@pytest.mark.parametrize("n", [1, 2, 10, 100, 255, 256])
@pytest.mark.parametrize("dtype", ["f2", "i1", "i8", ">f4", ">f8", "f4 masked"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_that_are_converted_together_have_the_bits_of_each_alone(native_fs, name, dtype, n):
    """They are one run of elements in the scratch where they are one in memory."""
    function, (dtype, *masked) = getattr(native_fs, name), dtype.split()
    rows = 1100 // n + 90  # more than a strip
    wide = data((rows, n + 3), np.float64).astype(dtype)
    mask = np.random.default_rng(1).random(wide.shape) < 0.7
    out_dtype = function(wide[0]).dtype
    for cut in (slice(0, n), slice(3, None)):
        for layout in (np.ascontiguousarray, np.asarray, np.asfortranarray):
            x, where = layout(wide[:, cut]), layout(mask[:, cut])
            options = [{"where": w} if masked else {} for w in where]
            expected = np.array([function(r, **o) for r, o in zip(x, options, strict=True)])
            given = {"where": where} if masked else {}
            np.testing.assert_array_equal(function(x, **given), expected)
            if name != "logsumexp":
                out = np.empty((rows, n + 5), out_dtype)[:, 2:-3]
                np.testing.assert_array_equal(function(x, out=out, **given), expected)


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(np.float32, 1e-6), pytest.param(np.float64, 4e-15, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("function", CALLS, ids=str)
def test_rows_that_are_computed_in_pieces(native_fs, numpy_fs, function, dtype, rtol):
    """Kernels have loops of their own for rows of more than 2**18 elements."""
    n = (1 << 18) + 1003
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (2, n)), rng.random((2, n))
    x[1, 7] = 60.0  # beside which all others are small
    rows = [x, -y, 1e4 * x]
    for place, value in ((5, np.nan), (n - 1, np.inf), (slice(None), -np.inf)):
        rows.append(x.copy())
        rows[-1][0, place] = value
    for values in rows:
        operands = values.astype(dtype), y.astype(dtype)
        got = function.of_rows(native_fs, *operands)
        expected = function.of_rows(numpy_fs, *operands)
        scale = np.max(np.abs(expected[np.isfinite(expected)]), initial=0)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * float(scale) * 1e-3)
