"""Gets a range of k shards of a stripe at once, and makes up for the others.

Owns whom to ask first, whom next when one fails or is late, and the decoding.  Refuses to know what
becomes of a stripe that cannot be had: `fetch` looks again.

Invariants: never more than k gets without a reason (a failure, a late one); short ranges from nodes
that are all well cost no task; a shard is called gone only when its node said so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from rainfs.array.asking import Asker
from rainfs.array.backend import BegunGet
from rainfs.array.counts import ReadCounts
from rainfs.array.latency import get_kind
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members
from rainfs.erasure.codec import codec_for
from rainfs.errors import InputError, ShardCorrupt, ShardMissing, StorageError
from rainfs.model import KIB, CodeKind, NodeState, ShardKey, StripeView

INLINE_DECODE_BYTES = 256 * KIB
"""Longer reconstructions run in a worker thread."""

AT_ONCE_BYTES = 64 * KIB
"""Reconstructions of ranges up to this long ask k nodes without a task for each."""

DECODE_THREADS = 2

LOSSES = (ShardMissing, ShardCorrupt, InputError)
"""What says that a shard is not there as recorded; InputError: it is shorter than that."""

_RANK = {NodeState.UP: 0, NodeState.DRAINING: 0, NodeState.SUSPECT: 1, NodeState.DOWN: 2}


class TooFew(StorageError):
    """Fewer shards than needed could be had now.  Raised by `gather` only."""


class Gatherer:
    """Gathers ranges of any stripe."""

    def __init__(self, members: Members, linger: Linger, asker: Asker, counts: ReadCounts) -> None:
        self._members = members
        self._asker = asker
        self._counts = counts
        self._linger = linger
        self._threads = trio.CapacityLimiter(DECODE_THREADS)

    async def gather(
        self,
        view: StripeView,
        wanted: Collection[int],
        start: int,
        stop: int,
        gone: set[int],
    ) -> dict[int, memoryview]:
        """Get from k nodes at once, further ones for those that fail or are late; then decode.

        Shards that turn out to be missing or corrupt are added to `gone`.  Raises: TooFew.
        """
        self._counts.gathered += 1
        code = view.stripe.code
        waiting = self._ordered(view, wanted, gone)
        if len(waiting) < code.k:
            raise TooFew(f"{len(waiting)} shards can be asked for, {code.k} are needed")
        kind = get_kind(stop - start)
        if stop - start <= AT_ONCE_BYTES:
            quickly = await self._at_once(view, waiting[: code.k], start, stop, gone)
            if quickly is not None:
                return await self._decoded(view, wanted, stop - start, quickly)
            waiting = self._ordered(view, wanted, gone)
            if len(waiting) < code.k:
                raise TooFew(f"{len(waiting)} shards can be asked for, {code.k} are needed")
        found: dict[int, memoryview] = {}
        active = 0
        news = trio.Event()
        failed: list[tuple[int, Member]] = []

        async def get(shard: int, member: Member) -> None:
            nonlocal active
            try:
                found[shard] = await self._get(view, shard, member, start, stop)
            except LOSSES:
                gone.add(shard)
            except StorageError:
                failed.append((shard, member))  # Asked again once its node is up.
            finally:
                active -= 1
                news.set()

        def enough() -> bool:
            return len(found) >= code.k or all(shard in found for shard in wanted)

        async with trio.open_nursery() as nursery:
            ask = code.k
            while not enough():
                while ask and waiting:
                    shard, member = waiting.pop(0)
                    active += 1
                    ask -= 1
                    nursery.start_soon(get, shard, member)
                if not active:
                    break
                news = trio.Event()
                with trio.move_on_after(self._members.late_after_s(kind)) as late:
                    await news.wait()
                ask = 1 if late.cancelled_caught else max(0, code.k - len(found) - active)
                if late.cancelled_caught and not waiting:
                    waiting = [entry for entry in failed if entry[1].up]
                    failed = [entry for entry in failed if not entry[1].up]
            nursery.cancel_scope.cancel()
        if not enough():
            raise TooFew(f"{len(found)} shards answered, {code.k} are needed")
        return await self._decoded(view, wanted, stop - start, found)

    async def _at_once(
        self,
        view: StripeView,
        asked: Sequence[tuple[int, Member]],
        start: int,
        stop: int,
        gone: set[int],
    ) -> dict[int, memoryview] | None:
        """Get short ranges from k nodes that are all well, without a task for each.

        None when any of them fails or is late, or cannot be asked so.
        """
        kind = get_kind(stop - start)
        begun_s = trio.current_time()
        gets: list[tuple[int, Member, BegunGet]] = []
        found: dict[int, memoryview] = {}
        self._linger.under_way += 1
        try:
            for shard, member in asked:
                if member.get_beginner is None or not member.up:
                    return None
                key = ShardKey(view.id, shard)
                here = self._asker.now(member, key, start, stop - start)
                if here is not None:
                    found[shard] = here
                    continue
                get = member.get_beginner.begin_get(key, start, stop - start)
                if get is None:
                    return None
                gets.append((shard, member, get))
            lingers = self._linger.worth_it
            with trio.move_on_at(begun_s + self._members.late_after_s(kind)):
                for shard, member, get in gets:
                    lingers = lingers and get.linger(self._linger)
                    try:
                        found[shard] = get.result() if lingers else await get.rest()
                    except StorageError as error:
                        self._members.failed(member, error)
                        if isinstance(error, LOSSES):
                            gone.add(shard)
                        return None
                    except InputError:
                        gone.add(shard)
                        return None
                    self._asker.answered(member, stop - start, begun_s)
                return found
            return None
        finally:
            self._linger.under_way -= 1
            for _, _, get in gets:
                get.abandon()

    def _ordered(
        self, view: StripeView, wanted: Collection[int], gone: Collection[int]
    ) -> list[tuple[int, Member]]:
        """Return the shards to ask for, the most promising first."""
        ranked: list[tuple[int, bool, float, int, Member]] = []
        for shard, number in enumerate(view.placement.nodes):
            member = self._members.get(number)
            if shard in gone or member is None:
                continue
            usual_s = sum(member.latency.usual_s)
            ranked.append((_RANK[member.state], shard not in wanted, usual_s, shard, member))
        ranked.sort(key=lambda entry: entry[:4])
        return [(shard, member) for _, _, _, shard, member in ranked]

    async def _decoded(
        self,
        view: StripeView,
        wanted: Collection[int],
        length: int,
        found: dict[int, memoryview],
    ) -> dict[int, memoryview]:
        missing = {s: memoryview(bytearray(length)) for s in wanted if s not in found}
        if not missing:
            return found
        code = view.stripe.code
        if code.kind is CodeKind.MIRROR:
            copy = next(iter(found.values()))
            return found | dict.fromkeys(missing, copy)
        codec = codec_for(code)
        if length * len(missing) <= INLINE_DECODE_BYTES:
            codec.reconstruct(found, missing)
        else:
            await trio.to_thread.run_sync(codec.reconstruct, found, missing, limiter=self._threads)
        return found | missing

    async def _get(
        self, view: StripeView, shard: int, member: Member, start: int, stop: int
    ) -> memoryview:
        """Get from one node, and let `members` know how that went."""
        self._linger.under_way += 1
        try:
            return await self._asker.get(member, ShardKey(view.id, shard), start, stop - start)
        except StorageError as error:
            self._members.failed(member, error)
            raise
        finally:
            self._linger.under_way -= 1
