"""The cells of the benchmark, each with the reason it is there.

This table is the only definition of what is measured: the runner, the targets, the README's table,
the plots and ``pytest benchmarks/`` iterate over it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

_PACKAGES = {"numba": ["numba"], "Cython": ["Cython", "setuptools"], "ml_dtypes": ["ml_dtypes"]}
LACKING = {name for name, needed in _PACKAGES.items() if not all(map(find_spec, needed))}
"""What some cells need and is not here. Cython needs a C compiler too, as fastsoftmax does."""
if "ml_dtypes" not in LACKING:
    import_module("ml_dtypes")  # from here on, NumPy has a dtype of the name "bfloat16"

HOT_LOOP_CALLS = 100_000

IGNORED = -100
"""The label of the rows that ``ignore_index=`` leaves out, torch's default."""

CACHE_SWEEP_ROW = 1024
"""Row length of the throughput sweep: every regime but the short rows passes through it."""


_USUAL = {"contiguous", "indices"}
"""The layout and the labels that need no mention."""


class UsageError(ValueError):
    """What was asked for on the command line cannot be had."""


def short_dtype(dtype: str) -> str:
    """Return f32 for float32, and so on."""
    return dtype.replace("float", "f").replace("uint", "u").replace("int", "i")


@dataclass(frozen=True)
class Case:
    """One cell: a function on one input, called in one way."""

    name: str
    shape: tuple[int, ...]
    reason: str
    function: str = "softmax"
    dtype: str = "float32"
    axis: int | None = -1
    """The reduced axis as the call has it; None, which reduces all axes, for single rows only."""
    out: bool = False
    """Whether results go to a buffer that the caller keeps; otherwise each call allocates."""
    source: str = "normal"
    """The maker of the input, a name in ``inputs.SOURCES``."""
    layout: str = "contiguous"
    """How the input lies in memory, a name in ``inputs.LAYOUTS``, or "list" for a Python list."""
    labels: str = "indices"
    """What a cross-entropy is told of the right class: its index, or "probabilities"."""
    where: bool = False
    mean_length: int = 50
    """Of the segments, about."""
    arrays: tuple[str, ...] = ()
    """Further arguments that are arrays, by name: those in ``inputs.ARRAYS``."""
    options: tuple[tuple[str, Any], ...] = ()
    """Further keyword arguments of the call, by name."""
    compiled: str = ""
    """What has compiled the loop that gives the rows one by one: "numba" or "Cython"."""
    workers: int = 1
    calls: int | None = None
    """A fixed number of calls in one sample, where the loop itself is the subject."""
    quick: bool = False
    tags: frozenset[str] = frozenset()
    note: str = ""
    """What a label ends with where the rest of it is another cell's too."""

    @property
    def lacks(self) -> str | None:
        """The package without which there is no such array or loop, if it is not installed."""
        needed = "ml_dtypes" if self.dtype == "bfloat16" else self.compiled
        return needed if needed in LACKING else None

    @property
    def elements(self) -> int:
        """Number of elements of the input."""
        return prod(self.shape)

    @property
    def row_length(self) -> int:
        """Length of the reduced axis."""
        return self.shape[self.dimension]

    @property
    def dimension(self) -> int:
        """The reduced axis, for libraries that know no ``axis=None``."""
        return -1 if self.axis is None else self.axis

    @property
    def result_dtype(self) -> str:
        """The dtype of a right answer."""
        dtype = np.dtype(self.option("dtype", self.dtype))
        return "float64" if dtype.kind in "biu" else dtype.name

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of a right answer, or of its last part where there are two.

        The shape of a ``segment_logsumexp`` depends on the row pointers, which are not here.
        """
        if self.function == "logsumexp":
            kept = (1,) * self.option("keepdims", default=False)
            at = self.dimension % len(self.shape)
            return (*self.shape[:at], *kept, *self.shape[at + 1 :])
        if self.function == "softmax_cross_entropy" and not self.option("return_grad"):
            return tuple(np.delete(self.shape, self.dimension))
        return self.shape

    @property
    def is_pair(self) -> bool:
        """Whether there are two results: a loss and its gradient, or a logarithm and a sign."""
        return bool(self.option("return_grad") or self.option("return_sign"))

    @property
    def needs(self) -> frozenset[str]:
        """What a library must be capable of beside the function itself, in terms of `Peer.can`."""
        found = {name for name, _ in self.options} | {self.layout, self.labels, *self.arrays}
        if self.result_dtype != self.dtype:
            found.add("dtype")
        if self.compiled:
            found.add(f"{self.compiled} loop")
        return frozenset(found - _USUAL)

    def option(self, name: str, default: Any = None) -> Any:
        """Return the value of one of ``options``."""
        return dict(self.options).get(name, default)

    @property
    def label(self) -> str:
        """What is called on what, in one short line: the cell's name in tables and pictures."""
        parts = [self.function, short_dtype(self.dtype), "×".join(map(str, self.shape))]
        parts += [word for word in (self.layout, self.labels) if word not in _USUAL]
        if self.axis != -1:
            parts.append(f"axis={self.axis}")
        parts += [f"{name}=array" for name in self.arrays]
        for name, value in self.options:
            text = str(value) if np.isscalar(value) else short_dtype(np.dtype(value).name)
            parts.append(name if value is True else f"{name}={text}")
        parts += ["where=" if self.where else "", self.compiled, "out=" if self.out else ""]
        parts += [f"workers={self.workers}" if self.workers > 1 else "", self.note]
        return " ".join(filter(None, parts))


def _tags(*names: str) -> frozenset[str]:
    return frozenset(names)


def _both_dtypes(case: Case, *, quick64: bool | None = None) -> Iterator[Case]:
    """Yield the cell in float32 and in float64 (``quick64``: is the latter in the quick run)."""
    yield case
    quick = case.quick if quick64 is None else quick64
    tags = frozenset(f"{tag}-float64" for tag in case.tags)
    yield replace(case, name=f"{case.name}-f64", dtype="float64", quick=quick, tags=tags)


WITH_GRADIENT = (("return_grad", True),)


# One cell is one or two lines.
# fmt: off
def _small_calls() -> Iterator[Case]:
    """Yield calls of which nearly all of the time is overhead, with each option and function."""
    row = Case("call", (46,), "", source="clusters46", quick=True, tags=_tags("call"))

    def call(name: str, reason: str, of: Case = row, **fields: Any) -> Case:
        return replace(of, name=f"call-{name}", reason=reason, **fields)

    plainest = replace(row, name="one-row-46", tags=_tags("call", "plainest-call"),
                       reason="one prediction of a 46-class classifier: nearly all is overhead")
    yield from _both_dtypes(plainest)
    yield replace(row, name="one-row-46-out", reason="the same into a kept buffer", out=True)
    yield Case("hot-loop-10", (10,), "10^5 calls on one row, as a sampling or bandit loop has them",
               source="digits", calls=HOT_LOOP_CALLS, quick=True, tags=_tags("hot-loop"))
    yield call("where", "action values of one state under its mask of legal moves", where=True)
    yield call("temperature", "one sampling step, or one calibrated prediction",
               options=(("temperature", 0.7),))
    yield call("temperature-int", "a temperature written as an int, as most are",
               options=(("temperature", 2),))
    yield call("axis-none", "SciPy's default, spelled out in code that comes from it", axis=None)
    yield call("dtype", "float32 logits, float64 probabilities", options=(("dtype", np.float64),))
    yield call("float16", "half precision, which a network's output may be in", dtype="float16")
    yield call("int64", "counts or votes as scores", dtype="int64")
    yield call("list", "a Python list, as a first try or a JSON request has it", dtype="float64",
               layout="list", tags=_tags("call", "call-of-list"))
    yield call("log_softmax", "log-probabilities of one prediction", function="log_softmax")
    total = replace(row, function="logsumexp")
    yield call("logsumexp", "one row's log-partition, a scalar", total)
    yield call("keepdims", "the same, to be subtracted from its logits", total,
               options=(("keepdims", True),))
    yield call("b", "a mixture of 46 components: weights and log-densities of one point", total,
               arrays=("b",))
    yield call("return_sign", "the same of a difference: weights of both signs", total,
               arrays=("b",), options=(("return_sign", True),))

    rows = replace(row, shape=(32, 46))
    yield call("rows", "a small batch, for the next ones to be read beside", rows)
    yield call("strided", "the real classes of a vocabulary padded to 64: x[:, :46]", rows,
               layout="strided")
    yield call("fortran", "Fortran order, as a transposed or pandas array has it", rows,
               layout="Fortran")
    yield call("axis-0", "46 columns of 32 classes: the reduced axis strides", rows, axis=0)
    yield call("temperatures", "32 requests, each with a temperature of its own", rows,
               arrays=("temperature",))
    for function in ("softmax_backward", "log_softmax_backward"):
        yield call(function, "the gradient of a small batch", rows, function=function)
    yield call("log_softmax_backward-where", "the same under its mask of legal moves", rows,
               function="log_softmax_backward", where=True)

    loss = replace(row, shape=(32, 10), source="digits", function="softmax_cross_entropy")
    step = replace(loss, options=WITH_GRADIENT)
    yield call("training-step", "loss and gradient of a batch of 32 over ten classes", step,
               tags=_tags("call", "training-step"))
    yield call("loss", "the loss alone, as validation takes it", loss)
    yield call("soft-labels", "loss and gradient against a teacher's probabilities", step,
               labels="probabilities")
    yield call("sample_weight", "a policy's gradient: each loss times its advantage", step,
               arrays=("sample_weight",))
    yield call("legal-actions", "an imitated policy over the actions that are legal", step,
               where=True)
    yield call("ignore_index", "tokens of a batch of which some are padding", step,
               options=(*WITH_GRADIENT, ("ignore_index", IGNORED)))
    yield call("training-step-out", "loss and gradient into kept buffers", step, out=True)
    yield call("loss-dtype", "float32 losses of a half-precision network's logits", step,
               dtype="float16", options=(*WITH_GRADIENT, ("dtype", np.float32)))
    ragged = replace(row, shape=(1930,), source="normal", function="segment_softmax")
    yield call("segments", "32 ragged rows of 60 elements on average: a graph's nodes", ragged)
    for function in ("segment_log_softmax", "segment_logsumexp"):
        yield call(function, "another function of the same ragged rows", ragged, function=function)
    yield call("heads", "attention over a small graph: 240 edges, sorted by node, with 8 heads",
               ragged, shape=(240, 8))


def _short_rows() -> Iterator[Case]:
    yield from _both_dtypes(Case(
        "short-3", (8192, 3), "three classes, of scikit-learn's wines: less than most vectors",
        source="wine", quick=True, tags=_tags("short-3")))
    yield from _both_dtypes(Case(
        "digits-10", (8192, 10), "ten classes: a classifier fitted on scikit-learn's digits",
        source="digits", quick=True, tags=_tags("short-10")))
    yield from _both_dtypes(Case(
        "short-16", (8192, 16), "16 classes, about where the kernels of short rows end",
        quick=True, tags=_tags("short-16")), quick64=False)


def _rows_of_classes() -> Iterator[Case]:
    batch = Case("batch-46", (512, 46), "a batch of 512 over 46 classes, as news topics have",
                 source="clusters46", quick=True)
    yield from _both_dtypes(batch)
    yield replace(batch, name="subnormal-46", source="discriminant46", quick=False,
                  reason="scores far apart: subnormal results, slow on many CPUs",
                  note="subnormal")
    rows64 = Case("rows-64", (8192, 64), "rows of whole vectors", quick=True)
    yield from _both_dtypes(rows64, quick64=False)
    yield replace(rows64, name="rows-64-out", out=True, quick=False)
    rows1000 = Case("rows-1000", (1024, 1000), "the classic image classifier's 1000 classes",
                    quick=True, tags=_tags("rows-1000"))
    kept = replace(rows1000, name="rows-1000-out", out=True, tags=_tags("rows-1000-out"))
    yield from _both_dtypes(rows1000)
    yield from _both_dtypes(kept)
    yield Case("attention", (8, 12, 128, 128), "attention scores: 8 texts, 12 heads, 128 tokens",
               source="attention", quick=True)
    yield Case("attention-causal", (8, 12, 128, 128), "attention scores under a causal mask",
               source="attention", where=True, quick=True, tags=_tags("family"))
    yield Case("attention-197", (4, 12, 197, 197), "attention scores of an image's 197 patches",
               source="attention")
    for n in (100, 128, 197, 256):
        yield replace(kept, name=f"rows-{n}-out", shape=(1_024_000 // n, n), quick=False,
                      reason="a length that attention has, beside rows of 300",
                      tags=_tags("rows-100-256"))
    yield replace(kept, name="rows-1000-16MiB", shape=(4096, 1000), quick=False,
                  reason="16 MiB, where results begin to go past the caches", tags=_tags("dip"))


def _inputs() -> Iterator[Case]:
    """Yield rows of 1000 in what else people hold, beside the same in float32 or float64."""
    rows = Case("input", (1024, 1000), "", out=True, tags=_tags("input-format"))
    to_f32 = (("dtype", np.float32),)

    def given(name: str, reason: str, **fields: Any) -> Case:
        return replace(rows, name=f"input-{name}", reason=reason, **fields)

    yield given("f16", "half precision, summed in float32", dtype="float16", quick=True)
    yield given("f16-to-f32", "half precision, float32 results", dtype="float16", options=to_f32)
    yield given("bf16", "bfloat16, as large networks have it", dtype="bfloat16", quick=True)
    yield given("bf16-to-f32", "bfloat16, float32 results", dtype="bfloat16", options=to_f32)
    yield given("i8", "scores of a quantised network", dtype="int8", quick=True)
    yield given("i8-to-f32", "scores of a quantised network, float32 results", dtype="int8",
                options=to_f32, quick=True)
    for name, dtype in (("u8", "uint8"), ("i16", "int16"), ("i32", "int32"), ("i64", "int64")):
        yield given(name, "counts as scores", dtype=dtype, source="counts")
    yield given("bool", "what was counted at all", dtype="bool", source="counts")
    yield given("f64-to-f32", "float64 scores, float32 results", dtype="float64", options=to_f32)
    yield given("where", "about half of each row takes part", where=True)
    yield given("temperatures", "a temperature a row", arrays=("temperature",))
    yield given("big-endian", "as a file of another machine has it", layout="big-endian")
    steps = _tags("input-steps")
    yield given("step-2", "every second column", layout="every second", tags=steps)
    yield given("reversed", "columns from the last to the first", layout="reversed", tags=steps)
    yield Case("input-f16-digits", (8192, 10), "logits of a small network in half precision",
               dtype="float16", source="digits", quick=True)
    yield Case("input-i8-digits", (8192, 10), "the same, quantised: fixed point, in eighths",
               dtype="int8", source="eighths", quick=True,
               options=(("temperature", 8.0), ("dtype", np.float32)))
    yield Case("input-padded-vocabulary", (64, 50257), "a vocabulary padded to 50304",
               source="vocabulary", layout="strided")


def _long_rows() -> Iterator[Case]:
    for n, quick64 in ((50257, False), (131072, True)):
        row = Case(f"vocabulary-{n}", (1, n), f"next-token logits over a vocabulary of {n}",
                   source="vocabulary", quick=True)
        yield from _both_dtypes(row, quick64=quick64)
    yield replace(row, name=f"{row.name}-out", reason="the same into a kept buffer", out=True,
                  quick=False)
    yield Case("sampling", (64, 50257), "one step of 64 requests, each at its own temperature",
               source="vocabulary", arrays=("temperature",), quick=True)
    row = Case("one-row", (1, 20_000_000), "one row of 80 MB: two readings, one writing bound it",
               out=True, tags=_tags("one-row"))
    log = replace(row, name="one-row-logsumexp", function="logsumexp", out=False,
                  reason="its log-partition: one reading bounds it")
    yield from (row, log)
    for case in (row, log):
        yield replace(case, name=f"{case.name}-two-workers", workers=2, reason="the same, shared")


def _large_arrays() -> Iterator[Case]:
    large = Case("large", (65536, 1000), "memory bandwidth, and page faults of a fresh result",
                 tags=_tags("fresh-pages"))
    yield from _both_dtypes(large)
    yield from _both_dtypes(replace(large, name="large-out", out=True, tags=_tags("large"),
                                    reason="into a warm buffer: bandwidth alone"))
    yield replace(large, name="blocks", tags=_tags("blocks"), note="by blocks",
                  reason="whole, beside a loop over blocks and Dask, cut classes too")


def _other_axes() -> Iterator[Case]:
    axes = _tags("other-axis")
    yield Case("axis-0", (1000, 1024), "the reduced axis strides over memory: columns as rows",
               axis=0, out=True, quick=True, tags=axes)
    yield Case("segmentation", (8, 21, 256, 256), "21 class maps of 8 images: the middle axis",
               axis=1, out=True, quick=True, tags=axes)
    yield Case("middle-axis-8", (10000, 7, 8), "7 classes, 8 columns: less than a wide vector",
               axis=1, tags=axes)


def _ragged() -> Iterator[Case]:
    for mean, what in (
        (1, "the leaves of a tree"), (3, "the corners of a mesh"), (10, "the links of a page"),
    ):
        yield Case(f"ragged-{mean}", (200_000,), f"segments of {mean} on average, as {what}",
                   "segment_softmax", mean_length=mean, quick=mean == 3, note=f"mean {mean}",
                   tags=_tags("family", "ragged"))
    yield Case("segments", (500_000,), "ragged rows of 1 to 99 elements, cut by CSR row pointers",
               "segment_softmax", tags=_tags("family"))
    yield Case("edges-heads", (100_000, 8), "graph attention: seven edges a node, 8 heads",
               "segment_softmax", quick=True, tags=_tags("family"))


def _logarithms_and_gradients() -> Iterator[Case]:
    family, classes = _tags("family"), (1024, 1000)
    for function in ("log_softmax", "logsumexp"):
        yield Case(f"{function}-digits", (8192, 10), "confident logits: answers near 0 lose digits",
                   function, source="digits", quick=True, tags=family)
        yield from _both_dtypes(Case(f"{function}-1000", classes, "the classic 1000 classes",
                                     function, quick=True, tags=family), quick64=False)
    for function in ("softmax_backward", "log_softmax_backward"):
        quick = function == "softmax_backward"
        yield from _both_dtypes(Case(f"{function}-1000", classes, "given the forward result",
                                     function, quick=quick, tags=family), quick64=False)
    step = Case("cross-entropy-digits", (8192, 10), "a training step's loss and gradient",
                "softmax_cross_entropy", options=WITH_GRADIENT, source="digits", quick=True,
                tags=family)
    yield step
    step = replace(step, source="normal", quick=False, shape=classes)
    yield from _both_dtypes(replace(step, name="cross-entropy-1000",
                                    reason="loss and gradient in one pass, 1000 classes"))
    kept = replace(step, out=True, tags=_tags("entropy-parts"))
    for rows, size in ((64, "in most L2s"), (1024, "in L3"), (32768, "past most caches")):
        yield replace(kept, name=f"cross-entropy-{rows}-out", shape=(rows, 1000),
                      quick=rows == 1024,
                      reason=f"into kept buffers, {size}, beside the calls that it fuses")
    yield replace(kept, name="vocabulary-loss", shape=(8192, 32000), dtype="float16",
                  reason="8192 tokens of a language model's loss: half a GB, and its gradient")
    yield replace(step, name="distillation", labels="probabilities", quick=True,
                  reason="a student's loss and gradient against a teacher's softmax",
                  options=(*WITH_GRADIENT, ("temperature", 4.0), ("sample_weight", 16.0)))
    yield Case("mixture", classes, "a mixture of 1000 components: logsumexp with their weights",
               "logsumexp", arrays=("b",), tags=family)


def _two_workers() -> Iterator[Case]:
    shared = Case("two-workers", (4096, 1000), "four million elements", out=True, workers=2,
                  quick=True, tags=_tags("workers"))
    yield shared
    yield replace(shared, name="two-workers-1000", shape=(1024, 1000), quick=False,
                  reason="the same where waking the second one is felt")
    yield replace(shared, name="two-workers-backward", function="softmax_backward", out=False,
                  quick=False, reason="two workers on the gradient")


def _compiled() -> Iterator[Case]:
    """Yield rows that a compiled loop gives one by one, as a bandit's or a simulation's does."""
    for n, why in ((10, "as short as pays"), (46, "the classes of a classifier"), (200, "a menu")):
        for name, by, quick in (("compiled", "numba", n == 46), ("cython", "Cython", False)):
            yield Case(f"{name}-{n}", (256, n), f"rows one by one from a loop by {by}: {why}",
                       out=True, compiled=by, quick=quick, tags=_tags("compiled"))


GROUPS: dict[str, tuple[Case, ...]] = {
    title: tuple(cells())
    for title, cells in {
        "Small calls": _small_calls, "Short rows": _short_rows, "Rows of classes": _rows_of_classes,
        "Other dtypes, layouts and arguments": _inputs, "Long rows": _long_rows,
        "Large arrays": _large_arrays, "Other axes": _other_axes, "Ragged rows": _ragged,
        "Logarithms, gradients, cross-entropy": _logarithms_and_gradients,
        "Two workers": _two_workers, "From compiled code": _compiled,
    }.items()
}
# fmt: on
"""The cells by the headings that tables and pictures put them under."""

CASES = tuple(case for cells in GROUPS.values() for case in cells)
BY_NAME = {case.name: case for case in CASES}

IN_README = (
    "one-row-46", "attention", "rows-1000", "rows-1000-f64", "input-f16", "cross-entropy-digits",
    "large-out",
)  # fmt: skip
"""The cells of the README's table; the worst loss is added to them."""


def select(*, quick: bool, pattern: str | None = None) -> list[Case]:
    """Return the cells of a run; ``pattern`` is a comma-separated list of names or tags."""
    if pattern is None:
        return [case for case in CASES if case.quick or not quick]
    wanted = set(pattern.split(","))
    if unknown := wanted - set(BY_NAME).union(*(case.tags for case in CASES)):
        raise UsageError(f"no cell or tag is named {sorted(unknown)}; `--list` shows the cells")
    return [case for case in CASES if case.name in wanted or case.tags & wanted]


def with_threads(cases: list[Case], threads: int) -> list[Case]:
    """Return the cells as a run on ``threads`` threads has them: those worth splitting."""
    if threads == 1:
        return cases
    whole = (case for case in cases if case.workers == 1 and "segment" not in case.function)
    large = (case for case in whole if case.elements >= threads << 16 and case.shape[0] > 1)
    return [replace(case, workers=threads) for case in large]


def beyond_cache(last_level_bytes: int) -> Case:
    """Return the cell past the last-level cache; no larger than 1 GiB, whatever the cache."""
    needed = max(1 << 28, int(1.25 * last_level_bytes))
    rows = min(needed, 1 << 30) // 4000
    reason = "past the last-level cache: bandwidth of memory alone"
    return Case("beyond-cache", (rows, 1000), reason, out=True, tags=_tags("beyond-cache"))


def latency_sweep(*, quick: bool) -> list[Case]:
    """Return single rows of growing length, for the plot of latency."""
    lengths: tuple[int, ...] = (1, 4, 10, 16, 46, 64, 256, 1000, 4096)
    if not quick:
        lengths = tuple(sorted({*lengths, 2, 3, 7, 8, 24, 32, 100, 128, 300, 512, 2048, 8192}))
    return [Case(f"latency-{n}", (n,), "the latency plot") for n in lengths]


def throughput_sweep(*, quick: bool) -> list[Case]:
    """Return arrays of growing size in rows of 1024, for the plot of throughput."""
    rows = [1 << power for power in range(0, 14 if quick else 17, 2 if quick else 1)]
    reason = "the throughput plot"
    return [Case(f"throughput-{m}", (m, CACHE_SWEEP_ROW), reason, out=True) for m in rows]
