"""Measurements that need a process of their own: settings that libraries read when they start.

Runs on AVX2 and on the NumPy backend, a second table on two threads, and the array past the
last-level cache are each ``python -m benchmarks`` again, with other options; the package's own
weight is measured here too.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import zlib
from argparse import Namespace
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from .document import Document
from .machine import ROOT
from .timing import spread

STREAMING_BYTES = 1 << 22
"""Where glibc's memcpy is told to switch to streaming stores, for the streaming copy."""


def child(options: list[str], environment: Mapping[str, str] | None = None) -> Document | None:
    """Run the suite again with other options and return its JSON; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run.json"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *options, "--json", str(target), "--companion"],
            cwd=ROOT, env={**os.environ, **(environment or {})}, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if not target.exists():
            sys.stderr.write(f"a companion run failed: {' '.join(options)}\n{done.stderr[-800:]}\n")
            return None
        found: Document = json.loads(target.read_text())
        found["command"] = shlex.join(["python", "-m", "benchmarks", *options])
        return found


def add(document: Document, options: Namespace) -> None:
    """Measure what needs another process; a quick run leaves out what takes minutes."""
    quick = ["--quick"] * options.quick

    def forced(instruction_set: str, peer: str, cells: str) -> Document | None:
        names = ["--instruction-set", instruction_set, "--peers", peer, "--cells", cells]
        return child([*names, *quick])

    document["package"] = package()
    with_torch = "torch" in document["versions"]
    if with_torch and document["native"] and "avx2" in document["available"]:
        cells = "rows-1000,rows-1000-out,rows-1000-float64"
        document["avx2"] = forced("avx2", "torch", cells)
    document["numpy_backend"] = forced("numpy", "scipy", "one-row-46,rows-1000,rows-1000-f64")
    if not options.quick and options.cells is None:
        document["beyond_cache"] = _beyond_cache(document["machine"]["caches"])
        peers = [] if options.peers is None else ["--peers", options.peers]
        document["two_threads"] = child(["--threads", "2", *peers])


def _beyond_cache(caches: dict[str, int]) -> dict[str, Any]:
    """Return the cell past the last-level cache, on one worker and on two."""
    tunables = {"GLIBC_TUNABLES": f"glibc.cpu.x86_non_temporal_threshold={STREAMING_BYTES}"}
    found: dict[str, Any] = {}
    for threads, environment in (("1", {}), ("2", tunables)):
        options = ["--cells", "beyond-cache", "--threads", threads, "--peers", ""]
        if document := child(options, environment):
            found[threads] = cell = document["cells"][0]
            if prod(cell["shape"]) * 4 < max(caches.values(), default=0):
                found["note"] = "The array past the cache is smaller than this CPU's last level."
    return found


_IMPORT = """
import time, numpy
start = time.perf_counter()
import fastsoftmax
print(1e3 * (time.perf_counter() - start))
"""


def package() -> dict[str, Any]:
    """Return the import's time beyond NumPy's and the package's compressed size."""
    # As after an installation, where modules are compiled once and for all.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    samples = []
    for _ in range(8):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        if done.returncode == 0:
            samples.append(float(done.stdout))
    warm = samples[1:]
    return {"import": warm and spread(warm), "deflated_kb": _weight()}


def _weight() -> float:
    """Return the KB that the package takes in a wheel."""
    import fastsoftmax

    folder = Path(fastsoftmax.__file__).parent
    kept = [path for path in folder.iterdir() if path.suffix in {".py", ".pyi", ".so", ".pyd"}]
    return sum(len(zlib.compress(path.read_bytes())) for path in kept) / 1e3
