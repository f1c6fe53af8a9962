"""Holding names against inodes: every name leads somewhere, and every inode can be reached.

Owns the shape of the tree.  Works on the scratch, and takes out of it what its findings will
remove, so that later steps see the tree as it will be.  Refuses to know attributes other than types
(`checking_inodes` has the counts).  Where a directory has several names, the one its own row
speaks for stays; a circle is cut at its lowest inode.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.checking_faults import KINDS
from rainfs.meta.checking_findings import MAX_KEPT, Edit, Finding, Findings, Kind
from rainfs.meta.checking_scratch import Scratch, unsigned
from rainfs.meta.directory import PROBE_SLOTS, HashName
from rainfs.meta.engine import Reader
from rainfs.meta.records import ATTRS, DIRENTS, Dirent
from rainfs.model import ROOT_INODE, InodeNumber

REBUILT = 2
"""In the column `bad` of an inode: it has no row that could be read."""

_DIR, _REG, _LNK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK


class _Doubtful(NamedTuple):
    ino: int
    kind: int
    children: int
    bytes: int
    said: int | None


class TreePass:
    """One run over the scratch, after the pass over all rows."""

    def __init__(
        self,
        reader: Reader,
        scratch: Scratch,
        findings: Findings,
        hash_name: HashName,
        inode_stop: int,
    ) -> None:
        """Inodes from `inode_stop` on were never given out."""
        self._reader = reader
        self._scratch = scratch
        self._findings = findings
        self._hash_name = hash_name
        self._inode_stop = inode_stop

    async def run(self) -> None:
        """Look at everything, in the one order in which it makes sense."""
        self._scratch.execute("CREATE INDEX of_child ON entry (child)")
        await self._settle_types()
        await self._rebuild()
        await self._drop_dangling()
        await self._keep_one_parent()
        await self._place()
        await self._compare_types()
        await self._reach()
        self._count()

    # --- Inodes -----------------------------------------------------------------------------

    async def _settle_types(self) -> None:
        """Decide what an inode is whose type is impossible, or at odds with what it owns."""
        query = """
            SELECT * FROM (SELECT i.ino AS ino, i.kind AS kind,
                EXISTS (SELECT 1 FROM entry e WHERE e.parent = i.ino) AS children,
                EXISTS (SELECT 1 FROM used u WHERE u.ino = i.ino) AS bytes,
                (SELECT e.kind FROM entry e WHERE e.child = i.ino LIMIT 1) AS said
            FROM inode i)
            WHERE kind NOT IN (?,?,?,?,?,?,?) OR (children AND kind <> ?) OR (bytes AND kind <> ?)
            LIMIT ?"""
        found = self._scratch.rows(query, *sorted(KINDS), _DIR, _REG, MAX_KEPT)
        changes = []
        for row in map(_Doubtful._make, list(found)):
            kind = await self._type_of(row)
            if kind != row.kind:
                changes.append((kind, row.ino))
        for kind, ino in changes:
            # The row itself is put right with the inode's other attributes.
            self._scratch.execute("UPDATE inode SET kind=?, bad=max(bad,1) WHERE ino=?", kind, ino)

    async def _type_of(self, row: _Doubtful) -> int:
        possible = row.kind in KINDS
        if unsigned(row.ino) == ROOT_INODE:
            return _DIR
        if row.children and (row.said == _DIR or not possible):
            return _DIR
        if row.bytes and not row.children and (row.said == _REG or not possible):
            return _REG
        if possible:
            return row.kind
        raw = await self._reader.get(keys.inode_key(InodeNumber(unsigned(row.ino))))
        if raw is not None and ATTRS.decode(raw).target:
            return _LNK
        return row.said if row.said in KINDS and row.said != _LNK else _REG

    async def _rebuild(self) -> None:
        """Make up inodes that are gone while they still own names or bytes."""
        root = self._scratch.one("SELECT kind FROM inode WHERE ino=?", ROOT_INODE)
        if root is None:
            self._scratch.add("unreadable", ROOT_INODE)
        elif root[0] != _DIR:
            self._scratch.execute("UPDATE inode SET kind=?, bad=1 WHERE ino=?", _DIR, ROOT_INODE)
        query = """
            SELECT w.ino, EXISTS (SELECT 1 FROM entry e WHERE e.parent = w.ino),
                EXISTS (SELECT 1 FROM used u WHERE u.ino = w.ino),
                EXISTS (SELECT 1 FROM unreadable r WHERE r.ino = w.ino)
            FROM (SELECT ino FROM unreadable UNION SELECT ino FROM used
                UNION SELECT parent FROM entry) w
            WHERE w.ino NOT IN (SELECT ino FROM inode) LIMIT ?"""
        for ino, children, owned, unreadable in list(self._scratch.rows(query, MAX_KEPT)):
            inode = InodeNumber(unsigned(ino))
            wanted = (children or owned) and 1 <= inode < self._inode_stop
            if wanted or inode == ROOT_INODE:
                directory = children or inode == ROOT_INODE
                kind = _DIR if directory else _REG
                self._scratch.add("inode", ino, kind, -1, -1, -1, 0, 0, 0, REBUILT)
            elif unreadable:
                key = keys.inode_key(inode)
                raw = await self._reader.get(key)
                what = f"inode {inode} cannot be read, and nothing else is left of it"
                edits = (Edit(key, raw, None),)
                self._findings.add(Finding(Kind.BAD_ROW, what, inode, edits=edits))

    # --- Names ------------------------------------------------------------------------------

    async def _drop_dangling(self) -> None:
        where = """
            FROM entry WHERE child NOT IN (SELECT ino FROM inode)
            OR parent NOT IN (SELECT ino FROM inode WHERE kind=16384)"""
        for parent, slot, child in self._scratch.rows(f"SELECT parent, slot, child {where}"):
            what = f"names inode {unsigned(child)}, which is not there"
            known = self._scratch.one("SELECT 1 FROM inode WHERE ino=?", child)
            if known is not None:
                what = f"names inode {unsigned(child)} in what is no directory"
            await self._drop(Kind.DANGLING_ENTRY, parent, slot, what)
        self._scratch.execute(f"DELETE {where}")

    async def _keep_one_parent(self) -> None:
        query = """
            SELECT e.child, i.parent FROM entry e JOIN inode i ON i.ino = e.child
            WHERE i.kind=? GROUP BY e.child HAVING count(*) > 1 OR e.child=? LIMIT ?"""
        for child, wanted in list(self._scratch.rows(query, _DIR, ROOT_INODE, MAX_KEPT)):
            names = list(
                self._scratch.rows(
                    "SELECT parent, slot FROM entry WHERE child=? ORDER BY parent <> ? LIMIT ?",
                    child,
                    wanted,
                    MAX_KEPT,
                )
            )
            for parent, slot in names if child == ROOT_INODE else names[1:]:
                what = f"is one name too many of directory {unsigned(child)}"
                await self._drop(Kind.TWO_PARENTS, parent, slot, what)
                self._forget(parent, slot)

    async def _place(self) -> None:
        """Move names to slots where a lookup finds them."""
        query = "SELECT parent, slot, name FROM entry WHERE misplaced=1 LIMIT ?"
        for parent, slot, name in list(self._scratch.rows(query, MAX_KEPT)):
            first = self._hash_name(name)
            window = self._scratch.rows(
                "SELECT slot, name FROM entry WHERE parent=? AND slot>=? AND slot<?",
                parent,
                first,
                first + PROBE_SLOTS,
            )
            taken = dict(window)
            free = next((s for s in range(first, first + PROBE_SLOTS) if s not in taken), None)
            if free is None or name in taken.values():
                await self._drop(Kind.BAD_NAME, parent, slot, "stands where lookups never look")
                self._forget(parent, slot)
                continue
            directory = InodeNumber(unsigned(parent))
            key = keys.dirent_key(directory, unsigned(slot))
            raw = await self._reader.get(key)
            what = f"directory {directory}: {name!r} stands where lookups never look"
            edits = (Edit(key, raw, None), Edit(keys.dirent_key(directory, free), None, raw))
            self._findings.add(Finding(Kind.BAD_NAME, what, directory, edits=edits))

    async def _compare_types(self) -> None:
        query = """
            SELECT e.parent, e.slot, e.kind, i.kind FROM entry e JOIN inode i ON i.ino = e.child
            WHERE e.kind <> i.kind"""
        for parent, slot, said, kind in self._scratch.rows(query):
            key = keys.dirent_key(InodeNumber(unsigned(parent)), unsigned(slot))
            raw = await self._reader.get(key)
            assert raw is not None
            old = DIRENTS.decode(raw)
            new = DIRENTS.encode(Dirent(old.name, old.inode, kind))
            what = (
                f"directory {unsigned(parent)}: {old.name!r} says type {said:#o}, "
                f"inode {old.inode} is {kind:#o}"
            )
            edits = (Edit(key, raw, new),)
            self._findings.add(Finding(Kind.ENTRY_TYPE, what, old.inode, edits=edits))

    # --- The whole tree ---------------------------------------------------------------------

    async def _reach(self) -> None:
        """Note each directory's parent, and cut circles."""
        scratch = self._scratch
        scratch.execute("CREATE TABLE dirs (ino INTEGER PRIMARY KEY, above INT, slot INT)")
        scratch.execute(
            "INSERT INTO dirs SELECT e.child, e.parent, e.slot FROM entry e "
            "JOIN inode i ON i.ino = e.child WHERE i.kind=?",
            _DIR,
        )
        scratch.execute("CREATE INDEX of_above ON dirs (above)")
        scratch.execute("CREATE TABLE reached (ino INTEGER PRIMARY KEY)")
        self._spread("SELECT ino FROM inode WHERE kind=16384 AND ino NOT IN (SELECT ino FROM dirs)")
        while lowest := scratch.one(
            "SELECT ino FROM dirs WHERE ino NOT IN (SELECT ino FROM reached) LIMIT 1"
        ):
            cut = self._circle_from(int(lowest[0]))
            row = scratch.one("SELECT above, slot FROM dirs WHERE ino=?", cut)
            assert row is not None
            what = f"is the name of directory {unsigned(cut)}, which lies below itself"
            await self._drop(Kind.CIRCLE, row[0], row[1], what)
            self._forget(row[0], row[1])
            scratch.execute("DELETE FROM dirs WHERE ino=?", cut)
            self._spread(f"SELECT {cut}")

    def _spread(self, start: str) -> None:
        self._scratch.execute(
            f"INSERT OR IGNORE INTO reached WITH RECURSIVE r (ino) AS ({start} UNION "  # noqa: S608
            "SELECT d.ino FROM r JOIN dirs d ON d.above = r.ino) SELECT ino FROM r"
        )

    def _circle_from(self, ino: int) -> int:
        """Return the lowest directory of the circle above `ino`."""
        seen: dict[int, int] = {}
        while ino not in seen:
            seen[ino] = len(seen)
            row = self._scratch.one("SELECT above FROM dirs WHERE ino=?", ino)
            assert row is not None, "what cannot be reached has a parent"
            ino = int(row[0])
        return min(member for member, place in seen.items() if place >= seen[ino])

    def _count(self) -> None:
        """Count names and children."""
        self._scratch.execute("CREATE TABLE links (ino INTEGER PRIMARY KEY, n INT)")
        self._scratch.execute("INSERT INTO links SELECT child, count(*) FROM entry GROUP BY child")
        self._scratch.execute("CREATE TABLE kids (ino INTEGER PRIMARY KEY, n INT, subs INT)")
        self._scratch.execute(
            "INSERT INTO kids SELECT e.parent, count(*), sum(i.kind=?) FROM entry e "
            "JOIN inode i ON i.ino = e.child GROUP BY e.parent",
            _DIR,
        )

    async def _drop(self, kind: Kind, parent: int, slot: int, what: str) -> None:
        directory = InodeNumber(unsigned(parent))
        key = keys.dirent_key(directory, unsigned(slot))
        raw = await self._reader.get(key)
        name = _name_in(raw)
        what = f"directory {directory}: {name!r} {what}"
        self._findings.add(Finding(kind, what, directory, edits=(Edit(key, raw, None),)))

    def _forget(self, parent: int, slot: int) -> None:
        self._scratch.execute("DELETE FROM entry WHERE parent=? AND slot=?", parent, slot)


def _name_in(raw: bytes | None) -> bytes:
    try:
        return b"" if raw is None else DIRENTS.decode(raw).name
    except MetadataForeign:
        return b""
