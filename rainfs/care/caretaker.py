"""Keeps a volume compact while its session lives, and at once when asked to.

Owns the rhythm: a survey a second, one group of stripes or one fragmented range at a time, requests
of `rainfs gc` before everything else.  Refuses to know mounts: it is given an engine, a session,
an array and the clients that it steps aside for, so that any process with a session can run one.
A failure is logged and tried again later; it is never the end of the mount.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from rainfs.array.array import Array
from rainfs.care.candidates import DEAD_BELOW, Candidates
from rainfs.care.compaction import Compactor, Rewritten
from rainfs.care.fragments import Fragments
from rainfs.care.pace import Clients, Pace
from rainfs.care.survey import Survey
from rainfs.errors import RainError, SessionLost
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import Session
from rainfs.model import MIB, Layout, NodeState

log = logging.getLogger(__name__)

ROUND_S = 1.0
TROUBLE_S = 15.0
"""Pause after the array or the metadata refused something."""

PRESSING_SHARE = 0.4
"""From this share of garbage on, clients are not waited for."""

FRAGMENT_PAGES = 4
"""Pages of extents looked at in a round."""

FRAGMENTS_REST_S = 30.0
"""Pause between two scans of all extents."""

DEFAULT_BYTES_PER_S = 32 * MIB


@dataclass(frozen=True, slots=True)
class CareOptions:
    """What a mount may choose."""

    bytes_per_s: float = DEFAULT_BYTES_PER_S
    """File bytes rewritten in a second; 0 does nothing unless asked."""
    dead_below: float = DEAD_BELOW


Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); a total of 0 is not known yet."""


class Caretaker:
    """The compaction of one volume; `run` until cancelled, `stop` at the end."""

    def __init__(
        self,
        engine: Engine,
        session: Session,
        array: Array,
        layout: Layout,
        clients: Clients,
        options: CareOptions,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._array = array
        self._layout = layout
        self._options = options
        self._now_ns = now_ns
        self._compactor = Compactor(engine, session, array, clients)
        self._candidates = Candidates(layout, dead_below=options.dead_below)
        self._survey = Survey(engine, session, self._candidates)
        self._fragments = Fragments(engine, layout.stripe_bytes)
        self._pace = Pace(clients, options.bytes_per_s)
        self._fragments_after_s = float("-inf")
        self._busy = trio.Lock()
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False
        self.total = Rewritten()

    async def run(self) -> None:
        """Compact in the background until `stop`."""
        if not self._options.bytes_per_s:
            return
        with self._until_stopped():
            while True:
                pause_s = ROUND_S
                try:
                    async with self._busy:
                        if await self.round():
                            pause_s = 0.0
                except RainError as error:
                    log.info("compaction pauses: %s", error)
                    pause_s = TROUBLE_S
                except Exception:
                    # Whatever this is, it must not end the mount; nothing was lost.
                    log.exception("compaction")
                    pause_s = TROUBLE_S
                await trio.sleep(pause_s)

    def stop(self) -> None:
        """Give up what is under way; whatever was not moved stays where it was."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def _until_stopped(self) -> Iterator[trio.CancelScope]:
        with trio.CancelScope() as scope:
            if self._stopped:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    async def round(self) -> bool:
        """Survey, then rewrite one group or one range; whether there was one."""
        await self._survey.round()
        now_s = trio.current_time()
        choice = self._candidates.choose(now_s, at_once=False, foldable=self._foldable())
        if choice is not None:
            self.total += await self._compactor.rewrite(choice.stripes, self._turn)
            return True
        if now_s >= self._fragments_after_s:
            for _ in range(FRAGMENT_PAGES):
                if await self._fragments.scan_page():
                    self._fragments_after_s = now_s + FRAGMENTS_REST_S
                    break
        runs = await self._fragments.next_due(now_s, self._now_ns(), at_once=False)
        if runs:
            self.total += await self._compactor.rewrite_runs(runs, self._turn)
        return bool(runs)

    async def at_once(self, progress: Progress) -> Rewritten:
        """Rewrite everything that is worth it, waiting for nobody.

        Raises: ArrayError, MetadataError where that stops it, SessionLost after `stop`; what was
        done is done.
        """
        done = Rewritten()
        with self._until_stopped() as scope:
            async with self._busy:
                done += await self._all_fragments(progress)
                await self._survey.all()
                done += await self._all_candidates(progress)
        self.total += done
        if scope.cancelled_caught:
            raise SessionLost("compaction was given up: the session ends")
        return done

    async def _all_fragments(self, progress: Progress) -> Rewritten:
        done = Rewritten()
        pages = 0
        self._fragments.restart()
        while not await self._fragments.scan_page():
            pages += 1
            progress("looking at extents", pages, 0)
        total = len(self._fragments.due)
        while runs := await self._fragments.next_due(
            trio.current_time(), self._now_ns(), at_once=True
        ):
            done += await self._compactor.rewrite_runs(runs, _no_wait)
            progress("ranges in many pieces", total - len(self._fragments.due), total)
        return done

    async def _all_candidates(self, progress: Progress) -> Rewritten:
        done = Rewritten()
        total = self._candidates.live_bytes
        copied = 0
        while choice := self._candidates.choose(
            trio.current_time(), at_once=True, foldable=self._foldable()
        ):
            done += await self._compactor.rewrite(choice.stripes, _no_wait)
            copied += choice.live_bytes
            progress("bytes to compact", min(copied, total), total)
        return done

    async def _turn(self, nbytes: int) -> None:
        await self._pace.turn(nbytes, lambda: self._survey.garbage_share >= PRESSING_SHARE)

    def _foldable(self) -> bool:
        """Whether nodes enough for more than a mirror are up."""
        up = sum(status.state is NodeState.UP for status in self._array.health())
        return up > self._layout.code.m + 1


async def _no_wait(nbytes: int) -> None:
    await trio.lowlevel.checkpoint()
