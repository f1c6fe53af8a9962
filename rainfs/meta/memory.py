"""An engine in memory, for tests: truly optimistic, so that bodies are run again on conflict.

Invariants: a transaction reads the state of its beginning or is abandoned; at commit nothing that
it read has changed.  Switches make conflicts likely (`interleave` suspends at every read,
`conflict_probability` invents some) and take back what was not made durable (`power_cut`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio
from sortedcontainers import SortedDict

from rainfs.errors import MetadataError, TransactionConflict
from rainfs.meta.engine import (
    MAX_TRANSACTION_KEYS,
    Reader,
    Rehearsal,
    SessionLock,
    Transaction,
)
from rainfs.meta.overlay import merge_scan

T = TypeVar("T")

MAX_ATTEMPTS = 1_000


class _Conflict(Exception):
    """The transaction's view is no longer the latest; run its body again."""


class _MemoryTransaction:
    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self._start = engine.version
        self._keys: set[bytes] = set()
        self._ranges: list[tuple[bytes, bytes]] = []
        self.pending: dict[bytes, bytes | None] = {}

    async def get(self, key: bytes) -> bytes | None:
        await self._engine.pause()
        if key in self.pending:
            return self.pending[key]
        self._keys.add(key)
        self.check()
        value: bytes | None = self._engine.rows.get(key)
        return value

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        await self._engine.pause()
        if limit <= 0:
            return []
        self._ranges.append((start, stop))
        self.check()
        changed = {k: v for k, v in self.pending.items() if start <= k < stop}
        rows: list[tuple[bytes, bytes]] = []
        stored = self._engine.rows
        for key in stored.irange(start, stop, inclusive=(True, False), reverse=reverse):
            rows.append((key, stored[key]))
            if len(rows) >= limit + len(changed):
                break
        return merge_scan(rows, changed, limit, reverse) if changed else rows

    def put(self, key: bytes, value: bytes) -> None:
        self.pending[key] = value

    def delete(self, key: bytes) -> None:
        self.pending[key] = None

    def check(self) -> None:
        """Raises: _Conflict if a later commit touched what was read."""
        for key in self._engine.changed_since(self._start):
            if key in self._keys or any(low <= key < high for low, high in self._ranges):
                raise _Conflict


class _MemorySessionLock:
    def __init__(self, engine: MemoryEngine) -> None:
        self._engine: MemoryEngine | None = engine

    def release(self) -> None:
        """Give it up.  Idempotent."""
        if self._engine is not None:
            self._engine.locked = False
            self._engine = None


class MemoryEngine:
    """See `rainfs.meta.engine.Engine`."""

    def __init__(
        self,
        *,
        interleave: bool = False,
        conflict_probability: float = 0.0,
        random: Random | None = None,
    ) -> None:
        self.rows: SortedDict = SortedDict()
        self.version = 0
        self.locked = False
        self.attempts = 0
        """How many times any body was run."""
        self._log: list[tuple[int, bytes]] = []
        self._undo: list[tuple[bytes, bytes | None]] = []
        self._interleave = interleave
        self._conflict_probability = conflict_probability
        self._random = random or Random(0)  # noqa: S311 (tests)
        self._running = 0
        self._closed = False

    @property
    def url(self) -> str:
        """The URL that opened it."""
        return "memory://"

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """See `Engine.run`."""
        return await self._attempt(body)

    async def read(self, body: Callable[[Reader], Awaitable[T]]) -> T:
        """See `Engine.read`."""
        return await self._attempt(body)

    def rehearse(self, body: Callable[[Transaction], Awaitable[T]]) -> Rehearsal[T] | None:
        """See `Engine.rehearse`; bodies may suspend here, so there are none."""
        return None

    async def durable(self) -> None:
        """See `Engine.durable`."""
        await trio.lowlevel.checkpoint()
        self._undo.clear()

    def lock_session(self) -> SessionLock | None:
        """See `Engine.lock_session`."""
        if self.locked:
            return None
        self.locked = True
        return _MemorySessionLock(self)

    def session_locked(self) -> bool:
        """See `Engine.session_locked`."""
        return self.locked

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        self._closed = True
        await self.durable()

    def power_cut(self) -> None:
        """Take back every commit since the last `durable`, and the session lock; then go on."""
        for key, value in reversed(self._undo):
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self._undo.clear()
        self.locked = False
        self._closed = False

    async def pause(self) -> None:
        """Let other tasks in, where tests want them."""
        if self._interleave:
            await trio.lowlevel.checkpoint()

    def changed_since(self, version: int) -> list[bytes]:
        """Return the keys that commits after `version` wrote."""
        if version == self.version:
            return []
        return [key for at, key in self._log if at > version]

    async def _attempt(self, body: Callable[[_MemoryTransaction], Awaitable[T]]) -> T:
        if self._closed:
            raise MetadataError("the metadata engine is closed")
        for _ in range(MAX_ATTEMPTS):
            transaction = _MemoryTransaction(self)
            self.attempts += 1
            self._running += 1
            try:
                result = await body(transaction)
                if self._random.random() < self._conflict_probability:
                    continue
                transaction.check()
                self._commit(transaction.pending)
            except _Conflict:
                continue
            finally:
                self._running -= 1
                if not self._running:
                    self._log.clear()
            return result
        raise TransactionConflict("a transaction kept meeting conflicting ones")

    def _commit(self, pending: dict[bytes, bytes | None]) -> None:
        if len(pending) > MAX_TRANSACTION_KEYS:
            raise MetadataError(f"a transaction wrote {len(pending)} keys: too many")
        if not pending:
            return
        self.version += 1
        for key, value in pending.items():
            self._log.append((self.version, key))
            self._undo.append((key, self.rows.get(key)))
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
