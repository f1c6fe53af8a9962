"""The compiled kernel, or its absence.

Owns the only import of the extension module that the build makes from `native/`.  Refuses to know
what its callers compute.  Invariant: `lib` and `ffi` are both there or both None, and the absence
is warned of once in a process, when this module is first imported.
"""
