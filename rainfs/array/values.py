"""The values that pass between the array and its callers.

Owns their shape only.  All are frozen and hold references to the caller's buffers, never copies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rainfs.array.backend import Buffer
from rainfs.model import InodeNumber, Node, NodeHealth, NodeState, StripeView

MAX_PIECES_PER_STRIPE = 8192
"""More pieces are refused: their table has to fit the description beside each parity shard."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One future block: at most `layout.block_bytes` contiguous bytes of one file."""

    inode: InodeNumber
    file_offset: int
    length: int
    segments: tuple[Buffer, ...]
    """Their concatenation is the piece; they must not change until the write is over."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run of bytes inside one decoded block."""

    block: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Space:
    """How much there is and how much is left; `usable`, `used` and `free` in file bytes."""

    raw_bytes: int
    used_raw_bytes: int
    usable_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What the array thinks of a node, and the node's own last report."""

    node: Node
    state: NodeState
    health: NodeHealth | None


Refresh = Callable[[], Awaitable[StripeView | None]]
"""Reads a stripe's row again; None when no row is left."""
