"""Which backends are available and which is used; the only file that reads the environment.

Nothing here changes after import: the tests get a backend from `load`, and users choose one by
``FASTSOFTMAX_BACKEND`` before they import the package.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

import numpy as np

from fastsoftmax import _rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastsoftmax._rules import Plan

_Function = TypeVar("_Function", bound="Callable[..., Any]")

try:
    # By `from fastsoftmax import`, any failure would be reported as a circular import.
    import fastsoftmax._native as _native
except ImportError as error:
    from fastsoftmax import _reasons

    NO_EXTENSION = f"the extension cannot be imported: {_reasons.of_failed_import(error)}"
    COMPILED: tuple[str, ...] = ()
    COMPILER: str | None = None
    INSTRUCTION_SETS: tuple[str, ...] = ()
else:
    NO_EXTENSION = ""
    COMPILED = _native.compiled()
    COMPILER = _native.compiler()
    INSTRUCTION_SETS = _native.available()

    if os.environ.get("FASTSOFTMAX_KEEP_MEMORY") != "0":
        _native.keep_memory()

VARIABLE = "FASTSOFTMAX_BACKEND"


class Backend(Protocol):
    """What computes."""

    @property
    def name(self) -> str:
        """Its name in ``FASTSOFTMAX_BACKEND``."""

    def function(self, general: _Function) -> _Function:
        """Return `general`, or a faster function that calls it where it declines."""

    def run(self, plan: Plan) -> Any:
        """Return the result of a plan that has elements, in its `out` if that is given."""


class NativeBackend:
    """The kernels of one instruction set."""

    def __init__(self, name: str) -> None:
        self.name = name
        # The same functions for plans, i.e. calls whose arguments the rules have converted.
        fields = [inspect.Parameter(field, _POSITIONAL) for field in _rules.ARGUMENTS]
        self._by_plan = {
            function: _native.Function(function, name, _refuse, fields)
            for function in _rules.FUNCTIONS
        }

    def function(self, general: _Function) -> _Function:
        """Return the C function, which calls `general` where it declines a call."""
        parameters = tuple(inspect.signature(general).parameters.values())
        return _native.Function(general.__name__, self.name, general, parameters)

    def run(self, plan: Plan) -> Any:
        """Compute a plan without longdouble."""
        for array in (plan.x, plan.y, plan.temperature, plan.sample_weight):
            if isinstance(array, np.ndarray) and array.dtype.num >= _rules.FIRST_USER_DEFINED:
                _native.know_bfloat16(array.dtype.num)
        return self._by_plan[plan.function](*plan.arguments)


_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _refuse(*_: Any) -> Any:
    raise ValueError(
        "the arrays are not what they were when they were checked: another thread changes them, or "
        "this is an error of fastsoftmax, to be reported"
    )


def runner(backend: Backend) -> Callable[[Plan], Any]:
    """Return the function that computes a plan and returns a call's result."""
    is_numpy = backend.name == "numpy"

    def run(plan: Plan) -> Any:
        if plan.x.size == 0:
            return _rules.of_nothing(plan)
        results = (backend if is_numpy or _is_for_kernels(plan) else load("numpy")).run(plan)
        return _rules.delivered(plan, results)

    return run


def _is_for_kernels(plan: Plan) -> bool:
    """Whether no operand or result is longdouble."""
    operands = (plan.x, plan.y, plan.sample_weight)
    return plan.result.char != "g" and not any(
        isinstance(operand, np.ndarray) and operand.dtype.char == "g" for operand in operands
    )


def available() -> tuple[str, ...]:
    """Return the names that `load` accepts on this machine, best first."""
    return (*INSTRUCTION_SETS, "numpy")


def unavailable() -> dict[str, str]:
    """Return why kernels that were compiled cannot be used on this machine, by their names."""
    reasons = dict.fromkeys(COMPILED, "this CPU or its operating system cannot run it")
    if "generic" in reasons:  # any CPU can
        reasons["generic"] = "fma() of this system's C library rounds twice, so its bits are others"
    return {name: reason for name, reason in reasons.items() if name not in INSTRUCTION_SETS}


def load(name: str) -> Backend:
    """Return the backend called `name`: "numpy", "native" (its best) or an instruction set's."""
    if name == "numpy":
        return _numpy_backend()
    if name == "native" and INSTRUCTION_SETS:
        name = INSTRUCTION_SETS[0]
    if name in INSTRUCTION_SETS:
        return NativeBackend(name)
    if name not in _NATIVE_NAMES:
        reason = "no backend has this name"
    elif NO_EXTENSION or name == "native":
        reason = fallback_reason()
    else:
        reason = unavailable().get(name, "it was not compiled for this processor")
    raise ImportError(
        f"the backend {name!r} is not available: {reason}; available: {', '.join(available())}"
    )


@functools.cache
def _numpy_backend() -> Backend:
    from fastsoftmax._numpy import NumpyBackend

    return NumpyBackend()


@atexit.register
def _load_before_the_end() -> None:
    """Import what only longdouble may need: a finaliser at exit can no longer import it."""
    with contextlib.suppress(ImportError):
        _numpy_backend()


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


def interface() -> Any:
    """Return the functions of ``fastsoftmax.h``, over the available kernels."""
    reason = "" if INSTRUCTION_SETS else fallback_reason()
    if not reason and os.environ.get(VARIABLE) == "numpy":
        reason = f"{VARIABLE}=numpy asks for no kernels"
    if reason:
        raise ImportError(
            "fastsoftmax has no compiled functions for C, Cython and numba here, only those in "
            f"Python over NumPy: {reason}"
        )
    name = default().name
    return _native.interface(name if name in INSTRUCTION_SETS else INSTRUCTION_SETS[0])


def fallback_reason() -> str:
    """Return why NumPy is the default, or nothing where it is not."""
    if NO_EXTENSION:
        return NO_EXTENSION
    if not INSTRUCTION_SETS:
        return "; ".join(f"{name}: {reason}" for name, reason in unavailable().items())
    if INSTRUCTION_SETS == ("generic",) and not _native.fma_is_fast():
        # A correctly rounded fma is then a function of some hundred instructions.
        return "without an FMA instruction (and, on x86, AVX2), NumPy is faster than the kernels"
    return ""


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
        the kernels, or None; why others that were compiled cannot be used, by name; and whether the
        bits of a result are those of every instruction set.

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
        "unavailable": unavailable(),
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
        *((f"no {name}", reason) for name, reason in config["unavailable"].items()),
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
