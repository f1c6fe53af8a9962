"""The two ends of the scale: the raw disk below, and the null file system, pyfuse3's ceiling."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import PeerFailed, Running, lacking_commands
from bench.peers.processes import daemon, is_mounted, pids_naming, unmount, wait_until


@dataclass(frozen=True, slots=True)
class Disk:
    """The directory itself, on whatever local file system it lies."""

    name: str = "local disk"
    keeps_bytes: bool = True

    def lacking(self) -> str | None:
        return None

    def start(self, base: Path, stack: ExitStack) -> Running:
        return Running(base)


@dataclass(frozen=True, slots=True)
class Null:
    """A pyfuse3 file system that keeps names and sizes in memory and no bytes."""

    options: tuple[str, ...] = ()
    name: str = "null pyfuse3"
    keeps_bytes: bool = False

    def lacking(self) -> str | None:
        return lacking_commands("fusermount3")

    def start(self, base: Path, stack: ExitStack) -> Running:
        mountpoint = base / "mnt"
        mountpoint.mkdir()
        arguments: list[str | Path] = [sys.executable, "-m", "bench.null_fs"]
        arguments += [*self.options, mountpoint]
        process = daemon(stack, arguments, base / "null.log")
        stack.callback(unmount, mountpoint)
        wait_until(lambda: is_mounted(mountpoint) or process.poll() is not None, "the mount")
        if process.poll() is not None:
            raise PeerFailed((base / "null.log").read_text()[-200:])
        return Running(mountpoint, pids=lambda: pids_naming(base))
