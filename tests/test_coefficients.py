"""coefficients.h is what the script beside it derives."""

import pytest
from toolchain import KERNELS, need, run_python

pytest.importorskip("mpmath")


@pytest.mark.slow
def test_the_header_is_what_the_script_gives():
    need()
    done = run_python(KERNELS / "derive_coefficients.py", "--check")
    assert done.returncode == 0, done.stderr
