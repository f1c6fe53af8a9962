"""Shard arithmetic in pure Python, for machines without the compiled kernel.

Owns multiplication by `bytes.translate` and addition by the exclusive or of large integers, the two
fastest things Python does with bytes.  Refuses to know codes.  Invariant: same bytes as the kernel.
Work proceeds in strips, so that temporaries stay small and other threads get their turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from rainfs.erasure.arithmetic import check_lengths
from rainfs.erasure.matrix import Matrix, product_table
from rainfs.errors import CodecError
from rainfs.memory import Buffer, WritableBuffer

STRIP_BYTES = 64 << 10


def _readable(buffers: Sequence[Buffer]) -> list[memoryview]:
    try:
        return [memoryview(each).cast("B") for each in buffers]
    except TypeError as error:
        raise CodecError(f"not a byte buffer: {error}") from error


def _writable(buffers: Sequence[WritableBuffer]) -> list[memoryview]:
    views = _readable(buffers)
    if any(view.readonly for view in views):
        raise CodecError("not a writable byte buffer")
    return views


class PythonProduct:
    """A matrix as it is."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def apply(self, inputs: Sequence[Buffer], outputs: Sequence[WritableBuffer]) -> None:
        """Multiply; see `Product`."""
        sources, targets = _readable(inputs), _writable(outputs)
        length = check_lengths(
            [len(source) for source in sources],
            [len(target) for target in targets],
            cols=len(self._matrix[0]),
            rows=len(self._matrix),
        )
        for start in range(0, length, STRIP_BYTES):
            stop = min(start + STRIP_BYTES, length)
            strips = [bytes(source[start:stop]) for source in sources]
            for row, target in zip(self._matrix, targets, strict=True):
                total = 0
                for coefficient, strip in zip(row, strips, strict=True):
                    if coefficient == 1:
                        total ^= int.from_bytes(strip, "little")
                    elif coefficient:
                        table = product_table(coefficient)
                        total ^= int.from_bytes(strip.translate(table), "little")
                target[start:stop] = total.to_bytes(stop - start, "little")


class PythonArithmetic:
    """The arithmetic that always works."""

    __slots__ = ()

    name = "python"

    def prepare(self, matrix: Matrix) -> PythonProduct:
        """Keep `matrix`; see `Arithmetic`."""
        return PythonProduct(matrix)

    def copy(self, source: Buffer, outputs: Sequence[WritableBuffer]) -> None:
        """Copy; see `Arithmetic`."""
        (given,) = _readable([source])
        targets = _writable(outputs)
        length = check_lengths(
            [len(given)], [len(target) for target in targets], cols=1, rows=len(targets)
        )
        for target in targets:
            target[: len(given)] = given
            target[len(given) :] = bytes(length - len(given))
