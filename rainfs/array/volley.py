"""Puts of one stripe that are sent at once and awaited once, without a task for each.

Owns the puts under way, and giving up those that are late once that helps the stripe.  Refuses to
know what becomes of a shard that missed: the writer sends it elsewhere.

Invariants: every put that began ends as placed or as a miss, or is abandoned, and nothing refers to
its payload from then on.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from rainfs.array.backend import BegunPut, Buffer
from rainfs.array.late import Watched
from rainfs.array.latency import Call
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members
from rainfs.errors import RainError
from rainfs.model import KIB, NodeNumber, ShardKey

PATIENT_PUT_S = 4.0
"""How long a put may take on a node that answers health calls: a disk may stall for seconds."""

LATE_AGAIN_S = 0.1
"""How often a late put that nobody can replace yet is looked at again."""

LINGER_BYTES = 64 * KIB
"""Longest shard of a volley whose answers may be waited for on the thread itself."""


def is_hopeless(up: bool, placed: int, enough: int, now_s: float, patient_until_s: float) -> bool:
    """Whether a late put is to be given up: not while its node answers and all are as slow."""
    return not up or (placed >= enough and now_s >= patient_until_s)


class Miss(NamedTuple):
    """A put that failed, or was given up because it was late (no error)."""

    shard: int
    member: Member
    error: RainError | None


class _Shot:
    """One put of a volley."""

    __slots__ = ("_volley", "begun", "member", "nbytes", "shard")

    def __init__(self, volley: Volley, shard: int, member: Member, nbytes: int) -> None:
        self._volley = volley
        self.shard = shard
        self.member = member
        self.nbytes = nbytes
        self.begun: BegunPut | None = None

    def over(self, error: RainError | None) -> None:
        """Take in the answer."""
        self.begun = None
        self._volley.ended(self, error)


class Volley(Watched):
    """`begin` the puts, perhaps `stay`, then ask for `misses` until there are none."""

    __slots__ = (
        "_enough",
        "_flying",
        "_kind",
        "_members",
        "_missed",
        "_placed",
        "_task",
        "begun_s",
    )

    def __init__(
        self, members: Members, kind: Call, placed: dict[int, NodeNumber], enough: int
    ) -> None:
        """Put what takes into `placed`; once it holds `enough`, late puts are given up."""
        self.begun_s = trio.current_time()
        super().__init__(self.begun_s + members.late_after_s(kind))
        self._members = members
        self._kind = kind
        self._placed = placed
        self._enough = enough
        self._flying: dict[int, _Shot] = {}
        self._missed: list[Miss] = []
        self._task: trio.lowlevel.Task | None = None

    def begin(self, member: Member, key: ShardKey, payload: Buffer, about: bytes) -> bool:
        """Send a shard, if that takes no waiting."""
        beginner = member.beginner
        if beginner is None:
            return False
        shot = _Shot(self, key.shard, member, len(payload))
        shot.begun = beginner.begin_put(key, (payload,), about, shot.over)
        if shot.begun is None:
            return False
        self._flying[key.shard] = shot
        return True

    def stay(self, linger: Linger, heeds_rivals: bool = True) -> None:
        """Take in what answers come while `linger` waits for the next of them."""
        while self._flying:
            shots = {s.begun.fileno: s for s in self._flying.values() if s.begun is not None}
            ready = linger.wait_any(tuple(shots), heeds_rivals)
            for fd in ready:
                begun = shots[fd].begun
                if begun is not None and not begun.stay(0):
                    return
            if not ready:
                return

    async def misses(self) -> list[Miss]:
        """Return what missed since the last call, waiting for it; nothing once all have ended."""
        if self._flying and not self._missed:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        missed, self._missed = self._missed, []
        return missed

    def ended(self, shot: _Shot, error: RainError | None) -> None:
        """Take note of an answer."""
        del self._flying[shot.shard]
        member = shot.member
        self._members.took(member, shot.nbytes)
        if error is None:
            now_s = trio.current_time()
            self._members.answered_at(now_s, member, self._kind, now_s - self.begun_s)
            self._placed[shot.shard] = member.node.number
        else:
            self._missed.append(Miss(shot.shard, member, error))
        self._wake()

    def act(self) -> float | None:
        """Give up what is late and hopeless; the rest is looked at again."""
        now_s = trio.current_time()
        patient_until_s = max(self.begun_s + PATIENT_PUT_S, self.due_s)
        for shot in list(self._flying.values()):
            up = shot.member.up
            if is_hopeless(up, len(self._placed), self._enough, now_s, patient_until_s):
                self._abandon(shot)
                self._members.late(shot.member, self._kind, now_s - self.begun_s)
                self._missed.append(Miss(shot.shard, shot.member, None))
        self._wake()
        return now_s + LATE_AGAIN_S if self._flying else None

    def abandon(self) -> None:
        """Await nothing any longer; nothing refers to the payloads then.  Idempotent."""
        for shot in list(self._flying.values()):
            self._abandon(shot)

    def _abandon(self, shot: _Shot) -> None:
        del self._flying[shot.shard]
        if shot.begun is not None:
            shot.begun.abandon()
            shot.begun = None
        self._members.took(shot.member, shot.nbytes)

    def _wake(self) -> None:
        if self._task is not None and (self._missed or not self._flying):
            trio.lowlevel.reschedule(self._task)
            self._task = None
