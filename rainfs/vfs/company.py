"""Small files that were written together are read together: noticing it.

Files packed into one stripe were made together, and who reads several of them (`cp -a`, `grep -r`,
a build) is likely to read the rest, in whatever order the directory lists them.  Owns the memory
of recent small reads.  Refuses to fetch: it says which blocks are worth having.  Pure, no I/O.

Invariants: its memory is bounded; a shard of a stripe is proposed once while it is remembered.
"""

from __future__ import annotations

from collections import OrderedDict

from rainfs.model import KIB, Block, InodeNumber, StripeId, StripeView

SMALL_BLOCK_BYTES = 64 * KIB
"""Blocks up to this length can be whole small files."""

HITS = 4
"""Reads of different small files in one shard that make the others there worth having."""

RECENT_S = 1.0
"""Reads further apart than this are no company."""

MAX_REMEMBERED = 512


class _Seen:
    __slots__ = ("at_s", "hits", "inode", "proposed")

    def __init__(self) -> None:
        self.hits = 0
        self.inode = InodeNumber(0)
        self.at_s = 0.0
        self.proposed = False


def may_be_company(block: Block) -> bool:
    """Whether a block may be a whole small file."""
    return block.length <= SMALL_BLOCK_BYTES and not block.file_offset


class Company:
    """Watches reads and proposes blocks."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[StripeId, int], _Seen] = OrderedDict()

    def note(self, view: StripeView, index: int, now_s: float) -> list[int]:
        """Note a read of block `index`; returns the blocks that should be fetched along."""
        block = view.stripe.blocks[index]
        if not may_be_company(block):
            return []
        key = (view.id, block.shard)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
            if len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
        if seen.proposed and now_s - seen.at_s <= RECENT_S:
            seen.at_s = now_s
            return []
        if now_s - seen.at_s > RECENT_S:
            seen.hits = 0
            seen.proposed = False
        seen.at_s = now_s
        if seen.inode != block.inode:
            seen.inode = block.inode
            seen.hits += 1
        if seen.hits < HITS:
            return []
        seen.proposed = True
        self._seen.move_to_end(key)
        return [
            number
            for number, other in enumerate(view.stripe.blocks)
            if other.shard == block.shard and number != index and other.length <= SMALL_BLOCK_BYTES
        ]
