"""Which backend there is and which is used; the only file that reads the environment.

Nothing here can be changed after import: the tests ask for a backend by `load`, and users choose
one by ``FASTSOFTMAX_BACKEND`` before they import the package.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

try:
    from fastsoftmax import _native
except ImportError as error:
    NO_EXTENSION = f"the extension cannot be imported ({error})"
    COMPILED: tuple[str, ...] = ()
    COMPILER: str | None = None
    INSTRUCTION_SETS: tuple[str, ...] = ()
else:
    NO_EXTENSION = ""
    COMPILED = _native.compiled()
    COMPILER = _native.compiler()
    INSTRUCTION_SETS = _native.available()

VARIABLE = "FASTSOFTMAX_BACKEND"


class Backend(Protocol):
    """What computes, on arrays that `_api` has brought into this form.

    Base ndarrays that are not empty, in native byte order and aligned, of any strides; the axes to
    reduce are the last `k` >= 1; `x` and `out` have the same dtype, float16, bfloat16, float32 or
    float64 (NumPy's backend: longdouble too). `out` is one of the inputs, element for element, or
    shares no memory with any. `where` has the shape of `x`. Everything is written to `out`. Up to
    `threads` threads may share the rows.
    """

    @property
    def name(self) -> str:
        """Its name in ``FASTSOFTMAX_BACKEND``."""

    def softmax(
        self, x: Array, out: Array, k: int, where: Array | None, temperature: float, threads: int
    ) -> None:
        """Write the softmax of ``x / temperature``."""

    def log_softmax(
        self, x: Array, out: Array, k: int, where: Array | None, temperature: float, threads: int
    ) -> None:
        """Write the logarithm of the softmax."""

    def logsumexp(self, x: Array, out: Array, k: int, where: Array | None, threads: int) -> None:
        """Write log(sum(exp(x))) to `out`, which has only the axes before the last `k`."""

    def softmax_backward(
        self, grad_output: Array, output: Array, out: Array, k: int, threads: int
    ) -> None:
        """Write the gradient with respect to the input of softmax."""

    def log_softmax_backward(
        self, grad_output: Array, output: Array, out: Array, k: int, threads: int
    ) -> None:
        """Write the gradient with respect to the input of log_softmax."""

    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Array,
        loss: Array,
        grad: Array | None,
        label_smoothing: float,
        threads: int,
    ) -> None:
        """Write losses and gradients; `labels`: intp, one a row and in range, or as `logits`."""

    def segment_softmax(self, data: Array, indptr: Array, out: Array, threads: int) -> None:
        """Write the softmax of each segment; all are contiguous, `indptr` is int64 and checked."""

    def fast_lane(
        self, name: str, general: Callable[..., Any], threads_for: Callable[[int | None, int], int]
    ) -> Callable[..., Any]:
        """Return `general`, or a shortcut to what it does for the plainest arrays."""


def available() -> tuple[str, ...]:
    """Return the names that `load` accepts on this machine, best first."""
    return (*INSTRUCTION_SETS, "numpy")


def load(name: str) -> Backend:
    """Return the backend called `name`: "numpy", "native" (its best) or an instruction set's."""
    if name == "numpy":
        from fastsoftmax._numpy import NumpyBackend

        return NumpyBackend()
    if name == "native" and INSTRUCTION_SETS:
        name = INSTRUCTION_SETS[0]
    if name in INSTRUCTION_SETS:
        return _native.NativeBackend(name)
    if NO_EXTENSION:
        reason = NO_EXTENSION if name in _NATIVE_NAMES else "no backend has this name"
    elif name in COMPILED:
        reason = "this CPU or its operating system cannot run it"
    elif name in _NATIVE_NAMES:
        reason = "it was not compiled for this processor"
    else:
        reason = "no backend has this name"
    raise ImportError(
        f"the backend {name!r} is not available: {reason}; available: {', '.join(available())}"
    )


_NATIVE_NAMES = ("native", "generic", "avx2", "avx512", "neon")


@functools.cache
def default() -> Backend:
    """Return the backend that the environment asks for, or the best there is."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        try:
            return load(wanted)
        except ImportError as error:
            raise ImportError(f"{VARIABLE}={wanted}: {error}") from None
    return load("numpy" if fallback_reason() else "native")


def fallback_reason() -> str:
    """Return why NumPy is the default, or nothing where it is not."""
    if NO_EXTENSION:
        return NO_EXTENSION
    if INSTRUCTION_SETS == ("generic",) and _is_x86():
        # Without the instruction, a correctly rounded fma is a function of hundreds of cycles.
        return "this CPU has no FMA instruction (or no AVX2), and NumPy is faster without"
    return ""


def _is_x86() -> bool:
    import platform

    return platform.machine().lower() in {"x86_64", "amd64", "i386", "i686", "x86"}


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show which kernels are installed and which backend is in use.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Whether to print the configuration or to return it, as :func:`numpy.show_config` has it.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: the version of the package and of NumPy; the backend in use, all that
        this CPU can run and all that were compiled, by name; the compiler; why NumPy stands in for
        the kernels, or None; and whether the bits of a result are those of every instruction set.

    Raises
    ------
    ValueError
        If `mode` is another.

    Examples
    --------
    >>> import fastsoftmax
    >>> config = fastsoftmax.show_config(mode="dicts")
    >>> "numpy" in config["available"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    from fastsoftmax import __version__

    backend = default().name
    reason = None
    if backend == "numpy":
        reason = f"{VARIABLE}=numpy" if os.environ.get(VARIABLE) == "numpy" else fallback_reason()
    config: dict[str, Any] = {
        "version": __version__,
        "backend": backend,
        "available": list(available()),
        "compiled": list(COMPILED),
        "compiler": COMPILER,
        "fallback_reason": reason,
        "same_bits_everywhere": backend != "numpy",
        "numpy": np.__version__,
    }
    if mode == "dicts":
        return config
    print(_text(config))
    return None


def _text(config: dict[str, Any]) -> str:
    lines = [
        ("fastsoftmax", config["version"]),
        ("backend", config["backend"]),
        ("available", ", ".join(config["available"])),
        ("compiled", ", ".join(config["compiled"]) or "nothing: the NumPy-only build"),
        ("compiler", config["compiler"] or "none"),
        ("numpy", config["numpy"]),
    ]
    if config["fallback_reason"]:
        lines.append(("why numpy", config["fallback_reason"]))
    if config["same_bits_everywhere"]:
        lines.append(("bits", "the same on every instruction set"))
    else:
        lines.append(("bits", "NumPy's: they may differ from the kernels' and between machines"))
    return "\n".join(f"{label + ':':<13}{value}" for label, value in lines)
