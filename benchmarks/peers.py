"""The peers, each behind an optional import and called the fast way.

Like is compared with like: where a cell hands out a buffer, only peers that write into one take
part; where it does not, all of them allocate. Conversions to a peer's own arrays happen before the
timed loop. A peer whose library lacks a function gives None for that cell; one that lacks an option
is not asked.
"""

import importlib.util
import os
from collections.abc import Callable
from importlib import import_module
from math import exp
from typing import Any

import numpy as np

from . import streams
from .cases import Case, UsageError
from .inputs import Array, Data
from .subject import arguments, cython_loops, result_buffer, result_buffers
from .timing import Call

Maker = Callable[[Case, Data], Call | None]

_ANY_LAYOUT = frozenset({"strided", "Fortran", "every second"})
"""The layouts that a peer takes which is handed arrays as they lie."""
_NO_TENSOR = frozenset({"list", "big-endian", "reversed"})
"""Those that other libraries' arrays cannot have: their users convert them first."""
_ANY_ARRAY = _ANY_LAYOUT | _NO_TENSOR
"""What a peer takes that is written for NumPy's arrays, or that converts first."""
_OF_CROSS_ENTROPY = frozenset(
    {"temperature", "sample_weight", "ignore_index", "return_grad", "probabilities"}
)


class Peer:
    """One library. A subclass offers a function by a method of that function's name."""

    name = ""
    module = ""
    distribution = ""
    """What the package index calls it; also what is asked for its version."""
    can: frozenset[str] = frozenset()
    """Which of `Case.needs` the library can serve."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @classmethod
    def installed(cls) -> bool:
        """Tell whether the library is here, without importing it."""
        return importlib.util.find_spec(cls.module) is not None

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell, or None where the library has no such thing."""
        maker: Maker | None = getattr(self, case.function, None)
        return maker(case, data) if maker else None

    def takes(self, case: Case) -> bool:
        """Tell whether the library has the options of a cell."""
        return case.needs <= self.can


def _temperature(case: Case, data: Data) -> Any:
    """Return the cell's temperature, or those of its rows; None where it has none."""
    return data.arrays.get("temperature", case.option("temperature"))


def _tempered(function: Callable[..., Any], temperature: Any) -> Callable[..., Any]:
    """Return a function that divides its input by the temperature first, if there is one."""
    if temperature is None:
        return function
    return lambda x, *args, **options: function(x / temperature, *args, **options)


def _converted(function: Callable[..., Any], case: Case) -> Callable[..., Any]:
    """Return a function that converts its input to the cell's ``dtype=`` first, if it has one."""
    dtype = case.option("dtype")
    if dtype is None:
        return function
    return lambda x, *args, **options: function(x.astype(dtype), *args, **options)


def _numpy_softmax(x: Any, axis: int | None = -1) -> Any:
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def _numpy_softmax_out(x: Any, axis: int | None, out: Array, temperature: Any) -> Any:
    if temperature is not None:
        x = np.divide(x, temperature, out=out)
    np.subtract(x, x.max(axis=axis, keepdims=True), out=out, dtype=out.dtype)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis=axis, keepdims=True), out=out)


def _numpy_softmax_where(x: Any, where: Array) -> Any:
    return _numpy_softmax(np.where(where, x, -np.inf).astype(x.dtype, copy=False))


def _numpy_log_softmax(x: Any) -> Any:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _numpy_logsumexp(x: Any, *, keepdims: bool = False) -> Any:
    top = x.max(axis=-1, keepdims=True)
    result = top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    return result if keepdims else result[..., 0]


def _numpy_weighted(x: Any, *, b: Array, return_sign: bool = False) -> Any:
    top = x.max(axis=-1, keepdims=True)
    total = (b * np.exp(x - top)).sum(axis=-1)
    result = top[..., 0] + np.log(abs(total))
    return (result, np.sign(total)) if return_sign else result


def _numpy_softmax_backward(g: Any, y: Any) -> Any:
    products = g * y
    return products - y * products.sum(axis=-1, keepdims=True)


def _numpy_log_softmax_backward(g: Any, y: Any, where: Array | None = None) -> Any:
    if where is not None:
        return np.where(where, _numpy_log_softmax_backward(np.where(where, g, 0), y), 0)
    return g - np.exp(y) * g.sum(axis=-1, keepdims=True)


def _numpy_cross_entropy(
    logits: Array, labels: Array, *, where: Array | None = None, sample_weight: Any = None,
    temperature: Any = None, ignore_index: int | None = None, dtype: Any = None,
    return_grad: bool = False,
) -> Any:  # fmt: skip
    if dtype is not None:
        logits = logits.astype(dtype)
    if temperature is not None:
        logits = logits / temperature
    if where is not None:
        logits = np.where(where, logits, logits.dtype.type(-np.inf))
    log_p = _numpy_log_softmax(logits)
    is_soft = labels.ndim == logits.ndim
    rows = np.arange(len(labels))
    if ignore_index is not None:
        kept = labels != ignore_index
        labels = np.where(kept, labels, 0)
        sample_weight = kept if sample_weight is None else kept * sample_weight
    loss = -(labels * log_p).sum(axis=-1) if is_soft else -log_p[rows, labels]
    if sample_weight is not None:
        loss *= sample_weight
    if not return_grad:
        return loss
    grad = np.exp(log_p)
    if is_soft:
        grad -= labels
    else:
        grad[rows, labels] -= 1
    if sample_weight is not None:
        grad *= np.reshape(sample_weight, (-1, 1))
    if temperature is not None:
        grad /= temperature
    return loss, grad


def _numpy_cross_entropy_out(logits: Array, labels: Array, loss: Array, grad: Array) -> Any:
    rows = np.arange(len(labels))
    np.subtract(logits, logits.max(axis=-1, keepdims=True), out=grad)
    chosen = grad[rows, labels]
    np.exp(grad, out=grad)
    total = grad.sum(axis=-1, keepdims=True)
    np.subtract(np.log(total[:, 0]), chosen, out=loss)
    np.divide(grad, total, out=grad)
    grad[rows, labels] -= 1
    return loss, grad


def _numpy_segments(function: str) -> Callable[..., Any]:
    def segments(data: Array, indptr: Array, temperature: float | None = None) -> Any:
        if temperature is not None:
            data = data / temperature
        starts, lengths = indptr[:-1], np.diff(indptr)
        tops = np.maximum.reduceat(data, starts)
        shifted = data - np.repeat(tops, lengths, axis=0)
        weights = np.exp(shifted)
        totals = np.add.reduceat(weights, starts)
        if function == "segment_softmax":
            return weights / np.repeat(totals, lengths, axis=0)
        logs = np.log(totals)
        if function == "segment_logsumexp":
            return tops + logs
        return shifted - np.repeat(logs, lengths, axis=0)

    return segments


_NUMPY: dict[str, Callable[..., Any]] = {
    "log_softmax": _numpy_log_softmax,
    "logsumexp": _numpy_logsumexp,
    "softmax_backward": _numpy_softmax_backward,
    "log_softmax_backward": _numpy_log_softmax_backward,
    "softmax_cross_entropy": _numpy_cross_entropy,
    "segment_softmax": _numpy_segments("segment_softmax"),
    "segment_log_softmax": _numpy_segments("segment_log_softmax"),
    "segment_logsumexp": _numpy_segments("segment_logsumexp"),
}


class NumPy(Peer):
    """The textbook formula, as most code has it."""

    name, module, distribution = "NumPy", "numpy", "numpy"
    can = _ANY_ARRAY | _OF_CROSS_ENTROPY | {"dtype", "keepdims", "b", "return_sign"}

    def softmax(self, case: Case, data: Data) -> Call | None:
        """Softmax in three passes; in place in the caller's buffer where there is one.

        Not of bfloat16, which NumPy adds one by one: a sum of 1000 is off by a third.
        """
        if case.result_dtype == "bfloat16":
            return None
        if data.where is not None:
            return None if case.out else Call(_numpy_softmax_where, (data.x, data.where))
        if data.values is not None:
            return Call(lambda x: _numpy_softmax(np.asarray(x)), (data.values,))
        if case.out:
            buffer, temperature = result_buffer(case), _temperature(case, data)
            return Call(_numpy_softmax_out, (data.x, case.axis, buffer, temperature))
        function = _converted(_tempered(_numpy_softmax, _temperature(case, data)), case)
        return Call(function, (data.x, case.axis))

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell: into the caller's buffers, of softmax and cross-entropy alone.

        Not of a cross-entropy in float16, whose exponential would take NumPy half a minute.
        """
        if case.function == "softmax":
            return self.softmax(case, data)
        args, options = arguments(case, data)
        options.pop("workers", None)
        if not case.out:
            function = _numpy_weighted if "b" in options else _NUMPY[case.function]
            return Call(function, args, options)
        if case.function != "softmax_cross_entropy" or case.dtype == "float16":
            return None
        return Call(_numpy_cross_entropy_out, (*args, *options["out"]))


class SciPy(Peer):
    """``scipy.special``, which has no ``out=``."""

    name, module, distribution = "SciPy", "scipy", "scipy"
    can = _ANY_ARRAY | {"temperature", "dtype", "keepdims", "b", "return_sign"}

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell."""
        from scipy import special

        function = getattr(special, case.function, None)
        if function is None or case.out or data.where is not None:
            return None
        options: dict[str, Any] = {"axis": case.axis}
        options |= {name: True for name in ("keepdims", "return_sign") if case.option(name)}
        if "b" in data.arrays:
            options["b"] = data.arrays["b"]
        function = _converted(_tempered(function, _temperature(case, data)), case)
        return Call(function, (data.given,), options)


class ScikitLearn(Peer):
    """``sklearn.utils.extmath.softmax``: two dimensions, the last axis."""

    name, module, distribution = "scikit-learn", "sklearn", "scikit-learn"
    can = _ANY_ARRAY

    def softmax(self, case: Case, data: Data) -> Call | None:
        """Softmax into a copy."""
        from sklearn.utils.extmath import softmax

        if case.out or data.where is not None or data.x.ndim != 2 or case.axis != -1:
            return None
        return Call(softmax, (data.x,))


class Torch(Peer):
    """PyTorch on tensors made outside the loop, without autograd except where it is the subject."""

    name, module, distribution = "torch", "torch", "torch"
    can = _ANY_ARRAY | _OF_CROSS_ENTROPY | {"dtype", "keepdims"}

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell, on as many threads as the cell has workers."""
        self.torch.set_num_threads(case.workers)
        if case.function in ("softmax", "log_softmax", "logsumexp"):
            return self._forward(case, data)
        if case.function.endswith("_backward"):
            return self._backward(case, data)
        return super().call(case, data)

    def _tensor(self, value: Any) -> Any:
        """Return a tensor over an array's memory (torch does not know NumPy's bfloat16)."""
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype.name != "bfloat16":
            return self.torch.from_numpy(value)
        return self.torch.from_numpy(value.view(np.int16)).view(self.torch.bfloat16)

    def _array(self, tensor: Any) -> Array:
        """Return an array over a tensor's memory."""
        if tensor.dtype != self.torch.bfloat16:
            return np.asarray(tensor)
        return np.asarray(tensor.view(self.torch.int16)).view("bfloat16")

    def _forward(self, case: Case, data: Data) -> Call:
        """Return torch's function; a mask is filled with -inf first, as attention code does."""
        torch, function = self.torch, getattr(self.torch, case.function)
        options: dict[str, Any] = {}
        if case.out:
            options["out"] = self._tensor(result_buffer(case))
        if case.result_dtype != case.dtype:
            options["dtype"] = getattr(torch, case.result_dtype)
        if case.option("keepdims"):
            options["keepdim"] = True
        if case.layout in _NO_TENSOR:

            def converted(x: Any, axis: int, **options: Any) -> Any:
                array = np.ascontiguousarray(x, case.dtype)
                return function(torch.from_numpy(array), axis, **options)

            return Call(converted, (data.given, case.dimension), options)
        x = self._tensor(data.x)
        if data.where is not None:
            dropped = torch.from_numpy(~data.where)
            return Call(
                lambda x, **options: function(x.masked_fill(dropped, -torch.inf), -1, **options),
                (x,), options,
            )  # fmt: skip
        function = _tempered(function, self._tensor(_temperature(case, data)))
        return Call(function, (x, case.dimension), options, to_numpy=self._array)

    def _backward(self, case: Case, data: Data) -> Call | None:
        """ATen's own kernel, without autograd around it."""
        if data.where is not None:
            return None
        kernel = getattr(self.torch.ops.aten, f"_{case.function}_data").default
        grad, output = (self.torch.from_numpy(array) for array in (data.grad_output, data.x))
        return Call(kernel, (grad, output, -1, output.dtype))

    def softmax_cross_entropy(self, case: Case, data: Data) -> Call | None:
        """Loss, and gradient through autograd, as a training loop has them.

        With buffers, the log-probabilities go to the gradient's, and become it there.
        """
        torch = self.torch
        labels = torch.from_numpy(data.labels)
        if case.out:
            return self._cross_entropy_out(torch.from_numpy(data.x), labels, case)
        temperature = _temperature(case, data)
        weight = self._tensor(data.arrays.get("sample_weight", case.option("sample_weight")))
        dropped = None if data.where is None else torch.from_numpy(~data.where)
        dtype = None if case.option("dtype") is None else getattr(torch, case.result_dtype)
        ignored = case.option("ignore_index", -100)

        def losses(logits: Any, labels: Any) -> Any:
            if temperature is not None:
                logits = logits / temperature
            if dropped is not None:
                logits = logits.masked_fill(dropped, -torch.inf)
            loss = torch.nn.functional.cross_entropy(
                logits, labels, reduction="none", ignore_index=ignored
            )
            return loss if weight is None else loss * weight

        logits = torch.from_numpy(data.x)
        if not case.option("return_grad"):
            return Call(losses, (logits, labels))
        if dtype is None:
            logits = logits.clone().requires_grad_()

        def step(logits: Any, labels: Any) -> tuple[Any, Any]:
            if dtype is not None:
                logits = logits.to(dtype).requires_grad_()
            with torch.enable_grad():
                loss = losses(logits, labels)
                (grad,) = torch.autograd.grad(loss.sum(), logits)
            return loss.detach(), grad

        return Call(step, (logits, labels))

    def _cross_entropy_out(self, x: Any, labels: Any, case: Case) -> Call:
        torch = self.torch
        loss, grad = map(torch.from_numpy, result_buffers(case))
        columns = labels[:, None]

        def step(x: Any, loss: Any, grad: Any) -> tuple[Any, Any]:
            torch.log_softmax(x, -1, out=grad)
            torch.neg(grad.gather(1, columns)[:, 0], out=loss)
            torch.exp(grad, out=grad)
            grad.scatter_add_(1, columns, torch.full_like(columns, -1, dtype=grad.dtype))
            return loss, grad

        return Call(step, (x, loss, grad))

    def segment_softmax(self, case: Case, data: Data) -> Call | None:
        """``torch.segment_reduce`` for the largest elements and the sums."""
        torch = self.torch
        assert data.indptr is not None
        x, ends = torch.from_numpy(data.x), torch.from_numpy(data.indptr)
        lengths = torch.from_numpy(np.diff(data.indptr))

        def segments(x: Any, ends: Any, lengths: Any) -> Any:
            tops = torch.segment_reduce(x, "max", offsets=ends, axis=0, unsafe=True)
            weights = torch.exp(x - tops.repeat_interleave(lengths, 0, output_size=len(x)))
            totals = torch.segment_reduce(weights, "sum", offsets=ends, axis=0, unsafe=True)
            return weights / totals.repeat_interleave(lengths, 0, output_size=len(x))

        return Call(_tempered(segments, _temperature(case, data)), (x, ends, lengths))


class OnnxRuntime(Peer):
    """ONNX Runtime: ``run`` where results are fresh, bound buffers where the caller keeps them."""

    name, module, distribution = "ONNX Runtime", "onnxruntime", "onnxruntime"
    can = _ANY_LAYOUT | {"big-endian", "reversed", "dtype", "temperature", "keepdims"}

    @classmethod
    def installed(cls) -> bool:
        """Tell whether the runtime and the package that makes its models are here."""
        return super().installed() and importlib.util.find_spec("onnx") is not None

    def _session(self, case: Case, data: Data, operator: str, attributes: dict[str, Any]) -> Any:
        """Return a session of the operator, after a cast, a division and a mask where asked for."""
        import onnxruntime
        from onnx import helper

        given, element, boolean = (
            helper.np_dtype_to_tensor_dtype(np.dtype(name))
            for name in (case.dtype, case.result_dtype, "bool")
        )
        inputs = [helper.make_tensor_value_info("x", given, case.shape)]
        output = helper.make_tensor_value_info("y", element, None)
        constants, nodes, last = [], [], "x"
        if case.result_dtype != case.dtype:
            nodes.append(helper.make_node("Cast", [last], ["wide"], to=element))
            last = "wide"
        temperature = _temperature(case, data)
        if temperature is not None:
            values = np.asarray(temperature, case.result_dtype)
            constants.append(helper.make_tensor("temperature", element, values.shape, values))
            nodes.append(helper.make_node("Div", [last, "temperature"], ["divided"]))
            last = "divided"
        if data.where is not None:
            inputs.append(helper.make_tensor_value_info("where", boolean, case.shape))
            constants.append(helper.make_tensor("masked", element, (), [-np.inf]))
            nodes.append(helper.make_node("Where", ["where", last, "masked"], ["kept"]))
            last = "kept"
        nodes.append(helper.make_node(operator, [last], ["y"], **attributes))
        graph = helper.make_graph(nodes, "peer", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.workers
        # Idle threads that spin on after a run would take a core from the next contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _run(self, case: Case, data: Data, operator: str, attributes: dict[str, Any]) -> Call:
        session = self._session(case, data, operator, attributes)
        feeds = {"x": data.x}
        if data.where is not None:
            feeds["where"] = np.ascontiguousarray(data.where)
        if not case.out:
            return Call(session.run, (["y"], feeds), to_numpy=lambda results: results[0])
        import onnxruntime

        binding = session.io_binding()
        kept = feeds | {"x": np.ascontiguousarray(data.x, case.dtype)}
        for name, array in kept.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        buffer = onnxruntime.OrtValue.ortvalue_from_numpy(result_buffer(case))
        binding.bind_ortvalue_output("y", buffer)

        def copied_first(binding: Any) -> None:
            np.copyto(kept["x"], data.x)
            session.run_with_iobinding(binding)

        run = session.run_with_iobinding if case.layout == "contiguous" else copied_first
        return Call(run, (binding,), to_numpy=lambda _: buffer.numpy())

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell."""
        operators: dict[str, tuple[str, dict[str, Any]]] = {
            "softmax": ("Softmax", {"axis": case.dimension}),
            "log_softmax": ("LogSoftmax", {"axis": case.dimension}),
            "logsumexp": (
                "ReduceLogSumExp",
                {"axes": [case.dimension], "keepdims": int(case.option("keepdims", default=False))},
            ),
        }
        operator = operators.get(case.function)
        # It computes nothing in 16 bits on a CPU, and takes no arrays of bfloat16.
        if operator is None or "float16" in case.result_dtype or case.dtype == "bfloat16":
            return None
        return self._run(case, data, *operator)


class Jax(Peer):
    """JAX, jitted, on device arrays, waiting for the result; it has no ``out=``."""

    name, module, distribution = "JAX", "jax", "jax"
    can = _OF_CROSS_ENTROPY | {"dtype", "keepdims", "b", "return_sign"}

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Read once, when the library starts: the size of its thread pool and of its kernels' own.
        os.environ["NPROC"] = str(threads)
        if threads == 1:
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        jax = import_module("jax")
        jax.config.update("jax_enable_x64", True)
        # Waiting for a result by way of another thread costs small calls up to 80 us.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax = jax

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell."""
        if case.out or case.workers != self.threads:
            return None
        function = self._function(case, data)
        if function is None:
            return None
        operands = [a for a in (data.grad_output, data.x, data.labels) if a is not None]
        suffix = "[0].block_until_ready()" if case.is_pair else ".block_until_ready()"
        return Call(self.jax.jit(function), self.jax.device_put(tuple(operands)), suffix=suffix)

    def _function(self, case: Case, data: Data) -> Callable[..., Any] | None:
        nn, jnp, axis = self.jax.nn, self.jax.numpy, case.axis
        if case.function == "log_softmax_backward" and data.where is not None:
            return None
        mask, given = self.jax.device_put((data.where, data.arrays))
        temperature = given.get("temperature", case.option("temperature"))
        weight = given.get("sample_weight", case.option("sample_weight"))
        options = {name: True for name in ("keepdims", "return_sign") if case.option(name)}
        if "b" in given:
            options["b"] = given["b"]

        def cross_entropy(logits: Any, labels: Any) -> Any:
            log_p = nn.log_softmax(_tempered(jnp.asarray, temperature)(logits), where=mask)
            factor = 1 if weight is None else weight
            if case.labels == "probabilities":
                loss, target = -(labels * log_p).sum(-1), labels
            else:
                if case.option("ignore_index") is not None:
                    kept = labels != case.option("ignore_index")
                    labels, factor = jnp.where(kept, labels, 0), jnp.where(kept, factor, 0)
                loss = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
                target = nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
            factor = jnp.asarray(factor, log_p.dtype)
            if not case.option("return_grad"):
                return loss * factor
            grad = (jnp.exp(log_p) - target) * jnp.reshape(factor, (-1, 1))
            return loss * factor, grad if temperature is None else grad / temperature

        functions: dict[str, Callable[..., Any]] = {
            "softmax": lambda x: nn.softmax(x, axis=axis, where=mask),
            "log_softmax": lambda x: nn.log_softmax(x, axis=axis),
            "logsumexp": lambda x: nn.logsumexp(x, axis=axis, **options),
            "softmax_backward": lambda g, y: y * (g - (g * y).sum(-1, keepdims=True)),
            "log_softmax_backward": lambda g, y: g - jnp.exp(y) * g.sum(-1, keepdims=True),
            "softmax_cross_entropy": cross_entropy,
        }
        function = functions.get(case.function)
        if function is None:
            return None
        if case.function != "softmax_cross_entropy":
            function = _tempered(function, temperature)
        return _converted(function, case)


def _loops(x: Array, out: Array) -> Array:
    for i in range(x.shape[0]):
        top = x[i, 0]
        for j in range(x.shape[1]):
            top = max(top, x[i, j])
        total = x[i, 0] - x[i, 0]
        for j in range(x.shape[1]):
            out[i, j] = exp(x[i, j] - top)
            total += out[i, j]
        for j in range(x.shape[1]):
            out[i, j] /= total
    return out


class Numba(Peer):
    """The textbook loops, compiled by numba: what one writes when SciPy is too slow."""

    name, module, distribution = "numba", "numba", "numba"
    can = _ANY_LAYOUT | {"reversed", "numba loop"}

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        njit = import_module("numba").njit
        into = njit(_loops)

        def fresh(x: Array) -> Array:
            return into(x, np.empty_like(x))

        self.into, self.fresh = into, njit(fresh)

    def softmax(self, case: Case, data: Data) -> Call | None:
        """Softmax of rows, on one thread."""
        if data.where is not None or case.dimension != -1 or case.workers > 1:
            return None
        if data.x.dtype.itemsize == 2:  # floats that it does not know
            return None
        x = data.x.reshape(-1, case.row_length)
        function, args = (self.into, (x, np.zeros_like(x))) if case.out else (self.fresh, (x,))
        return Call(function, args, to_numpy=lambda result: result.reshape(case.shape))


class Cython(Peer):
    """The textbook loops, compiled by Cython, in cells whose loop is Cython's."""

    name, module, distribution = "Cython", "Cython", "Cython"
    can = frozenset({"Cython loop"})

    def softmax(self, case: Case, data: Data) -> Call | None:
        """Softmax of rows, one by one."""
        if not case.compiled:
            return None
        out = np.zeros_like(data.x)
        return Call(cython_loops().textbook, (data.x, out), to_numpy=lambda _: out)


class Awkward(Peer):
    """Awkward Array's ``ak.softmax`` of ragged rows, whose last axis alone it takes."""

    name, module, distribution = "Awkward", "awkward", "awkward"

    def segment_softmax(self, case: Case, data: Data) -> Call | None:
        """``ak.softmax`` of an array made outside the loop."""
        if data.x.ndim > 1 or case.out:
            return None
        import awkward

        assert data.indptr is not None
        ragged = awkward.unflatten(data.x, np.diff(data.indptr))
        return Call(
            awkward.softmax, (ragged,), {"axis": -1},
            to_numpy=lambda result: awkward.to_numpy(awkward.flatten(result)),
        )  # fmt: skip


class TensorFlow(Peer):
    """TensorFlow's eager operators, on tensors made outside the loop; it has no ``out=``."""

    name, module, distribution = "TensorFlow", "tensorflow", "tensorflow"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        self.tf = tf
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def call(self, case: Case, data: Data) -> Call | None:
        """Return the call of a cell."""
        function = {
            "softmax": self.tf.nn.softmax,
            "log_softmax": self.tf.nn.log_softmax,
            "logsumexp": self.tf.reduce_logsumexp,
        }.get(case.function)
        if function is None or case.out or data.where is not None or case.workers != self.threads:
            return None
        return Call(function, (self.tf.constant(data.x), case.dimension))


class OpenVino(Peer):
    """OpenVINO, with the output buffer that its request keeps: it counts as ``out=``."""

    name, module, distribution = "OpenVINO", "openvino", "openvino"

    def softmax(self, case: Case, data: Data) -> Call | None:
        """Softmax by a compiled one-operator model, at the input's own precision."""
        if not case.out or data.x.dtype != np.float32:
            return None
        import openvino
        from openvino import opset13

        x = opset13.parameter(case.shape, data.x.dtype, name="x")
        model = openvino.Model([opset13.softmax(x, case.dimension)], [x], "peer")
        settings = {
            "INFERENCE_NUM_THREADS": case.workers,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(data.x, shared_memory=True))
        return Call(request.infer, to_numpy=lambda _: request.get_output_tensor().data)


PEERS: dict[str, type[Peer]] = {
    peer.module.lower(): peer
    for peer in (
        NumPy, SciPy, ScikitLearn, Torch, OnnxRuntime, Jax, Numba, Cython, Awkward, TensorFlow,
        OpenVino,
    )
}  # fmt: skip
"""By what `--peers` calls them."""


def choose(names: str | None, threads: int) -> list[Peer]:
    """Return the peers asked for, comma-separated; without names, all that are installed."""
    if names is None:
        return [peer(threads) for peer in PEERS.values() if peer.installed()]
    chosen = []
    for name in filter(None, names.split(",")):
        if name not in PEERS:
            raise UsageError(f"no peer is named {name!r}; there are {', '.join(PEERS)}")
        if not PEERS[name].installed():
            raise UsageError(f"{name} is not installed; leave it out of --peers, or install it")
        chosen.append(PEERS[name](threads))
    return chosen


def distinct(names: str | None) -> list[Peer]:
    """Return the peers asked for; without names, all installed ones with a formula of their own.

    scikit-learn's and numba's is NumPy's.
    """
    if names is None:
        known = ("scipy", "torch", "onnxruntime", "jax", "openvino", "tensorflow")
        names = ",".join(name for name in known if PEERS[name].installed())
    return choose(names, threads=1)


def yardsticks(case: Case, data: Data) -> dict[str, Call]:
    """Return what is a measure of scale and no contender: ``numpy.exp`` and `streams.bound`.

    The yardstick of calls is one for all: a fresh result, of contiguous float32.
    """
    wide = data.x.astype(case.result_dtype)
    exp_of = Call(np.exp, (wide,), {"out": np.zeros_like(wide)} if case.out else {})
    if "call" in case.tags:
        exp_of = Call(np.exp, (np.ascontiguousarray(data.x, np.float32),))
    calls = {"numpy.exp": exp_of, "copy": streams.bound(case, data)}
    if data.values is not None:
        calls["numpy.asarray"] = Call(np.asarray, (data.values,))
    return calls
