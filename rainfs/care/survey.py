"""Looks at all stripes again and again, a few thousand rows at a time, for what is worth rewriting.

Owns how far the look has come.  New stripes are seen within a round; a whole cycle over a million
stripes takes minutes and a hundredth of a processor.  Only the small rows are read.  Refuses to
judge: that is `candidates`.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from rainfs.care.candidates import Candidates
from rainfs.meta.engine import Engine
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import scan_states
from rainfs.model import StripeId, epoch_of

PAGE_ROWS = 500
ROWS_PER_ROUND = 4_000
"""Rows of new stripes, and as many of all stripes, in one round."""

REST_S = 10.0
"""Pause between two cycles over all stripes."""

UNKNOWN_AGE_S = 3600.0
"""Age given to stripes of earlier sessions."""


class Survey:
    """One walk over the stripes of a volume, for as long as its session lives."""

    def __init__(self, engine: Engine, session: Session, candidates: Candidates) -> None:
        self._engine = engine
        self._session = session
        self._candidates = candidates
        self._newest: StripeId | None = None
        self._at: StripeId | None = None
        self._rest_until_s = float("-inf")
        self._counting = [0, 0]
        self.live_bytes = 0
        self.born_bytes = 0
        """Sums over all stripes when they were last counted."""

    @property
    def garbage_share(self) -> float:
        """The share of what stripes held at birth that no file needs any more."""
        return 1 - self.live_bytes / self.born_bytes if self.born_bytes else 0.0

    async def round(self) -> None:
        """Look at new stripes, and go on with the cycle over all of them."""
        self._newest = await self._walk(self._newest, ROWS_PER_ROUND) or self._newest
        if trio.current_time() < self._rest_until_s:
            return
        last = await self._walk(self._at, ROWS_PER_ROUND, count=True)
        self._at = last
        if last is None:
            self._end_cycle()

    async def all(self, step: Callable[[int], None] = lambda rows: None) -> None:
        """Look at every stripe now; `step` is told how many more rows were seen."""
        self._at, self._counting = None, [0, 0]
        while (last := await self._walk(self._at, PAGE_ROWS, count=True)) is not None:
            self._at = last
            step(PAGE_ROWS)
        self._end_cycle()

    def _end_cycle(self) -> None:
        self._at = None
        self.live_bytes, self.born_bytes = self._counting
        self._counting = [0, 0]
        self._rest_until_s = trio.current_time() + REST_S

    async def _walk(
        self, after: StripeId | None, rows: int, *, count: bool = False
    ) -> StripeId | None:
        """Look at `rows` stripes above `after`; returns the last one, None if there are no more."""
        last: StripeId | None = None
        for _ in range(0, rows, PAGE_ROWS):
            page = await scan_states(self._engine, after, self._session.low_water, PAGE_ROWS)
            now_s = trio.current_time()
            for stripe, state in page:
                own = epoch_of(stripe) == self._session.epoch
                self._candidates.saw(stripe, state, now_s if own else now_s - UNKNOWN_AGE_S)
                if count:
                    self._counting[0] += state.live_bytes
                    self._counting[1] += state.born_bytes
            if page:
                after = last = page[-1][0]
            await trio.lowlevel.checkpoint()
            if len(page) < PAGE_ROWS:
                break
        return last
