"""Run the cells: time the contenders, check their answers, and give one JSON document."""

from __future__ import annotations

import datetime as dt
import shlex
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from . import inputs, machine, peers
from .cases import Case
from .exact import IS_WIDER
from .reference import Reference, Score, tolerance
from .subject import Subject
from .timing import Call, Effort, Spread, measure, paired_ratio

SCHEMA = 1

Cell = dict[str, Any]
Document = dict[str, Any]


class Run:
    """One run: the subject, the peers and the effort that all of its cells share."""

    def __init__(self, subject: Subject, rivals: list[peers.Peer], effort: Effort) -> None:
        self.subject = subject
        self.rivals = rivals
        self.effort = effort
        self.clock = machine.Clock()

    def _contenders(self, case: Case, data: inputs.Data) -> dict[str, tuple[str, Call | Exception]]:
        """Return role and call by name; the first is the subject."""
        found: dict[str, tuple[str, Call | Exception]] = {
            self.subject.name: ("subject", self.subject.call(case, data))
        }
        for peer in filter(lambda peer: peer.takes(case), self.rivals):
            try:
                call: Call | Exception | None = peer.call(case, data)
            except Exception as error:  # noqa: BLE001 - a peer's failure is a result to show
                call = error
            if call is not None:
                found[peer.name] = ("peer", call)
        for name, own in self.subject.variants(case, data).items():
            found[name] = ("variant", own)
        for name, yardstick in peers.yardsticks(case, data).items():
            found[name] = ("yardstick", yardstick)
        return found

    def cell(self, case: Case) -> Cell:
        """Measure one cell."""
        data = inputs.make(case)
        contenders = self._contenders(case, data)
        scores = _check(Reference(case, data), contenders)
        calls = {
            name: call
            for name, (_, call) in contenders.items()
            if isinstance(call, Call) and (name not in scores or scores[name].wrong is None)
        }
        ours = self.subject.name
        if ours not in calls:
            raise AssertionError(f"fastsoftmax is wrong in {case.name}: {scores[ours].wrong}")
        clocks: list[float] = []
        with np.errstate(all="ignore"):
            samples = measure(
                calls, self.effort, fixed_calls=case.calls,
                each_round=lambda: clocks.append(self.clock.ghz() or np.nan),
                threaded=case.workers > 1,
            )  # fmt: skip
        rows = []
        for name, (role, _) in contenders.items():
            row: dict[str, Any] = {"name": name, "role": role}
            if name in samples:
                row["seconds"] = asdict(Spread.of(list(samples[name].values())))
                row["ratio"] = asdict(paired_ratio(samples[name], samples[ours]))
            if name in scores:
                row |= asdict(scores[name])
            rows.append(row)
        return _describe(case, rows, float(np.median(clocks)))


def _check(reference: Reference, contenders: dict[str, Any]) -> dict[str, Score]:
    """Call the subject and every peer once, and judge the answers."""
    scores: dict[str, Score] = {}
    for name, (role, call) in contenders.items():
        if role not in ("subject", "peer"):
            continue
        if isinstance(call, Exception):
            scores[name] = Score(0.0, 0.0, f"raised {type(call).__name__}")
            continue
        try:
            with np.errstate(all="ignore"):
                scores[name] = reference.score(call.result())
        except Exception as error:
            if role == "subject":
                raise
            scores[name] = Score(0.0, 0.0, f"raised {type(error).__name__}")
    return scores


def _describe(case: Case, rows: list[dict[str, Any]], ghz: float) -> Cell:
    """Return a cell's entry, with the figures that follow from the times."""
    for row in rows:
        if "seconds" in row and isfinite(ghz):
            row["cycles_per_element"] = row["seconds"]["median"] * ghz * 1e9 / case.elements
    plain = ("name", "label", "reason", "function", "dtype", "axis", "out", "layout", "workers")
    return {
        **{name: getattr(case, name) for name in plain},
        "shape": list(case.shape),
        "options": {name: str(getattr(value, "__name__", value)) for name, value in case.options},
        "input": case.source,
        "tags": sorted(case.tags),
        "clock_ghz": ghz if isfinite(ghz) else None,
        "contenders": rows,
    }


def document(run: Run, kind: str, options: Namespace, cells: Iterable[Cell] = ()) -> Document:
    """Return the JSON document of a run with some options of the command line."""
    packages = sorted({peer.distribution for peer in run.rivals} | {"numpy"})
    return {
        "schema": SCHEMA,
        "kind": kind,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *options.words]),
        "quick": options.quick,
        "native": run.subject.native,
        "instruction_set": run.subject.instruction_set,
        "available": list(run.subject.available),
        "threads": options.threads,
        "commit": machine.commit(),
        "machine": {**machine.describe(), "clock_method": run.clock.method},
        "versions": {"fastsoftmax": run.subject.version, **machine.versions(packages)},
        "wrong_above": {t: tolerance(t) for t in ("float16", "float32", "float64")},
        "reference_is_wider": IS_WIDER,
        "cells": list(cells),
    }
