"""Shard arithmetic by the compiled kernel.

Owns the calls of `native/rain_kernel.h` that multiply.  Refuses to know codes.  Invariants: buffers
go to the kernel by address, never copied; every call releases the interpreter lock for as long as
the kernel runs; lengths are checked here, before the kernel sees a pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rainfs._native import AVAILABLE, ffi, lib
from rainfs.erasure.arithmetic import check_lengths
from rainfs.erasure.matrix import Matrix
from rainfs.errors import CodecError
from rainfs.memory import Buffer, WritableBuffer


def _addresses(buffers: Sequence[Buffer], *, writable: bool) -> list[Any]:
    """Lend the buffers to C; each stays exported for as long as its entry lives."""
    try:
        return [ffi.from_buffer("uint8_t[]", each, require_writable=writable) for each in buffers]
    except (BufferError, TypeError, ValueError) as error:
        raise CodecError(f"not a {'writable ' if writable else ''}byte buffer: {error}") from error


class KernelProduct:
    """A matrix expanded into the tables of one kernel variant."""

    __slots__ = ("_cols", "_only_ones", "_rows", "_tables", "_variant")

    def __init__(self, variant: int, matrix: Matrix) -> None:
        self._variant = variant
        self._rows, self._cols = len(matrix), len(matrix[0])
        self._only_ones = len(matrix) == 1 and matrix[0] == b"\1" * len(matrix[0])
        needed = lib.rain_gf_tables_bytes(variant, self._rows, self._cols)
        if needed == 0:
            raise CodecError(f"a matrix of {self._rows} x {self._cols} coefficients")
        self._tables = ffi.new("uint8_t[]", needed)
        lib.rain_gf_prepare(variant, b"".join(matrix), self._rows, self._cols, self._tables)

    def apply(self, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]) -> None:
        """Multiply; see `Product`."""
        sources = _addresses(inputs, writable=False)
        targets = _addresses(outputs, writable=True)
        lengths = [len(source) for source in sources]
        out_bytes = check_lengths(
            lengths, [len(target) for target in targets], cols=self._cols, rows=self._rows
        )
        source_array = ffi.new("uint8_t *[]", sources)
        length_array = ffi.new("size_t[]", lengths)
        if self._only_ones:
            refused = lib.rain_xor(
                self._variant, self._cols, source_array, length_array, targets[0], out_bytes
            )
        else:
            refused = lib.rain_gf_multiply(
                self._variant,
                self._tables,
                self._rows,
                self._cols,
                source_array,
                length_array,
                ffi.new("uint8_t *[]", targets),
                out_bytes,
            )
        if refused:
            raise CodecError("the kernel refused the product")


class KernelArithmetic:
    """One variant of the kernel."""

    __slots__ = ("_variant", "name")

    def __init__(self, variant: int) -> None:
        """Use `variant`, a RAIN_ number.  Raises: CodecError when it does not run here."""
        if not AVAILABLE or not lib.rain_variant_runs(variant):
            raise CodecError(f"kernel variant {variant} does not run on this machine")
        self._variant = variant
        self.name = ffi.string(lib.rain_variant_name(variant)).decode()

    def prepare(self, matrix: Matrix) -> KernelProduct:
        """Expand `matrix`; see `Arithmetic`."""
        return KernelProduct(self._variant, matrix)

    def copy(self, source: Buffer, outputs: Sequence[WritableBuffer]) -> None:
        """Copy; see `Arithmetic`."""
        (given,) = _addresses([source], writable=False)
        targets = _addresses(outputs, writable=True)
        out_bytes = check_lengths(
            [len(given)], [len(target) for target in targets], cols=1, rows=len(targets)
        )
        if not targets:
            return
        refused = lib.rain_copy(
            len(targets), given, len(given), ffi.new("uint8_t *[]", targets), out_bytes
        )
        if refused:
            raise CodecError("the kernel refused the copy")


def running_variants() -> list[int]:
    """Return the variants that this machine executes, the best one first."""
    if not AVAILABLE:
        return []
    best = lib.rain_variant_best()
    others = [each for each in range(lib.RAIN_VARIANTS) if lib.rain_variant_runs(each)]
    return sorted(others, key=lambda variant: variant != best)
