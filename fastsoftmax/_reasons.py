"""Why the extension could not be imported, and what to do; itself imported only then."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

REINSTALL = f"{sys.executable or 'python'} -m pip install --force-reinstall --no-deps fastsoftmax"
COMPILE = f"{REINSTALL} --no-binary fastsoftmax"


def of_failed_import(error: ImportError) -> str:
    """Return one sentence: what was wrong, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        if error.name == "fastsoftmax._native":
            return _of_missing_file() or str(error)
    # Cython raises an error of its own in the place of NumPy's, which says more.
    elif "multiarray failed to import" in str(error):
        return (
            f"it was compiled for other releases of NumPy than {np.__version__} "
            f"({error.__context__}); upgrade NumPy, or compile it for this one: `{COMPILE}`"
        )
    elif error.path:
        return (
            f"the system cannot load it ({error}); install the library that is missing, if one is, "
            f"or compile it on this system: `{COMPILE}`"
        )
    return str(error)


def _of_missing_file() -> str:
    """Return why this Python finds no extension module, or nothing where the file is there."""
    folder = Path(__file__).parent
    if not folder.is_dir():
        return (
            f"the package lies in an archive ({folder.parent}), from which Python can load no "
            "extension module; install it by pip, or unpack the archive"
        )
    accepted = [f"_native{suffix}" for suffix in EXTENSION_SUFFIXES]
    files = sorted(path.name for path in folder.glob("_native.*") if path.suffix in {".so", ".pyd"})
    if not files:
        return (
            f"{folder} has none, as it was not compiled; install a C compiler, and set "
            f"FASTSOFTMAX_REQUIRE_EXTENSION=1 to see what else fails: `{REINSTALL}`"
        )
    if not set(files) & set(accepted):
        return (
            f"it was compiled for another Python ({files[0]}; this one imports {accepted[0]}); "
            f"install it for this one: `{REINSTALL}`"
        )
    return ""
