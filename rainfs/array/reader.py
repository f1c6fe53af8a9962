"""Reads decoded blocks: from the cache, from a fetch under way, or from shards.

Owns which ranges of shards a read needs, their coalescing, the check of every whole block against
its end-to-end checksum, and the fetches under way, so that one block is fetched once however many
want it.  Refuses to know how ranges are got (`fetch`) and when to read ahead (the caller).

Invariants: a block enters the cache only after its checksum held; a part of an uncompressed block
is got alone and not cached; prefetches hold at most MAX_PREFETCH_BYTES at any time and are dropped
rather than queued.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from typing import NamedTuple

import trio

from rainfs.array.backend import Buffer
from rainfs.array.background import Background
from rainfs.array.cache import BlockCache, BlockKey
from rainfs.array.compress import decompress
from rainfs.array.fetch import Fetcher, Run, Source
from rainfs.array.values import Refresh, Wanted
from rainfs.checksum import crc32c
from rainfs.errors import (
    ArrayError,
    ArrayUnavailable,
    InputError,
    RainError,
    ShardCorrupt,
    StorageError,
    StripeLost,
)
from rainfs.model import KIB, MIB, Block, CodeKind, Compression, StripeId, StripeView

COALESCE_GAP_BYTES = 16 * KIB
"""Two ranges of a shard this close are got in one call."""

SMALL_BLOCK_BYTES = 16 * KIB
"""Whole blocks up to this long, small files above all, take the short way of parts of blocks."""

MAX_PREFETCH_BYTES = 48 * MIB

INLINE_DECODE_BYTES = 256 * KIB
"""More compressed blocks' bytes than this are decompressed in a worker thread."""

DECODE_THREADS = 2

GAVE_UP_S = 1.0
"""For so long after a stripe could not be read in time, reads of it fail at once: the kernel asks
again for the pages of a read-ahead that failed, and a caller waits one deadline, not two."""
MAX_GAVE_UP = 1_000

DISTRUST_ATTEMPT_S = 1.0
DISTRUST_PAUSE_S = 0.25
MAX_DISTRUST_ATTEMPTS = 64
"""Sets of shards that are left out in turn to find one that decodes to the right bytes."""

_log = logging.getLogger(__name__)


class _Flight:
    """A fetch of whole blocks under way."""

    __slots__ = ("blocks", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.blocks: dict[int, Buffer] = {}
        self.error: ArrayError | None = None
        """Set when whoever waits should fail as well; otherwise they fetch themselves."""


class _Job(NamedTuple):
    """A whole block to be checked and decompressed."""

    run: int
    number: int
    block: Block
    stored: memoryview


class Reader:
    """Reads blocks of any stripe; any number of reads at once."""

    def __init__(
        self, fetcher: Fetcher, cache: BlockCache, background: Background, deadline_s: float
    ) -> None:
        self._fetcher = fetcher
        self._cache = cache
        self._background = background
        self._deadline_s = deadline_s
        self._flights: dict[BlockKey, _Flight] = {}
        self._prefetching_bytes = 0
        self._threads = trio.CapacityLimiter(DECODE_THREADS)
        self._gave_up: dict[StripeId, float] = {}

    async def read(
        self, view: StripeView, wanted: Sequence[Wanted], refresh: Refresh
    ) -> list[Buffer]:
        """Return the runs; see `Array.read`."""
        now_s = trio.current_time()
        if self._gave_up and now_s < self._gave_up.get(view.id, 0.0) + GAVE_UP_S:
            raise ArrayUnavailable(f"stripe {view.id:x} could not be read a moment ago")
        try:
            if len(wanted) == 1:
                data = await self._read_one(view, wanted[0])
                if data is not None:
                    return [data]
            with trio.move_on_at(now_s + self._deadline_s):
                return await self._read(view, wanted, refresh)
            raise ArrayUnavailable(
                f"stripe {view.id:x} could not be read within {self._deadline_s:g} s"
            )
        except ArrayUnavailable:
            self._give_up(view.id)
            raise

    def _give_up(self, stripe: StripeId) -> None:
        if len(self._gave_up) >= MAX_GAVE_UP:
            self._gave_up.clear()
        self._gave_up[stripe] = trio.current_time()

    def holds(self, stripe: StripeId, block: int) -> bool:
        """Whether a block is in the cache, or on its way there."""
        return self._cache.has(stripe, block) or (stripe, block) in self._flights

    def prefetch(
        self,
        view: StripeView,
        blocks: Sequence[int],
        refresh: Refresh,
        landed: Callable[[int, float], None] | None = None,
    ) -> None:
        """Fetch whole blocks in the background; see `Array.prefetch`."""
        table = view.stripe.blocks
        flight = _Flight()
        chosen: list[int] = []
        nbytes = 0
        for index in blocks:
            if self._cache.has(view.id, index) or (view.id, index) in self._flights:
                continue
            block = table[index]
            held = max(block.stored, block.length)
            if self._prefetching_bytes + nbytes + held > MAX_PREFETCH_BYTES:
                break
            nbytes += held
            chosen.append(index)
        if not chosen:
            return
        self._prefetching_bytes += nbytes
        for index in chosen:
            self._flights[view.id, index] = flight
        self._background.spawn(self._prefetch, view, chosen, refresh, flight, nbytes, landed)

    async def _prefetch(
        self,
        view: StripeView,
        chosen: list[int],
        refresh: Refresh,
        flight: _Flight,
        nbytes: int,
        landed: Callable[[int, float], None] | None,
    ) -> None:
        began_s = trio.current_time()
        try:
            with trio.move_on_after(self._deadline_s):
                source = Source(view, refresh)
                runs, owners = _coalesced([(_whole(view, i), i) for i in chosen])
                payloads = await self._fetcher.fetch(source, runs)
                await self._decode(source, runs, owners, payloads, flight)
                if landed is not None:
                    landed(sum(run.stop - run.start for run in runs), trio.current_time() - began_s)
        except RainError as error:
            _log.debug("prefetch of stripe %x: %s", view.id, error)
        finally:
            self._prefetching_bytes -= nbytes
            self._land(view, chosen, flight)

    # --- Reading ----------------------------------------------------------------------------

    async def _read_one(self, view: StripeView, want: Wanted) -> Buffer | None:
        """The most frequent read, of a few pages, without the machinery for the rest.

        None: `_read` has to do it.
        """
        index = want.block
        held = self._cache.get(view.id, index)
        block = _block(view, want)
        if held is not None:
            return _cut(held, want)
        if (view.id, index) in self._flights:
            return None
        if block.compression is not Compression.NONE:
            return None
        if want.length < block.length:
            start = block.shard_offset + want.offset
            return await self._fetcher.quick(view, Run(block.shard, start, start + want.length))
        if block.stored > SMALL_BLOCK_BYTES:
            return None
        flight = _Flight()
        self._flights[view.id, index] = flight
        try:
            data = await self._fetcher.quick(view, _whole(view, index))
            if data is None or crc32c(data) != block.crc32c:
                return None
            flight.blocks[index] = data
            self._cache.put(view.id, {index: data}, len(data))
            return data
        finally:
            self._land(view, (index,), flight)

    async def _read(
        self, view: StripeView, wanted: Sequence[Wanted], refresh: Refresh
    ) -> list[Buffer]:
        results: list[Buffer] = [b""] * len(wanted)
        parts: list[tuple[Run, int]] = []
        whole: dict[int, list[int]] = {}
        joined: list[tuple[int, _Flight]] = []
        for i, (want, block) in enumerate(zip(wanted, _blocks(view, wanted), strict=True)):
            held = self._cache.get(view.id, want.block)
            if held is not None:
                results[i] = _cut(held, want)
            elif want.block in whole:
                whole[want.block].append(i)
            elif (flight := self._flights.get((view.id, want.block))) is not None:
                joined.append((i, flight))
            elif _partial(block, want):
                start = block.shard_offset + want.offset
                parts.append((Run(block.shard, start, start + want.length), i))
            else:
                whole[want.block] = [i]
        if parts or whole:
            await self._fetch(Source(view, refresh), wanted, parts, whole, results)
        for i, flight in joined:
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            data = flight.blocks.get(wanted[i].block)
            if data is None:
                # That fetch was given up for reasons of its own.
                (results[i],) = await self._read(view, [wanted[i]], refresh)
            else:
                results[i] = _cut(data, wanted[i])
        return results

    async def _fetch(
        self,
        source: Source,
        wanted: Sequence[Wanted],
        parts: list[tuple[Run, int]],
        whole: dict[int, list[int]],
        results: list[Buffer],
    ) -> None:
        """Fetch parts and whole blocks together, and put what came into `results`."""
        if not whole and len(parts) == 1:
            run, i = parts[0]
            (results[i],) = await self._fetcher.fetch(source, (run,))
            return
        flight = _Flight()
        view = source.view
        for index in whole:
            self._flights[view.id, index] = flight
        try:
            # Owners: blocks are their index, parts the complement of theirs among the wanted.
            items = [(_whole(view, index), index) for index in whole]
            items += [(run, ~i) for run, i in parts]
            runs, owners = _coalesced(items)
            payloads = await self._fetcher.fetch(source, runs)
            await self._decode(source, runs, owners, payloads, flight)
        except ArrayError as error:
            flight.error = error
            raise
        finally:
            self._land(view, whole, flight)
        for run, held, payload in zip(runs, owners, payloads, strict=True):
            for part, owner in held:
                if owner < 0:
                    results[~owner] = payload[part.start - run.start : part.stop - run.start]
        for index, asking in whole.items():
            for i in asking:
                results[i] = _cut(flight.blocks[index], wanted[i])

    def _land(
        self, view: StripeView, blocks: Sequence[int] | dict[int, list[int]], flight: _Flight
    ) -> None:
        for index in blocks:
            self._flights.pop((view.id, index), None)
        flight.done.set()

    # --- Decoding ---------------------------------------------------------------------------

    async def _decode(
        self,
        source: Source,
        runs: Sequence[Run],
        owners: Sequence[Sequence[tuple[Run, int]]],
        payloads: Sequence[memoryview],
        flight: _Flight,
    ) -> None:
        """Check and decompress the whole blocks of the runs into `flight` and the cache."""
        view = source.view
        table = view.stripe.blocks
        jobs: list[_Job] = []
        packed = 0
        for i, (run, held, payload) in enumerate(zip(runs, owners, payloads, strict=True)):
            for part, index in held:
                if index >= 0:
                    block = table[index]
                    stored = payload[part.start - run.start : part.stop - run.start]
                    jobs.append(_Job(i, index, block, stored))
                    if block.compression is not Compression.NONE:
                        packed += block.length
        if packed > INLINE_DECODE_BYTES:
            decoded = await trio.to_thread.run_sync(_decode_all, jobs, limiter=self._threads)
        else:
            decoded = _decode_all(jobs)
        # Blocks that lie in the memory of their run are held, and let go, together.
        raw: dict[int, dict[int, Buffer]] = {}
        for job, data in zip(jobs, decoded, strict=True):
            if data is job.stored:
                flight.blocks[job.number] = data
                raw.setdefault(job.run, {})[job.number] = data
                continue
            if data is None:
                _log.warning("stripe %x: block %d is not what was written", view.id, job.number)
                data = await self._distrusted(source, job.number)
            flight.blocks[job.number] = data
            self._cache.put(view.id, {job.number: data}, len(data))
        for i, blocks in raw.items():
            self._cache.put(view.id, blocks, len(payloads[i]))

    async def _distrusted(self, source: Source, index: int) -> Buffer:
        """Return a block whose own shard verified at its node but holds something else.

        Tries what the other shards say, then leaves out further ones as well, in all combinations
        that the code allows (up to MAX_DISTRUST_ATTEMPTS).
        """
        await source.renew()
        view = source.view
        block = view.stripe.blocks[index]
        run = _whole(view, index)
        silent = True
        while silent:
            silent = False
            for gone in islice(_exclusions(view, run.shard), MAX_DISTRUST_ATTEMPTS):
                try:
                    with trio.fail_after(DISTRUST_ATTEMPT_S):
                        found = await self._fetcher.attempt(view, run, gone)
                    return _decoded(block, found)
                except ShardCorrupt as error:
                    _log.warning("stripe %x without %s: %s", view.id, sorted(gone), error)
                except StripeLost:
                    pass  # Not enough without these, whatever the nodes do.
                except (StorageError, trio.TooSlowError):
                    silent = True  # Some node may still return with the right bytes.
            if silent:
                await trio.sleep(DISTRUST_PAUSE_S)
        raise StripeLost(f"stripe {view.id:x}: block {index} matches its checksum nowhere")


def _exclusions(view: StripeView, shard: int) -> Iterator[set[int]]:
    """Yield the sets of shards to leave out when `shard` cannot be believed."""
    code = view.stripe.code
    shards = set(range(code.n))
    if code.kind is CodeKind.MIRROR:
        for copy in sorted(shards):
            yield shards - {copy}
        return
    others = sorted(shards - {shard})
    for count in range(code.m):
        for further in combinations(others, count):
            yield {shard, *further}


def _block(view: StripeView, want: Wanted) -> Block:
    table = view.stripe.blocks
    if not 0 <= want.block < len(table):
        raise InputError(f"stripe {view.id:x} has no block {want.block}")
    block = table[want.block]
    if want.offset < 0 or want.length < 0 or want.offset + want.length > block.length:
        raise InputError(f"stripe {view.id:x}: bytes beyond block {want.block}")
    return block


def _blocks(view: StripeView, wanted: Sequence[Wanted]) -> list[Block]:
    return [_block(view, want) for want in wanted]


def _partial(block: Block, want: Wanted) -> bool:
    """Whether only some of a block's stored bytes are needed."""
    return block.compression is Compression.NONE and want.length < block.length


def _whole(view: StripeView, index: int) -> Run:
    block = view.stripe.blocks[index]
    return Run(block.shard, block.shard_offset, block.shard_offset + block.stored)


def _cut(data: Buffer, want: Wanted) -> Buffer:
    if want.length == len(data):
        return data
    return memoryview(data)[want.offset : want.offset + want.length]


def _decoded(block: Block, stored: memoryview) -> Buffer:
    """Return the block's bytes.  Raises: ShardCorrupt if they are not what was written."""
    data: Buffer = stored
    if block.compression is not Compression.NONE:
        data = decompress(stored, block.length)
    if crc32c(data) != block.crc32c:
        raise ShardCorrupt("a block does not match its checksum")
    return data


def _decode_all(jobs: Sequence[_Job]) -> list[Buffer | None]:
    """Return every block's bytes, None for those that are not what was written."""
    decoded: list[Buffer | None] = []
    for job in jobs:
        try:
            decoded.append(_decoded(job.block, job.stored))
        except ShardCorrupt:
            decoded.append(None)
    return decoded


def _coalesced(
    items: Sequence[tuple[Run, int]],
) -> tuple[list[Run], list[list[tuple[Run, int]]]]:
    """Join ranges that lie close together; return the joined runs and what each is made of."""
    runs: list[Run] = []
    owners: list[list[tuple[Run, int]]] = []
    for item in sorted(items):
        shard, start, stop = item[0]
        if runs and runs[-1].shard == shard and start - runs[-1].stop <= COALESCE_GAP_BYTES:
            runs[-1] = Run(shard, runs[-1].start, max(stop, runs[-1].stop))
            owners[-1].append(item)
        else:
            runs.append(Run(shard, start, stop))
            owners.append([item])
    return runs, owners
