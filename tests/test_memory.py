"""Nothing is read or written beyond a row: operands flush against pages that may not be touched.

The work is done in a child process, which such a touch kills.
"""

import ctypes
import mmap
import sys

import numpy as np
import pytest
from toolchain import run_python

from fastsoftmax import _api, _backend

if not hasattr(mmap, "MAP_ANONYMOUS"):
    pytest.skip("needs mprotect", allow_module_level=True)

PAGE = mmap.PAGESIZE
SHAPES = [(1, n) for n in range(1, 301)]
# Short rows that a kernel may take across, with a remainder.
SHAPES += [(rows, n) for rows in (8, 16, 23, 37) for n in range(1, 18)]
FILL = 0xA5
PROT_NONE = 0

FUNCTIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "softmax with where",
    "log_softmax with a temperature",
    "softmax_backward",
    "log_softmax_backward",
    "cross-entropy of labels",
    "cross-entropy of targets",
    "segment_softmax",
)


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


def call(fs, function, x, y, out):
    """Call a function with operands and `out` in fenced memory."""
    rows, n = x.shape
    if function.startswith("cross-entropy"):
        # The public function makes its own results.
        labels = y if function.endswith("targets") else np.full(rows, n // 2)
        loss = np.empty(rows, x.dtype)
        fs._backend.softmax_cross_entropy(x, labels, loss, out, 0.1, 1)
    elif function == "segment_softmax":
        pointers = [0, n // 2, *range(n, rows * n + 1, n)]
        fs.segment_softmax(x.ravel(), pointers, out=out.ravel())
    elif function.endswith("backward"):
        getattr(fs, function)(x, y, out=out)
    else:
        name, _, option = function.partition(" with ")
        options = {"where": {"where": y > 0.5}, "a temperature": {"temperature": 0.3}}
        getattr(fs, name)(x, out=out, **options.get(option, {}))


def try_function(fs, function, dtype):
    """Run in the child: every shape, each end of each operand, `out` apart and in place."""
    fences = [Fenced(max(rows * n for rows, n in SHAPES) * 8) for _ in range(3)]
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        values = rng.normal(0, 5, shape).astype(dtype)
        second = rng.random(shape).astype(dtype)
        result = values[:, 0] if function == "logsumexp" else values
        for ends in np.ndindex(2, 2, 2):
            print(function, shape, ends, flush=True)
            operands = zip(fences, (values, second, result), ends, strict=True)
            x, y, out = (fence.flush(a, end) for fence, a, end in operands)
            call(fs, function, x, y, out)
            assert all(fence.is_untouched_elsewhere() for fence in fences)
            assert (x == values).all()
            assert (y == second).all()
            if function != "logsumexp" and not function.startswith("cross-entropy"):
                call(fs, function, x, y, x)
                assert fences[0].is_untouched_elsewhere()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", _backend.INSTRUCTION_SETS)
def test_nothing_beyond_a_row_is_touched(name, dtype):
    done = run_python(__file__, name, dtype)
    assert done.returncode == 0, (*done.stdout.splitlines()[-1:], done.returncode, done.stderr)


def test_a_touch_of_the_fence_is_fatal():
    done = run_python(__file__, "fence")
    assert done.returncode < 0


if __name__ == "__main__":
    if sys.argv[1:] == ["fence"]:
        sys.exit(Fenced(1).map[0])
    for each in FUNCTIONS:
        try_function(_api.Functions(_backend.load(sys.argv[1])), each, sys.argv[2])
