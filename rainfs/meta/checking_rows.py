"""The first pass of a check: every row of the map, in key order, decoded and looked at by itself.

Owns what makes a single row acceptable, and puts what later passes compare into the scratch.
Refuses to compare rows with each other, except neighbours of one table (extents that overlap, a
name that is twice in its directory).  A row that does not decode is a finding, never an exception.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from rainfs.errors import MetadataForeign, RainError
from rainfs.meta import keys
from rainfs.meta.checking_extents import StripeCheck, overlap
from rainfs.meta.checking_faults import MAX_ID, MAX_MODE, MAX_NLINK, dead_link, inode_faults
from rainfs.meta.checking_findings import Edit, Finding, Findings, Kind
from rainfs.meta.checking_scratch import Scratch, signed
from rainfs.meta.checking_volume import NUMBER_BYTES, PAIR_BYTES, VolumeTables
from rainfs.meta.directory import FIRST_SLOT, PROBE_SLOTS, HashName, check_name
from rainfs.meta.records import (
    ATTRS,
    DIRENTS,
    EXTENTS,
    PLACEMENTS,
    STATES,
    ExtentRecord,
)
from rainfs.meta.xattrs import MAX_VALUE_BYTES
from rainfs.model import (
    MAX_BLOCK_BYTES,
    MAX_FILE_BYTES,
    MAX_NAME_BYTES,
    NO_NODE,
    Attr,
    Extent,
    InodeNumber,
    NodeNumber,
    StripeId,
)


class RowPass:
    """Takes every row once, in key order."""

    def __init__(self, scratch: Scratch, findings: Findings, hash_name: HashName) -> None:
        self._scratch = scratch
        self._findings = findings
        self._hash_name = hash_name
        self.volume = VolumeTables(scratch, findings)
        self._drop = self.volume.drop
        self._number = self.volume.number
        self.tables: dict[bytes, Callable[[bytes, bytes], None]] = {
            b"A": self.volume.session,
            b"C": self.volume.counter,
            b"D": self._entry,
            b"E": self._extent,
            b"F": self.volume.single,
            b"G": self.volume.request,
            b"I": self._inode,
            b"L": self.volume.layout,
            b"N": self.volume.node,
            b"O": self._orphan,
            b"P": self._state,
            b"S": self._stripe,
            b"T": self._tombstone,
            b"V": self.volume.single,
            b"X": self._xattr,
        }
        self.stripes = StripeCheck(scratch, findings)
        self._neighbours: list[tuple[int, bytes]] = []
        self._directory = -1
        self._extent_inode: InodeNumber | None = None
        self._last_extent: tuple[bytes, bytes, Extent] | None = None
        self._bytes = 0
        self._stop = 0
        self._xattr_inode = -1
        self._xattrs = 0
        self._misfiled: list[tuple[bytes, bytes, Attr]] = []
        self.rows = 0

    def take(self, key: bytes, raw: bytes) -> None:
        """Look at one row."""
        self.rows += 1
        handler = self.tables.get(key[:1])
        if handler is None:
            self._drop(key, raw, f"a row with the unknown key {key[:24].hex()}")
        else:
            handler(key, raw)

    def finish(self) -> None:
        """Note what the last rows of each table add up to."""
        self._end_of_file()
        self._end_of_xattrs()
        for key, raw, attr in self._misfiled:
            self._file_again(key, raw, attr)
        self.volume.finish()

    # --- Lists ------------------------------------------------------------------------------

    def _orphan(self, key: bytes, raw: bytes) -> None:
        epoch = self._number(key, raw, PAIR_BYTES)
        if epoch is None:
            return
        if raw:
            # The key says all; what stands in the value does no harm and goes with the row.
            self._drop(key, raw, f"a mark of a removed file with a value: {raw[:16].hex()}")
            return
        self._scratch.add("orphan", signed(keys.second_of(key)), signed(epoch))

    def _tombstone(self, key: bytes, raw: bytes) -> None:
        stripe = self._number(key, raw)
        if stripe is None:
            return
        try:
            PLACEMENTS.decode(raw)
        except MetadataForeign as error:
            self._drop(key, raw, f"tombstone of stripe {stripe:#x}: {error}")
            return
        if not self.volume.believes_stripe(StripeId(stripe)):
            self._drop(key, raw, f"tombstone of stripe {stripe:#x}, which can never have been")
            return
        self._scratch.add("tomb", signed(stripe))
        self.volume.note_stripe(StripeId(stripe))

    # --- Names ------------------------------------------------------------------------------

    def _entry(self, key: bytes, raw: bytes) -> None:
        parent = self._number(key, raw, PAIR_BYTES)
        if parent is None:
            return
        slot = keys.second_of(key)
        try:
            entry = DIRENTS.decode(raw)
        except MetadataForeign as error:
            self._drop(key, raw, f"a name in directory {parent}: {error}")
            return
        try:
            check_name(entry.name)
        except RainError as error:
            self._drop(key, raw, f"directory {parent}: {error}", Kind.BAD_NAME)
            return
        in_range = slot >= FIRST_SLOT and 0 <= entry.inode <= keys.MAX_NUMBER
        if entry.name in (b".", b"..") or not in_range:
            what = f"directory {parent}: name {entry.name!r} in slot {slot} for {entry.inode}"
            self._drop(key, raw, what, Kind.BAD_NAME)
            return
        if parent != self._directory:
            self._directory = parent
            self._neighbours = []
        self._neighbours = [pair for pair in self._neighbours if pair[0] + PROBE_SLOTS > slot]
        if any(name == entry.name for _, name in self._neighbours):
            what = f"directory {parent} has the name {entry.name!r} twice"
            self._drop(key, raw, what, Kind.BAD_NAME)
            return
        self._neighbours.append((slot, entry.name))
        first = self._hash_name(entry.name)
        misplaced = not first <= slot < first + PROBE_SLOTS
        self._scratch.add(
            "entry",
            signed(parent),
            signed(slot),
            signed(entry.inode),
            entry.type if 0 <= entry.type <= MAX_MODE else -1,
            entry.name,
            int(misplaced),
        )

    def _inode(self, key: bytes, raw: bytes) -> None:
        number = self._number(key, raw)
        if number is None:
            return
        try:
            attr = ATTRS.decode(raw)
        except MetadataForeign:
            self._scratch.add("unreadable", signed(number))
            return
        if dead_link(attr):
            what = f"inode {number}: a symbolic link without a possible target"
            self._drop(key, raw, what, Kind.BAD_INODE)
            return
        if attr.inode != number and not self.volume.gave_out_inode(number):
            self._misfiled.append((key, raw, attr))
            return
        if not self.volume.believes_inode(number):
            self._drop(key, raw, f"inode {number} can never have been")
            return
        self.volume.note_inode(InodeNumber(number))
        bad = bool(inode_faults(attr, InodeNumber(number)))
        self._scratch.add(
            "inode",
            signed(number),
            stat.S_IFMT(attr.mode) if 0 <= attr.mode <= MAX_MODE else 0,
            attr.nlink if 0 <= attr.nlink <= MAX_NLINK else -1,
            attr.size if 0 <= attr.size <= MAX_FILE_BYTES else -1,
            attr.allocated if 0 <= attr.allocated <= MAX_FILE_BYTES else -1,
            signed(attr.parent) if 0 <= attr.parent <= keys.MAX_NUMBER else -1,
            int(attr.has_xattrs),
            signed(attr.layout) if 0 <= attr.layout <= keys.MAX_NUMBER else -1,
            int(bad),
        )

    def _file_again(self, key: bytes, raw: bytes, attr: Attr) -> None:
        """Put an inode's row where it says to belong, if nothing stands there."""
        edits = [Edit(key, raw, None)]
        taken = not self.volume.gave_out_inode(attr.inode) or self._scratch.one(
            "SELECT 1 FROM inode WHERE ino=?", signed(attr.inode)
        )
        if not taken:
            edits.append(Edit(keys.inode_key(attr.inode), None, raw))
        what = f"the row of inode {attr.inode} stands at {keys.number_of(key)}"
        self._findings.add(Finding(Kind.BAD_ROW, what, edits=tuple(edits)))

    def _xattr(self, key: bytes, raw: bytes) -> None:
        name = keys.name_of(key)
        if len(key) <= NUMBER_BYTES or len(name) > MAX_NAME_BYTES or b"\0" in name:
            self._drop(key, raw, f"an extended attribute with the bad name {name[:40]!r}")
            return
        number = keys.number_of(key)
        if len(raw) > MAX_VALUE_BYTES:
            what = f"inode {number}: attribute {name!r} has {len(raw)} bytes"
            self._drop(key, raw, what, Kind.XATTR)
            return
        if number != self._xattr_inode:
            self._end_of_xattrs()
            self._xattr_inode = number
        self._xattrs += 1

    def _end_of_xattrs(self) -> None:
        if self._xattrs:
            self._scratch.add("xattr", signed(self._xattr_inode), self._xattrs)
        self._xattrs = 0

    # --- Bytes ------------------------------------------------------------------------------

    def _extent(self, key: bytes, raw: bytes) -> None:
        number = self._number(key, raw, PAIR_BYTES)
        if number is None:
            return
        inode, offset = InodeNumber(number), keys.second_of(key)
        try:
            record = EXTENTS.decode(raw)
        except MetadataForeign as error:
            what = f"inode {inode}: the extent at {offset}: {error}"
            self._findings.add(Finding(Kind.EXTENT, what, inode, edits=(Edit(key, raw, None),)))
            return
        if not _possible(record, offset):
            what = f"inode {inode}: an impossible extent at {offset}: {record}"
            self._findings.add(Finding(Kind.EXTENT, what, inode, edits=(Edit(key, raw, None),)))
            return
        if inode != self._extent_inode:
            self._end_of_file()
            self._extent_inode = inode
        extent = Extent(offset, record.length, record.stripe, record.block, record.block_offset)
        if self._last_extent is not None and offset < self._stop:
            self._findings.add(overlap(inode, self._last_extent, (key, raw, extent)))
        if self._last_extent is None or offset + extent.length > self._stop:
            self._last_extent = (key, raw, extent)
        self._stop = max(self._stop, offset + extent.length)
        self._bytes += extent.length
        self._scratch.add(
            "extent",
            signed(record.stripe),
            signed(inode),
            offset,
            record.length,
            record.block,
            record.block_offset,
        )

    def _end_of_file(self) -> None:
        if self._extent_inode is not None:
            self._scratch.add("used", signed(self._extent_inode), self._bytes, self._stop)
        self._extent_inode, self._last_extent = None, None
        self._bytes = self._stop = 0

    def _state(self, key: bytes, raw: bytes) -> None:
        stripe = self._number(key, raw)
        if stripe is None:
            return
        try:
            state = STATES.decode(raw)
        except MetadataForeign:
            self._scratch.add("state", signed(stripe), -1, -1, 0, 0)
            return
        placed = [node for node in state.nodes if node != NO_NODE]
        sound = len(set(placed)) == len(placed) and all(
            node in self.volume.nodes for node in placed
        )
        self._scratch.add(
            "state",
            signed(stripe),
            state.live_bytes if 0 <= state.live_bytes <= MAX_FILE_BYTES else -1,
            state.born_bytes if 0 <= state.born_bytes <= MAX_FILE_BYTES else -1,
            len(state.nodes),
            int(sound or self._spared(placed)),
        )

    def _spared(self, placed: list[NodeNumber]) -> bool:
        """Whether every unknown node among them has a row that could not be read."""
        unknown = [node for node in placed if node not in self.volume.nodes]
        return len(set(placed)) == len(placed) and all(
            0 < node <= keys.MAX_NUMBER
            and self._scratch.one("SELECT 1 FROM node WHERE number=?", signed(node)) is not None
            for node in unknown
        )

    def _stripe(self, key: bytes, raw: bytes) -> None:
        stripe = self._number(key, raw)
        if stripe is None:
            return
        if self.stripes.take(StripeId(stripe), raw):
            self.volume.note_stripe(StripeId(stripe))


def _possible(record: ExtentRecord, offset: int) -> bool:
    return (
        0 < record.length <= MAX_BLOCK_BYTES
        and offset + record.length <= MAX_FILE_BYTES
        and 0 <= record.stripe <= keys.MAX_NUMBER
        and 0 <= record.block <= MAX_ID
        and 0 <= record.block_offset <= MAX_BLOCK_BYTES
    )
