"""From a directory to an open, locked, identified storage file.

Owns the names in a store's directory, the creation order and the exclusive lock.  Refuses to know
shards.

Invariants: `.rainfs-store` appears by a rename after it, its journal and its index are complete
and durable, so a store either exists whole or not at all.  The lock is taken on the storage file
itself before anything is read, and dies with the process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rainfs.errors import (
    InputError,
    NodeFailing,
    NodeFull,
    RainError,
    StoreDamaged,
    StoreInUse,
    StoreTooSmall,
)
from rainfs.memory import page_buffer
from rainfs.model import KIB, PAGE_BYTES, NodeUuid
from rainfs.store import superblock
from rainfs.store.disk import Disk
from rainfs.store.index import Index
from rainfs.store.journal import MIN_JOURNAL_BYTES
from rainfs.store.superblock import Superblock

STORAGE_NAME = ".rainfs-store"
NEW_STORAGE_NAME = ".rainfs-store.new"
INDEX_NAME = "index.db"
NEW_INDEX_NAME = "index.db.new"
INDEX_SUFFIXES = ("", "-wal", "-journal", "-shm")

JOURNAL_OFFSET = 64 * KIB
MIN_CAPACITY_BYTES = 64 * KIB
ZEROS_BYTES = 256 * KIB


@dataclass(slots=True)
class Opened:
    """An open store: its handles, what it is, and its index."""

    directory: Path
    fd: int
    direct: int | None
    block: Superblock
    index: Index
    lap: int
    created: bool


def open_files(
    directory: Path,
    *,
    capacity_bytes: int | None,
    name: str | None,
    labels: Mapping[str, str] | None,
    disk: Disk,
    journal_bytes: int,
) -> Opened:
    """Open the store in `directory`, creating it on first use.

    Raises: InputError, StoreInUse, StoreDamaged, StoreTooSmall, NodeFull, NodeFailing.
    """
    if capacity_bytes is not None and capacity_bytes < MIN_CAPACITY_BYTES:
        raise StoreTooSmall(
            f"a capacity of {capacity_bytes} bytes: at least {MIN_CAPACITY_BYTES} are needed"
        )
    path = directory / STORAGE_NAME
    try:
        if not disk.exists(path):
            if capacity_bytes is None:
                raise InputError(f"{directory}: no store there yet, so a capacity is needed")
            disk.make_directory(directory)
            return _create(
                directory,
                Superblock(
                    uuid=os.urandom(superblock.UUID_BYTES),
                    volume=b"",
                    capacity_bytes=capacity_bytes,
                    journal_offset=JOURNAL_OFFSET,
                    journal_bytes=max(journal_bytes, MIN_JOURNAL_BYTES),
                    data_offset=JOURNAL_OFFSET + max(journal_bytes, MIN_JOURNAL_BYTES),
                    name=name if name is not None else directory.name,
                    labels=dict(labels or {}),
                ),
                disk,
            )
        return _open(directory, disk)
    except OSError as error:
        raise _translated(error, directory) from error


def write_superblock(disk: Disk, fd: int, block: Superblock) -> Superblock:
    """Make a new generation of the superblock durable and return it.  Raises: OSError."""
    new = msgspec.structs.replace(block, generation=block.generation + 1)
    page = superblock.encode(new)
    disk.pwrite(fd, [page], superblock.copy_for(new.generation) * PAGE_BYTES)
    disk.fdatasync(fd)
    return new


def _open(directory: Path, disk: Disk) -> Opened:
    with ExitStack() as undo:
        fd = disk.open(directory / STORAGE_NAME)
        undo.callback(disk.close, fd)
        if not disk.lock(fd):
            raise StoreInUse(f"{directory}: another process has this store open")
        pages = page_buffer(superblock.COPIES * PAGE_BYTES)
        disk.pread(fd, pages, 0)
        try:
            block = superblock.decode(bytes(pages))
            if disk.size(fd) < block.data_offset:
                raise StoreDamaged("the storage file is shorter than its own journal")
            if not disk.exists(directory / INDEX_NAME):
                raise StoreDamaged("the index is missing")
            index = Index.open(directory / INDEX_NAME, vfs=disk.vfs)
            undo.callback(index.close)
            owner, lap = index.identity()
            if owner != block.uuid:
                raise StoreDamaged("the index belongs to another storage file")
        except StoreDamaged as error:
            raise StoreDamaged(f"{directory}: {error}") from error
        direct = _open_direct(disk, directory / STORAGE_NAME)
        undo.pop_all()
    return Opened(directory, fd, direct, block, index, lap, created=False)


def _create(directory: Path, block: Superblock, disk: Disk) -> Opened:
    new = directory / NEW_STORAGE_NAME
    with ExitStack() as undo:
        fd = disk.open(new, create=True)
        undo.callback(disk.close, fd)
        if not disk.lock(fd) or disk.exists(directory / STORAGE_NAME):
            raise StoreInUse(f"{directory}: another process is creating this store")
        disk.truncate(fd, 0)
        # The journal is written once here, so that appending to it later allocates nothing.
        zeros = page_buffer(ZEROS_BYTES)
        for at in range(0, block.data_offset, ZEROS_BYTES):
            disk.pwrite(fd, [zeros[: min(ZEROS_BYTES, block.data_offset - at)]], at)
        block = write_superblock(disk, fd, block)
        _make_index(directory, NodeUuid(block.uuid), disk)
        disk.rename(new, directory / STORAGE_NAME)
        disk.sync_directory(directory)
        index = Index.open(directory / INDEX_NAME, vfs=disk.vfs)
        undo.callback(index.close)
        direct = _open_direct(disk, directory / STORAGE_NAME)
        undo.pop_all()
    return Opened(directory, fd, direct, block, index, 0, created=True)


def _make_index(directory: Path, uuid: NodeUuid, disk: Disk) -> None:
    """Make an empty index under its own name, durably; it is complete when the name appears."""
    path = directory / INDEX_NAME
    if disk.exists(path):
        # A crash during an earlier creation left it, unless somebody took the storage file away.
        index = Index.open(path, vfs=disk.vfs)
        empty = not index.page(None, 1)
        index.close()
        if not empty:
            raise StoreDamaged(f"{directory}: there is an index, but its storage file is missing")
    new = directory / NEW_INDEX_NAME
    for stale in (path, new):
        for suffix in INDEX_SUFFIXES:
            disk.unlink(stale.with_name(stale.name + suffix))
    # Made beforehand for its mode, which SQLite copies to its companions.
    disk.close(disk.open(new, create=True))
    Index.create(new, uuid, vfs=disk.vfs).close()
    fd = disk.open(new)
    try:
        disk.fdatasync(fd)
    finally:
        disk.close(fd)
    disk.rename(new, path)
    disk.sync_directory(directory)


def _translated(error: OSError, directory: Path) -> RainError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NodeFull(f"{directory}: {error.strerror}")
    if error.errno == errno.EIO:
        return NodeFailing(f"{directory}: {error.strerror}")
    return InputError(f"cannot use {directory} as a store: {error.strerror}")


def _open_direct(disk: Disk, path: Path) -> int | None:
    try:
        return disk.open(path, direct=True)
    except OSError:
        # tmpfs of older kernels and some network file systems have no O_DIRECT.
        return None


def close_files(opened: Opened, disk: Disk) -> None:
    """Let go of a store's files, the lock last."""
    opened.index.close()
    if opened.direct is not None:
        disk.close(opened.direct)
    disk.close(opened.fd)
