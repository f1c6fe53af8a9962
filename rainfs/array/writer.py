"""Writes a stripe: build it, choose nodes, put all shards at once, and see to it that they stay.

Owns what happens when nodes fail meanwhile: another node for that shard, a narrower stripe at full
redundancy when no other is left, fewer copies only when at most m nodes are left at all.  Refuses
to know metadata: it reports where the shards are, the caller commits that.

Invariants:
- A shard counts as placed only after its node said that it is durable there.
- A node that may hold a shard of this stripe in another geometry gets none in this one: a node
  never takes back an id under which it holds other content.
- Shards that were put and are not part of the result are deleted, or left to garbage collection.
- The shard buffers return to the pool only after every put has ended; the pool keeps those that a
  node may still read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from random import Random

import trio

from rainfs.array.background import Background
from rainfs.array.building import (
    Built,
    build,
    pool_buffer_bytes,
    widest,
)
from rainfs.array.job import Job, LatePut
from rainfs.array.late import LateWatch
from rainfs.array.latency import put_kind
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members, candidates
from rainfs.array.placement import Candidate, Odds, draw, odds_for, substitute
from rainfs.array.streak import Streak
from rainfs.array.values import Piece
from rainfs.array.volley import (
    LINGER_BYTES,
    Miss,
    Volley,
)
from rainfs.errors import (
    ArrayFull,
    ArrayUnavailable,
    InputError,
    RainError,
    ShardConflict,
    StorageError,
    StripeSpoiled,
)
from rainfs.memory import BufferPool
from rainfs.model import (
    KIB,
    MIB,
    NO_NODE,
    Layout,
    NodeNumber,
    Placement,
    ShardKey,
    StripeId,
    StripeView,
)
from rainfs.shared_memory import SharedMemory, SharedPool

MAX_ROUNDS = 32
"""Rounds of choosing nodes and sending that one write may take."""

PATIENCE_S = 3.0
"""How long a write that would lose redundancy waits for suspect nodes to answer, and one that finds
no room for the nodes to say how much they really have."""

RETRY_S = 0.25
"""Longest pause before a write that lacks nodes looks again."""

ODDS_S = 1.0
MAX_KEPT_ODDS = 64
"""Odds of placement are kept this long, for this many sets of nodes: weights change slowly."""

INLINE_BUILD_BYTES = 64 * KIB
"""Smaller stripes are built on the event loop: the way to a thread and back costs more."""

BUILD_THREADS = 2
POOL_BYTES = 64 * MIB
"""Most memory that idle shard buffers hold."""

_log = logging.getLogger(__name__)


class Writer:
    """Writes stripes; any number of them at once."""

    def __init__(
        self,
        members: Members,
        watch: LateWatch,
        background: Background,
        random: Random,
        deadline_s: float,
        linger: Linger,
        memory: SharedMemory,
    ) -> None:
        self._members = members
        self._watch = watch
        self._background = background
        self._random = random
        self._deadline_s = deadline_s
        self._threads = trio.CapacityLimiter(BUILD_THREADS)
        self._pools: dict[int, BufferPool] = {}
        self._odds: dict[tuple[int, int, tuple[tuple[NodeNumber, str], ...]], Odds] = {}
        self._odds_until_s = 0.0
        self._linger = linger
        self._streak = Streak(members)
        self._memory = memory

    async def write(
        self,
        stripe: StripeId,
        pieces: Sequence[Piece],
        layout: Layout,
        meanwhile: Callable[[StripeView], None] | None = None,
        heeds_rivals: bool = True,
    ) -> StripeView:
        """Put the pieces durably on nodes; see `Array.write`."""
        job = Job(stripe, pieces, layout)
        job.meanwhile, job.heeds_rivals = meanwhile, heeds_rivals
        done = False
        self._linger.under_way += 1
        try:
            for _ in range(MAX_ROUNDS):
                built = await self._prepare(job)
                await self._send(job, built)
                if len(job.placed) >= job.wanted:
                    done = True
                    return self._view(job, built, job.placed)
            raise ArrayUnavailable(f"{MAX_ROUNDS} attempts to place a stripe failed")
        finally:
            self._linger.under_way -= 1
            if job.built is not None:
                job.built.release(self._pool(layout))
            self._clean(job, job.placed if done else {})

    # --- Choosing ---------------------------------------------------------------------------

    async def _prepare(self, job: Job) -> Built:
        """Build for the nodes there are, and assign every shard not placed yet to one."""
        while True:
            now_s = trio.current_time()
            if now_s - job.progress_s >= self._deadline_s:
                raise ArrayUnavailable(f"no node took a shard within {self._deadline_s:g} s")
            writable = self._members.writable(job.m)
            willing = writable
            if job.tried or job.refused:
                willing = [member for member in writable if job.may_use(member.node.number)]
                if len(writable) > job.m and not willing:
                    raise StripeSpoiled(f"all nodes up may hold stripe {job.stripe:x} already")
            if len(willing) <= job.m:
                patient = now_s - job.begun_s < PATIENCE_S and self._members.unsettled()
                if not willing or patient:
                    await self._members.wait_changed(RETRY_S)
                    continue
            width = widest(job.layout, job.total, len(willing))
            built = job.built
            if built is None or built.stripe.code.k > width:
                built = await self._build(job, width)
                if job.tried:
                    continue  # What was put of a former build has been taken back.
            roomy = candidates(willing, built.stripe.shard_bytes)
            kept = set(job.placed.values())
            fresh = [c for c in roomy if c.number not in kept] if kept else roomy
            count = len(kept) + len(fresh)
            k, n = built.stripe.code.k, built.stripe.code.n
            if count < n and count > job.m and k > 1:
                await self._build(job, min(count - job.m, k - 1))
                continue
            if count < n and (len(willing) > job.m or not count):
                if not self._may_find_room(job):
                    raise ArrayFull(f"{count} of {len(willing)} nodes have room, {n} needed")
                await self._members.wait_changed(RETRY_S)
                if k < width and not job.tried:
                    # Wider stripes take less room, and nodes may have more than was guessed.
                    await self._build(job, width)
                continue
            job.wanted = min(n, count)
            self._assign(job, fresh, now_s)
            return built

    def _may_find_room(self, job: Job) -> bool:
        """Whether room may turn up soon: what is known of it is a guess, or nodes are suspect."""
        now_s = trio.current_time()
        if job.full_since_s is None:
            job.full_since_s = now_s
        return now_s - job.full_since_s < PATIENCE_S and self._members.look_again()

    def _assign(self, job: Job, pool: Sequence[Candidate], now_s: float) -> None:
        assert job.built is not None
        shards: Sequence[int] = range(job.wanted)
        if job.placed:
            free = [s for s in range(job.built.stripe.code.n) if s not in job.placed]
            shards = free[: job.wanted - len(job.placed)]
        chosen: Sequence[NodeNumber] = ()
        if job.placed:
            picked: list[NodeNumber] = []
            domains = self._domains(job.placed.values())
            while len(picked) < len(shards):
                number = substitute(pool, picked, domains, job.m, self._random)
                assert number is not None
                picked.append(number)
                domains += self._domains([number])
            chosen = picked
        elif shards:
            chosen = self._draw(job, pool, len(shards), now_s)
        job.assigned = dict(zip(shards, chosen, strict=True))

    def _draw(
        self, job: Job, pool: Sequence[Candidate], count: int, now_s: float
    ) -> Sequence[NodeNumber]:
        assert job.built is not None
        shard_bytes = job.built.stripe.shard_bytes
        streak = self._streak
        lone = shard_bytes <= LINGER_BYTES and self._linger.under_way == 1
        if lone and not job.tried and not job.refused:
            again = streak.again(count, job.m, shard_bytes)
            if again is not None:
                return again
        chosen = draw(self._odds_of(pool, count, job.m, now_s), self._random)
        if lone:
            streak.begin(chosen, job.m)
        return chosen

    def _odds_of(self, pool: Sequence[Candidate], count: int, m: int, now_s: float) -> Odds:
        """Return the odds; for the same nodes to choose from they are kept for ODDS_S."""
        if now_s >= self._odds_until_s or len(self._odds) >= MAX_KEPT_ODDS:
            self._odds.clear()
            self._odds_until_s = now_s + ODDS_S
        key = (count, m, tuple([(candidate.number, candidate.domain) for candidate in pool]))
        odds = self._odds.get(key)
        if odds is None:
            odds = self._odds[key] = odds_for(pool, count, m)
        return odds

    def _domains(self, numbers: Iterable[NodeNumber]) -> list[str]:
        found = (self._members.get(number) for number in numbers)
        return [member.domain for member in found if member is not None]

    async def _build(self, job: Job, k_most: int) -> Built:
        """Build with at most `k_most` data shards; what was put of a former build is taken back."""
        pool = self._pool(job.layout)
        if job.built is not None:
            job.built.release(pool)
            job.built = None
            await self._take_back(job)
        try:
            if job.total <= INLINE_BUILD_BYTES:
                job.built = build(job.pieces, job.layout, k_most, pool)
            else:
                job.built = await trio.to_thread.run_sync(
                    build, job.pieces, job.layout, k_most, pool, limiter=self._threads
                )
        except InputError as error:
            # The pieces were checked: they fit the layout, only not so few nodes.
            raise ArrayUnavailable(f"too few nodes for a stripe this long: {error}") from error
        return job.built

    async def _take_back(self, job: Job) -> None:
        """Delete what is durable of a former build; those nodes may then be used again."""
        placed = job.placed
        job.placed = {}

        async def delete(shard: int, number: NodeNumber) -> None:
            member = self._members.get(number)
            if member is None:
                return
            try:
                await member.backend.delete([ShardKey(job.stripe, shard)])
            except StorageError as error:
                self._members.failed(member, error)
                return
            job.tried[number].discard(shard)
            if not job.tried[number]:
                del job.tried[number], job.taint[number]

        async with trio.open_nursery() as nursery:
            for shard, number in placed.items():
                nursery.start_soon(delete, shard, number)

    # --- Sending ----------------------------------------------------------------------------

    async def _send(self, job: Job, built: Built) -> None:
        """Put all assigned shards at once; those that took are in `job.placed` afterwards."""
        shard_bytes = built.stripe.shard_bytes
        volley = Volley(self._members, put_kind(shard_bytes), job.placed, job.enough)
        placed = len(job.placed)
        self._watch.add(volley)
        try:
            others = [
                shard
                for shard, number in job.assigned.items()
                if not self._begin(job, built, volley, shard, number)
            ]
            if shard_bytes <= LINGER_BYTES and not others and self._linger.worth_it:
                if job.meanwhile is not None and not job.placed:
                    job.meanwhile(self._view(job, built, job.assigned))
                volley.stay(self._linger, job.heeds_rivals)
            missed = [] if others else await volley.misses()
            if len(job.placed) > placed:
                job.progress_s = trio.current_time()
            if missed or others:
                await self._send_again(job, built, volley, missed, others)
        finally:
            self._watch.remove(volley)
            volley.abandon()

    def _begin(
        self, job: Job, built: Built, volley: Volley, shard: int, number: NodeNumber
    ) -> bool:
        member = self._members.get(number)
        if member is None:
            return False
        job.note_try(number, shard)
        key = ShardKey(job.stripe, shard)
        return volley.begin(member, key, built.shards[shard], built.abouts[shard])

    async def _send_again(
        self, job: Job, built: Built, volley: Volley, missed: list[Miss], others: list[int]
    ) -> None:
        """Put the `others`, which the volley could not take, and elsewhere what it misses."""
        async with trio.open_nursery() as nursery:
            for shard in others:
                nursery.start_soon(self._deliver, job, built, shard)
            while missed or (missed := await volley.misses()):
                for miss in missed:
                    self._failed(job, miss.shard, miss.member, miss.error)
                    nursery.start_soon(self._replace, job, built, miss.shard)
                missed = []

    async def _deliver(self, job: Job, built: Built, shard: int) -> None:
        """Put one shard, on other nodes not used yet if its own fails."""
        member = self._members.get(job.assigned[shard])
        if member is None or not await self._put(job, built, shard, member):
            await self._replace(job, built, shard)

    async def _replace(self, job: Job, built: Built, shard: int) -> None:
        """Put a shard that its node did not take on others, until one does or none is left."""
        while True:
            others = [n for s, n in job.assigned.items() if s != shard] + list(job.placed.values())
            used = {*job.tried, *others}
            willing = self._members.writable(job.m)
            pool = candidates(willing, built.stripe.shard_bytes)
            number = substitute(pool, used, self._domains(others), job.m, self._random)
            if number is None:
                return
            job.assigned[shard] = number
            member = self._members.get(number)
            if member is not None and await self._put(job, built, shard, member):
                return

    async def _put(self, job: Job, built: Built, shard: int, member: Member) -> bool:
        """Put one shard on one node; False if that failed or became late."""
        number = member.node.number
        payload = built.shards[shard]
        kind = put_kind(len(payload))
        job.note_try(number, shard)
        begun_s = trio.current_time()
        watched = LatePut(begun_s, self._members.late_after_s(kind), job, member)
        self._watch.add(watched)
        try:
            with watched.scope:
                await member.backend.put(
                    ShardKey(job.stripe, shard), (payload,), built.abouts[shard], durable=True
                )
                self._members.answered(member, kind, trio.current_time() - begun_s)
                job.placed[shard] = number
                job.progress_s = trio.current_time()
                return True
        except (StorageError, InputError) as error:
            self._failed(job, shard, member, error)
            return False
        finally:
            self._watch.remove(watched)
            self._members.took(member, len(payload))
        self._members.late(member, kind, trio.current_time() - begun_s)
        return False

    def _failed(self, job: Job, shard: int, member: Member, error: RainError | None) -> None:
        """Take note of why a node did not take a shard; None says it was late, which is noted."""
        if isinstance(error, ShardConflict | InputError):
            job.refused.add(member.node.number)
            _log.error("node %s refuses a shard: %s", member.node.name, error)
        elif isinstance(error, StorageError):
            self._members.failed(member, error)
            _log.info("shard %d of stripe %x: %s", shard, job.stripe, error)

    # --- Finishing --------------------------------------------------------------------------

    @staticmethod
    def _view(job: Job, built: Built, placed: dict[int, NodeNumber]) -> StripeView:
        nodes = tuple([placed.get(shard, NO_NODE) for shard in range(built.stripe.code.n)])
        return StripeView(job.stripe, built.stripe, Placement(nodes))

    def _clean(self, job: Job, kept: dict[int, NodeNumber]) -> None:
        """Have everything deleted that was tried and is not part of the result."""
        if sum(map(len, job.tried.values())) == len(kept):
            return
        for number, shards in job.tried.items():
            keys = [ShardKey(job.stripe, s) for s in sorted(shards) if kept.get(s) != number]
            member = self._members.get(number)
            if keys and member is not None:
                self._background.spawn(self._delete_leftovers, member, keys)

    async def _delete_leftovers(self, member: Member, keys: list[ShardKey]) -> None:
        try:
            await member.backend.delete(keys)
        except StorageError as error:
            _log.debug("left to garbage collection: %s on %s: %s", keys, member.node.name, error)

    def _pool(self, layout: Layout) -> BufferPool:
        nbytes = pool_buffer_bytes(layout)
        pool = self._pools.get(nbytes)
        if pool is None:
            pool = self._pools[nbytes] = SharedPool(
                self._memory, nbytes, max(1, POOL_BYTES // nbytes)
            )
        return pool
