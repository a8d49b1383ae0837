"""Tests of the suite itself: that its judgements, its tables and its generator are right."""

import io
import json
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fastsoftmax import _api

from . import (
    accuracy,
    cases,
    cli,
    exact,
    inputs,
    machine,
    peers,
    readme,
    reference,
    report,
    streams,
    timing,
    worst_rows,
)
from .computations import BY_TITLE, COMPUTATIONS, Batch, Computation, Kind, call, errors, terms
from .document import losses, tables
from .families import rows
from .search import completed, mutated
from .subject import Subject
from .targets import targets

CALLS = cases.select(quick=False, pattern="call")
OTHERS = cases.select(
    quick=False,
    pattern="sampling,cross-entropy-64-out,vocabulary-loss,distillation,mixture,edges-heads,"
    "segments,ragged,segmentation,middle-axis-8,attention-causal,two-workers,two-workers-backward,"
    "one-row-logsumexp,one-row-logsumexp-two-workers,input-format,input-steps,input-f16-digits,"
    "input-i8-digits,input-padded-vocabulary",
)
"""Cells whose arguments, or results, need more than the logits."""
LARGEST = {1: (1000,), 2: (32, 1000), 3: (20, 7, 8), 4: (2, 21, 16, 16)}
"""The sizes that tests have, by the number of axes."""
BESIDE = ("last axis", "plain", "rows of 300", "rows of one length")
"""Calls of ours that are measured beside a cell and have other results."""


def spread(*values: float) -> dict[str, float]:
    """Return quartiles, or three times the same."""
    return dict(zip(("q1", "median", "q3"), values * (3 // len(values)), strict=True))


def contender(name: str, role: str, seconds: float, *ratio: float, **more: Any) -> dict[str, Any]:
    times = {"seconds": spread(seconds), "ratio": spread(*ratio)}
    return {"name": name, "role": role, "max_ulp": 1.5, "wrong": None, **times, **more}


def cell(name: str, *others: Any, tags: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    """Return a cell of 200 ns, with other contenders."""
    rows = [contender("fastsoftmax", "subject", 2e-7, 1.0), *others]
    return {"name": name, "label": name, "tags": list(tags), "contenders": rows, **more}


@pytest.fixture
def document() -> dict[str, Any]:
    case = next(case for case in cases.CASES if case.name == "rows-1000-out")
    rows = [
        contender("fastsoftmax", "subject", 1e-3, 1.0, cycles_per_element=0.7),
        contender("SciPy", "peer", 2e-3, 2.0, max_ulp=20.0),
        contender("torch", "peer", 0.5e-3, 0.5),
        {"name": "JAX", "role": "peer", "max_ulp": 0.0, "wrong": "NaN"},
        contender("numpy.exp", "yardstick", 1e-3, 1.0),
        contender("copy", "yardstick", 1e-4, 0.1),
    ]
    measured = {
        "name": case.name, "label": case.label, "shape": list(case.shape), "tags": list(case.tags),
        "clock_ghz": 3.0, "contenders": rows,
    }  # fmt: skip
    return {
        "kind": "speed", "native": True, "instruction_set": "avx2", "date": "2024-01-01",
        "commit": "abc", "command": "python -m benchmarks", "cells": [measured], "threads": 1,
        "versions": {"fastsoftmax": "1"}, "wrong_above": {"float32": 1e-4},
        "machine": {
            "cpu": "a CPU", "cores": 1, "caches": {}, "system": "", "clock_method": "",
            "load_at_start": 2.0,
        },
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_names_and_labels_are_unique_and_every_cell_has_a_reason(threads: int) -> None:
    found = cases.with_threads(list(cases.CASES), threads)
    assert len({case.name for case in found}) == len(found)
    assert len({case.label for case in found}) == len(found)
    assert all(case.reason for case in found)


def test_a_cell_has_the_same_label_wherever_it_is_shown(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document["cells"][0]["label"] = "what an earlier run called it"
    label = cases.BY_NAME["rows-1000-out"].label
    assert label == "softmax f32 1024×1000 out="
    assert cli.main(["--list"]) == 0
    assert f"  {label}\n      rows-1000-out *: " in capsys.readouterr().out
    assert f"| `{label}` |" in readme.benchmark_section(document)
    assert f"| `{label}` |" in readme.full_table(document)
    assert f"\n{label} " in shown(document, width=80)


def test_no_table_has_a_label_of_another() -> None:
    labels = re.findall(r"^\| `(.*?)`", readme.full_table(RESULTS), re.MULTILINE)
    assert len(labels) == len(set(labels)) > len(RESULTS["cells"])


def shown(document: dict[str, Any], width: int, **options: Any) -> str:
    """Return the report at a terminal's width."""
    file = io.StringIO()
    report.print_report(Console(width=width, file=file, highlight=False), document, **options)
    return file.getvalue()


RESULTS = json.loads((machine.ROOT / "benchmarks/results/benchmark.json").read_text())


def test_eighty_columns_have_the_figures_of_every_cell() -> None:
    lines = [line.rstrip() for line in shown(RESULTS, width=80).splitlines()]
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    row = re.compile(
        r"(.+?) +([\d.]+ [nµm]?s) +([\d.]+×) (.+?) +(win|loss|undecided) +([\d.e]+) +([\d.e]+)"
    )
    rows = [found for line in lines if (found := row.fullmatch(line))]
    assert len(rows) == sum(map(len, tables(RESULTS).values()))


def test_a_wide_terminal_has_every_peer() -> None:
    header = shown(RESULTS, width=200).partition("Small calls")[0]
    words = ("NumPy", "SciPy", "Runtime", "learn", "Awkward", "numpy.exp", "cycles")
    assert all(word in header for word in words)
    assert "numpy.exp" not in shown(RESULTS, width=80).partition("Small calls")[0]


@pytest.mark.parametrize(
    ("q1", "q3", "verdict"), [(1.01, 1.2, "win"), (0.8, 0.99, "loss"), (0.99, 1.01, "undecided")]
)
def test_a_ratio_whose_quartiles_enclose_1_is_neither_a_win_nor_a_loss(
    document: dict[str, Any], q1: float, q3: float, verdict: str
) -> None:
    torch = document["cells"][0]["contenders"][2]
    torch["ratio"] = spread(q1, (q1 + q3) / 2, q3)
    count = {"win": "1 won", "loss": "1 lost", "undecided": "1 undecided"}[verdict]
    for text in (readme.benchmark_section(document), shown(document, width=80)):
        assert count in text
    assert verdict in shown(document, width=80)
    assert ("torch takes" in shown(document, width=80)) == (verdict == "loss")


def test_targets_are_shown_on_request_alone(document: dict[str, Any]) -> None:
    assert "Every call" not in shown(document, width=150)
    assert "Every call" in shown(document, width=150, with_targets=True)


def test_plots_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda _: None)
    monkeypatch.setattr(cli, "_run_cells", lambda _: pytest.fail("measured"))
    assert cli.main(["--quick", "--plot", str(tmp_path)]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["no-such-cell", "short-3,no-such-cell"])
def test_an_unknown_cell_is_refused(pattern: str) -> None:
    with pytest.raises(cases.UsageError, match="no-such-cell"):
        cases.select(quick=True, pattern=pattern)


def test_every_call_cell_is_quick() -> None:
    assert all(case.quick for case in CALLS)


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_ours_and_numpys_formula_are_right_in_every_call_cell(case: cases.Case) -> None:
    numpy = peers.NumPy(1)
    assert numpy.takes(case)
    assert numpy.call(case, inputs.make(case)) is not None
    assert wrong(case, [numpy]) == set()


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_ours_its_parts_and_every_peer_are_right_in_cells_of_more_than_logits(
    case: cases.Case,
) -> None:
    shape = tuple(map(min, case.shape, LARGEST[len(case.shape)]))
    assert wrong(replace(case, shape=shape), peers.choose(None, threads=1)) == set()


def wrong(case: cases.Case, rivals: list[peers.Peer]) -> set[tuple[str, str]]:
    """Return who is wrong in a cell, and how: of ours, its variants and the peers."""
    if case.lacks:
        pytest.skip(f"{case.lacks} is not installed")
    data = inputs.make(case)
    checker, subject = reference.Reference(case, data), Subject()
    calls = {"ours": subject.call(case, data)}
    calls |= {k: v for k, v in subject.variants(case, data).items() if k not in BESIDE}
    for peer in rivals:
        if peer.takes(case) and (call := peer.call(case, data)):
            calls[peer.name] = call
    with np.errstate(all="ignore"):
        scores = {name: checker.score(call.result()) for name, call in calls.items()}
        for yardstick in peers.yardsticks(case, data).values():
            yardstick.result()
    return {(name, score.wrong) for name, score in scores.items() if score.wrong}


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_the_yardstick_of_calls_is_a_fresh_exp_of_contiguous_float32(case: cases.Case) -> None:
    data = inputs.make(case)
    yardstick = peers.yardsticks(case, data)["numpy.exp"]
    (x,) = yardstick.args
    assert yardstick.function is np.exp
    assert yardstick.kwargs == {}
    assert (x.shape, x.dtype, x.flags.c_contiguous) == (case.shape, np.float32, True)


def test_the_list_cell_hands_out_a_list_beside_asarray_of_it() -> None:
    case = next(case for case in CALLS if case.layout == "list")
    data = inputs.make(case)
    assert Subject().call(case, data).args == (data.x.tolist(),)
    assert peers.yardsticks(case, data)["numpy.asarray"].args == (data.x.tolist(),)


def test_layouts_keep_the_values_and_are_what_they_say() -> None:
    plain = cases.Case("a", (32, 46), "a")
    x = {layout: inputs.make(replace(plain, layout=layout)).x for layout in inputs.LAYOUTS}
    for laid in x.values():
        np.testing.assert_array_equal(laid, x["contiguous"])
    assert x["strided"].strides == (64 * 4, 4)
    assert x["Fortran"].strides == (4, 32 * 4)


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("layout", [name for name in inputs.LAYOUTS if name != "list"])
def test_a_layout_is_converted_inside_the_timed_call(layout: str, out: bool) -> None:
    case = cases.Case("a", (8, 100), "a", layout=layout, out=out)
    for peer in peers.choose(None, threads=1):
        data = inputs.make(case)
        if not peer.takes(case) or peer.name == "JAX" or not (call := peer.call(case, data)):
            continue
        data.x[:] = 0
        np.testing.assert_allclose(call.result(), 0.01, rtol=1e-6, err_msg=peer.name)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"options": (("temperature", 0.7),)}, {"temperature"}),
        ({"options": (("dtype", np.float64),)}, {"dtype"}),
        ({"dtype": "int64"}, {"dtype"}),
        ({"layout": "strided"}, {"strided"}),
        ({"dtype": "float64", "layout": "list"}, {"list"}),
        ({"labels": "probabilities"}, {"probabilities"}),
    ],
    ids=str,
)
def test_a_peer_is_asked_for_no_more_than_it_can(fields: dict[str, Any], needs: set[str]) -> None:
    case = replace(cases.Case("a", (2, 3), "a"), **fields)
    assert case.needs == needs
    assert peers.NumPy(1).takes(case)
    assert peers.Peer(1).takes(case) == (not needs)


def test_the_tables_have_ratios_losses_and_errors(document: dict[str, Any]) -> None:
    section, page = readme.benchmark_section(document), readme.full_table(document)
    row = "1 ms | **0.50×** | [0.50–0.50] | torch | **loss** | 1.50 | 1.50 |"
    assert f"| `softmax f32 1024×1000 out=` | {row}" in section
    row = "1 ms | **0.50×** | torch | **loss** | 1.50 | 1.50 | 2.00× | **0.50×** | wrong | 1.00× |"
    assert f"| `softmax f32 1024×1000 out=` | {row}" in page
    assert all("avx2" in text for text in (section, page))


def test_the_readme_has_its_cells_and_the_worst_loss() -> None:
    assert 6 <= len(cases.IN_README) <= 8
    assert set(cases.IN_README) <= set(cases.BY_NAME)
    section = readme.benchmark_section(RESULTS)
    assert all(f"`{cases.BY_NAME[name].label}`" in section for name in cases.IN_README)
    (lost, _), *_ = losses(RESULTS["cells"])
    assert f"`{cases.BY_NAME[lost['name']].label}`" in section


def test_the_documentation_shows_the_run_that_is_kept() -> None:
    text = (machine.ROOT / "README.md").read_text(encoding="utf-8")
    assert text == readme.replace_between(text, "benchmark", readme.benchmark_section(RESULTS))
    page = (machine.ROOT / readme.FULL_TABLE).read_text(encoding="utf-8")
    assert page == readme.full_table(RESULTS)


def test_only_the_text_between_the_markers_is_replaced(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "before\n<!-- benchmark:begin -->\nstale figures\n<!-- benchmark:end -->\nafter\n"
    )
    readme.update(document, tmp_path)
    text = path.read_text()
    assert text.startswith("before\n<!-- benchmark:begin -->\n")
    assert text.endswith("\n<!-- benchmark:end -->\nafter\n")
    assert "stale figures" not in text
    assert "### Rows of classes" in (tmp_path / readme.FULL_TABLE).read_text()
    readme.update(document, tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "<!-- a:begin -->", "<!-- a:end --><!-- a:begin -->"])
def test_missing_markers_are_an_error(text: str) -> None:
    with pytest.raises(cases.UsageError, match="a:begin"):
        readme.replace_between(text, "a", "body")


def test_the_fallback_never_reaches_the_readme(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(cases.UsageError, match="fallback"):
        readme.update({**document, "native": False}, tmp_path)


def test_the_fallback_has_its_own_exit_status(
    document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    document |= {"native": False, "left_out": {"input-bf16": "ml_dtypes"}}
    path.write_text(json.dumps(document))
    assert cli.main(["--from-json", str(path)]) == cli.FALLBACK_STATUS
    output = capsys.readouterr().out
    assert "NOT A NATIVE RUN" in output
    assert "input-bf16 is left out: ml_dtypes is not installed." in output
    assert cli.main(["--from-json", str(path), "--allow-fallback"]) == 0


def test_a_note_names_the_fast_peers_that_are_absent(document: dict[str, Any]) -> None:
    (note,) = [note for note in report.notes(document) if "Not in this run" in note]
    assert "best peer: ONNX Runtime, numba;" in note


def test_a_note_has_numbas_row_inlined_beside_a_call(document: dict[str, Any]) -> None:
    def found() -> list[str]:
        return [note for note in report.notes(document) if "numba inlines" in note]

    assert found() == []
    for name, shape, seconds in (("one-row-46", [46], 4e-7), ("batch-46", [512, 46], 512e-7)):
        numba = contender("numba", "peer", seconds, 2.0)
        document["cells"].append(cell(name, numba, shape=shape))
    (note,) = found()
    assert "takes 100 ns where numba inlines" in note
    assert "400 ns with numba and 200 ns with fastsoftmax" in note


def test_targets_count_a_wrong_peer_out(document: dict[str, Any]) -> None:
    first = targets(document)[1]
    assert first.verdict == "not met"
    assert first.checks[1].spread == (0.5,) * 3
    assert len(targets(document)) == 13


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [((2.1, 2.2, 2.4), "met"), ((1.5, 1.8, 1.9), "not met"), ((1.9, 2.2, 2.4), "undecided")],
)
def test_a_target_is_undecided_where_its_quartiles_enclose_the_bound(
    document: dict[str, Any], ratio: tuple[float, float, float], verdict: str
) -> None:
    # numpy.exp over ours: the plainest call is held to half of numpy.exp's time, others to 1.4.
    exp = contender("numpy.exp", "yardstick", 2e-7, *ratio)
    asarray = contender("numpy.asarray", "yardstick", 1e-6, 1.0)
    for tag in ("plainest-call", "call-of-list", "training-step", "another"):
        document["cells"].append(cell(tag, exp, asarray, tags=["call", tag]))
    target = targets(document)[0]
    assert target.verdict == verdict
    assert ("[" in str(target.checks[0])) == (verdict == "undecided")


@pytest.mark.parametrize(
    ("q1", "q3", "cycles", "met"),
    [(2.9, 3.2, 0.7, True), (2.1, 2.7, 0.9, False), (2.7, 3.2, 0.8, None)],
)
def test_a_peers_ratio_and_cycles_are_undecided_too(
    document: dict[str, Any], q1: float, q3: float, cycles: float, met: bool | None
) -> None:
    ours, _, torch, *_ = document["cells"][0]["contenders"]
    torch["ratio"] = spread(q1, (q1 + q3) / 2, q3)
    at_3_ghz = cycles * 1.024e6 / 3e9
    ours["seconds"] = spread(0.99 * at_3_ghz, at_3_ghz, 1.01 * at_3_ghz)
    checks = {check.line.figure: check for check in targets(document)[3].checks}
    assert checks["torch / ours"].met is met
    assert checks["cycles an element"].met is met


def test_the_slowest_call_is_judged_by_all_of_them(document: dict[str, Any]) -> None:
    for name, ratio in (("noisy", (0.5, 0.6, 0.9)), ("slow", (0.63, 0.65, 0.66))):
        exp = contender("numpy.exp", "yardstick", 1e-7, *ratio)
        document["cells"].append(cell(name, exp, tags=["call"]))
    slowest = targets(document)[0].checks[1]
    assert slowest.label == "worst of 2, noisy"
    assert slowest.spread == (1 / 0.66, 1 / 0.6, 1 / 0.5)
    assert slowest.met is False


@pytest.mark.parametrize(
    ("fields", "read", "written"),
    [
        ({}, 4 * 60, 4 * 60),
        ({"layout": "strided"}, 4 * 60, 4 * 60),
        ({"dtype": "float16", "options": (("dtype", np.float32),)}, 2 * 60, 4 * 60),
        ({"dtype": "int8"}, 60, 8 * 60),
        ({"function": "softmax_backward"}, 8 * 60, 4 * 60),
        ({"function": "logsumexp", "arrays": ("b",)}, 4 * 65, 4 * 12),
        ({"arrays": ("temperature",)}, 4 * 72, 4 * 60),
        ({"where": True}, 5 * 60, 4 * 60),
        ({"shape": (3, 2, 2, 5), "where": True}, 4 * 60 + 2 * 5, 4 * 60),
        (
            {"function": "softmax_cross_entropy", "options": (("return_grad", True),)},
            4 * 60 + 8 * 12,
            4 * 72,
        ),
    ],
    ids=str,
)
def test_a_copy_moves_what_the_call_has_to(fields: dict[str, Any], read: int, written: int) -> None:
    case = replace(cases.Case("a", (12, 5), "a"), **fields)
    assert streams.moved(case, inputs.make(case)) == (read, written)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("read", "written"), [(10, 10), (10, 16), (16, 10)])
def test_a_copy_writes_all_of_its_target(
    monkeypatch: pytest.MonkeyPatch, read: int, written: int, workers: int
) -> None:
    made: list[Any] = []

    def ones(size: int, dtype: Any) -> Any:
        made.append(np.full(size, 7 - 4 * len(made), dtype))
        return made[-1]

    monkeypatch.setattr(streams, "moved", lambda *_: (read, written))
    monkeypatch.setattr(np, "ones", ones)
    case = cases.Case("a", (2, 5), "a", workers=workers)
    call = streams.bound(case, inputs.make(case))
    call.function(*call.args)
    source, target = made
    assert (source == 7).all()
    assert (target != 3).all()
    assert np.count_nonzero(target) == min(read, written)


def test_only_rows_beyond_the_cores_own_cache_are_read_twice() -> None:
    row = cases.Case("a", (1, 40_000_000), "a", dtype="float16")
    data = inputs.Data(np.zeros(1, np.float16))
    twice = (row, replace(row, function="logsumexp"), replace(row, shape=(10**6, 40)))
    assert [streams.is_read_twice(case, data) for case in twice] == [True, False, False]


@pytest.mark.parametrize(("shape", "worst"), [([46], 0.5), ([1024, 1000], None)])
def test_no_small_call_is_bound_by_a_copy(
    document: dict[str, Any], shape: list[int], worst: float | None
) -> None:
    (only,) = document["cells"]
    only["shape"] = shape
    only["contenders"][-1]["ratio"]["median"] = 0.96
    assert targets(document)[1].checks[1].spread == (worst and (worst,) * 3)


@pytest.mark.parametrize(("times", "met"), [(1.3, True), (1.2, False)])
def test_the_fused_cross_entropy_is_held_to_its_parts_at_every_size(
    document: dict[str, Any], times: float, met: bool
) -> None:
    parts = contender("its parts", "variant", 1e-3, times)
    fused = cases.select(quick=False, pattern="entropy-parts")
    assert len(fused) == 4
    document["cells"] += [cell(case.name, parts, tags=case.tags) for case in fused]
    checks = [check for check in targets(document)[8].checks if "its parts" in str(check)]
    assert [check.met for check in checks] == [met] * 4


def test_accuracy_sections_take_the_worst_family(document: dict[str, Any]) -> None:
    tally = vars(accuracy.Tally(max_ulp=1.0, mean_ulp=0.5))
    entry = {"library": "SciPy", "function": "softmax", "dtype": "float32", **tally}
    found = {
        **document,
        "accuracy": [{**entry, "family": "a"}, {**entry, "family": "b", "max_ulp": 67.0}],
        "reproducibility": [
            {"library": "SciPy", "dtype": "float32", "layout": 0.93, "batch": 0.0, "cpu": None}
        ],
    }
    assert "| `softmax` float32, max ULP | 67 |" in readme.accuracy_section(found)
    assert "| memory layout, float32 | 93% |" in readme.reproducibility_section(found)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_agrees_with_mpmath(function: str, dtype: str) -> None:
    mpmath = pytest.importorskip("mpmath")
    if dtype == "float64" and not exact.IS_WIDER:
        pytest.skip("long double is a double here")
    x = np.random.default_rng(0).uniform(-300, 300, (1, 20)).astype(dtype)
    case = cases.Case("a", x.shape, "a", function=function, dtype=dtype)
    got = reference.Reference(case, inputs.Data(x)).exact[0].ravel()
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpmath.mpf(float(v))) for v in x[0]]
        total = mpmath.fsum(weights)
        values = {
            "softmax": [w / total for w in weights],
            "log_softmax": [mpmath.log(w / total) for w in weights],
            "logsumexp": [mpmath.log(total)],
        }[function]
        for mine, true in zip(got, values, strict=True):
            high = float(mine)
            residual = mpmath.mpf(high) + mpmath.mpf(float(mine - np.longdouble(high))) - true
            assert abs(residual / true) < 2.0**-60


def test_the_reference_divides_by_the_temperature() -> None:
    case = cases.Case("a", (3, 20), "a", dtype="float64", options=(("temperature", 0.7),))
    data = inputs.make(case)
    weights = np.exp(data.x / 0.7)
    expected = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        reference.Reference(case, data).exact[0].astype(float), expected, rtol=1e-13
    )


def test_the_reference_takes_probabilities_as_labels() -> None:
    case = next(case for case in CALLS if case.labels == "probabilities")
    data = inputs.make(case)
    assert data.labels is not None
    x, labels = data.x.astype(float), data.labels.astype(float)
    log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    loss, grad = (part.astype(float) for part in reference.Reference(case, data).exact)
    np.testing.assert_allclose(loss, -(labels * log_p).sum(axis=-1), rtol=1e-12)
    np.testing.assert_allclose(
        grad, labels.sum(axis=-1, keepdims=True) * np.exp(log_p) - labels, atol=1e-12
    )


def test_ulp_size_is_the_spacing_below_the_exact_value() -> None:
    at = np.array([1.0, 1.5, 2.0, 0.0, 1e-45], np.longdouble)
    tiny = 2.0**-149
    assert exact.ulp_size(at, "float32").tolist() == [2**-23, 2**-23, 2**-22, tiny, tiny]


@pytest.mark.parametrize("spoil", [np.nan, 0.5])
def test_a_wrong_answer_is_marked(spoil: float) -> None:
    case = cases.Case("a", (4, 10), "a")
    data = inputs.make(case)
    right = exact.exact_softmax(data.x).astype("float32")
    checker = reference.Reference(case, data)
    assert checker.score(right).wrong is None
    assert checker.score(right).max_ulp <= 0.5
    right[2, 3] = spoil
    assert checker.score(right).wrong is not None


def test_an_answer_of_another_shape_or_dtype_is_marked() -> None:
    case = cases.Case("a", (6,), "a", function="logsumexp", options=(("keepdims", True),))
    data = inputs.make(case)
    checker = reference.Reference(case, data)
    right = checker.exact[0].astype("float32")
    assert checker.score(right).wrong is None
    assert checker.score(right[0]).wrong == "the result has the shape ()"
    assert checker.score(right.astype("float64")).wrong == "the result is float64"


def test_a_timed_call_passes_its_arguments_and_runs_its_suffix() -> None:
    seen: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    timing.Call(record, (1,), {"out": 2}, suffix=" or f(a0, out=k_out)").timer().timeit(3)
    assert seen == [((1,), {"out": 2})] * 6


def waits_for_a_thread_that_spins() -> bool:
    rest = threading.Event()

    def spin() -> None:
        while not rest.is_set():
            pass

    spinner = threading.Thread(target=spin)
    spinner.start()
    threading.Timer(0.1, rest.set).start()
    start = time.perf_counter()
    timing.wait_until_idle(most=30)
    waited = rest.is_set()
    assert time.perf_counter() - start < 30
    spinner.join()
    return waited


def test_a_threaded_sample_waits_for_threads_that_spin() -> None:
    # On a busy machine a thread that spins may be kept from it for a moment.
    assert any(waits_for_a_thread_that_spins() for _ in range(5))


def test_paired_ratios_use_the_rounds_both_took_part_in() -> None:
    ratio = timing.paired_ratio({0: 2.0, 2: 6.0, 4: 4.0}, {0: 1.0, 1: 9.0, 2: 2.0, 3: 9.0, 4: 2.0})
    assert ratio == spread(2.0, 2.0, 2.5)


# ---- the search for the worst rows ----


def test_a_search_finds_the_textbook_formulas_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def textbook(x: Any, **options: Any) -> Any:
        if options:
            return ours(x, **options)
        with np.errstate(over="ignore"):  # of rows from one end of the format to the other
            weights = np.exp(x - x.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def over(backend: Any) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(original(backend)), "softmax": textbook})

    original, ours = _api.over, Subject().functions.softmax
    monkeypatch.setattr(_api, "over", over)
    path = tmp_path / "run.json"
    words = ["accuracy", "--search", "5", "--dtypes", "float32", "--peers", "", "--json", str(path)]
    assert cli.main([*words, "--allow-fallback"]) == 1
    output = capsys.readouterr()
    assert "benchmarks: softmax float32: " in output.err
    entry = json.loads(path.read_text())["search"][0]
    assert entry["title"] == "softmax"
    assert entry["max_ulp"] > entry["bound"]
    assert entry["x"].split(", ")[0] in output.out
    kind, row = worst_rows.from_entry(entry)
    found = worst_rows.confirmed(SimpleNamespace(softmax=textbook), kind, row, entry["rows"])
    assert found.ulps == pytest.approx(entry["max_ulp"])


def test_a_result_that_is_infinite_beside_the_end_of_the_format_is_an_ulp_or_two_off() -> None:
    temperature, numbers = 0.24599473560718174, ("0x1.f7cc14p125", "0x1.f7cc1p-129")
    x = np.array([[float.fromhex(number) for number in numbers]], np.float32)
    logits = x.astype(np.longdouble) / temperature
    right = logits[0, 1] - logits[0, 0]
    assert abs(right) < np.finfo(np.float32).max
    kind = Kind(BY_TITLE["log_softmax, tempered"], "float32", "")
    row = Batch(x, parameter=temperature)
    given = ((-np.inf, 1, 1.5), (right, 0, 0.5), (0, 1e6, 1e8), (np.nan, 1e30, np.inf))
    for got, least, most in given:
        result = np.array([[0, got]], np.float32)
        functions = SimpleNamespace(log_softmax=lambda *_, result=result, **__: result)
        assert least <= worst_rows.confirmed(functions, kind, row, 1).ulps <= most


def test_a_search_ends_with_a_verdict_on_the_package(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = ["accuracy", "--search", "10", "--dtypes", "float16", "--peers", "scipy"]
    status = cli.main([*words, "--seed", "1", "--json", str(path), "--allow-fallback"])
    found = json.loads(path.read_text())["search"]
    assert all(entry["tried"] for entry in found)
    assert status == any(entry["max_ulp"] > entry["bound"] for entry in found if "x" in entry)
    assert cli.main(["--from-json", str(path), "--allow-fallback"]) == status


def test_a_search_has_nothing_for_the_readme() -> None:
    assert cli.main(["accuracy", "--search", "2", "--update-readme"]) == 2
    assert cli.main(["accuracy", "--search", "2", "--dtypes", "int8"]) == 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("computation", COMPUTATIONS, ids=lambda computation: computation.title)
def test_mpmath_and_long_double_agree_on_every_computation(
    computation: Computation, dtype: str
) -> None:
    if dtype == "float64" and not exact.IS_WIDER:
        pytest.skip("long double is a double here")
    rng, functions = np.random.default_rng(5), Subject().functions
    for _ in range(10):
        x, family = rows(rng, dtype, 100, is_long=False)
        batch = mutated(rng, completed(rng, computation, x, family).row(0), computation)
        results = call(functions, computation, batch)
        for part, found in errors(computation, batch, results, functions.name).items():
            index = int(found.of_rows().argmax())
            ulps = float(found.of_rows()[index])
            if batch.x.shape[1] > 300 or not 0 < ulps < np.inf:
                continue
            kind = Kind(computation, dtype, part)
            record = worst_rows.confirmed(functions, kind, batch.row(index), len(batch.x))
            assert record.by == "mpmath"
            # A float64 ULP is 2048 of long double's, whose error is some of those.
            assert record.ulps == pytest.approx(ulps, rel=0.01, abs=2e-3)
            again, row = worst_rows.from_entry(worst_rows.as_entry(kind, record))
            assert again == kind
            pairs = zip(terms(computation, record.row)[1], terms(computation, row)[1], strict=True)
            for mine, other in pairs:
                assert (mine.tobytes(), mine.dtype) == (other.tobytes(), other.dtype)


def test_the_file_of_worst_rows_keeps_the_worst_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worst_rows, "KEPT", 3)
    monkeypatch.setattr(worst_rows, "measured", lambda _, entry: entry)
    path = tmp_path / "rows.json"
    entry = {"title": "softmax", "dtype": "float32", "rows": 1, "peers": {}}
    entries = [{**entry, "family": f"{n}", "x": f"0x{n}p+0", "max_ulp": n} for n in range(1, 6)]
    long = {**entry, "family": "long", "x": ", ".join(map(str, range(1000))), "max_ulp": 9}
    relative = {**entries[-1], "max_ulp": 4.5}
    worst_rows.merge(None, entries[:3], path)
    worst_rows.merge(None, [*entries[2:], long, relative], path)
    assert [row["max_ulp"] for row in worst_rows.known(path)] == [5, 4, 3]


def test_a_row_in_the_file_has_the_error_that_it_has_now() -> None:
    entry = {
        "computation": "softmax", "part": "", "dtype": "float32", "rows": 1, "family": "",
        "x": "0x1p+0, 0x0p+0", "max_ulp": 99.0, "element": 1, "by": "",
    }  # fmt: skip
    assert 0 < worst_rows.measured(Subject().functions, entry)["max_ulp"] < 3


def test_an_accuracy_run_of_before_the_search_can_be_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--from-json", str(machine.ROOT / "benchmarks/results/accuracy.json")]) == 0
    assert "Worst over the families" in capsys.readouterr().out
