"""coefficients.h is what the script beside it derives."""

import subprocess
import sys

import pytest
from toolchain import KERNELS, need

pytest.importorskip("mpmath")


def test_the_header_is_what_the_script_gives():
    need()
    script = KERNELS / "derive_coefficients.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
