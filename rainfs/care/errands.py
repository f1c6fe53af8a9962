"""Does for `rainfs gc` what only the process with the session can: compact, and sweep its stores.

Owns the answers that the command shows while it waits.  Refuses to choose what is asked for.  An
errand whose command has gone away is finished all the same; one that the end of the session cuts
short is not called done, and everything it did by then is complete in itself.
"""

from __future__ import annotations

import logging

import trio

from rainfs.array.array import Array
from rainfs.care.caretaker import Caretaker
from rainfs.care.garbage import Collected, Collector
from rainfs.errors import RainError
from rainfs.meta import requests
from rainfs.meta.engine import Engine
from rainfs.meta.records import CareAnswer, CareRequest
from rainfs.meta.sessions import Session

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the metadata is asked for requests: one read."""

SAY_S = 0.25
"""How often progress is written down."""


class Errands:
    """The requests of one session, one after another; `run` until cancelled."""

    def __init__(
        self, engine: Engine, session: Session, array: Array, caretaker: Caretaker
    ) -> None:
        self._engine = engine
        self._session = session
        self._array = array
        self._caretaker = caretaker
        self._latest: tuple[str, int, int] = ("starting", 0, 0)

    async def run(self) -> None:
        """Serve requests as they come."""
        while True:
            try:
                request = await requests.pending(self._engine, self._session)
                if request is not None:
                    await self.serve(request)
            except RainError as error:
                log.warning("a request to collect garbage: %s", error)
            except Exception:
                # Whatever this is, it must not end the mount.
                log.exception("a request to collect garbage")
            await trio.sleep(POLL_S)

    async def serve(self, request: CareRequest) -> None:
        """Do what is asked for, and say how far that is, then that it is done."""
        final = CareAnswer(request.asked_ns, "done", 0, 0, finished=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, request)
            try:
                final = await self._work(request)
            except RainError as error:
                final = CareAnswer(
                    request.asked_ns, "stopped", 0, 0, finished=True, error=str(error)
                )
            nursery.cancel_scope.cancel()
        await requests.answer(self._engine, self._session, final)

    async def _work(self, request: CareRequest) -> CareAnswer:
        done = await self._caretaker.at_once(self._progress)
        swept = Collected()
        numbers = [status.node.number for status in self._array.health()]
        nodes = {number: self._array.backend(number) for number in numbers}
        backends = {number: backend for number, backend in nodes.items() if backend is not None}
        if request.sweep:
            await self._session.publish()
            swept = await Collector(
                self._engine,
                backends,
                ended_epoch=0,
                sweep=[number for number in request.sweep if number in backends],
                progress=lambda seen, expected: self._progress("shards", seen, expected),
            ).run()
        return CareAnswer(
            request.asked_ns,
            "done",
            0,
            0,
            finished=True,
            stripes_rewritten=done.stripes,
            bytes_rewritten=done.copied_bytes,
            shards_seen=swept.shards_seen,
            shards_deleted=swept.shards_deleted,
            bytes_deleted=swept.bytes_deleted,
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        self._latest = (stage, done, total)

    async def _tell(self, request: CareRequest) -> None:
        while True:
            said = CareAnswer(request.asked_ns, *self._latest)
            await requests.answer(self._engine, self._session, said)
            await trio.sleep(SAY_S)
