"""One bit pattern for every instruction set, layout, batch, number of workers, control register.

The golden hashes are in golden.json, one for each function and dtype. After a change of the kernels
that is meant to change bits, write them anew with

    python tests/test_bits.py
"""

import ctypes
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from functions import CALLS, GRADIENTS, LOG_SOFTMAX, SOFTMAX
from golden_rows import (
    DTYPES,
    ENTROPY,
    FUNCTIONS,
    LONG,
    UNSIGNED,
    WEIGHTED,
    Source,
    records,
    thresholds,
)
from toolchain import KERNELS, ON_X86, PROGRAMS, STRICT, compile_program, need, run

from fastsoftmax import _api, _backend

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

GOLDEN = Path(__file__).with_name("golden.json")


def slowly(*values):
    """Return parameters of slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def rows():
    return records()


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


# ---- the golden hashes ----


def result_bytes(fs, record):
    """Return the bytes that a record's result has by the public functions."""
    x, second = record.x, record.second
    if record.dtype == "bfloat16":
        x = x.view(ml_dtypes.bfloat16)
        second = None if second is None else second.view(ml_dtypes.bfloat16)
    options = {} if record.temperature == 1 else {"temperature": record.temperature}
    if record.function in ENTROPY:
        options |= {"label_smoothing": record.smoothing, "sample_weight": record.weight}
        results = fs.softmax_cross_entropy(x, second, return_grad=True, **options)
    elif record.function == WEIGHTED:
        results = fs.logsumexp(x, b=second, return_sign=True)
    else:
        operands = [x] if second is None else [x, second]
        results = [getattr(fs, record.function)(*operands, **options)]
    return b"".join(result.tobytes() for result in results)


def hashes_of(fs, rows):
    found = {}
    for record in rows:
        if record.dtype != "bfloat16" or ml_dtypes:
            found.setdefault(record.key, hashlib.sha256()).update(result_bytes(fs, record))
    return {key: value.hexdigest() for key, value in found.items()}


def hashes_of_program(command, rows):
    """Return the hashes of what tests/c/bits.c computes from the same rows."""
    operands = [[r.header, r.x, *([] if r.second is None else [r.second])] for r in rows]
    source = b"".join(bytes(part) for record in operands for part in record)
    output = memoryview(run(*command, input=source))
    found = {}
    for record in rows:
        part, output = output[: record.result_size], output[record.result_size :]
        found.setdefault(record.key, hashlib.sha256()).update(part)
    assert not output
    return {key: value.hexdigest() for key, value in found.items()}


def test_the_golden_hashes_cover_every_function_and_dtype(rows, golden):
    assert list(golden) == list(dict.fromkeys(record.key for record in rows))
    expected = {f"{f} {d}" for f in FUNCTIONS for d in DTYPES}
    expected |= {f"{f} {d}" for f in ENTROPY for d in DTYPES[:2]}
    families = {f"{key} {family}" for key in expected for family in ("thresholds", "cuts")}
    wide = (f"{f} {d}" for f in (*FUNCTIONS, *ENTROPY) for d in DTYPES[:2])
    families |= {f"{key} borders" for key in wide} | {f"{WEIGHTED} {d} weighted" for d in DTYPES}
    families |= {f"{f} {d} weighted" for f in ENTROPY for d in DTYPES[:2]}
    families |= {f"{f} {d} long" for f in LONG for d in DTYPES[:2]}
    assert expected | families == set(golden)


def test_every_nan_is_the_canonical_one(native_fs, rows):
    canonical = {"float32": 0x7FC00000, "float64": 0x7FF8 << 48, "float16": 0x7E00}
    for record in rows:
        if record.dtype in canonical:
            bits = np.frombuffer(result_bytes(native_fs, record), UNSIGNED[record.dtype])
            wrong = np.isnan(bits.view(record.dtype)) & (bits != canonical[record.dtype])
            assert not wrong.any(), (record.key, record.x.shape, hex(bits[wrong][0]))


@pytest.mark.every_backend
def test_every_instruction_set_gives_the_golden_bits(native_fs, rows, golden):
    found = hashes_of(native_fs, rows)
    assert found == {key: golden[key] for key in found}


HERE = _backend.INSTRUCTION_SETS
WASM = (sys.executable, PROGRAMS / "wasm.py")
ZIG = "python-zig cc -O1 -Wno-pass-failed -target"  # at -O1 loops have no vectors, as clang warns
# A compiler with options; what runs its programs, None where nothing can; kernels that must run.
BUILDS = {
    # The extension is usually gcc's own, at another level of optimisation. At -O1 gcc has fewer
    # warnings: -O2 here and for the other processor with kernels of its own.
    "gcc": ("gcc -O2", (), HERE),
    "clang": ("clang -O2", (), HERE),
}
if ON_X86:
    BUILDS |= {
        "musl": ("musl-gcc -O1 -static", (), HERE[:-1]),
        "aarch64": ("aarch64-linux-gnu-gcc -O2 -static", ("qemu-aarch64",), ("neon", "generic")),
        "armhf": ("arm-linux-gnueabihf-gcc -O1 -static", ("qemu-arm",), ("generic",)),
        "i386": ("i686-linux-gnu-gcc -O1 -static", ("qemu-i386",), ("generic",)),
        "ppc64le": ("powerpc64le-linux-gnu-gcc -O1 -static", ("qemu-ppc64le",), ("generic",)),
        "s390x": ("s390x-linux-gnu-gcc -O1 -static", ("qemu-s390x",), ("generic",)),
        "mingw": ("x86_64-w64-mingw32-gcc -O1 -static", ("wine",), HERE[:-1]),
        "wasm": (f"{ZIG} wasm32-wasi", WASM, ()),
        "macos-x86-64": (f"{ZIG} x86_64-macos", None, ()),
        "macos-aarch64": (f"{ZIG} aarch64-macos", None, ()),
        "windows-aarch64": (f"{ZIG} aarch64-windows", None, ()),
    }


@pytest.mark.platform
@pytest.mark.parametrize("build", BUILDS)
def test_every_compiler_and_processor_gives_the_golden_bits(tmp_path, rows, golden, build):
    compiler, emulator, names = BUILDS[build]
    need(compiler.split()[0], *(emulator or ())[:1])
    sources = sorted(KERNELS.glob("*.c"))
    if emulator is None:
        for source in sources:
            run(*compiler.split(), *STRICT, "-c", source, "-o", tmp_path / f"{source.stem}.o")
        return
    if "gcc" in compiler:
        # What -ffast-math links: the program starts with subnormal numbers flushed to zero.
        path = run(*compiler.split(), "-print-file-name=crtfastmath.o", text=True).strip()
        sources += [path] if Path(path).is_file() else []
    program = compile_program(compiler, "bits.c", tmp_path / "bits.exe", sources=sources)
    offered = run(*emulator, program, text=True).split()
    assert set(names) <= set(offered)
    expected = golden
    if build not in ("gcc", "clang"):
        rows = some(rows)
        expected = hashes_of(_api.over(_backend.load(HERE[0])), rows)
    for name in offered:
        assert hashes_of_program([*emulator, program, name], rows) == expected, name


def some(rows):
    """Return a part for emulators, which compute an fma in hundreds of instructions."""
    by_key = {}
    for record in rows:
        if record.x.size <= 10000:
            by_key.setdefault(record.key, []).append(record)
    return [record for records in by_key.values() for record in records[::11]]


# ---- what must not matter: layout, batch, place, workers, the caller's control register ----

LENGTHS = (1, 16, 37, 300)
MORE_LENGTHS = (5, 128, 1001)
ROWS = 12


def sample(dtype, n, rows=ROWS):
    """Return rows with masks, large offsets, subnormal results and a NaN; a second operand."""
    source = Source(n)
    x = source.uniform((rows, n), 4)
    x[1::6] = np.where(source.chance((len(x[1::6]), n), 3), -np.inf, x[1::6])
    x[2::6] += 2.0**14
    x[3::6, ::2] -= 725 if dtype == "float64" else 86
    x[4, n // 2] = np.nan
    return x.astype(dtype), abs(source.uniform((rows, n), 0)).astype(dtype)


@pytest.fixture(params=CALLS, ids=str)
def call(request):
    return request.param.of_rows


@pytest.fixture(params=["float32", "float64", *slowly("float16")])
def dtype(request):
    return request.param


def alone(fs, call, x, y):
    """Return the result of each row computed by itself, from fresh contiguous memory."""
    return np.stack([call(fs, row.copy(), other.copy()) for row, other in zip(x, y, strict=True)])


def assert_same(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert got.tobytes() == expected.tobytes()


def at_offset(a, offset):
    """Return a copy that starts `offset` bytes beyond a multiple of 64."""
    memory = np.empty(a.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    moved = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def strided(rows_step, step):
    def lay_out(a):
        steps = (rows_step, step)[-a.ndim :]
        lengths = [n * abs(step) for n, step in zip(a.shape, steps, strict=True)]
        view = np.zeros(lengths, a.dtype)[tuple(slice(None, None, step) for step in steps)]
        view[...] = a
        return view

    return lay_out


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "every other element": strided(1, 2),
    "every third element of every other row": strided(2, 3),
    "elements backwards": strided(1, -1),
    "rows backwards": strided(-1, 1),
    "both backwards, every fifth": strided(-1, -5),
    "foreign byte order": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("n", [*LENGTHS, *slowly(*MORE_LENGTHS)])
def test_the_same_bits_in_any_batch_and_at_any_place(native_fs, call, dtype, n):
    x, y = sample(dtype, n)
    expected = alone(native_fs, call, x, y)
    assert_same(call(native_fs, x, y), expected)
    for first, last in ((0, 1), (3, 5), (5, 12)):
        assert_same(call(native_fs, x[first:last], y[first:last]), expected[first:last])
    order = np.argsort(Source(1).integers(ROWS))
    assert_same(call(native_fs, x[order], y[order]), expected[order])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 8, 9, 255, 256, 257, 1000, 40000])
def test_positive_weights_give_the_bits_that_any_weights_give(native_fs, n, dtype):
    """Rows of positive weights have a way of their own, unless a weight is 0."""
    rng = np.random.default_rng(n)
    rows = 8 if n < 40000 else 1
    for spread, power in ((1, 1), (30, 40), (100, 60), (200, 70)):
        x = rng.normal(0, spread, (rows, n)).astype(dtype)
        b = np.exp2(rng.uniform(-power, power, (rows, n))).astype(dtype)
        got = native_fs.logsumexp(x, b=b)
        more = [np.concatenate((a, np.zeros((rows, 1), dtype)), axis=1) for a in (x, b)]
        assert got.tobytes() == native_fs.logsumexp(more[0], b=more[1]).tobytes()


@pytest.mark.parametrize("n", [*range(1, 18), 33, 64, *slowly(24, 31, 32, 46, 63, 65, 100, 200)])
def test_the_same_bits_of_short_rows_in_batches_of_any_size(native_fs, call, dtype, n):
    """A kernel may take short rows across, a lane for each, or leave some to another."""
    x, y = sample(dtype, n, rows=70)
    expected = alone(native_fs, call, x, y)
    for rows in (*range(1, 10), 12, *range(15, 19), 20, 24, 31, 32, 33, 36, 39, 47, 64, 70):
        last = len(x) - rows // 2 if rows < 70 else len(x)
        got = call(native_fs, x[last - rows : last], y[last - rows : last])
        assert_same(got, expected[last - rows : last])
    assert_same(call(native_fs, x[::-1], y[::-1]), expected[::-1])
    assert_same(call(native_fs, x.T, y.T, 0).T, expected)


@pytest.mark.parametrize(
    "n", [1, 5, 16, 17, 64, 129, 513, 1025, *slowly(2, 33, 65, 100, 128, 300, 512, 1024)]
)
def test_the_same_bits_of_rows_side_by_side(native_fs, call, dtype, n):
    """Whole lines of them may be computed as they lie, except where one needs more than that."""
    x, y = sample(dtype, n, rows=70)
    x[20:] = x[:50] + 1  # whole blocks without a NaN or a large offset follow
    x[40:] = np.where(np.isfinite(x[40:]) & (abs(x[40:]) < 1000), x[40:], 0)
    expected = alone(native_fs, call, x, y)
    beside, other = x.T.copy(), y.T.copy()
    assert_same(call(native_fs, beside, other, 0).T, expected)
    for rows in (7, 8, 15, 16, 17, 33):
        got = call(native_fs, beside[:, 35 : 35 + rows], other[:, 35 : 35 + rows], 0)
        assert_same(got.T, expected[35 : 35 + rows])


@pytest.mark.parametrize("n", [129, 160, 500])
def test_the_same_bits_of_many_long_rows_side_by_side(native_fs, dtype, n):
    """They are computed where they lie, in strips; in place too, and where one of them is NaN."""
    x = Source(5).uniform((n, 1100), 4).astype(dtype)
    x[n // 2, [3, 700, 1090]] = -np.nan  # not the canonical one
    x[-1, [40, 41, 1099]] = np.inf
    x[7, 300] = 3e4
    x[:, 1024] = -np.inf
    expected = native_fs.softmax(np.ascontiguousarray(x.T)).T
    assert np.isnan(expected).any(axis=0).sum() == 7
    assert_same(native_fs.softmax(x, 0), expected)
    part = x[:, 5:1081]
    assert_same(native_fs.softmax(part, 0), expected[:, 5:1081])
    assert native_fs.softmax(part, 0, out=part) is part
    assert_same(x[:, 5:1081], expected[:, 5:1081])


def test_the_same_bits_of_rows_side_by_side_beyond_the_cache(native_fs):
    """Such large results are streamed, where they are whole lines and not the input itself."""
    x = Source(3).uniform((13, 1 << 20), 4).astype(np.float32)
    expected = native_fs.softmax(np.ascontiguousarray(x.T)).T
    for columns in (x.shape[1], x.shape[1] - 5):
        part = x[:, :columns].copy()
        np.testing.assert_array_equal(native_fs.softmax(part, 0), expected[:, :columns])
        assert native_fs.softmax(part, 0, out=part) is part
        np.testing.assert_array_equal(part, expected[:, :columns])


@pytest.mark.parametrize("n", [*LENGTHS, *slowly(*MORE_LENGTHS)])
def test_the_same_bits_at_any_offset(native_fs, call, dtype, n):
    x, y = (a[:4] for a in sample(dtype, n))
    expected = alone(native_fs, call, x, y)
    for offset in range(64):
        assert_same(call(native_fs, at_offset(x, offset), at_offset(y, 63 - offset)), expected)


@pytest.mark.parametrize("n", [*LENGTHS, *slowly(*MORE_LENGTHS)])
def test_the_same_bits_in_any_layout_and_along_any_axis(native_fs, call, dtype, n):
    x, y = sample(dtype, n)
    expected = alone(native_fs, call, x, y)
    for lay_out in LAYOUTS.values():
        assert_same(call(native_fs, lay_out(x), lay_out(y)), expected)
        assert_same(call(native_fs, lay_out(x), y), expected)
    assert_same(call(native_fs, x.T, y.T, 0).T, expected)
    cube, other = (np.moveaxis(a.reshape(3, 4, n), -1, 1) for a in (x, y))
    for lay_out in (np.ascontiguousarray, np.asfortranarray, np.positive):
        got = call(native_fs, lay_out(cube), lay_out(other), 1)
        assert_same(np.moveaxis(got, 1, -1).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "function", [function for function in CALLS if function.axes == "several"], ids=str
)
def test_the_same_bits_over_several_axes_as_over_one(native_fs, dtype, function):
    x, y = sample(dtype, 120)
    operands = function.from_rows(x, y, -1)
    expected = function.call(native_fs, operands, **function.given(y))
    axes_apart = {
        (1, 2): lambda a: a.reshape(ROWS, 3, 40),
        (0, 2): lambda a: np.ascontiguousarray(np.moveaxis(a.reshape(ROWS, 3, 40), 1, 0)),
        (2, 0): lambda a: np.ascontiguousarray(np.moveaxis(a.reshape(ROWS, 3, 40), 1, 0)),
    }
    for axes, lay_out in axes_apart.items():
        changed = function.given(lay_out(y), axes)
        results = function.call(native_fs, map(lay_out, operands), axis=axes, **changed)
        for got, same in zip(results, expected, strict=True):
            if function.keeps_shape and axes != (1, 2):
                got = np.moveaxis(got, 0, 1)
            assert_same(got.reshape(same.shape), same)


@pytest.mark.parametrize(
    "function", [function for function in CALLS if "out" in function.options], ids=str
)
@pytest.mark.parametrize("n", [*LENGTHS, *slowly(*MORE_LENGTHS)])
def test_the_same_bits_in_place_and_into_any_out(native_fs, function, dtype, n):
    x, y = sample(dtype, n)
    operands, options = function.from_rows(x, y, -1), function.given(y)

    if "return_grad" in function.options:
        options["return_grad"] = True

    def call(*operands, out=None):
        return function.call(native_fs, operands, out=out, **options)

    expected = alone(native_fs, function.of_rows, x, y)
    results = call(*operands)
    assert_same(function.joined(results, x), expected)
    if "return_grad" in function.options:
        gradients_in_place(function, native_fs, operands, options, results)
    fresh = results[0]
    for lay_out in (np.copy, lambda a: at_offset(a, 20), *list(LAYOUTS.values())[:-1]):
        out = lay_out(np.zeros_like(fresh))
        assert call(*operands, out=out)[0] is out
        assert_same(np.ascontiguousarray(out), fresh)
        for i, operand in enumerate(operands):
            if operand.shape == fresh.shape and operand.dtype == fresh.dtype:
                same = list(operands)
                same[i] = lay_out(operand.copy())
                call(*same, out=same[i])
                assert_same(np.ascontiguousarray(same[i]), fresh)
    if function.keeps_shape:
        # One row or element later, or earlier: an overlap in part.
        for i, operand in enumerate(operands):
            for shift in (-1, 1) if operand.shape == fresh.shape else ():
                memory = np.concatenate([operand[:1], operand, operand[:1]])
                same = list(operands)
                same[i] = memory[1:-1]
                out = memory[1 + shift : len(memory) - 1 + shift]
                call(*same, out=out)
                assert_same(out, fresh)


def gradients_in_place(function, fs, operands, options, expected):
    """Demand the same bits of losses and gradients that go into given arrays, or one of them."""
    logits, labels = operands
    for lay_out in (np.copy, lambda a: at_offset(a, 20), *list(LAYOUTS.values())[:-1]):
        loss, grad = (lay_out(np.zeros_like(result)) for result in expected)
        same = lay_out(logits.copy())
        for x, out in (
            (logits, (loss, grad)),
            (logits, (None, grad)),
            (logits, (loss, None)),
            (same, (loss, same)),
        ):
            got = function.call(fs, (x, labels), out=out, **options)
            assert all(given is None or one is given for one, given in zip(got, out, strict=True))
            for one, other in zip(got, expected, strict=True):
                assert_same(np.ascontiguousarray(one), other)


def test_the_same_bits_by_any_number_of_workers(native_fs, call, dtype):
    x, y = sample(dtype, 1001, rows=330)
    expected = call(native_fs, x, y, workers=1)
    assert_same(alone(native_fs, call, x[:12], y[:12]), expected[:12])
    for workers in (2, 3, 5):
        assert_same(call(native_fs, x, y, workers=workers), expected)
        assert_same(call(native_fs, x.T, y.T, 0, workers=workers).T, expected)


@pytest.mark.parametrize("n", [10, 300, *slowly(3, 46, 1000)])
def test_the_same_bits_of_rows_at_a_threshold_whatever_lies_beside_them(native_fs, call, dtype, n):
    """Kernels may treat a row by itself where its maximum is beyond ±4096; all at the same one."""
    x = thresholds(Source(n), dtype, n)
    y = abs(Source(n).uniform(x.shape, 0)).astype(dtype)
    expected = alone(native_fs, call, x, y)
    ordinary = Source(n).uniform((40, n), 3).astype(dtype)
    for batch in (x, np.concatenate([x, ordinary]), np.insert(ordinary, 20, x, axis=0)):
        others = np.resize(y, batch.shape)
        whole = alone(native_fs, call, batch, others)
        assert_same(call(native_fs, batch, others), whole)
        assert_same(call(native_fs, batch.T.copy(), others.T.copy(), 0).T, whole)
    for row, other, result in zip(x, y, expected, strict=True):
        many = np.tile(row, (40, 1)), np.tile(other, (40, 1))
        assert_same(call(native_fs, *many), np.tile(result, (40, 1)))
        assert_same(call(native_fs, *(a.T.copy() for a in many), 0).T, np.tile(result, (40, 1)))


def test_segments_have_the_bits_of_rows(native_fs, dtype):
    x, _ = sample(dtype, 1001)
    flat = x.ravel()
    pointers = np.concatenate([[0], np.cumsum(Source(2).integers(200) % np.uint64(90)).astype(int)])
    pointers = np.append(pointers[pointers < flat.size], flat.size)
    got = native_fs.segment_softmax(flat, pointers)
    parts = [native_fs.softmax(part) for part in np.split(flat, pointers[1:-1]) if part.size]
    assert_same(got, np.concatenate(parts))


@pytest.mark.parametrize("row_bytes", [4012, *slowly(1032, 1 << 19)])
@pytest.mark.parametrize("function", [SOFTMAX, LOG_SOFTMAX, *GRADIENTS], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_streamed(native_fs, function, dtype, row_bytes):
    """Long rows whose results are too many for the caches: whole lines go past them."""
    size = np.dtype(dtype).itemsize
    n = row_bytes // size
    x, y = sample(dtype, n)
    expected = alone(native_fs, function.of_rows, x, y)
    times = (33 << 20) // expected.nbytes + 1
    operands = [np.tile(a, (times, 1)) for a in function.from_rows(x, y, -1)]
    many = operands[0]
    memory = np.full(many.size + 48, 7, dtype)
    for offset, workers in ((17, 1), (24, 2)):
        out = memory[offset : offset + many.size].reshape(many.shape)
        function.call(native_fs, operands, out=out, workers=workers)
        assert out.tobytes() == expected.tobytes() * times
        assert (memory[:offset] == 7).all()
        assert (memory[offset + many.size :] == 7).all()
        memory[:] = 7
    apart = np.full((len(many), n + 16), 7, dtype)  # as a line that two rows share, but it is not
    function.call(native_fs, operands, out=apart[:, :n])
    assert apart[:, :n].tobytes() == expected.tobytes() * times
    assert (apart[:, n:] == 7).all()
    (fresh,) = function.call(native_fs, operands)
    assert fresh.tobytes() == expected.tobytes() * times
    function.call(native_fs, operands, out=many)
    assert many.tobytes() == expected.tobytes() * times


@pytest.mark.slow
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_past_the_caches(native_fs, function, dtype):
    """An array that no cache holds may take another path, with streaming stores for one."""
    n = 131072
    x = np.tile(sample(dtype, n, rows=6)[0], (64, 1))
    operate = getattr(native_fs, function)
    expected = np.stack([operate(row.copy()) for row in x[:6]])
    got = operate(x)
    for first in range(0, len(x), 6):
        assert got[first : first + 6].tobytes() == expected.tobytes(), first
    long = x.reshape(-1)[: 1 << 24]
    out = np.empty(long.size + 16, dtype)
    expected = operate(long.copy()).tobytes()
    for offset in (1, 5):
        part = out[offset : offset + long.size]
        operate(long, out=part)
        assert part.tobytes() == expected


@pytest.mark.parametrize("n", [3, 15, 46, 64, 200, 1000, 9000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_of_subnormal_results_whatever_came_before(native_fs, dtype, n):
    """After one, they come from other operations where the processor is slow at them."""
    least = 760 if dtype == "float64" else 110
    x = -np.linspace(0, least, 59 * n).reshape(n, 59).T.astype(dtype, "C")
    x[:, n // 2] = 0
    x[7] += 2.0**14
    x[9] /= 50  # a row without
    x[11, 1] = np.nan
    expected = _api.over(_backend.load("generic")).softmax(x)
    assert (expected > 0).any(where=expected < np.finfo(dtype).smallest_normal)
    ordinary = np.zeros((64, 8), dtype)
    wide = np.asfortranarray(np.tile(x, (2, 1)))
    for before in (ordinary, ordinary, x):
        native_fs.softmax(before)
        assert_same(native_fs.softmax(x), expected)
        native_fs.softmax(before)
        assert_same(native_fs.softmax(np.ascontiguousarray(x.T), 0).T, expected)
        native_fs.softmax(before)
        assert_same(native_fs.softmax(wide), np.tile(expected, (2, 1)))
        native_fs.softmax(before)
        assert_same(alone(native_fs, SOFTMAX.of_rows, x, x), expected)


# ---- the caller's control register ----

if ON_X86:
    CONTROLS = {
        "round down": 0x2000,
        "round up": 0x4000,
        "round to zero": 0x6000,
        "flush to zero": 0x8000,
        "denormals are zero": 0x40,
        "all of it": 0xE040,
    }
    FLAGS = 0x3F
else:
    CONTROLS = {
        "round up": 1 << 22,
        "round down": 2 << 22,
        "round to zero": 3 << 22,
        "flush to zero": 1 << 24,
        "all of it": 7 << 22,
    }
    FLAGS = 0


OTHER_CONTROLS = [name for name in CONTROLS if name not in ("round up", "all of it")]


@pytest.fixture(scope="module")
def control_register(tmp_path_factory):
    need("gcc")
    output = tmp_path_factory.mktemp("environment") / "environment.so"
    library = ctypes.CDLL(str(compile_program("gcc", "environment.c", output, "-shared", "-fPIC")))
    library.get_control.restype = ctypes.c_uint64
    library.set_control.argtypes = [ctypes.c_uint64]
    library.set_control.restype = None
    return library


@pytest.mark.parametrize("control", ["round up", "all of it", *slowly(*OTHER_CONTROLS)])
def test_the_same_bits_whatever_the_control_register_which_is_restored(
    native_fs, call, dtype, control_register, control
):
    saved = control_register.get_control()
    changed = (saved & ~FLAGS) | CONTROLS[control]
    assert changed != saved & ~FLAGS
    for n in (*LENGTHS, *MORE_LENGTHS):
        x, y = sample(dtype, n)
        views = [(x, y, -1), (x.T, y.T, 0)]
        expected = [call(native_fs, *view) for view in views]
        try:
            control_register.set_control(changed)
            got = [call(native_fs, *view) for view in views]
            left = control_register.get_control()
        finally:
            control_register.set_control(saved)
        assert left & ~FLAGS == changed
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)


def test_the_same_bits_by_two_workers_whatever_the_control_register(
    native_fs, call, dtype, control_register
):
    """A helper has a register of its own."""
    x, y = sample(dtype, 1001, rows=330)
    expected = call(native_fs, x, y, workers=1)
    saved = control_register.get_control()
    changed = (saved & ~FLAGS) | CONTROLS["all of it"]
    try:
        control_register.set_control(changed)
        got = call(native_fs, x, y, workers=2)
        left = control_register.get_control()
    finally:
        control_register.set_control(saved)
    assert left & ~FLAGS == changed
    assert_same(got, expected)


@pytest.mark.parametrize("control", CONTROLS)
def test_the_control_register_is_restored_after_an_index_out_of_range(
    native_fs, control_register, control
):
    x = np.zeros((4, 8))
    saved = control_register.get_control()
    changed = (saved & ~FLAGS) | CONTROLS[control]
    for function, operands, error in (
        (native_fs.softmax_cross_entropy, (x, np.array([0, 7, 8, 0])), IndexError),
        (native_fs.softmax_cross_entropy, (x.T, np.array([0, 1, -1, 0]), 0), IndexError),
        (native_fs.segment_softmax, (x[0], np.array([0, 9, 8])), ValueError),
    ):
        try:
            control_register.set_control(changed)
            with pytest.raises(error):
                function(*operands)
            left = control_register.get_control()
        finally:
            control_register.set_control(saved)
        assert left & ~FLAGS == changed


if __name__ == "__main__":
    # The portable unit is the one that every machine has.
    fresh = hashes_of(_api.over(_backend.load("generic")), records())
    if ml_dtypes is None:
        raise SystemExit("golden.json needs ml_dtypes, for bfloat16")
    GOLDEN.write_text(json.dumps(fresh, indent=4) + "\n")
