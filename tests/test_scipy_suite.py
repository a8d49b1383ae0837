"""SciPy's own tests of these functions, which its wheel holds, pass with ours in their place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_scipys_tests_pass_with_our_functions(backend_name):
    pytest.importorskip("scipy")
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = {
        **os.environ,
        "FASTSOFTMAX_BACKEND": backend_name,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "scipy_swap", "-p", "no:cacheprovider",
            "-c", os.devnull, "--pyargs", "scipy.special.tests.test_logsumexp",
        ],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 30  # 33 in SciPy 1.15, more in later ones
