"""What one stripe will hold on its way from memory to the array, and where it is.

Owns the states of a batch.  Refuses to know when it is written and committed: `flush` moves it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import trio

from rainfs.array.array import Piece
from rainfs.meta.extents import FileUpdate, RehearsedCommit
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

    __slots__ = (
        "cost",
        "error",
        "parts",
        "rehearsed",
        "retry_at",
        "settled",
        "state",
        "sync_expected",
        "view",
    )

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.cost = sum(part.bytes.cost for part in parts)
        self.state = State.FAILED
        self.view: StripeView | None = None
        self.rehearsed: RehearsedCommit | None = None
        """The commit that is due if the nodes take the stripe as it was sent."""
        self.error: Exception | None = None
        self.retry_at = 0.0
        self.sync_expected = False
        """Whether the next request is likely to be the sync that waits for it."""
        self.settled = trio.Event()
        """Set when the attempt is over: committed or failed.  A retry puts a new one."""

    @property
    def nbytes(self) -> int:
        """File bytes."""
        return sum(part.bytes.nbytes for part in self.parts)


def pieces_of(batch: Batch, block_bytes: int) -> list[Piece]:
    """Return its bytes as the array takes them."""
    return [
        Piece(part.inode.inode, offset, length, buffers)
        for part in batch.parts
        for offset, length, buffers in part.bytes.pieces(block_bytes)
    ]


def begin(batch: Batch, batches: Iterable[Batch]) -> None:
    """Start an attempt; those that waited behind the failed one wait again."""
    batch.state = State.WRITING
    for other in batches:
        waits = other is batch or other.state is State.WRITTEN
        if waits and other.settled.is_set():
            other.error = None
            other.settled = trio.Event()


def updates_of(batches: Sequence[Batch]) -> list[FileUpdate]:
    """Return what a commit of `batches` says of their files; the last one of a file counts."""
    updates: dict[Inode, FileUpdate] = {}
    for batch in batches:
        for part in batch.parts:
            inode = part.inode
            updates[inode] = FileUpdate(inode.inode, part.size, inode.mtime_ns, inode.ctime_ns)
    return list(updates.values())


def committable(batches: Iterable[Batch], max_blocks: int) -> list[Batch]:
    """Return the written ones whose turn it is, in order; one may have more than `max_blocks`."""
    group: list[Batch] = []
    blocked: set[Inode] = set()
    blocks = 0
    for batch in batches:
        ready = batch.state is State.WRITTEN
        if ready and not any(part.inode in blocked for part in batch.parts):
            blocks += len(batch.view.stripe.blocks) if batch.view else 0
            if group and blocks > max_blocks:
                break
            group.append(batch)
        else:
            blocked.update(part.inode for part in batch.parts)
    return group
