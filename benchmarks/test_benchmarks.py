"""The quick cells in pytest-benchmark's form, for regressions: ``pytest benchmarks/``."""

from typing import Any

import pytest

from . import cases, inputs
from .reference import Reference
from .subject import Subject

pytest.importorskip("pytest_benchmark")

QUICK = [case for case in cases.CASES if case.quick and not case.lacks]


@pytest.fixture(scope="session")
def subject() -> Subject:
    return Subject()


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_cell(benchmark: Any, subject: Subject, case: cases.Case) -> None:
    data = inputs.make(case)
    call = subject.call(case, data)
    score = Reference(case, data).score(call.result())
    assert score.wrong is None
    benchmark.extra_info.update(
        instruction_set=subject.instruction_set, max_ulp=score.max_ulp, label=case.label
    )
    benchmark(call.function, *call.args, **call.kwargs)
