"""What README.md and the pages behind it show is what happens: code, signatures, translations."""

import contextlib
import inspect
import io
import re

import checkout
import numpy as np
import pytest

import fastsoftmax
from benchmarks import exact, worst_rows

README, RECIPES, ACCURACY = (
    (checkout.ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "fastsoftmax/RECIPES.md", "benchmarks/ACCURACY.md")
)


def section(page, title):
    return re.search(rf"^##+ {title}\n(.*?)(?=^##+ |\Z)", page, re.MULTILINE | re.DOTALL)[1]


EXAMPLE = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.DOTALL)
TRAINING = re.search(r"```python\n(.*?)```", section(RECIPES, "Training a classifier"), re.DOTALL)
SIGNATURES = re.findall(r"^(\w+)(\([^)]*\))$", section(README, "Functions"), re.MULTILINE)
TRANSLATION = re.compile(r"^\| (`.*?`.*?) \| (.*) \|$", re.MULTILINE)
IN_README, IN_RECIPES = (
    dict(TRANSLATION.findall(section(page, "Coming from another library").partition("What")[0]))
    for page in (README, RECIPES)
)
TRANSLATIONS = list(IN_RECIPES.values())
LEFT_OUT = dict(
    re.findall(
        r"^\| (?!what )(.*?) \| (.*) \|$", section(RECIPES, "Left out on purpose"), re.MULTILINE
    )
)


def run(code):
    names = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), names)
    return names, printed.getvalue()


def test_the_example_prints_what_the_readme_shows():
    code, output = EXAMPLE.groups()
    assert run(code)[1] == output


@pytest.mark.slow
def test_the_training_example_learns_as_well_as_scikit_learn():
    neural_network = pytest.importorskip("sklearn.neural_network")
    names, _ = run(TRAINING[1])
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
    assert functions - listed <= {"get_include", "get_workers", "set_workers", "show_config"}


def arguments():
    """What the README's lines have names for."""
    rng = np.random.default_rng(0)
    names = {name: getattr(fastsoftmax, name) for name, _ in SIGNATURES}
    x = rng.normal(size=(4, 5))
    names |= {"np": np, "rng": rng, "x": x, "labels": rng.integers(0, 5, size=4), "n": 4}
    names["targets"] = x**2 / np.sum(x**2, axis=1, keepdims=True)
    names["mask"] = rng.random((4, 5)) < 0.7
    names |= {"b": rng.normal(size=5), "z": x + 1j, "s": rng.random(4), "w": rng.random(5)}
    names |= {"temperatures": rng.random(4) + 0.5, "teacher": rng.normal(size=(4, 5)), "T": 2.0}
    names["padded"] = np.where([True, False, True, True], names["labels"], -100)
    names |= {"scores": rng.normal(size=(6, 2)), "indptr": np.array([0, 2, 2, 3, 6])}
    names |= {"ids": np.array([3, 0, 2, 3, 0, 3]), "data": rng.normal(size=6), "counts": [2, 0, 4]}
    return names


def values(text, names):
    """Run the lines in a text and return the values of those that have one."""
    found = []
    for code in re.findall(r"`(.*?)`", text):
        if re.match(r"\w+=\S", code):  # an argument of the line before
            found.append(eval(f"dict({code})", names))
            continue
        try:
            found.append(eval(compile(code, "README.md", "eval"), names))
        except SyntaxError:
            exec(code, names)
    return found


def test_the_readme_has_translations_of_the_recipes():
    assert len(IN_README) == 8
    assert IN_README.items() <= IN_RECIPES.items()


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_translations_from_other_libraries_run(translation):
    values(translation, arguments())


def test_translations_have_the_values_of_the_formulas():
    names = arguments()
    x, labels, teacher, padded = (names[key] for key in ("x", "labels", "teacher", "padded"))

    def of(start):
        (text,) = [text for text in TRANSLATIONS if text.startswith(f"`{start}")]
        return values(text, names)[0]

    def weights(logits):
        return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)

    tempered = weights(x / names["temperatures"][:, np.newaxis])
    np.testing.assert_allclose(of("softmax(x, axis=1, temperature=t"), tempered)
    distilled = -4 * (weights(teacher / 2) * np.log(weights(x / 2))).sum(axis=-1)
    np.testing.assert_allclose(of("softmax_cross_entropy(x, softmax("), distilled)
    losses = -np.log(weights(x))[np.arange(4), labels]
    np.testing.assert_allclose(
        of("softmax_cross_entropy(x, padded"), losses[padded >= 0].sum(), rtol=1e-12
    )
    np.testing.assert_allclose(
        of("softmax_cross_entropy(x, labels, sample_weight"), names["s"] * losses
    )
    data = names["data"]
    np.testing.assert_allclose(of("segment_softmax(data"), [*weights(data[:2]), *weights(data[2:])])


def left_out(what, **changed):
    names = {**arguments(), **changed}
    return values(LEFT_OUT[what], names), names


def test_what_is_left_out_has_a_line_each():
    assert set(LEFT_OUT) == {
        "complex input", '`reduction="mean"`', "weights of classes", "temperature 0", "sampling",
        "sigmoid", "one-hot for +inf, which gives NaN", "segments by unsorted ids",
    }  # fmt: skip


def test_scipy_takes_complex_input_and_has_the_sigmoid():
    special = pytest.importorskip("scipy.special")
    scipy = __import__("scipy")
    (found,), names = left_out("complex input", scipy=scipy)
    np.testing.assert_allclose(found, special.logsumexp(names["x"], axis=-1) + 1j)
    (one, other), names = left_out("sigmoid", scipy=scipy)
    expected = 1 / (1 + np.exp(-names["x"]))
    np.testing.assert_allclose(one, expected)
    np.testing.assert_allclose(other, expected)


def test_the_mean_loss_and_weights_of_classes():
    (mean, total), names = left_out('`reduction="mean"`')
    losses, grad = fastsoftmax.softmax_cross_entropy(names["x"], names["labels"], return_grad=True)
    np.testing.assert_allclose([mean, total], losses.mean())
    np.testing.assert_allclose(names["grad"], grad / 4)
    (weighed, argument), names = left_out("weights of classes")
    factor = names["w"][names["labels"]]
    np.testing.assert_allclose(weighed, factor * losses)
    of_torch = fastsoftmax.softmax_cross_entropy(names["x"], names["labels"], **argument).sum()
    np.testing.assert_allclose(of_torch, np.average(losses, weights=factor))


def test_temperature_0_and_inf_as_one_hot():
    (at, one_hot), names = left_out("temperature 0")
    np.testing.assert_array_equal(one_hot.argmax(axis=-1), at)
    cold = fastsoftmax.softmax(names["x"], temperature=1e-5)
    np.testing.assert_array_equal(one_hot, cold)
    x = np.array([[np.inf, 1, np.inf], [0, 0, -np.inf], [5, np.inf, 0]])
    (found,), _ = left_out("one-hot for +inf, which gives NaN", x=x)
    np.testing.assert_array_equal(found, [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 1, 0]])


def test_segments_by_unsorted_ids():
    _, names = left_out("segments by unsorted ids")
    for node in range(4):
        edges = names["ids"] == node
        expected = fastsoftmax.softmax(names["scores"][edges], axis=0)
        np.testing.assert_array_equal(names["p"][edges], expected)


def refused(draw, probabilities):
    """Return how many rows cannot be drawn from."""
    count = 0
    for row in probabilities:
        try:
            draw(row)
        except ValueError:
            count += 1
    return count


def test_probabilities_in_float64_can_be_drawn_from():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 8, (300, 256)).astype(np.float32)
    narrow = fastsoftmax.softmax(x)
    for multinomial in (rng.multinomial, np.random.RandomState(0).multinomial):
        assert 70 <= refused(lambda p, draw=multinomial: draw(1, p), narrow) <= 140
    for row in x:
        (one, all_of_them), _ = left_out("sampling", x=row[np.newaxis])
        assert 0 <= one < 256
        assert all_of_them.shape == (1,)
    (_, drawn), _ = left_out("sampling", x=np.where(np.eye(256) == 1, 100, x[:256]))
    assert np.mean(drawn == np.arange(256)) == 1


GRADIENT = exact.BOUND_GRADIENT
BOUNDS = {
    "`softmax`": (exact.BOUND["softmax"], r"(segment_)?softmax(, masked)?"),
    "`softmax` with a temperature": (
        exact.BOUND_TEMPERED,
        r"(segment_)?softmax, tempered( by row)?",
    ),
    "`softmax`, results just above the smallest normal number": (
        exact.BOUND_NEAR_SUBNORMAL,
        r".*: near the subnormal",
    ),
    "`softmax`, results below that": (exact.BOUND_SUBNORMAL, r".*: subnormal"),
    "`log_softmax`, near 0 too": (exact.BOUND["log_softmax"], r"(segment_)?log_softmax(, .*)?"),
    "`logsumexp`, of the larger of `abs(max)` and the result": (
        exact.BOUND["logsumexp"],
        r"(segment_)?logsumexp(, .*)?",
    ),
    "`softmax_cross_entropy`, with any labels and smoothing": (exact.BOUND_LOSS, r".*: loss"),
    "its gradient": (GRADIENT["softmax_cross_entropy"], r".*: gradient"),
    "`log_softmax_backward`": (GRADIENT["log_softmax_backward"], "log_softmax_backward(, masked)?"),
    "`softmax_backward`": (GRADIENT["softmax_backward"], "softmax_backward"),
}
"""What the table of bounds has a line for: its bound, and the titles of the rows that were found."""


def largest(titles, *dtypes):
    """Return the largest error of the rows that are kept."""
    errors = [
        row["max_ulp"]
        for row in worst_rows.known()
        if row["dtype"] in dtypes and re.fullmatch(titles, row["title"])
    ]
    return f"{max(errors):.1f}"


def rows_of(page, heading):
    return page.partition(heading)[2].partition("\n\n")[0].splitlines()[1:]


def test_the_table_of_bounds_has_those_that_are_tested_and_the_worst_rows_that_are_kept():
    lines = [
        f"| {label} | {bound:g} | {largest(titles, 'float32')} | {largest(titles, 'float64')} |"
        for label, (bound, titles) in BOUNDS.items()
    ]
    assert rows_of(ACCURACY, "| | promised | float32 | float64 |\n") == lines


def test_the_readme_has_the_bounds_of_its_functions():
    def of(*labels):
        found = [BOUNDS[label] for label in labels]
        return [f"{bound:g}" for bound, _ in found], [
            largest(titles, "float32", "float64") for _, titles in found
        ]

    (softmax,), (found,) = of("`softmax`")
    lines = [f"| `softmax` | {softmax} | {found} |"]
    logarithms = [
        "`log_softmax`, near 0 too",
        "`logsumexp`, of the larger of `abs(max)` and the result",
    ]
    bounds, errors = of(*logarithms)
    assert bounds[0] == bounds[1]
    lines.append(f"| `log_softmax`, `logsumexp` | {bounds[0]} | {max(errors)} |")
    bounds, errors = of("`softmax_cross_entropy`, with any labels and smoothing", "its gradient")
    row = "| `softmax_cross_entropy`, its gradient"
    lines.append(f"{row} | {', '.join(bounds)} | {', '.join(errors)} |")
    (backward,), (found,) = of("`softmax_backward`")
    lines.append(f"| `softmax_backward` | {backward} | {found} |")
    assert rows_of(README, "| | at most | largest found |\n") == lines
    near = f"Next to the subnormal numbers `softmax` is within {exact.BOUND_NEAR_SUBNORMAL:g}."
    assert near in README
