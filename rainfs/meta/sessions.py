"""Sessions: a mount's lease on the volume, and the ids that come with it.

Owns epochs, stripe ids, the low-water mark and inode ranges.  Invariants: an epoch and an inode
range are durable before any id of theirs is used, so no id is ever used twice, not even after a
power cut took commits back; a session lives as long as its row and its lock do; every commit checks
the row in its own transaction.  A read-only session writes nothing and has epoch 0.
"""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

import trio

from rainfs.errors import MetadataError, ReadOnly, SessionLost, VolumeBusy
from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, SessionLock, Transaction
from rainfs.meta.records import COUNTERS, SESSIONS, SessionRecord
from rainfs.meta.volume import load_volume
from rainfs.model import MAX_COUNTER, MAX_EPOCH, InodeNumber, StripeId, stripe_id

INODE_RANGE = 4_096
"""Inode numbers reserved at a time."""

MAX_SESSIONS = 10_000


class SessionRow(NamedTuple):
    """A session as others see it."""

    epoch: int
    alive: bool
    low_water: StripeId
    mountpoint: str
    pid: int


class Session:
    """One mount's session.  Made by `begin`."""

    def __init__(
        self,
        engine: Engine,
        epoch: int,
        lock: SessionLock | None,
        record: SessionRecord | None,
        name_secret: bytes,
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._record = record
        self._key = keys.session_key(epoch)
        self._next_counter = 0
        self._unsettled: dict[StripeId, None] = {}
        self._inode = 0
        self._inode_stop = 0
        self._inode_lock = trio.Lock()
        self.epoch = epoch
        self.read_only = record is None
        self.name_secret = name_secret

    @classmethod
    async def begin(
        cls, engine: Engine, *, read_only: bool, mountpoint: str, now_ns: int | None = None
    ) -> Session:
        """Open a session.

        Raises: VolumeBusy while another read-write session lives, MetadataForeign,
        MetadataVersion.
        """
        if read_only:
            volume = await engine.read(load_volume)
            return cls(engine, 0, None, None, volume.name_secret)
        lock = engine.lock_session()
        if lock is None:
            raise VolumeBusy(await _who_holds(engine))
        record = SessionRecord(
            low_water=StripeId(0),
            pid=os.getpid(),
            host=socket.gethostname(),
            mountpoint=mountpoint,
            started_ns=time.time_ns() if now_ns is None else now_ns,
        )

        async def body(transaction: Transaction) -> tuple[int, bytes]:
            volume = await load_volume(transaction)
            raw = await transaction.get(keys.NEXT_EPOCH)
            epoch = COUNTERS.decode(raw) if raw is not None else 1
            if epoch > MAX_EPOCH:
                raise MetadataError("the volume has had too many sessions")
            # We hold the lock, so whoever left these rows is dead.
            for letter in (b"A", b"G"):
                for key, _ in await transaction.scan(*keys.table(letter), limit=MAX_SESSIONS):
                    transaction.delete(key)
            transaction.put(keys.NEXT_EPOCH, COUNTERS.encode(epoch + 1))
            transaction.put(keys.session_key(epoch), SESSIONS.encode(record))
            return epoch, volume.name_secret

        try:
            epoch, name_secret = await engine.run(body)
            await engine.durable()
        except BaseException:
            lock.release()
            raise
        return cls(engine, epoch, lock, record, name_secret)

    async def check(self, transaction: Transaction) -> None:
        """Raises: SessionLost if the session is over, ReadOnly if it must not write."""
        if self.read_only:
            raise ReadOnly("the volume is mounted read-only")
        raw = await transaction.get(self._key)
        if raw is None or self._lock is None:
            raise SessionLost(f"session {self.epoch} has been ended")

    def next_stripe(self) -> StripeId:
        """Return a fresh stripe id; it stays above the low-water mark until `settle`."""
        if self.read_only:
            raise ReadOnly("the volume is mounted read-only")
        if self._next_counter > MAX_COUNTER:
            raise MetadataError("the session has written too many stripes; mount again")
        stripe = stripe_id(self.epoch, self._next_counter)
        self._next_counter += 1
        self._unsettled[stripe] = None
        return stripe

    def settle(self, stripe: StripeId) -> None:
        """Say that the stripe is committed or given up: nobody will write it any more."""
        self._unsettled.pop(stripe, None)

    @property
    def low_water(self) -> StripeId:
        """Every stripe of this session below it is settled."""
        for stripe in self._unsettled:  # Ids enter in order, so the first one is the lowest.
            return stripe
        return stripe_id(self.epoch, min(self._next_counter, MAX_COUNTER))

    async def publish(self) -> None:
        """Write the low-water mark where garbage collection reads it.  Raises: SessionLost."""
        low_water = self.low_water
        if self._record is None or self._record.low_water == low_water:
            return
        old = self._record
        record = SessionRecord(low_water, old.pid, old.host, old.mountpoint, old.started_ns)

        async def body(transaction: Transaction) -> None:
            await self.check(transaction)
            transaction.put(self._key, SESSIONS.encode(record))

        await self._engine.run(body)
        self._record = record

    async def next_inode(self) -> InodeNumber:
        """Return an inode number that was never used before.  Raises: SessionLost."""
        while self._inode >= self._inode_stop:
            async with self._inode_lock:
                if self._inode >= self._inode_stop:
                    await self._reserve()
        inode = InodeNumber(self._inode)
        self._inode += 1
        return inode

    async def _reserve(self) -> None:
        async def body(transaction: Transaction) -> int:
            await self.check(transaction)
            raw = await transaction.get(keys.NEXT_INODE)
            if raw is None:
                raise MetadataError("metadata is damaged: no inode counter")
            first = COUNTERS.decode(raw)
            transaction.put(keys.NEXT_INODE, COUNTERS.encode(first + INODE_RANGE))
            return first

        first = await self._engine.run(body)
        await self._engine.durable()
        self._inode, self._inode_stop = first, first + INODE_RANGE

    async def end(self) -> None:
        """End the session; its commits are durable.  The lock goes even if that fails.

        Idempotent.  Raises: MetadataError.
        """
        if self._lock is None:
            return

        async def body(transaction: Transaction) -> None:
            transaction.delete(self._key)

        try:
            await self._engine.run(body)
            await self._engine.durable()
        finally:
            self._lock.release()
            self._lock = None


async def _load_sessions(reader: Reader) -> list[tuple[int, SessionRecord]]:
    rows = await reader.scan(*keys.table(b"A"), limit=MAX_SESSIONS)
    return [(keys.number_of(key), SESSIONS.decode(raw)) for key, raw in rows]


async def list_sessions(engine: Engine) -> list[SessionRow]:
    """Return the sessions that have a row; one left by a dead mount is not alive."""
    # Looked at on both sides of the rows: in doubt a session counts as alive, which keeps garbage
    # collection away from it.
    locked = engine.session_locked()
    rows = await engine.read(_load_sessions)
    locked = locked or engine.session_locked()
    newest = max((epoch for epoch, _ in rows), default=0)
    return [
        SessionRow(
            epoch=epoch,
            alive=locked and epoch == newest,
            low_water=record.low_water,
            mountpoint=record.mountpoint,
            pid=record.pid,
        )
        for epoch, record in rows
    ]


async def _who_holds(engine: Engine) -> str:
    for row in await list_sessions(engine):
        if row.alive:
            return f"the volume is already mounted read-write at {row.mountpoint} (pid {row.pid})"
    return "the volume is already being mounted read-write"
