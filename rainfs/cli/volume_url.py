"""From what a user types to the URL of a volume's metadata.

Owns the reading of /proc/self/mountinfo: a mount of ours has the type `fuse.rainfs` and its
metadata URL as its source, so wherever a command takes a META_URL it takes a mount point as well.

Nothing here touches a file system below a mount point: a mount that hangs must not hang us.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rainfs.errors import InputError, MountPointError
from rainfs.meta.open import SQLITE_PREFIX, sqlite_path

FILE_SYSTEM_TYPE = "fuse.rainfs"
MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    mountpoint: str
    kind: str
    source: str
    minor: int
    """Minor number of the anonymous device: the name of the connection in fusectl."""
    options: frozenset[str]

    @property
    def ours(self) -> bool:
        """Whether it is a rainfs mount."""
        return self.kind == FILE_SYSTEM_TYPE


def parse_mountinfo(content: bytes) -> list[Mount]:
    """Return the mounts, in order: of two on one mount point the later one is on top."""
    mounts = []
    for line in content.splitlines():
        left, _, right = line.partition(b" - ")
        before, after = left.split(b" "), right.split(b" ")
        if len(before) < 6 or len(after) < 2:
            continue
        mounts.append(
            Mount(
                mountpoint=_plain(before[4]),
                kind=_plain(after[0]),
                source=_plain(after[1]),
                minor=int(before[2].split(b":")[1]),
                options=frozenset(_plain(before[5]).split(",")),
            )
        )
    return mounts


def _plain(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field))


def mounts() -> list[Mount]:
    """Return all mounts that this process sees."""
    return parse_mountinfo(MOUNTINFO.read_bytes())


def absolute(path: str) -> str:
    """Return `path` absolute, links resolved, without asking the last component anything."""
    head, tail = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(head), tail) if tail else head


def mount_on(path: str) -> Mount | None:
    """Return the topmost mount on exactly `path`, of whatever type."""
    wanted = absolute(path)
    found = [mount for mount in mounts() if mount.mountpoint == wanted]
    if not found and not any(wanted.startswith(f"{m.mountpoint}/") for m in mounts() if m.ours):
        wanted = os.path.realpath(wanted)
        found = [mount for mount in mounts() if mount.mountpoint == wanted]
    return found[-1] if found else None


def rainfs_mount_on(path: str) -> Mount:
    """Return our mount on `path`.  Raises: MountPointError if there is none."""
    mount = mount_on(path)
    if mount is None or not mount.ours:
        raise MountPointError(f"{path}: no rainfs is mounted there")
    return mount


def mounts_of(url: str) -> list[Mount]:
    """Return our mounts of the volume whose metadata is at `url`."""
    return [mount for mount in mounts() if mount.ours and mount.source == url]


def meta_url(argument: str) -> str:
    """Return the normal form of a META_URL, or the one behind a MOUNTPOINT.

    Raises: InputError when it is neither.
    """
    if "://" in argument:
        return url_of(database_of(argument))
    mount = mount_on(argument)
    if mount is None or not mount.ours:
        raise InputError(f"{argument}: neither a metadata URL nor the mount point of a volume")
    return mount.source


def database_of(url: str) -> Path:
    """Return the path of the database behind a META_URL.  Raises: InputError."""
    path = sqlite_path(url)
    if path is None:
        raise InputError(f"bad metadata URL {url!r}: want sqlite:///absolute/path.db")
    return Path(absolute(str(path)))


def url_of(database: Path) -> str:
    """Return the normal form of the META_URL of a database."""
    return SQLITE_PREFIX + quote(str(database))


def lies_below(path: str, directory: str) -> bool:
    """Whether one absolute path is the other or lies below it; asks no file system."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
