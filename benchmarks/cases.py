"""The cells of the benchmark, each with the reason it is there.

This table is the only definition of what is measured: the runner, the targets, the README's table,
the plots and ``pytest benchmarks/`` iterate over it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import ml_dtypes  # noqa: F401 - from here on, NumPy has a dtype of the name "bfloat16"
except ImportError:
    HAS_BFLOAT16 = False
else:
    HAS_BFLOAT16 = True
HAS_NUMBA = find_spec("numba") is not None

HOT_LOOP_CALLS = 100_000

IGNORED = -100
"""The label of the rows that ``ignore_index=`` leaves out, torch's default."""

CACHE_SWEEP_ROW = 1024
"""Row length of the throughput sweep: every regime but the short rows passes through it."""


class UsageError(ValueError):
    """What was asked for on the command line cannot be had."""


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
    compiled: bool = False
    """Whether the rows are given one by one by a loop that numba has compiled."""
    workers: int = 1
    calls: int | None = None
    """A fixed number of calls in one sample, where the loop itself is the subject."""
    quick: bool = False
    tags: frozenset[str] = frozenset()

    @property
    def lacks(self) -> str | None:
        """The package without which there is no such array or loop, if it is not installed."""
        if self.compiled and not HAS_NUMBA:
            return "numba"
        return "ml_dtypes" if self.dtype == "bfloat16" and not HAS_BFLOAT16 else None

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

        That of ``segment_logsumexp`` depends on the row pointers and is not told here.
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
            found.add("compiled")
        return frozenset(found - {"contiguous", "indices"})

    def option(self, name: str, default: Any = None) -> Any:
        """Return the value of one of ``options``."""
        return dict(self.options).get(name, default)

    @property
    def label(self) -> str:
        """What was called on what, in one short line."""
        parts = [self.function, self.dtype, "x".join(map(str, self.shape))]
        if self.layout != "contiguous":
            parts.append(self.layout)
        if self.labels != "indices":
            parts.append(f"labels={self.labels}")
        if self.axis != -1:
            parts.append(f"axis={self.axis}")
        if self.where:
            parts.append("where=")
        if self.compiled:
            parts.append("in numba")
        parts += [f"{name}=array" for name in self.arrays]
        parts += [f"{name}={getattr(value, '__name__', value)}" for name, value in self.options]
        if self.out:
            parts.append("out=")
        if self.workers > 1:
            parts.append(f"workers={self.workers}")
        return " ".join(parts)


def _both_dtypes(case: Case, *, quick64: bool | None = None) -> Iterator[Case]:
    """Yield the cell in float32 and in float64 (``quick64``: is the latter in the quick run)."""
    yield case
    quick = case.quick if quick64 is None else quick64
    tags = frozenset(f"{tag}-float64" for tag in case.tags)
    yield replace(case, name=f"{case.name}-f64", dtype="float64", quick=quick, tags=tags)


def _tags(*names: str) -> frozenset[str]:
    return frozenset(names)


def _latency() -> Iterator[Case]:
    one = Case(
        "one-row-46",
        (46,),
        "one prediction of a 46-class classifier: call overhead is nearly all of it",
        source="clusters46",
        quick=True,
        tags=_tags("call", "plainest-call"),
    )
    yield from _both_dtypes(one)
    yield replace(
        one,
        name="one-row-46-out",
        reason="the same row into a buffer the caller keeps",
        out=True,
        tags=_tags("call"),
    )
    yield Case(
        "hot-loop-10",
        (10,),
        "10^5 calls on one small row, as a sampling or bandit loop makes them",
        source="digits",
        calls=HOT_LOOP_CALLS,
        quick=True,
        tags=_tags("hot-loop"),
    )


def _calls() -> Iterator[Case]:
    """Yield small calls with each option and function: nearly all of their time is the call."""
    row = Case("call", (46,), "", source="clusters46", quick=True, tags=_tags("call"))

    def call(name: str, reason: str, of: Case = row, **fields: Any) -> Case:
        return replace(of, name=f"call-{name}", reason=reason, **fields)

    yield call("where", "action values of one state under its mask of legal moves", where=True)
    yield call(
        "temperature", "one sampling step, or one calibrated prediction",
        options=(("temperature", 0.7),),
    )  # fmt: skip
    yield call(
        "temperature-int", "a temperature written as an int, as most are",
        options=(("temperature", 2),),
    )  # fmt: skip
    yield call("axis-none", "axis=None, SciPy's default, spelled out in code that comes from it",
               axis=None)  # fmt: skip
    yield call("dtype", "float32 logits, float64 probabilities", options=(("dtype", np.float64),))
    yield call("float16", "half precision, which a network's output may be in", dtype="float16")
    yield call("int64", "counts or votes as scores", dtype="int64")
    yield call(
        "list", "a Python list, as a first try or a JSON request has it",
        dtype="float64", layout="list", tags=_tags("call", "call-of-list"),
    )  # fmt: skip
    yield call("log_softmax", "log-probabilities of one prediction", function="log_softmax")
    yield call("logsumexp", "one row's log-partition, a scalar", function="logsumexp")
    yield call(
        "keepdims", "the same, to be subtracted from its logits",
        function="logsumexp", options=(("keepdims", True),),
    )  # fmt: skip

    yield call(
        "b", "a mixture of 46 components: weights and log-densities of one point",
        function="logsumexp", arrays=("b",),
    )  # fmt: skip
    yield call(
        "return_sign", "the same of a difference: weights of both signs",
        function="logsumexp", arrays=("b",), options=(("return_sign", True),),
    )  # fmt: skip

    rows = replace(row, shape=(32, 46))
    yield call("rows", "a small batch, for the next three to be read beside", rows)
    yield call("strided", "the real classes of a vocabulary padded to 64: x[:, :46]", rows,
               layout="strided")  # fmt: skip
    yield call("fortran", "Fortran order, as a transposed or pandas array has it", rows,
               layout="Fortran")  # fmt: skip
    yield call("axis-0", "46 columns of 32 classes: the reduced axis strides", rows, axis=0)
    yield call("temperatures", "32 requests, each with a temperature of its own", rows,
               arrays=("temperature",))  # fmt: skip
    for function in ("softmax_backward", "log_softmax_backward"):
        yield call(function, "the gradient of a small batch", rows, function=function)
    yield call("log_softmax_backward-where", "the same under its mask of legal moves", rows,
               function="log_softmax_backward", where=True)  # fmt: skip

    step = replace(row, shape=(32, 10), source="digits", function="softmax_cross_entropy")
    with_gradient = {"options": (("return_grad", True),)}
    yield call(
        "training-step", "loss and gradient of a batch of 32 over ten classes", step,
        **with_gradient, tags=_tags("call", "training-step"),
    )  # fmt: skip
    yield call("loss", "the loss alone, as validation takes it", step)
    yield call(
        "soft-labels", "loss and gradient against a teacher's probabilities", step,
        **with_gradient, labels="probabilities",
    )  # fmt: skip
    yield call(
        "sample_weight", "a policy's gradient: each loss times its advantage", step,
        **with_gradient, arrays=("sample_weight",),
    )  # fmt: skip
    yield call("legal-actions", "an imitated policy over the actions that are legal", step,
               **with_gradient, where=True)  # fmt: skip
    yield call(
        "ignore_index", "tokens of a batch of which some are padding", step,
        options=(("return_grad", True), ("ignore_index", IGNORED)),
    )  # fmt: skip
    yield call("training-step-out", "loss and gradient into buffers the caller keeps", step,
               **with_gradient, out=True)  # fmt: skip
    yield call(
        "loss-dtype", "float32 losses of a half-precision network's logits", step,
        dtype="float16", options=(("return_grad", True), ("dtype", np.float32)),
    )  # fmt: skip
    yield call(
        "segments", "32 ragged rows of 60 elements on average, as a graph's nodes have edges", row,
        shape=(1930,), source="normal", function="segment_softmax",
    )  # fmt: skip
    for function in ("segment_log_softmax", "segment_logsumexp"):
        yield call(function, "another function of the same ragged rows", row,
                   shape=(1930,), source="normal", function=function)  # fmt: skip
    yield call(
        "heads", "attention over a small graph: 240 edges, sorted by node, with 8 heads each", row,
        shape=(240, 8), source="normal", function="segment_softmax",
    )  # fmt: skip


def _short_rows() -> Iterator[Case]:
    yield from _both_dtypes(
        Case(
            "short-3",
            (8192, 3),
            "three classes, of a classifier of scikit-learn's wines: too short for a vector",
            source="wine",
            quick=True,
            tags=_tags("short-3"),
        )
    )
    yield from _both_dtypes(
        Case(
            "digits-10",
            (8192, 10),
            "logits of a classifier fitted on scikit-learn's digits: ten classes, real values",
            source="digits",
            quick=True,
            tags=_tags("short-10"),
        )
    )
    yield from _both_dtypes(
        Case("short-16", (8192, 16), "a row of one vector, where short and whole rows meet",
             quick=True, tags=_tags("short-16")),
        quick64=False,
    )  # fmt: skip


def _rows_in_cache() -> Iterator[Case]:
    yield from _both_dtypes(
        Case("batch-46", (512, 46), "a batch of 512 over 46 classes, as news topics have",
             source="clusters46", quick=True),
    )  # fmt: skip
    yield Case(
        "subnormal-46", (512, 46), "scores far apart: subnormal results, slow on many CPUs",
        source="discriminant46",
    )  # fmt: skip
    rows64 = Case("rows-64", (8192, 64), "rows of whole vectors, 2 MiB in all", quick=True)
    yield from _both_dtypes(rows64, quick64=False)
    yield replace(rows64, name="rows-64-out", out=True, quick=False)
    rows1000 = Case(
        "rows-1000", (1024, 1000), "the classic image classifier's 1000 classes, in cache",
        quick=True, tags=_tags("rows-1000"),
    )  # fmt: skip
    yield from _both_dtypes(rows1000)
    yield from _both_dtypes(
        replace(rows1000, name="rows-1000-out", out=True, tags=_tags("rows-1000-out")),
    )
    yield Case(
        "attention", (8, 12, 128, 128), "attention scores: 8 sequences, 12 heads, 128 tokens",
        source="attention", quick=True,
    )  # fmt: skip
    yield Case(
        "attention-197", (4, 12, 197, 197), "attention scores of an image's 197 patches",
        source="attention",
    )  # fmt: skip
    for n in (100, 128, 197, 256):
        yield replace(
            rows1000, name=f"rows-{n}-out", shape=(1_024_000 // n, n), out=True, quick=False,
            reason="a length that attention has, beside rows of 300", tags=_tags("rows-100-256"),
        )  # fmt: skip
    yield replace(
        rows1000, name="rows-1000-16MiB", shape=(4096, 1000), out=True, quick=False,
        reason="16 MiB, where results begin to go past the caches", tags=_tags("dip"),
    )  # fmt: skip


def _every_input() -> Iterator[Case]:
    """Yield rows of 1000 in what else people hold, beside the same in float32 or float64."""
    rows = Case(
        "input", (1024, 1000), "", out=True, tags=_tags("input-format"),
    )  # fmt: skip
    to_f32 = (("dtype", np.float32),)

    def given(name: str, reason: str, **fields: Any) -> Case:
        return replace(rows, name=f"input-{name}", reason=reason, **fields)

    yield given("f16", "half precision, summed in float32", dtype="float16", quick=True)
    yield given("f16-to-f32", "half precision, float32 results", dtype="float16", options=to_f32)
    yield given("bf16", "bfloat16, as large networks have it", dtype="bfloat16", quick=True)
    yield given("bf16-to-f32", "bfloat16, float32 results", dtype="bfloat16", options=to_f32)
    yield given("i8", "scores of a quantised network", dtype="int8", quick=True)
    yield given("i8-to-f32", "scores of a quantised network, float32 results", dtype="int8",
                options=to_f32, quick=True)  # fmt: skip
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
    yield Case(
        "input-f16-digits", (8192, 10), "logits of a small network in half precision",
        dtype="float16", source="digits", quick=True,
    )  # fmt: skip
    yield Case(
        "input-i8-digits", (8192, 10), "the same network quantised: fixed point, in eighths",
        dtype="int8", source="eighths", quick=True,
        options=(("temperature", 8.0), ("dtype", np.float32)),
    )  # fmt: skip
    yield Case(
        "input-padded-vocabulary", (64, 50257), "a vocabulary padded to 50304: x[:, :50257]",
        source="vocabulary", layout="strided",
    )  # fmt: skip


def _long_rows() -> Iterator[Case]:
    for n, quick64 in ((50257, False), (131072, True)):
        row = Case(
            f"vocabulary-{n}", (1, n), f"next-token logits over a vocabulary of {n}",
            source="vocabulary", quick=True,
        )  # fmt: skip
        yield from _both_dtypes(row, quick64=quick64)
    yield Case(
        "vocabulary-131072-out", (1, 131072), "the same, into a buffer the caller keeps",
        source="vocabulary", out=True,
    )  # fmt: skip
    yield Case(
        "sampling", (64, 50257), "one step of 64 requests, each with a temperature of its own",
        source="vocabulary", arrays=("temperature",), quick=True,
    )  # fmt: skip


def _large_arrays() -> Iterator[Case]:
    large = Case(
        "large", (65536, 1000), "250 MiB: memory bandwidth, and page faults of a fresh result",
        tags=_tags("fresh-pages"),
    )  # fmt: skip
    yield from _both_dtypes(large)
    yield from _both_dtypes(
        replace(large, name="large-out", reason="250 MiB into a warm buffer: bandwidth alone",
                out=True, tags=_tags("large")),
    )  # fmt: skip


def _one_row() -> Iterator[Case]:
    """Yield single rows beyond the caches."""
    row = Case(
        "one-row", (1, 20_000_000), "one row of 80 MB: two readings and a writing bound it",
        out=True, tags=_tags("one-row"),
    )  # fmt: skip
    yield row
    log = replace(row, name="one-row-logsumexp", function="logsumexp", out=False,
                  reason="its log-partition: one reading bounds it")  # fmt: skip
    yield log
    for case in (row, log):
        yield replace(case, name=f"{case.name}-two-workers", workers=2, reason="the same, shared")


def _ragged() -> Iterator[Case]:
    """Yield segments beside rows of one length, and longer ones."""
    for mean, what in (
        (1, "the leaves of a tree"),
        (3, "the corners of a mesh"),
        (10, "the links of a page"),
    ):
        yield Case(
            f"ragged-{mean}", (200_000,), f"segments of {mean} on average, as {what}",
            function="segment_softmax", mean_length=mean, quick=mean == 3,
            tags=_tags("family", "ragged"),
        )  # fmt: skip
    yield Case(
        "segments", (500_000,), "ragged rows of 1 to 99 elements, cut by CSR row pointers",
        function="segment_softmax", tags=_tags("family"),
    )  # fmt: skip


def _other_axes() -> Iterator[Case]:
    yield Case(
        "axis-0", (1000, 1024), "the reduced axis strides over memory: columns as rows",
        axis=0, out=True, quick=True, tags=_tags("other-axis"),
    )  # fmt: skip
    yield Case(
        "segmentation", (8, 21, 256, 256), "21 class maps of 8 images: the axis is in the middle",
        axis=1, out=True, quick=True, tags=_tags("other-axis"),
    )  # fmt: skip
    yield Case(
        "middle-axis-8", (10000, 7, 8), "7 classes with 8 numbers behind each: less than a vector",
        axis=1, tags=_tags("other-axis"),
    )  # fmt: skip


def _family() -> Iterator[Case]:
    family = _tags("family")
    for function in ("log_softmax", "logsumexp"):
        yield Case(
            f"{function}-digits", (8192, 10), "confident real logits: answers near 0 lose digits",
            function=function, source="digits", quick=True, tags=family,
        )  # fmt: skip
        yield from _both_dtypes(
            Case(f"{function}-1000", (1024, 1000), "the classic size, in cache",
                 function=function, quick=True, tags=family),
            quick64=False,
        )  # fmt: skip
    for function in ("softmax_backward", "log_softmax_backward"):
        yield from _both_dtypes(
            Case(f"{function}-1000", (1024, 1000), "the gradient, given the forward result",
                 function=function, quick=function == "softmax_backward", tags=family),
            quick64=False,
        )  # fmt: skip
    cross_entropy = Case(
        "cross-entropy-digits", (8192, 10), "a training step's loss and gradient on real logits",
        function="softmax_cross_entropy", options=(("return_grad", True),), source="digits",
        quick=True, tags=family,
    )  # fmt: skip
    yield cross_entropy
    yield from _both_dtypes(
        replace(cross_entropy, name="cross-entropy-1000", shape=(1024, 1000), source="normal",
                reason="loss and gradient in one pass, 1000 classes", quick=False),
    )  # fmt: skip
    kept = replace(
        cross_entropy, source="normal", out=True, quick=False, tags=_tags("entropy-parts"),
    )  # fmt: skip
    for rows, size in ((64, "in L2"), (1024, "in cache"), (32768, "past most caches")):
        yield replace(
            kept, name=f"cross-entropy-{rows}-out", shape=(rows, 1000), quick=rows == 1024,
            reason=f"loss and gradient into kept buffers, {size}, beside the calls they fuse",
        )  # fmt: skip
    yield replace(
        kept, name="vocabulary-loss", shape=(8192, 32000), dtype="float16",
        reason="8192 tokens of a language model's loss: half a gigabyte, and its gradient",
    )  # fmt: skip
    yield replace(
        cross_entropy, name="distillation", shape=(1024, 1000), source="normal",
        labels="probabilities", reason="a student's loss and gradient against a teacher's softmax",
        options=(("return_grad", True), ("temperature", 4.0), ("sample_weight", 16.0)),
    )  # fmt: skip
    yield Case(
        "mixture", (1024, 1000), "a mixture of 1000 components: logsumexp with their weights",
        function="logsumexp", arrays=("b",), tags=family,
    )  # fmt: skip
    yield Case(
        "edges-heads", (100_000, 8), "graph attention: seven edges a node on average, 8 heads",
        function="segment_softmax", quick=True, tags=family,
    )  # fmt: skip
    yield Case(
        "attention-causal", (8, 12, 128, 128), "attention scores under a causal mask",
        source="attention", where=True, quick=True, tags=family,
    )  # fmt: skip
    yield Case(
        "blocks", (65536, 1000), "an array by blocks in a loop and by Dask, cut classes too",
        tags=_tags("blocks"),
    )  # fmt: skip
    yield Case(
        "two-workers", (4096, 1000), "two workers on four million elements, in cache",
        out=True, workers=2, quick=True, tags=_tags("workers"),
    )  # fmt: skip
    yield Case(
        "two-workers-1000", (1024, 1000), "the same where waking the second one is felt",
        out=True, workers=2, tags=_tags("workers"),
    )  # fmt: skip
    yield Case(
        "two-workers-backward", (4096, 1000), "two workers on the gradient",
        function="softmax_backward", workers=2, tags=_tags("workers"),
    )  # fmt: skip


def _compiled() -> Iterator[Case]:
    """Yield rows that a compiled loop gives one by one, as a bandit's or a simulation's does."""
    for n, why in ((10, "as short as pays"), (46, "the classes of a classifier"), (200, "a menu")):
        yield Case(
            f"compiled-{n}", (256, n), f"rows one by one from a loop that numba compiles: {why}",
            out=True, compiled=True, quick=n == 46, tags=_tags("compiled"),
        )  # fmt: skip


CASES: tuple[Case, ...] = tuple(
    case
    for group in (
        _latency, _calls, _short_rows, _rows_in_cache, _every_input, _long_rows, _large_arrays,
        _one_row, _other_axes, _ragged, _family, _compiled,
    )
    for case in group()
)  # fmt: skip


def select(*, quick: bool, pattern: str | None = None) -> list[Case]:
    """Return the cells of a run; ``pattern`` is a comma-separated list of names or tags."""
    if pattern is None:
        return [case for case in CASES if case.quick or not quick]
    wanted = set(pattern.split(","))
    known = {case.name for case in CASES}.union(*(case.tags for case in CASES))
    if unknown := wanted - known:
        raise UsageError(f"no cell or tag is named {sorted(unknown)}; `--list` shows the cells")
    return [case for case in CASES if case.name in wanted or case.tags & wanted]


def with_threads(cases: list[Case], threads: int) -> list[Case]:
    """Return the cells as a run on ``threads`` threads has them: those worth splitting."""
    if threads == 1:
        return cases
    large = (case for case in cases if case.elements >= threads << 16 and case.shape[0] > 1)
    return [replace(case, workers=threads) for case in large if "segment" not in case.function]


def beyond_cache(last_level_bytes: int) -> Case:
    """Return the cell past the last-level cache; no larger than 1 GiB, whatever the cache."""
    needed = max(1 << 28, int(1.25 * last_level_bytes))
    rows = min(needed, 1 << 30) // 4000
    return Case(
        "beyond-cache", (rows, 1000), "past the last-level cache: bandwidth of memory alone",
        out=True, tags=_tags("beyond-cache"),
    )  # fmt: skip


def latency_sweep(*, quick: bool) -> list[Case]:
    """Return single rows of growing length, for the plot of latency."""
    lengths: tuple[int, ...] = (1, 4, 10, 16, 46, 64, 256, 1000, 4096)
    if not quick:
        lengths = tuple(sorted({*lengths, 2, 3, 7, 8, 24, 32, 100, 128, 300, 512, 2048, 8192}))
    return [Case(f"latency-{n}", (n,), "the latency plot", tags=_tags("sweep")) for n in lengths]


def throughput_sweep(*, quick: bool) -> list[Case]:
    """Return arrays of growing size in rows of 1024, for the plot of throughput."""
    largest = 14 if quick else 17
    rows = [1 << power for power in range(0, largest, 2 if quick else 1)]
    return [
        Case(f"throughput-{m}", (m, CACHE_SWEEP_ROW), "the throughput plot", out=True,
             tags=_tags("sweep"))
        for m in rows
    ]  # fmt: skip
