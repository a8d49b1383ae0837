"""Errors of every library over families of rows, in ULP and in the sum of a row."""

from argparse import Namespace
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import families, inputs, peers, reproducibility, worst_rows
from .cases import Case
from .document import geometric_mean
from .exact import ulp_size
from .inputs import SEED, Array, Data
from .progress import each
from .reference import Reference
from .runner import Run, document
from .subject import Subject
from .timing import QUICK

DTYPES = ("float32", "float64")


def _computed(function: str, *arrays: str) -> Case:
    return Case("accuracy", (1,), "an accuracy family", function=function, arrays=arrays)


COMPUTED = {
    "softmax": _computed("softmax"),
    "log_softmax": _computed("log_softmax"),
    "logsumexp": _computed("logsumexp"),
    "softmax(temperature=array)": _computed("softmax", "temperature"),
    "logsumexp(b=)": _computed("logsumexp", "b"),
    "softmax_cross_entropy(temperature=array, sample_weight=array)": _computed(
        "softmax_cross_entropy", "temperature", "sample_weight"
    ),
}
"""What the families are given to, by the name in the tables; of the last, the losses."""


IN_TABLES = (
    "normal, σ = 0.1", "normal, σ = 1", "normal, σ = 10", "normal, σ = 100", "uniform, ±40",
    "uniform, ±350", "offset by ±10000", "offset by ±1e+30", "one dominant logit", "all equal",
    "geometric ladder", "masked by −inf", "masked by −1e9", "subnormal inputs",
    "subnormal results", "random bits of moderate size", "every length to 300",
    "rows of 2^18 to 2^20, normal",
)  # fmt: skip
"""The families that the tables show, of those that the tests have."""


@dataclass
class Tally:
    """What one library's results of one family come to."""

    max_ulp: float = 0.0
    mean_ulp: float = 0.0
    max_ulp_subnormal: float | None = None
    """The largest error among results below the smallest normal; None if there are none."""
    sum_error: float = 0.0
    flushed: int = 0
    """Subnormal results that came back as 0."""
    argmax_lost: int = 0
    nan: int = 0
    ours_there: float | None = None
    """Our own error on the row of the largest one."""

    def add(self, got: Array, exact: Array, case: Case, scale: Array, share: float) -> Array:
        """Take in the results of one length, ``share`` of the family's elements.

        Returns the largest error of each row.
        """
        info = np.finfo(case.dtype)
        wide = got.astype(np.longdouble)
        with np.errstate(invalid="ignore"):
            error = np.where(wide == exact, 0, abs(wide - exact)) / ulp_size(scale, case.dtype)
        bad = np.isnan(wide) & ~np.isnan(exact)
        self.nan += int(bad.sum())
        error = np.where(np.isfinite(error), error, 0)
        half_smallest = np.longdouble(info.smallest_subnormal) / 2  # what is below rounds to 0
        subnormal = (abs(exact) < info.tiny) & (abs(exact) > half_smallest)
        if subnormal.any() and case.function == "softmax":
            worst = float(error[subnormal].max())
            self.max_ulp_subnormal = max(self.max_ulp_subnormal or 0.0, worst)
            self.flushed += int((subnormal & (got == 0)).sum())
            error = np.where(subnormal, 0, error)
        self.max_ulp = max(self.max_ulp, float(error.max()))
        self.mean_ulp += share * float(error.mean())
        if case.function == "softmax":
            off = abs(wide.sum(axis=-1) - 1)
            self.sum_error = max(self.sum_error, float(np.where(np.isfinite(off), off, 1).max()))
            top = np.take_along_axis(wide, exact.argmax(-1)[:, None], -1)[:, 0]
            self.argmax_lost += int((top < wide.max(-1)).sum())
        return error.reshape(len(error), -1).max(axis=-1)


def _measure(run: Run, family: families.Family, case: Case) -> list[dict[str, Any]]:
    """Return a tally for every library that offers the function."""
    rng, samples = np.random.default_rng(SEED), list(family.inputs(case.dtype))
    total = sum(x.size for x in samples)
    tallies: dict[str, Tally] = {}
    for x in samples:
        sized = replace(case, shape=x.shape)
        data = inputs.around(sized, x, rng)
        reference = Reference(sized, data, everything=True)
        exact, scale = reference.exact[0], reference.scale[0]
        ours: Array | None = None  # the first call is ours
        for name, call in _calls(run, sized, data, many=len(samples) > 9).items():
            with np.errstate(all="ignore"):
                got = np.asarray(call.result()).reshape(exact.shape)
            tally = tallies.setdefault(name, Tally())
            before = tally.max_ulp
            of_rows = tally.add(got, exact, sized, scale, sized.elements / total)
            ours = of_rows if ours is None else ours
            if tally.max_ulp > before:
                tally.ours_there = float(ours[of_rows.argmax()])
    return [{"library": name, **vars(tally)} for name, tally in tallies.items()]


def _calls(run: Run, case: Case, data: Data, *, many: bool) -> dict[str, Any]:
    found = {run.subject.name: run.subject.call(case, data)}
    for peer in filter(lambda peer: peer.takes(case), run.rivals):
        if many and isinstance(peer, peers.Jax):
            continue  # JAX compiles for each length: minutes for 300 of them
        if call := peer.call(case, data):
            found[peer.name] = call
    return found


def run(options: Namespace) -> dict[str, Any]:
    """Measure the families and the reproducibility of every library."""
    suite = Run(Subject(options.instruction_set), peers.distinct(options.peers), QUICK)
    dtypes = DTYPES[:1] if options.quick else DTYPES
    known = {**families.FAMILIES, **families.SLOW}
    jobs = [(name, d, family) for name in COMPUTED for d in dtypes for family in IN_TABLES]
    results: list[dict[str, Any]] = []
    for name, dtype, family in each(jobs, "families", lambda job: f"{job[0]} {job[2]}"):
        case = replace(COMPUTED[name], dtype=dtype)
        labels = {"function": name, "dtype": dtype, "family": family}
        results.extend({**labels, **entry} for entry in _measure(suite, known[family], case))
    return {
        **document(suite, "accuracy", options),
        "accuracy": results,
        "on_worst_rows": _on_worst_rows(suite),
        "reproducibility": reproducibility.run(suite),
    }


def _on_worst_rows(run: Run) -> list[dict[str, Any]]:
    """Return every library's largest error on the rows that searches have found to be ours."""
    found: dict[tuple[str, str, str], float] = {}
    for entry in worst_rows.known():
        if entry["title"] not in COMPUTED or entry["dtype"] not in DTYPES:
            continue
        kind, row = worst_rows.from_entry(entry)
        own = worst_rows.confirmed(run.subject.functions, kind, row, entry["rows"]).ulps
        errors = {run.subject.name: own, **worst_rows.of_peers(run.rivals, kind, row)}
        for name, ulps in errors.items():
            key = (entry["title"], entry["dtype"], name)
            found[key] = max(found.get(key, 0.0), ulps)
    return [
        {"function": function, "dtype": dtype, "library": name, "max_ulp": ulps}
        for (function, dtype, name), ulps in found.items()
    ]


def worst(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst of several families, as one entry."""
    means = [entry["mean_ulp"] for entry in entries if entry["mean_ulp"] > 0]
    subnormal = [e["max_ulp_subnormal"] for e in entries if e["max_ulp_subnormal"] is not None]
    return {
        **max(entries, key=lambda entry: entry["max_ulp"]),
        **{key: sum(e[key] for e in entries) for key in ("flushed", "argmax_lost", "nan")},
        "mean_ulp": geometric_mean(means) or 0.0,
        "max_ulp_subnormal": max(subnormal, default=None),
        "sum_error": max(entry["sum_error"] for entry in entries),
    }
