"""The kernels' sources, compilers and emulators that a test may need, and child processes."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[1] / "fastsoftmax" / "_kernels"
PROGRAMS = Path(__file__).parent / "c"
STRICT = ("-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{KERNELS}")
"""setup.py's, but for the level of optimisation, with every warning an error."""

ON_X86 = platform.machine().lower() in {"x86_64", "amd64"}


def need(*tools):
    """Skip the test where a tool, or the C sources (a wheel tested by itself), is absent."""
    if not KERNELS.is_dir():
        pytest.skip("needs the kernels' C sources")
    need_compiler(*tools)


def need_compiler(*tools):
    """Skip the test where a tool is absent."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def run(*command, **options):
    """Return what a command prints; its messages are in the failure."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr!s}"
    return done.stdout


def unit_flags(name):
    """Return options for what the source of a unit switches on by itself."""
    source = (KERNELS / f"softmax_{name}.c").read_text()
    target = re.search(r'FSM_TARGET_BEGIN\("(.*)"\)', source)
    return [f"-m{feature}" for feature in target[1].split(",")] if target else []


def compile_program(compiler, program, output, *options, sources=()):
    """Compile one of the programs beside this file; the compiler's name may bring options."""
    files = [PROGRAMS / program, *sources]
    run(*compiler.split(), *STRICT, *options, *files, "-o", output, "-lm")
    return output


def preload(program, folder, monkeypatch):
    """Let children have the functions of one of the programs in place of the C library's."""
    need("gcc")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("another library is preloaded: a sanitizer's runtime, which must be the first")
    library = compile_program("gcc", program, folder / "preloaded.so", "-shared", "-fPIC")
    monkeypatch.setenv("LD_PRELOAD", str(library))


def run_python(*arguments, under=(), backend=None, timeout=None):
    """Run Python in a child that imports what this process would; the backend is its own choice."""
    environment = {k: v for k, v in os.environ.items() if k != "FASTSOFTMAX_BACKEND"}
    if backend is not None:
        environment["FASTSOFTMAX_BACKEND"] = backend
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [*under, sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
