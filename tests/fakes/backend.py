"""An in-memory node behind the `Backend` interface, with a switch for every fault.

`FakeNode` is the node: its shards and its switches.  `FakeBackend` is one session to it, and
`FakeFleet` is several nodes with an `open_backend` that finds them by URL.  Time is trio's, so a
`MockClock` drives delays and deadlines.

Switches on a node (all may change at any time, also while calls are under way):

    dead            calls raise NodeUnavailable at once (connection refused)
    frozen          calls wait until their deadline, then NodeUnavailable (SIGSTOP)
    delay_s[call]   calls named "put", "get", ... take this long; delay_s["*"] is for all others
    answer_delay_s[call]   the answer is under way this long after the call took place
    full, failing   puts raise NodeFull / NodeFailing; health says so
    unconnected     a put cannot be begun without waiting (see BeginningBackend)
    lose_answers    the call takes place, then NodeUnavailable: its outcome is unknown to the caller
    fail(call, error, times=1)    the next calls of that name (or "*") raise `error`
    drop(key)       the shard is gone
    corrupt(key)    gets of that shard raise ShardCorrupt
    flip(key, at)   one byte is silently wrong: what only an end-to-end check can notice
    reject_as(uuid=..., volume=...)   the node is another one from now on

A session opened for a volume is refused (ForeignVolume) by a node that was not claimed for it, as
by a real one: make the node with `volume=...` or claim it.  A session opened for no volume may do
everything here; a real one may only `health` and `claim`.

Each call is appended to `node.log` as it starts; `node.in_flight` and `node.most_in_flight` count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from rainfs.array.backend import Buffer
from rainfs.array.linger import Linger
from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFailing,
    NodeFull,
    NodeUnavailable,
    RainError,
    ShardConflict,
    ShardCorrupt,
    ShardMissing,
    StorageError,
)
from rainfs.model import (
    MAX_ABOUT_BYTES,
    MAX_SHARD_BYTES,
    MIB,
    PAGE_BYTES,
    NodeHealth,
    NodeUuid,
    ShardInfo,
    ShardKey,
    VolumeId,
)

DEFAULT_CAPACITY_BYTES = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it was made."""

    name: str
    key: ShardKey | None = None
    offset: int = 0
    length: int = 0
    started_s: float = 0.0


@dataclass(slots=True)
class _Held:
    payload: bytearray
    about: bytes
    durable: bool


class FakeNode:
    """The node itself; outlives the sessions to it."""

    def __init__(
        self,
        number: int = 1,
        *,
        volume: VolumeId | None = None,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
        labels: dict[str, str] | None = None,
    ) -> None:
        self.url = f"fake://node-{number}"
        self.name = f"node-{number}"
        self.uuid = NodeUuid(number.to_bytes(16, "big"))
        self.volume = volume
        self.capacity_bytes = capacity_bytes
        self.labels = dict(labels or {})
        self.shards: dict[ShardKey, _Held] = {}
        self.dead = False
        self.full = False
        self.failing = False
        self.unconnected = False
        self.lose_answers = False
        self.delay_s: dict[str, float] = {}
        self.answer_delay_s: dict[str, float] = {}
        self.log: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._corrupt: set[ShardKey] = set()
        self._failures: dict[str, deque[StorageError]] = {}
        self._thawed = trio.Event()
        self._thawed.set()

    @property
    def frozen(self) -> bool:
        """Whether calls hang; set it to freeze or thaw."""
        return not self._thawed.is_set()

    @frozen.setter
    def frozen(self, value: bool) -> None:
        if value and self._thawed.is_set():
            self._thawed = trio.Event()
        elif not value:
            self._thawed.set()

    @property
    def used_bytes(self) -> int:
        return sum(len(held.payload) for held in self.shards.values())

    def fail(self, call: str, error: StorageError, times: int = 1) -> None:
        """Let the next `times` calls named `call` ("*": any) raise `error`."""
        self._failures.setdefault(call, deque()).extend([error] * times)

    def drop(self, key: ShardKey) -> None:
        """Lose a shard."""
        self.shards.pop(key, None)

    def corrupt(self, key: ShardKey) -> None:
        """Let the checksums of a shard fail from now on (until it is put again)."""
        self._corrupt.add(key)

    def flip(self, key: ShardKey, at: int = 0) -> None:
        """Make one stored byte wrong without the node noticing."""
        self.shards[key].payload[at] ^= 0xFF

    def reject_as(self, *, uuid: NodeUuid | None = None, volume: VolumeId | None = None) -> None:
        """Become another node, or a node of another volume."""
        self.uuid = uuid or self.uuid
        self.volume = volume or self.volume

    def wipe(self) -> None:
        """Lose everything but the identity."""
        self.shards.clear()
        self._corrupt.clear()

    def calls(self, name: str) -> list[Call]:
        """Return the logged calls of one name."""
        return [call for call in self.log if call.name == name]

    def session(self, *, deadline_s: float = 10.0, volume: VolumeId | None = None) -> FakeBackend:
        """Open a session to this node."""
        return FakeBackend(self, volume, deadline_s=deadline_s)

    @asynccontextmanager
    async def _call(self, call: Call, deadline_s: float) -> AsyncIterator[None]:
        self.log.append(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            with trio.move_on_after(deadline_s) as scope:
                await trio.lowlevel.checkpoint()
                if (delay_s := self.delay_s.get(call.name, self.delay_s.get("*", 0.0))) > 0:
                    await trio.sleep(delay_s)
                if self.dead:
                    raise NodeUnavailable(f"{self.url}: connection refused")
                await self._thawed.wait()
                for name in (call.name, "*"):
                    if failures := self._failures.get(name):
                        raise failures.popleft()
                yield
                if (answer_s := self.answer_delay_s.get(call.name, 0.0)) > 0:
                    await trio.sleep(answer_s)
                if self.lose_answers or self.dead:
                    raise NodeUnavailable(f"{self.url}: connection lost")
            if scope.cancelled_caught:
                raise NodeUnavailable(f"{self.url}: no answer within {deadline_s:g} s")
        finally:
            self.in_flight -= 1


class FakeBackend:
    """One session to a `FakeNode`; implements `rainfs.array.backend.Backend`."""

    def __init__(self, node: FakeNode, volume: VolumeId | None, *, deadline_s: float) -> None:
        self.node = node
        self._volume = volume
        self._deadline_s = deadline_s
        self._closed = False
        self._calls: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        return self.node.url

    @asynccontextmanager
    async def _call(
        self, name: str, key: ShardKey | None = None, offset: int = 0, length: int = 0
    ) -> AsyncIterator[FakeNode]:
        if self._closed:
            raise NodeUnavailable(f"{self.url}: closed")
        call = Call(name, key, offset, length, trio.current_time())
        node = self.node
        with trio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                async with node._call(call, self._deadline_s):
                    if (
                        name not in {"health", "claim"}
                        and self._volume is not None
                        and node.volume != self._volume
                    ):
                        raise ForeignVolume(f"{self.url}: belongs to another volume, or to none")
                    yield node
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught:
            raise NodeUnavailable(f"{self.url}: closed")

    async def put(
        self, key: ShardKey, payload: Sequence[Buffer], about: bytes = b"", *, durable: bool
    ) -> None:
        data = bytearray().join(payload)
        if not data or len(data) % PAGE_BYTES or len(data) > MAX_SHARD_BYTES:
            raise InputError(f"shard of {len(data)} bytes")
        if len(about) > MAX_ABOUT_BYTES:
            raise InputError(f"description of {len(about)} bytes")
        async with self._call("put", key, 0, len(data)) as node:
            if node.failing:
                raise NodeFailing(f"{self.url}: disk error")
            held = node.shards.get(key)
            if held is not None and key not in node._corrupt:
                if held.payload != data or held.about != about:
                    raise ShardConflict(f"{self.url}: {key} is held with other content")
                held.durable = held.durable or durable
                return
            if node.full or node.used_bytes + len(data) > node.capacity_bytes:
                raise NodeFull(f"{self.url}: full")
            node.shards[key] = _Held(data, bytes(about), durable)
            node._corrupt.discard(key)

    async def get(self, key: ShardKey, offset: int, length: int) -> memoryview:
        async with self._call("get", key, offset, length) as node:
            held = self._held(node, key)
            if offset < 0 or length < 0 or offset + length > len(held.payload):
                raise InputError(f"{key}: no bytes at {offset}+{length}")
            if key in node._corrupt:
                raise ShardCorrupt(f"{self.url}: {key} does not match its checksums")
            return memoryview(bytearray(memoryview(held.payload)[offset : offset + length]))

    async def delete(self, keys: Sequence[ShardKey]) -> None:
        async with self._call("delete", keys[0] if keys else None, 0, len(keys)) as node:
            for key in keys:
                node.shards.pop(key, None)
                node._corrupt.discard(key)

    async def list(self, after: ShardKey | None, limit: int) -> list[ShardInfo]:
        async with self._call("list", after, 0, limit) as node:
            keys = sorted(key for key in node.shards if after is None or key > after)[:limit]
            return [self._info(key, node.shards[key])._replace(about=b"") for key in keys]

    async def stat(self, key: ShardKey) -> ShardInfo:
        async with self._call("stat", key) as node:
            return self._info(key, self._held(node, key))

    async def sync(self) -> None:
        async with self._call("sync") as node:
            if node.failing:
                raise NodeFailing(f"{self.url}: disk error")
            for held in node.shards.values():
                held.durable = True

    async def health(self) -> NodeHealth:
        async with self._call("health") as node:
            used = node.used_bytes
            return NodeHealth(
                uuid=node.uuid,
                volume=node.volume,
                name=node.name,
                capacity_bytes=node.capacity_bytes,
                used_bytes=used,
                free_bytes=0 if node.full else max(0, node.capacity_bytes - used),
                shards=len(node.shards),
                labels=dict(node.labels),
                failing=node.failing,
                version="fake",
            )

    async def claim(self, volume: VolumeId) -> None:
        async with self._call("claim") as node:
            if node.volume not in (None, volume):
                raise ForeignVolume(f"{self.url}: belongs to another volume")
            node.volume = volume

    async def aclose(self) -> None:
        self._closed = True
        for scope in tuple(self._calls):
            scope.cancel()
        await trio.lowlevel.checkpoint()

    def _held(self, node: FakeNode, key: ShardKey) -> _Held:
        try:
            return node.shards[key]
        except KeyError:
            raise ShardMissing(f"{self.url}: no shard {key}") from None

    @staticmethod
    def _info(key: ShardKey, held: _Held) -> ShardInfo:
        return ShardInfo(key, len(held.payload), held.durable, held.about)


class FakeBegunPut:
    """A put that runs in a task of its own."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = False

    def abandon(self) -> None:
        assert not self.over
        self.over = True
        self.scope.cancel()

    @property
    def fileno(self) -> int:
        raise AssertionError("nobody lingers without a rival")

    def stay(self, most_ms: int) -> bool:
        """No time passes while the loop stands still, so nothing comes."""
        assert most_ms >= 1
        return False


class FakeBegunGet:
    """A get that runs in a task of its own."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._data: memoryview | None = None
        self._error: RainError | None = None

    async def run(self, get: Callable[[], Awaitable[memoryview]]) -> None:
        with self._scope:
            try:
                self._data = await get()
            except RainError as error:
                self._error = error
        self._ended.set()

    def linger(self, linger: Linger) -> bool:
        """No time passes while the loop stands still, so nothing comes."""
        return self._ended.is_set()

    async def rest(self) -> memoryview:
        try:
            await self._ended.wait()
        finally:
            self.abandon()
        return self.result()

    def result(self) -> memoryview:
        if self._error is not None:
            raise self._error
        assert self._data is not None
        return self._data

    def abandon(self) -> None:
        self._scope.cancel()


class BeginningBackend(FakeBackend):
    """A session that begins calls as well: `rainfs.array.backend.PutBeginner` and `GetBeginner`."""

    def __init__(
        self, node: FakeNode, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
    ) -> None:
        super().__init__(node, volume, deadline_s=deadline_s)
        self._nursery = nursery

    def begin_put(
        self,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes,
        over: Callable[[RainError | None], None],
    ) -> FakeBegunPut | None:
        if self._closed or self.node.unconnected:
            return None
        begun = FakeBegunPut()
        self._nursery.start_soon(self._put, begun, key, payload, about, over)
        return begun

    def begin_get(self, key: ShardKey, offset: int, length: int) -> FakeBegunGet | None:
        if self._closed or self.node.unconnected:
            return None
        begun = FakeBegunGet()
        self._nursery.start_soon(begun.run, lambda: self.get(key, offset, length))
        return begun

    async def _put(
        self,
        begun: FakeBegunPut,
        key: ShardKey,
        payload: Sequence[Buffer],
        about: bytes,
        over: Callable[[RainError | None], None],
    ) -> None:
        outcome: RainError | None = None
        with begun.scope:
            try:
                await self.put(key, payload, about, durable=True)
            except RainError as error:
                outcome = error
        if not begun.over:
            begun.over = True
            over(outcome)


class FakeFleet:
    """Several nodes, each with a host label of its own, found by URL."""

    begins_puts = False
    """Whether its backends offer `begin_put` and `begin_get`."""

    def __init__(
        self,
        count: int,
        *,
        volume: VolumeId | None = None,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
    ) -> None:
        self.nodes = [
            FakeNode(
                number,
                volume=volume,
                capacity_bytes=capacity_bytes,
                labels={"host": f"host-{number}"},
            )
            for number in range(1, count + 1)
        ]

    def __getitem__(self, index: int) -> FakeNode:
        return self.nodes[index]

    def open_backend(
        self, url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
    ) -> FakeBackend:
        """Stand in for the registry's `open_backend`."""
        for node in self.nodes:
            if node.url == url and self.begins_puts:
                return BeginningBackend(node, volume, deadline_s=deadline_s, nursery=nursery)
            if node.url == url:
                return FakeBackend(node, volume, deadline_s=deadline_s)
        raise InputError(f"{url}: no such fake node")
