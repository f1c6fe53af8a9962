"""What a mount may choose about the vfs, and who calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rainfs.model import MIB


class Caller(NamedTuple):
    """The process behind a request."""

    uid: int
    gid: int
    umask: int


@dataclass(frozen=True, slots=True)
class VfsOptions:
    """Bounds and habits of one mount."""

    dirty_bytes: int = 256 * MIB
    """Most bytes held that are not committed yet, those in flight included."""
    flush_age_s: float = 5.0
    """Dirty bytes older than this are written out though they fill no stripe."""
    deadline_s: float = 10.0
    """How long a request may wait without progress before it fails."""
    retry_s: float = 1.0
    """Pause before a failed flush is tried again."""
    window_stripes: int = 6
    """Stripes in flight in the background."""
    rows_bytes: int = 32 * MIB
    """Bound on the cache of stripe rows."""
    readahead_bytes: int = 16 * MIB
    """How far ahead of a sequential reader blocks are fetched."""
    reserve_bytes: int = 16 * MIB
    """Free space that write() leaves alone, so that no flush meets a full array."""
    inodes: int = 20_000
    """Clean inodes kept in memory."""
    noatime: bool = False
    read_only: bool = False
