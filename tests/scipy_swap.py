"""A pytest plugin that runs SciPy's own tests against fastsoftmax: see test_scipy_suite.py.

The functions are swapped in SciPy's test module once it is imported, with SciPy's default axis. A
test is left out for one of the reasons below only.
"""

import functools

import pytest

import fastsoftmax

OURS = ("softmax", "log_softmax", "logsumexp")

LEFT_OUT = {
    "complex input": ("complex", "gh21610", "gh21709", "gh22601"),
    "a helper of SciPy's, not one of the functions": ("wrap_radians",),
    "arrays of other libraries, and the messages about them": ("test_device", "xp_invalid_input"),
}  # fmt: skip


def swapped(function):
    @functools.wraps(function)
    def with_scipys_default(x, axis=None, **options):
        return function(x, axis, **options)

    return with_scipys_default


def pytest_collection_modifyitems(config, items):
    kept, left_out = [], []
    for item in items:
        for name in OURS:
            setattr(item.module, name, swapped(getattr(fastsoftmax, name)))
        reasons = [r for r, parts in LEFT_OUT.items() if any(part in item.nodeid for part in parts)]
        (left_out if reasons else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.hookimpl(trylast=True)
def pytest_report_header():
    return f"scipy.special's {', '.join(OURS)} are fastsoftmax {fastsoftmax.__version__}"
