"""What every backend refuses before it asks its node."""

from __future__ import annotations

from collections.abc import Sequence

from rainfs.array.backend import Buffer
from rainfs.errors import InputError
from rainfs.model import MAX_ABOUT_BYTES, MAX_SHARD_BYTES, PAGE_BYTES


def check_put(payload: Sequence[Buffer], about: bytes) -> int:
    """Return the length of a shard.  Raises: InputError unless it may be stored."""
    nbytes = sum(map(len, payload))
    if not 0 < nbytes <= MAX_SHARD_BYTES or nbytes % PAGE_BYTES:
        raise InputError(f"a shard of {nbytes} bytes")
    if len(about) > MAX_ABOUT_BYTES:
        raise InputError(f"a description of {len(about)} bytes")
    return nbytes


def check_range(offset: int, length: int) -> None:
    """Raise InputError for a range that no shard has."""
    if offset < 0 or length < 0 or offset + length > MAX_SHARD_BYTES:
        raise InputError(f"no shard has {length} bytes at {offset}")
