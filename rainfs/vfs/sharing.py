"""What background work has to know of the mount whose array it shares.

Owns nothing: it shows how many requests were served, lends room through `room`, so that what
compaction writes never takes the place of bytes that write() has promised to keep, and passes on
whose extents were moved.
"""

from __future__ import annotations

from rainfs.meta.extents import Extents
from rainfs.model import InodeNumber
from rainfs.vfs.files import Files
from rainfs.vfs.room import Room


class Sharing:
    """The mount as background work sees it; satisfies `rainfs.care.pace.Clients`."""

    def __init__(self, files: Files, room: Room, extents: Extents) -> None:
        self._files = files
        self._room = room
        self._extents = extents

    def served(self) -> int:
        """Return how many reads and writes were asked for so far."""
        return self._files.served

    def short(self) -> bool:
        """Whether room is short."""
        return self._room.short

    def claim(self, nbytes: int) -> bool:
        """Set room for `nbytes` aside; False if there is none beside what was promised."""
        return self._room.claim(nbytes)

    def release(self, nbytes: int) -> None:
        """End a claim."""
        self._room.release(nbytes)

    def moved(self, inode: InodeNumber) -> None:
        """Forget where a file's bytes were."""
        self._extents.forget(inode)
