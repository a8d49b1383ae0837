"""The package under test: which of its backends is measured, and how a cell calls it."""

import functools
import itertools
import sys
import tempfile
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from .cases import Case, UsageError
from .inputs import Array, Data
from .machine import ROOT
from .timing import Call


def _prefer_installed() -> None:
    """Put the checkout last on the path, so that an installed fastsoftmax comes before it.

    ``python -m benchmarks`` starts in the checkout, whose ``fastsoftmax`` folder holds no extension
    after a plain ``pip install .``: measured from there, it would be the NumPy fallback.
    """
    here = {"", str(ROOT)}
    sys.path[:] = [entry for entry in sys.path if entry not in here] + [str(ROOT)]


class Subject:
    """fastsoftmax over one backend: the default one, or an instruction set by name."""

    def __init__(self, instruction_set: str | None = None) -> None:
        _prefer_installed()
        import fastsoftmax
        from fastsoftmax import _api, _backend

        self.version: str = fastsoftmax.__version__
        self.available: tuple[str, ...] = tuple(_backend.available())
        try:
            backend = _backend.load(instruction_set) if instruction_set else _backend.default()
        except (ImportError, ValueError) as error:
            raise UsageError(str(error)) from error
        self.instruction_set: str = backend.name
        self.functions = _api.over(backend)

    @property
    def native(self) -> bool:
        """Whether compiled kernels are measured."""
        return self.instruction_set != "numpy"

    @property
    def name(self) -> str:
        """The contender's name, which says so when it is the fallback."""
        return "fastsoftmax" if self.native else "fastsoftmax (NumPy fallback)"

    def call(self, case: Case, data: Data) -> Call:
        """Return the call of a cell."""
        function = getattr(self.functions, case.function)
        args, options = arguments(case, data)
        if case.compiled:
            out = options["out"]
            loop = _loop_of_numba() if case.compiled == "numba" else cython_loops().each_row
            return Call(loop, (*args, out), to_numpy=lambda _: out)
        return Call(function, args, options)

    def variants(self, case: Case, data: Data) -> dict[str, Call]:
        """Return further calls of ours that a target compares with: not contenders."""
        calls: dict[str, Call] = {}
        if case.workers > 1:
            args, options = arguments(case, data)
            options = {**options, "workers": 1}
            calls["one worker"] = Call(getattr(self.functions, case.function), args, options)
        if case.tags & {"input-format", "input-steps"}:
            wide = "float64" if case.result_dtype == "float64" else "float32"
            calls["plain"] = self._plainly(np.ascontiguousarray(data.x, wide))
        if case.tags & {"fresh-pages", "fresh-pages-float64"}:
            calls["out="] = self._plainly(data.x)
        if "rows-100-256" in case.tags:
            calls["rows of 300"] = self._plainly(np.resize(data.x, (case.elements // 300, 300)))
        if "ragged" in case.tags:
            rows = data.x.size // case.mean_length
            same = data.x[: rows * case.mean_length].reshape(rows, case.mean_length)
            calls["rows of one length"] = Call(self.functions.softmax, (same,))
        if "other-axis" in case.tags:
            x = np.ascontiguousarray(np.moveaxis(data.x, case.dimension, -1))
            calls["last axis"] = self._plainly(x)
        if "entropy-parts" in case.tags:
            grad = np.zeros_like(data.x)
            calls["its parts"] = Call(self._parts_of_cross_entropy, (data.x, data.labels, grad))
        if "blocks" in case.tags:
            calls |= self._in_blocks(data.x)
        return calls

    def _in_blocks(self, x: Array) -> dict[str, Call]:
        """Return a loop over blocks of rows, and Dask in one thread over them; none keeps results.

        The same with the classes in four chunks. Without Dask there are none of its calls.
        """
        softmax = self.functions.softmax
        rows, classes = len(x) // 4, x.shape[1]

        def loop(columns: int) -> None:
            for i, j in itertools.product(range(0, len(x), rows), range(0, classes, columns)):
                softmax(x[i : i + rows, j : j + columns])

        calls = {"loop": Call(loop, (classes,)), "loop, cut": Call(loop, (classes // 4,))}
        try:
            import dask.array as da

            import fastsoftmax.dask as lazy
        except ImportError:
            return calls

        def of_dask(chunked: Any) -> None:
            p = lazy.softmax(chunked)
            ends = p.map_blocks(_end, chunks=tuple((1,) * n for n in p.numblocks))
            ends.compute(scheduler="threads", num_workers=1)

        # from_array copies the blocks; what people hold in Dask is there already.
        whole, cut = (
            da.from_array(x, chunks=(rows, n), name=False) for n in (classes, classes // 4)
        )
        calls["Dask"] = Call(of_dask, (whole,))
        calls["Dask, cut"] = Call(of_dask, (cut,))
        return calls

    def _plainly(self, x: Array) -> Call:
        """Return a softmax of rows into a kept buffer."""
        return Call(self.functions.softmax, (x,), {"out": np.zeros_like(x)})

    def _parts_of_cross_entropy(self, x: Array, labels: Array, grad: Array) -> tuple[Array, Array]:
        """Return losses and gradients by calls of which each does a part."""
        rows = np.arange(len(x))
        loss = self.functions.logsumexp(x) - x[rows, labels]
        self.functions.softmax(x, out=grad)
        grad[rows, labels] -= 1
        return loss, grad


@functools.cache
def _loop_of_numba() -> Any:
    """Return a loop over rows that numba compiles; the kernels are those of the default backend."""
    from numba import njit

    from fastsoftmax import softmax

    def each_row(x: Array, out: Array) -> None:
        for i in range(len(x)):
            softmax(x[i], out=out[i])

    return njit(each_row)


@functools.cache
def cython_loops() -> Any:
    """Return `loops.pyx`, compiled as a user's module is."""
    import fastsoftmax

    cythonize: Any = import_module("Cython.Build").cythonize
    setuptools: Any = import_module("setuptools")
    source = str(Path(__file__).with_name("loops.pyx"))
    extension = setuptools.Extension(
        "fastsoftmax_loops", [source], include_dirs=[fastsoftmax.get_include()],
        extra_compile_args=["-O3"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        modules = cythonize([extension], build_dir=folder, language_level=3, quiet=True)
        build = setuptools.Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        build.build_lib = build.build_temp = folder
        build.ensure_finalized()
        build.run()
        spec = spec_from_file_location(extension.name, build.get_ext_fullpath(extension.name))
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def _end(block: Array) -> Array:
    """Return the last element of a block, so that the rest can be freed."""
    return block[-1:, -1:].copy()


def result_buffer(case: Case) -> Array:
    """Return a warm ``out=`` for a cell."""
    return np.zeros(case.result_shape, case.result_dtype)


def result_buffers(case: Case) -> Any:
    """Return a warm ``out=`` for a cell, of both results where there are two."""
    buffer = result_buffer(case)
    if case.function != "softmax_cross_entropy" or not case.is_pair:
        return buffer
    return np.zeros(case.shape[:-1], case.result_dtype), buffer


def arguments(case: Case, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a cell's function is called with."""
    options = {**dict(case.options), **data.arrays}
    if case.axis != -1:
        options["axis"] = case.axis
    if data.where is not None:
        options["where"] = data.where
    if case.out:
        options["out"] = result_buffers(case)
    if case.workers > 1:
        options["workers"] = case.workers
    if case.function.endswith("_backward"):
        return (data.grad_output, data.x), options
    if case.function == "softmax_cross_entropy":
        return (data.x, data.labels), options
    if case.function.startswith("segment"):
        return (data.x, data.indptr), options
    return (data.given,), options
