"""How many rows change their bits with what should not matter, measured live.

The same rows go through each library as one C-contiguous batch, and again laid out otherwise, cut
into other batches, and on other instruction sets; a row counts as changed if any of its bits did.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from . import peers
from .cases import Case
from .inputs import SEED, Array, Data
from .machine import ROOT
from .progress import each
from .runner import Run
from .subject import Subject

ROWS, LENGTH = 256, 1000
DTYPES = ("float32", "float64")

Library = peers.Peer | Subject

Softmax = Callable[[Array, int], Array]
"""Softmax over an axis of a NumPy array of any layout, back in NumPy."""


def _rows(dtype: str) -> Array:
    return np.random.default_rng(SEED).normal(0, 3, (ROWS, LENGTH)).astype(dtype)


def _softmax_of(library: Library) -> Softmax:
    """Return a library's softmax on fresh results."""

    def softmax(x: Array, axis: int) -> Array:
        case = Case("reproducibility", x.shape, "", dtype=str(x.dtype), axis=axis)
        call = library.call(case, Data(x))
        assert call
        return np.asarray(call.result())

    return softmax


def _changed(got: Array, expected: Array) -> float:
    """Return the share of rows with another bit pattern."""
    unsigned = f"u{expected.itemsize}"
    same = np.ascontiguousarray(got).view(unsigned) == expected.view(unsigned)
    return float(1 - same.all(axis=-1).mean())


def _layouts(softmax: Softmax, x: Array, expected: Array) -> float:
    """Return the largest share over column order, strides, another axis and alignments."""
    laid = [np.asfortranarray(x), np.repeat(x, 2, axis=-1)[:, ::2]]
    for offset in (1, 3, 7):
        shifted = np.zeros(x.size + offset, x.dtype)[offset:].reshape(x.shape)
        shifted[...] = x
        laid.append(shifted)
    columns = softmax(np.ascontiguousarray(x.T), 0).T
    return max(_changed(got, expected) for got in (columns, *(softmax(y, -1) for y in laid)))


def _batches(softmax: Softmax, x: Array, expected: Array) -> float:
    """Return the largest share over rows alone, in batches of 3, and in another place."""
    alone = np.concatenate([softmax(row[None], -1) for row in x[:32]])
    threes = np.concatenate([softmax(x[i : i + 3], -1) for i in range(0, 33, 3)])
    shuffled = np.random.default_rng(SEED).permutation(ROWS)
    moved = softmax(np.ascontiguousarray(x[shuffled]), -1)
    return max(
        _changed(alone, expected[:32]),
        _changed(threes, expected[:33]),
        _changed(moved, expected[shuffled]),
    )


def _environments(name: str) -> list[dict[str, str]]:
    """Return the settings that make a library behave as on an older CPU."""
    if name in ("SciPy", "NumPy"):
        core = "_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core"
        umath = import_module(f"numpy.{core}._multiarray_umath")
        usable = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
        wide = [f for f in usable if f.startswith(("AVX512", "X86_V4"))]
        return [{"NPY_DISABLE_CPU_FEATURES": " ".join(names)} for names in (wide, usable) if names]
    if name == "torch":
        return [{"ATEN_CPU_CAPABILITY": level} for level in ("default", "avx2")]
    return []


def _cpu(peer: peers.Peer, x: Array, expected: Array) -> float | None:
    """Return the largest share over older CPUs; None for a library that has no such switch."""
    key = next(key for key, kind in peers.PEERS.items() if type(peer) is kind)
    shares = []
    for environment in _environments(peer.name):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.reproducibility", key, x.dtype.name],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, check=False,
            input=x.tobytes(),
        )  # fmt: skip
        if done.returncode == 0:
            got = np.frombuffer(done.stdout[-expected.nbytes :], x.dtype)
            shares.append(_changed(got.reshape(x.shape), expected))
    return max(shares, default=None)


def _own_instruction_sets(subject: Subject, x: Array, expected: Array) -> float | None:
    """Return the largest share over every instruction set that this CPU has."""
    others = [name for name in subject.available if name not in ("numpy", subject.instruction_set)]
    if not subject.native or not others:
        return None
    return max(_changed(_softmax_of(Subject(name))(x, -1), expected) for name in others)


def _of(library: Library, dtype: str) -> dict[str, Any]:
    softmax, x = _softmax_of(library), _rows(dtype)
    expected = softmax(x, -1)
    if isinstance(library, Subject):
        cpu = _own_instruction_sets(library, x, expected)
    else:
        cpu = _cpu(library, x, expected)
    return {
        "library": library.name,
        "dtype": dtype,
        "layout": _layouts(softmax, x, expected),
        "batch": _batches(softmax, x, expected),
        "cpu": cpu,
    }


def run(suite: Run) -> list[dict[str, Any]]:
    """Return, by library and dtype, the share of rows that change with layout, batch and CPU."""
    libraries: list[Library] = [suite.subject, *suite.rivals]
    jobs = [(library, dtype) for dtype in DTYPES for library in libraries]
    jobs = [job for job in jobs if _offers(*job)]
    return [_of(*job) for job in each(jobs, "reproducibility", lambda job: job[0].name)]


def _offers(library: Library, dtype: str) -> bool:
    case = Case("reproducibility", (ROWS, LENGTH), "", dtype=dtype)
    return library.call(case, Data(_rows(dtype))) is not None


def _child(key: str, dtype: str) -> None:
    """Compute a peer's softmax in a process with other settings, of rows as raw bytes."""
    x = np.frombuffer(sys.stdin.buffer.read(), dtype).reshape(ROWS, LENGTH).copy()
    sys.stdout.buffer.write(_softmax_of(peers.choose(key, 1)[0])(x, -1).tobytes())


if __name__ == "__main__":
    _child(*sys.argv[1:])
