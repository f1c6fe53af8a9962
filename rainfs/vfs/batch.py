"""What one stripe will hold on its way from memory to the array, and where it is.

Owns the states of a batch.  Refuses to know when it is written and committed: `flush` moves it.
"""

from __future__ import annotations

import enum

import trio

from rainfs.model import StripeView
from rainfs.vfs.buffer import SegmentMap
from rainfs.vfs.inodes import Inode


class State(enum.Enum):
    """Where a batch is.  WRITTEN ones wait for their turn; `cut` may take them back, but nobody a
    batch whose commit runs."""

    WRITING = 1
    WRITTEN = 2
    COMMITTING = 3
    FAILED = 4
    COMMITTED = 5


class Part:
    """One inode's share of a batch."""

    __slots__ = ("bytes", "inode", "size")

    def __init__(self, inode: Inode, data: SegmentMap, size: int) -> None:
        self.inode = inode
        self.bytes = data
        self.size = size
        """The file's size once this part is committed."""


class Batch:
    """What one stripe will hold, or only sizes and times when there are no bytes."""

    __slots__ = ("cost", "error", "parts", "retry_at", "settled", "state", "view")

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.cost = sum(part.bytes.cost for part in parts)
        self.state = State.FAILED
        self.view: StripeView | None = None
        self.error: Exception | None = None
        self.retry_at = 0.0
        self.settled = trio.Event()
        """Set when the attempt is over: committed or failed.  A retry puts a new one."""

    @property
    def nbytes(self) -> int:
        """File bytes."""
        return sum(part.bytes.nbytes for part in self.parts)
