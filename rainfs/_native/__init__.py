"""The compiled kernel, or its absence.

Owns the only import of the extension module that the build makes from `native/`.  Refuses to know
what its callers compute.  Invariants: `ffi` and `lib` may be used only where `AVAILABLE` is true;
the kernel's absence is warned of once in a process, when this package is first imported.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rainfs._native._kernel import Ffi, Lib

try:
    from rainfs._native._kernel import ffi, lib
except ImportError as error:
    warnings.warn(
        f"rainfs runs without its compiled kernel, many times slower ({error})",
        RuntimeWarning,
        stacklevel=2,
    )
    ffi = cast("Ffi", None)
    lib = cast("Lib", None)
    AVAILABLE = False
else:
    AVAILABLE = True

__all__ = ["AVAILABLE", "ffi", "lib"]
