"""Entries of one directory inside a transaction.

Owns the slot of a name: a 63-bit keyed hash, and if another name sits there, one of the next few.
The slot is the key's last part and the readdir cookie, so one key serves lookup and listing,
cookies are unique in their directory, and an entry keeps its cookie while others come and go.
Invariant: a name's slot lies in `[hash, hash + PROBE_SLOTS)`, which every lookup reads whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from rainfs.errors import Exists, InvalidArgument, NameTooLong, NoSpace, NotFound
from rainfs.meta import keys
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.records import DIRENTS, Dirent
from rainfs.model import MAX_NAME_BYTES, InodeNumber

PROBE_SLOTS = 16
"""Names that may compete for one slot; more is beyond any chance with a secret hash."""

FIRST_SLOT = 3
"""Cookies 0 to 2 are the listing's start, `.` and `..`."""

MAX_SLOT = (1 << 63) - 1

REMEMBERED_HASHES = 1_024
"""A name that is looked up is often made, renamed or removed next."""

HashName = Callable[[bytes], int]


def hash_with(secret: bytes) -> HashName:
    """Return the hash of a volume: name to first slot."""

    keyed = blake2b(digest_size=8, key=secret)

    @lru_cache(REMEMBERED_HASHES)
    def hash_name(name: bytes) -> int:
        state = keyed.copy()
        state.update(name)
        number = int.from_bytes(state.digest(), "big") >> 1
        return min(max(number, FIRST_SLOT), MAX_SLOT - PROBE_SLOTS)

    return hash_name


def check_name(name: bytes) -> None:
    """Raises: NameTooLong, InvalidArgument for a name that no directory can hold."""
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLong(f"a name of {len(name)} bytes: at most {MAX_NAME_BYTES}")
    if not name or b"/" in name or b"\0" in name:
        raise InvalidArgument(f"bad name {name!r}")


def check_new_name(name: bytes) -> None:
    """Raises: as check_name, and Exists for `.` and `..`."""
    check_name(name)
    if name in (b".", b".."):
        raise Exists(f"{name!r} always exists")


class Probe(NamedTuple):
    """What a lookup found."""

    slot: int | None
    """Where the name is, or where it would go; None if there is no room for it."""
    entry: Dirent | None


class Directory:
    """The entries of all directories of a volume."""

    def __init__(self, hash_name: HashName) -> None:
        self._hash_name = hash_name

    async def probe(self, reader: Reader, parent: InodeNumber, name: bytes) -> Probe:
        """Find a name or the slot for it.  Raises: NameTooLong, InvalidArgument."""
        check_name(name)
        first = self._hash_name(name)
        rows = await reader.scan(
            keys.dirent_key(parent, first),
            keys.dirent_key(parent, first + PROBE_SLOTS),
            limit=PROBE_SLOTS,
        )
        free = first
        for key, raw in rows:
            entry = DIRENTS.decode(raw)
            slot = keys.second_of(key)
            if entry.name == name:
                return Probe(slot, entry)
            if slot == free:
                free += 1
        return Probe(free if free < first + PROBE_SLOTS else None, None)

    async def find(self, reader: Reader, parent: InodeNumber, name: bytes) -> tuple[int, Dirent]:
        """Return slot and entry of a name.  Raises: NotFound, NameTooLong, InvalidArgument."""
        check_name(name)
        first = self._hash_name(name)
        # One key is read faster than a range, and is the one in all but one of 2^50 cases.
        raw = await reader.get(keys.dirent_key(parent, first))
        if raw is not None:
            found = DIRENTS.decode(raw)
            if found.name == name:
                return first, found
        slot, entry = await self.probe(reader, parent, name)
        if entry is None or slot is None:
            raise NotFound(f"no {name!r} in directory {parent}")
        return slot, entry

    async def insert(self, transaction: Transaction, parent: InodeNumber, entry: Dirent) -> None:
        """Add an entry.  Raises: Exists, NameTooLong, InvalidArgument, NoSpace."""
        slot, old = await self.probe(transaction, parent, entry.name)
        if old is not None:
            raise Exists(f"{entry.name!r} exists in directory {parent}")
        self.put(transaction, parent, slot, entry)

    def put(
        self, transaction: Transaction, parent: InodeNumber, slot: int | None, entry: Dirent
    ) -> None:
        """Write an entry into the slot that `probe` gave for its name.  Raises: NoSpace."""
        if slot is None:
            raise NoSpace(f"too many names like {entry.name!r} in directory {parent}")
        transaction.put(keys.dirent_key(parent, slot), DIRENTS.encode(entry))

    def remove(self, transaction: Transaction, parent: InodeNumber, slot: int) -> None:
        """Remove the entry in a slot."""
        transaction.delete(keys.dirent_key(parent, slot))

    async def is_empty(self, reader: Reader, parent: InodeNumber) -> bool:
        """Whether the directory has no entries."""
        return not await reader.scan(*keys.of_inode(b"D", parent), limit=1)

    async def page(
        self, reader: Reader, parent: InodeNumber, after: int, limit: int
    ) -> list[tuple[int, Dirent]]:
        """Return at most `limit` entries with slots above `after`, in slot order."""
        if after >= MAX_SLOT:
            return []
        start = keys.dirent_key(parent, max(after, 0) + 1)
        rows = await reader.scan(start, keys.of_inode(b"D", parent)[1], limit=limit)
        return [(keys.second_of(key), DIRENTS.decode(raw)) for key, raw in rows]
