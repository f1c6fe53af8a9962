"""Puts over rain:// that are begun at once, awaited in line, abandoned or lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from rainfs.array.backend import PutBeginner
from rainfs.array.backends.rain import RainBackend
from rainfs.array.backends.registry import open_backend
from rainfs.errors import NodeUnavailable, RainError, ShardConflict
from rainfs.model import PAGE_BYTES, ShardKey, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.framing import pack_frame
from tests.fakes.peer import Peer, ScriptedNode

VOLUME = VolumeId(b"the volume here.")
STAY_MS = 10_000

NODE_PROGRAM = """
import sys, trio
from pathlib import Path
from rainfs.node.run import run_node
trio.run(lambda: run_node(
    Path(sys.argv[1]), "127.0.0.1:0", capacity_bytes=1 << 28,
    ready=lambda uuid, host, port: print(port, flush=True)))
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A node in a process of its own: it answers while our event loop stands still."""
    process = subprocess.Popen(
        [sys.executable, "-c", NODE_PROGRAM, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    yield process, f"rain://127.0.0.1:{port}"
    process.kill()
    process.wait()
    process.stdout.close()


def key(stripe: int) -> ShardKey:
    return ShardKey(StripeId(stripe), 0)


class Ends:
    """What begun puts came to, by stripe."""

    def __init__(self) -> None:
        self.of: dict[int, list[RainError | None]] = {}

    def taker(self, stripe: int) -> Callable[[RainError | None], None]:
        return self.of.setdefault(stripe, []).append


async def connected(url: str, nursery: trio.Nursery) -> RainBackend:
    backend = open_backend(url, VOLUME, deadline_s=10, nursery=nursery)
    assert isinstance(backend, RainBackend)
    assert isinstance(backend, PutBeginner)
    ends = Ends()
    assert backend.begin_put(key(1), [bytes(PAGE_BYTES)], b"", ends.taker(1)) is None
    await backend.claim(VOLUME)
    assert ends.of == {1: []}, "what could not begin must not end"
    return backend


async def test_begun_puts_are_answered_while_the_loop_stands_still(
    node: tuple[subprocess.Popen[str], str], nursery: trio.Nursery
) -> None:
    backend = await connected(node[1], nursery)
    ends = Ends()
    content = {stripe: os.urandom(PAGE_BYTES * (stripe % 3 + 1)) for stripe in range(1, 16)}
    begun = {
        stripe: backend.begin_put(key(stripe), [data], b"about", ends.taker(stripe))
        for stripe, data in content.items()
    }
    for stripe, put in begun.items():
        assert put is not None
        while not ends.of[stripe]:
            assert put.stay(STAY_MS)
    assert ends.of == {stripe: [None] for stripe in content}
    for stripe, data in content.items():
        assert bytes(await backend.get(key(stripe), 0, len(data))) == data
        assert (await backend.stat(key(stripe))).durable
    again = backend.begin_put(key(1), [b"x" * PAGE_BYTES], b"", ends.taker(100))
    assert again is not None
    while not ends.of[100]:
        assert again.stay(STAY_MS)
    assert isinstance(ends.of[100][0], ShardConflict)


async def test_a_node_that_dies_ends_begun_puts_in_line(
    node: tuple[subprocess.Popen[str], str], nursery: trio.Nursery
) -> None:
    backend = await connected(node[1], nursery)
    ends = Ends()
    node[0].kill()
    node[0].wait()
    put = backend.begin_put(key(1), [bytes(PAGE_BYTES)], b"", ends.taker(1))
    while put is not None and not ends.of[1]:
        put.stay(STAY_MS)
    assert put is None or isinstance(ends.of[1][0], NodeUnavailable)
    with pytest.raises(NodeUnavailable):
        await backend.put(key(2), [bytes(PAGE_BYTES)], durable=True)


async def test_nothing_comes_of_an_abandoned_put_and_the_next_is_answered(
    nursery: trio.Nursery,
) -> None:
    """The answer to the abandoned one arrives all the same."""

    async def script(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await peer.send((await peer.receive()).request, wire.Done())
        puts = [await peer.receive() for _ in range(2)]
        for put in puts:
            await peer.send(put.request, wire.Done())
        await trio.sleep_forever()

    scripted = ScriptedNode(script)
    nursery.start_soon(scripted.run)
    backend = await connected(scripted.url, nursery)
    ends = Ends()
    memory = bytearray(PAGE_BYTES)
    abandoned = backend.begin_put(key(1), [memory], b"", ends.taker(1))
    kept = backend.begin_put(key(2), [bytes(PAGE_BYTES)], b"", ends.taker(2))
    assert abandoned is not None
    assert kept is not None
    abandoned.abandon()
    memory.clear()  # A buffer that somebody refers to cannot be resized.
    with trio.fail_after(10):
        while not ends.of[2]:
            await trio.lowlevel.checkpoint()
    assert ends.of == {1: [], 2: [None]}


async def test_a_lie_that_is_met_in_line_ends_the_connection(nursery: trio.Nursery) -> None:
    lied = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        await peer.send((await peer.receive()).request, wire.Done())
        await peer.receive()
        await peer.send_raw(pack_frame(wire.Kind.DATA, 77, 0, 0))
        lied.set()
        await trio.sleep_forever()

    scripted = ScriptedNode(script)
    nursery.start_soon(scripted.run)
    backend = await connected(scripted.url, nursery)
    ends = Ends()
    put = backend.begin_put(key(1), [bytes(PAGE_BYTES)], b"", ends.taker(1))
    assert put is not None
    await lied.wait()
    if not ends.of[1]:
        assert put.stay(STAY_MS)
    [error] = ends.of[1]
    assert isinstance(error, NodeUnavailable)
    await trio.testing.wait_all_tasks_blocked()
    assert backend.begin_put(key(2), [bytes(PAGE_BYTES)], b"", ends.taker(2)) is None
