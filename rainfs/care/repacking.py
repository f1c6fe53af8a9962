"""Which copies a compaction makes of the runs that it found: whole blocks, in file order.

Pure.  Owns the order and the bounds of new stripes.  Refuses to read or write anything.

Invariants: every byte is copied at most once; a new block holds touching runs of one file, is cut
at multiples of the block length, as a writer's blocks are, and lies in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rainfs.meta.extents import MAX_BLOCKS_PER_STRIPE
from rainfs.meta.moving import MAX_MOVED_RUNS, Run
from rainfs.model import InodeNumber


@dataclass(frozen=True, slots=True)
class NewBlock:
    """File bytes `[start, stop)` and the runs, touching and in order, that they are copied from."""

    inode: InodeNumber
    start: int
    stop: int
    runs: tuple[Run, ...]

    @property
    def length(self) -> int:
        """File bytes."""
        return self.stop - self.start


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in file order, cut so that none overlaps the one before it.

    Two runs overlap when the file was written between two looks at it.  Which one is out of date
    does not matter here: moving it will find that.
    """
    kept: list[Run] = []
    for run in sorted(runs):
        if kept and kept[-1].inode == run.inode and kept[-1].stop > run.start:
            if kept[-1].stop >= run.stop:
                continue
            run = run._replace(start=kept[-1].stop)
        kept.append(run)
    return kept


def new_blocks(runs: Sequence[Run], block_bytes: int) -> Iterator[NewBlock]:
    """Join touching runs (in order, without overlap) into blocks."""
    held: list[Run] = []
    for run in runs:
        at = run.start
        while at < run.stop:
            limit = at - at % block_bytes + block_bytes
            part = run._replace(start=at, stop=min(run.stop, limit))
            touches = held and held[-1].inode == part.inode and held[-1].stop == part.start
            if held and not (touches and part.start % block_bytes):
                yield _block(held)
                held = []
            held.append(part)
            at = part.stop
    if held:
        yield _block(held)


def new_stripes(
    blocks: Iterable[NewBlock],
    stripe_bytes: int,
    *,
    most_blocks: int = MAX_BLOCKS_PER_STRIPE,
    most_runs: int = MAX_MOVED_RUNS,
) -> Iterator[list[NewBlock]]:
    """Deal blocks out to stripes, each within its bounds; a block of too many runs is cut."""
    stripe: list[NewBlock] = []
    nbytes = runs = 0
    for block in _bounded(blocks, most_runs):
        over = nbytes + block.length > stripe_bytes or runs + len(block.runs) > most_runs
        if stripe and (over or len(stripe) == most_blocks):
            yield stripe
            stripe, nbytes, runs = [], 0, 0
        stripe.append(block)
        nbytes += block.length
        runs += len(block.runs)
    if stripe:
        yield stripe


def _bounded(blocks: Iterable[NewBlock], most_runs: int) -> Iterator[NewBlock]:
    for block in blocks:
        for first in range(0, len(block.runs), most_runs):
            yield _block(block.runs[first : first + most_runs])


def _block(runs: Sequence[Run]) -> NewBlock:
    return NewBlock(runs[0].inode, runs[0].start, runs[-1].stop, tuple(runs))
