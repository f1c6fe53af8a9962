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
from rainfs.meta.checking_findings import Edit, Finding, Findings, Kind, Repair
from rainfs.meta.checking_scratch import Scratch, signed
from rainfs.meta.directory import FIRST_SLOT, PROBE_SLOTS, HashName, check_name
from rainfs.meta.namespace import MAX_TARGET_BYTES
from rainfs.meta.records import (
    ANSWERS,
    ATTRS,
    COUNTERS,
    DIRENTS,
    EXTENTS,
    LAYOUTS,
    NODES,
    PLACEMENTS,
    REQUESTS,
    SESSIONS,
    STATES,
    CareAnswer,
    CareRequest,
    Codec,
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
    Node,
    NodeNumber,
    StripeId,
    epoch_of,
)

KINDS = frozenset(
    {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    }
)
MAX_ID = (1 << 32) - 1
"""Highest user and group."""

MAX_TIME_NS = (1 << 63) - 1
MAX_NLINK = (1 << 32) - 1
MAX_MODE = (1 << 16) - 1
_NUMBER_BYTES = 9
_PAIR_BYTES = 17


def inode_faults(attr: Attr, inode: InodeNumber) -> list[str]:
    """Return what is impossible in the attributes themselves."""
    kind = stat.S_IFMT(attr.mode) if 0 <= attr.mode <= MAX_MODE else 0
    faults = []
    if attr.inode != inode:
        faults.append(f"it says to be inode {attr.inode}")
    if kind not in KINDS:
        faults.append(f"mode {attr.mode:#o} is of no file type")
    if not (0 <= attr.uid <= MAX_ID and 0 <= attr.gid <= MAX_ID):
        faults.append(f"owner {attr.uid}:{attr.gid}")
    if not 0 <= attr.nlink <= MAX_NLINK:
        faults.append(f"link count {attr.nlink}")
    if not 0 <= attr.size <= MAX_FILE_BYTES:
        faults.append(f"size {attr.size}")
    if not 0 <= attr.rdev <= keys.MAX_NUMBER:
        faults.append(f"device {attr.rdev}")
    times = (attr.atime_ns, attr.mtime_ns, attr.ctime_ns)
    if not all(-MAX_TIME_NS <= time_ns <= MAX_TIME_NS for time_ns in times):
        faults.append("times beyond 64 bits")
    if kind == stat.S_IFLNK:
        if not attr.target or len(attr.target) > MAX_TARGET_BYTES or b"\0" in attr.target:
            faults.append("a symbolic link without a possible target")
        elif attr.size != len(attr.target):
            faults.append(f"a target of {len(attr.target)} bytes and size {attr.size}")
    elif attr.target:
        faults.append("a target, and it is no symbolic link")
    if attr.parent and kind != stat.S_IFDIR:
        faults.append("a parent, and it is no directory")
    return faults


def dead_link(attr: Attr) -> bool:
    """Whether it is a symbolic link that points nowhere at all: nothing of it is left."""
    target = attr.target
    kind = stat.S_IFMT(attr.mode) if 0 <= attr.mode <= MAX_MODE else 0
    bad = not target or len(target) > MAX_TARGET_BYTES or b"\0" in target
    return kind == stat.S_IFLNK and bad


class RowPass:
    """Takes every row once, in key order."""

    def __init__(self, scratch: Scratch, findings: Findings, hash_name: HashName) -> None:
        self._scratch = scratch
        self._findings = findings
        self._hash_name = hash_name
        self.tables: dict[bytes, Callable[[bytes, bytes], None]] = {
            b"A": self._session,
            b"C": self._counter,
            b"D": self._entry,
            b"E": self._extent,
            b"F": self._single,
            b"G": self._request,
            b"I": self._inode,
            b"L": self._layout,
            b"N": self._node,
            b"O": self._orphan,
            b"P": self._state,
            b"S": self._stripe,
            b"T": self._tombstone,
            b"V": self._single,
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
        self.counters: dict[bytes, int] = {}
        self.raw_counters: dict[bytes, bytes] = {}
        self.nodes: dict[NodeNumber, Node] = {}
        self.newest_epoch = 0
        self.newest_inode = 0
        self.newest_node = 0
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

    def _drop(self, key: bytes, raw: bytes, what: str, kind: Kind = Kind.BAD_ROW) -> None:
        self._findings.add(Finding(kind, what, edits=(Edit(key, raw, None),)))

    def _number(self, key: bytes, raw: bytes, length: int = _NUMBER_BYTES) -> int | None:
        """Return the first number of a well-formed key; what is malformed is dropped."""
        if len(key) != length:
            self._drop(key, raw, f"a row with the malformed key {key[:24].hex()}")
            return None
        return keys.number_of(key)

    # --- Small tables -----------------------------------------------------------------------

    def _single(self, key: bytes, raw: bytes) -> None:
        # Format and volume were read before; a longer key is nobody's.
        if key not in (keys.FORMAT, keys.VOLUME):
            self._drop(key, raw, f"a row with the malformed key {key[:24].hex()}")

    def _counter(self, key: bytes, raw: bytes) -> None:
        if key not in (keys.NEXT_EPOCH, keys.NEXT_INODE, keys.NEXT_NODE):
            self._drop(key, raw, f"an unknown counter {key!r}")
            return
        self.raw_counters[key] = raw
        try:
            value = COUNTERS.decode(raw)
        except MetadataForeign:
            return
        if value >= 1:
            self.counters[key] = value

    def _session(self, key: bytes, raw: bytes) -> None:
        epoch = self._number(key, raw)
        if epoch is None:
            return
        try:
            SESSIONS.decode(raw)
        except MetadataForeign as error:
            self._drop(key, raw, f"session {epoch}: {error}")
            return
        self.newest_epoch = max(self.newest_epoch, epoch)

    def _request(self, key: bytes, raw: bytes) -> None:
        epoch = self._number(key, raw, _PAIR_BYTES)
        if epoch is None:
            return
        codecs: dict[bytes, Codec[CareRequest] | Codec[CareAnswer]] = {
            keys.request_key(epoch): REQUESTS,
            keys.answer_key(epoch): ANSWERS,
        }
        try:
            if key not in codecs:
                raise MetadataForeign("neither a request nor an answer")
            codecs[key].decode(raw)
        except MetadataForeign as error:
            self._drop(key, raw, f"a request to session {epoch}: {error}")

    def _layout(self, key: bytes, raw: bytes) -> None:
        number = self._number(key, raw)
        if number is None:
            return
        try:
            layout = LAYOUTS.decode(raw)
        except MetadataForeign as error:
            self._drop(key, raw, f"layout {number}: {error}", Kind.LAYOUT)
            return
        if layout.id != number:
            self._drop(key, raw, f"layout {number} says to be layout {layout.id}", Kind.LAYOUT)
            return
        self._scratch.add("layout", signed(number))

    def _node(self, key: bytes, raw: bytes) -> None:
        number = self._number(key, raw)
        if number is None:
            return
        self.newest_node = max(self.newest_node, number)
        try:
            node = NODES.decode(raw)
            if node.number != number:
                raise MetadataForeign(f"it says to be node {node.number}")
        except MetadataForeign as error:
            # Its shards are still there: with a row from a backup they count again.
            what = f"node {number}: {error}; restore this row from a backup of the database"
            self._findings.add(Finding(Kind.NODE_ROW, what, repair=Repair.NONE))
            self._scratch.add("node", signed(number))
            return
        self.nodes[node.number] = node
        self._scratch.add("node", signed(number))

    def _orphan(self, key: bytes, raw: bytes) -> None:
        epoch = self._number(key, raw, _PAIR_BYTES)
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
        self._scratch.add("tomb", signed(stripe))
        self.newest_epoch = max(self.newest_epoch, epoch_of(StripeId(stripe)))

    # --- Names ------------------------------------------------------------------------------

    def _entry(self, key: bytes, raw: bytes) -> None:
        parent = self._number(key, raw, _PAIR_BYTES)
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
        self.newest_inode = max(self.newest_inode, number)
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

    def _xattr(self, key: bytes, raw: bytes) -> None:
        name = keys.name_of(key)
        if len(key) <= _NUMBER_BYTES or len(name) > MAX_NAME_BYTES or b"\0" in name:
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
        number = self._number(key, raw, _PAIR_BYTES)
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
        sound = len(set(placed)) == len(placed) and all(node in self.nodes for node in placed)
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
        unknown = [node for node in placed if node not in self.nodes]
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
            self.newest_epoch = max(self.newest_epoch, epoch_of(StripeId(stripe)))


def _possible(record: ExtentRecord, offset: int) -> bool:
    return (
        0 < record.length <= MAX_BLOCK_BYTES
        and offset + record.length <= MAX_FILE_BYTES
        and 0 <= record.stripe <= keys.MAX_NUMBER
        and 0 <= record.block <= MAX_ID
        and 0 <= record.block_offset <= MAX_BLOCK_BYTES
    )
