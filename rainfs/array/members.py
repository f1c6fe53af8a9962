"""The nodes of the volume as this process sees them, and what each is good for now.

Owns the states and their transitions: up -> suspect (a missed or late answer, a failed call) ->
down (silent for seconds) -> up (the first answer).  Refuses to know stripes, and does no I/O: the
health poll, the reader and the writer report what they saw.

Invariants: a node is up only after it answered with the identity and the volume recorded for it;
`version` grows with every change that may alter a choice of nodes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import trio

from rainfs.array.backend import Backend, GetBeginner, NearReader, PutBeginner
from rainfs.array.latency import Call, Latency, late_after_s
from rainfs.array.placement import Candidate, domain_of
from rainfs.array.space import Room
from rainfs.array.values import NodeStatus
from rainfs.errors import (
    ForeignVolume,
    NodeFailing,
    NodeFull,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StorageError,
)
from rainfs.model import Node, NodeHealth, NodeNumber, NodeState, VolumeId

DOWN_AFTER_S = 5.0
"""A node that has been suspect this long without an answer is down."""

EVIDENCE_S = 1.0
"""A data answer this recent outweighs a health answer that is late."""

FIRST_HOLD_S = 1.0
MAX_HOLD_S = 30.0
"""A node that was late with data stays suspect this long, doubled each time, though it answers."""

_log = logging.getLogger(__name__)


class Member:
    """One node: its session, its last report, its state."""

    def __init__(self, node: Node, backend: Backend, now_s: float) -> None:
        self.node = node
        self.backend = backend
        self.beginner = backend if isinstance(backend, PutBeginner) else None
        self.get_beginner = backend if isinstance(backend, GetBeginner) else None
        """The same session, if it can do without tasks and without turns of the scheduler."""
        self.near_reader = backend if isinstance(backend, NearReader) else None
        """The same session, if the node's shards may lie on this host."""
        self.domain = domain_of(node)
        self.state = NodeState.SUSPECT
        self.health: NodeHealth | None = None
        self.failing = False
        self.free_bytes = 0
        """What is left at least: the last report less the puts that ended since it was asked."""
        self.put_bytes = 0
        """Bytes of all puts that have ended, whatever came of them."""
        self.told_put_bytes = 0
        """`put_bytes` when the last report was asked for: what it is sure to show."""
        self.latency = Latency()
        self.silent_since_s = now_s
        self.answered_at_s = float("-inf")
        self.held_until_s = float("-inf")
        self.hold_s = FIRST_HOLD_S
        self.kicked = trio.Event()
        """Set to have the node's health asked for at once."""

    @property
    def up(self) -> bool:
        """Whether calls to it are expected to be answered."""
        return self.state is NodeState.UP

    @property
    def exact(self) -> bool:
        """Whether no put was taken off `free_bytes` that the report may have shown already."""
        return self.put_bytes == self.told_put_bytes

    @property
    def shown_state(self) -> NodeState:
        """The state as users see it."""
        return NodeState.DRAINING if self.up and self.node.draining else self.state


class Members:
    """All nodes of the volume."""

    def __init__(self, volume: VolumeId) -> None:
        self._volume = volume
        self._members: dict[NodeNumber, Member] = {}
        self._changed = trio.Event()
        self._late_s = late_after_s(())
        self._writable: dict[int, list[Member]] = {}
        """What `writable` has answered since the last change."""
        self.version = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, number: NodeNumber) -> Member | None:
        """Return the member, or None for a number that is no member (NO_NODE included)."""
        return self._members.get(number)

    def add(self, member: Member) -> None:
        """Take a node in; it is suspect until it answers."""
        self._members[member.node.number] = member
        self._touch()

    def remove(self, number: NodeNumber) -> Member:
        """Let a node go."""
        member = self._members.pop(number)
        self._touch()
        return member

    def update(self, node: Node) -> None:
        """Take in a changed row of a node whose address stays."""
        member = self._members[node.number]
        member.node = node
        member.domain = domain_of(node)
        self._touch()

    # --- What callers saw -------------------------------------------------------------------

    def reported(self, member: Member, health: NodeHealth, told_put_bytes: int) -> None:
        """The node answered a health call, made when `put_bytes` was `told_put_bytes`.

        Puts that ended since may be in the report or not: they are taken off, which never counts
        room that is gone.
        """
        wrong = self._wrong_identity(member, health)
        if wrong is not None:
            self._move(member, NodeState.DOWN, wrong)
            return
        now_s = trio.current_time()
        member.health = health
        member.failing = health.failing
        member.told_put_bytes = told_put_bytes
        member.free_bytes = max(0, health.free_bytes - (member.put_bytes - told_put_bytes))
        member.answered_at_s = now_s
        if now_s >= member.held_until_s:
            self._move(member, NodeState.UP, "it answers")
        self._late_s = late_after_s(m.latency for m in self._members.values() if m.up)
        self._touch()

    def missed(self, member: Member, reason: str, *, late: bool) -> None:
        """A health call failed, or got no answer in time (`late`)."""
        now_s = trio.current_time()
        if member.up:
            if not late or now_s - member.answered_at_s >= EVIDENCE_S:
                self._move(member, NodeState.SUSPECT, reason)
        elif member.state is NodeState.SUSPECT and now_s - member.silent_since_s >= DOWN_AFTER_S:
            self._move(member, NodeState.DOWN, reason)

    def answered(self, member: Member, kind: Call, seconds: float) -> None:
        """A data call succeeded."""
        self.answered_at(trio.current_time(), member, kind, seconds)

    def answered_at(self, now_s: float, member: Member, kind: Call, seconds: float) -> None:
        """A data call succeeded just now."""
        member.latency.observe(kind, seconds)
        member.answered_at_s = now_s
        member.hold_s = FIRST_HOLD_S

    def failed(self, member: Member, error: StorageError) -> None:
        """A data call failed; errors that concern only the shard change nothing."""
        if isinstance(error, ShardMissing | ShardCorrupt | ShardConflict):
            member.answered_at_s = trio.current_time()
        elif isinstance(error, NodeFull):
            member.free_bytes = 0
            self._touch()
        elif isinstance(error, NodeFailing):
            member.failing = True
            self._touch()
        elif isinstance(error, ForeignVolume):
            self._move(member, NodeState.DOWN, str(error))
        elif member.up:
            self._move(member, NodeState.SUSPECT, str(error))

    def late(self, member: Member, kind: Call, seconds: float) -> None:
        """A put was given up because it was late: hold the node back even if it answers."""
        member.latency.observe(kind, seconds)
        member.held_until_s = trio.current_time() + member.hold_s
        member.hold_s = min(member.hold_s * 2, MAX_HOLD_S)
        if member.up:
            self._move(member, NodeState.SUSPECT, f"a put took {seconds:.1f} s")

    def took(self, member: Member, nbytes: int) -> None:
        """A put of `nbytes` ended; it counts as room taken, whatever came of it, until a report."""
        member.put_bytes += nbytes
        member.free_bytes = max(0, member.free_bytes - nbytes)

    # --- What callers ask -------------------------------------------------------------------

    def late_after_s(self, kind: Call) -> float:
        """Return after how many seconds a call of that kind is late."""
        return self._late_s[kind]

    def writable(self, m: int) -> Sequence[Member]:
        """Return the nodes that new shards may go to, whatever their room.

        Draining and failing ones only count where too few others would be left for redundancy.
        """
        known = self._writable.get(m)
        if known is None:
            known = self._writable[m] = self._find_writable(m)
        return known

    def _find_writable(self, m: int) -> list[Member]:
        up = [member for member in self._members.values() if member.up]
        sound = [member for member in up if not member.node.draining and not member.failing]
        if len(sound) > m:
            return sound
        willing = [member for member in up if not member.failing]
        return willing if len(willing) > len(sound) else sound

    def unsettled(self) -> bool:
        """Whether some node is suspect: it may soon be up, or down."""
        return any(member.state is NodeState.SUSPECT for member in self._members.values())

    def look_again(self) -> bool:
        """Have nodes asked at once whose room is a guess; False if none is, and none is suspect."""
        guessed = [member for member in self._members.values() if member.up and not member.exact]
        for member in guessed:
            member.kicked.set()
        return bool(guessed) or self.unsettled()

    def rooms(self, m: int) -> list[Room]:
        """Return the figures of the nodes that are not down."""
        takes = {member.node.number for member in self.writable(m)}
        rooms: list[Room] = []
        for number, member in self._members.items():
            if member.state is NodeState.DOWN or member.health is None:
                continue
            passing = member.state is NodeState.SUSPECT
            sound = not member.failing and not member.node.draining
            free = member.free_bytes if number in takes or (passing and sound) else 0
            rooms.append(Room(member.health.capacity_bytes, member.health.used_bytes, free))
        return rooms

    def statuses(self) -> list[NodeStatus]:
        """Return every node's state and last report, by number."""
        return [
            NodeStatus(member.node, member.shown_state, member.health)
            for _, member in sorted(self._members.items())
        ]

    async def wait_changed(self, at_most_s: float) -> None:
        """Return when something changed that may alter a choice, or after `at_most_s`."""
        with trio.move_on_after(at_most_s):
            await self._changed.wait()

    # --- Inside -----------------------------------------------------------------------------

    def _wrong_identity(self, member: Member, health: NodeHealth) -> str | None:
        if health.uuid != member.node.uuid:
            return f"another node answers at {member.node.url} ({health.uuid.hex()})"
        if health.volume != self._volume:
            return "it belongs to another volume, or to none"
        return None

    def _move(self, member: Member, state: NodeState, reason: str) -> None:
        if member.state is state:
            return
        level = logging.INFO if state is NodeState.UP else logging.WARNING
        _log.log(level, "node %s is %s: %s", member.node.name, state, reason)
        if member.up:
            member.silent_since_s = trio.current_time()
        member.state = state
        if state is NodeState.SUSPECT:
            member.kicked.set()
        self._touch()

    def _touch(self) -> None:
        self.version += 1
        self._writable.clear()
        self._changed.set()
        self._changed = trio.Event()


def candidates(members: Iterable[Member], nbytes: int) -> list[Candidate]:
    """Return the members that have room for `nbytes`, as placement sees them."""
    return [
        Candidate(member.node.number, member.domain, member.free_bytes)
        for member in members
        if member.free_bytes >= nbytes
    ]
