"""rainfs itself: the demo as its user starts it, six nodes at 4+2 on loopback ports of its own.

With mount options, the demo's own mount is taken down and the same volume mounted with them.
"""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import PeerFailed, Running, lacking_commands
from bench.peers.processes import command, is_mounted, pids_naming, unmount, wait_until

NODES = 6
DATA = 4
PARITY = 2


@dataclass(frozen=True, slots=True)
class RainFS:
    options: str = ""
    keeps_bytes: bool = True

    @property
    def name(self) -> str:
        return f"rainfs {self.options}" if self.options else "rainfs"

    def lacking(self) -> str | None:
        return lacking_commands("fusermount3")

    def start(self, base: Path, stack: ExitStack) -> Running:
        mountpoint, state = base / "mnt", base / "demo"
        mountpoint.mkdir()
        rainfs: list[str | Path] = [sys.executable, "-m", "rainfs.cli.main"]
        geometry = ["--nodes", str(NODES), "--data", str(DATA), "--parity", str(PARITY)]
        demo = [*rainfs, "demo", "--dir", state, *geometry, mountpoint]
        stack.callback(self._stop, [*rainfs, "demo", "--stop", "--dir", state, mountpoint])
        stack.callback(unmount, mountpoint)
        command(demo)

        def remount() -> None:
            command([*rainfs, "umount", mountpoint])
            wait_until(lambda: not is_mounted(mountpoint), "the unmount")
            options = ["-o", self.options] if self.options else []
            command([*rainfs, "mount", f"sqlite://{state / 'rain.db'}", mountpoint, *options])
            wait_until(lambda: is_mounted(mountpoint), "the mount")

        if self.options:
            remount()
        wait_until(lambda: is_mounted(mountpoint), "the mount")
        return Running(mountpoint, remount, lambda: pids_naming(base))

    def _stop(self, stop: list[str | Path]) -> None:
        try:
            command(stop)
        except PeerFailed as failure:
            sys.stderr.write(f"  {failure}\n")
