"""The one interface between codes and whatever multiplies shards: kernel or pure Python.

Owns the contract that `tests/unit/erasure` holds every implementation to.  Refuses to know codes.
Invariants: inputs may be shorter than the outputs and then count as zeros beyond their end; no
payload is copied; outputs of one call are equally long and overlap neither inputs nor each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rainfs.erasure.matrix import Matrix
from rainfs.errors import CodecError
from rainfs.memory import Buffer, WritableBuffer


class Product(Protocol):
    """A matrix made ready for multiplication.  Safe to use from several threads at once."""

    def apply(self, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]) -> None:
        """Fill output r with the sum over c of matrix[r][c] * input c, byte by byte.

        Raises: CodecError when counts or lengths do not fit the matrix, or an output is read-only.
        """
        ...


class Arithmetic(Protocol):
    """GF(2^8) on whole shards."""

    @property
    def name(self) -> str:
        """What computes: 'avx512-gfni', 'avx2', 'neon', 'scalar' or 'python'."""
        ...

    def prepare(self, matrix: Matrix) -> Product:
        """Return the product by `matrix`, which has at least one row and one column."""
        ...

    def copy(self, source: Buffer, outputs: Sequence[WritableBuffer]) -> None:
        """Fill every output with `source` followed by zeros.  Raises: CodecError as `apply`."""
        ...


def check_lengths(inputs: Sequence[int], outputs: Sequence[int], *, cols: int, rows: int) -> int:
    """Return the common length of the outputs, in bytes.

    Raises: CodecError unless there are `cols` inputs and `rows` outputs, the outputs equally long,
    no input longer.
    """
    if len(inputs) != cols or len(outputs) != rows:
        raise CodecError(
            f"{len(inputs)} shards in and {len(outputs)} out where {cols} and {rows} are due"
        )
    length = outputs[0] if outputs else 0
    if any(out != length for out in outputs):
        raise CodecError(f"output shards of different lengths: {sorted(set(outputs))}")
    if any(given > length for given in inputs):
        raise CodecError(
            f"an input shard of {max(inputs)} bytes, longer than the outputs' {length}"
        )
    return length
