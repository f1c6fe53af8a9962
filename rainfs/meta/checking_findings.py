"""What a check of the volume can find, as values.

Owns the kinds of findings, and the repair that goes with each: edits of rows, worked out by the
check and carried out by `checking_repair` (decide, then act).  Refuses to know how anything is
found.  Invariants: at most MAX_KEPT findings are held, the rest is counted; an edit names the value
that it replaces, so that it never touches a row which is not what the check saw.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rainfs.model import InodeNumber, StripeId

MAX_KEPT = 50_000
"""Findings held in memory; a repair goes round until none is left, however many there were."""

MAX_EDITS = 1_000
"""Rows that the edits of one finding touch."""


class Kind(enum.StrEnum):
    """What is wrong."""

    BAD_ROW = "bad-row"
    """A key outside the grammar, or a value that does not decode or makes no sense."""
    COUNTER = "counter"
    """A counter that would give out a number again."""
    LAYOUT = "layout"
    """A file's layout is not recorded."""
    NODE_ROW = "node-row"
    """A row of the node table that cannot be read."""
    DANGLING_ENTRY = "dangling-entry"
    """A name of nothing, or a name in what is no directory."""
    BAD_NAME = "bad-name"
    """A name that no directory can hold, that lookups do not find, or that is there twice."""
    ENTRY_TYPE = "entry-type"
    """A name that says another file type than its inode."""
    TWO_PARENTS = "two-parents"
    """A directory with more than one name, or a name of the root."""
    CIRCLE = "circle"
    """A directory that lies below itself."""
    UNREACHABLE = "unreachable"
    """An inode that has no name and is not known to be removed."""
    LOST_INODE = "lost-inode"
    """Rows of an inode whose own row is gone or unreadable."""
    BAD_INODE = "bad-inode"
    """An inode with impossible attributes."""
    PARENT = "parent"
    """A directory whose `..` is not where its name is."""
    LINK_COUNT = "link-count"
    ORPHAN = "orphan"
    """The list of removed files disagrees with the inodes."""
    XATTR = "xattr"
    """An extended attribute of nothing, or hidden by its inode's mark."""
    EXTENT = "extent"
    """An extent that overlaps, reaches too far, or points into the wrong block."""
    ALLOCATED = "allocated"
    """A file's allocation is not the sum of its extents."""
    STRIPE_ROWS = "stripe-rows"
    """A stripe with one of its two rows, or with bytes that nothing references."""
    TOMBSTONE = "tombstone"
    """A stripe that is referenced and about to be deleted."""
    LIVE_BYTES = "live-bytes"
    PLACEMENT = "placement"
    """A stripe's shards are recorded on impossible nodes, or nowhere."""
    STRIPE_LOST = "stripe-lost"
    """File bytes that lie in a stripe which cannot be read any more."""
    UNREADABLE = "unreadable"
    """File bytes that cannot be read until nodes return."""
    SHARDS = "shards"
    """Shards that are missing on their nodes or are not what they should be."""


LOST_KINDS = frozenset({Kind.STRIPE_LOST, Kind.UNREADABLE, Kind.NODE_ROW})
"""What no repair here can bring back."""


class Edit(NamedTuple):
    """A row as it is and as it should be; None stands for no row."""

    key: bytes
    old: bytes | None
    new: bytes | None


class Repair(enum.Enum):
    """How a finding is repaired."""

    NONE = "none"
    """Not at all."""
    EDITS = "edits"
    """By its edits; with none, along with another finding of the same row."""
    REATTACH = "reattach"
    """By its edits, then by a name in /lost+found."""
    MEND = "mend"
    """By putting shards on nodes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    what: str
    """One line for a person."""
    inode: InodeNumber | None = None
    stripe: StripeId | None = None
    repair: Repair = Repair.EDITS
    edits: tuple[Edit, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether it stands for data or rows that cannot be brought back here."""
        return self.kind in LOST_KINDS


@dataclass(slots=True)
class Findings:
    """All that one check found."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Take one in."""
        self.counts[finding.kind] += 1
        if len(self.kept) < MAX_KEPT:
            self.kept.append(finding)

    @property
    def total(self) -> int:
        """How many there were."""
        return self.counts.total()

    @property
    def lost(self) -> int:
        """How many of them no repair can undo."""
        return sum(self.counts[kind] for kind in LOST_KINDS)
