"""The code whose shards are equal copies.

Owns nothing but copying: shard 0 is the data, every other shard the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rainfs.erasure.arithmetic import Arithmetic
from rainfs.errors import CodecError
from rainfs.memory import Buffer, WritableBuffer
from rainfs.model import Code


class MirrorCodec:
    """Codec of a mirror of `code.n` copies; see `Codec`."""

    __slots__ = ("_arithmetic", "code")

    def __init__(self, code: Code, arithmetic: Arithmetic) -> None:
        if code.k != 1 or code.m < 0:
            raise CodecError(f"a mirror has one data shard, not {code.k}")
        self.code = code
        self._arithmetic = arithmetic

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Make every parity shard a copy of the one data shard."""
        if len(data) != 1 or len(parity) != self.code.m:
            raise CodecError(f"{self.code}: {len(data)} data and {len(parity)} parity shards given")
        if parity:
            self._arithmetic.copy(data[0], parity)

    def reconstruct(
        self, present: Mapping[int, Buffer], missing: Mapping[int, WritableBuffer]
    ) -> None:
        """Make every missing shard a copy of a present one."""
        if not missing:
            return
        if not present:
            raise CodecError(f"{self.code}: no copy is left")
        if not all(0 <= index < self.code.n for index in (*present, *missing)):
            raise CodecError(f"{self.code}: a shard index out of range")
        self._arithmetic.copy(present[min(present)], list(missing.values()))
