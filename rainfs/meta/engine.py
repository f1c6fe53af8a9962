"""The interface below all metadata: a transactional, ordered map from bytes to bytes.

Engines: `sqlite` (embedded, the default), `memory` (tests), later `etcd`.  All pass
`tests/contract/test_engine.py`.  The engine knows neither keys nor values.

On the embedded engine nothing in a transaction suspends, so a transaction body is atomic towards
every other task.  Hence the rule: no await between a transaction's first read and its commit,
except on the transaction itself.  A body may run more than once (after a conflict), so it must
have no effects outside its transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_TRANSACTION_KEYS = 10_000
"""Most keys that one transaction may put and delete; larger work is several transactions."""


class Reader(Protocol):
    """A consistent snapshot.  `get` and `scan` answer for one point in time."""

    async def get(self, key: bytes) -> bytes | None:
        """Return the value, or None."""
        ...

    async def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return at most `limit` pairs with `start <= key < stop`, in (reverse) key order."""
        ...


class Transaction(Reader, Protocol):
    """A snapshot plus writes that take effect together at commit; reads see own writes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove a key; absent is fine."""
        ...


class Rehearsal(Protocol[T_co]):
    """A transaction's body that has run ahead of its commit."""

    @property
    def result(self) -> T_co:
        """What the body returned."""
        ...

    def commit(self) -> bool:
        """Commit what the body did, as `Engine.run` would, if running it now would do the same.

        False, with nothing done, where that is not certain: then `run` it.
        """
        ...


class SessionLock(Protocol):
    """The exclusive right to be the read-write session; gone when its process dies."""

    def release(self) -> None:
        """Give it up.  Idempotent."""
        ...


class Engine(Protocol):
    """A store of key-value pairs with serialisable transactions."""

    @property
    def url(self) -> str:
        """The URL that opened it."""
        ...

    async def run(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` and commit; retried on conflict.  An exception from `body` rolls back.

        The commit is seen by this engine at once, and `durable` makes it survive a power cut.  It
        survives the death of this process and is seen by others at once too, but for the holder
        of the session lock: an engine may gather its commits for a moment (`grouping.GROUP_S`)
        and write them together, in their order, all or none.

        Raises: TransactionConflict when retries run out, MetadataError when the engine fails.
        """
        ...

    async def read(self, body: Callable[[Reader], Awaitable[T]]) -> T:
        """Run `body` on a snapshot."""
        ...

    def rehearse(self, body: Callable[[Transaction], Awaitable[T]]) -> Rehearsal[T] | None:
        """Run `body` at once and commit nothing, so that a commit soon after costs less.

        None, as if never called, where that takes waiting or the body fails: `run` will tell.
        """
        ...

    async def durable(self) -> None:
        """Return once every commit that returned before this call is on stable storage.

        That goes for commits of every process: whoever acts on what it has read calls this first.

        Concurrent callers share one synchronisation.  Raises: MetadataError if it failed.
        """
        ...

    def lock_session(self) -> SessionLock | None:
        """Take the session lock without waiting; None while somebody holds it."""
        ...

    def session_locked(self) -> bool:
        """Whether somebody holds the session lock; asking never disturbs a taker."""
        ...

    async def aclose(self) -> None:
        """Close; what was committed is durable afterwards.  Idempotent."""
        ...
