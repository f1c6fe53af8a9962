"""The small tables of the volume itself: counters, sessions, requests, layouts, nodes.

Owns what makes their rows acceptable, and which epochs and numbers can be believed: a row whose
number was never given out, far beyond the counters, is damage and never moves a counter there.
"""

from __future__ import annotations

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.checking_findings import Edit, Finding, Findings, Kind, Repair
from rainfs.meta.checking_scratch import Scratch, signed
from rainfs.meta.records import (
    ANSWERS,
    COUNTERS,
    LAYOUTS,
    NODES,
    REQUESTS,
    SESSIONS,
    CareAnswer,
    CareRequest,
    Codec,
)
from rainfs.model import MAX_EPOCH, InodeNumber, Node, NodeNumber, StripeId, epoch_of

NUMBER_BYTES = 9
PAIR_BYTES = 17
"""Lengths of keys with one number and with two."""

MAX_BELIEVED_EPOCH = MAX_EPOCH >> 1
MAX_BELIEVED_NUMBER = (1 << 62) - 1
"""Numbers of inodes and nodes above it were given to nobody."""


class VolumeTables:
    """Takes the rows of these tables, and knows the counters afterwards."""

    def __init__(self, scratch: Scratch, findings: Findings) -> None:
        self._scratch = scratch
        self._findings = findings
        self._raw_counters: dict[bytes, bytes] = {}
        self._sessions: list[tuple[int, bytes, bytes]] = []
        self._misfiled: list[tuple[bytes, bytes, Node]] = []
        self._newest = dict.fromkeys((keys.NEXT_EPOCH, keys.NEXT_INODE, keys.NEXT_NODE), 0)
        self.counters: dict[bytes, int] = {}
        """The counters that can be read."""
        self.nodes: dict[NodeNumber, Node] = {}

    def drop(self, key: bytes, raw: bytes, what: str, kind: Kind = Kind.BAD_ROW) -> None:
        """Report a row that is best removed."""
        self._findings.add(Finding(kind, what, edits=(Edit(key, raw, None),)))

    def number(self, key: bytes, raw: bytes, length: int = NUMBER_BYTES) -> int | None:
        """Return the first number of a well-formed key; what is malformed is dropped."""
        if len(key) != length:
            self.drop(key, raw, f"a row with the malformed key {key[:24].hex()}")
            return None
        return keys.number_of(key)

    # --- Rows -------------------------------------------------------------------------------

    def single(self, key: bytes, raw: bytes) -> None:
        """Take the format or the volume, which were read before; a longer key is nobody's."""
        if key not in (keys.FORMAT, keys.VOLUME):
            self.drop(key, raw, f"a row with the malformed key {key[:24].hex()}")

    def counter(self, key: bytes, raw: bytes) -> None:
        """Take a counter."""
        if key not in self._newest:
            self.drop(key, raw, f"an unknown counter {key!r}")
            return
        self._raw_counters[key] = raw
        try:
            value = COUNTERS.decode(raw)
        except MetadataForeign:
            return
        if value >= 1:
            self.counters[key] = value

    def session(self, key: bytes, raw: bytes) -> None:
        """Take a session's row."""
        epoch = self.number(key, raw)
        if epoch is None:
            return
        try:
            SESSIONS.decode(raw)
        except MetadataForeign as error:
            self.drop(key, raw, f"session {epoch}: {error}")
            return
        self._sessions.append((epoch, key, raw))

    def request(self, key: bytes, raw: bytes) -> None:
        """Take a request to a session, or its answer."""
        epoch = self.number(key, raw, PAIR_BYTES)
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
            self.drop(key, raw, f"a request to session {epoch}: {error}")

    def layout(self, key: bytes, raw: bytes) -> None:
        """Take a layout."""
        number = self.number(key, raw)
        if number is None:
            return
        try:
            layout = LAYOUTS.decode(raw)
        except MetadataForeign as error:
            self.drop(key, raw, f"layout {number}: {error}", Kind.LAYOUT)
            return
        if layout.id != number:
            self.drop(key, raw, f"layout {number} says to be layout {layout.id}", Kind.LAYOUT)
            return
        self._scratch.add("layout", signed(number))

    def node(self, key: bytes, raw: bytes) -> None:
        """Take a node's row."""
        number = self.number(key, raw)
        if number is None:
            return
        if not 1 <= number <= MAX_BELIEVED_NUMBER:
            try:
                self._misfiled.append((key, raw, NODES.decode(raw)))
            except MetadataForeign as error:
                self.drop(key, raw, f"node {number}: {error}")
            return
        try:
            node = NODES.decode(raw)
        except MetadataForeign as error:
            # Its shards are still there: with a row from a backup they count again.
            what = f"node {number}: {error}; restore this row from a backup of the database"
            self._findings.add(Finding(Kind.NODE_ROW, what, repair=Repair.NONE))
        else:
            if node.number != number:
                self._misfiled.append((key, raw, node))
                return
            self.nodes[node.number] = node
        self._note(keys.NEXT_NODE, number)
        self._scratch.add("node", signed(number))

    # --- Numbers in use ---------------------------------------------------------------------

    def note_inode(self, inode: InodeNumber) -> None:
        """An inode with that number exists."""
        self._note(keys.NEXT_INODE, inode)

    def believes_inode(self, inode: int) -> bool:
        """Whether an inode of that number may exist, if its row says nothing else."""
        return 1 <= inode <= MAX_BELIEVED_NUMBER

    def gave_out_inode(self, inode: int) -> bool:
        """Whether the counter says that the number was given out, or at least reserved."""
        return 1 <= inode < self.counters.get(keys.NEXT_INODE, MAX_BELIEVED_NUMBER)

    def note_stripe(self, stripe: StripeId) -> None:
        """A stripe with that id exists."""
        if self.believes_stripe(stripe):
            self._note(keys.NEXT_EPOCH, epoch_of(stripe))

    def believes_stripe(self, stripe: StripeId) -> bool:
        """Whether the session of that stripe may have been."""
        return epoch_of(stripe) <= self._last_epoch()

    @property
    def inode_stop(self) -> InodeNumber:
        """Every inode number in use is below it."""
        counter = self.counters.get(keys.NEXT_INODE, 0)
        known = counter if counter <= MAX_BELIEVED_NUMBER else 0
        return InodeNumber(max(known, self._newest[keys.NEXT_INODE] + 1))

    @property
    def newest_epoch(self) -> int:
        """The last session that had begun; 0 if that is not known."""
        return self.counters.get(keys.NEXT_EPOCH, 1) - 1

    def _last_epoch(self) -> int:
        counter = self.counters.get(keys.NEXT_EPOCH, 0)
        return max(MAX_BELIEVED_EPOCH, counter - 1 if counter <= MAX_EPOCH + 1 else 0)

    def _note(self, counter: bytes, number: int) -> None:
        self._newest[counter] = max(self._newest[counter], number)

    def finish(self) -> None:
        """Report what can be told after all rows: sessions, nodes, counters."""
        for epoch, key, raw in self._sessions:
            if epoch > self._last_epoch():
                self.drop(key, raw, f"session {epoch} can never have been")
            else:
                self._note(keys.NEXT_EPOCH, epoch)
        if self._misfiled:
            self._file_again()
        names = {keys.NEXT_EPOCH: "session", keys.NEXT_INODE: "inode", keys.NEXT_NODE: "node"}
        for key, name in names.items():
            least = self._newest[key] + 1
            most = MAX_EPOCH + 1 if key == keys.NEXT_EPOCH else MAX_BELIEVED_NUMBER
            value = self.counters.get(key)
            if value is not None and least <= value <= most:
                continue
            what = f"the next {name} number is {'unknown' if value is None else value}"
            what += f", should be at least {least}"
            edit = Edit(key, self._raw_counters.get(key), COUNTERS.encode(least))
            self._findings.add(Finding(Kind.COUNTER, what, edits=(edit,)))

    def _file_again(self) -> None:
        """Put rows of nodes where they say to belong, all at once: they may have changed places."""
        old = {key: raw for key, raw, _ in self._misfiled}
        new: dict[bytes, bytes] = {}
        for _, raw, node in self._misfiled:
            if node.number not in self.nodes and 1 <= node.number <= MAX_BELIEVED_NUMBER:
                new.setdefault(keys.node_key(node.number), raw)
        what = "rows of nodes stand at " + ", ".join(str(keys.number_of(key)) for key in old)
        edits = tuple(Edit(key, old.get(key), new.get(key)) for key in {**old, **new})
        self._findings.add(Finding(Kind.BAD_ROW, what, edits=edits))
