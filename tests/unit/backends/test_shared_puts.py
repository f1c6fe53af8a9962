"""Puts from shared memory at the client: what is sent, and when a slot may be filled again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing

from rainfs.array.backends.link import Begun, Link
from rainfs.errors import NodeUnavailable, RainError
from rainfs.model import MIB, PAGE_BYTES, StripeId, VolumeId
from rainfs.shared_memory import SharedArea
from rainfs.transport import connect_unix, listen_unix
from rainfs.wire import messages as wire
from tests.fakes.peer import UUID, Peer

VOLUME = VolumeId(b"the volume here.")
NAME = b"rainfs-test-shared-puts"
PATIENCE_S = 10.0


class Talk:
    """A link that has shown its area, and the scripted node at its other end."""

    def __init__(self, link: Link, peer: Peer, area: SharedArea, gone: trio.Event) -> None:
        self.gone = gone
        self.link = link
        self.peer = peer
        self.area = area
        self.ended: list[RainError | None] = []

    def begin(self, slot: memoryview, stripe: int = 1) -> Begun:
        put = wire.Put(StripeId(stripe), 0, True, b"about")
        return self.link.begin(put, (slot,), len(slot), lambda call: self.ended.append(call.error))

    def only_slot(self) -> memoryview:
        slot = self.area.take()
        assert slot is not None
        assert self.area.take() is None
        return slot

    async def answered(self) -> None:
        """Wait until the link has taken in all that was sent to it."""
        await trio.testing.wait_all_tasks_blocked(0.01)


async def greeted(area: SharedArea, nursery: trio.Nursery, *, memory: bool) -> Talk:
    listener = listen_unix(NAME)
    link = Link(connect_unix(NAME, "node"), VOLUME, deadline_s=PATIENCE_S)
    stream = await listener.accept()
    listener.close()
    assert stream is not None
    peer = Peer(stream, wire.Role.NODE)

    async def welcome() -> None:
        hello = (await peer.receive()).message
        assert isinstance(hello, wire.Hello)
        assert hello.memory_bytes == len(area)
        await peer.send(0, wire.Welcome(UUID, VOLUME, memory=memory))

    async with trio.open_nursery() as both:
        both.start_soon(welcome)
        both.start_soon(partial(link.greet, area=area))

    gone = trio.Event()

    async def run() -> None:
        try:
            await link.run()
        except* NodeUnavailable:
            gone.set()

    nursery.start_soon(run)
    return Talk(link, peer, area, gone)


@pytest.fixture
async def talk(nursery: trio.Nursery) -> AsyncIterator[Talk]:
    area = SharedArea.make(MIB)
    area.divide(MIB)
    made = await greeted(area, nursery, memory=True)
    yield made
    made.link.drop("over")
    with trio.fail_after(PATIENCE_S):
        await made.gone.wait()


async def test_a_slot_is_named_not_sent(talk: Talk) -> None:
    slot = talk.only_slot()
    talk.begin(slot[: 2 * PAGE_BYTES])
    event = await talk.peer.receive()
    assert event.message == wire.PutShared(StripeId(1), 0, True, b"about", 0, 2 * PAGE_BYTES)
    assert event.payload is None


async def test_other_memory_is_sent(talk: Talk) -> None:
    talk.begin(memoryview(b"m" * PAGE_BYTES))
    event = await talk.peer.receive()
    assert event.message == wire.Put(StripeId(1), 0, True, b"about")
    assert event.payload == b"m" * PAGE_BYTES


async def test_a_node_that_has_not_mapped_it_is_sent_the_bytes(nursery: trio.Nursery) -> None:
    area = SharedArea.make(MIB)
    area.divide(MIB)
    talk = await greeted(area, nursery, memory=False)
    slot = talk.only_slot()
    slot[:] = b"s" * MIB
    talk.begin(slot)
    event = await talk.peer.receive()
    assert event.payload == b"s" * MIB
    talk.link.drop("over")
    with trio.fail_after(PATIENCE_S):
        await talk.gone.wait()


async def test_an_abandoned_puts_slot_waits_for_the_answer(talk: Talk) -> None:
    slot = talk.only_slot()
    put = talk.begin(slot)
    request = (await talk.peer.receive()).request
    put.abandon()
    talk.area.give(slot)
    await talk.answered()
    assert talk.area.take() is None, "the node may be reading it"
    await talk.peer.send(request, wire.Done())
    await talk.answered()
    assert talk.area.take() is not None
    assert not talk.ended


@pytest.mark.parametrize("abandoned", [False, True])
async def test_a_slot_whose_node_was_lost_is_never_filled_again(
    talk: Talk, abandoned: bool
) -> None:
    slot = talk.only_slot()
    put = talk.begin(slot)
    await talk.peer.receive()
    if abandoned:
        put.abandon()
    talk.peer.stream.close()
    await talk.answered()
    talk.area.give(slot)
    assert talk.area.take() is None
    assert [type(error) for error in talk.ended] == ([] if abandoned else [NodeUnavailable])


async def test_a_refusal_is_an_answer(talk: Talk) -> None:
    slot = talk.only_slot()
    talk.begin(slot)
    request = (await talk.peer.receive()).request
    talk.area.give(slot)
    await talk.peer.send(request, wire.Failed(1, "full"))
    await talk.answered()
    assert talk.area.take() is not None
    assert len(talk.ended) == 1


async def test_a_put_that_cannot_be_said_holds_nothing(talk: Talk) -> None:
    slot = talk.only_slot()
    put = wire.Put(StripeId(-1), 0, True)
    with pytest.raises(RainError):
        talk.link.begin(put, (slot,), len(slot), lambda call: None)
    talk.area.give(slot)
    assert talk.area.take() is not None


async def test_a_slot_that_two_puts_share_waits_for_both(talk: Talk) -> None:
    slot = talk.only_slot()
    for stripe in (1, 2):
        talk.begin(slot, stripe)
    first, second = (await talk.peer.receive()).request, (await talk.peer.receive()).request
    talk.area.give(slot)
    await talk.peer.send(second, wire.Done())
    await talk.answered()
    assert talk.area.take() is None
    await talk.peer.send(first, wire.Done())
    await talk.answered()
    assert talk.area.take() is not None
