"""What compiled code uses of the package: the folder of its header, and the capsule."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fastsoftmax import _backend


def get_include() -> str:
    """Return the folder of ``fastsoftmax.h``, for the include path of a C or Cython module.

    Returns
    -------
    str
        The folder. The header is the documentation of the C functions.

    Examples
    --------
    In a ``setup.py``, as :func:`numpy.get_include` is used:

    >>> import fastsoftmax
    >>> from setuptools import Extension
    >>> module = Extension("bandit", ["bandit.pyx"], include_dirs=[fastsoftmax.get_include()])
    """
    return str(Path(__file__).parent / "include")


@functools.cache
def capsule() -> Any:
    """Return the capsule with the functions of ``fastsoftmax.h``, which imports it by this name.

    They use the same kernels as the Python functions; on a CPU where these use NumPy because it is
    faster, the kernels that this CPU can run.

    Raises
    ------
    ImportError
        If there are no kernels, or NumPy has been asked for in their place.
    """
    return _backend.interface()
