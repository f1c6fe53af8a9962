"""mount(2), umount(2), and what /proc says of mounts.

Owns the system calls and the state of mount points.  Refuses to know what is mounted.

Invariant: a mount point is used only if it is an empty directory that is no mount of ours, after
one that a dead process left behind was taken away.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

from rainfs.errors import MountPointError

FS_TYPE = "fuse.rainfs"

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_NOATIME, MS_POSIXACL = 1 << 10, 1 << 16
MNT_DETACH = 2

READ_AHEAD_KIB = 4096
"""Read-ahead of the mount; requests still have 1 MiB at most."""

FUSERMOUNT_TIMEOUT_S = 30

ANSWER_TIMEOUT_S = 5.0
"""A mount that has not answered a statfs by then is stuck."""

_LIBC = ctypes.CDLL(None, use_errno=True)


class Mounted(NamedTuple):
    """A line of /proc/self/mountinfo."""

    device: str
    mountpoint: str
    fs_type: str
    source: str


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts() -> list[Mounted]:
    """Return everything that is mounted."""
    found: list[Mounted] = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(rest) > 1:
            found.append(Mounted(fields[2], _unescape(fields[4]), rest[0], _unescape(rest[1])))
    return found


def absolute(mountpoint: str) -> Path:
    """Return the path without a look at the file system, which may hang or be dead."""
    return Path(os.path.abspath(mountpoint))


def mount_of(mountpoint: Path) -> Mounted | None:
    """Return our mount at `mountpoint`, dead or alive; does not touch it."""
    path = os.path.abspath(mountpoint)
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for mounted in reversed(mounts()):
        if mounted.mountpoint in (path, real):
            return mounted if mounted.fs_type == FS_TYPE else None
    return None


def prepare(mountpoint: Path) -> None:
    """Make sure that `mountpoint` can be mounted on.  Raises: MountPointError."""
    if mount_of(mountpoint) is not None:
        if not is_dead(mountpoint):
            raise MountPointError(f"{mountpoint} is already mounted")
        unmount(mountpoint, lazy=True)
        prepare(mountpoint)
        return
    try:
        found = os.stat(mountpoint)
    except OSError as error:
        raise MountPointError(f"mount point {mountpoint}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise MountPointError(f"mount point {mountpoint} is not a directory")
    try:
        if any(os.scandir(mountpoint)):
            raise MountPointError(f"mount point {mountpoint} is not empty")
    except OSError as error:
        raise MountPointError(f"mount point {mountpoint}: {error.strerror}") from error


def is_dead(mountpoint: Path) -> bool:
    """Whether the process behind our mount is gone; one that is merely stuck is not dead.

    Attributes of the root may be cached by the kernel for an hour, so only statfs, which always
    asks the process, can tell.
    """
    dead = threading.Event()

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                dead.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_TIMEOUT_S)
    return dead.is_set()


def mount_fuse(mountpoint: Path, source: str, flags: int, *, allow_other: bool) -> int:
    """Mount as root; returns the open /dev/fuse.  Raises: MountPointError.

    MS_POSIXACL makes the kernel leave the umask to us, so that default ACLs can replace it.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    data += ",default_permissions" + (",allow_other" if allow_other else "")
    done = _LIBC.mount(
        source.encode(),
        os.fsencode(mountpoint),
        FS_TYPE.encode(),
        ctypes.c_ulong(flags | MS_POSIXACL),
        data.encode(),
    )
    if done != 0:
        reason = os.strerror(ctypes.get_errno())
        os.close(device)
        raise MountPointError(f"cannot mount on {mountpoint}: {reason}")
    return device


def fuse_channels() -> list[int]:
    """Return this process's descriptors on which the kernel sends requests."""
    found: list[int] = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry) == "/dev/fuse":
                found.append(int(entry.name))
    return found


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount.  Raises: MountPointError with what the system said, busy included."""
    if os.geteuid() == 0:
        path = os.fsencode(mountpoint)
        if _LIBC.umount2(path, MNT_DETACH if lazy else 0) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise MountPointError(f"cannot unmount {mountpoint}: {reason}")
        return
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FUSERMOUNT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MountPointError(f"cannot unmount {mountpoint}: {error}") from error
    if done.returncode != 0:
        raise MountPointError(f"cannot unmount {mountpoint}: {done.stderr.strip()}")


def raise_read_ahead(mountpoint: Path) -> bool:
    """Let the kernel read far ahead on the mount; False if we may not."""
    device = os.stat(mountpoint).st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        knob.write_text(str(READ_AHEAD_KIB))
    except OSError:
        return False
    return True
