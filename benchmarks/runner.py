"""Run the cells: time the contenders, check their answers, and give one JSON document."""

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
from .document import Cell, Document
from .exact import IS_WIDER
from .reference import Reference, Score, tolerance
from .subject import Subject
from .timing import Effort, measure, paired_ratio, spread

SCHEMA = 1


class Run:
    """One run: the subject, the peers and the effort that all of its cells share."""

    def __init__(self, subject: Subject, rivals: list[peers.Peer], effort: Effort) -> None:
        self.subject = subject
        self.rivals = rivals
        self.effort = effort
        self.clock = machine.Clock()

    def cell(self, case: Case) -> Cell:
        """Measure one cell."""
        data, ours = inputs.make(case), self.subject.name
        judge, calls = Reference(case, data), {ours: self.subject.call(case, data)}
        roles = {ours: "subject"}
        with np.errstate(all="ignore"):
            scores = {ours: judge.score(calls[ours].result())}
            if scores[ours].wrong:
                raise AssertionError(f"fastsoftmax is wrong in {case.name}: {scores[ours].wrong}")
            for peer in filter(lambda peer: peer.takes(case), self.rivals):
                try:
                    if (call := peer.call(case, data)) is None:
                        continue
                    score = judge.score(call.result())
                    if not score.wrong:
                        calls[peer.name] = call
                except Exception as error:  # noqa: BLE001 - a peer's failure is a result to show
                    score = Score(0.0, 0.0, f"raised {type(error).__name__}")
                roles[peer.name], scores[peer.name] = "peer", score
            own, yardsticks = self.subject.variants(case, data), peers.yardsticks(case, data)
            roles |= dict.fromkeys(own, "variant") | dict.fromkeys(yardsticks, "yardstick")
            clocks: list[float] = []
            samples = measure(
                calls | own | yardsticks, self.effort, fixed_calls=case.calls,
                each_round=lambda: clocks.append(self.clock.ghz() or np.nan),
                threaded=case.workers > 1,
            )  # fmt: skip
        ghz = float(np.median(clocks))
        rows = []
        for name, role in roles.items():
            row: dict[str, Any] = {"name": name, "role": role}
            if name in samples:
                row["seconds"] = spread(list(samples[name].values()))
                row["ratio"] = paired_ratio(samples[name], samples[ours])
            if name in scores:
                row |= asdict(scores[name])
            if name in samples and isfinite(ghz):
                row["cycles_per_element"] = row["seconds"]["median"] * ghz * 1e9 / case.elements
            rows.append(row)
        return {**_described(case), "clock_ghz": ghz if isfinite(ghz) else None, "contenders": rows}


def _described(case: Case) -> Cell:
    plain = ("name", "label", "reason", "function", "dtype", "axis", "out", "layout", "workers")
    return {
        **{name: getattr(case, name) for name in plain},
        "shape": list(case.shape),
        "options": {name: str(getattr(value, "__name__", value)) for name, value in case.options},
        "input": case.source,
        "tags": sorted(case.tags),
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
