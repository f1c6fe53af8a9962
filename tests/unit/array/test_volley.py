"""Puts begun at once: answers in line, misses, lateness, and what an abandoned volley leaves."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from rainfs.array import linger as linger_module
from rainfs.array.backend import Buffer
from rainfs.array.latency import Call
from rainfs.array.linger import Linger
from rainfs.array.members import Member, Members
from rainfs.array.volley import PATIENT_PUT_S, Volley
from rainfs.errors import NodeFull, RainError
from rainfs.model import (
    PAGE_BYTES,
    Node,
    NodeNumber,
    NodeState,
    NodeUuid,
    ShardKey,
    StripeId,
    VolumeId,
)
from tests.fakes.backend import FakeBackend, FakeNode

VOLUME = VolumeId(b"array-test-volum")
Over = Callable[[RainError | None], None]


class Wire:
    """A put under way whose answer is a byte in a socket."""

    def __init__(self, over: Over) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.over = over
        self.outcome: RainError | None = None
        self.abandoned = False

    @property
    def fileno(self) -> int:
        return self.ours.fileno()

    def answer(self, outcome: RainError | None = None) -> None:
        """Let the answer be there."""
        self.outcome = outcome
        self.theirs.send(b"!")

    def stay(self, most_ms: int) -> bool:
        self.ours.recv(1)
        self.over(self.outcome)
        return True

    def abandon(self) -> None:
        self.abandoned = True


class Beginner(FakeBackend):
    """A session whose puts the test answers."""

    def __init__(self, node: FakeNode) -> None:
        super().__init__(node, VOLUME, deadline_s=10)
        self.wires: list[Wire] = []

    def begin_put(
        self, key: ShardKey, payload: Sequence[Buffer], about: bytes, over: Over
    ) -> Wire | None:
        self.wires.append(Wire(over))
        return self.wires[-1]


class Rig:
    """Three members and a volley at them."""

    def __init__(self) -> None:
        self.members = Members(VOLUME)
        self.beginners = [Beginner(FakeNode(number)) for number in (1, 2, 3)]
        for number, beginner in enumerate(self.beginners, 1):
            row = Node(NodeNumber(number), NodeUuid(bytes(16)), f"n{number}", "fake://", {})
            member = Member(row, beginner, trio.current_time())
            member.state = NodeState.UP
            member.free_bytes = 10 * PAGE_BYTES
            self.members.add(member)
        self.placed: dict[int, NodeNumber] = {}
        self.volley = Volley(self.members, Call.SMALL_PUT, self.placed, enough=1)
        for shard, member in enumerate(self.members):
            key = ShardKey(StripeId(1), shard)
            assert self.volley.begin(member, key, bytes(PAGE_BYTES), b"")
        self.wires = [beginner.wires[0] for beginner in self.beginners]


@pytest.fixture
def rival() -> Iterator[tuple[Linger, socket.socket]]:
    """What a mount lingers with, and the kernel's end of its requests."""
    kernel, device = socket.socketpair()
    linger = Linger()
    linger.yield_to(device.fileno())
    linger.under_way = 1
    with kernel, device:
        yield linger, kernel


async def test_answers_that_come_in_line_need_no_scheduler(
    rival: tuple[Linger, socket.socket],
) -> None:
    rig = Rig()
    for wire in rig.wires:
        wire.answer()
    rig.volley.stay(rival[0])
    with trio.testing.assert_no_checkpoints():
        assert await rig.volley.misses() == []
    assert rig.placed == {0: 1, 1: 2, 2: 3}
    assert {member.free_bytes for member in rig.members} == {9 * PAGE_BYTES}


async def test_a_refusal_in_line_is_a_miss_and_the_rest_is_placed(
    rival: tuple[Linger, socket.socket],
) -> None:
    rig = Rig()
    rig.wires[0].answer()
    rig.wires[1].answer(NodeFull("full"))
    rig.wires[2].answer()
    rig.volley.stay(rival[0])
    [miss] = await rig.volley.misses()
    assert (miss.shard, str(miss.error)) == (1, "full")
    assert await rig.volley.misses() == []
    assert rig.placed == {0: 1, 2: 3}


async def test_the_kernels_next_request_ends_the_wait_in_line(
    rival: tuple[Linger, socket.socket],
) -> None:
    rig = Rig()
    rival[1].send(b"request")
    rig.volley.stay(rival[0])
    assert rig.placed == {}
    found: list[object] = []

    async def ask() -> None:
        found.append(await rig.volley.misses())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        for wire in rig.wires:
            assert not found
            wire.over(None)
    assert found == [[]]
    assert rig.placed == {0: 1, 1: 2, 2: 3}


async def test_late_puts_are_given_up_once_that_helps(autojump_clock: MockClock) -> None:
    rig = Rig()
    await trio.sleep(2)
    assert rig.volley.act() is not None, "all nodes answer, and all are as slow"
    assert not any(wire.abandoned for wire in rig.wires)
    down = rig.members.get(NodeNumber(3))
    assert down is not None
    down.state = NodeState.DOWN
    assert rig.volley.act() is not None
    assert [wire.abandoned for wire in rig.wires] == [False, False, True]
    [miss] = await rig.volley.misses()
    assert (miss.shard, miss.error) == (2, None)
    rig.wires[0].over(None)
    await trio.sleep(PATIENT_PUT_S)
    assert rig.volley.act() is None, "enough are placed, and patience is over"
    assert [miss.shard for miss in await rig.volley.misses()] == [1]
    assert rig.wires[1].abandoned
    assert rig.placed == {0: 1}


async def test_an_abandoned_volley_leaves_no_put(autojump_clock: MockClock) -> None:
    rig = Rig()
    rig.wires[0].over(None)
    rig.volley.abandon()
    rig.volley.abandon()
    assert [wire.abandoned for wire in rig.wires] == [False, True, True]
    assert {member.free_bytes for member in rig.members} == {9 * PAGE_BYTES}, "all may have taken"


def test_a_request_that_is_expected_does_not_end_the_wait(
    rival: tuple[Linger, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_S", 0.001)
    linger, kernel = rival
    kernel.send(b"request")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not linger.wait(ours.fileno())
        assert linger.worth_it, "the rival came first: the node was not slow"
        assert not linger.wait(ours.fileno(), heeds_rivals=False)
        assert not linger.worth_it, "it waited to the end"
        theirs.send(b"!")
        assert linger.wait(ours.fileno(), heeds_rivals=False)


async def test_answers_are_taken_in_as_they_come(
    rival: tuple[Linger, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_S", 0.001)
    rig = Rig()
    rig.wires[2].answer()
    rig.wires[1].answer()
    rig.volley.stay(rival[0])
    assert rig.placed == {1: 2, 2: 3}, "the first one is still awaited"
    rig.wires[0].over(None)
    assert await rig.volley.misses() == []


def test_the_sets_that_were_waited_for_are_bounded(
    rival: tuple[Linger, socket.socket],
) -> None:
    linger, kernel = rival
    kernel.send(b"request")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number in range(3 * linger_module.MAX_POLLS):
            linger.wait_any((ours.fileno(), 10_000 + number))
            assert len(linger._polls) <= linger_module.MAX_POLLS
