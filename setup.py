"""The extension module and the policy for building it; the metadata is in pyproject.toml.

``FASTSOFTMAX_NO_EXTENSION=1`` asks for the NumPy-only build. ``FASTSOFTMAX_REQUIRE_EXTENSION=1``, ``CI`` or
``CIBUILDWHEEL`` make a failed compile fatal. Otherwise a failed compile leaves a NumPy-only install.
"""

import os
from glob import glob
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def is_set(variable):
    """Whether an environment variable asks for what its name says."""
    return os.environ.get(variable, "").lower() not in {"", "0", "false", "no", "off"}


NO_EXTENSION = is_set("FASTSOFTMAX_NO_EXTENSION")
REQUIRE_EXTENSION = is_set("FASTSOFTMAX_REQUIRE_EXTENSION")
FAILURE_IS_FATAL = REQUIRE_EXTENSION or is_set("CI") or is_set("CIBUILDWHEEL")

if NO_EXTENSION and REQUIRE_EXTENSION:
    raise SystemExit(
        "fastsoftmax: FASTSOFTMAX_NO_EXTENSION and FASTSOFTMAX_REQUIRE_EXTENSION contradict each other; unset one"
    )

NUMPY_ONLY = """
    ******************************************************************************
    fastsoftmax: this is the NUMPY-ONLY build, correct but many times slower.
    Reason: {reason}
    `python -m fastsoftmax` shows which build is installed.
    ******************************************************************************
"""

# No flag names an instruction set: the kernels choose theirs in the source, one per file. Contraction is off because
# a multiply and an add that a compiler fuses give other bits than on the instruction sets where it does not.
UNIX_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off"]
MSVC_FLAGS = ["/std:c11", "/O2", "/fp:precise"]


class BuildExtension(build_ext):
    """Compiles the extension, or says why it did not."""

    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True  # keeps the generated _native.c out of the source tree

    def build_extension(self, ext):
        is_msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if is_msvc else UNIX_FLAGS
        try:
            super().build_extension(ext)
        except Exception as error:
            if FAILURE_IS_FATAL:
                raise
            # An earlier build's module must not pass for this one's, neither in the wheel nor in the source tree.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)
            print(NUMPY_ONLY.format(reason=f"the extension did not compile: {error}"), flush=True)


if NO_EXTENSION:
    print(NUMPY_ONLY.format(reason="FASTSOFTMAX_NO_EXTENSION is set"), flush=True)

native = Extension(
    "fastsoftmax._native",
    sources=["fastsoftmax/_native.pyx", *sorted(glob("fastsoftmax/_kernels/*.c"))],
    depends=sorted(glob("fastsoftmax/_kernels/*.h")),
    include_dirs=["fastsoftmax/_kernels", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION")],
    optional=not FAILURE_IS_FATAL,  # lets an editable install go on without the file
)

setup(ext_modules=[] if NO_EXTENSION else [native], cmdclass={"build_ext": BuildExtension})
