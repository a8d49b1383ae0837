"""The programs in RECIPES.md run, and their own comparisons hold."""

import importlib.util
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "fastsoftmax" / "RECIPES.md"
TEXT = PAGE.read_text(encoding="utf-8")
RECIPES = [
    (title, code)
    for title, section in re.findall(
        r"^##+ (.*?)\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
]
NEEDED = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
SLOW_TO_IMPORT = {"torch", "jax", "keras", "lightgbm", "xgboost", "numba"}


def marked(title, code):
    slow = SLOW_TO_IMPORT & set(NEEDED.findall(code))
    return pytest.param(code, marks=[pytest.mark.slow] if slow else [], id=title)


@pytest.mark.filterwarnings("default")  # the libraries' own are theirs
@pytest.mark.parametrize("code", [marked(*recipe) for recipe in RECIPES])
def test_recipe(code, monkeypatch):
    for library in NEEDED.findall(code):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")
    if "import keras" in code:  # its default is a library that the recipes do not need
        others = (name for name in ("jax", "torch") if importlib.util.find_spec(name))
        monkeypatch.setenv("KERAS_BACKEND", next(others, "tensorflow"))
    exec(compile(code, PAGE.name, "exec"), {"__name__": "recipe"})


def test_there_is_a_recipe_for_each_container():
    assert len(RECIPES) >= 19
