"""Waiting for a lone answer on the thread itself, against a node in a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rainfs.array import linger as linger_module
from rainfs.array.backend import Backend, GetBeginner
from rainfs.array.backends.registry import open_backend
from rainfs.array.linger import MAX_SKIPPED, Linger
from rainfs.errors import NodeUnavailable, RemoteProtocolError, ShardMissing
from rainfs.model import ShardKey, StripeId, VolumeId
from rainfs.wire import messages as wire
from rainfs.wire.faults import fault_code
from tests.fakes.peer import Peer, PeerGone, ScriptedNode

VOLUME = VolumeId(b"the volume here.")
KEY = ShardKey(StripeId(7), 0)
PATIENT_S = 20.0
Script = Callable[[Peer], Awaitable[None]]


class Rival:
    """Something else that may want the thread."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()

    def call(self) -> None:
        os.write(self._write, b"!")

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._write)


@pytest.fixture
def rival() -> Iterator[Rival]:
    made = Rival()
    yield made
    made.close()


@pytest.fixture
def linger(rival: Rival, monkeypatch: pytest.MonkeyPatch) -> Linger:
    """One that waits as long as it takes, so that no test depends on how fast anything is."""
    monkeypatch.setattr(linger_module, "LINGER_S", PATIENT_S)
    made = Linger()
    made.yield_to(rival.fd)
    made.under_way = 1
    return made


@pytest.fixture
def serve() -> Iterator[Callable[[Script], ScriptedNode]]:
    """Run scripted nodes outside this thread, which is going to block."""
    ends: list[Callable[[], None]] = []

    def begin(script: Script) -> ScriptedNode:
        started = threading.Event()
        nodes: list[ScriptedNode] = []
        scopes: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

        async def main() -> None:
            with trio.CancelScope() as scope:
                nodes.append(ScriptedNode(script))
                scopes.append((trio.lowlevel.current_trio_token(), scope))
                started.set()
                await nodes[0].run()

        thread = threading.Thread(target=lambda: trio.run(main))
        thread.start()
        started.wait()

        def end() -> None:
            token, scope = scopes[0]
            trio.from_thread.run_sync(scope.cancel, trio_token=token)
            thread.join()

        ends.append(end)
        return nodes[0]

    yield begin
    for end in ends:
        end()


def get_soon(backend: GetBeginner, linger: Linger) -> memoryview | Awaitable[memoryview]:
    """As a reader does it."""
    begun = backend.begin_get(KEY, 0, 4) if linger.worth_it else None
    if begun is None:
        return cast(Backend, backend).get(KEY, 0, 4)
    return begun.result() if begun.linger(linger) else begun.rest()


async def connected(node: ScriptedNode, nursery: trio.Nursery) -> GetBeginner:
    backend = open_backend(node.url, VOLUME, deadline_s=PATIENT_S, nursery=nursery)
    assert bytes(await backend.get(KEY, 0, 4)) == b"data"
    assert isinstance(backend, GetBeginner)
    return backend


async def answering(peer: Peer) -> None:
    await peer.welcome(VOLUME)
    while True:
        event = await peer.receive()
        await peer.send(event.request, wire.Data(), b"data")


def after_the_first(then: Callable[[Peer, int], Awaitable[None]]) -> Script:
    """Answer one get; leave what comes then to `then`."""

    async def script(peer: Peer) -> None:
        await peer.welcome(VOLUME)
        event = await peer.receive()
        await peer.send(event.request, wire.Data(), b"data")
        await then(peer, (await peer.receive()).request)
        await peer.wait_closed()

    return script


async def test_a_lone_get_is_answered_without_a_turn_of_the_scheduler(
    serve: Callable[[Script], ScriptedNode], linger: Linger, nursery: trio.Nursery
) -> None:
    backend = await connected(serve(answering), nursery)
    for _ in range(20):
        assert get_soon(backend, linger) == b"data"
    assert isinstance(waiting := get_soon(backend, Linger()), Awaitable)
    assert bytes(await waiting) == b"data"


async def test_a_rival_ends_the_wait_and_the_answer_comes_later(
    serve: Callable[[Script], ScriptedNode], linger: Linger, rival: Rival, nursery: trio.Nursery
) -> None:
    asked = threading.Event()
    answer = threading.Event()

    async def late(peer: Peer, request: int) -> None:
        asked.set()
        await trio.to_thread.run_sync(answer.wait)
        await peer.send(request, wire.Data(), b"late")

    backend = await connected(serve(after_the_first(late)), nursery)
    threading.Thread(target=lambda: (asked.wait(), rival.call())).start()
    waiting = get_soon(backend, linger)
    assert isinstance(waiting, Awaitable)
    answer.set()
    assert bytes(await waiting) == b"late"


async def test_others_under_way_are_not_kept_waiting(
    serve: Callable[[Script], ScriptedNode], linger: Linger, nursery: trio.Nursery
) -> None:
    backend = await connected(serve(answering), nursery)
    linger.under_way = 2
    assert isinstance(waiting := get_soon(backend, linger), Awaitable)
    assert bytes(await waiting) == b"data"


async def test_what_the_node_refuses_is_raised_at_once(
    serve: Callable[[Script], ScriptedNode], linger: Linger, nursery: trio.Nursery
) -> None:
    async def refuse(peer: Peer, request: int) -> None:
        await peer.send(request, wire.Failed(fault_code(ShardMissing("")), "gone"))

    backend = await connected(serve(after_the_first(refuse)), nursery)
    with pytest.raises(ShardMissing):
        get_soon(backend, linger)


async def test_a_node_that_hangs_up_meanwhile_is_unavailable(
    serve: Callable[[Script], ScriptedNode], linger: Linger, nursery: trio.Nursery
) -> None:
    async def hang_up(peer: Peer, request: int) -> None:
        raise PeerGone

    node = serve(after_the_first(hang_up))
    backend = await connected(node, nursery)
    with pytest.raises(NodeUnavailable):
        get_soon(backend, linger)
    assert (
        bytes(
            await open_backend(node.url, VOLUME, deadline_s=PATIENT_S, nursery=nursery).get(
                KEY, 0, 4
            )
        )
        == b"data"
    )


async def test_a_node_that_breaks_the_protocol_meanwhile_is_dropped(
    serve: Callable[[Script], ScriptedNode],
    linger: Linger,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def babble(peer: Peer, request: int) -> None:
        await peer.send_raw(b"\xff" * 64)

    backend = await connected(serve(after_the_first(babble)), nursery)
    with pytest.raises((NodeUnavailable, RemoteProtocolError)):
        get_soon(backend, linger)
    await wait_all_tasks_blocked()
    assert "unknown kind" in caplog.text


async def test_a_cancelled_rest_leaves_the_connection_whole(
    serve: Callable[[Script], ScriptedNode], linger: Linger, rival: Rival, nursery: trio.Nursery
) -> None:
    async def in_turn(peer: Peer, request: int) -> None:
        second = await peer.receive()
        await peer.send(request, wire.Data(), b"late")
        await peer.send(second.request, wire.Data(), b"next")

    backend = await connected(serve(after_the_first(in_turn)), nursery)
    rival.call()
    waiting = get_soon(backend, linger)
    assert isinstance(waiting, Awaitable)
    with trio.CancelScope() as scope:
        scope.cancel()
        await waiting
    assert scope.cancelled_caught
    found = get_soon(backend, linger)
    assert bytes(await found if isinstance(found, Awaitable) else found) == b"next"


def test_waits_that_come_to_nothing_are_tried_ever_more_rarely(
    rival: Rival, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger_module, "LINGER_S", 0.0)
    silent = Rival()
    linger = Linger()
    assert not linger.worth_it, "without a rival nothing could end a wait"
    linger.yield_to(rival.fd)
    linger.under_way = 1
    gaps = []
    for _ in range(9):
        gap = 0
        while not linger.worth_it:
            gap += 1
        gaps.append(gap)
        assert not linger.wait(silent.fd)
    assert gaps == [0, 1, 3, 7, 15, 31, 63, MAX_SKIPPED, MAX_SKIPPED]
    silent.call()
    assert linger.wait(silent.fd)
    assert linger.worth_it
    silent.close()
