"""The compiled kernel, or its absence.

Owns the only import of the extension module that the build makes from `native/`.  Refuses to know
what its callers compute.  Invariant: `ffi` and `lib` are both there or both None, and their absence
is warned of once in a process, when this package is first imported.
"""

from __future__ import annotations

import warnings

try:
    from rainfs._native import _kernel
except ImportError as error:
    warnings.warn(
        f"rainfs runs without its compiled kernel, many times slower ({error})",
        RuntimeWarning,
        stacklevel=2,
    )
    ffi = None
    lib = None
else:
    ffi = _kernel.ffi
    lib = _kernel.lib

__all__ = ["ffi", "lib"]
