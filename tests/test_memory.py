"""Nothing is read or written beyond a row: operands flush against pages that may not be touched.

The work is done in a child process, which such a touch kills.
"""

import ctypes
import itertools
import mmap
import sys

import numpy as np
import pytest
from functions import CALLS, ENTROPY_OF_LABELS
from toolchain import run_python

import fastsoftmax

if not hasattr(mmap, "MAP_ANONYMOUS"):
    pytest.skip("needs mprotect", allow_module_level=True)

PAGE = mmap.PAGESIZE
SHAPES = [(1, n) for n in range(1, 301)]
# Short rows that a kernel may take across, with a remainder.
SHAPES += [(rows, n) for rows in (8, 16, 23, 37) for n in range(1, 18)]
FILL = 0xA5
PROT_NONE = 0


class Fenced:
    """Memory between two pages that may not be touched."""

    def __init__(self, size):
        library = ctypes.CDLL(None, use_errno=True)
        library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.size = -(-size // PAGE) * PAGE
        self.map = mmap.mmap(-1, self.size + 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.memory = np.frombuffer(self.map, np.uint8)[PAGE:-PAGE]
        for fence in (start, start + PAGE + self.size):
            if library.mprotect(fence, PAGE, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def flush(self, values, at_end):
        """Return a copy of `values` at one end of the memory; the rest is filled."""
        self.memory[...] = FILL
        start = self.size - values.nbytes if at_end else 0
        self.used = slice(start, start + values.nbytes)
        array = self.memory[self.used].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array

    def is_untouched_elsewhere(self):
        rest = np.ones(self.size, bool)
        rest[self.used] = False
        return bool((self.memory[rest] == FILL).all())


def compute(function, x, y, out):
    """Call a function with rows, and with `out` unless it makes its own results."""
    operands = [x, y][: len(function.operands)]
    if "heads" in function.label:
        rows = x.shape[0]
        operands = [x, np.array([0, rows // 2, rows])]
        if not function.keeps_shape:
            operands, out = [x.T, np.array([0, x.shape[1]])], out[np.newaxis]
    elif function.axes == "none":
        n = x.shape[1]
        inner = [n // 2] if function.keeps_shape else []
        operands = [x.ravel(), np.array([0, *inner, *range(n, x.size + 1, n)])]
        out = out.ravel()
    elif function.label.startswith(ENTROPY_OF_LABELS.label):
        operands[1] = y.argmax(-1)
    options = {}
    if "return_grad" in function.options:
        options["return_grad"] = True
        out = (None, out)
    if "out" in function.options:
        options["out"] = out
    function.call(fastsoftmax, operands, **options, **function.given(y))


ENDS = {
    "same": [(False,) * 3, (True,) * 3],
    "mixed": [ends for ends in itertools.product((False, True), repeat=3) if len({*ends}) > 1],
}
"""Whether each of three arrays lies at the end of its memory, or at the start."""


def try_function(function, dtype, which):
    """Run in the child: every shape, each end of each operand, `out` apart and in place."""
    fences = [Fenced(max(rows * n for rows, n in SHAPES) * 8) for _ in range(3)]
    rng = np.random.default_rng(0)
    reduces = not function.keeps_shape and "return_grad" not in function.options
    for shape in SHAPES:
        values = rng.normal(0, 5, shape).astype(dtype)
        second = rng.random(shape).astype(dtype)
        result = values[:, 0] if reduces else values
        for ends in ENDS[which]:
            print(function, shape, ends, flush=True)
            operands = zip(fences, (values, second, result), ends, strict=True)
            x, y, out = (fence.flush(a, end) for fence, a, end in operands)
            compute(function, x, y, out)
            assert all(fence.is_untouched_elsewhere() for fence in fences)
            assert (x == values).all()
            assert (y == second).all()
            if function.keeps_shape or "return_grad" in function.options:
                compute(function, x, y, x)
                assert fences[0].is_untouched_elsewhere()


@pytest.mark.parametrize("ends", ["same", pytest.param("mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_nothing_beyond_a_row_is_touched(native_name, dtype, ends):
    done = run_python(__file__, dtype, ends, backend=native_name)
    assert done.returncode == 0, (*done.stdout.splitlines()[-1:], done.returncode, done.stderr)


def test_a_touch_of_the_fence_is_fatal():
    done = run_python(__file__, "fence")
    assert done.returncode < 0


if __name__ == "__main__":
    if sys.argv[1:] == ["fence"]:
        sys.exit(Fenced(1).map[0])
    for each in CALLS:
        try_function(each, *sys.argv[1:])
