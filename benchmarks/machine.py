"""What the figures were taken on: CPU, clock, caches, versions, commit."""

import ctypes
import mmap
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_ADDS = 64
_LOOPS = 20_000


def _dependent_adds() -> bytes | None:
    """Return machine code of ``_LOOPS`` rounds of ``_ADDS`` adds, each waiting for the last.

    A register-to-register add takes one cycle on every x86-64 and AArch64 core in use (adds of a
    constant do not: some cores fold them away), so adds a second is the clock.
    """
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        count = b"\xb9" + _LOOPS.to_bytes(4, "little")  # mov ecx, loops
        body = b"\x48\x01\xd0" * _ADDS  # add rax, rdx
        back = -(len(body) + 8)
        return (
            count + body + b"\xff\xc9\x0f\x85" + back.to_bytes(4, "little", signed=True) + b"\xc3"
        )
    if machine in ("aarch64", "arm64") and sys.platform == "linux":
        words = [0x52800002 | _LOOPS << 5]  # mov w2, loops
        words += [0x8B010000] * _ADDS  # add x0, x0, x1
        words += [0x71000442]  # subs w2, w2, 1
        words += [0x54000001 | (-(_ADDS + 1) & 0x7FFFF) << 5, 0xD65F03C0]  # b.ne, ret
        return b"".join(word.to_bytes(4, "little") for word in words)
    return None


class Clock:
    """The core's clock, from a loop of dependent adds; see ``method`` for what was used."""

    def __init__(self) -> None:
        self.method = "not measured on this system"
        self._run: Any = None
        code = _dependent_adds()
        if code is None:
            return
        try:
            writable = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            self._page = mmap.mmap(-1, max(len(code), mmap.PAGESIZE), prot=writable)
        except (AttributeError, OSError):  # Windows, or a system that forbids it
            return
        self._page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._run = ctypes.CFUNCTYPE(None)(address)
        self.method = "a timed loop of dependent one-cycle adds, once a round"

    def ghz(self) -> float | None:
        """Return the clock now, in GHz (about half a millisecond)."""
        if self._run is None:
            return None
        start = perf_counter()
        self._run()
        return _ADDS * _LOOPS / (perf_counter() - start) / 1e9


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def caches() -> dict[str, int]:
    """Return the bytes of each data cache of the first core, by level ("L1", "L2", "L3")."""
    found: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        size = (index / "size").read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
        level = (index / "level").read_text().strip()
        found[f"L{level}"] = int(size.rstrip("KM")) * unit
    return found


def commit() -> str | None:
    """Return the commit of the tree, marked when the tree has changes; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions(distributions: list[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {"Python": platform.python_version()}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe() -> dict[str, Any]:
    """Return the machine, for the JSON."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
