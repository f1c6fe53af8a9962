"""A look at a `file://` store that another process, such as the mount itself, has open.

Owns the estimate: identity and capacity are read from the superblock, the used bytes are what the
storage file takes on its disk.  The number of shards is known only to the process that has the
store open, so it is given as 0.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rainfs.model import PAGE_BYTES, NodeHealth
from rainfs.store import superblock
from rainfs.store.opening import STORAGE_NAME

STAT_BLOCK_BYTES = 512


def directory_of(url: str) -> Path | None:
    """Return the directory behind a `file://` URL, None for any other."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def peek(directory: Path) -> NodeHealth:
    """Describe the store without opening it.  Raises: StoreDamaged, OSError."""
    path = directory / STORAGE_NAME
    with path.open("rb") as file:
        block = superblock.decode(file.read(superblock.COPIES * PAGE_BYTES))
        taken = os.fstat(file.fileno()).st_blocks * STAT_BLOCK_BYTES
    used = min(block.capacity_bytes, max(0, taken - block.data_offset))
    disk = os.statvfs(directory)
    return NodeHealth(
        uuid=block.node,
        volume=block.volume_id,
        name=block.name,
        capacity_bytes=block.capacity_bytes,
        used_bytes=used,
        free_bytes=max(0, min(block.capacity_bytes - used, disk.f_bavail * disk.f_frsize)),
        shards=0,
        labels=dict(block.labels),
    )
