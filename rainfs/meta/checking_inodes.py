"""Holding every inode's own row against what the names, extents and attributes say of it.

Owns link counts, allocation, `..`, the mark of extended attributes, the list of removed files.
All that is wrong with one row is put right by one edit, which goes with its first finding.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from msgspec.structs import replace

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.checking_extents import record_of
from rainfs.meta.checking_faults import MAX_ID, MAX_TIME_NS, inode_faults
from rainfs.meta.checking_findings import MAX_EDITS, Edit, Finding, Findings, Kind, Repair
from rainfs.meta.checking_scratch import Scratch, unsigned
from rainfs.meta.checking_tree import REBUILT
from rainfs.meta.engine import Reader
from rainfs.meta.pieces import left_part
from rainfs.meta.records import ATTRS, EXTENTS
from rainfs.meta.volume import Volume
from rainfs.model import MAX_FILE_BYTES, ROOT_INODE, Attr, Extent, InodeNumber

NO_SESSION = 0
"""No session has this epoch: a removed file listed under it is freed by the next mount."""

_DIR, _REG = stat.S_IFDIR, stat.S_IFREG


class _Row(NamedTuple):
    ino: int
    kind: int
    nlink: int
    size: int
    allocated: int
    parent: int
    marked: int
    known_layout: int
    bad: int
    links: int
    children: int
    subdirectories: int
    bytes: int
    stop: int
    xattrs: int
    orphan: int
    above: int | None

    @property
    def inode(self) -> InodeNumber:
        return InodeNumber(unsigned(self.ino))

    @property
    def linked(self) -> bool:
        return self.links > 0 or self.ino == ROOT_INODE

    @property
    def removed(self) -> bool:
        """Whether it lost its last name by right."""
        gone = not self.linked and (self.orphan > 0 or self.nlink == 0)
        return gone and not (self.kind == _DIR and self.children > 0) and self.bad != REBUILT


_ALL = """
    SELECT i.ino, i.kind, i.nlink, i.size, i.allocated, i.parent, i.marked,
        i.layout IN (SELECT id FROM layout), i.bad,
        coalesce(l.n, 0), coalesce(k.n, 0), coalesce(k.subs, 0),
        coalesce(u.bytes, 0), coalesce(u.stop, 0), coalesce(x.n, 0),
        EXISTS (SELECT 1 FROM orphan o WHERE o.ino = i.ino), d.above
    FROM inode i LEFT JOIN links l ON l.ino = i.ino LEFT JOIN kids k ON k.ino = i.ino
    LEFT JOIN used u ON u.ino = i.ino LEFT JOIN xattr x ON x.ino = i.ino
    LEFT JOIN dirs d ON d.ino = i.ino ORDER BY i.ino"""


class InodePass:
    """One run over all inodes, after `TreePass`."""

    def __init__(
        self, reader: Reader, scratch: Scratch, findings: Findings, volume: Volume
    ) -> None:
        self._reader = reader
        self._scratch = scratch
        self._findings = findings
        self._volume = volume

    async def run(self) -> None:
        """Look at every inode, then at what belongs to none."""
        for values in self._scratch.rows(_ALL):
            row = _Row(*values)
            await self._standing(row)
            await self._attributes(row)
            await self._bytes(row)
        await self._strays()

    async def _standing(self, row: _Row) -> None:
        """Whether it is named, removed, or neither; and what the list of removed files says."""
        inode = row.inode
        if row.removed:
            if not row.orphan:
                key = keys.orphan_key(NO_SESSION, inode)
                what = f"inode {inode} was removed and is not on the list to be freed"
                added = (Edit(key, None, b""),)
                self._findings.add(Finding(Kind.ORPHAN, what, inode, edits=added))
            return
        edits = await self._orphan_edits(row.ino) if row.orphan else ()
        if not row.linked:
            what = f"inode {inode} has no name"
            self._findings.add(
                Finding(Kind.UNREACHABLE, what, inode, repair=Repair.REATTACH, edits=edits)
            )
        elif edits:
            what = f"inode {inode} is on the list to be freed and has a name"
            self._findings.add(Finding(Kind.ORPHAN, what, inode, edits=edits))

    async def _orphan_edits(self, ino: int) -> tuple[Edit, ...]:
        query = "SELECT epoch FROM orphan WHERE ino=? LIMIT ?"
        inode = InodeNumber(unsigned(ino))
        found = [
            keys.orphan_key(unsigned(epoch), inode)
            for (epoch,) in list(self._scratch.rows(query, ino, MAX_EDITS))
        ]
        return tuple([Edit(key, await self._reader.get(key), None) for key in found])

    async def _attributes(self, row: _Row) -> None:
        faults = self._faults(row)
        if not faults:
            return
        key = keys.inode_key(row.inode)
        raw = await self._reader.get(key)
        if row.bad == REBUILT or raw is None:
            attr = self._made_up(row)
        else:
            attr = ATTRS.decode(raw)
            if row.bad:
                said = inode_faults(attr, row.inode) or ["its type fits nothing that it owns"]
                faults[0] = (Kind.BAD_INODE, ", ".join(said))
        edits: tuple[Edit, ...] = (Edit(key, raw, ATTRS.encode(self._corrected(row, attr))),)
        for kind, what in faults:
            self._findings.add(Finding(kind, f"inode {row.inode}: {what}", row.inode, edits=edits))
            edits = ()

    def _faults(self, row: _Row) -> list[tuple[Kind, str]]:
        faults: list[tuple[Kind, str]] = []
        if row.bad == REBUILT:
            return [(Kind.LOST_INODE, "its row is gone, and it owns names or bytes")]
        if row.bad:
            faults.append((Kind.BAD_INODE, ""))
        nlink = self._nlink(row)
        if nlink is not None and row.nlink != nlink:
            faults.append((Kind.LINK_COUNT, f"link count {row.nlink}, should be {nlink}"))
        allocated = row.bytes if row.kind == _REG else 0
        if row.allocated != allocated:
            faults.append((Kind.ALLOCATED, f"allocation {row.allocated}, should be {allocated}"))
        parent = self._parent(row)
        if parent is not None and row.parent != parent:
            what = f"'..' is {unsigned(row.parent)}, should be {unsigned(parent)}"
            faults.append((Kind.PARENT, what))
        if row.xattrs and not row.marked:
            faults.append((Kind.XATTR, "its extended attributes are not marked"))
        if not row.known_layout:
            faults.append((Kind.LAYOUT, "its layout is not recorded"))
        return faults

    @staticmethod
    def _nlink(row: _Row) -> int | None:
        """Return the right link count; None until it is known where the inode goes."""
        if row.removed:
            return 0
        if not row.linked:
            return None
        return 2 + row.subdirectories if row.kind == _DIR else row.links

    @staticmethod
    def _parent(row: _Row) -> int | None:
        if row.ino == ROOT_INODE:
            return ROOT_INODE
        return row.above if row.kind == _DIR else None

    def _made_up(self, row: _Row) -> Attr:
        now_ns = self._volume.created_ns
        return Attr(
            inode=row.inode,
            mode=row.kind | (0o700 if row.kind == _DIR else 0o600),
            uid=0,
            gid=0,
            nlink=1,
            size=row.stop if row.kind == _REG else 0,
            rdev=0,
            atime_ns=now_ns,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            layout=self._volume.layout.id,
        )

    def _corrected(self, row: _Row, attr: Attr) -> Attr:
        """Return the attributes with everything put right that can be told."""
        nlink, parent = self._nlink(row), self._parent(row)
        is_dir, is_link = row.kind == _DIR, row.kind == stat.S_IFLNK
        size = attr.size if 0 <= attr.size <= MAX_FILE_BYTES else row.stop
        times = [
            time_ns if -MAX_TIME_NS <= time_ns <= MAX_TIME_NS else self._volume.created_ns
            for time_ns in (attr.atime_ns, attr.mtime_ns, attr.ctime_ns)
        ]
        kept_parent = attr.parent if is_dir else InodeNumber(0)
        return replace(
            attr,
            inode=row.inode,
            mode=row.kind | (attr.mode & 0o7777),
            uid=attr.uid if 0 <= attr.uid <= MAX_ID else 0,
            gid=attr.gid if 0 <= attr.gid <= MAX_ID else 0,
            nlink=max(row.nlink, 1) if nlink is None else nlink,
            size=len(attr.target) if is_link else size,
            rdev=attr.rdev if 0 <= attr.rdev <= keys.MAX_NUMBER else 0,
            atime_ns=times[0],
            mtime_ns=times[1],
            ctime_ns=times[2],
            layout=attr.layout if row.known_layout else self._volume.layout.id,
            has_xattrs=bool(row.marked or row.xattrs),
            target=attr.target if is_link else b"",
            allocated=row.bytes if row.kind == _REG else 0,
            parent=kept_parent if parent is None else InodeNumber(unsigned(parent)),
        )

    # --- What it owns -----------------------------------------------------------------------

    async def _bytes(self, row: _Row) -> None:
        """Extents of what holds no bytes, and those beyond a file's end."""
        inode = row.inode
        if row.bytes and row.kind != _REG:
            await self._drop_all(Kind.EXTENT, b"E", inode, "it owns bytes and is no file")
        elif row.stop > row.size >= 0:
            rows = await self._reader.scan(
                *keys.of_inode(b"E", inode), limit=MAX_EDITS, reverse=True
            )
            edits: list[Edit] = []
            for key, raw in rows:
                try:
                    record = EXTENTS.decode(raw)
                except MetadataForeign:
                    continue  # A finding of its own.
                offset = keys.second_of(key)
                if offset + record.length <= row.size:
                    break
                extent = Extent(
                    offset, record.length, record.stripe, record.block, record.block_offset
                )
                kept = left_part(extent, row.size)
                edits.append(Edit(key, raw, None if kept is None else record_of(kept)))
            what = f"inode {inode}: extents up to {row.stop}, beyond its size {row.size}"
            self._findings.add(Finding(Kind.EXTENT, what, inode, edits=tuple(edits)))

    async def _strays(self) -> None:
        """Rows of inodes that are not there."""
        absent = "ino NOT IN (SELECT ino FROM inode)"
        for (ino,) in self._scratch.rows(f"SELECT ino FROM used WHERE {absent}"):  # noqa: S608
            await self._drop_all(Kind.EXTENT, b"E", InodeNumber(unsigned(ino)), "it is not there")
        for (ino,) in self._scratch.rows(f"SELECT ino FROM xattr WHERE {absent}"):  # noqa: S608
            await self._drop_all(Kind.XATTR, b"X", InodeNumber(unsigned(ino)), "it is not there")
        stale = f"SELECT ino, epoch FROM orphan WHERE {absent}"  # noqa: S608
        for ino, epoch in self._scratch.rows(stale):
            inode = InodeNumber(unsigned(ino))
            key = keys.orphan_key(unsigned(epoch), inode)
            edits = (Edit(key, await self._reader.get(key), None),)
            what = f"inode {inode} is on the list to be freed and is not there"
            self._findings.add(Finding(Kind.ORPHAN, what, inode, edits=edits))

    async def _drop_all(self, kind: Kind, table: bytes, inode: InodeNumber, why: str) -> None:
        rows = await self._reader.scan(*_of_inode(table, inode), limit=MAX_EDITS)
        edits = tuple(Edit(key, raw, None) for key, raw in rows)
        owned = "extents" if table == b"E" else "extended attributes"
        what = f"inode {inode} has {owned}, and {why}"
        self._findings.add(Finding(kind, what, inode, edits=edits))


def _of_inode(table: bytes, inode: InodeNumber) -> tuple[bytes, bytes]:
    if inode == keys.MAX_NUMBER:
        return keys.table_after(table, keys.MAX_NUMBER - 1)
    return keys.of_inode(table, inode)
