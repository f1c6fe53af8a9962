"""The life of a mount: mount, answer requests, unmount, flush.

Owns signals and the pyfuse3 session.  Refuses to build the file system: it is handed a `VFS`.

Invariants:
- When `serve_mount` returns, the mount is gone from the tree and everything is durable.
- System calls that go through the mount itself run in threads: the event loop answers them.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from rainfs.errors import MountPointError
from rainfs.mount.adapter import MAX_WORKERS, Adapter
from rainfs.mount.filling import Filling
from rainfs.mount.handshake import Handshake
from rainfs.mount.mountpoint import (
    FS_TYPE,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    absolute,
    fuse_channels,
    mount_fuse,
    mount_of,
    prepare,
    raise_read_ahead,
    unmount,
)
from rainfs.mount.options import MountOptions
from rainfs.mount.reading import Reading
from rainfs.vfs.vfs import VFS

log = logging.getLogger(__name__)

_SET = {"nodev": MS_NODEV, "nosuid": MS_NOSUID, "noexec": MS_NOEXEC}
_CLEAR = {"dev": MS_NODEV, "suid": MS_NOSUID, "exec": MS_NOEXEC}


def _flags(options: MountOptions) -> int:
    flags = 0 if os.geteuid() == 0 else MS_NODEV | MS_NOSUID
    for name in options.kernel_flags:
        flags = flags | _SET[name] if name in _SET else flags & ~_CLEAR[name]
    if options.read_only:
        flags |= MS_RDONLY
    if options.noatime:
        flags |= MS_NOATIME
    return flags


def _user_options(options: MountOptions, source: str) -> set[str]:
    """Options for fusermount3, which parses them itself."""
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    chosen = {"default_permissions", f"fsname={escaped}", f"subtype={FS_TYPE.split('.')[1]}"}
    chosen |= set(options.kernel_flags)
    if options.allow_other:
        chosen.add("allow_other")
    if options.read_only:
        chosen.add("ro")
    if options.noatime:
        chosen.add("noatime")
    return chosen


async def serve_mount(
    vfs: VFS,
    mountpoint: str,
    options: MountOptions,
    *,
    source: str,
    ready: Callable[[], None],
    yield_to: Callable[[int], None],
) -> None:
    """Mount `vfs`, which has been started, and serve it until it is unmounted or we are told to go.

    `ready` is called once the mount answers; `yield_to` hears of the descriptor that becomes
    readable with the kernel's next request.  SIGTERM and SIGINT unmount, lazily if it is busy.

    Raises: MountPointError; what `VFS.close` raises when bytes could not be flushed.
    """
    path = absolute(mountpoint)
    await trio.to_thread.run_sync(prepare, path)
    reading = Reading()
    reading.install()
    adapter = Adapter(
        vfs, writeback=options.writeback, noxattr=options.noxattr, waits=reading.hand_over
    )
    if os.geteuid() == 0:
        device = mount_fuse(path, source, _flags(options), allow_other=options.allow_other)
        reading.lowlevel.handshake = Handshake(device, alone=not options.read_only)
        pyfuse3.init(adapter, f"/dev/fd/{device}", {"default_permissions"})
    else:
        try:
            pyfuse3.init(adapter, str(path), _user_options(options, source))
        except RuntimeError as error:
            raise MountPointError(f"cannot mount on {path}: {error}") from error
    for channel in fuse_channels():
        yield_to(channel)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, path, ready)
            nursery.start_soon(_unmount_on_signal, path)
            if os.geteuid() == 0:
                filling = Filling(path, nursery)
                adapter.filling = filling
                vfs.ahead.populate = filling.order
            await pyfuse3.main(max_tasks=MAX_WORKERS)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await _detach(path)
            # Nobody answers any more: who still waits, on a mount that was busy, hears so now.
            pyfuse3.close(unmount=False)
            if adapter.filling is not None:
                vfs.ahead.populate = None
                adapter.filling.close()
            await vfs.close()


async def _announce(path: Path, ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(os.statvfs, path, abandon_on_cancel=True)
    if not await trio.to_thread.run_sync(raise_read_ahead, path, abandon_on_cancel=True):
        log.info("read-ahead of %s stays as it is: no right to raise it", path)
    ready()


async def _unmount_on_signal(path: Path) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("unmounting %s on %s", path, signal.Signals(number).name)
            await _detach(path)
            pyfuse3.terminate()
            return


async def _detach(path: Path) -> None:
    """Take the mount out of the tree if it is there, lazily if it is busy."""
    for lazy in (False, True):
        if mount_of(path) is None:
            return
        try:
            await trio.to_thread.run_sync(partial(unmount, path, lazy=lazy))
            return
        except MountPointError as error:
            log.info("%s", error)
