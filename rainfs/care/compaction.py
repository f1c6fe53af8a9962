"""Rewrites live bytes of old stripes into new ones, so that the old ones can go.

Owns the order that makes it safe: live runs are looked up, read and verified block by block, put
durably as a new stripe, and only then moved by one transaction that takes no more than what is
still as it was copied (`meta.moving`).  Old stripes leave by the ordinary way, with a tombstone.
Refuses to know why a stripe is rewritten (`candidates`, `fragments`), when (`pace`), and mounts.

Invariants:
- Only settled stripes are touched: a stripe whose commit may still run is left alone.
- Whole blocks are read, so that each is checked end to end: a copy never launders damaged bytes.
- A crash at any moment leaves the old stripes, or the new one, or a new one that nothing points at,
  which garbage collection takes.
- Memory is bounded: one new stripe, and the blocks of READS_AT_ONCE stripes that are being read.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from rainfs.array.array import Array, Piece, Wanted
from rainfs.care.pace import Clients
from rainfs.care.repacking import NewBlock, distinct, new_blocks, new_stripes
from rainfs.errors import ArrayError, ArrayFull
from rainfs.meta.engine import Engine, Reader
from rainfs.meta.moving import Run, live_runs, move
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import load_view
from rainfs.meta.volume import load_layout
from rainfs.model import Layout, LayoutId, StripeId, StripeView, epoch_of

log = logging.getLogger(__name__)

READS_AT_ONCE = 4
"""Stripes read at the same time."""


@dataclass(slots=True)
class Rewritten:
    """What was done."""

    stripes: int = 0
    """New stripes."""
    copied_bytes: int = 0
    """File bytes that were written into them."""
    moved_bytes: int = 0
    """Of those, how many files point at now."""

    def __iadd__(self, other: Rewritten) -> Rewritten:
        self.stripes += other.stripes
        self.copied_bytes += other.copied_bytes
        self.moved_bytes += other.moved_bytes
        return self


Turn = Callable[[int], Awaitable[None]]
"""Awaited before so many bytes are rewritten."""


class Compactor:
    """Rewrites what it is told to; any process that holds the volume's session may have one."""

    def __init__(self, engine: Engine, session: Session, array: Array, clients: Clients) -> None:
        self._engine = engine
        self._session = session
        self._array = array
        self._clients = clients
        self._layouts: dict[LayoutId, Layout] = {}

    def settled(self, stripe: StripeId) -> bool:
        """Whether the stripe's commit is over."""
        return epoch_of(stripe) != self._session.epoch or stripe < self._session.low_water

    async def rewrite(self, stripes: Iterable[StripeId], turn: Turn) -> Rewritten:
        """Rewrite the live bytes of `stripes`, in the order of their files.

        `turn` is awaited before each new stripe.  Raises: ArrayError where the array takes no
        stripe, MetadataError.
        """
        views: dict[StripeId, StripeView] = {}
        runs: list[Run] = []
        for stripe in stripes:
            view = await self._view(stripe) if self.settled(stripe) else None
            if view is not None:
                views[stripe] = view
                runs += await live_runs(self._engine, view)
        return await self._copy(views, runs, turn)

    async def rewrite_runs(self, runs: Sequence[Run], turn: Turn) -> Rewritten:
        """Rewrite runs of any stripes that are settled, in the order of their files.

        Raises: as `rewrite`.
        """
        views: dict[StripeId, StripeView] = {}
        for stripe in dict.fromkeys(run.stripe for run in runs):
            view = await self._view(stripe) if self.settled(stripe) else None
            if view is not None:
                views[stripe] = view
        return await self._copy(views, [run for run in runs if run.stripe in views], turn)

    async def _copy(
        self, views: Mapping[StripeId, StripeView], runs: Sequence[Run], turn: Turn
    ) -> Rewritten:
        by_layout: dict[LayoutId, list[Run]] = {}
        for run in runs:
            by_layout.setdefault(views[run.stripe].stripe.layout, []).append(run)
        done = Rewritten()
        for number, some in by_layout.items():
            layout = await self._layout(number)
            blocks = new_blocks(distinct(some), layout.block_bytes)
            for dealt in new_stripes(blocks, self._array.stripe_bytes(layout)):
                await turn(sum(block.length for block in dealt))
                done += await self._put(views, dealt, layout)
        return done

    async def _put(
        self, views: Mapping[StripeId, StripeView], dealt: Sequence[NewBlock], layout: Layout
    ) -> Rewritten:
        """Copy what can be read of `dealt` into one new stripe."""
        runs = [run for block in dealt for run in block.runs]
        found = await self._read(views, runs)
        if len(found) < len(runs):
            rest = new_blocks([run for run in runs if run in found], layout.block_bytes)
            dealt = next(new_stripes(rest, layout.stripe_bytes), [])
        if not dealt:
            return Rewritten()
        nbytes = sum(block.length for block in dealt)
        pieces = [
            Piece(block.inode, block.start, block.length, tuple(found[run] for run in block.runs))
            for block in dealt
        ]
        if not self._clients.claim(nbytes):
            raise ArrayFull("no room for a stripe beside what was promised to writers")
        try:
            stripe = self._session.next_stripe()
            try:
                view = await self._array.write(stripe, pieces, layout)
                moved = await move(
                    self._engine, self._session, view, [block.runs for block in dealt]
                )
            finally:
                self._session.settle(stripe)
        finally:
            self._clients.release(nbytes)
        for inode in dict.fromkeys(block.inode for block in dealt):
            self._clients.moved(inode)
        return Rewritten(1, nbytes, moved)

    async def _read(
        self, views: Mapping[StripeId, StripeView], runs: Sequence[Run]
    ) -> dict[Run, bytes]:
        """Return the bytes of the runs; those of stripes that cannot be read are left out."""
        by_stripe: dict[StripeId, list[Run]] = {}
        for run in runs:
            by_stripe.setdefault(run.stripe, []).append(run)
        found: dict[Run, bytes] = {}
        limit = trio.Semaphore(READS_AT_ONCE)

        async def read(stripe: StripeId, some: list[Run]) -> None:
            async with limit:
                try:
                    found.update(await self._read_stripe(views[stripe], some))
                except ArrayError as error:
                    # Freed meanwhile, or unreadable: either way its bytes stay where they are.
                    log.info("stripe %x is not rewritten: %s", stripe, error)

        async with trio.open_nursery() as nursery:
            for stripe, some in by_stripe.items():
                nursery.start_soon(read, stripe, some)
        return found

    async def _read_stripe(self, view: StripeView, runs: Sequence[Run]) -> dict[Run, bytes]:
        async def refresh() -> StripeView | None:
            return await self._view(view.id)

        blocks = list(dict.fromkeys(run.block for run in runs))
        wanted = [Wanted(block, 0, view.stripe.blocks[block].length) for block in blocks]
        buffers = await self._array.read(view, wanted, refresh)
        whole = {block: memoryview(data) for block, data in zip(blocks, buffers, strict=True)}
        # Copied before the next checkpoint: small runs must not hold whole blocks in memory.
        return {
            run: bytes(whole[run.block][run.start - run.base : run.stop - run.base]) for run in runs
        }

    async def _view(self, stripe: StripeId) -> StripeView | None:
        async def body(reader: Reader) -> StripeView | None:
            return await load_view(reader, stripe)

        return await self._engine.read(body)

    async def _layout(self, number: LayoutId) -> Layout:
        if number not in self._layouts:

            async def body(reader: Reader) -> Layout:
                return await load_layout(reader, number)

            self._layouts[number] = await self._engine.read(body)
        return self._layouts[number]
