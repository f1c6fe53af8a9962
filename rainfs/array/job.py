"""One stripe on its way to the nodes: what was tried, what is placed, when a put is given up.

Owns the notes that `writer` keeps of a write, and the rule that a node which may hold the stripe in
another geometry gets nothing more of it.  Refuses to choose nodes and to send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from rainfs.array.building import Built, check_pieces
from rainfs.array.late import Watched
from rainfs.array.members import Member
from rainfs.array.values import Piece
from rainfs.array.volley import LATE_AGAIN_S, PATIENT_PUT_S, is_hopeless
from rainfs.model import Code, Layout, NodeNumber, StripeId, StripeView


class Job:
    """One stripe on its way."""

    def __init__(self, stripe: StripeId, pieces: Sequence[Piece], layout: Layout) -> None:
        self.stripe = stripe
        self.meanwhile: Callable[[StripeView], None] | None = None
        self.heeds_rivals = True
        self.pieces = pieces
        self.layout = layout
        self.m = layout.code.m
        self.total = check_pieces(pieces, layout)
        self.begun_s = self.progress_s = trio.current_time()
        self.full_since_s: float | None = None
        """When no room was found first."""
        self.built: Built | None = None
        self.placed: dict[int, NodeNumber] = {}
        """Shards of `built` that are durable, and where."""
        self.assigned: dict[int, NodeNumber] = {}
        """Where the shards not placed yet are being sent."""
        self.wanted = 0
        """How many shards are to be placed in all."""
        self.tried: dict[NodeNumber, set[int]] = {}
        """Shards that a node may hold, of whatever geometry."""
        self.taint: dict[NodeNumber, Code] = {}
        """The geometry of what a node may hold."""
        self.refused: set[NodeNumber] = set()
        """Nodes that will not take this stripe, however often they are asked."""

    @property
    def enough(self) -> int:
        """How many placed shards make the rest worth less waiting."""
        return max(1, self.wanted - self.m)

    def note_try(self, number: NodeNumber, shard: int) -> None:
        """The node may hold the shard from now on."""
        assert self.built is not None
        self.tried.setdefault(number, set()).add(shard)
        self.taint[number] = self.built.stripe.code

    def may_use(self, number: NodeNumber) -> bool:
        """Whether no content under this id in another geometry may lie on the node."""
        if number in self.refused:
            return False
        code = self.taint.get(number)
        return code is None or (self.built is not None and code == self.built.stripe.code)


class LatePut(Watched):
    """Gives up a put that is late, once that helps the stripe."""

    __slots__ = ("_job", "_member", "_patient_until_s", "scope")

    def __init__(self, begun_s: float, late_after_s: float, job: Job, member: Member) -> None:
        super().__init__(begun_s + late_after_s)
        self._patient_until_s = begun_s + max(PATIENT_PUT_S, late_after_s)
        self.scope = trio.CancelScope()
        self._job = job
        self._member = member

    def act(self) -> float | None:
        """Cancel the put, unless its node answers and all are as slow: then wait for most."""
        job = self._job
        now_s = trio.current_time()
        placed = len(job.placed)
        if is_hopeless(self._member.up, placed, job.enough, now_s, self._patient_until_s):
            self.scope.cancel()
            return None
        return now_s + LATE_AGAIN_S
