"""Which stripes are worth rewriting, from what was seen of them.  Pure, bounded, in memory.

Owns the two reasons to rewrite a stripe: it is mostly dead, or it is a small mirrored one that can
be folded into a coded one.  Refuses to read anything: a survey says what it saw, and what is chosen
from it may be out of date, which the rewriting finds out.

Invariants: what is chosen leaves the set; nothing is chosen again within RETRY_S, so that a stripe
that cannot be rewritten costs next to nothing; at most MAX_CANDIDATES of each kind are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rainfs.meta.records import StripeState
from rainfs.model import CodeKind, Layout, StripeId

DEAD_BELOW = 0.5
"""A stripe of which less than this share is live is mostly dead."""

PATIENCE_S = 30.0
"""How long little garbage waits for more, so that few stripes are written for it."""

WORTH_PARTS = 4
"""Garbage of a full stripe's bytes, divided by this, is worth a stripe at once."""

FOLD_AGE_S = 10.0
"""A small stripe younger than this may be about to be overwritten: it is left alone."""

FOLD_WAIT_S = 120.0
"""Small stripes this old are folded though they fill no good part of a stripe."""

FOLD_LEAST_PARTS = 16
"""But not less than this part of a full stripe, unless at once, and never so little that it would
come out as a mirror again."""

GROUP_STRIPES = 1_024
"""Stripes rewritten together."""

MAX_CANDIDATES = 50_000
RETRY_S = 600.0
MAX_TRIED = 50_000


class Choice(NamedTuple):
    """Stripes to be rewritten together."""

    stripes: list[StripeId]
    live_bytes: int
    """What is to be copied, as last seen."""


@dataclass(slots=True)
class _Candidate:
    live_bytes: int
    born_bytes: int
    since_s: float


class Candidates:
    """What a survey has found."""

    def __init__(self, layout: Layout, *, dead_below: float = DEAD_BELOW) -> None:
        self._layout = layout
        self._dead_below = dead_below
        self._dead: dict[StripeId, _Candidate] = {}
        self._small: dict[StripeId, _Candidate] = {}
        self._tried: dict[StripeId, float] = {}
        coded = layout.code.kind is not CodeKind.MIRROR and layout.code.k > 1
        self._mirror_nodes = layout.code.m + 1 if coded else 0
        """Stripes on no more nodes than that are mirrors, in a layout that is not."""

    def saw(self, stripe: StripeId, state: StripeState, since_s: float) -> None:
        """Take in the row of a stripe; `since_s` is when it was there for sure."""
        dead = self._dead.get(stripe)
        if state.live_bytes < self._dead_below * state.born_bytes:
            small = self._small.pop(stripe, None)
            if dead is not None:
                dead.live_bytes = state.live_bytes
            elif len(self._dead) < MAX_CANDIDATES and stripe not in self._tried:
                if small is not None:
                    since_s = small.since_s
                self._dead[stripe] = _Candidate(state.live_bytes, state.born_bytes, since_s)
        elif len(state.nodes) <= self._mirror_nodes:
            small = self._small.get(stripe)
            if small is not None:
                small.live_bytes = state.live_bytes
            elif len(self._small) < MAX_CANDIDATES and stripe not in self._tried:
                self._small[stripe] = _Candidate(state.live_bytes, state.born_bytes, since_s)

    @property
    def live_bytes(self) -> int:
        """What rewriting all of them would copy."""
        some = (*self._dead.values(), *self._small.values())
        return sum(candidate.live_bytes for candidate in some)

    def choose(self, now_s: float, *, at_once: bool, foldable: bool) -> Choice | None:
        """Return the next stripes to rewrite, the emptiest first, or None.

        `at_once` waits for nothing; `foldable` says that nodes enough for a coded stripe are up.
        """
        if self._tried:
            self._tried = {s: until for s, until in self._tried.items() if until > now_s}
        return self._choose_dead(now_s, at_once) or (
            self._choose_small(now_s, at_once) if foldable else None
        )

    def _choose_dead(self, now_s: float, at_once: bool) -> Choice | None:
        if not self._dead:
            return None
        garbage = sum(c.born_bytes - c.live_bytes for c in self._dead.values())
        waited_s = now_s - min(c.since_s for c in self._dead.values())
        enough = garbage * WORTH_PARTS >= self._layout.stripe_bytes
        if not (at_once or enough or waited_s >= PATIENCE_S):
            return None
        emptiest = sorted(self._dead, key=lambda s: self._dead[s].live_bytes)
        return self._take(self._dead, emptiest, now_s)

    def _choose_small(self, now_s: float, at_once: bool) -> Choice | None:
        age_s = 0.0 if at_once else FOLD_AGE_S
        ripe = [s for s, c in self._small.items() if now_s - c.since_s >= age_s]
        live_bytes = sum(self._small[stripe].live_bytes for stripe in ripe)
        stripe_bytes = self._layout.stripe_bytes
        oldest_s = max((now_s - self._small[s].since_s for s in ripe), default=0.0)
        many = 2 * live_bytes >= stripe_bytes or 2 * len(ripe) >= GROUP_STRIPES
        old = oldest_s >= FOLD_WAIT_S or at_once
        least = self._layout.small_bytes + 1
        if not at_once:
            least = max(least, stripe_bytes // FOLD_LEAST_PARTS)
        if len(ripe) < 2 or not (many or old) or live_bytes < least:
            return None
        return self._take(self._small, ripe, now_s)

    def _take(
        self, among: dict[StripeId, _Candidate], order: Iterable[StripeId], now_s: float
    ) -> Choice:
        """Take what makes about one full stripe."""
        chosen: list[StripeId] = []
        live_bytes = 0
        for stripe in order:
            more = among[stripe].live_bytes
            if chosen and live_bytes + more > self._layout.stripe_bytes:
                break
            chosen.append(stripe)
            live_bytes += more
            if len(chosen) == GROUP_STRIPES:
                break
        for stripe in chosen:
            del among[stripe]
            if len(self._tried) < MAX_TRIED:
                self._tried[stripe] = now_s + RETRY_S
        return Choice(chosen, live_bytes)
