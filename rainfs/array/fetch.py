"""Gets ranges of shards, by whatever way still leads to them.

Owns the ways: the node that holds the shard; while that is late, any k others at the same time
(`gathering`); when it is silent or its shard is gone or corrupt, the others at once.  Refuses to
know blocks.

Invariants: the first way that succeeds wins and the others are cancelled; a shard counts as lost
only when its node said so, and after the stripe's row was read again; nothing is asked for longer
than the caller waits (the deadline is the caller's cancel scope).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Collection, Sequence
from typing import NamedTuple

import trio

from rainfs.array.asking import Asker
from rainfs.array.backend import BegunGet
from rainfs.array.background import Background
from rainfs.array.counts import ReadCounts
from rainfs.array.gathering import LOSSES, Gatherer, TooFew
from rainfs.array.late import TICK_S, LateWatch, Watched
from rainfs.array.latency import get_kind
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members
from rainfs.array.values import Refresh
from rainfs.errors import (
    InputError,
    RainError,
    StorageError,
    StripeLost,
)
from rainfs.model import (
    NO_NODE,
    CodeKind,
    ShardKey,
    StripeView,
)

_log = logging.getLogger(__name__)

MAX_HEDGES = 32
"""Late gets that are being raced by a reconstruction at any time; more wait for their node."""

RETRY_S = 0.25
"""Longest pause before a read that lacks shards looks again."""


class Run(NamedTuple):
    """Bytes [start, stop) of a shard."""

    shard: int
    start: int
    stop: int


class Source:
    """A stripe's row as one read sees it: read again at most once."""

    __slots__ = ("_refresh", "_renewing", "renewed", "view")

    def __init__(self, view: StripeView, refresh: Refresh) -> None:
        self.view = view
        self.renewed = False
        self._refresh = refresh
        self._renewing: trio.Event | None = None

    async def renew(self) -> None:
        """Read the row again, if that was not done.  Raises: StripeLost when it is gone."""
        while not self.renewed:
            if self._renewing is not None:
                await self._renewing.wait()
                continue
            self._renewing = trio.Event()
            try:
                view = await self._refresh()
                if view is None:
                    raise StripeLost(f"stripe {self.view.id:x} is not recorded any more")
                self.view = view
                self.renewed = True
            finally:
                self._renewing.set()
                self._renewing = None


class _LateGet(Watched):
    """A get from a shard's own node that is raced with the others once it is late."""

    __slots__ = ("_fetcher", "hedge", "run", "scope", "view", "won")

    def __init__(self, due_s: float, fetcher: Fetcher, view: StripeView, run: Run) -> None:
        super().__init__(due_s)
        self.view = view
        self.run = run
        self.scope = trio.CancelScope()
        self.won: memoryview | None = None
        self.hedge: trio.CancelScope | None = None
        self._fetcher = fetcher

    def act(self) -> float | None:
        """Start the race."""
        return None if self._fetcher.hedge(self) else trio.current_time() + TICK_S


class Fetcher:
    """Gets ranges of shards of any stripe."""

    def __init__(
        self, members: Members, watch: LateWatch, background: Background, linger: Linger
    ) -> None:
        self._members = members
        self._linger = linger
        self._watch = watch
        self._background = background
        self.counts = ReadCounts()
        self._asker = Asker(members, self.counts)
        self._gatherer = Gatherer(members, linger, self._asker, self.counts)
        self._hedges = 0

    async def fetch(self, source: Source, runs: Sequence[Run]) -> list[memoryview]:
        """Return the bytes of each run.

        Raises: StripeLost when they are beyond repair.  Waits for nodes as long as it is let.
        """
        if len(runs) == 1:
            return [await self._one(source, runs[0])]
        results: dict[Run, memoryview] = {}
        errors: list[RainError] = []
        alone, together, span = self._plan(source.view, runs)

        async with trio.open_nursery() as nursery:

            async def one(run: Run) -> None:
                try:
                    results[run] = await self._one(source, run)
                except RainError as error:
                    errors.append(error)
                    nursery.cancel_scope.cancel()

            async def several() -> None:
                wanted = {run.shard for run in together}
                try:
                    whole = await self.around(source, wanted, span.start, span.stop, set())
                except RainError as error:
                    errors.append(error)
                    nursery.cancel_scope.cancel()
                    return
                for run in together:
                    results[run] = whole[run.shard][run.start - span.start : run.stop - span.start]

            for run in alone:
                nursery.start_soon(one, run)
            if together:
                nursery.start_soon(several)
        if errors:
            raise errors[0]
        return [results[run] for run in runs]

    def _plan(self, view: StripeView, runs: Sequence[Run]) -> tuple[list[Run], list[Run], Run]:
        """Split into runs to get one by one, and those to have from one reconstruction of a span.

        A reconstruction gets k shards anyway: what is wanted of them besides comes along.
        """
        none = Run(0, 0, 0)
        if view.stripe.code.kind is CodeKind.MIRROR:
            return list(runs), [], none
        lost = [run for run in runs if not self._reachable(view, run.shard)]
        if not lost:
            return list(runs), [], none
        span = Run(0, min(run.start for run in lost), max(run.stop for run in lost))
        width = span.stop - span.start
        if any((run.stop - run.start) * 2 < width for run in lost):
            return list(runs), [], none
        together = list(lost)
        alone: list[Run] = []
        for run in runs:
            if run in lost:
                continue
            inside = span.start <= run.start and run.stop <= span.stop
            (together if inside else alone).append(run)
        return alone, together, span

    def _reachable(self, view: StripeView, shard: int) -> bool:
        member = self._members.get(view.placement.nodes[shard])
        return member is not None and member.up

    async def quick(self, view: StripeView, run: Run) -> memoryview | None:
        """Return the bytes of one run if its own node has them; None: `fetch` knows more ways.

        Bounded by the session's own deadline.
        """
        shard = self._preferred(view, run.shard)
        member = self._members.get(view.placement.nodes[shard])
        if member is None or not member.up:
            return None
        try:
            return await self._direct(view, shard, member, run.start, run.stop)
        except (StorageError, InputError) as error:
            _log.debug("going round %s: %s", member.node.name, error)
            return None

    async def _one(self, source: Source, run: Run) -> memoryview:
        """Return the bytes of one run."""
        gone: set[int] = set()
        shard = self._preferred(source.view, run.shard)
        member = self._members.get(source.view.placement.nodes[shard])
        if member is not None and member.up:
            try:
                return await self._direct(source.view, shard, member, run.start, run.stop)
            except LOSSES:
                gone.add(shard)
            except StorageError as error:
                _log.debug("going round %s: %s", member.node.name, error)
        found = await self.around(source, {run.shard}, run.start, run.stop, gone)
        return found[run.shard]

    def _preferred(self, view: StripeView, shard: int) -> int:
        """Return the shard to ask for: of a mirror any copy whose node is up, spread by stripe."""
        n = view.stripe.code.n
        if view.stripe.code.kind is not CodeKind.MIRROR:
            return shard
        for step in range(n):
            copy = (view.id + step) % n
            if self._reachable(view, copy):
                return copy
        return shard

    async def _direct(
        self, view: StripeView, shard: int, member: Member, start: int, stop: int
    ) -> memoryview:
        """Get from the shard's own node; once that is late, race it with the others."""
        nbytes = stop - start
        kind = get_kind(nbytes)
        key = ShardKey(view.id, shard)
        here = self._asker.now(member, key, start, nbytes)
        if here is not None:
            return here
        begun_s = trio.current_time()
        self._linger.under_way += 1
        try:
            waiting: Awaitable[memoryview] | None = None
            if member.get_beginner is not None and self._linger.worth_it:
                begun = member.get_beginner.begin_get(key, start, nbytes)
                if begun is not None and begun.linger(self._linger):
                    data = begun.result()
                    self.counts.in_line += 1
                    self._asker.answered(member, nbytes, begun_s)
                    return data
                waiting = self._rest(member, begun, nbytes, begun_s) if begun is not None else None
            if waiting is None:
                waiting = self._asker.get(member, key, start, nbytes)
            run = Run(shard, start, stop)
            late = _LateGet(begun_s + self._members.late_after_s(kind), self, view, run)
            self._watch.add(late)
            try:
                with late.scope:
                    return await waiting
            finally:
                self._watch.remove(late)
                if late.hedge is not None:
                    late.hedge.cancel()
        except StorageError as error:
            self._members.failed(member, error)
            raise
        finally:
            self._linger.under_way -= 1
        member.latency.observe(kind, trio.current_time() - begun_s)
        assert late.won is not None
        return late.won

    async def _rest(
        self, member: Member, begun: BegunGet, nbytes: int, begun_s: float
    ) -> memoryview:
        data = await begun.rest()
        self._asker.answered(member, nbytes, begun_s)
        return data

    def hedge(self, late: _LateGet) -> bool:
        """Race a late get with the other shards; False when too many are being raced."""
        if self._hedges >= MAX_HEDGES:
            return False
        self._hedges += 1
        self.counts.raced += 1
        late.hedge = self._background.spawn(self._race, late)
        return True

    async def _race(self, late: _LateGet) -> None:
        shard, start, stop = late.run
        try:
            found = await self._gatherer.gather(late.view, {shard}, start, stop, {shard})
        except StorageError:
            return  # The direct way goes on, and reports what it meets.
        finally:
            self._hedges -= 1
        late.won = found[shard]
        late.scope.cancel()

    async def around(
        self, source: Source, wanted: Collection[int], start: int, stop: int, gone: set[int]
    ) -> dict[int, memoryview]:
        """Return at least the `wanted` shards' bytes [start, stop) from whichever k can be had.

        `gone` are shards known to be unusable.  Raises: StripeLost.
        """
        while True:
            view = source.view
            if gone:
                await source.renew()
                if source.view.placement != view.placement:
                    # Only a shard that moved may be whole at its new place.
                    moved = zip(view.placement.nodes, source.view.placement.nodes, strict=True)
                    gone -= {shard for shard, (old, new) in enumerate(moved) if old != new}
                    view = source.view
            nowhere = {s for s, node in enumerate(view.placement.nodes) if node == NO_NODE}
            if len(gone | nowhere) > view.stripe.code.m and source.renewed:
                raise StripeLost(
                    f"stripe {view.id:x} ({view.stripe.code}): shards "
                    f"{sorted(gone | nowhere)} are missing or corrupt"
                )
            before = len(gone)
            try:
                return await self._gatherer.gather(view, wanted, start, stop, gone)
            except TooFew:
                if len(gone) == before:
                    await self._members.wait_changed(RETRY_S)

    async def attempt(self, view: StripeView, run: Run, gone: Collection[int]) -> memoryview:
        """Return the bytes of a run, had without the shards in `gone`, if that works now.

        Raises: StripeLost when it never will, StorageError when nodes are silent.
        """
        lost = set(gone)
        try:
            found = await self._gatherer.gather(view, {run.shard}, run.start, run.stop, lost)
        except TooFew:
            nowhere = {s for s, node in enumerate(view.placement.nodes) if node == NO_NODE}
            if len(lost | nowhere) > view.stripe.code.m:
                raise StripeLost(f"stripe {view.id:x}: {sorted(lost)} are lost") from None
            raise
        return found[run.shard]
