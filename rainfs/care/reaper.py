"""Gives the space of dead stripes back to the nodes while a mount runs.

Owns the rhythm: which tombstones are due, and how long one is left alone after a node did not
answer.  Also publishes the session's low-water mark, from which garbage collection takes its limit.
A failure is logged and tried again; it is never the end of the mount.
"""

from __future__ import annotations

import logging

import trio

from rainfs.array.array import Array
from rainfs.care.tombstones import bury
from rainfs.errors import RainError
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import tombstones
from rainfs.model import StripeId

log = logging.getLogger(__name__)

ROUND_S = 2.0
"""Time between two looks at the tombstones, when the last look found less than a batch."""

PUBLISH_S = 10.0
"""Time between two publications of the low-water mark."""

BATCH_STRIPES = 512
"""Tombstones taken in one round of deletes."""

RETRY_S = 30.0
"""How long a stripe with an unreachable node is left alone."""

MAX_POSTPONED = 50_000
"""Stripes that wait for unreachable nodes and are remembered here; later ones wait behind them."""


class Reaper:
    """The background task of one read-write mount; `run` until cancelled, `stop` at the end."""

    def __init__(self, engine: Engine, session: Session, array: Array) -> None:
        self._engine = engine
        self._session = session
        self._array = array
        self._not_before: dict[StripeId, float] = {}
        self._published_at: float | None = None
        self._busy = trio.Lock()
        self._stopped = False

    async def run(self) -> None:
        """Reap until `stop`."""
        while not self._stopped:
            taken = 0
            try:
                taken = await self.round()
            except RainError as error:
                log.warning("reaper: %s", error)
            except Exception:
                # Whatever this is, it must not end the mount; the tombstones are still there.
                log.exception("reaper")
            if taken < BATCH_STRIPES:
                await trio.sleep(ROUND_S)

    async def stop(self) -> None:
        """Finish the round that runs; after this nothing is deleted any more."""
        self._stopped = True
        async with self._busy:
            await self._session.publish()

    async def round(self) -> int:
        """Take one batch of tombstones; return how many stripes are gone from all nodes."""
        async with self._busy:
            if self._stopped:
                return 0
            now = trio.current_time()
            if self._published_at is None or now - self._published_at >= PUBLISH_S:
                await self._session.publish()
                self._published_at = now
            waiting = min(len(self._not_before), MAX_POSTPONED)
            due = [
                (stripe, placement)
                for stripe, placement in await tombstones(self._engine, BATCH_STRIPES + waiting)
                if self._not_before.get(stripe, now) <= now
            ][:BATCH_STRIPES]
            if not due:
                return 0
            for stripe, _ in due:
                self._array.forget(stripe)
            gone, _ = await bury(self._engine, self._array.backend, due)
            for stripe, _ in due:
                self._not_before[stripe] = now + RETRY_S
            for stripe in gone:
                del self._not_before[stripe]
            return len(gone)
