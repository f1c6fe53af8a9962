"""Working off one commit of stripes in bounded transactions.

Owns how new blocks replace old extents.  Invariants of every step: extents of a file do not
overlap, none reaches beyond its size, live bytes and `allocated` match.  A step reads all it needs
before it writes, and pieces go in ascending order, so that the only old extent two runs can share
is the one whose right part the earlier run left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from rainfs.errors import TransactionConflict
from rainfs.meta import keys
from rainfs.meta.engine import Reader, Rehearsal, Transaction
from rainfs.meta.inodes import store_attr
from rainfs.meta.old_extents import OldExtents
from rainfs.meta.pieces import Piece, from_offset, left_part, pieces_of, right_part, run_length
from rainfs.meta.records import ATTRS, EXTENTS, ExtentRecord
from rainfs.meta.sessions import Session
from rainfs.meta.stripes import Changes, apply_changes, store_new
from rainfs.model import Attr, Extent, InodeNumber, StripeId, StripeView

PIECES_PER_STEP = 1_100
OLD_EXTENTS_PER_STEP = 900
"""With these two a step writes at most 2 keys a piece (extent, inode), 2 a new stripe (of which
there are no more than pieces), and 6 an old extent (itself, two ends, three rows of its stripe),
which is less than MAX_TRANSACTION_KEYS."""


class FileUpdate(msgspec.Struct, frozen=True):
    """What a commit says of a file besides its blocks; None leaves a field."""

    inode: InodeNumber
    size: int | None = None
    """The new size; a commit never shortens a file."""
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class _FileWork:
    inode: InodeNumber
    pieces: Sequence[Piece]
    update: FileUpdate | None


def _file_work(stripes: Sequence[StripeView], files: Sequence[FileUpdate]) -> list[_FileWork]:
    by_inode: dict[InodeNumber, list[Piece]] = {}
    for piece in pieces_of(stripes):
        by_inode.setdefault(piece.inode, []).append(piece)
    updates = {update.inode: update for update in files}
    inodes = sorted({*by_inode, *updates})
    return [_FileWork(ino, by_inode.get(ino, ()), updates.get(ino)) for ino in inodes]


class Commit:
    """One call of `Extents.commit`.  `step` is a transaction body, `advance` follows it."""

    def __init__(
        self, session: Session, stripes: Sequence[StripeView], files: Sequence[FileUpdate]
    ) -> None:
        self._session = session
        self._todo = _file_work(stripes, files)
        self._unstored = {view.id: view for view in stripes}
        self._own = frozenset(self._unstored)
        self._left: list[_FileWork] = []
        self._stored: set[StripeId] = set()

    async def step(self, transaction: Transaction) -> bool:
        """Work off as much as one transaction may hold; returns whether that was all."""
        await self._session.check(transaction)
        plan = _Plan()
        room = PIECES_PER_STEP
        left: list[_FileWork] = []
        for index, work in enumerate(self._todo):
            if room <= 0 or plan.old_room <= 0:
                left = self._todo[index:]
                break
            rest = await plan.add(transaction, work, room)
            if rest:
                left = [_FileWork(work.inode, rest, work.update), *self._todo[index + 1 :]]
                break
            room -= max(len(work.pieces), 1)
        plan.write(transaction)
        self._left = left
        self._stored = await self._settle(transaction, plan.changes, last=not left)
        return not left

    def advance(self) -> None:
        """Go on behind the step that was committed."""
        self._todo = self._left
        self._unstored = {
            stripe: view for stripe, view in self._unstored.items() if stripe not in self._stored
        }

    async def _settle(
        self, transaction: Transaction, changes: Changes, *, last: bool
    ) -> set[StripeId]:
        """Write the new stripes' rows and the old ones' live bytes; returns what was stored."""
        stored: set[StripeId] = set()
        for stripe, view in self._unstored.items():
            live_bytes = changes.pop(stripe, 0)
            if live_bytes > 0 or last:
                store_new(transaction, view, live_bytes)
                stored.add(stripe)
        for stripe in self._own & changes.keys():
            if await transaction.get(keys.state_key(stripe)) is None:
                # Between two steps something else replaced all that the first one had brought.
                raise TransactionConflict(f"stripe {stripe:#x} was given up during its commit")
        await apply_changes(transaction, changes)
        return stored


@dataclass(frozen=True, slots=True)
class RehearsedCommit:
    """A commit whose first step has run ahead."""

    work: Commit
    _rehearsal: Rehearsal[bool]
    _stripes: Sequence[StripeView]
    _files: Sequence[FileUpdate]

    def is_of(self, stripes: Sequence[StripeView], files: Sequence[FileUpdate]) -> bool:
        """Whether it was that of these very stripes and files."""
        return self._stripes == stripes and self._files == files

    def commit(self) -> bool:
        """Commit the first step as it has run; False where it has to run anew."""
        return self._rehearsal.commit()

    @property
    def done(self) -> bool:
        """Whether the first step is all."""
        return self._rehearsal.result


@dataclass(slots=True)
class _Plan:
    """What a step will write."""

    changes: Changes = field(default_factory=dict)
    old_room: int = OLD_EXTENTS_PER_STEP
    _deleted: list[bytes] = field(default_factory=list)
    _extents: list[tuple[bytes, bytes]] = field(default_factory=list)
    _attrs: list[Attr] = field(default_factory=list)

    async def add(self, reader: Reader, work: _FileWork, room: int) -> Sequence[Piece]:
        """Plan a file's pieces, at most `room`; returns what is left of them."""
        raw = await reader.get(keys.inode_key(work.inode))
        if raw is None:
            return ()
        attr = ATTRS.decode(raw)
        size = attr.size
        if work.update is not None and work.update.size is not None:
            size = max(size, work.update.size)
        pieces, rest = list(work.pieces[:room]), list(work.pieces[room:])
        pieces = _clip(pieces, size)
        allocated = attr.allocated
        stored = OldExtents(reader, work.inode)
        rest_right: Extent | None = None
        reached = 0
        index = 0
        while index < len(pieces):
            if self.old_room == 0:
                rest = [*pieces[index:], *rest]
                break
            count = run_length(pieces, index)
            run = pieces[index : index + count]
            index += count
            start, stop = run[0].start, run[-1].stop
            old: list[Extent] = []
            if rest_right is not None and rest_right.offset + rest_right.length > start:
                old = [rest_right]
                rest_right = None
            if attr.allocated and start < attr.size:
                # What an earlier run cut is in `rest_right`, not in the snapshot.
                known = start if old else reached
                old += await stored.overlapping(start, stop, self.old_room + 1, known)
            if rest_right is not None:
                self._put(work.inode, rest_right)
                rest_right = None
            if len(old) > self.old_room:
                stop = old[self.old_room].offset
                old = old[: self.old_room]
                run, cut = _cut(run, stop)
                rest = [*cut, *pieces[index:], *rest]
                index = len(pieces)
            self.old_room -= len(old)
            for extent in old:
                allocated -= self._free(work.inode, extent, start, stop)
            if old:
                left = left_part(old[0], start)
                if left is not None:
                    self._put(work.inode, left)
                rest_right = right_part(old[-1], stop)
            for piece in run:
                allocated += self._bring(piece)
            reached = stop
        if rest_right is not None:
            self._put(work.inode, rest_right)
        if rest:
            size = max(attr.size, min(size, reached))
        self._attrs_add(attr, work.update, size, allocated)
        return rest

    def write(self, transaction: Transaction) -> None:
        """Write extents and attributes."""
        for key in self._deleted:
            transaction.delete(key)
        for key, raw in self._extents:
            transaction.put(key, raw)
        for attr in self._attrs:
            store_attr(transaction, attr)

    def _put(self, inode: InodeNumber, extent: Extent) -> None:
        record = ExtentRecord(extent.length, extent.stripe, extent.block, extent.block_offset)
        self._extents.append((keys.extent_key(inode, extent.offset), EXTENTS.encode(record)))

    def _bring(self, piece: Piece) -> int:
        length = piece.stop - piece.start
        record = ExtentRecord(length, piece.stripe, piece.block, piece.block_offset)
        self._extents.append((keys.extent_key(piece.inode, piece.start), EXTENTS.encode(record)))
        self.changes[piece.stripe] = self.changes.get(piece.stripe, 0) + length
        return length

    def _free(self, inode: InodeNumber, extent: Extent, start: int, stop: int) -> int:
        """Take `[start, stop)` from a stored extent; returns how many bytes that were."""
        self._deleted.append(keys.extent_key(inode, extent.offset))
        freed = min(extent.offset + extent.length, stop) - max(extent.offset, start)
        self.changes[extent.stripe] = self.changes.get(extent.stripe, 0) - freed
        return freed

    def _attrs_add(self, attr: Attr, update: FileUpdate | None, size: int, allocated: int) -> None:
        changed = replace(
            attr,
            size=size,
            allocated=allocated,
            mtime_ns=_either(update.mtime_ns if update else None, attr.mtime_ns),
            ctime_ns=_either(update.ctime_ns if update else None, attr.ctime_ns),
        )
        if changed != attr:
            self._attrs.append(changed)


def _either(value: int | None, default: int) -> int:
    return default if value is None else value


def _clip(pieces: list[Piece], size: int) -> list[Piece]:
    """Drop what lies beyond a file's end: it was cut off before the blocks arrived."""
    while pieces and pieces[-1].stop > size:
        last = pieces.pop()
        if last.start < size:
            pieces.append(last._replace(stop=size))
    return pieces


def _cut(run: list[Piece], at: int) -> tuple[list[Piece], list[Piece]]:
    before = [piece._replace(stop=min(piece.stop, at)) for piece in run if piece.start < at]
    after = [from_offset(piece, max(piece.start, at)) for piece in run if piece.stop > at]
    return before, after
