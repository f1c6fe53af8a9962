"""Intel's ISA-L as a yardstick for our kernel: benchmarks only, never linked into rainfs.

Needs libisal.so.2 (Debian: libisal2). Owns the ctypes calls; the matrices are ours, so that both
compute the same bytes.
"""

import ctypes
import ctypes.util
from collections.abc import Sequence

from rainfs.erasure.matrix import Matrix

_TABLE_BYTES = 32


def load() -> ctypes.CDLL | None:
    """Return the library, or None where it is not installed."""
    for name in ("libisal.so.2", ctypes.util.find_library("isal")):
        try:
            return ctypes.CDLL(name) if name else None
        except OSError:
            continue
    return None


def _pointers(buffers: Sequence[memoryview]) -> ctypes.Array[ctypes.c_void_p]:
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in buffers]
    return (ctypes.c_void_p * len(buffers))(*addresses)


class IsalProduct:
    """One matrix in ISA-L's tables, bound to its buffers."""

    name = "isa-l"

    def __init__(
        self,
        library: ctypes.CDLL,
        matrix: Matrix,
        inputs: Sequence[memoryview],
        outputs: Sequence[memoryview],
    ) -> None:
        rows, cols = len(matrix), len(matrix[0])
        self._tables = ctypes.create_string_buffer(rows * cols * _TABLE_BYTES)
        library.ec_init_tables(cols, rows, b"".join(matrix), self._tables)
        self._call = library.ec_encode_data
        self._arguments = (
            ctypes.c_int(len(inputs[0])),
            ctypes.c_int(cols),
            ctypes.c_int(rows),
            self._tables,
            _pointers(inputs),
            _pointers(outputs),
        )

    def __call__(self) -> None:
        self._call(*self._arguments)
