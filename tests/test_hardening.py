"""How the extension module was linked, as its file says it."""

import re
import shutil
import sys

import pytest
from toolchain import run, run_python

from fastsoftmax import _backend

UNDERFLOW = "import fastsoftmax; least = 2.0**-1022; assert least / 2 > 0"

LINKERS_OWN = {"_init", "_fini", "_edata", "_end", "__bss_start"}
"""Names that older linkers export from every library."""


@pytest.fixture(scope="module")
def tables():
    """Return what readelf says of the extension, a list of columns for each line."""
    if sys.platform != "linux" or shutil.which("readelf") is None:
        pytest.skip("needs Linux and readelf")
    if not _backend.INSTRUCTION_SETS:
        pytest.skip("there is no extension")

    def read(table):
        text = run("readelf", "--wide", table, _backend._native.__file__, text=True)
        return [line.split() for line in text.splitlines()]

    return {table: read(table) for table in ("--dynamic", "--program-headers", "--dyn-syms")}


def flags(tables, segment):
    """Return the access that each segment of a kind allows, of R, W and E."""
    # Name, offset, two addresses, two sizes, flags of one to three words, alignment.
    lines = [line for line in tables["--program-headers"] if line[:1] == [segment]]
    return [set("".join(line[6:-1])) for line in lines]


def test_nothing_but_the_start_of_the_module_is_exported(tables):
    """A function of the same name in another library is then never called for ours, nor ours for it."""
    # Number, value, size, type, binding, visibility, section, name.
    symbols = [line for line in tables["--dyn-syms"] if re.fullmatch(r"\d+:", "".join(line[:1]))]
    exported = {line[7] for line in symbols if len(line) > 7 and line[6] != "UND"}
    assert exported - LINKERS_OWN == {"PyInit__native"}


def test_addresses_of_functions_are_read_only_once_the_module_is_loaded(tables):
    assert flags(tables, "GNU_RELRO")
    assert any("NOW" in line or "BIND_NOW" in line for line in tables["--dynamic"])


def test_no_memory_is_both_written_and_executed(tables):
    assert flags(tables, "GNU_STACK") == [{"R", "W"}]
    loaded = flags(tables, "LOAD")
    assert any("E" in access for access in loaded)
    assert not any({"W", "E"} <= access for access in loaded)
    assert not any("(TEXTREL)" in line for line in tables["--dynamic"])


def test_the_mathematical_functions_come_with_their_library(tables):
    needed = [line[-1].strip("[]") for line in tables["--dynamic"] if "(NEEDED)" in line]
    if not any(name.startswith("libc.so") for name in needed):
        pytest.skip("not glibc, whose mathematical functions are a library of their own")
    assert any(name.startswith("libm.so") for name in needed)


def test_importing_leaves_gradual_underflow_on():
    """Code that -ffast-math links switches it off for the whole process."""
    done = run_python("-c", UNDERFLOW)
    assert done.returncode == 0, done.stderr
