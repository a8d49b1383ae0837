"""The extension module and the policy for building it; the metadata is in pyproject.toml.

``FASTSOFTMAX_NO_EXTENSION=1`` asks for the NumPy-only build. ``FASTSOFTMAX_REQUIRE_EXTENSION=1``,
``CI`` or ``CIBUILDWHEEL`` make a failed compile fatal. Otherwise a failed compile leaves a
NumPy-only install that says so.
"""

import gzip
import os
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist


def is_set(variable):
    """Whether an environment variable asks for what its name says."""
    return os.environ.get(variable, "").lower() not in {"", "0", "false", "no", "off"}


# A time in seconds. Where it is set, two builds give the same bytes, wherever they are made.
SOURCE_DATE_EPOCH = os.environ.get("SOURCE_DATE_EPOCH")
NO_EXTENSION = is_set("FASTSOFTMAX_NO_EXTENSION")
REQUIRE_EXTENSION = is_set("FASTSOFTMAX_REQUIRE_EXTENSION")
FAILURE_IS_FATAL = REQUIRE_EXTENSION or is_set("CI") or is_set("CIBUILDWHEEL")

if NO_EXTENSION and REQUIRE_EXTENSION:
    raise SystemExit(
        "fastsoftmax: FASTSOFTMAX_NO_EXTENSION and FASTSOFTMAX_REQUIRE_EXTENSION "
        "contradict each other; unset one of them"
    )

# After the user's own, as the last one counts. -Ofast and -ffast-math give other bits, and link
# code that switches gradual underflow off for the whole process; -O3 and the next two undo that,
# and whatever else -ffast-math stands for. Contraction is off because a multiply and an add fused
# by one compiler and not by another give different bits. What no option undoes is an #error in
# portable.h.
IEEE_FLAGS = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations", "-ffp-contract=off"]
# No flag names an instruction set: each kernel file chooses its own in the source. gnu11, since gcc
# has c11 compute floats in a wider format on some processors (FLT_EVAL_METHOD). -g0 undoes the -g
# that many Pythons pass on: debug information is most of the build time and of the wheel.
UNIX_FLAGS = ["-std=gnu11", *IEEE_FLAGS, "-fvisibility=hidden", "-g0"]
# For the bindings, which are calls and checks: -O3 makes them larger, and no faster.
BINDINGS_FLAGS = ["-O2"]
MSVC_FLAGS = ["/std:c11", "/O2", "/fp:precise"]
LINUX_LINK_FLAGS = [
    # Without the names of static functions, which nothing outside the extension can use.
    "-Wl,--strip-all",
    # All functions are looked up when the module is loaded; their addresses are then read-only.
    "-Wl,-z,relro,-z,now",
    "-Wl,-z,noexecstack",
]

NUMPY_ONLY = """
******************************************************************************
fastsoftmax: this is the NUMPY-ONLY build: correct, but many times slower.
Reason: {reason}
`python -m fastsoftmax` shows which build is installed.
******************************************************************************
"""


class BuildExtension(build_ext):
    """Compiles the extension, or says why there is none."""

    def finalize_options(self):
        """Keep the C that Cython writes out of the source tree."""
        super().finalize_options()
        self.cython_c_in_temp = True

    def build_extension(self, ext):
        """Compile, and where that may fail, leave nothing behind that could pass for the result."""
        is_msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if is_msvc else UNIX_FLAGS
        ext.extra_link_args = [] if is_msvc else IEEE_FLAGS
        if sys.platform == "linux":
            ext.extra_link_args = [*IEEE_FLAGS, *LINUX_LINK_FLAGS]
        if not is_msvc:
            self.compile_side_by_side()
        try:
            super().build_extension(ext)
        except Exception as error:
            if FAILURE_IS_FATAL:
                raise
            print(NUMPY_ONLY.format(reason=f"the extension did not compile: {error}"), flush=True)
            # An earlier build's module, in the build folder or beside the sources.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            Path(self.get_ext_filename(ext.name)).unlink(missing_ok=True)

    def compile_side_by_side(self):
        """Let the sources of one extension be compiled on all CPUs."""
        compile_in_turn = self.compiler.compile

        def compile_sources(sources, *args, **options):
            def compile_one(source):
                flags = BINDINGS_FLAGS if "_kernels" not in Path(source).parts else []
                mine = {**options, "extra_postargs": [*options["extra_postargs"], *flags]}
                return compile_in_turn([source], *args, **mine)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [name for names in pool.map(compile_one, sources) for name in names]

        self.compiler.compile = compile_sources


class SourceDistribution(sdist):
    """Packs the sources, and with ``SOURCE_DATE_EPOCH`` the same sources into the same bytes."""

    def make_archive(self, base_name, kind, root_dir=None, base_dir=None, **owner):
        """Leave out who packed them, and when."""
        if SOURCE_DATE_EPOCH is None or kind != "gztar":
            return super().make_archive(base_name, kind, root_dir, base_dir, **owner)

        def anonymous(member):
            member.mtime = int(SOURCE_DATE_EPOCH)
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        path = f"{base_name}.tar.gz"
        with (
            gzip.GzipFile(path, "wb", mtime=int(SOURCE_DATE_EPOCH)) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=anonymous)  # a folder's files in the order of their names
        return path


def index_page():
    """Return the README without the pictures and links of files, which a package index has not."""
    readme = Path("README.md").read_text(encoding="utf-8")
    target = r"\((?!https?:)[^)]*\)"
    return re.sub(rf"(?m)^!\[.*\]{target}\n\n|\[([^]]+)\]{target}", r"\1", readme)


kernels = Path("fastsoftmax/_kernels")
native = Extension(
    "fastsoftmax._native",
    sources=[
        "fastsoftmax/_native.pyx",
        "fastsoftmax/_interface.c",
        "fastsoftmax/_memory.c",
        "fastsoftmax/_threads.c",
        *sorted(map(str, kernels.glob("*.c"))),
    ],
    depends=[
        "setup.py",
        "fastsoftmax/_c.pxd",
        "fastsoftmax/_interface.h",
        "fastsoftmax/_interface_of.h",
        "fastsoftmax/_memory.h",
        "fastsoftmax/_threads.h",
        "fastsoftmax/include/fastsoftmax.h",
        *sorted(map(str, kernels.glob("*.h"))),
    ],
    include_dirs=["fastsoftmax", str(kernels), np.get_include()],
    # For fma and ilogb: a Python need not have loaded libm for itself.
    libraries=["m"] if os.name == "posix" else [],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    ],
    optional=not FAILURE_IS_FATAL,  # an editable install then goes on without the file
)

if NO_EXTENSION:
    print(NUMPY_ONLY.format(reason="FASTSOFTMAX_NO_EXTENSION is set"), flush=True)

if SOURCE_DATE_EPOCH is not None:
    os.umask(0o022)  # archives hold the modes of files

setup(
    long_description=index_page(),
    long_description_content_type="text/markdown",
    ext_modules=[] if NO_EXTENSION else [native],
    cmdclass={"build_ext": BuildExtension, "sdist": SourceDistribution},
)
