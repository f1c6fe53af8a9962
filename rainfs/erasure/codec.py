"""Codes at work: parity from data, and missing shards from any that are enough.

Owns the `Codec` interface that `array` and `care` call, the Reed-Solomon codec, and the choice of
arithmetic.  Refuses to know where shards lie; every call works on any range of bytes, as long as
it is the same range of every shard.  Invariants: payload is never copied; codecs are immutable and
safe to use from several threads at once; a call does not hold the interpreter lock while the
compiled kernel runs.

Source: `reedsolo`, whose code this is; see `rainfs/erasure/matrix.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from rainfs.erasure.arithmetic import Arithmetic, Product
from rainfs.erasure.fallback import PythonArithmetic
from rainfs.erasure.kernel import KernelArithmetic, running_variants
from rainfs.erasure.matrix import decode_matrix, parity_matrix
from rainfs.erasure.mirror import MirrorCodec
from rainfs.errors import CodecError
from rainfs.memory import Buffer, WritableBuffer
from rainfs.model import Code, CodeKind

MAX_CACHED_CODECS = 256
MAX_CACHED_DECODINGS = 128
"""Loss patterns of one code whose matrices are kept; 4+2 has 63 in all."""


class Codec(Protocol):
    """One code.  Shards are indexed 0 ... k - 1 (data) and k ... n - 1 (parity)."""

    code: Code

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Fill the m parity shards, equally long, from the k data shards.

        A data shard may be shorter than the parity: the rest of it counts as zeros.

        Raises: CodecError when counts or lengths do not fit.
        """
        ...

    def reconstruct(
        self, present: Mapping[int, Buffer], missing: Mapping[int, WritableBuffer]
    ) -> None:
        """Fill the `missing` shards, equally long, from any k or more `present` ones.

        A present shard may be shorter: the rest of it counts as zeros.

        Raises: CodecError with fewer than k present shards, or when lengths do not fit.
        """
        ...


class ReedSolomonCodec:
    """Codec of one k+m code; see `Codec`."""

    __slots__ = ("_arithmetic", "_decoding", "_encoding", "code")

    def __init__(self, code: Code, arithmetic: Arithmetic) -> None:
        """Prepare `code`.  Raises: CodecError for impossible geometry."""
        parity = parity_matrix(code.k, code.m)
        self.code = code
        self._arithmetic = arithmetic
        self._encoding = arithmetic.prepare(parity) if parity else None
        self._decoding = lru_cache(maxsize=MAX_CACHED_DECODINGS)(self._prepare_decoding)

    def _prepare_decoding(self, present: tuple[int, ...], missing: tuple[int, ...]) -> Product:
        matrix = decode_matrix(self.code.k, self.code.m, present, missing)
        return self._arithmetic.prepare(matrix)

    def encode(self, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Fill the parity shards; see `Codec`."""
        if self._encoding is not None:
            self._encoding.apply(data, parity)
        elif len(data) != self.code.k or parity:
            raise CodecError(f"{self.code}: {len(data)} data and {len(parity)} parity shards given")

    def reconstruct(
        self, present: Mapping[int, Buffer], missing: Mapping[int, WritableBuffer]
    ) -> None:
        """Fill the missing shards; see `Codec`."""
        if not missing:
            return
        if len(present) < self.code.k:
            raise CodecError(
                f"{self.code}: {len(present)} shards are present, {self.code.k} are needed"
            )
        if present.keys() & missing.keys():
            raise CodecError(f"{self.code}: a shard is both present and missing")
        # The lowest indexes are data shards, which make the sparsest matrix to invert.
        chosen = tuple(sorted(present)[: self.code.k])
        wanted = tuple(missing)
        self._decoding(chosen, wanted).apply(
            [present[index] for index in chosen], [missing[index] for index in wanted]
        )


def best_arithmetic() -> Arithmetic:
    """Return the fastest arithmetic of this machine."""
    variants = running_variants()
    return KernelArithmetic(variants[0]) if variants else PythonArithmetic()


def make_codec(code: Code, arithmetic: Arithmetic) -> Codec:
    """Return a new codec of `code` on a given arithmetic.  Raises: CodecError."""
    if code.kind is CodeKind.MIRROR:
        return MirrorCodec(code, arithmetic)
    return ReedSolomonCodec(code, arithmetic)


@lru_cache(maxsize=MAX_CACHED_CODECS)
def codec_for(code: Code) -> Codec:
    """Return the codec of `code` on the fastest arithmetic.  Raises: CodecError."""
    return make_codec(code, best_arithmetic())


def kernel_name() -> str:
    """Return what codes here: 'avx512-gfni', 'avx2', 'neon', 'scalar' or 'python'."""
    return best_arithmetic().name
