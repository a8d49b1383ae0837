"""What README.md shows is what happens: its code, its output, its signatures, its translations."""

import contextlib
import inspect
import io
import re
from pathlib import Path

import checkout  # noqa: F401 - puts benchmarks on the path
import numpy as np
import pytest

import fastsoftmax
from benchmarks import exact, worst_rows

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (.*?)\n(.*?)(?=^##+ |\Z)", README, re.MULTILINE | re.DOTALL))
EXAMPLES = re.findall(r"```python\n(import .*?)```(?:\n+```text\n(.*?)```)?", README, re.DOTALL)
SIGNATURES = re.findall(r"^(\w+)(\(.*\))$", SECTIONS["What there is"], re.MULTILINE)
TRANSLATIONS = re.findall(
    r"^\| `.*?` \| (.*) \|$", SECTIONS["Coming from another library"], re.MULTILINE
)


def run(code):
    names = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), names)
    return names, printed.getvalue()


def test_the_first_example_prints_what_the_readme_shows():
    code, output = EXAMPLES[0]
    assert run(code)[1] == output


def test_the_training_example_learns_as_well_as_scikit_learn():
    neural_network = pytest.importorskip("sklearn.neural_network")
    names, _ = run(EXAMPLES[1][0])
    assert names["accuracy"] >= 0.96
    assert names["loss"].mean() < 0.1
    rival = neural_network.MLPClassifier((64, 64), random_state=0, max_iter=300)
    rival.fit(names["x_train"], names["y_train"])
    assert names["accuracy"] >= rival.score(names["x_test"], names["y_test"]) - 0.01


def test_the_masked_softmax_layer_of_keras():
    got = fastsoftmax.softmax([1, 2, 1], where=[True, False, True])
    np.testing.assert_array_equal(got, [0.5, 0, 0.5])


def parameters(function):
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


@pytest.mark.parametrize(("name", "signature"), SIGNATURES)
def test_signatures_are_those_of_the_functions(name, signature):
    shown = {}
    exec(f"def {name}{signature}: ...", shown)
    assert parameters(getattr(fastsoftmax, name)) == parameters(shown[name])


def test_every_function_is_listed():
    functions = {name for name in fastsoftmax.__all__ if name.islower() and name[0] != "_"}
    listed = {name for name, _ in SIGNATURES}
    assert functions - listed <= {"get_workers", "set_workers", "show_config"}


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_translations_from_other_libraries_run(translation):
    rng = np.random.default_rng(0)
    names = {name: getattr(fastsoftmax, name) for name, _ in SIGNATURES}
    names["x"] = rng.normal(size=(4, 5))
    names["labels"] = rng.integers(0, 5, size=4)
    names["targets"] = names["x"] ** 2 / np.sum(names["x"] ** 2, axis=1, keepdims=True)
    names["mask"] = rng.random((4, 5)) < 0.7
    for code in re.findall(r"`(.*?)`", translation):
        exec(code, names)


GRADIENT = exact.BOUND_GRADIENT
BOUNDS = {
    "`softmax`": (exact.BOUND["softmax"], r"(segment_)?softmax(, masked)?"),
    "`softmax` with a temperature": (exact.BOUND_TEMPERED, "softmax, tempered"),
    "`softmax`, results just above the smallest normal number": (
        exact.BOUND_NEAR_SUBNORMAL,
        r".*: near the subnormal",
    ),
    "`softmax`, results below that": (exact.BOUND_SUBNORMAL, r".*: subnormal"),
    "`log_softmax`, near 0 too": (exact.BOUND["log_softmax"], r"log_softmax(, .*)?"),
    "`logsumexp`, of the larger of `abs(max)` and the result": (
        exact.BOUND["logsumexp"],
        r"logsumexp(, .*)?",
    ),
    "`softmax_cross_entropy`, with any labels and smoothing": (exact.BOUND_LOSS, r".*: loss"),
    "its gradient": (GRADIENT["softmax_cross_entropy"], r".*: gradient"),
    "`log_softmax_backward`": (GRADIENT["log_softmax_backward"], "log_softmax_backward"),
    "`softmax_backward`": (GRADIENT["softmax_backward"], "softmax_backward"),
}
"""What the table of bounds has a line for: its bound, and the titles of the rows that were found."""


def test_the_table_of_bounds_has_those_that_are_tested_and_the_worst_rows_that_are_kept():
    def found(titles, dtype):
        errors = [
            row["max_ulp"]
            for row in worst_rows.known()
            if row["dtype"] == dtype and re.fullmatch(titles, row["title"])
        ]
        return f"{max(errors):.1f}"

    lines = [
        f"| {label} | {bound:g} | {found(titles, 'float32')} | {found(titles, 'float64')} |"
        for label, (bound, titles) in BOUNDS.items()
    ]
    table = README.partition("| | promised | float32 | float64 |\n")[2].partition("\n\n")[0]
    assert table.splitlines()[1:] == lines
