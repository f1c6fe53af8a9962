"""Puts whose payload lies in memory of the client: what the node takes, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from rainfs.array.backends.link import Link
from rainfs.async_store.access import MAX_INLINE_PUTS, AsyncStore
from rainfs.errors import InputError
from rainfs.model import MIB, PAGE_BYTES, NodeHealth, ShardKey, StripeId, VolumeId
from rainfs.node import client_memory, daemon
from rainfs.node.client_memory import ClientMemory
from rainfs.node.neighbours import Neighbours
from rainfs.shared_memory import SharedArea
from rainfs.store.store import Store
from rainfs.transport import connect_unix
from rainfs.wire import messages as wire

VOLUME = VolumeId(b"the volume here.")
OTHER = VolumeId(b"another volume..")
DEADLINE_S = 10.0
AREA_BYTES = 4 * MIB


class Node:
    """A daemon under test and the name of its Unix socket."""

    def __init__(self, store: Store, name: bytes) -> None:
        self.store = store
        self.name = name

    async def greet(self, area: SharedArea | None, volume: VolumeId = VOLUME) -> tuple[Link, bool]:
        """Connect and show an area; return the connection, and whether the node has mapped it."""
        link = Link(connect_unix(self.name, "node"), volume, deadline_s=DEADLINE_S)
        welcome = await link.greet(area=area)
        return link, welcome.memory


@pytest.fixture
async def node(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Node]:
    store = Store.open(tmp_path / "store", capacity_bytes=256 * MIB)
    store.claim(VOLUME)
    names: list[bytes] = []

    class Known(Neighbours):
        def __init__(self, uuid: bytes, descriptors: Sequence[int]) -> None:
            super().__init__(store.uuid, descriptors)
            names.append(self.name)

    monkeypatch.setattr(daemon, "Neighbours", Known)
    await nursery.start(partial(daemon.serve, store, "127.0.0.1", 0))
    yield Node(store, names[0])
    nursery.cancel_scope.cancel()
    store.close()


@pytest.fixture
def area() -> SharedArea:
    made = SharedArea.make(AREA_BYTES)
    made.divide(MIB)
    return made


def shared(stripe: int, offset: int, length: int) -> wire.PutShared:
    return wire.PutShared(StripeId(stripe), 0, True, b"about", offset, length)


async def test_the_node_stores_what_lies_in_the_clients_memory(
    node: Node, area: SharedArea, nursery: trio.Nursery
) -> None:
    link, mapped = await node.greet(area)
    assert mapped
    nursery.start_soon(link.run)
    for stripe in range(10):
        slot = area.take()
        assert slot is not None
        slot[:] = bytes([stripe + 1]) * MIB
        put = wire.Put(StripeId(stripe), 0, True, b"about")
        await link.call(put, (slot,), MIB)
        area.give(slot)
    for stripe in range(10):
        found = node.store.read(ShardKey(StripeId(stripe), 0), 0, MIB)
        assert found == bytes([stripe + 1]) * MIB
        assert node.store.stat(ShardKey(StripeId(stripe), 0)).about == b"about"
    nursery.cancel_scope.cancel()


async def test_ranges_outside_are_refused_and_the_connection_goes_on(
    node: Node, area: SharedArea, nursery: trio.Nursery
) -> None:
    link, mapped = await node.greet(area)
    assert mapped
    nursery.start_soon(link.run)
    for offset, length in (
        (AREA_BYTES, MIB),
        (AREA_BYTES - PAGE_BYTES, 2 * PAGE_BYTES),
        (1 << 62, PAGE_BYTES),
        (0, 0),
    ):
        with pytest.raises(InputError):
            await link.call(shared(1, offset, length), (), 0)
    assert node.store.health().shards == 0
    await link.call(shared(1, AREA_BYTES - MIB, MIB), (), 0)
    nursery.cancel_scope.cancel()


async def test_without_memory_nothing_can_be_named(node: Node, nursery: trio.Nursery) -> None:
    link, mapped = await node.greet(None)
    assert not mapped
    nursery.start_soon(link.run)
    with pytest.raises(InputError):
        await link.call(shared(1, 0, MIB), (), 0)
    await link.call(wire.Health(), (), 0)
    nursery.cancel_scope.cancel()


async def test_memory_that_may_shrink_is_not_mapped_and_payload_comes_as_ever(
    node: Node, area: SharedArea, nursery: trio.Nursery
) -> None:
    area.retire()
    area.fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(area.fd, AREA_BYTES)
    link, mapped = await node.greet(area)
    assert not mapped
    nursery.start_soon(link.run)
    slot = area.take()
    assert slot is not None
    slot[:] = b"p" * MIB
    await link.call(wire.Put(StripeId(1), 0, True), (slot,), MIB)
    assert node.store.read(ShardKey(StripeId(1), 0), 0, MIB) == b"p" * MIB
    nursery.cancel_scope.cancel()


async def test_strangers_memory_is_not_mapped(node: Node, area: SharedArea) -> None:
    link, mapped = await node.greet(area, OTHER)
    assert not mapped
    link.drop("seen")


async def test_what_is_mapped_at_a_time_is_bounded(
    node: Node, area: SharedArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_memory, "MAX_MAPPED_BYTES", 2 * AREA_BYTES)
    links = [await node.greet(area) for _ in range(3)]
    assert [mapped for _, mapped in links] == [True, True, False]
    for link, _ in links:
        link.drop("enough")
    with trio.fail_after(DEADLINE_S):
        while True:
            link, mapped = await node.greet(area)
            link.drop("seen")
            if mapped:
                return


async def test_a_row_of_long_puts_lets_others_in(
    node: Node, area: SharedArea, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _ = await node.greet(area)
    other, _ = await node.greet(None)
    for link in (writer, other):
        nursery.start_soon(link.run)
    slot = area.take()
    assert slot is not None
    warming, row = 20, 32
    for stripe in range(warming):
        await writer.call(wire.Put(StripeId(stripe), 0, True), (slot,), MIB)
    seen: list[int] = []

    async def health(_: AsyncStore) -> NodeHealth:
        seen.append(node.store.health().shards)
        return node.store.health()

    monkeypatch.setattr(AsyncStore, "health", health)
    done: list[object] = []
    for stripe in range(warming, warming + row):
        writer.begin(wire.Put(StripeId(stripe), 0, True), (slot,), MIB, done.append)
    await other.call(wire.Health(), (), 0)
    with trio.fail_after(DEADLINE_S):
        while len(done) < row:
            await trio.lowlevel.checkpoint()
    assert seen[0] <= warming + 2 * MAX_INLINE_PUTS
    nursery.cancel_scope.cancel()


async def test_a_client_that_dies_between_puts_leaves_what_was_answered(
    node: Node, area: SharedArea
) -> None:
    for stripe in range(20):
        link, _ = await node.greet(area)
        slot = area.take()
        assert slot is not None
        slot[:] = bytes([stripe]) * MIB
        link.begin(wire.Put(StripeId(stripe), 0, True), (slot,), MIB, lambda call: None)
        link.drop("killed")
        area.give(slot)
        if area.take() is None or area.is_spent:
            area = SharedArea.make(AREA_BYTES)
            area.divide(MIB)
    with trio.fail_after(DEADLINE_S):
        while node.store.health().shards < 20:
            await trio.lowlevel.checkpoint()
    for stripe in range(20):
        found = node.store.read(ShardKey(StripeId(stripe), 0), 0, MIB)
        assert found == bytes([stripe]) * MIB


def test_more_or_fewer_descriptors_than_one_are_no_memory(area: SharedArea) -> None:
    memory = ClientMemory()
    assert memory.take([], AREA_BYTES) is None
    assert memory.take([area.fd, area.fd], AREA_BYTES) is None
    assert memory.take([area.fd], 0) is None
    assert memory.mapped_bytes == 0
