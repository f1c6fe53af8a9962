"""The daemon against clients that stall, lie, vanish and crowd."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from rainfs.errors import InputError, NodeUnavailable
from rainfs.memory import Buffer
from rainfs.model import MIB, PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.node import daemon, session
from rainfs.node.run import parse_listen
from rainfs.node.session import Hold, Patience, Session
from rainfs.store.pending import Pending
from rainfs.store.store import Store
from rainfs.transport import connect
from rainfs.wire import messages as wire
from rainfs.wire.framing import MAGIC, PREAMBLE, pack_frame
from tests.fakes.peer import Peer, PeerGone, join

VOLUME = VolumeId(b"the volume here.")
SOCKET_BUFFERS_BYTES = 48 * MIB
"""More than the kernel takes for one connection at both ends."""

BRISK = Patience(greeting_s=0.3, stall_s=0.3, frame_s=1.0)


class Node:
    """A daemon under test: its store, its address, and the event that stops it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stopping = trio.Event()
        self.stopped = trio.Event()
        self.address = ("", 0)

    async def run(self, patience: Patience, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        await daemon.serve(
            self.store,
            "127.0.0.1",
            0,
            stopping=self.stopping,
            patience=patience,
            task_status=task_status,
        )
        self.stopped.set()

    async def join(self) -> Peer:
        return await join(*self.address, VOLUME)

    async def raw(self) -> Peer:
        return Peer(await connect(*self.address, deadline_s=10), wire.Role.CLIENT)


@pytest.fixture
def patience() -> Patience:
    return Patience()


@pytest.fixture
async def node(tmp_path: Path, nursery: trio.Nursery, patience: Patience) -> AsyncIterator[Node]:
    store = Store.open(tmp_path / "store", capacity_bytes=256 * MIB)
    store.claim(VOLUME)
    running = Node(store)
    running.address = await nursery.start(partial(running.run, patience))
    yield running
    nursery.cancel_scope.cancel()
    store.close()


async def healthy(node: Node) -> None:
    """The node still serves others."""
    with trio.fail_after(10):
        peer = await node.join()
        await peer.send(1, wire.Health())
        assert isinstance((await peer.receive()).message, wire.Report)
        peer.stream.close()


def put(stripe: int, *, durable: bool = True) -> wire.Put:
    return wire.Put(StripeId(stripe), 0, durable)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "8.8.8.8"])
async def test_it_refuses_to_listen_beyond_loopback(host: str) -> None:
    with pytest.raises(InputError, match="loopback"):
        await daemon.open_listener(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
async def test_it_listens_on_loopback(host: str) -> None:
    listener = await daemon.open_listener(host, 0)
    assert listener.address[1] > 0
    listener.close()


async def test_a_port_that_is_taken_is_named(node: Node) -> None:
    with pytest.raises(InputError, match=f"127.0.0.1:{node.address[1]}"):
        await daemon.open_listener(*node.address)
    for port in (-1, 65536):
        with pytest.raises(InputError, match="between"):
            await daemon.open_listener("127.0.0.1", port)


@pytest.mark.parametrize("listen", ["", "7401", "host:", ":7401", "h:x", "h:-1", "h:65536", "h:1 "])
def test_a_bad_address_is_named(listen: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        parse_listen(listen)


def test_addresses_are_parsed() -> None:
    assert parse_listen("127.0.0.1:7401") == ("127.0.0.1", 7401)
    assert parse_listen("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        MAGIC + b"\x02\x00",
        MAGIC + b"\x00\x00" + bytes(100),
        b"\x00",
        PREAMBLE + pack_frame(wire.Kind.SYNC, 1, 1, 0) + b"\x90",
        PREAMBLE + pack_frame(wire.Kind.HELLO, 0, 3, 0) + b"\x92\xc4\x01",
        PREAMBLE + pack_frame(wire.Kind.PUT, 0, 1, 0xFFFFFFFF),
        PREAMBLE + random.Random(1).randbytes(200),
    ],
)
async def test_a_stranger_is_shown_the_door_and_one_line_says_why(
    node: Node, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rainfs.node")
    friend = await node.join()
    stranger = await node.raw()
    await stranger.send_raw(raw)
    answer = await stranger.receive_raw()
    assert answer in (PREAMBLE, b"")
    await stranger.wait_closed()
    await friend.send(1, wire.Health())
    assert isinstance((await friend.receive()).message, wire.Report)
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "connection closed" in line.message
    assert "\n" not in line.message


@pytest.mark.parametrize(
    "raw",
    [
        pack_frame(wire.Kind.GET, 1, 0, 0),
        pack_frame(wire.Kind.GET, 1, 0xFFFFFFFF, 0),
        pack_frame(wire.Kind.PUT, 1, 1, 5 * MIB),
        pack_frame(wire.Kind.DONE, 1, 1, 0) + b"\x90",
        pack_frame(wire.Kind.HELLO, 0, 1, 0) + b"\x90",
        pack_frame(wire.Kind.SYNC, 0, 1, 0) + b"\x90",
        b"\xff" * 16,
    ],
)
async def test_a_malformed_frame_ends_only_its_connection(node: Node, raw: bytes) -> None:
    friend, liar = await node.join(), await node.join()
    await liar.send_raw(raw)
    await liar.wait_closed()
    await friend.send(1, put(1), bytes(PAGE_BYTES))
    assert isinstance((await friend.receive()).message, wire.Done)


async def test_random_bytes_never_end_the_daemon(node: Node) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def attack(data: bytes, greeted: bool) -> None:
        peer = await (node.join() if greeted else node.raw())
        with contextlib.suppress(NodeUnavailable):
            await peer.send_raw(data)
        peer.stream.close()

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            data = rng.randbytes(rng.choice([1, 17, 100, 5000]))
            if rng.random() < 0.5:
                kind = rng.choice(list(wire.Kind))
                data = pack_frame(kind, rng.randrange(3), rng.randrange(40), 0) + data
            nursery.start_soon(attack, data, rng.random() < 0.7)
    await healthy(node)


async def test_a_request_number_used_twice_ends_the_connection(node: Node) -> None:
    peer = await node.join()
    body = wire.encode(put(1))
    frame = pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body + bytes(MIB)
    await peer.send_raw(frame + pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body)
    await peer.wait_closed()
    await healthy(node)


@pytest.mark.parametrize("patience", [BRISK])
@pytest.mark.parametrize(
    "said",
    [
        b"",
        PREAMBLE[:3],
        PREAMBLE + pack_frame(wire.Kind.HELLO, 0, 20, 0),
    ],
)
async def test_who_does_not_greet_is_closed(node: Node, said: bytes) -> None:
    peer = await node.raw()
    await peer.send_raw(said)
    await peer.wait_closed()


@pytest.mark.parametrize("patience", [BRISK])
async def test_a_frame_that_stalls_ends_the_connection_but_idling_does_not(node: Node) -> None:
    idle, slow = await node.join(), await node.join()
    body = wire.encode(put(1))
    await slow.send_raw(pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body + bytes(1000))
    await slow.wait_closed()
    await idle.send(1, wire.Health())
    assert isinstance((await idle.receive()).message, wire.Report)


@pytest.mark.parametrize("patience", [BRISK])
async def test_a_frame_that_trickles_ends_in_time(node: Node) -> None:
    peer = await node.join()
    body = wire.encode(put(1))
    await peer.send_raw(pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body)

    async def trickle() -> None:
        while True:
            await peer.send_raw(b"x")
            await trio.sleep(0.05)

    with trio.fail_after(10), pytest.raises(NodeUnavailable):
        await trickle()


@pytest.mark.parametrize("patience", [BRISK])
async def test_a_client_that_takes_no_answers_is_closed_and_blocks_nobody(node: Node) -> None:
    friend = await node.join()
    await friend.send(1, put(1), random.Random(1).randbytes(4 * MIB))
    await friend.receive()
    greedy = await node.join()

    async def ask_for_much() -> None:
        for request in range(1, 1000):
            await greedy.send(request, wire.Get(StripeId(1), 0, 0, 4 * MIB))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def ask_until_closed() -> None:
                with contextlib.suppress(NodeUnavailable):
                    await ask_for_much()

            nursery.start_soon(ask_until_closed)
            for request in range(2, 12):
                await friend.send(request, wire.Get(StripeId(1), 0, 0, PAGE_BYTES))
                await friend.receive()
    await healthy(node)


class StuckStore:
    """Lets a test hold the writes of a store back, and look at what goes in together."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []
        self.begun = threading.Event()
        write, commit = store.write, store.commit

        def held_write(key: ShardKey, payload: Sequence[Buffer], about: bytes = b"") -> Pending:
            self.begun.set()
            assert self.free.wait(20)
            return write(key, payload, about)

        def seen_commit(pending: Sequence[Pending], *, durable: bool) -> object:
            self.batches.append(len(pending))
            return commit(pending, durable=durable)

        monkeypatch.setattr(store, "write", held_write)
        monkeypatch.setattr(store, "commit", seen_commit)


async def test_requests_beyond_the_budget_are_not_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure: the client's bytes wait in the client, not in the node."""
    stuck = StuckStore(node.store, monkeypatch)
    stuck.free.clear()
    peer = await node.join()
    sent = 0
    first_mib_beyond = session.CONNECTION_BUDGET_BYTES // MIB + SOCKET_BUFFERS_BYTES // MIB

    async def flood() -> None:
        nonlocal sent
        for request in range(1, 2 * first_mib_beyond):
            await peer.send(request, put(request, durable=False), bytes(MIB))
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        with trio.move_on_after(1.0):
            await trio.sleep_forever()
        reached = sent
        stuck.free.set()
        for _ in range(1, 2 * first_mib_beyond):
            assert isinstance((await peer.receive()).message, wire.Done)
    assert reached <= first_mib_beyond


async def test_many_puts_share_a_commit(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = StuckStore(node.store, monkeypatch)
    stuck.free.clear()
    peer = await node.join()
    for request in range(1, 41):
        await peer.send(request, put(request), bytes(PAGE_BYTES))
    await trio.to_thread.run_sync(stuck.begun.wait, 10)
    await healthy(node)
    stuck.free.set()
    for _ in range(40):
        assert isinstance((await peer.receive()).message, wire.Done)
    assert sum(stuck.batches) == 40
    assert len(stuck.batches) <= 3


async def test_a_client_that_leaves_during_a_put_leaves_nothing_behind(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = StuckStore(node.store, monkeypatch)
    stuck.free.clear()
    for stripe in range(8):
        peer = await node.join()
        await peer.send(1, put(stripe), bytes(MIB))
        peer.stream.close()
    await trio.to_thread.run_sync(stuck.begun.wait, 10)
    stuck.free.set()
    await healthy(node)
    node.stopping.set()
    with trio.fail_after(10):
        await node.stopped.wait()


async def test_what_arrived_whole_is_stored_though_nonsense_follows_it(node: Node) -> None:
    for stripe in range(20):
        peer = await node.join()
        body = wire.encode(put(stripe))
        whole = pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body + bytes(MIB)
        await peer.send_raw(whole + b"\xff" * 16)
        await peer.wait_closed()
        with trio.fail_after(10):
            while node.store.health().shards <= stripe:
                await trio.lowlevel.checkpoint()


async def test_stopping_answers_what_was_asked_and_accepts_nothing_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = StuckStore(node.store, monkeypatch)
    stuck.free.clear()
    peer, idle = await node.join(), await node.join()
    await peer.send(1, put(1), bytes(MIB))
    await trio.to_thread.run_sync(stuck.begun.wait, 10)
    node.stopping.set()
    await idle.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(node.address, timeout=5)
    assert not node.stopped.is_set()
    stuck.free.set()
    assert isinstance((await peer.receive()).message, wire.Done)
    with trio.fail_after(10):
        await node.stopped.wait()
    assert node.store.stat(ShardKey(StripeId(1), 0)).durable


async def test_connections_are_counted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "MAX_CONNECTIONS", 3)
    peers = [await node.join() for _ in range(3)]
    fourth = await node.raw()
    await fourth.wait_closed()
    peers[0].stream.close()
    with trio.fail_after(10):
        while True:
            try:
                await healthy(node)
                break
            except (PeerGone, NodeUnavailable):
                await trio.sleep(0.01)


async def test_an_unexpected_error_is_answered_and_logged(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    for name in ("write", "read", "stat", "delete", "sync"):
        monkeypatch.setattr(node.store, name, broken)
    peer = await node.join()
    requests: list[tuple[wire.Message, bytes]] = [
        (put(1), bytes(PAGE_BYTES)),
        (put(2), bytes(MIB)),
        (wire.Get(StripeId(1), 0, 0, 10), b""),
        (wire.Get(StripeId(1), 0, 0, MIB), b""),
        (wire.Stat(StripeId(1), 0), b""),
        (wire.Delete([(StripeId(1), 0)]), b""),
        (wire.Sync(), b""),
    ]
    for request, (message, payload) in enumerate(requests, start=1):
        await peer.send(request, message, payload)
        answer = (await peer.receive()).message
        assert isinstance(answer, wire.Failed)
        assert answer.code == 3
        assert "a bug" not in answer.text
    assert "RuntimeError: a bug" in caplog.text
    await healthy(node)


async def test_an_empty_shard_is_refused(node: Node) -> None:
    peer = await node.join()
    await peer.send(1, put(1))
    answer = (await peer.receive()).message
    assert isinstance(answer, wire.Failed)
    assert answer.code == 12


async def test_a_put_that_ends_just_after_its_client_broke_the_protocol_is_forgotten(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is closed, but not over yet: others may have the put settled meanwhile."""
    forgotten: list[int] = []
    receive = Session._receive

    async def kept(self: Session, nursery: trio.Nursery) -> None:
        try:
            await receive(self, nursery)
        finally:
            for request in self._connection.open_requests:
                self._answer(request, wire.Done(), Hold((), 0, None))
                forgotten.append(request)

    monkeypatch.setattr(Session, "_receive", kept)
    stuck = StuckStore(node.store, monkeypatch)
    stuck.free.clear()
    peer = await node.join()
    body = wire.encode(put(1))
    whole = pack_frame(wire.Kind.PUT, 1, len(body), MIB) + body + bytes(MIB)
    await peer.send_raw(whole + b"\xff" * 16)
    await peer.wait_closed()
    stuck.free.set()
    assert forgotten == [1]
    await healthy(node)
