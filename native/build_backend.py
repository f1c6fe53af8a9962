"""The build backend of rainfs: setuptools, plus the compiled kernel.

Owns how `native/*.c` becomes the extension module `rainfs._native._kernel` in every kind of build
(wheel, editable, source distribution), without a setup.py.  Refuses to know what the kernel
computes: the public header is handed to cffi as it is, without its preprocessor lines.

`python native/build_backend.py` builds the module in place, for development.
`RAINFS_NO_KERNEL=1` leaves the kernel out: rainfs then codes in pure Python, slowly.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools import Extension, setup
from setuptools.build_meta import _BuildMetaBackend
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import BaseError, CCompilerError

NATIVE = Path(__file__).resolve().parent
MODULE = "rainfs._native._kernel"
HEADER = "rain_kernel.h"
SOURCES = (
    "avx2.c",
    "avx512_gfni.c",
    "crc32c.c",
    "dispatch.c",
    "neon.c",
    "scalar.c",
)
HEADERS = (HEADER, "variants.h")
FLAGS = ("-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra")
LIMITED_API = "0x030B0000"
"""Python 3.11: one module serves every later version."""

NO_KERNEL = "RAINFS_NO_KERNEL"


def declarations() -> str:
    """Return the public header as cffi wants it: without preprocessor lines."""
    text = (NATIVE / HEADER).read_text()
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def emit_module(path: Path) -> None:
    """Write the C source of the Python module to `path`."""
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(MODULE, f'#include "{HEADER}"')
    path.parent.mkdir(parents=True, exist_ok=True)
    ffi.emit_c_code(str(path))


class BuildKernel(build_ext):
    """Compiles the kernel from the sources and the module source that cffi writes."""

    def build_extension(self, ext: Extension) -> None:
        """Build the one extension there is.  Raises: SystemExit with advice when it fails."""
        module = Path(self.build_temp) / "_kernel_module.c"
        emit_module(module)
        ext.sources = [*ext.sources, str(module)]
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError) as error:
            raise SystemExit(
                f"rainfs: compiling the kernel failed: {error}\n"
                "A C compiler and the Python headers are needed (on Debian and Ubuntu: "
                "apt install gcc libc6-dev python3-dev).\n"
                f"To install without the kernel, slow but complete, set {NO_KERNEL}=1."
            ) from error


class SourceDistribution(sdist):
    """Adds what a source distribution needs beyond the packages."""

    def make_distribution(self) -> None:
        """Pack the kernel, its build backend, tests and benchmarks with the rest."""
        root = NATIVE.parent
        for folder in ("native", "tests", "bench"):
            found = (root / folder).rglob("*")
            self.filelist.extend(
                str(path.relative_to(root))
                for path in sorted(found)
                if path.suffix in {".c", ".h", ".py"}
            )
        self.filelist.remove_duplicates()
        super().make_distribution()


def kernel() -> list[Extension]:
    """Return the extension to build: one, or none when the environment says so."""
    if os.environ.get(NO_KERNEL, "0") not in {"", "0"}:
        return []
    limited = not sysconfig.get_config_var("Py_GIL_DISABLED")
    return [
        Extension(
            MODULE,
            sources=[f"native/{name}" for name in SOURCES],
            include_dirs=["native"],
            depends=[f"native/{name}" for name in HEADERS],
            extra_compile_args=list(FLAGS),
            define_macros=[("Py_LIMITED_API", LIMITED_API)] if limited else [],
            py_limited_api=limited,
        )
    ]


def run_setup() -> None:
    """Run setuptools on pyproject.toml and the kernel, with the arguments in sys.argv."""
    extensions = kernel()
    limited = any(extension.py_limited_api for extension in extensions)
    setup(
        ext_modules=extensions,
        cmdclass={"build_ext": BuildKernel, "sdist": SourceDistribution},
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if limited else {},
    )


class Backend(_BuildMetaBackend):
    """setuptools' own backend; only the set-up script that it runs is ours."""

    def run_setup(self, setup_script: str = "setup.py") -> None:
        """Stand in for the setup.py that this project does not have."""
        run_setup()


_backend = Backend()
build_editable = _backend.build_editable
build_sdist = _backend.build_sdist
build_wheel = _backend.build_wheel
get_requires_for_build_editable = _backend.get_requires_for_build_editable
get_requires_for_build_sdist = _backend.get_requires_for_build_sdist
get_requires_for_build_wheel = _backend.get_requires_for_build_wheel
prepare_metadata_for_build_editable = _backend.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = _backend.prepare_metadata_for_build_wheel


if __name__ == "__main__":
    os.chdir(NATIVE.parent)
    sys.argv = [sys.argv[0], "build_ext", "--inplace"]
    run_setup()
