"""rain:// against nodes that reorder, repeat, delay, lie, freeze and die."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from rainfs.array.backend import Backend
from rainfs.array.backends import lane
from rainfs.array.backends.registry import open_backend
from rainfs.errors import (
    ForeignVolume,
    NodeUnavailable,
    RemoteProtocolError,
    ShardMissing,
)
from rainfs.model import MIB, PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.framing import pack_frame
from tests.fakes.peer import UUID, Peer, ScriptedNode

VOLUME = VolumeId(b"the volume here.")
Starter = Callable[..., Awaitable[tuple[ScriptedNode, Backend]]]

NODE_PROGRAM = """
import sys, trio
from pathlib import Path
from rainfs.node.run import run_node
trio.run(lambda: run_node(
    Path(sys.argv[1]), sys.argv[2], capacity_bytes=1 << 28,
    ready=lambda uuid, host, port: print(port, flush=True)))
"""


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


@pytest.fixture
def start(nursery: trio.Nursery) -> Starter:
    """Start a scripted node and open a backend to it."""

    async def begin(
        script: Callable[[Peer], Awaitable[None]], deadline_s: float = 10.0
    ) -> tuple[ScriptedNode, Backend]:
        node = ScriptedNode(script)
        nursery.start_soon(node.run)
        return node, open_backend(node.url, VOLUME, deadline_s=deadline_s, nursery=nursery)

    return begin


async def answer_gets(peer: Peer, length: int = 8) -> None:
    """Answer each get with its stripe number, repeated."""
    await peer.welcome(VOLUME)
    while True:
        event = await peer.receive()
        assert isinstance(event.message, wire.Get)
        await peer.send(event.request, wire.Data(), bytes([event.message.stripe]) * length)


async def test_answers_in_any_order_reach_their_callers(
    start: Starter, nursery: trio.Nursery
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")

    async def shuffled(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        while True:
            events = [await peer.receive() for _ in range(50)]
            random.Random(seed).shuffle(events)
            for event in events:
                assert isinstance(event.message, wire.Get)
                await peer.send(event.request, wire.Data(), bytes([event.message.stripe]) * 8)

    _, backend = await start(shuffled)

    async def ask(stripe: int) -> None:
        assert await backend.get(key(stripe), 0, 8) == bytes([stripe]) * 8

    async with trio.open_nursery() as askers:
        for stripe in range(50):
            askers.start_soon(ask, stripe)


async def test_an_answer_that_comes_twice_ends_the_connection_and_the_next_call_makes_another(
    start: Starter,
) -> None:
    async def twice(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        event = await peer.receive()
        await peer.send(event.request, wire.Data(), bytes(8))
        await peer.send_raw(pack_frame(wire.Kind.DONE, event.request, 1, 0) + b"\x90")
        await peer.wait_closed()

    node, backend = await start(twice)
    assert await backend.get(key(1), 0, 8) == bytes(8)
    with trio.fail_after(10):
        while node.connections < 2:
            try:
                await backend.get(key(1), 0, 8)
            except NodeUnavailable:
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    "raw",
    [
        pack_frame(wire.Kind.DATA, 1, 1, 0xFFFFFFFF),
        pack_frame(wire.Kind.DATA, 1, 1, 7) + b"\x90" + bytes(7),
        pack_frame(wire.Kind.DONE, 1, 1, 0) + b"\x90",
        pack_frame(wire.Kind.DATA, 99, 1, 8) + b"\x90" + bytes(8),
        pack_frame(wire.Kind.WELCOME, 1, 1, 0) + b"\x90",
        pack_frame(wire.Kind.SYNC, 1, 1, 0) + b"\x90",
        b"garbage, and enough of it",
    ],
    ids=["too long", "short", "wrong kind", "unknown request", "out of order", "role", "garbage"],
)
async def test_a_node_that_breaks_the_protocol_is_unavailable(start: Starter, raw: bytes) -> None:
    async def liar(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await peer.receive()
        await peer.send_raw(raw)
        await peer.wait_closed()

    _, backend = await start(liar)
    with trio.fail_after(5), pytest.raises(NodeUnavailable):
        await backend.get(key(1), 0, 8)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "another protocol"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "another protocol"),
        (b"\x00", "another protocol"),
        (b"rainfs\x02\x00", "version 2 .* this is version 1"),
        (b"rainfs\x00\x00", "version 0 .* this is version 1"),
    ],
)
async def test_another_protocol_or_version_is_named(
    start: Starter, greeting: bytes, reason: str
) -> None:
    async def stranger(peer: Peer) -> None:
        await peer.send_raw(greeting)
        await peer.wait_closed()

    _, backend = await start(stranger)
    for _ in range(2):
        with trio.fail_after(5), pytest.raises(RemoteProtocolError, match=reason):
            await backend.health()


async def test_a_refusal_at_the_greeting_is_raised_as_what_it_is(start: Starter) -> None:
    async def refuser(peer: Peer) -> None:
        await peer.receive()
        await peer.send(0, wire.Failed(7, "not yours"))

    _, backend = await start(refuser)
    with pytest.raises(ForeignVolume, match="not yours"):
        await backend.health()


async def test_a_node_that_never_greets_costs_the_deadline_once(start: Starter) -> None:
    async def silent(peer: Peer) -> None:
        await peer.wait_closed()

    node, backend = await start(silent, deadline_s=0.2)
    begun = trio.current_time()
    with pytest.raises(NodeUnavailable):
        await backend.get(key(1), 0, 8)
    assert trio.current_time() - begun < 5
    connections = node.connections
    failed_fast = 0
    while trio.current_time() - begun < 0.2 + lane.REPEATED_ATTEMPT_WAIT_S / 2:
        with pytest.raises(NodeUnavailable):
            await backend.get(key(1), 0, 8)
        failed_fast += 1
    assert node.connections <= connections + 3


async def test_a_late_answer_harms_nobody(start: Starter) -> None:
    late: list[int] = []

    async def slow(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        while True:
            event = await peer.receive()
            if isinstance(event.message, wire.Health):
                report = wire.Report(UUID, VOLUME, "", 0, 0, 0, 0, {}, False, "")
                await peer.send(event.request, report)
            elif not late:
                late.append(event.request)
            else:
                await peer.send(late[0], wire.Data(), b"l" * 8)
                await peer.send(event.request, wire.Data(), b"r" * 8)
                await peer.wait_closed()

    node, backend = await start(slow, deadline_s=0.3)

    async def keep_talking(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await backend.health()
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        talk = await nursery.start(keep_talking)
        with pytest.raises(NodeUnavailable, match="no answer within"):
            await backend.get(key(1), 0, 8)
        talk.cancel()
    assert await backend.get(key(2), 0, 8) == b"r" * 8
    assert node.connections == 1


async def test_a_silent_connection_is_given_up_at_the_deadline(start: Starter) -> None:
    async def deaf_at_first(peer: Peer) -> None:
        if node.connections == 1:
            await peer.welcome(VOLUME)
            await peer.wait_closed()
        else:
            await answer_gets(peer)

    node, backend = await start(deaf_at_first, deadline_s=0.3)

    async def ask() -> None:
        with pytest.raises(NodeUnavailable):
            await backend.get(key(1), 0, 8)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        while True:
            try:
                assert await backend.get(key(3), 0, 8) == b"\x03" * 8
                break
            except NodeUnavailable:
                await trio.sleep(0.01)
    assert node.connections == 2


async def test_a_node_that_takes_no_bytes_is_given_up_at_the_deadline(start: Starter) -> None:
    async def takes_nothing(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await trio.sleep_forever()

    _, backend = await start(takes_nothing, deadline_s=0.3)
    payload = bytearray(4 * MIB)

    async def put(stripe: int) -> None:
        with pytest.raises(NodeUnavailable):
            await backend.put(key(stripe), [payload], durable=True)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for stripe in range(4):
                nursery.start_soon(put, stripe)


async def test_a_cancelled_put_sends_what_was_meant_or_nothing(start: Starter) -> None:
    """The frame behind a cancelled one is whole, and no byte of reused memory has left."""
    arrived: list[bytes] = []
    read = trio.Event()

    async def slow_reader(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await read.wait()
        while True:
            event = await peer.receive()
            assert event.payload is not None
            arrived.append(bytes(event.payload))
            await peer.send(event.request, wire.Done())

    _, backend = await start(slow_reader)
    await_cancel = [trio.CancelScope() for _ in range(6)]

    async def put(stripe: int) -> None:
        payload = bytearray([stripe]) * (4 * MIB)
        with await_cancel[stripe]:
            await backend.put(key(stripe), [payload], durable=True)
        payload[:] = bytes(len(payload))

    async with trio.open_nursery() as nursery:
        for stripe in range(6):
            nursery.start_soon(put, stripe)
        await trio.testing.wait_all_tasks_blocked(0.05)
        for scope in await_cancel:
            scope.cancel()
    read.set()
    await backend.put(key(7), [b"\x07" * MIB], durable=True)
    assert arrived[-1] == b"\x07" * MIB
    for payload in arrived[:-1]:
        assert payload == payload[:1] * (4 * MIB)
    assert len(arrived) < 7


async def test_calls_fail_fast_when_nobody_listens(nursery: trio.Nursery) -> None:
    node = ScriptedNode(answer_gets)
    node.close()
    backend = open_backend(node.url, VOLUME, deadline_s=10, nursery=nursery)
    with trio.fail_after(5):
        for _ in range(200):
            with pytest.raises(NodeUnavailable):
                await backend.get(key(1), 0, 8)


async def test_a_closed_backend_ends_outstanding_calls(start: Starter) -> None:
    async def silent(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await peer.wait_closed()

    _, backend = await start(silent)

    async def ask() -> None:
        with pytest.raises(NodeUnavailable, match="closed"):
            await backend.get(key(1), 0, 8)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await backend.aclose()


async def test_a_cancelled_nursery_ends_all(start: Starter) -> None:
    async with trio.open_nursery() as owner:
        node = ScriptedNode(answer_gets)
        owner.start_soon(node.run)
        backend = open_backend(node.url, VOLUME, deadline_s=10, nursery=owner)
        assert await backend.get(key(1), 0, 8) == b"\x01" * 8
        owner.cancel_scope.cancel()
    with pytest.raises((NodeUnavailable, RuntimeError)):
        await backend.get(key(1), 0, 8)


# --- Real nodes, in processes of their own. -------------------------------------------------------


class NodeProcess:
    """A node daemon that can be killed, frozen and started again on its port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE_PROGRAM, str(self.directory), f"127.0.0.1:{self.port}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def send(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    @property
    def url(self) -> str:
        return f"rain://127.0.0.1:{self.port}"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path / "store")
    node.start()
    yield node
    if node.process is not None:
        node.end()


async def until_available(call: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(20):
        while True:
            try:
                await call()
                return
            except NodeUnavailable:
                await trio.sleep(0.01)


async def test_a_node_killed_during_puts_keeps_what_it_acknowledged(
    process: NodeProcess, nursery: trio.Nursery
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    backend = open_backend(process.url, VOLUME, deadline_s=10, nursery=nursery)
    await backend.claim(VOLUME)
    acknowledged: set[int] = set()

    def content(stripe: int) -> bytes:
        return random.Random(stripe).randbytes(PAGE_BYTES * (1 + 63 * (stripe % 2)))

    async def put(stripe: int, done: trio.Event) -> None:
        try:
            await backend.put(key(stripe), [content(stripe)], durable=True)
            acknowledged.add(stripe)
        except NodeUnavailable:
            done.set()

    for round_number in range(2):
        killed = trio.Event()
        enough = len(acknowledged) + rng.randint(10, 60)
        async with trio.open_nursery() as putters:
            for stripe in range(round_number * 1000, round_number * 1000 + 300):
                putters.start_soon(put, stripe, killed)
            while len(acknowledged) < enough:
                await trio.lowlevel.checkpoint()
            process.end(signal.SIGKILL)
        assert killed.is_set()
        process.start()
        await until_available(lambda: backend.get(key(min(acknowledged)), 0, 1))
        for stripe in acknowledged:
            data = content(stripe)
            assert await backend.get(key(stripe), 0, len(data)) == data


async def test_a_frozen_node_is_noticed_and_found_again(
    process: NodeProcess, nursery: trio.Nursery
) -> None:
    backend = open_backend(process.url, VOLUME, deadline_s=0.5, nursery=nursery)
    await until_available(lambda: backend.claim(VOLUME))
    data = random.Random(1).randbytes(MIB)
    await until_available(lambda: backend.put(key(1), [data], durable=True))
    process.send(signal.SIGSTOP)
    begun = trio.current_time()
    for length in (100, MIB):
        with pytest.raises(NodeUnavailable):
            await backend.get(key(1), 0, length)
    with pytest.raises(NodeUnavailable):
        await backend.put(key(2), [bytearray(MIB)], durable=True)
    assert trio.current_time() - begun < 4
    process.send(signal.SIGCONT)
    await until_available(backend.health)
    await until_available(lambda: backend.get(key(1), 0, MIB))
    assert await backend.get(key(1), 0, MIB) == data


async def test_a_node_that_stops_on_sigterm_exits_cleanly_and_comes_back(
    process: NodeProcess, nursery: trio.Nursery
) -> None:
    backend = open_backend(process.url, VOLUME, deadline_s=10, nursery=nursery)
    await backend.claim(VOLUME)
    data = random.Random(1).randbytes(MIB)
    await backend.put(key(1), [data], durable=False)
    assert await trio.to_thread.run_sync(process.end, signal.SIGTERM) == 0
    with pytest.raises(NodeUnavailable):
        await backend.get(key(1), 0, 10)
    process.start()
    # A probe tries at once, and what it finds is there for every call.
    assert (await backend.health()).volume == VOLUME
    assert await backend.get(key(1), 0, MIB) == data
    with pytest.raises(ShardMissing):
        await backend.get(key(2), 0, 1)
