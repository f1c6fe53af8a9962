"""A shard between its write and its commit.

Owns the promise that space which no commit takes over is given back.  Refuses to know files.
"""

from __future__ import annotations

from collections.abc import Callable

from rainfs.model import ShardKey
from rainfs.store.journal import Entry, entry_bytes
from rainfs.store.rows import Row, pack_key, pack_row


class Pending:
    """A shard that was written but not committed.  Dropping it gives its space back."""

    __slots__ = ("_abandon", "is_new", "key", "payload", "replaces", "row")

    def __init__(
        self,
        key: ShardKey,
        row: Row,
        payload: bytes | None,
        *,
        replaces: bool = False,
        abandon: Callable[[Row], None] | None = None,
    ) -> None:
        """Hold `row`'s space until it is settled or discarded; `abandon` None holds none."""
        self.key = key
        self.row = row
        self.payload = payload
        """The bytes, when the journal is to carry them."""
        self.replaces = replaces
        """Whether the shard of that key that is there is known to be corrupt."""
        self.is_new = True
        """Whether the store has nothing under that key; the commit finds out."""
        self._abandon = abandon

    @property
    def holds_space(self) -> bool:
        """Whether the bytes were written; False when the store has them already."""
        return self._abandon is not None

    @property
    def entry(self) -> Entry:
        """The journal entry that stores it."""
        packed = pack_row(pack_key(self.key), self.row)
        return Entry(self.key, self.row, self.payload, packed)

    @property
    def entry_bytes(self) -> int:
        """Upper bound for that entry's length."""
        return entry_bytes(len(self.row.about), len(self.row.crcs), len(self.payload or b""))

    def settle(self) -> None:
        """The space now belongs to the catalog."""
        self._abandon = None

    def discard(self) -> None:
        """Give the space back; idempotent."""
        if self._abandon is not None:
            self._abandon(self.row)
            self._abandon = None

    def __del__(self) -> None:
        """A pending shard that nobody commits must not leak its space."""
        self.discard()
