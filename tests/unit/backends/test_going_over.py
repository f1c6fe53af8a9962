"""Who goes over to a node's Unix socket, who must not, and what comes along."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from rainfs.array.backends import going_over
from rainfs.array.backends.link import Link
from rainfs.array.backends.rain import RainBackend, open_backend
from rainfs.errors import NodeUnavailable
from rainfs.memory import Recycler, page_buffer
from rainfs.model import MIB, PAGE_BYTES, NodeUuid, ShardKey, StripeId, VolumeId
from rainfs.node import neighbours
from rainfs.node.daemon import serve
from rainfs.store.disk import SYSTEM_DISK
from rainfs.store.store import Store
from rainfs.transport import connect, connect_unix, listen_unix
from rainfs.wire.messages import Welcome

VOLUME = VolumeId(b"the volume here.")
OTHER = VolumeId(b"another volume..")
NOBODY = 65534
DEADLINE_S = 10.0

INTRUDER = """
import os, sys, trio
from rainfs.array.backends.link import Link
from rainfs.errors import RainError
from rainfs.transport import connect_unix
os.setuid(int(sys.argv[2]))
async def main():
    link = Link(connect_unix(sys.argv[1].encode(), "node"), None, deadline_s=5)
    try:
        await link.greet(descriptors=True)
    except RainError:
        print("turned away")
    else:
        print("let in")
trio.run(main)
"""


class Running:
    """A node in this process, and where it listens."""

    def __init__(self, store: Store, directory: Path, host: str, port: int) -> None:
        self.store = store
        self.directory = directory
        self.host = host
        self.port = port

    async def tcp(self, volume: VolumeId | None = VOLUME) -> tuple[Link, Welcome]:
        link = Link(
            await connect(self.host, self.port, deadline_s=DEADLINE_S),
            volume,
            deadline_s=DEADLINE_S,
        )
        return link, await link.greet()

    async def unix(self) -> Link:
        """A connection by the socket, with descriptors that nobody has taken."""
        link, welcome = await self.tcp()
        link.drop("over")
        nearer = Link(connect_unix(welcome.unix_name, "node"), VOLUME, deadline_s=DEADLINE_S)
        await nearer.greet(descriptors=True)
        return nearer

    async def over(
        self, volume: VolumeId | None = VOLUME, recycler: Recycler | None = None
    ) -> Link | None:
        link, welcome = await self.tcp(volume)
        try:
            return await going_over.go_over(
                link, welcome, "node", volume, deadline_s=DEADLINE_S, recycler=recycler
            )
        finally:
            link.drop("over")


def storage_descriptors(directory: Path) -> list[str]:
    """What this process has open of the storage file."""
    wanted = str((directory / ".rainfs-store").resolve())
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [str(path) for path in links if os.path.realpath(path) == wanted]


@pytest.fixture
async def node(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Running]:
    store = Store.open(tmp_path / "store", capacity_bytes=64 * MIB)
    store.claim(VOLUME)
    host, port = await nursery.start(partial(serve, store, "127.0.0.1", 0))
    yield Running(store, tmp_path / "store", host, port)
    nursery.cancel_scope.cancel()
    store.close()


async def proxy(to: tuple[str, int], nursery: trio.Nursery) -> int:
    """Forward connections to a node; return the port."""

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            await sink.send_all(data)
        await sink.aclose()

    async def forward(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(*to)
        nursery.start_soon(pump, server, client)
        await pump(client, server)

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(partial(trio.serve_listeners, forward, [listener]))
    return int(listener.socket.getsockname()[1])


async def test_a_client_of_the_same_host_goes_over(node: Running) -> None:
    link = await node.over(recycler=Recycler())
    assert link is not None
    assert link._stream.is_unix
    assert link.neighbour is not None
    link.drop("done")


async def test_a_proxy_in_between_stays_in_between(node: Running, nursery: trio.Nursery) -> None:
    port = await proxy((node.host, node.port), nursery)
    assert await Running(node.store, node.directory, "127.0.0.1", port).over() is None


async def test_addresses_that_are_not_loopback_keep_it_on_tcp(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_over, "is_loopback", lambda address: False)
    assert await node.over() is None


async def test_another_users_node_is_not_believed(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = os.geteuid()
    monkeypatch.setattr(going_over, "ROOT", theirs + 1)
    monkeypatch.setattr(going_over.os, "geteuid", lambda: theirs + 2)
    monkeypatch.setattr(neighbours.Neighbours, "may_enter", lambda self, stream: True)
    assert await node.over() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_another_users_process_is_turned_away(node: Running) -> None:
    link, welcome = await node.tcp()
    link.drop("done")
    for user, outcome in ((NOBODY, "turned away"), (os.geteuid(), "let in")):
        found = await trio.run_process(
            [sys.executable, "-c", INTRUDER, welcome.unix_name.decode(), str(user)],
            capture_stdout=True,
        )
        assert found.stdout.decode().strip() == outcome


async def test_another_node_at_the_socket_is_not_taken_for_the_one_that_was_greeted(
    node: Running,
) -> None:
    link, welcome = await node.tcp()
    other = Welcome(
        NodeUuid(b"some other node."),
        welcome.volume,
        "",
        welcome.unix_name,
        welcome.node_address,
        welcome.client_address,
    )
    over = await going_over.go_over(
        link, other, "node", VOLUME, deadline_s=DEADLINE_S, recycler=None
    )
    assert over is None
    link.drop("done")


async def test_a_socket_that_is_gone_keeps_it_on_tcp(
    node: Running, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(neighbours.Neighbours, "may_enter", lambda self, stream: False)
    assert await node.over() is None
    backend = open_backend(
        f"rain://{node.host}:{node.port}", VOLUME, deadline_s=DEADLINE_S, nursery=nursery
    )
    assert isinstance(backend, RainBackend)
    await backend.put(key(1), [b"x" * PAGE_BYTES], durable=True)
    assert await backend.get(key(1), 0, 2) == b"xx"


async def test_descriptors_go_to_clients_of_the_stores_volume_only(node: Running) -> None:
    link = await node.over(OTHER, Recycler())
    assert link is not None
    assert link.neighbour is None
    link.drop("done")


async def test_who_comes_for_no_volume_stays_on_tcp(node: Running) -> None:
    assert await node.over(None, Recycler()) is None


async def test_descriptors_come_only_to_who_asks(node: Running) -> None:
    link = await node.over()
    assert link is not None
    assert link.neighbour is None
    link.drop("done")


async def test_descriptors_are_of_the_storage_file_and_for_reading_only(
    node: Running, tmp_path: Path
) -> None:
    link = await node.unix()
    found = link.take_descriptors()
    stored = (tmp_path / "store" / ".rainfs-store").stat()
    for descriptor in found:
        assert os.fstat(descriptor).st_ino == stored.st_ino
        assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match="Bad file"):
            os.pwrite(descriptor, bytes(PAGE_BYTES), 0)
        assert SYSTEM_DISK.pread(descriptor, page_buffer(PAGE_BYTES), 0)
        os.close(descriptor)
    link.drop("done")


async def test_untaken_descriptors_are_closed_with_the_connection(node: Running) -> None:
    for link in (await node.unix(), await node.over(recycler=Recycler())):
        assert link is not None
        opened = storage_descriptors(node.directory)
        link.drop("done")
        assert len(storage_descriptors(node.directory)) == len(opened) - 2


async def test_a_kept_descriptor_keeps_no_lock(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    store = Store.open(directory, capacity_bytes=64 * MIB)
    store.claim(VOLUME)
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(partial(serve, store, "127.0.0.1", 0))
        link = await Running(store, directory, host, port).unix()
        kept = link.take_descriptors()
        link.drop("done")
        nursery.cancel_scope.cancel()
    store.close()
    Store.open(directory, capacity_bytes=None).close()
    for descriptor in kept:
        os.close(descriptor)


async def test_descriptors_travel_either_way_with_the_first_bytes() -> None:
    name = f"rainfs-test-{os.getpid()}".encode()
    listener = listen_unix(name)
    ours = connect_unix(name, "them")
    theirs = await listener.accept()
    assert theirs is not None
    for source, sink in ((ours, theirs), (theirs, ours)):
        memory = os.memfd_create("shared")
        os.write(memory, b"shared memory")
        assert source.send_descriptors([b"hel", b"lo"], [memory]) == 5
        os.close(memory)
        found: list[int] = []
        space = memoryview(bytearray(16))
        await sink.wait_readable()
        assert sink.receive_descriptors(space, found) == 5
        assert bytes(space[:5]) == b"hello"
        [descriptor] = found
        assert os.pread(descriptor, 20, 0) == b"shared memory"
        os.close(descriptor)
    assert ours.peer_user == theirs.peer_user == os.geteuid()
    for end in (ours, theirs, listener):
        end.close()


async def test_descriptors_that_nobody_asked_for_are_dropped() -> None:
    name = f"rainfs-test-{os.getpid()}-unasked".encode()
    listener = listen_unix(name)
    ours = connect_unix(name, "them")
    theirs = await listener.accept()
    assert theirs is not None
    memory = os.memfd_create("shared")
    before = len(os.listdir("/proc/self/fd"))
    assert ours.send_descriptors([b"hello"], [memory]) == 5
    await theirs.wait_readable()
    assert theirs.receive_nowait(memoryview(bytearray(16))) == 5
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(memory)
    for end in (ours, theirs, listener):
        end.close()


def test_nothing_listens_under_an_unknown_name() -> None:
    with pytest.raises(NodeUnavailable):
        connect_unix(b"rainfs-nobody-here", "node")


def key(stripe: int) -> ShardKey:
    return ShardKey(StripeId(stripe), 0)
