"""Guesses which small blocks will be wanted next: what was written together is read together.

Owns the guess and its record of success.  Refuses to fetch anything.  Small files that were
written one after another share stripes, and programs come back for many of them: from the
MISSES_TO_BEGIN-th small block of a stripe on, neighbours are worth one call instead of one each.
Where guesses do not pay (scattered overwrites read in file order), they stop by themselves.

Invariants: at most TRACKED_STRIPES stripes are remembered; at most about GUESSES_PER_HIT blocks
are guessed for each small block that was found in the cache, beyond an allowance.
"""

from __future__ import annotations

from collections import OrderedDict

from rainfs.model import KIB, Block, StripeId, StripeView

SMALL_BLOCK_BYTES = 16 * KIB
WINDOW_BYTES = 256 * KIB
"""Bytes of a shard, from the wanted block on, that are guessed at once."""

MISSES_TO_BEGIN = 4
TRACKED_STRIPES = 256

GUESSES_PER_HIT = 16
ALLOWANCE_BLOCKS = 2048
MEMORY_BLOCKS = 16384
"""After this many guesses the record counts half, so that it follows what programs do now."""


def is_small(block: Block) -> bool:
    """Whether the block is of the kind that comes with neighbours."""
    return block.stored <= SMALL_BLOCK_BYTES


class Locality:
    """The record of recent misses, guesses and hits."""

    def __init__(self) -> None:
        self._misses: OrderedDict[StripeId, int] = OrderedDict()
        self._guessed = 0
        self._hits = 0

    def hit(self) -> None:
        """A small block was found in the cache."""
        self._hits += 1

    def missed(self, view: StripeView, number: int) -> list[int]:
        """A small block was not there: return what to fetch with it, itself first, or nothing."""
        misses = self._misses.pop(view.id, 0) + 1
        self._misses[view.id] = misses
        if len(self._misses) > TRACKED_STRIPES:
            self._misses.popitem(last=False)
        if misses < MISSES_TO_BEGIN:
            return []
        if self._guessed > ALLOWANCE_BLOCKS + GUESSES_PER_HIT * self._hits:
            self._guessed -= 1  # Time, counted in misses, earns another try.
            return []
        near = _neighbours(view.stripe.blocks, number)
        self._guessed += len(near)
        if self._guessed > MEMORY_BLOCKS:
            self._guessed //= 2
            self._hits //= 2
        return near


def _neighbours(table: tuple[Block, ...], number: int) -> list[int]:
    """Return the block and the small ones behind it in its shard, within the window."""
    first = table[number]
    near = [number]
    for index in range(number + 1, len(table)):
        block = table[index]
        end = block.shard_offset + block.stored
        if block.shard != first.shard or end - first.shard_offset > WINDOW_BYTES:
            break
        if is_small(block):
            near.append(index)
    return near if len(near) > 1 else []
